"""The public names: all there, all loaded when first used, all known to checkers."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path
from typing import Dict, Iterator, Set, Tuple

import pytest

import mcpsync
from mcpsync import exceptions

SOURCE = Path(mcpsync.__file__ or "")
MODULES = ("console", "exceptions", "hooks", "testing", "types")

#: In the package, but not at its top.
NOT_AT_THE_TOP = {"error_for"}


def imported_for_checkers() -> Iterator[Tuple[str, str]]:
    """Yield home and name of every import in the TYPE_CHECKING block."""
    tree = ast.parse(SOURCE.read_text(encoding="utf-8"))
    (block,) = [
        node
        for node in tree.body
        if isinstance(node, ast.If)
        and isinstance(node.test, ast.Name)
        and node.test.id == "TYPE_CHECKING"
    ]
    for node in block.body:
        assert isinstance(node, ast.ImportFrom) and node.level == 1
        for alias in node.names:
            # Without the same name again a checker takes it for private.
            assert alias.name == "*" or alias.asname == alias.name
            yield node.module or "", alias.name


def test_the_list_is_sorted_and_without_doubles() -> None:
    assert mcpsync.__all__ == sorted(set(mcpsync.__all__))


@pytest.mark.parametrize("name", mcpsync.__all__)
def test_every_name_is_there(name: str) -> None:
    value = getattr(mcpsync, name)
    # The second look finds it in the module, without any lookup.
    assert vars(mcpsync)[name] is value


@pytest.mark.parametrize("name", MODULES)
def test_every_module_is_there(name: str) -> None:
    assert getattr(mcpsync, name) is importlib.import_module("mcpsync." + name)


def test_dir_has_them_all() -> None:
    assert dir(mcpsync) == sorted([*mcpsync.__all__, *MODULES])


def test_star_import() -> None:
    namespace: Dict[str, object] = {}
    exec("from mcpsync import *", namespace)
    assert set(mcpsync.__all__) - {"__version__"} <= set(namespace)


def test_an_unknown_name() -> None:
    with pytest.raises(AttributeError, match="'mcpsync' has no attribute 'Conect'"):
        mcpsync.Conect
    assert not hasattr(mcpsync, "_HOMES_")


def test_every_exception_is_at_the_top() -> None:
    names = set(exceptions.__all__) - NOT_AT_THE_TOP
    assert names <= set(mcpsync.__all__)
    for name in names:
        kind = getattr(mcpsync, name)
        assert issubclass(kind, mcpsync.MCPError)


def test_checkers_see_the_same_names() -> None:
    seen: Set[str] = set()
    for home, name in imported_for_checkers():
        module = importlib.import_module("mcpsync." + home if home else "mcpsync")
        if name == "*":
            seen.update(set(getattr(module, "__all__")) - NOT_AT_THE_TOP)
            continue
        seen.add(name)
        assert getattr(mcpsync, name) is getattr(module, name)
    assert seen == {*mcpsync.__all__, *MODULES} - {"__version__"}


def test_the_names_that_a_program_starts_with_load_no_http() -> None:
    source = (
        "import sys; sys.path.insert(0, %r); import mcpsync; "
        "mcpsync.connect, mcpsync.Client, mcpsync.Limits, mcpsync.Transport; "
        "sys.exit('mcpsync.transports.http' in sys.modules)"
    ) % str(SOURCE.parents[1])
    ran = subprocess.run([sys.executable, "-I", "-c", source], timeout=60)
    assert ran.returncode == 0


def test_nothing_public_hides_in_the_public_modules() -> None:
    for name in MODULES:
        module = importlib.import_module("mcpsync." + name)
        for public in module.__all__:
            assert hasattr(module, public), "%s.%s" % (name, public)
