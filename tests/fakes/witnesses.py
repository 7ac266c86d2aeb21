"""What looks on while a client works: hooks and callbacks that remember."""

from __future__ import annotations

import threading
from typing import Any, List

import mcpsync
from mcpsync import ConnectionRenewed, ServerRestarted
from mcpsync.types import ServerNotification

__all__ = ["Events", "Updates", "echo"]


class Events:
    """A hook that keeps what happened to the connection."""

    def __init__(self) -> None:
        self.seen: List[Any] = []

    def on_event(self, event: Any) -> None:
        if isinstance(event, (ConnectionRenewed, ServerRestarted)):
            self.seen.append(event)


class Updates:
    """Takes notifications, and tells when a resource was updated."""

    def __init__(self) -> None:
        self.told = threading.Event()

    def __call__(self, notification: ServerNotification) -> None:
        if notification.method == "notifications/resources/updated":
            self.told.set()


def echo(client: mcpsync.Client) -> bool:
    result = client.call_tool("echo", {"message": "x"}, timeout=10)
    return bool(result.data["echo"] == "ECHOING: x")
