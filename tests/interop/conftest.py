"""Servers of other projects, started for the tests; a missing one is an error.

The tox environment `interop` installs them and says where in the variable
MCPSYNC_INTEROP_SERVERS; `install.py` and `npm install` do the same by hand.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Callable, Dict, FrozenSet, Iterator, List, Optional

import pytest

import mcpsync

from ..fakes.leaks import snapshot

if "MCPSYNC_INTEROP_SERVERS" not in os.environ:
    raise pytest.UsageError("MCPSYNC_INTEROP_SERVERS is not set: run `tox -e interop`")

INSTALLED = Path(os.environ["MCPSYNC_INTEROP_SERVERS"]).resolve()
SCRIPTS = Path(__file__).parent / "servers"
EVERYTHING = "npm/node_modules/@modelcontextprotocol/server-everything/dist/index.js"
# Bounds, in seconds. Starting an interpreter with a server library takes about one on
# an idle machine and many on a busy one.
START = 60
STOP = 10
CALL = 30

OLD = "sdk1-old"


@dataclass(frozen=True)
class Peer:
    """One of our scripts on one server library, over one transport, in one era."""

    library: str
    script: str
    transport: str
    protocol: str
    version: str

    def __str__(self) -> str:
        return f"{self.library}-{self.transport}-{self.version}"


def _peers() -> Iterator[Peer]:
    for library in ("sdk2", "fastmcp"):
        script = f"{library}_server.py"
        for transport in ("stdio", "http"):
            yield Peer(library, script, transport, "auto", "2026-07-28")
            yield Peer(library, script, transport, "legacy", "2025-11-25")
        yield Peer(library, script, "sse", "auto", "2025-11-25")
    for library, version in (("sdk1-new", "2025-11-25"), (OLD, "2025-06-18")):
        for transport in ("stdio", "http", "sse"):
            yield Peer(library, "sdk1_server.py", transport, "auto", version)


PEERS = list(_peers())


@dataclass(frozen=True)
class Server:
    """A server that is ready: what connects to it."""

    peer: Peer
    target: object

    @property
    def is_child(self) -> bool:
        """Whether each client starts a process of its own."""
        return self.peer.transport == "stdio"

    def connect(self, **options: object) -> mcpsync.Client:
        """Open a client with this server's protocol setting."""
        options.setdefault("protocol", self.peer.protocol)
        options.setdefault("startup_timeout", START)
        options.setdefault("timeout", CALL)
        return mcpsync.connect(self.target, **options)


@pytest.fixture(scope="session")
def program() -> Callable[[str], str]:
    """Return a function that gives the path of an installed file."""

    def find(name: str) -> str:
        path = INSTALLED / name
        if not path.is_file():
            raise RuntimeError(f"{path} is not installed: run `tox -e interop`")
        return str(path)

    return find


@pytest.fixture(scope="session", params=PEERS, ids=str)
def server(
    request: pytest.FixtureRequest, program: Callable[[str], str]
) -> Iterator[Server]:
    """Yield each of the Python servers in turn."""
    peer: Peer = request.param
    python = program(f"{peer.library}/bin/python")
    argv = [python, str(SCRIPTS / peer.script), peer.transport]
    if peer.transport == "stdio":
        yield Server(peer, argv)
        return
    with running(argv) as process:
        yield Server(peer, process.first_line())


@pytest.fixture(
    scope="session", params=[p for p in PEERS if p.transport == "stdio"], ids=str
)
def child_server(
    request: pytest.FixtureRequest, program: Callable[[str], str]
) -> Server:
    """Return each of the Python servers that a client starts itself."""
    peer: Peer = request.param
    python = program(f"{peer.library}/bin/python")
    return Server(peer, [python, str(SCRIPTS / peer.script), "stdio"])


@pytest.fixture(scope="session")
def node() -> str:
    """Return the path of the JavaScript interpreter."""
    path = shutil.which("node")
    if path is None:
        raise RuntimeError("node is not on PATH")
    return path


@pytest.fixture(scope="session", params=["stdio", "streamableHttp", "sse"])
def everything(
    request: pytest.FixtureRequest, node: str, program: Callable[[str], str]
) -> Iterator[Server]:
    """Yield the reference server of the npm registry, over each transport."""
    transport: str = request.param
    argv = [node, program(EVERYTHING), transport]
    name = "http" if transport == "streamableHttp" else transport
    peer = Peer("everything", "", name, "auto", "2025-11-25")
    if transport == "stdio":
        yield Server(peer, argv)
        return
    path = "/sse" if transport == "sse" else "/mcp"
    with contextlib.ExitStack() as stack:
        port = start_on_free_port(stack, argv)
        yield Server(peer, f"http://127.0.0.1:{port}{path}")


class Process:
    """A server process of ours; what it prints goes to files."""

    def __init__(self, argv: List[str], environment: Optional[Dict[str, str]]) -> None:
        self.argv = argv
        self.output: IO[bytes] = tempfile.TemporaryFile()
        self.errors: IO[bytes] = tempfile.TemporaryFile()
        self.popen = subprocess.Popen(
            argv,
            stdin=subprocess.DEVNULL,
            stdout=self.output,
            stderr=self.errors,
            env=environment,
        )

    def wait_until(self, ready: Callable[[], bool]) -> None:
        """Wait, a bounded time, until the server says or shows that it is ready."""
        deadline = time.monotonic() + START
        while not ready():
            if self.popen.poll() is not None:
                raise RuntimeError(f"{self.argv} ended: {self.said()}")
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.argv} is not ready: {self.said()}")
            time.sleep(0.05)

    def first_line(self) -> str:
        """Return the first line of its output, when it has come."""
        self.wait_until(lambda: b"\n" in self._head())
        return self._head().splitlines()[0].decode()

    def _head(self) -> bytes:
        return os.pread(self.output.fileno(), 1000, 0)

    def said(self) -> str:
        """Return the beginning of what it wrote to standard error."""
        return os.pread(self.errors.fileno(), 10000, 0).decode(errors="replace")

    def stop(self) -> None:
        """End the process and wait for it."""
        self.popen.terminate()
        try:
            self.popen.wait(STOP)
        except subprocess.TimeoutExpired:
            self.popen.kill()
            self.popen.wait(STOP)
        self.output.close()
        self.errors.close()


@contextlib.contextmanager
def running(
    argv: List[str], environment: Optional[Dict[str, str]] = None
) -> Iterator[Process]:
    """Run a process for as long as the block lasts."""
    process = Process(argv, environment)
    try:
        yield process
    finally:
        process.stop()


def start_on_free_port(stack: contextlib.ExitStack, argv: List[str]) -> int:
    """Start a server that takes its port from PORT, and return the port.

    Somebody else may take the port between the choice and the use; then the server
    ends at once and another port is tried.
    """
    for attempt in range(3):
        port = free_port()
        process = Process(argv, dict(os.environ, PORT=str(port)))
        stack.callback(process.stop)
        try:
            process.wait_until(lambda: accepts_connections(port))
        except RuntimeError:
            if attempt == 2:
                raise
        else:
            return port
    raise AssertionError("unreachable")


def free_port() -> int:
    """Return a port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


def accepts_connections(port: int) -> bool:
    """Return whether somebody listens on a loopback port."""
    with contextlib.suppress(OSError):
        with socket.create_connection(("127.0.0.1", port), timeout=1):
            return True
    return False


def _restartable_peers() -> Iterator[Peer]:
    # sdk1-old answers an unknown session with 400 where the specification has 404.
    return (peer for peer in PEERS if peer.transport == "http" and peer.library != OLD)


@pytest.fixture(params=list(_restartable_peers()), ids=str)
def restartable(
    request: pytest.FixtureRequest, program: Callable[[str], str]
) -> Iterator[RestartableServer]:
    """Yield each HTTP server as one that the test may restart."""
    peer: Peer = request.param
    python = program(f"{peer.library}/bin/python")
    server = RestartableServer(peer, [python, str(SCRIPTS / peer.script), "http"])
    yield server
    server.stop()


class RestartableServer:
    """An HTTP server that can be stopped and started on the same port."""

    def __init__(self, peer: Peer, argv: List[str]) -> None:
        self.peer = peer
        self._argv = argv
        self._process = Process(argv, None)
        self.url = self._process.first_line()

    def restart(self) -> None:
        """Stop the process and start another; sessions of the first are lost."""
        self._process.stop()
        port = self.url.rsplit(":", 1)[1].split("/")[0]
        self._process = Process([*self._argv, "--port", port], None)
        assert self._process.first_line() == self.url

    def stop(self) -> None:
        """End the process."""
        self._process.stop()


@pytest.fixture
def children() -> Callable[[], FrozenSet[int]]:
    """Return a function that gives the ids of this process's children."""
    return lambda: snapshot().children


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], None]:
    """Return a function that waits, a bounded time, for a condition to hold."""

    def wait(condition: Callable[[], object]) -> None:
        deadline = time.monotonic() + CALL
        while not condition():
            assert time.monotonic() < deadline, "the condition never held"
            time.sleep(0.05)

    return wait
