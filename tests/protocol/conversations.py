"""Scripted servers for negotiations, and the driver that plays a script."""

from __future__ import annotations

import itertools
import json
from typing import Any, Callable, Dict, NamedTuple, Optional, Tuple

from mcpsync.exceptions import HTTPStatusError, InvalidMessage, MCPError, ServerExited
from mcpsync.protocol.eras import ClientFacts
from mcpsync.protocol.negotiation import (
    PROBE_SECONDS,
    Answer,
    AwaitAny,
    Failed,
    Negotiated,
    Negotiation,
    Outcome,
    Reopen,
    Send,
    Silence,
    Step,
    Switch,
    negotiate,
)

FACTS = ClientFacts(
    {"name": "tests", "version": "1"},
    {"roots": {}, "elicitation": {"form": {}, "url": {}}},
)
PREFIX = "io.modelcontextprotocol/"
NEW, OLD = "2026-07-28", "2025-11-25"

#: Part of every error message of these servers.
WORDS = "words of the server"

# --- what servers say ------------------------------------------------------------

#: An outcome, except for the id of the request that it is about.
Made = Callable[[int], Outcome]


def result(value: Any, status: Optional[int] = None) -> Made:
    return lambda id: Answer(id, result=value, status=status)


def error(code: int, data: Any = None, status: Optional[int] = None) -> Made:
    body: Dict[str, Any] = {"code": code, "message": WORDS}
    if data is not None:
        body["data"] = data
    return lambda id: Answer(id, error=body, status=status)


def refused(*supported: Any, code: int = -32022, status: Optional[int] = None) -> Made:
    return error(code, {"supported": list(supported), "requested": "x"}, status)


def http(status: int) -> Made:
    failure = HTTPStatusError("HTTP status %d" % status, status=status)
    return lambda id: Failed(failure, status=status)


def junk(status: Optional[int] = None) -> Made:
    return lambda id: Failed(InvalidMessage("not JSON"), status=status)


def failed(kind: Callable[[str], MCPError]) -> Made:
    return lambda id: Failed(kind("no way there"))


def silence(id: int) -> Outcome:
    return Silence()


def gone(id: int) -> Outcome:
    return Failed(ServerExited("the server's process ended"), exited=True)


def discovery(*versions: Any, **more: Any) -> Dict[str, Any]:
    return {
        "resultType": "complete",
        "supportedVersions": list(versions),
        "capabilities": {"tools": {}},
        "instructions": "be kind",
        "ttlMs": 0,
        "cacheScope": "private",
        "_meta": {PREFIX + "serverInfo": {"name": "demo", "version": "3"}},
        **more,
    }


def has(*versions: str, status: Optional[int] = None) -> Made:
    """A ``DiscoverResult``."""
    return result(discovery(*versions), status)


def agrees(version: Any, status: Optional[int] = None) -> Made:
    """An ``InitializeResult``."""
    value = {
        "protocolVersion": version,
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "demo", "version": "3"},
        "instructions": "be kind",
    }
    return result(value, status)


# --- the driver ------------------------------------------------------------------


class Talk:
    """Drives one negotiation and checks every step that it takes."""

    def __init__(self, kind: str = "stdio", protocol: str = "auto") -> None:
        self.kind = kind
        self.falls_back = protocol == "auto"
        self.id = 0
        self.watched: Tuple[int, ...] = ()
        self.step: Optional[Step] = None
        self.negotiated: Optional[Negotiated] = None
        self.error: Optional[MCPError] = None
        self._negotiation: Negotiation = negotiate(
            kind, protocol, FACTS, itertools.count(1)
        )
        self.reply(None)

    def play(self, *moves: "Move") -> "Talk":
        for move in moves:
            move(self)
        assert self.step is None
        return self

    def reply(self, outcome: Outcome) -> None:
        self.step = None
        try:
            self.step = self._negotiation.send(outcome)
        except StopIteration as end:
            self.negotiated = end.value
        except MCPError as error:
            self.error = error

    def sends(self, method: str) -> Dict[str, Any]:
        """Check that the next step sends `method`; return the whole message."""
        assert isinstance(self.step, Send), self.step or self.error
        outgoing = self.step.outgoing
        message: Dict[str, Any] = json.loads(outgoing.body)
        assert outgoing.method == message["method"] == method
        assert message["jsonrpc"] == "2.0"
        if method.startswith("notifications/"):
            assert outgoing.id is None and "id" not in message
        else:
            self.id += 1
            assert outgoing.id == message["id"] == self.id
        return message

    def awaits(self, ids: Tuple[int, ...], seconds: Optional[float]) -> None:
        assert self.step == AwaitAny(ids, seconds)


Move = Callable[[Talk], None]


def probe(made: Made, version: str = NEW) -> Move:
    """``server/discover`` at `version`, and what comes of it."""

    def move(talk: Talk) -> None:
        meta = talk.sends("server/discover")["params"]["_meta"]
        assert meta[PREFIX + "protocolVersion"] == version
        assert isinstance(talk.step, Send)
        assert talk.step.outgoing.headers["MCP-Protocol-Version"] == version
        talk.reply(None)
        proves = talk.kind == "stdio" and talk.falls_back
        talk.awaits((talk.id,), PROBE_SECONDS if proves else None)
        if made is silence:
            talk.watched = (talk.id,)
        talk.reply(made(talk.id))

    return move


class Late(NamedTuple):
    """What comes for the probe after its time was up."""

    made: Made


def handshake(*course: Any, version: str = OLD, header: bool = False) -> Move:
    """``initialize`` that offers `version`, and what comes of it, one by one."""

    def move(talk: Talk) -> None:
        assert talk.sends("initialize")["params"] == {
            "protocolVersion": version,
            "capabilities": {
                "roots": {"listChanged": True},
                "elicitation": {"form": {}, "url": {}},
            },
            "clientInfo": {"name": "tests", "version": "1"},
        }
        assert isinstance(talk.step, Send)
        outgoing = talk.step.outgoing
        assert outgoing.cancellation == "never" and outgoing.notice is None
        assert outgoing.accepts_requests and outgoing.opens_session
        assert outgoing.headers == ({"MCP-Protocol-Version": version} if header else {})
        id = talk.id
        talk.reply(None)
        for comes in course:
            talk.awaits((id,) + talk.watched, None)
            about, talk.watched = talk.watched, ()
            if isinstance(comes, Late):
                talk.reply(comes.made(about[0]))
            else:
                talk.reply(comes(id))

    return move


def initialized(talk: Talk) -> None:
    assert talk.sends("notifications/initialized") == {
        "jsonrpc": "2.0",
        "method": "notifications/initialized",
    }
    talk.reply(None)


def fresh_process(talk: Talk) -> None:
    assert talk.step == Reopen()
    talk.watched = ()
    talk.reply(None)


def event_stream(outcome: Outcome = None) -> Move:
    """The change to HTTP+SSE, and what comes of it."""

    def move(talk: Talk) -> None:
        assert talk.step == Switch("http+sse")
        if outcome is None:
            talk.kind = "http+sse"
        talk.reply(outcome)

    return move
