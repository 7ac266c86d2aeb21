"""A server on FastMCP 4: both protocol eras."""

from __future__ import annotations

import asyncio
import os
from functools import partial
from typing import Any

from _serving import (
    PIXEL,
    Counts,
    Gauge,
    Person,
    Sum,
    environment_variable,
    names_beginning,
    run,
)
from fastmcp import Context, FastMCP
from fastmcp.exceptions import ToolError
from mcp.types import (
    CreateMessageRequest,
    CreateMessageRequestParams,
    ElicitRequest,
    ElicitRequestFormParams,
    InputRequiredResult,
    ListRootsRequest,
    SamplingMessage,
    TextContent,
)

server = FastMCP("interop", version="1.0", instructions="Call add.")
gauge = Gauge()


@server.tool(annotations={"readOnlyHint": True, "idempotentHint": True})
def add(a: int, b: int) -> Sum:
    """Add two integers."""
    return Sum(total=a + b)


@server.tool
def echo(message: str) -> str:
    """Return the message."""
    return f"ECHOING: {message}"


@server.tool
def fail(message: str) -> str:
    """Report a tool error."""
    raise ToolError(message)


@server.tool
def environment(name: str) -> str:
    """Return a variable of this process's environment, or (unset)."""
    return environment_variable(name)


@server.tool
def process_id() -> int:
    """Return this process's id."""
    return os.getpid()


@server.tool
def letters(count: int) -> str:
    """Return a text of that many characters."""
    return "x" * count


@server.tool
async def countdown(steps: int, ctx: Context) -> str:
    """Report progress once per step."""
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps, f"step {step}")
        await asyncio.sleep(0.1)
    return "done"


@server.tool
async def wait(seconds: float) -> str:
    """Sleep, counted by the gauge."""
    with gauge.call():
        await asyncio.sleep(seconds)
    return "waited"


@server.tool
def counts() -> Counts:
    """Return the gauge."""
    return gauge.counts()


@server.tool
def reset_counts() -> str:
    """Begin to count anew."""
    gauge.started = gauge.cancelled = 0
    gauge.peak = gauge.running
    return "reset"


@server.tool
async def announce(text: str, ctx: Context) -> str:
    """Send a log message."""
    await ctx.info(text, logger_name="interop")
    return "announced"


def _modern(ctx: Context) -> bool:
    return ctx.request_context.protocol_version >= "2026"


def _described(action: str, content: dict[str, Any] | None) -> str:
    if action != "accept":
        return f"action: {action}"
    person = Person.model_validate(content)
    return person.described()


@server.tool
async def ask_person(ctx: Context) -> str | InputRequiredResult:
    """Ask the user for a person."""
    if not _modern(ctx):
        answer = await ctx.elicit("Who are you?", Person)
        data = answer.data.model_dump() if answer.action == "accept" else None
        return _described(answer.action, data)
    if ctx.input_responses is None:
        form = ElicitRequestFormParams(
            message="Who are you?", requested_schema=Person.model_json_schema()
        )
        return InputRequiredResult(
            input_requests={"person": ElicitRequest(params=form)},
            request_state="asked",
        )
    response = ctx.input_responses["person"]
    return _described(response.action, response.content)


@server.tool
async def ask_model(question: str, ctx: Context) -> str | InputRequiredResult:
    """Ask the client's model."""
    content = TextContent(type="text", text=question)
    messages = [SamplingMessage(role="user", content=content)]
    if not _modern(ctx):
        answer = await ctx.session.create_message(
            messages, max_tokens=50, related_request_id=ctx.request_id
        )
    elif ctx.input_responses is None:
        params = CreateMessageRequestParams(messages=messages, max_tokens=50)
        return InputRequiredResult(
            input_requests={"model": CreateMessageRequest(params=params)}
        )
    else:
        answer = ctx.input_responses["model"]
    return f"{answer.model}: {answer.content.text}"


@server.tool
async def show_roots(ctx: Context) -> str | InputRequiredResult:
    """Return the URIs of the client's roots."""
    if not _modern(ctx):
        answer = await ctx.session.list_roots()
    elif ctx.input_responses is None:
        return InputRequiredResult(input_requests={"roots": ListRootsRequest()})
    else:
        answer = ctx.input_responses["roots"]
    return " ".join(str(root.uri) for root in answer.roots)


@server.resource("note://welcome", mime_type="text/plain")
def welcome() -> str:
    """Return a text."""
    return "Welcome."


@server.resource("note://pixel", mime_type="image/png")
def pixel() -> bytes:
    """Return an image."""
    return PIXEL


@server.resource("note://item/{name}", mime_type="text/plain")
def item(name: str) -> str:
    """Return a text that names its parameter."""
    return f"Item {name}."


@server.prompt
def greet(name: str) -> str:
    """Greet somebody."""
    return f"Say hello to {name}."


@server.completion
async def complete(ref: Any, argument: Any, context: Any) -> list[str]:
    """Complete names that begin as typed."""
    return names_beginning(argument.value)


if __name__ == "__main__":
    run(
        partial(server.run, show_banner=False),
        server.http_app,
        partial(server.http_app, transport="sse"),
    )
