"""The demo server as a child process."""

from __future__ import annotations

from .speaking import (
    LEGACY,
    PREFIX,
    SECONDS,
    Pipes,
    answer,
    call,
    cancelled,
    connection,
    initialize,
    modern,
    modern_call,
    post,
    request,
    until,
)


def test_stdio_serves_both_eras_at_once():
    with Pipes("--name", "n") as server:
        result = server.ask(modern(1, "server/discover"))["result"]
        assert result["_meta"][PREFIX + "serverInfo"]["name"] == "n"
        assert server.ask(initialize())["result"]["protocolVersion"] == LEGACY[0]
        message = call(1, "echo", {"message": "a\u2028b\ud83d\ude00"})
        echoed = server.ask(message)["result"]["structuredContent"]["echo"]
        assert echoed == "ECHOING: a\u2028b\U0001f600"
        assert server.ask(modern_call(2, "add", {"a": 1, "b": 2}))["id"] == 2
        assert server.ask(request(3, "ping"))["result"] == {}
        code, rest, stderr = server.end()
    assert (code, rest, stderr) == (0, b"", b"demo server ready\n")


def test_stdio_runs_calls_together_and_cancels_them():
    with Pipes() as server:
        server.send(initialize())
        server.receive()
        server.send(*(call(i, "wait", {"seconds": 60}) for i in range(5)))
        until(lambda: counted(server)["in_flight"] == 5)
        server.send(*(cancelled(i) for i in range(5)))
        until(lambda: counted(server)["cancelled"] == 5)
        assert counted(server)["max_in_flight"] == 5
        server.send(modern_call("m", "wait", {"seconds": 60}), cancelled("m"))
        until(lambda: counted(server)["cancelled"] == 6)
        server.send(call(7, "wait", {"seconds": 60}))
        assert server.end()[:2] == (0, b"")


def counted(server):
    return server.ask(call("stats", "stats"))["result"]["structuredContent"]


def test_stdio_asks_the_client():
    with Pipes("--era", "legacy") as server:
        server.ask(initialize(capabilities={"elicitation": {}}))
        question = server.ask(call(1, "ask", {"question": "q"}))
        assert question["method"] == "elicitation/create"
        assert server.ask(request(2, "ping"))["id"] == 2
        final = server.ask(answer(question, {"action": "decline"}))
        assert final["result"]["structuredContent"]["action"] == "decline"


def test_stdio_refuses_what_is_no_message():
    with Pipes() as server:
        server.process.stdin.write(b"\n{nonsense}\n")
        server.process.stdin.flush()
        assert server.receive()["error"]["code"] == -32700
        assert server.ask(17)["error"]["code"] == -32600
        assert server.ask([request(1, "ping")])["error"]["code"] == -32600
        server.ask(initialize("2025-03-26"))
        assert server.ask([request(1, "ping")])[0]["id"] == 1


def test_stdio_crash():
    with Pipes() as server:
        server.send(modern_call(1, "crash"))
        assert server.process.wait(SECONDS) == 3
        code, rest, stderr = server.end()
    assert (code, rest) == (3, b"") and b"crashing" in stderr


def test_http_command_line():
    options = ["--http", "0", "--page-size", "2", "--era", "modern"]
    with Pipes(*options) as server:
        line = server.process.stdout.readline().decode()
        assert line.startswith("http://127.0.0.1:") and line.endswith("/mcp\n")
        port = int(line.split(":")[2].split("/")[0])
        with connection(port) as http_connection:
            result = post(http_connection, modern(1, "tools/list")).json()["result"]
            assert len(result["tools"]) == 2
        server.process.terminate()
        assert server.process.wait(SECONDS) == 0
    with Pipes("--page-size", "0") as server:
        assert server.process.wait(SECONDS) == 2
