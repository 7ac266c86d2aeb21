"""Hooks: functions that see, and may refuse, what a client does.

A hook is any object with some of these methods; all run on the thread of the caller:

``before_call(tool, arguments)``
    may refuse a tool call by returning ``False``, or by raising
    :class:`mcpsync.CallRefused` with its reason.
``on_event(event)``
    observes. An exception in it is logged and never reaches the caller.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Sequence

from .exceptions import CallRefused

__all__ = [
    "ConnectionRenewed",
    "Hooks",
    "ServerRestarted",
    "ToolCallBegin",
    "ToolCallEnd",
]

_log = logging.getLogger("mcpsync")

JSON = Any


@dataclass(frozen=True)
class ToolCallBegin:
    """A tool call is about to be sent."""

    server: str
    tool: str
    arguments: Mapping[str, JSON] = field(repr=False)


@dataclass(frozen=True)
class ToolCallEnd:
    """A tool call is over.

    Attributes:
        seconds: how long it took.
        outcome: ``"ok"``, ``"tool_error"``, or the name of the exception's class.
    """

    server: str
    tool: str
    arguments: Mapping[str, JSON] = field(repr=False)
    seconds: float = 0.0
    outcome: str = "ok"


@dataclass(frozen=True)
class ConnectionRenewed:
    """The server had forgotten the session; a new one was opened.

    Whatever the server kept for the old session is gone.
    """

    server: str


@dataclass(frozen=True)
class ServerRestarted:
    """The server's process had ended; a new one was started."""

    server: str
    attempt: int = 1


class Hooks:
    """The hooks of one client. Safe for any number of threads."""

    def __init__(self, server: str, hooks: Sequence[object]) -> None:
        self._server = server
        self._before = [
            hook.before_call for hook in hooks if hasattr(hook, "before_call")
        ]
        self._observers = [hook.on_event for hook in hooks if hasattr(hook, "on_event")]

    def before_call(self, tool: str, arguments: Mapping[str, JSON]) -> None:
        """Ask every hook.

        Raises:
            CallRefused: one said no.
        """
        for hook in self._before:
            if hook(tool, arguments) is False:
                raise CallRefused(
                    "a before_call hook refused the tool %r" % tool,
                    server=self._server,
                    method="tools/call",
                )

    def observe(self, event: object) -> None:
        """Tell every observer; an exception in one is logged, not raised."""
        for observer in self._observers:
            try:
                observer(event)
            except Exception:
                _log.exception("a hook failed for %r", event)

    @property
    def observing(self) -> Optional[bool]:
        """Whether anybody observes."""
        return bool(self._observers)
