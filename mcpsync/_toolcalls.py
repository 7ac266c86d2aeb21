"""Listing and calling tools: header parameters, hooks, and the check of results."""

from __future__ import annotations

import logging
from typing import Any, Callable, Mapping, Optional, Union

from ._calls import Call
from ._connection import Established
from ._deadline import Deadline
from ._listings import KnownTools, usable_tools
from ._paging import Pager, Run, Seconds
from ._requests import OnProgress, Plan
from ._text import clean
from ._verbs import check_callable
from .exceptions import InvalidStructuredContent, SchemaRefused
from .hooks import Hooks, ToolCallBegin, ToolCallEnd
from .transports.base import Limits
from .types import CallToolResult, ListToolsResult, Tool

__all__ = ["ToolCalls"]

JSON = Any
RunCall = Callable[[Plan, Union[Seconds, Deadline], Optional[Call]], Mapping[str, JSON]]

_log = logging.getLogger("mcpsync")


class ToolPager(Pager[Tool, ListToolsResult]):
    """The listing of tools, which remembers what calls need."""

    def __init__(
        self,
        known: KnownTools,
        established: Callable[[], Established],
        server: str,
        run: Run,
        limits: Limits,
    ) -> None:
        # Listing changes nothing, so that a busy server can be asked again.
        super().__init__(
            server, run, limits, ListToolsResult, "tools/list", "tools", patient=True
        )
        self._known = known
        self._established = established

    def page(
        self, cursor: Optional[str], timeout: Union[Seconds, Deadline] = None
    ) -> ListToolsResult:
        page = super().page(cursor, timeout)
        established = self._established()
        mirrored = established.era.mirrors_parameters
        if not mirrored or established.transport.kind != "http":
            self._known.remember(page.tools, {})
            return page
        # Over HTTP a tool whose header parameters are wrong cannot be called rightly.
        tools, headers, refused = usable_tools(page.tools)
        self._known.remember(tools, headers)
        for tool, reason in refused:
            _log.warning(
                "server %r: the tool %s is left out: %s",
                self._server,
                clean(repr(tool.name), 100),
                clean(reason),
            )
        return page.with_tools(tools, refused) if refused else page


class ToolCalls:
    """The tool calls of one client. Safe for any number of threads."""

    def __init__(
        self,
        server: str,
        run: RunCall,
        tools: ToolPager,
        known: KnownTools,
        hooks: Hooks,
        validate: str,
    ) -> None:
        self._server = server
        self._run = run
        self._tools = tools
        self._known = known
        self._hooks = hooks
        self._validate = validate

    def call(
        self,
        call: Call,
        name: str,
        arguments: Mapping[str, JSON],
        timeout: Seconds,
        on_progress: Optional[OnProgress],
        meta: Optional[Mapping[str, JSON]],
        retry: bool,
    ) -> CallToolResult:
        """Carry out one tool call; see :meth:`mcpsync.Client.call_tool`."""
        check_callable(on_progress, "on_progress")
        self._hooks.before_call(name, arguments)
        plan = Plan(
            "tools/call",
            {"name": name, "arguments": arguments},
            meta,
            on_progress,
            headers=lambda: self._known.mirrored(name, arguments),
            relist=self._relist,
            repeatable=retry and self._harmless(name),
        )
        with _Observed(self._hooks, self._server, name, arguments) as observed:
            result = CallToolResult.from_wire(self._run(plan, timeout, call))
            observed.result = result
            self._check_output(name, result)
            return result

    def _relist(self, deadline: Deadline) -> None:
        """List the tools again, for the sake of what is remembered of them."""
        self._tools.all(deadline)

    def _harmless(self, name: str) -> bool:
        tool = self._known.get(name)
        if tool is None:
            return False
        return tool.annotations.idempotent or tool.annotations.read_only

    def _check_output(self, name: str, result: CallToolResult) -> None:
        if self._validate == "off" or result.is_error:
            return
        try:
            self._check(name, result)
        except (InvalidStructuredContent, SchemaRefused) as error:
            if self._validate == "output":
                raise
            _log.warning("server %r: %s", self._server, error)

    def _check(self, name: str, result: CallToolResult) -> None:
        validator = self._known.validator(name)
        if validator is None:
            return
        shown = clean(repr(name), 100)
        if not result.has_structured_content:
            raise InvalidStructuredContent(
                "the tool %s has an output schema, but its result has no structured "
                "content" % shown,
                result=result,
            )
        violation = validator.check(result.structured_content)
        if violation is not None:
            raise InvalidStructuredContent(
                "the result of the tool %s does not fit its own output schema: %s: %s"
                % (shown, violation.path, violation.reason),
                result=result,
                path=violation.path,
            )


class _Observed:
    """Tells the hooks how a tool call began and ended."""

    def __init__(
        self, hooks: Hooks, server: str, tool: str, arguments: Mapping[str, JSON]
    ) -> None:
        self._hooks = hooks
        self._facts = (server, tool, arguments)
        self._clock = Deadline.after(None)
        self.result: Optional[CallToolResult] = None

    def __enter__(self) -> "_Observed":
        if self._hooks.observing:
            self._hooks.observe(ToolCallBegin(*self._facts))
        return self

    def __exit__(self, kind: Optional[type], *exc_info: object) -> None:
        if not self._hooks.observing:
            return
        outcome = "ok"
        if kind is not None:
            outcome = kind.__name__
        elif self.result is not None and self.result.is_error:
            outcome = "tool_error"
        self._hooks.observe(ToolCallEnd(*self._facts, self._clock.elapsed, outcome))
