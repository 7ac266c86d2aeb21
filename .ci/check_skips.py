"""Fail when a test was skipped that may not be.

    python .ci/check_skips.py JUNIT_XML ALLOWED

ALLOWED lists, one to a line, the tests that may be skipped: `name  # reason`, where
the name is `tests.path.test_file::test_name`, without parameters.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree
from pathlib import Path
from typing import Dict, List, Tuple


def main() -> None:
    """Compare what was skipped with what may be."""
    record, allowed = Path(sys.argv[1]), read_allowed(Path(sys.argv[2]))
    refused = [
        f"{name}: {reason}"
        for name, reason in read_skipped(record)
        if name.partition("[")[0] not in allowed
    ]
    if refused:
        print("skipped without leave:", *refused, sep="\n    ")
        sys.exit(1)


def read_allowed(path: Path) -> Dict[str, str]:
    """Return the tests that may be skipped and why."""
    allowed = {}
    for line in path.read_text().splitlines():
        if not line.strip() or line.startswith("#"):
            continue
        name, separator, reason = line.partition("  # ")
        if not separator or not reason.strip():
            sys.exit(f"{path}: no reason is given in {line!r}")
        allowed[name.strip()] = reason.strip()
    return allowed


def read_skipped(path: Path) -> List[Tuple[str, str]]:
    """Return the name and the reason of every skipped test of a JUnit record."""
    skipped = []
    for case in xml.etree.ElementTree.parse(path).iter("testcase"):
        for mark in case.iter("skipped"):
            name = f"{case.get('classname')}::{case.get('name')}"
            skipped.append((name, mark.get("message", "no reason")))
    return skipped


if __name__ == "__main__":
    main()
