"""Published figures, as data in results/published/, one figure a row with its source."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from functools import cache
from typing import Any, NamedTuple

from ovbench.utils.errors import InputError, unknown
from ovbench.utils.paths import shipped

NOT_STATED = "?"
PAS_20B = "PAS-20b"  # VOC with a background of Pascal Context classes: filed under voc21, but another benchmark


class Published(NamedTuple):
    """An mIoU in percent as printed: ``postprocess`` is what was done to the label maps ("none", "pamr", ...), and
    ``reported_by`` the table that it stands in."""

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
    """The fields of a file that name a row of a table, tell more of it, and name a column."""

    label: str
    detail: tuple[str, ...]
    column: str


NAMING = {
    "ablations": Naming("setting", (), "benchmark"),
    "efficiency": Naming("method", ("variant", "hardware"), "quantity"),
    "mess": Naming("model", (), "name"),
    "other_metrics": Naming("method", ("variant",), "benchmark"),
}


def published_results() -> list[Published]:
    """Every row of results.csv. InputError where the file is missing or has other columns."""
    path = shipped("results", "published", "results.csv")
    try:
        with path.open(newline="", encoding="utf-8") as file:
            return [Published(**row) for row in csv.DictReader(file)]
    except OSError as error:
        raise InputError(f"cannot read the published results: {error.strerror}", where=str(path)) from error
    except TypeError as error:
        raise InputError(f"unlike columns: {error}", where=str(path)) from error


def published_for(title: str, benchmark: str) -> list[Published]:
    """The figures of a method, by its title, on a benchmark; those of the method's own authors first."""
    rows = [r for r in published_results() if r.method.lower() == title.lower() and r.benchmark == benchmark]
    return sorted(rows, key=lambda row: not row.reported_by.lower().startswith(title.lower()))


@cache
def read_published(name: str) -> tuple[dict[str, str], ...]:
    """The rows of another of the files, by its name without suffix."""
    with shipped("results", "published", f"{name}.csv").open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))


def figures(name: str, where: Mapping[str, Any], place: str) -> dict[tuple[str, str], dict[str, str]]:
    """The figures of a file whose fields have the values ``where`` (one, or a list of them): by label and detail, and
    then by column; columns of efficiency.csv have their unit in brackets. UsageError for what no file has."""
    if name not in NAMING:
        raise unknown("file of figures", name, NAMING, where=place)
    naming, found = NAMING[name], {}
    for field in where:
        if field not in read_published(name)[0]:
            raise unknown(f"field of {name}.csv", field, read_published(name)[0], where=place)
    for row in read_published(name):
        if all(row[f] in ([wanted] if isinstance(wanted, str) else wanted) for f, wanted in where.items()):
            told = [row[f] for f in naming.detail if row[f] not in ("-", "not stated")]
            column = f"{row['quantity']} ({row['unit']})" if "unit" in row else row[naming.column]
            cells = found.setdefault((row[naming.label], "; ".join(told)), {})
            cells[column.removesuffix(" (assumed)")] = row["value"]
    return found


@cache
def official_settings() -> dict[tuple[str, str], dict[str, str]]:
    """By method and benchmark the official value of each setting, as text and by its dotted name ("protocol.crop").

    From configs/official.csv. `NOT_STATED` where the official code does not say it; empty where there is no official
    configuration, see `no_official_setting`."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for row in _official_rows():
        here = found.setdefault((row["method"], row["benchmark"]), {})
        if row["key"]:
            here[row["key"]] = row["value"]
    return found


def no_official_setting(method: str, benchmark: str) -> str:
    """Why there is no official configuration for a known pair; "" where there is one, or the pair is unknown."""
    rows = (row for row in _official_rows() if (row["method"], row["benchmark"]) == (method, benchmark))
    return next((row["source"] for row in rows if not row["key"]), "")


def published_label_rule(benchmark: str) -> str:
    """How the published figures of a benchmark count void pixels: "official" where the published code and a correct
    count differ."""
    return "official" if benchmark in _official_rules() else "correct"


@cache
def _official_rules() -> frozenset[str]:
    return frozenset(row["benchmark"] for row in _official_rows() if row["key"] == "label_rule")


@cache
def _official_rows() -> tuple[dict[str, str], ...]:
    with shipped("configs", "official.csv").open(newline="", encoding="utf-8") as file:
        return tuple(csv.DictReader(file))
