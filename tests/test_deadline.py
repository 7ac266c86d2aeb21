"""Deadlines on a clock that the test moves, and the watchdog on a real one."""

from __future__ import annotations

import copy
import gc
import heapq
import os
import pickle
import subprocess
import sys
import threading
import time
import types
import weakref
from typing import Any, Callable, Iterator, List, Optional

import pytest

from mcpsync import _deadline
from mcpsync._deadline import NO_TIMEOUT, Deadline, Timeout, Watchdog

from .fakes import bounded


class Clock:
    """The monotonic clock, as far as deadlines see it."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(_deadline, "time", types.SimpleNamespace(monotonic=clock))
    return clock


# --- Timeout ------------------------------------------------------------------------


def test_timeout_defaults() -> None:
    timeout = Timeout()
    assert (timeout.connect, timeout.idle, timeout.total) == (10.0, None, 300.0)
    assert repr(timeout) == "Timeout(connect=10.0, idle=None, total=300.0)"
    assert NO_TIMEOUT == Timeout(connect=None, idle=None, total=None)


def test_timeout_is_a_value() -> None:
    timeout = Timeout(1, 2, 3)
    assert timeout == Timeout(1.0, 2.0, 3.0) and hash(timeout) == hash(Timeout(1, 2, 3))
    assert timeout != Timeout(1, 2, 4) and timeout != (1.0, 2.0, 3.0)
    for twin in (pickle.loads(pickle.dumps(timeout)), copy.deepcopy(timeout)):
        assert twin == timeout
    with pytest.raises(AttributeError):
        setattr(timeout, "total", 5)


@pytest.mark.parametrize("bad", [0, -1, -0.5, float("nan")])
@pytest.mark.parametrize("name", ["connect", "idle", "total"])
def test_timeouts_are_more_than_nothing(name: str, bad: float) -> None:
    with pytest.raises(ValueError, match=name):
        Timeout(**{name: bad})


@pytest.mark.parametrize("bad", ["5", True, [5], b"5"])
def test_timeouts_are_numbers(bad: Any) -> None:
    with pytest.raises(TypeError, match="total must be a number of seconds"):
        Timeout(total=bad)


def test_what_a_caller_may_give() -> None:
    default = Timeout(connect=1, idle=2, total=3)
    assert Timeout.of(None, default) is default
    assert Timeout.of(NO_TIMEOUT, default) is NO_TIMEOUT
    assert Timeout.of(7, default) == Timeout(connect=1, idle=2, total=7)
    with pytest.raises(ValueError):
        Timeout.of(0, default)


# --- Deadline -----------------------------------------------------------------------


def test_a_deadline_without_limits_never_expires(clock: Clock) -> None:
    deadline = Deadline(NO_TIMEOUT)
    clock.now += 1e9
    assert deadline.expires_at() is None and deadline.remaining() is None
    assert not deadline.expired
    assert 0 < deadline.wait_seconds() <= threading.TIMEOUT_MAX
    assert deadline.connect_seconds is None


def test_the_total_counts_down(clock: Clock) -> None:
    deadline = Deadline(Timeout(connect=None, total=10))
    assert deadline.expires_at() == 1010.0
    clock.now += 4
    assert (deadline.remaining(), deadline.elapsed) == (6.0, 4.0)
    assert deadline.wait_seconds() == 6.0 and not deadline.expired
    clock.now += 6
    assert deadline.expired and deadline.remaining() == 0.0
    clock.now += 1
    assert deadline.remaining() == 0.0 and deadline.wait_seconds() == 0.0


def test_a_message_restarts_the_idle_clock_alone(clock: Clock) -> None:
    deadline = Deadline(Timeout(idle=3, total=10))
    for _ in range(4):
        clock.now += 2
        deadline.touch()
    assert deadline.remaining() == 2.0  # the total is what is left
    clock.now += 2
    assert deadline.expired


def test_silence_ends_the_idle_clock(clock: Clock) -> None:
    deadline = Deadline(Timeout(idle=3, total=10))
    clock.now += 2.9
    assert not deadline.expired
    clock.now += 0.2
    assert deadline.expired


def test_without_an_idle_limit_messages_change_nothing(clock: Clock) -> None:
    deadline = Deadline(Timeout(total=10))
    clock.now += 4
    deadline.touch()
    assert deadline.remaining() == 6.0


@pytest.mark.parametrize(
    "connect, total, gone, expected",
    [(10, 300, 0, 10.0), (10, 5, 0, 5.0), (10, 12, 4, 8.0), (None, 5, 1, 4.0)],
)
def test_a_connection_attempt_has_the_smaller_limit(
    clock: Clock, connect: Optional[float], total: float, gone: float, expected: float
) -> None:
    deadline = Deadline(Timeout(connect=connect, total=total))
    clock.now += gone
    assert deadline.connect_seconds == expected


def test_a_connection_attempt_without_a_total_limit(clock: Clock) -> None:
    assert Deadline(Timeout(connect=4, total=None)).connect_seconds == 4.0


def test_after(clock: Clock) -> None:
    assert Deadline.after(5).remaining() == 5.0
    assert Deadline.after(None).remaining() is None
    for already_over in (0, -5):
        deadline = Deadline.after(already_over)
        clock.now += 0.01
        assert deadline.expired


def test_at_most(clock: Clock) -> None:
    deadline = Deadline(Timeout(total=10))
    assert deadline.at_most(4).remaining() == 4.0
    assert deadline.at_most(40).remaining() == 10.0
    assert Deadline(NO_TIMEOUT).at_most(4).remaining() == 4.0
    clock.now += 11
    over = deadline.at_most(4)
    clock.now += 0.01
    assert over.expired


# --- pauses -------------------------------------------------------------------------


def test_the_clocks_stop_while_paused(clock: Clock) -> None:
    deadline = Deadline(Timeout(idle=3, total=10))
    clock.now += 1
    with deadline.paused():
        clock.now += 100
        assert not deadline.expired
        assert deadline.expires_at() is None and deadline.remaining() is None
        assert deadline.at_most(4).remaining() == 4.0
    assert deadline.remaining() == 2.0
    deadline.touch()
    clock.now += 2.5
    deadline.touch()
    assert deadline.remaining() == 3.0
    assert deadline.expires_at() == 1106.5


def test_pauses_nest(clock: Clock) -> None:
    deadline = Deadline(Timeout(total=10))
    with deadline.paused():
        clock.now += 5
        with deadline.paused():
            clock.now += 5
        clock.now += 5
        assert deadline.remaining() is None
    assert deadline.remaining() == 10.0
    with deadline.paused():
        clock.now += 5
    assert deadline.remaining() == 10.0


def test_an_exception_ends_the_pause(clock: Clock) -> None:
    deadline = Deadline(Timeout(total=10))
    with pytest.raises(KeyError):
        with deadline.paused():
            clock.now += 5
            raise KeyError
    assert deadline.remaining() == 10.0


def test_a_pause_does_not_revive_what_is_over(clock: Clock) -> None:
    deadline = Deadline(Timeout(total=10))
    clock.now += 11
    with deadline.paused():
        clock.now += 5
    assert deadline.expired


def test_a_message_during_a_pause_gives_one_idle_time_and_no_more(
    clock: Clock,
) -> None:
    deadline = Deadline(Timeout(idle=3, total=None))
    with deadline.paused():
        clock.now += 90
        deadline.touch()
        clock.now += 10
    assert deadline.remaining() == 3.0


# --- the exception ------------------------------------------------------------------


def test_the_error_names_the_clock_that_ran_out(clock: Clock) -> None:
    deadline = Deadline(Timeout(idle=3, total=10))
    clock.now += 3
    error = deadline.error("weather", "tools/call")
    assert (error.kind, error.seconds, error.elapsed) == ("idle", 3.0, 3.0)
    assert (error.server, error.method) == ("weather", "tools/call")
    assert "within 3 s" in str(error) and "'weather'" in str(error)
    deadline.touch()
    clock.now += 2.9
    deadline.touch()
    clock.now += 2.9
    deadline.touch()
    clock.now += 1.2
    error = deadline.error(None, None)
    assert (error.kind, error.seconds) == ("total", 10.0)
    assert "within 10 s" in str(error) and "timeout=" in str(error)


def test_the_earlier_clock_is_to_blame(clock: Clock) -> None:
    late = Deadline(Timeout(idle=3, total=10))
    both = Deadline(Timeout(idle=10, total=10))
    clock.now += 50
    assert late.error(None, None).kind == "idle"
    assert both.error(None, None).kind == "total"


# --- the watchdog -------------------------------------------------------------------


@pytest.fixture
def dog(monkeypatch: pytest.MonkeyPatch) -> Iterator[Watchdog]:
    """A watchdog whose thread leaves soon after it has nothing to do."""
    monkeypatch.setattr(_deadline, "_WATCHDOG_LINGERS", 0.05)
    dog = Watchdog()
    yield dog
    thread = dog._thread
    with dog._lock:
        dog._heap.clear()
        dog._changed.notify()
    if thread is not None:
        thread.join(5)


def soon(seconds: float = 0.02) -> float:
    return time.monotonic() + seconds


def test_an_action_runs_on_the_watchdogs_thread(dog: Watchdog) -> None:
    ran = threading.Event()
    names: List[str] = []

    def action() -> None:
        names.append(threading.current_thread().name)
        ran.set()

    when = soon()
    dog.call_at(when, action)
    assert ran.wait(5)
    assert time.monotonic() >= when
    assert names == ["mcpsync-watchdog"]


def test_actions_run_in_the_order_of_their_moments(dog: Watchdog) -> None:
    order: List[int] = []
    ran = threading.Event()
    now = soon(0.5)
    dog.call_at(now + 0.02, lambda: (order.append(3), ran.set()))
    dog.call_at(now, lambda: order.append(1))
    dog.call_at(now + 0.01, lambda: order.append(2))
    dog.call_at(time.monotonic() - 5, lambda: order.append(0))
    assert ran.wait(5)
    assert order == [0, 1, 2, 3]


def test_the_same_moment_may_be_given_twice(dog: Watchdog) -> None:
    order: List[int] = []
    ran = threading.Event()
    when = soon()
    dog.call_at(when, lambda: order.append(1))
    dog.call_at(when, lambda: (order.append(2), ran.set()))
    assert ran.wait(5)
    assert order == [1, 2]


def test_an_earlier_alarm_wakes_the_watchdog(dog: Watchdog) -> None:
    ran = threading.Event()
    dog.call_at(time.monotonic() + 3600, lambda: None)
    dog.call_at(float("inf"), lambda: None)
    dog.call_at(soon(), ran.set)
    assert ran.wait(5)


def test_a_cancelled_action_does_not_run(dog: Watchdog) -> None:
    order: List[str] = []
    ran = threading.Event()
    alarm = dog.call_at(soon(0.5), lambda: order.append("cancelled"))
    alarm.cancel()
    alarm.cancel()
    dog.call_at(soon(0.6), ran.set)
    assert ran.wait(5)
    assert order == []


class Resource:
    """Something that an action refers to."""

    def act(self) -> None:
        """Do nothing."""


def test_a_cancelled_alarm_lets_go_of_its_action(dog: Watchdog) -> None:
    resource = Resource()
    alive = weakref.ref(resource)
    dog.call_at(time.monotonic() + 3600, resource.act).cancel()
    del resource
    gc.collect()
    assert alive() is None


def test_the_watchdog_lets_go_of_an_action_that_has_run(dog: Watchdog) -> None:
    resource = Resource()
    alive = weakref.ref(resource)
    # Another alarm keeps the thread waiting; it comes back to it after the first.
    dog.call_at(time.monotonic() + 3600, lambda: None)
    ran = threading.Event()

    def run(resource: Resource = resource) -> None:
        resource.act()
        ran.set()

    dog.call_at(soon(), run)
    del resource, run
    assert ran.wait(5)
    for _ in range(100):
        gc.collect()
        if alive() is None:
            break
        time.sleep(0.02)
    assert alive() is None


def test_cancelled_alarms_are_swept(dog: Watchdog) -> None:
    kept = [dog.call_at(time.monotonic() + 3600, lambda: None) for _ in range(10)]
    for _ in range(5000):
        dog.call_at(time.monotonic() + 3600, lambda: None).cancel()
    assert len(dog._heap) < 1000
    assert all(any(entry[2] is alarm for entry in dog._heap) for alarm in kept)


def test_live_alarms_are_never_swept(dog: Watchdog) -> None:
    done = threading.Semaphore(0)
    when = soon(0.2)
    for _ in range(1000):
        dog.call_at(when, done.release)
        dog.call_at(when + 3600, done.release).cancel()
    for _ in range(1000):
        assert done.acquire(timeout=5)


def test_the_thread_leaves_and_comes_back(dog: Watchdog) -> None:
    for _ in range(2):
        ran = threading.Event()
        dog.call_at(soon(), ran.set)
        thread = dog._thread
        assert thread is not None and ran.wait(5)
        thread.join(5)
        assert not thread.is_alive()


def test_many_threads_may_use_it(dog: Watchdog) -> None:
    done = threading.Semaphore(0)

    def use() -> None:
        for n in range(50):
            dog.call_at(soon(0.01 * (n % 5)), done.release)
            dog.call_at(soon(5), done.release).cancel()

    threads = [threading.Thread(target=use) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for _ in range(8 * 50):
        assert done.acquire(timeout=5)


class CancelledLast:
    """An alarm that is cancelled just when the watchdog has looked at it."""

    def __init__(self) -> None:
        self.looks = 0

    @property
    def action(self) -> Optional[Callable[[], None]]:
        self.looks += 1
        return (lambda: None) if self.looks < 3 else None


def test_a_cancellation_at_the_last_moment_does_not_end_the_watchdog(
    dog: Watchdog,
) -> None:
    fickle: Any = CancelledLast()
    heapq.heappush(dog._heap, (0.0, -1, fickle))
    ran = threading.Event()
    dog.call_at(soon(0.05), ran.set)
    assert ran.wait(5)


# --- guards -------------------------------------------------------------------------


def test_a_guard_acts_when_the_deadline_passes(dog: Watchdog) -> None:
    ran = threading.Event()
    deadline = Deadline.after(0.05)
    with dog.guard(deadline, ran.set):
        assert ran.wait(5)
        assert deadline.expired


def test_leaving_a_guard_calls_it_off(dog: Watchdog) -> None:
    acted: List[int] = []
    later = threading.Event()
    with dog.guard(Deadline.after(1.0), lambda: acted.append(1)) as guard:
        pass
    dog.call_at(soon(1.1), later.set)
    assert later.wait(5)
    guard._look()
    assert acted == []


def test_a_guard_follows_a_deadline_that_moves(dog: Watchdog) -> None:
    class Moving(Deadline):
        """Is found to have moved whenever it should have passed, three times."""

        looks = 0

        @property
        def expired(self) -> bool:
            self.looks += 1
            return self.looks > 3

    acted = threading.Event()
    deadline = Moving(Timeout(total=0.05))
    with dog.guard(deadline, acted.set):
        assert acted.wait(5)
    assert deadline.looks == 4


def test_a_guard_waits_while_its_deadline_is_paused(dog: Watchdog) -> None:
    acted = threading.Event()
    deadline = Deadline.after(0.5)
    with dog.guard(deadline, acted.set):
        with deadline.paused():
            assert not acted.wait(0.8)
        assert acted.wait(5)


def test_a_guard_that_starts_paused_acts_after_all(dog: Watchdog) -> None:
    acted = threading.Event()
    deadline = Deadline.after(0.05)
    with deadline.paused():
        guard = dog.guard(deadline, acted.set)
        guard.__enter__()
        assert not acted.wait(0.1)
    assert acted.wait(5)
    guard.__exit__(None, None, None)


def test_a_guard_without_a_limit_costs_nothing(dog: Watchdog) -> None:
    with dog.guard(Deadline(NO_TIMEOUT), lambda: None):
        assert dog._heap == [] and dog._thread is None


# --- fork ---------------------------------------------------------------------------

FORK = """
import os, sys, threading, time
sys.path.insert(0, %r)
from mcpsync._deadline import watchdog

def check(name):
    ran = threading.Event()
    watchdog.call_at(time.monotonic() + 0.02, ran.set)
    print(name, ran.wait(5), flush=True)

inherited = []
check("parent")
watchdog.call_at(time.monotonic() + 0.3, lambda: inherited.append(os.getpid()))
held = threading.Event()
release = threading.Event()

def hold():
    with watchdog._lock:
        held.set()
        release.wait(10)

holder = threading.Thread(target=hold)
holder.start()
held.wait(5)
child = os.fork()
if child == 0:
    # The lock was held by a thread that does not exist here.
    check("child")
    time.sleep(0.5)
    print("inherited", len(inherited), flush=True)
    os._exit(0)
release.set()
holder.join()
os.waitpid(child, 0)
check("parent again")
print("own", inherited == [os.getpid()], flush=True)
"""

if hasattr(os, "fork"):

    def test_a_forked_child_has_a_watchdog_of_its_own() -> None:
        root = os.path.dirname(os.path.dirname(os.path.abspath(_deadline.__file__)))
        ran = bounded(
            lambda: subprocess.run(
                [sys.executable, "-W", "ignore", "-c", FORK % root],
                stdout=subprocess.PIPE,
                text=True,
                timeout=30,
                check=True,
            ),
            40,
        )
        assert sorted(ran.stdout.splitlines()) == [
            "child True",
            "inherited 0",
            "own True",
            "parent True",
            "parent again True",
        ]
