"""One POST and everything that comes back about it, read by the calling thread.

The answer is a JSON body, or an event stream that ends with it. In legacy revisions a
broken stream is resumed with GET and the id of its last event.

Specification: 2026-07-28 and 2025-11-25, basic/transports (streamable HTTP).
"""

from __future__ import annotations

import collections
import threading
from typing import TYPE_CHECKING, Any, Deque, Dict, Iterator, List, Optional

import requests

from .._deadline import Deadline, watchdog
from ..exceptions import (
    ConnectionLost,
    InvalidMessage,
    MCPError,
    SessionExpired,
)
from ..protocol.jsonrpc import Message, Outgoing, Request, Response, decode, parse
from ._eventstream import Event, chunks, events, read_all
from ._http_wire import is_event_stream, is_json
from .base import Exchange

if TYPE_CHECKING:
    from ._http_session import Session
    from .http import StreamableHTTPTransport

__all__ = ["HTTPExchange", "StreamPosition"]

#: Wait before a stream is resumed when the server names none, and the longest.
_RETRY_SECONDS = 1.0
_LONGEST_RETRY = 60.0

#: How long the end of a stream is awaited after its answer, so that its connection
#: can serve the next request.
_DRAIN_SECONDS = 0.02

#: How long telling the server that a request is cancelled may take.
_NOTICE_SECONDS = 1.0

ACCEPT = "application/json, text/event-stream"


class StreamPosition:
    """Where one event stream can be resumed, and when."""

    def __init__(self) -> None:
        self.last_id: Optional[str] = None
        self.retry_seconds = _RETRY_SECONDS

    def note(self, event: Event) -> None:
        if event.id is not None:
            # An empty id forgets the earlier ones.
            self.last_id = event.id or None
        if event.retry is not None:
            self.retry_seconds = min(event.retry / 1000.0, _LONGEST_RETRY)


class HTTPExchange(Exchange):
    """A request over streamable HTTP. Sent by the first :meth:`receive`."""

    def __init__(
        self,
        transport: "StreamableHTTPTransport",
        outgoing: Outgoing,
        session: Optional["Session"],
        deadline: Deadline,
    ) -> None:
        self.outgoing = outgoing
        self._transport = transport
        self._session = session
        self._abort = transport.wire.abort(deadline)
        self._inbox: Deque[Message] = collections.deque()
        self._delivered = threading.Event()
        self._answered = False
        self._messages: Iterator[Message] = self._run()
        self._response: Optional[requests.Response] = None

    # --- the calling thread -------------------------------------------------

    def receive(self, deadline: Deadline) -> Message:
        self._abort.deadline = deadline
        if self._inbox:
            return self._inbox.popleft()
        try:
            with watchdog.guard(deadline, self._expire):
                message = next(self._messages)
        except StopIteration:
            raise ConnectionLost(
                "nothing more can come about this request",
                sent=True,
                server=self._transport.name,
            ) from None
        except MCPError:
            if self._inbox:
                return self._inbox.popleft()
            raise
        return message

    def _expire(self) -> None:
        self._abort.abort("deadline")

    def _run(self) -> Iterator[Message]:
        """Yield every message about the request; the answer is the last one."""
        response = self._post()
        if is_json(response) and response.status_code != 202:
            yield from self._body(response)
            return
        position = StreamPosition()
        yield from self._stream(response, position)
        attempts = 0
        while not self._answered:
            last_id = position.last_id
            yield from self._resumed(position, attempts)
            attempts = 0 if position.last_id != last_id else attempts + 1

    def _post(self) -> requests.Response:
        headers: Dict[str, str] = {
            "Accept": ACCEPT,
            "Content-Type": "application/json",
            **self._session_headers(),
            **self.outgoing.headers,
        }
        wire = self._transport.wire
        response = wire.send("POST", headers, self.outgoing.body, self._abort)
        self._response = response
        status = response.status_code
        if 200 <= status < 300:
            if self.outgoing.opens_session:
                self._transport.offer(response.headers.get("Mcp-Session-Id"))
            if is_json(response) or (is_event_stream(response) and status != 202):
                return response
        raise_or_answer = self._refused(response)
        if isinstance(raise_or_answer, MCPError):
            raise raise_or_answer
        self._inbox.append(raise_or_answer)
        raise _Answered()

    def _session_headers(self) -> Dict[str, str]:
        if self._session is None or self.outgoing.opens_session:
            return {}
        return self._session.headers()

    def _refused(self, response: requests.Response) -> Any:
        """Return the JSON-RPC error that a refusal carries, or an exception."""
        wire = self._transport.wire
        status = response.status_code
        body = wire.discard(response, self._abort)
        if status == 404 and self._session is not None and self._session.id:
            return SessionExpired(
                generation=self._session.generation, server=self._transport.name
            )
        if status in (401, 403) or 300 <= status < 400:
            return wire.refusal(response, body)
        try:
            message = parse(decode(body))
        except InvalidMessage:
            return wire.refusal(response, body)
        if isinstance(message, Response) and message.error is not None:
            # Whatever its id: it answers the request that got it.
            self._answered = True
            return Response(self.outgoing.id, error=message.error, status=status)
        return wire.refusal(response, body)

    # --- a JSON body --------------------------------------------------------

    def _body(self, response: requests.Response) -> Iterator[Message]:
        wire, status = self._transport.wire, response.status_code
        with wire.mapped(self._abort):
            data = read_all(response.raw, self._transport.limits.message_bytes)
        if self._abort.reason is not None:
            raise wire.aborted(self._abort)
        self._abort.release()
        if not data.strip():
            raise wire.refusal(response, b"")
        if not 200 <= status < 300:
            raise wire.refusal(response, data[:1024])
        for message in self._parsed(data):
            if isinstance(message, Response):
                yield self._answer(message, status)
                return
            yield message
        raise InvalidMessage(
            "the server's body holds no answer", server=self._transport.name
        )

    def _parsed(self, data: Any) -> List[Message]:
        """Return the message in a JSON text, or the messages where batches exist."""
        value = decode(data)
        batches = self._session is not None and self._session.profile.batches
        if isinstance(value, list) and batches:
            return [parse(item) for item in value]
        return [parse(value)]

    def _answer(self, message: Response, status: Optional[int]) -> Response:
        expected = self.outgoing.id
        if type(message.id) is type(expected) and message.id == expected:
            pass
        elif message.id is not None or message.error is None:
            raise InvalidMessage(
                "the server answered the request %r, but %r was asked"
                % (message.id, expected),
                server=self._transport.name,
            )
        self._answered = True
        return Response(expected, message.result, message.error, status)

    # --- an event stream ----------------------------------------------------

    def _stream(
        self, response: requests.Response, position: StreamPosition
    ) -> Iterator[Message]:
        """Yield the messages of a stream, up to the answer or its early end."""
        wire, limit = self._transport.wire, self._transport.limits.message_bytes
        status = response.status_code
        source = events(chunks(response.raw, limit), limit)
        while True:
            try:
                with wire.mapped(self._abort):
                    event = next(source, None)
            except ConnectionLost:
                # A drop; whether it can be resumed is decided in one place.
                event = None
            if event is None:
                self._ended(position)
                return
            position.note(event)
            if not event.data or event.event != "message":
                continue
            for message in self._parsed(event.data):
                if not isinstance(message, Response):
                    yield message
                    continue
                answer = self._answer(message, status)
                self._drain(response)
                yield answer
                return

    def _ended(self, position: StreamPosition) -> None:
        """Handle the end of a stream that brought no answer."""
        self._check_aborted()
        self._let_go()
        if self.outgoing.resumable and position.last_id is not None:
            return
        raise ConnectionLost(
            "the server's stream ended before the answer",
            sent=True,
            server=self._transport.name,
        )

    def _drain(self, response: requests.Response) -> None:
        """Read on to the end of the stream, if that is there already."""
        sock = self._abort.socket
        try:
            if sock is not None:
                sock.settimeout(_DRAIN_SECONDS)
            ended = not any(True for _ in chunks(response.raw, 65536))
        except Exception:
            # It did not end: its connection is of no further use.
            ended = False
        if ended:
            self._abort.release()
        self._let_go()

    def _resumed(self, position: StreamPosition, attempt: int) -> Iterator[Message]:
        """Wait as the server asked, then go on where the stream broke."""
        limits, name = self._transport.limits, self._transport.name
        if attempt >= limits.reconnects:
            raise ConnectionLost(
                "the stream broke, and %d attempts to resume it brought nothing"
                % attempt,
                sent=True,
                server=name,
            )
        deadline = self._abort.deadline
        pause = min(position.retry_seconds * 2**attempt, _LONGEST_RETRY)
        self._delivered.wait(min(pause, deadline.wait_seconds()))
        self._check_aborted()
        if deadline.expired:
            raise deadline.error(name, None)
        assert position.last_id is not None
        headers = {
            "Accept": "text/event-stream",
            "Last-Event-ID": position.last_id,
            **self._session_headers(),
        }
        try:
            response = self._transport.wire.send("GET", headers, None, self._abort)
        except ConnectionLost:
            return
        self._response = response
        if response.status_code != 200 or not is_event_stream(response):
            body = self._transport.wire.discard(response, self._abort)
            refusal = self._transport.wire.refusal(response, body)
            raise ConnectionLost(
                "the stream broke and cannot be resumed: %s" % refusal.message,
                sent=True,
                server=name,
            ) from refusal
        yield from self._stream(response, position)

    # --- other threads ------------------------------------------------------

    def deliver(self, message: Message) -> None:
        self._inbox.append(message)
        if isinstance(message, Response):
            # Nothing else will come: stop reading where it was expected.
            self._answered = True
            self._abort.abort("delivered")
            self._delivered.set()

    def cancel(self, reason: str) -> None:
        if self._abort.reason == "cancelled" or self._answered:
            return
        self._abort.abort("cancelled")
        self._delivered.set()
        notice = self.outgoing.notice
        if self.outgoing.cancellation == "notify" and notice is not None:
            try:
                self._transport.send(notice(reason), Deadline.after(_NOTICE_SECONDS))
            except MCPError:
                # The server may be gone, or busy: the caller has left anyway.
                return

    def shut(self) -> None:
        """End the exchange because the client is closed. Any thread."""
        self._abort.abort("closed")
        self._delivered.set()

    def close(self) -> None:
        self._transport.forget(self)
        if not self._answered and self._abort.reason is None:
            # Leaving a stream open that nobody reads would hold its connection.
            self._abort.abort("left")
        self._let_go()

    def leftovers(self) -> List[Message]:
        return [message for message in self._inbox if isinstance(message, Request)]

    def _check_aborted(self) -> None:
        if self._abort.reason is not None and not self._inbox:
            raise self._transport.wire.aborted(self._abort)
        if self._inbox and self._answered:
            raise _Answered()

    def _let_go(self) -> None:
        response, self._response = self._response, None
        self._abort.release()
        if response is not None:
            response.close()


class _Answered(MCPError):
    """Ends the reading of an exchange whose answer is in the inbox already."""
