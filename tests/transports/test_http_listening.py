"""The stream that a legacy server has for what belongs to no request."""

from __future__ import annotations

import threading
import time
from typing import Any, List

import pytest

import mcpsync
from mcpsync._deadline import Deadline
from mcpsync.protocol.jsonrpc import Notification, Request, Response
from mcpsync.transports import _http_session
from mcpsync.transports.base import Limits
from mcpsync.transports.http import StreamableHTTPTransport

from ..fakes import bounded
from ..fakes.hostile import hostile
from ..fakes.leaks import no_leaks
from ..fakes.scripted_http import (
    UNTIL_CLOSED,
    Recorded,
    Reply,
    ScriptedServer,
    answer_to,
    event,
    json_reply,
    sse_reply,
)
from .calling import (
    Heard,
    ask,
    begin_on_thread,
    eventually,
    legacy,
    opened,
)
from .sessions import (
    CHANGED,
    LISTENING,
    Sessions,
    shake_hands,
)


def test_the_stream_is_open_before_the_session_is_used() -> None:
    opened_at: List[float] = []

    def get(request: Recorded) -> Reply:
        opened_at.append(time.monotonic())
        return sse_reply(event(CHANGED), UNTIL_CLOSED)

    heard = Heard()
    with ScriptedServer(Sessions(get)) as server, opened(
        server.url, heard
    ) as transport:
        shake_hands(transport, LISTENING)
        assert len(opened_at) == 1
        assert heard.wait_for(1) == [
            Notification("notifications/tools/list_changed", {})
        ]
        assert server.of("GET")[0].headers["Accept"] == "text/event-stream"
        transport.close()
        assert server.disconnected.wait(3)


@pytest.mark.parametrize("status", [405, 404, 400, 401, 501])
def test_a_server_without_a_stream_is_left_alone(status: int) -> None:
    sessions = Sessions(get=lambda request: Reply(status))
    with ScriptedServer(sessions) as server, opened(server.url) as transport:
        bounded(lambda: shake_hands(transport, LISTENING), 3)
        assert ask(transport, legacy(2)).result is not None
        eventually(lambda: not _listeners())
        assert len(server.of("GET")) == 1


def test_what_is_no_event_stream_is_none() -> None:
    sessions = Sessions(get=lambda request: json_reply({}))
    with ScriptedServer(sessions) as server, opened(server.url) as transport:
        bounded(lambda: shake_hands(transport, LISTENING), 3)
        eventually(lambda: not _listeners())
        assert len(server.of("GET")) == 1


def _listeners() -> List[threading.Thread]:
    return [t for t in threading.enumerate() if t.name.startswith("mcpsync-listen-")]


def test_a_stream_whose_headers_are_late_does_not_hold_the_opening(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = threading.Event()

    def get(request: Recorded) -> Reply:
        gate.wait(20)
        return sse_reply(event(CHANGED))

    monkeypatch.setattr(_http_session, "_READY_SECONDS", 0.3)
    heard = Heard()
    with ScriptedServer(Sessions(get)) as server, opened(
        server.url, heard
    ) as transport:
        bounded(lambda: shake_hands(transport, LISTENING), 3)
        assert ask(transport, legacy(2)).result is not None
        gate.set()
        heard.wait_for(1)


def test_a_stream_that_ends_is_opened_again_where_it_ended() -> None:
    def get(request: Recorded) -> Reply:
        number = len(server.of("GET"))
        last = UNTIL_CLOSED if number == 3 else b""
        return sse_reply(event(CHANGED, id="e-%d" % number, retry=1), last)

    heard = Heard()
    with ScriptedServer(Sessions(get)) as server, opened(
        server.url, heard
    ) as transport:
        shake_hands(transport, LISTENING)
        heard.wait_for(3)
        ids = [request.headers["Last-Event-ID"] for request in server.of("GET")]
        assert ids == [None, "e-1", "e-2"]


def test_a_stream_that_breaks_is_opened_again() -> None:
    def get(request: Recorded) -> Reply:
        return sse_reply(event(CHANGED, retry=1), UNTIL_CLOSED)

    heard = Heard()
    with ScriptedServer(Sessions(get)) as server, opened(
        server.url, heard
    ) as transport:
        shake_hands(transport, LISTENING)
        heard.wait_for(1)
        server.drop_connections()
        heard.wait_for(2)


@pytest.mark.parametrize(
    "steps", [[], [event("", id="1", retry=0)]], ids=["empty", "with an id"]
)
def test_a_stream_that_keeps_ending_is_given_up(steps: List[Any]) -> None:
    def get(request: Recorded) -> Reply:
        return sse_reply(event("", retry=0), *steps)

    heard = Heard()
    with ScriptedServer(Sessions(get)) as server:
        with opened(server.url, heard, limits=Limits(reconnects=3)) as transport:
            shake_hands(transport, LISTENING)
            heard.wait_for(1)
            assert heard.notes == ["the server's own stream keeps ending: not reopened"]
            gets = server.of("GET")
            assert len(gets) == 4
            assert all(b.at - a.at >= 0.09 for a, b in zip(gets, gets[1:]))
            eventually(lambda: not _listeners())


def test_a_quiet_stream_may_end_as_often_as_it_likes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_http_session, "_HEALTHY_SECONDS", 0.05)

    def get(request: Recorded) -> Reply:
        return sse_reply(event("", retry=0), 0.1)

    with ScriptedServer(Sessions(get)) as server:
        with opened(server.url, limits=Limits(reconnects=1)) as transport:
            shake_hands(transport, LISTENING)
            server.await_requests(5, "GET")


def test_a_server_that_is_busy_for_a_while_is_asked_again() -> None:
    def get(request: Recorded) -> Reply:
        if len(server.of("GET")) == 1:
            return sse_reply(event(CHANGED, retry=1))
        if len(server.of("GET")) == 2:
            return Reply(503)
        return sse_reply(event(CHANGED), UNTIL_CLOSED)

    heard = Heard()
    with ScriptedServer(Sessions(get)) as server, opened(
        server.url, heard
    ) as transport:
        shake_hands(transport, LISTENING)
        heard.wait_for(2)


def test_bad_messages_do_not_end_the_stream() -> None:
    def get(request: Recorded) -> Reply:
        bad = [event("{"), event("[]"), b"data: \xff\n\n", event("x", event="other")]
        return sse_reply(*bad, event(CHANGED), UNTIL_CLOSED)

    heard = Heard()
    with ScriptedServer(Sessions(get)) as server, opened(
        server.url, heard
    ) as transport:
        shake_hands(transport, LISTENING)
        heard.wait_for(2)
        assert len(heard.notes) == 1
        assert len(server.of("GET")) == 1


def test_what_belongs_to_a_call_goes_to_it() -> None:
    sessions = Sessions()
    question = {"jsonrpc": "2.0", "id": 1, "method": "roots/list"}
    waiting = threading.Event()

    def get(request: Recorded) -> Reply:
        answer = {"jsonrpc": "2.0", "id": 2, "result": {"content": [1]}}
        stray = {"jsonrpc": "2.0", "id": 99, "result": {}}
        return sse_reply(waiting, stray, question, answer, UNTIL_CLOSED)

    def script(request: Recorded) -> Reply:
        if request.rpc_method == "tools/call":
            waiting.set()
            return sse_reply(UNTIL_CLOSED)
        return sessions(request)

    sessions.get = get
    heard = Heard()
    with ScriptedServer(script) as server, opened(server.url, heard) as transport:
        shake_hands(transport, LISTENING)
        assert ask(transport, legacy(2)) == Response(2, {"content": [1]})
        assert heard.messages == [Request(1, "roots/list", {})]


def test_a_question_on_the_stream_is_answered_while_the_call_waits() -> None:
    """As the conformance suite has it: asked on GET, answered by POST."""
    sessions = Sessions()
    called, answered = threading.Event(), threading.Event()
    question = {
        "jsonrpc": "2.0",
        "id": 77,
        "method": "elicitation/create",
        "params": {
            "message": "Name?",
            "requestedSchema": {
                "type": "object",
                "properties": {"name": {"type": "string", "default": "Ada"}},
            },
        },
    }
    sessions.get = lambda request: sse_reply(called, question, UNTIL_CLOSED)
    answers: List[Any] = []

    def script(request: Recorded) -> Reply:
        if request.rpc_method == "tools/call":
            called.set()
            return sse_reply(answered, answer_to(request, {"content": []}))
        if request.method == "POST" and "method" not in request.json:
            answers.append(request.json)
            answered.set()
        return sessions(request)

    with ScriptedServer(script) as server:
        with mcpsync.connect(server.url, on_elicitation=lambda question: {}) as client:
            assert client.call_tool("ask").is_error is False
    (reply,) = answers
    assert (reply["id"], reply["result"]["content"]) == (77, {"name": "Ada"})


def test_a_client_without_handlers_opens_no_stream() -> None:
    with ScriptedServer(Sessions()) as server:
        with mcpsync.connect(server.url) as client:
            client.call_tool("echo")
        assert server.of("GET") == []


def test_a_renewed_session_has_a_stream_of_its_own() -> None:
    sessions = Sessions(get=lambda request: sse_reply(UNTIL_CLOSED))
    with ScriptedServer(sessions) as server:
        with mcpsync.connect(server.url, on_notification=print) as client:
            sessions.known = []
            client.call_tool("echo")
            ids = [get.headers["Mcp-Session-Id"] for get in server.of("GET")]
            assert ids == ["session-1", "session-2"]
            eventually(lambda: len(_listeners()) == 1)


def test_closing_ends_the_stream_in_every_phase() -> None:
    # Reading on, it notices when the client goes.
    with hostile(lambda connection, *_: connection.recv(1)) as server:
        with no_leaks():
            transport = StreamableHTTPTransport(server.url)
            transport.open(lambda message: None, Deadline.after(5))
            opening = begin_on_thread(lambda: transport.establish(LISTENING))
            eventually(lambda: server.requests)
            bounded(transport.close, 3)
            opening.outcome(3)
            assert _listeners() == []


def test_closing_ends_the_pause_between_two_streams() -> None:
    sessions = Sessions(get=lambda request: sse_reply(event("", retry=60_000)))
    with no_leaks(), ScriptedServer(sessions) as server:
        transport = StreamableHTTPTransport(server.url)
        transport.open(lambda message: None, Deadline.after(5))
        shake_hands(transport, LISTENING)
        bounded(transport.close, 3)
        assert _listeners() == []
