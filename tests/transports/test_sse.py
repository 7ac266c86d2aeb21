"""HTTP+SSE of 2024-11-05: one stream for every answer, POSTs for every message."""

from __future__ import annotations

from typing import Any, List, Type

import pytest

from mcpsync.exceptions import (
    ConnectFailed,
    ConnectionLost,
    HTTPStatusError,
    InvalidMessage,
    LoginRequired,
    MCPError,
    Redirected,
    RequestTimeout,
)
from mcpsync.protocol.jsonrpc import Notification
from mcpsync.transports import sse
from mcpsync.transports.base import Profile

from ..fakes import CANARY, bounded
from ..fakes.hostile import hostile
from ..fakes.leaks import no_leaks
from ..fakes.scripted_http import (
    Reply,
    ScriptedServer,
    event,
    sse_reply,
)
from .calling import ask, begin_on_thread, converse
from .sse_server import RESULT, Opened, Stream, call, echo

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
        return [*strange, late, *echo(message)]

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
        return [progress, changed, *echo(message)]

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
    with ScriptedServer(Stream(lambda m: [event(echo(m))])) as server:
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
