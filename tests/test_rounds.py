"""Multi round-trip requests, and results of all kinds."""

from __future__ import annotations

import time
from typing import Any, Callable, Dict, List, Mapping, Optional

import pytest

import mcpsync

from .fakes.scripted_memory import LEGACY, Incoming, scripted
from .fakes.web import DONE

QUESTION = {
    "method": "elicitation/create",
    "params": {"message": "?", "requestedSchema": {"type": "object", "properties": {}}},
}


def asked(state: Optional[str] = None, **questions: Any) -> Dict[str, Any]:
    result: Dict[str, Any] = {"resultType": "input_required"}
    if questions:
        result["inputRequests"] = questions
    if state is not None:
        result["requestState"] = state
    return result


def in_rounds(*results: Any) -> Callable[[Incoming], Any]:
    left = list(results)
    return lambda incoming: left.pop(0) if len(left) > 1 else left[0]


def talk(
    method: Callable[[Incoming], Any], call: Callable[[mcpsync.Client], Any]
) -> List[Mapping[str, Any]]:
    """Make a call to a server that answers so; return the requests it got."""
    methods = {name: method for name in ("tools/call", "prompts/get", "resources/read")}
    with scripted(methods) as server:
        with mcpsync.connect(
            server.transport, timeout=5, on_elicitation=lambda request: {}
        ) as client:
            call(client)
        return [m for m in server.received if m["method"] in methods]


STATE = ' {"odd":  "\u00e9\\u00e9\u2028" }\n\t=+/%00 '


def test_the_request_state_is_echoed_byte_for_byte() -> None:
    results = (asked(STATE, q=QUESTION), asked("", r=QUESTION), DONE)
    first, second, third = talk(
        in_rounds(*results), lambda client: client.call_tool("x", {"a": 1})
    )
    assert "requestState" not in first["params"]
    assert second["params"]["requestState"] == STATE
    assert second["params"]["inputResponses"] == {
        "q": {"action": "accept", "content": {}}
    }
    # Each round carries its own answers, and the state of the one before alone.
    assert third["params"]["requestState"] == ""
    assert list(third["params"]["inputResponses"]) == ["r"]
    for message in (first, second, third):
        assert message["params"]["name"] == "x"
        assert message["params"]["arguments"] == {"a": 1}
    assert len({message["id"] for message in (first, second, third)}) == 3


def test_without_a_state_none_is_sent() -> None:
    results = (asked("first", q=QUESTION), asked(r=QUESTION), DONE)
    _, _, third = talk(in_rounds(*results), lambda client: client.call_tool("x"))
    assert "requestState" not in third["params"]


def test_a_state_alone_is_sent_back() -> None:
    results = (asked("later"), DONE)
    _, second = talk(in_rounds(*results), lambda client: client.call_tool("x"))
    assert second["params"]["requestState"] == "later"
    assert "inputResponses" not in second["params"]


def test_several_questions_in_one_round() -> None:
    results = (asked(a=QUESTION, b=QUESTION, c=QUESTION), DONE)
    _, second = talk(in_rounds(*results), lambda client: client.call_tool("x"))
    assert set(second["params"]["inputResponses"]) == {"a", "b", "c"}


def test_the_other_methods_that_may_ask() -> None:
    contents = {"contents": [{"uri": "x:y", "text": "z"}]}
    _, second = talk(
        in_rounds(asked(q=QUESTION), contents),
        lambda client: client.read_resource("x:y"),
    )
    assert second["params"]["uri"] == "x:y" and "inputResponses" in second["params"]
    _, second = talk(
        in_rounds(asked(q=QUESTION), {"messages": []}),
        lambda client: client.get_prompt("p", {"a": "b"}),
    )
    assert second["params"]["arguments"] == {"a": "b"}


def test_rounds_without_an_end() -> None:
    handled: List[Any] = []
    with scripted({"tools/call": lambda incoming: asked("s", q=QUESTION)}) as server:
        with mcpsync.connect(
            server.transport, timeout=5, on_elicitation=handled.append
        ) as client:
            with pytest.raises(mcpsync.InputRequired, match="10 rounds") as caught:
                client.call_tool("x")
            error = caught.value
            assert list(error.requests) == ["q"] and error.state == "s"
            assert (error.server, error.method) == ("scripted", "tools/call")
            assert len(handled) == 10 and len(server.of("tools/call")) == 11
            client.ping()


@pytest.mark.parametrize(
    "result",
    [
        {"resultType": "input_required"},
        {"resultType": "input_required", "requestState": 5},
        {"resultType": "input_required", "inputRequests": []},
        asked(q={"method": "no/such/question"}),
        asked(q="junk"),
        asked(q={"method": "elicitation/create", "params": []}),
        {"resultType": "pigeon"},
        {"resultType": "x\u202e" * 5000},
        {"resultType": 5},
        {"resultType": None},
        None,
        [],
        "text",
    ],
)
def test_a_result_of_no_known_kind(result: Any) -> None:
    with scripted({"tools/call": lambda incoming: result}) as server:
        with mcpsync.connect(
            server.transport, timeout=5, on_elicitation=lambda request: {}
        ) as client:
            with pytest.raises(mcpsync.UnexpectedResult) as caught:
                client.call_tool("x")
            error = caught.value
            assert (error.server, error.method) == ("scripted", "tools/call")
            assert len(str(error)) < 600 and "\u202e" not in str(error)
            client.ping()


def test_only_some_methods_may_ask() -> None:
    with scripted({"tools/list": lambda incoming: asked(q=QUESTION)}) as server:
        with mcpsync.connect(
            server.transport, timeout=5, on_elicitation=lambda request: {}
        ) as client:
            with pytest.raises(mcpsync.UnexpectedResult, match="input_required"):
                client.list_tools()


def test_a_result_of_no_stated_kind_is_complete() -> None:
    text = {"content": [{"type": "text", "text": "hi"}]}
    with scripted({"tools/call": lambda incoming: text}) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            assert client.call_tool("x").text == "hi"


def test_in_the_legacy_era_the_kind_means_nothing() -> None:
    text = {"content": [{"type": "text", "text": "hi"}], "resultType": "pigeon"}
    with scripted({"tools/call": lambda incoming: text}, version=LEGACY) as server:
        with mcpsync.connect(server.transport, timeout=5) as client:
            assert client.call_tool("x").text == "hi"


def test_one_deadline_for_all_rounds() -> None:
    def call(incoming: Incoming) -> Any:
        incoming.server.stopped.wait(0.1)
        return asked("s", q=QUESTION)

    with scripted({"tools/call": call}) as server:
        with mcpsync.connect(
            server.transport, on_elicitation=lambda request: {}
        ) as client:
            with pytest.raises(mcpsync.RequestTimeout):
                client.call_tool("x", timeout=0.6)
            assert 2 <= len(server.of("tools/call")) <= 7


def test_the_pause_between_states_can_be_cut_short() -> None:
    with scripted({"tools/call": lambda incoming: asked("s")}) as server:
        client = mcpsync.connect(server.transport, timeout=30)
        pending = client.start_call("x")
        # The pauses grow; by now the call is in the midst of one.
        server.await_messages("tools/call", 3)
        began = time.monotonic()
        assert pending.cancel()
        with pytest.raises(mcpsync.RequestCancelled):
            pending.result(timeout=5)

        pending = client.start_call("x")
        server.await_messages("tools/call", 6)
        client.close()
        with pytest.raises(mcpsync.ClientClosed):
            pending.result(timeout=5)
        assert time.monotonic() - began < 5
