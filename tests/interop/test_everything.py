"""The reference server of the npm registry: stdio, streamable HTTP and HTTP+SSE."""

from __future__ import annotations

import json
import threading

import pytest

import mcpsync
from mcpsync import types

TOOLS = {
    "echo",
    "get-annotated-message",
    "get-env",
    "get-resource-links",
    "get-resource-reference",
    "get-structured-content",
    "get-sum",
    "get-tiny-image",
    "gzip-file-as-resource",
    "toggle-simulated-logging",
    "toggle-subscriber-updates",
    "trigger-long-running-operation",
}
DOCUMENT = "demo://resource/static/document/features.md"


def test_version_and_tools(everything):
    with everything.connect() as client:
        assert client.protocol_version == "2025-11-25"
        assert client.server_info.name == "mcp-servers/everything"
        assert client.server_info.title == "Everything Reference Server"
        assert "Everything" in client.instructions
        # It adds others a moment later, according to what the client can do.
        assert {tool.name for tool in client.list_tools()} >= TOOLS
        client.ping()


def test_text_results(everything):
    with everything.connect() as client:
        assert client.call_tool("echo", {"message": "hello"}).text == "Echo: hello"
        total = client.tools["get-sum"](a=2, b=3)
        assert total.text == "The sum of 2 and 3 is 5."


def test_structured_results_are_checked_and_returned(everything):
    with everything.connect() as client:
        client.list_tools()
        weather = client.call_tool("get-structured-content", {"location": "Chicago"})
    assert weather.data["conditions"] == "Light rain / drizzle"
    assert json.loads(weather.text) == weather.data


def test_content_of_every_kind(everything, tmp_path):
    with everything.connect() as client:
        image = client.call_tool("get-tiny-image").content[1]
        assert isinstance(image, types.ImageContent)
        assert image.save(tmp_path / "image").read_bytes().startswith(b"\x89PNG")
        annotated = client.call_tool(
            "get-annotated-message", {"messageType": "error", "includeImage": True}
        )
        assert annotated.content[0].annotations.priority == 1.0
        assert annotated.content[1].annotations.audience == ["user"]
        links = client.call_tool("get-resource-links", {"count": 2}).content[1:]
        assert [type(link) for link in links] == [types.ResourceLink] * 2
        assert client.read_resource(links[1].uri).text.startswith("Resource 2:")
        reference = client.call_tool(
            "get-resource-reference", {"resourceType": "Text", "resourceId": 3}
        )
        embedded = reference.content[1]
        assert isinstance(embedded, types.EmbeddedResource)
        assert embedded.resource.text.startswith("Resource 3:")


def test_a_zipped_resource_is_read_back(everything, tmp_path):
    arguments = {"name": "hello.gz", "data": "data:text/plain,hello"}
    with everything.connect() as client:
        (link,) = client.call_tool("gzip-file-as-resource", arguments).content
        assert isinstance(link, types.ResourceLink)
        (zipped,) = client.read_resource(link.uri).contents
        assert zipped.save(tmp_path / "hello.gz").read_bytes()[:2] == b"\x1f\x8b"


def test_errors(everything):
    with everything.connect() as client:
        unknown = client.call_tool("no-such-tool")
        assert unknown.is_error and "no-such-tool" in unknown.text
        bad = client.call_tool("get-sum", {"a": "two"})
        assert bad.is_error
        with pytest.raises(mcpsync.InvalidParams):
            client.read_resource("demo://resource/nowhere")
        with pytest.raises(mcpsync.InvalidParams):
            client.get_prompt("no-such-prompt")
        with pytest.raises(mcpsync.MethodNotFound):
            client.request("no/such/method", {})
        assert client.call_tool("echo", {"message": "on"}).text == "Echo: on"


def test_progress(everything):
    seen = []
    with everything.connect() as client:
        result = client.call_tool(
            "trigger-long-running-operation",
            {"duration": 1, "steps": 4},
            on_progress=lambda *report: seen.append(report[:2]),
        )
    assert result.text.startswith("Long running operation completed")
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_call_that_times_out_leaves_the_client_usable(everything):
    slow = {"duration": 60, "steps": 1}
    with everything.connect() as client:
        with pytest.raises(mcpsync.RequestTimeout):
            client.call_tool("trigger-long-running-operation", slow, timeout=1)
        assert client.call_tool("echo", {"message": "on"}).text == "Echo: on"


def test_progress_extends_the_idle_limit(everything):
    # Two seconds in all, but never one and a half without news.
    timeout = mcpsync.Timeout(idle=1.5, total=30)
    with everything.connect() as client:
        result = client.call_tool(
            "trigger-long-running-operation",
            {"duration": 2, "steps": 8},
            timeout=timeout,
            on_progress=lambda *report: None,
        )
    assert not result.is_error


def test_elicitation(everything, eventually):
    asked = []

    def on_elicitation(request):
        asked.append(request)
        return mcpsync.ElicitResult.accept({"name": "Ada"})

    with everything.connect(on_elicitation=on_elicitation) as client:
        wait_for_tool(client, eventually, "trigger-elicitation-request")
        result = client.call_tool("trigger-elicitation-request")
    assert "- Name: Ada" in result.text
    # Defaults of the schema were filled in.
    assert "It was a dark and stormy night." in result.text
    assert asked[0].mode == "form"
    assert len(asked[0].requested_schema["properties"]) > 10


def test_elicitation_is_declined(everything, eventually):
    with everything.connect(on_elicitation=lambda request: None) as client:
        wait_for_tool(client, eventually, "trigger-elicitation-request")
        result = client.call_tool("trigger-elicitation-request")
    assert '"action": "decline"' in result.text


def test_a_page_is_to_be_visited(everything, eventually):
    asked = []

    def on_elicitation(request):
        asked.append((request.mode, request.url))
        return mcpsync.ElicitResult.accept()

    arguments = {"url": "https://example.com/consent", "message": "Look at this"}
    with everything.connect(on_elicitation=on_elicitation) as client:
        wait_for_tool(client, eventually, "trigger-url-elicitation")
        result = client.call_tool("trigger-url-elicitation", arguments)
    assert asked == [("url", "https://example.com/consent")]
    assert '"action": "accept"' in result.text


def test_a_page_may_be_demanded_by_an_error(everything, eventually):
    arguments = {"url": "https://example.com/terms", "errorPath": True}
    accept = mcpsync.ElicitResult.accept()
    with everything.connect(on_elicitation=lambda request: accept) as client:
        wait_for_tool(client, eventually, "trigger-url-elicitation")
        with pytest.raises(mcpsync.URLElicitationRequired) as raised:
            client.call_tool("trigger-url-elicitation", arguments)
        assert raised.value.code == -32042
        (wanted,) = raised.value.data["elicitations"]
        assert (wanted["mode"], wanted["url"]) == (
            "url",
            "https://modelcontextprotocol.io",
        )
        again = client.call_tool("trigger-url-elicitation", arguments)
    assert '"action": "accept"' in again.text


def test_sampling(everything, eventually):
    def on_sampling(request):
        question = request.messages[0].blocks[0].text
        content = types.TextContent(text=f"answer to {question}")
        return mcpsync.CreateMessageResult("assistant", content, "abacus")

    with everything.connect(on_sampling=on_sampling) as client:
        wait_for_tool(client, eventually, "trigger-sampling-request")
        result = client.call_tool("trigger-sampling-request", {"prompt": "a riddle"})
    assert "abacus" in result.text
    assert "a riddle" in result.text


def test_roots(everything, eventually):
    roots = [types.Root(uri="file:///srv/data", name="data")]
    with everything.connect(roots=roots) as client:
        wait_for_tool(client, eventually, "get-roots-list")
        assert "file:///srv/data" in client.call_tool("get-roots-list").text


def test_no_tool_is_offered_that_needs_a_missing_handler(everything):
    with everything.connect() as client:
        names = {tool.name for tool in client.list_tools()}
    assert not names & {
        "get-roots-list",
        "trigger-elicitation-request",
        "trigger-sampling-request",
        "trigger-url-elicitation",
    }


def test_resources(everything):
    with everything.connect() as client:
        assert DOCUMENT in {resource.uri for resource in client.list_resources()}
        assert client.read_resource(DOCUMENT).text.startswith("# ")
        templates = {t.uri_template for t in client.list_resource_templates()}
        assert "demo://resource/dynamic/blob/{resourceId}" in templates
        (blob,) = client.read_resource("demo://resource/dynamic/blob/5").contents
        assert blob.bytes.startswith(b"Resource 5:")


def test_resource_updates(everything):
    updated = []
    arrived = threading.Event()

    def on_notification(notification):
        if notification.method == "notifications/resources/updated":
            updated.append(notification.params["uri"])
            arrived.set()

    with everything.connect(on_notification=on_notification) as client:
        client.subscribe_resource(DOCUMENT)
        client.call_tool("toggle-subscriber-updates")
        assert arrived.wait(20)
        client.call_tool("toggle-subscriber-updates")
        client.unsubscribe_resource(DOCUMENT)
    assert set(updated) == {DOCUMENT}


def test_log_messages(everything):
    messages = []
    arrived = threading.Event()

    def on_log(message):
        messages.append(message)
        arrived.set()

    with everything.connect(on_log=on_log, log_level="debug") as client:
        client.call_tool("toggle-simulated-logging")
        assert arrived.wait(20)
        client.set_log_level("emergency")
        client.call_tool("toggle-simulated-logging")
    assert "level" in str(messages[0].data).lower()


def test_prompts(everything):
    with everything.connect() as client:
        names = {prompt.name for prompt in client.list_prompts()}
        assert names >= {"simple-prompt", "args-prompt", "resource-prompt"}
        (simple,) = client.get_prompt("simple-prompt").messages
        assert simple.content.text == "This is a simple prompt without arguments."
        place = {"city": "Paris", "state": "Texas"}
        (filled,) = client.get_prompt("args-prompt", place).messages
        assert filled.content.text == "What's weather in Paris, Texas?"
        wanted = {"resourceType": "Text", "resourceId": "1"}
        _, embedded = client.get_prompt("resource-prompt", wanted).messages
        assert embedded.content.resource.text.startswith("Resource 1:")


def test_completion(everything):
    prompt = {"type": "ref/prompt", "name": "completable-prompt"}
    template = {
        "type": "ref/resource",
        "uri": "demo://resource/dynamic/text/{resourceId}",
    }
    with everything.connect() as client:
        department = client.complete(prompt, {"name": "department", "value": "S"})
        assert department.values == ["Sales", "Support"]
        name = client.complete(
            prompt,
            {"name": "name", "value": ""},
            context={"department": "Sales"},
        )
        assert name.values == ["David", "Eve", "Frank"]
        number = client.complete(template, {"name": "resourceId", "value": "7"})
        assert number.values == ["7"]


def test_closing_leaves_no_process(everything, children):
    before = children()
    with everything.connect() as client:
        assert len(children() - before) == (1 if everything.is_child else 0)
        client.ping()
    assert children() == before


def wait_for_tool(client, eventually, name):
    """Wait until the server, which knows the client's abilities late, has a tool."""
    eventually(lambda: name in {tool.name for tool in client.list_tools()})
