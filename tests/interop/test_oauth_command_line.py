"""Logins from the command line, by people at terminals and by browsers."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from . import authservers
from .accounts import BROWSER, PROGRAM, Account, difference
from .authservers import AuthorizationServer, ProtectedServer
from .browser import sign_in

MCPSYNC = [sys.executable, "-X", "dev", "-W", "error", "-m", "mcpsync"]
PROMPT = "Paste the address here: "
AUTHORIZATION = 3


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
    return Account(authority, protected, tmp_path)


class Terminal:
    """A terminal with a command that runs in it. A context manager."""

    def __init__(self, argv: List[str], environment: Dict[str, str]) -> None:
        self._master, slave = pty.openpty()
        self._shown = ""
        try:
            self._popen = subprocess.Popen(
                argv,
                stdin=slave,
                stdout=slave,
                stderr=slave,
                env={**environment, "TERM": "dumb"},
                start_new_session=True,
            )
        except BaseException:
            os.close(self._master)
            raise
        finally:
            os.close(slave)

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._popen.kill()
        self._popen.wait(PROGRAM)
        os.close(self._master)

    def read_until(self, text: str) -> str:
        """Return what it shows up to a text, which it must show."""
        end = time.monotonic() + PROGRAM
        while text not in self._shown:
            assert self._read(end), self._shown
        before, self._shown = self._shown.split(text, 1)
        return before

    def _read(self, end: float) -> bool:
        ready = select.select([self._master], [], [], end - time.monotonic())[0]
        assert ready, "it shows nothing more: " + self._shown
        data = b""
        try:
            data = os.read(self._master, 4096)
        except OSError as error:
            # Nobody has the other end open any more.
            if error.errno != errno.EIO:
                raise
        self._shown += data.decode(errors="replace")
        return bool(data)

    def enter(self, line: str) -> None:
        """Type a line."""
        data = line.encode() + b"\n"
        while data:
            data = data[os.write(self._master, data) :]

    def status(self) -> int:
        """Wait for the end, and return the exit code."""
        end = time.monotonic() + PROGRAM
        while self._read(end):
            pass
        return self._popen.wait(PROGRAM)

    @property
    def shown(self) -> str:
        """What it has shown since the text that was waited for."""
        return self._shown


def mcpsync(account: Account, *words: str, **environment: str) -> Any:
    """Run a command without a terminal."""
    return subprocess.run(
        [*MCPSYNC, *words],
        env=account.environment(**environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=PROGRAM,
        text=True,
    )


@contextlib.contextmanager
def at_a_terminal(account: Account, *words: str) -> Iterator[Terminal]:
    """Run a command in a terminal."""
    with Terminal([*MCPSYNC, *words], account.environment()) as terminal:
        yield terminal


def url_of(shown: str) -> str:
    """Return the address that a person is to open."""
    (url,) = re.findall(r"https?://\S+\?\S+", shown)
    found: str = url
    return found


def paste_login(account: Account) -> None:
    """Log in at a terminal, with a browser of another machine."""
    words = ("login", account.url, "--no-browser", "--store", "file")
    with at_a_terminal(account, *words) as terminal:
        url = url_of(terminal.read_until(PROMPT))
        terminal.enter(sign_in(url))
        assert terminal.status() == 0
        assert "logged in to " + account.name in terminal.shown
        assert str(account.credentials().token.refresh_token) not in terminal.shown


def test_a_login_by_a_pasted_address_is_there_for_other_commands(
    account: Account,
) -> None:
    before = account.authority.counters()
    paste_login(account)
    listed = mcpsync(account, "tools", account.url)
    assert (listed.returncode, listed.stderr) == (0, "")
    assert "echo" in listed.stdout
    called = mcpsync(account, "call", account.url, "echo", "message=hello")
    assert called.returncode == 0, called.stderr
    assert "ECHOING: hello" in called.stdout
    account.expire()
    assert mcpsync(account, "tools", account.url).returncode == 0
    counted = difference(account.authority.counters(), before)
    assert counted["authorizations"] == 1
    assert counted["token_grants"] == {"authorization_code": 1, "refresh_token": 1}
    assert not account.opened.exists()


def test_a_logout_revokes_and_forgets(account: Account) -> None:
    paste_login(account)
    token = account.credentials().token
    before = account.authority.counters()
    ended = mcpsync(account, "logout", account.url, "--store", "file")
    assert ended.returncode == 0, ended.stderr
    assert "logged out of " + account.name in ended.stdout
    assert account.stored() is None
    for secret in (token.access_token, token.refresh_token):
        assert str(secret) not in ended.stdout + ended.stderr
    # The Python SDK's endpoint wants a secret even of those who have none.
    if "token_log" in before:
        counted = difference(account.authority.counters(), before)
        assert counted["revocations"] >= 1
    refused = mcpsync(account, "tools", account.url)
    assert refused.returncode == AUTHORIZATION
    assert "mcpsync login" in refused.stderr
    again = mcpsync(account, "logout", account.url)
    assert again.returncode == 0
    assert "no login" in again.stdout


def test_an_address_of_another_login_is_asked_for_again(account: Account) -> None:
    words = ("login", account.url, "--no-browser", "--store", "file")
    with at_a_terminal(account, *words) as terminal:
        url = url_of(terminal.read_until(PROMPT))
        answer = sign_in(url)
        terminal.enter(re.sub(r"state=[^&]+", "state=another", answer))
        terminal.read_until("Please try again")
        terminal.read_until(PROMPT)
        terminal.enter(answer)
        assert terminal.status() == 0
    assert mcpsync(account, "tools", account.url).returncode == 0


def test_a_user_who_cancels_is_told_so(account: Account) -> None:
    words = ("login", account.url, "--no-browser", "--store", "file")
    with at_a_terminal(account, *words) as terminal:
        url = url_of(terminal.read_until(PROMPT))
        terminal.enter(sign_in(url, deny=True))
        assert terminal.status() == AUTHORIZATION
        assert "access_denied" in terminal.shown
    assert account.stored() is None


def test_a_browser_logs_in_for_the_command_line(account: Account) -> None:
    words = ("login", account.url, "--store", "file", "--output", "json")
    login = mcpsync(account, *words, BROWSER=BROWSER)
    assert login.returncode == 0, login.stderr
    told = json.loads(login.stdout)["result"]
    assert told["issuer"] == account.authority.issuer
    assert (told["url"], told["refreshable"]) == (account.url, True)
    assert "mcp:read" in told["scopes"]
    listed = mcpsync(account, "tools", account.url)
    assert (listed.returncode, listed.stderr) == (0, "")


def test_a_login_may_ask_for_more(account: Account) -> None:
    login = mcpsync(
        account, "login", account.url, "--scopes", "mcp:write", BROWSER=BROWSER
    )
    assert login.returncode == 0, login.stderr
    assert set(account.credentials().token.scope or ()) >= {"mcp:read", "mcp:write"}


def test_nobody_is_asked_to_paste_without_a_terminal(account: Account) -> None:
    before = account.authority.counters()
    login = mcpsync(account, "login", account.url, "--no-browser")
    assert login.returncode == AUTHORIZATION
    assert "terminal" in login.stderr
    assert account.authority.counters() == before
