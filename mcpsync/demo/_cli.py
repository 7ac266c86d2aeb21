"""The command line of the demo server."""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from typing import Optional, Sequence

from ._server import ERAS, Demo
from ._stdio import serve_stdio
from ._wire import LEGACY


def parser() -> argparse.ArgumentParser:
    """Return the parser of ``python -m mcpsync.demo``."""
    result = argparse.ArgumentParser(
        prog="python -m mcpsync.demo",
        description="A demo MCP server over stdio, or over HTTP on loopback.",
    )
    add = result.add_argument
    add(
        "--http",
        nargs="?",
        type=int,
        const=0,
        metavar="PORT",
        help="serve HTTP instead of stdio; 0 or no port: any free one",
    )
    add("--era", choices=ERAS, default="both", help="protocol eras to speak")
    add(
        "--protocol",
        choices=LEGACY,
        default=LEGACY[0],
        metavar="VERSION",
        help="newest legacy version to negotiate: " + ", ".join(LEGACY),
    )
    add("--page-size", type=_positive, metavar="N", help="entries per page of a list")
    add("--name", default="mcpsync-demo", help="name the server gives itself")
    add(
        "--no-streamable",
        action="store_true",
        help="serve the HTTP+SSE transport at /sse alone",
    )
    return result


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return value


def main(argv: Optional[Sequence[str]] = None) -> int:
    """Run the demo server until its input ends or a signal stops it.

    Args:
        argv: The arguments, by default those of the process.

    Returns:
        The exit code.
    """
    options = parser().parse_args(argv)
    demo = Demo(
        name=options.name,
        era=options.era,
        protocol=options.protocol,
        page_size=options.page_size,
    )
    try:
        if options.http is None:
            serve_stdio(demo)
        else:
            _run_http(demo, options.http, not options.no_streamable)
    except KeyboardInterrupt:
        return 130
    return 0


def _run_http(demo: Demo, port: int, streamable: bool) -> None:
    # Imported here: stdio starts faster without it.
    from ._http import HTTPDemo

    stop = threading.Event()
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    with HTTPDemo(demo, port, streamable=streamable) as server:
        print("demo server ready", file=sys.stderr, flush=True)
        print(server.url if streamable else server.sse_url, flush=True)
        while not stop.wait(3600):
            pass
