"""The requests of the authorization part: where they go, and when they end."""

from __future__ import annotations

import gzip
import logging
import os
import socket
import subprocess
import sys
import threading
import zlib
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest
import requests

from mcpsync._deadline import Deadline
from mcpsync.auth import _fetch
from mcpsync.auth._fetch import BODY_BYTES, DISCOVERY_REQUESTS, Fetcher
from mcpsync.exceptions import (
    AuthorizationError,
    ConfigError,
    DiscoveryError,
    RegistrationError,
    TokenError,
)

from ..fakes import CANARY, bounded
from ..fakes.hostile import hostile, respond
from ..fakes.scripted_http import Recorded, Reply, ScriptedServer, json_reply
from ..fakes.tls import Certificate, certificate, tls_server
from .sites import Resolver, Site, soon

PUBLIC = "93.184.216.34"


@pytest.fixture
def site() -> Iterator[Site]:
    with Site() as site:
        yield site


@pytest.fixture
def resolver(monkeypatch: pytest.MonkeyPatch) -> Resolver:
    return Resolver(monkeypatch)


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)


def port_of(site: Site) -> int:
    return int(site.base.rpartition(":")[2])


def local(site: Site, **options: Any) -> Fetcher:
    """Return a fetcher for an MCP server on this machine."""
    return Fetcher(server_url=site.url, **options)


def public(**options: Any) -> Fetcher:
    """Return a fetcher for an MCP server somewhere else."""
    return Fetcher(server_url="https://mcp.example/mcp", **options)


# --- a request ----------------------------------------------------------------------


def test_a_document_and_where_it_came_from(site: Site) -> None:
    site.routes["/a?b=1"] = {"issuer": "x"}
    result = local(site).get_json(site.base + "/a?b=1", soon(), "document")
    assert (result.status, result.json, result.reason) == (200, {"issuer": "x"}, None)
    assert result.url == site.base + "/a?b=1"
    assert result.headers.get("content-TYPE") == "application/json"


def test_what_a_get_carries(site: Site) -> None:
    fetcher = local(site, protocol_version="2025-11-25", user_agent="tests/1")
    fetcher.get_json(site.base + "/a", soon(), "document")
    (request,) = site.requests
    headers = {name.lower(): value for name, value in request.headers.items()}
    headers.pop("host")
    assert headers == {
        "accept": "application/json",
        "accept-encoding": "identity",
        "connection": "close",
        "user-agent": "tests/1",
        # G-5
        "mcp-protocol-version": "2025-11-25",
    }


def test_g5_without_a_known_version_none_is_named(site: Site) -> None:
    local(site).get_json(site.base + "/a", soon(), "document")
    assert "MCP-Protocol-Version" not in site.requests[0].headers
    assert site.requests[0].headers["User-Agent"].startswith("mcpsync/")


def test_what_a_form_carries(site: Site) -> None:
    site.routes["/token"] = {"ok": True}
    result = local(site).post_form(
        site.base + "/token",
        {"scope": "a b", "x": "\u00e9&="},
        soon(),
        "token request",
        headers={"Authorization": "Basic eDp5"},
    )
    (request,) = site.requests
    assert result.json == {"ok": True}
    assert request.body == b"scope=a+b&x=%C3%A9%26%3D"
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert request.headers["Accept"] == "application/json"
    assert request.headers["Authorization"] == "Basic eDp5"
    assert "MCP-Protocol-Version" not in request.headers


def test_credentials_as_requests_adds_them(site: Site) -> None:
    form = [("a", "1"), ("a", "2")]
    local(site).post_form(site.base + "/t", form, soon(), "token", auth=("x", "y"))
    (request,) = site.requests
    assert request.body == b"a=1&a=2"
    assert request.headers["Authorization"] == "Basic eDp5"


def test_what_a_json_post_carries(site: Site) -> None:
    site.routes["/register"] = json_reply({"client_id": "c"}, status=201)
    url = site.base + "/register"
    result = local(site).post_json(url, {"a": ["\u00e9"]}, soon(), "registration")
    (request,) = site.requests
    assert (result.status, result.json) == (201, {"client_id": "c"})
    assert request.json == {"a": ["\u00e9"]}
    assert request.headers["Content-Type"] == "application/json"


def test_a_refusal_has_its_body(site: Site) -> None:
    site.routes["/token"] = json_reply({"error": "invalid_grant"}, status=400)
    result = local(site).post_form(site.base + "/token", {}, soon(), "token request")
    assert (result.status, result.json) == (400, {"error": "invalid_grant"})


def test_a_result_does_not_show_what_it_holds(site: Site) -> None:
    site.routes["/token"] = json_reply(
        {"access_token": CANARY}, headers={"X-Echo": CANARY}
    )
    result = local(site).post_form(site.base + "/token", {}, soon(), "token request")
    assert result.json["access_token"] == CANARY
    assert CANARY not in repr(result)


# --- bodies -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body, value, reason",
    [
        pytest.param(b'{"a": 1}', {"a": 1}, None, id="object"),
        pytest.param(b"[]", [], None, id="list"),
        pytest.param(b"null", None, None, id="null"),
        pytest.param(b"", None, "empty", id="nothing"),
        pytest.param(b" \r\n", None, "empty", id="blank"),
        pytest.param(b"<html>", None, "not JSON", id="a web page"),
        pytest.param(b'{"a": 1', None, "not JSON", id="cut off"),
        pytest.param(b'{"a": NaN}', None, "NaN", id="NaN"),
        pytest.param(b'{"a": 1e999}', None, "too large", id="infinite"),
        pytest.param(b'{"a": "\xff"}', None, "UTF-8", id="not UTF-8"),
        pytest.param(b'\xef\xbb\xbf{"a": 1}', None, "not JSON", id="byte order mark"),
        pytest.param(b"[" * 201 + b"]" * 201, None, "nested", id="nested deeply"),
        pytest.param(b"[" * 90000, None, "nested", id="nested without end"),
        pytest.param(b"[" + b"1" * 401 + b"]", None, "401 digits", id="many digits"),
    ],
)
def test_bodies(site: Site, body: bytes, value: Any, reason: Any) -> None:
    site.routes["/a"] = Reply(200, {"Content-Type": "application/json"}, body)
    result = local(site).get_json(site.base + "/a", soon(), "document")
    assert result.json == value
    if reason is None:
        assert result.reason is None
    else:
        assert reason in (result.reason or "")


def test_the_reason_does_not_quote_the_body(site: Site) -> None:
    broken = ('{"access_token": "%s", }' % CANARY).encode()
    site.routes["/token"] = Reply(200, {"Content-Type": "application/json"}, broken)
    result = local(site).post_form(site.base + "/token", {}, soon(), "token request")
    assert result.json is None
    assert "not JSON" in (result.reason or "")
    assert CANARY not in (result.reason or "")


@pytest.mark.parametrize(
    "encoding, squeeze",
    [("gzip", gzip.compress), ("deflate", zlib.compress), ("x-gzip", gzip.compress)],
)
def test_compressed_though_not_asked_for(
    site: Site, encoding: str, squeeze: Callable[[bytes], bytes]
) -> None:
    site.routes["/a"] = Reply(200, {"Content-Encoding": encoding}, squeeze(b'{"a": 1}'))
    result = local(site).get_json(site.base + "/a", soon(), "document")
    assert result.json == {"a": 1}


SPACES = b" " * BODY_BYTES

TOO_MUCH = [
    ("H-5 announced", Reply(200, {}, SPACES + b"1")),
    ("H-5 chunked", Reply(200, {}, [SPACES, b"1"])),
    (
        "H-5 compressed",
        Reply(200, {"Content-Encoding": "gzip"}, gzip.compress(SPACES * 8)),
    ),
]


@pytest.mark.parametrize("reply", [pytest.param(r, id=i) for i, r in TOO_MUCH])
def test_too_large_a_body(site: Site, reply: Reply) -> None:
    site.routes["/a"] = reply
    with pytest.raises(DiscoveryError, match="larger than 1048576") as caught:
        local(site).get_json(site.base + "/a", soon(), "document")
    assert not caught.value.retryable
    with pytest.raises(TokenError, match="larger than 1048576"):
        local(site).post_form(site.base + "/a", {}, soon(), "token request")


def test_h5_the_largest_body(site: Site) -> None:
    site.routes["/a"] = Reply(200, {}, SPACES[1:] + b"1")
    assert local(site).get_json(site.base + "/a", soon(), "document").json == 1


@pytest.mark.parametrize(
    "answer, reason, retryable",
    [
        pytest.param(
            respond(b'{"a"', "Content-Length: 100", length=False),
            "broke off|IncompleteRead|bytes read",
            True,
            id="shorter than announced",
        ),
        pytest.param(
            respond(b"5\r\n{", "Transfer-Encoding: chunked", length=False),
            "IncompleteRead|Invalid|broken|bytes read",
            True,
            id="chunk cut off",
        ),
        pytest.param(respond(b"x", "Content-Encoding: br"), "br", False, id="br"),
        pytest.param(
            respond(b"{}", "Content-Encoding: gzip"), "compressed", False, id="no gzip"
        ),
        pytest.param(
            respond(gzip.compress(b"{}")[:-9], "Content-Encoding: gzip"),
            "broke off",
            True,
            id="gzip cut off",
        ),
        pytest.param(b"SSH-2.0-OpenSSH_9\r\n", "not HTTP", False, id="no HTTP"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 30000 + b"\r\n",
            "not HTTP",
            False,
            id="header block",
        ),
        pytest.param(
            b"HTTP/1.1 100 Continue\r\n\r\n" * 7, "not HTTP", False, id="interim"
        ),
        pytest.param(b"", "closed", True, id="nothing"),
    ],
)
def test_broken_answers(answer: bytes, reason: str, retryable: bool) -> None:
    with hostile(lambda connection, *request: connection.sendall(answer)) as server:
        fetcher = Fetcher(server_url=server.url)
        with pytest.raises(DiscoveryError, match=reason) as caught:
            fetcher.get_json(server.url, soon(), "document")
        assert caught.value.retryable is retryable
        assert "document at %s" % server.url in str(caught.value)
        with pytest.raises(TokenError, match=reason) as refused:
            fetcher.post_form(server.url, {"a": "b"}, soon(), "token request")
        assert retry_of(refused.value) is retryable


def retry_of(error: AuthorizationError) -> Any:
    return getattr(error, "retryable")


# --- status -------------------------------------------------------------------------


@pytest.mark.parametrize("status", [500, 502, 503, 504, 599, 408, 425, 429])
def test_p9_an_outage_is_no_answer(site: Site, status: int) -> None:
    site.routes["/a"] = json_reply({"resource": "x"}, status=status)
    with pytest.raises(DiscoveryError, match=str(status)) as caught:
        local(site).get_json(site.base + "/a", soon(), "document")
    assert caught.value.retryable


@pytest.mark.parametrize("status", [400, 401, 403, 404, 405, 410, 451, 204, 304])
def test_p9_other_statuses_are_answers(site: Site, status: int) -> None:
    site.routes["/a"] = Reply(status, {})
    result = local(site).get_json(site.base + "/a", soon(), "document")
    assert (result.status, result.json) == (status, None)
    assert str(status) in (result.reason or "")


def test_the_body_of_a_refused_get_is_not_read(site: Site) -> None:
    never: List[Any] = [b"<", threading.Event()]
    site.routes["/a"] = Reply(404, {}, never)
    result = bounded(lambda: local(site).get_json(site.base + "/a", soon(), "document"))
    assert result.status == 404


@pytest.mark.parametrize("status", [500, 503])
def test_outage_of_a_token_endpoint(site: Site, status: int) -> None:
    site.routes["/token"] = Reply(status)
    site.routes["/register"] = Reply(status)
    with pytest.raises(TokenError, match=str(status)) as caught:
        local(site).post_form(site.base + "/token", {}, soon(), "token request")
    assert retry_of(caught.value) is True
    with pytest.raises(RegistrationError, match=str(status)) as refused:
        local(site).post_json(site.base + "/register", {}, soon(), "registration")
    assert retry_of(refused.value) is True


@pytest.mark.parametrize(
    "value, expected",
    [("7", 7.0), ("0", 0.0), ("soon", None), ("-1", None), ("", None)],
)
def test_when_to_ask_again(site: Site, value: str, expected: Any) -> None:
    site.routes["/token"] = Reply(503, {"Retry-After": value})
    with pytest.raises(TokenError) as caught:
        local(site).post_form(site.base + "/token", {}, soon(), "token request")
    assert getattr(caught.value, "retry_after") == expected


@pytest.mark.parametrize("status", [400, 401, 429])
def test_refusals_of_a_token_endpoint_are_answers(site: Site, status: int) -> None:
    site.routes["/token"] = Reply(status, {"Retry-After": "7"}, b'{"error": "x"}')
    result = local(site).post_form(site.base + "/token", {}, soon(), "token request")
    assert (result.status, result.json) == (status, {"error": "x"})
    assert result.headers["retry-after"] == "7"


def test_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as unused:
        port = unused.getsockname()[1]
    url = "http://127.0.0.1:%d/a" % port
    fetcher = Fetcher(server_url=url)
    with pytest.raises(DiscoveryError, match="document at %s" % url) as caught:
        fetcher.get_json(url + "?secret=1", soon(), "document")
    assert caught.value.retryable
    assert "secret" not in str(caught.value)
    with pytest.raises(TokenError) as refused:
        fetcher.post_form(url, {}, soon(), "token request")
    assert retry_of(refused.value) is True


def test_no_such_host(resolver: Resolver) -> None:
    with pytest.raises(DiscoveryError, match="as.example") as caught:
        public().get_json("https://as.example/a", soon(), "document")
    assert caught.value.retryable


# --- time ---------------------------------------------------------------------------


def drip(head: bytes, piece: bytes) -> Callable[..., None]:
    """Return an answer that goes on for ever, a little at a time."""

    def answer(connection: socket.socket, *request: bytes) -> None:
        connection.sendall(head)
        while not server_stopped(connection):
            connection.sendall(piece)

    return answer


def server_stopped(connection: socket.socket) -> bool:
    """Wait a moment; return whether the other side has closed."""
    connection.settimeout(0.05)
    try:
        return connection.recv(1) == b""
    except socket.timeout:
        return False
    finally:
        connection.settimeout(30)


@pytest.mark.parametrize(
    "head, piece",
    [
        pytest.param(b"", b"", id="H-5 nothing at all"),
        pytest.param(b"HTTP/1.1 200 O", b"K", id="H-5 status line"),
        pytest.param(b"HTTP/1.1 200 OK\r\nX: ", b"y", id="H-5 header"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nContent-Length: 9999\r\n\r\n", b" ", id="H-5 body"
        ),
        pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", b" ", id="H-5 body without length"),
        pytest.param(
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
            b"1\r\n \r\n",
            id="H-5 chunks",
        ),
    ],
)
def test_a_deadline_holds_against_drips(head: bytes, piece: bytes) -> None:
    with hostile(drip(head, piece)) as server:
        fetcher = Fetcher(server_url=server.url)

        def get() -> None:
            fetcher.get_json(server.url, Deadline.after(0.5), "document")

        def post() -> None:
            fetcher.post_form(server.url, {}, Deadline.after(0.5), "token request")

        with pytest.raises(DiscoveryError, match="no complete answer") as caught:
            bounded(get)
        assert caught.value.retryable
        with pytest.raises(TokenError, match="no complete answer") as refused:
            bounded(post)
        assert retry_of(refused.value) is True


def test_h5_a_request_has_its_own_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert _fetch.REQUEST_SECONDS == 30
    monkeypatch.setattr(_fetch, "REQUEST_SECONDS", 0.5)
    with hostile(drip(b"", b"")) as server:
        fetcher = Fetcher(server_url=server.url)
        for deadline in (soon(), Deadline.after(None)):
            with pytest.raises(DiscoveryError, match="no complete answer"):
                bounded(lambda: fetcher.get_json(server.url, deadline, "document"))
            assert not deadline.expired


def test_an_expired_deadline_sends_nothing(site: Site) -> None:
    deadline = Deadline.after(0.001)
    threading.Event().wait(0.01)
    with pytest.raises(DiscoveryError, match="no time") as caught:
        local(site).get_json(site.base + "/a", deadline, "document")
    assert caught.value.retryable
    assert site.requests == []


def test_a_hanging_resolver(monkeypatch: pytest.MonkeyPatch) -> None:
    gate = threading.Event()

    def hang(*args: Any, **kwargs: Any) -> Any:
        gate.wait(20)
        raise socket.gaierror(socket.EAI_NONAME, "no such host")

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        with pytest.raises(DiscoveryError, match="no complete answer") as caught:
            deadline = Deadline.after(0.5)
            bounded(lambda: public().get_json("https://a.example/", deadline, "x"))
        assert caught.value.retryable
    finally:
        gate.set()


def test_h5_requests_of_one_flow(site: Site) -> None:
    fetcher = local(site)
    for _ in range(DISCOVERY_REQUESTS - 1):
        fetcher.get_json(site.base + "/a", soon(), "document")
    site.routes["/a"] = Reply(302, {"Location": "/b"})
    with pytest.raises(DiscoveryError, match="too many requests"):
        fetcher.get_json(site.base + "/a", soon(), "document")
    assert len(site.requests) == DISCOVERY_REQUESTS == 12
    # Only looking around is limited.
    assert fetcher.post_form(site.base + "/t", {}, soon(), "token").status == 404


# --- redirects ----------------------------------------------------------------------


def chain(site: Site, hops: int, status: int = 302) -> None:
    for number in range(hops):
        site.routes["/%d" % number] = Reply(status, {"Location": "/%d" % (number + 1)})
    site.routes["/%d" % hops] = {"a": 1}


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_h4_three_redirects(site: Site, status: int) -> None:
    chain(site, 3, status)
    result = local(site).get_json(site.base + "/0", soon(), "document")
    assert result.json == {"a": 1}
    assert result.url == site.base + "/3"
    assert {request.method for request in site.requests} == {"GET"}


def test_h4_four_redirects(site: Site) -> None:
    chain(site, 4)
    with pytest.raises(DiscoveryError, match="3 redirects") as caught:
        local(site).get_json(site.base + "/0", soon(), "document")
    assert not caught.value.retryable
    assert site.asked == ["/0", "/1", "/2", "/3"]


@pytest.mark.parametrize(
    "location, reason",
    [
        pytest.param("", "nowhere", id="H-4 nowhere"),
        pytest.param("http://as.example/x", "https", id="H-4 plain http"),
        pytest.param("file:///etc/passwd", "no URL", id="H-4 file"),
        pytest.param("javascript:alert(1)", "no URL", id="H-4 javascript"),
        pytest.param("http://[::1", "no URL", id="H-4 malformed"),
        pytest.param("https://u:p@as.example/", "user", id="H-4 user"),
        pytest.param("https://a\\@as.example/", "characters", id="H-4 backslash"),
        pytest.param("//as.example/x", "https", id="H-4 without scheme"),
    ],
)
def test_each_hop_is_checked(site: Site, location: str, reason: str) -> None:
    site.routes["/a"] = Reply(302, {"Location": location})
    with pytest.raises(DiscoveryError, match=reason) as caught:
        local(site).get_json(site.base + "/a", soon(), "document")
    assert not caught.value.retryable
    assert site.asked == ["/a"]


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_h4_nothing_follows_a_post(site: Site, status: int) -> None:
    with Site({"/stolen": {"access_token": "x"}}) as other:
        site.routes["/token"] = Reply(status, {"Location": other.base + "/stolen"})
        with pytest.raises(TokenError, match="redirects to %s/stolen" % other.base):
            local(site).post_form(
                site.base + "/token", {"code": CANARY}, soon(), "token request"
            )
        with pytest.raises(RegistrationError, match="redirects"):
            local(site).post_json(site.base + "/token", {}, soon(), "registration")
        assert other.requests == []


@pytest.mark.parametrize("location", ["", "http://[::1", "javascript:alert(1)"])
def test_h4_a_post_that_is_redirected_to_no_url(site: Site, location: str) -> None:
    site.routes["/token"] = Reply(307, {"Location": location})
    with pytest.raises(TokenError, match="redirects to no"):
        local(site).post_form(site.base + "/token", {}, soon(), "token request")


def test_a10_a_get_takes_nothing_along(site: Site) -> None:
    with Site({"/b": {"a": 1}}) as other:
        site.routes["/a"] = Reply(
            307, {"Location": other.base + "/b", "Set-Cookie": "a=b; Path=/"}
        )
        assert local(site).get_json(site.base + "/a", soon(), "x").json == {"a": 1}
        assert {"Authorization", "Cookie", "Referer"}.isdisjoint(
            other.requests[0].headers
        )


def test_a11_cookies_are_not_kept(site: Site) -> None:
    site.routes["/a"] = json_reply({}, headers={"Set-Cookie": "a=b; Path=/"})
    fetcher = local(site)
    fetcher.get_json(site.base + "/a", soon(), "document")
    fetcher.get_json(site.base + "/a", soon(), "document")
    fetcher.post_form(site.base + "/a", {}, soon(), "token request")
    assert all("Cookie" not in request.headers for request in site.requests)


def test_a12_credential_files_are_not_read(
    site: Site, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    netrc = tmp_path / ".netrc"
    netrc.write_text("machine 127.0.0.1 login me password %s\n" % CANARY)
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    monkeypatch.setenv("HOME", str(tmp_path))
    # The file would be used by who does not take care.
    assert requests.utils.get_netrc_auth(site.url) == ("me", CANARY)
    fetcher = local(site)
    fetcher.get_json(site.base + "/a", soon(), "document")
    fetcher.post_form(site.base + "/a", {}, soon(), "token request")
    fetcher.post_form(
        site.base + "/a", {}, soon(), "token", headers={"Authorization": "Basic eDp5"}
    )
    sent = [request.headers["Authorization"] for request in site.requests]
    assert sent == [None, None, "Basic eDp5"]


# --- TLS ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def localhost(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


def test_h7_a_certificate_of_nobody_we_know(localhost: Certificate) -> None:
    def answer(connection: socket.socket, *request: bytes) -> None:
        connection.sendall(respond(b"{}"))

    with tls_server(answer, localhost) as server:
        with pytest.raises(DiscoveryError, match="(?i)certificate") as caught:
            Fetcher(server_url=server.url).get_json(server.url, soon(), "document")
        # P-9: it may be an outage, and is never "not there".
        assert caught.value.retryable
        assert server.requests == []
        server.errors.clear()


def test_h7_an_authority_of_our_own(localhost: Certificate) -> None:
    def answer(connection: socket.socket, *request: bytes) -> None:
        connection.sendall(respond(b'{"a": 1}'))

    with tls_server(answer, localhost) as server:
        fetcher = Fetcher(server_url=server.url, verify=localhost.cert)
        assert fetcher.get_json(server.url, soon(), "document").json == {"a": 1}
        assert fetcher.post_form(server.url, {"a": "b"}, soon(), "token").status == 200


def test_h7_an_authority_from_the_environment(
    localhost: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", localhost.cert)
    with tls_server(lambda c, *r: c.sendall(respond(b"{}")), localhost) as server:
        fetcher = Fetcher(server_url=server.url)
        assert fetcher.get_json(server.url, soon(), "document").json == {}


@pytest.mark.parametrize(
    "verify, reason",
    [
        pytest.param(False, "verified", id="H-7 switched off"),
        pytest.param("/nowhere/ca.pem", "/nowhere/ca.pem", id="H-7 no such file"),
    ],
)
def test_verification_is_always_on(verify: Any, reason: str) -> None:
    with pytest.raises(ConfigError, match=reason):
        public(verify=verify)


def test_h4_never_away_from_https(site: Site, localhost: Certificate) -> None:
    moved = respond(b"", "Location: %s/a" % site.base, status="302 Found")
    with tls_server(lambda c, *r: c.sendall(moved), localhost) as server:
        fetcher = Fetcher(server_url=server.url, verify=localhost.cert)
        # Plain http would be fine there, but for where it comes from.
        with pytest.raises(DiscoveryError, match="away from https"):
            fetcher.get_json(server.url, soon(), "document")
    assert site.requests == []


def test_a_deadline_holds_against_a_silent_handshake() -> None:
    with hostile(drip(b"", b""), read_request=False) as server:
        url = server.url.replace("http:", "https:")
        fetcher = Fetcher(server_url=url)
        deadline = Deadline.after(0.5)
        with pytest.raises(DiscoveryError, match="no complete answer") as caught:
            bounded(lambda: fetcher.get_json(url, deadline, "document"))
        assert caught.value.retryable


# --- URLs ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://as.example/token", id="H-1"),
        pytest.param("https://u@as.example/token", id="H-2 user"),
        pytest.param("https://as.example/token#x", id="H-2 fragment"),
        pytest.param("https://127.1/token", id="E-9"),
        pytest.param("file:///etc/passwd", id="H-2 file"),
    ],
)
def test_every_request_checks_its_url(url: str, resolver: Resolver) -> None:
    fetcher = public()
    for ask in (
        lambda: fetcher.get_json(url, soon(), "document"),
        lambda: fetcher.post_form(url, {}, soon(), "token request"),
        lambda: fetcher.post_json(url, {}, soon(), "registration"),
    ):
        with pytest.raises(DiscoveryError, match="is refused"):
            ask()
    assert resolver.asked == []


def test_h1_plain_http_where_the_user_allows_it(site: Site, resolver: Resolver) -> None:
    resolver.names["intranet"] = ["127.0.0.1"]
    site.routes["/a"] = {"a": 1}
    base = "http://intranet:%d" % port_of(site)
    for allowed in ({base}, lambda origin: origin == base):
        fetcher = Fetcher(
            server_url=base + "/mcp", allow_insecure=allowed, user_agent="x"
        )
        assert fetcher.get_json(base + "/a", soon(), "document").json == {"a": 1}
        assert fetcher.check_url(base + "/b", "issuer") == base + "/b"


def test_a_server_url_that_is_none() -> None:
    with pytest.raises(ConfigError, match="no URL"):
        Fetcher(server_url="stdio")


# --- addresses ----------------------------------------------------------------------

SOMEWHERE_PRIVATE = [
    "127.0.0.1",
    "10.0.0.1",
    "169.254.169.254",
    "100.64.0.1",
    "224.0.0.1",
    "0.0.0.0",
    "::1",
    "::ffff:127.0.0.1",
    "64:ff9b::7f00:1",
    "2002:7f00:1::",
    "fe80::1",
    "fd00::1",
]


@pytest.mark.parametrize(
    "address", [pytest.param(a, id="H-3 E-9 " + a) for a in SOMEWHERE_PRIVATE]
)
def test_a_public_server_must_not_point_there(
    address: str, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver.names.update({"mcp.example": [PUBLIC], "as.example": [address]})
    monkeypatch.setattr(socket.socket, "connect", _no_connection)
    fetcher = public()
    url = "https://as.example/a"
    for ask, kind in (
        (lambda: fetcher.get_json(url, soon(), "document"), DiscoveryError),
        (lambda: fetcher.post_form(url, {}, soon(), "token"), TokenError),
        (lambda: fetcher.post_json(url, {}, soon(), "register"), RegistrationError),
        (lambda: fetcher.check_address(url, "endpoint", soon()), DiscoveryError),
    ):
        with pytest.raises(kind, match="no public address") as caught:
            ask()
        assert retry_of(caught.value) is False
        assert address in str(caught.value)


def _no_connection(*args: Any) -> None:
    raise AssertionError("connected to %r" % (args[1:],))


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_h3_nor_say_so_in_the_url(
    host: str, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    resolver.names.update({"mcp.example": [PUBLIC], "localhost": ["::1", "127.0.0.1"]})
    monkeypatch.setattr(socket.socket, "connect", _no_connection)
    with pytest.raises(DiscoveryError, match="no public address"):
        public().get_json("http://%s:9/a" % host, soon(), "document")


def test_h3_h4_nor_redirect_there(
    site: Site, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    # For this test, 127.0.0.1 is a public address.
    pretend_public(monkeypatch, "127.0.0.1", PUBLIC)
    resolver.names.update({"mcp.example": [PUBLIC], "inner.example": ["127.0.0.2"]})
    site.routes["/a"] = Reply(302, {"Location": "https://inner.example/a"})
    with pytest.raises(DiscoveryError, match="127.0.0.2, which is no public"):
        public().get_json(site.base + "/a", soon(), "document")
    assert site.asked == ["/a"]


def pretend_public(patch: pytest.MonkeyPatch, *addresses: str) -> None:
    patch.setattr(_fetch, "is_public_address", lambda address: address in addresses)


def insecure(site: Site, host: str) -> str:
    return "http://%s:%d" % (host, port_of(site))


@pytest.mark.parametrize(
    "server",
    [
        pytest.param("http://localhost:1/mcp", id="H-3 localhost"),
        pytest.param("http://127.0.0.1:1/mcp", id="H-3 loopback address"),
        pytest.param("https://[::1]/mcp", id="H-3 IPv6 loopback address"),
        pytest.param("https://10.0.0.7/mcp", id="H-3 private address"),
        pytest.param("https://inner.example/mcp", id="H-3 name of a private address"),
    ],
)
def test_a_private_server_may(server: str, site: Site, resolver: Resolver) -> None:
    resolver.names.update(
        {"inner.example": ["10.0.0.7", "10.0.0.8"], "as.example": ["127.0.0.1"]}
    )
    site.routes["/a"] = {"a": 1}
    base = insecure(site, "as.example")
    fetcher = Fetcher(server_url=server, allow_insecure={base})
    assert fetcher.get_json(base + "/a", soon(), "document").json == {"a": 1}
    fetcher.check_address(base, "endpoint", soon())


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([PUBLIC], id="H-3 public"),
        pytest.param(["10.0.0.7", PUBLIC], id="H-3 private, and public as well"),
        pytest.param(None, id="H-3 unknown"),
    ],
)
def test_other_servers_may_not(answers: Any, site: Site, resolver: Resolver) -> None:
    resolver.names["as.example"] = ["127.0.0.1"]
    if answers is not None:
        resolver.names["mcp.example"] = answers
    base = insecure(site, "as.example")
    with pytest.raises(DiscoveryError, match="no public address"):
        public(allow_insecure={base}).get_json(base + "/a", soon(), "document")
    assert site.server.connections == 0


def test_h3_the_opt_out(site: Site, resolver: Resolver) -> None:
    resolver.names["as.example"] = ["127.0.0.1"]
    base = insecure(site, "as.example")
    fetcher = public(allow_private=True, allow_insecure={base})
    assert fetcher.get_json(base + "/a", soon(), "document").status == 404
    fetcher.check_address(base, "endpoint", soon())
    assert "mcp.example" not in resolver.asked


@pytest.mark.parametrize(
    "address, allowed",
    [
        pytest.param(PUBLIC, False, id="H-3 public"),
        pytest.param("10.0.0.7", True, id="H-3 private"),
    ],
)
def test_where_the_server_was_reached_decides(
    address: str, allowed: bool, site: Site, resolver: Resolver
) -> None:
    # The resolver says the opposite: whoever runs the server may change its name's
    # address between two questions.
    other = PUBLIC if allowed else "10.0.0.7"
    resolver.names.update({"mcp.example": [other], "as.example": ["127.0.0.1"]})
    base = insecure(site, "as.example")
    fetcher = public(server_address=address, allow_insecure={base})
    if allowed:
        assert fetcher.get_json(base + "/a", soon(), "document").status == 404
    else:
        with pytest.raises(DiscoveryError, match="no public address"):
            fetcher.get_json(base + "/a", soon(), "document")
    assert "mcp.example" not in resolver.asked


def test_e10_a_name_is_looked_up_once(
    site: Site, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_public(monkeypatch, "127.0.0.1", PUBLIC)
    resolver.names.update(
        {
            "mcp.example": [PUBLIC],
            "as.example": [["127.0.0.1"], ["127.0.0.2"]],
        }
    )
    site.routes["/a"] = {"a": 1}
    base = insecure(site, "as.example")
    fetcher = public(allow_insecure={base})
    assert fetcher.get_json(base + "/a", soon(), "document").json == {"a": 1}
    assert resolver.asked == ["as.example"]
    # Another request asks again, and its answer is checked again.
    with pytest.raises(DiscoveryError, match="127.0.0.2, which is no public"):
        fetcher.get_json(base + "/a", soon(), "document")
    assert resolver.asked.count("as.example") == 2


def test_e10_only_public_addresses_of_a_host_are_tried(
    site: Site, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretend_public(monkeypatch, "127.0.0.1", PUBLIC)
    tried: List[Any] = []
    connect = socket.socket.connect

    def note(self: socket.socket, address: Any) -> None:
        tried.append(address[0])
        connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", note)
    resolver.names.update(
        {"mcp.example": [PUBLIC], "as.example": ["127.0.0.2", "127.0.0.1"]}
    )
    base = insecure(site, "as.example")
    fetcher = public(allow_insecure={base})
    assert fetcher.get_json(base + "/a", soon(), "document").status == 404
    assert tried == ["127.0.0.1"]


def test_h3_an_endpoint_that_nobody_can_look_up_passes(resolver: Resolver) -> None:
    public().check_address("https://as.example/authorize", "endpoint", soon())


# --- proxies ------------------------------------------------------------------------


@pytest.fixture
def proxy() -> Iterator[ScriptedServer]:
    """Run a proxy for plain http; it answers itself."""
    with ScriptedServer(lambda request: json_reply({"asked": request.path})) as server:
        yield server


def test_h6_a_proxy_connects_by_itself(
    proxy: ScriptedServer, resolver: Resolver
) -> None:
    resolver.names["as.example"] = ["10.0.0.1"]
    base = "http://as.example"
    fetcher = public(allow_insecure={base}, proxies={"http": proxy.url})
    result = fetcher.get_json(base + "/a", soon(), "document")
    assert result.json == {"asked": "http://as.example/a"}
    fetcher.check_address(base, "endpoint", soon())
    assert resolver.asked == []


def test_h6_a_proxy_of_the_environment(
    proxy: ScriptedServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    base = "http://as.example"
    result = public(allow_insecure={base}).get_json(base + "/a", soon(), "document")
    assert result.json == {"asked": "http://as.example/a"}
    assert resolver.asked == []


def test_h6_the_check_is_left_out_only_for_a_proxy_that_is_used(
    proxy: ScriptedServer, resolver: Resolver, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "as.example")
    resolver.names.update({"mcp.example": [PUBLIC], "as.example": ["127.0.0.1"]})
    base = "http://as.example"
    with pytest.raises(DiscoveryError, match="no public address"):
        public(allow_insecure={base}).get_json(base + "/a", soon(), "document")
    with pytest.raises(DiscoveryError, match="no public address"):
        public(proxies={"http": proxy.url}).get_json(
            "https://as.example/a", soon(), "document"
        )
    assert proxy.connections == 0


def test_h6_this_machine_is_asked_directly(
    site: Site, proxy: ScriptedServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", proxy.url)
    site.routes["/a"] = {"a": 1}
    assert local(site).get_json(site.base + "/a", soon(), "x").json == {"a": 1}
    assert proxy.connections == 0
    # But the user knows better.
    told = local(site, proxies={"http": proxy.url})
    assert told.get_json(site.base + "/a", soon(), "x").json == {
        "asked": site.base + "/a"
    }


def test_h6_https_through_a_proxy(localhost: Certificate, resolver: Resolver) -> None:
    def tunnel(connection: socket.socket, head: bytes, body: bytes) -> None:
        assert head.startswith(b"CONNECT localhost:")
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        with socket.create_connection(("127.0.0.1", server.port)) as onward:
            _pump(connection, onward)

    with tls_server(lambda c, *r: c.sendall(respond(b"{}")), localhost) as server:
        with hostile(tunnel) as between:
            fetcher = public(verify=localhost.cert, proxies={"https": between.url})
            assert fetcher.get_json(server.url, soon(), "document").json == {}
    assert resolver.asked == []


def _pump(one: socket.socket, other: socket.socket) -> None:
    """Carry bytes both ways until the server ends."""

    def onward() -> None:
        while True:
            data = one.recv(65536)
            if not data:
                return
            other.sendall(data)

    thread = threading.Thread(target=onward, daemon=True)
    thread.start()
    while True:
        data = other.recv(65536)
        if not data:
            break
        one.sendall(data)
    one.shutdown(socket.SHUT_RDWR)
    thread.join(5)


# --- secrets ------------------------------------------------------------------------


def everything(error: BaseException) -> str:
    """Return what people and their tools get to see of an exception."""
    seen = ""
    current: Any = error
    while current is not None:
        seen += "%s %r %r" % (current, current, vars(current))
        current = current.__cause__
    return seen


@pytest.mark.parametrize(
    "value", ["Basic %s\r\nX: y" % CANARY, "Basic %s\u20ac" % CANARY, " " + CANARY]
)
def test_a_header_that_cannot_be_sent(site: Site, value: str) -> None:
    headers = {"Authorization": value}
    with pytest.raises(TokenError, match="cannot be") as caught:
        local(site).post_form(site.base + "/t", {}, soon(), "token", headers=headers)
    assert CANARY not in everything(caught.value)
    assert retry_of(caught.value) is False
    assert site.requests == []


@pytest.mark.parametrize(
    "answer",
    [
        pytest.param(("HTTP/9 %s\r\n\r\n" % CANARY).encode(), id="status line"),
        pytest.param(("%s\r\n\r\n" % CANARY).encode(), id="no HTTP"),
        pytest.param(
            respond(b"{}", "Content-Encoding: " + CANARY), id="content encoding"
        ),
        pytest.param(
            respond(b"", "Location: https://a/" + CANARY, status="302 Found"),
            id="redirect",
        ),
    ],
)
def test_what_was_sent_does_not_come_back(answer: bytes) -> None:
    with hostile(lambda connection, *request: connection.sendall(answer)) as server:
        with pytest.raises(TokenError) as caught:
            Fetcher(server_url=server.url).post_form(
                server.url, {"refresh_token": CANARY}, soon(), "token request"
            )
        with pytest.raises(TokenError) as again:
            Fetcher(server_url=server.url).post_form(
                server.url, {}, soon(), "token", headers={"X": "DPoP " + CANARY}
            )
    assert CANARY not in str(caught.value) + str(again.value)


def test_a_failure_does_not_carry_the_request() -> None:
    with hostile(lambda connection, *request: None) as server:
        with pytest.raises(TokenError) as caught:
            Fetcher(server_url=server.url).post_form(
                server.url, {"refresh_token": CANARY}, soon(), "token request"
            )
    cause = caught.value.__cause__
    assert isinstance(cause, requests.RequestException)
    assert cause.request is None


def test_nothing_is_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.routes["/token"] = {"access_token": CANARY}
    with caplog.at_level(logging.DEBUG):
        local(site).post_form(
            site.base + "/token", {"code": CANARY}, soon(), "token request"
        )
    assert CANARY not in caplog.text


# --- keeping nothing ----------------------------------------------------------------


def test_no_connection_stays_open(site: Site) -> None:
    fetcher = local(site)
    for _ in range(3):
        fetcher.get_json(site.base + "/a", soon(), "document")
    assert site.server.connections == 3
    assert bounded(lambda: _closed(site))


def _closed(site: Site) -> bool:
    while site.server.open_connections:
        threading.Event().wait(0.01)
    return True


FORKS = """
import os, stat, sys, threading
from mcpsync._deadline import Deadline
from mcpsync.auth._fetch import Fetcher

def sockets():
    found = 0
    for number in range(3, 256):
        try:
            found += stat.S_ISSOCK(os.fstat(number).st_mode)
        except OSError:
            pass
    return found

def ask():
    result = Fetcher(server_url=url).get_json(url, Deadline.after(20), "document")
    print("parent", result.json, flush=True)

url = sys.argv[1]
thread = threading.Thread(target=ask)
thread.start()
sys.stdin.readline()
print("before", sockets(), flush=True)
child = os.fork()
if not child:
    print("child", sockets(), flush=True)
    os._exit(0)
os.waitpid(child, 0)
print("after", sockets(), flush=True)
thread.join()
"""


def test_a_forked_child_keeps_no_connection(site: Site) -> None:
    gate = threading.Event()
    site.routes["/a"] = Reply(200, {}, [b'{"a"', gate, b": 1}"])
    root = Path(_fetch.__file__).parents[2]
    with subprocess.Popen(
        [sys.executable, "-c", FORKS, site.base + "/a"],
        cwd=str(root),
        env={**os.environ, "PYTHONPATH": str(root)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        try:
            site.server.await_requests(1)
            process.stdin.write("go\n")
            process.stdin.flush()
            lines = [process.stdout.readline() for _ in range(3)]
            gate.set()
            lines.append(process.stdout.readline())
            assert process.wait(20) == 0
        finally:
            process.kill()
    assert [line.rstrip() for line in lines] == [
        "before 1",
        "child 0",
        "after 1",
        "parent {'a': 1}",
    ]


def test_threads_may_share_a_fetcher(site: Site) -> None:
    gate = threading.Barrier(4)

    def together(request: Recorded) -> Reply:
        gate.wait(10)
        return json_reply({"path": request.path})

    fetcher = local(site)
    found: Dict[int, Any] = {}

    def ask(number: int) -> None:
        path = "/%d" % number
        found[number] = fetcher.get_json(site.base + path, soon(), "document").json

    for number in range(4):
        site.routes["/%d" % number] = together
    threads = [threading.Thread(target=ask, args=(n,), daemon=True) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(15)
    assert found == {number: {"path": "/%d" % number} for number in range(4)}
