"""One HTTP connection of the demo server."""

from __future__ import annotations

import contextlib
import http.server
import socket
from http import HTTPStatus
from typing import TYPE_CHECKING, Callable, Dict, List, Sequence, Tuple
from urllib.parse import parse_qs, urlsplit

from . import _headers as headers_of
from ._calls import Cancellation, Crash
from ._sessions import HTTPSession, SSESession
from ._sse import Sink, event
from ._wire import (
    HEADER_MISMATCH,
    INVALID_REQUEST,
    JSON,
    LEGACY,
    METHOD_NOT_FOUND,
    MISSING_CAPABILITY,
    SERVER_ERROR,
    SESSION_NOT_FOUND,
    UNSUPPORTED_VERSION,
    Message,
    RPCError,
    decode,
    encode,
    is_request,
    is_response,
    valid_id,
)

if TYPE_CHECKING:
    from ._http import HTTPDemo

MAX_BODY = 16 * 1024 * 1024
IDLE_SECONDS = 300.0
KEEP_ALIVE_SECONDS = 15.0
EVENT_STREAM = "text/event-stream"

# The statuses of 2026-07-28, basic/transports/streamable-http; all others are 200.
STATUSES: Dict[int, int] = {
    METHOD_NOT_FOUND: 404,
    INVALID_REQUEST: 400,
    HEADER_MISMATCH: 400,
    MISSING_CAPABILITY: 400,
    UNSUPPORTED_VERSION: 400,
}

Pairs = Sequence[Tuple[str, str]]


class Refusal(Exception):
    """A request that is answered with an HTTP error."""

    def __init__(self, status: int, text: str = "", code: int = SERVER_ERROR):
        super().__init__(text)
        self.status = status
        self.body = RPCError(code, text).answer(None) if text else None


class Handler(http.server.BaseHTTPRequestHandler):
    """Serve the requests of one connection, one after the other."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = IDLE_SECONDS

    @property
    def owner(self) -> HTTPDemo:
        """The server it belongs to."""
        owner: HTTPDemo = getattr(self.server, "owner")
        return owner

    def log_message(self, format: str, *args: object) -> None:
        """Keep quiet: standard error belongs to whoever started the server."""

    def do_GET(self) -> None:
        """Serve an event stream."""
        self._route({"/mcp": self._get_mcp, "/sse": self._get_sse})

    def do_POST(self) -> None:
        """Serve one message, or one batch of 2025-03-26."""
        self._route({"/mcp": self._post_mcp, "/messages": self._post_messages})

    def do_DELETE(self) -> None:
        """End a session."""
        self._route({"/mcp": self._delete_mcp})

    def _route(self, paths: Dict[str, Callable[[bytes], None]]) -> None:
        try:
            body = self._read_body()
            if not headers_of.is_local(self.headers):
                raise Refusal(403, "Forbidden: not a local Host or Origin")
            path = urlsplit(self.path).path
            if path not in self._paths():
                raise Refusal(404, "Not found")
            if path not in paths:
                raise Refusal(405, "Method not allowed")
            paths[path](body)
        except Refusal as exc:
            self._reply_json(exc.status, exc.body)
        except Crash:
            self._drop()

    def _paths(self) -> List[str]:
        paths = ["/mcp"] if self.owner.streamable else []
        if self.owner.demo.era != "modern":
            paths += ["/sse", "/messages"]
        return paths

    # Streamable HTTP

    def _post_mcp(self, body: bytes) -> None:
        if not headers_of.is_json(self.headers):
            raise Refusal(415, "Content-Type must be application/json")
        if not headers_of.accepts(self.headers, "application/json", EVENT_STREAM):
            raise Refusal(406, "Accept must list application/json, text/event-stream")
        try:
            message = decode(body)
        except RPCError as exc:
            raise Refusal(400, exc.message, exc.code) from exc
        if self._is_modern(message):
            self._modern(message)
        else:
            self._legacy(message)

    def _is_modern(self, message: JSON) -> bool:
        demo = self.owner.demo
        if demo.era != "both":
            return demo.era == "modern"
        if isinstance(message, dict) and demo.is_modern(message):
            return True
        version = self.headers.get("MCP-Protocol-Version", LEGACY[0])
        return version not in LEGACY and "Mcp-Session-Id" not in self.headers

    def _modern(self, message: JSON) -> None:
        demo = self.owner.demo
        if not isinstance(message, dict) or "method" not in message:
            raise Refusal(400, "A body is one request or notification", INVALID_REQUEST)
        if "id" not in message:
            self._reply(202)
            return
        try:
            if message["method"] == "initialize" and not demo.is_modern(message):
                raise demo.unsupported_by(message)
            headers_of.check(demo, message, self.headers)
        except RPCError as exc:
            self._reply_json(400, exc.answer(message["id"]))
            return
        if demo.streams(message, modern=True):
            self._modern_stream(message)
            return
        answers: List[Message] = []
        demo.handle(message, answers.append)
        code = answers[-1].get("error", {}).get("code")
        self._reply_json(STATUSES.get(code, 200), answers[-1])

    def _modern_stream(self, message: Message) -> None:
        sink = self._sink([("X-Accel-Buffering", "no")])
        cancellation = Cancellation()

        def send(answer: Message) -> None:
            sink.write(event(answer))
            if is_response(answer):
                sink.close()

        def gone() -> None:
            # The closed stream is the cancellation (basic/patterns/cancellation).
            sink.abort()
            cancellation.cancel()

        sink.open(b": keep-alive\n\n")
        with self.owner.loop.watching(self.connection, gone):
            self.owner.demo.handle(message, send, None, cancellation)
            if message["method"] != "subscriptions/listen":
                sink.close()
            self._await(sink)
        cancellation.cancel()

    def _legacy(self, message: JSON) -> None:
        if is_request(message) and message["method"] == "initialize":
            self._initialize(message)
            return
        session = self._session()
        demo = self.owner.demo
        if isinstance(message, list):
            self._legacy_batch(message, session)
        elif not is_request(message):
            demo.handle(message, lambda answer: None, session.session)
            self._reply(202)
        elif demo.streams(message, modern=False):
            self._legacy_stream(message, session)
        else:
            answers: List[Message] = []
            demo.handle(message, answers.append, session.session)
            self._reply_json(200, answers[-1])

    def _initialize(self, message: Message) -> None:
        demo = self.owner.demo
        session = HTTPSession(demo)
        answers: List[Message] = []
        demo.handle(message, answers.append, session.session)
        if "error" in answers[0]:
            demo.close_session(session.session)
            self._reply_json(200, answers[0])
            return
        session.established()
        self.owner.add_http_session(session)
        self._reply_json(200, answers[0], [("Mcp-Session-Id", session.id)])

    def _session(self) -> HTTPSession:
        """Return the session the request names.

        Raises:
            Refusal: 400 when it names none, 404 when there is none of that id.
        """
        version = self.headers.get("MCP-Protocol-Version")
        if version is not None and version not in self.owner.demo.legacy_versions:
            raise Refusal(400, f"Bad Request: unsupported protocol version {version}")
        session_id = self.headers.get("Mcp-Session-Id")
        if session_id is None:
            raise Refusal(400, "Bad Request: Mcp-Session-Id header is required")
        session = self.owner.http_session(session_id)
        if session is None:
            raise Refusal(404, "Session not found", SESSION_NOT_FOUND)
        return session

    def _legacy_batch(self, batch: List[JSON], session: HTTPSession) -> None:
        try:
            answers = self.owner.demo.handle_batch(batch, session.session)
        except RPCError as exc:
            raise Refusal(400, exc.message, exc.code) from exc
        if answers:
            self._reply_json(200, answers)
        else:
            self._reply(202)

    def _legacy_stream(self, message: Message, session: HTTPSession) -> None:
        stream = session.new_stream()
        sink = self._sink()
        stream.attach(sink)
        session.session.begin(message["id"])

        def run() -> None:
            # A thread of its own: the call outlives the connection, from which a
            # client may disconnect, to resume the stream on another.
            handle = self.owner.demo.handle
            handle(message, stream.answer, session.session, drop=stream.drop)
            stream.finish()

        self.owner.spawn("mcpsync-demo-call", run)
        self._hold(sink)

    def _get_mcp(self, body: bytes) -> None:
        if self.owner.demo.era == "modern":
            raise Refusal(405, "Method not allowed")
        if not headers_of.accepts(self.headers, EVENT_STREAM):
            raise Refusal(406, "Accept must list text/event-stream")
        session = self._session()
        sink = self._sink()
        last = self.headers.get("Last-Event-ID")
        if last is None:
            session.standalone.attach(sink)
        else:
            found = session.find(last)
            if found is None:
                raise Refusal(400, "Bad Request: unknown Last-Event-ID")
            stream, after = found
            stream.attach(sink, after)
        self._hold(sink)

    def _delete_mcp(self, body: bytes) -> None:
        if self.owner.demo.era == "modern":
            raise Refusal(405, "Method not allowed")
        if self.owner.end_http_session(self._session().id):
            self.owner.demo.counters.add("deleted_sessions")
        self._reply(200)

    # HTTP+SSE

    def _get_sse(self, body: bytes) -> None:
        sink = self._sink()
        session = SSESession(self.owner.demo, sink)
        self.owner.add_sse_session(session)
        try:
            endpoint = f"/messages?session={session.id}"
            sink.open(f"event: endpoint\ndata: {endpoint}\n\n".encode())
            self._hold(sink)
        finally:
            self.owner.end_sse_session(session)

    def _post_messages(self, body: bytes) -> None:
        query = parse_qs(urlsplit(self.path).query)
        session = self.owner.sse_session(query.get("session", [""])[0])
        if session is None:
            raise Refusal(404, "Session not found", SESSION_NOT_FOUND)
        try:
            message = decode(body)
        except RPCError as exc:
            raise Refusal(400, exc.message, exc.code) from exc
        if is_request(message) and valid_id(message["id"]):
            # Known before the reply, after which its cancellation may come.
            session.session.begin(message["id"])
        self._reply(202, b"Accepted")
        if is_request(message) and message["method"] == "tools/call":
            self.owner.spawn("mcpsync-demo-call", lambda: self._run(session, message))
        else:
            self._run(session, message)

    def _run(self, session: SSESession, message: JSON) -> None:
        demo = self.owner.demo
        try:
            if not isinstance(message, list):
                demo.handle(message, session.send, session.session)
                return
            answers = demo.handle_batch(message, session.session)
            if answers:
                session.sink.write(event(answers, kind="message"))
        except RPCError as exc:
            session.send(exc.answer(None))
        except Crash:
            session.sink.abort()

    # Reading and writing

    def _read_body(self) -> bytes:
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not length.isdigit():
            self.close_connection = True
            raise Refusal(411, "Content-Length is required")
        if int(length) > MAX_BODY:
            self._skip(int(length))
            self.close_connection = True
            raise Refusal(413, f"The body is larger than {MAX_BODY} bytes")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise ConnectionError("the client closed the connection")
        return body

    def _skip(self, length: int) -> None:
        """Read what a client sends in vain, so that it can see the answer."""
        remaining = min(length, 4 * MAX_BODY)
        while remaining > 0:
            data = self.rfile.read(min(remaining, 65536))
            if not data:
                return
            remaining -= len(data)

    def _head(self, status: int, pairs: Pairs) -> bytes:
        lines = [f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"]
        lines += [f"{name}: {value}" for name, value in pairs]
        if self.close_connection:
            lines.append("Connection: close")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    def _reply(self, status: int, body: bytes = b"", pairs: Pairs = ()) -> None:
        head = self._head(status, [*pairs, ("Content-Length", str(len(body)))])
        self.wfile.write(head + body)

    def _reply_json(self, status: int, message: JSON, pairs: Pairs = ()) -> None:
        body = b"" if message is None else encode(message)
        self._reply(status, body, [("Content-Type", "application/json"), *pairs])

    def _drop(self) -> None:
        self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.shutdown(socket.SHUT_RDWR)

    def _sink(self, pairs: Pairs = ()) -> Sink:
        kept = [
            ("Content-Type", EVENT_STREAM),
            ("Cache-Control", "no-cache"),
            ("Transfer-Encoding", "chunked"),
        ]
        return Sink(self.connection, self._head(200, [*kept, *pairs]))

    def _hold(self, sink: Sink) -> None:
        """Keep the connection for a stream until one of both sides ends it."""
        with self.owner.loop.watching(self.connection, sink.abort):
            self._await(sink)

    def _await(self, sink: Sink) -> None:
        while not sink.closed.wait(KEEP_ALIVE_SECONDS):
            sink.write(b": keep-alive\n\n")
        sink.settle()
        if not sink.intact:
            self.close_connection = True
        with contextlib.suppress(OSError):
            self.connection.settimeout(self.timeout)
