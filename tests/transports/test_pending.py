"""The table of exchanges that share one stream: who gets which message, and when."""

from __future__ import annotations

import functools
import random
import sys
import threading
import time
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, List, NamedTuple, Optional, Union

import pytest

from mcpsync._deadline import Deadline, Timeout
from mcpsync.exceptions import (
    ClientClosed,
    LocalProtocolError,
    MCPError,
    RequestCancelled,
    RequestTimeout,
    ServerExited,
)
from mcpsync.protocol.jsonrpc import (
    Message,
    Notification,
    Outgoing,
    Request,
    Response,
    encode,
    parse,
)
from mcpsync.transports._pending import PendingExchanges, QueuedExchange
from mcpsync.transports.base import Note

from ..fakes import bounded

Unsolicited = Union[Message, Note]


def outgoing(id: int, cancellation: str = "notify", method: str = "tools/call") -> Any:
    """Return a request as the legacy era makes it."""
    return Outgoing(
        id,
        method,
        encode(method, {}, id),
        progress_token=id,
        accepts_requests=True,
        cancellation=cancellation,
        notice=functools.partial(notice, id),
    )


def notice(id: int, reason: str) -> Outgoing:
    params = {"requestId": id, "reason": reason}
    return Outgoing(
        None, "notifications/cancelled", encode("notifications/cancelled", params)
    )


class Table(PendingExchanges):
    """A table that notes what it could give to nobody, and what it told the server."""

    def __init__(self, limit: int = 1000, **options: Any) -> None:
        self.rest: List[Unsolicited] = []
        self.told: List[Outgoing] = []
        super().__init__(limit, self.rest.append, "a server", **options)

    def begin(self, id: int, cancellation: str = "notify") -> QueuedExchange:
        return self.add(outgoing(id, cancellation), self.told.append)

    @property
    def empty(self) -> bool:
        return not self._by_id


@pytest.fixture
def table() -> Table:
    return Table()


def soon() -> Deadline:
    return Deadline.after(5)


@contextmanager
def running(target: Callable[[], None]) -> Iterator[threading.Thread]:
    """Run a function on another thread; fail if it does not end."""
    thread = threading.Thread(target=target, daemon=True)
    thread.start()
    yield thread
    thread.join(10)
    assert not thread.is_alive()


def until(condition: Callable[[], Any]) -> None:
    """Wait for something that another thread does without telling anybody."""
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.001)


def progress(token: Any, done: float = 1) -> Notification:
    return Notification(
        "notifications/progress", {"progressToken": token, "progress": done}
    )


def question(id: Any = "q") -> Request:
    return Request(id, "elicitation/create", {})


# --- answers ------------------------------------------------------------------------


def test_an_answer_goes_to_its_request(table: Table) -> None:
    first, second = table.begin(1), table.begin(2)
    table.route(Response(2, result="two"))
    table.route(Response(1, result="one"))
    assert first.receive(soon()) == Response(1, result="one")
    assert second.receive(soon()) == Response(2, result="two")


@pytest.mark.parametrize("id", [True, 1.0, "1", 10, -1, None])
def test_only_its_very_id_answers_a_request(table: Table, id: Any) -> None:
    exchange = table.begin(1)
    table.begin(2)
    table.route(Response(id, result="no"))
    table.route(Response(1, result="yes"))
    assert exchange.receive(soon()) == Response(1, result="yes")
    assert table.rest == []


def test_an_error_without_an_id_is_for_the_only_request_there_is(table: Table) -> None:
    exchange = table.begin(1)
    error = {"code": -32700, "message": "parse error"}
    table.route(Response(None, error=error))
    assert exchange.receive(soon()) == Response(None, error=error)


def test_an_error_without_an_id_is_nobodys_when_two_requests_wait(table: Table) -> None:
    exchanges = [table.begin(1), table.begin(2)]
    table.route(Response(None, error={"code": -32700, "message": "parse error"}))
    for exchange in exchanges:
        with pytest.raises(RequestTimeout):
            exchange.receive(Deadline.after(0.01))


def test_a_result_without_an_id_is_nobodys(table: Table) -> None:
    exchange = table.begin(1)
    table.route(Response(None, result={}))
    with pytest.raises(RequestTimeout):
        exchange.receive(Deadline.after(0.01))


@pytest.mark.parametrize("id", [7, "x", None])
def test_late_and_unknown_answers_are_dropped(table: Table, id: Any) -> None:
    with table.begin(7):
        pass
    table.route(Response(id, result={}))
    assert table.rest == []
    assert table.empty


def test_an_answer_wakes_the_thread_that_waits(table: Table) -> None:
    exchange = table.begin(1)

    def answer() -> None:
        until(lambda: exchange._waiting)
        table.route(Response(1, result="late"))

    with running(answer):
        assert exchange.receive(soon()) == Response(1, result="late")


def test_what_came_before_the_wait_needs_no_waking(table: Table) -> None:
    exchange = table.begin(1)
    table.route(progress(1))
    table.route(Response(1, result=None))
    assert exchange.receive(soon()) == progress(1)
    assert exchange.receive(soon()) == Response(1, result=None)


# --- notifications ------------------------------------------------------------------


@pytest.mark.parametrize("token", [1.0, True, "1", 2, None])
def test_progress_under_another_token_is_not_about_the_request(
    table: Table, token: Any
) -> None:
    exchange = table.begin(1)
    table.route(progress(token))
    assert table.rest == [progress(token)]
    table.route(progress(1))
    assert exchange.receive(soon()) == progress(1)


def test_a_subscriptions_events_go_to_its_request(table: Table) -> None:
    exchange = table.begin(5)
    meta = {"io.modelcontextprotocol/subscriptionId": 5}
    event = Notification("notifications/tools/list_changed", {"_meta": meta})
    table.route(event)
    assert exchange.receive(soon()) == event


def test_other_notifications_are_nobodys_in_particular(table: Table) -> None:
    table.begin(1)
    said = [
        Notification("notifications/message", {"level": "info", "data": 1}),
        Notification("notifications/tools/list_changed", {"_meta": "odd"}),
    ]
    for message in said:
        table.route(message)
    assert table.rest == said


def test_notifications_nobody_reads_are_bounded_and_the_oldest_goes() -> None:
    table = Table(queued=10)
    exchange = table.begin(1)
    for number in range(1000):
        table.route(progress(1, number))
    table.route(Response(1, result="done"))
    read: List[Message] = []
    while not isinstance(read[-1] if read else None, Response):
        read.append(exchange.receive(soon()))
    assert read[:-1] == [progress(1, number) for number in range(990, 1000)]


def test_a_question_is_never_dropped_for_notifications() -> None:
    table = Table(queued=3)
    exchange = table.begin(1)
    table.route(question())
    for number in range(20):
        table.route(progress(1, number))
    assert exchange.receive(soon()) == question()
    assert exchange.receive(soon()) == progress(1, 18)


# --- questions ----------------------------------------------------------------------


class Waiting(NamedTuple):
    """An exchange of a case: which thread began it, and what that thread does now."""

    id: int
    thread: str
    state: str


class Case(NamedTuple):
    """Who waits, and the id of the request whose thread gets the question."""

    what: str
    waiting: List[Waiting]
    taker: Optional[int]


CASES = [
    Case("nobody waits", [], None),
    Case("one thread waits", [Waiting(1, "a", "waits")], 1),
    Case(
        "the innermost of one thread",
        [Waiting(1, "a", "handles"), Waiting(2, "a", "waits")],
        2,
    ),
    Case(
        "the innermost of three",
        [
            Waiting(1, "a", "handles"),
            Waiting(2, "a", "handles"),
            Waiting(3, "a", "waits"),
        ],
        3,
    ),
    Case(
        "two threads wait", [Waiting(1, "a", "waits"), Waiting(2, "b", "waits")], None
    ),
    Case(
        "one of two threads runs a handler",
        [Waiting(1, "a", "handles"), Waiting(2, "b", "waits")],
        2,
    ),
    Case("the only thread runs a handler", [Waiting(1, "a", "handles")], None),
    Case("the only one has its answer", [Waiting(1, "a", "answered")], None),
    Case(
        "one of two has its answer",
        [Waiting(1, "a", "answered"), Waiting(2, "b", "waits")],
        2,
    ),
    Case("the only one has failed", [Waiting(1, "a", "failed")], None),
    Case("the only one is cancelled", [Waiting(1, "a", "cancelled")], None),
    Case("the only one has an unread question", [Waiting(1, "a", "asked")], None),
    Case("the only one has left", [Waiting(1, "a", "left")], None),
]


def bring_into(table: Table, exchange: QueuedExchange, state: str) -> None:
    """Let what leads to a state happen to an exchange."""
    if state == "handles":
        exchange.put(question("earlier"))
        exchange.receive(soon())
    elif state == "answered":
        table.route(Response(exchange.id, result={}))
    elif state == "failed":
        table.fail_one(exchange.id, lambda sent: ServerExited("gone"))
    elif state == "cancelled":
        exchange.cancel("cancelled by the caller")
    elif state == "asked":
        exchange.put(question("earlier"))
    elif state == "left":
        exchange.close()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.what)
def test_who_gets_a_question(table: Table, case: Case) -> None:
    idents = {"a": 1, "b": 2}
    exchanges: Dict[int, QueuedExchange] = {}
    for id, thread, state in case.waiting:
        exchange = exchanges[id] = table.begin(id)
        exchange.thread = idents[thread]
        bring_into(table, exchange, state)
    table.route(question())
    assert table.rest == ([] if case.taker else [question()])
    if case.taker:
        assert exchanges[case.taker].receive(soon()) == question()


def test_a_ping_is_nobodys_in_particular(table: Table) -> None:
    table.begin(1)
    ping = Request("p", "ping", {})
    table.route(ping)
    assert table.rest == [ping]


def test_the_exchange_takes_questions_again_after_its_handler(table: Table) -> None:
    exchange = table.begin(1)
    table.route(question("first"))
    assert exchange.receive(soon()) == question("first")
    table.route(question("meanwhile"))
    assert table.rest == [question("meanwhile")]
    with pytest.raises(RequestTimeout):
        exchange.receive(Deadline.after(0.01))
    table.route(question("second"))
    assert exchange.receive(soon()) == question("second")
    assert len(table.rest) == 1


def test_leaving_an_exchange_routes_its_unread_question_again(table: Table) -> None:
    with table.begin(1) as exchange:
        table.route(progress(1))
        table.route(question())
        assert table.rest == []
        assert exchange.receive(soon()) == progress(1)
    assert table.rest == [question()]
    assert table.empty


def test_a_flood_of_questions_does_not_pile_up_in_one_exchange(table: Table) -> None:
    exchange = table.begin(1)
    for number in range(100):
        table.route(question(number))
    assert exchange.receive(soon()) == question(0)
    assert table.rest == [question(number) for number in range(1, 100)]


# --- deadlines and cancelling -------------------------------------------------------


def test_a_timeout_names_the_method_and_the_clock(table: Table) -> None:
    exchange = table.begin(1)
    with pytest.raises(RequestTimeout) as caught:
        exchange.receive(Deadline.after(0.02))
    assert (caught.value.kind, caught.value.method) == ("total", "tools/call")


def test_the_exchange_outlives_a_wait_that_timed_out(table: Table) -> None:
    exchange = table.begin(1)
    with pytest.raises(RequestTimeout):
        exchange.receive(Deadline.after(0.01))
    table.route(Response(1, result="late"))
    assert exchange.receive(soon()) == Response(1, result="late")


def test_a_timeout_tells_silence_from_slowness(table: Table) -> None:
    exchange = table.begin(1)
    with pytest.raises(RequestTimeout) as caught:
        exchange.receive(Deadline(Timeout(idle=0.02, total=60)))
    assert caught.value.kind == "idle"


def test_cancelling_tells_the_server_and_wakes_the_caller(table: Table) -> None:
    exchange = table.begin(1)

    def cancel() -> None:
        until(lambda: exchange._waiting)
        exchange.cancel("no longer wanted")

    with running(cancel):
        with pytest.raises(RequestCancelled):
            exchange.receive(soon())
    (told,) = table.told
    assert b'"requestId":1' in told.body and b"no longer wanted" in told.body


@pytest.mark.parametrize(
    "cancellation, told", [("notify", 1), ("close", 1), ("never", 0)]
)
def test_what_the_server_is_told_depends_on_the_request(
    table: Table, cancellation: str, told: int
) -> None:
    exchange = table.begin(1, cancellation)
    exchange.cancel("once")
    exchange.cancel("twice")
    assert len(table.told) == told
    with pytest.raises(RequestCancelled):
        exchange.receive(soon())


def test_an_answered_call_cannot_be_cancelled(table: Table) -> None:
    exchange = table.begin(1)
    table.route(Response(1, result="there"))
    exchange.cancel("too late")
    assert table.told == []
    assert exchange.receive(soon()) == Response(1, result="there")


def test_a_cancelled_call_runs_no_handler_any_more(table: Table) -> None:
    exchange = table.begin(1)
    table.route(question())
    exchange.cancel("no longer wanted")
    with pytest.raises(RequestCancelled):
        exchange.receive(soon())


# --- failures -----------------------------------------------------------------------


def test_a_failure_of_one_request_leaves_the_others(table: Table) -> None:
    first, second = table.begin(1), table.begin(2)
    assert table.fail_one(1, lambda sent: LocalProtocolError("too large"))
    table.route(Response(2, result="fine"))
    with pytest.raises(LocalProtocolError):
        first.receive(soon())
    assert second.receive(soon()) == Response(2, result="fine")


@pytest.mark.parametrize("id", [True, 1.0, "1", 2, [1]])
def test_only_its_very_id_fails_a_request(table: Table, id: Any) -> None:
    table.begin(1)
    table.begin(3)
    assert not table.fail_one(id, lambda sent: LocalProtocolError("no"))


def test_each_waiter_gets_an_exception_of_its_own(table: Table) -> None:
    exchanges = [table.begin(1), table.begin(2)]
    exchanges[0].was_sent = lambda: True
    exchanges[1].was_sent = lambda: False
    table.fail_all(lambda sent: ServerExited("gone", sent=sent))
    raised: List[MCPError] = []
    for exchange in exchanges:
        with pytest.raises(ServerExited) as caught:
            exchange.receive(soon())
        raised.append(caught.value)
    assert raised[0] is not raised[1]
    assert [getattr(error, "sent") for error in raised] == [True, False]


def test_an_answer_that_came_before_the_end_is_still_an_answer(table: Table) -> None:
    exchange = table.begin(1)
    table.route(Response(1, result="last words"))
    table.fail_all(lambda sent: ServerExited("gone"))
    assert exchange.receive(soon()) == Response(1, result="last words")


def test_an_answer_that_comes_after_the_end_is_none(table: Table) -> None:
    exchange = table.begin(1)
    table.fail_all(lambda sent: ClientClosed("closed"))
    table.route(Response(1, result="too late"))
    with pytest.raises(ClientClosed):
        exchange.receive(soon())


def test_nothing_can_be_begun_after_the_end(table: Table) -> None:
    table.fail_all(lambda sent: ServerExited("gone", sent=sent))
    with pytest.raises(ServerExited) as caught:
        table.begin(1)
    assert caught.value.sent is False
    assert table.empty


def test_unsent_requests_can_be_failed_alone(table: Table) -> None:
    sent, unsent = table.begin(1), table.begin(2)
    sent.was_written = lambda: True
    unsent.was_sent = unsent.was_written = lambda: False
    table.fail_unwritten(lambda sent: ServerExited("deaf", sent=sent))
    with pytest.raises(ServerExited) as caught:
        unsent.receive(soon())
    assert caught.value.sent is False
    with pytest.raises(ServerExited):
        table.begin(3)
    table.route(Response(1, result="fine"))
    assert sent.receive(soon()) == Response(1, result="fine")


def test_more_requests_than_the_limit_are_refused() -> None:
    table = Table(limit=2)
    with table.begin(1), table.begin(2):
        with pytest.raises(LocalProtocolError):
            table.begin(3)
    with table.begin(4):
        pass


# --- one exchange for two requests --------------------------------------------------


def test_an_adopted_exchange_delivers_what_it_has_and_gets(table: Table) -> None:
    first, late = table.begin(2), table.begin(1)
    table.route(progress(1))
    first.adopt(late)
    table.route(Response(1, result="late"))
    assert first.receive(soon()) == progress(1)
    assert first.receive(soon()) == Response(1, result="late")
    table.route(Response(2, result="own"))
    assert first.receive(soon()) == Response(2, result="own")


# --- forks and re-entrance ----------------------------------------------------------


def test_a_forked_child_waits_for_nothing_of_its_parent(table: Table) -> None:
    exchange = table.begin(1)
    table.lock.acquire()
    table.after_fork()
    with pytest.raises(ClientClosed):
        bounded(lambda: exchange.receive(soon()))
    with pytest.raises(ClientClosed):
        bounded(lambda: table.begin(2))


def test_a_signal_handler_may_use_the_table_it_interrupts(table: Table) -> None:
    def interrupted() -> Response:
        # What a signal handler or a finalizer does that runs in the middle.
        with table.lock:
            inner = table.begin(2)
            table.route(Response(2, result="inner"))
            message = inner.receive(soon())
            inner.close()
            assert isinstance(message, Response)
            return message

    assert bounded(interrupted) == Response(2, result="inner")


# --- races --------------------------------------------------------------------------


@pytest.fixture
def nervous() -> Iterator[None]:
    """Let the interpreter switch threads as often as it can."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("nervous")
def test_an_answer_that_races_a_timeout_is_lost_or_found_but_never_torn() -> None:
    table = Table()
    found = 0
    for id in range(1, 400):
        with table.begin(id) as exchange:
            answer = functools.partial(table.route, Response(id, result=id))
            with running(answer):
                try:
                    message = exchange.receive(Deadline.after(0.0003))
                except RequestTimeout:
                    # It may still come, and be found by whoever looks again.
                    message = exchange.receive(soon())
                assert message == Response(id, result=id)
                found += 1
    assert found == 399
    assert table.empty


@pytest.mark.usefixtures("nervous")
def test_a_cancellation_that_races_an_answer_has_one_outcome() -> None:
    table = Table()
    outcomes = {"answer": 0, "cancelled": 0}
    for id in range(1, 400):
        before = len(table.told)
        with table.begin(id) as exchange:
            cancel = functools.partial(exchange.cancel, "race")
            answer = functools.partial(table.route, Response(id, result=id))
            first, second = (cancel, answer) if id % 2 else (answer, cancel)
            with running(first), running(second):
                try:
                    assert exchange.receive(soon()) == Response(id, result=id)
                    outcome = "answer"
                except RequestCancelled:
                    outcome = "cancelled"
        outcomes[outcome] += 1
        # The server is told exactly when the caller was told so.
        assert len(table.told) - before == (outcome == "cancelled")
    assert table.empty
    assert min(outcomes.values()) > 0


@pytest.mark.usefixtures("nervous")
def test_a_question_that_races_its_callers_leaving_is_never_lost() -> None:
    table = Table()
    handled = 0
    for id in range(1, 400):
        with running(functools.partial(table.route, question(id))):
            with table.begin(id) as exchange:
                try:
                    exchange.receive(Deadline.after(0.0001))
                    handled += 1
                except RequestTimeout:
                    pass
    assert handled + len(table.rest) == 399
    assert table.empty


def test_6400_answers_out_of_order_reach_their_64_callers() -> None:
    table = Table(limit=64)
    lock = threading.Lock()
    asked: List[int] = []
    ids = iter(range(1, 64 * 100 + 1))
    wrong: List[Any] = []
    done = threading.Event()
    chance = random.Random(7)

    def serve() -> None:
        """Answer what there is, in no order, with copies and strangers in between."""
        while not done.is_set():
            with lock:
                batch, asked[:] = list(asked), []
            chance.shuffle(batch)
            for id in batch:
                table.route(parse({"jsonrpc": "2.0", "id": id + 10**6, "result": 0}))
                table.route(parse({"jsonrpc": "2.0", "id": id, "result": id}))
                table.route(parse({"jsonrpc": "2.0", "id": id, "result": "copy"}))
            time.sleep(0)

    def call() -> None:
        for _ in range(100):
            with lock:
                id = next(ids)
            with table.begin(id) as exchange:
                with lock:
                    asked.append(id)
                answer = exchange.receive(Deadline.after(30))
            if answer != Response(id, result=id):
                wrong.append((id, answer))

    callers = [threading.Thread(target=call, daemon=True) for _ in range(64)]
    with running(serve):
        for caller in callers:
            caller.start()
        for caller in callers:
            caller.join(30)
        done.set()
    assert wrong == []
    assert not any(caller.is_alive() for caller in callers)
    assert table.empty
    assert table.rest == []
