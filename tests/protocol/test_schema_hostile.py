"""Schemas that want to fetch, to freeze, to fill the memory or to break something."""

from __future__ import annotations

import copy
import json
import random
import socket
import subprocess
import sys
import urllib.request
from typing import Any, Callable, Dict, Iterator, List

import pytest

from mcpsync.exceptions import SchemaRefused
from mcpsync.protocol.schema import Violation, check_answer, compile_schema

from ..fakes.listener import Listener
from .schema_samples import DIALECTS, random_schema, random_value
from .test_patterns import EVIL


def nested(levels: int, innermost: Any, wrap: Callable[[Any], Any]) -> Any:
    for _ in range(levels):
        innermost = wrap(innermost)
    return innermost


# --- nothing is fetched ------------------------------------------------------------


@pytest.fixture
def canary_url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Return the URL of a server that must not be asked for anything."""

    def refuse(*args: Any, **kwargs: Any) -> Any:
        raise AssertionError("something was fetched")

    def serve(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ntrue")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    listener = Listener(serve)
    try:
        yield listener.url
    finally:
        listener.close()
    assert listener.connections == 0


def remote_references(url: str) -> List[Any]:
    away = {"$ref": url}
    return [
        away,
        {"$ref": url + "#/$defs/a"},
        {"$dynamicRef": url},
        {"$schema": DIALECTS["2019-09"], "$recursiveRef": url},
        {"$id": url, "$ref": "other.json"},
        {"$id": url, "properties": {"a": {"$ref": "/other.json#a"}}},
        {"$id": url, "$ref": "#nowhere"},
        {"$schema": url},
        {"$schema": DIALECTS["draft-07"], "$id": url, "$ref": "x.json"},
        {"$schema": DIALECTS["draft-04"], "id": url, "$ref": "x.json"},
        {"properties": {"a": {"items": {"anyOf": [True, away]}}}},
        {"$defs": {"unused": away}},
        {"if": away},
        {"patternProperties": {"a": away}},
        {"dependentSchemas": {"a": away}},
        {"properties": {"a": {"$id": url, "$ref": "b"}}},
        {"properties": {"a": {"$schema": url}}},
        {"$ref": "#/x-data", "x-data": away},
        {"$ref": "file:///etc/passwd"},
        {"$ref": "//127.0.0.1/x"},
        {"$ref": "x.json"},
        {"$ref": "urn:x"},
        {"$ref": "https://json-schema.org/draft/2020-12/schema"},
        {"$ref": DIALECTS["draft-07"]},
    ]


def test_remote_references_are_refused_and_never_fetched(canary_url: str) -> None:
    for schema in remote_references(canary_url):
        with pytest.raises(SchemaRefused):
            compile_schema(schema)
        form = {"type": "object", "properties": {"a": schema}}
        check_answer(form, {"a": 1})


def test_urls_in_data_mean_nothing(canary_url: str) -> None:
    value = {"$ref": canary_url, "$schema": canary_url, "$id": canary_url}
    for schema in (
        {"$id": canary_url, "type": "object"},
        {"const": value},
        {"enum": [1, value]},
        {"default": value, "examples": [value]},
        {"properties": {"$ref": {"type": "string"}, "$schema": {}, "$id": {}}},
    ):
        assert compile_schema(schema).check(value) is None
        compile_schema(schema).check({"$ref": 5})


DOCUMENT = {
    "$defs": {"a": {"type": "string"}},
    "x-list": [{}],
    "x-text": "text",
}


@pytest.mark.parametrize("root", [{}, {"$id": "https://example.com/root"}])
@pytest.mark.parametrize(
    "reference",
    [
        "#/nowhere",
        "#nowhere",
        "#/$defs/a/type",
        "#/$defs/a/b",
        "#/$defs/b",
        "#/x-list",
        "#/x-list/1",
        "#/x-list/x",
        "#/x-text",
        "#/x-text/0",
        "nowhere",
    ],
)
def test_references_that_lead_nowhere(reference: str, root: Any) -> None:
    schema = {**DOCUMENT, **root, "properties": {"p": {"$ref": reference}}}
    with pytest.raises(SchemaRefused):
        compile_schema(schema)


# --- bounds ------------------------------------------------------------------------


def test_bytes_are_bounded() -> None:
    padding = "x" * (256 * 1024 - len('{"title":""}'))
    assert compile_schema({"title": padding}).check(1) is None
    with pytest.raises(SchemaRefused, match="262145 bytes"):
        compile_schema({"title": padding + "x"})
    with pytest.raises(SchemaRefused, match="bytes"):
        compile_schema({"title": padding[:-1] + "é"})


def test_subschemas_are_bounded() -> None:
    properties: Dict[str, Any] = {"p%d" % n: {} for n in range(1999)}
    compile_schema({"properties": properties})
    with pytest.raises(SchemaRefused, match="more than 2000 subschemas"):
        compile_schema({"properties": {**properties, "one": {}}})
    with pytest.raises(SchemaRefused, match="more than 2000 subschemas"):
        compile_schema({"$defs": {**properties, "one": {}}})


def fan_out(levels: int, branches: int, keyword: str = "anyOf") -> Any:
    definitions: Dict[str, Any] = {"l0": {"type": "string"}}
    for level in range(1, levels):
        below = {"$ref": "#/$defs/l%d" % (level - 1)}
        definitions["l%d" % level] = {keyword: [below] * branches}
    return {"$defs": definitions, "$ref": "#/$defs/l%d" % (levels - 1)}


@pytest.mark.parametrize("keyword", ["anyOf", "allOf", "oneOf"])
def test_references_that_multiply_are_counted_as_written_out(keyword: str) -> None:
    compile_schema(fan_out(6, 2, keyword))
    for levels, branches in ((24, 2), (12, 3), (3, 50)):
        with pytest.raises(SchemaRefused, match="written out"):
            compile_schema(fan_out(levels, branches, keyword))


def test_depth_is_bounded() -> None:
    compile_schema(nested(64, {}, lambda inner: {"items": inner}))
    for levels in (65, 100, 5000, 100_000):
        schema = nested(levels, {}, lambda inner: {"items": inner})
        with pytest.raises(SchemaRefused, match="nested"):
            compile_schema(schema)
        # Taking that many levels apart at once would be too much for the collector.
        while schema:
            schema = schema["items"]


def test_patterns_are_counted() -> None:
    compile_schema({"patternProperties": {"^a%d$" % n: {} for n in range(100)}})
    with pytest.raises(SchemaRefused, match="more than 100 patterns"):
        compile_schema({"patternProperties": {"^a%d$" % n: {} for n in range(101)}})


@pytest.mark.parametrize("pattern", EVIL)
def test_evil_patterns_are_refused_wherever_they_are(pattern: str) -> None:
    for schema in (
        {"pattern": pattern},
        {"patternProperties": {pattern: True}},
        {"propertyNames": {"pattern": pattern}},
        {"$defs": {"a": {"not": {"pattern": pattern}}}},
        {"$ref": "#/x-data/0", "x-data": [{"pattern": pattern}]},
    ):
        with pytest.raises(SchemaRefused, match="pattern"):
            compile_schema(schema)


def test_a_polynomial_pattern_is_used_on_short_texts_only() -> None:
    blanks = r"\s+$"
    assert compile_schema({"pattern": blanks}).check("x ") is None
    assert compile_schema({"pattern": blanks}).check("x") is not None
    long = "x" * 100_000
    for schema, value in (
        ({"pattern": blanks}, long),
        ({"patternProperties": {blanks: {}}}, {long: 1}),
        ({"patternProperties": {blanks: {}}, "additionalProperties": {}}, {long: 1}),
        ({"propertyNames": {"pattern": blanks}}, {long: 1}),
        ({"patternProperties": {blanks: {}}, "unevaluatedProperties": {}}, {long: 1}),
        ({"unevaluatedProperties": {}, "patternProperties": {blanks: {}}}, {long: 1}),
    ):
        with pytest.raises(SchemaRefused, match="too long on"):
            compile_schema(schema).check(value)


# --- malformed ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema", [None, 5, 1.5, "x", [], [{}], (), {"a": object()}, {"a": float("inf")}]
)
def test_what_is_no_schema_is_refused(schema: Any) -> None:
    with pytest.raises(SchemaRefused):
        compile_schema(schema)


def test_a_schema_that_contains_itself_is_refused() -> None:
    schema: Dict[str, Any] = {}
    schema["items"] = schema
    with pytest.raises(SchemaRefused):
        compile_schema(schema)
    schema.clear()


MALFORMED = {
    "$ref": [None, 5, [], {}],
    "$id": [5, {}],
    "additionalProperties": [None, 5, "x", []],
    "allOf": [None, {}, [], [5], "x"],
    "dependentRequired": [[], {"a": "b"}, {"a": [1]}, {"a": {}}],
    "enum": [None, "x", {}],
    "exclusiveMinimum": [True, "1", None],
    "if": [None, 1, []],
    "items": [None, 1, "x", [], [{}]],
    "maxLength": [-1, 1.5, "x", True, None, [1]],
    "minimum": ["0", None, True, []],
    "multipleOf": [0, -1, "x", None, True],
    "not": [None, []],
    "pattern": [5, None, "(", "[", r"\p{L}", "x" * 257],
    "patternProperties": [[], {"(": {}}, {"a": 5}],
    "prefixItems": [{}, [], [None]],
    "properties": [[], {"a": None}, {"a": []}, 5],
    "required": ["a", {}, [1], None, True],
    "type": ["text", [], ["string", 5], None, 5, {"type": "string"}, ["any"]],
    "uniqueItems": ["yes", 1, None],
}


@pytest.mark.parametrize("keyword", sorted(MALFORMED))
def test_malformed_keywords_are_refused(keyword: str) -> None:
    for value in MALFORMED[keyword]:
        for schema in ({keyword: value}, {"properties": {"a": {keyword: value}}}):
            with pytest.raises(SchemaRefused):
                compile_schema(schema)
        assert compile_schema({"default": {keyword: value}}).check(1) is None


@pytest.mark.parametrize(
    "dialect", [5, None, "", "x", "http://json-schema.org/schema#", {}, ["2020-12"]]
)
def test_unknown_dialects_are_refused(dialect: Any) -> None:
    if dialect is not None:
        with pytest.raises(SchemaRefused, match="dialect"):
            compile_schema({"$schema": dialect})
    with pytest.raises(SchemaRefused, match="dialect"):
        compile_schema({"items": {"$schema": dialect or DIALECTS["2020-12"]}})


def test_the_message_is_short_and_clean() -> None:
    odd = "\x1b[2J" * 2000
    for schema in (
        {"$schema": odd},
        {"$ref": odd},
        {"pattern": "(" + odd[:200]},
        {"type": odd},
        {"properties": {odd: {"type": odd}}},
        {"$defs": {odd: {"$ref": "#" + odd}}},
    ):
        with pytest.raises(SchemaRefused) as caught:
            compile_schema(schema)
        assert "\x1b" not in str(caught.value)
        assert len(str(caught.value)) < 1500


# --- work --------------------------------------------------------------------------


def deep(levels: int, **fields: Any) -> Any:
    return nested(levels, dict(fields), lambda inner: {"c": inner, **fields})


TREE = {"properties": {"c": {"$ref": "#"}}, "required": ["v"]}


def test_a_value_that_is_nested_too_deeply_is_refused() -> None:
    assert compile_schema(TREE).check(deep(50, v=1)) is None
    for levels in (190, 400, 5000):
        value = deep(levels, v=1)
        with pytest.raises(SchemaRefused, match="too deeply"):
            compile_schema(TREE).check(value)
        while "c" in value:
            value = value["c"]


def test_the_bound_on_nesting_is_our_own() -> None:
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(20_000)
    try:
        with pytest.raises(SchemaRefused, match="too deeply"):
            compile_schema(TREE).check(deep(150, v=1))
    finally:
        sys.setrecursionlimit(limit)


@pytest.mark.parametrize(
    "schema",
    [
        {"$ref": "#"},
        {"allOf": [{"$ref": "#"}]},
        {"$dynamicRef": "#a", "$dynamicAnchor": "a"},
        {
            "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}},
            "$ref": "#",
        },
        {"unevaluatedProperties": False, "$ref": "#"},
        {"$schema": DIALECTS["2019-09"], "$recursiveRef": "#"},
        {"$schema": DIALECTS["draft-07"], "$ref": "#"},
        {"not": {"$ref": "#"}},
        {"if": {"$ref": "#"}},
    ],
)
def test_a_schema_that_is_only_about_itself_is_refused(schema: Any) -> None:
    with pytest.raises(SchemaRefused):
        compile_schema(schema).check({"a": 1})


# Each is a schema, a value, and what becomes of it. In a process of its own, because
# a bound that does not hold would freeze this one.
_WORK = """
import json, sys, threading, time
from mcpsync.exceptions import SchemaRefused
from mcpsync.protocol.schema import compile_schema

M = 1000000
either = {"$ref": "#/$defs/n"}
branching = {"$ref": "#/$defs/n", "$defs": {"n": {"anyOf": [
    {"properties": {"c": either}, "required": ["x"]},
    {"properties": {"c": either}, "required": ["y"]}]}}}
tower = {"x": 1}
for _ in range(40):
    tower = {"c": tower, "y": 1}
anchored = {"$defs": {"d%d" % n: {} for n in range(900)}}
anchored["$defs"]["a"] = {"$anchor": "a", "not": {"type": "string"}}
rows = [{"id": n, "name": "n%d" % n, "tags": ["a", "b"]} for n in range(5000)]
row = {"type": "object", "required": ["id"], "additionalProperties": False,
       "properties": {"id": {"type": "integer"}, "name": {"not": {"const": ""}},
                      "tags": {"type": "array", "items": {"type": "string"}}}}

cases = {
    "unique objects": ({"uniqueItems": True}, [{"a": n} for n in range(5000)], "fits"),
    "not unique": ({"uniqueItems": True}, [{"a": n // 2} for n in range(20000)], "no"),
    "unique integers": ({"uniqueItems": True}, list(range(100000)), "fits"),
    "colliding integers":
        ({"uniqueItems": True}, [n * (2**61 - 1) for n in range(100000)], "fits"),
    "contains, long": ({"contains": {"const": 5}}, [1] * M, "refused"),
    "contains, short": ({"contains": {"const": 5}}, [1] * 1000, "no"),
    "branching": (branching, tower, "refused"),
    "failing branches": ({"anyOf": [{"type": "string"}] * 900}, [1] * M, "refused"),
    "hidden branches":
        ({"anyOf": [{"not": {"type": "array"}}] * 900}, [1] * M, "refused"),
    "many walks": ({"allOf": [{"items": {"not": {}}}] * 600}, [], "fits"),
    "many long walks":
        ({"allOf": [{"items": {"type": "integer"}}] * 900}, [1] * M, "refused"),
    "wide and long":
        ({"items": {"anyOf": [{"const": "x"}] * 900 + [{"const": 1}]}}, [1] * 30000,
         "refused"),
    "pattern properties":
        ({"patternProperties": {"^a+%d" % n: {} for n in range(100)}},
         {"a" * 50 + str(n): 1 for n in range(20000)}, "refused"),
    "unevaluated properties":
        ({"unevaluatedProperties": False, "properties": {"a": {}}},
         {str(n): 1 for n in range(20000)}, "refused"),
    "unevaluated items":
        ({"prefixItems": [{}], "unevaluatedItems": {}}, [1] * 20000, "refused"),
    "a few unevaluated":
        ({"unevaluatedProperties": False, "properties": {"a": {}}},
         {str(n): 1 for n in range(100)}, "no"),
    "equal enumerations":
        ({"items": {"enum": [[1] * 200 + [n] for n in range(500)]}},
         [[1] * 200 + [499]] * 5000, "refused"),
    "long enumeration":
        ({"items": {"enum": list(range(20000))}}, [19999] * 20000, "refused"),
    "anchors":
        (dict(anchored, items={"$ref": "#a"}), [1] * 20000, "fits"),
    "quadratic pattern":
        ({"items": {"pattern": "[ab]+?!"}}, ["a" * 1400 + "!"] * 5000, "refused"),
    "tiny divisor": ({"items": {"multipleOf": 5e-324}}, [1e308] * M, "refused"),
    "overflow": ({"multipleOf": 0.1}, 10**400, "refused"),
    "long text":
        ({"anyOf": [{"type": "null"}, {"not": {}}] * 400}, "x" * (16 * M), "refused"),
    "required, often":
        ({"items": {"required": ["a"] * 30000, "not": {"type": "null"}}},
         [{"a": 1}] * 10000, "refused"),
    "rows": ({"type": "array", "items": row}, rows, "fits"),
    "one bad row": ({"type": "array", "items": row}, rows + [{}], "no"),
    "quick rows":
        ({"type": "array", "items": dict(row, properties={"id": {"type": "integer"},
          "name": {"type": "string"}, "tags": {}})}, rows * 20, "fits"),
}
for name, (schema, value, expected) in cases.items():
    begun = time.perf_counter()
    try:
        outcome = "no" if compile_schema(schema).check(value) else "fits"
    except SchemaRefused as error:
        outcome = "refused"
    seconds = time.perf_counter() - begun
    print(json.dumps([name, expected, outcome, seconds]), flush=True)
"""


def test_work_is_bounded() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", _WORK],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == 27
    assert [row[:3] for row in rows if row[1] != row[2]] == []
    # Half a second is usual, and the limit leaves room for a slow machine.
    assert [row for row in rows if row[3] > 30] == []


# --- whatever else the library does ------------------------------------------------


class PanicException(BaseException):
    """What Rust's panics look like in Python."""


class Stumbling:
    """Stands for the library's validator."""

    def __init__(self, error: BaseException) -> None:
        self._error = error

    def iter_errors(self, instance: Any) -> Iterator[Any]:
        raise self._error


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a" * 5000),
        RecursionError(),
        OverflowError(),
        ZeroDivisionError(),
        MemoryError(),
        PanicException(),
    ],
)
def test_exceptions_of_the_library_are_ours(error: BaseException) -> None:
    validator = compile_schema({"not": {}})
    validator._library = Stumbling(error)
    with pytest.raises(SchemaRefused) as caught:
        validator.check(1)
    assert "aaa" not in str(caught.value)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), GeneratorExit()])
def test_what_ends_a_program_is_not_held_up(error: BaseException) -> None:
    validator = compile_schema({"not": {}})
    validator._library = Stumbling(error)
    with pytest.raises(type(error)):
        validator.check(1)


def mutated(choose: random.Random, value: Any) -> Any:
    """Return a schema in which something is broken, moved, doubled or lost."""
    schema = copy.deepcopy(value)
    places: List[Any] = []
    pending = [schema]
    while pending:
        place = pending.pop()
        if isinstance(place, (dict, list)) and place:
            places.append(place)
            pending.extend(place.values() if isinstance(place, dict) else place)
    place = choose.choice(places)
    key = choose.choice(sorted(place) if isinstance(place, dict) else [0])
    other = choose.choice(places)
    action = choose.randrange(4)
    if action == 0:
        place[key] = choose.choice(
            [None, -1, "#", "#/$defs/x", [], {}, True, 1e308, [{}]]
        )
    elif action == 1:
        place[key] = copy.deepcopy(other)
    elif action == 2 and isinstance(place, dict):
        place[choose.choice(["$ref", "$id", "$anchor", "items", "$dynamicRef"])] = (
            choose.choice(["#", "x", "http://[", "#a", "#/$defs/x"])
        )
    elif isinstance(place, dict):
        del place[key]
    return schema


@pytest.mark.parametrize("seed", range(5))
def test_mutated_schemas_raise_nothing_but_ours(seed: int) -> None:
    choose = random.Random(seed)
    refused = checked = 0
    for _ in range(200):
        dialect = choose.choice(sorted(DIALECTS))
        schema = random_schema(choose, dialect)
        schema["$defs"] = {"x": random_schema(choose, dialect, 1)}
        schema["$schema"] = DIALECTS[dialect]
        for _ in range(choose.randint(1, 3)):
            schema = mutated(choose, schema)
        try:
            validator = compile_schema(schema)
            for _ in range(5):
                found = validator.check(random_value(choose))
                assert found is None or isinstance(found, Violation)
            checked += 1
        except SchemaRefused:
            refused += 1
    assert refused > 20 and checked > 20
