"""A server's process: environment, start, last words and end, with real children."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from pathlib import Path
from typing import Any, Callable, Dict, List, Mapping, Optional

import pytest

import mcpsync
from mcpsync.exceptions import ServerNotStarted
from mcpsync.transports._process import (
    Process,
    StderrTail,
    describe_exit,
    environment,
)

from ..fakes.leaks import leaks, snapshot

ROOT = str(Path(os.path.abspath(mcpsync.__file__ or "")).parents[1])

#: Waits for the end of its input, or for half a minute.
WAITS = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]


def start(argv: List[str], **options: Any) -> Process:
    """Start a process with what most tests have in common."""
    env = options.pop("env", None)
    return Process(
        argv,
        environment() if env is None else env,
        options.pop("cwd", None),
        options.pop("inherit_stderr", False),
        "a server",
    )


def end(process: Process) -> None:
    process.kill()
    until(process.has_exited)
    process.reap()
    process.close_descriptors()


def until(condition: Callable[[], Any]) -> None:
    """Wait for what the system does without telling anybody."""
    limit = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < limit
        time.sleep(0.005)


def output_of(argv: List[str], **options: Any) -> str:
    """Return what a process writes to stdout before it ends."""
    process = start(argv, **options)
    try:
        os.set_blocking(process.stdout, True)
        with open(process.stdout, "rb", closefd=False) as stdout:
            return stdout.read().decode()
    finally:
        end(process)


def printed(source: str, **options: Any) -> Any:
    """Return the JSON that a Python child prints."""
    return json.loads(output_of([sys.executable, "-S", "-c", source], **options))


# --- environment --------------------------------------------------------------------


@pytest.fixture
def surroundings(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment of this process that holds what is nobody's business."""
    for name in list(os.environ):
        if name not in ("PATH", "HOME"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("LANG", "C.UTF-8")
    monkeypatch.setenv("GITHUB_TOKEN", "ghp_secret")
    monkeypatch.setenv("LD_PRELOAD", "")
    monkeypatch.setenv("REGION", "north")
    monkeypatch.setenv("BASH_FUNC_ls%%", "() { echo pwned; }")
    monkeypatch.setenv("SHELLSHOCK", "() { :; }; echo pwned")


ENVIRON = "import os, json; print(json.dumps(dict(os.environ)))"


@pytest.mark.usefixtures("surroundings")
def test_a_child_gets_a_short_list_of_variables() -> None:
    got = printed(ENVIRON, env=environment())
    got.pop("LC_CTYPE", None)
    assert set(got) == {"PATH", "HOME", "LANG"}


@pytest.mark.usefixtures("surroundings")
def test_named_variables_are_passed_on_and_given_ones_win() -> None:
    env = environment({"REGION": "south", "X": "1"}, ["GITHUB_TOKEN", "REGION", "NO"])
    got = printed(ENVIRON, env=env)
    assert got["GITHUB_TOKEN"] == "ghp_secret"
    assert (got["REGION"], got["X"]) == ("south", "1")
    assert "NO" not in got


@pytest.mark.usefixtures("surroundings")
@pytest.mark.parametrize("options", [{"inherit": True}, {"env_vars": ["SHELLSHOCK"]}])
def test_functions_of_a_shell_are_never_passed_on(options: Mapping[str, Any]) -> None:
    got = printed(ENVIRON, env=environment(**options))
    assert not any("pwned" in value for value in got.values())


@pytest.mark.usefixtures("surroundings")
def test_all_of_the_environment_can_be_passed_on() -> None:
    got = printed(ENVIRON, env=environment(inherit=True))
    assert got["GITHUB_TOKEN"] == "ghp_secret"
    assert got["LD_PRELOAD"] == ""


def test_bytes_that_are_no_text_survive(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(os.environb, b"ODD", b"\xff\xfe")
    source = "import os; print(list(os.environb[b'ODD']))"
    assert printed(source, env=environment(env_vars=["ODD"])) == [255, 254]


# --- what a child inherits ----------------------------------------------------------


def test_a_child_has_three_descriptors_and_no_more(tmp_path: Path) -> None:
    source = "import os, json; print(json.dumps(os.listdir('/proc/self/fd')))"
    with open(tmp_path / "open", "w") as other:
        os.set_inheritable(other.fileno(), True)
        # The fourth is the listing's own.
        assert len(printed(source)) == 4


def test_a_child_has_a_session_and_a_group_of_its_own() -> None:
    source = (
        "import os, json; "
        "print(json.dumps([os.getpid(), os.getpgid(0), os.getsid(0)]))"
    )
    pid, group, session = printed(source)
    assert pid == group == session != os.getpgid(0)


def test_a_child_has_no_terminal() -> None:
    source = "import os, json; print(json.dumps([os.isatty(n) for n in (0, 1, 2)]))"
    assert printed(source) == [False, False, False]


def test_a_child_dies_of_a_broken_pipe_as_programs_do() -> None:
    source = (
        "import signal; print(int(signal.getsignal(signal.SIGPIPE) == "
        "signal.SIG_IGN))"
    )
    # Python ignores the signal for itself; its parent must not have done so for it.
    shell = "trap '' TERM; grep SigIgn /proc/self/status"
    mask = int(output_of(["sh", "-c", shell]).split()[1], 16)
    assert not mask & (1 << (signal.SIGPIPE - 1))
    assert printed(source) == 1


def test_our_ends_do_not_block_and_the_childs_do() -> None:
    source = (
        "import os, json; print(json.dumps([os.get_blocking(n) for n in (0, 1, 2)]))"
    )
    process = start([sys.executable, "-S", "-c", source])
    try:
        for descriptor in (process.stdin, process.stdout, process.stderr):
            assert not os.get_blocking(descriptor)
        os.set_blocking(process.stdout, True)
        assert json.loads(os.read(process.stdout, 100)) == [True, True, True]
    finally:
        end(process)


def test_stderr_can_be_our_own(capfd: pytest.CaptureFixture[str]) -> None:
    assert output_of(["sh", "-c", "echo out; echo err >&2"], inherit_stderr=True)
    assert capfd.readouterr().err == "err\n"


def test_the_working_directory(tmp_path: Path) -> None:
    assert output_of(["pwd"], cwd=str(tmp_path)).strip() == str(tmp_path)


# --- starts that fail ---------------------------------------------------------------


@pytest.fixture
def programs(tmp_path: Path) -> Dict[str, str]:
    """Programs that cannot be started, each for its own reason."""
    plain = tmp_path / "plain"
    plain.write_text("#!/bin/sh\n")
    homeless = tmp_path / "homeless"
    homeless.write_text("#!/no/such/interpreter\n")
    homeless.chmod(0o755)
    garbage = tmp_path / "garbage"
    garbage.write_bytes(b"\0garbage")
    garbage.chmod(0o755)
    return {
        "missing": "no-such-program-anywhere",
        "missing path": str(tmp_path / "missing"),
        "not executable": str(plain),
        "without interpreter": str(homeless),
        "garbage": str(garbage),
        "directory": str(tmp_path),
    }


@pytest.mark.parametrize(
    "what, why",
    [
        ("missing", "no such program"),
        ("missing path", "no such program"),
        ("not executable", "may not be executed"),
        ("without interpreter", "the interpreter that it names"),
        ("garbage", "Exec format error"),
        ("directory", "may not be executed"),
    ],
)
def test_a_program_that_cannot_be_started(
    programs: Dict[str, str], what: str, why: str
) -> None:
    before = snapshot()
    with pytest.raises(ServerNotStarted, match=why) as caught:
        start([programs[what], "--token", "sk-secret-argument"])
    assert caught.value.command == programs[what]
    assert caught.value.server == "a server"
    assert "sk-secret" not in str(caught.value)
    assert leaks(before, patience=0) == []


@pytest.mark.parametrize("name", ["missing", "a file"])
def test_a_working_directory_that_is_none(tmp_path: Path, name: str) -> None:
    (tmp_path / "a file").touch()
    before = snapshot()
    with pytest.raises(ServerNotStarted, match="working directory"):
        start(WAITS, cwd=str(tmp_path / name))
    assert leaks(before, patience=0) == []


@pytest.mark.parametrize(
    "argv, options",
    [
        (["echo", "a\0b"], {}),
        (["echo"], {"cwd": "a\0b"}),
        (["echo"], {"env": {"A=B": "c"}}),
        (["echo", "\ud800"], {}),
        (["echo", "x" * (4 << 20)], {}),
    ],
    ids=["NUL in an argument", "NUL in cwd", "= in a name", "surrogate", "too long"],
)
def test_what_the_system_refuses(argv: List[str], options: Mapping[str, Any]) -> None:
    before = snapshot()
    with pytest.raises(ServerNotStarted):
        start(argv, **options)
    assert leaks(before, patience=0) == []


@pytest.mark.parametrize("spare", range(10))
def test_no_descriptor_is_lost_when_they_run_out(spare: int) -> None:
    # Every number of descriptors that is left, up to what a start needs.
    script = """
        import os, resource, sys
        from mcpsync.exceptions import ServerNotStarted
        from mcpsync.transports._process import Process
        before = len(os.listdir("/proc/self/fd"))
        resource.setrlimit(resource.RLIMIT_NOFILE, (before - 1 + {spare}, 4096))
        try:
            env = {{"PATH": os.environ["PATH"]}}
            process = Process(["true"], env, None, False, "a server")
        except ServerNotStarted as error:
            assert "Too many open files" in str(error), error
        else:
            process.kill()
            process.close_descriptors()
            process.reap()
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
        assert len(os.listdir("/proc/self/fd")) == before
        """
    run_script(script.format(spare=spare))


def run_script(script: str) -> None:
    """Run a script in an interpreter of its own, which must stay silent."""
    argv = [sys.executable, "-X", "dev", "-W", "error", "-c", textwrap.dedent(script)]
    ran = subprocess.run(
        argv, cwd=ROOT, timeout=30, stderr=subprocess.PIPE, encoding="utf-8"
    )
    assert (ran.returncode, ran.stderr) == (0, "")


def test_the_program_is_looked_up_on_the_childs_path(tmp_path: Path) -> None:
    program = tmp_path / "bin" / "only-there"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho found\n")
    program.chmod(0o755)
    env = {"PATH": str(program.parent)}
    assert output_of(["only-there"], env=env) == "found\n"
    with pytest.raises(ServerNotStarted):
        start(["only-there"])


# --- the end ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "source, code",
    [
        ("sys.exit(0)", 0),
        ("sys.exit(7)", 7),
        ("os.kill(os.getpid(), signal.SIGSEGV)", -signal.SIGSEGV),
        ("os.abort()", -signal.SIGABRT),
    ],
)
def test_the_exit_code_is_known_before_the_process_is_reaped(
    source: str, code: int
) -> None:
    quiet = "import resource as r; r.setrlimit(r.RLIMIT_CORE, (0, 0)); "
    process = start([sys.executable, "-c", quiet + "import os, signal, sys; " + source])
    until(process.has_exited)
    assert process.returncode == code
    os.kill(process.pid, 0)
    process.reap()
    with pytest.raises(ProcessLookupError):
        os.kill(process.pid, 0)
    assert process.has_exited()
    process.close_descriptors()


def test_no_signal_is_sent_once_the_number_was_given_back(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = start(WAITS)
    end(process)
    sent: List[Any] = []
    monkeypatch.setattr(os, "killpg", lambda *args: sent.append(args))
    process.terminate()
    process.kill()
    assert sent == []


def test_no_signal_is_sent_to_what_somebody_else_has_reaped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    process = start(["true"])
    os.waitpid(process.pid, 0)
    sent: List[Any] = []
    monkeypatch.setattr(os, "killpg", lambda *args: sent.append(args))
    process.kill()
    assert sent == []
    assert process.has_exited()
    assert process.returncode is None
    process.reap()
    process.close_descriptors()


def test_signals_go_to_all_that_the_server_started() -> None:
    # As with npx: a wrapper in front, which does not pass signals on.
    wrapper = ["sh", "-c", "trap '' TERM; sleep 60 & echo $!; wait"]
    process = start(wrapper)
    os.set_blocking(process.stdout, True)
    inner = int(os.read(process.stdout, 100))
    assert os.getpgid(inner) == process.pid
    end(process)
    until(lambda: not is_running(inner))


def is_running(pid: int) -> bool:
    """Return whether there is such a process, zombies aside."""
    try:
        with open("/proc/%d/stat" % pid) as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_discarding_ends_a_process_that_ignores_everything() -> None:
    before = snapshot()
    process = start(["sh", "-c", "trap '' TERM; sleep 60; sleep 60"])
    process.discard()
    assert leaks(before) == []
    assert not is_running(process.pid)


@pytest.mark.parametrize(
    "code, words",
    [
        (None, "ended"),
        (0, "exited with code 0"),
        (3, "exited with code 3"),
        (-9, "was killed by SIGKILL"),
        (-64, "was killed by SIGRTMAX"),
        (-99, "was killed by signal 99"),
    ],
)
def test_how_a_process_ended_in_words(code: Optional[int], words: str) -> None:
    assert describe_exit(code) == words


# --- the last words -----------------------------------------------------------------


def test_lines_are_told_once_they_are_complete() -> None:
    tail = StderrTail(1000, 100)
    assert tail.feed(b"one\ntw") == [b"one"]
    assert tail.feed(b"o\r\n\nthree") == [b"two\r", b""]
    assert tail.end() == [b"three"]
    assert tail.end() == []
    assert tail.text() == "one\ntwo\n\nthree"


def test_the_oldest_lines_go_first() -> None:
    tail = StderrTail(30, 100)
    for number in range(100):
        tail.feed(b"line %d\n" % number)
    assert tail.text().split("\n") == ["line 97", "line 98", "line 99"]
    assert tail.text(lines=1) == "line 99"


def test_a_line_without_an_end_belongs_to_the_last_words() -> None:
    tail = StderrTail(1000, 100)
    tail.feed(b"Traceback:\nKeyError: 'API_KEY'")
    assert tail.text() == "Traceback:\nKeyError: 'API_KEY'"


@pytest.mark.parametrize("step", [1, 7, 64, 10_000])
def test_long_lines_are_cut_and_what_follows_is_kept(step: int) -> None:
    tail = StderrTail(64 * 1024, 20)
    written = b"first\n" + b"x" * 9000 + b"\nlast\n"
    told = []
    for place in range(0, len(written), step):
        told += tail.feed(written[place : place + step])
    assert [line[:20] for line in told] == [b"first", b"x" * 20, b"last"]
    assert tail.text().split("\n") == ["first", "x" * 20 + "…", "last"]


def test_a_flood_is_kept_within_bounds() -> None:
    tail = StderrTail(64 * 1024, 16 * 1024)
    flood = [b"x" * 65536, b"y\n" * 32768, b"z" * 65535 + b"\n", b"\n" * 65536]
    for chunk in flood * 10:
        tail.feed(chunk)
    assert len(tail.text()) <= 64 * 1024
    for _ in range(10):
        tail.feed(b"x" * 65536)
    tail.feed(b"\nlast words")
    assert tail.text().endswith("\nlast words")


@pytest.mark.parametrize("place", range(0, 30, 3))
def test_secrets_are_masked_wherever_a_line_is_cut(place: int) -> None:
    tail = StderrTail(64 * 1024, 20)
    tail.feed(b"x" * place + b"hunter2-and-more\n")
    assert "hunt" not in tail.text(["hunter2-and-more"])


def test_what_a_terminal_would_obey_is_escaped() -> None:
    tail = StderrTail(1000, 100)
    tail.feed(b"\x1b[2Jgone \xff\n")
    assert tail.text() == "\\x1b[2Jgone \\ufffd"


def test_the_tail_may_be_read_while_it_is_written() -> None:
    tail = StderrTail(300, 100)
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            tail.feed(b"abc\ndef\nghi")

    writer = threading.Thread(target=write, daemon=True)
    writer.start()
    for _ in range(200):
        assert set(tail.text().split("\n")[1:-1]) <= {"abc", "def", "ghiabc"}
    stop.set()
    writer.join(5)
