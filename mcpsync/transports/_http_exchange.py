"""One POST and everything that comes back about it, read by the calling thread.

The answer is a JSON body, or an event stream that ends with it. In legacy revisions a
broken stream is resumed with GET and the id of its last event.

Specification: 2026-07-28 and 2025-11-25, basic/transports (streamable HTTP).
"""

from __future__ import annotations

import collections
import logging
import time
from typing import TYPE_CHECKING, Callable, Deque, Dict, Iterator, List, Optional, Union

import requests

from .._deadline import Deadline, watchdog
from .._sockets import Signal
from .._text import clean
from ..exceptions import (
    ConnectFailed,
    ConnectionLost,
    InvalidMessage,
    MCPError,
    SessionExpired,
)
from ..protocol.jsonrpc import (
    InvalidAnswer,
    Message,
    Outgoing,
    Request,
    Response,
)
from ._eventstream import Event, chunks, events, read_all
from ._framing import answered_id
from ._http_wire import is_event_stream, is_json, may_pass
from .base import Exchange, Note

if TYPE_CHECKING:
    from ._http_session import Session
    from .http import StreamableHTTPTransport

__all__ = ["HTTPExchange", "StreamPosition"]

#: Wait before a stream is resumed when the server names none; the shortest, so that
#: no server makes this client turn in circles; and the longest.
_RETRY_SECONDS = 1.0
_SHORTEST_RETRY = 0.1
_LONGEST_RETRY = 60.0

#: How long the end of a stream is awaited after its answer, so that its connection
#: can serve the next request; and by a server that left the last one open.
DRAIN_SECONDS = 0.1
_BRIEF_DRAIN_SECONDS = 0.005

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

    def pause(self, attempts: int) -> float:
        """Return the seconds to wait after so many attempts that brought nothing."""
        shortest = max(self.retry_seconds, _SHORTEST_RETRY)
        return min(shortest * (1 << min(attempts, 10)), _LONGEST_RETRY)


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
        self._delivered = Signal()
        self._answered = False
        self._messages: Iterator[Message] = self._run()
        self._failure: Optional[MCPError] = None
        self._flaw: Optional[InvalidMessage] = None
        self._response: Optional[requests.Response] = None
        self._drains_until: Optional[float] = None
        # Taken out by whoever sends it: it is sent once.
        self._notices: List[Callable[[str], Outgoing]] = []
        if outgoing.cancellation == "notify" and outgoing.notice is not None:
            self._notices.append(outgoing.notice)

    # --- the calling thread -------------------------------------------------

    def receive(self, deadline: Deadline) -> Message:
        self._abort.deadline = deadline
        if not self._inbox and self._failure is None:
            try:
                with watchdog.guard(deadline, self._expire):
                    self._inbox.append(next(self._messages))
            except StopIteration:
                self._failure = ConnectionLost(
                    "nothing more can come about this request",
                    sent=True,
                    server=self._transport.name,
                )
            except InvalidAnswer as error:
                # Whose answer it is is plain here; the class is not for callers.
                self._failure = InvalidMessage(error.message)
            except MCPError as error:
                self._failure = error
        # What was delivered meanwhile came before whatever ended the reading.
        if self._inbox:
            return self._inbox.popleft()
        assert self._failure is not None
        raise self._failure

    def _expire(self) -> None:
        self._abort.abort("deadline")

    def _run(self) -> Iterator[Message]:
        """Yield every message about the request; the answer is the last one."""
        response = self._post()
        if isinstance(response, Response):
            yield response
            return
        if is_json(response):
            yield from self._body(response)
            return
        position = StreamPosition()
        yield from self._stream(response, position)
        attempts = 0
        while not self._answered:
            last_id = position.last_id
            yield from self._resumed(position, attempts)
            attempts = 0 if position.last_id != last_id else attempts + 1

    def _post(self) -> Union[requests.Response, Response]:
        """Send the request; return what is to be read, or the answer itself."""
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
            if status != 202 and (is_json(response) or is_event_stream(response)):
                return response
        return self._refused(response)

    def _session_headers(self) -> Dict[str, str]:
        if self._session is None or self.outgoing.opens_session:
            return {}
        return self._session.headers()

    def _refused(self, response: requests.Response) -> Response:
        """Return the JSON-RPC error that a refusal carries, or raise."""
        wire = self._transport.wire
        status = response.status_code
        body = wire.discard(response, self._abort)
        if status == 404 and self._session is not None and self._session.id:
            raise SessionExpired(
                generation=self._session.generation, server=self._transport.name
            )
        if status in (401, 403) or 300 <= status < 400:
            raise wire.refusal(response, body)
        try:
            (message,) = wire.messages(body, batches=False)
        except InvalidMessage:
            raise wire.refusal(response, body) from None
        if not isinstance(message, Response) or message.error is None:
            raise wire.refusal(response, body)
        # Whatever its id: it answers the request that got it.
        self._answered = True
        return Response(self.outgoing.id, error=message.error, status=status)

    # --- a JSON body --------------------------------------------------------

    def _body(self, response: requests.Response) -> Iterator[Message]:
        wire, status = self._transport.wire, response.status_code
        with wire.mapped(self._abort):
            data = read_all(response.raw, self._transport.limits.message_bytes)
        if self._abort.reason is not None:
            # Its end may be that of the connection, which was shut down.
            raise wire.aborted(self._abort)
        self._abort.release()
        if not data.strip():
            raise wire.refusal(response, b"")
        for message in wire.messages(data, self._batches):
            if not isinstance(message, Response):
                yield message
                continue
            if not self._is_mine(message):
                raise InvalidMessage(
                    "the server answered the request %s, but %r was asked"
                    % (clean(repr(message.id), 60), self.outgoing.id),
                    server=self._transport.name,
                )
            yield self._answer(message, status)
            return
        raise InvalidMessage(
            "the server's body holds no answer", server=self._transport.name
        )

    @property
    def _batches(self) -> bool:
        return self._session is not None and self._session.profile.batches

    def _is_mine(self, message: Response) -> bool:
        # A null id: the server could not read the request that it refuses.
        if message.id is None:
            return message.error is not None
        # The type as well: to Python 1, 1.0 and True are all the same.
        mine = self.outgoing.id
        return type(message.id) is type(mine) and message.id == mine

    def _answer(self, message: Response, status: Optional[int]) -> Response:
        self._answered = True
        return Response(self.outgoing.id, message.result, message.error, status)

    # --- an event stream ----------------------------------------------------

    def _stream(
        self, response: requests.Response, position: StreamPosition
    ) -> Iterator[Message]:
        """Yield the messages of a stream, up to the answer or its early end."""
        wire, limit = self._transport.wire, self._transport.limits.message_bytes
        source = events(self._pieces(response), limit)
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
            for message in self._messages_in(event):
                if not isinstance(message, Response):
                    yield message
                elif self._is_mine(message):
                    answer = self._answer(message, response.status_code)
                    self._drain(source)
                    yield answer
                    return
                else:
                    self._transport.route(message)

    def _pieces(self, response: requests.Response) -> Iterator[bytes]:
        limit = self._transport.limits.message_bytes
        for piece in chunks(response.raw, limit):
            yield piece
            if self._drains_until and time.monotonic() > self._drains_until:
                raise TimeoutError

    def _messages_in(self, event: Event) -> List[Message]:
        """Return what one event holds; one that cannot be read need not be the end."""
        if not event.data or event.event != "message":
            return []
        try:
            return self._transport.wire.messages(event.data, self._batches)
        except InvalidMessage as error:
            if self._is_answer(error, event.data):
                raise
            if self._flaw is None:
                # If nothing better comes, it may have been the answer.
                self._flaw = error
                text = "the server sent no message but: %s" % error.message
                self._transport.tell(Note(logging.WARNING, text))
            return []

    def _is_answer(self, error: InvalidMessage, data: str) -> bool:
        """Return whether what cannot be read is the answer that is waited for."""
        mine = self.outgoing.id
        if isinstance(error, InvalidAnswer):
            about = error.response_id
            return about is None or (type(about) is type(mine) and about == mine)
        text = data.encode("utf-8", "replace")
        return mine is not None and answered_id(text, text) == mine

    def _ended(self, position: StreamPosition) -> None:
        """Return if the stream can be resumed, or need not be; otherwise raise."""
        self._let_go()
        if self._answered:
            return
        if self._abort.reason is not None:
            raise self._transport.wire.aborted(self._abort)
        if self.outgoing.resumable and position.last_id is not None:
            return
        raise self._flaw or ConnectionLost(
            "the server's stream ended before the answer",
            sent=True,
            server=self._transport.name,
        )

    def _drain(self, source: Iterator[Event]) -> None:
        """Read on to the end of the stream, if that is near."""
        sock = self._abort.socket
        patience = self._transport.patience
        self._drains_until = time.monotonic() + patience
        try:
            if sock is not None:
                sock.settimeout(patience)
            for event in source:
                for message in self._messages_in(event):
                    self._transport.route(message)
        except Exception:
            # It does not end: its connection is of no further use, and the next
            # stream of this server probably does not end either.
            self._transport.patience = _BRIEF_DRAIN_SECONDS
        else:
            self._transport.patience = DRAIN_SECONDS
        self._let_go()

    def _resumed(self, position: StreamPosition, attempt: int) -> Iterator[Message]:
        """Wait as the server asked, then go on where the stream broke."""
        wire, name = self._transport.wire, self._transport.name
        if attempt >= self._transport.limits.reconnects:
            raise ConnectionLost(
                "the stream broke, and %d attempts to resume it brought nothing"
                % attempt,
                sent=True,
                server=name,
            )
        deadline, pause = self._abort.deadline, position.pause(attempt)
        self._abort.wait(self._delivered, min(pause, deadline.wait_seconds()))
        if self._answered:
            return
        assert position.last_id is not None
        headers = {
            "Accept": "text/event-stream",
            "Last-Event-ID": position.last_id,
            **self._session_headers(),
        }
        try:
            response = wire.send("GET", headers, None, self._abort)
        except (ConnectionLost, ConnectFailed):
            # The next attempt may find the server again.
            return
        self._response = response
        if response.status_code == 200 and is_event_stream(response):
            yield from self._stream(response, position)
            return
        body = wire.discard(response, self._abort)
        if may_pass(response.status_code):
            return
        refusal = wire.refusal(response, body)
        raise ConnectionLost(
            "the stream broke and cannot be resumed: %s" % refusal.message,
            sent=True,
            server=name,
        ) from refusal

    # --- other threads ------------------------------------------------------

    def deliver(self, message: Message) -> None:
        if self._answered:
            return
        self._inbox.append(message)
        if isinstance(message, Response):
            # Nothing else will come: stop reading where it was expected.
            self._answered = True
            self._abort.abort("delivered")
        else:
            # The reader gets it with the next message, but the server is not idle.
            self._abort.deadline.touch()

    def cancel(self, reason: str) -> None:
        if self._answered:
            return
        self._abort.abort("cancelled")
        try:
            notice = self._notices.pop()
        except IndexError:
            return
        if not self._abort.connected:
            # The server never saw the request.
            return
        try:
            self._transport.send(notice(reason), Deadline.after(_NOTICE_SECONDS))
        except MCPError:
            # The server may be gone, or busy: the caller has left anyway.
            return

    def shut(self) -> None:
        """End the exchange because the client is closed. Any thread."""
        self._abort.abort("closed")

    def close(self) -> None:
        try:
            self._transport.forget(self)
            if not self._answered:
                # Leaving a stream open that nobody reads would hold its connection.
                self._abort.abort("left")
        finally:
            self._let_go()
            self._failure = None

    def leftovers(self) -> List[Message]:
        return [message for message in self._inbox if isinstance(message, Request)]

    def _let_go(self) -> None:
        response, self._response = self._response, None
        try:
            if response is not None:
                response.close()
        finally:
            # An interrupt may have kept the response from getting here.
            self._abort.close()
