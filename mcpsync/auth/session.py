"""A session whose requests carry a token that is always good.

`requests_oauthlib` refreshes by its own clock alone, each thread for itself, and sends
the caller's data along. The hook that refreshes is ours here: it is the one of
:class:`~mcpsync.auth.authorizer.Authorizer`, which all threads share.

Specification: 2026-07-28, basic/authorization (access token usage, error handling).
"""

from __future__ import annotations

import time
from collections import OrderedDict
from typing import Any, Dict, FrozenSet, List, Optional, Tuple, Union

import requests
from requests_oauthlib import OAuth2Session

from .._deadline import Deadline
from .._lifecycle import Enrolled, enrol
from .._text import clean
from ..exceptions import (
    AuthorizationError,
    ConfigError,
    DiscoveryError,
    InsufficientScope,
    LoginRequired,
)
from ._records import Challenge, Credentials
from ._urls import bare_url, same_origin
from .authorizer import Authorizer, Need
from .discovery import parse_challenges, step_up_scopes
from .dpop import DPoP

__all__ = ["AuthorizedSession", "Credential"]

Names = Tuple[str, ...]

#: Authorizations for more scopes in the course of one request.
STEP_UPS = 2

#: Seconds for which it is remembered that more scopes were asked for in vain.
STEP_UP_MEMORY = 600.0

#: Times that a plain request of the session itself is sent again.
_REPEATS = 6

#: Seconds that a plain request of the session itself may take by default.
_PATIENCE = 300.0


class Credential:
    """What one request carried, and what has been tried for it. For one thread.

    Attributes:
        credentials: ``None``: it carried no token.
        tried: ``"refresh"``, ``"grant"``, ``"login"``, ``"nonce"``.
        step_ups: how often more scopes were asked for.
        purpose: the MCP method and name that the request was for.
        server_address: the IP address that refused it, where that is known.
    """

    def __init__(
        self,
        credentials: Optional[Credentials],
        request: requests.PreparedRequest,
        refused: Optional["Credential"],
    ) -> None:
        self.credentials = credentials
        self.method = request.method or ""
        self.url = request.url or ""
        headers = request.headers
        self.step_ups: int = 0
        self.server_address: Optional[str] = None
        self.tried: FrozenSet[str] = frozenset()
        if refused is not None:
            self.tried, self.step_ups = refused.tried, refused.step_ups
        self.purpose = (headers.get("Mcp-Method"), headers.get("Mcp-Name"))

    @property
    def access_token(self) -> Optional[str]:
        held = self.credentials
        return None if held is None else held.token.access_token


class AuthorizedSession(OAuth2Session, Enrolled):
    """Puts a server's token on requests to it, and gets another one when it must.

    Handed to a transport it authorizes what that sends. It is a ``requests`` session
    as well, for plain requests to the same server, which may come from any number of
    threads; others it refuses.
    """

    def __init__(self, authorizer: Authorizer) -> None:
        super().__init__(client_id=authorizer.config.client_id)
        self.trust_env = False
        self.authorizer = authorizer
        self._server = authorizer.server
        # The keys that proofs are made with, by access token: only the last one.
        self._dpop: Tuple[Optional[str], Optional[DPoP]] = (None, None)
        # When which scopes were asked for, and for what. Single steps only.
        self._step_ups: Dict[object, float] = {}
        # Connections of the parent of a fork; see below.
        self._not_ours: List[object] = []
        enrol(self)

    def after_fork_in_child(self) -> None:
        # A connection that two processes write to is good for neither. The pools are
        # kept: to end one takes locks that a thread of the parent may have held.
        self._not_ours.append(self.adapters)
        self.adapters = OrderedDict()
        for scheme in ("https://", "http://"):
            self.mount(scheme, requests.adapters.HTTPAdapter())

    # --- what a transport asks for --------------------------------------------

    def authorize(
        self,
        prepared: requests.PreparedRequest,
        deadline: Deadline,
        refused: Optional[object] = None,
    ) -> Optional[Credential]:
        """Add the token to a request, refreshed first if its time is almost over.

        Args:
            refused: what the same request carried before.

        Returns:
            What it carries, for :meth:`repair`; ``None`` if the request is not ours to
            authorize: it has credentials of its own, or goes to another origin.

        Raises:
            MCPError: the token has expired and cannot be refreshed just now.
        """
        if "Authorization" in prepared.headers:
            return None
        if not same_origin(prepared.url or "", self._server.url):
            return None
        if prepared.method == "DELETE":
            # A farewell: nothing is begun for it that nobody would wait for.
            held = self.authorizer.held
        else:
            held = self.authorizer.current(deadline)
        before = refused if isinstance(refused, Credential) else None
        credential = Credential(held, prepared, before)
        if held is not None and not self._add(prepared, held):
            credential.credentials = None
        return credential

    def _add(self, prepared: requests.PreparedRequest, held: Credentials) -> bool:
        """Add a token to a request; ``False`` if it is of no use without its key."""
        token = held.token
        if token.token_type.lower() != "dpop":
            prepared.headers["Authorization"] = "Bearer " + token.access_token
            return True
        dpop = self._dpop_for(held)
        if dpop is None:
            return False
        method, url = prepared.method or "", prepared.url or ""
        prepared.headers["Authorization"] = "DPoP " + token.access_token
        prepared.headers["DPoP"] = dpop.proof(method, url, token.access_token)

        def note(response: requests.Response, *args: Any, **kwargs: Any) -> None:
            dpop.note(url, response.headers)

        prepared.hooks.setdefault("response", []).append(note)
        return True

    def _dpop_for(self, held: Credentials) -> Optional[DPoP]:
        """Return what makes proofs for a token, if it is bound to a key."""
        if held.dpop_key is None:
            return None
        thumb = str(sorted(held.dpop_key.items()))
        known, dpop = self._dpop
        if dpop is None or known != thumb:
            dpop = DPoP(held.dpop_key)
            self._dpop = (thumb, dpop)
        return dpop

    def repair(
        self, credential: object, response: requests.Response, deadline: Deadline
    ) -> bool:
        """Look at a 401 or 403; return whether to send the same request again.

        Raises:
            LoginRequired: somebody has to log in, and may not be asked here.
            InsufficientScope: more scopes are wanted than can be had.
            AuthorizationError: there is no token that the server would take.
        """
        if not isinstance(credential, Credential):
            return False
        challenges = tuple(parse_challenges(_challenges_of(response)))
        credential.server_address = getattr(response, "server_address", None)
        if response.status_code == 401:
            return self._unauthorized(credential, challenges, deadline)
        return self._forbidden(credential, challenges, deadline)

    # --- 401 ------------------------------------------------------------------

    def _unauthorized(
        self,
        credential: Credential,
        challenges: Tuple[Challenge, ...],
        deadline: Deadline,
    ) -> bool:
        if _wants_nonce(challenges):
            # The proof was noted to lack it; nobody has to log in for that.
            if "nonce" in credential.tried:
                raise AuthorizationError(
                    "the server wants another nonce each time",
                    server=self._server.name,
                )
            credential.tried |= {"nonce"}
            return credential.credentials is not None
        if credential.method == "DELETE":
            # Only a courtesy.
            return False
        if credential.tried & {"login", "grant"}:
            error = AuthorizationError(
                "the server refuses the token that was just issued for it",
                server=self._server.name,
            )
            self.authorizer.note_failed_login(error)
            raise error
        # A stream in the background opens no browser.
        background = credential.method == "GET" and credential.credentials is not None
        need = Need(
            challenges,
            credential.access_token,
            may_refresh="refresh" not in credential.tried,
            may_log_in=not background,
            server_address=credential.server_address,
        )
        obtained = self.authorizer.obtain(need, deadline)
        credential.tried |= {obtained.source}
        return True

    # --- 403 ------------------------------------------------------------------

    def _forbidden(
        self,
        credential: Credential,
        challenges: Tuple[Challenge, ...],
        deadline: Deadline,
    ) -> bool:
        challenge = _scope_challenge(challenges)
        held = credential.credentials
        if challenge is None or held is None or credential.method == "DELETE":
            return False
        try:
            scopes = step_up_scopes(challenge, held.requested_scopes, held.token.scope)
        except DiscoveryError as error:
            raise self._insufficient(error.message) from error
        if scopes is None:
            raise self._insufficient("it was issued for what the server asks for")
        self._check_policy(held, scopes)
        need = Need(
            challenges,
            held.token.access_token,
            scopes=scopes,
            may_refresh=False,
            may_log_in=credential.method != "GET",
            server_address=credential.server_address,
        )
        newest = self.authorizer.held
        if newest is None or not need.is_met_by(newest):
            self._step_up(credential, need, deadline)
        return True

    def _check_policy(self, held: Credentials, scopes: Names) -> None:
        """Refuse to ask for more than the configuration allows."""
        config = self.authorizer.config
        allowed = {*held.requested_scopes, *config.scopes}
        if config.scope_policy == "only" and not set(scopes) <= allowed:
            raise self._insufficient(
                "the configuration does not let us ask for the scopes "
                + clean(" ".join(scopes), 200)
            )

    def _step_up(self, credential: Credential, need: Need, deadline: Deadline) -> None:
        """Ask for more scopes, together with all who want the same meanwhile."""
        scopes = need.scopes or ()
        key = self._count_step_up(credential, scopes)
        try:
            self.authorizer.obtain(need, deadline)
        except LoginRequired as error:
            wanted = "it would need the scopes %s" % clean(" ".join(scopes), 200)
            raise self._insufficient(wanted) from error
        except BaseException:
            self._step_ups[key] = time.monotonic()
            raise
        self._step_ups[key] = time.monotonic()

    def _count_step_up(self, credential: Credential, scopes: Names) -> object:
        """Return what to remember a step-up by; refuse one that was in vain before."""
        now = time.monotonic()
        for known, moment in list(self._step_ups.items()):
            if moment + STEP_UP_MEMORY <= now:
                self._step_ups.pop(known, None)
        key = (credential.purpose, frozenset(scopes))
        # A server may want something else each time.
        insatiable = (credential.purpose, None)
        if credential.step_ups >= STEP_UPS:
            self._step_ups[insatiable] = now
        if insatiable in self._step_ups or key in self._step_ups:
            raise self._insufficient(
                "the server still asks for more after an authorization for the scopes "
                + clean(" ".join(scopes), 200)
            )
        credential.step_ups += 1
        return key

    def _insufficient(self, why: str) -> InsufficientScope:
        return InsufficientScope(
            "the token does not allow this: %s" % why, server=self._server.name
        )

    # --- what a session does ----------------------------------------------------

    @property
    def token(self) -> Dict[str, object]:
        """The token as ``requests_oauthlib`` has it; empty if there is none."""
        held = self.authorizer.held if "authorizer" in self.__dict__ else None
        if held is None:
            return {}
        token = held.token
        return {
            "access_token": token.access_token,
            "token_type": token.token_type,
            "expires_at": token.expires_at,
            "scope": list(token.scope or ()),
        }

    @token.setter
    def token(self, value: object) -> None:
        # The base class starts with an empty one; what there is comes from the store.
        if value:
            raise AttributeError("tokens are kept by the credential store")

    @property
    def access_token(self) -> Optional[str]:
        """The access token that is held."""
        held = self.authorizer.held
        return None if held is None else held.token.access_token

    @access_token.setter
    def access_token(self, value: object) -> None:
        raise AttributeError("tokens are kept by the credential store")

    @property
    def authorized(self) -> bool:
        """Whether there is a token."""
        return self.access_token is not None

    def close(self) -> None:
        """Close the connections of its own; who waits for a token waits no more."""
        super().close()
        self.authorizer.close()

    def refresh_token(self, *args: Any, **kwargs: Any) -> Dict[str, object]:
        """Refresh the token now: once for all threads and processes that want it.

        Arguments are those of the base class, and ignored.

        Raises:
            LoginRequired: there is nothing to refresh it with.
        """
        need = Need(refused=self.access_token, may_log_in=False)
        self.authorizer.obtain(need, Deadline.after(_PATIENCE))
        return self.token

    def request(
        self,
        method: Union[str, bytes],
        url: Union[str, bytes],
        *args: Any,
        **kwargs: Any,
    ) -> requests.Response:
        """Send a plain request to the server, as ``requests`` does.

        Redirects are not followed unless that is asked for, and never with the token.

        Raises:
            ConfigError: the URL is not one of this server.
            MCPError: there is no token that the server would take.
        """
        address = url if isinstance(url, str) else url.decode("ascii", "replace")
        if not same_origin(address, self._server.url):
            raise ConfigError(
                "this session is for %s alone, not for %s"
                % (bare_url(self._server.url), bare_url(address))
            )
        if args:
            raise TypeError("give everything but method and url by name")
        deadline = Deadline.after(_PATIENCE)
        kwargs.setdefault("allow_redirects", False)
        kwargs.setdefault("timeout", _PATIENCE)
        refused: List[Credential] = []
        while True:
            auth = _Bearer(self, deadline, refused[-1] if refused else None)
            response = requests.Session.request(self, method, url, auth=auth, **kwargs)
            credential = auth.credential
            if response.status_code not in (401, 403) or len(refused) == _REPEATS:
                return response
            if credential is None or response.history:
                return response
            try:
                repaired = self.repair(credential, response, deadline)
            except BaseException:
                response.close()
                raise
            if not repaired:
                return response
            response.close()
            refused.append(credential)

    def get(self, url: Union[str, bytes], **kwargs: Any) -> requests.Response:
        """Send a GET request; see :meth:`request`."""
        return self.request("GET", url, **kwargs)

    def options(self, url: Union[str, bytes], **kwargs: Any) -> requests.Response:
        """Send an OPTIONS request; see :meth:`request`."""
        return self.request("OPTIONS", url, **kwargs)

    def rebuild_auth(
        self, prepared_request: requests.PreparedRequest, response: requests.Response
    ) -> None:
        """Take the token off a request that a redirect leads to."""
        for name in ("Authorization", "DPoP"):
            prepared_request.headers.pop(name, None)


class _Bearer(requests.auth.AuthBase):
    """Adds the token when the request is prepared, and to no other request."""

    def __init__(
        self,
        session: AuthorizedSession,
        deadline: Deadline,
        refused: Optional[Credential],
    ) -> None:
        self._session = session
        self._deadline = deadline
        self._refused = refused
        self.credential: Optional[Credential] = None

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        self.credential = self._session.authorize(
            request, self._deadline, self._refused
        )
        return request


def _challenges_of(response: requests.Response) -> List[str]:
    """Return each ``WWW-Authenticate`` field of a response."""
    fields = getattr(response.raw, "headers", None)
    several = getattr(fields, "getlist", None)
    if several is not None:
        return list(several("WWW-Authenticate"))
    joined = response.headers.get("WWW-Authenticate")
    return [] if joined is None else [joined]


def _wants_nonce(challenges: Tuple[Challenge, ...]) -> bool:
    return any(
        challenge.scheme == "dpop" and challenge.params.get("error") == "use_dpop_nonce"
        for challenge in challenges
    )


def _scope_challenge(challenges: Tuple[Challenge, ...]) -> Optional[Challenge]:
    for challenge in challenges:
        if challenge.scheme in ("bearer", "dpop"):
            if challenge.params.get("error") == "insufficient_scope":
                return challenge
    return None
