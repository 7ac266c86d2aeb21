"""The reference servers of the package index, as their users start them."""

from __future__ import annotations

import subprocess

import pytest

import mcpsync


@pytest.fixture(params=[("auto", "2026-07-28"), ("legacy", "2025-11-25")], ids=str)
def connect(request):
    """Return a function that opens a client, in each era, and checks its version."""
    protocol, version = request.param

    def open_client(argv, **options):
        client = mcpsync.connect(argv, protocol=protocol, startup_timeout=60, **options)
        assert client.protocol_version == version
        return client

    return open_client


@pytest.fixture
def time_server(program):
    """Return the command of the time server."""
    return [program("reference/bin/mcp-server-time"), "--local-timezone", "UTC"]


@pytest.fixture
def repository(tmp_path):
    """Return a git repository with one commit and one changed file."""

    def git(*arguments):
        identity = ["-c", "user.name=Ada", "-c", "user.email=ada@example.com"]
        subprocess.run(["git", *identity, *arguments], cwd=tmp_path, check=True)

    git("init", "--quiet", "--initial-branch=main")
    (tmp_path / "poem.txt").write_text("one\n")
    git("add", "poem.txt")
    git("commit", "--quiet", "--message=First verse")
    (tmp_path / "poem.txt").write_text("one\ntwo\n")
    return tmp_path


@pytest.fixture
def git_server(program, repository):
    """Return the command of the git server, confined to the repository."""
    server = program("reference/bin/mcp-server-git")
    return [server, "--repository", str(repository)]


def test_time_is_converted(connect, time_server):
    arguments = {
        "source_timezone": "Asia/Tokyo",
        "time": "09:30",
        "target_timezone": "UTC",
    }
    with connect(time_server) as client:
        assert client.server_info.name == "mcp-time"
        names = [tool.name for tool in client.list_tools()]
        assert sorted(names) == ["convert_time", "get_current_time"]
        converted = client.tools.convert_time(**arguments).data
        assert converted["target"]["datetime"].endswith("T00:30:00+00:00")
        assert converted["time_difference"] == "-9.0h"
        now = client.call_tool("get_current_time", {"timezone": "UTC"})
        assert now.data["timezone"] == "UTC"


def test_a_bad_timezone_is_a_tool_error(connect, time_server):
    with connect(time_server) as client:
        result = client.call_tool("get_current_time", {"timezone": "Mars/Olympus"})
        assert result.is_error
        assert "Mars/Olympus" in result.text


def test_an_unknown_tool_is_a_protocol_error(connect, time_server):
    with connect(time_server) as client:
        with pytest.raises(mcpsync.InvalidParams, match="Unknown tool") as raised:
            client.call_tool("set_clock")
        assert raised.value.code == -32602
        assert len(client.list_tools()) == 2


def test_a_bad_option_ends_the_server_with_its_reason(connect, time_server):
    argv = [*time_server[:-1], "Nowhere/Land"]
    with pytest.raises(mcpsync.ServerExited) as raised:
        connect(argv)
    assert raised.value.returncode == 1
    assert "Nowhere/Land" in str(raised.value)


def test_git_is_used(connect, git_server, repository):
    place = {"repo_path": str(repository)}
    with connect(git_server) as client:
        assert client.server_info.name == "mcp-git"
        assert "poem.txt" in client.call_tool("git_status", place).text
        assert "+two" in client.call_tool("git_diff_unstaged", place).text
        client.tools.git_add(files=["poem.txt"], **place)
        assert "+two" in client.call_tool("git_diff_staged", place).text
        log = client.call_tool("git_log", place).text
        assert "First verse" in log
        client.tools.git_create_branch(branch_name="draft", **place)
        branches = client.call_tool("git_branch", {"branch_type": "local", **place})
        assert "draft" in branches.text and "main" in branches.text


def test_git_refuses_another_repository(connect, git_server, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    with connect(git_server) as client:
        result = client.call_tool("git_status", {"repo_path": str(elsewhere)})
        assert result.is_error


def test_closing_leaves_no_process(connect, time_server, git_server, children):
    before = children()
    clients = [connect(time_server), connect(git_server), connect(time_server)]
    assert len(children() - before) == 3
    for client in clients:
        client.close()
    assert children() == before
