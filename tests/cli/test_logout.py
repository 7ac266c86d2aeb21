"""``mcpsync logout``: what was kept is revoked, and gone."""

from __future__ import annotations

import pytest

from ..fakes import CANARY
from ..fakes.scripted_http import Reply
from .signing_in import Place, run_secretly


@pytest.fixture
def here(run):
    """Run a command in this process; no secret may come out of it."""

    def here(*words):
        ran = run(*words)
        assert CANARY not in ran.out
        assert CANARY not in ran.err
        return ran

    return here


@pytest.fixture
def place(tmp_path, monkeypatch, here):
    with Place(tmp_path / "home", monkeypatch) as place:
        assert here("login", place.url).code == 0
        yield place


def test_tokens_are_revoked_and_forgotten(place):
    token = place.kept().token
    ran = run_secretly("logout", place.url, "-vv")
    assert (ran.code, ran.out) == (0, "logged out of %s\n" % place.name)
    assert sorted(place.issuer.revoked) == sorted(
        [token.access_token, token.refresh_token]
    )
    assert place.kept() is None
    assert token.access_token not in place.file.read_text()
    ran = run_secretly("tools", place.url)
    assert ran.code == 3
    assert "`mcpsync login %s`" % place.url in ran.err
    ran = run_secretly("logout", place.url)
    assert (ran.code, ran.out) == (0, "there was no login to %s\n" % place.name)
    assert len(place.issuer.revoked) == 2


def test_logging_out_as_json(place, here):
    for found in (True, False):
        ran = here("logout", place.url, "--output", "json")
        assert (ran.code, ran.err) == (0, "")
        assert ran.result == {
            "server": place.name,
            "url": place.url,
            "loggedOut": found,
        }


@pytest.mark.parametrize("status", [503, 400])
def test_tokens_that_cannot_be_revoked_are_forgotten(place, here, status):
    place.issuer.routes["/revoke"] = Reply(status)
    ran = here("logout", place.url)
    assert (ran.code, ran.out) == (0, "logged out of %s\n" % place.name)
    assert place.kept() is None


def test_an_authorization_server_that_cannot_be_found(place, here):
    place.issuer.routes.clear()
    ran = here("logout", place.url)
    assert (ran.code, ran.out) == (0, "logged out of %s\n" % place.name)
    assert "could not be revoked" in ran.err
    assert place.kept() is None


def test_the_login_in_the_file_alone(place, here):
    ran = here("logout", place.url, "--store", "file")
    assert (ran.code, ran.out, ran.err) == (
        *(0, "logged out of %s\n" % place.name),
        "",
    )
    assert place.kept() is None


def test_a_keyring_that_is_not_there_has_nothing_to_log_out_of(place, here):
    ran = here("logout", place.url, "--store", "keyring", "--output", "json")
    assert (ran.code, ran.error["code"]) == (1, "keyring_unavailable")
    assert place.kept() is not None


def test_another_login_stays(place, here):
    assert here("login", place.url, "--name", "other").code == 0
    ran = here("logout", place.url, "--name", "other")
    assert (ran.code, ran.out) == (0, "logged out of other\n")
    assert place.kept("other") is None
    assert here("tools", place.url).code == 0
