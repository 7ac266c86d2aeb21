"""The pipes of one server process and the thread that serves them.

Our ends are non-blocking. Callers append whole lines to one outbox and write what the
pipe takes; the I/O thread reads everything, writes the rest, and in the end stops the
process. It never runs a caller's code and takes no lock of the client.
"""

from __future__ import annotations

import os
import selectors
import socket
import threading
import time
from typing import Any, Callable, List, Optional, Tuple

from .._deadline import Deadline
from .._lifecycle import Enrolled, enrol, no_fork
from .._text import CLIP, clean
from ..exceptions import (
    ClientClosed,
    ConnectionLost,
    InvalidMessage,
    MCPError,
    MessageTooLarge,
    ServerBusy,
    ServerExited,
)
from ..protocol.jsonrpc import InvalidAnswer, decode, parse
from ._framing import Frame, Line, LineSplitter, Outbox, Oversized, answered_id
from ._pending import Failure, PendingExchanges
from ._process import Process, StderrTail, describe_exit
from .base import Limits

__all__ = ["Frame", "Outbox", "PipeConnection"]

_READ = 65536

#: Patience with a server whose stdin was closed, and again after SIGTERM.
_GRACE = 2.0

#: How long the last words of a server that has exited are read.
_LAST_WORDS = 0.5

#: How often to look after a process of whose end the platform gives no notice.
_LOOK = 1.0

#: Lines and characters of stderr in the message of an exception.
_TAIL_LINES = 20

_BOM = b"\xef\xbb\xbf"

#: How much of a line that is no message is looked at, in bytes.
_EXCERPT = 4096


class PipeConnection(Enrolled):
    """One process, its pipes, and its I/O thread."""

    def __init__(
        self,
        process: Process,
        pending: PendingExchanges,
        limits: Limits,
        name: str,
        secrets: Tuple[str, ...],
        on_lines: Callable[[List[bytes]], None],
        on_junk: Callable[[str], None],
    ) -> None:
        self.process = process
        self.pending = pending
        self.stderr = StderrTail(limits.stderr_bytes, limits.stderr_line_bytes)
        self.batches = False
        self._limits = limits
        self._name = name
        self._secrets = secrets
        self._on_lines = on_lines
        self._on_junk = on_junk
        self._lines = LineSplitter(limits.message_bytes)
        self._outbox = Outbox(process.stdin, limits.message_bytes)
        self._stopping = self._replaced = self._leaving = False
        self._over = self._exited = False
        self._deaf_at: Optional[float] = None
        self._deaf = False
        self._skipped = 0
        self._done = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._unclaimed = [True]
        self._watched: List[int] = []
        self._progress: Tuple[object, float] = (None, 0.0)
        self._exit_descriptor = -1
        self._opened: List[Any] = []
        try:
            self._open_descriptors()
        except BaseException:
            self._close_descriptors()
            raise

    def _open_descriptors(self) -> None:
        with no_fork:
            self._wake_in, self._wake_out = socket.socketpair()
            self._opened += [self._wake_in, self._wake_out]
            self._selector = selectors.DefaultSelector()
            self._opened.append(self._selector)
            if hasattr(os, "pidfd_open"):
                try:
                    self._exit_descriptor = os.pidfd_open(self.process.pid)
                except OSError:
                    # Not on this kernel, or not in this container.
                    self._exit_descriptor = -1
            enrol(self)
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)

    def _close_descriptors(self) -> None:
        with no_fork:
            while self._opened:
                self._opened.pop().close()
            if self._exit_descriptor >= 0:
                os.close(self._exit_descriptor)
                self._exit_descriptor = -1

    def start(self) -> None:
        """Start the I/O thread. The last step of opening.

        Raises:
            RuntimeError, OSError: it cannot be started; the process is no more.
        """
        thread = threading.Thread(
            target=self._run, name="mcpsync-io-%s" % self._name, daemon=True
        )
        self._thread = thread
        try:
            self._watch(self._wake_in.fileno(), self._read_wake)
            self._watch(self.process.stdout, self._read_stdout)
            self._watch(self.process.stderr, self._read_stderr)
            self._watch(self._exit_descriptor, self._read_exit)
            thread.start()
        except BaseException:
            self.stop()
            if self._claim():
                self._thread = None
                self.process.discard()
                self.pending.fail_all(self._gone())
                self._release()
            raise

    def _claim(self) -> bool:
        """Return whether the caller, and nobody else, is to end the process."""
        try:
            self._unclaimed.pop()
        except IndexError:
            return False
        return True

    @property
    def alive(self) -> bool:
        """Whether a request that is sent now has a chance."""
        return not (self._stopping or self._over or self._exited or self._deaf)

    # --- any thread ---------------------------------------------------------

    def send(self, frame: Frame) -> None:
        """Queue one line; write what the pipe takes now."""
        outbox = self._outbox
        with outbox.lock:
            try:
                outbox.put(frame)
                outbox.flush()
            finally:
                # The rest is for the I/O thread, even if this one is interrupted.
                if outbox.frames:
                    self.wake()

    def post(self, frame: Frame, deadline: Deadline) -> None:
        """Send a line that nobody waits for, unless there are too many of them.

        A server that asks and does not read would have us hold all the answers.

        Raises:
            ServerBusy: the server did not read enough of its input in time.
        """
        with self._outbox.lock:
            if self._outbox.congested:
                if threading.current_thread() is self._thread:
                    return
                if not self._outbox.wait_for_room(deadline.wait_seconds()):
                    raise ServerBusy(
                        "the server does not read its input", server=self._name
                    )
        self.send(frame)

    def wake(self) -> None:
        """Make the I/O thread look around. Takes no lock, never blocks."""
        try:
            self._wake_out.send(b"!")
        except OSError:
            return

    def stop(self) -> None:
        """Begin the end of the process. Takes no lock, never blocks."""
        self._stopping = True
        self.wake()

    def replace(self) -> None:
        """Begin the end of a process for which there will be another."""
        self._replaced = True
        self.stop()

    def join(self, timeout: float) -> bool:
        """Wait until process and thread have ended."""
        thread = self._thread
        if thread is None or thread is threading.current_thread():
            return True
        if not self._done.wait(timeout):
            return False
        thread.join(timeout)
        return True

    def begin_exit(self) -> None:
        # Whoever still waits is on a thread that ends with the program: no exception
        # of his shall spoil the last words of the host program.
        self._leaving = True
        self.stop()

    def finish_exit(self, seconds: float) -> None:
        if self._thread is not None and not self._done.wait(seconds):
            self.process.kill()

    def after_fork_in_child(self) -> None:
        # Close the copies: the parent's server shall see the end of its input when
        # the parent closes it. The process itself is a child of the parent.
        self.process.after_fork_in_child()
        self._close_descriptors()
        self._outbox.after_fork()
        self.stderr.after_fork()
        self.pending.after_fork()
        self._stopping = True
        self._unclaimed.clear()
        self._thread = None
        self._done = threading.Event()
        self._done.set()

    # --- the I/O thread -----------------------------------------------------

    def _run(self) -> None:
        if not self._claim():
            return
        failure: Optional[Failure]
        try:
            failure = self._serve()
        except Exception as error:
            failure = self._fault(error)
        self._over = True
        try:
            self._close_stdin()
            self._listen_to_last_words(failure)
            self._end_process()
        except Exception as error:
            self._fail_all(self._fault(error))
        finally:
            self._fail_all(self._gone())
            self._release()

    def _serve(self) -> Optional[Failure]:
        """Serve the pipes until they end; return what to tell the waiters."""
        look = None if self._exit_descriptor >= 0 else _LOOK
        while not (self._stopping or self._exited):
            patience = self._watch_stdin()
            if patience is not None and patience <= 0:
                return self._stalled
            if look is not None:
                patience = look if patience is None else min(patience, look)
            ready = self._selector.select(patience)
            for key, _ in ready:
                key.data()
            if self.process.stdout not in self._watched:
                break
            if look is not None and not ready:
                self._exited = self.process.has_exited()
        return None

    def _watch(
        self,
        descriptor: int,
        act: Callable[[], None],
        event: int = selectors.EVENT_READ,
    ) -> None:
        if descriptor >= 0:
            self._selector.register(descriptor, event, act)
            self._watched.append(descriptor)

    def _unwatch(self, descriptor: int) -> None:
        if descriptor in self._watched:
            self._watched.remove(descriptor)
            self._selector.unregister(descriptor)

    def _watch_stdin(self) -> Optional[float]:
        """Wait for room in the pipe while there is something to write.

        Returns:
            The seconds until the server counts as stalled; ``None``: it does not.
        """
        if self._outbox.broken:
            return self._hear_out()
        stdin = self.process.stdin
        progress = self._outbox.progress() if self._outbox.frames else None
        if progress is None:
            self._unwatch(stdin)
            return None
        now = time.monotonic()
        if stdin not in self._watched:
            self._watch(stdin, self._write_stdin, selectors.EVENT_WRITE)
            self._progress = (progress, now)
        elif progress != self._progress[0]:
            self._progress = (progress, now)
        return self._progress[1] + self._limits.write_stall_seconds - now

    def _write_stdin(self) -> None:
        with self._outbox.lock:
            self._outbox.flush()
            self._outbox.tell_room()

    def _hear_out(self) -> Optional[float]:
        """Wait a moment for the end of a server that reads no more.

        What it still has to say is welcome, and its end explains more than the pipe.

        Returns:
            The seconds until it counts as deaf; ``None``: it does.
        """
        if self._deaf:
            return None
        now = time.monotonic()
        if self._deaf_at is None:
            self._deaf_at = now + _LAST_WORDS
            self._close_stdin()
        if now < self._deaf_at:
            return self._deaf_at - now
        self._deaf = True
        self.pending.fail_unwritten(self._exited_with("the server closed its input"))
        return None

    def _read_wake(self) -> None:
        try:
            self._wake_in.recv(4096)
        except OSError:
            return

    def _read_exit(self) -> None:
        # How it went is asked at once, before anybody else can reap it.
        self.process.has_exited()
        self._exited = True

    def _read_stdout(self) -> None:
        chunk = self._read(self.process.stdout)
        if chunk is None:
            return
        if not chunk:
            self._unwatch(self.process.stdout)
            self._take_rest(self._lines.end())
            return
        for line in self._lines.feed(chunk):
            if isinstance(line, Oversized):
                self._refuse(line)
            elif line.startswith(b"{"):
                self._take(line)
            else:
                self._take_odd(line)

    def _read_stderr(self) -> None:
        chunk = self._read(self.process.stderr)
        if chunk is None:
            return
        if chunk:
            lines = self.stderr.feed(chunk)
        else:
            self._unwatch(self.process.stderr)
            lines = self.stderr.end()
        if lines:
            self._on_lines(lines)

    def _read(self, descriptor: int) -> Optional[bytes]:
        try:
            return os.read(descriptor, _READ)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    # --- lines --------------------------------------------------------------

    def _take(self, line: bytes) -> None:
        """Route what a line holds, or blame it on the request that it answers."""
        try:
            value = decode(line)
        except InvalidMessage as error:
            self._blame(answered_id(line, line), error, line)
            return
        self._route(value, line)

    def _route(self, value: Any, line: bytes) -> None:
        messages = value if isinstance(value, list) and self.batches else [value]
        for item in messages:
            try:
                self.pending.route(parse(item))
            except InvalidAnswer as error:
                self._blame(error.response_id, error, line)
            except InvalidMessage as error:
                self._blame(answered_id(line, line), error, line)

    def _take_odd(self, line: bytes) -> None:
        """Take a line that does not begin like a message."""
        line = line[len(_BOM) :] if line.startswith(_BOM) else line
        line = line.strip()
        if line.startswith((b"{", b"[")):
            self._take(line)
        elif line:
            self._skip(line)

    def _take_rest(self, line: Line) -> None:
        """Take what came after the last line end: all of a message, or half of it."""
        if isinstance(line, Oversized):
            self._refuse(line)
            return
        try:
            value = decode(line)
        except InvalidMessage:
            # Its request learns more from the end of the process.
            return
        self._route(value, line)

    def _skip(self, line: bytes) -> None:
        """Leave out a line that is no message; tell of the first."""
        self._skipped += 1
        if self._skipped == 1:
            excerpt = line[:_EXCERPT].decode("utf-8", "replace")
            self._on_junk(clean(excerpt, 200, self._secrets))

    def _blame(self, id: object, error: InvalidMessage, line: bytes) -> None:
        """Fail the one request that a bad message answers, if that can be told."""
        reason = clean(error.message, CLIP, self._secrets)
        text = "the server's answer is unusable: %s" % reason
        name = self._name
        told = False
        if id is not None or isinstance(error, InvalidAnswer):
            told = self.pending.fail_one(
                id, lambda sent: InvalidMessage(text, server=name)
            )
        if not told:
            self._skip(line)

    def _refuse(self, line: Oversized) -> None:
        """Fail the request whose answer is larger than the limit."""
        ended = bool(line.tail)
        id = answered_id(line.head, b"")
        if (id is not None) == ended:
            # Its request failed when the line became too long; or the id may stand
            # at the end of the line.
            return
        if ended:
            id = answered_id(line.head, line.tail)
        limit, name = self._limits.message_bytes, self._name
        text = "the server sent a line of more than %d bytes" % limit
        told = id is not None and self.pending.fail_one(
            id, lambda sent: MessageTooLarge(text, limit=limit, server=name)
        )
        if not told:
            self._skip(text.encode())

    # --- the end ------------------------------------------------------------

    def _stalled(self, sent: Optional[bool]) -> MCPError:
        seconds = self._limits.write_stall_seconds
        return ServerBusy(
            "the server has not read its input for %g s and was stopped" % seconds,
            server=self._name,
        )

    def _fault(self, error: Exception) -> Failure:
        """Read no more, for a reason of our own; return what to tell."""
        self._unwatch(self.process.stdout)
        text = "the connection was given up: %s" % clean(repr(error), 200)
        name = self._name
        return lambda sent: ConnectionLost(text, sent=sent, server=name)

    def _gone(self) -> Failure:
        name = self._name
        if self._replaced:
            return self._exited_with("the server was replaced by a new one")
        if self._stopping:
            return lambda sent: ClientClosed("the client is closed", server=name)
        if self._exited or self.process.has_exited():
            how = describe_exit(self.process.returncode)
            return self._exited_with("the server's process %s" % how)
        return self._exited_with("the server closed its output")

    def _exited_with(self, text: str) -> Failure:
        name, code = self._name, self.process.returncode
        tail = self.stderr.text(self._secrets, lines=_TAIL_LINES, width=CLIP)
        return lambda sent: ServerExited(
            text, returncode=code, stderr_tail=tail, sent=sent, server=name
        )

    def _fail_all(self, failure: Failure) -> None:
        if self._leaving:
            self.pending.refuse(failure)
        else:
            self.pending.fail_all(failure)

    def _close_stdin(self) -> None:
        self._outbox.close()
        self._unwatch(self.process.stdin)
        self.process.close_stdin()

    def _listen_to_last_words(self, failure: Optional[Failure]) -> None:
        """Tell the waiters why, with what the server said last."""
        if self._stopping:
            return
        if failure is None:
            self._attend(_LAST_WORDS, until_quiet=True)
            failure = self._gone()
        self._fail_all(failure)

    def _end_process(self) -> None:
        """Wait, terminate, wait, kill; then the rest of the group, then reap."""
        for then in (self.process.terminate, self.process.kill, None):
            if self._attend(_GRACE) or then is None:
                break
            then()
        self._end_group()

    def _end_group(self) -> None:
        """End what the server started and left in its group."""
        self.process.terminate()
        if self._streams_open():
            self._attend(_LAST_WORDS, until_quiet=True)
        self.process.kill()

    def _streams_open(self) -> bool:
        watched = self._watched
        return self.process.stdout in watched or self.process.stderr in watched

    def _attend(self, seconds: float, until_quiet: bool = False) -> bool:
        """Read on for a while; return whether the process has exited.

        Args:
            until_quiet: end when the process has exited and its streams have, too.
        """
        end = time.monotonic() + seconds
        while True:
            if not self._exited and self.process.has_exited():
                self._exited = True
            if self._exited and not (until_quiet and self._streams_open()):
                return True
            left = end - time.monotonic()
            if left <= 0:
                return self._exited
            if self._exited:
                # It stays readable for ever.
                self._unwatch(self._exit_descriptor)
            notices = self._exited or self._exit_descriptor >= 0
            for key, _ in self._selector.select(left if notices else min(left, 0.01)):
                key.data()

    def _release(self) -> None:
        """Give everything back."""
        if self.process.has_exited():
            self.process.reap()
        else:
            self.process.discard()
        # Under the lock, because whoever holds it may be about to write or to wake.
        with self._outbox.lock:
            self._outbox.close()
            self.process.close_descriptors()
            self._close_descriptors()
        self._done.set()
