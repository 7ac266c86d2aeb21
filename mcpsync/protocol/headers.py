"""HTTP headers that mirror a request's body, so that proxies need not parse it.

``Mcp-Name`` repeats what a request is about. ``Mcp-Param-*`` repeat the arguments of
a tool call that the tool's input schema marks with ``x-mcp-header``. Servers compare
both with the body and refuse a request in which they differ.

Specification: 2026-07-28, basic/transports/streamable-http and server/tools.
"""

from __future__ import annotations

import base64
import re
from dataclasses import dataclass
from typing import Dict, List, Mapping, Optional, Sequence, Set, Tuple

from .._text import clean
from ..exceptions import InvalidArguments
from ..types import JSON
from ._subschemas import subschemas

__all__ = [
    "InvalidAnnotation",
    "ParameterHeader",
    "encode_value",
    "mirror_parameters",
    "mirrored_name",
    "parameter_headers",
    "valid_session_id",
]

#: The annotation that asks for a header.
ANNOTATION = "x-mcp-header"

#: Bounds on the search for annotations in one input schema.
MAX_DEPTH = 64
MAX_SUBSCHEMAS = 2000

#: Beyond this a receiver that reads JSON numbers as doubles sees another number.
MAX_INTEGER = 2**53 - 1

_MIRRORED_PARAMETER = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
    # The tasks extension, io.modelcontextprotocol/tasks.
    "tasks/get": "taskId",
    "tasks/update": "taskId",
    "tasks/cancel": "taskId",
}

_ALLOWED_TYPES = ("integer", "string", "boolean")

# RFC 9110, section 5.6.2.
_TOKEN = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")

# A tab inside a value would be legal, but the specification's test tables encode it.
_PLAIN = re.compile(r"(?:[\x21-\x7e](?:[\x20-\x7e]*[\x21-\x7e])?)?")

_SESSION_ID = re.compile(r"[\x21-\x7e]{1,1024}")


class InvalidAnnotation(ValueError):
    """An ``x-mcp-header`` annotation that makes its tool unusable over HTTP.

    Clients leave such a tool out of the listing and keep the others.
    """


@dataclass(frozen=True)
class ParameterHeader:
    """One argument that is repeated in a header.

    Attributes:
        name: the name that the tool gave it, without ``Mcp-Param-``.
        path: the names of the properties from the arguments down to the value.
    """

    name: str
    path: Tuple[str, ...]

    @property
    def header(self) -> str:
        """The name of the HTTP header."""
        return "Mcp-Param-" + self.name


def encode_value(value: str) -> str:
    """Return text in the form in which a mirroring header carries it.

    Printable ASCII without blanks at its ends stays as it is, the empty string too.
    Everything else becomes ``=?base64?…?=`` around the Base64 of its UTF-8, as does
    text that could be taken for that form.

    Raises:
        InvalidArguments: the text holds a lone surrogate, which has no UTF-8.
    """
    disguised = value.startswith("=?base64?") and value.endswith("?=")
    if not disguised and _PLAIN.fullmatch(value):
        return value
    try:
        data = value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise InvalidArguments(
            "a lone surrogate cannot be sent in a header: %s" % clean(ascii(value), 80)
        ) from error
    return "=?base64?%s?=" % base64.b64encode(data).decode("ascii")


def mirrored_name(method: str, params: Optional[Mapping[str, JSON]]) -> Optional[str]:
    """Return what ``Mcp-Name`` says for a request, not yet encoded.

    Returns:
        ``None`` for methods without that header, and where the parameter that it
        mirrors is absent or no string.
    """
    parameter = _MIRRORED_PARAMETER.get(method)
    if parameter is None or params is None:
        return None
    value = params.get(parameter)
    return value if isinstance(value, str) else None


def valid_session_id(text: str) -> bool:
    """Tell whether a session id may be sent back: 1 to 1024 visible ASCII characters.

    Specification: 2025-11-25, basic/transports.
    """
    return _SESSION_ID.fullmatch(text) is not None


# --- annotations -----------------------------------------------------------------


def parameter_headers(input_schema: JSON) -> Tuple[ParameterHeader, ...]:
    """Return the parameters of a tool that are mirrored, in the schema's order.

    Raises:
        InvalidAnnotation: an annotation breaks a rule of the specification, or the
            schema that holds one is too large to be searched.
    """
    if not isinstance(input_schema, dict) or not _mentions_annotation(input_schema):
        return ()
    search = _Search()
    search.run(input_schema)
    return tuple(search.found)


def _mentions_annotation(value: JSON) -> bool:
    # Nearly all schemas end here, and none of those can be too large.
    pending: List[JSON] = [value]
    while pending:
        value = pending.pop()
        if isinstance(value, dict):
            if ANNOTATION in value:
                return True
            pending.extend(value.values())
        elif isinstance(value, list):
            pending.extend(value)
    return False


@dataclass(frozen=True)
class _Place:
    """A subschema, and how the search came to it.

    `path` is ``None`` once anything but ``properties`` had to be passed.
    """

    schema: JSON
    steps: Tuple[str, ...]
    path: Optional[Tuple[str, ...]]
    depth: int

    def __str__(self) -> str:
        if self.path:
            return "property %s" % clean(repr(".".join(self.path)), 100)
        return clean("/".join(("#",) + self.steps), 100)


class _Search:
    """One walk through an input schema."""

    def __init__(self) -> None:
        self.found: List[ParameterHeader] = []
        self._names: Set[str] = set()

    def run(self, schema: Dict[str, JSON]) -> None:
        pending = [_Place(schema, (), (), 0)]
        visited = 0
        while pending:
            place = pending.pop()
            visited += 1
            if visited > MAX_SUBSCHEMAS:
                raise InvalidAnnotation("more than %d subschemas" % MAX_SUBSCHEMAS)
            if place.depth > MAX_DEPTH:
                raise InvalidAnnotation("nested deeper than %d schemas" % MAX_DEPTH)
            if isinstance(place.schema, dict):
                self._look_at(place)
                # Reversed, because the last one is taken first.
                pending.extend(reversed(_below(place)))

    def _look_at(self, place: _Place) -> None:
        if ANNOTATION not in place.schema:
            return
        name = place.schema[ANNOTATION]
        if not place.path:
            raise InvalidAnnotation(
                "%s is annotated, but not a property that is reached through "
                '"properties" alone' % place
            )
        if not isinstance(name, str) or not _TOKEN.fullmatch(name):
            raise InvalidAnnotation(
                "%s: the header name %s is not a token"
                % (place, clean(repr(name), 100))
            )
        if name.lower() in self._names:
            raise InvalidAnnotation(
                "%s: the header name %r is used twice" % (place, name[:100])
            )
        if not _is_primitive(place.schema):
            raise InvalidAnnotation(
                "%s: only integer, string and boolean can be mirrored, not %s"
                % (place, clean(repr(place.schema.get("type", "any type")), 100))
            )
        self._names.add(name.lower())
        self.found.append(ParameterHeader(name, place.path))


def _below(place: _Place) -> List[_Place]:
    places = []
    for steps, child in subschemas(place.schema):
        path = None
        if place.path is not None and steps[0] == "properties":
            path = place.path + (steps[1],)
        places.append(_Place(child, place.steps + steps, path, place.depth + 1))
    return places


def _is_primitive(schema: Dict[str, JSON]) -> bool:
    kinds = _types(schema)
    if isinstance(kinds, str):
        return kinds in _ALLOWED_TYPES
    # The specification is silent about values that may also be null. A null is not
    # mirrored, so nothing is lost by allowing them.
    named = [kind for kind in kinds if kind != "null"]
    return len(named) == 1 and named[0] in _ALLOWED_TYPES


def _types(schema: Dict[str, JSON]) -> JSON:
    kinds = schema.get("type")
    if isinstance(kinds, (str, list)):
        return kinds
    for keyword in ("anyOf", "oneOf"):
        branches = schema.get(keyword)
        if isinstance(branches, list) and all(isinstance(b, dict) for b in branches):
            return [branch.get("type") for branch in branches]
    return []


# --- values ----------------------------------------------------------------------


def mirror_parameters(
    headers: Sequence[ParameterHeader], arguments: Optional[Mapping[str, JSON]]
) -> Dict[str, str]:
    """Return the ``Mcp-Param-*`` headers of a tool call.

    Arguments that are absent or ``None`` have no header.

    Raises:
        InvalidArguments: a value has no form in a header: an integer beyond
            ±(2**53 - 1), a fraction, an object, an array.
    """
    mirrored = {}
    for header in headers:
        value = _value_at(arguments, header.path)
        if value is not None:
            mirrored[header.header] = _header_text(value, header)
    return mirrored


def _value_at(arguments: JSON, path: Tuple[str, ...]) -> JSON:
    value = arguments
    for name in path:
        if not isinstance(value, Mapping):
            return None
        value = value.get(name)
    return value


def _header_text(value: JSON, header: ParameterHeader) -> str:
    # Booleans first: Python counts them among the integers.
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        # A member of an enumeration is sent in the body by its value as well.
        return encode_value(str.__str__(value))
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if not isinstance(value, int):
        raise InvalidArguments(
            "argument %s is sent in the header %s, which takes a string, an integer "
            "or a boolean, not %s"
            % (clean(".".join(header.path), 100), header.header, type(value).__name__)
        )
    if abs(value) > MAX_INTEGER:
        raise InvalidArguments(
            "argument %s is sent in the header %s, which takes integers up to 2**53 - 1"
            % (clean(".".join(header.path), 100), header.header)
        )
    return "%d" % value
