"""Updates of single resources, where the protocol gives each a stream of its own.

Legacy revisions subscribe with a request, and updates come unasked. In 2026-07-28 a
subscription is a long request: ``subscriptions/listen`` stays open, and what it brings
goes to ``on_notification`` like everything that belongs to no call.

Specification: 2026-07-28, basic/patterns/subscriptions.
"""

from __future__ import annotations

import logging
import threading
import weakref
from typing import Callable, Dict, Optional

from ._connection import Connector, Established
from ._deadline import NO_TIMEOUT, Deadline
from ._dispatch import Dispatcher
from ._lifecycle import Enrolled, enrol
from .exceptions import ClientClosed, MCPError, RequestCancelled, error_for
from .protocol.eras import Call
from .protocol.jsonrpc import Notification, Response
from .transports.base import Exchange

__all__ = ["ResourceListeners"]

_log = logging.getLogger("mcpsync")

#: Pauses before a stream that broke is asked for again, in seconds.
_BACK_OFF = (0.5, 1.0, 2.0, 4.0, 8.0)

_ACKNOWLEDGED = "notifications/subscriptions/acknowledged"


class ResourceListeners(Enrolled):
    """The open subscriptions of one client. Safe for any number of threads."""

    def __init__(
        self, connector: Connector, dispatcher: Dispatcher, next_id: Callable[[], int]
    ) -> None:
        self._connector = connector
        self._dispatcher = dispatcher
        self._next_id = next_id
        self._listeners: Dict[str, _Listener] = {}
        self.after_fork_in_child()
        enrol(self)

    def after_fork_in_child(self) -> None:
        # Guards the table of listeners.
        # Never while held: starting or cancelling one.
        # Taken by whoever subscribes or unsubscribes.
        self._lock = threading.Lock()
        self._listeners = {}

    def subscribe(self, uri: str, call: Call, deadline: Deadline) -> None:
        """Open a stream; return when the server has acknowledged it."""
        listener = _Listener(self._connector, self._dispatcher, self._next_id, call)
        listener.start(deadline)
        with self._lock:
            before = self._listeners.get(uri)
            self._listeners[uri] = listener
        if before is not None:
            before.stop()

    def unsubscribe(self, uri: str) -> None:
        """Close the stream, if there is one."""
        with self._lock:
            listener = self._listeners.pop(uri, None)
        if listener is not None:
            listener.stop()


class _Listener:
    """One ``subscriptions/listen`` and the thread that reads it."""

    def __init__(
        self,
        connector: Connector,
        dispatcher: Dispatcher,
        next_id: Callable[[], int],
        call: Call,
    ) -> None:
        # Weak: a subscription keeps no forgotten client alive.
        self._connector = weakref.ref(connector)
        self._dispatcher = weakref.ref(dispatcher)
        self._name = dispatcher.name
        self._next_id = next_id
        self._call = call
        self._exchange: Optional[Exchange] = None
        self._acknowledged = threading.Event()
        self._stopping = threading.Event()
        self._failure: Optional[MCPError] = None

    def start(self, deadline: Deadline) -> None:
        thread = threading.Thread(
            target=self._run, name="mcpsync-listen-%s" % self._name, daemon=True
        )
        thread.start()
        if not self._acknowledged.wait(deadline.wait_seconds()):
            self.stop()
            raise deadline.error(self._name, self._call[0])
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Tell the server that nobody listens any more. Any thread."""
        self._stopping.set()
        exchange = self._exchange
        if exchange is not None:
            exchange.cancel("unsubscribed")

    # --- the thread ---------------------------------------------------------

    def _run(self) -> None:
        attempt = 0
        while not self._stopping.is_set() and attempt < len(_BACK_OFF):
            try:
                if not self._listen():
                    return
                attempt = 0
            except (RequestCancelled, ClientClosed):
                return
            except MCPError as error:
                if not self._acknowledged.is_set():
                    self._failure = error
                    self._acknowledged.set()
                    return
                _log.info("server %r: a subscription broke: %s", self._name, error)
            self._stopping.wait(_BACK_OFF[attempt])
            attempt += 1
        if not self._stopping.is_set():
            _log.warning("server %r: a subscription was given up", self._name)

    def _listen(self) -> bool:
        """Read one stream; return whether it is worth asking for again."""
        connector = self._connector()
        if connector is None or connector.closed:
            return False
        established: Established = connector.get()
        del connector
        deadline = Deadline(NO_TIMEOUT)
        outgoing = established.era.request(self._next_id(), *self._call)
        with established.transport.begin(outgoing, deadline) as exchange:
            self._exchange = exchange
            if self._stopping.is_set():
                return False
            del established
            return self._read(exchange, deadline)

    def _read(self, exchange: Exchange, deadline: Deadline) -> bool:
        while True:
            message = exchange.receive(deadline)
            dispatcher = self._dispatcher()
            if dispatcher is None:
                return False
            if isinstance(message, Response):
                # The server ended it, in peace or because it cannot.
                self._ended(message)
                return False
            if isinstance(message, Notification) and message.method == _ACKNOWLEDGED:
                self._acknowledged.set()
            else:
                dispatcher.take(message)
            # Nothing is kept alive while waiting for the next message.
            del dispatcher

    def _ended(self, message: Response) -> None:
        if message.error is None:
            self._acknowledged.set()
            return
        text = message.error.get("message", "")
        raise error_for(
            message.error["code"],
            text,
            message.error.get("data"),
            server=self._name,
            method=self._call[0],
        )
