"""Which run of ovbench makes the same measurement as a published row, as data in configs/published_runs.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from ovbench.results.published import PAS_20B, Published, no_official_setting, published_results
from ovbench.utils.paths import shipped
from ovbench.utils.toml import read_toml

RowKey = tuple[str, str, str]  # method, variant and post-processing, as in results.csv


@dataclass(frozen=True)
class Run:
    """A method with settings and weights as after ``--set`` and ``--weights``. ``sources``: the tables whose figures
    are of these settings, by their ``reported_by``; other tables measured the row in a protocol of their own."""

    method: str
    settings: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()


@cache
def published_runs() -> dict[RowKey, Run]:
    """By published method, variant and post-processing, the run that measures the same here."""
    table = read_toml(shipped("configs", "published_runs.toml"))
    return {
        tuple(entry["row"]): Run(
            entry["method"], entry.get("settings", {}), entry.get("weights", {}), tuple(entry["sources"])
        )
        for entry in table["run"]
    }


def figures_of(method: str, benchmark: str, title: str) -> list[tuple[Published, Run | None, bool]]:
    """Every published figure of a method on a benchmark with the run that it belongs to, and whether its table has that
    run's protocol, which must be an official one. A figure without a run is of a variant that ovbench does not have."""
    found, official = [], not no_official_setting(method, benchmark)
    for row in published_results():
        if row.benchmark != benchmark or f"[{PAS_20B}" in row.note:
            continue
        run = published_runs().get((row.method, row.variant, row.postprocess))
        if (run is not None and run.method == method) or (run is None and row.method.lower() == title.lower()):
            found.append((row, run, official and run is not None and row.reported_by in run.sources))
    return sorted(found, key=lambda one: (not one[2], one[1] is None))
