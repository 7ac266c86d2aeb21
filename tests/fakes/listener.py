"""A listening socket on the loopback interface, one thread for each connection."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
import traceback
from typing import Callable, List, Set

__all__ = ["Listener"]


class Listener:
    """Accepts connections and serves each on a daemon thread of its own.

    Attributes:
        port: where it listens, on 127.0.0.1.
        connections: how many it has accepted.
        errors: tracebacks of what `serve` raised, broken connections aside.
        stopped: set when the listener closes; a peer that is to be silent waits on it
            instead of sleeping.
    """

    def __init__(self, serve: Callable[[socket.socket], object]) -> None:
        self._serve = serve
        self._socket = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._socket.getsockname()[1]
        self.connections = 0
        self.errors: List[str] = []
        self.stopped = threading.Event()
        # Guards the open connections and their threads.
        # Never while held: a wait on a socket or a thread.
        # Taken by the accepting thread, by each connection's, and by close().
        self._lock = threading.Lock()
        self._open: Set[socket.socket] = set()
        self._threads: Set[threading.Thread] = set()
        self._acceptor = threading.Thread(target=self._accept, daemon=True)
        self._acceptor.start()

    @property
    def url(self) -> str:
        return "http://127.0.0.1:%d/mcp" % self.port

    @property
    def open_connections(self) -> int:
        with self._lock:
            return len(self._open)

    def close(self) -> None:
        """Stop, and break every connection that is still open. Idempotent."""
        if not self.stopped.is_set():
            self.stopped.set()
            # Closing a listening socket does not wake the thread in accept().
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", self.port), 1).close()
        self._acceptor.join(5)
        self.drop_connections()
        with self._lock:
            threads = set(self._threads)
        end = time.monotonic() + 5
        for thread in threads:
            thread.join(max(0.0, end - time.monotonic()))

    def drop_connections(self) -> None:
        """Break every open connection, as a crash of the server would."""
        with self._lock:
            connections = set(self._open)
        for connection in connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def _accept(self) -> None:
        with self._socket:
            while True:
                try:
                    connection, _ = self._socket.accept()
                except OSError:
                    return
                if self.stopped.is_set():
                    connection.close()
                    return
                self._begin(connection)

    def _begin(self, connection: socket.socket) -> None:
        # Nothing here waits for ever, even if a test forgets to.
        connection.settimeout(30)
        thread = threading.Thread(target=self._run, args=(connection,), daemon=True)
        with self._lock:
            self.connections += 1
            self._open.add(connection)
            self._threads.add(thread)
        thread.start()

    def _run(self, connection: socket.socket) -> None:
        try:
            with connection:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self._serve(connection)
        except OSError:
            # The client is gone, or we are closing: the test says which is right.
            return
        except BaseException:
            self.errors.append(traceback.format_exc())
        finally:
            with self._lock:
                self._open.discard(connection)
                self._threads.discard(threading.current_thread())
