"""What ``name=text`` and ``name:=json`` become."""

from __future__ import annotations

import io
import json
import sys

import pytest

from mcpsync.cli._arguments import (
    Pair,
    coerced,
    read_object,
    read_pairs,
    texts_of,
)
from mcpsync.cli._parser import UsageError


def one(text, schema, root=None):
    """Return what a text becomes for a parameter of that schema."""
    root = {**(root or {}), "properties": {"p": schema}}
    return coerced(read_pairs(["p=" + text]), {}, root)["p"]


# --- pairs ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "word, pair",
    [
        ("a=1", Pair("a", "1", False)),
        ("a=", Pair("a", "", False)),
        ("a=b=c", Pair("a", "b=c", False)),
        ("a=b:=c", Pair("a", "b:=c", False)),
        ("a=line\nbreak", Pair("a", "line\nbreak", False)),
        ("ns:key=v", Pair("ns:key", "v", False)),
        ("a b=c d", Pair("a b", "c d", False)),
        ("a:=1", Pair("a", 1, True)),
        ("a:=[1, null]", Pair("a", [1, None], True)),
        ('a:="x=y"', Pair("a", "x=y", True)),
    ],
)
def test_pairs(word, pair):
    assert read_pairs([word]) == [pair]
    assert type(read_pairs([word])[0].value) is type(pair.value)


@pytest.mark.parametrize("word", ["a", "", "=1", "a:b", "a:=", "a:=nope", "a:=NaN"])
def test_what_is_no_pair(word):
    with pytest.raises(UsageError, match="a|NAME=VALUE"):
        read_pairs([word])


def test_texts():
    assert texts_of(read_pairs(["a=1", 'b:="x"'])) == {"a": "1", "b": "x"}
    with pytest.raises(UsageError, match="'a' is given twice"):
        texts_of(read_pairs(["a=1", "a=2"]))
    with pytest.raises(UsageError, match="'a' has to be a text"):
        texts_of(read_pairs(["a:=1"]))


# --- objects ----------------------------------------------------------------------


def test_an_object_from_the_command_line_a_file_and_standard_input(
    tmp_path, monkeypatch
):
    value = {"a": [1, "ä"]}
    assert read_object(json.dumps(value)) == value
    path = tmp_path / "arguments.json"
    path.write_text(json.dumps(value, ensure_ascii=False), encoding="utf-8")
    assert read_object("@%s" % path) == value
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"a": 1}')))
    assert read_object("-") == {"a": 1}


@pytest.mark.parametrize(
    "source, complaint",
    [
        ("[1]", "no JSON object"),
        ("nope", "not JSON"),
        ("", "not JSON"),
        ("@/no/such/file", "cannot be read: No such file"),
    ],
)
def test_what_is_no_object(source, complaint):
    with pytest.raises(UsageError, match=complaint):
        read_object(source)


def test_pairs_replace_members_of_the_object():
    pairs = read_pairs(["b=2", "c:=3"])
    assert coerced(pairs, {"a": 1, "b": 1}, {}) == {"a": 1, "b": "2", "c": 3}


# --- types ------------------------------------------------------------------------

STRING, INTEGER, NUMBER = {"type": "string"}, {"type": "integer"}, {"type": "number"}
BOOLEAN, OBJECT = {"type": "boolean"}, {"type": "object"}


@pytest.mark.parametrize(
    "text, schema, value",
    [
        ("5", STRING, "5"),
        ("5", {}, "5"),
        ("5", True, "5"),
        ("5", INTEGER, 5),
        ("-5", INTEGER, -5),
        ("+5", INTEGER, 5),
        ("9" * 30, INTEGER, int("9" * 30)),
        ("5", NUMBER, 5),
        ("5.5", NUMBER, 5.5),
        ("-1e3", NUMBER, -1000.0),
        ("true", BOOLEAN, True),
        ("Yes", BOOLEAN, True),
        ("1", BOOLEAN, True),
        ("off", BOOLEAN, False),
        ("0", BOOLEAN, False),
        ('{"a": 1}', OBJECT, {"a": 1}),
        ("[1, 2]", {"type": "array"}, [1, 2]),
        ("[1, 2]", {"type": "array", "items": STRING}, [1, 2]),
        ("x", {"type": "array", "items": STRING}, ["x"]),
        ("7", {"type": "array", "items": INTEGER}, [7]),
        ("x", {"type": "array"}, ["x"]),
        ("5", {"type": ["integer", "null"]}, 5),
        ("null", {"type": ["integer", "null"]}, None),
        ("", {"type": ["integer", "null"]}, None),
        ("5", {"type": ["string", "integer"]}, "5"),
        ("5", {"anyOf": [INTEGER, {"type": "null"}]}, 5),
        ("5", {"oneOf": [BOOLEAN, INTEGER]}, 5),
        ("true", {"oneOf": [BOOLEAN, INTEGER]}, True),
        ("5", {"allOf": [INTEGER]}, 5),
        ("5", {"anyOf": [STRING, INTEGER]}, "5"),
        ("2", {"enum": [1, 2, "3"]}, 2),
        ("3", {"enum": [1, 2, "3"]}, "3"),
        ("2", {"enum": ["1", "2"], "type": "string"}, "2"),
        ("true", {"const": True}, True),
    ],
)
def test_the_schema_decides(text, schema, value):
    result = one(text, schema)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "text, schema, kind",
    [
        ("x", INTEGER, "integer"),
        ("5.0", INTEGER, "integer"),
        ("1_000", INTEGER, "integer"),
        ("", INTEGER, "integer"),
        ("nan", NUMBER, "number"),
        ("1e999", NUMBER, "number"),
        ("1.2.3", NUMBER, "number"),
        ("maybe", BOOLEAN, "boolean"),
        ("[1]", OBJECT, "object"),
        ("x", OBJECT, "object"),
        ("x", {"type": "array", "items": INTEGER}, "integer"),
        ("x", {"anyOf": [BOOLEAN, INTEGER]}, "boolean or integer"),
    ],
)
def test_a_text_that_is_no_value_of_the_type(text, schema, kind):
    with pytest.raises(UsageError) as raised:
        one(text, schema)
    assert "'p' has to be of the type %s" % kind in raised.value.message
    assert repr(text) in raised.value.message


def test_references_within_the_schema_are_followed():
    root = {"$defs": {"Count": INTEGER, "a/b": {"$ref": "#/$defs/Count"}}}
    assert one("5", {"$ref": "#/$defs/Count"}, root) == 5
    assert one("5", {"$ref": "#/$defs/a~1b"}, root) == 5
    assert one("5", {"anyOf": [{"$ref": "#/$defs/Count"}, {"type": "null"}]}, root) == 5


@pytest.mark.parametrize(
    "reference", ["https://example.com/s.json", "#/$defs/gone", "#", "", 5]
)
def test_other_references_leave_a_text_alone(reference):
    assert one("5", {"$ref": reference}) == "5"


def test_schemas_that_go_in_circles_come_to_an_end():
    circle = {"$ref": "#/$defs/A"}
    root = {"$defs": {"A": {"anyOf": [circle] * 50 + [INTEGER]}}}
    assert one("5", circle, root) == 5
    lists = {"type": "array", "items": {"$ref": "#/$defs/L"}}
    root = {"$defs": {"L": lists}}
    with pytest.raises(UsageError, match="type array"):
        one("x", {"$ref": "#/$defs/L"}, root)


@pytest.mark.parametrize(
    "schema",
    [
        {"properties": []},
        {"properties": {"p": {"type": 5, "enum": {}, "anyOf": 3, "items": 1}}},
        {"$ref": "#/properties/p/x", "properties": {"p": {}}},
    ],
)
def test_malformed_schemas_leave_a_text_alone(schema):
    assert coerced(read_pairs(["p=5"]), {}, schema) == {"p": "5"}


def test_properties_of_a_schema_made_of_parts():
    schema = {"allOf": [{"properties": {"p": INTEGER}}]}
    assert coerced(read_pairs(["p=5"]), {}, schema) == {"p": 5}


# --- arrays item by item ----------------------------------------------------------


def test_a_list_may_be_given_item_by_item():
    schema = {"properties": {"p": {"type": "array", "items": INTEGER}}}
    pairs = read_pairs(["p=1", "p=2", "p:=null"])
    assert coerced(pairs, {}, schema) == {"p": [1, 2, None]}


def test_what_is_no_list_may_be_given_once():
    schema = {"properties": {"p": INTEGER}}
    with pytest.raises(UsageError, match="'p' is given twice"):
        coerced(read_pairs(["p=1", "p=2"]), {}, schema)


def test_json_is_taken_as_it_is():
    schema = {"properties": {"p": INTEGER}}
    assert coerced(read_pairs(['p:="text"']), {}, schema) == {"p": "text"}
