"""What a planned run will do: images and windows, earlier counts, missing weights, and an estimate of its cost."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.backbones.build import missing_weights
from ovbench.data.decode import image_size
from ovbench.evaluation.due_images import due_images, started
from ovbench.evaluation.earlier_cost import EarlierCost, earlier_cost, read_records
from ovbench.evaluation.identity import ledger_header, run_name
from ovbench.evaluation.ledger import read_header, read_ledger
from ovbench.evaluation.plan import PlannedCell
from ovbench.inference.sliding_window import window_grid
from ovbench.regions.base import open_source
from ovbench.regions.map_store import SUFFIX, RegionStore
from ovbench.utils import provenance as env
from ovbench.utils.differences import mismatches
from ovbench.utils.errors import InputError
from ovbench.utils.folders import is_remote
from ovbench.utils.images import resized_size
from ovbench.utils.paths import cache_root, real_path
from ovbench.utils.registry import METHODS
from ovbench.utils.text import size_text

SAMPLE = 32  # images whose sizes are read
UNKNOWN = ("format", "weights.", "use.", "files.", "execution.batch")  # keys of a header that need the networks


class CellForecast(NamedTuple):
    """What will happen with a planned cell.

    Attributes:
        cell: The cell.
        windows: Number of windows of all images, from the sizes of a sample.
        counted: Number of images with counts that are used.
        when: Start of the run that counted the last of them.
        changed: Number of images whose files have changed since.
        other: Why the counts of another ledger are not used, "" if there is none.
        missing: Weights that must be downloaded or are missing.
        region_maps: Number of region maps of the source in the cache; None if the method needs none, or without its
            weights.
        estimate: From an earlier record of the method on this device; None if there is none.
    """

    cell: PlannedCell
    windows: int
    counted: int
    when: str
    changed: int
    other: str
    missing: tuple[str, ...]
    region_maps: int | None
    estimate: EarlierCost | None

    @property
    def images(self) -> int:
        """Number of images of the cell."""
        return len(self.cell.wanted_numbers)

    @property
    def seconds(self) -> float | None:
        """Estimated time for the images that must be counted."""
        return None if self.estimate is None else self.estimate.seconds * (self.images - self.counted)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        found = self._asdict() | {
            "cell": self.cell.cell.as_dict(), "label": self.cell.label, "images": self.images, "seconds": self.seconds,
            "device": self.cell.device, "missing": list(self.missing), "deviations": self.cell.published.sentence(),
        }  # fmt: skip
        estimate = found.pop("estimate")
        return found | {
            "memory_bytes": estimate and estimate.memory,
            "estimated_from": estimate and str(estimate.record),
        }

    def lines(self) -> list[str]:
        """Return sentences for the user."""
        what = f"{self.windows} windows; "
        if self.counted:
            what += f"{self.counted} of {self.images} images counted {self.when[:16].replace('T', ' ')} UTC"
        else:
            what += "none counted"
        what += f", {self.changed} changed since" if self.changed else ""
        what += f"; an earlier run is not used: {self.other} differs" if self.other else ""
        if self.seconds is not None and self.estimate is not None:
            what += f"; about {duration(self.seconds)}"
            what += f", {size_text(self.estimate.memory)} of memory" if self.estimate.memory else ""
            what += f", as in {self.estimate.record.name}"
        lines = [what, *(f"missing: {name}" for name in self.missing)]
        if self.region_maps is not None:
            lines.append(f"{self.region_maps} region maps of {self.cell.cell.regions['source']} in the cache")
        return lines


def forecast(cells: Iterable[PlannedCell], out: Path) -> list[CellForecast]:
    """Return what a run of planned cells will do; no network is loaded.

    Args:
        cells: The planned cells.
        out: Folder of ledgers and records.
    """
    records = read_records(out)
    return [_forecast(cell, out, records) for cell in cells]


def totals(forecasts: Sequence[CellForecast], out: Path) -> str:
    """Return one sentence about all cells: images, time, and free disk space."""
    images, counted = sum(one.images for one in forecasts), sum(one.counted for one in forecasts)
    known = [one.seconds for one in forecasts if one.seconds is not None]
    time = f"; about {duration(sum(known))}" if known else "; no earlier run to estimate the time from"
    if known and len(known) < len(forecasts):
        time += f" for {len(known)} of the cells"
    disks = (folder for folder in (out, cache_root()) if not is_remote(folder))
    free = {str(folder): shutil.disk_usage(_existing(folder)).free for folder in disks}
    disk = ", ".join(f"{size_text(size)} free in {folder}" for folder, size in free.items())
    cell = "cell" if len(forecasts) == 1 else "cells"
    return f"in all: {len(forecasts)} {cell}, {images} images, {images - counted} to count{time}; {disk}"


def duration(seconds: float) -> str:
    """Return a time in the largest fitting unit.

    Example:
        >>> duration(40), duration(600), duration(7300)
        ('40 s', '10 min', '2.0 h')
    """
    if seconds < 90:
        return f"{max(1, round(seconds))} s"
    return f"{round(seconds / 60)} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"


def _existing(folder: Path) -> Path:
    folder = real_path(folder)
    return next(above for above in (folder, *folder.parents) if above.is_dir())


class _NoNetworks:
    """Stands for a pipeline whose networks are not loaded, see `ledger_header`."""

    loaded: dict[str, Any] = {}  # noqa: RUF012


def _forecast(cell: PlannedCell, out: Path, records: Sequence[tuple[Path, dict[str, Any]]]) -> CellForecast:
    counted, when, changed, other = _earlier(cell, out)
    how = cell.execution
    device = env.device_name(cell.device, how.precision, compiled=how.compiled)
    estimate = earlier_cost(cell.cell, records, device)
    return CellForecast(
        cell, _windows(cell), counted, when, changed, other, _missing(cell), _region_maps(cell), estimate
    )


def _region_maps(cell: PlannedCell) -> int | None:
    """Return the number of maps in the cache; None without a cache, or if its name needs weights that are missing."""
    if not cell.cell.regions:
        return None
    name, source = open_source(cell.cell.regions)
    try:
        return len(list(RegionStore(name, source).folder.rglob(f"*{SUFFIX}"))) if source.cached else None
    except InputError:
        return None
    except OSError:  # the cache of another user
        return 0


def _missing(cell: PlannedCell) -> tuple[str, ...]:
    module = METHODS.load(cell.cell.method).__module__
    absent: list[str] = []
    for find in (
        lambda: missing_weights(cell.cell.backbones, module),
        lambda: open_source(cell.cell.regions)[1].missing() if cell.cell.regions else [],
    ):
        try:
            absent += find()
        except InputError as error:
            absent.append(str(error))
    return tuple(dict.fromkeys(absent))


def _windows(cell: PlannedCell) -> int:
    """Return the number of windows, scaled from a sample of images."""
    numbers, protocol = cell.wanted_numbers, cell.cell.protocol
    sample = numbers[:: max(1, len(numbers) // SAMPLE)][:SAMPLE]
    sizes = [size for number in sample if (size := image_size(cell.dataset.items[number].image_path)) is not None]
    shapes = [resized_size(size, protocol.short_side, protocol.long_side) for size in sizes]
    windows = [len(window_grid(size, protocol.crop, protocol.stride)) for size in shapes]
    return round(sum(windows) / len(windows) * len(numbers)) if windows else 0


def _earlier(cell: PlannedCell, out: Path) -> tuple[int, str, int, str]:
    """Return images with counts, when the last was counted, changed images, and why another ledger is not used."""
    expected = ledger_header(cell, _NoNetworks())  # type: ignore[arg-type]
    other = ""
    for folder in sorted(out.glob(f"{run_name(expected)[:-8]}*/"), key=lambda path: path.stat().st_mtime, reverse=True):
        header = read_header(folder)
        if header is None:
            continue
        found = [each.key for each in mismatches(header, expected) if not f"{each.key}.".startswith(UNKNOWN)]
        if found:
            other = other or found[0]
            continue
        ledger = read_ledger(folder, header)
        images = due_images(cell.dataset, ledger, cell.wanted_numbers, unknown=["regions"])
        kept = [ledger.run(cell.dataset.items[number].id) for number in images.kept]
        return len(kept), max(map(started, kept), default=""), len(images.changed), ""
    return 0, "", 0, other
