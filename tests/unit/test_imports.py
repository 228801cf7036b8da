"""Dependencies of modules point one way."""

from __future__ import annotations

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import ovbench

ROOT = Path(ovbench.__file__).parent
FILES = {".".join(("ovbench", *p.relative_to(ROOT).with_suffix("").parts)): p for p in ROOT.rglob("*.py")}


def imported(path: Path) -> set[str]:
    """The project's modules that a file imports when it is imported itself, and those that its annotations name."""
    body = ast.parse(path.read_text(encoding="utf-8")).body
    body += [inner for node in body if isinstance(node, ast.If) for inner in node.body]  # TYPE_CHECKING
    names = set()
    for node in body:
        if isinstance(node, ast.ImportFrom):
            above = ("ovbench", *path.relative_to(ROOT).parts)[: -node.level] if node.level else ()
            module = ".".join((*above, *([node.module] if node.module else [])))
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return names & FILES.keys()


def test_no_module_needs_one_that_needs_it():
    TopologicalSorter({name: imported(path) for name, path in FILES.items()}).prepare()  # CycleError names the cycle
