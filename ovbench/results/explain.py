"""What a method does on a benchmark, setting by setting, and where each value comes from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ovbench.config.layers import layers_of, merge, method_config
from ovbench.config.load import Cell, resolve
from ovbench.data.card import load_card, vocabulary
from ovbench.results.found import run_changes
from ovbench.results.published import NOT_STATED, Published, official_settings
from ovbench.results.published_runs import Run, figures_of
from ovbench.results.settings_text import Change, as_text
from ovbench.results.standing import Standing, published_cell, standing
from ovbench.training.descriptions import stand_in
from ovbench.utils.errors import OvbenchError

THESE, DEVIATING = "these", "these but for what deviates"


def explain(
    method: str,
    dataset: str,
    overrides: Mapping[str, str] | None = None,
    backbones: Mapping[str, str] | None = None,
    protocol: str = "paper",
) -> dict[str, Any]:
    """Tell all there is to tell of a pair, whether or not it can run.

    Returns:
        ``settings``: rows of table, setting, value, ``published`` (see `_published`), the file that decides it, and the
        publication it follows. ``standing``: how that compares with the published runs, in a sentence, "" where there
        is nothing to say. ``published``: the figures that the literature reports for the pair, in percent, and whether
        each was measured with these settings. ``missing``: what is needed and not given or not on this machine.
    """
    cell = resolve(method, dataset, overrides, backbones, protocol, incomplete=True)
    decided_by = merge(layers_of(method, dataset, protocol)).decided_by
    given = {*(overrides or {}), *(f"backbones.{name}" for name in backbones or {})}
    plain, stands = cell.as_dict(), _standing(cell)
    rows = []
    for table, values in plain.items():
        for key, value in values.items() if isinstance(values, dict) else ():
            layer = decided_by.get((table, key))
            name = {"regions": "regions" if key == "source" else f"regions.{key}"}.get(table, key)
            if name in given or f"{table}.{key}" in given:
                origin, source = "the command line", ""
            elif layer is not None:
                origin, source = layer.origin, layer.source
            else:
                origin, source = "default", ""
            published = _published(method, dataset, table, key, name, stands)
            row = {"table": table, "setting": key, "value": value, "published": published}
            rows.append({**row, "from": origin, "source": source})
    return {
        "method": method, "dataset": dataset, "protocol": protocol, "settings": rows, "standing": stands.sentence(),
        "published": _figures(method, dataset, stands), "missing": _missing(cell),
    }  # fmt: skip


def _standing(cell: Cell) -> Standing:
    card = load_card(cell.dataset)
    names = vocabulary(card, cell.protocol.vocabulary or None)
    return standing(cell.as_dict(), None, stand_in(cell.protocol.descriptions, names, card.background))


def _published(method: str, dataset: str, table: str, key: str, name: str, stands: Standing) -> str:
    """As here, or the value of the nearest published run where it is another; "not stated" where the official code
    does not say it, "" where there is no official setting at all."""
    if stands.run is None:
        return ""
    changed: dict[str, Change] = {change.setting: change for change in stands.deviations}
    if name in changed:
        return as_text(changed[name].expected)
    if table == "regions" and "regions" in changed:
        return "-"
    stated = official_settings()[method, dataset].get(f"{table}.{key}")
    return "not stated" if stated == NOT_STATED else "as here"


def _figures(method: str, dataset: str, stands: Standing) -> list[dict[str, str]]:
    """Published figures; ``settings`` says whether they were measured with these settings."""
    title = method_config(method).get("title", method)
    wanted = ("value", "variant", "postprocess", "reported_by", "note")
    found = [
        {**{key: getattr(row, key) for key in wanted}, "settings": _of_these(dataset, row, run, in_protocol, stands)}
        for row, run, in_protocol in figures_of(method, dataset, title)
    ]
    return sorted(found, key=lambda row: row["settings"] not in (THESE, DEVIATING))


def _of_these(dataset: str, row: Published, run: Run | None, in_protocol: bool, stands: Standing) -> str:
    if run is None:
        return "of a variant that ovbench does not have"
    if not in_protocol:
        return "no official setting" if stands.remark else "another protocol"
    if stands.run is not None and not run_changes(*(published_cell(one, dataset) for one in (run, stands.run))):
        return THESE if row.reported_by in stands.sources else DEVIATING
    told = [f"{key}={as_text(value)}" for key, value in {**run.weights, **run.settings}.items()]
    return "with " + ", ".join(told) if told else "the method's own"


def _missing(cell: Cell) -> list[str]:
    """What the cell needs that is not given, or not on this machine."""
    from ovbench.backbones.build import missing_weights
    from ovbench.regions.provider import open_source

    told = []
    for kind, spec in cell.backbones.items():
        if spec is None:
            how = "--set reference=FOLDER, from: ovbench reference build" if kind == "reference" else ""
            told.append(f"{kind}: not given ({how or f'--weights {kind}=MODEL'})")
            continue
        try:
            told += missing_weights({kind: spec})
        except OvbenchError as error:
            told.append(f"{kind}: {error}")
    if cell.regions:
        try:
            told += [f"regions: {name}" for name in open_source(cell.regions)[1].missing()]
        except OvbenchError as error:
            told.append(f"regions: {error}")
    return told
