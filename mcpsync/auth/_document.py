"""A JSON object whose members keep the very bytes that they were written with.

Several programs may keep entries in one credentials file. What is not ours is copied
as it stands: a number, an escape or a key's place that a round trip through Python
would change is somebody else's business.
"""

from __future__ import annotations

import json
import re
from typing import Any, Callable, List, NamedTuple, Tuple, TypeVar

__all__ = [
    "Damaged",
    "Member",
    "member",
    "parse",
    "parse_value",
    "render",
    "write_value",
]

JSON = Any
T = TypeVar("T")

_SPACE = re.compile(r"[ \t\n\r]*")


class Damaged(ValueError):
    """A text is not what it should be; the message never shows the text."""


class Member(NamedTuple):
    """A member of an object: its key, its value, and how the value was written."""

    key: str
    value: JSON
    source: str


def _refuse(constant: str) -> None:
    raise ValueError("%s is not JSON" % constant)


_decoder = json.JSONDecoder(parse_constant=_refuse)


def parse(data: bytes) -> List[Member]:
    """Return the members of an object, in order, duplicates included.

    Raises:
        Damaged: it is not one JSON object in UTF-8.
    """
    return _without_text(lambda: _members(data.decode("utf-8-sig")))


def parse_value(text: str) -> JSON:
    """Return what a JSON text means, or raise :class:`Damaged`."""
    return _without_text(lambda: _decoder.decode(text))


def _without_text(read: Callable[[], T]) -> T:
    """Return what `read` returns; of its error keep nothing that holds the text.

    The exceptions of decoders carry what they decode, secrets and all.
    """
    try:
        return read()
    except json.JSONDecodeError as error:
        problem = str(_not_json(error.pos))
    except UnicodeDecodeError as error:
        problem = "it is not UTF-8 from byte %d on" % error.start
    except RecursionError:
        problem = "it is nested too deeply"
    except Damaged as error:
        problem = str(error)
    except ValueError:
        problem = "it holds a number that is not JSON"
    # Not where the other is being handled: it would be this one's context.
    raise Damaged(problem)


def _members(text: str) -> List[Member]:
    members: List[Member] = []
    at = _skip(text, 0)
    if text[at : at + 1] != "{":
        raise Damaged("it is not a JSON object")
    at = _skip(text, at + 1)
    if text[at : at + 1] == "}":
        return _nothing_after(text, at + 1, members)
    while True:
        read, at = _member(text, at)
        members.append(read)
        if text[at : at + 1] == "}":
            return _nothing_after(text, at + 1, members)
        at = _skip(text, _expect(text, at, ","))


def _member(text: str, at: int) -> Tuple[Member, int]:
    """Return the member that begins here, and where the next character is."""
    _expect(text, at, '"')
    key, at = _decoder.raw_decode(text, at)
    begin = _skip(text, _expect(text, _skip(text, at), ":"))
    value, end = _decoder.raw_decode(text, begin)
    return Member(key, value, text[begin:end]), _skip(text, end)


def _skip(text: str, at: int) -> int:
    match = _SPACE.match(text, at)
    return match.end() if match is not None else at


def _expect(text: str, at: int, character: str) -> int:
    if text[at : at + 1] != character:
        raise _not_json(at)
    return at + 1


def _not_json(at: int) -> Damaged:
    return Damaged("it is not JSON from character %d on" % at)


def _nothing_after(text: str, at: int, members: List[Member]) -> List[Member]:
    if _skip(text, at) != len(text):
        raise _not_json(at)
    return members


def member(key: str, value: JSON) -> Member:
    """Return a member of ours, to be written in the usual way."""
    return Member(key, value, write_value(value))


def write_value(value: JSON) -> str:
    """Return a value as JSON, in ASCII and on one line."""
    return json.dumps(value, allow_nan=False)


def render(members: List[Member]) -> bytes:
    """Return the object as JSON, one member to a line."""
    lines = ["%s: %s" % (json.dumps(m.key), m.source) for m in members]
    return ("{\n%s\n}\n" % ",\n".join(lines)).encode("utf-8")
