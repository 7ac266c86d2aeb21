"""Lines on a pipe: whole ones out, within bounds in.

Messages are separated by newlines and hold none themselves (2026-07-28,
basic/transports/stdio).
"""

from __future__ import annotations

import collections
import os
import re
import signal
import threading
import time
from contextlib import contextmanager
from typing import (
    Any,
    Callable,
    Deque,
    Iterator,
    List,
    NamedTuple,
    Optional,
    Tuple,
    Union,
)

__all__ = ["Frame", "Line", "LineSplitter", "Outbox", "Oversized", "answered_id"]

_NOTHING = memoryview(b"")


class Frame:
    """One line on its way to the server, its end included."""

    __slots__ = ("data", "size", "counts")

    def __init__(self, data: bytes) -> None:
        self.data = memoryview(data)
        self.size = len(data)
        #: How many bytes the pipe took of it, write by write.
        self.counts: List[int] = []

    def was_sent(self) -> bool:
        """Return whether the server may have seen any of it."""
        return bool(self.counts)

    def was_written(self) -> bool:
        """Return whether the pipe has all of it."""
        return sum(self.counts) >= self.size


class Outbox:
    """Lines waiting for a pipe, written in order and never torn.

    A signal may interrupt the main thread between any two steps, to raise or to send
    something itself. So the state is what the pipe took, and the call that writes also
    writes that down; all else follows from it.
    """

    def __init__(self, descriptor: int, limit: int) -> None:
        # Guards the frames and the descriptor.
        # Never while held: anything that blocks (the pipe does not).
        # Taken by every sender and by the I/O thread; again by a signal handler or a
        # finalizer that happens to run while its own thread holds it.
        self.lock = threading.RLock()
        self.descriptor = descriptor
        self.frames: Deque[Frame] = collections.deque()
        self.broken = False
        self._limit = limit
        self._room = threading.Condition(self.lock)
        self._claim: List[int] = []

    def put(self, frame: Frame) -> None:
        """Queue a line. Requires holding lock."""
        if self.descriptor >= 0:
            self.frames.append(frame)

    def flush(self) -> None:
        """Write what the pipe takes now. Requires holding lock."""
        try:
            while not self.broken and self.descriptor >= 0:
                frame = self._first()
                if frame is None:
                    return
                self._write(frame)
        except BlockingIOError:
            return
        except OSError:
            self.broken = True

    def _first(self) -> Optional[Frame]:
        """Return the first frame. Requires holding lock."""
        try:
            # Not asked whether there is one: a flush that comes between may leave none.
            return self.frames[0]
        except IndexError:
            return None

    def _write(self, frame: Frame) -> None:
        """Write more of the first frame. Requires holding lock."""
        # A flush that this one has interrupted may have decided what to write: its
        # claim is void, and it will look again.
        self._claim.clear()
        claim = self._claim = [self.descriptor]
        if len(frame.counts) > 64:
            frame.counts[:] = map(sum, (frame.counts,))
        rest = frame.data[sum(frame.counts) :]
        if rest:
            # One call, so that no interruption fits between the write and its record.
            if _broken_pipe_kills():
                with _broken_pipe_held():
                    frame.counts.extend(map(os.write, claim, (rest,)))
            else:
                frame.counts.extend(map(os.write, claim, (rest,)))
        if frame.was_written():
            self._forget(frame)

    def _forget(self, frame: Frame) -> None:
        """Drop a frame that is written. Requires holding lock."""
        try:
            self.frames.remove(frame)
        except ValueError:
            return
        frame.data = _NOTHING

    def progress(self) -> Optional[Tuple[Frame, int]]:
        """Return what changes when the pipe takes a byte; ``None``: it has all."""
        # Under the lock, so as not to see what a sender is about to write himself.
        with self.lock:
            frame = self._first()
            return None if frame is None else (frame, sum(frame.counts))

    def close(self) -> None:
        """Write nothing any more."""
        with self.lock:
            self.descriptor = -1
            self.frames.clear()
            self._room.notify_all()

    def after_fork(self) -> None:
        """Write nothing in a forked child, not even what the fork interrupted."""
        self._claim.clear()
        self.descriptor = -1
        self.frames.clear()
        self.lock = threading.RLock()
        self._room = threading.Condition(self.lock)

    # --- too much of it -----------------------------------------------------

    @property
    def congested(self) -> bool:
        """Whether there is more than enough to write. Requires holding lock."""
        if len(self.frames) <= 8:
            return False
        return len(self.frames) > 256 or self._size() > self._limit

    def _size(self) -> int:
        return sum(frame.size for frame in list(self.frames))

    def wait_for_room(self, seconds: float) -> bool:
        """Return whether there was room in time. Requires holding lock."""
        end = time.monotonic() + seconds
        while self.congested:
            left = end - time.monotonic()
            if left <= 0:
                return False
            self._room.wait(left)
        return True

    def tell_room(self) -> None:
        """Wake those who wait for room. Requires holding lock."""
        if not self.congested:
            self._room.notify_all()


#: The plain function: the one in the module makes enumeration members of its answers.
_getsignal: Callable[[int], Any] = getattr(
    signal.getsignal, "__wrapped__", signal.getsignal
)

_SIGPIPE: int = getattr(signal, "SIGPIPE", 0)


def _broken_pipe_kills() -> bool:
    """Return whether this program dies of writing to a server that is gone.

    Python ignores the signal; command line tools like to restore its default.
    """
    return _SIGPIPE != 0 and _getsignal(_SIGPIPE) == signal.SIG_DFL


@contextmanager
def _broken_pipe_held() -> Iterator[None]:
    """Get an exception, and no signal, for a pipe that nobody reads."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {_SIGPIPE})
    try:
        yield
    finally:
        if _SIGPIPE not in before:
            # It was meant for this thread; nobody else shall get it.
            if _SIGPIPE in signal.sigpending():
                signal.sigwait({_SIGPIPE})
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class Oversized(NamedTuple):
    """A line beyond the limit: how it begins and, once it has ended, how it ends."""

    head: bytes
    tail: bytes = b""


Line = Union[bytes, Oversized]

#: How much is kept of a line's two ends, in bytes.
_HEAD = 4096
_TAIL = 512

#: Pieces of a line smaller than this are joined at once: they come at a price each.
_SMALL = 4096


class LineSplitter:
    """Cut bytes into lines, within a bound, in linear time."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._reset()

    def feed(self, chunk: bytes) -> List[Line]:
        """Return what the chunk completes, in order.

        Of a line that became too long, the head is returned at once, and head and tail
        when it has ended.
        """
        lines: List[Line] = []
        first, *others = chunk.split(b"\n")
        self._add(first, lines)
        for piece in others:
            lines.append(self._end_line())
            self._add(piece, lines)
        return lines

    def end(self) -> Line:
        """Return what came after the last line end."""
        return self._end_line()

    def _end_line(self) -> Line:
        line: Line = b"".join(self._parts)
        if self._head is not None:
            line = Oversized(self._head, self._tail)
        self._reset()
        return line

    def _reset(self) -> None:
        self._parts: List[bytes] = []
        self._size = 0
        self._head: Optional[bytes] = None
        self._tail = b""

    def _add(self, piece: bytes, lines: List[Line]) -> None:
        if not piece:
            return
        if self._head is not None:
            self._tail = (self._tail + piece[-_TAIL:])[-_TAIL:]
            return
        if self._parts and len(self._parts[-1]) < _SMALL:
            self._parts[-1] += piece
        else:
            self._parts.append(piece)
        self._size += len(piece)
        if self._size > self._limit:
            line = b"".join(self._parts)
            self._parts = []
            self._head, self._tail = line[:_HEAD], line[-_TAIL:]
            lines.append(Oversized(self._head))


_RESULT = rb'"(?:result|error)"\s*:'
_VERSION = rb'"jsonrpc"\s*:\s*"[0-9.]{0,8}"\s*'
_BEGINS = rb"\s*\{\s*(?:" + _VERSION + rb",\s*)?"
_NUMBER = rb'"id"\s*:\s*(\d{1,18})\s*'

_ANSWER = re.compile(_BEGINS + _RESULT)
_ID_FIRST = re.compile(
    _BEGINS + _NUMBER + rb",\s*(?:" + _VERSION + rb",\s*)?" + _RESULT
)
_ID_LAST = re.compile(rb",\s*" + _NUMBER + rb"(?:,\s*" + _VERSION + rb")?\}\s*\Z")


def answered_id(head: bytes, tail: bytes) -> Optional[int]:
    """Return the id in an answer that cannot be parsed, if it can be told for sure.

    It stands at the very beginning or at the very end of what implementations write;
    an ``"id"`` anywhere else may be part of the content.

    Args:
        head: how the line begins.
        tail: how it ends.
    """
    head, tail = head[:_HEAD], tail[-_TAIL:]
    found = _ID_FIRST.match(head)
    if found is None and _ANSWER.match(head):
        found = _ID_LAST.search(tail)
    return int(found.group(1)) if found else None
