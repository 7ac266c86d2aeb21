"""What connect() takes, and what it says about what it does not take."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Any, Dict

import pytest

import mcpsync
from mcpsync.testing import MemoryTransport, serve

from .fakes.stdio_server import python_server


def nobody(message: Any, send: Any) -> None:
    """Serve nothing."""


@pytest.mark.parametrize(
    "target, said",
    [
        ("ls -l", r"'ls -l' is not a URL; .*\['ls', '-l'\]"),
        ("", r"'' is not a URL"),
        ("ftp://example.com/", "the scheme must be http or https"),
        ("file:///bin/ls", "the scheme must be http or https"),
        ("http://", "no http or https URL"),
        ("http://a b/", "cannot hold spaces"),
        ("http://example.com:99999/", "no URL"),
        (b"ls", "must be a list"),
        ([], "with a program in it"),
        ([""], "must not be empty"),
        (["ls", 5], "must be a string, not 5"),
        (["ls", "a\0b"], "must be a string"),
        (5, "must be a list"),
        (None, "must be a list"),
        ({}, "needs a command or a url"),
        ({"url": 5}, "needs a command or a url"),
        ({"command": 5}, "must be a string, not 5"),
        ({"command": "ls", "args": "-l"}, "args .* must be a list, not str"),
        ({"command": "ls", "args": 5}, "args .* must be a list, not int"),
        ({"command": "ls", "env": {"A": 1}}, "env must map names to strings"),
    ],
)
def test_a_wrong_target(target: Any, said: str) -> None:
    with pytest.raises(mcpsync.ConfigError, match=said) as caught:
        mcpsync.connect(target)
    assert isinstance(caught.value, ValueError)


def test_a_url_with_a_password_is_not_shown() -> None:
    with pytest.raises(mcpsync.ConfigError) as caught:
        mcpsync.connect("http://user:hunter2hunter2@exam ple.com/")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    "target, option, what",
    [
        ("http://127.0.0.1:9/", {"env": {}}, "env= does not apply to a URL"),
        ("http://127.0.0.1:9/", {"cwd": "/"}, "cwd= does not apply to a URL"),
        (["ls"], {"headers": {}}, "headers= does not apply to a command"),
        (["ls"], {"auth": "x"}, "auth= does not apply to a command"),
        (MemoryTransport(nobody), {"env": {}}, "env= does not apply to a transport"),
        (MemoryTransport(nobody), {"auth": "x"}, "auth= does not apply to a transport"),
    ],
)
def test_an_option_that_does_not_apply(
    target: Any, option: Dict[str, Any], what: str
) -> None:
    with pytest.raises(TypeError, match=what):
        mcpsync.connect(target, **option)


def test_a_missing_program() -> None:
    with pytest.raises(mcpsync.ServerNotStarted, match="no such program") as caught:
        mcpsync.connect(["/nonexistent/server", "--secret", "abc"], name="mine")
    assert (caught.value.command, caught.value.server) == (
        "/nonexistent/server",
        "mine",
    )
    assert "abc" not in str(caught.value)


def test_a_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(mcpsync.ServerNotStarted, match="working directory"):
        mcpsync.connect([sys.executable], cwd=tmp_path / "nowhere")


def test_a_port_that_nobody_listens_on() -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))
        url = "http://127.0.0.1:%d/mcp" % bound.getsockname()[1]
        with pytest.raises(mcpsync.ConnectFailed, match="is the server running") as got:
            mcpsync.connect(url, name="mine")
    assert got.value.server == "mine" and url in str(got.value)


@pytest.mark.parametrize(
    "option, kind",
    [
        ({"protocol": "1999-01-01"}, mcpsync.ConfigError),
        ({"protocol": 5}, mcpsync.ConfigError),
        ({"validate": "hard"}, mcpsync.InvalidArguments),
        ({"log_level": "loud"}, mcpsync.InvalidArguments),
        ({"log_level": 5}, mcpsync.InvalidArguments),
        ({"on_elicitation": 5}, mcpsync.InvalidArguments),
        ({"on_sampling": "x"}, mcpsync.InvalidArguments),
        ({"on_log": 5}, mcpsync.InvalidArguments),
        ({"on_notification": 5}, mcpsync.InvalidArguments),
        ({"roots": 5}, mcpsync.InvalidArguments),
        # Its letters would be the roots, and "/" is one of them.
        ({"roots": "/srv/data"}, mcpsync.InvalidArguments),
        ({"timeout": "5"}, TypeError),
        ({"timeout": -1}, ValueError),
    ],
)
def test_a_wrong_option(option: Dict[str, Any], kind: type) -> None:
    with pytest.raises(kind):
        mcpsync.Client(["ls"], **option)


def test_names() -> None:
    assert mcpsync.Client(["/usr/bin/ls", "-l"]).name == "ls"
    assert mcpsync.Client(["ls"], name="mine").name == "mine"
    assert mcpsync.Client("http://me:pw@example.com:8080/x").name == "example.com:8080"
    assert mcpsync.Client(MemoryTransport(nobody, name="here")).name == "here"
    assert mcpsync.Client(MemoryTransport(nobody), name="mine").name == "mine"


def test_a_path_is_a_program(tmp_path: Path) -> None:
    source = """
    shake_hands()
    serve({"tools/call": lambda params: text(os.getcwd() + " " + os.environ["MINE"])})
    """
    program, *arguments = python_server(source)
    argv = [Path(program), *arguments]
    with mcpsync.connect(argv, env={"MINE": "x"}, cwd=tmp_path) as client:
        assert client.call_tool("where").text == "%s x" % tmp_path.resolve()


def test_an_entry_of_an_mcp_servers_file() -> None:
    with serve("stdio") as server:
        assert isinstance(server.target, list)
        command, *arguments = server.target
        entry = {"command": command, "args": arguments, "env": {"MCP_TEST_VALUE": "y"}}
        with mcpsync.connect(entry) as client:
            assert client.call_tool("echo", {"message": "hi"}).data["env"] == "y"
        # What the caller says goes first.
        with mcpsync.connect(entry, env={"MCP_TEST_VALUE": "z"}) as client:
            assert client.call_tool("echo", {"message": "hi"}).data["env"] == "z"
    with serve("http") as server:
        with mcpsync.connect({"url": server.target, "headers": {"X-A": "b"}}) as client:
            assert client.call_tool("add", {"a": 1, "b": 1}).data == {"sum": 2}


def test_a_transport_serves_one_client() -> None:
    with serve("memory") as server:
        with mcpsync.connect(server.target) as client:
            assert client.list_prompts()
        with pytest.raises(mcpsync.ClientClosed):
            mcpsync.connect(server.target)
