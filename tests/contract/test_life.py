"""Opening and closing, over every transport and in both eras."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, List

import pytest

import mcpsync
from mcpsync import testing

from ..fakes import bounded
from ..fakes.leaks import no_leaks
from .conftest import ENDLESS, Cell, stats


def refuses(client: mcpsync.Client) -> bool:
    """Return whether the client says that it is closed."""
    with pytest.raises(mcpsync.ClientClosed, match="the demo") as caught:
        client.call_tool("echo", {"message": "x"}, timeout=5)
    return caught.value.server == "the demo"


def test_a_client_opens_at_the_first_call(cell: Cell) -> None:
    client = cell.client()
    assert not client.is_open and "not open" in repr(client)
    assert client.call_tool("add", {"a": 1, "b": 1}).data == {"sum": 2}
    assert client.is_open and "open, protocol 20" in repr(client)
    client.close()
    assert not client.is_open and "closed" in repr(client)


def test_close_leaves_nothing(cell: Cell) -> None:
    with testing.serve(cell.kind) as server:
        with no_leaks():
            client = mcpsync.connect(
                server.target, protocol=cell.protocol, on_notification=lambda n: None
            )
            client.call_tool("echo", {"message": "x"})
            client.close()
        # While somebody still holds it.
        assert not client.is_open


def test_closing_twice(cell: Cell) -> None:
    client = cell.connect()
    client.close()
    client.close()
    assert refuses(client) and refuses(client)


def test_closing_before_opening(cell: Cell) -> None:
    client = cell.client()
    client.close()
    assert refuses(client)


def test_closing_from_another_thread(cell: Cell) -> None:
    client = cell.connect()
    bounded(client.close)
    assert refuses(client)


def test_closing_from_many_threads(cell: Cell) -> None:
    client = cell.connect()
    threads = [threading.Thread(target=client.close) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert refuses(client)


def test_calls_in_flight_end(cell: Cell) -> None:
    client = cell.connect()
    begun = [threading.Event() for _ in range(3)]
    calls = [
        client.start_call("count", ENDLESS, on_progress=lambda *_, e=event: e.set())
        for event in begun
    ]
    for event in begun:
        assert event.wait(5)
    bounded(client.close)
    for call in calls:
        with pytest.raises(mcpsync.ClientClosed) as caught:
            call.result(timeout=5)
        assert (caught.value.server, caught.value.method) == ("the demo", "tools/call")
    assert refuses(client)


def test_closing_from_a_callback(cell: Cell) -> None:
    client = cell.connect()

    def on_progress(*args: object) -> None:
        client.close()

    with pytest.raises(mcpsync.ClientClosed):
        client.call_tool("count", ENDLESS, on_progress=on_progress)
    assert refuses(client)


def test_closing_from_a_handler(cell: Cell) -> None:
    def handler(request: Any) -> None:
        client.close()

    client = cell.connect(on_elicitation=handler)
    with pytest.raises(mcpsync.ClientClosed):
        client.call_tool("ask", {"question": "Well?"}, timeout=5)


def test_closing_from_a_notification(cell: Cell) -> None:
    closed = threading.Event()

    def on_notification(notification: Any) -> None:
        client.close()
        closed.set()

    client = cell.connect(on_notification=on_notification)
    client.subscribe_resource("demo://greeting", timeout=5)
    try:
        client.call_tool("touch", timeout=5)
    except mcpsync.ClientClosed:
        # The answer may come after the notification.
        pass
    assert closed.wait(5)
    assert refuses(client)


def test_with_statements(cell: Cell) -> None:
    client = cell.client()
    with client as entered:
        assert entered is client and client.is_open
        with pytest.raises(mcpsync.LocalProtocolError, match="with statement already"):
            client.__enter__()
        assert client.call_tool("echo", {"message": "x"}).data
    with pytest.raises(mcpsync.ClientClosed):
        client.__enter__()


def test_a_with_statement_closes_on_the_way_out(cell: Cell) -> None:
    with pytest.raises(ZeroDivisionError):
        with cell.client() as client:
            raise ZeroDivisionError
    assert refuses(client)


def test_first_calls_open_once(cell: Cell) -> None:
    client = cell.client()
    with ThreadPoolExecutor(6) as pool:
        together = threading.Barrier(6)

        def first_call(number: int) -> Any:
            together.wait(5)
            return client.call_tool("add", {"a": number, "b": 1}).data["sum"]

        assert list(pool.map(first_call, range(6))) == [1, 2, 3, 4, 5, 6]
        # Six openings would have been six sessions, or six processes.
        assert stats(client)["sessions"] <= 1
        assert stats(client)["calls"] == 6
    client.close()


def test_clients_close_in_any_order(cell: Cell) -> None:
    with testing.serve(cell.kind) as other:
        first = cell.connect()
        second = mcpsync.connect(other.target, protocol=cell.protocol)
        first.close()
        assert second.call_tool("echo", {"message": "x"}).data
        second.close()


def in_a_running_loop(function: Callable[[], Any]) -> Any:
    """Return what a function returns that is called by an event loop."""
    outcome: List[Any] = []
    loop = asyncio.new_event_loop()

    def step() -> None:
        try:
            assert asyncio.get_running_loop() is loop
            outcome.append(function())
        finally:
            loop.stop()

    try:
        loop.call_soon(step)
        loop.run_forever()
    finally:
        loop.close()
    (result,) = outcome
    return result


def test_under_a_running_event_loop(cell: Cell) -> None:
    def main() -> Any:
        with cell.connect(on_elicitation=lambda request: {}) as client:
            assert client.call_tool("ask", {"question": "Well?"}).data
            return client.call_tool("add", {"a": 1, "b": 2}).data

    assert in_a_running_loop(main) == {"sum": 3}


def test_in_a_thread_with_a_running_event_loop(cell: Cell) -> None:
    def main() -> Any:
        with cell.connect() as client:
            return client.call_tool("add", {"a": 1, "b": 2}).data

    assert bounded(lambda: in_a_running_loop(main)) == {"sum": 3}
