"""Servers that die, and streams that end."""

from __future__ import annotations

import os
import signal
import threading
import time
import types
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Iterator, List, Mapping

import pytest

import mcpsync
from mcpsync import ConnectionRenewed, Limits, ServerRestarted, StdioTransport
from mcpsync.testing import serve

from .fakes import bounded
from .fakes.stdio_server import python_server
from .fakes.witnesses import Events, Updates, echo

URI = "demo://greeting"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the pauses between attempts and restarts to a minimum."""
    monkeypatch.setattr("mcpsync._retries._DELAYS", (0.0, 0.0))
    monkeypatch.setattr("mcpsync._connection._BACK_OFF", (0.0, 0.01, 0.02))


@pytest.fixture
def process() -> Iterator[Mapping[str, Any]]:
    """A client of a legacy demo server in a process, and what happened to it."""
    events, updates = Events(), Updates()
    logged: List[str] = []
    with serve("stdio", era="legacy") as server:
        assert isinstance(server.target, list)
        transport = StdioTransport(server.target, name="mine")
        with mcpsync.connect(
            transport,
            hooks=[events],
            on_notification=updates,
            on_log=lambda message: logged.append(message.data),
            log_level="debug",
        ) as client:
            yield {
                "client": client,
                "transport": transport,
                "events": events,
                "updates": updates,
                "logged": logged,
            }


def kill(transport: StdioTransport) -> None:
    """Kill a server, and wait until the client knows."""
    assert transport.pid is not None
    os.kill(transport.pid, signal.SIGKILL)
    end = time.monotonic() + 5
    while transport.alive and time.monotonic() < end:
        time.sleep(0.005)
    assert not transport.alive


def test_a_dead_server_is_restarted_by_the_next_call(process: Any) -> None:
    client, transport = process["client"], process["transport"]
    client.subscribe_resource(URI)
    before = transport.pid
    kill(transport)
    assert not client.is_open
    assert echo(client)
    assert client.is_open and transport.pid != before
    assert process["events"].seen == [ServerRestarted("mine", 1)]
    # The new one knows what the old one was told.
    client.call_tool("touch")
    assert process["updates"].told.wait(5)
    client.call_tool("log", {"message": "fine", "level": "debug"})
    deadline = time.monotonic() + 5
    while not process["logged"] and time.monotonic() < deadline:
        time.sleep(0.005)
    assert process["logged"] == ["fine"]


def test_a_server_that_keeps_dying(process: Any) -> None:
    client, transport = process["client"], process["transport"]
    for attempt in (1, 2, 3):
        kill(transport)
        assert echo(client)
        assert process["events"].seen[-1] == ServerRestarted("mine", attempt)
    kill(transport)
    with pytest.raises(mcpsync.ServerExited, match="3 times within a minute") as caught:
        client.call_tool("echo", {"message": "x"})
    assert caught.value.sent is False and caught.value.server == "mine"


def test_only_the_last_minute_counts(
    process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    client, transport = process["client"], process["transport"]
    later = [0.0]
    clock = types.SimpleNamespace(monotonic=lambda: time.monotonic() + later[0])
    monkeypatch.setattr("mcpsync._connection.time", clock)
    for attempt in range(5):
        kill(transport)
        assert echo(client)
        later[0] += 61
    assert [event.attempt for event in process["events"].seen] == [1] * 5


def test_closing_before_a_restart(
    process: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = threading.Event()

    class BackOff:
        def __len__(self) -> int:
            return 1

        def __getitem__(self, index: int) -> float:
            waiting.set()
            return 20.0

    monkeypatch.setattr("mcpsync._connection._BACK_OFF", BackOff())
    client = process["client"]
    kill(process["transport"])
    pending = client.start_call("echo", {"message": "x"})
    assert waiting.wait(5)
    bounded(client.close)
    with pytest.raises(mcpsync.ClientClosed):
        pending.result(timeout=5)


def test_a_server_that_shall_not_be_restarted() -> None:
    with serve("stdio") as server:
        assert isinstance(server.target, list)
        transport = StdioTransport(server.target, restart=False)
        with mcpsync.connect(transport) as client:
            kill(transport)
            with pytest.raises(mcpsync.ServerExited, match="not to be restarted"):
                client.ping()


def test_a_restart_that_failed_is_not_the_last(tmp_path: Any) -> None:
    ill = tmp_path / "ill"
    argv = python_server("""
        if os.path.exists(%r):
            log("I am ill")
            sys.exit(5)
        shake_hands()
        serve({"tools/call": lambda params: text("ok")})
        """ % str(ill))
    transport = StdioTransport(argv)
    with mcpsync.connect(transport, timeout=10) as client:
        ill.touch()
        kill(transport)
        with pytest.raises(mcpsync.ServerExited, match="I am ill"):
            client.call_tool("x")
        ill.unlink()
        assert client.call_tool("x").text == "ok"


def test_callers_at_once_restart_once(process: Any) -> None:
    client = process["client"]
    kill(process["transport"])
    with ThreadPoolExecutor(6) as pool:
        assert all(pool.map(lambda _: echo(client), range(6)))
    assert process["events"].seen == [ServerRestarted("mine", 1)]


def test_a_hook_may_use_the_client_and_its_lock() -> None:
    outcomes: List[Any] = []

    class Curious:
        def on_event(self, event: Any) -> None:
            if isinstance(event, ServerRestarted):
                # This needs the lock that restarts are made under.
                client.subscribe_resource(URI)
                outcomes.append(echo(client))

    with serve("stdio", era="legacy") as server:
        assert isinstance(server.target, list)
        transport = StdioTransport(server.target)
        with mcpsync.connect(transport, hooks=[Curious()], startup_timeout=5) as client:
            kill(transport)
            began = time.monotonic()
            assert echo(client)
            assert outcomes == [True] and time.monotonic() - began < 4


def test_a_stream_that_ends_is_opened_anew() -> None:
    events = Events()
    with serve("sse") as server:
        with mcpsync.connect(
            server.target, timeout=10, hooks=[events], name="old"
        ) as client:
            # No process died, and none is counted: there is no limit to this.
            for _ in range(5):
                server.http.drop_connections()
                end = time.monotonic() + 5
                while client.is_open and time.monotonic() < end:
                    time.sleep(0.005)
                assert echo(client)
    assert events.seen == [ConnectionRenewed("old")] * 5


@pytest.mark.parametrize("protocol", ["auto", "legacy"])
def test_many_calls_use_one_connection(protocol: str) -> None:
    with serve("http") as server:
        with mcpsync.connect(server.target, protocol=protocol) as client:
            for _ in range(50):
                assert echo(client)
            assert server.http.stats["connections"] == 1


def test_the_limits_of_restarts() -> None:
    assert Limits().restarts_per_minute == 3
