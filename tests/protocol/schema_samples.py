"""Random schemas and values, small enough to meet often."""

from __future__ import annotations

import random
from typing import Any, Dict

__all__ = ["DIALECTS", "random_schema", "random_value"]

DIALECTS = {
    "2020-12": "https://json-schema.org/draft/2020-12/schema",
    "2019-09": "https://json-schema.org/draft/2019-09/schema",
    "draft-07": "http://json-schema.org/draft-07/schema#",
    "draft-06": "http://json-schema.org/draft-06/schema#",
    "draft-04": "http://json-schema.org/draft-04/schema#",
}

SCALARS = [0, 1, 2, -1, 1.0, 1.5, 0.0, True, False, None, "", "a", "ab", "1", 1e20]
NAMES = ["a", "b", "c"]
TYPES = ["string", "integer", "number", "boolean", "null", "object", "array"]

_COUNTS = ["minLength", "maxLength", "minItems", "maxItems", "minProperties"]
_BOUNDS = ["minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"]
_SINGLE = ["items", "additionalProperties"]
_BRANCHES = ["anyOf", "oneOf", "allOf"]
_SLOW = ["not", "contains", "propertyNames", "unevaluatedProperties", "if"]
_LEAVES = ["type", "type", "type", "enum", "const", "required", "title", "pattern"]


def random_value(choose: random.Random, depth: int = 3) -> Any:
    kind = choose.random()
    if depth == 0 or kind < 0.5:
        return choose.choice(SCALARS)
    if kind < 0.75:
        # Three at most: the library overlooks some equal items of longer lists.
        return [random_value(choose, depth - 1) for _ in range(choose.randint(0, 3))]
    names = choose.sample(NAMES + ["zz"], choose.randint(0, 3))
    return {name: random_value(choose, depth - 1) for name in names}


def random_schema(choose: random.Random, dialect: str, depth: int = 3) -> Any:
    """Return a well-formed schema that refers to `#/$defs/x`, which it has not."""
    if depth < 3 and dialect != "draft-04" and choose.random() < 0.1:
        return choose.random() < 0.6
    schema: Dict[str, Any] = {}
    for _ in range(choose.randint(1, 3)):
        schema.update(_keyword(choose, dialect, depth))
    return schema


def _keyword(choose: random.Random, dialect: str, depth: int) -> Dict[str, Any]:
    compound = ["properties", *_SINGLE, *_BRANCHES, *_SLOW, "$ref", "$ref"]
    keywords = [*_LEAVES, *_COUNTS, *_BOUNDS, "uniqueItems", "multipleOf"]
    keyword = choose.choice(keywords + (compound if depth else []))
    if keyword in compound:
        return {keyword: _compound(choose, dialect, depth - 1, keyword)}
    return {keyword: _leaf(choose, dialect, keyword)}


def _compound(choose: random.Random, dialect: str, depth: int, keyword: str) -> Any:
    if keyword == "$ref":
        return "#/$defs/x"
    if keyword == "properties":
        names = choose.sample(NAMES, choose.randint(0, 3))
        return {name: random_schema(choose, dialect, depth) for name in names}
    if keyword in _BRANCHES:
        count = choose.randint(1, 3)
        return [random_schema(choose, dialect, depth) for _ in range(count)]
    return random_schema(choose, dialect, depth)


def _leaf(choose: random.Random, dialect: str, keyword: str) -> Any:
    if keyword == "type":
        some = choose.sample(TYPES, choose.randint(1, 3))
        return some if choose.random() < 0.3 else some[0]
    if keyword == "enum":
        return [random_value(choose, 1) for _ in range(choose.randint(1, 4))]
    if keyword == "const":
        return random_value(choose, 1)
    if keyword.startswith("exclusive") and dialect == "draft-04":
        return choose.random() < 0.5
    fixed: Dict[str, Any] = {
        "required": choose.sample(NAMES, choose.randint(1, 2)),
        "title": "t",
        "pattern": choose.choice(["^a", "b$", "^[ab]*$", "1", ""]),
        "uniqueItems": choose.random() < 0.8,
        "multipleOf": choose.choice([1, 2, 0.5]),
    }
    if keyword in fixed:
        return fixed[keyword]
    return choose.choice([0, 1, 2, 3, 1.0] if keyword in _COUNTS else [0, 1, 1.5, -1])
