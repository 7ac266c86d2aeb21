"""The token endpoint: who we are, what we send, and what it may answer."""

from __future__ import annotations

import base64
import logging
import socket
import urllib.parse
from dataclasses import replace
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple

import pytest

from mcpsync._deadline import Deadline
from mcpsync.auth._fetch import Fetcher
from mcpsync.auth._records import ClientRecord, Token
from mcpsync.auth.dpop import DPoP
from mcpsync.auth.tokens import (
    exchange_code,
    read_token,
    refresh,
    request_token,
    revoke,
    with_auth_method,
)
from mcpsync.exceptions import (
    ConfigError,
    DiscoveryError,
    RegistrationError,
    TokenError,
)

from ..fakes import CANARY
from ..fakes.scripted_http import Recorded, Reply, json_reply
from .sites import Site, html, soon

GOOD = {"access_token": "at-1", "token_type": "Bearer"}
PUBLIC = ClientRecord("app", auth_method="none")
SECRET = ClientRecord("app", CANARY, kind="preregistered")
REDIRECT = "http://127.0.0.1:3000/callback"
RESOURCE = "https://mcp.example/mcp"


@pytest.fixture
def site() -> Iterator[Site]:
    with Site({"/token": GOOD}) as server:
        yield server


@pytest.fixture
def fetcher(site: Site) -> Fetcher:
    return Fetcher(server_url=site.url)


def quote(text: str) -> str:
    return urllib.parse.quote(text, safe="")


quote_plus = urllib.parse.quote_plus


def form_of(request: Recorded) -> Dict[str, str]:
    pairs = urllib.parse.parse_qsl(request.body.decode("ascii"), strict_parsing=True)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def ask(
    fetcher: Fetcher, site: Site, client: Optional[ClientRecord] = PUBLIC, **more: Any
) -> Token:
    form = more.pop("form", {"grant_type": "test"})
    more.setdefault("deadline", soon())
    return request_token(fetcher, site.base + "/token", form, client, **more)


# --- who we are ---------------------------------------------------------------------

BOTH = ("client_secret_post", "client_secret_basic", "none")


@pytest.mark.parametrize(
    "secret, kind, given, methods, expected",
    [
        pytest.param(True, "dcr", None, None, "client_secret_basic", id="default"),
        pytest.param(False, "dcr", None, None, "none", id="default, public"),
        pytest.param(True, "dcr", None, BOTH, "client_secret_basic", id="basic > post"),
        pytest.param(
            True, "dcr", None, ("client_secret_post",), "client_secret_post", id="post"
        ),
        pytest.param(True, "dcr", None, ("none",), "none", id="the secret stays here"),
        pytest.param(False, "dcr", None, BOTH, "none", id="public"),
        pytest.param(
            True, "dcr", "client_secret_post", BOTH, "client_secret_post", id="as DCR"
        ),
        pytest.param(
            True,
            "dcr",
            "client_secret_post",
            ("client_secret_basic",),
            "client_secret_basic",
            id="DCR said what is not supported",
        ),
        pytest.param(
            False,
            "dcr",
            "none",
            ("client_secret_basic",),
            "none",
            id="registered as a public client",
        ),
        pytest.param(
            True,
            "preregistered",
            "client_secret_post",
            ("client_secret_basic",),
            "client_secret_post",
            id="configured",
        ),
        pytest.param(
            False, "cimd", "private_key_jwt", BOTH, "private_key_jwt", id="a key"
        ),
        pytest.param(False, "cimd", "none", (), "none", id="document"),
    ],
)
def test_t2_method(
    secret: bool,
    kind: str,
    given: Optional[str],
    methods: Optional[Tuple[str, ...]],
    expected: str,
) -> None:
    client = ClientRecord("app", CANARY if secret else None, given, kind=kind)
    chosen = with_auth_method(client, methods)
    assert chosen == replace(client, auth_method=expected)


@pytest.mark.parametrize(
    "secret, given, methods",
    [
        pytest.param(True, None, ("private_key_jwt",), id="wants a key"),
        pytest.param(False, None, ("client_secret_basic",), id="wants a secret"),
        pytest.param(True, None, (), id="wants nothing"),
        pytest.param(False, "client_secret_post", None, id="there is no secret"),
        pytest.param(True, "tls_client_auth", None, id="is not known here"),
    ],
)
def test_t2_no_guess(
    secret: bool, given: Optional[str], methods: Optional[Tuple[str, ...]]
) -> None:
    client = ClientRecord("app", CANARY if secret else None, given, kind="cimd")
    with pytest.raises(RegistrationError, match="the client app has"):
        with_auth_method(client, methods)


def test_t3_basic(site: Site, fetcher: Fetcher) -> None:
    client = ClientRecord("https://a.example/c d", "p:+/~%é", "client_secret_basic")
    ask(fetcher, site, client)
    (request,) = site.requests
    kind, _, value = request.headers["Authorization"].partition(" ")
    assert kind == "Basic"
    assert base64.b64decode(value) == (
        b"https%3A%2F%2Fa.example%2Fc%20d:p%3A%2B%2F~%25%C3%A9"
    )
    # The secret is nowhere else.
    assert form_of(request) == {
        "grant_type": "test",
        "client_id": "https://a.example/c d",
    }


def test_t3_unreserved_characters_stay(site: Site, fetcher: Fetcher) -> None:
    ask(fetcher, site, ClientRecord("a-b", "c.d_e~f", "client_secret_basic"))
    value = site.requests[0].headers["Authorization"].partition(" ")[2]
    assert base64.b64decode(value) == b"a-b:c.d_e~f"


@pytest.mark.parametrize(
    "client, fields",
    [
        pytest.param(
            replace(SECRET, auth_method="client_secret_post"),
            {"client_id": "app", "client_secret": CANARY},
            id="post",
        ),
        pytest.param(PUBLIC, {"client_id": "app"}, id="none"),
        pytest.param(replace(SECRET, auth_method="none"), {"client_id": "app"}, id="n"),
        pytest.param(None, {}, id="nobody"),
    ],
)
def test_t3_in_the_body(
    site: Site, fetcher: Fetcher, client: Optional[ClientRecord], fields: Dict[str, str]
) -> None:
    ask(fetcher, site, client)
    (request,) = site.requests
    assert form_of(request) == {"grant_type": "test", **fields}
    assert "Authorization" not in request.headers


def test_t3_assertion(site: Site, fetcher: Fetcher) -> None:
    client = replace(PUBLIC, auth_method="private_key_jwt")
    ask(fetcher, site, client, assertion=lambda: "a.b.c")
    assert form_of(site.requests[0]) == {
        "grant_type": "test",
        "client_id": "app",
        "client_assertion_type": (
            "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        ),
        "client_assertion": "a.b.c",
    }
    with pytest.raises(ConfigError, match="private key"):
        ask(fetcher, site, client)
    assert len(site.requests) == 1


def test_t3_a_method_that_was_never_chosen(site: Site, fetcher: Fetcher) -> None:
    ask(fetcher, site, SECRET)
    assert site.requests[0].headers["Authorization"].startswith("Basic ")


# --- requests -----------------------------------------------------------------------


def test_t1_code(site: Site, fetcher: Fetcher) -> None:
    site.routes["/token"] = {
        **GOOD,
        "refresh_token": "rt-1",
        "expires_in": 60,
        "expires_at": 5,
        "scope": "b a",
    }
    token = exchange_code(
        fetcher,
        site.base + "/token",
        PUBLIC,
        code="c-1",
        verifier="v-1",
        redirect_uri=REDIRECT,
        resource=RESOURCE,
        deadline=soon(),
        scope_requested=("a", "b", "c"),
        now=lambda: 1000.0,
    )
    assert token == Token("at-1", "Bearer", 1060.0, "rt-1", ("b", "a"))
    (request,) = site.requests
    assert form_of(request) == {
        "grant_type": "authorization_code",
        "code": "c-1",
        "redirect_uri": REDIRECT,
        "code_verifier": "v-1",
        "resource": RESOURCE,
        "client_id": "app",
    }
    assert request.method == "POST" and request.headers["Accept"] == "application/json"
    assert request.headers["Content-Type"] == "application/x-www-form-urlencoded"
    assert "Cookie" not in request.headers


def test_t1_scope_that_was_requested(site: Site, fetcher: Fetcher) -> None:
    token = exchange_code(
        fetcher,
        site.base + "/token",
        PUBLIC,
        code="c-1",
        verifier="v-1",
        redirect_uri=REDIRECT,
        resource=None,
        deadline=soon(),
        scope_requested=("a", "b"),
    )
    assert token.scope == ("a", "b")
    assert "resource" not in form_of(site.requests[0])


OLD = Token("at-0", "Bearer", 5.0, "rt-0", ("a", "b"))


@pytest.mark.parametrize(
    "more, expected",
    [
        pytest.param({}, ("rt-0", ("a", "b"), None), id="F-3 keeps both"),
        pytest.param(
            {"refresh_token": "rt-1", "scope": "a", "expires_in": 10},
            ("rt-1", ("a",), 110.0),
            id="F-3 replaces both",
        ),
        pytest.param(
            {"refresh_token": "", "scope": ""}, ("rt-0", ("a", "b"), None), id="empty"
        ),
        pytest.param(
            {"refresh_token": None, "scope": None, "expires_in": None},
            ("rt-0", ("a", "b"), None),
            id="null",
        ),
        pytest.param({"scope": 'a "'}, ("rt-0", ("a", "b"), None), id="odd scope"),
    ],
)
def test_f_refresh(
    site: Site, fetcher: Fetcher, more: Dict[str, Any], expected: Tuple[Any, ...]
) -> None:
    site.routes["/token"] = {**GOOD, **more}
    token = refresh(
        fetcher,
        site.base + "/token",
        PUBLIC,
        OLD,
        resource=RESOURCE,
        deadline=soon(),
        now=lambda: 100.0,
    )
    assert token.access_token == "at-1"
    assert (token.refresh_token, token.scope, token.expires_at) == expected
    assert form_of(site.requests[0]) == {
        "grant_type": "refresh_token",
        "refresh_token": "rt-0",
        "resource": RESOURCE,
        "client_id": "app",
    }


def test_f_nothing_to_refresh_with(site: Site, fetcher: Fetcher) -> None:
    with pytest.raises(TokenError, match="no refresh token"):
        refresh(
            fetcher,
            site.base + "/token",
            PUBLIC,
            Token("at-0"),
            resource=None,
            deadline=soon(),
        )
    assert site.requests == []


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_t1_no_redirect(site: Site, fetcher: Fetcher, status: int) -> None:
    with Site({"/token": GOOD}) as other:
        site.routes["/token"] = Reply(status, {"Location": other.base + "/token"})
        with pytest.raises(TokenError, match="redirects"):
            ask(fetcher, site, replace(SECRET, auth_method="client_secret_post"))
        assert other.requests == [] and len(site.requests) == 1


def test_h1_the_url_is_checked(fetcher: Fetcher) -> None:
    with pytest.raises(DiscoveryError, match="https"):
        request_token(fetcher, "http://as.example/t", {}, PUBLIC, deadline=soon())


# --- answers ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "reply, why",
    [
        pytest.param(html(), "not JSON", id="HTML"),
        pytest.param(html(400), "HTTP status 400", id="HTML 400"),
        pytest.param(
            Reply(200, {"Content-Type": "text/html"}, b"access_token=x&token_type=b"),
            "not JSON",
            id="form",
        ),
        pytest.param(Reply(200), "empty", id="empty"),
        pytest.param(Reply(204), "HTTP status 204", id="no content"),
        pytest.param(json_reply([GOOD]), "no JSON object", id="list"),
        pytest.param(json_reply("at-1"), "no JSON object", id="string"),
        pytest.param(json_reply(None), "no JSON object", id="null"),
        pytest.param(Reply(200, {}, b"[" * 100000), "deep", id="deep"),
        pytest.param(Reply(200, {}, b'{"access_token": "\xff"}'), "UTF-8", id="UTF-8"),
        pytest.param(Reply(200, {}, b" " * (2 << 20)), "larger", id="large"),
        pytest.param(json_reply(GOOD, status=400), "HTTP status 400", id="400 + token"),
        pytest.param(json_reply(GOOD, status=201), "HTTP status 201", id="201 + token"),
        pytest.param(json_reply({}), "without an access_token", id="T-4 nothing"),
        pytest.param(
            json_reply({**GOOD, "error": "bad_code"}), "bad_code", id="T-5 GitHub"
        ),
    ],
)
def test_t4_bodies(site: Site, fetcher: Fetcher, reply: Reply, why: str) -> None:
    site.routes["/token"] = reply
    with pytest.raises(TokenError, match=why) as caught:
        ask(fetcher, site)
    assert "%s/token" % site.base in str(caught.value)
    assert not caught.value.retryable
    assert len(site.requests) == 1


ODD_TOKENS: List[Any] = ["", " ", "a b", "a\r\nX: y", "é", "\x7f", 5, True, ["a"], {}]


@pytest.mark.parametrize(
    "more, why",
    [
        pytest.param({"access_token": None}, "without an access_token", id="null"),
        *[
            pytest.param(
                {"access_token": value}, "malformed access_token", id=repr(value)
            )
            for value in ODD_TOKENS
        ],
        pytest.param({"token_type": None}, "without a token_type", id="T-4 no type"),
        pytest.param({"token_type": ""}, "without a token_type", id="T-4 empty type"),
        pytest.param({"token_type": 1}, "without a token_type", id="T-4 type 1"),
        pytest.param({"token_type": "mac"}, "mac instead of Bearer", id="T-4 mac"),
        pytest.param({"token_type": "DPoP"}, "DPoP instead", id="T-4 DPoP unasked"),
        pytest.param({"token_type": "N_A"}, "N_A instead", id="T-4 N_A"),
        *[
            pytest.param({"refresh_token": value}, "malformed refresh", id=repr(value))
            for value in (5, True, ["a"], "a\nb", "é")
        ],
    ],
)
def test_t4_fields(more: Dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        read_token({**GOOD, **more}, now=0.0)


@pytest.mark.parametrize("text", ["Bearer", "bearer", "BEARER"])
def test_t4_any_case(text: str) -> None:
    token = read_token({"access_token": "a", "token_type": text}, now=0.0)
    assert token == Token("a")


def test_t4_dpop_downgrade() -> None:
    good = {"access_token": "a", "token_type": "dpop"}
    assert read_token(good, now=0.0, dpop_required=True) == Token("a", "DPoP")
    with pytest.raises(ValueError, match="Bearer instead of DPoP"):
        read_token(GOOD, now=0.0, dpop_required=True)


YEARS = 10 * 366 * 86400


@pytest.mark.parametrize(
    "value, expected",
    [
        pytest.param(None, None, id="unknown"),
        pytest.param(0, 100.0, id="over already"),
        pytest.param(3600, 3700.0, id="int"),
        pytest.param(1.5, 101.5, id="float"),
        pytest.param("3600", 3700.0, id="string"),
        pytest.param(YEARS, 100.0 + YEARS, id="ten years"),
    ],
)
def test_t6_lifetimes(value: Any, expected: Optional[float]) -> None:
    answer = {**GOOD, "expires_in": value, "expires_at": 1}
    assert read_token(answer, now=100.0).expires_at == expected


@pytest.mark.parametrize(
    "value",
    [
        True,
        False,
        -1,
        YEARS + 1,
        10**400,
        float("inf"),
        float("nan"),
        "",
        "soon",
        "-1",
        "3600.5",
        "٣",
        "9" * 5000,
        [1],
        {},
    ],
    ids=lambda value: repr(value)[:12],
)
def test_t6_no_lifetimes(value: Any) -> None:
    with pytest.raises(ValueError, match="malformed expires_in"):
        read_token({**GOOD, "expires_in": value}, now=100.0)


@pytest.mark.parametrize(
    "value, expected",
    [
        pytest.param("b a b", ("b", "a"), id="order"),
        pytest.param(" a  b ", ("a", "b"), id="spaces"),
        pytest.param("a\tb", None, id="tab"),
        pytest.param("a\x1b[31m", None, id="escape"),
        pytest.param('"a"', None, id="quotes"),
        pytest.param("", None, id="empty"),
        pytest.param(["a"], None, id="list"),
        pytest.param(" ".join(map(str, range(101))), None, id="too many"),
        pytest.param("a" * 4097, None, id="too long"),
    ],
)
def test_scopes(value: Any, expected: Optional[Tuple[str, ...]]) -> None:
    assert read_token({**GOOD, "scope": value}, now=0.0).scope == expected


# --- errors -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "status, code, retryable",
    [
        (400, "invalid_grant", False),
        (401, "invalid_client", False),
        (400, "unauthorized_client", False),
        (400, "invalid_scope", False),
        (400, "unsupported_grant_type", False),
        (200, "bad_verification_code", False),
        (400, "temporarily_unavailable", True),
        (429, "slow_down", True),
        (400, "use_dpop_nonce", False),
    ],
)
def test_t7_codes(
    site: Site, fetcher: Fetcher, status: int, code: str, retryable: bool
) -> None:
    answer = {"error": code, "error_description": "the\x1b[31m reason"}
    site.routes["/token"] = json_reply(answer, status=status)
    with pytest.raises(TokenError) as caught:
        ask(fetcher, site, what="token refresh")
    assert caught.value.error == code
    assert caught.value.retryable is retryable
    text = str(caught.value)
    assert text.startswith("the token refresh at %s/token failed: " % site.base)
    assert text.endswith("%s: the\\x1b[31m reason" % code)
    assert len(site.requests) == 1


@pytest.mark.parametrize("error", [5, ["invalid_grant"], {"code": 1}])
def test_t7_errors_that_are_none(site: Site, fetcher: Fetcher, error: Any) -> None:
    site.routes["/token"] = json_reply({**GOOD, "error": error})
    with pytest.raises(TokenError) as caught:
        ask(fetcher, site)
    assert caught.value.error is None


@pytest.mark.parametrize(
    "status, header, seconds",
    [
        (429, "7", 7.0),
        (429, "999999", 3600.0),
        (429, "tomorrow", None),
        (429, None, None),
        (503, "7", 7.0),
        (400, "7", None),
    ],
)
def test_t7_not_now(
    site: Site,
    fetcher: Fetcher,
    status: int,
    header: Optional[str],
    seconds: Optional[float],
) -> None:
    headers = {} if header is None else {"Retry-After": header}
    site.routes["/token"] = Reply(status, headers)
    with pytest.raises(TokenError) as caught:
        ask(fetcher, site)
    assert caught.value.retryable is (status != 400)
    assert caught.value.retry_after == seconds


def test_t7_no_answer() -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = "http://127.0.0.1:%d/token" % unused.getsockname()[1]
        with pytest.raises(TokenError) as caught:
            fetcher = Fetcher(server_url=url)
            request_token(fetcher, url, {}, PUBLIC, deadline=soon())
    assert caught.value.retryable and caught.value.error is None


def test_no_time_is_left(site: Site, fetcher: Fetcher) -> None:
    deadline = Deadline.after(0.0)
    while not deadline.expired:
        pass
    with pytest.raises(TokenError, match="no time") as caught:
        ask(fetcher, site, deadline=deadline)
    assert caught.value.retryable and site.requests == []


# --- proofs -------------------------------------------------------------------------


def nonce_wanted(nonce: Optional[str] = "n-1", status: int = 400) -> Reply:
    headers = {} if nonce is None else {"DPoP-Nonce": nonce}
    return json_reply({"error": "use_dpop_nonce"}, status=status, headers=headers)


def script(site: Site, *replies: Reply) -> None:
    left = list(replies)
    site.routes["/token"] = lambda request: left.pop(0)


BOUND = json_reply({"access_token": "at-1", "token_type": "DPoP"})


def claims_of(request: Recorded) -> Dict[str, Any]:
    import jwt

    assert len(request.headers.get_all("DPoP") or []) == 1
    found: Dict[str, Any] = jwt.decode(
        request.headers["DPoP"], options={"verify_signature": False}
    )
    return found


@pytest.mark.parametrize("status", [400, 401])
def test_ed5_one_retry_with_the_nonce(
    site: Site, fetcher: Fetcher, status: int
) -> None:
    script(site, nonce_wanted(status=status), BOUND, BOUND)
    dpop, made = DPoP(), iter(["a.b.1", "a.b.2", "a.b.3"])
    client = replace(PUBLIC, auth_method="private_key_jwt")
    form = {"grant_type": "authorization_code", "code": "c-1"}
    for _ in range(2):
        token = ask(
            fetcher, site, client, form=form, dpop=dpop, assertion=lambda: next(made)
        )
        assert token == Token("at-1", "DPoP")
    forms = [form_of(request) for request in site.requests]
    assert [form["code"] for form in forms] == ["c-1"] * 3
    assert [form["client_assertion"] for form in forms] == ["a.b.1", "a.b.2", "a.b.3"]
    claims = [claims_of(request) for request in site.requests]
    assert [claim.get("nonce") for claim in claims] == [None, "n-1", "n-1"]
    assert len({claim["jti"] for claim in claims}) == 3
    assert {claim["htu"] for claim in claims} == {site.base + "/token"}
    assert {claim["htm"] for claim in claims} == {"POST"}


@pytest.mark.parametrize(
    "replies, count",
    [
        pytest.param([nonce_wanted("n-1"), nonce_wanted("n-2")], 2, id="only once"),
        pytest.param([nonce_wanted(None)], 1, id="no nonce"),
        pytest.param([nonce_wanted("a b")], 1, id="malformed nonce"),
        pytest.param([nonce_wanted("n-1", 403)], 1, id="another status"),
    ],
)
def test_ed5_the_end(
    site: Site, fetcher: Fetcher, replies: List[Reply], count: int
) -> None:
    script(site, *replies)
    with pytest.raises(TokenError, match="use_dpop_nonce"):
        ask(fetcher, site, dpop=DPoP())
    assert len(site.requests) == count


def test_ed5_a_nonce_with_the_token(site: Site, fetcher: Fetcher) -> None:
    bound = {"access_token": "at-1", "token_type": "DPoP"}
    site.routes["/token"] = json_reply(bound, headers={"DPoP-Nonce": "n-9"})
    dpop = DPoP()
    for _ in range(2):
        ask(fetcher, site, dpop=dpop)
    claims = [claims_of(request) for request in site.requests]
    assert [claim.get("nonce") for claim in claims] == [None, "n-9"]


def test_ed3_downgrade(site: Site, fetcher: Fetcher) -> None:
    with pytest.raises(TokenError, match="Bearer instead of DPoP"):
        ask(fetcher, site, dpop=DPoP())
    assert len(site.requests) == 1


# --- revocation ---------------------------------------------------------------------


def revoked(fetcher: Fetcher, site: Site, token: Token = OLD) -> bool:
    client = ClientRecord("app", "secret", "client_secret_basic")
    return revoke(fetcher, site.base + "/revoke", client, token, deadline=soon())


def test_l4_revocation(site: Site, fetcher: Fetcher) -> None:
    site.routes["/revoke"] = Reply(200)
    assert revoked(fetcher, site)
    assert [form_of(request) for request in site.requests] == [
        {"token": "rt-0", "token_type_hint": "refresh_token", "client_id": "app"},
        {"token": "at-0", "token_type_hint": "access_token", "client_id": "app"},
    ]
    assert site.requests[0].headers["Authorization"].startswith("Basic ")
    assert revoked(fetcher, site, Token("at-2"))
    assert form_of(site.requests[-1])["token"] == "at-2"
    assert len(site.requests) == 3


@pytest.mark.parametrize("status", [302, 400, 404, 500])
def test_l4_failures_are_logged(
    site: Site, fetcher: Fetcher, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    token = Token(CANARY + "1", refresh_token=CANARY + "2")

    def reply(request: Recorded) -> Reply:
        value = form_of(request)["token"]
        return json_reply({"error": "no", "error_description": value}, status=status)

    site.routes["/revoke"] = reply
    with caplog.at_level(logging.DEBUG):
        assert not revoked(fetcher, site, token)
    assert len(site.requests) == 2
    warnings = [r for r in caplog.records if r.name == "mcpsync.auth"]
    assert len(warnings) == 2 and CANARY not in caplog.text


# --- secrets ------------------------------------------------------------------------


def test_t8_a_server_that_repeats_everything(
    site: Site, fetcher: Fetcher, caplog: pytest.LogCaptureFixture
) -> None:
    secrets: Dict[str, str] = {
        "code": CANARY + "code/1",
        "code_verifier": CANARY + "verifier 2",
        "refresh_token": CANARY + "refresh+3",
        "assertion": CANARY + "assertion.4",
        "subject_token": CANARY + "subject~5",
    }

    def reply(request: Recorded) -> Reply:
        headers = (request.headers[name] for name in ("Authorization", "DPoP"))
        repeated = "%s %s %s" % (request.body.decode(), form_of(request), list(headers))
        answer = {"error": "no " + secrets["code"], "error_description": repeated}
        return json_reply({**answer, "access_token": CANARY + "new"}, status=400)

    site.routes["/token"] = reply
    client, dpop = replace(SECRET, auth_method="client_secret_basic"), DPoP()
    with caplog.at_level(logging.DEBUG):
        with pytest.raises(TokenError) as caught:
            ask(fetcher, site, client, form=secrets, dpop=dpop)
    (request,) = site.requests
    shown = "%r %s %s %s" % (caught.value, caught.value, caplog.text, dpop)
    assert CANARY not in shown and CANARY not in str(vars(caught.value))
    for header in ("Authorization", "DPoP"):
        assert request.headers[header].split()[-1] not in shown
    assert caught.value.__context__ is None


@pytest.mark.parametrize("header", ["Authorization", "DPoP"])
def test_t8_a_server_that_repeats_a_header(
    site: Site, fetcher: Fetcher, header: str
) -> None:
    def reply(request: Recorded) -> Reply:
        value = request.headers[header].split()[-1]
        return json_reply({"error": "no", "error_description": value}, status=400)

    site.routes["/token"] = reply
    with pytest.raises(TokenError, match=r"no: \*\*\*$"):
        ask(fetcher, site, SECRET, dpop=DPoP())


@pytest.mark.parametrize(
    "field", ["code", "code_verifier", "refresh_token", "assertion", "subject_token"]
)
@pytest.mark.parametrize("written", [str, quote, quote_plus])
def test_t8_a_server_that_repeats_a_field(
    site: Site, fetcher: Fetcher, field: str, written: Callable[[str], str]
) -> None:
    secret = CANARY + "+~ =" + field
    answer = {"error": "no", "error_description": written(secret)}
    site.routes["/token"] = json_reply(answer, status=400)
    with pytest.raises(TokenError, match=r"no: \*\*\*$"):
        ask(fetcher, site, form={field: secret})


@pytest.mark.parametrize(
    "more", [{"access_token": CANARY + " x"}, {"refresh_token": CANARY + "\n"}]
)
def test_t8_unusable_answers_are_not_shown(
    site: Site, fetcher: Fetcher, more: Dict[str, str]
) -> None:
    site.routes["/token"] = {**GOOD, **more}
    with pytest.raises(TokenError, match="malformed") as caught:
        ask(fetcher, site)
    assert CANARY not in "%r %s" % (caught.value, caught.value)


def test_t8_reprs() -> None:
    token = Token(CANARY, refresh_token=CANARY)
    assert CANARY not in repr(token) + repr(SECRET)
