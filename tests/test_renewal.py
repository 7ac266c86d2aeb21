"""Sessions that the server forgot."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List

import pytest

import mcpsync
from mcpsync import ConnectionRenewed
from mcpsync.testing import serve

from .fakes import bounded
from .fakes.scripted_http import (
    Recorded,
    Reply,
    ScriptedServer,
    answer_to,
    error_to,
    json_reply,
)
from .fakes.scripted_memory import LEGACY, Fault, Incoming, scripted
from .fakes.witnesses import Events, Updates, echo

URI = "demo://greeting"


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the pauses between attempts and restarts to a minimum."""
    monkeypatch.setattr("mcpsync._retries._DELAYS", (0.0, 0.0))
    monkeypatch.setattr("mcpsync._connection._BACK_OFF", (0.0, 0.01, 0.02))


def test_a_forgotten_session_is_renewed() -> None:
    events, updates = Events(), Updates()
    logged: List[str] = []
    with serve("http", era="legacy") as server:
        with mcpsync.connect(
            server.target,
            name="web",
            hooks=[events],
            on_notification=updates,
            on_log=lambda message: logged.append(message.data),
            log_level="debug",
        ) as client:
            client.subscribe_resource(URI)
            server.http.expire_sessions()
            assert echo(client)
            assert events.seen == [ConnectionRenewed("web")]
            # The new session knows what the old one was told.
            client.call_tool("log", {"message": "fine", "level": "debug"})
            assert logged == ["fine"]
            client.call_tool("touch")
            assert updates.told.wait(5)
            client.set_log_level("error")
            server.http.expire_sessions()
            client.call_tool("log", {"message": "too little", "level": "info"})
            assert logged == ["fine"] and len(events.seen) == 2


def test_whatever_goes_out_renews_the_session() -> None:
    events = Events()
    with serve("http", era="legacy") as server:
        with mcpsync.connect(server.target, hooks=[events], roots=[]) as client:
            for action in (
                client.ping,
                client.list_tools,
                client.notify_roots_changed,
                lambda: client.notify("notifications/of/ours"),
                lambda: client.subscribe_resource(URI),
                lambda: list(client.iter_prompts()),
            ):
                server.http.expire_sessions()
                action()
        assert len(events.seen) == 6
    assert server.http.stats["deleted_sessions"] == 1


def test_callers_at_once_renew_once() -> None:
    events = Events()
    with serve("http", era="legacy") as server:
        with mcpsync.connect(server.target, hooks=[events]) as client:
            server.http.expire_sessions()
            with ThreadPoolExecutor(6) as pool:
                assert all(pool.map(lambda _: echo(client), range(6)))
            assert len(events.seen) == 1
            assert server.http.stats["sessions"] == 1


class Office:
    """An HTTP server with one session, whose handshakes can be held up or refused."""

    def __init__(self) -> None:
        self.session = "session-1"
        self.down = False
        self.gate = threading.Event()
        self.gate.set()

    def __call__(self, request: Recorded) -> Reply:
        method = request.rpc_method
        if method in (None, "server/discover"):
            return Reply(405)
        if method == "initialize":
            return self._initialize(request)
        given = request.headers["Mcp-Session-Id"]
        if given != self.session:
            return Reply(400 if given is None else 404)
        if "id" not in request.json:
            return Reply(202)
        return json_reply(answer_to(request, {"content": []}))

    def _initialize(self, request: Recorded) -> Reply:
        self.gate.wait(5)
        if self.down:
            return Reply(500, {}, b"down")
        result = {
            "protocolVersion": LEGACY,
            "capabilities": {},
            "serverInfo": {"name": "office", "version": "1"},
        }
        headers = {"Mcp-Session-Id": self.session}
        return json_reply(answer_to(request, result), headers=headers)


def test_a_renewal_that_failed_is_not_the_last() -> None:
    office, events = Office(), Events()
    with ScriptedServer(office) as server:
        with mcpsync.connect(server.url, timeout=5, hooks=[events]) as client:
            office.session, office.down = "session-2", True
            for _ in range(2):
                with pytest.raises(mcpsync.HTTPStatusError) as caught:
                    client.call_tool("x")
                assert caught.value.status == 500
            assert events.seen == []
            office.down = False
            assert client.call_tool("x").content == []
            assert client.call_tool("x").content == []
            assert len(events.seen) == 1


def test_nobody_goes_without_a_session_during_a_renewal() -> None:
    office = Office()
    with ScriptedServer(office) as server, ThreadPoolExecutor(4) as pool:
        with mcpsync.connect(server.url, timeout=5) as client:
            before = len(server.of("initialize"))
            office.session = "session-2"
            office.gate.clear()
            calls = [pool.submit(client.call_tool, "x")]
            server.await_requests(before + 1, "initialize")
            calls += [pool.submit(client.call_tool, "x") for _ in range(3)]
            # They have nothing to send yet.
            time.sleep(0.1)
            office.gate.set()
            for call in calls:
                assert call.result(timeout=5).content == []
            sent = {one.headers["Mcp-Session-Id"] for one in server.of("tools/call")}
            assert sent == {"session-1", "session-2"}


def test_closing_during_a_renewal() -> None:
    office = Office()
    with ScriptedServer(office) as server, ThreadPoolExecutor(4) as pool:
        client = mcpsync.connect(server.url, timeout=20)
        before = len(server.of("initialize"))
        office.session = "session-2"
        office.gate.clear()
        calls = [pool.submit(client.call_tool, "x")]
        server.await_requests(before + 1, "initialize")
        # One renews, and others wait for that.
        calls += [pool.submit(client.call_tool, "x") for _ in range(3)]
        bounded(client.close)
        for call in calls:
            with pytest.raises(mcpsync.ClientClosed):
                call.result(timeout=5)
        office.gate.set()


def test_a_hook_may_use_the_client_that_was_renewed() -> None:
    class Curious(Events):
        def on_event(self, event: Any) -> None:
            super().on_event(event)
            if isinstance(event, ConnectionRenewed):
                client.subscribe_resource(URI)
                assert echo(client)

    events = Curious()
    with serve("http", era="legacy") as server:
        with mcpsync.connect(
            server.target, hooks=[events], startup_timeout=5
        ) as client:
            server.http.expire_sessions()
            assert echo(client)
    assert len(events.seen) == 1


def test_waiting_for_another_s_renewal_has_an_end() -> None:
    office = Office()
    with ScriptedServer(office) as server, ThreadPoolExecutor(1) as pool:
        with mcpsync.connect(server.url, timeout=20, startup_timeout=0.3) as client:
            before = len(server.of("initialize"))
            office.session = "session-2"
            office.gate.clear()
            renewing = pool.submit(client.call_tool, "x")
            server.await_requests(before + 1, "initialize")
            with pytest.raises(mcpsync.RequestTimeout, match="still connecting") as got:
                client.call_tool("x")
            assert got.value.kind == "connect" and got.value.server == client.name
            office.gate.set()
            assert renewing.result(timeout=5).content == []


def test_a_notification_to_a_session_that_never_lasts() -> None:
    office = Office()

    def forgetful(request: Recorded) -> Reply:
        if request.rpc_method == "notifications/of/ours":
            return Reply(404)
        return office(request)

    with ScriptedServer(forgetful) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            with pytest.raises(mcpsync.SessionExpired) as caught:
                client.notify("notifications/of/ours")
            assert caught.value.method == "notifications/of/ours"
            assert len(server.of("notifications/of/ours")) == 2


def test_what_cannot_be_repeated_is_no_reason_to_give_up(
    caplog: pytest.LogCaptureFixture,
) -> None:
    def initialize(incoming: Incoming) -> Dict[str, Any]:
        return {
            "protocolVersion": LEGACY,
            "capabilities": {"resources": {"subscribe": True}, "logging": {}},
            "serverInfo": {"name": "s", "version": "1"},
        }

    refuse: List[bool] = []
    expired: List[bool] = []

    def picky(incoming: Incoming) -> Any:
        return Fault(-32002, "gone by now") if refuse else {}

    def call(incoming: Incoming) -> Any:
        if expired:
            expired.pop()
            return Fault(-32022, "again", {"supported": [LEGACY]})
        return {"content": []}

    methods = {
        "initialize": initialize,
        "resources/subscribe": picky,
        "logging/setLevel": picky,
        "tools/call": call,
    }
    with scripted(methods, version=LEGACY) as server:
        with mcpsync.connect(
            server.transport, protocol="legacy", timeout=5, log_level="info"
        ) as client:
            client.subscribe_resource("x:y")
            refuse.append(True)
            expired.append(True)
            # The server was renewed, and no longer has what was subscribed to.
            assert client.call_tool("x").content == []
            assert client.call_tool("x").content == []
    assert "gone by now" in caplog.text


def test_a_session_that_is_forgotten_again_and_again() -> None:
    office = Office()

    def forgetful(request: Recorded) -> Reply:
        if request.rpc_method == "tools/call":
            return Reply(404)
        return office(request)

    with ScriptedServer(forgetful) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            with pytest.raises(mcpsync.SessionExpired) as caught:
                client.call_tool("x")
            assert caught.value.method == "tools/call"
            assert len(server.of("tools/call")) == 2
            client.ping()


def test_a_404_without_a_session_is_what_it_says() -> None:
    def script(request: Recorded) -> Reply:
        if request.rpc_method == "server/discover":
            result = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
            return json_reply(answer_to(request, result))
        return json_reply(error_to(request, -32601), status=404)

    with ScriptedServer(script) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            with pytest.raises(mcpsync.MethodNotFound):
                client.call_tool("x")
            assert len(server.of("server/discover")) == 1
