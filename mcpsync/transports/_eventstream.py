"""From the bytes of an HTTP response to server-sent events, or to one whole body.

Where an event begins and ends is decided here, in linear time and bounded memory;
the inside of an event is read by the ``sseclient`` library, which gets exactly one
complete event at a time. Neither the library's unbounded buffering nor what it makes
of a torn stream can then be reached from outside.

Specification: 2025-11-25, basic/transports; WHATWG HTML, server-sent events.
"""

from __future__ import annotations

import functools
import io
import logging
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, Iterable, Iterator, List, Optional

from .._text import clean
from ..exceptions import ConnectionLost, InvalidMessage, MessageTooLarge
from ..protocol.jsonrpc import decode

if TYPE_CHECKING:
    import sseclient
    import urllib3

__all__ = ["Event", "chunks", "events", "read_all"]

_log = logging.getLogger("mcpsync.http")

#: Bytes asked of the socket, and of a decompressor, in one step.
_STEP = 65536

#: The library concatenates the lines of an event one by one. What it is given at a
#: time stays so small that this does not become quadratic.
_RUN_LINES = 32
_RUN_BYTES = 65536

#: Digits of the longest `retry` that is still read as a number.
_RETRY_DIGITS = 40

_GZIP = b"\x1f\x8b"
_BOM = b"\xef\xbb\xbf"
_COLON = ord(":")


@dataclass(frozen=True)
class Event:
    """One server-sent event.

    Attributes:
        data: the data lines joined by newlines; ``""`` when there are none.
        event: the event's type.
        id: the id that this event carries, ``""`` to forget earlier ones, ``None``
            when it carries none.
        retry: the reconnection time in milliseconds, as sent, or ``None``.
    """

    data: str
    event: str = "message"
    id: Optional[str] = None
    retry: Optional[int] = None


# --- reading the response -----------------------------------------------------------


def chunks(raw: "urllib3.HTTPResponse", limit: int) -> Iterator[bytes]:
    """Yield what the response brings, decoded, as soon as it is there.

    Never waits for a buffer to fill. A piece has at most `limit` bytes, whatever a
    compressed body expands to; their sum is not limited.

    Raises:
        InvalidMessage: the content encoding is unknown, or the body does not fit it.
        ConnectionLost: a compressed body ended in the middle.
        urllib3.exceptions.HTTPError: the connection broke, or was silent too long.
    """
    encoding = _content_encoding(raw)
    step = max(1, min(limit, _STEP))
    received = _received(raw, step)
    return received if encoding == "identity" else _inflated(received, encoding, step)


def read_all(raw: "urllib3.HTTPResponse", limit: int) -> bytes:
    """Return the whole body of the response, decoded.

    Raises:
        MessageTooLarge: it has more than `limit` bytes.
        InvalidMessage, ConnectionLost, urllib3.exceptions.HTTPError: as for chunks().
            A body that is shorter than announced is an error, never a result.
    """
    announced = _content_length(raw)
    if announced is not None and announced > limit:
        if _content_encoding(raw) == "identity":
            raise _too_large("the body has %d bytes" % announced, limit)
    body = bytearray()
    for piece in chunks(raw, limit):
        body += piece
        if len(body) > limit:
            raise _too_large("the body is larger", limit)
    return bytes(body)


def _too_large(what: str, limit: int) -> MessageTooLarge:
    return MessageTooLarge("%s, the limit is %d bytes" % (what, limit), limit=limit)


def _content_encoding(raw: "urllib3.HTTPResponse") -> str:
    header = raw.headers.get("content-encoding") or ""
    names = [name.strip().lower() for name in header.split(",")]
    names = [name for name in names if name not in ("", "identity")]
    if not names:
        return "identity"
    if len(names) > 1 or names[0] not in ("gzip", "x-gzip", "deflate"):
        raise InvalidMessage("unexpected content encoding %s" % clean(header, 100))
    return names[0]


def _content_length(raw: "urllib3.HTTPResponse") -> Optional[int]:
    """Return the announced length; http.client reads on to the end where it is odd."""
    header = raw.headers.get("content-length")
    if header is None:
        return None
    lengths = {part.strip() for part in header.split(",")}
    length = lengths.pop()
    if lengths or not _is_number(length):
        raise InvalidMessage("the Content-Length is %s" % clean(header, 100))
    return int(length)


def _is_number(text: str) -> bool:
    # isdigit() alone is also true of ³ and of other alphabets' digits.
    return text.isascii() and text.isdigit() and len(text) <= _RETRY_DIGITS


def _received(raw: "urllib3.HTTPResponse", step: int) -> Iterator[bytes]:
    """Yield the body as it comes from the socket, without transfer encoding."""
    if hasattr(raw, "read1"):
        read: Callable[[], bytes] = functools.partial(
            raw.read1, step, decode_content=False
        )
    else:
        read = functools.partial(_read1, raw, step)
    while True:
        piece = read()
        if not piece:
            return
        yield piece


def _read1(raw: "urllib3.HTTPResponse", step: int) -> bytes:
    """Do for urllib3 before 2.2 what its read1() does since then."""
    source = raw._fp
    # Translates what http.client and the socket raise, and gives the connection back
    # to the pool once the body has been read.
    with raw._error_catcher():
        if source is None or source.closed:
            return b""
        piece = source.read1(step)
        if piece:
            return piece
        missing = getattr(source, "length", None)
        source.close()
        if missing:
            from http.client import IncompleteRead

            raise IncompleteRead(b"", missing)
        return b""


# --- content encodings --------------------------------------------------------------


def _inflated(source: Iterable[bytes], encoding: str, step: int) -> Iterator[bytes]:
    """Undo gzip or deflate, handing out at most `step` bytes at a time."""
    inflater = _Inflater(encoding, step)
    for piece in source:
        try:
            yield from inflater.feed(piece)
        except zlib.error as error:
            what = "the body is not %s: %s" % (encoding, clean(error, 100))
            raise InvalidMessage(what) from error
    if not inflater.complete:
        raise ConnectionLost("the compressed body ended in the middle", sent=True)


class _Inflater:
    """An incremental decompressor whose every step is bounded."""

    def __init__(self, encoding: str, step: int) -> None:
        self._gzip = encoding != "deflate"
        self._step = step
        self._head = b""
        self._machine: Optional["zlib._Decompress"] = None
        self._members = 0
        self._over = False

    @property
    def complete(self) -> bool:
        """Whether the body may end here."""
        return self._machine is None and not self._head

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Take more of the body; yield what it expands to, step by step."""
        while piece and not self._over:
            if self._machine is None:
                self._head += piece
                self._machine = self._begin(self._head)
                if self._machine is None:
                    return
                piece, self._head = self._head, b""
            machine = self._machine
            yield from self._steps(machine, piece)
            if not machine.eof:
                return
            piece = machine.unused_data
            self._machine = None
            self._members += 1

    def _begin(self, head: bytes) -> Optional["zlib._Decompress"]:
        """Choose the decompressor by the first two bytes, once they are there."""
        if self._members and not (self._gzip and _GZIP.startswith(head[:2])):
            # Padding. Only gzip members may follow one another.
            self._over, self._head = True, b""
            return None
        if len(head) < 2:
            return None
        if self._gzip:
            return zlib.decompressobj(16 + zlib.MAX_WBITS)
        if head[0] & 0x0F == 8 and int.from_bytes(head[:2], "big") % 31 == 0:
            return zlib.decompressobj()
        # RFC 9110, 8.4.1.2: some servers send deflate data without its wrapper.
        return zlib.decompressobj(-zlib.MAX_WBITS)

    def _steps(self, machine: "zlib._Decompress", piece: bytes) -> Iterator[bytes]:
        while True:
            output = machine.decompress(piece, self._step)
            if output:
                yield output
            piece = machine.unconsumed_tail
            # A full output may leave some more inside, with no input to go with it.
            if machine.eof or (not piece and len(output) < self._step):
                return


# --- events -------------------------------------------------------------------------


def events(source: Iterable[bytes], limit: int) -> Iterator[Event]:
    """Yield the events of a stream, however its bytes are cut into pieces.

    An event that carries only an id or only a reconnection time is yielded too, with
    empty data. One that is not UTF-8 is skipped. One that the end of the stream cut
    off is dropped, unless the end was clean and the data is complete JSON: some
    servers forget the last blank line.

    Raises:
        MessageTooLarge: one event has more than `limit` bytes, comments not counted.
    """
    blocks = _Blocks(limit)
    reader = _Reader()
    for text in _with_newlines(_without_bom(source)):
        for block in blocks.feed(text):
            event = reader.read(block)
            if event is not None:
                yield event
    tail = _complete(blocks.rest())
    if tail is not None:
        yield tail


def _without_bom(source: Iterable[bytes]) -> Iterator[bytes]:
    pieces = iter(source)
    head = b""
    for piece in pieces:
        head += piece
        if len(head) >= len(_BOM) or not _BOM.startswith(head):
            break
    yield head[len(_BOM) :] if head.startswith(_BOM) else head
    yield from pieces


def _with_newlines(source: Iterable[bytes]) -> Iterator[bytes]:
    r"""Turn ``\r\n`` and ``\r`` into ``\n`` without waiting for what follows ``\r``."""
    after_cr = False
    for piece in source:
        if not piece:
            continue
        if after_cr and piece.startswith(b"\n"):
            piece = piece[1:]
        after_cr = piece.endswith(b"\r")
        if b"\r" in piece:
            piece = piece.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        yield piece


class _Blocks:
    """Gathers the lines of one event, without comments, until a blank line ends it."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._block = bytearray()
        self._line_at = 0
        self._in_comment = False

    def feed(self, text: bytes) -> Iterator[bytes]:
        """Take more of the stream; yield the lines of each event that it completes."""
        *ends, beginning = text.split(b"\n")
        for end in ends:
            self._extend(end)
            if self._in_comment:
                self._in_comment = False
            elif len(self._block) > self._line_at:
                self._extend(b"\n")
                self._line_at = len(self._block)
            elif self._block:
                yield self._take()
        self._extend(beginning)

    def rest(self) -> bytes:
        """Return the lines of an event that no blank line has ended."""
        return self._take()

    def _extend(self, part: bytes) -> None:
        """Add to the current line."""
        if self._in_comment:
            return
        block = self._block
        block += part
        if len(block) > self._line_at and block[self._line_at] == _COLON:
            del block[self._line_at :]
            self._in_comment = True
        elif len(block) > self._limit:
            raise _too_large("an event is larger", self._limit)

    def _take(self) -> bytes:
        block = bytes(self._block)
        self._block.clear()
        self._line_at = 0
        return block


class _Reader:
    """Reads one complete event at a time with the sseclient library."""

    def __init__(self) -> None:
        self._unreadable = 0

    def read(self, block: bytes) -> Optional[Event]:
        """Return the event that the lines are, ``None`` when they say nothing."""
        try:
            return _parse(block)
        except UnicodeDecodeError:
            self._unreadable += 1
            # Once for each stream: a hostile server must not fill the log.
            if self._unreadable == 1:
                excerpt = clean(block[:1024].decode("utf-8", "replace"), 200)
                _log.warning("skipped an event that is not UTF-8: %s", excerpt)
            return None


def _complete(rest: bytes) -> Optional[Event]:
    """Return the event that only lacks its blank line, ``None`` for a torn one."""
    try:
        event = _parse(rest) if rest else None
    except UnicodeDecodeError:
        return None
    # Only of an array or object can one tell: the number 12 may be half of 1234.
    if event is None or not event.data.lstrip().startswith(("{", "[")):
        return None
    try:
        decode(event.data)
    except InvalidMessage:
        return None
    return event


def _parse(block: bytes) -> Optional[Event]:
    parse = _library()
    data: List[str] = []
    name, identifier, retry = "message", None, None
    for run in _runs(block):
        if name != "message":
            run = b"event: " + name.encode("utf-8") + b"\n" + run
        # The library drops what has no data, but ids and retry times are wanted: it
        # gets one more, empty line of data, which leaves its newline behind.
        told = parse(run + b"data\n\n")
        data.append(told.data)
        name = told.event
        if told.id is not None and "\0" not in told.id:
            identifier = told.id
        if told.retry is not None and _is_number(told.retry):
            retry = int(told.retry)
    text = "".join(data)
    if not text and identifier is None and retry is None:
        return None
    return Event(text[:-1], name, identifier, retry)


def _runs(block: bytes) -> Iterator[bytes]:
    """Cut the lines of an event into as few portions as the library can bear."""
    if not block.endswith(b"\n"):
        block += b"\n"
    if block.count(b"\n") <= _RUN_LINES and len(block) <= _RUN_BYTES:
        yield block
        return
    run: List[bytes] = []
    size = 0
    for line in io.BytesIO(block):
        run.append(line)
        size += len(line)
        if size >= _RUN_BYTES or len(run) >= _RUN_LINES:
            yield b"".join(run)
            run, size = [], 0
    if run:
        yield b"".join(run)


@functools.lru_cache(maxsize=None)
def _library() -> Callable[[bytes], "sseclient.Event"]:
    from sseclient import SSEClient

    # It logs at DEBUG what it is given, contents included.
    logging.getLogger("sseclient").addFilter(_is_worth_logging)
    return lambda event: next(SSEClient(iter((event,))).events())


def _is_worth_logging(record: logging.LogRecord) -> bool:
    return record.levelno > logging.DEBUG
