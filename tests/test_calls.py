"""Calls on threads of their own: PendingCall and map_tool."""

from __future__ import annotations

import concurrent.futures
import contextvars
import logging
import threading
from typing import Any, Callable, Dict, Iterator, List, Mapping

import pytest

import mcpsync

from .fakes.scripted_memory import LEGACY, NO_ANSWER, Fault, Incoming, scripted

colour = contextvars.ContextVar("colour", default="none")


def number_of(incoming: Incoming) -> int:
    number: int = incoming.params["arguments"]["n"]
    return number


def echo(incoming: Incoming) -> Dict[str, Any]:
    return {"content": [], "structuredContent": {"n": number_of(incoming)}}


def numbers(count: int) -> Iterator[Mapping[str, Any]]:
    return ({"n": number} for number in range(count))


def ignoring(incoming: Incoming) -> Any:
    """Leave the call to whoever cancels it."""
    return NO_ANSWER


# --- PendingCall ------------------------------------------------------------------


def test_a_pending_call_is_a_future() -> None:
    gate = threading.Event()

    def call(incoming: Incoming) -> Dict[str, Any]:
        incoming.hold(gate)
        return echo(incoming)

    with scripted({"tools/call": call}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            pending = client.start_call("x", {"n": 1})
            assert isinstance(pending, concurrent.futures.Future)
            assert isinstance(pending, mcpsync.PendingCall) and pending.tool == "x"
            assert repr(pending) == "<PendingCall of 'x', running>"
            assert not pending.done() and not pending.cancelled()
            told: List[Any] = []
            pending.add_done_callback(told.append)
            gate.set()
            done, waiting = concurrent.futures.wait([pending], timeout=5)
            assert (done, waiting) == ({pending}, set())
            assert pending.result().data == {"n": 1}
            assert pending.exception() is None
            assert repr(pending) == "<PendingCall of 'x', done>"
    assert told == [pending]


def test_as_completed() -> None:
    with scripted({"tools/call": echo}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            calls = [client.start_call("x", arguments) for arguments in numbers(5)]
            done = concurrent.futures.as_completed(calls, timeout=5)
            assert sorted(one.result().data["n"] for one in done) == [0, 1, 2, 3, 4]


def test_waiting_too_short_cancels_nothing() -> None:
    gate = threading.Event()

    def call(incoming: Incoming) -> Dict[str, Any]:
        incoming.hold(gate)
        return echo(incoming)

    with scripted({"tools/call": call}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            pending = client.start_call("x", {"n": 1})
            with pytest.raises(concurrent.futures.TimeoutError):
                pending.result(timeout=0.02)
            assert not pending.done()
            gate.set()
            assert pending.result(timeout=5).data == {"n": 1}
            assert server.of("notifications/cancelled") == []


def test_failures_are_raised_by_result() -> None:
    def call(incoming: Incoming) -> Any:
        return NO_ANSWER if incoming.params["name"] == "slow" else Fault(-32603, "oh")

    with scripted({"tools/call": call}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            pending = client.start_call("x")
            with pytest.raises(mcpsync.InternalError, match="oh") as caught:
                pending.result(timeout=5)
            assert caught.value.server == "scripted"
            assert pending.exception() is caught.value
            with pytest.raises(mcpsync.InvalidArguments):
                client.start_call("x", {"n": {1}}).result(timeout=5)
            with pytest.raises(mcpsync.RequestTimeout):
                client.start_call("slow", timeout=0.05).result(timeout=5)


@pytest.mark.parametrize("version", ["2026-07-28", LEGACY])
def test_cancelling(version: str) -> None:
    with scripted({"tools/call": ignoring}, version=version) as server:
        with mcpsync.connect(server.transport, timeout=10) as client:
            pending = client.start_call("x")
            (sent,) = server.await_messages("tools/call")
            assert pending.cancel() and pending.cancelled()
            with pytest.raises(mcpsync.RequestCancelled):
                pending.result()
            (notice,) = server.await_messages("notifications/cancelled")
            assert notice["params"]["requestId"] == sent["id"]
            # Again, and the server hears of it but once.
            assert pending.cancel()
            assert pending in concurrent.futures.wait([pending], timeout=5).done
            assert len(server.of("notifications/cancelled")) == 1


def test_cancelling_what_is_done() -> None:
    with scripted({"tools/call": echo}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            pending = client.start_call("x", {"n": 1})
            pending.result(timeout=5)
            assert not pending.cancel() and not pending.cancelled()
            assert pending.result().data == {"n": 1}
            assert server.of("notifications/cancelled") == []


class Gate:
    """A hook that holds calls up before anything is sent."""

    def __init__(self) -> None:
        self.reached = threading.Event()
        self.opened = threading.Event()

    def before_call(self, tool: str, arguments: Mapping[str, Any]) -> None:
        self.reached.set()
        self.opened.wait(5)


def test_cancelling_before_anything_is_sent() -> None:
    gate = Gate()
    with scripted({"tools/call": echo}) as server:
        with mcpsync.connect(server.transport, hooks=[gate], timeout=5) as client:
            pending = client.start_call("x", {"n": 1})
            assert gate.reached.wait(5)
            assert pending.cancel()
            gate.opened.set()
            with pytest.raises(mcpsync.RequestCancelled):
                pending.result(timeout=5)
            concurrent.futures.wait([pending], timeout=5)
            assert server.of("tools/call") == []
            assert server.of("notifications/cancelled") == []


def test_the_answer_and_the_cancellation_at_once() -> None:
    ready = threading.Barrier(2)

    def call(incoming: Incoming) -> Dict[str, Any]:
        ready.wait(5)
        return echo(incoming)

    with scripted({"tools/call": call}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            for number in range(100):
                pending = client.start_call("x", {"n": number})
                ready.wait(5)
                # Whoever comes first, both sides see the same.
                if pending.cancel():
                    with pytest.raises(mcpsync.RequestCancelled):
                        pending.result(timeout=5)
                else:
                    assert pending.result(timeout=5).data == {"n": number}


def test_the_context_of_the_caller() -> None:
    seen: List[str] = []

    class Witness:
        def before_call(self, tool: str, arguments: Mapping[str, Any]) -> None:
            seen.append(colour.get())

    with scripted({"tools/call": echo}) as server:
        with mcpsync.connect(server.transport, hooks=[Witness()]) as client:
            token = colour.set("red")
            pending = client.start_call("x", {"n": 1})
            colour.reset(token)
            pending.result(timeout=5)
    assert seen == ["red"]


def test_progress_on_the_call_s_own_thread() -> None:
    def call(incoming: Incoming) -> Dict[str, Any]:
        incoming.progress(1)
        return echo(incoming)

    threads: List[threading.Thread] = []

    def on_progress(*args: object) -> None:
        threads.append(threading.current_thread())

    with scripted({"tools/call": call}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            client.start_call("x", {"n": 1}, on_progress=on_progress).result(timeout=5)
    (thread,) = threads
    assert thread.name == "mcpsync-call-scripted" and thread.daemon


def asking(incoming: Incoming) -> Any:
    """Ask the user when called "outer", and never answer anything else."""
    if incoming.params["name"] != "outer":
        return NO_ANSWER
    if "inputResponses" in incoming.params:
        return {"content": []}
    schema = {"type": "object", "properties": {}}
    params = {"message": "Well?", "requestedSchema": schema}
    request = {"method": "elicitation/create", "params": params}
    return {"resultType": "input_required", "inputRequests": {"q": request}}


@pytest.mark.parametrize("how", ["call_tool", "start_call"])
def test_what_a_handler_calls_is_cancelled_with_its_call(how: str) -> None:
    ended: List[BaseException] = []
    over = threading.Event()

    def handler(request: Any) -> None:
        try:
            if how == "call_tool":
                client.call_tool("inner")
            else:
                client.start_call("inner").result(timeout=5)
        except mcpsync.RequestCancelled as error:
            ended.append(error)
            assert request.cancelled.is_set()
            raise
        finally:
            over.set()

    with scripted({"tools/call": asking}) as server:
        with mcpsync.connect(
            server.transport, on_elicitation=handler, timeout=10
        ) as client:
            pending = client.start_call("outer")
            server.await_messages("tools/call", 2)
            assert pending.cancel()
            assert over.wait(5) and len(ended) == 1
            server.await_messages("notifications/cancelled", 1)
            # The outer call was waiting for its handler: the server had answered it.
            (notice,) = server.of("notifications/cancelled")
            inner = server.of("tools/call")[1]
            assert notice["params"]["requestId"] == inner["id"]
            with pytest.raises(mcpsync.RequestCancelled):
                pending.result(timeout=5)


def test_what_a_handler_calls_after_its_call_was_cancelled() -> None:
    ended: List[BaseException] = []
    asked, over = threading.Event(), threading.Event()

    def handler(request: Any) -> None:
        asked.set()
        assert request.cancelled.wait(5)
        try:
            client.call_tool("inner")
        except mcpsync.RequestCancelled as error:
            ended.append(error)
        over.set()

    with scripted({"tools/call": asking}) as server:
        with mcpsync.connect(
            server.transport, on_elicitation=handler, timeout=10
        ) as client:
            pending = client.start_call("outer")
            assert asked.wait(5)
            assert pending.cancel()
            assert over.wait(5) and len(ended) == 1
            # It was not sent at all.
            assert len(server.of("tools/call")) == 1
            with pytest.raises(mcpsync.RequestCancelled):
                pending.result(timeout=5)


# --- map_tool ---------------------------------------------------------------------


def test_results_in_order() -> None:
    turn = threading.Condition()
    answered: List[int] = []

    def call(incoming: Incoming) -> Dict[str, Any]:
        number = number_of(incoming)
        with turn:
            # The later of two neighbours is always the first to be answered.
            if number % 2 == 0:
                turn.wait_for(lambda: number + 1 in answered, 5)
            answered.append(number)
            turn.notify_all()
        return echo(incoming)

    with scripted({"tools/call": call}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            results = list(client.map_tool("x", numbers(20), max_workers=4))
    assert [result.data["n"] for result in results] == list(range(20))
    assert answered != sorted(answered)


def test_the_arguments_are_read_as_they_are_needed() -> None:
    read: List[int] = []

    def arguments() -> Iterator[Mapping[str, Any]]:
        for number in range(100):
            read.append(number)
            yield {"n": number}

    with scripted({"tools/call": echo}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            results = client.map_tool("x", arguments(), max_workers=3)
            assert read == [] and server.of("tools/call") == []
            assert next(results).data == {"n": 0}
            assert read == [0, 1, 2]
            assert next(results).data == {"n": 1}
            assert read == [0, 1, 2, 3]
            getattr(results, "close")()


def test_no_more_at_once_than_allowed() -> None:
    lock, here, most = threading.Lock(), [0], [0]

    def call(incoming: Incoming) -> Dict[str, Any]:
        with lock:
            here[0] += 1
            most[0] = max(most[0], here[0])
        incoming.server.stopped.wait(0.005)
        with lock:
            here[0] -= 1
        return echo(incoming)

    with scripted({"tools/call": call}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            assert len(list(client.map_tool("x", numbers(12), max_workers=3))) == 12
    assert most[0] == 3


def leave_by_break(results: Iterator[Any]) -> None:
    for _ in results:
        break
    getattr(results, "close")()


def leave_by_close(results: Iterator[Any]) -> None:
    next(results)
    getattr(results, "close")()


def leave_by_throw(results: Iterator[Any]) -> None:
    next(results)
    with pytest.raises(ZeroDivisionError):
        getattr(results, "throw")(ZeroDivisionError())


@pytest.mark.parametrize("leave", [leave_by_break, leave_by_close, leave_by_throw])
def test_leaving_cancels_what_is_in_flight(
    leave: Callable[[Iterator[Any]], None],
) -> None:
    def call(incoming: Incoming) -> Any:
        return echo(incoming) if number_of(incoming) == 0 else NO_ANSWER

    with scripted({"tools/call": call}) as server:
        with mcpsync.connect(server.transport, timeout=10) as client:
            results = client.map_tool("x", numbers(10), max_workers=3)
            server_saw = server.await_messages
            # The first result is held back until the others are on their way.
            leave(_after(results, lambda: server_saw("tools/call", 3)))
            cancelled = server.await_messages("notifications/cancelled", 2)
            begun = {
                message["id"]
                for message in server.of("tools/call")
                if message["params"]["arguments"]["n"] != 0
            }
            assert {one["params"]["requestId"] for one in cancelled} == begun


def _after(results: Iterator[Any], wait: Callable[[], object]) -> Iterator[Any]:
    try:
        for result in results:
            wait()
            yield result
    finally:
        getattr(results, "close")()


def failing(incoming: Incoming) -> Any:
    if number_of(incoming) == 2:
        return Fault(-32603, "two is bad")
    return echo(incoming)


def test_the_first_exception_ends_it() -> None:
    with scripted({"tools/call": failing}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            seen: List[Any] = []
            with pytest.raises(mcpsync.InternalError, match="two is bad"):
                for result in client.map_tool("x", numbers(50), max_workers=2):
                    seen.append(result.data["n"])
            assert seen == [0, 1]
            assert len(server.of("tools/call")) <= 4


def test_exceptions_in_their_places() -> None:
    with scripted({"tools/call": failing}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            results = list(client.map_tool("x", numbers(4), on_error="return"))
    assert [type(result).__name__ for result in results] == [
        "CallToolResult",
        "CallToolResult",
        "InternalError",
        "CallToolResult",
    ]


def test_an_iterable_that_fails() -> None:
    def arguments() -> Iterator[Mapping[str, Any]]:
        yield {"n": 0}
        raise LookupError("no more")

    with scripted({"tools/call": echo}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            with pytest.raises(LookupError, match="no more"):
                list(client.map_tool("x", arguments()))
            assert client.call_tool("x", {"n": 5}).data == {"n": 5}


def test_progress_of_a_map(caplog: pytest.LogCaptureFixture) -> None:
    counts: List[int] = []
    caplog.set_level(logging.INFO, "mcpsync")
    with scripted({"tools/call": echo}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            list(client.map_tool("x", numbers(3), progress=counts.append))
            assert counts == [1, 2, 3]
            list(client.map_tool("x", numbers(2), progress=True))
    assert "x: 2 results" in caplog.text


def test_nothing_to_do() -> None:
    with scripted({}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            assert list(client.map_tool("x", [])) == []


def test_wrong_options() -> None:
    with scripted({}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            with pytest.raises(mcpsync.InvalidArguments, match="on_error"):
                client.map_tool("x", [{}], on_error="ignore")
            with pytest.raises(mcpsync.InvalidArguments, match="max_workers"):
                client.map_tool("x", [{}], max_workers=0)
