"""Sockets that can be shut down from outside, whatever their reader is waiting for.

The timeouts of ``requests`` are for one read each, and closing a response from another
thread blocks behind its reader. What ends a request in every phase, connecting and
TLS handshake included, is to shut its socket down; so every connection notes its socket
with the request that it serves, and takes the note back before it can serve another.
"""

from __future__ import annotations

import collections
import functools
import http.client
import os
import queue
import socket
import threading
import weakref
from contextlib import contextmanager
from typing import Any, Deque, Dict, Iterator, List, Optional, Tuple, cast

import requests.adapters
import urllib3.connection
import urllib3.exceptions
import urllib3.util.connection

from ._deadline import Deadline
from ._lifecycle import no_fork

__all__ = [
    "Abort",
    "AbortableAdapter",
    "Signal",
    "Sockets",
    "linger_free_close",
    "make_abortable",
    "resolve",
]

#: Most interim (1xx) responses before the real one.
_INTERIM = 5

#: Most bytes of header fields in one response, and of one line of them.
_HEADER_BYTES = 64 * 1024

#: What a socket is for; a descriptor's number instead is what a duplicate stands for
#: while TLS begins.
_IDLE, _BUSY = -1, -2

#: An address family and what sockets of it connect to.
Address = Tuple[int, Any]


class Sockets:
    """The sockets of one transport, and its questions to the resolver.

    Attributes:
        epoch: replaced whenever all connections are ended. What began in another one
            keeps no connection for later.
    """

    def __init__(self) -> None:
        self._start_afresh()

    def _start_afresh(self) -> None:
        # Read by its weak references, which are copied in one step: the garbage
        # collector and a forked child cannot wait for a lock.
        self._sockets: "weakref.WeakKeyDictionary[socket.socket, int]"
        self._sockets = weakref.WeakKeyDictionary()
        self.epoch = object()
        self._lookups: Dict[Tuple[str, int], _Lookup] = {}
        # Guards whose a socket is: a late abort must not hit the next request; and
        # the lookups that are under way.
        # Never while held: anything but a shutdown, which does not wait.
        # Taken by requests that begin or end, by whoever aborts one, by lookups; again
        # by a signal handler that happens to run while its own thread holds it.
        self.lock = threading.RLock()

    def note(self, sock: socket.socket, use: int) -> None:
        """Note what a socket is for."""
        self._sockets[sock] = use

    def close_copies(self) -> None:
        """Close this process's copies after a fork, without a word to the peer."""
        sockets = self._sockets
        self._start_afresh()
        for reference in sockets.keyrefs():
            sock = reference()
            if sock is None or sock.fileno() < 0:
                continue
            original = sockets.get(sock, _IDLE)
            if original >= 0 and _same_file(original, sock.fileno()):
                _close(original)
            _close(sock.detach())

    def drop(self, in_use: bool = True) -> None:
        """End all connections at once. Takes no lock: for the garbage collector."""
        # First, so that whoever is just done with one knows that it is not wanted.
        self.epoch = object()
        for reference in self._sockets.keyrefs():
            sock = reference()
            if sock is None:
                continue
            if self._sockets.get(sock) == _IDLE:
                linger_free_close(sock)
            elif in_use:
                # Its thread wakes up and closes it: another one must not, because
                # the descriptor's number could be somebody else's by then.
                _shut_down(sock)

    def look_up(self, host: str, port: int, done: "Signal") -> "_Lookup":
        """Ask the resolver on a thread of its own; `done` is set afterwards.

        One thread for all who ask the same: a resolver that hangs does not pile up
        threads.
        """
        key = (host, port)
        with self.lock:
            lookup = self._lookups.get(key)
            if lookup is not None:
                lookup.waiting.append(done)
                return lookup
            lookup = self._lookups[key] = _Lookup(done)
        thread = threading.Thread(
            target=self._look, args=(key, lookup), name="mcpsync-resolver", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # No new thread while the interpreter ends.
            self._look(key, lookup)
        return lookup

    def _look(self, key: Tuple[str, int], lookup: "_Lookup") -> None:
        try:
            lookup.addresses = _lookup(*key)
        except (OSError, UnicodeError) as error:
            lookup.failure = error
        finally:
            with self.lock:
                self._lookups.pop(key, None)
                waiting = list(lookup.waiting)
            for done in waiting:
                done.set()


class Signal:
    """An event that no interrupt can break.

    Between two steps of a :class:`threading.Event` an exception out of a signal handler
    leaves its inner lock taken, and whoever sets it then waits for ever. This is but
    one raw lock, which is taken until the signal is given.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._lock.acquire()

    def set(self) -> None:
        """Wake those who wait, now and later. Any thread; idempotent."""
        try:
            self._lock.release()
        except RuntimeError:
            # It was given before.
            return

    def wait(self, seconds: Optional[float] = None) -> bool:
        """Return whether it is given, waiting at most so long."""
        limit = -1 if seconds is None else min(seconds, threading.TIMEOUT_MAX)
        given = self._lock.acquire(timeout=limit)
        if given:
            # For the next one who waits.
            self.set()
        return given


class _Lookup:
    """One question to the operating system's resolver, and its answer."""

    def __init__(self, done: "Signal") -> None:
        self.addresses: List[Address] = []
        self.failure: Optional[Exception] = None
        self.waiting = [done]


def _close(descriptor: int) -> None:
    try:
        os.close(descriptor)
    except OSError:
        # A duplicate stood for it as well.
        return


def _same_file(one: int, other: int) -> bool:
    try:
        return os.path.samestat(os.fstat(one), os.fstat(other))
    except OSError:
        return False


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
    """Ends one request from any thread.

    Attributes:
        deadline: the request's.
        reason: why it was ended; ``None`` as long as it was not.
        connected: whether there was a connection over which it could be sent.
    """

    def __init__(self, sockets: Sockets, deadline: Deadline) -> None:
        self.deadline = deadline
        self.reason: Optional[str] = None
        self.connected = False
        self.sockets = sockets
        self._epoch = sockets.epoch
        self._socket: Optional[socket.socket] = None
        self._duplicate: Optional[socket.socket] = None
        self._wake: Optional[Signal] = None

    def bind(self, sock: socket.socket, handshake: bool = False) -> None:
        """Note the socket that serves the request now.

        Args:
            handshake: TLS is still to come, which takes the socket object away: keep
                a duplicate of it until then.

        Raises:
            ConnectionAbortedError: the request was aborted already.
        """
        duplicate = None
        if handshake:
            with no_fork:
                duplicate = socket.socket(fileno=os.dup(sock.fileno()))
                self.sockets.note(duplicate, sock.fileno())
        with self.sockets.lock:
            self.sockets.note(sock, _BUSY)
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
        with self.sockets.lock:
            self.reason = self.reason or reason
            wake = self._wake
            for sock in (self._socket, self._duplicate):
                if sock is not None:
                    _shut_down(sock)
        if wake is not None:
            wake.set()

    def interrupt(self) -> None:
        """Shut the socket down; what that means is up to its reader."""
        with self.sockets.lock:
            if self._socket is not None:
                _shut_down(self._socket)

    def cut(self) -> None:
        """Shut the socket down without a lock: for the garbage collector."""
        sock = self._socket
        if sock is not None:
            _shut_down(sock)

    def release(self) -> None:
        """Forget the socket: from here on it may serve another request."""
        with self.sockets.lock:
            sock, self._socket = self._socket, None
            duplicate, self._duplicate = self._duplicate, None
            if sock is not None:
                self.sockets.note(sock, _IDLE)
        if duplicate is not None:
            duplicate.close()

    @property
    def outdated(self) -> bool:
        """Whether all connections were ended since this request began."""
        return self._epoch is not self.sockets.epoch

    def close(self) -> None:
        """Close the socket unless it was given back: its request is over."""
        sock = self._socket
        self.release()
        if sock is None or sock.fileno() < 0:
            return
        _shut_down(sock)
        # Not its own close(): that waits for the last file made of it, which an
        # interrupt may have lost.
        os.close(sock.detach())

    def wait(self, signal: "Signal", seconds: Optional[float]) -> None:
        """Wait for a signal, which :meth:`abort` gives as well."""
        with self.sockets.lock:
            self._wake = signal
            aborted = self.reason is not None
        if not aborted:
            signal.wait(seconds)
        with self.sockets.lock:
            self._wake = None

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

    # An interrupt may come before there is one.
    fp: Any = None

    def _read_status(self) -> Tuple[str, int, str]:
        while True:
            self._statuses += 1
            if self._statuses > _INTERIM + 1:
                raise http.client.HTTPException("too many interim responses")
            status: Tuple[str, int, str] = getattr(super(), "_read_status")()
            # The base class passes over 100 only; to it 103 is the answer itself.
            if not 101 < status[1] < 200:
                return status
            self._skip_head()

    def _skip_head(self) -> None:
        size = 0
        while True:
            line = self.fp.readline(_HEADER_BYTES + 1)
            size += len(line)
            if size > _HEADER_BYTES:
                raise http.client.HTTPException("too large a header block")
            if line in (b"\r\n", b"\n", b""):
                return

    def begin(self) -> None:
        super().begin()
        size = sum(len(name) + len(value) for name, value in self.headers.items())
        if size > _HEADER_BYTES:
            self.close()
            raise http.client.HTTPException("too large a header block")


class _Noting:
    """Added to a connection: notes its socket with the request that uses it."""

    response_class = _Response
    sock: Any
    _abort: Optional[Abort] = None
    _needs_handshake = False

    def _new_conn(self) -> socket.socket:
        sock: socket.socket = getattr(super(), "_new_conn")()
        abort = _current()
        if abort is not None:
            _bind_or_close(abort, sock, self._needs_handshake)
        return sock

    def connect(self) -> None:
        getattr(super(), "connect")()
        self._note()

    def request(self, *args: Any, **kwargs: Any) -> None:
        if self.sock is not None:
            self._note()
        getattr(super(), "request")(*args, **kwargs)

    def let_go(self) -> None:
        """Be nobody's: called before the connection can serve another request."""
        abort, self._abort = self._abort, None
        if abort is None:
            return
        abort.release()
        if abort.outdated:
            getattr(self, "close")()

    def _note(self) -> None:
        abort, sock = _current(), _real_socket(self.sock)
        if abort is None:
            return
        abort.connected = True
        if sock is None:
            # Not a socket that can be shut down: the duplicate stays.
            return
        self._abort = abort
        try:
            abort.bind(sock)
        except ConnectionAbortedError:
            getattr(self, "close")()
            raise


def _real_socket(sock: Any) -> Optional[socket.socket]:
    """Return the socket inside, where TLS runs inside TLS for a proxy's sake."""
    for _ in range(3):
        if sock is None or isinstance(sock, socket.socket):
            return sock
        sock = getattr(sock, "socket", None)
    return None


def _bind_or_close(abort: Abort, sock: socket.socket, handshake: bool) -> None:
    try:
        abort.bind(sock, handshake)
    except BaseException:
        sock.close()
        raise


class _Connecting(_Noting):
    """Added to a plain connection: can also be aborted while it is being made."""

    host: str
    port: Any
    socket_options: Any
    source_address: Any

    def _new_conn(self) -> socket.socket:
        abort, connection = _current(), cast(urllib3.connection.HTTPConnection, self)
        if abort is None:
            return super()._new_conn()
        host: str = getattr(self, "_dns_host", self.host)
        try:
            return self._first_of(resolve(host, self.port or 0, abort), abort)
        except socket.timeout as error:
            raise urllib3.exceptions.ConnectTimeoutError(
                connection, "no connection to %s in time" % host
            ) from error
        except UnicodeError as error:
            raise urllib3.exceptions.LocationParseError(host) from error
        except OSError as error:
            raise urllib3.exceptions.NewConnectionError(
                connection, "no connection to %s: %s" % (host, error)
            ) from error

    def _first_of(self, addresses: List[Address], abort: Abort) -> socket.socket:
        failure: OSError = OSError("no address")
        for family, address in addresses:
            if abort.reason is not None:
                break
            try:
                return self._connected(family, address, abort)
            except OSError as error:
                failure = error
        raise failure

    def _connected(self, family: int, address: Any, abort: Abort) -> socket.socket:
        with no_fork:
            sock = socket.socket(family, socket.SOCK_STREAM)
            abort.sockets.note(sock, _BUSY)
        try:
            for option in self.socket_options or ():
                sock.setsockopt(*option)
            limit = abort.deadline.connect_seconds
            sock.settimeout(None if limit is None else max(limit, 0.001))
            if self.source_address:
                sock.bind(self.source_address)
            abort.bind(sock)
            sock.connect(address)
            if self._needs_handshake:
                abort.bind(sock, handshake=True)
        except BaseException:
            sock.close()
            raise
        return sock


class _Idle:
    """The idle connections of a pool, the newest first: a queue without a lock.

    An interrupt at the wrong moment would leave the standard library's queue locked
    for ever. Closed connections are not worth keeping, and nobody waits for one.
    """

    def __init__(self, maxsize: int) -> None:
        self._maxsize = maxsize
        self._connections: Deque[Any] = collections.deque()

    def get(self, block: bool = True, timeout: Optional[float] = None) -> Any:
        try:
            return self._connections.pop()
        except IndexError:
            raise queue.Empty from None

    def put(
        self, item: Any, block: bool = True, timeout: Optional[float] = None
    ) -> None:
        if item is None or item.sock is None:
            return
        if len(self._connections) >= self._maxsize:
            raise queue.Full
        self._connections.append(item)

    def qsize(self) -> int:
        return len(self._connections)


class _Pooling:
    """Added to a connection pool: what it takes back is nobody's before."""

    def _put_conn(self, conn: Any) -> None:
        try:
            if conn is not None:
                conn.let_go()
            getattr(super(), "_put_conn")(conn)
        except BaseException:
            # An interrupt: now nobody has it.
            if conn is not None:
                conn.close()
            raise


@functools.lru_cache(maxsize=None)
def _abortable(pool: Any, ours: bool) -> Any:
    """Return a subclass of a pool's class whose connections can be aborted."""
    if issubclass(pool, _Pooling):
        return pool
    kind: Any = pool.ConnectionCls
    plain = kind._new_conn is urllib3.connection.HTTPConnection._new_conn
    tls = issubclass(kind, urllib3.connection.HTTPSConnection)
    connection = type(
        "Abortable" + kind.__name__,
        # Others, for SOCKS proxies, have their own way to make a connection.
        (_Connecting if plain else _Noting, kind),
        {"_needs_handshake": tls},
    )
    members: Dict[str, Any] = {"ConnectionCls": connection}
    if ours:
        members["QueueCls"] = _Idle
    return type("Abortable" + pool.__name__, (_Pooling, pool), members)


def make_abortable(manager: Any, ours: bool = False) -> None:
    """Let the connections that a ``urllib3.PoolManager`` makes be abortable.

    Args:
        ours: nobody shall ever wait for one of its connections to become free.
    """
    manager.pool_classes_by_scheme = {
        scheme: _abortable(pool, ours)
        for scheme, pool in manager.pool_classes_by_scheme.items()
    }


class AbortableAdapter(requests.adapters.HTTPAdapter):
    """The adapter of ``requests``, on connections that can be aborted."""

    def __init__(self, pool_size: int) -> None:
        super().__init__(pool_connections=8, pool_maxsize=pool_size, max_retries=0)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        make_abortable(self.poolmanager, ours=True)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(*args, **kwargs)
        make_abortable(manager, ours=True)
        return manager


# --- names ------------------------------------------------------------------------


def resolve(host: str, port: int, abort: Abort) -> List[Address]:
    """Return the addresses of a host, waiting as long as a connection may take.

    Raises:
        socket.timeout: no answer in time.
        ConnectionAbortedError: the request was aborted meanwhile.
        OSError, UnicodeError: there is no such host.
    """
    if _is_literal(host):
        return _lookup(host, port)
    done = Signal()
    lookup = abort.sockets.look_up(host, port, done)
    abort.wait(done, abort.deadline.connect_seconds)
    failure = lookup.failure
    if failure is not None:
        # Several may wait for one lookup: each raises an exception of its own.
        raise type(failure)(*failure.args)
    if lookup.addresses:
        return lookup.addresses
    if abort.reason is not None:
        raise ConnectionAbortedError(abort.reason)
    raise socket.timeout("name resolution")


def _lookup(host: str, port: int) -> List[Address]:
    family = urllib3.util.connection.allowed_gai_family()
    name = host.strip("[]")
    found = socket.getaddrinfo(name, port, family, socket.SOCK_STREAM)
    if not found:
        raise OSError("the resolver knows no address of %s" % name)
    return [(entry[0], entry[4]) for entry in found]


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
