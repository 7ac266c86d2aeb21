"""Answers that come as event streams: read, left, broken, resumed, cancelled."""

from __future__ import annotations

import json
import socket
import threading
from typing import Any, List

import pytest

from mcpsync._deadline import Deadline
from mcpsync.exceptions import (
    ConnectionLost,
    InvalidMessage,
    MessageTooLarge,
    RequestCancelled,
    RequestTimeout,
)
from mcpsync.protocol.jsonrpc import Notification, Request, Response
from mcpsync.transports._http_exchange import DRAIN_SECONDS
from mcpsync.transports.base import Limits, Profile

from ..fakes import bounded
from ..fakes.hostile import hostile
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
    MODERN,
    PROGRESS,
    RESULT,
    SESSION,
    Heard,
    answer,
    ask,
    begin_on_thread,
    call,
    converse,
    eventually,
    legacy,
    opened,
    sse_answer,
)

QUESTION = {"jsonrpc": "2.0", "id": "q", "method": "roots/list"}


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
