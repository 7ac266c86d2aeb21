"""An authorization server on what the official Python SDK has for one, in memory.

It prints one line of JSON: its issuer and what a resource server needs for
introspection. Anybody may register, and sign in with any name and password.
"""

from __future__ import annotations

import argparse
import base64
import json
import secrets
import socket
import time
from html import escape
from typing import Any, Dict, List, Optional, Set, Tuple, Union

import uvicorn
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    OAuthAuthorizationServerProvider,
    RefreshToken,
    construct_redirect_uri,
)
from mcp.server.auth.routes import create_auth_routes
from mcp.server.auth.settings import (
    AuthSettings,
    ClientRegistrationOptions,
    RevocationOptions,
)
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import (
    HTMLResponse,
    JSONResponse,
    RedirectResponse,
    Response,
)
from starlette.routing import Route

SCOPES = ["mcp:read", "mcp:write"]
CODE_SECONDS = 60

PAGE = """<!DOCTYPE html>
<title>Sign in</title>
<form method="post" action="/login">
<input type="hidden" name="ticket" value="{ticket}">
<input type="text" name="username">
<input type="password" name="password">
<button type="submit">Sign in</button>
</form>
<a href="/cancel?ticket={ticket}">Cancel</a>
"""

Token = Union[AccessToken, RefreshToken]


class Provider(
    OAuthAuthorizationServerProvider[AuthorizationCode, RefreshToken, AccessToken]
):
    """Everything in dictionaries; the server is a single-threaded event loop."""

    def __init__(self, access_token_ttl: int) -> None:
        self.access_token_ttl = access_token_ttl
        self.clients: Dict[str, OAuthClientInformationFull] = {}
        self.tickets: Dict[str, Tuple[str, AuthorizationParams]] = {}
        self.codes: Dict[str, AuthorizationCode] = {}
        self.access: Dict[str, AccessToken] = {}
        self.refresh: Dict[str, RefreshToken] = {}
        # The refresh tokens that were exchanged, and what each token was granted by.
        self.spent: Set[str] = set()
        self.grant_of: Dict[str, str] = {}
        self.counters: Dict[str, Any] = dict.fromkeys(
            ("registrations", "authorizations", "revocations", "introspections"), 0
        )
        self.counters["token_grants"] = {}

    async def get_client(self, client_id: str) -> Optional[OAuthClientInformationFull]:
        return self.clients.get(client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        self.clients[client_info.client_id] = client_info
        self.counters["registrations"] += 1

    async def authorize(
        self, client: OAuthClientInformationFull, params: AuthorizationParams
    ) -> str:
        ticket = secrets.token_urlsafe()
        self.tickets[ticket] = (client.client_id, params)
        return f"/login?ticket={ticket}"

    def signed_in(self, ticket: str, username: str) -> str:
        """Return the redirect URI with a code for a user who has signed in."""
        client_id, params = self.tickets.pop(ticket)
        code = AuthorizationCode(
            code=secrets.token_urlsafe(),
            scopes=params.scopes or [],
            expires_at=time.time() + CODE_SECONDS,
            client_id=client_id,
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
            subject=username,
        )
        self.codes[code.code] = code
        self.counters["authorizations"] += 1
        uri = str(params.redirect_uri)
        return construct_redirect_uri(uri, code=code.code, state=params.state)

    def cancelled(self, ticket: str) -> str:
        """Return the redirect URI for a user who has not."""
        params = self.tickets.pop(ticket)[1]
        uri = str(params.redirect_uri)
        return construct_redirect_uri(uri, error="access_denied", state=params.state)

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> Optional[AuthorizationCode]:
        return self.codes.get(authorization_code)

    async def exchange_authorization_code(
        self,
        client: OAuthClientInformationFull,
        authorization_code: AuthorizationCode,
    ) -> OAuthToken:
        code = self.codes.pop(authorization_code.code)
        return self._issue(code.code, code, code.scopes, "authorization_code")

    async def load_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: str
    ) -> Optional[RefreshToken]:
        if refresh_token in self.spent:
            # Somebody else has it: nobody is to go on with what it led to.
            self._end(self.grant_of[refresh_token])
        return self.refresh.get(refresh_token)

    async def exchange_refresh_token(
        self,
        client: OAuthClientInformationFull,
        refresh_token: RefreshToken,
        scopes: List[str],
    ) -> OAuthToken:
        old = self.refresh.pop(refresh_token.token)
        self.spent.add(old.token)
        return self._issue(self.grant_of[old.token], old, scopes, "refresh_token")

    def _issue(
        self,
        grant: str,
        source: Union[AuthorizationCode, RefreshToken],
        scopes: List[str],
        grant_type: str,
    ) -> OAuthToken:
        granted: Dict[str, Any] = {
            "client_id": source.client_id,
            "resource": source.resource,
            "subject": source.subject,
        }
        access = AccessToken(
            token=secrets.token_urlsafe(),
            scopes=scopes,
            expires_at=int(time.time()) + self.access_token_ttl,
            **granted,
        )
        refresh = RefreshToken(
            token=secrets.token_urlsafe(), scopes=source.scopes, **granted
        )
        self.access[access.token] = access
        self.refresh[refresh.token] = refresh
        self.grant_of.update({access.token: grant, refresh.token: grant})
        grants = self.counters["token_grants"]
        grants[grant_type] = grants.get(grant_type, 0) + 1
        return OAuthToken(
            access_token=access.token,
            expires_in=self.access_token_ttl,
            scope=" ".join(scopes) or None,
            refresh_token=refresh.token,
        )

    async def load_access_token(self, token: str) -> Optional[AccessToken]:
        found = self.access.get(token)
        if found is None or (found.expires_at or 0) <= time.time():
            return None
        return found

    async def revoke_token(self, token: Token) -> None:
        self.counters["revocations"] += 1
        self._end(self.grant_of[token.token])

    def _end(self, grant: str) -> None:
        tokens = [token for token, other in self.grant_of.items() if other == grant]
        for token in tokens:
            self.access.pop(token, None)
            self.refresh.pop(token, None)


class Pages:
    """What the SDK leaves to whoever uses it: login, introspection, and counters."""

    def __init__(self, provider: Provider, secret: str) -> None:
        self.provider = provider
        self.secret = secret

    def routes(self) -> List[Route]:
        """Return the routes besides the SDK's own."""
        return [
            Route("/login", self.show, methods=["GET"]),
            Route("/login", self.sign_in, methods=["POST"]),
            Route("/cancel", self.cancel, methods=["GET"]),
            Route("/introspect", self.introspect, methods=["POST"]),
            Route("/_test/counters", self.counters, methods=["GET"]),
        ]

    async def show(self, request: Request) -> Response:
        """Show the login form."""
        ticket = escape(request.query_params["ticket"])
        return HTMLResponse(PAGE.format(ticket=ticket))

    async def sign_in(self, request: Request) -> Response:
        """Take any user's name and password."""
        form = await request.form()
        target = self.provider.signed_in(str(form["ticket"]), str(form["username"]))
        return RedirectResponse(target, 302)

    async def cancel(self, request: Request) -> Response:
        """Go back to the client without a code."""
        return RedirectResponse(
            self.provider.cancelled(request.query_params["ticket"]), 302
        )

    async def introspect(self, request: Request) -> Response:
        """Tell the resource server about a token, as RFC 7662 has it."""
        expected = basic("resource-server", self.secret)
        if request.headers.get("Authorization") != expected:
            return Response(status_code=401)
        self.provider.counters["introspections"] += 1
        form = await request.form()
        token = await self.provider.load_access_token(str(form["token"]))
        if token is None:
            return JSONResponse({"active": False})
        return JSONResponse(
            {
                "active": True,
                "client_id": token.client_id,
                "scope": " ".join(token.scopes),
                "exp": token.expires_at,
                "sub": token.subject,
                "aud": token.resource,
                "token_type": "Bearer",
            }
        )

    async def counters(self, request: Request) -> Response:
        """Tell what the server has been asked."""
        return JSONResponse(self.provider.counters)


def basic(name: str, secret: str) -> str:
    """Return the header of HTTP basic authentication."""
    return "Basic " + base64.b64encode(f"{name}:{secret}".encode()).decode()


def main() -> None:
    """Serve on loopback until a signal comes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--access-token-ttl", type=int, default=3600)
    options = parser.parse_args()
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", options.port))
    listener.listen(128)
    base = f"http://127.0.0.1:{listener.getsockname()[1]}"
    # The settings keep an URL without a path as it is; the bare type adds a slash.
    settings = AuthSettings(issuer_url=base, resource_server_url=None)
    issuer = str(settings.issuer_url)
    provider = Provider(options.access_token_ttl)
    secret = secrets.token_hex(16)
    routes = create_auth_routes(
        provider,
        settings.issuer_url,
        client_registration_options=ClientRegistrationOptions(
            enabled=True, valid_scopes=SCOPES, default_scopes=SCOPES
        ),
        revocation_options=RevocationOptions(enabled=True),
    )
    application = Starlette(routes=[*routes, *Pages(provider, secret).routes()])
    announcement = {
        "issuer": issuer,
        "introspection": base + "/introspect",
        "client_id": "resource-server",
        "secret": secret,
    }
    print(json.dumps(announcement), flush=True)
    config = uvicorn.Config(
        application, log_level="warning", timeout_graceful_shutdown=1
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
