"""Questions at a terminal: what is shown, what is read, and what is answered."""

from __future__ import annotations

import builtins
import io
import sys

import pytest

import mcpsync
from mcpsync import console
from mcpsync.console import ask, readable
from mcpsync.exceptions import SchemaRefused
from mcpsync.testing import serve
from mcpsync.types import ElicitRequest, ElicitResult

from .fakes import bounded


class Person:
    """Types prepared lines; the end of them is the end of the input."""

    def __init__(self, *lines):
        self.lines = list(lines)
        self.prompts = []
        self.seen = []

    def read(self, prompt):
        self.prompts.append(prompt)
        if not self.lines:
            raise EOFError
        line = self.lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        if callable(line):
            line = line()
        return line

    def answer(self, request):
        result = ask(request, read=self.read, write=self.seen.append)
        assert isinstance(result, ElicitResult)
        assert self.lines == [], "not everything was asked for"
        return result

    @property
    def text(self):
        return "\n".join(self.seen)


def form(properties, required=(), **more):
    schema = {"type": "object", "properties": properties, "required": list(required)}
    more = {"message": "Please answer", "server": "shop", **more}
    return ElicitRequest(requested_schema=schema, **more)


def value_of(schema, *lines, required=True):
    """Return what a field of that schema becomes for the lines typed."""
    person = Person(*lines, "")
    result = person.answer(form({"f": schema}, ["f"] if required else []))
    assert result.action == "accept"
    return result.content["f"]


# --- forms ------------------------------------------------------------------------

FORM = {
    "name": {"type": "string", "title": "Your name", "description": "As printed"},
    "age": {"type": "integer", "minimum": 18, "default": 36},
    "news": {"type": "boolean", "default": False},
    "size": {"type": "string", "enum": ["s", "m"], "enumNames": ["Small", "Medium"]},
}


def test_a_form_shows_who_asks_and_what():
    person = Person("Ada", "40", "yes", "m", "")
    result = person.answer(form(FORM, ["name", "size"]))
    assert result.action == "accept"
    assert result.content == {"name": "Ada", "age": 40, "news": True, "size": "m"}
    assert person.seen == [
        "",
        "The server shop asks:",
        "  Please answer",
        'Type "decline" or "cancel" to end this without an answer.',
        "Your name (string, required)",
        "  As printed",
        "age (integer, optional)",
        "news (boolean, optional)",
        "size (string, required)",
        "  1) Small  (s)",
        "  2) Medium  (m)",
        "Your answer:",
        "  name: Ada",
        "  age: 40",
        "  news: yes",
        "  size: m",
    ]
    assert person.prompts == [
        "name: ",
        "age [36]: ",
        "news [no]: ",
        "size: ",
        "send, edit, decline or cancel? [send] ",
    ]


def test_enter_takes_the_default_or_leaves_an_optional_field_out():
    fields = {"a": {"type": "integer", "default": 7}, "b": {"type": "string"}}
    result = Person("", "", "").answer(form(fields, ["a"]))
    assert result.content == {"a": 7}


def test_a_required_field_without_a_default_needs_a_value():
    person = Person("", "", "x", "")
    assert person.answer(form({"b": {"type": "string"}}, ["b"])).content == {"b": "x"}
    assert person.text.count('A value is needed; "" is the empty text.') == 2


@pytest.mark.parametrize("word", ["cancel", "decline", "CANCEL", " Decline "])
@pytest.mark.parametrize("before", [[], ["Ada"], ["Ada", "40", "yes", "m"]])
def test_the_words_that_end_a_question(word, before):
    result = Person(*before, word).answer(form(FORM, ["name", "size"]))
    assert (result.action, result.content) == (word.strip().lower(), None)


@pytest.mark.parametrize("word", ["", "cancel", "decline"])
def test_quotes_make_a_value_of_a_word(word):
    assert value_of({"type": "string"}, '"%s"' % word) == word


def test_other_quotes_are_part_of_the_value():
    assert value_of({"type": "string"}, '"hello"') == '"hello"'


def test_a_form_without_fields_is_agreed_to():
    for word, action in (("accept", "accept"), ("n", "decline"), ("c", "cancel")):
        person = Person("", "what?", word)
        result = person.answer(form({}))
        assert (result.action, result.content) == (
            action,
            {} if action == "accept" else None,
        )
        assert person.prompts == ["accept, decline or cancel? "] * 3


@pytest.mark.parametrize("word", ["", "send", "y", "YES"])
def test_the_answer_is_sent_when_it_was_looked_at(word):
    assert Person("x", word).answer(form({"a": {}})).content == {"a": "x"}


def test_the_answer_can_be_edited():
    fields = {"a": {"type": "integer"}, "b": {"type": "string", "default": "d"}}
    person = Person("1", "", "edit", "2", "", "what", "send")
    assert person.answer(form(fields)).content == {"a": 2, "b": "d"}
    assert person.prompts[3:5] == ["a [1]: ", "b [d]: "]
    assert "Please type one of the words." in person.text


@pytest.mark.parametrize("word, action", [("decline", "decline"), ("no", "decline")])
def test_the_answer_can_be_kept_back(word, action):
    assert Person("x", word).answer(form({"a": {}})).action == action


# --- values -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "schema, line, value",
    [
        ({"type": "string"}, "hello world", "hello world"),
        ({"type": "string"}, "5", "5"),
        ({"type": "string", "format": "email"}, "a@example.com", "a@example.com"),
        ({"type": "integer"}, "-12", -12),
        ({"type": "integer"}, "+3", 3),
        ({"type": "number"}, "2", 2),
        ({"type": "number"}, "2.5", 2.5),
        ({"type": "number"}, "-1e-3", -0.001),
        ({"type": "boolean"}, "y", True),
        ({"type": "boolean"}, "OFF", False),
        ({"enum": ["a", "b"]}, "b", "b"),
        ({"enum": ["a", "b"]}, "2", "b"),
        ({"enum": ["2", "1"]}, "2", "2"),
        ({"enum": ["a", "b"], "enumNames": ["First", "Second"]}, "second", "b"),
        ({"enum": ["a", "b"], "enumNames": ["First"]}, "b", "b"),
        ({"oneOf": [{"const": "x", "title": "Ex"}, {"const": "y"}]}, "Ex", "x"),
        ({"oneOf": [{"const": "x", "title": "Ex"}, {"const": "y"}]}, "y", "y"),
        ({}, "words", "words"),
        ({}, "[1]", [1]),
        ({"type": "array", "items": {"type": "string"}}, "a, b ,c", ["a", "b", "c"]),
        ({"type": "array", "items": {"type": "string"}}, '["a,b"]', ["a,b"]),
        ({"type": "array", "items": {"type": "string"}}, "[]", []),
        ({"type": "array", "items": {"enum": ["a", "b", "c"]}}, "3, a", ["c", "a"]),
        (
            {"type": "array", "items": {"anyOf": [{"const": "x", "title": "Ex"}]}},
            "Ex",
            ["x"],
        ),
    ],
)
def test_values(schema, line, value):
    result = value_of(schema, line)
    assert result == value
    assert type(result) is type(value)


@pytest.mark.parametrize(
    "schema, wrong, complaint",
    [
        ({"type": "integer"}, "1.5", "whole number"),
        ({"type": "integer"}, "1_0", "whole number"),
        ({"type": "integer", "minimum": 5}, "4", "less than the minimum of 5"),
        ({"type": "number"}, "nan", "type a number"),
        ({"type": "number"}, "x", "type a number"),
        ({"type": "number", "maximum": 1}, "2", "greater than the maximum of 1"),
        ({"type": "boolean"}, "perhaps", "yes or no"),
        ({"type": "string", "minLength": 3}, "ab", "shorter than 3"),
        ({"type": "string", "format": "email"}, "nobody", "format email"),
        ({"enum": ["a", "b"]}, "c", "choose one of the 2"),
        ({"enum": ["a", "b"]}, "3", "choose one of the 2"),
        ({"enum": ["a", "b"]}, "0", "choose one of the 2"),
        ({"type": "array", "items": {"enum": ["a"]}}, "a, z", "choose one of the 1"),
        (
            {"type": "array", "items": {"enum": ["a", "b"]}, "minItems": 2},
            "a",
            "fewer than 2",
        ),
    ],
)
def test_a_value_that_does_not_fit_is_asked_for_again(schema, wrong, complaint):
    person = Person(wrong, "cancel")
    result = person.answer(form({"f": schema}, ["f"]))
    assert result.action == "cancel"
    assert complaint in person.seen[-1]
    assert person.prompts == ["f: "] * 2


def test_a_default_that_does_not_fit_is_not_taken():
    person = Person("", "5", "")
    fields = {"f": {"type": "integer", "minimum": 5, "default": 1}}
    assert person.answer(form(fields)).content == {"f": 5}
    assert "less than the minimum of 5" in person.text


def test_what_fits_only_together_is_asked_for_again():
    # A field is required that the form does not have.
    person = Person("x", "x", "cancel")
    assert person.answer(form({"a": {}}, ["a", "gone"])).action == "cancel"
    assert person.text.count("This does not fit") == 2


def test_a_malformed_form_is_refused_before_anything_is_asked():
    person = Person()
    with pytest.raises(SchemaRefused):
        person.answer(form({"f": {"type": "integer", "minimum": "low"}}))
    assert person.prompts == []


@pytest.mark.parametrize(
    "properties",
    [
        {"f": {"title": 5, "description": [], "enum": ["a"], "enumNames": 3}},
        {"f": {"enum": ["a"], "enumNames": [None]}},
        {"f": {"anyOf": [{"const": "a"}, {"title": "no value"}]}},
    ],
)
def test_what_is_odd_but_harmless_is_asked(properties):
    assert Person("a", "").answer(form(properties)).content == {"f": "a"}


# --- pages ------------------------------------------------------------------------


def page(url, **more):
    return ElicitRequest(
        message="Please pay", mode="url", url=url, server="shop", **more
    )


@pytest.mark.parametrize(
    "word, action",
    [("accept", "accept"), ("y", "accept"), ("decline", "decline"), ("c", "cancel")],
)
def test_a_page_is_shown_in_full_and_never_opened(word, action, monkeypatch):
    def opened(*args, **kwargs):
        raise AssertionError("a browser was opened")

    monkeypatch.setattr("webbrowser.open", opened)
    url = "https://pay.example.com:8443/a/b?c=" + "d" * 1000 + "#e"
    person = Person("", "what", word)
    result = person.answer(page(url))
    assert (result.action, result.content) == (action, None)
    assert person.seen[:6] == [
        "",
        "The server shop asks:",
        "  Please pay",
        "It wants you to visit a page:",
        "  Host: pay.example.com",
        "  URL:  " + url,
    ]
    assert person.prompts == ["accept, decline or cancel? "] * 3
    assert "Careful" not in person.text


@pytest.mark.parametrize(
    "url, host, warning",
    [
        ("http://example.com/", "example.com", "not encrypted"),
        ("https://xn--80ak6aa92e.com/", "xn--80ak6aa92e.com", "look like others"),
        ("https://\u0430pple.com/", "\u0430pple.com", "look like others"),
        ("https://bank.com@evil.com/", "evil.com", "before the @"),
        ("https://example.com/\u202etxt.exe", "example.com", "not shown as they are"),
    ],
)
def test_what_is_suspicious_is_pointed_out(url, host, warning):
    person = Person("decline")
    assert person.answer(page(url)).action == "decline"
    assert "  Host: " + host in person.seen
    assert warning in person.text
    assert "\u202e" not in person.text


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "file:///etc/passwd",
        "https://",
        "https:///path",
        "https://[::1",
        "https://trusted.com\\@evil.com/",
        "https://trusted.com\n.evil.com/",
        "https://example.com/" + "a" * 5000,
        "",
    ],
)
def test_an_address_that_cannot_be_judged_is_cancelled(url):
    person = Person()
    assert person.answer(page(url)).action == "cancel"
    assert person.prompts == []
    assert "no usable http or https URL" in person.text


# --- text from outside ------------------------------------------------------------


def test_nothing_from_a_server_reaches_the_terminal_as_it_is():
    bad = "\x1b[2J\u202e\x9b\r"
    fields = {
        "f"
        + bad: {
            "title": bad,
            "description": "one\n" + bad,
            "enum": [bad],
            "enumNames": [bad + "x"],
            "default": bad,
            "type": "string",
        }
    }
    person = Person("", "")
    request = form(fields, message="a\n" + bad, server=bad)
    assert person.answer(request).content == {"f" + bad: bad}
    shown = person.text + "".join(person.prompts)
    for character in "\x1b\u202e\x9b\r":
        assert character not in shown
    assert "  a\n  \\x1b[2J" in person.text
    assert "  one\n  \\x1b[2J" in person.text


def test_a_long_message_is_clipped():
    person = Person("cancel")
    person.answer(form({"f": {}}, message="x" * 100_000))
    assert len(person.text) < 10_000
    assert "x…" in person.text


@pytest.mark.parametrize(
    "text, result",
    [
        ("a\nb\tc", "a\nb\tc"),
        ("a\r\nb\rc", "a\nb\\rc"),
        ("\x1b[0m\u2028\u202e", "\\x1b[0m\\u2028\\u202e"),
        ("ä日本😀", "ä日本😀"),
        ("", ""),
    ],
)
def test_readable(text, result):
    assert readable(text) == result


def test_readable_with_a_limit():
    assert readable("abcdef", 3) == "abc…"
    assert readable("abc", 3) == "abc"


# --- nobody there -----------------------------------------------------------------


class StdinNotImplementedError(NotImplementedError):
    """What a notebook's kernel raises where no person can type."""


@pytest.mark.parametrize(
    "error",
    [
        EOFError(),
        StdinNotImplementedError("raw_input was called"),
        RuntimeError("input(): lost sys.stdin"),
        OSError("reading from stdin while output is captured"),
    ],
    ids=lambda error: type(error).__name__,
)
@pytest.mark.parametrize("request_", [form(FORM), form({}), page("https://x.example/")])
def test_without_a_terminal_the_question_is_cancelled(error, request_):
    assert Person(error).answer(request_).action == "cancel"


def test_ctrl_c_is_not_an_answer():
    with pytest.raises(KeyboardInterrupt):
        Person(KeyboardInterrupt()).answer(form(FORM))


def test_an_answer_that_is_not_wanted_any_more():
    request = form(FORM)
    request.cancelled.set()
    person = Person()
    assert person.answer(request).action == "cancel"
    assert person.prompts == []
    request = form({"a": {}})

    def too_late():
        request.cancelled.set()
        return "x"

    person = Person(too_late)
    assert person.answer(request).action == "cancel"
    assert "does not want the answer any more" in person.text


def test_input_and_print_are_used_as_they_are_at_that_moment(monkeypatch, capsys):
    # A notebook replaces them while a cell runs.
    monkeypatch.setattr(builtins, "input", Person("x", "").read)
    assert ask(form({"a": {}})).content == {"a": "x"}
    assert "The server shop asks:" in capsys.readouterr().out


def test_a_closed_standard_input(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert ask(form(FORM)).action == "cancel"
    monkeypatch.setattr(sys, "stdin", None)
    assert ask(form(FORM)).action == "cancel"


# --- as a handler -----------------------------------------------------------------


@pytest.mark.parametrize("kind", ["stdio", "http", "memory"])
@pytest.mark.parametrize("protocol", ["auto", "legacy"])
def test_it_is_a_handler(kind, protocol, monkeypatch):
    person = Person("Bo", "", "no", "blue", "")
    monkeypatch.setattr(builtins, "input", person.read)

    def call():
        with serve(kind) as server, mcpsync.connect(
            server.target, protocol=protocol, on_elicitation=console.ask
        ) as client:
            return client.call_tool("ask", {"question": "who?"})

    answer = bounded(call)
    assert answer.data == {
        "action": "accept",
        "content": {"name": "Bo", "age": 36, "ok": False, "color": "blue"},
    }
