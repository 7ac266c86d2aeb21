"""What an import, and a connection without HTTP, must not drag in."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import mcpsync

ROOT = str(Path(os.path.abspath(mcpsync.__file__ or "")).parents[1])

HEAVY = [
    "IPython",
    "asyncio",
    "django",
    "http.client",
    "jsonschema",
    "keyring",
    "requests",
    "requests_oauthlib",
    "ssl",
    "urllib3",
]


def loaded_by(script: str) -> "set[str]":
    """Return which of the heavy modules a fresh interpreter has after the script."""
    source = "import sys\nsys.path.insert(0, %r)\n%s\n" % (ROOT, script)
    source += "print(*sorted(set(%r) & set(sys.modules)))" % (HEAVY,)
    # Isolated: nothing that a user's site directory starts is counted here.
    ran = subprocess.run(
        [sys.executable, "-I", "-c", source],
        stdout=subprocess.PIPE,
        text=True,
        timeout=60,
        cwd=ROOT,
        check=True,
    )
    return set(ran.stdout.split())


@pytest.mark.parametrize("module", HEAVY[:2] + ["http.client", "ssl"])
def test_the_measurement_sees_a_heavy_module(module: str) -> None:
    script = "import types; sys.modules.setdefault(%r, types)" % module
    assert module in loaded_by(script)


def test_import_loads_nothing_heavy() -> None:
    assert loaded_by("import mcpsync") == set()


def test_the_names_of_the_package_load_nothing_heavy() -> None:
    script = """
import mcpsync
mcpsync.connect, mcpsync.Client, mcpsync.Timeout, mcpsync.NO_TIMEOUT
mcpsync.StdioTransport, mcpsync.MCPError, mcpsync.types, mcpsync.PendingCall
"""
    assert loaded_by(script) == set()


def test_a_stdio_connection_loads_nothing_heavy() -> None:
    script = """
import mcpsync
with mcpsync.connect([sys.executable, "-m", "mcpsync.demo"], cwd=%r) as client:
    assert client.list_tools()
""" % ROOT
    assert loaded_by(script) == set()
