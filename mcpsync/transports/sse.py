"""HTTP+SSE of 2024-11-05: one event stream for all answers, POSTs for requests.

Deprecated since 2025-03-26, and the last fallback. There is no resumption: the end of
the stream ends the session.

Specification: 2024-11-05, basic/transports.
"""

from __future__ import annotations

import logging
import threading
import urllib.parse
from typing import Any, Dict, Mapping, Optional, Union

from .._deadline import Deadline
from .._lifecycle import Enrolled, enrol
from .._sockets import Abort, Signal
from .._text import clean
from ..exceptions import (
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    InvalidMessage,
    LocalProtocolError,
    MCPError,
    TransportError,
)
from ..protocol.jsonrpc import InvalidAnswer, Outgoing
from ._eventstream import Event, chunks, events
from ._framing import answered_id
from ._http_session import FOR_EVER
from ._http_wire import Configure, HTTPWire, bare_url, is_event_stream, same_origin
from ._pending import PendingExchanges
from ._weak import weakly
from .base import Exchange, Limits, Note, Profile, Transport, Unsolicited
from .http import _checked, authorizer_for

__all__ = ["SSETransport"]

#: How long the server may take to name the address for messages.
_ENDPOINT_SECONDS = 10.0

_JOIN_SECONDS = 2.0

#: How long the thread is awaited when the program ends.
_LAST_SECONDS = 0.2


class SSETransport(Transport, Enrolled):
    """A server that speaks HTTP+SSE, at the URL of its event stream.

    Takes what :class:`mcpsync.StreamableHTTPTransport` takes.
    """

    kind = "http+sse"

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
        self.wire = HTTPWire(
            url,
            self.name,
            headers or {},
            authorizer_for(auth, self.name, url, verify, proxies),
            verify,
            cert,
            proxies,
            configure,
            self.limits.pending_requests,
        )
        self._stream: Optional[_Stream] = None
        self._headers: Dict[str, str] = {}
        self._closed = False
        enrol(self)

    def __repr__(self) -> str:
        return "SSETransport(%r)" % bare_url(self.url)

    # --- life ---------------------------------------------------------------

    def open(self, on_unsolicited: Unsolicited, deadline: Deadline) -> None:
        """Open the event stream and wait for the address of messages."""
        if self._closed:
            raise ClientClosed("the client is closed", server=self.name)
        before, self._stream = self._stream, None
        if before is not None:
            before.stop("closed")
        self.wire.close()
        self.wire.open()
        self._headers = {}
        stream = _Stream(self, weakly(on_unsolicited))
        self._stream = stream
        stream.start(deadline)
        self.generation += 1

    @property
    def alive(self) -> bool:
        stream = self._stream
        return stream is not None and stream.alive

    def establish(self, profile: Optional[Profile]) -> None:
        self._headers = {} if profile is None else dict(profile.headers)
        stream = self._stream
        if stream is not None:
            stream.batches = profile is not None and profile.batches

    def close(self, timeout: Optional[float] = None) -> None:
        self._closed = True
        stream = self._stream
        if stream is not None:
            stream.stop("closed")
        self.wire.shut()
        self.wire.close()
        if stream is not None:
            stream.join(_JOIN_SECONDS if timeout is None else timeout)

    def abandon(self) -> None:
        stream = self._stream
        if stream is not None:
            stream.cut()
        self.wire.sockets.drop()

    def begin_exit(self) -> None:
        # Ending the stream is all the farewell that this transport knows.
        stream = self._stream
        if stream is not None:
            stream.cut()

    def finish_exit(self, seconds: float) -> None:
        stream = self._stream
        if stream is not None:
            stream.join(min(seconds, _LAST_SECONDS))
        self.wire.finish()

    def after_fork_in_child(self) -> None:
        self.wire.after_fork()
        self._stream = None

    # --- messages -----------------------------------------------------------

    def begin(self, outgoing: Outgoing, deadline: Deadline) -> Exchange:
        stream = self._open_stream()

        def tell(notice: Outgoing) -> None:
            try:
                self.send(notice, Deadline.after(1.0))
            except MCPError:
                return

        exchange = stream.pending.add(outgoing, tell)
        try:
            self.send(outgoing, deadline)
        except BaseException as error:
            if not isinstance(error, (TransportError, ClientClosed)):
                # The server may have it: that the caller leaves is news.
                exchange.cancel("the caller has left")
            exchange.close()
            raise
        exchange.was_sent = lambda: True
        return exchange

    def send(self, outgoing: Outgoing, deadline: Deadline) -> None:
        endpoint = self._open_stream().endpoint
        headers = {"Content-Type": "application/json", **self._headers}
        with self.wire.guarded(deadline) as abort:
            if self._closed:
                raise ClientClosed("the client is closed", server=self.name)
            response = self.wire.send(
                "POST", headers, outgoing.body, abort, url=endpoint
            )
            body = self.wire.discard(response, abort)
        if not 200 <= response.status_code < 300:
            raise self.wire.refusal(response, body)

    def _open_stream(self) -> "_Stream":
        stream = self._stream
        if stream is not None:
            return stream
        if self._closed:
            raise ClientClosed("the client is closed", server=self.name)
        raise LocalProtocolError("the transport is not open", server=self.name)


class _Stream:
    """One event stream and the thread that reads it."""

    def __init__(self, transport: SSETransport, unsolicited: Unsolicited) -> None:
        self.name = transport.name
        self.batches = False
        self.endpoint = ""
        self.pending = PendingExchanges(
            transport.limits.pending_requests, unsolicited, transport.name
        )
        self._url = transport.url
        self._wire = transport.wire
        self._limit = transport.limits.message_bytes
        self._unsolicited = unsolicited
        self._abort: Abort = transport.wire.abort(Deadline(FOR_EVER))
        self._ready = Signal()
        self._failure: Optional[MCPError] = None
        self._over = False
        self._flawed = False
        self._thread = threading.Thread(
            target=self._run, name="mcpsync-sse-%s" % self.name, daemon=True
        )

    def start(self, deadline: Deadline) -> None:
        """Open the stream; return once the server has named its endpoint."""
        self._thread.start()
        seconds = min(_ENDPOINT_SECONDS, deadline.wait_seconds())
        named = False
        try:
            self._ready.wait(seconds)
            named, failure = bool(self.endpoint), self._failure
        finally:
            if not named:
                self.stop("no endpoint in time")
        if named:
            return
        raise failure or ConnectFailed(
            "%s named no endpoint within %g s" % (bare_url(self._url), seconds),
            server=self.name,
        )

    @property
    def alive(self) -> bool:
        return not self._over and bool(self.endpoint)

    def stop(self, reason: str) -> None:
        self._over = True
        self._abort.abort(reason)
        name = self.name
        self.pending.fail_all(
            lambda sent: ClientClosed("the client was closed", server=name)
        )

    def cut(self) -> None:
        """End the stream without taking a lock: for the garbage collector."""
        self._over = True
        self._abort.cut()

    def join(self, timeout: float) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    # --- the thread ---------------------------------------------------------

    def _run(self) -> None:
        name = self.name
        failure: MCPError = ConnectionLost("the event stream ended", server=name)
        try:
            self._read()
        except MCPError as error:
            failure = error
        except Exception as error:
            # An authentication object may raise anything.
            why = clean(error, 200)
            failure = ConnectFailed("no event stream: %s" % why, server=name)
        self._failure = failure
        text = failure.message
        if not self._over:
            self._over = True
            self.pending.fail_all(
                lambda sent: ConnectionLost(text, sent=sent, server=name)
            )
        self._abort.release()
        self._ready.set()

    def _read(self) -> None:
        wire = self._wire
        response = wire.send("GET", {"Accept": "text/event-stream"}, None, self._abort)
        try:
            if response.status_code != 200 or not is_event_stream(response):
                raise wire.refusal(response, wire.discard(response, self._abort))
            source = events(chunks(response.raw, self._limit), self._limit)
            while not self._over:
                with wire.mapped(self._abort):
                    event = next(source, None)
                if event is None:
                    return
                self._take(event)
        finally:
            self._abort.release()
            response.close()

    def _take(self, event: Event) -> None:
        if not self.endpoint:
            self._take_endpoint(event)
        elif event.data and event.event == "message":
            self._take_message(event.data)

    def _take_endpoint(self, event: Event) -> None:
        if event.event != "endpoint":
            raise InvalidMessage("the first event is not the endpoint")
        try:
            endpoint = urllib.parse.urljoin(self._url, event.data.strip())
        except ValueError:
            raise InvalidMessage("the server's endpoint is no URL") from None
        if not same_origin(self._url, endpoint):
            # Credentials for this server would go to another one.
            raise InvalidMessage(
                "the server's endpoint is elsewhere: %s" % bare_url(endpoint)
            )
        self.endpoint = endpoint
        self._ready.set()

    def _take_message(self, data: str) -> None:
        try:
            for message in self._wire.messages(data, self.batches):
                self.pending.route(message)
        except InvalidMessage as error:
            if not self._blamed(error, data) and not self._flawed:
                # Once: a hostile server must not fill the log.
                self._flawed = True
                text = "the server sent no message but: %s" % error.message
                self._unsolicited(Note(logging.WARNING, text))

    def _blamed(self, error: InvalidMessage, data: str) -> bool:
        """Fail the request that a bad message answers, if that can be told."""
        text = data.encode("utf-8", "replace")
        id: object = answered_id(text, text)
        if isinstance(error, InvalidAnswer):
            id = error.response_id
        elif id is None:
            return False
        why, name = error.message, self.name
        return self.pending.fail_one(
            id,
            lambda sent: InvalidMessage(
                "the server's answer is unusable: %s" % why, server=name
            ),
        )
