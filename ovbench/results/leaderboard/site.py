"""Write the leaderboard as a static site: an overview, a page per method and per benchmark, and a page of cost."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ovbench.config.load import resolve
from ovbench.config.method_files import method_heading
from ovbench.config.official import no_official_setting
from ovbench.config.setting_changes import setting_text
from ovbench.data.card import list_cards, load_card
from ovbench.evaluation.record import warnings_of
from ovbench.results.explain import setting_rows
from ovbench.results.leaderboard.board_rows import (
    BoardRow,
    benchmarks,
    board_rows,
    file_stem,
    page_names,
    seconds_per_image,
)
from ovbench.results.leaderboard.resources import Resources
from ovbench.results.leaderboard.scatter import Point, scatter
from ovbench.results.published import read_published
from ovbench.results.record_files import RecordFile
from ovbench.results.report.rerun_command import command_of
from ovbench.results.tables import TableCell
from ovbench.utils.errors import UsageError
from ovbench.utils.files import write_bytes, write_json
from ovbench.utils.html import html_templates
from ovbench.utils.paths import asset
from ovbench.utils.registry import METHODS
from ovbench.utils.version import package_version

PICTURES = 4  # of a record
TOO_LARGE = 2_000_000  # bytes of a picture
FILTERS = {
    "weights": "Image-text weights", "size": "Size", "towers": "Other towers", "masks": "Masks",
    "supervision": "Supervision", "refinement": "Refinement",
}  # fmt: skip


@dataclass
class _Site:
    """What the pages share.

    ``records`` and ``files`` (the name of each record in the site) are by path, ``pages`` and ``columns`` are the file
    names of methods and benchmarks.
    """

    out: Path
    rows: list[BoardRow]
    records: dict[str, RecordFile]
    files: dict[str, str]
    pages: dict[str, str]
    columns: dict[str, str]
    templates: Any = field(default_factory=lambda: html_templates("leaderboard"))

    def write(self, file: str, template: str, /, **values: Any) -> None:
        up = "../" * file.count("/")
        page = self.templates.get_template(template).render(
            up=up, version=package_version(), files=self.files, columns=self.columns, **values
        )
        write_bytes(self.out / file, page.encode())


def write_site(records: Sequence[RecordFile], out: Path) -> list[Path]:
    """Write the site; pages of an earlier site in the folder are replaced.

    Args:
        records: Records with a score.
        out: Folder of the site.

    Returns:
        The pages.

    Raises:
        UsageError: If the folder has files that no leaderboard wrote.
    """
    marker = out / "leaderboard.json"
    if out.is_dir() and any(out.iterdir()) and not marker.is_file():
        raise UsageError("the folder is not empty and no leaderboard", where=str(out), fix="give a new folder as --out")
    for folder in ("methods", "benchmarks", "records", "pictures"):
        shutil.rmtree(out / folder, ignore_errors=True)
    rows, by_path = board_rows(records), {str(f.path): f for f in records}
    site = _Site(out, rows, by_path, _record_files(records), page_names(), _columns(rows))
    write_json(marker, {"ovbench": package_version(), "rows": len(site.rows), "records": len(records)})
    for path, name in site.files.items():
        write_json(out / "records" / name, site.records[path].record)
    for name in ("site.css", "site.js"):
        write_bytes(out / name, asset("leaderboard", name).read_bytes())
    _write_index(site)
    for page, methods in _methods(site).items():
        _write_method(site, page, methods)
    for name in site.columns:
        _write_benchmark(site, name)
    _write_cost(site)
    return sorted(out.rglob("*.html"))


def _columns(rows: Sequence[BoardRow]) -> dict[str, str]:
    """Return the file name of each benchmark: those of users that records name, then the shipped ones."""
    files = {name: name for name in benchmarks()}
    own = sorted({name for row in rows for name in row.cells} - files.keys())
    for name in own:
        files[name] = file_stem(name, files.values())
    return {name: files[name] for name in (*own, *benchmarks())}


def _record_files(records: Sequence[RecordFile]) -> dict[str, str]:
    """Return a file name for each record by its path."""
    names: dict[str, str] = {}
    for found in records:
        taken = {name.removesuffix(".json") for name in names.values()}
        names[str(found.path)] = f"{file_stem(found.path.stem, taken)}.json"
    return names


def _write_index(site: _Site) -> None:
    runnable = [row for row in site.rows if row.reported_by and row.state in ("measured", "not measured")]
    named = [(found.record["cell"]["dataset"], found.record) for found in site.records.values()]
    options = {
        name: sorted({value for row in site.rows for value in getattr(row.resources, name)})
        for name in Resources._fields
    }
    site.write(
        "index.html", "index.html", rows=site.rows, filters=FILTERS, options=options,
        states=list(dict.fromkeys(row.state for row in site.rows)), runnable=len(runnable),
        measured=sum(row.state == "measured" for row in runnable),
        published=sum(bool(row.reported_by) for row in site.rows),
        real=sorted({name for name, record in named if not record.get("notes")} - {"mini", "mini-bg"}),
        warnings=warnings_of(record for _, record in named),
    )  # fmt: skip


def _methods(site: _Site) -> dict[str, list[str]]:
    """Return the names of each page: a method of ovbench, its printed name, or both."""
    pages: dict[str, list[str]] = {}
    for name, page in site.pages.items():
        pages.setdefault(page, []).append(name)
    for row in site.rows:
        pages.setdefault(row.page, [row.method])
    return pages


def _write_method(site: _Site, page: str, names: Sequence[str]) -> None:
    own = next((name for name in names if name in METHODS.names()), "")
    heading = method_heading(own) if own else {}
    rows = [row for row in site.rows if row.page == page or (own and row.run == own)]
    sources = dict.fromkeys(f"{figure.reported_by}: {figure.source}" for row in rows for figure in row.figures.values())
    notes = dict.fromkeys(figure.note for row in rows for figure in row.figures.values() if figure.note)
    site.write(
        f"methods/{page}.html", "method.html", title=heading.get("title") or names[-1], own=own,
        paper=heading.get("paper", ""), rows=rows, sources=sorted(sources), notes=list(notes),
        settings=_settings(own, benchmarks()) if own else [], records=_records(site, rows),
        resources=_used(rows, FILTERS),
    )  # fmt: skip


def _used(rows: Sequence[BoardRow], filters: Mapping[str, str]) -> dict[str, str]:
    return {
        title: ", ".join(dict.fromkeys(value for row in rows for value in getattr(row.resources, name)))
        for name, title in filters.items()
    }


def _settings(method: str, names: Sequence[str]) -> list[dict[str, Any]]:
    """Return the settings of a method on benchmarks with their sources."""
    made = []
    for name in names:
        cell = resolve(method, name, incomplete=True)
        rows = [{**row, "value": setting_text(row["value"])} for row in setting_rows(cell)]
        made.append({"benchmark": name, "rows": rows, "unofficial": no_official_setting(method, name)})
    return made


def _records(site: _Site, rows: Sequence[BoardRow]) -> list[dict[str, Any]]:
    """Return the measured values of rows with the facts of their records."""
    made = []
    for row in rows:
        for name, cell in row.cells.items():
            if cell.record is None:
                continue
            found = site.records[cell.record]
            seconds = seconds_per_image(found.record)
            made.append(
                {"row": row, "benchmark": name, "cell": cell, "record": found.record, "seconds": seconds,
                 "command": command_of(found.record), "pictures": _pictures(site, found)}
            )  # fmt: skip
    return made


def _pictures(site: _Site, found: RecordFile) -> list[str]:
    """Copy the first drawings of a run into the site and return their names."""
    folder, stem = found.path.parent / str(found.record["ledger"]), Path(site.files[str(found.path)]).stem
    names: list[str] = []
    for picture in sorted(folder.glob("*.png"))[:PICTURES]:
        if picture.stat().st_size <= TOO_LARGE:
            name = f"{stem}-{len(names) + 1}.png"
            write_bytes(site.out / "pictures" / name, picture.read_bytes())
            names.append(name)
    return names


def _write_benchmark(site: _Site, name: str) -> None:
    card = load_card(name) if name in list_cards() else None
    rows = sorted((row for row in site.rows if name in row.cells), key=lambda row: -_best(row.cells[name]))
    frontier = [row for row in read_published("frontier") if row["benchmark"] == name]
    site.write(
        f"benchmarks/{site.columns[name]}.html", "benchmark.html", card=card, name=name, rows=rows, frontier=frontier,
        best={row["tier"]: site.pages.get(row["method"], "") for row in frontier}, plots=_plots(site, name),
        warnings=list(dict.fromkeys(note for row in rows for note in row.cells[name].notes)),
    )  # fmt: skip


def _best(cell: TableCell) -> float:
    return max(float(cell.published or 0), cell.measured or 0)


def _plots(site: _Site, name: str) -> list[dict[str, Any]]:
    """Return a plot of cost against mIoU for each device that measured the benchmark."""
    points: dict[str, list[Point]] = {}
    for row in site.rows:
        cell = row.cells.get(name)
        if cell is None or cell.record is None or cell.measured is None or cell.partial:
            continue
        record = site.records[cell.record].record
        seconds = seconds_per_image(record)
        if seconds:
            label = row.method + (f" ({row.variant})" if row.variant else "")
            device = str(record["device"].get("name") or record["device"].get("type") or "unknown device")
            points.setdefault(device, []).append(Point(seconds, cell.measured, label, f"methods/{row.page}.html"))
    return [
        scatter(found, f"seconds per image, labelling only, on {device}", f"mIoU on {name} in percent")
        for device, found in sorted(points.items())
    ]


def _write_cost(site: _Site) -> None:
    figures = read_published("efficiency")
    plots = {name: made for name in site.columns if (made := _plots(site, name))}
    latency, miou = (
        {(row["method"], row["variant"]): float(row["value"]) for row in figures if row["quantity"] == quantity}
        for quantity in ("latency (plot)", "average mIoU of 5 (plot)")
    )
    points = [Point(latency[key], miou[key], " ".join(key)) for key in latency if key in miou]
    published = scatter(points, "published latency in seconds", "average mIoU of 5 benchmarks") if points else None
    warnings = warnings_of(found.record for found in site.records.values()) if plots else []
    how = {"figures": figures, "plots": plots, "published": published, "pages": site.pages, "warnings": warnings}
    site.write("cost.html", "cost.html", **how)
