"""Legacy sessions: their id, their end, and their renewal."""

from __future__ import annotations

import threading
from typing import List

import pytest

import mcpsync
from mcpsync._deadline import Deadline
from mcpsync.demo import serve_http
from mcpsync.exceptions import (
    ClientClosed,
    HTTPStatusError,
    RequestTimeout,
    SessionExpired,
)
from mcpsync.hooks import ConnectionRenewed
from mcpsync.transports.http import StreamableHTTPTransport

from ..fakes import bounded
from ..fakes.leaks import no_leaks
from ..fakes.scripted_http import (
    UNTIL_CLOSED,
    Recorded,
    Reply,
    ScriptedServer,
    answer_to,
    json_reply,
    sse_reply,
)
from .calling import RESULT, SESSION, ask, begin_on_thread, legacy, opened
from .sessions import (
    HELLO,
    INITIALIZED,
    LISTENING,
    Sessions,
    shake_hands,
)

# --- headers ------------------------------------------------------------------------


def test_every_request_of_a_session_names_it() -> None:
    sessions = Sessions(get=lambda request: sse_reply(UNTIL_CLOSED))
    with ScriptedServer(sessions) as server:
        with opened(server.url) as transport:
            shake_hands(transport, LISTENING)
            ask(transport, legacy(2))
    first, *rest = server.requests
    assert first.headers["Mcp-Session-Id"] is None
    assert first.headers["MCP-Protocol-Version"] is None
    assert [r.method for r in rest] == ["POST", "GET", "POST", "DELETE"]
    for request in rest:
        assert request.headers["Mcp-Session-Id"] == "session-1"
        assert request.headers["MCP-Protocol-Version"] == "2025-11-25"


def test_without_a_session_id_none_is_sent() -> None:
    with ScriptedServer(lambda r: json_reply(answer_to(r, RESULT))) as server:
        with opened(server.url, session=SESSION) as transport:
            ask(transport, legacy(2))
        assert server.requests[0].headers["Mcp-Session-Id"] is None
        # And there is nothing to delete.
        assert len(server.requests) == 1


def test_a_modern_server_never_sees_a_session() -> None:
    def script(request: Recorded) -> Reply:
        headers = {"Mcp-Session-Id": "made-up"}
        if request.rpc_method == "server/discover":
            return json_reply(
                answer_to(
                    request,
                    {"supportedVersions": ["2026-07-28"], "capabilities": {}},
                ),
                headers=headers,
            )
        return json_reply(answer_to(request, RESULT), headers=headers)

    with ScriptedServer(script) as server:
        with mcpsync.connect(server.url, on_elicitation=lambda _: None) as client:
            client.call_tool("echo")
            client.call_tool("echo")
    assert {r.method for r in server.requests} == {"POST"}
    assert {r.headers["Mcp-Session-Id"] for r in server.requests} == {None}
    assert [r.headers["Mcp-Method"] for r in server.requests] == [
        "server/discover",
        "tools/call",
        "tools/call",
    ]
    assert server.requests[1].headers["Mcp-Name"] == "echo"


# --- the end ------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 204, 404, 405, 500])
def test_closing_ends_the_session_whatever_the_server_says(status: int) -> None:
    sessions = Sessions(delete=status)
    with ScriptedServer(sessions) as server, opened(server.url) as transport:
        shake_hands(transport)
        transport.close()
        transport.close()
        assert len(server.of("DELETE")) == 1


def test_a_server_that_is_silent_on_it_does_not_hold_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = threading.Event()
    sessions = Sessions()

    def script(request: Recorded) -> Reply:
        if request.method == "DELETE":
            gate.wait(20)
        return sessions(request)

    with no_leaks(), ScriptedServer(script) as server:
        transport = StreamableHTTPTransport(server.url)
        transport.open(lambda message: None, Deadline.after(5))
        shake_hands(transport)
        try:
            bounded(lambda: transport.close(0.3), 3)
        finally:
            gate.set()


def test_a_closing_that_may_take_no_time_sends_nothing() -> None:
    with ScriptedServer(Sessions()) as server, opened(server.url) as transport:
        shake_hands(transport)
        transport.close(0)
        assert server.of("DELETE") == []


def test_a_session_that_came_to_nothing_is_ended_too() -> None:
    sessions = Sessions()

    def script(request: Recorded) -> Reply:
        if request.rpc_method == "initialize":
            reply = sessions(request)
            result = {**HELLO, "protocolVersion": "1999-01-01"}
            return json_reply(
                answer_to(request, result),
                headers={"Mcp-Session-Id": reply.headers["Mcp-Session-Id"]},
            )
        return sessions(request)

    with ScriptedServer(script) as server:
        with pytest.raises(mcpsync.MCPError):
            mcpsync.connect(server.url)
        (delete,) = server.of("DELETE")
        assert delete.headers["Mcp-Session-Id"] == "session-1"


def test_calls_in_flight_end_before_the_session_does() -> None:
    sessions = Sessions()
    arrived = threading.Event()

    def script(request: Recorded) -> Reply:
        if request.rpc_method == "tools/call":
            arrived.set()
            return sse_reply(UNTIL_CLOSED)
        return sessions(request)

    with ScriptedServer(script) as server, opened(server.url) as transport:
        shake_hands(transport)
        running = begin_on_thread(lambda: ask(transport, legacy(2), seconds=60))
        assert arrived.wait(5)
        transport.close()
        assert isinstance(running.outcome(3), ClientClosed)
        # The end of the session is notice enough.
        assert server.of("notifications/cancelled") == []


# --- expiry and renewal -------------------------------------------------------------


def test_404_with_a_session_id_means_that_the_session_is_over() -> None:
    sessions = Sessions()
    with ScriptedServer(sessions) as server, opened(server.url) as transport:
        shake_hands(transport)
        sessions.known = []
        with pytest.raises(SessionExpired) as caught:
            ask(transport, legacy(2))
        assert caught.value.generation == transport.generation == 1
        with pytest.raises(SessionExpired):
            transport.send(INITIALIZED, Deadline.after(5))


def test_404_without_one_does_not() -> None:
    with ScriptedServer(lambda request: Reply(404)) as server:
        with opened(server.url, session=SESSION) as transport:
            with pytest.raises(HTTPStatusError):
                ask(transport, legacy(2))


class Events:
    """A hook that collects events."""

    def __init__(self) -> None:
        self.seen: List[object] = []

    def on_event(self, event: object) -> None:
        self.seen.append(event)

    @property
    def renewals(self) -> int:
        return sum(isinstance(event, ConnectionRenewed) for event in self.seen)


def test_a_forgotten_session_is_renewed_and_the_call_repeated_once() -> None:
    sessions, events = Sessions(), Events()
    with ScriptedServer(sessions) as server:
        with mcpsync.connect(server.url, hooks=[events]) as client:
            client.call_tool("echo")
            sessions.known = []
            assert client.call_tool("echo").is_error is False
            assert events.renewals == 1
            calls = server.of("tools/call")
        assert [c.headers["Mcp-Session-Id"] for c in calls] == [
            "session-1",
            "session-1",
            "session-2",
        ]
        assert [i.headers["Mcp-Session-Id"] for i in server.of("initialize")] == [
            None,
            None,
        ]
        (delete,) = server.of("DELETE")
        assert delete.headers["Mcp-Session-Id"] == "session-2"


def test_a_session_that_is_forgotten_at_once_is_not_renewed_for_ever() -> None:
    sessions = Sessions()

    def script(request: Recorded) -> Reply:
        reply = sessions(request)
        return Reply(404) if request.rpc_method == "tools/call" else reply

    with ScriptedServer(script) as server:
        with mcpsync.connect(server.url) as client:
            with pytest.raises(SessionExpired):
                bounded(lambda: client.call_tool("echo"), 5)
        assert len(server.of("tools/call")) == 2


def test_eight_threads_renew_once() -> None:
    sessions, events = Sessions(), Events()
    with ScriptedServer(sessions) as server:
        with mcpsync.connect(server.url, hooks=[events]) as client:
            for round in range(1, 6):
                sessions.known = []
                sessions.slowness = 0.02
                runs = [
                    begin_on_thread(lambda: client.call_tool("echo")) for _ in range(8)
                ]
                outcomes = [run.outcome() for run in runs]
                assert [getattr(o, "is_error", o) for o in outcomes] == [False] * 8
                assert events.renewals == round
        assert sessions.given == 6
        # Nobody went without a session while it was renewed.
        assert all(c.headers["Mcp-Session-Id"] for c in server.of("tools/call"))


def test_a_call_that_begins_during_a_renewal_has_a_session() -> None:
    """The renewing thread alone goes without."""
    sessions = Sessions()
    with ScriptedServer(sessions) as server, opened(server.url) as transport:
        shake_hands(transport)
        sessions.known = []
        transport.establish(None)
        other = begin_on_thread(lambda: ask(transport, legacy(2)))
        assert isinstance(other.outcome(), SessionExpired)
        shake_hands(transport)
        assert transport.generation == 2
        assert ask(transport, legacy(3)).result is not None
        assert server.requests[-1].headers["Mcp-Session-Id"] == "session-2"


def test_a_renewal_is_charged_to_the_call() -> None:
    sessions = Sessions()
    with ScriptedServer(sessions) as server:
        with mcpsync.connect(server.url) as client:
            sessions.known = []
            sessions.slowness = 1.5
            with pytest.raises(RequestTimeout):
                bounded(lambda: client.call_tool("echo", timeout=0.5), 4)
            sessions.slowness = 0.0
            # The failed renewal is made up for by the next call.
            assert client.call_tool("echo").is_error is False


def test_the_demo_server_may_forget_everything_as_well() -> None:
    with serve_http(era="legacy") as server:
        with mcpsync.connect(server.url) as client:
            assert client.call_tool("add", {"a": 1, "b": 2}).data == {"sum": 3}
            server.expire_sessions()
            assert client.call_tool("add", {"a": 1, "b": 2}).data == {"sum": 3}
            server.drop_connections()
            assert client.call_tool("add", {"a": 1, "b": 2}).data == {"sum": 3}
