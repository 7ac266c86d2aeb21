"""Logins that other programs and other processes of this one have left behind."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any, Dict, Iterator, List, Optional

import keyring
import keyring.backends.fail
import pytest
import requests

import mcpsync
from mcpsync.auth.stored import STORED_LOGIN
from mcpsync.auth.stores import AutoStore, FileStore
from mcpsync.exceptions import LoginRequired

from ..fakes.scripted_http import Reply, answer_to, json_reply
from ..fakes.web import web
from .authority import LOST, PING, Realm, held_back
from .sites import soon
from .storing import run_script, start_script

RESULTS: Dict[str, Any] = {
    "server/discover": {
        "supportedVersions": ["2026-07-28"],
        "capabilities": {"tools": {}},
    },
    "tools/list": {"tools": [], "ttlMs": 0, "cacheScope": "private"},
}


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the home directory of this test, where no keyring is to be had."""
    path = tmp_path / "home"
    monkeypatch.setenv("MCPSYNC_HOME", str(path))
    monkeypatch.setenv("PYTHON_KEYRING_BACKEND", "keyring.backends.fail.Keyring")
    backend: Any = keyring.backends.fail.Keyring
    monkeypatch.setattr(keyring, "get_keyring", lambda: backend())
    return path


@pytest.fixture
def realm(home: Path) -> Iterator[Realm]:
    with Realm(FileStore(home / ".credentials.json")) as realm:
        plain: Any = realm.resource.routes["/mcp"]

        def answer(request: Any) -> Reply:
            reply: Reply = plain(request)
            if reply.status != 200:
                return reply
            result = {"resultType": "complete", **RESULTS.get(request.rpc_method, {})}
            return json_reply(answer_to(request, result))

        realm.resource.routes["/mcp"] = answer
        yield realm


def tools(realm: Realm, **options: Any) -> List[Any]:
    with mcpsync.connect(realm.url, name="demo", **options) as client:
        return list(client.list_tools())


# --- without auth= ------------------------------------------------------------------


def test_a_stored_login_is_used(realm: Realm) -> None:
    stored = realm.stored(3600)
    assert tools(realm) == []
    assert set(realm.resource.carried) == {"Bearer " + stored.token.access_token}


def test_a_stored_login_is_refreshed(realm: Realm) -> None:
    realm.stored()
    assert tools(realm) == []
    assert realm.issuer.refreshes == 1
    saved = realm.at_hand()
    assert saved is not None
    assert set(realm.resource.carried) == {"Bearer " + saved.token.access_token}


def test_a_login_is_required(realm: Realm) -> None:
    with pytest.raises(LoginRequired) as caught:
        tools(realm)
    assert "mcpsync login " + realm.url in str(caught.value)
    assert realm.issuer.requests == []


def test_a_login_of_another_server_is_not_used(realm: Realm) -> None:
    stored = realm.stored(3600)
    realm.store.save(replace(stored, server_url=realm.url + "/other"))
    realm.store.save(replace(stored, server_name="other"))
    realm.store.delete("demo", realm.url)
    with pytest.raises(LoginRequired):
        tools(realm)
    assert set(realm.resource.carried) == {None}


def test_a_header_of_the_user_stays(realm: Realm) -> None:
    realm.stored(3600)
    with pytest.raises(mcpsync.MCPError):
        tools(realm, headers={"Authorization": "Bearer own"})
    assert set(realm.resource.carried) == {"Bearer own"}
    assert realm.issuer.requests == []


def test_a_login_of_later_is_found_after_a_refusal(realm: Realm) -> None:
    with contextlib.closing(STORED_LOGIN.for_server("demo", realm.url)) as authorizer:
        prepared = requests.Request("POST", realm.url, json=PING).prepare()
        credential = authorizer.authorize(prepared, soon())
        assert credential is None
        with requests.Session() as session:
            response = session.send(prepared, timeout=20)
        stored = realm.stored(3600)
        assert authorizer.repair(credential, response, soon())
        authorizer.authorize(prepared, soon(), credential)
        header = prepared.headers["Authorization"]
        assert header == "Bearer " + stored.token.access_token


def test_what_another_origin_says_is_not_repaired(realm: Realm) -> None:
    realm.stored(3600)
    ours = STORED_LOGIN.for_server("demo", "http://127.0.0.1:9/mcp")
    with contextlib.closing(ours) as authorizer:
        with requests.Session() as session:
            response = session.post(realm.url, json=PING, timeout=20)
        assert response.status_code == 401
        assert not authorizer.repair(None, response, soon())
    assert realm.resource.asked == ["/mcp"] and realm.issuer.requests == []


def test_a_store_that_cannot_be_read_harms_no_other_server(
    realm: Realm, home: Path, caplog: pytest.LogCaptureFixture
) -> None:
    home.mkdir(mode=0o700)
    (home / ".credentials.json").write_text("{")
    (home / ".credentials.json").chmod(0o600)
    answers = {name: _answer(result) for name, result in RESULTS.items()}
    with web(answers) as server, mcpsync.connect(server.url) as client:
        assert list(client.list_tools()) == []
    assert "stored logins cannot be used" in caplog.text


def _answer(result: Any) -> Any:
    whole = {"resultType": "complete", **result}
    return lambda request: json_reply(answer_to(request, whole))


def test_a_server_without_a_login_costs_nothing(home: Path) -> None:
    answers = {name: _answer(result) for name, result in RESULTS.items()}
    script = """
        import sys, mcpsync

        with mcpsync.connect(sys.argv[1]) as client:
            assert list(client.list_tools()) == []
        names = {"keyring", "requests_oauthlib", "oauthlib", "jwt", "cryptography"}
        print(sorted(names & set(sys.modules)))
        print(sorted(n for n in sys.modules if n.startswith("mcpsync.auth.")))
    """
    with web(answers) as server:
        printed = run_script(script, server.url).splitlines()
    assert printed[0] == "[]"
    assert "mcpsync.auth.session" not in printed[1]
    assert not home.exists()


# --- several processes --------------------------------------------------------------

ASK = """
    import sys, threading, mcpsync
    from mcpsync.auth.stores import FileStore

    url, path, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    oauth = mcpsync.OAuth(store=FileStore(path))
    session = oauth.for_server("demo", url)
    statuses = []

    def ask():
        try:
            statuses.append(session.post(url, json=ping, timeout=30).status_code)
        except mcpsync.MCPError as error:
            statuses.append(type(error).__name__)

    print("ready", flush=True)
    sys.stdin.readline()
    asking = [threading.Thread(target=ask) for _ in range(threads)]
    for thread in asking:
        thread.start()
    for thread in asking:
        thread.join()
    session.close()
    print(*statuses, flush=True)
"""


@contextlib.contextmanager
def process(
    realm: Realm, home: Path, script: str = ASK, threads: int = 1
) -> Iterator["subprocess.Popen[str]"]:
    """Start a script, and wait until it is ready."""
    path = home / ".credentials.json"
    with start_script(script, realm.url, path, threads) as child:
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
            yield child
        finally:
            child.kill()


def go(child: "subprocess.Popen[str]") -> None:
    assert child.stdin is not None
    child.stdin.write("\n")
    child.stdin.flush()


def said(child: "subprocess.Popen[str]") -> List[str]:
    """Return what a process says until its end, which must be a good one."""
    out, err = child.communicate(timeout=40)
    assert (child.returncode, err) == (0, "")
    return out.split()


def test_many_processes_refresh_once(realm: Realm, home: Path) -> None:
    realm.stored()
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(process(realm, home, threads=8)) for _ in range(3)
        ]
        for child in children:
            go(child)
        assert [said(child) for child in children] == [["200"] * 8] * 3
    assert realm.issuer.refreshes == 1
    saved = realm.at_hand()
    assert saved is not None
    assert realm.issuer.scopes_of(saved.token.access_token) is not None
    assert len(set(realm.resource.carried)) == 1


def test_a_process_that_is_killed_before_it_saves(realm: Realm, home: Path) -> None:
    realm.stored()
    gate = threading.Event()

    def spend(form: Dict[str, str]) -> Optional[Reply]:
        realm.issuer.spend(form)
        gate.wait(20)
        return LOST

    realm.issuer.faults.append(spend)
    with process(realm, home) as child:
        go(child)
        realm.issuer.server.await_requests(1, "POST")
        child.kill()
        child.wait(10)
        gate.set()
    for _ in range(2):
        with pytest.raises(LoginRequired):
            tools(realm)
    # The spent one was tried once more, and is gone.
    assert realm.issuer.refreshes == 2
    assert realm.at_hand() is None


def test_ctrl_c_during_a_refresh_loses_nothing(realm: Realm, home: Path) -> None:
    script = """
        import sys, mcpsync
        from mcpsync.auth.stores import FileStore

        url, path = sys.argv[1:3]
        oauth = mcpsync.OAuth(store=FileStore(path))
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        with oauth.for_server("demo", url) as session:
            print("ready", flush=True)
            sys.stdin.readline()
            try:
                session.post(url, json=ping, timeout=30)
            except KeyboardInterrupt:
                print("interrupted", flush=True)
            sys.stdin.readline()
            print(session.post(url, json=ping, timeout=30).status_code)
    """
    realm.stored()
    gate = threading.Event()
    realm.issuer.faults.append(held_back(gate))
    with process(realm, home, script) as child:
        go(child)
        realm.issuer.server.await_requests(1, "POST")
        child.send_signal(signal.SIGINT)
        assert child.stdout is not None
        # The server has not answered yet.
        assert child.stdout.readline() == "interrupted\n"
        assert not gate.is_set()
        gate.set()
        go(child)
        assert said(child) == ["200"]
    assert realm.issuer.refreshes == 1


def test_a_fork_during_a_refresh(realm: Realm, home: Path) -> None:
    script = """
        import os, sys, threading, warnings, mcpsync
        from mcpsync.auth.stores import FileStore

        warnings.simplefilter("ignore", DeprecationWarning)
        url, path = sys.argv[1:3]
        session = mcpsync.OAuth(store=FileStore(path)).for_server("demo", url)
        ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
        statuses = []

        def ask():
            statuses.append(session.post(url, json=ping, timeout=30).status_code)

        thread = threading.Thread(target=ask)
        print("ready", flush=True)
        sys.stdin.readline()
        thread.start()
        sys.stdin.readline()
        child = os.fork()
        if child == 0:
            print("forked", flush=True)
            ask()
            os._exit(0 if statuses == [200] else 1)
        status = os.waitpid(child, 0)[1]
        thread.join()
        session.close()
        print(status, *statuses)
    """
    realm.stored()
    gate = threading.Event()
    realm.issuer.faults.append(held_back(gate))
    with process(realm, home, script) as child:
        go(child)
        realm.issuer.server.await_requests(1, "POST")
        go(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "forked\n"
        gate.set()
        assert said(child) == ["0", "200"]
    assert realm.issuer.refreshes == 1
    assert len(set(realm.resource.carried)) == 1


def test_the_store_of_this_user(home: Path, realm: Realm) -> None:
    realm.stored(3600)
    oauth = mcpsync.OAuth()
    assert isinstance(oauth.credential_store, AutoStore)
    assert oauth.credential_store is mcpsync.OAuth().credential_store
    assert oauth.logout(realm.url, name="demo")
    assert realm.at_hand() is None and len(realm.issuer.revoked) == 2
