"""Versions are names in a list, and what a revision has is a table."""

from __future__ import annotations

from typing import List, Optional, Tuple

import pytest

from mcpsync.protocol.versions import LEGACY, MODERN, features, first_mutual

FEATURES = {
    "2024-11-05": set(),
    "2025-03-26": {"batches", "completion capability"},
    "2025-06-18": {
        "completion capability",
        "completion context",
        "elicitation",
        "version header",
    },
    "2025-11-25": {
        "completion capability",
        "completion context",
        "elicitation",
        "tasks",
        "version header",
    },
}


def test_the_versions_are_listed_newest_first_and_once() -> None:
    assert MODERN == ("2026-07-28",)
    assert LEGACY == ("2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05")


@pytest.mark.parametrize("version", LEGACY)
def test_what_a_revision_has(version: str) -> None:
    assert features(version) == FEATURES[version]


@pytest.mark.parametrize("version", [*MODERN, "", "2025-11-24", "2025-11-25 "])
def test_other_versions_have_no_features_here(version: str) -> None:
    with pytest.raises(KeyError):
        features(version)


MUTUAL: List[Tuple[Tuple[str, ...], List[str], Optional[str]]] = [
    (LEGACY, ["2025-06-18"], "2025-06-18"),
    # Ours in our order, whatever theirs is.
    (LEGACY, ["2024-11-05", "2025-03-26", "2025-06-18"], "2025-06-18"),
    (LEGACY, ["2025-11-25"] * 3, "2025-11-25"),
    # No arithmetic with dates: neither a later nor an earlier one is "close enough".
    (LEGACY, ["2025-06-19", "2025-06-17", "2031-01-01", "0"], None),
    (LEGACY, ["2025-06-18 ", "2025-6-18", "v2025-06-18", ""], None),
    (LEGACY, ["banana", "2024-11-05"], "2024-11-05"),
    (LEGACY, list(MODERN), None),
    (MODERN, list(LEGACY), None),
    (MODERN + LEGACY, list(LEGACY + MODERN), "2026-07-28"),
    (LEGACY, [], None),
    ((), list(LEGACY), None),
]


@pytest.mark.parametrize("ours, theirs, expected", MUTUAL)
def test_the_first_of_ours_that_they_have(
    ours: Tuple[str, ...], theirs: List[str], expected: Optional[str]
) -> None:
    assert first_mutual(ours, theirs) == expected
    assert first_mutual(iter(ours), iter(theirs)) == expected
