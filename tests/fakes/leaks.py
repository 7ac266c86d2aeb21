"""What a test left behind: threads of ours, child processes, descriptors."""

from __future__ import annotations

import contextlib
import gc
import glob
import os
import socket
import threading
import time
from typing import FrozenSet, Iterator, List, NamedTuple, Optional, Tuple

from . import stack_of

__all__ = ["Snapshot", "leaks", "no_leaks", "PATIENCE", "rss_mib", "snapshot"]

#: Seconds that threads and peers get to end before they count as left behind.
PATIENCE = 3.0

#: One thread per process, which leaves by itself when there is nothing to do.
_ALLOWED = "mcpsync-watchdog"


class Snapshot(NamedTuple):
    """What there is now, as far as the platform tells."""

    threads: FrozenSet[threading.Thread]
    children: FrozenSet[int]
    descriptors: FrozenSet[Tuple[str, str]]


def snapshot() -> Snapshot:
    """Return the threads, children and open descriptors of this process."""
    threads = frozenset(
        thread
        for thread in threading.enumerate()
        if thread.name.startswith("mcpsync-") and thread.name != _ALLOWED
    )
    return Snapshot(threads, frozenset(_children()), frozenset(_descriptors()))


def _children() -> Iterator[int]:
    # Zombies are listed as well: a child that nobody has waited for.
    for path in glob.glob("/proc/self/task/*/children"):
        with contextlib.suppress(OSError), open(path, encoding="ascii") as listing:
            yield from map(int, listing.read().split())


def _descriptors() -> Iterator[Tuple[str, str]]:
    if not os.path.isdir("/proc/self/fd"):
        return
    for number in os.listdir("/proc/self/fd"):
        # The descriptor of the listing itself is gone by now.
        with contextlib.suppress(OSError):
            yield number, os.readlink("/proc/self/fd/" + number)


def leaks(before: Snapshot, patience: Optional[float] = None) -> List[str]:
    """Return what is there now and was not before, once `patience` seconds are over.

    Threads and peers may need a moment to end; there is no event for "all gone".
    """
    end = time.monotonic() + (PATIENCE if patience is None else patience)
    while True:
        found = _difference(before, snapshot())
        if not found or time.monotonic() > end:
            return found
        gc.collect()
        time.sleep(0.05)


def _difference(before: Snapshot, after: Snapshot) -> List[str]:
    found = [
        "thread %s, at\n%s" % (thread.name, stack_of(thread))
        for thread in after.threads - before.threads
    ]
    found += [
        "child process %d: %s" % (child, _command(child))
        for child in sorted(after.children - before.children)
    ]
    found += [
        "descriptor %s: %s%s" % (number, target, _addresses(number, target))
        for number, target in sorted(after.descriptors - before.descriptors)
    ]
    return found


def _addresses(number: str, target: str) -> str:
    """Return who is connected with whom, for a socket."""
    if not target.startswith("socket:"):
        return ""
    with contextlib.suppress(OSError):
        with socket.socket(fileno=os.dup(int(number))) as copy:
            here = copy.getsockname()
            with contextlib.suppress(OSError):
                return " from %s to %s" % (here, copy.getpeername())
            return " at %s" % (here,)
    return ""


def _command(child: int) -> str:
    with contextlib.suppress(OSError):
        with open("/proc/%d/cmdline" % child, "rb") as cmdline:
            words = cmdline.read().replace(b"\0", b" ")
            return words.decode("utf-8", "replace")[:200] or "(a zombie)"
    return "(gone)"


@contextlib.contextmanager
def no_leaks(patience: Optional[float] = None) -> Iterator[None]:
    """Fail when the block leaves something behind."""
    before = snapshot()
    yield
    found = leaks(before, patience)
    assert not found, "left behind:\n" + "\n".join(found)


def rss_mib() -> float:
    """Return the resident memory of this process in MiB; 0 where nobody tells."""
    with contextlib.suppress(OSError), open("/proc/self/statm") as statm:
        pages = int(statm.read().split()[1])
        return pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    return 0.0
