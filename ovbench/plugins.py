"""Methods that no package announces: ``path/to/file.py:Class`` or ``module:Class``, of ovbench or of mmsegmentation.

A class of mmsegmentation (a ``BaseSegmentor``, or the name under which a module registers one) runs unmodified through
its own ``predict``: see `ovbench.foreign`.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from ovbench.errors import InputError, UsageError


def load_method(name: str) -> Any:
    """The method behind ``FILE.py:Class`` or ``module:Class``. InputError for what cannot be imported, UsageError for a
    class of another kind."""
    importlib.import_module("ovbench.segmentor")  # makes mmsegmentation importable for the file, quietly
    place, _, attribute = name.rpartition(":")
    module = _file_module(Path(place)) if place.endswith(".py") else _module(place)
    found = getattr(module, attribute, None)
    if found is None:
        found = _registered(attribute)
    if found is None:
        classes = sorted(n for n, v in vars(module).items() if isinstance(v, type) and v.__module__ == module.__name__)
        raise InputError(f'no "{attribute}" in it', where=place, fix=f"it defines {', '.join(classes) or 'no class'}")
    from ovbench.methods.base import Method

    if isinstance(found, type) and issubclass(found, Method):
        return found
    from ovbench.foreign import adapt

    return adapt(found, name)


def code_hash(name: str) -> str | None:
    """The hash of the file that a name points to; None for a name that points to none."""
    place = name.rpartition(":")[0]
    return hashlib.sha256(Path(place).read_bytes()).hexdigest() if place.endswith(".py") else None


def settings_file(name: str) -> Path | None:
    """The settings of a method from a file: a TOML file beside it with the same stem."""
    place = name.rpartition(":")[0]
    return Path(place).with_suffix(".toml") if place.endswith(".py") else None


def short_name(name: str) -> str:
    """A name that a file may have."""
    return "-".join(part for part in (Path(name.rpartition(":")[0]).stem, name.rpartition(":")[2]) if part)


def _file_module(path: Path) -> ModuleType:
    """Import a file once. Its folder is searched last for what it imports, so that a repository's own modules are."""
    path = path.expanduser().resolve()
    if not path.is_file():
        raise InputError(f'no file "{path.name}"', where=str(path.parent), fix="check the path")
    name = f"ovbench_file_{hashlib.sha256(str(path).encode()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.append(str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise UsageError("not a Python file", where=str(path))
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InputError(f"cannot import the file: {type(error).__name__}: {error}", where=str(path)) from error
    return module


def _module(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise InputError(f'cannot import "{name}": {error}', fix="set PYTHONPATH, or give FILE.py:Class") from error


def _registered(name: str) -> Any:
    """What mmsegmentation knows under a name, now that the module is imported."""
    if "mmseg" not in sys.modules:
        return None
    from mmseg.registry import MODELS

    return MODELS.get(name)
