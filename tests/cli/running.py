"""Ways to run the command line: in this process, as a process, at a terminal."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Sequence, Tuple

import mcpsync

ROOT = str(Path(os.path.abspath(mcpsync.__file__ or "")).parents[1])

#: The demo server as a command at the end of a command line.
STDIO = ["--cwd", ROOT, "--", sys.executable, "-m", "mcpsync.demo"]

#: Seconds that anything here may take.
PATIENCE = 30.0

#: Ctrl-C works however the tests were started; what hangs says where.
_START = """
import faulthandler, signal, sys
if sys.stderr is not None:
    faulthandler.dump_traceback_later(20, exit=True)
signal.signal(signal.SIGINT, signal.default_int_handler)
# Loaded in the middle of a call otherwise: Ctrl-C would leave its file open.
import sseclient
sys.path.append(%r)
from mcpsync.cli import main
sys.exit(main())
""" % ROOT


class Ran(NamedTuple):
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def result(self) -> Any:
        """The result of ``--output json``: all of standard output is one object."""
        value = json.loads(self.out)
        assert list(value) == ["result"]
        return value["result"]

    @property
    def error(self) -> Any:
        """The error of ``--output json``: all of standard error is one line."""
        assert self.err.count("\n") == 1
        value = json.loads(self.err)
        assert list(value) == ["error"]
        assert list(value["error"]) == ["code", "message", "server"]
        return value["error"]


def with_server(words: Sequence[str], server: Sequence[str]) -> List[str]:
    """Return a command line: a URL stands behind the subcommand, a command last."""
    verb, *rest = words
    if len(server) == 1:
        return [verb, *server, *rest]
    return [verb, *rest, *server]


def command(*words: str) -> List[str]:
    """Return the argv of a process that runs ``mcpsync`` with these words."""
    return [sys.executable, "-W", "error", "-c", _START, *words]


def environment(**more: str) -> Dict[str, str]:
    env = {**os.environ, "PYTHONIOENCODING": "utf-8", "TERM": "xterm", **more}
    for name in ("NO_COLOR", "COLUMNS", "PYTHONWARNINGS"):
        if name not in more:
            env.pop(name, None)
    return env


def run_process(*words: str, stdin: bytes = b"", **env: str) -> Ran:
    """Run a command as a process of its own."""
    ran = subprocess.run(
        command(*words),
        input=stdin,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        timeout=PATIENCE,
        env=environment(**env),
    )
    return Ran(ran.returncode, ran.stdout.decode("utf-8"), ran.stderr.decode("utf-8"))


@contextlib.contextmanager
def started(*words: str, **settings: Any) -> Iterator["subprocess.Popen[bytes]"]:
    """Start a command as a process; it is gone at the end, whatever happens."""
    settings = {"stderr": subprocess.PIPE, "stdin": subprocess.DEVNULL, **settings}
    process = subprocess.Popen(command(*words), env=environment(), **settings)
    try:
        yield process
    finally:
        process.kill()
        process.wait(PATIENCE)
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def interrupt(process: "subprocess.Popen[bytes]") -> int:
    """Press Ctrl-C until it works and return the exit code.

    Now and then once is not enough: CPython may look for signals just before one
    comes, and then wait for the network.
    """
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        process.send_signal(signal.SIGINT)
        with contextlib.suppress(subprocess.TimeoutExpired):
            return process.wait(3)
    return process.wait(0)


class Terminal:
    """A command at a pseudo terminal.

    Its standard streams are the terminal, unless they are told to go to a file.
    """

    def __init__(
        self,
        *words: str,
        columns: int = 80,
        stdout: Any = None,
        stderr: Any = None,
        env: Optional[Dict[str, str]] = None,
    ) -> None:
        self.shown = b""
        self._expected = 0
        self._master, slave = pty.openpty()
        size = struct.pack("HHHH", 24, columns, 0, 0)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
        try:
            self.process = subprocess.Popen(
                command(*words),
                stdin=slave,
                stdout=slave if stdout is None else stdout,
                stderr=slave if stderr is None else stderr,
                env=environment(**(env or {})),
                start_new_session=True,
            )
        finally:
            os.close(slave)

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)
        os.close(self._master)

    @property
    def text(self) -> str:
        return self.shown.decode("utf-8").replace("\r\n", "\n")

    def expect(self, text: str) -> None:
        """Wait until the text has been shown, after what was expected before."""
        end = time.monotonic() + PATIENCE
        wanted = text.encode("utf-8")
        while wanted not in self.shown[self._expected :]:
            assert self._read(end), "%r never came; there is: %r" % (text, self.shown)
        self._expected = self.shown.index(wanted, self._expected) + len(wanted)

    def type(self, line: str) -> None:
        """Type a line."""
        os.write(self._master, line.encode("utf-8") + b"\n")

    def dialog(self, *turns: Tuple[str, str]) -> None:
        """Wait for each prompt, and type the line that belongs to it."""
        for prompt, line in turns:
            self.expect(prompt)
            self.type(line)

    def interrupt(self) -> int:
        """Press Ctrl-C until something happens, and return the exit code."""
        end = time.monotonic() + PATIENCE
        while time.monotonic() < end:
            self.process.send_signal(signal.SIGINT)
            if select.select([self._master], [], [], 3)[0]:
                break
        return self.finish()

    def finish(self) -> int:
        """Return the exit code, everything read."""
        end = time.monotonic() + PATIENCE
        while self._read(end):
            pass
        return self.process.wait(PATIENCE)

    def _read(self, end: float) -> bool:
        """Read more; false at the end of the output. Fails when time is up."""
        left = end - time.monotonic()
        ready, _, _ = select.select([self._master], [], [], max(0.0, left))
        assert ready, "nothing more came; there is: %r" % self.shown
        try:
            data = os.read(self._master, 65536)
        except OSError:
            # Linux: the last process that had the terminal open is gone.
            return False
        self.shown += data
        return bool(data)
