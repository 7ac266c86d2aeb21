"""What the tests of the HTTP transports ask, and how."""

from __future__ import annotations

import contextlib
import json
import threading
from typing import Any, Callable, Iterator, List, Optional, Union

import pytest

from mcpsync._deadline import Deadline, Timeout
from mcpsync.exceptions import MCPError
from mcpsync.protocol.eras import ClientFacts, LegacyEra, ModernEra
from mcpsync.protocol.jsonrpc import Message, Outgoing, Response
from mcpsync.transports.base import Note, Profile
from mcpsync.transports.http import StreamableHTTPTransport

from ..fakes import bounded
from ..fakes.hostile import hostile, respond

__all__ = [
    "LEGACY",
    "MODERN",
    "PROGRESS",
    "RESULT",
    "SESSION",
    "Heard",
    "answer",
    "ask",
    "begin_on_thread",
    "call",
    "converse",
    "eventually",
    "initialize",
    "json_answer",
    "legacy",
    "opened",
    "refused",
    "sse_answer",
]

_FACTS = ClientFacts({"name": "test", "version": "1"})
MODERN = ModernEra("2026-07-28", _FACTS)
LEGACY = LegacyEra("2025-11-25", _FACTS)

#: A session as negotiation describes it.
SESSION = Profile(
    headers=LEGACY.http_headers(), session=True, delete_on_close=True, batches=False
)

RESULT = {"content": [], "resultType": "complete"}

#: Progress of the request 1.
PROGRESS = {
    "jsonrpc": "2.0",
    "method": "notifications/progress",
    "params": {"progressToken": 1, "progress": 1},
}


def call(id: int = 1, legacy: bool = False, tool: str = "echo") -> Outgoing:
    """Return a tool call."""
    era = LEGACY if legacy else MODERN
    return era.request(id, "tools/call", {"name": tool, "arguments": {}})


def legacy(id: int = 1) -> Outgoing:
    """Return a tool call of the legacy era."""
    return call(id, legacy=True)


def initialize(id: int = 1) -> Outgoing:
    """Return the handshake's request."""
    return LEGACY.initialize(id)


def answer(id: Any = 1, result: Any = None) -> bytes:
    """Return the JSON text of an answer."""
    value = {"jsonrpc": "2.0", "id": id, "result": RESULT if result is None else result}
    return json.dumps(value).encode("ascii")


def json_answer(id: int = 1, *headers: str) -> bytes:
    """Return the bytes of a whole response with an answer in it."""
    return respond(answer(id), *headers)


def sse_answer(body: bytes, *headers: str) -> bytes:
    """Return the bytes of a response whose event stream ends with the connection."""
    return respond(body, *headers, content_type="text/event-stream", length=False)


class Heard:
    """Takes what belongs to no exchange, and lets tests wait for it."""

    def __init__(self) -> None:
        self.messages: List[Union[Message, Note]] = []
        self._changed = threading.Condition()

    def __call__(self, message: Union[Message, Note]) -> None:
        with self._changed:
            self.messages.append(message)
            self._changed.notify_all()

    @property
    def notes(self) -> List[str]:
        return [m.text for m in self.messages if isinstance(m, Note)]

    def wait_for(self, count: int, limit: float = 5.0) -> List[Union[Message, Note]]:
        with self._changed:
            enough = self._changed.wait_for(
                lambda: len(self.messages) >= count, timeout=limit
            )
        assert enough, "heard only %r" % self.messages
        return self.messages


@contextlib.contextmanager
def opened(
    url: str,
    heard: Optional[Heard] = None,
    session: Optional[Profile] = None,
    seconds: float = 5.0,
    **options: Any,
) -> Iterator[StreamableHTTPTransport]:
    """Open a transport, with a session without an id if a profile is given."""
    options.setdefault("name", "the server")
    transport = StreamableHTTPTransport(url, **options)
    # A busy machine shall not look like a server that leaves its streams open.
    transport.patience = 5.0
    try:
        transport.open(heard or Heard(), Deadline.after(seconds))
        if session is not None:
            transport.establish(session)
        yield transport
    finally:
        transport.close()


def ask(
    transport: Any,
    outgoing: Optional[Outgoing] = None,
    seconds: Union[float, Timeout] = 5.0,
) -> Response:
    """Send a request; return its answer, passing over everything else."""
    answer = converse(transport, outgoing, seconds)[-1]
    assert isinstance(answer, Response)
    return answer


def converse(
    transport: Any,
    outgoing: Optional[Outgoing] = None,
    seconds: Union[float, Timeout] = 5.0,
) -> List[Message]:
    """Send a request; return everything that the server says about it."""
    timeout = seconds if isinstance(seconds, Timeout) else Timeout(total=seconds)
    deadline = Deadline(timeout)
    messages: List[Message] = []
    with transport.begin(outgoing or call(), deadline) as exchange:
        while not messages or not isinstance(messages[-1], Response):
            messages.append(exchange.receive(deadline))
    return messages


def refused(reply: bytes, **options: Any) -> MCPError:
    """Return what a call raises that gets these bytes for a response."""
    with hostile(lambda connection, *_: connection.sendall(reply)) as server:
        with opened(server.url, **options) as transport:
            with pytest.raises(MCPError) as caught:
                bounded(lambda: ask(transport), 5)
        assert len(server.requests) == 1, "it was sent again"
    return caught.value


class Running:
    """A function that runs on a thread, and what becomes of it."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._results: List[Any] = []
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._results.append(self._function())
        except BaseException as error:
            self._results.append(error)

    def outcome(self, limit: float = 5.0) -> Any:
        """Return what it returned or raised, within so many seconds."""
        self._thread.join(limit)
        assert self._results, "still running after %g s" % limit
        return self._results.pop()


def begin_on_thread(function: Callable[[], Any]) -> Running:
    """Run a function on a thread of its own."""
    return Running(function)


def eventually(condition: Callable[[], Any], limit: float = 5.0) -> None:
    """Wait for something that has no event of its own."""
    pause = threading.Event()
    for _ in range(int(limit / 0.01)):
        if condition():
            return
        pause.wait(0.01)
    raise AssertionError("not true within %g s" % limit)
