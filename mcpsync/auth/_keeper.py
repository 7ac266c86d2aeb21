"""One server's place in a store, as all clients of this process share it.

What an authorization server has rotated cannot be had again. So what could not be
saved is still used, by every client, and saved with the next change; and how a store
fails does not matter, because it may be anybody's.
"""

from __future__ import annotations

import contextlib
import logging
import time
import weakref
from typing import Iterator, NamedTuple, Optional, Tuple

from .._lifecycle import Enrolled, enrol
from ..exceptions import (
    CredentialLockTimeout,
    CredentialStoreError,
    MCPError,
    TokenError,
)
from ._records import ClientRecord, Credentials
from .flight import twin_of
from .stores import AutoStore, CredentialStore, RegistrationStore

__all__ = ["Keeper", "Registrations", "keeper_of"]

_log = logging.getLogger("mcpsync.auth")

#: Most seconds for which a token endpoint is left alone because it said so.
_LONGEST_PAUSE = 300.0


class _Unsaved(NamedTuple):
    """Credentials that could not be saved, and what the store has in their place."""

    credentials: Credentials
    replaces: Optional[Credentials]


class Keeper(Enrolled):
    """Reads and saves the credentials of one server.

    Any thread may read; everything else is for the one that holds the lock.
    """

    def __init__(self, store: CredentialStore, name: str, url: str) -> None:
        self._store = store
        self._name = name
        self._url = url
        self._seen: Optional[Credentials] = None
        self._unsaved: Optional[_Unsaved] = None
        self._busy: Optional[Tuple[float, MCPError]] = None
        enrol(self)

    def after_fork_in_child(self) -> None:
        # The parent has it as well, and a refresh token can be spent once.
        self._unsaved = None

    @contextlib.contextmanager
    def locked(self, needed: bool = True) -> Iterator[None]:
        """Keep other threads and processes from refreshing the same credentials.

        Args:
            needed: whether there is anything to protect; if not, a store that cannot
                be locked, such as a directory that cannot be written to, will do.

        Raises:
            CredentialStoreError: it cannot be locked.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(self._store.lock(self._name, self._url))
            except CredentialLockTimeout:
                raise
            except CredentialStoreError as error:
                if needed:
                    raise
                _log.warning("the first login goes on without a lock: %s", error)
            yield

    def read(self, search: bool = False) -> Optional[Credentials]:
        """Return what is stored.

        Args:
            search: whether to ask a keyring as well that is not known to have any;
                only after a refusal is that worth its time.

        Raises:
            CredentialStoreError: it cannot be read.
        """
        if search and isinstance(self._store, AutoStore):
            return self._store.search(self._name, self._url)
        return self._store.load(self._name, self._url)

    def reread(self, search: bool = False) -> Optional[Credentials]:
        """Return the newest there is, and save it now if that could not be done before.

        Raises:
            CredentialStoreError: it cannot be read.
        """
        unsaved = self._unsaved
        try:
            self._seen = self.read(search)
        except CredentialStoreError:
            if unsaved is None:
                raise
            self._seen = unsaved.replaces
        if unsaved is not None and self._seen == unsaved.replaces:
            self.save(unsaved.credentials)
            return unsaved.credentials
        # Whoever logged in or out since has the last word.
        self._unsaved = None
        return self._seen

    def save(self, credentials: Credentials) -> None:
        """Keep credentials; where that fails they are still good for this process."""
        try:
            self._store.save(credentials)
            self._unsaved = None
        except Exception as error:
            self.note_unsaved(credentials, error)

    def note_unsaved(self, credentials: Credentials, error: Exception) -> None:
        """Remember credentials that are not in the store, though they should be."""
        replaces = self._seen
        with contextlib.suppress(Exception):
            replaces = self.read()
        self._unsaved = _Unsaved(credentials, replaces)
        ours = isinstance(error, CredentialStoreError)
        _log.error(
            "the new credentials of server %s could not be saved, and a login will be "
            "needed when this process ends: %s",
            self._name,
            # What others raise may show what was to be saved.
            error if ours else type(error).__name__,
        )

    def forget(self, refused: Credentials) -> None:
        """Delete stored credentials, if they are still those that were refused."""
        stored = self.read()
        if stored is not None and stored.token == refused.token:
            self._store.delete(self._name, self._url)
        self._unsaved = None

    def delete(self) -> bool:
        """Delete whatever is stored; ``False`` if nothing was."""
        self._unsaved = None
        return self._store.delete(self._name, self._url)

    # --- a token endpoint that wants to be left alone -------------------------

    def check_pause(self) -> None:
        """Raise what the token endpoint said, if it wants to be left alone by now."""
        busy = self._busy
        if busy is None:
            return
        until, error = busy
        if time.monotonic() < until:
            raise twin_of(error)
        self._busy = None

    def note_pause(self, error: TokenError) -> None:
        """Remember how long a token endpoint wants to be left alone."""
        if error.retryable and error.retry_after is not None:
            seconds = min(error.retry_after, _LONGEST_PAUSE)
            # A copy: the traceback of this one would keep alive whatever it refers to.
            self._busy = (time.monotonic() + seconds, twin_of(error))


class Registrations:
    """Registrations of this client. One that cannot be kept, or read, is a new one.

    For any number of threads, if the store is.
    """

    def __init__(self, store: RegistrationStore) -> None:
        self._store = store

    def load_registration(
        self, issuer: str, redirect_uri: Optional[str] = None
    ) -> Optional[ClientRecord]:
        """Return the registration with an issuer, if it is of use."""
        with _forgiving("read"):
            return self._store.load_registration(issuer, redirect_uri)
        return None

    def save_registration(self, record: ClientRecord) -> None:
        """Keep a registration for the next login; it is good for this one anyway."""
        with _forgiving("saved"):
            self._store.save_registration(record)

    def drop_registration(self, issuer: str) -> bool:
        """Forget a registration; ``False`` if there was none."""
        with _forgiving("dropped"):
            return self._store.drop_registration(issuer)
        return False


@contextlib.contextmanager
def _forgiving(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        # As texts: a log that keeps the exception would keep its frames as well.
        ours = isinstance(error, CredentialStoreError)
        reason = str(error) if ours else type(error).__name__
        _log.warning("the registration could not be %s: %s", what, reason)


_keepers: "weakref.WeakValueDictionary[Tuple[int, str, str], Keeper]"
_keepers = weakref.WeakValueDictionary()


def keeper_of(store: CredentialStore, name: str, url: str) -> Keeper:
    """Return the keeper of a server's place in a store, the same one for all."""
    key = (id(store), name, url)
    # Of two threads that come at once, both get the same one.
    return _keepers.get(key) or _keepers.setdefault(key, Keeper(store, name, url))
