"""The flat schemas of elicitation: forms that a person fills in.

Specification: 2026-07-28, client/elicitation.
"""

from __future__ import annotations

import copy
from typing import Dict, Mapping, Optional

from ..exceptions import SchemaRefused
from ..types import JSON
from ._formats import FORMATS
from ._patterns import Pattern
from ._violations import Violation, json_path, kind_of

__all__ = ["fill_defaults", "form_schema", "format_violation"]

#: Characters of all defaults of one form together, names included, at most.
MAX_DEFAULTS = 64 * 1024

#: What a property of a form may be asked for.
_FORM_KEYWORDS = (
    "anyOf",
    "const",
    "enum",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "oneOf",
    "type",
    "uniqueItems",
)


def fill_defaults(
    requested_schema: Mapping[str, JSON], content: Mapping[str, JSON]
) -> Dict[str, JSON]:
    """Return a copy of an answer in which defaults stand for what is missing.

    Defaults of the kinds that a form can have are taken: text, numbers, booleans and
    arrays of text, where they fit the property's own type.

    Raises:
        SchemaRefused: the defaults exceed 64 KiB.
    """
    filled = copy.deepcopy(dict(content))
    room = MAX_DEFAULTS
    for name, asked in _properties(requested_schema).items():
        if name in filled or not isinstance(asked, dict):
            continue
        default = asked.get("default")
        if not _is_default(default, asked.get("type")):
            continue
        room -= len(name) + _length(default)
        if room < 0:
            raise SchemaRefused("the form's defaults exceed %d bytes" % MAX_DEFAULTS)
        filled[name] = list(default) if isinstance(default, list) else default
    return filled


def _properties(requested_schema: Mapping[str, JSON]) -> Mapping[str, JSON]:
    properties = requested_schema.get("properties")
    return properties if isinstance(properties, Mapping) else {}


def _is_default(default: JSON, expected: JSON) -> bool:
    kind = kind_of(default)
    if kind == "array":
        fits = all(isinstance(item, str) for item in default)
    else:
        fits = kind in ("string", "boolean", "integer", "number")
    if not fits or not isinstance(expected, str):
        return fits
    if expected == "integer":
        return kind == "integer" or (kind == "number" and default.is_integer())
    return kind == expected or (kind, expected) == ("integer", "number")


def _length(default: JSON) -> int:
    if isinstance(default, list):
        return sum(len(item) + 3 for item in default)
    return len(default) if isinstance(default, str) else 8


def form_schema(requested_schema: Mapping[str, JSON]) -> Dict[str, JSON]:
    """Return what of a requested schema decides about an answer, formats apart."""
    form: Dict[str, JSON] = {
        "type": "object",
        "properties": {
            name: _form_property(asked)
            for name, asked in _properties(requested_schema).items()
        },
    }
    for keyword in ("required", "additionalProperties"):
        value = requested_schema.get(keyword)
        if isinstance(value, (list, bool)):
            form[keyword] = value
    return form


def _form_property(asked: JSON) -> JSON:
    if not isinstance(asked, dict):
        return True
    kept = {keyword: asked[keyword] for keyword in _FORM_KEYWORDS if keyword in asked}
    try:
        Pattern(asked["pattern"])
    except (KeyError, TypeError, SchemaRefused):
        return kept
    kept["pattern"] = asked["pattern"]
    return kept


def format_violation(
    requested_schema: Mapping[str, JSON], answer: Mapping[str, JSON]
) -> Optional[Violation]:
    """Return the first text of an answer that is not in the format asked for."""
    for name, asked in _properties(requested_schema).items():
        violation = _check_format(name, asked, answer.get(name))
        if violation is not None:
            return violation
    return None


def _check_format(name: str, asked: JSON, value: JSON) -> Optional[Violation]:
    expected = asked.get("format") if isinstance(asked, dict) else None
    if not isinstance(expected, str) or not isinstance(value, str):
        return None
    test = FORMATS.get(expected)
    if test is None or test(value):
        return None
    return Violation(json_path([name]), "not in the format %s" % expected)
