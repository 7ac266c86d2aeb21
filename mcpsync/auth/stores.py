"""Where credentials are kept: the platform's keyring, a private file, or memory.

Entries are addressed by a server's name and URL, and registrations of this client by
the authorization server's issuer, each as a raw string: another spelling is another
entry. Entries have the form that Codex gives to its own, so a ``.credentials.json``
that Codex wrote reads as it is, whatever the keys of its map.

A store of your own has four methods, those of :class:`CredentialStore`::

    class DatabaseStore:
        def load(self, server_name, server_url):
            row = find_row(server_name, server_url)
            return None if row is None else credentials_from_json(decrypt(row.data))

        def save(self, credentials):
            text = encrypt(json.dumps(credentials_to_json(credentials)))
            save_row(credentials.server_name, credentials.server_url, text)

        def delete(self, server_name, server_url):
            return delete_row(server_name, server_url)  # True if there was one

        @contextlib.contextmanager
        def lock(self, server_name, server_url, timeout=60.0):
            with locked_row(server_name, server_url, timeout):
                yield  # one holder among all processes

With the three methods of :class:`RegistrationStore` it remembers the registrations of
this client as well; without them they last as long as the process.

Specification: 2026-07-28, basic/authorization/security-considerations (storage of
tokens) and basic/authorization/client-registration (credentials and their issuer).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    ContextManager,
    Dict,
    Iterator,
    List,
    Optional,
    Tuple,
    TypeVar,
    Union,
)

from .._lifecycle import Enrolled, enrol
from .._text import clean
from ..exceptions import ConfigError, CredentialLockTimeout, CredentialStoreError
from ._base import (
    LOCK_TIMEOUT,
    WRITE_PATIENCE,
    CredentialStore,
    LockFiles,
    Path,
    RegistrationStore,
    Store,
)
from ._document import Damaged
from ._entries import (
    CredentialsSlot,
    Slot,
    account_key,
    credentials_from_json,
    credentials_to_json,
)
from ._file import PrivateFile
from ._filestore import FileStore
from ._home import INDEX, default_home
from ._index import KEPT, STALE, Index
from ._keyring import KeyringUnavailable, Opened, Refused, Vault, Worker, process_worker
from ._lock import locked
from ._records import Credentials

if TYPE_CHECKING:
    from keyring.backend import KeyringBackend

__all__ = [
    "AutoStore",
    "CODEX_SERVICE",
    "CredentialStore",
    "FileStore",
    "KeyringStore",
    "MemoryStore",
    "RegistrationStore",
    "account_key",
    "credentials_from_json",
    "credentials_to_json",
    "default_home",
    "default_store",
    "registrations_of",
    "shared_store",
]

_log = logging.getLogger("mcpsync")

T = TypeVar("T")

#: The service under which Codex keeps its own entries in the keyring.
CODEX_SERVICE = "Codex MCP Credentials"

#: Windows' credential manager takes 1,280 characters.
_CHUNK_ABOVE = 1200 if sys.platform == "win32" else None

#: Modules whose backends keep secrets encrypted, and whose prompts are a desktop's.
_KEYRINGS = frozenset(
    "keyring.backends." + name
    for name in ("SecretService", "kwallet", "libsecret", "macOS", "Windows")
)


class MemoryStore(Store, Enrolled):
    """Keeps credentials as long as the process lives.

    For any number of threads. The child of a fork has a copy of its own.
    """

    def __init__(self) -> None:
        # Both are changed in single steps only: no lock that a fork could find taken.
        self._contents: Dict[str, Any] = {}
        self._locks: Dict[str, threading.Lock] = {}
        enrol(self)

    def after_fork_in_child(self) -> None:
        """Forget what is the parent's: locks, and tokens that can be spent once."""
        self._locks = {}
        self._contents = {
            account: _without_refresh_token(content)
            for account, content in self._contents.items()
        }

    @contextmanager
    def lock(
        self, server_name: str, server_url: str, timeout: float = LOCK_TIMEOUT
    ) -> Iterator[None]:
        """Keep other threads from refreshing the same credentials. Not reentrant.

        Raises:
            CredentialLockTimeout: another thread had the lock for `timeout` seconds.
        """
        account = account_key(server_name, server_url)
        # Guards the credentials of one server. Held over a token request: that one is
        # made once is what it is for. Taken by whoever refreshes them.
        lock = self._locks.setdefault(account, threading.Lock())
        if not _acquire(lock, timeout):
            raise CredentialLockTimeout(
                "another thread has held the credentials of server %s for %g s"
                % (clean(server_name), timeout)
            )
        try:
            yield
        finally:
            lock.release()

    def _read(self, slot: Slot[T]) -> Optional[T]:
        found: Optional[T] = self._contents.get(slot.account)
        return found

    def _write(self, slot: Slot[T], content: T) -> None:
        self._contents[slot.account] = content

    def _remove(self, slot: Slot[Any]) -> bool:
        return self._contents.pop(slot.account, None) is not None


def _without_refresh_token(content: Any) -> Any:
    if not isinstance(content, Credentials):
        return content
    return replace(content, token=replace(content.token, refresh_token=None))


def _acquire(lock: threading.Lock, timeout: float) -> bool:
    """Take a lock in bounded time; Ctrl-C ends the wait on every platform."""
    longest = 0.5 if sys.platform == "win32" else threading.TIMEOUT_MAX
    end = time.monotonic() + timeout
    while True:
        remaining = max(0.0, end - time.monotonic())
        if lock.acquire(timeout=min(remaining, longest)):
            return True
        if time.monotonic() >= end:
            return False


class KeyringStore(Store):
    """Keeps credentials in the platform's keyring.

    For any number of threads and processes. The keyring is asked on a thread of its
    own; one that does not answer in time, or is locked, is not asked again by this
    process, which is said once, as a warning. Locks are files, in the home directory.

    Args:
        service: what all entries have in common. With :data:`CODEX_SERVICE` and Codex's
            directory as `home`, entries and locks are shared with Codex.
        allow_backend: the full name of a backend to use although it is not known to
            keep secrets safely, such as ``keyrings.alt.file.EncryptedKeyring``.
        timeout: seconds that one operation may take. Give more where a person is
            there to unlock the keyring.
        home: the directory for locks; by default ``$MCPSYNC_HOME`` or ``~/.mcpsync``.
        backend: to use instead of the platform's; taken as it is.
        chunk_above: characters above which a value is kept in several entries; by
            default 1,200 on Windows, and no limit elsewhere.
    """

    def __init__(
        self,
        *,
        service: str = "mcpsync",
        allow_backend: Optional[str] = None,
        timeout: float = 5.0,
        home: Optional[Path] = None,
        backend: Optional["KeyringBackend"] = None,
        chunk_above: Optional[int] = None,
    ) -> None:
        self._service = service
        self._patience = WRITE_PATIENCE + timeout
        self._locks = LockFiles.at(os.path.abspath(home or default_home()))
        self._vault = Vault(
            lambda: _open_backend(backend, allow_backend),
            service,
            process_worker if backend is None else Worker(),
            timeout,
            _CHUNK_ABOVE if chunk_above is None else chunk_above,
        )

    @property
    def service(self) -> str:
        """What all entries have in common."""
        return self._service

    @property
    def name(self) -> str:
        """What to call it in a message; the backend's name, once that is known."""
        return "the keyring (%s)" % self._vault.name

    def check(self) -> None:
        """Look whether there is a keyring backend that may be used.

        Raises:
            CredentialStoreError: there is none; the message says why.
        """
        self._vault.open()

    def lock(
        self, server_name: str, server_url: str, timeout: float = LOCK_TIMEOUT
    ) -> ContextManager[None]:
        """Keep other threads and processes from refreshing the same credentials.

        Not reentrant; see :meth:`CredentialStore.lock`.
        """
        account = account_key(server_name, server_url)
        return locked(self._locks.of_account(account), timeout)

    def _read(self, slot: Slot[T]) -> Optional[T]:
        try:
            text = self._vault.get(slot.account)
            return None if text is None else slot.from_keyring(text)
        except Damaged as damage:
            reason = str(damage)
        raise CredentialStoreError(
            "the entry of the %s in the keyring (service %s) is damaged: %s; %s"
            % (slot.title, clean(self._service), reason, slot.remedy)
        )

    def _write(self, slot: Slot[T], content: T) -> None:
        wanted = slot.from_keyring(slot.to_keyring(content, None))

        def change(before: Optional[str]) -> Optional[str]:
            try:
                if before is not None and slot.from_keyring(before) == wanted:
                    return None
            except Damaged:
                before = None
            return slot.to_keyring(content, before)

        with locked(self._locks.of_store("keyring"), self._patience):
            self._vault.update(slot.account, change)

    def _remove(self, slot: Slot[Any]) -> bool:
        with locked(self._locks.of_store("keyring"), self._patience):
            return self._vault.delete(slot.account)


def _open_backend(given: Optional["KeyringBackend"], allowed: Optional[str]) -> Opened:
    """Return the backend to use, or raise `Refused`."""
    import keyring
    from keyring import errors

    backend = given or _choose(keyring.get_keyring(), allowed)
    return Opened(
        backend,
        _name_of(backend),
        absent=(errors.PasswordDeleteError,),
        unusable=(errors.KeyringLocked, errors.InitError, errors.NoKeyringError),
        foreseen=(errors.KeyringError,),
    )


def _choose(backend: "KeyringBackend", allowed: Optional[str]) -> "KeyringBackend":
    """Return the first safe backend of a chain, or of one."""
    # A chain claims the best priority, whatever it consists of.
    parts: List["KeyringBackend"] = getattr(backend, "backends", None) or [backend]
    for part in parts:
        if _name_of(part) == allowed:
            return part
        if type(part).__module__ in _KEYRINGS and part.priority >= 1:
            return part
    names = ", ".join(_name_of(part) for part in parts)
    if names == "keyring.backends.fail.Keyring":
        raise Refused("there is none on this machine, or in this session")
    if names == "keyring.backends.null.Keyring":
        raise Refused("it is switched off (%s)" % names)
    raise Refused(
        "%s is not known to keep secrets safely; `allow_backend` would allow it" % names
    )


def _name_of(backend: object) -> str:
    return "%s.%s" % (type(backend).__module__, type(backend).__qualname__)


_Place = Union[FileStore, KeyringStore]


class AutoStore(Store):
    """Keeps credentials in the keyring, or in a private file where there is none.

    What is there already stays where it is: it is looked for in the keyring if the
    index says so, a file without secrets beside the credentials file, and otherwise in
    the credentials file. What is new goes to the keyring, and if that cannot be used,
    to the file; which one was taken is said once, and it stays so. A failure never
    moves credentials that were read from one of them to the other.

    For any number of threads and processes.

    Args:
        path: of the credentials file; see :class:`FileStore`.
        service: of the keyring.
        allow_backend: see :class:`KeyringStore`.
        timeout: seconds that an operation of the keyring may take.
        keyring: to use instead of one with these options.
    """

    def __init__(
        self,
        path: Optional[Path] = None,
        *,
        service: str = "mcpsync",
        allow_backend: Optional[str] = None,
        timeout: float = 5.0,
        keyring: Optional[KeyringStore] = None,
    ) -> None:
        self._file = FileStore(path)
        home = os.path.dirname(self._file.path)
        self._keyring = keyring or KeyringStore(
            service=service, allow_backend=allow_backend, timeout=timeout, home=home
        )
        self._index = Index(
            PrivateFile(
                os.path.join(home, INDEX), "index of credentials", path is None
            ),
            self._keyring.service,
            LockFiles.at(home).of_store("index"),
            WRITE_PATIENCE,
        )
        # All three are changed in single steps only: no lock that a fork could find
        # taken. Two threads that decide at once come to the same decision.
        self._pins: Dict[str, _Place] = {}
        self._fallen_back = False
        self._said: Dict[_Place, object] = {}

    @property
    def path(self) -> str:
        """The absolute path of the credentials file."""
        return self._file.path

    def lock(
        self, server_name: str, server_url: str, timeout: float = LOCK_TIMEOUT
    ) -> ContextManager[None]:
        """Keep other threads and processes from refreshing the same credentials.

        Not reentrant; see :meth:`CredentialStore.lock`.
        """
        return self._file.lock(server_name, server_url, timeout)

    def search(self, server_name: str, server_url: str) -> Optional[Credentials]:
        """Return a server's credentials, also those that only the keyring knows of.

        For a server that has asked for credentials; :meth:`load` asks the keyring only
        for servers in the index, and finds nothing when the keyring fails.

        Raises:
            CredentialStoreError: there are some, but they cannot be read.
        """
        slot = CredentialsSlot(server_name, server_url)
        found = self._read(slot)
        state = self._index.state(slot.account)
        if found is not None or state == STALE:
            return found
        try:
            found = self._keyring._read(slot)
        except KeyringUnavailable:
            if state == KEPT:
                raise
        if found is None:
            return None
        self._index.note(slot.account, KEPT)
        return self._found(slot, self._keyring, found)

    def migrate(self) -> int:
        """Move everything from the file to the keyring; return how many entries.

        Entries that are damaged stay where they are, with a warning.

        Raises:
            CredentialStoreError: the keyring cannot be used; the rest is in the file.
        """
        moved = 0
        for slot in self._file.slots():
            try:
                moved += self._move(slot)
            except KeyringUnavailable:
                raise
            except CredentialStoreError as error:
                _log.warning("%s", error)
        return moved

    def _move(self, slot: Slot[Any]) -> bool:
        with self._file.lock_of(slot.account, LOCK_TIMEOUT):
            content = self._file._read(slot)
            if content is None:
                return False
            self._write_to_keyring(slot, content)
        return True

    def _read(self, slot: Slot[T]) -> Optional[T]:
        pin = self._pins.get(slot.account)
        if pin is not None:
            found = pin._read(slot)
            if found is not None:
                return found
        # Not there, or not there any more: another process may have moved it.
        if self._index.state(slot.account) == KEPT and pin is not self._keyring:
            found = self._read_from_keyring(slot)
            if found is not None:
                return self._found(slot, self._keyring, found)
        found = self._file._read(slot)
        return None if found is None else self._found(slot, self._file, found)

    def _read_from_keyring(self, slot: Slot[T]) -> Optional[T]:
        """Return what the keyring has; nothing if it fails, which is said."""
        try:
            return self._keyring._read(slot)
        except KeyringUnavailable:
            # The keyring has said so itself.
            return None
        except CredentialStoreError as error:
            _log.warning("%s", error)
            return None

    def _found(self, slot: Slot[Any], store: _Place, content: T) -> T:
        self._pin(slot, store)
        return content

    def _write(self, slot: Slot[T], content: T) -> None:
        pin = self._pins.get(slot.account)
        if pin is self._file or (pin is None and self._fallen_back):
            self._write_to_file(slot, content)
            return
        try:
            self._write_to_keyring(slot, content)
        except KeyringUnavailable:
            if pin is not None:
                raise
            self._write_to_file(slot, content)
            self._fallen_back = True

    def _write_to_keyring(self, slot: Slot[T], content: T) -> None:
        self._keyring.check()
        # First the index: secrets that it does not know of would never be deleted.
        before = self._index.state(slot.account)
        self._index.note(slot.account, KEPT)
        try:
            self._keyring._write(slot, content)
        except KeyringUnavailable as failure:
            if before != KEPT:
                # It may yet be written, too late.
                self._index.note(slot.account, STALE if failure.uncertain else before)
            raise
        self._pin(slot, self._keyring)
        try:
            self._file._remove(slot)
        except CredentialStoreError as error:
            _log.warning("an older copy of credentials remains: %s", error)

    def _write_to_file(self, slot: Slot[T], content: T) -> None:
        if self._index.state(slot.account) == KEPT:
            self._index.note(slot.account, STALE)
        self._file._write(slot, content)
        self._pin(slot, self._file)

    def _remove(self, slot: Slot[Any]) -> bool:
        self._pins.pop(slot.account, None)
        removed = False
        failures: List[CredentialStoreError] = []
        for remove in (self._file._remove, self._remove_from_keyring):
            try:
                removed = remove(slot) or removed
            except CredentialStoreError as error:
                failures.append(error)
        if failures:
            raise failures[0]
        return removed

    def _remove_from_keyring(self, slot: Slot[Any]) -> bool:
        state = self._index.state(slot.account)
        if state is None:
            return False
        try:
            removed = self._keyring._remove(slot)
        except KeyringUnavailable as error:
            if state == KEPT:
                raise
            _log.warning("an outdated copy of credentials may remain: %s", error)
            return False
        self._index.note(slot.account, None)
        return removed

    def _pin(self, slot: Slot[Any], store: _Place) -> None:
        """Stay with a store, and say so the first time."""
        self._pins[slot.account] = store
        first = object()
        if self._said.setdefault(store, first) is first:
            _log.info("credentials are kept in %s", store.name)


_KINDS: Dict[str, Callable[[], CredentialStore]] = {
    "auto": AutoStore,
    "file": FileStore,
    "keyring": KeyringStore,
}

_shared: Dict[Tuple[str, str], CredentialStore] = {}


def shared_store(kind: str = "auto") -> CredentialStore:
    """Return the store of this user, which the whole process shares.

    It is in ``$MCPSYNC_HOME``, or ``~/.mcpsync``; nothing is made there before
    something is saved.

    Args:
        kind: ``"auto"``, ``"file"``, ``"keyring"``; or ``"memory"``, which is a new
            one each time.

    Raises:
        ConfigError: there is no such kind.
    """
    if kind == "memory":
        return MemoryStore()
    make = _KINDS.get(kind)
    if make is None:
        raise ConfigError(
            "store must be one of %s and memory, or a store, not %s"
            % (", ".join(_KINDS), clean(repr(kind), 80))
        )
    key = (kind, default_home())
    # Of two threads that come at once, both get the same one.
    return _shared.get(key) or _shared.setdefault(key, make())


def default_store() -> AutoStore:
    """Return the one that the whole process shares: keyring, or else a file."""
    store = shared_store()
    assert isinstance(store, AutoStore)
    return store


def registrations_of(store: CredentialStore) -> RegistrationStore:
    """Return where registrations go that belong to the credentials of a store.

    That is the store itself, if it can keep them, or else a new :class:`MemoryStore`.
    """
    return store if isinstance(store, RegistrationStore) else MemoryStore()
