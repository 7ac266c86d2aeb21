"""The subcommands that talk to a server.

Each takes its words and returns a job, so that wrong usage is found before anything
is started; the job gets the open client and returns the exit code.
"""

from __future__ import annotations

import difflib
import time
from typing import Any, Callable, Dict, List, Optional, Sequence, Tuple, Union

from .._text import clean
from ..client import Client
from ..exceptions import InvalidParams, MethodNotFound
from ..types import (
    AudioContent,
    BlobResourceContents,
    CallToolResult,
    EmbeddedResource,
    ImageContent,
    ReadResourceResult,
    ResourceTemplate,
    Tool,
)
from . import _render as render
from ._arguments import Pair, coerced, read_object, read_pairs, texts_of
from ._errors import OK, TOOL_FAILED
from ._output import Output
from ._parser import Settings, UsageError

__all__ = ["VERBS"]

JSON = Any
Job = Callable[[Client, Output], int]
Verb = Callable[[Sequence[str], Settings], Job]


def _take(words: Sequence[str], *names: str) -> Tuple[str, ...]:
    """Return exactly as many words as there are names.

    Raises:
        UsageError: there are fewer, or more.
    """
    if len(words) < len(names):
        raise UsageError("%s is missing" % names[len(words)])
    if len(words) > len(names):
        extra = clean(repr(words[len(names)]), 120)
        raise UsageError("%s is one argument too many" % extra)
    return tuple(words)


# --- the server itself ------------------------------------------------------------


def _info(words: Sequence[str], settings: Settings) -> Job:
    _take(words)

    def job(client: Client, output: Output) -> int:
        server, capabilities = client.server_info, client.capabilities
        value = {
            "protocolVersion": client.protocol_version,
            "serverInfo": None if server is None else server.to_wire(),
            "capabilities": capabilities.to_wire(),
            "instructions": client.instructions,
        }
        name = "" if server is None else "%s %s" % (server.name, server.version)
        title = "" if server is None else server.title or ""
        rows = [
            ("server", clean(name)),
            ("title", clean(title)),
            ("protocol", client.protocol_version),
            ("capabilities", render.capabilities_text(capabilities)),
        ]
        text = render.fields_text(output, rows)
        if client.instructions:
            text += "\n\n" + render.words_of(output, client.instructions.strip())
        output.result(value, clean(name) if output.names else text)
        return OK

    return job


def _ping(words: Sequence[str], settings: Settings) -> Job:
    _take(words)

    def job(client: Client, output: Output) -> int:
        begun = time.monotonic()
        client.ping()
        seconds = time.monotonic() - begun
        text = "%s answered in %.1f ms" % (client.name, seconds * 1000)
        output.result({"seconds": round(seconds, 6)}, clean(text))
        return OK

    return job


# --- tools ------------------------------------------------------------------------


def _tools(words: Sequence[str], settings: Settings) -> Job:
    if not words:
        return _all_tools(bool(settings.own["schema"]))
    (name,) = _take(words, "TOOL")

    def job(client: Client, output: Output) -> int:
        tools = client.list_tools()
        tool = next((each for each in tools if each.name == name), None)
        if tool is None:
            return _no_such_tool(output, name, [each.name for each in tools])
        if output.names:
            text = render.names_text([tool.name])
        elif settings.own["schema"]:
            text = output.json_text(tool.input_schema)
        else:
            text = render.tool_page(output, tool, schema=False)
        output.result({"tools": [tool.to_wire()]}, text)
        return OK

    return job


def _all_tools(schemas: bool) -> Job:
    def job(client: Client, output: Output) -> int:
        tools = client.list_tools()
        if output.names:
            text = render.names_text(tool.name for tool in tools)
        elif schemas:
            pages = [render.tool_page(output, tool, schema=True) for tool in tools]
            text = "\n\n".join(pages)
        else:
            text = render.tools_table(output, tools)
        output.result({"tools": [tool.to_wire() for tool in tools]}, text)
        return OK

    return job


def _no_such_tool(output: Output, name: str, names: Sequence[str]) -> int:
    message = "there is no tool %s" % clean(repr(name), 120)
    close = difflib.get_close_matches(name, names, 1)
    if close:
        message += "; is it %s?" % clean(repr(close[0]), 120)
    output.error("unknown_tool", message)
    return TOOL_FAILED


def _call(words: Sequence[str], settings: Settings) -> Job:
    if not words:
        raise UsageError("TOOL is missing")
    name, pairs = words[0], read_pairs(words[1:])
    source, save_to = settings.own["json_arguments"], settings.own["save_to"]
    if save_to == "-":
        raise UsageError("-o - is for the subcommand read")
    base = {} if source is None else read_object(source)

    def job(client: Client, output: Output) -> int:
        # Listed first, for the types of the arguments, for headers that mirror them,
        # and so that the result can be checked.
        names: List[str] = []
        tool = _find_tool(client, name, names)
        arguments = coerced(pairs, base, {} if tool is None else tool.input_schema)
        try:
            result = client.call_tool(name, arguments, on_progress=output.progress())
        except InvalidParams:
            if tool is not None:
                raise
            return _no_such_tool(output, name, names)
        return _show_result(output, name, result, save_to)

    return job


def _find_tool(client: Client, name: str, names: List[str]) -> Optional[Tool]:
    """Return a listed tool; the names of those before it are added to `names`."""
    for tool in client.iter_tools():
        names.append(tool.name)
        if tool.name == name:
            return tool
    return None


def _show_result(
    output: Output, name: str, result: CallToolResult, save_to: Optional[str]
) -> int:
    text = render.result_text(output, result)
    if not result.is_error:
        output.result(result.to_wire(), text)
        if save_to is not None:
            _save_blocks(output, result, save_to)
        return OK
    if output.json:
        output.result(result.to_wire(), "")
    brief = clean(result.text) or "the tool reported failure without a text"
    what = "the tool %s reported failure" % clean(repr(name), 120)
    output.error("tool_error", brief, "%s:\n%s" % (what, text) if text else what)
    return TOOL_FAILED


Binary = Union[ImageContent, AudioContent, BlobResourceContents]


def _save_blocks(output: Output, result: CallToolResult, save_to: str) -> None:
    blocks: List[Binary] = []
    for block in result.content:
        if isinstance(block, (ImageContent, AudioContent)):
            blocks.append(block)
        elif isinstance(block, EmbeddedResource):
            if isinstance(block.resource, BlobResourceContents):
                blocks.append(block.resource)
    if len(blocks) > 1:
        _need_directory(save_to, len(blocks))
    for binary in blocks:
        path = binary.save(save_to)
        output.talk("mcpsync: saved %d bytes in %s" % (len(binary.bytes), path))
    if not blocks:
        output.warn("there is nothing to save in this result")


def _need_directory(path: str, count: int) -> None:
    # Imported here: most commands save nothing.
    import os

    if not os.path.isdir(path):
        raise UsageError("-o has to name a directory for %d files" % count)


# --- resources --------------------------------------------------------------------


def _resources(words: Sequence[str], settings: Settings) -> Job:
    _take(words)

    def job(client: Client, output: Output) -> int:
        resources = client.list_resources()
        templates = _templates(client)
        rows = [(item.uri, item.description or item.name) for item in resources]
        rows += [
            (item.uri_template, item.description or item.name) for item in templates
        ]
        if output.names:
            text = render.names_text(uri for uri, _ in rows)
        else:
            text = render.table(output, rows)
        value = {
            "resources": [item.to_wire() for item in resources],
            "resourceTemplates": [item.to_wire() for item in templates],
        }
        output.result(value, text)
        return OK

    return job


def _templates(client: Client) -> List[ResourceTemplate]:
    try:
        return client.list_resource_templates()
    except MethodNotFound:
        # Servers with resources need not have templates.
        return []


def _read(words: Sequence[str], settings: Settings) -> Job:
    (uri,) = _take(words, "URI")
    save_to = settings.own["save_to"]
    if save_to == "-" and settings.output == "json":
        raise UsageError("-o - and --output json exclude each other")

    def job(client: Client, output: Output) -> int:
        if save_to == "-" and output.out_is_terminal:
            raise UsageError("-o -: standard output is a terminal")
        result = client.read_resource(uri, on_progress=output.progress())
        if save_to == "-":
            output.data(b"".join(_bytes_of(result)))
        elif save_to is not None:
            path = str(result.save(save_to))
            output.result({"saved": path}, "")
            output.talk("mcpsync: saved in %s" % clean(path, len(path)))
        else:
            _show_contents(output, result)
        return OK

    return job


def _bytes_of(result: ReadResourceResult) -> List[bytes]:
    return [
        (
            item.bytes
            if isinstance(item, BlobResourceContents)
            else item.text.encode("utf-8", "replace")
        )
        for item in result.contents
    ]


def _show_contents(output: Output, result: ReadResourceResult) -> None:
    texts = [render.contents_text(output, item) for item in result.contents]
    output.result(result.to_wire(), "\n".join(texts))
    if render.has_bytes(result):
        output.talk("mcpsync: -o FILE saves the bytes")


# --- prompts and completion -------------------------------------------------------


def _prompts(words: Sequence[str], settings: Settings) -> Job:
    _take(words)

    def job(client: Client, output: Output) -> int:
        prompts = client.list_prompts()
        if output.names:
            text = render.names_text(prompt.name for prompt in prompts)
        else:
            text = render.prompts_table(output, prompts)
        output.result({"prompts": [prompt.to_wire() for prompt in prompts]}, text)
        return OK

    return job


def _prompt(words: Sequence[str], settings: Settings) -> Job:
    if not words:
        raise UsageError("NAME is missing")
    name, arguments = words[0], texts_of(read_pairs(words[1:]))

    def job(client: Client, output: Output) -> int:
        result = client.get_prompt(name, arguments, on_progress=output.progress())
        output.result(result.to_wire(), render.messages_text(output, result))
        return OK

    return job


def _complete(words: Sequence[str], settings: Settings) -> Job:
    if len(words) < 2:
        raise UsageError(
            "a prompt or a template is needed, and ARGUMENT=BEGINNING after it"
        )
    name, pairs = words[0], read_pairs(words[1:])
    ref = {"type": "ref/prompt", "name": name}
    if settings.own["template"] or "://" in name:
        ref = {"type": "ref/resource", "uri": name}
    argument, context = _argument_and_context(pairs)

    def job(client: Client, output: Output) -> int:
        result = client.complete(ref, argument, context)
        output.result(result.to_wire(), render.names_text(result.values))
        return OK

    return job


def _argument_and_context(
    pairs: Sequence[Pair],
) -> Tuple[Dict[str, str], Optional[Dict[str, str]]]:
    texts = texts_of(pairs)
    first = pairs[0].name
    argument = {"name": first, "value": texts.pop(first)}
    return argument, texts or None


VERBS: Dict[str, Verb] = {
    "call": _call,
    "complete": _complete,
    "info": _info,
    "ping": _ping,
    "prompt": _prompt,
    "prompts": _prompts,
    "read": _read,
    "resources": _resources,
    "tools": _tools,
}
