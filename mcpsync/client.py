"""The client: one short method for every verb of the protocol."""

from __future__ import annotations

import itertools
import logging
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Union,
)

from ._calls import Call, PendingCall, map_calls
from ._connection import Connector, Established
from ._deadline import Deadline, Timeout
from ._dispatch import Dispatcher, OnLog, OnNotification
from ._listings import KnownTools
from ._paging import Listings, Seconds
from ._questions import OnElicitation, OnSampling, Questions, Roots
from ._requests import OnProgress, Plan, Requester
from ._subscriptions import ResourceListeners
from ._targets import Target, transport_for
from ._text import clean
from ._toolcalls import ToolCalls, ToolPager
from ._tools import ToolNamespace
from ._verbs import check_callable, check_level, check_text, checked_mapping, verb
from ._version import __version__
from .exceptions import (
    InvalidArguments,
    LocalProtocolError,
    MCPError,
    RemoteProtocolError,
)
from .hooks import Hooks
from .protocol.eras import ClientFacts
from .protocol.negotiation import versions_for
from .transports.base import Limits
from .types import (
    CallToolResult,
    CompleteResult,
    GetPromptResult,
    Implementation,
    ListPromptsResult,
    ListResourcesResult,
    ListResourceTemplatesResult,
    ListToolsResult,
    Prompt,
    ReadResourceResult,
    Resource,
    ResourceTemplate,
    ServerCapabilities,
    Tool,
)

__all__ = ["Client"]

JSON = Any
_log = logging.getLogger("mcpsync")


class Client:
    """A connection to one MCP server, made when it is first needed.

    Takes the same arguments as :func:`mcpsync.connect`, which see, and does no I/O
    until :meth:`open`, ``with``, or the first call. A client may be shared by any
    number of threads; in a forked child it opens a connection of its own.

    Every verb takes ``timeout=``: seconds in total, a :class:`mcpsync.Timeout`, or
    ``None`` for the client's default, and raises :class:`mcpsync.MCPError`.

    Attributes:
        name: how the server is called in messages, logs and thread names.
        timeout: the default for calls.
        tools: the server's tools as functions: ``client.tools.add(a=1, b=2)``.
    """

    def __init__(
        self,
        target: Target,
        *,
        name: Optional[str] = None,
        timeout: Seconds = None,
        startup_timeout: float = 30.0,
        protocol: str = "auto",
        auth: Any = None,
        headers: Optional[Mapping[str, str]] = None,
        env: Optional[Mapping[str, str]] = None,
        cwd: Any = None,
        on_elicitation: Optional[OnElicitation] = None,
        on_sampling: Optional[OnSampling] = None,
        roots: Optional[Roots] = None,
        on_log: Optional[OnLog] = None,
        on_notification: Optional[OnNotification] = None,
        log_level: Optional[str] = None,
        validate: str = "output",
        limits: Optional[Limits] = None,
        hooks: Sequence[object] = (),
        client_info: Optional[Mapping[str, str]] = None,
    ) -> None:
        versions_for(protocol)
        if validate not in ("output", "warn", "off"):
            raise InvalidArguments(
                "validate must be 'output', 'warn' or 'off', not %s"
                % clean(repr(validate), 60)
            )
        check_callable(on_elicitation, "on_elicitation")
        check_callable(on_sampling, "on_sampling")
        check_callable(on_log, "on_log")
        check_callable(on_notification, "on_notification")
        options = {"auth": auth, "headers": headers, "env": env, "cwd": cwd}
        transport = transport_for(target, name, limits, options)
        self.name = transport.name
        self.timeout = Timeout.of(timeout, Timeout())
        limits = limits or Limits()
        observers = Hooks(self.name, hooks)
        questions = Questions(self.name, on_elicitation, on_sampling, roots)
        dispatcher = Dispatcher(self.name, questions, limits, on_log, on_notification)
        info = dict(client_info or {"name": "mcpsync", "version": __version__})
        ids = itertools.count(1)
        self._connector = Connector(
            transport,
            protocol,
            ClientFacts(info, questions.capabilities()),
            dispatcher,
            ids,
            float(startup_timeout),
            limits,
            observers,
            wants_stream=bool(questions.any or on_notification or on_log),
        )
        if log_level is not None:
            self._connector.log_level = check_level(log_level)
        self._requester = Requester(
            self.name, self._connector, dispatcher, questions, ids, limits
        )
        self._listeners = ResourceListeners(self._connector, dispatcher, ids.__next__)
        self._listings = Listings(self.name, self._run, limits)
        known = KnownTools()
        self._tools = ToolPager(known, self._established, self.name, self._run, limits)
        self._calls = ToolCalls(
            self.name, self._run, self._tools, known, observers, validate
        )
        self._entered = False
        self.tools = ToolNamespace(self)

    # --- life ---------------------------------------------------------------

    def open(self) -> "Client":
        """Connect now, within ``startup_timeout`` seconds; does nothing if open."""
        self._established()
        return self

    def close(self, timeout: Optional[float] = None) -> None:
        """End the connection; calls in flight raise :class:`mcpsync.ClientClosed`.

        Idempotent, from any thread. Takes a few seconds at most, or `timeout`.
        """
        self._connector.close(timeout)

    def __enter__(self) -> "Client":
        if self._entered and not self._connector.closed:
            raise LocalProtocolError(
                "this client is in a with statement already", server=self.name
            )
        self._entered = True
        try:
            return self.open()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        if self._connector.closed:
            state = "closed"
        elif self._connector.established is None:
            state = "not open"
        else:
            state = "open, protocol %s" % self._connector.established.era.version
        return "<mcpsync.Client %r, %s>" % (self.name, state)

    def __reduce__(self) -> Any:
        raise TypeError(
            "a Client cannot be pickled: it is a live connection; make one in each "
            "process instead"
        )

    # --- facts of the connection, which is opened if need be ----------------

    @property
    def is_open(self) -> bool:
        """Whether there is a live connection; does not make one."""
        established = self._connector.established
        return established is not None and established.transport.alive

    @property
    def protocol_version(self) -> str:
        """The negotiated protocol version."""
        return self._established().era.version

    @property
    def server_info(self) -> Optional[Implementation]:
        """What the server says it is: for people and logs, not for decisions."""
        info = self._established().server_info
        try:
            return Implementation.from_wire(info) if info else None
        except RemoteProtocolError:
            return None

    @property
    @verb("connecting")
    def capabilities(self) -> ServerCapabilities:
        """What the server declared that it can do."""
        return ServerCapabilities.from_wire(self._established().capabilities)

    @property
    def instructions(self) -> Optional[str]:
        """The server's hints for a model, if any. Not to be trusted."""
        return self._established().instructions

    @property
    def stderr_tail(self) -> str:
        """What a stdio server wrote to stderr last, cleaned, secrets masked."""
        return self._connector.transport.stderr_tail

    @verb("connecting")
    def _established(self) -> Established:
        return self._connector.get()

    # --- requests -----------------------------------------------------------

    @verb("a request")
    def request(
        self,
        method: str,
        params: Optional[Mapping[str, JSON]] = None,
        *,
        timeout: Seconds = None,
        on_progress: Optional[OnProgress] = None,
        meta: Optional[Mapping[str, JSON]] = None,
    ) -> Dict[str, JSON]:
        """Send any request and return its raw result: the escape hatch."""
        check_text(method, "the method")
        plan = _plan(method, checked_mapping(params, "params"), meta, on_progress)
        return dict(self._run(plan, timeout))

    @verb("a notification")
    def notify(self, method: str, params: Optional[Mapping[str, JSON]] = None) -> None:
        """Send any notification: the other half of the escape hatch."""
        check_text(method, "the method")
        given = checked_mapping(params, "params")
        self._requester.notify(method, given, self._deadline(None))

    def _deadline(self, timeout: Seconds) -> Deadline:
        """Return a deadline for several requests; opening is not charged to it."""
        self._established()
        return Deadline(Timeout.of(timeout, self.timeout))

    def _run(
        self,
        plan: Plan,
        timeout: Union[Seconds, Deadline],
        call: Optional[Call] = None,
    ) -> Mapping[str, JSON]:
        # Opening has a clock of its own; the call's begins when it is open.
        deadline = timeout if isinstance(timeout, Deadline) else self._deadline(timeout)
        with call or Call() as running:
            return self._requester.run(running, plan, deadline)

    # --- tools --------------------------------------------------------------

    @verb("tools/list")
    def list_tools(self, *, timeout: Seconds = None) -> List[Tool]:
        """Return all tools, from all pages."""
        return self._tools.all(self._deadline(timeout))

    def iter_tools(self, *, timeout: Seconds = None) -> Iterator[Tool]:
        """Yield the tools, fetching pages as needed; `timeout` is for each page."""
        return self._tools.iter(timeout)

    @verb("tools/list")
    def list_tools_page(
        self, cursor: Optional[str] = None, *, timeout: Seconds = None
    ) -> ListToolsResult:
        """Return one page of tools, as the specification has it."""
        return self._tools.page(cursor, timeout)

    @verb("tools/call")
    def call_tool(
        self,
        name: str,
        arguments: Optional[Mapping[str, JSON]] = None,
        *,
        timeout: Seconds = None,
        on_progress: Optional[OnProgress] = None,
        meta: Optional[Mapping[str, JSON]] = None,
        retry: bool = False,
    ) -> CallToolResult:
        """Call a tool and return its result, a reported failure included.

        A result with ``is_error`` is returned, not raised: see
        ``result.raise_for_error()`` and ``client.tools``.

        Args:
            name: the tool's name.
            arguments: its arguments by name.
            timeout: seconds in total, or a :class:`mcpsync.Timeout`.
            on_progress: called on this thread with (progress, total, message).
            meta: additions to the request's ``_meta``.
            retry: whether a call whose fate is unknown may be sent again, if the
                tool was listed and says that this does no harm.

        Raises:
            InvalidStructuredContent: the result does not fit the output schema of a
                tool that this client has listed (``validate="output"``).
            MCPError: see :mod:`mcpsync.exceptions`.

        Specification: 2026-07-28, server/tools.
        """
        check_text(name, "the tool's name")
        given = checked_mapping(arguments, "arguments") or {}
        extra = checked_mapping(meta, "meta")
        with Call() as call:
            return self._calls.call(
                call, name, given, timeout, on_progress, extra, retry
            )

    @verb("tools/call")
    def start_call(
        self,
        name: str,
        arguments: Optional[Mapping[str, JSON]] = None,
        *,
        timeout: Seconds = None,
        on_progress: Optional[OnProgress] = None,
        meta: Optional[Mapping[str, JSON]] = None,
        retry: bool = False,
    ) -> PendingCall:
        """Call a tool on a thread of its own; takes what :meth:`call_tool` takes."""

        check_text(name, "the tool's name")
        given = checked_mapping(arguments, "arguments") or {}
        extra = checked_mapping(meta, "meta")

        def run(call: Call) -> CallToolResult:
            with call:
                return self._calls.call(
                    call, name, given, timeout, on_progress, extra, retry
                )

        pending = PendingCall(name)
        pending.start(run, "mcpsync-call-%s" % self.name)
        return pending

    @verb("tools/call")
    def map_tool(
        self,
        name: str,
        iterable: Iterable[Mapping[str, JSON]],
        *,
        max_workers: int = 8,
        on_error: str = "raise",
        progress: Union[bool, Callable[[int], None]] = False,
        timeout: Seconds = None,
    ) -> Iterator[Union[CallToolResult, MCPError]]:
        """Call a tool for each of many arguments; yield the results in order.

        Args:
            name: the tool's name.
            iterable: the arguments of each call; read as it is needed.
            max_workers: calls in flight at once.
            on_error: ``"raise"`` ends at the first exception; ``"return"`` yields it
                in its place.
            progress: called with the number of results so far; ``True`` logs it.
            timeout: for each call.

        Leaving the iterator cancels what is in flight.
        """
        if on_error not in ("raise", "return"):
            raise InvalidArguments("on_error must be 'raise' or 'return'")
        if max_workers < 1:
            raise InvalidArguments("max_workers must be at least 1")
        return map_calls(
            lambda arguments: self.start_call(name, arguments, timeout=timeout),
            iterable,
            max_workers,
            on_error,
            progress,
        )

    # --- resources ----------------------------------------------------------

    @verb("resources/list")
    def list_resources(self, *, timeout: Seconds = None) -> List[Resource]:
        """Return all resources, from all pages."""
        return self._listings.resources.all(self._deadline(timeout))

    def iter_resources(self, *, timeout: Seconds = None) -> Iterator[Resource]:
        """Yield the resources; `timeout` is for each page."""
        return self._listings.resources.iter(timeout)

    @verb("resources/list")
    def list_resources_page(
        self, cursor: Optional[str] = None, *, timeout: Seconds = None
    ) -> ListResourcesResult:
        """Return one page of resources."""
        return self._listings.resources.page(cursor, timeout)

    @verb("resources/templates/list")
    def list_resource_templates(
        self, *, timeout: Seconds = None
    ) -> List[ResourceTemplate]:
        """Return all resource templates, from all pages."""
        return self._listings.templates.all(self._deadline(timeout))

    def iter_resource_templates(
        self, *, timeout: Seconds = None
    ) -> Iterator[ResourceTemplate]:
        """Yield the resource templates; `timeout` is for each page."""
        return self._listings.templates.iter(timeout)

    @verb("resources/templates/list")
    def list_resource_templates_page(
        self, cursor: Optional[str] = None, *, timeout: Seconds = None
    ) -> ListResourceTemplatesResult:
        """Return one page of resource templates."""
        return self._listings.templates.page(cursor, timeout)

    @verb("resources/read")
    def read_resource(
        self,
        uri: str,
        *,
        timeout: Seconds = None,
        on_progress: Optional[OnProgress] = None,
        meta: Optional[Mapping[str, JSON]] = None,
    ) -> ReadResourceResult:
        """Read a resource from the server, which alone decides what the URI means.

        Raises:
            ResourceNotFound: there is none.
        """
        check_text(uri, "the resource's URI")
        plan = _plan("resources/read", {"uri": uri}, meta, on_progress)
        return ReadResourceResult.from_wire(self._run(plan, timeout))

    @verb("resources/subscribe")
    def subscribe_resource(self, uri: str, *, timeout: Seconds = None) -> None:
        """Ask for ``notifications/resources/updated`` about a resource.

        They go to ``on_notification``, until :meth:`unsubscribe_resource`.
        """
        check_text(uri, "the resource's URI")
        established = self._established()
        call = established.era.subscribe(uri)
        if established.era.subscribes_by_listening:
            self._listeners.subscribe(uri, call, self._deadline(timeout))
            return
        self._connector.listen(established)
        self._run(Plan(*call), timeout)
        self._connector.replayed[uri] = call

    @verb("resources/unsubscribe")
    def unsubscribe_resource(self, uri: str, *, timeout: Seconds = None) -> None:
        """End what :meth:`subscribe_resource` began."""
        check_text(uri, "the resource's URI")
        era = self._established().era
        if era.subscribes_by_listening:
            self._listeners.unsubscribe(uri)
            return
        self._run(Plan(*era.unsubscribe(uri)), timeout)
        self._connector.replayed.pop(uri, None)

    # --- prompts and completion ---------------------------------------------

    @verb("prompts/list")
    def list_prompts(self, *, timeout: Seconds = None) -> List[Prompt]:
        """Return all prompts, from all pages."""
        return self._listings.prompts.all(self._deadline(timeout))

    def iter_prompts(self, *, timeout: Seconds = None) -> Iterator[Prompt]:
        """Yield the prompts; `timeout` is for each page."""
        return self._listings.prompts.iter(timeout)

    @verb("prompts/list")
    def list_prompts_page(
        self, cursor: Optional[str] = None, *, timeout: Seconds = None
    ) -> ListPromptsResult:
        """Return one page of prompts."""
        return self._listings.prompts.page(cursor, timeout)

    @verb("prompts/get")
    def get_prompt(
        self,
        name: str,
        arguments: Optional[Mapping[str, str]] = None,
        *,
        timeout: Seconds = None,
        on_progress: Optional[OnProgress] = None,
        meta: Optional[Mapping[str, JSON]] = None,
    ) -> GetPromptResult:
        """Return a prompt, filled in with `arguments`."""
        check_text(name, "the prompt's name")
        params: Dict[str, JSON] = {"name": name}
        given = checked_mapping(arguments, "arguments")
        if given is not None:
            for key, value in given.items():
                check_text(value, "the prompt's argument %s" % clean(repr(key), 60))
            params["arguments"] = given
        plan = _plan("prompts/get", params, meta, on_progress)
        return GetPromptResult.from_wire(self._run(plan, timeout))

    @verb("completion/complete")
    def complete(
        self,
        ref: Mapping[str, str],
        argument: Mapping[str, str],
        context: Optional[Mapping[str, str]] = None,
        *,
        timeout: Seconds = None,
    ) -> CompleteResult:
        """Ask for completions of one argument.

        Args:
            ref: ``{"type": "ref/prompt", "name": …}`` or
                ``{"type": "ref/resource", "uri": …}``.
            argument: ``{"name": …, "value": what was typed so far}``.
            context: arguments that were answered before, from 2025-06-18 on.
        """
        params = self._established().era.completion(
            checked_mapping(ref, "ref") or {},
            checked_mapping(argument, "argument") or {},
            checked_mapping(context, "context"),
        )
        plan = _plan("completion/complete", params)
        return CompleteResult.from_wire(self._run(plan, timeout))

    # --- the rest -----------------------------------------------------------

    @verb("ping")
    def ping(self, *, timeout: Seconds = None) -> None:
        """Return when the server has answered; raise if it does not."""
        self._run(Plan(*self._established().era.ping()), timeout)

    @verb("logging/setLevel")
    def set_log_level(self, level: str, *, timeout: Seconds = None) -> None:
        """Ask for log messages of at least this severity."""
        call = self._established().era.log_level_call(check_level(level))
        if call is not None:
            self._run(Plan(*call), timeout)
        self._connector.log_level = level

    @verb("notifications/roots/list_changed")
    def notify_roots_changed(self) -> None:
        """Tell the server that the roots are not what they were."""
        call = self._established().era.roots_changed()
        if call is not None:
            self._requester.notify(*call, self._deadline(None))


def _plan(
    method: str,
    params: Optional[Mapping[str, JSON]] = None,
    meta: Optional[Mapping[str, JSON]] = None,
    on_progress: Optional[OnProgress] = None,
) -> Plan:
    check_callable(on_progress, "on_progress")
    return Plan(method, params, checked_mapping(meta, "meta"), on_progress)
