"""Legacy sessions: their id, their end, their renewal, and the server's own stream."""

from __future__ import annotations

import threading
import time
from typing import Any, Callable, Dict, List, Optional

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
from mcpsync.protocol.jsonrpc import Notification, Request, Response
from mcpsync.transports import _http_session
from mcpsync.transports.base import Limits, Profile
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
    LEGACY,
    RESULT,
    SESSION,
    Heard,
    ask,
    begin_on_thread,
    call,
    eventually,
    initialize,
    opened,
)

LISTENING = Profile(
    headers=LEGACY.http_headers(),
    session=True,
    listen_stream=True,
    delete_on_close=True,
)
INITIALIZED = LEGACY.notification("notifications/initialized")
HELLO: Dict[str, Any] = {
    "protocolVersion": "2025-11-25",
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "scripted", "version": "1"},
}
CHANGED = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}


class Sessions:
    """A legacy server with session ids, for a :class:`ScriptedServer`.

    Attributes:
        known: the session ids that it knows.
        given: how many it has given away.
    """

    def __init__(
        self, get: Optional[Callable[[Recorded], Reply]] = None, delete: int = 200
    ) -> None:
        self.known: List[str] = []
        self.given = 0
        self.get = get or (lambda request: Reply(405))
        self.delete = delete
        self.slowness = 0.0

    def __call__(self, request: Recorded) -> Reply:
        if request.rpc_method == "server/discover":
            return Reply(400, body=b"no session")
        if request.rpc_method == "initialize":
            self.given += 1
            self.known.append("session-%d" % self.given)
            time.sleep(self.slowness)
            headers = {"Mcp-Session-Id": "session-%d" % self.given}
            return json_reply(answer_to(request, HELLO), headers=headers)
        if request.headers["Mcp-Session-Id"] is None:
            return Reply(400, body=b"a session id is required")
        if request.headers["Mcp-Session-Id"] not in self.known:
            return Reply(404)
        return self.of_session(request)

    def of_session(self, request: Recorded) -> Reply:
        if request.method == "GET":
            return self.get(request)
        if request.method == "DELETE":
            return Reply(self.delete)
        if request.rpc_method is None or request.rpc_method.startswith("notif"):
            return Reply(202)
        return json_reply(answer_to(request, {"content": []}))


def shake_hands(transport: StreamableHTTPTransport, profile: Profile = SESSION) -> None:
    ask(transport, initialize())
    transport.send(INITIALIZED, Deadline.after(5))
    transport.establish(profile)


def legacy(id: int = 2) -> Any:
    return call(id, legacy=True)


# --- headers ------------------------------------------------------------------------


def test_every_request_of_a_session_names_it() -> None:
    sessions = Sessions(get=lambda request: sse_reply(UNTIL_CLOSED))
    with ScriptedServer(sessions) as server:
        with opened(server.url) as transport:
            shake_hands(transport, LISTENING)
            ask(transport, legacy())
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
            ask(transport, legacy())
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
        running = begin_on_thread(lambda: ask(transport, legacy(), seconds=60))
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
            ask(transport, legacy())
        assert caught.value.generation == transport.generation == 1
        with pytest.raises(SessionExpired):
            transport.send(INITIALIZED, Deadline.after(5))


def test_404_without_one_does_not() -> None:
    with ScriptedServer(lambda request: Reply(404)) as server:
        with opened(server.url, session=SESSION) as transport:
            with pytest.raises(HTTPStatusError):
                ask(transport, legacy())


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
        other = begin_on_thread(lambda: ask(transport, legacy()))
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


# --- the server's own stream --------------------------------------------------------


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
        assert ask(transport, legacy()).result is not None
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
        assert ask(transport, legacy()).result is not None
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
