"""Tokens that are bound to a key: each request proves that it has the key (DPoP).

A proof is good for one request. The key is kept beside the tokens, since the refresh
tokens of public clients are bound to it too.

Needs the extra ``jwt``, which is imported when the first key is made or read.

Specification: RFC 9449; the extension ``io.modelcontextprotocol/auth/dpop``.
"""

from __future__ import annotations

import base64
import hashlib
import importlib
import json
import re
import secrets
import threading
import time
from typing import TYPE_CHECKING, Dict, Mapping, Optional, Sequence

from .._lifecycle import Enrolled, enrol
from .._text import clean
from ..exceptions import AuthorizationError, ConfigError
from ..types import JSON
from ._urls import origin, split

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

__all__ = ["DPoP", "require_jwt"]

#: Most servers whose nonces are remembered; there are two as a rule.
_MOST_NONCES = 16

#: RFC 9449, section 8.1; the length is ours.
_NONCE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,1024}")

#: Our algorithms, the preferred one first, and the curves that they are for.
_CURVES = {"ES256": "P-256", "ES384": "P-384", "ES512": "P-521"}

_PUBLIC_PARTS = ("crv", "kty", "x", "y")


def require_jwt(what: str) -> None:
    """Do nothing if the extra ``jwt`` is installed.

    Args:
        what: what it is needed for, for the message.

    Raises:
        ConfigError: it is not.
    """
    try:
        importlib.import_module("jwt")
        importlib.import_module("cryptography.hazmat.primitives.asymmetric.ec")
    except ImportError as error:
        raise ConfigError(
            '%s needs PyJWT and cryptography: pip install "mcpsync[jwt]"' % what
        ) from error


class DPoP(Enrolled):
    """Makes the proofs for one key. May be shared by threads.

    Args:
        key_jwk: the private key as a JWK, as :attr:`jwk` gives it; without one a new
            key is made.
        algorithms: those that the authorization server accepts; ``None``: unknown.

    Raises:
        ConfigError: the extra ``jwt`` is not installed, or the key is none.
        AuthorizationError: the server accepts none of our algorithms.
    """

    def __init__(
        self,
        key_jwk: Optional[Mapping[str, JSON]] = None,
        algorithms: Optional[Sequence[str]] = None,
    ) -> None:
        require_jwt("DPoP")
        if key_jwk is None:
            self._algorithm = _chosen(algorithms, tuple(_CURVES))
            self._key = _new_key(self._algorithm)
        else:
            own = _algorithm_of(key_jwk)
            self._algorithm = _chosen(algorithms, (own,))
            self._key = _read_key(key_jwk)
        self._jwk = _jwk_of(self._key)
        self._public = {name: self._jwk[name] for name in _PUBLIC_PARTS}
        self._nonces: Dict[str, str] = {}
        self.after_fork_in_child()
        enrol(self)

    def after_fork_in_child(self) -> None:
        # Guards the nonces.
        # Never while held: anything that blocks, signing included.
        # Taken by every thread that makes a proof or has got a response.
        self._lock = threading.Lock()

    def __repr__(self) -> str:
        return "<DPoP %s %s>" % (self._algorithm, self.thumbprint)

    @property
    def jwk(self) -> Mapping[str, JSON]:
        """The private key as a JWK, for the credential store: a secret."""
        return dict(self._jwk)

    @property
    def thumbprint(self) -> str:
        """The thumbprint of the public key (RFC 7638), which tokens are bound to."""
        members = json.dumps(self._public, sort_keys=True, separators=(",", ":"))
        return _digest(members)

    def proof(self, method: str, url: str, token: Optional[str] = None) -> str:
        """Return the ``DPoP`` header for one request. Each attempt needs its own.

        Args:
            method: the HTTP method.
            url: where the request goes; query and fragment are left out.
            token: the access token that is sent along, if one is.
        """
        import jwt

        parts = split(url)
        claims: Dict[str, JSON] = {
            "jti": secrets.token_urlsafe(24),
            "htm": method.upper(),
            "htu": parts.origin + (parts.path or "/"),
            "iat": int(time.time()),
        }
        if token is not None:
            claims["ath"] = _digest(token)
        with self._lock:
            nonce = self._nonces.get(parts.origin)
        if nonce is not None:
            claims["nonce"] = nonce
        header = {"typ": "dpop+jwt", "jwk": self._public}
        return jwt.encode(claims, self._key, self._algorithm, headers=header)

    def note(self, url: str, headers: Mapping[str, str]) -> bool:
        """Remember the nonce that a response demands of the next requests.

        Nonces are per origin: that of an authorization server says nothing to others.

        Args:
            url: where the response came from.
            headers: those of the response.

        Returns:
            Whether there was one.
        """
        found = [value for name, value in headers.items() if name.lower() == _HEADER]
        if len(found) != 1 or not _NONCE.fullmatch(found[0]):
            return False
        place = origin(url)
        with self._lock:
            # The newest at the end, the one that was quiet for longest at the front.
            self._nonces.pop(place, None)
            self._nonces[place] = found[0]
            while len(self._nonces) > _MOST_NONCES:
                del self._nonces[next(iter(self._nonces))]
        return True


_HEADER = "dpop-nonce"


def _digest(text: str) -> str:
    return _base64(hashlib.sha256(text.encode("utf-8")).digest())


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _chosen(offered: Optional[Sequence[str]], ours: Sequence[str]) -> str:
    for algorithm in ours:
        if offered is None or algorithm in offered:
            return algorithm
    raise AuthorizationError(
        "the authorization server accepts proofs (DPoP) by %s only, and ours are by %s"
        % (clean(", ".join(offered or ()), 200) or "nothing", " or ".join(ours))
    )


# --- keys ---------------------------------------------------------------------------


def _new_key(algorithm: str) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec

    curves: Dict[str, ec.EllipticCurve] = {
        "ES256": ec.SECP256R1(),
        "ES384": ec.SECP384R1(),
        "ES512": ec.SECP521R1(),
    }
    return ec.generate_private_key(curves[algorithm])


def _algorithm_of(jwk: Mapping[str, JSON]) -> str:
    for algorithm, curve in _CURVES.items():
        if jwk.get("kty") == "EC" and jwk.get("crv") == curve:
            return algorithm
    raise _no_key()


def _read_key(jwk: Mapping[str, JSON]) -> EllipticCurvePrivateKey:
    from cryptography.hazmat.primitives.asymmetric import ec
    from jwt.algorithms import ECAlgorithm
    from jwt.exceptions import PyJWTError

    try:
        key = ECAlgorithm.from_jwk(dict(jwk))
    except (PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        # What it says about the key could show a part of it.
        raise _no_key() from None
    if not isinstance(key, ec.EllipticCurvePrivateKey):
        raise _no_key()
    return key


def _jwk_of(key: EllipticCurvePrivateKey) -> Dict[str, JSON]:
    # Not every version of PyJWT writes numbers at their full length (RFC 7518, 6.2.1).
    length = (key.curve.key_size + 7) // 8
    private = key.private_numbers()
    public = private.public_numbers
    numbers = {"x": public.x, "y": public.y, "d": private.private_value}
    texts = {name: _base64(n.to_bytes(length, "big")) for name, n in numbers.items()}
    algorithm = "ES%d" % min(512, key.curve.key_size)
    return {"kty": "EC", "crv": _CURVES[algorithm], **texts}


def _no_key() -> ConfigError:
    return ConfigError("the key for proofs (DPoP) is no private EC key in JWK format")
