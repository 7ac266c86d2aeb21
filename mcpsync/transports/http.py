"""Streamable HTTP: every message is a POST, its answer a body or an event stream.

In the modern era a request needs nothing but the thread that makes it. What legacy
sessions add is in :mod:`._http_session`.

Specification: 2026-07-28, basic/transports/streamable-http.
"""

from __future__ import annotations

import threading
import urllib.parse
import weakref
from typing import Any, Dict, Mapping, Optional, Union

from .._deadline import Deadline, watchdog
from .._lifecycle import Enrolled, enrol
from .._sockets import Signal
from ..exceptions import (
    ClientClosed,
    ConfigError,
    InvalidMessage,
    LocalProtocolError,
    SessionExpired,
)
from ..protocol.headers import valid_session_id
from ..protocol.jsonrpc import Message, Notification, Outgoing, Response
from ._http_exchange import ACCEPT, DRAIN_SECONDS, HTTPExchange
from ._http_session import Listener, Session
from ._http_wire import Configure, HTTPWire, TokenAuthorizer, bare_url
from ._weak import weakly
from .base import (
    Authorizer,
    AuthorizerMaker,
    Exchange,
    Limits,
    Note,
    Profile,
    Transport,
    Unsolicited,
)

__all__ = ["StreamableHTTPTransport"]

_POOL_SIZE = 64

#: How long the server may take to hear that its session is over, and threads to end.
_CLOSE_SECONDS = 2.0

#: How long a thread that was told to end is awaited when the program ends.
_LAST_SECONDS = 0.2


class StreamableHTTPTransport(Transport, Enrolled):
    """A server at a URL.

    Args:
        url: the MCP endpoint.
        headers: for every request.
        auth: a bearer token, an authentication object of ``requests``, or
            :class:`mcpsync.OAuth`; sent to
            this server's own origin only.
        verify: ``False`` turns certificate checks off; a path names a bundle.
        cert: a client certificate, as ``requests`` takes it.
        proxies: by scheme, as ``requests`` takes them; by default the proxy variables
            of the environment, read when the transport is opened.
        configure: gets the ``requests.Session`` before its first use, and may set
            adapters, certificates and proxies.
        name: how the server is called in messages, logs and thread names.

    Its methods may be called from any thread. Redirects are not followed, cookies are
    not kept, and ``~/.netrc`` is not read.
    """

    kind = "http"

    def __init__(
        self,
        url: str,
        *,
        headers: Optional[Mapping[str, str]] = None,
        auth: Any = None,
        verify: Union[None, bool, str] = None,
        cert: Any = None,
        proxies: Optional[Mapping[str, str]] = None,
        configure: Optional[Configure] = None,
        name: Optional[str] = None,
        limits: Optional[Limits] = None,
    ) -> None:
        self.url = _checked(url)
        self.name = name or urllib.parse.urlsplit(url).netloc.rpartition("@")[2]
        self.limits = limits or Limits()
        self._settings: Dict[str, Any] = {
            "headers": headers,
            "auth": auth,
            "verify": verify,
            "cert": cert,
            "proxies": proxies,
            "configure": configure,
        }
        self.wire = HTTPWire(
            url,
            self.name,
            headers or {},
            authorizer_for(auth, self.name, url, verify, proxies),
            verify,
            cert,
            proxies,
            configure,
            _POOL_SIZE,
        )
        self.stopped = False
        #: How long an exchange waits for the end of a stream after its answer.
        self.patience = DRAIN_SECONDS
        self._closed = False
        self._unsolicited: Optional[Unsolicited] = None
        self._session: Optional[Session] = None
        self._offered: Optional[str] = None
        # Whether hands are being shaken, and whether the server took part in it.
        self._shaking_hands = self._offer_came = False
        self._listener: Optional[Listener] = None
        self._make_lock()
        enrol(self)

    def _make_lock(self) -> None:
        # Guards the table of exchanges in flight and the final state.
        # Never while held: I/O, aborting.
        # Taken by calls that begin or end, by the listener and by close(); again by a
        # signal handler that happens to run while its own thread holds it.
        self._lock = threading.RLock()
        self._over = Signal()
        # Weak, because an interrupt may come before somebody can take one out.
        self._exchanges: "weakref.WeakValueDictionary[int, HTTPExchange]"
        self._exchanges = weakref.WeakValueDictionary()

    def __repr__(self) -> str:
        return "%s(%r)" % (type(self).__name__, bare_url(self.url))

    # --- life ---------------------------------------------------------------

    def open(self, on_unsolicited: Unsolicited, deadline: Deadline) -> None:
        with self._lock:
            if self._closed:
                raise ClientClosed("the client is closed", server=self.name)
            # An attempt that failed was abandoned; this is another one.
            self.stopped = False
        self._session = None
        self._expect_offer()
        self._unsolicited = weakly(on_unsolicited)
        self.wire.close()
        self.wire.open()

    @property
    def alive(self) -> bool:
        return not self.stopped

    def offer(self, session_id: Optional[str]) -> None:
        """Note the session id that came with the answer to the handshake."""
        if session_id is not None:
            if not valid_session_id(session_id):
                raise InvalidMessage(
                    "the server's session id has characters that are not allowed",
                    server=self.name,
                )
            self.wire.keep_secret(session_id)
        self._offered, self._offer_came = session_id, True

    def _expect_offer(self) -> None:
        self._offered = None
        self._shaking_hands, self._offer_came = True, False

    def establish(self, profile: Optional[Profile]) -> None:
        before = self._session
        if profile is None:
            # Others may still begin something. They go on with the session before,
            # and learn from the server that it is over.
            self._expect_offer()
            self._stop_listening()
            return
        renewed, self._shaking_hands = self._shaking_hands, False
        if before is None or renewed or before.profile.headers != profile.headers:
            self.generation += 1
        offered = self._offered if profile.session else None
        self._session = Session(offered, profile, self.generation)
        if profile.listen_stream and self._listener is None:
            self._listener = Listener(self, self._session)
            self._listener.start(Deadline.after(None))

    def _stop_listening(self) -> None:
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.stop()

    def switch(self, kind: str) -> Transport:
        if kind != "http+sse":
            return super().switch(kind)
        from .sse import SSETransport

        return SSETransport(
            self.url, name=self.name, limits=self.limits, **self._settings
        )

    def close(self, timeout: Optional[float] = None) -> None:
        with self._lock:
            already, self._closed, self.stopped = self._closed, True, True
            exchanges = list(self._exchanges.values())
        seconds = _CLOSE_SECONDS if timeout is None else timeout
        if already:
            # Another thread is at it, or has been.
            self._over.wait(seconds)
            return
        end = Deadline.after(seconds)
        listener = self._listener
        try:
            for exchange in exchanges:
                exchange.shut()
            self.wire.shut()
            if seconds > 0:
                self._delete(end)
        finally:
            self._stop_listening()
            self.wire.close()
            self._over.set()
        if listener is not None:
            listener.join(end.wait_seconds())

    def _delete(self, deadline: Deadline) -> None:
        """Tell the server that the session is over; it need not care."""
        headers = self._farewell()
        if headers is None:
            return
        abort = self.wire.abort(deadline)
        try:
            with watchdog.guard(deadline, lambda: abort.abort("deadline")):
                response = self.wire.send("DELETE", headers, None, abort)
                self.wire.discard(response, abort)
        except Exception:
            # An authentication object may raise anything. It is but a courtesy.
            return

    def _farewell(self) -> Optional[Dict[str, str]]:
        """Return the headers that name the session to be ended, if there is one."""
        session, self._session = self._session, None
        offered, self._offered = self._offered, None
        if session is None or self._offer_came and self._shaking_hands:
            # A handshake that came to nothing.
            return {"Mcp-Session-Id": offered} if offered is not None else None
        if session.id is None or not session.profile.delete_on_close:
            return None
        return session.headers()

    def abandon(self) -> None:
        self.stopped = True
        listener = self._listener
        if listener is not None:
            listener.cut()
        self.wire.sockets.drop()

    def begin_exit(self) -> None:
        self.stopped = True

    def finish_exit(self, seconds: float) -> None:
        if self._closed:
            return
        if seconds > 0:
            self._delete(Deadline.after(min(seconds, _CLOSE_SECONDS)))
        listener = self._listener
        self._stop_listening()
        if listener is not None:
            listener.join(_LAST_SECONDS)
        self.wire.finish()

    def after_fork_in_child(self) -> None:
        # No farewell: the session and the sockets are the parent's.
        self.wire.after_fork()
        self._make_lock()
        self._session = self._offered = self._listener = None

    # --- messages -----------------------------------------------------------

    def begin(self, outgoing: Outgoing, deadline: Deadline) -> Exchange:
        assert outgoing.id is not None
        # What cannot be resumed belongs to no session: it may make a new one.
        session = self._session
        if self._shaking_hands and not outgoing.resumable:
            session = None
        exchange = HTTPExchange(self, outgoing, session, deadline)
        with self._lock:
            if self.stopped:
                raise ClientClosed("the client is closed", server=self.name)
            if len(self._exchanges) >= self.limits.pending_requests:
                raise LocalProtocolError(
                    "%d requests are in flight already" % len(self._exchanges),
                    server=self.name,
                )
            self._exchanges[outgoing.id] = exchange
        return exchange

    def forget(self, exchange: HTTPExchange) -> None:
        """Take an exchange out of the table; its unread questions are still asked."""
        with self._lock:
            if exchange.outgoing.id is not None:
                self._exchanges.pop(exchange.outgoing.id, None)
        for message in exchange.leftovers():
            self.tell(message)

    def send(self, outgoing: Outgoing, deadline: Deadline) -> None:
        # The handshake's last message belongs to the session that it completes.
        session = None if self._offer_came and self._shaking_hands else self._session
        headers = {
            "Accept": ACCEPT,
            "Content-Type": "application/json",
            **self._session_headers(session),
            **outgoing.headers,
        }
        with self.wire.guarded(deadline) as abort:
            if self.stopped:
                raise ClientClosed("the client is closed", server=self.name)
            response = self.wire.send("POST", headers, outgoing.body, abort)
            body = self.wire.discard(response, abort)
        status = response.status_code
        if status == 404 and session is not None and session.id is not None:
            raise SessionExpired(generation=session.generation, server=self.name)
        if not 200 <= status < 300:
            raise self.wire.refusal(response, body)

    def _session_headers(self, session: Optional[Session]) -> Dict[str, str]:
        if session is not None:
            return session.headers()
        return {} if self._offered is None else {"Mcp-Session-Id": self._offered}

    def route(self, message: Message) -> None:
        """Take a message from the server's own stream."""
        exchange = self._exchange_of(message)
        if exchange is not None:
            exchange.deliver(message)
        elif not isinstance(message, Response):
            self.tell(message)

    def _exchange_of(self, message: Message) -> Optional[HTTPExchange]:
        key: object = None
        if isinstance(message, Response):
            key = message.id
        elif isinstance(message, Notification):
            if message.method == "notifications/progress":
                key = message.params.get("progressToken")
        if type(key) is not int:
            return None
        with self._lock:
            return self._exchanges.get(key)

    def tell(self, message: Union[Message, Note]) -> None:
        """Pass on what belongs to no exchange."""
        unsolicited = self._unsolicited
        if unsolicited is not None:
            unsolicited(message)


def _checked(url: str) -> str:
    try:
        parts = urllib.parse.urlsplit(url)
        parts.port
    except ValueError:
        raise ConfigError("%s is no URL" % bare_url(url)) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigError("%s is no http or https URL" % bare_url(url))
    if any(ord(character) <= 0x20 for character in url):
        raise ConfigError("%s: a URL cannot hold spaces" % bare_url(url))
    return url


def authorizer_for(
    auth: Any,
    name: str,
    url: str,
    verify: Any,
    proxies: Optional[Mapping[str, str]],
) -> Optional[Authorizer]:
    """Return what authorizes requests to a server, from what a caller gave."""
    if auth is None:
        return None
    if hasattr(auth, "for_server"):
        maker: AuthorizerMaker = auth
        return maker.for_server(name, url, verify=verify, proxies=proxies)
    if hasattr(auth, "authorize") and hasattr(auth, "repair"):
        authorizer: Authorizer = auth
        return authorizer
    return TokenAuthorizer(auth)
