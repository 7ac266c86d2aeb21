"""Requests can be ended from outside in every phase, and only the right ones."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from typing import Any, Iterator, List, Tuple

import pytest
import requests.adapters
import urllib3

from mcpsync import _sockets
from mcpsync._deadline import Deadline, Timeout, Watchdog
from mcpsync._sockets import Abort, Sockets
from mcpsync.exceptions import (
    ClientClosed,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    InvalidMessage,
    RequestTimeout,
)
from mcpsync.transports import _http_exchange
from mcpsync.transports.http import StreamableHTTPTransport

from .fakes import bounded
from .fakes.hostile import hostile, respond
from .fakes.leaks import no_leaks
from .transports.calling import (
    answer,
    ask,
    begin_on_thread,
    call,
    eventually,
    json_answer,
    opened,
)

#: Every kind of peer that never comes to an end, by the phase in which it stalls.
STALLS = {
    "silent": lambda connection, stopped: stopped.wait(30),
    "dripped status line": lambda connection, stopped: _drip(
        connection, stopped, b"HTTP/1.1 200 OK" + b"K" * 1000
    ),
    "dripped headers": lambda connection, stopped: _drip(
        connection, stopped, b"X-Drip: 1\r\n" * 1000, b"HTTP/1.1 200 OK\r\n"
    ),
    "dripped JSON": lambda connection, stopped: _drip(
        connection, stopped, b" " * 1000, respond(length=False)
    ),
    "dripped trailers": lambda connection, stopped: _drip(
        connection,
        stopped,
        b"X-Trailer: 1\r\n" * 1000,
        b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n0\r\n",
    ),
    "dripped stream": lambda connection, stopped: _drip(
        connection,
        stopped,
        b":\n" * 1000,
        respond(content_type="text/event-stream", length=False),
    ),
    "dripped error": lambda connection, stopped: _drip(
        connection, stopped, b" " * 1000, respond(status="500 No", length=False)
    ),
}


def _drip(
    connection: socket.socket,
    stopped: threading.Event,
    slowly: bytes,
    at_once: bytes = b"",
) -> None:
    connection.sendall(at_once)
    for index in range(len(slowly)):
        if stopped.wait(0.05):
            return
        connection.sendall(slowly[index : index + 1])


@contextlib.contextmanager
def stalling(phase: str) -> Iterator[Any]:
    def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
        STALLS[phase](connection, server.stopped)

    with hostile(reply) as server:
        yield server


# --- the deadline -------------------------------------------------------------------


@pytest.mark.parametrize("phase", STALLS)
def test_the_deadline_ends_every_stall(phase: str) -> None:
    with stalling(phase) as server, opened(server.url) as transport:
        with pytest.raises(RequestTimeout) as caught:
            bounded(lambda: ask(transport, seconds=0.4), 4)
    assert caught.value.kind == "total"
    assert caught.value.seconds == 0.4


def test_the_idle_clock_ends_a_stall_as_well() -> None:
    with stalling("dripped stream") as server, opened(server.url) as transport:
        timeout = Timeout(idle=0.3, total=60.0)
        with pytest.raises(RequestTimeout) as caught:
            bounded(lambda: ask(transport, seconds=timeout), 4)
    assert (caught.value.kind, caught.value.seconds) == ("idle", 0.3)


def test_the_deadline_holds_even_without_a_watchdog(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # While the interpreter ends, no thread can be started for it.
    alone = Watchdog()
    monkeypatch.setattr(alone, "_start", lambda: None)
    for module in ("_http_exchange", "_http_wire"):
        monkeypatch.setattr("mcpsync.transports.%s.watchdog" % module, alone)
    with stalling("silent") as server, opened(server.url) as transport:
        with pytest.raises(RequestTimeout) as caught:
            bounded(lambda: ask(transport, seconds=0.4), 4)
    assert caught.value.kind == "total"


def test_a_deadline_that_has_passed_sends_nothing() -> None:
    with hostile(lambda *_: True) as server, opened(server.url) as transport:
        deadline = Deadline.after(0.001)
        time.sleep(0.01)
        with transport.begin(call(), deadline) as exchange:
            with pytest.raises(RequestTimeout):
                exchange.receive(deadline)
        assert server.requests == []


def test_endless_interim_responses_are_refused() -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
        while not server.stopped.is_set():
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")

    with hostile(reply) as server, opened(server.url) as transport:
        with pytest.raises(InvalidMessage, match="interim"):
            bounded(lambda: ask(transport), 4)


@pytest.mark.parametrize("status", [b"100 Continue", b"102 Processing", b"103 Hints"])
def test_a_few_interim_responses_are_passed_over(status: bytes) -> None:
    interim = b"HTTP/1.1 %s\r\nLink: </style.css>\r\n\r\n" % status

    def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(interim * 5 + json_answer())

    with hostile(reply) as server, opened(server.url) as transport:
        assert ask(transport).result is not None


def test_endless_headers_of_an_interim_response_are_refused() -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(b"HTTP/1.1 103 Hints\r\n" + b"Link: <>\r\n" * 20000)
        server.stopped.wait(30)

    with hostile(reply) as server, opened(server.url) as transport:
        with pytest.raises(InvalidMessage, match="header block"):
            bounded(lambda: ask(transport), 4)


@pytest.mark.parametrize(
    "headers",
    [
        b"".join(b"X-%d: 1\r\n" % number for number in range(200)),
        b"X-Large: " + b"x" * 70_000 + b"\r\n",
        b"".join(b"X-%d: %s\r\n" % (number, b"x" * 4000) for number in range(50)),
    ],
    ids=["many", "long", "large"],
)
def test_large_header_blocks_are_refused(headers: bytes) -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n" + headers + b"\r\n")

    with hostile(reply) as server, opened(server.url) as transport:
        with pytest.raises(InvalidMessage):
            ask(transport)
        assert len(server.requests) == 1


# --- closing ------------------------------------------------------------------------


@pytest.mark.parametrize("phase", STALLS)
def test_closing_wakes_every_phase(phase: str) -> None:
    with stalling(phase) as server, opened(server.url) as transport:
        running = begin_on_thread(lambda: ask(transport, seconds=60))
        eventually(lambda: server.requests)
        bounded(transport.close, 3)
        assert isinstance(running.outcome(3), ClientClosed)


def test_closing_wakes_a_notification_that_is_being_sent() -> None:
    with stalling("silent") as server, opened(server.url) as transport:
        notification = call().notice
        assert notification is not None
        running = begin_on_thread(
            lambda: transport.send(notification("why"), Deadline.after(60))
        )
        eventually(lambda: server.requests)
        bounded(transport.close, 3)
        assert isinstance(running.outcome(3), ClientClosed)


def test_closing_wakes_who_waits_for_the_resolver(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with hanging_resolver(monkeypatch) as asked:
        with opened("http://server.example/mcp") as transport:
            running = begin_on_thread(lambda: ask(transport, seconds=60))
            assert asked.wait(5)
            bounded(transport.close, 3)
            assert isinstance(running.outcome(3), ClientClosed)


def test_closing_wakes_who_is_connecting() -> None:
    with full_backlog() as port, opened("http://127.0.0.1:%d/" % port) as transport:
        exchange: Any = transport.begin(call(), Deadline.after(60))
        with exchange:
            running = begin_on_thread(lambda: exchange.receive(Deadline.after(60)))
            eventually(lambda: exchange._abort.socket is not None)
            # Now it is about to call connect(), which it does not leave by itself.
            time.sleep(0.2)
            bounded(transport.close, 3)
            assert isinstance(running.outcome(3), ClientClosed)


def test_the_limit_for_connecting_is_one_of_its_own() -> None:
    with full_backlog() as port, opened("http://127.0.0.1:%d/" % port) as transport:
        timeout = Timeout(connect=0.3, total=60)
        with pytest.raises(RequestTimeout) as caught:
            bounded(lambda: ask(transport, seconds=timeout), 4)
    assert (caught.value.kind, caught.value.seconds) == ("connect", 0.3)
    assert "within 0.3 s" in str(caught.value)


def test_the_deadline_ends_connecting_too() -> None:
    with full_backlog() as port, opened("http://127.0.0.1:%d/" % port) as transport:
        with pytest.raises(RequestTimeout) as caught:
            bounded(lambda: ask(transport, seconds=0.3), 4)
    assert caught.value.kind == "total"


@contextlib.contextmanager
def full_backlog() -> Iterator[int]:
    """Yield a port whose queue of connections is full: connecting to it stalls."""
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        port = listener.getsockname()[1]
        for _ in range(8):
            filler = stack.enter_context(socket.socket())
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.1", port))
        # Those that the queue takes are in it by now.
        time.sleep(0.1)
        yield port


# --- names --------------------------------------------------------------------------


@contextlib.contextmanager
def hanging_resolver(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Make the resolver hang; yields an event that is set when it is asked."""
    asked, released = threading.Event(), threading.Event()

    def hang(*args: Any, **kwargs: Any) -> List[Any]:
        asked.set()
        released.wait(30)
        return []

    monkeypatch.setattr(socket, "getaddrinfo", hang)
    try:
        yield asked
    finally:
        released.set()


def test_a_resolver_that_hangs_does_not_hold_the_call(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with hanging_resolver(monkeypatch):
        with opened("http://server.example/mcp") as transport:
            with pytest.raises(RequestTimeout):
                bounded(lambda: ask(transport, seconds=0.3), 4)


def test_many_calls_share_one_hanging_resolver_thread(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with hanging_resolver(monkeypatch):
        with opened("http://server.example/mcp") as transport:
            runs = [
                begin_on_thread(lambda i=i: ask(transport, call(i), seconds=0.5))
                for i in range(1, 11)
            ]
            eventually(lambda: _resolvers())
            assert all(isinstance(run.outcome(4), RequestTimeout) for run in runs)
            assert len(_resolvers()) == 1
    eventually(lambda: not _resolvers())


def _resolvers() -> List[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "mcpsync-resolver"]


@pytest.mark.parametrize(
    "failure, kind",
    [
        (socket.gaierror(-2, "Name or service not known"), ConnectFailed),
        (UnicodeError("label empty or too long"), ConfigError),
    ],
)
def test_a_name_that_cannot_be_resolved(
    failure: Exception, kind: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any, **kwargs: Any) -> None:
        raise failure

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with opened("http://server.example/mcp") as transport:
        with pytest.raises(kind):
            ask(transport)


def test_all_addresses_of_a_name_are_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(json_answer())

    with hostile(reply) as server:
        addresses: List[Tuple[Any, ...]] = [
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", server.port, 0, 0)),
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", server.port)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        with opened("http://server.example:%d/mcp" % server.port) as transport:
            assert ask(transport).result is not None
        assert b"Host: server.example" in server.requests[0][0]


def test_a_refused_connection_says_so_and_nothing_of_the_library() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with opened("http://127.0.0.1:%d/mcp" % port) as transport:
        with pytest.raises(ConnectFailed) as caught:
            ask(transport)
    message = str(caught.value)
    assert "http://127.0.0.1:%d/mcp" % port in message
    assert "refused" in message
    assert "object at" not in message and "HTTPConnection" not in message


# --- whose socket it is -------------------------------------------------------------


def test_an_abort_after_the_release_leaves_the_socket_alone() -> None:
    sockets = Sockets()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        abort = Abort(sockets, Deadline.after(5))
        abort.bind(ours)
        abort.release()
        abort.abort("late")
        theirs.sendall(b"x")
        assert ours.recv(1) == b"x"


def test_an_abort_before_the_binding_ends_it_at_once() -> None:
    sockets = Sockets()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        abort = Abort(sockets, Deadline.after(5))
        abort.abort("early")
        with pytest.raises(ConnectionAbortedError):
            abort.bind(ours)
        assert theirs.recv(1) == b""
        abort.release()


def test_the_first_reason_stays() -> None:
    abort = Abort(Sockets(), Deadline.after(5))
    abort.abort("deadline")
    abort.abort("cancelled")
    assert abort.reason == "deadline"


def test_a_late_abort_never_hits_the_next_request(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A request is ended just after its connection went on to the next one."""
    pooled, go_on = threading.Event(), threading.Event()
    read_all = _http_exchange.read_all

    def slow_read_all(*args: Any) -> bytes:
        data = read_all(*args)
        if not pooled.is_set():
            pooled.set()
            assert go_on.wait(5)
        return data

    def reply(connection: socket.socket, head: bytes, body: bytes) -> bool:
        if b'"id":2' in body:
            first.shut()
        connection.sendall(json_answer(2 if b'"id":2' in body else 1))
        return True

    monkeypatch.setattr(_http_exchange, "read_all", slow_read_all)
    with hostile(reply) as server, opened(server.url) as transport:
        first: Any = transport.begin(call(1), Deadline.after(5))
        with first:
            running = begin_on_thread(lambda: first.receive(Deadline.after(5)))
            assert pooled.wait(5)
            assert ask(transport, call(2)).id == 2
            go_on.set()
            running.outcome()
        assert server.connections == 1


def test_dropping_closes_what_is_idle_and_wakes_what_is_used() -> None:
    sockets = Sockets()
    idle, idle_peer = socket.socketpair()
    used, used_peer = socket.socketpair()
    with idle, idle_peer, used, used_peer:
        for sock in (idle, used):
            abort = Abort(sockets, Deadline.after(5))
            abort.bind(sock)
            if sock is idle:
                abort.release()
        sockets.drop()
        assert idle.fileno() == -1
        assert used.fileno() >= 0
        assert used_peer.recv(1) == idle_peer.recv(1) == b""


def test_copies_are_closed_without_a_word() -> None:
    sockets = Sockets()
    ours, theirs = socket.socketpair()
    with theirs:
        theirs.settimeout(0.2)
        parents = ours.dup()
        with parents:
            abort = Abort(sockets, Deadline.after(5))
            abort.bind(ours, handshake=True)
            descriptor = ours.fileno()
            # What wrapping in TLS does to it.
            tls_side = socket.socket(fileno=ours.detach())
            sockets.close_copies()
            with pytest.raises(OSError):
                os.fstat(descriptor)
            with pytest.raises(socket.timeout):
                theirs.recv(1)
            tls_side.detach()
            abort.release()


# --- many at once -------------------------------------------------------------------


def test_fifty_threads_each_get_their_own_answer() -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes) -> bool:
        id = int(body.split(b'"id":')[1].split(b",")[0])
        connection.sendall(respond(answer(id, {"content": [], "mine": id})))
        return True

    with no_leaks(), hostile(reply) as server, opened(server.url) as transport:

        def several(first: int) -> List[Any]:
            ids = range(first, first + 10)
            return [ask(transport, call(id)).result["mine"] for id in ids]

        runs = [begin_on_thread(lambda i=i: several(i)) for i in range(1, 501, 10)]
        found = [run.outcome(20) for run in runs]
        assert found == [list(range(i, i + 10)) for i in range(1, 501, 10)]
        assert server.connections <= 50


def test_a_connection_that_broke_fails_one_request_only() -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes) -> bool:
        if len(server.requests) == 2:
            return False
        connection.sendall(json_answer(len(server.requests)))
        return True

    with hostile(reply) as server, opened(server.url) as transport:
        assert ask(transport, call(1)).result is not None
        with pytest.raises(ConnectionLost) as caught:
            ask(transport, call(2))
        assert caught.value.sent is None
        assert ask(transport, call(3)).result is not None
        assert len(server.requests) == 3


# --- adapters of the caller's -------------------------------------------------------


def test_the_deadline_holds_for_an_adapter_that_was_brought_along() -> None:
    def configure(session: Any) -> None:
        session.mount("http://", requests.adapters.HTTPAdapter())

    with stalling("dripped JSON") as server:
        with opened(server.url, configure=configure) as transport:
            with pytest.raises(RequestTimeout):
                bounded(lambda: ask(transport, seconds=0.4), 4)


def test_classes_of_pools_are_made_once() -> None:
    manager = urllib3.PoolManager()
    _sockets.make_abortable(manager)
    classes = dict(manager.pool_classes_by_scheme)
    _sockets.make_abortable(manager)
    assert manager.pool_classes_by_scheme == classes
    other = urllib3.PoolManager()
    assert other.pool_classes_by_scheme != classes
    _sockets.make_abortable(other)
    assert other.pool_classes_by_scheme == classes


def test_a_transport_is_not_usable_before_it_is_open() -> None:
    transport = StreamableHTTPTransport("http://127.0.0.1:1/mcp")
    with pytest.raises(ClientClosed):
        ask(transport)
