"""The end of a client and of the program, while there is something to be saved."""

from __future__ import annotations

import subprocess
import threading
import time
from pathlib import Path
from typing import Any

import pytest

import mcpsync
from mcpsync.auth.stores import FileStore

from ..transports.sessions import Sessions
from .authority import Realm, held_back
from .storing import start_script


def test_the_end_of_the_program_waits_for_what_is_to_be_saved(tmp_path: Path) -> None:
    path = tmp_path / "home" / "credentials.json"
    script = """
        import atexit, sys, mcpsync
        from mcpsync._deadline import Deadline
        from mcpsync.auth.stores import FileStore

        oauth = mcpsync.OAuth(store=FileStore(sys.argv[2]))
        with oauth.for_server("demo", sys.argv[1]) as session:
            try:
                session.authorizer.current(Deadline.after(0.5))
            except mcpsync.RequestTimeout:
                print("timed out", flush=True)
        # The last that is registered runs first.
        atexit.register(print, "ending", flush=True)
    """
    with Realm(FileStore(path)) as realm:
        old = realm.stored()
        gate = threading.Event()
        realm.issuer.faults.append(held_back(gate))
        with start_script(script, realm.url, path) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "timed out\n"
                assert process.stdout.readline() == "ending\n"
                realm.issuer.server.await_requests(1, "POST")
                before = realm.at_hand()
                assert before is not None
                assert before.token.refresh_token == old.token.refresh_token
                with pytest.raises(subprocess.TimeoutExpired):
                    process.wait(0.3)
                gate.set()
                assert process.communicate(timeout=20)[0] == ""
            finally:
                gate.set()
                process.kill()
        assert process.returncode == 0
        saved = realm.at_hand()
        assert saved is not None
        assert realm.issuer.scopes_of(saved.token.access_token) is not None
        assert saved.token.refresh_token != old.token.refresh_token
    assert realm.issuer.refreshes == 1


@pytest.mark.parametrize("how", ["the clock of the client", "the server"])
def test_a_farewell_starts_no_refresh(
    monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    with Realm() as realm:
        stored = realm.stored(3600)
        plain: Any = realm.resource.routes["/mcp"]
        sessions = Sessions()

        def answer(request: Any) -> Any:
            header = request.headers["Authorization"]
            if realm.issuer.scopes_of(header.partition(" ")[2]) is None:
                return plain(request)
            realm.resource.carried.append(header)
            return sessions(request)

        realm.resource.routes["/mcp"] = answer
        client = mcpsync.connect(realm.url, name="demo", auth=realm.oauth())
        with client:
            assert sessions.given == 1
            if how == "the server":
                realm.issuer.void(stored.token.access_token)
            else:
                now = time.time()
                monkeypatch.setattr(time, "time", lambda: now + 4000)
        assert len(realm.resource.server.of("DELETE")) == 1
        assert realm.resource.last == stored.token.access_token
        assert realm.issuer.requests == []
        assert realm.at_hand() == stored
