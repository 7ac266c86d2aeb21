"""What went wrong over HTTP, in exceptions of ours.

A response that is no answer, an exception of the libraries, or a request that was
ended from outside: each becomes one exception that says what happened and where.
"""

from __future__ import annotations

import email.utils
import http.client
import re
import socket
import time
import urllib.parse
from typing import Callable, Iterator, Optional, Tuple, Type

import requests
import urllib3.exceptions

from .._sockets import Abort
from .._text import clean
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
    Redirected,
    RequestCancelled,
    RequestTimeout,
    TLSError,
)

__all__ = ["FOREIGN", "Failures", "bare_url", "is_event_stream", "is_json", "may_pass"]

_SCOPE = re.compile(r'error\s*=\s*"?insufficient_scope')


class Failures:
    """Makes the exceptions for one server. Safe for any number of threads.

    Args:
        name: how the server is called.
        url: where it is.
        has_credentials: whether requests to it carry any.
        shown: returns text from outside, at most so long, as it may be shown.
    """

    def __init__(
        self,
        name: str,
        url: str,
        has_credentials: bool,
        shown: Callable[[object, int], str],
    ) -> None:
        self._name = name
        self._url = bare_url(url)
        self._has_credentials = has_credentials
        self._shown = shown

    # --- responses ----------------------------------------------------------

    def refusal(self, response: requests.Response, body: bytes) -> MCPError:
        """Return the exception for a response that is no answer."""
        status = response.status_code
        excerpt = self._shown(body.decode("utf-8", "replace").strip(), 200)
        if 300 <= status < 400:
            return self._redirected(response)
        if status == 401:
            return self._unauthorized(response)
        challenge = response.headers.get("WWW-Authenticate", "")
        if status == 403 and _SCOPE.search(challenge):
            return InsufficientScope(
                "the server wants more than the credentials allow", server=self._name
            )
        if 200 <= status < 300:
            kind = clean(_media_type(response), 80) if body else "an empty body"
            what = "the server answered with HTTP status %d and %s" % (
                status,
                "%s instead of JSON or an event stream" % (kind or "an unnamed type"),
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
            server=self._name,
        )

    def _redirected(self, response: requests.Response) -> Redirected:
        location = response.headers.get("Location", "")
        try:
            target = urllib.parse.urljoin(response.url or self._url, location)
            target = self._shown(bare_url(target), 200)
        except ValueError:
            target = "an invalid URL"
        return Redirected(
            "the server redirects %s to %s; if that is right, connect to it directly"
            % (self._url, target),
            urls=(self._url, target),
            server=self._name,
        )

    def _unauthorized(self, response: requests.Response) -> AuthorizationError:
        if self._has_credentials:
            return AuthorizationError(
                "the server did not accept the credentials that it was given",
                server=self._name,
            )
        return LoginRequired(
            "the server wants a login; give auth= a token",
            server_url=self._url,
            server=self._name,
        )

    # --- exceptions ---------------------------------------------------------

    def aborted(self, abort: Abort) -> MCPError:
        """Return the exception for a request that was aborted from outside."""
        if abort.reason == "deadline":
            return abort.deadline.error(self._name, None)
        if abort.reason == "closed":
            return ClientClosed("the client was closed", server=self._name)
        if abort.reason == "cancelled":
            return RequestCancelled("the call was cancelled", server=self._name)
        return ConnectionLost(
            abort.reason or "the request was ended", sent=True, server=self._name
        )

    def of_library(self, error: Exception, abort: Abort) -> MCPError:
        """Return the exception for one that the libraries raised."""
        name, where = self._name, self._url
        causes = tuple(_causes(error))
        why = self._shown(causes[-1], 200) or type(causes[-1]).__name__
        if _any(causes, requests.exceptions.SSLError, urllib3.exceptions.SSLError):
            return TLSError(
                "no trustworthy TLS connection to %s: %s" % (where, why), server=name
            )
        if _is_timeout(causes):
            return self._too_slow(abort)
        # To urllib3 1.26 whatever goes wrong behind a proxy is the proxy's fault.
        if not abort.connected and _any(causes, *_UNREACHABLE):
            proxy = _any(causes, requests.exceptions.ProxyError)
            return ConnectFailed(
                "cannot connect to %s%s: %s%s"
                % (
                    where,
                    " through the proxy" if proxy else "",
                    why,
                    "" if proxy else "; is the server running?",
                ),
                server=name,
            )
        if _any(causes, *_UNSENDABLE):
            return ConfigError("cannot send to %s: %s" % (where, why), server=name)
        if _is_gibberish(causes):
            return InvalidMessage(
                "what came from %s is not HTTP: %s" % (where, why), server=name
            )
        return ConnectionLost(
            "the connection to %s broke before the answer came: %s" % (where, why),
            sent=None if abort.connected else False,
            server=name,
        )

    def _too_slow(self, abort: Abort) -> MCPError:
        """Return the exception for a wait on the socket that took too long."""
        deadline = abort.deadline
        if abort.connected or deadline.expired:
            return deadline.error(self._name, None)
        seconds = deadline.timeout.connect
        limit = "" if seconds is None else " within %g s" % seconds
        return RequestTimeout(
            "no connection to %s%s" % (self._url, limit),
            kind="connect",
            seconds=seconds,
            server=self._name,
            elapsed=deadline.elapsed,
        )


#: What the libraries raise on purpose.
FOREIGN = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)

_UNREACHABLE = (
    urllib3.exceptions.NewConnectionError,
    requests.exceptions.ProxyError,
    urllib3.exceptions.ProxyError,
)

_UNSENDABLE = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    requests.exceptions.MissingSchema,
    urllib3.exceptions.LocationParseError,
    UnicodeError,
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
                current.__cause__,
            )
        current = inner


def _any(causes: Tuple[BaseException, ...], *kinds: Type[BaseException]) -> bool:
    return any(isinstance(cause, kinds) for cause in causes)


def _is_timeout(causes: Tuple[BaseException, ...]) -> bool:
    # To urllib3 1.26 every connection that could not be made is one that timed out.
    return any(
        isinstance(cause, (urllib3.exceptions.TimeoutError, socket.timeout))
        and not isinstance(cause, urllib3.exceptions.NewConnectionError)
        for cause in causes
    )


def _is_gibberish(causes: Tuple[BaseException, ...]) -> bool:
    return any(
        isinstance(cause, (http.client.HTTPException, urllib3.exceptions.InvalidHeader))
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


def may_pass(status: int) -> bool:
    """Return whether a refusal with this status is one that may pass by itself."""
    return status in (408, 429, 500, 502, 503, 504)


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
    if value.isascii() and value.isdigit() and len(value) < 10:
        return float(value)
    try:
        moment = email.utils.parsedate_to_datetime(value)
        return max(0.0, moment.timestamp() - time.time())
    except (TypeError, ValueError, IndexError, OverflowError):
        return None
