"""Listings and what is read by name, over every transport and in both eras."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

import mcpsync
from mcpsync.demo._content import PROMPTS, RESOURCES, TEMPLATES
from mcpsync.demo._tools import TOOLS, png
from mcpsync.types import BlobResourceContents, TextResourceContents

from .conftest import Cell


def test_all_pages_are_fetched(client: mcpsync.Client) -> None:
    assert len(TOOLS) > 6
    assert [tool.name for tool in client.list_tools()] == list(TOOLS)
    assert [tool.name for tool in client.iter_tools()] == list(TOOLS)


def test_the_empty_string_is_a_cursor(client: mcpsync.Client) -> None:
    first = client.list_tools_page()
    assert (len(first.tools), first.next_cursor) == (3, "")
    second = client.list_tools_page("")
    assert [tool.name for tool in second.tools] == list(TOOLS)[3:6]
    assert second.next_cursor not in (None, "")


def test_a_bad_cursor_is_the_caller_s_to_see(client: mcpsync.Client) -> None:
    with pytest.raises(mcpsync.InvalidParams, match="Invalid cursor") as caught:
        client.list_tools_page("page-9999")
    assert (caught.value.server, caught.value.method) == ("the demo", "tools/list")
    assert client.list_tools_page().tools


def test_other_listings(client: mcpsync.Client) -> None:
    resources = [resource.uri for resource in client.list_resources()]
    assert resources == [resource["uri"] for resource in RESOURCES]
    assert [resource.uri for resource in client.iter_resources()] == resources
    assert [one.uri for one in client.list_resources_page().resources] == resources

    templates = [template.uri_template for template in client.list_resource_templates()]
    assert templates == [template["uriTemplate"] for template in TEMPLATES]
    found = [template.uri_template for template in client.iter_resource_templates()]
    assert found == templates
    page = client.list_resource_templates_page()
    assert [one.uri_template for one in page.resource_templates] == templates

    prompts = [prompt.name for prompt in client.list_prompts()]
    assert prompts == [prompt["name"] for prompt in PROMPTS]
    assert [prompt.name for prompt in client.iter_prompts()] == prompts
    assert [prompt.name for prompt in client.list_prompts_page().prompts] == prompts


def test_a_text_resource(client: mcpsync.Client) -> None:
    result = client.read_resource("demo://greeting")
    (content,) = result.contents
    assert isinstance(content, TextResourceContents)
    assert content.text == result.text == "Hello from mcpsync-demo!"
    assert client.read_resource("demo://item/7").text.startswith("Item 7")


def test_a_binary_resource(client: mcpsync.Client, tmp_path: Path) -> None:
    (content,) = client.read_resource("demo://logo").contents
    assert isinstance(content, BlobResourceContents)
    assert content.blob == base64.b64encode(png()).decode("ascii")
    assert content.save(tmp_path / "logo.png").read_bytes() == png()


def test_a_missing_resource(client: mcpsync.Client) -> None:
    with pytest.raises(mcpsync.ResourceNotFound) as caught:
        client.read_resource("demo://nowhere")
    assert caught.value.data == {"uri": "demo://nowhere"}
    assert caught.value.server == "the demo"
    assert caught.value.method == "resources/read"
    assert caught.value.elapsed is not None


def test_prompts(client: mcpsync.Client) -> None:
    result = client.get_prompt("greeting", {"name": "Ada"})
    assert "Ada" in result.messages[0].content.text
    formal = client.get_prompt("greeting", {"name": "Ada", "style": "formal"})
    assert formal.messages[0].content.text != result.messages[0].content.text
    with pytest.raises(mcpsync.InvalidParams, match="Missing required argument"):
        client.get_prompt("greeting")
    with pytest.raises(mcpsync.InvalidParams, match="Unknown prompt"):
        client.get_prompt("nothing")


def test_completion(client: mcpsync.Client) -> None:
    prompt = {"type": "ref/prompt", "name": "greeting"}
    result = client.complete(prompt, {"name": "style", "value": "f"})
    assert result.values and all(value.startswith("f") for value in result.values)
    assert result.total == len(result.values)
    template = {"type": "ref/resource", "uri": "demo://item/{id}"}
    argument = {"name": "id", "value": ""}
    assert client.complete(template, argument, {"other": "1"}).values


def test_the_facts_of_the_connection(cell: Cell) -> None:
    client = cell.client()
    assert not client.is_open
    with client:
        assert client.is_open
        modern = client.protocol_version == "2026-07-28"
        assert modern == cell.modern
        assert client.server_info is not None
        assert client.server_info.name == "mcpsync-demo"
        assert client.capabilities.supports("resources", "subscribe")
        assert client.capabilities.supports("completions")
        assert client.instructions and "demo server" in client.instructions
    assert not client.is_open
