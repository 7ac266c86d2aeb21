"""The behaviour of the demo server, without a transport."""

from __future__ import annotations

import base64
import json
import threading

import pytest

from mcpsync import demo as package
from mcpsync.demo import Cancellation, Crash, Demo

from .speaking import (
    ALL_CAPABILITIES,
    ANSWERS,
    LEGACY,
    MODERN,
    OUTCOMES,
    PREFIX,
    QUESTIONS,
    answer,
    call,
    cancelled,
    initialize,
    listen,
    modern,
    modern_call,
    request,
)


def ask(demo, message, session=None):
    messages = []
    demo.handle(message, messages.append, session)
    return messages


def result_of(demo, message, session=None):
    return ask(demo, message, session)[-1]["result"]


def error_of(demo, message, session=None):
    return ask(demo, message, session)[-1]["error"]


def legacy_session(demo, version=LEGACY[0], capabilities=None, notify=None):
    session = demo.open_session(notify or (lambda message: None))
    ask(demo, initialize(version, capabilities), session)
    return session


def test_discover_lists_versions_and_caching():
    result = result_of(Demo(name="x"), modern(1, "server/discover"))
    assert result["supportedVersions"] == [MODERN, *LEGACY]
    assert result["resultType"] == "complete"
    assert result["ttlMs"] > 0 and result["cacheScope"] == "public"
    assert result["_meta"][PREFIX + "serverInfo"]["name"] == "x"


@pytest.mark.parametrize("version", LEGACY)
def test_initialize_takes_the_offered_version(version):
    demo = Demo()
    session = demo.open_session(lambda message: None)
    result = result_of(demo, initialize(version), session)
    assert result["protocolVersion"] == version
    assert ("completions" in result["capabilities"]) == (version >= "2025-03-26")
    tools = result_of(demo, request(1, "tools/list"), session)["tools"]
    add = next(tool for tool in tools if tool["name"] == "add")
    assert ("outputSchema" in add) == (version >= "2025-06-18")
    assert ("annotations" in add) == (version >= "2025-03-26")
    added = result_of(demo, call(2, "add", {"a": 1, "b": 2.5}), session)
    assert json.loads(added["content"][0]["text"]) == {"sum": 3.5}
    assert ("structuredContent" in added) == (version >= "2025-06-18")
    assert "resultType" not in added and "_meta" not in added


@pytest.mark.parametrize(
    "offered, agreed", [("2025-11-25", "2025-06-18"), ("2024-11-05", "2024-11-05")]
)
def test_protocol_option_limits_the_version(offered, agreed):
    demo = Demo(protocol="2025-06-18")
    session = demo.open_session(lambda message: None)
    result = result_of(demo, initialize(offered), session)
    assert result["protocolVersion"] == agreed


def test_modern_server_names_versions_to_initialize():
    demo = Demo(era="modern")
    session = demo.open_session(lambda message: None)
    error = error_of(demo, initialize(), session)
    assert error["code"] == -32022
    assert error["data"] == {"supported": [MODERN], "requested": LEGACY[0]}
    assert MODERN in error["message"]


def test_legacy_server_knows_no_discover():
    demo = Demo(era="legacy")
    session = demo.open_session(lambda message: None)
    error = error_of(demo, modern(1, "server/discover"), session)
    assert error["code"] == -32601


def test_modern_request_is_judged_by_its_meta():
    demo = Demo(era="modern")
    message = modern(1, "tools/list")
    meta = message["params"]["_meta"]
    meta[PREFIX + "protocolVersion"] = "2027-01-01"
    error = error_of(demo, message)
    assert error["code"] == -32022
    assert error["data"] == {"supported": [MODERN], "requested": "2027-01-01"}
    meta[PREFIX + "protocolVersion"] = MODERN
    del meta[PREFIX + "clientCapabilities"]
    assert error_of(demo, message)["code"] == -32602
    assert error_of(demo, request(1, "tools/list"))["code"] == -32602
    assert error_of(demo, modern(1, "ping"))["code"] == -32601
    assert error_of(demo, modern(None, "tools/list"))["code"] == -32600


@pytest.mark.parametrize("options", [{"era": "x"}, {"protocol": "x"}, {"page_size": 0}])
def test_bad_options(options):
    with pytest.raises(ValueError):
        Demo(**options)


def test_legacy_needs_initialize_once():
    demo = Demo()
    session = demo.open_session(lambda message: None)
    assert result_of(demo, request(1, "ping"), session) == {}
    assert error_of(demo, request(2, "tools/list"), session)["code"] == -32600
    ask(demo, initialize(), session)
    assert error_of(demo, initialize(), session)["code"] == -32600


def test_echo_and_environment(monkeypatch):
    monkeypatch.delenv("MCP_TEST_VALUE", raising=False)
    demo = Demo()
    result = result_of(demo, modern_call(1, "echo", {"message": "a\u2028b"}))
    assert result["structuredContent"] == {"echo": "ECHOING: a\u2028b", "env": None}
    assert json.loads(result["content"][0]["text"]) == result["structuredContent"]
    monkeypatch.setenv("MCP_TEST_VALUE", "v")
    result = result_of(demo, modern_call(1, "echo", {"message": ""}))
    assert result["structuredContent"] == {"echo": "ECHOING: ", "env": "v"}


def test_plain_tools():
    demo = Demo()
    failed = result_of(demo, modern_call(1, "fail", {"message": "no"}))
    assert failed["isError"] and failed["content"][0]["text"] == "no"
    picture, text = result_of(demo, modern_call(1, "image"))["content"]
    assert base64.b64decode(picture["data"]).startswith(b"\x89PNG\r\n\x1a\n")
    assert picture["mimeType"] == "image/png" and text["type"] == "text"
    blob = result_of(demo, modern_call(1, "blob", {"size": 1000}))
    assert len(blob["content"][0]["text"]) == 1000
    region = result_of(demo, modern_call(1, "region_echo", {"region": "eu"}))
    assert region["structuredContent"] == {"region": "eu"}
    with pytest.raises(Crash):
        ask(demo, modern_call(1, "crash"))
    assert demo.stats["in_flight"] == 0 and demo.stats["calls"] == 5


@pytest.mark.parametrize(
    "tool, arguments", [("add", {"a": 1}), ("add", {"a": "1", "b": 2}), ("echo", [])]
)
def test_bad_arguments(tool, arguments):
    demo = Demo()
    message = modern_call(1, tool)
    message["params"]["arguments"] = arguments
    assert result_of(demo, message)["isError"]
    old = legacy_session(demo, "2025-06-18")
    del message["params"]["_meta"]
    assert error_of(demo, message, old)["code"] == -32602


def test_unknown_tool():
    assert error_of(Demo(), modern_call(1, "nope"))["code"] == -32602


def test_log_follows_the_level():
    demo = Demo()
    wanted = modern_call(1, "log", {"message": "m"}, meta={PREFIX + "logLevel": "info"})
    assert ask(demo, wanted)[0]["params"] == {
        "level": "info",
        "logger": "demo",
        "data": "m",
    }
    assert len(ask(demo, modern_call(2, "log", {"message": "m"}))) == 1
    session = legacy_session(demo)
    loud = {"message": "m", "level": "error"}
    assert len(ask(demo, call(1, "log", loud), session)) == 2
    ask(demo, request(2, "logging/setLevel", level="critical"), session)
    assert len(ask(demo, call(3, "log", loud), session)) == 1
    bad = request(4, "logging/setLevel", level="x")
    assert error_of(demo, bad, session)["code"] == -32602


def test_progress_only_with_a_token():
    demo = Demo()
    silent = modern_call(1, "count", {"to": 2, "delay": 0})
    assert len(ask(demo, silent)) == 1
    silent["params"]["_meta"]["progressToken"] = "p"
    first, second, last = ask(demo, silent)
    assert first["params"]["progressToken"] == "p" and first["params"]["message"]
    assert [m["params"]["progress"] for m in (first, second)] == [1, 2]
    assert last["result"]["structuredContent"] == {"counted": 2}
    session = legacy_session(demo, "2024-11-05")
    message = call(2, "count", {"to": 1, "delay": 0}, _meta={"progressToken": 7})
    assert ask(demo, message, session)[0]["params"] == {
        "progressToken": 7,
        "progress": 1,
        "total": 1,
    }
    assert demo.stats["progress_sent"] == 3


def test_pages_with_the_empty_cursor():
    demo = Demo(page_size=4)
    names, cursors, params = [], [], {}
    while True:
        result = result_of(demo, modern(1, "tools/list", **params))
        assert len(result["tools"]) <= 4
        names += [tool["name"] for tool in result["tools"]]
        if "nextCursor" not in result:
            break
        cursors.append(result["nextCursor"])
        params = {"cursor": cursors[-1]}
    whole = result_of(Demo(), modern(1, "tools/list"))
    assert "nextCursor" not in whole
    assert names == [tool["name"] for tool in whole["tools"]]
    assert cursors[0] == "" and len(set(cursors)) == len(cursors) > 2
    for cursor in ("nope", "page-99", 3):
        error = error_of(demo, modern(1, "tools/list", cursor=cursor))
        assert error["code"] == -32602
    assert error_of(Demo(), modern(1, "tools/list", cursor=""))["code"] == -32602


def test_resources():
    demo = Demo()
    session = legacy_session(demo)
    listed = result_of(demo, modern(1, "resources/list"))["resources"]
    assert [entry["uri"] for entry in listed] == ["demo://greeting", "demo://logo"]
    templates = result_of(demo, request(1, "resources/templates/list"), session)
    assert templates["resourceTemplates"][0]["uriTemplate"] == "demo://item/{id}"
    read = result_of(demo, modern(1, "resources/read", uri="demo://item/7"))
    assert read["contents"][0]["text"] == "Item 7" and "ttlMs" in read
    logo = result_of(demo, request(1, "resources/read", uri="demo://logo"), session)
    assert base64.b64decode(logo["contents"][0]["blob"]).startswith(b"\x89PNG")
    assert "ttlMs" not in logo
    for uri in ("demo://item/101", "demo://nope"):
        error = error_of(demo, modern(1, "resources/read", uri=uri))
        assert (error["code"], error["data"]) == (-32602, {"uri": uri})
        error = error_of(demo, request(1, "resources/read", uri=uri), session)
        assert (error["code"], error["data"]) == (-32002, {"uri": uri})


def test_prompts():
    demo = Demo()
    assert (
        result_of(demo, modern(1, "prompts/list"))["prompts"][0]["name"] == "greeting"
    )
    arguments = {"name": "Ann", "style": "formal"}
    got = result_of(
        demo, modern(1, "prompts/get", name="greeting", arguments=arguments)
    )
    assert "formal" in got["messages"][0]["content"]["text"]
    assert "Ann" in got["messages"][0]["content"]["text"]
    bad = [("nope", {}), ("greeting", {}), ("greeting", {"name": "x", "style": "y"})]
    for name, arguments in bad:
        message = modern(1, "prompts/get", name=name, arguments=arguments)
        assert error_of(demo, message)["code"] == -32602


def test_completion():
    demo = Demo()

    def complete(ref, name, value):
        argument = {"name": name, "value": value}
        message = modern(1, "completion/complete", ref=ref, argument=argument)
        return ask(demo, message)[0]

    prompt = {"type": "ref/prompt", "name": "greeting"}
    found = complete(prompt, "style", "f")["result"]["completion"]
    assert found == {"values": ["formal", "friendly"], "total": 2, "hasMore": False}
    template = {"type": "ref/resource", "uri": "demo://item/{id}"}
    found = complete(template, "id", "")["result"]["completion"]
    assert (len(found["values"]), found["total"], found["hasMore"]) == (20, 100, True)
    assert complete({"type": "ref/prompt", "name": "x"}, "y", "")["error"]


@pytest.mark.parametrize("tool, arguments, method", QUESTIONS)
def test_multi_round_trip(tool, arguments, method):
    demo = Demo()
    message = modern_call(1, tool, arguments, capabilities=ALL_CAPABILITIES)
    interim = result_of(demo, message)
    assert interim["resultType"] == "input_required"
    ((key, question),) = interim["inputRequests"].items()
    assert question["method"] == method and set(question) <= {"method", "params"}
    message["params"]["inputResponses"] = {key: ANSWERS[tool]}
    assert error_of(demo, message)["code"] == -32602, "requestState is missing"
    message["params"]["requestState"] = interim["requestState"] + " "
    assert error_of(demo, message)["code"] == -32602, "requestState was altered"
    message["params"]["requestState"] = interim["requestState"]
    final = result_of(demo, message)
    assert final["resultType"] == "complete"
    assert final["structuredContent"] == OUTCOMES[tool]
    # Without an answer the same question comes again.
    message["params"]["inputResponses"] = {}
    assert result_of(demo, message)["inputRequests"] == interim["inputRequests"]


@pytest.mark.parametrize("tool, arguments, method", QUESTIONS)
def test_capability_is_required(tool, arguments, method):
    demo = Demo()
    error = error_of(demo, modern_call(1, tool, arguments))
    capability = method.split("/")[0]
    assert error["code"] == -32021
    assert error["data"] == {"requiredCapabilities": {capability: {}}}
    session = legacy_session(demo)
    assert result_of(demo, call(1, tool, arguments), session)["isError"]


def test_several_rounds_keep_answers_in_the_state():
    demo = Demo()
    extra, rounds = {}, 0
    while True:
        message = modern_call(
            1, "survey", {"rounds": 3}, capabilities={"elicitation": {}}, **extra
        )
        result = result_of(demo, message)
        if result["resultType"] == "complete":
            break
        rounds += 1
        (key,) = result["inputRequests"]
        given = {"action": "accept", "content": {"answer": f"a{rounds}"}}
        extra = {"inputResponses": {key: given}, "requestState": result["requestState"]}
    answers = result["structuredContent"]["answers"]
    assert [entry["content"]["answer"] for entry in answers] == ["a1", "a2", "a3"]


def test_form_has_defaults_of_every_kind():
    message = modern_call(1, "ask", {"question": "q"}, capabilities={"elicitation": {}})
    requests = result_of(Demo(), message)["inputRequests"]
    params = next(iter(requests.values()))["params"]
    fields = params["requestedSchema"]["properties"]
    assert params["message"] == "q" and params["mode"] == "form"
    kinds = {name: type(field["default"]) for name, field in fields.items()}
    assert kinds == {"name": str, "age": int, "ok": bool, "color": str}
    assert fields["color"]["default"] in fields["color"]["enum"]


@pytest.mark.parametrize("tool, arguments, method", QUESTIONS)
def test_legacy_question(tool, arguments, method):
    demo = Demo()
    session = legacy_session(demo, capabilities=ALL_CAPABILITIES)
    messages = []

    def send(message):
        messages.append(message)
        if "method" in message:
            assert message["method"] == method
            session.deliver(answer(message, ANSWERS[tool]))

    demo.handle(call(1, tool, arguments), send, session)
    assert messages[-1]["result"]["structuredContent"] == OUTCOMES[tool]


def test_legacy_question_refused():
    demo = Demo()
    session = legacy_session(demo, capabilities=ALL_CAPABILITIES)
    messages = []

    def send(message):
        messages.append(message)
        if "method" in message:
            error = {"code": -1, "message": "user said no"}
            session.deliver({"jsonrpc": "2.0", "id": message["id"], "error": error})

    demo.handle(call(1, "summarize", {"text": "x"}), send, session)
    assert messages[-1]["result"]["isError"]
    assert "user said no" in messages[-1]["result"]["content"][0]["text"]


def test_nonsense_is_answered():
    demo = Demo()
    session = legacy_session(demo, capabilities=ALL_CAPABILITIES)
    messages = []

    def send(message):
        messages.append(message)
        if "method" in message:
            session.deliver(answer(message, {"content": ["text"]}))

    demo.handle(call(1, "summarize", {"text": "x"}), send, session)
    assert messages[-1]["error"]["code"] == -32603
    assert error_of(demo, modern(2, ["tools/list"]))["code"] == -32603
    assert demo.stats["in_flight"] == 0


def test_touch_tells_subscribers():
    demo = Demo()
    told, other = [], []
    session = legacy_session(demo, notify=told.append)
    legacy_session(demo, notify=other.append)
    ask(demo, request(1, "resources/subscribe", uri="demo://greeting"), session)
    touched = result_of(demo, modern_call(2, "touch"))["structuredContent"]
    assert touched == {"uri": "demo://greeting", "touched": 1}
    assert [message["method"] for message in told] == [
        "notifications/resources/updated",
        "notifications/tools/list_changed",
    ]
    assert told[0]["params"] == {"uri": "demo://greeting"}
    assert [message["method"] for message in other] == [told[1]["method"]]
    read = result_of(demo, modern(3, "resources/read", uri="demo://greeting"))
    assert "touched 1 times" in read["contents"][0]["text"]
    ask(demo, request(4, "resources/unsubscribe", uri="demo://greeting"), session)
    result_of(demo, modern_call(5, "touch"))
    assert len(told) == 3


def test_listen_acknowledges_notifies_and_ends():
    demo = Demo()
    messages = []
    cancellation = Cancellation()
    uris = ["demo://greeting", "demo://nope"]
    message = listen(
        9, toolsListChanged=True, promptsListChanged=True, resourceSubscriptions=uris
    )
    demo.handle(message, messages.append, None, cancellation)
    acknowledged = messages[0]["params"]
    assert messages[0]["method"] == "notifications/subscriptions/acknowledged"
    assert acknowledged["notifications"] == {
        "toolsListChanged": True,
        "resourceSubscriptions": ["demo://greeting"],
    }
    ask(demo, modern_call(1, "touch"))
    ask(demo, modern_call(1, "touch", {"uri": "demo://item/1"}))
    methods = [message["method"].split("/", 1)[1] for message in messages[1:]]
    assert methods == ["resources/updated", "tools/list_changed", "tools/list_changed"]
    tags = [m["params"]["_meta"][PREFIX + "subscriptionId"] for m in messages]
    assert tags == [9] * 4
    demo.end_listens()
    assert messages[-1]["id"] == 9
    assert messages[-1]["result"]["resultType"] == "complete"
    ask(demo, modern_call(1, "touch"))
    assert len(messages) == 5


def test_listen_stops_when_cancelled():
    demo = Demo()
    messages = []
    session = demo.open_session(messages.append)
    demo.handle(listen("s", toolsListChanged=True), messages.append, session)
    ask(demo, cancelled("s"), session)
    ask(demo, modern_call(1, "touch"))
    demo.close()
    assert len(messages) == 1


def test_batches_of_one_revision():
    demo = Demo()
    session = legacy_session(demo, "2025-03-26")
    note = {"jsonrpc": "2.0", "method": "notifications/initialized"}
    answers = demo.handle_batch([request(1, "ping"), note, request(2, "ping")], session)
    assert [entry["id"] for entry in answers] == [1, 2]
    with pytest.raises(Exception, match="batches"):
        demo.handle_batch([request(1, "ping")], legacy_session(demo))


def test_public_names():
    assert all(getattr(package, name) for name in package.__all__)
    with pytest.raises(AttributeError):
        package.nothing


def test_an_expired_wait_never_blocks() -> None:
    # The queue of a new call is where the standard library's SimpleQueue can hang: in
    # one wait of some thousands, when its time is over before it has begun.
    done = threading.Event()

    def wait_often() -> None:
        for _ in range(30_000):
            Cancellation().wait(0.0)
        done.set()

    threading.Thread(target=wait_often, daemon=True).start()
    assert done.wait(60)
