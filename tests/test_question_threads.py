"""The server's questions: on whose thread, and until when."""

from __future__ import annotations

import contextvars
import threading
from typing import Any, Dict, List

import pytest

import mcpsync
from mcpsync.types import ElicitRequest

from .fakes.asking import ERAS, SIMPLE, Asker
from .fakes.scripted_memory import LEGACY, Incoming, Server, scripted

colour = contextvars.ContextVar("colour", default="none")


class Answering:
    """A handler that remembers where it ran."""

    def __init__(self) -> None:
        self.threads: List[threading.Thread] = []
        self.colours: List[str] = []
        self.asked = threading.Event()

    def __call__(self, request: ElicitRequest) -> Dict[str, Any]:
        self.threads.append(threading.current_thread())
        self.colours.append(colour.get())
        self.asked.set()
        return {}


def elicit(server: Server, wait: bool = True) -> Any:
    return server.ask("elicitation/create", SIMPLE, wait)


def test_a_question_out_of_the_blue() -> None:
    handler = Answering()
    with scripted({}, version=LEGACY) as server:
        with mcpsync.connect(server.transport, on_elicitation=handler):
            answer = elicit(server)
    assert answer["result"] == {"action": "accept", "content": {"a": "x"}}
    (thread,) = handler.threads
    assert thread.name == "mcpsync-question-scripted" and thread.daemon


def test_it_has_the_context_of_the_opening() -> None:
    handler = Answering()
    with scripted({}, version=LEGACY) as server:
        client = mcpsync.Client(server.transport, on_elicitation=handler)
        token = colour.set("green")
        try:
            client.open()
        finally:
            colour.reset(token)
        elicit(server)
        client.close()
    assert handler.colours == ["green"]


def test_the_only_thread_that_waits_is_asked() -> None:
    handler = Answering()

    def call(incoming: Incoming) -> Dict[str, Any]:
        assert incoming.ask("elicitation/create", SIMPLE)["result"]
        return {"content": []}

    with scripted({"tools/call": call}, version=LEGACY) as server:
        with mcpsync.connect(
            server.transport, on_elicitation=handler, timeout=5
        ) as client:
            client.call_tool("x")
    assert handler.threads == [threading.current_thread()]


def test_of_several_threads_none_is_guessed() -> None:
    handler, gate = Answering(), threading.Event()

    def call(incoming: Incoming) -> Dict[str, Any]:
        incoming.hold(gate)
        return {"content": []}

    with scripted({"tools/call": call}, version=LEGACY) as server:
        with mcpsync.connect(
            server.transport, on_elicitation=handler, timeout=5
        ) as client:
            calls = [client.start_call("x") for _ in range(2)]
            server.await_messages("tools/call", 2)
            assert elicit(server)["result"]
            gate.set()
            for call_ in calls:
                call_.result(timeout=5)
    assert [one.name for one in handler.threads] == ["mcpsync-question-scripted"]


def test_a_question_that_comes_with_the_answer_is_not_lost() -> None:
    handler = Answering()

    def call(incoming: Incoming) -> Dict[str, Any]:
        # Nobody may be there any more to read it.
        incoming.server.ask("elicitation/create", SIMPLE, wait=False)
        return {"content": []}

    with scripted({"tools/call": call}, version=LEGACY) as server:
        with mcpsync.connect(
            server.transport, on_elicitation=handler, timeout=5
        ) as client:
            for number in range(1, 21):
                client.call_tool("x")
                answer = server.answer_to("ask-%d" % number, 5)
                assert answer is not None and "result" in answer


def test_a_question_within_a_question() -> None:
    threads: List[int] = []

    def call(incoming: Incoming) -> Dict[str, Any]:
        assert incoming.ask("elicitation/create", SIMPLE)["result"]
        return {"content": []}

    def handler(request: ElicitRequest) -> Dict[str, Any]:
        threads.append(threading.get_ident())
        if len(threads) == 1:
            # The inner call's question goes to the inner call.
            client.call_tool("y")
        return {}

    with scripted({"tools/call": call}, version=LEGACY) as server:
        with mcpsync.connect(
            server.transport, on_elicitation=handler, timeout=5
        ) as client:
            client.call_tool("x")
    assert threads == [threading.get_ident()] * 2


def test_pings_are_answered_while_a_handler_runs() -> None:
    inside, release = threading.Event(), threading.Event()

    def handler(request: ElicitRequest) -> None:
        inside.set()
        release.wait(5)

    with scripted({}, version=LEGACY) as server:
        with mcpsync.connect(server.transport, on_elicitation=handler):
            identifier = elicit(server, wait=False)
            assert inside.wait(5)
            assert server.ask("ping")["result"] == {}
            assert server.answer_to(identifier, 0) is None
            release.set()
            assert server.answer_to(identifier)["result"] == {"action": "decline"}


def test_a_handler_on_its_own_thread_closes_the_client() -> None:
    closed = threading.Event()

    def handler(request: ElicitRequest) -> None:
        client.close()
        closed.set()

    with scripted({}, version=LEGACY) as server:
        client = mcpsync.connect(server.transport, on_elicitation=handler)
        identifier = elicit(server, wait=False)
        assert closed.wait(5)
        assert server.answer_to(identifier, 0.05) is None


def test_a_handler_on_its_own_thread_calls_the_client() -> None:
    def handler(request: ElicitRequest) -> Dict[str, Any]:
        return {"a": client.call_tool("x").text}

    text = {"content": [{"type": "text", "text": "from the tool"}]}
    methods = {"tools/call": lambda incoming: text}
    with scripted(methods, version=LEGACY) as server:
        with mcpsync.connect(
            server.transport, on_elicitation=handler, timeout=5
        ) as client:
            answer = elicit(server)
            assert answer["result"]["content"] == {"a": "from the tool"}


@pytest.mark.parametrize("by", ["server", "close"])
def test_a_question_is_called_off(by: str) -> None:
    inside, over = threading.Event(), threading.Event()
    seen: List[bool] = []

    def handler(request: ElicitRequest) -> None:
        inside.set()
        seen.append(request.cancelled.wait(5))
        over.set()

    with scripted({}, version=LEGACY) as server:
        client = mcpsync.connect(server.transport, on_elicitation=handler)
        identifier = elicit(server, wait=False)
        assert inside.wait(5)
        if by == "server":
            server.note("notifications/cancelled", {"requestId": identifier})
        else:
            client.close()
        assert over.wait(5) and seen == [True]
        # And its answer is dropped.
        assert server.answer_to(identifier, 0.05) is None
        client.close()


@pytest.mark.parametrize("version", ERAS)
@pytest.mark.parametrize("by", ["cancel", "close"])
def test_the_call_of_a_question_ends(version: str, by: str) -> None:
    inside, over = threading.Event(), threading.Event()
    seen: List[bool] = []

    def handler(request: ElicitRequest) -> Dict[str, Any]:
        inside.set()
        seen.append(request.cancelled.wait(5))
        over.set()
        return {"a": "too late"}

    asker = Asker("elicitation/create", SIMPLE)
    with scripted({"tools/call": asker}, version=version) as server:
        client = mcpsync.connect(server.transport, on_elicitation=handler, timeout=5)
        pending = client.start_call("x")
        assert inside.wait(5)
        if by == "cancel":
            assert pending.cancel()
            expected: type = mcpsync.RequestCancelled
        else:
            client.close()
            expected = mcpsync.ClientClosed
        assert over.wait(5) and seen == [True]
        with pytest.raises(expected):
            pending.result(timeout=5)
        # Neither an answer nor another round went out.
        assert len(server.of("tools/call")) == 1
        assert [m for m in server.received if "result" in m] == []
        client.close()


@pytest.mark.parametrize("key", [5, None, {}, [], True, 1.5, "unheard of"])
def test_nonsense_is_called_off(key: Any) -> None:
    with scripted({}, version=LEGACY) as server:
        with mcpsync.connect(server.transport, on_elicitation=Answering()):
            server.note("notifications/cancelled", {"requestId": key})
            server.note("notifications/cancelled")
            assert elicit(server)["result"]
