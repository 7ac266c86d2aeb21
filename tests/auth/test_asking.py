"""When a person is asked, and when not; what mends a login."""

from __future__ import annotations

import io
import json
import sys
import threading
from pathlib import Path
from typing import Any, Callable, Iterator, List

import pytest

from mcpsync.auth import login
from mcpsync.auth._records import ClientRecord
from mcpsync.auth.flight import Flight
from mcpsync.auth.grants import ClientCredentials
from mcpsync.auth.session import AuthorizedSession
from mcpsync.auth.stores import FileStore, MemoryStore
from mcpsync.exceptions import (
    ClientClosed,
    CredentialStoreError,
    InsufficientScope,
    LoginRequired,
)

from ..fakes import CANARY, bounded
from ..fakes.scripted_http import json_reply
from .authority import PING, Realm, refusal


@pytest.fixture
def realm() -> Iterator[Realm]:
    with Realm() as realm:
        yield realm


def ask(session: AuthorizedSession) -> int:
    """Send a request, and return the status of its answer."""
    url = session.authorizer.server.url
    return session.post(url, json=PING, timeout=20).status_code


@pytest.fixture
def browser(monkeypatch: pytest.MonkeyPatch) -> Iterator["Browser"]:
    browser = Browser()
    opens = {"open_url": browser}
    monkeypatch.setattr(login.browser_flow, "__kwdefaults__", opens)
    monkeypatch.setattr("mcpsync.auth._people.show", lambda text: None)
    yield browser


class Browser:
    """Is opened, and shows a page that nobody fills in.

    Attributes:
        urls: those that it was opened with.
        opened: set when that happens.
    """

    def __init__(self) -> None:
        self.urls: List[str] = []
        self.opened = threading.Event()

    def __call__(self, url: str) -> bool:
        self.urls.append(url)
        self.opened.set()
        return True


# --- clients that are closed --------------------------------------------------------


@pytest.mark.parametrize(
    "path", ["/.well-known/oauth-authorization-server", "/register"]
)
@pytest.mark.parametrize("way", ["browser", "function"])
def test_a_client_that_is_closed_before_its_login_opens_no_browser(
    realm: Realm, browser: Browser, path: str, way: str
) -> None:
    plain: Any = realm.issuer.routes[path]

    def close(request: Any) -> Any:
        session.close()
        return plain(request) if callable(plain) else json_reply(plain)

    realm.issuer.routes[path] = close
    flow: Any = "browser" if way == "browser" else browser
    session = realm.session(flow=flow)
    with session:
        with pytest.raises(ClientClosed):
            bounded(lambda: ask(session))
    assert browser.urls == [] and realm.issuer.forms == []
    assert path in realm.issuer.asked


@pytest.fixture
def waiting(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Return what is set when the thread "waiter" waits for a flight."""
    event = threading.Event()
    plain = Flight.wait

    def wait(flight: Any, *args: Any, **kwargs: Any) -> Any:
        if threading.current_thread().name == "waiter":
            event.set()
        return plain(flight, *args, **kwargs)

    monkeypatch.setattr(Flight, "wait", wait)
    return event


def outcome_of(f: Callable[[], Any], outcomes: List[Any]) -> None:
    try:
        outcomes.append(f())
    except Exception as error:
        outcomes.append(error)


@pytest.mark.parametrize("interactive", [True, False])
def test_whoever_waits_for_a_login_is_not_closed_with_its_leader(
    realm: Realm, browser: Browser, waiting: threading.Event, interactive: bool
) -> None:
    flow = realm.issuer.log_in if interactive else "two-phase"
    led: List[Any] = []
    waited: List[Any] = []
    with realm.session(flow="browser") as leader, realm.session(flow=flow) as other:
        leading = threading.Thread(target=outcome_of, args=(lambda: ask(leader), led))
        leading.start()
        assert browser.opened.wait(10)
        waiter = threading.Thread(
            target=outcome_of, args=(lambda: ask(other), waited), name="waiter"
        )
        waiter.start()
        assert waiting.wait(10)
        leader.close()
        for thread in (leading, waiter):
            thread.join(20)
            assert not thread.is_alive()
    assert [type(outcome) for outcome in led] == [ClientClosed]
    if interactive:
        assert waited == [200] and len(realm.issuer.logins) == 1
    else:
        assert [type(outcome) for outcome in waited] == [LoginRequired]
        assert realm.issuer.logins == []
    assert len(browser.urls) == 1


# --- what is stored is of no use ----------------------------------------------------


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / "credentials.json"


def edit(path: Path, change: Callable[[Any], object]) -> None:
    """Change every entry of a file."""
    entries = json.loads(path.read_text())
    for entry in entries.values():
        change(entry)
    path.write_text(json.dumps(entries))


DAMAGES = [
    pytest.param(lambda entry: entry.pop("client_id"), id="no client"),
    pytest.param(lambda entry: entry.update(client_id=7), id="odd client"),
]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_login_mends_a_damaged_entry(
    path: Path, damage: Callable[[Any], object]
) -> None:
    with Realm(FileStore(path)) as realm:
        realm.stored(3600)
        edit(path, damage)
        with pytest.raises(CredentialStoreError):
            realm.at_hand()
        oauth = realm.oauth(flow=realm.issuer.log_in)
        credentials = oauth.login(realm.url, name="demo")
        saved = realm.at_hand()
        assert saved is not None
        assert saved.token.access_token == credentials.token.access_token
        with oauth.for_server("demo", realm.url) as session:
            assert ask(session) == 200
    assert len(realm.issuer.logins) == 1


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_logout_removes_a_damaged_entry(
    path: Path, damage: Callable[[Any], object]
) -> None:
    with Realm(FileStore(path)) as realm:
        realm.stored(3600)
        edit(path, damage)
        assert realm.oauth().logout(realm.url, name="demo")
        assert realm.at_hand() is None
        assert not realm.oauth().logout(realm.url, name="demo")


@pytest.mark.parametrize("code", ["invalid_client", "unauthorized_client"])
@pytest.mark.parametrize("expired", [True, False])
def test_a_client_of_another_program_that_is_not_known_any_more(
    realm: Realm, code: str, expired: bool
) -> None:
    """Entries of Codex say nothing about the issuer, nor about its endpoints."""
    stored = realm.stored(
        -100 if expired else 3600,
        client=ClientRecord("client-0", auth_method="none"),
        issuer=None,
        resource=None,
        token_endpoint=None,
    )
    if not expired:
        realm.issuer.void(stored.token.access_token)
    realm.issuer.faults.append(refusal(code, 401))
    with realm.session() as session:
        with pytest.raises(LoginRequired):
            ask(session)
    assert realm.issuer.refreshes == 1 and realm.at_hand() is None
    with realm.session(flow=realm.issuer.log_in) as session:
        assert ask(session) == 200
    assert realm.issuer.refreshes == 1
    assert [login["client_id"] for login in realm.issuer.logins] == ["client-1"]


@pytest.mark.parametrize("expired", [True, False])
def test_a_login_follows_at_once(realm: Realm, expired: bool) -> None:
    stored = realm.stored(
        -100 if expired else 3600,
        client=ClientRecord("client-0", auth_method="none"),
        issuer=None,
        token_endpoint=None,
    )
    if not expired:
        realm.issuer.void(stored.token.access_token)
    realm.issuer.faults.append(refusal("invalid_client", 401))
    with realm.session(flow=realm.issuer.log_in) as session:
        assert ask(session) == 200
    assert (realm.issuer.refreshes, len(realm.issuer.logins)) == (1, 1)
    saved = realm.at_hand()
    assert saved is not None and saved.client.client_id == "client-1"
    assert saved.issuer == realm.issuer.base


class Forgetful(MemoryStore):
    """A store that keeps no registrations."""

    def __init__(self, failure: Callable[[], Exception]) -> None:
        super().__init__()
        self.failure = failure

    def save_registration(self, record: ClientRecord) -> None:
        raise self.failure()


@pytest.mark.parametrize(
    "failure",
    [lambda: CredentialStoreError("the disk is full"), lambda: OSError(28, CANARY)],
    ids=["ours", "OSError"],
)
def test_a_registration_that_cannot_be_saved_is_good_for_the_login(
    failure: Callable[[], Exception], caplog: pytest.LogCaptureFixture
) -> None:
    with Realm(Forgetful(failure)) as realm:
        with realm.session(flow=realm.issuer.log_in) as session:
            assert ask(session) == 200
        assert realm.issuer.registered == ["client-1"]
        assert [login["client_id"] for login in realm.issuer.logins] == ["client-1"]
        saved = realm.at_hand()
        assert saved is not None and saved.client.client_id == "client-1"
    assert "registration could not be saved" in caplog.text
    assert CANARY not in caplog.text


# --- who is not asked ---------------------------------------------------------------


def test_no_more_scopes_than_the_configuration_allows(realm: Realm) -> None:
    realm.stored(3600, requested_scopes=("read",))
    realm.resource.wants = lambda request: ["write"]
    with realm.session(
        flow=realm.issuer.log_in, scopes=["read"], scope_policy="only"
    ) as session:
        for _ in range(2):
            with pytest.raises(InsufficientScope, match="write") as caught:
                ask(session)
    assert caught.value.server == "demo"
    assert realm.issuer.requests == [] and realm.issuer.logins == []


def test_what_the_configuration_allows_may_be_asked_for(realm: Realm) -> None:
    realm.stored(3600, requested_scopes=("read",))
    realm.resource.wants = lambda request: ["write"]
    with realm.session(
        flow=realm.issuer.log_in, scopes=["read", "write"], scope_policy="only"
    ) as session:
        assert ask(session) == 200
    assert [login["scope"] for login in realm.issuer.logins] == ["read write"]


def test_a_program_does_not_ask_for_more_scopes_either(realm: Realm) -> None:
    realm.resource.wants = lambda request: ["write"]
    grant = ClientCredentials("program", CANARY + "-secret")
    options: Any = {"grant": grant, "scopes": ["read"], "scope_policy": "only"}
    with realm.session(**options) as session:
        with pytest.raises(InsufficientScope):
            ask(session)
    scopes = [form.get("scope") for form in realm.issuer.forms]
    assert scopes == ["read"]


def test_nobody_is_asked_to_paste_where_there_is_no_terminal(
    realm: Realm, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    with realm.session(flow="paste") as session, monkeypatch.context() as patch:
        pipe = io.StringIO("somebody's data\n" * 9)
        patch.setattr(sys, "stdin", pipe)
        with pytest.raises(LoginRequired, match="no terminal") as caught:
            bounded(lambda: ask(session))
    assert caught.value.server_url == realm.url and caught.value.server == "demo"
    assert pipe.tell() == 0
    assert capsys.readouterr() == ("", "")
    assert realm.issuer.logins == [] and realm.issuer.forms == []
