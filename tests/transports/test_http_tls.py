"""Streamable HTTP over TLS: whom it trusts, and that it can be ended as well."""

from __future__ import annotations

import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from mcpsync._deadline import Timeout
from mcpsync.exceptions import ClientClosed, ConnectionLost, RequestTimeout, TLSError

from ..fakes import bounded
from ..fakes.hostile import hostile, respond
from ..fakes.tls import Certificate, certificate, expired_certificate, tls_server
from .calling import (
    RESULT,
    answer,
    ask,
    begin_on_thread,
    call,
    converse,
    eventually,
    json_answer,
    opened,
)


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("tls"))


@pytest.fixture(autouse=True)
def _no_bundle(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.delenv(variable, raising=False)


def _answer_all(connection: socket.socket, head: bytes, body: bytes) -> bool:
    connection.sendall(json_answer(int(body.split(b'"id":')[1].split(b",")[0])))
    return True


# --- trust --------------------------------------------------------------------------


def test_a_named_certificate_is_trusted(good: Certificate) -> None:
    with tls_server(_answer_all, good) as server:
        with opened(server.url, verify=good.cert) as transport:
            assert ask(transport).result == RESULT


def test_the_environment_names_one_too(
    good: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", good.cert)
    with tls_server(_answer_all, good) as server, opened(server.url) as transport:
        monkeypatch.delenv("REQUESTS_CA_BUNDLE")
        assert ask(transport).result == RESULT


def test_a_certificate_that_signs_itself_is_not_trusted(good: Certificate) -> None:
    with tls_server(_answer_all, good) as server, opened(server.url) as transport:
        with pytest.raises(TLSError, match="self.signed certificate"):
            ask(transport)
        assert server.requests == []
        # Once, and not without verifying afterwards.
        assert server.connections == 1


def test_a_certificate_of_another_host_is_not_trusted(good: Certificate) -> None:
    with tls_server(_answer_all, good) as server:
        url = server.url.replace("localhost", "127.0.0.1")
        with opened(url, verify=good.cert) as transport:
            with pytest.raises(TLSError, match="127.0.0.1"):
                ask(transport)
        assert server.requests == []


def test_an_expired_certificate_is_not_trusted(
    good: Certificate, tmp_path: Path
) -> None:
    expired = expired_certificate(tmp_path, good)
    with tls_server(_answer_all, expired) as server:
        with opened(server.url, verify=expired.cert) as transport:
            with pytest.raises(TLSError, match="certificate has expired"):
                ask(transport)
        assert server.requests == []


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_verification_can_be_turned_off(good: Certificate) -> None:
    with tls_server(_answer_all, good) as server:
        with opened(server.url, verify=False) as transport:
            assert ask(transport).result == RESULT


def test_a_server_without_tls_is_a_tls_error(good: Certificate) -> None:
    with hostile(
        lambda connection, *_: connection.sendall(respond(status="400 No")),
        read_request=False,
    ) as server:
        url = "https://localhost:%d/mcp" % server.port
        with opened(url, verify=good.cert) as transport:
            with pytest.raises(TLSError):
                bounded(lambda: ask(transport), 4)


# --- ending it ----------------------------------------------------------------------


def test_the_deadline_ends_a_handshake_that_stalls(good: Certificate) -> None:
    with hostile(lambda *_: server.stopped.wait(30), read_request=False) as server:
        url = "https://localhost:%d/mcp" % server.port
        with opened(url, verify=good.cert) as transport:
            with pytest.raises(RequestTimeout) as caught:
                bounded(lambda: ask(transport, seconds=0.4), 4)
    assert caught.value.kind == "total"


def test_the_limit_for_connecting_includes_the_handshake(good: Certificate) -> None:
    with hostile(lambda *_: server.stopped.wait(30), read_request=False) as server:
        url = "https://localhost:%d/mcp" % server.port
        with opened(url, verify=good.cert) as transport:
            timeout = Timeout(connect=0.3, total=60)
            with pytest.raises(RequestTimeout) as caught:
                bounded(lambda: ask(transport, seconds=timeout), 4)
    assert (caught.value.kind, caught.value.seconds) == ("connect", 0.3)


def test_closing_ends_a_handshake_that_stalls(good: Certificate) -> None:
    with hostile(lambda *_: server.stopped.wait(30), read_request=False) as server:
        url = "https://localhost:%d/mcp" % server.port
        with opened(url, verify=good.cert) as transport:
            running = begin_on_thread(lambda: ask(transport, seconds=60))
            eventually(lambda: server.connections)
            bounded(transport.close, 3)
            assert isinstance(running.outcome(3), ClientClosed)


@pytest.mark.parametrize("kind", ["application/json", "text/event-stream"])
def test_the_deadline_ends_a_body_that_stalls(kind: str, good: Certificate) -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(respond(b" ", content_type=kind, length=False))
        server.stopped.wait(30)

    with tls_server(reply, good) as server:
        with opened(server.url, verify=good.cert) as transport:
            with pytest.raises(RequestTimeout):
                bounded(lambda: ask(transport, seconds=0.4), 4)


def test_closing_ends_a_body_that_stalls(good: Certificate) -> None:
    reached = threading.Event()

    def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(respond(b" ", length=False))
        reached.set()
        server.stopped.wait(30)

    with tls_server(reply, good) as server:
        with opened(server.url, verify=good.cert) as transport:
            running = begin_on_thread(lambda: ask(transport, seconds=60))
            assert reached.wait(5)
            bounded(transport.close, 3)
            assert isinstance(running.outcome(3), ClientClosed)


def test_a_connection_that_breaks_is_not_a_matter_of_trust(good: Certificate) -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(respond(b"{", "Content-Length: 100", length=False))
        # Without the farewell that TLS has.
        raw = socket.socket(fileno=connection.detach())
        raw.close()

    with tls_server(reply, good) as server:
        with opened(server.url, verify=good.cert) as transport:
            with pytest.raises(ConnectionLost):
                ask(transport)


# --- keeping it ---------------------------------------------------------------------


def _chunked(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(piece), piece) for piece in pieces)


@pytest.mark.parametrize("apart", [False, True])
def test_streams_leave_their_connection_to_the_next(
    apart: bool, good: Certificate
) -> None:
    head = respond(
        b"",
        "Transfer-Encoding: chunked",
        content_type="text/event-stream",
        length=False,
    )

    def reply(connection: socket.socket, _: bytes, body: bytes) -> bool:
        event = b"data: " + answer(len(server.requests)) + b"\n\n"
        connection.sendall(head + _chunked(event))
        if apart:
            # Another record, so that nothing of it is in a buffer yet.
            connection.sendall(_chunked(b": bye\n\n"))
        connection.sendall(b"0\r\n\r\n")
        return True

    with tls_server(reply, good) as server:
        with opened(server.url, verify=good.cert) as transport:
            for id in range(1, 11):
                assert ask(transport, call(id)).id == id
        assert server.connections == 1


def test_many_events_in_one_record_all_arrive(good: Certificate) -> None:
    def reply(connection: socket.socket, head: bytes, body: bytes) -> None:
        note = b'data: {"jsonrpc": "2.0", "method": "notifications/x"}\n\n'
        events = note * 50 + b"data: " + answer() + b"\n\n"
        connection.sendall(
            respond(events, content_type="text/event-stream", length=False)
        )

    with tls_server(reply, good) as server:
        with opened(server.url, verify=good.cert) as transport:
            messages: Any = converse(transport)
    assert len(messages) == 51
