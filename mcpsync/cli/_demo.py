"""``mcpsync demo``: the client at work on the bundled server, in four ways."""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any, Dict, Iterator, List, Optional, Tuple

from .. import demo
from .._connect import connect
from .._text import clean
from ..client import Client
from ..exceptions import MCPError
from ..transports.base import Transport
from ..transports.stdio import StdioTransport
from ._errors import OK, UNEXPECTED
from ._output import Output
from ._parser import Settings, UsageError
from ._progress import bar_line
from ._transcript import RecordingTransport, Transcript

__all__ = ["run_demo"]

JSON = Any
Step = Tuple[str, bool, JSON, str]

_NEEDED = ("add", "count", "echo", "fail")
_COUNT = 5
_DELAY = 0.06

#: Each era, and what to ask for to get it.
_ERAS = (("modern", "auto"), ("legacy", "legacy"))

#: Starts the server from where this package is, installed or not. Isolated from the
#: user's own modules; behind the standard library, so that nothing hides that.
_START = (
    "import sys; sys.path.append(sys.argv.pop(1)); "
    "from mcpsync.demo import main; sys.exit(main())"
)


def run_demo(settings: Settings, output: Output) -> int:
    """Show the four runs and return whether all of them behaved, as an exit code.

    Raises:
        UsageError: something was named to talk to.
    """
    if settings.words or settings.command is not None:
        raise UsageError("demo takes no server: it brings its own")
    begun = time.monotonic()
    with demo.serve_http() as server:
        runs = [
            _Run(output, kind, server.url, era, protocol).perform(settings)
            for kind in ("stdio", "http")
            for era, protocol in _ERAS
        ]
    seconds = time.monotonic() - begun
    versions = {run["protocolVersion"] for run in runs}
    good = all(run["ok"] for run in runs) and len(versions) == len(_ERAS)
    text = "%s, in %.1f s" % (
        "everything behaved" if good else "NOT everything behaved",
        seconds,
    )
    output.result({"ok": good, "seconds": round(seconds, 3), "runs": runs}, text)
    if not good:
        output.error("demo_failed", "not every step of the demo behaved")
    return OK if good else UNEXPECTED


def _transport(kind: str, url: str) -> Transport:
    if kind == "stdio":
        root = os.path.dirname(os.path.dirname(os.path.abspath(demo.__file__)))
        argv = [sys.executable, "-I", "-c", _START, os.path.dirname(root)]
        return StdioTransport(argv, name="demo")
    # Imported here: the other half needs no HTTP.
    from ..transports.http import StreamableHTTPTransport

    return StreamableHTTPTransport(url, name="demo")


class _Run:
    """One transport in one era."""

    def __init__(
        self, output: Output, kind: str, url: str, era: str, protocol: str
    ) -> None:
        self._output = output
        self._kind = kind
        self._era = era
        self._protocol = protocol
        self._url = url
        self._progress: List[float] = []

    def perform(self, settings: Settings) -> Dict[str, JSON]:
        """Make the calls, show them, and return what happened."""
        transcript = Transcript()
        steps: List[Step] = []
        version: Optional[str] = None
        failure: Optional[str] = None
        try:
            transport = RecordingTransport(
                _transport(self._kind, self._url), transcript
            )
            with connect(
                transport,
                protocol=self._protocol,
                timeout=settings.timeout or 10.0,
                startup_timeout=settings.startup_timeout or 10.0,
            ) as client:
                version = client.protocol_version
                self._headline(version)
                for step in self._steps(client):
                    steps.append(step)
                    self._show(step)
        except MCPError as error:
            failure = str(error)
            self._show(("error", False, None, clean(failure)))
        self._end(transcript)
        return {
            "transport": self._kind,
            "era": self._era,
            "protocolVersion": version,
            "ok": failure is None and all(ok for _, ok, _, _ in steps),
            "error": failure,
            "steps": [
                {"name": name, "ok": ok, "value": value} for name, ok, value, _ in steps
            ],
            "transcript": [entry.to_json() for entry in transcript.entries],
        }

    def _steps(self, client: Client) -> Iterator[Step]:
        names = [tool.name for tool in client.list_tools()]
        text = "%d: %s" % (len(names), ", ".join(names))
        yield "tools", set(_NEEDED) <= set(names), names, text
        said = client.call_tool("echo", {"message": "hello"}).data or {}
        yield "echo", said.get("echo") == "ECHOING: hello", said, json.dumps(said)
        total = client.call_tool("add", {"a": 2, "b": 3}).data
        yield "add", total == {"sum": 5}, total, json.dumps(total)
        counted = client.call_tool(
            "count", {"to": _COUNT, "delay": _DELAY}, on_progress=self._on_progress
        )
        complete = bool(self._progress) and self._progress[-1] == _COUNT
        bar = bar_line(_COUNT, _COUNT, None) if complete else "no progress"
        good = complete and counted.data == {"counted": _COUNT}
        value = {"progress": self._progress, "result": counted.data}
        yield "count", good, value, bar
        failed = client.call_tool("fail", {"message": "this is meant to fail"})
        text = "the tool reported failure: " + clean(failed.text)
        yield "fail", failed.is_error, failed.text, text

    # --- showing ------------------------------------------------------------

    def _on_progress(
        self, progress: float, total: Optional[float], message: Optional[str]
    ) -> None:
        self._progress.append(progress)
        if not self._output.json:
            bar = bar_line(progress, total, None)
            self._output.status("  %-6s %s" % ("count", bar))

    def _headline(self, version: str) -> None:
        if not self._output.json:
            title = "%s, %s era: protocol %s" % (self._kind, self._era, version)
            self._output.text(self._output.bold(title))

    def _show(self, step: Step) -> None:
        name, ok, _, text = step
        if not self._output.json:
            mark = "" if ok else "  <-- NOT AS EXPECTED"
            self._output.text("  %-6s %s%s" % (name, text, mark))

    def _end(self, transcript: Transcript) -> None:
        if self._output.json:
            return
        if self._output.verbose:
            for entry in transcript.entries:
                self._output.text("    " + self._output.dim(str(entry)))
        self._output.text("")
