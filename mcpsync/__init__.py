"""mcpsync: a synchronous, thread-based client for the Model Context Protocol.

::

    import mcpsync

    with mcpsync.connect(["uvx", "mcp-server-time"]) as client:
        result = client.call_tool("get_current_time", {"timezone": "Europe/Paris"})
        print(result.text)

No event loop anywhere: a call blocks from the caller's thread down to the socket or
the pipe. Names are loaded when they are first used, so that importing is cheap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, List

from ._version import __version__

if TYPE_CHECKING:
    from . import console as console
    from . import exceptions as exceptions
    from . import hooks as hooks
    from . import testing as testing
    from . import types as types
    from ._calls import PendingCall as PendingCall
    from ._connect import connect as connect
    from ._deadline import NO_TIMEOUT as NO_TIMEOUT
    from ._deadline import Timeout as Timeout
    from .auth.oauth import OAuth as OAuth
    from .client import Client as Client
    from .exceptions import *
    from .hooks import ConnectionRenewed as ConnectionRenewed
    from .hooks import ServerRestarted as ServerRestarted
    from .hooks import ToolCallBegin as ToolCallBegin
    from .hooks import ToolCallEnd as ToolCallEnd
    from .transports.base import Limits as Limits
    from .transports.base import Transport as Transport
    from .transports.http import StreamableHTTPTransport as StreamableHTTPTransport
    from .transports.sse import SSETransport as SSETransport
    from .transports.stdio import StdioTransport as StdioTransport
    from .types import CreateMessageResult as CreateMessageResult
    from .types import ElicitResult as ElicitResult

_HOMES = {
    "Client": "client",
    "ConnectionRenewed": "hooks",
    "CreateMessageResult": "types",
    "ElicitResult": "types",
    "Limits": "transports.base",
    "NO_TIMEOUT": "_deadline",
    "OAuth": "auth.oauth",
    "PendingCall": "_calls",
    "SSETransport": "transports.sse",
    "ServerRestarted": "hooks",
    "StdioTransport": "transports.stdio",
    "StreamableHTTPTransport": "transports.http",
    "Timeout": "_deadline",
    "ToolCallBegin": "hooks",
    "ToolCallEnd": "hooks",
    "Transport": "transports.base",
    "connect": "_connect",
}

_EXCEPTIONS = (
    "AuthorizationError CallRefused CapabilityMissing ClientClosed ConfigError "
    "ConnectFailed ConnectionLost CredentialLockTimeout CredentialStoreError "
    "DiscoveryError HTTPStatusError HeaderMismatch InputRequired InsufficientScope "
    "InternalError InvalidArguments InvalidMessage InvalidParams InvalidRequest "
    "InvalidStructuredContent IssuerMismatch LocalProtocolError LoginRequired "
    "MCPError MessageTooLarge MethodNotFound MethodNotInEra "
    "MissingRequiredClientCapability ParseError Redirected RegistrationError "
    "RemoteProtocolError RequestCancelled RequestTimeout ResourceMismatch "
    "ResourceNotFound SchemaRefused ServerBusy ServerError ServerExited "
    "ServerNotStarted SessionExpired TLSError TokenError ToolError TransportError "
    "URLElicitationRequired UnexpectedResult UnsupportedProtocolVersion"
).split()

_MODULES = ("console", "exceptions", "hooks", "testing", "types")

__all__ = sorted([*_HOMES, *_EXCEPTIONS, "__version__"])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module("." + name, __name__)
    home = _HOMES.get(name) or ("exceptions" if name in _EXCEPTIONS else None)
    if home is None:
        raise AttributeError("module %r has no attribute %r" % (__name__, name))
    value = getattr(importlib.import_module("." + home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted([*__all__, *_MODULES])
