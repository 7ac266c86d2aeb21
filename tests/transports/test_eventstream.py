"""Server-sent events and bodies, from hostile bytes to records."""

from __future__ import annotations

import contextlib
import gzip
import logging
import random
import socket
import subprocess
import sys
import threading
import tracemalloc
import zlib
from typing import Any, Callable, Iterable, Iterator, List, Optional

import pytest
import urllib3
import urllib3.exceptions

from mcpsync.exceptions import ConnectionLost, InvalidMessage, MessageTooLarge
from mcpsync.transports import _eventstream
from mcpsync.transports._eventstream import Event, chunks, events, read_all

from ..fakes import bounded
from ..fakes.hostile import hostile, respond
from ..fakes.scripted_http import Recorded, Reply, ScriptedServer, event, sse_reply

MIB = 2**20


def parse(*pieces: bytes, limit: int = MIB) -> List[Event]:
    return list(events(pieces, limit))


def message(data: str) -> Event:
    return Event(data, "message", None, None)


# --- one event ----------------------------------------------------------------------

TABLE = {
    "plain": (b"data: a\n\n", [message("a")]),
    "no space after the colon": (b"data:a\n\n", [message("a")]),
    "only one space is taken": (b"data:  a\n\n", [message(" a")]),
    "several data lines": (b"data: a\ndata: b\ndata:\n\n", [message("a\nb\n")]),
    "data without a colon": (b"data\n\n", [message("")]),
    "colons in the data": (b"data: a: b\n\n", [message("a: b")]),
    "a space as data": (b"data:  \n\n", [message(" ")]),
    "event type": (b"event: x\ndata: a\n\n", [Event("a", "x", None, None)]),
    "empty event type": (b"event:\ndata: a\n\n", [message("a")]),
    "last type counts": (b"event: x\nevent: y\ndata: a\n\n", [Event("a", "y")]),
    "type without data": (b"event: x\n\ndata: a\n\n", [message("a")]),
    "unknown fields": (b"datax: 1\nfoo: 2\n: 3\ndata: a\n\n", [message("a")]),
    "field names are exact": (b" data: 1\nDATA: 2\n\ndata: a\n\n", [message("a")]),
    "blank lines": (b"\n\n\ndata: a\n\n\n\n", [message("a")]),
    "a line of one space": (b"data: a\n \ndata: b\n\n", [message("a\nb")]),
    "comments": (b": 1\n\n: 2\ndata: a\n: 3\n\n:\n\n", [message("a")]),
    "nothing": (b"", []),
    "byte order mark": (b"\xef\xbb\xbfdata: a\n\n", [message("a")]),
    "a mark before a comment": (b"\xef\xbb\xbf: c\ndata: a\n\n", [message("a")]),
    "only one mark": (
        b"\xef\xbb\xbf\xef\xbb\xbfdata: a\n\ndata: b\n\n",
        [message("b")],
    ),
    "not quite a mark": (b"\xef\xbbdata: a\n\ndata: b\n\n", [message("b")]),
    "other line ends": (
        "data: a\u2028b\u0085c\x0bd\x0ce\x1cf\n\n".encode(),
        [message("a\u2028b\u0085c\x0bd\x0ce\x1cf")],
    ),
    "NUL in the data": (b"data: a\0b\n\n", [message("a\0b")]),
    "id": (b"id: 7\ndata: a\n\n", [Event("a", "message", "7", None)]),
    "id is not carried over": (
        b"id: 7\ndata: a\n\ndata: b\n\n",
        [Event("a", "message", "7"), message("b")],
    ),
    "empty id": (b"id\ndata: a\n\n", [Event("a", "message", "", None)]),
    "NUL in the id": (b"id: 7\0\ndata: a\n\n", [message("a")]),
    "only an id": (b"id: 7\n\n", [Event("", "message", "7", None)]),
    "only a bad id": (b"id: \0\n\ndata: a\n\n", [message("a")]),
    "priming": (b"id: 7\ndata: \n\n", [Event("", "message", "7", None)]),
    "retry": (b"retry: 500\ndata: a\n\n", [Event("a", "message", None, 500)]),
    "only a retry": (b"retry: 500\n\n", [Event("", "message", None, 500)]),
    "retry 0": (b"retry: 0\n\n", [Event("", "message", None, 0)]),
    "huge retry": (b"retry: 1%s\n\n" % (b"0" * 30), [Event("", retry=10**30)]),
    "endless retry": (b"retry: %s\n\ndata: a\n\n" % (b"9" * 9999), [message("a")]),
    "mark in the data": ("data: \ufeff\n\n".encode(), [message("\ufeff")]),
}
for _odd in (b"soon", b"-1", b"1.5", b"1e3", b"+1", b"1_0", b"", b" 1", b"\xc2\xb3"):
    _case = b"retry: " + _odd + b"\ndata: a\n\n"
    TABLE["retry %r" % _odd] = (_case, [message("a")])


@pytest.mark.parametrize("name", TABLE)
@pytest.mark.parametrize("newline", [b"\n", b"\r", b"\r\n"], ids=["LF", "CR", "CRLF"])
def test_one_stream(name: str, newline: bytes) -> None:
    stream, expected = TABLE[name]
    stream = stream.replace(b"\n", newline)
    assert parse(stream) == expected
    assert parse(*(stream[i : i + 1] for i in range(len(stream)))) == expected


def test_event_defaults() -> None:
    assert Event("a") == Event("a", "message", None, None)


# --- however the bytes are cut ------------------------------------------------------

CORPUS = (
    b"\xef\xbb\xbf: hello\r\n\r\n"
    b"id: 1\r\ndata: crlf\r\n\r\n"
    b"data: lf\ndata: more\n\n"
    b"event: odd\rdata: cr\r\r"
    b"data: mixed\n\r\n"
    b"data: mixed too\r\n\n"
    b"data: mixed three\r\r\n"
    b": ping\r: ping\r\n: ping\n\n\r\r\n\r\n"
    b"retry: 10\r\n\r\n" + "data: \u00e9\u20ac\U0001f600\r\n\r\n".encode() + b"id\n\n"
    b'data: {"cut": [1,\ndata: 2]}'
)
EXPECTED = [
    Event("crlf", "message", "1"),
    message("lf\nmore"),
    Event("cr", "odd"),
    message("mixed"),
    message("mixed too"),
    message("mixed three"),
    Event("", retry=10),
    message("\u00e9\u20ac\U0001f600"),
    Event("", id=""),
    message('{"cut": [1,\n2]}'),
]


def test_every_split_gives_the_same_events() -> None:
    assert parse(CORPUS) == EXPECTED
    for at in range(len(CORPUS) + 1):
        assert parse(CORPUS[:at], CORPUS[at:]) == EXPECTED, at
        assert parse(CORPUS[:at], b"", CORPUS[at : at + 1], CORPUS[at + 1 :]) == (
            EXPECTED
        ), at


@pytest.mark.parametrize("seed", range(50))
def test_random_pieces_give_the_same_events(seed: int) -> None:
    chance = random.Random(seed)
    pieces = []
    rest = CORPUS
    while rest:
        size = chance.choice([0, 1, 1, 2, 3, 7, 40])
        pieces.append(rest[:size])
        rest = rest[size:]
    assert parse(*pieces) == EXPECTED


@pytest.mark.parametrize("end", [b"\n\n", b"\r\r", b"\r\n\r\n", b"\r\n\r"])
def test_an_event_is_not_held_back(end: bytes) -> None:
    def source() -> Iterator[bytes]:
        yield b"data: a" + end
        raise AssertionError("wanted more before it gave the event out")

    assert next(events(source(), MIB)) == message("a")


# --- the end of the stream ----------------------------------------------------------


@pytest.mark.parametrize(
    "tail",
    [
        b'data: {"a": 1}',
        b'data: {"a": 1}\n',
        b'data: {"a": 1}\r',
        b'data: {"a":\ndata: 1}',
        b": c\ndata: [1]\n: c",
    ],
    ids=["no newline", "LF", "CR", "two lines", "comments"],
)
def test_a_complete_json_tail_is_taken_after_a_clean_end(tail: bytes) -> None:
    assert [e.event for e in parse(b"data: x\n\n" + tail)] == ["message"] * 2


@pytest.mark.parametrize(
    "tail",
    [
        b'data: {"a": 1',
        b'data: {"a": 1}\nda',
        b"data: 12",
        b"data: true",
        b"data",
        b"id: 7",
        b"retry: 5\n",
        b"event: x\n",
        b'data: "\xe2\x82',
        b"data: " + b"[" * 100_000,
        b"data: [" + b"9" * 5000 + b"]",
        b": comment",
    ],
    ids=range(12),
)
def test_a_torn_tail_is_dropped(tail: bytes, caplog: pytest.LogCaptureFixture) -> None:
    # "da" is no field, so that tail is complete: it is told from the torn ones.
    expected = ["x"] if not tail.endswith(b"da") else ["x", '{"a": 1}']
    assert [e.data for e in parse(b"data: x\n\n" + tail)] == expected
    assert caplog.records == []


def test_no_tail_is_taken_from_a_broken_stream() -> None:
    def source() -> Iterator[bytes]:
        yield b'data: x\n\ndata: {"a": 1}'
        raise ConnectionResetError

    stream = events(source(), MIB)
    assert next(stream) == message("x")
    with pytest.raises(ConnectionResetError):
        next(stream)


# --- what is not UTF-8 --------------------------------------------------------------


def test_an_event_that_is_not_utf8_is_skipped_and_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = b"event: x\ndata: \x1b[31m\xff\n\n"
    found = parse(b"data: a\n\n" + bad + b"data: b\n\n" + bad + b"data: c\n\n")
    assert [e.data for e in found] == ["a", "b", "c"]
    (record,) = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert record.name == "mcpsync.http"
    assert record.levelno == logging.WARNING
    text = record.getMessage()
    assert "not UTF-8" in text and "\\ufffd" in text
    assert "\x1b" not in text and "\n" not in text


def test_the_excerpt_is_clipped(caplog: pytest.LogCaptureFixture) -> None:
    assert parse(b"data: \xff" + b"x" * 100_000 + b"\n\n") == []
    assert len(caplog.records[-1].getMessage()) < 400


@pytest.mark.parametrize("field", [b": \xff", b"unknown: a"])
def test_bytes_that_nobody_reads_may_be_anything(field: bytes) -> None:
    assert parse(field + b"\ndata: a\n\n") == [message("a")]


# --- bounds -------------------------------------------------------------------------


def cut(stream: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(stream), size):
        yield stream[at : at + size]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_limit_is_exact(size: int) -> None:
    stream = b"id: 1\n: comment\ndata: aaaaaaaaaaa\n\n"
    length = len(b"id: 1\ndata: aaaaaaaaaaa\n")
    assert len(list(events(cut(stream, size), length))) == 1
    with pytest.raises(MessageTooLarge) as caught:
        list(events(cut(stream, size), length - 1))
    assert caught.value.limit == length - 1


def test_the_events_before_a_large_one_are_not_lost() -> None:
    stream = events([b"data: a\n\ndata: b\n\ndata: " + b"x" * 100], 50)
    assert [next(stream).data, next(stream).data] == ["a", "b"]
    with pytest.raises(MessageTooLarge):
        next(stream)


ENDLESS = {
    "a line": b"x" * 8192,
    "a data line": b"data: " + b"x" * 8186,
    "short data lines": b"data\n" * 1600,
    "short unknown lines": b"x\n" * 4000,
    "ids": b"id: 1\n" * 1300,
}


@pytest.mark.parametrize("kind", ENDLESS)
def test_an_endless_event_is_refused_in_little_memory(kind: str) -> None:
    piece = ENDLESS[kind]
    taken = 0

    def source() -> Iterator[bytes]:
        nonlocal taken
        while True:
            taken += len(piece)
            yield piece

    tracemalloc.start()
    try:
        with pytest.raises(MessageTooLarge):
            bounded(lambda: list(events(source(), MIB)))
        assert tracemalloc.get_traced_memory()[1] < 4 * MIB
    finally:
        tracemalloc.stop()
    assert taken < 2 * MIB


@pytest.mark.parametrize(
    "piece",
    [b": ping\n" * 1000, b":" + b"x" * 8191, b": ping\n\n" * 1000, b"\n" * 999],
    ids=["lines", "one line", "with blank lines", "blank lines"],
)
def test_comments_do_not_count_and_take_no_memory(piece: bytes) -> None:
    def source() -> Iterator[bytes]:
        yield b"data: a\n"
        for _ in range(1000):
            yield piece
        yield b"\n\ndata: b\n\n"

    tracemalloc.start()
    try:
        found = list(events(source(), 100))
        assert tracemalloc.get_traced_memory()[1] < MIB
    finally:
        tracemalloc.stop()
    assert [e.data for e in found] == ["a", "b"]


@pytest.mark.parametrize("size", [128, 1024, 65536])
def test_a_large_event_in_small_pieces_takes_linear_time(size: int) -> None:
    # What is quadratic in the number of pieces takes minutes here.
    stream = b"data: " + b"x" * (16 * MIB) + b"\n\n"
    (found,) = bounded(lambda: list(events(cut(stream, size), 17 * MIB)), 20)
    assert len(found.data) == 16 * MIB


@pytest.mark.parametrize("line", [b"", b"y" * 60, b"y" * 3000], ids=len)
def test_an_event_of_many_lines_takes_linear_time(line: bytes) -> None:
    count = 4 * MIB // (len(line) + 7)
    stream = b"event: e\nid: 1\n" + (b"data: " + line + b"\n") * count + b"retry: 3\n\n"
    (found,) = bounded(lambda: list(events(cut(stream, 65536), 17 * MIB)), 20)
    expected = "\n".join([line.decode()] * count)
    assert found == Event(expected, "e", "1", 3)


def test_the_last_field_counts_also_in_an_event_of_many_lines() -> None:
    lines = [b"data: %d" % n for n in range(1000)]
    lines[10:10] = [b"event:  a", b"id: 1", b"retry: 1"]
    lines[500:500] = [b"id: 2", b"retry: none"]
    lines[800:800] = [b"id: \0"]
    data = "\n".join(map(str, range(1000)))
    assert parse(b"\n".join(lines) + b"\n\n") == [Event(data, " a", "2", 1)]
    lines[900:900] = [b"event: message"]
    assert parse(b"\n".join(lines) + b"\n\n")[0].event == "message"


def test_the_answer_behind_a_flood_arrives() -> None:
    flood = b'data: {"jsonrpc":"2.0","method":"notifications/progress"}\n\n' * 100_000
    pieces = cut(flood + b"data: answer\n\n", 8192)

    def last() -> Event:
        found: Optional[Event] = None
        for found in events(pieces, MIB):
            pass
        assert found is not None
        return found

    assert bounded(last, 20) == message("answer")


# --- the library --------------------------------------------------------------------


def test_the_library_gets_one_complete_event_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    import sseclient

    given: List[List[bytes]] = []
    real = sseclient.SSEClient

    def spy(source: Iterable[bytes]) -> Any:
        given.append(list(source))
        return real(iter(given[-1]))

    monkeypatch.setattr(sseclient, "SSEClient", spy)
    _eventstream._library.cache_clear()
    try:
        parse(*cut(CORPUS, 5))
    finally:
        monkeypatch.undo()
        _eventstream._library.cache_clear()
    assert len(given) == len(EXPECTED)
    for pieces in given:
        (piece,) = pieces
        assert piece.endswith(b"\n\n") and piece.count(b"\n\n") == 1
        assert b"\r" not in piece


def test_the_library_logs_nothing_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG, logger="sseclient"):
        assert len(parse(b"odd: field\ndata: secret\n\n")) == 1
    assert [r for r in caplog.records if r.name == "sseclient"] == []


def test_the_library_is_loaded_by_the_first_event_alone() -> None:
    script = (
        "import sys\n"
        "from mcpsync.transports import _eventstream\n"
        "loaded = {'sseclient', 'urllib3', 'http.client'} & set(sys.modules)\n"
        "assert not loaded, loaded\n"
        "list(_eventstream.events([b'data: a\\n\\n'], 99))\n"
        "assert 'sseclient' in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


# --- responses ----------------------------------------------------------------------


class _WithoutRead1:
    """A response as urllib3 made them before 2.2."""

    def __init__(self, raw: Any) -> None:
        self._raw = raw

    def __getattr__(self, name: str) -> Any:
        if name == "read1":
            raise AttributeError(name)
        return getattr(self._raw, name)


@pytest.fixture(params=["read1", "before 2.2"])
def get(request: pytest.FixtureRequest) -> Iterator[Callable[..., Any]]:
    """Return a function that makes a request and returns the open response."""
    opened: List[Any] = []
    with urllib3.PoolManager(retries=False) as pool:

        def open_url(url: str, timeout: float = 10.0) -> Any:
            raw = pool.urlopen("GET", url, preload_content=False, timeout=timeout)
            opened.append(raw)
            return raw if request.param == "read1" else _WithoutRead1(raw)

        yield open_url
        for raw in opened:
            raw.close()
        # Pools close with the last response that refers to them.
        opened.clear()


@contextlib.contextmanager
def serving(response: bytes) -> Iterator[str]:
    """Answer each request with these bytes, then close the connection."""

    def answer(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(response)

    with hostile(answer) as server:
        yield server.url


def chunked(*pieces: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(p), p) for p in pieces) + end


CHUNKED = "Transfer-Encoding: chunked"
BODY = b'{"jsonrpc": "2.0", "id": 1, "result": {"x": "%s"}}' % (b"abc" * 1000)


def compressed(body: bytes, encoding: str) -> bytes:
    if "gzip" in encoding:
        return gzip.compress(body)
    if encoding == "deflate":
        return zlib.compress(body)
    machine = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    return machine.compress(body) + machine.flush()


WHOLE = {
    "length": respond(BODY),
    "close": respond(BODY, length=False),
    "chunked": respond(
        chunked(BODY[:1], BODY[1:100], BODY[100:]), CHUNKED, length=False
    ),
    "chunk extensions": respond(
        b"%x;a=b\r\n%s\r\n0\r\nTrailer: x\r\n\r\n" % (len(BODY), BODY),
        CHUNKED,
        length=False,
    ),
    "same length twice": respond(BODY, "Content-Length: %d" % len(BODY)),
    "identity": respond(BODY, "Content-Encoding: identity"),
    "empty encoding": respond(BODY, "Content-Encoding: "),
    "gzip": respond(gzip.compress(BODY), "Content-Encoding: gzip"),
    "x-gzip": respond(gzip.compress(BODY), "Content-Encoding: X-GZIP"),
    "gzip, identity": respond(gzip.compress(BODY), "Content-Encoding: gzip, identity"),
    "two gzip members": respond(
        gzip.compress(BODY[:9]) + gzip.compress(BODY[9:]), "Content-Encoding: gzip"
    ),
    "gzip and padding": respond(
        gzip.compress(BODY) + b"\0" * 512, "Content-Encoding: gzip"
    ),
    "deflate": respond(compressed(BODY, "deflate"), "Content-Encoding: deflate"),
    "raw deflate": respond(compressed(BODY, "raw"), "Content-Encoding: deflate"),
    "deflate and padding": respond(
        compressed(BODY, "deflate") + b"\x78\x9c", "Content-Encoding: deflate"
    ),
    "gzip, byte by byte": respond(
        chunked(*(bytes([b]) for b in gzip.compress(BODY))),
        CHUNKED,
        "Content-Encoding: gzip",
        length=False,
    ),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_read_all_returns_the_decoded_body(kind: str, get: Callable[..., Any]) -> None:
    with serving(WHOLE[kind]) as url:
        assert bounded(lambda: read_all(get(url), len(BODY))) == BODY


@pytest.mark.parametrize("kind", WHOLE)
def test_read_all_stops_at_the_limit(kind: str, get: Callable[..., Any]) -> None:
    with serving(WHOLE[kind]) as url:
        with pytest.raises(MessageTooLarge) as caught:
            bounded(lambda: read_all(get(url), len(BODY) - 1))
    assert caught.value.limit == len(BODY) - 1


@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate"])
def test_an_empty_body_is_empty(encoding: str, get: Callable[..., Any]) -> None:
    with serving(respond(b"", "Content-Encoding: " + encoding)) as url:
        assert read_all(get(url), MIB) == b""


def test_an_announced_size_beyond_the_limit_is_refused_at_once(
    get: Callable[..., Any],
) -> None:
    def answer(connection: socket.socket, head: bytes, body: bytes) -> None:
        connection.sendall(respond(b"", "Content-Length: 5000", length=False))
        server.stopped.wait(30)

    with hostile(answer) as server:
        with pytest.raises(MessageTooLarge, match="5000 bytes"):
            bounded(lambda: read_all(get(server.url), 4999))


@pytest.mark.parametrize("length", ["-1", "-0", "+5", "five", "1.5", "0x10", "5;6"])
def test_an_odd_content_length_is_refused(length: str, get: Callable[..., Any]) -> None:
    with serving(respond(b"{}", "Content-Length: " + length, length=False)) as url:
        with pytest.raises(InvalidMessage, match="Content-Length"):
            bounded(lambda: read_all(get(url), MIB))


CUT = {
    "length": respond(BODY, "Content-Length: %d" % (len(BODY) + 1), length=False),
    "nothing of it": respond(b"", "Content-Length: 5", length=False),
    "in a chunk": respond(b"fff\r\n" + BODY[:99], CHUNKED, length=False),
    "between chunks": respond(chunked(BODY, end=b""), CHUNKED, length=False),
    "in a chunk's size": respond(chunked(BODY, end=b"ff"), CHUNKED, length=False),
    "bad chunk size": respond(chunked(BODY, end=b"zz\r\n\r\n"), CHUNKED, length=False),
    "endless chunk size": respond(b"0" * 200_000, CHUNKED, length=False),
}


@pytest.mark.parametrize("kind", CUT)
def test_a_cut_body_is_an_error_and_never_a_prefix(
    kind: str, get: Callable[..., Any]
) -> None:
    with serving(CUT[kind]) as url:
        with pytest.raises(urllib3.exceptions.HTTPError):
            bounded(lambda: read_all(get(url), MIB))


@pytest.mark.parametrize("kind", ["in a chunk", "between chunks"])
def test_a_cut_stream_is_an_error_after_its_events(
    kind: str, get: Callable[..., Any]
) -> None:
    whole = b"data: 1\n\n"
    sent = {
        "in a chunk": chunked(whole, end=b"fff\r\ndata: [2]"),
        "between chunks": chunked(whole + b"data: [2]", end=b""),
    }
    with serving(respond(sent[kind], CHUNKED, length=False)) as url:
        stream = events(chunks(get(url), MIB), MIB)
        assert bounded(lambda: next(stream)) == message("1")
        with pytest.raises(urllib3.exceptions.HTTPError):
            bounded(lambda: next(stream))


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "raw"])
@pytest.mark.parametrize("keep", [1, 2, 5, -1])
def test_a_cut_compressed_body_is_an_error(
    encoding: str, keep: int, get: Callable[..., Any]
) -> None:
    header = "Content-Encoding: " + encoding.replace("raw", "deflate")
    body = compressed(b"[1, 2]", encoding)[:keep]
    with serving(respond(body, header)) as url:
        with pytest.raises(ConnectionLost):
            bounded(lambda: read_all(get(url), MIB))


@pytest.mark.parametrize(
    "header, body",
    [
        ("gzip", b"no gzip at all"),
        ("gzip", gzip.compress(BODY)[:-8] + b"12345678"),
        ("gzip", gzip.compress(BODY)[:10] + b"\x07\xff"),
        ("deflate", zlib.compress(BODY)[:-4] + b"1234"),
        ("deflate", b"\xff\xff\xff\xff"),
    ],
    ids=["text", "checksum", "block type", "deflate checksum", "deflate block type"],
)
def test_a_corrupt_compressed_body_is_an_error(
    header: str, body: bytes, get: Callable[..., Any]
) -> None:
    with serving(respond(body, "Content-Encoding: " + header)) as url:
        with pytest.raises(InvalidMessage, match="the body is not " + header):
            bounded(lambda: read_all(get(url), MIB))


@pytest.mark.parametrize(
    "encoding", ["br", "zstd", "compress", "gzip, gzip", "gzip,deflate", "x\x1b[0m"]
)
def test_other_encodings_are_refused(encoding: str, get: Callable[..., Any]) -> None:
    with serving(respond(BODY, "Content-Encoding: " + encoding)) as url:
        raw = get(url)
        for read in (read_all, chunks):
            with pytest.raises(InvalidMessage, match="content encoding") as caught:
                read(raw, MIB)
            assert "\x1b" not in str(caught.value)


# --- bombs --------------------------------------------------------------------------


def bomb(size: int, encoding: str) -> bytes:
    """Return zeros, compressed; each block stands alone, so that one does for all."""
    bits = 16 + zlib.MAX_WBITS if encoding == "gzip" else -zlib.MAX_WBITS
    machine = zlib.compressobj(9, zlib.DEFLATED, bits)
    start = machine.flush(zlib.Z_FULL_FLUSH)
    start += machine.compress(b"") + machine.flush(zlib.Z_FULL_FLUSH)
    block = machine.compress(bytes(MIB)) + machine.flush(zlib.Z_FULL_FLUSH)
    return start + block * (size // MIB) + machine.flush()


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@pytest.mark.parametrize("reader", ["body", "stream"])
def test_a_compression_bomb_stops_at_the_limit(
    encoding: str, reader: str, get: Callable[..., Any]
) -> None:
    body = bomb(1024 * MIB, encoding)
    assert len(body) < 4 * MIB

    def read(raw: Any) -> None:
        if reader == "body":
            read_all(raw, MIB)
        else:
            list(events(chunks(raw, MIB), MIB))

    with serving(respond(body, "Content-Encoding: " + encoding)) as url:
        raw = get(url)
        tracemalloc.start()
        try:
            with pytest.raises(MessageTooLarge):
                bounded(lambda: read(raw))
            assert tracemalloc.get_traced_memory()[1] < 8 * MIB
        finally:
            tracemalloc.stop()


@pytest.mark.parametrize("limit, most", [(1000, 1000), (16 * MIB, 65536)])
def test_pieces_are_small_whatever_they_expand_to(
    limit: int, most: int, get: Callable[..., Any]
) -> None:
    body = gzip.compress(bytes(MIB))
    with serving(respond(body, "Content-Encoding: gzip")) as url:
        sizes = [len(piece) for piece in chunks(get(url), limit)]
    assert sum(sizes) == MIB
    assert max(sizes) <= most


@pytest.mark.parametrize("limit", [1, 2, 99, 100, 257, 258, 259, 1000])
def test_all_that_can_be_decoded_is_handed_out(
    limit: int, get: Callable[..., Any]
) -> None:
    # One code of a few bits may stand for 258 bytes: input that has been taken in
    # entirely can still have output to give.
    whole = gzip.compress(b"ab" + b"x" * 2000)
    for cut_off in range(9, 14):
        body = whole[:-cut_off]
        expected = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(body)
        got = b""
        with serving(respond(body, "Content-Encoding: gzip")) as url:
            with pytest.raises(ConnectionLost):
                for piece in chunks(get(url), limit):
                    got += piece
        assert got == expected


# --- streams ------------------------------------------------------------------------


def test_events_of_a_chunked_stream(get: Callable[..., Any]) -> None:
    def script(request: Recorded) -> Reply:
        return sse_reply(event({"n": 1}, id="a")[:9], event({"n": 1}, id="a")[9:], {})

    with ScriptedServer(script) as server:
        found = bounded(lambda: list(events(chunks(get(server.url), MIB), MIB)))
    assert found == [Event('{"n": 1}', "message", "a"), message("{}")]


def _stream_heads(encoding: str) -> List[bytes]:
    """Return the heads of a chunked and of a close-delimited event stream."""
    extra = [] if encoding == "identity" else ["Content-Encoding: " + encoding]
    return [
        respond(b"", *extra, *more, content_type="text/event-stream", length=False)
        for more in ([CHUNKED], [])
    ]


@pytest.mark.parametrize("encoding", ["identity", "gzip", "deflate"])
@pytest.mark.parametrize("framing", ["chunked", "close"])
def test_an_event_arrives_while_the_response_stays_open(
    encoding: str, framing: str, get: Callable[..., Any]
) -> None:
    gate = threading.Event()
    head = _stream_heads(encoding)[framing == "close"]
    bits = 16 + zlib.MAX_WBITS if encoding == "gzip" else zlib.MAX_WBITS
    machine = zlib.compressobj(9, zlib.DEFLATED, bits)

    def encoded(data: bytes, last: bool = False) -> bytes:
        if encoding != "identity":
            end = zlib.Z_FINISH if last else zlib.Z_SYNC_FLUSH
            data = machine.compress(data) + machine.flush(end)
        if framing == "chunked":
            data = chunked(data, end=b"0\r\n\r\n" if last else b"")
        return data

    def answer(connection: socket.socket, request: bytes, body: bytes) -> None:
        connection.sendall(head + encoded(b"data: first\n\n"))
        gate.wait(30)
        connection.sendall(encoded(b"data: second\n\n", last=True))

    with hostile(answer) as server:
        stream = events(chunks(get(server.url), MIB), MIB)
        assert bounded(lambda: next(stream)) == message("first")
        gate.set()
        assert bounded(lambda: list(stream)) == [message("second")]


@pytest.mark.parametrize("size", [2, 65535, 65536, 65537, 300_000])
def test_no_part_of_a_flushed_event_stays_in_the_decompressor(
    size: int, get: Callable[..., Any]
) -> None:
    machine = zlib.compressobj(9, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    stream = b"data: " + b"x" * size + b"\n\n"
    flushed = machine.compress(stream) + machine.flush(zlib.Z_SYNC_FLUSH)
    head = _stream_heads("gzip")[1]

    def answer(connection: socket.socket, request: bytes, body: bytes) -> None:
        connection.sendall(head + flushed)
        server.stopped.wait(30)

    with hostile(answer) as server:
        found = bounded(lambda: next(events(chunks(get(server.url), MIB), MIB)))
        assert len(found.data) == size


def test_a_silent_stream_times_out(get: Callable[..., Any]) -> None:
    def answer(connection: socket.socket, request: bytes, body: bytes) -> None:
        connection.sendall(_stream_heads("identity")[0] + chunked(b"data: ", end=b""))
        server.stopped.wait(30)

    with hostile(answer) as server:
        stream = events(chunks(get(server.url, timeout=0.2), MIB), MIB)
        with pytest.raises(urllib3.exceptions.ReadTimeoutError):
            bounded(lambda: next(stream))


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_body_that_was_read_gives_its_connection_back(
    framing: str, get: Callable[..., Any]
) -> None:
    def script(request: Recorded) -> Reply:
        return Reply(200, {}, BODY if framing == "length" else [BODY[:9], BODY[9:]])

    with ScriptedServer(script) as server:
        for _ in range(3):
            assert read_all(get(server.url), MIB) == BODY
        assert server.connections == 1


def test_a_response_that_is_closed_has_no_more_pieces(get: Callable[..., Any]) -> None:
    def script(request: Recorded) -> Reply:
        return Reply(200, {}, BODY)

    with ScriptedServer(script) as server:
        raw = get(server.url)
        assert b"".join(chunks(raw, MIB)) == BODY
        assert list(chunks(raw, MIB)) == []
