"""Which accounts have their secrets in the keyring: a list without secrets.

It lies beside the credentials file, so that a server without credentials costs a look
at two files, most often missing ones, and never a keyring's prompt or delay.
"""

from __future__ import annotations

import logging
from typing import Any, Callable, Dict, Optional

from ._document import Damaged, member, parse, render
from ._file import PrivateFile
from ._lock import locked

__all__ = ["KEPT", "STALE", "Index"]

_log = logging.getLogger("mcpsync")

JSON = Any

#: The keyring has the secrets of an account, or will have them in a moment.
#: What it has of an account, if anything, is out of date, and to be removed one day.
KEPT, STALE = "kept", "stale"

Accounts = Dict[str, str]


class Index:
    """The accounts of one keyring service. For any number of threads and processes.

    Args:
        file: where the list is.
        service: of the keyring.
        lock: path of the lock file for writers.
        patience: seconds that a writer waits for others.
    """

    def __init__(
        self, file: PrivateFile, service: str, lock: str, patience: float
    ) -> None:
        self._file = file
        self._service = service
        self._lock = lock
        self._patience = patience
        self._reported = False

    def state(self, account: str) -> Optional[str]:
        """Return what the list says of an account: `KEPT`, `STALE` or nothing."""
        return self._accounts().get(account)

    def note(self, account: str, state: Optional[str]) -> None:
        """Make the list say something of an account; ``None``: nothing."""
        if self.state(account) == state:
            return

        def change(accounts: Accounts) -> None:
            if state is None:
                accounts.pop(account, None)
            else:
                accounts[account] = state

        self._change(change)

    def _change(self, change: Callable[[Accounts], None]) -> None:
        with locked(self._lock, self._patience):
            services = self._services()
            accounts = _accounts_of(services, self._service)
            change(accounts)
            services[self._service] = accounts
            members = [member(key, value) for key, value in services.items() if value]
            if members:
                self._file.write(render(members))
            else:
                self._file.remove()

    def _accounts(self) -> Accounts:
        return _accounts_of(self._services(), self._service)

    def _services(self) -> Dict[str, JSON]:
        """Return the whole list; an empty one if it cannot be understood.

        Nothing is lost with it but the knowledge where to look, which the next login
        brings back.
        """
        data = self._file.read()
        if data is None:
            return {}
        try:
            return {read.key: read.value for read in parse(data)}
        except Damaged as error:
            reason = str(error)
        if not self._reported:
            self._reported = True
            _log.warning("%s", self._file.failure("use", reason))
        return {}


def _accounts_of(services: Dict[str, JSON], service: str) -> Accounts:
    accounts = services.get(service)
    if not isinstance(accounts, dict):
        return {}
    return {key: value for key, value in accounts.items() if value in (KEPT, STALE)}
