"""Where credentials lie. Light: it is asked for every server, if only once."""

from __future__ import annotations

import os

from ..exceptions import ConfigError

__all__ = ["CREDENTIALS", "INDEX", "default_home"]

#: The file with credentials, where the keyring cannot have them.
CREDENTIALS = ".credentials.json"

#: The file that says, without secrets, which credentials the keyring has.
INDEX = ".credentials-index.json"


def default_home() -> str:
    """Return the directory where everything is kept.

    It is ``$MCPSYNC_HOME``, or ``~/.mcpsync`` where that is unset or empty.
    """
    home = os.environ.get("MCPSYNC_HOME") or os.path.join("~", ".mcpsync")
    home = os.path.expanduser(home)
    if home.startswith("~"):
        raise ConfigError("there is no home directory: set MCPSYNC_HOME")
    return os.path.abspath(home)
