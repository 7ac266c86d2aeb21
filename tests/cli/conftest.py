"""A command line to run, and servers to run it on."""

from __future__ import annotations

from typing import Callable, Iterator, List

import pytest

from mcpsync.cli import main
from mcpsync.demo import HTTPDemo, serve_http

from .running import STDIO, Ran, with_server


@pytest.fixture(autouse=True)
def _plain(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("COLUMNS", "NO_COLOR"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., Ran]:
    """Run a command in this process; standard input is no terminal."""

    def run(*words: str) -> Ran:
        code = main(words)
        return Ran(code, *capsys.readouterr())

    return run


@pytest.fixture
def http() -> Iterator[HTTPDemo]:
    with serve_http() as server:
        yield server


@pytest.fixture(params=["stdio", "http"])
def server(request: pytest.FixtureRequest) -> List[str]:
    """Return the words that name a server: a URL, or a command behind ``--``."""
    if request.param == "stdio":
        return STDIO
    demo: HTTPDemo = request.getfixturevalue("http")
    return [demo.url]


@pytest.fixture
def ask_server(run: Callable[..., Ran], server: List[str]) -> Callable[..., Ran]:
    """Run a command on that server."""
    return lambda *words: run(*with_server(words, server))
