"""Calls in flight: what belongs to one, and how it is stopped from another thread."""

from __future__ import annotations

import collections
import contextvars
import functools
import logging
import threading
from concurrent.futures import CancelledError, Future
from contextlib import contextmanager
from typing import (
    Callable,
    Deque,
    Iterable,
    Iterator,
    Optional,
    Set,
    TypeVar,
    Union,
)

from . import _lifecycle
from ._text import clean
from .exceptions import MCPError, RequestCancelled
from .transports.base import Exchange
from .types import CallToolResult

__all__ = ["Call", "PendingCall", "map_calls"]

T = TypeVar("T")

_log = logging.getLogger("mcpsync")

#: The call whose handler this thread is running: calls made from there are its
#: children, and are cancelled with it.
_current: "contextvars.ContextVar[Optional[Call]]" = contextvars.ContextVar(
    "mcpsync_call", default=None
)


class Call:
    """One public call, through all its rounds and repeats.

    Begun and ended by the thread that makes it; cancelled from any.
    """

    def __init__(self) -> None:
        # Guards what is cancelled together.
        # Never while held: cancelling anything, a handler.
        # Taken by the calling thread and by whoever cancels.
        self._lock = threading.Lock()
        self._exchange: Optional[Exchange] = None
        self._children: Set[Call] = set()
        self._questions: Set[threading.Event] = set()
        self._reason: Optional[str] = None
        self._parent: Optional[Call] = None
        #: Set when the call is cancelled, for whoever pauses in it.
        self.stopped = threading.Event()
        self._generation = _lifecycle.generation

    def __enter__(self) -> "Call":
        parent = _current.get()
        # A process forked inside a handler is no longer part of the parent's call.
        if parent is not None and parent._generation == self._generation:
            self._parent = parent
            parent._adopt(self)
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self._parent is not None:
            self._parent._release(self)
            self._parent = None

    def _adopt(self, child: "Call") -> None:
        with self._lock:
            self._children.add(child)
            reason = self._reason
        if reason is not None:
            child.cancel(reason)

    def _release(self, child: "Call") -> None:
        with self._lock:
            self._children.discard(child)

    def check(self) -> None:
        """Raise RequestCancelled if somebody cancelled the call."""
        if self._reason is not None:
            raise RequestCancelled("the call was cancelled")

    @contextmanager
    def during(self, exchange: Exchange) -> Iterator[None]:
        """Let :meth:`cancel` reach this exchange."""
        with self._lock:
            self._exchange = exchange
            reason = self._reason
        if reason is not None:
            exchange.cancel(reason)
        try:
            yield
        finally:
            with self._lock:
                self._exchange = None

    @contextmanager
    def answering(self) -> Iterator[threading.Event]:
        """Run a handler on behalf of this call; yields its cancelled event."""
        cancelled = threading.Event()
        with self._lock:
            self._questions.add(cancelled)
            if self._reason is not None:
                cancelled.set()
        token = _current.set(self)
        try:
            yield cancelled
        finally:
            _current.reset(token)
            with self._lock:
                self._questions.discard(cancelled)

    def cancel(self, reason: str) -> None:
        """Stop the call, its handlers' calls, and tell the server. Any thread."""
        with self._lock:
            if self._reason is not None:
                return
            self._reason = reason
            exchange = self._exchange
            children = list(self._children)
            questions = list(self._questions)
        self.stopped.set()
        for event in questions:
            event.set()
        for child in children:
            child.cancel(reason)
        if exchange is not None:
            exchange.cancel(reason)


class PendingCall(Future[CallToolResult]):
    """A tool call that runs on a thread of its own; made by ``client.start_call``.

    A :class:`concurrent.futures.Future` of :class:`mcpsync.types.CallToolResult`; safe
    for any number of threads.
    """

    def __init__(self, tool: str) -> None:
        super().__init__()
        self.tool = tool
        self._call = Call()

    def __repr__(self) -> str:
        return "<PendingCall of %r, %s>" % (
            self.tool,
            "done" if self.done() else "running",
        )

    def start(self, run: Callable[[Call], CallToolResult], name: str) -> None:
        """Run the call on a new daemon thread, in a copy of this context."""
        context = contextvars.copy_context()
        threading.Thread(
            target=context.run, args=(self._run, run), name=name, daemon=True
        ).start()

    def _run(self, run: Callable[[Call], CallToolResult]) -> None:
        try:
            result = run(self._call)
        except BaseException as error:
            self._finish(functools.partial(self.set_exception, error))
        else:
            self._finish(functools.partial(self.set_result, result))

    def _finish(self, settle: Callable[[], None]) -> None:
        # False: cancelled meanwhile, and its waiters know.
        if self.set_running_or_notify_cancel():
            settle()

    def cancel(self) -> bool:
        """Stop the call and tell the server.

        Returns:
            Whether the answer had not come yet.
        """
        if not super().cancel():
            return False
        self._call.cancel("cancelled by the caller")
        return True

    def result(self, timeout: Optional[float] = None) -> CallToolResult:
        """Return the result, waiting at most `timeout` seconds for it.

        A `timeout` that expires raises :class:`concurrent.futures.TimeoutError` and
        cancels nothing.
        """
        try:
            value: CallToolResult = super().result(timeout)
        except RequestCancelled:
            raise
        except CancelledError:
            raise RequestCancelled("the call was cancelled") from None
        return value


def map_calls(
    start: Callable[[T], PendingCall],
    items: Iterable[T],
    max_workers: int,
    on_error: str,
    progress: Union[bool, Callable[[int], None]] = False,
) -> Iterator[Union[CallToolResult, MCPError]]:
    """Yield results in the order of `items`, with a few calls in flight.

    Leaving the iterator cancels what is in flight.
    """
    window: Deque[PendingCall] = collections.deque()
    source = iter(items)
    more = True
    count = 0
    try:
        while True:
            while more and len(window) < max_workers:
                try:
                    window.append(start(next(source)))
                except StopIteration:
                    more = False
            if not window:
                return
            outcome = _outcome(window[0], on_error)
            pending = window.popleft()
            count += 1
            if callable(progress):
                progress(count)
            elif progress:
                _log.info("%s: %d results", clean(pending.tool, 60), count)
            yield outcome
    finally:
        for pending in window:
            pending.cancel()


def _outcome(pending: PendingCall, on_error: str) -> Union[CallToolResult, MCPError]:
    try:
        return pending.result()
    except MCPError as error:
        if on_error == "raise":
            raise
        return error
