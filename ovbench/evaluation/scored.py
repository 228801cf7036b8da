"""Scores and counts in a record, and the scores that follow from the counts."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

from pydantic import Field

from ovbench.metrics.confusion import ClassPixels, Confusion
from ovbench.metrics.iou import scores
from ovbench.metrics.named import METRICS, PIXELS, RECORDED, MetricClasses
from ovbench.utils.typed import Fraction, Typed

COUNTS = ClassPixels._fields
EXTRA_COUNTS = ("intersection", "predicted", "labelled")
ROUNDING = 1e-9  # largest difference of a score from the one that its counts give
Count = Annotated[int, Field(ge=0, lt=2**63)]
Bounds = Annotated[list[Fraction], Field(min_length=2, max_length=2)]


def about(text: str, **more: Any) -> Any:
    """Return a field with its meaning."""
    return Field(description=text, **more)


class ExtraCountFields(Typed):
    """Counts of another kind than pixels by class, see docs/metrics.md for their columns."""

    intersection: list[Count] = about("right pixels")
    predicted: list[Count] = about("predicted pixels; for calibration, sum of the confidence in units of 2^-16")
    labelled: list[Count] = about("labelled pixels; for calibration, all pixels")


class CountFields(Typed):
    """Pixels by class."""

    intersection: list[Count] = about("labelled and predicted as the class")
    union: list[Count] = about("labelled or predicted as the class")
    predicted: list[Count] = about("predicted as the class")
    labelled: list[Count] = about("labelled as the class")
    boundary: ExtraCountFields | None = about("pixels near boundaries by class, if asked for", default=None)
    size: ExtraCountFields | None = about(
        "pixels of small, then medium, then large segments by class, if asked for", default=None
    )
    calibration: ExtraCountFields | None = about("pixels by bin of confidence, if asked for", default=None)


class MetricFields(Typed):
    """Scores, as fractions; null if there is nothing to score."""

    mIoU: Fraction | None = about("mean IoU over the classes with a score")
    mAcc: Fraction | None = about("mean accuracy of the classes")
    aAcc: Fraction | None = about("accuracy over all pixels")
    classes_in_mean: Count = about("classes in the mean of mIoU")
    mIoU_interval: Bounds | None = about(
        "95 % interval of mIoU, by a jackknife over images; null if it cannot be computed", default=None
    )
    mIoU_no_interval: str = about("why there is no interval", default="")
    mIoU_present: Fraction | None = about(METRICS["mIoU_present"].rule, default=None)
    mIoU_all: Fraction | None = about(METRICS["mIoU_all"].rule, default=None)
    fwIoU: Fraction | None = about(METRICS["fwIoU"].rule, default=None)
    CoI_mIoU: Fraction | None = about(METRICS["CoI_mIoU"].rule, default=None)
    sensitivity: Fraction | None = about(METRICS["sensitivity"].rule, default=None)
    specificity: Fraction | None = about(METRICS["specificity"].rule, default=None)
    boundary_mIoU: Fraction | None = about(METRICS["boundary_mIoU"].rule, default=None)
    mIoU_small: Fraction | None = about(METRICS["mIoU_small"].rule, default=None)
    mIoU_medium: Fraction | None = about(METRICS["mIoU_medium"].rule, default=None)
    mIoU_large: Fraction | None = about(METRICS["mIoU_large"].rule, default=None)
    ECE: Fraction | None = about(METRICS["ECE"].rule, default=None)
    intervals: dict[str, Bounds | None] = about(
        "95 % intervals of the other scores, by name; null if it cannot be computed", default_factory=dict
    )


class ClassFields(Typed):
    """Scores of one class, as fractions; null if there is nothing to score."""

    name: str = about("class", alias="class")
    iou: Fraction | None = about("intersection over union")
    acc: Fraction | None = about("labelled pixels that are predicted as the class")


def score_fields(
    pixels: Confusion | ClassPixels, classes: Sequence[str], known: MetricClasses | None = None,
    extra: Mapping[str, ClassPixels] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Return the fields that are computed from the counts.

    Args:
        pixels: Counts of all images.
        classes: Class names in label order.
        known: What metrics know about the classes; None if there is no background.
        extra: Other counts of all images, by name.
    """
    result, known, extra = scores(pixels), known or MetricClasses(len(classes)), extra or {}
    sums = {PIXELS: ClassPixels(*(getattr(pixels, name) for name in COUNTS)), **extra}
    others = {
        name: _number(METRICS[name].total(sums[METRICS[name].counts], known))
        for name in RECORDED
        if METRICS[name].counts in sums and not METRICS[name].why_not(known)
    }
    averaged = int(sum(not math.isnan(v) for v in result.iou))
    return {
        "counts": {
            **{name: [int(n) for n in getattr(pixels, name)] for name in COUNTS},
            **{key: {name: getattr(one, name).tolist() for name in EXTRA_COUNTS} for key, one in extra.items()},
        },
        "metrics": {
            **others, "mIoU": _number(result.miou), "mAcc": _number(result.macc), "aAcc": _number(result.aacc),
            "classes_in_mean": averaged,
        },
        "per_class": [
            {"class": name, "iou": _number(iou), "acc": _number(acc)}
            for name, iou, acc in zip(classes, result.iou, result.acc, strict=True)
        ],
    }  # fmt: skip


def _number(value: float) -> float | None:
    """Return None (null in JSON, which has no NaN) for a score without pixels."""
    return None if math.isnan(value) else float(value)


def expect_score(key: str, found: float | None, expected: float | None) -> None:
    """Raise ValueError if a score is not the one that its counts give."""
    if found is expected or (found is not None and expected is not None and abs(found - expected) <= ROUNDING):
        return
    raise ValueError(f'"{key}" is {found}, but the counts give {expected}')
