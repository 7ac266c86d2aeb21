"""Servers on the official Python SDK, old and new, and on FastMCP."""

from __future__ import annotations

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

import mcpsync
from mcpsync import types

TOOLS = {
    "add",
    "echo",
    "fail",
    "environment",
    "process_id",
    "letters",
    "countdown",
    "wait",
    "counts",
    "reset_counts",
    "announce",
    "ask_person",
    "ask_model",
    "show_roots",
}


def test_the_expected_version_is_negotiated(server):
    with server.connect() as client:
        assert client.protocol_version == server.peer.version
        assert client.server_info.name == "interop"
        assert client.instructions == "Call add."
        assert client.capabilities.supports("tools")


def test_tools_are_listed_with_their_schemas(server):
    with server.connect() as client:
        tools = {tool.name: tool for tool in client.list_tools()}
    assert set(tools) == TOOLS
    add = tools["add"]
    assert add.description == "Add two integers."
    assert set(add.input_schema["properties"]) == {"a", "b"}
    assert add.input_schema["required"] == ["a", "b"]
    assert add.output_schema["properties"]["total"]["type"] == "integer"
    assert add.annotations.read_only and add.annotations.idempotent
    assert "ctx" not in tools["countdown"].input_schema["properties"]


def test_calls_return_text_and_structured_content(server):
    with server.connect() as client:
        client.list_tools()
        result = client.call_tool("add", {"a": 2, "b": 40})
        assert result.structured_content == {"total": 42}
        assert result.data == {"total": 42}
        assert not result.is_error
        assert client.call_tool("echo", {"message": "héllo\n"}).text == (
            "ECHOING: héllo\n"
        )
        assert client.tools.add(a=1, b=2).data == {"total": 3}


def test_a_tool_error_is_a_result_and_the_next_call_works(server):
    with server.connect() as client:
        result = client.call_tool("fail", {"message": "no such luck"})
        assert result.is_error
        assert "no such luck" in result.text
        with pytest.raises(mcpsync.ToolError, match="no such luck"):
            result.raise_for_error()
        with pytest.raises(mcpsync.ToolError, match="no such luck"):
            client.tools.fail(message="no such luck")
        bad = client.call_tool("add", {"a": "not a number", "b": 1})
        assert bad.is_error
        assert client.call_tool("echo", {"message": "still here"}).text == (
            "ECHOING: still here"
        )


def test_an_unknown_tool_is_reported_and_the_next_call_works(server):
    with server.connect() as client:
        result = client.call_tool("nothing_of_the_kind")
        assert result.is_error
        assert "nothing_of_the_kind" in result.text
        assert client.call_tool("add", {"a": 1, "b": 1}).data == {"total": 2}


def test_progress_arrives_on_the_calling_thread(server):
    seen = []

    def on_progress(progress, total, message):
        seen.append((progress, total, message, threading.get_ident()))

    # Old servers send progress on the stream of their own, which is opened only for
    # a client that takes notifications.
    with server.connect(on_notification=lambda notification: None) as client:
        result = client.call_tool("countdown", {"steps": 5}, on_progress=on_progress)
    assert result.text == "done"
    # Steps that come too fast for a person are coalesced; the last is never lost.
    steps = [entry[0] for entry in seen]
    assert steps == sorted(set(steps)) and set(steps) <= {1, 2, 3, 4, 5}
    assert seen[-1][:3] == (5, 5, "step 5")
    assert all(entry[2] == f"step {entry[0]:g}" for entry in seen)
    assert {entry[3] for entry in seen} == {threading.get_ident()}


def test_elicitation_is_answered_on_the_calling_thread(server):
    asked = []

    def on_elicitation(request):
        asked.append((request, threading.get_ident()))
        return mcpsync.ElicitResult.accept({"name": "Ada", "age": 36})

    with server.connect(on_elicitation=on_elicitation) as client:
        result = client.call_tool("ask_person")
    # The library fills in the city, whose schema has a default.
    assert result.text == "Ada, 36, Paris"
    ((request, thread),) = asked
    assert request.message == "Who are you?"
    assert set(request.requested_schema["properties"]) == {"name", "age", "city"}
    assert thread == threading.get_ident()


@pytest.mark.parametrize(
    ("answer", "action"),
    [(None, "decline"), (mcpsync.ElicitResult.cancel(), "cancel")],
)
def test_elicitation_can_be_refused(server, answer, action):
    with server.connect(on_elicitation=lambda request: answer) as client:
        assert client.call_tool("ask_person").text == f"action: {action}"


def test_a_handler_may_call_the_client_again(server):
    def on_elicitation(request):
        name = client.call_tool("echo", {"message": "Ada"}).text
        return mcpsync.ElicitResult.accept({"name": name, "age": 36})

    with server.connect(on_elicitation=on_elicitation) as client:
        assert client.call_tool("ask_person").text == "ECHOING: Ada, 36, Paris"


def test_sampling_is_answered(server):
    def on_sampling(request):
        question = request.messages[0].blocks[0].text
        assert request.max_tokens == 50
        return mcpsync.CreateMessageResult(
            role="assistant",
            content=types.TextContent(text=f"You asked {question}"),
            model="abacus",
        )

    with server.connect(on_sampling=on_sampling) as client:
        result = client.call_tool("ask_model", {"question": "why"})
    assert result.text == "abacus: You asked why"


def test_roots_are_listed(server):
    roots = [types.Root(uri="file:///srv/a", name="a"), types.Root("file:///srv/b")]
    with server.connect(roots=roots) as client:
        assert client.call_tool("show_roots").text == "file:///srv/a file:///srv/b"


def test_resources_are_listed_and_read(server, tmp_path):
    with server.connect() as client:
        listed = {resource.uri: resource for resource in client.list_resources()}
        assert set(listed) == {"note://welcome", "note://pixel"}
        assert listed["note://pixel"].mime_type == "image/png"
        (template,) = client.list_resource_templates()
        assert template.uri_template == "note://item/{name}"
        assert client.read_resource("note://welcome").text == "Welcome."
        assert client.read_resource("note://item/7").text == "Item 7."
        (pixel,) = client.read_resource("note://pixel").contents
        saved = pixel.save(tmp_path / "pixel.png")
        assert saved.read_bytes().startswith(b"\x89PNG\r\n")


def test_an_unknown_resource_is_an_error_and_the_next_read_works(server):
    with server.connect() as client:
        with pytest.raises(mcpsync.ServerError, match="note://nowhere"):
            client.read_resource("note://nowhere")
        assert client.read_resource("note://welcome").text == "Welcome."


def test_prompts_are_listed_filled_and_completed(server):
    with server.connect() as client:
        (prompt,) = client.list_prompts()
        assert [argument.name for argument in prompt.arguments] == ["name"]
        assert prompt.arguments[0].required
        (message,) = client.get_prompt("greet", {"name": "Ada"}).messages
        assert (message.role, message.content.text) == ("user", "Say hello to Ada.")
        reference = {"type": "ref/prompt", "name": "greet"}
        completed = client.complete(reference, {"name": "name", "value": "A"})
        assert completed.values == ["Ada", "Alan"]


def test_log_messages_arrive(server):
    messages = []
    arrived = threading.Event()

    def on_log(message):
        messages.append(message)
        arrived.set()

    with server.connect(on_log=on_log, log_level="info") as client:
        assert client.call_tool("announce", {"text": "all is well"}).text == "announced"
        assert arrived.wait(10)
    (message,) = messages
    assert (message.level, message.logger) == ("info", "interop")
    assert "all is well" in str(message.data)


def test_a_call_that_times_out_is_cancelled_on_the_server(server, eventually):
    with server.connect() as client:
        client.call_tool("reset_counts")
        with pytest.raises(mcpsync.RequestTimeout):
            client.call_tool("wait", {"seconds": 60}, timeout=1)
        eventually(lambda: client.call_tool("counts").data["running"] == 0)
        counts = client.call_tool("counts").data
        assert (counts["started"], counts["cancelled"]) == (1, 1)
        assert client.call_tool("add", {"a": 1, "b": 1}).data == {"total": 2}


def test_a_started_call_can_be_cancelled(server, eventually):
    with server.connect() as client:
        client.call_tool("reset_counts")
        call = client.start_call("wait", {"seconds": 60})
        eventually(lambda: client.call_tool("counts").data["running"] == 1)
        assert call.cancel()
        eventually(lambda: client.call_tool("counts").data["cancelled"] == 1)
        assert client.call_tool("counts").data["running"] == 0


def test_calls_of_many_threads_run_at_the_same_time(server):
    with server.connect() as client:
        client.call_tool("reset_counts")
        with ThreadPoolExecutor(5) as pool:
            results = pool.map(client.call_tool, ["wait"] * 5, [{"seconds": 1}] * 5)
            assert [result.text for result in results] == ["waited"] * 5
        assert client.call_tool("counts").data["peak"] == 5


def test_answers_go_to_the_threads_that_asked(server):
    def ask(number):
        return client.call_tool("add", {"a": number, "b": number}).data["total"]

    with server.connect() as client:
        with ThreadPoolExecutor(16) as pool:
            assert list(pool.map(ask, range(100))) == [2 * n for n in range(100)]


def test_map_tool_keeps_the_order(server):
    with server.connect() as client:
        arguments = [{"a": number, "b": 1} for number in range(20)]
        results = client.map_tool("add", arguments, max_workers=4)
        assert [result.data["total"] for result in results] == list(range(1, 21))


@pytest.mark.parametrize("count", [900_000, 8_000_000])
def test_large_results_arrive(server, count):
    with server.connect() as client:
        assert client.call_tool("letters", {"count": count}).text == "x" * count


def test_closing_leaves_nothing_behind(server, children):
    before = children()
    client = server.connect()
    process = client.call_tool("process_id").data["result"]
    assert children() - before == ({process} if server.is_child else set())
    client.close()
    client.close()
    assert children() == before
    with pytest.raises(mcpsync.ClientClosed):
        client.call_tool("echo", {"message": "anybody?"})
    with server.connect() as another:
        assert another.call_tool("add", {"a": 1, "b": 1}).data == {"total": 2}


def test_closing_ends_calls_in_flight(server, eventually, children):
    before = children()
    with server.connect() as client:
        client.call_tool("reset_counts")
        call = client.start_call("wait", {"seconds": 60})
        eventually(lambda: client.call_tool("counts").data["running"] == 1)
    with pytest.raises(mcpsync.ClientClosed):
        call.result(10)
    assert children() == before


def test_a_child_gets_the_environment_given_and_no_secrets(child_server, monkeypatch):
    monkeypatch.setenv("MCPSYNC_TEST_SECRET", "swordfish")
    with child_server.connect(env={"GIVEN": "yes"}) as client:
        names = ("GIVEN", "MCPSYNC_TEST_SECRET", "PATH")
        values = [client.call_tool("environment", {"name": n}).text for n in names]
    assert values == ["yes", "(unset)", os.environ["PATH"]]
