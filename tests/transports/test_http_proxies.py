"""Proxies are used as told, the environment is read once, and never goes around."""

from __future__ import annotations

import contextlib
import select
import socket
import threading
from typing import Any, Dict, Iterator, List

import pytest

from mcpsync._deadline import Deadline
from mcpsync.exceptions import (
    ClientClosed,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    RequestTimeout,
)
from mcpsync.transports.http import StreamableHTTPTransport

from ..fakes import CANARY, bounded
from ..fakes.hostile import Hostile, hostile, respond
from ..fakes.tls import Certificate, certificate, tls_server
from .calling import RESULT, ask, begin_on_thread, eventually, json_answer, opened

_VARIABLES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def _no_proxies(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in (*_VARIABLES, "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)
        monkeypatch.delenv(variable.lower(), raising=False)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


@contextlib.contextmanager
def forwarding() -> Iterator[Hostile]:
    """Run a proxy for plain HTTP that answers by itself."""

    def serve(connection: socket.socket, head: bytes, body: bytes) -> bool:
        connection.sendall(json_answer())
        return True

    with hostile(serve) as proxy:
        yield proxy


@contextlib.contextmanager
def tunnelling(status: str = "200 Connected") -> Iterator[Hostile]:
    """Run a proxy that connects to whatever CONNECT names, on this machine."""

    def serve(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(b"HTTP/1.1 %s\r\n\r\n" % status.encode("ascii"))
        if not status.startswith("200"):
            return
        port = int(head.split()[1].rpartition(b":")[2])
        with socket.create_connection(("127.0.0.1", port)) as other:
            _copy(connection, other)

    with hostile(serve) as proxy:
        yield proxy


def _copy(one: socket.socket, other: socket.socket) -> None:
    while True:
        ready, _, _ = select.select([one, other], [], [], 30)
        for source in ready:
            data = source.recv(65536)
            if not data:
                return
            (other if source is one else one).sendall(data)


def address(proxy: Hostile, userinfo: str = "") -> str:
    return "http://%s127.0.0.1:%d" % (userinfo, proxy.port)


# --- plain HTTP ---------------------------------------------------------------------


def test_a_proxy_that_was_given_is_used() -> None:
    with forwarding() as proxy:
        proxies = {"http": address(proxy)}
        with opened("http://server.example/mcp", proxies=proxies) as transport:
            assert ask(transport).result == RESULT
        head = proxy.requests[0][0]
    assert head.startswith(b"POST http://server.example/mcp HTTP/1.1")


def test_the_proxy_learns_the_credentials_meant_for_it() -> None:
    with forwarding() as proxy:
        proxies = {"http": address(proxy, "ada:secret@")}
        with opened("http://server.example/mcp", proxies=proxies) as transport:
            ask(transport)
        assert b"Proxy-Authorization: Basic YWRhOnNlY3JldA==" in proxy.requests[0][0]


def test_the_environment_is_read_once_when_opening(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with forwarding() as proxy, forwarding() as later:
        monkeypatch.setenv("HTTP_PROXY", address(proxy))
        with opened("http://server.example/mcp") as transport:
            monkeypatch.setenv("HTTP_PROXY", address(later))
            ask(transport)
            ask(transport)
        assert len(proxy.requests) == 2
        assert later.connections == 0


def test_exceptions_of_the_environment_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    with forwarding() as proxy, forwarding() as server:
        monkeypatch.setenv("HTTP_PROXY", address(proxy))
        monkeypatch.setenv("NO_PROXY", "127.0.0.1")
        with opened(server.url) as transport:
            ask(transport)
        assert (proxy.connections, server.connections) == (0, 1)


def test_no_proxies_means_none(monkeypatch: pytest.MonkeyPatch) -> None:
    with forwarding() as proxy, forwarding() as server:
        monkeypatch.setenv("HTTP_PROXY", address(proxy))
        with opened(server.url, proxies={}) as transport:
            ask(transport)
        assert (proxy.connections, server.connections) == (0, 1)


def test_a_connection_that_breaks_behind_a_proxy_is_lost() -> None:
    with hostile(lambda *_: None) as proxy:
        proxies = {"http": address(proxy)}
        with opened("http://server.example/mcp", proxies=proxies) as transport:
            with pytest.raises(ConnectionLost) as caught:
                ask(transport)
        # It was sent: nobody can tell whether it was executed.
        assert caught.value.sent is None
        assert len(proxy.requests) == 1


@pytest.mark.parametrize("userinfo", ["", "ada:%s@" % CANARY])
def test_a_proxy_that_is_not_there(userinfo: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    proxies = {"http": "http://%s127.0.0.1:%d" % (userinfo, port)}
    with opened("http://server.example/mcp", proxies=proxies) as transport:
        with pytest.raises(ConnectFailed, match="through the proxy.*refused"):
            ask(transport)


# --- tunnels ------------------------------------------------------------------------


def test_tls_goes_through_a_tunnel(good: Certificate) -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes) -> bool:
        connection.sendall(json_answer())
        return True

    with tls_server(reply, good) as server, tunnelling() as proxy:
        proxies = {"https": address(proxy, "ada:secret@")}
        with opened(server.url, verify=good.cert, proxies=proxies) as transport:
            assert ask(transport).result == RESULT
            assert ask(transport).result == RESULT
        head = proxy.requests[0][0]
        assert (server.connections, proxy.connections) == (1, 1)
    assert head.startswith(b"CONNECT localhost:%d HTTP/1" % server.port)
    assert b"Proxy-Authorization: Basic YWRhOnNlY3JldA==" in head


@pytest.mark.parametrize("status", ["407 Proxy Authentication Required", "502 Bad"])
def test_a_tunnel_that_is_refused(status: str, good: Certificate) -> None:
    with tunnelling(status) as proxy:
        proxies = {"https": address(proxy)}
        with opened("https://server.example/", proxies=proxies) as transport:
            with pytest.raises(ConnectFailed, match=status[:3]):
                ask(transport)


def test_the_deadline_ends_a_tunnel_that_stalls() -> None:
    with hostile(lambda *_: proxy.stopped.wait(30)) as proxy:
        proxies = {"https": address(proxy)}
        with opened("https://server.example/", proxies=proxies) as transport:
            with pytest.raises(RequestTimeout):
                bounded(lambda: ask(transport, seconds=0.4), 4)


def test_closing_ends_a_tunnel_that_stalls() -> None:
    with hostile(lambda *_: proxy.stopped.wait(30)) as proxy:
        proxies = {"https": address(proxy)}
        with opened("https://server.example/", proxies=proxies) as transport:
            running = begin_on_thread(lambda: ask(transport, seconds=60))
            eventually(lambda: proxy.requests)
            bounded(transport.close, 3)
            assert isinstance(running.outcome(3), ClientClosed)


def test_the_deadline_ends_a_body_behind_a_tunnel(good: Certificate) -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(respond(b" ", length=False))
        server.stopped.wait(30)

    with tls_server(reply, good) as server, tunnelling() as proxy:
        proxies = {"https": address(proxy)}
        with opened(server.url, verify=good.cert, proxies=proxies) as transport:
            with pytest.raises(RequestTimeout):
                bounded(lambda: ask(transport, seconds=0.6), 4)


# --- TLS to the proxy itself ----------------------------------------------------------


def _tls_proxy(good: Certificate, status: bytes = b"200 Connected") -> Any:
    def serve(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(b"HTTP/1.1 " + status + b"\r\n\r\n")
        port = int(head.split()[1].rpartition(b":")[2])
        with socket.create_connection(("127.0.0.1", port)) as other:
            ends: List[threading.Thread] = []
            for source, target in ((connection, other), (other, connection)):
                thread = threading.Thread(target=_pump, args=(source, target))
                thread.start()
                ends.append(thread)
            for thread in ends:
                thread.join(30)

    return tls_server(serve, good)


def _pump(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while True:
            data = source.recv(65536)
            if not data:
                break
            target.sendall(data)
    with contextlib.suppress(OSError):
        socket.socket.shutdown(target, socket.SHUT_RDWR)


def test_tls_inside_tls_can_be_ended(good: Certificate) -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(respond(b" ", length=False))
        server.stopped.wait(30)

    with tls_server(reply, good) as server, _tls_proxy(good) as proxy:
        proxies = {"https": "https://localhost:%d" % proxy.port}
        with opened(server.url, verify=good.cert, proxies=proxies) as transport:
            with pytest.raises(RequestTimeout):
                bounded(lambda: ask(transport, seconds=0.6), 4)
        assert server.requests


# --- other proxies ------------------------------------------------------------------


@pytest.mark.parametrize(
    "proxies",
    [
        {"http": "socks5://127.0.0.1:1"},
        {"http": "http://"},
        {"http": "http://[bad"},
    ],
)
def test_a_proxy_that_cannot_be_used_is_never_passed_by(
    proxies: Dict[str, str],
) -> None:
    with forwarding() as server, opened(server.url, proxies=proxies) as transport:
        with pytest.raises((ConfigError, ConnectFailed)):
            ask(transport)
        assert server.connections == 0


def test_configure_may_set_them() -> None:
    with forwarding() as proxy:

        def configure(session: Any) -> None:
            session.proxies["http"] = address(proxy)

        transport = StreamableHTTPTransport(
            "http://server.example/mcp", configure=configure
        )
        transport.open(lambda message: None, Deadline.after(5))
        assert ask(transport).result == RESULT
        transport.close()
        assert len(proxy.requests) == 1
