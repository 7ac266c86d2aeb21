"""Multi round-trip requests: what may be asked, and what the retry carries."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Tuple

import pytest

from mcpsync.exceptions import InvalidArguments, UnexpectedResult
from mcpsync.protocol.eras import ClientFacts, ModernEra
from mcpsync.protocol.input_required import (
    MULTI_ROUND_METHODS,
    Asked,
    Question,
    read_input_required,
)
from mcpsync.protocol.jsonrpc import decode, dumps

ALL: Dict[str, Any] = {"elicitation": {"form": {}}, "sampling": {}, "roots": {}}
FORM = {"mode": "form", "message": "sure?", "requestedSchema": {"type": "object"}}
SAMPLE = {"messages": [], "maxTokens": 9}

ELICIT = {"method": "elicitation/create", "params": FORM}
CREATE = {"method": "sampling/createMessage", "params": SAMPLE}
ROOTS = {"method": "roots/list"}


def asked(**result: Any) -> Asked:
    return read_input_required({"resultType": "input_required", **result}, ALL)


def test_r1_three_methods_may_ask() -> None:
    assert MULTI_ROUND_METHODS == {"tools/call", "prompts/get", "resources/read"}


# --- what may be asked -------------------------------------------------

ASKS: List[Tuple[Dict[str, Any], Dict[str, Question], Any]] = [
    ({"requestState": "s"}, {}, "s"),
    ({"requestState": "s", "inputRequests": {}}, {}, "s"),
    # Absent members that a server writes as null.
    ({"requestState": "s", "inputRequests": None}, {}, "s"),
    (
        {"requestState": None, "inputRequests": {"r": ROOTS}},
        {"r": Question("roots/list", {})},
        None,
    ),
    # Nothing in it, but there is one, and it has to come back.
    ({"requestState": ""}, {}, ""),
    ({"inputRequests": {"r": ROOTS}}, {"r": Question("roots/list", {})}, None),
    (
        {"inputRequests": {"": {**ROOTS, "params": None}}},
        {"": Question("roots/list", {})},
        None,
    ),
    (
        {
            "inputRequests": {"b": ELICIT, "a": CREATE, "c": {**ROOTS, "params": {}}},
            "requestState": "opaque==",
        },
        {
            "b": Question("elicitation/create", FORM),
            "a": Question("sampling/createMessage", SAMPLE),
            "c": Question("roots/list", {}),
        },
        "opaque==",
    ),
    # They have no id, and what else they carry is not looked at.
    (
        {"inputRequests": {"r": {**ROOTS, "jsonrpc": "1.0", "id": {}, "x": 1}}},
        {"r": Question("roots/list", {})},
        None,
    ),
]


@pytest.mark.parametrize("result, questions, state", ASKS)
def test_r2_what_is_asked(
    result: Dict[str, Any], questions: Dict[str, Question], state: Any
) -> None:
    found = asked(**result)
    assert found.questions == questions
    assert list(found.questions) == list(questions)
    assert found.state == state
    assert found.raw == {"resultType": "input_required", **result}


REFUSED: List[Tuple[Dict[str, Any], str]] = [
    ({}, "asks for none"),
    ({"inputRequests": {}}, "asks for none"),
    ({"inputRequests": None, "requestState": None}, "asks for none"),
    ({"requestState": 5}, "requestState is not a string"),
    ({"requestState": {}}, "requestState is not a string"),
    ({"requestState": False}, "requestState is not a string"),
    ({"requestState": [], "inputRequests": {"r": ROOTS}}, "requestState is not"),
    ({"inputRequests": [ROOTS]}, "inputRequests are not an object"),
    ({"inputRequests": []}, "inputRequests are not an object"),
    ({"inputRequests": 0, "requestState": "s"}, "inputRequests are not an object"),
    ({"inputRequests": "", "requestState": "s"}, "inputRequests are not an object"),
    ({"inputRequests": False, "requestState": "s"}, "inputRequests are not an object"),
    *(
        ({"inputRequests": {"good": ROOTS, "k": request}}, "no client can answer")
        for request in (
            None,
            5,
            "roots/list",
            [],
            {},
            {"method": None},
            {"method": 5},
            {"method": ["roots/list"]},
            {"method": {}},
            {"method": ""},
            {"method": "ping"},
            {"method": "tools/call", "params": {}},
            {"method": "elicitation/Create"},
        )
    ),
    *(
        ({"inputRequests": {"k": {**ELICIT, "params": params}}}, "no object")
        for params in ([], [1], 0, 5, "", "x", False, True)
    ),
]


@pytest.mark.parametrize("result, text", REFUSED)
def test_r2_r3_what_nobody_can_answer_fails_the_call(
    result: Dict[str, Any], text: str
) -> None:
    with pytest.raises(UnexpectedResult, match=text):
        asked(**result)


@pytest.mark.parametrize("request_", [ELICIT, CREATE, ROOTS])
def test_r3_only_what_was_declared_may_be_asked(request_: Dict[str, Any]) -> None:
    result = {"inputRequests": {"k": request_}, "requestState": "s"}
    name = {"e": "elicitation", "s": "sampling", "r": "roots"}[request_["method"][0]]
    assert read_input_required(result, {name: {}}).questions
    others = {key: value for key, value in ALL.items() if key != name}
    with pytest.raises(UnexpectedResult, match="%s.*not declared" % name):
        read_input_required(result, others)


@pytest.mark.parametrize(
    "result",
    [
        {"inputRequests": {"\x1b[31m\u202e" * 9999: 5}},
        {"inputRequests": {"k": {"method": "\x1b[31m\u202e" * 9999}}},
    ],
)
def test_r3_hostile_names_are_cleaned_and_clipped(result: Dict[str, Any]) -> None:
    with pytest.raises(UnexpectedResult) as caught:
        asked(**result, requestState="do not show this")
    assert len(str(caught.value)) < 300
    assert str(caught.value).isprintable()
    assert "do not show" not in str(caught.value)


# --- the retry -------------------------------------------------------

PARAMS = {"name": "buy", "arguments": {"n": 1}, "_meta": {"a": 1}}
ANSWERS: Dict[str, Any] = {
    "ok": {"action": "accept", "content": {"y": True}},
    "llm": {"role": "assistant", "content": {"type": "text", "text": "yo"}},
    "r": {"roots": []},
}
THREE = {"ok": ELICIT, "llm": CREATE, "r": ROOTS}

RETRIES: List[Tuple[Dict[str, Any], Any, Dict[str, Any], Dict[str, Any]]] = [
    # Every key comes back, with the bare result of its method.
    (
        {"inputRequests": THREE, "requestState": "opaque=="},
        PARAMS,
        ANSWERS,
        {**PARAMS, "inputResponses": ANSWERS, "requestState": "opaque=="},
    ),
    # No state, none back.
    ({"inputRequests": THREE}, PARAMS, ANSWERS, {**PARAMS, "inputResponses": ANSWERS}),
    # A state alone.
    ({"requestState": "s"}, PARAMS, {}, {**PARAMS, "requestState": "s"}),
    ({"requestState": ""}, PARAMS, {}, {**PARAMS, "requestState": ""}),
    ({"requestState": "s"}, None, {}, {"requestState": "s"}),
    ({"requestState": "s"}, {}, {}, {"requestState": "s"}),
    # What was not asked is not answered.
    (
        {"inputRequests": {"r": ROOTS}},
        {},
        ANSWERS,
        {"inputResponses": {"r": {"roots": []}}},
    ),
    ({"requestState": "s"}, PARAMS, ANSWERS, {**PARAMS, "requestState": "s"}),
    # A round carries its own answers and its own state, and nothing of earlier ones.
    (
        {"inputRequests": {"r": ROOTS}},
        {**PARAMS, "inputResponses": {"old": {}}, "requestState": "old"},
        ANSWERS,
        {**PARAMS, "inputResponses": {"r": {"roots": []}}},
    ),
    (
        {"requestState": "new"},
        {**PARAMS, "inputResponses": {"old": {}}, "requestState": "old"},
        {},
        {**PARAMS, "requestState": "new"},
    ),
]


@pytest.mark.parametrize("result, params, answers, expected", RETRIES)
def test_r4_to_r9_what_a_retry_carries(
    result: Dict[str, Any],
    params: Any,
    answers: Dict[str, Any],
    expected: Dict[str, Any],
) -> None:
    before = json.dumps([params, answers])
    assert asked(**result).retry(params, answers) == expected
    assert json.dumps([params, answers]) == before


def test_r4_a_key_without_an_answer_is_the_callers_mistake() -> None:
    question = asked(inputRequests=THREE, requestState="do not show this")
    with pytest.raises(InvalidArguments, match="'llm', 'r'") as caught:
        question.retry(PARAMS, {"ok": {}})
    assert "do not show" not in str(caught.value)


STATES = [
    "",
    " leading and trailing \t\r\n",
    "eyJhbGciOiJub25lIn0=.e30.",
    '{"looks": "like JSON", "n": 1.0}',
    "\\u0041\\n\"'",
    "é€😀\u2028\u2029\x85\x00\x1b\x7f",
    "e\u0301 is not \u00e9",
    "\ud800 alone, \udfff\ud800 and the wrong way round",
    "\ufeff",
    "=?base64?QQ==?=",
    "x" * 100_000,
]


@pytest.mark.parametrize("state", STATES, ids=range(len(STATES)))
def test_r6_a_state_comes_back_to_the_byte(state: str) -> None:
    wire = json.dumps({"requestState": state}).encode()
    params = asked(**decode(wire)).retry({}, {})
    assert params == {"requestState": state}
    era = ModernEra("2026-07-28", ClientFacts({"name": "t", "version": "1"}))
    body = era.request(2, "tools/call", params).body
    assert dumps(state) in body
    assert json.loads(body)["params"]["requestState"] == state


def test_r6_no_repr_shows_a_state() -> None:
    question = asked(requestState="do not show this", inputRequests={"r": ROOTS})
    assert "do not show" not in repr(question)
    assert "roots/list" in repr(question)


def test_r7_a_retry_is_the_same_request_with_another_id() -> None:
    era = ModernEra("2026-07-28", ClientFacts({"name": "t", "version": "1"}, ALL))
    first = era.request(5, "tools/call", PARAMS)
    outcome = era.incoming(
        "tools/call",
        {"resultType": "input_required", "inputRequests": THREE, "requestState": "s"},
    )
    assert isinstance(outcome, Asked)
    second = era.request(6, "tools/call", outcome.retry(PARAMS, ANSWERS))
    assert (first.id, second.id) == (5, 6)
    # Proxies see no difference.
    assert second.headers == first.headers
    before, after = json.loads(first.body), json.loads(second.body)
    assert after["params"].pop("inputResponses") == ANSWERS
    assert after["params"].pop("requestState") == "s"
    assert after.pop("id") != before.pop("id")
    assert after == before


def test_r7_parallel_requests_know_nothing_of_each_other() -> None:
    question = asked(inputRequests=THREE, requestState="s")
    shared = dict(PARAMS)
    question.retry(shared, ANSWERS)
    assert shared == PARAMS


def test_r9_each_round_starts_from_the_original_parameters() -> None:
    first = asked(inputRequests={"ok": ELICIT}, requestState="one")
    second = asked(inputRequests={"r": ROOTS})
    third = asked(requestState="three")
    assert first.retry(PARAMS, ANSWERS)["requestState"] == "one"
    again = second.retry(PARAMS, ANSWERS)
    assert again["inputResponses"] == {"r": {"roots": []}}
    assert "requestState" not in again
    assert third.retry(PARAMS, {}) == {**PARAMS, "requestState": "three"}
