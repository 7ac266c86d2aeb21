"""The token of a server: refreshed once, and saved before anybody uses it."""

from __future__ import annotations

import threading
import time
from dataclasses import replace
from typing import Any, Iterator, List, Optional

import pytest

from mcpsync._deadline import Deadline
from mcpsync.auth._records import Credentials
from mcpsync.auth.authorizer import Need
from mcpsync.auth.session import AuthorizedSession
from mcpsync.auth.stores import MemoryStore
from mcpsync.exceptions import (
    AuthorizationError,
    CredentialStoreError,
    LoginRequired,
    RequestTimeout,
    TokenError,
)

from ..fakes import bounded
from ..fakes.scripted_http import Reply
from .authority import LOST, PING, Realm, held_back, outage, refusal, together
from .sites import soon


@pytest.fixture
def realm() -> Iterator[Realm]:
    with Realm() as realm:
        yield realm


@pytest.fixture
def session(realm: Realm) -> Iterator[AuthorizedSession]:
    with realm.session() as session:
        yield session


def ask(session: AuthorizedSession) -> int:
    """Send a request, and return the status of its answer."""
    url = session.authorizer.server.url
    return session.post(url, json=PING, timeout=20).status_code


def bearer(credentials: Optional[Credentials]) -> str:
    assert credentials is not None
    return "Bearer " + credentials.token.access_token


# --- expiry -------------------------------------------------------------------------


def test_a_good_token_is_just_sent(realm: Realm, session: AuthorizedSession) -> None:
    stored = realm.stored(3600)
    assert ask(session) == 200
    assert realm.resource.carried == [bearer(stored)]
    assert realm.issuer.requests == []


def test_without_a_login_nothing_is_sent(
    realm: Realm, session: AuthorizedSession
) -> None:
    with pytest.raises(LoginRequired) as caught:
        ask(session)
    assert realm.resource.carried == [None]
    assert "mcpsync login " + realm.url in str(caught.value)
    assert caught.value.server_url == realm.url and caught.value.server == "demo"


def test_an_expired_token_is_refreshed_before_it_is_sent(
    realm: Realm, session: AuthorizedSession
) -> None:
    stored = realm.stored()
    assert ask(session) == 200
    saved = realm.at_hand()
    assert realm.resource.carried == [bearer(saved)]
    assert realm.issuer.asked == ["/token"]
    assert realm.issuer.forms == [
        {
            "grant_type": "refresh_token",
            "refresh_token": stored.token.refresh_token,
            "client_id": "client-0",
            "resource": realm.url,
        }
    ]


@pytest.mark.parametrize("seconds, refreshes", [(20, 1), (120, 0)])
def test_half_a_minute_before_its_end(
    realm: Realm, session: AuthorizedSession, seconds: float, refreshes: int
) -> None:
    realm.stored(seconds)
    assert ask(session) == 200
    assert realm.issuer.refreshes == refreshes


def test_an_outage_does_not_matter_while_the_token_is_good(
    realm: Realm, session: AuthorizedSession
) -> None:
    stored = realm.stored(20)
    realm.issuer.faults += [outage(), outage()]
    assert ask(session) == 200
    assert realm.resource.carried == [bearer(stored)]
    assert realm.at_hand() == stored


def test_an_outage_after_its_end_is_said_and_keeps_the_login(
    realm: Realm, session: AuthorizedSession
) -> None:
    stored = realm.stored()
    realm.issuer.faults += [outage(), outage()]
    with pytest.raises(TokenError) as caught:
        ask(session)
    assert caught.value.retryable and caught.value.server == "demo"
    assert realm.at_hand() == stored
    assert realm.resource.carried == []
    assert ask(session) == 200


def test_a_token_that_cannot_be_refreshed_is_tried(
    realm: Realm, session: AuthorizedSession
) -> None:
    stored = realm.stored(20)
    token = replace(stored.token, refresh_token=None)
    realm.store.save(replace(stored, token=token))
    assert ask(session) == 200
    assert realm.issuer.requests == []


def test_eight_threads_refresh_once(realm: Realm, session: AuthorizedSession) -> None:
    realm.stored()
    assert together(8, lambda: ask(session)) == [200] * 8
    assert realm.issuer.refreshes == 1
    assert set(realm.resource.carried) == {bearer(realm.at_hand())}


def test_two_clients_of_one_store_refresh_once(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.stored()
    with realm.session() as other:
        sessions = [session, other] * 4
        assert together(8, lambda: ask(sessions.pop())) == [200] * 8
    assert realm.issuer.refreshes == 1


# --- a token that is refused --------------------------------------------------------


def test_a_refused_token_is_refreshed_after_discovery(
    realm: Realm, session: AuthorizedSession
) -> None:
    stored = realm.stored(3600)
    realm.issuer.void(stored.token.access_token)
    assert ask(session) == 200
    assert realm.resource.carried == [bearer(stored), bearer(realm.at_hand())]
    well_known = "/.well-known/oauth-protected-resource/mcp"
    assert realm.resource.asked == ["/mcp", well_known, "/mcp"]
    discovery = "/.well-known/oauth-authorization-server"
    assert realm.issuer.asked == [discovery, "/token"]


def test_eight_threads_that_are_refused_refresh_once(
    realm: Realm, session: AuthorizedSession
) -> None:
    stored = realm.stored(3600)
    realm.issuer.void(stored.token.access_token)
    assert together(8, lambda: ask(session)) == [200] * 8
    assert realm.issuer.refreshes == 1


def test_what_another_process_has_got_is_used(
    realm: Realm, session: AuthorizedSession
) -> None:
    old = realm.stored(3600)
    assert ask(session) == 200
    realm.issuer.void(old.token.access_token)
    new = realm.stored(3600)
    assert ask(session) == 200
    assert realm.resource.carried[1:] == [bearer(old), bearer(new)]
    assert realm.resource.asked == ["/mcp"] * 3
    assert realm.issuer.requests == []


def test_logged_out_elsewhere(realm: Realm, session: AuthorizedSession) -> None:
    old = realm.stored(3600)
    assert ask(session) == 200
    realm.issuer.void(old.token.access_token)
    realm.store.delete("demo", realm.url)
    with pytest.raises(LoginRequired):
        ask(session)
    assert realm.issuer.refreshes == 0
    assert session.authorizer.held is None
    with pytest.raises(LoginRequired):
        ask(session)
    assert realm.resource.carried[-1] is None


def test_logged_out_elsewhere_before_the_end_of_a_token(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.stored(20)
    assert session.authorized
    realm.store.delete("demo", realm.url)
    with pytest.raises(LoginRequired):
        ask(session)
    assert realm.resource.carried == [None]
    assert realm.issuer.refreshes == 0


def test_a_new_token_that_is_refused_is_not_refreshed_again(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.stored(3600)
    realm.resource.routes["/mcp"] = realm.resource.refuse(
        401, **realm.resource.challenge
    )
    with pytest.raises(LoginRequired, match="does not accept the stored login"):
        ask(session)
    assert realm.issuer.refreshes == 1
    assert realm.resource.asked.count("/mcp") == 2


def test_a_login_that_is_refused_is_not_repeated(realm: Realm) -> None:
    realm.stored(3600)
    realm.resource.routes["/mcp"] = realm.resource.refuse(
        401, **realm.resource.challenge
    )
    with realm.session(flow=realm.issuer.log_in) as session:
        with pytest.raises(AuthorizationError, match="just issued"):
            ask(session)
    assert realm.issuer.refreshes == 1
    assert len(realm.issuer.logins) == 1
    assert realm.resource.asked.count("/mcp") == 3


# --- a refresh token that is refused ------------------------------------------------


def test_a_refused_refresh_token_is_forgotten(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.stored()
    realm.issuer.faults.append(refusal("invalid_grant"))
    with pytest.raises(LoginRequired):
        ask(session)
    assert realm.at_hand() is None
    # It was worth a try without any token.
    assert realm.resource.carried == [None]
    assert realm.issuer.refreshes == 1


def test_only_the_token_that_was_refused_is_forgotten(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.stored()
    newer: List[Credentials] = []

    def log_in_elsewhere(form: Any) -> Any:
        newer.append(realm.stored(3600))
        return refusal("invalid_grant")

    realm.issuer.faults.append(log_in_elsewhere)
    assert ask(session) == 200
    assert [realm.at_hand()] == newer


def test_a_refused_refresh_token_leads_to_a_login(realm: Realm) -> None:
    realm.stored()
    realm.issuer.faults.append(refusal("invalid_grant"))
    with realm.session(flow=realm.issuer.log_in) as session:
        assert ask(session) == 200
    assert (realm.issuer.refreshes, len(realm.issuer.logins)) == (1, 1)


@pytest.mark.parametrize("code", ["invalid_client", "unauthorized_client"])
def test_a_client_that_is_not_known_any_more_registers_again(
    realm: Realm, code: str
) -> None:
    stored = realm.stored()
    uris = ("http://127.0.0.1:36871/callback",)
    realm.store.save_registration(replace(stored.client, redirect_uris=uris))
    realm.issuer.faults.append(refusal(code, 401))
    with realm.session(flow=realm.issuer.log_in) as session:
        assert ask(session) == 200
    assert realm.issuer.registered == ["client-1"]
    assert [login["client_id"] for login in realm.issuer.logins] == ["client-1"]
    record = realm.store.load_registration(realm.issuer.base)
    assert record is not None and record.client_id == "client-1"


def test_a_client_that_is_not_known_at_the_end_of_a_login_registers_once(
    realm: Realm,
) -> None:
    realm.issuer.faults += [refusal("invalid_client", 401)] * 2
    with realm.session(flow=realm.issuer.log_in) as session:
        with pytest.raises(TokenError) as caught:
            ask(session)
    assert caught.value.error == "invalid_client"
    assert realm.issuer.registered == ["client-1", "client-2"]
    assert len(realm.issuer.logins) == 2


def test_what_a_person_registered_is_not_dropped(realm: Realm) -> None:
    stored = realm.stored()
    realm.issuer.faults += [refusal("invalid_client", 401)] * 2
    with realm.session(client_id="client-0", flow=realm.issuer.log_in) as session:
        realm.store.save(
            replace(stored, client=replace(stored.client, kind="preregistered"))
        )
        with pytest.raises(TokenError) as caught:
            ask(session)
    assert caught.value.error == "invalid_client"
    assert realm.issuer.registered == [] and realm.issuer.logins == []
    assert realm.at_hand() is not None


def test_a_lost_answer_is_asked_for_once_more(
    realm: Realm, session: AuthorizedSession
) -> None:
    stored = realm.stored()
    realm.issuer.faults.append(LOST)
    assert ask(session) == 200
    tokens = [form["refresh_token"] for form in realm.issuer.forms]
    assert tokens == [stored.token.refresh_token] * 2


def test_a_lost_answer_that_spent_the_refresh_token(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.stored()

    def spend(form: Any) -> Any:
        realm.issuer.spend(form)
        return LOST

    realm.issuer.faults.append(spend)
    with pytest.raises(LoginRequired):
        ask(session)
    assert realm.issuer.refreshes == 2
    with pytest.raises(LoginRequired):
        ask(session)
    assert realm.issuer.refreshes == 2


def test_who_asks_to_be_left_alone_is_not_asked_twice(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.stored()
    realm.issuer.faults.append(Reply(429, {"Retry-After": "7"}, b""))
    with pytest.raises(TokenError) as caught:
        ask(session)
    assert caught.value.retry_after == 7
    assert realm.issuer.refreshes == 1


# --- saving -------------------------------------------------------------------------


class SpyStore(MemoryStore):
    """A store that notes what happens to it, and fails when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.fails = False
        self.saved: List[str] = []

    def save(self, credentials: Credentials) -> None:
        if self.fails:
            raise CredentialStoreError("the disk is full")
        self.saved.append(credentials.token.access_token)
        super().save(credentials)


@pytest.fixture
def spied() -> Iterator[Realm]:
    with Realm(SpyStore()) as realm:
        yield realm


def test_a_token_is_saved_before_it_is_used(spied: Realm) -> None:
    spied.stored()
    saved_when_used: List[bool] = []
    plain: Any = spied.resource.routes["/mcp"]

    def look(request: Any) -> Any:
        header = request.headers["Authorization"] or ""
        saved_when_used.append(header.partition(" ")[2] in spied.store.saved)
        return plain(request)

    spied.resource.routes["/mcp"] = look
    with spied.session() as session:
        assert together(4, lambda: ask(session)) == [200] * 4
    assert saved_when_used == [True] * 4


def test_a_token_that_cannot_be_saved_is_used_and_saved_later(
    spied: Realm, caplog: pytest.LogCaptureFixture
) -> None:
    old = spied.stored()
    spied.store.fails = True
    with spied.session() as session:
        assert ask(session) == 200
        assert "could not be saved" in caplog.text
        assert spied.at_hand() == old
        spied.store.fails = False
        spied.issuer.void(spied.resource.last)
        assert ask(session) == 200
    tokens = [form["refresh_token"] for form in spied.issuer.forms]
    assert tokens[0] == old.token.refresh_token and len(set(tokens)) == 2
    assert bearer(spied.at_hand()) == spied.resource.carried[-1]


def test_a_token_that_could_not_be_saved_does_not_replace_a_newer_login(
    spied: Realm,
) -> None:
    spied.stored()
    spied.store.fails = True
    with spied.session() as session:
        assert ask(session) == 200
        spied.store.fails = False
        spied.issuer.void(spied.resource.last)
        newer = spied.stored(3600)
        assert ask(session) == 200
    assert spied.at_hand() == newer
    assert spied.resource.carried[-1] == bearer(newer)
    assert spied.issuer.refreshes == 1


def test_a_token_that_could_not_be_saved_does_not_outlive_a_logout(
    spied: Realm,
) -> None:
    spied.stored()
    spied.store.fails = True
    with spied.session() as session:
        assert ask(session) == 200
        spied.store.fails = False
        spied.issuer.void(spied.resource.last)
        spied.store.delete("demo", spied.url)
        with pytest.raises(LoginRequired):
            ask(session)
    assert spied.at_hand() is None


def test_a_login_that_cannot_be_saved_is_used(
    spied: Realm, caplog: pytest.LogCaptureFixture
) -> None:
    spied.store.fails = True
    with spied.session(flow=spied.issuer.log_in) as session:
        assert ask(session) == ask(session) == 200
        assert "could not be saved" in caplog.text and spied.at_hand() is None
        spied.store.fails = False
        spied.issuer.void(spied.resource.last)
        assert ask(session) == 200
    assert len(spied.issuer.logins) == spied.issuer.refreshes == 1
    assert bearer(spied.at_hand()) == spied.resource.carried[-1]


# --- deadlines ----------------------------------------------------------------------


def test_a_refresh_outlives_whoever_waits_for_it(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.stored()
    gate = threading.Event()
    realm.issuer.faults.append(held_back(gate))
    with pytest.raises(RequestTimeout):
        session.authorizer.current(Deadline.after(0.3))
    assert realm.issuer.refreshes == 1
    gate.set()
    assert ask(session) == 200
    assert realm.issuer.refreshes == 1
    assert realm.resource.carried == [bearer(realm.at_hand())]


def test_every_waiter_has_a_deadline_of_his_own(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.stored()
    gate = threading.Event()
    realm.issuer.faults.append(held_back(gate))
    patient: List[Any] = []
    thread = threading.Thread(
        target=lambda: patient.append(session.authorizer.current(soon()))
    )
    thread.start()
    realm.issuer.server.await_requests(1, "POST")
    with pytest.raises(RequestTimeout):
        session.authorizer.current(Deadline.after(0.2))
    gate.set()
    thread.join(10)
    assert patient == [realm.at_hand()]
    assert realm.issuer.refreshes == 1


def test_what_another_client_has_got_is_not_used(
    realm: Realm, session: AuthorizedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two configurations for one server: each wants a token of its own client."""
    gate, waiting = threading.Event(), threading.Event()
    realm.stored()
    realm.issuer.faults.append(held_back(gate))
    outcomes: List[int] = []
    thread = threading.Thread(target=lambda: outcomes.append(ask(session)))
    thread.start()
    realm.issuer.server.await_requests(1, "POST")

    def is_closed() -> bool:
        waiting.set()
        return False

    with realm.session(client_id="mine", flow=realm.issuer.log_in) as other:
        monkeypatch.setattr(other.authorizer, "_is_closed", is_closed)
        second = threading.Thread(target=lambda: outcomes.append(ask(other)))
        second.start()
        assert waiting.wait(10)
        gate.set()
        for each in (thread, second):
            each.join(10)
        assert outcomes == [200, 200]
        held = other.authorizer.held
    assert held is not None and held.client.client_id == "mine"
    assert [asked["client_id"] for asked in realm.issuer.logins] == ["mine"]


def test_nobody_sees_a_token_that_another_thread_is_about_to_replace(
    realm: Realm, session: AuthorizedSession
) -> None:
    stored = realm.stored(3600)
    need = Need(refused=stored.token.access_token, may_log_in=False)
    obtained = bounded(lambda: session.authorizer.obtain(need, soon()))
    assert obtained.source == "refresh"
    assert obtained.credentials == realm.at_hand() == session.authorizer.held
    # Whoever was refused with the old one gets that.
    again = session.authorizer.obtain(need, soon())
    assert (again.source, again.credentials) == ("store", obtained.credentials)


def test_a_clock_that_was_set_does_not_matter(
    realm: Realm, session: AuthorizedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    realm.stored(100)
    assert ask(session) == 200
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 1000)
    assert ask(session) == 200
    assert realm.issuer.refreshes == 1
