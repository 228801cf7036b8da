"""Settings files laid over one another, every value with the file and table that it comes from."""

from __future__ import annotations

import sys
from collections.abc import Collection, Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.methods.plugins import settings_file
from ovbench.utils.errors import unknown
from ovbench.utils.paths import shipped
from ovbench.utils.registry import METHODS
from ovbench.utils.toml import read_toml, refuse_unknown_keys

TABLES = ("backbones", "protocol", "params", "regions")
METHOD_KEYS = ("title", "paper", "source", "keeps", "benchmark", *TABLES)
PROTOCOLS = ("paper", "common")


class Layer(NamedTuple):
    """Some settings: ``origin`` is their place in our files, ``source`` where they were published ("" if ours)."""

    origin: str
    source: str
    tables: dict[str, dict[str, Any]]


class Merged(NamedTuple):
    """All settings by table, and for each ``(table, key)`` the layer that decided it."""

    tables: dict[str, dict[str, Any]]
    decided_by: dict[tuple[str, str], Layer]


def method_config(method: str) -> dict[str, Any]:
    """The settings file of a method (empty where a plug-in brings none); unknown keys are refused."""
    path = _settings_path(method)
    if path is None or not path.is_file():
        return {}
    config = read_toml(path)
    refuse_unknown_keys(config, METHOD_KEYS, path.name)
    for name, table in config.get("benchmark", {}).items():
        refuse_unknown_keys(table, ("source", *TABLES), f"{path.name}, benchmark {name}")
    return config


def _settings_path(method: str) -> Path | None:
    """Ours, or beside the code of a plug-in: with the stem of the file or module that the name points to, or for an
    entry point NAME.toml beside its module. Nothing is imported to find it."""
    own = shipped("configs", "methods", f"{method}.toml")
    if ":" not in method and (own.is_file() or method not in METHODS.entries()):
        return own
    if (beside_file := settings_file(method)) is not None:
        return beside_file
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


def layers_of(method: str, dataset: str, protocol: str = "paper") -> list[Layer]:
    """From the weakest to the strongest: configs/common.toml, the method's file, the common and the method's own table
    for this benchmark. With the protocol "common" the set of windows and names that all methods share is laid over what
    is the method's own, and only the common table of the benchmark over that; ``keeps`` in the method's file names what
    of the protocol it cannot share.

    Raises UsageError for another protocol.
    """
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS, where="--protocol")
    common, own = read_toml(shipped("configs", "common.toml")), method_config(method)
    path, source = _settings_path(method), own.get("source", "")
    brought = path is not None and path != shipped("configs", "methods", f"{method}.toml")
    file = str(path) if brought else f"configs/methods/{method}.toml"
    here = own.get("benchmark", {}).get(dataset, {})
    shared = Layer(f"configs/common.toml [benchmark.{dataset}]", "", common.get("benchmark", {}).get(dataset, {}))
    special = Layer(f"{file} [benchmark.{dataset}]", here.get("source", source), here)
    base = [Layer("configs/common.toml", "", common), Layer(file, source, own)]
    if protocol == "common":
        for_all = Layer("configs/common.toml [common]", "", common["common"])
        return [*base, shared, special, *(_without(layer, own.get("keeps", ())) for layer in (for_all, shared))]
    return [*base, shared, special]


def _without(layer: Layer, keeps: Collection[str]) -> Layer:
    protocol = {key: value for key, value in layer.tables.get("protocol", {}).items() if key not in keeps}
    return layer._replace(tables={**layer.tables, "protocol": protocol})


def merge(stack: Sequence[Layer]) -> Merged:
    """Later layers win, key by key. A layer that names another region source starts that table anew: its settings are
    the source's own."""
    merged = Merged({table: {} for table in TABLES}, {})
    for layer in stack:
        for table, values in merged.tables.items():
            given = layer.tables.get(table, {})
            if table == "regions" and given.get("source", values.get("source")) != values.get("source"):
                values.clear()
            values.update(given)
            merged.decided_by.update({(table, key): layer for key in given})
    return merged
