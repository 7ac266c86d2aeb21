"""One server's credentials, shared by all threads that send to it.

Who needs a token gets the one that is held; who was refused joins the flight that gets
another one. Under the lock of the store the flight looks first whether another process
has done so already, and what it gets is saved before anybody uses it. No lock is held
over a request to the MCP server, nor while a person takes his time.

Specification: 2026-07-28, basic/authorization.
"""

from __future__ import annotations

import logging
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Callable, NamedTuple, Optional, Tuple, Union

from .._deadline import Deadline
from .._lifecycle import Enrolled, enrol
from .._text import clean
from ..exceptions import (
    AuthorizationError,
    ClientClosed,
    ConfigError,
    CredentialStoreError,
    LoginRequired,
    MCPError,
    TokenError,
)
from ._acquisition import UNKNOWN_CLIENT, WORK_SECONDS, Acquisition, Server, Site
from ._fetch import Fetcher
from ._records import Challenge, Credentials
from .discovery import MetadataCache
from .flight import flights
from .login import read_callback
from .stores import AutoStore, registrations_of

if TYPE_CHECKING:
    from ._people import Person
    from .login import PendingLogin
    from .oauth import OAuth

__all__ = ["Authorizer", "Need", "Obtained"]

_log = logging.getLogger("mcpsync.auth")

Names = Tuple[str, ...]

#: Seconds before its end at which a token is not used any more.
LEEWAY = 30.0


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
    """

    challenges: Optional[Tuple[Challenge, ...]] = None
    refused: Optional[str] = None
    scopes: Optional[Names] = None
    may_refresh: bool = True
    may_log_in: bool = True

    def is_met_by(self, credentials: Credentials) -> bool:
        """Return whether what somebody else has got meanwhile will do."""
        token = credentials.token
        expired = token.expires_at is not None and token.expires_at <= time.time()
        if expired or token.access_token == self.refused:
            return False
        # What was asked for and not granted is not asked for again.
        scopes = {*credentials.requested_scopes, *(token.scope or ())}
        return set(self.scopes or ()) <= scopes


class _Moment(NamedTuple):
    """A moment by two clocks: one may be set, the other rests while a laptop sleeps."""

    wall: float
    monotonic: float

    @classmethod
    def after(cls, seconds: float) -> "_Moment":
        return cls(time.time() + seconds, time.monotonic() + seconds)

    def is_over(self) -> bool:
        return time.time() >= self.wall or time.monotonic() >= self.monotonic


_FOR_EVER = _Moment(float("inf"), float("inf"))


class _Unsaved(NamedTuple):
    """Credentials that could not be saved, and what the store has in their place."""

    credentials: Credentials
    replaces: Optional[Credentials]


class Obtained(NamedTuple):
    """Credentials, and where they are from.

    Attributes:
        source: ``"store"``, ``"refresh"``, ``"grant"`` or ``"login"``.
    """

    credentials: Credentials
    source: str


class Authorizer(Enrolled):
    """Holds the credentials of one server, and gets others when they are refused.

    For any number of threads.

    Args:
        fetcher: makes what sends the requests of one flight.
    """

    def __init__(
        self, server: Server, config: "OAuth", fetcher: Callable[[], Fetcher]
    ) -> None:
        self.server = server
        self.config = config
        self._fetcher = fetcher
        self._store = config.credential_store
        self._registrations = registrations_of(self._store)
        self._cache = MetadataCache()
        # All of these are replaced in single steps; any thread may read them.
        self._held: Optional[Credentials] = None
        self._fresh_until = _FOR_EVER
        self._loaded = False
        self._unsaved: Optional[_Unsaved] = None
        self._person: Optional[Person] = None
        self._closed = False
        enrol(self)

    def after_fork_in_child(self) -> None:
        # The parent goes on to refresh what both of us hold.
        self._loaded = False
        self._held = None

    def close(self) -> None:
        """Let those who wait here raise ClientClosed. Idempotent; any thread."""
        self._closed = True
        flights.wake()
        person = self._person
        if person is not None:
            person.give_up()

    # --- what is held -------------------------------------------------------

    @property
    def held(self) -> Optional[Credentials]:
        """The credentials as they are now; read from the store the first time."""
        if not self._loaded:
            stored = self._accepted(self._store.load(self.server.name, self.server.url))
            if not self._loaded:
                self._hold(stored)
        return self._held

    def current(self, deadline: Deadline) -> Optional[Credentials]:
        """Return the credentials to send; refreshed if their time is almost over.

        Raises:
            MCPError: they have expired and cannot be refreshed just now.
        """
        held = self.held
        if held is None or not self._fresh_until.is_over():
            return held
        if held.token.refresh_token is None and self.config.grant is None:
            # By our clock alone: let the server say so.
            return held
        need = Need(refused=held.token.access_token, may_log_in=False)
        try:
            return self.obtain(need, deadline).credentials
        except LoginRequired:
            # Perhaps the server does not even ask for any.
            return self._held
        except (AuthorizationError, CredentialStoreError):
            expires = held.token.expires_at
            if expires is None or expires <= time.time():
                raise
            return held

    def _hold(self, credentials: Optional[Credentials], leeway: float = LEEWAY) -> None:
        expires = None if credentials is None else credentials.token.expires_at
        self._fresh_until = _FOR_EVER
        if expires is not None:
            self._fresh_until = _Moment.after(expires - time.time() - leeway)
        self._held = credentials
        self._loaded = True

    def _accepted(self, stored: Optional[Credentials]) -> Optional[Credentials]:
        """Return stored credentials if they are of the client and issuer we use."""
        if stored is None:
            return None
        issuer, client = self.config.known_issuer, self.config.known_client_id
        if issuer is not None and stored.issuer not in (None, issuer):
            return None
        if client is not None and stored.client.client_id != client:
            return None
        return stored

    # --- getting others -----------------------------------------------------

    def obtain(self, need: Need, deadline: Deadline) -> Obtained:
        """Return credentials that meet a need.

        Args:
            deadline: the caller's. It stands still while a person logs in for this
                call; those who wait for another's login keep theirs.

        Raises:
            LoginRequired: a person would have to be asked, and may not be.
            RequestTimeout: the deadline passed; what was begun goes on.
            MCPError: there are none to be had.
        """
        key = (id(self._store), self.server)
        try:
            while True:
                obtained, mine = self._next(need, key, deadline)
                if obtained is None:
                    continue
                if mine or self._does(obtained.credentials, need):
                    self._take(obtained)
                    return obtained
        except MCPError as error:
            error.server = error.server or self.server.name
            raise

    def _does(self, others: Credentials, need: Need) -> bool:
        """Return whether what came of another's flight will do here."""
        return need.is_met_by(others) and self._accepted(others) is not None

    def _take(self, obtained: Obtained) -> None:
        """Hold credentials from now on; new ones for most of their life."""
        expires, leeway = obtained.credentials.token.expires_at, LEEWAY
        if obtained.source != "store" and expires is not None:
            leeway = min(LEEWAY, max(0.0, expires - time.time()) / 4)
        self._hold(obtained.credentials, leeway)

    def _next(
        self, need: Need, key: Tuple[object, ...], deadline: Deadline
    ) -> Tuple[Optional[Obtained], bool]:
        """Lead or join one flight; return what comes of it and whether it was ours.

        ``None``: it was another's, for whom nobody could be asked.
        """
        login = flights.current((*key, "login"))
        if login is not None and need.challenges is not None:
            return login.wait(deadline, self._is_closed), False
        name = "mcpsync-auth-%s" % self.server.name
        silent, lead = flights.join((*key, "silent"), name, lambda: self._renew(need))
        if lead:
            silent.start()
        may_log_in = need.may_log_in and self.config.is_interactive
        try:
            found = silent.wait(deadline, self._is_closed)
        except LoginRequired:
            if lead or not may_log_in:
                raise
            return None, False
        if isinstance(found, Obtained):
            return found, lead
        if not may_log_in:
            raise self._login_required()
        site = found

        def work() -> Obtained:
            with deadline.paused():
                return self._log_in(site, need)

        # All who waited for the same discovery wait for the same login: nobody is asked
        # again because another one was slow to hear of a refusal.
        login, lead = flights.join((*key, "login"), name, work, after=silent)
        if lead:
            return login.run(), True
        return login.wait(deadline, self._is_closed), False

    def _is_closed(self) -> bool:
        return self._closed

    def _login_required(self, why: str = "wants a login") -> LoginRequired:
        url = clean(self.server.url.partition("?")[0], 200)
        return LoginRequired(
            "the server %s: run `mcpsync login %s`, or give "
            'auth=mcpsync.OAuth(flow="browser") or a token' % (why, url),
            server_url=self.server.url,
            server=self.server.name,
        )

    # --- without a person; on the thread of a flight --------------------------

    def _renew(self, need: Need) -> Union[Obtained, Site]:
        """Return other credentials, or where a person has to log in."""
        with self._store.lock(self.server.name, self.server.url):
            stored = self._reread(need)
            if stored is not None and need.is_met_by(stored):
                return Obtained(stored, "store")
            acquisition = self._acquisition(stored)
            renewed = self._renewed(acquisition, need)
            if isinstance(renewed, Obtained):
                self._save(renewed.credentials)
            return renewed

    def _acquisition(self, stored: Optional[Credentials]) -> Acquisition:
        return Acquisition(
            self.server,
            self.config,
            self._fetcher(),
            self._registrations,
            self._cache,
            stored,
        )

    def _renewed(self, acquisition: Acquisition, need: Need) -> Union[Obtained, Site]:
        stored, config = acquisition.stored, self.config
        may_refresh = need.may_refresh and stored is not None
        if stored is None or stored.token.refresh_token is None:
            may_refresh = False
        if may_refresh and need.challenges is None:
            assert stored is not None
            refreshed = self._refreshed_as_before(acquisition, stored)
            if refreshed is not None:
                return Obtained(refreshed, "refresh")
            may_refresh = acquisition.stored is not None
        can_log_in = need.may_log_in and config.is_interactive
        if not (may_refresh or config.grant is not None or can_log_in):
            raise self._login_required(self._why(stored))
        site = acquisition.discover(need.challenges or ())
        if config.grant is not None:
            scopes = acquisition.scopes(site, need.scopes)
            return Obtained(acquisition.grant(site, scopes), "grant")
        if may_refresh and stored is not None and acquisition.is_for(stored, site):
            refreshed = self._refreshed(acquisition, stored, site)
            if refreshed is not None:
                return Obtained(refreshed, "refresh")
        if not can_log_in:
            raise self._login_required(self._why(stored))
        return site

    @staticmethod
    def _why(stored: Optional[Credentials]) -> str:
        if stored is None:
            return "wants a login"
        return "does not accept the stored login any more"

    def _refreshed_as_before(
        self, acquisition: Acquisition, stored: Credentials
    ) -> Optional[Credentials]:
        """Refresh without discovery; ``None`` if that does not do."""
        if stored.token_endpoint is None:
            return None
        try:
            return self._refreshed(acquisition, stored, None)
        except TokenError as error:
            # Who says when to come again is there.
            if error.retry_after is not None:
                raise
            if not self._has_moved(acquisition, stored):
                raise
            return None

    def _has_moved(self, acquisition: Acquisition, stored: Credentials) -> bool:
        """Return whether tokens are got elsewhere by now, if anybody can tell."""
        if stored.issuer is not None:
            self._cache.forget(stored.issuer)
        try:
            site = acquisition.discover()
        except AuthorizationError:
            return False
        same = site.metadata.token_endpoint == stored.token_endpoint
        return not (same and acquisition.is_for(stored, site))

    def _refreshed(
        self, acquisition: Acquisition, stored: Credentials, site: Optional[Site]
    ) -> Optional[Credentials]:
        """Return refreshed credentials; ``None`` if the refresh token was refused."""
        try:
            return acquisition.refresh(stored, site)
        except TokenError as error:
            if error.error == "invalid_grant":
                _log.info("server %s: the refresh token was refused", self.server.name)
            elif error.error not in UNKNOWN_CLIENT:
                raise
            elif not acquisition.forget_client(stored.client):
                raise
        self._forget(stored)
        acquisition.stored = None
        return None

    # --- the store; under its lock --------------------------------------------

    def _reread(self, need: Need) -> Optional[Credentials]:
        """Return what is stored now: another process may have been here."""
        unsaved = self._unsaved
        try:
            stored = self._read(search=need.challenges is not None)
        except CredentialStoreError:
            if unsaved is None:
                raise
            stored = unsaved.replaces
        if unsaved is not None and stored == unsaved.replaces:
            self._save(unsaved.credentials)
            return unsaved.credentials
        # Whoever logged in or out since has the last word.
        self._unsaved = None
        stored = self._accepted(stored)
        if stored is None and self._held is not None:
            # Somebody logged out.
            self._hold(None)
        return stored

    def _read(self, search: bool = False) -> Optional[Credentials]:
        name, url = self.server.name, self.server.url
        # Only after a refusal is it worth asking a keyring that knows of nothing.
        if search and isinstance(self._store, AutoStore):
            return self._store.search(name, url)
        return self._store.load(name, url)

    def _save(self, credentials: Credentials) -> None:
        """Keep credentials. Where that fails they are still good for this process."""
        try:
            self._store.save(credentials)
            self._unsaved = None
        except CredentialStoreError as error:
            # What they replace is spent. The next flight tries to save them again.
            self._note_unsaved(credentials)
            _log.error(
                "the new credentials of server %s could not be saved, and a login will "
                "be needed when this process ends: %s",
                self.server.name,
                error,
            )

    def _note_unsaved(self, credentials: Credentials) -> None:
        try:
            replaces = self._read()
        except CredentialStoreError:
            replaces = self._held
        self._unsaved = _Unsaved(credentials, replaces)

    def _forget(self, refused: Credentials) -> None:
        """Delete stored credentials, if they are still those that were refused."""
        name, url = self.server.name, self.server.url
        stored = self._store.load(name, url)
        if stored is not None and stored.token == refused.token:
            self._store.delete(name, url)
        self._unsaved = None
        self._hold(None)

    # --- with a person; on the thread that asked --------------------------------

    def _log_in(self, site: Site, need: Need) -> Obtained:
        acquisition = self._acquisition(self._held)
        scopes = acquisition.scopes(site, need.scopes)
        for may_repeat in (True, False):
            acquisition.restart_clock()
            with self.config.person(self._registrations, site) as person:
                pending = acquisition.begin_login(site, scopes, person.redirect_uri)
                code = self._code(person, pending)
            try:
                credentials = self.finish(acquisition, pending, code)
                break
            except TokenError as error:
                if not may_repeat or error.error not in UNKNOWN_CLIENT:
                    raise
                if not acquisition.forget_client(pending.client):
                    raise
        return Obtained(credentials, "login")

    def _code(self, person: "Person", pending: "PendingLogin") -> str:
        """Wait for a person, unless the client is closed."""
        self._person = person
        try:
            return person.code(pending)
        except MCPError:
            # One that was given up before it began says something else.
            if self._closed:
                raise ClientClosed("the client was closed during the login") from None
            raise
        finally:
            self._person = None

    def finish(
        self, acquisition: Acquisition, pending: "PendingLogin", code: str
    ) -> Credentials:
        """Spend a code and save what it brings, whatever becomes of the caller."""
        acquisition.restart_clock()
        name = "mcpsync-auth-%s" % self.server.name

        def work() -> Credentials:
            credentials = acquisition.finish_login(pending, code)
            self._keep(credentials)
            return credentials

        finishing = flights.alone(name, work)
        finishing.start()
        return finishing.wait(Deadline.after(2 * WORK_SECONDS), self._is_closed)

    def _keep(self, credentials: Credentials) -> None:
        """Save what nobody else can have, whoever else is at it."""
        try:
            with self._store.lock(self.server.name, self.server.url):
                self._save(credentials)
        except CredentialStoreError as error:
            self._note_unsaved(credentials)
            _log.error("the login is not saved yet: %s", error)
        self._hold(credentials)

    def begin_login(self, redirect_uri: str) -> "PendingLogin":
        """Prepare a login that somebody finishes later.

        Raises:
            AuthorizationError: no login is possible there.
        """
        acquisition = self._acquisition(self.held)
        site = acquisition.discover_anew()
        return acquisition.begin_login(site, acquisition.scopes(site), redirect_uri)

    def finish_login(self, pending: "PendingLogin", redirect_url: str) -> Credentials:
        """Finish a login with the URL at which a browser came back.

        Raises:
            LoginRequired: it was begun too long ago.
            AuthorizationError: the login failed, or the URL is not of this one.
        """
        if pending.expired:
            raise self._login_required("was not logged in to in time")
        code = read_callback(pending, redirect_url)
        return self.finish(self._acquisition(None), pending, code)

    def log_out(self) -> bool:
        """Revoke what is stored, if that is possible, and delete it in any case.

        Returns:
            ``False`` if nothing was stored.
        """
        name, url = self.server.name, self.server.url
        with self._store.lock(name, url):
            try:
                stored = self._reread(Need(challenges=()))
            except CredentialStoreError as error:
                # What cannot be read can still be deleted.
                _log.warning("the tokens of %s are not revoked: %s", name, error)
                stored = None
            try:
                if stored is not None:
                    self._acquisition(stored).revoke(stored)
            except (AuthorizationError, ConfigError) as error:
                _log.warning("the tokens of %s could not be revoked: %s", name, error)
            finally:
                self._unsaved = None
                self._hold(None)
                deleted = self._store.delete(name, url)
        return deleted or stored is not None

    def log_in(self, scopes: Optional[Names] = None) -> Credentials:
        """Ask a person to log in now, whatever is stored.

        Raises:
            AuthorizationError: the login failed.
        """
        site = self._acquisition(self.held).discover_anew()
        return self._log_in(site, Need(scopes=scopes)).credentials
