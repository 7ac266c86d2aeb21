"""A server's tools as Python functions: ``client.tools.<name>(…)``."""

from __future__ import annotations

import collections
import inspect
import keyword
import re
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Tuple,
    Union,
)

from ._deadline import Timeout
from ._text import clean
from .exceptions import MCPError, ToolError
from .types import CallToolResult, Tool

if TYPE_CHECKING:
    from .client import Client

__all__ = ["ToolNamespace"]

_TYPES: Dict[str, type] = {
    "string": str,
    "integer": int,
    "number": float,
    "boolean": bool,
    "array": list,
    "object": dict,
}

BoundTool = Callable[..., CallToolResult]


class ToolNamespace:
    """The tools of one server, by attribute or, for odd names, by item.

    Tools are listed at the first access. It has no public methods, so that no tool's
    name can be taken.
    """

    def __init__(self, client: "Client") -> None:
        self._client = client
        self._tools: Optional[Dict[str, Tool]] = None

    def _listed(self) -> Dict[str, Tool]:
        listed = self._tools
        if listed is None:
            # Two threads may list at once; neither sees half of a listing.
            listed = {}
            for tool in self._client.list_tools():
                listed.setdefault(tool.name, tool)
            self._tools = listed
        return listed

    def _find(self, name: str) -> Optional[Tool]:
        tool = self._listed().get(name)
        if tool is None:
            # It may have come since the listing.
            self._tools = None
            tool = self._listed().get(name)
        return tool

    def __getattr__(self, name: str) -> BoundTool:
        if name.startswith("_"):
            raise AttributeError(name)
        tool = self._find(name)
        if tool is None:
            raise AttributeError("server %r has no tool %r" % (self._client.name, name))
        return bind(self._client, tool)

    def __getitem__(self, name: str) -> BoundTool:
        tool = self._find(name)
        if tool is None:
            raise KeyError(name)
        return bind(self._client, tool)

    def __iter__(self) -> Iterator[str]:
        return iter(list(self._listed()))

    def __len__(self) -> int:
        return len(self._listed())

    def __contains__(self, name: object) -> bool:
        return name in self._listed()

    def __dir__(self) -> List[str]:
        try:
            return [name for name in self._listed() if name.isidentifier()]
        except MCPError:
            # Completion in an editor or a notebook must not fail.
            return []

    def _ipython_key_completions_(self) -> List[str]:
        try:
            return list(self._listed())
        except MCPError:
            return []

    def __repr__(self) -> str:
        if self._tools is None:
            return "<tools of %r, not listed yet>" % self._client.name
        names = ", ".join(clean(name, 60) for name in self._tools)
        return "<tools of %r: %s>" % (self._client.name, names)


def bind(
    client: "Client",
    tool: Tool,
    timeout: Union[None, float, Timeout] = None,
    on_progress: Any = None,
) -> BoundTool:
    """Return a real function that calls `tool`, with its signature and docstring.

    It raises :class:`mcpsync.ToolError` where the tool reports failure. It has
    ``.tool``, and ``.with_options(timeout=…, on_progress=…)``, which returns another.
    """
    signature, names = _signature(tool)

    def call(*args: Any, **kwargs: Any) -> CallToolResult:
        given = signature.bind(*args, **kwargs)
        arguments = {
            names.get(key, key): value for key, value in _flat(given, signature)
        }
        result = client.call_tool(
            tool.name, arguments, timeout=timeout, on_progress=on_progress
        )
        try:
            return result.raise_for_error()
        except ToolError as error:
            error.server, error.method = client.name, "tools/call"
            raise

    def with_options(
        timeout: Union[None, float, Timeout] = timeout, on_progress: Any = on_progress
    ) -> BoundTool:
        return bind(client, tool, timeout, on_progress)

    call.__name__ = _identifier(tool.name)
    call.__qualname__ = call.__name__
    call.__doc__ = _docstring(tool)
    setattr(call, "__signature__", signature)
    setattr(call, "tool", tool)
    setattr(call, "with_options", with_options)
    return call


def _flat(
    given: inspect.BoundArguments, signature: inspect.Signature
) -> Iterator[Tuple[str, Any]]:
    for key, value in given.arguments.items():
        if signature.parameters[key].kind is inspect.Parameter.VAR_KEYWORD:
            yield from value.items()
        else:
            yield key, value


def _signature(tool: Tool) -> Tuple[inspect.Signature, Dict[str, str]]:
    """Return the signature, and the wire name of every parameter that differs."""
    properties = tool.input_schema.get("properties")
    if not isinstance(properties, Mapping):
        properties = {}
    wanted = tool.input_schema.get("required")
    listed = wanted if isinstance(wanted, list) else []
    required = {name for name in listed if isinstance(name, str)}
    spelled = collections.Counter(map(_identifier, properties))
    names: Dict[str, str] = {}
    parameters: List[inspect.Parameter] = []
    for wire in sorted(properties, key=lambda key: key not in required):
        name = _identifier(wire)
        if spelled[name] > 1 or not name.isidentifier():
            # Without a Python name of its own: it goes through **arguments.
            continue
        names[name] = wire
        parameters.append(_parameter(name, properties[wire], wire in required))
    rest = "arguments"
    while rest in names:
        rest += "_"
    parameters.append(inspect.Parameter(rest, inspect.Parameter.VAR_KEYWORD))
    return inspect.Signature(parameters, return_annotation=CallToolResult), names


def _parameter(name: str, schema: Any, required: bool) -> inspect.Parameter:
    schema = schema if isinstance(schema, Mapping) else {}
    kind = schema.get("type")
    annotation: Any = _TYPES.get(kind, Any) if isinstance(kind, str) else Any
    default: Any = inspect.Parameter.empty
    if not required:
        default = schema.get("default", None)
    return inspect.Parameter(
        name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=annotation,
    )


def _identifier(name: str) -> str:
    text = re.sub(r"\W", "_", name) or "_"
    if text[0].isdigit() or keyword.iskeyword(text):
        text = text + "_" if keyword.iskeyword(text) else "_" + text
    return text


def _docstring(tool: Tool) -> str:
    lines = [clean(tool.display_name, 200)]
    if tool.description:
        lines += ["", clean(tool.description, 4000).replace("\\n", "\n")]
    properties = tool.input_schema.get("properties")
    if isinstance(properties, Mapping) and properties:
        lines += ["", "Args:"]
        for wire, schema in properties.items():
            text = schema.get("description", "") if isinstance(schema, Mapping) else ""
            lines.append("    %s: %s" % (_identifier(wire), clean(text, 500)))
    return "\n".join(lines)
