"""Listings: lazy, complete, and never without an end."""

from __future__ import annotations

import logging
from typing import Any, Dict, Iterator, List, Mapping

import pytest

import mcpsync
from mcpsync import Limits
from mcpsync._listings import KnownTools, usable_tools
from mcpsync.types import Tool

from .fakes.scripted_memory import LEGACY, Fault, Incoming, scripted

KINDS = {
    "tools": ("tools/list", "tools", "tools"),
    "resources": ("resources/list", "resources", "resources"),
    "resource_templates": (
        "resources/templates/list",
        "resourceTemplates",
        "resource_templates",
    ),
    "prompts": ("prompts/list", "prompts", "prompts"),
}


def item(number: int) -> Dict[str, Any]:
    """Return something that is a tool, a resource, a template and a prompt."""
    name = "item%d" % number
    return {
        "name": name,
        "inputSchema": {"type": "object"},
        "uri": "x:" + name,
        "uriTemplate": "x:{%s}" % name,
    }


def pages(key: str, cursors: Mapping[Any, Any]) -> Any:
    """Return a function that serves one item a page, with these next cursors."""

    def serve(incoming: Incoming) -> Dict[str, Any]:
        cursor = incoming.params.get("cursor")
        result: Dict[str, Any] = {key: [item(list(cursors).index(cursor))]}
        if cursors[cursor] is not None:
            result["nextCursor"] = cursors[cursor]
        return result

    return serve


@pytest.fixture(params=sorted(KINDS))
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def names(items: Any) -> List[str]:
    return [one.name for one in items]


def test_iterating_is_lazy(kind: str) -> None:
    method, key, _ = KINDS[kind]
    with scripted({method: pages(key, {None: "", "": "b", "b": None})}) as server:
        client = mcpsync.Client(server.transport, timeout=5)
        items: Iterator[Any] = getattr(client, "iter_" + kind)()
        assert server.received == []
        assert next(items).name == "item0" and len(server.of(method)) == 1
        assert next(items).name == "item1" and len(server.of(method)) == 2
        assert names(items) == ["item2"]
        cursors = [m["params"].get("cursor") for m in server.of(method)]
        assert cursors == [None, "", "b"]
        client.close()


def test_all_and_single_pages(kind: str) -> None:
    method, key, field = KINDS[kind]
    with scripted({method: pages(key, {None: "a", "a": None})}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            assert names(getattr(client, "list_" + kind)()) == ["item0", "item1"]
            page = getattr(client, "list_%s_page" % kind)("a")
            assert names(getattr(page, field)) == ["item1"]
            assert page.next_cursor is None


def test_leaving_an_iteration(kind: str) -> None:
    method, key, _ = KINDS[kind]
    with scripted({method: pages(key, {None: "a", "a": None})}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            for _ in getattr(client, "iter_" + kind)():
                break
            assert len(server.of(method)) == 1


@pytest.mark.parametrize(
    "cursors", [{None: "a", "a": "a"}, {None: "", "": "b", "b": ""}]
)
def test_a_cursor_that_does_not_advance(kind: str, cursors: Any) -> None:
    method, key, _ = KINDS[kind]
    with scripted({method: pages(key, cursors)}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            with pytest.raises(mcpsync.RemoteProtocolError, match="circles") as caught:
                getattr(client, "list_" + kind)()
            assert caught.value.server == "scripted"
            assert caught.value.method == method
            assert len(server.of(method)) == len(cursors)
            client.ping()


def endless(incoming: Incoming) -> Dict[str, Any]:
    number = int(incoming.params.get("cursor", "0"))
    return {"tools": [item(number)] * 10, "nextCursor": str(number + 1)}


@pytest.mark.parametrize(
    "limits, requests", [(Limits(pages=5), 5), (Limits(items=25), 3)]
)
def test_a_listing_without_an_end(limits: Limits, requests: int) -> None:
    with scripted({"tools/list": endless}) as server:
        with mcpsync.connect(server.transport, timeout=5, limits=limits) as client:
            with pytest.raises(mcpsync.RemoteProtocolError, match="does not end"):
                client.list_tools()
            assert len(server.of("tools/list")) == requests
            # What was yielded before is there all the same.
            items = client.iter_tools()
            assert len([next(items) for _ in range(20)]) == 20


def test_one_deadline_for_all_pages() -> None:
    def slow(incoming: Incoming) -> Dict[str, Any]:
        incoming.server.stopped.wait(0.1)
        return endless(incoming)

    with scripted({"tools/list": slow}) as server:
        with mcpsync.connect(server.transport) as client:
            with pytest.raises(mcpsync.RequestTimeout) as caught:
                client.list_tools(timeout=0.6)
            assert caught.value.method == "tools/list"
            # One for each page: this many would not have fitted into one.
            items = client.iter_tools(timeout=0.6)
            assert len([next(items) for _ in range(40)]) == 40


def test_an_error_in_the_middle(kind: str) -> None:
    method, key, _ = KINDS[kind]
    first = pages(key, {None: "a"})

    def serve(incoming: Incoming) -> Any:
        if "cursor" in incoming.params:
            return Fault(-32602, "Invalid cursor")
        return first(incoming)

    with scripted({method: serve}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            items = getattr(client, "iter_" + kind)()
            assert next(items).name == "item0"
            with pytest.raises(mcpsync.InvalidParams):
                next(items)
            with pytest.raises(mcpsync.InvalidParams):
                getattr(client, "list_" + kind)()


def test_a_bad_item_does_not_hide_the_others() -> None:
    tools = [item(0), {"name": 5}, "junk", item(3)]
    with scripted({"tools/list": lambda incoming: {"tools": tools}}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            page = client.list_tools_page()
            assert names(page.tools) == ["item0", "item3"]
            assert [index for index, _ in page.invalid] == [1, 2]
            assert names(client.list_tools()) == ["item0", "item3"]


@pytest.mark.parametrize("result", [{}, {"tools": {}}, {"tools": None}])
def test_a_listing_that_is_none(result: Dict[str, Any]) -> None:
    with scripted({"tools/list": lambda incoming: result}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            with pytest.raises(mcpsync.UnexpectedResult, match="tools") as caught:
                client.list_tools()
            assert caught.value.server == "scripted"
            assert caught.value.method == "tools/list"
            assert caught.value.elapsed is not None


# --- what is remembered of tools --------------------------------------------------

SUM = {"type": "object", "properties": {"sum": {"type": "number"}}, "required": ["sum"]}


def adder(content: Any, schema: Any = SUM, **more: Any) -> Dict[str, Any]:
    """Return the methods of a server whose tool answers with this."""
    definition = {"name": "add", "inputSchema": {"type": "object"}, **more}
    if schema is not None:
        definition["outputSchema"] = schema
    return {
        "tools/list": lambda incoming: {"tools": [definition]},
        "tools/call": lambda incoming: {"content": [], **content},
    }


GOOD = {"structuredContent": {"sum": 3}}
BAD = {"structuredContent": {"sum": "three"}}


def test_a_result_that_fits() -> None:
    with scripted(adder(GOOD)) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            client.list_tools()
            assert client.call_tool("add").data == {"sum": 3}


def test_a_result_that_does_not_fit() -> None:
    with scripted(adder(BAD)) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            client.list_tools()
            with pytest.raises(mcpsync.InvalidStructuredContent) as caught:
                client.call_tool("add")
            error = caught.value
            assert error.result.data == {"sum": "three"} and error.path == "$.sum"
            assert (error.server, error.method) == ("scripted", "tools/call")
            assert error.elapsed is not None
            assert "'add'" in str(error) and "three" not in str(error)
            client.ping()


def test_a_result_that_is_missing() -> None:
    with scripted(adder({})) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            client.list_tools()
            with pytest.raises(mcpsync.InvalidStructuredContent, match="no structured"):
                client.call_tool("add")


def test_null_is_not_missing() -> None:
    with scripted(adder({"structuredContent": None}, {"type": "null"})) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            client.list_tools()
            result = client.call_tool("add")
            assert result.data is None and result.has_structured_content


def test_a_reported_failure_is_not_checked() -> None:
    with scripted(adder({"isError": True})) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            client.list_tools()
            assert client.call_tool("add").is_error


def test_what_has_not_been_listed_is_not_checked() -> None:
    with scripted(adder(BAD)) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            assert client.call_tool("add").data == {"sum": "three"}
            # And a call never lists by itself.
            assert server.of("tools/list") == []


def test_checking_may_be_off() -> None:
    with scripted(adder(BAD)) as server:
        with mcpsync.connect(server.transport, timeout=5, validate="off") as client:
            client.list_tools()
            assert client.call_tool("add").data == {"sum": "three"}


def test_checking_may_only_warn(caplog: pytest.LogCaptureFixture) -> None:
    with scripted(adder(BAD)) as server:
        with mcpsync.connect(server.transport, timeout=5, validate="warn") as client:
            client.list_tools()
            assert client.call_tool("add").data == {"sum": "three"}
    (record,) = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert "does not fit" in record.getMessage()
    assert "scripted" in record.getMessage()


@pytest.mark.parametrize(
    "schema",
    [
        {"$schema": "https://example.com/my-own-dialect", "type": "object"},
        {"$ref": "https://example.com/schema.json"},
        {"type": "object", "properties": {"sum": {"pattern": "(a+)+$"}}},
        {"type": 5},
    ],
)
def test_a_schema_that_cannot_be_used(schema: Dict[str, Any]) -> None:
    with scripted(adder(GOOD, schema)) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            # The listing is whole; only the check of that tool's result fails.
            assert names(client.list_tools()) == ["add"]
            for _ in range(2):
                with pytest.raises(mcpsync.SchemaRefused) as caught:
                    client.call_tool("add")
                error = caught.value
                assert (error.server, error.method) == ("scripted", "tools/call")
            assert error.elapsed is not None
            client.ping()


def test_a_new_listing_brings_a_new_schema() -> None:
    schemas: List[Any] = [SUM, {"type": "object"}]
    definition = {"name": "add", "inputSchema": {"type": "object"}}
    methods = {
        "tools/list": lambda incoming: {
            "tools": [{**definition, "outputSchema": schemas.pop(0)}]
        },
        "tools/call": lambda incoming: {"content": [], **BAD},
    }
    with scripted(methods) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            client.list_tools()
            with pytest.raises(mcpsync.InvalidStructuredContent):
                client.call_tool("add")
            client.list_tools()
            assert client.call_tool("add").data == {"sum": "three"}


def test_legacy_results_are_checked_as_well() -> None:
    with scripted(adder(BAD), version=LEGACY) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            client.list_tools()
            with pytest.raises(mcpsync.InvalidStructuredContent):
                client.call_tool("add")


def test_tools_by_their_header_annotations() -> None:
    def annotated(name: str, header: Any) -> Tool:
        properties = {"region": {"type": "string", "x-mcp-header": header}}
        schema = {"type": "object", "properties": properties}
        return Tool.from_wire({"name": name, "inputSchema": schema})

    plain = Tool.from_wire({"name": "plain", "inputSchema": {"type": "object"}})
    tools = [annotated("good", "Region"), annotated("bad", "not a name"), plain]
    good, headers, refused = usable_tools(tools)
    assert names(good) == ["good", "plain"]
    assert list(headers) == ["good"]
    assert [(tool.name, bool(reason)) for tool, reason in refused] == [("bad", True)]

    known = KnownTools()
    known.remember(good, headers)
    assert known.mirrored("good", {"region": "eu"}) == {"Mcp-Param-Region": "eu"}
    assert known.mirrored("plain", {"region": "eu"}) == {}
    assert known.mirrored("unheard of", {"region": "eu"}) == {}
    assert known.get("bad") is None
