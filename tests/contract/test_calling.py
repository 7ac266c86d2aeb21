"""Tool calls, their clocks and their ends, over every transport and in both eras."""

from __future__ import annotations

import math
import random
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any, List, Optional, Tuple

import pytest

import mcpsync

from .conftest import ENDLESS, Cell, eventually, stats


class Started:
    """An on_progress function that tells when the server is at work."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(
        self, progress: float, total: Optional[float], message: Optional[str]
    ) -> None:
        self.event.set()

    def wait(self) -> None:
        assert self.event.wait(5), "the call did not begin"


def still_works(client: mcpsync.Client) -> bool:
    result = client.call_tool("echo", {"message": "again"}, timeout=10)
    return bool(result.data["echo"] == "ECHOING: again")


def was_told(client: mcpsync.Client) -> bool:
    """Return whether the server heard that the one call was cancelled."""
    return eventually(lambda: stats(client)["cancelled"] == 1)


def test_a_result(client: mcpsync.Client) -> None:
    result = client.call_tool("add", {"a": 1, "b": 2.5})
    assert result.data == result.structured_content == {"sum": 3.5}
    assert result.text == '{"sum": 3.5}'
    assert not result.is_error
    assert result.raise_for_error() is result


def test_a_result_of_several_kinds(client: mcpsync.Client) -> None:
    picture, text = client.call_tool("image").content
    assert (picture.type, picture.mime_type) == ("image", "image/png")
    assert text.text == "a blue square"


def test_a_reported_failure_is_a_result(client: mcpsync.Client) -> None:
    result = client.call_tool("fail", {"message": "no luck"})
    assert result.is_error and result.text == "no luck"
    with pytest.raises(mcpsync.ToolError, match="no luck") as caught:
        result.raise_for_error()
    assert caught.value.result is result


def test_an_error_says_where(client: mcpsync.Client) -> None:
    with pytest.raises(mcpsync.InvalidParams, match="Unknown tool") as caught:
        client.call_tool("nothing")
    error = caught.value
    assert (error.server, error.method, error.code) == (
        "the demo",
        "tools/call",
        -32602,
    )
    assert error.elapsed is not None and error.elapsed < 10
    assert "the demo" in str(error) and "tools/call" in str(error)
    assert still_works(client)


def test_what_has_been_listed_is_validated(client: mcpsync.Client) -> None:
    client.list_tools()
    assert client.call_tool("add", {"a": 1, "b": 2}).data == {"sum": 3}
    assert client.call_tool("fail", {"message": "x"}).is_error


def test_progress_on_the_calling_thread(cell: Cell) -> None:
    seen: List[Tuple[float, Optional[float], Optional[str]]] = []
    threads = set()

    def on_progress(
        progress: float, total: Optional[float], message: Optional[str]
    ) -> None:
        seen.append((progress, total, message))
        threads.add(threading.get_ident())

    # By default those that come too fast are left out.
    with cell.connect(limits=mcpsync.Limits(progress_per_second=math.inf)) as client:
        arguments = {"to": 3, "delay": 0.0}
        result = client.call_tool("count", arguments, on_progress=on_progress)
    assert result.data == {"counted": 3}
    assert seen == [(step, 3, "%d of 3" % step) for step in (1, 2, 3)]
    assert threads == {threading.get_ident()}


def test_the_last_progress_is_never_lost(client: mcpsync.Client) -> None:
    seen: List[float] = []
    arguments = {"to": 40, "delay": 0.001}
    client.call_tool("count", arguments, on_progress=lambda p, t, m: seen.append(p))
    # Coalesced to twenty a second, but in order, and up to the end.
    assert seen[-1] == 40 and seen == sorted(set(seen))
    assert len(seen) < 40


def test_a_failing_progress_callback_is_logged(
    client: mcpsync.Client, caplog: pytest.LogCaptureFixture
) -> None:
    def on_progress(*args: object) -> None:
        raise ValueError("a bug of the host")

    arguments = {"to": 1, "delay": 0.0}
    result = client.call_tool("count", arguments, on_progress=on_progress)
    assert result.data == {"counted": 1}
    assert "on_progress failed" in caplog.text


def test_the_total_clock(client: mcpsync.Client) -> None:
    # Progress keeps coming, and does not help.
    timeout = mcpsync.Timeout(idle=5, total=0.2)
    with pytest.raises(mcpsync.RequestTimeout) as caught:
        client.call_tool("count", ENDLESS, timeout=timeout)
    error = caught.value
    assert (error.kind, error.seconds) == ("total", 0.2)
    assert (error.server, error.method) == ("the demo", "tools/call")
    assert error.elapsed is not None and 0.15 < error.elapsed < 5
    assert isinstance(error, TimeoutError)
    assert was_told(client) and still_works(client)


def test_the_idle_clock(client: mcpsync.Client) -> None:
    # All steps take longer than the limit, but no two are that far apart.
    timeout = mcpsync.Timeout(idle=0.6, total=20)
    arguments = {"to": 8, "delay": 0.1}
    result = client.call_tool("count", arguments, timeout=timeout)
    assert result.data == {"counted": 8}

    timeout = mcpsync.Timeout(idle=0.15, total=20)
    with pytest.raises(mcpsync.RequestTimeout) as caught:
        client.call_tool("wait", {"seconds": 30}, timeout=timeout)
    assert (caught.value.kind, caught.value.seconds) == ("idle", 0.15)
    assert was_told(client) and still_works(client)


def test_a_pending_call_is_cancelled(client: mcpsync.Client) -> None:
    started = Started()
    pending = client.start_call("count", ENDLESS, on_progress=started)
    started.wait()
    assert pending.cancel()
    assert pending.cancelled() and pending.done()
    with pytest.raises(mcpsync.RequestCancelled):
        pending.result(timeout=5)
    assert was_told(client) and still_works(client)


def test_ctrl_c_cancels_the_call_alone(client: mcpsync.Client) -> None:
    def on_progress(*args: object) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        client.call_tool("count", ENDLESS, on_progress=on_progress)
    assert was_told(client) and still_works(client)


def test_calls_overlap(client: mcpsync.Client) -> None:
    calls = [client.start_call("wait", {"seconds": 60}) for _ in range(5)]
    # The server sees all five together, however slowly the threads begin.
    assert eventually(lambda: stats(client)["in_flight"] == 5, 15)
    for call in calls:
        assert call.cancel()
    assert eventually(lambda: stats(client)["in_flight"] == 0, 15)


def test_every_thread_gets_its_own_answer(client: mcpsync.Client) -> None:
    def add(number: int) -> Any:
        return client.call_tool("add", {"a": number, "b": 1000}).data["sum"]

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(add, range(100))) == list(range(1000, 1100))


@pytest.mark.parametrize("size", [900_000, 8_000_000])
def test_a_large_result(client: mcpsync.Client, size: int) -> None:
    text = client.call_tool("blob", {"size": size}).text
    assert len(text) == size and text.strip("x") == ""
    assert still_works(client)


def test_a_large_argument(client: mcpsync.Client) -> None:
    message = "y" * 1_000_000
    result = client.call_tool("echo", {"message": message})
    assert result.data["echo"] == "ECHOING: " + message


def test_text_survives(client: mcpsync.Client) -> None:
    message = 'line\nbreak\r\n\u2028 \u00e9\u20ac\U0001f600 "quoted" \\ \x00 tab\t'
    result = client.call_tool("echo", {"message": message})
    assert result.data["echo"] == "ECHOING: " + message


def test_a_server_that_dies_fails_the_call_alone(cell: Cell) -> None:
    if cell.kind == "memory":
        # Nothing there can die; the answer never comes, and that is all.
        expected: Tuple[type, ...] = (mcpsync.RequestTimeout,)
    else:
        expected = (mcpsync.ConnectionLost, mcpsync.ServerExited)
    with cell.connect(timeout=20) as client:
        timeout = 0.1 if cell.kind == "memory" else None
        with pytest.raises(expected) as caught:
            client.call_tool("crash", timeout=timeout)
        # It was, or nobody can tell; a repeat would not be safe.
        assert getattr(caught.value, "sent", None) is not False
        assert "the demo" in str(caught.value)
        assert still_works(client)


def test_the_escape_hatch(client: mcpsync.Client) -> None:
    raw = client.request("tools/call", {"name": "add", "arguments": {"a": 1, "b": 2}})
    assert isinstance(raw, dict)
    assert raw["structuredContent"] == {"sum": 3}
    steps: List[float] = []
    params = {"name": "count", "arguments": {"to": 1, "delay": 0.0}}
    client.request("tools/call", params, on_progress=lambda p, t, m: steps.append(p))
    assert steps == [1]
    client.notify("notifications/of/ours", {"any": "thing"})
    with pytest.raises(mcpsync.MethodNotFound) as caught:
        client.request("no/such/method")
    assert caught.value.method == "no/such/method"


def test_methods_of_the_other_era(cell: Cell, client: mcpsync.Client) -> None:
    method = "logging/setLevel" if cell.modern else "server/discover"
    with pytest.raises(mcpsync.MethodNotInEra, match=method) as caught:
        client.request(method, {"level": "info"})
    assert (caught.value.server, caught.value.method) == ("the demo", method)
    # Neither era lacks a way to ask whether the server is there.
    client.ping()


def test_many_threads_and_many_ends(client: mcpsync.Client) -> None:
    """Answers, timeouts and cancellations at once: everybody gets what is his."""
    chance = random.Random(20260728)
    plans = [[chance.random() for _ in range(20)] for _ in range(8)]

    def one(number: int, luck: float) -> None:
        if luck < 0.2:
            pending = client.start_call("add", {"a": number, "b": 0.5})
            if pending.cancel():
                return
            assert pending.result(timeout=10).data == {"sum": number + 0.5}
        elif luck < 0.4:
            with pytest.raises(mcpsync.RequestTimeout):
                client.call_tool("wait", {"seconds": 2}, timeout=0.005)
        else:
            result = client.call_tool("add", {"a": number, "b": 0.5})
            assert result.data == {"sum": number + 0.5}

    def many(worker: int) -> None:
        for step, luck in enumerate(plans[worker]):
            one(1000 * worker + step, luck)

    with ThreadPoolExecutor(len(plans)) as pool:
        list(pool.map(many, range(len(plans))))
    assert still_works(client)
