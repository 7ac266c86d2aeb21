"""What happens to everything that is open when the process forks or ends.

Objects that hold descriptors, locks or threads enrol here. After a fork the child
drops its copies; at exit they are ended together, on one clock.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import time
import weakref
from typing import Any, Callable, Dict, List, Optional

__all__ = ["Enrolled", "enrol", "exiting", "generation", "no_fork"]

#: How long the end of the program waits for all servers together, in seconds.
EXIT_SECONDS = 3.0

#: How long a fork waits for a good moment, in seconds.
_FORK_PATIENCE = 1.0

#: Counts the forks that lie between the first process and this one.
generation = 0

#: Whether the program is ending: nothing may be started that nobody would end.
exiting = False


class NoFork:
    """Keeps forks out of the moments in which a child would get too much.

    A descriptor that is open and not yet written down would stay open in the child,
    and one that is closed and still written down may be another's by then. A child
    forked while a process is being started would even keep that start from ending.

    A context manager for any number of threads at once; a fork waits for all of them,
    but not for ever. Nothing in it may wait for another thread.
    """

    def __init__(self) -> None:
        # Guards the list of threads inside. Held over the fork itself.
        # Never while held: anything else that blocks.
        # Taken by whoever enters or leaves, and around every fork.
        self._changed = threading.Condition(threading.RLock())
        self._inside: List[int] = []

    def __enter__(self) -> None:
        with self._changed:
            self._inside.append(threading.get_ident())

    def __exit__(self, *exc_info: object) -> None:
        with self._changed:
            self._inside.remove(threading.get_ident())
            self._changed.notify_all()

    def before_fork(self) -> None:
        self._changed.acquire()
        end = time.monotonic() + _FORK_PATIENCE
        # Its own thread cannot leave while it forks.
        while set(self._inside) - {threading.get_ident()}:
            left = end - time.monotonic()
            if left <= 0:
                return
            self._changed.wait(left)

    def after_fork_in_parent(self) -> None:
        self._changed.release()

    def after_fork_in_child(self) -> None:
        # No other thread is left to leave.
        own = [thread for thread in self._inside if thread == threading.get_ident()]
        self._changed = threading.Condition(threading.RLock())
        self._inside = own


no_fork = NoFork()


class Enrolled:
    """Something to be told about a fork and about the end of the program."""

    def after_fork_in_child(self) -> None:
        """Drop everything that belongs to the parent. Other threads are gone."""

    def begin_exit(self) -> None:
        """Start to end, without waiting."""

    def finish_exit(self, seconds: float) -> None:
        """Wait until it has ended, at most so long, then end it by force."""


# Weak: enrolling keeps nothing alive. Guarded by the interpreter alone, one operation
# at a time, because a lock of ours could be held by another thread while this one
# forks. (A WeakSet is not safe so: it is walked in steps.)
_enrolled: Dict[int, "weakref.ref[Enrolled]"] = {}


def enrol(thing: Enrolled) -> None:
    """Tell `thing` about forks and about the end of the program."""
    key = id(thing)
    _enrolled[key] = weakref.ref(thing, lambda gone: _forget(key))


def _forget(key: int) -> None:
    _enrolled.pop(key, None)


def _all() -> List[Enrolled]:
    things = [reference() for reference in list(_enrolled.values())]
    return [thing for thing in things if thing is not None]


def _tell_all(tell: Callable[[Enrolled], None]) -> None:
    """Tell everything that is enrolled; what fails keeps nobody else from hearing."""
    failure: Optional[Exception] = None
    for thing in _all():
        try:
            tell(thing)
        except Exception as error:
            failure = failure or error
    if failure is not None:
        raise failure


def _after_fork_in_child() -> None:
    global generation
    generation += 1
    no_fork.after_fork_in_child()
    _end_with_worker()
    _tell_all(lambda thing: thing.after_fork_in_child())


def _end_with_worker() -> None:
    """See to the end of a process that `multiprocessing` forked.

    Such a process leaves without the functions of `atexit`, but not without these.
    """
    util: Any = sys.modules.get("multiprocessing.util")
    if util is not None:
        util.register_after_fork(
            util, lambda _: util.Finalize(None, _at_exit, exitpriority=0)
        )


def _at_exit() -> None:
    global exiting
    exiting = True
    _tell_all(lambda thing: thing.begin_exit())
    end = time.monotonic() + EXIT_SECONDS
    _tell_all(lambda thing: thing.finish_exit(max(0.0, end - time.monotonic())))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=no_fork.before_fork,
        after_in_parent=no_fork.after_fork_in_parent,
        after_in_child=_after_fork_in_child,
    )
atexit.register(_at_exit)
