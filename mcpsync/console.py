"""A ready elicitation handler for a terminal.

::

    with mcpsync.connect(target, on_elicitation=mcpsync.console.ask) as client:
        client.call_tool("book_table")

It prints and reads like any program with ``print`` and ``input``, so it works in a
notebook as well.

Specification: 2026-07-28, client/elicitation.
"""

from __future__ import annotations

import builtins
import json
import math
import re
import urllib.parse
from dataclasses import dataclass
from typing import Callable, Dict, List, Mapping, Optional, Sequence, Tuple

from ._text import clean
from .protocol.schema import check_answer
from .types import JSON, ElicitRequest, ElicitResult

__all__ = ["ask"]

Read = Callable[[str], str]
Write = Callable[[str], None]

#: Characters of a server's message that are shown.
_MESSAGE = 4000

#: A page's address that is longer cannot be shown in full, so nobody can judge it.
_LONGEST_URL = 4000

_LEAVING = {"cancel": "cancel", "decline": "decline"}
_CONSENT = {
    **dict.fromkeys(("accept", "a", "yes", "y"), "accept"),
    **dict.fromkeys(("decline", "d", "no", "n"), "decline"),
    **dict.fromkeys(("cancel", "c"), "cancel"),
}
_REVIEW = {
    **dict.fromkeys(("", "send", "s", "yes", "y"), "accept"),
    **dict.fromkeys(("edit", "e"), "edit"),
    **dict.fromkeys(("decline", "d", "no", "n"), "decline"),
    **dict.fromkeys(("cancel", "c"), "cancel"),
}
_TRUTH = {
    **dict.fromkeys(("true", "yes", "y", "on", "1"), True),
    **dict.fromkeys(("false", "no", "n", "off", "0"), False),
}


def ask(
    request: ElicitRequest,
    *,
    read: Optional[Read] = None,
    write: Optional[Write] = None,
) -> ElicitResult:
    """Put a server's question to whoever sits at the terminal.

    A form is asked field by field: Enter takes the value in brackets, or leaves out a
    field that is optional; a value that does not fit is asked for again; at the end
    the answers are shown before they are sent. ``cancel`` and ``decline`` end the
    question at any point; put either, or an empty text, in double quotes to give it
    as a value. The address of a page is shown with its host, and is never opened.

    Args:
        request: the question.
        read: shows a prompt and returns a line, like :func:`input`, which it is by
            default.
        write: shows a line, like :func:`print`, which it is by default.

    Returns:
        The answer. ``cancel`` also when there is no terminal to ask at, or the server
        does not want the answer any more.

    Raises:
        SchemaRefused: the form is malformed.

    Any thread may call it; two questions at once share one terminal.

    Specification: 2026-07-28, client/elicitation.
    """
    talk = _Talk(request, read or builtins.input, write or print)
    try:
        talk.introduce()
        if request.mode == "url":
            return _ask_for_visit(talk, request.url or "")
        return _ask_form(talk, request.requested_schema or {})
    except _Left as left:
        return ElicitResult(left.action)


def readable(text: str, limit: Optional[int] = None) -> str:
    """Return text from a server as a terminal may show it, in its own lines.

    Control and bidirectional characters become escapes; line ends and tabs stay.
    """
    if limit is not None and len(text) > limit:
        text = text[:limit] + "…"
    lines = text.replace("\r\n", "\n").split("\n")
    return "\n".join(
        "\t".join(clean(part, len(part)) for part in line.split("\t")) for line in lines
    )


class _Left(Exception):
    """The question ends without an answer."""

    def __init__(self, action: str) -> None:
        super().__init__(action)
        self.action = action


class _Talk:
    """The conversation about one question."""

    def __init__(self, request: ElicitRequest, read: Read, write: Write) -> None:
        self._request = request
        self._read = read
        self.write = write

    def introduce(self) -> None:
        server = clean(self._request.server, 100) or "of no name"
        self.write("")
        self.write("The server %s asks:" % server)
        for line in readable(self._request.message, _MESSAGE).split("\n"):
            self.write("  " + line)

    def line(self, prompt: str) -> str:
        """Return what the user typed; leave if nobody can, or it is too late."""
        self._check()
        try:
            text = self._read(prompt)
        except (EOFError, OSError, RuntimeError):
            # A notebook without a person raises a NotImplementedError, and a process
            # without a standard input a RuntimeError, of which that one is a kind.
            raise _Left("cancel") from None
        self._check()
        return text.strip()

    def word(self, prompt: str, words: Mapping[str, str]) -> str:
        """Return what one of the words means; ask until there is one."""
        while True:
            meaning = words.get(self.line(prompt).lower())
            if meaning is not None:
                return meaning
            self.write("  Please type one of the words.")

    def _check(self) -> None:
        if self._request.cancelled.is_set():
            self.write("  The server does not want the answer any more.")
            raise _Left("cancel")


# --- pages ------------------------------------------------------------------------


def _ask_for_visit(talk: _Talk, url: str) -> ElicitResult:
    host = _host(url)
    if host is None:
        talk.write("It names a page whose address is no usable http or https URL:")
        talk.write("  " + clean(url))
        return ElicitResult.cancel()
    talk.write("It wants you to visit a page:")
    talk.write("  Host: " + clean(host))
    talk.write("  URL:  " + clean(url, _LONGEST_URL))
    for warning in _warnings(url, host):
        talk.write("  Careful: " + warning)
    talk.write("Nothing is opened by itself. If you trust the page, open it yourself.")
    return ElicitResult(talk.word("accept, decline or cancel? ", _CONSENT))


def _host(url: str) -> Optional[str]:
    # Browsers read a backslash as a slash, and skip line ends: the host that is shown
    # would not be the one that is visited.
    if len(url) > _LONGEST_URL or re.search(r"[\x00-\x20\\]", url):
        return None
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname
    except ValueError:
        return None
    return host if parts.scheme in ("http", "https") else None


def _warnings(url: str, host: str) -> List[str]:
    found = []
    if not url.startswith("https:"):
        found.append("the connection to this page is not encrypted.")
    if "xn--" in host or not host.isascii():
        found.append("the host's name has letters that may look like others.")
    if "@" in urllib.parse.urlsplit(url).netloc:
        found.append("what stands before the @ is not the host.")
    if clean(url, _LONGEST_URL) != url:
        found.append("the address has characters that are not shown as they are.")
    return found


# --- forms ------------------------------------------------------------------------


@dataclass(frozen=True)
class _Field:
    """One property of a form.

    Attributes:
        kind: the type in the schema, ``""`` when it says none.
        choices: the values to choose from, each with its title; empty for any value.
    """

    name: str
    schema: Mapping[str, JSON]
    required: bool
    kind: str
    choices: Sequence[Tuple[JSON, str]]


class _Invalid(Exception):
    """What was typed is no value for the field."""


def _ask_form(talk: _Talk, schema: Mapping[str, JSON]) -> ElicitResult:
    # Refuses a malformed form before anybody has answered half of it.
    check_answer(schema, {})
    fields = _fields(schema)
    if not fields:
        return _agree(talk)
    talk.write('Type "decline" or "cancel" to end this without an answer.')
    content: Dict[str, JSON] = {}
    while True:
        content = _fill(talk, fields, content)
        violation = check_answer(schema, content)
        if violation is not None:
            talk.write("  This does not fit: %s" % violation)
            continue
        talk.write("Your answer:")
        for name, value in content.items():
            talk.write("  %s: %s" % (clean(name, 100), _shown(value)))
        action = talk.word("send, edit, decline or cancel? [send] ", _REVIEW)
        if action != "edit":
            accepted = content if action == "accept" else None
            return ElicitResult(action, accepted)


def _agree(talk: _Talk) -> ElicitResult:
    action = talk.word("accept, decline or cancel? ", _CONSENT)
    return ElicitResult(action, {} if action == "accept" else None)


def _fields(schema: Mapping[str, JSON]) -> List[_Field]:
    properties = schema.get("properties")
    required = schema.get("required")
    names = required if isinstance(required, list) else []
    if not isinstance(properties, Mapping):
        return []
    return [
        _field(name, asked if isinstance(asked, Mapping) else {}, name in names)
        for name, asked in properties.items()
    ]


def _field(name: str, schema: Mapping[str, JSON], required: bool) -> _Field:
    kind = schema.get("type")
    kind = kind if isinstance(kind, str) else ""
    items = schema.get("items")
    chosen = items if kind == "array" and isinstance(items, Mapping) else schema
    return _Field(name, schema, required, kind, _choices(chosen))


def _choices(schema: Mapping[str, JSON]) -> List[Tuple[JSON, str]]:
    """Return the values to choose from and their titles, in the server's order."""
    values = schema.get("enum")
    if isinstance(values, list):
        titles = schema.get("enumNames")
        names = titles if isinstance(titles, list) else []
        names = names + values[len(names) :]
        return [(value, _text(name)) for value, name in zip(values, names)]
    for keyword in ("oneOf", "anyOf"):
        options = schema.get(keyword)
        if isinstance(options, list):
            return [
                (option["const"], _text(option.get("title", option["const"])))
                for option in options
                if isinstance(option, Mapping) and "const" in option
            ]
    return []


def _text(value: JSON) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _shown(value: JSON) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, list):
        return ", ".join(_shown(item) for item in value) or "nothing"
    return clean(_text(value)) or '""'


def _fill(
    talk: _Talk, fields: Sequence[_Field], before: Mapping[str, JSON]
) -> Dict[str, JSON]:
    """Ask for every field; what was answered before is offered again."""
    content: Dict[str, JSON] = {}
    for field in fields:
        offered = before.get(field.name, field.schema.get("default"))
        _describe(talk, field)
        given = _ask_field(talk, field, offered)
        if given is not None:
            content[field.name] = given[0]
    return content


def _describe(talk: _Talk, field: _Field) -> None:
    title, description = field.schema.get("title"), field.schema.get("description")
    words = [field.kind] if field.kind else []
    words.append("required" if field.required else "optional")
    name = clean(title if isinstance(title, str) else field.name, 200)
    talk.write("%s (%s)" % (name, ", ".join(clean(word, 40) for word in words)))
    if isinstance(description, str):
        for line in readable(description, _MESSAGE).split("\n"):
            talk.write("  " + line)
    for number, (value, label) in enumerate(field.choices, 1):
        code = clean(_text(value), 200)
        more = "" if label == _text(value) else "  (%s)" % code
        talk.write("  %d) %s%s" % (number, clean(label, 200), more))
    if field.choices and field.kind == "array":
        talk.write("  Several may be chosen, with commas between them.")


def _ask_field(talk: _Talk, field: _Field, offered: JSON) -> Optional[Tuple[JSON]]:
    """Return the value in a tuple; None leaves the field out."""
    bracket = "" if offered is None else " [%s]" % _shown(offered)
    prompt = "%s%s: " % (clean(field.name, 100), bracket)
    while True:
        text = talk.line(prompt)
        if text.lower() in _LEAVING:
            raise _Left(_LEAVING[text.lower()])
        if not text and offered is None and not field.required:
            return None
        if not text and offered is None:
            talk.write('  A value is needed; "" is the empty text.')
            continue
        try:
            value = _value(field, text) if text else offered
            _check(field, value)
        except _Invalid as invalid:
            talk.write("  %s" % invalid)
            continue
        return (value,)


def _check(field: _Field, value: JSON) -> None:
    form = {"type": "object", "properties": {field.name: field.schema}}
    violation = check_answer(form, {field.name: value})
    if violation is not None:
        raise _Invalid("This cannot be taken: %s." % violation.reason)


def _value(field: _Field, text: str) -> JSON:
    if field.kind == "array":
        return _several(field, text)
    if field.choices:
        return _choice(field.choices, text)
    return _READERS.get(field.kind, _read_any)(text)


def _several(field: _Field, text: str) -> List[JSON]:
    if text in ("[]", '""'):
        return []
    whole = _json_or_none(text) if text.startswith("[") else None
    if isinstance(whole, list):
        return whole
    parts = [part.strip() for part in text.split(",") if part.strip()]
    if field.choices:
        return [_choice(field.choices, part) for part in parts]
    return list(parts)


def _choice(choices: Sequence[Tuple[JSON, str]], text: str) -> JSON:
    """Return the choice that the text names: by value, by title, or by number."""
    for value, _ in choices:
        if text == _text(value):
            return value
    for value, label in choices:
        if text.lower() == label.lower():
            return value
    if text.isdecimal() and len(text) < 9 and 1 <= int(text) <= len(choices):
        return choices[int(text) - 1][0]
    raise _Invalid("Please choose one of the %d." % len(choices))


def _json_or_none(text: str) -> JSON:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def _read_text(text: str) -> str:
    if text in ('""', '"cancel"', '"decline"'):
        return text[1:-1]
    return text


def _read_integer(text: str) -> int:
    if not re.fullmatch(r"[+-]?[0-9]{1,300}", text):
        raise _Invalid("Please type a whole number.")
    return int(text)


def _read_number(text: str) -> float:
    if re.fullmatch(r"[+-]?[0-9]{1,300}", text):
        return int(text)
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not math.isfinite(value):
        raise _Invalid("Please type a number.")
    return value


def _read_truth(text: str) -> bool:
    value = _TRUTH.get(text.lower())
    if value is None:
        raise _Invalid("Please type yes or no.")
    return value


def _read_any(text: str) -> JSON:
    value = _json_or_none(text)
    return text if value is None else value


_READERS: Dict[str, Callable[[str], JSON]] = {
    "boolean": _read_truth,
    "integer": _read_integer,
    "number": _read_number,
    "string": _read_text,
}
