"""The compiled checks, against the library that they save."""

from __future__ import annotations

import random
from typing import Any, List

import pytest

from mcpsync.exceptions import SchemaRefused
from mcpsync.protocol._fastschema import DECIDING, FastCheck, compile_fast
from mcpsync.protocol._schemawalk import Lookup, dialect_of, survey
from mcpsync.protocol.schema import compile_schema

from .schema_samples import DIALECTS, random_schema, random_value


def library(dialect: str, schema: Any) -> Any:
    """Return the library's own validator, which never fetches anything."""
    import referencing
    from jsonschema import validators

    classes = {
        "2020-12": validators.Draft202012Validator,
        "2019-09": validators.Draft201909Validator,
        "draft-07": validators.Draft7Validator,
        "draft-06": validators.Draft6Validator,
        "draft-04": validators.Draft4Validator,
    }
    return classes[dialect](schema, registry=referencing.Registry())


def quick(schema: Any) -> Any:
    plain = {key: value for key, value in schema.items() if key != "$schema"}
    return compile_fast(plain, survey(plain, dialect_of(schema), Lookup(plain)))


def says(check: FastCheck, value: Any) -> bool:
    return check.test is None or check.test(value)


def is_valid(reference: Any, value: Any) -> bool:
    answer: bool = reference.is_valid(value)
    return answer


# --- tables ------------------------------------------------------------------------

VALUES: List[Any] = [
    0,
    1,
    -1,
    1.0,
    0.0,
    1.5,
    2**70,
    1e300,
    True,
    False,
    None,
    "",
    "1",
    "a",
    "ab",
    "é",
    [],
    [1],
    [True],
    ["a", "a"],
    ["a", "b"],
    {},
    {"a": 1},
    {"a": True, "b": "x"},
    {"b": None},
]

SCHEMAS: List[Any] = [
    {},
    {"type": "integer"},
    {"type": "number"},
    {"type": "boolean"},
    {"type": ["integer", "null"]},
    {"type": ["string", "array", "boolean"]},
    {"enum": ["a", "b", 1]},
    {"enum": [True]},
    {"enum": [1.0]},
    {"enum": [0, None, "a"]},
    {"enum": []},
    {"const": 1},
    {"const": 1.0},
    {"const": True},
    {"const": False},
    {"const": None},
    {"const": "a"},
    {"minimum": 1, "maximum": 1.5},
    {"exclusiveMinimum": 0, "exclusiveMaximum": 1.5},
    {"minLength": 1, "maxLength": 1},
    {"minItems": 1, "maxItems": 1},
    {"minProperties": 1, "maxProperties": 1.0},
    {"items": {"type": "integer"}},
    {"items": False},
    {"properties": {"a": {"type": "integer"}}},
    {"properties": {"a": False}, "required": ["b"]},
    {"properties": {"a": True}, "additionalProperties": False},
    {"additionalProperties": {"type": "string"}},
    {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    {"anyOf": [{"type": "integer"}, True]},
    {"oneOf": [{"type": "integer"}, {"type": "number"}]},
    {"oneOf": [{"const": "a"}, {"enum": ["b", "ab"]}, True]},
    {"allOf": [{"type": "number"}, {"minimum": 1}]},
    {"allOf": [{"minLength": 1}, {"maxLength": 1}, {"type": "string"}, {}]},
    {"$ref": "#/$defs/x", "$defs": {"x": {"type": "string"}}, "minLength": 2},
    {"title": "t", "default": 1, "format": "email", "x-vendor": {"type": 5}},
]


@pytest.mark.parametrize("schema", SCHEMAS)
def test_exact_checks_agree_with_the_library(schema: Any) -> None:
    check = quick(schema)
    assert check.exact
    reference = library("2020-12", schema)
    for value in VALUES:
        assert says(check, value) is is_valid(reference, value), value


@pytest.mark.parametrize(
    "schema", [{"uniqueItems": True}, {"pattern": "^a"}, {"uniqueItems": False}]
)
def test_the_others_are_right_when_they_say_yes(schema: Any) -> None:
    check = quick(schema)
    reference = library("2020-12", schema)
    assert any(says(check, value) for value in VALUES)
    for value in VALUES:
        assert not says(check, value) or is_valid(reference, value), value


@pytest.mark.parametrize(
    "schema",
    [
        {"not": {}},
        {"if": {}, "then": {}},
        {"patternProperties": {"a": {}}},
        {"prefixItems": [{}]},
        {"enum": [[1]]},
        {"const": {}},
        {"enum": list(range(100))},
        {"multipleOf": 2},
        {"dependentRequired": {"a": ["b"]}},
        {"unevaluatedProperties": False},
        {"properties": {"a": {"$ref": "#"}}},
        {"oneOf": [{"pattern": "^a"}, {"type": "integer"}]},
        {"pattern": "a+b"},
        {"$schema": DIALECTS["draft-04"], "type": "integer"},
        {"$schema": DIALECTS["draft-07"], "items": [{}]},
    ],
)
def test_what_only_the_library_knows_is_left_to_it(schema: Any) -> None:
    assert quick(schema) is None


def test_a_reference_switches_its_neighbours_off_in_old_dialects() -> None:
    schema = {"$ref": "#/definitions/x", "definitions": {"x": {}}, "minLength": 5}
    assert not says(quick(schema), "a")
    assert says(quick({"$schema": DIALECTS["draft-07"], **schema}), "a")
    assert compile_schema({"$schema": DIALECTS["draft-07"], **schema}).check("") is None


def test_the_width_counts_what_is_applied_to_one_place() -> None:
    assert quick({"type": "object", "properties": {"a": {"type": "null"}}}).width == 1
    union = {"anyOf": [{"type": "integer"}, {"type": "null"}]}
    assert quick({"properties": {"a": union, "b": union}}).width == 3
    assert quick({"items": {"allOf": [union, union]}}).width == 7


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_no_keyword_of_the_library_is_overlooked(dialect: str) -> None:
    known = set(library(dialect, {}).VALIDATORS)
    # Formats are annotations.
    assert known - DECIDING <= {"format"}


# --- at random ---------------------------------------------------------------------


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
@pytest.mark.parametrize("seed", range(4))
def test_checks_agree_with_the_library(dialect: str, seed: int) -> None:
    choose = random.Random("%s %d" % (dialect, seed))
    compared = 0
    for _ in range(120):
        schema = random_schema(choose, dialect)
        schema["$defs"] = {"x": random_schema(choose, dialect, 0)}
        schema["$schema"] = DIALECTS[dialect]
        validator = compile_schema(schema)
        check = quick(schema)
        reference = library(dialect, schema)
        for _ in range(6):
            value = random_value(choose)
            expected = is_valid(reference, value)
            assert (validator.check(value) is None) is expected, (schema, value)
            if check is None:
                continue
            compared += 1
            if check.exact:
                assert says(check, value) is expected, (schema, value)
            else:
                assert not says(check, value) or expected, (schema, value)
    assert compared > 50 or dialect == "draft-04"


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_what_the_walk_accepts_the_library_accepts(dialect: str) -> None:
    """Break random schemas: what is left of them is well formed, or refused."""
    choose = random.Random(dialect)
    accepted = refused = 0
    for _ in range(400):
        schema = random_schema(choose, dialect)
        schema["$defs"] = {"x": {}}
        _spoil(choose, schema)
        schema["$schema"] = DIALECTS[dialect]
        try:
            compile_schema(schema)
        except SchemaRefused:
            refused += 1
            continue
        accepted += 1
        for value in VALUES:
            # Whatever it means, it means it without an exception.
            is_valid(library(dialect, schema), value)
    assert accepted > 40 and refused > 40


def _spoil(choose: random.Random, schema: Any) -> None:
    place = schema
    while True:
        key = choose.choice(sorted(place))
        inner = place[key]
        if isinstance(inner, dict) and inner and choose.random() < 0.6:
            place = inner
            continue
        place[key] = choose.choice([None, 5, -1, "x", [], {}, True, [5], [{}], 1.5])
        return
