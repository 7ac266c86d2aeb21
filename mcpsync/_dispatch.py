"""What the server says that belongs to no call: who runs the code for it, and where.

Notifications and log lines go to one worker, in order. Questions that no waiting call
can take go to a few threads of their own. Threads live while there is work.
"""

from __future__ import annotations

import collections
import contextvars
import logging
import threading
from typing import Callable, Deque, Optional, Union

from ._deadline import Deadline
from ._questions import Questions
from ._text import clean
from .exceptions import MCPError
from .protocol.eras import Era
from .protocol.jsonrpc import Message, Notification, Outgoing, Request, empty_answer
from .transports.base import Limits, Note
from .types import LoggingMessage, ServerNotification

__all__ = ["Dispatcher", "OnLog", "OnNotification"]

OnLog = Callable[[LoggingMessage], None]
OnNotification = Callable[[ServerNotification], None]

_log = logging.getLogger("mcpsync")

#: How long an answer to the server's own request may take to be sent, in seconds.
ANSWER_SECONDS = 30.0

_LEVELS = {
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "notice": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
    "alert": logging.CRITICAL,
    "emergency": logging.CRITICAL,
}


class Workers:
    """Up to `threads` daemon threads that end when there is nothing left to do."""

    def __init__(self, name: str, threads: int) -> None:
        # Guards the queue and the count of threads.
        # Never while held: running a job.
        # Taken by whoever submits and by the workers.
        self._lock = threading.Lock()
        self._jobs: Deque[Callable[[], None]] = collections.deque()
        self._running = 0
        self._name = name
        self._threads = threads
        #: Jobs see the context variables of the place where the client was opened.
        self.context = contextvars.copy_context()

    def submit(
        self, job: Callable[[], None], limit: int, drop_oldest: bool = False
    ) -> bool:
        """Queue a job; return false if the queue was full and something was dropped."""
        with self._lock:
            full = len(self._jobs) >= limit
            if full and not drop_oldest:
                return False
            if full:
                self._jobs.popleft()
            self._jobs.append(job)
            if self._running < self._threads:
                self._running += 1
                self._start()
        return not full

    def _start(self) -> None:
        """Start one thread. Requires holding _lock."""
        context = self.context.copy()
        thread = threading.Thread(
            target=context.run, args=(self._run,), name=self._name, daemon=True
        )
        try:
            thread.start()
        except RuntimeError:
            # The interpreter is ending: nobody is left to be told.
            self._running -= 1
            self._jobs.clear()

    def _run(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._running -= 1
                    return
                job = self._jobs.popleft()
            try:
                job()
            except BaseException:
                # Also sys.exit(): it ends no program from here, and no worker.
                _log.exception("a callback failed")
            del job

    def clear(self) -> None:
        """Drop what has not begun."""
        with self._lock:
            self._jobs.clear()


class Dispatcher:
    """Takes what belongs to no exchange, from any thread, without blocking."""

    def __init__(
        self,
        name: str,
        questions: Questions,
        limits: Limits,
        on_log: Optional[OnLog],
        on_notification: Optional[OnNotification],
    ) -> None:
        self.name = name
        self.questions = questions
        self._limits = limits
        self._on_log = on_log
        self._on_notification = on_notification
        self._logger = logging.getLogger("mcpsync.server.%s" % name)
        self._era: Optional[Era] = None
        self._send: Optional[Callable[[Outgoing, Deadline], None]] = None
        self._shaking_hands = False
        self._closed = False
        self._dropped = False
        self.reset()

    def reset(self) -> None:
        """Begin with fresh threads: at first, and in a forked child."""
        self._early: Deque[Notification] = collections.deque(maxlen=64)
        self._notifications = Workers("mcpsync-notifications-%s" % self.name, 1)
        self._askers = Workers(
            "mcpsync-question-%s" % self.name, self._limits.questions_running
        )

    # --- what the connection tells ------------------------------------------

    def connecting(self, send: Callable[[Outgoing, Deadline], None]) -> None:
        """A connection is being made: answer nothing yet, and keep log messages."""
        self._send = send
        self._era = None
        self._shaking_hands = False
        context = contextvars.copy_context()
        self._notifications.context = self._askers.context = context

    def shaking_hands(self) -> None:
        """``initialize`` is on the wire: from here on the server may ping."""
        self._shaking_hands = True

    def connected(self, era: Era) -> None:
        """Negotiation is over: everything is served."""
        self._era = era
        while self._early:
            self.take(self._early.popleft())

    def after_fork(self) -> None:
        """Forget the parent's threads and its connection."""
        self._era = None
        self._send = None
        self.questions.reset()
        self.reset()

    def close(self) -> None:
        self._closed = True
        # What was to be logged still is: it may say why the client was closed.
        self._askers.clear()
        self.questions.cancel_all()

    # --- what the server says -----------------------------------------------

    def take(self, message: Union[Message, Note]) -> None:
        """Take a message that belongs to no exchange. Any thread; does not block."""
        if self._closed:
            return
        if isinstance(message, Request):
            self._request(message)
        elif isinstance(message, Notification):
            self._notification(message)
        elif isinstance(message, Note):
            note = message
            self._later(lambda: self._logger.log(note.level, "%s", note.text))

    def _request(self, request: Request) -> None:
        if request.method == "ping":
            self._answer_ping(request)
            return
        era = self._era
        if era is None:
            return
        accepted = self._askers.submit(
            lambda: self.answer(request, era), self._limits.questions_queued
        )
        if not accepted:
            busy = (-32603, "too many questions at once")
            self._later(lambda: self.reply(era.answer(request, error=busy)))

    def _answer_ping(self, request: Request) -> None:
        if self._era is not None:
            self.reply(self._era.answer(request, {}))
        elif self._shaking_hands:
            self.reply(empty_answer(request))

    def answer(self, request: Request, era: Era) -> None:
        """Run the handler for a server's request and send its answer."""
        try:
            answer = self.questions.answer(request, era)
        except BaseException:
            # sys.exit() in a handler, for example: the server waits for an answer.
            self.reply(era.answer(request, error=(-32603, "internal error")))
            raise
        self.reply(answer)

    def reply(self, outgoing: Optional[Outgoing]) -> None:
        send = self._send
        if outgoing is None or send is None or self._closed:
            return
        try:
            send(outgoing, Deadline.after(ANSWER_SECONDS))
        except MCPError as error:
            _log.warning("an answer to server %r was lost: %s", self.name, error)

    def _notification(self, message: Notification) -> None:
        if message.method == "notifications/cancelled":
            self.questions.cancel(message.params.get("requestId"))
            return
        if message.method == "notifications/progress":
            # About a request that is over: nobody waits for it any more.
            return
        if self._era is None:
            self._early.append(message)
            return
        self._later(lambda: self._notify_later(message))

    def _notify_later(self, message: Notification) -> None:
        if not self._closed:
            self.notify(message)

    def _later(self, job: Callable[[], None]) -> None:
        limit = self._limits.notifications_queued
        if not self._notifications.submit(job, limit, drop_oldest=True):
            if not self._dropped:
                self._dropped = True
                _log.warning(
                    "server %r sends notifications faster than they are handled; "
                    "the oldest are dropped",
                    self.name,
                )

    def notify(self, message: Notification) -> None:
        """Run the handlers for a notification on this thread; nothing is raised."""
        try:
            if message.method == "notifications/message":
                self._log_message(message)
            elif self._on_notification is not None:
                self._on_notification(
                    ServerNotification(message.method, message.params)
                )
        except Exception:
            _log.exception(
                "a handler failed for %s from server %r", message.method, self.name
            )

    def _log_message(self, message: Notification) -> None:
        entry = LoggingMessage.from_wire(message.params)
        if self._on_log is not None:
            self._on_log(entry)
            return
        level = _LEVELS.get(entry.level, logging.INFO)
        if self._logger.isEnabledFor(level):
            self._logger.log(level, "%s", clean(entry.data))
