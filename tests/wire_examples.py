"""What the wire says, by class: the shapes of all protocol revisions."""

from __future__ import annotations

import base64
import inspect
from typing import Any, List, Type

import pytest

from mcpsync import types
from mcpsync.types import WireObject

PIXEL = base64.b64encode(b"\x89PNG\r\n\x1a\n").decode()

TEXT = {"type": "text", "text": "hi"}
IMAGE = {"type": "image", "data": PIXEL, "mimeType": "image/png"}
AUDIO = {"type": "audio", "data": PIXEL, "mimeType": "audio/wav"}
LINK = {"type": "resource_link", "uri": "file:///a", "name": "a", "size": 3}
EMBEDDED = {"type": "resource", "resource": {"uri": "file:///a", "text": "x"}}
EMBEDDED_BLOB = {"type": "resource", "resource": {"uri": "file:///a", "blob": PIXEL}}
TOOL_USE = {"type": "tool_use", "id": "u1", "name": "add", "input": {"a": 1}}
TOOL_RESULT = {"type": "tool_result", "toolUseId": "u1", "content": [TEXT, IMAGE]}
HOLOGRAM = {"type": "hologram", "depth": 3}

ICON = {"src": "data:image/png;base64,AA==", "sizes": ["48x48"], "theme": "dark"}
ANNOTATIONS = {
    "audience": ["user", "assistant"],
    "priority": 0.5,
    "lastModified": "2026-01-02T03:04:05Z",
}
TOOL = {
    "name": "get_weather",
    "title": "Weather",
    "description": "says the weather",
    "inputSchema": {"$schema": "x", "type": "object", "allOf": [{"required": ["a"]}]},
    "outputSchema": {"type": "array"},
    "annotations": {
        "title": "other",
        "readOnlyHint": True,
        "destructiveHint": False,
        "idempotentHint": True,
        "openWorldHint": False,
    },
    "execution": {"taskSupport": "optional"},
    "icons": [ICON],
    "_meta": {"ui": {"resourceUri": "ui://d/x"}},
}
SERVER_INFO = {"name": "demo", "version": "3"}

#: What the wire says, by class: shapes of all revisions.
EXAMPLES: List[Any] = [
    (types.Annotations, ANNOTATIONS),
    (types.Annotations, {}),
    (types.Icon, ICON),
    (types.Icon, {"src": "https://example.com/i.png", "mimeType": "image/png"}),
    (types.Implementation, SERVER_INFO),
    (
        types.Implementation,
        {
            "name": "demo",
            "version": "3",
            "title": "Demo",
            "description": "shows",
            "websiteUrl": "https://example.com",
            "icons": [ICON],
        },
    ),
    (
        types.ServerCapabilities,
        {
            "tools": {"listChanged": True},
            "resources": {"subscribe": True},
            "prompts": {},
            "logging": {},
            "completions": {},
            "tasks": {"requests": {"tools": {"call": {}}}},
            "experimental": {"x": {}},
            "extensions": {"io.modelcontextprotocol/tasks": {}},
        },
    ),
    (types.TextContent, {**TEXT, "annotations": ANNOTATIONS, "_meta": {"k": 1}}),
    (types.ImageContent, IMAGE),
    (types.AudioContent, AUDIO),
    (types.ResourceLink, LINK),
    (types.EmbeddedResource, {**EMBEDDED, "annotations": {"priority": 1}}),
    (types.EmbeddedResource, EMBEDDED_BLOB),
    (types.ToolUseContent, TOOL_USE),
    (types.ToolResultContent, TOOL_RESULT),
    (
        types.ToolResultContent,
        {**TOOL_RESULT, "structuredContent": None, "isError": True},
    ),
    (types.UnknownContent, HOLOGRAM),
    (types.TextResourceContents, {"uri": "a:b", "text": "", "mimeType": "text/plain"}),
    (types.BlobResourceContents, {"uri": "a:b", "blob": PIXEL, "_meta": {}}),
    (types.Tool, TOOL),
    (types.Tool, {"name": "add", "inputSchema": {"type": "object"}}),
    (types.ToolAnnotations, {"readOnlyHint": False}),
    (
        types.Resource,
        {
            "uri": "file:///a",
            "name": "a",
            "title": "A",
            "description": "the a",
            "mimeType": "text/plain",
            "annotations": ANNOTATIONS,
            "size": 10,
            "icons": [ICON],
        },
    ),
    (types.ResourceTemplate, {"uriTemplate": "file:///{x}", "name": "x"}),
    (
        types.Prompt,
        {"name": "p", "arguments": [{"name": "x", "required": True}, {"name": "y"}]},
    ),
    (types.PromptArgument, {"name": "x", "title": "X", "description": "d"}),
    (types.PromptMessage, {"role": "user", "content": EMBEDDED}),
    (types.ListToolsResult, {"tools": [TOOL], "nextCursor": "def"}),
    (
        types.ListToolsResult,
        {
            "resultType": "complete",
            "tools": [],
            "ttlMs": 0,
            "cacheScope": "private",
        },
    ),
    (types.ListToolsResult, {"tools": [], "nextCursor": None}),
    (types.ListResourcesResult, {"resources": [{"uri": "a:b", "name": "b"}]}),
    (
        types.ListResourceTemplatesResult,
        {"resourceTemplates": [{"uriTemplate": "a:{b}", "name": "b"}]},
    ),
    (types.ListPromptsResult, {"prompts": [{"name": "p", "arguments": []}]}),
    (
        types.CallToolResult,
        {"content": [TEXT], "structuredContent": {"s": 1}, "isError": False},
    ),
    (types.CallToolResult, {"content": []}),
    (
        types.CallToolResult,
        {"resultType": "complete", "content": [], "structuredContent": [1, 2]},
    ),
    (types.CallToolResult, {"content": [], "structuredContent": None}),
    (
        types.CallToolResult,
        {"content": [TEXT, IMAGE, AUDIO, LINK, EMBEDDED, EMBEDDED_BLOB, HOLOGRAM]},
    ),
    (
        types.ReadResourceResult,
        {
            "resultType": "complete",
            "contents": [{"uri": "file:///a", "text": "x"}],
            "ttlMs": 0,
            "cacheScope": "private",
        },
    ),
    (types.GetPromptResult, {"messages": [{"role": "user", "content": TEXT}]}),
    (
        types.CompleteResult,
        {"completion": {"values": ["python"], "total": 1, "hasMore": False}},
    ),
    (
        types.CompleteResult,
        {"completion": {"values": [], "later": 1}, "_meta": {"k": 1}},
    ),
    (
        types.DiscoverResult,
        {
            "resultType": "complete",
            "supportedVersions": ["2026-07-28", "2025-11-25"],
            "capabilities": {"tools": {"listChanged": True}},
            "instructions": "be kind",
            "ttlMs": 60000,
            "cacheScope": "public",
            "_meta": {"io.modelcontextprotocol/serverInfo": SERVER_INFO},
        },
    ),
    (
        types.InitializeResult,
        {
            "protocolVersion": "2025-06-18",
            "capabilities": {"tools": {}, "logging": {}},
            "serverInfo": SERVER_INFO,
            "instructions": "be kind",
        },
    ),
    (
        types.ElicitRequest,
        {
            "message": "name?",
            "requestedSchema": {"type": "object", "properties": {}},
        },
    ),
    (
        types.ElicitRequest,
        {
            "mode": "url",
            "message": "pay",
            "url": "https://x.example/p",
            "elicitationId": "e1",
        },
    ),
    (types.ElicitResult, {"action": "accept", "content": {"n": "Ann"}}),
    (types.ElicitResult, {"action": "decline"}),
    (
        types.CreateMessageRequest,
        {
            "messages": [
                {"role": "user", "content": TEXT},
                {"role": "assistant", "content": [TOOL_USE]},
                {"role": "user", "content": [TOOL_RESULT]},
            ],
            "maxTokens": 50,
            "systemPrompt": "be brief",
            "modelPreferences": {"hints": [{"name": "m"}], "costPriority": 0.1},
            "temperature": 0.7,
            "stopSequences": ["END"],
            "includeContext": "none",
            "metadata": {"k": 1},
            "tools": [TOOL],
            "toolChoice": {"mode": "auto"},
        },
    ),
    (types.SamplingMessage, {"role": "user", "content": TEXT, "_meta": {"k": 1}}),
    (
        types.CreateMessageResult,
        {
            "role": "assistant",
            "content": TEXT,
            "model": "m",
            "stopReason": "endTurn",
        },
    ),
    (types.CreateMessageResult, {"role": "assistant", "content": [], "model": "m"}),
    (types.Root, {"uri": "file:///w", "name": "w"}),
    (types.ListRootsResult, {"roots": [{"uri": "file:///w"}]}),
    (
        types.ProgressNotification,
        {"progressToken": "p4", "progress": 1, "total": 2.5, "message": "half"},
    ),
    (types.ProgressNotification, {"progressToken": 5, "progress": 0.5}),
    (types.LoggingMessage, {"level": "error", "logger": "db", "data": {"k": 1}}),
    (types.LoggingMessage, {"level": "info", "data": None}),
    (
        types.ServerNotification,
        {"jsonrpc": "2.0", "method": "notifications/tools/list_changed"},
    ),
    (
        types.ServerNotification,
        {
            "jsonrpc": "2.0",
            "method": "notifications/resources/updated",
            "params": {"uri": "file:///a", "_meta": {"k": 7}},
        },
    ),
]

CLASSES: List[Type[WireObject]] = sorted(
    {
        item
        for item in vars(types).values()
        if inspect.isclass(item)
        and issubclass(item, WireObject)
        and item.__name__ in types.__all__
        and item is not WireObject
    },
    key=lambda kind: kind.__name__,
)


def of_each(examples: List[Any]) -> Any:
    """Run a test with `kind` and `wire` of each example."""
    names = ["%s-%d" % (kind.__name__, i) for i, (kind, _) in enumerate(examples)]
    return pytest.mark.parametrize("kind, wire", examples, ids=names)
