"""How a program wants to be authorized: the value of ``auth=``.

Specification: 2026-07-28, basic/authorization and basic/authorization/
client-registration; the extensions for client credentials, enterprise-managed
authorization, workload identity federation and DPoP.
"""

from __future__ import annotations

import urllib.parse
from dataclasses import dataclass, field
from typing import (
    TYPE_CHECKING,
    Any,
    Callable,
    Collection,
    Mapping,
    Optional,
    Protocol,
    Sequence,
    Tuple,
    Union,
)

from .._deadline import Deadline
from .._text import clean
from ..exceptions import ConfigError
from ._records import ClientRecord, Credentials, ServerMetadata, Token
from .stores import CredentialStore, RegistrationStore, shared_store

if TYPE_CHECKING:
    from ._acquisition import Site
    from ._fetch import Fetcher
    from ._people import Person
    from .authorizer import Authorizer
    from .dpop import DPoP
    from .login import PendingLogin
    from .session import AuthorizedSession

__all__ = ["Flow", "Grant", "OAuth"]

Names = Tuple[str, ...]

#: Gets the URL to log in at, and returns the one at which the login ended.
Flow = Callable[[str], str]

_FLOWS = ("two-phase", "browser", "paste")


class Grant(Protocol):
    """A way to a token that needs no person."""

    @property
    def client_id(self) -> Optional[str]:
        """What the authorization server knows this program as."""

    def obtain(
        self,
        fetcher: "Fetcher",
        metadata: ServerMetadata,
        *,
        resource: Optional[str],
        scopes: Optional[Names],
        deadline: Deadline,
        dpop: Optional["DPoP"] = None,
    ) -> Token:
        """Return a new token."""


@dataclass(frozen=True)
class OAuth:
    """Authorization by OAuth, as ``auth=`` takes it.

    Nothing happens before the server asks for a token. Then a stored login is used,
    and refreshed when it must be; what else may happen is up to `flow` and `grant`.
    Immutable; may be shared by threads and clients.

    Attributes:
        flow: how a person logs in. ``"browser"``: a browser of this machine.
            ``"paste"``: anywhere; the address that the login ends at is pasted here.
            ``"two-phase"``: not during a call, which raises
            :class:`mcpsync.LoginRequired`; see :meth:`begin` and :meth:`finish`. Or a
            function that gets the URL to log in at, and returns the URL at which
            that ended.
        scopes: to ask for in addition to those that the server names.
        scope_policy: ``"add"``, or ``"only"`` to ask for nothing but `scopes`.
        client_id: of a client that was registered by hand.
        client_secret: its secret, if it has one.
        client_auth_method: ``"client_secret_basic"``, ``"client_secret_post"``,
            ``"none"`` or ``"private_key_jwt"``; by default what the server supports.
        private_key: PEM text for ``"private_key_jwt"``; needs the extra ``jwt``.
        key_algorithm: that of `private_key`, as ``"ES256"``.
        issuer: of the authorization server at which that client is registered.
        client_metadata_url: an https URL that serves this client's metadata document,
            which is its ``client_id`` where servers support that.
        client_name: what users are shown by servers that register this client.
        redirect_uri: where browsers come back to; by default a free port of
            127.0.0.1. Needed with `client_metadata_url` and with :meth:`begin`.
        offline_access: whether to ask for a refresh token where servers want that.
        grant: a way to a token without a person; see :mod:`mcpsync.auth.grants`.
        dpop: whether tokens are to be bound to a key (DPoP); needs the extra ``jwt``.
        store: where credentials are kept: ``"auto"`` (the keyring, or else a private
            file), ``"keyring"``, ``"file"``, ``"memory"``, or a store of your own; see
            :mod:`mcpsync.auth.stores`. With `grant` the default is ``"memory"``.
        issuers_without_pkce: issuers that are trusted although their metadata does not
            promise PKCE. Others are refused.
        insecure_origins: origins, as ``"http://idp.internal:8080"``, that may be
            spoken to without TLS, besides this machine.
        allow_private: whether a public server may name private addresses.

    Raises:
        ConfigError: these do not fit together.
    """

    flow: Union[str, Flow] = "two-phase"
    scopes: Sequence[str] = ()
    scope_policy: str = "add"
    client_id: Optional[str] = None
    client_secret: Optional[str] = field(default=None, repr=False)
    client_auth_method: Optional[str] = None
    private_key: Optional[str] = field(default=None, repr=False)
    key_algorithm: str = "ES256"
    issuer: Optional[str] = None
    client_metadata_url: Optional[str] = None
    client_name: str = "mcpsync"
    redirect_uri: Optional[str] = None
    offline_access: bool = True
    grant: Optional[Grant] = field(default=None, repr=False)
    dpop: bool = False
    store: Union[None, str, CredentialStore] = None
    issuers_without_pkce: Collection[str] = ()
    insecure_origins: Collection[str] = ()
    allow_private: bool = False

    def __post_init__(self) -> None:
        if isinstance(self.scopes, str):
            raise ConfigError("scopes must be a list of strings, not one string")
        if not callable(self.flow) and self.flow not in _FLOWS:
            raise ConfigError(
                "flow must be one of %s, or a function, not %s"
                % (", ".join(_FLOWS), clean(repr(self.flow), 80))
            )
        if self.client_secret is not None and self.client_id is None:
            raise ConfigError("client_secret needs a client_id")
        if self.client_metadata_url is not None:
            from .registration import check_client_id_url

            check_client_id_url(self.client_metadata_url)
        if self.private_key is not None:
            from .dpop import require_jwt

            require_jwt("private_key_jwt")
        # The same one each time, so that clients with one configuration share it.
        object.__setattr__(self, "_credential_store", self._make_store())

    def _make_store(self) -> CredentialStore:
        store = self.store
        if store is None:
            store = "auto" if self.grant is None else "memory"
        return shared_store(store) if isinstance(store, str) else store

    # --- what the parts of this package read ------------------------------------

    @property
    def credential_store(self) -> CredentialStore:
        """The store that is used."""
        store: CredentialStore = self.__dict__["_credential_store"]
        return store

    @property
    def is_interactive(self) -> bool:
        """Whether a call may ask a person to log in."""
        return self.flow != "two-phase"

    @property
    def known_issuer(self) -> Optional[str]:
        """The only issuer that is accepted, if there is one."""
        return self.issuer or getattr(self.grant, "issuer", None)

    @property
    def known_client_id(self) -> Optional[str]:
        """The client that this program is, if it is known beforehand."""
        return self.client_id if self.grant is None else self.grant.client_id

    @property
    def client_record(self) -> Optional[ClientRecord]:
        """The client that was registered by hand."""
        if self.client_id is None:
            return None
        method = self.client_auth_method
        if method is None and self.private_key is not None:
            method = "private_key_jwt"
        return ClientRecord(
            self.client_id,
            self.client_secret,
            method,
            kind="preregistered",
            issuer=self.issuer,
        )

    @property
    def hosted_client(self) -> Optional[ClientRecord]:
        """The client that a metadata document describes."""
        if self.client_metadata_url is None:
            return None
        method = "none" if self.private_key is None else "private_key_jwt"
        return ClientRecord(self.client_metadata_url, None, method, kind="cimd")

    def assertion(self, client_id: str, issuer: str) -> Optional[Callable[[], str]]:
        """Return what makes assertions of who we are, if there is a key."""
        if self.private_key is None:
            return None
        from .grants import private_key_assertion

        return private_key_assertion(
            client_id, issuer, self.private_key, self.key_algorithm
        )

    def person(self, registrations: RegistrationStore, site: "Site") -> "Person":
        """Return the way to the person who logs in."""
        from ._people import AtBrowser, AtTerminal, Handed

        known: Tuple[str, ...] = ()
        if self.client_record is None:
            registered = registrations.load_registration(site.metadata.issuer)
            known = () if registered is None else registered.redirect_uris
        if callable(self.flow):
            return Handed(self.redirect_uri, known, self.flow)
        if self.flow == "paste":
            return AtTerminal(self.redirect_uri, known)
        return AtBrowser(self.redirect_uri, known)

    # --- use ----------------------------------------------------------------------

    def for_server(
        self,
        name: str,
        url: str,
        *,
        verify: Union[None, bool, str] = None,
        proxies: Optional[Mapping[str, str]] = None,
    ) -> "AuthorizedSession":
        """Return a session that authorizes requests to one server.

        Args:
            name: how the server is called; credentials are kept by name and URL.
            verify: a file with certificate authorities; ``None``: the usual ones.
            proxies: as in ``requests``.
        """
        from .session import AuthorizedSession

        return AuthorizedSession(self._authorizer(name, url, verify, proxies))

    def _authorizer(
        self,
        name: str,
        url: str,
        verify: Union[None, bool, str] = None,
        proxies: Optional[Mapping[str, str]] = None,
    ) -> "Authorizer":
        from ._acquisition import Server
        from ._fetch import Fetcher
        from .authorizer import Authorizer

        def fetcher(server_address: Optional[str]) -> Fetcher:
            return Fetcher(
                server_url=url,
                allow_insecure=self.insecure_origins,
                allow_private=self.allow_private,
                verify=verify,
                proxies=proxies,
                server_address=server_address,
            )

        return Authorizer(Server(name, url), self, fetcher)

    def login(self, url: str, *, name: Optional[str] = None) -> Credentials:
        """Ask the person to log in now; keep the credentials, and return them.

        Args:
            url: of the MCP server.
            name: how the server is called; by default its host and port, as
                :func:`mcpsync.connect` has it.

        Raises:
            ConfigError: `flow` asks nobody.
            AuthorizationError: the login failed.
        """
        if not self.is_interactive:
            raise ConfigError('a login needs flow="browser", "paste", or a function')
        return self._authorizer(name or server_name(url), url).log_in()

    def begin(self, url: str, *, name: Optional[str] = None) -> "PendingLogin":
        """Begin a login that somebody finishes later, perhaps in another process.

        Send the person to the ``authorization_url`` of what is returned; keep the rest,
        ``to_json()``, where that person cannot see it, such as a server-side session.

        Args:
            url: of the MCP server.
            name: how the server is called; by default its host and port.

        Raises:
            ConfigError: there is no `redirect_uri`.
            AuthorizationError: no login is possible there.
        """
        if self.redirect_uri is None:
            raise ConfigError("begin() needs a redirect_uri to send the browser to")
        authorizer = self._authorizer(name or server_name(url), url)
        return authorizer.begin_login(self.redirect_uri)

    def finish(
        self, pending: Union["PendingLogin", Mapping[str, Any]], redirect_url: str
    ) -> Credentials:
        """Finish a login; keep the credentials, and return them.

        Once for each beginning.

        Args:
            pending: what :meth:`begin` returned, or its ``to_json()``.
            redirect_url: the URL at which the browser came back, with its query.

        Raises:
            ConfigError: `pending` is none.
            LoginRequired: it was begun too long ago.
            AuthorizationError: the login failed, or the URL is not of this one.
        """
        from .login import PendingLogin

        if not isinstance(pending, PendingLogin):
            pending = PendingLogin.from_json(dict(pending))
        authorizer = self._authorizer(pending.server_name, pending.server_url)
        return authorizer.finish_login(pending, redirect_url)

    def logout(self, url: str, *, name: Optional[str] = None) -> bool:
        """Revoke a server's tokens where that is possible, and forget them.

        Returns:
            ``False`` if there were none.

        Raises:
            CredentialStoreError: they cannot be deleted.
        """
        return self._authorizer(name or server_name(url), url).log_out()


def server_name(url: str) -> str:
    """Return how a server is called that nobody gave a name."""
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]
