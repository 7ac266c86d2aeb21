"""The subcommands that log in to a server and out of it. Neither talks to it."""

from __future__ import annotations

import contextlib
import getpass
import os
import re
import sys
from typing import Any, Dict, Optional, Sequence
from urllib.parse import urlsplit

from .._text import clean
from ..auth._records import Credentials
from ..auth._urls import is_loopback_host
from ..auth.oauth import OAuth
from ..auth.stores import KeyringStore
from ..exceptions import CredentialStoreError, LoginRequired
from ._errors import OK
from ._output import Output
from ._parser import Settings, UsageError
from ._target import Server, server_from

__all__ = ["run_login_verb"]

_USUAL_NAME = re.compile(r"[A-Z_][A-Z0-9_]{0,60}")


def run_login_verb(settings: Settings, output: Output) -> int:
    """Log in or out as the command line asked for; return the exit code.

    Raises:
        UsageError: the arguments do not fit.
        MCPError: it failed.
    """
    server = _server(settings)
    assert isinstance(server.target, str)
    output.server = server.label
    if settings.verb == "login":
        return _log_in(server, server.target, settings.own, output)
    return _log_out(server, server.target, settings.own, output)


def _server(settings: Settings) -> Server:
    if settings.command is not None:
        raise UsageError(
            "there is a command after --, but a login is for a server at a URL"
        )
    for option, given in (
        ("--timeout", settings.timeout is not None),
        ("--startup-timeout", settings.startup_timeout is not None),
        ("--protocol", settings.protocol != "auto"),
        ("--env", settings.env),
        ("--cwd", settings.cwd is not None),
        ("--header", settings.headers),
        ("--header-from-env", settings.headers_from_env),
    ):
        if given:
            raise UsageError("%s does not apply to %s" % (option, settings.verb))
    server, words = server_from(settings)
    if words:
        raise UsageError("%s is one argument too many" % clean(repr(words[0]), 120))
    return server


# --- login ------------------------------------------------------------------------


def _log_in(server: Server, url: str, own: Dict[str, Any], output: Output) -> int:
    _check(own)
    name = own["name"] or server.label
    if own["no_browser"] or own["ask_secret"]:
        _require_conversation(name, url, own, output)
    secret = _secret(own)
    output.secrets = () if secret is None else (secret,)
    config = OAuth(
        flow="paste" if own["no_browser"] else "browser",
        scopes=_scopes(own["scopes"] or ()),
        client_id=own["client_id"],
        client_secret=secret,
        issuer=own["issuer"],
        client_metadata_url=own["client_metadata_url"],
        redirect_uri=own["redirect_uri"],
        store=own["store"],
    )
    store = config.credential_store
    if isinstance(store, KeyringStore):
        # Nobody shall log in for nothing.
        store.check()
    # What is asked is talk: standard output may be a file, and JSON.
    with contextlib.redirect_stdout(sys.stderr):
        found = config.login(url, name=name)
    _require_kept(config, found)
    scopes = list(found.token.scope or found.requested_scopes)
    value = {
        "server": name,
        "url": url,
        "issuer": found.issuer,
        "clientId": found.client.client_id,
        "scopes": scopes,
        "refreshable": found.token.refresh_token is not None,
    }
    text = "logged in to %s" % clean(name)
    if scopes:
        text += " with the scopes %s" % clean(" ".join(scopes), 200)
    if found.token.refresh_token is None:
        text += "; the server gave no refresh token, so this login will expire"
    output.result(value, text)
    return OK


def _check(own: Dict[str, Any]) -> None:
    """Refuse what does not fit together, before anything happens."""
    by_variable, asked = own["client_secret_from_env"] is not None, own["ask_secret"]
    if by_variable and asked:
        raise UsageError("--client-secret-from-env and --ask-secret exclude each other")
    if (by_variable or asked) and own["client_id"] is None:
        raise UsageError("a client's secret needs --client-id")
    uri = own["redirect_uri"]
    if uri is not None and not own["no_browser"] and not _is_here(uri):
        raise UsageError(
            "nothing here can listen at the redirect URI %s: use one that begins with "
            "http://127.0.0.1, or --no-browser" % clean(uri.partition("?")[0], 200)
        )


def _is_here(uri: str) -> bool:
    try:
        parts = urlsplit(uri)
    except ValueError:
        return False
    return parts.scheme == "http" and is_loopback_host(parts.hostname or "")


def _require_conversation(
    name: str, url: str, own: Dict[str, Any], output: Output
) -> None:
    if output.is_conversation:
        return
    if own["no_browser"]:
        why = "--no-browser asks for an address, and there is no terminal here"
    else:
        why = (
            "there is no terminal here to ask for the secret at; "
            "--client-secret-from-env takes it from a variable"
        )
    raise LoginRequired(why, server_url=url, server=name)


def _scopes(given: Sequence[str]) -> Sequence[str]:
    return [scope for text in given for scope in text.replace(",", " ").split()]


def _secret(own: Dict[str, Any]) -> Optional[str]:
    """Return the client's secret, which is never an argument itself."""
    variable = own["client_secret_from_env"]
    if variable is not None:
        secret = os.environ.get(variable, "")
        if not secret:
            raise UsageError(_unset(variable))
        return secret
    if not own["ask_secret"]:
        return None
    try:
        secret = getpass.getpass("Secret of the client: ")
    except EOFError:
        secret = ""
    if not secret:
        raise UsageError("no secret was given")
    return secret


def _unset(variable: str) -> str:
    if _USUAL_NAME.fullmatch(variable):
        return "the variable %s is not set" % variable
    # Perhaps it is the secret itself.
    return "--client-secret-from-env wants the name of a variable that is set"


def _require_kept(config: OAuth, found: Credentials) -> None:
    """Make sure that others find the login: it is all that the command is for."""
    try:
        kept = config.credential_store.load(found.server_name, found.server_url)
    except CredentialStoreError as error:
        raise CredentialStoreError(
            "the login succeeded, but could not be kept: %s" % error.message
        ) from error
    if kept is None or kept.token.access_token != found.token.access_token:
        raise CredentialStoreError("the login succeeded, but could not be kept")


# --- logout -----------------------------------------------------------------------


def _log_out(server: Server, url: str, own: Dict[str, Any], output: Output) -> int:
    name = own["name"] or server.label
    found = OAuth(store=own["store"]).logout(url, name=name)
    text = "logged out of %s" if found else "there was no login to %s"
    value = {"server": name, "url": url, "loggedOut": found}
    output.result(value, text % clean(name))
    return OK
