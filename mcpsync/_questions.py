"""The server's questions: elicitation, sampling, roots, and the handlers for them.

Specification: 2026-07-28, client/elicitation, client/sampling, client/roots.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import pathlib
import threading
from contextlib import contextmanager
from typing import (
    Any,
    Callable,
    Dict,
    Iterable,
    Iterator,
    Mapping,
    Optional,
    Union,
)

from ._text import clean
from .exceptions import InvalidArguments, UnexpectedResult
from .protocol.eras import Era
from .protocol.jsonrpc import Outgoing, Request
from .protocol.schema import check_answer, fill_defaults
from .types import (
    CreateMessageRequest,
    CreateMessageResult,
    ElicitRequest,
    ElicitResult,
    Root,
)

__all__ = ["OnElicitation", "OnSampling", "Questions", "Roots"]

JSON = Any

OnElicitation = Callable[[ElicitRequest], Union[ElicitResult, Mapping[str, JSON], None]]
OnSampling = Callable[
    [CreateMessageRequest], Union[CreateMessageResult, Mapping[str, JSON]]
]
OneRoot = Union[str, "os.PathLike[str]", Root, Mapping[str, JSON]]
Roots = Union[Iterable[OneRoot], Callable[[], Iterable[OneRoot]]]

_log = logging.getLogger("mcpsync")


class Refusal(Exception):
    """A question that is answered with a JSON-RPC error."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


class Questions:
    """The handlers that a client was given. Safe for any number of threads."""

    def __init__(
        self,
        server: str,
        on_elicitation: Optional[OnElicitation],
        on_sampling: Optional[OnSampling],
        roots: Optional[Roots],
    ) -> None:
        self._server = server
        self._on_elicitation = on_elicitation
        self._on_sampling = on_sampling
        self._roots = _checked_roots(roots)
        self._running: Dict[object, threading.Event] = {}
        self.reset()

    def reset(self) -> None:
        # Guards the events of running questions.
        # Never while held: a handler.
        # Taken by whoever runs or cancels a question.
        self._lock = threading.Lock()
        self._running.clear()

    @property
    def any(self) -> bool:
        """Whether there is a handler for any question."""
        return bool(self.capabilities())

    def capabilities(self) -> Dict[str, Any]:
        """Return what the client may declare: only what somebody can answer."""
        declared: Dict[str, Any] = {}
        if self._on_elicitation is not None:
            declared["elicitation"] = {"form": {}, "url": {}}
        if self._on_sampling is not None:
            declared["sampling"] = {}
        if self._roots is not None:
            declared["roots"] = {}
        return declared

    # --- running ------------------------------------------------------------

    def answer(
        self,
        request: Request,
        era: Era,
        cancelled: Optional[threading.Event] = None,
    ) -> Optional[Outgoing]:
        """Run the handler for a server's request; return the answer to send.

        Args:
            cancelled: set by whoever cancels the call that the question belongs to.
        """
        if request.method not in era.questions:
            return era.answer(request, error=(-32601, "method not found"))
        with self._cancellable(request.id, cancelled) as cancelled:
            try:
                result = self._ask(request.method, request.params, cancelled)
            except Refusal as refusal:
                return era.answer(request, error=(refusal.code, refusal.message))
            except Exception:
                # The detail is for the log of this program, not for the server.
                _log.exception(
                    "the handler for %s of server %r failed",
                    request.method,
                    self._server,
                )
                return era.answer(request, error=(-32603, "internal error"))
            if cancelled.is_set():
                return None
            return era.answer(request, result)

    def answer_input(
        self, method: str, params: Mapping[str, Any], cancelled: threading.Event
    ) -> Dict[str, Any]:
        """Run the handler for one question of a multi round-trip request.

        Raises:
            Refusal: there is no handler, or the question is malformed.
            Exception: whatever the handler raised.
        """
        with self._cancellable(cancelled, cancelled):
            return self._ask(method, params, cancelled)

    @contextmanager
    def _cancellable(
        self, key: object, event: Optional[threading.Event]
    ) -> Iterator[threading.Event]:
        event = event or threading.Event()
        with self._lock:
            self._running[key] = event
        try:
            yield event
        finally:
            with self._lock:
                if self._running.get(key) is event:
                    del self._running[key]

    def cancel(self, key: object) -> None:
        """Tell the handler of a question that its answer is not wanted any more."""
        if type(key) is not int and type(key) is not str:
            return
        with self._lock:
            event = self._running.get(key)
        if event is not None:
            event.set()

    def cancel_all(self) -> None:
        with self._lock:
            events = list(self._running.values())
        for event in events:
            event.set()

    def _ask(
        self, method: str, params: Mapping[str, Any], cancelled: threading.Event
    ) -> Dict[str, Any]:
        """Run one handler and return the result object that the server gets."""
        if method == "elicitation/create" and self._on_elicitation is not None:
            return self._elicit(self._on_elicitation, params, cancelled)
        if method == "sampling/createMessage" and self._on_sampling is not None:
            return self._sample(self._on_sampling, params, cancelled)
        if method == "roots/list" and self._roots is not None:
            given = self._roots() if callable(self._roots) else self._roots
            return {"roots": [root_to_wire(root) for root in given]}
        raise Refusal(-32601, "method not found")

    def _elicit(
        self,
        handler: OnElicitation,
        params: Mapping[str, Any],
        cancelled: threading.Event,
    ) -> Dict[str, Any]:
        try:
            request = ElicitRequest.from_wire(params)
        except UnexpectedResult as error:
            raise Refusal(-32602, error.message) from error
        request = dataclasses.replace(request, server=self._server, cancelled=cancelled)
        if request.mode not in ("form", "url"):
            raise Refusal(-32602, "this elicitation mode was not declared")
        given = handler(request)
        if given is None:
            return {"action": "decline"}
        if not isinstance(given, ElicitResult):
            if not isinstance(given, Mapping):
                raise InvalidArguments(
                    "on_elicitation must return an ElicitResult, a mapping with the "
                    "content, or None, not %s" % type(given).__name__
                )
            given = ElicitResult.accept(given)
        return _elicit_result(request, given)

    def _sample(
        self,
        handler: OnSampling,
        params: Mapping[str, Any],
        cancelled: threading.Event,
    ) -> Dict[str, Any]:
        if "tools" in params or "toolChoice" in params:
            raise Refusal(-32602, "sampling with tools was not declared")
        try:
            request = CreateMessageRequest.from_wire(params)
        except UnexpectedResult as error:
            raise Refusal(-32602, error.message) from error
        given = handler(
            dataclasses.replace(request, server=self._server, cancelled=cancelled)
        )
        if isinstance(given, CreateMessageResult):
            return given.to_wire()
        if isinstance(given, Mapping):
            return CreateMessageResult.from_wire(given).to_wire()
        raise InvalidArguments(
            "on_sampling must return a CreateMessageResult or a mapping, not %s"
            % type(given).__name__
        )


def _elicit_result(request: ElicitRequest, given: ElicitResult) -> Dict[str, Any]:
    if given.action not in ("accept", "decline", "cancel"):
        raise InvalidArguments(
            "an elicitation ends with accept, decline or cancel, not %s"
            % clean(repr(given.action), 60)
        )
    if given.action != "accept" or request.mode == "url":
        # Consent to visit a page carries no content.
        return {"action": given.action}
    schema = request.requested_schema or {}
    content = fill_defaults(schema, given.content or {})
    violation = check_answer(schema, content)
    if violation is not None:
        raise InvalidArguments(
            "the answer to the elicitation does not fit its schema: %s: %s"
            % (violation.path, violation.reason)
        )
    return {"action": "accept", "content": content}


def _checked_roots(roots: Optional[Roots]) -> Optional[Roots]:
    if roots is None or callable(roots):
        return roots
    if isinstance(roots, (str, bytes, os.PathLike)) or not isinstance(roots, Iterable):
        # One path is iterable too: its letters would be the roots, "/" among them.
        raise InvalidArguments(
            "roots must be a list of paths or URIs, or a function that returns one, "
            "not %s" % type(roots).__name__
        )
    return list(roots)


def root_to_wire(root: OneRoot) -> Dict[str, Any]:
    """Return the wire form of a root: a path becomes a ``file://`` URI."""
    if isinstance(root, Root):
        return root.to_wire()
    if isinstance(root, Mapping):
        return Root.from_wire(root).to_wire()
    text = os.fspath(root)
    if "://" in text:
        return {"uri": text}
    path = pathlib.Path(text).expanduser().resolve()
    return {"uri": path.as_uri(), "name": path.name or str(path)}
