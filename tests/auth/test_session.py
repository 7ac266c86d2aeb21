"""What goes on the wire with a token, and what comes of a refusal."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any, Dict, Iterator, List, Tuple

import pytest
import requests

from mcpsync.auth.session import STEP_UP_MEMORY, AuthorizedSession
from mcpsync.exceptions import (
    AuthorizationError,
    ConfigError,
    InsufficientScope,
    LoginRequired,
)

from ..fakes.scripted_http import Reply
from .authority import PING, Realm, refusal, together
from .sites import Site, soon
from .storing import run_script


@pytest.fixture
def realm() -> Iterator[Realm]:
    with Realm() as realm:
        yield realm


@pytest.fixture
def session(realm: Realm) -> Iterator[AuthorizedSession]:
    with realm.session(flow=realm.issuer.log_in) as session:
        yield session


def ask(session: AuthorizedSession, tool: str = "") -> int:
    """Send a request, and return the status of its answer."""
    headers = {"Mcp-Method": "tools/call", "Mcp-Name": tool} if tool else {}
    url = session.authorizer.server.url
    return session.post(url, json=PING, headers=headers, timeout=20).status_code


def scopes_of(realm: Realm) -> List[str]:
    """Return the scopes of each login."""
    return [login.get("scope", "") for login in realm.issuer.logins]


# --- a session of requests ----------------------------------------------------------


def test_it_is_a_session_of_requests(realm: Realm, session: AuthorizedSession) -> None:
    stored = realm.stored(3600, requested_scopes=("read",))
    response = session.get(realm.resource.base + "/other", params={"a": "b"})
    assert response.status_code == 404
    request = realm.resource.requests[0]
    assert request.path == "/other?a=b"
    assert request.headers["Authorization"] == "Bearer " + stored.token.access_token
    assert session.authorized
    assert session.access_token == stored.token.access_token
    assert session.token == {
        "access_token": stored.token.access_token,
        "token_type": "Bearer",
        "expires_at": stored.token.expires_at,
        "scope": ["read"],
    }


def test_it_has_no_token_before_there_is_one(session: AuthorizedSession) -> None:
    assert session.token == {} and not session.authorized
    assert session.access_token is None


def test_tokens_are_not_set_from_outside(session: AuthorizedSession) -> None:
    with pytest.raises(AttributeError):
        session.token = {"access_token": "x"}
    with pytest.raises(AttributeError):
        session.access_token = "x"


def test_a_refusal_is_repaired(realm: Realm, session: AuthorizedSession) -> None:
    response = session.post(realm.url, json=PING)
    assert response.json() == {"jsonrpc": "2.0", "id": 1, "result": {}}
    posts = [r for r in realm.resource.requests if r.path == "/mcp"]
    assert [post.json for post in posts] == [PING, PING]
    assert "Authorization" not in posts[0].headers


def test_refresh_token(realm: Realm, session: AuthorizedSession) -> None:
    stored = realm.stored(3600)
    token = session.refresh_token("https://ignored.example/token", timeout=1)
    assert token["access_token"] not in (None, stored.token.access_token)
    assert realm.issuer.refreshes == 1 and realm.issuer.logins == []


def test_refresh_token_without_any(realm: Realm, session: AuthorizedSession) -> None:
    with pytest.raises(LoginRequired):
        session.refresh_token()
    assert realm.issuer.logins == []


@pytest.mark.parametrize(
    "url",
    [
        "https://mcp.example/mcp",
        "http://localhost:1/mcp",
        "/mcp",
        "file:///etc/passwd",
        b"http://mcp.example/mcp",
    ],
)
def test_other_origins_are_refused(
    realm: Realm, session: AuthorizedSession, url: Any
) -> None:
    realm.stored(3600)
    with pytest.raises(ConfigError, match="is for http"):
        session.get(url)
    assert realm.resource.requests == []


def test_other_origins_get_nothing(realm: Realm, session: AuthorizedSession) -> None:
    realm.stored(3600)
    for url in (
        realm.url.replace("127.0.0.1", "localhost"),
        realm.issuer.url,
        realm.url.replace("http:", "https:"),
    ):
        prepared = requests.Request("POST", url, json=PING).prepare()
        assert session.authorize(prepared, soon()) is None
        assert "Authorization" not in prepared.headers


@pytest.mark.parametrize("scheme", ["Bearer", "Basic"])
def test_a_header_of_the_user_stays(
    realm: Realm, session: AuthorizedSession, scheme: str
) -> None:
    realm.stored(3600)
    own = scheme + " own"
    response = session.post(realm.url, json=PING, headers={"authorization": own})
    assert response.status_code == 401
    assert realm.resource.carried == [own]
    assert realm.issuer.requests == []


def test_what_it_did_not_authorize_it_does_not_repair(
    realm: Realm, session: AuthorizedSession
) -> None:
    response = requests.post(realm.url, json=PING, timeout=20)
    assert response.status_code == 401
    assert not session.repair(None, response, soon())
    assert realm.issuer.requests == []


def test_netrc_is_not_read(
    realm: Realm, session: AuthorizedSession, tmp_path: Any, monkeypatch: Any
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login ada password lovelace\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert ask(session) == 200
    assert realm.resource.carried[0] is None
    every = [*realm.resource.requests, *realm.issuer.requests]
    assert not any("Basic" in (r.headers["Authorization"] or "") for r in every)


def test_redirects_are_not_followed(realm: Realm, session: AuthorizedSession) -> None:
    realm.stored(3600)
    realm.resource.routes["/old"] = Reply(307, {"Location": realm.url})
    assert session.post(realm.resource.base + "/old", json=PING).status_code == 307
    assert realm.resource.carried == []


def test_redirects_are_not_followed_by_get(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.resource.routes["/old"] = Reply(302, {"Location": realm.url})
    for send in (session.get, session.options, session.head):
        assert send(realm.resource.base + "/old").status_code == 302
    assert realm.resource.carried == []


@pytest.mark.parametrize("status", [302, 307])
def test_a_redirect_that_is_followed_carries_no_token(
    realm: Realm, session: AuthorizedSession, status: int
) -> None:
    realm.stored(3600)
    challenge = 'Bearer resource_metadata="%s/metadata"'
    with Site() as other:
        refused = Reply(401, {"WWW-Authenticate": challenge % other.base})
        other.routes["/there"] = refused
        realm.resource.routes["/old"] = Reply(
            status, {"Location": other.base + "/there"}
        )
        response = session.get(realm.resource.base + "/old", allow_redirects=True)
        assert response.status_code == 401
        assert other.asked == ["/there"]
        assert other.requests[0].headers["Authorization"] is None
    assert realm.issuer.requests == [] and len(realm.resource.requests) == 1


def test_a_redirect_within_the_server_carries_no_token(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.stored(3600)
    realm.resource.routes["/old"] = Reply(302, {"Location": "/new"})
    session.get(realm.resource.base + "/old", allow_redirects=True)
    assert realm.resource.asked == ["/old", "/new"]
    assert realm.resource.requests[1].headers["Authorization"] is None


# --- what asks nobody ---------------------------------------------------------------


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_a_stream_and_a_courtesy_open_no_login(
    realm: Realm, session: AuthorizedSession, method: str
) -> None:
    stored = realm.stored(3600)
    realm.issuer.void(stored.token.access_token)
    realm.issuer.faults.append(refusal("invalid_grant"))
    if method == "GET":
        with pytest.raises(LoginRequired):
            session.get(realm.url)
    else:
        assert session.delete(realm.url).status_code == 401
    assert realm.issuer.logins == []


def test_a_stream_is_repaired_silently(
    realm: Realm, session: AuthorizedSession
) -> None:
    stored = realm.stored(3600)
    realm.issuer.void(stored.token.access_token)
    assert session.get(realm.url).status_code == 204
    assert realm.issuer.refreshes == 1 and realm.issuer.logins == []


@pytest.mark.parametrize("method", ["GET", "DELETE"])
def test_neither_asks_for_more_scopes(
    realm: Realm, session: AuthorizedSession, method: str
) -> None:
    realm.stored(3600)
    realm.resource.wants = lambda request: ["write"]
    if method == "GET":
        with pytest.raises(InsufficientScope, match="write"):
            session.get(realm.url)
    else:
        assert session.delete(realm.url).status_code == 403
    assert realm.issuer.logins == []


def test_a_stream_does_not_spoil_the_login_of_a_call(
    realm: Realm, session: AuthorizedSession
) -> None:
    stored = realm.stored(3600)
    realm.issuer.void(stored.token.access_token)
    realm.issuer.faults.append(refusal("invalid_grant"))
    left: List[str] = ["GET", "POST", "POST", "POST"]

    def send() -> Any:
        method = left.pop()
        json = PING if method == "POST" else None
        return method, session.request(method, realm.url, json=json).status_code

    outcomes = together(4, send)
    assert [o for o in outcomes if isinstance(o, tuple) and o[0] == "POST"] == [
        ("POST", 200)
    ] * 3
    assert len(realm.issuer.logins) == 1


# --- more scopes --------------------------------------------------------------------


def test_a_step_up_keeps_what_there_was(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.stored(3600, requested_scopes=("read",))
    realm.resource.wants = lambda request: ["write"]
    assert ask(session) == 200
    assert scopes_of(realm) == ["read write"]
    assert realm.issuer.refreshes == 0
    saved = realm.at_hand()
    assert saved is not None and saved.requested_scopes == ("read", "write")


def test_a_step_up_goes_on_with_what_was_granted(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.resource.challenge["scope"] = "read"
    realm.issuer.grants = lambda scopes: (*scopes, "extra")
    realm.resource.wants = lambda request: ["write"]
    assert ask(session) == 200
    assert scopes_of(realm) == ["read", "read extra write"]


def test_eight_threads_step_up_once(realm: Realm, session: AuthorizedSession) -> None:
    realm.stored(3600, requested_scopes=("read",))
    realm.resource.wants = lambda request: ["write"]
    assert together(8, lambda: ask(session, "tool")) == [200] * 8
    assert scopes_of(realm) == ["read write"]


@pytest.mark.parametrize("granted", [("read", "write"), ("read",)])
def test_eight_threads_step_up_once_whatever_they_get(
    realm: Realm, session: AuthorizedSession, granted: Tuple[str, ...]
) -> None:
    stored = realm.stored(3600, requested_scopes=("read",))
    # More was asked for at first than was granted.
    realm.store.save(replace(stored, requested_scopes=("read", "never")))
    realm.resource.wants = lambda request: ["write"]
    realm.issuer.grants = lambda scopes: granted
    outcomes = together(8, lambda: ask(session, "tool"))
    if "write" in granted:
        assert outcomes == [200] * 8
    else:
        assert [type(outcome) for outcome in outcomes] == [InsufficientScope] * 8
    assert scopes_of(realm) == ["read never write"]


def test_what_another_process_stepped_up_to_is_used(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.stored(3600, requested_scopes=("read",))
    realm.resource.wants = lambda request: ["read"]
    assert ask(session) == 200
    realm.stored(3600, requested_scopes=("read", "write"))
    realm.resource.wants = lambda request: ["write"]
    assert ask(session) == 200
    assert realm.issuer.requests == []


def test_a_step_up_in_vain_is_not_repeated(
    realm: Realm, session: AuthorizedSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    realm.stored(3600, requested_scopes=("read",))
    realm.resource.wants = lambda request: ["write"]
    # It says that it has granted it, and has not.
    realm.issuer.grants = lambda scopes: ("read",)
    with pytest.raises(InsufficientScope):
        ask(session, "tool")
    assert scopes_of(realm) == ["read write"]
    with pytest.raises(InsufficientScope):
        ask(session, "tool")
    assert len(realm.issuer.logins) == 1
    # Another tool is another matter.
    with pytest.raises(InsufficientScope):
        ask(session, "other tool")
    assert len(realm.issuer.logins) == 2
    # And so is the same one after a while.
    now = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: now() + STEP_UP_MEMORY + 1)
    with pytest.raises(InsufficientScope):
        ask(session, "tool")
    assert len(realm.issuer.logins) == 3


def test_a_step_up_that_a_person_refuses_is_not_repeated(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.stored(3600, requested_scopes=("read",))
    realm.resource.wants = lambda request: ["write"]
    realm.issuer.deny = True
    with pytest.raises(AuthorizationError, match="access_denied"):
        ask(session, "tool")
    with pytest.raises(InsufficientScope):
        ask(session, "tool")
    assert len(realm.issuer.logins) == 1


def test_two_step_ups_for_one_request(realm: Realm, session: AuthorizedSession) -> None:
    realm.stored(3600)
    count = iter(range(100))
    realm.resource.wants = lambda request: ["scope-%d" % next(count)]
    with pytest.raises(InsufficientScope):
        ask(session, "tool")
    assert scopes_of(realm) == ["scope-0", "scope-0 scope-1"]
    # The next one does not begin again, whatever the server wants now.
    with pytest.raises(InsufficientScope):
        ask(session, "tool")
    assert len(realm.issuer.logins) == 2


def test_a_token_that_has_the_scopes_already(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.stored(3600, requested_scopes=("read",))
    realm.resource.routes["/mcp"] = realm.resource.refuse(
        403, error="insufficient_scope", scope="read"
    )
    with pytest.raises(InsufficientScope, match="issued for what the server asks"):
        ask(session)
    assert realm.issuer.requests == []


@pytest.mark.parametrize(
    "params",
    [
        {},
        {"error": "invalid_token", "scope": "write"},
        {"scope": "write"},
    ],
)
def test_another_403_is_no_matter_of_scopes(
    realm: Realm, session: AuthorizedSession, params: Dict[str, str]
) -> None:
    realm.stored(3600)
    realm.resource.routes["/mcp"] = realm.resource.refuse(403, **params)
    assert ask(session) == 403
    assert len(realm.resource.requests) == 1 and realm.issuer.requests == []


def test_a_step_up_that_names_no_scope(
    realm: Realm, session: AuthorizedSession
) -> None:
    realm.stored(3600)
    realm.resource.routes["/mcp"] = realm.resource.refuse(
        403, error="insufficient_scope"
    )
    with pytest.raises(InsufficientScope):
        ask(session)
    assert realm.issuer.requests == []


def test_a_step_up_without_a_person(realm: Realm) -> None:
    realm.stored(3600, requested_scopes=("read",))
    realm.resource.wants = lambda request: ["write"]
    with realm.session() as session:
        with pytest.raises(InsufficientScope, match="the scopes read write"):
            ask(session)
    assert realm.issuer.refreshes == 0
    assert realm.at_hand() is not None


# --- the end ------------------------------------------------------------------------


def test_a_refusal_that_was_not_read_is_closed(realm: Realm) -> None:
    with realm.session() as session:
        with pytest.raises(LoginRequired):
            session.post(realm.url, json=PING, stream=True)
        realm.resource.server.close()


def test_close_is_idempotent(realm: Realm) -> None:
    session = realm.session()
    session.close()
    session.close()


def test_a_child_uses_connections_of_its_own(realm: Realm) -> None:
    realm.resource.routes["/open"] = Reply(204)
    script = """
        import os, sys, mcpsync

        url = sys.argv[1]
        session = mcpsync.OAuth(store="memory").for_server("demo", url)
        assert session.get(url).status_code == 204
        child = os.fork()
        if child == 0:
            os._exit(0 if session.get(url).status_code == 204 else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert session.get(url).status_code == 204
        session.close()
    """
    run_script(script, realm.resource.base + "/open")
    assert [r.connection for r in realm.resource.requests] == [1, 2, 1]
