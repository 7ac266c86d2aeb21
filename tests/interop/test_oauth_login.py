"""Logins of people at authorization servers of other projects."""

from __future__ import annotations

import json
import logging
import stat
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Dict, Iterator

import pytest

import mcpsync

from . import authservers
from .accounts import ANSWER, BROWSER, Account, difference, echo
from .authservers import AuthorizationServer, ProtectedServer
from .browser import sign_in
from .flow import REDIRECT_URI, Login, query_of

#: Where these tests are, wherever the package is installed.
TESTS = Path(__file__).resolve().parents[2]

DENIAL = """
import sys
sys.path.insert(0, {root!r})
from tests.interop.browser import sign_in
import requests
target = sign_in(sys.argv[1], deny=True)
session = requests.Session()
session.trust_env = False
session.get(target, timeout=60)
session.close()
"""


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


# --- a browser of this machine ------------------------------------------------------


@pytest.mark.parametrize("store", ["file", "auto"])
def test_a_browser_logs_in_once_for_this_process_and_the_next(
    account: Account, store: str
) -> None:
    before = account.authority.counters()
    login = {"flow": "browser", "store": store}
    assert account.run({"BROWSER": BROWSER}, oauth=login, calls=2) == {
        "answers": [ANSWER, ANSWER]
    }
    assert stat.S_IMODE(account.file.stat().st_mode) == 0o600
    counted = difference(account.authority.counters(), before)
    assert (counted["registrations"], counted["authorizations"]) == (1, 1)
    assert counted["token_grants"] == {"authorization_code": 1}

    before = account.authority.counters()
    assert account.run(oauth=login) == {"answers": [ANSWER]}
    # A program that says nothing of authorization has the login as well.
    assert account.run() == {"answers": [ANSWER]}
    counted = difference(account.authority.counters(), before)
    assert set(counted) <= {"introspections"}
    assert not account.opened.exists()


def test_threads_that_all_need_a_login_share_one(account: Account) -> None:
    before = account.authority.counters()
    login = {"flow": "browser", "store": "file"}
    told = account.run({"BROWSER": BROWSER}, oauth=login, threads=4)
    assert told == {"answers": [ANSWER] * 4}
    counted = difference(account.authority.counters(), before)
    assert (counted["registrations"], counted["authorizations"]) == (1, 1)


def test_a_user_who_cancels_ends_the_login(account: Account) -> None:
    script = account.home / "cancel.py"
    script.write_text(DENIAL.format(root=str(TESTS)))
    told = account.run(
        {"BROWSER": f"{sys.executable} {script} %s"},
        oauth={"flow": "browser", "store": "file"},
    )
    assert told["error"] == "AuthorizationError"
    assert "the login was denied: access_denied" in told["message"]
    assert account.stored() is None


def test_the_browser_may_be_one_of_this_program(account: Account) -> None:
    def log_in(url: str) -> str:
        return sign_in(url)

    with account.connect(flow=log_in) as client:
        assert echo(client) == ANSWER
    with account.connect() as client:
        assert echo(client) == ANSWER


# --- two steps ----------------------------------------------------------------------


def test_a_login_begun_here_is_finished_there(account: Account) -> None:
    pending = account.oauth(redirect_uri=REDIRECT_URI).begin(account.url)
    kept = json.dumps(pending.to_json())
    answer = sign_in(pending.authorization_url)
    # Another web worker: nothing but the text and the store is common to the two.
    config = account.oauth(redirect_uri=REDIRECT_URI)
    credentials = config.finish(json.loads(kept), answer)
    assert credentials.issuer == account.authority.issuer
    assert credentials.token.scope == ("mcp:read",)
    # The file has whole milliseconds.
    kept_token = account.credentials().token
    assert kept_token.access_token == credentials.token.access_token
    assert kept_token.refresh_token == credentials.token.refresh_token
    with account.connect() as client:
        assert echo(client) == ANSWER


def test_a_login_is_finished_once(account: Account) -> None:
    config = account.oauth(redirect_uri=REDIRECT_URI)
    pending = config.begin(account.url)
    answer = sign_in(pending.authorization_url)
    config.finish(pending, answer)
    with pytest.raises(mcpsync.TokenError) as caught:
        config.finish(pending, answer)
    assert caught.value.error == "invalid_grant"


def test_a_user_who_cancels_ends_a_login_in_two_steps(account: Account) -> None:
    config = account.oauth(redirect_uri=REDIRECT_URI)
    pending = config.begin(account.url)
    answer = sign_in(pending.authorization_url, deny=True)
    with pytest.raises(mcpsync.AuthorizationError, match="access_denied"):
        config.finish(pending, answer)
    assert account.stored() is None


def test_an_answer_to_another_login_is_none(account: Account) -> None:
    config = account.oauth(redirect_uri=REDIRECT_URI)
    pending, other = (config.begin(account.url) for _ in range(2))
    answer = sign_in(other.authorization_url)
    before = account.authority.counters()
    with pytest.raises(mcpsync.AuthorizationError):
        config.finish(pending, answer)
    # Nothing was asked of the server for it.
    assert account.authority.counters() == before
    config.finish(other, answer)


def test_nobody_is_asked_where_that_was_not_allowed(account: Account) -> None:
    with pytest.raises(mcpsync.LoginRequired) as caught:
        with account.connect():
            pass
    assert caught.value.server_url == account.url


@pytest.mark.parametrize("kind", ["public", "confidential"])
def test_a_logout_revokes_what_it_forgets(
    account: Account, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    client = registered(account) if kind == "confidential" else {}
    account.log_in(**client)
    refresh_token = account.credentials().token.refresh_token
    before = account.authority.counters()
    with account.connect(**client) as connected:
        assert echo(connected) == ANSWER
        assert account.oauth(**client).logout(account.url) is True
        assert account.stored() is None
        # The Python SDK's endpoint wants a secret even of those who have none.
        if "confidential" == kind or "token_log" in before:
            counted = difference(account.authority.counters(), before)
            assert counted["revocations"] >= 1
            with pytest.raises(mcpsync.LoginRequired):
                echo(connected)
        else:
            assert "the token revocation at" in caplog.text
    with pytest.raises(mcpsync.LoginRequired):
        with account.connect(**client):
            pass
    kept = account.file.read_text() if account.file.exists() else ""
    assert refresh_token not in kept
    assert account.oauth().logout(account.url) is False


def registered(account: Account) -> Dict[str, str]:
    """Return how a client is configured that somebody registered by hand."""
    login = Login(account.authority, account.url)
    made = login.register(token_endpoint_auth_method="client_secret_post")
    return {
        "client_id": made["client_id"],
        "client_secret": made["client_secret"],
        "client_auth_method": "client_secret_post",
        "issuer": account.authority.issuer,
    }


# --- secrets ------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["public", "confidential"])
def test_no_secret_of_a_login_is_shown(
    account: Account, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    client = registered(account) if kind == "confidential" else {}
    config = account.oauth(redirect_uri=REDIRECT_URI, **client)
    pending = config.begin(account.url)
    answer = sign_in(pending.authorization_url)
    first = config.finish(pending, answer)
    account.expire()
    with mcpsync.connect(account.url, auth=config) as connected:
        echo(connected)
        second = account.credentials()
        shown = [repr(one) for one in (config, pending, first, second, connected)]
    with pytest.raises(mcpsync.TokenError) as caught:
        config.finish(pending, answer)
    shown += [str(caught.value), repr(caught.value), str(vars(caught.value))]
    config.logout(account.url)
    secrets = [pending.verifier, query_of(answer)["code"]]
    for token in (first.token, second.token):
        secrets += [token.access_token, str(token.refresh_token)]
    secrets += [client["client_secret"]] if client else []
    assert first.token.refresh_token != second.token.refresh_token
    text = "\n".join([caplog.text, *shown])
    assert [secret for secret in secrets if secret in text] == []
    assert len(text) > 1000


# --- calls --------------------------------------------------------------------------


def test_calls_with_a_login_run_side_by_side(account: Account) -> None:
    account.log_in()
    together = threading.Barrier(5)
    with account.connect() as client:

        def call(number: int) -> object:
            together.wait(60)
            return client.call_tool("wait", {"seconds": 1}).data

        with ThreadPoolExecutor(5) as pool:
            assert list(pool.map(call, range(5))) == [{"waited": 1}] * 5
    assert account.server.stats()["max_in_flight"] == 5
