"""Every HTTP request of the authorization part, under one set of rules.

URLs come from servers, so each is checked before it is asked, redirects included, and
so is the address that it leads to. Nothing is sent that was not asked for: no cookies,
no credentials out of files, no credentials of the MCP server. Nothing is waited for
beyond one clock, however slowly it comes, and nothing is read without a bound.

Specification: 2026-07-28, basic/authorization/security-considerations.
"""

from __future__ import annotations

import functools
import http.client
import itertools
import json
import os
import re
import urllib.parse
import zlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import (
    Any,
    Callable,
    ContextManager,
    Iterator,
    List,
    Mapping,
    NamedTuple,
    Optional,
    Sequence,
    Tuple,
    Type,
    Union,
)

import requests
import requests.utils
import urllib3.exceptions

from .._deadline import Deadline, watchdog
from .._lifecycle import Enrolled, enrol
from .._sockets import Abort, AbortableAdapter, Sockets, resolve
from .._text import clean
from .._version import __version__
from ..exceptions import (
    AuthorizationError,
    ConfigError,
    DiscoveryError,
    InvalidMessage,
    RegistrationError,
    TokenError,
)
from ..protocol.jsonrpc import check_depth, decode, dumps
from ..types import JSON
from ._urls import (
    Insecure,
    bare_url,
    check_url,
    is_loopback_host,
    is_public_address,
    split,
)

__all__ = ["FetchResult", "Fetcher", "check_url"]

#: Seconds that one request may take in total, connecting included.
REQUEST_SECONDS = 30.0

#: Most bytes of one body, after decompression.
BODY_BYTES = 1024 * 1024

#: Most requests of one flow that look for metadata, redirects included.
DISCOVERY_REQUESTS = 12

#: Most redirects of one such request.
REDIRECTS = 3

USER_AGENT = "mcpsync/" + __version__

#: What `requests` adds credentials to a request with.
Auth = Union[
    Tuple[str, str], Callable[[requests.PreparedRequest], requests.PreparedRequest]
]

Form = Union[Mapping[str, str], Sequence[Tuple[str, str]]]

#: A later attempt may get another answer: an outage, or too many requests just now.
_BUSY_STATUSES = (408, 425, 429)

_REDIRECT_STATUSES = (301, 302, 303, 307, 308)


@dataclass(frozen=True)
class FetchResult:
    """What came back. Immutable.

    Attributes:
        status: the HTTP status code.
        json: the JSON value of the body; ``None`` also where there is none.
        headers: looked up without regard to case.
        url: where it came from in the end, redirects followed.
        reason: why there is no JSON value; ``None`` where there is one.
    """

    status: int
    json: JSON = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)
    url: str
    reason: Optional[str] = None


class Fetcher:
    """Sends the requests of one flow: discovery, registration, tokens.

    It keeps nothing open between two requests. May be shared by threads.

    Args:
        server_url: the MCP server's URL. If it is a public server, nothing that it
            names may lead to an address that is not public.
        allow_insecure: origins that may be spoken to over plain http, or a function
            that tells for an origin; loopback addresses always may.
        allow_private: whether a public server may name private addresses.
        verify: a file or directory of certificate authorities; ``None`` means those
            that the environment names, or else the usual ones.
        proxies: as in ``requests``; ``None`` means those of the environment, which are
            not used for loopback addresses.
        user_agent: the ``User-Agent`` to send.
        protocol_version: the MCP version to name when looking for metadata.
        server_address: the IP address at which the MCP server was reached, where that
            is known; otherwise its name is looked up when it matters.

    Raises:
        ConfigError: `verify` turns verification off, or names nothing; or the
            server's URL is none.
    """

    def __init__(
        self,
        *,
        server_url: str,
        allow_insecure: Insecure = (),
        allow_private: bool = False,
        verify: Union[None, bool, str] = None,
        proxies: Optional[Mapping[str, str]] = None,
        user_agent: str = USER_AGENT,
        protocol_version: Optional[str] = None,
        server_address: Optional[str] = None,
    ) -> None:
        self._allow_insecure = allow_insecure
        self._proxies = None if proxies is None else dict(proxies)
        self._verify = _verify_setting(verify)
        self._user_agent = user_agent
        self._protocol_version = protocol_version
        self._network = _Network(server_url, allow_private, server_address)
        self._requests = itertools.count(1)

    # --- asking -------------------------------------------------------------

    def check_url(self, url: object, what: str) -> str:
        """Return a URL that a server named, unchanged, if it may be used.

        Args:
            what: what the URL is, for the message.

        Raises:
            DiscoveryError: it may not be used.
        """
        return check_url(url, what, self._allow_insecure)

    def check_address(self, url: str, what: str, deadline: Deadline) -> None:
        """Refuse a URL that leads where this server must not send anybody.

        For URLs that are not fetched here, but shown to a browser. One that cannot be
        looked up from here passes.

        Raises:
            DiscoveryError: it leads to an address that is not public.
        """
        if self._network.open or self._proxy_for(url) is not None:
            return
        parts, step = split(url), _Step(what, url)
        with self._call(step, deadline.at_most(REQUEST_SECONDS)) as call:
            try:
                addresses = resolve(parts.host, parts.port, call)
            except (OSError, UnicodeError):
                return
            for _, address in addresses:
                if not self._network.admits(address[0], call):
                    raise step.private(address[0])

    def get_json(self, url: str, deadline: Deadline, what: str) -> FetchResult:
        """Ask for a JSON document, following a few redirects.

        The body is read only if the status is 200. That it is JSON is not demanded:
        see `FetchResult.reason`.

        Args:
            deadline: the caller's; one request takes 30 seconds at most anyway.
            what: what the document is, for messages.

        Raises:
            DiscoveryError: the URL, or one that it redirects to, is refused; or there
                is no answer (`retryable`), as when the status says "not now".
        """
        headers = {"Accept": "application/json"}
        if self._protocol_version is not None:
            headers["MCP-Protocol-Version"] = self._protocol_version
        first = url
        for _ in range(REDIRECTS + 1):
            self.check_url(url, what + " URL")
            step = _Step(what, url)
            if next(self._requests) > DISCOVERY_REQUESTS:
                raise step.error("the server causes too many requests")
            request = requests.Request("GET", url, headers)
            result = self._exchange(step, request, deadline, lambda code: code == 200)
            if result.status not in _REDIRECT_STATUSES:
                _refuse_outage(step, result)
                return result
            url = _target(step, result)
        raise _Step(what, first).error("more than %d redirects" % REDIRECTS)

    def post_form(
        self,
        url: str,
        data: Form,
        deadline: Deadline,
        what: str,
        headers: Optional[Mapping[str, str]] = None,
        auth: Optional[Auth] = None,
    ) -> FetchResult:
        """Send a form. Redirects are errors: its secrets are for this URL alone.

        Args:
            deadline: the caller's; the request takes 30 seconds at most anyway.
            what: what the request is, for messages.
            headers: sent besides our own.
            auth: adds credentials, as in ``requests``.

        Returns:
            Whatever was answered with a status below 500.

        Raises:
            TokenError: there is no answer, or only an outage; its `retryable` tells
                whether another attempt makes sense, and `retry_after` after how many
                seconds, if the server said so.
            DiscoveryError: the URL is refused.
        """
        pairs = list(data.items() if isinstance(data, Mapping) else data)
        given = dict(headers or {})
        request = requests.Request("POST", url, given, data=pairs)
        request.auth = auth
        secrets = [value for _, value in pairs]
        secrets += [value.rpartition(" ")[2] for value in given.values()]
        step = _Step(what, url, TokenError, tuple(secrets))
        return self._post(step, request, deadline)

    def post_json(
        self,
        url: str,
        value: JSON,
        deadline: Deadline,
        what: str,
        headers: Optional[Mapping[str, str]] = None,
    ) -> FetchResult:
        """Send a JSON value, as client registration does. Otherwise like post_form().

        Raises:
            RegistrationError: there is no answer, or only an outage; its `retryable`
                tells whether another attempt makes sense.
            DiscoveryError: the URL is refused.
        """
        given = {"Content-Type": "application/json", **(headers or {})}
        request = requests.Request("POST", url, given, data=dumps(value))
        return self._post(_Step(what, url, RegistrationError), request, deadline)

    def _post(
        self, step: _Step, request: requests.Request, deadline: Deadline
    ) -> FetchResult:
        self.check_url(step.url, step.what + " URL")
        request.headers = {"Accept": "application/json", **request.headers}
        result = self._exchange(step, request, deadline, lambda code: code < 500)
        if 300 <= result.status < 400:
            location = _location(step, result)
            raise step.error("it redirects to %s" % step.shown(bare_url(location)))
        if result.status >= 500:
            _refuse_outage(step, result)
        return result

    # --- one request --------------------------------------------------------

    def _exchange(
        self,
        step: _Step,
        request: requests.Request,
        deadline: Deadline,
        wants_body: Callable[[int], bool],
    ) -> FetchResult:
        """Send one request; read the body of the response if it is wanted."""
        proxy = self._proxy_for(step.url)
        prepared = _prepared(step, request, self._user_agent)
        limit = deadline.at_most(REQUEST_SECONDS)
        if deadline.expired:
            raise step.error("no time is left for it", retryable=True)
        adapter = _Adapter(pool_size=1)
        try:
            with self._call(step, limit) as call, call.bound():
                seconds = limit.wait_seconds()
                response = adapter.send(
                    prepared,
                    stream=True,
                    timeout=(seconds, seconds),
                    verify=self._verify,
                    proxies={} if proxy is None else {split(step.url).scheme: proxy},
                )
                try:
                    return _read(step, response, call, wants_body)
                finally:
                    call.release()
                    response.close()
        finally:
            adapter.close()

    def _call(self, step: _Step, limit: Deadline) -> ContextManager[_Call]:
        return _guarded(step, _Call(_open.sockets, limit, self._network))

    def _proxy_for(self, url: str) -> Optional[str]:
        """Return the proxy through which a URL is asked, if any."""
        proxies: Mapping[str, str]
        if self._proxies is not None:
            proxies = self._proxies
        elif is_loopback_host(split(url).host):
            return None
        else:
            proxies = requests.utils.get_environ_proxies(url, no_proxy=None)
        return requests.utils.select_proxy(url, dict(proxies)) or None


def _verify_setting(verify: Union[None, bool, str]) -> Union[bool, str]:
    """Return what to verify against; variables are read here, and only here."""
    if verify is False:
        raise ConfigError(
            "authorization needs verified connections; give verify= the file with the "
            "certificate authority of the server instead of False"
        )
    if verify is None:
        variables = ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
        found = (os.environ.get(name) for name in variables)
        verify = next(filter(None, found), True)
    if isinstance(verify, str) and not os.path.exists(verify):
        raise ConfigError("there is no file %s with certificates" % clean(verify, 200))
    return verify


# --- errors -------------------------------------------------------------------------


class _Step(NamedTuple):
    """What is being done: the material of every message.

    Attributes:
        secrets: what was sent and must not come back in a message.
    """

    what: str
    url: str
    kind: Type[AuthorizationError] = DiscoveryError
    secrets: Tuple[str, ...] = ()

    def __repr__(self) -> str:
        return "_Step(%r, %r)" % (self.what, bare_url(self.url))

    def error(self, reason: str, retryable: bool = False) -> AuthorizationError:
        """Return the exception for a failure of this step."""
        text = "the %s at %s failed: %s" % (self.what, bare_url(self.url), reason)
        error = self.kind(text)
        setattr(error, "retryable", retryable)
        setattr(error, "retry_after", None)
        return error

    def shown(self, text: object) -> str:
        """Return text from outside as a message may have it."""
        return clean(text, 200, self.secrets)

    def private(self, address: str) -> AuthorizationError:
        """Return the exception for an address that this server must not name."""
        return self.error(
            "it leads to %s, which is no public address, and a public server must not "
            "point there" % clean(address, 60)
        )


def _refuse_outage(step: _Step, result: FetchResult) -> None:
    if result.status < 500 and result.status not in _BUSY_STATUSES:
        return
    error = step.error("HTTP status %d" % result.status, retryable=True)
    seconds = result.headers.get("Retry-After") or ""
    if re.fullmatch("[0-9]{1,6}", seconds):
        setattr(error, "retry_after", float(seconds))
    raise error


def _location(step: _Step, result: FetchResult) -> str:
    """Return where a response points to, as an absolute URL."""
    location = result.headers.get("Location", "")
    if not location:
        raise step.error("it redirects to nowhere")
    try:
        target = urllib.parse.urljoin(step.url, location)
        split(target)
    except ValueError:
        raise step.error("it redirects to no URL") from None
    return target


def _target(step: _Step, result: FetchResult) -> str:
    """Return where a redirect leads. The next request checks the URL as such."""
    target = _location(step, result)
    if (split(step.url).scheme, split(target).scheme) == ("https", "http"):
        raise step.error("it redirects to %s, away from https" % bare_url(target))
    return target


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception and what is wrapped inside it, outermost first."""
    current: Optional[BaseException] = error
    for _ in range(10):
        if current is None:
            return
        yield current
        inner = getattr(current, "reason", None)
        if not isinstance(inner, BaseException):
            inner = next(
                (part for part in current.args if isinstance(part, BaseException)),
                current.__cause__,
            )
        current = inner


# --- one connection -----------------------------------------------------------------


class _Network:
    """Which addresses this flow may connect to."""

    def __init__(self, server_url: str, allow_private: bool, address: Optional[str]):
        try:
            parts = split(server_url)
        except ValueError as error:
            raise ConfigError("%s is no URL" % bare_url(server_url)) from error
        self._host, self._port = parts.host, parts.port
        #: Whether every address is fine.
        self.open = allow_private or is_loopback_host(self._host)
        if address is not None and not is_public_address(address):
            self.open = True
        self._looked_up = self.open or address is not None

    def admits(self, address: str, call: Abort) -> bool:
        """Return whether a connection to an address may be made."""
        if self.open or is_public_address(address):
            return True
        if not self._looked_up:
            # Only now does it matter where the server itself is.
            self.open = self._is_private(call)
            self._looked_up = call.reason is None
        return self.open

    def _is_private(self, call: Abort) -> bool:
        try:
            found = resolve(self._host, self._port, call)
        except (OSError, UnicodeError):
            return False
        # All of them: a public server could add one private address to the others.
        return bool(found) and not any(is_public_address(a[0]) for _, a in found)


class _Refused(OSError):
    """No address of a host may be connected to."""


class _Call(Abort):
    """One request: what ends it, and where its connection may lead.

    Attributes:
        refused: an address that was the reason not to connect.
    """

    def __init__(self, sockets: Sockets, deadline: Deadline, network: _Network) -> None:
        super().__init__(sockets, deadline)
        self.refused: Optional[str] = None
        self._network = network

    def admitted(self, addresses: List[Tuple[int, Any]]) -> List[Tuple[int, Any]]:
        """Return those addresses of a host that may be connected to.

        Raises:
            OSError: there are none left.
        """
        admits = self._network.admits
        fine = [entry for entry in addresses if admits(entry[1][0], self)]
        if addresses and not fine:
            self.refused = str(addresses[0][1][0])
            raise _Refused("no public address")
        return fine


@functools.lru_cache(maxsize=None)
def _checking(pool: Any) -> Any:
    """Return a subclass of a pool's class whose connections ask where they may go.

    The addresses that are checked are the very ones that are connected to: nobody
    looks the name up a second time.
    """
    kind = pool.ConnectionCls
    connect = kind._first_of

    def first_of(self: Any, addresses: List[Tuple[int, Any]], call: _Call) -> Any:
        return connect(self, call.admitted(addresses), call)

    connection = type("Checking" + kind.__name__, (kind,), {"_first_of": first_of})
    return type("Checking" + pool.__name__, (pool,), {"ConnectionCls": connection})


class _Adapter(AbortableAdapter):
    """Direct connections ask first; those to a proxy are the proxy's business."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        manager: Any = self.poolmanager
        manager.pool_classes_by_scheme = {
            scheme: _checking(pool)
            for scheme, pool in manager.pool_classes_by_scheme.items()
        }


class _OpenSockets(Enrolled):
    """The sockets of all requests of this process that are under way."""

    def __init__(self) -> None:
        self.sockets = Sockets()
        enrol(self)

    def after_fork_in_child(self) -> None:
        self.sockets.close_copies()


_open = _OpenSockets()


@contextmanager
def _guarded(step: _Step, call: _Call) -> Iterator[_Call]:
    """Run a call under its deadline, and say what went wrong in our own words."""
    try:
        with watchdog.guard(call.deadline, lambda: call.abort("deadline")):
            yield call
    except (*_FOREIGN, AttributeError, ValueError) as error:
        # The last two: libraries trip over a socket that was shut down.
        failure = _translated(error, step, call)
        if failure is None:
            raise
        # The exceptions of encoders show what they could not encode.
        raise failure from None if isinstance(error, UnicodeError) else error
    finally:
        call.release()


def _translated(
    error: Exception, step: _Step, call: _Call
) -> Optional[AuthorizationError]:
    if isinstance(error, requests.RequestException):
        # It would carry the body, and with it secrets, wherever it goes.
        error.request = None
    if call.reason is not None or call.deadline.expired:
        return step.error(_too_late(call), retryable=True)
    if call.refused is not None:
        return step.private(call.refused)
    if not isinstance(error, (*_FOREIGN, UnicodeError)):
        return None
    causes = tuple(_causes(error))
    why = step.shown(causes[-1]) or type(causes[-1]).__name__
    if _any(causes, _UNSENDABLE):
        return step.error("it cannot be sent")
    if _any(causes, _GIBBERISH) and not _any(causes, _BROKEN):
        return step.error("what came is not HTTP: %s" % why)
    return step.error(why, retryable=True)


def _any(
    causes: Tuple[BaseException, ...], kinds: Tuple[Type[BaseException], ...]
) -> bool:
    return any(isinstance(cause, kinds) for cause in causes)


def _too_late(call: Abort) -> str:
    return "no complete answer within %.3g s" % call.deadline.elapsed


#: What the libraries raise on purpose.
_FOREIGN = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    http.client.HTTPException,
    OSError,
)

_UNSENDABLE = (
    requests.exceptions.InvalidURL,
    requests.exceptions.InvalidSchema,
    urllib3.exceptions.LocationParseError,
    UnicodeError,
)

_GIBBERISH = (http.client.HTTPException, urllib3.exceptions.InvalidHeader)

_BROKEN = (http.client.RemoteDisconnected, http.client.IncompleteRead)


# --- request and response -----------------------------------------------------------


def _prepared(
    step: _Step, request: requests.Request, user_agent: str
) -> requests.PreparedRequest:
    """Return the request as it is sent. Without a session there are no cookies."""
    request.headers = {
        "User-Agent": user_agent,
        "Accept-Encoding": "identity",
        "Connection": "close",
        **request.headers,
    }
    try:
        return request.prepare()
    except (requests.RequestException, ValueError):
        # The reason could hold a secret, as the headers do.
        raise step.error("the request cannot be written down") from None


def _read(
    step: _Step,
    response: requests.Response,
    call: Abort,
    wants_body: Callable[[int], bool],
) -> FetchResult:
    status, url = response.status_code, step.url
    value, reason = None, "HTTP status %d" % status
    if wants_body(status):
        value, why = _value(_body(step, response, call))
        return FetchResult(status, value, response.headers, url, why)
    return FetchResult(status, value, response.headers, url, reason)


def _body(step: _Step, response: requests.Response, call: Abort) -> bytes:
    """Return the whole body, decoded."""
    raw = response.raw
    announced = response.headers.get("Content-Length", "")
    body = bytearray()
    while len(body) <= BODY_BYTES:
        piece = raw.read(BODY_BYTES + 1 - len(body), decode_content=False)
        if not piece:
            break
        body += piece
    if call.reason is not None:
        # To some versions of the libraries this is the end of the body.
        raise step.error(_too_late(call), retryable=True)
    if re.fullmatch("[0-9]{1,9}", announced) and len(body) < int(announced):
        if len(body) <= BODY_BYTES:
            raise step.error("the body broke off", retryable=True)
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in ("gzip", "x-gzip", "deflate") and body:
        body = _inflated(step, bytes(body))
    elif encoding not in ("", "identity"):
        raise step.error("unexpected content encoding %s" % step.shown(encoding))
    if len(body) > BODY_BYTES:
        raise step.error("the body is larger than %d bytes" % BODY_BYTES)
    return bytes(body)


def _inflated(step: _Step, body: bytes) -> bytearray:
    # 47: a gzip or a zlib header, whichever there is.
    inflater = zlib.decompressobj(47)
    try:
        inflated = bytearray(inflater.decompress(body, BODY_BYTES + 1))
    except zlib.error:
        raise step.error("the body is not compressed as it says") from None
    if not inflater.eof and len(inflated) <= BODY_BYTES:
        raise step.error("the compressed body broke off", retryable=True)
    return inflated


#: Tells whether a text is JSON, and does not care about its numbers.
_outline = json.JSONDecoder(parse_int=len, parse_float=len)


def _value(body: bytes) -> Tuple[JSON, Optional[str]]:
    """Return the JSON value of a body, or why it has none."""
    if not body.strip():
        return None, "the body is empty"
    try:
        # First, because decode() quotes what is not JSON, and that may hold a token.
        text = body.decode("utf-8")
        check_depth(text)
        _outline.decode(text)
        return decode(text), None
    except InvalidMessage as error:
        return None, error.message
    except UnicodeDecodeError:
        return None, "not UTF-8"
    except ValueError as error:
        return None, "not JSON (%s)" % getattr(error, "msg", "malformed")
    except RecursionError:
        return None, "nested too deeply"
