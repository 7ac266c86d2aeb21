"""Protocol versions, messages and errors of the demo server: no I/O, no threads."""

from __future__ import annotations

import json
from typing import Any, Callable, Dict, Optional, Union

JSON = Any
Message = Dict[str, JSON]
RequestId = Union[str, int]
Send = Callable[[Message], None]

MODERN = "2026-07-28"
LEGACY = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")
BATCHING = "2025-03-26"

PROTOCOL_VERSION = "io.modelcontextprotocol/protocolVersion"
CLIENT_CAPABILITIES = "io.modelcontextprotocol/clientCapabilities"
LOG_LEVEL = "io.modelcontextprotocol/logLevel"
SERVER_INFO = "io.modelcontextprotocol/serverInfo"
SUBSCRIPTION_ID = "io.modelcontextprotocol/subscriptionId"

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
SERVER_ERROR = -32000
SESSION_NOT_FOUND = -32001
RESOURCE_NOT_FOUND = -32002
HEADER_MISMATCH = -32020
MISSING_CAPABILITY = -32021
UNSUPPORTED_VERSION = -32022

LEVELS = (
    "debug",
    "info",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
)


class RPCError(Exception):
    """A failure that is answered with a JSON-RPC error."""

    def __init__(self, code: int, message: str, data: Optional[Message] = None):
        super().__init__(message)
        self.code = code
        self.message = message
        self.data = data

    def answer(self, request_id: Optional[RequestId]) -> Message:
        """Return the error response to the request of this id."""
        error: Message = {"code": self.code, "message": self.message}
        if self.data is not None:
            error["data"] = self.data
        return {"jsonrpc": "2.0", "id": request_id, "error": error}


def response(request_id: RequestId, result: Message) -> Message:
    """Return a successful response."""
    return {"jsonrpc": "2.0", "id": request_id, "result": result}


def notification(method: str, params: Optional[Message] = None) -> Message:
    """Return a notification."""
    message: Message = {"jsonrpc": "2.0", "method": method}
    if params is not None:
        message["params"] = params
    return message


def is_request(message: JSON) -> bool:
    """Tell whether a decoded message is a request."""
    return isinstance(message, dict) and "method" in message and "id" in message


def is_response(message: Message) -> bool:
    """Tell whether a message answers a request."""
    return "method" not in message


def valid_id(value: JSON) -> bool:
    """Tell whether a value may be a request id: a string or an integer, never null."""
    return isinstance(value, (str, int)) and not isinstance(value, bool)


def params_of(message: Message) -> Message:
    """Return the parameters of a message as an object, empty when there are none."""
    params = message.get("params")
    return params if isinstance(params, dict) else {}


def meta_of(message: Message) -> Message:
    """Return the ``_meta`` object of a message's parameters, empty when absent."""
    meta = params_of(message).get("_meta")
    return meta if isinstance(meta, dict) else {}


def encode(value: JSON) -> bytes:
    """Serialize a message to one line of UTF-8 without its line end."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:
        # A lone surrogate has no UTF-8 form; escaped it survives.
        return json.dumps(value, separators=(",", ":")).encode("ascii")


def decode(data: bytes) -> JSON:
    """Parse one message.

    Raises:
        RPCError: with -32700 when the bytes are not JSON.
    """
    try:
        return json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError) as exc:
        raise RPCError(PARSE_ERROR, "Parse error: not a JSON message") from exc
