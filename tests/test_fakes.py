"""The tools of the tests themselves: an alarm that cannot ring proves nothing."""

from __future__ import annotations

import http.client
import json
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
import urllib.request
from pathlib import Path
from typing import Any, Dict, Iterator, List

import pytest

from .fakes import CANARY, bounded
from .fakes.hostile import hostile, respond
from .fakes.leaks import leaks, no_leaks, snapshot
from .fakes.scripted_http import (
    UNTIL_CLOSED,
    Break,
    Recorded,
    Reply,
    ScriptedServer,
    answer_to,
    json_reply,
    sse_reply,
)
from .fakes.stdio_server import (
    DIES_ON_DISCOVER,
    LEGACY,
    MODERN,
    PRINTS_JUNK,
    exits_with,
    python_server,
)

on_linux = os.path.isdir("/proc/self/fd")


# --- bounded ------------------------------------------------------------------------


def test_bounded_returns_and_raises_what_the_function_does() -> None:
    assert bounded(lambda: 42) == 42
    with pytest.raises(KeyError):
        bounded(lambda: {}["missing"])


def test_bounded_names_the_place_where_it_hangs() -> None:
    gate = threading.Event()

    def hang_here() -> None:
        gate.wait(60)

    with pytest.raises(AssertionError, match="hang_here"):
        bounded(hang_here, 0.1)
    gate.set()


# --- leaks --------------------------------------------------------------------------


def test_a_thread_of_ours_is_a_leak() -> None:
    before = snapshot()
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait, args=(60,), name="mcpsync-reader-x")
    thread.start()
    found = leaks(before, 0.0)
    gate.set()
    thread.join()
    assert len(found) == 1 and "thread mcpsync-reader-x" in found[0]
    assert leaks(before) == []


@pytest.mark.parametrize("name", ["mcpsync-watchdog", "of-somebody-else"])
def test_other_threads_are_not(name: str) -> None:
    before = snapshot()
    gate = threading.Event()
    thread = threading.Thread(target=gate.wait, args=(60,), name=name)
    thread.start()
    found = leaks(before, 0.0)
    gate.set()
    thread.join()
    assert found == []


if on_linux:

    def test_an_open_descriptor_is_a_leak() -> None:
        before = snapshot()
        with socket.socket():
            found = leaks(before, 0.0)
        assert len(found) == 1 and "socket:" in found[0]
        assert leaks(before) == []

    def test_a_running_child_and_a_zombie_are_leaks() -> None:
        before = snapshot()
        command = [sys.executable, "-c", "input()"]
        with subprocess.Popen(command, stdin=subprocess.PIPE) as child:
            running = leaks(before, 0.0)
            assert child.stdin is not None
            child.stdin.write(b"\n")
            child.stdin.close()
            os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
            zombie = leaks(before, 0.0)
        assert any("child process %d" % child.pid in leak for leak in running)
        assert zombie == ["child process %d: (a zombie)" % child.pid]
        assert leaks(before) == []

    def test_no_leaks_fails_the_block() -> None:
        with socket.socket() as left:
            with pytest.raises(AssertionError, match="left behind"):
                with no_leaks(0.0):
                    kept = left.dup()
            kept.close()


# --- the fixtures -------------------------------------------------------------------

_LEAKING = {
    "thread": """
        import threading
        def test():
            threading.Thread(
                target=threading.Event().wait, name="mcpsync-reader-x", daemon=True
            ).start()
        """,
    "descriptor": """
        import os
        def test():
            os.pipe()
        """,
    "child": """
        import subprocess, sys
        def test():
            global child
            child = subprocess.Popen([sys.executable, "-c", "input()"],
                                     stdin=subprocess.PIPE)
        def teardown_module():
            child.communicate(b"\\n")
        """,
    "log": """
        import logging
        def test(canary):
            logging.getLogger("mcpsync.http").debug("token %s", canary)
        """,
    "exception": """
        import pytest
        from mcpsync.exceptions import HTTPStatusError
        def test(canary):
            with pytest.raises(HTTPStatusError):
                raise HTTPStatusError("no", status=401, body_excerpt=canary)
        """,
}


def _run_pytest(tmp_path: Path, source: str) -> "subprocess.CompletedProcess[str]":
    here = Path(__file__).parent
    test = tmp_path / "test_it.py"
    hurry = "from tests.fakes import leaks\nleaks.PATIENCE = 0.2\n"
    test.write_text(hurry + textwrap.dedent(source), encoding="utf-8")
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "tests.conftest", str(test)]
        + ["--rootdir", str(tmp_path), "-c", os.devnull, "-p", "no:cacheprovider"],
        cwd=here.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=60,
    )


_SEEN_EVERYWHERE = ["exception", "log", "thread"]
_SEEN = _SEEN_EVERYWHERE + (["child", "descriptor"] if on_linux else [])


@pytest.mark.parametrize("kind", _SEEN)
def test_the_fixtures_fail_a_run_that_leaks(kind: str, tmp_path: Path) -> None:
    ran = _run_pytest(tmp_path, _LEAKING[kind])
    assert ran.returncode == 1, ran.stdout
    wanted = "the canary came out" if kind in ("log", "exception") else "left behind"
    assert wanted in ran.stdout


def test_the_fixtures_pass_a_run_that_does_not(tmp_path: Path) -> None:
    ran = _run_pytest(
        tmp_path,
        """
        import logging
        from mcpsync.exceptions import InputRequired, RequestTimeout, ServerError
        def test(canary):
            logging.getLogger("mcpsync").warning("a token was refused")
            logging.getLogger("another").warning("not ours: %s", canary)
            assert InputRequired("ask", {}, canary).state == canary
            assert ServerError(1, "no", data=canary).data == canary
            assert RequestTimeout().args == ("the request timed out",)
        """,
    )
    assert ran.returncode == 0, ran.stdout


# --- the HTTP servers ---------------------------------------------------------------


def test_hostile_writes_any_bytes_and_counts() -> None:
    def answer(connection: socket.socket, head: bytes, body: bytes) -> bool:
        connection.sendall(respond(body.upper(), "X-Odd: \x01"))
        return True

    with hostile(answer) as server:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=5)
        for word in (b"one", b"two"):
            connection.request("POST", "/mcp", word)
            assert connection.getresponse().read() == word.upper()
        connection.close()
    assert server.connections == 1
    assert [body for _, body in server.requests] == [b"one", b"two"]
    assert server.requests[0][0].startswith(b"POST /mcp HTTP/1.1\r\n")


def test_hostile_ends_silent_connections_when_it_closes() -> None:
    def answer(connection: socket.socket, head: bytes, body: bytes) -> None:
        server.stopped.wait(30)

    with hostile(answer, read_request=False) as server:
        client = socket.create_connection(("127.0.0.1", server.port), 5)
    assert client.recv(1) == b""
    client.close()


def test_hostile_reports_what_its_answer_raises() -> None:
    def answer(connection: socket.socket, head: bytes, body: bytes) -> None:
        raise ValueError("the script is wrong")

    with pytest.raises(AssertionError, match="the script is wrong"):
        with hostile(answer, read_request=False) as server:
            with socket.create_connection(("127.0.0.1", server.port), 5) as client:
                client.recv(1)


def _post(connection: http.client.HTTPConnection, message: Dict[str, Any]) -> Any:
    connection.request("POST", "/mcp", json.dumps(message), {"Mcp-Method": "ping"})
    return connection.getresponse()


@pytest.fixture
def connection_to() -> Iterator[Any]:
    opened: List[http.client.HTTPConnection] = []

    def connect(server: ScriptedServer) -> http.client.HTTPConnection:
        port = int(server.url.split(":")[2].split("/")[0])
        opened.append(http.client.HTTPConnection("127.0.0.1", port, timeout=5))
        return opened[-1]

    yield connect
    for connection in opened:
        connection.close()


def test_scripted_server_records_and_keeps_the_connection(connection_to: Any) -> None:
    def script(request: Recorded) -> Reply:
        if request.method == "GET":
            return Reply(405)
        return json_reply(answer_to(request, {}), headers={"X-Seen": "yes"})

    with ScriptedServer(script) as server:
        connection = connection_to(server)
        response = _post(connection, {"id": 7, "method": "ping"})
        assert response.headers["X-Seen"] == "yes"
        assert json.loads(response.read()) == {"jsonrpc": "2.0", "id": 7, "result": {}}
        connection.request("GET", "/mcp")
        assert connection.getresponse().read() == b""
        first, second = server.requests
        assert server.of("ping") == [first]
        assert first.headers["mcp-method"] == "ping"
        assert (second.method, second.path) == ("GET", "/mcp")
        assert server.connections == 1 and second.connection == 1
        assert server.await_requests(1, "GET") == [second]
        with pytest.raises(AssertionError, match="1 requests came"):
            server.await_requests(2, "GET", limit=0.05)


def test_scripted_stream_waits_for_its_gate(connection_to: Any) -> None:
    gate = threading.Event()

    def script(request: Recorded) -> Reply:
        return sse_reply({"first": 1}, gate, b": comment\n\n", 0.001, {"second": 2})

    with ScriptedServer(script) as server:
        response = _post(connection_to(server), {"id": 1, "method": "x"})
        assert response.headers["Content-Type"] == "text/event-stream"
        assert response.readline() == b'data: {"first": 1}\n'
        gate.set()
        assert response.read() == b'\n: comment\n\ndata: {"second": 2}\n\n'


def test_scripted_stream_can_break_and_see_the_client_go(connection_to: Any) -> None:
    def breaks() -> None:
        raise Break

    def script(request: Recorded) -> Reply:
        if request.rpc_method == "break":
            return sse_reply({"x": 1}, breaks)
        return sse_reply({"x": 1}, UNTIL_CLOSED)

    with ScriptedServer(script) as server:
        with pytest.raises(http.client.IncompleteRead):
            _post(connection_to(server), {"id": 1, "method": "break"}).read()
        connection = connection_to(server)
        response = _post(connection, {"id": 2, "method": "stay"})
        assert response.readline().startswith(b"data")
        assert not server.disconnected.is_set()
        response.close()
        connection.close()
        assert server.disconnected.wait(5)


def test_scripted_server_reports_what_its_script_raises() -> None:
    def script(request: Recorded) -> Reply:
        raise ValueError("the script is wrong")

    with pytest.raises(AssertionError, match="the script is wrong"):
        with ScriptedServer(script) as server:
            with pytest.raises(OSError):
                urllib.request.urlopen(server.url, timeout=5)


# --- the stdio servers --------------------------------------------------------------

_INITIALIZE = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {}}
_INITIALIZED = {"jsonrpc": "2.0", "method": "notifications/initialized"}
_CALL = {"jsonrpc": "2.0", "id": 2, "method": "tools/call", "params": {"name": "hi"}}
_DISCOVER = {"jsonrpc": "2.0", "id": 0, "method": "server/discover", "params": {}}


def _talk(argv: List[str], *messages: Any) -> "subprocess.CompletedProcess[bytes]":
    lines = b"".join(json.dumps(message).encode() + b"\n" for message in messages)
    return subprocess.run(argv, input=lines, capture_output=True, timeout=30)


def _results(ran: "subprocess.CompletedProcess[bytes]") -> Dict[int, Any]:
    found = {}
    for line in ran.stdout.splitlines():
        if line.endswith(b"}"):
            message = json.loads(line)
            found[message["id"]] = message.get("result", message.get("error"))
    return found


@pytest.mark.parametrize("argv", [LEGACY, PRINTS_JUNK], ids=["legacy", "junk"])
def test_scripted_child_shakes_hands_and_serves(argv: List[str]) -> None:
    ran = _talk(argv, _DISCOVER, _INITIALIZE, _INITIALIZED, _CALL)
    results = _results(ran)
    assert ran.returncode == 0 and ran.stderr == b""
    assert results[0]["code"] == -32601
    assert results[1]["protocolVersion"] == "2025-06-18"
    assert results[2]["content"][0]["text"] == "hi"


def test_modern_child_answers_discovery() -> None:
    results = _results(_talk(MODERN, _DISCOVER, _CALL))
    assert results[0]["supportedVersions"] == ["2026-07-28"]
    assert results[2]["content"][0]["text"] == "hi"


def test_odd_children_end_as_told() -> None:
    died = _talk(DIES_ON_DISCOVER, _DISCOVER)
    assert (died.returncode, died.stdout) == (3, b"")
    assert b"expected initialize" in died.stderr
    exited = _talk(exits_with(7, "API_KEY missing"))
    assert (exited.returncode, exited.stderr.strip()) == (7, b"API_KEY missing")
    custom = _talk(python_server("note('x')", "say('raw\\n')"))
    assert custom.stdout.splitlines()[1:] == [b"raw"]


def test_the_run_logs_at_debug_for_the_canary(canary: str) -> None:
    assert canary == CANARY
    assert logging.getLogger("mcpsync").isEnabledFor(logging.DEBUG)
