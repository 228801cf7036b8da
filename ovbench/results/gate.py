"""Regression check: new runs against the counts of a baseline, on the same images."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ovbench.evaluation.record import value_at
from ovbench.metrics.confusion import PixelCounts
from ovbench.metrics.interval import counts_in_order, jackknife, paired_difference
from ovbench.results.compare import CountedRun
from ovbench.utils.differences import Mismatch, mismatches
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.files import read_json
from ovbench.utils.registry import BACKBONES

SCHEMA = 1
TOLERANCE = 0.002  # a fraction: rounding on another machine changes single pixels, never 0.2 points
MOST_PIXELS = 2**40  # pixels in one count, more than any image has
REMEDY = "write it again: ovbench gate --update"
# fields of a cell in a baseline
KINDS = (
    ("cell.method", str, "a text"),
    ("cell.dataset", str, "a text"),
    ("cell.params", dict, "a table"),
    ("cell.protocol", dict, "a table"),
    ("cell.backbones", dict, "a table"),
    ("cell.regions", dict, "a table"),
    ("weights", dict, "a table"),
    ("classes", list, "a list of texts"),
    ("images", dict, "a table with images in it"),
)


class Verdict(NamedTuple):
    """The mIoU of a cell before and after, and its change, as fractions.

    ``low`` and ``high`` are the 95 % interval of the change, or None with the reason ``no_interval``. ``detectable`` is
    the smallest drop that is a regression on these images. ``unlike`` has the settings that differ.
    """

    name: str
    before: float
    after: float
    change: float
    low: float | None
    high: float | None
    no_interval: str
    detectable: float
    unlike: list[Mismatch]
    passed: bool


def baseline_of(runs: Sequence[CountedRun], limit: int | None) -> dict[str, Any]:
    """Return the content of a baseline file: settings, weights and counts of every image, by cell."""
    cells = [
        {
            "cell": run.record["cell"],
            "weights": run.record["weights"],
            "classes": run.record["dataset"]["classes"],
            "images": {i: [part.tolist() for part in counts] for i, counts in sorted(run.counts.items())},
        }
        for run in runs
    ]
    return {"schema": SCHEMA, "limit": limit, "cells": cells}


def read_baseline(path: Path, *, counts: bool = True) -> dict[str, Any]:
    """Read a baseline; without ``counts``, its images are not checked, because its cells are measured again.

    Raises:
        InputError: For the first field that is missing or of a wrong type.
    """
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA:
        raise InputError("not a baseline of this version", where=str(path), fix=REMEDY)
    limit, cells = found.get("limit", ""), found.get("cells")
    _need(limit is None or (_whole(limit) and limit >= 2), "limit", "null or a whole number of 2 or more", path)
    _need(isinstance(cells, list) and bool(cells), "cells", "a list of cells", path)
    for number, cell in enumerate(cells):
        _check_cell(cell, f"cells[{number}]", path)
        if counts:
            _check_images(cell, f"cells[{number}].images", limit, path)
    names = [_name(cell) for cell in cells]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name} stands in the baseline twice", where=str(path), fix=REMEDY)
    return found


def _check_cell(cell: Any, where: str, path: Path) -> None:
    _need(isinstance(cell, dict), where, "a table", path)
    for key, kind, text in KINDS:
        _need(isinstance(value_at(cell, key), kind), f"{where}.{key}", text, path)
    classes = cell["classes"]
    _need(bool(classes) and all(isinstance(c, str) for c in classes), f"{where}.classes", "a list of texts", path)


def _check_images(cell: Mapping[str, Any], where: str, limit: int | None, path: Path) -> None:
    images = cell["images"]
    _need(bool(images), where, "a table with images in it", path)
    _need(limit is None or len(images) <= limit, where, f"of at most {limit} images (limit)", path)
    for image, parts in images.items():
        fits = _are_counts(parts, len(cell["classes"]))
        _need(fits, f"{where}.{image}", "three lists of whole numbers: labels, predictions, pixels", path)


def _are_counts(parts: Any, classes: int) -> bool:
    """Return whether these are three lists of equal length: labels, predictions, and positive numbers of pixels."""
    if not (isinstance(parts, list) and len(parts) == 3 and all(isinstance(part, list) for part in parts)):
        return False
    if len({len(part) for part in parts}) > 1 or not all(map(_whole, chain(*parts))):
        return False
    label, predicted, pixels = parts
    return all(0 <= n <= classes for n in (*label, *predicted)) and all(0 < n < MOST_PIXELS for n in pixels)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _need(holds: bool, key: str, kind: str, path: Path) -> None:
    if not holds:
        raise InputError(f'not a complete baseline: "{key}" is not {kind}', where=str(path), fix=REMEDY)


def _name(cell: Mapping[str, Any]) -> str:
    return f"{cell['cell']['method']} on {cell['cell']['dataset']}"


def refuse_unasked_code(cells: Sequence[Mapping[str, Any]], named: Collection[str], path: Path) -> None:
    """Refuse to run code that only the baseline names.

    Args:
        cells: Cells of the baseline.
        named: Methods that the command names.
        path: File of the baseline, for the message.

    Raises:
        UsageError: If the method of a cell is a file or a module and is not among ``named``.
    """
    for cell in cells:
        method = cell["cell"]["method"]
        if ":" in method and method not in named:
            raise UsageError(
                f'the baseline names code outside ovbench, "{method}", which runs only if you name it', where=str(path),
                fix=f'name every method of the baseline with --method, "{method}" too, if you trust it',
            )  # fmt: skip


def refuse_other_settings(
    base: Mapping[str, Any], cell: Mapping[str, Any], chosen: Collection[str], path: Path
) -> None:
    """Compare the settings of a cell with those of the baseline, except for the keys ``chosen`` with ``--set``.

    Args:
        base: The cell of the baseline.
        cell: The planned cell, as plain data.
        chosen: Keys that may differ.
        path: File of the baseline, for the message.

    Raises:
        InputError: If a setting differs.
    """
    for key, before, now in mismatches(base["cell"], cell):
        group, _, name = key.partition(".")
        if not {key, group, name} & set(chosen):
            raise InputError(
                f'setting "{key}" of {_name(base)} is {before!r} in the baseline and {now!r} now', where=str(path),
                fix="if this is intended, measure the baseline again: ovbench gate --update",
            )  # fmt: skip


def _built_here(backbone: str, spec: str) -> bool:
    """Return whether weights are computed on the machine that uses them, so their hash depends on the processor."""
    return backbone in BACKBONES.entries() and BACKBONES.load(backbone).built_here(spec)


def judge(base: Mapping[str, Any], run: CountedRun, *, tolerance: float = TOLERANCE, paired: bool = True) -> Verdict:
    """Compare a run with its cell of the baseline, on the images of the baseline.

    Args:
        base: The cell of the baseline.
        run: The new run.
        tolerance: Largest allowed loss of mIoU, as a fraction.
        paired: Whether a drop must also be significant to fail, if an interval can be computed (see
            `ovbench.metrics.interval.miou_interval`).

    Raises:
        UsageError: If the tolerance is not a fraction.
        InputError: If images are missing in the run, or classes or weights differ.
    """
    if not 0 <= tolerance <= 1:
        raise UsageError(f"the tolerance is {tolerance}, not a fraction between 0 and 1")
    name = _name(base)
    ids = sorted(base["images"])
    lacking = [i for i in ids if i not in run.counts]
    if lacking:
        raise InputError(f"{len(lacking)} images of the baseline are not scored, first {lacking[0]}", where=name)
    if run.record["dataset"]["classes"] != base["classes"]:
        raise InputError("the classes differ from those of the baseline", where=name, fix=REMEDY)
    for kind in base["cell"]["backbones"]:
        before, now = base["weights"].get(kind, {}), run.record["weights"].get(kind, {})
        if before != now and not (before.get("name") == now.get("name") and _built_here(kind, before["name"])):
            raise InputError(f'the weights of "{kind}" are not those of the baseline', where=name, fix=REMEDY)
    classes = len(base["classes"])
    before = counts_in_order(
        {i: PixelCounts(*(np.array(p, dtype=np.int64) for p in parts)) for i, parts in base["images"].items()},
        ids, classes,
    )  # fmt: skip
    after = counts_in_order(run.counts, ids, classes)
    d = paired_difference(before, after)
    bounds = d.interval if paired else None
    regressed = -d.miou > tolerance and (bounds is None or bounds.high < 0)
    return Verdict(
        name, jackknife(before).miou, jackknife(after).miou, d.miou,
        None if d.interval is None else d.interval.low, None if d.interval is None else d.interval.high, d.why,
        max(tolerance, 0.0 if bounds is None else bounds.half), mismatches(base["cell"], run.record["cell"]),
        not regressed,
    )  # fmt: skip
