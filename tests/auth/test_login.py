"""Logging in: the URL, the record of it, and the answer."""

from __future__ import annotations

import dataclasses
import json
import re
import time
import urllib.parse
from typing import Any, Callable, Dict, Optional

import pytest

from mcpsync.auth._records import ClientRecord, ServerMetadata
from mcpsync.auth.login import (
    PendingLogin,
    WrongState,
    code_challenge,
    read_callback,
    require_s256,
)
from mcpsync.exceptions import (
    AuthorizationError,
    ConfigError,
    DiscoveryError,
    IssuerMismatch,
    LoginRequired,
)

from ..fakes import CANARY
from .logins import CODE, ISSUER, callback, pending_login, query


def parameters(url: str) -> Dict[str, str]:
    pairs = urllib.parse.parse_qsl(
        urllib.parse.urlsplit(url).query, keep_blank_values=True, strict_parsing=True
    )
    assert len(dict(pairs)) == len(pairs), "a parameter twice"
    return dict(pairs)


def aged(pending: PendingLogin, seconds: float) -> PendingLogin:
    return dataclasses.replace(pending, created=time.time() - seconds)


# --- proof key for code exchange ----------------------------------------------------


def test_the_challenge_is_that_of_the_specification() -> None:
    # RFC 7636, appendix B.
    verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    assert code_challenge(verifier) == "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM"


def test_each_login_has_secrets_of_its_own() -> None:
    logins = [pending_login() for _ in range(50)]
    assert len({one.state for one in logins} | {one.verifier for one in logins}) == 100
    for one in logins:
        assert re.fullmatch(r"[A-Za-z0-9\-._~]{43,128}", one.verifier)
        assert len(one.state) >= 22


def server(found: bool = True, methods: Any = None) -> ServerMetadata:
    return ServerMetadata(
        ISSUER,
        "https://as.example/token",
        code_challenge_methods_supported=methods,
        found=found,
    )


@pytest.mark.parametrize(
    "metadata, waived, fine",
    [
        pytest.param(server(methods=("S256",)), False, True, id="S256"),
        pytest.param(server(methods=("plain", "S256")), False, True, id="both"),
        pytest.param(server(methods=("plain",)), False, False, id="plain"),
        pytest.param(server(methods=("plain",)), True, False, id="plain, waived"),
        pytest.param(server(methods=()), False, False, id="none"),
        pytest.param(server(), False, False, id="not said"),
        pytest.param(server(), True, True, id="not said, waived"),
        pytest.param(server(found=False), False, True, id="no metadata"),
    ],
)
def test_only_servers_that_offer_s256_are_used(
    metadata: ServerMetadata, waived: bool, fine: bool
) -> None:
    if fine:
        require_s256(metadata, waived)
        return
    with pytest.raises(DiscoveryError, match="https://as.example/tenant.*S256"):
        require_s256(metadata, waived)


# --- the URL ------------------------------------------------------------------------


def test_the_url_says_everything_once() -> None:
    pending = pending_login()
    url = pending.authorization_url
    assert url.partition("?")[0] == "https://as.example/authorize"
    assert parameters(url) == {
        "response_type": "code",
        "client_id": "the-client",
        "redirect_uri": "http://127.0.0.1:4321/callback",
        "code_challenge": code_challenge(pending.verifier),
        "code_challenge_method": "S256",
        "state": pending.state,
        "scope": "read write",
        "resource": "https://mcp.example/mcp",
    }
    assert pending.verifier not in url


@pytest.mark.parametrize("scopes", [None, ()])
def test_what_is_not_wanted_is_not_asked_for(scopes: Any) -> None:
    url = pending_login(scopes=scopes, resource=None).authorization_url
    assert not {"scope", "resource", "prompt"} & set(parameters(url))


def test_consent_is_asked_for_on_demand() -> None:
    url = pending_login(consent=True).authorization_url
    assert parameters(url)["prompt"] == "consent"


def test_the_endpoints_own_query_stays_as_it_is() -> None:
    endpoint = "https://as.example/authorize?tenant=a%2Fb&prompt=login&flag"
    url = pending_login(authorization_endpoint=endpoint).authorization_url
    assert url.startswith(endpoint + "&response_type=code&")


def test_no_parameter_of_ours_comes_from_the_endpoint() -> None:
    endpoint = "https://as.example/authorize?st%61te=theirs&x=1&response_type=token"
    pending = pending_login(authorization_endpoint=endpoint)
    asked = parameters(pending.authorization_url)
    assert (asked["state"], asked["response_type"]) == (pending.state, "code")
    assert asked["x"] == "1"


ENDPOINTS = [
    "javascript:alert(1)",
    "JavaScript://as.example/%0aalert(1)",
    "data:text/html,x",
    "file:///etc/passwd",
    "vbscript:x",
    "ms-msdt:/id",
    "ftp://as.example/",
    "-flag",
    "--flag=https://as.example/",
    "//as.example/authorize",
    "/authorize",
    "",
    "http://as.example/authorize",
    "https://as.example/authorize#fragment",
    "https://user:password@as.example/authorize",
    "https://as.example/a b",
    "https://as.example/a\nb",
    'https://as.example/"',
    "https://as.example/`id`",
    "https://as.example/|id",
    "https://as.example/\\",
    "https://as.example\\@other.example/",
    "https://as.exämple/",
    "https://as.example/" + "a" * 100_000,
    "https://",
    "https://as.example:99999/",
]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda url: repr(url[:40]))
def test_an_endpoint_that_is_no_page_is_refused(endpoint: str) -> None:
    with pytest.raises(DiscoveryError):
        pending_login(authorization_endpoint=endpoint).authorization_url


@pytest.mark.parametrize(
    "endpoint", ["https://as.example/$(calc)", "https://as.example/?a=&calc;'x'%20"]
)
def test_what_only_a_shell_would_mind_is_encoded(endpoint: str) -> None:
    url = pending_login(authorization_endpoint=endpoint).authorization_url
    assert re.fullmatch(r"https://[!-~]+", url) and not re.search("[!$'()*;]", url)
    assert urllib.parse.unquote(url).startswith(urllib.parse.unquote(endpoint))


def test_odd_values_are_encoded() -> None:
    pending = pending_login(
        client=ClientRecord('a b"&c=é'), scopes=("x y", "-z"), resource="https://m/?&#"
    )
    url = pending.authorization_url
    assert re.fullmatch(r"https://[!-~]+", url) and '"' not in url
    asked = parameters(url)
    assert (asked["client_id"], asked["resource"]) == ('a b"&c=é', "https://m/?&#")


def test_a_server_without_authorization_endpoint_is_no_place_to_log_in() -> None:
    with pytest.raises(DiscoveryError, match="no authorization endpoint"):
        pending_login(authorization_endpoint=None)


@pytest.mark.parametrize(
    "uri", ["http://app.example/callback", "myapp:/callback", "https://a.example/#x"]
)
def test_a_redirect_uri_is_https_or_of_this_machine(uri: str) -> None:
    with pytest.raises(ConfigError, match="redirect URI"):
        pending_login(redirect_uri=uri)


def test_a_redirect_uri_of_a_web_application_is_fine() -> None:
    pending = pending_login(redirect_uri="https://app.example/callback")
    assert read_callback(pending, callback(pending)) == CODE


# --- the record ---------------------------------------------------------------------


def full_login() -> PendingLogin:
    client = ClientRecord(
        "c", "s", "client_secret_basic", ("http://127.0.0.1:1/",), 5.0, "dcr", ISSUER
    )
    return pending_login(client=client, consent=True, dpop_key={"kty": "EC", "d": "x"})


@pytest.mark.parametrize(
    "pending",
    [full_login(), pending_login(scopes=None, resource=None), pending_login(scopes=())],
    ids=["everything", "little", "no scopes"],
)
def test_a_pending_login_survives_json(pending: PendingLogin) -> None:
    text = json.dumps(pending.to_json())
    assert PendingLogin.from_json(json.loads(text)) == pending


def test_what_is_returned_as_json_is_nobody_elses() -> None:
    pending = full_login()
    pending.to_json()["dpop_key"]["d"] = "changed"
    assert pending.dpop_key == {"kty": "EC", "d": "x"}


def _without(name: str) -> Callable[[Dict[str, Any]], None]:
    return lambda value: value.pop(name)


def _with(name: str, bad: Any) -> Callable[[Dict[str, Any]], None]:
    return lambda value: value.update({name: bad})


MEMBERS = [field.name for field in dataclasses.fields(PendingLogin)]
MALFORMED = [
    *(pytest.param(_without(name), name, id="no " + name) for name in MEMBERS),
    *(
        pytest.param(_with(name, bad), name, id="%s = %r" % (name, bad))
        for name, bad in [
            ("server_name", 1),
            ("issuer", ""),
            ("issuer", None),
            ("iss_advertised", 1),
            ("iss_advertised", "false"),
            ("authorization_endpoint", "javascript:alert(1)"),
            ("token_endpoint", "file:///x"),
            ("redirect_uri", "nowhere"),
            ("client", []),
            ("client", None),
            ("resource", ""),
            ("scopes", "read"),
            ("scopes", ["read", 1]),
            ("state", CANARY),
            ("state", None),
            ("verifier", CANARY),
            ("verifier", CANARY * 10),
            ("created", "now"),
            ("created", True),
            ("created", float("nan")),
            ("created", -1),
            ("consent", None),
            ("dpop_key", CANARY),
        ]
    ),
    pytest.param(lambda value: value["client"].pop("client_id"), "client.client_id"),
    pytest.param(_with("client", {"client_secret": CANARY}), "client.", id="client"),
]


@pytest.mark.parametrize("spoil, name", MALFORMED)
def test_a_malformed_record_is_refused(
    spoil: Callable[[Dict[str, Any]], None], name: str
) -> None:
    value = full_login().to_json()
    spoil(value)
    with pytest.raises(ConfigError, match=re.escape(name)) as caught:
        PendingLogin.from_json(value)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize("value", [None, [], "{}", {}, {"v": 2}, 1])
def test_something_else_is_no_record(value: Any) -> None:
    with pytest.raises(ConfigError, match="pending login"):
        PendingLogin.from_json(value)


def test_a_login_expires() -> None:
    pending = pending_login()
    assert not pending.expired
    assert not aged(pending, 290).expired
    assert aged(pending, 310).expired
    assert aged(pending, -310).expired, "it was begun in the future"


def test_no_secret_is_in_a_repr() -> None:
    pending = full_login()
    shown = repr(pending)
    assert pending.state not in shown and pending.verifier not in shown
    assert "'d'" not in shown and "client_secret='s'" not in shown
    assert "https://mcp.example/mcp" in shown


# --- the answer ---------------------------------------------------------------------


def test_the_code_is_returned_whichever_way_the_answer_comes() -> None:
    pending = pending_login()
    for text in (
        callback(pending),
        " %s\n" % callback(pending),
        callback(pending) + "#_=_",
        callback(pending).replace("http", "HTTP", 1),
        query(pending),
        "?" + query(pending),
        "/callback?" + query(pending),
        callback(pending)[len("http://") :],
        # Other servers leave in their answer what need not be encoded.
        "code=%s&state=%s&iss=%s" % (CODE, pending.state, ISSUER),
    ):
        assert read_callback(pending, text) == CODE


def test_a_query_may_hold_urls_of_its_own() -> None:
    issuer = "https://as.example/?tenant=1"
    pending = pending_login(issuer=issuer)
    text = "iss=%s&code=x&state=%s" % (issuer, pending.state)
    assert read_callback(pending, text) == "x"


@pytest.mark.parametrize(
    "place",
    [
        "https://127.0.0.1:4321/callback",
        "http://127.0.0.1:4322/callback",
        "http://127.0.0.1/callback",
        "http://localhost:4321/callback",
        "http://127.0.0.1:4321/other",
        "http://127.0.0.1:4321/callback/",
        "http://127.0.0.1:4321/Callback",
        "http://127.0.0.1:bad/callback",
        "http://other.example/callback",
        "javascript://127.0.0.1:4321/callback",
    ],
)
def test_the_url_is_that_of_the_redirect_uri(place: str) -> None:
    pending = pending_login()
    with pytest.raises(WrongState, match="http://127.0.0.1:4321/callback"):
        read_callback(pending, place + "?" + query(pending))


@pytest.mark.parametrize("state", [None, "", "x", "é", "\ud800", "0" * 43])
def test_another_state_is_another_login(state: Optional[str]) -> None:
    pending = pending_login()
    text = "code=x&iss=y" + ("" if state is None else "&state=" + state)
    with pytest.raises(WrongState):
        read_callback(pending, text)


@pytest.mark.parametrize(
    "text", ["", "nonsense", "?", "=", "&&&", "http://", "%", "x" * 100_000]
)
def test_nonsense_is_not_the_answer(text: str) -> None:
    with pytest.raises(WrongState):
        read_callback(pending_login(), text)


@pytest.mark.parametrize("name", ["code", "state", "iss", "error"])
@pytest.mark.parametrize("same", [True, False])
def test_nothing_may_come_twice(name: str, same: bool) -> None:
    pending = pending_login()
    first = urllib.parse.parse_qs(query(pending, error="e"))[name][0]
    second = first if same else "other"
    text = query(pending, error="e") + "&" + urllib.parse.urlencode({name: second})
    with pytest.raises(WrongState, match="twice"):
        read_callback(pending, text)


def test_an_answer_is_bounded() -> None:
    pending = pending_login()
    with pytest.raises(WrongState, match="too long"):
        read_callback(pending, query(pending, padding="x" * 8192))
    with pytest.raises(WrongState, match="too many"):
        read_callback(pending, query(pending) + "&a" * 200)
    assert read_callback(pending, query(pending, padding="x" * 7000)) == CODE


@pytest.mark.parametrize("advertised", [True, False])
@pytest.mark.parametrize(
    "issuer",
    [
        ISSUER + "/",
        "HTTPS://as.example/tenant",
        "https://AS.example/tenant",
        "https://as.example:443/tenant",
        "https://as.example/%74enant",
        "https://other.example/",
        "",
        " " + ISSUER,
    ],
)
def test_the_issuer_is_compared_exactly(advertised: bool, issuer: str) -> None:
    pending = pending_login(iss_advertised=advertised)
    with pytest.raises(IssuerMismatch):
        read_callback(pending, query(pending, iss=issuer))


def test_an_issuer_that_was_promised_has_to_come() -> None:
    promised = pending_login(iss_advertised=True)
    with pytest.raises(IssuerMismatch, match="does not say"):
        read_callback(promised, query(promised, iss=None))
    silent = pending_login(iss_advertised=False)
    assert read_callback(silent, query(silent, iss=None)) == CODE
    assert read_callback(silent, query(silent)) == CODE


@pytest.mark.parametrize("iss", ["https://evil.example", None])
def test_nothing_of_another_issuers_answer_is_shown(iss: Optional[str]) -> None:
    pending = pending_login()
    text = query(
        pending, code=None, iss=iss, error=CANARY, error_description=CANARY * 2
    )
    with pytest.raises(IssuerMismatch) as caught:
        read_callback(pending, text)
    shown = "%s %r" % (caught.value, vars(caught.value))
    assert "evil" not in shown and CANARY not in shown


def test_the_state_comes_before_the_issuer_and_both_before_all_else() -> None:
    pending = pending_login()
    with pytest.raises(WrongState):
        read_callback(pending, query(pending, state="x", iss="y", error="denied"))
    with pytest.raises(IssuerMismatch):
        read_callback(aged(pending, 1000), query(pending, iss="y", error="denied"))


def test_a_denial_says_why() -> None:
    pending = pending_login()
    text = query(
        pending,
        code=None,
        error="access_denied",
        error_description="no\x1b[31m\r\nway, %s %s" % (pending.state, "z" * 9000),
    )
    with pytest.raises(AuthorizationError) as caught:
        read_callback(pending, text[:8000])
    shown = str(caught.value)
    assert "https://as.example/tenant" in shown
    assert "access_denied: no\\x1b[31m\\r\\nway, ***" in shown
    assert pending.state not in shown and len(shown) < 700
    assert type(caught.value) is AuthorizationError and not caught.value.retryable


@pytest.mark.parametrize("error", ["temporarily_unavailable", "server_error"])
def test_an_outage_may_pass(error: str) -> None:
    pending = pending_login()
    with pytest.raises(AuthorizationError) as caught:
        read_callback(pending, query(pending, code=None, error=error))
    assert caught.value.retryable


@pytest.mark.parametrize(
    "changes, why",
    [
        ({"error": "access_denied"}, "both a code and an error"),
        ({"code": None}, "neither code nor error"),
        ({"code": ""}, "neither code nor error"),
        ({"code": "a\r\nb"}, "neither code nor error"),
        ({"code": "é"}, "neither code nor error"),
        ({"code": None, "error": ""}, "without a reason"),
    ],
)
def test_an_answer_that_is_none_is_refused(changes: Any, why: str) -> None:
    pending = pending_login()
    with pytest.raises(AuthorizationError, match=why) as caught:
        read_callback(pending, query(pending, **changes))
    assert not isinstance(caught.value, WrongState)


def test_an_answer_may_come_too_late() -> None:
    pending = aged(pending_login(), 301)
    with pytest.raises(LoginRequired, match="300 s") as caught:
        read_callback(pending, query(pending))
    assert caught.value.server_url == pending.server_url


@pytest.mark.parametrize(
    "changes",
    [
        {"state": "x"},
        {"iss": "x"},
        {"error": "x"},
        {"code": CODE + "\n"},
        {"padding": "y" * 9000},
    ],
)
def test_no_code_state_or_verifier_is_in_a_message(changes: Any) -> None:
    pending = pending_login()
    with pytest.raises(AuthorizationError) as caught:
        read_callback(pending, query(pending, **changes))
    shown = "%s %r" % (caught.value, vars(caught.value))
    for secret in (CODE, pending.state, pending.verifier, CANARY):
        assert secret not in shown
