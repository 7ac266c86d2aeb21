"""A client that is a process of its own: it connects, calls a tool, and tells.

    python oauth_program.py URL OPTIONS

OPTIONS is a JSON object that may have

    oauth    the arguments of mcpsync.OAuth; without them a stored login is used
    wait     whether to print a line when it is ready, and to wait for one
    threads  how many call the tool, each with a client of its own; by default one
    calls    how often each calls it; by default once
    stop     where to end, as `kill -9` ends a process; see STOPS

It prints what the tool answered, or the error, as a line of JSON.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Callable, Dict, List

import mcpsync
from mcpsync.auth._base import Store
from mcpsync.auth._fetch import Fetcher

FILE = ".credentials.json"
SECONDS = 60


def die() -> None:
    """End at once, as if somebody had sent the signal."""
    os.kill(os.getpid(), signal.SIGKILL)


def before_the_request() -> None:
    """End when the form is ready to be sent."""

    def post_form(*args: Any, **kwargs: Any) -> Any:
        die()

    setattr(Fetcher, "post_form", post_form)


def after_the_answer() -> None:
    """End when the tokens are in memory alone."""
    original = Fetcher.post_form

    def post_form(*args: Any, **kwargs: Any) -> Any:
        original(*args, **kwargs)
        die()

    setattr(Fetcher, "post_form", post_form)


def half_written() -> None:
    """End when half of the new file is written."""
    original = os.write

    def write(number: int, data: Any) -> int:
        if FILE in os.readlink("/proc/self/fd/%d" % number):
            original(number, bytes(data)[: len(data) // 2])
            die()
        return original(number, data)

    setattr(os, "write", write)


def not_synchronized() -> None:
    """End when all of the new file is written, but perhaps not to the disk."""
    setattr(os, "fsync", lambda number: die())


def not_in_place() -> None:
    """End when the new file is complete, under its other name."""
    setattr(os, "replace", lambda source, target: die())


def in_place() -> None:
    """End when the new file has taken the place of the old one."""
    original = os.replace

    def replace(source: Any, target: Any) -> None:
        original(source, target)
        die()

    setattr(os, "replace", replace)


def saved() -> None:
    """End when the store has saved, before anybody uses the new token."""
    original = Store.save

    def save(*args: Any) -> None:
        original(*args)
        die()

    setattr(Store, "save", save)


STOPS: Dict[str, Callable[[], None]] = {
    stop.__name__: stop
    for stop in (
        before_the_request,
        after_the_answer,
        half_written,
        not_synchronized,
        not_in_place,
        in_place,
        saved,
    )
}


def use(url: str, auth: Any, calls: int) -> List[str]:
    """Connect, call the tool, and return what it answered."""
    options: Dict[str, Any] = {} if auth is None else {"auth": auth}
    with mcpsync.connect(url, timeout=SECONDS, **options) as client:
        results = [client.tools.echo(message="hello") for _ in range(calls)]
    return [result.data["echo"] for result in results]


def main() -> None:
    """Do what the command line says."""
    url, options = sys.argv[1], json.loads(sys.argv[2])
    arguments = options.get("oauth")
    auth = None if arguments is None else mcpsync.OAuth(**arguments)
    if "stop" in options:
        STOPS[options["stop"]]()
    if options.get("wait"):
        print("ready", flush=True)
        sys.stdin.readline()
    threads, calls = options.get("threads", 1), options.get("calls", 1)
    try:
        with ThreadPoolExecutor(threads) as pool:
            uses = [pool.submit(use, url, auth, calls) for _ in range(threads)]
            answers = [answer for one in uses for answer in one.result()]
        print(json.dumps({"answers": answers}))
    except mcpsync.MCPError as error:
        print(json.dumps({"error": type(error).__name__, "message": str(error)}))


if __name__ == "__main__":
    main()
