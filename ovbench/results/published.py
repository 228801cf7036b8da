"""Published results, as data: results/published/results.csv, one figure a row with its source."""

from __future__ import annotations

import csv
from typing import NamedTuple

from ovbench.errors import InputError
from ovbench.resources import shipped


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


def published_results() -> list[Published]:
    """Every row. InputError where the file is missing or has other columns."""
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
