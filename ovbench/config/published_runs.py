"""The run of ovbench that reproduces a published row, from configs/published_runs.toml."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any

from pydantic import Field, Strict

from ovbench.config.suites import Value
from ovbench.utils.paths import shipped
from ovbench.utils.toml import read_toml
from ovbench.utils.typed import Items, Typed, validate

RowKey = tuple[str, str, str]  # method, variant and post-processing, as in results/published/results.csv


@dataclass(frozen=True)
class PublishedRun:
    """A method with its settings and weights, as given by ``--set`` and ``--weights``.

    ``sources`` are the tables (``reported_by``) whose figures have these settings. Other tables measured the same row
    with another protocol.
    """

    method: str
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    sources: tuple[str, ...] = ()


class PublishedRunEntry(Typed):
    """One run of configs/published_runs.toml and the ``row`` that it reproduces."""

    row: Annotated[RowKey, Strict(False)]
    method: str
    settings: dict[str, Value] = Field(default_factory=dict)
    weights: dict[str, str] = Field(default_factory=dict)
    sources: Items[str]


class PublishedRunsFile(Typed):
    """The file configs/published_runs.toml."""

    run: Items[PublishedRunEntry]


@cache
def published_runs() -> dict[RowKey, PublishedRun]:
    """Return the run of every published row, by method, variant and post-processing."""
    file = shipped("configs", "published_runs.toml")
    entries = validate(PublishedRunsFile, read_toml(file), file.name).run
    return {e.row: PublishedRun(e.method, e.settings, e.weights, e.sources) for e in entries}
