"""The demo MCP server behind a guard that lets nobody in without an access token.

    python protected_server.py AUTHORITY [options]

AUTHORITY is the line of JSON that an authorization server of the tests has printed. It
prints a line of JSON itself: the URL of its endpoint. The guard asks the authorization
server about each token, for every request, so that a revoked one is refused at once.

For the tests it also answers

    GET  /_test/stats       the demo server's counters and the guard's
    POST /_test/authority   another AUTHORITY to trust from now on
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import secrets
import signal
import threading
import urllib.request
from typing import Any, Callable, Dict, List, Optional, Sequence, Set, Tuple
from urllib.parse import urlencode, urlsplit

from mcpsync.demo import serve_http
from mcpsync.demo._handler import Handler, Refusal

WELL_KNOWN = "/.well-known/oauth-protected-resource/mcp"
SCOPES = ["mcp:read", "mcp:write"]
READ, WRITE = SCOPES
INTROSPECTION_SECONDS = 30


class Denied(Exception):
    """A request the guard does not let through: a status and its challenge."""

    def __init__(
        self, error: str = "", *, status: int = 401, scheme: str = "", scope: str = READ
    ) -> None:
        super().__init__(error)
        self.error = error
        self.status = status
        self.scheme = scheme
        self.scope = scope


class Authority:
    """An authorization server, as far as a resource server knows it."""

    def __init__(
        self, issuer: str, introspection: str, client_id: str, secret: str
    ) -> None:
        self.issuer = issuer
        self._introspection = introspection
        pair = base64.b64encode(f"{client_id}:{secret}".encode()).decode()
        self._headers = {"Authorization": f"Basic {pair}"}
        # Not through a proxy: it is on loopback.
        self._opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))

    def introspect(self, token: str) -> Dict[str, Any]:
        """Return what it says of a token, as RFC 7662 has it."""
        request = urllib.request.Request(
            self._introspection, urlencode({"token": token}).encode(), self._headers
        )
        with self._opener.open(request, timeout=INTROSPECTION_SECONDS) as response:
            answer: Dict[str, Any] = json.load(response)
        return answer


class Guard:
    """Who may pass; threads share it."""

    def __init__(self, authority: Authority, options: argparse.Namespace) -> None:
        self.authority = authority
        self.resource = ""
        self.write_tools: Set[str] = set(options.write_tool)
        self.needs_proof: bool = options.dpop
        self.nonce = secrets.token_urlsafe() if options.dpop_nonce else None
        self._tokens: Set[str] = set()
        self._proofs: Set[str] = set()
        self._counters = dict.fromkeys(
            ("metadata", "unauthorized", "forbidden", "passed"), 0
        )
        # Guards the three above.
        # Never held while the authorization server is asked.
        # Taken by the threads of connections.
        self._lock = threading.Lock()

    def count(self, name: str) -> None:
        """Add one to a counter."""
        with self._lock:
            self._counters[name] += 1

    def stats(self) -> Dict[str, int]:
        """Return the counters, and how many different tokens have passed."""
        with self._lock:
            return {**self._counters, "tokens": len(self._tokens)}

    def metadata(self) -> Dict[str, Any]:
        """Return the protected resource metadata, as RFC 9728 has it."""
        return {
            "resource": self.resource,
            "authorization_servers": [self.authority.issuer],
            "scopes_supported": [READ],
            "bearer_methods_supported": ["header"],
            "dpop_signing_alg_values_supported": ["ES256"],
            "dpop_bound_access_tokens_required": self.needs_proof,
        }

    def check(self, handler: Handler) -> List[str]:
        """Return the scopes of a request's token.

        Raises:
            Denied: when it has none, or one that is not good for this server.
        """
        scheme, _, token = handler.headers.get("Authorization", "").partition(" ")
        if scheme.lower() not in ("bearer", "dpop") or not token:
            raise Denied()
        said = self.authority.introspect(token)
        if not said.get("active"):
            raise Denied("invalid_token")
        audience = said.get("aud")
        if self.resource not in (
            audience if isinstance(audience, list) else [audience]
        ):
            raise Denied("invalid_token")
        thumbprint = said.get("cnf", {}).get("jkt")
        if (scheme.lower() == "dpop") != (thumbprint is not None):
            raise Denied("invalid_token")
        if thumbprint is not None:
            self._check_proof(handler, token, thumbprint)
        elif self.needs_proof:
            raise Denied("invalid_token")
        with self._lock:
            self._tokens.add(token)
        self.count("passed")
        return str(said.get("scope", "")).split()

    def _check_proof(self, handler: Handler, token: str, thumbprint: str) -> None:
        """Check all of a proof but its signature, for which there is no library here.

        The authorization server does check the signatures of the same client.
        """
        proofs = handler.headers.get_all("DPoP", [])
        if len(proofs) != 1:
            raise Denied("invalid_dpop_proof", scheme="DPoP")
        try:
            header, claims = map(_decoded, proofs[0].split(".")[:2])
            key = {name: header["jwk"][name] for name in ("crv", "kty", "x", "y")}
            expected = {
                "htm": handler.command,
                "htu": self.resource,
                "ath": _digest(token.encode()),
            }
            right = all(claims[name] == value for name, value in expected.items())
            canonical = json.dumps(key, separators=(",", ":"), sort_keys=True)
            right = right and header["typ"] == "dpop+jwt" and header["alg"] == "ES256"
            right = right and _digest(canonical.encode()) == thumbprint
            identity: str = claims["jti"]
        except (KeyError, ValueError, TypeError) as exc:
            raise Denied("invalid_dpop_proof", scheme="DPoP") from exc
        if self.nonce is not None and claims.get("nonce") != self.nonce:
            raise Denied("use_dpop_nonce", scheme="DPoP")
        with self._lock:
            right = right and identity not in self._proofs
            self._proofs.add(identity)
        if not right:
            raise Denied("invalid_dpop_proof", scheme="DPoP")

    def challenge(self, denied: Denied) -> List[Tuple[str, str]]:
        """Return the headers that tell a client what it lacks."""
        origin = self.resource[: -len("/mcp")]
        pairs = [("resource_metadata", origin + WELL_KNOWN), ("scope", denied.scope)]
        if denied.error:
            pairs.insert(0, ("error", denied.error))
        scheme = denied.scheme or ("DPoP" if self.needs_proof else "Bearer")
        if scheme == "DPoP":
            pairs.append(("algs", "ES256"))
        value = ", ".join(f'{name}="{text}"' for name, text in pairs)
        headers = [("WWW-Authenticate", f"{scheme} {value}")]
        if self.nonce is not None:
            headers.append(("DPoP-Nonce", self.nonce))
        return headers


def _decoded(part: str) -> Dict[str, Any]:
    decoded = json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))
    if not isinstance(decoded, dict):
        raise ValueError("not an object")
    return decoded


def _digest(data: bytes) -> str:
    digest = hashlib.sha256(data).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class GuardedHandler(Handler):
    """Serve the demo server's requests once the guard has let them through."""

    guard: Guard
    _scopes: Sequence[str] = ()

    def _route(self, paths: Dict[str, Callable[[bytes], None]]) -> None:
        own: Dict[Tuple[str, str], Callable[[], None]] = {
            ("GET", WELL_KNOWN): self._metadata,
            ("GET", "/_test/stats"): self._stats,
            ("POST", "/_test/authority"): self._authority,
        }
        path = urlsplit(self.path).path
        if (self.command, path) in own:
            own[self.command, path]()
            return
        try:
            self._scopes = self.guard.check(self) if path in self._paths() else ()
        except Denied as exc:
            self._deny(exc)
        else:
            super()._route(paths)

    def _post_mcp(self, body: bytes) -> None:
        message = json.loads(body)
        tool = ""
        if isinstance(message, dict) and message.get("method") == "tools/call":
            tool = message["params"]["name"]
        if tool in self.guard.write_tools and WRITE not in self._scopes:
            self._refuse(Denied("insufficient_scope", status=403, scope=WRITE))
        else:
            super()._post_mcp(body)

    def _deny(self, denied: Denied) -> None:
        try:
            self._read_body()
        except Refusal:
            self.close_connection = True
        self._refuse(denied)

    def _refuse(self, denied: Denied) -> None:
        self.guard.count("forbidden" if denied.status == 403 else "unauthorized")
        self._reply(denied.status, b"", self.guard.challenge(denied))

    def _metadata(self) -> None:
        self.guard.count("metadata")
        self._reply_json(200, self.guard.metadata())

    def _stats(self) -> None:
        self._reply_json(200, {**self.owner.stats, **self.guard.stats()})

    def _authority(self) -> None:
        self.guard.authority = Authority(**json.loads(self._read_body()))
        self._reply(204)


def options_of(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Return the options of the command line."""
    parser = argparse.ArgumentParser()
    add = parser.add_argument
    add("authority", type=json.loads)
    add("--port", type=int, default=0)
    add("--dpop", action="store_true", help="take only tokens bound to a key")
    add("--dpop-nonce", action="store_true", help="a proof must have a nonce")
    add("--write-tool", action="append", default=[], help="a tool with a scope")
    return parser.parse_args(argv)


def main() -> None:
    """Serve on loopback until a signal comes."""
    options = options_of()
    stop = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: stop.set())
    guard = Guard(Authority(**options.authority), options)
    with serve_http(options.port) as server:
        guard.resource = server.url
        GuardedHandler.guard = guard
        server._server.RequestHandlerClass = GuardedHandler
        print(json.dumps({"url": server.url}), flush=True)
        while not stop.wait(3600):
            pass


if __name__ == "__main__":
    main()
