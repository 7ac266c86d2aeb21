"""Deadlines: one for each public call, carried through everything it does."""

from __future__ import annotations

import heapq
import itertools
import logging
import os
import threading
import time
from contextlib import contextmanager
from typing import Callable, Iterator, List, Optional, Tuple, Union

from .exceptions import RequestTimeout

__all__ = ["NO_TIMEOUT", "Deadline", "Timeout", "Watchdog", "watchdog"]

_log = logging.getLogger("mcpsync")

#: The longest single wait handed to the operating system. ``lock.acquire`` refuses
#: more than ``threading.TIMEOUT_MAX``, and a wait of a day is as good as for ever.
_LONGEST_WAIT = min(threading.TIMEOUT_MAX, 86400.0)


class Timeout:
    """How long a call may take, in seconds.

    Args:
        connect: limit for one TCP connection, its TLS handshake included.
        idle: limit for the silence between two messages about this call; progress
            resets it. ``None`` means no such limit.
        total: limit for the whole call, which nothing extends but a person who is
            answering the server's question. ``None`` means no limit.

    Immutable; may be shared by any number of threads.
    """

    __slots__ = ("connect", "idle", "total")

    connect: Optional[float]
    idle: Optional[float]
    total: Optional[float]

    def __init__(
        self,
        connect: Optional[float] = 10.0,
        idle: Optional[float] = None,
        total: Optional[float] = 300.0,
    ) -> None:
        for name, value in (("connect", connect), ("idle", idle), ("total", total)):
            object.__setattr__(self, name, _seconds(name, value))

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError("Timeout is immutable")

    def __repr__(self) -> str:
        return "Timeout(connect=%r, idle=%r, total=%r)" % (
            self.connect,
            self.idle,
            self.total,
        )

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Timeout):
            return NotImplemented
        return self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def __reduce__(self) -> Tuple[object, ...]:
        return (Timeout, self._key())

    def _key(self) -> Tuple[Optional[float], Optional[float], Optional[float]]:
        return (self.connect, self.idle, self.total)

    @classmethod
    def of(cls, value: Union[None, float, "Timeout"], default: "Timeout") -> "Timeout":
        """Read what a caller gave: seconds in total, a Timeout, or ``None``."""
        if value is None:
            return default
        if isinstance(value, Timeout):
            return value
        return cls(default.connect, default.idle, value)


def _seconds(name: str, value: Optional[float]) -> Optional[float]:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise TypeError("%s must be a number of seconds, not %r" % (name, value))
    if not value > 0:
        raise ValueError("%s must be more than 0 seconds, not %r" % (name, value))
    return float(value)


#: Wait for ever. Only for callers who have another way to stop.
NO_TIMEOUT = Timeout(connect=None, idle=None, total=None)


class Deadline:
    """The moment by which a call must be over, on the monotonic clock.

    One is made at the public method and passed down. Used by the calling thread;
    the watchdog and transports may read it from others.
    """

    __slots__ = ("timeout", "started", "_total_at", "_idle_at", "_paused", "_pauses")

    def __init__(self, timeout: Timeout) -> None:
        now = time.monotonic()
        self.timeout = timeout
        self.started = now
        self._total_at = None if timeout.total is None else now + timeout.total
        self._idle_at = None if timeout.idle is None else now + timeout.idle
        self._paused: Optional[float] = None
        self._pauses = 0

    @classmethod
    def after(cls, seconds: Optional[float]) -> "Deadline":
        """Return a deadline `seconds` from now; ``None`` is never."""
        if seconds is not None and seconds <= 0:
            seconds = 0.001
        return cls(Timeout(connect=None, idle=None, total=seconds))

    def at_most(self, seconds: float) -> "Deadline":
        """Return a deadline `seconds` from now, but no later than this one."""
        left = self.remaining()
        return Deadline.after(seconds if left is None else min(seconds, left))

    def expires_at(self) -> Optional[float]:
        """Return the moment on the monotonic clock, or ``None`` for never."""
        if self._paused is not None:
            return None
        if self._idle_at is None:
            return self._total_at
        if self._total_at is None:
            return self._idle_at
        return min(self._total_at, self._idle_at)

    def remaining(self) -> Optional[float]:
        """Return the seconds left, never negative; ``None`` means no limit."""
        moment = self.expires_at()
        return None if moment is None else max(0.0, moment - time.monotonic())

    def wait_seconds(self) -> float:
        """Return how long one blocking wait may last: finite, and not negative."""
        left = self.remaining()
        return _LONGEST_WAIT if left is None else min(left, _LONGEST_WAIT)

    @property
    def expired(self) -> bool:
        moment = self.expires_at()
        return moment is not None and time.monotonic() >= moment

    @property
    def elapsed(self) -> float:
        return time.monotonic() - self.started

    @property
    def connect_seconds(self) -> Optional[float]:
        """Return the limit for one connection attempt made under this deadline."""
        left, connect = self.remaining(), self.timeout.connect
        if left is None:
            return connect
        # The operating system takes zero for "do not wait at all".
        return max(0.001, left if connect is None else min(left, connect))

    def touch(self) -> None:
        """Note that a message about this call has arrived: the idle clock restarts."""
        if self.timeout.idle is not None:
            paused = self._paused
            now = time.monotonic() if paused is None else paused
            self._idle_at = now + self.timeout.idle

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Stop the clocks while a person answers this call's question."""
        if self._pauses == 0:
            self._paused = time.monotonic()
        self._pauses += 1
        try:
            yield
        finally:
            self._pauses -= 1
            if self._pauses == 0:
                self._resume()

    def _resume(self) -> None:
        assert self._paused is not None
        away = time.monotonic() - self._paused
        if self._total_at is not None:
            self._total_at += away
        if self._idle_at is not None:
            self._idle_at += away
        self._paused = None

    def error(self, server: Optional[str], method: Optional[str]) -> RequestTimeout:
        """Return the exception that says which clock ran out."""
        idle_first = (
            self._idle_at is not None
            and self._idle_at <= time.monotonic()
            and (self._total_at is None or self._idle_at < self._total_at)
        )
        kind = "idle" if idle_first else "total"
        seconds = self.timeout.idle if idle_first else self.timeout.total
        limit = "" if seconds is None else " within %g s" % seconds
        what = (
            "no message about the request came%s"
            if idle_first
            else "no answer came%s; give a larger timeout= if it may take longer"
        )
        return RequestTimeout(
            what % limit,
            kind=kind,
            seconds=seconds,
            server=server,
            method=method,
            elapsed=self.elapsed,
        )


Action = Callable[[], None]


class Alarm:
    """One action that the watchdog will run, unless it is cancelled before."""

    __slots__ = ("when", "action")

    def __init__(self, when: float, action: Action) -> None:
        self.when = when
        self.action: Optional[Action] = action

    def cancel(self) -> None:
        """Forget the action. Idempotent; any thread."""
        self.action = None


class Watchdog:
    """One lazy daemon thread that runs actions at given moments.

    Actions must be short and must not raise: they shut a socket down, or set a flag.
    Safe for any number of threads.
    """

    def __init__(self) -> None:
        # Guards the heap and the thread's state.
        # Never while held: running an action, or anything that can block.
        # Taken by every caller of call_at() and by the watchdog's thread.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)
        self._heap: List[Tuple[float, int, Alarm]] = []
        self._order = itertools.count()
        self._sweep_at = _SWEEP
        self._thread: Optional[threading.Thread] = None
        self._wakes_at: Optional[float] = None

    #: In a forked child: forget the parent's thread, lock and alarms.
    reset = __init__

    def call_at(self, when: float, action: Action) -> Alarm:
        """Run `action` on the watchdog's thread at `when` (monotonic seconds)."""
        alarm = Alarm(when, action)
        with self._lock:
            if len(self._heap) >= self._sweep_at:
                self._sweep()
            heapq.heappush(self._heap, (when, next(self._order), alarm))
            if self._thread is None:
                self._start()
            elif self._wakes_at is None or when < self._wakes_at:
                self._changed.notify()
        return alarm

    def _sweep(self) -> None:
        """Drop cancelled alarms, most of which are minutes away. Requires _lock."""
        self._heap = [entry for entry in self._heap if entry[2].action is not None]
        heapq.heapify(self._heap)
        self._sweep_at = max(_SWEEP, 2 * len(self._heap))

    def _start(self) -> None:
        thread = threading.Thread(
            target=self._run, name="mcpsync-watchdog", daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # No new thread at interpreter shutdown: the limits of the operating
            # system's own waits are all that is left, and enough for an exit.
            return
        self._thread = thread

    def guard(self, deadline: Deadline, action: Action) -> "Guard":
        """Run `action` once `deadline` has passed; it may be paused or moved."""
        return Guard(self, deadline, action)

    def _run(self) -> None:
        while True:
            with self._lock:
                due = self._next_due()
            if due is None:
                return
            try:
                due()
            except Exception:
                # Whoever it was for, the others still need the watchdog.
                _log.exception("an action at a deadline failed")
            # Nothing is kept alive while waiting for the next one.
            del due

    def _next_due(self) -> Optional[Action]:
        """Wait for an action that is due. Requires holding _lock."""
        idle_since: Optional[float] = None
        while True:
            now = time.monotonic()
            while self._heap and self._heap[0][2].action is None:
                heapq.heappop(self._heap)
            if not self._heap:
                # Leave after a quiet minute, so that a host program which closed
                # its clients has no thread of ours.
                idle_since = idle_since or now
                if now - idle_since >= _WATCHDOG_LINGERS:
                    self._thread = None
                    return None
                self._wait(_WATCHDOG_LINGERS)
                continue
            when, _, alarm = self._heap[0]
            if when <= now:
                heapq.heappop(self._heap)
                # Read once: it may be cancelled at this very moment.
                action = alarm.action
                if action is not None:
                    return action
            else:
                self._wait(when - now)

    def _wait(self, seconds: float) -> None:
        self._wakes_at = time.monotonic() + seconds
        self._changed.wait(min(seconds, _LONGEST_WAIT))
        self._wakes_at = None


#: How long the thread stays without anything to do, in seconds.
_WATCHDOG_LINGERS = 60.0

#: With fewer alarms than this, cancelled ones may lie where they are.
_SWEEP = 256


class Guard:
    """Run an action when a deadline passes, however often the deadline moves.

    A context manager: leaving it calls the action off.
    """

    __slots__ = ("_watchdog", "_deadline", "_action", "_alarm", "_over")

    def __init__(self, watchdog: Watchdog, deadline: Deadline, action: Action) -> None:
        self._watchdog = watchdog
        self._deadline = deadline
        self._action = action
        self._alarm: Optional[Alarm] = None
        self._over = False

    def __enter__(self) -> "Guard":
        self._arm()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._over = True
        alarm = self._alarm
        if alarm is not None:
            alarm.cancel()

    def _arm(self) -> None:
        when = self._deadline.expires_at()
        if when is None:
            if self._deadline.timeout.total is None and (
                self._deadline.timeout.idle is None
            ):
                return
            # Paused: look again in a while, the clocks will move on by then.
            when = time.monotonic() + 1.0
        self._alarm = self._watchdog.call_at(when, self._look)

    def _look(self) -> None:
        if self._over:
            return
        if self._deadline.expired:
            self._action()
        else:
            self._arm()


#: The process's watchdog. Replaced in a forked child, whose copy has no thread.
watchdog = Watchdog()


def _after_fork() -> None:
    # In place, because others imported the name.
    watchdog.reset()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
