"""What becomes of an argument list, before anything is connected to."""

from __future__ import annotations

import argparse
import subprocess
import sys

import pytest

from mcpsync._version import __version__
from mcpsync.cli._parser import (
    UsageError,
    add_commands,
    build_parser,
    settings_from,
    split_command,
)

from .running import ROOT

URL = "http://localhost/mcp"
VERBS = "call complete demo info ping prompt prompts read resources tools".split()


def parsed(*words):
    before, command = split_command(words)
    return settings_from(build_parser().parse_args(before), command)


@pytest.mark.parametrize(
    "given, before, command",
    [
        ([], [], None),
        (["tools", URL], ["tools", URL], None),
        (["tools", "--", "npx", "-y", "p"], ["tools"], ("npx", "-y", "p")),
        (["call", "t", "--", "x", "--", "y"], ["call", "t"], ("x", "--", "y")),
        (["tools", "--"], ["tools"], ()),
        (["tools", "--timeout", "3"], ["tools", "--timeout", "3"], None),
    ],
)
def test_the_first_two_dashes_begin_the_command(given, before, command):
    assert split_command(given) == (before, command)


def test_the_defaults():
    settings = parsed("tools", URL)
    assert (settings.verb, settings.words, settings.command) == ("tools", (URL,), None)
    assert (settings.timeout, settings.startup_timeout) == (None, None)
    assert (settings.protocol, settings.output) == ("auto", "text")
    assert (settings.env, settings.headers, settings.headers_from_env) == ((), (), ())
    assert (settings.cwd, settings.verbosity) == (None, 0)
    assert settings.own["schema"] is False


OPTIONS = [
    ("--timeout", "2.5"),
    ("--startup-timeout", "7"),
    ("--protocol", "legacy"),
    ("--cwd", "/srv"),
    ("--output", "json"),
    ("-e", "A=1"),
    ("-H", "X-A: 1"),
    ("--header-from-env", "X-B=VAR"),
    ("-v",),
    ("-q",),
    ("--no-color",),
]


@pytest.mark.parametrize("option", OPTIONS, ids=lambda option: option[0])
def test_an_option_means_the_same_before_and_after_the_subcommand(option):
    before = parsed(*option, "ping", URL)
    after = parsed("ping", *option, URL)
    last = parsed("ping", URL, *option)
    assert before == after == last != parsed("ping", URL)


def test_repeated_options_add_up_across_the_subcommand():
    before = ["-e", "A=1", "-H", "X: 1", "-v", "--header-from-env", "P=Q"]
    after = ["-e", "B=2", "-H", "Y: 2", "-v", "--header-from-env", "R=S", "-e", "C=3"]
    settings = parsed(*before, "tools", *after)
    assert settings.env == ("A=1", "B=2", "C=3")
    assert settings.headers == ("X: 1", "Y: 2")
    assert settings.headers_from_env == ("P=Q", "R=S")
    assert settings.verbosity == 2


def test_options_stand_between_words():
    settings = parsed("call", URL, "-H", "X: 1", "echo", "a=1", "--timeout", "3", "b=2")
    assert settings.words == (URL, "echo", "a=1", "b=2")
    assert (settings.headers, settings.timeout) == (("X: 1",), 3.0)


def test_one_value_for_each_option():
    settings = parsed("tools", "-e", "A=1", URL, "-H", "X: 1", "echo")
    assert settings.words == (URL, "echo")


def test_the_options_of_one_subcommand():
    call = parsed("call", URL, "t", "--json", "-", "-o", "out")
    assert (call.own["json_arguments"], call.own["save_to"]) == ("-", "out")
    assert parsed("read", URL, "u", "-o", "-").own["save_to"] == "-"
    assert parsed("tools", URL, "t", "--schema").own["schema"] is True
    assert parsed("complete", URL, "t", "a=b", "--template").own["template"] is True


@pytest.mark.parametrize(
    "words, complaint",
    [
        ([], "COMMAND"),
        (["frobnicate"], "frobnicate"),
        (["tools", URL, "--bogus"], "--bogus"),
        (["tools", URL, "--time", "3"], "--time"),
        (["tools", URL, "--timeout", "soon"], "soon"),
        (["tools", URL, "--timeout", "0"], "above 0"),
        (["tools", URL, "--timeout", "nan"], "above 0"),
        (["tools", URL, "--timeout", "inf"], "above 0"),
        (["tools", URL, "--output", "xml"], "xml"),
        (["tools", URL, "-e"], "expected one argument"),
        (["ping", URL, "--schema"], "--schema"),
    ],
)
def test_wrong_usage_is_raised_with_the_usage(words, complaint):
    with pytest.raises(UsageError) as raised:
        parsed(*words)
    assert complaint in raised.value.message
    assert raised.value.usage.startswith("usage: mcpsync")


def test_no_color_is_obeyed(monkeypatch):
    assert parsed("ping", URL).color
    monkeypatch.setenv("NO_COLOR", "")
    assert parsed("ping", URL).color
    monkeypatch.setenv("NO_COLOR", "1")
    assert not parsed("ping", URL).color
    monkeypatch.delenv("NO_COLOR")
    assert not parsed("ping", URL, "--no-color").color


# --- another program's parser -----------------------------------------------------


def test_the_commands_fit_into_a_parser_that_has_these_options_already():
    parser = argparse.ArgumentParser(prog="manage.py mcp")
    for option in ("-v", "--no-color", "--version", "--settings"):
        parser.add_argument(option, default="theirs")
    add_commands(parser, talk_options=False)
    found = parser.parse_args(["call", URL, "echo", "-H", "X: 1", "a=1", "-o", "f"])
    assert "args" not in vars(found)
    assert (found.v, found.no_color) == ("theirs", "theirs")
    settings = settings_from(found, None)
    assert (settings.verb, settings.words) == ("call", (URL, "echo", "a=1"))
    assert (settings.verbosity, settings.headers) == (0, ("X: 1",))


@pytest.mark.parametrize("verb", VERBS)
def test_no_destination_is_called_args(verb):
    assert "args" not in vars(build_parser().parse_args([verb]))


# --- help and version -------------------------------------------------------------


def test_version(run):
    assert run("--version") == (0, "mcpsync %s\n" % __version__, "")


def test_help_names_every_subcommand_and_how_a_server_is_given(run):
    code, out, err = run("--help")
    assert (code, err) == (0, "")
    assert all("\n    %s " % verb in out for verb in VERBS)
    assert "mcpsync call http://localhost:3001/mcp echo message=hello" in out
    assert "mcpsync call echo message=hello -- npx -y " in out


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_a_subcommand(run, verb):
    code, out, err = run(verb, "--help")
    assert (code, err) == (0, "")
    assert "usage: mcpsync %s " % verb in out
    assert ("-- COMMAND" in out) is (verb != "demo")


@pytest.mark.parametrize("option", ["--version", "--help"])
def test_help_and_version_load_nothing_of_the_client(option):
    source = (
        "import sys; sys.path.append(%r)\n"
        "from mcpsync.cli import main\n"
        "assert main([%r]) == 0\n"
        "print(*sorted(sys.modules), file=sys.stderr)" % (ROOT, option)
    )
    ran = subprocess.run(
        [sys.executable, "-I", "-c", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
        check=True,
    )
    loaded = set(ran.stderr.split())
    assert "mcpsync.cli._parser" in loaded
    ours = {name for name in loaded if name.startswith("mcpsync.")}
    assert not ours & {"mcpsync.client", "mcpsync.types", "mcpsync.demo"}
    assert not loaded & {"asyncio", "http.client", "jsonschema", "requests", "ssl"}
    assert not loaded & {"urllib3", "keyring", "rich", "requests_oauthlib"}
