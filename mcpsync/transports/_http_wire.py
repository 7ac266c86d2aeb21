"""One HTTP request to an MCP endpoint: its credentials, its secrets, its connection.

The only place where ``requests`` sends anything for a transport; its exceptions end
here and become ours.
"""

from __future__ import annotations

import http.client
import os
import re
import urllib.parse
from contextlib import contextmanager
from typing import (
    Any,
    Callable,
    Dict,
    Iterator,
    List,
    Mapping,
    Optional,
    Tuple,
    Type,
    Union,
)

import requests
import requests.auth
import requests.utils
import urllib3.exceptions

from .._deadline import Deadline, watchdog
from .._sockets import Abort, AbortableAdapter, Sockets, make_abortable
from .._text import clean, mask
from .._version import __version__
from ..exceptions import ClientClosed, ConfigError, InvalidArguments, MCPError
from ..protocol.jsonrpc import Message, Response, decode, parse
from ._eventstream import chunks
from ._http_errors import (
    FOREIGN,
    Failures,
    bare_url,
    is_event_stream,
    is_json,
    may_pass,
)
from .base import Authorizer

__all__ = ["HTTPWire", "bare_url", "is_event_stream", "is_json", "may_pass"]

#: Bytes of a refusal's body that are read for its message.
_EXCERPT = 64 * 1024

#: How long such a body is awaited, once the status is known.
_EXCERPT_SECONDS = 5.0

#: Times that one request's credentials are repaired. An authorizer gives up earlier.
_REPAIRS = 6

#: Headers that carry credentials. (The proof that DPoP sends along is good for one
#: request alone.)
_CREDENTIALS = ("Authorization", "Cookie")

#: Secrets that JSON can only have inside of strings: its own characters are not in
#: them, and they are no number and no word of its own.
_IN_STRINGS = re.compile(r"(?=.*[^-+.0-9eE])[!#-+\-./0-9;-Z^-z|~]{6,}")

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
        self._headers = _checked_headers(headers, ConfigError)
        self._verify = verify
        self._cert = cert
        self._proxies = proxies
        self._configure = configure
        self._pool_size = pool_size
        self._session: Optional[requests.Session] = None
        self._origin_url = url
        self._under_way: Dict[Abort, None] = {}
        self._epoch = self.sockets.epoch
        self._secrets = _Secrets(_secrets_in(url, headers))
        self._failures = Failures(name, url, authorizer is not None, self.shown)

    # --- life ---------------------------------------------------------------

    def open(self) -> None:
        """Make the session, and read the environment once.

        Raises:
            ConfigError: the URL, or a file with certificates, cannot be used.
        """
        try:
            # As requests will write it, to compare origins by.
            self._origin_url = requests.Request("GET", self.url).prepare().url or ""
        except (requests.RequestException, UnicodeError) as error:
            raise ConfigError("%s is no URL" % bare_url(self.url)) from error
        self._epoch = self.sockets.epoch
        session = requests.Session()
        session.trust_env = False
        for scheme in ("http://", "https://"):
            session.mount(scheme, AbortableAdapter(self._pool_size))
        session.headers["User-Agent"] = "mcpsync/%s" % __version__
        session.headers["Accept-Encoding"] = "identity"
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
        _check_files(session)
        for adapter in session.adapters.values():
            if isinstance(adapter, requests.adapters.HTTPAdapter):
                make_abortable(adapter.poolmanager)
        self._session = session

    def close(self) -> None:
        """Close all connections, and end those in use."""
        session, self._session = self._session, None
        if session is not None:
            session.close()
            # A pool is emptied when it is collected, which may be much later.
            self.sockets.drop()

    def finish(self) -> None:
        """Close idle connections because the program ends.

        Those in use stay: their threads would only wake up to complain.
        """
        session, self._session = self._session, None
        if session is not None:
            session.close()
            self.sockets.drop(in_use=False)

    def after_fork(self) -> None:
        self.sockets.close_copies()
        self._session = None
        self._under_way = {}

    def abort(self, deadline: Deadline) -> Abort:
        return Abort(self.sockets, deadline)

    @contextmanager
    def guarded(self, deadline: Deadline) -> Iterator[Abort]:
        """Yield what ends one request: at its deadline, and with :meth:`shut`."""
        abort = self.abort(deadline)
        self._under_way[abort] = None
        try:
            with watchdog.guard(deadline, lambda: abort.abort("deadline")):
                yield abort
        finally:
            self._under_way.pop(abort, None)
            abort.close()

    def shut(self) -> None:
        """End every request that is :meth:`guarded`, because the client is closed."""
        for abort in list(self._under_way):
            abort.abort("closed")
        if self._authorizer is not None:
            self._authorizer.close()

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
        headers = _checked_headers(headers, InvalidArguments)
        request = requests.Request(method, url or self.url, headers=headers)
        request.data = body or b""
        repairs, credential = 0, None
        while True:
            self._check(abort)
            with self.mapped(abort):
                prepared = session.prepare_request(request)
            credential = self._authorize(prepared, abort, credential)
            response = self._send(session, prepared, abort)
            if response.status_code not in (401, 403) or repairs == _REPAIRS:
                return response
            if not self._repaired(credential, response, abort):
                return response
            repairs += 1
            self.discard(response, abort)

    def _authorize(
        self,
        prepared: requests.PreparedRequest,
        abort: Abort,
        refused: Optional[object],
    ) -> Optional[object]:
        """Add credentials where they belong; return what the authorizer returned."""
        credential: Optional[object] = None
        authorizer = self._authorizer
        if authorizer is not None and same_origin(self._origin_url, prepared.url):
            credential = authorizer.authorize(prepared, abort.deadline, refused)
            _checked_headers(prepared.headers, ConfigError)
        for name in _CREDENTIALS:
            value = prepared.headers.get(name)
            if isinstance(value, str):
                self._secrets.sent(value.rpartition(" ")[2])
        return credential

    def _repaired(
        self, credential: object, response: requests.Response, abort: Abort
    ) -> bool:
        if self._authorizer is None:
            return False
        setattr(response, "server_address", self._address(response, abort))
        try:
            return self._authorizer.repair(credential, response, abort.deadline)
        except BaseException:
            abort.release()
            response.close()
            raise

    def _address(self, response: requests.Response, abort: Abort) -> Optional[str]:
        """Return the IP address of the server, unless a proxy is in between."""
        session, sock = self._session, abort.socket
        if session is None or sock is None:
            return None
        url = response.request.url or self.url
        if requests.utils.select_proxy(url, session.proxies):
            return None
        try:
            return str(sock.getpeername()[0])
        except OSError:
            return None

    def _send(
        self,
        session: requests.Session,
        prepared: requests.PreparedRequest,
        abort: Abort,
    ) -> requests.Response:
        # Getting credentials may have taken its time.
        self._check(abort)
        if self._epoch is not self.sockets.epoch:
            # Pools do not expect that their sockets are closed.
            self._epoch = self.sockets.epoch
            session.close()
        settings: Dict[str, Any] = {
            "timeout": _limits(abort.deadline),
            "verify": session.verify,
            "cert": session.cert,
            "proxies": session.proxies,
            "stream": True,
        }
        try:
            with self.mapped(abort), abort.bound():
                # The adapter, not the session: no cookies, no redirects, no netrc,
                # and nothing of what the session does again for every call.
                adapter = session.get_adapter(prepared.url or self.url)
                response = adapter.send(prepared, **settings)
                response = _after_hooks(prepared, response, settings)
        except BaseException:
            abort.release()
            raise
        abort.connected = True
        if abort.reason is not None:
            # To http.client the end of the connection is the end of the headers.
            abort.release()
            response.close()
            raise self.aborted(abort)
        return response

    def _check(self, abort: Abort) -> None:
        """Raise if the request is over before it is sent."""
        if abort.reason is not None:
            raise self.aborted(abort)
        if abort.deadline.expired:
            raise abort.deadline.error(self.name, None)

    def discard(self, response: requests.Response, abort: Abort) -> bytes:
        """Return the beginning of a body that hardly matters.

        It is read so that its connection can be used again. What goes wrong with it
        does not matter either, unless the request was ended from outside.
        """
        body = bytearray()
        patience = abort.deadline.at_most(_EXCERPT_SECONDS)
        try:
            with self.mapped(abort), watchdog.guard(patience, abort.interrupt):
                for piece in chunks(response.raw, _EXCERPT):
                    body += piece
                    if len(body) >= _EXCERPT:
                        break
        except MCPError:
            # What there is of it will do.
            pass
        finally:
            abort.release()
            response.close()
        if abort.reason is not None:
            raise self.aborted(abort)
        return bytes(body[:_EXCERPT])

    # --- secrets ------------------------------------------------------------

    def keep_secret(self, text: str) -> None:
        """Never show this text, even if the server says it."""
        self._secrets.keep(text)

    def shown(self, text: object, limit: int) -> str:
        """Return text from outside as it may be shown."""
        return clean(text, limit, self._secrets.all)

    def messages(self, data: Union[bytes, str], batches: bool) -> List[Message]:
        """Return the message in a JSON text, or the messages where batches exist.

        Raises:
            InvalidMessage: it is none; the text has no secret of ours in it.
        """
        hidden = self._hidden(data)
        if hidden is not None:
            # What is wrong with it, if anything, is said about this form of it.
            for item in _items(decode(hidden), batches):
                parse(item)
        found = [parse(item) for item in _items(decode(data), batches)]
        return found if hidden is None else [self._discreet(item) for item in found]

    def _hidden(self, data: Union[bytes, str]) -> Union[None, bytes, str]:
        """Return a JSON text without our secrets; ``None`` if there are none in it."""
        found = False
        for secret in self._secrets.all:
            if not _IN_STRINGS.fullmatch(secret):
                continue
            if isinstance(data, str):
                found = found or secret in data
                data = data.replace(secret, "***")
            else:
                secret_bytes = secret.encode("ascii")
                found = found or secret_bytes in data
                data = data.replace(secret_bytes, b"***")
        return data if found else None

    def _discreet(self, message: Message) -> Message:
        """Return an error whose text repeats a secret without it."""
        if not isinstance(message, Response) or message.error is None:
            return message
        text = mask(message.error.get("message", ""), self._secrets.all)
        return Response(message.id, error={**message.error, "message": text})

    # --- what went wrong ----------------------------------------------------

    def refusal(self, response: requests.Response, body: bytes) -> MCPError:
        """Return the exception for a response that is no answer."""
        return self._failures.refusal(response, body)

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
            ValueError,
        ) as error:
            # The last two: libraries trip over a socket that was shut down.
            if abort.reason is not None:
                raise self.aborted(abort) from error
            if not isinstance(error, (*FOREIGN, UnicodeError)):
                raise
            raise self._failures.of_library(error, abort) from error

    def aborted(self, abort: Abort) -> MCPError:
        """Return the exception for a request that was aborted from outside."""
        return self._failures.aborted(abort)


def _limits(deadline: Deadline) -> Tuple[Optional[float], Optional[float]]:
    """Return the limits for connecting and for each single read.

    The watchdog has the deadline, of which a single read knows nothing. The limit for
    reads is for adapters that cannot be aborted, and for when there is no watchdog.
    """
    connect, read = deadline.connect_seconds, deadline.timeout.total
    if deadline.timeout.idle is None:
        # Otherwise messages may move the clock while a read waits.
        read = deadline.remaining()
    # The libraries refuse a limit of 0.
    return (
        None if connect is None else max(connect, 0.001),
        None if read is None else max(read, 0.001),
    )


def _after_hooks(
    prepared: requests.PreparedRequest,
    response: requests.Response,
    settings: Dict[str, Any],
) -> requests.Response:
    """Let the hooks of an authentication object see, and replace, a response."""
    try:
        for hook in (prepared.hooks or {}).get("response", ()):
            given = hook(response, **settings)
            response = response if given is None else given
    except BaseException:
        response.close()
        raise
    return response


# --- small things -----------------------------------------------------------------


def same_origin(one: str, other: Optional[str]) -> bool:
    """Return whether two URLs have the same scheme, host and port."""
    try:
        return _origin(one) == _origin(other or "")
    except ValueError:
        return False


def _origin(url: str) -> Tuple[str, Optional[str], Optional[int]]:
    parts = urllib.parse.urlsplit(url)
    port = parts.port or {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, port


def _verify_setting(verify: Any) -> Any:
    """Return what to verify against; variables are read here, and only here."""
    if verify is not None:
        return verify
    for variable in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        bundle = os.environ.get(variable)
        if bundle:
            return bundle
    return True


def _check_files(session: requests.Session) -> None:
    """Raise ConfigError for a file with certificates that is not there."""
    cert = session.cert
    named = [session.verify, *(cert if isinstance(cert, tuple) else (cert,))]
    for path in named:
        if isinstance(path, (str, os.PathLike)) and not os.path.exists(path):
            raise ConfigError(
                "there is no file %s with certificates" % clean(os.fspath(path), 200)
            )


def _checked_headers(
    headers: Mapping[str, Any], kind: Type[MCPError]
) -> Dict[str, str]:
    """Return a copy; raise `kind` for a header that cannot be sent."""
    for name, value in headers.items():
        if isinstance(value, bytes):
            value = value.decode("latin-1")
        if not isinstance(name, str) or not isinstance(value, str):
            raise kind("headers must map names to strings")
        # The value may be a secret: it is never shown.
        if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", name):
            raise kind("%s is no header name" % clean(repr(name), 80))
        if (
            not re.fullmatch(r"[\t\x20-\x7e\x80-\xff]*", value)
            or value != value.strip()
        ):
            raise kind("the value of the header %s cannot be sent" % name)
    return dict(headers)


class _Secrets:
    """What is kept out of every message. Safe for any number of threads.

    Attributes:
        all: every secret; replaced, never changed.
    """

    def __init__(self, given: Tuple[str, ...]) -> None:
        self._given = given
        self._kept: Tuple[str, ...] = ()
        self._sent: Tuple[str, ...] = ()
        self.all = given

    def keep(self, text: str) -> None:
        """Remember a secret that the server gave."""
        if text not in self._kept:
            self._kept = (*self._kept, text)[-_REMEMBERED:]
            self.all = (*self._given, *self._kept, *self._sent)

    def sent(self, text: str) -> None:
        """Remember a credential; some are made for each request."""
        if text not in self._sent:
            self._sent = (*self._sent, text)[-_REMEMBERED:]
            self.all = (*self._given, *self._kept, *self._sent)


#: Secrets of each kind that are remembered.
_REMEMBERED = 8

#: Headers whose values anybody may know.
_PUBLIC = ("accept", "accept-language", "content-type", "user-agent")


def _secrets_in(url: str, headers: Mapping[str, str]) -> Tuple[str, ...]:
    """Return what must not be shown of what the caller gave."""
    found = []
    for name, value in headers.items():
        if name.lower() not in _PUBLIC:
            found += [value, value.rpartition(" ")[2]]
    parts = urllib.parse.urlsplit(url)
    found += [value for _, value in urllib.parse.parse_qsl(parts.query)]
    if parts.password:
        found += [parts.password, urllib.parse.unquote(parts.password)]
    return tuple(dict.fromkeys(found))


def _items(value: Any, batches: bool) -> List[Any]:
    return value if batches and isinstance(value, list) else [value]


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

    def authorize(
        self,
        prepared: requests.PreparedRequest,
        deadline: Deadline,
        refused: Optional[object] = None,
    ) -> None:
        if isinstance(self._auth, str):
            prepared.headers["Authorization"] = "Bearer " + self._auth
            return
        given = self._auth(prepared)
        if given is not None and given is not prepared:
            # As requests does: the object may return another request.
            prepared.__dict__.update(given.__dict__)

    def repair(self, credential: object, response: Any, deadline: Deadline) -> bool:
        return False

    def close(self) -> None:
        """Nobody ever waits here."""
