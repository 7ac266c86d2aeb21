"""What every verb of the client does: check what it was given, say where it failed."""

from __future__ import annotations

import functools
import time
from collections.abc import Mapping as MappingType
from typing import Any, Callable, Dict, Mapping, Optional, TypeVar, cast

from ._text import clean
from .exceptions import InvalidArguments, MCPError

__all__ = ["check_callable", "check_level", "check_text", "checked_mapping", "verb"]

JSON = Any
Method = TypeVar("Method", bound=Callable[..., Any])

_LOG_LEVELS = (
    "debug",
    "info",
    "notice",
    "warning",
    "error",
    "critical",
    "alert",
    "emergency",
)


def verb(method: str) -> Callable[[Method], Method]:
    """Decorate a method of the client whose exceptions shall name server and method.

    Args:
        method: the protocol's method, for exceptions that do not know better.
    """

    def decorate(function: Method) -> Method:
        @functools.wraps(function)
        def call(self: Any, *args: Any, **kwargs: Any) -> Any:
            began = time.monotonic()
            try:
                return function(self, *args, **kwargs)
            except MCPError as error:
                complete(error, self.name, method, time.monotonic() - began)
                raise

        return cast(Method, call)

    return decorate


def complete(error: MCPError, server: str, method: str, elapsed: float) -> None:
    """Fill in what an exception does not say yet about the call that failed."""
    if error.server is None:
        error.server = server
    if error.method is None:
        error.method = method
    if error.elapsed is None:
        error.elapsed = elapsed


def checked_mapping(
    value: Optional[Mapping[str, JSON]], what: str
) -> Optional[Dict[str, JSON]]:
    """Return a copy of a mapping with strings as keys, or raise InvalidArguments."""
    if value is None:
        return None
    if not isinstance(value, MappingType):
        raise InvalidArguments(
            "%s must be a mapping, not %s" % (what, type(value).__name__)
        )
    for key in value:
        if not isinstance(key, str):
            raise InvalidArguments(
                "%s must have strings as keys, not %s" % (what, clean(repr(key), 60))
            )
    return dict(value)


def check_text(value: object, what: str) -> None:
    """Raise InvalidArguments unless `value` is a string."""
    if not isinstance(value, str):
        raise InvalidArguments(
            "%s must be a string, not %s" % (what, type(value).__name__)
        )


def check_callable(value: object, what: str) -> None:
    """Raise InvalidArguments unless `value` is a function, or not given."""
    if value is not None and not callable(value):
        raise InvalidArguments(
            "%s must be a function, not %s" % (what, type(value).__name__)
        )


def check_level(level: str) -> str:
    """Return a log level that the protocol has, or raise InvalidArguments."""
    if level not in _LOG_LEVELS:
        raise InvalidArguments(
            "%s is no log level; there are %s"
            % (clean(repr(level), 60), ", ".join(_LOG_LEVELS))
        )
    return level
