"""Dependencies between rooms point one way, those of imports inside functions too."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
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
ABSENT_ON_WINDOWS = ("fcntl",)
HEAVY_FRAMEWORKS = ("mmengine", "mmseg", "mmcv")  # imported in integrations only


class Import(NamedTuple):
    """A module that a file imports, and the line."""

    module: str
    line: int


class Contents(NamedTuple):
    """The imports and the classes of a file, those inside functions too; ``inner`` are the imports inside functions."""

    imports: list[Import]
    classes: list[ast.ClassDef]
    inner: list[Import]
    at_import: set[str]  # modules that are loaded when the file is imported


def module_name(path: Path) -> str:
    parts = ("ovbench", *path.relative_to(ROOT).with_suffix("").parts)
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


FILES = {module_name(path): path for path in sorted(ROOT.rglob("*.py"))}


def statements(node: ast.AST) -> Iterator[ast.AST]:
    """Every statement below a node; expressions hold none."""
    for child in ast.iter_child_nodes(node):
        if not isinstance(child, ast.expr):
            yield child
            yield from statements(child)


def imports_of(node: ast.AST, package: list[str]) -> list[Import]:
    """What a statement imports."""
    if isinstance(node, ast.Import):
        return [Import(alias.name, node.lineno) for alias in node.names]
    if not isinstance(node, ast.ImportFrom):
        return []
    above = package[: len(package) - node.level + 1] if node.level else []
    base = ".".join([*above, *([node.module] if node.module else [])])
    names = [f"{base}.{alias.name}" for alias in node.names]
    return [Import(name if name in FILES else base, node.lineno) for name in names]


def contents_of(name: str) -> Contents:
    """Every import and class of a file: at its top, inside functions, under TYPE_CHECKING."""
    path = FILES[name]
    package = name.split(".") if path.name == "__init__.py" else name.split(".")[:-1]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = list(statements(tree))
    functions = [node for node in found if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))]
    inner = {one for function in functions for node in statements(function) for one in imports_of(node, package)}
    types = [node for node in tree.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)]
    unloaded = {one for node in types for child in statements(node) for one in imports_of(child, package)}
    imports = [one for node in found for one in imports_of(node, package)]
    return Contents(
        imports, [node for node in found if isinstance(node, ast.ClassDef)], sorted(inner),
        {one.module for one in imports if one not in inner | unloaded},
    )  # fmt: skip


def loaded_with(name: str, contents: dict[str, Contents]) -> set[str]:
    """Every module that is loaded when a module is imported, as far as files of the package import it."""
    found, todo = set(), [name]
    while todo:
        if (module := todo.pop()) not in found:
            found.add(module)
            parts = module.split(".")
            todo += [".".join(parts[:end]) for end in range(1, len(parts))]
            todo += contents[module].at_import if module in contents else ()
    return found


@pytest.fixture(scope="module")
def contents() -> dict[str, Contents]:
    """The contents of every file of the package."""
    return {name: contents_of(name) for name in FILES}


def room_of(module: str) -> str:
    """The folder of a module below the package; "" for the package's own files."""
    parts = module.split(".")
    return parts[1] if len(parts) > 2 or ((ROOT / parts[-1]).is_dir() and len(parts) == 2) else ""


def test_the_package_consists_of_the_known_rooms():
    assert {room_of(name) for name in FILES} - {""} == ROOMS.keys()


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_imports_only_rooms_above_it(room, contents):
    mine = {name: found.imports for name, found in contents.items() if room_of(name) == room}
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


def test_no_module_imports_one_that_imports_it(contents):
    graph = {name: {one.module for one in found.imports} & FILES.keys() - {name} for name, found in contents.items()}
    assert any(graph.values())
    TopologicalSorter(graph).prepare()  # CycleError names the cycle


def test_an_import_inside_a_function_saves_loading_the_module(contents):
    assert sum(len(file.inner) for file in contents.values()) > 100
    useless = [
        f"{FILES[name].relative_to(ROOT)}:{one.line} imports {one.module}, which the file has loaded"
        for name, file in contents.items()
        for loaded in [loaded_with(name, contents)]
        for one in file.inner
        if one.module in loaded and one.module not in ABSENT_ON_WINDOWS
    ]
    assert not useless, "\n".join(useless)


def test_only_integrations_import_mmengine_and_mmseg(contents):
    found = [
        f"{FILES[name].relative_to(ROOT)}:{one.line}"
        for name, file in contents.items()
        for one in file.imports
        if one.module.split(".")[0] in HEAVY_FRAMEWORKS and room_of(name) != "integrations"
    ]
    assert not found, found


def test_every_class_name_stands_once(contents):
    places = defaultdict(list)
    for name, found in contents.items():
        for node in found.classes:
            places[node.name].append(f"{FILES[name].relative_to(ROOT)}:{node.lineno}")
    assert len(places) > 100
    assert not {name: found for name, found in places.items() if len(found) > 1}
