"""Servers that move, that want more, and that want proofs."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Iterator, List, Tuple

import pytest

import mcpsync

from . import authservers
from .accounts import ANSWER, Account, difference, echo
from .authservers import AuthorizationServer, ProtectedServer
from .browser import sign_in
from .flow import query_of

START = ["oidc_provider", "mcp_auth_server"]


class User:
    """Somebody who logs in whenever he is asked to, and notes what for."""

    def __init__(self, deny: bool = False) -> None:
        self.deny = deny
        self.asked: List[str] = []

    def __call__(self, url: str) -> str:
        self.asked.append(query_of(url)["scope"])
        return sign_in(url, deny=self.deny)


@pytest.fixture(scope="module", params=START)
def authority(request: pytest.FixtureRequest) -> Iterator[AuthorizationServer]:
    with getattr(authservers, request.param)() as server:
        yield server


@pytest.fixture(scope="module")
def protected(authority: AuthorizationServer) -> Iterator[ProtectedServer]:
    options = ("--write-tool", "touch", "--write-tool", "add")
    with authservers.protected_server(authority, *options) as server:
        yield server


@pytest.fixture
def account(
    authority: AuthorizationServer, protected: ProtectedServer, tmp_path: Path
) -> Account:
    return Account(authority, protected, tmp_path)


# --- another authorization server ---------------------------------------------------


@pytest.fixture(params=[START, START[::-1]], ids=lambda names: names[0])
def moving(
    request: pytest.FixtureRequest, tmp_path: Path
) -> Iterator[Tuple[Account, AuthorizationServer, AuthorizationServer]]:
    with ExitStack() as stack:
        first, second = (
            stack.enter_context(getattr(authservers, name)()) for name in request.param
        )
        server = stack.enter_context(authservers.protected_server(first))
        yield Account(first, server, tmp_path), first, second


def test_a_server_that_moves_is_followed_by_a_login(
    moving: Tuple[Account, AuthorizationServer, AuthorizationServer],
) -> None:
    account, first, second = moving
    user = User()
    with account.connect(flow=user) as client:
        assert echo(client) == ANSWER
        old = account.credentials()
        left = first.counters()
        account.server.trust(second)
        assert echo(client) == ANSWER
        new = account.credentials()
        assert (old.issuer, new.issuer) == (first.issuer, second.issuer)
        assert old.client.client_id != new.client.client_id
        # Nobody asks the old one for anything, nor the new one for what is not its own.
        assert first.counters() == left
        counted = second.counters()
        assert counted["token_grants"] == {"authorization_code": 1}
        assert counted["registrations"] == 1
        for entry in counted.get("token_log", []):
            assert (entry["client_id"], entry["status"]) == (new.client.client_id, 200)
    account.expire()
    with account.connect() as client:
        assert echo(client) == ANSWER
    assert second.counters()["token_grants"]["refresh_token"] == 1
    assert len(user.asked) == 2

    # Back again: it still knows this client.
    account.server.trust(first)
    with account.connect(flow=user) as client:
        assert echo(client) == ANSWER
    assert account.credentials().client.client_id == old.client.client_id
    assert first.counters()["registrations"] == 1
    assert len(user.asked) == 3


def test_a_server_that_moves_wants_a_login_where_nobody_can_be_asked(
    moving: Tuple[Account, AuthorizationServer, AuthorizationServer],
) -> None:
    account, first, second = moving
    account.log_in()
    left = first.counters()
    account.server.trust(second)
    untouched = second.counters()
    for _ in range(2):
        with pytest.raises(mcpsync.LoginRequired):
            with account.connect() as client:
                echo(client)
    counted = difference(second.counters(), untouched)
    assert set(counted) <= {"introspections", "metadata"}
    # An expired token may be refreshed where it is from, before anybody knows better;
    # this one was not expired.
    assert set(difference(first.counters(), left)) <= {"metadata"}


# --- one authorization server -------------------------------------------------------


def test_servers_with_one_authorization_server_share_a_registration(
    authority: AuthorizationServer, protected: ProtectedServer, tmp_path: Path
) -> None:
    before = authority.counters()
    with authservers.protected_server(authority) as other:
        accounts = [Account(authority, one, tmp_path) for one in (protected, other)]
        for account in accounts:
            account.log_in()
        first, second = (account.credentials() for account in accounts)
        assert first.client.client_id == second.client.client_id
        assert first.token.access_token != second.token.access_token
        refused = [account.server.stats()["unauthorized"] for account in accounts]
        for account in accounts:
            account.expire()
            with account.connect() as client:
                assert echo(client) == ANSWER
        # Neither has seen the token of the other.
        assert [a.server.stats()["unauthorized"] for a in accounts] == refused
    counted = difference(authority.counters(), before)
    assert (counted["registrations"], counted["authorizations"]) == (1, 2)


@pytest.mark.parametrize("start", START)
@pytest.mark.parametrize("expired", [False, True])
def test_a_server_that_has_forgotten_everybody_gets_another_registration(
    start: str, expired: bool, tmp_path: Path
) -> None:
    user = User()
    with getattr(authservers, start)() as authority:
        with authservers.protected_server(authority) as server:
            account = Account(authority, server, tmp_path)
            account.log_in()
            before = account.credentials()
            authority.restart()
            # Its secret for the resource server is another one.
            server.trust(authority)
            if expired:
                account.expire()
            with pytest.raises(mcpsync.LoginRequired):
                with account.connect() as client:
                    echo(client)
            with account.connect(flow=user) as client:
                assert echo(client) == ANSWER
            after = account.credentials()
            assert after.client.client_id != before.client.client_id
            assert authority.counters()["registrations"] == 1
    assert len(user.asked) == 1


@pytest.mark.parametrize("protocol", ["auto", "legacy"])
def test_each_era_of_the_protocol_leads_to_a_login(
    account: Account, protocol: str
) -> None:
    user = User()
    config = account.oauth(flow=user)
    with mcpsync.connect(account.url, auth=config, protocol=protocol) as client:
        assert echo(client) == ANSWER
        assert client.call_tool("count", {"to": 2, "delay": 0}).data == {"counted": 2}
    account.expire()
    with mcpsync.connect(account.url, auth=config, protocol=protocol) as client:
        assert echo(client) == ANSWER
    assert len(user.asked) == 1


# --- more scopes --------------------------------------------------------------------


def touch(client: mcpsync.Client) -> Any:
    """Call a tool that takes another scope."""
    return client.call_tool("touch", {}).data["uri"]


def test_a_tool_that_takes_more_takes_another_login(account: Account) -> None:
    user = User()
    before = account.server.stats()["forbidden"]
    with account.connect(flow=user) as client:
        assert echo(client) == ANSWER
        assert touch(client) == "demo://greeting"
        # One of the servers has a scope for refresh tokens as well.
        first, second = (set(asked.split()) for asked in user.asked)
        assert first - {"offline_access"} == {"mcp:read"}
        assert second == first | {"mcp:write"}
        # Good for what there was before, for other tools, and for later.
        assert echo(client) == ANSWER
        assert client.call_tool("add", {"a": 1, "b": 2}).data
    with account.connect() as client:
        assert touch(client) == "demo://greeting"
    account.expire()
    with account.connect() as client:
        assert touch(client) == "demo://greeting"
    assert len(user.asked) == 2
    assert account.server.stats()["forbidden"] - before == 1


def test_a_tool_that_takes_more_is_refused_where_nobody_can_be_asked(
    account: Account,
) -> None:
    account.log_in()
    before = account.authority.counters()
    with account.connect() as client:
        with pytest.raises(mcpsync.InsufficientScope, match="mcp:write"):
            touch(client)
        assert echo(client) == ANSWER
    counted = difference(account.authority.counters(), before)
    assert "token_grants" not in counted


def test_a_user_may_refuse_more_and_keeps_what_there_was(account: Account) -> None:
    account.log_in()
    user = User(deny=True)
    with account.connect(flow=user) as client:
        with pytest.raises(mcpsync.AuthorizationError, match="access_denied"):
            touch(client)
        # He is not asked over and over.
        with pytest.raises(mcpsync.AuthorizationError):
            touch(client)
        assert len(user.asked) == 1
        assert echo(client) == ANSWER
    with account.connect() as client:
        assert echo(client) == ANSWER


def test_threads_that_all_want_more_share_a_login(account: Account) -> None:
    account.log_in()
    user = User()
    together = threading.Barrier(4)
    with account.connect(flow=user) as client:

        def work(_: int) -> Any:
            together.wait(60)
            return touch(client)

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(work, range(4))) == ["demo://greeting"] * 4
    assert len(user.asked) == 1


# --- tokens that are bound to a key -------------------------------------------------


@pytest.fixture(params=[False, True], ids=["without-nonces", "with-nonces"])
def bound(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Account]:
    nonce = ("--dpop-nonce",) if request.param else ()
    with authservers.oidc_provider(*nonce) as authority:
        with authservers.protected_server(authority, "--dpop", *nonce) as server:
            yield Account(authority, server, tmp_path)


def test_tokens_are_bound_to_a_key_that_is_kept(bound: Account) -> None:
    user = User()
    with bound.connect(flow=user, dpop=True) as client:
        assert echo(client) == ANSWER
    first = bound.credentials()
    assert first.token.token_type == "DPoP"
    assert first.dpop_key is not None
    # The key is beside the token, so that who has one has both.
    with bound.connect() as client:
        assert echo(client) == ANSWER
    assert bound.run() == {"answers": [ANSWER]}
    bound.expire()
    assert bound.run_together(2, threads=2) == [{"answers": [ANSWER] * 2}] * 2
    second = bound.credentials()
    assert second.dpop_key == first.dpop_key
    assert second.token.access_token != first.token.access_token
    counters = bound.authority.counters()
    assert all(entry["dpop"] for entry in counters["token_log"])
    assert counters["token_grants"] == {"authorization_code": 1, "refresh_token": 1}
    assert len(user.asked) == 1


def test_threads_with_a_bound_token_prove_each_request(bound: Account) -> None:
    bound.log_in(dpop=True)
    together = threading.Barrier(8)
    with bound.connect(dpop=True) as client:
        before = bound.server.stats()

        def work(_: int) -> Any:
            together.wait(60)
            return [echo(client) for _ in range(3)]

        with ThreadPoolExecutor(8) as pool:
            assert list(pool.map(work, range(8))) == [[ANSWER] * 3] * 8
    counted = difference(bound.server.stats(), before)
    assert (counted["passed"], counted["calls"]) == (24, 24)
    # The nonce is known from the first request on.
    assert "unauthorized" not in counted


def test_a_login_in_two_steps_keeps_the_key(bound: Account) -> None:
    credentials = bound.log_in(dpop=True)
    assert bound.credentials().dpop_key == credentials.dpop_key
    assert bound.oauth().logout(bound.url) is True
    assert bound.authority.counters()["revocations"] >= 1
    with pytest.raises(mcpsync.LoginRequired):
        with bound.connect(dpop=True):
            pass
