"""The typed results: listings, tools, results, questions."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import threading
from typing import Any, Dict, List

import pytest

from mcpsync import types
from mcpsync.exceptions import ToolError, UnexpectedResult

from .wire_examples import (
    EMBEDDED,
    HOLOGRAM,
    IMAGE,
    PIXEL,
    SERVER_INFO,
    TEXT,
    TOOL,
)

# --- listings ---------------------------------------------------------------------


LISTINGS: List[Any] = [
    (types.ListToolsResult, "tools", {"name": "a", "inputSchema": {}}),
    (types.ListResourcesResult, "resources", {"uri": "a:b", "name": "b"}),
    (
        types.ListResourceTemplatesResult,
        "resourceTemplates",
        {"uriTemplate": "a:{b}", "name": "b"},
    ),
    (types.ListPromptsResult, "prompts", {"name": "p"}),
]


@pytest.mark.parametrize("kind, key, good", LISTINGS)
def test_a_bad_item_does_not_hide_the_good_ones(
    kind: Any, key: str, good: Dict[str, Any]
) -> None:
    wire = {key: [good, {**good, "name": 5}, "junk", good, {}], "nextCursor": "x"}
    page = kind.from_wire(wire)
    items = page.to_wire()[key]
    assert items == [good, good]
    assert [index for index, _ in page.invalid] == [1, 2, 4]
    reasons = [reason for _, reason in page.invalid]
    assert reasons[0].endswith("[1].name should be a string, not 5")
    assert reasons[1].endswith("[2] should be an object, not 'junk'")
    assert "[4]." in reasons[2] and reasons[2].endswith("is missing")
    assert page.next_cursor == "x"
    assert page.raw is wire
    assert page == kind.from_wire({key: [good, good], "nextCursor": "x"})
    assert kind.from_wire({key: [good]}).invalid == []


@pytest.mark.parametrize("kind, key, good", LISTINGS)
def test_an_empty_cursor_is_a_cursor(kind: Any, key: str, good: Any) -> None:
    assert kind.from_wire({key: [], "nextCursor": ""}).next_cursor == ""
    assert kind.from_wire({key: [], "nextCursor": ""}).to_wire()["nextCursor"] == ""
    assert kind.from_wire({key: [], "nextCursor": None}).next_cursor is None
    assert kind.from_wire({key: []}).next_cursor is None
    page = kind.from_wire({key: [], "ttlMs": 1500, "cacheScope": "public"})
    assert (page.ttl_ms, page.cache_scope) == (1500, "public")


def test_tools_that_cannot_be_used_join_the_invalid_ones() -> None:
    wires = [{"name": name, "inputSchema": {}} for name in ("a", "b", "c", "d")]
    page = types.ListToolsResult.from_wire(
        {"tools": [wires[0], {}, *wires[1:]], "nextCursor": "x"}
    )
    first, second, third, fourth = page.tools
    less = page.with_tools([first, third], [(fourth, "no"), (second, "why")])
    assert less.tools == [first, third]
    assert less.invalid == [
        (1, "tools[1].name is missing"),
        (2, "why"),
        (4, "no"),
    ]
    assert less.next_cursor == "x"
    assert less.raw is page.raw
    assert len(page.tools) == 4
    made = types.ListToolsResult([first, second])
    assert made.with_tools([first], [(second, "why")]).invalid == [(1, "why")]


def test_pages_do_not_share_their_lists() -> None:
    first = types.ListToolsResult.from_wire({"tools": [{}]})
    second = types.ListToolsResult.from_wire({"tools": []})
    assert len(first.invalid) == 1
    assert second.invalid == []
    assert types.ListToolsResult([]).invalid is not types.ListToolsResult([]).invalid


# --- tools ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "hints, expected",
    [
        ({}, (False, True, False, True)),
        ({"readOnlyHint": True}, (True, False, False, True)),
        ({"readOnlyHint": True, "destructiveHint": True}, (True, True, False, True)),
        ({"destructiveHint": False}, (False, False, False, True)),
        ({"idempotentHint": True}, (False, True, True, True)),
        ({"openWorldHint": False}, (False, True, False, False)),
        ({"readOnlyHint": None}, (False, True, False, True)),
    ],
)
def test_hints_have_the_defaults_of_the_specification(
    hints: Any, expected: Any
) -> None:
    read = types.ToolAnnotations.from_wire(hints)
    found = (read.read_only, read.destructive, read.idempotent, read.open_world)
    assert found == expected


def test_a_tool_without_hints_has_the_defaults() -> None:
    for wire in ({}, {"annotations": None}):
        tool = types.Tool.from_wire({"name": "a", "inputSchema": {}, **wire})
        assert tool.annotations == types.ToolAnnotations()
        assert tool.annotations.destructive


def test_the_title_of_a_tool_is_shown_before_its_name() -> None:
    def name(**more: Any) -> str:
        return types.Tool.from_wire(
            {"name": "n", "inputSchema": {}, **more}
        ).display_name

    assert name() == "n"
    assert name(annotations={"title": "a"}) == "a"
    assert name(title="t", annotations={"title": "a"}) == "t"
    assert name(title="", annotations={}) == "n"


def test_schemas_are_verbatim() -> None:
    tool = types.Tool.from_wire(TOOL)
    assert tool.input_schema is TOOL["inputSchema"]
    assert tool.output_schema is TOOL["outputSchema"]


# --- results ----------------------------------------------------------------------


def test_the_text_of_a_result() -> None:
    other = {"type": "text", "text": "there\n"}
    wire = {"content": [TEXT, IMAGE, EMBEDDED, other, HOLOGRAM]}
    assert types.CallToolResult.from_wire(wire).text == "hi\nthere\n"
    assert types.CallToolResult([]).text == ""
    contents = [
        {"uri": "a:b", "text": "one"},
        {"uri": "a:b", "blob": PIXEL},
        {"uri": "a:b", "text": "two"},
    ]
    assert types.ReadResourceResult.from_wire({"contents": contents}).text == "one\ntwo"


@pytest.mark.parametrize(
    "wire, data, there",
    [
        ({}, None, False),
        ({"structuredContent": None}, None, True),
        ({"structuredContent": 0}, 0, True),
        ({"structuredContent": False}, False, True),
        ({"structuredContent": []}, [], True),
        ({"structuredContent": {"s": 1}}, {"s": 1}, True),
    ],
)
def test_structured_content_that_is_null_is_there(
    wire: Dict[str, Any], data: Any, there: bool
) -> None:
    result = types.CallToolResult.from_wire({"content": [], **wire})
    assert result.data == data
    assert result.structured_content == data
    assert result.has_structured_content is there
    assert pickle.loads(pickle.dumps(result)).has_structured_content is there
    assert result.to_wire() == {"content": [], **wire}


def test_structured_content_of_a_program() -> None:
    assert types.CallToolResult([], {"s": 1}).has_structured_content
    assert not types.CallToolResult([]).has_structured_content


@pytest.mark.parametrize("wire", [{}, {"content": None}])
def test_structured_content_may_come_alone(wire: Dict[str, Any]) -> None:
    wire = {**wire, "structuredContent": [1]}
    result = types.CallToolResult.from_wire(wire)
    assert result.content == []
    assert result.data == [1]
    assert result.raw is wire


def test_a_tool_error_carries_the_cleaned_text_and_the_result() -> None:
    good = types.CallToolResult.from_wire({"content": [TEXT]})
    assert good.raise_for_error() is good
    hostile = {"type": "text", "text": "no\x1b[2J\n" + "x" * 100_000}
    bad = types.CallToolResult.from_wire({"content": [hostile], "isError": True})
    with pytest.raises(ToolError) as caught:
        bad.raise_for_error()
    assert caught.value.result is bad
    assert str(caught.value).startswith("no\\x1b[2J\\nxxx")
    assert len(str(caught.value)) < 600
    with pytest.raises(ToolError, match="without a text"):
        types.CallToolResult([], is_error=True).raise_for_error()


@pytest.mark.parametrize(
    "names, expected",
    [
        (("tools",), True),
        (("tools", "listChanged"), False),
        (("resources", "subscribe"), True),
        (("resources", "listChanged"), False),
        (("prompts",), False),
        (("logging",), False),
        (("tasks", "requests", "tools", "call"), True),
        (("tasks", "list"), False),
        (("extensions", "io.modelcontextprotocol/tasks"), True),
        (("later",), True),
        (("later", "deep", "deeper"), False),
    ],
)
def test_capabilities(names: Any, expected: bool) -> None:
    wire = {
        "tools": {},
        "resources": {"subscribe": True, "listChanged": False},
        "logging": None,
        "tasks": {"requests": {"tools": {"call": {}}}},
        "extensions": {"io.modelcontextprotocol/tasks": {}},
        "later": {"deep": 1},
    }
    assert types.ServerCapabilities.from_wire(wire).supports(*names) is expected


def test_capabilities_of_a_program() -> None:
    assert types.ServerCapabilities(tools={}).supports("tools")
    assert not types.ServerCapabilities().supports("tools")


@pytest.mark.parametrize(
    "more, name",
    [
        ({"_meta": {"io.modelcontextprotocol/serverInfo": SERVER_INFO}}, "demo"),
        ({"serverInfo": SERVER_INFO}, "demo"),
        ({"_meta": {}}, None),
        ({"_meta": {"io.modelcontextprotocol/serverInfo": {"name": 5}}}, None),
        ({"_meta": {"io.modelcontextprotocol/serverInfo": "demo"}}, None),
        ({}, None),
    ],
)
def test_who_a_discovered_server_is(more: Dict[str, Any], name: Any) -> None:
    result = types.DiscoverResult.from_wire(
        {"supportedVersions": [], "capabilities": {}, **more}
    )
    info = result.server_info
    assert (info.name if info else None) == name


def test_a_completion_is_unwrapped() -> None:
    wire = {"completion": {"values": ["a"], "total": 7.0}, "_meta": {"k": 1}}
    result = types.CompleteResult.from_wire(wire)
    assert result == types.CompleteResult(["a"], 7, None, {"k": 1})
    assert result.raw is wire
    without = dataclasses.replace(result, meta=None, values=["b"])
    assert without.to_wire() == {"completion": {"values": ["b"], "total": 7}}


def test_a_notification_shows_the_meta_of_its_params() -> None:
    read = types.ServerNotification.from_wire(
        {"method": "m", "params": {"_meta": {"k": 7}}}
    )
    assert read.meta == {"k": 7}
    assert types.ServerNotification.from_wire({"method": "m"}).params == {}
    assert types.ServerNotification.from_wire({"method": "m"}).meta is None


# --- questions --------------------------------------------------------------------


def test_the_answers_to_an_elicitation() -> None:
    accept, decline = types.ElicitResult.accept, types.ElicitResult.decline
    assert accept({"n": 1}).to_wire() == {"action": "accept", "content": {"n": 1}}
    assert accept({}).to_wire() == {"action": "accept", "content": {}}
    assert accept().to_wire() == {"action": "accept"}
    assert decline().to_wire() == {"action": "decline"}
    assert types.ElicitResult.cancel().to_wire() == {"action": "cancel"}


def test_what_a_user_answered_is_not_shown() -> None:
    assert repr(types.ElicitResult.accept({"pin": 1234})) == (
        "ElicitResult(action='accept')"
    )
    with pytest.raises(UnexpectedResult) as caught:
        types.ElicitResult.from_wire({"action": "accept", "content": "my pin"})
    assert str(caught.value) == "ElicitResult: content should be an object"


@pytest.mark.parametrize(
    "question",
    [
        types.ElicitRequest.from_wire({"message": "name?"}),
        types.CreateMessageRequest.from_wire({"messages": [], "maxTokens": 1}),
    ],
)
def test_a_question_knows_who_asks_and_whether_it_still_matters(question: Any) -> None:
    assert question.server == ""
    assert not question.cancelled.is_set()
    event = threading.Event()
    asked = dataclasses.replace(question, server="demo", cancelled=event)
    assert asked.server == "demo"
    assert asked.cancelled is event
    assert asked == question
    assert asked.to_wire() == question.to_wire()
    assert "server" not in repr(asked)
    event.set()
    for twin in (pickle.loads(pickle.dumps(asked)), copy.deepcopy(asked)):
        assert twin == asked
        assert twin.server == "demo"
        assert not twin.cancelled.is_set()
    assert asked.cancelled.is_set()


def test_each_question_has_an_event_of_its_own() -> None:
    first = types.ElicitRequest.from_wire({"message": "a"})
    second = types.ElicitRequest.from_wire({"message": "a"})
    first.cancelled.set()
    assert not second.cancelled.is_set()
    assert not types.ElicitRequest("a").cancelled.is_set()


def test_an_elicitation_without_a_mode_is_a_form() -> None:
    assert types.ElicitRequest.from_wire({"message": "a"}).mode == "form"
    assert types.ElicitRequest.from_wire({"message": "a", "mode": None}).mode == "form"


# --- the module -------------------------------------------------------------------


def test_all_public_names_exist_and_are_sorted() -> None:
    assert sorted(types.__all__) == types.__all__
    assert all(hasattr(types, name) for name in types.__all__)
