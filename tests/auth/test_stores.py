"""What all stores promise, and how the automatic one chooses between two of them."""

from __future__ import annotations

import json
import logging
import os
import stat
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional

import pytest
from keyring.errors import KeyringError, KeyringLocked

from mcpsync.auth._lock import locked
from mcpsync.auth._records import Credentials, Token
from mcpsync.auth.stores import (
    AutoStore,
    CredentialStore,
    FileStore,
    KeyringStore,
    MemoryStore,
    RegistrationStore,
    account_key,
    credentials_from_json,
    credentials_to_json,
    default_store,
    registrations_of,
)
from mcpsync.exceptions import (
    CredentialLockTimeout,
    CredentialStoreError,
    MCPError,
)

from ..fakes import CANARY
from .storing import (
    FULL,
    NAME,
    OTHER_URL,
    URL,
    FakeKeyring,
    HangingKeyring,
    credentials,
    registration,
    run_script,
)

ISSUER = "https://as.example.com/"
ACCOUNT = account_key(NAME, URL)

# --- the contract -------------------------------------------------------------------

KINDS: Dict[str, Callable[[Path, FakeKeyring], Any]] = {
    "memory": lambda home, keyring: MemoryStore(),
    "file": lambda home, keyring: FileStore(home / "c.json"),
    "keyring": lambda home, keyring: KeyringStore(backend=keyring, home=home),
    "parts": lambda home, keyring: KeyringStore(
        backend=keyring, home=home, chunk_above=100
    ),
    "auto, keyring": lambda home, keyring: auto(home, keyring),
    "auto, file": lambda home, keyring: auto(home, Broken()),
}


class Broken(FakeKeyring):
    """Says of everything that it is locked."""

    def _note(self, what: str, username: str) -> None:
        super()._note(what, username)
        raise KeyringLocked("Failed to unlock the collection!")


def auto(home: Path, keyring: FakeKeyring, **options: Any) -> AutoStore:
    path = home / ".credentials.json"
    inner: Any = keyring
    return AutoStore(path, keyring=KeyringStore(backend=inner, home=home, **options))


@pytest.fixture(params=KINDS)
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Any:
    return KINDS[request.param](tmp_path, FakeKeyring())


def test_every_store_is_one(store: Any) -> None:
    assert isinstance(store, CredentialStore)
    assert isinstance(store, RegistrationStore)
    assert registrations_of(store) is store


def test_what_was_saved_is_loaded_until_it_is_deleted(store: CredentialStore) -> None:
    assert store.load(NAME, URL) is None
    assert not store.delete(NAME, URL)
    for saved in (FULL, credentials("a"), FULL, credentials("b")):
        store.save(saved)
        assert store.load(NAME, URL) == saved
    assert store.delete(NAME, URL)
    assert store.load(NAME, URL) is None
    assert not store.delete(NAME, URL)


@pytest.mark.parametrize(
    "name, url",
    [
        (NAME, OTHER_URL),
        (NAME, "HTTPS://mcp.example.com/mcp"),
        (NAME, "https://mcp.example.com:443/mcp"),
        (NAME, ""),
        (NAME + " ", URL),
        (NAME.upper(), URL),
    ],
)
def test_servers_are_told_apart_by_name_and_url(
    store: CredentialStore, name: str, url: str
) -> None:
    store.save(FULL)
    assert store.load(name, url) is None
    assert not store.delete(name, url)
    other = credentials("other", name=name, url=url)
    store.save(other)
    assert (store.load(name, url), store.load(NAME, URL)) == (other, FULL)
    assert store.delete(name, url)
    assert store.load(NAME, URL) == FULL


def test_credentials_stay_with_their_issuer(store: CredentialStore) -> None:
    store.save(FULL)
    loaded = store.load(NAME, URL)
    assert loaded is not None
    assert (loaded.issuer, loaded.client.issuer) == (ISSUER, ISSUER)
    assert (loaded.resource, loaded.client.client_id) == (FULL.resource, "client-1")


def test_registrations_are_kept_by_issuer(store: RegistrationStore) -> None:
    other = registration(ISSUER[:-1], client_id="dynamic-2", client_secret=None)
    assert store.load_registration(ISSUER) is None
    assert not store.drop_registration(ISSUER)
    store.save_registration(registration())
    store.save_registration(other)
    assert store.load_registration(ISSUER) == registration()
    # A raw string: one slash makes another issuer.
    assert store.load_registration(ISSUER[:-1]) == other
    store.save_registration(registration(client_id="again"))
    assert store.load_registration(ISSUER) == registration(client_id="again")
    assert store.drop_registration(ISSUER)
    assert store.load_registration(ISSUER) is None
    assert store.load_registration(ISSUER[:-1]) == other


def test_a_registration_for_another_redirect_is_of_no_use(
    store: RegistrationStore,
) -> None:
    store.save_registration(registration())
    (uri,) = registration().redirect_uris
    assert store.load_registration(ISSUER, uri) == registration()
    assert store.load_registration(ISSUER, uri + "/") is None


def test_a_registration_whose_secret_has_expired_is_of_no_use(
    store: RegistrationStore,
) -> None:
    store.save_registration(registration(secret_expires_at=time.time() - 1))
    assert store.load_registration(ISSUER) is None
    current = registration(secret_expires_at=time.time() + 3600)
    store.save_registration(current)
    assert store.load_registration(ISSUER) == current


@pytest.mark.parametrize("scopes", [None, (), ("mcp:read", "mcp:write")])
def test_a_registration_keeps_the_scopes_that_it_is_for(
    store: RegistrationStore, scopes: Any
) -> None:
    store.save_registration(registration(scopes=scopes))
    found = store.load_registration(ISSUER)
    assert found is not None
    assert found.scopes == scopes


def test_a_registration_without_issuer_is_kept_nowhere(
    store: RegistrationStore,
) -> None:
    with pytest.raises(ValueError, match="issuer"):
        store.save_registration(replace(registration(), issuer=None))


def test_credentials_and_registrations_do_not_mix(store: Any) -> None:
    store.save(FULL)
    store.save_registration(registration())
    assert store.delete(NAME, URL)
    assert store.load_registration(ISSUER) == registration()
    store.save(FULL)
    assert store.drop_registration(ISSUER)
    assert store.load(NAME, URL) == FULL


def test_a_lock_has_one_holder(store: CredentialStore) -> None:
    with store.lock(NAME, URL, 0):
        with pytest.raises(CredentialLockTimeout):
            with store.lock(NAME, URL, 0.01):
                raise AssertionError("two holders")
        with store.lock(NAME, OTHER_URL, 0):
            # What the holder is there for.
            store.save(FULL)
            assert store.load(NAME, URL) == FULL
    with store.lock(NAME, URL):
        assert store.delete(NAME, URL)


def test_threads_lose_no_update(store: Any) -> None:
    failures: List[BaseException] = []

    def work(number: int) -> None:
        try:
            for turn in range(5):
                saved = credentials("%d %d" % (number, turn), name="s%d" % number)
                store.save(saved)
                assert store.load(saved.server_name, URL) == saved
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
    for number in range(8):
        loaded = store.load("s%d" % number, URL)
        assert loaded is not None
        assert loaded.token.access_token == "%d 4" % number


# --- a store of somebody else -------------------------------------------------------


class FourMethods:
    """The least that a store may be."""

    def __init__(self) -> None:
        self.rows: Dict[str, str] = {}

    def load(self, server_name: str, server_url: str) -> Optional[Credentials]:
        row = self.rows.get(server_name + server_url)
        return None if row is None else credentials_from_json(json.loads(row))

    def save(self, credentials: Credentials) -> None:
        place = credentials.server_name + credentials.server_url
        self.rows[place] = json.dumps(credentials_to_json(credentials))

    def delete(self, server_name: str, server_url: str) -> bool:
        return self.rows.pop(server_name + server_url, None) is not None

    @contextmanager
    def lock(
        self, server_name: str, server_url: str, timeout: float = 60.0
    ) -> Iterator[None]:
        yield


def test_four_methods_are_a_store() -> None:
    store = FourMethods()
    assert isinstance(store, CredentialStore)
    assert not isinstance(store, RegistrationStore)
    store.save(FULL)
    assert store.load(NAME, URL) == FULL
    kept = registrations_of(store)
    kept.save_registration(registration())
    assert kept.load_registration(ISSUER) == registration()


@pytest.mark.parametrize(
    "value, reason",
    [
        ({}, "server_name is not a text"),
        ({"server_name": NAME, "server_url": URL}, "access_token is not a text"),
    ],
)
def test_what_is_no_stored_credentials_is_an_error(
    value: Dict[str, Any], reason: str
) -> None:
    with pytest.raises(CredentialStoreError, match=reason):
        credentials_from_json(value)


# --- the automatic store: where things go -------------------------------------------


@pytest.fixture
def keyring() -> FakeKeyring:
    return FakeKeyring()


def index_of(home: Path) -> Any:
    path = home / ".credentials-index.json"
    return json.loads(path.read_text()) if path.exists() else {}


def lines(caplog: pytest.LogCaptureFixture, level: int = logging.INFO) -> List[str]:
    return [r.getMessage() for r in caplog.records if r.levelno >= level]


def test_what_is_new_goes_to_the_keyring(
    tmp_path: Path, keyring: FakeKeyring, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store = auto(tmp_path, keyring)
    store.save(FULL)
    store.save_registration(registration())
    assert len(keyring.entries) == 2
    assert not (tmp_path / ".credentials.json").exists()
    # Another process finds it by the index.
    assert auto(tmp_path, keyring).load(NAME, URL) == FULL
    said = [line for line in lines(caplog) if "credentials are kept" in line]
    assert len(said) == 2 and "the keyring" in said[0]
    # It is written when it changes.
    index = tmp_path / ".credentials-index.json"
    before = index.stat()
    store.save(credentials("new"))
    assert os.path.samestat(before, index.stat())
    assert before.st_mtime_ns == index.stat().st_mtime_ns


def test_the_index_names_servers_and_holds_no_secret(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    store = auto(tmp_path, keyring)
    store.save(FULL)
    store.save_registration(registration())
    path = tmp_path / ".credentials-index.json"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (accounts,) = index_of(tmp_path).values()
    assert accounts.pop(ACCOUNT) == "kept"
    ((account, state),) = accounts.items()
    assert account.startswith("mcpsync-registration|") and state == "kept"
    text = path.read_text()
    assert not [word for word in (CANARY, URL, "client-1", ISSUER) if word in text]
    store.delete(NAME, URL)
    store.drop_registration(ISSUER)
    assert not path.exists()


@pytest.mark.parametrize("present", [False, True])
def test_a_server_without_credentials_costs_a_look_at_two_files(
    tmp_path: Path,
    keyring: FakeKeyring,
    present: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if present:
        auto(tmp_path, keyring).save(credentials(name="other"))
        FileStore(tmp_path / ".credentials.json").save(credentials(name="third"))
        keyring.asked.clear()
    store = auto(tmp_path, keyring)
    before = sorted(os.listdir(tmp_path))
    opened: List[str] = []
    open_file = os.open

    def note(path: Any, *arguments: Any, **options: Any) -> int:
        opened.append(str(path))
        return open_file(path, *arguments, **options)

    monkeypatch.setattr(os, "open", note)
    threads = threading.enumerate()
    assert store.load(NAME, URL) is None
    monkeypatch.undo()
    home = str(tmp_path)
    assert opened == [home + "/.credentials-index.json", home + "/.credentials.json"]
    assert keyring.asked == [] and threading.enumerate() == threads
    assert sorted(os.listdir(tmp_path)) == before


BROKEN: Dict[str, Callable[[], FakeKeyring]] = {
    "locked": Broken,
    "failing": lambda: failing(),
    "dropping": lambda: dropping(),
}


def failing() -> FakeKeyring:
    keyring = FakeKeyring()
    keyring.failures = [KeyringError("denied")] * 100
    return keyring


def dropping() -> FakeKeyring:
    keyring = FakeKeyring()
    vars(keyring)["set_password"] = lambda service, username, password: None
    return keyring


@pytest.mark.parametrize("kind", BROKEN)
def test_without_a_keyring_it_goes_to_the_file_and_that_is_said_once(
    tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    keyring = BROKEN[kind]()
    store = auto(tmp_path, keyring)
    store.save(FULL)
    asked = len(keyring.asked)
    for number in range(3):
        store.save(credentials("token %d" % number))
        store.save(credentials("token %d" % number, name="other"))
    assert len(keyring.asked) == asked
    assert FileStore(tmp_path / ".credentials.json").load("other", URL) is not None
    assert store.load(NAME, URL) == credentials("token 2")
    assert len(lines(caplog, logging.WARNING)) == 1
    assert "cannot be used" in lines(caplog, logging.WARNING)[0]
    said = [line for line in lines(caplog) if "credentials are kept" in line]
    assert len(said) == 1 and str(tmp_path / ".credentials.json") in said[0]
    # Nothing is listed that is not there, so that a logout does not need the keyring.
    assert index_of(tmp_path) == {}
    assert store.delete(NAME, URL)


def test_a_keyring_that_hangs_costs_its_limit_once(tmp_path: Path) -> None:
    with HangingKeyring() as hanging:
        store = auto(tmp_path, hanging, timeout=1.0)
        store.save(FULL)
        store.save(credentials())
        assert store.load(NAME, URL) == credentials()
        assert auto(tmp_path, FakeKeyring()).load(NAME, URL) == credentials()
        assert len(hanging.asked) == 1


def test_what_was_written_too_late_is_not_used_and_deleted_at_last(
    tmp_path: Path,
) -> None:
    class Late(HangingKeyring):
        def set_password(self, service: str, username: str, password: str) -> None:
            self.entries[service, username] = password
            self.began.set()
            self.released.wait(30)

        def _note(self, what: str, username: str) -> None:
            self.threads.append(threading.current_thread())

    with Late() as late:
        store = auto(tmp_path, late, timeout=1.0)
        store.save(credentials("first"))
        store.save(credentials("second"))
    assert late.entries, "the keyring has it after all"
    assert index_of(tmp_path) == {"mcpsync": {ACCOUNT: "stale"}}
    # In the next process the keyring works.
    working = FakeKeyring()
    working.entries = late.entries
    again = auto(tmp_path, working)
    assert again.load(NAME, URL) == credentials("second")
    assert FileStore(tmp_path / ".credentials.json").delete(NAME, URL)
    assert again.load(NAME, URL) is None and again.search(NAME, URL) is None
    assert working.asked == []
    assert again.delete(NAME, URL)
    assert working.entries == {} and index_of(tmp_path) == {}


def test_an_outdated_copy_that_cannot_be_deleted_does_not_stop_a_logout(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with HangingKeyring() as hanging:
        store = auto(tmp_path, hanging, timeout=1.0)
        store.save(FULL)
        assert store.delete(NAME, URL)
    assert store.load(NAME, URL) is None
    assert "an outdated copy" in caplog.text
    assert index_of(tmp_path) == {"mcpsync": {ACCOUNT: "stale"}}


# --- the automatic store: where things stay -----------------------------------------


def test_an_entry_of_the_file_stays_in_the_file(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    in_file = FileStore(tmp_path / ".credentials.json")
    in_file.save(credentials("old"))
    store = auto(tmp_path, keyring)
    assert store.load(NAME, URL) == credentials("old")
    store.save(credentials("new"))
    assert in_file.load(NAME, URL) == credentials("new")
    # What is new still goes to the keyring.
    store.save(credentials(name="other"))
    assert [account for _, account in keyring.entries] == [account_key("other", URL)]


def test_a_login_moves_an_entry_to_the_keyring(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    in_file = FileStore(tmp_path / ".credentials.json")
    in_file.save(credentials("old"))
    # A program that has not read the old one.
    auto(tmp_path, keyring).save(credentials("new"))
    assert in_file.load(NAME, URL) is None
    assert auto(tmp_path, keyring).load(NAME, URL) == credentials("new")


def test_logged_out_and_in_again_it_may_go_elsewhere(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    FileStore(tmp_path / ".credentials.json").save(credentials("old"))
    store = auto(tmp_path, keyring)
    store.load(NAME, URL)
    assert store.delete(NAME, URL)
    store.save(credentials("new"))
    assert keyring.entries and not (tmp_path / ".credentials.json").exists()


@pytest.mark.parametrize("act", ["load", "save", "delete"])
def test_a_failure_moves_nothing_out_of_the_keyring(
    tmp_path: Path, keyring: FakeKeyring, act: str
) -> None:
    store = auto(tmp_path, keyring)
    store.save(credentials("old"))
    keyring.failures = [KeyringError("denied")] * 5
    attempts: Dict[str, Callable[[], object]] = {
        "load": lambda: store.load(NAME, URL),
        "save": lambda: store.save(credentials("new")),
        "delete": lambda: store.delete(NAME, URL),
    }
    with pytest.raises(CredentialStoreError, match="denied"):
        attempts[act]()
    assert not (tmp_path / ".credentials.json").exists()
    assert index_of(tmp_path) == {"mcpsync": {ACCOUNT: "kept"}}
    keyring.failures = []
    # A failed load says nothing about who is logged in; nor is anything lost.
    expected = None if act == "delete" else credentials("old")
    if act != "delete":
        assert store.load(NAME, URL) == expected
    store.save(credentials("new"))
    assert store.load(NAME, URL) == credentials("new")


def test_a_keyring_that_fails_at_first_leaves_the_login_to_the_file(
    tmp_path: Path, keyring: FakeKeyring, caplog: pytest.LogCaptureFixture
) -> None:
    auto(tmp_path, keyring).save(credentials("in the keyring"))
    later = auto(tmp_path, Broken())
    assert later.load(NAME, URL) is None
    assert len(lines(caplog, logging.WARNING)) == 1
    # Whoever has been asked to log in gets to know why that is.
    with pytest.raises(CredentialStoreError, match="KeyringLocked"):
        later.search(NAME, URL)
    later.save(credentials("in the file"))
    assert later.load(NAME, URL) == credentials("in the file")
    # The newer one counts, also where the keyring works again.
    assert index_of(tmp_path) == {"mcpsync": {ACCOUNT: "stale"}}
    assert auto(tmp_path, keyring).load(NAME, URL) == credentials("in the file")


def test_a_damaged_entry_of_the_keyring_is_said_and_passed_over(
    tmp_path: Path, keyring: FakeKeyring, caplog: pytest.LogCaptureFixture
) -> None:
    auto(tmp_path, keyring).save(FULL)
    keyring.entries["mcpsync", ACCOUNT] = "{"
    store = auto(tmp_path, keyring)
    assert store.load(NAME, URL) is None
    assert "damaged" in caplog.text
    store.save(FULL)
    assert auto(tmp_path, keyring).load(NAME, URL) == FULL


def test_a_lock_that_is_taken_is_no_reason_to_go_elsewhere(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    store = auto(tmp_path, keyring)
    store._keyring._patience = 0.05
    lock = str(tmp_path / "mcp-oauth-locks" / "keyring-store.lock")
    with locked(lock, 5), pytest.raises(CredentialLockTimeout):
        store.save(FULL)
    assert not (tmp_path / ".credentials.json").exists()


def test_what_another_process_moves_is_found_where_it_is(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    FileStore(tmp_path / ".credentials.json").save(credentials("one"))
    store = auto(tmp_path, keyring)
    assert store.load(NAME, URL) == credentials("one")
    other = auto(tmp_path, keyring)
    assert other.migrate() == 1
    assert store.load(NAME, URL) == credentials("one")
    store.save(credentials("two"))
    assert not (tmp_path / ".credentials.json").exists()
    # And back: the other one's keyring has failed.
    third = auto(tmp_path, Broken())
    third.save(credentials("three"))
    assert auto(tmp_path, keyring).load(NAME, URL) == credentials("three")


def test_logged_out_elsewhere_is_logged_out(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    store = auto(tmp_path, keyring)
    store.save(FULL)
    assert auto(tmp_path, keyring).delete(NAME, URL)
    assert store.load(NAME, URL) is None


def test_a_logout_deletes_everywhere(tmp_path: Path, keyring: FakeKeyring) -> None:
    store = auto(tmp_path, keyring)
    store.save(credentials("new"))
    in_file = FileStore(tmp_path / ".credentials.json")
    in_file.save(credentials("left by a killed process"))
    assert store.load(NAME, URL) == credentials("new")
    assert store.delete(NAME, URL)
    assert keyring.entries == {} and in_file.load(NAME, URL) is None


def test_a_logout_goes_on_after_a_failure(tmp_path: Path, keyring: FakeKeyring) -> None:
    store = auto(tmp_path, keyring)
    store.save(FULL)
    (tmp_path / ".credentials.json").write_text("{")
    with pytest.raises(CredentialStoreError, match="credentials.json"):
        store.delete(NAME, URL)
    assert keyring.entries == {}


# --- the automatic store: searching and moving --------------------------------------


def test_after_a_challenge_the_keyring_is_searched(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    inner: Any = keyring
    KeyringStore(backend=inner, home=tmp_path).save(FULL)
    store = auto(tmp_path, keyring)
    assert store.load(NAME, URL) is None
    assert store.search(NAME, OTHER_URL) is None
    assert store.search(NAME, URL) == FULL
    # From now on it is known.
    assert index_of(tmp_path) == {"mcpsync": {ACCOUNT: "kept"}}
    assert store.load(NAME, URL) == FULL
    assert auto(tmp_path, keyring).load(NAME, URL) == FULL


def test_a_search_without_a_keyring_finds_nothing(tmp_path: Path) -> None:
    store = auto(tmp_path, Broken())
    assert store.search(NAME, URL) is None
    assert index_of(tmp_path) == {}


def test_everything_moves_to_the_keyring(tmp_path: Path, keyring: FakeKeyring) -> None:
    in_file = FileStore(tmp_path / ".credentials.json")
    in_file.save(replace(FULL, raw={"executor_owned": True}))
    in_file.save(credentials(name="other"))
    in_file.save_registration(registration())
    assert auto(tmp_path, keyring).migrate() == 3
    assert not (tmp_path / ".credentials.json").exists()
    assert len(keyring.entries) == 3
    store = auto(tmp_path, keyring)
    assert store.load(NAME, URL) == FULL
    loaded = store.load(NAME, URL)
    assert loaded is not None and loaded.raw == {"executor_owned": True}
    assert store.load_registration(ISSUER) == registration()
    assert store.migrate() == 0


def test_what_cannot_move_stays(
    tmp_path: Path, keyring: FakeKeyring, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / ".credentials.json"
    path.write_text(
        json.dumps(
            {
                "damaged": {"server_name": "a", "server_url": "b"},
                "foreign": [1],
                "nameless": {"server_name": 1, "server_url": "b"},
            }
        )
    )
    before = path.read_text()
    path.chmod(0o600)
    assert auto(tmp_path, keyring).migrate() == 0
    assert path.read_text() == before and keyring.entries == {}
    assert "damaged" in caplog.text
    FileStore(path).save(FULL)
    with pytest.raises(CredentialStoreError, match="KeyringLocked"):
        auto(tmp_path, Broken()).migrate()
    assert FileStore(path).load(NAME, URL) == FULL


# --- the index ----------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"{", b"[]", b'{"mcpsync": 3}', b"\xff", b""])
def test_a_damaged_index_costs_a_login_at_most(
    tmp_path: Path,
    keyring: FakeKeyring,
    content: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    auto(tmp_path, keyring).save(FULL)
    (tmp_path / ".credentials-index.json").write_bytes(content)
    store = auto(tmp_path, keyring)
    assert store.load(NAME, URL) is None and store.load(NAME, URL) is None
    assert len(lines(caplog, logging.WARNING)) <= 1
    assert store.search(NAME, URL) == FULL
    assert index_of(tmp_path) == {"mcpsync": {ACCOUNT: "kept"}}


def test_two_services_share_an_index(tmp_path: Path, keyring: FakeKeyring) -> None:
    auto(tmp_path, keyring).save(FULL)
    other = auto(tmp_path, keyring, service="other")
    assert other.load(NAME, URL) is None
    other.save(credentials())
    other.delete(NAME, URL)
    assert auto(tmp_path, keyring).load(NAME, URL) == FULL


def test_an_index_that_is_no_private_file_is_refused(
    tmp_path: Path, keyring: FakeKeyring
) -> None:
    (tmp_path / ".credentials-index.json").symlink_to(tmp_path / "victim")
    store = auto(tmp_path, keyring)
    for act in (lambda: store.load(NAME, URL), lambda: store.save(FULL)):
        with pytest.raises(CredentialStoreError, match="symbolic link"):
            act()
    assert keyring.entries == {} and not (tmp_path / "victim").exists()


# --- the default --------------------------------------------------------------------


def test_a_process_has_one_default_store_for_each_home(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCPSYNC_HOME", str(tmp_path / "one"))
    store = default_store()
    assert default_store() is store
    assert store.path == str(tmp_path / "one" / ".credentials.json")
    monkeypatch.setenv("MCPSYNC_HOME", str(tmp_path / "two"))
    assert default_store() is not store
    assert not (tmp_path / "one").exists() and not (tmp_path / "two").exists()


def test_without_any_keyring_the_default_is_the_file(tmp_path: Path) -> None:
    script = """
        import os, sys
        os.environ.update(MCPSYNC_HOME=sys.argv[1])
        os.environ["PYTHON_KEYRING_BACKEND"] = "keyring.backends.fail.Keyring"
        import logging
        said = []
        class Note(logging.Handler):
            def emit(self, record):
                said.append(record.levelname)
        logging.getLogger("mcpsync").addHandler(Note())
        logging.getLogger("mcpsync").setLevel(logging.INFO)
        from mcpsync.auth._records import ClientRecord, Credentials, Token
        from mcpsync.auth.stores import default_store
        saved = Credentials("a", "b", ClientRecord("c"), Token("d"))
        default_store().save(saved)
        assert default_store().load("a", "b") == saved
        assert said == ["WARNING", "INFO"], said
        names = sorted(os.listdir(sys.argv[1]))
        assert names == [".credentials.json", "mcp-oauth-locks"], names
        # The index was not touched for a keyring that there is not.
        names = os.listdir(os.path.join(sys.argv[1], "mcp-oauth-locks"))
        assert names == ["file-store.lock"], names
    """
    run_script(script, tmp_path / "home")


# --- secrets ------------------------------------------------------------------------


def test_nothing_that_is_shown_holds_a_secret(
    store: Any, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        store.save(FULL)
        store.save_registration(registration())
        shown = [repr(store), repr(store.load(NAME, URL)), caplog.text]
    assert not [text for text in shown if CANARY in text]


def test_the_errors_of_stores_can_be_pickled() -> None:
    import pickle

    from mcpsync.auth._keyring import KeyringUnavailable

    error = pickle.loads(pickle.dumps(KeyringUnavailable("why")))
    assert (type(error), str(error)) == (KeyringUnavailable, "why")
    assert isinstance(error, MCPError)


def test_a_token_without_anything_else_is_enough(store: CredentialStore) -> None:
    plain = replace(credentials(), token=Token("only"))
    store.save(plain)
    assert store.load(NAME, URL) == plain
