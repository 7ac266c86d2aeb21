"""The listener that a browser comes back to."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.parse
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, List

import pytest

from mcpsync._deadline import Deadline
from mcpsync.auth import _loopback
from mcpsync.auth.login import LoopbackListener, PendingLogin
from mcpsync.exceptions import (
    AuthorizationError,
    ConfigError,
    IssuerMismatch,
    LocalProtocolError,
    LoginRequired,
)

from ..fakes import CANARY, bounded
from ..fakes.leaks import no_leaks
from .logins import (
    CODE,
    Login,
    callback,
    connect,
    free_port,
    has_ipv6,
    pending_login,
    query,
    request,
    send,
    status,
)
from .sites import soon

# --- the answer ---------------------------------------------------------------------


def test_the_right_answer_ends_the_wait() -> None:
    with Login() as login:
        response = send(callback(login.pending))
        assert login.result() == CODE
    head, _, body = response.partition(b"\r\n\r\n")
    lines = head.decode().lower().split("\r\n")
    assert lines[0] == "http/1.1 200 ok"
    assert "cache-control: no-store" in lines
    assert "referrer-policy: no-referrer" in lines
    assert "content-type: text/plain; charset=utf-8" in lines
    assert "content-length: %d" % len(body) in lines
    assert "connection: close" in lines


def test_an_answer_that_is_there_already_is_found() -> None:
    with LoopbackListener() as listener:
        pending = pending_login(redirect_uri=listener.redirect_uri)
        with connect(listener.redirect_uri) as browser:
            browser.sendall(request(callback(pending)))
            assert listener.wait(pending, soon()) == CODE
            assert status(browser.recv(65536)) == 200


def test_a_request_may_come_in_pieces() -> None:
    with Login() as login, connect(login.listener.redirect_uri) as browser:
        data = request(callback(login.pending))
        for start in range(0, len(data), 40):
            browser.sendall(data[start : start + 40])
        assert status(browser.recv(65536)) == 200
        assert login.result() == CODE


def test_a_hundred_wrong_states_end_nothing() -> None:
    with Login() as login:
        for number in range(100):
            url = callback(login.pending, state="guess-%d" % number)
            assert status(send(url)) == 400
        login.good()


WRONG: List[Any] = [
    pytest.param({"state": None}, 400, id="no state"),
    pytest.param({"state": "x", "iss": "https://other.example"}, 400, id="both"),
    pytest.param({"state": "x", "code": None, "error": "e"}, 400, id="error"),
    pytest.param({"padding": "x" * 8192}, 414, id="8 KiB"),
    pytest.param({"padding": "x" * 60_000}, 414, id="60 kB"),
]


@pytest.mark.parametrize("changes, expected", WRONG)
def test_what_is_not_the_answer_is_turned_away(changes: Any, expected: int) -> None:
    with Login() as login:
        assert status(send(callback(login.pending, **changes))) == expected
        login.good()


def test_an_answer_with_two_codes_is_turned_away() -> None:
    with Login() as login:
        assert status(send(callback(login.pending) + "&code=x")) == 400
        login.good()


Request = Callable[[str], bytes]


def _lines(*extra: bytes) -> Request:
    def make(url: str) -> bytes:
        return request(url)[:-2] + b"".join(extra) + b"\r\n"

    return make


def _first_line(pattern: bytes, by: bytes) -> Request:
    return lambda url: re.sub(pattern, by, request(url), count=1)


def _host(host: str) -> Request:
    return lambda url: request(url, host=host)


def _method(method: str) -> Request:
    return lambda url: request(url, method)


OTHERS: List[Any] = [
    pytest.param(_first_line(b"/callback", b"/"), 404, id="the root"),
    pytest.param(_first_line(b"/callback", b"/callback/"), 404, id="below"),
    pytest.param(_first_line(b"/callback", b"/Callback"), 404, id="case"),
    pytest.param(_first_line(b"/callback", b"/x/../callback"), 404, id="dots"),
    pytest.param(_first_line(b"/callback", b"/%63allback"), 404, id="encoded"),
    pytest.param(_first_line(b"/callback", b"//callback"), 404, id="slashes"),
    pytest.param(_first_line(b" /", b" http://127.0.0.1/"), 404, id="absolute"),
    pytest.param(_method("POST"), 405, id="POST"),
    pytest.param(_method("HEAD"), 405, id="HEAD"),
    pytest.param(_method("OPTIONS"), 405, id="OPTIONS"),
    pytest.param(_method("get"), 405, id="lower case"),
    pytest.param(_host("evil.example"), 400, id="another host"),
    pytest.param(_host("localhost:1"), 400, id="another name"),
    pytest.param(_host("127.0.0.1"), 400, id="no port"),
    pytest.param(_host(""), 400, id="empty host"),
    pytest.param(_lines(b"Host: evil.example\r\n"), 400, id="two hosts"),
    pytest.param(_first_line(b"Host:", b"Hoist:"), 400, id="no host"),
    pytest.param(_first_line(b" HTTP/1.1", b""), 400, id="HTTP/0.9"),
    pytest.param(_first_line(b"HTTP/1.1", b"HTTP/2.0"), 400, id="HTTP/2"),
    pytest.param(lambda url: b"\x16\x03\x01\x02\r\n\r\n", 400, id="TLS"),
    pytest.param(lambda url: b"\r\n\r\n", 400, id="nothing"),
    pytest.param(_lines(b"X: " + b"x" * 70_000 + b"\r\n"), 431, id="70 kB"),
    pytest.param(lambda url: b"x" * 1_000_000, 431, id="1 MB without a line"),
]


@pytest.mark.parametrize("make, expected", OTHERS)
def test_only_the_browsers_request_is_one(make: Request, expected: int) -> None:
    with Login() as login:
        data = make(callback(login.pending))
        with connect(login.listener.redirect_uri) as browser:
            try:
                browser.sendall(data)
            except ConnectionError:
                # It had said its no before all of it was sent.
                assert expected == 431
            assert status(browser.recv(65536)) == expected
        login.good()


def test_a_page_shows_nothing_from_outside() -> None:
    with Login() as login:
        attack = callback(login.pending, state="<script>alert(1)</script>")
        assert b"script" not in send(attack)
        text = "<script>" + CANARY
        url = callback(login.pending, code=None, error=text, error_description=text)
        page = send(url)
        assert status(page) == 400 and b"script" not in page
        assert isinstance(login.result(), AuthorizationError)


def test_a_browser_has_many_cookies() -> None:
    with Login() as login:
        cookies = b"Cookie: " + b"c" * 50_000 + b"\r\n"
        data = _lines(cookies)(callback(login.pending))
        assert status(send(login.listener.redirect_uri, data)) == 200
        assert login.result() == CODE


def test_a_denial_ends_the_wait() -> None:
    with Login() as login:
        url = callback(
            login.pending,
            code=None,
            error="access_denied",
            error_description="not you\x1b[2J",
        )
        assert status(send(url)) == 400
        outcome = login.result()
    assert type(outcome) is AuthorizationError
    assert "access_denied: not you\\x1b[2J" in str(outcome)


def test_another_issuer_ends_the_wait_without_a_word_of_its_own() -> None:
    with Login() as login:
        url = callback(
            login.pending, iss="https://evil.example", error="e", error_description="no"
        )
        page = send(url)
        outcome = login.result()
    assert isinstance(outcome, IssuerMismatch)
    assert "evil" not in str(outcome) and b"evil" not in page


def test_an_answer_that_does_not_name_its_issuer_ends_the_wait() -> None:
    with Login() as login:
        send(callback(login.pending, iss=None))
        assert isinstance(login.result(), IssuerMismatch)


def test_one_listener_serves_one_login_after_another() -> None:
    with LoopbackListener() as listener:
        for _ in range(3):
            pending = pending_login(redirect_uri=listener.redirect_uri)
            with connect(listener.redirect_uri) as browser:
                browser.sendall(request(callback(pending)))
                assert listener.wait(pending, soon()) == CODE


# --- those who only take up room ----------------------------------------------------


def test_an_idle_connection_holds_nothing_up() -> None:
    with Login() as login, connect(login.listener.redirect_uri):
        login.good()


def test_a_hundred_connections_hold_nothing_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_loopback, "CONNECTION_SECONDS", 60.0)
    with Login() as login, ExitStack() as stack:
        crowd = []
        for number in range(100):
            crowd.append(stack.enter_context(connect(login.listener.redirect_uri)))
            if number % 2:
                crowd[-1].sendall(b"GET /callback?code=")
        # The oldest have made room, and the newest are still there.
        for one in crowd[: 100 - _loopback.CONNECTIONS : 2]:
            assert one.recv(1) == b""
        for one in crowd[-_loopback.CONNECTIONS + 1 :]:
            one.setblocking(False)
            with pytest.raises(BlockingIOError):
                one.recv(1)
        began = time.monotonic()
        login.good()
        assert time.monotonic() - began < 4


def test_nothing_is_kept_of_what_comes_after_the_answer() -> None:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        connection = _loopback._Connection(ours)
        theirs.sendall(b"a question")
        assert connection.receive() and connection.received == b"a question"
        connection.answer("404 Not Found", "No.")
        theirs.sendall(b"more and more")
        assert connection.receive() and not connection.received
        theirs.shutdown(socket.SHUT_WR)
        assert not connection.receive()


def test_a_connection_is_ended_when_its_time_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_loopback, "CONNECTION_SECONDS", 0.3)
    with Login() as login, connect(login.listener.redirect_uri) as slow:
        slow.sendall(b"GET /")
        assert slow.recv(1) == b""
        login.good()


def test_a_drip_of_bytes_does_not_extend_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_loopback, "CONNECTION_SECONDS", 0.5)
    with Login() as login, connect(login.listener.redirect_uri) as slow:

        def drip() -> None:
            slow.settimeout(0.05)
            while True:
                try:
                    slow.sendall(b"x")
                    if not slow.recv(1):
                        return
                except socket.timeout:
                    continue
                except ConnectionError:
                    return

        bounded(drip, 5)
        login.good()


def test_who_goes_on_talking_after_the_answer_is_ended_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(_loopback, "CONNECTION_SECONDS", 0.5)
    with Login() as login, connect(login.listener.redirect_uri) as talker:

        def talk() -> None:
            talker.sendall(b"x" * 100_000)
            try:
                while True:
                    talker.sendall(b"x" * 10_000)
            except OSError:
                return

        bounded(talk, 5)
        login.good()


def test_no_more_descriptors_is_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    real = socket.socket.accept
    failures = [OSError(24, "too many open files"), ConnectionAbortedError()]

    def accept(sock: socket.socket) -> Any:
        if failures:
            raise failures.pop()
        return real(sock)

    monkeypatch.setattr(socket.socket, "accept", accept)
    with Login() as login:
        login.good()
    assert failures == []


# --- the end of the wait ------------------------------------------------------------


def test_the_wait_has_an_end() -> None:
    with LoopbackListener() as listener:
        pending = pending_login(redirect_uri=listener.redirect_uri)
        with pytest.raises(LoginRequired, match="within 0.2 s") as caught:
            bounded(lambda: listener.wait(pending, Deadline.after(0.2)))
        assert caught.value.server_url == pending.server_url


def test_no_deadline_is_longer_than_a_login(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mcpsync.auth.login.LOGIN_SECONDS", 0.2)
    with LoopbackListener() as listener:
        pending = pending_login(redirect_uri=listener.redirect_uri)
        with pytest.raises(LoginRequired):
            bounded(lambda: listener.wait(pending, Deadline.after(None)))


def test_closing_wakes_who_waits() -> None:
    with Login() as login:
        assert status(send(callback(login.pending, state="x"))) == 400
        login.listener.close()
        assert isinstance(login.result(), LoginRequired)
        assert "closed" in str(login.outcome)
        login.listener.close()


def test_nothing_is_waited_for_at_a_closed_listener() -> None:
    listener = LoopbackListener()
    listener.close()
    with pytest.raises(LoginRequired, match="closed"):
        listener.wait(pending_login(), soon())


def test_two_cannot_wait_at_once() -> None:
    with Login() as login:
        # So that the other one is known to wait.
        assert status(send(callback(login.pending, state="x"))) == 400
        with pytest.raises(LocalProtocolError, match="another thread"):
            login.listener.wait(login.pending, soon())
        login.good()


def test_nobody_listens_any_more_afterwards() -> None:
    for outcome in ("success", "timeout", "denial"):
        with no_leaks():
            with Login(Deadline.after(0.1) if outcome == "timeout" else None) as login:
                if outcome != "timeout":
                    error = None if outcome == "success" else "e"
                    code = CODE if outcome == "success" else None
                    send(callback(login.pending, code=code, error=error))
                login.result()
            with pytest.raises(ConnectionRefusedError):
                connect(login.listener.redirect_uri)


WAITING = """
import sys
from mcpsync._deadline import Deadline
from mcpsync.auth.login import LoopbackListener
sys.path.insert(0, sys.argv[1])
from tests.auth.logins import pending_login
with LoopbackListener() as listener:
    pending = pending_login(redirect_uri=listener.redirect_uri)
    try:
        # The first tick is inside the wait.
        listener.wait(pending, Deadline.after(60), tick=lambda: print("on", flush=True))
    except KeyboardInterrupt:
        print("interrupted", flush=True)
"""


def test_ctrl_c_ends_the_wait() -> None:
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-X", "dev", "-W", "error", "-c", WAITING, root],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=root,
    ) as process:
        assert process.stdout is not None and process.stderr is not None
        try:
            assert process.stdout.readline() == "on\n"
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
        finally:
            process.kill()
    assert out.splitlines()[-1] == "interrupted" and err == ""
    assert process.returncode == 0


def _exit_code_of_child(look: Callable[[], bool]) -> int:
    child = os.fork()
    if child == 0:
        code = 2
        try:
            code = 0 if look() else 1
        finally:
            os._exit(code)
    _, result = os.waitpid(child, 0)
    return os.WEXITSTATUS(result)


def test_a_child_has_no_share_in_it() -> None:
    with Login() as login:
        # A connection that is half way.
        with connect(login.listener.redirect_uri) as browser:
            browser.sendall(request(callback(login.pending, state="x")))
            assert status(browser.recv(65536)) == 400
            listener = login.listener

            def is_dropped() -> bool:
                place = listener.redirect_uri.rpartition(":")[2].partition("/")[0]
                ours = "%04X" % int(place)
                held = {os.readlink(e.path) for e in os.scandir("/proc/self/fd")}
                rows = Path("/proc/net/tcp").read_text().splitlines()[1:]
                inodes = {
                    "socket:[%s]" % row.split()[9]
                    for row in rows
                    if row.split()[1].endswith(":" + ours)
                }
                return listener.closed and bool(inodes) and not inodes & held

            if os.path.exists("/proc/net/tcp"):
                assert _exit_code_of_child(is_dropped) == 0
        login.good()


# --- where it listens ---------------------------------------------------------------


def test_it_listens_on_this_machine_only() -> None:
    with LoopbackListener() as listener:
        match = re.fullmatch(
            r"http://127\.0\.0\.1:(\d+)/callback", listener.redirect_uri
        )
        assert match and int(match[1]) > 0
        assert repr(listener) == "<LoopbackListener at %s>" % listener.redirect_uri


def test_port_and_path_are_as_wanted() -> None:
    port = free_port()
    with Login(port=port, path="/cb/demo") as login:
        assert login.listener.redirect_uri == "http://127.0.0.1:%d/cb/demo" % port
        login.good()


@pytest.mark.parametrize(
    "arguments",
    [
        {"host": "0.0.0.0"},
        {"host": ""},
        {"host": "example.com"},
        {"host": "192.168.0.1"},
        {"port": -1},
        {"port": 65536},
        {"path": "callback"},
        {"path": ""},
        {"path": "/a?b"},
        {"path": "/a b"},
        {"path": "/a\r\n"},
    ],
)
def test_it_listens_nowhere_else(arguments: Any) -> None:
    with pytest.raises(ConfigError):
        LoopbackListener(**arguments)


def test_a_registered_uri_is_taken_first() -> None:
    taken = "http://127.0.0.1:%d/first"
    with LoopbackListener() as other:
        uris = [
            "https://app.example/callback",
            "http://app.example:8080/callback",
            "myapp:/callback",
            other.redirect_uri,
            taken % free_port(),
            "http://127.0.0.1:%d/second" % free_port(),
        ]
        with Login(redirect_uris=uris) as login:
            assert login.listener.redirect_uri == uris[4]
            login.good()
        with LoopbackListener([other.redirect_uri], path="/x") as another:
            assert another.redirect_uri != other.redirect_uri
            assert another.redirect_uri.endswith("/x")


def test_a_registered_uri_stays_letter_for_letter() -> None:
    uri = "HTTP://LocalHost:%d" % free_port()
    with Login(redirect_uris=[uri]) as login:
        assert login.listener.redirect_uri == uri
        place = uri.lower() + "/?" + query(login.pending)
        assert status(send(place)) == 200
        assert login.result() == CODE


def test_a_port_that_is_taken_is_said() -> None:
    with LoopbackListener() as other:
        port = int(other.redirect_uri.rpartition(":")[2].partition("/")[0])
        with pytest.raises(AuthorizationError, match="127.0.0.1:%d/callback: " % port):
            LoopbackListener(port=port)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_localhost_is_both_of_its_addresses(address: str) -> None:
    if address == "::1" and not has_ipv6():
        # Then there is one address, which the other case looks at.
        return
    with Login(host="localhost") as login:
        parts = urllib.parse.urlsplit(login.listener.redirect_uri)
        assert parts.hostname == "localhost" and parts.port
        with socket.create_connection((address, parts.port), timeout=10) as browser:
            browser.sendall(request(callback(login.pending)))
            assert status(browser.recv(65536)) == 200
        assert login.result() == CODE


def test_half_of_localhost_is_none() -> None:
    if not has_ipv6():
        return
    port = free_port()
    with socket.socket(socket.AF_INET6) as other:
        other.bind(("::1", port))
        other.listen(1)
        with pytest.raises(AuthorizationError, match="localhost:%d" % port):
            LoopbackListener(host="localhost", port=port)
    with LoopbackListener(host="127.0.0.1", port=port):
        pass


def _without_ipv6(patch: pytest.MonkeyPatch) -> None:
    real = socket.socket.bind

    def bind(sock: socket.socket, address: Any) -> None:
        if sock.family == socket.AF_INET6:
            raise OSError(99, "Cannot assign requested address")
        real(sock, address)

    patch.setattr(socket.socket, "bind", bind)


def test_without_ipv6_localhost_is_the_other_address(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _without_ipv6(monkeypatch)
    with Login(host="localhost") as login:
        parts = urllib.parse.urlsplit(login.listener.redirect_uri)
        with socket.create_connection(("127.0.0.1", parts.port), timeout=10) as sock:
            sock.sendall(request(callback(login.pending)))
            assert status(sock.recv(65536)) == 200
        assert login.result() == CODE


def test_an_ipv6_address_stands_in_brackets() -> None:
    if not has_ipv6():
        return
    with Login(host="::1") as login:
        assert login.listener.redirect_uri.startswith("http://[::1]:")
        login.good()


def test_nothing_secret_is_in_a_repr_or_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    with Login() as login:
        send(callback(login.pending, state="x"))
        login.good()
        pending: PendingLogin = login.pending
        shown = repr(login.listener) + caplog.text
    assert CODE not in shown and pending.state not in shown
