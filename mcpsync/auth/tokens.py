"""The token endpoint: who we are, what we ask of it, and what it may answer.

All requests for tokens are one POST: for a code, for a refresh token, or for one of the
grants that need no person. What comes back is used only if nothing about it is odd.

Specification: 2026-07-28, basic/authorization; RFC 6749, RFC 7009, RFC 9449.
"""

from __future__ import annotations

import base64
import contextlib
import logging
import math
import re
import time
import urllib.parse
from dataclasses import dataclass, replace
from typing import (
    TYPE_CHECKING,
    Callable,
    Dict,
    Iterable,
    List,
    Mapping,
    Optional,
    Sequence,
    Tuple,
)

from .._deadline import Deadline
from .._text import clean
from ..exceptions import AuthorizationError, ConfigError, RegistrationError, TokenError
from ..types import JSON
from ._records import ClientRecord, Token
from ._urls import bare_url

if TYPE_CHECKING:
    from ._fetch import Fetcher, FetchResult
    from .dpop import DPoP

__all__ = [
    "exchange_code",
    "post_token_request",
    "read_token",
    "refresh",
    "request_token",
    "revoke",
    "token_error",
    "with_auth_method",
]

_log = logging.getLogger("mcpsync.auth")

Names = Tuple[str, ...]
Assertion = Callable[[], str]

#: How a client with a secret may identify itself, in the order of our preference.
_WITH_SECRET = ("client_secret_basic", "client_secret_post")

_METHODS = (*_WITH_SECRET, "none", "private_key_jwt")

_ASSERTION_TYPE = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"

#: Fields of a form that no message may repeat, whatever the server says about them.
_SECRET_FIELDS = (
    "assertion",
    "client_assertion",
    "client_secret",
    "code",
    "code_verifier",
    "refresh_token",
    "subject_token",
    "token",
)

#: The same in an answer.
_SECRET_ANSWERS = ("access_token", "refresh_token", "id_token")

#: A header must be able to carry it.
_TOKEN = re.compile(r"[\x21-\x7e]+")

#: RFC 6749, appendix A.17.
_REFRESH_TOKEN = re.compile(r"[\x20-\x7e]+")

#: RFC 6749, section 3.3.
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]+")

_MOST_SCOPES = 100

_SCOPE_LENGTH = 4096

#: Ten years in seconds: no token lasts longer, and no clock overflows.
_LONGEST_LIFE = 10 * 366 * 86400.0

#: Seconds; whoever asks for more is not waited for, but tried again.
_LONGEST_DELAY = 3600.0

_BUSY_STATUSES = (408, 425, 429)

_BUSY_ERRORS = ("temporarily_unavailable", "server_error", "slow_down")


# --- who we are ---------------------------------------------------------------------


def with_auth_method(
    client: ClientRecord, methods: Optional[Sequence[str]]
) -> ClientRecord:
    """Return a client that knows how to identify itself at the token endpoint.

    Args:
        methods: ``token_endpoint_auth_methods_supported`` of the server's metadata;
            ``None`` where it is absent, which means ``client_secret_basic``.

    Raises:
        RegistrationError: the server wants what this client cannot do.
    """
    method = client.auth_method
    if method is None:
        method = _chosen(client, methods)
    elif client.kind == "dcr" and methods is not None and method not in methods:
        # It changed its mind since; but public is what it made us itself.
        method = _chosen(client, (*methods, *(["none"] if method == "none" else [])))
    if method not in _METHODS:
        raise _unable(client, method)
    if method in _WITH_SECRET and client.client_secret is None:
        raise _unable(client, method)
    return replace(client, auth_method=method)


def _chosen(client: ClientRecord, methods: Optional[Sequence[str]]) -> str:
    able: Sequence[str] = ("none",)
    if client.client_secret is not None:
        able = (*_WITH_SECRET, "none")
    if methods is None:
        return able[0]
    for method in able:
        if method in methods:
            return method
    raise _unable(client, ", ".join(methods) or "nothing")


def _unable(client: ClientRecord, wanted: str) -> RegistrationError:
    has = "no client_secret" if client.client_secret is None else "a client_secret"
    return RegistrationError(
        "the client %s has %s, and cannot identify itself at the token endpoint by %s"
        % (clean(client.client_id, 200), has, clean(wanted, 200))
    )


@dataclass(frozen=True, repr=False)
class _Identity:
    """What a request says about who sends it."""

    fields: Dict[str, str]
    headers: Dict[str, str]
    secrets: Tuple[str, ...]


def _identity(
    client: Optional[ClientRecord], assertion: Optional[Assertion]
) -> _Identity:
    """Return it for one attempt: an assertion is made anew each time."""
    if client is None:
        return _Identity({}, {}, ())
    if client.auth_method is None:
        client = with_auth_method(client, None)
    method, name = client.auth_method, {"client_id": client.client_id}
    if method == "none":
        return _Identity(name, {}, ())
    if method == "private_key_jwt":
        if assertion is None:
            raise ConfigError(
                "the client %s identifies itself by a private key, and none was given"
                % clean(client.client_id, 200)
            )
        made = {"client_assertion_type": _ASSERTION_TYPE}
        made["client_assertion"] = assertion()
        return _Identity({**name, **made}, {}, ())
    secret = client.client_secret
    if secret is None or method not in _WITH_SECRET:
        raise _unable(client, method or "nothing")
    if method == "client_secret_post":
        return _Identity({**name, "client_secret": secret}, {}, ())
    basic = _basic(client.client_id, secret)
    # The name alone proves nothing, and some servers look for it in the form.
    return _Identity(name, {"Authorization": "Basic " + basic}, (secret, basic))


def _basic(client_id: str, secret: str) -> str:
    # As in a form (RFC 6749, section 2.3.1), but spaces as %20: decoders of forms and
    # of URLs agree about that.
    pair = ":".join(urllib.parse.quote(part, safe="") for part in (client_id, secret))
    return base64.b64encode(pair.encode("ascii")).decode("ascii")


# --- requests -----------------------------------------------------------------------


def exchange_code(
    fetcher: Fetcher,
    token_endpoint: str,
    client: ClientRecord,
    *,
    code: str,
    verifier: str,
    redirect_uri: str,
    resource: Optional[str],
    deadline: Deadline,
    assertion: Optional[Assertion] = None,
    dpop: Optional[DPoP] = None,
    scope_requested: Optional[Sequence[str]] = None,
    now: Callable[[], float] = time.time,
) -> Token:
    """Return the token that an authorization code stands for.

    Args:
        verifier: the PKCE verifier of the login.
        redirect_uri: the very one that the login used.
        scope_requested: what is granted if the server says nothing about it.

    Raises:
        TokenError: as :func:`request_token` does.
    """
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "redirect_uri": redirect_uri,
        "code_verifier": verifier,
        **_resource(resource),
    }
    token = request_token(
        fetcher,
        token_endpoint,
        form,
        client,
        deadline=deadline,
        assertion=assertion,
        dpop=dpop,
        what="code exchange",
        now=now,
    )
    if token.scope is None and scope_requested is not None:
        return replace(token, scope=tuple(scope_requested))
    return token


def refresh(
    fetcher: Fetcher,
    token_endpoint: str,
    client: ClientRecord,
    token: Token,
    *,
    resource: Optional[str],
    deadline: Deadline,
    assertion: Optional[Assertion] = None,
    dpop: Optional[DPoP] = None,
    now: Callable[[], float] = time.time,
) -> Token:
    """Return a new token for a refresh token.

    No scope is asked for, so that it stays what was granted. The refresh token is the
    new one if the server gave one, and the old one otherwise.

    Raises:
        TokenError: as :func:`request_token` does; or there is no refresh token.
    """
    if token.refresh_token is None:
        raise token_error("token refresh", token_endpoint, "there is no refresh token")
    form = {
        "grant_type": "refresh_token",
        "refresh_token": token.refresh_token,
        **_resource(resource),
    }
    return request_token(
        fetcher,
        token_endpoint,
        form,
        client,
        deadline=deadline,
        assertion=assertion,
        dpop=dpop,
        previous=token,
        what="token refresh",
        now=now,
    )


def _resource(resource: Optional[str]) -> Dict[str, str]:
    return {} if resource is None else {"resource": resource}


def request_token(
    fetcher: Fetcher,
    token_endpoint: str,
    form: Mapping[str, str],
    client: Optional[ClientRecord],
    *,
    deadline: Deadline,
    assertion: Optional[Assertion] = None,
    dpop: Optional[DPoP] = None,
    previous: Optional[Token] = None,
    what: str = "token request",
    now: Callable[[], float] = time.time,
) -> Token:
    """Ask for a token.

    Args:
        form: what is asked, without anything about the client.
        client: who asks; ``None``: the form says it all.
        assertion: makes the client's assertion, for ``private_key_jwt``.
        dpop: makes proofs; the token must be bound to its key then.
        previous: the token that this one replaces.
        what: what the request is, for messages.
        now: tells the seconds since the epoch.

    Raises:
        TokenError: the server refused, or its answer is unusable, or there is none.
            `error` is the OAuth error code, if there is one; `retryable` and
            `retry_after` tell whether and when another attempt makes sense.
        DiscoveryError: the URL is refused.
        ConfigError: the client cannot identify itself.
    """
    # Before the request: rather too early than too late.
    started = now()
    answer = post_token_request(
        fetcher,
        token_endpoint,
        form,
        client,
        deadline=deadline,
        assertion=assertion,
        dpop=dpop,
        what=what,
    )
    try:
        return read_token(
            answer, now=started, previous=previous, dpop_required=dpop is not None
        )
    except ValueError as error:
        raise token_error(what, token_endpoint, str(error)) from None


def post_token_request(
    fetcher: Fetcher,
    token_endpoint: str,
    form: Mapping[str, str],
    client: Optional[ClientRecord],
    *,
    deadline: Deadline,
    assertion: Optional[Assertion] = None,
    dpop: Optional[DPoP] = None,
    what: str = "token request",
) -> Mapping[str, JSON]:
    """Return the JSON object that the token endpoint answers with when it agrees.

    Arguments and errors are those of :func:`request_token`.
    """
    exchange = _Exchange(fetcher, token_endpoint, form, client, assertion, dpop, what)
    error = exchange.attempt(deadline)
    if error is not None and exchange.may_repeat:
        # Nothing was consumed: the server only wants its nonce in the proof.
        error = exchange.attempt(deadline)
    if error is not None:
        raise error
    return exchange.answer


@dataclass(repr=False)
class _Exchange:
    """One request for a token, and its second attempt if there is one."""

    fetcher: Fetcher
    url: str
    form: Mapping[str, str]
    client: Optional[ClientRecord]
    assertion: Optional[Assertion]
    dpop: Optional[DPoP]
    what: str

    def __post_init__(self) -> None:
        self.answer: Mapping[str, JSON] = {}
        self.may_repeat = False

    def attempt(self, deadline: Deadline) -> Optional[TokenError]:
        """Send the request, and return why it was refused, if it was."""
        identity = _identity(self.client, self.assertion)
        form = {**self.form, **identity.fields}
        headers = dict(identity.headers)
        if self.dpop is not None:
            headers["DPoP"] = self.dpop.proof("POST", self.url)
        result = self.fetcher.post_form(self.url, form, deadline, self.what, headers)
        noted = self.dpop is not None and self.dpop.note(self.url, result.headers)
        if _is_success(result):
            self.answer = result.json
            return None
        sent = [form[name] for name in _SECRET_FIELDS if name in form]
        sent += [*identity.secrets, *headers.values()]
        error = _refusal(self.what, result, sent)
        wants_nonce = error.error == "use_dpop_nonce"
        self.may_repeat = noted and wants_nonce and result.status in (400, 401)
        return error


def _is_success(result: FetchResult) -> bool:
    """Return whether an answer is one: some servers refuse with status 200."""
    answer = result.json
    return result.status == 200 and isinstance(answer, dict) and not answer.get("error")


def _refusal(what: str, result: FetchResult, sent: Iterable[str]) -> TokenError:
    """Return the exception for an answer that is not a success."""
    code, told = None, ""
    if isinstance(result.json, dict):
        code, told = _told(result.json, _secrets(sent, result.json))
    if not told:
        told = _unexpected(result)
    error = token_error(what, result.url, told, code)
    busy = result.status in _BUSY_STATUSES
    error.retryable = busy or code in _BUSY_ERRORS
    seconds = result.headers.get("Retry-After") or ""
    if error.retryable and re.fullmatch("[0-9]{1,6}", seconds):
        error.retry_after = min(float(seconds), _LONGEST_DELAY)
    return error


def _told(
    answer: Mapping[str, JSON], secrets: Sequence[str]
) -> Tuple[Optional[str], str]:
    """Return the OAuth error code of an answer, and what it says altogether."""
    said = [answer.get(name) for name in ("error", "error_description")]
    texts = [
        clean(text, limit, secrets) if isinstance(text, str) else ""
        for text, limit in zip(said, (80, 300))
    ]
    return texts[0] or None, ": ".join(filter(None, texts))


def _unexpected(result: FetchResult) -> str:
    if result.status != 200:
        return "HTTP status %d" % result.status
    return result.reason or "it answered no JSON object"


def _secrets(sent: Iterable[str], answer: Mapping[str, JSON]) -> List[str]:
    """Return what must not be repeated, in each form in which it may come back."""
    plain = list(sent)
    received = (answer.get(name) for name in _SECRET_ANSWERS)
    plain += [value for value in received if isinstance(value, str)]
    quoted = [urllib.parse.quote(value, safe="") for value in plain]
    return plain + quoted + [urllib.parse.quote_plus(value) for value in plain]


def token_error(
    what: str, url: str, reason: str, code: Optional[str] = None
) -> TokenError:
    """Return the exception for a request that failed, and the OAuth error code.

    Args:
        what: what the request was.
        reason: safe to show.
    """
    error = TokenError("the %s at %s failed: %s" % (what, bare_url(url), reason))
    error.error = code
    return error


# --- answers ------------------------------------------------------------------------


def read_token(
    answer: Mapping[str, JSON],
    *,
    now: float,
    previous: Optional[Token] = None,
    dpop_required: bool = False,
) -> Token:
    """Return the token in the answer of a token endpoint.

    Args:
        now: when it was asked for, in seconds since the epoch.
        previous: the token that it replaces, of which refresh token and scope are kept
            where the answer has none.
        dpop_required: whether it must be bound to a key; otherwise it must not be.

    Raises:
        ValueError: there is none that may be used; says why, without any secret.
    """
    access_token = answer.get("access_token")
    if access_token is None:
        raise ValueError("it answered without an access_token")
    if not isinstance(access_token, str) or not _TOKEN.fullmatch(access_token):
        raise ValueError("it answered with a malformed access_token")
    token_type = _token_type(answer.get("token_type"), dpop_required)
    expires_in, refresh_token = _further(answer, previous)
    scope = _scope(answer.get("scope"))
    if previous is not None:
        scope = previous.scope if scope is None else scope
    return Token(
        access_token,
        token_type,
        None if expires_in is None else now + expires_in,
        refresh_token,
        scope,
    )


def _further(
    answer: Mapping[str, JSON], previous: Optional[Token]
) -> Tuple[Optional[float], Optional[str]]:
    """Return the lifetime and the refresh token.

    After a refresh the old token is spent: there a new one is not thrown away for
    something else that is malformed.
    """
    if previous is None:
        lifetime = _lifetime(answer.get("expires_in"))
        return lifetime, _refresh_token(answer.get("refresh_token"))
    kept, lifetime = previous.refresh_token, None
    with contextlib.suppress(ValueError):
        lifetime = _lifetime(answer.get("expires_in"))
    with contextlib.suppress(ValueError):
        kept = _refresh_token(answer.get("refresh_token")) or kept
    return lifetime, kept


def _token_type(value: JSON, dpop_required: bool) -> str:
    if not isinstance(value, str) or not value:
        raise ValueError("it answered without a token_type")
    wanted = "DPoP" if dpop_required else "Bearer"
    if value.lower() != wanted.lower():
        raise ValueError(
            "it answered with a token of the type %s instead of %s"
            % (clean(value, 40), wanted)
        )
    return wanted


def _lifetime(value: JSON) -> Optional[float]:
    """Return seconds; ``None``: the server says nothing, and the token may be tried."""
    if value is None:
        return None
    seconds = math.nan
    if isinstance(value, str):
        if re.fullmatch("[0-9]{1,12}", value):
            seconds = float(value)
    elif isinstance(value, (int, float)) and not isinstance(value, bool):
        # Compared before it is converted: a float cannot hold every integer.
        seconds = float(value) if 0 <= value <= _LONGEST_LIFE else math.nan
    if not 0 <= seconds <= _LONGEST_LIFE:
        raise ValueError("it answered with a malformed expires_in")
    return seconds


def _refresh_token(value: JSON) -> Optional[str]:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not _REFRESH_TOKEN.fullmatch(value):
        raise ValueError("it answered with a malformed refresh_token")
    return value


def _scope(value: JSON) -> Optional[Names]:
    """Return the scopes that were granted; ``None``: those that were asked for.

    What is malformed says nothing: a good token is not lost for it.
    """
    if not isinstance(value, str) or len(value) > _SCOPE_LENGTH:
        return None
    names = tuple(dict.fromkeys(filter(None, value.split(" "))))
    known = 0 < len(names) <= _MOST_SCOPES and all(map(_SCOPE.fullmatch, names))
    return names if known else None


# --- revocation ---------------------------------------------------------------------


def revoke(
    fetcher: Fetcher,
    revocation_endpoint: str,
    client: ClientRecord,
    token: Token,
    *,
    deadline: Deadline,
    assertion: Optional[Assertion] = None,
) -> bool:
    """Tell the authorization server that a token is not used any more.

    The refresh token first, because with it most servers revoke all the others.

    Returns:
        Whether the server agreed. Failures are logged: whoever logs out is not kept.
    """
    values = {"refresh_token": token.refresh_token, "access_token": token.access_token}
    results = [
        _revoked(
            fetcher,
            revocation_endpoint,
            {"token": value, "token_type_hint": hint},
            client,
            deadline,
            assertion,
        )
        for hint, value in values.items()
        if value is not None
    ]
    return all(results)


def _revoked(
    fetcher: Fetcher,
    url: str,
    form: Mapping[str, str],
    client: ClientRecord,
    deadline: Deadline,
    assertion: Optional[Assertion],
) -> bool:
    what = "token revocation"
    try:
        identity = _identity(client, assertion)
        whole = {**form, **identity.fields}
        result = fetcher.post_form(url, whole, deadline, what, identity.headers)
    except (AuthorizationError, ConfigError) as error:
        _log.warning("%s", error)
        return False
    # The body of a success means nothing, and may be empty.
    if result.status == 200:
        return True
    sent = [whole[name] for name in _SECRET_FIELDS if name in whole]
    _log.warning("%s", _refusal(what, result, [*sent, *identity.secrets]))
    return False
