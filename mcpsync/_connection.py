"""One client's connection: opened when needed, renewed when lost, shared by threads."""

from __future__ import annotations

import collections
import logging
import threading
import time
import weakref
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Deque, Dict, Iterator, List, Mapping, Optional, Set, Tuple

from ._deadline import Deadline, Timeout
from ._dispatch import Dispatcher
from ._lifecycle import Enrolled, enrol
from ._retries import retry_delay
from ._text import clean
from .exceptions import (
    CapabilityMissing,
    ClientClosed,
    HTTPStatusError,
    MCPError,
    RemoteProtocolError,
    RequestTimeout,
    ServerExited,
)
from .hooks import ConnectionRenewed, Hooks, ServerRestarted
from .protocol.eras import Call, ClientFacts, Era
from .protocol.jsonrpc import Outgoing, Response
from .protocol.negotiation import (
    PROBE_SECONDS,
    Answer,
    AwaitAny,
    Failed,
    Negotiated,
    Outcome,
    Reopen,
    Send,
    Silence,
    Step,
    Switch,
    negotiate,
)
from .transports.base import Exchange, Limits, Profile, Transport

__all__ = ["Connector", "Established"]

_log = logging.getLogger("mcpsync")

#: Pauses before the first, second and third restart of a server within a minute.
_BACK_OFF = (0.0, 0.5, 2.0)


@dataclass(frozen=True)
class Established:
    """What a negotiated connection is; never changed, only replaced."""

    transport: Transport
    era: Era
    profile: Profile
    server_info: Mapping[str, Any]
    capabilities: Mapping[str, Any]
    instructions: Optional[str]


class Connector(Enrolled):
    """Opens, negotiates, renews and closes. Safe for any number of threads."""

    def __init__(
        self,
        transport: Transport,
        protocol: str,
        facts: ClientFacts,
        dispatcher: Dispatcher,
        ids: Iterator[int],
        startup_seconds: float,
        limits: Limits,
        hooks: Hooks,
        wants_stream: bool,
    ) -> None:
        self.transport = transport
        #: Requests that a new connection repeats: subscriptions.
        self.replayed: Dict[str, Call] = {}
        #: The least severe log messages wanted; ``None``: as the server likes.
        self.log_level: Optional[str] = None
        self._protocol = protocol
        self._facts = facts
        self._dispatcher = dispatcher
        self._ids = ids
        self._startup_seconds = startup_seconds
        self._limits = limits
        self._hooks = hooks
        self._wants_stream = wants_stream
        self._established: Optional[Established] = None
        self._lost = False
        self._sessionless = False
        self._closing = threading.Event()
        #: What calls wait for that pause before they repeat something.
        self._pauses: Set[threading.Event] = set()
        self._restarts: Deque[float] = collections.deque()
        self._make_lock()
        enrol(self)
        weakref.finalize(self, _abandon, [transport]).atexit = False

    def _make_lock(self) -> None:
        # Guards opening, negotiation and renewal, one at a time.
        # Never while held: a handler. The one lock held over I/O, with a deadline.
        # Taken by the first call, and by calls that find the connection lost.
        self._connect_lock = threading.Lock()

    @property
    def established(self) -> Optional[Established]:
        """The connection as it is, without opening it."""
        return self._established

    def get(self) -> Established:
        """Return a live connection, opening or reopening it if need be."""
        current = self._established
        if current is not None and current.transport.alive:
            return current
        deadline = Deadline(Timeout(total=self._startup_seconds))
        with self._locked(deadline):
            established, event = self._make(deadline)
        if event is not None:
            self._hooks.observe(event)
        return established

    def _make(self, deadline: Deadline) -> Tuple[Established, Optional[object]]:
        """Open, renew or restart as need be; also return what observers are told."""
        current, name = self._established, self._dispatcher.name
        if current is not None:
            if current.transport.alive:
                return current, None
            # Until it lives again, other calls wait: a new process looks alive
            # before anybody has shaken its hand.
            self._established, self._lost = None, True
        if self._lost and self.transport.kind == "stdio":
            established = self._restart(deadline)
            return established, ServerRestarted(name, len(self._restarts))
        renewed = ConnectionRenewed(name) if self._lost or self._sessionless else None
        if self._sessionless and self.transport.alive:
            return self._negotiate(deadline), renewed
        return self._open(deadline), renewed

    def renew(self, seen: Established, deadline: Deadline) -> None:
        """Negotiate anew after the server forgot the session that `seen` had."""
        with self._locked(deadline):
            if self._established is not seen:
                return
            # Until there is a new session, other calls wait instead of going without;
            # if it cannot be had now, the next call tries again.
            self._established = None
            self._sessionless = True
            self.transport.establish(None)
            self._negotiate(deadline)
        self._hooks.observe(ConnectionRenewed(self._dispatcher.name))

    def listen(self, established: Established) -> None:
        """Make sure that the server's own messages can reach this client."""
        with self._locked(Deadline.after(self._startup_seconds)):
            self._wants_stream = True
            if self._established is established:
                established.transport.establish(
                    replace(established.profile, listen_stream=True)
                )

    def pause(self, stopped: threading.Event, seconds: float) -> None:
        """Wait, unless the client is closed or `stopped` is set.

        Raises:
            ClientClosed: the client was closed meanwhile.
        """
        self._pauses.add(stopped)
        if not self._closing.is_set():
            stopped.wait(seconds)
        self._pauses.discard(stopped)
        if self._closing.is_set():
            raise ClientClosed("the client is closed")

    def close(self, timeout: Optional[float]) -> None:
        """End the connection. Idempotent, any thread, even while it is opened."""
        self._closing.set()
        for stopped in list(self._pauses):
            stopped.set()
        self._dispatcher.close()
        self.transport.close(timeout)
        self._established = None

    @property
    def closed(self) -> bool:
        return self._closing.is_set()

    def after_fork_in_child(self) -> None:
        closed = self._closing.is_set()
        self._closing = threading.Event()
        if closed:
            self._closing.set()
        self._make_lock()
        self._established = None
        self._sessionless = self._lost = False
        self._dispatcher.after_fork()

    @contextmanager
    def _locked(self, deadline: Deadline) -> Iterator[None]:
        if not self._connect_lock.acquire(timeout=deadline.wait_seconds()):
            raise RequestTimeout(
                "another thread is still connecting",
                kind="connect",
                elapsed=deadline.elapsed,
            )
        try:
            if self._closing.is_set():
                raise ClientClosed("the client is closed")
            yield
        finally:
            self._connect_lock.release()

    # --- opening (all of it requires holding _connect_lock) ------------------

    def _open(self, deadline: Deadline) -> Established:
        self._dispatcher.connecting(self._send)
        try:
            self.transport.open(self._dispatcher.take, deadline)
            return self._negotiate(deadline)
        except BaseException:
            # Nothing half open is left behind, and nobody waits for it.
            self.transport.abandon()
            raise

    def _restart(self, deadline: Deadline) -> Established:
        """Start a server that has died once more, unless it keeps dying."""
        if not self.transport.restart:
            raise ServerExited(
                "the server has ended, and is not to be restarted",
                stderr_tail=self.transport.stderr_tail,
                sent=False,
            )
        now = time.monotonic()
        while self._restarts and now - self._restarts[0] > 60.0:
            self._restarts.popleft()
        done = len(self._restarts)
        if done >= self._limits.restarts_per_minute:
            raise ServerExited(
                "the server has died %d times within a minute and is not restarted "
                "again yet; look at what it says" % done,
                stderr_tail=self.transport.stderr_tail,
                sent=False,
            )
        pause = _BACK_OFF[min(done, len(_BACK_OFF) - 1)]
        if pause and self._closing.wait(min(pause, deadline.wait_seconds())):
            raise ClientClosed("the client is closed")
        self._restarts.append(time.monotonic())
        return self._open(deadline)

    def _send(self, outgoing: Outgoing, deadline: Deadline) -> None:
        self.transport.send(outgoing, deadline)

    # --- negotiating ---------------------------------------------------------

    def _negotiate(self, deadline: Deadline) -> Established:
        driver = _Driver(self, self.transport, deadline, self._closing)
        negotiated = driver.run(
            negotiate(
                self.transport.kind,
                self._protocol,
                self._facts,
                self._ids,
                min(PROBE_SECONDS, self._startup_seconds / 2),
            )
        )
        self.transport = driver.transport
        profile = self._profile(negotiated)
        self.transport.establish(profile)
        established = Established(
            self.transport,
            negotiated.era,
            profile,
            negotiated.server_info,
            negotiated.capabilities,
            negotiated.instructions,
        )
        self._replay(established, deadline)
        self._established = established
        self._sessionless = self._lost = False
        self._dispatcher.connected(negotiated.era)
        return established

    def _profile(self, negotiated: Negotiated) -> Profile:
        return Profile(
            headers=negotiated.headers,
            session=negotiated.session,
            listen_stream=negotiated.session and self._wants_stream,
            delete_on_close=negotiated.session,
            batches=negotiated.batches,
        )

    def _replay(self, established: Established, deadline: Deadline) -> None:
        """Tell a new connection what the old one knew."""
        calls = list(self.replayed.values())
        if self.log_level is not None:
            try:
                level = established.era.log_level_call(self.log_level)
            except CapabilityMissing:
                level = None
            if level is not None:
                calls.append(level)
        for method, params in calls:
            outgoing = established.era.request(next(self._ids), method, params)
            with established.transport.begin(outgoing, deadline) as exchange:
                answer = _answer(exchange, self._dispatcher, deadline)
            if answer.error is not None:
                # Nobody asked for it just now, and nobody's call shall fail for it.
                _log.warning(
                    "server %r refuses %s after the connection was made anew: %s",
                    self._dispatcher.name,
                    method,
                    clean(answer.error.get("message", "")),
                )

    def switch(self, kind: str, deadline: Deadline) -> Transport:
        """Replace the transport by one of another kind to the same server."""
        before = self.transport
        other = before.switch(kind)
        weakref.finalize(self, _abandon, [other]).atexit = False
        # From here on close() reaches it, too.
        self.transport = other
        try:
            if self._closing.is_set():
                raise ClientClosed("the client is closed")
            other.open(self._dispatcher.take, deadline)
        except BaseException:
            other.close(0)
            self.transport = before
            raise
        before.close(0)
        return other

    def reopen(self, deadline: Deadline) -> None:
        self._dispatcher.connecting(self._send)
        self.transport.open(self._dispatcher.take, deadline)

    def begins(self, outgoing: Outgoing) -> None:
        if outgoing.accepts_requests:
            self._dispatcher.shaking_hands()

    def overheard(self, message: Any) -> None:
        """Take what a server says while it is being negotiated with."""
        self._dispatcher.take(message)


def _abandon(transports: List[Transport]) -> None:
    for transport in transports:
        transport.abandon()


def _answer(exchange: Exchange, dispatcher: Dispatcher, deadline: Deadline) -> Response:
    while True:
        message = exchange.receive(deadline)
        if isinstance(message, Response):
            return message
        dispatcher.take(message)


class _Driver:
    """Carries out what the negotiation's generator asks for."""

    def __init__(
        self,
        connector: Connector,
        transport: Transport,
        deadline: Deadline,
        closing: threading.Event,
    ) -> None:
        self.transport = transport
        self._connector = connector
        self._deadline = deadline
        self._closing = closing
        self._exchanges: Dict[int, Tuple[Outgoing, Exchange]] = {}

    def run(self, negotiation: Any) -> Negotiated:
        outcome: Outcome = None
        try:
            while True:
                try:
                    step = negotiation.send(outcome)
                except StopIteration as end:
                    result: Negotiated = end.value
                    return result
                outcome = self._carry_out(step)
        finally:
            negotiation.close()
            self._close_exchanges()

    def _carry_out(self, step: Step) -> Outcome:
        if isinstance(step, Send):
            self._send(step.outgoing)
        elif isinstance(step, AwaitAny):
            return self._await(step)
        elif isinstance(step, Reopen):
            self._close_exchanges()
            self._connector.reopen(self._deadline)
        elif isinstance(step, Switch):
            return self._switch(step.kind)
        return None

    def _send(self, outgoing: Outgoing) -> None:
        self._connector.begins(outgoing)
        if outgoing.id is None:
            self.transport.send(outgoing, self._deadline)
            return
        exchange = self.transport.begin(outgoing, self._deadline)
        self._exchanges[outgoing.id] = (outgoing, exchange)

    def _switch(self, kind: str) -> Outcome:
        self._close_exchanges()
        try:
            self.transport = self._connector.switch(kind, self._deadline)
        except ClientClosed:
            raise
        except MCPError as error:
            return Failed(error)
        return None

    def _close_exchanges(self) -> None:
        for _, exchange in self._exchanges.values():
            exchange.close()
        self._exchanges.clear()

    def _await(self, step: AwaitAny) -> Outcome:
        """Wait for an answer; a busy or failing HTTP server is asked again."""
        attempt = 0
        while True:
            outcome = self._outcome(step)
            delay = retry_delay(_trouble(outcome), attempt, self._deadline)
            if delay is None:
                return outcome
            attempt += 1
            if self._closing.wait(delay):
                raise ClientClosed("the client is closed")
            outgoing, exchange = self._exchanges[step.ids[0]]
            exchange.close()
            self._send(outgoing)

    def _outcome(self, step: AwaitAny) -> Outcome:
        deadline = self._deadline
        if step.seconds is not None:
            deadline = deadline.at_most(step.seconds)
        first, *others = [self._exchanges[id][1] for id in step.ids]
        for other in others:
            first.adopt(other)
        try:
            return self._receive(first, step.ids[0], deadline)
        except RequestTimeout as error:
            if step.seconds is None or self._deadline.expired:
                raise self._too_slow(error) from None
            return Silence()
        except ServerExited as error:
            return Failed(error, exited=True)
        except HTTPStatusError as error:
            return Failed(error, status=error.status)
        except RemoteProtocolError as error:
            # Over HTTP something did answer, if not in this protocol.
            return Failed(error, status=200 if self.transport.kind == "http" else None)

    def _receive(self, exchange: Exchange, id: int, deadline: Deadline) -> Outcome:
        while True:
            message = exchange.receive(deadline)
            if isinstance(message, Response):
                answered = message.id if isinstance(message.id, int) else id
                return Answer(answered, message.result, message.error, message.status)
            self._connector.overheard(message)

    def _too_slow(self, error: RequestTimeout) -> RequestTimeout:
        seconds = self._deadline.timeout.total
        return RequestTimeout(
            "the server did not finish connecting%s; give a larger startup_timeout= "
            "if it starts slowly"
            % ("" if seconds is None else " within %g s" % seconds),
            kind="connect",
            seconds=seconds,
            method=error.method,
            elapsed=self._deadline.elapsed,
        )


def _trouble(outcome: Outcome) -> Optional[HTTPStatusError]:
    """Return what an outcome says about the state of an HTTP server."""
    if isinstance(outcome, Failed) and isinstance(outcome.error, HTTPStatusError):
        return outcome.error
    if isinstance(outcome, Answer) and outcome.error and outcome.status is not None:
        return HTTPStatusError("refused", status=outcome.status)
    return None
