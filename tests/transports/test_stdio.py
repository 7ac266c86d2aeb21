"""The stdio transport against servers that do everything wrong."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import signal
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Sequence, Union

import pytest

import mcpsync
from mcpsync._deadline import Deadline
from mcpsync.exceptions import (
    ClientClosed,
    ConfigError,
    InvalidMessage,
    LocalProtocolError,
    MessageTooLarge,
    RequestCancelled,
    RequestTimeout,
    ServerBusy,
    ServerExited,
    ServerNotStarted,
)
from mcpsync.protocol.jsonrpc import (
    Notification,
    Outgoing,
    Request,
    Response,
    encode,
)
from mcpsync.transports import _pipes
from mcpsync.transports._framing import Frame
from mcpsync.transports.base import Limits, Note, Profile
from mcpsync.transports.stdio import StdioTransport

from ..fakes import CANARY, bounded
from ..fakes.leaks import leaks, no_leaks, rss_mib, snapshot
from ..fakes.stdio_server import (
    FLOODS_STDERR,
    IGNORES_EVERYTHING,
    IGNORES_SIGTERM,
    LEAVES_GRANDCHILD,
    LEGACY,
    PRINTS_JUNK,
    exits_with,
    python_server,
)

Argv = List[str]

ECHO = python_server('serve({"tools/call": lambda params: params})')


def request(id: int, method: str = "tools/call", **params: Any) -> Outgoing:
    """Return a request as the legacy era makes it."""
    return Outgoing(
        id,
        method,
        encode(method, params, id),
        accepts_requests=True,
        cancellation="notify",
        notice=functools.partial(notice, id),
    )


def notice(id: int, reason: str) -> Outgoing:
    params = {"requestId": id, "reason": reason}
    return Outgoing(None, "cancelled", encode("notifications/cancelled", params))


def soon(seconds: float = 10) -> Deadline:
    return Deadline.after(seconds)


@contextmanager
def opened(
    argv: Argv, seen: Optional[List[Any]] = None, **options: Any
) -> Iterator[StdioTransport]:
    """Yield a transport to a server; `seen` gets what it sees besides answers."""
    transport = StdioTransport(argv, **options)
    heard: List[Any] = [] if seen is None else seen
    try:
        transport.open(heard.append, soon())
        yield transport
    finally:
        bounded(transport.close)


def ask(
    transport: StdioTransport, id: int = 1, seconds: float = 10, **params: Any
) -> Any:
    """Return the result of one request."""
    deadline = soon(seconds)
    with transport.begin(request(id, **params), deadline) as exchange:
        answer = exchange.receive(deadline)
        assert isinstance(answer, Response) and answer.id == id
        return answer.result


def until(condition: Callable[[], Any]) -> None:
    """Wait for what another process does without telling anybody."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


def is_running(pid: int) -> bool:
    """Return whether there is such a process, zombies aside."""
    try:
        with open("/proc/%d/stat" % pid) as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


# --- what can be given --------------------------------------------------------------


@pytest.mark.parametrize(
    "argv",
    [[], (), "uvx server", b"uvx", [""], ["a\0b"], [1], ["a", None], [b"a"], None, {}],
)
def test_a_command_that_is_none(argv: Any) -> None:
    with pytest.raises(ConfigError):
        StdioTransport(argv)


@pytest.mark.parametrize(
    "options",
    [
        {"env": {"A": 1}},
        {"env": {1: "a"}},
        {"env": {"A=B": "c"}},
        {"env": {"": "c"}},
        {"env": {"A": "b\0c"}},
        {"env_vars": "HOME"},
        {"env_vars": [""]},
        {"env_vars": [1]},
        {"env_vars": ["A=B"]},
        {"stderr": "nowhere"},
    ],
)
def test_options_that_are_none(options: Dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        StdioTransport(["true"], **options)


def test_no_argument_is_shown() -> None:
    transport = StdioTransport(["server", "--token", CANARY], env={"KEY": CANARY})
    assert repr(transport) == "StdioTransport('server')"
    assert transport.name == "server"


def test_a_path_is_a_program(tmp_path: Path) -> None:
    program = tmp_path / "server"
    program.write_text("#!/bin/sh\nexit 5\n")
    program.chmod(0o755)
    with opened([program], name="mine") as transport:  # type: ignore[list-item]
        with pytest.raises(ServerExited) as caught:
            ask(transport)
    assert (caught.value.returncode, caught.value.server) == (5, "mine")


def test_nothing_can_be_begun_before_it_is_open() -> None:
    transport = StdioTransport(ECHO)
    with pytest.raises(LocalProtocolError, match="not open"):
        ask(transport)
    assert not transport.alive
    assert (transport.pid, transport.stderr_tail) == (None, "")


@pytest.mark.parametrize("options", [{}, {"cwd": "/no/such/directory"}])
def test_a_server_that_cannot_be_started(options: Dict[str, Any]) -> None:
    argv = ECHO if options else ["no-such-server-anywhere"]
    transport = StdioTransport(argv, name="mine", **options)
    with no_leaks(0), pytest.raises(ServerNotStarted) as caught:
        transport.open([].append, soon())
    assert caught.value.server == "mine"
    assert caught.value.command == argv[0]
    assert not transport.alive


# --- framing ------------------------------------------------------------------------

#: Answers the first request with the bytes that its parameters hold, as they are,
#: in the pieces that they hold.
SAYS = python_server("""
    request = read()
    for piece in request["params"]["pieces"]:
        say(piece.encode("latin-1"))
        time.sleep(0.01)
    if request["params"].get("then") == "exit":
        sys.exit()
    serve({"tools/call": lambda params: params})
    """)

ANSWER = '{"jsonrpc": "2.0", "id": 1, "result": {"a": "b"}}'


@pytest.mark.parametrize(
    "pieces",
    [
        [ANSWER + "\n"],
        [ANSWER, "\n"],
        [ANSWER[:20], ANSWER[20:30], ANSWER[30:] + "\n"],
        [ANSWER + "\r\n"],
        ["\xef\xbb\xbf  " + ANSWER + "\n"],
        ["\n\r\n \n" + ANSWER + "\n"],
        ["Listening on stdio\n" * 10, ANSWER + "\n"],
        ['{"jsonrpc": "2.0", \n', ANSWER + "\n"],
        ["\xff\xfe\x00\n", "\x00" * 100 + "\n", ANSWER + "\n"],
        ["[]\n", '"text"\n', "5\n", "null\n", "[" * 100_000 + "\n", ANSWER + "\n"],
        ['{"method": "x"}\n', '{"jsonrpc": "1.0", "id": 1}\n', ANSWER + "\n"],
        ['{"jsonrpc": "2.0", "id": true, "result": {}}\n', ANSWER + "\n"],
        ['{"jsonrpc": "2.0", "id": 1.0, "result": {}}\n', ANSWER + "\n"],
        ['{"jsonrpc": "2.0", "id": "1", "result": {}}\n', ANSWER + "\n"],
        ['{"jsonrpc": "2.0", "id": 1, "method": 5}\n', ANSWER + "\n"],
        ["[" + ANSWER + "]\n", ANSWER + "\n"],
        [ANSWER.replace("b", "\u2028".encode().decode("latin-1")) + "\n"],
    ],
    ids=[
        "whole",
        "end apart",
        "pieces",
        "CRLF",
        "byte order mark",
        "blank lines",
        "banner",
        "half a message",
        "bytes",
        "other JSON",
        "not JSON-RPC",
        "id true",
        "id 1.0",
        "id '1'",
        "malformed request",
        "batch",
        "line separator",
    ],
)
def test_the_answer_is_found_in_what_a_server_writes(pieces: List[str]) -> None:
    with opened(SAYS) as transport:
        assert set(ask(transport, pieces=pieces)) == {"a"}
        assert ask(transport, 2, x=2) == {"x": 2}


def test_a_last_answer_without_a_line_end_counts() -> None:
    with opened(SAYS) as transport:
        assert ask(transport, pieces=[ANSWER], then="exit") == {"a": "b"}


def test_half_an_answer_at_the_end_is_no_answer() -> None:
    with opened(SAYS) as transport:
        with pytest.raises(ServerExited):
            ask(transport, pieces=[ANSWER[:-5]], then="exit")


@pytest.mark.parametrize(
    "text",
    [
        '{"jsonrpc": "2.0", "id": 1, "result": {"x": NaN}}',
        '{"jsonrpc": "2.0", "id": 1, "result": {"x": %s}}' % ("9" * 1000),
        '{"jsonrpc": "2.0", "id": 1, "result": %s1%s}' % ("[" * 300, "]" * 300),
        '{"jsonrpc": "2.0", "id": 1, "result": {}, "error": {}}',
        '{"jsonrpc": "2.0", "id": 1}',
        '{"jsonrpc": "2.0", "id": 1, "error": "no"}',
        '{"jsonrpc": "1.0", "id": 1, "result": {}}',
        '{"id": 1, "result": {}}',
        '{"jsonrpc": "2.0", "id": 1, "result": "\xff"}',
        '{"result": {"x": NaN, "id": 7}, "jsonrpc": "2.0", "id": 1}',
    ],
    ids=[
        "NaN",
        "digits",
        "depth",
        "both",
        "neither",
        "error",
        "other version",
        "no version",
        "UTF-8",
        "id last",
    ],
)
def test_an_unusable_answer_fails_its_own_call(text: str) -> None:
    with opened(SAYS) as transport:
        with pytest.raises(InvalidMessage):
            ask(transport, pieces=[text + "\n"])
        assert ask(transport, 2, x=2) == {"x": 2}


def test_two_messages_in_one_write() -> None:
    first = '{"jsonrpc": "2.0", "method": "notifications/x", "params": {"n": 1}}\n'
    seen: List[Any] = []
    with opened(SAYS, seen) as transport:
        assert ask(transport, pieces=[first + ANSWER + "\n" + first])
        until(lambda: len(seen) == 2)
    assert seen == [Notification("notifications/x", {"n": 1})] * 2


def test_batches_where_the_protocol_has_them() -> None:
    with opened(SAYS) as transport:
        transport.establish(Profile(batches=True))
        assert ask(transport, pieces=["[" + ANSWER + "]\n"]) == {"a": "b"}
        transport.establish(None)


def test_one_bad_message_of_a_batch_leaves_the_others() -> None:
    says = python_server("""
        first, second = read(), read()
        bad = {"jsonrpc": "2.0", "id": second["id"]}
        good = {"jsonrpc": "2.0", "id": first["id"], "result": "good"}
        say([bad, {"id": 3}, 4, good])
        serve()
        """)
    with opened(says) as transport:
        transport.establish(Profile(batches=True))
        with transport.begin(request(1), soon()) as first:
            with pytest.raises(InvalidMessage):
                ask(transport, 2)
            assert first.receive(soon()) == Response(1, result="good")


def test_junk_is_reported_once() -> None:
    seen: List[Any] = []
    with opened(SAYS, seen) as transport:
        pieces = ["\x1b[2JListening\n", "more\n", "[]\n", ANSWER + "\n"]
        assert ask(transport, pieces=pieces)
    (note,) = seen
    assert isinstance(note, Note) and note.level == logging.WARNING
    assert "\\x1b[2JListening" in note.text and "\x1b" not in note.text


def test_a_client_lives_with_junk(caplog: pytest.LogCaptureFixture) -> None:
    with mcpsync.connect(PRINTS_JUNK, name="noisy") as client:
        assert client.call_tool("hello").text == "hello"
    until(lambda: caplog.records)
    (warning,) = [r for r in caplog.records if r.levelno == logging.WARNING]
    assert "'noisy'" in warning.getMessage() and "Welcome" in warning.getMessage()


# --- sizes --------------------------------------------------------------------------

#: Answers with as many bytes as the parameters say, in the order they say.
FILLS = python_server("""
    def large(params):
        fill = "x" * params["size"]
        result = {"fill": fill, "id": 99}
        body = {"result": result, "jsonrpc": "2.0", "id": params["id"]}
        keys = params.get("keys", ["jsonrpc", "id", "result"])
        say({key: body[key] for key in keys})
    while True:
        message = read()
        if message is None:
            break
        if message["params"].get("size"):
            large({**message["params"], "id": message["id"]})
        else:
            answer(message, {})
    """)

SMALL = Limits(message_bytes=10_000)


@pytest.mark.parametrize("size", [9_950, 70_000, 1_000_000])
@pytest.mark.parametrize(
    "keys", [["jsonrpc", "id", "result"], ["result", "jsonrpc", "id"]]
)
def test_an_answer_that_is_too_large_fails_its_own_call(
    size: int, keys: List[str]
) -> None:
    with opened(FILLS, limits=SMALL) as transport:
        with transport.begin(request(2), soon()) as other:
            with pytest.raises(MessageTooLarge) as caught:
                ask(transport, 99, size=size, keys=keys)
            assert caught.value.limit == 10_000
            assert other.receive(soon()) == Response(2, result={})
        assert ask(transport, 3) == {}


def test_a_large_message_that_answers_nothing_is_skipped() -> None:
    says = python_server("""
        message = read()
        say({"jsonrpc": "2.0", "method": "m", "params": {"id": 1, "x": "x" * 20000}})
        say({"jsonrpc": "2.0", "id": 1, "method": "m", "params": {"x": "x" * 20000}})
        answer(message, {})
        serve()
        """)
    seen: List[Any] = []
    with opened(says, seen, limits=SMALL) as transport:
        assert ask(transport) == {}
    (note,) = seen
    assert "10000 bytes" in note.text


def test_an_answer_of_16_mib_arrives() -> None:
    with opened(FILLS) as transport:
        assert len(ask(transport, size=16 * 1024 * 1024 - 100)["fill"]) > 16_000_000


def test_a_line_of_100_mb_costs_no_memory() -> None:
    # In the child's words: json.dumps of it would take longer than the test may.
    says = python_server("""
        message = read()
        os.write(1, b'{"jsonrpc":"2.0","id":1,"result":"')
        for _ in range(1600):
            os.write(1, b"x" * 65536)
        os.write(1, b'"}\\n')
        serve({"tools/call": lambda params: params})
        """)
    limits = Limits(message_bytes=1 << 20)
    with opened(says, limits=limits) as transport:
        before = rss_mib()
        with pytest.raises(MessageTooLarge):
            ask(transport)
        assert ask(transport, 2, x=2) == {"x": 2}
        assert rss_mib() - before < 20


def test_an_argument_of_8_mib_arrives() -> None:
    with opened(ECHO) as transport:
        text = "x" * (8 << 20)
        assert ask(transport, text=text) == {"text": text}


def test_what_we_send_is_one_line() -> None:
    # The server splits by lines of any kind that Python knows.
    lines = python_server("""
        import io
        text = io.TextIOWrapper(sys.stdin.buffer, "utf-8", newline=None)
        for line in text:
            answer(json.loads(line), {"lines": len(line.splitlines())})
        """)
    with opened(lines) as transport:
        odd = "a\nb\r\nc\u2028d\u2029e\x85f\x0bg\x0c\x1c"
        assert ask(transport, **{odd: odd}) == {"lines": 1}


def test_many_calls_at_once_get_their_own_answers() -> None:
    # Answers in blocks of eight, last first.
    reorders = python_server("""
        held = []
        while True:
            message = read()
            if message is None:
                break
            held.append(message)
            if len(held) == 8:
                for message in reversed(held):
                    answer(message, message["params"])
                held = []
        """)
    wrong: List[Any] = []

    def call(thread: int) -> None:
        for number in range(50):
            id = thread * 1000 + number
            try:
                result = ask(transport, id, seconds=30, n=id, text="x" * (id % 3000))
            except Exception as error:
                result = error
            if result != {"n": id, "text": "x" * (id % 3000)}:
                wrong.append((id, result))

    with opened(reorders) as transport:
        # A whole number of blocks, and nobody waits for another before he asks.
        threads = [
            threading.Thread(target=call, args=(number,), daemon=True)
            for number in range(1, 9)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    assert wrong == []


# --- servers that end ---------------------------------------------------------------


@pytest.mark.parametrize("code", [0, 1, 3])
def test_a_server_that_exits_at_once(code: int) -> None:
    with opened(exits_with(code, "API_KEY is missing")) as transport:
        with pytest.raises(ServerExited) as caught:
            ask(transport)
        assert caught.value.returncode == code
        assert caught.value.stderr_tail == "API_KEY is missing"
        assert str(caught.value).endswith("API_KEY is missing")
        until(lambda: not transport.alive)
        assert transport.pid is None
        assert transport.stderr_tail == "API_KEY is missing"


def test_a_client_says_why_its_server_did_not_start() -> None:
    with pytest.raises(ServerExited) as caught:
        mcpsync.connect(exits_with(3, "API_KEY is missing"))
    assert caught.value.returncode == 3
    assert "API_KEY is missing" in str(caught.value)


@pytest.mark.parametrize(
    "last, code",
    [
        ("sys.exit(0)", 0),
        ("sys.exit(1)", 1),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
    ],
)
def test_a_server_that_ends_in_the_middle_fails_all_calls(last: str, code: int) -> None:
    ends = python_server(
        "import resource; resource.setrlimit(resource.RLIMIT_CORE, (0, 0))",
        "for _ in range(3): read()",
        "log('oh no')",
        last,
    )
    caught: List[Any] = []

    def call(id: int) -> None:
        try:
            ask(transport, id)
        except ServerExited as error:
            caught.append(error)

    with opened(ends) as transport:
        threads = [
            threading.Thread(target=call, args=(id,), daemon=True) for id in (1, 2, 3)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(5)
    assert [error.returncode for error in caught] == [code] * 3
    assert [error.stderr_tail for error in caught] == ["oh no"] * 3
    assert [error.sent for error in caught] == [True] * 3


def test_what_was_said_before_the_end_is_heard() -> None:
    ends = python_server("""
        for number in range(1000):
            log("line %d" % number)
        message = read()
        answer(message, {"last": "words"})
        sys.exit(1)
        """)
    with opened(ends) as transport:
        assert ask(transport) == {"last": "words"}
        with pytest.raises(ServerExited) as caught:
            ask(transport, 2)
        tail = caught.value.stderr_tail.split("\n")
        assert (tail[-1], len(tail)) == ("line 999", 20)
        assert transport.stderr_tail.startswith("line 0\n")


def test_a_request_that_was_not_sent_says_so() -> None:
    with opened(exits_with(1)) as transport:
        with pytest.raises(ServerExited):
            ask(transport)
        until(lambda: not transport.alive)
        with pytest.raises(ServerExited) as caught:
            ask(transport, 2)
        assert caught.value.sent is False


def test_opening_again_replaces_a_server_that_died() -> None:
    dies = python_server("""
        message = read()
        answer(message, {"pid": os.getpid()})
        """)
    seen: List[Any] = []
    with opened(dies) as transport:
        first = ask(transport)["pid"]
        until(lambda: not transport.alive)
        transport.open(seen.append, soon())
        assert transport.alive and transport.generation == 2
        assert ask(transport, 2)["pid"] != first
        assert not is_running(first)


def test_opening_again_ends_a_server_that_lives() -> None:
    with opened(IGNORES_EVERYTHING) as transport:
        first = transport.pid
        assert first is not None
        with transport.begin(request(1), soon()) as exchange:
            transport.open([].append, soon())
            assert not is_running(first)
            with pytest.raises(ServerExited, match="replaced") as caught:
                exchange.receive(soon())
            assert caught.value.sent is True


def test_nothing_is_kept_of_servers_that_were_replaced() -> None:
    with opened(LEGACY) as transport:
        first = transport._connection
        transport.open([].append, soon())
        holders = sys.getrefcount(first)
        # This frame, and the call's argument.
        assert holders <= 3


# --- servers that do half of it -----------------------------------------------------


def test_a_server_that_closes_its_output_is_lost_and_ended() -> None:
    closes = python_server("read()", "log('no more')", "os.close(1)", "time.sleep(60)")
    with opened(closes) as transport:
        pid = transport.pid
        assert pid is not None
        with pytest.raises(ServerExited, match="closed its output") as caught:
            ask(transport)
        assert caught.value.returncode is None
        assert caught.value.stderr_tail == "no more"
        assert not transport.alive
        until(lambda: not is_running(pid))


#: Reads two requests and no more, answers the first later and lives on.
DEAF = python_server("""
    first, second = read(), read()
    os.close(0)
    answer(second, {"deaf": True})
    time.sleep(1.5)
    answer(first, {"late": True})
    time.sleep(60)
    """)


def test_a_server_that_closes_its_input_still_answers_what_it_has_read() -> None:
    with opened(DEAF) as transport:
        with transport.begin(request(1), soon()) as early:
            assert ask(transport, 2) == {"deaf": True}
            with pytest.raises(ServerExited, match="closed its input") as caught:
                ask(transport, 3)
            assert caught.value.sent is False
            assert not transport.alive
            with pytest.raises(ServerExited):
                ask(transport, 4)
            assert early.receive(soon()) == Response(1, result={"late": True})


def test_a_request_that_meets_the_end_of_the_input_does_not_wait(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with opened(IGNORES_EVERYTHING) as transport:
        connection = transport._connection
        assert connection is not None
        pending, add = connection.pending, connection.pending.add

        def deaf_meanwhile(*args: Any) -> Any:
            exchange = add(*args)
            connection._outbox.close()
            pending.fail_unwritten(lambda sent: ServerExited("deaf", sent=sent))
            return exchange

        monkeypatch.setattr(pending, "add", deaf_meanwhile)
        with pytest.raises(ServerExited) as caught:
            ask(transport)
        assert caught.value.sent is False


def test_a_server_that_closed_its_input_is_replaced_by_the_next_call() -> None:
    deaf = python_server("""
        shake_hands()
        message = read()
        os.close(0)
        answer(message, text("bye"))
        time.sleep(60)
        """)
    with mcpsync.connect(deaf, protocol="2025-06-18") as client:
        assert client.call_tool("one").text == "bye"
        assert client.call_tool("two").text == "bye"


QUICK = Limits(write_stall_seconds=0.5)

NEVER = python_server("time.sleep(60)")


def test_a_full_pipe_keeps_nobody_beyond_his_deadline() -> None:
    with opened(NEVER) as transport:
        with pytest.raises(RequestTimeout):
            bounded(lambda: ask(transport, 1, seconds=0.3, fill="x" * 1_000_000), 5)
        with pytest.raises(RequestTimeout):
            bounded(lambda: ask(transport, 2, seconds=0.3), 5)
        assert transport.alive


def test_a_server_that_does_not_read_is_stopped() -> None:
    with opened(NEVER, limits=QUICK) as transport:
        pid = transport.pid
        assert pid is not None
        with pytest.raises(ServerBusy, match="has not read its input for 0.5 s"):
            ask(transport, fill="x" * 1_000_000)
        assert not transport.alive
        with pytest.raises((ServerBusy, ServerExited)):
            ask(transport, 2)
        until(lambda: not is_running(pid))


def test_a_server_that_reads_slowly_is_not_stopped() -> None:
    slow = python_server("""
        data = b""
        while not data.endswith(b"\\n"):
            time.sleep(0.1)
            data += os.read(0, 65536)
        answer(json.loads(data), {"size": len(data)})
        serve()
        """)
    with opened(slow, limits=QUICK) as transport:
        assert ask(transport, fill="x" * 800_000)["size"] > 800_000


def test_a_cancelled_call_is_told_to_a_server_that_reads() -> None:
    tells = python_server("""
        held = read()
        cancelled = read()
        answer(read(), {"told": cancelled["params"]["requestId"]})
        serve()
        """)
    with opened(tells) as transport:
        with transport.begin(request(1), soon()) as exchange:
            exchange.cancel("not wanted")
            with pytest.raises(RequestCancelled):
                exchange.receive(soon())
        assert ask(transport, 2) == {"told": 1}


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_an_interrupt_while_sending_cancels_the_call(
    monkeypatch: pytest.MonkeyPatch, error: Any
) -> None:
    tells = python_server("""
        while True:
            message = read()
            if message is None:
                break
            if message["method"] == "notifications/cancelled":
                cancelled = message["params"]["requestId"]
            elif message["params"].get("last"):
                answer(message, {"cancelled": cancelled})
        """)
    with opened(tells) as transport:
        connection = transport._connection
        assert connection is not None
        send = connection.send

        def interrupted(frame: Frame) -> None:
            monkeypatch.setattr(connection, "send", send)
            send(frame)
            raise error

        monkeypatch.setattr(connection, "send", interrupted)
        with pytest.raises(error):
            transport.begin(request(1, fill="x" * 500_000), soon())
        assert ask(transport, 2, last=True) == {"cancelled": 1}
        assert not connection.pending._by_id


# --- stderr -------------------------------------------------------------------------


def test_a_flood_on_stderr_is_drained_and_forgotten() -> None:
    floods = python_server("""
        message = read()
        for _ in range(1600):
            os.write(2, b"x" * 65535 + b"\\n")
        log("last line")
        answer(message, {})
        serve()
        """)
    with opened(floods) as transport:
        before = rss_mib()
        assert ask(transport, seconds=60) == {}
        until(lambda: transport.stderr_tail.endswith("last line"))
        tail = transport.stderr_tail
        assert len(tail) <= 64 * 1024 + 4096
        assert max(map(len, tail.split("\n"))) == 16 * 1024 + 1
        assert rss_mib() - before < 20


def test_a_client_works_while_stderr_is_flooded() -> None:
    with mcpsync.connect(FLOODS_STDERR, protocol="2025-06-18") as client:
        assert client.call_tool("flood").text == "done"


def test_stderr_is_logged_line_by_line_and_cleaned(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "mcpsync.server.noisy")
    says = python_server("log('one\\ntwo \\x1b[2J')", "shake_hands()", "serve()")
    with mcpsync.connect(says, name="noisy", protocol="2025-06-18"):
        until(lambda: len(caplog.records) >= 2)
    assert [r.getMessage() for r in caplog.records] == ["one", "two \\x1b[2J"]
    assert {r.levelno for r in caplog.records} == {logging.INFO}


PEM = "-----BEGIN KEY-----\nc2VjcmV0LWtleS1saW5l\n-----END KEY-----"

#: Prints its variables wherever it can, and ends.
TALKS = python_server("""
    secret = os.environ["KEY"] + " " + os.environ.get("PASSED", "")
    log(secret)
    log("x" * (16 * 1024 - 5) + secret)
    log(os.environ.get("PEM", ""))
    say(secret + "\\n")
    say('{"jsonrpc": "2.0", "id": 1, "result": NaN, "x": "%s"}\\n' % secret)
    read()
    sys.exit(1)
    """)


def test_secrets_that_were_passed_never_come_back(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.DEBUG)
    monkeypatch.setenv("PASSED", CANARY[::-1])
    transport = StdioTransport(
        TALKS, env={"KEY": CANARY, "PEM": PEM}, env_vars=["PASSED"], name="talks"
    )
    with pytest.raises(mcpsync.MCPError) as caught:
        mcpsync.connect(transport)
    until(lambda: len(caplog.records) >= 4)
    shown = [str(caught.value), repr(caught.value), transport.stderr_tail, caplog.text]
    shown += [repr(transport), repr(vars(caught.value))]
    for text in shown:
        for secret in (CANARY, CANARY[::-1], CANARY[:8], "c2VjcmV0"):
            assert secret not in text
    assert "*** ***" in transport.stderr_tail and "*** ***" in caplog.text


@pytest.mark.parametrize(
    "options, got",
    [
        ({}, [None, None]),
        ({"env_vars": ["TOKEN"]}, ["ours", None]),
        ({"env": {"TOKEN": "given"}, "env_vars": ["TOKEN"]}, ["given", None]),
        ({"inherit_env": True}, ["ours", "other"]),
    ],
)
def test_what_the_server_gets_of_our_environment(
    monkeypatch: pytest.MonkeyPatch, options: Dict[str, Any], got: List[Any]
) -> None:
    monkeypatch.setenv("TOKEN", "ours")
    monkeypatch.setenv("OTHER", "other")
    tells = python_server("""
        serve({"tools/call": lambda params:
               [os.environ.get(name) for name in ("TOKEN", "OTHER")]})
        """)
    with opened(tells, **options) as transport:
        assert ask(transport) == got


class NoFile:
    """What a notebook or a window system puts in the place of a stream."""

    def write(self, text: str) -> int:
        return len(text)

    def flush(self) -> None: ...


@pytest.mark.parametrize("stderr", ["capture", "inherit"])
@pytest.mark.parametrize("stream", [None, NoFile()])
def test_streams_of_the_host_need_no_descriptor(
    monkeypatch: pytest.MonkeyPatch, stderr: str, stream: Any
) -> None:
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, stream)
    with opened(ECHO, stderr=stderr) as transport:
        assert ask(transport, a=1) == {"a": 1}
        assert transport.stderr_tail == ""


def test_descriptors_beyond_1023() -> None:
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with contextlib.ExitStack() as stack:
            for _ in range(1100):
                stack.enter_context(open(os.devnull))
            with opened(ECHO) as transport:
                connection = transport._connection
                assert connection is not None and connection.process.stdin > 1023
                assert ask(transport, a="x" * 200_000)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


# --- closing ------------------------------------------------------------------------


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Less patience than the 2 seconds at each step."""
    monkeypatch.setattr(_pipes, "_GRACE", 0.3)


def close_in_time(transport: StdioTransport) -> float:
    """Close; return how long it took."""
    started = time.monotonic()
    bounded(transport.close, 9)
    return time.monotonic() - started


def test_a_polite_server_gets_the_end_of_its_input_and_no_signal(
    tmp_path: Path,
) -> None:
    note = tmp_path / "note"
    polite = python_server(
        "signal.signal(signal.SIGTERM, lambda *args: os._exit(1))",
        "serve()",
        "time.sleep(0.3)",
        "open(%r, 'w').write('bye')" % str(note),
    )
    with opened(polite) as transport:
        ask_ping(transport)
    assert note.read_text() == "bye"


def ask_ping(transport: StdioTransport) -> None:
    deadline = soon()
    with transport.begin(request(1, "ping"), deadline) as exchange:
        exchange.receive(deadline)


#: Ignores the end of its input; ends in order when it is asked to.
IGNORES_EOF = python_server(
    "signal.signal(signal.SIGTERM, lambda *args: (log('terminated'), os._exit(0)))",
    "serve()",
    "time.sleep(60)",
)

STUBBORN = python_server(
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)", "serve()", "time.sleep(60)"
)


def test_the_whole_close_takes_seven_seconds_at_most() -> None:
    with opened(STUBBORN) as transport:
        ask_ping(transport)
        assert close_in_time(transport) < 7


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize(
    "argv, stopped",
    [(IGNORES_EOF, False), (STUBBORN, False), (STUBBORN, True), (ECHO, True)],
    ids=["ignores EOF", "ignores SIGTERM", "ignores all, stopped", "stopped"],
)
def test_a_server_that_does_not_want_to_end(argv: Argv, stopped: bool) -> None:
    with opened(argv) as transport:
        ask_ping(transport)
        pid = transport.pid
        assert pid is not None
        if stopped:
            os.kill(pid, signal.SIGSTOP)
        with no_leaks(0):
            close_in_time(transport)
        assert not is_running(pid)
        if argv is IGNORES_EOF:
            assert transport.stderr_tail == "terminated"


def test_a_timeout_of_close_is_kept() -> None:
    before = snapshot()
    with opened(STUBBORN) as transport:
        ask_ping(transport)
        started = time.monotonic()
        transport.close(0.1)
        assert time.monotonic() - started < 2
        assert leaks(before) == []


def test_a_grandchild_in_its_own_session_does_not_delay_the_end() -> None:
    with mcpsync.connect(LEAVES_GRANDCHILD, protocol="2025-06-18") as client:
        grandchild = int(client.call_tool("leave").text)
        with no_leaks(0):
            started = time.monotonic()
            client.close()
            assert time.monotonic() - started < 3
    assert is_running(grandchild)
    os.kill(grandchild, signal.SIGKILL)


def test_a_server_that_exits_is_missed_though_others_hold_its_pipes() -> None:
    leaves = python_server("""
        import subprocess
        read()
        held = subprocess.Popen(["sleep", "20"], start_new_session=True)
        log(str(held.pid))
        sys.exit(4)
        """)
    with opened(leaves) as transport:
        started = time.monotonic()
        with pytest.raises(ServerExited) as caught:
            ask(transport)
        assert time.monotonic() - started < 3
        assert caught.value.returncode == 4
        os.kill(int(caught.value.stderr_tail), signal.SIGKILL)


@pytest.mark.usefixtures("impatient")
@pytest.mark.parametrize("ignore", ["", "trap '' TERM; "])
def test_all_that_a_wrapper_started_ends_with_it(ignore: str) -> None:
    # As with npx: the real server is a child of what we started, and ignores EOF.
    inner = python_server(
        'serve({"tools/call": lambda params: os.getpid()})', "time.sleep(60)"
    )
    wrapper = ["sh", "-c", ignore + '"$@"; true', "sh", *inner]
    with opened(wrapper) as transport:
        real = ask(transport)
        assert real != transport.pid
        close_in_time(transport)
        until(lambda: not is_running(real))


@pytest.mark.usefixtures("impatient")
def test_what_a_server_leaves_in_its_group_ends_with_it() -> None:
    leaves = python_server("""
        import subprocess
        quiet = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.DEVNULL)
        helper = subprocess.Popen(["sh", "-c", "trap '' TERM; sleep 60"], **quiet)
        serve({"tools/call": lambda params: helper.pid})
        """)
    with opened(leaves) as transport:
        helper = ask(transport)
        assert is_running(helper)
        close_in_time(transport)
        until(lambda: not is_running(helper))


def test_calls_in_flight_are_told_that_the_client_was_closed() -> None:
    with opened(IGNORES_EVERYTHING) as transport:
        with transport.begin(request(1), soon()) as exchange:
            closer = threading.Timer(0.1, transport.close)
            closer.start()
            with pytest.raises(ClientClosed):
                exchange.receive(soon())
            closer.join()
        with pytest.raises(ClientClosed):
            ask(transport, 2)
        with pytest.raises(ClientClosed):
            transport.open([].append, soon())


def test_closing_before_opening_is_final() -> None:
    transport = StdioTransport(ECHO)
    transport.close()
    transport.close()
    with no_leaks(0), pytest.raises(ClientClosed):
        transport.open([].append, soon())
    with pytest.raises(ClientClosed):
        ask(transport)


def test_ten_threads_may_close_at_once() -> None:
    with opened(ECHO) as transport:
        ask(transport)
        barrier = threading.Barrier(10)
        closed: List[bool] = []

        def close() -> None:
            barrier.wait(10)
            transport.close()
            closed.append(transport.alive)

        with no_leaks():
            threads = [threading.Thread(target=close, daemon=True) for _ in range(10)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(10)
        assert closed == [False] * 10


def test_closing_while_the_process_is_being_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transport = StdioTransport(ECHO)
    start = _pipes.PipeConnection.start

    def close_first(connection: Any) -> None:
        closer = threading.Thread(target=transport.close)
        closer.start()
        closer.join(10)
        start(connection)

    original = _pipes.PipeConnection.__init__

    def closed_meanwhile(self: Any, *args: Any, **options: Any) -> None:
        original(self, *args, **options)
        transport.close()

    with no_leaks():
        with monkeypatch.context() as patch:
            patch.setattr(_pipes.PipeConnection, "__init__", closed_meanwhile)
            with pytest.raises(ClientClosed):
                transport.open([].append, soon())
        transport = StdioTransport(IGNORES_EVERYTHING)
        with monkeypatch.context() as patch:
            patch.setattr(_pipes.PipeConnection, "start", close_first)
            transport.open([].append, soon())
        assert not transport.alive
        transport.close()


def test_the_io_thread_may_be_the_one_that_closes() -> None:
    closed: List[float] = []

    def take(message: Union[Request, Notification]) -> None:
        # A finalizer of the host program may run on any thread.
        started = time.monotonic()
        transport.close()
        closed.append(time.monotonic() - started)

    notes = python_server("note('notifications/x')", "serve()")
    with no_leaks():
        transport = StdioTransport(notes)
        transport.open(take, soon())
        until(lambda: closed)
        transport.close()
    assert closed[0] < 1


def test_a_thousand_descriptors_are_not_used_up_by_opening_and_closing() -> None:
    exits: Sequence[str] = ["true"]
    before = snapshot()
    for _ in range(40):
        transport = StdioTransport(exits)
        transport.open([].append, soon())
        transport.close()
    assert leaks(before, patience=0) == []


def test_a_client_restarts_a_server_that_was_killed() -> None:
    with mcpsync.connect(IGNORES_SIGTERM, protocol="2025-06-18") as client:
        transport = client._connector.transport
        assert isinstance(transport, StdioTransport) and transport.pid is not None
        assert client.call_tool("one").text == "one"
        os.kill(transport.pid, signal.SIGKILL)
        until(lambda: not client.is_open)
        assert client.call_tool("two").text == "two"
        os.kill(transport.pid, signal.SIGKILL)
