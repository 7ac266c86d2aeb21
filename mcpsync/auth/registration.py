"""Being known to an authorization server: which client to be, and how to become one.

A client is what one issuer knows. It is never shown to another, except the one whose
identifier is a URL of its own, which any server may read.

Specification: 2026-07-28, basic/authorization/client-registration; RFC 7591.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Dict, List, Mapping, Optional, Sequence, Tuple

from .._deadline import Deadline
from .._text import clean
from .._version import __version__
from ..exceptions import (
    ConfigError,
    DiscoveryError,
    IssuerMismatch,
    RegistrationError,
)
from ..types import JSON
from ._records import ClientRecord, ServerMetadata
from ._urls import bare_url, check_url, is_loopback_host, split

if TYPE_CHECKING:
    from ._fetch import Fetcher, FetchResult

__all__ = [
    "check_client_id_url",
    "check_client_metadata",
    "choose_client",
    "client_metadata_document",
    "register",
]

_WHAT = "client registration"

#: How clients whom an authorization server registers may identify themselves here, in
#: the order of our preference. A program on a user's machine keeps no secret.
_METHODS = ("none", "client_secret_basic", "client_secret_post")

#: What RFC 8414 and RFC 7591 mean where nothing is said.
_DEFAULT_METHOD = "client_secret_basic"

#: Seconds since the epoch beyond which a secret may as well last for ever.
_LATEST = 1e12

#: RFC 6749, appendix A: visible characters and spaces.
_VISIBLE = re.compile(r"[\x20-\x7e]{1,4096}")


# --- which client to be -------------------------------------------------------------


def choose_client(
    metadata: ServerMetadata,
    *,
    configured: Optional[ClientRecord] = None,
    hosted: Optional[ClientRecord] = None,
    stored: Optional[ClientRecord] = None,
    redirect_uri: Optional[str] = None,
    scopes: Optional[Sequence[str]] = None,
    now: float = 0.0,
) -> Optional[ClientRecord]:
    """Return the client to be at an authorization server; ``None``: register first.

    A client that was registered by hand comes first, then one with a metadata document
    of its own if the server reads such documents, then one that was registered there
    before, then a new registration.

    Args:
        configured: a client registered by hand; without `issuer` it is bound to this
            one, and the binding is to be kept.
        hosted: a client whose `client_id` is the URL of its metadata document.
        stored: the registration that is kept for this issuer.
        redirect_uri: the one that will be used, if it is known by now.
        scopes: those that will be asked for; many servers let a client ask for nothing
            but what it was registered with.
        now: seconds since the epoch, to see whether a secret has expired.

    Raises:
        IssuerMismatch: the configured client belongs to another issuer.
        RegistrationError: there is no way to be known to this server.
    """
    if configured is not None:
        return _bound(configured, metadata.issuer)
    if hosted is not None and metadata.client_id_metadata_document_supported:
        return hosted
    if stored is not None and _is_usable(stored, metadata.issuer, redirect_uri, now):
        enough = stored.scopes is None or set(scopes or ()) <= set(stored.scopes)
        if enough or metadata.registration_endpoint is None:
            return stored
    if metadata.registration_endpoint is not None:
        return None
    raise RegistrationError(
        "the authorization server %s registers no clients by itself: register one "
        "there, and give its client_id" % clean(metadata.issuer, 200)
    )


def _bound(client: ClientRecord, issuer: str) -> ClientRecord:
    if client.issuer is None:
        return replace(client, issuer=issuer)
    if client.issuer != issuer:
        raise IssuerMismatch(
            "the client %s is registered at %s, but the server wants %s"
            % (
                clean(client.client_id, 100),
                clean(client.issuer, 200),
                clean(issuer, 200),
            )
        )
    return client


def _is_usable(
    client: ClientRecord, issuer: str, redirect_uri: Optional[str], now: float
) -> bool:
    expires = client.secret_expires_at
    return (
        client.issuer == issuer
        and (expires is None or expires > now)
        and (redirect_uri is None or redirect_uri in client.redirect_uris)
    )


# --- registering --------------------------------------------------------------------


def register(
    fetcher: Fetcher,
    metadata: ServerMetadata,
    redirect_uris: Sequence[str],
    scope: Optional[Sequence[str]],
    client_name: str,
    deadline: Deadline,
) -> ClientRecord:
    """Register a new client, and return what to keep of it under its issuer.

    Args:
        redirect_uris: where the server may send a browser back to.
        scope: the scopes that the client will ask for; ``None`` says nothing.
        client_name: what the server shows to the user.

    Raises:
        RegistrationError: the server refuses, or answers something unusable.
        DiscoveryError: its endpoint is refused by us.
    """
    endpoint = metadata.registration_endpoint
    if endpoint is None:
        raise RegistrationError(
            "the authorization server %s registers no clients by itself"
            % clean(metadata.issuer, 200)
        )
    body: Dict[str, JSON] = {
        **_described(redirect_uris, client_name, _method(metadata), scope),
        "software_id": "mcpsync",
        "software_version": __version__,
    }
    result = fetcher.post_json(endpoint, body, deadline, _WHAT)
    if result.status not in (200, 201):
        raise _refused(result, redirect_uris)
    client = _registered(result, metadata.issuer, tuple(redirect_uris))
    return replace(client, scopes=tuple(scope or ()))


def _described(
    redirect_uris: Sequence[str],
    client_name: str,
    method: str,
    scope: Optional[Sequence[str]],
) -> Dict[str, JSON]:
    described: Dict[str, JSON] = {
        "client_name": client_name,
        "redirect_uris": list(redirect_uris),
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": method,
        "application_type": _application_type(redirect_uris),
    }
    if scope:
        described["scope"] = " ".join(scope)
    return described


def _application_type(redirect_uris: Sequence[str]) -> str:
    """Return what the URIs make of the client, in the words of OpenID Connect."""
    return "web" if any(map(_is_remote, redirect_uris)) else "native"


def _is_remote(uri: str) -> bool:
    try:
        parts = split(uri)
    except ValueError:
        # A scheme of the application's own.
        return False
    return parts.scheme == "https" and not is_loopback_host(parts.host)


def _method(metadata: ServerMetadata) -> str:
    offered = metadata.token_endpoint_auth_methods_supported
    if offered is None:
        return _DEFAULT_METHOD
    for method in _METHODS:
        if method in offered:
            return method
    raise RegistrationError(
        "the authorization server %s wants clients to identify themselves by %s, "
        "which a client that it registers by itself cannot do here"
        % (clean(metadata.issuer, 200), clean(", ".join(offered), 200) or "nothing")
    )


def _refused(result: FetchResult, redirect_uris: Sequence[str]) -> RegistrationError:
    told = "HTTP status %d" % result.status
    if isinstance(result.json, dict):
        said = [result.json.get(name) for name in ("error", "error_description")]
        texts = [clean(text, 300) for text in said if isinstance(text, str) and text]
        told = ": ".join(texts) or told
    return RegistrationError(
        "%s refused to register a client with the redirect URI %s: %s"
        % (
            bare_url(result.url),
            clean(", ".join(map(bare_url, redirect_uris)), 300),
            told,
        )
    )


def _registered(
    result: FetchResult, issuer: str, redirect_uris: Tuple[str, ...]
) -> ClientRecord:
    answer = result.json
    if not isinstance(answer, dict):
        raise _unusable(result, result.reason or "no JSON object")
    # An issuer in it is ignored: who registered us is known.
    client_id = _text(result, answer, "client_id")
    if client_id is None:
        raise _unusable(result, "no client_id")
    secret = _text(result, answer, "client_secret")
    method = _text(result, answer, "token_endpoint_auth_method")
    if method is not None and method not in _METHODS:
        raise _unusable(
            result, "clients that identify themselves by %s" % clean(method, 80)
        )
    if method not in (None, "none") and secret is None:
        raise _unusable(result, "no client_secret, which %s needs" % method)
    return ClientRecord(
        client_id=client_id,
        client_secret=secret,
        auth_method=method,
        redirect_uris=redirect_uris,
        secret_expires_at=_expiry(answer.get("client_secret_expires_at")),
        kind="dcr",
        issuer=issuer,
    )


def _text(result: FetchResult, answer: Mapping[str, JSON], name: str) -> Optional[str]:
    """Return a text of the answer; null and an empty one mean that there is none."""
    value = answer.get(name)
    if value in (None, ""):
        return None
    if not isinstance(value, str) or not _VISIBLE.fullmatch(value):
        raise _unusable(result, "a malformed %s" % name)
    return value


def _expiry(value: JSON) -> Optional[float]:
    """Return seconds since the epoch; zero, and what is no time, mean never."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 < value < _LATEST else None


def _unusable(result: FetchResult, what: str) -> RegistrationError:
    return RegistrationError(
        "%s registered a client, but its answer is unusable: %s"
        % (bare_url(result.url), what)
    )


# --- metadata documents -------------------------------------------------------------


def check_client_id_url(url: str) -> str:
    """Return the URL of a client's metadata document, if it may be a client's id.

    Raises:
        ConfigError: it may not: it must be an https URL with a path, and without
            user, fragment and dot segments.
    """
    try:
        parts = split(check_url(url, "URL of the client metadata document"))
    except DiscoveryError as error:
        raise ConfigError(error.message) from error
    if parts.scheme != "https" or parts.path in ("", "/"):
        raise ConfigError(
            "the URL of the client metadata document, %s, must be an https URL with a "
            "path" % bare_url(url)
        )
    return url


def client_metadata_document(
    client_id: str,
    redirect_uris: Sequence[str],
    client_name: str = "mcpsync",
    *,
    scope: Optional[Sequence[str]] = None,
    auth_method: str = "none",
    extra: Optional[Mapping[str, JSON]] = None,
) -> Dict[str, JSON]:
    """Return the JSON document to be hosted at a client's own URL.

    Args:
        client_id: the URL at which the document will be.
        redirect_uris: exactly those that will be used, ports included.
        scope: the scopes that the client may ask for; ``None`` says nothing.
        auth_method: ``"none"``, or ``"private_key_jwt"`` together with ``jwks`` or
            ``jwks_uri`` in `extra`.
        extra: more fields, such as ``client_uri`` and ``logo_uri``.

    Raises:
        ConfigError: the URL cannot be a client's id, there is no redirect URI, or the
            method needs a secret, which a public document cannot hold.
    """
    check_client_id_url(client_id)
    if not redirect_uris:
        raise ConfigError("a client metadata document needs a redirect URI")
    if auth_method not in ("none", "private_key_jwt"):
        raise ConfigError(
            "a client with a metadata document cannot identify itself by %s"
            % clean(auth_method, 80)
        )
    return {
        "client_id": client_id,
        **_described(redirect_uris, client_name, auth_method, scope),
        **(extra or {}),
    }


def check_client_metadata(
    fetcher: Fetcher,
    client_id: str,
    redirect_uris: Sequence[str],
    deadline: Deadline,
) -> List[str]:
    """Return what is wrong with the hosted document of a client: nothing, hopefully.

    Args:
        client_id: the URL of the document.
        redirect_uris: those that will be used.

    Raises:
        ConfigError: the URL cannot be a client's id.
        DiscoveryError: there is no answer.
    """
    check_client_id_url(client_id)
    result = fetcher.get_json(client_id, deadline, "client metadata document")
    found = result.json
    if not isinstance(found, dict):
        return ["there is no JSON object: %s" % (result.reason or "something else")]
    flaws = []
    if found.get("client_id") != client_id:
        flaws.append("its client_id is not its URL")
    name = found.get("client_name")
    if not isinstance(name, str) or not name:
        flaws.append("it has no client_name")
    registered = found.get("redirect_uris")
    for uri in redirect_uris:
        if not isinstance(registered, list) or uri not in registered:
            flaws.append("its redirect_uris lack %s" % bare_url(uri))
    return flaws
