"""What holds for every test: nothing leaks, nothing hangs, no secret comes out."""

from __future__ import annotations

import faulthandler
import functools
import logging
import os
import signal
import sys
from typing import Any, Callable, Iterator, List, Optional

import pytest

from mcpsync import exceptions
from mcpsync.exceptions import MCPError

from .fakes import CANARY, bounded
from .fakes.leaks import leaks, snapshot

__all__ = ["CANARY", "bounded"]

#: Seconds beyond a test's own timeout after which the process is ended, dump included:
#: a thread that keeps the interpreter lock cannot be stopped by anything milder.
_LAST_RESORT = 30.0

#: Seconds that the interpreter may take to exit after the last test.
_EXIT = 60.0

_stderr: Optional[int] = None
_failed = pytest.StashKey[bool]()


def pytest_configure(config: pytest.Config) -> None:
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        # A shell in the background ignores Ctrl-C, and so would all our children.
        signal.signal(signal.SIGINT, signal.default_int_handler)
    global _stderr
    # A copy, because while a test runs number 2 is a file that captures its output.
    _stderr = os.dup(sys.__stderr__.fileno() if sys.__stderr__ else 2)


def pytest_unconfigure(config: pytest.Config) -> None:
    faulthandler.dump_traceback_later(_EXIT, exit=True, file=_stderr or 2)


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: "pytest.CallInfo[None]"
) -> Iterator[None]:
    outcome: Any = yield
    if call.when == "call":
        item.stash[_failed] = outcome.get_result().failed


@pytest.fixture(autouse=True)
def _nothing_leaks(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a thread of ours, a child or a descriptor behind."""
    marker = request.node.get_closest_marker("timeout")
    limit = float(marker.args[0]) if marker and marker.args else 180.0
    faulthandler.dump_traceback_later(
        limit + _LAST_RESORT, exit=True, file=_stderr or 2
    )
    before = snapshot()
    yield
    # A failed test's traceback keeps everything alive that it refers to.
    if request.node.stash.get(_failed, False):
        return
    found = leaks(before)
    if found:
        pytest.fail("the test left behind:\n" + "\n".join(found), pytrace=False)


class _CanaryWatch(logging.Handler):
    """Looks for the canary in whatever people may get to see."""

    def __init__(self) -> None:
        super().__init__(level=logging.NOTSET)
        self.setFormatter(logging.Formatter("%(name)s %(levelname)s %(message)s"))
        self.seen: List[str] = []

    def look(self, where: str, text: str) -> None:
        if CANARY in text:
            self.seen.append("%s: %s" % (where, text.replace(CANARY, "<canary>")))

    def emit(self, record: logging.LogRecord) -> None:
        # The arguments as well: other formatters may show all of them.
        self.look("log", "%s %r" % (self.format(record), record.__dict__))


_watch = _CanaryWatch()

#: Attributes of exceptions that carry, by contract, what was received; no text that
#: people get to see shows them.
_PAYLOADS = {"data", "result", "requests", "state", "parked"}


def _look_at(error: MCPError) -> None:
    shown = {k: v for k, v in vars(error).items() if k not in _PAYLOADS}
    _watch.look(type(error).__name__, "%s %r" % (error, shown))


def _watched(init: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(init)
    def wrapper(self: MCPError, *args: Any, **kwargs: Any) -> None:
        init(self, *args, **kwargs)
        # Not in a base class's part of it: the attributes are not all there yet.
        if type(self).__init__ is wrapper:
            _look_at(self)

    return wrapper


def _watch_exceptions(patch: pytest.MonkeyPatch) -> None:
    for name in exceptions.__all__:
        kind = getattr(exceptions, name)
        if isinstance(kind, type) and "__init__" in vars(kind):
            patch.setattr(kind, "__init__", _watched(kind.__init__))


def pytest_warning_recorded(warning_message: Any, nodeid: str) -> None:
    _watch.look("warning in " + nodeid, str(warning_message.message))


@pytest.fixture(scope="session", autouse=True)
def canary() -> Iterator[str]:
    """Return a secret; the session fails if it shows up in a log, warning or error.

    Hand it to the client wherever that takes a secret.
    """
    logger = logging.getLogger("mcpsync")
    level = logger.level
    logger.addHandler(_watch)
    # Secrets are most likely in what nobody reads by default.
    logger.setLevel(logging.DEBUG)
    patch = pytest.MonkeyPatch()
    _watch_exceptions(patch)
    yield CANARY
    patch.undo()
    logger.setLevel(level)
    logger.removeHandler(_watch)
    if _watch.seen:
        pytest.fail("the canary came out:\n" + "\n".join(_watch.seen), pytrace=False)
