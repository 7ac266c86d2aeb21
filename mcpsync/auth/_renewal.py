"""Getting other credentials without a person, on the thread of a flight.

Under the lock of the store: what another process has got meanwhile will do; otherwise
a refresh token is spent, or a grant is used; otherwise a person has to log in, and
discovery says where.

Specification: 2026-07-28, basic/authorization.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Optional, Tuple, Union

from .._text import clean
from ..exceptions import AuthorizationError, LoginRequired, TokenError
from ._acquisition import UNKNOWN_CLIENT, Acquisition, Server, Site
from ._keeper import Keeper
from ._records import Challenge, Credentials

if TYPE_CHECKING:
    from .oauth import OAuth

__all__ = ["Need", "Obtained", "Renewal", "login_required"]

_log = logging.getLogger("mcpsync.auth")

Names = Tuple[str, ...]


@dataclass(frozen=True)
class Need:
    """What somebody needs a token for.

    Attributes:
        challenges: those of the response that refused the last one; ``None``: the last
            one was not refused.
        refused: the access token that was refused, or is about to expire.
        scopes: what the token must be good for; ``None``: whatever is usual.
        may_refresh: whether a refresh token may be used.
        may_log_in: whether a person may be asked, if the configuration says how.
        server_address: the IP address that the refusal came from, where that is known.
    """

    challenges: Optional[Tuple[Challenge, ...]] = None
    refused: Optional[str] = field(default=None, repr=False)
    scopes: Optional[Names] = None
    may_refresh: bool = True
    may_log_in: bool = True
    server_address: Optional[str] = None

    def is_met_by(self, credentials: Credentials) -> bool:
        """Return whether what somebody else has got meanwhile will do."""
        token = credentials.token
        expired = token.expires_at is not None and token.expires_at <= time.time()
        if expired or token.access_token == self.refused:
            return False
        # What was asked for and not granted is not asked for again.
        scopes = {*credentials.requested_scopes, *(token.scope or ())}
        return set(self.scopes or ()) <= scopes


class Obtained(NamedTuple):
    """Credentials, and where they are from.

    Attributes:
        source: ``"store"``, ``"refresh"``, ``"grant"`` or ``"login"``.
    """

    credentials: Credentials
    source: str


def login_required(server: Server, why: str = "wants a login") -> LoginRequired:
    """Return the exception for a login that nobody can be asked for."""
    url = clean(server.url.partition("?")[0], 200)
    return LoginRequired(
        "the server %s: run `mcpsync login %s`, or give "
        'auth=mcpsync.OAuth(flow="browser") or a token' % (why, url),
        server_url=server.url,
        server=server.name,
    )


class Renewal:
    """One attempt to get other credentials. The lock of the store is held."""

    def __init__(
        self,
        server: Server,
        config: "OAuth",
        keeper: Keeper,
        acquisition: Acquisition,
        need: Need,
    ) -> None:
        self._server = server
        self._config = config
        self._keeper = keeper
        self._acquisition = acquisition
        self._need = need

    def run(self) -> Union[Obtained, Site]:
        """Return other credentials, or where a person has to log in.

        Raises:
            LoginRequired: a person would have to be asked, and may not be.
            AuthorizationError: there are none to be had.
        """
        need, config, acquisition = self._need, self._config, self._acquisition
        if need.challenges is None:
            refreshed = self._refreshed_as_before()
            if refreshed is not None:
                return Obtained(refreshed, "refresh")
        can_log_in = need.may_log_in and config.is_interactive
        if not (self._may_refresh or config.grant is not None or can_log_in):
            raise self._login_required()
        site = acquisition.discover(need.challenges or ())
        if config.grant is not None:
            return Obtained(self._granted(site), "grant")
        stored = acquisition.stored
        if self._may_refresh and stored is not None:
            if acquisition.is_for(stored, site):
                refreshed = self._refreshed(stored, site)
                if refreshed is not None:
                    return Obtained(refreshed, "refresh")
        if not can_log_in:
            raise self._login_required()
        return site

    @property
    def _may_refresh(self) -> bool:
        stored = self._acquisition.stored
        if stored is None or stored.token.refresh_token is None:
            return False
        return self._need.may_refresh

    def _login_required(self) -> LoginRequired:
        if self._acquisition.found is None:
            return login_required(self._server)
        why = "does not accept the stored login any more"
        return login_required(self._server, why)

    def _refreshed_as_before(self) -> Optional[Credentials]:
        """Refresh without discovery; ``None`` if that does not do."""
        stored = self._acquisition.stored
        if not self._may_refresh or stored is None or stored.token_endpoint is None:
            return None
        try:
            return self._refreshed(stored, None)
        except TokenError as error:
            # Who says when to come again is there.
            if error.retry_after is not None or not self._has_moved(stored):
                raise
            return None

    def _has_moved(self, stored: Credentials) -> bool:
        """Return whether tokens are got elsewhere by now, if anybody can tell."""
        acquisition = self._acquisition
        try:
            site = acquisition.discover(afresh=True)
        except AuthorizationError:
            return False
        same = site.metadata.token_endpoint == stored.token_endpoint
        return not (same and acquisition.is_for(stored, site))

    def _granted(self, site: Site) -> Credentials:
        self._keeper.check_pause()
        scopes = self._acquisition.scopes(site, self._need.scopes)
        try:
            return self._acquisition.grant(site, scopes)
        except TokenError as error:
            self._keeper.note_pause(error)
            raise

    def _refreshed(
        self, stored: Credentials, site: Optional[Site]
    ) -> Optional[Credentials]:
        """Return refreshed credentials; ``None`` if the refresh token was refused."""
        self._keeper.check_pause()
        try:
            return self._acquisition.refresh(stored, site)
        except TokenError as error:
            self._keeper.note_pause(error)
            if error.error == "invalid_grant":
                _log.info("server %s: the refresh token was refused", self._server.name)
            elif error.error not in UNKNOWN_CLIENT:
                raise
            elif not self._acquisition.forget_client(stored.client):
                raise
        self._keeper.forget(stored)
        self._acquisition.stored = None
        return None
