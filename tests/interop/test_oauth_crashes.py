"""Programs that are killed while they refresh, and what the next one finds."""

from __future__ import annotations

import itertools
import signal
from pathlib import Path
from typing import Any, Callable, Dict, Iterator

import pytest

import mcpsync

from . import authservers
from .accounts import ANSWER, Account, difference, echo
from .authservers import AuthorizationServer, ProtectedServer

ROUNDS = 20

Eventually = Callable[[Callable[[], object]], None]

# Where a program is killed, and whether a person must log in again: that is so for as
# long as the server alone knows the new refresh token. One of several each time.
MOMENTS = {
    "before the request": (["before_the_request"], False),
    "after the answer": (["after_the_answer"], True),
    "while it saves": (["half_written", "not_synchronized", "not_in_place"], True),
    "when it has replaced the file": (["in_place"], False),
    "when it has saved": (["saved"], False),
}


@pytest.fixture(scope="module")
def oidc() -> Iterator[AuthorizationServer]:
    with authservers.oidc_provider() as authority:
        yield authority


@pytest.fixture(scope="module")
def protected(oidc: AuthorizationServer) -> Iterator[ProtectedServer]:
    with authservers.protected_server(oidc) as server:
        yield server


@pytest.fixture
def account(
    oidc: AuthorizationServer, protected: ProtectedServer, tmp_path: Path
) -> Account:
    found = Account(oidc, protected, tmp_path)
    found.log_in()
    return found


def refreshes(account: Account) -> Dict[str, int]:
    """Return how often the server was asked for a refresh, and granted one."""
    counters: Dict[str, Any] = account.authority.counters()
    names = ("token_requests", "token_grants")
    return {name: counters[name].get("refresh_token", 0) for name in names}


def check_the_next_start(account: Account, login: bool) -> Dict[str, int]:
    """Start once more, with a login if that must be; return what was refreshed."""
    assert isinstance(account.document(), dict)
    before = refreshes(account)
    if login:
        with pytest.raises(mcpsync.LoginRequired):
            with account.connect():
                pass
        counted = difference(refreshes(account), before)
        account.log_in()
    with account.connect() as client:
        assert echo(client) == ANSWER
    if not login:
        counted = difference(refreshes(account), before)
    assert not account.opened.exists()
    return counted


@pytest.mark.parametrize("moment", MOMENTS)
def test_a_program_is_killed_at_a_certain_moment(account: Account, moment: str) -> None:
    stops, login = MOMENTS[moment]
    for _, stop in zip(range(ROUNDS), itertools.cycle(stops)):
        account.expire()
        spent = account.credentials().token
        before = refreshes(account)
        with account.start(stop=stop) as program:
            assert program.status() == -signal.SIGKILL
        counted = difference(refreshes(account), before)
        asked = {} if stop == "before_the_request" else {name: 1 for name in before}
        assert counted == asked
        is_new = account.credentials().token.refresh_token != spent.refresh_token
        assert is_new == (stop in ("in_place", "saved"))
        counted = check_the_next_start(account, login)
        if is_new:
            assert counted == {}
        elif login:
            # Refused once; nobody tries the spent token again.
            assert counted == {"token_requests": 1}
        else:
            assert counted == {"token_requests": 1, "token_grants": 1}


def test_a_program_is_killed_while_the_answer_is_under_way(
    account: Account, eventually: Eventually
) -> None:
    for _ in range(ROUNDS):
        account.expire()
        before = refreshes(account)
        account.authority.fault(delay_ms=600_000)
        with account.start() as program:
            eventually(lambda: refreshes(account) != before)
            program.kill()
        eventually(lambda: account.authority.counters()["token_pending"] == 0)
        # The server has granted it; nobody has it.
        counted = difference(refreshes(account), before)
        assert counted == {"token_requests": 1, "token_grants": 1}
        assert check_the_next_start(account, True) == {"token_requests": 1}


def test_nothing_but_the_file_is_left_of_programs_that_were_killed(
    account: Account,
) -> None:
    for stops, login in MOMENTS.values():
        for stop in stops:
            account.expire()
            with account.start(stop=stop) as program:
                assert program.status() == -signal.SIGKILL
            check_the_next_start(account, login)
    names = {entry.name for entry in account.home.iterdir()}
    left = {name for name in names if name.endswith(".tmp")}
    assert names - left == {".credentials.json", "mcp-oauth-locks"}
    assert all((account.home / name).stat().st_mode & 0o077 == 0 for name in names)
