"""One piece of work for many waiters.

A rotated refresh token that was spent and not saved is a lost login. So the request
and the save run on a thread of their own: a caller's Ctrl-C or timeout ends his wait,
never the work. What a person has to do is done by the thread of the one who asked
first, because only there can a terminal or a notebook be asked.
"""

from __future__ import annotations

import threading
import time
from typing import (
    Any,
    Callable,
    Dict,
    Generic,
    Hashable,
    List,
    Optional,
    Tuple,
    TypeVar,
    cast,
)

from .._deadline import Deadline
from .._lifecycle import Enrolled, enrol
from ..exceptions import AuthorizationError, ClientClosed, MCPError

__all__ = ["Flight", "Flights", "flights", "twin_of"]

T = TypeVar("T")

#: Seconds for which the end of the program waits for what is to be saved.
_LAST_SECONDS = 2.0


class Flight(Generic[T]):
    """Work in progress. Any number of threads may wait for it.

    Made by :class:`Flights`; the one who leads it calls :meth:`start` or :meth:`run`.

    Attributes:
        next: the one that takes over from it, for all who have waited for it.
        over: whether it has a result, or has failed.
    """

    def __init__(
        self,
        name: str,
        work: Callable[[], T],
        changed: threading.Condition,
        forget: Callable[[], object],
        working: "List[Flight[Any]]",
    ) -> None:
        self._working = working
        self._name = name
        self._work = work
        self._changed = changed
        self._forget = forget
        self._results: List[T] = []
        self._failure: Optional[BaseException] = None
        self.next: Optional[Flight[Any]] = None
        self._worker: Optional[int] = None
        self._leader = threading.get_ident()
        self._begun = False
        self.over = False

    def start(self) -> None:
        """Do the work on a thread of its own, which nobody can stop."""
        thread = threading.Thread(target=self._work_out, name=self._name, daemon=True)
        try:
            self._begun = True
            with self._changed:
                self._working.append(self)
            thread.start()
        except BaseException as error:
            self._end([], error)
            raise

    def run(self) -> T:
        """Do the work on this thread; return or raise what comes of it."""
        try:
            self._begun, self._worker = True, threading.get_ident()
            result = self._work()
        except BaseException as error:
            self._end([], error)
            raise
        self._end([result], None)
        return result

    def _work_out(self) -> None:
        try:
            self.run()
        except BaseException:
            # Whoever waits gets it.
            return

    def _end(self, results: List[T], failure: Optional[BaseException]) -> None:
        with self._changed:
            self._results, self._failure = results, failure
            self.over = True
            # Whoever keeps the table must not keep a traceback, or what it refers to.
            self._forget()
            if self in self._working:
                self._working.remove(self)
            self._changed.notify_all()

    def wait(
        self, deadline: Deadline, is_closed: Optional[Callable[[], bool]] = None
    ) -> T:
        """Return the result.

        Args:
            deadline: the waiter's own; when it passes, the work goes on.
            is_closed: tells whether the waiter has lost interest; asked whenever
                :meth:`Flights.wake` was called.

        Raises:
            RequestTimeout: the deadline passed.
            ClientClosed: the waiter has lost interest.
            MCPError: the work failed.
        """
        if self._worker == threading.get_ident() and not self.over:
            raise AuthorizationError("a request in the middle of a login needs a login")
        while not self.over:
            if is_closed is not None and is_closed():
                raise ClientClosed("the client was closed")
            if deadline.expired:
                raise deadline.error(None, None)
            with self._changed:
                if not self.over and not (is_closed is not None and is_closed()):
                    self._changed.wait(deadline.wait_seconds())
        return self._outcome()

    @property
    def is_left_to_this_thread(self) -> bool:
        """Whether this thread made it, and was interrupted before it began."""
        return not self._begun and self._leader == threading.get_ident()

    def _outcome(self) -> T:
        failure = self._failure
        if failure is None:
            return self._results[0]
        if isinstance(failure, MCPError):
            raise twin_of(failure) from failure
        if not isinstance(failure, Exception):
            raise AuthorizationError("the login was given up") from failure
        raise AuthorizationError(
            "authorization failed unexpectedly: %s" % type(failure).__name__
        ) from failure


class Flights(Enrolled):
    """The flights of this process: at most one for each key at a time.

    For any number of threads. The child of a fork has none: they are the parent's.
    """

    def __init__(self) -> None:
        self._begin()
        enrol(self)

    def _begin(self) -> None:
        # Guards the table, and the outcome of every flight.
        # Never while held: the work.
        # Taken by whoever joins, leads, ends or awaits a flight; again by a signal
        # handler that happens to run while its own thread holds it.
        self._changed = threading.Condition(threading.RLock())
        self._flights: Dict[Hashable, Flight[Any]] = {}
        # Those that end by themselves, and must not be cut off.
        self._working: List[Flight[Any]] = []

    def after_fork_in_child(self) -> None:
        self._begin()

    def finish_exit(self, seconds: float) -> None:
        """Let what was begun be saved before the program ends."""
        end = time.monotonic() + min(seconds, _LAST_SECONDS)
        with self._changed:
            left = end - time.monotonic()
            while self._working and left > 0:
                self._changed.wait(left)
                left = end - time.monotonic()

    def current(self, key: Hashable) -> Optional[Flight[Any]]:
        """Return the flight that others have under way, if there is one."""
        with self._changed:
            flight = self._flights.get(key)
            return None if flight is None or flight.is_left_to_this_thread else flight

    def join(
        self,
        key: Hashable,
        name: str,
        work: Callable[[], T],
        after: Optional[Flight[Any]] = None,
    ) -> Tuple[Flight[T], bool]:
        """Return the flight for a key, and whether the caller has to lead it.

        Args:
            name: of the thread, if it gets one.
            work: what is to be done, unless it is under way.
            after: the flight that was waited for before. All who did get the same one,
                even if it is over by now.
        """
        with self._changed:
            found = self._flights.get(key)
            if after is not None:
                found = after.next = after.next or found
            if found is not None:
                return cast("Flight[T]", found), found.is_left_to_this_thread
            led: Flight[T] = self._flight(name, work, lambda: self._forget(key, led))
            self._flights[key] = led
            if after is not None:
                after.next = led
            return led, True

    def _forget(self, key: Hashable, flight: Flight[Any]) -> None:
        if self._flights.get(key) is flight:
            del self._flights[key]

    def alone(self, name: str, work: Callable[[], T]) -> Flight[T]:
        """Return a flight that nobody can join."""
        return self._flight(name, work, lambda: None)

    def _flight(
        self, name: str, work: Callable[[], T], forget: Callable[[], object]
    ) -> Flight[T]:
        return Flight(name, work, self._changed, forget, self._working)

    def wake(self) -> None:
        """Let all who wait look whether they still want to."""
        with self._changed:
            self._changed.notify_all()


flights = Flights()


def twin_of(failure: MCPError) -> MCPError:
    """Return a copy: several threads raising one exception would mix tracebacks."""
    twin = type(failure).__new__(type(failure))
    twin.args = failure.args
    twin.__dict__.update(failure.__dict__)
    return twin
