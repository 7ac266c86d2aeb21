"""From the words of a command line to a server, and to what is left of the words."""

from __future__ import annotations

import os
import shlex
from dataclasses import dataclass, field
from typing import Any, Dict, Sequence, Tuple, Union
from urllib.parse import urlsplit

from .._text import clean
from ._parser import LOGIN_VERBS, Settings, UsageError

__all__ = ["Server", "server_from"]


@dataclass(frozen=True)
class Server:
    """Which server is meant, and how to reach it.

    Attributes:
        target: what ``mcpsync.connect`` takes.
        label: how it is called before it has answered.
        options: further arguments of ``mcpsync.connect``.
        secrets: values that no message may show.
        warnings: what to tell the user first.
    """

    target: Union[str, Tuple[str, ...]]
    label: str
    options: Dict[str, Any] = field(default_factory=dict, repr=False)
    secrets: Tuple[str, ...] = field(default=(), repr=False)
    warnings: Tuple[str, ...] = ()


def server_from(settings: Settings) -> Tuple[Server, Tuple[str, ...]]:
    """Return the server, and the words that belong to the subcommand.

    Raises:
        UsageError: there is no server, or an option does not apply to it.
    """
    if settings.command is not None:
        return _command(settings, settings.command), settings.words
    if not settings.words and settings.verb in LOGIN_VERBS:
        raise UsageError("the URL of a server is needed")
    if not settings.words:
        raise UsageError("a server is needed: a URL, or a command at the end, after --")
    url, *rest = settings.words
    return _http(settings, url), tuple(rest)


def _common(settings: Settings) -> Dict[str, Any]:
    options: Dict[str, Any] = {"protocol": settings.protocol}
    if settings.timeout is not None:
        options["timeout"] = settings.timeout
    if settings.startup_timeout is not None:
        options["startup_timeout"] = settings.startup_timeout
    return options


# --- commands ---------------------------------------------------------------------


def _command(settings: Settings, command: Sequence[str]) -> Server:
    if not command:
        raise UsageError("there is no command after --")
    for option, given in (
        ("--header", settings.headers),
        ("--header-from-env", settings.headers_from_env),
    ):
        if given:
            raise UsageError("%s applies to a URL, not to a command" % option)
    if settings.words and _is_url(settings.words[0]) and settings.verb in _NO_URLS:
        raise UsageError(
            "there is a URL and a command after --: which of them is the server?"
        )
    options = _common(settings)
    env = dict(_variable(text) for text in settings.env)
    if env:
        options["env"] = env
    if settings.cwd is not None:
        options["cwd"] = settings.cwd
    label = os.path.basename(command[0]) or "server"
    return Server(tuple(command), label, options, tuple(env.values()))


#: The subcommands whose own words are no URLs.
_NO_URLS = ("call", "info", "ping", "prompt", "prompts", "resources", "tools")


def _variable(text: str) -> Tuple[str, str]:
    name, separator, value = text.partition("=")
    if not name:
        raise UsageError("-e wants NAME=VALUE, or the NAME of a variable of ours")
    if separator:
        return name, value
    if name not in os.environ:
        raise UsageError("-e %s: there is no such variable here" % clean(name, 80))
    return name, os.environ[name]


# --- URLs -------------------------------------------------------------------------


def _is_url(word: str) -> bool:
    return word.partition("://")[0].lower() in ("http", "https") and "://" in word


def _http(settings: Settings, url: str) -> Server:
    if not _is_url(url):
        raise UsageError(_no_server(settings.verb, url))
    for option, given in (("--env", settings.env), ("--cwd", settings.cwd)):
        if given:
            raise UsageError("%s applies to a command, not to a URL" % option)
    headers: Dict[str, str] = {}
    warnings = []
    for text in settings.headers:
        name, value = _split(text, ":", "--header", "'NAME: VALUE'")
        headers[name] = value
        if name.lower() == "authorization":
            warnings.append(
                "credentials in --header are seen by whoever lists processes or "
                "reads the shell's history; put them in a variable and use "
                "--header-from-env Authorization=VARIABLE"
            )
    for text in settings.headers_from_env:
        name, variable = _split(text, "=", "--header-from-env", "NAME=VARIABLE")
        headers[name] = _header_value(name, variable)
    options = _common(settings)
    options.update(_authorized(headers))
    secrets = [part for value in headers.values() for part in _secrets(value)]
    return Server(url, _label(url), options, tuple(secrets), tuple(warnings))


def _secrets(value: str) -> Tuple[str, str]:
    # Credentials consist of a scheme, which is a common word, and of what is secret.
    return value, value.partition(" ")[2].strip() or value


def _label(url: str) -> str:
    try:
        return urlsplit(url).netloc.rpartition("@")[2] or "server"
    except ValueError:
        return "server"


def _no_server(verb: str, word: str) -> str:
    scheme = word.partition("://")[0] if "://" in word else ""
    if scheme:
        return "%s: a URL begins with http:// or https://" % clean(word, 120)
    if verb in LOGIN_VERBS:
        return "%s is no URL: it begins with http:// or https://" % (
            clean(repr(word), 120)
        )
    return (
        "%s is no URL; for a command, put it after --, for example: mcpsync %s%s -- %s"
        % (
            clean(repr(word), 120),
            verb,
            _EXAMPLES.get(verb, ""),
            clean(shlex.quote(word), 120),
        )
    )


_EXAMPLES = {
    "call": " TOOL",
    "complete": " PROMPT ARGUMENT=BEGINNING",
    "prompt": " NAME",
    "read": " URI",
}


def _split(text: str, separator: str, option: str, form: str) -> Tuple[str, str]:
    name, found, value = text.partition(separator)
    # The text is not shown: it may hold a secret.
    if not found or not name.strip():
        raise UsageError("%s wants %s" % (option, form))
    return name.strip(), value.strip()


def _header_value(name: str, variable: str) -> str:
    value = os.environ.get(variable, "").strip()
    if not value:
        raise UsageError(
            "the header %s is to come from the variable %s, which is not set"
            % (clean(name, 80), clean(variable, 80))
        )
    if name.lower() == "authorization" and " " not in value:
        # A bare token: credentials always begin with a scheme (RFC 9110, 11.4).
        return "Bearer " + value
    return value


def _authorized(headers: Dict[str, str]) -> Dict[str, Any]:
    """Return the options for headers; a bearer token is handed over as such."""
    rest = dict(headers)
    options: Dict[str, Any] = {}
    for name, value in headers.items():
        scheme, _, token = value.partition(" ")
        if name.lower() == "authorization" and scheme.lower() == "bearer":
            options["auth"] = token.strip()
            del rest[name]
    if rest:
        options["headers"] = rest
    return options
