"""A demo MCP server, standard library only: ``python -m mcpsync.demo``.

It speaks every protocol revision from 2024-11-05 to 2026-07-28 over stdio, Streamable
HTTP and HTTP+SSE, so that a client can be tried, and tested, against something that is
always there::

    with mcpsync.demo.serve_http() as server:
        with mcpsync.connect(server.url) as client:
            client.tools.echo(message="hello")

It is not meant to be reachable by anybody else: HTTP listens on loopback alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ._calls import Cancellation, Crash, Session
from ._cli import main
from ._server import Demo

if TYPE_CHECKING:
    from ._http import HTTPDemo, serve_http

__all__ = [
    "Cancellation",
    "Crash",
    "Demo",
    "HTTPDemo",
    "Session",
    "main",
    "serve_http",
]


def __getattr__(name: str) -> object:
    # A server on stdio starts faster without the HTTP modules.
    if name in ("HTTPDemo", "serve_http"):
        from . import _http

        return getattr(_http, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
