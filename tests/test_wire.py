"""The machinery of the typed results: reading, refusing, writing, showing."""

from __future__ import annotations

import copy
import dataclasses
import json
import pickle
from typing import Any, Dict, List, Type

import pytest

from mcpsync import types
from mcpsync.exceptions import UnexpectedResult
from mcpsync.types import WireObject

from .wire_examples import (
    CLASSES,
    EXAMPLES,
    ICON,
    IMAGE,
    PIXEL,
    TEXT,
    TOOL,
    TOOL_RESULT,
    of_each,
)


def test_there_is_an_example_of_each_class() -> None:
    assert {kind for kind, _ in EXAMPLES} == set(CLASSES)


# --- reading and writing ----------------------------------------------------------


@of_each(EXAMPLES)
def test_what_was_received_is_written_again(
    kind: Type[WireObject], wire: Dict[str, Any]
) -> None:
    before = json.dumps(wire)
    assert json.dumps(kind.from_wire(wire).to_wire()) == before
    assert json.dumps(wire) == before


@of_each(EXAMPLES)
def test_unknown_fields_survive(kind: Type[WireObject], wire: Dict[str, Any]) -> None:
    more = {**wire, "x-later": {"deep": [1, None]}, "": 0}
    read = kind.from_wire(more)
    assert getattr(read, "raw") is more
    assert read.to_wire() == more
    assert read == kind.from_wire(wire)


@of_each(EXAMPLES)
def test_the_fields_alone_say_the_same(
    kind: Type[WireObject], wire: Dict[str, Any]
) -> None:
    read = kind.from_wire(wire)
    names = [item.name for item in dataclasses.fields(kind) if item.name != "raw"]
    rebuilt = kind(**{name: getattr(read, name) for name in names})
    assert rebuilt == read
    known = rebuilt.to_wire()
    assert kind.from_wire(known) == read
    # What is left out is null, a default, or not of these objects.
    for name in set(wire) - set(known):
        assert name in ("resultType", "jsonrpc", "depth") or wire[name] in (
            None,
            False,
            [],
        )


@of_each(EXAMPLES)
def test_any_other_mapping_may_be_read(
    kind: Type[WireObject], wire: Dict[str, Any]
) -> None:
    from types import MappingProxyType

    assert kind.from_wire(MappingProxyType(wire)).to_wire() == wire


@pytest.mark.parametrize("kind", CLASSES)
def test_null_is_absent_in_an_optional_field(kind: Type[WireObject]) -> None:
    wire = next(wire for other, wire in EXAMPLES if other is kind)
    camel = {
        "meta": "_meta",
        "server": "",
        "cancelled": "",
        "raw": "",
        "invalid": "",
    }
    nulls = {}
    for item in dataclasses.fields(kind):
        optional = (
            item.default is not dataclasses.MISSING
            or item.default_factory is not dataclasses.MISSING
        )
        head, *rest = item.name.split("_")
        name = camel.get(item.name, head + "".join(map(str.capitalize, rest)))
        if optional and name and name not in wire:
            nulls[name] = None
    read = kind.from_wire({**wire, **nulls})
    assert read == kind.from_wire(wire)
    assert read.to_wire() == {**wire, **nulls}


def test_fields_win_over_what_was_received() -> None:
    tool = types.Tool.from_wire({**TOOL, "x-later": 1})
    changed = dataclasses.replace(
        tool, name="n", title=None, icons=[], annotations=types.ToolAnnotations()
    )
    wire = changed.to_wire()
    assert wire["name"] == "n"
    assert "title" not in wire
    assert wire["icons"] == []
    assert wire["annotations"] == {}
    assert wire["x-later"] == 1
    assert tool.to_wire() == {**TOOL, "x-later": 1}


def test_what_a_program_makes_is_written_in_full() -> None:
    result = types.CreateMessageResult(
        role="assistant",
        content=[
            types.TextContent("hi", meta={"k": 1}),
            types.ImageContent(data=PIXEL, mime_type="image/png"),
        ],
        model="m",
        stop_reason="endTurn",
    )
    assert result.to_wire() == {
        "role": "assistant",
        "content": [{**TEXT, "_meta": {"k": 1}}, IMAGE],
        "model": "m",
        "stopReason": "endTurn",
    }
    roots = types.ListRootsResult([types.Root("file:///w")])
    assert roots.to_wire() == {"roots": [{"uri": "file:///w"}]}
    pair = types.CreateMessageResult(
        role="assistant", content=types.TextContent("hi"), model="m"
    )
    assert pair.to_wire()["content"] == TEXT
    assert types.LoggingMessage("info", None).to_wire() == {
        "level": "info",
        "data": None,
    }
    complete = types.CompleteResult(["a"], has_more=True, meta={"k": 1})
    assert complete.to_wire() == {
        "completion": {"values": ["a"], "hasMore": True},
        "_meta": {"k": 1},
    }


# --- what does not fit ------------------------------------------------------------


BAD: List[Any] = [
    (types.Tool, {"inputSchema": {}}, "Tool: name is missing"),
    (types.Tool, {"name": 5, "inputSchema": {}}, "name should be a string, not 5"),
    (types.Tool, {"name": None, "inputSchema": {}}, "a string, not null"),
    (types.Tool, {"name": "a", "inputSchema": []}, "an object, not an array of 0"),
    (types.Tool, {"name": "a", "inputSchema": True}, "an object, not true"),
    (
        types.Tool,
        {"name": "a", "inputSchema": {}, "annotations": {"readOnlyHint": "yes"}},
        "Tool: annotations.readOnlyHint should be true or false, not 'yes'",
    ),
    (
        types.Tool,
        {"name": "a", "inputSchema": {}, "icons": [ICON, {"src": 1}]},
        "Tool: icons[1].src should be a string, not 1",
    ),
    (
        types.Tool,
        {"name": "a", "inputSchema": {}, "icons": {}},
        "Tool: icons should be an array, not an object",
    ),
    (types.Tool, {"name": "a", "inputSchema": {}, "_meta": []}, "_meta should be an"),
    (types.ListToolsResult, {}, "ListToolsResult: tools is missing"),
    (types.ListToolsResult, {"tools": {"a": TOOL}}, "an array, not an object"),
    (types.ListToolsResult, {"tools": [], "nextCursor": 5}, "nextCursor should be"),
    (types.ListToolsResult, {"tools": [], "ttlMs": "9"}, "a number, not '9'"),
    (types.ListToolsResult, {"tools": [], "ttlMs": True}, "a number, not true"),
    (types.CallToolResult, {}, "content is missing"),
    (types.CallToolResult, {"content": None}, "an array, not null"),
    (types.CallToolResult, {"content": "hi"}, "an array, not 'hi'"),
    (types.CallToolResult, {"content": [], "isError": 1}, "isError should be true or"),
    (types.CallToolResult, {"content": [], "isError": "false"}, "not 'false'"),
    (
        types.CallToolResult,
        {"content": [TEXT, "hi"]},
        "content[1] should be an object, not 'hi'",
    ),
    (types.CallToolResult, {"content": [{}]}, "content[0].type is missing"),
    (
        types.CallToolResult,
        {"content": [{"type": 3}]},
        "content[0].type should be a string, not 3",
    ),
    (
        types.CallToolResult,
        {"content": [{"type": "text"}]},
        "content[0].text is missing",
    ),
    (
        types.CallToolResult,
        {"content": [{"type": "resource", "resource": {"uri": "a:b"}}]},
        "content[0].resource.text is missing",
    ),
    (
        types.CallToolResult,
        {"content": [{"type": "resource", "resource": {"uri": "a:b", "blob": 1}}]},
        "content[0].resource.blob should be a string, not 1",
    ),
    (types.TextContent, IMAGE, "text is missing"),
    (types.ImageContent, {**IMAGE, "type": "audio"}, "type should be 'image', not"),
    (types.CompleteResult, {}, "completion is missing"),
    (types.CompleteResult, {"completion": []}, "completion should be an object"),
    (
        types.CompleteResult,
        {"completion": {"values": ["a", 1]}},
        "CompleteResult: completion.values[1] should be a string, not 1",
    ),
    (
        types.CompleteResult,
        {"completion": {"values": [], "total": 1.5}},
        "completion.total should be an integer, not 1.5",
    ),
    (types.CompleteResult, {"completion": {"values": []}, "_meta": 1}, "_meta should"),
    (types.InitializeResult, {"protocolVersion": "x"}, "capabilities is missing"),
    (
        types.InitializeResult,
        {"protocolVersion": "x", "capabilities": {}, "serverInfo": {"name": "n"}},
        "serverInfo.version is missing",
    ),
    (
        types.DiscoverResult,
        {"supportedVersions": "2026-07-28", "capabilities": {}},
        "supportedVersions should be an array",
    ),
    (
        types.DiscoverResult,
        {"supportedVersions": [], "capabilities": {"tools": True}},
        "capabilities.tools should be an object, not true",
    ),
    (types.ElicitRequest, {"message": "pay", "mode": "url"}, "url is missing"),
    (types.ElicitResult, {"action": "accepted"}, "one of accept, decline, cancel"),
    (types.ElicitResult, {"action": ["accept"]}, "not an array of 1"),
    (
        types.CreateMessageRequest,
        {"messages": [{"role": "user", "content": [TEXT, 1]}], "maxTokens": 1},
        "messages[0].content[1] should be an object, not 1",
    ),
    (
        types.CreateMessageRequest,
        {"messages": [], "maxTokens": True},
        "a number, not true",
    ),
    (
        types.ProgressNotification,
        {"progressToken": 1.5, "progress": 1},
        "progressToken should be a string or an integer, not 1.5",
    ),
    (types.ProgressNotification, {"progressToken": True, "progress": 1}, "not true"),
    (types.LoggingMessage, {"level": "info"}, "data is missing"),
    (
        types.ServerNotification,
        {"method": "m", "params": []},
        "params should be an object",
    ),
    (
        types.ServerNotification,
        {"method": "m", "params": {"_meta": 1}},
        "params._meta should be an object, not 1",
    ),
    (types.Resource, {"uri": "a:b", "name": "n", "size": float("inf")}, "not inf"),
]


@pytest.mark.parametrize("kind, wire, message", BAD)
def test_what_does_not_fit_is_named(
    kind: Type[WireObject], wire: Any, message: str
) -> None:
    with pytest.raises(UnexpectedResult) as caught:
        kind.from_wire(wire)
    assert message in str(caught.value)
    assert str(caught.value).startswith(kind.__name__ + ": ")
    assert caught.value.__cause__ is None


@pytest.mark.parametrize("kind", CLASSES)
@pytest.mark.parametrize("value", [None, [], "text", 5, True])
def test_no_class_reads_what_is_no_object(kind: Type[WireObject], value: Any) -> None:
    with pytest.raises(UnexpectedResult, match="should be an object"):
        kind.from_wire(value)


def test_the_path_of_the_caller_comes_first() -> None:
    with pytest.raises(UnexpectedResult, match=r"Tool: tools\[3\].name should be"):
        types.Tool.from_wire({"name": 1, "inputSchema": {}}, "tools[3]")
    wrong: Any = []
    with pytest.raises(UnexpectedResult, match=r"Tool: tools\[3\] should be an obj"):
        types.Tool.from_wire(wrong, "tools[3]")
    with pytest.raises(UnexpectedResult, match=r"content: answer.type is missing"):
        types.content_from_wire({}, "answer")


def test_what_came_is_shown_short_and_clean() -> None:
    hostile = "\x1b[2J\u202e" + "x" * 100_000
    with pytest.raises(UnexpectedResult) as caught:
        types.ElicitResult.from_wire({"action": hostile})
    assert len(str(caught.value)) < 200
    assert "\x1b" not in str(caught.value)
    assert "\u202e" not in str(caught.value)
    for odd in (10**5000, object()):
        with pytest.raises(UnexpectedResult) as caught:
            types.Root.from_wire({"uri": odd})
        assert len(str(caught.value)) < 200


def test_an_integer_may_be_written_as_a_float() -> None:
    read = types.Resource.from_wire({"uri": "a:b", "name": "b", "size": 10.0})
    assert read.size == 10
    assert isinstance(read.size, int)


# --- records ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_is_a_record(kind: Type[WireObject]) -> None:
    assert [item.name for item in dataclasses.fields(kind)][-2:] == ["meta", "raw"]
    assert kind.__hash__ is None
    assert kind.__doc__
    raw = {item.name: item for item in dataclasses.fields(kind)}["raw"]
    assert (raw.repr, raw.compare) == (False, False)


@of_each(EXAMPLES)
def test_a_record_cannot_be_changed_or_hashed(
    kind: Type[WireObject], wire: Dict[str, Any]
) -> None:
    names = [item.name for item in dataclasses.fields(kind)]
    for read in (kind.from_wire(wire), dataclasses.replace(kind.from_wire(wire))):
        for name in [*names, "type", "unheard_of"]:
            with pytest.raises(dataclasses.FrozenInstanceError):
                setattr(read, name, None)
        for name in names:
            with pytest.raises(dataclasses.FrozenInstanceError):
                delattr(read, name)
        with pytest.raises(TypeError, match="unhashable"):
            hash(read)
        assert read == kind.from_wire(wire)


@of_each(EXAMPLES)
def test_records_pickle_and_copy(kind: Type[WireObject], wire: Dict[str, Any]) -> None:
    read = kind.from_wire(wire)
    for protocol in range(pickle.HIGHEST_PROTOCOL + 1):
        twin = pickle.loads(pickle.dumps(read, protocol))
        assert type(twin) is kind
        assert twin == read
        assert twin.raw == wire
    assert copy.copy(read) == read
    deep = copy.deepcopy(read)
    assert deep == read
    assert getattr(deep, "raw") == wire
    assert getattr(deep, "raw") is not getattr(read, "raw")


def test_records_compare_by_class_and_fields() -> None:
    image = types.ImageContent(PIXEL, "image/png")
    assert image == types.ImageContent(PIXEL, "image/png", raw={"x": 1})
    assert image != types.ImageContent(PIXEL, "image/gif")
    assert image != types.AudioContent(PIXEL, "image/png")
    assert image != "image"
    assert types.TextContent("a", meta={"k": 1}) != types.TextContent("a")


@of_each(EXAMPLES)
def test_reprs_are_one_line_and_name_the_class(
    kind: Type[WireObject], wire: Dict[str, Any]
) -> None:
    text = repr(kind.from_wire(wire))
    assert text.startswith(kind.__name__ + "(")
    assert "\n" not in text
    assert "raw=" not in text


def test_a_repr_shows_what_is_set() -> None:
    tool = types.Tool("add", {"type": "object"}, title="Add")
    assert (
        repr(tool) == "Tool(name='add', input_schema={'type': 'object'}, title='Add')"
    )
    page = types.ListToolsResult.from_wire({"tools": [], "nextCursor": ""})
    assert repr(page) == "ListToolsResult(tools=[], next_cursor='')"
    result = types.CallToolResult([types.TextContent("a\nb")], is_error=True)
    expected = "CallToolResult(content=[TextContent(text='a\\nb')], is_error=True)"
    assert repr(result) == expected


def test_reprs_are_bounded_and_clean() -> None:
    huge = "\x1b[2J\u202e" + "x" * 1_000_000
    wide = {str(i) * 200: [huge] * 50 for i in range(50)}
    deep: Any = 10**5000
    for _ in range(100):
        deep = [deep, {"k": deep, huge: [huge]}]
    block = {"type": "text", "text": huge}
    for wire in (
        {"content": [block] * 1000, "structuredContent": wide},
        {"content": [], "structuredContent": deep},
        {"content": [], "structuredContent": 10**5000},
        {"content": [{**IMAGE, "data": huge}], "structuredContent": huge},
        {"content": [{**TOOL_RESULT, "content": [TOOL_RESULT] * 9}]},
    ):
        text = repr(types.CallToolResult.from_wire(wire))
        assert len(text) < 1000
        assert "\x1b" not in text
        assert "\u202e" not in text
    nested = types.ListToolsResult.from_wire({"tools": [TOOL] * 9, "nextCursor": huge})
    assert len(repr(nested)) < 1000
    assert "6 more" in repr(types.CompleteResult(list("abcdefghi")))
