"""The challenges of ``WWW-Authenticate``: what a server wants, and where to get it.

A header value is a list of challenges, each of which has a list of parameters, and
both lists use the same commas. Reading it with a pattern per parameter finds what
stands inside of quotes as well, so this is a parser. Its time is linear in the length.

Specification: 2026-07-28, basic/authorization; RFC 9110, sections 5.6 and 11.
"""

from __future__ import annotations

import logging
import re
from typing import Dict, Iterable, Iterator, List, NamedTuple, Optional, Set

from .._text import clean
from ._records import Challenge

__all__ = ["choose_challenge", "parse_challenges", "resource_metadata_url"]

_log = logging.getLogger("mcpsync.auth")

#: Most characters of all values together, and most challenges. The rest is ignored.
MAX_CHARACTERS = 16 * 1024
MAX_CHALLENGES = 32

_END = re.compile(r"[\r\n\0]")

_SPACE = re.compile(r"[ \t]*")

_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

#: What some schemes have instead of parameters. It ends where the challenge does.
_TOKEN68 = re.compile(r"[A-Za-z0-9\-._~+/]+=*(?=[ \t]*(?:,|\Z))")

_QUOTED = re.compile(r'"((?:[^"\\\x00-\x08\x0a-\x1f\x7f]|\\[\t\x20-\x7e\x80-\xff])*)"')

#: What reaches to the next comma, or to a quotation mark that has no second one.
_ELEMENT = re.compile(r'(?:[^",]|"(?:[^"\\]|\\.)*")*')

#: A parameter's value without quotes, and nothing after it that belongs to it.
_BARE = re.compile(_TOKEN.pattern + r"(?=[ \t,]|\Z)")

#: Scopes often have characters that a value without quotes must not have.
_BARE_SCOPE = re.compile(r"[^\s,\"]+(?=[ \t,]|\Z)")


class _Pair(NamedTuple):
    """A parameter; the value is None where it cannot be read."""

    name: str
    value: Optional[str]


class _Reader:
    """Walks over one header value."""

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0

    def items(self) -> Iterator[object]:
        """Yield each scheme as a string, and each parameter as a pair, in order."""
        while self._skip_separators():
            match = _TOKEN.match(self._text, self._at)
            if match is None:
                self._skip_element()
                continue
            self._at = match.end()
            space = self._skip_space()
            if self._text[self._at : self._at + 1] == "=":
                self._at += 1
                yield self._pair(match.group().lower())
                continue
            yield match.group().lower()
            token68 = _TOKEN68.match(self._text, self._at) if space else None
            if token68 is not None:
                self._at = token68.end()

    def _pair(self, name: str) -> _Pair:
        self._skip_space()
        if self._text[self._at : self._at + 1] == '"':
            match = _QUOTED.match(self._text, self._at)
            if match is None:
                # Nobody knows where it should have ended.
                self._at = len(self._text)
                return _Pair(name, None)
            self._at = match.end()
            return _Pair(name, re.sub(r"\\(.)", r"\1", match.group(1)))
        pattern = _BARE_SCOPE if name == "scope" else _BARE
        match = pattern.match(self._text, self._at)
        if match is None:
            self._skip_element()
            return _Pair(name, None)
        self._at = match.end()
        return _Pair(name, match.group())

    def _skip_space(self) -> bool:
        match = _SPACE.match(self._text, self._at)
        before, self._at = self._at, match.end() if match else self._at
        return self._at > before

    def _skip_separators(self) -> bool:
        """Return whether there is anything behind spaces and commas."""
        length = len(self._text)
        while self._at < length and self._text[self._at] in ", \t":
            self._at += 1
        return self._at < length

    def _skip_element(self) -> None:
        match = _ELEMENT.match(self._text, self._at)
        self._at = match.end() if match else self._at
        if self._text[self._at : self._at + 1] == '"':
            self._at = len(self._text)


def parse_challenges(values: Iterable[str]) -> List[Challenge]:
    """Return the challenges of a response, in order.

    Whatever is malformed is left out, and the rest kept. A parameter that one
    challenge has twice is ambiguous, and left out as well.

    Args:
        values: each ``WWW-Authenticate`` field, or all of them joined by commas.
    """
    found: List[Challenge] = []
    twice: Set[str] = set()
    left = MAX_CHARACTERS
    for value in values:
        text = _bounded(value, left)
        left -= len(text)
        _read_into(found, twice, _Reader(text))
    if twice:
        _log.warning(
            "a challenge has a parameter twice, which is ignored: %s",
            clean(", ".join(sorted(twice)), 200),
        )
    return found


def _bounded(value: str, limit: int) -> str:
    text = _END.split(value, maxsplit=1)[0]
    if len(text) <= limit:
        return text
    # Not in the middle of a value: a part of it would mean something else.
    return text[:limit].rpartition(",")[0]


def _read_into(found: List[Challenge], twice: Set[str], reader: _Reader) -> None:
    scheme: Optional[str] = None
    params: Dict[str, str] = {}
    seen: Set[str] = set()
    for item in reader.items():
        if isinstance(item, str):
            if len(found) >= MAX_CHALLENGES:
                return
            scheme, params, seen = item, {}, set()
            found.append(Challenge(scheme, params))
        elif isinstance(item, _Pair) and scheme is not None:
            if item.name in seen:
                params.pop(item.name, None)
                twice.add(item.name)
            elif item.value is not None:
                params[item.name] = item.value
            seen.add(item.name)


def choose_challenge(
    challenges: Iterable[Challenge], dpop: bool = False
) -> Optional[Challenge]:
    """Return the challenge to answer.

    That is the first for DPoP if we speak it, or else the first for a bearer token.
    """
    wanted = ("dpop", "bearer") if dpop else ("bearer",)
    known = list(challenges)
    for scheme in wanted:
        for challenge in known:
            if challenge.scheme == scheme:
                return challenge
    return None


def resource_metadata_url(challenges: Iterable[Challenge]) -> Optional[str]:
    """Return where the server says its metadata is; the first one counts."""
    urls = [
        challenge.params["resource_metadata"]
        for challenge in challenges
        if challenge.scheme in ("bearer", "dpop")
        and "resource_metadata" in challenge.params
    ]
    if len(set(urls)) > 1:
        _log.warning("the challenges name several metadata URLs: the first is used")
    return urls[0] if urls else None
