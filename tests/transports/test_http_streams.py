"""Answers that come as event streams: read, left, broken, resumed, cancelled."""

from __future__ import annotations

import json
import socket
import threading
import time
from typing import Any, Callable, List

import pytest

from mcpsync._deadline import Deadline, Timeout
from mcpsync.exceptions import (
    ConnectionLost,
    InvalidMessage,
    MessageTooLarge,
    RequestCancelled,
    RequestTimeout,
)
from mcpsync.protocol.jsonrpc import Notification, Request, Response
from mcpsync.transports._eventstream import Event
from mcpsync.transports._http_exchange import DRAIN_SECONDS, StreamPosition
from mcpsync.transports.base import Limits, Profile

from ..fakes import bounded
from ..fakes.hostile import hostile
from ..fakes.scripted_http import (
    UNTIL_CLOSED,
    Break,
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
    MODERN,
    RESULT,
    SESSION,
    Heard,
    answer,
    ask,
    begin_on_thread,
    call,
    converse,
    eventually,
    json_answer,
    opened,
    sse_answer,
)

PROGRESS = {
    "jsonrpc": "2.0",
    "method": "notifications/progress",
    "params": {"progressToken": 1, "progress": 1},
}
QUESTION = {"jsonrpc": "2.0", "id": "q", "method": "roots/list"}


def break_off() -> None:
    raise Break


def legacy(id: int = 1) -> Any:
    return call(id, legacy=True)


# --- reading ------------------------------------------------------------------------


def test_what_comes_before_the_answer_comes_in_order() -> None:
    def script(request: Recorded) -> Reply:
        return sse_reply(PROGRESS, b": alive\n\n", QUESTION, answer_to(request, RESULT))

    with ScriptedServer(script) as server, opened(server.url) as transport:
        messages = converse(transport, legacy())
    kinds = [type(message) for message in messages]
    assert kinds == [Notification, Request, Response]


def test_a_message_is_there_before_the_next_is_sent() -> None:
    gate = threading.Event()

    def script(request: Recorded) -> Reply:
        return sse_reply(PROGRESS, gate, answer_to(request, RESULT))

    with ScriptedServer(script) as server, opened(server.url) as transport:
        deadline = Deadline.after(5)
        with transport.begin(legacy(), deadline) as exchange:
            assert isinstance(exchange.receive(deadline), Notification)
            gate.set()
            assert isinstance(exchange.receive(deadline), Response)


@pytest.mark.parametrize("stream", [False, True])
def test_fifty_calls_share_one_connection(stream: bool) -> None:
    def script(request: Recorded) -> Reply:
        value = answer_to(request, RESULT)
        return sse_reply(PROGRESS, value) if stream else json_reply(value)

    with ScriptedServer(script) as server, opened(server.url) as transport:
        for id in range(1, 51):
            assert ask(transport, call(id)).id == id
        assert server.connections == 1


def test_a_stream_that_stays_open_after_its_answer_does_not_block() -> None:
    def script(request: Recorded) -> Reply:
        return sse_reply(answer_to(request, RESULT), UNTIL_CLOSED)

    with ScriptedServer(script) as server, opened(server.url) as transport:
        transport.patience = DRAIN_SECONDS
        for id in range(1, 4):
            assert bounded(lambda: ask(transport, call(id)), 2).id == id
            assert server.disconnected.wait(2)
            server.disconnected.clear()


def test_a_stream_that_talks_on_after_its_answer_does_not_block() -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(sse_answer(b"data: " + answer() + b"\n\n"))
        while not server.stopped.wait(0.005):
            connection.sendall(b": alive\n\n")

    with hostile(reply) as server, opened(server.url) as transport:
        transport.patience = DRAIN_SECONDS
        bounded(lambda: ask(transport), 2)
        eventually(lambda: not server.open_connections)


def test_what_comes_after_the_answer_is_not_lost() -> None:
    late = {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"}

    def script(request: Recorded) -> Reply:
        return sse_reply(answer_to(request, RESULT), late, QUESTION)

    heard = Heard()
    with ScriptedServer(script) as server, opened(server.url, heard) as transport:
        ask(transport, legacy())
        messages = heard.wait_for(2)
        assert [type(message) for message in messages] == [Notification, Request]
        ask(transport, legacy(2))
        assert server.connections == 1


def test_answers_to_others_are_not_taken_for_ours() -> None:
    def script(request: Recorded) -> Reply:
        strange: List[Any] = [
            {"jsonrpc": "2.0", "id": id, "result": {"wrong": True}}
            for id in (2, "1", 10**30, "")
        ]
        odd = [
            event(json.dumps({"jsonrpc": "2.0", "id": id, "result": {}}))
            for id in (True, 1.0, None, [], {})
        ]
        return sse_reply(*strange, *odd, answer_to(request, RESULT))

    with ScriptedServer(script) as server, opened(server.url) as transport:
        assert ask(transport).result == RESULT


def test_an_answer_on_another_stream_finds_its_exchange() -> None:
    both = threading.Barrier(2, timeout=5)

    def script(request: Recorded) -> Reply:
        both.wait()
        if request.json["id"] == 2:
            return sse_reply(UNTIL_CLOSED)
        other = {"content": [], "for": 2, "resultType": "complete"}
        return sse_reply(
            {"jsonrpc": "2.0", "id": 2, "result": other}, answer_to(request, RESULT)
        )

    with ScriptedServer(script) as server, opened(server.url) as transport:
        runs = [begin_on_thread(lambda i=i: ask(transport, call(i))) for i in (1, 2)]
        results = [run.outcome().result for run in runs]
    assert [result.get("for") for result in results] == [None, 2]


@pytest.mark.parametrize(
    "bad",
    [
        event("{"),
        event("[]"),
        event("null"),
        event('{"jsonrpc": "1.0", "method": "x"}'),
        event('{"jsonrpc": "2.0", "id": 5, "result": {}, "error": {}}'),
        b"data: \xff\xfe\n\n",
        event("x", event="ping"),
    ],
)
def test_a_bad_message_is_not_the_end(bad: bytes) -> None:
    def script(request: Recorded) -> Reply:
        return sse_reply(bad, answer_to(request, RESULT))

    heard = Heard()
    with ScriptedServer(script) as server, opened(server.url, heard) as transport:
        assert ask(transport).result == RESULT
    if not bad.startswith((b"data: \xff", b"event")):
        assert len(heard.notes) == 1 and "no message" in heard.notes[0]


@pytest.mark.parametrize(
    "bad",
    [
        event('{"jsonrpc": "2.0", "id": 1}'),
        event('{"jsonrpc": "2.0", "id": 1, "result": {}, "error": {}}'),
        event('{"jsonrpc": "2.0", "id": null, "error": "no"}'),
        event('{"jsonrpc": "2.0", "id": 1, "result": {"a": NaN}}'),
        event('{"jsonrpc": "2.0", "id": 1, "result": ' + "[" * 300 + "]" * 300 + "}"),
    ],
)
def test_an_answer_that_cannot_be_read_fails_at_once(bad: bytes) -> None:
    with ScriptedServer(lambda request: sse_reply(bad, UNTIL_CLOSED)) as server:
        with opened(server.url) as transport:
            with pytest.raises(InvalidMessage):
                bounded(lambda: ask(transport), 2)


def test_a_stream_with_nothing_but_rubbish_says_which() -> None:
    def script(request: Recorded) -> Reply:
        return sse_reply(event("<p>Log in</p>"))

    with ScriptedServer(script) as server, opened(server.url) as transport:
        with pytest.raises(InvalidMessage, match="Log in"):
            ask(transport)


def test_an_event_that_is_too_large_fails_its_call_only() -> None:
    def script(request: Recorded) -> Reply:
        if request.json["id"] == 1:
            return sse_reply(b"data: " + b"x" * 5000, UNTIL_CLOSED)
        return sse_reply(answer_to(request, RESULT))

    limits = Limits(message_bytes=1000)
    with ScriptedServer(script) as server:
        with opened(server.url, limits=limits) as transport:
            with pytest.raises(MessageTooLarge):
                bounded(lambda: ask(transport, call(1)), 2)
            assert server.disconnected.wait(2)
            assert ask(transport, call(2)).result == RESULT


def test_a_torn_event_is_no_message() -> None:
    torn = b"data: " + answer()[:-1]
    with hostile(lambda c, *_: c.sendall(sse_answer(torn))) as server:
        with opened(server.url) as transport:
            with pytest.raises(ConnectionLost):
                ask(transport)


@pytest.mark.parametrize("batches", [False, True])
def test_arrays_count_where_there_are_batches(batches: bool) -> None:
    def script(request: Recorded) -> Reply:
        both = [PROGRESS, answer_to(request, RESULT)]
        if request.json["id"] == 1:
            return json_reply(both)
        return sse_reply(event(both))

    profile = Profile(batches=batches)
    with ScriptedServer(script) as server:
        with opened(server.url, session=profile) as transport:
            for id in (1, 2):
                if batches:
                    assert len(converse(transport, call(id, legacy=True))) == 2
                else:
                    with pytest.raises(InvalidMessage):
                        ask(transport, call(id, legacy=True))


def test_unread_questions_are_asked_all_the_same() -> None:
    heard = Heard()
    with hostile(lambda *_: server.stopped.wait(30)) as server:
        with opened(server.url, heard) as transport:
            deadline = Deadline.after(5)
            with transport.begin(legacy(), deadline) as exchange:
                exchange.deliver(Request("q", "roots/list", {}))
            assert heard.messages == [Request("q", "roots/list", {})]


# --- a flood ------------------------------------------------------------------------


def test_an_answer_behind_a_flood_arrives() -> None:
    flood = event(PROGRESS) * 20_000

    def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(sse_answer(flood + b"data: " + answer() + b"\n\n"))

    with hostile(reply) as server, opened(server.url) as transport:
        assert len(bounded(lambda: converse(transport, seconds=20), 20)) == 20_001


# --- breaking and resuming ----------------------------------------------------------


def test_a_modern_stream_that_breaks_is_lost() -> None:
    def script(request: Recorded) -> Reply:
        return sse_reply(event("", id="1"), event(PROGRESS, id="2"))

    with ScriptedServer(script) as server, opened(server.url) as transport:
        with pytest.raises(ConnectionLost) as caught:
            ask(transport)
        assert caught.value.sent is True
        assert len(server.requests) == 1


@pytest.mark.parametrize("how", [[], [break_off]], ids=["ends", "breaks"])
def test_a_legacy_stream_is_resumed(how: List[Callable[[], None]]) -> None:
    def script(request: Recorded) -> Reply:
        if request.method == "POST":
            first = event("", id="e-1", retry=300)
            return sse_reply(first, event(PROGRESS, id="e-2"), *how)
        return sse_reply(event(answer_to(server.requests[0], RESULT), id="e-3"))

    with ScriptedServer(script) as server:
        with opened(server.url, session=SESSION) as transport:
            assert len(converse(transport, legacy())) == 2
        post, get = server.requests
    assert get.method == "GET"
    assert get.headers["Last-Event-ID"] == "e-2"
    assert get.headers["Accept"] == "text/event-stream"
    assert get.headers["MCP-Protocol-Version"] == "2025-11-25"
    assert get.at - post.at >= 0.29


def test_a_long_retry_is_cut_short() -> None:
    position = StreamPosition()
    assert position.pause(0) == 1.0
    position.note(Event("", retry=10**12))
    assert position.pause(0) == position.pause(10_000) == 60.0
    position.note(Event("", retry=0))
    assert position.pause(0) >= 0.1
    assert position.pause(2) > position.pause(1) > position.pause(0)
    position.note(Event("", id="a"))
    position.note(Event("x"))
    assert position.last_id == "a"
    position.note(Event("", id=""))
    assert position.last_id is None


def test_without_an_event_id_there_is_nothing_to_resume() -> None:
    with ScriptedServer(lambda request: sse_reply(PROGRESS)) as server:
        with opened(server.url, session=SESSION) as transport:
            with pytest.raises(ConnectionLost):
                ask(transport, legacy())
        assert [request.method for request in server.requests] == ["POST"]


def test_resuming_has_an_end_and_is_not_hasty() -> None:
    def script(request: Recorded) -> Reply:
        if request.method == "POST":
            return sse_reply(event("", id="1", retry=0))
        return sse_reply(b": nothing\n\n")

    with ScriptedServer(script) as server:
        with opened(
            server.url, session=SESSION, limits=Limits(reconnects=3)
        ) as transport:
            with pytest.raises(ConnectionLost, match="3 attempts"):
                ask(transport, legacy())
        times = [request.at for request in server.requests]
    assert len(times) == 4
    assert all(b - a >= 0.09 for a, b in zip(times, times[1:]))


def test_the_server_may_make_us_poll() -> None:
    """Each stream brings only an id: that is progress, not a failure."""

    def script(request: Recorded) -> Reply:
        count = len(server.requests)
        if count < 6:
            return sse_reply(event("", id="e-%d" % count, retry=1))
        return sse_reply(event(answer_to(server.requests[0], RESULT)))

    with ScriptedServer(script) as server:
        with opened(
            server.url, session=SESSION, limits=Limits(reconnects=2)
        ) as transport:
            assert ask(transport, legacy()).result == RESULT
        ids = [request.headers["Last-Event-ID"] for request in server.requests[1:]]
    assert ids == ["e-%d" % number for number in range(1, 6)]


@pytest.mark.parametrize("status", [400, 404, 405, 401])
def test_a_refused_resumption_fails_the_call(status: int) -> None:
    def script(request: Recorded) -> Reply:
        if request.method == "POST":
            return sse_reply(event("", id="1", retry=1))
        return Reply(status)

    with ScriptedServer(script) as server:
        with opened(server.url, session=SESSION) as transport:
            with pytest.raises(ConnectionLost, match="cannot be resumed") as caught:
                ask(transport, legacy())
        assert caught.value.sent is True
        assert len(server.of("GET")) == 1


@pytest.mark.parametrize("trouble", ["busy", "dropped"])
def test_a_passing_trouble_does_not_end_the_resumption(trouble: str) -> None:
    def script(request: Recorded) -> Reply:
        if request.method == "POST":
            return sse_reply(event("", id="1", retry=1))
        if len(server.of("GET")) > 1:
            return sse_reply(event(answer_to(server.requests[0], RESULT)))
        if trouble == "busy":
            return Reply(503)
        server.drop_connections()
        return Reply(200)

    with ScriptedServer(script) as server:
        with opened(server.url, session=SESSION) as transport:
            assert ask(transport, legacy()).result == RESULT


def test_the_deadline_ends_the_wait_before_resuming() -> None:
    def script(request: Recorded) -> Reply:
        return sse_reply(event("", id="1", retry=60_000))

    with ScriptedServer(script) as server:
        with opened(server.url, session=SESSION) as transport:
            with pytest.raises(RequestTimeout):
                bounded(lambda: ask(transport, legacy(), seconds=0.4), 3)


@pytest.mark.parametrize("what", ["close", "cancel", "deliver"])
def test_the_wait_before_resuming_can_be_ended(what: str) -> None:
    def script(request: Recorded) -> Reply:
        if request.rpc_method == "notifications/cancelled":
            return Reply(202)
        return sse_reply(event("", id="1", retry=60_000))

    with ScriptedServer(script) as server:
        with opened(server.url, session=SESSION) as transport:
            deadline = Deadline.after(60)
            exchange: Any = transport.begin(legacy(), deadline)
            with exchange:
                running = begin_on_thread(lambda: exchange.receive(deadline))
                server.await_requests(1)
                eventually(lambda: exchange._abort.socket is None)
                time.sleep(0.1)
                if what == "close":
                    transport.close()
                elif what == "cancel":
                    exchange.cancel("why not")
                else:
                    transport.route(Response(1, RESULT))
                outcome = running.outcome(3)
    if what == "deliver":
        assert outcome == Response(1, RESULT)
    else:
        assert isinstance(outcome, Exception)
        assert not isinstance(outcome, RequestTimeout)


# --- delivery -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "head",
    [
        b"",
        json_answer()[:30],
        json_answer()[:-5],
        sse_answer(b": open\n\n"),
        sse_answer(event("", id="1")),
    ],
    ids=["before headers", "in headers", "in a body", "in a stream", "resumable"],
)
def test_a_delivered_answer_wakes_the_reader(head: bytes) -> None:
    reached = threading.Event()

    def reply(connection: socket.socket, *_: bytes) -> None:
        connection.sendall(head)
        reached.set()
        server.stopped.wait(30)

    with hostile(reply) as server, opened(server.url, session=SESSION) as transport:
        running = begin_on_thread(lambda: converse(transport, legacy(), seconds=60))
        assert reached.wait(5)
        time.sleep(0.05)
        transport.route(Notification("notifications/progress", {"progressToken": 1}))
        transport.route(Response(2, {"not": "mine"}))
        transport.route(Response(1, RESULT))
        messages = running.outcome(3)
        assert [type(message) for message in messages] == [Notification, Response]
        assert messages[-1].result == RESULT


def test_a_delivered_answer_ends_a_resumption_that_is_under_way() -> None:
    def script(request: Recorded) -> Reply:
        if request.method == "POST":
            return sse_reply(event("", id="1", retry=1))
        transport.route(Response(1, RESULT))
        return sse_reply(UNTIL_CLOSED)

    with ScriptedServer(script) as server:
        with opened(server.url, session=SESSION) as transport:
            assert ask(transport, legacy()) == Response(1, RESULT)


def test_progress_from_elsewhere_comes_before_the_answer() -> None:
    def script(request: Recorded) -> Reply:
        transport.route(Notification("notifications/progress", {"progressToken": 1}))
        return json_reply(answer_to(request, RESULT))

    with ScriptedServer(script) as server, opened(server.url) as transport:
        messages = converse(transport, legacy())
    assert [type(message) for message in messages] == [Notification, Response]


def test_progress_from_elsewhere_resets_the_idle_clock() -> None:
    def script(request: Recorded) -> Reply:
        for _ in range(6):
            time.sleep(0.2)
            transport.route(
                Notification("notifications/progress", {"progressToken": 1})
            )
        return json_reply(answer_to(request, RESULT))

    with ScriptedServer(script) as server, opened(server.url) as transport:
        timeout = Timeout(idle=0.8, total=10.0)
        assert len(converse(transport, legacy(), timeout)) == 7


def test_after_a_delivery_and_a_failure_both_are_heard() -> None:
    with hostile(lambda *_: server.stopped.wait(30)) as server:
        with opened(server.url) as transport:
            deadline = Deadline.after(0.4)
            with transport.begin(legacy(), deadline) as exchange:
                exchange.deliver(Notification("notifications/progress", {}))
                assert isinstance(exchange.receive(deadline), Notification)
                exchange.deliver(Notification("notifications/message", {}))
                assert isinstance(exchange.receive(deadline), Notification)
                for _ in range(2):
                    with pytest.raises(RequestTimeout):
                        exchange.receive(deadline)


def test_a_delivery_just_before_the_deadline_hides_no_timeout() -> None:
    with hostile(lambda *_: server.stopped.wait(30)) as server:
        with opened(server.url) as transport:
            deadline = Deadline.after(0.5)
            exchange: Any = transport.begin(legacy(), deadline)
            with exchange:
                running = begin_on_thread(lambda: exchange.receive(deadline))
                eventually(lambda: server.requests)
                exchange.deliver(Notification("notifications/progress", {}))
                assert isinstance(running.outcome(), Notification)
                with pytest.raises(RequestTimeout):
                    exchange.receive(deadline)


# --- cancelling ---------------------------------------------------------------------


def test_a_modern_call_is_cancelled_by_closing_its_stream() -> None:
    def script(request: Recorded) -> Reply:
        return sse_reply(PROGRESS, UNTIL_CLOSED)

    with ScriptedServer(script) as server, opened(server.url) as transport:
        deadline = Deadline.after(5)
        with transport.begin(call(), deadline) as exchange:
            exchange.receive(deadline)
            running = begin_on_thread(lambda: exchange.receive(deadline))
            exchange.cancel("not needed")
            assert isinstance(running.outcome(), RequestCancelled)
        assert server.disconnected.wait(3)
        assert len(server.requests) == 1


def test_a_legacy_call_is_cancelled_by_a_notification_once() -> None:
    def script(request: Recorded) -> Reply:
        if request.rpc_method == "notifications/cancelled":
            return Reply(202)
        return sse_reply(PROGRESS, UNTIL_CLOSED)

    with ScriptedServer(script) as server:
        with opened(server.url, session=SESSION) as transport:
            deadline = Deadline.after(5)
            with transport.begin(legacy(7), deadline) as exchange:
                exchange.receive(deadline)
                running = begin_on_thread(lambda: exchange.receive(deadline))
                exchange.cancel("not needed")
                exchange.cancel("really not")
                assert isinstance(running.outcome(), RequestCancelled)
        notices = server.of("notifications/cancelled")
    assert [notice.json["params"] for notice in notices] == [
        {"requestId": 7, "reason": "not needed"}
    ]
    assert notices[0].headers["MCP-Protocol-Version"] == "2025-11-25"


def test_after_a_timeout_the_server_is_told_once() -> None:
    def script(request: Recorded) -> Reply:
        if request.rpc_method == "notifications/cancelled":
            return Reply(202)
        return sse_reply(UNTIL_CLOSED)

    with ScriptedServer(script) as server, opened(server.url) as transport:
        deadline = Deadline.after(0.3)
        with transport.begin(legacy(), deadline) as exchange:
            with pytest.raises(RequestTimeout):
                exchange.receive(deadline)
            exchange.cancel("timed out")
            exchange.cancel("timed out")
        assert len(server.of("notifications/cancelled")) == 1


def test_what_was_never_sent_is_not_cancelled() -> None:
    with ScriptedServer(lambda request: Reply(202)) as server:
        with opened(server.url) as transport:
            deadline = Deadline.after(5)
            with transport.begin(legacy(), deadline) as exchange:
                exchange.cancel("changed my mind")
                with pytest.raises(RequestCancelled):
                    exchange.receive(deadline)
        assert server.connections == 0


def test_a_handshake_is_never_cancelled() -> None:
    with ScriptedServer(lambda request: sse_reply(UNTIL_CLOSED)) as server:
        with opened(server.url) as transport:
            deadline = Deadline.after(0.3)
            with transport.begin(LEGACY.initialize(1), deadline) as exchange:
                with pytest.raises(RequestTimeout):
                    exchange.receive(deadline)
                exchange.cancel("timed out")
        assert len(server.requests) == 1


def test_a_server_that_is_busy_with_the_notice_does_not_hold_the_caller() -> None:
    with hostile(lambda *_: server.stopped.wait(30)) as server:
        with opened(server.url) as transport:
            deadline = Deadline.after(0.3)
            with transport.begin(legacy(), deadline) as exchange:
                with pytest.raises(RequestTimeout):
                    exchange.receive(deadline)
                bounded(lambda: exchange.cancel("timed out"), 3)


def test_leaving_a_stream_ends_it() -> None:
    def script(request: Recorded) -> Reply:
        return sse_reply(PROGRESS, UNTIL_CLOSED)

    with ScriptedServer(script) as server, opened(server.url) as transport:
        deadline = Deadline.after(5)
        with transport.begin(MODERN.request(1, "x/y", None), deadline) as exchange:
            exchange.receive(deadline)
        assert server.disconnected.wait(3)


def test_after_the_end_nothing_more_comes() -> None:
    with ScriptedServer(lambda r: json_reply(answer_to(r, RESULT))) as server:
        with opened(server.url) as transport:
            deadline = Deadline.after(5)
            with transport.begin(call(), deadline) as exchange:
                exchange.receive(deadline)
                with pytest.raises(ConnectionLost, match="nothing more"):
                    exchange.receive(deadline)
