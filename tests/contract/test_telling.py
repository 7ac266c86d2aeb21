"""Notifications and log messages, over every transport and in both eras."""

from __future__ import annotations

import logging
import queue
import threading
from typing import Any, List, Tuple

import pytest

import mcpsync
from mcpsync.types import LoggingMessage, ServerNotification

from .conftest import Cell, eventually

URI = "demo://greeting"
UPDATED = "notifications/resources/updated"


class Heard:
    """Keeps what a callback was told, and on which thread."""

    def __init__(self) -> None:
        self._told: "queue.Queue[Tuple[Any, threading.Thread]]" = queue.Queue()

    def __call__(self, message: Any) -> None:
        self._told.put((message, threading.current_thread()))

    def next(self) -> Tuple[Any, threading.Thread]:
        return self._told.get(timeout=5)

    @property
    def empty(self) -> bool:
        return self._told.empty()


def log(client: mcpsync.Client, message: str, level: str = "info") -> None:
    client.call_tool("log", {"message": message, "level": level})


def test_a_log_message(cell: Cell) -> None:
    heard = Heard()
    others: List[ServerNotification] = []
    with cell.connect(
        on_log=heard, on_notification=others.append, log_level="info"
    ) as client:
        log(client, "hello", "warning")
        message, thread = heard.next()
    assert isinstance(message, LoggingMessage)
    assert (message.level, message.data, message.logger) == ("warning", "hello", "demo")
    if cell.kind == "http":
        # It came on the call's own stream.
        assert thread is threading.current_thread()
    else:
        # Nothing says which call it is about.
        assert thread.name == "mcpsync-notifications-the demo"
    assert others == []


def test_log_messages_go_to_a_logger(
    cell: Cell, caplog: pytest.LogCaptureFixture
) -> None:
    arrived = Heard()

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            if "hello" in record.getMessage():
                arrived(record)

    handler, logger = Handler(), logging.getLogger("mcpsync.server.the demo")
    logger.addHandler(handler)
    try:
        with cell.connect(log_level="info") as client:
            log(client, "hello\x1b[31m", "error")
            record, _ = arrived.next()
    finally:
        logger.removeHandler(handler)
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "hello\\x1b[31m")


def test_the_level_is_the_server_s_to_respect(cell: Cell) -> None:
    heard = Heard()
    with cell.connect(on_log=heard, log_level="warning") as client:
        log(client, "too little")
        log(client, "enough", "error")
        assert heard.next()[0].data == "enough"
        client.set_log_level("debug")
        log(client, "now as well", "debug")
        assert heard.next()[0].data == "now as well"
        assert heard.empty


def test_a_failing_log_handler_is_logged(
    cell: Cell, caplog: pytest.LogCaptureFixture
) -> None:
    failed = threading.Event()

    def on_log(message: LoggingMessage) -> None:
        failed.set()
        raise ValueError("a bug of the host")

    with cell.connect(on_log=on_log, log_level="info") as client:
        log(client, "hello")
        assert failed.wait(5)
        assert client.call_tool("echo", {"message": "x"}).data
        assert eventually(lambda: "a bug of the host" in caplog.text)


def test_changes_of_a_resource(cell: Cell) -> None:
    heard = Heard()

    def updates(notification: ServerNotification) -> None:
        if notification.method == UPDATED:
            heard(notification)

    with cell.connect(on_notification=updates) as client:
        client.subscribe_resource(URI, timeout=5)
        client.call_tool("touch")
        notification, thread = heard.next()
        assert notification.params["uri"] == URI
        assert thread.name == "mcpsync-notifications-the demo"
        assert "touched 1 times" in client.read_resource(URI).text

        client.unsubscribe_resource(URI, timeout=5)
        client.call_tool("touch")
        client.subscribe_resource("demo://logo", timeout=5)
        client.call_tool("touch", {"uri": "demo://logo"})
        # Nothing came about the other one in between.
        assert heard.next()[0].params["uri"] == "demo://logo"


def test_notifications_come_in_order_on_one_worker(cell: Cell) -> None:
    uris = ["demo://item/%d" % number for number in range(1, 4)]
    heard = Heard()

    def updates(notification: ServerNotification) -> None:
        if notification.method == UPDATED:
            heard(notification)

    with cell.connect(on_notification=updates) as client:
        for uri in uris:
            client.subscribe_resource(uri, timeout=5)
        for uri in uris * 5:
            client.call_tool("touch", {"uri": uri})
        told = [heard.next() for _ in range(15)]
    if cell.modern:
        # Each has a stream of its own there, and they are not ordered.
        for uri in uris:
            assert sum(one.params["uri"] == uri for one, _ in told) == 5
    else:
        assert [one.params["uri"] for one, _ in told] == uris * 5
    assert {thread.name for _, thread in told} == {"mcpsync-notifications-the demo"}


def test_a_callback_that_blocks_holds_up_nobody_else(cell: Cell) -> None:
    begun, go_on = threading.Event(), threading.Event()

    def on_notification(notification: ServerNotification) -> None:
        begun.set()
        go_on.wait(10)

    with cell.connect(on_notification=on_notification) as client:
        client.subscribe_resource(URI, timeout=5)
        client.call_tool("touch")
        assert begun.wait(5)
        result = client.call_tool("echo", {"message": "x"}, timeout=5)
        assert result.data["echo"] == "ECHOING: x"
        client.ping(timeout=5)
        go_on.set()


def test_a_callback_may_call_the_client(cell: Cell) -> None:
    heard = Heard()

    def on_notification(notification: ServerNotification) -> None:
        if notification.method == UPDATED:
            heard(client.read_resource(notification.params["uri"]).text)

    with cell.connect(on_notification=on_notification) as client:
        client.subscribe_resource(URI, timeout=5)
        client.call_tool("touch")
        assert "touched 1 times" in heard.next()[0]


def test_ping(cell: Cell, client: mcpsync.Client) -> None:
    client.ping()
    client.close()
    with pytest.raises(mcpsync.ClientClosed):
        client.ping()
