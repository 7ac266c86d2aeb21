"""What belongs to one server, to one issuer or to one key goes to no other."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Dict, Iterator, List, Optional

import pytest

import mcpsync
from mcpsync.auth import _fetch
from mcpsync.auth._acquisition import Server
from mcpsync.auth.authorizer import Authorizer
from mcpsync.auth.grants import ClientCredentials
from mcpsync.auth.session import AuthorizedSession
from mcpsync.exceptions import IssuerMismatch, LoginRequired

from ..fakes import CANARY
from ..fakes.scripted_http import Reply, answer_to, json_reply
from .authority import PING, Issuer, Realm

SECRET = CANARY + "-secret"
BY_HAND: Dict[str, Any] = {
    "client_id": "by-hand",
    "client_secret": SECRET,
    "client_auth_method": "client_secret_post",
}


@pytest.fixture
def realm() -> Iterator[Realm]:
    with Realm() as realm:
        yield realm


@pytest.fixture
def second() -> Iterator[Issuer]:
    with Issuer() as issuer:
        yield issuer


def ask(session: AuthorizedSession) -> int:
    """Send a request, and return the status of its answer."""
    url = session.authorizer.server.url
    return session.post(url, json=PING, timeout=20).status_code


def migrate(realm: Realm, second: Issuer) -> None:
    """Have the resource trust the second issuer only."""
    realm.resource.document["authorization_servers"] = [second.base]
    realm.resource.issuer = second


# --- an issuer that the configuration names -----------------------------------------


@pytest.mark.parametrize("way", ["grant", "pinned grant", "flow"])
@pytest.mark.parametrize("found", [False, True], ids=["no metadata", "own metadata"])
def test_a_server_without_metadata_is_not_the_issuer(
    realm: Realm, way: str, found: bool
) -> None:
    """It would be its own authorization server, and get what is for another one."""
    resource, issuer = realm.resource, realm.issuer.base
    resource.challenge.clear()
    del resource.routes["/.well-known/oauth-protected-resource/mcp"]
    for path in ("/token", "/authorize", "/register"):
        resource.routes[path] = Reply(500)
    if found:
        own = {**realm.issuer.document, "issuer": resource.base}
        for name in ("token", "authorization", "registration", "revocation"):
            endpoint = name + "_endpoint"
            own[endpoint] = own[endpoint].replace(issuer, resource.base)
        resource.routes["/.well-known/oauth-authorization-server"] = own
    options: Dict[str, Any] = {"issuer": issuer, **BY_HAND, "flow": realm.issuer.log_in}
    if way == "grant":
        options = {"issuer": issuer, "grant": ClientCredentials("by-hand", SECRET)}
    elif way == "pinned grant":
        options = {"grant": ClientCredentials("by-hand", SECRET, issuer=issuer)}
    with realm.session(**options) as session:
        with pytest.raises(IssuerMismatch) as caught:
            ask(session)
    assert issuer in str(caught.value) and caught.value.server == "demo"
    assert not {"/token", "/authorize", "/register"} & {
        path.partition("?")[0] for path in resource.asked
    }
    assert not any(SECRET.encode() in r.body for r in resource.requests)
    assert realm.issuer.requests == [] and realm.issuer.logins == []


# --- a client that was registered by hand, nobody said where ------------------------


def no_secret_reached(second: Issuer) -> bool:
    sent = b"".join(r.path.encode() + r.body for r in second.requests)
    headers = "".join(str(r.headers) for r in second.requests)
    return b"by-hand" not in sent and b"secret" not in sent and "Basic" not in headers


@pytest.mark.parametrize("expired", [False, True], ids=["valid", "expired"])
def test_a_client_of_one_issuer_stays_there(
    realm: Realm, second: Issuer, expired: bool
) -> None:
    with realm.session(**BY_HAND, flow=realm.issuer.log_in) as session:
        assert ask(session) == 200
    stored = realm.at_hand()
    assert stored is not None and stored.issuer == realm.issuer.base
    if expired:
        realm.store.save(replace(stored, token=replace(stored.token, expires_at=1.0)))
    migrate(realm, second)
    with realm.session(**BY_HAND, flow=second.log_in) as session:
        with pytest.raises(IssuerMismatch, match="the client is known at"):
            ask(session)
    assert second.logins == [] and second.forms == []
    assert no_secret_reached(second)


@pytest.mark.parametrize("begin", ["login", "begin"])
def test_no_login_on_demand_takes_it_elsewhere(
    realm: Realm, second: Issuer, begin: str
) -> None:
    redirect = "http://127.0.0.1:4321/callback"
    oauth = realm.oauth(**BY_HAND, flow=second.log_in, redirect_uri=redirect)
    client = oauth.client_record
    assert client is not None
    realm.stored(3600, client=client)
    migrate(realm, second)
    with pytest.raises(IssuerMismatch):
        getattr(oauth, begin)(realm.url, name="demo")
    assert second.logins == [] and no_secret_reached(second)


@pytest.mark.parametrize("expired", [False, True], ids=["valid", "expired"])
def test_a_program_of_one_issuer_stays_there(
    realm: Realm, second: Issuer, expired: bool
) -> None:
    if expired:
        realm.issuer.lasts = 0
    grant = ClientCredentials("by-hand", SECRET)
    with realm.session(grant=grant, store="memory") as session:
        assert ask(session) == 200
        migrate(realm, second)
        with pytest.raises(IssuerMismatch, match="the client is known at"):
            ask(session)
    assert second.forms == [] and no_secret_reached(second)


# --- a token that is bound to a key -------------------------------------------------


def without_key(realm: Realm) -> str:
    """Store a token that is bound to a key, without the key; return it."""
    stored = realm.stored(3600)
    realm.store.save(replace(stored, token=replace(stored.token, token_type="DPoP")))
    return stored.token.access_token


def test_a_bound_token_without_its_key_is_not_sent(realm: Realm) -> None:
    token = without_key(realm)
    with realm.session() as session:
        with pytest.raises(LoginRequired):
            ask(session)
    assert realm.resource.carried == [None]
    assert not any(token in str(request.headers) for request in realm.resource.requests)
    assert realm.issuer.forms == []


def test_a_login_replaces_a_bound_token_without_its_key(realm: Realm) -> None:
    token = without_key(realm)
    with realm.session(flow=realm.issuer.log_in) as session:
        assert ask(session) == ask(session) == 200
    assert len(realm.issuer.logins) == 1 and realm.issuer.refreshes == 0
    saved = realm.at_hand()
    assert saved is not None and saved.token.token_type == "Bearer"
    assert token not in str(realm.resource.carried)


# --- the address of the server ------------------------------------------------------


def test_the_address_that_refused_counts_for_discovery(
    realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: List[Optional[str]] = []

    class Fetcher(_fetch.Fetcher):
        def __init__(self, **options: Any) -> None:
            given.append(options["server_address"])
            super().__init__(**options)

    monkeypatch.setattr(_fetch, "Fetcher", Fetcher)
    plain: Any = realm.resource.routes["/mcp"]

    def discover(request: Any) -> Reply:
        reply: Reply = plain(request)
        if reply.status != 200:
            return reply
        result = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
        return json_reply(answer_to(request, {"resultType": "complete", **result}))

    realm.resource.routes["/mcp"] = discover
    oauth = realm.oauth(flow=realm.issuer.log_in)
    mcpsync.connect(realm.url, name="demo", auth=oauth).close()
    assert len(realm.issuer.logins) == 1
    assert given and set(given) == {"127.0.0.1"}


@pytest.mark.parametrize("refused", [401, 403])
def test_the_address_of_a_response_reaches_the_fetcher(
    realm: Realm, refused: int
) -> None:
    given: List[Optional[str]] = []

    def fetcher(address: Optional[str]) -> _fetch.Fetcher:
        given.append(address)
        return _fetch.Fetcher(server_url=realm.url)

    if refused == 403:
        realm.stored(3600, requested_scopes=("read",))
        realm.resource.wants = lambda request: ["write"]
    config = realm.oauth(flow=realm.issuer.log_in)
    authorizer = Authorizer(Server("demo", realm.url), config, fetcher)
    with AuthorizedSession(authorizer) as session:
        repair = session.repair

        def at(credential: Any, response: Any, deadline: Any) -> bool:
            response.server_address = "192.0.2.7"
            return repair(credential, response, deadline)

        session.__dict__["repair"] = at
        assert ask(session) == 200
    assert given and set(given) == {"192.0.2.7"}
