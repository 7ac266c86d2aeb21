"""The demo server over Streamable HTTP as of 2026-07-28."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json

import pytest

from mcpsync.demo import serve_http

from .speaking import (
    MODERN,
    PREFIX,
    call,
    connection,
    initialize,
    listen,
    modern,
    modern_call,
    modern_headers,
    open_session,
    post,
    request,
    until,
)


def test_modern_http_answers_with_json_or_a_stream(server, client):
    assert server.url == f"http://127.0.0.1:{server.port}/mcp"
    reply = post(client, modern(1, "server/discover"))
    assert reply.status == 200 and not reply.is_stream
    assert reply.json()["result"]["supportedVersions"][0] == MODERN
    reply = post(client, modern_call(2, "echo", {"message": "hi"}))
    assert not reply.is_stream and "Mcp-Session-Id" not in reply.headers
    assert reply.json()["result"]["structuredContent"]["echo"] == "ECHOING: hi"
    arguments = {"to": 2, "delay": 0}
    reply = post(client, modern_call(3, "count", arguments, meta={"progressToken": 1}))
    assert reply.is_stream and reply.headers["X-Accel-Buffering"] == "no"
    assert reply.message()["params"]["progress"] == 1
    assert reply.message()["params"]["progress"] == 2
    assert reply.message()["id"] == 3 and reply.message() is None
    assert post(client, modern_call(4, "stats")).json()["result"][
        "structuredContent"
    ] == {
        "in_flight": 0,
        "max_in_flight": 1,
        "cancelled": 0,
        "calls": 2,
        "connections": 1,
        "progress_sent": 2,
        "sessions": 0,
        "deleted_sessions": 0,
    }


@pytest.mark.parametrize(
    "change",
    [
        {"MCP-Protocol-Version": None},
        {"MCP-Protocol-Version": "2025-11-25"},
        {"Mcp-Method": None},
        {"Mcp-Method": "Tools/call"},
        {"Mcp-Name": None},
        {"Mcp-Name": "echo"},
        {"Mcp-Name": "=?base64?!!!?="},
        {"Mcp-Param-Region": None},
        {"Mcp-Param-Region": "us"},
    ],
)
def test_header_mismatch(client, change):
    message = modern_call(1, "region_echo", {"region": "eu-1"})
    headers = {**modern_headers(message), "Mcp-Param-Region": "eu-1"}
    assert post(client, message, headers).json()["result"]["structuredContent"]
    reply = post(client, message, {**headers, **change})
    assert reply.status == 400
    body = reply.json()
    assert (body["id"], body["error"]["code"]) == (1, -32020)
    assert next(iter(change)) in body["error"]["message"]


def test_header_values_may_be_encoded(client):
    message = modern_call(1, "region_echo", {"region": "é "})
    encoded = base64.b64encode("é ".encode()).decode()
    headers = modern_headers(message)
    headers["Mcp-Param-Region"] = f"=?base64?{encoded}?="
    result = post(client, message, headers).json()["result"]
    assert result["structuredContent"] == {"region": "é "}


def test_modern_http_statuses(client):
    unknown = post(client, modern(1, "no/such"))
    assert (unknown.status, unknown.json()["error"]["code"]) == (404, -32601)
    capability = post(client, modern_call(2, "ask", {"question": "q"}))
    assert (capability.status, capability.json()["error"]["code"]) == (400, -32021)
    future = modern(3, "tools/list")
    future["params"]["_meta"][PREFIX + "protocolVersion"] = "2027-01-01"
    headers = {"MCP-Protocol-Version": "2027-01-01", "Mcp-Method": "tools/list"}
    reply = post(client, future, headers)
    assert (reply.status, reply.json()["error"]["code"]) == (400, -32022)
    bare = request(4, "tools/list")
    reply = post(client, bare, modern_headers(bare))
    assert (reply.status, reply.json()["error"]["code"]) == (400, -32602)
    note = {"jsonrpc": "2.0", "method": "notifications/x", "params": {}}
    reply = post(client, note)
    assert (reply.status, reply.response.read()) == (202, b"")


@pytest.mark.parametrize(
    "status, headers, body",
    [
        (403, {"Host": "evil.example"}, b"{}"),
        (403, {"Origin": "http://evil.example"}, b"{}"),
        (406, {"Accept": "application/json"}, b"{}"),
        (415, {"Content-Type": "text/plain"}, b"{}"),
        (400, {}, b"{nonsense"),
        (400, {"MCP-Protocol-Version": MODERN}, b"[]"),
        (413, {}, b"x" * (16 * 1024 * 1024 + 1)),
    ],
)
def test_http_refusals(client, status, headers, body):
    reply = post(client, body, headers)
    assert reply.status == status
    assert reply.json()["id"] is None


def test_body_without_a_length(server, client):
    # Refused for its headers: a body would meet a closed connection.
    client.putrequest("POST", "/mcp")
    client.putheader("Transfer-Encoding", "chunked")
    client.endheaders()
    response = client.getresponse()
    assert (response.status, response.headers["Connection"]) == (411, "close")
    assert json.loads(response.read())["id"] is None
    assert post(client, modern(1, "server/discover")).json()["id"] == 1
    assert server.stats["connections"] == 2


def test_http_local_names_and_paths(server, client):
    message = modern(1, "server/discover")
    for host in ("localhost:1", "127.0.0.1", "[::1]:80", "LOCALHOST"):
        headers = {**modern_headers(message), "Host": host}
        headers["Origin"] = "http://localhost:3000"
        reply = post(client, message, headers)
        assert reply.status == 200 and reply.json()["id"] == 1
    for method, path, status in [
        ("POST", "/nope", 404),
        ("POST", "/sse", 405),
        ("DELETE", "/messages", 405),
    ]:
        client.request(method, path)
        response = client.getresponse()
        assert (response.status, bool(response.read())) == (status, True)


def test_a_large_body(client):
    text = "x" * (15 * 1024 * 1024)
    reply = post(client, modern_call(1, "echo", {"message": text}))
    assert reply.json()["result"]["structuredContent"]["echo"] == "ECHOING: " + text


def test_closed_stream_cancels_a_modern_call(server, client):
    reply = post(client, modern_call(1, "wait", {"seconds": 60}))
    assert reply.is_stream
    until(lambda: server.stats["in_flight"] == 1)
    reply.response.close()
    client.close()
    until(lambda: server.stats["cancelled"] == 1)
    assert server.stats["in_flight"] == 0


@pytest.mark.parametrize("era", ["modern", "legacy"])
def test_calls_run_concurrently(server, client, era):
    headers = open_session(client) if era == "legacy" else None
    make = call if era == "legacy" else modern_call
    with contextlib.ExitStack() as stack:
        for number in range(5):
            other = stack.enter_context(connection(server.port))
            message = make(number, "wait", {"seconds": 60})
            assert stack.enter_context(post(other, message, headers).response)
        until(lambda: server.stats["in_flight"] == 5)
    if era == "legacy":
        # Disconnecting is not cancelling there; the end of the session is.
        client.request("DELETE", "/mcp", headers=headers)
        assert client.getresponse().read() == b""
    until(lambda: server.stats["in_flight"] == 0)
    assert server.stats["max_in_flight"] == server.stats["cancelled"] == 5


def test_crash_drops_the_connection(server, client):
    with pytest.raises((http.client.RemoteDisconnected, ConnectionError)):
        post(client, modern_call(1, "crash"))
    client.close()
    assert post(client, modern(2, "server/discover")).status == 200


def test_listen_stream(server, client):
    with connection(server.port) as other:
        reply = post(other, listen(5, toolsListChanged=True))
        assert reply.message()["params"]["notifications"] == {"toolsListChanged": True}
        post(client, modern_call(1, "touch")).json()
        assert reply.message()["method"] == "notifications/tools/list_changed"
        server.end_listens()
        assert reply.message()["id"] == 5
        assert reply.message() is None
        again = post(other, listen(6, toolsListChanged=True))
        assert again.message()
        server.drop_connections()
        with pytest.raises((http.client.IncompleteRead, ConnectionError)):
            assert again.response.read()
            raise ConnectionError


def test_eras_over_http():
    with serve_http(era="legacy") as server, connection(server.port) as client:
        reply = post(client, modern(1, "server/discover"))
        body = reply.json()
        assert (reply.status, body["id"], body["error"]["code"]) == (400, None, -32000)
        assert post(client, initialize(), {}).json()["result"]
    with serve_http(era="modern") as server, connection(server.port) as client:
        reply = post(client, initialize(), {})
        assert reply.status == 400
        assert reply.json()["error"]["data"]["supported"] == [MODERN]
        for method in ("GET", "DELETE"):
            client.request(method, "/mcp", headers={"Accept": "text/event-stream"})
            response = client.getresponse()
            assert (response.status, bool(response.read())) == (405, True)
