"""The authorization code flow with `requests` alone, and a tool call with its token."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import subprocess
import time
from pathlib import Path
from typing import Any, Dict, Optional
from urllib.parse import parse_qsl, urlencode, urlsplit

import requests

from .authservers import (
    PYTHON,
    TIMEOUT,
    AuthorizationServer,
    ProtectedServer,
    session,
)
from .browser import sign_in

REDIRECT_URI = "http://127.0.0.1:4711/callback"

# The interpreter of the server on the Python SDK has what it takes to sign; the one
# that runs the tests need not.
PROVE = """
import json, sys
import jwt
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
path, claims = sys.argv[1:]
try:
    pem = open(path, "rb").read()
    key = serialization.load_pem_private_key(pem, None)
except FileNotFoundError:
    key = ec.generate_private_key(ec.SECP256R1())
    with open(path, "wb") as file:
        file.write(key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ))
algorithm = jwt.get_algorithm_by_name("ES256")
jwk = json.loads(algorithm.to_jwk(key.public_key()))
public = {name: jwk[name] for name in ("kty", "crv", "x", "y")}
headers = {"typ": "dpop+jwt", "jwk": public}
print(jwt.encode(json.loads(claims), key, "ES256", headers))
"""


class Login:
    """A public client of an authorization server, and the flow with code and PKCE."""

    def __init__(
        self,
        authority: AuthorizationServer,
        resource: str,
        client: Optional[Dict[str, Any]] = None,
    ) -> None:
        self.metadata = authority.metadata()
        self.resource = resource
        self.client = client or self.register()
        self.verifier = secrets.token_urlsafe(48)
        self.state = secrets.token_urlsafe(16)

    def register(self, **more: Any) -> Dict[str, Any]:
        """Register, with anything else in the document, and return the answer."""
        document = {
            "client_name": "interop",
            "redirect_uris": [REDIRECT_URI],
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": "none",
            "application_type": "native",
            **more,
        }
        answer = post(self.metadata["registration_endpoint"], json=document)
        assert answer.status_code == 201, answer.text
        registered: Dict[str, Any] = answer.json()
        return registered

    def url(self, **more: str) -> str:
        """Return where the user is sent, with anything else in the query."""
        digest = hashlib.sha256(self.verifier.encode()).digest()
        query = {
            "response_type": "code",
            "client_id": self.client["client_id"],
            "redirect_uri": REDIRECT_URI,
            "state": self.state,
            "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
            "code_challenge_method": "S256",
            "resource": self.resource,
            "scope": "mcp:read",
            **more,
        }
        return f"{self.metadata['authorization_endpoint']}?{urlencode(query)}"

    def authorize(self, **more: str) -> Dict[str, str]:
        """Sign in, and return the answer's query."""
        answer = query_of(sign_in(self.url(**more)))
        assert answer["state"] == self.state
        return answer

    def token(self, headers: Optional[Dict[str, str]] = None, **more: str) -> Any:
        """Send a token request."""
        form = {"client_id": self.client["client_id"], "resource": self.resource}
        return post(self.metadata["token_endpoint"], {**form, **more}, headers=headers)

    def exchange(self, code: str, headers: Optional[Dict[str, str]] = None) -> Any:
        """Exchange a code."""
        return self.token(
            headers,
            grant_type="authorization_code",
            code=code,
            code_verifier=self.verifier,
            redirect_uri=REDIRECT_URI,
        )

    def refresh(
        self, refresh_token: str, headers: Optional[Dict[str, str]] = None
    ) -> Any:
        """Exchange a refresh token."""
        return self.token(
            headers, grant_type="refresh_token", refresh_token=refresh_token
        )

    def tokens(self, **more: str) -> Dict[str, Any]:
        """Sign in, and return the tokens."""
        answer = self.exchange(self.authorize(**more)["code"])
        assert answer.status_code == 200, answer.text
        tokens: Dict[str, Any] = answer.json()
        return tokens


def query_of(url: str) -> Dict[str, str]:
    """Return a query whose parameters occur once each."""
    pairs = parse_qsl(urlsplit(url).query)
    assert len(dict(pairs)) == len(pairs)
    return dict(pairs)


def post(url: str, data: Any = None, **options: Any) -> requests.Response:
    """Send a form, or what the options say, on a connection of its own."""
    with session() as client:
        return client.post(url, data, timeout=TIMEOUT, **options)


def call(
    server: ProtectedServer,
    token: Optional[str] = None,
    tool: str = "echo",
    arguments: Any = None,
    *,
    scheme: str = "Bearer",
    proof: Optional[str] = None,
) -> requests.Response:
    """Call a tool."""
    message = tool_call(tool, arguments or {"message": "hello"})
    if token is not None:
        message["headers"]["Authorization"] = f"{scheme} {token}"
    if proof is not None:
        message["headers"]["DPoP"] = proof
    return post(server.url, **message)


def tool_call(tool: str, arguments: Any) -> Dict[str, Any]:
    """Return the body and the headers in the newest revision, which has no session."""
    version = "2026-07-28"
    meta = {
        "io.modelcontextprotocol/protocolVersion": version,
        "io.modelcontextprotocol/clientCapabilities": {},
        "io.modelcontextprotocol/clientInfo": {"name": "interop", "version": "1"},
    }
    params = {"name": tool, "arguments": arguments, "_meta": meta}
    headers = {
        "Accept": "application/json, text/event-stream",
        "MCP-Protocol-Version": version,
        "Mcp-Method": "tools/call",
        "Mcp-Name": tool,
    }
    body = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": params}
    return {"json": body, "headers": headers}


def text_of(response: requests.Response) -> str:
    """Return the text of a tool's result."""
    assert response.status_code == 200, response.text
    text: str = response.json()["result"]["content"][0]["text"]
    return text


def prove(
    key: Path, method: str, url: str, token: str = "", nonce: Optional[str] = None
) -> str:
    """Return a proof; a key that does not exist yet is made."""
    claims: Dict[str, Any] = {"htm": method, "htu": url, "jti": secrets.token_hex()}
    claims["iat"] = int(time.time())
    if token:
        digest = hashlib.sha256(token.encode()).digest()
        claims["ath"] = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
    if nonce is not None:
        claims["nonce"] = nonce
    argv = [str(PYTHON), "-c", PROVE, str(key), json.dumps(claims)]
    ran = subprocess.run(argv, stdout=subprocess.PIPE, check=True, timeout=60)
    return ran.stdout.decode().strip()


def bound_tokens(
    login: Login, key: Path, nonce: Optional[str] = None
) -> Dict[str, Any]:
    """Sign in, and return tokens that are bound to a key."""
    endpoint = login.metadata["token_endpoint"]
    code = login.authorize()["code"]
    answer = login.exchange(code, {"DPoP": prove(key, "POST", endpoint, nonce=nonce)})
    assert answer.status_code == 200, answer.text
    tokens: Dict[str, Any] = answer.json()
    assert tokens["token_type"] == "DPoP"
    return tokens
