"""What goes over the wire: methods, ids and directions, but no contents.

A transport that wraps another one and notes what passes, as anybody could write it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Union

from .._deadline import Deadline
from ..protocol.jsonrpc import (
    Message,
    Notification,
    Outgoing,
    Request,
    Response,
    decode,
)
from ..transports.base import Exchange, Note, Profile, Transport, Unsolicited

__all__ = ["Entry", "RecordingTransport", "Transcript"]


@dataclass(frozen=True)
class Entry:
    """One message.

    Attributes:
        direction: ``"sent"`` or ``"received"``.
        kind: ``"request"``, ``"notification"``, ``"result"`` or ``"error"``.
        method: its method; that of the request which an answer answers.
        id: the request's id; None for a notification.
    """

    direction: str
    kind: str
    method: Optional[str]
    id: Union[None, int, str]

    def to_json(self) -> Dict[str, Any]:
        """Return the entry as a JSON object."""
        return dict(vars(self))

    def __str__(self) -> str:
        arrow = "->" if self.direction == "sent" else "<-"
        number = "" if self.id is None else " #%s" % self.id
        return "%s %-12s %s%s" % (arrow, self.kind, self.method or "", number)


class Transcript:
    """The messages of one connection, in the order in which they passed.

    Any thread may add to it: appending to a list is atomic.
    """

    def __init__(self) -> None:
        self.entries: List[Entry] = []
        self._asked: Dict[object, str] = {}

    def sent(self, outgoing: Outgoing) -> None:
        """Note a message on its way to the server."""
        message = decode(outgoing.body)
        method, number = message.get("method"), message.get("id")
        if method is None:
            kind = "error" if "error" in message else "result"
            method = self._asked.get(number)
        else:
            kind = "notification" if number is None else "request"
        self.entries.append(Entry("sent", kind, method, number))

    def received(self, message: Message, about: Optional[str] = None) -> None:
        """Note a message of the server, and the method of the request it is about."""
        if isinstance(message, Response):
            kind = "result" if message.error is None else "error"
            entry = Entry("received", kind, about, message.id)
        elif isinstance(message, Request):
            self._asked[message.id] = message.method
            entry = Entry("received", "request", message.method, message.id)
        else:
            entry = Entry("received", "notification", message.method, None)
        self.entries.append(entry)


class RecordingTransport(Transport):
    """Passes everything on to another transport and writes a transcript.

    What the other one says by itself, such as that a request is cancelled, is not
    noted.
    """

    def __init__(self, inner: Transport, transcript: Transcript) -> None:
        self.kind, self.name = inner.kind, inner.name
        self._inner = inner
        self._transcript = transcript
        self._unsolicited: Optional[Unsolicited] = None

    def open(self, on_unsolicited: Unsolicited, deadline: Deadline) -> None:
        self._unsolicited = on_unsolicited
        self._inner.open(self._overheard, deadline)
        self.generation = self._inner.generation

    def _overheard(self, message: Union[Message, Note]) -> None:
        if isinstance(message, (Notification, Request, Response)):
            self._transcript.received(message)
        if self._unsolicited is not None:
            self._unsolicited(message)

    def establish(self, profile: Optional[Profile]) -> None:
        self._inner.establish(profile)
        self.generation = self._inner.generation

    @property
    def alive(self) -> bool:
        return self._inner.alive

    @property
    def stderr_tail(self) -> str:
        return self._inner.stderr_tail

    def switch(self, kind: str) -> Transport:
        return RecordingTransport(self._inner.switch(kind), self._transcript)

    def begin(self, outgoing: Outgoing, deadline: Deadline) -> Exchange:
        # Before it is sent: the answer may be there at once.
        self._transcript.sent(outgoing)
        exchange = self._inner.begin(outgoing, deadline)
        return _RecordingExchange(exchange, self._transcript)

    def send(self, outgoing: Outgoing, deadline: Deadline) -> None:
        self._transcript.sent(outgoing)
        self._inner.send(outgoing, deadline)

    def close(self, timeout: Optional[float] = None) -> None:
        self._inner.close(timeout)

    def abandon(self) -> None:
        self._inner.abandon()


class _RecordingExchange(Exchange):
    """One request, noted."""

    def __init__(self, inner: Exchange, transcript: Transcript) -> None:
        self.outgoing = inner.outgoing
        self._inner = inner
        self._transcript = transcript

    def receive(self, deadline: Deadline) -> Message:
        message = self._inner.receive(deadline)
        self._transcript.received(message, self.outgoing.method)
        return message

    def deliver(self, message: Message) -> None:
        self._inner.deliver(message)

    def cancel(self, reason: str) -> None:
        self._inner.cancel(reason)

    def adopt(self, other: Exchange) -> None:
        inner = other._inner if isinstance(other, _RecordingExchange) else other
        self._inner.adopt(inner)

    def close(self) -> None:
        self._inner.close()
