"""What is sent, what may come back, and what each of it is called."""

from __future__ import annotations

import gzip
import socket
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional

import pytest

from mcpsync._deadline import Deadline
from mcpsync.exceptions import (
    ConfigError,
    ConnectionLost,
    HTTPStatusError,
    InvalidArguments,
    InvalidMessage,
)
from mcpsync.protocol.jsonrpc import Outgoing
from mcpsync.transports._http_wire import bare_url, may_pass, same_origin
from mcpsync.transports.http import StreamableHTTPTransport

from ..fakes import CANARY, bounded
from ..fakes.hostile import Hostile, hostile, respond
from ..fakes.scripted_http import Recorded, Reply, ScriptedServer, answer_to, json_reply
from .calling import LEGACY, RESULT, answer, ask, call, json_answer, opened, refused

# --- responses that are no answer ---------------------------------------------------


@pytest.mark.parametrize(
    "reply, status, shown",
    [
        (respond(b"<p>Log in</p>", content_type="text/html"), 200, "text/html"),
        (respond(b"<p>Log in</p>", content_type="text/html"), 200, "<p>Log in</p>"),
        (respond(b"", content_type="text/html"), 200, "empty body"),
        (respond(b""), 200, "empty body"),
        (respond(b"   "), 200, "empty body"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 204, "empty body"),
        (respond(b"", status="202 Accepted"), 202, "202"),
        (respond(b"{}", status="202 Accepted"), 202, "202"),
        (respond(answer(), content_type="application/xml"), 200, "application/xml"),
        (respond(b"teapot", status="418 No"), 418, "teapot"),
        (respond(b"", status="999 Much"), 999, "999"),
        (respond(b"", status="600 More"), 600, "600"),
        (respond(b"slow down", status="429 No"), 429, "slow down"),
        (respond(b"\x1b[31m red \x00", status="500 No"), 500, r"\x1b[31m red \x00"),
        (respond(b"<a>" * 50_000, status="500 No"), 500, "<a><a><a>"),
        (respond(answer(), status="500 No"), 500, "500"),
    ],
)
def test_a_response_that_is_no_answer(reply: bytes, status: int, shown: str) -> None:
    error = refused(reply)
    assert isinstance(error, HTTPStatusError)
    assert error.status == status
    assert shown in str(error)
    assert len(str(error)) < 500


@pytest.mark.parametrize(
    "reply",
    [
        b"garbage\r\n\r\n",
        b"HTTP/2 200 OK\r\n\r\n",
        b"HTTP/1.1 abc OK\r\n\r\n",
        b"HTTP/1.1 99 Few\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x00" * 100,
        b"<html>Not HTTP at all</html>",
        b"H" * 70_000,
        respond(answer(), "Content-Length: 3"),
        respond(b"", "Content-Length: -1", length=False),
        respond(answer(), "Content-Encoding: br"),
        respond(answer(), "Content-Encoding: gzip, gzip"),
        respond(answer(), "Content-Encoding: gzip"),
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n" + b"0" * 200_000 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n5;" + b"x" * 200_000 + b"\r\n",
        respond(b"{"),
        respond(b"\xff"),
        respond(b"[]"),
        respond(b"null"),
        respond(b'"text"'),
        respond(b"[" * 100_000),
        respond(b"{}"),
        respond(b'{"jsonrpc": "2.0", "id": 1}'),
        respond(b'{"jsonrpc": "2.0", "id": 1, "result": {}, "error": {}}'),
        respond(answer("1")),
        respond(answer(2)),
        respond(answer(True)),
        respond(answer(1.0)),
        respond(answer(None)),
        respond(b'{"jsonrpc": "2.0", "method": "notifications/message"}'),
    ],
)
def test_a_response_that_breaks_the_protocol(reply: bytes) -> None:
    assert isinstance(refused(reply), InvalidMessage)


@pytest.mark.parametrize(
    "reply",
    [
        b"",
        respond(answer(), "Content-Length: 1000", length=False),
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n40\r\n" + answer()[:40],
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\nxyz\r\n" + answer(),
        respond(gzip.compress(answer())[:-12], "Content-Encoding: gzip"),
    ],
    ids=["nothing", "short", "cut chunk", "bad chunk", "cut gzip"],
)
def test_a_body_that_is_cut_is_never_an_answer(reply: bytes) -> None:
    error = refused(reply)
    assert isinstance(error, ConnectionLost)
    # It may well have been executed.
    assert error.sent is not False


def test_a_connection_that_is_reset_is_lost() -> None:
    def reset(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(respond(b"{", "Content-Length: 100", length=False))
        linger = b"\x01\x00\x00\x00\x00\x00\x00\x00"
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)

    with hostile(reset) as server, opened(server.url) as transport:
        with pytest.raises(ConnectionLost):
            ask(transport)
        assert len(server.requests) == 1


@pytest.mark.parametrize("status", ["400 Bad Request", "404 Not Found", "500 Error"])
@pytest.mark.parametrize("id", ["1", "null"])
def test_an_error_object_counts_whatever_the_status(status: str, id: str) -> None:
    error = b'{"jsonrpc": "2.0", "id": %s, "error": {"code": -32601, "message": "no"}}'
    reply = respond(error % id.encode("ascii"), status=status)
    with hostile(lambda connection, *_: connection.sendall(reply)) as server:
        with opened(server.url) as transport:
            response = ask(transport)
    assert response.error is not None and response.error["code"] == -32601
    assert response.id == 1
    assert response.status == int(status[:3])


def test_a_refusal_without_an_end_is_reported_all_the_same() -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
        head = b"HTTP/1.1 503 Busy\r\nContent-Length: 9\r\n\r\n"
        connection.sendall(head + b"so sorry")

    with hostile(reply) as server, opened(server.url) as transport:
        with pytest.raises(HTTPStatusError, match="so sorry") as caught:
            ask(transport)
    assert caught.value.status == 503


def test_an_endless_refusal_is_not_read_to_its_end() -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(b"HTTP/1.1 500 No\r\n\r\n")
        while not server.stopped.is_set():
            connection.sendall(b"x" * 65536)

    with hostile(reply) as server, opened(server.url) as transport:
        with pytest.raises(HTTPStatusError, match="xxxx"):
            bounded(lambda: ask(transport), 4)


def test_a_notification_wants_any_success() -> None:
    notification = LEGACY.notification("notifications/initialized")
    for status in ("200 OK", "202 Accepted", "204 No Content"):
        reply = respond(b"", status=status)
        with hostile(lambda connection, *_: connection.sendall(reply)) as server:
            with opened(server.url) as transport:
                transport.send(notification, Deadline.after(5))
    with hostile(lambda connection, *_: connection.sendall(respond(b"<a>"))) as server:
        with opened(server.url) as transport:
            transport.send(notification, Deadline.after(5))


@pytest.mark.parametrize(
    "value, seconds",
    [
        ("7", 7.0),
        ("0", 0.0),
        ("-1", None),
        ("soon", None),
        ("9" * 50, None),
        ("", None),
        ("\xb2", None),
    ]
    + [
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0.0),
        ("Fri, 31 Dec 9999 23:59:59 -0000", ...),
    ],
)
def test_retry_after(value: str, seconds: Any) -> None:
    error = refused(respond(b"", "Retry-After: " + value, status="503 Busy"))
    assert isinstance(error, HTTPStatusError)
    if seconds is not ...:
        assert error.retry_after == seconds


def test_which_refusals_may_pass() -> None:
    passing = [status for status in range(400, 600) if may_pass(status)]
    assert passing == [408, 429, 500, 502, 503, 504]


# --- what is sent -------------------------------------------------------------------


def sent(configure: Callable[..., Any], url_of: Callable[[Hostile], str]) -> bytes:
    """Return the head of a request that is sent by a transport made so."""
    with hostile(lambda connection, *_: connection.sendall(json_answer())) as server:
        transport: StreamableHTTPTransport = configure(url_of(server))
        transport.open(lambda message: None, Deadline.after(5))
        ask(transport)
        transport.close()
        return server.requests[0][0]


def test_the_headers_of_a_request() -> None:
    head = sent(StreamableHTTPTransport, lambda server: server.url).decode("ascii")
    lines = head.split("\r\n")
    assert lines[0] == "POST /mcp HTTP/1.1"
    assert "Content-Type: application/json" in lines
    assert "Accept: application/json, text/event-stream" in lines
    assert "Accept-Encoding: identity" in lines
    assert "MCP-Protocol-Version: 2026-07-28" in lines
    assert "Mcp-Method: tools/call" in lines
    assert "Mcp-Name: echo" in lines
    assert not any(line.lower().startswith("mcp-session-id") for line in lines)
    assert any(line.startswith("User-Agent: mcpsync/") for line in lines)


def test_headers_of_the_caller_are_sent() -> None:
    head = sent(
        lambda url: StreamableHTTPTransport(url, headers={"X-Acme": "caf\xe9"}),
        lambda server: server.url,
    )
    assert b"X-Acme: caf\xe9\r\n" in head + b"\r\n"


@pytest.mark.parametrize(
    "name, value",
    [
        ("X-Key", "one\r\nX-Other: two"),
        ("X-Key", "one\ntwo"),
        ("X-Key", "one\x00"),
        ("X-Key", " one"),
        ("X-Key", "snow \N{SNOWMAN}"),
        ("X Key", "one"),
        ("X-Key:", "one"),
        ("", "one"),
        ("X-\xe9", "one"),
        ("X-Key", 5),
    ],
)
def test_headers_that_cannot_be_sent_are_refused_at_once(name: str, value: Any) -> None:
    with pytest.raises(ConfigError) as caught:
        StreamableHTTPTransport("http://127.0.0.1:1/", headers={name: value})
    assert str(value) not in str(caught.value) or value == 5


@pytest.mark.parametrize(
    "method", ["a\r\nX-Other: b", "caf\N{SNOWMAN}", "a\x00b", " a"]
)
def test_a_method_that_is_no_header_is_refused_before_anything_is_sent(
    method: str,
) -> None:
    outgoing = Outgoing(1, method, b"{}", headers={"Mcp-Method": method})
    with hostile(lambda *_: True) as server, opened(server.url) as transport:
        with pytest.raises(InvalidArguments, match="Mcp-Method"):
            ask(transport, outgoing)
        assert server.connections == 0


def test_cookies_are_not_kept() -> None:
    def script(request: Recorded) -> Reply:
        cookies = {"Set-Cookie": "id=%s; Path=/" % CANARY}
        return json_reply(answer_to(request, RESULT), headers=cookies)

    with ScriptedServer(script) as server, opened(server.url) as transport:
        for id in (1, 2, 3):
            ask(transport, call(id))
        assert [request.headers["Cookie"] for request in server.requests] == [None] * 3


def test_netrc_is_not_read(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login ada password %s\n" % CANARY)
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    head = sent(StreamableHTTPTransport, lambda server: server.url)
    assert b"authorization" not in head.lower()


def test_configure_gets_the_session_before_its_first_use() -> None:
    seen: List[Any] = []

    def configure(session: Any) -> None:
        seen.append(session)
        session.headers["X-Configured"] = "yes"

    head = sent(
        lambda url: StreamableHTTPTransport(url, configure=configure),
        lambda server: server.url,
    )
    assert len(seen) == 1
    assert b"X-Configured: yes" in head


@pytest.mark.parametrize(
    "options", [{"verify": "/nowhere/ca.pem"}, {"cert": ("/nowhere/a", "/nowhere/b")}]
)
def test_files_that_are_not_there_are_named(options: Dict[str, Any]) -> None:
    transport = StreamableHTTPTransport("https://127.0.0.1:1/", **options)
    with pytest.raises(ConfigError, match="/nowhere/"):
        transport.open(lambda message: None, Deadline.after(5))
    transport.close()


@pytest.mark.parametrize("variable", ["REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"])
def test_the_variable_for_certificates_is_read_when_opening(
    variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = StreamableHTTPTransport("https://127.0.0.1:1/")
    monkeypatch.delenv("REQUESTS_CA_BUNDLE", raising=False)
    monkeypatch.setenv(variable, "/nowhere/of/the/environment.pem")
    with pytest.raises(ConfigError, match="/nowhere/of/the/environment.pem"):
        transport.open(lambda message: None, Deadline.after(5))
    transport.close()


@pytest.mark.parametrize(
    "url",
    ["", "x", "ftp://host/", "http://", "http://host:port/", "http://host:99999/"]
    + ["http://ho st/", "http://host/a b", "http://host/\r\nX: y", "http://[::1/"]
    + ["http://.host/"],
)
def test_what_is_no_url_is_refused(url: str) -> None:
    with pytest.raises(ConfigError):
        transport = StreamableHTTPTransport(url)
        transport.open(lambda message: None, Deadline.after(5))


# --- the small things ---------------------------------------------------------------


@pytest.mark.parametrize(
    "url, shown",
    [
        ("https://ada:secret@host:8443/mcp?token=1#x", "https://host:8443/mcp"),
        ("http://[::1]:80/a", "http://[::1]:80/a"),
        ("http://host:99999/", "an invalid URL"),
        ("http://[bad", "an invalid URL"),
        ("http://host/\x1b[31m", r"http://host/\x1b[31m"),
    ],
)
def test_bare_urls(url: str, shown: str) -> None:
    assert bare_url(url) == shown


@pytest.mark.parametrize(
    "other, same",
    [
        ("https://host/other?x=1", True),
        ("https://HOST:443/", True),
        ("https://ada@host/", True),
        ("http://host/", False),
        ("https://host:8443/", False),
        ("https://host.evil/", False),
        ("https://host:99999/", False),
        ("https://[bad", False),
        ("", False),
        (None, False),
    ],
)
def test_origins(other: Optional[str], same: bool) -> None:
    assert same_origin("https://host/mcp", other) is same
