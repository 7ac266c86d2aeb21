"""The progress bar as text."""

from __future__ import annotations

import io

import pytest

from mcpsync.cli._progress import StatusLine, bar_line, columns_of, fitted


@pytest.mark.parametrize(
    "progress, total, message, line",
    [
        (0, 4, None, "[------------------------]   0% 0 of 4"),
        (1, 4, None, "[######------------------]  25% 1 of 4"),
        (4, 4, None, "[########################] 100% 4 of 4"),
        (9, 4, None, "[########################] 100% 9 of 4"),
        (-1, 4, None, "[------------------------]   0% -1 of 4"),
        (0.5, 1.0, "half", "[############------------]  50% 0.5 of 1  half"),
        (3, None, None, "[????????????????????????] 3"),
        (3, 0, "many", "[????????????????????????] 3  many"),
        (1, 2, "a\x1b[2J\nb", "[############------------]  50% 1 of 2  a\\x1b[2J\\nb"),
        (1e30, None, None, "[????????????????????????] 1e+30"),
    ],
)
def test_the_bar(progress, total, message, line):
    assert bar_line(progress, total, message) == line


@pytest.mark.parametrize("columns", [2, 10, 40, 80, 1000])
def test_the_bar_leaves_the_last_column_free(columns):
    assert len(bar_line(1, 2, "x" * 500, columns)) == min(columns, 120) - 1


@pytest.mark.parametrize(
    "text, columns, result",
    [
        ("abc", 3, "abc"),
        ("abcd", 3, "ab…"),
        ("", 0, ""),
        ("日本", 4, "日本"),
        ("日本語", 4, "日…"),
        ("日本語", 5, "日本…"),
        ("e\u0301e\u0301", 2, "e\u0301e\u0301"),
    ],
)
def test_fitting(text, columns, result):
    assert fitted(text, columns) == result


def test_columns(monkeypatch):
    monkeypatch.setenv("COLUMNS", "33")
    assert columns_of(io.StringIO()) == 33
    for nonsense in ("", "0", "-3", "x", "999999"):
        monkeypatch.setenv("COLUMNS", nonsense)
        assert columns_of(io.StringIO()) is None


def test_nothing_is_drawn_where_there_is_no_terminal():
    stream = io.StringIO()
    line = StatusLine(stream)
    line.progress(1, 2, None)
    line.clear()
    assert stream.getvalue() == ""
    stream.close()
    assert not line.possible


class FakeTerminal(io.StringIO):
    def isatty(self):
        return True


def test_a_line_is_cleared_once(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    stream = FakeTerminal()
    line = StatusLine(stream)
    line.draw("one")
    line.draw("two")
    line.clear()
    line.clear()
    assert stream.getvalue() == "\r\x1b[Kone\r\x1b[Ktwo\r\x1b[K"
