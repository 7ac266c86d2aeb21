"""Which server is meant, and the options for it."""

from __future__ import annotations

import pytest

from mcpsync.cli._parser import UsageError, build_parser, settings_from, split_command
from mcpsync.cli._target import server_from

URL = "https://example.com/mcp"
TOKEN = "sk-0123456789abcdef"


def server(*words):
    before, command = split_command(words)
    return server_from(settings_from(build_parser().parse_args(before), command))


def test_a_url_is_the_first_word():
    found, words = server("call", URL, "echo", "a=1")
    assert (found.target, found.label) == (URL, "example.com")
    assert words == ("echo", "a=1")
    assert found.options == {"protocol": "auto"}


def test_a_command_stands_behind_the_dashes_and_takes_no_words():
    found, words = server("call", "echo", "a=1", "--", "/bin/npx", "-y", "p", "b=2")
    assert found.target == ("/bin/npx", "-y", "p", "b=2")
    assert (found.label, words) == ("npx", ("echo", "a=1"))


def test_a_user_in_a_url_is_not_part_of_the_label():
    found, _ = server("ping", "https://me:%s@example.com:8443/mcp" % TOKEN)
    assert found.label == "example.com:8443"


def test_options_for_every_server():
    found, _ = server("ping", "--timeout", "3", "--protocol", "legacy", URL)
    assert found.options == {"timeout": 3.0, "protocol": "legacy"}
    found, _ = server("ping", "--startup-timeout", "9", "--", "x")
    assert found.options == {"startup_timeout": 9.0, "protocol": "auto"}


def test_options_for_a_command(monkeypatch):
    monkeypatch.setenv("OURS", "from here")
    found, _ = server("ping", "-e", "A=b=c", "-e", "OURS", "--cwd", "/srv", "--", "x")
    assert found.options["env"] == {"A": "b=c", "OURS": "from here"}
    assert found.options["cwd"] == "/srv"
    assert set(found.secrets) == {"b=c", "from here"}


def test_headers(monkeypatch):
    monkeypatch.setenv("KEY", TOKEN)
    found, _ = server(
        "ping", URL, "-H", "X-Trace:  1:2 ", "--header-from-env", "X-Api-Key=KEY"
    )
    assert found.options["headers"] == {"X-Trace": "1:2", "X-Api-Key": TOKEN}
    assert found.warnings == ()
    assert TOKEN in found.secrets


@pytest.mark.parametrize("value", [TOKEN, "Bearer " + TOKEN, "bearer  " + TOKEN])
def test_a_token_from_the_environment(monkeypatch, value):
    monkeypatch.setenv("TOKEN", value)
    found, _ = server("ping", URL, "--header-from-env", "Authorization=TOKEN")
    assert found.options["auth"] == TOKEN
    assert "headers" not in found.options
    assert found.warnings == ()
    assert TOKEN in found.secrets
    assert "Bearer" not in found.secrets
    assert TOKEN not in repr(found)


def test_other_credentials_from_the_environment(monkeypatch):
    monkeypatch.setenv("BASIC", "Basic bWU6c2VjcmV0")
    found, _ = server("ping", URL, "--header-from-env", "Authorization=BASIC")
    assert found.options["headers"] == {"Authorization": "Basic bWU6c2VjcmV0"}


def test_a_literal_token_is_warned_about():
    found, _ = server("ping", URL, "-H", "authorization: Bearer " + TOKEN)
    assert found.options["auth"] == TOKEN
    (warning,) = found.warnings
    assert "--header-from-env" in warning
    assert TOKEN not in warning


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["tools"], "a server is needed"),
        (["call"], "a server is needed"),
        (["tools", "--"], "no command after --"),
        (["tools", "everything"], "'everything' is no URL"),
        (["tools", "everything"], "mcpsync tools -- everything"),
        (["call", "my server", "t"], "mcpsync call TOOL -- 'my server'"),
        (["tools", "ftp://example.com"], "http:// or https://"),
        (["tools", URL, "-e", "A=1"], "--env applies to a command"),
        (["tools", URL, "--cwd", "/"], "--cwd applies to a command"),
        (["tools", "-H", "A: 1", "--", "x"], "--header applies to a URL"),
        (["tools", "--header-from-env", "A=B", "--", "x"], "applies to a URL"),
        (["tools", URL, "--", "x"], "which of them is the server"),
        (["call", URL, "t", "--", "x"], "which of them is the server"),
        (["tools", "-e", "=1", "--", "x"], "NAME=VALUE"),
        (["tools", "-e", "NO_SUCH_VARIABLE", "--", "x"], "no such variable"),
        (["tools", URL, "-H", "nothing"], "'NAME: VALUE'"),
        (["tools", URL, "--header-from-env", "A"], "NAME=VARIABLE"),
        (["tools", URL, "--header-from-env", "A=NO_SUCH"], "NO_SUCH, which is not set"),
    ],
)
def test_wrong_usage(words, complaint):
    with pytest.raises(UsageError) as raised:
        server(*words)
    assert complaint in raised.value.message


def test_a_malformed_header_is_not_shown():
    with pytest.raises(UsageError) as raised:
        server("ping", URL, "-H", "Bearer " + TOKEN)
    assert TOKEN not in raised.value.message


def test_a_url_may_be_what_is_read_from_a_command():
    _, words = server("read", URL, "--", "x")
    assert words == (URL,)
