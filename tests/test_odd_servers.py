"""Servers that answer what no server should: one call fails, and says why."""

from __future__ import annotations

from typing import Any, Callable, List

import pytest

import mcpsync

from .fakes import CANARY
from .fakes.scripted_http import (
    Recorded,
    Reply,
    ScriptedServer,
    answer_to,
    error_to,
    json_reply,
    sse_reply,
)
from .fakes.scripted_memory import LEGACY
from .fakes.stdio_server import python_server

Call = Callable[[mcpsync.Client], Any]


def fails(client: mcpsync.Client, kind: type, call: Call, method: str) -> str:
    """Check a failure, and that the connection survives it; return what it says."""
    with pytest.raises(kind) as caught:
        call(client)
    error = caught.value
    assert isinstance(error, mcpsync.MCPError)
    assert (error.server, error.method) == (client.name, method)
    assert error.elapsed is not None and 0 <= error.elapsed < 60
    text = str(error)
    assert client.name in text and method in text
    return text


DISCOVERED = {
    "resultType": "complete",
    "supportedVersions": ["2026-07-28"],
    "capabilities": {},
}
INITIALIZED = {
    "protocolVersion": LEGACY,
    "capabilities": {},
    "serverInfo": {"name": "s", "version": "1"},
}
HTML = b"<html><body>Please log in</body></html>"
JSON_TYPE = {"Content-Type": "application/json"}


def raw(body: bytes, **headers: str) -> Callable[[Recorded], Reply]:
    """Return an answer with that body, whatever it is."""
    return lambda request: Reply(200, {**JSON_TYPE, **headers}, body)


def message(**parts: Any) -> Callable[[Recorded], Reply]:
    """Return a message with the right id, and these parts."""
    return lambda request: json_reply(
        {"jsonrpc": "2.0", "id": request.json["id"], **parts}
    )


ODD_ANSWERS: List[Any] = [
    (
        "html",
        lambda request: Reply(200, {"Content-Type": "text/html"}, HTML),
        mcpsync.HTTPStatusError,
        "text/html instead of JSON .*Please log in",
    ),
    ("html as json", raw(HTML), mcpsync.InvalidMessage, "not JSON .*<html>"),
    ("nothing as json", raw(b""), mcpsync.TransportError, "empty"),
    (
        "nothing",
        lambda request: Reply(200, {}, b""),
        mcpsync.HTTPStatusError,
        "instead of JSON",
    ),
    (
        "accepted",
        lambda request: Reply(202, {}, b""),
        mcpsync.HTTPStatusError,
        "instead of JSON",
    ),
    (
        "wrong id",
        lambda request: json_reply({"jsonrpc": "2.0", "id": 999, "result": {}}),
        mcpsync.InvalidMessage,
        "the request 999",
    ),
    (
        "long id",
        lambda request: json_reply(
            {"jsonrpc": "2.0", "id": "\u202e" * 9999, "result": {}}
        ),
        mcpsync.InvalidMessage,
        "the request '",
    ),
    (
        "both",
        message(result={}, error={"code": 1, "message": "x"}),
        mcpsync.InvalidMessage,
        "both a result and an error",
    ),
    ("neither", message(), mcpsync.InvalidMessage, "neither"),
    ("no error", message(error=5), mcpsync.InvalidMessage, "error is malformed"),
    (
        "no message",
        message(error={"code": 1, "message": 5}),
        mcpsync.InvalidMessage,
        "not a string",
    ),
    ("an array", raw(b"[]"), mcpsync.InvalidMessage, "got an array"),
    ("a text", raw(b'"x"'), mcpsync.InvalidMessage, "got a string"),
    ("jsonrpc 1.0", raw(b'{"id":1,"result":{}}'), mcpsync.InvalidMessage, "jsonrpc"),
    ("not a number", raw(b'{"jsonrpc":NaN}'), mcpsync.InvalidMessage, "NaN"),
    ("not utf-8", raw(b"\xff\xfe{}"), mcpsync.InvalidMessage, "UTF-8"),
    (
        "a nest",
        raw(b'{"jsonrpc":"2.0","id":1,"result":' + b"[" * 9999 + b"]" * 9999 + b"}"),
        mcpsync.InvalidMessage,
        "nested",
    ),
    ("no object", message(result=[1]), mcpsync.UnexpectedResult, "not an object"),
    ("no content", message(result={}), mcpsync.UnexpectedResult, "content"),
    (
        "odd content",
        message(result={"content": [5]}),
        mcpsync.UnexpectedResult,
        "content",
    ),
    ("a stream of nothing", lambda r: sse_reply(), mcpsync.ConnectionLost, "ended"),
    (
        "a stream of junk",
        lambda r: sse_reply(b"data: {nope\n\n"),
        mcpsync.InvalidMessage,
        "not JSON .*nope",
    ),
    (
        "a redirect",
        lambda r: Reply(307, {"Location": "https://x.example/?token=%s" % CANARY}),
        mcpsync.Redirected,
        "https://x.example/",
    ),
    (
        "a challenge",
        lambda r: Reply(401, {"WWW-Authenticate": "Bearer"}),
        mcpsync.LoginRequired,
        "login",
    ),
    ("forbidden", lambda r: Reply(403), mcpsync.HTTPStatusError, "403"),
    (
        "an error page",
        lambda r: Reply(502, {"Content-Type": "text/html"}, b"Bad\x1b[31m Gateway"),
        mcpsync.HTTPStatusError,
        "502: Bad",
    ),
]


@pytest.mark.parametrize("session", [False, True], ids=["modern", "legacy"])
@pytest.mark.parametrize(
    "answer, kind, said",
    [case[1:] for case in ODD_ANSWERS],
    ids=[case[0] for case in ODD_ANSWERS],
)
def test_an_odd_answer_over_http(
    session: bool, answer: Any, kind: type, said: str
) -> None:
    def script(request: Recorded) -> Reply:
        method = request.rpc_method
        if method == "tools/call":
            reply: Reply = answer(request)
            return reply
        if method is None:
            return Reply(405 if request.method == "GET" else 204)
        if method.startswith("notifications/"):
            return Reply(202)
        if method == "server/discover" and not session:
            return json_reply(answer_to(request, DISCOVERED))
        if method == "initialize":
            headers = {"Mcp-Session-Id": "session-1"}
            return json_reply(answer_to(request, INITIALIZED), headers=headers)
        if method == "prompts/list":
            return json_reply(answer_to(request, {"prompts": []}))
        return json_reply(error_to(request, -32601), status=404)

    with ScriptedServer(script) as server:
        with mcpsync.connect(server.url, name="mine", timeout=5) as client:
            with pytest.raises(kind, match=said) as caught:
                client.call_tool("x")
            error = caught.value
            assert isinstance(error, mcpsync.MCPError)
            # Programs may match by name: no class is a private one.
            assert type(error).__name__ in mcpsync.__all__
            assert (error.server, error.method) == ("mine", "tools/call")
            assert error.elapsed is not None
            text = str(error)
            assert len(text) < 900 and text.isprintable()
            # One call failed, and nothing else did.
            assert client.list_prompts() == []
            assert len(server.of("tools/call")) == 1


LINES: List[Any] = [
    ("both", '{"jsonrpc":"2.0","id":%d,"result":{},"error":{"code":1}}', "both"),
    ("neither", '{"jsonrpc":"2.0","id":%d}', "neither"),
    ("an error that is none", '{"jsonrpc":"2.0","id":%d,"error":[]}', "malformed"),
    ("torn", '{"jsonrpc":"2.0","id":%d,"result":{"content":[', "not JSON"),
    ("not a number", '{"jsonrpc":"2.0","id":%d,"result":{"content":NaN}}', "NaN"),
]


@pytest.mark.parametrize(
    "line, said", [case[1:] for case in LINES], ids=[case[0] for case in LINES]
)
def test_an_odd_line_of_a_process(line: str, said: str) -> None:
    argv = python_server("""
        shake_hands()
        while True:
            message = read()
            if message is None:
                break
            if message["method"] == "tools/call":
                say(%r %% message["id"] + "\\n")
            elif "id" in message:
                answer(message, {"prompts": []})
        """ % line)
    with mcpsync.connect(argv, name="mine", timeout=10) as client:
        text = fails(
            client, mcpsync.InvalidMessage, lambda c: c.call_tool("x"), "tools/call"
        )
        assert said in text and text.isprintable()
        assert client.list_prompts() == []


def test_an_answer_for_nobody() -> None:
    argv = python_server("""
        shake_hands()
        while True:
            message = read()
            if message is None:
                break
            if message["method"] == "tools/call":
                for other in (999, "1", True, None, 1.5, [], {}):
                    say({"jsonrpc": "2.0", "id": other, "result": {}})
            elif "id" in message:
                answer(message, {"prompts": []})
        """)
    with mcpsync.connect(argv, name="mine", timeout=10) as client:
        with pytest.raises((mcpsync.RequestTimeout, mcpsync.InvalidMessage)):
            client.call_tool("x", timeout=0.3)
        assert client.list_prompts() == []


@pytest.mark.parametrize("protocol", ["auto", "legacy", "2026-07-28"])
@pytest.mark.parametrize("kind", ["html", "empty"])
def test_something_else_at_the_url(protocol: str, kind: str) -> None:
    body = HTML if kind == "html" else b""
    page = Reply(200, {"Content-Type": "text/html"}, body)
    with ScriptedServer(lambda request: page) as server:
        with pytest.raises(mcpsync.HTTPStatusError, match="instead of JSON") as caught:
            mcpsync.connect(server.url, name="mine", protocol=protocol)
        assert caught.value.server == "mine" and caught.value.status == 200
