"""Authorization: finding who issues tokens, getting them, keeping them.

What programs need of it:

- :class:`mcpsync.OAuth`, the value of ``auth=``, and :class:`PendingLogin`, which its
  ``begin()`` returns;
- :mod:`mcpsync.auth.grants`, tokens without a person: client credentials, enterprise-
  managed authorization, workload identity federation;
- :mod:`mcpsync.auth.stores`, where credentials are kept, and how to bring a store of
  your own;
- :func:`client_metadata_document`, the JSON document that a client hosts at the URL
  which is its ``client_id``;
- :class:`AuthorizedSession`, a ``requests`` session for plain requests to one server.

Specification: 2026-07-28, basic/authorization.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, List

if TYPE_CHECKING:
    from .login import PendingLogin as PendingLogin
    from .oauth import OAuth as OAuth
    from .registration import client_metadata_document as client_metadata_document
    from .session import AuthorizedSession as AuthorizedSession

_HOMES = {
    "AuthorizedSession": "session",
    "OAuth": "oauth",
    "PendingLogin": "login",
    "client_metadata_document": "registration",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    home = _HOMES.get(name)
    if home is None:
        raise AttributeError("module %r has no attribute %r" % (__name__, name))
    value = getattr(importlib.import_module("." + home, __name__), name)
    globals()[name] = value
    return value


def __dir__() -> List[str]:
    return sorted([*globals(), *__all__])
