"""One line of progress for all cells of a job: images done, time left, and mIoU so far."""

from __future__ import annotations

import itertools
import math
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

from tqdm import tqdm

from ovbench.evaluation.ledger import Entry, LedgerWriter
from ovbench.metrics.confusion import ClassPixels, PixelCounts, sum_by_class
from ovbench.metrics.iou import scores

EVERY_S = 0.5  # time between two values of mIoU in the line
INTERVAL_S, FACTOR = 5.0, 50  # time between two intervals, at least this multiple of the time that one takes
LINE = "{desc}{bar} {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"
COUNTS = len(":  12345/12345 [00:00:00<00:00:00, ]")  # columns of the line without names and scores
SCORE, SCORES = len("mIoU 12.34 ± 1.23"), len(" 12.34, ")
MOST_IMAGES = 50_000  # whose counts are kept for the interval


class RunningScore:
    """The mIoU of the images so far; it stands in the place of a ledger and passes entries on to it.

    Args:
        ledger: The ledger of a cell.
        classes: Number of classes.
        counted: Counts of images that were counted before.
    """

    def __init__(self, ledger: LedgerWriter, classes: int, counted: Iterable[PixelCounts] = ()):
        self._ledger, self._classes = ledger, classes
        self._images: list[PixelCounts] = []
        self._pixels = sum_by_class(map(self._keep, counted), classes)

    def add(self, entry: Entry) -> None:
        """Write an entry to the ledger and add its counts."""
        self._ledger.add(entry)
        if entry.counts is not None:
            one = sum_by_class([entry.counts], self._classes)
            self._pixels = ClassPixels(*(a + b for a, b in zip(self._pixels, one, strict=True)))
            self._keep(entry.counts)

    def _keep(self, counts: PixelCounts) -> PixelCounts:
        if len(self._images) <= MOST_IMAGES:
            self._images.append(counts)
        return counts

    @property
    def miou(self) -> float:
        """The mIoU of all counted images, NaN before the first."""
        return scores(self._pixels).miou

    def half(self) -> float:
        """Return half the width of the 95 % interval of the mIoU, NaN if there is none or there are too many images."""
        if len(self._images) > MOST_IMAGES:
            return math.nan
        from ovbench.metrics.interval import miou_interval  # scipy, which the first image need not wait for
        from ovbench.metrics.stacked import stack_counts

        interval = miou_interval(stack_counts(list(self._images), self._classes)).interval
        return math.nan if interval is None else interval.half


class JobProgress:
    """The line on stderr; nothing is written if stderr is not a terminal, so files have no progress in them.

    Args:
        images: Number of images of all groups of cells, as far as known before they start.
        shown: Whether to show the line.
    """

    def __init__(self, images: int, *, shown: bool = True):
        disable = None if shown else True
        self._bar = tqdm(total=images, disable=disable, dynamic_ncols=True, delay=0.01, bar_format=LINE)
        self._scores: Sequence[RunningScore] = ()
        self._names: Sequence[str] = ()  # of the scores
        self._halves: list[float] = []
        self._next = self._next_halves = 0.0

    @property
    def shown(self) -> bool:
        """Whether the line is written."""
        return not self._bar.disable

    @contextmanager
    def group(
        self,
        method: str,
        datasets: Sequence[str],
        planned: int,
        due: int,
        running: Sequence[LedgerWriter | RunningScore] = (),
    ) -> Iterator[None]:
        """Show the cells that run now; the images that were counted before leave the total.

        Args:
            method: Method of the cells.
            datasets: Dataset of each cell.
            planned: Number of images of the group that the total has.
            due: Number of images that must run.
            running: The score of each cell.
        """
        self._scores, self._next = [one for one in running if isinstance(one, RunningScore)], 0.0
        self._halves, self._next_halves = [], time.monotonic() + INTERVAL_S
        if self._bar.total is not None:
            self._bar.total = max(self._bar.n, self._bar.total - planned + due)
        title, self._names = _names(method, datasets, shutil.get_terminal_size().columns - COUNTS)
        self._bar.set_description(title)
        try:
            yield
        finally:
            self._scores = ()
            self._bar.clear()  # lines about the cells follow

    def advance(self) -> None:
        """Count an image."""
        if not self._bar.disable and self._scores and time.monotonic() >= self._next:
            self._measure_halves()
            halves = self._halves if len(self._scores) == 1 else ()  # there is no room for several
            shown = itertools.zip_longest((score.miou for score in self._scores), halves, fillvalue=math.nan)
            texts = (f"{name} {_text(*pair)}" for name, pair in zip(self._names, shown, strict=True))
            self._bar.set_postfix_str(", ".join(texts), refresh=False)
            self._next = time.monotonic() + EVERY_S
        self._bar.update()

    def _measure_halves(self) -> None:
        """Compute the intervals again if they are due; they take a small part of the time of the run."""
        start = time.monotonic()
        if len(self._scores) == 1 and start >= self._next_halves:
            self._halves = [score.half() for score in self._scores]
            now = time.monotonic()
            self._next_halves = now + max(INTERVAL_S, FACTOR * (now - start))

    def close(self) -> None:
        """End the line."""
        self._bar.close()


def _names(method: str, datasets: Sequence[str], room: int) -> tuple[str, list[str]]:
    """Return the title of cells and the names of their scores, shortened to a number of columns."""
    if len(datasets) == 1:
        return _short(f"{method} on {datasets[0]}", room - SCORE), ["mIoU"]
    title = _short(method, room // 4)
    return title, [_short(name, (room - len(title)) // max(len(datasets), 1) - SCORES) for name in datasets]


def _short(name: str, room: int) -> str:
    return name if len(name) <= max(room, 3) else f"{name[: max(room, 3) - 1]}…"


def _text(miou: float, half: float) -> str:
    """Return a score in percent, with half the width of its interval if that is known."""
    if math.isnan(miou):
        return "-"
    return f"{100 * miou:.2f}" + ("" if math.isnan(half) else f" ± {100 * half:.2f}")
