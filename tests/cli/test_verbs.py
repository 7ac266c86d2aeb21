"""Each subcommand on the demo server, over stdio and HTTP, as text and as JSON."""

from __future__ import annotations

import json
import os
import sys

import pytest

from ..fakes.stdio_server import python_server
from .running import ROOT

PNG = b"\x89PNG\r\n\x1a\n"


# --- the server -------------------------------------------------------------------


def test_info(ask_server):
    code, out, err = ask_server("info")
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0].split() == ["server", "mcpsync-demo", "1.0"]
    assert lines[1].split()[0] == "protocol"
    assert "tools" in lines[2] and "resources (subscribe)" in lines[2]
    assert lines[-1] == "A demo server: try echo, add, count and ask."


def test_info_as_json(ask_server):
    ran = ask_server("info", "--output", "json", "--protocol", "legacy")
    assert (ran.code, ran.err) == (0, "")
    assert ran.result["serverInfo"] == {"name": "mcpsync-demo", "version": "1.0"}
    assert "tools" in ran.result["capabilities"]
    assert ran.result["instructions"].startswith("A demo server")
    auto = ask_server("info", "--output", "json")
    assert auto.result["protocolVersion"] != ran.result["protocolVersion"]


def test_a_version_can_be_asked_for(ask_server):
    for version in ("2025-06-18", "2024-11-05"):
        ran = ask_server("info", "--protocol", version, "--output", "json")
        assert ran.result["protocolVersion"] == version


def test_ping(ask_server):
    code, out, err = ask_server("ping")
    assert (code, err) == (0, "")
    assert " answered in " in out
    assert ask_server("ping", "--output", "json").result["seconds"] > 0


# --- tools ------------------------------------------------------------------------


def test_tools(ask_server):
    code, out, err = ask_server("tools")
    assert (code, err) == (0, "")
    assert "echo         Echo a message.\n" in out
    assert len(out.splitlines()) == 17


def test_tools_by_name_and_as_json(ask_server):
    names = ask_server("tools", "--output", "name").out.split()
    assert names[:2] == ["echo", "add"]
    tools = ask_server("tools", "--output", "json").result["tools"]
    assert [tool["name"] for tool in tools] == names
    assert tools[0]["inputSchema"]["required"] == ["message"]


def test_all_pages_are_shown(run):
    server = ["--", sys.executable, "-m", "mcpsync.demo", "--page-size", "3"]
    ran = run("tools", "--output", "name", "--cwd", ROOT, *server)
    assert len(ran.out.split()) == 17


def test_one_tool(ask_server):
    code, out, err = ask_server("tools", "count")
    assert (code, err) == (0, "")
    assert out.startswith("count\n\nCount up to a number, reporting progress.\n\n")
    assert "to (integer)" in out
    assert "delay (number, optional)  Seconds between two steps." in out
    ran = ask_server("tools", "count", "--output", "json")
    assert [tool["name"] for tool in ran.result["tools"]] == ["count"]
    assert ask_server("tools", "count", "--output", "name").out == "count\n"


def test_schemas(ask_server):
    schema = json.loads(ask_server("tools", "add", "--schema").out)
    assert sorted(schema["properties"]) == ["a", "b"]
    everything = ask_server("tools", "--schema").out
    assert "\n\nAdd two numbers.\n\n{" in everything
    assert json.dumps(schema) in everything


def test_a_tool_that_is_not_there(ask_server):
    code, out, err = ask_server("tools", "ecko")
    assert (code, out) == (5, "")
    assert err == "mcpsync: there is no tool 'ecko'; is it 'echo'?\n"
    ran = ask_server("tools", "zzzzzz", "--output", "json")
    assert (ran.code, ran.out) == (5, "")
    assert ran.error["code"] == "unknown_tool"
    assert ran.error["message"] == "there is no tool 'zzzzzz'"


# --- calls ------------------------------------------------------------------------


def test_call(ask_server):
    code, out, err = ask_server("call", "echo", "message=hello")
    assert (code, err) == (0, "")
    assert json.loads(out) == {"echo": "ECHOING: hello", "env": None}


def test_call_as_json(ask_server):
    ran = ask_server("call", "echo", "message=hello", "--output", "json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.result["structuredContent"]["echo"] == "ECHOING: hello"
    assert ran.result["content"][0]["type"] == "text"


def test_arguments_take_the_types_of_the_schema(ask_server):
    assert json.loads(ask_server("call", "add", "a=1", "b=2.5").out) == {"sum": 3.5}
    assert json.loads(ask_server("call", "count", "to=2", "delay=0").out) == {
        "counted": 2
    }
    # A number is no message: as JSON it would be refused by the server.
    assert "ECHOING: 5" in ask_server("call", "echo", "message=5").out
    assert ask_server("call", "echo", "message:=5").code == 5


def test_arguments_as_an_object(ask_server, tmp_path):
    ran = ask_server("call", "add", "--json", '{"a": 1, "b": 2}')
    assert json.loads(ran.out) == {"sum": 3}
    path = tmp_path / "arguments"
    path.write_text('{"a": 1, "b": 2}')
    ran = ask_server("call", "add", "--json", "@%s" % path, "b=5")
    assert json.loads(ran.out) == {"sum": 6}


def test_a_parameter_that_is_mirrored_into_a_header(ask_server):
    ran = ask_server("call", "region_echo", "region=Zürich")
    assert json.loads(ran.out) == {"region": "Zürich"}


def test_variables_and_the_working_directory_reach_the_command(run):
    server = ["--", sys.executable, "-m", "mcpsync.demo"]
    options = ["-e", "MCP_TEST_VALUE=from the shell", "--cwd", ROOT]
    ran = run("call", "echo", "message=x", *options, *server)
    assert json.loads(ran.out)["env"] == "from the shell"


def test_a_tool_that_fails(ask_server):
    code, out, err = ask_server("call", "fail", "message=line one\nline two")
    assert (code, out) == (5, "")
    assert err == "mcpsync: the tool 'fail' reported failure:\nline one\nline two\n"


def test_a_tool_that_fails_as_json(ask_server):
    ran = ask_server("call", "fail", "message=it broke", "--output", "json")
    assert ran.code == 5
    assert ran.result["isError"] is True
    assert ran.error["code"] == "tool_error"
    assert ran.error["message"] == "it broke"
    assert ran.error["server"]


@pytest.mark.parametrize("protocol", ["auto", "legacy", "2025-06-18", "2024-11-05"])
def test_a_call_that_the_server_refuses(ask_server, protocol):
    # The same mistakes are errors or results, according to the revision.
    ran = ask_server("call", "nope", "a=1", "--protocol", protocol)
    assert (ran.code, ran.out) == (5, "")
    assert "there is no tool 'nope'" in ran.err
    ran = ask_server("call", "echo", "wrong=1", "--protocol", protocol)
    assert (ran.code, ran.out) == (5, "")
    assert "'message' is a required property" in ran.err


def test_an_argument_of_a_wrong_type_is_not_sent(run, http):
    ran = run("call", http.url, "add", "a=1", "b=two")
    assert (ran.code, ran.out) == (2, "")
    assert "'b' has to be of the type number, which 'two' is not" in ran.err
    assert "(see mcpsync call --help)" in ran.err
    assert http.stats["calls"] == 0


def test_a_tool_that_is_not_listed_can_be_called(run):
    server = python_server("""
        def call(params):
            return text("%s %r" % (params["name"], params["arguments"]))
        shake_hands()
        serve({"tools/call": call})
        """)
    ran = run("call", "hidden", "a=1", "b:=2", "--", *server)
    assert (ran.code, ran.out) == (0, "hidden {'a': '1', 'b': 2}\n")


def test_images_are_noted_and_can_be_saved(ask_server, tmp_path):
    code, out, err = ask_server("call", "image")
    assert (code, err) == (0, "")
    assert out == "[image, image/png, 74 bytes]\na blue square\n"
    path = tmp_path / "square.png"
    code, out, err = ask_server("call", "image", "-o", str(path))
    assert code == 0
    assert path.read_bytes().startswith(PNG)
    assert "saved 74 bytes in %s" % path in err
    code, out, err = ask_server("call", "image", "-o", str(tmp_path), "-q")
    assert (code, err) == (0, "")
    assert len(list(tmp_path.iterdir())) == 2


def test_nothing_to_save(ask_server, tmp_path):
    path = tmp_path / "file"
    code, out, err = ask_server("call", "echo", "message=x", "-o", str(path))
    assert code == 0
    assert "nothing to save" in err
    assert not path.exists()


def test_content_of_every_kind(run, tmp_path):
    blocks = [
        {"type": "text", "text": "words"},
        {"type": "audio", "data": "AAEC", "mimeType": "audio/wav"},
        {"type": "resource_link", "uri": "x://a", "name": "n", "title": "T"},
        {"type": "resource", "resource": {"uri": "x://b", "text": "inner"}},
        {"type": "resource", "resource": {"uri": "x://c", "blob": "AAE="}},
        {"type": "hologram", "depth": 3},
    ]
    server = python_server(
        "result = {'content': %r, 'structuredContent': {'n': 1}}" % blocks,
        "shake_hands()",
        "serve({'tools/call': lambda params: result})",
    )
    ran = run("call", "t", "--", *server)
    assert (ran.code, ran.err) == (0, "")
    assert ran.out.splitlines() == [
        "words",
        "[audio, audio/wav, 3 bytes]",
        "[resource x://a: T]",
        "inner",
        "[x://c, no type given, 2 bytes]",
        "[content of the kind hologram]",
        '{"n": 1}',
    ]
    ran = run("call", "t", "-o", str(tmp_path / "no"), "--", *server)
    assert (ran.code, ran.out != "") == (2, True)
    assert "directory for 2 files" in ran.err
    assert run("call", "t", "-o", str(tmp_path), "--", *server).code == 0
    saved = sorted(path.read_bytes() for path in tmp_path.iterdir())
    assert saved == [b"\x00\x01", b"\x00\x01\x02"]


# --- resources --------------------------------------------------------------------


def test_resources(ask_server):
    code, out, err = ask_server("resources")
    assert (code, err) == (0, "")
    assert out.splitlines() == [
        "demo://greeting   A greeting that `touch` changes.",
        "demo://logo       logo",
        "demo://item/{id}  One of the items 1 to 100.",
    ]
    names = ask_server("resources", "--output", "name").out.split()
    assert names == ["demo://greeting", "demo://logo", "demo://item/{id}"]
    value = ask_server("resources", "--output", "json").result
    assert [item["uri"] for item in value["resources"]] == names[:2]
    assert [item["uriTemplate"] for item in value["resourceTemplates"]] == names[2:]


def test_a_server_without_templates(run):
    server = python_server("""
        one = {"uri": "x://1", "name": "one"}
        shake_hands()
        serve({"resources/list": lambda params: {"resources": [one]}})
        """)
    ran = run("resources", "--", *server)
    assert (ran.code, ran.out) == (0, "x://1  one\n")


def test_read_a_text(ask_server):
    code, out, err = ask_server("read", "demo://greeting")
    assert (code, out, err) == (0, "Hello from mcpsync-demo!\n", "")
    ran = ask_server("read", "demo://item/7", "--output", "json")
    assert ran.result["contents"][0]["text"] == "Item 7"


def test_read_bytes(ask_server, tmp_path):
    code, out, err = ask_server("read", "demo://logo")
    assert (code, out) == (0, "[demo://logo, image/png, 74 bytes]\n")
    assert "-o FILE" in err
    path = tmp_path / "logo.png"
    code, out, err = ask_server("read", "demo://logo", "-o", str(path))
    assert (code, out) == (0, "")
    assert err == "mcpsync: saved in %s\n" % path
    assert path.read_bytes().startswith(PNG)
    ran = ask_server("read", "demo://logo", "-o", str(path), "--output", "json")
    assert (ran.err, ran.result) == ("", {"saved": str(path)})


def test_bytes_to_standard_output(http, capfdbinary):
    from mcpsync.cli import main

    assert main(["read", http.url, "demo://logo", "-o", "-"]) == 0
    out, err = capfdbinary.readouterr()
    assert out.startswith(PNG) and len(out) == 74
    assert err == b""


def test_a_file_that_cannot_be_written(ask_server, tmp_path):
    path = os.path.join(str(tmp_path), "no", "such", "directory")
    code, out, err = ask_server("read", "demo://logo", "-o", path)
    assert (code, out) == (1, "")
    assert "No such file or directory" in err


def test_a_resource_that_is_not_there(ask_server):
    ran = ask_server("read", "demo://none", "--output", "json")
    assert (ran.code, ran.out) == (1, "")
    assert ran.error["code"] == "resource_not_found"


# --- prompts and completion -------------------------------------------------------


def test_prompts(ask_server):
    code, out, err = ask_server("prompts")
    assert (code, out, err) == (0, "greeting name [style]  Greet somebody.\n", "")
    assert ask_server("prompts", "--output", "name").out == "greeting\n"
    value = ask_server("prompts", "--output", "json").result
    assert value["prompts"][0]["name"] == "greeting"


def test_prompt(ask_server):
    words = ["prompt", "greeting", "name=Ada", "style=pirate"]
    code, out, err = ask_server(*words)
    assert (code, out, err) == (0, "user:\nGreet Ada as a pirate would.\n", "")
    value = ask_server(*words, "--output", "json").result
    assert value["messages"][0]["role"] == "user"


def test_a_prompt_without_what_it_needs(ask_server):
    code, out, err = ask_server("prompt", "greeting")
    assert (code, out) == (1, "")
    assert "Missing required argument: name" in err


def test_complete(ask_server):
    code, out, err = ask_server("complete", "greeting", "style=f", "name=Ada")
    assert (code, out, err) == (0, "formal\nfriendly\n", "")
    assert ask_server("complete", "demo://item/{id}", "id=99").out == "99\n"
    ran = ask_server("complete", "greeting", "style=pi", "--output", "json")
    assert ran.result["completion"]["values"] == ["pirate"]
    ran = ask_server("complete", "greeting", "style=f", "--template")
    assert (ran.code, ran.out) == (1, "")


# --- words ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words, complaint",
    [
        (["info", "x"], "'x' is one argument too many"),
        (["ping", "x"], "one argument too many"),
        (["tools", "a", "b"], "'b' is one argument too many"),
        (["resources", "x"], "one argument too many"),
        (["prompts", "x"], "one argument too many"),
        (["read"], "URI is missing"),
        (["read", "a", "b"], "one argument too many"),
        (["call"], "TOOL is missing"),
        (["call", "t", "word"], "NAME=VALUE"),
        (["call", "t", "a:={"], "not JSON"),
        (["call", "t", "--json", "[]"], "no JSON object"),
        (["call", "t", "-o", "-"], "for the subcommand read"),
        (["prompt"], "NAME is missing"),
        (["prompt", "p", "a:=1"], "has to be a text"),
        (["complete", "p"], "ARGUMENT=BEGINNING"),
        (["complete"], "ARGUMENT=BEGINNING"),
    ],
)
def test_wrong_words_start_nothing(run, words, complaint):
    ran = run(*words, "--", "/no/such/program")
    assert (ran.code, ran.out) == (2, "")
    assert complaint in ran.err
    assert "(see mcpsync %s --help)" % words[0] in ran.err
    verb, *rest = words
    ran = run(verb, "http://127.0.0.1:1/mcp", *rest)
    assert ran.code == 2
