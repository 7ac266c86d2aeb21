"""A server's process: its environment, its start, its last words and its end.

The end follows the specification's shutdown order (2026-07-28, basic/transports/stdio):
close stdin, wait, terminate, wait, kill; signals go to the whole process group, because
``npx`` and ``uvx`` put a wrapper in front of the server.
"""

from __future__ import annotations

import collections
import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import Deque, Dict, Iterable, List, Mapping, Optional, Sequence

from .._text import clean
from ..exceptions import ServerNotStarted

__all__ = ["Process", "StderrTail", "describe_exit", "environment"]

_POSIX_VARIABLES = (
    "HOME",
    "LOGNAME",
    "PATH",
    "SHELL",
    "USER",
    "__CF_USER_TEXT_ENCODING",
    "LANG",
    "LC_ALL",
    "TERM",
    "TMPDIR",
    "TZ",
)

_WINDOWS_VARIABLES = (
    "PATH",
    "PATHEXT",
    "SHELL",
    "COMSPEC",
    "SYSTEMROOT",
    "SYSTEMDRIVE",
    "USERNAME",
    "USERDOMAIN",
    "USERPROFILE",
    "HOMEDRIVE",
    "HOMEPATH",
    "PROGRAMFILES",
    "PROGRAMFILES(X86)",
    "PROGRAMW6432",
    "PROGRAMDATA",
    "LOCALAPPDATA",
    "APPDATA",
    "TEMP",
    "TMP",
    "TMPDIR",
    "POWERSHELL",
    "PWSH",
)


def environment(
    env: Optional[Mapping[str, str]] = None,
    env_vars: Iterable[str] = (),
    inherit: bool = False,
) -> Dict[str, str]:
    """Return a child's environment: an allow-list of ours, `env_vars`, then `env`.

    Secrets in this process's environment do not reach a server unless they are named.
    Shell functions that hide in variables are left out.
    """
    names = _WINDOWS_VARIABLES if sys.platform == "win32" else _POSIX_VARIABLES
    wanted: Iterable[str] = list(os.environ) if inherit else (*names, *env_vars)
    child = {
        name: value
        for name in wanted
        for value in (os.environ.get(name),)
        if value is not None and not value.startswith("()")
    }
    child.update(env or {})
    return child


class StderrTail:
    """The last lines of a server's stderr, within bounds. Safe for all threads."""

    def __init__(self, limit: int, line_limit: int) -> None:
        # Guards the lines. Never while held: anything but list work.
        # Taken by the I/O thread and by whoever reads the tail.
        self._lock = threading.Lock()
        self._lines: Deque[str] = collections.deque()
        self._size = 0
        self._limit = limit
        self._line_limit = line_limit
        self._rest = b""

    def feed(self, chunk: bytes) -> List[str]:
        """Take what was read and return the lines that it completed."""
        *complete, rest = (self._rest + chunk).split(b"\n")
        if len(rest) > self._line_limit:
            complete.append(rest)
            rest = b""
        self._rest = rest
        lines = [self._decode(line) for line in complete]
        with self._lock:
            for line in lines:
                self._append(line)
        return lines

    def end(self) -> List[str]:
        """Return the last line, if it had no end."""
        return self.feed(b"\n") if self._rest else []

    def _decode(self, line: bytes) -> str:
        return line[: self._line_limit].decode("utf-8", "replace").rstrip("\r")

    def _append(self, line: str) -> None:
        """Add a line and drop the oldest beyond the limit. Requires _lock."""
        self._lines.append(line)
        self._size += len(line) + 1
        while self._size > self._limit and len(self._lines) > 1:
            self._size -= len(self._lines.popleft()) + 1

    def text(self, secrets: Iterable[str] = (), lines: Optional[int] = None) -> str:
        """Return the kept lines, cleaned, with `secrets` masked."""
        with self._lock:
            kept = list(self._lines)
        if lines is not None:
            kept = kept[-lines:]
        secrets = tuple(secrets)
        return "\n".join(clean(line, self._line_limit, secrets) for line in kept)

    def after_fork(self) -> None:
        """Replace the lock in a forked child."""
        self._lock = threading.Lock()


class Process:
    """One child process with raw descriptors to its three streams.

    The descriptors are ours alone: no file object closes them behind our back, which
    matters after a fork, when the numbers mean something else to the child.

    Attributes:
        returncode: the exit code once it has exited, negative for a signal; ``None``
            before that, or when another part of this program reaped the process.
    """

    def __init__(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: Optional[str],
        inherit_stderr: bool,
        name: str,
    ) -> None:
        self.returncode: Optional[int] = None
        child_in, self.stdin = os.pipe()
        self.stdout, child_out = os.pipe()
        self.stderr, child_err = (-1, 2) if inherit_stderr else os.pipe()
        theirs = [child_in, child_out] + ([] if inherit_stderr else [child_err])
        try:
            self._popen = subprocess.Popen(
                [_program(argv[0], env, cwd), *argv[1:]],
                stdin=child_in,
                stdout=child_out,
                stderr=child_err,
                env=dict(env),
                cwd=cwd,
                close_fds=True,
                **_own_group(),
            )
        except BaseException as error:
            self.close_descriptors()
            if isinstance(error, (OSError, ValueError, subprocess.SubprocessError)):
                raise _not_started(argv[0], cwd, error, name) from error
            raise
        finally:
            for descriptor in theirs:
                os.close(descriptor)
        self.pid = self._popen.pid
        # Guards reaping: a signal must not go to a number that was given away.
        # Never while held: waiting. Taken by the I/O thread and at exit.
        self._reaping = threading.Lock()
        for descriptor in (self.stdin, self.stdout, self.stderr):
            if descriptor >= 0 and sys.platform != "win32":
                os.set_blocking(descriptor, False)

    def has_exited(self) -> bool:
        """Return whether the process has ended, without reaping it.

        Until it is reaped its number cannot be given to another process, so that its
        group can still be signalled safely.
        """
        if self._popen.returncode is not None:
            return True
        if not hasattr(os, "waitid"):
            self.returncode = self._popen.poll()
            return self.returncode is not None
        try:
            flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
            status = os.waitid(os.P_PID, self.pid, flags)
        except ChildProcessError:
            # Somebody else reaps the children of this program: it is gone, and how
            # it went nobody can tell any more.
            self._popen.returncode = 0
            return True
        if status is None:
            return False
        exited = status.si_code == os.CLD_EXITED
        self.returncode = status.si_status if exited else -status.si_status
        return True

    def reap(self) -> None:
        """Collect the exit code of a process that has exited."""
        with self._reaping:
            if self._popen.returncode is None:
                self._popen.wait()

    def signal_group(self, number: int) -> None:
        """Send a signal to the process and all that it started in its group."""
        with self._reaping:
            if self._popen.returncode is None:
                self._signal(number)

    def _signal(self, number: int) -> None:
        """Signal the group. Requires holding _reaping."""
        try:
            if sys.platform == "win32":
                self._popen.send_signal(number)
            else:
                os.killpg(self.pid, number)
        except (ProcessLookupError, PermissionError):
            return

    def terminate(self) -> None:
        self.signal_group(signal.SIGTERM)

    def kill(self) -> None:
        self.signal_group(getattr(signal, "SIGKILL", signal.SIGTERM))

    def close_stdin(self) -> None:
        self.stdin = _close(self.stdin)

    def close_descriptors(self) -> None:
        """Close all our ends. Idempotent."""
        self.stdin = _close(self.stdin)
        self.stdout = _close(self.stdout)
        self.stderr = _close(self.stderr)

    def disown(self) -> None:
        """Forget the process in a forked child: it is a child of the parent."""
        self._reaping = threading.Lock()
        self.close_descriptors()
        self._popen.returncode = 0


def _close(descriptor: int) -> int:
    if descriptor >= 0:
        try:
            os.close(descriptor)
        except OSError:
            return -1
    return -1


def _own_group() -> Dict[str, object]:
    # A stop button or Ctrl-C signals the whole group of the host program: the server
    # is not to die of it.
    if sys.platform == "win32":
        return {"creationflags": subprocess.CREATE_NEW_PROCESS_GROUP}
    return {"start_new_session": True}


def _program(name: str, env: Mapping[str, str], cwd: Optional[str]) -> str:
    """Return the program to run, looked up on the child's own PATH."""
    if os.path.dirname(name):
        return name
    found = shutil.which(name, path=env.get("PATH", os.defpath))
    return found or name


def _not_started(
    program: str, cwd: Optional[str], error: Exception, name: str
) -> ServerNotStarted:
    shown = clean(program, 200)
    if isinstance(error, FileNotFoundError) and cwd is not None:
        if not os.path.isdir(cwd):
            return ServerNotStarted(
                "cannot start %s: the working directory does not exist" % shown,
                command=program,
                server=name,
            )
    if isinstance(error, FileNotFoundError):
        why = "no such program; check the spelling, or give its full path"
    elif isinstance(error, PermissionError):
        why = "it may not be executed"
    else:
        why = clean(getattr(error, "strerror", None) or str(error), 200)
    return ServerNotStarted(
        "cannot start %s: %s" % (shown, why), command=program, server=name
    )


def describe_exit(returncode: Optional[int]) -> str:
    """Return how a process ended, in words."""
    if returncode is None:
        return "ended"
    if returncode >= 0:
        return "exited with code %d" % returncode
    try:
        return "was killed by %s" % signal.Signals(-returncode).name
    except ValueError:
        return "was killed by signal %d" % -returncode
