"""Logging in: the URL that a person opens, and the answer that comes back.

What a login is about is written down before the browser opens, and the answer is held
against that record: first whether it belongs to this login at all, then who it is
from, and only then what it says.

Specification: 2026-07-28, basic/authorization; RFC 6749, 7636 and 9207.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import logging
import math
import re
import secrets
import sys
import threading
import time
import urllib.parse
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, List, Mapping, Optional, Tuple, Type, TypeVar

from .._deadline import Deadline
from .._text import clean
from ..exceptions import (
    AuthorizationError,
    ConfigError,
    DiscoveryError,
    IssuerMismatch,
    LoginRequired,
)
from ..types import JSON
from ._loopback import (
    QUERY_BYTES,
    CallbackListener,
    WrongState,
    is_openable,
    open_browser,
)
from ._records import ClientRecord, ServerMetadata
from ._urls import bare_url, check_url, flaw, split

__all__ = [
    "LOGIN_SECONDS",
    "LoopbackListener",
    "PendingLogin",
    "WrongState",
    "browser_flow",
    "code_challenge",
    "new_pending_login",
    "open_browser",
    "paste_flow",
    "read_callback",
    "require_s256",
    "require_terminal",
]

_log = logging.getLogger("mcpsync")

T = TypeVar("T")

#: Seconds that a person has for a login.
LOGIN_SECONDS = 300.0

#: How often another URL may be pasted when it was not the one of this login.
_PASTES = 3

#: RFC 7636, 4.1.
_VERIFIER = re.compile(r"[A-Za-z0-9\-._~]{43,128}")

#: RFC 6749, appendix A.5 and A.11: visible characters and spaces.
_VISIBLE = re.compile(r"[\x20-\x7e]+")

#: What a URL may have and means something to a shell; but for the ampersand, which
#: every URL of a login has.
_SHELL = re.compile(r"[!$'()*;]")

_WHOLE_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://")

_VERSION = 1


# --- proof key for code exchange ----------------------------------------------------


def code_challenge(verifier: str) -> str:
    """Return the S256 challenge of a verifier (RFC 7636, 4.2)."""
    digest = hashlib.sha256(verifier.encode("ascii")).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode("ascii")


def require_s256(metadata: ServerMetadata, waived: bool = False) -> None:
    """Refuse an authorization server that does not check who redeems a code.

    A server without metadata, as in 2025-03-26, has nothing that could say so.

    Args:
        waived: whether the user trusts this issuer to do so although it does not say.
            A server that says which methods it has, and not S256, is refused still.

    Raises:
        DiscoveryError: its metadata does not offer S256.
    """
    methods = metadata.code_challenge_methods_supported
    if not metadata.found or (methods is None and waived):
        return
    if methods is None or "S256" not in methods:
        raise DiscoveryError(
            "the authorization server %s does not offer PKCE with S256 (its metadata "
            "has %s), so that a stolen code could be used"
            % (
                bare_url(metadata.issuer),
                (
                    "no code_challenge_methods_supported"
                    if methods is None
                    else "other code_challenge_methods_supported"
                ),
            )
        )


# --- the record ---------------------------------------------------------------------


@dataclass(frozen=True)
class PendingLogin:
    """What was asked for, to be held against the answer. For one answer only.

    Keep it where the person who logs in cannot read or change it: it holds secrets.

    Attributes:
        issuer: of the authorization server, exactly as it was validated.
        iss_advertised: whether the server promises to name itself in its answer.
        client: with the way in which it identifies itself.
        scopes: ``None`` leaves the choice to the server.
        created: seconds since the epoch.
        consent: whether the person is to be asked even if that happened before.
        dpop_key: the private key, as a JWK, that the token will be bound to.
    """

    server_name: str
    server_url: str
    issuer: str
    iss_advertised: bool
    authorization_endpoint: str
    token_endpoint: str
    client: ClientRecord
    redirect_uri: str
    resource: Optional[str]
    scopes: Optional[Tuple[str, ...]]
    state: str = field(repr=False)
    verifier: str = field(repr=False)
    created: float
    consent: bool = False
    dpop_key: Optional[Mapping[str, JSON]] = field(default=None, repr=False)

    @property
    def expired(self) -> bool:
        """Whether its 300 seconds are over."""
        return not abs(time.time() - self.created) < LOGIN_SECONDS

    @property
    def authorization_url(self) -> str:
        """The URL that the person opens.

        Raises:
            DiscoveryError: the server's endpoint is no URL for a browser.
        """
        endpoint = check_url(self.authorization_endpoint, "authorization endpoint")
        parameters = self._parameters()
        # Should a user have named a shell as his browser: nothing in it is a command.
        endpoint = _SHELL.sub(lambda match: "%%%02X" % ord(match.group()), endpoint)
        base, _, query = endpoint.partition("?")
        kept = [piece for piece in query.split("&") if piece]
        kept = [piece for piece in kept if _name_of(piece) not in parameters]
        kept.append(urllib.parse.urlencode(parameters))
        url = base + "?" + "&".join(kept)
        if not is_openable(url):
            raise DiscoveryError(
                "the authorization endpoint, %s, is no URL to show to a browser"
                % bare_url(endpoint)
            )
        return url

    def _parameters(self) -> Dict[str, str]:
        parameters = {
            "response_type": "code",
            "client_id": self.client.client_id,
            "redirect_uri": self.redirect_uri,
            "code_challenge": code_challenge(self.verifier),
            "code_challenge_method": "S256",
            "state": self.state,
        }
        if self.scopes:
            parameters["scope"] = " ".join(self.scopes)
        if self.resource is not None:
            parameters["resource"] = self.resource
        if self.consent:
            parameters["prompt"] = "consent"
        return parameters

    def to_json(self) -> Dict[str, JSON]:
        """Return it as JSON, secrets included, for :meth:`from_json`."""
        values: Dict[str, JSON] = {"v": _VERSION, **vars(self)}
        values["client"] = {
            **vars(self.client),
            "redirect_uris": list(self.client.redirect_uris),
        }
        values["scopes"] = None if self.scopes is None else list(self.scopes)
        values["dpop_key"] = None if self.dpop_key is None else dict(self.dpop_key)
        return values

    @classmethod
    def from_json(cls, value: JSON) -> "PendingLogin":
        """Read what :meth:`to_json` returned.

        Raises:
            ConfigError: it is something else.
        """
        if not isinstance(value, dict) or value.get("v") != _VERSION:
            raise ConfigError("this is no pending login that this version can read")
        try:
            return _pending_login(value)
        except _Malformed as malformed:
            raise ConfigError(
                "this is no pending login: %s is missing or malformed" % malformed
            ) from None


def _name_of(piece: str) -> str:
    return urllib.parse.unquote_plus(piece.partition("=")[0])


def new_pending_login(
    *,
    server_name: str,
    server_url: str,
    issuer: str,
    iss_advertised: bool,
    authorization_endpoint: Optional[str],
    token_endpoint: str,
    client: ClientRecord,
    redirect_uri: str,
    resource: Optional[str],
    scopes: Optional[Tuple[str, ...]],
    consent: bool = False,
    dpop_key: Optional[Mapping[str, JSON]] = None,
) -> PendingLogin:
    """Write down a login that is about to begin, with new secrets of its own.

    Raises:
        DiscoveryError: the server has no authorization endpoint.
        ConfigError: the redirect URI is neither https nor of this machine.
    """
    if authorization_endpoint is None:
        raise DiscoveryError(
            "the authorization server %s has no authorization endpoint, so that nobody "
            "can log in there" % bare_url(issuer)
        )
    try:
        check_url(redirect_uri, "redirect URI")
    except DiscoveryError as error:
        raise ConfigError(str(error)) from None
    return PendingLogin(
        server_name=server_name,
        server_url=server_url,
        issuer=issuer,
        iss_advertised=iss_advertised,
        authorization_endpoint=authorization_endpoint,
        token_endpoint=token_endpoint,
        client=client,
        redirect_uri=redirect_uri,
        resource=resource,
        scopes=scopes,
        state=secrets.token_urlsafe(32),
        verifier=secrets.token_urlsafe(64),
        created=time.time(),
        consent=consent,
        dpop_key=dpop_key,
    )


class _Malformed(Exception):
    """Names a member that is not what it should be. Never shows its value."""


def _pending_login(value: Mapping[str, JSON]) -> PendingLogin:
    read = _Reader(value)
    return PendingLogin(
        server_name=read.text("server_name"),
        server_url=read.text("server_url"),
        issuer=read.text("issuer"),
        iss_advertised=read.one("iss_advertised", bool),
        authorization_endpoint=read.url("authorization_endpoint"),
        token_endpoint=read.url("token_endpoint"),
        client=_client(_Reader(read.one("client", dict), "client.")),
        redirect_uri=read.url("redirect_uri"),
        resource=read.text_or_none("resource"),
        scopes=read.names_or_none("scopes"),
        state=read.matching("state", _VERIFIER),
        verifier=read.matching("verifier", _VERIFIER),
        created=read.seconds("created"),
        consent=read.one("consent", bool),
        dpop_key=read.object_or_none("dpop_key"),
    )


def _client(read: "_Reader") -> ClientRecord:
    expires_at = read.value("secret_expires_at")
    return ClientRecord(
        client_id=read.text("client_id"),
        client_secret=read.text_or_none("client_secret"),
        auth_method=read.text_or_none("auth_method"),
        redirect_uris=read.names_or_none("redirect_uris") or (),
        secret_expires_at=(
            None if expires_at is None else read.seconds("secret_expires_at")
        ),
        kind=read.text("kind"),
        issuer=read.text_or_none("issuer"),
    )


class _Reader:
    """Reads members of an object, each of which must have its own type."""

    def __init__(self, values: Mapping[str, JSON], prefix: str = "") -> None:
        self._values = values
        self._prefix = prefix

    def value(self, name: str) -> JSON:
        if name not in self._values:
            raise self._malformed(name)
        return self._values[name]

    def _malformed(self, name: str) -> _Malformed:
        return _Malformed(self._prefix + name)

    def one(self, name: str, kind: Type[T]) -> T:
        value = self.value(name)
        if not isinstance(value, kind):
            raise self._malformed(name)
        return value

    def text(self, name: str) -> str:
        value = self.one(name, str)
        if not value:
            raise self._malformed(name)
        return value

    def text_or_none(self, name: str) -> Optional[str]:
        return None if self.value(name) is None else self.text(name)

    def matching(self, name: str, pattern: "re.Pattern[str]") -> str:
        value = self.text(name)
        if not pattern.fullmatch(value):
            raise self._malformed(name)
        return value

    def url(self, name: str) -> str:
        value = self.text(name)
        if flaw(value) is not None:
            raise self._malformed(name)
        return value

    def names_or_none(self, name: str) -> Optional[Tuple[str, ...]]:
        if self.value(name) is None:
            return None
        values: List[JSON] = self.one(name, list)
        if not all(isinstance(one, str) and one for one in values):
            raise self._malformed(name)
        return tuple(values)

    def object_or_none(self, name: str) -> Optional[Dict[str, JSON]]:
        return None if self.value(name) is None else dict(self.one(name, dict))

    def seconds(self, name: str) -> float:
        value = self.value(name)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self._malformed(name)
        if not (math.isfinite(value) and 0 <= value < 1e12):
            raise self._malformed(name)
        return float(value)


# --- the answer ---------------------------------------------------------------------

#: What must not come twice: a second one would be for whoever reads it otherwise.
_ONCE = ("code", "state", "iss", "error")


def read_callback(pending: PendingLogin, url_or_query: str) -> str:
    """Return the code of an answer, once that is known to be the one to this login.

    Args:
        url_or_query: the whole URL that the browser was sent to, or its query.

    Raises:
        WrongState: it is not the answer to this login; that may come yet.
        IssuerMismatch: it is from another authorization server. Nothing of what it
            says is shown.
        LoginRequired: it came too late.
        AuthorizationError: the login was refused; the message says why.
    """
    answer = _parsed(pending, url_or_query)
    _check_state(pending, answer)
    _check_issuer(pending, answer)
    if pending.expired:
        raise _unfinished(pending)
    if "error" in answer:
        raise _refusal(pending, answer)
    code = answer.get("code", "")
    if not _VISIBLE.fullmatch(code):
        raise _failure(pending, "it answered the login with neither code nor error")
    return code


def _parsed(pending: PendingLogin, text: str) -> Dict[str, str]:
    query = _query(pending, text.strip())
    if len(query) > QUERY_BYTES:
        raise _not_ours(pending, "it is too long")
    try:
        pairs = urllib.parse.parse_qsl(
            query, keep_blank_values=True, max_num_fields=100, errors="replace"
        )
    except ValueError:
        raise _not_ours(pending, "it has too many parameters") from None
    names = [name for name, _ in pairs]
    if any(names.count(name) > 1 for name in _ONCE):
        raise _not_ours(pending, "it has a parameter twice")
    return dict(pairs)


def _query(pending: PendingLogin, text: str) -> str:
    text = text.partition("#")[0]
    if _WHOLE_URL.match(text):
        if not _same_place(text, pending.redirect_uri):
            raise _not_ours(
                pending, "it is no URL at %s" % bare_url(pending.redirect_uri)
            )
        return text.partition("?")[2]
    before, mark, query = text.partition("?")
    # Only a path may stand before it: a query could hold question marks of its own.
    return query if mark and "=" not in before else text


def _same_place(url: str, redirect_uri: str) -> bool:
    try:
        one, other = split(url), split(redirect_uri)
    except ValueError:
        return False
    return (one.origin, one.path or "/") == (other.origin, other.path or "/")


def _check_state(pending: PendingLogin, answer: Mapping[str, str]) -> None:
    state = answer.get("state", "")
    if not hmac.compare_digest(_bytes(state), _bytes(pending.state)):
        raise _not_ours(pending, "its state is not that of this login")


def _bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


def _check_issuer(pending: PendingLogin, answer: Mapping[str, str]) -> None:
    """Compare exactly: issuers that differ in a slash are two issuers (RFC 9207)."""
    issuer = answer.get("iss")
    if issuer is None:
        if pending.iss_advertised:
            raise IssuerMismatch(
                "the answer to the login does not say that it is from %s, as that "
                "server promises to" % bare_url(pending.issuer),
                server=pending.server_name,
            )
    elif issuer != pending.issuer:
        raise IssuerMismatch(
            "the answer to the login is not from %s" % bare_url(pending.issuer),
            server=pending.server_name,
        )


def _refusal(pending: PendingLogin, answer: Mapping[str, str]) -> AuthorizationError:
    if "code" in answer:
        return _failure(pending, "it answered the login with both a code and an error")
    error = answer["error"]
    reason = _shown(pending, error, 100) or "without a reason"
    if answer.get("error_description"):
        reason += ": " + _shown(pending, answer["error_description"], 300)
    failure = _failure(pending, "the login was denied: " + reason)
    failure.retryable = error in ("temporarily_unavailable", "server_error")
    return failure


def _shown(pending: PendingLogin, text: str, limit: int) -> str:
    ours = [pending.state, pending.verifier, pending.client.client_secret or ""]
    return clean(text, limit, ours)


def _failure(pending: PendingLogin, why: str) -> AuthorizationError:
    return AuthorizationError(
        "authorization server %s: %s" % (bare_url(pending.issuer), why),
        server=pending.server_name,
    )


def _not_ours(pending: PendingLogin, why: str) -> WrongState:
    return WrongState(
        "this is not the answer to the login: " + why, server=pending.server_name
    )


def _unfinished(pending: PendingLogin, why: str = "") -> LoginRequired:
    return LoginRequired(
        "the login was not finished" + (why or " within %g s" % LOGIN_SECONDS),
        server_url=pending.server_url,
        server=pending.server_name,
    )


# --- how a person gets there and back -----------------------------------------------


class LoopbackListener(CallbackListener):
    """Listens on this machine for the browser that comes back from a login.

    See :class:`CallbackListener` for its arguments; `redirect_uri` is where the browser
    is to be sent. A context manager.
    """

    def __enter__(self) -> "LoopbackListener":
        return self

    def wait(
        self,
        pending: PendingLogin,
        deadline: Deadline,
        *,
        tick: Optional[Callable[[], None]] = None,
    ) -> str:
        """Wait for the answer to a login and return its code.

        What is not the answer is turned away, and waiting goes on.

        Args:
            deadline: the caller's; a login takes 300 seconds at most anyway.
            tick: called several times a second by the waiting thread.

        Raises:
            LoginRequired: no answer came in time, or the listener was closed.
            IssuerMismatch: the answer is from another authorization server.
            AuthorizationError: the login was refused.
        """
        limit = deadline.at_most(LOGIN_SECONDS)
        code = self.wait_for(lambda query: read_callback(pending, query), limit, tick)
        if code is None:
            gone = ": the listener was closed" if self.closed else ""
            raise _unfinished(pending, gone or " within %g s" % round(limit.elapsed, 1))
        return code


def browser_flow(
    pending: PendingLogin,
    listener: LoopbackListener,
    deadline: Deadline,
    *,
    show: Callable[[str], None],
    open_url: Callable[[str], bool] = open_browser,
) -> str:
    """Send the user's browser to the login, wait for it, and return the code.

    Args:
        show: shows a text, the URL first of all; called by the calling thread.
        open_url: opens the URL; called on a thread of its own, so that the wait ends
            in time whatever it does. ``False`` means that it could not.

    Raises:
        DiscoveryError: the server's authorization endpoint is no URL for a browser.
        LoginRequired: no answer came in time.
        IssuerMismatch, AuthorizationError: as :func:`read_callback`.
    """
    url = pending.authorization_url
    show("%s\n\n    %s\n" % (_invitation(pending), url))
    opening = _Opening(url, open_url)
    told: List[bool] = []

    def tick() -> None:
        if opening.failed and not told:
            told.append(True)
            show("No browser could be opened from here: open the page yourself.")

    return listener.wait(pending, deadline, tick=tick)


def _invitation(pending: PendingLogin) -> str:
    return "To log in to %s, open this page:" % clean(pending.server_name, 100)


class _Opening:
    """An attempt to open a browser, which nobody has to wait for."""

    def __init__(self, url: str, open_url: Callable[[str], bool]) -> None:
        self.failed = False
        self._url = url
        self._open_url = open_url
        try:
            threading.Thread(
                target=self._run, name="mcpsync-login-browser", daemon=True
            ).start()
        except RuntimeError:
            # No thread is started any more when the interpreter ends.
            self.failed = True

    def _run(self) -> None:
        opened = False
        try:
            opened = bool(self._open_url(self._url))
        except Exception as error:
            # By its type alone: such texts like to hold the URL.
            _log.warning("no browser could be opened: %s", type(error).__name__)
        self.failed = not opened


def paste_flow(
    pending: PendingLogin,
    *,
    show: Callable[[str], None],
    ask: Callable[[str], str],
) -> str:
    """Have a person log in anywhere and paste where that ended; return the code.

    Args:
        show: shows a text.
        ask: returns the line that a person enters, as `input` does.

    Raises:
        WrongState: none of three lines was the answer to this login.
        LoginRequired: nobody can be asked, or it took too long.
        IssuerMismatch, AuthorizationError: as :func:`read_callback`.
    """
    show(
        "%s\n\n    %s\n\nAfterwards the browser goes to a page at %s,\n"
        "which may fail to load. Copy its whole address from the address bar."
        % (
            _invitation(pending),
            pending.authorization_url,
            bare_url(pending.redirect_uri),
        )
    )
    for left in reversed(range(_PASTES)):
        try:
            return read_callback(pending, _asked(pending, ask))
        except WrongState as error:
            if not left:
                raise
            show("%s. Please try again." % error.message)
    raise AssertionError("unreachable")


def _asked(pending: PendingLogin, ask: Callable[[str], str]) -> str:
    try:
        return ask("Paste the address here: ")
    except (EOFError, OSError, NotImplementedError) as error:
        # The last one: a notebook that runs without its user.
        raise _unfinished(pending, ": nobody can be asked here") from error


def require_terminal(server_name: str, server_url: str) -> None:
    """Refuse to ask where nobody would see it.

    Raises:
        LoginRequired: standard input or output is no terminal.
    """
    if not (_is_terminal(sys.stdin) and _is_terminal(sys.stdout)):
        raise LoginRequired(
            "%s wants a login, and there is no terminal here to ask at"
            % bare_url(server_url),
            server_url=server_url,
            server=server_name,
        )


def _is_terminal(stream: Any) -> bool:
    try:
        return stream is not None and bool(stream.isatty())
    except ValueError:
        # It is closed.
        return False
