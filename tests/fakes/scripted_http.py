"""A well-behaved HTTP server whose replies are a function of the request.

It keeps connections alive, speaks chunked transfer encoding, and records every request
for assertions about the wire::

    def script(request):
        if request.method == "GET":
            return Reply(405)
        return sse_reply(progress, gate, answer_to(request, {"content": []}))

    with ScriptedServer(script) as server:
        ...
        assert server.requests[0].headers["Mcp-Method"] == "tools/call"
"""

from __future__ import annotations

import http.server
import json
import select
import socket
import threading
import time
from dataclasses import dataclass, field
from email.message import Message
from typing import Any, Callable, Dict, Iterable, List, Mapping, Optional, Union

from .listener import Listener

__all__ = [
    "Break",
    "Recorded",
    "Reply",
    "ScriptedServer",
    "UNTIL_CLOSED",
    "answer_to",
    "error_to",
    "event",
    "json_reply",
    "sse_reply",
]

#: No gate holds a connection longer than this, even if a test forgets to open it.
_GATE_SECONDS = 30.0


class _UntilClosed:
    def __repr__(self) -> str:
        return "UNTIL_CLOSED"


#: A step that waits until the client has closed the connection.
UNTIL_CLOSED = _UntilClosed()

#: One step of a streamed body: bytes to send as one chunk, seconds to wait, an event
#: to wait for, something to do, or UNTIL_CLOSED.
Step = Union[bytes, float, threading.Event, Callable[[], object], _UntilClosed]


@dataclass(frozen=True)
class Recorded:
    """One request as it came.

    Attributes:
        headers: looked up without regard to case.
        connection: counts the connections from 1: which of them it came on.
        at: the moment on the monotonic clock.
    """

    method: str
    path: str
    headers: Message
    body: bytes
    connection: int
    at: float

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def rpc_method(self) -> Optional[str]:
        """Return the JSON-RPC method, ``None`` where there is none."""
        if not self.body.lstrip().startswith(b"{"):
            return None
        method = self.json.get("method")
        return method if isinstance(method, str) else None


@dataclass(frozen=True)
class Reply:
    """What the server sends.

    Attributes:
        body: the whole body, or the steps of a chunked one.
        close: whether the connection ends after it. A streamed body that shall break
            off raises :class:`Break` in one of its steps.
    """

    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)
    body: Union[bytes, Iterable[Step]] = b""
    close: bool = False


class Break(Exception):
    """Raised in a step of a streamed body: the connection breaks in the middle."""


def json_reply(
    value: Any, status: int = 200, headers: Optional[Mapping[str, str]] = None
) -> Reply:
    """Return a JSON body with its content type."""
    sent = {"Content-Type": "application/json", **(headers or {})}
    return Reply(status, sent, json.dumps(value).encode("utf-8"))


def answer_to(request: Recorded, result: Any) -> Dict[str, Any]:
    """Return the JSON-RPC answer to a request."""
    return {"jsonrpc": "2.0", "id": request.json["id"], "result": result}


def error_to(
    request: Recorded, code: int, message: str = "no", data: Any = None
) -> Dict[str, Any]:
    """Return the JSON-RPC error answer to a request."""
    error: Dict[str, Any] = {"code": code, "message": message}
    if data is not None:
        error["data"] = data
    return {"jsonrpc": "2.0", "id": request.json["id"], "error": error}


def event(
    data: Any = None,
    *,
    id: Optional[str] = None,
    event: Optional[str] = None,
    retry: Optional[int] = None,
) -> bytes:
    """Return one server-sent event; `data` that is no string is written as JSON."""
    lines = []
    if event is not None:
        lines.append("event: " + event)
    if id is not None:
        lines.append("id: " + id)
    if retry is not None:
        lines.append("retry: %d" % retry)
    if data is not None:
        text = data if isinstance(data, str) else json.dumps(data)
        lines += ["data: " + line for line in text.split("\n")]
    return "\n".join(lines).encode("utf-8") + b"\n\n"


def sse_reply(
    *steps: Union[Step, Dict[str, Any]],
    status: int = 200,
    headers: Optional[Mapping[str, str]] = None,
) -> Reply:
    """Return an event stream; a step that is a dict is sent as a message event."""
    sent = {"Content-Type": "text/event-stream", **(headers or {})}
    body = [event(step) if isinstance(step, dict) else step for step in steps]
    return Reply(status, sent, body)


Script = Callable[[Recorded], Reply]


class ScriptedServer:
    """The server; a context manager. Leaving it fails if the script raised.

    Attributes:
        url: where it listens.
        requests: every request so far, in the order in which they were complete.
        most_at_once: the largest number of replies that were under way together.
        disconnected: set when an UNTIL_CLOSED step has seen the client go.
        stopped: set when the server closes; a step that waits should look at it.
    """

    def __init__(self, script: Script) -> None:
        self._script = script
        self.requests: List[Recorded] = []
        # Guards the requests and the count of replies that are under way.
        # Never while held: the script, or a wait on a socket.
        # Taken by the connections' threads and by await_requests().
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._busy = 0
        self.most_at_once = 0
        self.disconnected = threading.Event()
        self._listener = Listener(self._serve)
        self.url = self._listener.url
        self.stopped = self._listener.stopped
        self.drop_connections = self._listener.drop_connections

    def __enter__(self) -> "ScriptedServer":
        return self

    def __exit__(self, kind: object, *rest: object) -> None:
        self.close()
        if kind is None:
            assert not self._listener.errors, "\n".join(self._listener.errors)

    def close(self) -> None:
        self._listener.close()

    @property
    def connections(self) -> int:
        """How many connections were accepted."""
        return self._listener.connections

    @property
    def open_connections(self) -> int:
        """How many of them are still open at this end."""
        return self._listener.open_connections

    def of(self, name: str) -> List[Recorded]:
        """Return the requests with this HTTP method or JSON-RPC method."""
        with self._lock:
            requests = list(self.requests)
        return [r for r in requests if name in (r.method, r.rpc_method)]

    def await_requests(
        self, count: int, name: Optional[str] = None, limit: float = 5.0
    ) -> List[Recorded]:
        """Wait until `count` requests (of that name) have come, and return them."""
        end = time.monotonic() + limit
        while True:
            with self._lock:
                found = [
                    r
                    for r in self.requests
                    if name is None or name in (r.method, r.rpc_method)
                ]
                if len(found) >= count:
                    return found
                left = end - time.monotonic()
                if left <= 0:
                    raise AssertionError(
                        "%d requests came within %g s, not %d"
                        % (len(found), limit, count)
                    )
                self._changed.wait(left)

    def _serve(self, connection: socket.socket) -> None:
        number = self._listener.connections
        _Handler(connection, self, number)

    def _record(self, request: Recorded) -> None:
        with self._lock:
            self.requests.append(request)
            self._busy += 1
            self.most_at_once = max(self.most_at_once, self._busy)
            self._changed.notify_all()

    def _finished(self) -> None:
        with self._lock:
            self._busy -= 1

    def _pause(self, step: Union[float, threading.Event]) -> None:
        if not isinstance(step, threading.Event):
            self.stopped.wait(step)
            return
        end = time.monotonic() + _GATE_SECONDS
        # Two events cannot be waited for at once.
        while not step.wait(0.02):
            if self.stopped.is_set() or time.monotonic() > end:
                return


class _Handler(http.server.BaseHTTPRequestHandler):
    """Serves one connection."""

    protocol_version = "HTTP/1.1"
    server: ScriptedServer  # type of the inherited attribute, here without sockets

    def __init__(
        self, connection: socket.socket, server: ScriptedServer, number: int
    ) -> None:
        self._number = number
        super().__init__(connection, ("127.0.0.1", 0), server)

    def handle_one_request(self) -> None:
        self.raw_requestline = self.rfile.readline(65537)
        if not self.raw_requestline or not self.parse_request():
            self.close_connection = True
            return
        length = int(self.headers.get("Content-Length") or 0)
        request = Recorded(
            self.command,
            self.path,
            self.headers,
            self.rfile.read(length),
            self._number,
            time.monotonic(),
        )
        self.server._record(request)
        try:
            self._reply(self.server._script(request))
        finally:
            self.server._finished()

    def _reply(self, reply: Reply) -> None:
        whole = isinstance(reply.body, bytes)
        self.send_response(reply.status)
        for name, value in reply.headers.items():
            self.send_header(name, value)
        if not whole:
            self.send_header("Transfer-Encoding", "chunked")
        elif reply.status != 204:
            self.send_header("Content-Length", str(len(reply.body)))
        if reply.close:
            self.send_header("Connection", "close")
        self.end_headers()
        if whole:
            self.wfile.write(reply.body)
            return
        try:
            for step in reply.body:
                self._step(step)
        except Break:
            self.close_connection = True
            return
        self.wfile.write(b"0\r\n\r\n")

    def _step(self, step: Step) -> None:
        if isinstance(step, bytes):
            if step:
                self.wfile.write(b"%x\r\n%s\r\n" % (len(step), step))
        elif isinstance(step, (int, float, threading.Event)):
            self.server._pause(step)
        elif step is UNTIL_CLOSED:
            self._await_close()
        else:
            step()

    def _await_close(self) -> None:
        readable, _, _ = select.select([self.connection], [], [], _GATE_SECONDS)
        try:
            gone = readable and not self.connection.recv(1, socket.MSG_PEEK)
        except ConnectionError:
            gone = True
        if gone and not self.server.stopped.is_set():
            self.server.disconnected.set()
        raise Break

    def log_message(self, *args: object) -> None:
        """Say nothing on stderr."""
