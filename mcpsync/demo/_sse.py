"""Event streams of the demo server: one on a connection, one that can be resumed."""

from __future__ import annotations

import socket
import threading
from typing import List, Optional, Tuple

from ._wire import JSON, Message, encode, is_response

WRITE_SECONDS = 10.0
KEPT_EVENTS = 1000
RETRY_MS = 500


def event(
    message: JSON,
    *,
    event_id: Optional[str] = None,
    kind: Optional[str] = None,
    retry: Optional[int] = None,
) -> bytes:
    """Return one event; without a message its data is empty."""
    data = b"" if message is None else encode(message)
    lines = [f"event: {kind}".encode()] if kind else []
    if event_id is not None:
        lines.append(f"id: {event_id}".encode())
    if retry is not None:
        lines.append(f"retry: {retry}".encode())
    return b"\n".join([*lines, b"data: " + data, b"", b""])


class Sink:
    """The body of one event-stream response. Any thread may write or end it.

    Args:
        connection: Where it is written; a write that takes 10 s ends it.
        headers: The status line and headers, sent with the first events.
    """

    def __init__(self, connection: socket.socket, headers: bytes):
        self.closed = threading.Event()
        self.intact = True
        self._connection = connection
        self._headers = headers
        # Guards the connection's output, so it is held over one write of at most
        # WRITE_SECONDS, and nothing else.
        # Taken by whoever has an event, and by the connection's thread at the end.
        self._lock = threading.Lock()

    def open(self, first: bytes) -> None:
        """Send the headers and the first events."""
        self._connection.settimeout(WRITE_SECONDS)
        with self._lock:
            self._send(self._headers + _chunk(first))

    def write(self, data: bytes) -> None:
        """Send events or a comment; when nobody reads any more, do nothing."""
        with self._lock:
            if not self.closed.is_set():
                self._send(_chunk(data))

    def close(self) -> None:
        """End the response in good order; idempotent."""
        with self._lock:
            if not self.closed.is_set():
                self._send(b"0\r\n\r\n")
                self.closed.set()

    def abort(self) -> None:
        """End the response by dropping the connection; never blocks."""
        if self.closed.is_set():
            return
        self.intact = False
        self.closed.set()
        try:
            self._connection.shutdown(socket.SHUT_RDWR)
        except OSError:
            return

    def settle(self) -> None:
        """Wait until no thread writes any more."""
        with self._lock:
            return

    def _send(self, data: bytes) -> None:
        try:
            self._connection.sendall(data)
        except OSError:
            self.abort()


def _chunk(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Stream:
    """The messages of one legacy stream, kept so that a client can resume it.

    Args:
        name: Part of every event id; unique in the session.
        primed: Whether it begins with an event without data (2025-11-25,
            basic/transports), from which the client can resume; may be set until the
            stream is opened.
    """

    def __init__(self, name: str, primed: bool = False):
        self.name = name
        self.primed = primed
        self._last = 0
        self._events: List[Tuple[int, bytes]] = []
        self._sink: Optional[Sink] = None
        self._used = False
        self._finished = False
        # Guards everything private above and the order of the events, so it is held
        # over one write, which Sink bounds; never over a call into the server.
        # Taken by whoever has a message for it and by those who resume it.
        self._lock = threading.Lock()

    def attach(self, sink: Sink, after: Optional[int] = None) -> None:
        """Write to this sink from now on, first what came after that event."""
        with self._lock:
            old, self._sink, self._used = self._sink, sink, True
            first = [] if after is None else self._since(after)
            if after is None and self.primed:
                first = [event(None, event_id=self._next_id(), retry=RETRY_MS)]
            sink.open(b"".join(first) or b": open\n\n")
            if self._finished:
                sink.close()
        if old is not None:
            old.close()

    def send(self, message: Message) -> None:
        """Keep and write one message; a stream nobody ever opened loses it."""
        with self._lock:
            if self._finished or not self._used:
                return
            data = event(message, event_id=self._next_id())
            self._events.append((self._last, data))
            del self._events[:-KEPT_EVENTS]
            if self._sink is not None:
                self._sink.write(data)

    def answer(self, message: Message) -> None:
        """Send one message of a call; the response is the last one."""
        self.send(message)
        if is_response(message):
            self.finish()

    def drop(self, retry: int) -> None:
        """Close the connection's stream; the client may be back after retry ms."""
        with self._lock:
            sink, self._sink = self._sink, None
            if sink is not None:
                sink.write(f"retry: {retry}\n\n".encode())
                sink.close()

    def finish(self) -> None:
        """End the stream: nothing more will be sent."""
        with self._lock:
            self._finished = True
            sink, self._sink = self._sink, None
            if sink is not None:
                sink.close()

    def _next_id(self) -> str:
        self._last += 1
        return f"{self.name}:{self._last}"

    def _since(self, after: int) -> List[bytes]:
        return [data for number, data in self._events if number > after]
