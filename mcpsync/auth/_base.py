"""What a store of credentials is, and what the stores here have in common."""

from __future__ import annotations

import os
import time
from abc import ABC, abstractmethod
from typing import (
    Any,
    ContextManager,
    NamedTuple,
    Optional,
    Protocol,
    TypeVar,
    Union,
    runtime_checkable,
)

from ._entries import CredentialsSlot, RegistrationSlot, Slot, sha256
from ._records import ClientRecord, Credentials

__all__ = [
    "CredentialStore",
    "LOCK_TIMEOUT",
    "LockFiles",
    "Path",
    "RegistrationStore",
    "Store",
    "WRITE_PATIENCE",
]

T = TypeVar("T")
Path = Union[str, "os.PathLike[str]"]

#: Seconds to wait for whoever refreshes the same credentials.
LOCK_TIMEOUT = 60.0

#: Seconds to wait for whoever writes to the same store.
WRITE_PATIENCE = 10.0


@runtime_checkable
class CredentialStore(Protocol):
    """What keeps credentials. Must be safe for any number of threads."""

    def load(self, server_name: str, server_url: str) -> Optional[Credentials]:
        """Return the credentials of a server; ``None`` if there are none.

        Raises:
            CredentialStoreError: they cannot be read.
        """

    def save(self, credentials: Credentials) -> None:
        """Keep credentials in the place of what was there; return when that is safe.

        Raises:
            CredentialStoreError: they cannot be kept; what was there still is.
        """

    def delete(self, server_name: str, server_url: str) -> bool:
        """Forget the credentials of a server; ``False`` if there were none.

        Raises:
            CredentialStoreError: they cannot be removed.
        """

    def lock(
        self, server_name: str, server_url: str, timeout: float = LOCK_TIMEOUT
    ) -> ContextManager[None]:
        """Keep other threads and processes from refreshing the same credentials.

        Not reentrant. `timeout` is the number of seconds to wait.

        Raises:
            CredentialLockTimeout: somebody else has the lock.
        """


@runtime_checkable
class RegistrationStore(Protocol):
    """What keeps registrations of this client with authorization servers."""

    def load_registration(
        self, issuer: str, redirect_uri: Optional[str] = None
    ) -> Optional[ClientRecord]:
        """Return the registration with an issuer, as long as it is of use.

        One whose secret has expired is not, nor one without `redirect_uri`, where that
        is given.
        """

    def save_registration(self, record: ClientRecord) -> None:
        """Keep a registration under its issuer, which must be known."""

    def drop_registration(self, issuer: str) -> bool:
        """Forget the registration with an issuer; ``False`` if there was none."""


class Store(ABC):
    """What all stores have in common: they keep things in slots."""

    def load(self, server_name: str, server_url: str) -> Optional[Credentials]:
        """Return the credentials of a server; ``None`` if there are none.

        Raises:
            CredentialStoreError: they cannot be read.
        """
        return self._read(CredentialsSlot(server_name, server_url))

    def save(self, credentials: Credentials) -> None:
        """Keep credentials, unless they are there already.

        Raises:
            CredentialStoreError: they cannot be kept; what was there still is.
        """
        slot = CredentialsSlot(credentials.server_name, credentials.server_url)
        self._write(slot, credentials)

    def delete(self, server_name: str, server_url: str) -> bool:
        """Forget the credentials of a server; ``False`` if there were none.

        Raises:
            CredentialStoreError: they cannot be removed.
        """
        return self._remove(CredentialsSlot(server_name, server_url))

    @abstractmethod
    def lock(
        self, server_name: str, server_url: str, timeout: float = LOCK_TIMEOUT
    ) -> ContextManager[None]:
        """Keep other threads and processes from refreshing the same credentials."""

    def load_registration(
        self, issuer: str, redirect_uri: Optional[str] = None
    ) -> Optional[ClientRecord]:
        """Return the registration with an issuer, as long as it is of use.

        One whose secret has expired is not, nor one without `redirect_uri`, where that
        is given.

        Raises:
            CredentialStoreError: it cannot be read.
        """
        record = self._read(RegistrationSlot(issuer))
        if record is None or _expired(record):
            return None
        if redirect_uri is not None and redirect_uri not in record.redirect_uris:
            return None
        return record

    def save_registration(self, record: ClientRecord) -> None:
        """Keep a registration under its issuer, and under no other.

        Raises:
            CredentialStoreError: it cannot be kept.
            ValueError: its issuer is not known.
        """
        if record.issuer is None:
            raise ValueError("a registration is kept under its issuer: set `issuer`")
        self._write(RegistrationSlot(record.issuer), record)

    def drop_registration(self, issuer: str) -> bool:
        """Forget the registration with an issuer; ``False`` if there was none.

        Raises:
            CredentialStoreError: it cannot be removed.
        """
        return self._remove(RegistrationSlot(issuer))

    @abstractmethod
    def _read(self, slot: Slot[T]) -> Optional[T]:
        """Return what is in a slot."""

    @abstractmethod
    def _write(self, slot: Slot[T], content: T) -> None:
        """Put something into a slot."""

    @abstractmethod
    def _remove(self, slot: Slot[Any]) -> bool:
        """Empty a slot; ``False`` if it is empty."""


def _expired(record: ClientRecord) -> bool:
    moment = record.secret_expires_at
    return moment is not None and moment <= time.time()


class LockFiles(NamedTuple):
    """The lock files of one home; their names are those that Codex gives to its own."""

    directory: str

    @classmethod
    def at(cls, home: str) -> "LockFiles":
        """Return those of a home directory."""
        return cls(os.path.join(home, "mcp-oauth-locks"))

    def of_store(self, kind: str) -> str:
        """Return the path for whoever writes to the file, or to the keyring."""
        return os.path.join(self.directory, kind + "-store.lock")

    def of_account(self, account: str) -> str:
        """Return the path for whoever refreshes the credentials of an account."""
        return os.path.join(self.directory, sha256(account) + ".lock")
