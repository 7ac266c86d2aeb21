"""Headers that mirror the body: names, annotated parameters, encoding."""

from __future__ import annotations

import base64
import enum
from typing import Any, Dict, List, Mapping, Optional

import pytest

from mcpsync.exceptions import InvalidArguments
from mcpsync.protocol.headers import (
    InvalidAnnotation,
    ParameterHeader,
    encode_value,
    mirror_parameters,
    mirrored_name,
    parameter_headers,
    valid_session_id,
)


def decoded(value: str) -> str:
    """Read a header as a server does."""
    if value.startswith("=?base64?") and value.endswith("?="):
        return base64.b64decode(value[9:-2], validate=True).decode("utf-8")
    return value


# --- encoding ----------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        "",
        "a",
        "eu-1",
        "us west 1",
        "file:///path/to/file%20name.txt",
        "!~",
        "=?base64?",
        "=?utf-8?q?x?=",
        "=?BASE64?eA==?=",
        "x" * 10_000,
    ],
)
def test_printable_text_stays_as_it_is(value: str) -> None:
    assert encode_value(value) == value


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        ("Hello, 世界", "=?base64?SGVsbG8sIOS4lueVjA==?="),
        (" leading", "=?base64?IGxlYWRpbmc=?="),
        ("trailing ", "=?base64?dHJhaWxpbmcg?="),
        (" ", "=?base64?IA==?="),
        ("\tx", "=?base64?CXg=?="),
        ("a\tb", "=?base64?YQli?="),
        ("a\nb", "=?base64?YQpi?="),
        ("a\r\nX-Evil: 1", "=?base64?YQ0KWC1FdmlsOiAx?="),
        ("\x00", "=?base64?AA==?="),
        ("\x7f", "=?base64?fw==?="),
        ("caf\xe9", "=?base64?Y2Fmw6k=?="),
        ("=?base64?eA==?=", "=?base64?PT9iYXNlNjQ/ZUE9PT89?="),
        ("=?base64??=", "=?base64?PT9iYXNlNjQ/Pz0=?="),
    ],
)
def test_everything_else_is_wrapped_in_base64(value: str, encoded: str) -> None:
    assert encode_value(value) == encoded
    assert decoded(encoded) == value


def test_every_character_survives_and_no_header_can_be_forged() -> None:
    for code in list(range(0x180)) + [0x2028, 0xFFFD, 0x1F600]:
        for value in (chr(code), "a%cb" % code):
            encoded = encode_value(value)
            assert decoded(encoded) == value
            assert all("\x20" <= character <= "\x7e" for character in encoded)
            assert encoded == encoded.strip()


def test_a_lone_surrogate_is_the_callers_mistake() -> None:
    with pytest.raises(InvalidArguments, match="surrogate"):
        encode_value("a\ud800")


# --- Mcp-Name ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "params", "name"),
    [
        ("tools/call", {"name": "add", "arguments": {"name": "x"}}, "add"),
        ("prompts/get", {"name": "greet"}, "greet"),
        ("resources/read", {"uri": "file:///a%20b", "name": "x"}, "file:///a%20b"),
        ("tasks/get", {"taskId": "t1"}, "t1"),
        ("tasks/update", {"taskId": "t2"}, "t2"),
        ("tasks/cancel", {"taskId": "t3", "name": "x"}, "t3"),
        ("tools/call", {"name": ""}, ""),
        ("tools/list", {"name": "x"}, None),
        ("resources/list", {"uri": "x"}, None),
        ("server/discover", {}, None),
        ("Tools/Call", {"name": "x"}, None),
        ("tools/call", {}, None),
        ("tools/call", {"name": 7}, None),
        ("tools/call", {"uri": "x"}, None),
        ("tools/call", None, None),
    ],
)
def test_the_name_comes_from_the_parameter_that_the_method_is_about(
    method: str, params: Optional[Mapping[str, Any]], name: Optional[str]
) -> None:
    assert mirrored_name(method, params) == name


# --- annotations -------------------------------------------------------------------


def schema(**properties: Any) -> Dict[str, Any]:
    return {"type": "object", "properties": properties}


def annotated(name: Any = "Region", **keywords: Any) -> Dict[str, Any]:
    return {"type": "string", "x-mcp-header": name, **keywords}


def test_annotated_parameters_are_found_in_order_with_their_paths() -> None:
    found = parameter_headers(
        schema(
            query={"type": "string"},
            region=annotated("Region"),
            options=schema(
                limit=annotated("Limit", type="integer"),
                deep=schema(flag=annotated("Flag", type="boolean")),
            ),
            last=annotated("a!#$%&'*+-.^_`|~9"),
        )
    )
    assert found == (
        ParameterHeader("Region", ("region",)),
        ParameterHeader("Limit", ("options", "limit")),
        ParameterHeader("Flag", ("options", "deep", "flag")),
        ParameterHeader("a!#$%&'*+-.^_`|~9", ("last",)),
    )
    assert found[0].header == "Mcp-Param-Region"


@pytest.mark.parametrize(
    "nothing",
    [
        None,
        True,
        [],
        {},
        {"type": "object"},
        {"type": "object", "properties": []},
        schema(a={"type": "string"}, b=True, c=None, d={"items": 5}),
    ],
)
def test_schemas_without_annotations_mirror_nothing(nothing: Any) -> None:
    assert parameter_headers(nothing) == ()


@pytest.mark.parametrize(
    "schema_with_data",
    [
        schema(**{"x-mcp-header": {"type": "string"}}),
        schema(a={"type": "object", "default": {"x-mcp-header": ""}}),
        schema(a={"enum": [{"x-mcp-header": ""}], "const": {"x-mcp-header": 1}}),
        schema(a={"examples": [{"properties": {"b": annotated("")}}]}),
        schema(a={"x-vendor": {"x-mcp-header": ""}}),
        schema(a={"dependentRequired": {"x-mcp-header": ["b"]}}),
        schema(items={"type": "string"}, default={"x-other": annotated()}),
    ],
)
def test_the_word_in_data_is_no_annotation(schema_with_data: Any) -> None:
    assert parameter_headers(schema_with_data) == ()


def test_properties_may_have_the_names_of_keywords() -> None:
    found = parameter_headers(
        schema(items=annotated("A"), properties=schema(anyOf=annotated("B")))
    )
    assert [header.path for header in found] == [("items",), ("properties", "anyOf")]


@pytest.mark.parametrize(
    "name", ["", "a b", "a:b", "é", "a\tb", "a\r\nb", "a/b", "(a)", 5, None, ["A"]]
)
def test_a_header_name_is_a_token(name: Any) -> None:
    with pytest.raises(InvalidAnnotation, match="property 'options.region'.*token"):
        parameter_headers(schema(options=schema(region=annotated(name))))


@pytest.mark.parametrize("other", ["MyField", "myfield", "MYFIELD"])
def test_header_names_are_unique_whatever_their_case(other: str) -> None:
    nested = schema(a=annotated("MyField"), b=schema(c=annotated(other)))
    with pytest.raises(InvalidAnnotation, match="'b.c'.*twice"):
        parameter_headers(nested)


@pytest.mark.parametrize(
    "kind", ["number", "object", "array", "null", "text", ["string", "integer"], [], 5]
)
def test_only_primitives_are_mirrored(kind: Any) -> None:
    with pytest.raises(InvalidAnnotation, match="property 'a'.*can be mirrored"):
        parameter_headers(schema(a=annotated(type=kind)))


def test_a_parameter_of_any_type_is_not_mirrored() -> None:
    with pytest.raises(InvalidAnnotation, match="any type"):
        parameter_headers(schema(a={"x-mcp-header": "A"}))


@pytest.mark.parametrize("kind", ["string", "integer", "boolean"])
def test_primitives_may_be_null_as_well(kind: str) -> None:
    union = [{"type": kind}, {"type": "null"}]
    for keywords in (
        {"type": kind},
        {"type": [kind]},
        {"type": [kind, "null"]},
        {"type": ["null", kind]},
        {"anyOf": union},
        {"oneOf": union},
    ):
        property_schema = {"x-mcp-header": "A", **keywords}
        assert len(parameter_headers(schema(a=property_schema))) == 1


def test_unions_of_several_kinds_are_not_mirrored() -> None:
    for union in (
        [{"type": "string"}, {"type": "integer"}],
        [{"type": "number"}, {"type": "null"}],
        [{"type": "null"}],
        [{}, {"type": "null"}],
        [True],
    ):
        with pytest.raises(InvalidAnnotation):
            parameter_headers(schema(a={"x-mcp-header": "A", "anyOf": union}))


MISPLACED: List[Any] = [
    annotated(),
    {"type": "array", "items": annotated()},
    {"$defs": {"a": annotated()}, "$ref": "#/$defs/a"},
    {"definitions": {"a": schema(b=annotated())}},
    schema(a={"items": annotated()}),
    schema(a={"items": [annotated()]}),
    schema(a={"prefixItems": [True, annotated()]}),
    schema(a={"contains": annotated()}),
    schema(a={"additionalProperties": annotated()}),
    schema(a={"patternProperties": {"b": annotated()}}),
    schema(a={"propertyNames": annotated()}),
    schema(a={"unevaluatedProperties": annotated()}),
    schema(a={"unevaluatedItems": annotated()}),
    schema(a={"dependentSchemas": {"b": schema(c=annotated())}}),
    schema(a={"dependencies": {"b": schema(c=annotated())}}),
    schema(a={"not": annotated()}),
    schema(a={"if": annotated()}),
    schema(a={"if": {}, "then": schema(c=annotated())}),
    schema(a={"if": {}, "else": annotated()}),
    schema(a={"allOf": [schema(b=annotated())]}),
    schema(a={"anyOf": [annotated(), {"type": "null"}]}),
    schema(a={"oneOf": [annotated()]}),
    {**schema(a={"type": "string"}), "allOf": [schema(b=annotated())]},
]


@pytest.mark.parametrize("misplaced", MISPLACED)
def test_an_annotation_anywhere_else_is_invalid(misplaced: Any) -> None:
    with pytest.raises(InvalidAnnotation, match="properties"):
        parameter_headers(misplaced)


def test_one_bad_annotation_spoils_the_good_ones() -> None:
    with pytest.raises(InvalidAnnotation):
        parameter_headers(schema(a=annotated("A"), b=annotated("")))


def test_the_message_cannot_hurt_a_terminal() -> None:
    with pytest.raises(InvalidAnnotation) as caught:
        parameter_headers(schema(**{"a\x1b[2J" + "x" * 5000: annotated("\x1b" * 5000)}))
    assert "\x1b" not in str(caught.value)
    assert len(str(caught.value)) < 1000


def nested_schema(levels: int, innermost: Any) -> Any:
    for _ in range(levels):
        innermost = schema(a=innermost)
    return innermost


def test_the_search_is_bounded() -> None:
    assert len(parameter_headers(nested_schema(64, annotated()))) == 1
    with pytest.raises(InvalidAnnotation, match="deeper than 64"):
        parameter_headers(nested_schema(65, annotated()))
    many = {"p%d" % number: {"type": "string"} for number in range(1998)}
    assert len(parameter_headers(schema(a=annotated(), **many))) == 1
    with pytest.raises(InvalidAnnotation, match="more than 2000"):
        parameter_headers(schema(a=annotated(), b={}, **many))


def test_a_large_schema_without_annotations_is_no_reason_to_drop_a_tool() -> None:
    assert parameter_headers(nested_schema(5000, {"type": "string"})) == ()
    many = {"p%d" % number: {"type": "string"} for number in range(5000)}
    assert parameter_headers(schema(**many)) == ()


# --- values ------------------------------------------------------------------------


class Region(str, enum.Enum):
    EU = "eu-1"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("eu-1", "eu-1"),
        ("", ""),
        ("us west 1", "us west 1"),
        ("é", "=?base64?w6k=?="),
        (Region.EU, "eu-1"),
        (0, "0"),
        (42, "42"),
        (-7, "-7"),
        (Level.HIGH, "3"),
        (42.0, "42"),
        (-0.0, "0"),
        (1e15, "1000000000000000"),
        (2**53 - 1, "9007199254740991"),
        (-(2**53) + 1, "-9007199254740991"),
        (True, "true"),
        (False, "false"),
    ],
)
def test_values_have_one_form(value: Any, text: str) -> None:
    headers = (ParameterHeader("X", ("x",)),)
    assert mirror_parameters(headers, {"x": value}) == {"Mcp-Param-X": text}


@pytest.mark.parametrize(
    "value",
    [
        2**53,
        -(2**53),
        10**400,
        1e300,
        4.5,
        float("nan"),
        float("inf"),
        [],
        {},
        b"x",
        "\udfff",
    ],
)
def test_values_without_a_form_are_the_callers_mistake(value: Any) -> None:
    headers = (ParameterHeader("Size", ("options", "size")),)
    with pytest.raises(InvalidArguments):
        mirror_parameters(headers, {"options": {"size": value}})


def test_the_error_names_argument_and_header() -> None:
    headers = (ParameterHeader("Size", ("options", "size")),)
    with pytest.raises(InvalidArguments, match=r"options\.size .*Mcp-Param-Size"):
        mirror_parameters(headers, {"options": {"size": 2**60}})


@pytest.mark.parametrize(
    "arguments",
    [
        None,
        {},
        {"options": None},
        {"options": {}},
        {"options": {"size": None}},
        {"options": 5},
        {"options": [{"size": 5}]},
        {"size": 5},
        {"options.size": 5},
    ],
)
def test_what_is_absent_or_null_has_no_header(arguments: Any) -> None:
    headers = (ParameterHeader("Size", ("options", "size")),)
    assert mirror_parameters(headers, arguments) == {}


def test_a_call_mirrors_all_of_its_annotated_arguments() -> None:
    headers = parameter_headers(
        schema(
            region=annotated("Region"),
            verbose=annotated("Verbose", type="boolean"),
            priority=annotated("Priority", type="integer"),
            query={"type": "string"},
            where=schema(zone=annotated("Zone")),
        )
    )
    arguments = {
        "region": "eu-1",
        "verbose": None,
        "priority": 42,
        "query": "q",
        "where": {"zone": " b"},
    }
    assert mirror_parameters(headers, arguments) == {
        "Mcp-Param-Region": "eu-1",
        "Mcp-Param-Priority": "42",
        "Mcp-Param-Zone": "=?base64?IGI=?=",
    }


# --- session ids -------------------------------------------------------------------


@pytest.mark.parametrize("text", ["a", "!", "~", "1868a90c-fb3e", "x" * 1024])
def test_visible_ascii_is_a_session_id(text: str) -> None:
    assert valid_session_id(text)


@pytest.mark.parametrize(
    "text",
    ["", " ", "a b", "a ", " a", "a\n", "a\r\nX: 1", "\x00", "\x7f", "é", "x" * 1025],
)
def test_anything_else_is_none(text: str) -> None:
    assert not valid_session_id(text)
