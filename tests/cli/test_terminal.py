"""What a person at a terminal sees: progress, colors, clean text, questions."""

from __future__ import annotations

import re

import pytest

from ..fakes.stdio_server import python_server
from .running import STDIO, Terminal, with_server

BOLD = "\x1b[1m"


def text_server(text):
    return python_server(
        "shake_hands()",
        "serve({'tools/call': lambda params: text(%r)})" % text,
    )


# --- progress ---------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["auto", "legacy"])
def test_a_progress_bar_is_drawn_and_taken_away(server, protocol):
    words = ["call", "count", "to=4", "delay=0.1", "--protocol", protocol]
    with Terminal(*with_server(words, server)) as terminal:
        assert terminal.finish() == 0
    drawn = re.findall(r"\r\x1b\[K(\[#[#-]{23}\] [ 0-9]{3}% [0-9] of 4)", terminal.text)
    assert drawn[0] == "[######------------------]  25% 1 of 4"
    assert drawn[-1] == "[########################] 100% 4 of 4"
    assert terminal.text.endswith('\r\x1b[K{"counted": 4}\n')


def test_the_bar_fits_into_the_columns():
    words = ["call", "count", "to=2", "delay=0.1", *STDIO]
    with Terminal(*words, columns=30) as terminal:
        assert terminal.finish() == 0
    lines = re.findall(r"\r\x1b\[K([^\r\n]*)", terminal.text)
    assert [len(line) for line in lines[:2]] == [29, 29]


def test_standard_output_gets_no_bar(tmp_path):
    path = tmp_path / "out"
    with open(path, "wb") as file:
        words = ["call", "count", "to=2", "delay=0.1", *STDIO]
        with Terminal(*words, stdout=file) as terminal:
            assert terminal.finish() == 0
    assert path.read_text() == '{"counted": 2}\n'
    assert "100% 2 of 2" in terminal.text
    assert terminal.text.endswith("\r\x1b[K")


@pytest.mark.parametrize(
    "options, env",
    [(["-q"], {}), (["--output", "json"], {}), ([], {"TERM": "dumb"})],
    ids=["quiet", "json", "dumb"],
)
def test_no_bar(options, env):
    words = ["call", "count", "to=2", "delay=0.1", *options, *STDIO]
    with Terminal(*words, env={"NO_COLOR": "1", **env}) as terminal:
        assert terminal.finish() == 0
    assert "#" not in terminal.text
    assert "\x1b" not in terminal.text


# --- text -------------------------------------------------------------------------


def test_text_of_a_server_is_cleaned():
    text = "\x1b[31mred\x1b]0;title\x07 \u202eabc\ta\r\nnext \x9b2J line"
    with Terminal("call", "t", "--", *text_server(text)) as terminal:
        assert terminal.finish() == 0
    # The terminal itself writes a tab as it is.
    assert terminal.text == (
        "\\x1b[31mred\\x1b]0;title\\x07 \\u202eabc\ta\nnext \\x9b2J line\n"
    )


def test_an_error_of_a_tool_is_cleaned():
    words = ["call", "fail", "message=\x1b[2Jgone\nline", "--no-color", *STDIO]
    with Terminal(*words) as terminal:
        assert terminal.finish() == 5
    assert terminal.text == (
        "mcpsync: the tool 'fail' reported failure:\n\\x1b[2Jgone\nline\n"
    )


def test_a_prompt_and_instructions_are_cleaned():
    with Terminal("prompt", "greeting", "name=\x1b[2J", "--no-color", *STDIO) as shown:
        assert shown.finish() == 0
    assert "friendly greeting to \\x1b[2J." in shown.text
    server = python_server("shake_hands(instructions='a\\x1b[2Jb')", "serve()")
    with Terminal("info", "--no-color", "--", *server) as shown:
        assert shown.finish() == 0
    assert shown.text.endswith("\n\na\\x1b[2Jb\n")


def test_bytes_never_reach_a_terminal(tmp_path):
    with Terminal("read", "demo://logo", *STDIO) as terminal:
        assert terminal.finish() == 0
    assert "[demo://logo, image/png, 74 bytes]\n" in terminal.text
    with Terminal("read", "demo://logo", "-o", "-", *STDIO) as terminal:
        assert terminal.finish() == 2
    assert "standard output is a terminal" in terminal.text
    assert "PNG\n" not in terminal.text


def test_json_is_indented_on_a_terminal():
    words = ["tools", "add", "--output", "json", "--no-color", *STDIO]
    with Terminal(*words) as terminal:
        assert terminal.finish() == 0
    assert terminal.text.startswith('{\n  "result": {\n    "tools": [\n')


# --- colors and columns -----------------------------------------------------------


def test_names_are_bold_and_summaries_fit():
    with Terminal("tools", *STDIO, columns=40) as terminal:
        assert terminal.finish() == 0
    assert BOLD + "echo\x1b[0m         Echo a message.\n" in terminal.text
    lines = re.sub(r"\x1b\[[0-9]m", "", terminal.text).splitlines()
    assert max(len(line) for line in lines) == 40
    assert "count        Count up to a number, repo…" in lines


def test_columns_are_obeyed_even_in_a_pipe(run, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    lines = run("tools", *STDIO).out.splitlines()
    assert max(len(line) for line in lines) == 40
    monkeypatch.setenv("COLUMNS", "nonsense")
    assert max(len(line) for line in run("tools", *STDIO).out.splitlines()) > 70


@pytest.mark.parametrize(
    "options, env",
    [(["--no-color"], {}), ([], {"NO_COLOR": "1"}), ([], {"TERM": "dumb"})],
)
def test_no_colors(options, env):
    with Terminal("tools", *options, *STDIO, env=env) as terminal:
        assert terminal.finish() == 0
    assert "echo" in terminal.text
    assert "\x1b" not in terminal.text


def test_wide_letters_count_twice():
    tool = {"name": "t", "description": "日本" * 30, "inputSchema": {}}
    server = python_server(
        "shake_hands()",
        "serve({'tools/list': lambda params: {'tools': [%r]}})" % tool,
    )
    with Terminal("tools", "--no-color", "--", *server, columns=40) as terminal:
        assert terminal.finish() == 0
    assert terminal.text == "t  " + "日本" * 9 + "…\n"


# --- questions --------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["auto", "legacy"])
def test_a_question_is_answered_at_the_terminal(server, protocol):
    words = ["call", "ask", "question=Who are you?", "--protocol", protocol]
    with Terminal(*with_server(words, server)) as terminal:
        terminal.dialog(
            ("name [Ada]: ", "Bo"),
            ("age [36]: ", "many"),
            ("whole number", "7"),
            ("ok [yes]: ", "no"),
            ("color [green]: ", "3"),
            ("[send] ", ""),
        )
        assert terminal.finish() == 0
    assert "  Who are you?\n" in terminal.text
    assert '"name": "Bo", "age": 7, "ok": false, "color": "blue"' in terminal.text


def test_a_question_leaves_standard_output_alone(tmp_path):
    path = tmp_path / "out"
    with open(path, "wb") as file:
        words = ["call", "ask", "question=who?", "--output", "json", *STDIO]
        with Terminal(*words, stdout=file) as terminal:
            terminal.dialog(("name [Ada]: ", "decline"))
            assert terminal.finish() == 0
    assert '"action": "decline"' in path.read_text()
    assert path.read_text().count("\n") == 1


def test_the_end_of_the_input_cancels_a_question():
    with Terminal("call", "ask", "question=who?", *STDIO) as terminal:
        terminal.expect("name [Ada]: ")
        terminal.type("\x04")
        assert terminal.finish() == 0
    assert '"action": "cancel"' in terminal.text


def test_nobody_is_asked_who_cannot_see_the_question(tmp_path):
    with open(tmp_path / "err", "wb") as file:
        words = ["call", "ask", "question=who?", *STDIO]
        with Terminal(*words, stderr=file) as terminal:
            assert terminal.finish() == 1
    assert "need a terminal" in (tmp_path / "err").read_text()


def test_a_question_takes_the_place_of_the_bar():
    server = python_server("""
        def call(message):
            token = message["params"]["_meta"]["progressToken"]
            note("notifications/progress",
                 {"progressToken": token, "progress": 1, "total": 2})
            say({"jsonrpc": "2.0", "id": "q", "method": "elicitation/create",
                 "params": {"message": "go on?", "requestedSchema":
                            {"type": "object", "properties": {}}}})
            return text(read()["result"]["action"])
        shake_hands()
        while True:
            message = read()
            if message is None:
                break
            if message["method"] == "tools/list":
                answer(message, {"tools": []})
            elif message["method"] == "tools/call":
                answer(message, call(message))
        """)
    with Terminal("call", "t", "--", *server) as terminal:
        terminal.dialog(("accept, decline or cancel? ", "yes"))
        assert terminal.finish() == 0
    assert " 50% 1 of 2\r\x1b[K\nThe server " in terminal.text
    assert terminal.text.endswith("accept\n")


def test_ctrl_c_at_a_question(server):
    words = with_server(["call", "ask", "question=who?"], server)
    with Terminal(*words) as terminal:
        terminal.expect("name [Ada]: ")
        assert terminal.interrupt() == 130
    assert terminal.text.rstrip().endswith("interrupted")
