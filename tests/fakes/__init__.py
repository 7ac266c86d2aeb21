"""Peers and tools for tests: real sockets, real processes, bounded waits."""

from __future__ import annotations

import sys
import threading
import traceback
from typing import Callable, List, TypeVar

__all__ = ["CANARY", "bounded"]

#: A secret that tests hand to the client. It must not come out of any log.
CANARY = "sk-canary-7d1f0c5b9ae24e86"

T = TypeVar("T")


def bounded(f: Callable[[], T], limit: float = 10.0) -> T:
    """Return what `f` returns or raise what it raises; fail when it hangs.

    `f` runs on a daemon thread, so that a wait without an end costs one test and not
    the whole run.
    """
    returned: List[T] = []
    raised: List[BaseException] = []

    def run() -> None:
        try:
            returned.append(f())
        except BaseException as error:
            raised.append(error)

    thread = threading.Thread(target=run, name="bounded", daemon=True)
    thread.start()
    thread.join(limit)
    try:
        if raised:
            raise raised[0]
        if not returned:
            raise AssertionError(
                "still running after %g s, here:\n%s" % (limit, stack_of(thread))
            )
        return returned[0]
    finally:
        # The traceback refers to this frame: no cycle through the list.
        raised.clear()


def stack_of(thread: threading.Thread) -> str:
    """Return where the thread is."""
    frame = sys._current_frames().get(thread.ident or 0)
    if frame is None:
        return "(it has just ended)"
    return "".join(traceback.format_stack(frame))
