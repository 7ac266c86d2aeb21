"""The demo server over HTTP as it was before 2026-07-28."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import threading

import pytest

from mcpsync.demo import serve_http

from .speaking import (
    ALL_CAPABILITIES,
    ANSWERS,
    LEGACY,
    OUTCOMES,
    QUESTIONS,
    SECONDS,
    answer,
    call,
    cancelled,
    connection,
    get,
    initialize,
    listen,
    modern_call,
    open_session,
    post,
    request,
    until,
)


@pytest.mark.parametrize("version", LEGACY)
def test_legacy_session(server, client, version):
    headers = open_session(client, version)
    assert server.stats["sessions"] == 1
    reply = post(client, request(1, "tools/list"), headers)
    assert not reply.is_stream and len(reply.json()["result"]["tools"]) > 10
    message = call(2, "count", {"to": 1, "delay": 0}, _meta={"progressToken": "t"})
    reply = post(client, message, headers)
    first = reply.event()
    # Only the last revision has a first event without data.
    assert (first["data"] == "" and "retry" in first) == (version == LEGACY[0])
    assert "id" in first
    if first["data"] == "":
        first = reply.event()
    assert json.loads(first["data"])["method"] == "notifications/progress"
    assert reply.message()["id"] == 2 and reply.message() is None
    client.request("DELETE", "/mcp", headers=headers)
    response = client.getresponse()
    assert (response.status, response.read()) == (200, b"")
    assert server.stats["connections"] == 1, "kept alive after a stream, too"
    reply = post(client, request(3, "ping"), headers)
    assert (reply.status, reply.json()["error"]["code"]) == (404, -32001)
    assert server.stats["deleted_sessions"] == 1 and server.stats["sessions"] == 0


def test_legacy_session_refusals(server, client):
    headers = open_session(client)
    for status, change in [
        (400, {"Mcp-Session-Id": None, "MCP-Protocol-Version": LEGACY[0]}),
        (404, {"Mcp-Session-Id": "nope"}),
        (400, {"MCP-Protocol-Version": "1999-01-01"}),
    ]:
        reply = post(client, request(1, "ping"), {**headers, **change})
        assert reply.status == status and reply.json()["error"]
    reply = get(client, {**headers, "Accept": "application/json"})
    assert (reply.status, bool(reply.json())) == (406, True)
    reply = get(client, {**headers, "Last-Event-ID": "nope:1"})
    assert (reply.status, bool(reply.json())) == (400, True)
    reply = post(client, [request(1, "ping")], headers)
    assert (reply.status, reply.json()["error"]["code"]) == (400, -32600)
    server.expire_sessions()
    reply = post(client, request(1, "ping"), headers)
    assert reply.status == 404 and reply.json()["error"]


def test_legacy_batch_over_http(client):
    headers = open_session(client, "2025-03-26")
    reply = post(client, [request(1, "ping"), request(2, "ping")], headers)
    assert [entry["id"] for entry in reply.json()] == [1, 2]
    assert post(client, [cancelled(1)], headers).status == 202


@pytest.mark.parametrize("tool, arguments, method", QUESTIONS)
def test_legacy_question_comes_on_the_stream(server, client, tool, arguments, method):
    headers = open_session(client, capabilities=ALL_CAPABILITIES)
    reply = post(client, call(1, tool, arguments), headers)
    question = reply.message()
    assert question["method"] == method
    with connection(server.port) as other:
        accepted = post(other, answer(question, ANSWERS[tool]), headers)
        assert accepted.status == 202
    assert reply.message()["result"]["structuredContent"] == OUTCOMES[tool]


def test_legacy_cancellation_is_a_notification(server, client):
    headers = open_session(client)
    reply = post(client, call("x", "wait", {"seconds": 60}), headers)
    with connection(server.port) as other:
        assert post(other, cancelled("x"), headers).status == 202
    assert reply.message() is None
    until(lambda: server.stats["cancelled"] == 1)


def test_legacy_stream_is_resumed(server, client):
    headers = open_session(client)
    arguments = {"to": 3, "delay": 0.05}
    message = call(1, "count", arguments, _meta={"progressToken": 1})
    reply = post(client, message, headers)
    primed = reply.event()
    assert primed["data"] == "" and int(primed["retry"]) > 0
    reply.response.close()
    client.close()
    with connection(server.port) as other:
        resumed = get(other, {**headers, "Last-Event-ID": primed["id"]})
        first = resumed.event()
        progress = [json.loads(first["data"]), resumed.message(), resumed.message()]
        assert [entry["params"]["progress"] for entry in progress] == [1, 2, 3]
        assert resumed.message()["id"] == 1 and resumed.message() is None
        # Once more, from the middle of a stream that has ended.
        again = get(other, {**headers, "Last-Event-ID": first["id"]})
        assert again.message()["params"]["progress"] == 2
    assert server.stats["cancelled"] == 0


def test_server_closes_a_stream_to_be_polled(client):
    headers = open_session(client)
    message = call(1, "reconnect", {"seconds": 0, "retry": 20})
    reply = post(client, message, headers)
    primed, told = reply.event(), reply.event()
    assert told == {"retry": "20"} and reply.event() is None
    resumed = get(client, {**headers, "Last-Event-ID": primed["id"]})
    assert resumed.message()["result"]["content"][0]["text"] == "resumed"


def test_standalone_stream(server, client):
    headers = open_session(client)
    with connection(server.port) as other:
        reply = get(other, headers)
        primed = reply.event()
        assert primed["data"] == ""
        post(client, call(1, "touch"), headers).json()
        changed = reply.event()
        assert json.loads(changed["data"])["method"].endswith("tools/list_changed")
        reply.response.close()
    post(client, call(2, "touch"), headers).json()
    with connection(server.port) as other:
        resumed = get(other, {**headers, "Last-Event-ID": changed["id"]})
        assert resumed.message()["method"].endswith("tools/list_changed")
        client.request("DELETE", "/mcp", headers=headers)
        assert client.getresponse().read() == b""
        assert resumed.message() is None


def sse_session(http_connection, version="2024-11-05", capabilities=None):
    """Open an HTTP+SSE connection; return its stream and a function that posts."""
    reply = get(http_connection, {}, "/sse")
    first = reply.event()
    assert first["event"] == "endpoint"
    assert first["data"].startswith("/messages?session=")
    port = http_connection.port

    def send(message):
        with connection(port) as other:
            answered = post(other, message, {}, first["data"])
            assert 200 <= answered.status < 300
            answered.response.read()

    send(initialize(version, capabilities))
    assert reply.message()["result"]["protocolVersion"] == version
    return reply, send


def test_http_sse_transport(server, client):
    reply, send = sse_session(client, "2025-06-18", {"elicitation": {}})
    send(call(1, "echo", {"message": "hi"}))
    event = reply.event()
    assert event["event"] == "message" and json.loads(event["data"])["id"] == 1
    send(call(2, "ask", {"question": "q"}))
    question = reply.message()
    send(answer(question, {"action": "accept", "content": {}}))
    assert reply.message()["result"]["structuredContent"]["action"] == "accept"
    send(call(3, "wait", {"seconds": 60}))
    send(cancelled(3))
    until(lambda: server.stats["cancelled"] == 1)
    send(call(4, "touch"))
    methods = {reply.message().get("method"), reply.message().get("method")}
    assert methods == {"notifications/tools/list_changed", None}
    send([request(1, "ping")])
    assert reply.message()["error"]["code"] == -32600
    send(call(5, "wait", {"seconds": 60}))
    reply.response.close()
    client.close()
    until(lambda: server.stats["sessions"] == 0 and server.stats["cancelled"] == 2)


def test_http_sse_batch_and_nonsense(client):
    reply, send = sse_session(client, "2025-03-26")
    send([request(1, "ping"), request(2, "ping")])
    assert [entry["id"] for entry in reply.message()] == [1, 2]
    send(request(3, "tools/list", cursor="nope"))
    assert reply.message()["error"]["code"] == -32602


def test_http_sse_session_and_crash(server, client):
    with connection(server.port) as other:
        lost = post(other, request(1, "ping"), {}, "/messages?session=nope")
        assert (lost.status, bool(lost.json())) == (404, True)
    reply, send = sse_session(client)
    send(call(1, "crash"))
    with pytest.raises((http.client.IncompleteRead, ConnectionError)):
        assert reply.response.read() is None


def test_server_without_streamable_http():
    with serve_http(streamable=False) as server, connection(server.port) as client:
        assert server.sse_url == f"http://127.0.0.1:{server.port}/sse"
        for path, status in [("/mcp", 404), ("/sse", 405)]:
            reply = post(client, initialize(), {}, path)
            assert (reply.status, bool(reply.json())) == (status, True)
        reply, send = sse_session(client)
        send(request(1, "ping"))
        assert reply.message()["result"] == {}


def test_close_ends_everything():
    descriptors = open_descriptors()
    server = serve_http()
    with contextlib.ExitStack() as stack:
        connections = [stack.enter_context(connection(server.port)) for _ in range(5)]
        idle, waiting, listening, standalone, sse = connections
        headers = open_session(idle)
        call_reply = post(waiting, modern_call(1, "wait", {"seconds": 60}))
        listen_reply = post(listening, listen(2, toolsListChanged=True))
        assert listen_reply.message()
        get_reply = get(standalone, headers)
        assert get_reply.event()["data"] == ""
        sse_reply, send = sse_session(sse)
        send(call(3, "wait", {"seconds": 60}))
        post(idle, request(4, "ping"), headers).json()
        server.close()
        server.close()
        assert listen_reply.message()["result"]["resultType"] == "complete"
        assert get_reply.message() is None and sse_reply.message() is None
        with contextlib.suppress(http.client.IncompleteRead, ConnectionError):
            assert b"result" not in call_reply.response.read()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.1", server.port), SECONDS).close()
    names = [thread.name for thread in threading.enumerate()]
    assert not [name for name in names if name.startswith("mcpsync-demo")]
    assert server.stats["in_flight"] == 0 and server.stats["sessions"] == 0
    assert open_descriptors() == descriptors


def open_descriptors():
    path = "/proc/self/fd"
    return len(os.listdir(path)) if os.path.isdir(path) else 0
