"""Finding out which protocol a server speaks, as a generator without I/O.

:func:`negotiate` yields what to do and is sent what came of it, so that every row of
the specification's compatibility matrix is a line in a table of tests.

stdio: ``server/discover`` first; anything but a modern answer, silence included, means
a legacy server, which gets ``initialize``. HTTP: the same, but silence, a failing
server or a missing one are errors and never a verdict.

Specification: 2026-07-28, basic/versioning, basic/transports/stdio and
basic/transports/streamable-http.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Dict, Generator, Iterator, List, Mapping, Optional, Tuple, Union

from .._text import clean
from ..exceptions import (
    ConfigError,
    MCPError,
    UnexpectedResult,
    UnsupportedProtocolVersion,
    error_for,
)
from .eras import ClientFacts, Era, LegacyEra, ModernEra
from .jsonrpc import Outgoing
from .versions import LEGACY, MODERN, first_mutual

__all__ = [
    "Answer",
    "AwaitAny",
    "Failed",
    "Negotiated",
    "Negotiation",
    "Reopen",
    "Send",
    "Silence",
    "Switch",
    "negotiate",
    "versions_for",
]

#: How long a stdio server may be silent on the probe before it counts as legacy.
PROBE_SECONDS = 10.0

# --- what the generator asks for -------------------------------------------------


@dataclass(frozen=True)
class Send:
    """Send this; answered by ``None``."""

    outgoing: Outgoing


@dataclass(frozen=True)
class AwaitAny:
    """Wait for an answer to one of these requests; ``None`` seconds: no own limit."""

    ids: Tuple[int, ...]
    seconds: Optional[float] = None


@dataclass(frozen=True)
class Reopen:
    """Start the server's process afresh; answered by ``None``."""

    legacy: bool = True


@dataclass(frozen=True)
class Switch:
    """Try another transport; answered by ``None`` or :class:`Failed`."""

    kind: str


Step = Union[Send, AwaitAny, Reopen, Switch]

# --- what came of it -------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """The server answered the request `id`.

    Attributes:
        status: the HTTP status it came with, ``None`` elsewhere.
    """

    id: int
    result: Any = None
    error: Optional[Mapping[str, Any]] = None
    status: Optional[int] = None

    @property
    def code(self) -> Optional[int]:
        return None if self.error is None else self.error.get("code")

    @property
    def data(self) -> Any:
        return None if self.error is None else self.error.get("data")


@dataclass(frozen=True)
class Silence:
    """Nothing came within the seconds that :class:`AwaitAny` gave."""


@dataclass(frozen=True)
class Failed:
    """The attempt ended without an answer.

    Attributes:
        error: why; raised if the negotiation cannot go on.
        status: the HTTP status, if the server gave one.
        exited: whether the server's process ended.
    """

    error: MCPError
    status: Optional[int] = None
    exited: bool = False


Outcome = Union[None, Answer, Silence, Failed]


@dataclass(frozen=True)
class Negotiated:
    """What both sides agreed on."""

    era: Era
    server_info: Mapping[str, Any]
    capabilities: Mapping[str, Any]
    instructions: Optional[str]
    headers: Mapping[str, str] = field(default_factory=dict)
    session: bool = False
    batches: bool = False


Negotiation = Generator[Step, Outcome, Negotiated]


def versions_for(protocol: str) -> Tuple[Tuple[str, ...], Tuple[str, ...]]:
    """Return the modern and the legacy versions that `protocol` allows.

    Raises:
        ConfigError: it is neither ``"auto"``, ``"legacy"`` nor a known version.
    """
    if protocol == "auto":
        return MODERN, LEGACY
    if protocol == "legacy":
        return (), LEGACY
    if protocol in MODERN:
        return (protocol,), ()
    if protocol in LEGACY:
        return (), (protocol,)
    known = ", ".join(("auto", "legacy") + MODERN + LEGACY)
    raise ConfigError(
        "protocol=%s is unknown; it may be one of %s"
        % (clean(repr(protocol), 60), known)
    )


def negotiate(
    kind: str,
    protocol: str,
    facts: ClientFacts,
    ids: Iterator[int],
    probe_seconds: float = PROBE_SECONDS,
) -> Negotiation:
    """Negotiate over a transport of the given kind.

    Args:
        kind: ``"stdio"``, ``"http"`` or ``"http+sse"``.
        protocol: ``"auto"``, ``"legacy"`` or one version.
        facts: what this client tells about itself.
        ids: the client's request ids.
        probe_seconds: patience with a stdio server that is silent on the probe.
    """
    return _Negotiator(kind, protocol, facts, ids, probe_seconds).run()


class _Legacy(Exception):
    """The verdict that the server is a legacy one; `evidence` says why."""

    def __init__(
        self, evidence: MCPError, watched: Tuple[int, ...] = (), exited: bool = False
    ) -> None:
        super().__init__(evidence)
        self.evidence = evidence
        self.watched = watched
        self.exited = exited


class _Negotiator:
    def __init__(
        self,
        kind: str,
        protocol: str,
        facts: ClientFacts,
        ids: Iterator[int],
        probe_seconds: float,
    ) -> None:
        self.kind = kind
        self.facts = facts
        self.ids = ids
        self.modern, self.legacy = versions_for(protocol)
        # Silence is a verdict only where there is something to fall back to.
        falls_back = kind == "stdio" and bool(self.legacy)
        self.probe_seconds = probe_seconds if falls_back else None

    def run(self) -> Negotiation:
        # The first transport of 2024-11-05 is older than any modern server.
        if not self.modern or (self.kind == "http+sse" and self.legacy):
            return (yield from self.initialize(self.legacy[0]))
        try:
            return (yield from self.discover(self.modern[0]))
        except _Legacy as verdict:
            if not self.legacy:
                raise verdict.evidence from None
            watched, exited = verdict.watched, verdict.exited
        if exited:
            # Some legacy servers end on any request before initialize.
            yield Reopen()
        return (yield from self.initialize(self.legacy[0], watched))

    # --- modern -------------------------------------------------------------

    def discover(self, version: str, reselect: bool = True) -> Negotiation:
        """Probe with ``server/discover``. Raises _Legacy on that verdict."""
        outgoing = ModernEra(version, self.facts).request(
            next(self.ids), "server/discover", None
        )
        assert outgoing.id is not None
        yield Send(outgoing)
        outcome = yield AwaitAny((outgoing.id,), self.probe_seconds)
        if isinstance(outcome, Answer):
            if outcome.error is None and _is_discovery(outcome.result):
                return self.choose(outcome.result)
            supported = _supported(outcome)
            if outcome.code == -32022 and supported is not None:
                again = self.pick(supported)
                # Even if the server names the very version that it has just
                # refused: one more attempt, not a comparison, ends the loop.
                if reselect:
                    return (yield from self.discover(again, reselect=False))
        raise self.verdict(outgoing.id, outcome)

    def pick(self, supported: List[str]) -> str:
        """Return the modern version to use, or raise _Legacy or no common version."""
        version = first_mutual(self.modern, supported)
        if version is not None:
            return version
        error = UnsupportedProtocolVersion(
            -32022,
            "no common protocol version: the server has %s"
            % (", ".join(clean(name, 40) for name in supported) or "none"),
            {"supported": supported},
        )
        # A legacy version can be reached by initialize alone.
        if first_mutual(LEGACY, supported) is not None:
            raise _Legacy(error)
        raise error

    def choose(self, result: Mapping[str, Any]) -> Negotiated:
        version = self.pick(result["supportedVersions"])
        capabilities = _mapping(result.get("capabilities"))
        meta = _mapping(result.get("_meta"))
        # Before the revision was final, servers put their identity into the body.
        info = meta.get("io.modelcontextprotocol/serverInfo") or result.get(
            "serverInfo"
        )
        return Negotiated(
            ModernEra(version, self.facts, capabilities),
            _mapping(info),
            capabilities,
            _text_or_none(result.get("instructions")),
        )

    def verdict(self, probe: int, outcome: Outcome) -> Exception:
        """Return what to raise for a probe that found no modern server."""
        error: MCPError
        if isinstance(outcome, Silence):
            error = UnexpectedResult(
                "the server did not answer server/discover within %g s"
                % (self.probe_seconds or 0)
            )
            return _Legacy(error, (probe,))
        if isinstance(outcome, Failed):
            if self.kind == "stdio" or _is_evidence(outcome.status):
                return _Legacy(outcome.error, exited=outcome.exited)
            return outcome.error
        assert isinstance(outcome, Answer)
        error = _refusal(outcome, "server/discover")
        if _is_modern_error(outcome, "server/discover"):
            return error
        if self.kind == "http" and not _is_evidence(outcome.status):
            return error
        return _Legacy(error)

    # --- legacy -------------------------------------------------------------

    def initialize(
        self,
        version: str,
        watched: Tuple[int, ...] = (),
        retry: bool = True,
        headers: Optional[Mapping[str, str]] = None,
    ) -> Negotiation:
        outgoing = LegacyEra(version, self.facts).initialize(next(self.ids))
        assert outgoing.id is not None
        yield Send(replace(outgoing, headers=headers) if headers else outgoing)
        outcome = yield from self.initialize_outcome(outgoing.id, watched)
        if isinstance(outcome, Negotiated):
            return outcome
        if isinstance(outcome, Answer):
            if outcome.error is None:
                return (yield from self.agree(outcome))
            again = self.second_attempt(version, outcome) if retry else None
            if again is not None:
                return (yield from again)
        return (yield from self.refused(outcome, retry))

    def initialize_outcome(
        self, id: int, watched: Tuple[int, ...]
    ) -> Generator[Step, Outcome, Union[Outcome, Negotiated]]:
        """Wait for the handshake's answer; a late discovery answer wins over it."""
        while True:
            outcome = yield AwaitAny((id,) + watched)
            if not isinstance(outcome, Answer) or outcome.id == id:
                return outcome
            watched = tuple(other for other in watched if other != outcome.id)
            if outcome.error is None and _is_discovery(outcome.result):
                if first_mutual(self.modern, outcome.result["supportedVersions"]):
                    return self.choose(outcome.result)
            if outcome.code == -32022:
                version = first_mutual(self.modern, _supported(outcome) or ())
                if version is not None:
                    return (yield from self.discover_after_all(version, False))

    def second_attempt(self, version: str, answer: Answer) -> Optional[Negotiation]:
        """Return what to try once, after `version` was refused; ``None``: nothing."""
        named = _supported(answer) or []
        modern = first_mutual(self.modern, named)
        other = first_mutual(self.legacy, named)
        # Modern versions cannot be agreed on here, and legacy ones only here.
        wants_other = answer.code == -32602 or (answer.code == -32022 and not modern)
        if wants_other and other is not None:
            return self.initialize_again(other)
        # The event stream of 2024-11-05 is no way to a modern server.
        if self.modern and self.kind != "http+sse":
            if _is_modern_error(answer, "initialize"):
                return self.discover_after_all(modern or self.modern[0])
        if answer.code == -32020 and self.kind == "http":
            # A dual-era server may insist on the header that no initialize has.
            header = {"MCP-Protocol-Version": version}
            return self.initialize(version, retry=False, headers=header)
        return None

    def initialize_again(self, version: str) -> Negotiation:
        """Offer the version that the server named, to a process that heard no other."""
        if self.kind == "stdio":
            yield Reopen()
        return (yield from self.initialize(version, retry=False))

    def discover_after_all(self, version: str, reselect: bool = True) -> Negotiation:
        """Probe again: what came during the handshake came from a modern server."""
        try:
            return (yield from self.discover(version, reselect))
        except _Legacy as verdict:
            raise verdict.evidence from None

    def agree(self, answer: Answer) -> Negotiation:
        """Accept the server's version, or raise."""
        result = answer.result
        version = result.get("protocolVersion") if isinstance(result, dict) else None
        if not isinstance(version, str):
            raise UnexpectedResult(
                "the server's answer to initialize names no protocol version: %s"
                % clean(repr(result), 200)
            )
        if version not in self.legacy:
            raise UnsupportedProtocolVersion(
                -32022,
                "the server wants protocol version %s, this client has %s"
                % (clean(version, 40), ", ".join(self.legacy)),
                {"supported": [version]},
            )
        capabilities = _mapping(result.get("capabilities"))
        era = LegacyEra(version, self.facts, capabilities)
        yield Send(era.notification("notifications/initialized"))
        return Negotiated(
            era,
            _mapping(result.get("serverInfo")),
            capabilities,
            _text_or_none(result.get("instructions")),
            headers=era.http_headers(),
            session=True,
            batches=era.allows_batches,
        )

    def refused(self, outcome: Union[Outcome, Negotiated], retry: bool) -> Negotiation:
        """Fall back to HTTP+SSE where that is due, or raise."""
        error: MCPError
        if isinstance(outcome, Answer):
            error, status = _refusal(outcome, "initialize"), outcome.status
            modern = _is_modern_error(outcome, "initialize")
        else:
            assert isinstance(outcome, Failed)
            error, status, modern = outcome.error, outcome.status, False
        if self.kind != "http" or modern or not _is_turned_away(status):
            raise error
        failed = yield Switch("http+sse")
        if isinstance(failed, Failed):
            # The first refusal says more than "no event stream there either".
            raise error from failed.error
        self.kind = "http+sse"
        return (yield from self.initialize(self.legacy[0], retry=retry))


# --- reading answers -------------------------------------------------------------


def _mapping(value: Any) -> Dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _text_or_none(value: Any) -> Optional[str]:
    return value if isinstance(value, str) else None


def _is_strings(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


def _is_discovery(result: Any) -> bool:
    if not isinstance(result, dict):
        return False
    if result.get("resultType", "complete") != "complete":
        return False
    versions = result.get("supportedVersions")
    return _is_strings(versions) and bool(versions)


def _supported(answer: Answer) -> Optional[List[str]]:
    named = _mapping(answer.data).get("supported")
    return named if _is_strings(named) else None


def _is_turned_away(status: Optional[int]) -> bool:
    return (
        status is not None
        and 400 <= status < 500
        and status not in (401, 403, 408, 429)
    )


def _is_evidence(status: Optional[int]) -> bool:
    """Return whether an HTTP status tells anything about the era.

    A busy, failing or closed door is an outage, whatever stands behind it.
    """
    return status is not None and (200 <= status < 300 or _is_turned_away(status))


def _is_modern_error(answer: Answer, method: str) -> bool:
    """Return whether only a modern server answers `method` so."""
    if answer.code == -32022:
        return _supported(answer) is not None
    if answer.code == -32601 and answer.status == 404:
        # So say modern servers that they lack a method, and they all have this one.
        return method != "server/discover"
    return answer.code in (-32020, -32021)


def _refusal(answer: Answer, method: str) -> MCPError:
    if answer.error is None:
        return UnexpectedResult(
            "the result of %s is not one: %s"
            % (method, clean(repr(answer.result), 200))
        )
    code = answer.error["code"]
    message = answer.error.get("message", "")
    return error_for(code, message, answer.data, method=method)
