"""The drop of each row of a suite from its baseline, with mean and spread of each group of rows."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from statistics import fmean
from typing import Any, NamedTuple

from rich.table import Table

from ovbench.config.load import resolve
from ovbench.config.suites import SuiteGroups, load_suite, suite_groups
from ovbench.results.console import percent, plain
from ovbench.results.markdown import escape, table_head, table_row
from ovbench.results.record_files import RecordFile, newest
from ovbench.utils.errors import InputError, OvbenchError, UsageError


class DropRow(NamedTuple):
    """A row of the table, or the mean of a group of rows.

    Attributes:
        method: The method.
        dataset: The dataset.
        label: Label of the row, or a text about its group.
        miou: mIoU, a fraction; None if there is nothing to score.
        drop: The baseline's mIoU minus this one; None without a baseline.
        relative: The drop divided by the baseline's mIoU.
        spread: Smallest and largest mIoU of a group; None for a row.
        partial: Whether a part of the benchmark was scored.
    """

    method: str
    dataset: str
    label: str
    miou: float | None
    drop: float | None = None
    relative: float | None = None
    spread: tuple[float, float] | None = None
    partial: bool = False

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        return {**self._asdict(), "spread": None if self.spread is None else list(self.spread)}


def drop_rows(
    records: Sequence[Mapping[str, Any]], labels: Mapping[str, str], suite: SuiteGroups
) -> list[DropRow]:  # fmt: skip
    """Return the rows of every method and dataset, then the mean of each group.

    Args:
        records: The records of a suite.
        labels: Labels of the rows by settings hash.
        suite: The baseline and the groups of the suite.
    """
    found: list[DropRow] = []
    keys = dict.fromkeys((record["cell"]["method"], record["cell"]["dataset"]) for record in records)
    for method, dataset in keys:
        mine = [one for one in records if (one["cell"]["method"], one["cell"]["dataset"]) == (method, dataset)]
        base = next((one for one in mine if labels.get(one["settings_sha256"]) == suite.baseline), None)
        start = base["metrics"]["mIoU"] if base is not None and suite.baseline else None
        rows = [_row(one, labels[one["settings_sha256"]], start) for one in mine if one["settings_sha256"] in labels]
        found += [*rows, *_means(rows, suite.groups)]
    return found


def _row(record: Mapping[str, Any], label: str, start: float | None) -> DropRow:
    cell, miou = record["cell"], record["metrics"]["mIoU"]
    drop = None if start is None or miou is None else start - miou
    partial = record["status"] != "complete" or record["dataset"]["images"] < record["dataset"]["split_images"]
    relative = None if drop is None or not start else drop / start
    return DropRow(cell["method"], cell["dataset"], label, miou, drop, relative, None, partial)


def _means(rows: Sequence[DropRow], groups: Mapping[str, str]) -> Iterator[DropRow]:
    for group in dict.fromkeys(filter(None, groups.values())):
        wanted = [label for label, name in groups.items() if name == group]
        members = [row for row in rows if row.label in wanted and row.miou is not None]
        if len(members) < 2:
            continue
        values, drops, relatives = ([v for v in column if v is not None] for column in zip(
            *((row.miou, row.drop, row.relative) for row in members), strict=True
        ))  # fmt: skip
        missing = "" if len(members) == len(wanted) else f" of {len(wanted)}"
        yield DropRow(
            members[0].method, members[0].dataset, f"mean of {group} ({len(members)}{missing})", fmean(values),
            fmean(drops) if len(drops) == len(members) else None,
            fmean(relatives) if len(relatives) == len(members) else None,
            (min(values), max(values)), any(row.partial for row in members),
        )  # fmt: skip


def suite_drops(
    suite: str, records: Sequence[RecordFile], datasets: Sequence[str] = (), settings: Mapping[str, str] | None = None
) -> list[DropRow]:
    """Return the drops of a suite from the records that have exactly the settings of its rows.

    A record with a user's class list is not used, because its settings do not show the list.

    Args:
        suite: Name of a suite, or a TOML file.
        records: Records to choose from.
        datasets: Datasets to show; none for all with records.
        settings: Settings that replace those of every row, as the records were run with.

    Raises:
        InputError: If no record fits.
    """
    plain = [one for one in records if not one.record["dataset"].get("class_list")]
    by_digest: dict[str, list[RecordFile]] = {}
    for one in plain:
        by_digest.setdefault(one.record["settings_sha256"], []).append(one)
    keys = dict.fromkeys((one.record["cell"]["method"], one.record["cell"]["dataset"]) for one in plain)
    chosen: list[dict[str, Any]] = []
    labels: dict[str, str] = {}
    for method, dataset in keys:
        if datasets and dataset not in datasets:
            continue
        for digest, label in _digests(suite, method, dataset, settings or {}).items():
            if best := newest(by_digest.get(digest, [])):
                chosen.append(best.record)
                labels[digest] = label
    if not chosen:
        fix = f"run: ovbench eval --suite {suite}; give --set here as it was given there"
        raise InputError("no record has the settings of a row", where=suite, fix=fix)
    return drop_rows(chosen, labels, suite_groups(suite))


def _digests(suite: str, method: str, dataset: str, settings: Mapping[str, str]) -> dict[str, str]:
    """Return the labels of a method's rows by the settings hash."""
    try:
        rows = load_suite(suite, [dataset], settings)
    except UsageError:  # the suite names no method
        rows = load_suite(suite, [dataset], settings, methods=[method])
    found = {}
    for row in rows:
        if row.method == method:
            try:
                found[resolve(method, dataset, row.overrides, row.weights).digest()] = row.label
            except OvbenchError:
                continue  # a row that needs something that is not given, such as a reference set
    return found


def drop_page(rows: Sequence[DropRow]) -> str:
    """Return the rows as a Markdown table, in percent."""
    lines = table_head(("method", "benchmark", "row", "mIoU", "drop", "relative", "spread"), left=3)
    for row in rows:
        spread = "" if row.spread is None else f"{100 * row.spread[0]:.2f} to {100 * row.spread[1]:.2f}"
        values = [None if value is None else f"{100 * value:.2f}" for value in (row.miou, row.drop)]
        relative = "-" if row.relative is None else f"{100 * row.relative:.1f} %"
        shown = (values[0] or "-") + (" (partial)" if row.partial else "")
        lines.append(table_row(map(escape, [
            row.method, row.dataset, row.label, shown, values[1] or "-", relative, spread,
        ])))  # fmt: skip
    return "\n".join(lines) + "\n"


def drop_table(rows: Sequence[DropRow]) -> Table:
    """Return a table with mIoU and its drop from the baseline of a suite, in points and relative."""
    partial = "; *: only part of the benchmark was scored" if any(row.partial for row in rows) else ""
    table = Table(title=f"drop of mIoU from the baseline, in points and relative{partial}", title_justify="left")
    varied = [name for name in ("method", "dataset") if len({getattr(row, name) for row in rows}) > 1]
    for name in (*varied, "row"):
        table.add_column(name, overflow="fold")
    for name in ("mIoU", "drop", "relative", "spread"):
        table.add_column(name, justify="right")
    for row in rows:
        relative = "-" if row.relative is None else f"{100 * row.relative:.1f} %"
        spread = "" if row.spread is None else " - ".join(map(percent, row.spread))
        shown = percent(row.miou) + ("*" if row.partial else "")
        names = (plain(getattr(row, name)) for name in (*varied, "label"))
        style = "bold" if row.spread else None
        table.add_row(*names, shown, percent(row.drop), relative, spread, style=style)
    return table
