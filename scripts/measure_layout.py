"""Measure the layout of a checkout: files in the package's root, import circles, floors, sizes, docstring words.

    python scripts/measure_layout.py [CHECKOUT]

docs/notes/layout.md has the figures of two commits.
"""

import ast
import json
import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

SECTIONS = re.compile(r"^(Args|Returns|Raises|Yields|Attributes|Example|Examples|Source|Keyword Args):", re.MULTILINE)
Node = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def modules_of(checkout: Path) -> dict[str, Path]:
    """Return the modules of the package by dotted name."""
    files = {path.relative_to(checkout).with_suffix("").parts: path for path in (checkout / "osmnet").rglob("*.py")}
    return {".".join(parts).removesuffix(".__init__"): path for parts, path in files.items()}


def imports_of(name: str, path: Path, modules: dict[str, Path]) -> set[str]:
    """Return the modules of the package that a module imports, inside functions too, for types alone not."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for_types = [node for node in ast.walk(tree) if isinstance(node, ast.If) and _is_for_types(node)]
    skipped = {id(node) for block in for_types for node in ast.walk(block)}
    found = set()
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                full = f"{node.module}.{alias.name}"
                found.add(full if full in modules else node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {each for each in found if each in modules and each not in (name, "osmnet")}


def _is_for_types(node: ast.If) -> bool:
    return isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def floors_and_circles(graph: dict[str, set[str]]) -> tuple[int, list[list[str]]]:
    """Return the length of the longest chain of imports, and the circles (each broken once it is found)."""
    graph, circles = {name: set(imports) for name, imports in graph.items()}, []
    while True:
        try:
            order = list(TopologicalSorter(graph).static_order())
            break
        except CycleError as error:
            circle = error.args[1]  # every module imports the one before it
            circles.append(sorted(set(circle)))
            graph[circle[1]].discard(circle[0])
    height: dict[str, int] = {}
    for name in order:  # what is imported comes first
        height[name] = 1 + max((height[each] for each in graph.get(name, ())), default=0)
    return max(height.values()), circles


def measure(checkout: Path) -> dict[str, object]:
    """Return all figures of a checkout."""
    modules = modules_of(checkout)
    trees = {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in modules.items()}
    floors, circles = floors_and_circles({name: imports_of(name, path, modules) for name, path in modules.items()})
    lengths: dict[type, tuple[int, str]] = {ast.FunctionDef: (0, ""), ast.ClassDef: (0, "")}
    prose = 0
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, Node):
                kind = ast.ClassDef if isinstance(node, ast.ClassDef) else ast.FunctionDef
                length = (node.end_lineno or 0) - node.lineno + 1
                lengths[kind] = max(lengths[kind], (length, f"{name}.{node.name}"))
            if isinstance(node, Node | ast.Module):
                text = ast.get_docstring(node) or ""
                section = SECTIONS.search(text)
                prose += len(text[: section.start() if section else None].split())
    return {
        "files in the root": sum(path.is_file() for path in (checkout / "osmnet").iterdir()),
        "modules": len(modules),
        "lines": sum(len(path.read_text(encoding="utf-8").splitlines()) for path in modules.values()),
        "floors": floors,
        "circles": circles,
        "longest function": lengths[ast.FunctionDef],
        "longest class": lengths[ast.ClassDef],
        "words of docstring prose": prose,
        "lines of app.py": len((checkout / "app.py").read_text(encoding="utf-8").splitlines()),
        "words of README.md": len((checkout / "README.md").read_text(encoding="utf-8").split()),
    }


if __name__ == "__main__":
    root = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).resolve().parent.parent
    sys.stdout.write(json.dumps(measure(root), indent=1, ensure_ascii=False) + "\n")
