"""From what a caller names to the transport that reaches it."""

from __future__ import annotations

import os
import urllib.parse
from collections.abc import Mapping as MappingType
from typing import Any, Dict, Mapping, Optional, Sequence, Union

from ._text import clean
from .exceptions import ConfigError
from .transports.base import Limits, Transport

__all__ = ["Target", "transport_for"]

Target = Union[
    str, Sequence[Union[str, "os.PathLike[str]"]], Mapping[str, Any], Transport
]

_STDIO_OPTIONS = ("env", "cwd")
_HTTP_OPTIONS = ("auth", "headers")


def transport_for(
    target: Target,
    name: Optional[str],
    limits: Optional[Limits],
    options: Mapping[str, Any],
) -> Transport:
    """Return an unopened transport to `target`.

    Args:
        target: a URL, an argv list, a server's entry of an ``mcpServers`` file, or a
            transport.
        options: ``env``, ``cwd``, ``headers``, ``auth``, where they were given.

    Raises:
        TypeError: an option does not apply to the target.
        ConfigError: the target is none.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if isinstance(target, Transport):
        _refuse(given, (*_STDIO_OPTIONS, *_HTTP_OPTIONS), "a transport")
        if name is not None:
            target.name = name
        return target
    if isinstance(target, MappingType):
        return _from_entry(target, name, limits, given)
    if isinstance(target, str):
        _refuse(given, _STDIO_OPTIONS, "a URL")
        return _http(_checked_url(target), name, limits, given)
    _refuse(given, _HTTP_OPTIONS, "a command")
    from .transports.stdio import StdioTransport

    return StdioTransport(target, name=name, limits=limits, **given)


def _refuse(given: Dict[str, Any], options: Sequence[str], what: str) -> None:
    for option in options:
        if option in given:
            raise TypeError("%s= does not apply to %s" % (option, what))


def _http(
    url: str, name: Optional[str], limits: Optional[Limits], given: Mapping[str, Any]
) -> Transport:
    # Imported here: a client of a local server shall not pay for HTTP.
    from .auth.stored import STORED_LOGIN
    from .transports.http import StreamableHTTPTransport

    options = {"auth": STORED_LOGIN, **given}
    return StreamableHTTPTransport(url, name=name, limits=limits, **options)


def _checked_url(url: str) -> str:
    scheme = urllib.parse.urlsplit(url).scheme.lower() if "://" in url else ""
    if scheme in ("http", "https"):
        return url
    if scheme:
        raise ConfigError("%s: the scheme must be http or https" % _shown(url))
    raise ConfigError(
        "%s is not a URL; give a command as a list of its parts, for example %s"
        % (_shown(url), _shown(url, split=True))
    )


def _shown(text: str, split: bool = False) -> str:
    """Return what was given, without what may be a secret if it is a URL after all."""
    head, at, tail = text.partition("://")
    rest = tail if at else text
    authority, slash, path = rest.partition("/")
    rest = authority.rpartition("@")[2] + slash + path.partition("?")[0]
    bare = head + at + rest if at else rest
    shown: object = (bare.split() or ["program"]) if split else bare
    return clean(repr(shown), 120)


def _from_entry(
    entry: Mapping[str, Any],
    name: Optional[str],
    limits: Optional[Limits],
    given: Dict[str, Any],
) -> Transport:
    """Read one server of an ``mcpServers`` file."""
    if "command" in entry:
        arguments = entry.get("args", [])
        if not isinstance(arguments, (list, tuple)):
            raise ConfigError(
                "args of a server's entry must be a list, not %s"
                % type(arguments).__name__
            )
        argv = [entry["command"], *arguments]
        for option in _STDIO_OPTIONS:
            if option in entry:
                given.setdefault(option, entry[option])
        return transport_for(argv, name, limits, given)
    url = entry.get("url")
    if isinstance(url, str):
        if "headers" in entry:
            given.setdefault("headers", entry["headers"])
        return transport_for(url, name, limits, given)
    raise ConfigError("a server's entry needs a command or a url")
