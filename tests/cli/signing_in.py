"""A protected MCP server, the person who logs in to it, and that person's browser."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any, Callable, Dict, List, Optional
from urllib.parse import urlsplit

import keyring
import pytest
from keyring.backends import null

from mcpsync.auth._records import Credentials
from mcpsync.auth.stores import FileStore

from ..auth.authority import Realm
from ..fakes import CANARY
from ..fakes.scripted_http import Recorded, Reply, answer_to, error_to, json_reply
from .running import Ran, run_process

__all__ = ["Place", "run_secretly", "served"]

_TOOL = {"name": "echo", "description": "Echo.", "inputSchema": {"type": "object"}}

_RESULTS: Dict[str, Any] = {
    "initialize": {
        "protocolVersion": "2025-11-25",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "protected", "version": "1"},
    },
    "ping": {},
    "tools/list": {"tools": [_TOOL]},
    "tools/call": {"content": [{"type": "text", "text": "called"}]},
}

_BROWSER = """
import sys, urllib.request
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
opener.open(sys.argv[1], timeout=20).close()
"""


def run_secretly(*words: str, **env: str) -> Ran:
    """Run a command as a process; no token, code or secret may come out of it."""
    ran = run_process(*words, **env)
    assert CANARY not in ran.out
    assert CANARY not in ran.err
    return ran


class _Paths(Dict[str, Any]):
    """Routes that are looked up without the query."""

    def get(self, path: str, default: Any = None) -> Any:
        return super().get(path.partition("?")[0], default)


class Place(Realm):
    """The two servers as commands and browsers meet them, and the home of a user.

    A context manager. Commands that are run meanwhile find the home directory and the
    browser in their environment, and no keyring.

    Attributes:
        home: the directory with everything that is kept.
        file: the credentials file in it.
        name: how the server is called that nobody gave a name.
    """

    def __init__(self, home: Path, patch: pytest.MonkeyPatch) -> None:
        self.home = home
        self.file = home / ".credentials.json"
        super().__init__(FileStore(str(self.file)))
        self.name = urlsplit(self.url).netloc
        patch.setenv("MCPSYNC_HOME", str(home))
        patch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
        # In this process another one may have been chosen already.
        patch.setattr(keyring, "get_keyring", null.Keyring)
        patch.setenv("BROWSER", self._browser(home.parent / "browser.py"))
        self.issuer.routes = _Paths(self.issuer.routes)
        self.issuer.routes["/authorize"] = self._authorize
        self.resource.routes = _Paths(self.resource.routes)
        admit: Any = self.resource.routes["/mcp"]
        self.resource.routes["/mcp"] = lambda request: served(request, admit)

    @staticmethod
    def _browser(path: Path) -> str:
        path.write_text(_BROWSER)
        return "%s %s %%s" % (shlex.quote(sys.executable), shlex.quote(str(path)))

    def _authorize(self, request: Recorded) -> Reply:
        back = self.issuer.log_in(self.issuer.base + request.path)
        return Reply(302, {"Location": back})

    @property
    def asked(self) -> List[str]:
        """The paths that either server was asked for."""
        return self.resource.asked + self.issuer.asked

    def kept(self, name: Optional[str] = None) -> Optional[Credentials]:
        """Return what a process that starts now finds in the file."""
        return FileStore(str(self.file)).load(name or self.name, self.url)

    def login_url(self, shown: str) -> str:
        """Return the URL to log in at, of what a command has shown so far."""
        lines = [line.strip() for line in shown.splitlines()]
        return [line for line in lines if line.startswith(self.issuer.base)][-1]


def served(
    request: Recorded, admit: Optional[Callable[[Recorded], Reply]] = None
) -> Reply:
    """Return an MCP server's answer to a request, if that may come in."""
    if request.method == "POST" and "id" not in request.json:
        return Reply(202)
    admitted = Reply(200) if admit is None else admit(request)
    if admitted.status >= 300:
        return admitted
    method = request.rpc_method
    if method is None:
        return Reply(405)
    if method not in _RESULTS:
        return json_reply(error_to(request, -32601))
    return json_reply(answer_to(request, _RESULTS[method]))
