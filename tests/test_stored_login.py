"""A login that is stored is used without being asked for, and left as it is."""

from __future__ import annotations

import json
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Tuple

import pytest

import mcpsync
from mcpsync.demo import serve_http
from mcpsync.demo._handler import Handler

TOKEN = "initial-access-token"
NAME = "rmcp_http_oauth"

#: Method, path, and whether the request had the token.
Seen = List[Tuple[str, str, bool]]


@contextmanager
def guarded() -> Iterator[Tuple[str, Seen]]:
    """Serve the demo, and refuse whatever comes without the token, on every path."""
    seen: Seen = []

    class Guarded(Handler):
        def _route(self, paths: Dict[str, Callable[[bytes], None]]) -> None:
            admitted = self.headers.get("Authorization") == "Bearer " + TOKEN
            seen.append((self.command, self.path, admitted))
            if admitted:
                super()._route(paths)
            else:
                self._read_body()
                self._reply(401, b"", [("WWW-Authenticate", "Bearer")])

    with serve_http() as server:
        server._server.RequestHandlerClass = Guarded
        yield server.url, seen


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("MCPSYNC_HOME", str(tmp_path))
    # No keyring is of any use here.
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.null.Keyring")
    return tmp_path


def write_entry(home: Path, url: str, **more: Any) -> Path:
    """Write what another program would have stored, under a key of its own."""
    entry = {
        "server_name": NAME,
        "server_url": url,
        "client_id": "test-client-id",
        "access_token": TOKEN,
        "expires_at": int((time.time() + 3600) * 1000),
        "refresh_token": "initial-refresh-token",
        "scopes": ["profile"],
        **more,
    }
    path = home / ".credentials.json"
    path.write_text(json.dumps({"stub": entry}))
    path.chmod(0o600)
    return path


@pytest.mark.parametrize("protocol", ["auto", "legacy"])
def test_a_round_trip_with_a_stored_login(
    home: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MCP_TEST_VALUE", "propagated-env-http")
    with guarded() as (url, seen):
        path = write_entry(home, url)
        before = path.read_bytes(), path.stat().st_mtime_ns
        with mcpsync.connect(
            url,
            name=NAME,
            protocol=protocol,
            startup_timeout=10,
            on_notification=lambda notification: None,
        ) as client:
            assert "echo" in [tool.name for tool in client.list_tools()]
            result = client.call_tool("echo", {"message": "ping"})
        assert not result.is_error
        assert result.data == {"echo": "ECHOING: ping", "env": "propagated-env-http"}
        # Nothing was sent without it, and nothing asked of any other address.
        assert {(path, admitted) for _, path, admitted in seen} == {("/mcp", True)}
        methods = {method for method, _, _ in seen}
        assert methods == (
            {"POST"} if protocol == "auto" else {"POST", "GET", "DELETE"}
        )
        assert (path.read_bytes(), path.stat().st_mtime_ns) == before
    assert [entry.name for entry in home.iterdir()] == [".credentials.json"]


def test_a_stored_login_is_for_its_own_server_alone(home: Path) -> None:
    with guarded() as (url, seen):
        write_entry(home, url)
        with pytest.raises(mcpsync.LoginRequired) as caught:
            mcpsync.connect(url, name="another")
        assert "mcpsync login" in str(caught.value)
        with pytest.raises(mcpsync.LoginRequired):
            mcpsync.connect(url + "?x=1", name=NAME)
        assert not any(admitted for _, _, admitted in seen)


def test_what_the_caller_gives_comes_first(home: Path) -> None:
    with guarded() as (url, seen):
        write_entry(home, url, access_token="another-token")
        with mcpsync.connect(url, name=NAME, auth=TOKEN) as client:
            client.ping()
        headers = {"Authorization": "Bearer " + TOKEN}
        with mcpsync.connect(url, name=NAME, headers=headers) as client:
            client.ping()
        assert all(admitted for _, _, admitted in seen)
