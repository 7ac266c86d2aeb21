"""What is wrong with a value, in words that say nothing about the value itself.

The library's own messages hold the whole instance: megabytes, or a secret. These say
what the schema asks for, and where.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Callable, Dict, Iterable, Protocol, Sequence, Union

from .._text import clean
from ..types import JSON

__all__ = ["LibraryError", "Violation", "kind_of", "violation_of"]

#: Characters of a reason, and of a path, at most.
MAX_REASON = 200

_SIMPLE_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


@dataclass(frozen=True)
class Violation:
    """One way in which a value does not fit its schema.

    Attributes:
        path: where in the value, as a JSON path like ``$.rows[3].id``.
        reason: what the schema asks for there, safe to show.
    """

    path: str
    reason: str

    def __str__(self) -> str:
        return "%s: %s" % (self.path, self.reason)


class LibraryError(Protocol):
    """The parts of ``jsonschema.ValidationError`` that are used."""

    message: str
    validator: JSON
    validator_value: JSON
    instance: JSON

    @property
    def absolute_path(self) -> Sequence[Union[str, int]]: ...

    @property
    def context(self) -> Sequence["LibraryError"]: ...


def violation_of(error: LibraryError) -> Violation:
    """Return the library's error in our words."""
    return Violation(
        json_path(error.absolute_path), _shortened(_reason_with_context(error))
    )


def json_path(steps: Iterable[Union[str, int]]) -> str:
    """Return a JSON path that is safe to show."""
    path = "$"
    for step in steps:
        if isinstance(step, int):
            path += "[%d]" % step
        elif _SIMPLE_NAME.fullmatch(step):
            path += "." + step
        else:
            path += "[%r]" % step
    return _shortened(path)


def _shortened(text: str) -> str:
    cleaned = clean(text, MAX_REASON)
    # Escapes are longer than what they stand for.
    return cleaned if len(cleaned) <= MAX_REASON else cleaned[: MAX_REASON - 1] + "…"


def kind_of(value: JSON) -> str:
    """Return the JSON type of a value."""
    if isinstance(value, bool):
        return "boolean"
    if isinstance(value, int):
        return "integer"
    for python_type, name in (
        (str, "string"),
        (float, "number"),
        (dict, "object"),
        (list, "array"),
    ):
        if isinstance(value, python_type):
            return name
    return "null"


def _listed(values: JSON) -> str:
    values = [values] if isinstance(values, str) else values
    return " or ".join(str(value) for value in values)


def _some(values: Sequence[JSON]) -> str:
    shown = ", ".join(clean(repr(value), 40) for value in values[:5])
    return shown + (", …" if len(values) > 5 else "")


_WORDS: Dict[str, Callable[[LibraryError], str]] = {
    "type": lambda error: "expected %s, got %s"
    % (_listed(error.validator_value), kind_of(error.instance)),
    "enum": lambda error: "not one of %s" % _some(error.validator_value),
    "const": lambda error: "not the only allowed value %s"
    % clean(repr(error.validator_value), 80),
    "not": lambda error: "fits a schema that it must not fit",
    "contains": lambda error: "does not contain what it has to contain",
    "uniqueItems": lambda error: "two items are equal",
    "unevaluatedItems": lambda error: "has items that are not allowed",
    "unevaluatedProperties": lambda error: "has properties that are not allowed",
    "items": lambda error: "has more items than are allowed",
    "additionalItems": lambda error: "has more items than are allowed",
}

#: What is filled in is the keyword's own value.
_BOUNDS = {
    "minimum": "less than the minimum of %s",
    "maximum": "greater than the maximum of %s",
    "exclusiveMinimum": "not greater than %s",
    "exclusiveMaximum": "not less than %s",
    "multipleOf": "not a multiple of %s",
    "minLength": "shorter than %s characters",
    "maxLength": "longer than %s characters",
    "minItems": "fewer than %s items",
    "maxItems": "more than %s items",
    "minProperties": "fewer than %s properties",
    "maxProperties": "more than %s properties",
    "minContains": "fewer than %s of the items that it has to contain",
    "maxContains": "more than %s of the items that it may contain",
    "pattern": "does not match the pattern %r",
}

#: Here the message itself names properties and nothing else.
_HARMLESS = frozenset(
    {
        "additionalProperties",
        "anyOf",
        "dependencies",
        "dependentRequired",
        "oneOf",
        "required",
    }
)


def _reason(error: LibraryError) -> str:
    keyword = error.validator
    if keyword is None:
        return "nothing is allowed here"
    if keyword in _WORDS:
        return _WORDS[keyword](error)
    if keyword in _BOUNDS:
        return _BOUNDS[keyword] % (error.validator_value,)
    if keyword not in _HARMLESS:
        return "does not fit the keyword %s" % keyword
    return error.message


def _reason_with_context(error: LibraryError) -> str:
    # One level of it: branches within branches multiply.
    reasons = [_reason(each) for each in list(error.context)[:3]]
    return ": ".join(filter(None, (_reason(error), "; ".join(reasons))))
