"""The legacy sessions of the demo server over HTTP."""

from __future__ import annotations

import itertools
import secrets
import threading
from collections import OrderedDict
from typing import Optional, Tuple

from ._calls import Session
from ._server import Demo
from ._sse import Sink, Stream, event
from ._wire import Message

KEPT_STREAMS = 64


class HTTPSession:
    """What an ``Mcp-Session-Id`` names.

    Args:
        demo: The server it belongs to.
    """

    def __init__(self, demo: Demo):
        self.id = secrets.token_hex(16)
        self.standalone = Stream("get")
        self.session: Session = demo.open_session(self.standalone.send)
        self._streams: OrderedDict[str, Stream] = OrderedDict()
        self._numbers = itertools.count(1)
        # Guards _streams. Nothing else is done while it is held.
        # Taken by the threads of the session's connections.
        self._lock = threading.Lock()

    def established(self) -> None:
        """Take note of the version that was negotiated."""
        self.standalone.primed = self._primes()

    def new_stream(self) -> Stream:
        """Return the stream for the answer to a new call."""
        with self._lock:
            stream = Stream(f"post{next(self._numbers)}", self._primes())
            self._streams[stream.name] = stream
            if len(self._streams) > KEPT_STREAMS:
                self._streams.popitem(last=False)
        return stream

    def find(self, event_id: str) -> Optional[Tuple[Stream, int]]:
        """Return the stream and number of an event, None if it is not known."""
        name, _, number = event_id.partition(":")
        with self._lock:
            stream = self._streams.get(name)
        if name == self.standalone.name:
            stream = self.standalone
        if stream is None or not number.isdigit():
            return None
        return stream, int(number)

    def end_streams(self) -> None:
        """End all its streams."""
        with self._lock:
            streams = [self.standalone, *self._streams.values()]
        for stream in streams:
            stream.finish()

    def _primes(self) -> bool:
        return (self.session.version or "") >= "2025-11-25"


class SSESession:
    """A connection of the HTTP+SSE transport (2024-11-05, basic/transports).

    Args:
        demo: The server it belongs to.
        sink: The stream of the connection.
    """

    def __init__(self, demo: Demo, sink: Sink):
        self.id = secrets.token_hex(16)
        self.sink = sink
        self.session = demo.open_session(self.send)

    def send(self, message: Message) -> None:
        """Send one message on the stream."""
        self.sink.write(event(message, kind="message"))
