"""A server in this process: for tests, and for programs that carry their own."""

from __future__ import annotations

import logging
import threading
from typing import Any, Callable, Mapping, Optional

from .._deadline import Deadline
from ..exceptions import (
    ClientClosed,
    ConnectionLost,
    InvalidMessage,
    LocalProtocolError,
)
from ..protocol.jsonrpc import InvalidAnswer, Outgoing, decode, dumps, parse
from ._pending import PendingExchanges
from ._weak import weakly
from .base import Exchange, Limits, Transport, Unsolicited

__all__ = ["MemoryTransport", "Serve"]

_log = logging.getLogger("mcpsync")

JSON = Any
Send = Callable[[Mapping[str, JSON]], None]

#: Serves one decoded message: calls `send` with every message about it.
Serve = Callable[[Mapping[str, JSON], Send], None]


class MemoryTransport(Transport):
    """Talks to a function instead of a process or a socket.

    Every message is written as JSON and read again on its way, so that the server
    sees what it would see over a pipe. Messages are served on daemon threads, one for
    each request; notifications and answers on the thread that sends them.

    Args:
        serve: gets each message of the client, and a function to send messages with.
        name: how the server is called in messages and logs.
    """

    kind = "stdio"

    def __init__(
        self, serve: Serve, *, name: str = "memory", limits: Optional[Limits] = None
    ) -> None:
        self.name = name
        self.limits = limits or Limits()
        self._serve = serve
        self._pending: Optional[PendingExchanges] = None
        self._closed = False

    def open(self, on_unsolicited: Unsolicited, deadline: Deadline) -> None:
        if self._closed:
            raise ClientClosed("the client is closed", server=self.name)
        self.generation += 1
        self._pending = PendingExchanges(
            self.limits.pending_requests, weakly(on_unsolicited), self.name
        )

    def begin(self, outgoing: Outgoing, deadline: Deadline) -> Exchange:
        pending = self._table()
        exchange = pending.add(outgoing, lambda notice: self._hand_over(notice))
        threading.Thread(
            target=self._hand_over,
            args=(outgoing,),
            name="mcpsync-memory-%s" % self.name,
            daemon=True,
        ).start()
        return exchange

    def send(self, outgoing: Outgoing, deadline: Deadline) -> None:
        self._table()
        self._hand_over(outgoing)

    def say(self, message: Mapping[str, JSON]) -> None:
        """Send a message from the server, unasked. Any thread."""
        pending, name = self._pending, self.name
        if pending is None or self._closed:
            return
        try:
            pending.route(parse(decode(dumps(message))))
        except InvalidAnswer as error:
            text = "the server's answer is unusable: %s" % error.message
            pending.fail_one(
                error.response_id, lambda sent: InvalidMessage(text, server=name)
            )

    def _hand_over(self, outgoing: Outgoing) -> None:
        """Run the server's function; what it raises is the server's own failure."""
        if self._closed:
            return
        try:
            self._serve(decode(outgoing.body), self.say)
        except Exception as error:
            _log.exception("the function that serves %r failed", self.name)
            if outgoing.id is not None:
                self._fail(outgoing.id, type(error).__name__)

    def _fail(self, id: int, what: str) -> None:
        pending, name = self._pending, self.name
        text = "the function that serves this request failed: %s" % what
        if pending is not None:
            pending.fail_one(
                id, lambda sent: ConnectionLost(text, sent=True, server=name)
            )

    def _table(self) -> PendingExchanges:
        if self._closed:
            raise ClientClosed("the client is closed", server=self.name)
        if self._pending is None:
            raise LocalProtocolError("the transport is not open", server=self.name)
        return self._pending

    def close(self, timeout: Optional[float] = None) -> None:
        self._closed = True
        pending, name = self._pending, self.name
        if pending is not None:
            pending.fail_all(
                lambda sent: ClientClosed("the client was closed", server=name)
            )
