"""The protocol's revisions, and what each of them has.

Version strings are opaque: they are compared by membership, never by date.

Specification: 2026-07-28, basic/versioning.
"""

from __future__ import annotations

from typing import Dict, FrozenSet, Iterable, Optional, Tuple

__all__ = ["LEGACY", "MODERN", "features", "first_mutual"]

#: Stateless revisions, newest first: the version is declared on every request.
MODERN: Tuple[str, ...] = ("2026-07-28",)

#: Revisions that begin with ``initialize``, newest first.
LEGACY: Tuple[str, ...] = ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")

_R1: FrozenSet[str] = frozenset()
_R2 = _R1 | {"batches", "completion capability"}
_R3 = (_R2 - {"batches"}) | {"version header", "completion context", "elicitation"}
_R4 = _R3 | {"tasks"}

_FEATURES: Dict[str, FrozenSet[str]] = {
    "2024-11-05": _R1,
    "2025-03-26": _R2,
    "2025-06-18": _R3,
    "2025-11-25": _R4,
}


def features(version: str) -> FrozenSet[str]:
    """Return what a legacy revision has beyond the first one."""
    return _FEATURES[version]


def first_mutual(ours: Iterable[str], theirs: Iterable[str]) -> Optional[str]:
    """Return the first of our versions, newest first, that the other side has."""
    offered = frozenset(theirs)
    return next((version for version in ours if version in offered), None)
