"""What happens without ``auth=``: a login of before is used, if there is one.

A server that wants no login pays a look at two files for it, once. The rest is loaded
when something is stored, or when the server wants a login after all.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING, Any, Mapping, Optional, Union

from .._deadline import Deadline
from ..exceptions import ConfigError, CredentialStoreError
from ._home import CREDENTIALS, INDEX, default_home

if TYPE_CHECKING:
    import requests

    from .session import AuthorizedSession

__all__ = ["STORED_LOGIN", "StoredLogin"]

_log = logging.getLogger("mcpsync.auth")


class StoredLogin:
    """Authorization with what ``mcpsync login`` or another program has stored."""

    def for_server(
        self,
        name: str,
        url: str,
        *,
        verify: Union[None, bool, str] = None,
        proxies: Optional[Mapping[str, str]] = None,
    ) -> "_StoredSession":
        """Return what authorizes requests to one server."""
        return _StoredSession(name, url, verify, proxies)


#: There is only one kind.
STORED_LOGIN = StoredLogin()


class _StoredSession:
    """Authorizes with what is stored, once it is needed. For any number of threads."""

    def __init__(self, *server: Any) -> None:
        self._server = server
        self._session: Optional[AuthorizedSession] = None
        self._looked = False

    def authorize(
        self,
        prepared: "requests.PreparedRequest",
        deadline: Deadline,
        refused: Optional[object] = None,
    ) -> object:
        """Add a stored token to a request, if there is one."""
        if "Authorization" in prepared.headers:
            return None
        if not self._looked:
            self._look()
            self._looked = True
        known = self._session
        return None if known is None else known.authorize(prepared, deadline, refused)

    def _look(self) -> None:
        if not _anything_is_stored():
            return
        session = self._made()
        try:
            if session.authorizer.held is not None:
                self._session = session
        except CredentialStoreError as error:
            # A server that wants no login shall not suffer for it.
            _log.warning("stored logins cannot be used: %s", error)

    def repair(
        self, credential: object, response: "requests.Response", deadline: Deadline
    ) -> bool:
        """Look at a 401 or 403; return whether to send the same request again."""
        request = response.request
        if credential is None:
            from ._urls import same_origin
            from .session import Credential

            # As above: neither what the caller gave nor another server is our business.
            if "Authorization" in request.headers:
                return False
            if not same_origin(request.url or "", self._server[1]):
                return False
            credential = Credential(None, request, None)
        if self._session is None:
            self._session = self._made()
        return self._session.repair(credential, response, deadline)

    def _made(self) -> "AuthorizedSession":
        from .oauth import OAuth

        name, url, verify, proxies = self._server
        return OAuth().for_server(name, url, verify=verify, proxies=proxies)

    def close(self) -> None:
        session = self._session
        if session is not None:
            session.close()


def _anything_is_stored() -> bool:
    try:
        home = default_home()
    except ConfigError:
        # There is no home directory: then nothing is kept there.
        return False
    return any(
        os.path.exists(os.path.join(home, name)) for name in (CREDENTIALS, INDEX)
    )
