"""What happens to everything that is open when the process forks or ends.

Objects that hold descriptors, locks or threads enrol here. After a fork the child
drops its copies; at exit they are ended together, on one clock.
"""

from __future__ import annotations

import atexit
import os
import time
import weakref
from typing import List

__all__ = ["Enrolled", "enrol", "generation"]

#: How long the end of the program waits for all servers together, in seconds.
EXIT_SECONDS = 3.0

#: Counts the forks that lie between the first process and this one.
generation = 0


class Enrolled:
    """Something to be told about a fork and about the end of the program."""

    def after_fork_in_child(self) -> None:
        """Drop everything that belongs to the parent. Other threads are gone."""

    def begin_exit(self) -> None:
        """Start to end, without waiting."""

    def finish_exit(self, seconds: float) -> None:
        """Wait until it has ended, at most so long, then end it by force."""


# Weak: enrolling keeps nothing alive. Guarded by the interpreter lock alone, because
# a lock of ours could be held by another thread at the moment of a fork.
_enrolled: "weakref.WeakSet[Enrolled]" = weakref.WeakSet()


def enrol(thing: Enrolled) -> None:
    """Tell `thing` about forks and about the end of the program."""
    _enrolled.add(thing)


def _all() -> List[Enrolled]:
    return list(_enrolled)


def _after_fork_in_child() -> None:
    global generation
    generation += 1
    for thing in _all():
        thing.after_fork_in_child()


def _at_exit() -> None:
    things = _all()
    for thing in things:
        thing.begin_exit()
    end = time.monotonic() + EXIT_SECONDS
    for thing in things:
        thing.finish_exit(max(0.0, end - time.monotonic()))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
atexit.register(_at_exit)
