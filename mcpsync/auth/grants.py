"""Tokens without a person: a program, an enterprise or a workload vouches instead.

Each grant is an immutable object that says who the program is; what it holds is sent to
nobody but the authorization server it is for. None of them ever registers a client.

Specification: the extensions ``io.modelcontextprotocol/oauth-client-credentials``,
``io.modelcontextprotocol/enterprise-managed-authorization`` and
``io.modelcontextprotocol/auth/wif``; RFC 7523, RFC 8693.
"""

from __future__ import annotations

import base64
import json
import os
import re
import secrets
import stat
import time
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Dict,
    Mapping,
    Optional,
    Sequence,
    Union,
)

from .._deadline import Deadline
from .._text import clean
from ..exceptions import AuthorizationError, ConfigError, IssuerMismatch
from ..types import JSON
from ._records import ClientRecord, ServerMetadata, Token
from .dpop import require_jwt
from .tokens import post_token_request, request_token, token_error, with_auth_method

if TYPE_CHECKING:
    from ._fetch import Fetcher
    from .dpop import DPoP

__all__ = [
    "ClientCredentials",
    "EnterpriseManaged",
    "WorkloadIdentity",
    "private_key_assertion",
    "require_jwt",
]

#: Gets the bytes to sign, and returns the signature as JWS has it: for the ES
#: algorithms that is both numbers one after the other, not the DER encoding.
Signer = Callable[[bytes], bytes]

#: A private key as PEM text, or whoever signs with one.
Key = Union[str, bytes, Signer]

_GRANT = "urn:ietf:params:oauth:grant-type:"
_JWT_BEARER = _GRANT + "jwt-bearer"
_TOKEN_EXCHANGE = _GRANT + "token-exchange"
_ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"
_ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"
_ID_JAG_PROFILE = "urn:ietf:params:oauth:grant-profile:id-jag"

#: Never one with a shared secret, and never none.
_ALGORITHMS = tuple(
    "ES256 ES384 ES512 RS256 RS384 RS512 PS256 PS384 PS512 EdDSA".split()
)

_CURVES = {"ES256": "secp256r1", "ES384": "secp384r1", "ES512": "secp521r1"}

#: Most characters of a private key in PEM format.
_KEY_LENGTH = 64 * 1024

#: Seconds for which an assertion is good at most.
_LONGEST_LIFE = 300.0

#: Most bytes of a file with an assertion.
_ASSERTION_BYTES = 16 * 1024

#: Whatever a JWT is made of, and nothing that a form or a log would stumble over.
_PRINTABLE = re.compile(r"[\x21-\x7e]+")

_JWT = re.compile(r"[A-Za-z0-9_-]+\.([A-Za-z0-9_-]+)\.[A-Za-z0-9_-]*")


# --- assertions ---------------------------------------------------------------------


def private_key_assertion(
    client_id: str,
    audience: str,
    key: Key,
    algorithm: str = "ES256",
    key_id: Optional[str] = None,
    lifetime: float = _LONGEST_LIFE,
) -> Callable[[], str]:
    """Return a function that makes assertions of who a client is (RFC 7523).

    Each call makes another one. The function may be shared by threads.

    Args:
        audience: whom they are for: the issuer of the authorization server.
        key: the private key as unencrypted PEM text, which needs the extra ``jwt``; or
            a function that signs bytes.
        algorithm: the JWS algorithm that goes with the key.
        key_id: names the key, where the server knows several.
        lifetime: seconds for which an assertion is good, 300 at most.

    Raises:
        ConfigError: these do not fit together. The key itself is read later.
    """
    _check_key(key, algorithm)
    if not 0 < lifetime <= _LONGEST_LIFE:
        raise ConfigError("an assertion may be good for up to 300 seconds")
    header = {"alg": algorithm, "typ": "JWT"}
    if key_id is not None:
        header["kid"] = key_id

    def assertion() -> str:
        issued = int(time.time())
        claims: Dict[str, JSON] = {
            "iss": client_id,
            "sub": client_id,
            "aud": audience,
            "iat": issued,
            "exp": issued + max(1, int(lifetime)),
            "jti": secrets.token_urlsafe(24),
        }
        return _signed(header, claims, key)

    return assertion


def _check_key(key: Key, algorithm: str) -> None:
    if algorithm not in _ALGORITHMS:
        raise ConfigError(
            "assertions can be signed by %s, not by %s"
            % (", ".join(_ALGORITHMS), clean(algorithm, 40))
        )
    if not callable(key):
        if len(key) > _KEY_LENGTH:
            raise ConfigError("the private key is longer than %d bytes" % _KEY_LENGTH)
        require_jwt("private_key_jwt")


def _signed(header: Mapping[str, str], claims: Mapping[str, JSON], key: Key) -> str:
    if callable(key):
        signing_input = "%s.%s" % (_encoded(header), _encoded(claims))
        signature = key(signing_input.encode("ascii"))
        return "%s.%s" % (signing_input, _base64(signature))
    return _signed_by_pem(header, claims, key)


def _signed_by_pem(
    header: Mapping[str, str], claims: Mapping[str, JSON], pem: Union[str, bytes]
) -> str:
    import jwt
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    raw = pem.encode("utf-8") if isinstance(pem, str) else pem
    algorithm = header["alg"]
    try:
        private: Any = load_pem_private_key(raw, password=None)
        curve = getattr(getattr(private, "curve", None), "name", None)
        if curve != _CURVES.get(algorithm):
            raise ValueError("another curve")
        return jwt.encode(dict(claims), private, algorithm, headers=dict(header))
    except (jwt.PyJWTError, UnsupportedAlgorithm, ValueError, TypeError):
        # What libraries say about a key could show a part of it.
        raise ConfigError(
            "the private key cannot be used: it must be an unencrypted private key "
            "for %s in PEM format" % algorithm
        ) from None


def _encoded(value: Mapping[str, JSON]) -> str:
    return _base64(json.dumps(value, separators=(",", ":")).encode("ascii"))


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


# --- what the grants have in common -------------------------------------------------


def _form(
    grant_type: str,
    resource: Optional[str],
    scopes: Optional[Sequence[str]],
    **more: str,
) -> Dict[str, str]:
    form = {"grant_type": grant_type, **more}
    if resource is not None:
        form["resource"] = resource
    if scopes:
        form["scope"] = " ".join(scopes)
    return form


def _check_issuer(pinned: Optional[str], metadata: ServerMetadata) -> None:
    """Send nothing to a server that only the MCP server vouches for."""
    if pinned is not None and pinned != metadata.issuer:
        raise IssuerMismatch(
            "the grant is for %s, but the server wants %s"
            % (clean(pinned, 200), clean(metadata.issuer, 200))
        )


def _check_text(value: object, what: str) -> str:
    """Return a token that a function or a file of the program's own gave."""
    text = value.strip() if isinstance(value, str) else ""
    if not _PRINTABLE.fullmatch(text):
        raise ConfigError("the %s is malformed, or there is none" % what)
    return text


# --- client credentials -------------------------------------------------------------


@dataclass(frozen=True)
class ClientCredentials:
    """A program that the authorization server knows by itself. Immutable.

    Attributes:
        client_secret: the program's secret; or else:
        private_key: PEM text, for ``private_key_jwt``, which needs the extra ``jwt``;
            or a function that gets bytes and returns their JWS signature.
        algorithm: the JWS algorithm that goes with the key.
        key_id: names the key, where the server knows several.
        issuer: of the authorization server that knows the program. Without it, what
            proves who the program is goes to whichever the MCP server names.
        audience: of assertions; by default the issuer, as the specification says. Some
            older servers want the URL of their token endpoint.

    Raises:
        ConfigError: there must be one proof of who the program is, and only one.
    """

    client_id: str
    client_secret: Optional[str] = field(default=None, repr=False)
    private_key: Optional[Key] = field(default=None, repr=False)
    algorithm: str = "ES256"
    key_id: Optional[str] = None
    issuer: Optional[str] = None
    audience: Optional[str] = None

    def __post_init__(self) -> None:
        if (self.client_secret is None) == (self.private_key is None):
            raise ConfigError("give either client_secret or private_key")
        if self.private_key is not None:
            _check_key(self.private_key, self.algorithm)

    def obtain(
        self,
        fetcher: Fetcher,
        metadata: ServerMetadata,
        *,
        resource: Optional[str],
        scopes: Optional[Sequence[str]],
        deadline: Deadline,
        dpop: Optional[DPoP] = None,
    ) -> Token:
        """Return a new token.

        Raises:
            IssuerMismatch: the server is not the one that the program is known to.
            TokenError: it refused, or its answer is unusable.
        """
        _check_issuer(self.issuer, metadata)
        return request_token(
            fetcher,
            metadata.token_endpoint,
            _form("client_credentials", resource, scopes),
            self._client(metadata),
            deadline=deadline,
            assertion=self._assertion(metadata),
            dpop=dpop,
        )

    def _client(self, metadata: ServerMetadata) -> ClientRecord:
        method = None if self.private_key is None else "private_key_jwt"
        return _registered(self.client_id, self.client_secret, metadata, method)

    def _assertion(self, metadata: ServerMetadata) -> Optional[Callable[[], str]]:
        if self.private_key is None:
            return None
        audience = self.audience or metadata.issuer
        return private_key_assertion(
            self.client_id, audience, self.private_key, self.algorithm, self.key_id
        )


def _registered(
    client_id: str,
    secret: Optional[str],
    metadata: ServerMetadata,
    method: Optional[str] = None,
) -> ClientRecord:
    """Return a client that was registered by hand."""
    client = ClientRecord(
        client_id, secret, method, kind="preregistered", issuer=metadata.issuer
    )
    return with_auth_method(client, metadata.token_endpoint_auth_methods_supported)


# --- enterprise-managed authorization -----------------------------------------------


@dataclass(frozen=True)
class EnterpriseManaged:
    """A user whom the identity provider of an enterprise vouches for. Immutable.

    The provider turns the user's ID token into an assertion for one authorization
    server (an ID-JAG), and that server turns the assertion into a token.

    Attributes:
        idp_token_endpoint: the URL of the provider's token endpoint.
        id_token: the user's ID token, or a function that returns a current one; it is
            asked each time.
        idp_client_id: what the provider knows this program as.
        client_id: what the authorization server knows it as.
        issuer: of the only authorization server that assertions are made for.
        accepts_issuer: instead of `issuer`, where there are several: tells whether an
            issuer that an MCP server names is one of them.
        idp_auth_method: how the program identifies itself at the provider:
            ``"client_secret_basic"``, ``"client_secret_post"`` or ``"none"``.
        subject_token_type: what `id_token` is, if it is something else.
        require_profile: whether the server must say in its metadata that it takes such
            assertions.

    Raises:
        ConfigError: nothing says which authorization server it is for. An MCP server
            could name one of its own, and have an assertion made for that.
    """

    idp_token_endpoint: str
    id_token: Union[str, Callable[[], str]] = field(repr=False)
    idp_client_id: str
    client_id: str
    client_secret: Optional[str] = field(default=None, repr=False)
    idp_client_secret: Optional[str] = field(default=None, repr=False)
    issuer: Optional[str] = None
    accepts_issuer: Optional[Callable[[str], bool]] = None
    idp_auth_method: Optional[str] = None
    subject_token_type: str = _ID_TOKEN
    require_profile: bool = True

    def __post_init__(self) -> None:
        if self.issuer is None and self.accepts_issuer is None:
            raise ConfigError(
                "enterprise-managed authorization needs issuer=, the authorization "
                "server that assertions are made for"
            )

    def obtain(
        self,
        fetcher: Fetcher,
        metadata: ServerMetadata,
        *,
        resource: Optional[str],
        scopes: Optional[Sequence[str]],
        deadline: Deadline,
        dpop: Optional[DPoP] = None,
    ) -> Token:
        """Return a new token: one request to the provider, then one to the server.

        Raises:
            IssuerMismatch: the server is not one that assertions are made for.
            AuthorizationError: it does not take them.
            TokenError: one of the two refused, or its answer is unusable.
        """
        self._check_server(metadata)
        # Before anything is asked for that could not be used.
        client = _registered(self.client_id, self.client_secret, metadata)
        id_jag = self._exchange(fetcher, metadata, resource, scopes, deadline)
        return request_token(
            fetcher,
            metadata.token_endpoint,
            _form(_JWT_BEARER, resource, scopes, assertion=id_jag),
            client,
            deadline=deadline,
            dpop=dpop,
        )

    def _check_server(self, metadata: ServerMetadata) -> None:
        _check_issuer(self.issuer, metadata)
        accepts, issuer = self.accepts_issuer, metadata.issuer
        if self.issuer is None and accepts is not None and not accepts(issuer):
            raise IssuerMismatch(
                "the server wants %s, which is not accepted" % clean(issuer, 200)
            )
        profiles = metadata.authorization_grant_profiles_supported or ()
        if self.require_profile and _ID_JAG_PROFILE not in profiles:
            raise AuthorizationError(
                "the metadata of %s does not say that it takes assertions of identity "
                "providers (%s); if it does, give require_profile=False"
                % (clean(issuer, 200), _ID_JAG_PROFILE)
            )

    def _exchange(
        self,
        fetcher: Fetcher,
        metadata: ServerMetadata,
        resource: Optional[str],
        scopes: Optional[Sequence[str]],
        deadline: Deadline,
    ) -> str:
        """Return the provider's assertion for an authorization server."""
        given = self.id_token() if callable(self.id_token) else self.id_token
        form = _form(
            _TOKEN_EXCHANGE,
            resource,
            scopes,
            requested_token_type=_ID_JAG,
            subject_token=_check_text(given, "ID token"),
            subject_token_type=self.subject_token_type,
            audience=metadata.issuer,
        )
        answer = post_token_request(
            fetcher,
            self.idp_token_endpoint,
            form,
            self._client_of_provider(),
            deadline=deadline,
            what="token exchange",
        )
        try:
            return self._read_id_jag(answer, metadata.issuer)
        except ValueError as error:
            what, url = "token exchange", self.idp_token_endpoint
            raise token_error(what, url, str(error)) from None

    def _client_of_provider(self) -> ClientRecord:
        client = ClientRecord(
            self.idp_client_id,
            self.idp_client_secret,
            self.idp_auth_method,
            kind="preregistered",
        )
        return with_auth_method(client, None)

    def _read_id_jag(self, answer: Mapping[str, JSON], issuer: str) -> str:
        """Return the assertion if it is for this program at this server."""
        if answer.get("issued_token_type") != _ID_JAG:
            raise ValueError("it issued something else than an ID-JAG")
        token_type = answer.get("token_type")
        if not isinstance(token_type, str) or token_type.lower() != "n_a":
            raise ValueError("it issued an ID-JAG with a token_type other than N_A")
        id_jag = answer.get("access_token")
        claims = _claims(id_jag) if isinstance(id_jag, str) else None
        if claims is None or not isinstance(id_jag, str):
            raise ValueError("what it issued is no JWT")
        if claims.get("client_id", self.client_id) != self.client_id:
            raise ValueError("it issued an ID-JAG for another client_id")
        audience = claims.get("aud", issuer)
        audiences = audience if isinstance(audience, list) else [audience]
        if not {issuer, issuer.rstrip("/"), issuer + "/"}.intersection(
            item for item in audiences if isinstance(item, str)
        ):
            raise ValueError("it issued an ID-JAG for another authorization server")
        return id_jag


def _claims(token: str) -> Optional[Mapping[str, JSON]]:
    """Return what a JWT says. Its signature is for others to check."""
    match = _JWT.fullmatch(token)
    if match is None:
        return None
    try:
        claims = json.loads(
            base64.urlsafe_b64decode(match[1] + "=" * (-len(match[1]) % 4))
        )
    except (ValueError, RecursionError):
        return None
    return claims if isinstance(claims, dict) else None


# --- workload identity --------------------------------------------------------------


@dataclass(frozen=True)
class WorkloadIdentity:
    """A workload that its platform vouches for. Immutable.

    Attributes:
        assertion: the path of a file in which the platform keeps a current JWT, which
            is read each time because such files are replaced; or a function that gets
            the issuer for whom the JWT is, and returns it.
        client_id: what the authorization server knows the program as, if it does.
        issuer: of the authorization server. Without it the JWT goes to whichever the
            MCP server names.

    Raises:
        ConfigError: `assertion` is a JWT itself.
    """

    assertion: Union[str, os.PathLike[str], Callable[[str], str]] = field(repr=False)
    client_id: Optional[str] = None
    issuer: Optional[str] = None

    def __post_init__(self) -> None:
        given = self.assertion
        if isinstance(given, str) and _JWT.fullmatch(given) and _claims(given):
            raise ConfigError(
                "assertion must be the path of a file, or a function: a JWT would soon "
                "be out of date"
            )

    def obtain(
        self,
        fetcher: Fetcher,
        metadata: ServerMetadata,
        *,
        resource: Optional[str],
        scopes: Optional[Sequence[str]],
        deadline: Deadline,
        dpop: Optional[DPoP] = None,
    ) -> Token:
        """Return a new token. What the server refuses is not tried again.

        Raises:
            IssuerMismatch: the server is not the one that the JWT is for.
            ConfigError: there is no JWT.
            TokenError: the server refused, or its answer is unusable.
        """
        _check_issuer(self.issuer, metadata)
        assertion = self._current(metadata.issuer)
        client = None
        if self.client_id is not None:
            client = ClientRecord(self.client_id, auth_method="none")
        return request_token(
            fetcher,
            metadata.token_endpoint,
            _form(_JWT_BEARER, resource, scopes, assertion=assertion),
            client,
            deadline=deadline,
            dpop=dpop,
        )

    def _current(self, issuer: str) -> str:
        if callable(self.assertion):
            return _check_text(self.assertion(issuer), "workload's assertion")
        path = os.fspath(self.assertion)
        what = "assertion in %s" % clean(path, 200)
        try:
            text = _read_file(path).decode("ascii")
        except UnicodeDecodeError:
            raise ConfigError("the %s is malformed" % what) from None
        except OSError as error:
            reason = error.strerror or type(error).__name__
            raise ConfigError("the %s cannot be read: %s" % (what, reason)) from error
        except ValueError:
            raise ConfigError("the %s cannot be read" % what) from None
        return _check_text(text, what)


def _read_file(path: str) -> bytes:
    """Return the content of a small regular file.

    Raises:
        OSError: it is none.
    """
    # A named pipe would keep us waiting for somebody who writes.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    descriptor = os.open(path, flags)
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(None, "it is no regular file")
        with open(descriptor, "rb", closefd=False) as file:
            content = file.read(_ASSERTION_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(content) > _ASSERTION_BYTES:
        raise OSError(None, "it is larger than %d bytes" % _ASSERTION_BYTES)
    return content
