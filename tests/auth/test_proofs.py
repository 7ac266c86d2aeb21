"""Tokens that are good only together with a key (DPoP)."""

from __future__ import annotations

from typing import Any, Dict, Iterator, List, Optional

import jwt
import pytest

from mcpsync.auth.session import AuthorizedSession
from mcpsync.exceptions import AuthorizationError

from ..fakes import CANARY
from ..fakes.scripted_http import Recorded, Reply
from .authority import PING, Realm, together


@pytest.fixture
def realm() -> Iterator[Realm]:
    with Realm() as realm:
        yield realm


def ask(session: AuthorizedSession) -> int:
    """Send a request, and return the status of its answer."""
    url = session.authorizer.server.url
    return session.post(url, json=PING, timeout=20).status_code


class Prover:
    """Has the resource look at proofs, and demand a nonce.

    Attributes:
        proofs: the claims of all proofs.
        nonce: the one that it wants; ``None``: none.
    """

    def __init__(self, realm: Realm) -> None:
        self.realm = realm
        self.proofs: List[Dict[str, Any]] = []
        self.nonce: Optional[str] = None
        self._plain: Any = realm.resource.routes["/mcp"]
        realm.resource.routes["/mcp"] = self._look
        realm.issuer.token_type = "DPoP"
        realm.issuer.document["dpop_signing_alg_values_supported"] = ["ES256"]

    def _look(self, request: Recorded) -> Reply:
        proof = request.headers["DPoP"]
        if proof is None:
            challenge = 'DPoP algs="ES256", resource_metadata="%s"'
            metadata = self.realm.resource.challenge["resource_metadata"]
            return Reply(401, {"WWW-Authenticate": challenge % metadata})
        key = jwt.PyJWK(jwt.get_unverified_header(proof)["jwk"]).key
        claims = jwt.decode(proof, key, algorithms=["ES256"])
        self.proofs.append(claims)
        assert (claims["htm"], claims["htu"]) == ("POST", self.realm.url)
        assert request.headers["Authorization"].startswith("DPoP " + CANARY)
        if claims.get("nonce") != self.nonce:
            headers = {"DPoP-Nonce": self.nonce or ""}
            headers["WWW-Authenticate"] = 'DPoP error="use_dpop_nonce"'
            return Reply(401, headers)
        reply: Reply = self._plain(request)
        return reply


@pytest.fixture
def prover(realm: Realm) -> Prover:
    return Prover(realm)


def test_a_bound_token_comes_with_proofs(realm: Realm, prover: Prover) -> None:
    with realm.session(dpop=True, flow=realm.issuer.log_in) as session:
        assert together(4, lambda: ask(session)) == [200] * 4
    assert len({claims["jti"] for claims in prover.proofs}) == 4
    assert all("ath" in claims for claims in prover.proofs)
    assert len(realm.issuer.logins) == 1
    saved = realm.at_hand()
    assert saved is not None and saved.dpop_key is not None


def test_a_nonce_costs_one_more_request_and_no_login(
    realm: Realm, prover: Prover
) -> None:
    with realm.session(dpop=True, flow=realm.issuer.log_in) as session:
        assert ask(session) == 200
        prover.nonce = "first"
        assert ask(session) == 200
        assert ask(session) == 200
        prover.nonce = "second"
        assert ask(session) == 200
    nonces = [claims.get("nonce") for claims in prover.proofs]
    assert nonces == [None, None, "first", "first", "first", "second"]
    assert len(realm.issuer.logins) == 1 and realm.issuer.refreshes == 0


def test_a_nonce_that_is_never_right(realm: Realm, prover: Prover) -> None:
    with realm.session(dpop=True, flow=realm.issuer.log_in) as session:
        assert ask(session) == 200
        count = iter(range(100))
        plain: Any = realm.resource.routes["/mcp"]

        def renew(request: Recorded) -> Reply:
            prover.nonce = "nonce-%d" % next(count)
            reply: Reply = plain(request)
            return reply

        realm.resource.routes["/mcp"] = renew
        with pytest.raises(AuthorizationError):
            ask(session)
    assert len(prover.proofs) <= 6


def test_the_key_is_that_of_the_stored_login(realm: Realm, prover: Prover) -> None:
    with realm.session(dpop=True, flow=realm.issuer.log_in) as session:
        assert ask(session) == 200
    before = realm.at_hand()
    # Another program, which need not know that the login is bound.
    with realm.session() as session:
        assert ask(session) == 200
        session.refresh_token()
        assert ask(session) == 200
    after = realm.at_hand()
    assert before is not None and after is not None
    assert before.token != after.token and before.dpop_key == after.dpop_key
    posts = [r for r in realm.issuer.requests if r.path == "/token"]
    assert all(post.headers["DPoP"] for post in posts) and len(posts) == 2
