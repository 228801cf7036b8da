"""Resolve settings files and overrides to a cell; later layers override earlier ones, key by key."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.config import PROTOCOLS
from ovbench.config.backbone_spec import backbones_among_settings, configured_backbones
from ovbench.config.method_files import settings_path
from ovbench.config.schema import Cell, CommonFile, MethodFile, Protocol, Tables, as_in_file, templates
from ovbench.utils.errors import InputError, OvbenchError, UsageError, unknown, warn_once
from ovbench.utils.paths import shipped
from ovbench.utils.registry import BACKBONES, METHODS, REGIONS, find_backbone
from ovbench.utils.toml import read_toml
from ovbench.utils.typed import field_types, parse_text, validate

__all__ = ["Cell", "Layer", "Protocol", "resolve", "templates"]

TABLES = ("backbones", "protocol", "params", "regions")
REGION_SOURCE = "felzenszwalb"


class Layer(NamedTuple):
    """A layer of settings: ``origin`` is its table in a file, ``source`` its publication ("" if there is none)."""

    origin: str
    source: str
    tables: dict[str, dict[str, Any]]


class Merged(NamedTuple):
    """All settings by table, and the layer of each ``(table, key)``."""

    tables: dict[str, dict[str, Any]]
    decided_by: dict[tuple[str, str], Layer]


def method_config(method: str) -> MethodFile:
    """Return the settings file of a method; an empty one if a plug-in has none.

    Raises:
        InputError: If the file has an unknown key or a value of a wrong type.
    """
    path = settings_path(method)
    if path is None or not path.is_file():
        return MethodFile()
    return _method_file(path, path.stat().st_mtime_ns)


@functools.lru_cache(maxsize=64)  # a table resolves every method many times
def _method_file(path: Path, changed: int) -> MethodFile:
    return validate(MethodFile, read_toml(path), path.name)


def layers_of(method: str, dataset: str, protocol: str = "paper") -> list[Layer]:
    """Return the layers of settings of a method on a dataset, from the weakest to the strongest.

    These are configs/common.toml, the method's file, and the tables of both for this dataset. The protocol "common"
    adds one set of windows, prompts and class names for all methods, and the common table of the dataset again, except
    for protocol settings that ``keeps`` in the method's file lists.

    Args:
        method: Name of a method.
        dataset: Name of a dataset.
        protocol: "paper" or "common".

    Raises:
        UsageError: If the protocol is not known.
        InputError: If a settings file is malformed.
    """
    if protocol not in PROTOCOLS:
        raise unknown("protocol", protocol, PROTOCOLS, where="--protocol")
    common = _common_file()
    own, path = method_config(method), settings_path(method)
    brought = path is not None and path != shipped("configs", "methods", f"{method}.toml")
    file = str(path) if brought else f"configs/methods/{method}.toml"
    here = own.benchmark.get(dataset)
    shared = Layer(f"configs/common.toml [benchmark.{dataset}]", "", _given(common.benchmark.get(dataset)))
    special = Layer(f"{file} [benchmark.{dataset}]", (here and here.source) or own.source, _given(here))
    base = [Layer("configs/common.toml", "", _given(common)), Layer(file, own.source, _given(own))]
    if protocol == "common":
        for_all = Layer("configs/common.toml [common]", "", _given(common.common))
        return [*base, shared, special, *(_without(layer, own.keeps) for layer in (for_all, shared))]
    return [*base, shared, special]


@functools.cache
def _common_file() -> CommonFile:
    return validate(CommonFile, read_toml(shipped("configs", "common.toml")), "common.toml")


def _given(tables: Tables | None) -> dict[str, dict[str, Any]]:
    return {table: dict(getattr(tables, table)) for table in TABLES} if tables else {}


def _without(layer: Layer, keeps: Collection[str]) -> Layer:
    protocol = {key: value for key, value in layer.tables.get("protocol", {}).items() if key not in keeps}
    return layer._replace(tables={**layer.tables, "protocol": protocol})


def merge(stack: Sequence[Layer]) -> Merged:
    """Merge layers; later ones override earlier ones, key by key.

    A layer with another region source first removes the settings of the earlier source.
    """
    merged = Merged({table: {} for table in TABLES}, {})
    for layer in stack:
        for table, values in merged.tables.items():
            given = layer.tables.get(table, {})
            if table == "regions" and given.get("source", values.get("source")) != values.get("source"):
                values.clear()
            values.update(given)
            merged.decided_by.update({(table, key): layer for key in given})
    return merged


def resolve(
    method: str,
    dataset: str,
    overrides: Mapping[str, Any] | None = None,
    backbones: Mapping[str, str] | None = None,
    protocol: str = "paper",
    *,
    incomplete: bool = False,
    like: str | None = None,
) -> Cell:
    """Return the cell of a method on a dataset.

    Args:
        method: Name of a method.
        dataset: Name of a dataset.
        overrides: Settings by name, as texts of ``--set`` or as typed values.
        backbones: Backbones by their names in the method's needs.
        protocol: "paper" for the published settings, "common" for the same windows, prompts and names for all methods.
        incomplete: Whether a required backbone without a name is None instead of an error; such a cell cannot run.
        like: The benchmark whose settings a dataset of a user gets.

    Raises:
        UsageError: If a given name or value is not valid.
        InputError: If a settings file is not valid.

    Example:
        >>> resolve("corrclip", "mini", {"pamr_dilations": [8, 16], "tau": "0.2"}).params.tau
        0.2
    """
    entry = METHODS.declaration(method)
    merged = merge(layers_of(method, like or dataset, protocol)).tables
    among_settings = backbones_among_settings(entry, overrides or {})
    overrides = {key: value for key, value in (overrides or {}).items() if key not in among_settings}
    _apply(merged, entry.Params, overrides, method)
    given = {**(backbones or {}), **among_settings}
    needed = configured_backbones(entry, merged["backbones"], given, method, incomplete=incomplete)
    seen = needed.get(entry.sees)
    own = find_backbone(entry.sees, entry.__module__).normalisation(seen) if seen else None
    return Cell(
        method=method,
        dataset=dataset,
        params=validate(entry.Params, merged["params"], f"parameters of {method}", given=overrides),
        protocol=_protocol(merged["protocol"], own, seen, overrides, method),
        backbones=needed,  # type: ignore[arg-type]  # None only if ``incomplete``
        regions=_regions(merged["regions"], overrides) if entry.needs.regions else {},
    )


def _protocol(
    table: Mapping[str, Any], own: Any, spec: str | None, overrides: Mapping[str, Any], method: str
) -> Protocol:
    """Return the protocol with the normalisation ``own`` of the backbone ``spec`` that gets the windows.

    Other constants from the command line are used, with a warning.

    Raises:
        InputError: If a settings file gives other constants than that backbone was trained with.
    """
    where = f"protocol of {method}"
    made = validate(Protocol, {**(own._asdict() if own else {}), **table}, where, given=overrides)
    if own is None:
        return made
    given = own._replace(mean=made.mean, std=made.std)
    if given.equals(own):
        return made
    trained = f"{spec} was trained with mean {_spelled(own.mean)} and std {_spelled(own.std)}"
    in_file = given._replace(**{name: getattr(own, name) for name in ("mean", "std") if name in overrides})
    if not in_file.equals(own):
        raise InputError(
            f"the settings give mean {_spelled(in_file.mean)} and std {_spelled(in_file.std)}, but {trained}",
            where=where,
            fix="remove mean and std from the settings file, or give both with --set",
        )
    warn_once(f"mean and std are set by hand: {trained}")
    return made


def _spelled(values: tuple[float, ...]) -> str:
    return ",".join(f"{value:g}" for value in values)


def file_settings(plain: Mapping[str, Any], protocol: str = "paper", like: str | None = None) -> dict[str, Any]:
    """Return a cell (as from `Cell.as_dict`) with parameters and protocol of the settings files.

    The method is not loaded for it. ``like`` is the benchmark whose settings the cell was asked to have.
    """
    tables = merge(layers_of(plain["method"], like or plain["dataset"], protocol)).tables
    own = None
    for name, spec in list(plain["backbones"].items())[:1]:  # otherwise the files have the constants
        with contextlib.suppress(OvbenchError):  # a name of another version
            own = BACKBONES.load(name).normalisation(spec)
    table = {**(own._asdict() if own else {}), **tables["protocol"]}
    around = validate(Protocol, table, f"protocol of {plain['method']}")
    return as_in_file({**plain, "params": tables["params"], "protocol": around.as_dict()})


def cell_of(plain: Mapping[str, Any]) -> Cell:
    """Return the cell from its plain data (`Cell.as_dict`), as in a record.

    Raises:
        UsageError: If this version does not know its method.
        InputError: If this version does not know one of its settings.
    """
    method = plain["method"]
    return Cell(
        method=method,
        dataset=plain["dataset"],
        params=validate(METHODS.declaration(method).Params, plain["params"], f"parameters of {method}"),
        protocol=validate(Protocol, plain["protocol"], f"protocol of {method}"),
        backbones=dict(plain["backbones"]),
        regions=dict(plain["regions"]),
    )


def _regions(table: Mapping[str, Any], overrides: Collection[str] = ()) -> dict[str, Any]:
    """Return the region source with all its settings."""
    settings = dict(table)
    source = settings.pop("source", REGION_SOURCE)
    given = {key.removeprefix("regions.") for key in overrides}
    made = validate(REGIONS.load(source), settings, f"regions {source}", given=given)
    return {"source": source, **made.settings()}


def regions_table(source: str, overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Return the regions table of a source: its defaults, overridden by settings (texts or typed values).

    Raises:
        UsageError: If a setting or a value is not valid.
    """
    known = field_types(REGIONS.load(source))
    for key in overrides:
        if key not in known:
            raise unknown("parameter", key, known, where=f"regions {source}")
    given = {key: parse_value(value, known[key], key) for key, value in overrides.items()}
    return _regions({"source": source, **given}, overrides)


def _apply(merged: dict[str, dict[str, Any]], params: type, overrides: Mapping[str, Any], method: str) -> None:
    """Set a parameter, a protocol setting, ``regions`` (the source) or ``regions.SETTING`` in the merged tables."""
    own, around = field_types(params), field_types(Protocol)
    if "regions" in overrides and merged["regions"].get("source") != overrides["regions"]:
        merged["regions"] = {"source": overrides["regions"]}
    for key, value in overrides.items():
        if key == "regions":
            continue
        if key in own:
            merged["params"][key] = parse_value(value, own[key], key)
        elif key in around:
            merged["protocol"][key] = parse_value(value, around[key], key)
        elif key.startswith("regions."):
            name = key.removeprefix("regions.")
            known = field_types(REGIONS.load(merged["regions"].get("source", REGION_SOURCE)))
            if name not in known:
                raise unknown("parameter", key, [f"regions.{k}" for k in known], where=f"method {method}")
            merged["regions"][name] = parse_value(value, known[name], key)
        else:
            raise unknown("parameter", key, [*own, *around, "regions"], where=f"method {method}")


def parse_value(value: Any, hint: Any, key: str) -> Any:
    """Convert a text of the command line to a type; a typed value is returned unchanged.

    Raises:
        UsageError: If a text is not a value of the type.
    """
    return parse_text(value, hint, key) if isinstance(value, str) else value


def override_pairs(items: Sequence[str] | Mapping[str, Any], option: str) -> dict[str, Any]:
    """Convert ``("a=1", "b=2")`` to a dictionary; a mapping is returned as a dictionary.

    Raises:
        UsageError: If an item has no ``=``.
    """
    if isinstance(items, Mapping):
        return dict(items)
    pairs = {}
    for item in items:
        key, equals, value = item.partition("=")
        if not equals or not key:
            raise UsageError(f'"{item}" is not of the form key=value', where=option)
        pairs[key.strip()] = value.strip()
    return pairs
