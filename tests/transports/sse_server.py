"""A server of HTTP+SSE, for the tests of its transport."""

from __future__ import annotations

import queue
from typing import Any, Callable, List, Optional

from mcpsync._deadline import Deadline
from mcpsync.protocol.eras import ClientFacts, LegacyEra
from mcpsync.protocol.jsonrpc import Outgoing
from mcpsync.transports.sse import SSETransport

from ..fakes.scripted_http import (
    Recorded,
    Reply,
    event,
)
from .calling import Heard

OLD = LegacyEra("2024-11-05", ClientFacts({"name": "test", "version": "1"}))
ENDPOINT = event("/messages?session=1", event="endpoint")
RESULT = {"content": []}


def call(id: int = 1) -> Outgoing:
    return OLD.request(id, "tools/call", {"name": "echo", "arguments": {}})


class Stream:
    """A scripted server of HTTP+SSE.

    Attributes:
        answers: says what comes on the stream for each message that is posted.
        status: what a POST is answered with.
    """

    def __init__(
        self,
        answers: Optional[Callable[[Any], List[Any]]] = None,
        first: bytes = ENDPOINT,
        status: int = 202,
    ) -> None:
        self.answers = answers or echo
        self.first = first
        self.status = status
        self.events: "queue.Queue[Any]" = queue.Queue()

    def __call__(self, request: Recorded) -> Reply:
        if request.method == "GET":
            return Reply(200, {"Content-Type": "text/event-stream"}, self._steps())
        if 200 <= self.status < 300:
            for message in self.answers(request.json):
                self.events.put(message)
        return Reply(self.status, body=b"Accepted")

    def _steps(self) -> Any:
        yield self.first
        while True:
            try:
                step = self.events.get(timeout=0.02)
            except queue.Empty:
                # A comment, so that a client that is gone gets noticed.
                yield b":\n\n"
                continue
            if step is None:
                return
            yield step if isinstance(step, bytes) else event(step)


def echo(message: Any) -> List[Any]:
    if "id" not in message or "method" not in message:
        return []
    return [{"jsonrpc": "2.0", "id": message["id"], "result": RESULT}]


class Opened:
    """An open transport; a context manager."""

    def __init__(self, url: str, **options: Any) -> None:
        options.setdefault("name", "the server")
        self.heard = Heard()
        self.transport = SSETransport(url, **options)

    def __enter__(self) -> SSETransport:
        try:
            self.transport.open(self.heard, Deadline.after(5))
        except BaseException:
            self.transport.close()
            raise
        return self.transport

    def __exit__(self, *exc_info: object) -> None:
        self.transport.close()
