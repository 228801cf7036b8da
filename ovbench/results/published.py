"""Published figures: data in results/published/, one figure per row with its source."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from ovbench.config.official import no_official_setting
from ovbench.config.published_runs import PublishedRun, published_runs
from ovbench.utils.errors import InputError, unknown
from ovbench.utils.paths import shipped

PAS_20B = "PAS-20b"  # VOC with Pascal Context classes as background: listed as voc21, but another benchmark


class PublishedFigure(NamedTuple):
    """An mIoU in percent, as printed.

    ``postprocess`` is the refinement ("none", "pamr", ...), ``reported_by`` the table with the figure.
    """

    method: str
    variant: str
    group: str
    benchmark: str
    metric: str
    value: str
    postprocess: str
    source: str
    reported_by: str
    note: str


class Naming(NamedTuple):
    """The fields of a file that give the label of a row, its details, and its column."""

    label: str
    detail: tuple[str, ...]
    column: str


NAMING = {
    "ablations": Naming("setting", (), "benchmark"),
    "efficiency": Naming("method", ("variant", "hardware"), "quantity"),
    "mess": Naming("model", (), "name"),
    "other_metrics": Naming("method", ("variant",), "benchmark"),
}


@cache
def published_results() -> tuple[PublishedFigure, ...]:
    """Read all rows of results.csv.

    Raises:
        InputError: If the file is missing or has other columns.
    """
    path = shipped("results", "published", "results.csv")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return tuple(PublishedFigure(**row) for row in csv.DictReader(file))
    except OSError as error:
        raise InputError(f"cannot read the published results: {error.strerror}", where=str(path)) from error
    except TypeError as error:
        raise InputError(f"the columns are wrong: {error}", where=str(path)) from error


def published_for(method: str, benchmark: str, title: str) -> list[tuple[PublishedFigure, PublishedRun | None, bool]]:
    """Return all published figures of a method on a benchmark.

    Args:
        method: Name of the method in ovbench.
        benchmark: Name of the benchmark.
        title: Name of the method in papers.

    Returns:
        Each figure with its run, None if ovbench does not have the variant, and whether the figure was measured with
        the protocol of this run, which must be an official one.
    """
    found, official = [], not no_official_setting(method, benchmark)
    for row in published_results():
        if row.benchmark != benchmark or f"[{PAS_20B}" in row.note:
            continue
        run = published_runs().get((row.method, row.variant, row.postprocess))
        if (run is not None and run.method == method) or (run is None and row.method.lower() == title.lower()):
            found.append((row, run, official and run is not None and row.reported_by in run.sources))
    return sorted(found, key=lambda one: (not one[2], one[1] is None))


@cache
def read_published(name: str) -> tuple[dict[str, str], ...]:
    """Read the rows of one of the other files, by its name without suffix."""
    with shipped("results", "published", f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def figures(name: str, where: Mapping[str, Any], place: str) -> dict[tuple[str, str], dict[str, str]]:
    """Select figures of a file.

    Args:
        name: Name of the file without suffix, a key of `NAMING`.
        where: The value, or list of values, that a row must have, by field.
        place: File and key of the request, for the error message.

    Returns:
        The values by column, by (label, detail). Columns of efficiency.csv have their unit in brackets.

    Raises:
        UsageError: If the file or a field does not exist.
    """
    if name not in NAMING:
        raise unknown("file of figures", name, NAMING, where=place)
    naming = NAMING[name]
    found: dict[tuple[str, str], dict[str, str]] = {}
    for field in where:
        if field not in read_published(name)[0]:
            raise unknown(f"field of {name}.csv", field, read_published(name)[0], where=place)
    for row in read_published(name):
        if all(row[f] in ([wanted] if isinstance(wanted, str) else wanted) for f, wanted in where.items()):
            details = [row[f] for f in naming.detail if row[f] not in ("-", "not stated")]
            column = f"{row['quantity']} ({row['unit']})" if "unit" in row else row[naming.column]
            cells = found.setdefault((row[naming.label], "; ".join(details)), {})
            cells[column.removesuffix(" (assumed)")] = row["value"]
    return found
