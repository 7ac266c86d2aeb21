"""Sockets that can be shut down from outside, whatever their reader is waiting for.

The timeouts of ``requests`` are for one read each, and closing a response from another
thread blocks behind its reader. What ends a request in every phase, headers and TLS
handshake included, is to shut its socket down; so every connection notes its socket
with the request that it serves.
"""

from __future__ import annotations

import http.client
import os
import socket
import threading
import weakref
from contextlib import contextmanager
from typing import Any, Dict, Iterator, List, Optional, Tuple

import requests.adapters
import urllib3.connection
import urllib3.connectionpool
import urllib3.exceptions
import urllib3.util.connection

from .._deadline import Deadline

__all__ = ["Abort", "AbortableAdapter", "Sockets", "linger_free_close"]

#: Most interim (1xx) responses before the real one.
_INTERIM = 5

#: Most bytes of header fields in one response.
_HEADER_BYTES = 64 * 1024


class Sockets:
    """The sockets of one transport, and which request each of them serves now."""

    def __init__(self) -> None:
        self._sockets: "weakref.WeakSet[socket.socket]" = weakref.WeakSet()
        # Guards whose a socket is: a late abort must not hit the next request.
        # Never while held: anything but a shutdown, which does not wait.
        # Taken by requests that begin or end, and by whoever aborts one.
        self.lock = threading.Lock()

    def add(self, sock: socket.socket) -> None:
        self._sockets.add(sock)

    def close_copies(self) -> None:
        """Close this process's copies after a fork, without a word to the peer."""
        self.lock = threading.Lock()
        for sock in list(self._sockets):
            descriptor = sock.detach()
            if descriptor >= 0:
                os.close(descriptor)
        self._sockets = weakref.WeakSet()

    def drop(self) -> None:
        """Close all sockets at once. Takes no lock: for the garbage collector."""
        for sock in list(self._sockets):
            linger_free_close(sock)


def linger_free_close(sock: socket.socket) -> None:
    """End a connection now, waking whoever reads it."""
    _shut_down(sock)
    try:
        sock.close()
    except OSError:
        return


def _shut_down(sock: socket.socket) -> None:
    try:
        # The base class's method: that of a TLS socket forgets its TLS state under
        # the feet of the thread that is reading.
        socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        return


class Abort:
    """Ends one request from any thread."""

    def __init__(self, sockets: Sockets, deadline: Deadline) -> None:
        self.deadline = deadline
        self.reason: Optional[str] = None
        self._sockets = sockets
        self._socket: Optional[socket.socket] = None
        self._duplicate: Optional[socket.socket] = None

    def bind(self, sock: socket.socket, handshake: bool = False) -> None:
        """Note the socket that serves the request now.

        Args:
            handshake: TLS is still to come, which takes the socket object away: keep
                a duplicate of it until then.

        Raises:
            ConnectionAbortedError: the request was aborted already.
        """
        duplicate = socket.socket(fileno=os.dup(sock.fileno())) if handshake else None
        with self._sockets.lock:
            self._sockets.add(sock)
            self._socket = sock
            before, self._duplicate = self._duplicate, duplicate
            aborted = self.reason
        if before is not None:
            before.close()
        if aborted is not None:
            self.abort(aborted)
            raise ConnectionAbortedError(aborted)

    def abort(self, reason: str) -> None:
        """Shut the request's socket down. Any thread; the first reason stays."""
        with self._sockets.lock:
            self.reason = self.reason or reason
            for sock in (self._socket, self._duplicate):
                if sock is not None:
                    _shut_down(sock)

    def cut(self) -> None:
        """Shut the socket down without a lock: for the garbage collector."""
        sock = self._socket
        if sock is not None:
            _shut_down(sock)

    def release(self) -> None:
        """Forget the socket: from here on it may serve another request."""
        with self._sockets.lock:
            self._socket = None
            duplicate, self._duplicate = self._duplicate, None
        if duplicate is not None:
            duplicate.close()

    @property
    def socket(self) -> Optional[socket.socket]:
        return self._socket

    @contextmanager
    def bound(self) -> Iterator[None]:
        """Let connections that this thread uses note their sockets here."""
        before = getattr(_here, "abort", None)
        _here.abort = self
        try:
            yield
        finally:
            _here.abort = before


#: The request that this thread is sending.
_here = threading.local()


def _current() -> Optional[Abort]:
    return getattr(_here, "abort", None)


# --- connections ------------------------------------------------------------------


class _Response(http.client.HTTPResponse):
    """A response whose head is bounded as a whole."""

    _statuses = 0

    def _read_status(self) -> Tuple[str, int, str]:
        self._statuses += 1
        if self._statuses > _INTERIM + 1:
            raise http.client.HTTPException("too many interim responses")
        status: Tuple[str, int, str] = getattr(super(), "_read_status")()
        return status

    def begin(self) -> None:
        super().begin()
        size = sum(len(name) + len(value) for name, value in self.headers.items())
        if size > _HEADER_BYTES:
            self.close()
            raise http.client.HTTPException("too large a header block")


class _Abortable(urllib3.connection.HTTPConnection):
    """Notes its socket with the request that uses it, and resolves in time."""

    response_class = _Response
    _needs_handshake = False

    def _new_conn(self) -> socket.socket:
        abort = _current()
        host: str = getattr(self, "_dns_host", self.host)
        limit = abort.deadline.connect_seconds if abort is not None else None
        try:
            addresses = resolve(host, self.port or 0, limit)
            sock = self._first_of(addresses)
        except socket.timeout as error:
            raise urllib3.exceptions.ConnectTimeoutError(
                self, "no connection to %s in time" % host
            ) from error
        except OSError as error:
            raise urllib3.exceptions.NewConnectionError(
                self, "no connection to %s: %s" % (host, error)
            ) from error
        if abort is not None:
            abort.bind(sock, handshake=self._needs_handshake)
        return sock

    def _first_of(self, addresses: List[str]) -> socket.socket:
        failure: OSError = OSError("no address")
        for address in addresses:
            try:
                return urllib3.util.connection.create_connection(
                    (address, self.port or 0),
                    self.timeout,
                    source_address=self.source_address,
                    socket_options=self.socket_options,
                )
            except OSError as error:
                failure = error
        raise failure

    def connect(self) -> None:
        super().connect()
        self._note()

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            self._note()
        super().request(*args, **kwargs)

    def _note(self) -> None:
        abort = _current()
        if abort is None or self.sock is None:
            return
        try:
            abort.bind(self.sock)
        except ConnectionAbortedError:
            self.close()
            raise


class _AbortableTLS(_Abortable, urllib3.connection.HTTPSConnection):
    _needs_handshake = True


class _Pool(urllib3.connectionpool.HTTPConnectionPool):
    ConnectionCls = _Abortable


class _TLSPool(urllib3.connectionpool.HTTPSConnectionPool):
    ConnectionCls = _AbortableTLS


_POOLS: Dict[str, Any] = {"http": _Pool, "https": _TLSPool}


class AbortableAdapter(requests.adapters.HTTPAdapter):
    """The adapter of ``requests``, on connections that can be aborted."""

    def __init__(self, pool_size: int) -> None:
        super().__init__(pool_connections=8, pool_maxsize=pool_size, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager


# --- names ------------------------------------------------------------------------


def resolve(host: str, port: int, seconds: Optional[float]) -> List[str]:
    """Return the addresses of a host, waiting at most so long.

    The operating system's resolver cannot be interrupted. With a limit it therefore
    runs on a thread of its own, which is left behind if it hangs.

    Raises:
        socket.timeout: no answer in time.
        OSError: there is no such host.
    """
    if seconds is None or _is_literal(host):
        return _lookup(host, port)
    outcome: List[Any] = []
    done = threading.Event()

    def look() -> None:
        try:
            outcome.append(_lookup(host, port))
        except OSError as error:
            outcome.append(error)
        finally:
            done.set()

    threading.Thread(target=look, name="mcpsync-resolver", daemon=True).start()
    if not done.wait(seconds):
        raise socket.timeout("name resolution")
    if isinstance(outcome[0], OSError):
        raise outcome[0]
    found: List[str] = outcome[0]
    return found


def _lookup(host: str, port: int) -> List[str]:
    family = urllib3.util.connection.allowed_gai_family()
    name = host.strip("[]")
    found = socket.getaddrinfo(name, port, family, socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def _is_literal(host: str) -> bool:
    if host == "localhost":
        return True
    for family in (socket.AF_INET, socket.AF_INET6):
        try:
            socket.inet_pton(family, host.strip("[]"))
        except OSError:
            continue
        return True
    return False
