"""Resource subscriptions, the same in both eras."""

from __future__ import annotations

import gc
import queue
import threading
from typing import Any, Iterator, List, Tuple

import pytest

import mcpsync
from mcpsync.testing import KINDS, serve

URI = "demo://greeting"

Updates = "queue.Queue[str]"


@pytest.fixture(params=KINDS)
def kind(request: Any) -> str:
    return str(request.param)


@pytest.fixture(params=("auto", "legacy"))
def subscribed(kind: str, request: Any) -> Iterator[Tuple[mcpsync.Client, Any]]:
    """A client, and a queue of the URIs that it was told about."""
    updates: "queue.Queue[str]" = queue.Queue()

    def note(notification: mcpsync.types.ServerNotification) -> None:
        if notification.method == "notifications/resources/updated":
            updates.put(notification.params["uri"])

    with serve(kind) as server:
        with mcpsync.connect(
            server.target, protocol=request.param, on_notification=note
        ) as client:
            yield client, updates


def test_updates_come_until_the_subscription_ends(subscribed: Any) -> None:
    client, updates = subscribed
    client.subscribe_resource(URI, timeout=5)
    client.call_tool("touch")
    assert updates.get(timeout=5) == URI

    client.unsubscribe_resource(URI, timeout=5)
    client.call_tool("touch")
    # Anything about the second touch would have to come before this answer's log.
    client.ping(timeout=5)
    assert updates.empty()


def test_subscribing_twice_is_one_subscription(subscribed: Any) -> None:
    client, updates = subscribed
    client.subscribe_resource(URI, timeout=5)
    client.subscribe_resource(URI, timeout=5)
    client.call_tool("touch")
    assert updates.get(timeout=5) == URI
    client.unsubscribe_resource(URI)
    client.unsubscribe_resource(URI)


def test_a_forgotten_client_leaves_no_subscription(kind: str) -> None:
    def listening() -> List[str]:
        return [
            thread.name
            for thread in threading.enumerate()
            if thread.name.startswith("mcpsync-listen")
        ]

    with serve(kind) as server:
        client = mcpsync.connect(server.target)
        client.subscribe_resource(URI, timeout=5)
        threads = [
            thread
            for thread in threading.enumerate()
            if thread.name.startswith("mcpsync-listen")
        ]
        assert threads or kind == "sse"  # legacy there: updates come unasked
        transport = client._connector.transport
        del client, transport
        if isinstance(server.target, mcpsync.Transport):
            server.target.close()
        gc.collect()
        for thread in threads:
            thread.join(5)
        assert listening() == []


def test_a_server_without_subscriptions_is_not_asked() -> None:
    def serve_one(message: Any, send: Any) -> None:
        if message["method"] == "server/discover":
            result = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
            send({"jsonrpc": "2.0", "id": message["id"], "result": result})
        else:
            raise AssertionError(message)

    transport = mcpsync.testing.MemoryTransport(serve_one)
    with mcpsync.connect(transport) as client:
        with pytest.raises(mcpsync.CapabilityMissing, match="resources.subscribe"):
            client.subscribe_resource("demo://x")


def test_a_refused_subscription_raises_what_the_server_said() -> None:
    def serve_one(message: Any, send: Any) -> None:
        if message["method"] == "server/discover":
            result = {
                "supportedVersions": ["2026-07-28"],
                "capabilities": {"resources": {"subscribe": True}},
            }
            send({"jsonrpc": "2.0", "id": message["id"], "result": result})
        else:
            error = {"code": -32602, "message": "no such thing"}
            send({"jsonrpc": "2.0", "id": message["id"], "error": error})

    transport = mcpsync.testing.MemoryTransport(serve_one)
    with mcpsync.connect(transport) as client:
        with pytest.raises(mcpsync.InvalidParams, match="no such thing"):
            client.subscribe_resource("demo://x", timeout=5)
