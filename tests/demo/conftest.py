"""Running demo servers."""

from __future__ import annotations

import threading

import pytest

from mcpsync.demo import serve_http

from .speaking import connection


@pytest.fixture
def server():
    with serve_http() as running:
        yield running
    assert not [t for t in threading.enumerate() if t.name.startswith("mcpsync-demo")]


@pytest.fixture
def client(server):
    with connection(server.port) as http_connection:
        yield http_connection
