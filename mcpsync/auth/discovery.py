"""Finding out who issues tokens for a server, and which ones to ask for.

Documents are asked for one at a time and in order, and the first that is there
counts. "Not there" is said by a status such as 404 or by a web page; an outage is no
such answer, because taking it for one would let whoever causes it choose the fallback.

Identifiers are compared as the strings that they are. Only the server's own URL, which
a person wrote, is compared by its parts.

Specification: 2026-07-28, basic/authorization and
basic/authorization/authorization-server-discovery; 2025-03-26, basic/authorization.
"""

from __future__ import annotations

import logging
import re
import time
from typing import (
    TYPE_CHECKING,
    Collection,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

from .._deadline import Deadline
from .._text import clean
from ..exceptions import ConfigError, DiscoveryError, IssuerMismatch, ResourceMismatch
from ..types import JSON
from ._records import Challenge, ResourceMetadata, ServerMetadata
from ._urls import Parts, bare_url, flaw, origin, same_origin, split
from .challenges import choose_challenge, parse_challenges, resource_metadata_url

if TYPE_CHECKING:
    from ._fetch import Fetcher, FetchResult

__all__ = [
    "MetadataCache",
    "canonical_resource",
    "choose_challenge",
    "choose_issuer",
    "choose_scopes",
    "covers",
    "find_resource_metadata",
    "find_server_metadata",
    "legacy_server_metadata",
    "parse_challenges",
    "resource_metadata_urls",
    "server_metadata_urls",
    "split_scope",
    "step_up_scopes",
    "union_scopes",
    "with_offline_access",
]

_log = logging.getLogger("mcpsync.auth")

Names = Tuple[str, ...]

_RESOURCE = "protected resource metadata"
_SERVER = "authorization server metadata"

#: Most authorization servers of one resource. The rest is ignored.
MAX_SERVERS = 32

_RESOURCE_PATH = "/.well-known/oauth-protected-resource"
_OAUTH_PATH = "/.well-known/oauth-authorization-server"
_OPENID_PATH = "/.well-known/openid-configuration"


# --- the protected resource ---------------------------------------------------------


def find_resource_metadata(
    fetcher: Fetcher,
    server_url: str,
    challenges: Iterable[Challenge],
    deadline: Deadline,
) -> Optional[ResourceMetadata]:
    """Return what the server says about itself.

    Args:
        challenges: those of its 401 response; they may name the document.

    Returns:
        ``None`` if there is nothing anywhere: a server of 2025-03-26.

    Raises:
        ResourceMismatch: the document is about another resource.
        DiscoveryError: it cannot be used, or be had (`retryable`).
    """
    named = resource_metadata_url(challenges)
    urls = resource_metadata_urls(server_url)
    if named is not None:
        _check_metadata_url(fetcher, named, server_url)
        urls = [named, *(url for url in urls if url != named)]
    for url in urls:
        result = fetcher.get_json(url, deadline, _RESOURCE)
        document = _document(result, _RESOURCE)
        if document is not None:
            return _resource_metadata(document, result.url, server_url)
        if url == named:
            _log.warning(
                "the server names %s as the place of its metadata, but none is there",
                bare_url(url),
            )
    return None


def resource_metadata_urls(server_url: str) -> List[str]:
    """Return where the metadata of a server may be, in order (RFC 9728, 3.1).

    Raises:
        ConfigError: the server's URL is none.
    """
    parts = _own(server_url)
    path = "" if parts.path == "/" else parts.path
    root = parts.origin + _RESOURCE_PATH
    return list(dict.fromkeys([root + path + parts.suffix, root]))


def _check_metadata_url(fetcher: Fetcher, url: str, server_url: str) -> None:
    fetcher.check_url(url, _RESOURCE + " URL")
    if split(url).scheme != "https" and not same_origin(url, server_url):
        raise DiscoveryError(
            "the %s URL, %s, is refused: it is neither an https URL nor one of the "
            "server itself" % (_RESOURCE, bare_url(url))
        )


def _resource_metadata(
    document: Mapping[str, JSON], url: str, server_url: str
) -> ResourceMetadata:
    resource = document.get("resource")
    if not isinstance(resource, str) or not covers(resource, server_url):
        shown = clean(resource, 200) if isinstance(resource, str) else "no resource"
        raise ResourceMismatch(
            "the %s at %s is about %s, not about %s"
            % (_RESOURCE, bare_url(url), shown or "nothing", bare_url(server_url))
        )
    servers = _names(document.get("authorization_servers"))
    if not servers:
        raise DiscoveryError(
            "the %s at %s names no authorization servers" % (_RESOURCE, bare_url(url))
        )
    # Nobody needs more, and each may be looked up in a store.
    servers = servers[:MAX_SERVERS]
    scopes = _scope_names(document.get("scopes_supported"))
    return ResourceMetadata(resource, servers, scopes, document)


def choose_issuer(metadata: ResourceMetadata, known: Collection[str] = ()) -> str:
    """Return the authorization server to use: the first that knows us, or the first.

    Args:
        known: the issuers at which this client is registered.
    """
    servers = metadata.authorization_servers
    return next((issuer for issuer in servers if issuer in known), servers[0])


def covers(resource: str, server_url: str) -> bool:
    """Return whether a resource identifier names this server.

    It does if it is the server's URL or one above it: the same origin, and a path
    whose segments are the first of the server's. Letter case of scheme and host does
    not matter, nor does a default port. What is no proper URL names nothing.
    """
    if flaw(resource) is not None:
        return False
    try:
        theirs, ours = split(resource), split(server_url)
    except ValueError:
        return False
    if theirs.origin != ours.origin:
        return False
    if theirs.query is not None:
        return (theirs.path or "/", theirs.query) == (ours.path or "/", ours.query)
    above, path = _segments(theirs.path), _segments(ours.path)
    return path[: len(above)] == above


def _segments(path: str) -> List[str]:
    segments = path.split("/")[1:]
    return segments[:-1] if segments and not segments[-1] else segments


def canonical_resource(server_url: str) -> str:
    """Return the identifier of a server that has no metadata: its URL, tidied up.

    Scheme and host in lower case, without user, default port and fragment, and without
    a slash after the host alone.

    Raises:
        ConfigError: the server's URL is none.
    """
    parts = _own(server_url)
    path = "" if parts.path == "/" and parts.query is None else parts.path
    return parts.origin + path + parts.suffix


def _own(server_url: str) -> Parts:
    try:
        return split(server_url)
    except ValueError as error:
        raise ConfigError("%s is no URL" % bare_url(server_url)) from error


# --- the authorization server -------------------------------------------------------


class MetadataCache:
    """Metadata of authorization servers, for an hour at most. May be shared by threads.

    Only what passed all checks gets here.
    """

    #: Seconds for which a document is good; a server may ask for less.
    LONGEST = 3600.0

    def __init__(self) -> None:
        self._entries: Dict[str, Tuple[float, ServerMetadata]] = {}

    def get(self, issuer: str) -> Optional[ServerMetadata]:
        entry = self._entries.get(issuer)
        if entry is None or entry[0] <= time.monotonic():
            return None
        return entry[1]

    def put(self, metadata: ServerMetadata, headers: Mapping[str, str]) -> None:
        """Keep metadata as long as its ``Cache-Control`` header allows."""
        seconds = _max_age(headers.get("Cache-Control") or "", self.LONGEST)
        self._entries[metadata.issuer] = (time.monotonic() + seconds, metadata)

    def forget(self, issuer: str) -> None:
        """Look again next time: what the document said did not work."""
        self._entries.pop(issuer, None)


def _max_age(control: str, longest: float) -> float:
    directives = [part.strip().lower() for part in control.split(",")]
    if "no-store" in directives or "no-cache" in directives:
        return 0.0
    for directive in directives:
        match = re.fullmatch(r'max-age="?([0-9]{1,9})"?', directive)
        if match is not None:
            return min(longest, float(match[1]))
    return longest


def find_server_metadata(
    fetcher: Fetcher,
    issuer: str,
    deadline: Deadline,
    cache: Optional[MetadataCache] = None,
) -> ServerMetadata:
    """Return what an authorization server says about itself.

    Args:
        issuer: its identifier, as the protected resource metadata has it.
        cache: asked first, and told afterwards.

    Raises:
        IssuerMismatch: the document is that of another issuer.
        DiscoveryError: there is none, it cannot be used, or be had (`retryable`).
    """
    known = None if cache is None else cache.get(issuer)
    if known is not None:
        return known
    urls = server_metadata_urls(fetcher.check_url(issuer, "issuer"))
    for url in urls:
        result = fetcher.get_json(url, deadline, _SERVER)
        document = _document(result, _SERVER)
        if document is None:
            continue
        _check_issuer(document, (issuer,), result.url)
        metadata = _server_metadata(fetcher, document, result.url, deadline)
        if cache is not None:
            cache.put(metadata, result.headers)
        return metadata
    raise DiscoveryError(
        "the authorization server %s has no metadata; asked for were %s"
        % (bare_url(issuer), ", ".join(map(bare_url, urls)))
    )


def server_metadata_urls(issuer: str) -> List[str]:
    """Return where the metadata of an issuer may be, in order.

    Raises:
        DiscoveryError: the issuer has a query, which no issuer has.
    """
    parts = split(issuer)
    if parts.query is not None:
        raise DiscoveryError("the issuer %s has a query" % bare_url(issuer))
    path = parts.path.rstrip("/")
    urls = [parts.origin + _OAUTH_PATH + path, parts.origin + _OPENID_PATH + path]
    return urls + [parts.origin + path + _OPENID_PATH] if path else urls


def legacy_server_metadata(
    fetcher: Fetcher, server_url: str, deadline: Deadline
) -> ServerMetadata:
    """Return the authorization server of a server that says nothing about itself.

    It is at the server's own origin. Without metadata there it has the endpoints that
    2025-03-26 gives it, and `found` is false.

    Raises:
        IssuerMismatch: the document is that of another issuer.
        DiscoveryError: it cannot be used, or be had (`retryable`).
    """
    base = _own(server_url).origin
    result = fetcher.get_json(base + _OAUTH_PATH, deadline, _SERVER)
    document = _document(result, _SERVER)
    if document is None:
        return ServerMetadata(
            issuer=base,
            token_endpoint=base + "/token",
            authorization_endpoint=base + "/authorize",
            registration_endpoint=base + "/register",
            found=False,
        )
    # The string is ours, not theirs: with and without a slash it is the same origin.
    _check_issuer(document, (base, base + "/"), result.url)
    return _server_metadata(fetcher, document, result.url, deadline)


def _check_issuer(document: Mapping[str, JSON], wanted: Names, url: str) -> None:
    issuer = document.get("issuer")
    if not isinstance(issuer, str) or issuer not in wanted:
        shown = clean(issuer, 200) if isinstance(issuer, str) else "no issuer"
        raise IssuerMismatch(
            "the %s at %s is that of %s, not of %s"
            % (_SERVER, bare_url(url), shown or "nobody", clean(wanted[0], 200))
        )


def _server_metadata(
    fetcher: Fetcher, document: Mapping[str, JSON], url: str, deadline: Deadline
) -> ServerMetadata:
    facts: Dict[str, JSON] = {}
    for name in _ENDPOINTS:
        facts[name] = _endpoint(fetcher, document, name)
    if facts["token_endpoint"] is None:
        raise DiscoveryError(
            "the %s at %s has no token_endpoint" % (_SERVER, bare_url(url))
        )
    _check_addresses(fetcher, facts.values(), url, deadline)
    for name in _LISTS:
        facts[name] = _names(document.get(name))
    for name in _FLAGS:
        facts[name] = document.get(name) is True
    scopes = _scope_names(document.get("scopes_supported"))
    return ServerMetadata(
        issuer=document["issuer"], scopes_supported=scopes, raw=document, **facts
    )


_ENDPOINTS = (
    "authorization_endpoint",
    "token_endpoint",
    "registration_endpoint",
    "revocation_endpoint",
)

_LISTS = (
    "code_challenge_methods_supported",
    "token_endpoint_auth_methods_supported",
    "authorization_grant_profiles_supported",
    "dpop_signing_alg_values_supported",
)

_FLAGS = (
    "client_id_metadata_document_supported",
    "authorization_response_iss_parameter_supported",
)


def _endpoint(
    fetcher: Fetcher, document: Mapping[str, JSON], name: str
) -> Optional[str]:
    value = document.get(name)
    # Servers write an empty string for what they do not have.
    return None if value in (None, "") else fetcher.check_url(value, name)


def _check_addresses(
    fetcher: Fetcher, urls: Iterable[Optional[str]], source: str, deadline: Deadline
) -> None:
    """Refuse endpoints at addresses that must not be named, before any is used."""
    # With that host we have just spoken.
    checked = {origin(source)}
    for url in urls:
        if url is not None and origin(url) not in checked:
            checked.add(origin(url))
            fetcher.check_address(url, "authorization server", deadline)


# --- documents ----------------------------------------------------------------------


def _document(result: FetchResult, what: str) -> Optional[Mapping[str, JSON]]:
    """Return the object that was found; ``None`` if there is none at that place.

    Raises:
        DiscoveryError: something else is there that calls itself JSON.
    """
    if result.status != 200:
        return None
    if isinstance(result.json, dict):
        return result.json
    kind = (result.headers.get("Content-Type") or "").partition(";")[0].strip().lower()
    if result.reason is not None and not re.search(r"[/+]json\Z", kind):
        # A web page: many sites have one for every path.
        return None
    raise DiscoveryError(
        "the %s at %s is no JSON object%s"
        % (what, bare_url(result.url), result.reason and ": " + result.reason or "")
    )


def _names(value: JSON) -> Optional[Names]:
    """Return a list of strings; anything else counts as absent."""
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return tuple(value)
    return None


def _scope_names(value: JSON) -> Optional[Names]:
    names = _names(value)
    if names is None or not all(map(_SCOPE.fullmatch, names)):
        return None
    return tuple(dict.fromkeys(names))


# --- scopes -------------------------------------------------------------------------

#: RFC 6749, section 3.3.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")

#: Most scopes in one request, and most characters of them.
MAX_SCOPES = 100
MAX_SCOPE_CHARACTERS = 4096


def split_scope(text: str) -> Names:
    """Return the scopes in a string, in order, each once.

    Raises:
        DiscoveryError: one has a character that no scope has, or there are too many.
    """
    names = tuple(dict.fromkeys(name for name in text.split(" ") if name))
    for name in names:
        if not _SCOPE.fullmatch(name):
            raise DiscoveryError("the scope %s is malformed" % clean(repr(name), 100))
    if not _is_bounded(names):
        raise DiscoveryError("the server asks for too many scopes: %d" % len(names))
    return names


def _is_bounded(names: Sequence[str]) -> bool:
    return len(names) <= MAX_SCOPES and len(" ".join(names)) <= MAX_SCOPE_CHARACTERS


def union_scopes(*several: Iterable[str]) -> Names:
    """Return all scopes of several lists, in order, each once."""
    return tuple(dict.fromkeys(name for names in several for name in names))


def choose_scopes(
    challenge: Optional[Challenge],
    metadata: Optional[ResourceMetadata],
    configured: Sequence[str] = (),
    policy: str = "add",
) -> Optional[Names]:
    """Return the scopes to ask for.

    Those of the challenge, or else all that the resource's metadata names; the scopes
    of an authorization server's metadata say nothing about this resource.

    Args:
        configured: scopes that the user wants.
        policy: ``"add"`` asks for these as well, ``"only"`` for nothing else.

    Returns:
        ``None``: leave the parameter out.

    Raises:
        DiscoveryError: the challenge's scopes are malformed or too many.
        ConfigError: those of the user are malformed, or there is no such policy.
    """
    if policy not in ("add", "only"):
        raise ConfigError('the scope policy is "add" or "only", not %r' % policy)
    for name in configured:
        if not _SCOPE.fullmatch(name):
            raise ConfigError("the scope %s is malformed" % clean(repr(name), 100))
    if policy == "only":
        return union_scopes(configured) or None
    wanted = _challenged(challenge) or _supported(metadata)
    return union_scopes(wanted, configured) or None


def _challenged(challenge: Optional[Challenge]) -> Names:
    return split_scope("" if challenge is None else challenge.params.get("scope", ""))


def _supported(metadata: Optional[ResourceMetadata]) -> Names:
    names = () if metadata is None else metadata.scopes_supported or ()
    if _is_bounded(names):
        return names
    _log.warning("the server supports %d scopes: asking for none of them", len(names))
    return ()


def step_up_scopes(
    challenge: Challenge, requested: Iterable[str], granted: Optional[Iterable[str]]
) -> Optional[Names]:
    """Return the scopes for another authorization, after a 403 for lack of them.

    Args:
        requested: what was asked for when the token was issued.
        granted: what it was issued for; ``None`` if the server did not say.

    Returns:
        What was requested and granted before and is wanted now; ``None`` if another
        authorization makes no sense, because the challenge names no scope or none
        that the token lacks.

    Raises:
        DiscoveryError: the challenge's scopes are malformed or too many.
    """
    wanted, before = _challenged(challenge), tuple(requested)
    had = before if granted is None else tuple(granted)
    if set(wanted) <= set(had):
        return None
    return union_scopes(before, had, wanted)


def with_offline_access(
    scopes: Optional[Names], metadata: ServerMetadata, wants_refresh: bool = True
) -> Tuple[Optional[Names], Optional[str]]:
    """Ask for a refresh token in the way of OpenID Connect, where the server has it.

    Args:
        scopes: what is asked for otherwise; if nothing, it stays so, because a single
            scope would take the place of the server's default ones.
        wants_refresh: whether a refresh token is of any use.

    Returns:
        The scopes, and the ``prompt`` parameter that belongs to them, if any.
    """
    offline = "offline_access"
    offered = offline in (metadata.scopes_supported or ())
    if scopes is not None and offered and wants_refresh:
        scopes = union_scopes(scopes, (offline,))
    return scopes, "consent" if offline in (scopes or ()) else None
