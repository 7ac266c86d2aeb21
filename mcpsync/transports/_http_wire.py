"""One HTTP request to an MCP endpoint, and what its status means.

The only place where ``requests`` sends anything for a transport; its exceptions end
here and become ours.
"""

from __future__ import annotations

import email.utils
import http.client
import os
import re
import time
import urllib.parse
from contextlib import contextmanager
from typing import Any, Callable, Dict, Iterator, Mapping, Optional, Tuple

import requests
import requests.auth
import requests.hooks
import requests.utils
import urllib3.exceptions

from .._deadline import Deadline
from .._text import clean
from .._version import __version__
from ..exceptions import (
    AuthorizationError,
    ClientClosed,
    ConfigError,
    ConnectFailed,
    ConnectionLost,
    HTTPStatusError,
    InsufficientScope,
    InvalidMessage,
    LoginRequired,
    MCPError,
    MessageTooLarge,
    Redirected,
    RequestCancelled,
    RequestTimeout,
    TLSError,
)
from ._eventstream import read_all
from ._http_sockets import Abort, AbortableAdapter, Sockets
from .base import Authorizer

__all__ = ["HTTPWire", "bare_url", "is_json", "is_event_stream"]

#: Bytes of a refusal's body that are read for its message.
_EXCERPT = 64 * 1024

#: Times that one request's credentials are repaired.
_REPAIRS = 3

_SCOPE = re.compile(r'error\s*=\s*"?insufficient_scope')

Configure = Callable[[requests.Session], None]


class HTTPWire:
    """Sends single HTTP requests for one server. Safe for any number of threads."""

    def __init__(
        self,
        url: str,
        name: str,
        headers: Mapping[str, str],
        authorizer: Optional[Authorizer],
        verify: Any,
        cert: Any,
        proxies: Optional[Mapping[str, str]],
        configure: Optional[Configure],
        pool_size: int,
    ) -> None:
        self.url = url
        self.name = name
        self.sockets = Sockets()
        self._authorizer = authorizer
        self._headers = _checked_headers(headers)
        self._verify = verify
        self._cert = cert
        self._proxies = proxies
        self._configure = configure
        self._pool_size = pool_size
        self._session: Optional[requests.Session] = None

    # --- life ---------------------------------------------------------------

    def open(self) -> None:
        """Make the session, and read the environment once."""
        session = requests.Session()
        session.trust_env = False
        for scheme in ("http://", "https://"):
            session.mount(scheme, AbortableAdapter(self._pool_size))
        session.headers["Accept-Encoding"] = "identity"
        session.headers["User-Agent"] = "mcpsync/%s" % __version__
        session.headers.update(self._headers)
        if self._proxies is not None:
            session.proxies.update(self._proxies)
        else:
            found = requests.utils.get_environ_proxies(self.url, no_proxy=None)
            session.proxies.update(found)
        session.verify = _verify_setting(self._verify)
        session.cert = self._cert
        if self._configure is not None:
            self._configure(session)
        self._session = session

    def close(self) -> None:
        """Close all connections, those in use included."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
        # A pool is emptied when it is collected, which may be much later.
        self.sockets.drop()

    def after_fork(self) -> None:
        self.sockets.close_copies()
        self._session = None

    def abort(self, deadline: Deadline) -> Abort:
        return Abort(self.sockets, deadline)

    # --- sending ------------------------------------------------------------

    def send(
        self,
        method: str,
        headers: Mapping[str, str],
        body: Optional[bytes],
        abort: Abort,
        url: Optional[str] = None,
    ) -> requests.Response:
        """Send one request and return its response, headers read, body not.

        Credentials are added for this server's own origin only, and repaired a few
        times; the same body is then sent again.
        """
        session = self._session
        if session is None:
            raise ClientClosed("the client is closed", server=self.name)
        request = requests.Request(method, url or self.url, headers=dict(headers))
        request.data = body or b""
        repairs = 0
        while True:
            prepared = session.prepare_request(request)
            credential = None
            if self._authorizer is not None and same_origin(self.url, prepared.url):
                credential = self._authorizer.authorize(prepared, abort.deadline)
            response = self._send(session, prepared, abort)
            if response.status_code not in (401, 403) or self._authorizer is None:
                return response
            if repairs == _REPAIRS or not self._authorizer.repair(
                credential, response, abort.deadline
            ):
                return response
            repairs += 1
            self.discard(response, abort)

    def _send(
        self,
        session: requests.Session,
        prepared: requests.PreparedRequest,
        abort: Abort,
    ) -> requests.Response:
        settings: Dict[str, Any] = {
            # No limit for single reads: the watchdog has the deadline.
            "timeout": (abort.deadline.connect_seconds, None),
            "verify": session.verify,
            "cert": session.cert,
            "proxies": session.proxies,
            "stream": True,
        }
        with self.mapped(abort), abort.bound():
            # The adapter, not the session: no cookies, no redirects, no netrc, and
            # nothing of what the session does again for every call.
            adapter = session.get_adapter(prepared.url or self.url)
            response = adapter.send(prepared, **settings)
            if any(prepared.hooks.values()):
                response = requests.hooks.dispatch_hook(
                    "response", prepared.hooks, response, **settings
                )
        return response

    def discard(self, response: requests.Response, abort: Abort) -> bytes:
        """Read a body that hardly matters, so that its connection can be used again."""
        try:
            with self.mapped(abort):
                return read_all(response.raw, _EXCERPT)
        except MessageTooLarge:
            abort.abort("body too large")
            return b""
        finally:
            abort.release()
            response.close()

    # --- what went wrong ----------------------------------------------------

    def refusal(self, response: requests.Response, body: bytes) -> MCPError:
        """Return the exception for a response that is no answer."""
        status = response.status_code
        excerpt = clean(body.decode("utf-8", "replace").strip(), 200)
        if 300 <= status < 400:
            return self._redirected(response)
        if status == 401:
            return self._unauthorized(response)
        challenge = response.headers.get("WWW-Authenticate", "")
        if status == 403 and _SCOPE.search(challenge):
            return InsufficientScope(
                "the server wants more than the credentials allow", server=self.name
            )
        kind = response.headers.get("Content-Type", "").split(";")[0].strip()
        if 200 <= status < 300:
            what = "the server answered with %s instead of JSON or an event stream" % (
                clean(kind, 80) or "nothing"
            )
        else:
            what = "the server answered with HTTP status %d" % status
        if excerpt:
            what += ": %s" % excerpt
        return HTTPStatusError(
            what,
            status=status,
            body_excerpt=excerpt,
            retry_after=_retry_after(response),
            server=self.name,
        )

    def _redirected(self, response: requests.Response) -> Redirected:
        location = response.headers.get("Location", "")
        target = bare_url(urllib.parse.urljoin(response.url or self.url, location))
        return Redirected(
            "the server redirects %s to %s; if that is right, connect to it directly"
            % (bare_url(self.url), target),
            urls=(bare_url(self.url), target),
            server=self.name,
        )

    def _unauthorized(self, response: requests.Response) -> AuthorizationError:
        if self._authorizer is not None:
            return AuthorizationError(
                "the server did not accept the credentials that it was given",
                server=self.name,
            )
        return LoginRequired(
            "the server wants a login; give auth= a token",
            server_url=bare_url(self.url),
            server=self.name,
        )

    @contextmanager
    def mapped(self, abort: Abort) -> Iterator[None]:
        """Turn what libraries raise into our exceptions."""
        try:
            yield
        except MCPError:
            raise
        except (
            requests.RequestException,
            urllib3.exceptions.HTTPError,
            http.client.HTTPException,
            OSError,
            AttributeError,
        ) as error:
            # AttributeError: libraries trip over a socket that was shut down.
            if abort.reason is not None:
                raise self.aborted(abort) from error
            if isinstance(error, AttributeError):
                raise
            raise self._translated(error, abort) from error

    def aborted(self, abort: Abort) -> MCPError:
        """Return the exception for a request that was aborted from outside."""
        if abort.reason == "deadline":
            return abort.deadline.error(self.name, None)
        if abort.reason == "closed":
            return ClientClosed("the client was closed", server=self.name)
        if abort.reason == "cancelled":
            return RequestCancelled("the call was cancelled", server=self.name)
        return ConnectionLost(abort.reason or "the request was ended", sent=True)

    def _translated(self, error: Exception, abort: Abort) -> MCPError:
        name, where = self.name, bare_url(self.url)
        causes = tuple(_causes(error))
        why = clean(str(causes[-1]), 200)
        if _any(causes, requests.exceptions.SSLError, urllib3.exceptions.SSLError):
            return TLSError(
                "no trustworthy TLS connection to %s: %s" % (where, why), server=name
            )
        # A refused connection is a kind of connect timeout to urllib3.
        refused = _any(causes, urllib3.exceptions.NewConnectionError)
        if _any(causes, urllib3.exceptions.ConnectTimeoutError) and not refused:
            return RequestTimeout(
                "no connection to %s in time" % where,
                kind="connect",
                seconds=abort.deadline.timeout.connect,
                server=name,
                elapsed=abort.deadline.elapsed,
            )
        if _any(
            causes,
            urllib3.exceptions.NewConnectionError,
            requests.exceptions.ProxyError,
        ):
            return ConnectFailed(
                "cannot connect to %s: %s; is the server running?" % (where, why),
                server=name,
            )
        if _any(
            causes,
            requests.exceptions.InvalidURL,
            requests.exceptions.InvalidHeader,
            urllib3.exceptions.LocationParseError,
        ):
            return ConfigError("cannot send to %s: %s" % (where, why), server=name)
        if _is_gibberish(causes):
            return InvalidMessage(
                "what came from %s is not HTTP: %s" % (where, why), server=name
            )
        return ConnectionLost(
            "the connection to %s broke before the answer came: %s" % (where, why),
            server=name,
        )


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what is wrapped inside it, outermost first."""
    seen = 0
    current: Optional[BaseException] = error
    while current is not None and seen < 10:
        yield current
        seen += 1
        inner = getattr(current, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next(
                (part for part in current.args if isinstance(part, BaseException)),
                None,
            )
        current = inner


def _any(causes: Tuple[BaseException, ...], *kinds: type) -> bool:
    return any(isinstance(cause, kinds) for cause in causes)


def _is_gibberish(causes: Tuple[BaseException, ...]) -> bool:
    return any(
        isinstance(cause, http.client.HTTPException)
        and not isinstance(
            cause, (http.client.RemoteDisconnected, http.client.IncompleteRead)
        )
        for cause in causes
    )


# --- small things -----------------------------------------------------------------


def bare_url(url: str) -> str:
    """Return a URL without user, query and fragment, for messages."""
    try:
        parts = urllib.parse.urlsplit(url)
        host = parts.hostname or ""
        if ":" in host:
            host = "[%s]" % host
        if parts.port is not None:
            host += ":%d" % parts.port
    except ValueError:
        return "an invalid URL"
    return clean(urllib.parse.urlunsplit((parts.scheme, host, parts.path, "", "")), 200)


def same_origin(one: str, other: Optional[str]) -> bool:
    """Return whether two URLs have the same scheme, host and port."""
    return _origin(one) == _origin(other or "")


def _origin(url: str) -> Tuple[str, Optional[str], Optional[int]]:
    parts = urllib.parse.urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def _media_type(response: requests.Response) -> str:
    kind = response.headers.get("Content-Type", "")
    return kind.partition(";")[0].strip().lower()


def is_json(response: requests.Response) -> bool:
    return _media_type(response) == "application/json"


def is_event_stream(response: requests.Response) -> bool:
    return _media_type(response) == "text/event-stream"


def _retry_after(response: requests.Response) -> Optional[float]:
    """Return the seconds of ``Retry-After``, which may also be a date."""
    value = response.headers.get("Retry-After", "").strip()
    if value.isdigit() and len(value) < 10:
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
        return max(0.0, moment.timestamp() - time.time())
    except (TypeError, ValueError, IndexError):
        return None


def _verify_setting(verify: Any) -> Any:
    """Return what to verify against; variables are read here, and only here."""
    if verify is not None:
        return verify
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        bundle = os.environ.get(variable)
        if bundle:
            return bundle
    return True


def _checked_headers(headers: Mapping[str, str]) -> Dict[str, str]:
    for name, value in headers.items():
        if not isinstance(name, str) or not isinstance(value, str):
            raise ConfigError("headers must map names to strings")
        # The value may be a secret: it is never shown.
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise ConfigError("%s is no header name" % clean(repr(name), 80))
        if (
            not re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value)
            or value != value.strip()
        ):
            raise ConfigError("the value of the header %s cannot be sent" % name)
    return dict(headers)


class TokenAuthorizer:
    """A bearer token that was given, or an authentication object of ``requests``."""

    def __init__(self, auth: Any) -> None:
        if isinstance(auth, str):
            if not re.fullmatch(r"[\x21-\x7e]+", auth):
                raise ConfigError("the bearer token cannot be sent in a header")
        elif isinstance(auth, tuple) and len(auth) == 2:
            auth = requests.auth.HTTPBasicAuth(*auth)
        elif not callable(auth):
            raise ConfigError(
                "auth must be a bearer token or an authentication object of requests, "
                "not %s" % type(auth).__name__
            )
        self._auth = auth

    def authorize(self, prepared: requests.PreparedRequest, deadline: Deadline) -> None:
        if isinstance(self._auth, str):
            prepared.headers["Authorization"] = "Bearer " + self._auth
        else:
            self._auth(prepared)

    def repair(self, credential: object, response: Any, deadline: Deadline) -> bool:
        return False
