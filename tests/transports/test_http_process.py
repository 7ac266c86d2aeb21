"""What becomes of connections when the process forks, ends, or is interrupted."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any, Iterator

import pytest

from mcpsync.demo import serve_http

from ..fakes.hostile import hostile
from ..fakes.scripted_http import (
    UNTIL_CLOSED,
    Recorded,
    Reply,
    ScriptedServer,
    answer_to,
    json_reply,
    sse_reply,
)
from ..fakes.tls import certificate
from .calling import eventually
from .sessions import Sessions

_ROOT = Path(__file__).resolve().parents[2]
_PRELUDE = """
import os, signal, sys, threading, time
sys.path.insert(0, %(root)r)
import mcpsync
url = sys.argv[1]
def say(*words):
    print(*words, flush=True)
"""

ERAS = pytest.mark.parametrize("era", ["modern", "legacy"])


@contextlib.contextmanager
def running(script: str, *arguments: str) -> Iterator["subprocess.Popen[str]"]:
    """Run a script in an interpreter of its own."""
    source = _PRELUDE % {"root": str(_ROOT)} + textwrap.dedent(script)
    options = [
        "-X",
        "dev",
        "-W",
        "error",
        "-W",
        "ignore:This process:DeprecationWarning",
    ]
    with subprocess.Popen(
        [sys.executable, *options, "-c", source, *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def interrupt(process: "subprocess.Popen[str]") -> None:
    """Press Ctrl-C once the process waits for the server.

    Not while the standard library is still making its objects: an exception in the
    midst of that leaves half of one, which complains when it is collected.
    """
    stat = Path("/proc/%d/stat" % process.pid)
    end = time.monotonic() + 10
    while stat.exists() and time.monotonic() < end:
        if stat.read_text().rpartition(")")[2].split()[0] == "S":
            break
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)


def finish(process: "subprocess.Popen[str]", limit: float = 10.0) -> str:
    """Return what it says until it ends; it must end well and quietly."""
    out, err = process.communicate(timeout=limit)
    assert (process.returncode, err) == (0, ""), out + err
    return out


def said(process: "subprocess.Popen[str]") -> str:
    """Return the next line that it says."""
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if not line:
        raise AssertionError(process.communicate(timeout=10)[1])
    return line


# --- the end of the program ---------------------------------------------------------

_LEFT_OPEN = """
    client = mcpsync.connect(url, on_notification=print)
    client.call_tool("echo", {"message": "x"})
"""


@pytest.mark.parametrize(
    "ending",
    [
        "",
        "import atexit; atexit.register(lambda: say('bye'))",
        "threading.Thread(target=client.call_tool, daemon=True,"
        " args=('wait', {'seconds': 60})).start(); time.sleep(0.3)",
        "sys.exit(0)",
    ],
    ids=["plain", "atexit", "call in flight", "sys.exit"],
)
def test_an_exit_without_a_close_ends_the_session_quietly(ending: str) -> None:
    with serve_http(era="legacy") as server:
        with running(textwrap.dedent(_LEFT_OPEN) + ending, server.url) as process:
            finish(process)
        assert server.stats["deleted_sessions"] == 1


def test_an_exit_does_not_wait_for_a_server_that_is_silent() -> None:
    sessions = Sessions()

    def script(request: Recorded) -> Reply:
        if request.method == "DELETE":
            server.stopped.wait(30)
        return sessions(request)

    with ScriptedServer(script) as server:
        with running(_LEFT_OPEN, server.url) as process:
            # The clock for all servers together is 3 s.
            finish(process, 8)
        assert len(server.of("DELETE")) == 1


def test_the_exit_status_is_the_programs_own() -> None:
    with serve_http(era="legacy") as server:
        with running(
            textwrap.dedent(_LEFT_OPEN) + "sys.exit(7)", server.url
        ) as process:
            assert process.communicate(timeout=10)[1] == ""
        assert process.returncode == 7
        assert server.stats["deleted_sessions"] == 1


def test_an_exit_on_http_sse_is_quiet_too() -> None:
    script = _LEFT_OPEN.replace(
        "mcpsync.connect(url,",
        "mcpsync.connect(__import__('mcpsync.transports.sse', fromlist=['x'])"
        ".SSETransport(url),",
    )
    with serve_http(era="legacy") as server:
        with running(script, server.sse_url) as process:
            finish(process)


# --- Ctrl-C -------------------------------------------------------------------------


@ERAS
def test_an_interrupt_ends_the_call_and_not_the_client(era: str) -> None:
    script = """
    client = mcpsync.connect(url)
    for _ in range(3):
        try:
            say("calling")
            client.call_tool("wait", {"seconds": 60})
        except KeyboardInterrupt:
            say("interrupted")
        say(client.call_tool("add", {"a": 1, "b": 2}).data["sum"])
    client.close()
    """
    with serve_http(era=era) as server:
        with running(script, server.url) as process:
            for number in range(1, 4):
                assert said(process) == "calling"
                eventually(lambda: server.stats["in_flight"] == 1)
                interrupt(process)
                assert said(process) == "interrupted"
                assert said(process) == "3"
                eventually(lambda: server.stats["cancelled"] == number)
            finish(process)


def test_an_interrupt_before_the_headers() -> None:
    def script(request: Recorded) -> Reply:
        if request.rpc_method == "server/discover":
            found = {"supportedVersions": ["2026-07-28"], "capabilities": {}}
            return json_reply(answer_to(request, found))
        if request.json["params"]["name"] == "silent":
            server.stopped.wait(30)
        return json_reply(answer_to(request, {"content": [], "resultType": "complete"}))

    code = """
    client = mcpsync.connect(url)
    try:
        client.call_tool("silent")
    except KeyboardInterrupt:
        say("interrupted")
    say(client.call_tool("echo").is_error)
    client.close()
    """
    with ScriptedServer(script) as server:
        with running(code, server.url) as process:
            server.await_requests(2)
            interrupt(process)
            assert finish(process).split() == ["interrupted", "False"]


@ERAS
def test_an_exception_at_any_moment_leaves_the_client_usable(era: str) -> None:
    """As the time limits of task queues raise it, out of a signal handler."""
    script = """
    import random
    class Limit(Exception): pass
    def ring(*_):
        raise Limit
    signal.signal(signal.SIGALRM, ring)
    client = mcpsync.connect(url)
    rang = 0
    for number in range(60):
        try:
            signal.setitimer(signal.ITIMER_REAL, random.uniform(0.0002, 0.006))
            try:
                client.call_tool("count", {"to": 2, "delay": 0.001})
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
        except Limit:
            rang += 1
        result = client.call_tool("add", {"a": number, "b": 1}, timeout=10)
        assert result.data == {"sum": number + 1}
    say(rang > 0)
    client.close()
    """
    with serve_http(era=era) as server:
        with running(script, server.url) as process:
            # Libraries may complain on stderr about objects that were half made.
            assert process.communicate(timeout=30)[0] == "True\n"
        eventually(lambda: server.stats["in_flight"] == 0)


# --- forks --------------------------------------------------------------------------


@ERAS
def test_a_child_works_on_a_session_of_its_own(era: str) -> None:
    script = """
    client = mcpsync.connect(url, on_notification=print)
    pending = client.start_call("wait", {"seconds": 1})
    while client.call_tool("stats").data["in_flight"] < 1:
        time.sleep(0.01)
    child = os.fork()
    if child == 0:
        assert client.call_tool("add", {"a": 2, "b": 2}).data == {"sum": 4}
        # Leaves as programs do, with everything that runs at the end.
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert pending.result(5).data == {"waited": 1}
    stats = client.call_tool("stats").data
    say(stats["sessions"], stats["deleted_sessions"])
    client.close()
    """
    with serve_http(era=era) as server:
        with running(script, server.url) as process:
            said_last = finish(process).split()
        assert said_last == (["0", "0"] if era == "modern" else ["1", "1"])
        assert server.stats["deleted_sessions"] == (0 if era == "modern" else 2)


def test_a_child_works_on_connections_of_its_own() -> None:
    script = """
    client = mcpsync.connect(url)
    client.call_tool("parent")
    child = os.fork()
    if child == 0:
        client.call_tool("child")
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    client.call_tool("parent")
    client.close()
    """
    with ScriptedServer(Sessions()) as server:
        with running(script, server.url) as process:
            finish(process)
        calls = [
            (request.json["params"]["name"], request.connection)
            for request in server.of("tools/call")
        ]
    (_, first), (_, second), (_, third) = calls
    assert [name for name, _ in calls] == ["parent", "child", "parent"]
    assert first == third != second


def test_a_server_sees_the_end_although_a_child_lives() -> None:
    script = """
    client = mcpsync.connect(url, on_notification=print)
    client.call_tool("echo")
    child = os.fork()
    if child == 0:
        sys.stdin.read()
        os._exit(0)
    client.close()
    say("closed")
    os.waitpid(child, 0)
    """
    sessions = Sessions(get=lambda request: sse_reply(UNTIL_CLOSED))
    with ScriptedServer(sessions) as server:
        with running(script, server.url) as process:
            assert said(process) == "closed"
            eventually(lambda: server.open_connections == 0)
            finish(process)


def test_a_child_in_the_middle_of_a_handshake_keeps_nothing(tmp_path: Any) -> None:
    script = """
    client = mcpsync.Client(url)
    def call():
        try:
            client.open()
        except mcpsync.MCPError as error:
            say(type(error).__name__)
    thread = threading.Thread(target=call)
    thread.start()
    sys.stdin.readline()
    child = os.fork()
    if child == 0:
        sys.stdin.read()
        os._exit(0)
    client.close()
    thread.join()
    say("closed")
    os.waitpid(child, 0)
    """
    made = certificate(tmp_path)
    with hostile(lambda c, *_: [c.recv(65536) for _ in range(2)], False) as server:
        url = "https://localhost:%d/mcp" % server.port
        code = "os.environ['REQUESTS_CA_BUNDLE'] = sys.argv[2]\n"
        with running(code + textwrap.dedent(script), url, made.cert) as process:
            eventually(lambda: server.connections)
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
            assert said(process) == "ClientClosed"
            assert said(process) == "closed"
            eventually(lambda: server.open_connections == 0)
            finish(process)


def test_a_child_that_forgets_the_client_says_nothing() -> None:
    script = """
    import gc
    client = mcpsync.connect(url, on_notification=print)
    child = os.fork()
    if child == 0:
        client.close()
        del client
        gc.collect()
        sys.exit(0)
    assert os.waitpid(child, 0)[1] == 0
    client.call_tool("echo")
    say("still there")
    client.close()
    """
    sessions = Sessions(get=lambda request: sse_reply(UNTIL_CLOSED))
    with ScriptedServer(sessions) as server:
        with running(script, server.url) as process:
            assert finish(process).split() == ["still", "there"]
        assert len(server.of("DELETE")) == 1
        assert len(server.of("initialize")) == 1


def test_workers_of_multiprocessing_may_use_the_client() -> None:
    script = """
    import multiprocessing
    client = mcpsync.connect(url)
    def work(number):
        return client.call_tool("add", {"a": number, "b": 1}).data["sum"]
    with multiprocessing.get_context("fork").Pool(2) as pool:
        say(sum(pool.map(work, range(10))))
        pool.close()
        pool.join()
    say(work(41))
    client.close()
    """
    with serve_http(era="legacy") as server:
        with running(script, server.url) as process:
            assert finish(process).split() == ["55", "42"]
