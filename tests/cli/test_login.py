"""``mcpsync login``: with a browser or without, and what is kept of it."""

from __future__ import annotations

import json
import socket
import stat
from urllib.parse import parse_qs, urlsplit

import pytest

from ..auth.authority import outage, refusal
from ..auth.logins import free_port
from ..fakes import CANARY
from ..fakes.scripted_http import Reply, ScriptedServer
from .running import PATIENCE, Terminal, interrupt, started
from .signing_in import Place, run_secretly, served

SECRET = CANARY + "-secret"


@pytest.fixture
def place(tmp_path, monkeypatch):
    with Place(tmp_path / "home", monkeypatch) as place:
        yield place


@pytest.fixture
def here(run):
    """Run a command in this process; no secret may come out of it."""

    def here(*words):
        ran = run(*words)
        assert CANARY not in ran.out
        assert CANARY not in ran.err
        return ran

    return here


# --- with a browser ---------------------------------------------------------------


def test_a_login_with_a_browser_serves_other_processes(place):
    ran = run_secretly("login", place.url)
    assert (ran.code, ran.out) == (0, "logged in to %s\n" % place.name)
    assert "To log in to %s, open this page:\n" % place.name in ran.err
    assert place.login_url(ran.err).startswith(place.issuer.base + "/authorize?")
    ran = run_secretly("tools", place.url)
    assert (ran.code, ran.out, ran.err) == (0, "echo  Echo.\n", "")
    ran = run_secretly("call", place.url, "echo")
    assert (ran.code, ran.out, ran.err) == (0, "called\n", "")
    assert len(place.issuer.logins) == 1
    token = place.kept().token.access_token
    assert place.resource.carried[0] is None
    assert set(place.resource.carried[1:]) == {"Bearer " + token}


def test_a_login_as_json(place):
    ran = run_secretly("login", place.url, "--output", "json", "--scopes", "a")
    assert ran.code == 0
    assert ran.out.count("\n") == 1
    assert ran.result == {
        "server": place.name,
        "url": place.url,
        "issuer": place.issuer.base,
        "clientId": "client-1",
        "scopes": ["a"],
        "refreshable": True,
    }
    # Nothing but what the person needs whose browser does not open.
    assert ran.err.split("\n\n")[0] == "To log in to %s, open this page:" % place.name


def test_the_most_verbose_login_shows_no_secret(place):
    ran = run_secretly(
        *("login", place.url, "-vv", "--client-id", "x"),
        *("--client-secret-from-env", "SECRET"),
        SECRET=SECRET,
    )
    assert ran.code == 0
    assert "credentials are kept in the file" in ran.err
    (form,) = place.issuer.forms
    assert form["client_secret"] == SECRET
    assert form["code_verifier"] not in ran.err
    assert run_secretly("tools", place.url, "-vv").code == 0
    place.issuer.faults = [refusal("invalid_client")]
    words = ["login", place.url, "-vv", "--client-id", "x"]
    ran = run_secretly(*words, "--client-secret-from-env", "SECRET", SECRET=SECRET)
    assert ran.code == 3
    assert "Traceback" in ran.err
    assert "invalid_client" in ran.err


def test_another_login_takes_the_place_of_the_first(place, here):
    assert here("login", place.url, "--scopes", "a").code == 0
    first = place.kept()
    assert here("login", place.url, "--scopes", "a").code == 0
    second = place.kept()
    assert second.token.access_token != first.token.access_token
    assert place.issuer.registered == ["client-1"]
    # What was asked for once is still needed.
    assert here("login", place.url, "--scopes", "b").code == 0
    assert sorted(place.issuer.logins[2]["scope"].split()) == ["a", "b"]


def test_a_login_without_a_refresh_token(place, here):
    answer = {"access_token": CANARY, "token_type": "Bearer", "expires_in": 60}
    reply = Reply(
        200, {"Content-Type": "application/json"}, json.dumps(answer).encode()
    )
    place.issuer.faults = [reply]
    ran = here("login", place.url)
    assert ran.code == 0
    assert "no refresh token, so this login will expire" in ran.out
    place.issuer.faults = [reply]
    ran = here("login", place.url, "--output", "json")
    assert ran.result["refreshable"] is False


def test_a_denied_login(place):
    place.issuer.deny = True
    ran = run_secretly("login", place.url)
    assert (ran.code, ran.out) == (3, "")
    last = ran.err.splitlines()[-1]
    # What to do is not to do the same again.
    assert last.startswith("mcpsync: authorization server %s" % place.issuer.base)
    assert "the login was denied: access_denied: No." in last
    assert place.kept() is None


def test_a_denied_login_as_json(place, here):
    place.issuer.deny = True
    ran = here("login", place.url, "--output", "json")
    assert (ran.code, ran.out) == (3, "")
    error = json.loads(ran.err.splitlines()[-1])["error"]
    assert (error["code"], error["server"]) == ("authorization_error", place.name)
    assert "access_denied: No." in error["message"]


def test_a_browser_that_cannot_be_opened(place, monkeypatch):
    monkeypatch.setenv("BROWSER", "/nonexistent/browser")
    with started("login", place.url) as process:
        lines = iter(process.stderr.readline, b"")
        shown = "".join(_until("No browser could be opened from here", lines))
        back = place.issuer.log_in(place.login_url(shown))
        _visit(back)
        assert process.wait(PATIENCE) == 0
    assert place.kept() is not None


def _until(text, lines):
    """Yield lines until there is one with the text."""
    for line in lines:
        shown = line.decode("utf-8")
        yield shown
        if text in shown:
            return
    raise AssertionError("%r never came" % text)


def _visit(url):
    """Be the browser that comes back from a login."""
    parts = urlsplit(url)
    with socket.create_connection((parts.hostname, parts.port), PATIENCE) as sock:
        target = "%s?%s" % (parts.path, parts.query)
        head = "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (target, parts.netloc)
        sock.sendall(head.encode("ascii"))
        assert sock.recv(100).startswith(b"HTTP/1.1 200")


# --- without a browser ------------------------------------------------------------

PASTE = "Paste the address here: "


def test_the_address_is_pasted(place, monkeypatch):
    monkeypatch.setenv("BROWSER", "/nonexistent/browser")
    with Terminal("login", place.url, "--no-browser", "--no-color") as terminal:
        terminal.expect(PASTE)
        assert "Copy its whole address from the address bar." in terminal.text
        terminal.type("http://127.0.0.1:1/nothing?code=x")
        terminal.expect("Please try again.")
        terminal.expect(PASTE)
        terminal.type(place.issuer.log_in(place.login_url(terminal.text)))
        assert terminal.finish() == 0
    assert terminal.text.endswith("\nlogged in to %s\n" % place.name)
    assert run_secretly("tools", place.url).code == 0


def test_pasting_leaves_standard_output_to_the_result(place, tmp_path):
    words = ["login", place.url, "--no-browser", "--output", "json"]
    with open(tmp_path / "out", "wb") as out, Terminal(*words, stdout=out) as terminal:
        terminal.expect(PASTE)
        terminal.type(place.issuer.log_in(place.login_url(terminal.text)))
        assert terminal.finish() == 0
    value = json.loads((tmp_path / "out").read_text())
    assert value["result"]["server"] == place.name


def test_a_denied_login_that_is_pasted(place):
    place.issuer.deny = True
    with Terminal("login", place.url, "--no-browser", "--no-color") as terminal:
        terminal.expect(PASTE)
        terminal.type(place.issuer.log_in(place.login_url(terminal.text)))
        assert terminal.finish() == 3
    assert "the login was denied: access_denied: No." in terminal.text
    assert place.kept() is None


def test_the_end_of_the_input_ends_the_login(place):
    with Terminal("login", place.url, "--no-browser", "--no-color") as terminal:
        terminal.expect(PASTE)
        terminal.type("\x04")
        assert terminal.finish() == 3
    assert "the login was not finished: nobody can be asked here" in terminal.text


def test_nothing_is_sent_where_nobody_can_paste(place, tmp_path):
    ran = run_secretly("login", place.url, "--no-browser")
    assert (ran.code, ran.out) == (3, "")
    assert "there is no terminal here" in ran.err
    assert "`mcpsync login" not in ran.err
    ran = run_secretly("login", place.url, "--no-browser", "--output", "json")
    assert (ran.code, ran.out) == (3, "")
    assert (ran.error["code"], ran.error["server"]) == ("login_required", place.name)
    with open(tmp_path / "err", "wb") as err, Terminal(
        "login", place.url, "--no-browser", stderr=err
    ) as terminal:
        # The URL to open would go to the file.
        assert terminal.finish() == 3
    assert place.asked == []
    assert not place.home.exists()


# --- which login ------------------------------------------------------------------


def test_a_login_has_a_name(place, here):
    ran = here("login", place.url, "--name", "work", "--output", "json")
    assert (ran.code, ran.result["server"]) == (0, "work")
    assert place.kept("work") is not None
    assert place.kept() is None
    # It is found by that name alone.
    assert here("tools", place.url).code == 3
    assert here("logout", place.url).out == "there was no login to %s\n" % place.name
    ran = here("logout", place.url, "--name", "work")
    assert ran.out == "logged out of work\n"
    assert place.kept("work") is None


def test_scopes(place, here):
    words = ["login", place.url, "--scopes", "a b", "--scopes", "c,d"]
    ran = here(*words)
    assert ran.out == "logged in to %s with the scopes a b c d\n" % place.name
    assert place.issuer.logins[0]["scope"] == "a b c d"
    assert place.kept().requested_scopes == ("a", "b", "c", "d")


def test_the_scopes_that_were_granted_are_shown(place, here):
    place.issuer.grants = lambda scopes: scopes[:1]
    ran = here("login", place.url, "--scopes", "a b", "--output", "json")
    assert ran.result["scopes"] == ["a"]


@pytest.mark.parametrize("store", ["auto", "file"])
def test_a_login_is_kept_in_a_file(place, store):
    ran = run_secretly("login", place.url, "--store", store)
    assert ran.code == 0
    # Who meant the keyring hears that it is not there.
    assert ("the keyring cannot be used" in ran.err) == (store == "auto")
    assert stat.S_IMODE(place.file.stat().st_mode) == 0o600
    assert place.kept() is not None
    assert run_secretly("tools", place.url).code == 0


def test_nobody_logs_in_for_a_keyring_that_is_not_there(place, here):
    ran = here("login", place.url, "--store", "keyring", "--output", "json")
    assert (ran.code, ran.error["code"]) == (1, "keyring_unavailable")
    assert place.issuer.logins == []
    assert not place.file.exists()


@pytest.mark.parametrize("options", [[], ["--output", "json"]], ids=["text", "json"])
def test_a_login_that_cannot_be_kept_has_failed(place, here, options):
    def obstruct(form):
        place.file.unlink()
        place.file.mkdir()

    place.issuer.faults = [obstruct]
    ran = here("login", place.url, *options)
    assert len(place.issuer.asked_for("authorization_code")) == 1
    assert (ran.code, ran.out) == (1, "")
    assert "the login succeeded, but could not be kept" in ran.err.splitlines()[-1]


# --- clients that were registered by hand -----------------------------------------

SECRETIVE = ["--client-id", "by-hand", "--client-secret-from-env", "THE_SECRET"]


def test_a_secret_from_the_environment(place):
    place.issuer.lasts = 1
    ran = run_secretly("login", place.url, *SECRETIVE, THE_SECRET=SECRET)
    assert ran.code == 0
    (asked,) = place.issuer.logins
    assert asked["client_id"] == "by-hand"
    # What a browser is told can be seen by all of this machine.
    assert not any(CANARY in value for value in asked.values())
    assert place.issuer.registered == []
    # Another process refreshes the token, and the secret is not in its environment.
    assert run_secretly("tools", place.url).code == 0
    assert place.issuer.refreshes == 1
    assert {form["client_secret"] for form in place.issuer.forms} == {SECRET}


def test_a_secret_that_is_asked_for_is_not_shown(place):
    words = ["login", place.url, "--client-id", "by-hand", "--ask-secret", "-vv"]
    with Terminal(*words) as terminal:
        terminal.dialog(("Secret of the client: ", SECRET))
        assert terminal.finish() == 0
    assert "logged in to %s\n" % place.name in terminal.text
    assert CANARY not in terminal.text
    (form,) = place.issuer.forms
    assert (form["client_id"], form["client_secret"]) == ("by-hand", SECRET)


@pytest.mark.parametrize("line", ["", "\x04"], ids=["empty", "end"])
def test_no_secret(place, line):
    words = ["login", place.url, "--client-id", "x", "--ask-secret", "--no-color"]
    with Terminal(*words) as terminal:
        terminal.dialog(("Secret of the client: ", line))
        assert terminal.finish() == 2
    assert "mcpsync: no secret was given\n" in terminal.text
    assert place.asked == []


def test_a_secret_cannot_be_asked_for_without_a_terminal(place):
    ran = run_secretly("login", place.url, "--client-id", "x", "--ask-secret")
    assert (ran.code, ran.out) == (3, "")
    assert "--client-secret-from-env" in ran.err
    assert place.asked == []


def test_a_redirect_uri_and_an_issuer(place, here):
    uri = "http://127.0.0.1:%d/back" % free_port()
    words = ["login", place.url, "--client-id", "x", "--redirect-uri", uri]
    ran = here(*words, "--issuer", place.issuer.base)
    assert ran.code == 0
    assert place.issuer.logins[0]["redirect_uri"] == uri
    ran = here(*words, "--issuer", "https://another.example")
    assert ran.code == 3
    assert "https://another.example" in ran.err
    assert len(place.issuer.logins) == 1


# --- what is refused --------------------------------------------------------------

URL = "http://127.0.0.1:1/mcp"


@pytest.mark.parametrize(
    "words, why",
    [
        ([], "the URL of a server is needed"),
        (["npx"], "'npx' is no URL"),
        (["ftp://example.com/"], "a URL begins with http:// or https://"),
        ([URL, "more"], "'more' is one argument too many"),
        (["--", "npx", "x"], "there is a command after --"),
        ([URL, "--", "npx"], "there is a command after --"),
        ([URL, "-H", "Authorization: " + CANARY], "--header does not apply"),
        ([URL, "--header-from-env", "A=B"], "--header-from-env does not apply"),
        ([URL, "-e", "A=B"], "--env does not apply"),
        ([URL, "--cwd", "/"], "--cwd does not apply"),
        ([URL, "--timeout", "5"], "--timeout does not apply"),
        ([URL, "--startup-timeout", "5"], "--startup-timeout does not apply"),
        ([URL, "--protocol", "legacy"], "--protocol does not apply"),
        ([URL, "--store", "drawer"], "invalid choice: 'drawer'"),
    ],
)
@pytest.mark.parametrize("verb", ["login", "logout"])
def test_wrong_usage(run, tmp_path, monkeypatch, verb, words, why):
    monkeypatch.setenv("MCPSYNC_HOME", str(tmp_path / "home"))
    ran = run(verb, *words)
    assert (ran.code, ran.out) == (2, "")
    assert why in ran.err
    assert CANARY not in ran.err
    ran = run(verb, "--output", "json", *words)
    assert (ran.code, ran.out, ran.error["code"]) == (2, "", "usage")
    assert not (tmp_path / "home").exists()


@pytest.mark.parametrize(
    "options, why",
    [
        (SECRETIVE, "the variable THE_SECRET is not set"),
        (SECRETIVE[2:], "a client's secret needs --client-id"),
        (["--ask-secret"], "a client's secret needs --client-id"),
        ([*SECRETIVE, "--ask-secret"], "exclude each other"),
        # Somebody gave the secret itself.
        ([*SECRETIVE[:3], SECRET], "wants the name of a variable"),
        (["--redirect-uri", "https://x.example/"], "or --no-browser"),
        (["--redirect-uri", "ftp://127.0.0.1/"], "or --no-browser"),
        (["--redirect-uri", "http://[/"], "or --no-browser"),
        (["--client-metadata-url", "http://x.example/c"], "must be an https URL"),
    ],
)
def test_options_that_cannot_be(run, tmp_path, monkeypatch, options, why):
    monkeypatch.setenv("MCPSYNC_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("THE_SECRET", raising=False)
    ran = run("login", URL, *options)
    assert (ran.code, ran.out) == (2, "")
    assert why in ran.err
    assert CANARY not in ran.err
    assert not (tmp_path / "home").exists()


def test_the_help_shows_what_applies(run):
    for verb in ("login", "logout"):
        ran = run(verb, "--help")
        assert ran.out.startswith("usage: mcpsync %s URL [options]\n" % verb)
        assert "--name" in ran.out
        for option in ("--header", "--timeout", "--protocol", "--cwd", "--env"):
            assert option not in ran.out
    assert "--header" in run("tools", "--help").out


# --- servers ----------------------------------------------------------------------


def test_a_server_that_wants_no_login(place, here):
    with ScriptedServer(_open_to_all) as server:
        ran = here("login", server.url)
        assert (ran.code, ran.out) == (3, "")
        assert ran.err.startswith(
            "mcpsync: the server at %s wants no login" % server.url
        )
        ran = here("login", server.url, "--output", "json")
        assert "wants no login" in ran.error["message"]
        assert here("tools", server.url).code == 0
    assert place.kept() is None


def _open_to_all(request):
    return served(request) if request.path == "/mcp" else Reply(404)


def test_a_server_that_refuses_everybody(place, here):
    challenge = {"WWW-Authenticate": "Bearer"}
    with ScriptedServer(
        lambda request: Reply(401, challenge) if request.path == "/mcp" else Reply(404)
    ) as server:
        ran = here("login", server.url)
        assert (ran.code, ran.out) == (3, "")
        assert "`mcpsync info %s` tells" % server.url in ran.err
        ran = here("logout", server.url)
        assert (ran.code, ran.out.split(" to ")[0]) == (0, "there was no login")


def test_a_server_that_is_not_there(place, here):
    url = "http://127.0.0.1:%d/mcp" % free_port()
    ran = here("login", url)
    assert (ran.code, ran.out) == (4, "")
    assert "Connection refused" in ran.err
    assert "`mcpsync" not in ran.err
    ran = here("login", url, "--output", "json")
    assert (ran.code, ran.error["code"]) == (4, "discovery_error")


def test_tools_without_a_login(place, here):
    ran = run_secretly("tools", place.url)
    assert (ran.code, ran.out) == (3, "")
    assert "`mcpsync login %s` logs in" % place.url in ran.err
    ran = here("tools", place.url + "?key=hidden")
    assert ran.code == 3
    assert "hidden" not in ran.err
    assert "`mcpsync login URL` logs in" in ran.err
    ran = here("tools", place.url, "--output", "json")
    assert (ran.code, ran.error["code"]) == (3, "login_required")
    assert "`mcpsync login %s`" % place.url in ran.error["message"]
    assert place.issuer.logins == []


def test_a_login_without_a_scope_that_is_needed(place, here):
    assert here("login", place.url).code == 0
    place.resource.wants = lambda request: ["admin"]
    ran = here("tools", place.url)
    assert (ran.code, ran.out) == (3, "")
    assert "admin" in ran.err
    assert "`mcpsync login %s --scopes" % place.url in ran.err
    assert here("login", place.url, "--scopes", "admin").code == 0
    assert here("tools", place.url).code == 0


def test_an_authorization_server_that_is_down_is_no_reason_to_log_in(place, here):
    place.issuer.lasts = 1
    assert here("login", place.url).code == 0
    place.issuer.void(place.kept().token.access_token)
    place.issuer.faults = [outage() for _ in range(9)]
    ran = here("tools", place.url)
    assert (ran.code, ran.out) == (4, "")
    assert "`mcpsync login" not in ran.err
    place.issuer.faults.clear()
    assert here("tools", place.url).code == 0


# --- Ctrl-C -----------------------------------------------------------------------


@pytest.mark.parametrize("options", [[], ["--output", "json"]], ids=["text", "json"])
def test_interrupted_while_the_browser_is_waited_for(place, monkeypatch, options):
    monkeypatch.setenv("BROWSER", "true")
    with started("login", place.url, *options) as process:
        lines = iter(process.stderr.readline, b"")
        shown = "".join(_until(place.issuer.base, lines))
        assert interrupt(process) == 130
        last = process.stderr.read().decode("utf-8").splitlines()[-1]
    if options:
        assert json.loads(last)["error"]["code"] == "interrupted"
    else:
        assert last == "mcpsync: interrupted"
    assert place.kept() is None
    (uri,) = parse_qs(urlsplit(place.login_url(shown)).query)["redirect_uri"]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", urlsplit(uri).port), PATIENCE)


@pytest.mark.parametrize(
    "options, prompt",
    [
        (["--no-browser"], PASTE),
        (["--client-id", "x", "--ask-secret"], "Secret of the client: "),
    ],
    ids=["paste", "secret"],
)
def test_interrupted_at_a_prompt(place, options, prompt):
    with Terminal("login", place.url, "--no-color", *options) as terminal:
        terminal.expect(prompt)
        assert terminal.interrupt() == 130
    assert terminal.text.rstrip().endswith("mcpsync: interrupted")
    assert place.issuer.forms == []
    assert place.kept() is None
