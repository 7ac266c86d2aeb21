"""The keyring: which one may be used, in bounded time, and what is written to it."""

from __future__ import annotations

import json
import logging
import signal
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import keyring.core
import pytest
from keyring.errors import (
    InitError,
    KeyringError,
    KeyringLocked,
    NoKeyringError,
    PasswordDeleteError,
    PasswordSetError,
)

from mcpsync.auth import stores
from mcpsync.auth._chunks import PART, Chunks
from mcpsync.auth._document import Damaged
from mcpsync.auth._keyring import KeyringUnavailable, Worker
from mcpsync.auth._records import ClientRecord, Credentials, Token
from mcpsync.auth.stores import CODEX_SERVICE, KeyringStore, account_key
from mcpsync.exceptions import CredentialLockTimeout, CredentialStoreError

from ..fakes import CANARY, bounded
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
    start_script,
)

ACCOUNT = account_key(NAME, URL)
LONG = CANARY + "-" + "x" * 6000


@pytest.fixture
def fake() -> FakeKeyring:
    return FakeKeyring()


def store_with(backend: Any, home: Path, **options: Any) -> KeyringStore:
    return KeyringStore(backend=backend, home=home, **options)


@pytest.fixture
def store(fake: FakeKeyring, tmp_path: Path) -> KeyringStore:
    return store_with(fake, tmp_path)


def warnings_in(caplog: pytest.LogCaptureFixture) -> List[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.levelno >= logging.WARNING
    ]


# --- which backend ------------------------------------------------------------------


def backend(name: str, priority: object = 5, **attributes: Any) -> FakeKeyring:
    """Return a backend of a class with this full name."""
    module, _, kind = name.rpartition(".")
    members = {"__module__": module, "__qualname__": kind, "priority": priority}
    made: FakeKeyring = type(kind, (FakeKeyring,), {**members, **attributes})()
    return made


def unviable() -> property:
    def priority(self: object) -> float:
        raise RuntimeError("no bus to be had")

    return property(priority)


SAFE = "keyring.backends.SecretService.Keyring"
PLAIN = "keyrings.alt.file.PlaintextKeyring"
NULL = "keyring.backends.null.Keyring"


@pytest.fixture
def platform(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that sets the platform's backend, for this test."""
    monkeypatch.setattr(stores, "process_worker", Worker())

    def use(backend: object) -> None:
        monkeypatch.setattr(keyring.core, "_keyring_backend", backend)

    return use


@pytest.mark.parametrize(
    "name",
    [
        SAFE,
        "keyring.backends.kwallet.DBusKeyring",
        "keyring.backends.libsecret.Keyring",
        "keyring.backends.macOS.Keyring",
        "keyring.backends.Windows.WinVaultKeyring",
    ],
)
def test_a_platforms_own_keyring_is_used(
    platform: Any, tmp_path: Path, name: str
) -> None:
    own = backend(name)
    platform(own)
    store = KeyringStore(home=tmp_path)
    store.check()
    assert name in store.name
    store.save(FULL)
    assert list(own.entries) == [("mcpsync", ACCOUNT)]
    assert store.load(NAME, URL) == FULL


@pytest.mark.parametrize(
    "refused, reason",
    [
        (backend("keyring.backends.fail.Keyring", 0), "there is none"),
        (backend(NULL, -1), "switched off"),
        (backend(PLAIN, 0.5), PLAIN),
        (backend("keyrings.alt.file.EncryptedKeyring", 0.6), "allow_backend"),
        (backend("keyrings.cryptfile.cryptfile.CryptFileKeyring", 2.5), "allow_"),
        (backend("my.own.Keyring", 20), "my.own.Keyring"),
        (backend(SAFE, 0.9), "not known to keep secrets safely"),
        (backend(SAFE, unviable()), "no bus to be had"),
    ],
)
def test_any_other_backend_is_refused(
    platform: Any,
    tmp_path: Path,
    refused: FakeKeyring,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    platform(refused)
    store = KeyringStore(home=tmp_path)
    for act in (
        store.check,
        lambda: store.load(NAME, URL),
        lambda: store.save(FULL),
        lambda: store.delete(NAME, URL),
    ):
        with pytest.raises(CredentialStoreError, match=reason):
            act()
    assert refused.asked == []
    # Said once.
    assert len(warnings_in(caplog)) == 1 and reason in caplog.text


def test_a_backend_may_be_allowed_by_name(platform: Any, tmp_path: Path) -> None:
    platform(backend(PLAIN, 0.5))
    store = KeyringStore(home=tmp_path, allow_backend=PLAIN)
    store.save(FULL)
    assert store.load(NAME, URL) == FULL


def chain(*parts: FakeKeyring) -> FakeKeyring:
    name = "keyring.backends.chainer.ChainerBackend"
    return backend(name, 10, backends=list(parts))


def test_of_a_chain_the_safe_part_is_used_alone(platform: Any, tmp_path: Path) -> None:
    plain, safe = backend(PLAIN, 9), backend(SAFE)
    whole = chain(plain, safe)
    platform(whole)
    KeyringStore(home=tmp_path).save(FULL)
    assert safe.entries and not plain.asked and not whole.asked


def test_a_chain_without_a_safe_part_is_refused(platform: Any, tmp_path: Path) -> None:
    whole = chain(backend(PLAIN, 9), backend(NULL, -1))
    platform(whole)
    with pytest.raises(CredentialStoreError, match=PLAIN + ", " + NULL):
        KeyringStore(home=tmp_path).save(FULL)


@pytest.mark.parametrize(
    "failure", [ModuleNotFoundError("No module named 'kering'"), RuntimeError("no bus")]
)
def test_a_backend_that_cannot_be_found_is_an_error(
    platform: Any,
    tmp_path: Path,
    failure: Exception,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    platform(None)

    def fail() -> None:
        raise failure

    monkeypatch.setattr(keyring, "get_keyring", fail)
    with pytest.raises(CredentialStoreError, match=str(failure)):
        KeyringStore(home=tmp_path).check()


def test_the_variable_of_keyring_itself_is_obeyed(tmp_path: Path) -> None:
    script = """
        import os, sys
        from mcpsync.auth.stores import KeyringStore
        from mcpsync.exceptions import CredentialStoreError
        for name, reason in (
            ("keyring.backends.null.Keyring", "switched off"),
            ("keyring.backends.fail.Keyring", "there is none"),
            ("no.such.Keyring", "No module named"),
        ):
            os.environ["PYTHON_KEYRING_BACKEND"] = name
            sys.modules.get("keyring") and sys.modules["keyring"].core.__dict__.update(
                _keyring_backend=None
            )
            try:
                KeyringStore(home=sys.argv[1]).load("a", "b")
            except CredentialStoreError as error:
                assert reason in str(error), error
            else:
                sys.exit("used")
    """
    process = start_script(script, tmp_path)
    _, complained = process.communicate(timeout=60)
    assert process.returncode == 0, complained


def test_nothing_is_loaded_or_started_before_it_is_needed(tmp_path: Path) -> None:
    script = """
        import sys, threading
        from mcpsync.auth.stores import AutoStore, KeyringStore
        KeyringStore(home=sys.argv[1])
        store = AutoStore(sys.argv[1] + "/c.json")
        assert store.load("a", "b") is None
        assert store.load_registration("https://as.example.com") is None
        assert "keyring" not in sys.modules and "requests" not in sys.modules
        assert threading.active_count() == 1
    """
    run_script(script, tmp_path)


# --- what is written ----------------------------------------------------------------


def test_an_entry_has_the_form_that_codex_reads(
    store: KeyringStore, fake: FakeKeyring
) -> None:
    token = Token(
        "access", expires_at=1893456000.25, refresh_token="r", scope=("a", "b")
    )
    store.save(Credentials(NAME, URL, ClientRecord("client"), token))
    ((place, text),) = fake.entries.items()
    assert place == ("mcpsync", ACCOUNT)
    assert json.loads(text) == {
        "server_name": NAME,
        "url": URL,
        "client_id": "client",
        "token_response": {
            "access_token": "access",
            "token_type": "bearer",
            "refresh_token": "r",
            "scope": "a b",
        },
        "expires_at": 1893456000250,
    }


def entry_of_codex(**changes: Any) -> Dict[str, Any]:
    entry = {
        "server_name": NAME,
        "url": URL,
        "client_id": "client",
        "token_response": {
            "access_token": CANARY,
            "token_type": "bearer",
            "expires_in": 3600,
            "id_token": "vendor",
        },
        "expires_at": 1893456000250,
    }
    entry.update(changes)
    return entry


def test_an_entry_of_codex_reads_as_it_is(fake: FakeKeyring, tmp_path: Path) -> None:
    place = (CODEX_SERVICE, ACCOUNT)
    assert CODEX_SERVICE == "Codex MCP Credentials"
    fake.entries[place] = before = json.dumps(entry_of_codex(later=[1]))
    store = store_with(fake, tmp_path, service=CODEX_SERVICE)
    loaded = store.load(NAME, URL)
    assert loaded is not None
    assert loaded.token == Token(CANARY, expires_at=1893456000.25)
    # Not rewritten as long as it has not changed.
    store.save(loaded)
    assert fake.entries[place] == before and fake.count("set") == 0
    # And then without losing what is not ours.
    store.save(replace(loaded, token=Token("new")))
    entry = json.loads(fake.entries[place])
    assert entry["later"] == [1]
    assert entry["token_response"] == {
        "access_token": "new",
        "token_type": "bearer",
        "id_token": "vendor",
    }
    assert entry["expires_at"] is None


def test_the_oldest_entries_of_codex_have_no_expiry(
    store: KeyringStore, fake: FakeKeyring
) -> None:
    entry = entry_of_codex()
    del entry["expires_at"]
    fake.entries["mcpsync", ACCOUNT] = json.dumps(entry)
    loaded = store.load(NAME, URL)
    assert loaded is not None and loaded.token.expires_at is None


def test_vendor_extras_survive_a_login(store: KeyringStore, fake: FakeKeyring) -> None:
    fake.entries["mcpsync", ACCOUNT] = json.dumps(entry_of_codex(later=True))
    store.save(credentials("new"))
    entry = json.loads(fake.entries["mcpsync", ACCOUNT])
    assert entry["later"] is True
    assert entry["token_response"]["id_token"] == "vendor"
    assert entry["token_response"]["access_token"] == "new"


def test_everything_that_is_known_comes_back(
    store: KeyringStore, fake: FakeKeyring, tmp_path: Path
) -> None:
    store.save(FULL)
    assert store_with(fake, tmp_path).load(NAME, URL) == FULL
    store.save(FULL)
    assert fake.count("set") == 1


@pytest.mark.parametrize("change", [{"server_name": "other"}, {"url": OTHER_URL}])
def test_an_entry_for_another_server_is_not_used(
    store: KeyringStore, fake: FakeKeyring, change: Dict[str, Any]
) -> None:
    fake.entries["mcpsync", ACCOUNT] = json.dumps(entry_of_codex(**change))
    assert store.load(NAME, URL) is None


@pytest.mark.parametrize(
    "text, reason",
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "not a JSON object"),
        (json.dumps(entry_of_codex(token_response=None)), "token_response"),
        (json.dumps(entry_of_codex(token_response={})), "access_token"),
        (json.dumps(entry_of_codex(client_id=None)), "client_id"),
        (json.dumps(entry_of_codex(expires_at="x")), "expires_at"),
        ('{"mcpsync_parts": [2, "%s", "a"]}' % CANARY, "parts do not belong"),
    ],
)
def test_a_damaged_entry_is_reported_and_replaced(
    store: KeyringStore, fake: FakeKeyring, text: str, reason: str
) -> None:
    fake.entries["mcpsync", ACCOUNT] = text
    with pytest.raises(CredentialStoreError, match=reason) as caught:
        store.load(NAME, URL)
    assert NAME in str(caught.value) and "log in again" in str(caught.value)
    store.save(FULL)
    assert store.load(NAME, URL) == FULL


def test_a_registration_is_kept_beside_credentials(
    store: KeyringStore, fake: FakeKeyring
) -> None:
    store.save_registration(registration())
    store.save(FULL)
    assert store.load_registration("https://as.example.com/") == registration()
    assert len(fake.entries) == 2


# --- a keyring with habits of its own -----------------------------------------------


class DroppingKeyring(FakeKeyring):
    """Takes everything and keeps nothing, as keyring's own null backend."""

    def set_password(self, service: str, username: str, password: str) -> None:
        self._note("set", username)

    def delete_password(self, service: str, username: str) -> None:
        self._note("delete", username)


def test_a_keyring_that_drops_what_it_is_given_is_found_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    dropping = DroppingKeyring()
    store = store_with(dropping, tmp_path)
    for _ in range(2):
        with pytest.raises(CredentialStoreError, match="does not keep what is written"):
            store.save(FULL)
    assert dropping.count("set") == 1
    assert len(warnings_in(caplog)) == 1


class CrowdedKeyring(FakeKeyring):
    """Keeps one entry for each program, and reads and deletes the oldest."""

    def __init__(self, others: str) -> None:
        super().__init__()
        self.others: List[str] = [others]

    def get_password(self, service: str, username: str) -> Optional[str]:
        if self.others:
            return self.others[0]
        return super().get_password(service, username)

    def delete_password(self, service: str, username: str) -> None:
        if self.others:
            self.others.pop(0)
        else:
            super().delete_password(service, username)


def test_an_older_entry_of_another_program_gives_way(tmp_path: Path) -> None:
    crowded = CrowdedKeyring(json.dumps(entry_of_codex()))
    store = store_with(crowded, tmp_path)
    store.save(FULL)
    assert store.load(NAME, URL) == FULL


def test_a_logout_deletes_all_entries_of_an_account(tmp_path: Path) -> None:
    crowded = CrowdedKeyring(json.dumps(entry_of_codex()))
    crowded.entries["mcpsync", ACCOUNT] = json.dumps(entry_of_codex())
    store = store_with(crowded, tmp_path)
    assert store.delete(NAME, URL)
    assert store.load(NAME, URL) is None
    assert not store.delete(NAME, URL)


def test_a_keyring_that_does_not_delete_is_an_error(
    store: KeyringStore, fake: FakeKeyring
) -> None:
    store.save(FULL)
    fake.failures = [None, PasswordDeleteError("denied")]
    with pytest.raises(CredentialStoreError, match="did not delete"):
        store.delete(NAME, URL)
    assert store.load(NAME, URL) == FULL


@pytest.mark.parametrize(
    "failure",
    [KeyringLocked("Failed to unlock"), InitError("no collection"), NoKeyringError()],
)
def test_a_keyring_that_is_locked_is_not_asked_again(
    store: KeyringStore,
    fake: FakeKeyring,
    failure: Exception,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fake.failures = [failure]
    name = type(failure).__name__
    for _ in range(3):
        with pytest.raises(CredentialStoreError, match=name) as caught:
            store.load(NAME, URL)
        assert "unlock it" in str(caught.value)
    assert len(fake.asked) == 1
    (warning,) = warnings_in(caplog)
    assert name in warning and "does not use it any more" in warning


@pytest.mark.parametrize("failure", [KeyringError("x"), PasswordSetError("denied")])
def test_another_error_on_purpose_costs_one_operation(
    store: KeyringStore, fake: FakeKeyring, failure: Exception
) -> None:
    fake.failures = [None, failure]
    with pytest.raises(CredentialStoreError, match=type(failure).__name__):
        store.save(FULL)
    assert [what for what, _ in fake.asked] == ["get", "get"]
    store.save(FULL)
    assert store.load(NAME, URL) == FULL


def test_an_unforeseen_error_is_tried_again_once(
    store: KeyringStore, fake: FakeKeyring
) -> None:
    fake.failures = [RuntimeError("ItemNotFound")]
    store.save(FULL)
    assert store.load(NAME, URL) == FULL
    asked = len(fake.asked)
    fake.failures = [RuntimeError("one"), OSError(1783, "CredWrite", "bad data")]
    with pytest.raises(CredentialStoreError, match="bad data") as caught:
        store.load(NAME, URL)
    assert len(fake.asked) == asked + 2
    assert isinstance(caught.value.__cause__, OSError)
    assert store.load(NAME, URL) == FULL


def test_what_a_keyring_says_shows_no_secret(
    store: KeyringStore, fake: FakeKeyring, caplog: pytest.LogCaptureFixture
) -> None:
    def echo(service: str, username: str, password: str) -> None:
        raise KeyringError("cannot store %s\n\x1b[31m" % password)

    fake.set_password = echo  # a backend that says too much
    with caplog.at_level(logging.DEBUG), pytest.raises(CredentialStoreError) as caught:
        store.save(FULL)
    shown = caplog.text + str(caught.value) + repr(caught.value)
    assert "cannot store" in shown
    assert CANARY not in shown and "\x1b" not in shown


def test_a_name_that_the_keyring_cannot_take_is_an_error(
    store: KeyringStore, fake: FakeKeyring
) -> None:
    def encode(service: str, username: str, password: str) -> None:
        username.encode()

    fake.set_password = encode
    with pytest.raises(CredentialStoreError, match="UnicodeEncodeError"):
        store.save(credentials(name="\ud800"))


# --- time ---------------------------------------------------------------------------


@pytest.fixture
def hanging() -> Iterator[HangingKeyring]:
    with HangingKeyring() as keyring:
        yield keyring


def test_a_keyring_that_does_not_answer_is_given_up(
    hanging: HangingKeyring, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_with(hanging, tmp_path, timeout=0.5)
    with pytest.raises(KeyringUnavailable, match="within 0.5 s") as caught:
        bounded(lambda: store.load(NAME, URL))
    # It may be done all the same, only too late for anybody to know.
    assert caught.value.uncertain
    for act in (lambda: store.save(FULL), lambda: store.delete(NAME, URL)):
        with pytest.raises(KeyringUnavailable, match="within 0.5 s") as caught:
            act()
        assert not caught.value.uncertain
    assert hanging.asked == [("get", ACCOUNT)]
    (warning,) = warnings_in(caplog)
    assert "within 0.5 s" in warning and "does not use it any more" in warning


def test_an_operation_that_was_given_up_asks_for_nothing_more(
    hanging: HangingKeyring, tmp_path: Path
) -> None:
    store = store_with(hanging, tmp_path, timeout=0.5)
    with pytest.raises(KeyringUnavailable):
        store.save(FULL)
    hanging.released.set()
    for thread in hanging.threads:
        thread.join(10)
    # The read that hung is not followed by the write.
    assert hanging.asked == [("get", ACCOUNT)] and not hanging.entries


def test_who_waits_behind_one_that_hangs_waits_no_longer_than_that(
    hanging: HangingKeyring, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = store_with(hanging, tmp_path, timeout=0.5)
    outcomes: List[str] = []

    def load() -> None:
        try:
            store.load(NAME, URL)
        except KeyringUnavailable as error:
            outcomes.append("uncertain" if error.uncertain else "not begun")

    threads = [threading.Thread(target=load) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert sorted(outcomes) == ["not begun"] * 4 + ["uncertain"]
    assert len(warnings_in(caplog)) == 1
    assert len(hanging.asked) == 1


def test_the_wait_for_others_is_no_slowness_of_the_keyring() -> None:
    worker, began, go_on = Worker(), threading.Event(), threading.Event()

    def take_long() -> None:
        began.set()
        go_on.wait(30)

    thread = threading.Thread(target=worker.run, args=(take_long, 30.0))
    thread.start()
    assert began.wait(10)
    # It ends when the other one has waited for longer than its own limit.
    threading.Timer(1.5, go_on.set).start()
    assert worker.run(lambda: "done", 1.0) == "done"
    thread.join(10)


def test_one_daemon_thread_asks_and_goes_when_there_is_nothing_to_do(
    store: KeyringStore, fake: FakeKeyring
) -> None:
    threads = [
        threading.Thread(
            target=store.save, args=(credentials(name="n%d" % number),), daemon=True
        )
        for number in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(fake.entries) == 8
    for thread in fake.threads:
        assert (thread.name, thread.daemon) == ("mcpsync-keyring", True)
        thread.join(10)
        assert not thread.is_alive()


def test_ctrl_c_ends_the_wait(tmp_path: Path) -> None:
    script = """
        import os, sys, threading
        from mcpsync.auth.stores import KeyringStore
        class Hanging:
            def get_password(self, service, username):
                # Not print(): a daemon thread may hold the lock of stdout for ever.
                os.write(1, b"asked\\n")
                threading.Event().wait(60)
        store = KeyringStore(backend=Hanging(), home=sys.argv[1], timeout=600)
        try:
            store.load("a", "b")
        except KeyboardInterrupt:
            print("interrupted")
    """
    process = start_script(script, tmp_path)
    assert process.stdout is not None
    assert process.stdout.readline() == "asked\n"
    process.send_signal(signal.SIGINT)
    # The program ends as well, although the keyring still hangs.
    assert process.communicate(timeout=30) == ("interrupted\n", "")
    assert process.returncode == 0


def test_what_has_not_begun_is_taken_back_with_its_waiter() -> None:
    worker, began, go_on = Worker(), threading.Event(), threading.Event()
    done: List[str] = []

    def first() -> None:
        began.set()
        go_on.wait(30)
        done.append("first")

    thread = threading.Thread(target=worker.run, args=(first, 30.0))
    thread.start()
    assert began.wait(10)
    wait = worker._changed.wait

    def interrupt(timeout: Optional[float] = None) -> bool:
        if threading.current_thread() is thread:
            return wait(timeout)
        raise KeyboardInterrupt

    worker._changed.wait = interrupt
    with pytest.raises(KeyboardInterrupt):
        worker.run(lambda: done.append("second"), 30.0)
    worker._changed.wait = wait
    go_on.set()
    thread.join(10)
    worker.run(lambda: done.append("third"), 30.0)
    assert done == ["first", "third"]


def test_the_first_reason_is_the_one_that_counts(
    caplog: pytest.LogCaptureFixture,
) -> None:
    worker = Worker()
    worker.switch_off("the first")
    worker.switch_off("the second")
    assert worker.off == "the first"
    (warning,) = warnings_in(caplog)
    assert "the first" in warning
    with pytest.raises(KeyringUnavailable, match="the first"):
        worker.run(lambda: None, 1.0)


def test_no_new_thread_is_an_error(
    store: KeyringStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(CredentialStoreError, match="can't start new thread"):
            store.load(NAME, URL)
    assert store.load(NAME, URL) is None


def test_a_forked_child_has_a_worker_of_its_own(tmp_path: Path) -> None:
    script = """
        import os, sys, threading, warnings
        from mcpsync.auth._records import ClientRecord, Credentials, Token
        from mcpsync.auth.stores import KeyringStore
        warnings.simplefilter("ignore", DeprecationWarning)
        asked, go_on = threading.Event(), threading.Event()
        main = os.getpid()
        class Keyring:
            def get_password(self, service, username):
                asked.set()
                if os.getpid() == main:
                    go_on.wait(30)
        store = KeyringStore(backend=Keyring(), home=sys.argv[1])
        thread = threading.Thread(target=store.load, args=("a", "b"))
        thread.start()
        asked.wait(30)
        # While the parent's worker is at it, and somebody has its lock.
        lock = store._vault._worker._lock
        with lock:
            child = os.fork()
            if not child:
                os._exit(0 if store.load("a", "b") is None else 1)
        assert os.waitpid(child, 0)[1] == 0
        go_on.set()
        thread.join()
        assert store.load("a", "b") is None
    """
    run_script(script, tmp_path)


# --- locks --------------------------------------------------------------------------


def test_a_keyring_store_locks_like_any_other(
    store: KeyringStore, fake: FakeKeyring, tmp_path: Path
) -> None:
    with store.lock(NAME, URL, 0):
        with pytest.raises(CredentialLockTimeout):
            with store_with(fake, tmp_path).lock(NAME, URL, 0):
                raise AssertionError("two holders")
        # It is no lock on the store.
        store.save(FULL)


# --- long values --------------------------------------------------------------------


@pytest.fixture
def windows() -> FakeKeyring:
    return FakeKeyring(longest=1280)


def long_credentials(text: str = LONG) -> Credentials:
    return credentials(text)


def test_a_long_value_is_kept_in_parts(windows: FakeKeyring, tmp_path: Path) -> None:
    store = store_with(windows, tmp_path, chunk_above=1200)
    store.save(long_credentials())
    assert store.load(NAME, URL) == long_credentials()
    parts = [v for (_, key), v in windows.entries.items() if key != ACCOUNT]
    assert len(parts) > 5 and max(map(len, parts)) <= PART == 1000
    assert CANARY not in windows.entries["mcpsync", ACCOUNT]
    written = [account for what, account in windows.asked if what == "set"]
    assert written[-1] == ACCOUNT
    assert store.delete(NAME, URL)
    assert windows.entries == {}


def test_without_parts_a_long_value_is_refused(
    windows: FakeKeyring, tmp_path: Path
) -> None:
    with pytest.raises(CredentialStoreError, match="bad data"):
        store_with(windows, tmp_path).save(long_credentials())


@pytest.mark.parametrize("length, count", [(1200, 1), (1201, 3), (2000, 3), (2001, 4)])
def test_only_what_is_too_long_is_cut(length: int, count: int) -> None:
    drawer = DictDrawer()
    Chunks(drawer, 1200).set("a", "x" * length)
    assert len(drawer.entries) == count
    assert Chunks(drawer, None).get("a") == "x" * length


def test_parts_give_way_to_a_short_value_and_to_other_parts(
    windows: FakeKeyring, tmp_path: Path
) -> None:
    store = store_with(windows, tmp_path, chunk_above=1200)
    for text in (LONG, LONG[:3000], LONG, "short", LONG, "short"):
        store.save(long_credentials(text))
        assert store.load(NAME, URL) == long_credentials(text)
    assert list(windows.entries) == [("mcpsync", ACCOUNT)]


class Killed(BaseException):
    """Ends everything, like a signal."""


class DictDrawer:
    """Entries in memory; dies at a given operation that changes something."""

    def __init__(self) -> None:
        self.entries: Dict[str, str] = {}
        self.lives: Optional[int] = None

    def _change(self) -> None:
        if self.lives is not None:
            if self.lives == 0:
                raise Killed
            self.lives -= 1

    def get(self, account: str) -> Optional[str]:
        return self.entries.get(account)

    def set(self, account: str, value: str) -> None:
        self._change()
        self.entries[account] = value

    def delete(self, account: str) -> bool:
        self._change()
        return self.entries.pop(account, None) is not None


VALUES = ["old " * 1000, "new " * 2000, "s", "n" * 1201]


@pytest.mark.parametrize("old", VALUES)
@pytest.mark.parametrize("new", VALUES)
def test_a_killed_writer_leaves_the_old_value_or_the_new_one(
    old: str, new: str
) -> None:
    lives = 0
    while True:
        drawer = DictDrawer()
        chunks = Chunks(drawer, 1200)
        chunks.set("a", old)
        drawer.lives = lives
        try:
            chunks.set("a", new)
        except Killed:
            finished = False
        else:
            finished = True
        drawer.lives = None
        assert chunks.get("a") in (old, new)
        left = dict(drawer.entries)
        # Whatever was left is gone after the next change.
        for value in (old, new):
            chunks.set("a", value)
            assert chunks.get("a") == value
            parts = -(-len(value) // PART) if len(value) > 1200 else 0
            assert len(drawer.entries) == 1 + parts
            drawer.entries = dict(left)
        assert chunks.delete("a") and drawer.entries == {}
        if finished:
            assert lives > 0
            return
        lives += 1


def test_a_reader_that_comes_in_between_reads_again() -> None:
    drawer = DictDrawer()
    writer = Chunks(drawer, 1200)
    writer.set("a", VALUES[0])

    class Late(DictDrawer):
        """Looks at the parts when they have been exchanged already."""

        reads = 0

        def get(self, account: str) -> Optional[str]:
            self.reads += 1
            if self.reads == 3:
                writer.set("a", VALUES[1])
                writer.set("a", VALUES[3])
            return drawer.get(account)

    assert Chunks(Late(), 1200).get("a") == VALUES[3]


@pytest.mark.parametrize("harm", ["lost", "changed"])
def test_a_damaged_part_is_found(harm: str) -> None:
    drawer = DictDrawer()
    chunks = Chunks(drawer, 1200)
    chunks.set("a", VALUES[0])
    part = [account for account in drawer.entries if account != "a"][1]
    if harm == "lost":
        del drawer.entries[part]
    else:
        drawer.entries[part] = "z" + drawer.entries[part][1:]
    with pytest.raises(Damaged, match="belong together"):
        chunks.get("a")


@pytest.mark.parametrize(
    "value",
    [
        "mcpsync_parts",
        '{"mcpsync_parts": 3}',
        '{"mcpsync_parts": [3]}',
        '{"mcpsync_parts": [true, "x", "a"]}',
        '{"mcpsync_parts": [0, "x", "a"]}',
        '{"mcpsync_parts": [1000000000, "x", "a"]}',
        '["mcpsync_parts"]',
    ],
)
def test_what_only_looks_like_a_manifest_is_a_value(value: str) -> None:
    drawer = DictDrawer()
    drawer.entries["a"] = value
    assert Chunks(drawer, 1200).get("a") == value


def test_the_chunking_of_windows_is_off_elsewhere(
    store: KeyringStore, fake: FakeKeyring
) -> None:
    store.save(long_credentials())
    assert list(fake.entries) == [("mcpsync", ACCOUNT)]
