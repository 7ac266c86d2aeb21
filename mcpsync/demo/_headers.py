"""What the demo server demands of HTTP headers."""

from __future__ import annotations

import base64
import binascii
from email.message import Message as Headers
from typing import Dict, Optional
from urllib.parse import urlsplit

from ._server import Demo
from ._tools import TOOLS
from ._wire import (
    HEADER_MISMATCH,
    JSON,
    PROTOCOL_VERSION,
    Message,
    RPCError,
    meta_of,
    params_of,
)

LOCAL = ("localhost", "127.0.0.1", "[::1]")
NAMED: Dict[str, str] = {
    "tools/call": "name",
    "prompts/get": "name",
    "resources/read": "uri",
}


def is_local(headers: Headers) -> bool:
    """Tell whether Host, and Origin if there is one, name this machine.

    A page that a browser loaded from elsewhere may have had its name rebound to
    127.0.0.1 (2026-07-28, basic/transports/streamable-http, Security).
    """
    host = headers.get("Host", "")
    origin = headers.get("Origin")
    if _hostname(host) not in LOCAL:
        return False
    return origin is None or _hostname(urlsplit(origin).netloc) in LOCAL


def _hostname(authority: str) -> str:
    if authority.startswith("["):
        return authority.partition("]")[0] + "]"
    return authority.partition(":")[0].lower()


def accepts(headers: Headers, *kinds: str) -> bool:
    """Tell whether the Accept header names all of these media types."""
    accepted = headers.get("Accept", "")
    offered = {part.partition(";")[0].strip().lower() for part in accepted.split(",")}
    return "*/*" in offered or offered.issuperset(kinds)


def is_json(headers: Headers) -> bool:
    """Tell whether the body is declared to be JSON."""
    kind: str = headers.get("Content-Type", "")
    return kind.partition(";")[0].strip().lower() == "application/json"


def check(demo: Demo, message: Message, headers: Headers) -> None:
    """Check the headers of a modern request against its body.

    Raises:
        RPCError: with -32602 or -32022 for its ``_meta``, -32020 for its headers.
    """
    version = meta_of(message).get(PROTOCOL_VERSION)
    if isinstance(version, str):
        _expect(headers, "MCP-Protocol-Version", version)
    demo.check_version(message)
    method = message["method"]
    _expect(headers, "Mcp-Method", method)
    params = params_of(message)
    field = NAMED.get(method)
    if field is not None and isinstance(params.get(field), str):
        _expect(headers, "Mcp-Name", params[field])
    if method == "tools/call":
        _check_parameters(params, headers)


def _check_parameters(params: Message, headers: Headers) -> None:
    name = params.get("name")
    tool = TOOLS.get(name) if isinstance(name, str) else None
    arguments = params.get("arguments")
    if tool is None or not isinstance(arguments, dict):
        return
    for key, schema in tool.definition["inputSchema"]["properties"].items():
        header = schema.get("x-mcp-header")
        if header is not None:
            _expect(headers, f"Mcp-Param-{header}", _text(arguments.get(key)))


def _text(value: JSON) -> Optional[str]:
    """Return a parameter as its header has it; None when the header is absent."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return None if value is None else str(value)


def _expect(headers: Headers, name: str, value: Optional[str]) -> None:
    given = headers.get_all(name, [])
    expected = [] if value is None else [value]
    if [_decoded(text) for text in given] != expected:
        what = "does not match the body" if given else "is missing"
        raise RPCError(HEADER_MISMATCH, f"Header mismatch: {name} {what}")


def _decoded(text: str) -> Optional[str]:
    """Return a header value without its Base64 form; None for a broken one."""
    text = text.strip(" \t")
    if not (text.startswith("=?base64?") and text.endswith("?=")):
        return text
    try:
        return base64.b64decode(text[9:-2], validate=True).decode("utf-8")
    except (binascii.Error, UnicodeDecodeError):
        return None
