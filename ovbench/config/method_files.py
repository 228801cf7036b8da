"""Find the settings file of a method; without pydantic, so that `ovbench list` starts fast."""

from __future__ import annotations

import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

from ovbench.utils.paths import shipped
from ovbench.utils.registry import METHODS
from ovbench.utils.toml import read_toml


def method_heading(method: str) -> dict[str, Any]:
    """Return ``title`` and ``paper`` of a method from its settings file; empty if there is no file."""
    path = settings_path(method)
    table = read_toml(path) if path is not None and path.is_file() else {}
    return {key: str(table[key]) for key in ("title", "paper") if key in table}


def settings_path(method: str) -> Path | None:
    """Return the path of the settings file of a method, which may not exist; None if a plug-in has no folder.

    It is a shipped file, or beside the code of a plug-in with the stem of its file or module. For an entry point it is
    NAME.toml beside the module. Nothing is imported.
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
    """Find a module without importing its packages, which `importlib.util.find_spec` does."""
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
