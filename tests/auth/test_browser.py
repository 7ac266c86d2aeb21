"""How a browser is opened, and how not."""

from __future__ import annotations

import os
import stat
import sys
import webbrowser
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Iterator, List, Optional, Tuple

import pytest

from mcpsync._deadline import Deadline
from mcpsync.auth import _loopback
from mcpsync.auth.login import LoopbackListener, browser_flow, open_browser
from mcpsync.exceptions import LoginRequired

from ..fakes import bounded
from .logins import pending_login
from .sites import soon

GOOD_URL = "https://as.example/authorize?client_id=a%20b&state=x$(id)&c='d'"


class Browser:
    """A script in the place of a browser, which writes down what it was given."""

    def __init__(self, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        self._patch = patch

    def install(self, name: str = "browser", then: str = "exit 0") -> str:
        """Return the path of a new one, which does something at its end."""
        path = self._folder / name
        path.write_text(
            "#!/bin/sh\n"
            'for word in "$@"; do printf \'%%s\\n\' "$word" >> "$0.seen"; done\n'
            'readlink /proc/self/fd/0 > "$0.stdin" 2> /dev/null\n'
            "%s\n" % then
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
        return str(path)

    def use(self, *commands: str) -> None:
        self._patch.setenv("BROWSER", os.pathsep.join(commands))

    def seen(self, name: str = "browser") -> List[str]:
        path = self._folder / (name + ".seen")
        return path.read_text().splitlines() if path.exists() else []


@pytest.fixture
def browser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator["Browser"]:
    yield Browser(tmp_path, monkeypatch)


def test_the_browser_gets_one_argument(browser: Browser) -> None:
    browser.use(browser.install())
    assert open_browser(GOOD_URL)
    assert browser.seen() == [GOOD_URL]


@pytest.mark.parametrize(
    "form, words",
    [
        ("%s --new-tab", ["--new-tab", GOOD_URL]),
        ("%s 'two words'", ["two words", GOOD_URL]),
        ("%s --url=%%s --other", ["--url=" + GOOD_URL, "--other"]),
        ("%s %%s &", [GOOD_URL]),
    ],
)
def test_a_command_may_have_words_of_its_own(
    browser: Browser, form: str, words: List[str]
) -> None:
    browser.use(form % browser.install())
    assert open_browser(GOOD_URL)
    assert browser.seen() == words


def test_no_shell_reads_the_command(browser: Browser, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    browser.use("%s ; touch %s" % (browser.install(), trace))
    assert open_browser(GOOD_URL)
    assert browser.seen() == [";", "touch", str(trace), GOOD_URL]
    assert not trace.exists()


@pytest.mark.parametrize(
    "url",
    [
        "javascript:alert(1)",
        "file:///etc/passwd",
        "data:text/html,x",
        "vbscript:x",
        "ms-msdt:/id",
        "ftp://as.example/",
        "-https://as.example/",
        "--version",
        "-",
        "",
        " https://as.example/",
        "https://as.example/ -x",
        "https://as.example/\n",
        "https://as.example/?a\nb",
        'https://as.example/?a"b',
        "https://as.example/?`id`",
        "https://as.example/?a|b",
        "https://as.example/?a\\b",
        "https://as.example\\@127.0.0.1/",
        "https://user@as.example/",
        "https://as.ex\u0430mple/",
        "http://as.example/",
        "http://127.0.0.1.evil.example/",
        "https:///",
        "https:as.example",
        "/etc/passwd",
        "https://as.example/" + "a" * 100_000,
    ],
    ids=lambda url: repr(url[:40]),
)
def test_what_is_no_page_is_not_opened(browser: Browser, url: str) -> None:
    browser.use(browser.install())
    assert open_browser(url) is False
    assert browser.seen() == []


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:1/x", "http://localhost/?a", "http://[::1]:8/"]
)
def test_pages_of_this_machine_are_fine(browser: Browser, url: str) -> None:
    browser.use(browser.install())
    assert open_browser(url) and browser.seen() == [url]


def test_the_next_browser_is_tried(browser: Browser, tmp_path: Path) -> None:
    broken = browser.install("broken", "exit 3")
    browser.use(str(tmp_path / "missing"), broken, browser.install())
    assert open_browser(GOOD_URL)
    assert (browser.seen("broken"), browser.seen()) == ([GOOD_URL], [GOOD_URL])


@pytest.mark.parametrize("command", ["/nowhere/at/all", "'unclosed", "&"])
def test_no_browser_at_all_is_said(browser: Browser, command: str) -> None:
    browser.use(command)
    assert open_browser(GOOD_URL) is False


@pytest.mark.parametrize("name", ["lynx", "w3m", "links", "elinks", "www-browser"])
def test_a_browser_for_terminals_is_not_opened(browser: Browser, name: str) -> None:
    browser.use(browser.install(name))
    assert open_browser(GOOD_URL) is False
    assert browser.seen(name) == []


@contextmanager
def standard_input() -> Iterator[None]:
    """Put a pipe in the place of the standard input, which nobody else reads."""
    before = os.dup(0)
    reading, writing = os.pipe()
    os.dup2(reading, 0)
    try:
        yield
    finally:
        os.dup2(before, 0)
        for number in (before, reading, writing):
            os.close(number)


def test_the_terminal_is_not_the_browsers(browser: Browser, tmp_path: Path) -> None:
    browser.use(browser.install(then="cut -d' ' -f6 /proc/$$/stat > $0.session"))
    with standard_input():
        opened = open_browser(GOOD_URL)
    if os.path.exists("/proc/self/stat"):
        assert opened
        assert (tmp_path / "browser.stdin").read_text() == "/dev/null\n"
        session = int((tmp_path / "browser.session").read_text())
        assert session != os.getsid(0)


class Running:
    """A browser that runs until it is told to end."""

    def __init__(self, browser: Browser, folder: Path) -> None:
        self._pipe = folder / "end"
        os.mkfifo(self._pipe)
        browser.use(browser.install(then="read line < %s" % self._pipe))

    def end(self) -> None:
        bounded(lambda: self._pipe.write_text("\n"))


def test_a_browser_that_stays_is_open(
    browser: Browser, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_loopback, "OPEN_SECONDS", 0.3)
    running = Running(browser, tmp_path)
    assert bounded(lambda: open_browser(GOOD_URL))
    running.end()


def test_a_browser_that_stays_does_not_hold_the_login_up(
    browser: Browser, tmp_path: Path
) -> None:
    running = Running(browser, tmp_path)
    with LoopbackListener() as listener:
        pending = pending_login(redirect_uri=listener.redirect_uri)
        with pytest.raises(LoginRequired):
            browser_flow(pending, listener, Deadline.after(0.3), show=lambda text: None)
    running.end()


def test_a_browser_logs_in(browser: Browser) -> None:
    # It goes where the authorization server would send it.
    program = (
        "import sys, urllib.parse as p, urllib.request as r\n"
        "q = dict(p.parse_qsl(p.urlsplit(sys.argv[1]).query))\n"
        "a = {'code': 'c', 'state': q['state'], 'iss': 'https://as.example/tenant'}\n"
        "r.urlopen(q['redirect_uri'] + '?' + p.urlencode(a), timeout=10).read()\n"
    )
    browser.use(browser.install(then='%s -c "%s" "$1"' % (sys.executable, program)))
    with LoopbackListener() as listener:
        pending = pending_login(redirect_uri=listener.redirect_uri)
        code = browser_flow(pending, listener, soon(), show=lambda text: None)
    assert code == "c"
    assert browser.seen() == [pending.authorization_url]


# Without $BROWSER the standard library knows those of the desktop.


class Desktop:
    """A desktop's browser, as the standard library hands it out.

    Attributes:
        name: that of its program.
    """

    def __init__(self, patch: pytest.MonkeyPatch, name: str = "firefox") -> None:
        self.name = name
        self.opened: List[str] = []
        patch.delenv("BROWSER", raising=False)
        for other in ("SSH_CONNECTION", "SSH_TTY", "JUPYTERHUB_USER"):
            patch.delenv(other, raising=False)
        patch.delenv("WAYLAND_DISPLAY", raising=False)
        patch.setenv("DISPLAY", ":0")
        patch.delitem(sys.modules, "ipykernel.zmqshell", raising=False)
        patch.setattr(webbrowser, "get", lambda: self)

    def open(self, url: str) -> bool:
        self.opened.append(url)
        return True


def test_the_desktops_browser_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    desktop = Desktop(monkeypatch)
    assert open_browser(GOOD_URL)
    assert desktop.opened == [GOOD_URL]


def test_not_even_the_desktop_may_offer_one_for_terminals(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    desktop = Desktop(monkeypatch, "/usr/bin/w3m")
    assert open_browser(GOOD_URL) is False
    assert desktop.opened == []


Far = Tuple[str, Optional[str]]


@pytest.mark.parametrize(
    "variable",
    [
        ("DISPLAY", None),
        ("SSH_CONNECTION", "10.0.0.1 1 10.0.0.2 22"),
        ("SSH_TTY", "/dev/pts/0"),
        ("JUPYTERHUB_USER", "me"),
    ],
)
def test_no_browser_is_opened_where_nobody_sees_it(
    monkeypatch: pytest.MonkeyPatch, variable: Far
) -> None:
    desktop = Desktop(monkeypatch)
    monkeypatch.setattr(sys, "platform", "linux")
    name, value = variable
    if value is None:
        monkeypatch.delenv(name)
    else:
        monkeypatch.setenv(name, value)
    assert open_browser(GOOD_URL) is False
    assert desktop.opened == []


def test_no_browser_is_opened_by_a_notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    desktop = Desktop(monkeypatch)
    monkeypatch.setitem(sys.modules, "ipykernel.zmqshell", os)
    assert open_browser(GOOD_URL) is False
    assert desktop.opened == []


def test_what_the_user_names_is_opened_even_from_afar(
    monkeypatch: pytest.MonkeyPatch, browser: Browser
) -> None:
    # Editors that work on another machine set it to a program that gets through.
    monkeypatch.setenv("SSH_CONNECTION", "x")
    browser.use(browser.install())
    assert open_browser(GOOD_URL) and browser.seen() == [GOOD_URL]


@pytest.mark.parametrize("failure", [webbrowser.Error("none"), OSError(GOOD_URL)])
def test_a_desktop_without_browser_is_said(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    failure: Exception,
) -> None:
    Desktop(monkeypatch)

    def get() -> Any:
        raise failure

    monkeypatch.setattr(webbrowser, "get", get)
    assert open_browser(GOOD_URL) is False
    assert GOOD_URL not in caplog.text
