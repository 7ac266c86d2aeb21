"""Exit codes, error lines, and what must not be seen in them."""

from __future__ import annotations

import io
import json
import logging
import os
import sys

import pytest

from mcpsync import exceptions
from mcpsync.cli import _run
from mcpsync.cli._errors import code_of, exit_code
from mcpsync.cli._output import Output
from mcpsync.cli._parser import build_parser, settings_from

from ..fakes import CANARY
from ..fakes.scripted_http import Reply, ScriptedServer
from ..fakes.stdio_server import (
    IGNORES_EVERYTHING,
    PRINTS_JUNK,
    exits_with,
    python_server,
)

# --- exit codes -------------------------------------------------------------------

EXPECTED = {
    "AuthorizationError": 3,
    "CallRefused": 1,
    "CapabilityMissing": 1,
    "ClientClosed": 1,
    "ConfigError": 2,
    "ConnectFailed": 4,
    "ConnectionLost": 4,
    "InputRequired": 1,
    "InvalidArguments": 2,
    "InvalidMessage": 1,
    "InvalidParams": 1,
    "InvalidStructuredContent": 1,
    "LoginRequired": 3,
    "MessageTooLarge": 1,
    "MethodNotFound": 1,
    "RequestTimeout": 4,
    "ServerBusy": 4,
    "ServerExited": 4,
    "ServerNotStarted": 4,
    "TLSError": 4,
    "TokenError": 3,
    "ToolError": 5,
    "UnsupportedProtocolVersion": 1,
}


@pytest.mark.parametrize("name", EXPECTED)
def test_exit_codes(name):
    kind = getattr(exceptions, name)
    if issubclass(kind, exceptions.ServerError):
        error = kind(-1, "text")
    else:
        error = kind("text")
    assert exit_code(error) == EXPECTED[name]


def test_every_exception_has_an_exit_code_and_a_code_of_its_own():
    codes = set()
    for name in exceptions.__all__:
        kind = getattr(exceptions, name)
        if isinstance(kind, type):
            error = kind.__new__(kind)
            error.method = None
            assert exit_code(error) in (1, 2, 3, 4, 5)
            codes.add(code_of(error))
    assert len(codes) == len([n for n in exceptions.__all__ if n != "error_for"])
    assert {"mcp_error", "tls_error", "http_status_error", "connect_failed"} <= codes
    assert "url_elicitation_required" in codes


def test_what_a_server_says_about_a_call_is_the_tools_failure():
    error = exceptions.InvalidParams(-32602, "no", method="tools/call")
    assert exit_code(error) == 5


# --- real failures ----------------------------------------------------------------


def test_nobody_listens(run):
    ran = run("tools", "http://127.0.0.1:1/mcp", "--output", "json")
    assert (ran.code, ran.out) == (4, "")
    assert ran.error["code"] == "connect_failed"
    assert ran.error["server"] == "127.0.0.1:1"
    ran = run("tools", "http://127.0.0.1:1/mcp")
    assert (ran.code, ran.out) == (4, "")
    assert ran.err.startswith("mcpsync: cannot connect to http://127.0.0.1:1/mcp")


def test_no_such_program(run):
    ran = run("tools", "--output", "json", "--", "no-such-program-7f3a", "x")
    assert (ran.code, ran.out) == (4, "")
    assert ran.error["code"] == "server_not_started"
    assert ran.error["server"] == "no-such-program-7f3a"


def test_a_server_that_ends_at_once_is_quoted(run):
    server = exits_with(7, "the database is gone")
    ran = run("tools", "--", *server)
    assert (ran.code, ran.out) == (4, "")
    assert "code 7" in ran.err
    assert "the database is gone" in ran.err
    ran = run("tools", "--output", "json", "--", *server)
    assert ran.error["code"] == "server_exited"
    assert "the database is gone" in ran.error["message"]


def test_a_server_that_says_nothing(run):
    ran = run(
        "tools", "--startup-timeout", "1", "--output", "json", "--", *IGNORES_EVERYTHING
    )
    assert (ran.code, ran.out) == (4, "")
    assert ran.error["code"] == "request_timeout"


def test_a_call_that_takes_too_long(ask_server):
    ran = ask_server(
        "call", "wait", "seconds=60", "--timeout", "0.5", "--output", "json"
    )
    assert (ran.code, ran.out) == (4, "")
    assert ran.error["code"] == "request_timeout"


def test_a_server_that_wants_a_login(run, monkeypatch):
    challenge = {"WWW-Authenticate": "Bearer"}
    with ScriptedServer(lambda request: Reply(401, challenge)) as server:
        ran = run("tools", server.url)
        assert (ran.code, ran.out) == (3, "")
        assert "--header-from-env Authorization=VARIABLE" in ran.err
        ran = run("tools", server.url, "--output", "json")
        assert (ran.code, ran.error["code"]) == (3, "login_required")
        monkeypatch.setenv("TOKEN", CANARY)
        ran = run("tools", server.url, "--header-from-env", "Authorization=TOKEN")
        assert ran.code == 3
        assert CANARY not in ran.err
        sent = server.requests[-1].headers
    assert sent["Authorization"] == "Bearer " + CANARY


def test_a_page_that_is_no_mcp_server(run):
    page = Reply(200, {"Content-Type": "text/html"}, b"<html>Hello</html>")
    with ScriptedServer(lambda request: page) as server:
        ran = run("tools", server.url, "--output", "json")
    assert (ran.code, ran.out) == (4, "")
    assert "text/html" in ran.error["message"]


def test_an_unknown_protocol_version_is_wrong_usage(ask_server):
    ran = ask_server("ping", "--protocol", "1999-01-01", "--output", "json")
    assert (ran.code, ran.out) == (2, "")
    assert ran.error["code"] == "config_error"


def test_a_question_that_nobody_can_answer(ask_server):
    # Without a terminal the capability is not declared.
    code, out, err = ask_server("call", "ask", "question=who?")
    assert (code, out) == (1, "")
    assert "need a terminal on standard input" in err


def test_a_server_without_the_method(run):
    server = python_server("shake_hands()", "serve()")
    ran = run("prompts", "--output", "json", "--", *server)
    assert (ran.code, ran.error["code"]) == (1, "method_not_found")


def test_a_bug_of_ours_is_one_line(run, monkeypatch):
    def broken(settings):
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(_run, "server_from", broken)
    ran = run("ping", "http://127.0.0.1:1/mcp")
    assert (ran.code, ran.out) == (1, "")
    assert ran.err == "mcpsync: ZeroDivisionError: oops\n"
    ran = run("ping", "http://127.0.0.1:1/mcp", "--output", "json")
    assert ran.error["code"] == "unexpected"
    ran = run("ping", "http://127.0.0.1:1/mcp", "-vv")
    assert "Traceback" in ran.err and "in broken" in ran.err


def test_usage_errors_are_json_as_well(run):
    for words in (
        ["frobnicate", "--output", "json"],
        ["--output=json", "tools", "x", "--bogus"],
        ["tools", "--output", "json"],
        ["call", "--output", "json", "http://127.0.0.1:1/mcp", "t", "word"],
    ):
        ran = run(*words)
        assert (ran.code, ran.out) == (2, "")
        assert ran.error["code"] == "usage"
        assert ran.error["server"] in (None, "127.0.0.1:1")


def test_an_option_behind_the_dashes_is_the_commands_own(run):
    ran = run("tools", "--", "no-such-program-7f3a", "--output", "json")
    assert ran.code == 4
    assert ran.err.startswith("mcpsync: cannot start")


def test_interrupted_in_this_process(run, monkeypatch):
    def interrupted(settings):
        raise KeyboardInterrupt

    monkeypatch.setattr(_run, "server_from", interrupted)
    assert run("ping", "http://x/") == (130, "", "mcpsync: interrupted\n")
    ran = run("ping", "http://x/", "--output", "json")
    assert (ran.code, ran.error["code"]) == (130, "interrupted")


def test_a_host_program_with_streams_of_its_own(http, capsys):
    out, err = io.StringIO(), io.StringIO()
    words = ["call", http.url, "add", "a=1", "b=2", "-H", "Authorization: Bearer abc"]
    settings = settings_from(build_parser().parse_args(words), None)
    output = Output(out=out, err=err)
    output.configure(settings)
    assert _run.run(settings, output) == 0
    output.close()
    assert out.getvalue() == '{"sum": 3}\n'
    assert err.getvalue().startswith("mcpsync: warning: ")
    assert capsys.readouterr() == ("", "")


# --- talk -------------------------------------------------------------------------


def test_a_literal_token_is_warned_about_once(run):
    with ScriptedServer(lambda request: Reply(401)) as server:
        words = ["tools", server.url, "-H", "Authorization: Bearer " + CANARY]
        code, out, err = run(*words)
        assert (code, out) == (3, "")
        assert err.count("warning") == 1
        assert "--header-from-env" in err
        assert CANARY not in err
        assert "warning" not in run(*words, "-q").err
        ran = run(*words, "--output", "json")
        assert ran.error["code"] == "authorization_error"


def test_the_log_is_shown_as_loudly_as_asked_for(run):
    words = ["call", "t", "--", *PRINTS_JUNK]
    assert "prints to its standard output" in run(*words).err
    assert run(*words[:2], "-q", *words[2:]).err == ""
    ran = run("--output", "json", *words)
    assert (ran.code, ran.err) == (0, "")
    assert ran.result["content"][0]["text"] == "t"


def test_stderr_of_a_server_is_shown_when_asked_for(run):
    server = python_server("log('so to speak')", "shake_hands()", "serve()")
    assert "so to speak" not in run("ping", "--", *server).err
    # The line may come later than the answer, and then nobody waits for it.
    for _ in range(20):
        err = run("ping", "-v", "--", *server).err
        if "so to speak" in err:
            break
    name = os.path.basename(sys.executable)
    assert "mcpsync: info: server %s: so to speak\n" % name in err


def test_logging_is_as_before_afterwards(run):
    logger = logging.getLogger("mcpsync")
    before = (logger.level, list(logger.handlers))
    run("ping", "-vv", "--", "no-such-program-7f3a")
    assert (logger.level, list(logger.handlers)) == before


def test_what_was_passed_to_a_server_is_masked_in_errors(run):
    server = python_server("""
        log("cannot log in with " + os.environ["SECRET"])
        sys.exit(1)
        """)
    for more in ([], ["--output", "json"]):
        ran = run("tools", "-e", "SECRET=" + CANARY, *more, "--", *server)
        assert ran.code == 4
        assert "cannot log in with ***" in ran.err
        assert CANARY not in ran.err


def test_json_is_one_line_of_safe_characters(run):
    text = "\x1b[31m \u202e \x9b \ud800 ä 日本 \u2028 \t"
    server = python_server(
        "shake_hands()",
        "serve({'tools/call': lambda params: text(%r)})" % text,
    )
    ran = run("call", "t", "--output", "json", "--", *server)
    assert ran.code == 0
    assert ran.out.count("\n") == 1
    assert ran.result["content"][0]["text"] == text
    for character in "\x1b\u202e\x9b\u2028\t":
        assert character not in ran.out
    assert "ä 日本" in ran.out


def test_text_for_a_pipe_is_what_the_server_sent(run):
    text = "\x1b[31mred\x1b[0m\ta\r\nb\n"
    server = python_server(
        "shake_hands()",
        "serve({'tools/call': lambda params: text(%r)})" % text,
    )
    ran = run("call", "t", "--", *server)
    assert (ran.code, ran.out) == (0, text)


def test_text_that_cannot_be_encoded_is_escaped(run):
    server = python_server(
        "shake_hands()",
        "serve({'tools/call': lambda params: text('a\\ud800b')})",
    )
    ran = run("call", "t", "--", *server)
    assert (ran.code, ran.out) == (0, "a\\ud800b\n")


def test_names_and_summaries_in_tables_stay_on_their_lines(run):
    tool = {"name": "a\nb", "description": "x\x1b[2J" + "y" * 600, "inputSchema": {}}
    server = python_server(
        "shake_hands()",
        "serve({'tools/list': lambda params: {'tools': [%r]}})" % tool,
    )
    ran = run("tools", "--", *server)
    assert ran.code == 0
    (line,) = ran.out.splitlines()
    assert line.startswith("a\\nb  x\\x1b[2Jyyy") and line.endswith("y…")
    assert run("tools", "--output", "name", "--", *server).out == "a\\nb\n"
    names = run("tools", "--output", "json", "--", *server).result["tools"]
    assert json.dumps(names[0]["name"]) == '"a\\nb"'
