"""The ways to a person who logs in: a browser here, a pasted address, a function."""

from __future__ import annotations

import sys
from types import TracebackType
from typing import Callable, Optional, Protocol, Sequence, Type

from .._deadline import Deadline
from .._text import clean
from ..exceptions import ConfigError
from ._urls import bare_url, is_loopback_host, split
from .login import (
    LOGIN_SECONDS,
    LoopbackListener,
    PendingLogin,
    browser_flow,
    paste_flow,
    read_callback,
    require_terminal,
)

__all__ = ["AtBrowser", "AtTerminal", "Handed", "Person", "REDIRECT_URI", "show"]

#: Where a browser is sent when nobody listens: its address is pasted or handed over.
REDIRECT_URI = "http://127.0.0.1:36871/callback"


class Person(Protocol):
    """Somebody who logs in. A context manager.

    Attributes:
        redirect_uri: where the browser goes afterwards.
    """

    redirect_uri: str

    def __enter__(self) -> "Person": ...

    def __exit__(
        self,
        kind: Optional[Type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> Optional[bool]: ...

    def code(self, pending: PendingLogin) -> str:
        """Return the code that comes of a login; blocks until it does."""

    def give_up(self) -> None:
        """Let the one who waits for a code raise, where that can be done."""


def show(text: str) -> None:
    """Print what a person must read, where it does not mix with a program's data."""
    print(text, file=sys.stderr, flush=True)


class AtBrowser:
    """Opens a browser of this machine and listens for it on the loopback address.

    Args:
        wanted: the one address that will do; ``None``: any.
        known: addresses that are registered already, and save a registration.
    """

    def __init__(self, wanted: Optional[str], known: Sequence[str]) -> None:
        uris = list(known) if wanted is None else [wanted]
        if wanted is not None and not is_loopback_host(split(wanted).host):
            raise ConfigError(
                "nobody here can listen at the redirect_uri %s: use one that begins "
                "with http://127.0.0.1, or another flow" % bare_url(wanted)
            )
        self._listener = LoopbackListener(uris)
        self.redirect_uri = self._listener.redirect_uri
        if wanted is not None and self.redirect_uri != wanted:
            self._listener.close()
            raise ConfigError(
                "the browser cannot come back to %s: another program listens there"
                % clean(wanted, 200)
            )

    def __enter__(self) -> "AtBrowser":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._listener.close()

    def give_up(self) -> None:
        self._listener.close()

    def code(self, pending: PendingLogin) -> str:
        deadline = Deadline.after(LOGIN_SECONDS)
        return browser_flow(pending, self._listener, deadline, show=show)


class _Elsewhere:
    """Somebody whose browser nobody listens for."""

    def __init__(self, wanted: Optional[str], known: Sequence[str]) -> None:
        self.redirect_uri = wanted or (known[0] if known else REDIRECT_URI)

    def __exit__(self, *exc_info: object) -> None:
        return None

    def give_up(self) -> None:
        """Whoever is asking cannot be interrupted from outside."""


class AtTerminal(_Elsewhere):
    """Shows the address, and asks for the one that the login ended at.

    Args:
        ask: asks for a line, as `input` does.
    """

    def __init__(
        self,
        wanted: Optional[str],
        known: Sequence[str],
        ask: Callable[[str], str] = input,
    ) -> None:
        super().__init__(wanted, known)
        self._ask = ask

    def __enter__(self) -> "AtTerminal":
        return self

    def code(self, pending: PendingLogin) -> str:
        if self._ask is input and "ipykernel" not in sys.modules:
            # What comes on standard input otherwise is somebody's data.
            require_terminal(pending.server_name, pending.server_url)
        return paste_flow(pending, show=show, ask=self._ask)


class Handed(_Elsewhere):
    """Hands the address to a function, which returns the one it ended at."""

    def __init__(
        self,
        wanted: Optional[str],
        known: Sequence[str],
        function: Callable[[str], str],
    ) -> None:
        super().__init__(wanted, known)
        self._function = function

    def __enter__(self) -> "Handed":
        return self

    def code(self, pending: PendingLogin) -> str:
        return read_callback(pending, self._function(pending.authorization_url))
