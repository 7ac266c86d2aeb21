"""What the server scripts here share: the port, the announcement, the gauge.

These scripts run under interpreters of their own, each with one server library
installed; nothing here may import the client under test.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import contextlib
import os
import socket
from typing import Any, Callable, Iterator, List

from pydantic import BaseModel

PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAA"
    "AABJRU5ErkJggg=="
)


class Sum(BaseModel):
    """The structured result of add."""

    total: int


class Person(BaseModel):
    """What ask_person asks for; `city` has a default."""

    name: str
    age: int
    city: str = "Paris"

    def described(self) -> str:
        """Return the three fields as one text."""
        return f"{self.name}, {self.age}, {self.city}"


class Counts(BaseModel):
    """The structured result of counts."""

    running: int
    peak: int
    started: int
    cancelled: int


def names_beginning(text: str) -> List[str]:
    """Return the completions of a name."""
    return [name for name in ("Ada", "Alan", "Grace") if name.startswith(text)]


def environment_variable(name: str) -> str:
    """Return a variable of this process's environment, or (unset)."""
    return os.environ.get(name, "(unset)")


class Gauge:
    """Counts the slow calls as the server itself sees them.

    All servers here are single-threaded event loops, so plain integers do.
    """

    running = peak = started = cancelled = 0

    @contextlib.contextmanager
    def call(self) -> Iterator[None]:
        """Count one call for as long as the block runs."""
        self.running += 1
        self.started += 1
        self.peak = max(self.peak, self.running)
        try:
            yield
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        finally:
            self.running -= 1

    def counts(self) -> Counts:
        """Return the four counters."""
        return Counts(
            running=self.running,
            peak=self.peak,
            started=self.started,
            cancelled=self.cancelled,
        )


def run(
    stdio: Callable[[], None], http: Callable[[], Any], sse: Callable[[], Any]
) -> None:
    """Serve over the transport named on the command line.

    Over HTTP the script binds a port, by default one that the system chose, and
    prints the URL as its first line on stdout; the socket listens by then, so whoever
    has read the line can connect.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("transport", choices=("stdio", "http", "sse"))
    parser.add_argument("--port", type=int, default=0)
    options = parser.parse_args()
    if options.transport == "stdio":
        stdio()
    elif options.transport == "http":
        serve_application(http(), "/mcp", options.port)
    else:
        serve_application(sse(), "/sse", options.port)


def serve_application(application: Any, path: str, port: int) -> None:
    """Run an ASGI application on the loopback interface."""
    import uvicorn

    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", port))
    listener.listen(128)
    print(f"http://127.0.0.1:{listener.getsockname()[1]}{path}", flush=True)
    config = uvicorn.Config(
        application, log_level="warning", timeout_graceful_shutdown=1
    )
    uvicorn.Server(config).run(sockets=[listener])
