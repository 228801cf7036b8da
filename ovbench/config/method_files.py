"""Where the settings file of a method lies. Light: `ovbench list` reads titles without the types of the settings."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from ovbench.utils.paths import shipped
from ovbench.utils.registry import METHODS
from ovbench.utils.toml import read_toml


def method_heading(method: str) -> dict[str, Any]:
    """Return what the settings file of a method says of it: ``title`` and ``paper``; empty if there is no file."""
    path = settings_path(method)
    table = read_toml(path) if path is not None and path.is_file() else {}
    return {key: str(table[key]) for key in ("title", "paper") if key in table}


def settings_path(method: str) -> Path | None:
    """Return the settings file of a method, which need not exist; None if a plug-in has no place for one.

    It is one of ours or lies beside the code of a plug-in, with the stem of the file or module that the name points
    to; for an entry point it is NAME.toml beside its module. Nothing is imported to find it.
    """
    own = shipped("configs", "methods", f"{method}.toml")
    if ":" not in method and (own.is_file() or method not in METHODS.entries()):
        return own
    file = method.rpartition(":")[0]
    if file.endswith(".py"):
        return Path(file).with_suffix(".toml")
    target = method if ":" in method else METHODS.entries()[method]
    spec = _spec_of(target.partition(":")[0])
    if spec is None or not spec.has_location or spec.origin is None:
        return None
    module = Path(spec.origin)
    stem = method if ":" not in method else module.parent.name if module.stem == "__init__" else module.stem
    return module.with_name(f"{stem}.toml")


def _spec_of(name: str) -> ModuleSpec | None:
    """Where a module lies, found without running its packages as `importlib.util.find_spec` would."""
    path, spec = None, None
    parts = name.split(".")
    for number in range(len(parts)):
        dotted = ".".join(parts[: number + 1])
        finders = (finder for finder in sys.meta_path if hasattr(finder, "find_spec"))
        spec = next((found for finder in finders if (found := finder.find_spec(dotted, path)) is not None), None)
        if spec is None:
            return None
        path = spec.submodule_search_locations
    return spec
