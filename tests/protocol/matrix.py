"""The compatibility matrix: rows by name, what happens, and how it ends.

S1, S2 and S4 are the states over stdio: starting, probing, shaking hands. H1, H2 and H3
are those over HTTP: probing, shaking hands, looking for the older HTTP+SSE. RME is an
error that only a modern server gives. R1 to R5 are the protocol's revisions in order.
"""

from __future__ import annotations

from typing import Any, Dict, List, NamedTuple, Tuple, Type

from mcpsync.exceptions import (
    ConnectFailed,
    HeaderMismatch,
    HTTPStatusError,
    InternalError,
    InvalidMessage,
    InvalidParams,
    InvalidRequest,
    MCPError,
    MethodNotFound,
    MissingRequiredClientCapability,
    ParseError,
    ServerError,
    ServerExited,
    UnexpectedResult,
    UnsupportedProtocolVersion,
)
from mcpsync.protocol.negotiation import Failed
from mcpsync.protocol.versions import LEGACY

from .conversations import (
    NEW,
    OLD,
    WORDS,
    Late,
    agrees,
    discovery,
    error,
    event_stream,
    failed,
    fresh_process,
    gone,
    handshake,
    has,
    http,
    initialized,
    junk,
    probe,
    refused,
    result,
    silence,
)


class Modern(NamedTuple):
    version: str = NEW


class Legacy(NamedTuple):
    version: str = "2025-06-18"


class Raises(NamedTuple):
    kind: Type[MCPError]
    text: str = WORDS


#: Rows by name: what happens, in order, and how it ends.
Table = Dict[str, Tuple[Any, ...]]

LEGACY_REPLY = error(-32601)
AGREES = agrees("2025-06-18")
JOINS = (handshake(AGREES), initialized, Legacy())

VERSION_MISMATCH = Raises(UnsupportedProtocolVersion)
NO_COMMON = Raises(UnsupportedProtocolVersion, "no common protocol version.*2031-01-01")
NO_VERSION = Raises(UnexpectedResult, "names no protocol version")
EXITED = Raises(ServerExited, "process ended")

# --- DT-1: stdio -----------------------------------------------------------------

NO_STRING_LISTS: List[Any] = [None, NEW, [NEW]]
NO_STRING_LISTS += [{"supported": value} for value in (NEW, None, [NEW, 5], {NEW: 1})]

NO_DISCOVERIES: List[Any] = [{}, None, [], "ok", 7, {"tools": []}]
NO_DISCOVERIES += [
    {"supportedVersions": value} for value in (NEW, {NEW: 1}, [], [NEW, 5])
]
NO_DISCOVERIES += [
    discovery(NEW, resultType=value) for value in ("input_required", "x", None)
]

UNTYPED = discovery(NEW)
del UNTYPED["resultType"]

OTHER_ERRORS: Dict[int, Type[MCPError]] = {
    -32601: MethodNotFound,
    -32600: InvalidRequest,
    -32603: InternalError,
    -32700: ParseError,
    -32000: ServerError,
    -32019: ServerError,
    -1: ServerError,
    0: ServerError,
    42: ServerError,
}

DT1: Table = {
    "S1 spawned, unknown": (probe(has(NEW)), Modern()),
    "S2 mutual modern version": (probe(has("x", NEW, OLD)), Modern()),
    "S2 DiscoverResult without a type": (probe(result(UNTYPED)), Modern()),
    "S2 only legacy mutual": (probe(has("2025-06-18", "2025-03-26")), *JOINS),
    "S2 nothing mutual": (probe(has("2031-01-01")), NO_COMMON),
    "S2 -32022 mutual": (probe(refused("x", NEW)), probe(has(NEW)), Modern()),
    "S2 -32022 naming the version just sent": (
        *(probe(refused(NEW)), probe(has(NEW))),
        Modern(),
    ),
    "S2 -32022 once and not twice": (
        *(probe(refused(NEW)), probe(refused(NEW))),
        VERSION_MISMATCH,
    ),
    "S2 -32022 only legacy mutual": (probe(refused("2025-06-18")), *JOINS),
    "S2 -32022 only legacy mutual, the second time": (
        *(probe(refused(NEW)), probe(refused("2025-06-18"))),
        *JOINS,
    ),
    "S2 -32022 nothing mutual": (probe(refused("2031-01-01")), NO_COMMON),
    "S2 -32022 nothing mutual, the second time": (
        *(probe(refused(NEW)), probe(refused("2031-01-01"))),
        NO_COMMON,
    ),
    "S2 -32022 nothing at all": (
        probe(refused()),
        Raises(UnsupportedProtocolVersion, "the server has none"),
    ),
    "S2 -32020": (probe(error(-32020)), Raises(HeaderMismatch)),
    "S2 -32021": (probe(error(-32021)), Raises(MissingRequiredClientCapability)),
    "S2 any other error -32602": (probe(error(-32602)), *JOINS),
    "S2 unreadable answer": (probe(junk()), *JOINS),
    "S2 T_probe expires": (probe(silence), *JOINS),
    "S2 EOF": (probe(gone), fresh_process, *JOINS),
    "S2 EOF, the second time": (
        *(probe(refused(NEW)), probe(gone), fresh_process),
        *JOINS,
    ),
    "S4 another version R5": (
        *(probe(LEGACY_REPLY), handshake(agrees(NEW))),
        Raises(UnsupportedProtocolVersion, "wants protocol version 2026-07-28"),
    ),
    "S4 another version": (
        *(probe(LEGACY_REPLY), handshake(agrees("2031-01-01"))),
        Raises(UnsupportedProtocolVersion, "2031-01-01, this client has 2025-11-25"),
    ),
    "S4 -32022": (
        *(probe(silence), handshake(refused(NEW)), probe(has(NEW))),
        Modern(),
    ),
    "S4 -32022 mutual, legacy as well": (
        *(probe(silence), handshake(refused(OLD, NEW)), probe(has(NEW))),
        Modern(),
    ),
    "S4 other error that names versions": (
        *(probe(silence), handshake(refused(OLD, NEW, code=-32603))),
        Raises(InternalError),
    ),
    "S4 -32022, then mutual": (
        *(probe(silence), handshake(refused(NEW))),
        *(probe(refused(NEW)), probe(has(NEW))),
        Modern(),
    ),
    "S4 -32022, S2 once more and not twice": (
        *(probe(silence), handshake(refused(NEW))),
        *(probe(refused(NEW)), probe(refused(NEW))),
        VERSION_MISMATCH,
    ),
    "S4 -32022, then EOF": (
        *(probe(silence), handshake(refused(NEW)), probe(gone)),
        EXITED,
    ),
    "S4 -32022, then silence": (
        *(probe(silence), handshake(refused(NEW)), probe(silence)),
        Raises(UnexpectedResult, "did not answer server/discover within 10 s"),
    ),
    "S4 -32022, then any other error": (
        *(probe(silence), handshake(refused(NEW)), probe(LEGACY_REPLY)),
        Raises(MethodNotFound),
    ),
    "S4 -32022 only legacy mutual": (
        *(probe(LEGACY_REPLY), handshake(refused("2025-06-18")), fresh_process),
        *(handshake(AGREES, version="2025-06-18"), initialized),
        Legacy(),
    ),
    "S4 -32022 nothing mutual": (
        *(probe(LEGACY_REPLY), handshake(refused("2031-01-01"))),
        probe(refused("2031-01-01")),
        NO_COMMON,
    ),
    "S4 late DiscoverResult": (
        *(probe(silence), handshake(Late(has(NEW, OLD)))),
        Modern(),
    ),
    "S4 late DiscoverResult of the second probe": (
        *(probe(refused(NEW)), probe(silence), handshake(Late(has(NEW)))),
        Modern(),
    ),
    "S4 late -32022": (
        *(probe(silence), handshake(Late(refused(NEW))), probe(has(NEW))),
        Modern(),
    ),
    "S4 late -32022 once and not twice": (
        *(probe(silence), handshake(Late(refused(NEW))), probe(refused(NEW))),
        VERSION_MISMATCH,
    ),
    "S4 -32602 mutual": (
        *(probe(silence), handshake(refused("2024-11-05", code=-32602))),
        *(fresh_process, handshake(agrees("2024-11-05"), version="2024-11-05")),
        *(initialized, Legacy("2024-11-05")),
    ),
    "S4 -32602 once and not twice": (
        *(probe(silence), handshake(refused("2024-11-05", code=-32602))),
        fresh_process,
        handshake(refused("2025-03-26", code=-32602), version="2024-11-05"),
        Raises(InvalidParams),
    ),
    "S4 -32602 nothing mutual": (
        *(probe(silence), handshake(refused("2031-01-01", code=-32602))),
        Raises(InvalidParams),
    ),
    "S4 exit": (probe(LEGACY_REPLY), handshake(gone), EXITED),
    "S4 exit of the fresh process": (
        *(probe(gone), fresh_process, handshake(gone)),
        EXITED,
    ),
    "S4 unreadable answer": (
        *(probe(LEGACY_REPLY), handshake(junk())),
        Raises(InvalidMessage, "not JSON"),
    ),
}
DT1.update(
    (
        "S2 -32022 without a string list %r" % (data,),
        (probe(error(-32022, data)), *JOINS),
    )
    for data in NO_STRING_LISTS
)
DT1.update(
    ("S2 no DiscoverResult %r" % (value,), (probe(result(value)), *JOINS))
    for value in NO_DISCOVERIES
)
for code, kind in OTHER_ERRORS.items():
    DT1["S2 any other error %d" % code] = (probe(error(code)), *JOINS)
    DT1["S4 other error %d" % code] = (
        *(probe(silence), handshake(error(code))),
        Raises(kind),
    )
for version in LEGACY:
    DT1["S4 version %s" % version] = (
        *(probe(LEGACY_REPLY), handshake(agrees(version)), initialized),
        Legacy(version),
    )
odd: Any
for odd in (None, {}, [], "x", {"protocolVersion": 5}, {"protocolVersion": None}):
    DT1["S4 no InitializeResult %r" % (odd,)] = (
        *(probe(LEGACY_REPLY), handshake(result(odd))),
        NO_VERSION,
    )
for data in (None, "x", {"supported": OLD}, {"supported": [OLD, 5]}):
    DT1["S4 -32602 with data %r" % (data,)] = (
        *(probe(LEGACY_REPLY), handshake(error(-32602, data))),
        Raises(InvalidParams),
    )
for what, made in {
    "an error": LEGACY_REPLY,
    "legacy versions": has("2025-06-18"),
    "nothing mutual": has("2031-01-01"),
    "an empty result": result({}),
    "-32022 only legacy mutual": refused("2025-06-18"),
    "-32022 without a list": error(-32022),
    "-32602 naming versions": refused(NEW, code=-32602),
}.items():
    DT1["S4 late answer is %s" % what] = (
        *(probe(silence), handshake(Late(made), AGREES)),
        *(initialized, Legacy()),
    )

# --- DT-2: HTTP ------------------------------------------------------------------

#: Statuses that say nothing about the era.
OUTAGES = (302, 307, 401, 403, 408, 429, 500, 501, 502, 503, 504, 520, 599)
CLOSED = Failed(ConnectFailed("no event stream there"))
FALLS_BACK = (probe(http(404)), handshake(http(405)), event_stream())

DT2: Table = {
    "H1 DiscoverResult": (probe(has(NEW, status=200)), Modern()),
    "H1 DiscoverResult, only legacy mutual": (
        probe(has("2025-06-18", status=200)),
        *JOINS,
    ),
    "H1 DiscoverResult, nothing mutual": (probe(has("x", "2031-01-01")), NO_COMMON),
    "H1 RME -32022 once and not twice": (
        *(probe(refused(NEW, status=400)), probe(refused(NEW, status=400))),
        VERSION_MISMATCH,
    ),
    "H1 RME -32022 only legacy": (probe(refused("2025-06-18", status=400)), *JOINS),
    "H1 RME -32022 nothing mutual": (
        probe(refused("2031-01-01", status=400)),
        NO_COMMON,
    ),
    "H1 2xx error": (probe(error(-32603, status=200)), *JOINS),
    "H1 2xx -32022 without a list": (probe(error(-32022, status=200)), *JOINS),
    "H1 2xx no DiscoverResult": (probe(result({}, 200)), *JOINS),
    "H1 2xx foreign content type": (probe(http(200)), *JOINS),
    "H1 2xx accepted": (probe(http(202)), *JOINS),
    "H1 2xx no JSON": (probe(junk(200)), *JOINS),
    "H1 network": (
        probe(failed(ConnectFailed)),
        Raises(ConnectFailed, "no way there"),
    ),
    "H2 unsupported version": (
        *(probe(http(400)), handshake(agrees(NEW, 200))),
        Raises(UnsupportedProtocolVersion, "wants protocol version 2026-07-28"),
    ),
    "H2 RME, H1 once": (
        *(probe(http(404)), handshake(error(-32601, status=404)), probe(http(404))),
        Raises(HTTPStatusError, "HTTP status 404"),
    ),
    "H2 RME -32022 only legacy": (
        *(probe(http(404)), handshake(refused("2025-06-18", status=400))),
        *(handshake(AGREES, version="2025-06-18"), initialized),
        Legacy(),
    ),
    "H2 2xx error": (
        *(probe(http(400)), handshake(error(-32000, status=200))),
        Raises(ServerError),
    ),
    "H2 2xx foreign content type": (
        *(probe(http(400)), handshake(http(200))),
        Raises(HTTPStatusError, "HTTP status 200"),
    ),
    "H2 2xx no JSON": (
        *(probe(http(400)), handshake(junk(200))),
        Raises(InvalidMessage, "not JSON"),
    ),
    "H2 -32602 mutual": (
        *(probe(http(400)), handshake(refused("2025-06-18", code=-32602, status=400))),
        *(handshake(AGREES, version="2025-06-18"), initialized),
        Legacy(),
    ),
    "H2 400 with an error": (
        *(probe(http(404)), handshake(error(-32000, status=400)), event_stream()),
        *JOINS,
    ),
    "H2 405 with -32601": (
        *(probe(http(404)), handshake(error(-32601, status=405)), event_stream()),
        *JOINS,
    ),
    "H2 network": (
        *(probe(http(400)), handshake(failed(ConnectFailed))),
        Raises(ConnectFailed, "no way there"),
    ),
    "H3 endpoint": (*FALLS_BACK, *JOINS),
    "H3 endpoint, -32602 mutual": (
        *FALLS_BACK,
        handshake(refused("2024-11-05", code=-32602)),
        *(handshake(agrees("2024-11-05"), version="2024-11-05"), initialized),
        Legacy("2024-11-05"),
    ),
    "H3 endpoint, error": (
        *(*FALLS_BACK, handshake(error(-32603))),
        Raises(InternalError),
    ),
    "H3 endpoint, RME": (*FALLS_BACK, handshake(refused(NEW)), VERSION_MISMATCH),
    "H3 endpoint, POST refused": (
        *(*FALLS_BACK, handshake(http(404))),
        Raises(HTTPStatusError, "HTTP status 404"),
    ),
    "H3 anything else": (
        *(probe(http(404)), handshake(http(405)), event_stream(CLOSED)),
        Raises(HTTPStatusError, "HTTP status 405"),
    ),
    "H3 anything else, after an error": (
        *(probe(http(404)), handshake(error(-32000, status=400)), event_stream(CLOSED)),
        Raises(ServerError),
    ),
}
for status in (200, 400, 404, 409, 429, 500, 503):
    DT2["H1 RME -32022 at %d" % status] = (
        *(probe(refused(NEW, status=status)), probe(has(NEW, status=200))),
        Modern(),
    )
    DT2["H1 RME -32020 at %d" % status] = (
        probe(error(-32020, status=status)),
        Raises(HeaderMismatch),
    )
    DT2["H1 RME -32021 at %d" % status] = (
        probe(error(-32021, status=status)),
        Raises(MissingRequiredClientCapability),
    )
for status in (400, 404, 405, 406, 409, 410, 413, 415, 418, 422, 426, 431, 499):
    DT2["H1 %d" % status] = (probe(http(status)), *JOINS)
    DT2["H2 %d" % status] = (
        *(probe(http(404)), handshake(http(status)), event_stream()),
        *JOINS,
    )
for status, code in ((400, -32000), (400, -32602), (404, -32601), (405, -32601)):
    DT2["H1 %d with error %d" % (status, code)] = (
        probe(error(code, status=status)),
        *JOINS,
    )
for status in OUTAGES:
    told = Raises(HTTPStatusError, "HTTP status %d" % status)
    DT2["H1 %d is no verdict" % status] = (probe(http(status)), told)
    DT2["H1 %d with an error is no verdict" % status] = (
        probe(error(-32603, status=status)),
        Raises(InternalError),
    )
    DT2["H2 %d" % status] = (probe(http(404)), handshake(http(status)), told)
for version in LEGACY:
    DT2["H2 InitializeResult %s" % version] = (
        *(probe(http(400)), handshake(agrees(version, 200)), initialized),
        Legacy(version),
    )
for what, made in {
    "-32022": refused(NEW, status=400),
    "-32020": error(-32020, status=400),
    "-32021": error(-32021, status=400),
    "404 with -32601": error(-32601, status=404),
}.items():
    DT2["H2 RME %s" % what] = (
        *(probe(http(404)), handshake(made), probe(has(NEW, status=200))),
        Modern(),
    )

# --- DT-3: client × server -------------------------------------------------------

DT3: Table = {
    "auto, R5-only server": (probe(has(NEW)), Modern()),
    "auto, dual-era server": (probe(has(NEW, *LEGACY)), Modern()),
    "auto, R1-R4 server": (probe(LEGACY_REPLY), *JOINS),
    "pin R5, R5-only server": (probe(has(NEW)), Modern()),
    "pin R5, dual-era server": (probe(has(NEW, *LEGACY)), Modern()),
    "pin R5, R1-R4 server: error": (
        probe(LEGACY_REPLY),
        Raises(MethodNotFound, WORDS + ".*server/discover"),
    ),
    "pin R5, R1-R4 server: no DiscoverResult": (
        probe(result({})),
        Raises(UnexpectedResult, "the result of server/discover is not one: {}"),
    ),
    "pin R5, R1-R4 server: legacy versions": (
        probe(has("2025-06-18", OLD)),
        Raises(UnsupportedProtocolVersion, "the server has 2025-06-18, 2025-11-25"),
    ),
    "pin R5, R1-R4 server: -32022": (
        probe(refused("2025-06-18")),
        Raises(UnsupportedProtocolVersion, "the server has 2025-06-18"),
    ),
    "legacy, R5-only server: -32601": (
        handshake(LEGACY_REPLY),
        Raises(MethodNotFound, WORDS + ".*initialize"),
    ),
    "legacy, R5-only server: -32602": (
        handshake(error(-32602)),
        Raises(InvalidParams, WORDS + ".*initialize"),
    ),
    "legacy, R5-only server: -32022": (
        handshake(refused(NEW, status=400)),
        Raises(UnsupportedProtocolVersion, WORDS + ".*initialize"),
    ),
    "legacy, dual-era server": JOINS,
    "legacy, R1-R4 server": JOINS,
    "pin 2025-06-18, the same": (
        *(handshake(AGREES, version="2025-06-18"), initialized),
        Legacy(),
    ),
    "pin 2025-06-18, another": (
        handshake(agrees("2025-03-26"), version="2025-06-18"),
        Raises(UnsupportedProtocolVersion, "2025-03-26, this client has 2025-06-18"),
    ),
    "pin 2025-06-18, -32602": (
        handshake(refused("2025-03-26", code=-32602), version="2025-06-18"),
        Raises(InvalidParams),
    ),
}

#: The same where a transport makes a difference.
DT3_STDIO: Table = {
    "pin R5, R1-R4 server: EOF": (probe(gone), EXITED),
    "legacy, R5-only server: -32020": (
        handshake(error(-32020)),
        Raises(HeaderMismatch, WORDS + ".*initialize"),
    ),
}
DT3_HTTP: Table = {
    "auto, R1 server": (*FALLS_BACK, *JOINS),
    "pin R5, R1-R4 server: 404": (
        probe(http(404)),
        Raises(HTTPStatusError, "HTTP status 404"),
    ),
    "legacy, R5-only server: 404 with -32601": (
        handshake(error(-32601, status=404)),
        Raises(MethodNotFound, WORDS + ".*initialize"),
    ),
    "legacy, R1 server": (handshake(http(405)), event_stream(), *JOINS),
    "legacy, dual-era server that wants the version header": (
        handshake(error(-32020, status=400)),
        *(handshake(AGREES, header=True), initialized, Legacy()),
    ),
    "legacy, server that refuses the version header too": (
        handshake(error(-32020, status=400)),
        handshake(error(-32020, status=400), header=True),
        Raises(HeaderMismatch, WORDS + ".*initialize"),
    ),
}
DT3_SSE: Table = {
    "auto, R1 server": JOINS,
    "auto, modern server": (handshake(refused(NEW)), VERSION_MISMATCH),
    "pin R5, R1 server": (probe(LEGACY_REPLY), Raises(MethodNotFound)),
    "legacy, R1 server": JOINS,
}
