"""Validation of structured output, and of answers to forms."""

from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Dict, List, Optional

import pytest

from mcpsync.exceptions import InvalidArguments, SchemaRefused
from mcpsync.protocol.schema import (
    Violation,
    check_answer,
    compile_schema,
    fill_defaults,
)

from .schema_samples import DIALECTS

ROWS = {
    "type": "object",
    "properties": {
        "rows": {"type": "array", "items": {"$ref": "#/$defs/Row"}},
        "next": {"anyOf": [{"type": "integer"}, {"type": "null"}]},
    },
    "required": ["rows"],
    "additionalProperties": False,
    "$defs": {
        "Row": {
            "type": "object",
            "properties": {
                "id": {"type": "integer", "minimum": 1},
                "name": {"type": "string", "maxLength": 5},
                "odd name": {"type": "string"},
            },
            "required": ["id"],
        }
    },
}


def check(schema: Any, value: Any) -> Optional[str]:
    violation = compile_schema(schema).check(value)
    return None if violation is None else str(violation)


# --- what is wrong, and where ------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        {"rows": []},
        {"rows": [{"id": 1}], "next": None},
        {"rows": [{"id": 1.0, "name": "five!"}], "next": 2},
    ],
)
def test_what_fits_has_no_violation(value: Any) -> None:
    assert compile_schema(ROWS).check(value) is None


@pytest.mark.parametrize(
    ("value", "path", "reason"),
    [
        ([], "$", "expected object, got array"),
        (None, "$", "expected object, got null"),
        ({}, "$", "'rows' is a required property"),
        ({"rows": {}}, "$.rows", "expected array, got object"),
        (
            {"rows": [{"id": 1}, {"id": 0}]},
            "$.rows[1].id",
            "less than the minimum of 1",
        ),
        ({"rows": [{"id": "x"}]}, "$.rows[0].id", "expected integer, got string"),
        ({"rows": [{"id": True}]}, "$.rows[0].id", "expected integer, got boolean"),
        ({"rows": [{"id": 1.5}]}, "$.rows[0].id", "expected integer, got number"),
        (
            {"rows": [{"id": 1, "name": "too long"}]},
            "$.rows[0].name",
            "longer than 5 characters",
        ),
        (
            {"rows": [{"id": 1, "odd name": 5}]},
            "$.rows[0]['odd name']",
            "expected string, got integer",
        ),
        (
            {"rows": [], "a": 1, "b": 2},
            "$",
            "properties that are not allowed: 'a', 'b'",
        ),
        (
            {"rows": [], "next": "2"},
            "$.next",
            "fits none of the allowed forms: "
            "expected integer, got string; expected null, got string",
        ),
    ],
)
def test_a_violation_says_where_and_what(value: Any, path: str, reason: str) -> None:
    violation = compile_schema(ROWS).check(value)
    assert violation == Violation(path, reason)
    assert str(violation) == "%s: %s" % (path, reason)


@pytest.mark.parametrize(
    ("schema", "value", "reason"),
    [
        (False, 1, "nothing is allowed here"),
        ({"enum": ["a", 1, None]}, "b", "not one of 'a', 1, None"),
        ({"enum": list(range(9))}, "b", "not one of 0, 1, 2, 3, 4, …"),
        ({"const": "a"}, 1, "not the only allowed value 'a'"),
        ({"type": ["string", "null"]}, 1, "expected string or null, got integer"),
        ({"maximum": 1}, 2, "greater than the maximum of 1"),
        ({"exclusiveMinimum": 1}, 1, "not greater than 1"),
        ({"exclusiveMaximum": 1}, 1, "not less than 1"),
        ({"multipleOf": 2}, 3, "not a multiple of 2"),
        ({"minLength": 2}, "a", "shorter than 2 characters"),
        ({"pattern": "^a%s"}, "b", "does not match the pattern '^a%s'"),
        ({"minItems": 1}, [], "fewer than 1 items"),
        ({"maxItems": 1}, [1, 2], "more than 1 items"),
        ({"minProperties": 1}, {}, "fewer than 1 properties"),
        ({"maxProperties": 0}, {"a": 1}, "more than 0 properties"),
        ({"uniqueItems": True}, [{"a": 1}, {"a": 1.0}], "two items are equal"),
        ({"not": {}}, 1, "fits a schema that it must not fit"),
        ({"contains": False}, [1], "does not contain what it has to contain"),
        ({"contains": {}, "maxContains": 1}, [1, 2], "more than 1 of the items"),
        ({"oneOf": [{}, {}]}, 1, "fits more than one of the forms"),
        ({"dependentRequired": {"a": ["b"]}}, {"a": 1}, "'b' is a dependency of 'a'"),
        ({"unevaluatedProperties": False}, {"a": 1}, "has properties that are not"),
        ({"prefixItems": [{}], "items": False}, [1, 2], "has more items than"),
    ],
)
def test_every_keyword_has_its_words(schema: Any, value: Any, reason: str) -> None:
    violation = compile_schema(schema).check(value)
    assert violation is not None
    assert violation.reason.startswith(reason)


SECRET = "hunter2-correct-horse"


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "integer"},
        {"enum": ["a"]},
        {"const": 1},
        {"maxLength": 3},
        {"pattern": "^[0-9]*$"},
        {"not": {"type": "string"}},
        {"anyOf": [{"type": "integer"}, {"maxLength": 1}]},
        {"oneOf": [True, True]},
        False,
        {"format": "email", "minLength": 100},
    ],
)
def test_no_part_of_the_value_is_shown(schema: Any) -> None:
    for value, wrap in (
        (SECRET, lambda s: s),
        ([SECRET], lambda s: {"items": s}),
        ({"a": SECRET}, lambda s: {"additionalProperties": s}),
    ):
        violation = compile_schema(wrap(schema)).check(value)
        assert violation is not None
        assert SECRET not in str(violation)


@pytest.mark.parametrize(
    "schema", [{"uniqueItems": True}, {"maxItems": 1}, {"contains": {"type": "null"}}]
)
def test_no_part_of_a_list_is_shown(schema: Any) -> None:
    assert SECRET not in str(check(schema, [SECRET, SECRET]))


def test_paths_and_reasons_are_short_and_clean() -> None:
    name = "\x1b[2J\u202e" + "x" * 5000
    for schema in (
        {"additionalProperties": {"type": "null"}},
        {"additionalProperties": False},
        {"required": [name * 2]},
        {"properties": {name: {"enum": [name, name]}}},
        {"properties": {name: {"const": "\x1b" * 5000}}},
        {"properties": {name: {"anyOf": [{"const": "\x1b" * 900}] * 9}}},
    ):
        violation = compile_schema(schema).check({name: 1})
        assert violation is not None
        for text in (violation.path, violation.reason):
            assert len(text) <= 200
            assert "\x1b" not in text and "\u202e" not in text


def test_a_violation_is_frozen_and_pickles() -> None:
    violation = Violation("$.a", "no")
    with pytest.raises(AttributeError):
        violation.path = "$"  # noqa: B018
    assert pickle.loads(pickle.dumps(violation)) == violation


# --- what is accepted --------------------------------------------------------------


@pytest.mark.parametrize("value", [None, True, 0, 1.5, "x", [], {}])
def test_the_empty_schema_allows_everything(value: Any) -> None:
    assert check(True, value) is None
    assert check({}, value) is None
    assert check(False, value) is not None
    assert check({"not": {}}, value) is not None


def test_formats_are_annotations() -> None:
    for name in ("email", "uri", "date-time", "regex", "ipv4", "made-up"):
        assert check({"type": "string", "format": name}, "surely not") is None
        assert check({"not": {"format": name}}, "surely not") is not None


def test_unknown_keywords_are_ignored() -> None:
    schema = {"x-vendor": [{"type": 5}], "discriminator": {"propertyName": "a"}}
    assert check(schema, 1) is None
    assert check({**schema, "type": "string"}, 1) is not None


def test_malformed_annotations_do_no_harm() -> None:
    schema = {"title": 5, "description": None, "examples": "x", "default": {"$ref": 1}}
    assert check(schema, 1) is None


@pytest.mark.parametrize("dialect", sorted(DIALECTS))
def test_dialects_are_known_by_their_address(dialect: str) -> None:
    address = DIALECTS[dialect].rstrip("#")
    for spelling in (address, address + "#", address.replace("http:", "https:")):
        assert check({"$schema": spelling, "type": "null"}, None) is None


def test_the_dialect_decides() -> None:
    old, new = DIALECTS["draft-04"], DIALECTS["2020-12"]
    assert check({"$schema": old, "type": "integer"}, 1.0) is not None
    assert check({"$schema": new, "type": "integer"}, 1.0) is None
    assert check({"type": "integer"}, 1.0) is None
    exclusive = {"minimum": 1, "exclusiveMinimum": True}
    assert check({"$schema": old, **exclusive}, 1) is not None
    assert check({"$schema": old, **exclusive}, 2) is None
    listed = {"items": [{"type": "null"}], "additionalItems": False}
    seven = {"$schema": DIALECTS["draft-07"], **listed}
    assert check(seven, [None]) is None
    assert check(seven, [None, 1]) is not None
    with pytest.raises(SchemaRefused):
        compile_schema(listed)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#/$defs/a", "$defs": {"a": {"type": "string"}}},
        {"$ref": "#/$defs/a~1b%25~0", "$defs": {"a/b%~": {"type": "string"}}},
        {"$ref": "#/x-any/0", "x-any": [{"type": "string"}]},
        {"$ref": "#a", "$defs": {"b": {"$anchor": "a", "type": "string"}}},
        {"$dynamicRef": "#a", "$defs": {"b": {"$dynamicAnchor": "a", "not": {}}}},
        {
            "$id": "https://example.com/root.json",
            "$ref": "other.json#/$defs/a",
            "$defs": {
                "b": {"$id": "/other.json", "$defs": {"a": {"type": "string"}}},
            },
        },
        {
            "$schema": DIALECTS["draft-07"],
            "$ref": "#a",
            "definitions": {"b": {"$id": "#a", "type": "string"}},
        },
        {
            "$schema": DIALECTS["draft-04"],
            "$ref": "#a",
            "definitions": {"b": {"id": "#a", "type": "string"}},
        },
        {
            "$schema": DIALECTS["2019-09"],
            "properties": {"a": {"$recursiveRef": "#"}},
            "type": ["string", "object"],
        },
    ],
)
def test_references_within_the_schema_work(schema: Any) -> None:
    assert check(schema, 5) is not None
    if "$dynamicRef" not in schema:
        assert check(schema, "a") is None


def test_a_recursive_schema_works() -> None:
    schema = {
        "type": "object",
        "properties": {"children": {"type": "array", "items": {"$ref": "#"}}},
        "required": ["children"],
    }
    tree: Dict[str, Any] = {"children": []}
    for _ in range(20):
        tree = {"children": [tree, {"children": []}]}
    assert check(schema, tree) is None
    tree["children"][1]["children"].append({})
    assert check(schema, tree) == (
        "$.children[1].children[0]: 'children' is a required property"
    )


def test_equality_is_that_of_json() -> None:
    for schema in ({"const": 1}, {"enum": [1]}, {"items": {"const": 1}}):
        for value, fits in ((1, True), (1.0, True), (True, False), ("1", False)):
            wrapped = [value] if "items" in schema else value
            assert (check(schema, wrapped) is None) is fits
    distinct: List[Any] = [1, True, "1", None, [1], [True], {"a": 1}, {"a": True}, 0]
    assert check({"uniqueItems": True}, distinct + [False, "", 1.5, 10**30]) is None
    for pair in ([1, 1.0], [{"a": [1]}, {"a": [1.0]}], [10**20, 1e20], [0, -0.0]):
        assert check({"uniqueItems": True}, pair) is not None
    assert check({"uniqueItems": False}, [1, 1]) is None


def test_additional_properties_are_those_that_nothing_else_names() -> None:
    schema = {
        "properties": {"a": {}},
        "patternProperties": {"^x-": {"type": "string"}, "-y$": {"minLength": 2}},
        "additionalProperties": {"type": "null"},
    }
    closed = {**schema, "additionalProperties": False}
    for value in ({"a": 1}, {"x-b": "c"}, {"c-y": 5}, {"x-y": "cd"}):
        assert check(schema, value) is None
        assert check(closed, value) is None
    for value, path in (
        ({"x-b": 1}, "$['x-b']"),
        ({"x-y": "c"}, "$['x-y']"),
        ({"b": 1, "x-b": "c"}, "$.b"),
    ):
        assert str(check(schema, value)).startswith(path)
    assert check(schema, {"b": None}) is None
    assert check(closed, {"b": None, "x-b": "c"}) == (
        "$: properties that are not allowed: 'b'"
    )


def test_the_schema_is_copied() -> None:
    schema: Dict[str, Any] = {"properties": {"a": {"not": {}}}}
    validator = compile_schema(schema)
    schema["properties"]["a"].clear()
    assert validator.check({"a": 1}) is not None


def test_threads_share_a_validator() -> None:
    validator = compile_schema({**ROWS, "not": {"required": ["no"]}})

    def work(number: int) -> Optional[Violation]:
        return validator.check({"rows": [{"id": number % 2}] * 20})

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(work, range(200)))
    assert found[1::2] == [None] * 100
    assert {str(each) for each in found[::2]} == {
        "$.rows[0].id: less than the minimum of 1"
    }


_LAZY = """
import sys
from mcpsync.protocol.schema import check_answer, compile_schema, fill_defaults

def loaded():
    return sorted({"jsonschema", "referencing", "rpds", "attr"} & set(sys.modules))

assert loaded() == [], loaded()
validator = compile_schema({"properties": {"a": {"$ref": "#/$defs/b"}},
                            "$defs": {"b": {"type": "integer"}}})
assert validator.check({"a": 1}) is None
form = {"properties": {"a": {"type": "string", "format": "date"}}}
assert check_answer(form, fill_defaults(form, {"a": "2026-07-28"})) is None
assert loaded() == [], loaded()
assert validator.check({"a": "x"}) is not None
assert "jsonschema" in loaded()
"""


def test_the_library_is_imported_when_it_is_needed() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", _LAZY],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (0, "")


# --- forms: defaults ---------------------------------------------------------------


def form(**properties: Any) -> Dict[str, Any]:
    return {"type": "object", "properties": properties}


def test_defaults_of_every_kind_are_filled_in() -> None:
    requested = form(
        name={"type": "string", "default": "John Doe"},
        age={"type": "integer", "default": 30},
        score={"type": "number", "default": 95.5},
        whole={"type": "number", "default": 5},
        status={"type": "string", "enum": ["active", "idle"], "default": "active"},
        color={"oneOf": [{"const": "#f00", "title": "Red"}], "default": "#f00"},
        many={"type": "array", "items": {"enum": ["a", "b"]}, "default": ["a"]},
        verified={"type": "boolean", "default": True},
        empty={"type": "string", "default": ""},
        zero={"type": "integer", "default": 0},
        plain={"type": "string"},
    )
    filled = fill_defaults(requested, {})
    assert filled == {
        "name": "John Doe",
        "age": 30,
        "score": 95.5,
        "whole": 5,
        "status": "active",
        "color": "#f00",
        "many": ["a"],
        "verified": True,
        "empty": "",
        "zero": 0,
    }
    assert check_answer(requested, filled) is None


def test_what_was_answered_stays_and_is_copied() -> None:
    requested = form(a={"default": "x"}, b={"default": "y"})
    content = {"a": None, "c": ["z"]}
    filled = fill_defaults(requested, content)
    assert filled == {"a": None, "b": "y", "c": ["z"]}
    filled["c"].append("more")
    assert content == {"a": None, "c": ["z"]}


def test_a_default_is_not_shared_between_answers() -> None:
    requested = form(a={"type": "array", "default": ["x"]})
    fill_defaults(requested, {})["a"].append("y")
    assert fill_defaults(requested, {}) == {"a": ["x"]}


@pytest.mark.parametrize(
    "asked",
    [
        {"default": None},
        {"default": {"a": 1}},
        {"default": [1]},
        {"default": [["a"]]},
        {"type": "string", "default": 5},
        {"type": "integer", "default": 1.5},
        {"type": "integer", "default": True},
        {"type": "number", "default": "1"},
        {"type": "boolean", "default": 1},
        {"type": "array", "default": "a"},
        {"type": "object", "default": "a"},
        {},
        True,
        None,
    ],
)
def test_defaults_that_do_not_fit_are_left_out(asked: Any) -> None:
    assert fill_defaults(form(a=asked), {}) == {}


@pytest.mark.parametrize("requested", [{}, {"properties": None}, {"properties": []}])
def test_a_form_without_properties_fills_nothing(requested: Any) -> None:
    assert fill_defaults(requested, {"a": 1}) == {"a": 1}
    assert check_answer(requested, {"a": 1}) is None


def test_defaults_are_bounded() -> None:
    assert len(fill_defaults(form(a={"default": "x" * 60_000}), {})["a"]) == 60_000
    for properties in (
        {"a": {"default": "x" * 70_000}},
        {"a": {"default": ["x"] * 70_000}},
        {"p%d" % n: {"default": True} for n in range(10_000)},
    ):
        with pytest.raises(SchemaRefused, match="defaults"):
            fill_defaults(form(**properties), {})
        # An answer needs no default.
        assert fill_defaults(form(**properties), dict.fromkeys(properties, 1))


# --- forms: answers ----------------------------------------------------------------

FORM = form(
    name={"type": "string", "minLength": 2, "maxLength": 5},
    age={"type": "integer", "minimum": 0, "maximum": 120},
    score={"type": "number", "minimum": 0.5},
    sure={"type": "boolean"},
    old={"type": "string", "enum": ["a", "b"], "enumNames": ["A", "B"]},
    one={"type": "string", "oneOf": [{"const": "r", "title": "Red"}, {"const": "g"}]},
    some={
        "type": "array",
        "minItems": 1,
        "maxItems": 2,
        "items": {"type": "string", "enum": ["x", "y", "z"]},
    },
    titled={"type": "array", "items": {"anyOf": [{"const": "x", "title": "X"}]}},
)


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"name": "Jo", "age": 0, "score": 0.5, "sure": False},
        {"age": 30.0, "score": 7},
        {"old": "b", "one": "g", "some": ["x", "z"], "titled": []},
        {"titled": ["x", "x"], "unasked": {"a": 1}},
    ],
)
def test_answers_that_fit(content: Any) -> None:
    assert check_answer(FORM, content) is None


@pytest.mark.parametrize(
    ("content", "path"),
    [
        ({"name": "J"}, "$.name"),
        ({"name": "Johann"}, "$.name"),
        ({"name": 5}, "$.name"),
        ({"name": None}, "$.name"),
        ({"age": -1}, "$.age"),
        ({"age": 121}, "$.age"),
        ({"age": 1.5}, "$.age"),
        ({"age": "30"}, "$.age"),
        ({"age": True}, "$.age"),
        ({"score": 0}, "$.score"),
        ({"sure": "yes"}, "$.sure"),
        ({"sure": 1}, "$.sure"),
        ({"old": "A"}, "$.old"),
        ({"one": "Red"}, "$.one"),
        ({"some": []}, "$.some"),
        ({"some": ["x", "y", "z"]}, "$.some"),
        ({"some": ["x", "w"]}, "$.some[1]"),
        ({"some": "x"}, "$.some"),
        ({"titled": ["y"]}, "$.titled[0]"),
    ],
)
def test_answers_that_do_not_fit(content: Any, path: str) -> None:
    violation = check_answer(FORM, content)
    assert violation is not None
    assert violation.path == path


def test_required_answers_are_required() -> None:
    requested = {**form(a={"type": "string"}), "required": ["a"]}
    assert check_answer(requested, {"a": ""}) is None
    assert str(check_answer(requested, {})) == "$: 'a' is a required property"
    closed = {**form(a={"type": "string"}), "additionalProperties": False}
    assert check_answer(closed, {"b": 1}) is not None


FORMATS = {
    "email": (
        [
            "me@example.com",
            "a.b+c@sub.example.co",
            "x@localhost",
            '"odd one"@example.com',
            "a@[127.0.0.1]",
        ],
        [
            "",
            "me",
            "@example.com",
            "me@",
            "a b@example.com",
            "a@b@c",
            ".a@b.c",
            "a..b@c.d",
            "a@-b.c",
            "a@b..c",
            "a@b.c\n",
            "ü@example.com",
            "x" * 400 + "@example.com",
        ],
    ),
    "uri": (
        [
            "https://example.com/a?b#c",
            "http://[::1]:80/",
            "mailto:me@example.com",
            "urn:isbn:0451450523",
            "file:///a%20b",
            "HTTPS://EXAMPLE.COM",
        ],
        [
            "",
            "example.com",
            "/a/b",
            "//example.com",
            "http:",
            "https://",
            "https:///path",
            "http://a b",
            "http://a/%zz",
            "1http://a",
            "http://exämple.com",
            "javascript alert",
            "http://a\n",
        ],
    ),
    "date": (
        ["2026-07-28", "2024-02-29", "0001-01-01"],
        [
            "",
            "2026-7-28",
            "2026-02-29",
            "2026-13-01",
            "20260728",
            "2026-07-28T00:00:00Z",
        ]
        + ["2026-W30-2", "２０２６-07-28", "2026-07-28\n", "28.07.2026"],
    ),
    "date-time": (
        [
            "2026-07-28T12:00:00Z",
            "2026-07-28t12:00:00.123456789z",
            "2026-07-28T23:59:60+14:00",
            "2026-07-28T00:00:00-23:59",
        ],
        [
            "",
            "2026-07-28",
            "2026-07-28T12:00:00",
            "2026-07-28 12:00:00Z",
            "2026-07-28T12:00Z",
            "2026-07-28T24:00:00Z",
            "2026-07-28T12:60:00Z",
            "2026-07-28T12:00:61Z",
            "2026-02-30T12:00:00Z",
            "2026-07-28T12:00:00.Z",
            "2026-07-28T12:00:00+0200",
            "2026-07-28T12:00:00+24:00",
            "2026-07-28T12:00:00Z\n",
        ],
    ),
}


@pytest.mark.parametrize("name", sorted(FORMATS))
def test_formats_are_asserted_in_forms(name: str) -> None:
    requested = form(a={"type": "string", "format": name})
    good, bad = FORMATS[name]
    for text in good:
        assert check_answer(requested, {"a": text}) is None, text
    for text in bad:
        violation = check_answer(requested, {"a": text})
        assert violation == Violation("$.a", "not in the format " + name), text


def test_other_formats_and_absent_answers_are_not_asserted() -> None:
    requested = form(a={"format": "ipv4"}, b={"format": "email"}, c={"format": 5})
    assert check_answer(requested, {"a": "x", "c": "x"}) is None


def test_a_pattern_is_obeyed_where_it_can_be() -> None:
    assert check_answer(form(a={"pattern": "^[A-Z]+$"}), {"a": "ABC"}) is None
    assert check_answer(form(a={"pattern": "^[A-Z]+$"}), {"a": "abc"}) is not None
    for unusable in ("^(a+)+$", "(", r"\p{L}", "x" * 300, 5, None):
        assert check_answer(form(a={"pattern": unusable}), {"a": "abc"}) is None


def test_what_forms_do_not_have_is_left_to_the_server() -> None:
    requested = {
        "$schema": "https://example.com/unknown",
        "$ref": "https://example.com/elsewhere",
        **form(a={"type": "string", "$ref": "#/nowhere", "if": 5}, b=None),
    }
    assert check_answer(requested, {"a": "x", "b": 1}) is None
    assert check_answer(requested, {"a": 1}) is not None


@pytest.mark.parametrize(
    "asked", [{"type": "text"}, {"minLength": "2"}, {"enum": "a"}, {"items": 5}]
)
def test_a_malformed_form_is_refused(asked: Any) -> None:
    with pytest.raises(SchemaRefused, match="malformed"):
        check_answer(form(a=asked), {"a": "x"})


def test_an_answer_has_to_be_json() -> None:
    for value in (object(), float("nan"), {1, 2}, b"x"):
        with pytest.raises(InvalidArguments):
            check_answer(FORM, {"name": value})


def test_the_answer_itself_is_not_shown() -> None:
    for asked in ({"type": "integer"}, {"maxLength": 1}, {"format": "email"}):
        violation = check_answer(form(a=asked), {"a": SECRET})
        assert violation is not None
        assert SECRET not in str(violation)
