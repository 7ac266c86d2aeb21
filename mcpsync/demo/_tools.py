"""The tools of the demo server: their definitions and what they do."""

from __future__ import annotations

import base64
import json
import os
import struct
import zlib
from typing import Callable, Dict, List, NamedTuple, Optional

from ._calls import Call, Crash, Refused
from ._wire import INVALID_PARAMS, JSON, LEVELS, Message, RPCError

Body = Callable[[Call, Message], Message]


class Tool(NamedTuple):
    """One tool.

    ``slow`` tools are answered by an event stream over HTTP, in both eras; tools that
    ``ask`` are in the legacy eras alone, where the question travels on that stream.
    """

    definition: Message
    run: Body
    slow: bool
    asks: bool

    def streams(self, modern: bool) -> bool:
        """Tell whether a call is answered by an event stream over HTTP."""
        return self.slow or (self.asks and not modern)


TOOLS: Dict[str, Tool] = {}


def _object(properties: Message, required: List[str]) -> Message:
    return {"type": "object", "properties": properties, "required": required}


def _tool(
    description: str,
    properties: Optional[Message] = None,
    *,
    optional: Optional[Message] = None,
    output: Optional[Message] = None,
    slow: bool = False,
    asks: bool = False,
    **annotations: JSON,
) -> Callable[[Body], Body]:
    """Register a function as the tool of its name."""
    properties = properties or {}
    schema = _object({**properties, **(optional or {})}, list(properties))

    def register(run: Body) -> Body:
        name = run.__name__.strip("_")
        definition: Message = {"name": name, "description": description}
        definition["inputSchema"] = schema
        if output is not None:
            definition["outputSchema"] = output
        if annotations:
            definition["annotations"] = annotations
        TOOLS[name] = Tool(definition, run, slow, asks)
        return run

    return register


def text_result(text: str) -> Message:
    """Return a result of one text block."""
    return {"content": [{"type": "text", "text": text}]}


def error_result(text: str) -> Message:
    """Return a result that says the tool failed."""
    return {**text_result(text), "isError": True}


def structured(value: Message) -> Message:
    """Return a result with structured content and the same JSON as text."""
    result = text_result(json.dumps(value, ensure_ascii=False))
    result["structuredContent"] = value
    return result


def describe(tool: Tool, version: str) -> Message:
    """Return the definition of a tool as a client of this version knows it."""
    definition = dict(tool.definition)
    if version < "2025-06-18":
        definition.pop("outputSchema", None)
    if version < "2025-03-26":
        definition.pop("annotations", None)
    return definition


def call_tool(call: Call) -> Message:
    """Run the tool that a ``tools/call`` request names."""
    name = call.params.get("name")
    tool = TOOLS.get(name) if isinstance(name, str) else None
    if tool is None:
        raise RPCError(INVALID_PARAMS, f"Unknown tool: {name}")
    arguments = call.params.get("arguments", {})
    problem = check_arguments(tool.definition["inputSchema"], arguments)
    if problem is not None:
        # Until 2025-06-18 bad arguments were a protocol error (server/tools).
        if call.version < "2025-11-25":
            raise RPCError(INVALID_PARAMS, problem)
        return error_result(problem)
    try:
        result = tool.run(call, arguments)
    except Refused as exc:
        return error_result(str(exc))
    if call.version < "2025-06-18":
        result.pop("structuredContent", None)
    return result


def check_arguments(schema: Message, arguments: JSON) -> Optional[str]:
    """Return what is wrong with the arguments of a tool, or None."""
    if not isinstance(arguments, dict):
        return "arguments must be an object"
    for name in schema["required"]:
        if name not in arguments:
            return f"Invalid arguments: {name!r} is a required property"
    for name, value in arguments.items():
        kind = schema["properties"].get(name, {}).get("type")
        if kind is not None and not _is_a(kind, value):
            return f"Invalid arguments: {name!r} is not of type {kind!r}"
    return None


def _is_a(kind: str, value: JSON) -> bool:
    if kind == "boolean":
        return isinstance(value, bool)
    if isinstance(value, bool):
        return False
    if kind == "integer":
        return isinstance(value, int) or (
            isinstance(value, float) and value.is_integer()
        )
    return isinstance(value, (int, float) if kind == "number" else str)


_STRING = {"type": "string"}
_INTEGER = {"type": "integer"}
_NUMBER = {"type": "number"}


@_tool(
    "Echo a message.",
    {"message": {"type": "string", "description": "What to say back."}},
    output=_object({"echo": _STRING, "env": {"type": ["string", "null"]}}, ["echo"]),
    readOnlyHint=True,
)
def _echo(call: Call, arguments: Message) -> Message:
    value = os.environ.get("MCP_TEST_VALUE")
    return structured({"echo": f"ECHOING: {arguments['message']}", "env": value})


@_tool(
    "Add two numbers.",
    {"a": _NUMBER, "b": _NUMBER},
    output=_object({"sum": _NUMBER}, ["sum"]),
    title="Addition",
    readOnlyHint=True,
    idempotentHint=True,
)
def _add(call: Call, arguments: Message) -> Message:
    return structured({"sum": arguments["a"] + arguments["b"]})


@_tool(
    "Count up to a number, reporting progress.",
    {"to": {"type": "integer", "minimum": 0}},
    optional={
        "delay": {
            "type": "number",
            "default": 0.1,
            "description": "Seconds between two steps.",
        }
    },
    slow=True,
)
def _count(call: Call, arguments: Message) -> Message:
    to = int(arguments["to"])
    delay = arguments.get("delay", 0.1)
    for step in range(1, to + 1):
        call.sleep(delay)
        call.progress(step, to, f"{step} of {to}")
    return structured({"counted": to})


@_tool(
    "Sleep; can be cancelled.",
    {"seconds": {"type": "number", "minimum": 0}},
    slow=True,
)
def _wait(call: Call, arguments: Message) -> Message:
    call.sleep(arguments["seconds"])
    return structured({"waited": arguments["seconds"]})


@_tool(
    "Finish on a resumed stream: close the stream of the answer first.",
    {"seconds": {"type": "number", "minimum": 0}},
    optional={
        "retry": {
            "type": "integer",
            "default": 100,
            "description": "Milliseconds after which the client may come back.",
        }
    },
    slow=True,
)
def _reconnect(call: Call, arguments: Message) -> Message:
    call.drop_stream(int(arguments.get("retry", 100)))
    call.sleep(arguments["seconds"])
    call.progress(1, 1, "resumed")
    return text_result("resumed")


@_tool("Fail with a message.", {"message": _STRING})
def _fail(call: Call, arguments: Message) -> Message:
    return error_result(arguments["message"])


@_tool("Die without an answer (over HTTP: drop the connection).")
def _crash(call: Call, arguments: Message) -> Message:
    raise Crash


@_tool(
    "Tell the server's counters; calls of this tool are not counted.",
    output={"type": "object", "additionalProperties": {"type": "integer"}},
    readOnlyHint=True,
)
def _stats(call: Call, arguments: Message) -> Message:
    return structured(call.server.stats)


@_tool("Return a text of that many bytes.", {"size": {"type": "integer", "minimum": 0}})
def _blob(call: Call, arguments: Message) -> Message:
    return text_result("x" * int(arguments["size"]))


@_tool(
    "Echo a region that is also sent as the header Mcp-Param-Region.",
    {"region": {"type": "string", "x-mcp-header": "Region"}},
    output=_object({"region": _STRING}, ["region"]),
)
def _region_echo(call: Call, arguments: Message) -> Message:
    return structured({"region": arguments["region"]})


@_tool(
    "Send a log message.",
    {"message": _STRING},
    optional={"level": {"type": "string", "enum": list(LEVELS), "default": "info"}},
    slow=True,
)
def _log(call: Call, arguments: Message) -> Message:
    level = arguments.get("level", "info")
    if level not in LEVELS:
        return error_result(f"Invalid arguments: {level!r} is not a level")
    call.log(level, arguments["message"])
    return text_result("logged")


@_tool(
    "Change a resource and tell those who listen.",
    optional={"uri": {"type": "string", "default": "demo://greeting"}},
    output=_object({"uri": _STRING, "touched": _INTEGER}, ["uri", "touched"]),
)
def _touch(call: Call, arguments: Message) -> Message:
    uri = arguments.get("uri", "demo://greeting")
    return structured({"uri": uri, "touched": call.server.touch(uri)})


def png() -> bytes:
    """Return a small image: 8 by 8 pixels of one colour, as PNG."""
    header = struct.pack(">IIBBBBB", 8, 8, 8, 2, 0, 0, 0)
    rows = (b"\x00" + b"\x2a\x7f\xff" * 8) * 8
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    image = b"\x89PNG\r\n\x1a\n"
    for kind, data in parts:
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        image += struct.pack(">I", len(data)) + kind + data + checksum
    return image


@_tool("Return a small picture and a line of text.", readOnlyHint=True)
def _image(call: Call, arguments: Message) -> Message:
    data = base64.b64encode(png()).decode("ascii")
    picture = {"type": "image", "data": data, "mimeType": "image/png"}
    return {"content": [picture, {"type": "text", "text": "a blue square"}]}


def form(call: Call, question: str, properties: Message) -> Message:
    """Return the parameters of a form elicitation."""
    schema = {"type": "object", "properties": properties}
    params: Message = {"message": question, "requestedSchema": schema}
    if call.version >= "2025-11-25":
        params["mode"] = "form"
    return params


_FORM: Message = {
    "name": {"type": "string", "title": "Name", "default": "Ada"},
    "age": {"type": "integer", "minimum": 0, "default": 36},
    "ok": {"type": "boolean", "default": True},
    "color": {
        "type": "string",
        "enum": ["red", "green", "blue"],
        "default": "green",
    },
}
_ANSWER = _object({"action": _STRING, "content": {"type": ["object", "null"]}}, [])


def _elicited(answer: Message) -> Message:
    return {"action": answer.get("action"), "content": answer.get("content")}


@_tool(
    "Ask the user with a form and return the answer.",
    {"question": _STRING},
    output=_ANSWER,
    asks=True,
)
def _ask(call: Call, arguments: Message) -> Message:
    params = form(call, arguments["question"], _FORM)
    return structured(_elicited(call.ask("answer", "elicitation/create", params)))


@_tool(
    "Ask the user several times, one question a round.",
    {"rounds": {"type": "integer", "minimum": 0}},
    asks=True,
)
def _survey(call: Call, arguments: Message) -> Message:
    answers = []
    for number in range(1, int(arguments["rounds"]) + 1):
        field: Message = {"answer": {"type": "string", "default": str(number)}}
        params = form(call, f"Question {number}?", field)
        answer = call.ask(f"round{number}", "elicitation/create", params)
        answers.append(_elicited(answer))
    return structured({"answers": answers})


@_tool("Greet by the roots of the client.", asks=True)
def _greet_roots(call: Call, arguments: Message) -> Message:
    roots = call.ask("roots", "roots/list").get("roots", [])
    names = [root.get("name") or root.get("uri", "") for root in roots]
    result = text_result("Hello, " + (", ".join(names) or "rootless one"))
    result["structuredContent"] = {"roots": roots}
    return result


@_tool("Have the client's model summarize a text.", {"text": _STRING}, asks=True)
def _summarize(call: Call, arguments: Message) -> Message:
    block = {"type": "text", "text": f"Summarize: {arguments['text']}"}
    params = {"messages": [{"role": "user", "content": block}], "maxTokens": 100}
    answer = call.ask("summary", "sampling/createMessage", params)
    content = answer.get("content")
    blocks = content if isinstance(content, list) else [content or {}]
    summary = "".join(block.get("text", "") for block in blocks)
    return structured({"summary": summary, "model": answer.get("model")})
