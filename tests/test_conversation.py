"""What is said about a request between its sending and its answer."""

from __future__ import annotations

import logging
import queue
import threading
from typing import Any, Dict, Iterator, List, Optional

import pytest

import mcpsync
from mcpsync import Limits, SSETransport

from .fakes.scripted_http import (
    Recorded,
    Reply,
    ScriptedServer,
    answer_to,
    event,
    json_reply,
    sse_reply,
)
from .fakes.scripted_memory import LEGACY, NO_ANSWER, Fault, Incoming, scripted
from .fakes.web import DONE, INITIALIZED, web

REGION = {
    "name": "x",
    "inputSchema": {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    },
}


def test_the_answer_and_the_timeout_at_once() -> None:
    def call(incoming: Incoming) -> Dict[str, Any]:
        incoming.server.stopped.wait(0.01)
        number = incoming.params["arguments"]["n"]
        return {"content": [], "structuredContent": {"n": number}}

    outcomes = set()
    with scripted({"tools/call": call}) as server:
        with mcpsync.connect(server.transport) as client:
            for number in range(60):
                limit = 0.009 + 0.0001 * (number % 20)
                try:
                    result = client.call_tool("x", {"n": number}, timeout=limit)
                except mcpsync.RequestTimeout:
                    outcomes.add("timeout")
                else:
                    # Nobody gets what was meant for a call that had given up.
                    assert result.data == {"n": number}
                    outcomes.add("answer")
            result = client.call_tool("x", {"n": "last"}, timeout=5)
            assert result.data == {"n": "last"}
    assert outcomes


@pytest.mark.parametrize(
    "limit, expected", [(0.05, "timed out"), (None, "interrupted by the user")]
)
def test_the_server_is_told_why(limit: Optional[float], expected: str) -> None:
    def call(incoming: Incoming) -> Any:
        incoming.progress(1)
        return NO_ANSWER

    def on_progress(*args: object) -> None:
        if limit is None:
            raise KeyboardInterrupt

    with scripted({"tools/call": call}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            with pytest.raises((mcpsync.RequestTimeout, KeyboardInterrupt)):
                client.call_tool("x", timeout=limit, on_progress=on_progress)
            (notice,) = server.await_messages("notifications/cancelled")
            assert notice["params"]["reason"] == expected
            assert notice["params"]["requestId"] == server.of("tools/call")[0]["id"]


def test_a_late_answer_is_nobody_s() -> None:
    late: List[Incoming] = []

    def call(incoming: Incoming) -> Any:
        if late:
            # The answer to the one before comes first.
            reply = {"jsonrpc": "2.0", "id": late[0].id, "result": {"content": 5}}
            incoming.server.transport.say(reply)
            return DONE
        late.append(incoming)
        return NO_ANSWER

    with scripted({"tools/call": call}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            with pytest.raises(mcpsync.RequestTimeout):
                client.call_tool("x", timeout=0.02)
            assert client.call_tool("x").content == []


@pytest.mark.parametrize("stranger", [999, "1", 1.5, True, "", -1])
def test_answers_to_nothing(stranger: Any) -> None:
    def call(incoming: Incoming) -> Dict[str, Any]:
        say = incoming.server.transport.say
        try:
            say({"jsonrpc": "2.0", "id": stranger, "result": {"content": 5}})
        except mcpsync.InvalidMessage:
            # No id at all; what the transport makes of that is its own affair.
            pass
        return DONE

    with scripted({"tools/call": call}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            assert client.call_tool("x").content == []


class Reports:
    """Keeps the progress of a call."""

    def __init__(self) -> None:
        self.seen: List[Any] = []

    def __call__(
        self, progress: float, total: Optional[float], message: Optional[str]
    ) -> None:
        self.seen.append((progress, total, message))


def report(*params: Dict[str, Any], **limits: Any) -> List[Any]:
    """Return what on_progress is told when the server reports this."""

    def call(incoming: Incoming) -> Dict[str, Any]:
        for one in params:
            incoming.progress(**one)
        return DONE

    reports = Reports()
    with scripted({"tools/call": call}) as server:
        with mcpsync.connect(
            server.transport, timeout=5, limits=Limits(**limits)
        ) as client:
            client.call_tool("x", on_progress=reports)
    return reports.seen


def test_progress_of_all_kinds() -> None:
    seen = report(
        {"progress": 1, "total": 10, "message": "a"},
        {"progress": 0.5},
        {"progress": 2, "total": "ten", "message": 5},
        {"progress": "three"},
        {"progress": True},
        {"progress": None},
        progress_per_second=1e9,
    )
    # What makes no sense is left out; what goes backwards is not.
    assert seen == [(1, 10, "a"), (0.5, None, None), (2, None, None)]


def test_a_flood_of_progress() -> None:
    seen = report(*({"progress": step} for step in range(2000)))
    assert seen[0][0] == 0 and seen[-1][0] == 1999
    assert len(seen) < 200


def test_progress_of_somebody_else() -> None:
    def call(incoming: Incoming) -> Dict[str, Any]:
        for token in (999, "x", None, True):
            params = {"progressToken": token, "progress": 5}
            incoming.note("notifications/progress", params)
        incoming.note("notifications/progress")
        return DONE

    reports = Reports()
    with scripted({"tools/call": call}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            client.call_tool("x", on_progress=reports)
    assert reports.seen == []


def test_a_token_is_sent_to_those_who_want_progress() -> None:
    with scripted({"tools/call": lambda incoming: DONE}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            client.call_tool("x")
            client.call_tool("x", on_progress=Reports())
            client.call_tool("x", timeout=mcpsync.Timeout(idle=5))
            metas = [m["params"]["_meta"] for m in server.of("tools/call")]
    assert ["progressToken" in meta for meta in metas] == [False, True, True]


@pytest.mark.parametrize("version", ["2026-07-28", LEGACY])
def test_the_caller_s_own_meta(version: str) -> None:
    meta = {
        "traceparent": "00-1-2-01",
        "io.modelcontextprotocol/protocolVersion": "forged",
    }
    with scripted({"tools/call": lambda incoming: DONE}, version=version) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            client.call_tool("x", meta=meta)
            client.request("tools/call", {"name": "x", "_meta": {"own": 1}})
            first, second = (m["params"]["_meta"] for m in server.of("tools/call"))
    assert first["traceparent"] == "00-1-2-01" and second["own"] == 1
    if version == "2026-07-28":
        # What the protocol says about the request is not the caller's to say.
        assert first["io.modelcontextprotocol/protocolVersion"] == version


def test_everything_else_on_the_stream(caplog: pytest.LogCaptureFixture) -> None:
    told: List[Any] = []
    arrived = threading.Event()

    def notified(notification: Any) -> None:
        told.append((notification.method, threading.current_thread().name))
        arrived.set()

    def call(request: Recorded) -> Reply:
        return sse_reply(
            {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"},
            answer_to(request, DONE),
        )

    with web({"tools/call": call}) as server:
        with mcpsync.connect(
            server.url, timeout=5, on_notification=notified, name="web"
        ) as client:
            client.call_tool("x")
            assert arrived.wait(5)
    assert told == [("notifications/tools/list_changed", "mcpsync-notifications-web")]
    assert not [one for one in caplog.records if one.levelno >= logging.WARNING]


def test_a_ping_on_the_stream() -> None:
    pong: List[Any] = []
    answered = threading.Event()

    def reply(request: Recorded) -> Reply:
        return sse_reply(
            {"jsonrpc": "2.0", "id": "ping-1", "method": "ping"},
            answered,
            answer_to(request, DONE),
        )

    def take(request: Recorded) -> Reply:
        # The one message that is neither a request nor a notification.
        pong.append(request.json)
        answered.set()
        return Reply(202)

    with web({"tools/call": reply, "POST": take}, session=True) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            client.call_tool("x")
    assert pong == [{"jsonrpc": "2.0", "id": "ping-1", "result": {}}]


def test_tools_that_http_cannot_call(caplog: pytest.LogCaptureFixture) -> None:
    bad = {
        "name": "bad",
        "inputSchema": {
            "type": "object",
            "properties": {"a": {"type": "string", "x-mcp-header": "not a name"}},
        },
    }

    def listing(request: Recorded) -> Reply:
        return json_reply(answer_to(request, {"tools": [REGION, bad]}))

    with web({"tools/list": listing}) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            assert [tool.name for tool in client.list_tools()] == ["x"]
            page = client.list_tools_page()
            assert [index for index, _ in page.invalid] == [1]
    assert "'bad' is left out" in caplog.text
    # Everywhere else there are no headers, and nothing is wrong with it.
    methods = {"tools/list": lambda incoming: {"tools": [REGION, bad]}}
    with scripted(methods) as server_in_memory:
        with mcpsync.connect(server_in_memory.transport, timeout=5) as client:
            assert [tool.name for tool in client.list_tools()] == ["x", "bad"]


def test_too_many_requests_at_once() -> None:
    gate = threading.Event()

    def call(incoming: Incoming) -> Dict[str, Any]:
        incoming.hold(gate)
        return DONE

    # The transport is the one to count, and it was given the limit.
    with scripted({"tools/call": call}) as server:
        server.transport.limits = Limits(pending_requests=3)
        with mcpsync.connect(server.transport, timeout=5) as client:
            calls = [client.start_call("x") for _ in range(3)]
            server.await_messages("tools/call", 3)
            with pytest.raises(mcpsync.LocalProtocolError, match="3 requests") as got:
                client.call_tool("x")
            assert (got.value.server, got.value.method) == ("scripted", "tools/call")
            gate.set()
            for one in calls:
                one.result(timeout=5)
            client.call_tool("x")


def test_a_scripted_fault_keeps_its_data() -> None:
    data = {"detail": ["a", 1]}
    failing = {"tools/call": lambda incoming: Fault(-32099, "odd", data)}
    with scripted(failing) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            with pytest.raises(mcpsync.ServerError, match="-32099: odd") as caught:
                client.call_tool("x")
    assert (caught.value.code, caught.value.data) == (-32099, data)


class OldServer:
    """An HTTP+SSE server (2024-11-05) that takes its time over one message."""

    def __init__(self) -> None:
        self._events: "queue.Queue[bytes]" = queue.Queue()
        self.slow = threading.Event()
        self.server = ScriptedServer(self._script)

    def _stream(self) -> Iterator[bytes]:
        yield event("/messages", event="endpoint")
        while not self.server.stopped.is_set():
            try:
                yield self._events.get(timeout=0.05)
            except queue.Empty:
                continue

    def _script(self, request: Recorded) -> Reply:
        if request.method == "GET":
            return Reply(200, {"Content-Type": "text/event-stream"}, self._stream())
        if "messages" not in request.path:
            return Reply(405)
        if request.rpc_method == "initialize":
            self._events.put(event(answer_to(request, INITIALIZED), event="message"))
        elif request.rpc_method == "tools/call":
            self.slow.wait(5)
        return Reply(202)


def test_a_timeout_while_it_is_sent_is_told_as_well() -> None:
    old = OldServer()
    with old.server as server:
        with mcpsync.connect(SSETransport(server.url), timeout=5) as client:
            with pytest.raises(mcpsync.RequestTimeout):
                client.call_tool("x", timeout=0.1)
            # The server has read it, and is at work.
            (notice,) = server.await_requests(1, "notifications/cancelled")
            (sent,) = server.of("tools/call")
            assert notice.json["params"]["requestId"] == sent.json["id"]
            old.slow.set()
