"""Responses that are too large, that redirect, or that come from a mock."""

from __future__ import annotations

import gzip
import zlib
from typing import Any, Dict, Type

import pytest
import responses

from mcpsync._deadline import Deadline
from mcpsync.exceptions import (
    ConnectionLost,
    HTTPStatusError,
    InvalidMessage,
    MCPError,
    MessageTooLarge,
    Redirected,
)
from mcpsync.transports.base import Limits

from ..fakes import CANARY
from ..fakes.hostile import hostile, respond
from ..fakes.leaks import rss_mib
from .calling import RESULT, answer, ask, json_answer, opened, refused

# --- sizes --------------------------------------------------------------------------

SMALL = Limits(message_bytes=100_000)


def _bomb(kind: str) -> bytes:
    data = b"[" + b" " * 50_000_000
    return gzip.compress(data) if kind == "gzip" else zlib.compress(data)


@pytest.mark.parametrize(
    "reply",
    [
        respond(b"[" + b" " * 100_000),
        respond(b"[" + b" " * 100_000, length=False),
        respond(b"", "Content-Length: 99999999999", length=False),
        respond(_bomb("gzip"), "Content-Encoding: gzip"),
        respond(_bomb("deflate"), "Content-Encoding: deflate"),
        respond(
            b"data: " + b"x" * 200_000, content_type="text/event-stream", length=False
        ),
    ],
    ids=["announced", "not announced", "announced only", "gzip", "deflate", "event"],
)
def test_what_is_too_large_is_refused_unread(reply: bytes) -> None:
    before = rss_mib()
    error = refused(reply, limits=SMALL)
    assert isinstance(error, MessageTooLarge)
    assert error.limit == 100_000
    assert rss_mib() - before < 40


def test_compressed_bodies_are_read_nevertheless() -> None:
    with hostile(
        lambda connection, *_: connection.sendall(
            respond(gzip.compress(answer()), "Content-Encoding: gzip")
        )
    ) as server:
        with opened(server.url) as transport:
            assert ask(transport).result == RESULT
        assert b"Accept-Encoding: identity" in server.requests[0][0]


# --- redirects ----------------------------------------------------------------------


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
@pytest.mark.parametrize("where", ["elsewhere", "here", "tls", "nowhere"])
def test_redirects_are_not_followed(status: int, where: str) -> None:
    with hostile(lambda connection, *_: connection.sendall(json_answer())) as other:
        targets = {
            "elsewhere": other.url + "?token=" + CANARY,
            "here": "/other/path",
            "tls": "https://127.0.0.1:%d/" % other.port,
            "nowhere": "http://[bad",
        }
        reply = respond(b"", "Location: " + targets[where], status="%d Moved" % status)
        error = refused(reply, auth=CANARY, headers={"X-API-Key": CANARY})
        assert isinstance(error, Redirected)
        assert len(error.urls) == 2
        assert CANARY not in str(error) + repr(error.urls)
        if where == "elsewhere":
            assert error.urls[1] == other.url
        assert other.connections == 0


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_other_methods_do_not_follow_either(method: str) -> None:
    with hostile(lambda connection, *_: connection.sendall(json_answer())) as other:
        reply = respond(b"", "Location: " + other.url, status="307 Moved")
        with hostile(lambda connection, *_: connection.sendall(reply)) as server:
            with opened(server.url) as transport:
                with transport.wire.guarded(Deadline.after(5)) as abort:
                    response = transport.wire.send(method, {}, None, abort)
                    transport.wire.discard(response, abort)
        assert response.status_code == 307
        assert other.connections == 0


# --- the mocks of the `responses` library -------------------------------------------


@responses.activate
def test_a_mocked_answer() -> None:
    responses.post(
        "http://server.example/mcp", json={"jsonrpc": "2.0", "id": 1, "result": RESULT}
    )
    with opened("http://server.example/mcp") as transport:
        assert ask(transport).result == RESULT
    assert responses.calls[0].request.headers["Mcp-Method"] == "tools/call"


@responses.activate
def test_a_mocked_stream() -> None:
    responses.post(
        "http://server.example/mcp",
        body=b"data: " + answer() + b"\n\n",
        content_type="text/event-stream",
    )
    with opened("http://server.example/mcp") as transport:
        assert ask(transport).result == RESULT


@responses.activate
@pytest.mark.parametrize(
    "mock, kind",
    [
        ({"status": 503, "body": "busy"}, HTTPStatusError),
        ({"status": 307, "headers": {"Location": "http://x.example/"}}, Redirected),
        (
            {"status": 200, "body": "{", "content_type": "application/json"},
            InvalidMessage,
        ),
        ({"body": ConnectionError("broken")}, ConnectionLost),
    ],
)
def test_a_mocked_failure(mock: Dict[str, Any], kind: Type[MCPError]) -> None:
    responses.post("http://server.example/mcp", **mock)
    with opened("http://server.example/mcp") as transport:
        with pytest.raises(kind):
            ask(transport)
