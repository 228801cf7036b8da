"""The rows of the leaderboard: published rows with measured values beside them, and rows of other records."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from functools import cache

from ovbench.config.load import method_config
from ovbench.config.published_runs import published_runs
from ovbench.data.card import list_cards
from ovbench.evaluation.record import value_at
from ovbench.results.layouts import published_layout
from ovbench.results.leaderboard.resources import NOT_STATED, Resources, resources_of_cell, resources_of_figure
from ovbench.results.published import PublishedFigure, published_results
from ovbench.results.record_files import RecordFile
from ovbench.results.tables import TableCell, layout_table, record_table
from ovbench.utils.registry import METHODS

MINI = ("mini", "mini-bg")


@dataclass(frozen=True)
class BoardRow:
    """A row of the leaderboard.

    Attributes:
        method: Name of the method, as printed, or in ovbench for a row of records.
        page: File name of the method's page, without suffix.
        variant: Networks and settings, as printed, or what distinguishes the records.
        postprocess: Refinement of a published row, otherwise "".
        reported_by: Table with the published figures, "" for a row of records.
        resources: What the method uses.
        cells: Published and measured values by benchmark.
        state: "measured", "not measured", or why ovbench cannot measure the row.
        run: Name of the method in ovbench that measures the row, otherwise "".
        figures: The published figures by benchmark, with source and note.
    """

    method: str
    page: str
    variant: str
    postprocess: str
    reported_by: str
    resources: Resources
    cells: dict[str, TableCell]
    state: str
    run: str
    figures: dict[str, PublishedFigure]

    @property
    def measured(self) -> int:
        """Return the number of measured values."""
        return sum(cell.measured is not None for cell in self.cells.values())


@cache
def benchmarks() -> tuple[str, ...]:
    """Return the names of all benchmarks with published figures, then those of mini."""
    order = dict.fromkeys(row.benchmark for row in published_results())
    return (*(name for name in order if name in list_cards()), *MINI)


def board_rows(records: Sequence[RecordFile]) -> list[BoardRow]:
    """Return the rows of records that no published row has, then all published rows.

    Args:
        records: Records with a score.
    """
    published = _published_rows(records)
    used = {cell.record for row in published for cell in row.cells.values() if cell.record}
    return [*_record_rows([found for found in records if str(found.path) not in used]), *published]


def page_names() -> dict[str, str]:
    """Return a file name for every method; a method of ovbench and its title have one page."""
    names: dict[str, str] = {}
    taken: set[str] = set()
    titles = {(method_config(name).title or name).lower(): name for name in METHODS.names()}
    for name in METHODS.names():
        names[name] = name
        taken.add(name)
    for method in dict.fromkeys(row.method for row in published_results()):
        if method.lower() in titles:
            names[method] = titles[method.lower()]
            continue
        names[method] = file_stem(method, taken)
        taken.add(names[method])
    return names


def file_stem(name: str, taken: Collection[str]) -> str:
    """Return a file name without suffix for a name, other than those that are taken.

    Example:
        >>> file_stem("SCLIP+FreeCP (a/b)", {"sclip-freecp-a-b"})
        'sclip-freecp-a-b-2'
    """
    stem = re.sub("[^a-z0-9._]+", "-", name.lower()).strip("-.") or "unnamed"
    found, number = stem, 2
    while found in taken:
        found, number = f"{stem}-{number}", number + 1
    return found


def _published_rows(records: Sequence[RecordFile]) -> list[BoardRow]:
    layout = published_layout()
    plain = replace(layout, rows=tuple(replace(row, other=None) for row in layout.rows))
    table = layout_table(plain, records)
    figures: dict[tuple[str, str, str, str], dict[str, PublishedFigure]] = {}
    for figure in published_results():
        key = (figure.reported_by, figure.method, figure.variant, figure.postprocess)
        figures.setdefault(key, {})[figure.benchmark] = figure
    made, names = [], page_names()
    for key, source, row in zip(figures, layout.rows, table.rows, strict=True):
        cells = {name: cell for name, cell in zip(table.columns, row.cells, strict=True) if _filled(cell)}
        first = next(iter(figures[key].values()))
        made.append(
            BoardRow(
                first.method, names[first.method], first.variant, first.postprocess, first.reported_by,
                resources_of_figure(first), cells, _state(key, cells), source.run.method if source.run else "",
                figures[key],
            )
        )  # fmt: skip
    return made


def _filled(cell: TableCell) -> bool:
    return cell.published is not None or cell.measured is not None


def _state(key: tuple[str, str, str, str], cells: dict[str, TableCell]) -> str:
    if any(cell.measured is not None for cell in cells.values()):
        return "measured"
    run = published_runs().get(key[1:])
    if run is None:
        return "ovbench does not have this variant"
    return "not measured" if key[0] in run.sources else "the table has another protocol"


def _record_rows(records: Sequence[RecordFile]) -> list[BoardRow]:
    """Return one row per method and what distinguishes its records."""
    if not records:
        return []
    table, made, names = record_table(records), [], page_names()
    by_path = {str(found.path): found.record for found in records}
    supervision = _supervision()
    for row in table.rows:
        cells = {name: cell for name, cell in zip(table.columns, row.cells, strict=True) if _filled(cell)}
        record = next(by_path[cell.record] for cell in cells.values() if cell.record)
        resources = resources_of_cell(record["cell"], supervision.get(row.label, NOT_STATED))
        page = names.setdefault(row.label, file_stem(row.label, names.values()))
        made.append(BoardRow(row.label, page, row.detail, "", "", resources, cells, "measured", row.label, {}))
    return made


def _supervision() -> dict[str, str]:
    """Return the supervision of each method of ovbench, from published rows that it measures or with its title."""
    groups = {(row.method, row.variant, row.postprocess): row.group for row in published_results()}
    by_title = {row.method.lower(): row.group for row in published_results()}
    found = {name: by_title.get((method_config(name).title or name).lower(), "") for name in METHODS.names()}
    found |= {run.method: groups[key] for key, run in published_runs().items() if key in groups}
    return {name: group for name, group in found.items() if group}


def seconds_per_image(record: dict) -> float | None:
    """Return the seconds of labelling per image of a record, None if they were not recorded."""
    seconds, images = value_at(record, "time.seconds.label"), record["dataset"]["images"]
    return seconds / images if seconds and images else None
