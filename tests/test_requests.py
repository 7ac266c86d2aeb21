"""What is repeated when an attempt fails, and what never is."""

from __future__ import annotations

import threading
import time
from typing import Any, Dict, Iterator, List

import pytest

import mcpsync

from .fakes.scripted_http import (
    Break,
    Recorded,
    Reply,
    answer_to,
    json_reply,
    sse_reply,
)
from .fakes.stdio_server import python_server
from .fakes.web import DISCOVERED, Answer, done, fault, in_turn, status, web


@pytest.fixture
def fast_clock(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Keep the pauses between attempts to a minimum."""
    monkeypatch.setattr("mcpsync._retries._DELAYS", (0.0, 0.0))
    yield


@pytest.mark.parametrize("code", [408, 429, 500, 503])
@pytest.mark.parametrize("rpc", [False, True])
def test_a_busy_server_is_asked_for_its_tools_again(
    fast_clock: None, code: int, rpc: bool
) -> None:
    busy = fault(-32603, http=code) if rpc else status(code, retry_after="0")
    listing = in_turn(
        busy, busy, lambda request: json_reply(answer_to(request, {"tools": []}))
    )
    with web({"tools/list": listing}) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            assert client.list_tools() == []
            assert len(server.of("tools/list")) == 3


def test_it_is_asked_three_times_and_no_more() -> None:
    with web({"tools/list": status(503, retry_after="0")}) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            with pytest.raises(mcpsync.HTTPStatusError) as caught:
                client.list_tools()
            assert caught.value.status == 503 and caught.value.retry_after == 0
            assert caught.value.method == "tools/list"
            assert len(server.of("tools/list")) == 3


def test_never_beyond_the_deadline() -> None:
    with web({"tools/list": status(503, retry_after="100")}) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            began = time.monotonic()
            with pytest.raises(mcpsync.HTTPStatusError):
                client.list_tools()
            assert time.monotonic() - began < 4
            assert len(server.of("tools/list")) == 1


@pytest.mark.parametrize("code", [400, 404, 418])
def test_what_is_no_matter_of_time(code: int) -> None:
    with web({"tools/list": status(code)}) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            with pytest.raises(mcpsync.HTTPStatusError):
                client.list_tools()
            assert len(server.of("tools/list")) == 1


def test_a_tool_is_never_called_again_by_itself() -> None:
    methods = {
        "tools/call": status(503, retry_after="0"),
        "prompts/list": status(503, retry_after="0"),
    }
    with web(methods) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            for retry in (False, True):
                with pytest.raises(mcpsync.HTTPStatusError):
                    client.call_tool("x", retry=retry)
            with pytest.raises(mcpsync.HTTPStatusError):
                client.list_prompts()
            assert len(server.of("tools/call")) == 2
            assert len(server.of("prompts/list")) == 1


def test_a_pause_can_be_cut_short() -> None:
    with web({"tools/list": status(503, retry_after="20")}) as server:
        client = mcpsync.connect(server.url, timeout=60)
        failures: List[BaseException] = []

        def listing() -> None:
            try:
                client.list_tools()
            except BaseException as error:
                failures.append(error)

        thread = threading.Thread(target=listing)
        thread.start()
        server.await_requests(1, "tools/list")
        client.close()
        thread.join(5)
        assert [type(error) for error in failures] == [mcpsync.ClientClosed]


def dropped(request: Recorded) -> Reply:
    """Break off in the middle: nobody knows whether the tool ran."""

    def broken() -> None:
        raise Break

    return sse_reply({"jsonrpc": "2.0", "method": "notifications/x"}, broken)


def listed(**annotations: Any) -> Answer:
    tool: Dict[str, Any] = {"name": "x", "inputSchema": {"type": "object"}}
    tool["annotations"] = annotations
    return lambda request: json_reply(answer_to(request, {"tools": [tool]}))


@pytest.mark.parametrize(
    "annotations, listing, retry, calls",
    [
        ({"idempotentHint": True}, True, True, 2),
        ({"readOnlyHint": True}, True, True, 2),
        # Each of these alone is not enough.
        ({"idempotentHint": True}, True, False, 1),
        ({"idempotentHint": True}, False, True, 1),
        ({"destructiveHint": False}, True, True, 1),
        ({}, True, True, 1),
    ],
)
def test_a_call_of_unknown_fate(
    annotations: Dict[str, Any], listing: bool, retry: bool, calls: int
) -> None:
    methods = {
        "tools/list": listed(**annotations),
        "tools/call": in_turn(dropped, done),
    }
    with web(methods) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            if listing:
                client.list_tools()
            if calls == 2:
                client.call_tool("x", retry=retry)
            else:
                with pytest.raises(mcpsync.ConnectionLost) as caught:
                    client.call_tool("x", retry=retry)
                assert caught.value.sent is True
            assert len(server.of("tools/call")) == calls
            client.call_tool("x")


def test_a_repeat_is_made_once() -> None:
    methods = {"tools/list": listed(readOnlyHint=True), "tools/call": dropped}
    with web(methods) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            client.list_tools()
            with pytest.raises(mcpsync.ConnectionLost):
                client.call_tool("x", retry=True)
            assert len(server.of("tools/call")) == 2


@pytest.mark.parametrize("retry, outcome", [(True, "ok"), (False, "exited")])
def test_a_server_that_dies_in_a_call(retry: bool, outcome: str, tmp_path: Any) -> None:
    died = tmp_path / "died"
    argv = python_server("""
        def call(params):
            if not os.path.exists(%r):
                open(%r, "w").close()
                sys.exit(3)
            return text("ok")
        tool = {"name": "x", "inputSchema": {"type": "object"},
                "annotations": {"readOnlyHint": True}}
        shake_hands()
        serve({"tools/list": lambda params: {"tools": [tool]}, "tools/call": call})
        """ % (str(died), str(died)))
    with mcpsync.connect(argv, timeout=10) as client:
        client.list_tools()
        if outcome == "ok":
            assert client.call_tool("x", retry=retry).text == "ok"
        else:
            with pytest.raises(mcpsync.ServerExited) as caught:
                client.call_tool("x", retry=retry)
            assert caught.value.returncode == 3
            assert client.call_tool("x").text == "ok"


REGION = {
    "name": "x",
    "inputSchema": {
        "type": "object",
        "properties": {"region": {"type": "string", "x-mcp-header": "Region"}},
    },
}


def region_tool(request: Recorded) -> Reply:
    return json_reply(answer_to(request, {"tools": [REGION]}))


def wants_region(request: Recorded) -> Reply:
    if request.headers["Mcp-Param-Region"] != "eu":
        return fault(-32020)(request)
    return done(request)


def test_headers_that_do_not_match_are_made_anew() -> None:
    methods = {"tools/list": region_tool, "tools/call": wants_region}
    with web(methods) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            # Never listed: the first attempt knows of no header.
            client.call_tool("x", {"region": "eu"})
            methods_seen = [request.rpc_method for request in server.requests[1:]]
            assert methods_seen == ["tools/call", "tools/list", "tools/call"]
            # From here on it is known.
            client.call_tool("x", {"region": "eu"})
            assert len(server.of("tools/call")) == 3


def test_headers_that_never_match() -> None:
    methods = {"tools/list": region_tool, "tools/call": fault(-32020)}
    with web(methods) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            with pytest.raises(mcpsync.HeaderMismatch) as caught:
                client.call_tool("x", {"region": "eu"})
            assert caught.value.method == "tools/call"
            assert len(server.of("tools/list")) == 1
            assert len(server.of("tools/call")) == 2


def test_a_version_that_is_no_longer_spoken() -> None:
    refused = fault(-32022, data={"supported": ["2026-07-28"]})
    with web({"tools/call": in_turn(refused, done)}) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            client.call_tool("x")
            assert len(server.of("server/discover")) == 2
            assert len(server.of("tools/call")) == 2


def test_a_version_that_is_never_spoken() -> None:
    refused = fault(-32022, data={"supported": ["2026-07-28"]})
    with web({"tools/call": refused}) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            with pytest.raises(mcpsync.UnsupportedProtocolVersion):
                client.call_tool("x")
            assert len(server.of("server/discover")) == 2
            assert len(server.of("tools/call")) == 2
            client.ping()


@pytest.mark.parametrize("session", [False, True])
def test_a_refused_login_is_the_end_of_it(session: bool) -> None:
    methods = {"tools/call": status(401)}
    with web(methods, session=session) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            with pytest.raises(mcpsync.LoginRequired):
                client.call_tool("x")
            # There is nothing to cancel.
            assert server.of("notifications/cancelled") == []


def test_the_handshake_is_repeated_as_well(fast_clock: None) -> None:
    busy = in_turn(
        status(503),
        status(429),
        lambda request: json_reply(answer_to(request, DISCOVERED)),
    )
    with web({"server/discover": busy, "tools/call": done}) as server:
        with mcpsync.connect(server.url, timeout=5) as client:
            client.call_tool("x")
            assert len(server.of("server/discover")) == 3
            assert server.of("initialize") == []
