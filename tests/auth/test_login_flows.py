"""How a person gets to a login and back."""

from __future__ import annotations

import contextlib
import json
import logging
import os
import pty
import subprocess
import sys
import threading
from typing import Any, Iterator, List, Optional

import pytest

from mcpsync._deadline import Deadline
from mcpsync.auth import login
from mcpsync.auth._records import ClientRecord
from mcpsync.auth.login import (
    LoopbackListener,
    PendingLogin,
    WrongState,
    browser_flow,
    new_pending_login,
    paste_flow,
    require_terminal,
)
from mcpsync.exceptions import (
    AuthorizationError,
    DiscoveryError,
    IssuerMismatch,
    LoginRequired,
)

from ..fakes import bounded
from .logins import CODE, callback, pending_login, send
from .sites import soon

# --- with a browser -----------------------------------------------------------------


@pytest.fixture
def listener() -> Iterator[LoopbackListener]:
    with LoopbackListener() as listener:
        yield listener


def test_the_url_is_shown_before_it_is_opened(listener: LoopbackListener) -> None:
    pending = pending_login(redirect_uri=listener.redirect_uri)
    seen: List[str] = []

    def open_url(url: str) -> bool:
        seen.append("opened " + url)
        assert b" 200 OK\r\n" in send(callback(pending))
        return True

    code = browser_flow(pending, listener, soon(), show=seen.append, open_url=open_url)
    assert code == CODE
    assert pending.authorization_url in seen[0] and "demo" in seen[0]
    assert seen[1:] == ["opened " + pending.authorization_url]


def test_without_a_browser_the_url_is_enough(listener: LoopbackListener) -> None:
    pending = pending_login(redirect_uri=listener.redirect_uri)
    shown: List[str] = []
    people: List[threading.Thread] = []

    def show(text: str) -> None:
        shown.append(text)
        assert threading.current_thread() is threading.main_thread()
        if "No browser" in text:
            people.append(threading.Thread(target=send, args=[callback(pending)]))
            people[0].start()

    code = browser_flow(pending, listener, soon(), show=show, open_url=lambda _: False)
    people[0].join()
    assert code == CODE and len(shown) == 2


def test_an_opener_that_fails_is_no_browser(
    listener: LoopbackListener, caplog: pytest.LogCaptureFixture
) -> None:
    pending = pending_login(redirect_uri=listener.redirect_uri)
    shown: List[str] = []

    def open_url(url: str) -> bool:
        raise RuntimeError(url)

    with pytest.raises(LoginRequired, match="within 0.6 s"):
        browser_flow(
            pending,
            listener,
            Deadline.after(0.6),
            show=shown.append,
            open_url=open_url,
        )
    assert len(shown) == 2 and "No browser" in shown[1]
    assert "RuntimeError" in caplog.text and pending.state not in caplog.text


def test_an_opener_that_never_returns_holds_nothing_up(
    listener: LoopbackListener,
) -> None:
    pending = pending_login(redirect_uri=listener.redirect_uri)
    over = threading.Event()

    def open_url(url: str) -> bool:
        return over.wait(30)

    try:
        with pytest.raises(LoginRequired) as caught:
            browser_flow(
                pending,
                listener,
                Deadline.after(0.3),
                show=lambda text: None,
                open_url=open_url,
            )
    finally:
        over.set()
    assert caught.value.server_url == pending.server_url


def test_nothing_is_opened_that_is_no_page(listener: LoopbackListener) -> None:
    pending = pending_login(authorization_endpoint="javascript:alert(1)")
    seen: List[str] = []

    def open_url(url: str) -> bool:
        seen.append(url)
        return True

    with pytest.raises(DiscoveryError):
        browser_flow(pending, listener, soon(), show=seen.append, open_url=open_url)
    assert seen == []


# --- with a person who pastes -------------------------------------------------------


class Person:
    """Reads what is shown, and enters prepared lines."""

    def __init__(self, *lines: Any) -> None:
        self.lines = list(lines)
        self.shown: List[str] = []

    def ask(self, prompt: str) -> str:
        line = self.lines.pop(0)
        if isinstance(line, BaseException):
            raise line
        return str(line)

    def log_in(self, pending: PendingLogin) -> str:
        return paste_flow(pending, show=self.shown.append, ask=self.ask)


def test_a_pasted_address_is_the_answer() -> None:
    pending = pending_login()
    person = Person(callback(pending))
    assert person.log_in(pending) == CODE
    assert len(person.shown) == 1
    assert pending.authorization_url in person.shown[0]
    assert pending.redirect_uri in person.shown[0]


def test_a_wrong_address_may_be_pasted_twice() -> None:
    pending = pending_login()
    person = Person("", callback(pending_login()), callback(pending))
    assert person.log_in(pending) == CODE
    assert [text for text in person.shown if "try again" in text] == person.shown[1:]
    person = Person("a", "b", "c", callback(pending))
    with pytest.raises(WrongState):
        person.log_in(pending)
    assert len(person.lines) == 1


@pytest.mark.parametrize(
    "changes, kind",
    [({"iss": "x"}, IssuerMismatch), ({"error": "e"}, AuthorizationError)],
)
def test_a_refusal_is_not_asked_for_again(changes: Any, kind: Any) -> None:
    pending = pending_login()
    person = Person(callback(pending, **changes), callback(pending))
    with pytest.raises(kind) as caught:
        person.log_in(pending)
    assert type(caught.value) is kind and len(person.lines) == 1


@pytest.mark.parametrize("failure", [EOFError(), OSError(), NotImplementedError()])
def test_nobody_to_ask_is_no_login(failure: Exception) -> None:
    with pytest.raises(LoginRequired, match="nobody can be asked"):
        Person(failure).log_in(pending_login())


def test_ctrl_c_ends_the_question() -> None:
    with pytest.raises(KeyboardInterrupt):
        Person(KeyboardInterrupt()).log_in(pending_login())


CHILD = """
import sys
from mcpsync.auth.login import PendingLogin, paste_flow, require_terminal
import json
require_terminal("demo", "https://mcp.example/mcp")
pending = PendingLogin.from_json(json.loads(sys.argv[1]))
code = paste_flow(pending, show=print, ask=input)
print("code of %d characters" % len(code))
"""


class Terminal:
    """A process at a terminal, and the person in front of it."""

    def __init__(self, *arguments: str) -> None:
        self._master, slave = pty.openpty()
        self.process = subprocess.Popen(
            [sys.executable, "-c", CHILD, *arguments],
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
        )
        os.close(slave)
        self.screen = ""

    def __enter__(self) -> "Terminal":
        return self

    def __exit__(self, *exc_info: object) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait(10)
        os.close(self._master)

    def read_until(self, text: str) -> None:
        seen = len(self.screen)
        while text not in self.screen[seen:]:
            self.screen += bounded(self._read)

    def _read(self) -> str:
        data = os.read(self._master, 65536)
        return data.decode().replace("\r\n", "\n")

    def type(self, line: str) -> None:
        os.write(self._master, line.encode() + b"\n")


def test_a_person_at_a_terminal_logs_in() -> None:
    pending = pending_login(client=ClientRecord("the-client"))
    with Terminal(json.dumps(pending.to_json())) as terminal:
        terminal.read_until("here: ")
        assert pending.authorization_url in terminal.screen
        terminal.type("what?")
        terminal.read_until("here: ")
        assert "try again" in terminal.screen
        terminal.type(callback(pending))
        terminal.read_until("code of %d characters" % len(CODE))
        assert terminal.process.wait(10) == 0


class Stream:
    def __init__(self, terminal: Optional[bool]) -> None:
        self._terminal = terminal

    def isatty(self) -> bool:
        if self._terminal is None:
            raise ValueError("I/O operation on closed file")
        return self._terminal


@pytest.mark.parametrize(
    "stdin, stdout, fine",
    [
        (Stream(True), Stream(True), True),
        (Stream(False), Stream(True), False),
        (Stream(True), Stream(False), False),
        (Stream(None), Stream(True), False),
        (None, Stream(True), False),
        (Stream(True), None, False),
    ],
)
def test_nobody_is_asked_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, stdin: Any, stdout: Any, fine: bool
) -> None:
    url = "https://mcp.example/mcp?key=secret"
    with contextlib.ExitStack() as stack:
        patch = stack.enter_context(monkeypatch.context())
        patch.setattr(login.sys, "stdin", stdin)
        patch.setattr(login.sys, "stdout", stdout)
        failure = None
        try:
            require_terminal("demo", url)
        except LoginRequired as error:
            failure = error
    assert (failure is None) is fine
    if failure is not None:
        assert failure.server_url == url and failure.server == "demo"
        assert "secret" not in str(failure)


def test_nothing_is_logged_by_a_login(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    pending = pending_login()
    Person("wrong", callback(pending)).log_in(pending)
    assert caplog.records == []


def test_all_facts_are_asked_for() -> None:
    with pytest.raises(TypeError):
        new_pending_login(server_name="demo")
