"""Regression check: new runs against the counts of a baseline, on the same images."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import numpy as np
from pydantic import Field, Strict, model_validator

from ovbench.evaluation.record import CellFields, WeightFields, is_bundle, is_record, warnings_of
from ovbench.metrics.confusion import PixelCounts
from ovbench.metrics.influence import influence
from ovbench.metrics.interval import difference
from ovbench.metrics.named import METRICS, PIXELS, Metric, class_list
from ovbench.metrics.stacked import CountedImages
from ovbench.results.compare import CountedRun, counted_images, load_run
from ovbench.results.metric_values import similarity_of
from ovbench.utils.differences import Mismatch, mismatches
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.files import read_json
from ovbench.utils.registry import BACKBONES
from ovbench.utils.typed import Items, Typed, validate

SCHEMA = 1
TOLERANCE = 0.002  # a fraction: rounding on another machine changes single pixels, never 0.2 points
REMEDY = "write it again: ovbench gate --update"
ClassIndex = Annotated[int, Field(ge=0)]
Pixels = Annotated[int, Field(gt=0, lt=2**40)]  # in one count, more than any image has
CountLists = Annotated[tuple[list[ClassIndex], list[ClassIndex], list[Pixels]], Strict(False)]


class BaselineCell(Typed):
    """A cell of a baseline."""

    cell: CellFields
    weights: dict[str, WeightFields]
    classes: Annotated[list[str], Field(min_length=1)]
    images: dict[str, Any]

    @property
    def name(self) -> str:
        """The method and the dataset."""
        return f"{self.cell.method} on {self.cell.dataset}"


class Baseline(Typed):
    """A baseline, whose images may be damaged: it is enough to measure its cells again."""

    version: Literal[1] = Field(alias="schema")
    limit: Annotated[int, Field(ge=2)] | None
    cells: Annotated[Items[BaselineCell], Field(min_length=1)]

    @model_validator(mode="after")
    def _once(self) -> Baseline:
        names = [cell.name for cell in self.cells]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"{twice[0]} stands in the baseline twice")
        return self


class CountedCell(BaselineCell):
    """A cell with the counts of each image: labels, predictions and pixels."""

    images: Annotated[dict[str, CountLists], Field(min_length=1)]

    @model_validator(mode="after")
    def _counted(self) -> CountedCell:
        for image, (label, predicted, pixels) in self.images.items():
            one_each = len(label) == len(predicted) == len(pixels)
            if not one_each or max((*label, *predicted), default=0) > len(self.classes):
                raise ValueError(f'has counts of the image "{image}" that do not fit together or its classes')
        return self


class CountedBaseline(Baseline):
    """A baseline to compare with."""

    cells: Annotated[Items[CountedCell], Field(min_length=1)]

    @model_validator(mode="after")
    def _limited(self) -> CountedBaseline:
        for number, cell in enumerate(self.cells):
            if self.limit is not None and len(cell.images) > self.limit:
                raise ValueError(f'"cells[{number}].images" has more than {self.limit} images ("limit")')
        return self


class Verdict(NamedTuple):
    """A score of a cell before and after, and its change, as fractions.

    ``low`` and ``high`` are the 95 % interval of the change, or None with the reason ``no_interval``. ``detectable`` is
    the smallest drop that is a regression on these images. ``unlike`` has the settings that differ, ``warnings`` the
    notes of the new record for readers of its scores, ``similarity`` the similarity of classes that the metric uses.
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
    metric: str = "mIoU"
    warnings: tuple[str, ...] = ()
    similarity: str = ""


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


def read_baseline(path: Path, *, counts: bool = True) -> Baseline:
    """Read a baseline, or make one of a record or bundle.

    Args:
        path: The baseline, a record with its ledger beside it, or a bundle.
        counts: Whether the images of a baseline are checked; they are not needed to measure its cells again.

    Raises:
        InputError: For the first field that is missing or does not fit.
    """
    found = None if is_bundle(path) else read_json(path)
    if found is None or is_record(found):
        run = load_run(path)
        found = json.loads(json.dumps(baseline_of([run], run.record["dataset"].get("limit"))))
    return validate(CountedBaseline if counts else Baseline, found, str(path), fix=REMEDY, what="a complete baseline")


def refuse_unasked_code(cells: Sequence[BaselineCell], named: Collection[str], path: Path) -> None:
    """Refuse to run code that only the baseline names.

    Args:
        cells: Cells of the baseline.
        named: Methods that the command names.
        path: File of the baseline, for the message.

    Raises:
        UsageError: If the method of a cell is a file or a module and is not among ``named``.
    """
    for cell in cells:
        method = cell.cell.method
        if ":" in method and method not in named:
            raise UsageError(
                f'the baseline names code outside ovbench, "{method}", which runs only if you name it', where=str(path),
                fix=f'name every method of the baseline with --method, "{method}" too, if you trust it',
            )  # fmt: skip


def refuse_other_settings(base: BaselineCell, cell: Mapping[str, Any], chosen: Collection[str], path: Path) -> None:
    """Compare the settings of a cell with those of the baseline, except for the keys ``chosen`` with ``--set``.

    Args:
        base: The cell of the baseline.
        cell: The planned cell, as plain data.
        chosen: Keys that may differ.
        path: File of the baseline, for the message.

    Raises:
        InputError: If a setting differs.
    """
    for key, before, now in mismatches(base.cell.model_dump(), cell):
        group, _, name = key.partition(".")
        if not {key, group, name} & set(chosen):
            raise InputError(
                f'setting "{key}" of {base.name} is {before!r} in the baseline and {now!r} now', where=str(path),
                fix="if this is intended, measure the baseline again: ovbench gate --update",
            )  # fmt: skip


def _built_here(backbone: str, spec: str) -> bool:
    """Return whether weights are computed on the machine that uses them, so their hash depends on the processor."""
    return backbone in BACKBONES.entries() and BACKBONES.load(backbone).built_here(spec)


def refuse_unknown_counts(metric: Metric) -> None:
    """Raise UsageError if a baseline, which has pixel counts, cannot give a metric."""
    if metric.counts != PIXELS:
        raise UsageError(f"a baseline has no {metric.counts} counts for {metric.name}", where="--metric")


def judge(
    base: BaselineCell, run: CountedRun, *, tolerance: float = TOLERANCE, paired: bool = True,
    metric: Metric = METRICS["mIoU"], similarity: str | None = None,
) -> Verdict:  # fmt: skip
    """Compare a run with its cell of the baseline, on the images of the baseline.

    Args:
        base: The cell of the baseline.
        run: The new run.
        tolerance: Largest allowed loss of the metric, as a fraction.
        paired: Whether a drop must also be significant to fail, if an interval can be computed (see
            `ovbench.metrics.interval.miou_interval`).
        metric: The metric.
        similarity: Name or file of the similarity of classes, for metrics that use it.

    Raises:
        UsageError: If the tolerance is not a fraction.
        InputError: If images are missing in the run, or classes or weights differ.
    """
    if not 0 <= tolerance <= 1:
        raise UsageError(f"the tolerance is {tolerance}, not a fraction between 0 and 1")
    ids = sorted(base.images)
    lacking = [i for i in ids if i not in run.counts]
    if lacking:
        raise InputError(f"{len(lacking)} images of the baseline are not scored, first {lacking[0]}", where=base.name)
    if run.record["dataset"]["classes"] != base.classes:
        raise InputError("the classes differ from those of the baseline", where=base.name, fix=REMEDY)
    weights = {kind: one.model_dump(exclude_none=True) for kind, one in base.weights.items()}
    for kind in base.cell.backbones:
        before, now = weights.get(kind, {}), run.record["weights"].get(kind, {})
        if before != now and not (before.get("name") == now.get("name") and _built_here(kind, before["name"])):
            raise InputError(f'the weights of "{kind}" are not those of the baseline', where=base.name, fix=REMEDY)
    about = class_list(run.record["dataset"], similarity_of(run.record, metric, similarity))
    if why := metric.why_not(about):
        raise InputError(why, where=base.name)
    parts = (base.images[i] for i in ids)
    earlier = CountedImages([PixelCounts(*(np.array(p, dtype=np.int64) for p in part)) for part in parts], about.size)
    one, other = (influence(metric, images, about) for images in (earlier, counted_images(run, ids)))
    d = difference(one, other)
    bounds = d.interval if paired else None
    regressed = -d.value > tolerance and (bounds is None or bounds.high < 0)
    return Verdict(
        base.name, one.value, other.value, d.value,
        None if d.interval is None else d.interval.low, None if d.interval is None else d.interval.high, d.why,
        max(tolerance, 0.0 if bounds is None else bounds.half), mismatches(base.cell.model_dump(), run.record["cell"]),
        not regressed, metric.name, tuple(warnings_of([run.record])),
        about.similarity.stated if about.similarity else "",
    )  # fmt: skip
