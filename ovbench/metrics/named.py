"""Name every score that is computed from counts, with its rule; ``mIoU`` is the rule of mmsegmentation.

I, U, P and L are the pixels of a class over all images: intersection, union, predicted and labelled.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ovbench.metrics.confusion import ClassPixels
from ovbench.utils.errors import InputError, unknown

if TYPE_CHECKING:
    from ovbench.metrics.similarity import Similarity

PIXELS = "pixels"  # the counts that every ledger has
CONFIDENCE_UNIT = 1 << 16  # a confidence of 1, as an integer


class MetricClasses(NamedTuple):
    """What metrics know about the classes of a dataset.

    Attributes:
        size: Number of classes C.
        background: Index of the background class, None if there is none.
        of_interest: Indices of the classes of interest; None for all classes except the background.
        similarity: How similar two classes are, for the metrics that use it.
    """

    size: int
    background: int | None = None
    of_interest: tuple[int, ...] | None = None
    similarity: Similarity | None = None

    @property
    def interesting(self) -> np.ndarray:
        """Return which classes are of interest, bool (C,)."""
        if self.of_interest is None:
            return np.arange(self.size) != (-1 if self.background is None else self.background)
        return np.isin(np.arange(self.size), self.of_interest)

    @property
    def positive(self) -> int:
        """Return the positive one of two classes: 1, or the other one if 1 is the background."""
        return 0 if self.background == 1 else 1


def class_list(dataset: Mapping[str, Any], similarity: Similarity | None = None) -> MetricClasses:
    """Return the classes of a record's ``dataset``."""
    chosen = dataset.get("classes_of_interest")
    return MetricClasses(
        len(dataset["classes"]), dataset["background"], None if chosen is None else tuple(chosen), similarity
    )


Members = Callable[[ClassPixels, MetricClasses], np.ndarray]


@dataclass(frozen=True)
class Metric:
    """A score of counts.

    Attributes:
        name: Its name in records and commands.
        rule: Its definition, for readers.
        counts: The counts that it needs; others than `PIXELS` are in a ledger only if they were asked for.
        two_classes: Whether it is defined for two classes only.
        similar: Whether it needs the similarity of classes.
        lower_is_better: Whether a smaller value is better.
    """

    name: str
    rule: str
    counts: str = PIXELS
    two_classes: bool = False
    similar: bool = False
    lower_is_better: bool = False

    def why_not(self, classes: MetricClasses) -> str:
        """Return why the metric does not exist for these classes, "" if it does."""
        if self.two_classes and classes.size != 2:
            return f"{self.name} is for two classes, the dataset has {classes.size}"
        if self.similar and classes.similarity is None:
            return f"{self.name} needs the similarity of classes"
        return ""

    def total(self, sums: ClassPixels, classes: MetricClasses) -> float:
        """Return the score of sums over all images, each (K,); NaN if there is nothing to score."""
        raise NotImplementedError


def _labelled_or_predicted(sums: ClassPixels, classes: MetricClasses) -> np.ndarray:
    return sums.union > 0


def _labelled(sums: ClassPixels, classes: MetricClasses) -> np.ndarray:
    return sums.labelled > 0


def _of_interest(sums: ClassPixels, classes: MetricClasses) -> np.ndarray:
    return classes.interesting


def _positive(sums: ClassPixels, classes: MetricClasses) -> np.ndarray:
    return np.arange(classes.size) == classes.positive


def _negative(sums: ClassPixels, classes: MetricClasses) -> np.ndarray:
    return np.arange(classes.size) != classes.positive


@dataclass(frozen=True)
class ClassMean(Metric):
    """The mean of part / whole over classes with a whole.

    Attributes:
        part: Field of `ClassPixels`.
        whole: Field of `ClassPixels`.
        members: Returns the classes that may be in the mean, bool (C,).
        divisor: Number by which the sum is divided: 0 for the number of classes in the mean, -1 for all classes.
        pooled: Whether the pixels of all classes are added before the division.
        group: Number of the group of classes, if the counts are of several groups of C classes.
    """

    part: str = "intersection"
    whole: str = "union"
    members: Members = _labelled_or_predicted
    divisor: int = 0
    pooled: bool = False
    group: int = 0

    def group_of(self, sums: ClassPixels, classes: MetricClasses) -> ClassPixels:
        """Return the columns of the metric's group, from sums (K,) or tables (N, K)."""
        columns = slice(self.group * classes.size, (self.group + 1) * classes.size)
        return ClassPixels(*(table[..., columns] if table.ndim == 1 else table[:, columns] for table in sums))

    def divide_by(self, labelled: np.ndarray, classes: MetricClasses) -> int | None:
        """Return the divisor of the sum over classes, None for the number of classes in the mean.

        Raises:
            InputError: If it is smaller than the number of labelled classes.
        """
        if self.divisor == 0:
            return None
        wanted, present = classes.size if self.divisor < 0 else self.divisor, int((labelled > 0).sum())
        if present > wanted:
            raise InputError(f"{self.name} divides by {wanted}, but {present} classes have labelled pixels")
        return wanted

    def total(self, sums: ClassPixels, classes: MetricClasses) -> float:
        """Return the score of sums over all images."""
        mine = self.group_of(sums, classes)
        chosen = self.members(mine, classes)
        part, whole = (getattr(mine, name)[chosen].astype(np.float64) for name in (self.part, self.whole))
        if self.pooled:
            part, whole = part.sum(keepdims=True), whole.sum(keepdims=True)
        known = whole > 0
        if not known.any():
            return float("nan")
        ratio, divisor = part[known] / whole[known], self.divide_by(mine.labelled, classes)
        return float(ratio.mean() if divisor is None else ratio.sum() / divisor)


@dataclass(frozen=True)
class FrequencyWeighted(Metric):
    """The sum of L / (sum of L) I / U over the classes with labelled pixels."""

    def total(self, sums: ClassPixels, classes: MetricClasses) -> float:
        """Return the score of sums over all images."""
        return float(frequency_weighted(sums.intersection, sums.union, sums.labelled))


def frequency_weighted(intersection: np.ndarray, union: np.ndarray, labelled: np.ndarray) -> np.ndarray:
    """Return fwIoU from sums by class, (..., C)."""
    with np.errstate(divide="ignore", invalid="ignore"):
        weighted = np.where(labelled > 0, labelled * (intersection / union), 0.0)
        return weighted.sum(-1) / labelled.sum(-1)


@dataclass(frozen=True)
class OpenMean(Metric):
    """The mean IoU with soft counts: a pixel of class i predicted as j is right by the similarity of i and j."""


@dataclass(frozen=True)
class SemanticGuided(Metric):
    """The mean IoU that accepts the parents of a class, see `ovbench.metrics.similarity.sg_iou`."""


@dataclass(frozen=True)
class CalibrationError(Metric):
    """The mean over pixels of the difference between confidence and accuracy, in bins of equal width."""

    def total(self, sums: ClassPixels, classes: MetricClasses) -> float:
        """Return the score of sums over all images."""
        return float(calibration_error(sums.intersection, sums.predicted, sums.labelled))


def calibration_error(right: np.ndarray, confidence: np.ndarray, pixels: np.ndarray) -> np.ndarray:
    """Return the calibration error from sums by bin, (..., K); ``confidence`` is in units of 1 / `CONFIDENCE_UNIT`."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.abs(right - confidence / CONFIDENCE_UNIT).sum(-1) / pixels.sum(-1)


SIZES = ("small", "medium", "large")
_ALL: tuple[Metric, ...] = (
    ClassMean("mIoU", "mean of I / U over the classes that are labelled or predicted (mmsegmentation)"),
    ClassMean("mAcc", "mean of I / L over the classes that are labelled", whole="labelled"),
    ClassMean("aAcc", "I / L with the pixels of all classes added (pixel accuracy)", whole="labelled", pooled=True),
    ClassMean(
        "mIoU_present", "mean of I / U over the classes that are labelled (detectron2 today)", members=_labelled
    ),
    ClassMean("mIoU_all", "sum of I / U divided by the number of all classes", divisor=-1),
    FrequencyWeighted("fwIoU", "mean of I / U weighted by L, over the classes that are labelled"),
    ClassMean(
        "CoI_mIoU", "mIoU over the classes of interest (MESS): those that the card names, or all but the background",
        members=_of_interest,
    ),
    ClassMean(
        "sensitivity", "I / L of the positive class, with two classes", two_classes=True, whole="labelled",
        members=_positive,
    ),
    ClassMean(
        "specificity", "I / L of the negative class, with two classes", two_classes=True, whole="labelled",
        members=_negative,
    ),
    ClassMean("boundary_mIoU", "mIoU of the pixels within d of a boundary of their own map", counts="boundary"),
    *(
        ClassMean(f"mIoU_{size}", f"mIoU of the pixels of {size} segments", counts="size", group=group)
        for group, size in enumerate(SIZES)
    ),
    CalibrationError(
        "ECE", "expected calibration error of the best class, over pixels", counts="calibration", lower_is_better=True
    ),
    OpenMean("Open_mIoU", "mIoU with soft counts by the similarity of classes (arXiv 2311.03352)", similar=True),
    SemanticGuided("SG_IoU", "mIoU that accepts the parents of a class (SCAN, arXiv 2312.04089)", similar=True),
)  # fmt: skip
METRICS: dict[str, Metric] = {metric.name: metric for metric in _ALL}
ALIASES = {"pAcc": "aAcc", "SGIoU": "SG_IoU", "OpenmIoU": "Open_mIoU"}  # other names in papers
RECORDED = tuple(name for name, metric in METRICS.items() if not metric.similar)


def parse_metric(text: str, where: str = "--metric") -> Metric:
    """Return a metric by its name; ``mIoU@N`` divides the sum of I / U by N.

    Raises:
        UsageError: If the name is unknown.

    Example:
        >>> parse_metric("pAcc").name, parse_metric("CoI-mIoU").name, parse_metric("mIoU@345").name
        ('aAcc', 'CoI_mIoU', 'mIoU@345')
    """
    name = text.replace("-", "_")
    name = ALIASES.get(name, name)
    fixed = re.fullmatch(r"mIoU@([1-9]\d{0,5})", name)
    if fixed:
        whole = METRICS["mIoU"]
        assert isinstance(whole, ClassMean)
        return replace(whole, name=name, rule=f"sum of I / U divided by {fixed[1]}", divisor=int(fixed[1]))
    if name not in METRICS:
        raise unknown("metric", text, [*METRICS, "mIoU@N"], where=where)
    return METRICS[name]
