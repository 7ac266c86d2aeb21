"""Exchanges that share one stream: who gets which message.

Used where all messages of a server arrive on one stream, read by one thread (stdio and
HTTP+SSE). Everything here is short list work under one lock; waiting happens outside.
"""

from __future__ import annotations

import collections
import threading
from typing import Callable, Deque, Dict, List, Optional, Protocol

from .._deadline import Deadline
from ..exceptions import (
    ClientClosed,
    LocalProtocolError,
    MCPError,
    RequestCancelled,
)
from ..protocol.jsonrpc import Message, Notification, Outgoing, Request, Response
from .base import Exchange, Unsolicited

__all__ = ["PendingExchanges", "QueuedExchange"]

_SUBSCRIPTION = "io.modelcontextprotocol/subscriptionId"

#: Makes the exception for one waiter: a shared one would mix their tracebacks. Told
#: whether that waiter's request had been sent, where that is known.
Failure = Callable[[Optional[bool]], MCPError]

#: Notifications that one exchange holds for an owner who is busy elsewhere.
_QUEUED = 1024


class Sending(Protocol):
    """A request on its way."""

    def was_sent(self) -> Optional[bool]:
        """Return whether the server may have seen any of it."""

    def was_written(self) -> bool:
        """Return whether all of it is on its way."""


class QueuedExchange(Exchange):
    """An exchange whose messages are put into a queue by a reader."""

    def __init__(
        self,
        pending: "PendingExchanges",
        outgoing: Outgoing,
        tell_server: Callable[[Outgoing], None],
    ) -> None:
        assert outgoing.id is not None
        self.outgoing = outgoing
        self.id = outgoing.id
        self.thread = threading.get_ident()
        self.was_sent: Callable[[], Optional[bool]] = lambda: None
        self.was_written: Callable[[], bool] = lambda: True
        self._pending = pending
        self._tell_server = tell_server
        self._items: Deque[Message] = collections.deque()
        self._failure: Optional[Failure] = None
        self._heir: Optional[QueuedExchange] = None
        self._attending = True
        self._asked = False
        self._answered = False
        self._cancelled = False
        self._waiting = False
        # A raw lock is the cheapest way to wake one thread: taken here, released by
        # whoever puts something into the queue while the owner waits.
        self._wake = threading.Lock()
        self._wake.acquire()

    def receive(self, deadline: Deadline) -> Message:
        while True:
            message = self._take()
            if message is not None:
                return message
            woken = self._wake.acquire(timeout=deadline.wait_seconds())
            if not woken and self._give_up_waiting() and deadline.expired:
                raise deadline.error(None, self.outgoing.method)

    def _take(self) -> Optional[Message]:
        """Return what is there, raise what went wrong, or prepare to wait."""
        with self._pending.lock:
            if self._items and not self._cancelled:
                return self._next()
            failure = self._failure
            if failure is None:
                self._attending = True
                self._waiting = True
                return None
        raise failure(self.was_sent())

    def _next(self) -> Message:
        """Return the oldest message. Requires the table's lock."""
        message = self._items.popleft()
        # While its owner runs a handler for a question, another question is not for
        # this exchange to hold.
        self._attending = not isinstance(message, Request)
        if not self._attending:
            self._asked = False
        return message

    def _give_up_waiting(self) -> bool:
        """Return false if something arrived just as the wait ended."""
        with self._pending.lock:
            if not self._waiting:
                self._wake.acquire(False)
                return False
            self._waiting = False
            return True

    def deliver(self, message: Message) -> None:
        with self._pending.lock:
            self.put(message)

    def put(self, message: Message) -> None:
        """Queue a message and wake the owner. Requires the table's lock."""
        target = self._heir or self
        if target._failure is not None:
            # It is over: closed or cancelled, and the answer would contradict that.
            return
        if isinstance(message, Response):
            self._answered = True
        elif isinstance(message, Request):
            target._asked = True
        elif len(target._items) >= self._pending.queued:
            target._drop_oldest()
        target._items.append(message)
        target.wake()

    def _drop_oldest(self) -> None:
        """Forget the oldest notification. Requires the table's lock."""
        for place, message in enumerate(self._items):
            if isinstance(message, Notification):
                del self._items[place]
                return

    def wake(self) -> None:
        """Wake the owner if it waits. Requires the table's lock."""
        if self._waiting:
            self._waiting = False
            self._wake.release()

    def fail(self, failure: Failure) -> None:
        """End the exchange with an exception. Requires the table's lock."""
        if self._failure is None:
            self._failure = failure
        self.wake()

    def disown(self, failure: Failure) -> None:
        """End the exchange in a forked child, where nobody else can hold a lock."""
        self._items.clear()
        self._failure = failure

    def adopt(self, other: Exchange) -> None:
        if not isinstance(other, QueuedExchange):
            return
        with self._pending.lock:
            other._heir = self
            self._items.extend(other._items)
            other._items.clear()

    @property
    def wants_questions(self) -> bool:
        """Whether its owner waits, or is about to. Requires the table's lock."""
        if self._asked or self._answered:
            return False
        return self._attending and self._failure is None

    def cancel(self, reason: str) -> None:
        with self._pending.lock:
            if self._cancelled or self._answered:
                return
            self._cancelled = True
            self.fail(lambda sent: RequestCancelled("the call was cancelled"))
        notice = self.outgoing.notice
        if self.outgoing.cancellation != "never" and notice is not None:
            self._tell_server(notice(reason))

    def close(self) -> None:
        self._pending.remove(self)

    def leftovers(self) -> List[Message]:
        """Return the questions nobody read. Requires the table's lock."""
        unread = [item for item in self._items if isinstance(item, Request)]
        self._items.clear()
        return list(unread)


class PendingExchanges:
    """The exchanges of one connection, by request id. Safe for all threads."""

    def __init__(
        self,
        limit: int,
        unsolicited: Unsolicited,
        server: str,
        queued: int = _QUEUED,
    ) -> None:
        # Guards the table and the queues of all its exchanges.
        # Never while held: waiting, I/O, a callback.
        # Taken by callers, by the reader and by whoever cancels; again by a signal
        # handler or a finalizer that happens to run while its own thread holds it.
        self.lock = threading.RLock()
        self.queued = queued
        self._by_id: Dict[int, QueuedExchange] = {}
        self._failure: Optional[Failure] = None
        self._limit = limit
        self._unsolicited = unsolicited
        self._server = server

    def add(
        self,
        outgoing: Outgoing,
        tell_server: Callable[[Outgoing], None],
        sending: Optional[Sending] = None,
    ) -> QueuedExchange:
        """Enter a request before it is sent."""
        exchange = QueuedExchange(self, outgoing, tell_server)
        if sending is not None:
            exchange.was_sent = sending.was_sent
            exchange.was_written = sending.was_written
        with self.lock:
            failure = self._failure
            if failure is None and len(self._by_id) < self._limit:
                self._by_id[exchange.id] = exchange
                return exchange
        if failure is not None:
            raise failure(False)
        raise LocalProtocolError(
            "%d requests are in flight already" % self._limit,
            server=self._server,
            method=outgoing.method,
        )

    def remove(self, exchange: QueuedExchange) -> None:
        with self.lock:
            if self._by_id.get(exchange.id) is not exchange:
                return
            del self._by_id[exchange.id]
            leftovers = exchange.leftovers()
        # A question that its owner never read is still a question.
        for message in leftovers:
            self._unsolicited(message)

    def route(self, message: Message) -> None:
        """Give a message to its exchange, or to nobody in particular."""
        with self.lock:
            exchange = self._find(message)
            if exchange is not None:
                exchange.put(message)
                return
            if isinstance(message, Response):
                # Late, duplicate or unknown: the race after a cancellation is normal.
                return
        self._unsolicited(message)

    def _find(self, message: Message) -> Optional[QueuedExchange]:
        """Return whose message this is. Requires holding lock."""
        if isinstance(message, Response):
            if message.id is None:
                # The peer could not read a request: with one in flight, that one.
                return self.only() if message.error is not None else None
            return self._by_id.get(message.id) if type(message.id) is int else None
        if isinstance(message, Notification):
            return self._named(message)
        if message.method == "ping":
            return None
        return self._innermost()

    def _named(self, message: Notification) -> Optional[QueuedExchange]:
        """Return the exchange that a notification names. Requires holding lock."""
        if message.method == "notifications/progress":
            key = message.params.get("progressToken")
        else:
            meta = message.params.get("_meta")
            key = meta.get(_SUBSCRIPTION) if isinstance(meta, dict) else None
        return self._by_id.get(key) if type(key) is int else None

    def _innermost(self) -> Optional[QueuedExchange]:
        """Return the innermost exchange if one thread alone waits. Requires lock."""
        waiting = [other for other in self._by_id.values() if other.wants_questions]
        if len({other.thread for other in waiting}) != 1:
            return None
        return max(waiting, key=lambda other: other.id)

    def only(self) -> Optional[QueuedExchange]:
        """Return the exchange if there is just one. Requires holding lock."""
        if len(self._by_id) != 1:
            return None
        return next(iter(self._by_id.values()))

    def fail_one(self, id: object, failure: Failure) -> bool:
        """Fail the exchange with this id; ``None`` means the only one there is."""
        with self.lock:
            if id is None:
                exchange = self.only()
            else:
                exchange = self._by_id.get(id) if type(id) is int else None
            if exchange is not None:
                exchange.fail(failure)
            return exchange is not None

    def fail_all(self, failure: Failure) -> None:
        """Fail everything in flight, and whatever is begun later."""
        with self.lock:
            self._failure = failure
            for exchange in self._by_id.values():
                exchange.fail(failure)

    def fail_unwritten(self, failure: Failure) -> None:
        """Fail what has not gone out in full, and whatever is begun later."""
        with self.lock:
            self._failure = failure
            for exchange in self._by_id.values():
                if not exchange.was_written():
                    exchange.fail(failure)

    def refuse(self, failure: Failure) -> None:
        """Fail whatever is begun later; leave what is in flight."""
        with self.lock:
            self._failure = failure

    def after_fork(self) -> None:
        """Forget everything in a forked child."""
        self.lock = threading.RLock()
        failure: Failure = lambda sent: ClientClosed("the connection is the parent's")
        self._failure = failure
        # The thread that forked may be inside a call: it shall not wait for an answer.
        for exchange in self._by_id.values():
            exchange.disown(failure)
        self._by_id = {}
