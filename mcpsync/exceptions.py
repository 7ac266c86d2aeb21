"""The exceptions of mcpsync.

::

    MCPError
    ├─ ServerError                          the server answered with an error
    │    ├─ ParseError                      -32700
    │    ├─ InvalidRequest                  -32600
    │    ├─ MethodNotFound                  -32601
    │    ├─ InvalidParams                   -32602
    │    │    └─ ResourceNotFound           -32002, or -32602 from resources/read
    │    ├─ InternalError                   -32603
    │    ├─ URLElicitationRequired          -32042
    │    ├─ HeaderMismatch                  -32020
    │    ├─ MissingRequiredClientCapability -32021
    │    └─ UnsupportedProtocolVersion      -32022
    ├─ ToolError                            a tool reported failure
    ├─ InputRequired                        the server asks, and nobody answered
    ├─ CallRefused                          a before_call hook said no
    ├─ RequestTimeout                       also a TimeoutError
    ├─ RequestCancelled                     also a concurrent.futures.CancelledError
    ├─ TransportError
    │    ├─ ConnectFailed
    │    ├─ TLSError
    │    ├─ ConnectionLost
    │    ├─ ServerExited
    │    ├─ ServerNotStarted
    │    ├─ HTTPStatusError
    │    ├─ Redirected
    │    ├─ SessionExpired
    │    ├─ MessageTooLarge
    │    └─ ServerBusy
    ├─ RemoteProtocolError                  the server broke the protocol
    │    ├─ InvalidMessage
    │    ├─ UnexpectedResult
    │    ├─ InvalidStructuredContent
    │    └─ SchemaRefused
    ├─ LocalProtocolError                   the caller did
    │    ├─ MethodNotInEra
    │    ├─ CapabilityMissing
    │    ├─ InvalidArguments
    │    └─ ClientClosed
    ├─ AuthorizationError
    │    ├─ LoginRequired
    │    ├─ InsufficientScope
    │    ├─ DiscoveryError
    │    ├─ RegistrationError
    │    ├─ TokenError
    │    ├─ IssuerMismatch
    │    └─ ResourceMismatch
    ├─ CredentialStoreError
    │    └─ CredentialLockTimeout
    └─ ConfigError                          also a ValueError

All of them pickle, none is a group, and none has the name of a built-in. Texts that
came from a server are clipped and cleaned of control characters before they become
part of a message; `str(error)` is safe to print and to log.
"""

from __future__ import annotations

from concurrent.futures import CancelledError
from typing import Any, Dict, List, Mapping, Optional, Sequence, Tuple, Type

from ._text import clean

__all__ = [
    "AuthorizationError",
    "CallRefused",
    "CapabilityMissing",
    "ClientClosed",
    "ConfigError",
    "ConnectFailed",
    "ConnectionLost",
    "CredentialLockTimeout",
    "CredentialStoreError",
    "DiscoveryError",
    "HTTPStatusError",
    "HeaderMismatch",
    "InputRequired",
    "InsufficientScope",
    "InternalError",
    "InvalidArguments",
    "InvalidMessage",
    "InvalidParams",
    "InvalidRequest",
    "InvalidStructuredContent",
    "IssuerMismatch",
    "LocalProtocolError",
    "LoginRequired",
    "MCPError",
    "MessageTooLarge",
    "MethodNotFound",
    "MethodNotInEra",
    "MissingRequiredClientCapability",
    "ParseError",
    "Redirected",
    "RegistrationError",
    "RemoteProtocolError",
    "RequestCancelled",
    "RequestTimeout",
    "ResourceMismatch",
    "ResourceNotFound",
    "SchemaRefused",
    "ServerBusy",
    "ServerError",
    "ServerExited",
    "ServerNotStarted",
    "SessionExpired",
    "TLSError",
    "TokenError",
    "ToolError",
    "TransportError",
    "URLElicitationRequired",
    "UnexpectedResult",
    "UnsupportedProtocolVersion",
    "error_for",
]


def _rebuild(
    cls: Type["MCPError"], args: Tuple[object, ...], state: Dict[str, object]
) -> "MCPError":
    error = cls.__new__(cls)
    error.args = args
    error.__dict__.update(state)
    return error


class MCPError(Exception):
    """The root of everything that mcpsync raises on purpose.

    Attributes:
        message: what happened, safe to show.
        server: the name of the server, or ``None`` where there is none yet.
        method: the MCP method of the request that failed, if one did.
        elapsed: seconds from the start of that request to its failure.
    """

    def __init__(
        self,
        message: str = "",
        *,
        server: Optional[str] = None,
        method: Optional[str] = None,
        elapsed: Optional[float] = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.server = server
        self.method = method
        self.elapsed = elapsed

    def __str__(self) -> str:
        what = self.message or type(self).__name__
        where = [
            self.server and "server %r" % self.server,
            self.method,
            self.elapsed is not None and "after %.1f s" % self.elapsed,
        ]
        known = ", ".join(str(part) for part in where if part)
        return "%s (%s)" % (what, known) if known else what

    def __reduce__(self) -> Tuple[object, ...]:
        # Exceptions travel from worker processes: the constructor's keywords would
        # be lost by the inherited form.
        return (_rebuild, (type(self), self.args, dict(self.__dict__)))

    def _render_traceback_(self) -> List[str]:
        """Show one headline in IPython instead of fifty frames of library code."""
        return ["%s: %s" % (type(self).__name__, self)]


# --- the server answered with an error ------------------------------------------


class ServerError(MCPError):
    """The server answered the request with a JSON-RPC error.

    (The official Python SDK calls this one ``MCPError``.)

    Attributes:
        code: the JSON-RPC error code.
        server_message: the server's own text, cleaned.
        data: whatever the server attached, as received.
        status: the HTTP status that the error came with, or ``None``.
    """

    status: Optional[int] = None

    def __init__(
        self,
        code: int,
        message: str,
        data: Any = None,
        *,
        server: Optional[str] = None,
        method: Optional[str] = None,
        elapsed: Optional[float] = None,
    ) -> None:
        self.code = code
        self.server_message = clean(message)
        self.data = data
        text = "the server answered with error %d: %s" % (code, self.server_message)
        super().__init__(text, server=server, method=method, elapsed=elapsed)


class ParseError(ServerError):
    """-32700: the server could not read the request."""


class InvalidRequest(ServerError):
    """-32600: the server says that this is not a request."""


class MethodNotFound(ServerError):
    """-32601: the server does not know the method, or lacks the capability."""


class InvalidParams(ServerError):
    """-32602: unknown tool or prompt, bad cursor, malformed parameters."""


class ResourceNotFound(InvalidParams):
    """-32002, or -32602 from ``resources/read``: there is no such resource."""


class InternalError(ServerError):
    """-32603: the server failed inside."""


class URLElicitationRequired(ServerError):
    """-32042 (2025-11-25): the user has to visit a page first.

    `data["elicitations"]` lists the pages. Show them, get the user's consent, and
    repeat the call.
    """


class HeaderMismatch(ServerError):
    """-32020: the request's headers and its body do not agree."""


class MissingRequiredClientCapability(ServerError):
    """-32021: the server needs a capability that this client did not declare.

    `data["requiredCapabilities"]` names it: give the matching handler to
    :func:`mcpsync.connect`.
    """


class UnsupportedProtocolVersion(ServerError):
    """-32022, or a negotiation that found no common protocol version.

    Attributes:
        supported: the versions that the server named, possibly empty.
    """

    @property
    def supported(self) -> List[str]:
        if not isinstance(self.data, Mapping):
            return []
        named = self.data.get("supported")
        if not isinstance(named, list):
            return []
        return [version for version in named if isinstance(version, str)]


_BY_CODE: Dict[int, Type[ServerError]] = {
    -32700: ParseError,
    -32600: InvalidRequest,
    -32601: MethodNotFound,
    -32602: InvalidParams,
    -32603: InternalError,
    -32002: ResourceNotFound,
    -32042: URLElicitationRequired,
    -32020: HeaderMismatch,
    -32021: MissingRequiredClientCapability,
    -32022: UnsupportedProtocolVersion,
}


def error_for(
    code: int,
    message: str,
    data: Any = None,
    *,
    server: Optional[str] = None,
    method: Optional[str] = None,
    elapsed: Optional[float] = None,
) -> ServerError:
    """Return the exception for a JSON-RPC error object."""
    kind = _BY_CODE.get(code, ServerError)
    if code == -32602 and method == "resources/read" and _names_uri(data):
        kind = ResourceNotFound
    return kind(code, message, data, server=server, method=method, elapsed=elapsed)


def _names_uri(data: Any) -> bool:
    # 2026-07-28, server/resources: not found is -32602 with data.uri; without the
    # uri it is any other complaint about the parameters.
    return isinstance(data, Mapping) and isinstance(data.get("uri"), str)


# --- what a call may end with ----------------------------------------------------


class ToolError(MCPError):
    """A tool reported failure (``isError``).

    Raised by ``client.tools.<name>(...)`` and by ``result.raise_for_error()``;
    ``call_tool`` itself returns such a result, because a model may want to read it.

    Attributes:
        result: the whole :class:`mcpsync.types.CallToolResult`.
    """

    def __init__(
        self,
        message: str,
        result: Any = None,
        *,
        server: Optional[str] = None,
        method: Optional[str] = None,
        elapsed: Optional[float] = None,
    ) -> None:
        super().__init__(message, server=server, method=method, elapsed=elapsed)
        self.result = result


class InputRequired(MCPError):
    """The server asks for input that nobody here gave.

    Attributes:
        requests: the questions, by the server's own keys.
        state: the server's opaque request state, if it sent one. Keep it secret.
        parked: what is needed to finish the call later, where that was asked for.
    """

    def __init__(
        self,
        message: str,
        requests: Optional[Mapping[str, Any]] = None,
        state: Optional[str] = None,
        parked: Any = None,
        *,
        server: Optional[str] = None,
        method: Optional[str] = None,
        elapsed: Optional[float] = None,
    ) -> None:
        super().__init__(message, server=server, method=method, elapsed=elapsed)
        self.requests = dict(requests or {})
        self.state = state
        self.parked = parked


class CallRefused(MCPError):
    """A ``before_call`` hook refused the call; nothing was sent."""


class RequestTimeout(MCPError, TimeoutError):
    """The deadline passed. The server was told to stop.

    Attributes:
        kind: ``"connect"``, ``"idle"`` or ``"total"``: which clock ran out.
        seconds: the limit that was exceeded.
    """

    def __init__(
        self,
        message: str = "the request timed out",
        *,
        kind: str = "total",
        seconds: Optional[float] = None,
        server: Optional[str] = None,
        method: Optional[str] = None,
        elapsed: Optional[float] = None,
    ) -> None:
        super().__init__(message, server=server, method=method, elapsed=elapsed)
        self.kind = kind
        self.seconds = seconds


class RequestCancelled(MCPError, CancelledError):
    """The call was cancelled, by this program or by the server."""


# --- the transport failed --------------------------------------------------------


class TransportError(MCPError):
    """The way to the server failed. The client stays usable: the next call may work."""


class ConnectFailed(TransportError):
    """No connection could be made."""


class TLSError(TransportError):
    """The server's certificate or TLS handshake was refused."""


class ConnectionLost(TransportError):
    """The connection broke before the answer came.

    Attributes:
        sent: ``False`` when nothing had reached the server, so that a repeat is
            safe; ``True`` when it had; ``None`` when nobody can tell.
    """

    def __init__(
        self,
        message: str = "the connection broke before the answer came",
        *,
        sent: Optional[bool] = None,
        server: Optional[str] = None,
        method: Optional[str] = None,
        elapsed: Optional[float] = None,
    ) -> None:
        super().__init__(message, server=server, method=method, elapsed=elapsed)
        self.sent = sent


class ServerExited(TransportError):
    """The server's process ended.

    Attributes:
        returncode: its exit code, negative for a signal, ``None`` when unknown.
        stderr_tail: the last lines that it wrote to stderr, cleaned, secrets masked.
        sent: as in :class:`ConnectionLost`.
    """

    def __init__(
        self,
        message: str = "the server's process ended",
        *,
        returncode: Optional[int] = None,
        stderr_tail: str = "",
        sent: Optional[bool] = None,
        server: Optional[str] = None,
        method: Optional[str] = None,
        elapsed: Optional[float] = None,
    ) -> None:
        super().__init__(message, server=server, method=method, elapsed=elapsed)
        self.returncode = returncode
        self.stderr_tail = stderr_tail
        self.sent = sent

    def __str__(self) -> str:
        text = super().__str__()
        if not self.stderr_tail:
            return text
        return "%s; its last words on stderr:\n%s" % (text, self.stderr_tail)


class ServerNotStarted(TransportError):
    """The server's program could not be started.

    Attributes:
        command: the program, without its arguments.
    """

    def __init__(
        self,
        message: str,
        *,
        command: Optional[str] = None,
        server: Optional[str] = None,
        method: Optional[str] = None,
        elapsed: Optional[float] = None,
    ) -> None:
        super().__init__(message, server=server, method=method, elapsed=elapsed)
        self.command = command


class HTTPStatusError(TransportError):
    """The server answered with an HTTP status that is no answer to the request.

    Attributes:
        status: the HTTP status code.
        body_excerpt: the beginning of the body, cleaned.
        retry_after: seconds that the server asked us to wait, or ``None``.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int,
        body_excerpt: str = "",
        retry_after: Optional[float] = None,
        server: Optional[str] = None,
        method: Optional[str] = None,
        elapsed: Optional[float] = None,
    ) -> None:
        super().__init__(message, server=server, method=method, elapsed=elapsed)
        self.status = status
        self.body_excerpt = body_excerpt
        self.retry_after = retry_after


class Redirected(TransportError):
    """The server redirects elsewhere; a request with credentials does not follow.

    Attributes:
        urls: where the request went and where it was sent to, without queries.
    """

    def __init__(
        self,
        message: str,
        *,
        urls: Sequence[str] = (),
        server: Optional[str] = None,
        method: Optional[str] = None,
        elapsed: Optional[float] = None,
    ) -> None:
        super().__init__(message, server=server, method=method, elapsed=elapsed)
        self.urls = tuple(urls)


class SessionExpired(TransportError):
    """The server no longer knows the session: the request was not executed.

    Attributes:
        generation: which opening of the session it was.
    """

    def __init__(
        self,
        message: str = "the server no longer knows the session",
        *,
        generation: int = 0,
        server: Optional[str] = None,
        method: Optional[str] = None,
        elapsed: Optional[float] = None,
    ) -> None:
        super().__init__(message, server=server, method=method, elapsed=elapsed)
        self.generation = generation


class MessageTooLarge(TransportError):
    """A message exceeds the limit on its size.

    Attributes:
        limit: the limit in bytes (``Limits.message_bytes``).
    """

    def __init__(
        self,
        message: str,
        *,
        limit: Optional[int] = None,
        server: Optional[str] = None,
        method: Optional[str] = None,
        elapsed: Optional[float] = None,
    ) -> None:
        super().__init__(message, server=server, method=method, elapsed=elapsed)
        self.limit = limit


class ServerBusy(TransportError):
    """The server does not take what we send: its input has been full for too long."""


# --- somebody broke the protocol -------------------------------------------------


class RemoteProtocolError(MCPError):
    """The server said something that the protocol does not allow."""


class InvalidMessage(RemoteProtocolError):
    """What came is no JSON-RPC message, or not one that can be understood."""


class UnexpectedResult(RemoteProtocolError):
    """The result does not have the shape that the method's specification gives."""


class InvalidStructuredContent(RemoteProtocolError):
    """A tool's structured content does not fit the tool's own output schema.

    Attributes:
        result: the result as received, so that nothing is lost.
        path: where in the content, as a JSON path.
    """

    def __init__(
        self,
        message: str,
        *,
        result: Any = None,
        path: str = "$",
        server: Optional[str] = None,
        method: Optional[str] = None,
        elapsed: Optional[float] = None,
    ) -> None:
        super().__init__(message, server=server, method=method, elapsed=elapsed)
        self.result = result
        self.path = path


class SchemaRefused(RemoteProtocolError):
    """A schema from the server cannot be used safely, or at all.

    Remote or unresolvable references, an unknown dialect, a schema beyond the size
    limits, or a pattern that could run for ever. `validate="off"` skips the check.
    """


class LocalProtocolError(MCPError):
    """The caller asked for something that the protocol does not allow."""


class MethodNotInEra(LocalProtocolError):
    """The negotiated protocol version has no such method."""


class CapabilityMissing(LocalProtocolError):
    """The server did not declare the capability that the method needs."""


class InvalidArguments(LocalProtocolError):
    """An argument has the wrong type, or cannot be written as JSON."""


class ClientClosed(LocalProtocolError):
    """The client was closed; make a new one."""


# --- authorization, credentials, configuration -----------------------------------


class AuthorizationError(MCPError):
    """The server, or its authorization server, refused us.

    Attributes:
        retryable: whether the same attempt may succeed later.
        retry_after: seconds that a server asked us to wait, or ``None``.
    """

    retryable: bool = False
    retry_after: Optional[float] = None


class LoginRequired(AuthorizationError):
    """Somebody has to log in, and nobody can be asked from here.

    Attributes:
        server_url: the URL of the server that wants the login.
    """

    def __init__(
        self,
        message: str,
        *,
        server_url: Optional[str] = None,
        server: Optional[str] = None,
        method: Optional[str] = None,
        elapsed: Optional[float] = None,
    ) -> None:
        super().__init__(message, server=server, method=method, elapsed=elapsed)
        self.server_url = server_url


class InsufficientScope(AuthorizationError):
    """The token is good, but does not allow this."""


class DiscoveryError(AuthorizationError):
    """The authorization server could not be found, or described itself wrongly."""

    def __init__(
        self,
        message: str,
        *,
        retryable: bool = False,
        server: Optional[str] = None,
        method: Optional[str] = None,
        elapsed: Optional[float] = None,
    ) -> None:
        super().__init__(message, server=server, method=method, elapsed=elapsed)
        self.retryable = retryable


class RegistrationError(AuthorizationError):
    """The authorization server did not register this client."""


class TokenError(AuthorizationError):
    """The token endpoint refused, or answered something unusable.

    Attributes:
        error: the error code of OAuth, as ``"invalid_grant"``, or ``None``.
    """

    error: Optional[str] = None


class IssuerMismatch(AuthorizationError):
    """An answer came from another issuer than the one that was asked."""


class ResourceMismatch(AuthorizationError):
    """The protected resource metadata describes another resource."""


class CredentialStoreError(MCPError):
    """Credentials could not be read or saved."""


class CredentialLockTimeout(CredentialStoreError):
    """Another process held the credentials for too long."""


class ConfigError(MCPError, ValueError):
    """The configuration cannot be used as it is."""
