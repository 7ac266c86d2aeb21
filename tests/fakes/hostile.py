"""An HTTP server that writes whatever bytes a test wants, at whatever pace."""

from __future__ import annotations

import contextlib
import re
import socket
from typing import Callable, Iterator, List, Optional, Tuple

from .listener import Listener

__all__ = ["Hostile", "hostile", "respond"]

Answer = Callable[[socket.socket, bytes, bytes], object]

_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d+)", re.IGNORECASE)


class Hostile:
    """Reads requests properly; what comes back is the test's own.

    Attributes:
        requests: head and body of every request read so far.
    """

    def __init__(self, answer: Answer, read_request: bool = True) -> None:
        self._answer = answer
        self._read_request = read_request
        self.requests: List[Tuple[bytes, bytes]] = []
        self._listener = Listener(self._serve)
        self.url = self._listener.url
        self.port = self._listener.port
        self.stopped = self._listener.stopped
        self.drop_connections = self._listener.drop_connections

    @property
    def connections(self) -> int:
        """How many connections were accepted."""
        return self._listener.connections

    @property
    def open_connections(self) -> int:
        """How many of them are still open at this end."""
        return self._listener.open_connections

    @property
    def errors(self) -> List[str]:
        return self._listener.errors

    def close(self) -> None:
        self._listener.close()

    def _serve(self, connection: socket.socket) -> None:
        if not self._read_request:
            self._answer(connection, b"", b"")
            return
        again = True
        rest = b""
        while again:
            request = _read(connection, rest)
            if request is None:
                return
            head, body, rest = request
            self.requests.append((head, body))
            again = self._answer(connection, head, body) is True


def _read(connection: socket.socket, data: bytes) -> Optional[Tuple[bytes, ...]]:
    """Return head, body and what follows them; None at the end of the connection."""
    while b"\r\n\r\n" not in data:
        more = connection.recv(65536)
        if not more:
            return None
        data += more
    head, _, body = data.partition(b"\r\n\r\n")
    announced = _LENGTH.search(head)
    length = int(announced.group(1)) if announced else 0
    parts = [body]
    missing = length - len(body)
    while missing > 0:
        more = connection.recv(65536)
        if not more:
            return None
        parts.append(more)
        missing -= len(more)
    body = b"".join(parts)
    return head, body[:length], body[length:]


@contextlib.contextmanager
def hostile(answer: Answer, read_request: bool = True) -> Iterator[Hostile]:
    """Run a server whose `answer(connection, head, body)` writes the response.

    The connection is closed when `answer` returns, unless it returns ``True``: then
    the next request on it is read. With `read_request` off, `answer` is called as soon
    as a connection is accepted. A server that shall be silent waits on `.stopped`.
    """
    server = Hostile(answer, read_request)
    try:
        yield server
    finally:
        server.close()
    assert not server.errors, "\n".join(server.errors)


def respond(
    body: bytes = b"",
    *headers: str,
    status: str = "200 OK",
    content_type: str = "application/json",
    length: bool = True,
) -> bytes:
    """Return the bytes of one response; without `length` the close ends its body."""
    lines = ["HTTP/1.1 " + status, "Content-Type: " + content_type]
    lines += headers
    if length:
        lines.append("Content-Length: %d" % len(body))
    return "\r\n".join(lines).encode("latin-1") + b"\r\n\r\n" + body
