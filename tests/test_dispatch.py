"""What belongs to no call: one ordered worker, and a few threads for questions."""

from __future__ import annotations

import json
import logging
import queue
import sys
import threading
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

import pytest

from mcpsync import Limits
from mcpsync._dispatch import Dispatcher, Workers
from mcpsync._questions import Questions
from mcpsync.exceptions import ConnectionLost
from mcpsync.protocol.eras import ClientFacts, LegacyEra
from mcpsync.protocol.jsonrpc import Notification, Request
from mcpsync.transports.base import Note
from mcpsync.types import ElicitRequest, LoggingMessage, ServerNotification

ERA = LegacyEra("2025-11-25", ClientFacts({"name": "test", "version": "1"}))
SCHEMA = {"message": "Well?", "requestedSchema": {"type": "object", "properties": {}}}


class Wire:
    """Keeps what is sent; a dispatcher's way to the server."""

    def __init__(self) -> None:
        self.sent: "queue.Queue[Mapping[str, Any]]" = queue.Queue()
        self.failure: Optional[Exception] = None

    def __call__(self, outgoing: Any, deadline: Any) -> None:
        if self.failure is not None:
            raise self.failure
        self.sent.put(json.loads(outgoing.body))

    def next(self) -> Mapping[str, Any]:
        return self.sent.get(timeout=5)


class Bench:
    """A dispatcher that is connected."""

    def __init__(
        self,
        on_log: Any = None,
        on_notification: Any = None,
        on_elicitation: Any = None,
        **limits: Any,
    ) -> None:
        self.wire = Wire()
        questions = Questions("bench", on_elicitation, None, None)
        self.dispatcher = Dispatcher(
            "bench", questions, Limits(**limits), on_log, on_notification
        )
        self.take = self.dispatcher.take
        self.connect()

    def connect(self) -> None:
        self.dispatcher.connecting(self.wire)
        self.dispatcher.shaking_hands()
        self.dispatcher.connected(ERA)

    def ask(self, identifier: Any) -> None:
        self.take(Request(identifier, "elicitation/create", SCHEMA))


@pytest.fixture
def bench() -> Iterator[Callable[..., Bench]]:
    benches: List[Bench] = []

    def make(**options: Any) -> Bench:
        benches.append(Bench(**options))
        return benches[-1]

    yield make
    for one in benches:
        one.dispatcher.close()


def numbered(number: int) -> Notification:
    return Notification("notifications/x", {"n": number})


class Inbox:
    """A callback that keeps what it is told."""

    def __init__(self) -> None:
        self.told: "queue.Queue[Any]" = queue.Queue()

    def __call__(self, message: Any) -> None:
        self.told.put(message)

    def next(self) -> Any:
        return self.told.get(timeout=5)


# --- notifications ----------------------------------------------------------------


def test_notifications_in_order(bench: Any) -> None:
    inbox = Inbox()
    made = bench(on_notification=inbox)
    for number in range(500):
        made.take(numbered(number))
    told = [inbox.next() for _ in range(500)]
    assert [one.params["n"] for one in told] == list(range(500))
    assert isinstance(told[0], ServerNotification)
    assert told[0].method == "notifications/x"


def test_taking_never_waits_for_a_callback(bench: Any) -> None:
    begun, release = threading.Event(), threading.Event()
    inbox = Inbox()

    def slow(notification: ServerNotification) -> None:
        begun.set()
        release.wait(5)
        inbox(notification)

    made = bench(on_notification=slow)
    made.take(numbered(0))
    assert begun.wait(5)
    made.take(numbered(1))
    made.take(Request("p", "ping", {}))
    assert made.wire.next() == {"jsonrpc": "2.0", "id": "p", "result": {}}
    assert inbox.told.empty()
    release.set()
    assert [inbox.next().params["n"] for _ in range(2)] == [0, 1]


def test_too_many_at_once(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    begun, release = threading.Event(), threading.Event()
    inbox = Inbox()

    def slow(notification: ServerNotification) -> None:
        begun.set()
        release.wait(5)
        inbox(notification)

    made = bench(on_notification=slow, notifications_queued=3)
    made.take(numbered(0))
    assert begun.wait(5)
    for number in range(1, 11):
        made.take(numbered(number))
    release.set()
    # The oldest of those that waited are gone; it is said, and said once.
    assert [inbox.next().params["n"] for _ in range(4)] == [0, 8, 9, 10]
    warnings = [one for one in caplog.records if one.levelno == logging.WARNING]
    assert len(warnings) == 1 and "faster than" in warnings[0].getMessage()


@pytest.mark.parametrize("failure", [ValueError("a bug"), SystemExit(1)])
def test_a_callback_that_fails(
    bench: Any, failure: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    inbox = Inbox()

    def fragile(notification: ServerNotification) -> None:
        if notification.params["n"] == 0:
            raise failure
        inbox(notification)

    made = bench(on_notification=fragile)
    for number in range(3):
        made.take(numbered(number))
    # Even sys.exit() in a callback ends neither the worker nor what is queued.
    assert [inbox.next().params["n"] for _ in range(2)] == [1, 2]
    made.take(numbered(3))
    assert inbox.next().params["n"] == 3


def test_what_came_too_early(bench: Any) -> None:
    inbox = Inbox()
    made = bench(on_notification=inbox)
    made.dispatcher.connecting(made.wire)
    made.take(numbered(1))
    made.take(numbered(2))
    made.dispatcher.shaking_hands()
    made.take(numbered(3))
    assert inbox.told.empty()
    made.dispatcher.connected(ERA)
    assert [inbox.next().params["n"] for _ in range(3)] == [1, 2, 3]


def test_progress_of_a_request_that_is_over(bench: Any) -> None:
    inbox = Inbox()
    made = bench(on_notification=inbox)
    made.take(Notification("notifications/progress", {"progressToken": 1}))
    made.take(numbered(1))
    assert inbox.next().params == {"n": 1}


def test_after_the_end(bench: Any) -> None:
    begun, release = threading.Event(), threading.Event()
    told: List[int] = []

    def slow(notification: ServerNotification) -> None:
        told.append(notification.params["n"])
        begun.set()
        release.wait(5)

    made = bench(on_notification=slow)
    for number in range(3):
        made.take(numbered(number))
    assert begun.wait(5)
    made.dispatcher.close()
    made.take(numbered(3))
    made.take(Request("p", "ping", {}))
    release.set()
    (worker,) = [t for t in threading.enumerate() if "notifications-bench" in t.name]
    worker.join(5)
    assert told == [0] and made.wire.sent.empty()


# --- log messages -----------------------------------------------------------------


@pytest.mark.parametrize(
    "level, expected",
    [
        ("debug", logging.DEBUG),
        ("info", logging.INFO),
        ("notice", logging.INFO),
        ("warning", logging.WARNING),
        ("error", logging.ERROR),
        ("critical", logging.CRITICAL),
        ("alert", logging.CRITICAL),
        ("emergency", logging.CRITICAL),
        ("unheard of", logging.INFO),
    ],
)
def test_the_levels_of_a_server_s_log(
    bench: Any, caplog: pytest.LogCaptureFixture, level: str, expected: int
) -> None:
    caplog.set_level(logging.DEBUG, "mcpsync.server.bench")
    made = bench()
    params = {"level": level, "data": {"a": "\x1b[1m"}}
    made.dispatcher.notify(Notification("notifications/message", params))
    (record,) = caplog.records
    assert (record.name, record.levelno) == ("mcpsync.server.bench", expected)
    assert "\x1b" not in record.getMessage()


def test_log_messages_are_for_the_log_handler_alone(bench: Any) -> None:
    logs, others = Inbox(), Inbox()
    made = bench(on_log=logs, on_notification=others)
    params = {"level": "info", "data": [1]}
    made.take(Notification("notifications/message", params))
    made.take(numbered(1))
    message = logs.next()
    assert isinstance(message, LoggingMessage) and message.data == [1]
    assert others.next().method == "notifications/x" and others.told.empty()


@pytest.mark.parametrize("params", [{}, {"level": 5, "data": 1}, {"level": "info"}])
def test_a_malformed_log_message(bench: Any, params: Dict[str, Any]) -> None:
    logs, others = Inbox(), Inbox()
    made = bench(on_log=logs, on_notification=others)
    made.take(Notification("notifications/message", params))
    made.take(numbered(1))
    assert others.next().params == {"n": 1}
    assert logs.told.empty()


def test_what_the_transport_notes(bench: Any, caplog: pytest.LogCaptureFixture) -> None:
    inbox = Inbox()
    made = bench(on_notification=inbox)
    made.take(Note(logging.WARNING, "the server prints junk"))
    made.take(numbered(1))
    inbox.next()
    assert "the server prints junk" in caplog.text


# --- questions --------------------------------------------------------------------


def test_so_many_questions_and_no_more(bench: Any) -> None:
    inside, release = threading.Semaphore(0), threading.Event()
    lock, running, most = threading.Lock(), [0], [0]

    def handler(request: ElicitRequest) -> Dict[str, Any]:
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        inside.release()
        release.wait(5)
        with lock:
            running[0] -= 1
        return {}

    made = bench(on_elicitation=handler, questions_running=2, questions_queued=3)
    for number in range(2):
        made.ask(number)
        assert inside.acquire(timeout=5)
    for number in range(2, 7):
        made.ask(number)
    refused = sorted((made.wire.next() for _ in range(2)), key=lambda one: one["id"])
    assert [one["id"] for one in refused] == [5, 6]
    assert {one["error"]["code"] for one in refused} == {-32603}
    release.set()
    answers = [made.wire.next() for _ in range(5)]
    assert sorted(one["id"] for one in answers) == [0, 1, 2, 3, 4]
    assert all(one["result"]["action"] == "accept" for one in answers)
    assert most == [2]


def test_the_limits_are_eight_and_sixty_four() -> None:
    assert (Limits().questions_running, Limits().questions_queued) == (8, 64)


def test_a_handler_that_leaves(bench: Any) -> None:
    def handler(request: ElicitRequest) -> Dict[str, Any]:
        if leave:
            leave.pop()
            sys.exit(1)
        return {}

    leave = [True] * 3
    made = bench(on_elicitation=handler, questions_running=1)
    for number in range(4):
        made.ask(number)
    # The server gets its answer, and the thread goes on.
    answers = [made.wire.next() for _ in range(4)]
    assert [one["id"] for one in answers] == [0, 1, 2, 3]
    assert [one["error"]["code"] for one in answers[:3]] == [-32603] * 3
    assert answers[3]["result"]["action"] == "accept"


def test_questions_before_the_connection_is_made(bench: Any) -> None:
    asked: List[Any] = []
    made = bench(on_elicitation=lambda request: asked.append(request))
    made.dispatcher.connecting(made.wire)
    made.ask("early")
    # Before the handshake is on the wire nothing is answered at all.
    made.take(Request("p1", "ping", {}))
    made.dispatcher.shaking_hands()
    made.ask("still early")
    made.take(Request("p2", "ping", {}))
    assert made.wire.next()["id"] == "p2"
    made.dispatcher.connected(ERA)
    made.ask("now")
    assert made.wire.next()["id"] == "now"
    assert len(asked) == 1 and made.wire.sent.empty()


def test_an_answer_that_cannot_be_sent(
    bench: Any, caplog: pytest.LogCaptureFixture
) -> None:
    made = bench(on_elicitation=lambda request: {})
    made.wire.failure = ConnectionLost("gone")
    made.take(Request("p", "ping", {}))
    assert "an answer to server 'bench' was lost" in caplog.text


# --- workers ----------------------------------------------------------------------


def test_threads_live_while_there_is_work() -> None:
    workers = Workers("mcpsync-test-workers", 3)
    together = threading.Barrier(4)
    for _ in range(3):
        assert workers.submit(lambda: together.wait(5) and None, 10)
    together.wait(5)
    threads = [t for t in threading.enumerate() if t.name == "mcpsync-test-workers"]
    for thread in threads:
        assert thread.daemon
        thread.join(5)
        assert not thread.is_alive()
    # And come back when there is more.
    done = threading.Event()
    workers.submit(done.set, 10)
    assert done.wait(5)


def test_a_full_queue() -> None:
    workers = Workers("mcpsync-test-workers", 1)
    begun, release = threading.Event(), threading.Event()
    ran: List[int] = []

    def first() -> None:
        begun.set()
        release.wait(5)

    workers.submit(first, 2)
    assert begun.wait(5)
    jobs = [lambda n=n: ran.append(n) for n in range(4)]
    assert workers.submit(jobs[0], 2) and workers.submit(jobs[1], 2)
    assert not workers.submit(jobs[2], 2)
    assert not workers.submit(jobs[3], 2, drop_oldest=True)
    last = threading.Event()
    release.set()
    workers.submit(last.set, 10)
    assert last.wait(5) and ran == [1, 3]


def test_what_is_cleared_never_runs() -> None:
    workers = Workers("mcpsync-test-workers", 1)
    begun, release, ran = threading.Event(), threading.Event(), threading.Event()

    def first() -> None:
        begun.set()
        release.wait(5)

    workers.submit(first, 10)
    assert begun.wait(5)
    workers.submit(ran.set, 10)
    workers.clear()
    release.set()
    (thread,) = [t for t in threading.enumerate() if t.name == "mcpsync-test-workers"]
    thread.join(5)
    assert not ran.is_set()
