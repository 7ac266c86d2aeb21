"""What one request, one connection and one subscription need while they live."""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import queue
import threading
import time
from typing import TYPE_CHECKING, Callable, Dict, List, Optional, Set

from ._wire import (
    CLIENT_CAPABILITIES,
    INVALID_PARAMS,
    JSON,
    LEVELS,
    LOG_LEVEL,
    MISSING_CAPABILITY,
    MODERN,
    SUBSCRIPTION_ID,
    Message,
    RequestId,
    RPCError,
    Send,
    meta_of,
    notification,
    params_of,
)

if TYPE_CHECKING:
    from ._server import Demo

Drop = Callable[[int], None]

ANSWER_SECONDS = 600.0


class Cancelled(Exception):
    """The call was cancelled: nothing is to be answered."""


class Crash(Exception):
    """The server is to die, or to drop the connection, without an answer."""


class Refused(Exception):
    """The client answered a question with an error."""


class InputRequired(Exception):
    """The call goes on when the client has sent these inputs (2026-07-28, MRTR)."""

    def __init__(self, requests: Message, state: str):
        super().__init__("input required")
        self.result: Message = {
            "resultType": "input_required",
            "inputRequests": requests,
            "requestState": state,
        }


class Cancellation:
    """The inbox of one call: answers to its questions, or the order to stop.

    Any thread may cancel or deliver; only the call's own thread waits.
    """

    def __init__(self) -> None:
        # Not a SimpleQueue: its get() may wait for ever where the timeout passes before
        # it has begun to wait.
        self._inbox: queue.Queue[Optional[Message]] = queue.Queue()
        self._callbacks: List[Callable[[], None]] = []
        self._cancelled = False
        # Guards _callbacks and _cancelled.
        # Never held while a callback runs.
        # Taken by the canceller and by the call's thread.
        self._lock = threading.Lock()

    @property
    def cancelled(self) -> bool:
        """Whether the call has been cancelled."""
        return self._cancelled

    def cancel(self) -> None:
        """Stop the call; idempotent."""
        with self._lock:
            callbacks, self._callbacks = self._callbacks, []
            self._cancelled = True
        self._inbox.put(None)
        for callback in callbacks:
            callback()

    def on_cancel(self, callback: Callable[[], None]) -> None:
        """Run the callback when the call is cancelled, at once if it has been."""
        with self._lock:
            if not self._cancelled:
                self._callbacks.append(callback)
                return
        callback()

    def deliver(self, message: Message) -> None:
        """Hand over the client's answer to a question."""
        self._inbox.put(message)

    def wait(self, seconds: float) -> Optional[Message]:
        """Return the next answer, or None when the seconds have passed.

        Raises:
            Cancelled: when the call has been cancelled.
        """
        try:
            message = self._inbox.get(timeout=max(0.0, seconds))
        except queue.Empty:
            message = {}
        if message is None or self._cancelled:
            raise Cancelled
        return message or None


class Session:
    """What the server remembers of one connection.

    One stdio process, one ``Mcp-Session-Id`` or one HTTP+SSE stream. Modern requests
    over stdio use it only to find the call that a cancellation names.

    Args:
        notify: Sends a message that belongs to no call.
    """

    def __init__(self, notify: Send):
        self.notify = notify
        self.version: Optional[str] = None
        self.capabilities: Message = {}
        self.log_level = "info"
        self.subscriptions: Set[str] = set()
        self.closed = False
        self._calls: Dict[RequestId, Cancellation] = {}
        self._questions: Dict[str, Cancellation] = {}
        self._numbers = itertools.count(1)
        # Guards _calls, _questions and closed.
        # Never held while a message is sent or a call is cancelled.
        # Taken by every thread that reads or answers for this connection.
        self._lock = threading.Lock()

    def begin(self, request_id: RequestId) -> Cancellation:
        """Return the cancellation of a call, the same one until the call ends."""
        with self._lock:
            cancellation = self._calls.setdefault(request_id, Cancellation())
            closed = self.closed
        if closed:
            cancellation.cancel()
        return cancellation

    def end(self, request_id: RequestId) -> None:
        """Forget a call."""
        with self._lock:
            self._calls.pop(request_id, None)

    def cancel(self, request_id: JSON) -> None:
        """Cancel the call of this id; ids that are not running are ignored."""
        if not isinstance(request_id, (str, int)):
            return
        with self._lock:
            cancellation = self._calls.get(request_id)
        if cancellation is not None:
            cancellation.cancel()

    def question(self, cancellation: Cancellation) -> str:
        """Return the id of a new question whose answer goes to this call."""
        with self._lock:
            request_id = f"demo-{next(self._numbers)}"
            self._questions[request_id] = cancellation
        return request_id

    def deliver(self, message: Message) -> None:
        """Route a response of the client to the call that asked."""
        with self._lock:
            key = message.get("id")
            asker = self._questions.pop(key, None) if isinstance(key, str) else None
        if asker is not None:
            asker.deliver(message)

    def close(self) -> None:
        """Cancel every call of the connection; idempotent."""
        with self._lock:
            self.closed = True
            calls = list(self._calls.values())
            self._calls.clear()
            self._questions.clear()
        for cancellation in calls:
            cancellation.cancel()


class Call:
    """One request as the method or tool that serves it sees it."""

    def __init__(
        self,
        server: Demo,
        message: Message,
        send: Send,
        session: Optional[Session],
        cancellation: Cancellation,
        version: str,
        drop: Optional[Drop] = None,
    ):
        self.server = server
        self.message = message
        self.id: RequestId = message["id"]
        self.params = params_of(message)
        self.meta = meta_of(message)
        self.send = send
        self.session = session
        self.cancellation = cancellation
        self.version = version
        self.modern = version == MODERN
        self._drop = drop
        self._answers: Optional[Message] = None

    @property
    def capabilities(self) -> Message:
        """What the client declared: for this request, or in ``initialize``."""
        if self.modern:
            declared = self.meta.get(CLIENT_CAPABILITIES)
            return declared if isinstance(declared, dict) else {}
        return self.session.capabilities if self.session else {}

    def sleep(self, seconds: float) -> None:
        """Let seconds pass.

        Raises:
            Cancelled: as soon as the call is cancelled.
        """
        deadline = time.monotonic() + seconds
        while True:
            remaining = deadline - time.monotonic()
            self.cancellation.wait(remaining)
            if remaining <= 0:
                return

    def progress(self, progress: float, total: float, message: str) -> None:
        """Report progress when the client sent a progress token."""
        token = self.meta.get("progressToken")
        if token is None:
            return
        params: Message = {"progressToken": token, "progress": progress}
        params["total"] = total
        if self.version >= "2025-03-26":
            params["message"] = message
        self.send(notification("notifications/progress", params))
        self.server.counters.add("progress_sent")

    def log(self, level: str, data: JSON) -> None:
        """Send a log message when the client wants messages of this level."""
        if self.modern:
            threshold = self.meta.get(LOG_LEVEL)
        else:
            threshold = self.session.log_level if self.session else "info"
        if threshold not in LEVELS or LEVELS.index(level) < LEVELS.index(threshold):
            return
        params: Message = {"level": level, "logger": "demo", "data": data}
        self.send(notification("notifications/message", params))

    def ask(self, key: str, method: str, params: Optional[Message] = None) -> Message:
        """Return the client's answer to a question.

        Legacy: a request on the call's own stream. Modern: a multi round-trip
        request; the call runs again from its start with the answers so far.

        Raises:
            InputRequired: in the modern era, when the answer is not there yet.
            Refused: when the client answers with an error.
            RPCError: with -32021 when a modern client lacks the capability.
        """
        self._require(method.split("/")[0])
        if not self.modern:
            return self._ask_now(method, params)
        answers = self._known_answers()
        if key in answers:
            answer: Message = answers[key]
            return answer
        request: Message = {"method": method}
        if params is not None:
            request["params"] = params
        raise InputRequired({key: request}, self._state(answers))

    def drop_stream(self, retry: int) -> None:
        """Close the stream of the answer, which the client has to resume.

        Only a resumable stream can do that; elsewhere nothing happens. ``retry`` is
        in milliseconds.
        """
        if self._drop is not None:
            self._drop(retry)

    def _require(self, capability: str) -> None:
        if capability in self.capabilities:
            return
        if self.modern:
            data: Message = {"requiredCapabilities": {capability: {}}}
            text = f"the client did not declare {capability}"
            raise RPCError(MISSING_CAPABILITY, text, data)
        raise Refused(f"the client did not declare {capability}")

    def _ask_now(self, method: str, params: Optional[Message]) -> Message:
        if self.session is None:
            raise Refused("a question needs a session")
        request_id = self.session.question(self.cancellation)
        request: Message = {"jsonrpc": "2.0", "id": request_id, "method": method}
        if params is not None:
            request["params"] = params
        self.send(request)
        answer = self.cancellation.wait(ANSWER_SECONDS)
        if answer is None:
            raise Refused("no answer in time")
        if "error" in answer:
            error = answer["error"]
            raise Refused(f"error {error.get('code')}: {error.get('message')}")
        result = answer.get("result")
        return result if isinstance(result, dict) else {}

    # The state is base64 of JSON, a dot and a digest over it and the call it belongs
    # to, so that a client that alters it, or sends it with another call, is caught.

    def _state(self, answers: Message) -> str:
        body = base64.b64encode(json.dumps(answers).encode()).decode()
        return f"{body}.{self._digest(body)}"

    def _digest(self, body: str) -> str:
        subject = [self.message["method"], self.params.get("name"), body]
        subject.append(self.params.get("arguments"))
        text = json.dumps(subject, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:32]

    def _known_answers(self) -> Message:
        if self._answers is None:
            self._answers = self._read_answers()
        return self._answers

    def _read_answers(self) -> Message:
        state = self.params.get("requestState")
        given = self.params.get("inputResponses")
        if state is None and given is None:
            return {}
        body, _, digest = str(state).rpartition(".")
        if not isinstance(state, str) or digest != self._digest(body):
            raise RPCError(INVALID_PARAMS, "requestState does not belong to this call")
        answers: Message = json.loads(base64.b64decode(body))
        if isinstance(given, dict):
            answers.update(given)
        return answers


class Listener:
    """One ``subscriptions/listen`` request (2026-07-28)."""

    def __init__(self, call: Call, accepted: Message):
        self.id = call.id
        self.accepted = accepted
        self.cancellation = call.cancellation
        self._send = call.send
        self._ended = False
        # Guards _ended and the order of messages: the acknowledgement is the first,
        # the response the last. Held over one send; never over a callback.
        # Taken by the listening thread, by whoever changes something, and at the end.
        self._lock = threading.Lock()

    def acknowledge(self, ready: Callable[[], None]) -> None:
        """Run ``ready``, then send the acknowledgement before any event."""
        with self._lock:
            ready()
            params: Message = {"notifications": self.accepted}
            self._tagged("notifications/subscriptions/acknowledged", params)

    def notify(self, method: str, params: Message) -> None:
        """Send one event."""
        with self._lock:
            if not self._ended:
                self._tagged(method, dict(params))

    def finish(self) -> None:
        """Send the response, which ends the subscription in good order."""
        with self._lock:
            if self._ended:
                return
            self._ended = True
            result = {"resultType": "complete", "_meta": {SUBSCRIPTION_ID: self.id}}
            self._send({"jsonrpc": "2.0", "id": self.id, "result": result})

    def stop(self) -> None:
        """Send nothing more."""
        with self._lock:
            self._ended = True

    def wants(self, kind: str, uri: Optional[str]) -> bool:
        """Tell whether the filter accepts an event of this kind about this URI."""
        if kind == "resourceSubscriptions":
            return uri in self.accepted.get(kind, ())
        return bool(self.accepted.get(kind))

    def _tagged(self, method: str, params: Message) -> None:
        params["_meta"] = {SUBSCRIPTION_ID: self.id}
        self._send(notification(method, params))
