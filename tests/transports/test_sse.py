"""HTTP+SSE of 2024-11-05: one stream for every answer, POSTs for every message."""

from __future__ import annotations

import gc
import json
import queue
import threading
from typing import Any, Callable, Dict, List, Optional, Type

import pytest

import mcpsync
from mcpsync._deadline import Deadline
from mcpsync.demo import serve_http
from mcpsync.exceptions import (
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    HTTPStatusError,
    InvalidMessage,
    LoginRequired,
    MCPError,
    MessageTooLarge,
    Redirected,
    RequestCancelled,
    RequestTimeout,
)
from mcpsync.hooks import ConnectionRenewed
from mcpsync.protocol.eras import ClientFacts, LegacyEra
from mcpsync.protocol.jsonrpc import Notification, Outgoing
from mcpsync.transports import sse
from mcpsync.transports.base import Limits, Profile
from mcpsync.transports.sse import SSETransport

from ..fakes import CANARY, bounded
from ..fakes.hostile import hostile
from ..fakes.leaks import no_leaks
from ..fakes.scripted_http import (
    Recorded,
    Reply,
    ScriptedServer,
    event,
    sse_reply,
)
from .calling import Heard, ask, begin_on_thread, converse, eventually

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
        self.answers = answers or _echo
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


def _echo(message: Any) -> List[Any]:
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


# --- the endpoint -------------------------------------------------------------------


@pytest.mark.parametrize(
    "endpoint, path",
    [
        ("/messages?session=1", "/messages?session=1"),
        ("messages", "/messages"),
        ("?session=1", "/mcp?session=1"),
        ("{origin}/elsewhere", "/elsewhere"),
        ("  /padded  ", "/padded"),
    ],
)
def test_the_endpoint_may_be_relative(endpoint: str, path: str) -> None:
    stream = Stream()
    with ScriptedServer(stream) as server:
        origin = server.url[: -len("/mcp")]
        stream.first = event(endpoint.format(origin=origin), event="endpoint")
        with Opened(server.url) as transport:
            assert ask(transport, call()).result == RESULT
        get, post = server.requests
    assert (get.method, get.headers["Accept"]) == ("GET", "text/event-stream")
    assert (post.method, post.path) == ("POST", path)
    assert post.headers["Content-Type"] == "application/json"


@pytest.mark.parametrize(
    "endpoint",
    [
        "https://{host}/messages",
        "http://elsewhere.example/messages",
        "//elsewhere.example/messages",
        "http://{other}/messages",
        "http://{host}.example/messages",
        "file:///etc/passwd",
        "http://[bad/",
        "http://127.0.0.1:99999/",
    ],
)
def test_an_endpoint_elsewhere_is_refused(endpoint: str) -> None:
    with ScriptedServer(Stream()) as other, ScriptedServer(Stream()) as server:
        host, other_host = (s.url.split("/")[2] for s in (server, other))
        text = endpoint.format(host=host, other=other_host)
        server._script = Stream(first=event(text, event="endpoint"))
        with no_leaks():
            with pytest.raises(InvalidMessage, match="endpoint"):
                with Opened(server.url, auth=CANARY):
                    pass
        assert other.connections == 0


def test_the_first_event_has_to_be_the_endpoint() -> None:
    with ScriptedServer(Stream(first=event({"jsonrpc": "2.0"}))) as server:
        with pytest.raises(InvalidMessage, match="first event"):
            Opened(server.url).__enter__()


def test_a_server_that_names_none_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_ENDPOINT_SECONDS", 0.3)
    with ScriptedServer(Stream(first=b": nothing\n\n")) as server:
        with no_leaks():
            with pytest.raises(ConnectFailed, match="no endpoint within 0.3 s"):
                bounded(lambda: Opened(server.url).__enter__(), 4)


def test_a_silent_server_is_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "_ENDPOINT_SECONDS", 0.3)
    with hostile(lambda connection, *_: connection.recv(1)) as server, no_leaks():
        with pytest.raises(ConnectFailed, match="no endpoint"):
            bounded(lambda: Opened(server.url).__enter__(), 4)


@pytest.mark.parametrize(
    "reply, kind",
    [
        (Reply(404), HTTPStatusError),
        (Reply(405, body=b"no"), HTTPStatusError),
        (Reply(200, {"Content-Type": "text/html"}, b"<p>hi</p>"), HTTPStatusError),
        (Reply(401), LoginRequired),
        (Reply(302, {"Location": "http://elsewhere.example/"}), Redirected),
        (sse_reply(), ConnectionLost),
    ],
)
def test_what_is_no_event_stream(reply: Reply, kind: Type[MCPError]) -> None:
    with ScriptedServer(lambda request: reply) as server, no_leaks():
        with pytest.raises(kind):
            bounded(lambda: Opened(server.url).__enter__(), 4)
        assert len(server.requests) == 1


def test_a_server_that_is_not_there() -> None:
    with ScriptedServer(Stream()) as server:
        url = server.url
    with pytest.raises(ConnectFailed):
        Opened(url).__enter__()


def test_what_an_authentication_object_raises_is_told() -> None:
    def sign(prepared: Any) -> None:
        raise KeyError("no such key")

    with ScriptedServer(Stream()) as server, no_leaks():
        with pytest.raises(ConnectFailed, match="no such key"):
            bounded(lambda: Opened(server.url, auth=sign).__enter__(), 4)


def test_both_kinds_of_request_carry_credentials() -> None:
    with ScriptedServer(Stream()) as server:
        with Opened(server.url, auth=CANARY, headers={"X-Key": "k"}) as transport:
            ask(transport, call())
        for request in server.requests:
            assert request.headers["Authorization"] == "Bearer " + CANARY
            assert request.headers["X-Key"] == "k"


# --- messages -----------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 202, 204])
def test_any_success_of_a_post_will_do(status: int) -> None:
    with ScriptedServer(Stream(status=status)) as server:
        with Opened(server.url) as transport:
            assert ask(transport, call()).result == RESULT


@pytest.mark.parametrize(
    "status, kind",
    [
        (400, HTTPStatusError),
        (404, HTTPStatusError),
        (503, HTTPStatusError),
        (401, LoginRequired),
        (307, Redirected),
    ],
)
def test_a_refused_post_fails_its_call_only(status: int, kind: Type[MCPError]) -> None:
    stream = Stream()
    with ScriptedServer(stream) as server, Opened(server.url) as transport:
        stream.status = status
        with pytest.raises(kind):
            ask(transport, call(1))
        stream.status = 202
        assert ask(transport, call(2)).result == RESULT


def test_many_threads_get_their_own_answers() -> None:
    def reversed_pairs(message: Any) -> List[Any]:
        held.append(message["id"])
        if len(held) % 2:
            return []
        return [
            {"jsonrpc": "2.0", "id": id, "result": {"mine": id}}
            for id in reversed(held[-2:])
        ]

    held: List[int] = []
    with ScriptedServer(Stream(reversed_pairs)) as server:
        with Opened(server.url) as transport:
            runs = [
                begin_on_thread(lambda i=i: ask(transport, call(i)).result["mine"])
                for i in range(1, 9)
            ]
            assert [run.outcome() for run in runs] == list(range(1, 9))


def test_bad_messages_fail_nobody_else() -> None:
    def answers(message: Any) -> List[Any]:
        if message["id"] == 2:
            return [{"jsonrpc": "2.0", "id": 2}]
        strange = [event("{"), event("[]"), b"data: \xff\n\n", event("x", event="ping")]
        late = {"jsonrpc": "2.0", "id": 99, "result": {}}
        return [*strange, late, *_echo(message)]

    with ScriptedServer(Stream(answers)) as server:
        opened = Opened(server.url)
        with opened as transport:
            assert ask(transport, call(1)).result == RESULT
            with pytest.raises(InvalidMessage, match="unusable"):
                bounded(lambda: ask(transport, call(2)), 3)
            assert ask(transport, call(3)).result == RESULT
    assert len(opened.heard.notes) == 1


def test_notifications_go_where_they_belong() -> None:
    progress = {
        "jsonrpc": "2.0",
        "method": "notifications/progress",
        "params": {"progressToken": 1, "progress": 1},
    }
    changed = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}

    def answers(message: Any) -> List[Any]:
        return [progress, changed, *_echo(message)]

    opened = Opened("http://127.0.0.1:1/")
    with ScriptedServer(Stream(answers)) as server:
        opened = Opened(server.url)
        with opened as transport:
            messages = converse(transport, call())
    assert [type(message).__name__ for message in messages] == [
        "Notification",
        "Response",
    ]
    assert opened.heard.messages == [
        Notification("notifications/tools/list_changed", {})
    ]


@pytest.mark.parametrize("batches", [False, True])
def test_arrays_count_where_there_are_batches(batches: bool) -> None:
    with ScriptedServer(Stream(lambda m: [event(_echo(m))])) as server:
        with Opened(server.url) as transport:
            transport.establish(Profile(batches=batches))
            if batches:
                assert ask(transport, call()).result == RESULT
            else:
                with pytest.raises(RequestTimeout):
                    ask(transport, call(), seconds=0.5)


def test_the_headers_of_the_session_are_sent() -> None:
    with ScriptedServer(Stream()) as server, Opened(server.url) as transport:
        transport.establish(Profile(headers={"MCP-Protocol-Version": "2025-06-18"}))
        ask(transport, call())
        assert server.requests[-1].headers["MCP-Protocol-Version"] == "2025-06-18"


def test_what_the_server_repeats_is_masked() -> None:
    text = "the token %s of you" % CANARY

    def answers(message: Any) -> List[Any]:
        error = {"code": -1, "message": text}
        return [event(text), {"jsonrpc": "2.0", "id": message["id"], "error": error}]

    with ScriptedServer(Stream(answers)) as server:
        opened = Opened(server.url, auth=CANARY)
        with opened as transport:
            response = ask(transport, call())
    assert response.error == {"code": -1, "message": "the token *** of you"}
    (note,) = opened.heard.notes
    assert CANARY not in note and "***" in note


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
