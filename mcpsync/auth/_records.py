"""What the authorization part knows: tokens, clients, and two kinds of metadata.

Plain immutable records. Identifiers of servers and resources are the very strings that
were received: an added slash is another issuer.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Mapping, Optional, Tuple

__all__ = [
    "Challenge",
    "ClientRecord",
    "Credentials",
    "ResourceMetadata",
    "ServerMetadata",
    "Token",
]

JSON = Any
Names = Tuple[str, ...]


@dataclass(frozen=True)
class Token:
    """An access token with what belongs to it.

    Attributes:
        expires_at: seconds since the epoch; ``None``: nobody knows.
        scope: what was granted; ``None``: the server did not say.
    """

    access_token: str = field(repr=False)
    token_type: str = "Bearer"
    expires_at: Optional[float] = None
    refresh_token: Optional[str] = field(default=None, repr=False)
    scope: Optional[Names] = None


@dataclass(frozen=True)
class ClientRecord:
    """What an authorization server knows this client as.

    Attributes:
        auth_method: ``"none"``, ``"client_secret_basic"``, ``"client_secret_post"`` or
            ``"private_key_jwt"``; ``None``: chosen from the server's metadata.
        secret_expires_at: seconds since the epoch; ``None``: never.
        kind: ``"dcr"``, ``"preregistered"`` or ``"cimd"``.
        issuer: the only server that may see it; ``None``: not bound yet.
        scopes: what it was registered to ask for; ``None``: nobody knows.
    """

    client_id: str
    client_secret: Optional[str] = field(default=None, repr=False)
    auth_method: Optional[str] = None
    redirect_uris: Names = ()
    secret_expires_at: Optional[float] = None
    kind: str = "dcr"
    issuer: Optional[str] = None
    # Not part of what it is: credentials are kept without it.
    scopes: Optional[Names] = field(default=None, compare=False)


@dataclass(frozen=True)
class Credentials:
    """A token, bound to the server and the issuer that it is for."""

    server_name: str
    server_url: str
    client: ClientRecord
    token: Token
    issuer: Optional[str] = None
    resource: Optional[str] = None
    token_endpoint: Optional[str] = None
    requested_scopes: Names = ()
    dpop_key: Optional[Mapping[str, JSON]] = field(default=None, repr=False)
    raw: Mapping[str, JSON] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class ResourceMetadata:
    """What a protected resource says about itself (RFC 9728)."""

    resource: str
    authorization_servers: Names
    scopes_supported: Optional[Names] = None
    raw: Mapping[str, JSON] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class ServerMetadata:
    """What an authorization server says about itself (RFC 8414).

    Attributes:
        found: ``False`` for the default endpoints of 2025-03-26, which a server
            without metadata has.
    """

    issuer: str
    token_endpoint: str
    authorization_endpoint: Optional[str] = None
    registration_endpoint: Optional[str] = None
    revocation_endpoint: Optional[str] = None
    scopes_supported: Optional[Names] = None
    code_challenge_methods_supported: Optional[Names] = None
    token_endpoint_auth_methods_supported: Optional[Names] = None
    authorization_grant_profiles_supported: Optional[Names] = None
    dpop_signing_alg_values_supported: Optional[Names] = None
    client_id_metadata_document_supported: bool = False
    authorization_response_iss_parameter_supported: bool = False
    found: bool = True
    raw: Mapping[str, JSON] = field(default_factory=dict, repr=False, compare=False)


@dataclass(frozen=True)
class Challenge:
    """One challenge of a ``WWW-Authenticate`` header; names are in lower case."""

    scheme: str
    params: Mapping[str, str] = field(default_factory=dict)
