"""The thread that accepts connections and notices those that clients close."""

from __future__ import annotations

import contextlib
import selectors
import socket
import threading
from typing import Callable, Iterator, List

Action = Callable[[], None]

SETTLE_SECONDS = 5.0


class Loop:
    """One thread around a selector.

    Args:
        listener: The listening socket; the loop closes it.
        accept: Called when a connection waits.
    """

    def __init__(self, listener: socket.socket, accept: Action):
        self._listener = listener
        self._accept = accept
        self._selector = selectors.DefaultSelector()
        self._waker, self._wakened = socket.socketpair()
        self._waker.setblocking(False)
        self._wakened.setblocking(False)
        self._stopped = False
        self._actions: List[Action] = []
        # Guards _actions and _stopped.
        # Never held while an action runs.
        # Taken by every thread that wants something of the loop, and by the loop.
        self._lock = threading.Lock()
        self._thread = threading.Thread(
            target=self._run, name="mcpsync-demo-loop", daemon=True
        )
        self._selector.register(listener, selectors.EVENT_READ, self._accept)
        self._selector.register(self._wakened, selectors.EVENT_READ, self._drain)
        self._thread.start()

    def stop_listening(self) -> None:
        """Close the listening socket; return when it is closed."""
        self._perform(self._close_listener)

    def stop(self) -> None:
        """End the thread; idempotent."""
        self._submit(self._stop)
        self._thread.join(SETTLE_SECONDS)

    @contextlib.contextmanager
    def watching(self, connection: socket.socket, gone: Action) -> Iterator[None]:
        """Call ``gone`` from the loop's thread if the client closes the connection."""

        def readable() -> None:
            self._forget(connection)
            if _ended(connection):
                gone()

        def watch() -> None:
            # A connection that is closed already wakes its thread by itself.
            with contextlib.suppress(KeyError, ValueError, OSError):
                self._selector.register(connection, selectors.EVENT_READ, readable)

        self._submit(watch)
        try:
            yield
        finally:
            # The socket must be out of the selector before its number is used again.
            self._perform(lambda: self._forget(connection))

    def _perform(self, action: Action) -> None:
        """Have the loop do something and wait until it has."""
        done = threading.Event()

        def perform() -> None:
            action()
            done.set()

        if self._submit(perform):
            done.wait(SETTLE_SECONDS)

    def _submit(self, action: Action) -> bool:
        with self._lock:
            if self._stopped:
                return False
            self._actions.append(action)
            with contextlib.suppress(BlockingIOError):
                self._waker.send(b"\0")
        return True

    def _run(self) -> None:
        while not self._stopped:
            for key, _ in self._selector.select():
                # An earlier event of the same round may have removed this one.
                if key.fd in self._selector.get_map():
                    key.data()
        self._close_listener()
        self._selector.close()
        self._waker.close()
        self._wakened.close()

    def _drain(self) -> None:
        with contextlib.suppress(BlockingIOError):
            self._wakened.recv(4096)
        with self._lock:
            actions, self._actions = self._actions, []
        for action in actions:
            action()

    def _stop(self) -> None:
        with self._lock:
            self._stopped = True
            actions, self._actions = self._actions, []
        for action in actions:
            action()

    def _close_listener(self) -> None:
        self._forget(self._listener)
        self._listener.close()

    def _forget(self, connection: socket.socket) -> None:
        with contextlib.suppress(KeyError, ValueError):
            self._selector.unregister(connection)


def _ended(connection: socket.socket) -> bool:
    """Tell whether the client has closed a readable connection."""
    try:
        return not connection.recv(1, socket.MSG_PEEK)
    except OSError:
        return True
