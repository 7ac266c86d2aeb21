"""The ways to come by a token: refreshing, a grant of its own, a person's login.

Each is a function of what is stored and of what discovery finds; none takes a lock or
knows of threads. Nothing is asked of an authorization server before its metadata has
passed all checks, and nothing that one issuer gave is ever sent to another.

Specification: 2026-07-28, basic/authorization.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, List, Optional, Sequence, Tuple

from .._deadline import Deadline
from .._text import clean
from ..exceptions import (
    AuthorizationError,
    DiscoveryError,
    IssuerMismatch,
    TokenError,
)
from . import tokens
from ._fetch import Fetcher
from ._records import (
    Challenge,
    ClientRecord,
    Credentials,
    ResourceMetadata,
    ServerMetadata,
    Token,
)
from ._urls import bare_url
from .discovery import (
    MetadataCache,
    canonical_resource,
    choose_challenge,
    choose_issuer,
    choose_scopes,
    find_resource_metadata,
    find_server_metadata,
    legacy_server_metadata,
    parse_challenges,
    union_scopes,
    with_offline_access,
)
from .dpop import DPoP
from .login import PendingLogin, new_pending_login, require_s256
from .registration import choose_client, register
from .stores import RegistrationStore

if TYPE_CHECKING:
    from .oauth import OAuth

__all__ = ["Acquisition", "Server", "Site"]


Names = Tuple[str, ...]

#: Seconds that everything between two words with a person may take.
WORK_SECONDS = 120.0

#: What an authorization server says when it does not know the client any more.
UNKNOWN_CLIENT = ("invalid_client", "unauthorized_client")


@dataclass(frozen=True)
class Server:
    """The MCP server that a token is for."""

    name: str
    url: str


@dataclass(frozen=True)
class Site:
    """What discovery found out about a server.

    Attributes:
        resource: its identifier, verbatim.
        description: what it says about itself; ``None`` for one of 2025-03-26.
    """

    metadata: ServerMetadata
    resource: str
    description: Optional[ResourceMetadata]
    challenges: Tuple[Challenge, ...] = ()


class Acquisition:
    """Comes by a token for one server, on one thread.

    Args:
        stored: the credentials that there were before.

    Attributes:
        stored: those of them that are still of use.
        found: the same, whatever became of them.
    """

    def __init__(
        self,
        server: Server,
        config: "OAuth",
        fetcher: Fetcher,
        registrations: RegistrationStore,
        cache: MetadataCache,
        stored: Optional[Credentials],
    ) -> None:
        self._server = server
        self._config = config
        self._fetcher = fetcher
        self._registrations = registrations
        self._cache = cache
        self.stored = self.found = stored
        self._deadline = Deadline.after(WORK_SECONDS)
        self._dpop: Optional[DPoP] = None

    # --- discovery ----------------------------------------------------------

    def discover(
        self, challenges: Sequence[Challenge] = (), afresh: bool = False
    ) -> Site:
        """Find out who issues tokens for the server.

        Args:
            challenges: those of its 401 response, if there is one.
            afresh: whether metadata that was read before is of no use.

        Raises:
            AuthorizationError: nobody does, or whoever does cannot be trusted.
        """
        url, deadline = self._server.url, self._deadline
        given = tuple(challenges)
        description = find_resource_metadata(self._fetcher, url, given, deadline)
        if description is None:
            metadata = legacy_server_metadata(self._fetcher, url, deadline)
            self._check_issuer(metadata.issuer)
            return Site(metadata, canonical_resource(url), None, given)
        issuer = choose_issuer(description, self._known_issuers(description))
        self._check_issuer(issuer)
        if afresh:
            self._cache.forget(issuer)
        metadata = find_server_metadata(self._fetcher, issuer, deadline, self._cache)
        return Site(metadata, description.resource, description, given)

    def _check_issuer(self, issuer: str) -> None:
        """Refuse whoever is not the issuer that was configured, or known before.

        A client that was registered by hand belongs to one authorization server. Where
        the configuration does not say to which, the first one was it.
        """
        config, stored = self._config, self.stored
        wanted, why = config.known_issuer, "the configuration says"
        by_hand = config.known_client_id
        if wanted is None and by_hand is not None and stored is not None:
            if stored.client.client_id == by_hand:
                wanted, why = stored.issuer, "the client is known at"
        if wanted is not None and issuer != wanted:
            raise IssuerMismatch(
                "the server wants tokens of %s, but %s %s"
                % (clean(issuer, 200), why, clean(wanted, 200))
            )

    def discover_anew(self) -> Site:
        """Find out the same without a response of the server at hand.

        Raises:
            AuthorizationError: as above, or the server wants no login.
        """
        status, challenges = self._refusal()
        site = self.discover(challenges)
        asked = status in (401, 403) or status is None
        if site.description is None and not site.metadata.found and not asked:
            raise AuthorizationError(
                "the server at %s wants no login" % bare_url(self._server.url),
                server=self._server.name,
            )
        return site

    def _refusal(self) -> Tuple[Optional[int], List[Challenge]]:
        """Return what the server says to a request without a token."""
        ping = {"jsonrpc": "2.0", "id": 0, "method": "ping"}
        accept = {"Accept": "application/json, text/event-stream"}
        url, deadline = self._server.url, self._deadline
        try:
            result = self._fetcher.post_json(url, ping, deadline, "server", accept)
        except AuthorizationError:
            # Discovery will say better what is wrong.
            return None, []
        header = result.headers.get("WWW-Authenticate")
        return result.status, parse_challenges([] if header is None else [header])

    def _known_issuers(self, description: ResourceMetadata) -> List[str]:
        """Return the issuers that know this client, the configured one first."""
        issuers = description.authorization_servers
        if len(issuers) == 1:
            return []
        configured, stored = self._config.known_issuer, self.stored
        if configured is not None:
            return [configured]
        known = [] if stored is None or stored.issuer is None else [stored.issuer]
        load = self._registrations.load_registration
        return known + [issuer for issuer in issuers if load(issuer) is not None]

    def scopes(self, site: Site, more: Optional[Names] = None) -> Optional[Names]:
        """Return the scopes to ask for; ``None``: leave the parameter out.

        Args:
            more: what a challenge wants in addition to what there was.
        """
        if more is not None:
            return more
        config, stored = self._config, self.stored
        challenge = choose_challenge(site.challenges, config.dpop)
        chosen = choose_scopes(
            challenge, site.description, config.scopes, config.scope_policy
        )
        if chosen is None or stored is None or config.scope_policy == "only":
            return chosen
        # What was asked for before will be needed again.
        before = stored.requested_scopes if self.is_for(stored, site) else ()
        return union_scopes(chosen, before)

    @staticmethod
    def is_for(credentials: Credentials, site: Site) -> bool:
        """Return whether credentials are of the issuer that counts now."""
        return credentials.issuer in (None, site.metadata.issuer)

    # --- refreshing ---------------------------------------------------------

    def refresh(self, stored: Credentials, site: Optional[Site]) -> Credentials:
        """Return new credentials for a refresh token.

        Args:
            site: what discovery found; ``None``: the token endpoint is stored.

        Raises:
            TokenError: `error` says whether the refresh token was refused.
        """
        client, endpoint = self._client_of(stored, site), stored.token_endpoint
        resource, issuer = stored.resource, stored.issuer
        if site is not None:
            endpoint, resource = site.metadata.token_endpoint, site.resource
            issuer = site.metadata.issuer
        assert endpoint is not None
        dpop = self._dpop_of(stored.dpop_key, None if site is None else site.metadata)

        def attempt() -> Token:
            return tokens.refresh(
                self._fetcher,
                endpoint,
                client,
                stored.token,
                resource=resource,
                deadline=self._deadline,
                assertion=self._config.assertion(client.client_id, issuer or endpoint),
                dpop=dpop,
            )

        try:
            token = attempt()
        except TokenError as error:
            if not error.retryable or error.retry_after is not None:
                raise
            # Nobody knows whether the first one was spent.
            token = attempt()
        return replace(
            stored,
            client=client,
            token=token,
            issuer=issuer,
            resource=resource,
            token_endpoint=endpoint,
            dpop_key=None if dpop is None else dpop.jwk,
        )

    def _client_of(self, stored: Credentials, site: Optional[Site]) -> ClientRecord:
        client = stored.client
        configured = self._config.client_record
        if configured is not None and configured.client_id == client.client_id:
            # The secret may have been changed since.
            client = replace(configured, issuer=client.issuer)
        if site is None:
            return tokens.with_auth_method(client, None)
        methods = site.metadata.token_endpoint_auth_methods_supported
        return tokens.with_auth_method(client, methods)

    def _dpop_of(
        self, key: object, metadata: Optional[ServerMetadata]
    ) -> Optional[DPoP]:
        """Return what makes proofs, with the key that a token is bound to if any."""
        if self._dpop is None and (self._config.dpop or key is not None):
            algorithms = metadata and metadata.dpop_signing_alg_values_supported
            jwk = key if isinstance(key, dict) else None
            self._dpop = DPoP(jwk, algorithms or None)
        return self._dpop

    # --- grants -------------------------------------------------------------

    def grant(self, site: Site, scopes: Optional[Names]) -> Credentials:
        """Return credentials that need no person.

        Raises:
            AuthorizationError: the grant was refused.
        """
        grant = self._config.grant
        assert grant is not None
        key = None if self.stored is None else self.stored.dpop_key
        dpop = self._dpop_of(key, site.metadata)
        token = grant.obtain(
            self._fetcher,
            site.metadata,
            resource=site.resource,
            scopes=scopes,
            deadline=self._deadline,
            dpop=dpop,
        )
        client = ClientRecord(grant.client_id or "", kind="preregistered")
        return self._credentials(site, client, token, scopes, dpop)

    def _credentials(
        self,
        site: Site,
        client: ClientRecord,
        token: Token,
        scopes: Optional[Names],
        dpop: Optional[DPoP],
    ) -> Credentials:
        return Credentials(
            self._server.name,
            self._server.url,
            client=client,
            token=token,
            issuer=site.metadata.issuer,
            resource=site.resource,
            token_endpoint=site.metadata.token_endpoint,
            requested_scopes=scopes or (),
            dpop_key=None if dpop is None else dpop.jwk,
        )

    # --- a person's login ---------------------------------------------------

    def begin_login(
        self, site: Site, scopes: Optional[Names], redirect_uri: str
    ) -> PendingLogin:
        """Return everything that a login has to remember, its URL included.

        Raises:
            AuthorizationError: no login is possible there.
        """
        metadata, config = site.metadata, self._config
        require_s256(metadata, metadata.issuer in config.issuers_without_pkce)
        if metadata.authorization_endpoint is None:
            # Before anything is registered there.
            raise DiscoveryError(
                "the authorization server %s has no authorization endpoint, so that "
                "nobody can log in there" % bare_url(metadata.issuer)
            )
        scopes, prompt = with_offline_access(scopes, metadata, config.offline_access)
        client = self._client(site, scopes, redirect_uri)
        dpop = self._dpop_of(None, metadata)
        return new_pending_login(
            server_name=self._server.name,
            server_url=self._server.url,
            issuer=metadata.issuer,
            iss_advertised=metadata.authorization_response_iss_parameter_supported,
            authorization_endpoint=metadata.authorization_endpoint,
            token_endpoint=metadata.token_endpoint,
            client=client,
            redirect_uri=redirect_uri,
            resource=site.resource,
            scopes=scopes,
            consent=prompt == "consent",
            dpop_key=None if dpop is None else dpop.jwk,
        )

    def _client(
        self, site: Site, scopes: Optional[Names], redirect_uri: str
    ) -> ClientRecord:
        """Return who we are at an authorization server; register there if need be."""
        metadata, config = site.metadata, self._config
        stored = self._registrations.load_registration(metadata.issuer, redirect_uri)
        client = choose_client(
            metadata,
            configured=config.client_record,
            hosted=config.hosted_client,
            stored=stored,
            redirect_uri=redirect_uri,
            scopes=scopes,
            now=time.time(),
        )
        if client is None:
            if scopes is not None and stored is not None:
                # Other servers go on to ask for those of before.
                scopes = union_scopes(scopes, stored.scopes or ())
            client = register(
                self._fetcher,
                metadata,
                (redirect_uri,),
                scopes,
                config.client_name,
                self._deadline,
            )
            self._registrations.save_registration(client)
        methods = metadata.token_endpoint_auth_methods_supported
        return tokens.with_auth_method(client, methods)

    def forget_client(self, client: ClientRecord) -> bool:
        """Drop a registration that is of no use any more; ``False`` if it is no such.

        What a person registered is not ours to drop.
        """
        if client.kind == "preregistered":
            return False
        issuer = client.issuer
        if issuer is not None:
            self._cache.forget(issuer)
            known = self._registrations.load_registration(issuer)
            if known is not None and known.client_id == client.client_id:
                self._registrations.drop_registration(issuer)
        return True

    def finish_login(self, pending: PendingLogin, code: str) -> Credentials:
        """Return the credentials that a code stands for.

        Raises:
            TokenError: the token endpoint refused.
        """
        endpoint, client = pending.token_endpoint, pending.client
        dpop = self._dpop_of(pending.dpop_key, None)
        token = tokens.exchange_code(
            self._fetcher,
            endpoint,
            client,
            code=code,
            verifier=pending.verifier,
            redirect_uri=pending.redirect_uri,
            resource=pending.resource,
            deadline=self._deadline,
            assertion=self._config.assertion(client.client_id, pending.issuer),
            dpop=dpop,
        )
        return Credentials(
            self._server.name,
            self._server.url,
            client=client,
            token=token,
            issuer=pending.issuer,
            resource=pending.resource,
            token_endpoint=endpoint,
            requested_scopes=pending.scopes or (),
            dpop_key=None if dpop is None else dpop.jwk,
        )

    def revoke(self, stored: Credentials) -> bool:
        """Tell the authorization server that a token is not needed any more.

        Returns:
            ``False`` if it was not told, because it cannot be or does not answer.

        Raises:
            AuthorizationError: it cannot be found.
        """
        site = self.discover()
        endpoint = site.metadata.revocation_endpoint
        if endpoint is None or not self.is_for(stored, site):
            return False
        client = self._client_of(stored, site)
        return tokens.revoke(
            self._fetcher,
            endpoint,
            client,
            stored.token,
            deadline=self._deadline,
            assertion=self._config.assertion(client.client_id, site.metadata.issuer),
        )

    def restart_clock(self) -> None:
        """Begin again after a person took his time."""
        self._deadline = Deadline.after(WORK_SECONDS)
