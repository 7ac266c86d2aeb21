"""Results of the protocol as text for people and for pipes."""

from __future__ import annotations

import json
from typing import Any, Iterable, List, Mapping, Optional, Sequence, Tuple

from .._text import clean
from ..console import readable
from ..types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    GetPromptResult,
    ImageContent,
    Prompt,
    ReadResourceResult,
    ResourceContents,
    ResourceLink,
    ServerCapabilities,
    TextContent,
    TextResourceContents,
    Tool,
)
from ._output import Output
from ._progress import fitted

__all__ = [
    "capabilities_text",
    "contents_text",
    "fields_text",
    "messages_text",
    "names_text",
    "prompts_table",
    "result_text",
    "table",
    "tool_page",
    "tools_table",
]

JSON = Any

#: Characters of a name, and of one line about it.
_NAME = 200
_SUMMARY = 500


def words_of(output: Output, text: str) -> str:
    """Return a server's text: safe for a terminal, untouched for anything else."""
    return readable(text) if output.out_is_terminal else text


# --- tables -----------------------------------------------------------------------


def table(output: Output, rows: Sequence[Tuple[str, Optional[str]]]) -> str:
    """Return names and summaries in two columns, one line each."""
    cleaned = [(clean(name, _NAME), _summary(text)) for name, text in rows]
    width = min(max((len(name) for name, _ in cleaned), default=0), 60)
    lines = []
    for name, summary in cleaned:
        if output.columns is not None:
            taken = max(width, len(name)) + 2
            summary = fitted(summary, max(20, output.columns - taken))
        padding = " " * (width - len(name)) + "  " if summary else ""
        lines.append(output.bold(name) + padding + summary)
    return "\n".join(lines)


def _summary(text: Optional[str]) -> str:
    first = (text or "").strip().partition("\n")[0]
    return clean(first.strip(), _SUMMARY)


def names_text(names: Iterable[str]) -> str:
    """Return bare names, one a line."""
    return "\n".join(clean(name, len(name)) for name in names)


def fields_text(output: Output, rows: Sequence[Tuple[str, str]]) -> str:
    """Return labels and values, without the empty ones."""
    filled = [(label, value) for label, value in rows if value]
    width = max((len(label) for label, _ in filled), default=0)
    return "\n".join(
        "%s%s  %s" % (output.dim(label), " " * (width - len(label)), value)
        for label, value in filled
    )


def tools_table(output: Output, tools: Sequence[Tool]) -> str:
    """Return the tools with the first line of what each does."""
    return table(output, [(t.name, t.description or t.display_name) for t in tools])


def prompts_table(output: Output, prompts: Sequence[Prompt]) -> str:
    """Return the prompts with their arguments, optional ones in brackets."""
    rows: List[Tuple[str, Optional[str]]] = []
    for prompt in prompts:
        arguments = " ".join(
            argument.name if argument.required else "[%s]" % argument.name
            for argument in prompt.arguments
        )
        name = "%s %s" % (prompt.name, arguments) if arguments else prompt.name
        rows.append((name, prompt.description or prompt.title))
    return table(output, rows)


# --- tools ------------------------------------------------------------------------


def tool_page(output: Output, tool: Tool, schema: bool) -> str:
    """Return all that there is to know about one tool."""
    parts = [output.bold(clean(tool.name, _NAME))]
    if tool.display_name != tool.name:
        parts[0] += "  " + clean(tool.display_name, _NAME)
    if tool.description:
        parts.append(words_of(output, tool.description.strip()))
    if schema:
        parts.append(output.json_text(tool.input_schema))
    else:
        parts.append(_parameters(output, tool.input_schema))
    return "\n\n".join(part for part in parts if part)


def _parameters(output: Output, schema: Mapping[str, JSON]) -> str:
    properties = schema.get("properties")
    required = schema.get("required")
    needed = required if isinstance(required, list) else []
    if not isinstance(properties, Mapping):
        return ""
    rows: List[Tuple[str, Optional[str]]] = []
    for name, asked in properties.items():
        asked = asked if isinstance(asked, Mapping) else {}
        text = asked.get("description", asked.get("title"))
        label = "%s (%s%s)" % (
            name,
            _kind(asked),
            "" if name in needed else ", optional",
        )
        rows.append((label, text if isinstance(text, str) else None))
    return table(output, rows)


def _kind(schema: Mapping[str, JSON]) -> str:
    kind = schema.get("type")
    if isinstance(kind, list):
        return " or ".join(str(each) for each in kind)
    values = schema.get("enum")
    if isinstance(values, list):
        return "one of " + ", ".join(_json(value) for value in values[:10])
    return kind if isinstance(kind, str) else "any"


def _json(value: JSON) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=False)


# --- results ----------------------------------------------------------------------


def result_text(output: Output, result: CallToolResult) -> str:
    """Return what a tool answered: its text, notes on the rest, its structure."""
    parts = [_block_text(output, block) for block in result.content]
    if result.has_structured_content and not _is_told(result):
        parts.append(output.json_text(result.structured_content))
    return "\n".join(parts)


def _is_told(result: CallToolResult) -> bool:
    """Tell whether a text block holds the structured content already."""
    for block in result.content:
        if isinstance(block, TextContent):
            try:
                if json.loads(block.text) == result.structured_content:
                    return True
            except (ValueError, RecursionError):
                continue
    return False


def _block_text(output: Output, block: object) -> str:
    if isinstance(block, TextContent):
        return words_of(output, block.text)
    if isinstance(block, (ImageContent, AudioContent)):
        return _note(block.type, block.mime_type, block.data)
    if isinstance(block, ResourceLink):
        name = block.title or block.name
        return "[resource %s: %s]" % (clean(block.uri), clean(name, _NAME))
    if isinstance(block, EmbeddedResource):
        return contents_text(output, block.resource)
    return "[content of the kind %s]" % clean(getattr(block, "type", "unknown"), 60)


def contents_text(output: Output, contents: ResourceContents) -> str:
    """Return the text of a resource, or a note on its bytes."""
    if isinstance(contents, TextResourceContents):
        return words_of(output, contents.text)
    return _note(contents.uri, contents.mime_type or "", contents.blob)


def _note(what: str, mime_type: str, data: str) -> str:
    kind = clean(mime_type, 80) or "no type given"
    size = len(data) // 4 * 3 - data[-2:].count("=")
    return "[%s, %s, %d bytes]" % (clean(what), kind, size)


def messages_text(output: Output, result: GetPromptResult) -> str:
    """Return a prompt's messages, each under its role."""
    return "\n\n".join(
        "%s:\n%s"
        % (
            output.bold(clean(message.role, 40)),
            _block_text(output, message.content),
        )
        for message in result.messages
    )


def has_bytes(result: ReadResourceResult) -> bool:
    """Tell whether something of a resource is not text."""
    return any(isinstance(item, BlobResourceContents) for item in result.contents)


def capabilities_text(capabilities: ServerCapabilities) -> str:
    """Return what a server offers, with the features of each in brackets."""
    shown = []
    for name, offered in capabilities.to_wire().items():
        features = offered if isinstance(offered, Mapping) else {}
        inner = ", ".join(clean(key, 60) for key, on in features.items() if on)
        shown.append(clean(name, 60) + (" (%s)" % inner if inner else ""))
    return ", ".join(shown)
