"""Arguments on a command line: ``name=text``, ``name:=json``, and whole objects.

What ``name=text`` becomes is decided by the schema of the tool's arguments: a number,
true or false, a list, an object, or the text itself where that is allowed.
"""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import dataclass
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence, Set

from .._text import clean
from ..exceptions import MCPError
from ..protocol.jsonrpc import decode
from ._parser import UsageError

__all__ = ["Pair", "coerced", "read_object", "read_pairs", "texts_of"]

JSON = Any

#: Schemas that are looked at for one argument.
_MOST_SCHEMAS = 500

_TRUTH = {
    **dict.fromkeys(("true", "yes", "on", "1"), True),
    **dict.fromkeys(("false", "no", "off", "0"), False),
}


@dataclass(frozen=True)
class Pair:
    """One argument as it was typed.

    Attributes:
        value: text; any JSON value when `is_json`.
    """

    name: str
    value: JSON
    is_json: bool


def read_pairs(words: Sequence[str]) -> List[Pair]:
    """Read ``name=text`` and ``name:=json``.

    Raises:
        UsageError: one of them is neither.
    """
    return [_pair(word) for word in words]


def _pair(word: str) -> Pair:
    match = re.match(r"([^=]+?)(:?=)(.*)", word, re.DOTALL)
    if match is None:
        raise UsageError(
            "%s is no argument: write NAME=VALUE, or NAME:=JSON" % _quoted(word)
        )
    name, separator, text = match.groups()
    if separator == "=":
        return Pair(name, text, False)
    return Pair(name, _json(text, "the value of " + _quoted(name)), True)


def texts_of(pairs: Sequence[Pair]) -> Dict[str, str]:
    """Return arguments that are text by nature, as those of prompts are.

    Raises:
        UsageError: one is given twice, or as JSON that is no string.
    """
    found: Dict[str, str] = {}
    for pair in pairs:
        if pair.name in found:
            raise UsageError("%s is given twice" % _quoted(pair.name))
        if not isinstance(pair.value, str):
            raise UsageError("%s has to be a text" % _quoted(pair.name))
        found[pair.name] = pair.value
    return found


def read_object(source: str) -> Dict[str, JSON]:
    """Read a JSON object: the text itself, ``@FILE``, or ``-`` for standard input.

    Raises:
        UsageError: it cannot be read, or is no JSON object.
    """
    where = "the value of --json"
    try:
        if source == "-":
            where = "standard input"
            text: Any = sys.stdin.buffer.read()
        elif source.startswith("@"):
            where = _quoted(source[1:])
            with open(source[1:], "rb") as file:
                text = file.read()
        else:
            text = source
    except OSError as error:
        raise UsageError("%s cannot be read: %s" % (where, error.strerror)) from error
    value = _json(text, where)
    if not isinstance(value, dict):
        raise UsageError("%s is no JSON object" % where)
    return value


def _json(text: Any, where: str) -> JSON:
    try:
        return decode(text)
    except MCPError as error:
        raise UsageError("%s: %s" % (where, error.message)) from error


def _quoted(text: str) -> str:
    return clean(repr(text), 200)


# --- what the schema makes of a text ----------------------------------------------


def coerced(
    pairs: Sequence[Pair], base: Mapping[str, JSON], schema: Mapping[str, JSON]
) -> Dict[str, JSON]:
    """Return the arguments of a tool.

    Args:
        pairs: what was typed; an array may be typed item by item.
        base: what was given as an object; pairs replace its members.
        schema: the schema of the tool's arguments; an empty one leaves texts alone.

    Raises:
        UsageError: a text is no value of its type, or an argument was given twice.
    """
    by_name: Dict[str, List[Pair]] = {}
    for pair in pairs:
        by_name.setdefault(pair.name, []).append(pair)
    result = dict(base)
    for name, given in by_name.items():
        result[name] = _argument(name, given, _property(schema, name), schema)
    return result


def _property(schema: Mapping[str, JSON], name: str) -> JSON:
    for option in _alternatives(schema, schema):
        properties = option.get("properties")
        if isinstance(properties, Mapping) and name in properties:
            return properties[name]
    return {}


def _argument(name: str, given: Sequence[Pair], schema: JSON, root: JSON) -> JSON:
    options = _alternatives(schema, root)
    if len(given) == 1:
        pair = given[0]
        if pair.is_json:
            return pair.value
        return _read(name, pair.value, options, _items(options, root))
    if "array" not in _types(options):
        raise UsageError("%s is given twice" % _quoted(name))
    items = _items(options, root)
    return [
        pair.value if pair.is_json else _read(name, pair.value, items) for pair in given
    ]


def _alternatives(schema: JSON, root: JSON) -> List[Mapping[str, JSON]]:
    """Return a schema and all that it refers to or is made of, each once."""
    found: List[Mapping[str, JSON]] = []
    pending = [schema]
    seen: Set[int] = set()
    while pending and len(found) < _MOST_SCHEMAS:
        schema = pending.pop(0)
        if not isinstance(schema, Mapping) or id(schema) in seen:
            continue
        seen.add(id(schema))
        found.append(schema)
        pending.append(_resolved(schema.get("$ref"), root))
        for keyword in ("allOf", "anyOf", "oneOf"):
            parts = schema.get(keyword)
            pending.extend(parts if isinstance(parts, list) else ())
    return found


def _resolved(reference: JSON, root: JSON) -> JSON:
    """Return what a reference within the document points to; None elsewhere."""
    if not isinstance(reference, str) or not reference.startswith("#/"):
        return None
    value = root
    for step in reference[2:].split("/"):
        step = step.replace("~1", "/").replace("~0", "~")
        value = value.get(step) if isinstance(value, Mapping) else None
    return value


def _types(options: Sequence[Mapping[str, JSON]]) -> List[str]:
    found: List[str] = []
    for option in options:
        kinds = option.get("type")
        for kind in kinds if isinstance(kinds, list) else [kinds]:
            if isinstance(kind, str):
                found.append(kind)
    return found


def _items(
    options: Sequence[Mapping[str, JSON]], root: JSON
) -> List[Mapping[str, JSON]]:
    found: List[Mapping[str, JSON]] = []
    for option in options:
        found.extend(_alternatives(option.get("items"), root))
    return found


def _allowed(options: Sequence[Mapping[str, JSON]]) -> List[JSON]:
    """Return the values that the schema lists, if it does."""
    found: List[JSON] = []
    for option in options:
        values = option.get("enum")
        found.extend(values if isinstance(values, list) else ())
        if "const" in option:
            found.append(option["const"])
    return found


def _read(
    name: str,
    text: str,
    options: Sequence[Mapping[str, JSON]],
    items: Optional[Sequence[Mapping[str, JSON]]] = None,
) -> JSON:
    types, allowed = _types(options), _allowed(options)
    if text in allowed:
        return text
    for value in allowed:
        if not isinstance(value, str) and json.dumps(value) == text:
            return value
    if "string" in types or not types:
        # What may be a text stays one; NAME:=JSON says otherwise.
        return text
    for kind, reader in _READERS.items():
        if kind in types:
            value = reader(text)
            if value is not _NOTHING:
                return value
    if "array" in types and items is not None:
        return [_read(name, text, items)]
    raise UsageError(
        "%s has to be of the type %s, which %s is not"
        % (_quoted(name), " or ".join(sorted(set(types))), _quoted(text))
    )


_NOTHING: Any = object()


def _read_null(text: str) -> JSON:
    return None if text in ("null", "") else _NOTHING


def _read_boolean(text: str) -> JSON:
    return _TRUTH.get(text.lower(), _NOTHING)


def _read_integer(text: str) -> JSON:
    return int(text) if re.fullmatch(r"[+-]?[0-9]{1,400}", text) else _NOTHING


def _read_number(text: str) -> JSON:
    whole = _read_integer(text)
    if whole is not _NOTHING:
        return whole
    if not re.fullmatch(r"[+-]?[0-9.]+([eE][+-]?[0-9]+)?", text):
        return _NOTHING
    try:
        value = float(text)
    except ValueError:
        return _NOTHING
    return value if math.isfinite(value) else _NOTHING


def _json_of(kind: type) -> Callable[[str], JSON]:
    def read(text: str) -> JSON:
        try:
            value = decode(text)
        except MCPError:
            return _NOTHING
        return value if isinstance(value, kind) else _NOTHING

    return read


#: In the order in which they are tried.
_READERS: Dict[str, Callable[[str], JSON]] = {
    "null": _read_null,
    "integer": _read_integer,
    "number": _read_number,
    "boolean": _read_boolean,
    "array": _json_of(list),
    "object": _json_of(dict),
}
