"""Hooks: what may refuse a call, and what only looks on."""

from __future__ import annotations

import threading
from typing import Any, Dict, Iterator, List, Mapping, Tuple

import pytest

import mcpsync
from mcpsync.hooks import (
    ConnectionRenewed,
    Hooks,
    ServerRestarted,
    ToolCallBegin,
    ToolCallEnd,
)
from mcpsync.testing import serve

from .fakes.scripted_memory import Server, scripted


class Approval:
    """Refuses what it is told to, in the way it is told to."""

    def __init__(self, outcome: Any) -> None:
        self.outcome = outcome
        self.asked: List[Tuple[str, Mapping[str, Any]]] = []

    def before_call(self, tool: str, arguments: Mapping[str, Any]) -> Any:
        self.asked.append((tool, dict(arguments)))
        if isinstance(self.outcome, BaseException):
            raise self.outcome
        return self.outcome


class Witness:
    """Remembers what happened, and on which thread."""

    def __init__(self) -> None:
        self.events: List[Any] = []
        self.threads: List[int] = []

    def on_event(self, event: object) -> None:
        self.events.append(event)
        self.threads.append(threading.get_ident())


class Broken:
    """Fails at everything that it sees."""

    def on_event(self, event: object) -> None:
        raise ValueError("a bug in a hook")


@pytest.fixture
def server() -> Iterator[Server]:
    def call(incoming: Any) -> Dict[str, Any]:
        failed = incoming.params["name"] == "fail"
        return {"content": [], "isError": failed}

    with scripted({"tools/call": call}) as server:
        yield server


@pytest.mark.parametrize("outcome", [None, True, 0, ""])
def test_only_false_refuses(server: Server, outcome: Any) -> None:
    hook = Approval(outcome)
    with mcpsync.connect(server.transport, hooks=[hook]) as client:
        client.call_tool("delete", {"path": "/"})
    assert hook.asked == [("delete", {"path": "/"})]
    assert len(server.of("tools/call")) == 1


def test_a_refused_call_is_never_sent(server: Server) -> None:
    witness = Witness()
    hooks = [Approval(True), Approval(False), witness]
    client = mcpsync.Client(server.transport, hooks=hooks)
    with pytest.raises(mcpsync.CallRefused, match="'delete'") as caught:
        client.call_tool("delete")
    assert (caught.value.server, caught.value.method) == ("scripted", "tools/call")
    # Not even the connection was opened for it.
    assert server.received == [] and witness.events == []
    assert not client.is_open
    client.close()


def test_a_refusal_with_a_reason(server: Server) -> None:
    hook = Approval(mcpsync.CallRefused("not on a Friday"))
    with mcpsync.connect(server.transport, hooks=[hook]) as client:
        with pytest.raises(mcpsync.CallRefused, match="not on a Friday") as caught:
            client.call_tool("deploy")
        assert (caught.value.server, caught.value.method) == ("scripted", "tools/call")
    assert server.of("tools/call") == []


def test_a_hook_that_fails_refuses(server: Server) -> None:
    # An approval that could not be asked is no approval.
    hook = Approval(LookupError("no such policy"))
    with mcpsync.connect(server.transport, hooks=[hook]) as client:
        with pytest.raises(LookupError):
            client.call_tool("deploy")
    assert server.of("tools/call") == []


def test_every_way_to_call_is_asked_about(server: Server) -> None:
    hook = Approval(False)
    with mcpsync.connect(server.transport, hooks=[hook]) as client:
        with pytest.raises(mcpsync.CallRefused):
            client.start_call("a").result(timeout=5)
        with pytest.raises(mcpsync.CallRefused):
            list(client.map_tool("b", [{}]))
    assert [tool for tool, _ in hook.asked] == ["a", "b"]
    assert server.of("tools/call") == []


def test_a_hook_may_call_the_client(server: Server) -> None:
    class Curious:
        def before_call(self, tool: str, arguments: Mapping[str, Any]) -> None:
            if tool != "check":
                assert not client.call_tool("check").is_error

    with mcpsync.connect(server.transport, hooks=[Curious()]) as client:
        client.call_tool("deploy")
    called = [message["params"]["name"] for message in server.of("tools/call")]
    assert called == ["check", "deploy"]


def test_what_an_observer_sees(server: Server) -> None:
    witness = Witness()
    with mcpsync.connect(server.transport, hooks=[witness], name="mine") as client:
        client.call_tool("good", {"a": 1})
        client.call_tool("fail")
    begin, end, _, failed = witness.events
    assert begin == ToolCallBegin("mine", "good", {"a": 1})
    assert (end.server, end.tool, end.arguments) == ("mine", "good", {"a": 1})
    assert end.outcome == "ok" and 0 <= end.seconds < 5
    assert failed.outcome == "tool_error"
    assert set(witness.threads) == {threading.get_ident()}
    # Arguments may be secret: no repr shows them.
    assert "{" not in repr(begin) and "{" not in repr(end)


def test_the_outcome_of_a_failure() -> None:
    witness = Witness()
    with serve("memory") as server:
        with mcpsync.connect(server.target, hooks=[witness]) as client:
            with pytest.raises(mcpsync.InvalidParams):
                client.call_tool("nothing")
            with pytest.raises(mcpsync.RequestTimeout):
                client.call_tool("wait", {"seconds": 30}, timeout=0.05)

            def interrupt(*args: object) -> None:
                raise KeyboardInterrupt

            with pytest.raises(KeyboardInterrupt):
                client.call_tool("count", {"to": 1000}, on_progress=interrupt)
    ends = [event for event in witness.events if isinstance(event, ToolCallEnd)]
    assert [end.outcome for end in ends] == [
        "InvalidParams",
        "RequestTimeout",
        "KeyboardInterrupt",
    ]
    assert len(witness.events) == 6


def test_a_broken_observer_harms_nobody(
    server: Server, caplog: pytest.LogCaptureFixture
) -> None:
    witness = Witness()
    with mcpsync.connect(server.transport, hooks=[Broken(), witness]) as client:
        assert not client.call_tool("good", {"key": "value-of-it"}).is_error
    assert len(witness.events) == 2
    assert "a bug in a hook" in caplog.text and "value-of-it" not in caplog.text


def test_without_observers_nothing_is_observed() -> None:
    assert not Hooks("mine", [Approval(None)]).observing
    assert Hooks("mine", [Witness()]).observing
    # Any object is a hook, if an idle one.
    Hooks("mine", [object()]).before_call("a", {})


def test_events_are_values() -> None:
    assert ConnectionRenewed("a") == ConnectionRenewed("a")
    assert ServerRestarted("a", 2) != ServerRestarted("a", 1)
    with pytest.raises(AttributeError):
        setattr(ServerRestarted("a"), "attempt", 5)
