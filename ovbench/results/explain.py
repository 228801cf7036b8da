"""The settings of a method on a benchmark, with the source of each value."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from ovbench.backbones.build import official_weights
from ovbench.config.load import Cell, layers_of, merge, method_config, resolve
from ovbench.config.nearest_published import NearestPublished, nearest_published, published_cell
from ovbench.config.official import NOT_STATED, official_settings
from ovbench.config.published_runs import PublishedRun
from ovbench.config.setting_changes import SettingChange, changes_from_published, setting_text, with_official
from ovbench.data.card import load_card, vocabulary
from ovbench.data.descriptions import stand_in
from ovbench.regions.official_files import official_regions
from ovbench.results.published import PublishedFigure, published_for
from ovbench.utils.errors import OvbenchError
from ovbench.utils.registry import METHODS, find_backbone

THESE, DEVIATING = "these", "these, except for the deviations"


def explain(
    method: str,
    dataset: str,
    overrides: Mapping[str, str] | None = None,
    backbones: Mapping[str, str] | None = None,
    protocol: str = "paper",
) -> dict[str, Any]:
    """Describe the settings of a method on a dataset, even if this machine cannot run it.

    Args:
        method: Name of a method.
        dataset: Name of a dataset.
        overrides: Settings by name, as texts.
        backbones: Backbones by name.
        protocol: "paper" or "common".

    Returns:
        A dict with these keys:
        ``settings``: one row per setting with table, setting, value, published (see `_published`), from (the file that
        sets it) and source (the publication that the file names);
        ``deviations``: how the settings deviate from the nearest published run, as one sentence or "";
        ``published``: published figures in percent, each with the settings that it was measured with;
        ``missing``: what the run needs but is not given or not on this machine.
    """
    cell = resolve(method, dataset, overrides, backbones, protocol, incomplete=True)
    given = {*(overrides or {}), *(f"backbones.{name}" for name in backbones or {})}
    nearest = _nearest(cell)
    rows = [
        {**row, "published": _published(method, dataset, row["table"], row["setting"], nearest)}
        for row in setting_rows(cell, protocol, given)
    ]
    return {
        "method": method, "dataset": dataset, "protocol": protocol, "settings": rows, "deviations": nearest.sentence(),
        "published": _figures(method, dataset, nearest), "missing": _missing(cell),
    }  # fmt: skip


def setting_rows(cell: Cell, protocol: str = "paper", given: Collection[str] = ()) -> list[dict[str, Any]]:
    """Return every setting of a cell with its origin.

    Args:
        cell: The cell.
        protocol: "paper" or "common".
        given: Settings of the command line.

    Returns:
        Rows with table, setting, value, from (the file that sets it) and source (the publication that the file names).
    """
    set_by = merge(layers_of(cell.method, cell.dataset, protocol)).decided_by
    rows = []
    for table, values in cell.as_dict().items():
        for key, value in values.items() if isinstance(values, dict) else ():
            layer = set_by.get((table, key))
            origin, source = (layer.origin, layer.source) if layer is not None else ("default", "")
            if _option(table, key) in given or f"{table}.{key}" in given:
                origin, source = "the command line", ""
            rows.append({"table": table, "setting": key, "value": value, "from": origin, "source": source})
    return rows


def _option(table: str, key: str) -> str:
    """Return the name of a setting in ``--set``."""
    return key if table != "regions" else "regions" if key == "source" else f"regions.{key}"


def _nearest(cell: Cell) -> NearestPublished:
    card = load_card(cell.dataset)
    names = vocabulary(card, cell.protocol.vocabulary or None)
    plain = cell.as_dict()
    named = with_official(plain, official_weights(cell.backbones), official_regions(plain["regions"]))
    return nearest_published(named, None, stand_in(cell.protocol.descriptions, names, card.background))


def _published(method: str, dataset: str, table: str, key: str, nearest: NearestPublished) -> str:
    """Return "same", another value of the nearest published run, "not stated", or "" without an official setting."""
    if nearest.run is None:
        return ""
    changed: dict[str, SettingChange] = {change.setting: change for change in nearest.deviations}
    if _option(table, key) in changed:
        return setting_text(changed[_option(table, key)].expected)
    if table == "regions" and "regions" in changed:
        return "-"
    stated = official_settings()[method, dataset].get(f"{table}.{key}")
    return "not stated" if stated == NOT_STATED else "same"


def _figures(method: str, dataset: str, nearest: NearestPublished) -> list[dict[str, str]]:
    """Return published figures; ``settings`` describes the settings of each."""
    title = method_config(method).title or method
    fields = ("value", "variant", "postprocess", "reported_by", "note")
    found = [
        {**{key: getattr(row, key) for key in fields}, "settings": _settings_of(dataset, row, run, official, nearest)}
        for row, run, official in published_for(method, dataset, title)
    ]
    return sorted(found, key=lambda row: row["settings"] not in (THESE, DEVIATING))


def _settings_of(
    dataset: str, row: PublishedFigure, run: PublishedRun | None, official: bool, nearest: NearestPublished
) -> str:
    if run is None:
        return "of a variant that ovbench does not have"
    if not official:
        return "no official setting" if nearest.remark else "another protocol"
    if nearest.run is not None:
        cells = (published_cell(one, dataset) for one in (run, nearest.run))
        if not changes_from_published(*cells):
            return THESE if row.reported_by in nearest.sources else DEVIATING
    given = [f"{key}={setting_text(value)}" for key, value in {**run.weights, **run.settings}.items()]
    return "with " + ", ".join(given) if given else "the method's defaults"


def _missing(cell: Cell) -> list[str]:
    """Return what the cell needs but is not given or not on this machine."""
    from ovbench.regions.base import open_source

    found, entry = [], METHODS.declaration(cell.method)
    if cell.backbones and None not in cell.backbones.values():
        try:
            entry.check_specs(cell.backbones)
        except OvbenchError as error:
            found.append(str(error))
    for name, spec in cell.backbones.items():
        backbone = find_backbone(name, entry.__module__)
        if spec is None:
            found.append(f"{name}: not given ({backbone.advice})")
            continue
        try:
            found += [f"{name}: {file}" for file in backbone.missing(spec)]
        except OvbenchError as error:
            found.append(f"{name}: {error}")
    if cell.regions:
        try:
            found += [f"regions: {name}" for name in open_source(cell.regions)[1].missing()]
        except OvbenchError as error:
            found.append(f"regions: {error}")
    return found
