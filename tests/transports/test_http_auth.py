"""Credentials go to their server alone, and are never shown, whatever it says."""

from __future__ import annotations

import base64
import json
from typing import Any, Dict, List, Optional, Tuple, Type

import pytest
import requests
import requests.auth

import mcpsync
from mcpsync._deadline import Deadline
from mcpsync.exceptions import (
    AuthorizationError,
    ConfigError,
    HTTPStatusError,
    InsufficientScope,
    InvalidMessage,
    LoginRequired,
    MCPError,
)
from mcpsync.transports.http import StreamableHTTPTransport

from ..fakes import CANARY
from ..fakes.hostile import hostile, respond
from ..fakes.leaks import no_leaks
from ..fakes.scripted_http import Recorded, Reply, ScriptedServer, answer_to, json_reply
from .calling import LEGACY, RESULT, Heard, ask, call, initialize, json_answer, opened


def _script(request: Recorded) -> Reply:
    return json_reply(answer_to(request, RESULT))


def authorization(url: Optional[str] = None, **options: Any) -> Optional[str]:
    """Return the Authorization header that a call carries."""
    with ScriptedServer(_script) as server:
        with opened(url or server.url, **options) as transport:
            ask(transport)
        value: Optional[str] = server.requests[0].headers["Authorization"]
        return value


# --- what is sent -------------------------------------------------------------------


def test_a_token_is_sent_as_bearer() -> None:
    assert authorization(auth=CANARY) == "Bearer " + CANARY


def test_without_credentials_nothing_is_sent() -> None:
    assert authorization() is None


def test_a_pair_is_a_user_and_a_password() -> None:
    expected = base64.b64encode(b"ada:secret").decode("ascii")
    assert authorization(auth=("ada", "secret")) == "Basic " + expected


def test_an_authentication_object_of_requests() -> None:
    auth = requests.auth.HTTPBasicAuth("ada", "secret")
    assert (authorization(auth=auth) or "").startswith("Basic ")


def test_a_function_may_return_another_request() -> None:
    def sign(prepared: requests.PreparedRequest) -> requests.PreparedRequest:
        signed = prepared.copy()
        signed.headers["Authorization"] = "Signed %d" % len(signed.body or b"")
        return signed

    assert (authorization(auth=sign) or "").startswith("Signed ")


def test_a_token_beats_what_the_url_says() -> None:
    with ScriptedServer(_script) as server:
        url = server.url.replace("//", "//ada:secret@")
        with opened(url, auth=CANARY) as transport:
            ask(transport)
        assert server.requests[0].headers["Authorization"] == "Bearer " + CANARY


@pytest.mark.parametrize(
    "auth", ["", "two words", "snow\N{SNOWMAN}", "a\nb", 5, object()]
)
def test_what_is_no_credential_is_refused_at_once(auth: Any) -> None:
    with pytest.raises(ConfigError):
        StreamableHTTPTransport("http://127.0.0.1:1/", auth=auth)


def test_a_function_that_writes_what_cannot_be_sent() -> None:
    def sign(prepared: requests.PreparedRequest) -> None:
        prepared.headers["Authorization"] = "Signed %s\r\nX-Other: 1" % CANARY

    with ScriptedServer(_script) as server, opened(server.url, auth=sign) as transport:
        with pytest.raises(ConfigError) as caught:
            ask(transport)
        assert server.connections == 0
    assert CANARY not in str(caught.value)


def test_what_an_authentication_object_raises_is_the_callers() -> None:
    def sign(prepared: requests.PreparedRequest) -> None:
        raise KeyError("mine")

    with no_leaks(), ScriptedServer(_script) as server:
        with opened(server.url, auth=sign) as transport:
            with pytest.raises(KeyError):
                ask(transport)


def test_digest_authentication_works() -> None:
    challenge = 'Digest realm="r", nonce="n", qop="auth", algorithm=MD5'

    def script(request: Recorded) -> Reply:
        if "Authorization" not in request.headers:
            return Reply(401, {"WWW-Authenticate": challenge})
        return json_reply(answer_to(request, RESULT))

    auth = requests.auth.HTTPDigestAuth("ada", "secret")
    with ScriptedServer(script) as server, opened(server.url, auth=auth) as transport:
        assert ask(transport).result == RESULT
        header = server.requests[1].headers["Authorization"]
        assert header.startswith('Digest username="ada"')


# --- only to its own server ---------------------------------------------------------


def test_only_its_own_origin_gets_the_token() -> None:
    with ScriptedServer(_script) as server, ScriptedServer(_script) as other:
        with opened(server.url, auth=CANARY) as transport:
            for url in (server.url, server.url + "/more", other.url):
                with transport.wire.guarded(Deadline.after(5)) as abort:
                    response = transport.wire.send(
                        "POST", {}, call().body, abort, url=url
                    )
                    transport.wire.discard(response, abort)
        assert [r.headers["Authorization"] for r in server.requests] == [
            "Bearer " + CANARY
        ] * 2
        assert other.requests[0].headers["Authorization"] is None


# --- refusals -----------------------------------------------------------------------


def refusal(
    status: str, *headers: str, body: bytes = b"", **options: Any
) -> Tuple[MCPError, int]:
    """Return what a call raises that is refused so, and how often it was sent."""
    reply = respond(body, *headers, status=status)

    def answer(connection: Any, *_: bytes) -> bool:
        connection.sendall(reply)
        return True

    with hostile(answer) as server, opened(server.url, **options) as transport:
        with pytest.raises(MCPError) as caught:
            ask(transport)
        return caught.value, len(server.requests)


def test_401_without_credentials_asks_for_a_login() -> None:
    error, times = refusal("401 Unauthorized", "WWW-Authenticate: Bearer")
    assert isinstance(error, LoginRequired)
    assert error.server_url is not None and error.server_url.endswith("/mcp")
    assert times == 1


def test_401_with_credentials_is_another_matter() -> None:
    error, times = refusal("401 Unauthorized", auth=CANARY)
    assert type(error) is AuthorizationError
    assert times == 1


@pytest.mark.parametrize(
    "challenge, kind",
    [
        ('Bearer error="insufficient_scope", scope="x"', InsufficientScope),
        ("Bearer error=insufficient_scope", InsufficientScope),
        ("Bearer", HTTPStatusError),
    ],
)
def test_403(challenge: str, kind: Type[MCPError]) -> None:
    error, _ = refusal("403 Forbidden", "WWW-Authenticate: " + challenge, auth=CANARY)
    assert type(error) is kind


class Repairing:
    """An authorizer that mends its credential so many times."""

    def __init__(self, times: int) -> None:
        self.times = times
        self.seen: List[Any] = []
        self.refused: List[object] = []
        self.closed = False

    def authorize(
        self, prepared: Any, deadline: Deadline, refused: Optional[object] = None
    ) -> object:
        self.refused.append(refused)
        prepared.headers["Authorization"] = "Bearer credential-%d" % len(self.seen)
        return len(self.seen)

    def repair(self, credential: object, response: Any, deadline: Deadline) -> bool:
        self.seen.append((credential, response.status_code))
        return len(self.seen) <= self.times

    def close(self) -> None:
        self.closed = True


def test_a_repaired_credential_is_used_for_the_same_body() -> None:
    def script(request: Recorded) -> Reply:
        if request.headers["Authorization"] != "Bearer credential-2":
            return Reply(401, body=b"no")
        return json_reply(answer_to(request, RESULT))

    auth = Repairing(2)
    with ScriptedServer(script) as server, opened(server.url, auth=auth) as transport:
        assert ask(transport).result == RESULT
        assert len({request.body for request in server.requests}) == 1
        assert server.connections == 1
    assert auth.seen == [(0, 401), (1, 401)]
    # Each time it is told what the same request carried before.
    assert auth.refused == [None, 0, 1]
    assert auth.closed


def test_repairs_have_an_end() -> None:
    auth = Repairing(1000)
    error, times = refusal("401 Unauthorized", auth=auth)
    assert isinstance(error, AuthorizationError)
    assert times == 7


def test_a_repair_that_fails_leaves_nothing_behind() -> None:
    class Failing(Repairing):
        def repair(self, credential: object, response: Any, deadline: Deadline) -> bool:
            raise LoginRequired("nobody is there")

    with no_leaks():
        error, times = refusal("401 Unauthorized", body=b"no", auth=Failing(0))
    assert (type(error), times) == (LoginRequired, 1)


# --- what is never shown ------------------------------------------------------------

_ECHO = "the token %s of you" % CANARY


@pytest.mark.parametrize(
    "options",
    [
        {"auth": CANARY},
        {"headers": {"Authorization": "Bearer " + CANARY}},
        {"headers": {"X-API-Key": CANARY}},
    ],
    ids=["token", "header", "key"],
)
@pytest.mark.parametrize(
    "reply",
    [
        respond(_ECHO.encode("ascii"), status="500 No", content_type="text/plain"),
        respond(_ECHO.encode("ascii"), content_type="text/html"),
        respond(_ECHO.encode("ascii")),
        respond(json.dumps([_ECHO]).encode("ascii")),
        respond(json.dumps({"jsonrpc": _ECHO}).encode("ascii")),
        respond(
            json.dumps({"jsonrpc": "2.0", "id": 1, "error": _ECHO}).encode("ascii")
        ),
        b"HTTP/1.1 " + _ECHO.encode("ascii") + b"\r\n\r\n",
        respond(b"", "Location: /" + CANARY, status="302 Moved"),
        respond(
            b"data: " + _ECHO.encode("ascii") + b"\n\n",
            content_type="text/event-stream",
            length=False,
        ),
    ],
)
def test_what_the_server_repeats_is_masked(
    reply: bytes, options: Dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    heard = Heard()
    with hostile(lambda connection, *_: connection.sendall(reply)) as server:
        with opened(server.url, heard, **options) as transport:
            with pytest.raises(MCPError) as caught:
                ask(transport)
    error = caught.value
    shown = "%s %r %s %s" % (error, error, vars(error), heard.notes)
    assert CANARY not in shown
    assert CANARY not in caplog.text


def test_the_text_of_an_error_is_masked_and_its_data_is_not() -> None:
    error = {"code": -32000, "message": _ECHO, "data": _ECHO}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "error": error}).encode("ascii")
    for status in ("200 OK", "400 Bad"):
        reply = respond(body, status=status)
        with hostile(lambda connection, *_: connection.sendall(reply)) as server:
            with opened(server.url, auth=CANARY) as transport:
                response = ask(transport)
        assert response.error is not None
        assert response.error["message"] == "the token *** of you"
        assert response.error["data"] == _ECHO


def test_a_result_is_what_the_server_sent() -> None:
    result = {"content": [{"type": "text", "text": _ECHO}], "resultType": "complete"}

    def script(request: Recorded) -> Reply:
        return json_reply(answer_to(request, result))

    with ScriptedServer(script) as server:
        with opened(server.url, auth=CANARY) as transport:
            assert ask(transport).result == result


@pytest.mark.parametrize(
    "secret", ["123456", "1.5e10", '{"a": 1}', "true,false", "null"]
)
def test_a_secret_that_looks_like_json_breaks_nothing(secret: str) -> None:
    result = b'{"a": 123456, "b": 1.5e10, "c": [true,false,null]}'
    body = b'{"jsonrpc":"2.0","id":1,"result":%s}' % result
    reply = respond(body)
    with hostile(lambda connection, *_: connection.sendall(reply)) as server:
        with opened(server.url, headers={"X-Key": secret}) as transport:
            assert ask(transport).result["a"] == 123456


def test_secrets_of_the_url_are_masked() -> None:
    reply = respond(_ECHO.encode("ascii"), status="500 No")
    with hostile(lambda connection, *_: connection.sendall(reply)) as server:
        url = server.url.replace("//", "//ada:%s@" % CANARY)
        for hidden in (url, server.url + "?key=" + CANARY):
            with opened(hidden) as transport:
                with pytest.raises(HTTPStatusError) as caught:
                    ask(transport)
                assert CANARY not in str(caught.value)
                assert CANARY not in repr(transport)


def test_a_session_id_is_a_secret() -> None:
    def script(request: Recorded) -> Reply:
        if request.rpc_method == "initialize":
            return json_reply(
                answer_to(request, {}), headers={"Mcp-Session-Id": CANARY}
            )
        return Reply(500, body=b"no session " + CANARY.encode("ascii"))

    with ScriptedServer(script) as server, opened(server.url) as transport:
        ask(transport, initialize())
        notification = LEGACY.notification("notifications/initialized")
        with pytest.raises(HTTPStatusError) as caught:
            transport.send(notification, Deadline.after(5))
        assert server.requests[1].headers["Mcp-Session-Id"] == CANARY
    assert CANARY not in str(caught.value)
    assert "no session ***" in str(caught.value)


@pytest.mark.parametrize(
    "value",
    ["two words", "tab\there", "caf\xe9", "x" * 1025, "a\x7f", "one, two"],
)
def test_a_session_id_that_cannot_be_sent_back_is_refused(value: str) -> None:
    reply = json_answer(1, "Mcp-Session-Id: " + value)
    with hostile(lambda connection, *_: connection.sendall(reply)) as server:
        with opened(server.url) as transport:
            with pytest.raises(InvalidMessage) as caught:
                ask(transport, initialize())
    assert value not in str(caught.value)


def test_credentials_that_change_do_not_push_out_other_secrets() -> None:
    count = [0]

    def sign(prepared: requests.PreparedRequest) -> None:
        count[0] += 1
        prepared.headers["Authorization"] = "Signed signature-%d" % count[0]

    def script(request: Recorded) -> Reply:
        if request.json["id"] < 50:
            return json_reply(answer_to(request, RESULT))
        return Reply(500, body=("%s, signature-%d" % (_ECHO, count[0])).encode("ascii"))

    options: Dict[str, Any] = {"headers": {"X-Key": CANARY}, "auth": sign}
    with ScriptedServer(script) as server, opened(server.url, **options) as transport:
        for id in range(1, 50):
            ask(transport, call(id))
        with pytest.raises(
            HTTPStatusError, match="the token ..* of you, ..*$"
        ) as caught:
            ask(transport, call(50))
    assert CANARY not in str(caught.value) and "signature-50" not in str(caught.value)


def test_the_client_has_no_secret_in_its_repr() -> None:
    transport = StreamableHTTPTransport(
        "http://ada:%s@127.0.0.1:1/mcp?key=%s" % (CANARY, CANARY), auth=CANARY
    )
    client = mcpsync.Client(transport)
    assert CANARY not in repr(client) + repr(transport) + client.name
