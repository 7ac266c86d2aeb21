"""The life of one request: rounds, repeats, and the conversation about it.

Three loops, outermost first. *Rounds*: a multi round-trip result is answered and the
request sent again. *Repeats*: an attempt that certainly was not executed is made once
more. *Conversation*: progress, questions, and at last the answer.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, replace
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Set, Union

from ._calls import Call
from ._connection import Connector, Established
from ._deadline import Deadline
from ._dispatch import Dispatcher
from ._questions import Questions
from ._retries import retry_delay
from ._verbs import complete
from .exceptions import (
    AuthorizationError,
    CallRefused,
    ConnectionLost,
    HeaderMismatch,
    InputRequired,
    MCPError,
    RemoteProtocolError,
    ServerError,
    ServerExited,
    SessionExpired,
    TransportError,
    UnsupportedProtocolVersion,
    error_for,
)
from .protocol.eras import Complete, Era, Stamp
from .protocol.input_required import Asked
from .protocol.jsonrpc import Notification, Request, Response
from .transports.base import Exchange, Limits

__all__ = ["OnProgress", "Plan", "Requester"]

OnProgress = Callable[[float, Optional[float], Optional[str]], None]

_log = logging.getLogger("mcpsync")

#: Pause before the second and later retries that carry nothing but a state.
_STATE_ONLY_PAUSE = 0.25


@dataclass(frozen=True)
class Plan:
    """What one public call wants done.

    Attributes:
        method: the method.
        params: its parameters; ``_meta`` is added by the era.
        meta: what the caller adds to ``_meta``.
        on_progress: gets the progress of this call, on the calling thread.
        headers: returns the headers that mirror the parameters, afresh each time.
        relist: makes those headers right after the server refused them.
        repeatable: whether sending it twice does no harm.
        patient: whether a busy server is asked again.
    """

    method: str
    params: Optional[Mapping[str, Any]] = None
    meta: Optional[Mapping[str, Any]] = None
    on_progress: Optional[OnProgress] = None
    headers: Optional[Callable[[], Dict[str, str]]] = None
    relist: Optional[Callable[[Deadline], None]] = None
    repeatable: bool = False
    patient: bool = False


class Requester:
    """Carries out requests for one client. Safe for any number of threads."""

    def __init__(
        self,
        name: str,
        connector: Connector,
        dispatcher: Dispatcher,
        questions: Questions,
        ids: Iterator[int],
        limits: Limits,
    ) -> None:
        self._name = name
        self._connector = connector
        self._dispatcher = dispatcher
        self._questions = questions
        self._ids = ids
        self._limits = limits

    def run(self, call: Call, plan: Plan, deadline: Deadline) -> Mapping[str, Any]:
        """Return the result of a request, through rounds and repeats.

        Raises:
            MCPError: with server, method and elapsed seconds filled in.
        """
        try:
            return self._rounds(call, plan, deadline)
        except MCPError as error:
            complete(error, self._name, plan.method, deadline.elapsed)
            raise

    def notify(
        self, method: str, params: Optional[Mapping[str, Any]], deadline: Deadline
    ) -> None:
        """Send a notification, to a new session if the server forgot the old one."""
        try:
            self._notify(method, params, deadline, may_renew=True)
        except MCPError as error:
            complete(error, self._name, method, deadline.elapsed)
            raise

    def _notify(
        self,
        method: str,
        params: Optional[Mapping[str, Any]],
        deadline: Deadline,
        may_renew: bool,
    ) -> None:
        established = self._connector.get()
        outgoing = established.era.notification(method, params)
        try:
            established.transport.send(outgoing, deadline)
        except SessionExpired:
            if not may_renew:
                raise
            self._connector.renew(established, deadline)
            self._notify(method, params, deadline, may_renew=False)

    # --- rounds -------------------------------------------------------------

    def _rounds(self, call: Call, plan: Plan, deadline: Deadline) -> Mapping[str, Any]:
        original = plan.params
        number = 0
        while True:
            outcome = self._repeats(call, plan, deadline)
            if isinstance(outcome, Complete):
                return outcome.result
            if number == self._limits.rounds:
                raise InputRequired(
                    "the server still asks after %d rounds" % number,
                    outcome.raw.get("inputRequests"),
                    outcome.state,
                )
            answers = self._answers(call, outcome, deadline)
            if not outcome.questions and number > 0:
                pause = min(_STATE_ONLY_PAUSE * number, deadline.wait_seconds())
                self._connector.pause(call.stopped, pause)
                call.check()
            plan = replace(plan, params=outcome.retry(original, answers))
            number += 1

    def _answers(
        self, call: Call, asked: Asked, deadline: Deadline
    ) -> Dict[str, Dict[str, Any]]:
        """Run a handler for every question; there is no way to send an error."""
        answers = {}
        for key, question in asked.questions.items():
            with deadline.paused(), call.answering() as cancelled:
                try:
                    answers[key] = self._questions.answer_input(
                        question.method, question.params, cancelled
                    )
                except Exception as error:
                    raise InputRequired(
                        "the handler for %s failed, so the call cannot go on"
                        % question.method,
                        asked.raw.get("inputRequests"),
                        asked.state,
                    ) from error
            call.check()
        return answers

    # --- repeats ------------------------------------------------------------

    def _repeats(
        self, call: Call, plan: Plan, deadline: Deadline
    ) -> Union[Complete, Asked]:
        repaired: Set[type] = set()
        attempt = 0
        while True:
            established = self._connector.get()
            try:
                response = self._attempt(call, plan, established, deadline)
                return established.era.incoming(plan.method, response.result)
            except MCPError as error:
                delay = retry_delay(error, attempt, deadline) if plan.patient else None
                if delay is None:
                    self._repair(error, repaired, plan, established, deadline)
                else:
                    attempt += 1
                    self._connector.pause(call.stopped, delay)
                    call.check()

    def _repair(
        self,
        error: MCPError,
        repaired: Set[type],
        plan: Plan,
        established: Established,
        deadline: Deadline,
    ) -> None:
        """Mend what a repeat needs mended, once of each kind; or raise `error`."""
        kind = type(error)
        if kind in repaired:
            raise error
        repaired.add(kind)
        if isinstance(error, (SessionExpired, UnsupportedProtocolVersion)):
            # Not executed: the server did not know the session, or the version.
            self._connector.renew(established, deadline)
        elif isinstance(error, HeaderMismatch) and plan.relist is not None:
            plan.relist(deadline)
        elif not _may_repeat(error, plan):
            raise error

    # --- conversation -------------------------------------------------------

    def _attempt(
        self, call: Call, plan: Plan, established: Established, deadline: Deadline
    ) -> Response:
        era, transport = established.era, established.transport
        wants_progress = (
            plan.on_progress is not None or deadline.timeout.idle is not None
        )
        mirrors = plan.headers is not None and era.mirrors_parameters
        stamp = Stamp(
            meta=plan.meta or {},
            wants_progress=wants_progress,
            log_level=self._connector.log_level,
            headers=plan.headers() if mirrors and plan.headers else {},
        )
        outgoing = era.request(next(self._ids), plan.method, plan.params, stamp)
        call.check()
        with transport.begin(outgoing, deadline) as exchange:
            progress = Progress(plan.on_progress, self._limits.progress_per_second)
            with call.during(exchange), _cancelling(exchange):
                return self._converse(call, era, exchange, progress, deadline)

    def _converse(
        self,
        call: Call,
        era: Era,
        exchange: Exchange,
        progress: "Progress",
        deadline: Deadline,
    ) -> Response:
        while True:
            message = exchange.receive(deadline)
            deadline.touch()
            if isinstance(message, Response):
                progress.flush()
                return _checked(message, exchange.outgoing.method)
            if isinstance(message, Request):
                self._answer(call, era, message, deadline)
            elif message.method == "notifications/progress":
                progress.take(message)
            elif message.method == "notifications/message":
                self._dispatcher.notify(message)
            else:
                self._dispatcher.take(message)

    def _answer(
        self, call: Call, era: Era, request: Request, deadline: Deadline
    ) -> None:
        """Answer a question that came on this request's own stream."""
        if request.method == "ping":
            self._dispatcher.take(request)
            return
        with deadline.paused(), call.answering() as cancelled:
            answer = self._questions.answer(request, era, cancelled)
            self._dispatcher.reply(answer)


def _checked(response: Response, method: str) -> Response:
    error = response.error
    if error is None:
        return response
    message = error.get("message", "")
    failure = error_for(error["code"], message, error.get("data"), method=method)
    failure.status = response.status
    raise failure


def _may_repeat(error: MCPError, plan: Plan) -> bool:
    """Return whether a broken attempt may be made again: it is harmless, or unsent."""
    if not isinstance(error, (ConnectionLost, ServerExited)):
        return False
    return error.sent is False or plan.repeatable


#: How a request ends by itself; after anything else the server has to be told.
_ENDED = (
    TransportError,
    RemoteProtocolError,
    ServerError,
    AuthorizationError,
    CallRefused,
)


class _cancelling:
    """Tell the server when the caller leaves before the answer, whatever made it."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: Any, traceback: Any) -> None:
        if error is not None and not isinstance(error, _ENDED):
            self._exchange.cancel(_reason(error))


def _reason(error: BaseException) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, KeyboardInterrupt):
        return "interrupted by the user"
    return "cancelled by the caller"


class Progress:
    """Passes progress on to a callback, not faster than it is good for."""

    def __init__(self, callback: Optional[OnProgress], per_second: float) -> None:
        self._callback = callback
        self._interval = 1.0 / per_second
        self._next = 0.0
        self._held: Optional[Notification] = None

    def take(self, message: Notification) -> None:
        """Report now, or keep the newest until it is time."""
        if self._callback is None:
            return
        now = time.monotonic()
        if now < self._next:
            self._held = message
            return
        self._next = now + self._interval
        self._held = None
        self._report(message)

    def flush(self) -> None:
        """Report what was kept back: the last step is never lost."""
        if self._held is not None:
            message, self._held = self._held, None
            self._report(message)

    def _report(self, message: Notification) -> None:
        assert self._callback is not None
        params = message.params
        progress, total = _number(params.get("progress")), _number(params.get("total"))
        text = params.get("message")
        if progress is None:
            return
        try:
            self._callback(progress, total, text if isinstance(text, str) else None)
        except Exception:
            _log.exception("on_progress failed")


def _number(value: Any) -> Optional[float]:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value
