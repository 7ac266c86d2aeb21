"""JSON-RPC 2.0 messages: reading them strictly, writing them compactly.

What a peer sends is parsed once, with bounds on nesting and numbers, and becomes one
of three records. Identifiers are compared with their type: JSON's ``true`` and
``1.0`` are not the request ``1``.

Specification: 2026-07-28, basic/index.
"""

from __future__ import annotations

import itertools
import json
import math
import re
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Union

from .._text import clean
from ..exceptions import InvalidArguments, InvalidMessage

__all__ = [
    "Message",
    "Notification",
    "Outgoing",
    "Request",
    "RequestId",
    "Response",
    "check_depth",
    "decode",
    "dumps",
    "empty_answer",
    "encode",
    "parse",
]

RequestId = Union[int, str]

#: Deepest nesting of arrays and objects in one message.
MAX_DEPTH = 200

#: So many brackets of a text do no harm to the stack, however they are nested.
_SAFE_DEPTH = 400

_BRACKETS = re.compile(r"[\[\]{}]")

_STEPS = {"[": 1, "{": 1, "]": -1, "}": -1}

#: Most digits of one integer; CPython's own parser is quadratic beyond that.
MAX_DIGITS = 400


@dataclass(frozen=True)
class Request:
    """A request of the peer: it wants an answer with the same id."""

    id: RequestId
    method: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Notification:
    """A message that nobody answers."""

    method: str
    params: Mapping[str, Any]


@dataclass(frozen=True)
class Response:
    """An answer: exactly one of `result` and `error`.

    `id` is ``None`` where the peer could not read the request it answers. `status` is
    the HTTP status that an answer came with, ``None`` on other transports.
    """

    id: Optional[RequestId]
    # Not shown: it may hold a requestState, which is the server's secret.
    result: Any = field(default=None, repr=False)
    error: Optional[Mapping[str, Any]] = None
    status: Optional[int] = None


Message = Union[Request, Notification, Response]


@dataclass(frozen=True)
class Outgoing:
    """One message on its way out, with all that a transport has to know about it.

    Made by the era; the transport obeys it and needs to know no era.

    Attributes:
        id: the request's id, ``None`` for notifications and responses.
        method: the method, ``""`` for responses.
        body: the JSON text, without a final newline.
        headers: HTTP headers that mirror the body.
        progress_token: the token under which progress will be reported, if any.
        accepts_requests: whether the server may ask questions on the answer's stream.
        resumable: whether a broken answer stream may be resumed by its event id.
        cancellation: ``"close"`` where ending the answer's stream cancels the request
            (a transport without such a stream sends `notice` instead), ``"notify"``
            where `notice` has to be sent, ``"never"`` for ``initialize``.
        notice: makes the ``notifications/cancelled`` message for a reason.
        opens_session: whether the answer may carry the id of a new session.
    """

    id: Optional[int]
    method: str
    body: bytes = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict)
    progress_token: Optional[int] = None
    accepts_requests: bool = False
    resumable: bool = False
    cancellation: str = "never"
    notice: Optional[Callable[[str], "Outgoing"]] = None
    opens_session: bool = False


# --- reading ---------------------------------------------------------------------


def _integer(digits: str) -> int:
    if len(digits) > MAX_DIGITS and len(digits.lstrip("-")) > MAX_DIGITS:
        raise InvalidMessage("an integer of %d digits" % len(digits.lstrip("-")))
    return int(digits)


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise InvalidMessage("the number %s is too large" % clean(text, 40))
    return value


def _no_constant(name: str) -> None:
    raise InvalidMessage("%s is not JSON" % name)


_decoder = json.JSONDecoder(
    parse_int=_integer, parse_float=_number, parse_constant=_no_constant
)


def decode(data: Union[bytes, bytearray, str]) -> Any:
    """Return the value of one JSON text.

    Raises:
        InvalidMessage: it is not strict UTF-8 JSON, or exceeds the bounds.
    """
    try:
        text = data if isinstance(data, str) else str(data, "utf-8")
    except UnicodeDecodeError as error:
        raise InvalidMessage("not UTF-8 (%s)" % error.reason) from error
    # Counting is fast; only a text with many brackets can be nested deeply.
    brackets = text.count("[") + text.count("{")
    if brackets > _SAFE_DEPTH:
        check_depth(text)
    try:
        value = _decoder.decode(text)
    except ValueError as error:
        reason = getattr(error, "msg", "bad number")
        raise InvalidMessage("not JSON (%s)%s" % (reason, _beginning(text))) from error
    except RecursionError:
        raise InvalidMessage("nested too deeply") from None
    if MAX_DEPTH < brackets <= _SAFE_DEPTH:
        _check_depth(value)
    return value


def check_depth(text: str) -> None:
    """Refuse a JSON text that is nested too deeply, before it is read.

    The reader goes as deep as the text. Where that all but uses up the stack, it is
    too late for an error: the destructors that happen to run just then fail as well.

    Raises:
        InvalidMessage: it is, or would be if it were JSON.
    """
    # What is between quotation marks, escaped ones left out, is no structure.
    unescaped = text.replace("\\\\", "").replace('\\"', "")
    brackets = _BRACKETS.findall("".join(unescaped.split('"')[::2]))
    depths = itertools.accumulate(map(_STEPS.__getitem__, brackets))
    if max(depths, default=0) > MAX_DEPTH:
        raise InvalidMessage("nested deeper than %d levels" % MAX_DEPTH)


def _beginning(text: str) -> str:
    # The state of a multi round-trip request is the server's secret.
    if "requestState" in text:
        return ""
    return ": " + (clean(text.strip(), 200) or "nothing at all")


def _check_depth(value: Any) -> None:
    level: List[Any] = [value] if isinstance(value, (dict, list)) else []
    for _ in range(MAX_DEPTH):
        if not level:
            return
        level = [
            child
            for container in level
            for child in (container.values() if type(container) is dict else container)
            if type(child) is dict or type(child) is list
        ]
    if level:
        raise InvalidMessage("nested deeper than %d levels" % MAX_DEPTH)


def parse(value: Any) -> Message:
    """Return the message that a decoded JSON value is.

    Raises:
        InvalidMessage: it is none; the text says why.
    """
    if not isinstance(value, dict):
        raise InvalidMessage("expected a JSON object, got %s" % _kind(value))
    if value.get("jsonrpc") != "2.0":
        told = _excerpt(value.get("jsonrpc"))
        raise _about_answer(value, 'expected "jsonrpc": "2.0", got %s' % told)
    method = value.get("method")
    if method is None:
        return _parse_response(value)
    if not isinstance(method, str):
        raise InvalidMessage("the method is %s, not a string" % _kind(method))
    params = value.get("params")
    if params is None:
        params = {}
    elif not isinstance(params, dict):
        raise InvalidMessage("the params are %s, not an object" % _kind(params))
    if "id" not in value:
        return Notification(method, params)
    identifier = value["id"]
    if not _is_id(identifier):
        raise InvalidMessage("the id is %s" % _kind(identifier))
    return Request(identifier, method, params)


def _parse_response(value: Dict[str, Any]) -> Response:
    identifier = value.get("id")
    if identifier is not None and not _is_id(identifier):
        raise InvalidMessage("the id is %s" % _kind(identifier))
    if ("result" in value) == ("error" in value):
        both = "both a result and an error" if "error" in value else "neither"
        raise _about(
            identifier, "an answer must hold a result or an error, this holds " + both
        )
    if "error" not in value:
        return Response(identifier, result=value["result"])
    error = value["error"]
    if not isinstance(error, dict) or type(error.get("code")) is not int:
        raise _about(identifier, "the error is malformed: %s" % _excerpt(error))
    if not isinstance(error.get("message", ""), str):
        raise _about(identifier, "the error's message is not a string")
    return Response(identifier, error=error)


class InvalidAnswer(InvalidMessage):
    """A malformed answer whose id can be told, so that it fails that request."""

    response_id: Optional[RequestId] = None


def _about(identifier: Optional[RequestId], text: str) -> InvalidMessage:
    error = InvalidAnswer(text)
    error.response_id = identifier
    return error


def _about_answer(value: Dict[str, Any], text: str) -> InvalidMessage:
    """Return the error for a message in another dialect, which may be an answer."""
    identifier = value.get("id")
    answers = "method" not in value and ("result" in value or "error" in value)
    if answers and _is_id(identifier):
        return _about(identifier, text)
    return InvalidMessage(text)


def _is_id(value: Any) -> bool:
    # `type`, because True is an int to isinstance() and equal to 1 in a dict.
    return type(value) is int or type(value) is str


def _kind(value: Any) -> str:
    names: Tuple[Tuple[type, str], ...] = (
        (bool, "a boolean"),
        (dict, "an object"),
        (list, "an array"),
        (str, "a string"),
        (int, "a number"),
        (float, "a number"),
    )
    for python_type, name in names:
        if isinstance(value, python_type):
            return name
    return "null"


def _excerpt(value: Any) -> str:
    return clean(repr(value), 200)


# --- writing ---------------------------------------------------------------------

# ASCII only: no line separator of any kind can end up inside a line.
_encoder = json.JSONEncoder(separators=(",", ":"), allow_nan=False)


def dumps(value: Any) -> bytes:
    """Return compact JSON.

    Raises:
        InvalidArguments: the value cannot be written as JSON.
    """
    try:
        return _encoder.encode(value).encode("ascii")
    except (TypeError, ValueError, RecursionError) as error:
        reason = clean(str(error), 200)
        raise InvalidArguments("this cannot be sent as JSON: %s" % reason) from error


def encode(
    method: str, params: Optional[Mapping[str, Any]], id: Optional[int] = None
) -> bytes:
    """Return the body of a request, or of a notification when there is no `id`."""
    message: Dict[str, Any] = {"jsonrpc": "2.0"}
    if id is not None:
        message["id"] = id
    message["method"] = method
    if params is not None:
        message["params"] = dict(params)
    return dumps(message)


def empty_answer(request: Request) -> Outgoing:
    """Return the answer to a ping, which is the same in every revision that has one."""
    return Outgoing(None, "", dumps({"jsonrpc": "2.0", "id": request.id, "result": {}}))
