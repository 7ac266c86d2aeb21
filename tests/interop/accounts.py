"""Logins to a protected server, and the programs that use them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Dict, List, Optional, Type
from urllib.parse import urlsplit

import mcpsync
from mcpsync.auth._records import Credentials
from mcpsync.auth.stores import FileStore

from . import browser, oauth_program
from .authservers import ROOT, AuthorizationServer, ProtectedServer
from .browser import sign_in
from .flow import REDIRECT_URI

# A bound, in seconds, on what a program does.
PROGRAM = 120

# What echo() and the programs are answered.
ANSWER = "ECHOING: hello"

#: For the variable BROWSER: a user who signs in.
BROWSER = f"{sys.executable} {browser.__file__} %s"


class Account:
    """A home directory, and a server that somebody logs in to from there."""

    def __init__(
        self, authority: AuthorizationServer, server: ProtectedServer, home: Path
    ) -> None:
        self.authority = authority
        self.server = server
        self.home = home
        self.url = server.url
        self.name = urlsplit(self.url).netloc
        self.file = home / ".credentials.json"

    def store(self) -> FileStore:
        """Return the store, as a process that has just been started has it."""
        return FileStore(str(self.file))

    def oauth(self, **options: Any) -> mcpsync.OAuth:
        """Return a configuration with that store."""
        return mcpsync.OAuth(store=self.store(), **options)

    def connect(self, **options: Any) -> mcpsync.Client:
        """Connect with what is stored; nobody is asked to log in."""
        return mcpsync.connect(self.url, auth=self.oauth(**options))

    def log_in(self, **options: Any) -> Credentials:
        """Log in in two steps, whatever was stored before."""
        config = self.oauth(redirect_uri=REDIRECT_URI, **options)
        pending = config.begin(self.url)
        return config.finish(pending, sign_in(pending.authorization_url))

    def stored(self) -> Optional[Credentials]:
        """Return what is stored."""
        return self.store().load(self.name, self.url)

    def credentials(self) -> Credentials:
        """Return what is stored, which must be something."""
        found = self.stored()
        assert found is not None
        return found

    def expire(self, seconds: float = -60) -> None:
        """Let the stored access token end in so many seconds, as far as is known."""
        found = self.credentials()
        token = replace(found.token, expires_at=time.time() + seconds)
        self.store().save(replace(found, token=token))

    def spoil(self) -> None:
        """Let the server refuse the stored access token, which looks good."""
        found = self.credentials()
        token = replace(found.token, access_token="spoilt")
        self.store().save(replace(found, token=token))

    def document(self) -> Any:
        """Return what the credentials file says; an error if it is not whole."""
        return json.loads(self.file.read_bytes())

    def environment(self, **more: str) -> Dict[str, str]:
        """Return that of the programs: this home, and no keyring."""
        return {
            **os.environ,
            "MCPSYNC_HOME": str(self.home),
            # The package may be tested where it is, without being installed.
            "PYTHONPATH": str(ROOT),
            "PYTHON_KEYRING_BACKEND": "keyring.backends.fail.Keyring",
            "BROWSER": self.refused_browser,
            **more,
        }

    @property
    def opened(self) -> Path:
        """The file that is there once a browser was opened that nobody wanted."""
        return self.home / "browser-was-opened"

    @property
    def refused_browser(self) -> str:
        """For the variable BROWSER: it does nothing, but is noticed."""
        return f"{sys.executable} -c \"open('{self.opened}', 'w').close()\""

    def start(
        self, environment: Optional[Dict[str, str]] = None, **options: Any
    ) -> Program:
        """Start a program; see ``oauth_program.py`` for its options."""
        argv = [oauth_program.__file__, self.url, json.dumps(options)]
        return Program(argv, self.environment(**(environment or {})))

    def run(self, environment: Optional[Dict[str, str]] = None, **options: Any) -> Any:
        """Run a program, and return what it tells."""
        with self.start(environment, **options) as program:
            return program.told()

    def run_together(self, number: int, **options: Any) -> List[Any]:
        """Run a number of programs that begin at one moment."""
        with ExitStack() as stack:
            programs = [
                stack.enter_context(self.start(wait=True, **options))
                for _ in range(number)
            ]
            for program in programs:
                program.wait_until_ready()
            for program in programs:
                program.go()
            return [program.told() for program in programs]


class Program:
    """A process on our interpreter. A context manager, which ends it."""

    def __init__(self, argv: List[str], environment: Dict[str, str]) -> None:
        self._popen = subprocess.Popen(
            [sys.executable, "-X", "dev", "-W", "error", *argv],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=environment,
            text=True,
        )

    def __enter__(self) -> Program:
        return self

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        self.kill()

    def wait_until_ready(self) -> None:
        """Wait until it says that it is."""
        assert self._popen.stdout is not None
        assert self._popen.stdout.readline() == "ready\n"

    def go(self) -> None:
        """Tell it to go on."""
        assert self._popen.stdin is not None
        self._popen.stdin.write("\n")
        self._popen.stdin.flush()

    def told(self) -> Any:
        """Wait for its end, and return what it told."""
        told, errors = self._popen.communicate(timeout=PROGRAM)
        assert self._popen.returncode == 0, told + errors
        return json.loads(told)

    def status(self) -> int:
        """Wait for its end, and return the status: minus the signal that ended it."""
        told, errors = self._popen.communicate(timeout=PROGRAM)
        assert told == "", told + errors
        return self._popen.returncode

    def kill(self) -> None:
        """End it at once, whatever it does."""
        self._popen.kill()
        self._popen.communicate(timeout=PROGRAM)


def echo(client: mcpsync.Client) -> object:
    """Call a tool, and return what it answers."""
    return client.call_tool("echo", {"message": "hello"}).data["echo"]


def difference(after: Any, before: Any) -> Any:
    """Return what was counted between two states of a server's counters."""
    if isinstance(after, dict):
        found = {key: difference(after[key], before.get(key, 0)) for key in after}
        return {key: value for key, value in found.items() if value}
    return after[len(before) :] if isinstance(after, list) else after - before
