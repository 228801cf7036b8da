"""One line of progress for all cells of a job: images done, time left, and mIoU so far."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

from ovbench.evaluation.ledger import Entry, LedgerWriter
from ovbench.metrics.confusion import ClassPixels, PixelCounts, sum_by_class
from ovbench.metrics.iou import scores

EVERY_S = 0.5  # time between two values of mIoU in the line


class RunningScore:
    """The mIoU of the images so far; it stands in the place of a ledger and passes entries on to it.

    Args:
        ledger: The ledger of a cell.
        classes: Number of classes.
        counted: Counts of images that were counted before.
    """

    def __init__(self, ledger: LedgerWriter, classes: int, counted: Iterable[PixelCounts] = ()):
        self._ledger, self._classes = ledger, classes
        self._pixels = sum_by_class(list(counted), classes)

    def add(self, entry: Entry) -> None:
        """Write an entry to the ledger and add its counts."""
        self._ledger.add(entry)
        if entry.counts is not None:
            one = sum_by_class([entry.counts], self._classes)
            self._pixels = ClassPixels(*(a + b for a, b in zip(self._pixels, one, strict=True)))

    @property
    def miou(self) -> float:
        """The mIoU of all counted images, NaN before the first."""
        return scores(self._pixels).miou


class JobProgress:
    """The line on stderr; nothing is written if stderr is not a terminal, so files have no progress in them.

    Args:
        images: Number of images of all groups of cells, as far as known before they start.
        shown: Whether to show the line.
    """

    def __init__(self, images: int, *, shown: bool = True):
        disable = None if shown else True
        self._bar = tqdm(total=images, unit="image", disable=disable, dynamic_ncols=True, delay=0.01)
        self._scores: Sequence[RunningScore] = ()
        self._next = 0.0

    @property
    def shown(self) -> bool:
        """Whether the line is written."""
        return not self._bar.disable

    @contextmanager
    def group(
        self, title: str, planned: int, due: int, running: Sequence[LedgerWriter | RunningScore] = ()
    ) -> Iterator[None]:  # fmt: skip
        """Show the cells that run now; the images that were counted before leave the total.

        Args:
            title: Method and datasets.
            planned: Number of images of the group that the total has.
            due: Number of images that must run.
            running: The score of each cell.
        """
        self._scores, self._next = [one for one in running if isinstance(one, RunningScore)], 0.0
        if self._bar.total is not None:
            self._bar.total = max(self._bar.n, self._bar.total - planned + due)
        self._bar.set_description(title)
        try:
            yield
        finally:
            self._scores = ()
            self._bar.clear()  # lines about the cells follow

    def advance(self) -> None:
        """Count an image."""
        if not self._bar.disable and self._scores and time.monotonic() >= self._next:
            values = [score.miou for score in self._scores]
            shown = ", ".join("-" if math.isnan(value) else f"{100 * value:.2f}" for value in values)
            self._bar.set_postfix_str(f"mIoU {shown}", refresh=False)
            self._next = time.monotonic() + EVERY_S
        self._bar.update()

    def close(self) -> None:
        """End the line."""
        self._bar.close()
