"""Forks, the garbage collector, signals, and the end of the program."""

from __future__ import annotations

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
import traceback
import weakref
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Callable, Iterator, List, NoReturn, Optional

import pytest

import mcpsync
from mcpsync import _lifecycle
from mcpsync.exceptions import ClientClosed
from mcpsync.transports.stdio import StdioTransport

from .fakes import bounded
from .fakes.leaks import no_leaks, snapshot
from .fakes.stdio_server import (
    IGNORES_EVERYTHING,
    IGNORES_SIGTERM,
    LEGACY,
    MODERN,
    python_server,
)

ROOT = str(Path(os.path.abspath(mcpsync.__file__ or "")).parents[1])

#: Where the tests are, which is elsewhere when the package is an installed one.
TESTS = str(Path(__file__).resolve().parents[1])

LEGACY_VERSION = "2025-06-18"


def until(condition: Callable[[], Any], seconds: float = 10) -> None:
    """Wait for what another process does without telling anybody."""
    end = time.monotonic() + seconds
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


def server_of(client: mcpsync.Client) -> int:
    transport = client._connector.transport
    assert isinstance(transport, StdioTransport) and transport.pid is not None
    return transport.pid


def echo(client: mcpsync.Client, name: str = "hello") -> None:
    assert client.call_tool(name).text == name


# --- what is enrolled ---------------------------------------------------------------


class Thing(_lifecycle.Enrolled):
    """Counts what it is told."""

    def __init__(self) -> None:
        self.told: List[str] = []
        _lifecycle.enrol(self)

    def after_fork_in_child(self) -> None:
        self.told.append("fork")


class Failing(Thing):
    def after_fork_in_child(self) -> None:
        raise OSError("no")


def test_enrolling_keeps_nothing_alive() -> None:
    thing = Thing()
    weak = weakref.ref(thing)
    before = len(_lifecycle._enrolled)
    _lifecycle.enrol(thing)
    assert len(_lifecycle._enrolled) == before
    del thing
    gc.collect()
    assert weak() is None
    assert len(_lifecycle._enrolled) == before - 1


def test_a_failure_of_one_keeps_no_other_from_hearing() -> None:
    things = [Thing(), Failing(), Thing()]
    with pytest.raises(OSError):
        _lifecycle._tell_all(lambda thing: _fork_if_mine(thing, things))
    assert things[0].told == things[2].told == ["fork"]


def _fork_if_mine(thing: _lifecycle.Enrolled, things: List[Thing]) -> None:
    if thing in things:
        thing.after_fork_in_child()


def test_threads_may_enrol_while_others_are_told() -> None:
    stop = threading.Event()
    failed: List[BaseException] = []

    def enrol() -> None:
        try:
            while not stop.is_set():
                [Thing() for _ in range(50)]
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=enrol, daemon=True) for _ in range(4)]
    for thread in threads:
        thread.start()
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(300):
            _lifecycle._tell_all(lambda thing: None)
    finally:
        sys.setswitchinterval(before)
        stop.set()
        for thread in threads:
            thread.join(5)
    assert failed == []


# --- forks --------------------------------------------------------------------------


def in_child(
    run: Callable[[], Any], exits: Callable[[int], NoReturn] = os._exit
) -> int:
    """Return the exit code of a forked child that runs a function: 0 if all was well.

    The child has 10 seconds; what goes wrong there is printed.
    """
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(10)
            run()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            if exits is os._exit:
                os._exit(code)
        exits(code)
    _, status = os.waitpid(pid, 0)
    return status


@contextmanager
def idle_child() -> Iterator[int]:
    """Yield the id of a forked child that does nothing, once it is set up."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.close(writing)
        signal.pause()
        os._exit(0)
    try:
        os.close(writing)
        assert os.read(reading, 1) == b""
        os.close(reading)
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


pytest_forks = pytest.mark.filterwarnings(
    # Forking with threads is what is tested here.
    "ignore:.*use of fork\\(\\) may lead to deadlocks:DeprecationWarning"
)

#: Its one tool waits until the file with its name appears; says when it was called.
WAITS = python_server(
    "shake_hands()",
    """
    def wait(params):
        path = params["name"]
        open(path + ".called", "w").close()
        while not os.path.exists(path):
            time.sleep(0.01)
        return text("done")
    serve({"tools/call": wait})
    """,
)


@pytest_forks
def test_a_child_forked_during_a_call_has_a_connection_of_its_own(
    tmp_path: Path,
) -> None:
    gate = str(tmp_path / "gate")
    results: List[str] = []

    def child() -> None:
        assert not client.is_open
        assert client.stderr_tail == ""
        open(gate + "2", "w").close()
        assert client.call_tool(gate + "2").text == "done"
        assert server_of(client) != server
        client.close()

    with mcpsync.connect(WAITS, protocol=LEGACY_VERSION) as client:
        server = server_of(client)
        caller = threading.Thread(
            target=lambda: results.append(client.call_tool(gate).text), daemon=True
        )
        caller.start()
        until(lambda: os.path.exists(gate + ".called"))
        assert in_child(child) == 0
        assert results == [] and is_running(server)
        open(gate, "w").close()
        caller.join(10)
        assert results == ["done"]


@pytest_forks
@pytest.mark.parametrize("argv", [LEGACY, MODERN], ids=["legacy", "modern"])
def test_the_parents_server_outlives_the_child(argv: List[str]) -> None:
    with mcpsync.connect(argv) as client:
        server = server_of(client)
        assert in_child(lambda: None) == 0
        assert in_child(lambda: echo(client)) == 0
        assert in_child(client.close) == 0
        assert server_of(client) == server and is_running(server)
        echo(client)


@pytest.mark.parametrize("use", ["pass", "client.call_tool('a')", "client.close()"])
def test_the_parents_server_outlives_a_child_that_exits_in_order(use: str) -> None:
    ran = run_script(f"""
        client = mcpsync.connect(LEGACY)
        server = server_of(client)
        pid = os.fork()
        if pid == 0:
            {use}
            sys.exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        assert client.call_tool("b").text == "b"
        assert server_of(client) == server
        client.close()
        """)
    assert ran == (0, "", "")


@pytest_forks
def test_the_server_sees_the_parent_close_though_a_child_lives() -> None:
    # It ignores signals: only the end of its input can end it in time.
    script = "signal.signal(signal.SIGTERM, signal.SIG_IGN)"
    server = python_server(script, "shake_hands()", "serve()")
    client = mcpsync.connect(server, protocol=LEGACY_VERSION)
    with idle_child():
        started = time.monotonic()
        client.close()
        # Earlier than the patience with a server that does not want to end.
        assert time.monotonic() - started < 1.9


@pytest_forks
def test_a_child_forked_while_a_server_is_started_keeps_nothing_of_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Fork at the worst moments: between the pipes and the process, and after it."""
    spawn = subprocess.Popen
    with contextlib.ExitStack() as stack:
        children: List[int] = []

        def popen(*args: Any, **options: Any) -> Any:
            children.append(stack.enter_context(idle_child()))
            process = spawn(*args, **options)
            children.append(stack.enter_context(idle_child()))
            return process

        monkeypatch.setattr(subprocess, "Popen", popen)
        ours = {target for _, target in snapshot().descriptors}
        with mcpsync.connect(LEGACY, protocol=LEGACY_VERSION) as client:
            echo(client)
            assert len(children) == 2
            for child in children:
                assert descriptors_of(child) <= ours


def descriptors_of(pid: int) -> "set[str]":
    """Return the pipes and sockets that a process has open."""
    found = set()
    for number in os.listdir("/proc/%d/fd" % pid):
        target = os.readlink("/proc/%d/fd/%s" % (pid, number))
        if target.startswith(("pipe:", "socket:", "anon_inode:")):
            found.add(target)
    return found


@pytest_forks
def test_forks_and_openings_at_the_same_time() -> None:
    """No child keeps a pipe of a server, wherever the two happen to meet."""
    stop = threading.Event()
    opened: List[int] = []

    def open_and_close() -> None:
        while not stop.is_set():
            transport = StdioTransport(["cat"])
            transport.open([].append, mcpsync._deadline.Deadline.after(10))
            transport.close()
            opened.append(1)

    ours = {target for _, target in snapshot().descriptors}
    opener = threading.Thread(target=open_and_close, daemon=True)
    opener.start()
    try:
        for _ in range(60):
            with idle_child() as child:
                assert descriptors_of(child) <= ours
    finally:
        stop.set()
        opener.join(10)
    assert opened


@pytest_forks
def test_a_child_forked_inside_a_handler_waits_for_nothing() -> None:
    asks = python_server(
        "shake_hands()",
        """
        def ask(params):
            say({"jsonrpc": "2.0", "id": "q", "method": "roots/list"})
            return text(str(len(read()["result"]["roots"])))
        serve({"tools/call": ask})
        """,
    )
    children: List[int] = []

    def roots() -> List[str]:
        children.append(os.fork())
        if children[-1] == 0:
            signal.alarm(10)
        return []

    with mcpsync.connect(asks, protocol=LEGACY_VERSION, roots=roots) as client:
        try:
            result: Optional[str] = client.call_tool("ask").text
        except ClientClosed:
            result = None
        if children == [0]:
            # The call is the parent's.
            os._exit(7 if result is None else 8)
        assert result == "0"
        (child,) = children
        assert os.WEXITSTATUS(os.waitpid(child, 0)[1]) == 7


def _work(connection: Any, client: mcpsync.Client) -> None:
    connection.send((client.call_tool("child").text, server_of(client)))


@pytest_forks
@pytest.mark.parametrize("argv", [LEGACY, IGNORES_SIGTERM], ids=["polite", "stubborn"])
def test_multiprocessing_leaves_no_server_of_a_worker(argv: List[str]) -> None:
    context = multiprocessing.get_context("fork")
    with mcpsync.connect(LEGACY, protocol=LEGACY_VERSION) as client:
        echo(client)
        ours, theirs = context.Pipe()
        other = mcpsync.Client(argv, protocol=LEGACY_VERSION)
        # The worker ends without closing its client, and without `atexit`.
        worker = context.Process(target=_work, args=(theirs, other))
        worker.start()
        assert ours.poll(10)
        text, server = ours.recv()
        assert text == "child"
        worker.join(10)
        assert worker.exitcode == 0
        worker.close()
        ours.close()
        theirs.close()
        until(lambda: not is_running(server), 5)
        echo(client)


@pytest_forks
def test_a_client_that_was_closed_stays_closed_in_the_child() -> None:
    client = mcpsync.connect(LEGACY, protocol=LEGACY_VERSION)
    client.close()

    def child() -> None:
        with pytest.raises(ClientClosed):
            client.call_tool("a")

    assert in_child(child) == 0


@pytest_forks
def test_a_client_that_was_never_opened_can_be_used_in_every_child() -> None:
    with no_leaks():
        client = mcpsync.Client(LEGACY, protocol=LEGACY_VERSION)
        for _ in range(3):
            assert in_child(lambda: (echo(client), client.close())) == 0
        echo(client)
        client.close()


@pytest_forks
def test_a_fork_does_not_wait_for_ever_for_a_good_moment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_lifecycle, "_FORK_PATIENCE", 0.1)
    held, done = threading.Event(), threading.Event()

    def hold() -> None:
        with _lifecycle.no_fork:
            held.set()
            done.wait(10)

    def child() -> None:
        with mcpsync.connect(LEGACY, protocol=LEGACY_VERSION) as client:
            echo(client)

    holder = threading.Thread(target=hold, daemon=True)
    holder.start()
    held.wait(10)
    assert in_child(child) == 0
    done.set()
    holder.join(10)
    child()


# --- closing ------------------------------------------------------------------------


def test_a_handler_may_close_the_client() -> None:
    asks = python_server(
        "shake_hands()",
        """
        def ask(params):
            say({"jsonrpc": "2.0", "id": "q", "method": "roots/list"})
            read()
        serve({"tools/call": ask})
        """,
    )

    def roots() -> List[str]:
        client.close()
        return []

    with no_leaks():
        client = mcpsync.connect(asks, protocol=LEGACY_VERSION, roots=roots)
        with pytest.raises(ClientClosed):
            bounded(lambda: client.call_tool("ask"))


def test_a_client_may_be_closed_while_its_server_does_not_answer() -> None:
    client = mcpsync.Client(IGNORES_EVERYTHING)
    closer = threading.Timer(0.3, client.close)
    with no_leaks():
        closer.start()
        with pytest.raises(ClientClosed):
            bounded(client.open)
        closer.join()
        with pytest.raises(ClientClosed):
            client.open()


def test_ten_threads_close_while_ten_call() -> None:
    outcomes: List[Any] = []
    client = mcpsync.connect(WAITS, protocol=LEGACY_VERSION)
    barrier = threading.Barrier(20)

    def call() -> None:
        barrier.wait(10)
        try:
            client.call_tool("/no/such/directory/gate")
        except Exception as error:
            outcomes.append(type(error))

    def close() -> None:
        barrier.wait(10)
        client.close()

    with no_leaks():
        threads = [
            threading.Thread(target=target, daemon=True)
            for target in [call] * 10 + [close] * 10
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert outcomes == [ClientClosed] * 10


def test_clients_may_be_closed_in_any_order() -> None:
    with no_leaks():
        clients = [mcpsync.connect(LEGACY, protocol=LEGACY_VERSION) for _ in range(3)]
        for client in (clients[1], clients[0], clients[2], clients[1]):
            client.close()


# --- the garbage collector ----------------------------------------------------------


class Holder:
    """A host's object that holds a client, which holds the object's method."""

    def __init__(self, argv: List[str]) -> None:
        self.client = mcpsync.connect(
            argv,
            protocol=LEGACY_VERSION,
            roots=self.roots,
            on_notification=self.hear,
            on_log=self.hear,
        )

    def roots(self) -> List[str]:
        return []

    def hear(self, notification: object) -> None: ...


def forget_client() -> None:
    client = mcpsync.connect(LEGACY, protocol=LEGACY_VERSION)
    echo(client)


def forget_cycle() -> None:
    holder = Holder(LEGACY)
    echo(holder.client)


def forget_unopened() -> None:
    mcpsync.Client(LEGACY)


def forget_after_a_failure() -> None:
    with pytest.raises(mcpsync.MCPError):
        mcpsync.connect(python_server("sys.exit(1)"))


@pytest.mark.parametrize(
    "forget", [forget_client, forget_cycle, forget_unopened, forget_after_a_failure]
)
def test_a_forgotten_client_leaves_nothing(forget: Callable[[], None]) -> None:
    with no_leaks():
        forget()
        gc.collect()


def test_a_client_forgotten_inside_another_threads_work_leaves_nothing() -> None:
    """The collector runs where something is allocated: also on an I/O thread."""
    thresholds = gc.get_threshold()
    with mcpsync.connect(LEGACY, protocol=LEGACY_VERSION) as busy, no_leaks():
        gc.disable()
        for _ in range(3):
            forget_cycle()
        stop = threading.Event()

        def work() -> None:
            while not stop.is_set():
                echo(busy, "x" * 1000)

        threads = [threading.Thread(target=work, daemon=True) for _ in range(3)]
        gc.set_threshold(5, 2, 2)
        gc.enable()
        try:
            for thread in threads:
                thread.start()
            time.sleep(0.3)
        finally:
            gc.set_threshold(*thresholds)
            stop.set()
            for thread in threads:
                thread.join(10)
        echo(busy)


def test_a_finalizer_of_the_host_may_close_on_any_thread() -> None:
    """Also inside the lock of the very client that it closes."""

    class Careful(Holder):
        def __del__(self) -> None:
            self.client.close(1)

    with no_leaks():
        holder = Careful(LEGACY)
        pending = holder.client._connector.transport._connection.pending
        with pending.lock:
            del holder
            bounded_here(gc.collect)
        del pending
        gc.collect()


def bounded_here(run: Callable[[], Any], seconds: int = 9) -> None:
    """Run a function on this very thread; fail when it hangs."""

    def fail(signum: int, frame: Any) -> None:
        raise AssertionError("still running after %d s" % seconds)

    before = signal.signal(signal.SIGALRM, fail)
    signal.alarm(seconds)
    try:
        run()
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


# --- the end of the program ---------------------------------------------------------

PRELUDE = """
    import atexit, os, signal, sys, threading, time
    import mcpsync
    from tests.fakes.stdio_server import *
    def server_of(client):
        return client._connector.transport.pid
    def tell(client):
        print(server_of(client), flush=True)
"""


#: Ends for SIGKILL alone, or after a minute.
STUBBORN = """
    STUBBORN = python_server(
        "signal.signal(signal.SIGTERM, signal.SIG_IGN)",
        "shake_hands()", "serve({'tools/call': lambda params: time.sleep(60)})",
        "time.sleep(60)")
"""


class Ran:
    """How a script ended, and which servers it started."""

    def __init__(self, *parts: str) -> None:
        source = "import sys; sys.path.append(%r)\n" % TESTS
        source += "".join(map(textwrap.dedent, (PRELUDE, *parts)))
        argv = [sys.executable, "-X", "dev", "-W", "error", "-c", source]
        argv[5:5] = ["-W", "ignore:This process:DeprecationWarning"]
        started = time.monotonic()
        self.code, self.out, self.err = _finish(argv)
        self.seconds = time.monotonic() - started
        words = self.out.split()
        self.servers = [int(word) for word in words if word.isdigit()]


def _finish(argv: List[str]) -> "tuple[int, str, str]":
    ran = subprocess.run(
        argv,
        cwd=ROOT,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        timeout=30,
    )
    return ran.returncode, ran.stdout, ran.stderr


def run_script(script: str) -> "tuple[int, str, str]":
    """Return exit code, stdout and stderr of a script in its own interpreter."""
    ran = Ran(script)
    return ran.code, ran.out, ran.err


ENDINGS = {
    "the end of the script": ("", 0),
    "sys.exit": ("sys.exit(3)", 3),
    "an exception": ("raise SystemExit('no more')", 1),
    "sys.exit in a thread": (
        "thread = threading.Thread(target=sys.exit, args=(3,))\n"
        "thread.start()\nthread.join()",
        0,
    ),
    "os._exit": ("os._exit(4)", 4),
    "a call in a daemon thread": (
        "threading.Thread(target=client.call_tool, args=(GATE,), daemon=True)"
        ".start()\ntime.sleep(0.2)",
        0,
    ),
    "a pending call": ("client.start_call(GATE)\ntime.sleep(0.2)", 0),
    "a signal": ("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM),
    "a client in a module": ("import types\nsys.modules['m'] = client", 0),
    "a cycle": ("client.me = client\ndel client", 0),
}


#: Those that a server which does not want to end could hold up.
SLOW_ENDINGS = ["an exception", "a call in a daemon thread", "a pending call"]


@pytest.mark.parametrize(
    "server, ending",
    [("WAITS", ending) for ending in ENDINGS]
    + [("STUBBORN", ending) for ending in SLOW_ENDINGS],
)
def test_a_program_ends_as_if_there_were_no_client(
    tmp_path: Path, server: str, ending: str
) -> None:
    script, code = ENDINGS[ending]
    connect = f"""
        client = mcpsync.connect({server}, protocol="2025-06-18")
        tell(client)
        """
    gate = str(tmp_path / "gate")
    ran = Ran(f"WAITS, GATE = {WAITS!r}, {gate!r}", STUBBORN, connect, script)
    assert (ran.code, ran.err) == (code, "no more\n" if code == 1 else "")
    (pid,) = ran.servers
    until(lambda: not is_running(pid), 2)
    assert ran.seconds < 6


def test_the_end_of_a_program_waits_for_all_servers_on_one_clock() -> None:
    ran = Ran(
        STUBBORN,
        """
        clients = [mcpsync.connect(STUBBORN, protocol="2025-06-18") for _ in range(4)]
        for client in clients:
            tell(client)
        started = time.monotonic()
        atexit._run_exitfuncs()
        assert time.monotonic() - started < 4
        """,
    )
    assert (ran.code, ran.err) == (0, "")
    assert len(ran.servers) == 4
    until(lambda: not any(map(is_running, ran.servers)), 2)


def test_nothing_is_started_once_the_program_ends() -> None:
    ran = Ran("""
        client = mcpsync.Client(LEGACY)
        def late():
            try:
                client.open()
            except mcpsync.ClientClosed:
                print("closed")
        import mcpsync._lifecycle
        atexit.unregister(mcpsync._lifecycle._at_exit)
        atexit.register(late)
        atexit.register(mcpsync._lifecycle._at_exit)
        """)
    assert (ran.code, ran.out, ran.err) == (0, "closed\n", "")


def test_signal_handlers_of_the_host_stay_its_own() -> None:
    ran = Ran("""
        handlers = {n: signal.getsignal(n) for n in signal.valid_signals()}
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, ())
        with mcpsync.connect(LEGACY) as client:
            client.call_tool("a")
            assert {n: signal.getsignal(n) for n in signal.valid_signals()} == handlers
        assert {n: signal.getsignal(n) for n in signal.valid_signals()} == handlers
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == mask
        """)
    assert (ran.code, ran.out, ran.err) == (0, "", "")


@pytest.mark.parametrize(
    "host",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.signal(signal.SIGCHLD, reap)",
        "threading.Thread(target=reap_all, daemon=True).start()",
    ],
    ids=["ignores SIGCHLD", "reaps in a handler", "reaps in a thread"],
)
@pytest.mark.parametrize("end", ["client.close()", "os.kill(pid, 9)", "pass"])
def test_hosts_that_take_care_of_all_children(host: str, end: str) -> None:
    ran = Ran(f"""
        def reap(*args):
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                pass
        def reap_all():
            while True:
                reap()
                time.sleep(0.001)
        {host}
        client = mcpsync.connect(LEGACY, protocol="2025-06-18")
        pid = server_of(client)
        tell(client)
        assert client.call_tool("a").text == "a"
        started = time.monotonic()
        {end}
        if {end!r} == "os.kill(pid, 9)":
            while client.is_open:
                time.sleep(0.01)
            assert client.call_tool("b").text == "b"
            tell(client)
        client.close()
        assert time.monotonic() - started < 4
        """)
    assert (ran.code, ran.err) == (0, "")
    until(lambda: not any(map(is_running, ran.servers)), 2)


def test_a_host_that_dies_of_broken_pipes_survives_its_server() -> None:
    ran = Ran("""
        signal.signal(signal.SIGPIPE, signal.SIG_DFL)
        closes = python_server("shake_hands()", "os.close(0)", "log('deaf')",
                               "time.sleep(0.5)")
        client = mcpsync.connect(closes, protocol="2025-06-18")
        while "deaf" not in client.stderr_tail:
            time.sleep(0.01)
        try:
            client.call_tool("x" * 100_000)
        except mcpsync.ServerExited as error:
            print("exited")
        client.close()
        """)
    assert (ran.code, ran.out, ran.err) == (0, "exited\n", "")


# --- Ctrl-C -------------------------------------------------------------------------

#: Knows which calls were cancelled, and whether every line was whole.
NOTES = """
    NOTES = python_server(
        "signal.signal(signal.SIGINT, signal.SIG_DFL)",
        "shake_hands()",
        '''
    seen, cancelled, torn = [], [], 0
    for line in sys.stdin.buffer:
        try:
            message = json.loads(line)
        except ValueError:
            torn += 1
            continue
        method, params = message["method"], message.get("params") or {}
        if method == "notifications/cancelled":
            cancelled.append(params["requestId"])
        elif method == "ping":
            answer(message, {})
        elif params["name"] == "report":
            answer(message, text(json.dumps([len(seen), cancelled, torn])))
        else:
            seen.append(message["id"])
            if params["name"] != "wait":
                answer(message, text(params["name"]))
        ''')
    import json
    client = mcpsync.connect(NOTES, protocol="2025-06-18")
    def report():
        return json.loads(client.call_tool("report").text)
    def idle():
        return not client._connector.transport._connection.pending._by_id
"""


def test_an_interrupted_call_is_cancelled_and_the_client_goes_on() -> None:
    ran = Ran(
        NOTES,
        """
        def interrupt():
            while report()[0] == 0:
                pass
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt).start()
        started = time.monotonic()
        try:
            client.call_tool("wait")
        except KeyboardInterrupt:
            print("interrupted")
        assert time.monotonic() - started < 5
        while not report()[1]:
            pass
        assert client.call_tool("next").text == "next"
        assert report()[2] == 0
        assert idle()
        client.close()
        """,
    )
    assert (ran.code, ran.out, ran.err) == (0, "interrupted\n", "")


#: Interrupts itself at random, in the middle of large frames and of small ones.
RANDOM = """
    import random
    chance = random.Random(5)
    armed = False
    hits = 0
    def handler(signum, frame):
        global armed, hits
        hits += 1
        if armed:
            armed = False
            raise KeyboardInterrupt
    signal.signal(signal.@SIGNAL@, handler)
    done = threading.Event()
    def shoot():
        while not done.is_set():
            time.sleep(chance.uniform(0, 0.01))
            os.kill(os.getpid(), signal.@SIGNAL@)
    shooter = threading.Thread(target=shoot)
    shooter.start()
    calls = answered = interrupted = 0
    while interrupted < 100:
        calls += 1
        name = str(calls) + "x" * chance.choice((0, 3000, 100_000, 1_000_000))
        try:
            armed = True
            result = client.call_tool(name)
            armed = False
        except KeyboardInterrupt:
            interrupted += 1
            continue
        assert result.text == name
        answered += 1
    done.set()
    shooter.join()
    seen, cancelled, torn = report()
    assert torn == 0, torn
    assert client.call_tool("last").text == "last"
    assert client._connector.transport.generation == 1
    assert not client._connector.transport._connection._outbox.frames
    print(answered >= 0, interrupted, len(cancelled) <= interrupted)
    assert idle()
    client.close()
"""


@pytest.mark.parametrize("name", ["SIGINT", "SIGALRM"])
def test_a_hundred_interrupts_tear_no_frame(name: str) -> None:
    ran = Ran(NOTES, RANDOM.replace("@SIGNAL@", name))
    assert (ran.code, ran.out, ran.err) == (0, "True 100 True\n", "")


def test_a_signal_handler_may_use_the_connection_that_it_interrupts() -> None:
    ran = Ran(
        NOTES,
        """
        import itertools
        from mcpsync._deadline import Deadline
        transport = client._connector.transport
        era = client._connector.established.era
        ids = itertools.count(10_000)
        def call(name, seconds=10):
            deadline = Deadline.after(seconds)
            outgoing = era.request(next(ids), "tools/call", {"name": name})
            with transport.begin(outgoing, deadline) as exchange:
                answer = exchange.receive(deadline)
            assert answer.result["content"][0]["text"] == name
        inside = late = 0
        def handler(signum, frame):
            global inside, late
            inside += 1
            try:
                call("inner", 0.5)
            except mcpsync.RequestTimeout:
                # What was interrupted holds up the thread that reads.
                late += 1
        signal.signal(signal.SIGALRM, handler)
        outside = 0
        while inside < 100 and late < 4:
            outside += 1
            signal.setitimer(signal.ITIMER_REAL, 0.00005 * (outside % 20) + 0.00005)
            call("outer" + "x" * 10_000 * (outside % 5))
        signal.setitimer(signal.ITIMER_REAL, 0)
        assert report()[2] == 0
        assert idle()
        client.close()
        """,
    )
    assert (ran.code, ran.out, ran.err) == (0, "", "")


@pytest.mark.parametrize("delay", ["0", "0.0005", "0.002", "0.2"])
def test_an_interrupt_while_connecting_leaves_nothing(delay: str) -> None:
    script = """
        from tests.fakes.leaks import snapshot
        client = mcpsync.Client(IGNORES_EVERYTHING)
        def interrupt():
            while server_of(client) is None:
                time.sleep(0.001)
            time.sleep(@DELAY@)
            os.kill(os.getpid(), signal.SIGINT)
        thread = threading.Thread(target=interrupt)
        try:
            thread.start()
            client.open()
        except KeyboardInterrupt:
            pass
        thread.join()
        deadline = time.monotonic() + 5
        while snapshot().children or snapshot().threads:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        """
    assert run_script(script.replace("@DELAY@", delay)) == (0, "", "")
