"""The resources, prompts and completions of the demo server."""

from __future__ import annotations

import base64
import re
from typing import Dict, List, Optional

from ._calls import Call
from ._tools import png
from ._wire import INVALID_PARAMS, JSON, RESOURCE_NOT_FOUND, Message, RPCError

RESOURCES: List[Message] = [
    {
        "uri": "demo://greeting",
        "name": "greeting",
        "description": "A greeting that `touch` changes.",
        "mimeType": "text/plain",
    },
    {"uri": "demo://logo", "name": "logo", "mimeType": "image/png"},
]
TEMPLATES: List[Message] = [
    {
        "uriTemplate": "demo://item/{id}",
        "name": "item",
        "description": "One of the items 1 to 100.",
        "mimeType": "text/plain",
    }
]
PROMPTS: List[Message] = [
    {
        "name": "greeting",
        "description": "Greet somebody.",
        "arguments": [
            {"name": "name", "description": "Whom to greet.", "required": True},
            {"name": "style", "description": "How to greet.", "required": False},
        ],
    }
]
STYLES: Dict[str, str] = {
    "formal": "Write a formal greeting to {}.",
    "friendly": "Write a friendly greeting to {}.",
    "pirate": "Greet {} as a pirate would.",
}
ITEMS = [str(number) for number in range(1, 101)]

_ITEM = re.compile(r"demo://item/([0-9]+)")


def exists(uri: str) -> bool:
    """Tell whether a resource of this URI can be read."""
    item = _ITEM.fullmatch(uri)
    if item is not None:
        return item.group(1) in ITEMS
    return any(resource["uri"] == uri for resource in RESOURCES)


def read_resource(call: Call) -> Message:
    """Serve ``resources/read``."""
    uri = call.params.get("uri")
    if not isinstance(uri, str):
        raise RPCError(INVALID_PARAMS, "uri must be a string")
    if not exists(uri):
        # The code of a missing resource changed in 2026-07-28 (server/resources).
        code = INVALID_PARAMS if call.modern else RESOURCE_NOT_FOUND
        raise RPCError(code, f"Resource not found: {uri}", {"uri": uri})
    if uri == "demo://logo":
        blob = base64.b64encode(png()).decode("ascii")
        return {"contents": [{"uri": uri, "mimeType": "image/png", "blob": blob}]}
    text = _text_of(call, uri)
    return {"contents": [{"uri": uri, "mimeType": "text/plain", "text": text}]}


def _text_of(call: Call, uri: str) -> str:
    touched = call.server.touched(uri)
    suffix = f" (touched {touched} times)" if touched else ""
    item = _ITEM.fullmatch(uri)
    if item is not None:
        return f"Item {item.group(1)}{suffix}"
    return f"Hello from {call.server.name}!{suffix}"


def get_prompt(call: Call) -> Message:
    """Serve ``prompts/get``."""
    if call.params.get("name") != "greeting":
        raise RPCError(INVALID_PARAMS, f"Unknown prompt: {call.params.get('name')}")
    arguments = call.params.get("arguments")
    arguments = arguments if isinstance(arguments, dict) else {}
    if not isinstance(arguments.get("name"), str):
        raise RPCError(INVALID_PARAMS, "Missing required argument: name")
    style = arguments.get("style", "friendly")
    if style not in STYLES:
        raise RPCError(INVALID_PARAMS, f"Unknown style: {style}")
    content = {"type": "text", "text": STYLES[style].format(arguments["name"])}
    return {
        "description": PROMPTS[0]["description"],
        "messages": [{"role": "user", "content": content}],
    }


def complete(call: Call) -> Message:
    """Serve ``completion/complete``."""
    ref = call.params.get("ref")
    argument = call.params.get("argument")
    if not isinstance(ref, dict) or not isinstance(argument, dict):
        raise RPCError(INVALID_PARAMS, "ref and argument must be objects")
    choices = _choices(ref, argument.get("name"))
    if choices is None:
        raise RPCError(INVALID_PARAMS, "Unknown prompt or template")
    prefix = str(argument.get("value", ""))
    values = [choice for choice in choices if choice.startswith(prefix)]
    return {
        "completion": {
            "values": values[:20],
            "total": len(values),
            "hasMore": len(values) > 20,
        }
    }


def _choices(ref: Message, argument: JSON) -> Optional[List[str]]:
    """Return all values of an argument, None when what it belongs to is unknown."""
    if ref.get("type") == "ref/prompt" and ref.get("name") == "greeting":
        return list(STYLES) if argument == "style" else []
    if ref.get("type") == "ref/resource" and ref.get("uri") == "demo://item/{id}":
        return ITEMS if argument == "id" else []
    return None
