"""Everything on the wire that differs between the protocol's two eras.

*Legacy* (2024-11-05 to 2025-11-25) opens with ``initialize`` and remembers; *modern*
(2026-07-28) declares itself on every request and remembers nothing. Minor legacy
revisions differ by the feature flags of :mod:`.versions`, not by classes.

Specification: 2026-07-28, basic/versioning and basic/index.
"""

from __future__ import annotations

import abc
import functools
from dataclasses import dataclass, field
from typing import Any, Dict, FrozenSet, Mapping, Optional, Tuple, Union

from .._text import clean
from ..exceptions import (
    CapabilityMissing,
    InvalidArguments,
    MethodNotInEra,
    UnexpectedResult,
)
from .headers import encode_value, mirrored_name
from .input_required import MULTI_ROUND_METHODS, Asked, read_input_required
from .jsonrpc import Outgoing, Request, dumps, encode
from .versions import features

__all__ = ["ClientFacts", "Complete", "Era", "LegacyEra", "ModernEra", "Stamp"]

_PREFIX = "io.modelcontextprotocol/"
_VERSION_KEY = _PREFIX + "protocolVersion"
_CAPABILITIES_KEY = _PREFIX + "clientCapabilities"
_INFO_KEY = _PREFIX + "clientInfo"
_LOG_LEVEL_KEY = _PREFIX + "logLevel"

_TASK_METHODS = frozenset({"tasks/get", "tasks/result", "tasks/list", "tasks/cancel"})

#: A method and its parameters.
Call = Tuple[str, Dict[str, Any]]


@dataclass(frozen=True)
class ClientFacts:
    """What this client tells a server about itself.

    Attributes:
        info: name and version.
        capabilities: ``roots``, ``sampling``, ``elicitation`` where there is a
            handler, ``extensions`` where the host opted in.
    """

    info: Mapping[str, Any]
    capabilities: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Stamp:
    """What a call adds to the ``_meta`` and the headers of its request."""

    meta: Mapping[str, Any] = field(default_factory=dict)
    wants_progress: bool = False
    log_level: Optional[str] = None
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Complete:
    """The final result of a request."""

    result: Mapping[str, Any]


class Era(abc.ABC):
    """What one protocol era says on the wire. No I/O, no locks, no clock.

    Attributes:
        version: the negotiated protocol version.
        mirrors_parameters: whether tool parameters are mirrored into HTTP headers.
        subscribes_by_listening: whether a subscription is a request that stays open
            until it is cancelled.
        questions: the methods with which the server may ask something.
    """

    mirrors_parameters = False
    subscribes_by_listening = False
    questions: FrozenSet[str] = frozenset()
    _absent: FrozenSet[str] = frozenset()

    def __init__(
        self,
        version: str,
        facts: ClientFacts,
        server_capabilities: Optional[Mapping[str, Any]] = None,
    ) -> None:
        self.version = version
        self._facts = facts
        self._server_capabilities = server_capabilities

    @abc.abstractmethod
    def request(
        self,
        id: int,
        method: str,
        params: Optional[Mapping[str, Any]],
        stamp: Stamp = Stamp(),
    ) -> Outgoing:
        """Return a request as this era writes it."""

    @abc.abstractmethod
    def notification(
        self, method: str, params: Optional[Mapping[str, Any]] = None
    ) -> Outgoing:
        """Return a notification as this era writes it."""

    @abc.abstractmethod
    def answer(
        self,
        request: Request,
        result: Optional[Mapping[str, Any]] = None,
        error: Optional[Tuple[int, str]] = None,
    ) -> Optional[Outgoing]:
        """Return the answer to a server's request; ``None`` where none is allowed."""

    @abc.abstractmethod
    def incoming(self, method: str, result: Any) -> Union[Complete, Asked]:
        """Return what a result of `method` means."""

    @abc.abstractmethod
    def ping(self) -> Call:
        """Return the request that proves the server alive."""

    @abc.abstractmethod
    def log_level_call(self, level: str) -> Optional[Call]:
        """Return the request that sets the level; ``None``: stamp each request."""

    @abc.abstractmethod
    def roots_changed(self) -> Optional[Call]:
        """Return the notification for changed roots, ``None`` where there is none."""

    @abc.abstractmethod
    def completion(
        self, ref: Mapping[str, Any], argument: Mapping[str, str], context: Any
    ) -> Dict[str, Any]:
        """Return the parameters of ``completion/complete``."""

    @abc.abstractmethod
    def subscribe(self, uri: str) -> Call:
        """Return the request that asks for the updates of a resource."""

    @abc.abstractmethod
    def unsubscribe(self, uri: str) -> Call:
        """Return the request that ends them, where one has to be sent."""

    def check_method(self, method: str) -> None:
        """Raise MethodNotInEra if this version is known not to have `method`."""
        if method in self._absent:
            raise MethodNotInEra(
                "protocol version %s has no %s" % (self.version, method)
            )

    def _require(self, what: str, *path: str) -> None:
        """Raise CapabilityMissing unless the server declared the capability."""
        value: Any = self._server_capabilities
        for key in path:
            value = value.get(key) if isinstance(value, Mapping) else None
        if value is None or value is False:
            raise CapabilityMissing(
                "the server did not declare %s, which %s needs" % (".".join(path), what)
            )


def _with_meta(
    params: Optional[Mapping[str, Any]], meta: Mapping[str, Any]
) -> Dict[str, Any]:
    merged = dict(params or {})
    own = merged.get("_meta")
    if own is not None and not isinstance(own, Mapping):
        raise InvalidArguments("_meta must be an object")
    merged["_meta"] = {**(own or {}), **meta}
    return merged


class LegacyEra(Era):
    """2024-11-05 to 2025-11-25: a handshake, a session, requests both ways."""

    _absent = frozenset({"server/discover", "subscriptions/listen", "tasks/update"})

    def __init__(
        self,
        version: str,
        facts: ClientFacts,
        server_capabilities: Optional[Mapping[str, Any]] = None,
    ) -> None:
        super().__init__(version, facts, server_capabilities)
        self._features = features(version)
        asks = {"sampling/createMessage", "roots/list", "ping"}
        if "elicitation" in self._features:
            asks.add("elicitation/create")
        self.questions = frozenset(asks)
        if "tasks" not in self._features:
            self._absent = self._absent | _TASK_METHODS

    @property
    def allows_batches(self) -> bool:
        return "batches" in self._features

    def http_headers(self) -> Dict[str, str]:
        """Return the headers of every HTTP request after the handshake."""
        if "version header" not in self._features:
            return {}
        return {"MCP-Protocol-Version": self.version}

    def initialize(self, id: int) -> Outgoing:
        """Return the handshake's request; it is never cancelled."""
        capabilities = dict(self._facts.capabilities)
        if "roots" in capabilities:
            capabilities["roots"] = {"listChanged": True}
        params = {
            "protocolVersion": self.version,
            "capabilities": capabilities,
            "clientInfo": dict(self._facts.info),
        }
        body = encode("initialize", params, id)
        return Outgoing(
            id, "initialize", body, accepts_requests=True, opens_session=True
        )

    def request(
        self,
        id: int,
        method: str,
        params: Optional[Mapping[str, Any]],
        stamp: Stamp = Stamp(),
    ) -> Outgoing:
        self.check_method(method)
        meta = dict(stamp.meta)
        if stamp.wants_progress:
            meta["progressToken"] = id
        if meta:
            params = _with_meta(params, meta)
        return Outgoing(
            id,
            method,
            encode(method, params or None, id),
            progress_token=id if stamp.wants_progress else None,
            accepts_requests=True,
            resumable=True,
            cancellation="notify",
            notice=functools.partial(self._cancelled, id),
        )

    def notification(
        self, method: str, params: Optional[Mapping[str, Any]] = None
    ) -> Outgoing:
        self.check_method(method)
        # The one that ends the handshake goes out before a transport is told which
        # headers the session needs.
        headers = self.http_headers()
        return Outgoing(None, method, encode(method, params or None), headers=headers)

    def _cancelled(self, id: int, reason: str) -> Outgoing:
        params = {"requestId": id, "reason": reason}
        return self.notification("notifications/cancelled", params)

    def answer(
        self,
        request: Request,
        result: Optional[Mapping[str, Any]] = None,
        error: Optional[Tuple[int, str]] = None,
    ) -> Optional[Outgoing]:
        message: Dict[str, Any] = {"jsonrpc": "2.0", "id": request.id}
        if error is None:
            message["result"] = {} if result is None else result
        else:
            message["error"] = {"code": error[0], "message": error[1]}
        return Outgoing(None, "", dumps(message))

    def incoming(self, method: str, result: Any) -> Union[Complete, Asked]:
        # A resultType here means nothing: the field is from another era.
        return Complete(_object(method, result))

    def ping(self) -> Call:
        return "ping", {}

    def log_level_call(self, level: str) -> Optional[Call]:
        self._require("logging/setLevel", "logging")
        return "logging/setLevel", {"level": level}

    def roots_changed(self) -> Optional[Call]:
        return "notifications/roots/list_changed", {}

    def completion(
        self, ref: Mapping[str, Any], argument: Mapping[str, str], context: Any
    ) -> Dict[str, Any]:
        # The first revision has completion without a capability for it.
        if "completion capability" in self._features:
            self._require("completion/complete", "completions")
        params: Dict[str, Any] = {"ref": dict(ref), "argument": dict(argument)}
        if context is not None and "completion context" in self._features:
            params["context"] = {"arguments": dict(context)}
        return params

    def subscribe(self, uri: str) -> Call:
        self._require("resources/subscribe", "resources", "subscribe")
        return "resources/subscribe", {"uri": uri}

    def unsubscribe(self, uri: str) -> Call:
        return "resources/unsubscribe", {"uri": uri}


class ModernEra(Era):
    """2026-07-28: every request stands alone; the server never sends requests."""

    mirrors_parameters = True
    subscribes_by_listening = True
    _absent = frozenset(
        {
            "initialize",
            "notifications/initialized",
            "ping",
            "logging/setLevel",
            "resources/subscribe",
            "resources/unsubscribe",
            "notifications/roots/list_changed",
            "tasks/result",
            "tasks/list",
        }
    )

    def _identity(self) -> Dict[str, Any]:
        return {
            _VERSION_KEY: self.version,
            _INFO_KEY: dict(self._facts.info),
            _CAPABILITIES_KEY: dict(self._facts.capabilities),
        }

    def _headers(self, method: str, params: Mapping[str, Any]) -> Dict[str, str]:
        # A method that somebody made up may hold what no header can.
        headers = {
            "MCP-Protocol-Version": self.version,
            "Mcp-Method": encode_value(method),
        }
        name = mirrored_name(method, params)
        if name is not None:
            headers["Mcp-Name"] = encode_value(name)
        return headers

    def request(
        self,
        id: int,
        method: str,
        params: Optional[Mapping[str, Any]],
        stamp: Stamp = Stamp(),
    ) -> Outgoing:
        self.check_method(method)
        meta = {**stamp.meta, **self._identity()}
        if stamp.wants_progress:
            meta["progressToken"] = id
        if stamp.log_level is not None:
            meta[_LOG_LEVEL_KEY] = stamp.log_level
        params = _with_meta(params, meta)
        return Outgoing(
            id,
            method,
            encode(method, params, id),
            headers={**self._headers(method, params), **stamp.headers},
            progress_token=id if stamp.wants_progress else None,
            cancellation="close",
            notice=functools.partial(self._cancelled, id),
        )

    def notification(
        self, method: str, params: Optional[Mapping[str, Any]] = None
    ) -> Outgoing:
        self.check_method(method)
        params = _with_meta(params, self._identity())
        headers = self._headers(method, params)
        return Outgoing(None, method, encode(method, params), headers=headers)

    def _cancelled(self, id: int, reason: str) -> Outgoing:
        params = {"requestId": id, "reason": reason}
        return self.notification("notifications/cancelled", params)

    def answer(
        self,
        request: Request,
        result: Optional[Mapping[str, Any]] = None,
        error: Optional[Tuple[int, str]] = None,
    ) -> Optional[Outgoing]:
        # Servers may not send requests, and a client must never send a response.
        return None

    def incoming(self, method: str, result: Any) -> Union[Complete, Asked]:
        content = _object(method, result)
        kind = content.get("resultType", "complete")
        if kind == "complete":
            return Complete(content)
        if kind == "input_required" and method in MULTI_ROUND_METHODS:
            return read_input_required(content, self._facts.capabilities)
        raise UnexpectedResult(
            "%s got a result of the type %s" % (method, clean(repr(kind), 100))
        )

    def ping(self) -> Call:
        return "server/discover", {}

    def log_level_call(self, level: str) -> Optional[Call]:
        return None

    def roots_changed(self) -> Optional[Call]:
        return None

    def completion(
        self, ref: Mapping[str, Any], argument: Mapping[str, str], context: Any
    ) -> Dict[str, Any]:
        self._require("completion/complete", "completions")
        params: Dict[str, Any] = {"ref": dict(ref), "argument": dict(argument)}
        if context is not None:
            params["context"] = {"arguments": dict(context)}
        return params

    def subscribe(self, uri: str) -> Call:
        self._require("a resource subscription", "resources", "subscribe")
        return "subscriptions/listen", {
            "notifications": {"resourceSubscriptions": [uri]}
        }

    def unsubscribe(self, uri: str) -> Call:
        raise MethodNotInEra("a subscription ends with its own request")


def _object(method: str, result: Any) -> Mapping[str, Any]:
    if not isinstance(result, dict):
        raise UnexpectedResult(
            "the result of %s is not an object but %s" % (method, type(result).__name__)
        )
    return result
