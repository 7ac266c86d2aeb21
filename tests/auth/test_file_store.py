"""The credentials file: its form, its privacy, and that it is whole at every moment."""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import signal
import stat
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Dict, List, Tuple

import pytest

from mcpsync.auth import _file, _filestore
from mcpsync.auth._lock import locked
from mcpsync.auth._records import ClientRecord, Credentials, Token
from mcpsync.auth.stores import FileStore, account_key
from mcpsync.exceptions import (
    ConfigError,
    CredentialLockTimeout,
    CredentialStoreError,
)

from ..fakes import CANARY, bounded
from .storing import (
    FULL,
    NAME,
    OTHER_URL,
    URL,
    credentials,
    registration,
    run_script,
    start_script,
)

#: What Codex writes, under a key that means nothing.
STUB = {
    "stub": {
        "server_name": NAME,
        "server_url": URL,
        "client_id": "test-client-id",
        "access_token": CANARY + "-initial",
        "expires_at": 1893456000250,
        "refresh_token": CANARY + "-refresh",
        "scopes": ["profile"],
    }
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "home" / ".credentials.json"


@pytest.fixture
def store(path: Path) -> FileStore:
    return FileStore(path)


def put(path: Path, content: Any, mode: int = 0o600) -> bytes:
    """Write a file as another program would."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
    path.write_bytes(content)
    path.chmod(mode)
    return content


def content_of(path: Path) -> Dict[str, Any]:
    read = json.loads(path.read_bytes())
    assert isinstance(read, dict)
    return read


def names_in(path: Path) -> List[str]:
    return sorted(os.listdir(path.parent))


def is_private(path: Path) -> bool:
    return stat.S_IMODE(path.lstat().st_mode) == 0o600


# --- the account's name -------------------------------------------------------------


@pytest.mark.parametrize(
    "name, url, account",
    [
        ("test-server", "https://example.test", "test-server|8c45d89ea13b3919"),
        ("figma", "http://127.0.0.1:3845/mcp", "figma|c8ef2362b459ef60"),
    ],
)
def test_accounts_are_named_as_codex_names_them(
    name: str, url: str, account: str
) -> None:
    assert account_key(name, url) == account


def test_urls_are_hashed_as_they_are() -> None:
    payload = '{"type":"http","url":"https://é\\n\\u0001\\"/","headers":{}}'.encode()
    digest = hashlib.sha256(payload).hexdigest()[:16]
    assert account_key("é", 'https://é\n\x01"/') == "é|" + digest


def test_another_spelling_of_a_url_is_another_account() -> None:
    urls = [URL, OTHER_URL, URL.upper(), URL + "?", URL + "#", "https://é/", "\ud800"]
    assert len({account_key(NAME, url) for url in urls}) == len(urls)


# --- what Codex wrote ---------------------------------------------------------------


def test_an_entry_of_codex_reads_as_it_is(path: Path, store: FileStore) -> None:
    put(path, STUB)
    assert store.load(NAME, URL) == Credentials(
        NAME,
        URL,
        ClientRecord("test-client-id"),
        Token(
            CANARY + "-initial",
            expires_at=1893456000.25,
            refresh_token=CANARY + "-refresh",
            scope=("profile",),
        ),
    )


def test_what_has_not_changed_is_not_written(path: Path, store: FileStore) -> None:
    before = put(path, STUB)
    status = path.stat()
    loaded = store.load(NAME, URL)
    assert loaded is not None
    store.save(loaded)
    assert path.read_bytes() == before
    assert os.path.samestat(status, path.stat())
    assert status.st_mtime_ns == path.stat().st_mtime_ns
    # Nor is anything made beside it.
    assert names_in(path) == [".credentials.json"]


def test_a_changed_entry_keeps_its_key_and_the_form_that_codex_reads(
    path: Path, store: FileStore
) -> None:
    put(path, STUB)
    loaded = store.load(NAME, URL)
    assert loaded is not None
    token = Token("new", expires_at=1900000000.0, refresh_token="rotated")
    store.save(replace(loaded, token=token, issuer="https://as.example.com"))
    assert content_of(path) == {
        "stub": {
            "server_name": NAME,
            "server_url": URL,
            "client_id": "test-client-id",
            "access_token": "new",
            "expires_at": 1900000000000,
            "refresh_token": "rotated",
            "scopes": [],
            "issuer": "https://as.example.com",
        }
    }


def test_unknown_keys_of_an_entry_stay(path: Path, store: FileStore) -> None:
    put(path, {"stub": {**STUB["stub"], "executor_owned": True, "later": {"v": [1]}}})
    loaded = store.load(NAME, URL)
    assert loaded is not None
    assert loaded.raw == {"executor_owned": True, "later": {"v": [1]}}
    store.save(replace(loaded, token=Token("new")))
    # A login makes new credentials, and knows nothing of them.
    store.save(credentials("newer"))
    entry = content_of(path)["stub"]
    assert entry["access_token"] == "newer"
    assert (entry["executor_owned"], entry["later"]) == (True, {"v": [1]})


def test_entries_of_others_stay_byte_for_byte(path: Path, store: FileStore) -> None:
    values = [
        '{ "n" : 1.10, "e": 1E400, "big": 12345678901234567890123 }',
        r'"é \u00e9 \/"',
        '{"a": 1,\n\t "a": 2}',
        "[ 1 , 2.0,null ]",
        '{"server_name": "x", "server_url": 7}',
    ]
    text = "{%s}" % ",".join('"k%d" :%s' % pair for pair in enumerate(values))
    put(path, text.encode())
    store.save(credentials())
    store.save(credentials("another"))
    store.delete(NAME, URL)
    lines = path.read_text(encoding="utf-8")
    assert lines == "{\n%s\n}\n" % ",\n".join(
        '"k%d": %s' % pair for pair in enumerate(values)
    )


def test_of_two_entries_the_one_under_its_own_key_counts(
    path: Path, store: FileStore
) -> None:
    own = {**STUB["stub"], "access_token": "own"}
    put(path, {**STUB, account_key(NAME, URL): own})
    loaded = store.load(NAME, URL)
    assert loaded is not None and loaded.token.access_token == "own"
    # Only one is left by a change, whichever another program would look at.
    store.save(credentials("new"))
    assert list(content_of(path)) == [account_key(NAME, URL)]


def test_one_key_that_is_there_twice_is_not_so_afterwards(
    path: Path, store: FileStore
) -> None:
    entry = json.dumps(STUB["stub"])
    put(path, ('{"stub": %s, "x": 1, "stub": %s}' % (entry, entry)).encode())
    store.save(credentials("new"))
    keys: List[List[str]] = []

    def note(pairs: List[Tuple[str, Any]]) -> None:
        keys.append([key for key, _ in pairs])

    json.loads(path.read_bytes(), object_pairs_hook=note)
    assert keys[-1] == ["stub", "x"]
    assert store.load(NAME, URL) == credentials("new")


def test_a_key_that_somebody_else_has_stays_his(path: Path, store: FileStore) -> None:
    other = {**STUB["stub"], "server_url": OTHER_URL}
    put(path, {account_key(NAME, URL): other})
    store.save(credentials("new"))
    assert store.load(NAME, URL) == credentials("new")
    content = content_of(path)
    assert content.pop(account_key(NAME, URL)) == other
    assert len(content) == 1


def test_a_logout_finds_the_entry_whatever_its_key(
    path: Path, store: FileStore
) -> None:
    put(path, {**STUB, "again": STUB["stub"], "other": {"server_name": "x"}})
    assert store.delete(NAME, URL)
    assert list(content_of(path)) == ["other"]
    assert not store.delete(NAME, URL)


def test_the_file_goes_with_its_last_entry(path: Path, store: FileStore) -> None:
    store.save(credentials())
    assert path.exists()
    assert store.delete(NAME, URL)
    assert not path.exists()
    assert store.load(NAME, URL) is None


# --- our own keys -------------------------------------------------------------------


def test_everything_that_is_known_comes_back(path: Path, store: FileStore) -> None:
    store.save(FULL)
    assert FileStore(path).load(NAME, URL) == FULL
    entry = content_of(path)[account_key(NAME, URL)]
    assert entry["expires_at"] == 1893456000250
    for key in ("issuer", "client_id", "resource", "token_endpoint"):
        assert isinstance(entry[key], str)


@pytest.mark.parametrize("name, url", [(NAME, OTHER_URL), ("other", URL)])
def test_an_entry_is_used_for_its_own_server_only(
    store: FileStore, name: str, url: str
) -> None:
    store.save(FULL)
    assert store.load(name, url) is None
    assert not store.delete(name, url)
    assert store.load(NAME, URL) == FULL


@pytest.mark.parametrize("expires_at", [float("inf"), float("nan"), 1e300, -1e300])
def test_no_expiry_makes_a_file_that_cannot_be_read(
    path: Path, store: FileStore, expires_at: float
) -> None:
    store.save(credentials(expires_at=expires_at))
    assert store.load(NAME, URL) is not None
    assert b"Infinity" not in path.read_bytes() and b"NaN" not in path.read_bytes()


def test_strange_names_and_tokens_come_back(store: FileStore) -> None:
    strange = credentials('\ud800 \u2028 \x00 "\\', name='a|b"\n\ud800é', url="\x7f")
    store.save(strange)
    assert store.load(strange.server_name, strange.server_url) == strange


def test_a_registration_has_a_shape_that_codex_can_read(
    path: Path, store: FileStore
) -> None:
    store.save_registration(registration())
    (entry,) = content_of(path).values()
    # An entry without one of these would cost Codex the whole file.
    for key in ("server_name", "server_url", "client_id", "access_token"):
        assert isinstance(entry[key], str)
    assert entry["scopes"] == []
    # It is no server's credentials, whatever a server is called.
    assert store.load(entry["server_name"], entry["server_url"]) is None


# --- damaged files ------------------------------------------------------------------

WHOLE = json.dumps(STUB).encode()

DAMAGED = {
    "empty": (b"", "not a JSON object"),
    "torn": (WHOLE[:-20], "not JSON"),
    "twice": (WHOLE + WHOLE, "not JSON"),
    "list": (b"[%s]" % WHOLE, "not a JSON object"),
    "null": (b"null", "not a JSON object"),
    "text": (b"access_token=" + CANARY.encode(), "not a JSON object"),
    "latin": (WHOLE.replace(b"profile", b"prof\xe9l"), "not UTF-8"),
    "utf-16": (json.dumps(STUB).encode("utf-16"), "not UTF-8"),
    "zeros": (b"\0" * 100, "not a JSON object"),
    "constant": (b'{"stub": NaN}', "a number that is not JSON"),
    "digits": (b'{"stub": 1%s}' % (b"0" * 5000), "a number that is not JSON"),
    "deep": (b'{"a":' + b"[" * 100000 + b"]" * 100000 + b"}", "nested too deeply"),
    "control": (b'{"a": "' + CANARY.encode() + b'\n"}', "not JSON"),
    "trailing comma": (b'{"a": 1,}', "not JSON"),
    "no colon": (b'{"a" 1}', "not JSON"),
    "no value": (b'{"a":', "not JSON"),
    "open": (b'{"a": 1', "not JSON"),
    "key": (b"{a: 1}", "not JSON"),
}


def _digits_are_limited() -> bool:
    try:
        json.loads("1" + "0" * 5000)
    except ValueError:
        return True
    return False


@pytest.mark.parametrize("kind", DAMAGED)
def test_a_damaged_file_is_reported_and_kept(
    path: Path, store: FileStore, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    content, reason = DAMAGED[kind]
    if kind == "digits" and not _digits_are_limited():
        # Only interpreters that refuse long numbers make this one damaged.
        content = DAMAGED["constant"][0]
    put(path, content)
    for act in (store.load, store.delete):
        with pytest.raises(CredentialStoreError, match=reason) as caught:
            act(NAME, URL)
        assert str(path) in str(caught.value) and "move it away" in str(caught.value)
        # Decoders' own exceptions carry the text that they decode.
        assert caught.value.__context__ is None
    assert path.read_bytes() == content
    assert names_in(path) == [".credentials.json", "mcp-oauth-locks"]

    store.save(credentials())
    assert store.load(NAME, URL) == credentials()
    (aside,) = [name for name in names_in(path) if ".corrupt-" in name]
    assert aside.startswith(".credentials.json.corrupt-2")
    assert (path.parent / aside).read_bytes() == content
    assert is_private(path.parent / aside)
    assert aside in caplog.text and CANARY not in caplog.text


def test_nothing_that_was_kept_aside_is_overwritten(
    path: Path, store: FileStore
) -> None:
    for number in range(3):
        put(path, b"%d" % number)
        store.save(credentials())
    kept = [name for name in names_in(path) if ".corrupt-" in name]
    assert sorted((path.parent / name).read_bytes() for name in kept) == [
        b"0",
        b"1",
        b"2",
    ]


@pytest.mark.parametrize(
    "change, reason",
    [
        ({"access_token": None}, "access_token is not a text"),
        ({"access_token": 7}, "access_token is not a text"),
        ({"client_id": ["x"]}, "client_id is not a text"),
        ({"refresh_token": {}}, "refresh_token is not a text"),
        ({"expires_at": "soon"}, "expires_at is not a number"),
        ({"expires_at": True}, "expires_at is not a number"),
        ({"expires_at": 10**400}, "expires_at is out of range"),
        ({"expires_at": 1e300}, "expires_at is out of range"),
        ({"scopes": "a b"}, "scopes is not a list"),
        ({"scopes": [1]}, "scopes is not a list"),
        ({"dpop_key": "x"}, "dpop_key is not an object"),
        ({"client_redirect_uris": {}}, "client_redirect_uris is not a list"),
        ({"client_secret": 1}, "client_secret is not a text"),
        ({"issuer": 1}, "issuer is not a text"),
    ],
)
def test_a_damaged_entry_is_reported_and_kept(
    path: Path, store: FileStore, change: Dict[str, Any], reason: str
) -> None:
    other = {"server_name": "x", "server_url": "y"}
    before = put(path, {"stub": {**STUB["stub"], **change}, "other": other})
    with pytest.raises(CredentialStoreError, match=reason) as caught:
        store.load(NAME, URL)
    assert NAME in str(caught.value) and "log in again" in str(caught.value)
    # It is nobody else's trouble.
    assert store.load("another", URL) is None
    assert path.read_bytes() == before

    store.save(credentials())
    assert store.load(NAME, URL) == credentials()
    assert content_of(path)["other"] == other
    (aside,) = [name for name in names_in(path) if ".corrupt-" in name]
    assert (path.parent / aside).read_bytes() == before


def test_a_damaged_entry_can_be_deleted(path: Path, store: FileStore) -> None:
    put(path, {"stub": {**STUB["stub"], "access_token": 7}})
    assert store.delete(NAME, URL)
    assert not path.exists()


def test_blank_texts_mean_nothing(path: Path, store: FileStore) -> None:
    blank = {"refresh_token": "", "issuer": "", "expires_at": None, "scopes": None}
    put(path, {"stub": {**STUB["stub"], **blank}})
    loaded = store.load(NAME, URL)
    assert loaded is not None
    assert (loaded.issuer, loaded.token.refresh_token) == (None, None)
    assert (loaded.token.expires_at, loaded.token.scope) == (None, None)


def test_a_byte_order_mark_does_no_harm(path: Path, store: FileStore) -> None:
    put(path, b"\xef\xbb\xbf" + WHOLE)
    assert store.load(NAME, URL) is not None


def test_a_writer_that_writes_in_place_is_waited_for(
    path: Path, store: FileStore
) -> None:
    put(path, WHOLE[:50])
    loaded: List[Any] = []
    began = threading.Event()

    def load() -> None:
        began.set()
        loaded.append(store.load(NAME, URL))

    lock = str(path.parent / "mcp-oauth-locks" / "file-store.lock")
    with locked(lock, 5):
        thread = threading.Thread(target=load)
        thread.start()
        assert began.wait(10)
        put(path, WHOLE)
    thread.join(10)
    assert len(loaded) == 1 and loaded[0] is not None


# --- files that are not ours to read ------------------------------------------------


def make_link(path: Path) -> None:
    victim = path.parent / "victim"
    victim.write_bytes(WHOLE)
    path.symlink_to(victim)


def make_dangling_link(path: Path) -> None:
    path.symlink_to(path.parent / "nowhere")


def make_hard_link(path: Path) -> None:
    put(path, STUB)
    os.link(path, path.parent / "second")


def make_zero(path: Path) -> None:
    os.symlink("/dev/zero", path)


def make_large(path: Path) -> None:
    put(path, b" " * (_file.SIZE_LIMIT + 1))


@pytest.mark.parametrize(
    "make, reason",
    [
        (make_link, "symbolic link"),
        (make_dangling_link, "symbolic link"),
        (make_zero, "symbolic link"),
        (make_hard_link, "hard link"),
        (os.mkfifo, "not a regular file"),
        (os.mkdir, "not a regular file"),
        (make_large, "larger than 4000000 bytes"),
    ],
)
def test_what_is_no_private_file_is_refused(
    path: Path, store: FileStore, make: Callable[[Path], None], reason: str
) -> None:
    path.parent.mkdir(mode=0o700)
    make(path)
    before = {name: (path.parent / name).lstat() for name in names_in(path)}

    def act() -> None:
        for attempt in (
            lambda: store.load(NAME, URL),
            lambda: store.save(credentials()),
            lambda: store.delete(NAME, URL),
        ):
            with pytest.raises(CredentialStoreError, match=reason) as caught:
                attempt()
            assert str(path) in str(caught.value)

    bounded(act)
    for name, status in before.items():
        assert os.path.samestat(status, (path.parent / name).lstat())


def test_a_file_of_another_user_is_refused(
    path: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(path, STUB)
    monkeypatch.setattr(os, "geteuid", lambda: os.getuid() + 1)
    with pytest.raises(CredentialStoreError, match="another user"):
        store.load(NAME, URL)


def test_a_file_that_others_may_read_is_closed_to_them(
    path: Path, store: FileStore, caplog: pytest.LogCaptureFixture
) -> None:
    put(path, STUB, mode=0o644)
    assert store.load(NAME, URL) is not None
    assert is_private(path)
    assert "0644" in caplog.text and str(path) in caplog.text
    caplog.clear()
    store.load(NAME, URL)
    assert not caplog.text


@pytest.mark.parametrize("umask", [0, 0o777])
def test_nobody_else_can_read_it_at_any_instant(
    path: Path, store: FileStore, umask: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    modes: List[int] = []
    write = os.write

    def look_and_write(number: int, data: Any) -> int:
        modes.append(stat.S_IMODE(os.fstat(number).st_mode))
        return write(number, data)

    opened: List[int] = []
    open_file = os.open

    def open_and_look(name: Any, flags: int, mode: int = 0o777, **more: Any) -> int:
        number = open_file(name, flags, mode, **more)
        if str(name).startswith(str(path)):
            opened.append(stat.S_IMODE(os.fstat(number).st_mode))
        return number

    monkeypatch.setattr(os, "write", look_and_write)
    monkeypatch.setattr(os, "open", open_and_look)
    before = os.umask(umask)
    try:
        store.save(credentials())
    finally:
        os.umask(before)
        monkeypatch.undo()
    assert modes and set(modes) == {0o600}
    assert opened and all(mode & 0o077 == 0 for mode in opened)
    assert is_private(path)


def test_the_directories_that_are_made_are_private(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        FileStore(tmp_path / "a" / "b" / "c.json").save(credentials())
    finally:
        os.umask(before)
    for name in ("a", "a/b", "a/b/mcp-oauth-locks"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o700


def test_our_own_directory_is_made_private(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("MCPSYNC_HOME", str(tmp_path / "home"))
    (tmp_path / "home").mkdir()
    (tmp_path / "home").chmod(0o755)
    FileStore().save(credentials())
    assert stat.S_IMODE((tmp_path / "home").stat().st_mode) == 0o700
    assert not caplog.records


@pytest.mark.parametrize("mode, after", [(0o775, 0o755), (0o1777, 0o1777)])
def test_others_lose_the_right_to_replace_the_file(
    tmp_path: Path, mode: int, after: int, caplog: pytest.LogCaptureFixture
) -> None:
    tmp_path.chmod(mode)
    FileStore(tmp_path / "c.json").save(credentials())
    assert stat.S_IMODE(tmp_path.stat().st_mode) == after
    assert ("could replace" in caplog.text) is (mode != after)


def test_a_directory_of_another_user_is_refused(
    path: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    path.parent.mkdir()
    with store.lock(NAME, URL, 0):
        pass
    own = os.stat

    def stat_of_another(name: Any, **more: Any) -> os.stat_result:
        status = own(name, **more)
        if name == str(path.parent):
            fields = list(status)
            fields[stat.ST_UID] = os.getuid() + 1
            return os.stat_result(fields)
        return status

    monkeypatch.setattr(os, "stat", stat_of_another)
    with pytest.raises(CredentialStoreError, match="another user"):
        store.save(credentials())
    assert not path.exists()


def test_a_home_that_is_a_file_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("")
    store = FileStore(tmp_path / "home" / "c.json")
    for act in (lambda: store.load(NAME, URL), lambda: store.save(credentials())):
        with pytest.raises(CredentialStoreError, match="[Nn]ot a directory"):
            act()


# --- where it is --------------------------------------------------------------------


def test_the_home_is_chosen_by_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCPSYNC_HOME", str(tmp_path / "chosen"))
    assert FileStore().path == str(tmp_path / "chosen" / ".credentials.json")
    monkeypatch.setenv("MCPSYNC_HOME", "")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert FileStore().path == str(tmp_path / ".mcpsync" / ".credentials.json")
    monkeypatch.setenv("MCPSYNC_HOME", "~/elsewhere")
    assert FileStore().path == str(tmp_path / "elsewhere" / ".credentials.json")
    assert FileStore("~/x.json").path == str(tmp_path / "x.json")
    monkeypatch.setenv("MCPSYNC_HOME", "~nobody-of-this-name/x")
    with pytest.raises(ConfigError, match="MCPSYNC_HOME"):
        FileStore()


def test_to_look_for_what_is_not_there_makes_nothing(
    path: Path, store: FileStore
) -> None:
    assert store.load(NAME, URL) is None
    assert store.load_registration("https://as.example.com") is None
    assert not store.delete(NAME, URL)
    assert not path.parent.exists()


# --- whole at every moment ----------------------------------------------------------


def test_the_new_file_is_on_the_disk_before_it_takes_the_olds_place(
    store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    done: List[str] = []

    def noting(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any) -> Any:
            is_directory = name == "fsync" and stat.S_ISDIR(
                os.fstat(arguments[0]).st_mode
            )
            done.append("fsync of directory" if is_directory else name)
            return function(*arguments)

        return call

    for name in ("write", "fsync", "replace"):
        monkeypatch.setattr(os, name, noting(name, getattr(os, name)))
    store.save(credentials())
    assert done == ["write", "fsync", "replace", "fsync of directory"]


@pytest.mark.parametrize("name", ["write", "fsync", "replace"])
@pytest.mark.parametrize(
    "failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()]
)
def test_a_failed_save_leaves_the_old_file_and_nothing_else(
    path: Path,
    store: FileStore,
    name: str,
    failure: BaseException,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    store.save(credentials("old"))
    before = path.read_bytes()

    def fail(*arguments: Any) -> None:
        raise failure

    monkeypatch.setattr(os, name, fail)
    expected = CredentialStoreError if isinstance(failure, OSError) else type(failure)
    with pytest.raises(expected) as caught:
        store.save(credentials("new"))
    monkeypatch.undo()
    if expected is CredentialStoreError:
        assert "No space left" in str(caught.value) and str(path) in str(caught.value)
    assert path.read_bytes() == before
    assert names_in(path) == [".credentials.json", "mcp-oauth-locks"]
    store.save(credentials("new"))


def test_a_full_disk_leaves_the_old_file(path: Path) -> None:
    script = """
        import os, resource, sys
        from mcpsync.auth._records import ClientRecord, Credentials, Token
        from mcpsync.auth.stores import FileStore
        from mcpsync.exceptions import CredentialStoreError
        store = FileStore(sys.argv[1])
        def credentials(token):
            return Credentials("a", "b", ClientRecord("c"), Token(token))
        store.save(credentials("old"))
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
        try:
            store.save(credentials("x" * 5000))
        except CredentialStoreError as error:
            assert sys.argv[1] in str(error), error
        else:
            sys.exit("saved")
        assert store.load("a", "b") == credentials("old")
        names = sorted(os.listdir(os.path.dirname(sys.argv[1])))
        assert names == [".credentials.json", "mcp-oauth-locks"], names
    """
    run_script(script, path)


def test_a_file_that_could_not_be_read_again_is_not_written(
    path: Path, store: FileStore
) -> None:
    with pytest.raises(CredentialStoreError, match="larger than"):
        store.save(credentials("x" * _file.SIZE_LIMIT))
    assert not path.exists()


SAVER = """
    import itertools, sys
    from mcpsync.auth._records import ClientRecord, Credentials, Token
    from mcpsync.auth.stores import FileStore
    store = FileStore(sys.argv[1])
    name, count = sys.argv[2], int(sys.argv[3])
    print("begins", flush=True)
    for number in itertools.count() if not count else range(count):
        client, token = ClientRecord("c"), Token("token %d" % number + "." * 300)
        store.save(Credentials("%s-%d" % (name, number % 200), "u", client, token))
"""


def kill_later(process: "subprocess.Popen[str]", seconds: float) -> None:
    """Kill a process that has said that it begins, in the middle of its work."""
    assert process.stdout is not None
    assert process.stdout.readline() == "begins\n"
    time.sleep(seconds)
    process.send_signal(signal.SIGKILL)
    process.communicate(timeout=10)


@pytest.mark.timeout(300)
def test_a_file_whose_writer_was_killed_can_be_read(path: Path) -> None:
    store = FileStore(path)
    store.save(credentials())
    for number in range(20):
        kill_later(start_script(SAVER, path, "n", 0), 0.003 * number)
        assert isinstance(content_of(path), dict)
        assert store.load(NAME, URL) == credentials()
        # And written, which takes the lock that the dead one may have had.
        store.save(credentials("after %d" % number))
        store.save(credentials())
    assert not [name for name in names_in(path) if "corrupt" in name]


def test_what_killed_writers_left_is_removed_in_time(
    path: Path, store: FileStore
) -> None:
    store.save(credentials())
    old, new = (path.parent / (path.name + end) for end in (".00.tmp", ".11.tmp"))
    other = path.parent / "other.tmp"
    for name in (old, new, other):
        name.write_text("half of a tok")
    hours_ago = time.time() - 7200
    os.utime(old, (hours_ago, hours_ago))
    os.utime(other, (hours_ago, hours_ago))
    store.save(credentials("new"))
    assert not old.exists()
    assert new.exists() and other.exists()


@pytest.mark.timeout(300)
def test_two_processes_lose_no_update_and_no_reader_sees_a_torn_file(
    path: Path,
) -> None:
    store = FileStore(path)
    writers = [start_script(SAVER, path, name, 200) for name in ("a", "b")]
    reads = 0
    try:
        while any(writer.poll() is None for writer in writers):
            # Raises, if what it reads is anything but a whole file.
            store.load("a-0", "u")
            reads += 1
            if path.exists():
                assert is_private(path)
        outcomes = [writer.communicate(timeout=60) for writer in writers]
    finally:
        for writer in writers:
            writer.kill()
            writer.wait(10)
    assert outcomes == [("begins\n", "")] * 2
    assert reads > 10
    saved = {entry["server_name"] for entry in content_of(path).values()}
    assert saved == {"%s-%d" % (n, i) for n in "ab" for i in range(200)}
    assert not [name for name in names_in(path) if name.endswith(".tmp")]


def test_a_writer_that_holds_the_file_does_not_hang_others(
    path: Path, store: FileStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_filestore, "WRITE_PATIENCE", 0.05)
    store.save(credentials("old"))
    lock = str(path.parent / "mcp-oauth-locks" / "file-store.lock")
    with locked(lock, 5):
        with pytest.raises(CredentialLockTimeout):
            store.save(credentials("new"))
        # Reading takes no lock.
        assert store.load(NAME, URL) == credentials("old")
        store.save(credentials("old"))


def test_a_forked_child_has_no_copy_of_what_is_open(path: Path) -> None:
    script = """
        import os, sys, threading
        from mcpsync.auth import _file
        from mcpsync.auth._records import ClientRecord, Credentials, Token
        from mcpsync.auth.stores import FileStore
        import warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        syncing, go_on = threading.Event(), threading.Event()
        def wait(number, fsync=os.fsync):
            syncing.set()
            go_on.wait(30)
            fsync(number)
        os.fsync = wait
        store = FileStore(sys.argv[1])
        saved = Credentials("a", "b", ClientRecord("c"), Token("d"))
        thread = threading.Thread(target=store.save, args=(saved,))
        thread.start()
        syncing.wait(30)
        child = os.fork()
        if not child:
            links = ["/proc/self/fd/" + name for name in os.listdir("/proc/self/fd")]
            names = [os.readlink(link) for link in links if os.path.lexists(link)]
            home = os.path.dirname(sys.argv[1])
            os._exit(any(name.startswith(home) for name in names))
        assert os.waitpid(child, 0)[1] == 0
        go_on.set()
        thread.join()
        assert store.load("a", "b") == saved
    """
    run_script(script, path)


# --- secrets ------------------------------------------------------------------------


def test_nothing_that_is_shown_holds_a_secret(
    path: Path, store: FileStore, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        store.save(FULL)
        store.save_registration(registration())
        shown = [repr(store), repr(FULL), repr(store.load(NAME, URL)), caplog.text]
    assert not [text for text in shown if CANARY in text]
    assert CANARY in path.read_text()
