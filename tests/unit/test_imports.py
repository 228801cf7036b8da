"""Dependencies between rooms point one way, and function-level imports say why they stand where they do."""

from __future__ import annotations

import ast
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import pytest

import ovbench

ROOT = Path(ovbench.__file__).parent

# Each room with the rooms that it may import. A room that is not named here does not exist.
ROOMS = {
    "utils": (),
    "config": ("utils",),
    "data": ("config", "utils"),
    "metrics": ("data", "utils"),
    "backbones": ("config", "utils"),
    "regions": ("backbones", "data", "config", "utils"),
    "methods": ("regions", "backbones", "config", "utils"),
    "inference": ("methods", "regions", "backbones", "data", "config", "utils"),
    "evaluation": ("inference", "methods", "regions", "backbones", "metrics", "data", "config", "utils"),
    "integrations": ("evaluation", "inference", "methods", "regions", "backbones", "data", "config", "utils"),
    "results": ("evaluation", "inference", "methods", "regions", "backbones", "metrics", "data", "config", "utils"),
    "training": ("evaluation", "inference", "methods", "regions", "backbones", "data", "config", "utils"),
    "parity": ("training", "evaluation", "inference", "methods", "regions", "backbones", "data", "config", "utils"),
    "cluster": (
        "evaluation", "inference", "methods", "regions", "backbones", "metrics", "data", "config", "utils",
    ),
    "cli": (
        "cluster", "parity", "training", "results", "integrations", "evaluation", "inference", "methods", "regions",
        "backbones", "metrics", "data", "config", "utils",
    ),
}  # fmt: skip
HEAVY_FRAMEWORKS = ("mmengine", "mmseg", "mmcv")  # imported in integrations only


class Import(NamedTuple):
    """A module that a file imports, the line, and whether it is imported when the file is."""

    module: str
    line: int
    at_module_level: bool


def module_name(path: Path) -> str:
    parts = ("ovbench", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def imports_of(path: Path) -> list[Import]:
    """Every import of a file: at its top, inside functions, under TYPE_CHECKING."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    inside = {
        id(node)
        for function in ast.walk(tree)
        if isinstance(function, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        for node in ast.walk(function)
        if isinstance(node, (ast.Import, ast.ImportFrom))
    }
    package = module_name(path).split(".") if path.name == "__init__.py" else module_name(path).split(".")[:-1]
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [Import(alias.name, node.lineno, id(node) not in inside) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            for alias in node.names:
                full = f"{base}.{alias.name}"
                found.append(Import(full if full in FILES else base, node.lineno, id(node) not in inside))
    return found


IMPORTS = {name: imports_of(path) for name, path in FILES.items()}


def room_of(module: str) -> str:
    """The folder of a module below the package; "" for the package's own files."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or ((ROOT / parts[-1]).is_dir() and len(parts) == 2) else ""


def test_the_package_consists_of_the_known_rooms():
    assert {room_of(name) for name in FILES} - {""} == ROOMS.keys()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_above_it(room):
    mine = {name: found for name, found in IMPORTS.items() if room_of(name) == room}
    assert mine
    wrong = [
        f"{FILES[name].relative_to(ROOT)}:{one.line} imports {one.module}"
        for name, found in mine.items()
        for one in found
        if one.module.startswith("ovbench.") and room_of(one.module) not in (room, *ROOMS[room])
    ]
    assert not wrong, "\n".join(wrong)


def test_rooms_have_an_order():
    order = list(ROOMS)
    for room, allowed in ROOMS.items():
        assert all(order.index(other) < order.index(room) for other in allowed), room


def test_no_module_imports_one_that_imports_it():
    graph = {name: {one.module for one in found} & FILES.keys() - {name} for name, found in IMPORTS.items()}
    TopologicalSorter(graph).prepare()  # CycleError names the cycle


def test_only_integrations_import_mmengine_and_mmseg():
    found = [
        f"{FILES[name].relative_to(ROOT)}:{one.line}"
        for name, imports in IMPORTS.items()
        for one in imports
        if one.module.split(".")[0] in HEAVY_FRAMEWORKS and room_of(name) != "integrations"
    ]
    assert not found, found


def test_every_class_name_stands_once():
    places = defaultdict(list)
    for path in FILES.values():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].append(f"{path.relative_to(ROOT)}:{node.lineno}")
    assert len(places) > 100
    assert not {name: found for name, found in places.items() if len(found) > 1}
