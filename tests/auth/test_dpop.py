"""Proofs that a request has the key that its token is bound to."""

from __future__ import annotations

import base64
import hashlib
import json
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any, Dict, List, Optional, Sequence

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from jwt.algorithms import ECAlgorithm

from mcpsync.auth.dpop import DPoP, require_jwt
from mcpsync.exceptions import AuthorizationError, ConfigError

URL = "https://mcp.example/mcp"


def claims_of(proof: str) -> Dict[str, Any]:
    """Return the claims of a proof, checked as a server does."""
    header = jwt.get_unverified_header(proof)
    key: Any = ECAlgorithm.from_jwk(header["jwk"])
    found: Dict[str, Any] = jwt.decode(proof, key, algorithms=[header["alg"]])
    return found


def nonce_of(dpop: DPoP, url: str) -> Optional[str]:
    found: Optional[str] = claims_of(dpop.proof("GET", url)).get("nonce")
    return found


def test_ed2_header() -> None:
    header = jwt.get_unverified_header(DPoP().proof("POST", URL))
    assert set(header) == {"typ", "alg", "jwk"}
    assert (header["typ"], header["alg"]) == ("dpop+jwt", "ES256")
    assert set(header["jwk"]) == {"kty", "crv", "x", "y"}
    assert (header["jwk"]["kty"], header["jwk"]["crv"]) == ("EC", "P-256")


def test_ed2_claims() -> None:
    before = int(time.time())
    claims = claims_of(DPoP().proof("post", URL))
    assert set(claims) == {"jti", "htm", "htu", "iat"}
    assert (claims["htm"], claims["htu"]) == ("POST", URL)
    assert isinstance(claims["iat"], int) and before <= claims["iat"] <= time.time()
    assert len(claims["jti"]) >= 16


def test_ed2_ath() -> None:
    # The token and the digest of RFC 9449, section 7.1.
    token = "Kz~8mXK1EalYznwH-LC-1fBAo.4Ljp~zsPE_NeO.gxU"
    claims = claims_of(DPoP().proof("GET", URL, token))
    assert claims["ath"] == "fUHyO2r2Z3DZ53EsNrWBb0xWXoaNy59IiKCAqksmQEo"


@pytest.mark.parametrize(
    "url, htu",
    [
        ("https://a.example/mcp?x=1&y=2#z", "https://a.example/mcp"),
        ("https://a.example/mcp?", "https://a.example/mcp"),
        ("https://a.example", "https://a.example/"),
        ("https://a.example?x", "https://a.example/"),
        ("https://A.example:443/Mcp/", "https://a.example/Mcp/"),
        ("http://localhost:3001/mcp", "http://localhost:3001/mcp"),
        ("http://[::1]:80/a%20b", "http://[::1]/a%20b"),
        ("https://user:word@a.example/", "https://a.example/"),
    ],
)
def test_ed2_htu(url: str, htu: str) -> None:
    assert claims_of(DPoP().proof("GET", url))["htu"] == htu


def test_ed2_each_proof_is_another() -> None:
    dpop = DPoP()
    found: List[str] = []

    def prove() -> None:
        found.extend(claims_of(dpop.proof("GET", URL))["jti"] for _ in range(10))

    threads = [threading.Thread(target=prove) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert len(found) == len(set(found)) == 80


# --- keys ---------------------------------------------------------------------------


def test_ed7_the_key_is_kept() -> None:
    first = DPoP()
    stored = json.loads(json.dumps(first.jwk))
    second = DPoP(stored, ["RS256", "ES256"])
    assert second.jwk == first.jwk and second.thumbprint == first.thumbprint
    headers = [jwt.get_unverified_header(d.proof("GET", URL)) for d in (first, second)]
    assert headers[0] == headers[1]
    assert DPoP().thumbprint != first.thumbprint


def test_the_key_cannot_be_changed_from_outside() -> None:
    dpop = DPoP()
    copy: Any = dpop.jwk
    copy.clear()
    assert set(dpop.jwk) == {"kty", "crv", "x", "y", "d"}


def test_thumbprint() -> None:
    dpop = DPoP()
    public = {name: value for name, value in dpop.jwk.items() if name != "d"}
    assert set(public) == {"crv", "kty", "x", "y"}
    text = json.dumps(public, sort_keys=True, separators=(",", ":"))
    digest = hashlib.sha256(text.encode("ascii")).digest()
    expected = base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")
    assert dpop.thumbprint == expected


def test_numbers_at_their_full_length() -> None:
    curve, secret = ec.SECP256R1(), 1
    while True:
        numbers = ec.derive_private_key(secret, curve).public_key().public_numbers()
        if numbers.x >> 248 == 0:
            break
        secret += 1
    values = {"x": numbers.x, "y": numbers.y, "d": secret}
    jwk = {
        name: base64.urlsafe_b64encode(value.to_bytes(32, "big")).decode().rstrip("=")
        for name, value in values.items()
    }
    dpop = DPoP({"kty": "EC", "crv": "P-256", **jwk})
    assert dpop.jwk == {"kty": "EC", "crv": "P-256", **jwk}
    assert claims_of(dpop.proof("GET", URL))["htu"] == URL


@pytest.mark.parametrize(
    "offered, chosen",
    [
        (None, "ES256"),
        (["ES512", "ES256"], "ES256"),
        (["RS256", "ES384"], "ES384"),
        (["ES512"], "ES512"),
    ],
)
def test_ed2_algorithms(offered: Optional[Sequence[str]], chosen: str) -> None:
    dpop = DPoP(algorithms=offered)
    proof = dpop.proof("GET", URL)
    assert jwt.get_unverified_header(proof)["alg"] == chosen
    assert claims_of(proof)["htu"] == URL
    again = DPoP(dpop.jwk, offered)
    assert jwt.get_unverified_header(again.proof("GET", URL))["alg"] == chosen


@pytest.mark.parametrize("offered", [["RS256"], [], ["none"], ["HS256"]])
def test_ed2_no_algorithm_in_common(offered: Sequence[str]) -> None:
    with pytest.raises(AuthorizationError, match="ES256"):
        DPoP(algorithms=offered)


def test_ed2_a_key_that_is_not_accepted_any_more() -> None:
    with pytest.raises(AuthorizationError, match="ES256"):
        DPoP(DPoP().jwk, ["ES384"])


@pytest.mark.parametrize(
    "change",
    [
        {"kty": "RSA"},
        {"kty": None},
        {"crv": "secp256k1"},
        {"crv": "P-384"},
        {"crv": ["P-256"]},
        {"d": None},
        {"d": "AAAA"},
        {"d": 5},
        {"x": "!"},
        {"y": None},
    ],
    ids=str,
)
def test_keys_that_are_none(change: Dict[str, Any]) -> None:
    jwk = {**DPoP().jwk, **change}
    secret = str(DPoP().jwk["d"])
    with pytest.raises(ConfigError, match="no private EC key") as caught:
        DPoP({name: value for name, value in jwk.items() if value is not None})
    assert secret not in str(caught.value)
    assert caught.value.__suppress_context__ or caught.value.__context__ is None


def test_t8_repr() -> None:
    dpop = DPoP()
    assert str(dpop.jwk["d"]) not in repr(dpop)
    assert dpop.thumbprint in repr(dpop)


@pytest.mark.parametrize(
    "missing", ["jwt", "cryptography.hazmat.primitives.asymmetric.ec"]
)
def test_the_extra_is_missing(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(ConfigError, match=r'DPoP needs .* "mcpsync\[jwt\]"'):
        DPoP()
    with pytest.raises(ConfigError, match="something needs"):
        require_jwt("something")


# --- nonces -------------------------------------------------------------------------


def test_ed5_nonces_are_per_origin() -> None:
    dpop = DPoP()
    assert nonce_of(dpop, URL) is None
    assert dpop.note(URL, {"DPoP-Nonce": "n-1"})
    assert dpop.note("https://as.example/token", {"dpop-nonce": "n-2"})
    assert nonce_of(dpop, "https://mcp.example:443/other?x") == "n-1"
    assert nonce_of(dpop, "https://as.example/") == "n-2"
    assert nonce_of(dpop, "http://mcp.example/mcp") is None
    assert nonce_of(dpop, "https://mcp.example:8443/mcp") is None


def test_ed5_the_newest_counts() -> None:
    dpop = DPoP()
    for nonce in ("n-1", "n-2"):
        dpop.note(URL, {"DPoP-Nonce": nonce})
    assert nonce_of(dpop, URL) == "n-2"


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"DPoP-Nonce": ""},
        {"DPoP-Nonce": "a, b"},
        {"DPoP-Nonce": 'a"b'},
        {"DPoP-Nonce": "a\\b"},
        {"DPoP-Nonce": "a\r\nb"},
        {"DPoP-Nonce": "é"},
        {"DPoP-Nonce": "n" * 1025},
    ],
    ids=lambda headers: repr(headers)[:30],
)
def test_ed5_no_nonce(headers: Dict[str, str]) -> None:
    dpop = DPoP()
    dpop.note(URL, {"DPoP-Nonce": "n-1"})
    assert not dpop.note(URL, headers)
    assert nonce_of(dpop, URL) == "n-1"


def test_ed5_only_so_many_origins() -> None:
    dpop = DPoP()
    for number in range(40):
        dpop.note("https://as%d.example/" % number, {"DPoP-Nonce": "n"})
        dpop.note(URL, {"DPoP-Nonce": "n"})
    assert nonce_of(dpop, URL) == "n"
    known = [nonce_of(dpop, "https://as%d.example/" % n) for n in range(40)]
    assert 0 < len(list(filter(None, known))) < 20 and known[39] == "n"


def test_ed5_the_one_that_was_quiet_for_longest_is_forgotten() -> None:
    dpop = DPoP()
    dpop.note(URL, {"DPoP-Nonce": "n-1"})
    for number in range(15):
        dpop.note("https://as%d.example/" % number, {"DPoP-Nonce": "n"})
    dpop.note(URL, {"DPoP-Nonce": "n-2"})
    dpop.note("https://one-more.example/", {"DPoP-Nonce": "n"})
    assert nonce_of(dpop, URL) == "n-2"
    assert nonce_of(dpop, "https://as0.example/") is None


def test_ed5_threads() -> None:
    dpop = DPoP()
    nonces = {"n-%d" % number for number in range(8)}

    def note(nonce: str) -> None:
        for number in range(200):
            dpop.note("https://as%d.example/" % (number % 30), {"DPoP-Nonce": nonce})
            dpop.note(URL, {"DPoP-Nonce": nonce})

    threads = [threading.Thread(target=note, args=(nonce,)) for nonce in nonces]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert nonce_of(dpop, URL) in nonces


def test_a_fork_while_a_nonce_is_written_down() -> None:
    script = """
        import os
        import jwt
        from mcpsync.auth.dpop import DPoP

        url = "https://mcp.example/mcp"
        dpop = DPoP()
        dpop.note(url, {"DPoP-Nonce": "n-1"})
        with dpop._lock:
            child = os.fork()
            if not child:
                status = 1
                try:
                    proof = dpop.proof("GET", url)
                    claims = jwt.decode(proof, options={"verify_signature": False})
                    status = 0 if claims["nonce"] == "n-1" else 2
                finally:
                    os._exit(status)
        assert os.waitpid(child, 0)[1] == 0
    """
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(script)]
    subprocess.run(command, check=True, timeout=30)
