"""Grants that need no person."""

from __future__ import annotations

import base64
import json
import logging
import os
import sys
import time
import urllib.parse
from dataclasses import FrozenInstanceError, replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from mcpsync.auth._fetch import Fetcher
from mcpsync.auth._records import ServerMetadata, Token
from mcpsync.auth.dpop import DPoP
from mcpsync.auth.grants import (
    ClientCredentials,
    EnterpriseManaged,
    WorkloadIdentity,
    private_key_assertion,
)
from mcpsync.exceptions import (
    AuthorizationError,
    ConfigError,
    IssuerMismatch,
    RegistrationError,
    TokenError,
)

from ..fakes import CANARY, bounded
from ..fakes.scripted_http import Recorded, Reply, json_reply
from .sites import Site, soon

RESOURCE = "https://mcp.example/mcp"
ISSUER = "https://as.example"
GOOD = {"access_token": "at-1", "token_type": "Bearer"}
JWT_BEARER = "urn:ietf:params:oauth:grant-type:jwt-bearer"
ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"
PROFILE = "urn:ietf:params:oauth:grant-profile:id-jag"

P256 = ec.generate_private_key(ec.SECP256R1())


def pem(key: Any, password: Optional[bytes] = None) -> str:
    how: Any = BestAvailableEncryption(password) if password else NoEncryption()
    made: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, how)
    return made.decode("ascii")


@pytest.fixture
def site() -> Iterator[Site]:
    with Site({"/token": GOOD}) as server:
        yield server


def metadata_of(site: Site, **more: Any) -> ServerMetadata:
    return ServerMetadata(ISSUER, site.base + "/token", **more)


def obtain(
    grant: Any,
    site: Site,
    *,
    scopes: Optional[Sequence[str]] = ("a", "b"),
    dpop: Optional[DPoP] = None,
    **more: Any,
) -> Token:
    token: Token = grant.obtain(
        Fetcher(server_url=site.url),
        metadata_of(site, **more),
        resource=RESOURCE,
        scopes=scopes,
        deadline=soon(),
        dpop=dpop,
    )
    return token


def form_of(request: Recorded) -> Dict[str, str]:
    pairs = urllib.parse.parse_qsl(request.body.decode("ascii"), strict_parsing=True)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def basic_of(request: Recorded) -> str:
    kind, _, value = request.headers["Authorization"].partition(" ")
    assert kind == "Basic"
    return base64.b64decode(value).decode("ascii")


def part(value: Any) -> str:
    text = json.dumps(value).encode("utf-8")
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode("ascii")


def unsigned(claims: Any) -> str:
    return "%s.%s.c2ln" % (part({"alg": "ES256"}), part(claims))


# --- assertions ---------------------------------------------------------------------


def checked(assertion: str, key: Any, algorithm: str, audience: str) -> Dict[str, Any]:
    found: Dict[str, Any] = jwt.decode(
        assertion, key, algorithms=[algorithm], audience=audience
    )
    return found


def test_ec2_claims() -> None:
    make = private_key_assertion("app", ISSUER, pem(P256), "ES256", key_id="k-1")
    made = [make(), make()]
    claims = checked(made[0], P256.public_key(), "ES256", ISSUER)
    assert set(claims) == {"iss", "sub", "aud", "iat", "exp", "jti"}
    assert claims["iss"] == claims["sub"] == "app" and claims["aud"] == ISSUER
    assert claims["exp"] - claims["iat"] == 300
    assert abs(claims["iat"] - time.time()) < 60
    assert jwt.get_unverified_header(made[0]) == {
        "alg": "ES256",
        "typ": "JWT",
        "kid": "k-1",
    }
    other = checked(made[1], P256.public_key(), "ES256", ISSUER)
    assert other["jti"] != claims["jti"]


@pytest.mark.parametrize(
    "make, algorithm",
    [
        pytest.param(lambda: ec.generate_private_key(ec.SECP384R1()), "ES384", id="EC"),
        pytest.param(lambda: rsa.generate_private_key(65537, 2048), "RS256", id="RSA"),
        pytest.param(lambda: rsa.generate_private_key(65537, 2048), "PS256", id="PSS"),
        pytest.param(ed25519.Ed25519PrivateKey.generate, "EdDSA", id="Edwards"),
    ],
)
def test_ec2_algorithms(make: Callable[[], Any], algorithm: str) -> None:
    key = make()
    assertion = private_key_assertion("app", ISSUER, pem(key).encode(), algorithm)()
    assert "kid" not in jwt.get_unverified_header(assertion)
    assert checked(assertion, key.public_key(), algorithm, ISSUER)["sub"] == "app"


def test_a_key_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    seen: List[bytes] = []

    def sign(data: bytes) -> bytes:
        seen.append(data)
        return b"\xff\xfe\xfd"

    assertion = private_key_assertion("app", ISSUER, sign, "ES256", "k", 60)()
    signed, _, signature = assertion.rpartition(".")
    assert seen == [signed.encode("ascii")] and signature == "__79"
    header, claims = [
        json.loads(base64.urlsafe_b64decode(text + "==")) for text in signed.split(".")
    ]
    assert header == {"alg": "ES256", "typ": "JWT", "kid": "k"}
    assert claims["exp"] - claims["iat"] == 60 and claims["aud"] == ISSUER


@pytest.mark.parametrize("algorithm", ["none", "HS256", "es256", "", "RS1"])
def test_algorithms_that_prove_nothing(algorithm: str) -> None:
    with pytest.raises(ConfigError, match="signed by ES256"):
        private_key_assertion("app", ISSUER, pem(P256), algorithm)


@pytest.mark.parametrize("seconds", [0, -1, 301])
def test_lifetimes(seconds: float) -> None:
    with pytest.raises(ConfigError, match="300"):
        private_key_assertion("app", ISSUER, pem(P256), lifetime=seconds)


def public_pem() -> str:
    kind = PublicFormat.SubjectPublicKeyInfo
    return P256.public_key().public_bytes(Encoding.PEM, kind).decode("ascii")


@pytest.mark.parametrize(
    "key",
    [
        pytest.param(CANARY, id="text"),
        pytest.param("", id="nothing"),
        pytest.param(public_pem(), id="public"),
        pytest.param(pem(P256, CANARY.encode("ascii")), id="encrypted"),
        pytest.param(pem(ec.generate_private_key(ec.SECP384R1())), id="other curve"),
        pytest.param(pem(ed25519.Ed25519PrivateKey.generate()), id="other kind"),
        pytest.param(pem(P256)[:-60], id="cut"),
    ],
)
def test_keys_that_do_not_fit(key: str) -> None:
    make = private_key_assertion("app", ISSUER, key)
    with pytest.raises(
        ConfigError, match="unencrypted private key for ES256"
    ) as caught:
        make()
    assert CANARY not in str(caught.value) and caught.value.__suppress_context__


def test_a_key_that_is_too_long() -> None:
    with pytest.raises(ConfigError, match="longer"):
        private_key_assertion("app", ISSUER, "x" * (64 * 1024 + 1))


def test_the_extra_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "jwt", None)
    with pytest.raises(ConfigError, match=r'pip install "mcpsync\[jwt\]"'):
        ClientCredentials("app", private_key=pem(P256))
    assert ClientCredentials("app", CANARY).client_id == "app"


# --- client credentials -------------------------------------------------------------


def test_ec4_secret(site: Site) -> None:
    grant = ClientCredentials("app", "s e:c", issuer=ISSUER)
    assert obtain(grant, site) == Token("at-1")
    (request,) = site.requests
    assert basic_of(request) == "app:s%20e%3Ac"
    form = form_of(request)
    assert form.pop("client_id", "app") == "app"
    assert form == {
        "grant_type": "client_credentials",
        "resource": RESOURCE,
        "scope": "a b",
    }


def test_ec4_secret_in_the_body(site: Site) -> None:
    methods = ("client_secret_post",)
    grant = ClientCredentials("app", "secret")
    obtain(grant, site, token_endpoint_auth_methods_supported=methods, scopes=None)
    (request,) = site.requests
    assert "Authorization" not in request.headers
    assert form_of(request) == {
        "grant_type": "client_credentials",
        "resource": RESOURCE,
        "client_id": "app",
        "client_secret": "secret",
    }


def test_ec1_wants_a_key(site: Site) -> None:
    methods = ("private_key_jwt",)
    with pytest.raises(RegistrationError, match="private_key_jwt"):
        obtain(
            ClientCredentials("app", CANARY),
            site,
            token_endpoint_auth_methods_supported=methods,
        )
    assert site.requests == []


@pytest.mark.parametrize("audience", [None, "https://as.example/token"])
def test_ec2_assertion(site: Site, audience: Optional[str]) -> None:
    grant = ClientCredentials(
        "app", private_key=pem(P256), key_id="k-1", audience=audience
    )
    methods = ("private_key_jwt",)
    obtain(grant, site, token_endpoint_auth_methods_supported=methods)
    obtain(grant, site)
    forms = [form_of(request) for request in site.requests]
    assert forms[0]["grant_type"] == "client_credentials"
    assert forms[0]["client_assertion_type"] == (
        "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
    )
    expected = audience or ISSUER
    claims = [
        checked(form["client_assertion"], P256.public_key(), "ES256", expected)
        for form in forms
    ]
    assert claims[0]["iss"] == claims[0]["sub"] == "app"
    assert claims[0]["jti"] != claims[1]["jti"]
    assert "Authorization" not in site.requests[0].headers


@pytest.mark.parametrize(
    "more", [{}, {"client_secret": "s", "private_key": lambda data: data}]
)
def test_ec_one_proof(more: Dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="either client_secret or private_key"):
        ClientCredentials("app", **more)


def test_ed3_proof(site: Site) -> None:
    site.routes["/token"] = {**GOOD, "token_type": "DPoP"}
    token = obtain(ClientCredentials("app", "secret"), site, dpop=DPoP())
    assert token.token_type == "DPoP"
    assert len(site.requests[0].headers.get_all("DPoP") or []) == 1


# --- issuers ------------------------------------------------------------------------


def enterprise(site: Site, **more: Any) -> EnterpriseManaged:
    given: Dict[str, Any] = {
        "idp_token_endpoint": site.base + "/idp",
        "id_token": "id.token.1",
        "idp_client_id": "app-at-idp",
        "client_id": "app",
        "client_secret": "secret",
        "issuer": ISSUER,
    }
    return EnterpriseManaged(**{**given, **more})


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(
            lambda site, issuer: ClientCredentials("app", CANARY, issuer=issuer), id="c"
        ),
        pytest.param(lambda site, issuer: enterprise(site, issuer=issuer), id="e"),
        pytest.param(
            lambda site, issuer: WorkloadIdentity(lambda i: CANARY, issuer=issuer),
            id="w",
        ),
    ],
)
@pytest.mark.parametrize("issuer", ["https://other.example", ISSUER + "/"])
def test_em6_another_issuer(
    site: Site, make: Callable[[Site, str], Any], issuer: str
) -> None:
    with pytest.raises(IssuerMismatch, match=ISSUER):
        obtain(make(site, issuer), site)
    assert site.requests == []


# --- enterprise-managed authorization -----------------------------------------------

PROFILES: Dict[str, Any] = {"authorization_grant_profiles_supported": ("x", PROFILE)}


def id_jag(**claims: Any) -> str:
    return unsigned({"client_id": "app", "aud": ISSUER, **claims})


def issued(**more: Any) -> Dict[str, Any]:
    answer = {
        "issued_token_type": ID_JAG,
        "token_type": "N_A",
        "access_token": id_jag(),
        "expires_in": 300,
    }
    return {name: v for name, v in {**answer, **more}.items() if v is not None}


def test_em_two_legs(site: Site) -> None:
    site.routes["/idp"] = issued()
    assert obtain(enterprise(site), site, **PROFILES) == Token("at-1")
    first, second = site.requests
    assert (first.path, second.path) == ("/idp", "/token")
    assert form_of(first) == {
        "grant_type": "urn:ietf:params:oauth:grant-type:token-exchange",
        "requested_token_type": ID_JAG,
        "subject_token": "id.token.1",
        "subject_token_type": "urn:ietf:params:oauth:token-type:id_token",
        "audience": ISSUER,
        "resource": RESOURCE,
        "scope": "a b",
        "client_id": "app-at-idp",
    }
    assert "Authorization" not in first.headers
    form = form_of(second)
    assert form.pop("client_id", "app") == "app"
    assert form == {
        "grant_type": JWT_BEARER,
        "assertion": id_jag(),
        "resource": RESOURCE,
        "scope": "a b",
    }
    assert basic_of(second) == "app:secret"


@pytest.mark.parametrize(
    "method, in_header",
    [(None, True), ("client_secret_basic", True), ("client_secret_post", False)],
)
def test_em1_a_secret_at_the_provider(
    site: Site, method: Optional[str], in_header: bool
) -> None:
    site.routes["/idp"] = issued()
    grant = enterprise(site, idp_client_secret="idp-secret", idp_auth_method=method)
    obtain(grant, site, **PROFILES)
    first = site.requests[0]
    assert (form_of(first).get("client_secret") is None) is in_header
    if in_header:
        assert basic_of(first) == "app-at-idp:idp-secret"


def test_em5_a_current_id_token_each_time(site: Site) -> None:
    site.routes["/idp"] = issued()
    tokens = iter(["id.token.1", "id.token.2\n"])
    kind = "urn:ietf:params:oauth:token-type:saml2"
    grant = enterprise(site, id_token=lambda: next(tokens), subject_token_type=kind)
    for _ in range(2):
        obtain(grant, site, **PROFILES)
    forms = [form_of(r) for r in site.requests if r.path == "/idp"]
    assert [form["subject_token"] for form in forms] == ["id.token.1", "id.token.2"]
    assert forms[0]["subject_token_type"] == kind


@pytest.mark.parametrize("value", ["", "a b", None, "é", 5])
def test_em5_no_id_token(site: Site, value: Any) -> None:
    with pytest.raises(ConfigError, match="ID token is malformed"):
        obtain(enterprise(site, id_token=lambda: value), site, **PROFILES)
    assert site.requests == []


@pytest.mark.parametrize(
    "more, why",
    [
        ({"issued_token_type": None}, "something else"),
        ({"issued_token_type": "urn:x:access_token"}, "something else"),
        ({"token_type": None}, "other than N_A"),
        ({"token_type": "Bearer"}, "other than N_A"),
        ({"token_type": ["N_A"]}, "other than N_A"),
        ({"access_token": None}, "no JWT"),
        ({"access_token": 5}, "no JWT"),
        ({"access_token": CANARY}, "no JWT"),
        ({"access_token": "a.b.c d"}, "no JWT"),
        ({"access_token": "a.!.c"}, "no JWT"),
        ({"access_token": unsigned([CANARY])}, "no JWT"),
        ({"access_token": id_jag(client_id="other")}, "another client_id"),
        ({"access_token": id_jag(aud="https://evil.example")}, "another authorization"),
        ({"access_token": id_jag(aud=[5])}, "another authorization"),
        ({"access_token": id_jag(aud=None)}, "another authorization"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_em2_what_the_provider_issued(
    site: Site, more: Dict[str, Any], why: str
) -> None:
    site.routes["/idp"] = issued(**more)
    with pytest.raises(TokenError, match=why) as caught:
        obtain(enterprise(site), site, **PROFILES)
    assert site.asked == ["/idp"]
    assert str(caught.value).startswith("the token exchange at %s/idp" % site.base)
    assert CANARY not in str(caught.value)


@pytest.mark.parametrize(
    "token",
    [id_jag(aud=[ISSUER, "x"]), id_jag(aud=ISSUER + "/"), unsigned({"sub": "u"})],
)
def test_em2_what_is_good_as_well(site: Site, token: str) -> None:
    site.routes["/idp"] = issued(access_token=token, token_type="n_a")
    obtain(enterprise(site), site, **PROFILES)
    assert form_of(site.requests[1])["assertion"] == token


@pytest.mark.parametrize("profiles", [None, (), ("urn:other",)])
def test_em4_profile(site: Site, profiles: Any) -> None:
    site.routes["/idp"] = issued()
    more = {"authorization_grant_profiles_supported": profiles}
    with pytest.raises(AuthorizationError, match="require_profile=False"):
        obtain(enterprise(site), site, **more)
    assert site.requests == []
    obtain(enterprise(site, require_profile=False), site, **more)
    assert site.asked == ["/idp", "/token"]


def test_em6_the_issuer_is_pinned(site: Site) -> None:
    with pytest.raises(ConfigError, match="issuer="):
        enterprise(site, issuer=None)


def test_em6_several_issuers(site: Site) -> None:
    site.routes["/idp"] = issued()
    seen: List[str] = []

    def accepts(issuer: str) -> bool:
        seen.append(issuer)
        return len(seen) > 1

    grant = enterprise(site, issuer=None, accepts_issuer=accepts)
    with pytest.raises(IssuerMismatch, match="not accepted"):
        obtain(grant, site, **PROFILES)
    assert site.requests == []
    obtain(grant, site, **PROFILES)
    assert seen == [ISSUER, ISSUER] and len(site.requests) == 2


@pytest.mark.parametrize("path, count", [("/idp", 1), ("/token", 2)])
def test_em_refusals(site: Site, path: str, count: int) -> None:
    site.routes["/idp"] = issued()
    site.routes[path] = json_reply({"error": "invalid_grant"}, status=400)
    with pytest.raises(TokenError, match="%s failed: invalid_grant" % path):
        obtain(enterprise(site), site, **PROFILES)
    assert len(site.requests) == count


def test_em_proof_for_the_server_only(site: Site) -> None:
    site.routes["/idp"] = issued()
    site.routes["/token"] = {**GOOD, "token_type": "DPoP"}
    obtain(enterprise(site), site, dpop=DPoP(), **PROFILES)
    first, second = site.requests
    assert "DPoP" not in first.headers and "DPoP" in second.headers


# --- workload identity --------------------------------------------------------------


def test_ew1_form(site: Site) -> None:
    issuers: List[str] = []

    def current(issuer: str) -> str:
        issuers.append(issuer)
        return "a.b.c"

    assert obtain(WorkloadIdentity(current), site) == Token("at-1")
    obtain(WorkloadIdentity(current, "app"), site, scopes=())
    first, second = site.requests
    form = {"grant_type": JWT_BEARER, "assertion": "a.b.c", "resource": RESOURCE}
    assert form_of(first) == {**form, "scope": "a b"}
    assert form_of(second) == {**form, "client_id": "app"}
    assert "Authorization" not in first.headers
    assert issuers == [ISSUER, ISSUER]


def test_ew3_the_file_is_read_each_time(site: Site, tmp_path: Path) -> None:
    path, link = tmp_path / "token", tmp_path / "link"
    # As platforms do it: the name that is given leads to another file each time.
    link.symlink_to(path)
    for number in range(2):
        path.write_text("a.b.%d\n" % number)
        given: Any = link if number else str(link)
        obtain(WorkloadIdentity(given), site)
    forms = [form_of(request) for request in site.requests]
    assert [form["assertion"] for form in forms] == ["a.b.0", "a.b.1"]


@pytest.mark.parametrize(
    "content, why",
    [
        (b"", "malformed"),
        (b" \n", "malformed"),
        (b"a.b.c\nX", "malformed"),
        (b"\xff\xfe", "malformed"),
        (b"x" * (16 * 1024 + 1), "larger"),
    ],
    ids=lambda value: repr(value)[:12],
)
def test_ew3_files_that_are_no_assertion(
    site: Site, tmp_path: Path, content: bytes, why: str
) -> None:
    path = tmp_path / "token"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match=why) as caught:
        obtain(WorkloadIdentity(path), site)
    assert str(path) in str(caught.value) and site.requests == []


def test_ew3_as_large_as_can_be(site: Site, tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_bytes(b"x" * (16 * 1024))
    assert obtain(WorkloadIdentity(path), site) == Token("at-1")


def test_ew3_what_is_no_file(site: Site, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path in (pipe, tmp_path, tmp_path / "missing", "a\0b"):
        grant = WorkloadIdentity(path)
        with pytest.raises(ConfigError, match="cannot be read"):
            bounded(lambda: obtain(grant, site), 5)
    assert site.requests == []


def test_ew3_a_jwt_is_no_path() -> None:
    with pytest.raises(ConfigError, match="path of a file") as caught:
        WorkloadIdentity(unsigned({"sub": CANARY}))
    assert "ey" not in str(caught.value)


@pytest.mark.parametrize("value", ["", None, b"a.b.c", "a b"])
def test_ew3_functions_that_give_none(site: Site, value: Any) -> None:
    with pytest.raises(ConfigError, match="malformed"):
        obtain(WorkloadIdentity(lambda issuer: value), site)
    assert site.requests == []


@pytest.mark.parametrize(
    "code", ["invalid_grant", "invalid_scope", "unauthorized_client", "slow_down"]
)
def test_ew4_no_second_attempt(site: Site, code: str) -> None:
    site.routes["/token"] = json_reply({"error": code}, status=400)
    with pytest.raises(TokenError, match=code):
        obtain(WorkloadIdentity(lambda issuer: "a.b.c"), site)
    assert len(site.requests) == 1


# --- secrets ------------------------------------------------------------------------


def grants(site: Site) -> List[Any]:
    return [
        ClientCredentials("app", CANARY),
        enterprise(
            site, id_token=CANARY, client_secret=CANARY, idp_client_secret=CANARY
        ),
        WorkloadIdentity(lambda issuer: CANARY, "app"),
    ]


def test_t8_reprs(site: Site) -> None:
    key = ClientCredentials("app", private_key=pem(P256) + CANARY)
    for grant in [*grants(site), key, WorkloadIdentity(CANARY)]:
        assert CANARY not in repr(grant) and "PRIVATE" not in repr(grant)


def test_they_cannot_be_changed(site: Site) -> None:
    for grant in grants(site):
        with pytest.raises(FrozenInstanceError):
            grant.client_id = "other"
        assert replace(grant, client_id="other").client_id == "other"


def test_t8_servers_that_repeat_what_they_got(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    def reply(request: Recorded) -> Reply:
        said = "%s %s" % (request.body.decode(), request.headers["Authorization"])
        return json_reply({"error": "no", "error_description": said}, status=400)

    site.routes["/token"] = site.routes["/idp"] = reply
    with caplog.at_level(logging.DEBUG):
        for grant in grants(site):
            with pytest.raises(TokenError) as caught:
                obtain(grant, site, **PROFILES)
            assert CANARY not in "%r %s" % (caught.value, caught.value)
            for header in site.requests[-1].headers.get_all("Authorization") or []:
                assert header.split()[-1] not in str(caught.value)
    assert CANARY not in caplog.text
