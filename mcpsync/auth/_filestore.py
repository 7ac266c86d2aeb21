"""The store that is a file."""

from __future__ import annotations

import logging
import os
from typing import Any, ContextManager, List, Optional, TypeVar

from .._text import clean
from ..exceptions import CredentialStoreError
from ._base import LOCK_TIMEOUT, WRITE_PATIENCE, LockFiles, Path, Store
from ._document import Damaged, Member, member, parse, render
from ._entries import Slot, account_key, slot_of
from ._file import PrivateFile
from ._home import CREDENTIALS, default_home
from ._lock import locked

__all__ = ["CREDENTIALS", "FileStore"]

_log = logging.getLogger("mcpsync")

T = TypeVar("T")


class FileStore(Store):
    """Keeps credentials in a file that only this user may read.

    For any number of threads and processes. The file is replaced in one step, so that
    it is whole at every moment; entries of other programs stay in it byte for byte. A
    file that is not ours to read (another user's, a link, more than 4 MB) is refused;
    one that is damaged is reported, and kept under another name when something is to be
    saved.

    Args:
        path: of the file; by default ``.credentials.json`` in ``$MCPSYNC_HOME``, which
            is ``~/.mcpsync`` where that is not set. Directories that are missing are
            made, for this user alone.
    """

    def __init__(self, path: Optional[Path] = None) -> None:
        given = path or os.path.join(default_home(), CREDENTIALS)
        self._path = os.path.abspath(os.path.expanduser(given))
        self._file = PrivateFile(self._path, "credentials file", path is None)
        self._locks = LockFiles.at(os.path.dirname(self._path))

    @property
    def path(self) -> str:
        """The absolute path of the file."""
        return self._path

    @property
    def name(self) -> str:
        """What to call it in a message."""
        return "the file %s, which only this user may read" % clean(self._path)

    def lock(
        self, server_name: str, server_url: str, timeout: float = LOCK_TIMEOUT
    ) -> ContextManager[None]:
        """Keep other threads and processes from refreshing the same credentials.

        Not reentrant; see :meth:`CredentialStore.lock`.
        """
        return self.lock_of(account_key(server_name, server_url), timeout)

    def lock_of(self, account: str, timeout: float) -> ContextManager[None]:
        """Do the same for an account."""
        return locked(self._locks.of_account(account), timeout)

    def _read(self, slot: Slot[T]) -> Optional[T]:
        members = self._members()
        found = _find(members, slot)
        return None if found is None else self._decode(slot, members[found])

    def _decode(self, slot: Slot[T], entry: Member) -> T:
        try:
            return slot.from_file(entry.value)
        except Damaged as damage:
            reason = "the entry of the %s is damaged, %s; %s"
            reason %= (slot.title, damage, slot.remedy)
        raise self._file.failure("use", reason)

    def _write(self, slot: Slot[T], content: T) -> None:
        if self._holds(slot, content):
            return
        with locked(self._locks.of_store("file"), WRITE_PATIENCE):
            members = self._members_to_change(slot)
            found = _find(members, slot)
            if found is None:
                found = len(members)
                members.append(member(_free_key(members, slot.account), {}))
            key, previous, _ = members[found]
            members[found] = member(key, slot.to_file(content, previous))
            # Alone: another program may look at the first one that it finds.
            kept = [
                one
                for number, one in enumerate(members)
                if number == found or not _is(slot, one)
            ]
            self._file.write(render(kept))

    def _holds(self, slot: Slot[T], content: T) -> bool:
        """Tell whether the very same is in the file, which then is left alone."""
        try:
            current = self._read(slot)
        except CredentialStoreError:
            # It will be said again, or mended, by whoever changes the file.
            return False
        return current == slot.from_file(slot.to_file(content, {}))

    def _members_to_change(self, slot: Slot[Any]) -> List[Member]:
        """Return what is in the file; keep aside what nobody can read."""
        data = self._file.read()
        if data is None:
            return []
        members: List[Member] = []
        try:
            members = parse(data)
            found = _find(members, slot)
            if found is None:
                return members
            slot.from_file(members[found].value)
            return members
        except Damaged as damage:
            reason = str(damage)
        aside = self._file.keep_aside(data)
        _log.warning(
            "the credentials file %s is damaged: %s. What was in it is kept as %s",
            clean(self._path),
            reason,
            clean(aside),
        )
        return [one for one in members if not _is(slot, one)]

    def _remove(self, slot: Slot[Any]) -> bool:
        if _find(self._members(), slot) is None:
            return False
        with locked(self._locks.of_store("file"), WRITE_PATIENCE):
            members = self._whole()
            kept = [one for one in members if not _is(slot, one)]
            if kept:
                self._file.write(render(kept))
            else:
                self._file.remove()
        return len(kept) < len(members)

    def _members(self) -> List[Member]:
        """Return what is in the file."""
        try:
            return self._parsed()
        except Damaged:
            pass
        # Other programs that keep to the lock may write in place, and be at it.
        with locked(self._locks.of_store("file"), WRITE_PATIENCE):
            return self._whole()

    def _whole(self) -> List[Member]:
        try:
            return self._parsed()
        except Damaged as damage:
            reason = "%s; repair it or move it away" % damage
        raise self._file.failure("use", reason)

    def _parsed(self) -> List[Member]:
        data = self._file.read()
        return [] if data is None else parse(data)

    def slots(self) -> List[Slot[Any]]:
        """Return the slots of all entries."""
        slots = (slot_of(one.value) for one in self._members())
        return [slot for slot in slots if slot is not None]


def _is(slot: Slot[Any], entry: Member) -> bool:
    return slot.matches(entry.value)


def _find(members: List[Member], slot: Slot[Any]) -> Optional[int]:
    """Return the number of a slot's entry: best the one under its own key."""
    found = [number for number, one in enumerate(members) if _is(slot, one)]
    own = [number for number in found if members[number].key == slot.account]
    return next(iter(own + found), None)


def _free_key(members: List[Member], key: str) -> str:
    """Return a key that nobody has: it means nothing, but an entry must have one."""
    taken = {one.key for one in members}
    while key in taken:
        key += "+"
    return key
