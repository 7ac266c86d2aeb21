"""The end of HTTP+SSE connections, and clients that live through it."""

from __future__ import annotations

import gc
import json
import threading
from typing import Any, Dict, List

import pytest

import mcpsync
from mcpsync._deadline import Deadline
from mcpsync.demo import serve_http
from mcpsync.exceptions import (
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    InvalidMessage,
    MessageTooLarge,
    RequestCancelled,
    RequestTimeout,
)
from mcpsync.hooks import ConnectionRenewed
from mcpsync.transports import sse
from mcpsync.transports.base import Limits
from mcpsync.transports.sse import SSETransport

from ..fakes import CANARY, bounded
from ..fakes.hostile import hostile
from ..fakes.leaks import no_leaks
from ..fakes.scripted_http import (
    Recorded,
    Reply,
    ScriptedServer,
)
from .calling import Heard, ask, begin_on_thread, eventually
from .sse_server import OLD, Opened, Stream, call

# --- ending -------------------------------------------------------------------------


def test_a_call_that_times_out_is_cancelled() -> None:
    with ScriptedServer(Stream(lambda message: [])) as server:
        with Opened(server.url) as transport:
            deadline = Deadline.after(0.3)
            with transport.begin(call(7), deadline) as exchange:
                with pytest.raises(RequestTimeout):
                    exchange.receive(deadline)
                exchange.cancel("timed out")
                with pytest.raises(RequestCancelled):
                    exchange.receive(Deadline.after(5))
            (notice,) = server.of("notifications/cancelled")
    assert notice.json["params"] == {"requestId": 7, "reason": "timed out"}


def test_a_post_that_is_not_answered_times_out_and_is_cancelled() -> None:
    gate = threading.Event()
    stream = Stream(lambda message: [])

    def script(request: Recorded) -> Reply:
        if request.rpc_method == "tools/call":
            gate.wait(20)
        return stream(request)

    with ScriptedServer(script) as server, Opened(server.url) as transport:
        with pytest.raises(RequestTimeout):
            bounded(lambda: ask(transport, call(), seconds=0.3), 4)
        assert len(server.of("notifications/cancelled")) == 1
        gate.set()


def test_closing_ends_everything() -> None:
    gate = threading.Event()
    stream = Stream(lambda message: [])

    def script(request: Recorded) -> Reply:
        if request.rpc_method == "ping":
            gate.wait(20)
        return stream(request)

    with ScriptedServer(script) as server, no_leaks():
        opened = Opened(server.url)
        transport = opened.__enter__()
        waiting = begin_on_thread(lambda: ask(transport, call(1), seconds=60))
        posting = begin_on_thread(
            lambda: transport.send(OLD.notification("ping"), Deadline.after(60))
        )
        server.await_requests(1, "ping")
        server.await_requests(1, "tools/call")
        bounded(transport.close, 3)
        bounded(transport.close, 3)
        gate.set()
        assert isinstance(waiting.outcome(3), ClientClosed)
        assert isinstance(posting.outcome(3), ClientClosed)
        with pytest.raises(ClientClosed):
            ask(transport, call(2))
        with pytest.raises(ClientClosed):
            transport.open(Heard(), Deadline.after(5))
        assert server.of("DELETE") == []


def test_closing_ends_an_opening() -> None:
    with hostile(lambda connection, *_: connection.recv(1)) as server, no_leaks():
        opened = Opened(server.url)
        opening = begin_on_thread(opened.__enter__)
        eventually(lambda: server.requests)
        bounded(opened.transport.close, 3)
        assert isinstance(opening.outcome(3), ClientClosed)


@pytest.mark.parametrize("how", ["ends", "breaks", "too large"])
def test_the_end_of_the_stream_ends_its_calls(how: str) -> None:
    stream = Stream(lambda message: [])
    limits = Limits(message_bytes=1000)
    with ScriptedServer(stream) as server:
        with Opened(server.url, limits=limits) as transport:
            exchange = transport.begin(call(), Deadline.after(60))
            running = begin_on_thread(lambda: exchange.receive(Deadline.after(60)))
            if how == "ends":
                stream.events.put(None)
            elif how == "breaks":
                server.drop_connections()
            else:
                stream.events.put(b"data: " + b"x" * 5000 + b"\n\n")
            error = running.outcome(3)
            assert isinstance(error, ConnectionLost) and error.sent
            assert not transport.alive
            exchange.close()
            with pytest.raises(ConnectionLost) as caught:
                ask(transport, call(2))
            # Nothing of it went out: it may be sent again.
            assert caught.value.sent is False
            assert len(server.of("tools/call")) == 1
            generation = transport.generation
            transport.open(Heard(), Deadline.after(5))
            assert transport.alive and transport.generation == generation + 1


# --- clients ------------------------------------------------------------------------


class Events:
    def __init__(self) -> None:
        self.seen: List[object] = []

    def on_event(self, event: object) -> None:
        self.seen.append(event)


def test_a_client_falls_back_to_it_and_works() -> None:
    with serve_http(streamable=False, era="legacy") as server:
        with mcpsync.connect(server.sse_url) as client:
            assert client.call_tool("add", {"a": 1, "b": 2}).data == {"sum": 3}
            assert client.call_tool("count", {"to": 2, "delay": 0}).data
            assert [t.name for t in client.list_tools()]


def test_a_client_connects_again_after_the_stream_ended() -> None:
    events = Events()
    with serve_http(streamable=False, era="legacy") as server:
        with mcpsync.connect(server.sse_url, hooks=[events]) as client:
            pending = client.start_call("wait", {"seconds": 60})
            eventually(lambda: server.stats["in_flight"] == 1)
            server.drop_connections()
            with pytest.raises(ConnectionLost):
                pending.result(5)
            assert client.call_tool("add", {"a": 1, "b": 2}).data == {"sum": 3}
    assert any(isinstance(event, ConnectionRenewed) for event in events.seen)


def test_questions_are_answered() -> None:
    with serve_http(streamable=False, era="legacy") as server:
        with mcpsync.connect(
            server.sse_url, on_elicitation=lambda question: {"name": "Grace"}
        ) as client:
            answer = client.call_tool("ask", {"question": "who?"}).data
    assert answer["action"] == "accept" and answer["content"]["name"] == "Grace"


def test_a_forgotten_client_leaves_nothing() -> None:
    with serve_http(streamable=False, era="legacy") as server:
        with no_leaks():
            client = mcpsync.connect(server.sse_url)
            client.call_tool("add", {"a": 1, "b": 2})
            del client
            gc.collect()


def test_an_endpoint_that_is_no_utf8_or_huge() -> None:
    for first in (b"event: endpoint\ndata: \xff\n\n", b"data: " + b"x" * 10_000):
        limits = Limits(message_bytes=1000)
        with ScriptedServer(Stream(first=first + b"\n\n")) as server, no_leaks():
            opened: Dict[str, Any] = {"limits": limits}
            with pytest.raises((InvalidMessage, MessageTooLarge, ConnectFailed)):
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(sse, "_ENDPOINT_SECONDS", 0.3)
                    bounded(lambda: Opened(server.url, **opened).__enter__(), 4)


def test_its_repr_says_where() -> None:
    transport = SSETransport("http://ada:%s@127.0.0.1:1/sse?k=%s" % (CANARY, CANARY))
    assert repr(transport) == "SSETransport('http://127.0.0.1:1/sse')"
    assert json.dumps(transport.name) == '"127.0.0.1:1"'
