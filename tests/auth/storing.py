"""What the tests of stores share: credentials, keyrings, scripts of other processes."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple

from keyring.errors import PasswordDeleteError

import mcpsync
from mcpsync.auth._records import ClientRecord, Credentials, Token

from ..fakes import CANARY

__all__ = [
    "FULL",
    "FakeKeyring",
    "NAME",
    "OTHER_URL",
    "URL",
    "credentials",
    "registration",
    "run_script",
    "start_script",
]

ROOT = Path(mcpsync.__file__ or "").absolute().parents[1]

NAME = "linear"
URL = "https://mcp.example.com/mcp"
OTHER_URL = "https://mcp.example.com/mcp/"
ISSUER = "https://as.example.com/"

#: Every field has a value of its own.
FULL = Credentials(
    server_name=NAME,
    server_url=URL,
    client=ClientRecord(
        client_id="client-1",
        client_secret=CANARY + "-client",
        auth_method="client_secret_post",
        redirect_uris=("http://127.0.0.1:3000/callback",),
        secret_expires_at=4102444800.0,
        kind="preregistered",
        issuer=ISSUER,
    ),
    token=Token(
        access_token=CANARY + "-access",
        token_type="DPoP",
        expires_at=1893456000.25,
        refresh_token=CANARY + "-refresh",
        scope=("read", "write"),
    ),
    issuer=ISSUER,
    resource="https://mcp.example.com/",
    token_endpoint="https://as.example.com/token",
    requested_scopes=("read", "write", "offline_access"),
    dpop_key={"kty": "EC", "d": CANARY + "-key"},
)


def credentials(
    access_token: str = CANARY + "-access",
    *,
    name: str = NAME,
    url: str = URL,
    refresh_token: Optional[str] = CANARY + "-refresh",
    expires_at: Optional[float] = None,
) -> Credentials:
    """Return credentials with little in them."""
    token = Token(access_token, refresh_token=refresh_token, expires_at=expires_at)
    return Credentials(name, url, ClientRecord("client-1"), token)


def registration(issuer: str = ISSUER, **changes: Any) -> ClientRecord:
    """Return a registration with an authorization server."""
    fields: Dict[str, Any] = {
        "client_id": "dynamic-1",
        "client_secret": CANARY + "-registered",
        "auth_method": "client_secret_basic",
        "redirect_uris": ("http://127.0.0.1:4000/callback",),
        "issuer": issuer,
    }
    fields.update(changes)
    return ClientRecord(**fields)


class FakeKeyring:
    """A keyring in memory that notes what it is asked for.

    Attributes:
        failures: raised, one by one, instead of an answer; ``None`` answers.
        longest: characters of a value that are too many, as on Windows.
    """

    priority = 5.0

    def __init__(self, longest: Optional[int] = None) -> None:
        self.entries: Dict[Tuple[str, str], str] = {}
        self.asked: List[Tuple[str, str]] = []
        self.failures: List[Optional[Exception]] = []
        self.threads: List[threading.Thread] = []
        self.longest = longest

    def _note(self, what: str, username: str) -> None:
        self.asked.append((what, username))
        thread = threading.current_thread()
        if thread not in self.threads:
            self.threads.append(thread)
        if self.failures:
            failure = self.failures.pop(0)
            if failure is not None:
                raise failure

    def get_password(self, service: str, username: str) -> Optional[str]:
        self._note("get", username)
        return self.entries.get((service, username))

    def set_password(self, service: str, username: str, password: str) -> None:
        self._note("set", username)
        if self.longest is not None and len(password) > self.longest:
            raise OSError(1783, "CredWrite", "The stub received bad data")
        self.entries[service, username] = password

    def delete_password(self, service: str, username: str) -> None:
        self._note("delete", username)
        if self.entries.pop((service, username), None) is None:
            raise PasswordDeleteError("not found")

    def count(self, what: str) -> int:
        return [asked for asked, _ in self.asked].count(what)


class HangingKeyring(FakeKeyring):
    """A keyring that answers nothing until it is released; a context manager."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()
        self.began = threading.Event()

    def _note(self, what: str, username: str) -> None:
        super()._note(what, username)
        self.began.set()
        self.released.wait(30)

    def __enter__(self) -> HangingKeyring:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.released.set()
        for thread in self.threads:
            thread.join(10)


def _environment() -> Dict[str, str]:
    return dict(os.environ, PYTHONPATH=str(ROOT))


def _argv(script: str, arguments: Tuple[object, ...]) -> List[str]:
    source = textwrap.dedent(script)
    command = [sys.executable, "-X", "dev", "-W", "error", "-c", source]
    return command + [str(argument) for argument in arguments]


def run_script(script: str, *arguments: object) -> str:
    """Run a script in an interpreter of its own, which must not complain."""
    ran = subprocess.run(
        _argv(script, arguments),
        cwd=str(ROOT),
        env=_environment(),
        timeout=60,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    assert (ran.returncode, ran.stderr) == (0, "")
    return ran.stdout


def start_script(script: str, *arguments: object) -> "subprocess.Popen[str]":
    """Start a script; it is up to the caller to end it."""
    return subprocess.Popen(
        _argv(script, arguments),
        cwd=str(ROOT),
        env=_environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
