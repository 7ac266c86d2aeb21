"""Where a JSON Schema holds further schemas, in any dialect since draft-04.

Everything else in a schema is data: a ``default`` that looks like a schema is none,
and a property may well be named ``items``.
"""

from __future__ import annotations

from typing import Dict, Iterator, List, Tuple

from ..types import JSON

__all__ = ["SINGLE", "LISTED", "NAMED", "is_schema", "subschemas"]

#: The value is one schema. (`items` may be a list as well before 2020-12.)
SINGLE = frozenset(
    {
        "additionalItems",
        "additionalProperties",
        "contains",
        "contentSchema",
        "else",
        "if",
        "items",
        "not",
        "propertyNames",
        "then",
        "unevaluatedItems",
        "unevaluatedProperties",
    }
)

#: The value is a list of schemas.
LISTED = frozenset({"allOf", "anyOf", "oneOf", "prefixItems", "items"})

#: The value maps names to schemas. (`dependencies` also maps to lists of names.)
NAMED = frozenset(
    {
        "$defs",
        "definitions",
        "dependencies",
        "dependentSchemas",
        "patternProperties",
        "properties",
    }
)

#: How to get from a schema to one of its subschemas.
Steps = Tuple[str, ...]


def is_schema(value: JSON) -> bool:
    """Tell whether a JSON value can be a schema at all."""
    return isinstance(value, (dict, bool))


def subschemas(schema: Dict[str, JSON]) -> Iterator[Tuple[Steps, JSON]]:
    """Yield each direct subschema with the steps that lead to it.

    Values that are no schemas are passed over: who cares looks for them himself.
    """
    for keyword, value in schema.items():
        if keyword in NAMED and isinstance(value, dict):
            for name, child in value.items():
                if is_schema(child):
                    yield (keyword, name), child
        elif keyword in LISTED and isinstance(value, list):
            yield from _listed(keyword, value)
        elif keyword in SINGLE and is_schema(value):
            yield (keyword,), value


def _listed(keyword: str, value: List[JSON]) -> Iterator[Tuple[Steps, JSON]]:
    for index, child in enumerate(value):
        if is_schema(child):
            yield (keyword, str(index)), child
