"""How people log in and out, and what is asked for."""

from __future__ import annotations

import json
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional, Type

import pytest

import mcpsync
from mcpsync._deadline import Deadline
from mcpsync.auth import authorizer, login
from mcpsync.auth.authorizer import Need
from mcpsync.auth.flight import Flight
from mcpsync.auth.session import AuthorizedSession
from mcpsync.auth.stores import FileStore, MemoryStore
from mcpsync.exceptions import (
    AuthorizationError,
    ClientClosed,
    ConfigError,
    CredentialStoreError,
    LoginRequired,
    RequestTimeout,
    TokenError,
)

from ..fakes import CANARY, bounded
from ..fakes.scripted_http import Reply, answer_to, json_reply
from .authority import PING, Realm, outage, refusal, together
from .logins import send

REDIRECT = "http://127.0.0.1:4321/callback"


@pytest.fixture
def realm() -> Iterator[Realm]:
    with Realm() as realm:
        yield realm


def ask(session: AuthorizedSession) -> int:
    url = session.authorizer.server.url
    return session.post(url, json=PING, timeout=20).status_code


class Person:
    """Logs in when it is allowed to.

    Attributes:
        asked: set when somebody wants a login.
        may_go_on: set it to let the person answer.
        threads: those that asked.
    """

    def __init__(self, realm: Realm) -> None:
        self._realm = realm
        self.asked = threading.Event()
        self.may_go_on = threading.Event()
        self.threads: List[threading.Thread] = []
        self.failure: Optional[Type[BaseException]] = None

    def __call__(self, url: str) -> str:
        self.threads.append(threading.current_thread())
        self.asked.set()
        assert self.may_go_on.wait(20)
        if self.failure is not None:
            raise self.failure(CANARY)
        return self._realm.issuer.log_in(url)


@pytest.fixture
def person(realm: Realm) -> Person:
    return Person(realm)


@pytest.fixture
def session(realm: Realm, person: Person) -> Iterator[AuthorizedSession]:
    with realm.session(flow=person) as session:
        yield session


class Asking:
    """A thread that asks, and leads a login; leaving the block ends it.

    Attributes:
        outcome: the status of the answer, or the exception that came.
    """

    def __init__(self, session: AuthorizedSession, person: Person) -> None:
        self._session = session
        self._person = person
        self.outcome: Any = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "Asking":
        self._thread.start()
        assert self._begun.wait(10)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._person.may_go_on.set()
        self._end()

    @property
    def _begun(self) -> threading.Event:
        return self._person.asked

    def _end(self) -> None:
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.outcome = ask(self._session)
        except BaseException as error:
            self.outcome = error


class Waiting(Asking):
    """A thread that asks, and waits for the login of another one."""

    def __init__(self, session: AuthorizedSession, waiting: threading.Event) -> None:
        self._session = session
        self._waiting = waiting
        self.outcome: Any = None
        self._thread = threading.Thread(target=self._run, name="waiter", daemon=True)

    @property
    def _begun(self) -> threading.Event:
        return self._waiting

    def __exit__(self, *exc_info: object) -> None:
        self._end()


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return what is set when somebody waits for a flight that another one leads."""
    event = threading.Event()
    plain = Flight.wait

    def wait(flight: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.current_thread().name == "waiter":
            event.set()
        return plain(flight, *args, **kwargs)

    monkeypatch.setattr(Flight, "wait", wait)
    return event


# --- a login in the middle of a call ------------------------------------------------


def test_whoever_asks_runs_the_flow(
    realm: Realm, session: AuthorizedSession, person: Person
) -> None:
    person.may_go_on.set()
    assert ask(session) == 200
    assert person.threads == [threading.current_thread()]
    saved = realm.at_hand()
    assert saved is not None and saved.client.client_id == "client-1"
    assert saved.issuer == realm.issuer.base and saved.resource == realm.url
    [asked] = realm.issuer.logins
    assert asked["resource"] == realm.url
    assert asked["redirect_uri"] == "http://127.0.0.1:36871/callback"


def test_one_login_for_eight_threads(
    realm: Realm, session: AuthorizedSession, person: Person
) -> None:
    person.may_go_on.set()
    assert together(8, lambda: ask(session)) == [200] * 8
    assert len(realm.issuer.logins) == len(realm.issuer.registered) == 1
    assert len(realm.issuer.asked_for("authorization_code")) == 1


def test_those_who_wait_keep_their_deadlines(
    realm: Realm, session: AuthorizedSession, person: Person
) -> None:
    with Asking(session, person) as leader:
        need = Need(challenges=())
        with pytest.raises(RequestTimeout):
            session.authorizer.obtain(need, Deadline.after(0.2))
    assert leader.outcome == 200 and len(realm.issuer.logins) == 1


def test_the_clock_of_the_leader_stands_still(realm: Realm) -> None:
    deadline = Deadline.after(20)
    moments: List[Optional[float]] = []

    def flow(url: str) -> str:
        moments.append(deadline.expires_at())
        return realm.issuer.log_in(url)

    with realm.session(flow=flow) as session:
        session.authorizer.obtain(Need(challenges=()), deadline)
    assert moments == [None]
    assert deadline.expires_at() is not None


def test_a_login_that_is_denied_is_denied_to_all(
    realm: Realm,
    session: AuthorizedSession,
    person: Person,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    realm.issuer.deny = True
    person.may_go_on.set()
    outcomes = together(8, lambda: ask(session))
    assert [type(outcome) for outcome in outcomes] == [AuthorizationError] * 8
    assert len({str(outcome) for outcome in outcomes}) == 1
    assert "access_denied" in str(outcomes[0])
    assert len(realm.issuer.logins) == 1
    realm.issuer.deny = False
    # Not at once: a program that calls in a loop would open one window after another.
    with pytest.raises(AuthorizationError, match="access_denied"):
        ask(session)
    assert len(realm.issuer.logins) == 1
    # A later call asks again.
    monkeypatch.setattr(authorizer, "LOGIN_PAUSE", 0.0)
    assert ask(session) == 200


def test_a_flow_that_fails_at_once_runs_once(
    realm: Realm, session: AuthorizedSession, person: Person
) -> None:
    person.may_go_on.set()
    person.failure = ValueError
    outcomes = together(8, lambda: ask(session))
    kinds = sorted(type(outcome).__name__ for outcome in outcomes)
    assert kinds == ["AuthorizationError"] * 7 + ["ValueError"]
    assert len(person.threads) == 1


def test_ctrl_c_in_the_leader(
    realm: Realm, session: AuthorizedSession, person: Person, waiting: threading.Event
) -> None:
    person.failure = KeyboardInterrupt
    with Asking(session, person) as leader, realm.session() as other:
        with Waiting(other, waiting) as waiter:
            person.may_go_on.set()
    assert isinstance(leader.outcome, KeyboardInterrupt)
    assert isinstance(waiter.outcome, AuthorizationError)
    assert "given up" in str(waiter.outcome)
    person.failure = None
    assert ask(session) == 200


def test_close_wakes_those_who_wait(
    realm: Realm, session: AuthorizedSession, person: Person, waiting: threading.Event
) -> None:
    with Asking(session, person) as leader, realm.session() as other:
        # Another client of the same server and store waits for the login of this one.
        with Waiting(other, waiting) as waiter:
            other.close()
    assert isinstance(waiter.outcome, ClientClosed)
    assert leader.outcome == 200


def test_a_flow_that_needs_what_it_is_to_bring(realm: Realm) -> None:
    outcomes: List[str] = []

    def flow(url: str) -> str:
        try:
            ask(asking)
        except AuthorizationError as error:
            outcomes.append(str(error))
        return realm.issuer.log_in(url)

    asking = realm.session(flow=flow)
    with asking:
        assert bounded(lambda: ask(asking)) == 200
    assert len(outcomes) == 1 and "in the middle of a login" in outcomes[0]


def test_a_call_of_a_client_logs_in(realm: Realm) -> None:
    plain: Any = realm.resource.routes["/mcp"]

    def discover(request: Any) -> Reply:
        reply: Reply = plain(request)
        if reply.status != 200:
            return reply
        result: Dict[str, Any] = {"supportedVersions": ["2026-07-28"]}
        result["capabilities"] = {"tools": {}}
        if request.rpc_method == "tools/list":
            result = {"tools": [], "ttlMs": 0, "cacheScope": "private"}
        return json_reply(answer_to(request, {"resultType": "complete", **result}))

    realm.resource.routes["/mcp"] = discover
    oauth = realm.oauth(flow=realm.issuer.log_in)
    with mcpsync.connect(realm.url, name="demo", auth=oauth) as client:
        assert list(client.list_tools()) == []
    assert len(realm.issuer.logins) == 1
    carried = {header for header in realm.resource.carried if header is not None}
    saved = realm.at_hand()
    assert saved is not None and carried == {"Bearer " + saved.token.access_token}


def test_a_client_that_asks_nobody(realm: Realm) -> None:
    with pytest.raises(LoginRequired) as caught:
        mcpsync.connect(realm.url, auth=realm.oauth())
    assert "mcpsync login " + realm.url in str(caught.value)
    assert realm.issuer.asked.count("/register") == 0


def test_a_browser(realm: Realm, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: List[str] = []

    def open_browser(url: str) -> bool:
        assert b" 200 OK\r\n" in send(realm.issuer.log_in(url))
        return True

    monkeypatch.setattr(
        login.browser_flow, "__kwdefaults__", {"open_url": open_browser}
    )
    monkeypatch.setattr("mcpsync.auth._people.show", shown.append)
    for _ in range(2):
        with realm.session(flow="browser") as session:
            assert ask(session) == 200
        realm.store.delete("demo", realm.url)
    # The second one came back to the address that was registered for the first.
    assert realm.issuer.registered == ["client-1"]
    uris = {asked["redirect_uri"] for asked in realm.issuer.logins}
    assert len(uris) == 1 and len(realm.issuer.logins) == 2
    assert realm.issuer.document["authorization_endpoint"] in shown[0]


def test_close_ends_a_login_in_a_browser(
    realm: Realm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def open_browser(url: str) -> bool:
        asking.close()
        return True

    monkeypatch.setattr(
        login.browser_flow, "__kwdefaults__", {"open_url": open_browser}
    )
    monkeypatch.setattr("mcpsync.auth._people.show", lambda text: None)
    asking = realm.session(flow="browser")
    with asking:
        with pytest.raises(ClientClosed):
            bounded(lambda: ask(asking))
    assert realm.issuer.forms == []


# --- a login on demand --------------------------------------------------------------


def test_login(realm: Realm) -> None:
    oauth = realm.oauth(flow=realm.issuer.log_in)
    credentials = oauth.login(realm.url, name="demo")
    assert realm.at_hand() == credentials
    # Also when there is one already.
    assert oauth.login(realm.url, name="demo").token != credentials.token
    assert realm.issuer.registered == ["client-1"]


def test_login_is_kept_under_host_and_port(realm: Realm) -> None:
    credentials = realm.oauth(flow=realm.issuer.log_in).login(realm.url)
    assert credentials.server_name == realm.url.split("/")[2]
    with mcpsync.OAuth(store=realm.store).for_server(
        credentials.server_name, realm.url
    ) as session:
        assert ask(session) == 200


def test_login_needs_a_person(realm: Realm) -> None:
    with pytest.raises(ConfigError, match="flow="):
        realm.oauth().login(realm.url)
    assert realm.resource.requests == []


def test_login_at_a_server_that_wants_none(realm: Realm) -> None:
    realm.resource.routes.clear()
    realm.resource.routes["/mcp"] = lambda r: json_reply(answer_to(r, {}))
    with pytest.raises(AuthorizationError, match="wants no login"):
        realm.oauth(flow=realm.issuer.log_in).login(realm.url)


# --- in two phases ------------------------------------------------------------------


def test_begin_and_finish(realm: Realm, tmp_path: Any) -> None:
    path = str(tmp_path / "home" / "credentials.json")
    begun = mcpsync.OAuth(store=FileStore(path), redirect_uri=REDIRECT)
    pending = begun.begin(realm.url, name="demo")
    kept = json.dumps(pending.to_json())
    back = realm.issuer.log_in(pending.authorization_url)
    assert back.startswith(REDIRECT + "?")
    # Another process, of which this one knows nothing.
    finished = mcpsync.OAuth(store=FileStore(path), redirect_uri=REDIRECT)
    credentials = finished.finish(json.loads(kept), back)
    stored = FileStore(path).load("demo", realm.url)
    assert stored is not None
    assert stored.token.access_token == credentials.token.access_token
    oauth = mcpsync.OAuth(store=FileStore(path))
    with oauth.for_server("demo", realm.url) as session:
        assert ask(session) == 200
    assert realm.issuer.asked.count("/register") == 1


def test_finish_takes_what_begin_returned(realm: Realm) -> None:
    oauth = realm.oauth(redirect_uri=REDIRECT)
    pending = oauth.begin(realm.url)
    with pytest.raises(AuthorizationError, match="not the answer|another login"):
        oauth.finish(pending, REDIRECT + "?code=x&state=wrong")
    back = realm.issuer.log_in(pending.authorization_url)
    assert oauth.finish(pending, back).server_url == realm.url
    # Once for each beginning.
    with pytest.raises(TokenError) as caught:
        oauth.finish(pending, back)
    assert caught.value.error == "invalid_grant"


def test_begin_asks_for_the_scopes_of_the_challenge(realm: Realm) -> None:
    realm.resource.challenge["scope"] = "read write"
    pending = realm.oauth(redirect_uri=REDIRECT).begin(realm.url)
    assert pending.scopes == ("read", "write")


def test_begin_needs_an_address(realm: Realm) -> None:
    with pytest.raises(ConfigError, match="redirect_uri"):
        realm.oauth().begin(realm.url)


def test_finish_too_late(realm: Realm) -> None:
    oauth = realm.oauth(redirect_uri=REDIRECT)
    pending = oauth.begin(realm.url)
    back = realm.issuer.log_in(pending.authorization_url)
    with pytest.raises(LoginRequired):
        oauth.finish(replace(pending, created=pending.created - 301), back)
    assert realm.issuer.forms == []


@pytest.mark.parametrize("pending", [{}, {"v": 1}, {"v": 2, "state": CANARY}])
def test_finish_with_something_else(realm: Realm, pending: Dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="pending login"):
        realm.oauth().finish(pending, REDIRECT)


# --- the end of a login -------------------------------------------------------------


def test_logout_revokes_and_forgets(realm: Realm) -> None:
    stored = realm.stored(3600)
    assert realm.oauth().logout(realm.url, name="demo")
    assert realm.issuer.revoked == [
        stored.token.refresh_token,
        stored.token.access_token,
    ]
    assert realm.at_hand() is None
    assert not realm.oauth().logout(realm.url, name="demo")


@pytest.mark.parametrize("broken", ["revocation", "metadata", "everything"])
def test_logout_forgets_in_any_case(realm: Realm, broken: str) -> None:
    realm.stored(3600)
    if broken == "revocation":
        realm.issuer.routes["/revoke"] = outage()
    elif broken == "metadata":
        realm.issuer.routes["/.well-known/oauth-authorization-server"] = outage()
    else:
        realm.issuer.server.close()
        realm.resource.server.close()
    assert realm.oauth().logout(realm.url, name="demo")
    assert realm.at_hand() is None


def test_logout_forgets_what_cannot_be_read(tmp_path: Path) -> None:
    with Realm(FileStore(tmp_path / "home" / "credentials.json")) as realm:
        realm.stored(3600)
        path = tmp_path / "home" / "credentials.json"
        entries = json.loads(path.read_text())
        for entry in entries.values():
            entry.pop("client_id")
        path.write_text(json.dumps(entries))
        with pytest.raises(CredentialStoreError):
            realm.at_hand()
        assert realm.oauth().logout(realm.url, name="demo")
        assert realm.at_hand() is None


def test_logout_tells_only_the_issuer(realm: Realm) -> None:
    realm.stored(3600, issuer="https://other.example")
    assert realm.oauth().logout(realm.url, name="demo")
    assert realm.issuer.revoked == [] and realm.at_hand() is None


# --- what is asked for --------------------------------------------------------------


@pytest.mark.parametrize(
    "challenge, supported, options, expected",
    [
        pytest.param("a b", ["c"], {}, "a b", id="the challenge counts"),
        pytest.param(None, ["c", "d"], {}, "c d", id="or else the metadata"),
        pytest.param(None, None, {}, None, id="or nothing"),
        pytest.param("a", None, {"scopes": ["b"]}, "a b", id="and the user's"),
        pytest.param(
            "a", ["c"], {"scopes": ["b"], "scope_policy": "only"}, "b", id="alone"
        ),
    ],
)
def test_scopes(
    realm: Realm,
    challenge: Optional[str],
    supported: Optional[List[str]],
    options: Dict[str, Any],
    expected: Optional[str],
) -> None:
    if challenge is not None:
        realm.resource.challenge["scope"] = challenge
    if supported is not None:
        realm.resource.document["scopes_supported"] = supported
    realm.issuer.document["scopes_supported"] = ["decoy"]
    with realm.session(flow=realm.issuer.log_in, **options) as session:
        assert ask(session) == 200
    assert [asked.get("scope") for asked in realm.issuer.logins] == [expected]


@pytest.mark.parametrize("wanted", [True, False])
def test_offline_access(realm: Realm, wanted: bool) -> None:
    realm.resource.challenge["scope"] = "read"
    realm.issuer.document["scopes_supported"] = ["offline_access"]
    oauth = {"flow": realm.issuer.log_in, "offline_access": wanted}
    with realm.session(**oauth) as session:
        assert ask(session) == 200
    [asked] = realm.issuer.logins
    assert asked["scope"] == ("read offline_access" if wanted else "read")
    assert asked.get("prompt") == ("consent" if wanted else None)


def test_what_was_asked_for_before_is_asked_for_again(realm: Realm) -> None:
    realm.stored(requested_scopes=("read",))
    realm.issuer.faults.append(refusal("invalid_grant"))
    realm.resource.challenge["scope"] = "write"
    with realm.session(flow=realm.issuer.log_in) as session:
        assert ask(session) == 200
    assert [asked.get("scope") for asked in realm.issuer.logins] == ["write"]


# --- configuration ------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"flow": "guess"},
        {"scopes": "read write"},
        {"client_secret": CANARY},
        {"store": "cloud"},
        {"client_metadata_url": "http://example.com/client.json"},
        {"client_metadata_url": "https://example.com"},
    ],
)
def test_what_does_not_fit_together(options: Dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        mcpsync.OAuth(**options)


def test_secrets_are_not_shown() -> None:
    oauth = mcpsync.OAuth(client_id="app", client_secret=CANARY, store="memory")
    assert CANARY not in repr(oauth) and "app" in repr(oauth)
    assert isinstance(oauth.credential_store, MemoryStore)


def test_the_store_of_a_configuration_is_one(realm: Realm) -> None:
    oauth = mcpsync.OAuth(store="memory")
    one, other = (oauth.for_server("demo", realm.url) for _ in range(2))
    assert one.authorizer.config.credential_store is oauth.credential_store
    assert other.authorizer.config.credential_store is oauth.credential_store


def test_credentials_of_another_client_are_not_used(realm: Realm) -> None:
    realm.stored(3600)
    with realm.session(client_id="mine") as session:
        assert session.authorizer.held is None
    with realm.session(client_id="client-0") as session:
        assert session.authorizer.held is not None
    with realm.session(client_id="client-0", issuer="https://b.example") as session:
        assert session.authorizer.held is None
