"""For tests: the demo server in three ways, and a server made of a function.

::

    with mcpsync.testing.serve("http") as server:
        with mcpsync.connect(server.target) as client:
            assert client.tools.add(a=1, b=2).data == {"sum": 3}
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import Any, Iterator, List, Mapping, Optional, Union

from .demo import Crash, Demo
from .demo import serve_http as _serve_http
from .exceptions import ConfigError
from .transports.base import Transport
from .transports.memory import MemoryTransport, Serve

__all__ = ["KINDS", "MemoryTransport", "Serve", "TestServer", "serve"]

#: The ways in which the demo server can be served.
KINDS = ("stdio", "http", "sse", "memory")


class TestServer:
    """The demo server, ready to be connected to.

    Attributes:
        kind: one of :data:`KINDS`.
        target: what :func:`mcpsync.connect` takes. A transport or a command: each
            connection has a server of its own; a URL: all share one.
        http: the running :class:`mcpsync.demo.HTTPDemo` behind a URL, else ``None``.
    """

    __test__ = False

    def __init__(self, kind: str, target: Any, http: Any = None) -> None:
        self.kind = kind
        self.target: Union[str, List[str], Transport] = target
        self.http = http


@contextmanager
def serve(
    kind: str = "stdio",
    *,
    era: str = "both",
    protocol: Optional[str] = None,
    page_size: Optional[int] = None,
) -> Iterator[TestServer]:
    """Serve the demo server for the time of a ``with`` statement.

    Args:
        kind: ``"stdio"`` (a child process of each client), ``"http"`` or ``"sse"``
            (on loopback, in this process), ``"memory"``.
        era: ``"both"``, ``"modern"`` or ``"legacy"``: what the server speaks.
        protocol: the newest legacy version that it speaks.
        page_size: entries on a page of its listings.
    """
    options: Mapping[str, Any] = {
        "era": era,
        "page_size": page_size,
        **({} if protocol is None else {"protocol": protocol}),
    }
    if kind == "stdio":
        yield TestServer(kind, _command(options))
    elif kind == "memory":
        demo = Demo(**options)
        try:
            yield TestServer(kind, in_memory(demo))
        finally:
            demo.close()
    elif kind in ("http", "sse"):
        with _serve_http(**options) as server:
            yield TestServer(
                kind, server.url if kind == "http" else server.sse_url, server
            )
    else:
        raise ConfigError("kind must be one of %s" % ", ".join(KINDS))


def _command(options: Mapping[str, Any]) -> List[str]:
    command = [sys.executable, "-m", "mcpsync.demo"]
    for name, value in options.items():
        if value is not None:
            command += ["--" + name.replace("_", "-"), str(value)]
    return command


def in_memory(demo: Demo) -> MemoryTransport:
    """Return a transport to a demo server in this process."""
    transport: MemoryTransport

    def serve_one(message: Mapping[str, Any], send: Any) -> None:
        try:
            demo.handle(message, send, session)
        except Crash:
            # There is no process to end: the answer simply never comes.
            return

    transport = MemoryTransport(serve_one, name="demo")
    session = demo.open_session(transport.say)
    return transport
