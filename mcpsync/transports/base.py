"""What a transport is: exchanges, and nothing about eras.

The unit is the *exchange*: one request and all that the server says about it, received
by the thread that made it.
"""

from __future__ import annotations

import abc
from dataclasses import dataclass, field
from typing import Any, Callable, Mapping, Optional, Protocol, TypeVar, Union

from .._deadline import Deadline
from ..exceptions import LocalProtocolError
from ..protocol.jsonrpc import Message, Outgoing

__all__ = [
    "Authorizer",
    "AuthorizerMaker",
    "Exchange",
    "Limits",
    "Note",
    "Profile",
    "Transport",
    "Unsolicited",
]


@dataclass(frozen=True)
class Limits:
    """Bounds on what a server can make this process hold or do.

    Attributes:
        message_bytes: one message, after decompression.
        stderr_bytes: what is kept of a server's stderr.
        stderr_line_bytes: one line of it.
        pending_requests: requests in flight on one client.
        questions_running: server questions answered at once on threads of ours.
        questions_queued: further ones that wait; beyond, the server gets an error.
        notifications_queued: beyond, the oldest is dropped.
        progress_per_second: progress callbacks; those between are coalesced.
        pages: pages of one listing.
        items: items of one listing.
        rounds: rounds of one multi round-trip request.
        reconnects: attempts to resume one stream.
        restarts_per_minute: restarts of a stdio server that died.
        write_stall_seconds: how long a server may leave its input unread.
    """

    message_bytes: int = 16 * 1024 * 1024
    stderr_bytes: int = 64 * 1024
    stderr_line_bytes: int = 16 * 1024
    pending_requests: int = 1000
    questions_running: int = 8
    questions_queued: int = 64
    notifications_queued: int = 1024
    progress_per_second: float = 20.0
    pages: int = 1000
    items: int = 100_000
    rounds: int = 10
    reconnects: int = 5
    restarts_per_minute: int = 3
    write_stall_seconds: float = 30.0


@dataclass(frozen=True)
class Profile:
    """What negotiation found out about the connection, as far as transports care.

    Attributes:
        headers: sent with every further HTTP request.
        session: whether a session id that the server offered is to be kept.
        listen_stream: whether the server may be asked for a stream of its own.
        delete_on_close: whether to tell the server that the session is over.
        batches: whether an array of messages may come where one is expected.
    """

    headers: Mapping[str, str] = field(default_factory=dict)
    session: bool = False
    listen_stream: bool = False
    delete_on_close: bool = False
    batches: bool = False


@dataclass(frozen=True)
class Note:
    """Something that the transport saw and that belongs in the log."""

    level: int
    text: str


#: Takes what belongs to no exchange. Called from any thread; must not block.
Unsolicited = Callable[[Union[Message, Note]], None]


class Authorizer(Protocol):
    """Puts credentials on HTTP requests, and mends what a server refuses.

    Called by any number of threads.
    """

    def authorize(
        self, prepared: Any, deadline: Deadline, refused: Optional[object] = None
    ) -> object:
        """Add credentials to a ``requests.PreparedRequest``.

        Args:
            refused: what was returned when the same request was sent before: a server
                that refuses whatever it is given must not make us try for ever.

        Returns:
            The credential that was used, for :meth:`repair`.
        """

    def repair(self, credential: object, response: Any, deadline: Deadline) -> bool:
        """Look at a 401 or 403; return whether to send the same request again.

        Args:
            response: a ``requests.Response``, its body not read; ``server_address``
                is the IP address that it came from, or ``None``.
        """

    def close(self) -> None:
        """Wake those who wait for credentials: the client is closed. Idempotent."""


class AuthorizerMaker(Protocol):
    """Makes what authorizes requests to one server."""

    def for_server(
        self,
        name: str,
        url: str,
        *,
        verify: Any = None,
        proxies: Optional[Mapping[str, str]] = None,
    ) -> Authorizer:
        """Return the authorizer for the server with this name and URL."""


Self = TypeVar("Self", bound="Exchange")


class Exchange(abc.ABC):
    """One request and all that the server says about it.

    Made by :meth:`Transport.begin`; a context manager for the thread that began it.
    Leaving it forgets the request: late messages about it are dropped.
    """

    outgoing: Outgoing

    @abc.abstractmethod
    def receive(self, deadline: Deadline) -> Message:
        """Return the next message about the request; the answer is the last one.

        Only for the thread that began the exchange.

        Raises:
            RequestTimeout: the deadline passed.
            RequestCancelled: :meth:`cancel` was called.
            TransportError, RemoteProtocolError, ClientClosed: what became of it.
        """

    @abc.abstractmethod
    def deliver(self, message: Message) -> None:
        """Take a message that came on another stream. Any thread; wakes receive()."""

    @abc.abstractmethod
    def cancel(self, reason: str) -> None:
        """Stop the request and tell the server. Any thread, idempotent."""

    def adopt(self, other: "Exchange") -> None:
        """Receive the messages of `other` here as well, where they share a stream."""

    def close(self) -> None:
        """Forget the request. Called by the thread that began it; idempotent."""

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()


class Transport(abc.ABC):
    """A way to reach one server. Subclass it to bring your own.

    A transport is opened once and closed once. `begin` and `send` are called from any
    number of threads.

    Attributes:
        kind: ``"stdio"``, ``"http"`` or ``"http+sse"``: which negotiation applies.
        name: how the server is called in messages, logs and thread names.
        generation: counts the connections that `open` and `establish` made.
        restart: whether the next call may open it again once it is no longer alive.
    """

    kind = "stdio"
    name = "server"
    generation = 0
    restart = True

    @abc.abstractmethod
    def open(self, on_unsolicited: Unsolicited, deadline: Deadline) -> None:
        """Connect or spawn. No protocol traffic."""

    def establish(self, profile: Optional[Profile]) -> None:
        """Obey what negotiation found; ``None`` forgets it before a new handshake."""

    @property
    def alive(self) -> bool:
        """Whether requests can be sent; if not, `open` may be called again."""
        return True

    @property
    def stderr_tail(self) -> str:
        """What the server wrote to stderr last, where it has one."""
        return ""

    def switch(self, kind: str) -> "Transport":
        """Return an unopened transport of another kind to the same server."""
        raise LocalProtocolError("there is no %s to this server" % kind)

    @abc.abstractmethod
    def begin(self, outgoing: Outgoing, deadline: Deadline) -> Exchange:
        """Send a request; do not wait for anything that the server says."""

    @abc.abstractmethod
    def send(self, outgoing: Outgoing, deadline: Deadline) -> None:
        """Send a notification or a response."""

    @abc.abstractmethod
    def close(self, timeout: Optional[float] = None) -> None:
        """End the connection and wake every waiter. Idempotent; any thread."""

    def abandon(self) -> None:
        """Let go without waiting, for the garbage collector.

        Takes no lock, logs nothing, joins nothing, starts nothing.
        """
