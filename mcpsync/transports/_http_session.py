"""What a legacy HTTP session adds: its id, the server's own stream, and its end.

Specification: 2025-11-25, basic/transports (session management, listening).
"""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Dict, Optional

import requests

from .._deadline import Deadline, Timeout
from .._sockets import Abort, Signal
from .._text import clean
from ..exceptions import (
    ConnectionLost,
    InvalidMessage,
    MCPError,
    RequestTimeout,
    TransportError,
)
from ._eventstream import Event, chunks, events
from ._http_exchange import StreamPosition
from ._http_wire import is_event_stream, may_pass
from .base import Note, Profile

if TYPE_CHECKING:
    from .http import StreamableHTTPTransport

__all__ = ["Listener", "Session"]

#: How long opening waits for the headers of the server's own stream.
_READY_SECONDS = 5.0

#: A stream that lived so long was worth opening, even if nothing was said on it.
_HEALTHY_SECONDS = 20.0

#: How long a pause may go on after its client was forgotten.
_SLICE = 1.0

#: A stream may be silent for ever, but connecting has an end.
FOR_EVER = Timeout(connect=10.0, idle=None, total=None)


class Session:
    """The facts of one session; immutable."""

    def __init__(self, id: Optional[str], profile: Profile, generation: int) -> None:
        self.id = id
        self.profile = profile
        self.generation = generation

    def headers(self) -> Dict[str, str]:
        """Return what every request of the session carries."""
        headers = dict(self.profile.headers)
        if self.id is not None:
            headers["Mcp-Session-Id"] = self.id
        return headers


class Listener:
    """Reads the server's own stream on a thread of its own, and reopens it."""

    def __init__(self, transport: "StreamableHTTPTransport", session: Session) -> None:
        self._transport = transport
        self._session = session
        self._stopped = False
        self._stopping = Signal()
        self._ready = Signal()
        self._cut = False
        self._flawed = False
        self._abort: Abort = transport.wire.abort(Deadline(FOR_EVER))
        self._thread = threading.Thread(
            target=self._run, name="mcpsync-listen-%s" % transport.name, daemon=True
        )

    def start(self, deadline: Deadline) -> None:
        """Open the stream; return when the server has it, or does not offer one.

        A server may send a question on this stream as soon as a call asks for it, and
        drops what it cannot send.
        """
        self._thread.start()
        self._ready.wait(min(_READY_SECONDS, deadline.wait_seconds()))

    def stop(self) -> None:
        """End the stream; does not wait. Idempotent."""
        self._stopped = True
        self._stopping.set()
        self._abort.abort("closed")

    def cut(self) -> None:
        """End the stream without taking a lock: for the garbage collector."""
        self._cut = True
        self._abort.cut()

    def join(self, timeout: float) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    # --- the thread ---------------------------------------------------------

    def _run(self) -> None:
        position = StreamPosition()
        attempts = 0
        try:
            while not self._over():
                healthy = self._listen(position)
                if healthy is None:
                    return
                attempts = 0 if healthy else attempts + 1
                if attempts > self._transport.limits.reconnects:
                    self._note("the server's own stream keeps ending: not reopened")
                    return
                self._pause(position.pause(max(0, attempts - 1)))
        except Exception as error:
            # An authentication object may raise anything.
            self._note("the server's own stream is gone: %s" % clean(error, 200))
        finally:
            self._ready.set()
            self._abort.release()

    def _over(self) -> bool:
        return self._cut or self._stopped or self._transport.stopped

    def _pause(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while not self._over():
            left = end - time.monotonic()
            if left <= 0:
                return
            # In slices, because the garbage collector cannot set an event.
            self._stopping.wait(min(left, _SLICE))

    def _listen(self, position: StreamPosition) -> Optional[bool]:
        """Read one stream to its end.

        Returns:
            Whether it was of any use; ``None`` if there is no such stream.
        """
        wire = self._transport.wire
        headers = {"Accept": "text/event-stream", **self._session.headers()}
        if position.last_id is not None:
            headers["Last-Event-ID"] = position.last_id
        try:
            response = wire.send("GET", headers, None, self._abort)
        except (TransportError, RequestTimeout):
            # Not there now; the next attempt may find it again.
            self._ready.set()
            return False
        if response.status_code != 200 or not is_event_stream(response):
            wire.discard(response, self._abort)
            self._ready.set()
            return False if may_pass(response.status_code) else None
        self._ready.set()
        opened = time.monotonic()
        try:
            heard = self._read(response, position)
        finally:
            self._abort.release()
            response.close()
        # A quiet server, or a proxy, may end the stream from time to time.
        return heard or time.monotonic() - opened >= _HEALTHY_SECONDS

    def _read(self, response: requests.Response, position: StreamPosition) -> bool:
        """Pass on what comes until the stream ends; return whether anything came."""
        limit = self._transport.limits.message_bytes
        source = events(chunks(response.raw, limit), limit)
        heard = False
        while not self._over():
            try:
                with self._transport.wire.mapped(self._abort):
                    event = next(source, None)
            except MCPError as error:
                if not isinstance(error, ConnectionLost):
                    self._note("the server's own stream broke: %s" % error.message)
                return heard
            if event is None:
                return heard
            position.note(event)
            # An id alone is no sign of use: some servers begin each stream with one.
            heard = heard or bool(event.data)
            self._take(event)
        return heard

    def _take(self, event: Event) -> None:
        if not event.data or event.event != "message":
            return
        batches = self._session.profile.batches
        try:
            for message in self._transport.wire.messages(event.data, batches):
                self._transport.route(message)
        except InvalidMessage as error:
            if not self._flawed:
                # Once: a hostile server must not fill the log.
                self._flawed = True
                self._note("the server sent no message but: %s" % error.message)

    def _note(self, text: str) -> None:
        if not self._over():
            self._transport.tell(Note(logging.WARNING, text))
