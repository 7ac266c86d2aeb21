"""The command as a process: pipes that close, Ctrl-C, and how it is started."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import time

import pytest

from ..fakes.stdio_server import python_server
from .running import (
    PATIENCE,
    ROOT,
    STDIO,
    command,
    environment,
    interrupt,
    run_process,
    started,
    with_server,
)


def test_a_call(server):
    ran = run_process(*with_server(["call", "echo", "message=hallo"], server))
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out)["echo"] == "ECHOING: hallo"


def test_python_m_mcpsync():
    ran = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-m", "mcpsync", "--version"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        cwd=ROOT,
    )
    assert (ran.returncode, ran.stderr) == (0, b"")
    assert ran.stdout.startswith(b"mcpsync ")


def test_arguments_from_standard_input(server):
    words = with_server(["call", "add", "--json", "-"], server)
    ran = run_process(*words, stdin=b'{"a": 20, "b": 22}')
    assert (ran.code, ran.err) == (0, "")
    assert json.loads(ran.out) == {"sum": 42}


def test_standard_input_that_is_no_json(http):
    ran = run_process("call", http.url, "add", "--json", "-", stdin=b"\xff")
    assert (ran.code, ran.out) == (2, "")
    assert "standard input: not UTF-8" in ran.err
    assert http.stats["calls"] == 0


def test_an_ascii_locale():
    server = python_server(
        "shake_hands()",
        "serve({'tools/call': lambda params: text('\\u00e4\\u65e5')})",
    )
    ran = run_process("call", "t", "--", *server, PYTHONIOENCODING="ascii")
    assert (ran.code, ran.out, ran.err) == (0, "\\xe4\\u65e5\n", "")


def test_standard_output_that_nobody_reads(http):
    # Larger than a pipe holds, so that the writer meets the closed end.
    words = ["call", http.url, "blob", "size=1000000"]
    with started(*words, stdout=subprocess.PIPE) as process:
        assert process.stdout.read(1) == b"x"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait(PATIENCE) == 0


def test_a_pipe_that_is_closed_from_the_beginning():
    for words in (["--help"], ["tools", *STDIO]):
        read, write = os.pipe()
        os.close(read)
        try:
            with started(*words, stdout=write) as process:
                assert process.stderr.read() == b""
                assert process.wait(PATIENCE) == 0
        finally:
            os.close(write)


def test_the_exit_code_is_that_of_the_call_even_if_nobody_reads():
    read, write = os.pipe()
    os.close(read)
    try:
        words = ["call", "fail", "message=no", "--output", "json", *STDIO]
        with started(*words, stdout=write, stderr=write) as process:
            assert process.wait(PATIENCE) == 5
    finally:
        os.close(write)


def test_a_full_disk():
    with open("/dev/full", "wb", buffering=0) as full, started(
        "tools", *STDIO, stdout=full
    ) as process:
        error = process.stderr.read().decode("utf-8")
        assert process.wait(PATIENCE) == 1
    assert error == "mcpsync: [Errno 28] No space left on device\n"


@pytest.mark.parametrize("closed", ["1>&-", "2>&-", "0<&- 1>&- 2>&-"])
def test_started_without_standard_streams(closed):
    words = ["call", "fail", "message=x", "--output", "json", *STDIO]
    line = " ".join(map(shlex.quote, command(*words)))
    ran = subprocess.run(
        ["sh", "-c", "%s %s" % (line, closed)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        timeout=PATIENCE,
        env=environment(),
    )
    assert ran.returncode == 5
    assert b"Traceback" not in ran.stderr


# --- Ctrl-C -----------------------------------------------------------------------


def until(true, what):
    """Wait for something that another process does and has no event for."""
    end = time.monotonic() + PATIENCE
    while not true():
        assert time.monotonic() < end, what
        time.sleep(0.02)


@pytest.mark.parametrize("protocol", ["auto", "legacy"])
def test_interrupted_over_http(http, protocol):
    words = ["call", http.url, "wait", "seconds=60", "--protocol", protocol]
    with started(*words, stdout=subprocess.PIPE) as process:
        until(lambda: http.stats["in_flight"] == 1, "the call never arrived")
        assert interrupt(process) == 130
        assert process.stdout.read() == b""
        assert process.stderr.read() == b"mcpsync: interrupted\n"
    until(lambda: http.stats["cancelled"] == 1, "the server was not told")
    until(lambda: http.stats["in_flight"] == 0, "the call went on")


def test_interrupted_over_stdio(tmp_path):
    log = tmp_path / "methods"
    server = python_server("""
        shake_hands()
        while True:
            message = read()
            with open(os.environ["LOG"], "a") as file:
                file.write(message["method"] if message else "the end")
                file.write("\\n")
            if message is None:
                break
            if message["method"] == "tools/list":
                answer(message, {"tools": []})
        """)
    words = ["call", "slow", "-e", "LOG=%s" % log, "--output", "json", "--", *server]
    with started(*words, stdout=subprocess.PIPE) as process:
        until(
            lambda: log.exists() and "tools/call\n" in log.read_text(),
            "the call never arrived",
        )
        assert interrupt(process) == 130
        error = json.loads(process.stderr.read())
        assert error["error"]["code"] == "interrupted"
    assert log.read_text().split("\n")[:4] == [
        "tools/list",
        "tools/call",
        "notifications/cancelled",
        "the end",
    ]


def test_interrupted_while_connecting(tmp_path):
    ready = tmp_path / "ready"
    server = python_server("""
        read()
        open(os.environ["READY"], "w").close()
        while read() is not None:
            pass
        """)
    words = ["tools", "-e", "READY=%s" % ready, "--", *server]
    with started(*words, stdout=subprocess.PIPE) as process:
        until(ready.exists, "the server was never asked anything")
        assert interrupt(process) == 130
        assert process.stderr.read() == b"mcpsync: interrupted\n"


# --- as it is installed -----------------------------------------------------------


def test_no_colors_and_no_bar_without_a_terminal(server):
    words = with_server(["call", "count", "to=3", "delay=0.1"], server)
    ran = run_process(*words)
    assert (ran.code, ran.out, ran.err) == (0, '{"counted": 3}\n', "")


def test_a_stdio_server_needs_no_http():
    source = (
        "import sys; sys.path.append(%r)\n"
        "from mcpsync.cli import main\n"
        "code = main(%r)\n"
        "heavy = {'requests', 'urllib3', 'ssl', 'jsonschema', 'asyncio', 'keyring'}\n"
        "print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
        "sys.exit(code)" % (ROOT, ["tools", *STDIO])
    )
    ran = subprocess.run(
        [sys.executable, "-c", source],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
        env=environment(),
    )
    assert (ran.returncode, ran.stderr) == (0, "[]\n")
