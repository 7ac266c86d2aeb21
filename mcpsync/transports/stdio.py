"""stdio: the server is a child process, one JSON message a line.

Specification: 2026-07-28, basic/transports/stdio.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import (
    Callable,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    Union,
)

from .. import _lifecycle
from .._deadline import Deadline
from .._lifecycle import Enrolled, enrol
from .._text import CLIP, clean
from ..exceptions import (
    ClientClosed,
    ConfigError,
    LocalProtocolError,
    ServerNotStarted,
)
from ..protocol.jsonrpc import Outgoing
from ._pending import PendingExchanges
from ._pipes import Frame, PipeConnection
from ._process import Process, environment
from ._weak import weakly
from .base import Exchange, Limits, Note, Profile, Transport, Unsolicited

__all__ = ["StdioTransport"]

#: Longest close: stdin, SIGTERM and SIGKILL with their patience.
_CLOSE_SECONDS = 7.0


class StdioTransport(Transport, Enrolled):
    """A server that this process starts and talks to through pipes.

    Args:
        argv: the program and its arguments, never a shell command line.
        env: variables for the server, on top of a short allow-list of ours.
        env_vars: names of further variables to pass on from this process.
        inherit_env: pass on the whole environment of this process.
        cwd: the server's working directory.
        restart: whether the next call restarts a server that has died.
        stderr: ``"capture"`` keeps the last 64 KiB and logs each line;
            ``"inherit"`` lets the server write to this process's own stderr.
        name: how the server is called in messages, logs and thread names.

    Its methods may be called from any thread.
    """

    kind = "stdio"

    def __init__(
        self,
        argv: Sequence[Union[str, "os.PathLike[str]"]],
        *,
        env: Optional[Mapping[str, str]] = None,
        env_vars: Iterable[str] = (),
        inherit_env: bool = False,
        cwd: Union[None, str, "os.PathLike[str]"] = None,
        restart: bool = True,
        stderr: str = "capture",
        name: Optional[str] = None,
        limits: Optional[Limits] = None,
    ) -> None:
        self.argv = _checked_argv(argv)
        self.name = name or os.path.basename(self.argv[0])
        self.restart = restart
        self.limits = limits or Limits()
        self._env = _checked_env(env)
        self._env_vars = _checked_names(env_vars)
        self._inherit_env = inherit_env
        self._cwd = None if cwd is None else os.fspath(cwd)
        if stderr not in ("capture", "inherit"):
            raise ConfigError(
                "stderr must be 'capture' or 'inherit', not %s" % clean(repr(stderr))
            )
        self._inherit_stderr = stderr == "inherit"
        self._connection: Optional[PipeConnection] = None
        self._finalizer: Optional[Callable[[], object]] = None
        # Guards the swap of the connection and the final state.
        # Never while held: waiting for the process, I/O on its pipes.
        # Taken by open() and close(); again by a signal handler that closes.
        self._lock = threading.RLock()
        self._closed = False
        enrol(self)

    def __repr__(self) -> str:
        # The arguments may hold what nobody is to read.
        return "StdioTransport(%s)" % clean(repr(self.argv[0]), 120)

    # --- life ---------------------------------------------------------------

    def open(self, on_unsolicited: Unsolicited, deadline: Deadline) -> None:
        """Start the server. Opening again replaces a process, dead or alive."""
        self._end_previous(deadline)
        self._check_open()
        unsolicited = weakly(on_unsolicited)
        notes = _Notes(self.name, unsolicited, self._secrets())
        env = environment(self._env, self._env_vars, self._inherit_env)
        process = Process(self.argv, env, self._cwd, self._inherit_stderr, self.name)
        try:
            connection = PipeConnection(
                process,
                PendingExchanges(
                    self.limits.pending_requests,
                    unsolicited,
                    self.name,
                    self.limits.notifications_queued,
                ),
                self.limits,
                self.name,
                self._secrets(),
                notes.stderr_lines,
                notes.junk,
            )
        except BaseException as error:
            process.discard()
            if isinstance(error, OSError):
                raise self._not_started(error) from error
            raise
        self._start(connection)

    def _end_previous(self, deadline: Deadline) -> None:
        """End the process before, which may hold what the next one needs."""
        before = self._connection
        if before is not None:
            before.replace()
            if not before.join(min(_CLOSE_SECONDS, deadline.wait_seconds())):
                before.process.kill()

    def _check_open(self) -> None:
        if self._closed or _lifecycle.exiting:
            raise ClientClosed("the client is closed", server=self.name)

    def _start(self, connection: PipeConnection) -> None:
        """Put a connection into service, unless the client was closed meanwhile."""
        finalizer = weakref.finalize(self, connection.stop)
        finalizer.atexit = False
        with self._lock:
            closed = self._closed
            if not closed:
                self._connection = connection
                self.generation += 1
                before, self._finalizer = self._finalizer, finalizer.detach
        if not closed and before is not None:
            # What is gone for good need not be kept for the finalizer's sake.
            before()
        try:
            connection.start()
        except BaseException as error:
            self._connection = None
            if isinstance(error, (OSError, RuntimeError)):
                # Out of descriptors, or of threads.
                raise self._not_started(error) from error
            raise
        if closed:
            connection.stop()
            connection.join(_CLOSE_SECONDS)
            self._check_open()

    def _not_started(self, error: Exception) -> ServerNotStarted:
        return ServerNotStarted(
            "cannot start %s: %s" % (clean(self.argv[0], 200), clean(str(error), 200)),
            command=self.argv[0],
            server=self.name,
        )

    def establish(self, profile: Optional[Profile]) -> None:
        connection = self._connection
        if connection is not None:
            connection.batches = profile is not None and profile.batches

    def close(self, timeout: Optional[float] = None) -> None:
        with self._lock:
            self._closed = True
            connection = self._connection
        if connection is None:
            return
        name = self.name
        connection.pending.fail_all(
            lambda sent: ClientClosed("the client was closed", server=name)
        )
        connection.stop()
        if not connection.join(_CLOSE_SECONDS if timeout is None else timeout):
            connection.process.kill()

    def abandon(self) -> None:
        connection = self._connection
        if connection is not None:
            connection.stop()

    def after_fork_in_child(self) -> None:
        # The connection closes its own copies; the child starts its own server.
        self._lock = threading.RLock()
        self._connection = None
        self._finalizer = None

    # --- facts --------------------------------------------------------------

    @property
    def alive(self) -> bool:
        connection = self._connection
        return connection is not None and connection.alive

    @property
    def pid(self) -> Optional[int]:
        """The server's process id, while there is one."""
        connection = self._connection
        if connection is None or connection.process.has_exited():
            return None
        return connection.process.pid

    @property
    def stderr_tail(self) -> str:
        """What the server wrote to stderr last, cleaned, secrets masked."""
        connection = self._connection
        if connection is None:
            return ""
        return connection.stderr.text(self._secrets())

    def _secrets(self) -> Tuple[str, ...]:
        """Return what the server was given and nobody else is to see."""
        values = [*self._env.values()]
        values += [os.environ.get(name, "") for name in self._env_vars]
        # Of a key in many lines, each is printed, and masked, as a line.
        return tuple(line for value in values for line in (value, *value.split("\n")))

    # --- messages -----------------------------------------------------------

    def begin(self, outgoing: Outgoing, deadline: Deadline) -> Exchange:
        connection = self._open_connection()
        frame = _frame(outgoing)
        exchange = connection.pending.add(
            outgoing, lambda notice: connection.send(_frame(notice)), frame
        )
        try:
            connection.send(frame)
        except BaseException:
            # Interrupted: some of it may have gone out, and the rest will.
            exchange.cancel("interrupted")
            exchange.close()
            raise
        return exchange

    def send(self, outgoing: Outgoing, deadline: Deadline) -> None:
        self._open_connection().post(_frame(outgoing), deadline)

    def _open_connection(self) -> PipeConnection:
        connection = self._connection
        if connection is not None:
            return connection
        if self._closed:
            raise ClientClosed("the client is closed", server=self.name)
        raise LocalProtocolError("the transport is not open", server=self.name)


def _frame(outgoing: Outgoing) -> Frame:
    return Frame(outgoing.body + b"\n")


class _Notes:
    """What the I/O thread notes: stderr lines, and lines that are no messages."""

    def __init__(
        self, name: str, unsolicited: Unsolicited, secrets: Tuple[str, ...]
    ) -> None:
        self._name = name
        self._unsolicited = unsolicited
        self._secrets = secrets
        self._logger = logging.getLogger("mcpsync.server.%s" % name)

    def stderr_lines(self, lines: List[bytes]) -> None:
        # Logging may run a host program's code, which is not for the I/O thread.
        if self._logger.isEnabledFor(logging.INFO):
            for line in lines:
                text = line.decode("utf-8", "replace").rstrip("\r")
                shown = clean(text, CLIP, self._secrets)
                self._unsolicited(Note(logging.INFO, shown))

    def junk(self, excerpt: str) -> None:
        text = (
            "server %r prints to its standard output what is no message; such lines "
            "are skipped. The first: %s" % (self._name, excerpt)
        )
        self._unsolicited(Note(logging.WARNING, text))


def _checked_argv(argv: object) -> Tuple[str, ...]:
    if isinstance(argv, (str, bytes)):
        raise ConfigError(
            "the server's command must be a list of a program and its arguments, "
            "not one string: a shell never sees it"
        )
    if not isinstance(argv, Sequence) or not argv:
        raise ConfigError("the server's command must be a list with a program in it")
    parts = []
    for part in argv:
        try:
            text = os.fspath(part)
        except TypeError:
            text = None
        if not isinstance(text, str) or "\0" in text:
            raise ConfigError(
                "every part of the server's command must be a string, not %s"
                % clean(repr(part), 80)
            )
        parts.append(text)
    if not parts[0]:
        raise ConfigError("the server's program must not be empty")
    return tuple(parts)


def _checked_names(names: Iterable[str]) -> Tuple[str, ...]:
    if isinstance(names, (str, bytes)):
        raise ConfigError("env_vars must be a list of names, not one string")
    given = tuple(names)
    for name in given:
        if not isinstance(name, str) or not name or "=" in name or "\0" in name:
            raise ConfigError(
                "env_vars cannot hold the name %s" % clean(repr(name), 80)
            )
    return given


def _checked_env(env: Optional[Mapping[str, str]]) -> Mapping[str, str]:
    for name, value in (env or {}).items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigError(
                "env must map names to strings; %s has a %s"
                % (clean(repr(name), 80), type(value).__name__)
            )
        if "\0" in value or "\0" in name or "=" in name or not name:
            raise ConfigError("env cannot hold the variable %s" % clean(repr(name), 80))
    return dict(env or {})
