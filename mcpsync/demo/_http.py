"""The demo server over HTTP on loopback."""

from __future__ import annotations

import http.server
import socket
import socketserver
import sys
import threading
import time
from types import TracebackType
from typing import Any, Callable, Dict, List, Optional, Type

from ._handler import Handler
from ._loop import Loop
from ._server import Demo
from ._sessions import HTTPSession, SSESession
from ._wire import LEGACY

CLOSE_SECONDS = 5.0


class HTTPDemo:
    """A running demo server on 127.0.0.1, until it is closed; a context manager.

    Args:
        demo: How it behaves.
        port: The port; 0 takes any free one.
        streamable: Whether there is an endpoint ``/mcp``; without it there is only
            the HTTP+SSE transport at ``/sse``.

    Raises:
        OSError: when the port is taken.
    """

    def __init__(self, demo: Demo, port: int = 0, *, streamable: bool = True):
        self.demo = demo
        self.streamable = streamable
        self._closed = False
        self._threads: Dict[threading.Thread, Optional[socket.socket]] = {}
        self._http_sessions: Dict[str, HTTPSession] = {}
        self._sse_sessions: Dict[str, SSESession] = {}
        # Guards everything private above.
        # Never held while a socket or another lock is used.
        # Taken by the loop, by the threads of connections, and by close().
        self._lock = threading.Lock()
        self._server = _Server(port, self)
        self.loop = Loop(self._server.socket, self._server.handle_request)

    @property
    def port(self) -> int:
        """The port it listens on."""
        return self._server.server_port

    @property
    def url(self) -> str:
        """The URL of the Streamable HTTP endpoint."""
        return f"http://127.0.0.1:{self.port}/mcp"

    @property
    def sse_url(self) -> str:
        """The URL of the HTTP+SSE transport's event stream."""
        return f"http://127.0.0.1:{self.port}/sse"

    @property
    def stats(self) -> Dict[str, int]:
        """The counters, as the tool ``stats`` returns them."""
        return self.demo.stats

    def close(self) -> None:
        """End streams, calls and connections; return when all threads have ended.

        Idempotent, from any thread but the server's own; takes 5 s at most.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
        self.loop.stop_listening()
        self.demo.close()
        self._end_sessions()
        with self._lock:
            threads = dict(self._threads)
        for connection in threads.values():
            _shut(connection)
        deadline = time.monotonic() + CLOSE_SECONDS
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self.loop.stop()

    def __enter__(self) -> HTTPDemo:
        return self

    def __exit__(
        self,
        exc_type: Optional[Type[BaseException]],
        exc: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.close()

    # Faults a test may want

    def expire_sessions(self) -> None:
        """Forget all ``Mcp-Session-Id`` sessions: requests of theirs get 404."""
        for session_id in self._session_ids():
            self.end_http_session(session_id)

    def end_listens(self) -> None:
        """End every ``subscriptions/listen`` in good order."""
        self.demo.end_listens()

    def drop_connections(self) -> None:
        """Cut every connection, in the middle of whatever it does."""
        with self._lock:
            connections = list(self._threads.values())
        for connection in connections:
            _shut(connection)

    # For the handler

    def accepted(self, connection: socket.socket, serve: Callable[[], None]) -> None:
        """Serve a new connection on a thread of its own."""
        self.demo.counters.add("connections")
        self.spawn("mcpsync-demo-connection", serve, connection)

    def spawn(
        self,
        name: str,
        target: Callable[[], None],
        connection: Optional[socket.socket] = None,
    ) -> None:
        """Run something on a thread that close() waits for."""

        def run() -> None:
            try:
                target()
            finally:
                with self._lock:
                    self._threads.pop(thread, None)

        thread = threading.Thread(target=run, name=name, daemon=True)
        with self._lock:
            self._threads[thread] = connection
        thread.start()

    def add_http_session(self, session: HTTPSession) -> None:
        """Make a session known by its id."""
        with self._lock:
            self._http_sessions[session.id] = session

    def http_session(self, session_id: str) -> Optional[HTTPSession]:
        """Return the session of this id, None if it is unknown or has ended."""
        with self._lock:
            return self._http_sessions.get(session_id)

    def end_http_session(self, session_id: str) -> bool:
        """End a session with its calls and streams; false if it is unknown."""
        with self._lock:
            session = self._http_sessions.pop(session_id, None)
        if session is None:
            return False
        self.demo.close_session(session.session)
        session.end_streams()
        return True

    def add_sse_session(self, session: SSESession) -> None:
        """Make an HTTP+SSE connection known by its id."""
        with self._lock:
            self._sse_sessions[session.id] = session

    def sse_session(self, session_id: str) -> Optional[SSESession]:
        """Return the HTTP+SSE connection of this id."""
        with self._lock:
            return self._sse_sessions.get(session_id)

    def end_sse_session(self, session: SSESession) -> None:
        """End an HTTP+SSE connection with its calls."""
        with self._lock:
            self._sse_sessions.pop(session.id, None)
        self.demo.close_session(session.session)

    def _session_ids(self) -> List[str]:
        with self._lock:
            return list(self._http_sessions)

    def _end_sessions(self) -> None:
        self.expire_sessions()
        with self._lock:
            sessions = list(self._sse_sessions.values())
        for session in sessions:
            self.end_sse_session(session)
            session.sink.close()


def serve_http(
    port: int = 0,
    *,
    name: str = "mcpsync-demo",
    era: str = "both",
    protocol: str = LEGACY[0],
    page_size: Optional[int] = None,
    streamable: bool = True,
) -> HTTPDemo:
    """Start a demo server on loopback and return it, already listening.

    Args:
        port: The port; 0 takes any free one.
        name: The name the server gives itself.
        era: ``both``, ``modern`` (2026-07-28 alone) or ``legacy`` (``initialize``).
        protocol: The newest legacy version it negotiates.
        page_size: Entries per page of a listing; None lists everything at once.
        streamable: Whether there is Streamable HTTP besides HTTP+SSE.

    Raises:
        OSError: when the port is taken.
        ValueError: for an unknown era or version.
    """
    demo = Demo(name=name, era=era, protocol=protocol, page_size=page_size)
    return HTTPDemo(demo, port, streamable=streamable)


class _Server(http.server.ThreadingHTTPServer):
    """The listening socket; connections run on threads of the HTTPDemo."""

    request_queue_size = 128
    timeout = 0

    def __init__(self, port: int, owner: HTTPDemo):
        self.owner = owner
        super().__init__(("127.0.0.1", port), Handler)
        # The client may be gone between the selector's word and accept().
        self.socket.setblocking(False)

    def server_bind(self) -> None:
        # HTTPServer's own asks the name service for the host's name.
        socketserver.TCPServer.server_bind(self)
        self.server_name = "127.0.0.1"
        self.server_port = self.socket.getsockname()[1]

    def process_request(self, request: Any, client_address: Any) -> None:
        self.owner.accepted(
            request, lambda: self.process_request_thread(request, client_address)
        )

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that goes away is nothing to report.
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


def _shut(connection: Optional[socket.socket]) -> None:
    if connection is None:
        return
    try:
        connection.shutdown(socket.SHUT_RDWR)
    except OSError:
        return
