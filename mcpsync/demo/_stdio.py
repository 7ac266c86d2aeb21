"""The stdio transport of the demo server: one message a line."""

from __future__ import annotations

import os
import sys
import threading

from ._calls import Crash
from ._server import Demo
from ._wire import INVALID_REQUEST, JSON, RPCError, decode, encode, is_request, valid_id

MAX_LINE = 32 * 1024 * 1024


class Pipes:
    """A demo server on standard input and output."""

    def __init__(self, demo: Demo):
        self._demo = demo
        # Guards standard output: lines must not interleave, so it is held over the
        # write of one line, however long the client takes to read it.
        # Taken by every thread that sends.
        self._lock = threading.Lock()
        self._session = demo.open_session(self._send)

    def run(self) -> None:
        """Serve until standard input ends."""
        while True:
            line = sys.stdin.buffer.readline(MAX_LINE)
            if not line:
                return
            if not line.endswith(b"\n") and len(line) == MAX_LINE:
                self._skip_line()
                self._refuse(RPCError(INVALID_REQUEST, "Invalid request: too long"))
            elif line.strip():
                self._receive(line)

    def _skip_line(self) -> None:
        while True:
            part = sys.stdin.buffer.readline(MAX_LINE)
            if not part or part.endswith(b"\n"):
                return

    def _receive(self, line: bytes) -> None:
        try:
            message = decode(line)
            if isinstance(message, list):
                answers = self._demo.handle_batch(message, self._session)
                if answers:
                    self._send(answers)
                return
        except RPCError as exc:
            self._refuse(exc)
            return
        if is_request(message) and message["method"] == "tools/call":
            self._start(message)
        else:
            self._serve(message)

    def _start(self, message: JSON) -> None:
        if valid_id(message["id"]):
            # Known before the next line is read: that may be its cancellation.
            self._session.begin(message["id"])
        thread = threading.Thread(
            target=self._serve, args=(message,), name="mcpsync-demo-call", daemon=True
        )
        thread.start()

    def _serve(self, message: JSON) -> None:
        try:
            self._demo.handle(message, self._send, self._session)
        except Crash:
            print("demo server: crashing as told", file=sys.stderr, flush=True)
            os._exit(3)

    def _refuse(self, error: RPCError) -> None:
        self._send(error.answer(None))

    def _send(self, message: JSON) -> None:
        """Write one line; when nobody reads any more, do nothing."""
        data = memoryview(encode(message) + b"\n")
        descriptor = sys.stdout.fileno()
        with self._lock:
            try:
                while data:
                    data = data[os.write(descriptor, data) :]
            except OSError:
                return


def serve_stdio(demo: Demo) -> None:
    """Serve standard input until it ends; nothing else may write to the output."""
    pipes = Pipes(demo)
    print("demo server ready", file=sys.stderr, flush=True)
    pipes.run()
