"""URLs and addresses that somebody else names: which of them may be used at all.

Judged by the parsed parts, and only once every character is one that a URL may have:
parsers disagree about the others, and disagreement is how a check is passed around.

Specification: 2026-07-28, basic/authorization/security-considerations; RFC 3986.
"""

from __future__ import annotations

import ipaddress
import re
import urllib.parse
from typing import Callable, Collection, NamedTuple, Optional, Union

from .._text import clean
from ..exceptions import DiscoveryError

__all__ = [
    "Insecure",
    "Parts",
    "bare_url",
    "check_url",
    "flaw",
    "is_loopback_host",
    "is_public_address",
    "origin",
    "same_origin",
    "split",
]

#: Most characters of a URL.
MAX_LENGTH = 2048

#: Which origins may be spoken to over plain http: their set, or who knows.
Insecure = Union[Collection[str], Callable[[str], bool]]

_DEFAULT_PORTS = {"http": 80, "https": 443}

_CHARACTERS = re.compile(r"[A-Za-z0-9\-._~:/?#\[\]@!$&'()*+,;=%]*")

_PCHARS = r"(?:[A-Za-z0-9\-._~!$&'()*+,;=:@%s]|%%[0-9A-Fa-f]{2})*"

_URL = re.compile(
    r"[Hh][Tt][Tt][Pp][Ss]?://"
    r"(?P<host>[A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<path>(?:/%s)?)" % (_PCHARS % "/") + r"(?:\?%s)?" % (_PCHARS % "/?")
)

_DOT_SEGMENT = re.compile(r"/(?:\.|%2[Ee]){1,2}(?:/|\Z)")

#: What a resolver may take for a number, and a browser takes for an address.
_NUMERIC = re.compile(r"[0-9]+|0[Xx][0-9A-Fa-f]*")

# Not told from public ones by the standard library, or not by all its versions.
_NOT_PUBLIC = [
    ipaddress.ip_network(text)
    for text in (
        "64:ff9b:1::/48",  # translation within a site
        "2002::/16",  # 6to4, which embeds any IPv4 address
        "2001::/23",  # Teredo, which does so too, and others
        "fec0::/10",  # site-local
        "::/96",  # IPv4-compatible
    )
]

#: DNS64 answers with these for public names too: the IPv4 address inside decides.
_NAT64 = ipaddress.ip_network("64:ff9b::/96")


class Parts(NamedTuple):
    """The parts of a URL that matter here; scheme and host in lower case.

    Attributes:
        host: an IPv6 address stands here without brackets.
        port: the default port if the URL names none.
        path: as it was; may be empty.
        query: without the question mark; ``None`` where there is none.
    """

    scheme: str
    host: str
    port: int
    path: str
    query: Optional[str]

    @property
    def origin(self) -> str:
        host = "[%s]" % self.host if ":" in self.host else self.host
        if self.port == _DEFAULT_PORTS[self.scheme]:
            return "%s://%s" % (self.scheme, host)
        return "%s://%s:%d" % (self.scheme, host, self.port)

    @property
    def suffix(self) -> str:
        return "" if self.query is None else "?" + self.query


def split(url: str) -> Parts:
    """Take a URL apart; user and fragment are left out.

    What a person may write and no URL has, as a space, is escaped.

    Raises:
        ValueError: it is no http or https URL.
    """
    parts = urllib.parse.urlsplit(url)
    if parts.scheme not in _DEFAULT_PORTS or not parts.hostname:
        raise ValueError("not an http or https URL")
    host = parts.hostname
    if not host.isascii():
        host = host.encode("idna").decode("ascii")
    port = _DEFAULT_PORTS[parts.scheme] if parts.port is None else parts.port
    before_fragment = url.partition("#")[0]
    query = _escaped(parts.query) if "?" in before_fragment else None
    return Parts(parts.scheme, host, port, _escaped(parts.path), query)


def _escaped(text: str) -> str:
    return urllib.parse.quote(text, safe="/?%:@!$&'()*+,;=~")


def origin(url: str) -> str:
    """Return scheme, host and port as a URL without path; the default port left out.

    Raises:
        ValueError: it is no http or https URL.
    """
    return split(url).origin


def same_origin(one: str, other: str) -> bool:
    """Return whether two URLs have the same scheme, host and port."""
    try:
        return origin(one) == origin(other)
    except ValueError:
        return False


def bare_url(url: str) -> str:
    """Return a URL without user, query and fragment, for messages."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        if ":" in host:
            host = "[%s]" % host
        if parts.port is not None:
            host += ":%d" % parts.port
    except ValueError:
        return "an invalid URL"
    return clean(urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", "")), 200)


# --- checking -----------------------------------------------------------------------


def check_url(url: object, what: str, insecure: Insecure = ()) -> str:
    """Return a URL that somebody else named, unchanged, if it may be used.

    That is: an https URL, or an http URL of this machine, without user and fragment,
    of plain RFC 3986 syntax and bounded length. Where it leads is another question.

    Args:
        what: what the URL is, for the message.
        insecure: origins of which http URLs are fine as well.

    Raises:
        DiscoveryError: it may not be used.
    """
    if not isinstance(url, str):
        raise DiscoveryError("the %s is not a string" % what)
    why = flaw(url)
    if why is None and not _is_secure(url, insecure):
        why = "it must be an https URL (plain http is for loopback addresses only)"
    if why is not None:
        raise DiscoveryError("the %s, %s, is refused: %s" % (what, bare_url(url), why))
    return url


def flaw(url: str) -> Optional[str]:
    """Return what is wrong with the form of a URL, ``None`` if nothing is."""
    if len(url) > MAX_LENGTH:
        return "it is longer than %d characters" % MAX_LENGTH
    if not _CHARACTERS.fullmatch(url):
        return "it holds characters that no URL has"
    if not re.match(r"https?://", url, re.IGNORECASE):
        return "it is no http or https URL"
    if "#" in url:
        return "it has a fragment"
    if "@" in re.split("[/?]", url, maxsplit=3)[2]:
        return "it has a user name"
    match = _URL.fullmatch(url)
    if match is None:
        return "it is malformed"
    if match["port"] is not None and not 0 < int(match["port"]) < 65536:
        return "there is no such port"
    if _DOT_SEGMENT.search(match["path"]):
        return "its path has dot segments"
    return _host_flaw(match["host"])


def _host_flaw(host: str) -> Optional[str]:
    if host.startswith("["):
        return None if _address(host[1:-1]) else "its host is no IPv6 address"
    labels = host.split(".")
    if len(host) > 253 or not all(0 < len(label) < 64 for label in labels):
        return "its host is malformed"
    if _NUMERIC.fullmatch(labels[-1]) and _address(host) is None:
        return "its host is no IPv4 address, but looks like one"
    return None


_Address = Union[ipaddress.IPv4Address, ipaddress.IPv6Address]


def _address(text: str) -> Optional[_Address]:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _is_secure(url: str, insecure: Insecure) -> bool:
    parts = split(url)
    if parts.scheme == "https" or is_loopback_host(parts.host):
        return True
    if callable(insecure):
        return insecure(parts.origin)
    return any(same_origin(known, url) for known in insecure)


# --- addresses ----------------------------------------------------------------------


def is_loopback_host(host: str) -> bool:
    """Return whether a host, as a URL has it, is this machine by its very name."""
    if host.lower() == "localhost":
        return True
    address = _address(host)
    return address is not None and address.is_loopback


def is_public_address(text: str) -> bool:
    """Return whether an IP address is one of the public internet.

    Loopback, private, link-local, shared, multicast and reserved addresses are not,
    nor are IPv6 addresses that lead to such an IPv4 address.
    """
    address = _address(text.partition("%")[0])
    if address is None:
        return False
    if isinstance(address, ipaddress.IPv6Address):
        embedded = address.ipv4_mapped
        if embedded is None and address in _NAT64:
            embedded = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
        if embedded is not None:
            return is_public_address(str(embedded))
    if address.is_multicast or address.is_reserved or not address.is_global:
        return False
    return not any(address in network for network in _NOT_PUBLIC)
