"""What mcpsync.testing offers to the tests of other programs."""

from __future__ import annotations

import threading
from typing import Any, List, Mapping

import pytest

import mcpsync
from mcpsync.testing import KINDS, MemoryTransport, serve
from mcpsync.transports.base import Transport


def test_the_example_of_the_docstring() -> None:
    with serve("http") as server:
        with mcpsync.connect(server.target) as client:
            assert client.tools.add(a=1, b=2).data == {"sum": 3}


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind(kind: str) -> None:
    with serve(kind) as server:
        assert server.kind == kind
        assert (server.http is not None) == (kind in ("http", "sse"))
        with mcpsync.connect(server.target) as client:
            assert client.call_tool("add", {"a": 1, "b": 2}).data == {"sum": 3}


@pytest.mark.parametrize("kind", KINDS)
def test_one_legacy_version(kind: str) -> None:
    with serve(kind, era="legacy", protocol="2025-03-26", page_size=2) as server:
        with mcpsync.connect(server.target) as client:
            assert client.protocol_version == "2025-03-26"
            assert len(client.list_tools_page().tools) == 2


@pytest.mark.parametrize("kind", ["stdio", "http", "memory"])
def test_a_modern_server(kind: str) -> None:
    with serve(kind, era="modern") as server:
        with mcpsync.connect(server.target) as client:
            assert client.protocol_version == "2026-07-28"
    with serve(kind, era="modern") as server:
        with pytest.raises(mcpsync.MCPError):
            mcpsync.connect(server.target, protocol="legacy", startup_timeout=5)


def test_an_unknown_kind() -> None:
    with pytest.raises(mcpsync.ConfigError, match="stdio, http, sse, memory"):
        with serve("pigeon"):
            raise AssertionError("it was served")


def test_several_clients_of_one_url() -> None:
    with serve("http") as server:
        with mcpsync.connect(server.target) as one:
            with mcpsync.connect(server.target) as other:
                one.call_tool("add", {"a": 1, "b": 2})
                assert other.call_tool("stats").data["calls"] == 1
        assert server.http.stats["calls"] == 1


def test_a_server_of_a_function() -> None:
    heard: List[Mapping[str, Any]] = []

    def answer(message: Mapping[str, Any], send: Any) -> None:
        heard.append(message)
        if message["method"] == "server/discover":
            result = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
            send({"jsonrpc": "2.0", "id": message["id"], "result": result})
        elif message["method"] == "tools/call":
            result = {"content": [{"type": "text", "text": "hello"}]}
            send({"jsonrpc": "2.0", "id": message["id"], "result": result})

    transport = MemoryTransport(answer, name="tiny")
    assert isinstance(transport, Transport) and transport.name == "tiny"
    with mcpsync.connect(transport) as client:
        assert client.call_tool("greet").text == "hello"
    assert [message["method"] for message in heard] == ["server/discover", "tools/call"]
    assert heard[1]["params"]["name"] == "greet"


def test_what_a_function_is_given_is_json() -> None:
    arguments = {"a": (1, 2), "b": {"c": "\u00e9"}}
    heard: List[Any] = []

    def answer(message: Mapping[str, Any], send: Any) -> None:
        result: Mapping[str, Any] = {"content": []}
        if message["method"] == "server/discover":
            result = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
        else:
            heard.append(message["params"]["arguments"])
        send({"jsonrpc": "2.0", "id": message["id"], "result": result})

    with mcpsync.connect(MemoryTransport(answer)) as client:
        client.call_tool("x", arguments)
    assert heard == [{"a": [1, 2], "b": {"c": "\u00e9"}}]


def test_a_function_speaks_unasked() -> None:
    told = threading.Event()

    def answer(message: Mapping[str, Any], send: Any) -> None:
        result = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
        send({"jsonrpc": "2.0", "id": message["id"], "result": result})

    def on_notification(notification: mcpsync.types.ServerNotification) -> None:
        if notification.params == {"a": 1}:
            told.set()

    transport = MemoryTransport(answer)
    with mcpsync.connect(transport, on_notification=on_notification):
        transport.say({"jsonrpc": "2.0", "method": "x/y", "params": {"a": 1}})
        assert told.wait(5)
    # Nobody hears it any more, and nothing happens.
    transport.say({"jsonrpc": "2.0", "method": "x/y"})


def test_a_transport_that_is_not_open() -> None:
    from mcpsync._deadline import Deadline
    from mcpsync.protocol.jsonrpc import Outgoing

    transport = MemoryTransport(lambda message, send: None)
    with pytest.raises(mcpsync.LocalProtocolError, match="not open"):
        transport.begin(Outgoing(1, "x", b"{}"), Deadline.after(1))
    with pytest.raises(mcpsync.LocalProtocolError, match="not open"):
        transport.send(Outgoing(None, "x", b"{}"), Deadline.after(1))
    transport.close()
    transport.close()


def test_an_answer_that_is_none_fails_its_own_call() -> None:
    def answer(message: Mapping[str, Any], send: Any) -> None:
        reply = {"jsonrpc": "2.0", "id": message["id"]}
        if message["method"] == "server/discover":
            result = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
            send({**reply, "result": result})
        elif message["method"] == "tools/call":
            send({**reply, "result": {}, "error": {"code": 1, "message": "x"}})
        else:
            send({**reply, "result": {"prompts": []}})

    with mcpsync.connect(MemoryTransport(answer), timeout=3) as client:
        with pytest.raises(mcpsync.InvalidMessage, match="both a result and an error"):
            client.call_tool("x")
        assert client.list_prompts() == []


def test_a_function_that_fails_fails_its_own_call() -> None:
    def answer(message: Mapping[str, Any], send: Any) -> None:
        if message["method"] != "server/discover":
            raise ZeroDivisionError("a bug in the script")
        result = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
        send({"jsonrpc": "2.0", "id": message["id"], "result": result})

    with mcpsync.connect(MemoryTransport(answer), timeout=3) as client:
        with pytest.raises(mcpsync.MCPError) as caught:
            client.call_tool("x")
        # At once, and not when the call's time is over.
        assert not isinstance(caught.value, mcpsync.RequestTimeout)
        # Nor does what happens on the server's side come out of a notification.
        client.notify("notifications/of/ours")
