"""The compatibility matrix is kept, and whatever a server does, there is an end."""

from __future__ import annotations

import itertools
import json
import random
from pathlib import Path
from typing import Any, Dict, Iterator, List, NamedTuple, Optional, Tuple

import pytest

from mcpsync import exceptions
from mcpsync.exceptions import (
    ConfigError,
    InvalidMessage,
    MCPError,
    UnsupportedProtocolVersion,
)
from mcpsync.protocol.eras import LegacyEra, ModernEra
from mcpsync.protocol.negotiation import (
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
    versions_for,
)
from mcpsync.protocol.versions import LEGACY, MODERN

from .conversations import (
    FACTS,
    NEW,
    OLD,
    PREFIX,
    Talk,
    agrees,
    discovery,
    error,
    event_stream,
    gone,
    handshake,
    has,
    http,
    initialized,
    probe,
    refused,
    result,
)
from .matrix import (
    CLOSED,
    DT1,
    DT2,
    DT3,
    DT3_HTTP,
    DT3_SSE,
    DT3_STDIO,
    Modern,
    Raises,
)

#: What other layers decide, and where.
ELSEWHERE = {
    "DT-1 S1 spawn fails": "mcpsync/transports/_process.py",
    "DT-1 S1 spawned; cached era": "mcpsync/_connection.py",
    "DT-1 S2 stray notifications": "mcpsync/_dispatch.py",
    "DT-1 S4 T_init": "mcpsync/_connection.py",
    "DT-1 LEGACY late probe answer": "mcpsync/_connection.py",
    "DT-1 MODERN process dies": "mcpsync/_connection.py",
    "DT-1 MODERN any request gets -32022": "mcpsync/_requests.py",
    "DT-2 H1 401, 403, H1 afterwards": "mcpsync/transports/_http_wire.py",
    "DT-2 H1 408, 429, 5xx retried": "mcpsync/_retries.py",
    "DT-2 H1 timeout": "mcpsync/_connection.py",
    "DT-2 H2 T_init": "mcpsync/_connection.py",
    "DT-2 H2 session id, DELETE": "mcpsync/transports/http.py",
    "DT-2 H3 endpoint, same origin, T_endpoint": "mcpsync/transports/sse.py",
    "DT-2 MODERN -32022 on any call": "mcpsync/_requests.py",
    "DT-2 MODERN 400/404/405": "mcpsync/_requests.py",
    "DT-2 LEGACY 404": "mcpsync/_requests.py",
    "DT-2 any persisted verdict": "mcpsync/_connection.py",
    "DT-3 pin R5, R1-R4 server: silence": "mcpsync/_connection.py",
    "DT-5 rounds, handlers, back-off": "mcpsync/_requests.py",
    "DT-6 stream end before the response": "mcpsync/transports/_http_exchange.py",
    "DT-7 error codes": "mcpsync/exceptions.py",
    "DT-8 notifications": "mcpsync/_dispatch.py",
}


class Row(NamedTuple):
    kind: str
    protocol: str
    moves: Tuple[Any, ...]
    end: Any


def protocol_of(name: str) -> str:
    mode = name.split(",")[0]
    return {"auto": "auto", "legacy": "legacy", "pin R5": NEW}.get(mode) or mode[4:]


def rows() -> Dict[str, Row]:
    found = {}
    for label, kind, table in (("DT-1", "stdio", DT1), ("DT-2", "http", DT2)):
        for name, (*moves, end) in table.items():
            found["%s %s" % (label, name)] = Row(kind, "auto", tuple(moves), end)
    for kind, tables in {
        "stdio": (DT3, DT3_STDIO),
        "http": (DT3_HTTP,),
        "http+sse": (DT3_SSE,),
    }.items():
        for name, (*moves, end) in itertools.chain(
            *(table.items() for table in tables)
        ):
            row = Row(kind, protocol_of(name), tuple(moves), end)
            found["DT-3 %s %s" % (kind, name)] = row
    return found


ROWS = rows()


@pytest.mark.parametrize("name", ROWS)
def test_row(name: str) -> None:
    row = ROWS[name]
    talk = Talk(row.kind, row.protocol).play(*row.moves)
    if isinstance(row.end, Raises):
        assert type(talk.error) is row.end.kind
        with pytest.raises(row.end.kind, match=row.end.text):
            raise talk.error
        return
    assert talk.error is None and talk.negotiated is not None
    if isinstance(row.end, Modern):
        check_modern(talk.negotiated, row.end.version)
    else:
        check_legacy(talk.negotiated, row.end.version)


def check_modern(negotiated: Negotiated, version: str) -> None:
    assert type(negotiated.era) is ModernEra
    assert negotiated.era.version == version
    check_server(negotiated)
    # Nothing of a session: each request says it all.
    assert negotiated.headers == {}
    assert not negotiated.session and not negotiated.batches


def check_legacy(negotiated: Negotiated, version: str) -> None:
    assert type(negotiated.era) is LegacyEra
    assert negotiated.era.version == version
    check_server(negotiated)
    named = version in ("2025-11-25", "2025-06-18")
    assert negotiated.headers == ({"MCP-Protocol-Version": version} if named else {})
    assert negotiated.session
    assert negotiated.batches == (version == "2025-03-26")


def check_server(negotiated: Negotiated) -> None:
    assert negotiated.server_info == {"name": "demo", "version": "3"}
    assert negotiated.capabilities == {"tools": {}}
    assert negotiated.instructions == "be kind"


@pytest.mark.parametrize("place", sorted(set(ELSEWHERE.values())))
def test_what_is_decided_elsewhere_has_that_place(place: str) -> None:
    assert (Path(exceptions.__file__).parents[1] / place).is_file()


# --- details ---------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["", "AUTO", "modern", "2025-06-17", "x" * 999])
def test_an_unknown_protocol_is_a_configuration_error(protocol: str) -> None:
    with pytest.raises(ConfigError, match="auto, legacy, 2026-07-28, 2025-11-25") as e:
        versions_for(protocol)
    assert len(str(e.value)) < 300
    with pytest.raises(ConfigError):
        next(negotiate("stdio", protocol, FACTS, itertools.count(1)))


def test_what_a_protocol_allows() -> None:
    assert versions_for("auto") == (MODERN, LEGACY)
    assert versions_for("legacy") == ((), LEGACY)
    assert [versions_for(version) for version in MODERN] == [((NEW,), ())]
    for version in LEGACY:
        assert versions_for(version) == ((), (version,))


@pytest.mark.parametrize(
    "kind, protocol, seconds",
    [
        ("stdio", "auto", 2.5),
        # Where silence proves nothing there is no hurry.
        ("stdio", NEW, None),
        ("http", "auto", None),
        ("http", NEW, None),
        ("http+sse", NEW, None),
    ],
)
def test_only_the_silence_of_a_process_is_a_verdict(
    kind: str, protocol: str, seconds: Optional[float]
) -> None:
    negotiation = negotiate(kind, protocol, FACTS, itertools.count(1), 2.5)
    assert isinstance(next(negotiation), Send)
    assert negotiation.send(None) == AwaitAny((1,), seconds)


@pytest.mark.parametrize("place", ["_meta", "body"])
def test_identity_may_be_in_either_place(place: str) -> None:
    # Servers from before the revision was final put it into the body.
    who = {"name": "early", "version": "0"}
    meta = {PREFIX + "serverInfo": who} if place == "_meta" else {}
    body = {"name": "other"} if place == "_meta" else who
    talk = Talk().play(probe(result(discovery(NEW, _meta=meta, serverInfo=body))))
    assert talk.negotiated is not None
    assert talk.negotiated.server_info == who


@pytest.mark.parametrize("odd", [None, [], 5, True])
def test_odd_members_do_not_stop_a_negotiation(odd: Any) -> None:
    names = ("capabilities", "_meta", "serverInfo", "instructions")
    told = discovery(NEW, protocolVersion=OLD, **dict.fromkeys(names, odd))
    modern = Talk().play(probe(result(told)))
    legacy = Talk("stdio", "legacy").play(handshake(result(told)), initialized)
    for talk in (modern, legacy):
        assert talk.negotiated is not None
        assert talk.negotiated.server_info == talk.negotiated.capabilities == {}
        assert talk.negotiated.instructions is None


def test_the_reason_why_there_is_no_event_stream_is_kept() -> None:
    moves = (probe(http(404)), handshake(http(405)), event_stream(CLOSED))
    talk = Talk("http").play(*moves)
    assert talk.error is not None
    assert talk.error.__cause__ is CLOSED.error


def test_a_failed_negotiation_names_the_versions_of_the_server() -> None:
    talk = Talk().play(probe(refused("2031-01-01", "\x1b[31m")))
    assert isinstance(talk.error, UnsupportedProtocolVersion)
    assert talk.error.code == -32022
    assert talk.error.supported == ["2031-01-01", "\x1b[31m"]
    assert "2031-01-01, \\x1b[31m" in str(talk.error)
    talk = Talk("stdio", "legacy").play(handshake(agrees("2031-01-01")))
    assert isinstance(talk.error, UnsupportedProtocolVersion)
    assert (talk.error.code, talk.error.supported) == (-32022, ["2031-01-01"])


NASTY = "\x1b]0;x\x07\u202e" * 1000


@pytest.mark.parametrize(
    "protocol, moves",
    [
        (NEW, (probe(result({"supportedVersions": NASTY})),)),
        (NEW, (probe(refused(*[NASTY] * 1000)),)),
        ("legacy", (handshake(agrees(NASTY)),)),
        ("legacy", (handshake(result({"nasty": NASTY})),)),
        ("legacy", (handshake(error(-32000, {"nasty": NASTY})),)),
    ],
)
def test_hostile_texts_are_cleaned_and_clipped(protocol: str, moves: Any) -> None:
    text = str(Talk("stdio", protocol).play(*moves).error)
    assert len(text) < 1000
    assert not set("\x1b\x07\u202e") & set(text)


# --- whatever a server may do ----------------------------------------------------

VERSIONS: List[Any] = [*MODERN, *LEGACY, "2031-01-01", "", 5, None]
CODES = [-32022, -32022, -32020, -32021, -32601, -32602, -32602, -32603, -32000, 1]
STATUSES = [200, 202, 302, 400, 401, 403, 404, 405, 408, 422, 429, 500, 503, None]


class Server:
    """Does anything that a driver can possibly report."""

    def __init__(self, seed: int, kind: str) -> None:
        self.kind = kind
        self._chance = random.Random(seed)

    def outcome(self, step: Step) -> Outcome:
        if isinstance(step, AwaitAny):
            return self._comes(step)
        if isinstance(step, Switch):
            if self._chance.random() < 0.3:
                return CLOSED
            self.kind = step.kind
        return None

    def _comes(self, step: AwaitAny) -> Outcome:
        id = self._chance.choice(step.ids)
        status = self._chance.choice(STATUSES) if self.kind == "http" else None
        ways = ["result", "result", "error", "error", "error", "failed"]
        way = self._chance.choice(ways + ["silence"] * (step.seconds is not None))
        if way == "result":
            return Answer(id, self._result(), status=status)
        if way == "error":
            return Answer(id, error=self._error(), status=status)
        if way == "silence":
            return Silence()
        exited = self.kind == "stdio" and self._chance.random() < 0.7
        return Failed(InvalidMessage("junk"), status, exited)

    def _error(self) -> Dict[str, Any]:
        data = [None, "x", {}, {"supported": self._versions()}]
        data += [{"supported": self._versions()}]
        code = self._chance.choice(CODES)
        return {"code": code, "message": "no", "data": self._chance.choice(data)}

    def _result(self) -> Any:
        found = {"supportedVersions": self._versions(), "capabilities": {}}
        agreed = {"protocolVersion": self._chance.choice(VERSIONS), "capabilities": {}}
        return self._chance.choice([found, agreed, {}, None, [1]])

    def _versions(self) -> List[Any]:
        return self._chance.sample(VERSIONS, self._chance.randrange(1, 4))


def steps_against(server: Server, protocol: str) -> List[Step]:
    """Return all steps of one negotiation, and check that it ends as it may."""
    negotiation = negotiate(server.kind, protocol, FACTS, itertools.count(1))
    outcome: Outcome = None
    steps: List[Step] = []
    try:
        while len(steps) <= 12:
            steps.append(negotiation.send(outcome))
            outcome = server.outcome(steps[-1])
    except StopIteration as end:
        assert isinstance(end.value, Negotiated)
    except MCPError as error:
        assert str(error)
    return steps


@pytest.mark.parametrize("protocol", ["auto", "legacy", *MODERN, "2025-03-26"])
@pytest.mark.parametrize("kind", ["stdio", "http", "http+sse"])
def test_every_negotiation_ends(kind: str, protocol: str) -> None:
    modern, legacy = versions_for(protocol)
    methods = set()
    for seed in range(2000):
        steps = steps_against(Server(seed, kind), protocol)
        assert len(steps) <= 12, (seed, steps)
        sent = [step.outgoing for step in steps if isinstance(step, Send)]
        ids = [outgoing.id for outgoing in sent if outgoing.id is not None]
        assert ids == list(range(1, len(ids) + 1))
        for outgoing in sent:
            methods.add(outgoing.method)
            if outgoing.method == "initialize":
                check_initialize(json.loads(outgoing.body)["params"], legacy)
        assert sum(isinstance(step, Reopen) for step in steps) <= 2
        assert sum(isinstance(step, Switch) for step in steps) <= 1
    # Never a cancellation: a server that knows no session may trip over it.
    discovers = {"server/discover"} if modern else set()
    if kind == "http+sse" and legacy:
        discovers = set()
    handshakes = {"initialize", "notifications/initialized"} if legacy else set()
    assert methods == discovers | handshakes


def check_initialize(params: Dict[str, Any], legacy: Tuple[str, ...]) -> None:
    assert params["protocolVersion"] in legacy
    assert set(params) == {"protocolVersion", "capabilities", "clientInfo"}


def options(step: Step, kind: str) -> List[Outcome]:
    """Return what keeps a negotiation going for long, and what ends it."""
    if isinstance(step, Switch):
        return [None, CLOSED]
    if not isinstance(step, AwaitAny):
        return [None]
    status = 400 if kind == "http" else None
    answers = [refused(NEW, status=status), refused(OLD, code=-32602, status=status)]
    answers += [refused(OLD, status=status), error(-32020, status=status)]
    answers += [error(-32601, status=status and 404), has(NEW), agrees(OLD)]
    outcomes = [made(id) for id in step.ids for made in answers]
    if kind == "http":
        return outcomes + [http(404)(0), http(500)(0)]
    return outcomes + [gone(0)] + ([Silence()] if step.seconds else [])


def walk(kind: str, protocol: str) -> Iterator[int]:
    """Yield the number of steps of every course that a negotiation can take."""
    courses: List[Tuple[Outcome, ...]] = [(None,)]
    while courses:
        course = courses.pop()
        negotiation = negotiate(kind, protocol, FACTS, itertools.count(1))
        now = kind
        try:
            for outcome in course:
                step = negotiation.send(outcome)
                now = step.kind if isinstance(step, Switch) else now
        except (StopIteration, MCPError):
            yield len(course) - 1
        else:
            courses.extend(course + (next,) for next in options(step, now))


@pytest.mark.parametrize("kind, bound", [("stdio", 11), ("http", 12), ("http+sse", 5)])
def test_no_course_is_longer_than_this(kind: str, bound: int) -> None:
    assert max(walk(kind, "auto")) == bound
    assert max(walk(kind, "legacy")) <= bound
