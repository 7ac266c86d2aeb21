"""Lines on pipes: framing, the outbox, and the I/O thread when things are scarce."""

from __future__ import annotations

import functools
import itertools
import os
import selectors
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, List, Optional, Tuple, Union

import pytest

import mcpsync
from mcpsync._deadline import Deadline
from mcpsync.exceptions import (
    ClientClosed,
    ConnectionLost,
    ServerBusy,
    ServerExited,
    ServerNotStarted,
)
from mcpsync.protocol.jsonrpc import Outgoing, Response, encode
from mcpsync.transports import _framing, _pipes
from mcpsync.transports._framing import (
    Frame,
    Line,
    LineSplitter,
    Outbox,
    Oversized,
    answered_id,
)
from mcpsync.transports.stdio import StdioTransport

from ..fakes import bounded
from ..fakes.leaks import leaks, no_leaks, snapshot
from ..fakes.stdio_server import python_server

ROOT = str(Path(os.path.abspath(mcpsync.__file__ or "")).parents[1])


# --- lines in -----------------------------------------------------------------------


def split(limit: int, *chunks: bytes) -> List[Line]:
    """Return all that a splitter makes of some chunks, the rest at the end included."""
    splitter = LineSplitter(limit)
    lines = [line for chunk in chunks for line in splitter.feed(chunk)]
    rest = splitter.end()
    return lines + [rest] if rest else lines


def cut_in_three(data: bytes) -> Iterator[Tuple[bytes, bytes, bytes]]:
    for first, second in itertools.combinations_with_replacement(range(len(data)), 2):
        yield data[:first], data[first:second], data[second:]


def test_lines_are_the_same_wherever_the_stream_is_cut() -> None:
    data = b'{"a": 1}\n\n{"b": 2}\r\n\n{"c"'
    wanted = [b'{"a": 1}', b"", b'{"b": 2}\r', b"", b'{"c"']
    for chunks in cut_in_three(data):
        assert split(100, *chunks) == wanted


@pytest.mark.parametrize(
    "data",
    [
        b"one\n" + b"x" * 30 + b"\ntwo\nthree",
        b"x" * 12 + b"\n" + b"y" * 13 + b"\none\ntwo\nthree",
    ],
    ids=["one", "two in a row"],
)
def test_what_follows_a_line_that_is_too_long_is_not_lost(data: bytes) -> None:
    for chunks in cut_in_three(data):
        lines = split(10, *chunks)
        kept = [line for line in lines if isinstance(line, bytes)]
        assert kept == [b"one", b"two", b"three"]


def test_a_line_that_is_too_long_is_told_twice() -> None:
    line = b"<" + b"x" * 100_000 + b">"
    for chunks in [(line + b"\n",), (line, b"\n"), (line[:50_000], line[50_000:])]:
        begun, ended = split(1000, *chunks)
        assert isinstance(begun, Oversized) and isinstance(ended, Oversized)
        assert (begun.head[:1], begun.tail) == (b"<", b"")
        assert (ended.head, ended.tail[-1:]) == (begun.head, b">")
        assert len(begun.head) <= 4096 and len(ended.tail) <= 512


@pytest.mark.parametrize("size, fits", [(1000, True), (1001, False)])
def test_the_limit_is_exact(size: int, fits: bool) -> None:
    line, *more = split(1000, b"x" * size + b"\n")
    assert isinstance(line, bytes) is fits
    assert bool(more) is not fits


def test_a_line_in_single_bytes_costs_no_object_for_each() -> None:
    splitter = LineSplitter(1 << 20)
    for _ in range(100_000):
        splitter.feed(b"x")
    assert len(splitter._parts) <= 100_000 / 4096 + 1
    assert splitter.feed(b"\n") == [b"x" * 100_000]


# --- whose answer a broken line is --------------------------------------------------


@pytest.mark.parametrize(
    "line, id",
    [
        # As Python, Go, Java and Rust write it, and as TypeScript and C# do.
        (b'{"jsonrpc":"2.0","id":5,"result":{', 5),
        (b' { "jsonrpc" : "2.0" , "id" : 5 , "error" : {', 5),
        (b'{"id":5,"jsonrpc":"2.0","result":{', 5),
        (b'{"id":5,"result":{', 5),
        (b'{"result":{"id":7},"jsonrpc":"2.0","id":5}', 5),
        (b'{"result":{"id":7},"id":5,"jsonrpc":"2.0"}\r', 5),
        (b'{"jsonrpc":"2.0","result":[{"id":7}],"id":5}', 5),
        (b'{"jsonrpc":"2.0","error":{"id":7},"id":5}', 5),
        # Of another type: never the request 5.
        (b'{"jsonrpc":"2.0","id":5.0,"result":{', None),
        (b'{"jsonrpc":"2.0","id":5e0,"result":{', None),
        (b'{"jsonrpc":"2.0","id":"5","result":{', None),
        (b'{"jsonrpc":"2.0","id":true,"result":{', None),
        (b'{"jsonrpc":"2.0","id":-5,"result":{', None),
        (b'{"result":{},"jsonrpc":"2.0","id":5.0}', None),
        (b'{"result":{},"jsonrpc":"2.0","id":"5"}', None),
        # Part of the content.
        (b'{"jsonrpc":"2.0","result":{"id":5}}', None),
        (b'{"jsonrpc":"2.0","result":{"x":1,"id":5}}', None),
        (b'{"result":[{"jsonrpc":"2.0","id":5,"result":0}', None),
        (b'{"result":"\\",\\"id\\":5}', None),
        # The server's own request or notification, with an id of its own.
        (b'{"jsonrpc":"2.0","id":5,"method":"sampling/createMessage","params":{', None),
        (b'{"jsonrpc":"2.0","method":"x","params":{"result":1},"id":5}', None),
        (b'{"method":"x","params":{"a":1,"id":5}', None),
        # No message at all.
        (b'"id":5,"result":', None),
        (b'Listening {"jsonrpc":"2.0","id":5,"result":{', None),
        (b"", None),
    ],
)
def test_whose_answer_a_broken_line_is(line: bytes, id: Optional[int]) -> None:
    assert answered_id(line, line) == id


# --- lines out ----------------------------------------------------------------------


@contextmanager
def a_pipe(size: int = 4096) -> Iterator[Tuple[int, int]]:
    """Yield both ends of a small pipe that does not block."""
    reading, writing = os.pipe()
    for end in (reading, writing):
        os.set_blocking(end, False)
    if hasattr(os, "O_PATH"):
        import fcntl

        fcntl.fcntl(writing, 1031, size)
    try:
        yield reading, writing
    finally:
        for end in (reading, writing):
            try:
                os.close(end)
            except OSError:
                continue


def read_all(descriptor: int) -> bytes:
    """Return what is in a pipe now."""
    parts = []
    while True:
        try:
            part = os.read(descriptor, 1 << 16)
        except BlockingIOError:
            break
        if not part:
            break
        parts.append(part)
    return b"".join(parts)


def put(outbox: Outbox, data: bytes) -> Frame:
    frame = Frame(data)
    with outbox.lock:
        outbox.put(frame)
        outbox.flush()
    return frame


def flush(outbox: Outbox) -> None:
    with outbox.lock:
        outbox.flush()


def test_what_fits_is_written_at_once() -> None:
    with a_pipe() as (reading, writing):
        outbox = Outbox(writing, 1000)
        frames = [put(outbox, b"one\n"), put(outbox, b"two\n")]
        assert read_all(reading) == b"one\ntwo\n"
        assert all(frame.was_sent() and frame.was_written() for frame in frames)
        assert not outbox.frames


def test_a_full_pipe_blocks_nobody_and_loses_nothing() -> None:
    lines = [b"%d" % number * 6000 + b"\n" for number in range(10)]
    with a_pipe() as (reading, writing):
        outbox = Outbox(writing, 1000)
        frames = [put(outbox, line) for line in lines]
        assert frames[0].was_sent() and not frames[0].was_written()
        assert not frames[1].was_sent()
        received = b""
        while outbox.frames:
            received += read_all(reading)
            flush(outbox)
        received += read_all(reading)
        assert received == b"".join(lines)
        assert all(frame.was_written() for frame in frames)


def test_a_long_line_in_many_writes_is_counted_right() -> None:
    line = bytes(range(256)) * 4096
    with a_pipe() as (reading, writing):
        outbox = Outbox(writing, 1000)
        frame = put(outbox, line)
        received = b""
        while outbox.frames:
            assert len(frame.counts) < 100
            received += read_all(reading)
            flush(outbox)
        assert received + read_all(reading) == line


def test_a_reader_that_is_gone_breaks_the_outbox() -> None:
    with a_pipe() as (reading, writing):
        os.close(reading)
        outbox = Outbox(writing, 1000)
        frame = put(outbox, b"one\n")
        assert outbox.broken
        assert not frame.was_sent()


def test_nothing_is_kept_for_a_pipe_that_was_closed() -> None:
    with a_pipe() as (reading, writing):
        outbox = Outbox(writing, 1000)
        outbox.close()
        assert not put(outbox, b"one\n").was_sent()
        assert not outbox.frames
        assert read_all(reading) == b""


@pytest.mark.parametrize(
    "frames, size, congested",
    [(8, 10_000, False), (9, 10_000, True), (256, 1, False), (257, 1, True)],
)
def test_an_outbox_is_congested_by_count_or_by_size(
    frames: int, size: int, congested: bool
) -> None:
    with a_pipe() as (_, writing):
        outbox = Outbox(writing, 80_000)
        with outbox.lock:
            for _ in range(frames):
                outbox.put(Frame(b"x" * size))
            assert outbox.congested is congested
            assert outbox.wait_for_room(0.01) is not congested


def test_those_who_wait_for_room_are_woken() -> None:
    with a_pipe() as (reading, writing):
        outbox = Outbox(writing, 1000)
        for _ in range(20):
            put(outbox, b"x" * 1000)

        def read() -> None:
            while outbox.frames:
                read_all(reading)
                with outbox.lock:
                    outbox.flush()
                    outbox.tell_room()

        reader = threading.Thread(target=read, daemon=True)
        with outbox.lock:
            reader.start()
            assert outbox.wait_for_room(10)
        reader.join(10)


def test_a_flush_that_another_one_interrupts_writes_nothing_twice(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    inner = [b"inner\n"]
    with a_pipe() as (reading, writing):
        outbox = Outbox(writing, 1000)

        def interrupt() -> bool:
            # Here the outer flush has decided what to write, and has not written it.
            if inner:
                put(outbox, inner.pop())
            return False

        monkeypatch.setattr(_framing, "_broken_pipe_kills", interrupt)
        put(outbox, b"outer\n")
        assert read_all(reading) == b"outer\ninner\n"
        assert not outbox.frames


#: Sends numbered frames while a timer interrupts it as often as the system can, and
#: checks that what came out of the pipe is whole frames, each once.
INTERRUPTED = """
import os, random, signal, sys, threading
from mcpsync.transports._framing import Frame, Outbox

class Interrupt(Exception):
    pass

def framed(number):
    return b"<%d:" % number + b"x" * random.choice((3, 9_000, 70_000)) + b">\\n"

reading, writing = os.pipe()
os.set_blocking(writing, False)
outbox = Outbox(writing, 10**9)
received = []

def read():
    with open(reading, "rb") as stream:
        received.extend(stream)

reader = threading.Thread(target=read)
reader.start()
hits = 0
armed = False

def interrupt(signum, frame):
    global hits, armed
    if armed:
        armed = False
        hits += 1
        {handler}

signal.signal(signal.SIGALRM, interrupt)
signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
sent, number = [], 0
while hits < {hits}:
    number += 1
    frame = Frame(framed(number))
    try:
        armed = True
        with outbox.lock:
            outbox.put(frame)
            outbox.flush()
        armed = False
    except Interrupt:
        pass
    if frame.was_sent() or frame in outbox.frames:
        sent.append(number)
signal.setitimer(signal.ITIMER_REAL, 0)
# Whatever the interrupts did to the lock: nobody else is here.
outbox.lock = threading.RLock()
while outbox.frames:
    outbox.flush()
os.close(writing)
reader.join()
numbers = [int(line[1:line.index(b":")]) for line in received]
assert all(line.startswith(b"<") and line.endswith(b"x>\\n") for line in received)
assert all(set(line[line.index(b":") + 1:-2]) == {{120}} for line in received)
own = [number for number in numbers if number > 0]
assert own == sent, (len(own), len(sent))
assert len(set(numbers)) == len(numbers)
assert {more}
"""

RAISE = INTERRUPTED.format(handler="raise Interrupt", hits=1000, more="True")

SEND = INTERRUPTED.format(
    handler="""with outbox.lock:
            outbox.put(Frame(framed(-hits)))
            outbox.flush()""",
    hits=200,
    more="len(numbers) == len(own) + hits",
)


def run_script(script: str, **options: Any) -> "subprocess.CompletedProcess[str]":
    """Run a script in an interpreter of its own."""
    argv = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(script)]
    return subprocess.run(
        argv, cwd=ROOT, timeout=30, stderr=subprocess.PIPE, encoding="utf-8", **options
    )


@pytest.mark.parametrize("script", [RAISE, SEND], ids=["raising", "sending"])
def test_no_frame_is_torn_by_a_signal_handler(script: str) -> None:
    ran = run_script(script)
    assert (ran.returncode, ran.stderr) == (0, "")


def test_a_program_that_dies_of_broken_pipes_does_not_die_of_a_server() -> None:
    ran = run_script("""
        import os, signal
        from mcpsync.transports._framing import Frame, Outbox
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        reading, writing = os.pipe()
        os.close(reading)
        outbox = Outbox(writing, 1000)
        outbox.put(Frame(b"x"))
        outbox.flush()
        assert outbox.broken
        assert signal.SIGPIPE not in signal.pthread_sigmask(signal.SIG_BLOCK, ())
        assert signal.SIGPIPE not in signal.sigpending()
        # Its own pipes are its own business.
        os.write(writing, b"x")
        """)
    assert (ran.returncode, ran.stderr) == (-signal.SIGPIPE, "")


# --- the I/O thread -----------------------------------------------------------------

ECHO = python_server('serve({"tools/call": lambda params: params})')


def request(id: int, **params: Any) -> Outgoing:
    """Return a request as the legacy era makes it."""
    body = encode("tools/call", params, id)
    make = functools.partial(notice, id)
    return Outgoing(id, "tools/call", body, cancellation="notify", notice=make)


def notice(id: int, reason: str) -> Outgoing:
    params = {"requestId": id, "reason": reason}
    return Outgoing(None, "n", encode("notifications/cancelled", params))


def soon() -> Deadline:
    return Deadline.after(10)


@contextmanager
def opened(
    argv: List[str], seen: Union[None, List[Any]] = None, **options: Any
) -> Iterator[StdioTransport]:
    """Yield a transport to a server; `seen` gets what it sees besides answers."""
    transport = StdioTransport(argv, **options)
    try:
        transport.open((seen if seen is not None else []).append, soon())
        yield transport
    finally:
        bounded(transport.close)


def ask(transport: StdioTransport, id: int = 1, **params: Any) -> Any:
    """Return the result of one request."""
    deadline = soon()
    with transport.begin(request(id, **params), deadline) as exchange:
        answer = exchange.receive(deadline)
        assert isinstance(answer, Response) and answer.id == id
        return answer.result


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.fixture
def without_notices(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel, or a container, that tells nothing about a process."""

    def refuse(pid: int, flags: int = 0) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "pidfd_open", refuse, raising=False)
    monkeypatch.setattr(_pipes, "_LOOK", 0.1)


@pytest.mark.usefixtures("without_notices")
def test_without_notices_of_the_kernel_all_goes_on() -> None:
    with opened(ECHO) as transport:
        assert ask(transport, a=1) == {"a": 1}


@pytest.mark.usefixtures("without_notices")
def test_without_notices_of_the_kernel_the_end_is_seen() -> None:
    # A process in another session keeps the pipes open: only its end tells.
    leaves = python_server(
        "import subprocess",
        "subprocess.Popen(['sleep', '5'], start_new_session=True)",
        "read()",
        "sys.exit(3)",
    )
    with opened(leaves) as transport:
        with pytest.raises(ServerExited) as caught:
            ask(transport)
        assert caught.value.returncode == 3


@pytest.mark.parametrize(
    "target, name",
    [
        (socket, "socketpair"),
        (selectors, "DefaultSelector"),
        (threading.Thread, "start"),
        (selectors.DefaultSelector, "register"),
    ],
)
@pytest.mark.parametrize("error", [OSError(24, "Too many"), KeyboardInterrupt()])
def test_an_opening_that_fails_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch, target: Any, name: str, error: BaseException
) -> None:
    before = snapshot()
    transport = StdioTransport(ECHO)

    def fail(*args: Any, **options: Any) -> Any:
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(target, name, fail)
        wanted = KeyboardInterrupt if error.args == () else ServerNotStarted
        with pytest.raises(wanted):
            transport.open(lambda message: None, soon())
    assert leaks(before) == []
    assert not transport.alive
    with pytest.raises((ClientClosed, mcpsync.LocalProtocolError)):
        ask(transport)
    # What was missing is there again.
    transport.open(lambda message: None, soon())
    assert ask(transport, 2, a=2) == {"a": 2}
    transport.close()


def test_a_thread_that_cannot_be_started_is_the_end_of_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    transport = StdioTransport(ECHO)

    def fail(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", fail)
        with pytest.raises(ServerNotStarted, match="can't start new thread"):
            transport.open(lambda message: None, soon())
    transport.close()


def test_an_interrupt_after_the_thread_was_started_ends_it_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = snapshot()
    transport = StdioTransport(ECHO)
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        start(thread)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", interrupted)
        with pytest.raises(KeyboardInterrupt):
            transport.open(lambda message: None, soon())
    assert leaks(before) == []
    transport.close()


def test_a_fault_of_our_own_fails_the_callers_and_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = snapshot()
    with opened(ECHO) as transport:

        def fail(*args: Any) -> Any:
            raise MemoryError("no room for 16 MiB")

        monkeypatch.setattr(_pipes, "decode", fail)
        with pytest.raises(ConnectionLost, match="no room for 16 MiB") as caught:
            ask(transport)
        assert caught.value.sent is True
        assert not transport.alive
        until(lambda: leaks(before, patience=0) == [])


def test_a_fault_at_the_end_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: Any) -> None:
        raise MemoryError("no room")

    with no_leaks(), opened(ECHO) as transport:
        assert ask(transport, a=1) == {"a": 1}
        monkeypatch.setattr(_pipes.PipeConnection, "_end_process", fail)


# --- too many answers ---------------------------------------------------------------

#: Asks and asks, and does not read; says how far it came, and reads when it is told.
ASKS = python_server("""
    first = read()
    for number in range(20_000):
        say({"jsonrpc": "2.0", "id": number, "method": "ping"})
    note("asked")
    signal.sigwait({signal.SIGUSR1})
    answer(first, {})
    serve()
    """)


def answering(transport: StdioTransport, seen: List[Any]) -> Callable[[Any], None]:
    """Return what answers pings on the I/O thread, as the client does."""

    def take(message: Any) -> None:
        method = getattr(message, "method", "")
        if method == "ping":
            transport.send(Outgoing(None, "", b'"pong"'), soon())
        else:
            seen.append(message)

    return take


@pytest.fixture
def deaf() -> Iterator[StdioTransport]:
    """A server that has asked more than it will ever read answers for."""
    block = "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGUSR1})"
    argv = ASKS[:-1] + [ASKS[-1].replace("first = read()", block + "\nfirst = read()")]
    seen: List[Any] = []
    transport = StdioTransport(argv)
    transport.open(answering(transport, seen), soon())
    try:
        with transport.begin(request(1), soon()):
            until(lambda: seen)
            yield transport
    finally:
        bounded(transport.close)


def backlog(transport: StdioTransport) -> int:
    connection = transport._connection
    assert connection is not None
    return len(connection._outbox.frames)


def test_answers_for_a_server_that_does_not_read_are_bounded(
    deaf: StdioTransport,
) -> None:
    assert 0 < backlog(deaf) <= 300


def test_an_answer_waits_for_room_until_its_deadline(deaf: StdioTransport) -> None:
    with pytest.raises(ServerBusy):
        deaf.send(Outgoing(None, "", b'"late"'), Deadline.after(0.2))


def test_an_answer_goes_out_when_there_is_room_again(deaf: StdioTransport) -> None:
    def read() -> None:
        assert deaf.pid is not None
        os.kill(deaf.pid, signal.SIGUSR1)

    reader = threading.Timer(0.1, read)
    reader.start()
    bounded(lambda: deaf.send(Outgoing(None, "", b'"late"'), soon()))
    until(lambda: backlog(deaf) == 0)
    reader.join()


def test_closing_frees_an_answer_that_waits_for_room(deaf: StdioTransport) -> None:
    closer = threading.Timer(0.1, deaf.close)
    closer.start()
    bounded(lambda: deaf.send(Outgoing(None, "", b'"late"'), soon()))
    closer.join()
