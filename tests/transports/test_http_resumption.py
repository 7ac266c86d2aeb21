"""Event streams that break, and answers that come from elsewhere."""

from __future__ import annotations

import socket
import threading
import time
from typing import Any, Callable, List

import pytest

from mcpsync._deadline import Deadline, Timeout
from mcpsync.exceptions import (
    ConnectionLost,
    RequestTimeout,
)
from mcpsync.protocol.jsonrpc import Notification, Response
from mcpsync.transports._eventstream import Event
from mcpsync.transports._http_exchange import StreamPosition
from mcpsync.transports.base import Limits

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
    PROGRESS,
    RESULT,
    SESSION,
    ask,
    begin_on_thread,
    converse,
    eventually,
    json_answer,
    legacy,
    opened,
    sse_answer,
)


def break_off() -> None:
    raise Break


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
