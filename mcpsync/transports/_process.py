"""A server's process: its environment, its start, its last words and its end.

The end follows the specification's shutdown order (2026-07-28, basic/transports/stdio):
close stdin, wait, terminate, wait, kill; signals go to the whole process group, because
``npx`` and ``uvx`` put a wrapper in front of the server.
"""

from __future__ import annotations

import collections
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import threading
from typing import Any, Deque, Dict, Iterable, List, Mapping, Optional, Sequence, Tuple

from .._lifecycle import Enrolled, enrol, no_fork
from .._text import clean
from ..exceptions import ServerNotStarted

__all__ = ["Process", "StderrTail", "describe_exit", "environment"]

#: How long a killed process may take to be gone, in seconds.
_PATIENCE = 2.0

#: How far beyond the cut of a line secrets are looked for, in bytes.
_MARGIN = 4096

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
        self._lines: Deque[bytes] = collections.deque()
        self._size = 0
        self._limit = limit
        self._line_limit = line_limit
        # What is beyond is not shown, but a secret that the cut would leave in two
        # halves is still known as one.
        self._keep = line_limit + _MARGIN
        self._rest = b""

    def feed(self, chunk: bytes) -> List[bytes]:
        """Take what was read and return the lines that it completed."""
        *lines, rest = chunk.split(b"\n")
        with self._lock:
            if not lines:
                self._extend_rest(rest)
                return lines
            self._extend_rest(lines[0])
            lines[0], self._rest = self._rest, rest[: self._keep]
            if max(map(len, lines)) > self._keep:
                lines = [line[: self._keep] for line in lines]
            self._add(lines)
        return lines

    def end(self) -> List[bytes]:
        """Return the last line, if it had no end."""
        return self.feed(b"\n") if self._rest else []

    def _extend_rest(self, piece: bytes) -> None:
        """Go on with the line that has no end yet. Requires _lock."""
        room = self._keep - len(self._rest)
        if room > 0:
            self._rest += piece[:room]

    def _add(self, lines: List[bytes]) -> None:
        """Keep lines; drop the oldest beyond the limit. Requires _lock."""
        size = sum(map(len, lines)) + len(lines)
        if size > self._limit:
            # Of a flood, all that came before is too old anyway.
            self._lines.clear()
            self._size = 0
        self._lines.extend(lines)
        self._size += size
        while self._size > self._limit and len(self._lines) > 1:
            self._size -= len(self._lines.popleft()) + 1

    def text(
        self,
        secrets: Iterable[str] = (),
        lines: Optional[int] = None,
        width: Optional[int] = None,
    ) -> str:
        """Return the last lines, cleaned, with `secrets` masked.

        Args:
            lines: how many at most; ``None``: all that are kept.
            width: characters of a line at most; ``None``: the line limit.
        """
        with self._lock:
            kept = list(self._lines)
            if self._rest:
                kept.append(self._rest)
        if lines is not None:
            kept = kept[-lines:]
        secrets = tuple(secrets)
        return "\n".join(self._show(line, secrets, width) for line in kept)

    def _show(
        self, line: bytes, secrets: Iterable[str] = (), width: Optional[int] = None
    ) -> str:
        """Return one line as :meth:`text` does."""
        text = line.decode("utf-8", "replace").rstrip("\r")
        return clean(text, self._line_limit if width is None else width, secrets)

    def after_fork(self) -> None:
        """Replace the lock in a forked child."""
        self._lock = threading.Lock()


class Process(Enrolled):
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
        self.stdin = self.stdout = self.stderr = -1
        self._theirs: List[int] = []
        # Guards reaping: a signal must not go to a number that was given away.
        # Never while held: waiting.
        # Taken by the I/O thread, by whoever closes, and at exit; again by a signal
        # handler that closes.
        self._reaping = threading.RLock()
        program = argv[0]
        try:
            enrol(self)
            program = _program(argv[0], env, cwd)
            with no_fork:
                child_in, child_out, child_err = self._open_pipes(inherit_stderr)
                self._popen = subprocess.Popen(
                    [program, *argv[1:]],
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
                raise _not_started(argv[0], program, cwd, error, name) from error
            raise
        finally:
            self._close_theirs()
        self.pid = self._popen.pid

    def _open_pipes(self, inherit_stderr: bool) -> Tuple[int, int, Optional[int]]:
        """Open the pipes; return the ends that the child gets."""
        child_err: Optional[int] = None
        child_in, self.stdin = os.pipe()
        self._theirs.append(child_in)
        self.stdout, child_out = os.pipe()
        self._theirs.append(child_out)
        if not inherit_stderr:
            self.stderr, child_err = os.pipe()
            self._theirs.append(child_err)
        for descriptor in (self.stdin, self.stdout, self.stderr):
            if descriptor >= 0 and sys.platform != "win32":
                os.set_blocking(descriptor, False)
        return child_in, child_out, child_err

    def _close_theirs(self) -> None:
        with no_fork:
            while self._theirs:
                _close(self._theirs.pop())

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
            # Asked anew: somebody else may have reaped it since.
            self.has_exited()
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

    def discard(self) -> None:
        """End the process without patience, and give everything back."""
        self.kill()
        self.close_descriptors()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._popen.wait(_PATIENCE)

    def close_stdin(self) -> None:
        with no_fork:
            self.stdin = _close(self.stdin)

    def close_descriptors(self) -> None:
        """Close all our ends. Idempotent."""
        with no_fork:
            self.stdin = _close(self.stdin)
            self.stdout = _close(self.stdout)
            self.stderr = _close(self.stderr)

    def after_fork_in_child(self) -> None:
        # The process is a child of the parent; here it is nobody's.
        self._reaping = threading.RLock()
        self._close_theirs()
        self.close_descriptors()
        popen = getattr(self, "_popen", None)
        if popen is not None:
            popen.returncode = 0


def _close(descriptor: int) -> int:
    if descriptor >= 0:
        try:
            os.close(descriptor)
        except OSError:
            return -1
    return -1


def _own_group() -> Dict[str, Any]:
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
    # Absolute, because the child looks at it from another directory.
    return os.path.abspath(found) if found else name


def _not_started(
    name: str, program: str, cwd: Optional[str], error: Exception, server: str
) -> ServerNotStarted:
    return ServerNotStarted(
        "cannot start %s: %s" % (clean(name, 200), _why_not(program, cwd, error)),
        command=name,
        server=server,
    )


def _why_not(program: str, cwd: Optional[str], error: Exception) -> str:
    reason = clean(getattr(error, "strerror", None) or str(error), 200)
    if cwd is not None and getattr(error, "filename", None) == cwd:
        return "the working directory cannot be entered (%s)" % reason
    if isinstance(error, FileNotFoundError):
        if os.path.isfile(os.path.join(cwd or "", program)):
            return "the program is there, but not the interpreter that it names"
        return "no such program; check the spelling, or give its full path"
    if isinstance(error, PermissionError):
        return "it may not be executed"
    return reason


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
