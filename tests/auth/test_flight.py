"""One piece of work, however many wait for it, and whatever becomes of them."""

from __future__ import annotations

import gc
import os
import signal
import threading
import weakref
from typing import Any, Iterator, List

import pytest

from mcpsync._deadline import Deadline
from mcpsync.auth.flight import Flights
from mcpsync.exceptions import (
    AuthorizationError,
    ClientClosed,
    RequestTimeout,
    TokenError,
)

from ..fakes import bounded
from .authority import together
from .sites import soon
from .storing import run_script

NAME = "mcpsync-auth-test"


class Work:
    """What a flight does; waits until it may go on."""

    def __init__(self, result: Any = "done") -> None:
        self.result = result
        self.times = 0
        self.begun = threading.Event()
        self.may_end = threading.Event()
        self.thread: Any = None

    def __call__(self) -> Any:
        self.times += 1
        self.thread = threading.current_thread()
        self.begun.set()
        self.may_end.wait(20)
        if isinstance(self.result, BaseException):
            raise self.result
        return self.result


@pytest.fixture
def flights() -> Flights:
    return Flights()


@pytest.fixture
def work() -> Iterator[Work]:
    work = Work()
    yield work
    work.may_end.set()
    if work.thread not in (None, threading.current_thread()):
        work.thread.join(10)


def test_one_leads_and_all_get_the_result(flights: Flights, work: Work) -> None:
    led: List[bool] = []

    def ask() -> Any:
        flight, lead = flights.join("key", NAME, work)
        led.append(lead)
        if lead:
            flight.start()
        if len(led) == 8:
            work.may_end.set()
        return flight.wait(soon())

    assert together(8, ask) == ["done"] * 8
    assert (work.times, sorted(led)) == (1, [False] * 7 + [True])
    assert work.thread.name == NAME and work.thread.daemon


def test_other_keys_are_other_flights(flights: Flights, work: Work) -> None:
    one, _ = flights.join("one", NAME, work)
    other, lead = flights.join("other", NAME, lambda: "other")
    one.start()
    other.start()
    assert lead and other.wait(soon()) == "other"
    assert not one.over and flights.current("one") is one
    assert flights.current("other") is None


def test_a_leader_may_do_the_work_himself(flights: Flights, work: Work) -> None:
    work.may_end.set()
    flight, _ = flights.join("key", NAME, work)
    assert flight.run() == "done"
    assert work.thread is threading.current_thread()
    assert flight.wait(Deadline.after(0.001)) == "done"


def test_everybody_gets_an_error_of_his_own(flights: Flights, work: Work) -> None:
    work.result = TokenError("refused")
    work.result.error = "invalid_grant"
    flight, _ = flights.join("key", NAME, work)
    flight.start()
    work.may_end.set()
    errors = together(3, lambda: flight.wait(soon()))
    assert [type(error) for error in errors] == [TokenError] * 3
    assert {str(error) for error in errors} == {"refused"}
    assert len({id(error) for error in errors}) == 3
    for error in errors:
        assert isinstance(error, TokenError) and error.error == "invalid_grant"
        assert error.__cause__ is work.result


@pytest.mark.parametrize(
    "failure, words",
    [
        (RuntimeError("secret"), "authorization failed unexpectedly: RuntimeError"),
        (KeyboardInterrupt("secret"), "the login was given up"),
        (SystemExit("secret"), "the login was given up"),
    ],
)
def test_what_is_no_error_of_ours(
    flights: Flights, work: Work, failure: BaseException, words: str
) -> None:
    work.result = failure
    work.may_end.set()
    flight, _ = flights.join("key", NAME, work)
    with pytest.raises(type(failure)):
        flight.run()
    with pytest.raises(AuthorizationError) as caught:
        flight.wait(soon())
    assert str(caught.value) == words


def test_a_waiter_that_gives_up_does_not_stop_the_work(
    flights: Flights, work: Work
) -> None:
    flight, _ = flights.join("key", NAME, work)
    flight.start()
    with pytest.raises(RequestTimeout):
        flight.wait(Deadline.after(0.05))
    # The same thread comes again: there is nothing more to lead.
    again, lead = flights.join("key", NAME, work)
    assert again is flight and not lead
    work.may_end.set()
    assert flight.wait(soon()) == "done"
    assert work.times == 1


@pytest.fixture
def seen() -> Iterator[threading.Event]:
    """Return what is set when Ctrl-C has come."""
    event = threading.Event()

    def handle(number: int, frame: Any) -> None:
        event.set()
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, handle)
    yield event
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_in_a_waiter_does_not_stop_the_work(
    flights: Flights, work: Work, seen: threading.Event
) -> None:
    flight, _ = flights.join("key", NAME, work)
    flight.start()
    waiting = threading.Event()

    def interrupt() -> None:
        assert waiting.wait(10)
        # One that comes just before the wait begins does not end it.
        while not seen.is_set():
            os.kill(os.getpid(), signal.SIGINT)
            seen.wait(0.5)

    def is_closed() -> bool:
        waiting.set()
        return False

    thread = threading.Thread(target=interrupt)
    thread.start()
    with pytest.raises(KeyboardInterrupt):
        flight.wait(soon(), is_closed)
    thread.join(10)
    work.may_end.set()
    assert flight.wait(soon()) == "done"


def test_whoever_closes_his_client_waits_no_more(flights: Flights, work: Work) -> None:
    flight, _ = flights.join("key", NAME, work)
    flight.start()
    closed = threading.Event()
    asked = threading.Event()

    def is_closed() -> bool:
        asked.set()
        return closed.is_set()

    def close() -> None:
        asked.wait(10)
        closed.set()
        flights.wake()

    thread = threading.Thread(target=close)
    thread.start()
    with pytest.raises(ClientClosed):
        bounded(lambda: flight.wait(soon(), is_closed))
    thread.join(10)
    # A result that is there is no waiting.
    work.may_end.set()
    assert flight.wait(soon()) == "done"
    assert flight.wait(soon(), is_closed) == "done"


def test_one_after_another(flights: Flights) -> None:
    results = []
    for number in range(2):
        flight, lead = flights.join("key", NAME, lambda: number)
        assert lead
        results.append(flight.run())
    assert results == [0, 1]


def test_what_is_over_is_not_kept(flights: Flights) -> None:
    class Thing:
        def fail(self) -> None:
            raise TokenError("no")

    thing = Thing()
    gone = weakref.ref(thing)
    flight, _ = flights.join("key", NAME, thing.fail)
    with pytest.raises(TokenError):
        flight.run()
    del flight, thing
    gc.collect()
    assert gone() is None


def test_a_thread_that_cannot_be_started(
    flights: Flights, work: Work, monkeypatch: pytest.MonkeyPatch
) -> None:
    flight, _ = flights.join("key", NAME, work)

    def refuse(thread: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patch:
        patch.setattr(threading.Thread, "start", refuse)
        with pytest.raises(RuntimeError):
            flight.start()
    with pytest.raises(AuthorizationError):
        flight.wait(soon())
    assert flights.current("key") is None


def test_a_leader_that_was_interrupted_before_he_began(
    flights: Flights, work: Work
) -> None:
    flight, lead = flights.join("key", NAME, work)
    assert lead and flights.current("key") is None
    # To others it is under way.
    assert together(1, lambda: flights.current("key")) == [flight]
    assert together(1, lambda: flights.join("key", NAME, work)) == [(flight, False)]
    again, lead = flights.join("key", NAME, work)
    assert again is flight and lead
    again.start()
    work.may_end.set()
    assert flight.wait(soon()) == "done"


def test_all_who_waited_for_one_flight_get_the_same_next_one(flights: Flights) -> None:
    before, _ = flights.join("before", NAME, lambda: None)
    before.run()

    def deny() -> None:
        raise AuthorizationError("denied")

    flight, lead = flights.join("key", NAME, deny, after=before)
    assert lead
    with pytest.raises(AuthorizationError):
        flight.run()
    # One who is slow to come does not begin again.
    late, lead = flights.join("key", NAME, deny, after=before)
    assert late is flight and not lead
    # One who has found out anew does.
    afresh, _ = flights.join("before", NAME, lambda: None)
    afresh.run()
    other, lead = flights.join("key", NAME, deny, after=afresh)
    assert other is not flight and lead
    with pytest.raises(AuthorizationError):
        other.run()


def test_the_next_flight_may_be_under_way_already(flights: Flights) -> None:
    before, _ = flights.join("before", NAME, lambda: None)
    before.run()
    flight, _ = flights.join("key", NAME, lambda: "done")
    other = together(1, lambda: flights.join("key", NAME, lambda: "x", after=before))
    assert other == [(flight, False)]
    assert flight.run() == "done"


def test_work_that_waits_for_itself(flights: Flights) -> None:
    def work() -> Any:
        flight, lead = flights.join("key", NAME, work)
        assert not lead and flights.current("key") is flight
        return flight.wait(soon())

    flight, _ = flights.join("key", NAME, work)
    with pytest.raises(AuthorizationError, match="in the middle of a login"):
        flight.run()


def test_a_flight_that_nobody_joins(flights: Flights, work: Work) -> None:
    flight = flights.alone(NAME, work)
    flight.start()
    work.may_end.set()
    assert flight.wait(soon()) == "done"


def test_a_child_has_no_flights() -> None:
    script = """
        import os, threading, warnings
        from mcpsync.auth.flight import Flights

        warnings.simplefilter("ignore", DeprecationWarning)
        flights, begun, may_end = Flights(), threading.Event(), threading.Event()

        def work():
            begun.set()
            may_end.wait(20)

        flight, _ = flights.join("key", "work", work)
        flight.start()
        begun.wait(10)
        with flights._changed:
            child = os.fork()
            if child == 0:
                # Neither the lock nor the table is that of the parent.
                flights.wake()
                os._exit(0 if flights.current("key") is None else 1)
        assert os.waitpid(child, 0)[1] == 0
        assert flights.current("key") is flight
        may_end.set()
    """
    run_script(script)
