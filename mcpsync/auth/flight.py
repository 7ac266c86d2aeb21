"""One piece of work for many waiters, on a thread that none of them can stop.

A rotated refresh token that was spent and not saved is a lost login. So the request
and the save run on a thread of their own: a caller's Ctrl-C or timeout ends his wait,
never the work.
"""

from __future__ import annotations

import threading
from typing import Callable, Generic, List, Optional, TypeVar

from .._deadline import Deadline
from ..exceptions import AuthorizationError, MCPError

__all__ = ["Flight"]

T = TypeVar("T")


class Flight(Generic[T]):
    """Work in progress. Any number of threads may wait for it.

    Args:
        name: of the thread.
        work: what is to be done, once. It gets the flight, to say when a person is
            being waited for.
    """

    def __init__(self, name: str, work: "Callable[[Flight[T]], T]") -> None:
        # Guards the outcome and the phase.
        # Never while held: the work.
        # Taken by the working thread and by whoever waits.
        self._changed = threading.Condition(threading.Lock())
        self._over = False
        self._with_person = False
        self._results: List[T] = []
        self._failure: Optional[BaseException] = None
        self._work: Optional[Callable[[Flight[T]], T]] = work
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def over(self) -> bool:
        return self._over

    def _run(self) -> None:
        assert self._work is not None
        results: List[T] = []
        failure: Optional[BaseException] = None
        try:
            results.append(self._work(self))
        except BaseException as error:
            failure = error
        with self._changed:
            self._results, self._failure, self._work = results, failure, None
            self._over = True
            self._changed.notify_all()

    def waiting_for_person(self, waiting: bool) -> None:
        """Say that a person is being waited for, or no more. The working thread."""
        with self._changed:
            self._with_person = waiting
            self._changed.notify_all()

    def wait(self, deadline: Deadline, leader: bool = False) -> T:
        """Return the result.

        Args:
            deadline: the waiter's own; when it passes, the work goes on.
            leader: whether the work is done for this waiter, whose clock then stops
                while a person is being waited for.

        Raises:
            RequestTimeout: the deadline passed.
            MCPError: the work failed.
        """
        while not self._over:
            if leader and self._with_person:
                with deadline.paused():
                    self._await_change(leader, deadline, with_person=True)
            else:
                self._await_change(leader, deadline, with_person=False)
                if not self._over and deadline.expired:
                    raise deadline.error(None, None)
        return self._outcome()

    def _await_change(
        self, leader: bool, deadline: Deadline, with_person: bool
    ) -> None:
        with self._changed:
            if not self._over and (not leader or self._with_person is with_person):
                self._changed.wait(deadline.wait_seconds())

    def _outcome(self) -> T:
        failure = self._failure
        if failure is None:
            return self._results[0]
        if isinstance(failure, MCPError):
            raise _copy(failure) from failure
        raise AuthorizationError(
            "authorization failed unexpectedly: %s" % type(failure).__name__
        ) from failure


def _copy(failure: MCPError) -> MCPError:
    """Return a twin: several threads raising one exception would mix tracebacks."""
    twin = type(failure).__new__(type(failure))
    twin.args = failure.args
    twin.__dict__.update(failure.__dict__)
    return twin
