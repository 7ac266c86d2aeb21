"""A first look at a schema from a server: is it well formed, small, self-contained?

The walk is bounded itself, resolves only what is in the document, and needs no
library for the usual references. It says nothing about any value.

Specification: 2026-07-28, basic/index (JSON Schema usage).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Callable, Dict, List, Tuple
from urllib.parse import unquote

from .._text import clean
from ..exceptions import SchemaRefused
from ..types import JSON
from ._patterns import Pattern
from ._subschemas import LISTED, NAMED, SINGLE, is_schema, subschemas

__all__ = ["SHAPES", "Dialect", "Lookup", "Survey", "dialect_of", "survey"]

MAX_SUBSCHEMAS = 2000
MAX_DEPTH = 64

#: Distinct patterns in one schema: judging one may cost 0.03 s.
MAX_PATTERNS = 100

TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})

#: The keywords that refer to another schema.
REFERENCES = ("$ref", "$dynamicRef", "$recursiveRef")


# --- dialects --------------------------------------------------------------------


@dataclass(frozen=True)
class Dialect:
    """One version of JSON Schema.

    Attributes:
        name: as its address has it, ``"2020-12"`` or ``"draft-07"``.
        id_keyword: the keyword that gives a schema its address.
        ref_alone: whether ``$ref`` switches the keywords beside it off.
        boolean_bounds: whether ``exclusiveMinimum`` is a flag.
        item_lists: whether ``items`` may be a list of schemas.
    """

    name: str
    id_keyword: str = "$id"
    ref_alone: bool = False
    boolean_bounds: bool = False
    item_lists: bool = True


_DIALECTS = {
    "json-schema.org/draft/2020-12/schema": Dialect("2020-12", item_lists=False),
    "json-schema.org/draft/2019-09/schema": Dialect("2019-09"),
    "json-schema.org/draft-07/schema": Dialect("draft-07", ref_alone=True),
    "json-schema.org/draft-06/schema": Dialect("draft-06", ref_alone=True),
    "json-schema.org/draft-04/schema": Dialect(
        "draft-04", id_keyword="id", ref_alone=True, boolean_bounds=True
    ),
}


def dialect_of(schema: JSON) -> Dialect:
    """Return the dialect that a schema declares; 2020-12 if it declares none.

    Raises:
        SchemaRefused: it declares one that is unknown.
    """
    declared = schema.get("$schema") if isinstance(schema, dict) else None
    if declared is None:
        return _DIALECTS["json-schema.org/draft/2020-12/schema"]
    if isinstance(declared, str):
        # With or without "#", and many write https where http is the name.
        address = re.sub(r"\Ahttps?://", "", declared.rstrip("#"))
        if address in _DIALECTS:
            return _DIALECTS[address]
    raise SchemaRefused(
        "the schema's dialect is unknown: %s" % clean(repr(declared), 100)
    )


# --- keywords --------------------------------------------------------------------


def _is_number(value: JSON) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _is_count(value: JSON) -> bool:
    return _is_number(value) and value >= 0 and value == int(value)


def _are_names(value: JSON) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _are_types(value: JSON) -> bool:
    if isinstance(value, str):
        return value in TYPES
    return _are_names(value) and bool(value) and TYPES.issuperset(value)


def _is_text(value: JSON) -> bool:
    return isinstance(value, str)


def _is_flag(value: JSON) -> bool:
    return isinstance(value, bool)


#: What the value of a keyword that decides about values has to be. Annotations are
#: missing: a malformed title does no harm.
SHAPES: Dict[str, Callable[[JSON], bool]] = {
    "$anchor": _is_text,
    "$dynamicAnchor": _is_text,
    "$dynamicRef": _is_text,
    "$id": _is_text,
    "$recursiveAnchor": _is_flag,
    "$recursiveRef": _is_text,
    "$ref": _is_text,
    "const": lambda value: True,
    "dependentRequired": lambda value: (
        isinstance(value, dict) and all(_are_names(each) for each in value.values())
    ),
    "enum": lambda value: isinstance(value, list),
    "exclusiveMaximum": _is_number,
    "exclusiveMinimum": _is_number,
    "maxContains": _is_count,
    "maxItems": _is_count,
    "maxLength": _is_count,
    "maxProperties": _is_count,
    "maximum": _is_number,
    "minContains": _is_count,
    "minItems": _is_count,
    "minLength": _is_count,
    "minProperties": _is_count,
    "minimum": _is_number,
    "multipleOf": lambda value: _is_number(value) and value > 0,
    "pattern": _is_text,
    "required": _are_names,
    "type": _are_types,
    "uniqueItems": _is_flag,
}


def _is_well_formed(keyword: str, value: JSON, dialect: Dialect) -> bool:
    if keyword in ("exclusiveMinimum", "exclusiveMaximum") and dialect.boolean_bounds:
        return _is_flag(value)
    if keyword in SHAPES:
        return SHAPES[keyword](value)
    if keyword in NAMED:
        return isinstance(value, dict) and all(
            is_schema(each) or (keyword == "dependencies" and _are_names(each))
            for each in value.values()
        )
    if keyword in LISTED and isinstance(value, list):
        if keyword == "items" and not dialect.item_lists:
            return False
        return bool(value) and all(is_schema(each) for each in value)
    if keyword in SINGLE:
        return is_schema(value)
    return keyword not in LISTED


# --- the walk --------------------------------------------------------------------


class Lookup:
    """Finds what a reference refers to, as seen from one place of the document.

    This one knows JSON pointers from the document's root, which is all there is to
    know as long as no subschema has an address of its own.
    """

    def __init__(self, root: JSON) -> None:
        self._root = root

    def entering(self, schema: JSON) -> "Lookup":
        """Return the lookup that holds inside of a subschema."""
        return self

    def find(self, reference: str) -> Tuple[JSON, "Lookup"]:
        """Return the schema that is referred to, and the lookup that holds there.

        Raises:
            LookupError: it is not in this document.
        """
        value = self._root
        if reference in ("", "#"):
            return value, self
        if not reference.startswith("#/"):
            raise LookupError(reference)
        for step in unquote(reference[2:]).split("/"):
            if isinstance(value, dict):
                value = value[step.replace("~1", "/").replace("~0", "~")]
            elif isinstance(value, list) and step.isdecimal():
                value = value[int(step)]
            else:
                raise LookupError(reference)
        return value, self


@dataclass
class Survey:
    """What the walk has learned of a schema. Not changed after that.

    Attributes:
        dialect: the dialect of the whole document.
        size: how many subschemas there are.
        addresses: how many of them have an address of their own.
        patterns: the judged patterns, by their text.
        name_patterns: those that are used on the names of properties.
        targets: what a reference leads to, by the identity of the schema it is in.
        weights: how many subschemas a schema stands for once its references are
            written out, by its identity.
    """

    dialect: Dialect
    size: int = 0
    addresses: int = 0
    patterns: Dict[str, Pattern] = field(default_factory=dict)
    name_patterns: Dict[str, Pattern] = field(default_factory=dict)
    targets: Dict[int, List[JSON]] = field(default_factory=dict)
    weights: Dict[int, int] = field(default_factory=dict)


@dataclass(frozen=True)
class _Place:
    schema: JSON
    steps: Tuple[str, ...]
    depth: int
    lookup: Lookup

    def __str__(self) -> str:
        return clean("/".join(self.steps), 100)


def survey(root: JSON, dialect: Dialect, lookup: Lookup) -> Survey:
    """Walk a schema, without its ``$schema``, and everything that it refers to.

    Raises:
        SchemaRefused: it is malformed, too large, not self-contained, or unsafe.
    """
    walk = _Walk(dialect)
    walk.run(root, lookup)
    _weigh(root, walk.result, MAX_SUBSCHEMAS)
    return walk.result


class _Walk:
    def __init__(self, dialect: Dialect) -> None:
        self.result = Survey(dialect)
        self._seen: Dict[int, JSON] = {}
        self._pending: List[_Place] = []

    def run(self, root: JSON, lookup: Lookup) -> None:
        self._pending = [_Place(root, ("#",), 0, lookup)]
        while self._pending:
            place = self._pending.pop()
            if id(place.schema) in self._seen:
                continue
            self.result.size += 1
            if self.result.size > MAX_SUBSCHEMAS:
                raise SchemaRefused("more than %d subschemas" % MAX_SUBSCHEMAS)
            if place.depth > MAX_DEPTH:
                raise SchemaRefused("nested deeper than %d schemas" % MAX_DEPTH)
            if isinstance(place.schema, dict):
                self._seen[id(place.schema)] = place.schema
                self._visit(place)

    def _visit(self, place: _Place) -> None:
        schema = place.schema
        for keyword, value in schema.items():
            if not _is_well_formed(keyword, value, self.result.dialect):
                raise SchemaRefused(
                    "malformed %s: %s at %s"
                    % (clean(keyword, 40), clean(repr(value), 60), place)
                )
        # The library would leave its bounds here: it changes to its own class.
        if "$schema" in schema:
            raise SchemaRefused("a dialect of its own at %s" % place)
        if self.result.dialect.id_keyword in schema:
            self.result.addresses += 1
        lookup = place.lookup.entering(schema)
        self._take_patterns(schema)
        self._follow_references(schema, place, lookup)
        for steps, child in subschemas(schema):
            self._pending.append(
                _Place(child, place.steps + steps, place.depth + 1, lookup)
            )

    def _take_patterns(self, schema: Dict[str, JSON]) -> None:
        if "pattern" in schema:
            self._judged(schema["pattern"])
        for text in schema.get("patternProperties", ()):
            self.result.name_patterns[text] = self._judged(text)

    def _judged(self, text: str) -> Pattern:
        patterns = self.result.patterns
        if text not in patterns:
            if len(patterns) >= MAX_PATTERNS:
                raise SchemaRefused("more than %d patterns" % MAX_PATTERNS)
            patterns[text] = Pattern(text)
        return patterns[text]

    def _follow_references(
        self, schema: Dict[str, JSON], place: _Place, lookup: Lookup
    ) -> None:
        for keyword in REFERENCES:
            if keyword not in schema:
                continue
            reference = schema[keyword]
            try:
                target, there = lookup.find(reference)
            except LookupError as error:
                raise SchemaRefused(
                    "the reference %s at %s leads out of the schema, or nowhere"
                    % (clean(repr(reference), 100), place)
                ) from error
            if not is_schema(target):
                raise SchemaRefused(
                    "the reference %s leads to no schema" % clean(repr(reference), 100)
                )
            self.result.targets.setdefault(id(schema), []).append(target)
            if id(target) not in self._seen:
                self._pending.append(_Place(target, (clean(reference),), 0, there))


def _weigh(root: JSON, result: Survey, limit: int) -> None:
    """Count subschemas as they are once every reference is written out."""
    weights = result.weights

    def weigh(schema: JSON) -> int:
        if not isinstance(schema, dict):
            return 1
        known = weights.get(id(schema))
        if known is not None:
            return known
        # A schema that refers to itself counts once there: how often it is applied
        # depends on the value, not on the schema.
        weights[id(schema)] = total = 1
        for steps, child in subschemas(schema):
            if steps[0] not in ("$defs", "definitions"):
                total += weigh(child)
        for target in result.targets.get(id(schema), ()):
            total += weigh(target)
        if total > limit:
            raise SchemaRefused(
                "more than %d subschemas, once references are written out" % limit
            )
        weights[id(schema)] = total
        return total

    weigh(root)
