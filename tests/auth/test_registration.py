"""Which client to be at an authorization server, and how to become one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Iterator, List, Optional

import pytest

from mcpsync._version import __version__
from mcpsync.auth._fetch import Fetcher
from mcpsync.auth._records import ClientRecord, ServerMetadata
from mcpsync.auth.registration import (
    check_client_id_url,
    check_client_metadata,
    choose_client,
    client_metadata_document,
    register,
)
from mcpsync.exceptions import (
    ConfigError,
    DiscoveryError,
    IssuerMismatch,
    RegistrationError,
)

from ..fakes import CANARY
from ..fakes.scripted_http import Reply, json_reply
from ..fakes.tls import certificate, tls_server
from .sites import Answer, Site, html, soon

LOOPBACK = "http://127.0.0.1:3000/callback"
ISSUER = "https://as.example"

SERVER = ServerMetadata(
    ISSUER,
    ISSUER + "/token",
    registration_endpoint=ISSUER + "/register",
    client_id_metadata_document_supported=True,
)

CONFIGURED = ClientRecord("mine", kind="preregistered", issuer=ISSUER)
HOSTED = ClientRecord("https://app.example/client.json", kind="cimd")
STORED = ClientRecord("stored", redirect_uris=(LOOPBACK,), issuer=ISSUER)


# --- which client -------------------------------------------------------------------


@pytest.mark.parametrize(
    "given, expected",
    [
        pytest.param((CONFIGURED, HOSTED, STORED), CONFIGURED, id="R-1 by hand"),
        pytest.param((None, HOSTED, STORED), HOSTED, id="R-1 metadata document"),
        pytest.param((None, None, STORED), STORED, id="R-1 registered before"),
        pytest.param((None, None, None), None, id="R-1 register now"),
    ],
)
def test_order(given: Any, expected: Optional[ClientRecord]) -> None:
    configured, hosted, stored = given
    found = choose_client(
        SERVER,
        configured=configured,
        hosted=hosted,
        stored=stored,
        redirect_uri=LOOPBACK,
    )
    assert found == expected


def test_r1_a_server_that_reads_no_metadata_documents() -> None:
    other = replace(SERVER, client_id_metadata_document_supported=False)
    assert choose_client(other, hosted=HOSTED, stored=STORED) == STORED
    assert choose_client(other, hosted=HOSTED) is None


def test_r1_no_way_to_be_known() -> None:
    closed = replace(SERVER, registration_endpoint=None)
    with pytest.raises(RegistrationError, match="client_id") as caught:
        choose_client(closed)
    assert ISSUER in str(caught.value)
    assert choose_client(closed, stored=STORED) == STORED


@pytest.mark.parametrize(
    "change, usable",
    [
        pytest.param({}, True, id="R-9 same issuer"),
        pytest.param({"issuer": "https://other.example"}, False, id="R-9 other issuer"),
        pytest.param({"issuer": ISSUER + "/"}, False, id="R-9 exactly"),
        pytest.param({"issuer": None}, False, id="R-9 unknown issuer"),
        pytest.param({"redirect_uris": ()}, False, id="R-12 no redirect URI"),
        pytest.param(
            {"redirect_uris": ("http://127.0.0.1:3001/callback",)},
            False,
            id="R-12 other redirect URI",
        ),
        pytest.param(
            {"redirect_uris": ("https://x/", LOOPBACK)}, True, id="R-12 one of several"
        ),
        pytest.param({"secret_expires_at": 1001.0}, True, id="R-8 secret is good"),
        pytest.param({"secret_expires_at": 1000.0}, False, id="R-8 secret has expired"),
    ],
)
def test_stored_registrations(change: Dict[str, Any], usable: bool) -> None:
    stored = replace(STORED, **change)
    found = choose_client(SERVER, stored=stored, redirect_uri=LOOPBACK, now=1000.0)
    assert found == (stored if usable else None)


@pytest.mark.parametrize(
    "registered, wanted, usable",
    [
        pytest.param(("a", "b"), ("b",), True, id="fewer"),
        pytest.param(("a",), ("a", "b"), False, id="more"),
        pytest.param((), ("a",), False, id="none so far"),
        pytest.param(("a",), None, True, id="left to the server"),
        pytest.param(None, ("a",), True, id="nobody knows"),
    ],
)
def test_a_registration_is_good_for_its_scopes(
    registered: Any, wanted: Any, usable: bool
) -> None:
    stored = replace(STORED, scopes=registered)
    found = choose_client(SERVER, stored=stored, scopes=wanted)
    assert found is (stored if usable else None)
    # Better than none.
    closed = replace(SERVER, registration_endpoint=None)
    assert choose_client(closed, stored=stored, scopes=wanted) is stored


def test_r12_a_redirect_uri_that_is_not_known_yet() -> None:
    assert choose_client(SERVER, stored=STORED) == STORED


def test_r9_a_configured_client_of_another_issuer() -> None:
    other = replace(CONFIGURED, issuer="https://other.example", client_secret=CANARY)
    with pytest.raises(IssuerMismatch, match="other.example") as caught:
        choose_client(SERVER, configured=other, stored=STORED)
    assert ISSUER in str(caught.value) and "mine" in str(caught.value)


def test_r10_a_configured_client_is_bound_to_its_first_issuer() -> None:
    unbound = replace(CONFIGURED, issuer=None, client_secret="s")
    assert choose_client(SERVER, configured=unbound) == replace(unbound, issuer=ISSUER)


# --- registering --------------------------------------------------------------------


@pytest.fixture
def site() -> Iterator[Site]:
    with Site({"/register": json_reply({"client_id": "c1"}, status=201)}) as site:
        yield site


def metadata(site: Site, **more: Any) -> ServerMetadata:
    return ServerMetadata(
        site.base,
        site.base + "/token",
        registration_endpoint=site.base + "/register",
        **more,
    )


def enlist(site: Site, uris: Any = (LOOPBACK,), scope: Any = None) -> ClientRecord:
    return register(
        Fetcher(server_url=site.url), metadata(site), uris, scope, "Tests", soon()
    )


def body_of(site: Site) -> Dict[str, Any]:
    (request,) = site.requests
    assert (request.method, request.path) == ("POST", "/register")
    body = request.json
    assert isinstance(body, dict)
    return body


def test_r5_what_is_registered(site: Site) -> None:
    assert enlist(site, scope=("a", "b")).scopes == ("a", "b")
    assert body_of(site) == {
        "client_name": "Tests",
        "redirect_uris": [LOOPBACK],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "client_secret_basic",
        "application_type": "native",
        "scope": "a b",
        "software_id": "mcpsync",
        "software_version": __version__,
    }


@pytest.mark.parametrize("scope", [None, ()])
def test_r5_no_scope(site: Site, scope: Any) -> None:
    assert enlist(site, scope=scope).scopes == ()
    assert "scope" not in body_of(site)


@pytest.mark.parametrize(
    "uris, expected",
    [
        pytest.param([LOOPBACK], "native", id="R-6 loopback address"),
        pytest.param(["http://localhost:1/cb"], "native", id="R-6 localhost"),
        pytest.param(["http://[::1]:1/cb"], "native", id="R-6 IPv6 loopback"),
        pytest.param(["https://127.0.0.1/cb"], "native", id="R-6 loopback with TLS"),
        pytest.param(["com.example.app:/cb"], "native", id="R-6 own scheme"),
        pytest.param(["https://app.example/cb"], "web", id="R-6 other host"),
        pytest.param([LOOPBACK, "https://app.example/cb"], "web", id="R-6 both"),
    ],
)
def test_application_type(site: Site, uris: List[str], expected: str) -> None:
    record = enlist(site, uris)
    assert body_of(site)["application_type"] == expected
    assert record.redirect_uris == tuple(uris)


@pytest.mark.parametrize(
    "offered, expected",
    [
        pytest.param(None, "client_secret_basic", id="R-5 nothing said"),
        pytest.param(("none",), "none", id="R-5 none"),
        pytest.param(("client_secret_post",), "client_secret_post", id="R-5 post"),
        pytest.param(("client_secret_basic",), "client_secret_basic", id="R-5 basic"),
        pytest.param(
            ("client_secret_post", "client_secret_basic", "none"), "none", id="R-5 all"
        ),
        pytest.param(
            ("private_key_jwt", "client_secret_post", "client_secret_basic"),
            "client_secret_basic",
            id="R-5 with secrets",
        ),
    ],
)
def test_method_of_authentication(site: Site, offered: Any, expected: str) -> None:
    server = metadata(site, token_endpoint_auth_methods_supported=offered)
    register(Fetcher(server_url=site.url), server, [LOOPBACK], None, "x", soon())
    assert body_of(site)["token_endpoint_auth_method"] == expected


@pytest.mark.parametrize("offered", [(), ("private_key_jwt", "tls_client_auth")])
def test_r5_methods_that_nobody_has_here(site: Site, offered: Any) -> None:
    server = metadata(site, token_endpoint_auth_methods_supported=offered)
    with pytest.raises(RegistrationError, match="identify themselves"):
        register(Fetcher(server_url=site.url), server, [LOOPBACK], None, "x", soon())
    assert site.requests == []


def test_r1_a_server_without_registration(site: Site) -> None:
    server = replace(metadata(site), registration_endpoint=None)
    with pytest.raises(RegistrationError, match="registers no clients"):
        register(Fetcher(server_url=site.url), server, [LOOPBACK], None, "x", soon())


@pytest.mark.parametrize("status", [200, 201])
def test_r8_a_public_client(site: Site, status: int) -> None:
    answer = {
        "client_id": "c1",
        "client_secret": None,
        "token_endpoint_auth_method": "none",
        "issuer": "https://evil.example",
        "unknown": 1,
    }
    site.routes["/register"] = json_reply(answer, status=status)
    assert enlist(site) == ClientRecord(
        client_id="c1",
        auth_method="none",
        redirect_uris=(LOOPBACK,),
        kind="dcr",
        issuer=site.base,
    )


def test_r8_r11_a_confidential_client(site: Site) -> None:
    answer = {
        "client_id": "c1",
        "client_secret": CANARY,
        "client_secret_expires_at": 2000000000,
        "token_endpoint_auth_method": "client_secret_post",
    }
    site.routes["/register"] = json_reply(answer, status=201)
    record = enlist(site)
    assert record.client_secret == CANARY
    assert record.auth_method == "client_secret_post"
    assert record.secret_expires_at == 2000000000
    assert CANARY not in repr(record)


@pytest.mark.parametrize(
    "answer, expected",
    [
        pytest.param({}, (None, None, None), id="R-8 id alone"),
        pytest.param(
            {"client_secret": "", "token_endpoint_auth_method": ""},
            (None, None, None),
            id="R-8 empty is absent",
        ),
        pytest.param(
            {"client_secret": "s"}, ("s", None, None), id="R-8 secret without method"
        ),
        pytest.param(
            {"client_secret": "s", "token_endpoint_auth_method": "none"},
            ("s", "none", None),
            id="R-8 secret that is not needed",
        ),
        pytest.param(
            {"client_secret_expires_at": 0}, (None, None, None), id="R-8 zero is never"
        ),
        pytest.param(
            {"client_secret_expires_at": 5.5}, (None, None, 5.5), id="R-8 fraction"
        ),
        pytest.param(
            {"client_secret_expires_at": -1}, (None, None, None), id="R-8 negative"
        ),
        pytest.param(
            {"client_secret_expires_at": True}, (None, None, None), id="R-8 true"
        ),
        pytest.param(
            {"client_secret_expires_at": "soon"}, (None, None, None), id="R-8 a word"
        ),
        pytest.param(
            {"client_secret_expires_at": 10**399}, (None, None, None), id="R-8 huge"
        ),
    ],
)
def test_answers(site: Site, answer: Dict[str, Any], expected: Any) -> None:
    site.routes["/register"] = json_reply({"client_id": "c1", **answer})
    record = enlist(site)
    assert record.client_id == "c1"
    assert (
        record.client_secret,
        record.auth_method,
        record.secret_expires_at,
    ) == expected


UNUSABLE: List[Any] = [
    ("no id", {"x": 1}, "no client_id"),
    ("null", {"client_id": None}, "no client_id"),
    ("empty id", {"client_id": ""}, "no client_id"),
    ("number", {"client_id": 5}, "malformed client_id"),
    ("line break", {"client_id": "a\nb"}, "malformed client_id"),
    ("not ASCII", {"client_id": "\xe9"}, "malformed client_id"),
    ("long", {"client_id": "x" * 5000}, "malformed client_id"),
    ("secret number", {"client_id": "c", "client_secret": 5}, "client_secret"),
    (
        "method that needs a secret",
        {"client_id": "c", "token_endpoint_auth_method": "client_secret_basic"},
        "no client_secret",
    ),
    (
        "method that needs a secret, which is empty",
        {
            "client_id": "c",
            "client_secret": "",
            "token_endpoint_auth_method": "client_secret_post",
        },
        "no client_secret",
    ),
    (
        "unknown method",
        {"client_id": "c", "token_endpoint_auth_method": "private_key_jwt"},
        "private_key_jwt",
    ),
    (
        "method is a list",
        {"client_id": "c", "token_endpoint_auth_method": ["none"]},
        "malformed token_endpoint_auth_method",
    ),
    ("list", json_reply([{"client_id": "c"}]), "no JSON object"),
    ("string", json_reply("c"), "no JSON object"),
    ("a web page", html(), "not JSON"),
    ("empty", Reply(201), "empty"),
]


@pytest.mark.parametrize(
    "answer, reason", [pytest.param(a, r, id="R-8 " + i) for i, a, r in UNUSABLE]
)
def test_unusable_answers(site: Site, answer: Answer, reason: str) -> None:
    site.routes["/register"] = answer
    with pytest.raises(RegistrationError, match=reason) as caught:
        enlist(site)
    assert site.base + "/register" in str(caught.value)
    assert len(site.requests) == 1


@pytest.mark.parametrize(
    "reply, told",
    [
        pytest.param(
            json_reply(
                {
                    "error": "invalid_redirect_uri",
                    "error_description": "no \x1b[31mloopback\nplease",
                },
                status=400,
            ),
            ["invalid_redirect_uri: no \\x1b[31mloopback\\nplease"],
            id="R-7 reason",
        ),
        pytest.param(
            json_reply({"error_description": "x" * 5000}, status=403),
            ["x" * 300 + "…"],
            id="R-7 long reason",
        ),
        pytest.param(Reply(400), ["HTTP status 400"], id="R-7 no reason"),
        pytest.param(html(403), ["HTTP status 403"], id="R-7 a web page"),
        pytest.param(
            json_reply({"error": 5}, status=401), ["HTTP status 401"], id="R-7 number"
        ),
        pytest.param(json_reply(["x"], 400), ["HTTP status 400"], id="R-7 list"),
        pytest.param(
            json_reply({"client_id": "c1"}, status=202), ["202"], id="R-8 202"
        ),
    ],
)
def test_refusals(site: Site, reply: Reply, told: List[str]) -> None:
    site.routes["/register"] = reply
    with pytest.raises(RegistrationError) as caught:
        enlist(site)
    for text in [*told, LOOPBACK, site.base + "/register"]:
        assert text in str(caught.value)
    assert len(site.requests) == 1


def test_h4_a_registration_is_not_redirected(site: Site) -> None:
    site.routes["/register"] = Reply(307, {"Location": "/elsewhere"})
    site.routes["/elsewhere"] = json_reply({"client_id": "c1"}, status=201)
    with pytest.raises(RegistrationError, match="redirects to"):
        enlist(site)
    assert site.asked == ["/register"]


def test_h1_a_registration_over_plain_http(site: Site) -> None:
    server = replace(metadata(site), registration_endpoint="http://as.example/r")
    with pytest.raises(DiscoveryError, match="https"):
        register(Fetcher(server_url=site.url), server, [LOOPBACK], None, "x", soon())


# --- metadata documents -------------------------------------------------------------


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("https://app.example/client.json", id="R-2 path"),
        pytest.param("https://app.example:8443/a/b?v=1", id="R-2 port and query"),
    ],
)
def test_client_id_urls(url: str) -> None:
    assert check_client_id_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("http://app.example/client.json", id="R-2 http"),
        pytest.param("http://localhost/client.json", id="R-2 http, this machine"),
        pytest.param("https://app.example", id="R-2 no path"),
        pytest.param("https://app.example/", id="R-2 root"),
        pytest.param("https://app.example/c#x", id="R-2 fragment"),
        pytest.param("https://u:%s@app.example/c" % CANARY, id="R-2 user"),
        pytest.param("https://app.example/a/../c", id="R-2 dot segments"),
        pytest.param("https://app.example/./c", id="R-2 one dot"),
        pytest.param("client", id="R-2 no URL"),
    ],
)
def test_urls_that_are_no_client_id(url: str) -> None:
    with pytest.raises(ConfigError, match="client metadata document") as caught:
        check_client_id_url(url)
    assert CANARY not in str(caught.value)
    with pytest.raises(ConfigError):
        client_metadata_document(url, [LOOPBACK])


URL = "https://app.example/client.json"


def test_r2_the_document() -> None:
    uris = ["http://127.0.0.1:3000/callback", "http://localhost:3000/callback"]
    assert client_metadata_document(URL, uris, "My App", scope=["a", "b"]) == {
        "client_id": URL,
        "client_name": "My App",
        "redirect_uris": uris,
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": "none",
        "application_type": "native",
        "scope": "a b",
    }


def test_r4_a_document_with_a_key() -> None:
    document = client_metadata_document(
        URL, [LOOPBACK], auth_method="private_key_jwt", extra={"jwks_uri": "https://x"}
    )
    assert document["token_endpoint_auth_method"] == "private_key_jwt"
    assert document["jwks_uri"] == "https://x"


def test_r2_documents_that_nobody_could_use() -> None:
    with pytest.raises(ConfigError, match="redirect URI"):
        client_metadata_document(URL, [])
    with pytest.raises(ConfigError, match="client_secret_post"):
        client_metadata_document(URL, [LOOPBACK], auth_method="client_secret_post")


def test_r2_the_hosted_document(tmp_path_factory: pytest.TempPathFactory) -> None:
    made = certificate(tmp_path_factory.mktemp("tls"))
    served: List[bytes] = []

    def answer(connection: Any, head: bytes, body: bytes) -> None:
        connection.sendall(served[0])

    def flaws(*uris: str) -> List[str]:
        fetcher = Fetcher(server_url=server.url, verify=made.cert)
        return check_client_metadata(fetcher, url, uris, soon())

    with tls_server(answer, made) as server:
        url = server.url.replace("/mcp", "/client.json")
        served[:] = [_http(client_metadata_document(url, [LOOPBACK]))]
        assert flaws(LOOPBACK) == []
        assert flaws(LOOPBACK, "http://localhost:1/cb") == [
            "its redirect_uris lack http://localhost:1/cb"
        ]
        served[:] = [_http({"client_id": url + "/", "redirect_uris": LOOPBACK})]
        assert flaws(LOOPBACK) == [
            "its client_id is not its URL",
            "it has no client_name",
            "its redirect_uris lack " + LOOPBACK,
        ]
        served[:] = [_http([])]
        assert flaws(LOOPBACK) == ["there is no JSON object: something else"]
        served[:] = [b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"]
        assert flaws(LOOPBACK) == ["there is no JSON object: HTTP status 404"]
        with pytest.raises(ConfigError):
            check_client_metadata(
                Fetcher(server_url=server.url), server.url + "#x", [], soon()
            )


def _http(value: Any) -> bytes:
    body = json_reply(value).body
    assert isinstance(body, bytes)
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body)
