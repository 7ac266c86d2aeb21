"""The pipes of one server process and the thread that serves them.

Our ends are non-blocking. Callers append whole lines to one outbox and write what the
pipe takes; the I/O thread reads everything, writes the rest, and in the end stops the
process. It never runs a caller's code and takes no lock of the client.
"""

from __future__ import annotations

import collections
import os
import re
import selectors
import socket
import threading
import time
from typing import Callable, Deque, List, Optional, Tuple

from .._lifecycle import Enrolled
from .._text import clean
from ..exceptions import (
    ClientClosed,
    InvalidMessage,
    MCPError,
    MessageTooLarge,
    ServerBusy,
    ServerExited,
)
from ..protocol.jsonrpc import InvalidAnswer, decode, parse
from ._pending import Failure, PendingExchanges
from ._process import Process, StderrTail, describe_exit
from .base import Limits

__all__ = ["Frame", "Outbox", "PipeConnection"]

_READ = 65536

#: Patience with a server whose stdin was closed, and again after SIGTERM.
_GRACE = 2.0

#: How long the last words of a server that has exited are read.
_LAST_WORDS = 0.5

_NOTHING = memoryview(b"")

_ID = re.compile(rb'"id"\s*:\s*(\d{1,18})\b')


class Frame:
    """One line on its way to the server."""

    __slots__ = ("data", "start", "end", "_outbox")

    def __init__(self, data: bytes, start: int, outbox: "Outbox") -> None:
        self.data = memoryview(data)
        self.start = start
        self.end = start + len(data)
        self._outbox = outbox

    def was_sent(self) -> bool:
        """Return whether the server may have seen any of it."""
        return self._outbox.position > self.start


class Outbox:
    """Lines waiting for a pipe, written in order and never torn.

    A signal may interrupt any thread between two steps, so the state is one list of
    byte counts that the writing call itself extends; all else follows from it.
    """

    def __init__(self, descriptor: int) -> None:
        # Guards the frames and the counts.
        # Never while held: anything that blocks (the pipe does not).
        # Taken by every sender and by the I/O thread.
        self.lock = threading.Lock()
        self.descriptor = descriptor
        self._frames: Deque[Frame] = collections.deque()
        self._counts: List[int] = []

    @property
    def position(self) -> int:
        """How many bytes the pipe has taken so far."""
        return sum(self._counts)

    @property
    def empty(self) -> bool:
        frames = self._frames
        return self.descriptor < 0 or not frames or frames[-1].end <= self.position

    def append(self, data: bytes) -> Frame:
        """Queue a line. Requires holding lock."""
        start = self._frames[-1].end if self._frames else self.position
        frame = Frame(data, start, self)
        self._frames.append(frame)
        return frame

    def flush(self) -> None:
        """Write what the pipe takes now. Requires holding lock.

        Raises:
            OSError: the server no longer reads.
        """
        while self._frames and self.descriptor >= 0:
            position = self.position
            if len(self._counts) > 64:
                self._counts[:] = [position]
            frame = self._frames[0]
            if frame.end <= position:
                if len(self._frames) == 1:
                    # Its end is where the next frame begins; its text may go.
                    frame.data = _NOTHING
                    return
                self._frames.popleft()
                continue
            rest = frame.data[position - frame.start :]
            try:
                # No interruption fits between the write and the record of it.
                self._counts.extend(map(os.write, (self.descriptor,), (rest,)))
            except BlockingIOError:
                return


class LineSplitter:
    """Cut bytes into lines, within a bound, in linear time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._parts: List[bytes] = []
        self._size = 0
        self._dropping = False

    def feed(self, chunk: bytes) -> Tuple[List[bytes], Optional[bytes]]:
        """Return complete lines, and the head of a line that became too long."""
        first, newline, rest = chunk.partition(b"\n")
        oversized = self._add(first)
        if not newline:
            return [], oversized
        lines = [] if self._dropping else [b"".join(self._parts)]
        self._reset()
        *complete, tail = rest.split(b"\n")
        return lines + complete, oversized or self._add(tail)

    def end(self) -> bytes:
        """Return what came after the last line end."""
        tail = b"" if self._dropping else b"".join(self._parts)
        self._reset()
        return tail

    def _reset(self) -> None:
        self._parts = []
        self._size = 0
        self._dropping = False

    def _add(self, piece: bytes) -> Optional[bytes]:
        if self._dropping or not piece:
            return None
        self._parts.append(piece)
        self._size += len(piece)
        if self._size <= self._limit:
            return None
        head = b"".join(self._parts)[:4096]
        self._parts = []
        self._dropping = True
        return head


class PipeConnection(Enrolled):
    """One process, its pipes, and its I/O thread."""

    def __init__(
        self,
        process: Process,
        pending: PendingExchanges,
        limits: Limits,
        name: str,
        secrets: Tuple[str, ...],
        on_line: Callable[[str], None],
        on_junk: Callable[[str], None],
    ) -> None:
        self.process = process
        self.pending = pending
        self.stderr = StderrTail(limits.stderr_bytes, limits.stderr_line_bytes)
        self.batches = False
        self._limits = limits
        self._name = name
        self._secrets = secrets
        self._on_line = on_line
        self._on_junk = on_junk
        self._lines = LineSplitter(limits.message_bytes)
        self._outbox = Outbox(process.stdin)
        self._wake_in, self._wake_out = socket.socketpair()
        self._wake_in.setblocking(False)
        self._wake_out.setblocking(False)
        self._selector = selectors.DefaultSelector()
        self._stopping = False
        self._exited = False
        self._done = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._exit_descriptor = -1
        self._written = (0, time.monotonic())

    def start(self) -> None:
        """Start the I/O thread. The last step of opening."""
        self._register()
        self._thread = threading.Thread(
            target=self._run, name="mcpsync-io-%s" % self._name, daemon=True
        )
        self._thread.start()

    @property
    def alive(self) -> bool:
        return not self._stopping and not self._exited and not self._done.is_set()

    # --- any thread ---------------------------------------------------------

    def send(self, line: bytes) -> Frame:
        """Queue one line; write what the pipe takes now."""
        with self._outbox.lock:
            frame = self._outbox.append(line)
            try:
                self._outbox.flush()
            except OSError:
                # The reader sees the end of the process too, and tells everybody.
                return frame
            rest = not self._outbox.empty
        if rest:
            self.wake()
        return frame

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

    def join(self, timeout: float) -> bool:
        """Wait until process and thread have ended."""
        if self._thread is None:
            return True
        if not self._done.wait(timeout):
            return False
        if self._thread is not threading.current_thread():
            self._thread.join(timeout)
        return True

    def begin_exit(self) -> None:
        self.stop()

    def finish_exit(self, seconds: float) -> None:
        if self._thread is not None and not self._done.wait(seconds):
            self.process.kill()

    def after_fork_in_child(self) -> None:
        # Close the copies: the parent's server shall see the end of its input when
        # the parent closes it. The process itself is a child of the parent.
        self.process.disown()
        for end in (self._wake_in, self._wake_out):
            end.close()
        self._selector.close()
        self._close_exit_descriptor()
        self._outbox = Outbox(-1)
        self.stderr.after_fork()
        self.pending.after_fork()
        self._stopping = True
        self._thread = None
        self._done = threading.Event()
        self._done.set()

    # --- the I/O thread -----------------------------------------------------

    def _register(self) -> None:
        read = selectors.EVENT_READ
        self._selector.register(self._wake_in, read, self._read_wake)
        self._selector.register(self.process.stdout, read, self._read_stdout)
        if self.process.stderr >= 0:
            self._selector.register(self.process.stderr, read, self._read_stderr)
        if hasattr(os, "pidfd_open"):
            try:
                self._exit_descriptor = os.pidfd_open(self.process.pid)
            except OSError:
                return
            self._selector.register(self._exit_descriptor, read, self._read_exit)

    def _run(self) -> None:
        try:
            failure = self._serve()
            self._close_stdin()
            self._listen_to_last_words(failure)
            self._end_process()
        finally:
            self.pending.fail_all(self._gone())
            self._release()

    def _serve(self) -> Optional[Failure]:
        """Serve the pipes until they end; return what to tell the waiters."""
        while not self._stopping and not self._exited:
            patience = self._watch_stdin()
            if patience is not None and patience <= 0:
                return self._stalled
            for key, _ in self._selector.select(patience):
                key.data()
            if not self._watches(self.process.stdout):
                break
        return None

    def _watches(self, descriptor: int) -> bool:
        return descriptor >= 0 and descriptor in self._selector.get_map()

    def _watch_stdin(self) -> Optional[float]:
        """Wait for room in the pipe while there is something to write.

        Returns:
            The seconds until the server counts as stalled; ``None``: all is written.
        """
        with self._outbox.lock:
            wanted = not self._outbox.empty
            position = self._outbox.position
        watched = self._watches(self.process.stdin)
        if not wanted:
            if watched:
                self._selector.unregister(self.process.stdin)
            return None
        now = time.monotonic()
        if not watched:
            event = selectors.EVENT_WRITE
            self._selector.register(self.process.stdin, event, self._write_stdin)
        if not watched or position != self._written[0]:
            self._written = (position, now)
        return self._written[1] + self._limits.write_stall_seconds - now

    def _write_stdin(self) -> None:
        with self._outbox.lock:
            try:
                self._outbox.flush()
                return
            except OSError:
                self._outbox.descriptor = -1
        # It reads no more; what it still has to say is welcome.
        if self._watches(self.process.stdin):
            self._selector.unregister(self.process.stdin)
        self.process.close_stdin()

    def _read_wake(self) -> None:
        try:
            self._wake_in.recv(4096)
        except OSError:
            return

    def _read_exit(self) -> None:
        self._exited = True

    def _read_stdout(self) -> None:
        chunk = self._read(self.process.stdout)
        if chunk is None:
            return
        if not chunk:
            self._selector.unregister(self.process.stdout)
            self._take(self._lines.end())
            return
        lines, oversized = self._lines.feed(chunk)
        for line in lines:
            self._take(line)
        if oversized is not None:
            self._refuse(oversized)

    def _read_stderr(self) -> None:
        chunk = self._read(self.process.stderr)
        if chunk is None:
            return
        if not chunk:
            self._selector.unregister(self.process.stderr)
        for line in self.stderr.feed(chunk) if chunk else self.stderr.end():
            self._on_line(line)

    def _read(self, descriptor: int) -> Optional[bytes]:
        try:
            return os.read(descriptor, _READ)
        except BlockingIOError:
            return None
        except OSError:
            return b""

    # --- lines --------------------------------------------------------------

    def _take(self, line: bytes) -> None:
        """Route the message that a line holds."""
        if not line.strip():
            return
        try:
            value = decode(line)
            messages = value if isinstance(value, list) and self.batches else [value]
            for item in messages:
                self.pending.route(parse(item))
        except InvalidAnswer as error:
            self._blame(error.response_id, error)
        except InvalidMessage as error:
            if not self._blame(_guess_id(line), error):
                self._on_junk(clean(line.decode("utf-8", "replace"), 200))

    def _blame(self, id: object, error: InvalidMessage) -> bool:
        """Fail the one request that a bad message belongs to, if it can be told."""
        if id is None and not isinstance(error, InvalidAnswer):
            return False
        text = "the server's answer is unusable: %s" % error.message
        return self.pending.fail_one(
            id, lambda sent: InvalidMessage(text, server=self._name)
        )

    def _refuse(self, head: bytes) -> None:
        """Fail the request whose answer is larger than the limit."""
        limit = self._limits.message_bytes
        text = "the server sent a line of more than %d bytes" % limit
        told = self.pending.fail_one(
            _guess_id(head),
            lambda sent: MessageTooLarge(text, limit=limit, server=self._name),
        )
        if not told:
            self._on_junk(text)

    # --- the end ------------------------------------------------------------

    def _stalled(self, sent: Optional[bool]) -> MCPError:
        seconds = self._limits.write_stall_seconds
        return ServerBusy(
            "the server has not read its input for %g s and was stopped" % seconds,
            server=self._name,
        )

    def _gone(self) -> Failure:
        name = self._name
        if self._stopping:
            return lambda sent: ClientClosed("the client is closed", server=name)
        # Looked at first: it notes the exit code.
        exited = self.process.has_exited() or self._exited
        code = self.process.returncode
        tail = self.stderr.text(self._secrets, lines=20)
        if exited:
            text = "the server's process %s" % describe_exit(code)
        else:
            text = "the server closed its output"
        return lambda sent: ServerExited(
            text, returncode=code, stderr_tail=tail, sent=sent, server=name
        )

    def _close_stdin(self) -> None:
        with self._outbox.lock:
            self._outbox.descriptor = -1
        if self._watches(self.process.stdin):
            self._selector.unregister(self.process.stdin)
        self.process.close_stdin()

    def _listen_to_last_words(self, failure: Optional[Failure]) -> None:
        """Tell the waiters why, with what the server said last."""
        if self._stopping:
            return
        if failure is None:
            self._attend(_LAST_WORDS, until_quiet=True)
            failure = self._gone()
        self.pending.fail_all(failure)

    def _end_process(self) -> None:
        """Wait, terminate, wait, kill; then the rest of the group, then reap."""
        for then in (self.process.terminate, self.process.kill, None):
            if self._attend(_GRACE) or then is None:
                break
            then()
        self._end_group()
        if self.process.has_exited():
            self.process.reap()

    def _end_group(self) -> None:
        """End what the server started and left in its group."""
        self.process.terminate()
        if self._streams_open():
            self._attend(_LAST_WORDS, until_quiet=True)
        self.process.kill()

    def _streams_open(self) -> bool:
        streams = (self.process.stdout, self.process.stderr)
        return any(self._watches(descriptor) for descriptor in streams)

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
            if self._exited and self._watches(self._exit_descriptor):
                # It stays readable for ever.
                self._selector.unregister(self._exit_descriptor)
            notices = self._exited or self._watches(self._exit_descriptor)
            for key, _ in self._selector.select(left if notices else min(left, 0.01)):
                key.data()

    def _release(self) -> None:
        """Give every descriptor back."""
        with self._outbox.lock:
            self._outbox.descriptor = -1
        self._selector.close()
        self.process.close_descriptors()
        self._close_exit_descriptor()
        self._wake_in.close()
        self._wake_out.close()
        self._done.set()

    def _close_exit_descriptor(self) -> None:
        if self._exit_descriptor >= 0:
            os.close(self._exit_descriptor)
            self._exit_descriptor = -1


def _guess_id(line: bytes) -> Optional[int]:
    """Return the id in a line that cannot be parsed, if it is a JSON-RPC message."""
    ends = line[:512] + b" " + line[-512:]
    found = _ID.search(ends) if b'"jsonrpc"' in ends else None
    return int(found.group(1)) if found else None
