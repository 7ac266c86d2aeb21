"""What is stored, and how: one form for files and one for keyrings, both Codex's.

An entry is addressed by the server's name and URL, both exactly as configured, and
carries the issuer that it is bound to. Keys that another program, or a newer version,
has put into an entry stay in it.
"""

from __future__ import annotations

import hashlib
import json
import math
from abc import ABC, abstractmethod
from typing import Any, Dict, FrozenSet, Generic, Mapping, Optional, Tuple, TypeVar

from .._text import clean
from ..exceptions import CredentialStoreError
from ._document import Damaged, parse_value, write_value
from ._records import ClientRecord, Credentials, Token

__all__ = [
    "CredentialsSlot",
    "RegistrationSlot",
    "Slot",
    "account_key",
    "credentials_from_json",
    "credentials_to_json",
    "sha256",
    "slot_of",
]

JSON = Any
Values = Mapping[str, JSON]
T = TypeVar("T")

#: Integers beyond this are not exact in JSON, and no moment that anybody means.
_LATEST = 2**53

_TOKEN_RESPONSE = "token_response"
_IN_A_FILE = frozenset(
    {
        "server_name",
        "server_url",
        "client_id",
        "access_token",
        "expires_at",
        "refresh_token",
        "scopes",
        "token_type",
    }
)
_IN_A_KEYRING = frozenset(
    {"server_name", "url", "client_id", _TOKEN_RESPONSE, "expires_at"}
)
_IN_A_TOKEN_RESPONSE = frozenset(
    {"access_token", "token_type", "expires_in", "refresh_token", "scope"}
)
_IN_BOTH = frozenset(
    {
        "issuer",
        "resource",
        "token_endpoint",
        "requested_scopes",
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
    """Return the name of a server's account: its own name and a hash of its URL.

    The URL is taken as it is: another spelling is another account.
    """
    url = json.dumps(server_url, ensure_ascii=False)
    payload = '{"type":"http","url":%s,"headers":{}}' % url
    return "%s|%s" % (server_name, sha256(payload)[:16])


def sha256(text: str) -> str:
    """Return the SHA-256 of a text in UTF-8, in hexadecimal."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Slot(ABC, Generic[T]):
    """The place of one thing in a store, and how it is written there.

    Attributes:
        account: its key in a file, its user name in a keyring.
        title: what to call it in a message.
        remedy: what to do when it is damaged.
    """

    account: str
    title: str
    remedy: str

    @abstractmethod
    def matches(self, value: JSON) -> bool:
        """Tell whether an entry of a file is this one, whatever its key."""

    @abstractmethod
    def from_file(self, value: Values) -> T:
        """Return what an entry means, or raise :class:`Damaged`."""

    @abstractmethod
    def to_file(self, content: T, previous: Values) -> Values:
        """Return an entry in which what is unknown of the previous one stays."""

    @abstractmethod
    def from_keyring(self, text: str) -> Optional[T]:
        """Return what a keyring keeps here; ``None`` when that is for another place."""

    @abstractmethod
    def to_keyring(self, content: T, previous: Optional[str]) -> str:
        """Return a text in which what is unknown of the previous one stays."""


class CredentialsSlot(Slot[Credentials]):
    """The place of one server's credentials."""

    def __init__(self, server_name: str, server_url: str) -> None:
        self._server = (server_name, server_url)
        self.account = account_key(server_name, server_url)
        self.title = "server %s" % clean(server_name)
        self.remedy = "log in again"

    def matches(self, value: JSON) -> bool:
        """Compare name and URL: the key in the map may be anything."""
        if not isinstance(value, dict) or _is_registration(value):
            return False
        return (value.get("server_name"), value.get("server_url")) == self._server

    def from_file(self, value: Values) -> Credentials:
        """Read an entry as Codex writes it, with or without keys of ours."""
        token = Token(
            access_token=_required(value, "access_token"),
            token_type=_token_type(value),
            expires_at=_seconds(value, "expires_at", per_second=1000),
            refresh_token=_text(value, "refresh_token"),
            scope=_names(value, "scopes") or None,
        )
        raw = _without(value, _IN_A_FILE | _IN_BOTH)
        return self._credentials(value, token, raw)

    def to_file(self, content: Credentials, previous: Values) -> Values:
        """Write an entry that Codex can read."""
        token = content.token
        entry: Dict[str, JSON] = {
            "server_name": content.server_name,
            "server_url": content.server_url,
            "client_id": content.client.client_id,
            "access_token": token.access_token,
            "expires_at": _milliseconds(token.expires_at),
            "refresh_token": token.refresh_token,
            "scopes": list(token.scope or ()),
        }
        if token.token_type != "Bearer":
            entry["token_type"] = token.token_type
        entry = {key: value for key, value in entry.items() if value is not None}
        entry.update(_ours(content))
        known = _IN_A_FILE | _IN_BOTH
        return {**entry, **_without(previous, known), **_without(content.raw, known)}

    def from_keyring(self, text: str) -> Optional[Credentials]:
        """Read what Codex keeps in a keyring, with or without keys of ours."""
        value = parse_value(text)
        if not isinstance(value, dict):
            raise Damaged("it is not a JSON object")
        if (value.get("server_name"), value.get("url")) != self._server:
            return None
        response = value.get(_TOKEN_RESPONSE)
        if not isinstance(response, dict):
            raise Damaged("token_response is not an object")
        scope = _text(response, "scope")
        token = Token(
            access_token=_required(response, "access_token"),
            token_type=_token_type(response),
            expires_at=_seconds(value, "expires_at", per_second=1000),
            refresh_token=_text(response, "refresh_token"),
            scope=tuple(scope.split()) if scope else None,
        )
        raw = _without(value, _IN_A_KEYRING | _IN_BOTH)
        extras = _without(response, _IN_A_TOKEN_RESPONSE)
        if extras:
            raw[_TOKEN_RESPONSE] = extras
        return self._credentials(value, token, raw)

    def to_keyring(self, content: Credentials, previous: Optional[str]) -> str:
        """Write what Codex can read from a keyring."""
        unknown = {**self._unknown_of(previous), **content.raw}
        token = content.token
        response = {
            "access_token": token.access_token,
            "token_type": _lower_bearer(token.token_type),
            "refresh_token": token.refresh_token,
            "scope": " ".join(token.scope) if token.scope else None,
        }
        response = {key: value for key, value in response.items() if value is not None}
        extras = unknown.get(_TOKEN_RESPONSE)
        if isinstance(extras, dict):
            response.update(_without(extras, _IN_A_TOKEN_RESPONSE))
        value = {
            "server_name": content.server_name,
            "url": content.server_url,
            "client_id": content.client.client_id,
            _TOKEN_RESPONSE: response,
            "expires_at": _milliseconds(token.expires_at),
            **_ours(content),
            **_without(unknown, _IN_A_KEYRING | _IN_BOTH),
        }
        return write_value(value)

    def _unknown_of(self, previous: Optional[str]) -> Values:
        if previous is None:
            return {}
        read = self.from_keyring(previous)
        return read.raw if read is not None else {}

    def _credentials(
        self, value: Values, token: Token, raw: Dict[str, JSON]
    ) -> Credentials:
        return Credentials(
            *self._server,
            client=ClientRecord(
                client_id=_required(value, "client_id"),
                client_secret=_text(value, "client_secret"),
                auth_method=_text(value, "client_auth_method"),
                redirect_uris=_names(value, "client_redirect_uris"),
                secret_expires_at=_seconds(value, "client_secret_expires_at"),
                kind=_text(value, "client_kind") or "dcr",
                issuer=_text(value, "client_issuer"),
            ),
            token=token,
            issuer=_text(value, "issuer"),
            resource=_text(value, "resource"),
            token_endpoint=_text(value, "token_endpoint"),
            requested_scopes=_names(value, "requested_scopes"),
            dpop_key=_object(value, "dpop_key"),
            raw=raw,
        )


class RegistrationSlot(Slot[ClientRecord]):
    """The place of this client's registration with one authorization server.

    In a file it has the shape of credentials without a token, of a server that nobody
    has configured: Codex refuses a whole file in which one entry looks otherwise.
    """

    _NAME = "mcpsync-registration"

    def __init__(self, issuer: str) -> None:
        self._issuer = issuer
        self.account = "%s|%s" % (self._NAME, sha256(issuer)[:16])
        self.title = "registration with %s" % clean(issuer)
        self.remedy = "register again"

    def matches(self, value: JSON) -> bool:
        """Compare the issuer, as a raw string."""
        return (
            isinstance(value, dict)
            and _is_registration(value)
            and value.get("server_url") == self._issuer
        )

    def from_file(self, value: Values) -> ClientRecord:
        """Read what :meth:`to_file` has written."""
        details = _object(value, "registration") or {}
        return ClientRecord(
            client_id=_required(value, "client_id"),
            client_secret=_text(details, "client_secret"),
            auth_method=_text(details, "auth_method"),
            redirect_uris=_names(details, "redirect_uris"),
            secret_expires_at=_seconds(details, "secret_expires_at"),
            kind=_text(details, "kind") or "dcr",
            issuer=self._issuer,
            scopes=_names(details, "scopes") if "scopes" in details else None,
        )

    def to_file(self, content: ClientRecord, previous: Values) -> Values:
        """Write all that there is to know about the client."""
        details = {
            "client_secret": content.client_secret,
            "auth_method": content.auth_method,
            "redirect_uris": list(content.redirect_uris),
            "secret_expires_at": content.secret_expires_at,
            "kind": content.kind,
            "scopes": None if content.scopes is None else list(content.scopes),
        }
        return {
            **previous,
            "server_name": self._NAME,
            "server_url": self._issuer,
            "client_id": content.client_id,
            "access_token": "",
            "scopes": [],
            "registration": {k: v for k, v in details.items() if v is not None},
        }

    def from_keyring(self, text: str) -> Optional[ClientRecord]:
        """Read the same object as in a file."""
        value = parse_value(text)
        return self.from_file(value) if self.matches(value) else None

    def to_keyring(self, content: ClientRecord, previous: Optional[str]) -> str:
        """Write the same object as in a file."""
        return write_value(self.to_file(content, {}))


def slot_of(value: JSON) -> Optional[Slot[Any]]:
    """Return the slot that an entry of a file belongs to; ``None`` if it has none."""
    if not isinstance(value, dict):
        return None
    name, url = value.get("server_name"), value.get("server_url")
    if not isinstance(name, str) or not isinstance(url, str):
        return None
    return (
        RegistrationSlot(url) if _is_registration(value) else CredentialsSlot(name, url)
    )


def credentials_to_json(credentials: Credentials) -> Dict[str, JSON]:
    """Return credentials as a JSON object, secrets included, to keep in a safe place.

    It is the form of an entry of ``.credentials.json``.
    """
    slot = CredentialsSlot(credentials.server_name, credentials.server_url)
    return dict(slot.to_file(credentials, {}))


def credentials_from_json(value: Mapping[str, JSON]) -> Credentials:
    """Return what :func:`credentials_to_json` was given.

    Raises:
        CredentialStoreError: it is something else.
    """
    try:
        name, url = _required(value, "server_name"), _required(value, "server_url")
        return CredentialsSlot(name, url).from_file(value)
    except Damaged as damage:
        reason = str(damage)
    raise CredentialStoreError("stored credentials are damaged: %s" % reason)


def _is_registration(value: Values) -> bool:
    return "registration" in value


def _ours(content: Credentials) -> Dict[str, JSON]:
    """Return what Codex does not keep, as far as there is something to say."""
    client = content.client
    values = {
        "issuer": content.issuer,
        "resource": content.resource,
        "token_endpoint": content.token_endpoint,
        "requested_scopes": list(content.requested_scopes),
        "dpop_key": dict(content.dpop_key) if content.dpop_key else None,
        "client_secret": client.client_secret,
        "client_auth_method": client.auth_method,
        "client_redirect_uris": list(client.redirect_uris),
        "client_secret_expires_at": client.secret_expires_at,
        "client_kind": client.kind if client.kind != "dcr" else None,
        "client_issuer": client.issuer,
    }
    return {key: value for key, value in values.items() if value not in (None, [])}


def _without(values: Values, known: FrozenSet[str]) -> Dict[str, JSON]:
    return {key: value for key, value in values.items() if key not in known}


def _required(values: Values, key: str) -> str:
    value = values.get(key)
    if not isinstance(value, str):
        raise Damaged("%s is not a text" % key)
    return value


def _text(values: Values, key: str) -> Optional[str]:
    """Return a text; ``None`` if there is none, or an empty one."""
    value = values.get(key)
    if value is not None and not isinstance(value, str):
        raise Damaged("%s is not a text" % key)
    return value or None


def _names(values: Values, key: str) -> Tuple[str, ...]:
    value = values.get(key)
    if value is None:
        return ()
    if not isinstance(value, list) or not all(isinstance(one, str) for one in value):
        raise Damaged("%s is not a list of texts" % key)
    return tuple(value)


def _object(values: Values, key: str) -> Optional[Values]:
    value = values.get(key)
    if value is not None and not isinstance(value, dict):
        raise Damaged("%s is not an object" % key)
    return value


def _seconds(values: Values, key: str, per_second: int = 1) -> Optional[float]:
    value = values.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise Damaged("%s is not a number" % key)
    # Written so that "not a number" is out of range as well.
    if not -_LATEST <= value <= _LATEST:
        raise Damaged("%s is out of range" % key)
    return value / per_second


def _milliseconds(seconds: Optional[float]) -> Optional[int]:
    if seconds is None or not math.isfinite(seconds):
        return None
    return max(-_LATEST, min(_LATEST, round(seconds * 1000)))


def _token_type(values: Values) -> str:
    kind = _text(values, "token_type") or "Bearer"
    return "Bearer" if kind.lower() == "bearer" else kind


def _lower_bearer(kind: str) -> str:
    return "bearer" if kind.lower() == "bearer" else kind
