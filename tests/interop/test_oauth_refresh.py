"""Refresh tokens that are good once, and the many who want to use them."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List

import pytest

import mcpsync
from mcpsync.auth._records import Token
from mcpsync.auth.authorizer import LEEWAY

from . import authservers
from .accounts import ANSWER, Account, difference, echo
from .authservers import AuthorizationServer, ProtectedServer

THREADS = 8

Eventually = Callable[[Callable[[], object]], None]


@pytest.fixture(scope="module", params=["oidc_provider", "mcp_auth_server"])
def authority(request: pytest.FixtureRequest) -> Iterator[AuthorizationServer]:
    with getattr(authservers, request.param)() as server:
        yield server


@pytest.fixture(scope="module")
def protected(authority: AuthorizationServer) -> Iterator[ProtectedServer]:
    with authservers.protected_server(authority) as server:
        yield server


@pytest.fixture
def account(
    authority: AuthorizationServer, protected: ProtectedServer, tmp_path: Path
) -> Account:
    found = Account(authority, protected, tmp_path)
    found.log_in()
    return found


class Watch:
    """What an authorization server was asked while a block ran."""

    def __init__(self, account: Account) -> None:
        self._authority = account.authority

    def __enter__(self) -> Watch:
        self._before = self._authority.counters()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._counted = difference(self._authority.counters(), self._before)

    @property
    def refreshes(self) -> int:
        """How many refresh tokens were exchanged."""
        found: int = self._counted.get("token_grants", {}).get("refresh_token", 0)
        return found

    @property
    def refused(self) -> List[Any]:
        """The token requests that were refused, where the server tells."""
        log = self._counted.get("token_log", [])
        return [entry for entry in log if entry["status"] != 200]

    @property
    def logins(self) -> int:
        """How many codes were given."""
        found: int = self._counted.get("authorizations", 0)
        return found


def goes_on(account: Account) -> None:
    """Check that the newest refresh token is good: nobody has used an older one."""
    account.expire()
    with Watch(account) as watch, account.connect() as client:
        assert echo(client) == ANSWER
    assert (watch.refreshes, watch.logins) == (1, 0)


def ends_within(token: Token, seconds: float) -> bool:
    """Return whether there are not so many seconds left of a token."""
    assert token.expires_at is not None
    return token.expires_at - seconds <= time.time()


def together(number: int, work: Any) -> List[Any]:
    """Return what a number of threads return that begin at one moment."""
    barrier = threading.Barrier(number)

    def begin(_: int) -> Any:
        barrier.wait(60)
        return work()

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(begin, range(number)))


# --- one process --------------------------------------------------------------------


def test_a_start_with_an_expired_token_takes_one_refresh(account: Account) -> None:
    account.expire()
    spent = account.credentials().token
    with Watch(account) as watch:
        told = account.run(oauth={"flow": "browser", "store": "file"}, calls=2)
    assert told == {"answers": [ANSWER, ANSWER]}
    assert (watch.refreshes, watch.logins, watch.refused) == (1, 0, [])
    assert not account.opened.exists()
    # Kept for the next one.
    token = account.credentials().token
    assert token.refresh_token not in (None, spent.refresh_token)
    with Watch(account) as watch:
        assert account.run() == {"answers": [ANSWER]}
    assert watch.refreshes == 0
    goes_on(account)


def test_threads_with_clients_of_their_own_share_a_refresh(account: Account) -> None:
    account.expire()
    config = account.oauth()

    def use() -> object:
        with mcpsync.connect(account.url, auth=config) as client:
            return echo(client)

    with Watch(account) as watch:
        assert together(THREADS, use) == [ANSWER] * THREADS
    assert (watch.refreshes, watch.refused) == (1, [])
    goes_on(account)


def test_threads_of_one_client_share_a_refresh(
    account: Account, eventually: Eventually
) -> None:
    account.expire(LEEWAY + 1)
    ending = account.credentials().token
    with Watch(account) as watch, account.connect() as client:
        assert echo(client) == ANSWER
        eventually(lambda: ends_within(ending, LEEWAY))
        answers = together(THREADS, lambda: echo(client))
    assert answers == [ANSWER] * THREADS
    assert (watch.refreshes, watch.refused) == (1, [])
    goes_on(account)


def test_threads_whose_token_is_refused_share_a_refresh(account: Account) -> None:
    account.spoil()
    config = account.oauth()

    def use() -> object:
        with mcpsync.connect(account.url, auth=config) as client:
            return echo(client)

    before = account.server.stats()["unauthorized"]
    with Watch(account) as watch:
        assert together(THREADS, use) == [ANSWER] * THREADS
    assert (watch.refreshes, watch.refused, watch.logins) == (1, [], 0)
    assert 1 <= account.server.stats()["unauthorized"] - before <= THREADS
    goes_on(account)


@pytest.mark.parametrize("authority", ["oidc_provider"], indirect=True)
def test_a_caller_who_waits_no_longer_leaves_the_refresh_running(
    account: Account, eventually: Eventually
) -> None:
    account.expire(LEEWAY + 3)
    ending = account.credentials().token
    with account.connect() as client:
        eventually(lambda: ends_within(ending, LEEWAY))
        account.authority.fault(delay_ms=3_000)
        with Watch(account) as watch:
            with pytest.raises(mcpsync.RequestTimeout):
                client.call_tool("echo", {"message": "hello"}, timeout=0.5)
            assert account.credentials().token == ending
            # Who comes later waits for the same answer.
            assert echo(client) == ANSWER
        assert (watch.refreshes, watch.refused) == (1, [])
    assert account.credentials().token.refresh_token != ending.refresh_token
    goes_on(account)


@pytest.mark.parametrize("authority", ["oidc_provider"], indirect=True)
@pytest.mark.parametrize(
    "fault", [{"drop_before": True}, {"status": 503, "retry_after": 1}], ids=str
)
def test_a_refresh_that_fails_for_now_costs_no_login(
    account: Account, fault: Dict[str, Any]
) -> None:
    account.expire()
    account.authority.fault(times=2, **fault)
    with pytest.raises(mcpsync.TokenError) as caught:
        with account.connect():
            pass
    assert caught.value.retryable
    # Faults that are left do not concern the next test.
    with Watch(account) as watch:
        for _ in range(2):
            with suppress(mcpsync.TokenError), account.connect():
                break
        with account.connect() as client:
            assert echo(client) == ANSWER
    assert (watch.refreshes, watch.logins, watch.refused) == (1, 0, [])
    goes_on(account)


# --- processes ----------------------------------------------------------------------


@pytest.mark.parametrize("processes, threads", [(2, 1), (6, 4)])
def test_processes_share_a_refresh(
    account: Account, processes: int, threads: int
) -> None:
    account.expire()
    if "token_pending" in account.authority.counters():
        # Long enough for all of them to come.
        account.authority.fault(delay_ms=500)
    with Watch(account) as watch:
        told = account.run_together(processes, threads=threads)
    assert told == [{"answers": [ANSWER] * threads}] * processes
    assert (watch.refreshes, watch.logins, watch.refused) == (1, 0, [])
    assert not account.opened.exists()
    goes_on(account)


def test_a_process_that_goes_on_takes_what_another_has_refreshed(
    account: Account, eventually: Eventually
) -> None:
    account.expire(LEEWAY + 1)
    ending = account.credentials().token
    with Watch(account) as watch, account.connect() as client:
        assert echo(client) == ANSWER
        eventually(lambda: ends_within(ending, LEEWAY))
        assert account.run() == {"answers": [ANSWER]}
        assert echo(client) == ANSWER
    assert (watch.refreshes, watch.refused) == (1, [])
    goes_on(account)


# --- tokens that end soon -----------------------------------------------------------


@pytest.mark.parametrize("start", ["oidc_provider", "mcp_auth_server"])
def test_calls_go_on_while_tokens_end(
    start: str, tmp_path: Path, eventually: Eventually
) -> None:
    with getattr(authservers, start)("--access-token-ttl", "2") as authority:
        with authservers.protected_server(authority) as server:
            account = Account(authority, server, tmp_path)
            account.log_in()
            with Watch(account) as watch, account.connect() as client:
                for _ in range(3):
                    token = account.credentials().token
                    # Over, whatever anybody thinks of the seconds before.
                    eventually(lambda: ends_within(token, 0))
                    assert together(4, lambda: echo(client)) == [ANSWER] * 4
            assert watch.refreshes >= 3
            assert (watch.logins, watch.refused) == (0, [])
            assert account.run(threads=2, calls=2) == {"answers": [ANSWER] * 4}
