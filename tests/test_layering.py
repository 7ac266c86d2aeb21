"""The rules about who may import whom, and who may know about protocol versions."""

from __future__ import annotations

import ast
import re
import sys
from pathlib import Path
from typing import Dict, Iterator, List, NamedTuple, Optional, Set, Tuple

import pytest

import mcpsync

PACKAGE = Path(mcpsync.__file__ or "").parent

#: From the bottom up. A module imports from rows below its own, and from its own group
#: as long as loading does not go in circles. A trailing ``.*`` covers a package with
#: everything in it. Rows may name modules that are yet to be written.
ROWS: List[List[List[str]]] = [
    [["exceptions", "_deadline", "_text", "_version", "_lifecycle", "_sockets"]],
    [["types", "_wire", "_content"]],
    [["protocol.*"]],
    [["_listings"], ["hooks"]],
    [["transports.*"], ["auth.*"]],
    # The client's parts, such as _tools, _calls, _questions and _dispatch: all private
    # modules that no other row names.
    [["_*"]],
    [["client"]],
    [["config"]],
    [["__init__", "_connect", "registry", "group", "console", "testing"]],
    [["cli.*", "__main__"]],
    [["contrib.jupyter.*"], ["contrib.django.*"], ["contrib.llm.*"], ["contrib"]],
]

#: Stands alone; those who start it are in or above this row.
DEMO = "demo.*"
DEMO_USERS = 8

#: The modules that may import a library of somebody else, by the library's name.
HOMES: Dict[str, List[str]] = {
    "requests": [
        "transports.http",
        "transports._http*",
        "transports.sse",
        "auth.*",
        "_sockets",
    ],
    "urllib3": [
        "transports.http",
        "transports._http*",
        "transports.sse",
        "auth.*",
        "_sockets",
    ],
    "sseclient": ["transports._eventstream"],
    "requests_oauthlib": ["auth.session", "auth.login", "auth.grants"],
    "oauthlib": ["auth.session", "auth.login", "auth.grants"],
    "keyring": ["auth.stores"],
    "jsonschema": ["protocol.schema"],
    "jsonschema_rs": ["protocol.schema"],
    "referencing": ["protocol.schema"],
    "tomli": ["config", "cli.*"],
    "tomlkit": ["cli.*"],
    "rich": ["cli.*", "console"],
    "IPython": ["contrib.jupyter.*"],
    "ipywidgets": ["contrib.jupyter.*"],
    "tqdm": ["contrib.*", "cli.*", "_calls"],
    "django": ["contrib.django.*"],
    "cryptography": ["auth.dpop", "auth.grants", "contrib.django.*"],
    "jwt": ["auth.dpop", "auth.grants"],
    "opentelemetry": ["hooks"],
    "orjson": ["protocol.jsonrpc"],
    "anthropic": ["contrib.llm.*"],
    "openai": ["contrib.llm.*"],
}

#: What the protocol, which is pure, has no business with.
IMPURE = {
    "asyncio",
    "concurrent",
    "http",
    "multiprocessing",
    "queue",
    "requests",
    "select",
    "selectors",
    "signal",
    "socket",
    "ssl",
    "subprocess",
    "threading",
    "time",
    "urllib3",
}


class Imported(NamedTuple):
    """One import statement: an absolute name, and where it stands."""

    name: str
    line: int


# --- reading the source -------------------------------------------------------------


def names_of_package(package: Path) -> Dict[str, Path]:
    """Return every module below `package`, by its dotted name without the package's."""
    found = {}
    for path in sorted(package.rglob("*.py")):
        parts = list(path.relative_to(package).with_suffix("").parts)
        if parts[-1] == "__init__" and len(parts) > 1:
            parts.pop()
        found[".".join(parts)] = path
    return found


MODULES = names_of_package(PACKAGE)


def is_package(module: str) -> bool:
    return MODULES[module].name == "__init__.py"


def _is_for_types_only(node: ast.AST) -> bool:
    if not isinstance(node, ast.If):
        return False
    test = node.test
    name = test.attr if isinstance(test, ast.Attribute) else getattr(test, "id", "")
    return name == "TYPE_CHECKING"


def statements(tree: ast.AST, lazily: bool = True) -> Iterator[ast.AST]:
    """Walk the nodes that run; without `lazily` those that run at import."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and _is_for_types_only(node):
            for other in node.orelse:
                yield other
                yield from statements(other, lazily)
            continue
        if not lazily and isinstance(node, (ast.FunctionDef, ast.Lambda)):
            continue
        yield node
        yield from statements(node, lazily)


def imports(
    module: str, source: Optional[str] = None, lazily: bool = True
) -> List[Imported]:
    """Return what a module imports, relative names resolved."""
    if source is None:
        source = MODULES[module].read_text(encoding="utf-8")
    tree = ast.parse(source)
    found = []
    for node in statements(tree, lazily=lazily and module != "__init__"):
        if isinstance(node, ast.Import):
            found += [Imported(alias.name, node.lineno) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = _absolute(module, node)
            for alias in node.names:
                name = "%s.%s" % (base, alias.name)
                known = name.startswith("mcpsync.") and name[8:] in MODULES
                found.append(Imported(name if known else base, node.lineno))
        elif isinstance(node, ast.Call):
            found += _dynamic(node)
    return found


def _absolute(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parts = ["mcpsync"] + ([] if module == "__init__" else module.split("."))
    if not (module in MODULES and is_package(module)):
        parts.pop()
    parts = parts[: len(parts) - node.level + 1]
    return ".".join(parts + ([node.module] if node.module else []))


def _dynamic(node: ast.Call) -> List[Imported]:
    called = node.func
    name = called.attr if isinstance(called, ast.Attribute) else ""
    name = name or getattr(called, "id", "")
    if name not in ("import_module", "__import__") or not node.args:
        return []
    what = node.args[0]
    if not (isinstance(what, ast.Constant) and isinstance(what.value, str)):
        return []
    return [Imported(what.value, node.lineno)]


# --- rows ---------------------------------------------------------------------------


def matches(module: str, pattern: str) -> bool:
    if pattern.endswith(".*"):
        return module == pattern[:-2] or module.startswith(pattern[:-1])
    if pattern.endswith("*"):
        return module.startswith(pattern[:-1]) and "." not in module[len(pattern) :]
    return module == pattern


def place(module: str) -> Optional[Tuple[int, int]]:
    """Return the row and the group in it; None for a module that is in none."""
    found = None
    for row, groups in enumerate(ROWS):
        for number, group in enumerate(groups):
            if module in group:
                return row, number
            if any(matches(module, pattern) for pattern in group):
                found = row, number
    return found


def may_import(importer: str, imported: str) -> bool:
    if matches(importer, DEMO):
        return matches(imported, DEMO)
    mine = place(importer)
    assert mine is not None
    if matches(imported, DEMO):
        return mine[0] >= DEMO_USERS
    theirs = place(imported)
    assert theirs is not None, "%s is in no row" % imported
    return theirs[0] < mine[0] or theirs == mine


def _module_of(name: str) -> Optional[str]:
    """Return the module of ours that an import names, None for others' modules."""
    if name == "mcpsync":
        return "__init__"
    if not name.startswith("mcpsync."):
        return None
    module = name[len("mcpsync.") :]
    # An import of what is not written yet belongs to the module that it names.
    while module not in MODULES and "." in module and place(module) is None:
        module = module.rpartition(".")[0]
    return module


@pytest.mark.parametrize("module", MODULES)
def test_every_module_has_a_row(module: str) -> None:
    assert matches(module, DEMO) or place(module) is not None, (
        "put %s into ROWS: what may it import?" % module
    )


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    wrong = []
    for imported in imports(module):
        target = _module_of(imported.name)
        if target is not None and not may_import(module, target):
            wrong.append("line %d: %s" % (imported.line, imported.name))
    assert not wrong, "%s imports from its own row or above:\n%s" % (
        module,
        "\n".join(wrong),
    )


def test_no_circles_when_modules_are_loaded() -> None:
    edges: Dict[str, Set[str]] = {}
    for module in MODULES:
        loaded = imports(module, lazily=False)
        targets = {_module_of(imported.name) for imported in loaded}
        edges[module] = {t for t in targets if t is not None and t != module}
    done: Set[str] = set()

    def visit(module: str, path: List[str]) -> None:
        assert module not in path, " -> ".join(path[path.index(module) :] + [module])
        if module not in done:
            for target in sorted(edges.get(module, ())):
                visit(target, path + [module])
            done.add(module)

    for module in sorted(edges):
        visit(module, [])


# --- other people's libraries -------------------------------------------------------

STDLIB = getattr(sys, "stdlib_module_names", None)


@pytest.mark.parametrize("module", MODULES)
def test_each_library_has_one_home(module: str) -> None:
    wrong = []
    for imported in imports(module):
        library = imported.name.partition(".")[0]
        if library == "mcpsync":
            continue
        homes = HOMES.get(library)
        if homes is None:
            # Before Python 3.10 nobody tells what the standard library is.
            at_home = STDLIB is None or library in STDLIB
        else:
            at_home = any(matches(module, home) for home in homes)
        if not at_home:
            wrong.append("line %d: %s" % (imported.line, imported.name))
    assert not wrong, "%s imports a library away from its home:\n%s" % (
        module,
        "\n".join(wrong),
    )


@pytest.mark.parametrize("module", [m for m in MODULES if matches(m, "protocol.*")])
def test_the_protocol_is_pure(module: str) -> None:
    roots = {imported.name.partition(".")[0] for imported in imports(module)}
    assert not roots & IMPURE


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_asynchronous(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text(encoding="utf-8"))
    words = (ast.AsyncFunctionDef, ast.AsyncFor, ast.AsyncWith, ast.Await)
    assert not [n.lineno for n in ast.walk(tree) if isinstance(n, words)]
    assert "asyncio" not in {i.name.partition(".")[0] for i in imports(module)}


# --- eras ---------------------------------------------------------------------------

_DATE = re.compile(r"\d{4}-\d{2}-\d{2}")
_VERSIONS = {"version", "protocol_version", "protocolVersion"}
_ERAS = {"LegacyEra", "ModernEra", "LEGACY", "MODERN"}


def _docstrings(tree: ast.AST) -> Set[int]:
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            found.add(id(node.value))
    return found


def _is_version(node: ast.AST) -> bool:
    """Tell whether an expression is a protocol version, or the name of an era."""
    if isinstance(node, ast.Name):
        return node.id in ("protocol_version", "era")
    if not isinstance(node, ast.Attribute):
        return False
    if node.attr == "name":
        owner = node.value
        name = owner.attr if isinstance(owner, ast.Attribute) else ""
        return (name or getattr(owner, "id", "")).lower().endswith("era")
    return node.attr in _VERSIONS


def _asks(node: ast.AST) -> Optional[str]:
    """Return what a node asks about the era, None when it asks nothing."""
    if isinstance(node, ast.Compare):
        if all(isinstance(op, (ast.Is, ast.IsNot)) for op in node.ops):
            return None
        sides = [node.left] + node.comparators
        if any(_is_version(side) for side in sides):
            return "compares a protocol version"
        words = [s.value for s in sides if isinstance(s, ast.Constant)]
        return "compares an era" if {"legacy", "modern"} & set(words) else None
    if isinstance(node, ast.Attribute):
        if node.attr in ("is_modern", "is_legacy"):
            return "asks for the era"
        asked = node.attr in ("startswith", "endswith") and _is_version(node.value)
        return "takes a protocol version apart" if asked else None
    if isinstance(node, ast.Name) and node.id in _ERAS:
        return "names an era"
    return None


def era_questions(source: str) -> List[str]:
    """Return the places where a source depends on protocol versions or eras."""
    tree = ast.parse(source)
    docstrings = _docstrings(tree)
    found = []
    for node in statements(tree):
        what = _asks(node)
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if _DATE.fullmatch(node.value) and id(node) not in docstrings:
                what = "holds a protocol version"
        if what is not None:
            line: int = getattr(node, "lineno", 0)
            found.append("line %d %s" % (line, what))
    return found


@pytest.mark.parametrize(
    "module",
    [m for m in MODULES if not (matches(m, "protocol.*") or matches(m, DEMO))],
)
def test_only_the_protocol_knows_eras(module: str) -> None:
    found = era_questions(MODULES[module].read_text(encoding="utf-8"))
    assert not found, "%s:\n%s" % (module, "\n".join(found))


# --- the checks themselves ----------------------------------------------------------


@pytest.mark.parametrize(
    "source",
    [
        "v = '2025-11-25'",
        "x = {'2024-11-05': 1}",
        "if self.era.name == 'x': pass",
        "if self._era.name != name: pass",
        "ok = era.version in SUPPORTED",
        "ok = client.protocol_version < other",
        "ok = protocol_version == other",
        "ok = version.version.startswith('2025')",
        "ok = protocol == 'legacy'",
        "ok = era.is_modern",
        "ok = isinstance(era, LegacyEra)",
        "def f():\n    if a.version >= b: pass",
    ],
)
def test_questions_about_eras_are_seen(source: str) -> None:
    assert era_questions(source)


@pytest.mark.parametrize(
    "source",
    [
        "'''See 2025-11-25.'''",
        "'''2025-11-25'''",
        "text = 'on 2025-11-25 or so'",
        "if era.version is None: pass",
        "return_value = self._era.version",
        "if tool.name == 'x': pass",
        "if TYPE_CHECKING:\n    from .protocol.eras import ModernEra",
        "if sys.version_info < (3, 10): pass",
    ],
)
def test_other_things_are_no_questions_about_eras(source: str) -> None:
    assert era_questions(source) == []


def test_imports_are_read_wherever_they_stand() -> None:
    source = """
import a.b, c
from typing import TYPE_CHECKING
if TYPE_CHECKING:
    import never
else:
    import sometimes
def f():
    from d import e
    try:
        import g
    except ImportError:
        importlib.import_module("h")
"""
    names = [imported.name for imported in imports("client", source)]
    assert names == ["a.b", "c", "typing", "sometimes", "d", "g", "h"]
    names = [imported.name for imported in imports("__init__", source)]
    assert names == ["a.b", "c", "typing", "sometimes"]


def test_relative_imports_are_resolved() -> None:
    def names(module: str, source: str) -> List[str]:
        return [imported.name for imported in imports(module, source)]

    assert names("client", "from ._text import clean") == ["mcpsync._text"]
    assert names("client", "from . import _text, x") == ["mcpsync._text", "mcpsync"]
    assert names("transports.base", "from ..types import x") == ["mcpsync.types"]
    assert names("transports.base", "from . import base") == ["mcpsync.transports.base"]
    assert names("transports", "from .base import x") == ["mcpsync.transports.base"]
    assert names("__init__", "from ._text import x") == ["mcpsync._text"]


@pytest.mark.parametrize(
    "importer, imported, allowed",
    [
        ("client", "transports.base", True),
        ("client", "_connection", True),
        ("transports.http", "auth.session", False),
        ("auth.session", "transports.base", False),
        ("transports.http", "transports.base", True),
        ("protocol.eras", "hooks", False),
        ("protocol.eras", "types", True),
        ("_listings", "hooks", False),
        ("_dispatch", "_questions", True),
        ("_anything", "transports.base", True),
        ("_anything", "client", False),
        ("transports.base", "_anything", False),
        ("transports._http_wire", "transports._http_session", True),
        ("_connect", "client", True),
        ("client", "_connect", False),
        ("_tasks", "client", False),
        ("exceptions", "types", False),
        ("exceptions", "_text", True),
        ("transports.memory", "client", False),
        ("group", "registry", True),
        ("client", "__init__", False),
        ("client", "demo", False),
        ("testing", "demo._http", True),
        ("demo", "types", False),
        ("demo._http", "demo._wire", True),
        ("contrib.django.models", "cli", True),
        ("contrib.django.models", "contrib.llm", False),
        ("cli", "contrib.jupyter", False),
    ],
)
def test_the_rows(importer: str, imported: str, allowed: bool) -> None:
    assert may_import(importer, imported) is allowed
