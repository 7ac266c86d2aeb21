"""What every behaviour is shown on: each way to a server, in both eras."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any, Callable, Dict, Iterator

import pytest

import mcpsync
from mcpsync.testing import KINDS, TestServer, serve

__all__ = ["CELLS", "Cell", "ENDLESS", "eventually", "stats"]

CELLS = [(kind, protocol) for kind in KINDS for protocol in ("auto", "legacy")]

#: Arguments for a call of ``count`` that never ends by itself in a test.
ENDLESS = {"to": 10_000, "delay": 0.05}


@dataclass
class Cell:
    """One way to the demo server, which has three entries on a page.

    Attributes:
        kind: how the server is reached.
        protocol: what the client is told to speak.
        server: the running server.
    """

    kind: str
    protocol: str
    server: TestServer

    @property
    def modern(self) -> bool:
        """Whether the two end up in the modern era."""
        # HTTP+SSE is older than that: only legacy servers have it.
        return self.protocol == "auto" and self.kind != "sse"

    @property
    def name(self) -> str:
        """How the client calls the server."""
        return "the demo"

    def client(self, **options: Any) -> mcpsync.Client:
        """Return a client that is not open yet."""
        options.setdefault("timeout", 20)
        return mcpsync.Client(
            self.server.target, name=self.name, protocol=self.protocol, **options
        )

    def connect(self, **options: Any) -> mcpsync.Client:
        """Return an open client."""
        options.setdefault("timeout", 20)
        return mcpsync.connect(
            self.server.target, name=self.name, protocol=self.protocol, **options
        )


@pytest.fixture(params=CELLS, ids="-".join)
def cell(request: pytest.FixtureRequest) -> Iterator[Cell]:
    kind, protocol = request.param
    with serve(kind, page_size=3) as server:
        yield Cell(kind, protocol, server)


@pytest.fixture
def client(cell: Cell) -> Iterator[mcpsync.Client]:
    with cell.connect() as client:
        yield client


def stats(client: mcpsync.Client) -> Dict[str, int]:
    """Return the server's counters."""
    counters: Dict[str, int] = client.call_tool("stats").data
    return counters


def eventually(holds: Callable[[], bool], seconds: float = 4.0) -> bool:
    """Return whether something comes true in time; no event tells when it does."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.01)
    return True
