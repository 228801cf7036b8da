"""Methods named by their code: ``path/to/file.py:Class`` or ``module:Class``, of ovbench or of mmsegmentation.

A class of mmsegmentation (a ``BaseSegmentor``, or the name under which a module registers one) runs unmodified through
its own ``predict``, in its own process: see `ovbench.integrations.third_party`. A subclass of `Method` runs in this
process.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ovbench.utils.errors import InputError, OvbenchError, Terminated, UsageError, first_line, last_line, line_below
from ovbench.utils.paths import real_path
from ovbench.utils.registry import GROUPS, HERE, entry_points, load_target

PREFIX = "ovbench_file_"  # prefix of the module names of files


def load_method(name: str) -> Any:
    """Load the method of a name.

    Args:
        name: ``FILE.py:Class`` or ``module:Class``.

    Returns:
        A subclass of `Method`.

    Raises:
        InputError: If the module cannot be imported (with file and line) or does not have the class.
        UsageError: If the class is neither a method nor a segmentor.
    """
    source, _, attribute = name.rpartition(":")
    file = _source_file(source)
    if source.endswith(".py") and not file.is_file():
        raise InputError(f'no file "{file.name}"', where=str(file.parent), fix="check the path")
    if file is None and _spec(source.partition(".")[0]) is None:
        raise InputError(f'cannot import "{source}"', fix="set PYTHONPATH, or give FILE.py:Class")
    if not _imports_ovbench(file):
        stand_in = _described(name, _stamp(file))
        if stand_in is not None:
            return stand_in
    module = _file_module(file) if source.endswith(".py") else _module(source)
    found = getattr(module, attribute, None)
    if found is None:
        classes = sorted(n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__)
        raise InputError(f'no "{attribute}" in it', where=source, fix=f"it defines {', '.join(classes) or 'no class'}")
    from ovbench.methods.base import Method

    if isinstance(found, type) and issubclass(found, Method):
        return found
    return _described(name, _stamp(file)) or _refuse(name)


def _refuse(name: str) -> Any:
    raise UsageError(f'"{name}" is not a method', fix="give a subclass of ovbench.methods.base.Method")


@functools.lru_cache(maxsize=16)
def _described(name: str, stamp: tuple[int, int]) -> Any:
    """Return the method class for a class of mmsegmentation, None for a `Method`; cached until the file changes."""
    return load_target("ovbench.integrations.third_party:describe", where="method")(name)


def _stamp(file: Path | None) -> tuple[int, int]:
    facts = file.stat() if file else None
    return (facts.st_mtime_ns, facts.st_size) if facts else (0, 0)


def _source_file(source: str) -> Path | None:
    """Return the file of a module without importing it; None if it is not known."""
    if source.endswith(".py"):
        return real_path(source)
    top, *below = source.split(".")
    spec = _spec(top)
    if spec is None:
        return None
    if not below:
        return Path(spec.origin) if spec.origin and spec.origin.endswith(".py") else None
    for folder in spec.submodule_search_locations or ():
        for file in (Path(folder, *below).with_suffix(".py"), Path(folder, *below, "__init__.py")):
            if file.is_file():
                return file
    return None


def _spec(top: str) -> Any:
    try:
        return importlib.util.find_spec(top)
    except ValueError:  # an empty name, or __main__
        return None


def _imports_ovbench(file: Path | None) -> bool:
    """Return whether the file imports ovbench, as a `Method` does; otherwise it is not imported into this process."""
    return file is not None and any(name.partition(".")[0] == "ovbench" for name in imported_names(file))


def imported_names(file: Path) -> set[str]:
    """Return all modules that a file imports, also inside functions."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, OSError) as error:
        where = f"{file}, line {getattr(error, 'lineno', None) or 1}"
        raise InputError(f"cannot import the file: {type(error).__name__}: {first_line(error)}", where=where) from None
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names.add(node.module)
    return names


def short_name(name: str) -> str:
    """Return a method's name in a form that is valid in a file name."""
    return "-".join(part for part in (Path(name.rpartition(":")[0]).stem, name.rpartition(":")[2]) if part)


def plugin_line(error: BaseException) -> str | None:
    """Return the last line of a plug-in that an exception passed through, as "FILE, line N"."""
    announced = {point.value.partition(":")[0].partition(".")[0] for group in GROUPS for point in entry_points(group)}
    for name, module in list(sys.modules.items()):
        file = getattr(module, "__file__", None)
        if file and (name.startswith(PREFIX) or name.partition(".")[0] in announced):
            home = Path(file).parent if name.startswith(PREFIX) else Path(file)
            if line := line_below(error, home):
                return line
    return None


def _file_module(path: Path) -> ModuleType:
    """Import a file once; the modules beside it win over installed ones of the same name.

    Raises:
        InputError: If it cannot be imported, or another file has loaded another module of the same name.
    """
    name = PREFIX + hashlib.sha256(str(path).encode()).hexdigest()[:12]
    if name in sys.modules:
        return sys.modules[name]
    _refuse_other_modules(path)
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError("not a Python file", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    folder = str(path.parent)
    sys.path.insert(0, folder)
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        raise _cannot_import("the file", error, line_below(error, path.parent) or str(path)) from error
    finally:
        sys.path.remove(folder)
        if folder not in sys.path:
            sys.path.append(folder)  # for imports inside its functions
    return module


def _refuse_other_modules(path: Path) -> None:
    """Refuse a file that needs a module beside it whose name is loaded from elsewhere."""
    todo, seen = [path], set()
    while todo:
        for name in {imported.partition(".")[0] for imported in imported_names(todo.pop())} - seen:
            seen.add(name)
            files = (path.parent / f"{name}.py", path.parent / name / "__init__.py")
            beside = next((file for file in files if file.is_file()), None)
            if beside is None:
                continue
            todo.append(beside)
            loaded = getattr(sys.modules.get(name), "__file__", None)
            if loaded and Path(loaded).resolve() != beside.resolve():
                raise InputError(
                    f'it needs its own module "{name}", but one of that name is loaded from {loaded}',
                    where=str(path), fix="rename it, or run the methods in separate commands",
                )  # fmt: skip


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except (Exception, SystemExit) as error:
        where = last_line(error, skip=HERE)
        raise _cannot_import(f'"{name}"', error, where) from error


def _cannot_import(what: str, error: BaseException, where: str | None) -> OvbenchError:
    if isinstance(error, (OvbenchError, Terminated)):
        raise error
    return InputError(f"cannot import {what}: {type(error).__name__}: {first_line(error)}", where=where)
