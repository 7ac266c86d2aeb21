"""Clients over streamable HTTP, against servers that are not always there."""

from __future__ import annotations

import gc
import random
import socket
import threading
import weakref
from typing import Any

import pytest

import mcpsync
from mcpsync._deadline import Deadline, Timeout, watchdog
from mcpsync.demo import serve_http
from mcpsync.exceptions import (
    ClientClosed,
    ConnectFailed,
    ConnectionLost,
    HTTPStatusError,
    InvalidMessage,
    LocalProtocolError,
    LoginRequired,
    RequestCancelled,
    RequestTimeout,
)
from mcpsync.transports.base import Limits
from mcpsync.transports.http import StreamableHTTPTransport

from ..fakes import bounded
from ..fakes.hostile import hostile, respond
from ..fakes.leaks import no_leaks
from ..fakes.scripted_http import (
    Recorded,
    Reply,
    ScriptedServer,
    answer_to,
    json_reply,
    sse_reply,
)
from .calling import RESULT, Heard, ask, begin_on_thread, call, eventually, opened

ERAS = pytest.mark.parametrize("era", ["modern", "legacy"])
DISCOVERED = {"supportedVersions": ["2026-07-28"], "capabilities": {"tools": {}}}


def _discovering(request: Recorded, result: Any = None) -> Reply:
    if request.rpc_method == "server/discover":
        return json_reply(answer_to(request, DISCOVERED))
    return json_reply(answer_to(request, RESULT if result is None else result))


# --- one connection for many calls --------------------------------------------------


@ERAS
@pytest.mark.parametrize(
    "tool, arguments", [("add", {"a": 1, "b": 2}), ("count", {"to": 1, "delay": 0})]
)
def test_fifty_calls_use_one_connection(
    era: str, tool: str, arguments: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A busy machine shall not look like a server that leaves its streams open.
    for module in ("http", "_http_exchange"):
        monkeypatch.setattr("mcpsync.transports.%s.DRAIN_SECONDS" % module, 5.0)
    with serve_http(era=era) as server:
        with mcpsync.connect(server.url) as client:
            for _ in range(50):
                assert client.call_tool(tool, arguments).is_error is False
        assert server.stats["calls"] == 50
        assert server.stats["connections"] == 1


@ERAS
def test_concurrent_calls_run_concurrently(era: str) -> None:
    with serve_http(era=era) as server, mcpsync.connect(server.url) as client:
        calls = [client.start_call("wait", {"seconds": 60}) for _ in range(8)]
        # However slowly the threads begin.
        eventually(lambda: server.stats["in_flight"] == 8)
        assert all([call.cancel() for call in calls])


# --- a failure belongs to its call --------------------------------------------------


@ERAS
def test_a_dropped_connection_fails_one_call_only(era: str) -> None:
    with serve_http(era=era) as server, mcpsync.connect(server.url) as client:
        other = client.start_call("wait", {"seconds": 0.5})
        eventually(lambda: server.stats["in_flight"] == 1)
        with pytest.raises(ConnectionLost) as caught:
            client.call_tool("crash")
        assert caught.value.method == "tools/call"
        assert client.call_tool("add", {"a": 1, "b": 2}).data == {"sum": 3}
        assert other.result(5).data == {"waited": 0.5}


@ERAS
def test_a_server_that_is_not_there_yet_may_come(era: str) -> None:
    with serve_http(era=era) as first:
        port = first.port
    client = mcpsync.Client("http://127.0.0.1:%d/mcp" % port)
    for _ in range(2):
        with pytest.raises(ConnectFailed):
            client.call_tool("echo", {"message": "x"})
    with serve_http(port, era=era):
        assert client.call_tool("add", {"a": 1, "b": 2}).data == {"sum": 3}
        client.close()


@ERAS
def test_a_server_may_go_and_come_back(era: str) -> None:
    with serve_http(era=era) as first:
        port = first.port
        client = mcpsync.connect(first.url)
        client.call_tool("add", {"a": 1, "b": 2})
    with pytest.raises(mcpsync.TransportError):
        client.call_tool("add", {"a": 1, "b": 2})
    with serve_http(port, era=era):
        assert client.call_tool("add", {"a": 1, "b": 2}).data == {"sum": 3}
        client.close()


def test_a_failed_opening_leaves_nothing() -> None:
    replies = [
        respond(b"<p>no</p>", content_type="text/html"),
        respond(b"{", status="200 OK"),
        b"garbage",
        respond(b"", status="401 No"),
    ]
    for reply in replies:
        with hostile(lambda connection, *_: connection.sendall(reply)) as server:
            with no_leaks():
                with pytest.raises(mcpsync.MCPError):
                    mcpsync.connect(server.url, startup_timeout=3)


def test_a_login_page_is_no_server() -> None:
    page = respond(b"<h1>Please log in</h1>", content_type="text/html")

    def reply(connection: socket.socket, head: bytes, body: bytes) -> bool:
        connection.sendall(page)
        return True

    with hostile(reply) as server:
        with pytest.raises(HTTPStatusError, match="Please log in"):
            mcpsync.connect(server.url)


def test_a_server_that_wants_a_login_says_so() -> None:
    with hostile(lambda c, *_: c.sendall(respond(status="401 No"))) as server:
        with pytest.raises(LoginRequired):
            mcpsync.connect(server.url)
        # A refusal says nothing about the era: nothing else is tried.
        assert len(server.requests) == 1


def test_a_silent_server_fails_within_the_startup_timeout() -> None:
    with hostile(lambda *_: server.stopped.wait(30)) as server:
        with pytest.raises(RequestTimeout) as caught:
            bounded(lambda: mcpsync.connect(server.url, startup_timeout=0.5), 4)
    assert caught.value.kind == "connect"
    assert "startup_timeout" in str(caught.value)


# --- timeouts -----------------------------------------------------------------------


@ERAS
def test_the_server_is_told_of_a_timeout_and_the_client_lives(era: str) -> None:
    with serve_http(era=era) as server, mcpsync.connect(server.url) as client:
        with pytest.raises(RequestTimeout) as caught:
            client.call_tool("wait", {"seconds": 30}, timeout=0.3)
        assert caught.value.kind == "total"
        eventually(lambda: server.stats["cancelled"] == 1)
        assert client.call_tool("add", {"a": 1, "b": 2}).data == {"sum": 3}


@ERAS
def test_progress_resets_the_idle_clock_and_not_the_total(era: str) -> None:
    with serve_http(era=era) as server, mcpsync.connect(server.url) as client:
        idle = Timeout(idle=1.0, total=20)
        result = client.call_tool("count", {"to": 6, "delay": 0.3}, timeout=idle)
        assert result.data == {"counted": 6}
        with pytest.raises(RequestTimeout) as caught:
            client.call_tool("wait", {"seconds": 30}, timeout=Timeout(idle=0.3))
        assert caught.value.kind == "idle"
        with pytest.raises(RequestTimeout) as caught:
            client.call_tool(
                "count", {"to": 99, "delay": 0.1}, timeout=Timeout(idle=5, total=0.6)
            )
        assert caught.value.kind == "total"


@ERAS
def test_a_cancelled_call_is_told_to_the_server(era: str) -> None:
    with serve_http(era=era) as server, mcpsync.connect(server.url) as client:
        pending = client.start_call("wait", {"seconds": 30})
        eventually(lambda: server.stats["in_flight"] == 1)
        assert pending.cancel()
        with pytest.raises(RequestCancelled):
            pending.result(3)
        eventually(lambda: server.stats["cancelled"] == 1)
        assert client.call_tool("add", {"a": 1, "b": 2}).data == {"sum": 3}


def test_no_alarm_is_left_behind() -> None:
    def script(request: Recorded) -> Reply:
        return sse_reply({"jsonrpc": "2.0", "method": "x"}, answer_to(request, RESULT))

    def alarms() -> int:
        return sum(1 for entry in watchdog._heap if entry[2].action is not None)

    with ScriptedServer(script) as server, opened(server.url) as transport:
        before = alarms()
        for id in range(1, 6):
            ask(transport, call(id), seconds=60)
        with pytest.raises(LocalProtocolError):
            tight = StreamableHTTPTransport(
                server.url, limits=Limits(pending_requests=0)
            )
            tight.open(Heard(), Deadline.after(5))
            tight.begin(call(), Deadline.after(60))
        assert alarms() == before


# --- closing ------------------------------------------------------------------------


@ERAS
def test_closing_from_another_thread_ends_calls_in_flight(era: str) -> None:
    with serve_http(era=era) as server:
        client = mcpsync.connect(server.url)
        runs = [
            begin_on_thread(lambda: client.call_tool("wait", {"seconds": 30}))
            for _ in range(3)
        ]
        eventually(lambda: server.stats["in_flight"] == 3)
        bounded(client.close, 4)
        assert all(isinstance(run.outcome(3), ClientClosed) for run in runs)
        with pytest.raises(ClientClosed):
            client.call_tool("add", {"a": 1, "b": 2})
        eventually(lambda: server.stats["in_flight"] == 0)


def test_closing_ends_an_opening() -> None:
    with hostile(lambda *_: server.stopped.wait(30)) as server:
        client = mcpsync.Client(server.url)
        opening = begin_on_thread(client.open)
        eventually(lambda: server.requests)
        bounded(client.close, 4)
        assert isinstance(opening.outcome(3), ClientClosed)


def test_ten_threads_may_close() -> None:
    with serve_http(era="legacy") as server:
        client = mcpsync.connect(server.url, on_notification=print)
        runs = [begin_on_thread(client.close) for _ in range(10)]
        assert [run.outcome(5) for run in runs] == [None] * 10
        assert server.stats["deleted_sessions"] == 1


def test_a_forgotten_client_leaves_nothing() -> None:
    with serve_http(era="legacy") as server:
        with no_leaks():
            client = mcpsync.connect(server.url, on_notification=print)
            client.call_tool("add", {"a": 1, "b": 2})
            gone = weakref.ref(client)
            del client
            gc.collect()
            assert gone() is None
        # That needs no farewell: nothing is sent by the collector.
        assert server.stats["deleted_sessions"] == 0


def test_a_client_may_be_forgotten_between_two_streams() -> None:
    def script(request: Recorded) -> Reply:
        if request.method == "GET":
            return sse_reply(b"retry: 60000\n\n")
        if request.rpc_method == "server/discover":
            return Reply(400)
        if request.rpc_method == "initialize":
            hello = {
                "protocolVersion": "2025-11-25",
                "capabilities": {},
                "serverInfo": {"name": "x", "version": "1"},
            }
            return json_reply(answer_to(request, hello))
        return Reply(202)

    with ScriptedServer(script) as server:
        with no_leaks():
            client = mcpsync.connect(server.url, on_notification=print)
            server.await_requests(1, "GET")
            del client
            gc.collect()


def test_a_hundred_clients_leave_nothing() -> None:
    with serve_http() as server:
        with mcpsync.connect(server.url) as client:
            client.call_tool("add", {"a": 1, "b": 2})
        with no_leaks():
            for _ in range(100):
                with mcpsync.connect(server.url) as client:
                    client.call_tool("add", {"a": 1, "b": 2})


# --- limits -------------------------------------------------------------------------


def test_there_may_be_only_so_many_requests_in_flight() -> None:
    with hostile(lambda *_: server.stopped.wait(30)) as server:
        limits = Limits(pending_requests=2)
        with opened(server.url, limits=limits) as transport:
            deadline = Deadline.after(5)
            one = transport.begin(call(1), deadline)
            two = transport.begin(call(2), deadline)
            with pytest.raises(LocalProtocolError, match="2 requests"):
                transport.begin(call(3), deadline)
            one.close()
            transport.begin(call(4), deadline).close()
            two.close()


def test_streams_do_not_use_up_the_connections_of_others() -> None:
    gate = threading.Event()

    def script(request: Recorded) -> Reply:
        if request.json["params"].get("name") == "slow":
            return sse_reply(gate, answer_to(request, RESULT))
        return json_reply(answer_to(request, RESULT))

    with ScriptedServer(script) as server, opened(server.url) as transport:
        runs = [
            begin_on_thread(
                lambda i=i: ask(transport, call(i, tool="slow"), seconds=20)
            )
            for i in range(1, 81)
        ]
        server.await_requests(80)
        assert bounded(lambda: ask(transport, call(100)), 3).id == 100
        gate.set()
        assert sorted(run.outcome(10).id for run in runs) == list(range(1, 81))


# --- fuzz ---------------------------------------------------------------------------


def test_whatever_the_server_sends_only_our_exceptions_come_out() -> None:
    seed = random.randrange(10**9)
    chance = random.Random(seed)
    good = [
        respond(b'{"jsonrpc": "2.0", "id": 1, "result": {"content": []}}'),
        respond(
            b'id: 1\nretry: 5\ndata: {"jsonrpc": "2.0", "id": 1, "result": {}}\n\n',
            "Transfer-Encoding: identity",
            content_type="text/event-stream; charset=utf-8",
        ),
        respond(b"no", "Retry-After: 7", "Set-Cookie: a=b; Expires=x", status="503 No"),
        respond(b"", "Location: http://127.0.0.1:1/", status="307 No"),
        respond(b"x", 'WWW-Authenticate: Bearer realm="x"', status="401 No"),
    ]

    def mutilated() -> bytes:
        data = bytearray(chance.choice(good))
        for _ in range(chance.randrange(1, 6)):
            place = chance.randrange(len(data))
            what = chance.randrange(4)
            if what == 0:
                data[place] ^= 1 << chance.randrange(8)
            elif what == 1:
                del data[place : place + chance.randrange(1, 20)]
            elif what == 2:
                data[place:place] = data[: chance.randrange(1, 40)]
            else:
                data[place] = chance.choice(b"\r\n\0:;, 0\xff")
            data = data or bytearray(b"x")
        return bytes(data)

    with hostile(lambda connection, *_: connection.sendall(mutilated())) as server:
        with opened(server.url) as transport:
            for _ in range(300):
                try:
                    ask(transport, seconds=2)
                except (mcpsync.MCPError, InvalidMessage):
                    continue
                except Exception as error:
                    raise AssertionError("seed %d" % seed) from error
