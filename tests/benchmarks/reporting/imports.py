"""Who imports whom in lipguard, read from the source."""

from __future__ import annotations

import ast
import functools
from pathlib import Path

from lipguard import _HOMES  # where the public names come from

ROOT = Path(__file__).resolve().parents[3] / "lipguard"
SOURCES = sorted(ROOT.rglob("*.py"))
Arrows = dict[str, set[str]]


@functools.cache
def imported(path: Path) -> frozenset[str]:
    """Every module named in an import statement, wherever it stands, but for the type checker's."""
    tree = ast.parse(path.read_text())
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    names: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            modules = [name for name in inner if ROOT.parent.joinpath(*name.split(".")).with_suffix(".py").exists()]
            homes = [_HOMES[alias.name] for alias in node.names if node.module == "lipguard" and alias.name in _HOMES]
            names |= set(modules or homes or [node.module])
    return frozenset(names)


def part(name: str) -> Path | None:
    """The file of a module of lipguard, a folder's `__init__.py` included; None for what is another library's."""
    path = ROOT.parent.joinpath(*name.split("."))
    found = (path.with_suffix(".py"), path / "__init__.py")
    return next((file for file in found if file in SOURCES), None)


def closure(start: Path) -> set[Path]:
    """The files that one imports, itself included, and what they import in turn; not the folders that they lie in."""
    found, waiting = set[Path](), [start]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += [file for file in map(part, imported(path)) if file is not None]
    return found


def stage(path: Path) -> str:
    """The folder, or the file, of the package that a source belongs to."""
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def arrows(folder: str = "") -> Arrows:
    """By what stands in a folder of lipguard (the package itself by default): what else in that folder it imports."""
    prefix = ("lipguard", *filter(None, folder.split("/")))
    base = ROOT.joinpath(*prefix[1:])
    found: Arrows = {}
    for path in SOURCES:
        if not path.is_relative_to(base) or (path.name == "__init__.py" and path.parent == base):
            continue
        own = path.relative_to(base).parts[0].removesuffix(".py")
        named = [tuple(name.split(".")) for name in imported(path)]
        others = {name[len(prefix)] for name in named if name[: len(prefix)] == prefix and len(name) > len(prefix)}
        found.setdefault(own, set()).update(others - {own})
    return found


def reduced(graph: Arrows) -> Arrows:
    """Without the arrows that a longer way says, too."""
    return {a: {b for b in own if not any(b in _reached(graph, c) for c in own - {b})} for a, own in graph.items()}


def summary(*parts: str) -> str:
    """The first line of what a folder or a file says of itself."""
    path = ROOT.joinpath(*parts)
    source = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
    return (ast.get_docstring(ast.parse(source.read_text())) or "").split("\n")[0]


def levels(graph: Arrows) -> list[list[str]]:
    """The names, those first that nobody imports; every arrow goes to a later level.

    Raises:
        ValueError: some import each other in a circle.
    """
    rest, found = dict(graph), list[list[str]]()
    while rest:
        free = sorted(name for name in rest if not any(name in own for own in rest.values()))
        if not free:
            raise ValueError(f"Circular imports among {', '.join(sorted(rest))}.")
        found.append(free)
        rest = {name: own for name, own in rest.items() if name not in free}
    return found


def _reached(graph: Arrows, start: str, seen: frozenset[str] = frozenset()) -> set[str]:
    own = graph.get(start, set()) - seen
    return own.union(*(_reached(graph, name, seen | own | {start}) for name in own))
