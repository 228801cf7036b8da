"""Regression check: runs of today against the counts of a baseline, image by image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from rich.table import Table

from ovbench.errors import InputError
from ovbench.metrics.counts import PixelCounts
from ovbench.metrics.stats import (
    counts_in_order,
    iou_of_draws,
    miou_of_draws,
    paired_difference,
)
from ovbench.results.compare import Run, unlike_settings
from ovbench.results.store import read_json, write_bytes

SCHEMA = 1
TOLERANCE = 0.002  # a fraction: rounding on another machine flips single pixels, never a fifth of a point
NORMAL_95 = 1.96


class Verdict(NamedTuple):
    """One cell: mIoU ``before`` and ``after`` (fractions), their ``change`` with its 95 % interval, the smallest drop
    that these images can show beyond chance, the settings that differ, and whether it passes."""

    name: str
    before: float
    after: float
    change: float
    low: float
    high: float
    detectable: float
    unlike: list[tuple[str, Any, Any]]
    passed: bool


def baseline_of(runs: Sequence[Run], limit: int | None) -> dict[str, Any]:
    """What a baseline file holds: per cell its settings and weights, and the counts of every image."""
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


def read_baseline(path: Path) -> dict[str, Any]:
    """InputError for a file that is no baseline of this version."""
    found = read_json(path)
    if not isinstance(found, dict) or found.get("schema") != SCHEMA or not isinstance(found.get("cells"), list):
        raise InputError("not a baseline of this version", where=str(path), fix="write it anew: ovbench gate --update")
    return found


def judge(base: Mapping[str, Any], run: Run, *, tolerance: float = TOLERANCE, paired: bool = True) -> Verdict:
    """Compare a run with the baseline of its cell on the baseline's images.

    ``paired``: a drop fails if it is larger than the tolerance and beyond chance; otherwise if it is larger than the
    tolerance. InputError where the run lacks images or has other classes.
    """
    name = f"{base['cell']['method']} on {base['cell']['dataset']}"
    ids = sorted(base["images"])
    lacking = [i for i in ids if i not in run.counts]
    if lacking:
        raise InputError(f"{len(lacking)} images of the baseline were not scored, first {lacking[0]}", where=name)
    if run.record["dataset"]["classes"] != base["classes"]:
        raise InputError("the classes are not those of the baseline", where=name, fix="update the baseline")
    classes = len(base["classes"])
    before = counts_in_order(
        {i: PixelCounts(*(np.array(p, dtype=np.int64) for p in parts)) for i, parts in base["images"].items()},
        ids, classes,
    )  # fmt: skip
    after = counts_in_order(run.counts, ids, classes)
    d = paired_difference(before, after, np.random.default_rng(0))
    once = np.ones((1, len(ids)), dtype=np.int64)
    miou = [float(miou_of_draws(iou_of_draws(counts, once))[0]) for counts in (before, after)]
    regressed = -d.miou > tolerance and (not paired or d.interval.high < 0)
    return Verdict(
        name, miou[0], miou[1], d.miou, d.interval.low, d.interval.high,
        max(tolerance, NORMAL_95 * d.interval.deviation if paired else 0.0),
        unlike_settings(base["cell"], run.record["cell"]), not regressed,
    )  # fmt: skip


def verdict_rows(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """Percentages as text, one row per cell."""
    return [
        [v.name, f"{100 * v.before:.2f}", f"{100 * v.after:.2f}", f"{100 * v.change:+.2f}",
         f"{100 * v.low:+.2f} to {100 * v.high:+.2f}", f"{100 * v.detectable:.2f}", "pass" if v.passed else "FAIL"]
        for v in verdicts
    ]  # fmt: skip


HEADINGS = ("cell", "baseline mIoU", "now", "change", "95 %", "detects drops over", "verdict")


def verdict_table(verdicts: Sequence[Verdict]) -> Table:
    table = Table(title="regression gate", title_justify="left")
    for number, name in enumerate(HEADINGS):
        table.add_column(name, justify="right" if 0 < number < 6 else "left", overflow="fold")
    for row in verdict_rows(verdicts):
        table.add_row(*row)
    return table


def markdown(verdicts: Sequence[Verdict]) -> str:
    """For a pull request."""
    lines = ["| " + " | ".join(HEADINGS) + " |", "|" + "---|" * len(HEADINGS)]
    lines += ["| " + " | ".join(row) + " |" for row in verdict_rows(verdicts)]
    for v in verdicts:
        lines += [f"\n{v.name}: setting `{key}` was `{a}`, is `{b}`" for key, a, b in v.unlike]
    return "\n".join(lines) + "\n"


def write_junit(path: Path, verdicts: Sequence[Verdict]) -> None:
    """JUnit XML: one test case per cell."""
    failures = sum(not v.passed for v in verdicts)
    suite = ElementTree.Element("testsuite", name="ovbench gate", tests=str(len(verdicts)), failures=str(failures))
    for v in verdicts:
        case = ElementTree.SubElement(suite, "testcase", classname="ovbench.gate", name=v.name)
        if not v.passed:
            text = f"mIoU fell from {100 * v.before:.2f} to {100 * v.after:.2f}"
            ElementTree.SubElement(case, "failure", message=text)
    write_bytes(path, ElementTree.tostring(suite, encoding="utf-8", xml_declaration=True))
