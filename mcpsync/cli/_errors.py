"""What went wrong: exit codes, codes for programs, and hints for people."""

from __future__ import annotations

import re
import shlex
from typing import Optional, Tuple, Type

from .. import exceptions
from .._text import clean
from ._parser import LOGIN_VERBS

__all__ = [
    "AUTHORIZATION",
    "INTERRUPTED",
    "OK",
    "TOOL_FAILED",
    "UNEXPECTED",
    "UNREACHABLE",
    "USAGE",
    "code_of",
    "exit_code",
    "hint_for",
]

OK = 0
UNEXPECTED = 1
USAGE = 2
AUTHORIZATION = 3
UNREACHABLE = 4
TOOL_FAILED = 5
INTERRUPTED = 130

#: The first kind that fits decides.
_EXIT_CODES: Tuple[Tuple[Type[BaseException], int], ...] = (
    (exceptions.AuthorizationError, AUTHORIZATION),
    (exceptions.ToolError, TOOL_FAILED),
    (exceptions.RequestTimeout, UNREACHABLE),
    (exceptions.MessageTooLarge, UNEXPECTED),
    (exceptions.TransportError, UNREACHABLE),
    (exceptions.ConfigError, USAGE),
    (exceptions.InvalidArguments, USAGE),
    (KeyboardInterrupt, INTERRUPTED),
)


def exit_code(error: BaseException) -> int:
    """Return the exit code for an exception that ended a command."""
    if _is_outage(error):
        return UNREACHABLE
    if isinstance(error, exceptions.InvalidParams) and error.method == "tools/call":
        # An unknown tool, or arguments that it does not take; both come as the result
        # of a tool as well, according to the protocol's revision.
        return TOOL_FAILED
    for kind, code in _EXIT_CODES:
        if isinstance(error, kind):
            return code
    return UNEXPECTED


def code_of(error: BaseException) -> str:
    """Return a stable name: the exception's own, ``connect_failed`` for example."""
    if isinstance(error, OSError) and not isinstance(error, exceptions.MCPError):
        return "os_error"
    if not isinstance(error, exceptions.MCPError):
        return "unexpected"
    name = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(error).__name__)
    return re.sub(r"(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def _is_outage(error: BaseException) -> bool:
    """Tell whether nobody was refused: an authorization server could not answer."""
    return isinstance(error, exceptions.AuthorizationError) and error.retryable


def hint_for(
    error: BaseException, verb: str = "", url: Optional[str] = None
) -> Optional[str]:
    """Return what to do about it on the command line, where that can be said.

    Args:
        url: of the server, as it was given.
    """
    if isinstance(error, exceptions.AuthorizationError):
        if _is_outage(error):
            return None
        return (_login_hint if verb in LOGIN_VERBS else _hint)(error, _shown(url))
    if isinstance(
        error, (exceptions.MissingRequiredClientCapability, exceptions.InputRequired)
    ):
        return "the server asks questions, which need a terminal on standard input"
    return None


def _shown(url: Optional[str]) -> str:
    # What may be a secret does not belong into a text that people pass on.
    if url is None or "@" in url or "?" in url:
        return "URL"
    return shlex.quote(clean(url, 500))


def _hint(error: exceptions.AuthorizationError, where: str) -> str:
    if isinstance(error, exceptions.InsufficientScope):
        return '`mcpsync login %s --scopes "SCOPE ..."` asks for more scopes' % where
    return (
        "`mcpsync login %s` logs in; "
        "--header-from-env Authorization=VARIABLE gives a token" % where
    )


def _login_hint(error: exceptions.AuthorizationError, where: str) -> Optional[str]:
    if isinstance(error, (exceptions.DiscoveryError, exceptions.RegistrationError)):
        return "`mcpsync info %s` tells whether the server wants a login" % where
    return None
