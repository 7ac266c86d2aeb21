"""A server in this process whose answers are functions, for what no server does.

::

    def call(incoming):
        incoming.note("notifications/message", {"level": "info", "data": "hello"})
        return {"content": []}

    with scripted({"tools/call": call}) as server:
        with mcpsync.connect(server.transport) as client:
            client.call_tool("anything")
        assert server.of("tools/call")[0]["params"]["name"] == "anything"
"""

from __future__ import annotations

import contextlib
import itertools
import queue
import threading
import time
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterator, List, Mapping, Optional

from mcpsync.testing import MemoryTransport

__all__ = ["Fault", "Incoming", "LEGACY", "MODERN", "NO_ANSWER", "Server", "scripted"]

MODERN = "2026-07-28"
LEGACY = "2025-11-25"

#: What a function returns that wants the request to stay without an answer.
NO_ANSWER: Dict[str, Any] = {"no": "answer"}

#: No wait of a server lasts longer than this, even if a test forgets about it.
_LONGEST = 10.0


@dataclass(frozen=True)
class Fault:
    """What a function returns that answers with a JSON-RPC error."""

    code: int
    message: str = "no"
    data: Any = None

    def to_wire(self) -> Dict[str, Any]:
        error: Dict[str, Any] = {"code": self.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        return error


@dataclass
class Incoming:
    """One request, as the function that serves it sees it."""

    server: "Server"
    message: Mapping[str, Any]
    params: Mapping[str, Any] = field(init=False)

    def __post_init__(self) -> None:
        self.params = self.message.get("params") or {}

    @property
    def id(self) -> Any:
        return self.message["id"]

    @property
    def meta(self) -> Mapping[str, Any]:
        meta: Mapping[str, Any] = self.params.get("_meta") or {}
        return meta

    def note(self, method: str, params: Optional[Mapping[str, Any]] = None) -> None:
        """Send a notification."""
        self.server.note(method, params)

    def progress(self, progress: Any, **params: Any) -> None:
        """Report progress under the request's own token."""
        token = self.meta["progressToken"]
        params.update(progressToken=token, progress=progress)
        self.note("notifications/progress", params)

    def ask(self, method: str, params: Optional[Mapping[str, Any]] = None) -> Any:
        """Send a request of the server's own and return the client's answer."""
        return self.server.ask(method, params)

    def hold(self, gate: threading.Event) -> None:
        """Wait for an event, or for the end of the test."""
        end = time.monotonic() + _LONGEST
        # Two events cannot be waited for at once.
        while not gate.wait(0.01) and time.monotonic() < end:
            if self.server.stopped.is_set():
                return


Function = Callable[[Incoming], Any]


class Server:
    """The server.

    Attributes:
        transport: for the client, once.
        received: every message of the client so far.
        stopped: set when the test is over.
        errors: what the functions raised.
    """

    def __init__(
        self,
        methods: Mapping[str, Function],
        version: str = MODERN,
        capabilities: Optional[Mapping[str, Any]] = None,
    ) -> None:
        self.transport = MemoryTransport(self._serve, name="scripted")
        self.received: List[Mapping[str, Any]] = []
        self.stopped = threading.Event()
        self.errors: List[BaseException] = []
        self._methods: Dict[str, Function] = {**self._handshake(version), **methods}
        self._capabilities = {"tools": {}} if capabilities is None else capabilities
        self._numbers = itertools.count(1)
        self._answers: Dict[str, "queue.Queue[Mapping[str, Any]]"] = {}
        # Guards the messages received.
        # Never while held: a function of the script.
        # Taken by the threads that serve and by the test.
        self._lock = threading.Lock()
        self._changed = threading.Condition(self._lock)

    def _handshake(self, version: str) -> Dict[str, Function]:
        if version == MODERN:
            return {"server/discover": self._discover}

        def initialize(incoming: Incoming) -> Mapping[str, Any]:
            return {
                "protocolVersion": version,
                "capabilities": self._capabilities,
                "serverInfo": {"name": "scripted", "version": "1"},
            }

        return {"initialize": initialize, "ping": lambda incoming: {}}

    def _discover(self, incoming: Incoming) -> Mapping[str, Any]:
        return {
            "resultType": "complete",
            "supportedVersions": [MODERN],
            "capabilities": self._capabilities,
        }

    # --- for the script and the test ----------------------------------------

    def note(self, method: str, params: Optional[Mapping[str, Any]] = None) -> None:
        """Send a notification that belongs to nothing."""
        message = {"jsonrpc": "2.0", "method": method, "params": params or {}}
        self.transport.say(message)

    def ask(
        self, method: str, params: Optional[Mapping[str, Any]] = None, wait: bool = True
    ) -> Any:
        """Send a request; return the client's answer to it, or its id."""
        identifier = "ask-%d" % next(self._numbers)
        answers: "queue.Queue[Mapping[str, Any]]" = queue.Queue()
        self._answers[identifier] = answers
        message = {"jsonrpc": "2.0", "id": identifier, "method": method}
        if params is not None:
            message = {**message, "params": params}
        self.transport.say(message)
        return self.answer_to(identifier) if wait else identifier

    def answer_to(self, identifier: str, seconds: float = _LONGEST) -> Any:
        """Return the client's answer to a request; ``None`` if none comes."""
        with contextlib.suppress(queue.Empty):
            return self._answers[identifier].get(timeout=seconds) or None
        return None

    def of(self, method: str) -> List[Mapping[str, Any]]:
        """Return the messages with this method."""
        with self._lock:
            return [m for m in self.received if m.get("method") == method]

    def await_messages(
        self, method: str, count: int = 1, seconds: float = 5.0
    ) -> List[Mapping[str, Any]]:
        """Return the messages with this method, once there are so many."""
        end = time.monotonic() + seconds
        with self._lock:
            while True:
                found = [m for m in self.received if m.get("method") == method]
                if len(found) >= count:
                    return found
                left = end - time.monotonic()
                assert left > 0, "%d of %d %s came" % (len(found), count, method)
                self._changed.wait(left)

    def stop(self) -> None:
        """End every wait of a function; the test is over."""
        self.stopped.set()
        for answers in list(self._answers.values()):
            answers.put({})

    # --- serving ------------------------------------------------------------

    def _serve(
        self, message: Mapping[str, Any], send: Callable[[Mapping[str, Any]], None]
    ) -> None:
        with self._lock:
            self.received.append(message)
            self._changed.notify_all()
        if "method" not in message:
            waiting = self._answers.get(message.get("id", ""))
            if waiting is not None:
                waiting.put(message)
        elif "id" in message:
            self._answer(message, send)

    def _answer(
        self, message: Mapping[str, Any], send: Callable[[Mapping[str, Any]], None]
    ) -> None:
        function = self._methods.get(message["method"])
        outcome: Any = Fault(-32601, "no such method")
        if function is not None:
            try:
                outcome = function(Incoming(self, message))
            except BaseException as error:
                self.errors.append(error)
                outcome = Fault(-32603, "the script failed")
        reply = {"jsonrpc": "2.0", "id": message["id"]}
        if isinstance(outcome, Fault):
            send({**reply, "error": outcome.to_wire()})
        elif outcome is not NO_ANSWER:
            send({**reply, "result": outcome})


@contextlib.contextmanager
def scripted(
    methods: Mapping[str, Function],
    version: str = MODERN,
    capabilities: Optional[Mapping[str, Any]] = None,
) -> Iterator[Server]:
    """Run such a server; leaving fails if one of its functions raised."""
    server = Server(methods, version, capabilities)
    try:
        yield server
    finally:
        server.stop()
    if server.errors:
        raise AssertionError("the script failed") from server.errors[0]
