"""Stores that fail, and token endpoints that are slow or busy: no login is lost."""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest

from mcpsync.auth import authorizer
from mcpsync.auth._records import Credentials
from mcpsync.auth.session import AuthorizedSession
from mcpsync.auth.stores import MemoryStore
from mcpsync.exceptions import CredentialStoreError, TokenError

from ..fakes import CANARY, bounded
from ..fakes.scripted_http import Reply
from .authority import PING, Realm, held_back, together
from .storing import run_script

Failure = Callable[[], Exception]


def no_space() -> Exception:
    return OSError(28, CANARY)


class Faulty(MemoryStore):
    """A store of somebody's own, which fails as it likes.

    Attributes:
        failure: makes what `save` raises.
        lock_failure: makes what is raised when the lock is let go.
        lock_failures: how often that happened.
    """

    def __init__(self) -> None:
        super().__init__()
        self.failure: Optional[Failure] = None
        self.lock_failure: Optional[Failure] = None
        self.lock_failures = 0

    def save(self, credentials: Credentials) -> None:
        if self.failure is not None:
            raise self.failure()
        super().save(credentials)

    @contextlib.contextmanager
    def lock(
        self, server_name: str, server_url: str, timeout: float = 60.0
    ) -> Iterator[None]:
        with super().lock(server_name, server_url, timeout):
            yield
        if self.lock_failure is not None:
            self.lock_failures += 1
            raise self.lock_failure()


@pytest.fixture
def store() -> Faulty:
    return Faulty()


@pytest.fixture
def realm(store: Faulty) -> Iterator[Realm]:
    with Realm(store) as realm:
        yield realm


@pytest.fixture
def session(realm: Realm) -> Iterator[AuthorizedSession]:
    with realm.session() as session:
        yield session


def ask(session: AuthorizedSession) -> int:
    """Send a request, and return the status of its answer."""
    url = session.authorizer.server.url
    return session.post(url, json=PING, timeout=20).status_code


def token_of(realm: Realm) -> str:
    """Return the access token that is stored."""
    saved = realm.at_hand()
    assert saved is not None
    return saved.token.access_token


def spent(realm: Realm) -> List[str]:
    """Return the refresh tokens that were spent, in order."""
    return [form["refresh_token"] for form in realm.issuer.forms]


# --- a store that fails -------------------------------------------------------------

#: New ones each time: a traceback refers to what is to be gone after a test.
FAILURES = [
    pytest.param(no_space, id="OSError"),
    pytest.param(lambda: KeyError(CANARY), id="KeyError"),
    pytest.param(lambda: CredentialStoreError("the disk is full"), id="ours"),
]


@pytest.mark.parametrize("failure", FAILURES)
def test_what_cannot_be_saved_is_used_and_saved_with_the_next_flight(
    realm: Realm,
    session: AuthorizedSession,
    store: Faulty,
    caplog: pytest.LogCaptureFixture,
    failure: Failure,
) -> None:
    caplog.set_level(logging.DEBUG)
    old = realm.stored()
    store.failure = failure
    assert [ask(session) for _ in range(3)] == [200] * 3
    assert realm.issuer.refreshes == 1 and realm.at_hand() == old
    assert "could not be saved" in caplog.text
    unsaved = realm.resource.last
    store.failure = None
    realm.issuer.void(unsaved)
    assert ask(session) == 200
    assert token_of(realm) == realm.resource.last != unsaved
    assert spent(realm)[0] == old.token.refresh_token
    assert len(set(spent(realm))) == realm.issuer.refreshes == 2
    assert CANARY not in caplog.text


def test_the_next_flight_saves_it_although_nothing_is_refreshed(
    realm: Realm, session: AuthorizedSession, store: Faulty
) -> None:
    realm.stored()
    store.failure = no_space
    assert ask(session) == 200
    store.failure = None
    # Another client, which knows of the old token only.
    with realm.session() as other:
        assert ask(other) == 200
    assert token_of(realm) == realm.resource.last == session.access_token
    assert realm.issuer.refreshes == 1


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("saves", [True, False], ids=["saved", "unsaved"])
def test_a_lock_that_fails_when_it_is_let_go(
    realm: Realm,
    session: AuthorizedSession,
    store: Faulty,
    caplog: pytest.LogCaptureFixture,
    failure: Failure,
    saves: bool,
) -> None:
    caplog.set_level(logging.DEBUG)
    old = realm.stored()
    store.lock_failure = failure
    if not saves:
        store.failure = no_space
    assert [ask(session) for _ in range(3)] == [200] * 3
    assert store.lock_failures == realm.issuer.refreshes == 1
    assert realm.issuer.scopes_of(realm.resource.last) is not None
    store.lock_failure = store.failure = None
    realm.issuer.void(realm.resource.last)
    assert ask(session) == 200
    assert token_of(realm) == realm.resource.last
    assert spent(realm)[0] == old.token.refresh_token
    assert len(set(spent(realm))) == realm.issuer.refreshes == 2
    assert CANARY not in caplog.text


@pytest.mark.parametrize("where", ["save", "lock"])
def test_a_login_outlives_a_store_that_fails(
    realm: Realm, store: Faulty, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    caplog.set_level(logging.DEBUG)

    def log_in(url: str) -> str:
        if where == "save":
            store.failure = no_space
        else:
            store.lock_failure = no_space
        return realm.issuer.log_in(url)

    with realm.session(flow=log_in) as session:
        assert [ask(session) for _ in range(3)] == [200] * 3
        store.failure = store.lock_failure = None
        realm.issuer.void(realm.resource.last)
        assert ask(session) == 200
    assert len(realm.issuer.logins) == realm.issuer.refreshes == 1
    assert token_of(realm) == realm.resource.last
    assert CANARY not in caplog.text


def test_clients_of_one_store_share_what_could_not_be_saved(
    realm: Realm, session: AuthorizedSession, store: Faulty
) -> None:
    old = realm.stored()
    store.failure = no_space
    with realm.session() as second, realm.session() as third:
        assert second.authorizer.held == third.authorizer.held == old
        assert ask(session) == ask(second) == 200
        # Also when it is refused with the old one.
        realm.issuer.void(realm.resource.last)
        assert ask(second) == ask(session) == ask(third) == 200
    assert realm.at_hand() == old
    assert spent(realm)[0] == old.token.refresh_token
    assert len(set(spent(realm))) == realm.issuer.refreshes == 2
    assert len(set(realm.resource.carried[-2:])) == 1


def test_eight_threads_of_two_clients_refresh_once_though_nothing_is_saved(
    realm: Realm, session: AuthorizedSession, store: Faulty
) -> None:
    realm.stored()
    store.failure = no_space
    with realm.session() as other:
        sessions = [session, other] * 4
        assert together(8, lambda: ask(sessions.pop())) == [200] * 8
    assert realm.issuer.refreshes == 1


# --- an issuer that is slow or busy -------------------------------------------------


def test_a_good_token_does_not_wait_for_an_issuer_that_hangs(
    realm: Realm, session: AuthorizedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert authorizer._PATIENCE <= 10
    monkeypatch.setattr(authorizer, "_PATIENCE", 0.3)
    stored = realm.stored(20)
    gate = threading.Event()
    realm.issuer.faults.append(held_back(gate))
    assert bounded(lambda: ask(session)) == 200
    assert realm.resource.last == stored.token.access_token
    assert realm.issuer.refreshes == 1
    gate.set()
    # The next call waits for the same refresh.
    monkeypatch.setattr(authorizer, "_PATIENCE", 20.0)
    assert ask(session) == 200
    assert realm.resource.last == token_of(realm) != stored.token.access_token
    assert realm.issuer.refreshes == 1


@pytest.mark.parametrize("seconds", [20, -100], ids=["still good", "expired"])
def test_who_wants_to_be_left_alone_is_left_alone(
    realm: Realm, session: AuthorizedSession, seconds: float
) -> None:
    stored = realm.stored(seconds)
    realm.issuer.faults.append(Reply(429, {"Retry-After": "60"}, b""))
    with realm.session() as other:
        for each in (session, session, session, other, other):
            if seconds > 0:
                assert ask(each) == 200
                continue
            with pytest.raises(TokenError) as caught:
                ask(each)
            assert caught.value.retryable and caught.value.retry_after == 60
    assert realm.issuer.refreshes == 1
    assert realm.at_hand() == stored


def test_after_a_pause_it_is_asked_again(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.stored()
    realm.issuer.faults.append(Reply(429, {"Retry-After": "0"}, b""))
    with pytest.raises(TokenError):
        ask(session)
    assert ask(session) == 200
    assert realm.issuer.refreshes == 2


# --- what a refresh brings ----------------------------------------------------------


@pytest.mark.parametrize("lifetime", ["soon", -5, [], "1e9", True])
def test_a_lifetime_that_means_nothing_does_not_cost_the_refresh_token(
    realm: Realm, session: AuthorizedSession, lifetime: Any
) -> None:
    old = realm.stored()
    realm.issuer.lasts = lifetime
    assert ask(session) == ask(session) == 200
    saved = realm.at_hand()
    assert saved is not None and saved.token.expires_at is None
    assert saved.token.refresh_token not in (None, old.token.refresh_token)
    assert realm.issuer.refreshes == 1
    # The new one is good.
    realm.issuer.void(saved.token.access_token)
    assert ask(session) == 200
    assert spent(realm) == [old.token.refresh_token, saved.token.refresh_token]


# --- a child ------------------------------------------------------------------------


def test_a_child_does_not_spend_the_token_of_its_parent(realm: Realm) -> None:
    answer: Dict[str, Any] = realm.issuer.issue()
    realm.issuer.void(answer["access_token"])
    script = """
        import os, sys, mcpsync
        from mcpsync.auth._records import ClientRecord, Credentials, Token
        from mcpsync.auth.stores import MemoryStore

        url, issuer, refresh_token = sys.argv[1:]
        token = Token("old", expires_at=1.0, refresh_token=refresh_token)
        store = MemoryStore()
        store.save(
            Credentials(
                "demo",
                url,
                client=ClientRecord("client-0", auth_method="none", issuer=issuer),
                token=token,
                issuer=issuer,
                token_endpoint=issuer + "/token",
                resource=url,
            )
        )
        session = mcpsync.OAuth(store=store).for_server("demo", url)
        assert session.authorized
        child = os.fork()
        if child == 0:
            code = 1
            try:
                held = session.authorizer.held
                assert held.token.refresh_token is None
                assert store.load("demo", url).token.refresh_token is None
                try:
                    session.post(url, json={})
                except mcpsync.LoginRequired:
                    code = 0
            finally:
                os._exit(code)
        assert os.waitpid(child, 0)[1] == 0
        assert store.load("demo", url).token.refresh_token == refresh_token
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        assert session.post(url, json=ping).status_code == 200
        session.close()
    """
    run_script(script, realm.url, realm.issuer.base, answer["refresh_token"])
    assert spent(realm) == [answer["refresh_token"]]
