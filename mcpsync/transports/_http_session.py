"""What a legacy HTTP session adds: its id, the server's own stream, and its end.

Specification: 2025-11-25, basic/transports (session management, listening).
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Dict, Optional

from .._deadline import Deadline
from .._text import clean
from ..exceptions import InvalidMessage, MCPError
from ..protocol.jsonrpc import decode, parse
from ._eventstream import Event, chunks, events
from ._http_exchange import StreamPosition
from ._http_sockets import Abort
from ._http_wire import is_event_stream
from .base import Note, Profile

if TYPE_CHECKING:
    from .http import StreamableHTTPTransport

__all__ = ["Listener", "Session"]

#: How long opening waits for the headers of the server's own stream.
_READY_SECONDS = 5.0


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
        self._stopping = threading.Event()
        self._ready = threading.Event()
        self._abort: Abort = transport.wire.abort(Deadline.after(None))
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
        self._stopping.set()
        self._abort.abort("closed")

    def cut(self) -> None:
        """End the stream without taking a lock: for the garbage collector."""
        self._transport.stopped = True
        self._abort.cut()

    def join(self, timeout: float) -> None:
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)

    # --- the thread ---------------------------------------------------------

    def _run(self) -> None:
        position = StreamPosition()
        attempt = 0
        try:
            while not self._over() and attempt <= self._transport.limits.reconnects:
                heard = self._listen(position)
                if heard is None:
                    return
                attempt = 0 if heard else attempt + 1
                pause = min(position.retry_seconds * 2 ** max(0, attempt - 1), 60.0)
                self._stopping.wait(pause)
        except MCPError as error:
            self._note("the server's own stream is gone: %s" % error)
        finally:
            self._ready.set()
            self._abort.release()

    def _over(self) -> bool:
        return self._stopping.is_set() or self._transport.stopped

    def _listen(self, position: StreamPosition) -> Optional[bool]:
        """Read one stream to its end.

        Returns:
            Whether anything was heard; ``None`` if there is no such stream.
        """
        wire = self._transport.wire
        headers = {"Accept": "text/event-stream", **self._session.headers()}
        if position.last_id is not None:
            headers["Last-Event-ID"] = position.last_id
        try:
            response = wire.send("GET", headers, None, self._abort)
        except MCPError:
            # Not there now; the next attempt may find it again.
            self._ready.set()
            return False
        if response.status_code != 200 or not is_event_stream(response):
            wire.discard(response, self._abort)
            return None
        self._ready.set()
        try:
            return self._read(response, position)
        finally:
            self._abort.release()
            response.close()

    def _read(self, response: object, position: StreamPosition) -> bool:
        limit = self._transport.limits.message_bytes
        source = events(chunks(getattr(response, "raw"), limit), limit)
        heard = False
        while not self._over():
            try:
                with self._transport.wire.mapped(self._abort):
                    event = next(source, None)
            except MCPError:
                return heard
            if event is None:
                return heard
            heard = True
            position.note(event)
            self._take(event)
        return heard

    def _take(self, event: Event) -> None:
        if not event.data or event.event != "message":
            return
        try:
            value = decode(event.data)
            several = isinstance(value, list) and self._session.profile.batches
            for item in value if several else [value]:
                self._transport.route(parse(item))
        except InvalidMessage as error:
            self._note("the server sent no message but: %s" % clean(error.message))

    def _note(self, text: str) -> None:
        if not self._over():
            self._transport.tell(Note(logging.WARNING, text))
