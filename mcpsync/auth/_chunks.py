"""Long values in a keyring that takes only short ones.

Windows' credential manager takes 1,280 characters; two tokens easily have more. A long
value is cut into parts, which are kept as entries of their own, and the entry itself
becomes a manifest that says how many there are and what they must add up to. The
manifest is written last, and the parts of the value before it are removed after that:
whenever the writer is killed, the entry means the old value or the new one.
"""

from __future__ import annotations

import hashlib
from typing import List, NamedTuple, Optional, Protocol

from ._document import Damaged, parse_value, write_value

__all__ = ["Chunks", "Drawer", "PART"]

#: Characters of one part at most.
PART = 1000

#: Parts of one value at most.
_MOST_PARTS = 5000

#: A reader may come while a writer exchanges the parts.
_READS = 3

#: Entries that several programs may have made for one account, at most.
_COPIES = 8

_KEY = "mcpsync_parts"


class Drawer(Protocol):
    """Entries of a keyring, by account."""

    def get(self, account: str) -> Optional[str]:
        """Return an entry, or ``None``."""

    def set(self, account: str, value: str) -> None:
        """Write an entry."""

    def delete(self, account: str) -> bool:
        """Remove an entry; ``False`` if there was none."""


class _Manifest(NamedTuple):
    """What an entry says about its parts."""

    parts: int
    digest: str
    generation: str

    @classmethod
    def of(cls, value: Optional[str]) -> "Optional[_Manifest]":
        """Return the manifest that an entry is; ``None`` if it is a plain value."""
        if value is None or _KEY not in value:
            return None
        try:
            read = parse_value(value)
        except Damaged:
            return None
        fields = read.get(_KEY) if isinstance(read, dict) else None
        if not isinstance(fields, list) or len(fields) != 3:
            return None
        parts, digest, generation = fields
        if type(parts) is not int or not 0 < parts <= _MOST_PARTS:
            return None
        return cls(parts, str(digest), "b" if generation == "b" else "a")

    def text(self) -> str:
        return write_value({_KEY: list(self)})

    def part(self, account: str, number: int) -> str:
        return _part(account, self.generation, number)


def _part(account: str, generation: str, number: int) -> str:
    """Return the account of a part."""
    return "%s#%s%d" % (account, generation, number)


class Chunks:
    """A drawer for values of any length, in one for short values.

    One writer at a time; readers at any time.

    Args:
        drawer: where the entries are.
        above: characters above which a value is cut; ``None`` cuts none.
    """

    def __init__(self, drawer: Drawer, above: Optional[int]) -> None:
        self._drawer = drawer
        self._above = above

    def get(self, account: str) -> Optional[str]:
        """Return the value of an account; ``None`` if there is none.

        Raises:
            Damaged: its parts are not the ones that were written.
        """
        for _ in range(_READS):
            value = self._drawer.get(account)
            manifest = _Manifest.of(value)
            if manifest is None:
                return value
            whole = self._join(account, manifest)
            if whole is not None:
                return whole
        raise Damaged("its parts do not belong together")

    def _join(self, account: str, manifest: _Manifest) -> Optional[str]:
        parts: List[str] = []
        for number in range(manifest.parts):
            part = self._drawer.get(manifest.part(account, number))
            if part is None:
                return None
            parts.append(part)
        whole = "".join(parts)
        return whole if _digest(whole) == manifest.digest else None

    def set(self, account: str, value: str) -> None:
        """Write the value of an account.

        Raises:
            Damaged: the drawer does not keep what is put into it.
        """
        before = _Manifest.of(self._drawer.get(account))
        after = None
        if self._above is None or len(value) <= self._above:
            self._put(account, value)
        else:
            generation = "b" if before and before.generation == "a" else "a"
            after = self._put_parts(account, value, generation)
        self._clean(account, before, after)

    def _put_parts(self, account: str, value: str, generation: str) -> _Manifest:
        parts = [value[at : at + PART] for at in range(0, len(value), PART)]
        manifest = _Manifest(len(parts), _digest(value), generation)
        for number, part in enumerate(parts):
            self._drawer.set(manifest.part(account, number), part)
        self._put(account, manifest.text())
        return manifest

    def _clean(
        self, account: str, before: Optional[_Manifest], after: Optional[_Manifest]
    ) -> None:
        """Remove all parts but those of the new manifest.

        There may be some that no manifest speaks of: of writers that were killed.
        """
        if self._above is None and before is None:
            return
        for generation in "ab":
            first = 0
            if after is not None and after.generation == generation:
                first = after.parts
            self._delete_parts(account, generation, first)

    def _delete_parts(self, account: str, generation: str, first: int) -> None:
        """Remove parts from a number on, the last ones first.

        So none is cut off from those before it, and never found, when this is killed.
        """
        end = first
        while end < _MOST_PARTS:
            if self._drawer.get(_part(account, generation, end)) is None:
                break
            end += 1
        for number in reversed(range(first, end)):
            self._drawer.delete(_part(account, generation, number))

    def _put(self, account: str, value: str) -> None:
        """Write an entry, and see that it is the one that is read from now on.

        Some keyrings drop what they are given; others keep one entry for each program
        that made one, and read the oldest.
        """
        self._drawer.set(account, value)
        for _ in range(_COPIES):
            found = self._drawer.get(account)
            if found == value:
                return
            if found is None:
                break
            self._drawer.delete(account)
        raise Damaged("it does not keep what is written to it")

    def delete(self, account: str) -> bool:
        """Remove the value of an account; ``False`` if there was none."""
        before = _Manifest.of(self._drawer.get(account))
        deleted = 0
        while deleted < _COPIES and self._drawer.delete(account):
            deleted += 1
        self._clean(account, before, None)
        return deleted > 0


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
