"""A login that has begun, and what may come back from it."""

from __future__ import annotations

import socket
import threading
import urllib.parse
from typing import Any, Dict, Optional, Tuple

from mcpsync._deadline import Deadline
from mcpsync.auth._records import ClientRecord
from mcpsync.auth.login import LoopbackListener, PendingLogin, new_pending_login

from ..fakes import CANARY
from .sites import soon

__all__ = [
    "CODE",
    "ISSUER",
    "Login",
    "callback",
    "connect",
    "free_port",
    "has_ipv6",
    "pending_login",
    "query",
    "request",
    "send",
    "status",
]

ISSUER = "https://as.example/tenant"

#: The form of what is never to be seen again.
CODE = CANARY + "-code"


def pending_login(**changes: Any) -> PendingLogin:
    facts: Dict[str, Any] = {
        "server_name": "demo",
        "server_url": "https://mcp.example/mcp",
        "issuer": ISSUER,
        "iss_advertised": True,
        "authorization_endpoint": "https://as.example/authorize",
        "token_endpoint": "https://as.example/token",
        "client": ClientRecord("the-client", CANARY, "client_secret_post"),
        "redirect_uri": "http://127.0.0.1:4321/callback",
        "resource": "https://mcp.example/mcp",
        "scopes": ("read", "write"),
    }
    facts.update(changes)
    return new_pending_login(**facts)


def query(pending: PendingLogin, **changes: Optional[str]) -> str:
    """Return the query of a good answer, changed; ``None`` leaves something out."""
    values = {"code": CODE, "state": pending.state, "iss": pending.issuer, **changes}
    return urllib.parse.urlencode({k: v for k, v in values.items() if v is not None})


def callback(pending: PendingLogin, **changes: Optional[str]) -> str:
    return pending.redirect_uri + "?" + query(pending, **changes)


def _address(url: str) -> Tuple[str, int]:
    parts = urllib.parse.urlsplit(url)
    assert parts.hostname is not None and parts.port is not None
    return parts.hostname, parts.port


def request(url: str, method: str = "GET", host: Optional[str] = None) -> bytes:
    """Return the bytes of a browser's request."""
    parts = urllib.parse.urlsplit(url)
    target = parts.path + ("?" + parts.query if parts.query else "")
    return b"%s %s HTTP/1.1\r\nHost: %s\r\nAccept: */*\r\n\r\n" % (
        method.encode(),
        target.encode(),
        (parts.netloc if host is None else host).encode(),
    )


def connect(url: str) -> socket.socket:
    return socket.create_connection(_address(url), timeout=10)


def send(url: str, data: Optional[bytes] = None) -> bytes:
    """Send a request, and return everything that comes back."""
    with connect(url) as sock:
        sock.sendall(request(url) if data is None else data)
        received = b""
        while True:
            try:
                more = sock.recv(65536)
            except ConnectionError:
                return received
            if not more:
                return received
            received += more


def status(response: bytes) -> int:
    return int(response.split(b" ", 2)[1])


def free_port(address: str = "127.0.0.1") -> int:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as sock:
        sock.bind((address, 0))
        return int(sock.getsockname()[1])


def has_ipv6() -> bool:
    try:
        return free_port("::1") > 0
    except OSError:
        return False


class Login:
    """A listener, somebody who waits for it, and the browsers that come.

    Attributes:
        outcome: the code, or the exception that ended the wait.
    """

    def __init__(self, deadline: Optional[Deadline] = None, **arguments: Any) -> None:
        self.listener = LoopbackListener(**arguments)
        self.pending = pending_login(redirect_uri=self.listener.redirect_uri)
        self.outcome: Any = None
        self._deadline = deadline or soon()
        self._thread = threading.Thread(target=self._wait, daemon=True)

    def __enter__(self) -> "Login":
        self._thread.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.listener.close()
        self._thread.join(10)
        assert not self._thread.is_alive()

    def _wait(self) -> None:
        try:
            self.outcome = self.listener.wait(self.pending, self._deadline)
        except BaseException as error:
            self.outcome = error

    @property
    def waiting(self) -> bool:
        return self.outcome is None

    def result(self) -> Any:
        self._thread.join(10)
        assert not self._thread.is_alive(), "still waiting"
        return self.outcome

    def good(self) -> None:
        """Have the right answer come, and see that it is taken."""
        assert self.waiting
        assert status(send(callback(self.pending))) == 200
        assert self.result() == CODE
