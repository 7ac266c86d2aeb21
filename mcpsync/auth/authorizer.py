"""One server's credentials, shared by all threads that send to it.

Who needs a token gets the one that is held; who was refused joins the flight that gets
another one. Under the lock of the store the flight looks first whether another process
has done so already, and what it gets is saved before anybody uses it. No lock is held
over a request to the MCP server, nor while a person takes his time.

Specification: 2026-07-28, basic/authorization.
"""

from __future__ import annotations

import contextlib
import logging
import time
from typing import TYPE_CHECKING, Callable, Iterator, NamedTuple, Optional, Tuple, Union

from .._deadline import Deadline
from .._lifecycle import Enrolled, enrol
from ..exceptions import (
    AuthorizationError,
    ClientClosed,
    ConfigError,
    CredentialStoreError,
    LoginRequired,
    MCPError,
    RequestTimeout,
    TokenError,
)
from ._acquisition import UNKNOWN_CLIENT, WORK_SECONDS, Acquisition, Server, Site
from ._fetch import Fetcher
from ._keeper import Registrations, keeper_of
from ._records import Credentials
from ._renewal import Need, Obtained, Renewal, login_required
from .discovery import MetadataCache
from .flight import flights, twin_of
from .login import read_callback
from .stores import registrations_of

if TYPE_CHECKING:
    from ._people import Person
    from .login import PendingLogin
    from .oauth import OAuth

__all__ = ["Authorizer", "Need", "Obtained"]

_log = logging.getLogger("mcpsync.auth")

Names = Tuple[str, ...]

#: Seconds before its end at which a token is not used any more.
LEEWAY = 30.0

#: Seconds that a call waits for a new token while the old one is still good.
_PATIENCE = 5.0

#: Seconds after a login that came to nothing in which no call begins another one.
LOGIN_PAUSE = 60.0


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


class Authorizer(Enrolled):
    """Holds the credentials of one server, and gets others when they are refused.

    For any number of threads.

    Args:
        fetcher: makes what sends the requests of one flight; gets the address of the
            server, where that is known.
    """

    def __init__(
        self,
        server: Server,
        config: "OAuth",
        fetcher: Callable[[Optional[str]], Fetcher],
    ) -> None:
        self.server = server
        self.config = config
        self._fetcher = fetcher
        self._keeper = keeper_of(config.credential_store, server.name, server.url)
        self._registrations = Registrations(registrations_of(config.credential_store))
        self._cache = MetadataCache()
        # Those who would send other things, or accept others, fly for themselves.
        self._key: Tuple[object, ...] = (
            id(self._keeper),
            config.known_issuer,
            config.known_client_id,
            config.allow_private,
            tuple(sorted(config.insecure_origins)),
        )
        # All of these are replaced in single steps; any thread may read them.
        self._held: Optional[Credentials] = None
        self._fresh_until = _FOR_EVER
        self._loaded = False
        self._person: Optional[Person] = None
        self._failed_login: Optional[Tuple[float, MCPError]] = None
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

    def _check_open(self) -> None:
        if self._closed:
            raise ClientClosed("the client was closed")

    # --- what is held -------------------------------------------------------

    @property
    def held(self) -> Optional[Credentials]:
        """The credentials as they are now; read from the store the first time."""
        if not self._loaded:
            stored = self._accepted(self._keeper.read())
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
        expires = held.token.expires_at
        good = expires is not None and expires > time.time()
        need = Need(refused=held.token.access_token, may_log_in=False)
        patience = deadline.at_most(_PATIENCE) if good else deadline
        try:
            return self.obtain(need, patience).credentials
        except LoginRequired:
            # What was refused is forgotten. Perhaps the server does not ask for any.
            self._loaded = False
            return self.held
        except (AuthorizationError, CredentialStoreError, RequestTimeout):
            if not good or deadline.expired:
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
        if stored.token.token_type.lower() == "dpop" and stored.dpop_key is None:
            # It is bound to a key that nobody has any more.
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
            ClientClosed: :meth:`close` was called.
            MCPError: there are none to be had.
        """
        try:
            while True:
                self._check_open()
                obtained, mine = self._next(need, deadline)
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
        if expires is not None:
            leeway = min(LEEWAY, max(0.0, expires - time.time()) / 4)
        self._hold(obtained.credentials, leeway)

    def _next(self, need: Need, deadline: Deadline) -> Tuple[Optional[Obtained], bool]:
        """Lead or join one flight; return what comes of it and whether it was ours.

        ``None``: it was another's, and came to nothing that concerns us.
        """
        login = flights.current((*self._key, "login"))
        if login is not None and need.challenges is not None:
            with self._unless_others_close():
                return login.wait(deadline, self._is_closed), False
            return None, False
        name = "mcpsync-auth-%s" % self.server.name
        silent, lead = flights.join(
            (*self._key, "silent"), name, lambda: self._renew(need)
        )
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
            raise login_required(self.server)
        site = found

        def work() -> Obtained:
            with deadline.paused():
                return self._log_in(site, need)

        # All who waited for the same discovery wait for the same login: nobody is asked
        # again because another one was slow to hear of a refusal.
        login, lead = flights.join((*self._key, "login"), name, work, after=silent)
        if lead:
            return login.run(), True
        with self._unless_others_close():
            return login.wait(deadline, self._is_closed), False
        return None, False

    @contextlib.contextmanager
    def _unless_others_close(self) -> Iterator[None]:
        """Ignore that somebody else's client was closed in the middle of his login."""
        try:
            yield
        except ClientClosed:
            if self._closed:
                raise

    def _is_closed(self) -> bool:
        return self._closed

    # --- without a person; on the thread of a flight --------------------------

    def _renew(self, need: Need) -> Union[Obtained, Site]:
        """Return other credentials, or where a person has to log in."""
        renewed: Union[None, Obtained, Site] = None
        try:
            with self._keeper.locked(needed=self._held is not None):
                stored = self._reread(search=need.challenges is not None)
                if stored is not None and need.is_met_by(stored):
                    return Obtained(stored, "store")
                acquisition = self._acquisition(stored, need.server_address)
                renewed = Renewal(
                    self.server, self.config, self._keeper, acquisition, need
                ).run()
                if isinstance(renewed, Obtained):
                    self._keeper.save(renewed.credentials)
        except Exception as error:
            if not isinstance(renewed, Obtained):
                raise
            # Letting go of the lock failed, and with it perhaps what was saved.
            self._keeper.note_unsaved(renewed.credentials, error)
        return renewed

    def _reread(self, search: bool) -> Optional[Credentials]:
        """Return what is stored now: another process may have been here."""
        stored = self._accepted(self._keeper.reread(search))
        if stored is None and self._held is not None:
            # Somebody logged out.
            self._hold(None)
        return stored

    def _acquisition(
        self, stored: Optional[Credentials], server_address: Optional[str] = None
    ) -> Acquisition:
        return Acquisition(
            self.server,
            self.config,
            self._fetcher(server_address),
            self._registrations,
            self._cache,
            stored,
        )

    # --- with a person; on the thread that asked --------------------------------

    def _log_in(self, site: Site, need: Need) -> Obtained:
        failed = self._failed_login
        if failed is not None and time.monotonic() < failed[0] + LOGIN_PAUSE:
            raise twin_of(failed[1])
        try:
            return Obtained(self._logged_in(site, need), "login")
        except AuthorizationError as error:
            self.note_failed_login(error)
            raise

    def note_failed_login(self, error: MCPError) -> None:
        """Remember that a login came to nothing: nobody is asked again and again."""
        # A copy: the traceback of this one would keep alive whatever it refers to.
        self._failed_login = (time.monotonic(), twin_of(error))

    def _logged_in(self, site: Site, need: Need) -> Credentials:
        acquisition = self._acquisition(self._held, need.server_address)
        scopes = acquisition.scopes(site, need.scopes)
        may_repeat = True
        while True:
            self._check_open()
            acquisition.restart_clock()
            with self.config.person(self._registrations, site) as person:
                pending = acquisition.begin_login(site, scopes, person.redirect_uri)
                code = self._code(person, pending)
            try:
                return self.finish(acquisition, pending, code)
            except TokenError as error:
                if not may_repeat or error.error not in UNKNOWN_CLIENT:
                    raise
                if not acquisition.forget_client(pending.client):
                    raise
                may_repeat = False

    def _code(self, person: "Person", pending: "PendingLogin") -> str:
        """Wait for a person, unless the client is closed."""
        self._person = person
        try:
            # It may have been closed just before, and given up nobody.
            self._check_open()
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
            with self._keeper.locked(needed=False):
                self._keeper.save(credentials)
        except Exception as error:
            self._keeper.note_unsaved(credentials, error)
        self._hold(credentials)

    # --- what programs ask for ----------------------------------------------------

    def _known(self) -> Optional[Credentials]:
        """Return what is held; nothing if it cannot be read, which a login mends."""
        try:
            return self.held
        except CredentialStoreError as error:
            _log.warning("what is stored for %s is no use: %s", self.server.name, error)
            return None

    def begin_login(self, redirect_uri: str) -> "PendingLogin":
        """Prepare a login that somebody finishes later.

        Raises:
            AuthorizationError: no login is possible there.
        """
        acquisition = self._acquisition(self._known())
        site = acquisition.discover_anew()
        return acquisition.begin_login(site, acquisition.scopes(site), redirect_uri)

    def finish_login(self, pending: "PendingLogin", redirect_url: str) -> Credentials:
        """Finish a login with the URL at which a browser came back.

        Raises:
            LoginRequired: it was begun too long ago.
            AuthorizationError: the login failed, or the URL is not of this one.
        """
        if pending.expired:
            raise login_required(self.server, "was not logged in to in time")
        code = read_callback(pending, redirect_url)
        return self.finish(self._acquisition(None), pending, code)

    def log_in(self, scopes: Optional[Names] = None) -> Credentials:
        """Ask a person to log in now, whatever is stored.

        Raises:
            AuthorizationError: the login failed.
        """
        site = self._acquisition(self._known()).discover_anew()
        return self._logged_in(site, Need(scopes=scopes))

    def log_out(self) -> bool:
        """Revoke what is stored, if that is possible, and delete it in any case.

        Returns:
            ``False`` if nothing was stored.
        """
        name = self.server.name
        with self._keeper.locked():
            stored = None
            try:
                stored = self._reread(search=True)
                if stored is not None:
                    self._acquisition(stored).revoke(stored)
            except CredentialStoreError as error:
                # What cannot be read can still be deleted.
                _log.warning("the tokens of %s are not revoked: %s", name, error)
            except (AuthorizationError, ConfigError) as error:
                _log.warning("the tokens of %s could not be revoked: %s", name, error)
            finally:
                self._hold(None)
                deleted = self._keeper.delete()
        return deleted or stored is not None
