"""MCP servers over HTTP, each a table of methods and how they are answered."""

from __future__ import annotations

from typing import Any, Callable, Dict, Mapping, Optional

from .scripted_http import (
    Recorded,
    Reply,
    ScriptedServer,
    answer_to,
    error_to,
    json_reply,
)
from .scripted_memory import LEGACY

__all__ = [
    "Answer",
    "DISCOVERED",
    "DONE",
    "done",
    "fault",
    "in_turn",
    "INITIALIZED",
    "status",
    "web",
]

DISCOVERED = {
    "resultType": "complete",
    "supportedVersions": ["2026-07-28"],
    "capabilities": {"tools": {}},
}
INITIALIZED = {
    "protocolVersion": LEGACY,
    "capabilities": {"tools": {}},
    "serverInfo": {"name": "scripted", "version": "1"},
}
DONE: Dict[str, Any] = {"content": []}

Answer = Callable[[Recorded], Reply]


def web(methods: Mapping[str, Answer], session: bool = False) -> ScriptedServer:
    """Return a server that answers so, modern unless it has sessions."""

    def script(request: Recorded) -> Reply:
        method = request.rpc_method or request.method
        if method in methods:
            return methods[method](request)
        if method in ("GET", "DELETE"):
            return Reply(405 if method == "GET" else 204)
        if method.startswith("notifications/"):
            return Reply(202)
        if method == "server/discover" and not session:
            return json_reply(answer_to(request, DISCOVERED))
        if method == "initialize":
            headers = {"Mcp-Session-Id": "session-1"} if session else {}
            return json_reply(answer_to(request, INITIALIZED), headers=headers)
        return json_reply(error_to(request, -32601), status=404)

    return ScriptedServer(script)


def in_turn(*replies: Answer) -> Answer:
    """Answer every request by the next of these, and by the last for ever."""
    left = list(replies)

    def answer(request: Recorded) -> Reply:
        return (left.pop(0) if len(left) > 1 else left[0])(request)

    return answer


def done(request: Recorded) -> Reply:
    return json_reply(answer_to(request, DONE))


def status(code: int, *, retry_after: Optional[str] = None) -> Answer:
    """Return an answer with that HTTP status and nothing more."""
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    return lambda request: Reply(code, headers, b"busy")


def fault(code: int, http: int = 400, data: Any = None) -> Answer:
    """Return an answer that is a JSON-RPC error."""
    return lambda request: json_reply(error_to(request, code, "no", data), status=http)
