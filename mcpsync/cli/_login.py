"""The subcommands that log in to a server and out of it. Neither talks to it."""

from __future__ import annotations

import getpass
import os
from typing import Any, Dict, Optional, Sequence

from .._text import clean
from ..auth.login import require_terminal
from ..auth.oauth import OAuth
from ._errors import OK
from ._output import Output
from ._parser import Settings, UsageError
from ._target import Server, server_from

__all__ = ["run_login_verb"]


def run_login_verb(settings: Settings, output: Output) -> int:
    """Log in or out as the command line asked for; return the exit code.

    Raises:
        UsageError: the arguments do not fit.
        MCPError: it failed.
    """
    server, words = server_from(settings)
    if not isinstance(server.target, str):
        raise UsageError("only a server at a URL can be logged in to")
    if words:
        raise UsageError("%s is one argument too many" % clean(repr(words[0]), 120))
    output.server = server.label
    if settings.verb == "login":
        return _log_in(server, server.target, settings.own, output)
    return _log_out(server, server.target, settings.own, output)


def _log_in(server: Server, url: str, own: Dict[str, Any], output: Output) -> int:
    name = own["name"] or server.label
    flow = "paste" if own["no_browser"] else "browser"
    if flow == "paste" or own["ask_secret"]:
        require_terminal(name, url)
    config = OAuth(
        flow=flow,
        scopes=_scopes(own["scopes"] or ()),
        client_id=own["client_id"],
        client_secret=_secret(own),
        issuer=own["issuer"],
        client_metadata_url=own["client_metadata_url"],
        redirect_uri=own["redirect_uri"],
        store=own["store"],
    )
    found = config.login(url, name=name)
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


def _scopes(given: Sequence[str]) -> Sequence[str]:
    return [scope for text in given for scope in text.replace(",", " ").split()]


def _secret(own: Dict[str, Any]) -> Optional[str]:
    """Return the client's secret, which is never an argument itself."""
    variable = own["client_secret_from_env"]
    if not variable and not own["ask_secret"]:
        return None
    if own["client_id"] is None:
        raise UsageError("a client's secret needs --client-id")
    if variable:
        secret = os.environ.get(variable, "")
        if not secret:
            raise UsageError(
                "the variable %s is not set" % clean(variable.partition("=")[0], 80)
            )
        return secret
    return getpass.getpass("Secret of the client: ")


def _log_out(server: Server, url: str, own: Dict[str, Any], output: Output) -> int:
    name = own["name"] or server.label
    found = OAuth(store=own["store"]).logout(url, name=name)
    text = "logged out of %s" if found else "there was no login to %s"
    value = {"server": name, "url": url, "loggedOut": found}
    output.result(value, text % clean(name))
    return OK
