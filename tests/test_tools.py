"""client.tools: a server's tools as functions."""

from __future__ import annotations

import inspect
import threading
from typing import Any, Dict, Iterator, List, Mapping, Optional

import pytest

import mcpsync
from mcpsync.testing import serve
from mcpsync.types import CallToolResult

from .fakes.scripted_memory import Fault, Server, scripted


def tool(
    name: str,
    properties: Optional[Mapping[str, Any]] = None,
    required: Any = None,
    **more: Any,
) -> Dict[str, Any]:
    """Return the definition of a tool."""
    schema: Dict[str, Any] = {"type": "object", "properties": properties or {}}
    if required is not None:
        schema["required"] = required
    return {"name": name, "inputSchema": schema, **more}


class Workshop:
    """A server with some tools, which remembers the arguments of calls."""

    def __init__(self, server: Server, tools: List[Dict[str, Any]]) -> None:
        self.server = server
        self.tools = tools
        self.client = mcpsync.Client(server.transport, timeout=5)

    @property
    def sent(self) -> List[Any]:
        return [m["params"]["arguments"] for m in self.server.of("tools/call")]

    @property
    def listings(self) -> int:
        return len(self.server.of("tools/list"))


@pytest.fixture
def workshop() -> Iterator[Workshop]:
    tools: List[Dict[str, Any]] = []
    methods = {
        "tools/list": lambda incoming: {"tools": list(tools)},
        "tools/call": lambda incoming: {"content": []},
    }
    with scripted(methods) as server:
        shop = Workshop(server, tools)
        with shop.client:
            yield shop


@pytest.fixture
def client() -> Iterator[mcpsync.Client]:
    with serve("memory") as server:
        with mcpsync.connect(server.target, timeout=5) as client:
            yield client


# --- the functions ----------------------------------------------------------------


def test_a_tool_is_a_function(client: mcpsync.Client) -> None:
    result = client.tools.add(a=1, b=2)
    assert isinstance(result, CallToolResult) and result.data == {"sum": 3}
    assert inspect.isfunction(client.tools.add)


def test_its_signature_and_docstring(client: mcpsync.Client) -> None:
    count = client.tools.count
    assert count.__name__ == count.__qualname__ == "count"
    parameters = inspect.signature(count).parameters
    assert parameters["to"].kind is inspect.Parameter.KEYWORD_ONLY
    assert parameters["to"].default is inspect.Parameter.empty
    assert parameters["to"].annotation is int
    assert (parameters["delay"].default, parameters["delay"].annotation) == (0.1, float)
    assert inspect.signature(count).return_annotation is CallToolResult
    assert count.__doc__ is not None
    assert "Count up to a number, reporting progress." in count.__doc__
    assert "delay: Seconds between two steps." in count.__doc__
    assert getattr(count, "tool").name == "count"
    assert (client.tools.add.__doc__ or "").startswith("Addition")


def test_wrong_calls_are_found_here(workshop: Workshop) -> None:
    workshop.tools.append(tool("f", {"a": {"type": "string"}}, ["a"]))
    with pytest.raises(TypeError, match="missing a required .*'a'"):
        workshop.client.tools.f()
    with pytest.raises(TypeError, match="positional"):
        workshop.client.tools.f("x")
    assert workshop.sent == []


def test_a_reported_failure_is_raised(client: mcpsync.Client) -> None:
    with pytest.raises(mcpsync.ToolError, match="no luck") as caught:
        client.tools.fail(message="no luck")
    assert caught.value.result.is_error
    assert (caught.value.server, caught.value.method) == ("demo", "tools/call")


def test_options(client: mcpsync.Client) -> None:
    steps: List[float] = []
    count = getattr(client.tools.count, "with_options")(
        on_progress=lambda progress, total, message: steps.append(progress)
    )
    assert count(to=1, delay=0.0).data == {"counted": 1}
    assert steps == [1]

    hasty = getattr(count, "with_options")(timeout=0.05)
    with pytest.raises(mcpsync.RequestTimeout):
        hasty(to=1000)
    # The options of before stay, and those of the one it was made from as well.
    assert len(steps) >= 1
    assert count(to=1, delay=0.0).data == {"counted": 1}


def test_a_default_of_the_schema_is_the_server_s_to_fill_in(workshop: Workshop) -> None:
    workshop.tools.append(tool("f", {"a": {"default": 5}, "b": {}}))
    workshop.client.tools.f()
    workshop.client.tools.f(b=None)
    assert workshop.sent == [{}, {"b": None}]


def test_more_arguments_than_the_schema_names(workshop: Workshop) -> None:
    workshop.tools.append(tool("f", {"a": {}}))
    workshop.client.tools.f(a=1, other=2)
    assert workshop.sent == [{"a": 1, "other": 2}]


# --- odd names --------------------------------------------------------------------


def test_names_that_are_no_identifiers(workshop: Workshop) -> None:
    names = ["list-files", "class", "_private", "a.b", "1st", "", "\u4f60\u597d"]
    workshop.tools.extend(tool(name) for name in names)
    for name in names:
        function = workshop.client.tools[name]
        assert getattr(function, "tool").name == name
        function()
    called = [m["params"]["name"] for m in workshop.server.of("tools/call")]
    assert called == names
    assert getattr(workshop.client.tools, "\u4f60\u597d")().content == []


def test_names_of_our_own_attributes(workshop: Workshop) -> None:
    workshop.tools.extend(tool(name) for name in ("keys", "_client", "__class__"))
    tools = workshop.client.tools
    assert getattr(tools.keys, "tool").name == "keys"
    assert getattr(tools["_client"], "tool").name == "_client"
    assert getattr(tools["__class__"], "tool").name == "__class__"
    assert type(tools).__name__ == "ToolNamespace"


def test_parameters_that_are_no_identifiers(workshop: Workshop) -> None:
    properties: Dict[str, Any] = {"class": {}, "file-name": {}, "2nd": {}, "self": {}}
    workshop.tools.append(tool("f", properties))
    workshop.client.tools.f(class_=1, file_name=2, _2nd=3, self=4)
    assert workshop.sent == [{"class": 1, "file-name": 2, "2nd": 3, "self": 4}]


def test_two_parameters_with_one_python_name(workshop: Workshop) -> None:
    workshop.tools.append(tool("f", {"a-b": {}, "a_b": {}, "c": {}}, ["a-b"]))
    workshop.client.tools.f(c=0, **{"a-b": 1, "a_b": 2})
    workshop.client.tools.f(**{"a_b": 2})
    assert workshop.sent == [{"c": 0, "a-b": 1, "a_b": 2}, {"a_b": 2}]


def test_a_parameter_without_any_python_name(workshop: Workshop) -> None:
    # A superscript is a word character, but no part of an identifier.
    workshop.tools.append(tool("f", {"x\u00b2": {}, "arguments": {}}))
    workshop.client.tools.f(arguments=1, **{"x\u00b2": 4, "more": 5})
    assert workshop.sent == [{"arguments": 1, "x\u00b2": 4, "more": 5}]


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        {"type": "object", "properties": 5},
        {"type": "object", "properties": {"a": 5}},
        {"type": "object", "properties": {"a": {"type": ["string", "null"]}}},
        {"type": "object", "properties": {"a": {"type": "pigeon"}}},
        {"type": "object", "properties": {"a": {"description": 5}}},
        {"type": "object", "properties": {"a": {}}, "required": "a"},
        {"type": "object", "properties": {"a": {}}, "required": [{}, 5, None]},
    ],
)
def test_schemas_that_say_little(workshop: Workshop, schema: Dict[str, Any]) -> None:
    workshop.tools.append({"name": "f", "inputSchema": schema})
    function = workshop.client.tools.f
    function(a=1)
    assert workshop.sent == [{"a": 1}]
    assert isinstance(function.__doc__, str)


def test_a_docstring_is_clean(workshop: Workshop) -> None:
    properties = {"a": {"description": "an \x1b[31margument\u202e"}}
    workshop.tools.append(tool("f", properties, description="red \x1b[31m\nblue"))
    text = workshop.client.tools.f.__doc__ or ""
    assert "\x1b" not in text and "\u202e" not in text
    assert "blue" in text.splitlines()


# --- the namespace ----------------------------------------------------------------


def test_looking_around(workshop: Workshop) -> None:
    tools = workshop.client.tools
    assert repr(tools) == "<tools of 'scripted', not listed yet>"
    workshop.tools.extend([tool("one"), tool("two-b")])
    assert workshop.listings == 0
    assert list(tools) == ["one", "two-b"] and len(tools) == 2
    assert "two-b" in tools and "three" not in tools
    assert "one" in dir(tools) and "two-b" not in dir(tools)
    assert tools._ipython_key_completions_() == ["one", "two-b"]
    assert repr(tools) == "<tools of 'scripted': one, two-b>"
    assert workshop.listings == 1


def test_no_tool_s_name_is_taken() -> None:
    public = [name for name in vars(type(mcpsync.Client(["x"]).tools))]
    assert [name for name in public if not name.startswith("_")] == []


def test_an_unknown_tool(workshop: Workshop) -> None:
    with pytest.raises(AttributeError, match="'scripted' has no tool 'nothing'"):
        workshop.client.tools.nothing
    with pytest.raises(KeyError, match="nothing"):
        workshop.client.tools["nothing"]
    assert not hasattr(workshop.client.tools, "_repr_html_")


def test_a_tool_that_came_later(workshop: Workshop) -> None:
    assert list(workshop.client.tools) == []
    workshop.tools.append(tool("late"))
    assert getattr(workshop.client.tools.late, "tool").name == "late"
    assert "late" in workshop.client.tools


def test_of_two_tools_of_one_name_the_first_counts(workshop: Workshop) -> None:
    workshop.tools.extend([tool("f", {"first": {}}), tool("f", {"second": {}})])
    assert "first" in inspect.signature(workshop.client.tools.f).parameters
    assert list(workshop.client.tools) == ["f"]


def test_a_listing_that_fails() -> None:
    answers: List[Any] = [Fault(-32603, "busy")] * 3

    def listing(incoming: Any) -> Any:
        return answers.pop() if answers else {"tools": [tool("f")]}

    with scripted({"tools/list": listing}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            # Completion in a notebook must not raise.
            assert dir(client.tools) == []
            assert client.tools._ipython_key_completions_() == []
            with pytest.raises(mcpsync.InternalError, match="busy"):
                client.tools.f
            assert list(client.tools) == ["f"]


def test_two_threads_look_at_once() -> None:
    gates = [threading.Event(), threading.Event()]
    asked: List[int] = []

    def listing(incoming: Any) -> Any:
        asked.append(1)
        incoming.hold(gates[min(len(asked), 2) - 1])
        return {"tools": [tool("f")]}

    with scripted({"tools/list": listing}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            seen: List[int] = []
            threads = [
                threading.Thread(target=lambda: seen.append(len(client.tools)))
                for _ in range(2)
            ]
            threads[0].start()
            server.await_messages("tools/list")
            # The second must not take the first one's unfinished work for an answer.
            threads[1].start()
            threads[1].join(0.2)
            assert seen == []
            for gate in gates:
                gate.set()
            for thread in threads:
                thread.join(5)
            assert seen == [1, 1]
