"""The authorization servers of these tests, driven without the client under test."""

from __future__ import annotations

import base64
import http.server
import os
import secrets
import subprocess
import sys
import threading
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Callable, Dict, Iterator, List, Optional, Tuple
from urllib.parse import urlsplit

import pytest
import requests

import mcpsync

from ..fakes.leaks import snapshot
from . import authservers, browser
from .authservers import AuthorizationServer, ProtectedServer, session
from .browser import sign_in
from .flow import (
    REDIRECT_URI,
    Login,
    bound_tokens,
    call,
    post,
    prove,
    query_of,
    text_of,
    tool_call,
)

CLIENT_ID_URL = "https://client.example.com/metadata.json"

Eventually = Callable[[Callable[[], object]], None]


@pytest.fixture(scope="module")
def oidc() -> Iterator[AuthorizationServer]:
    with authservers.oidc_provider() as authority:
        yield authority


@pytest.fixture(scope="module", params=["oidc_provider", "mcp_auth_server"])
def authority(request: pytest.FixtureRequest) -> Iterator[AuthorizationServer]:
    if request.param == "oidc_provider":
        # One process is enough for those who ask for it by either name.
        yield request.getfixturevalue("oidc")
        return
    with authservers.mcp_auth_server() as server:
        yield server


@pytest.fixture(scope="module")
def protected(authority: AuthorizationServer) -> Iterator[ProtectedServer]:
    with authservers.protected_server(authority, "--write-tool", "touch") as server:
        yield server


@pytest.fixture
def resource(oidc: AuthorizationServer) -> Iterator[ProtectedServer]:
    with authservers.protected_server(oidc) as server:
        yield server


def difference(after: Any, before: Any) -> Any:
    """Return what was counted between two states of a server's counters."""
    if isinstance(after, dict):
        found = {key: difference(after[key], before.get(key, 0)) for key in after}
        return {key: value for key, value in found.items() if value}
    return after[len(before) :] if isinstance(after, list) else after - before


# --- both servers -------------------------------------------------------------------


def test_without_a_token_the_metadata_leads_to_the_authorization_server(
    authority: AuthorizationServer, protected: ProtectedServer
) -> None:
    before = protected.stats()
    refused = call(protected)
    assert refused.status_code == 401
    url = protected.origin + "/.well-known/oauth-protected-resource/mcp"
    assert refused.headers["WWW-Authenticate"] == (
        f'Bearer resource_metadata="{url}", scope="mcp:read"'
    )
    metadata = protected.get(urlsplit(url).path)
    assert metadata["resource"] == protected.url
    assert metadata["authorization_servers"] == [authority.issuer]
    found = authority.metadata()
    assert found["issuer"] == authority.issuer
    assert found["code_challenge_methods_supported"] == ["S256"]
    # The demo server has not seen the call.
    counted = difference(protected.stats(), before)
    assert counted == {"unauthorized": 1, "metadata": 1, "connections": 3}


def test_a_user_signs_in_and_the_token_opens_the_server(
    authority: AuthorizationServer, protected: ProtectedServer
) -> None:
    before, seen = authority.counters(), protected.stats()
    login = Login(authority, protected.url)
    tokens = login.tokens()
    assert tokens["token_type"] == "Bearer"
    assert tokens["expires_in"] == 3600
    assert tokens["scope"] == "mcp:read"
    assert "ECHOING: hello" in text_of(call(protected, tokens["access_token"]))
    counted = difference(authority.counters(), before)
    assert counted["registrations"] == counted["authorizations"] == 1
    assert counted["token_grants"] == {"authorization_code": 1}
    assert counted["introspections"] == 1
    passed = difference(protected.stats(), seen)
    assert (passed["passed"], passed["tokens"], passed["calls"]) == (1, 1, 1)


def test_a_token_that_is_none_is_refused(protected: ProtectedServer) -> None:
    refused = call(protected, "guessed")
    assert refused.status_code == 401
    assert 'error="invalid_token"' in refused.headers["WWW-Authenticate"]


def test_a_token_for_another_resource_is_refused(
    authority: AuthorizationServer, protected: ProtectedServer
) -> None:
    tokens = Login(authority, "http://127.0.0.1:1/mcp").tokens()
    assert call(protected, tokens["access_token"]).status_code == 401


def test_a_code_is_good_once_and_only_with_its_verifier(
    authority: AuthorizationServer, protected: ProtectedServer
) -> None:
    login = Login(authority, protected.url)
    code = login.authorize()["code"]
    login.verifier = secrets.token_urlsafe(48)
    assert login.exchange(code).json()["error"] == "invalid_grant"
    code = login.authorize()["code"]
    assert login.exchange(code).status_code == 200
    assert login.exchange(code).json()["error"] == "invalid_grant"


def test_refresh_tokens_rotate_and_a_spent_one_ends_them_all(
    authority: AuthorizationServer, protected: ProtectedServer
) -> None:
    login = Login(authority, protected.url)
    first = login.tokens()
    before = authority.counters()
    second = login.refresh(first["refresh_token"]).json()
    assert second["refresh_token"] != first["refresh_token"]
    assert second["access_token"] != first["access_token"]
    text_of(call(protected, second["access_token"]))
    again = login.refresh(first["refresh_token"])
    assert (again.status_code, again.json()["error"]) == (400, "invalid_grant")
    after = login.refresh(second["refresh_token"])
    assert (after.status_code, after.json()["error"]) == (400, "invalid_grant")
    assert call(protected, second["access_token"]).status_code == 401
    counted = difference(authority.counters(), before)
    assert counted["token_grants"] == {"refresh_token": 1}


def test_a_revoked_token_opens_nothing(
    authority: AuthorizationServer, protected: ProtectedServer
) -> None:
    # The Python SDK's endpoint wants a secret even of those who have none.
    login = Login(authority, protected.url)
    method = {"token_endpoint_auth_method": "client_secret_post"}
    login.client = login.register(**method)
    form = {name: login.client[name] for name in ("client_id", "client_secret")}
    code = login.authorize()["code"]
    answer = login.token(
        grant_type="authorization_code",
        code=code,
        code_verifier=login.verifier,
        redirect_uri=REDIRECT_URI,
        **form,
    )
    tokens = answer.json()
    text_of(call(protected, tokens["access_token"]))
    before = authority.counters()
    revoked = post(
        login.metadata["revocation_endpoint"],
        {"token": tokens["refresh_token"], **form},
    )
    assert revoked.status_code == 200
    assert difference(authority.counters(), before) == {"revocations": 1}
    assert call(protected, tokens["access_token"]).status_code == 401
    gone = login.token(
        grant_type="refresh_token", refresh_token=tokens["refresh_token"], **form
    )
    assert gone.json()["error"] == "invalid_grant"


def test_a_secret_may_be_sent_in_the_header(
    authority: AuthorizationServer, protected: ProtectedServer
) -> None:
    login = Login(authority, protected.url)
    login.client = login.register(token_endpoint_auth_method="client_secret_basic")
    pair = f"{login.client['client_id']}:{login.client['client_secret']}"
    basic = base64.b64encode(pair.encode()).decode()
    code = login.authorize()["code"]
    answer = login.exchange(code, {"Authorization": f"Basic {basic}"})
    assert answer.status_code == 200, answer.text


def test_a_user_who_cancels_sends_an_error(
    authority: AuthorizationServer, protected: ProtectedServer
) -> None:
    login = Login(authority, protected.url)
    answer = query_of(sign_in(login.url(), deny=True))
    assert answer["error"] == "access_denied"
    assert answer["state"] == login.state


def test_a_tool_may_take_a_scope_that_another_authorization_gives(
    authority: AuthorizationServer, protected: ProtectedServer
) -> None:
    login = Login(authority, protected.url)
    touch = {"uri": "demo://counter"}
    token = login.tokens()["access_token"]
    refused = call(protected, token, tool="touch", arguments=touch)
    assert refused.status_code == 403
    challenge = refused.headers["WWW-Authenticate"]
    assert 'error="insufficient_scope"' in challenge
    assert 'scope="mcp:write"' in challenge
    token = login.tokens(scope="mcp:read mcp:write")["access_token"]
    text_of(call(protected, token, tool="touch", arguments=touch))


@pytest.mark.parametrize("start", ["oidc_provider", "mcp_auth_server"])
def test_a_restarted_server_has_forgotten_everybody(start: str) -> None:
    with getattr(authservers, start)() as authority:
        with authservers.protected_server(authority) as server:
            login = Login(authority, server.url)
            tokens = login.tokens()
            issuer, pid = authority.issuer, authority.pid
            authority.restart()
            assert authority.issuer == issuer and authority.pid != pid
            # Its secret for the resource server is another one.
            server.trust(authority)
            refused = login.refresh(tokens["refresh_token"])
            assert refused.json()["error"] == "invalid_client"
            assert call(server, tokens["access_token"]).status_code == 401
            login.client = login.register()
            text_of(call(server, login.tokens()["access_token"]))


def test_a_server_may_trust_another_authorization_server(
    oidc: AuthorizationServer, resource: ProtectedServer
) -> None:
    token = Login(oidc, resource.url).tokens()["access_token"]
    text_of(call(resource, token))
    with authservers.mcp_auth_server() as other:
        resource.trust(other)
        assert call(resource, token).status_code == 401
        metadata = resource.get("/.well-known/oauth-protected-resource/mcp")
        assert metadata["authorization_servers"] == [other.issuer]
        text_of(call(resource, Login(other, resource.url).tokens()["access_token"]))


def test_a_browser_may_deliver_the_answer(
    authority: AuthorizationServer, protected: ProtectedServer
) -> None:
    answers: List[str] = []

    class Listener(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answers.append(self.path)
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Listener) as listener:
        login = Login(authority, protected.url)
        uri = f"http://127.0.0.1:{listener.server_port}/callback"
        login.client = login.register(redirect_uris=[uri])
        # As a program, which is how a client starts a browser.
        url = login.url(redirect_uri=uri)
        with subprocess.Popen([sys.executable, browser.__file__, url, "ada"]) as ran:
            listener.timeout = 60
            listener.handle_request()
            assert ran.wait(60) == 0
    (answer,) = answers
    assert answer.startswith("/callback?")
    assert query_of(answer)["code"] and query_of(answer)["state"] == login.state


def test_nothing_is_left_of_a_server_that_was_stopped() -> None:
    before = snapshot()
    with authservers.oidc_provider() as authority:
        with authservers.protected_server(authority) as server:
            pids = [authority.pid, server.pid]
            assert set(pids) <= snapshot().children
    assert snapshot().children == before.children
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


# --- what oidc-provider alone has ---------------------------------------------------


def test_the_answer_names_the_issuer(
    oidc: AuthorizationServer, resource: ProtectedServer
) -> None:
    login = Login(oidc, resource.url)
    assert login.metadata["authorization_response_iss_parameter_supported"] is True
    assert login.authorize()["iss"] == oidc.issuer
    listed = oidc.get("/.well-known/openid-configuration")
    assert listed == login.metadata


def test_only_s256_is_taken(
    oidc: AuthorizationServer, resource: ProtectedServer
) -> None:
    login = Login(oidc, resource.url)
    plain = query_of(sign_in(login.url(code_challenge_method="plain")))
    assert plain["error"] == "invalid_request"


def test_a_client_may_be_a_document(
    oidc: AuthorizationServer, resource: ProtectedServer
) -> None:
    document = {
        "client_id": CLIENT_ID_URL,
        "client_name": "interop",
        "redirect_uris": [REDIRECT_URI],
        "grant_types": ["authorization_code", "refresh_token"],
        "token_endpoint_auth_method": "none",
        "application_type": "native",
    }
    oidc.serve_client_metadata(CLIENT_ID_URL, document)
    before = oidc.counters()
    login = Login(oidc, resource.url, document)
    assert login.metadata["client_id_metadata_document_supported"] is True
    tokens = login.tokens()
    text_of(call(resource, tokens["access_token"]))
    assert "registrations" not in difference(oidc.counters(), before)


def test_access_tokens_expire_as_soon_as_one_likes(eventually: Eventually) -> None:
    with authservers.oidc_provider("--access-token-ttl", "1") as oidc:
        with authservers.protected_server(oidc) as server:
            tokens = Login(oidc, server.url).tokens()
            assert tokens["expires_in"] == 1
            eventually(lambda: call(server, tokens["access_token"]).status_code == 401)


def test_refresh_tokens_may_take_the_scope_offline_access() -> None:
    with authservers.oidc_provider("--offline-access") as oidc:
        login = Login(oidc, "http://127.0.0.1:1/mcp")
        assert "refresh_token" not in login.tokens()
        # OpenID Connect Core 11: without that prompt the scope is ignored.
        scope = "mcp:read offline_access"
        assert "refresh_token" not in login.tokens(scope=scope)
        assert login.tokens(scope=scope, prompt="consent")["refresh_token"]


def test_a_dropped_answer_was_a_grant_all_the_same(
    oidc: AuthorizationServer, resource: ProtectedServer
) -> None:
    login = Login(oidc, resource.url)
    tokens = login.tokens()
    before = oidc.counters()
    oidc.fault(drop_after=True)
    with pytest.raises(requests.ConnectionError):
        login.refresh(tokens["refresh_token"])
    counted = difference(oidc.counters(), before)
    assert counted["token_grants"] == {"refresh_token": 1}
    assert login.refresh(tokens["refresh_token"]).json()["error"] == "invalid_grant"


def test_a_delayed_answer_is_a_grant_before_it_comes(
    oidc: AuthorizationServer, resource: ProtectedServer, eventually: Eventually
) -> None:
    login = Login(oidc, resource.url)
    tokens = login.tokens()
    before = oidc.counters()["token_grants"].get("refresh_token", 0)
    oidc.fault(delay_ms=600_000)
    form = {"refresh_token": tokens["refresh_token"], **login.client}
    with session() as client:
        thread = threading.Thread(
            target=_refresh_in_vain, args=(client, login, form), daemon=True
        )
        thread.start()
        eventually(lambda: oidc.counters()["token_pending"] == 1)
        eventually(
            lambda: oidc.counters()["token_grants"].get("refresh_token") == before + 1
        )
        thread.join(60)
    assert not thread.is_alive()
    # The server stops waiting when the client is gone.
    eventually(lambda: oidc.counters()["token_pending"] == 0)


def _refresh_in_vain(
    client: requests.Session, login: Login, form: Dict[str, Any]
) -> None:
    body = {
        "grant_type": "refresh_token",
        "client_id": form["client_id"],
        "refresh_token": form["refresh_token"],
    }
    with pytest.raises(requests.Timeout):
        client.post(login.metadata["token_endpoint"], body, timeout=3)


def test_a_connection_that_breaks_before_changes_nothing(
    oidc: AuthorizationServer, resource: ProtectedServer
) -> None:
    login = Login(oidc, resource.url)
    tokens = login.tokens()
    oidc.fault(drop_before=True)
    with pytest.raises(requests.ConnectionError):
        login.refresh(tokens["refresh_token"])
    assert login.refresh(tokens["refresh_token"]).status_code == 200


def test_a_refused_token_request_changes_nothing(
    oidc: AuthorizationServer, resource: ProtectedServer
) -> None:
    login = Login(oidc, resource.url)
    tokens = login.tokens()
    oidc.fault(status=503, retry_after=1, times=2)
    for _ in range(2):
        refused = login.refresh(tokens["refresh_token"])
        assert refused.status_code == 503
        assert refused.headers["Retry-After"] == "1"
    assert login.refresh(tokens["refresh_token"]).status_code == 200


def test_the_log_tells_how_tokens_were_asked_for(
    oidc: AuthorizationServer, resource: ProtectedServer
) -> None:
    login = Login(oidc, resource.url)
    login.tokens()
    assert oidc.counters()["token_log"][-1] == {
        "grant_type": "authorization_code",
        "client_id": login.client["client_id"],
        "client_auth": "none",
        "resource": resource.url,
        "dpop": False,
        "status": 200,
    }


def test_the_calls_that_run_are_counted(
    oidc: AuthorizationServer, resource: ProtectedServer, eventually: Eventually
) -> None:
    token = Login(oidc, resource.url).tokens()["access_token"]
    message = tool_call("wait", {"seconds": 600})
    message["headers"]["Authorization"] = f"Bearer {token}"
    with session() as client, ExitStack() as streams:
        for _ in range(8):
            stream = client.post(resource.url, stream=True, timeout=60, **message)
            streams.callback(stream.close)
        eventually(lambda: resource.stats()["in_flight"] == 8)
    # The end of its stream cancels a call.
    eventually(lambda: resource.stats()["in_flight"] == 0)
    stats = resource.stats()
    assert (stats["max_in_flight"], stats["calls"], stats["passed"]) == (8, 8, 8)


@pytest.mark.parametrize("protocol", ["auto", "legacy"])
def test_the_client_gets_in_with_a_token(
    oidc: AuthorizationServer, resource: ProtectedServer, protocol: str
) -> None:
    token = Login(oidc, resource.url).tokens()["access_token"]
    with mcpsync.connect(resource.url, auth=token, protocol=protocol) as client:
        assert "ECHOING: hello" in client.tools.echo(message="hello").text
        assert client.call_tool("count", {"to": 2, "delay": 0}).data == {"counted": 2}
    assert resource.stats()["unauthorized"] == 0


# --- tokens bound to a key ----------------------------------------------------------


def test_a_bound_token_takes_a_proof_of_its_key(
    oidc: AuthorizationServer, tmp_path: Path
) -> None:
    with authservers.protected_server(oidc, "--dpop") as server:
        assert call(server).headers["WWW-Authenticate"].startswith("DPoP ")
        login, key = Login(oidc, server.url), tmp_path / "key"
        token = bound_tokens(login, key)["access_token"]

        def status(proof: Optional[str], scheme: str = "DPoP") -> int:
            return call(server, token, scheme=scheme, proof=proof).status_code

        proof = prove(key, "POST", server.url, token)
        assert status(proof) == 200
        assert status(proof) == 401
        assert status(None) == 401
        assert status(prove(key, "GET", server.url, token)) == 401
        assert status(prove(key, "POST", server.url, "other")) == 401
        assert status(prove(tmp_path / "other", "POST", server.url, token)) == 401
        assert status(prove(key, "POST", server.url, token), "Bearer") == 401
        unbound = login.tokens()["access_token"]
        assert call(server, unbound).status_code == 401


def test_the_refresh_token_of_a_bound_token_takes_a_proof_as_well(
    oidc: AuthorizationServer, resource: ProtectedServer, tmp_path: Path
) -> None:
    login, key = Login(oidc, resource.url), tmp_path / "key"
    tokens = bound_tokens(login, key)
    # A server that takes unbound tokens takes bound ones.
    proof = prove(key, "POST", resource.url, tokens["access_token"])
    text_of(call(resource, tokens["access_token"], scheme="DPoP", proof=proof))
    spent = tokens["refresh_token"]
    assert login.refresh(spent).json()["error"] == "invalid_grant"
    proof = prove(key, "POST", login.metadata["token_endpoint"])
    renewed = login.refresh(spent, {"DPoP": proof}).json()
    assert renewed["token_type"] == "DPoP"
    assert renewed["refresh_token"] != spent
    assert oidc.counters()["token_log"][-1]["dpop"] is True


def test_both_servers_may_want_a_nonce_of_theirs(tmp_path: Path) -> None:
    key = tmp_path / "key"
    with authservers.oidc_provider("--dpop-nonce") as oidc:
        options = ("--dpop", "--dpop-nonce")
        with authservers.protected_server(oidc, *options) as server:
            login = Login(oidc, server.url)
            endpoint = login.metadata["token_endpoint"]
            proof = prove(key, "POST", endpoint)
            refused = login.exchange(login.authorize()["code"], {"DPoP": proof})
            assert refused.json()["error"] == "use_dpop_nonce"
            nonce = refused.headers["DPoP-Nonce"]
            token = bound_tokens(login, key, nonce)["access_token"]
            status, nonce = _refusal(
                server, token, prove(key, "POST", server.url, token)
            )
            assert status == 401
            proof = prove(key, "POST", server.url, token, nonce)
            text_of(call(server, token, scheme="DPoP", proof=proof))


def _refusal(server: ProtectedServer, token: str, proof: str) -> Tuple[int, str]:
    refused = call(server, token, scheme="DPoP", proof=proof)
    assert 'error="use_dpop_nonce"' in refused.headers["WWW-Authenticate"]
    return refused.status_code, refused.headers["DPoP-Nonce"]
