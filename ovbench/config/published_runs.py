"""The run of ovbench that reproduces a published row, as data in configs/published_runs.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

from ovbench.utils.paths import shipped
from ovbench.utils.toml import read_toml

RowKey = tuple[str, str, str]  # method, variant and post-processing, as in results/published/results.csv


@dataclass(frozen=True)
class PublishedRun:
    """Hold a method with its settings and weights, as given by ``--set`` and ``--weights``.

    ``sources``: tables whose figures have these settings, by their ``reported_by``. Other tables measured the same row
    with another protocol.
    """

    method: str
    settings: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()


@cache
def published_runs() -> dict[RowKey, PublishedRun]:
    """Return the run of every published row, by method, variant and post-processing."""
    table = read_toml(shipped("configs", "published_runs.toml"))
    return {
        tuple(entry["row"]): PublishedRun(
            entry["method"], entry.get("settings", {}), entry.get("weights", {}), tuple(entry["sources"])
        )
        for entry in table["run"]
    }
