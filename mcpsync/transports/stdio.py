"""stdio: the server is a child process, one JSON message a line.

Specification: 2026-07-28, basic/transports/stdio.
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from typing import Callable, Iterable, Mapping, Optional, Sequence, Tuple, Union

from .._deadline import Deadline
from .._lifecycle import Enrolled, enrol
from .._text import clean
from ..exceptions import ClientClosed, ConfigError, LocalProtocolError
from ..protocol.jsonrpc import Outgoing
from ._pending import PendingExchanges
from ._pipes import PipeConnection
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
        self._env_vars = tuple(env_vars)
        self._inherit_env = inherit_env
        self._cwd = None if cwd is None else os.fspath(cwd)
        if stderr not in ("capture", "inherit"):
            raise ConfigError(
                "stderr must be 'capture' or 'inherit', not %s" % clean(repr(stderr))
            )
        self._inherit_stderr = stderr == "inherit"
        self._connection: Optional[PipeConnection] = None
        self._previous: Optional[PipeConnection] = None
        # Guards the swap of the connection and the final state.
        # Never while held: waiting for the process, I/O on its pipes.
        # Taken by open() and close().
        self._lock = threading.Lock()
        self._closed = False
        enrol(self)

    def __repr__(self) -> str:
        return "StdioTransport(%r)" % clean(" ".join(self.argv), 120)

    # --- life ---------------------------------------------------------------

    def open(self, on_unsolicited: Unsolicited, deadline: Deadline) -> None:
        """Start the server. Opening again replaces a process, dead or alive."""
        env = environment(self._env, self._env_vars, self._inherit_env)
        process = Process(self.argv, env, self._cwd, self._inherit_stderr, self.name)
        unsolicited = weakly(on_unsolicited)
        notes = _Notes(self.name, unsolicited)
        connection = PipeConnection(
            process,
            PendingExchanges(self.limits.pending_requests, unsolicited, self.name),
            self.limits,
            self.name,
            self._secrets(),
            notes.stderr_line,
            notes.junk,
        )
        with self._lock:
            closed = self._closed
            if not closed:
                before, self._connection = self._connection, connection
                self.generation += 1
        enrol(connection)
        weakref.finalize(self, connection.stop).atexit = False
        connection.start()
        if closed:
            connection.stop()
            connection.join(_CLOSE_SECONDS)
            raise ClientClosed("the client is closed", server=self.name)
        if before is not None:
            before.stop()
            before.join(min(_CLOSE_SECONDS, deadline.wait_seconds()))

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
        self._lock = threading.Lock()
        self._connection = None

    # --- facts --------------------------------------------------------------

    @property
    def alive(self) -> bool:
        connection = self._connection
        return connection is not None and connection.alive

    @property
    def pid(self) -> Optional[int]:
        """The server's process id, while there is one."""
        connection = self._connection
        return connection.process.pid if connection is not None else None

    @property
    def stderr_tail(self) -> str:
        """What the server wrote to stderr last, cleaned, secrets masked."""
        connection = self._connection
        if connection is None:
            return ""
        return connection.stderr.text(self._secrets())

    def _secrets(self) -> Tuple[str, ...]:
        passed = (os.environ.get(name, "") for name in self._env_vars)
        return (*self._env.values(), *passed)

    # --- messages -----------------------------------------------------------

    def begin(self, outgoing: Outgoing, deadline: Deadline) -> Exchange:
        connection = self._open_connection()
        exchange = connection.pending.add(
            outgoing, lambda notice: _send(connection, notice)
        )
        try:
            frame = _send(connection, outgoing)
        except BaseException:
            exchange.close()
            raise
        exchange.was_sent = frame
        return exchange

    def send(self, outgoing: Outgoing, deadline: Deadline) -> None:
        _send(self._open_connection(), outgoing)

    def _open_connection(self) -> PipeConnection:
        connection = self._connection
        if connection is not None:
            return connection
        if self._closed:
            raise ClientClosed("the client is closed", server=self.name)
        raise LocalProtocolError("the transport is not open", server=self.name)


def _send(connection: PipeConnection, outgoing: Outgoing) -> Callable[[], bool]:
    return connection.send(outgoing.body + b"\n").was_sent


class _Notes:
    """What the I/O thread notes: stderr lines, and lines that are no messages."""

    def __init__(self, name: str, unsolicited: Unsolicited) -> None:
        self._name = name
        self._unsolicited = unsolicited
        self._logger = logging.getLogger("mcpsync.server.%s" % name)
        self._junk = 0

    def stderr_line(self, line: str) -> None:
        # Logging may run a host program's code, which is not for the I/O thread.
        if self._logger.isEnabledFor(logging.INFO):
            self._unsolicited(Note(logging.INFO, clean(line)))

    def junk(self, excerpt: str) -> None:
        self._junk += 1
        if self._junk == 1:
            text = (
                "server %r prints to its standard output what is no message; such "
                "lines are skipped. The first: %s" % (self._name, excerpt)
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
