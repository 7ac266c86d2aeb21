"""A server on the official Python SDK, version 1: `initialize` revisions only.

Annotations are evaluated here: its older releases find the context parameter of a
tool by looking at the class.
"""

import asyncio
import os
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
from mcp.server.fastmcp import Context, FastMCP
from mcp.types import (
    Completion,
    SamplingMessage,
    TextContent,
    ToolAnnotations,
)

server = FastMCP("interop", instructions="Call add.", log_level="WARNING")
gauge = Gauge()


@server.tool(annotations=ToolAnnotations(readOnlyHint=True, idempotentHint=True))
def add(a: int, b: int) -> Sum:
    """Add two integers."""
    return Sum(total=a + b)


@server.tool()
def echo(message: str) -> str:
    """Return the message."""
    return f"ECHOING: {message}"


@server.tool()
def fail(message: str) -> str:
    """Report a tool error."""
    raise ValueError(message)


@server.tool()
def environment(name: str) -> str:
    """Return a variable of this process's environment, or (unset)."""
    return environment_variable(name)


@server.tool()
def process_id() -> int:
    """Return this process's id."""
    return os.getpid()


@server.tool()
def letters(count: int) -> str:
    """Return a text of that many characters."""
    return "x" * count


@server.tool()
async def countdown(steps: int, ctx: Context) -> str:
    """Report progress once per step."""
    for step in range(1, steps + 1):
        await ctx.report_progress(step, steps, f"step {step}")
        await asyncio.sleep(0.1)
    return "done"


@server.tool()
async def wait(seconds: float) -> str:
    """Sleep, counted by the gauge."""
    with gauge.call():
        await asyncio.sleep(seconds)
    return "waited"


@server.tool()
def counts() -> Counts:
    """Return the gauge."""
    return gauge.counts()


@server.tool()
def reset_counts() -> str:
    """Begin to count anew."""
    gauge.started = gauge.cancelled = 0
    gauge.peak = gauge.running
    return "reset"


@server.tool()
async def announce(text: str, ctx: Context) -> str:
    """Send a log message."""
    await ctx.log("info", text, logger_name="interop")
    return "announced"


@server.tool()
async def ask_person(ctx: Context) -> str:
    """Ask the user for a person."""
    answer = await ctx.elicit("Who are you?", Person)
    if answer.action != "accept":
        return f"action: {answer.action}"
    return answer.data.described()


@server.tool()
async def ask_model(question: str, ctx: Context) -> str:
    """Ask the client's model."""
    content = TextContent(type="text", text=question)
    answer = await ctx.session.create_message(
        [SamplingMessage(role="user", content=content)],
        max_tokens=50,
        related_request_id=ctx.request_id,
    )
    return f"{answer.model}: {answer.content.text}"


@server.tool()
async def show_roots(ctx: Context) -> str:
    """Return the URIs of the client's roots."""
    answer = await ctx.session.list_roots()
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


@server.prompt()
def greet(name: str) -> str:
    """Greet somebody."""
    return f"Say hello to {name}."


@server.completion()
async def complete(ref: Any, argument: Any, context: Any) -> Completion:
    """Complete names that begin as typed."""
    names = names_beginning(argument.value)
    return Completion(values=names, total=len(names), hasMore=False)


if __name__ == "__main__":
    run(server.run, server.streamable_http_app, server.sse_app)
