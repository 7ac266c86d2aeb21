"""The server's questions: what may be answered, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Dict, Iterable, List, Mapping, Optional

import pytest

import mcpsync
from mcpsync._questions import root_to_wire
from mcpsync.types import ElicitRequest, ElicitResult, Root

from .fakes.asking import ERAS, SIMPLE, Asker, form
from .fakes.scripted_memory import LEGACY, MODERN, scripted

URL = {"message": "Visit", "mode": "url", "url": "https://example.com/pay?n=1"}
SAMPLE = {
    "messages": [{"role": "user", "content": {"type": "text", "text": "hi"}}],
    "maxTokens": 10,
}


def ask(
    version: str, method: str, params: Optional[Mapping[str, Any]], **handlers: Any
) -> Asker:
    """Have a client be asked this; return what the server heard."""
    asker = Asker(method, params)
    with scripted({"tools/call": asker}, version=version) as server:
        with mcpsync.connect(server.transport, timeout=5, **handlers) as client:
            client.call_tool("x")
    return asker


def refused(
    version: str,
    method: str,
    params: Optional[Mapping[str, Any]],
    code: int,
    **handlers: Any,
) -> None:
    """Have a client be asked what it does not answer."""
    asker = Asker(method, params)
    with scripted({"tools/call": asker}, version=version) as server:
        with mcpsync.connect(server.transport, timeout=5, **handlers) as client:
            if version == MODERN:
                # The server cannot be told: the call ends here.
                with pytest.raises(
                    (mcpsync.InputRequired, mcpsync.UnexpectedResult)
                ) as caught:
                    client.call_tool("x")
                error = caught.value
                assert (error.server, error.method) == ("scripted", "tools/call")
                assert asker.heard == []
            else:
                client.call_tool("x")
                assert asker.code == code
            # Nothing but that one call suffers.
            client.ping()


def never(request: Any) -> Any:
    raise AssertionError("this handler must not be asked")


@pytest.mark.parametrize("version", ERAS)
def test_a_url(version: str) -> None:
    seen: List[ElicitRequest] = []

    def visit(request: ElicitRequest) -> ElicitResult:
        seen.append(request)
        # Content means nothing here, and is not sent.
        return ElicitResult.accept({"secret": "x"})

    asker = ask(version, "elicitation/create", URL, on_elicitation=visit)
    assert asker.result == {"action": "accept"}
    assert (seen[0].mode, seen[0].url) == ("url", URL["url"])


@pytest.mark.parametrize("version", ERAS)
@pytest.mark.parametrize("action", ["decline", "cancel"])
def test_content_goes_with_acceptance_alone(version: str, action: str) -> None:
    given = ElicitResult(action, {"a": "x"})
    handlers = {"on_elicitation": lambda request: given}
    asker = ask(version, "elicitation/create", SIMPLE, **handlers)
    assert asker.result == {"action": action}


@pytest.mark.parametrize("version", ERAS)
def test_defaults_of_every_kind(version: str) -> None:
    properties = {
        "text": {"type": "string", "default": "t"},
        "number": {"type": "number", "default": 1.5},
        "whole": {"type": "integer", "default": 0},
        "flag": {"type": "boolean", "default": False},
        "choice": {"type": "string", "enum": ["a", "b"], "default": "b"},
        "titled": {
            "type": "string",
            "oneOf": [{"const": "x", "title": "X"}, {"const": "y", "title": "Y"}],
            "default": "y",
        },
        "several": {
            "type": "array",
            "items": {"type": "string", "enum": ["p", "q"]},
            "default": ["q"],
        },
        "optional": {"type": "string"},
    }
    handlers = {"on_elicitation": lambda request: {"whole": 7}}
    asker = ask(version, "elicitation/create", form(properties), **handlers)
    assert asker.result["content"] == {
        "text": "t",
        "number": 1.5,
        "whole": 7,
        "flag": False,
        "choice": "b",
        "titled": "y",
        "several": ["q"],
    }


@pytest.mark.parametrize("version", ERAS)
@pytest.mark.parametrize(
    "answer",
    [
        {},
        {"needed": 5},
        {"needed": "x", "choice": "z"},
        {"needed": "x", "age": -1},
        {"needed": "x", "age": "1"},
        {"needed": None},
    ],
)
def test_an_answer_that_does_not_fit(version: str, answer: Dict[str, Any]) -> None:
    params = form(
        {
            "needed": {"type": "string"},
            "choice": {"type": "string", "enum": ["a", "b"]},
            "age": {"type": "integer", "minimum": 0},
        },
        "needed",
    )
    handlers = {"on_elicitation": lambda request: answer}
    refused(version, "elicitation/create", params, -32603, **handlers)


@pytest.mark.parametrize("version", ERAS)
def test_the_reason_does_not_show_the_answer(
    version: str, caplog: pytest.LogCaptureFixture
) -> None:
    params = form({"pin": {"type": "string", "maxLength": 4}})
    handlers = {"on_elicitation": lambda request: {"pin": "123456789"}}
    refused(version, "elicitation/create", params, -32603, **handlers)
    assert "123456789" not in caplog.text


@pytest.mark.parametrize("version", ERAS)
@pytest.mark.parametrize(
    "params",
    [
        {"message": 5, "requestedSchema": {"type": "object", "properties": {}}},
        {"message": "Visit", "mode": "url"},
        {"message": "Shout", "mode": "audio"},
        {**SIMPLE, "requestedSchema": "no schema"},
    ],
)
def test_a_malformed_question(version: str, params: Dict[str, Any]) -> None:
    refused(version, "elicitation/create", params, -32602, on_elicitation=never)


@pytest.mark.parametrize("version", ERAS)
def test_kinds_that_were_not_declared(version: str) -> None:
    for method, params, handlers in [
        ("elicitation/create", SIMPLE, {"roots": ["/x"]}),
        ("sampling/createMessage", SAMPLE, {"on_elicitation": never}),
        ("roots/list", None, {"on_sampling": never}),
        ("no/such/question", {}, {"on_elicitation": never}),
    ]:
        refused(version, method, params, -32601, **handlers)


def test_elicitation_is_younger_than_the_first_revisions() -> None:
    handlers = {"on_elicitation": never}
    refused("2025-03-26", "elicitation/create", SIMPLE, -32601, **handlers)
    with scripted({}, version="2024-11-05") as server:
        with mcpsync.connect(server.transport, timeout=5, **handlers):
            (initialize,) = server.of("initialize")
    # It may be offered all the same: the server is the one to choose the revision.
    assert "elicitation" in initialize["params"]["capabilities"]


@pytest.mark.parametrize("version", ERAS)
def test_only_what_has_a_handler_is_declared(version: str) -> None:
    for handlers, declared in [
        ({}, set()),
        ({"on_elicitation": never}, {"elicitation"}),
        ({"on_sampling": never, "roots": []}, {"sampling", "roots"}),
    ]:
        with scripted({}, version=version) as server:
            with mcpsync.connect(server.transport, timeout=5, **handlers):
                first, *_ = server.of(
                    "server/discover" if version == MODERN else "initialize"
                )
        params = first["params"]
        if version == MODERN:
            key = "io.modelcontextprotocol/clientCapabilities"
            assert set(params["_meta"][key]) == declared
        else:
            assert set(params["capabilities"]) == declared


@pytest.mark.parametrize("version", ERAS)
@pytest.mark.parametrize("extra", [{"tools": []}, {"toolChoice": {"mode": "auto"}}])
def test_sampling_with_tools_was_not_declared(version: str, extra: Any) -> None:
    params = {**SAMPLE, **extra}
    refused(version, "sampling/createMessage", params, -32602, on_sampling=never)


@pytest.mark.parametrize("version", ERAS)
@pytest.mark.parametrize("given", [None, "text", {"role": "assistant"}, 5])
def test_a_model_that_returns_nonsense(version: str, given: Any) -> None:
    handlers = {"on_sampling": lambda request: given}
    refused(version, "sampling/createMessage", SAMPLE, -32603, **handlers)


@pytest.mark.parametrize("version", ERAS)
def test_roots_that_fail(version: str) -> None:
    def roots() -> Iterable[str]:
        raise OSError("no such disk")

    refused(version, "roots/list", None, -32603, roots=roots)


@pytest.mark.parametrize("version", ERAS)
def test_no_roots(version: str) -> None:
    assert ask(version, "roots/list", None, roots=[]).result == {"roots": []}


@pytest.mark.parametrize("version", ERAS)
def test_a_malformed_wish_for_a_message(version: str) -> None:
    params = {"messages": "none", "maxTokens": 5}
    refused(version, "sampling/createMessage", params, -32602, on_sampling=never)


@pytest.mark.parametrize("version", ERAS)
def test_the_server_is_told_of_new_roots_where_it_can_be(version: str) -> None:
    with scripted({}, version=version) as server:
        with mcpsync.connect(server.transport, roots=[]) as client:
            client.notify_roots_changed()
            client.ping()
            told = server.of("notifications/roots/list_changed")
            assert len(told) == (1 if version == LEGACY else 0)
            if version == LEGACY:
                (initialize,) = server.of("initialize")
                capabilities = initialize["params"]["capabilities"]
                assert capabilities == {"roots": {"listChanged": True}}


def test_the_wire_form_of_a_root(tmp_path: Path) -> None:
    place = tmp_path / "with space"
    uri = place.resolve().as_uri()
    for given in (place, str(place), str(place) + "/"):
        assert root_to_wire(given) == {"uri": uri, "name": "with space"}
    assert root_to_wire("file:///etc") == {"uri": "file:///etc"}
    assert root_to_wire({"uri": "file:///a", "name": "b"})["name"] == "b"
    assert root_to_wire(Root("file:///a")) == {"uri": "file:///a"}
    assert root_to_wire("/") == {"uri": "file:///", "name": "/"}
