"""An authorization server, an MCP server that trusts it, and somebody who logs in.

Both are real servers on the loopback interface. Refresh tokens are rotated, and a
family of tokens ends when an old one of it comes back.
"""

from __future__ import annotations

import threading
import time
import urllib.parse
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
    TypeVar,
    Union,
)

import mcpsync
from mcpsync.auth._records import ClientRecord, Credentials, Token
from mcpsync.auth.login import code_challenge
from mcpsync.auth.session import AuthorizedSession
from mcpsync.auth.stores import MemoryStore

from ..fakes import CANARY
from ..fakes.scripted_http import Break, Recorded, Reply, answer_to, json_reply
from .sites import Site

__all__ = [
    "EXPIRED",
    "Issuer",
    "LOST",
    "PING",
    "Realm",
    "Resource",
    "form_of",
    "held_back",
    "outage",
    "refusal",
    "together",
]

T = TypeVar("T")
Names = Tuple[str, ...]

NAME = "demo"

PING = {"jsonrpc": "2.0", "id": 1, "method": "ping"}

#: Seconds, for `Realm.stored`: it is over.
EXPIRED = -100.0


def form_of(request: Recorded) -> Dict[str, str]:
    return dict(urllib.parse.parse_qsl(request.body.decode("ascii")))


def refusal(code: str, status: int = 400) -> Reply:
    """Return the answer of a token endpoint that refuses."""
    return json_reply({"error": code}, status)


def outage(status: int = 503) -> Reply:
    return Reply(status, {}, b"busy")


def _broken() -> None:
    raise Break


#: An answer of which nobody knows what it said.
LOST = Reply(200, {"Content-Type": "application/json"}, [b'{"access_', _broken])


def held_back(gate: threading.Event) -> Callable[[Dict[str, str]], Optional[Reply]]:
    """Let the token endpoint answer as usual, but not before a test says so."""

    def wait(form: Dict[str, str]) -> Optional[Reply]:
        assert gate.wait(20)
        return None

    return wait


class _Family:
    """The tokens that came of one login."""

    def __init__(self, scopes: Names) -> None:
        self.alive = True
        self.scopes = scopes
        self.refresh_token = ""


Fault = Union[Reply, Callable[[Dict[str, str]], Optional[Reply]]]


class Issuer(Site):
    """The authorization server. A context manager.

    Attributes:
        document: its metadata.
        faults: what the token endpoint answers next, one by one, instead of a token;
            a function gets the form, and may return ``None`` to let it be answered.
        forms: what the token endpoint was asked for.
        lasts: seconds that an access token is good for.
        names_scope: whether it tells what was granted.
        grants: makes of the scopes that were asked for those that are granted.
        logins: the parameters of every login.
        registered: the clients that registered here.
        revoked: the tokens that were revoked.
        deny: whether the person says no.
    """

    def __init__(self) -> None:
        super().__init__()
        self.document: Dict[str, Any] = {
            "issuer": self.base,
            "authorization_endpoint": self.base + "/authorize",
            "token_endpoint": self.base + "/token",
            "registration_endpoint": self.base + "/register",
            "revocation_endpoint": self.base + "/revoke",
            "code_challenge_methods_supported": ["S256"],
            "token_endpoint_auth_methods_supported": ["none", "client_secret_post"],
            "authorization_response_iss_parameter_supported": True,
        }
        self.faults: List[Fault] = []
        self.forms: List[Dict[str, str]] = []
        self.lasts = 3600
        self.names_scope = True
        self.grants: Callable[[Names], Names] = lambda scopes: scopes
        self.logins: List[Dict[str, str]] = []
        self.registered: List[str] = []
        self.revoked: List[str] = []
        self.deny = False
        self.token_type = "Bearer"
        # Guards all tokens and codes.
        # Never while held: a wait.
        # Taken by the threads that answer, and by tests.
        self._lock = threading.Lock()
        self._families: Dict[str, _Family] = {}
        self._access: Dict[str, _Family] = {}
        self._codes: Dict[str, Dict[str, str]] = {}
        self._count = 0
        self.routes["/.well-known/oauth-authorization-server"] = self.document
        self.routes["/token"] = self._token
        self.routes["/register"] = self._register
        self.routes["/revoke"] = self._revoke

    def __enter__(self) -> "Issuer":
        return self

    # --- what a test asks -----------------------------------------------------

    def asked_for(self, grant: str) -> List[Dict[str, str]]:
        """Return the forms with this grant type."""
        return [form for form in list(self.forms) if form["grant_type"] == grant]

    @property
    def refreshes(self) -> int:
        return len(self.asked_for("refresh_token"))

    def scopes_of(self, access_token: Optional[str]) -> Optional[Names]:
        """Return what an access token is good for; ``None``: it is not good."""
        with self._lock:
            family = self._access.get(access_token or "")
            return family.scopes if family is not None and family.alive else None

    def issue(self, scopes: Names = ()) -> Dict[str, Any]:
        """Return the answer with the first tokens of a new family."""
        with self._lock:
            return self._issued(_Family(scopes))

    def spend(self, form: Mapping[str, str]) -> None:
        """Refresh a token as usual, and tell nobody."""
        with self._lock:
            self._refresh(form)

    def void(self, access_token: str) -> None:
        """Have an access token be good no more, without a word to the client."""
        with self._lock:
            del self._access[access_token]

    # --- the person -----------------------------------------------------------

    def log_in(self, url: str) -> str:
        """Do what the person does at a login URL; return where the browser ends."""
        base, _, query = url.partition("?")
        assert base == self.document["authorization_endpoint"]
        asked = dict(urllib.parse.parse_qsl(query, strict_parsing=True))
        assert asked["response_type"] == "code"
        assert asked["code_challenge_method"] == "S256"
        with self._lock:
            self.logins.append(asked)
            code = "%s-code-%d" % (CANARY, len(self.logins))
            self._codes[code] = asked
        back = {"state": asked["state"], "iss": self.document["issuer"]}
        if self.deny:
            back.update(error="access_denied", error_description="No.")
        else:
            back["code"] = code
        return asked["redirect_uri"] + "?" + urllib.parse.urlencode(back)

    # --- its endpoints --------------------------------------------------------

    def _token(self, request: Recorded) -> Reply:
        form = form_of(request)
        self.forms.append(form)
        if self.faults:
            fault = self.faults.pop(0)
            reply = fault(form) if callable(fault) else fault
            if reply is not None:
                return reply
        with self._lock:
            if form["grant_type"] == "refresh_token":
                return self._refresh(form)
            if form["grant_type"] == "client_credentials":
                return json_reply(self._issued(_Family(_scopes(form))))
            return self._redeem(form)

    def _refresh(self, form: Mapping[str, str]) -> Reply:
        family = self._families.get(form["refresh_token"])
        if family is None or not family.alive:
            return refusal("invalid_grant")
        if family.refresh_token != form["refresh_token"]:
            # An old one: somebody else has it.
            family.alive = False
            return refusal("invalid_grant")
        return json_reply(self._issued(family))

    def _redeem(self, form: Mapping[str, str]) -> Reply:
        asked = self._codes.pop(form["code"], None)
        if asked is None:
            return refusal("invalid_grant")
        assert code_challenge(form["code_verifier"]) == asked["code_challenge"]
        same = ("redirect_uri", "client_id", "resource")
        assert [form.get(name) for name in same] == [asked.get(name) for name in same]
        return json_reply(self._issued(_Family(self.grants(_scopes(asked)))))

    def _issued(self, family: _Family) -> Dict[str, Any]:
        self._count += 1
        access = "%s-access-%d" % (CANARY, self._count)
        family.refresh_token = "%s-refresh-%d" % (CANARY, self._count)
        self._families[family.refresh_token] = family
        self._access[access] = family
        answer = {
            "access_token": access,
            "token_type": self.token_type,
            "expires_in": self.lasts,
            "refresh_token": family.refresh_token,
        }
        if self.names_scope:
            answer["scope"] = " ".join(family.scopes)
        return answer

    def _register(self, request: Recorded) -> Reply:
        client_id = "client-%d" % (len(self.registered) + 1)
        self.registered.append(client_id)
        answer = {"client_id": client_id, "token_endpoint_auth_method": "none"}
        return json_reply({**request.json, **answer}, 201)

    def _revoke(self, request: Recorded) -> Reply:
        self.revoked.append(form_of(request)["token"])
        return Reply(200)


def _scopes(form: Mapping[str, str]) -> Names:
    return tuple(form.get("scope", "").split())


class Resource(Site):
    """An MCP server that wants the tokens of an issuer. A context manager.

    Attributes:
        document: its metadata.
        challenge: parameters of the challenge of its 401 responses.
        wants: scopes without which it answers 403; a function of the request.
        carried: the Authorization header of each request to it; ``None``: none.
    """

    def __init__(self, issuer: Issuer) -> None:
        super().__init__()
        self.issuer = issuer
        well_known = "/.well-known/oauth-protected-resource/mcp"
        self.document: Dict[str, Any] = {
            "resource": self.url,
            "authorization_servers": [issuer.base],
        }
        self.challenge = {"resource_metadata": self.base + well_known}
        self.wants: Callable[[Recorded], Sequence[str]] = lambda request: ()
        self.carried: List[Optional[str]] = []
        self.routes[well_known] = lambda request: json_reply(self.document)
        self.routes["/mcp"] = self._mcp

    def _mcp(self, request: Recorded) -> Reply:
        header: Optional[str] = request.headers["Authorization"]
        self.carried.append(header)
        scopes = self.issuer.scopes_of((header or "").partition(" ")[2])
        if scopes is None:
            return self.refuse(401, **self.challenge)
        wanted = self.wants(request)
        if not set(wanted) <= set(scopes):
            return self.refuse(403, error="insufficient_scope", scope=" ".join(wanted))
        if request.method != "POST":
            return Reply(204)
        return json_reply(answer_to(request, {}))

    @property
    def last(self) -> str:
        """The access token of the last request; empty if it had none."""
        return (self.carried[-1] or "").partition(" ")[2]

    @staticmethod
    def refuse(status: int, **params: str) -> Reply:
        texts = ['%s="%s"' % pair for pair in params.items()]
        return Reply(status, {"WWW-Authenticate": "Bearer " + ", ".join(texts)}, b"no")


class Realm:
    """The two servers, and the store of a client of theirs. A context manager.

    Attributes:
        url: that of the MCP server.
        store: what `session` and `stored` use.
    """

    def __init__(self, store: Any = None) -> None:
        self.issuer = Issuer()
        self.resource = Resource(self.issuer)
        self.url = self.resource.url
        self.store: Any = MemoryStore() if store is None else store

    def __enter__(self) -> "Realm":
        return self

    def __exit__(self, *exc_info: Any) -> None:
        try:
            self.resource.__exit__(*exc_info)
        finally:
            self.issuer.__exit__(*exc_info)

    def oauth(self, **options: Any) -> mcpsync.OAuth:
        options.setdefault("store", self.store)
        return mcpsync.OAuth(**options)

    def session(self, **options: Any) -> AuthorizedSession:
        return self.oauth(**options).for_server(NAME, self.url)

    def at_hand(self) -> Optional[Credentials]:
        """Return what the store has."""
        found: Optional[Credentials] = self.store.load(NAME, self.url)
        return found

    def stored(self, seconds: float = EXPIRED, **changes: Any) -> Credentials:
        """Store a login, and return it.

        Args:
            seconds: for which its access token is good by the client's clock. If they
                are over, the server does not take it any more either.
            changes: fields of the credentials.
        """
        scopes = changes.get("requested_scopes", ())
        answer = self.issuer.issue(scopes)
        if seconds <= 0:
            self.issuer.void(answer["access_token"])
        token = Token(
            answer["access_token"],
            self.issuer.token_type,
            time.time() + seconds,
            answer["refresh_token"],
            scopes,
        )
        client = ClientRecord("client-0", auth_method="none", issuer=self.issuer.base)
        fields: Dict[str, Any] = {
            "client": client,
            "token": token,
            "issuer": self.issuer.base,
            "resource": self.url,
            "token_endpoint": self.issuer.base + "/token",
        }
        fields.update(changes)
        credentials = Credentials(NAME, self.url, **fields)
        self.store.save(credentials)
        return credentials


def together(count: int, f: Callable[[], T]) -> List[Union[T, BaseException]]:
    """Return what comes of a function in so many threads at once."""
    outcomes: List[Union[T, BaseException]] = []
    barrier = threading.Barrier(count, timeout=10)

    def run() -> None:
        try:
            barrier.wait()
            outcomes.append(f())
        except BaseException as error:
            outcomes.append(error)

    threads = [threading.Thread(target=run, daemon=True) for _ in range(count)]
    for thread in threads:
        thread.start()
    for thread in _joined(threads):
        assert not thread.is_alive(), "still running"
    return outcomes


def _joined(threads: Sequence[threading.Thread]) -> Iterator[threading.Thread]:
    end = time.monotonic() + 20
    for thread in threads:
        thread.join(max(0.0, end - time.monotonic()))
        yield thread
