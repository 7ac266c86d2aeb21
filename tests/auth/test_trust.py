"""Servers that lie, move or fail: what they get, and what people get to see."""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, Iterator, List, Tuple, Type

import pytest

from mcpsync.auth._records import ClientRecord
from mcpsync.auth.grants import ClientCredentials
from mcpsync.auth.session import AuthorizedSession
from mcpsync.exceptions import (
    AuthorizationError,
    DiscoveryError,
    IssuerMismatch,
    LoginRequired,
    ResourceMismatch,
    TokenError,
)

from ..fakes import CANARY
from ..fakes.scripted_http import Recorded, Reply, json_reply
from .authority import PING, Issuer, Realm, outage, refusal, together
from .sites import html

RESOURCE_METADATA = "/.well-known/oauth-protected-resource/mcp"
SERVER_METADATA = "/.well-known/oauth-authorization-server"


@pytest.fixture
def realm() -> Iterator[Realm]:
    with Realm() as realm:
        yield realm


def ask(session: AuthorizedSession) -> int:
    url = session.authorizer.server.url
    return session.post(url, json=PING, timeout=20).status_code


def sent_to(issuer: Issuer) -> str:
    """Return every byte that a server got."""
    return "\n".join(
        "%s %s\n%s\n%s" % (r.method, r.path, r.headers, r.body.decode("utf-8"))
        for r in issuer.requests
    )


# --- outages ------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [True, False])
@pytest.mark.parametrize("where", ["resource", "root", "server"])
def test_an_outage_of_metadata_is_no_answer(
    realm: Realm, where: str, stored: bool
) -> None:
    realm.resource.challenge.clear()
    if where == "resource":
        realm.resource.routes[RESOURCE_METADATA] = outage(500)
    elif where == "root":
        del realm.resource.routes[RESOURCE_METADATA]
        realm.resource.routes[RESOURCE_METADATA[: -len("/mcp")]] = outage(502)
    else:
        realm.issuer.routes[SERVER_METADATA] = outage(500)
    if stored:
        before = realm.stored(3600)
        realm.issuer.void(before.token.access_token)
    with realm.session(flow=realm.issuer.log_in) as session:
        with pytest.raises(DiscoveryError) as caught:
            ask(session)
    assert caught.value.retryable and caught.value.server == "demo"
    legacy = {"/authorize", "/token", "/register", "/.well-known/openid-configuration"}
    assert not legacy & set(realm.resource.asked + realm.issuer.asked)
    assert SERVER_METADATA not in realm.resource.asked
    assert realm.issuer.logins == []
    if stored:
        assert realm.at_hand() == before


def test_after_an_outage_all_is_well(realm: Realm) -> None:
    realm.resource.routes[RESOURCE_METADATA] = outage(500)
    with realm.session(flow=realm.issuer.log_in) as session:
        outcomes = together(4, lambda: ask(session))
        assert [type(outcome) for outcome in outcomes] == [DiscoveryError] * 4
        realm.resource.routes[RESOURCE_METADATA] = realm.resource.document
        assert ask(session) == 200


def test_a_server_without_metadata(realm: Realm) -> None:
    """Where nothing is said, the endpoints are those of 2025-03-26."""
    realm.resource.challenge.clear()
    del realm.resource.routes[RESOURCE_METADATA]
    base = realm.resource.base
    realm.issuer.document["issuer"] = base
    realm.issuer.document["authorization_endpoint"] = base + "/authorize"
    for path in ("/token", "/register"):
        realm.resource.routes[path] = realm.issuer.routes[path]
    with realm.session(flow=realm.issuer.log_in) as session:
        assert ask(session) == 200
    saved = realm.at_hand()
    assert saved is not None and saved.issuer == base
    assert saved.token_endpoint == base + "/token"


# --- lies ---------------------------------------------------------------------------


def _edit(where: str, **changes: Any) -> Callable[[Realm], None]:
    def edit(realm: Realm) -> None:
        getattr(realm, where).document.update(changes)

    return edit


def _answer(path: str, reply: Any) -> Callable[[Realm], None]:
    def edit(realm: Realm) -> None:
        realm.issuer.routes[path] = reply

    return edit


TOKENS = {"access_token": CANARY, "refresh_token": CANARY, "token_type": "Bearer"}

LIES: List[Any] = [
    pytest.param(
        _edit("resource", resource="https://bank.example/mcp"),
        ResourceMismatch,
        id="another resource",
    ),
    pytest.param(
        _edit("resource", resource=["https://bank.example/mcp"]),
        ResourceMismatch,
        id="no resource",
    ),
    pytest.param(
        _edit("resource", authorization_servers=[]), DiscoveryError, id="no issuer"
    ),
    pytest.param(
        _edit("resource", authorization_servers=["javascript:alert(1)"]),
        DiscoveryError,
        id="issuer javascript",
    ),
    pytest.param(
        _edit("resource", authorization_servers=["http://bank.example"]),
        DiscoveryError,
        id="issuer without TLS",
    ),
    pytest.param(
        _edit("issuer", issuer="https://bank.example"),
        IssuerMismatch,
        id="another issuer",
    ),
    pytest.param(_edit("issuer", issuer=None), IssuerMismatch, id="no issuer's name"),
    *(
        pytest.param(
            _edit("issuer", **{name: url}), DiscoveryError, id="%s %s" % (name, url)
        )
        for name in ("authorization_endpoint", "token_endpoint")
        for url in (
            "javascript:alert(1)",
            "file:///etc/passwd",
            "http://bank.example/",
            "https://user:secret@bank.example/",
            "data:text/html,x",
            7,
        )
    ),
    pytest.param(
        _edit("issuer", code_challenge_methods_supported=["plain"]),
        DiscoveryError,
        id="no PKCE",
    ),
    pytest.param(
        _edit("issuer", authorization_endpoint=None),
        DiscoveryError,
        id="nowhere to log in",
    ),
]


@pytest.mark.parametrize("lie, kind", LIES)
def test_a_lie_opens_nothing_and_posts_nothing(
    realm: Realm, lie: Callable[[Realm], None], kind: Type[AuthorizationError]
) -> None:
    stored = realm.stored(3600)
    realm.issuer.void(stored.token.access_token)
    realm.issuer.faults.append(refusal("invalid_grant"))
    lie(realm)
    with realm.session(flow=realm.issuer.log_in) as session:
        with pytest.raises(kind) as caught:
            ask(session)
    assert type(caught.value) is kind and not caught.value.retryable
    assert caught.value.server == "demo"
    assert realm.issuer.logins == [] and realm.issuer.registered == []
    # A refresh is all that may have come before.
    assert set(realm.issuer.asked) <= {SERVER_METADATA, "/token"}
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "reply",
    [
        pytest.param(html(), id="a page"),
        pytest.param(html(500), id="a broken page"),
        pytest.param(json_reply([CANARY]), id="a list"),
        pytest.param(json_reply({**TOKENS, "access_token": None}), id="no token"),
        pytest.param(json_reply({**TOKENS, "token_type": "mac"}), id="mac"),
        pytest.param(json_reply({**TOKENS, "access_token": "a\nb"}), id="two lines"),
        pytest.param(
            lambda request: json_reply(
                {"error": "x", "error_description": request.body.decode("ascii")}, 400
            ),
            id="it repeats our secrets",
        ),
        pytest.param(Reply(302, {"Location": "/elsewhere"}), id="a redirect"),
    ],
)
@pytest.mark.parametrize("refreshing", [True, False])
def test_a_token_endpoint_that_talks_nonsense(
    realm: Realm, caplog: pytest.LogCaptureFixture, reply: Any, refreshing: bool
) -> None:
    caplog.set_level(logging.DEBUG)
    stored = realm.stored() if refreshing else None
    realm.issuer.routes["/token"] = reply
    with realm.session(flow=realm.issuer.log_in) as session:
        with pytest.raises(TokenError) as caught:
            ask(session)
        shown = [repr(session), repr(session.authorizer), repr(session.authorizer.held)]
    assert realm.at_hand() == stored
    assert "/elsewhere" not in realm.issuer.asked
    assert len(realm.issuer.logins) == (0 if refreshing else 1)
    shown += [str(caught.value), repr(caught.value), caplog.text]
    assert not any(CANARY in text for text in shown)


def test_nothing_shows_a_secret(realm: Realm, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    oauth = realm.oauth(flow=realm.issuer.log_in, redirect_uri="http://127.0.0.1:9/cb")
    pending = oauth.begin(realm.url, name="demo")
    back = realm.issuer.log_in(pending.authorization_url)
    shown = [repr(pending), repr(oauth.finish(pending, back))]
    with oauth.for_server("demo", realm.url) as session:
        assert ask(session) == 200
        session.refresh_token()
        shown += [repr(session.authorizer), repr(session.authorizer.obtain)]
    shown.append(caplog.text)
    assert not any(CANARY in text for text in shown)
    assert not any(pending.verifier in text or pending.state in text for text in shown)


# --- another authorization server ---------------------------------------------------


@pytest.fixture
def second() -> Iterator[Issuer]:
    with Issuer() as issuer:
        yield issuer


def migrate(realm: Realm, second: Issuer) -> None:
    """Have the resource trust the second issuer only."""
    realm.resource.document["authorization_servers"] = [second.base]
    realm.resource.issuer = second


@pytest.mark.parametrize("seconds", [3600, -100], ids=["valid", "expired"])
@pytest.mark.parametrize("closed", [False, True], ids=["open", "closed"])
def test_nothing_of_one_issuer_gets_to_another(
    realm: Realm, second: Issuer, seconds: float, closed: bool
) -> None:
    first = realm.issuer
    client = ClientRecord(
        "first-client",
        CANARY + "-secret",
        "client_secret_post",
        ("http://127.0.0.1:36871/callback",),
        issuer=first.base,
    )
    stored = realm.stored(seconds, client=client, requested_scopes=("of-first",))
    realm.store.save_registration(client)
    migrate(realm, second)
    if closed:
        first.server.close()
    else:
        first.faults.append(refusal("invalid_grant"))
    with realm.session(flow=second.log_in) as session:
        assert ask(session) == 200
    sent = sent_to(second)
    for own in (
        stored.token.access_token,
        stored.token.refresh_token or "",
        "first-client",
        CANARY + "-secret",
        "of-first",
        first.base,
    ):
        assert own not in sent
    assert len(second.logins) == 1 and second.refreshes == 0
    saved = realm.at_hand()
    assert saved is not None and saved.issuer == second.base
    assert realm.store.load_registration(first.base) == client


def test_after_a_move_a_login_is_required(realm: Realm, second: Issuer) -> None:
    stored = realm.stored(3600)
    migrate(realm, second)
    with realm.session() as session:
        with pytest.raises(LoginRequired):
            ask(session)
    assert realm.issuer.refreshes == second.refreshes == 0
    # It may be a mistake of theirs.
    assert realm.at_hand() == stored


def test_a_client_of_one_issuer_is_not_shown_to_another(
    realm: Realm, second: Issuer
) -> None:
    migrate(realm, second)
    options = {"client_id": "mine", "client_secret": CANARY, "flow": second.log_in}
    with realm.session(issuer=realm.issuer.base, **options) as session:
        with pytest.raises(IssuerMismatch):
            ask(session)
    assert second.logins == [] and "mine" not in sent_to(second)


def test_a_token_endpoint_may_move(realm: Realm) -> None:
    realm.stored()
    realm.issuer.document["token_endpoint"] = realm.issuer.base + "/new"
    realm.issuer.routes["/new"] = realm.issuer.routes.pop("/token")
    with realm.session() as session:
        assert ask(session) == 200
    saved = realm.at_hand()
    assert saved is not None and saved.token_endpoint == realm.issuer.base + "/new"


def test_the_issuer_that_knows_us_is_preferred(realm: Realm, second: Issuer) -> None:
    servers = [second.base, realm.issuer.base]
    realm.resource.document["authorization_servers"] = servers
    stored = realm.stored(3600)
    realm.issuer.void(stored.token.access_token)
    with realm.session() as session:
        assert ask(session) == 200
    assert second.requests == [] and realm.issuer.refreshes == 1


# --- grants that need nobody --------------------------------------------------------


@pytest.fixture
def program(realm: Realm) -> Iterator[AuthorizedSession]:
    grant = ClientCredentials("program", CANARY + "-secret")
    with realm.session(grant=grant, store=None) as session:
        yield session


def test_a_grant_is_used_once_for_all(realm: Realm, program: AuthorizedSession) -> None:
    assert together(8, lambda: ask(program)) == [200] * 8
    assert len(realm.issuer.asked_for("client_credentials")) == 1
    assert realm.at_hand() is None and program.authorized


def test_a_grant_is_used_again_after_a_refusal(
    realm: Realm, program: AuthorizedSession
) -> None:
    assert ask(program) == 200
    realm.issuer.void(program.access_token or "")
    assert together(8, lambda: ask(program)) == [200] * 8
    assert len(realm.issuer.asked_for("client_credentials")) == 2
    assert realm.issuer.refreshes == 0


def test_a_grant_steps_up_by_itself(realm: Realm, program: AuthorizedSession) -> None:
    def wants(request: Recorded) -> Tuple[str, ...]:
        return ("write",)

    realm.resource.wants = wants
    assert together(4, lambda: ask(program)) == [200] * 4
    forms: List[Dict[str, str]] = realm.issuer.asked_for("client_credentials")
    assert [form.get("scope") for form in forms] == [None, "write"]


def test_a_grant_that_the_server_does_not_accept(
    realm: Realm, program: AuthorizedSession
) -> None:
    realm.resource.routes["/mcp"] = realm.resource.refuse(
        401, **realm.resource.challenge
    )
    with pytest.raises(AuthorizationError, match="just issued"):
        ask(program)
    assert len(realm.issuer.asked_for("client_credentials")) == 1
