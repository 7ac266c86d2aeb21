"""``mcpsync demo``: everything works on what comes with the package."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest

from mcpsync.cli import _demo

from .running import PATIENCE, ROOT, Terminal, environment, run_process

RUNS = [
    ("stdio", "modern"),
    ("stdio", "legacy"),
    ("http", "modern"),
    ("http", "legacy"),
]
TITLES = [
    "stdio, modern era: protocol 2026-07-28",
    "stdio, legacy era: protocol 2025-11-25",
    "http, modern era: protocol 2026-07-28",
    "http, legacy era: protocol 2025-11-25",
]


def test_the_four_runs():
    ran = run_process("demo")
    assert (ran.code, ran.err) == (0, "")
    *sections, last = ran.out.split("\n\n")
    assert re.fullmatch(r"everything behaved, in [0-9.]+ s\n", last)
    assert [section.splitlines()[0] for section in sections] == TITLES
    for section in sections:
        _, tools, echo, add, count, fail = section.splitlines()
        assert tools.startswith("  tools  17: echo, add, count, ")
        assert echo == '  echo   {"echo": "ECHOING: hello", "env": null}'
        assert add == '  add    {"sum": 5}'
        assert count == "  count  [########################] 100% 5 of 5"
        assert fail == "  fail   the tool reported failure: this is meant to fail"


def test_the_transcripts():
    ran = run_process("demo", "--output", "json")
    assert (ran.code, ran.err) == (0, "")
    runs = ran.result["runs"]
    assert ran.result["ok"] is True
    assert [(each["transport"], each["era"]) for each in runs] == RUNS
    for each in runs:
        assert each["ok"] is True
        assert [step["name"] for step in each["steps"]] == [
            "tools",
            "echo",
            "add",
            "count",
            "fail",
        ]
        first = "initialize" if each["era"] == "legacy" else "server/discover"
        check_transcript(each["transcript"], first)
    versions = {each["era"]: each["protocolVersion"] for each in runs}
    assert versions == {"modern": "2026-07-28", "legacy": "2025-11-25"}


def check_transcript(entries, first):
    assert all(set(e) == {"direction", "kind", "method", "id"} for e in entries)
    sent = [e for e in entries if e["kind"] == "request"]
    answered = [e for e in entries if e["kind"] == "result"]
    assert [e["method"] for e in sent] == [first, "tools/list"] + ["tools/call"] * 4
    assert {e["direction"] for e in sent} == {"sent"}
    assert {e["direction"] for e in answered} == {"received"}
    # One at a time: every request is answered before the next one.
    assert [(e["method"], e["id"]) for e in answered] == [
        (e["method"], e["id"]) for e in sent
    ]
    assert len({e["id"] for e in sent}) == len(sent)
    notes = [e["method"] for e in entries if e["kind"] == "notification"]
    assert notes.count("notifications/progress") == 5
    assert notes.count("notifications/initialized") == (first == "initialize")


def test_the_bar_moves_on_a_terminal():
    with Terminal("demo", "--no-color") as terminal:
        assert terminal.finish() == 0
    assert terminal.text.count("  count  [####--------------------]  20% 1 of 5") == 4
    assert terminal.text.count("100% 5 of 5\n") == 4


def test_the_messages_are_shown_when_asked_for(run):
    code, out, _ = run("demo", "-v")
    assert code == 0
    assert out.count("    -> request      server/discover #1\n") == 2
    assert out.count("    <- result       initialize #1\n") == 2
    assert out.count("    <- notification notifications/progress\n") == 20


def test_it_needs_no_installed_package_and_no_environment(tmp_path):
    # From a directory with modules that would break the server if it found them.
    for name in ("json", "mcpsync", "threading"):
        (tmp_path / (name + ".py")).write_text("raise SystemExit('wrong module')")
    source = (
        "import sys; sys.path.append(%r); sys.path.remove('')\n"
        "from mcpsync.cli import main; sys.exit(main(['demo']))" % ROOT
    )
    ran = subprocess.run(
        [sys.executable, "-c", source],
        cwd=str(tmp_path),
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=PATIENCE,
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    assert "everything behaved" in ran.stdout


@pytest.mark.parametrize("words", [["x"], ["http://x/"], ["--", "x"]])
def test_it_takes_no_server(run, words):
    code, out, err = run("demo", *words)
    assert (code, out) == (2, "")
    assert "brings its own" in err


# --- what does not behave is not overlooked ---------------------------------------


@pytest.fixture
def at_once(monkeypatch):
    monkeypatch.setattr(_demo, "_DELAY", 0)


def test_a_server_that_cannot_be_started(run, monkeypatch, at_once):
    monkeypatch.setattr(_demo, "_START", "import sys; sys.exit('it is broken')")
    code, out, err = run("demo")
    assert code == 1
    assert out.count("NOT AS EXPECTED") == 2
    assert "it is broken" in out
    assert TITLES[2] in out and TITLES[3] in out
    assert "NOT everything behaved" in out
    assert err == "mcpsync: not every step of the demo behaved\n"
    ran = run("demo", "--output", "json")
    assert (ran.code, ran.result["ok"]) == (1, False)
    assert [each["ok"] for each in ran.result["runs"]] == [False, False, True, True]
    assert "it is broken" in ran.result["runs"][0]["error"]
    assert ran.error["code"] == "demo_failed"


@pytest.mark.parametrize(
    "tool, result",
    [
        ("echo", {"content": []}),
        ("add", {"content": [], "structuredContent": {"sum": 6}}),
        ("count", {"content": [], "structuredContent": {"counted": 5}}),
        ("fail", {"content": []}),
    ],
)
def test_a_tool_that_does_something_else(run, monkeypatch, at_once, tool, result):
    from mcpsync.demo import _tools

    changed = _tools.TOOLS[tool]._replace(run=lambda call, arguments: dict(result))
    definition = {**changed.definition}
    definition.pop("outputSchema", None)
    monkeypatch.setitem(_tools.TOOLS, tool, changed._replace(definition=definition))
    ran = run("demo", "--output", "json")
    assert (ran.code, ran.result["ok"]) == (1, False)
    for each in ran.result["runs"]:
        # Only the server in this process was changed.
        wrong = [step["name"] for step in each["steps"] if not step["ok"]]
        assert wrong == ([tool] if each["transport"] == "http" else [])


def test_nothing_is_left_behind_when_interrupted(run, monkeypatch):
    def interrupted(self, client):
        raise KeyboardInterrupt

    monkeypatch.setattr(_demo._Run, "_steps", interrupted)
    assert run("demo").code == 130
