"""What each era says on the wire, to the byte, and what it makes of results."""

from __future__ import annotations

import json
from typing import Any, Dict, List, Mapping, Optional, Tuple

import pytest

from mcpsync.exceptions import (
    CapabilityMissing,
    InvalidArguments,
    MethodNotInEra,
    UnexpectedResult,
)
from mcpsync.protocol.eras import (
    ClientFacts,
    Complete,
    Era,
    LegacyEra,
    ModernEra,
    Stamp,
)
from mcpsync.protocol.input_required import Asked
from mcpsync.protocol.jsonrpc import Outgoing, Request
from mcpsync.protocol.versions import LEGACY, MODERN

[NEW] = MODERN
ALL = (*MODERN, *LEGACY)
R1, R2, R3, R4 = reversed(LEGACY)

INFO = {"name": "tests", "version": "1"}
DECLARED = {
    "elicitation": {"form": {}, "url": {}},
    "sampling": {},
    "roots": {},
    "extensions": {"com.example/x": {"a": 1}},
}


def era(
    version: str,
    server: Optional[Mapping[str, Any]] = None,
    declared: Optional[Mapping[str, Any]] = None,
) -> Era:
    facts = ClientFacts(INFO, declared or {})
    if version in MODERN:
        return ModernEra(version, facts, server)
    return LegacyEra(version, facts, server)


def legacy(version: str, declared: Optional[Mapping[str, Any]] = None) -> LegacyEra:
    return LegacyEra(version, ClientFacts(INFO, declared or {}))


def identity(declared: Optional[Mapping[str, Any]] = None) -> Dict[str, Any]:
    """The part of ``_meta`` without which a modern server answers nothing."""
    return {
        "io.modelcontextprotocol/protocolVersion": NEW,
        "io.modelcontextprotocol/clientInfo": INFO,
        "io.modelcontextprotocol/clientCapabilities": dict(declared or {}),
    }


def sent(outgoing: Optional[Outgoing]) -> Any:
    assert outgoing is not None
    assert b"\n" not in outgoing.body
    return json.loads(outgoing.body)


# --- requests --------------------------------------------------------------------

META = {"traceparent": "00-1-2-01", "com.example/a": {"b": [1]}}

#: Parameters, stamp; parameters on the wire in legacy eras; ``_meta`` beyond the
#: identity in the modern one. The other parameters are the same in all eras.
REQUESTS: List[Tuple[Any, Stamp, Any, Dict[str, Any]]] = [
    (None, Stamp(), None, {}),
    ({}, Stamp(), None, {}),
    ({"a": 1}, Stamp(), {"a": 1}, {}),
    ({"a": None}, Stamp(), {"a": None}, {}),
    (None, Stamp(META), {"_meta": META}, META),
    ({"a": 1}, Stamp(META), {"a": 1, "_meta": META}, META),
    # What is in the parameters stays there.
    ({"_meta": META}, Stamp(), {"_meta": META}, META),
    ({"_meta": None}, Stamp({"x": 1}), {"_meta": {"x": 1}}, {"x": 1}),
    ({"_meta": META}, Stamp({"x": 1}), {"_meta": {**META, "x": 1}}, {**META, "x": 1}),
    ({"_meta": {"x": 0}}, Stamp({"x": 1}), {"_meta": {"x": 1}}, {"x": 1}),
    # The token is the id, which no other request has.
    (
        None,
        Stamp(wants_progress=True),
        {"_meta": {"progressToken": 5}},
        {"progressToken": 5},
    ),
    (
        {"_meta": {"progressToken": "mine"}},
        Stamp({"x": 1}, wants_progress=True),
        {"_meta": {"x": 1, "progressToken": 5}},
        {"x": 1, "progressToken": 5},
    ),
    # Levels are set by a request of their own, where there is a session to keep them.
    (
        {"a": 1},
        Stamp(log_level="info"),
        {"a": 1},
        {"io.modelcontextprotocol/logLevel": "info"},
    ),
    (
        None,
        Stamp(META, True, "debug", {"Mcp-Param-Region": "eu"}),
        {"_meta": {**META, "progressToken": 5}},
        {**META, "progressToken": 5, "io.modelcontextprotocol/logLevel": "debug"},
    ),
]


@pytest.mark.parametrize("version", LEGACY)
@pytest.mark.parametrize("params, stamp, wire, _", REQUESTS)
def test_legacy_requests(
    version: str, params: Any, stamp: Stamp, wire: Any, _: Any
) -> None:
    outgoing = era(version, declared=DECLARED).request(5, "tools/list", params, stamp)
    expected = {"jsonrpc": "2.0", "id": 5, "method": "tools/list"}
    if wire is not None:
        expected["params"] = wire
    assert sent(outgoing) == expected
    assert outgoing.headers == {}
    assert outgoing.progress_token == (5 if stamp.wants_progress else None)
    assert outgoing.accepts_requests and outgoing.resumable
    assert outgoing.cancellation == "notify"
    assert not outgoing.opens_session
    assert (outgoing.id, outgoing.method) == (5, "tools/list")


@pytest.mark.parametrize("params, stamp, _, meta", REQUESTS)
def test_modern_requests(params: Any, stamp: Stamp, _: Any, meta: Any) -> None:
    outgoing = era(NEW, declared=DECLARED).request(5, "tools/list", params, stamp)
    rest = {key: value for key, value in (params or {}).items() if key != "_meta"}
    assert sent(outgoing) == {
        "jsonrpc": "2.0",
        "id": 5,
        "method": "tools/list",
        "params": {**rest, "_meta": {**meta, **identity(DECLARED)}},
    }
    assert outgoing.headers == {
        "MCP-Protocol-Version": NEW,
        "Mcp-Method": "tools/list",
        **stamp.headers,
    }
    assert outgoing.progress_token == (5 if stamp.wants_progress else None)
    assert not outgoing.accepts_requests and not outgoing.resumable
    assert outgoing.cancellation == "close"
    assert not outgoing.opens_session
    assert (outgoing.id, outgoing.method) == (5, "tools/list")


def test_nobody_passes_for_another_client() -> None:
    forged = {key: "forged" for key in identity()}
    outgoing = era(NEW).request(1, "tools/list", {"_meta": forged}, Stamp(forged))
    assert sent(outgoing)["params"]["_meta"] == identity()


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("meta", [5, "x", ["a"], False])
def test_meta_must_be_an_object(version: str, meta: Any) -> None:
    with pytest.raises(InvalidArguments, match="_meta must be an object"):
        era(version).request(1, "tools/list", {"_meta": meta}, Stamp({"a": 1}))


@pytest.mark.parametrize("version", ALL)
def test_the_callers_parameters_are_left_alone(version: str) -> None:
    params = {"name": "t", "arguments": {"a": 1}, "_meta": {"b": 2}}
    stamp = Stamp({"c": 3}, True, "info")
    before = json.dumps(params)
    speaker = era(version)
    first = speaker.request(1, "tools/call", params, stamp)
    assert sent(first) != sent(speaker.request(2, "tools/call", params, stamp))
    assert json.dumps(params) == before
    assert stamp == Stamp({"c": 3}, True, "info")


@pytest.mark.parametrize("version", ALL)
def test_what_cannot_be_sent_is_refused(version: str) -> None:
    speaker = era(version)
    with pytest.raises(InvalidArguments):
        speaker.request(1, "tools/call", {"name": "t", "arguments": {"a": {1}}})
    with pytest.raises(InvalidArguments):
        speaker.request(1, "tools/call", {"name": "t"}, Stamp({"a": float("nan")}))
    with pytest.raises(InvalidArguments):
        speaker.notification("notifications/x", {"a": object()})


# --- headers ---------------------------------------------------------------------

#: Method, parameters, ``Mcp-Name``.
NAMES: List[Tuple[str, Any, Optional[str]]] = [
    ("tools/call", {"name": "add"}, "add"),
    ("tools/call", {"name": "add", "uri": "file:///a"}, "add"),
    ("tools/call", {"name": ""}, ""),
    ("tools/call", {"name": "a b"}, "a b"),
    ("tools/call", {"name": "é"}, "=?base64?w6k=?="),
    ("tools/call", {"name": " a"}, "=?base64?IGE=?="),
    ("tools/call", {"name": "a\r\nX: y"}, "=?base64?YQ0KWDogeQ==?="),
    ("tools/call", {"name": "=?base64?QQ==?="}, "=?base64?PT9iYXNlNjQ/UVE9PT89?="),
    ("tools/call", {"name": 5}, None),
    ("tools/call", {}, None),
    ("tools/call", None, None),
    ("prompts/get", {"name": "p"}, "p"),
    ("resources/read", {"uri": "file:///a", "name": "n"}, "file:///a"),
    ("resources/read", {"uri": "file:///ü"}, "=?base64?ZmlsZTovLy/DvA==?="),
    ("tasks/get", {"taskId": "t"}, "t"),
    ("tasks/update", {"taskId": "t"}, "t"),
    ("tasks/cancel", {"taskId": "t"}, "t"),
    ("tools/list", {"name": "add"}, None),
    ("completion/complete", {"name": "add"}, None),
    ("server/discover", None, None),
]


@pytest.mark.parametrize("method, params, name", NAMES)
def test_headers_mirror_the_body(method: str, params: Any, name: Optional[str]) -> None:
    expected = {"MCP-Protocol-Version": NEW, "Mcp-Method": method}
    if name is not None:
        expected["Mcp-Name"] = name
    assert era(NEW).request(1, method, params).headers == expected
    assert era(NEW).notification(method, params).headers == expected


@pytest.mark.parametrize("method", ["a\r\nX: y", "é", "x\x00", " x"])
def test_a_method_cannot_break_out_of_its_header(method: str) -> None:
    for outgoing in (era(NEW).request(1, method, None), era(NEW).notification(method)):
        assert sent(outgoing)["method"] == method
        assert outgoing.headers["Mcp-Method"].startswith("=?base64?")
        assert outgoing.headers["Mcp-Method"].isprintable()


@pytest.mark.parametrize("version", LEGACY)
def test_headers_of_legacy_revisions(version: str) -> None:
    named = {"MCP-Protocol-Version": version} if version in (R3, R4) else {}
    assert legacy(version).http_headers() == named
    # Not before the answer: the version is only being offered.
    assert legacy(version).initialize(1).headers == {}
    assert legacy(version).notification("notifications/initialized").headers == named


@pytest.mark.parametrize("version", ALL)
def test_only_modern_requests_mirror_their_parameters(version: str) -> None:
    assert era(version).mirrors_parameters == (version in MODERN)


# --- the handshake, notifications, answers ---------------------------------------


@pytest.mark.parametrize("version", LEGACY)
def test_initialize(version: str) -> None:
    outgoing = legacy(version, DECLARED).initialize(3)
    assert sent(outgoing) == {
        "jsonrpc": "2.0",
        "id": 3,
        "method": "initialize",
        "params": {
            "protocolVersion": version,
            "capabilities": {**DECLARED, "roots": {"listChanged": True}},
            "clientInfo": INFO,
        },
    }
    assert (outgoing.id, outgoing.method) == (3, "initialize")
    assert outgoing.cancellation == "never" and outgoing.notice is None
    assert outgoing.accepts_requests and outgoing.opens_session
    assert not outgoing.resumable and outgoing.progress_token is None
    assert DECLARED["roots"] == {}


def test_only_what_somebody_can_answer_is_declared() -> None:
    assert sent(legacy(R4).initialize(1))["params"]["capabilities"] == {}
    modern = sent(era(NEW).request(1, "tools/list", None))
    assert modern["params"]["_meta"] == identity({})
    roots = sent(legacy(R1, {"roots": {}}).initialize(1))["params"]["capabilities"]
    assert roots == {"roots": {"listChanged": True}}
    # There is nothing that could tell a modern server of a change.
    modern = sent(era(NEW, declared={"roots": {}}).request(1, "tools/list", None))
    assert modern["params"]["_meta"] == identity({"roots": {}})


@pytest.mark.parametrize("version", LEGACY)
def test_legacy_notifications(version: str) -> None:
    speaker = era(version, declared=DECLARED)
    method = "notifications/x"
    outgoing = speaker.notification(method)
    assert sent(outgoing) == {"jsonrpc": "2.0", "method": method}
    assert sent(speaker.notification(method, {})) == sent(outgoing)
    params = {"a": 1, "_meta": {"b": 2}}
    assert sent(speaker.notification(method, params))["params"] == params
    assert outgoing.id is None and outgoing.method == method
    assert outgoing.notice is None and not outgoing.accepts_requests


def test_modern_notifications() -> None:
    speaker = era(NEW, declared=DECLARED)
    outgoing = speaker.notification("notifications/x", {"a": 1, "_meta": {"b": 2}})
    assert sent(outgoing) == {
        "jsonrpc": "2.0",
        "method": "notifications/x",
        "params": {"a": 1, "_meta": {"b": 2, **identity(DECLARED)}},
    }
    assert outgoing.headers == {
        "MCP-Protocol-Version": NEW,
        "Mcp-Method": "notifications/x",
    }
    assert outgoing.id is None and outgoing.notice is None
    bare = sent(speaker.notification("notifications/x"))
    assert bare["params"] == {"_meta": identity(DECLARED)}


@pytest.mark.parametrize("version", ALL)
def test_the_notice_of_a_cancellation(version: str) -> None:
    outgoing = era(version).request(5, "tools/call", {"name": "t"}, Stamp(META, True))
    assert outgoing.notice is not None
    notice = outgoing.notice("timed out")
    message = sent(notice)
    meta = message["params"].pop("_meta", None)
    assert message == {
        "jsonrpc": "2.0",
        "method": "notifications/cancelled",
        "params": {"requestId": 5, "reason": "timed out"},
    }
    assert meta == (identity() if version in MODERN else None)
    assert notice.id is None and notice.notice is None


ANSWERS: List[Tuple[Any, Any, Dict[str, Any]]] = [
    (None, None, {"result": {}}),
    ({}, None, {"result": {}}),
    ({"action": "accept"}, None, {"result": {"action": "accept"}}),
    (None, (-32601, "no"), {"error": {"code": -32601, "message": "no"}}),
    ({"a": 1}, (-1, "no"), {"error": {"code": -1, "message": "no"}}),
]


@pytest.mark.parametrize("result, error, expected", ANSWERS)
@pytest.mark.parametrize("id", ["s1", 7, ""])
def test_legacy_answers(id: Any, result: Any, error: Any, expected: Any) -> None:
    for version in LEGACY:
        outgoing = era(version).answer(Request(id, "roots/list", {}), result, error)
        assert sent(outgoing) == {"jsonrpc": "2.0", "id": id, **expected}
        assert outgoing is not None and outgoing.id is None and outgoing.method == ""


@pytest.mark.parametrize("result, error, _", ANSWERS)
@pytest.mark.parametrize("method", ["ping", "roots/list", "elicitation/create", "x"])
def test_modern_clients_never_answer(
    method: str, result: Any, error: Any, _: Any
) -> None:
    speaker = era(NEW, declared=DECLARED)
    assert speaker.answer(Request("s1", method, {}), result, error) is None
    assert method not in speaker.questions


# --- methods ---------------------------------------------------------------------

#: DT-8: what the server may ask, by revision; ``-`` is answered by -32601 or dropped.
QUESTIONS = {
    "ping": {R1, R2, R3, R4},
    "sampling/createMessage": {R1, R2, R3, R4},
    "roots/list": {R1, R2, R3, R4},
    "elicitation/create": {R3, R4},
    "tasks/get": set(),
    "tasks/list": set(),
    "tools/list": set(),
    "server/discover": set(),
}


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("method", QUESTIONS)
def test_dt8_what_a_server_may_ask(method: str, version: str) -> None:
    assert (method in era(version).questions) == (version in QUESTIONS[method])


@pytest.mark.parametrize("version", LEGACY)
def test_dt8_where_batches_are_handled(version: str) -> None:
    assert legacy(version).allows_batches == (version == R2)


OLD_ONLY = {R1, R2, R3, R4}
ANY = {R1, R2, R3, R4, NEW}

METHODS = {
    "initialize": OLD_ONLY,
    "notifications/initialized": OLD_ONLY,
    "ping": OLD_ONLY,
    "logging/setLevel": OLD_ONLY,
    "resources/subscribe": OLD_ONLY,
    "resources/unsubscribe": OLD_ONLY,
    "notifications/roots/list_changed": OLD_ONLY,
    "server/discover": {NEW},
    "subscriptions/listen": {NEW},
    "tasks/get": {R4, NEW},
    "tasks/cancel": {R4, NEW},
    "tasks/result": {R4},
    "tasks/list": {R4},
    "tasks/update": {NEW},
    "tools/list": ANY,
    "tools/call": ANY,
    "prompts/get": ANY,
    "completion/complete": ANY,
    "notifications/cancelled": ANY,
    "com.example/anything": ANY,
}


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("method", METHODS)
def test_methods_by_era(method: str, version: str) -> None:
    speaker = era(version)
    if version in METHODS[method]:
        speaker.check_method(method)
        assert sent(speaker.request(1, method, None))["method"] == method
        assert sent(speaker.notification(method))["method"] == method
        return
    for attempt in (
        lambda: speaker.check_method(method),
        lambda: speaker.request(1, method, None),
        lambda: speaker.notification(method),
    ):
        with pytest.raises(MethodNotInEra, match="%s has no %s" % (version, method)):
            attempt()


@pytest.mark.parametrize("version", ALL)
def test_ping(version: str) -> None:
    expected = "server/discover" if version in MODERN else "ping"
    assert era(version).ping() == (expected, {})


@pytest.mark.parametrize("version", ALL)
def test_roots_changed(version: str) -> None:
    call = era(version).roots_changed()
    if version in MODERN:
        assert call is None
        return
    assert call is not None
    assert sent(era(version).notification(*call)) == {
        "jsonrpc": "2.0",
        "method": "notifications/roots/list_changed",
    }


@pytest.mark.parametrize("declared", [{}, True, {"x": 1}])
def test_the_log_level(declared: Any) -> None:
    for version in LEGACY:
        call = era(version, {"logging": declared}).log_level_call("info")
        assert call == ("logging/setLevel", {"level": "info"})
    # Each request carries it.
    assert era(NEW, {"logging": declared}).log_level_call("info") is None


ABSENT: List[Any] = [None, {}, {"logging": None}, {"logging": False}, {"tools": {}}]


@pytest.mark.parametrize("server", ABSENT)
def test_the_log_level_where_there_is_no_logging(server: Any) -> None:
    for version in LEGACY:
        with pytest.raises(CapabilityMissing, match="did not declare logging"):
            era(version, server).log_level_call("info")
    assert era(NEW, server).log_level_call("info") is None


REF = {"type": "ref/prompt", "name": "p"}
ARGUMENT = {"name": "lang", "value": "py"}


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("context", [None, {}, {"x": "1"}])
def test_completion(version: str, context: Any) -> None:
    speaker = era(version, {"completions": {}})
    expected: Dict[str, Any] = {"ref": REF, "argument": ARGUMENT}
    if context is not None and version in (R3, R4, NEW):
        expected["context"] = {"arguments": context}
    assert speaker.completion(REF, ARGUMENT, context) == expected


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("server", [None, {}, {"completions": None}, {"prompts": {}}])
def test_completion_without_its_capability(version: str, server: Any) -> None:
    speaker = era(version, server)
    if version == R1:
        # There was none yet.
        assert speaker.completion(REF, ARGUMENT, None)["ref"] == REF
        return
    with pytest.raises(CapabilityMissing, match="did not declare completions"):
        speaker.completion(REF, ARGUMENT, None)


URI = "file:///a"


@pytest.mark.parametrize("version", ALL)
def test_subscribing(version: str) -> None:
    speaker = era(version, {"resources": {"subscribe": True}})
    assert speaker.subscribes_by_listening == (version in MODERN)
    if version in MODERN:
        wanted = {"resourceSubscriptions": [URI]}
        call = ("subscriptions/listen", {"notifications": wanted})
        assert speaker.subscribe(URI) == call
        with pytest.raises(MethodNotInEra):
            speaker.unsubscribe(URI)
        return
    assert speaker.subscribe(URI) == ("resources/subscribe", {"uri": URI})
    assert speaker.unsubscribe(URI) == ("resources/unsubscribe", {"uri": URI})


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize(
    "server", [None, {}, {"resources": {}}, {"resources": {"subscribe": False}}]
)
def test_subscribing_where_that_is_not_offered(version: str, server: Any) -> None:
    with pytest.raises(CapabilityMissing, match="declare resources.subscribe"):
        era(version, server).subscribe(URI)


@pytest.mark.parametrize("odd", [5, "x", [], True])
def test_odd_capabilities_are_no_capabilities(odd: Any) -> None:
    with pytest.raises(CapabilityMissing):
        era(R4, {"resources": odd}).subscribe(URI)


# --- DT-4: results ---------------------------------------------------------------

MULTI_ROUND = ("tools/call", "prompts/get", "resources/read")
ASKS = {"resultType": "input_required", "requestState": "s"}


@pytest.mark.parametrize("version", LEGACY)
@pytest.mark.parametrize("kind", ["complete", "input_required", "task", "x", 5, None])
def test_dt4_legacy_ignores_the_type_of_a_result(version: str, kind: Any) -> None:
    result = {"resultType": kind, "requestState": "s", "inputRequests": {}, "a": 1}
    for method in (*MULTI_ROUND, "tools/list"):
        outcome = era(version).incoming(method, result)
        assert isinstance(outcome, Complete)
        assert outcome.result is result


@pytest.mark.parametrize("method", [*MULTI_ROUND, "tools/list", "x"])
@pytest.mark.parametrize(
    "result",
    [
        {},
        {"resultType": "complete", "a": 1},
        # Without a type it is final, whatever else it looks like.
        {"requestState": "s", "inputRequests": {"k": {"method": "roots/list"}}},
        {"resultType": "complete", "requestState": "s", "inputRequests": {}},
    ],
)
def test_dt4_modern_complete(method: str, result: Dict[str, Any]) -> None:
    outcome = era(NEW).incoming(method, result)
    assert isinstance(outcome, Complete)
    assert outcome.result is result


@pytest.mark.parametrize("method", MULTI_ROUND)
def test_dt4_modern_input_required(method: str) -> None:
    outcome = era(NEW).incoming(method, ASKS)
    assert isinstance(outcome, Asked)
    assert outcome.state == "s" and outcome.raw is ASKS


@pytest.mark.parametrize(
    "method",
    ["tools/list", "prompts/list", "resources/list", "server/discover", "tasks/get"],
)
def test_dt4_modern_input_required_elsewhere(method: str) -> None:
    with pytest.raises(UnexpectedResult, match="%s.*input_required" % method):
        era(NEW).incoming(method, ASKS)


@pytest.mark.parametrize("method", [*MULTI_ROUND, "tools/list"])
@pytest.mark.parametrize("kind", ["task", "x", "Complete", "", None, 5, [], {}, True])
def test_dt4_modern_anything_else(method: str, kind: Any) -> None:
    with pytest.raises(UnexpectedResult, match=method):
        era(NEW).incoming(method, {"resultType": kind, "taskId": "t"})


@pytest.mark.parametrize("version", ALL)
@pytest.mark.parametrize("result", [None, 5, "x", [], [{}], True, 1.5])
def test_dt4_a_result_is_an_object(version: str, result: Any) -> None:
    with pytest.raises(UnexpectedResult, match="the result of tools/call is not an"):
        era(version).incoming("tools/call", result)


def test_dt4_a_hostile_type_is_cleaned_and_clipped() -> None:
    for kind in ("\x1b[31m\u202e" * 9999, {"\ud800" * 9999: []}):
        with pytest.raises(UnexpectedResult) as caught:
            era(NEW).incoming("tools/call", {"resultType": kind})
        assert len(str(caught.value)) < 300
        assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "method, capability",
    [
        ("elicitation/create", "elicitation"),
        ("sampling/createMessage", "sampling"),
        ("roots/list", "roots"),
    ],
)
def test_only_what_was_declared_may_be_asked(method: str, capability: str) -> None:
    asks = {"resultType": "input_required", "inputRequests": {"k": {"method": method}}}
    willing = era(NEW, declared={capability: {}}).incoming("tools/call", asks)
    assert isinstance(willing, Asked) and list(willing.questions) == ["k"]
    with pytest.raises(UnexpectedResult, match="not declared"):
        era(NEW).incoming("tools/call", asks)
