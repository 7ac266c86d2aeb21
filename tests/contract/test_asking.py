"""The server's questions, over every transport and in both eras."""

from __future__ import annotations

import contextvars
import threading
from pathlib import Path
from typing import Any, Callable, Dict, Iterable, List, Mapping

import pytest

import mcpsync
from mcpsync.types import (
    CreateMessageRequest,
    CreateMessageResult,
    ElicitRequest,
    ElicitResult,
    Root,
    TextContent,
)

from .conftest import Cell, eventually, stats

#: What the demo's form has for defaults.
DEFAULTS = {"name": "Ada", "age": 36, "ok": True, "color": "green"}

whose = contextvars.ContextVar("whose", default="nobody's")


def ask(cell: Cell, handler: Callable[[ElicitRequest], Any]) -> Mapping[str, Any]:
    """Return what the tool heard from a handler."""
    with cell.connect(on_elicitation=handler) as client:
        answer: Mapping[str, Any] = client.call_tool("ask", {"question": "Well?"}).data
        return answer


def test_a_handler_runs_on_the_calling_thread(cell: Cell) -> None:
    seen: Dict[str, Any] = {}

    def handler(request: ElicitRequest) -> Dict[str, Any]:
        seen.update(thread=threading.get_ident(), whose=whose.get(), request=request)
        return {"name": "Grace"}

    token = whose.set("the caller's")
    try:
        answer = ask(cell, handler)
    finally:
        whose.reset(token)
    assert seen["thread"] == threading.get_ident()
    assert seen["whose"] == "the caller's"
    request = seen["request"]
    assert (request.message, request.mode, request.server) == (
        "Well?",
        "form",
        "the demo",
    )
    assert not request.cancelled.is_set()
    # What the handler left out has the schema's defaults.
    assert answer == {"action": "accept", "content": {**DEFAULTS, "name": "Grace"}}


@pytest.mark.parametrize(
    "given, heard",
    [
        (None, {"action": "decline", "content": None}),
        ({}, {"action": "accept", "content": DEFAULTS}),
        (ElicitResult.accept(), {"action": "accept", "content": DEFAULTS}),
        (ElicitResult.decline(), {"action": "decline", "content": None}),
        (ElicitResult.cancel(), {"action": "cancel", "content": None}),
    ],
)
def test_what_a_handler_may_return(
    cell: Cell, given: Any, heard: Mapping[str, Any]
) -> None:
    assert ask(cell, lambda request: given) == heard


@pytest.mark.parametrize(
    "nonsense", [42, "yes", ElicitResult("maybe"), {"age": "old"}, {"age": 1.5}]
)
def test_nonsense_never_reaches_the_server(cell: Cell, nonsense: Any) -> None:
    with cell.connect(on_elicitation=lambda request: nonsense) as client:
        failed(cell, client, mcpsync.InvalidArguments)


def test_a_handler_that_fails(cell: Cell, caplog: pytest.LogCaptureFixture) -> None:
    def handler(request: ElicitRequest) -> None:
        raise LookupError("the host's own business")

    with cell.connect(on_elicitation=handler) as client:
        failed(cell, client, LookupError)
    if not cell.modern:
        assert "the host's own business" in caplog.text


def failed(cell: Cell, client: mcpsync.Client, cause: type) -> None:
    """Check how a call ends whose handler failed with an exception of that kind."""
    if cell.modern:
        # There is no way to tell the server: the call cannot go on.
        with pytest.raises(mcpsync.InputRequired) as caught:
            client.call_tool("ask", {"question": "Well?"})
        error = caught.value
        assert isinstance(error.__cause__, cause)
        assert list(error.requests) == ["answer"] and error.state
        assert error.state not in str(error)
        assert (error.server, error.method) == ("the demo", "tools/call")
    else:
        # The server hears of a failure, and nothing about its reason.
        result = client.call_tool("ask", {"question": "Well?"})
        assert result.is_error and result.text == "error -32603: internal error"
    assert client.call_tool("echo", {"message": "x"}).data


def test_ctrl_c_in_a_handler(cell: Cell) -> None:
    interrupts: List[type] = [KeyboardInterrupt]

    def handler(request: ElicitRequest) -> None:
        if interrupts:
            raise interrupts.pop()

    with cell.connect(on_elicitation=handler) as client:
        with pytest.raises(KeyboardInterrupt):
            client.call_tool("ask", {"question": "Well?"})
        result = client.call_tool("ask", {"question": "Again?"})
        assert result.data == {"action": "decline", "content": None}


def test_a_handler_calls_the_client(cell: Cell) -> None:
    sums: List[int] = []

    def handler(request: ElicitRequest) -> Dict[str, Any]:
        sums.append(client.call_tool("add", {"a": 40, "b": 2}).data["sum"])
        return {"age": sums[-1]}

    with cell.connect(on_elicitation=handler) as client:
        answer = client.call_tool("ask", {"question": "Well?"}).data
        assert answer["content"] == {**DEFAULTS, "age": 42}
        assert sums == [42]


def test_a_handler_s_call_may_be_asked_too(cell: Cell) -> None:
    depths: List[str] = []

    def handler(request: ElicitRequest) -> Dict[str, Any]:
        depths.append(request.message)
        if len(depths) < 3:
            question = {"question": request.message + "?"}
            inner = client.call_tool("ask", question).data
            return {"name": inner["content"]["name"] + "!"}
        return {"name": "deep"}

    with cell.connect(on_elicitation=handler) as client:
        answer = client.call_tool("ask", {"question": "Well"}).data
        assert answer["content"]["name"] == "deep!!"
        assert depths == ["Well", "Well?", "Well??"]


def test_several_rounds(cell: Cell) -> None:
    questions: List[str] = []

    def handler(request: ElicitRequest) -> Dict[str, Any]:
        questions.append(request.message)
        return {} if len(questions) == 2 else {"answer": "#%d" % len(questions)}

    with cell.connect(on_elicitation=handler) as client:
        result = client.call_tool("survey", {"rounds": 3})
    assert questions == ["Question 1?", "Question 2?", "Question 3?"]
    given = [answer["content"]["answer"] for answer in result.data["answers"]]
    assert given == ["#1", "2", "#3"]


def test_callers_at_once_are_all_asked(cell: Cell) -> None:
    everybody = threading.Barrier(3)

    def handler(request: ElicitRequest) -> Dict[str, Any]:
        # Nobody's question waits for somebody else's handler.
        everybody.wait(5)
        return {"name": "for " + request.message}

    with cell.connect(on_elicitation=handler) as client:
        calls = [
            client.start_call("ask", {"question": "question %d" % number})
            for number in range(3)
        ]
        for number, call in enumerate(calls):
            content = call.result(timeout=10).data["content"]
            assert content["name"] == "for question %d" % number


def test_the_clock_stops_while_somebody_answers(cell: Cell) -> None:
    def handler(request: ElicitRequest) -> Dict[str, Any]:
        assert not request.cancelled.wait(0.8)
        return {}

    with cell.connect(on_elicitation=handler) as client:
        timeout = mcpsync.Timeout(idle=0.6, total=0.7)
        result = client.call_tool("ask", {"question": "Well?"}, timeout=timeout)
        assert result.data["content"] == DEFAULTS


def test_a_call_is_cancelled_under_its_handler(cell: Cell) -> None:
    asked, released = threading.Event(), threading.Event()

    def handler(request: ElicitRequest) -> Dict[str, Any]:
        asked.set()
        # Not killed, but told.
        if request.cancelled.wait(5):
            released.set()
        return {"name": "too late"}

    with cell.connect(on_elicitation=handler) as client:
        pending = client.start_call("ask", {"question": "Well?"})
        assert asked.wait(5)
        assert pending.cancel()
        assert released.wait(5)
        with pytest.raises(mcpsync.RequestCancelled):
            pending.result(timeout=5)
        assert client.call_tool("echo", {"message": "x"}).data
        # The tool never went on.
        assert eventually(lambda: stats(client)["in_flight"] == 0)


def test_undeclared_questions(cell: Cell) -> None:
    with cell.connect() as client:
        for tool, arguments in [
            ("ask", {"question": "Well?"}),
            ("summarize", {"text": "x"}),
            ("greet_roots", {}),
        ]:
            if cell.modern:
                with pytest.raises(mcpsync.MissingRequiredClientCapability):
                    client.call_tool(tool, arguments)
            else:
                result = client.call_tool(tool, arguments)
                assert result.is_error and "did not declare" in result.text
        assert client.call_tool("echo", {"message": "x"}).data


@pytest.mark.parametrize("typed", [True, False])
def test_sampling(cell: Cell, typed: bool) -> None:
    requests: List[CreateMessageRequest] = []

    def model(request: CreateMessageRequest) -> Any:
        requests.append(request)
        if typed:
            text = TextContent("short")
            return CreateMessageResult(role="assistant", content=[text], model="tiny")
        content = {"type": "text", "text": "short"}
        return {"role": "assistant", "content": content, "model": "tiny"}

    with cell.connect(on_sampling=model) as client:
        result = client.call_tool("summarize", {"text": "a long story"})
        assert result.data == {"summary": "short", "model": "tiny"}
    (request,) = requests
    assert request.max_tokens == 100 and request.server == "the demo"
    assert "a long story" in str(request.messages[0].content)


def test_roots(cell: Cell, tmp_path: Path) -> None:
    named = Root(uri="file:///srv/data", name="data")
    with cell.connect(roots=[tmp_path, "file:///etc", named]) as client:
        roots = client.call_tool("greet_roots").data["roots"]
    assert [root["uri"] for root in roots] == [
        tmp_path.resolve().as_uri(),
        "file:///etc",
        "file:///srv/data",
    ]
    assert roots[0]["name"] == tmp_path.name and roots[2]["name"] == "data"


def test_roots_of_a_function(cell: Cell, tmp_path: Path) -> None:
    places: List[Path] = [tmp_path]

    def roots() -> Iterable[Path]:
        return list(places)

    with cell.connect(roots=roots) as client:
        assert len(client.call_tool("greet_roots").data["roots"]) == 1
        places.append(tmp_path / "more")
        client.notify_roots_changed()
        assert len(client.call_tool("greet_roots").data["roots"]) == 2
