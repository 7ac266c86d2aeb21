"""Getting to the browser of the person who logs in, and what comes back from it.

The listener is for one browser on this machine. Whatever else on this machine talks to
it, web pages included, can neither end the wait nor hold it up.

Specification: 2026-07-28, basic/authorization; RFC 8252, 7.3 and 8.3.
"""

from __future__ import annotations

import errno
import logging
import os
import re
import selectors
import shlex
import socket
import subprocess
import sys
import threading
import time
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence

from .._deadline import Deadline
from .._lifecycle import Enrolled, enrol, no_fork
from ..exceptions import AuthorizationError, ConfigError, LocalProtocolError
from ._urls import flaw, is_loopback_host, split

__all__ = ["CallbackListener", "WrongState", "is_openable", "open_browser"]

_log = logging.getLogger("mcpsync")

#: Most connections at a time; a further one takes the place of the oldest.
CONNECTIONS = 16

#: Seconds that one connection may last.
CONNECTION_SECONDS = 5.0

#: Most bytes of what comes back in the query.
QUERY_BYTES = 8 * 1024

#: Most bytes of a request: a browser adds the cookies of everything on this machine.
HEAD_BYTES = 64 * 1024

#: Seconds that an attempt to open a browser is waited for.
OPEN_SECONDS = 3.0

_BACKLOG = 128

#: Seconds after which a wait looks whether it was called off. (On Windows nothing
#: wakes it earlier, not even Ctrl-C.)
_SLICE = 0.25

#: Seconds that closing waits for the thread that is waiting.
_CLOSE_SECONDS = 2.0

#: How often a port is chosen that must be free in two places at once.
_PORT_TRIES = 10

#: What says that this machine has no IPv6: then nobody else can listen there either.
_NO_IPV6 = (errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT)

_PATH = re.compile(r"/[A-Za-z0-9\-._~/]*")

#: Unlike epoll's, a child has no share in it after a fork.
_Selector = getattr(selectors, "PollSelector", selectors.SelectSelector)


class WrongState(AuthorizationError):
    """What came is not the answer to this login. A listener goes on waiting."""


#: Returns the code that a query holds, or raises; WrongState: wait for another one.
Judge = Callable[[str], str]


# --- where to listen ----------------------------------------------------------------


class _Place(NamedTuple):
    host: str
    port: int
    path: str
    registered: Optional[str] = None

    def uri(self, port: int) -> str:
        if self.registered is not None:
            return self.registered
        host = "[%s]" % self.host if ":" in self.host else self.host
        return "http://%s:%d%s" % (host, port, self.path)


def _places(redirect_uris: Sequence[str]) -> Iterator[_Place]:
    for uri in redirect_uris:
        if flaw(uri) is not None:
            continue
        parts = split(uri)
        if parts.scheme == "http" and is_loopback_host(parts.host):
            yield _Place(parts.host, parts.port, parts.path or "/", uri)


def _checked(host: str, port: int, path: str) -> _Place:
    if not is_loopback_host(host):
        raise ConfigError("a login is waited for at a loopback address only")
    if not 0 <= port < 65536:
        raise ConfigError("there is no such port: %d" % port)
    if not _PATH.fullmatch(path):
        raise ConfigError("the path of a redirect URI must be plain and begin with /")
    return _Place(host.lower(), port, path)


def _listen(place: _Place) -> List[socket.socket]:
    """Listen wherever a browser may look for the host.

    For ``localhost`` it tries two addresses, each of which another user could take.
    """
    if place.host != "localhost":
        return [_listening(place.host, place.port)]
    for left in reversed(range(_PORT_TRIES)):
        first = _listening("127.0.0.1", place.port)
        try:
            return [first, _listening("::1", first.getsockname()[1])]
        except OSError as error:
            if error.errno in _NO_IPV6:
                return [first]
            first.close()
            if place.port or not left:
                raise
    raise AssertionError("unreachable")


def _listening(address: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        # On Windows, reuse would let any other program take the port over.
        exclusive = getattr(socket, "SO_EXCLUSIVEADDRUSE", None)
        option = socket.SO_REUSEADDR if exclusive is None else exclusive
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind((address, port))
        sock.listen(_BACKLOG)
        sock.setblocking(False)
    except BaseException:
        sock.close()
        raise
    return sock


# --- requests and pages -------------------------------------------------------------


class _Refused(Exception):
    """A request that no browser makes who comes back from a login."""

    def __init__(self, status: str) -> None:
        super().__init__(status)
        self.status = status


_DONE = "Back at the program that asked for this login: it goes on there.\n"
_DENIED = "The login did not succeed. The program that asked for it says why.\n"
_OTHER = "This is not the answer that is waited for here.\n"

#: Fixed text alone: nothing that came from outside is ever shown on a page.
_PAGE = (
    "HTTP/1.1 %s\r\n"
    "Content-Type: text/plain; charset=utf-8\r\n"
    "Content-Length: %d\r\n"
    "Cache-Control: no-store\r\n"
    "Referrer-Policy: no-referrer\r\n"
    "X-Content-Type-Options: nosniff\r\n"
    "Content-Security-Policy: default-src 'none'; frame-ancestors 'none'\r\n"
    "%sConnection: close\r\n"
    "\r\n"
    "%s"
)


def _page(status: str, text: str) -> bytes:
    extra = "Allow: GET\r\n" if status.startswith("405") else ""
    return (_PAGE % (status, len(text), extra, text)).encode("ascii")


def _query_of(head: str, host: str, path: str) -> str:
    """Return the query of a request, if it is one for us."""
    line, *fields = head.split("\r\n")
    words = line.split(" ")
    if len(words) != 3 or not re.fullmatch(r"HTTP/1\.[0-9]", words[2]):
        raise _Refused("400 Bad Request")
    method, target, _ = words
    if _hosts(fields) != [host]:
        raise _Refused("400 Bad Request")
    asked, _, query = target.partition("?")
    if asked != path:
        raise _Refused("404 Not Found")
    if method != "GET":
        raise _Refused("405 Method Not Allowed")
    if len(query) > QUERY_BYTES:
        raise _Refused("414 URI Too Long")
    return query


def _hosts(fields: Sequence[str]) -> List[str]:
    pairs = [field.partition(":") for field in fields]
    return [value.strip().lower() for name, _, value in pairs if name.lower() == "host"]


class _Connection:
    """One connection of whoever it is; used by the waiting thread only."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.ends_at = time.monotonic() + CONNECTION_SECONDS
        self.received = bytearray()
        self.answered = False

    def receive(self) -> bool:
        """Take what is there. Return whether the connection is still one."""
        try:
            data = self.sock.recv(16 * 1024)
        except BlockingIOError:
            return True
        except OSError:
            return False
        if not self.answered:
            self.received += data
        return bool(data)

    def answer(self, status: str, text: str) -> None:
        """Send a page. What the peer has yet to say is read and ignored.

        Closing at once would have the operating system take the page back.
        """
        self.answered = True
        self.received.clear()
        try:
            self.sock.send(_page(status, text))
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            # Who does not wait for his page has left.
            self.ends_at = 0.0


# --- the listener -------------------------------------------------------------------


class CallbackListener(Enrolled):
    """Listens on this machine for the browser that comes back from a login.

    Nothing is read before somebody waits; until then the operating system keeps who
    comes. It has no thread of its own. A context manager; closing is for any thread.

    Args:
        redirect_uris: those that the client is registered with. The first of them that
            is on this machine and free is taken.
        host: where to listen otherwise: a loopback address, or ``localhost``.
        port: 0 is any free one.
        path: of the redirect URI.

    Attributes:
        redirect_uri: where the browser is to be sent.

    Raises:
        ConfigError: `host`, `port` or `path` cannot be.
        AuthorizationError: the port is taken.
    """

    redirect_uri: str

    def __init__(
        self,
        redirect_uris: Sequence[str] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        path: str = "/callback",
    ) -> None:
        place = _checked(host, port, path)
        self._listening: List[socket.socket] = []
        self._connections: Dict[int, _Connection] = {}
        self._start_afresh()
        enrol(self)
        self._bind([*_places(redirect_uris), place])

    def _start_afresh(self) -> None:
        self._closing = threading.Event()
        # Guards the sockets: whoever waits has them all to himself.
        # Never while held: anything that is not bounded by the wait's deadline.
        # Taken by the thread that waits, for as long as it does, and by close().
        self._turn = threading.Lock()

    def _bind(self, places: Sequence[_Place]) -> None:
        for place in places:
            try:
                with no_fork:
                    self._listening = _listen(place)
            except OSError as error:
                failure, wanted = error, place
                continue
            self.redirect_uri = place.uri(self._listening[0].getsockname()[1])
            parts = split(self.redirect_uri)
            self._host = parts.origin[len("http://") :]
            self._path = parts.path or "/"
            return
        raise AuthorizationError(
            "cannot listen at %s: %s"
            % (wanted.uri(wanted.port), failure.strerror or type(failure).__name__)
        ) from failure

    def __enter__(self) -> "CallbackListener":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return "<%s at %s>" % (type(self).__name__, self.redirect_uri)

    def close(self) -> None:
        """Stop listening; who waits is woken. Idempotent; any thread."""
        self._closing.set()
        mine = self._turn.acquire(timeout=_CLOSE_SECONDS)
        try:
            with no_fork:
                while self._listening:
                    self._listening.pop().close()
        finally:
            if mine:
                self._turn.release()

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    def begin_exit(self) -> None:
        self._closing.set()

    def after_fork_in_child(self) -> None:
        self._start_afresh()
        self._closing.set()
        socks = self._listening + [c.sock for c in self._connections.values()]
        self._listening, self._connections = [], {}
        for sock in socks:
            if sock.fileno() >= 0:
                os.close(sock.detach())

    # --- waiting ------------------------------------------------------------

    def wait_for(
        self,
        judge: Judge,
        deadline: Deadline,
        tick: Optional[Callable[[], None]] = None,
    ) -> Optional[str]:
        """Wait until `judge` finds a code in a query.

        Args:
            tick: called several times a second by the waiting thread.

        Returns:
            The code; ``None`` when the deadline passed, or the listener was closed.

        Raises:
            LocalProtocolError: another thread is waiting already.
            AuthorizationError: what `judge` raised.
        """
        if not self._turn.acquire(blocking=False):
            raise LocalProtocolError("another thread waits for this login already")
        try:
            while not (self._closing.is_set() or deadline.expired):
                if tick is not None:
                    tick()
                code = self._serve(judge, min(_SLICE, deadline.wait_seconds()))
                if code is not None:
                    return code
            return None
        finally:
            for connection in list(self._connections.values()):
                self._drop(connection)
            self._turn.release()

    def _serve(self, judge: Judge, seconds: float) -> Optional[str]:
        """Do what there is to do within some seconds."""
        for number in self._ready(seconds):
            connection = self._connections.get(number)
            if connection is None:
                connection = self._accept(number)
            code = None if connection is None else self._read(connection, judge)
            if code is not None:
                return code
        now = time.monotonic()
        for connection in list(self._connections.values()):
            if connection.ends_at <= now:
                self._drop(connection)
        return None

    def _ready(self, seconds: float) -> List[int]:
        with _Selector() as selector:
            for sock in self._listening:
                selector.register(sock, selectors.EVENT_READ)
            for connection in self._connections.values():
                selector.register(connection.sock, selectors.EVENT_READ)
            return [key.fd for key, _ in selector.select(seconds)]

    def _accept(self, number: int) -> Optional[_Connection]:
        sock = next((s for s in self._listening if s.fileno() == number), None)
        if sock is None:
            # It has just made room for another one.
            return None
        while len(self._connections) >= CONNECTIONS:
            held = self._connections.values()
            self._drop(min(held, key=lambda one: (not one.answered, one.ends_at)))
        try:
            with no_fork:
                connection = _Connection(sock.accept()[0])
                connection.sock.setblocking(False)
                self._connections[connection.sock.fileno()] = connection
        except (BlockingIOError, ConnectionError):
            return None
        except OSError:
            # No descriptors left, perhaps: asking again at once would not help.
            self._closing.wait(0.05)
            return None
        return connection

    def _drop(self, connection: _Connection) -> None:
        with no_fork:
            self._connections.pop(connection.sock.fileno(), None)
            connection.sock.close()

    def _read(self, connection: _Connection, judge: Judge) -> Optional[str]:
        if not connection.receive():
            self._drop(connection)
            return None
        if connection.answered:
            return None
        head, end, _ = bytes(connection.received).partition(b"\r\n\r\n")
        if len(head) > HEAD_BYTES:
            connection.answer("431 Request Header Fields Too Large", _OTHER)
        elif end:
            return self._judged(connection, head.decode("latin-1"), judge)
        return None

    def _judged(
        self, connection: _Connection, head: str, judge: Judge
    ) -> Optional[str]:
        try:
            code = judge(_query_of(head, self._host, self._path))
        except _Refused as refused:
            connection.answer(refused.status, _OTHER)
            return None
        except WrongState:
            connection.answer("400 Bad Request", _OTHER)
            return None
        except BaseException:
            connection.answer("400 Bad Request", _DENIED)
            raise
        connection.answer("200 OK", _DONE)
        return code


# --- the browser --------------------------------------------------------------------

#: Browsers that draw on the terminal, which is somebody else's.
_TEXT_BROWSERS = {"browsh", "elinks", "links", "links2", "lynx", "w3m", "www-browser"}

#: What is set where the screen is on another machine.
_FAR_AWAY = ("SSH_CONNECTION", "SSH_TTY", "JUPYTERHUB_USER")

_URL = re.compile(r"https?://[A-Za-z0-9\-._~:/?\[\]@!$&'()*+,;=%]+")


def is_openable(url: str) -> bool:
    """Return whether a URL may be given to a browser.

    An https URL, or an http URL of this machine, all of whose characters mean the same
    to every parser.
    """
    place = url.partition("?")[0]
    if not _URL.fullmatch(url) or flaw(place) is not None:
        return False
    parts = split(place)
    return parts.scheme == "https" or is_loopback_host(parts.host)


def open_browser(url: str) -> bool:
    """Show a page in the user's browser. Never through a shell.

    Those of ``$BROWSER`` are tried if that is set, otherwise that of the desktop. None
    is opened where the screen is not this machine's, and none that draws on the
    terminal.

    Returns:
        Whether a browser took it, as far as can be told within 3 seconds. ``False``
        as well for a URL that is not https, nor http of this machine.
    """
    if not is_openable(url):
        return False
    took: List[bool] = []
    thread = threading.Thread(
        target=lambda: took.append(_open(url)), name="mcpsync-browser", daemon=True
    )
    try:
        thread.start()
    except RuntimeError:
        # No thread is started any more when the interpreter ends.
        return False
    thread.join(OPEN_SECONDS)
    # Some browsers run for as long as their window is open.
    return took[0] if took else thread.is_alive()


def _open(url: str) -> bool:
    try:
        commands = os.environ.get("BROWSER", "").strip(os.pathsep + " ")
        if commands:
            return any(_run(one, url) for one in commands.split(os.pathsep))
        return _has_screen() and _open_default(url)
    except Exception as error:
        # Whoever logs in sees the URL anyway.
        _log.debug("no browser could be opened: %s", type(error).__name__)
        return False


def _run(command: str, url: str) -> bool:
    words = shlex.split(command)
    if words and words[-1] == "&":
        words.pop()
    if not words or _is_unfit(words[0]):
        return False
    if "%s" in command:
        words = [word.replace("%s", url) for word in words]
    else:
        words.append(url)
    try:
        with no_fork:
            process = subprocess.Popen(
                words,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Neither the terminal nor its Ctrl-C is the browser's.
                start_new_session=True,
            )
    except OSError:
        return False
    # For as long as it runs; nobody waits for this thread.
    return process.wait() == 0


def _is_unfit(program: str) -> bool:
    name = os.path.basename(program).lower()
    # Windows runs batch files with its shell, whatever one does.
    return name in _TEXT_BROWSERS or name.endswith((".bat", ".cmd"))


def _has_screen() -> bool:
    if any(os.environ.get(name) for name in _FAR_AWAY):
        return False
    if "ipykernel.zmqshell" in sys.modules:
        # The notebook's own browser may be anywhere.
        return False
    if sys.platform in ("win32", "darwin"):
        return True
    return any(os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY"))


def _open_default(url: str) -> bool:
    import webbrowser

    try:
        browser = webbrowser.get()
    except webbrowser.Error:
        return False
    return not _is_unfit(str(getattr(browser, "name", ""))) and browser.open(url)
