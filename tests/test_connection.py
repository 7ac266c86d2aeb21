"""Opening a connection, and closing it while it is opened."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List

import pytest

import mcpsync

from .fakes import bounded
from .fakes.scripted_http import (
    UNTIL_CLOSED,
    Recorded,
    Reply,
    ScriptedServer,
    answer_to,
    event,
    json_reply,
)
from .fakes.scripted_memory import LEGACY, NO_ANSWER, Fault, Incoming, scripted
from .fakes.stdio_server import exits_with, python_server

URI = "demo://greeting"


@pytest.mark.parametrize("version", ["2026-07-28", LEGACY])
def test_first_calls_at_once_open_once(version: str) -> None:
    gate = threading.Event()
    first = "server/discover" if version != LEGACY else "initialize"

    def handshake(incoming: Incoming) -> Any:
        incoming.hold(gate)
        if version == LEGACY:
            return {
                "protocolVersion": LEGACY,
                "capabilities": {},
                "serverInfo": {"name": "s", "version": "1"},
            }
        return {"supportedVersions": [version], "capabilities": {}}

    methods = {first: handshake, "tools/call": lambda incoming: {"content": []}}
    with scripted(methods, version=version) as server, ThreadPoolExecutor(5) as pool:
        client = mcpsync.Client(server.transport, timeout=5)
        calls = [pool.submit(client.call_tool, "x") for _ in range(5)]
        server.await_messages(first)
        assert not client.is_open
        gate.set()
        for call in calls:
            assert call.result(timeout=5).content == []
        assert len(server.of(first)) == 1
        assert len(server.of("tools/call")) == 5
        client.close()


def test_the_call_s_clock_starts_when_the_connection_is_open() -> None:
    def discover(incoming: Incoming) -> Dict[str, Any]:
        incoming.server.stopped.wait(0.7)
        return {"supportedVersions": ["2026-07-28"], "capabilities": {}}

    methods = {
        "server/discover": discover,
        "tools/call": lambda incoming: {"content": []},
    }
    with scripted(methods) as server:
        client = mcpsync.Client(server.transport)
        assert client.call_tool("x", timeout=0.6).content == []
        client.close()


@pytest.mark.parametrize("protocol", ["auto", "legacy", "2026-07-28"])
def test_an_opening_that_takes_too_long(protocol: str) -> None:
    silent_methods = ("server/discover", "initialize")
    methods = {name: lambda incoming: NO_ANSWER for name in silent_methods}
    with scripted(methods) as server:
        with pytest.raises(mcpsync.RequestTimeout, match="startup_timeout") as caught:
            mcpsync.connect(server.transport, protocol=protocol, startup_timeout=0.2)
        assert caught.value.kind == "connect"
        assert caught.value.server == "scripted"


def test_what_a_server_says_during_the_handshake() -> None:
    logged: List[str] = []
    asked: List[Any] = []
    arrived = threading.Event()

    def on_log(message: Any) -> None:
        logged.append(message.data)
        arrived.set()

    def initialize(incoming: Incoming) -> Dict[str, Any]:
        incoming.note("notifications/message", {"level": "info", "data": "starting"})
        # A question is nobody's yet, a ping is answered all the same.
        incoming.server.ask("roots/list", wait=False)
        assert incoming.ask("ping")["result"] == {}
        return {
            "protocolVersion": LEGACY,
            "capabilities": {},
            "serverInfo": {"name": "s", "version": "1"},
        }

    def roots() -> List[str]:
        asked.append(1)
        return []

    with scripted({"initialize": initialize}, version=LEGACY) as server:
        with mcpsync.connect(server.transport, on_log=on_log, roots=roots) as client:
            client.ping()
            assert arrived.wait(5)
    assert logged == ["starting"] and asked == []


def test_a_handshake_that_makes_no_sense() -> None:
    def discover(incoming: Incoming) -> Dict[str, Any]:
        # What can only be answered by a server that does not know the question.
        reply = {"jsonrpc": "2.0", "id": incoming.id, "result": {}, "error": {}}
        incoming.server.transport.say(reply)
        return NO_ANSWER

    methods = {"server/discover": discover}
    with scripted(methods, version=LEGACY) as server:
        with mcpsync.connect(server.transport) as client:
            assert client.protocol_version == LEGACY


def test_the_first_refusal_says_more_than_the_last() -> None:
    def script(request: Recorded) -> Reply:
        return Reply(405 if request.method == "POST" else 404)

    with ScriptedServer(script) as server:
        with pytest.raises(mcpsync.HTTPStatusError) as caught:
            mcpsync.connect(server.url, name="web")
        assert (caught.value.status, caught.value.server) == (405, "web")
        assert isinstance(caught.value.__cause__, mcpsync.HTTPStatusError)
        assert caught.value.__cause__.status == 404


class Fragile:
    """The part of a server that fails until it is mended."""

    def __init__(self) -> None:
        self.broken = True

    def discover(self, incoming: Incoming) -> Any:
        if self.broken:
            return Fault(-32022, "no", {"supported": ["1999-01-01"]})
        return {"supportedVersions": ["2026-07-28"], "capabilities": {}}

    def http(self, request: Recorded) -> Reply:
        if self.broken:
            return Reply(500, {}, b"down")
        if request.rpc_method == "server/discover":
            result = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
            return json_reply(answer_to(request, result))
        return json_reply(answer_to(request, {"content": []}))


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the pauses between attempts and restarts to a minimum."""
    monkeypatch.setattr("mcpsync._retries._DELAYS", (0.0, 0.0))
    monkeypatch.setattr("mcpsync._connection._BACK_OFF", (0.0, 0.01, 0.02))


def test_an_opening_that_failed_is_not_the_last_in_memory() -> None:
    part = Fragile()
    methods = {
        "server/discover": part.discover,
        "tools/call": lambda incoming: {"content": []},
    }
    with scripted(methods) as server:
        client = mcpsync.Client(server.transport, timeout=5)
        with pytest.raises(mcpsync.UnsupportedProtocolVersion) as caught:
            client.call_tool("x")
        assert caught.value.server == "scripted" and not client.is_open
        part.broken = False
        assert client.call_tool("x").content == []
        client.close()


def test_an_opening_that_failed_is_not_the_last_over_http() -> None:
    part = Fragile()
    with ScriptedServer(part.http) as server:
        client = mcpsync.Client(server.url, timeout=5)
        with pytest.raises(mcpsync.HTTPStatusError):
            client.call_tool("x")
        assert not client.is_open
        part.broken = False
        assert client.call_tool("x").content == []
        client.close()


def test_an_opening_that_failed_is_not_the_last_of_a_process(tmp_path: Any) -> None:
    licence = tmp_path / "licence"
    argv = python_server("""
        if not os.path.exists(%r):
            log("no licence")
            sys.exit(4)
        shake_hands()
        serve({"tools/call": lambda params: text("ok")})
        """ % str(licence))
    client = mcpsync.Client(argv, timeout=5)
    with pytest.raises(mcpsync.ServerExited, match="no licence") as caught:
        client.call_tool("x")
    assert caught.value.returncode == 4
    licence.touch()
    assert client.call_tool("x").text == "ok"
    client.close()


def test_connect_leaves_nothing_when_it_fails() -> None:
    for _ in range(3):
        with pytest.raises(mcpsync.ServerExited) as caught:
            mcpsync.connect(exits_with(3, "API_KEY missing"), startup_timeout=10)
        error = caught.value
        assert (error.returncode, error.stderr_tail) == (3, "API_KEY missing")
        assert "code 3" in str(error) and "API_KEY missing" in str(error)
        # At once, not when the time is over.
        assert error.elapsed is None or error.elapsed < 5


def test_an_interrupted_opening_is_not_the_last(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    interrupts: List[type] = [KeyboardInterrupt]

    with scripted({"tools/call": lambda incoming: {"content": []}}) as server:
        begin = server.transport.begin

        def interrupted(*args: Any) -> Any:
            if interrupts:
                raise interrupts.pop()
            return begin(*args)

        monkeypatch.setattr(server.transport, "begin", interrupted)
        client = mcpsync.Client(server.transport, timeout=5)
        with pytest.raises(KeyboardInterrupt):
            client.call_tool("x")
        # Nothing is held that another thread would wait for.
        assert bounded(lambda: client.call_tool("x")).content == []
        client.close()


def closes_while_opening(client: mcpsync.Client, reached: Callable[[], Any]) -> None:
    """Close a client in the middle of its opening, and check what that opening says."""
    ended: List[BaseException] = []

    def open_it() -> None:
        try:
            client.open()
        except BaseException as error:
            ended.append(error)

    thread = threading.Thread(target=open_it)
    thread.start()
    reached()
    began = time.monotonic()
    bounded(client.close)
    thread.join(10)
    assert [type(error) for error in ended] == [mcpsync.ClientClosed]
    assert time.monotonic() - began < 8
    assert not client.is_open
    with pytest.raises(mcpsync.ClientClosed):
        client.ping()


def test_closing_while_a_function_is_silent() -> None:
    with scripted({"server/discover": lambda incoming: NO_ANSWER}) as server:
        client = mcpsync.Client(server.transport)
        closes_while_opening(client, lambda: server.await_messages("server/discover"))


def test_closing_while_a_process_is_silent(tmp_path: Any) -> None:
    started = tmp_path / "started"
    argv = python_server("""
        open(%r, "w").close()
        while read() is not None:
            pass
        """ % str(started))
    client = mcpsync.Client(argv)

    def reached() -> None:
        end = time.monotonic() + 5
        while not started.exists() and time.monotonic() < end:
            time.sleep(0.01)
        assert started.exists()

    closes_while_opening(client, reached)


def test_closing_while_a_process_is_started(monkeypatch: pytest.MonkeyPatch) -> None:
    from mcpsync.transports import stdio

    spawning, go_on = threading.Event(), threading.Event()
    spawn = stdio.Process

    def slow(*args: Any, **kwargs: Any) -> Any:
        process = spawn(*args, **kwargs)
        spawning.set()
        go_on.wait(5)
        return process

    monkeypatch.setattr(stdio, "Process", slow)
    client = mcpsync.Client(python_server("shake_hands()", "serve()"))
    thread_ended: List[BaseException] = []

    def open_it() -> None:
        try:
            client.open()
        except BaseException as error:
            thread_ended.append(error)

    thread = threading.Thread(target=open_it)
    thread.start()
    assert spawning.wait(5)
    # There is nothing to close yet; the one who opens has to notice.
    bounded(client.close)
    go_on.set()
    thread.join(10)
    assert [type(error) for error in thread_ended] == [mcpsync.ClientClosed]


def silent(request: Recorded) -> Reply:
    return Reply(200, {"Content-Type": "text/event-stream"}, [UNTIL_CLOSED])


def test_closing_while_a_web_server_is_silent() -> None:
    with ScriptedServer(silent) as server:
        client = mcpsync.Client(server.url)
        closes_while_opening(client, lambda: server.await_requests(1))
        assert server.disconnected.wait(5)


def test_closing_while_a_busy_server_is_left_alone() -> None:
    busy = Reply(503, {"Retry-After": "20"}, b"busy")
    with ScriptedServer(lambda request: busy) as server:
        client = mcpsync.Client(server.url)
        closes_while_opening(client, lambda: server.await_requests(1))


@pytest.mark.parametrize("endpoint", [False, True])
def test_closing_while_the_transport_changes(endpoint: bool) -> None:
    def script(request: Recorded) -> Reply:
        if request.method == "POST" and "messages" not in request.path:
            return Reply(405)
        if request.method == "POST":
            return Reply(202)
        named = [event("/messages", event="endpoint")] if endpoint else []
        stream = {"Content-Type": "text/event-stream"}
        return Reply(200, stream, [*named, UNTIL_CLOSED])

    with ScriptedServer(script) as server:
        client = mcpsync.Client(server.url)
        wait = ("initialize", 2) if endpoint else ("GET", 1)
        closes_while_opening(client, lambda: server.await_requests(wait[1], wait[0]))
        assert server.disconnected.wait(5)
