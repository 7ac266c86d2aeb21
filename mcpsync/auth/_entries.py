"""What is stored, and how: one format for files and one for keyrings, both Codex's.

An entry is addressed by the server's name and URL, both exactly as configured, and
carries the issuer that it is bound to. Keys that another program, or a newer version,
has put into an entry stay in it.
"""

from __future__ import annotations

import hashlib
import json
import math
from typing import (
    Any,
    Callable,
    Dict,
    FrozenSet,
    Generic,
    Iterable,
    Mapping,
    Optional,
    Tuple,
    TypeVar,
)

from .._text import clean
from ._document import Damaged, parse_value, write_value
from ._records import ClientRecord, Credentials, Token

__all__ = [
    "CredentialsSlot",
    "REGISTRATION",
    "RegistrationSlot",
    "Slot",
    "account_key",
    "credentials_slot",
]

JSON = Any
Values = Mapping[str, JSON]
T = TypeVar("T")

#: The server name of entries that are registrations with an authorization server.
REGISTRATION = "mcpsync-registration"

#: No moment beyond this is meant: integers above it are not exact in JSON.
_LATEST = 2**53

_OF_A_FILE = frozenset(
    {
        "server_name",
        "server_url",
        "client_id",
        "access_token",
        "expires_at",
        "refresh_token",
        "scopes",
    }
)
_OF_A_KEYRING = frozenset(
    {"server_name", "url", "client_id", "token_response", "expires_at"}
)
_OF_A_TOKEN_RESPONSE = frozenset(
    {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
)
_OURS = frozenset(
    {
        "issuer",
        "resource",
        "token_endpoint",
        "requested_scopes",
        "token_type",
        "dpop_key",
        "client_secret",
        "client_auth_method",
        "client_redirect_uris",
        "client_secret_expires_at",
        "client_kind",
        "client_issuer",
    }
)


def account_key(server_name: str, server_url: str) -> str:
    """Return the name of an account: the server's, and a hash of its URL.

    The URL is taken as it is: another spelling is another account.
    """
    url = json.dumps(server_url, ensure_ascii=False)
    payload = '{"type":"http","url":%s,"headers":{}}' % url
    digest = hashlib.sha256(payload.encode("utf-8", "surrogatepass"))
    return "%s|%s" % (server_name, digest.hexdigest()[:16])


class Slot(Generic[T]):
    """A place for one thing in a store; how it is written there.

    Attributes:
        account: the key in a file, and the user name in a keyring.
        title: what it is, in a message.
    """

    account: str
    title: str

    def matches(self, value: JSON) -> bool:
        """Tell whether an entry of a file is this one, whatever its key."""
        raise TypeError("a slot is one of its subclasses")

    def from_file(self, value: Values) -> T:
        """Return what an entry of a file means, or raise :class:`Damaged`."""
        raise TypeError("a slot is one of its subclasses")

    def to_file(self, content: T, previous: Optional[Values]) -> Values:
        """Return the entry; unknown keys of the previous one stay."""
        raise TypeError("a slot is one of its subclasses")

    def from_keyring(self, text: str) -> Optional[T]:
        """Return what a keyring keeps; ``None`` if that is for somebody else."""
        raise TypeError("a slot is one of its subclasses")

    def to_keyring(self, content: T, previous: Optional[str]) -> str:
        """Return the text for a keyring; unknown keys of the previous one stay."""
        raise TypeError("a slot is one of its subclasses")
