"""The line of progress: nothing in files, the mIoU so far on a terminal."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from ovbench.evaluation.ledger import Entry
from ovbench.evaluation.progress import JobProgress, RunningScore
from ovbench.metrics.confusion import PixelCounts
from ovbench.metrics.interval import miou_interval
from ovbench.metrics.stacked import stack_counts


class Screen(io.StringIO):
    def isatty(self):
        return True


class Kept(list):
    def add(self, entry):
        self.append(entry)


def counts(*rows):
    return PixelCounts(*(np.array(column) for column in zip(*rows, strict=True)))


def test_the_running_score_is_that_of_all_images_so_far():
    kept = Kept()
    score = RunningScore(kept, 2, [counts((0, 0, 6), (1, 0, 2))])
    assert score.miou == pytest.approx((6 / 8 + 0) / 2)
    score.add(Entry("a", counts((0, 1, 2), (1, 1, 6)), None, {}))
    score.add(Entry("b", None, "broken", {}))
    assert score.miou == pytest.approx((6 / 10 + 6 / 10) / 2)
    assert [entry.image for entry in kept] == ["a", "b"]


def test_the_running_interval_is_that_of_the_record(monkeypatch):
    images = [counts((0, 0, 6 + n), (1, 0, 2), (1, 1, 3)) for n in range(12)]
    score = RunningScore(Kept(), 2, images[:9])
    assert np.isnan(score.half())  # too few images
    for n, one in enumerate(images[9:]):
        score.add(Entry(str(n), one, None, {}))
    expected = miou_interval(stack_counts(images, 2)).interval.half
    assert score.half() == expected > 0
    monkeypatch.setattr(sys, "stderr", Screen())
    monkeypatch.setattr("ovbench.evaluation.progress.INTERVAL_S", 0.0)
    progress = JobProgress(1)
    with progress.group("clip", ["mini"], 1, 1, [score]):
        progress.advance()
        assert progress._bar.postfix == f"mIoU {100 * score.miou:.2f} ± {100 * expected:.2f}"
    progress.close()
    monkeypatch.setattr("ovbench.evaluation.progress.MOST_IMAGES", 11)
    assert np.isnan(score.half())


@pytest.mark.parametrize(
    ("stream", "shown", "expected"), [(Screen, True, True), (Screen, False, False), (io.StringIO, True, False)]
)
def test_the_line_is_for_terminals_only(stream, shown, expected, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    progress = JobProgress(10, shown=shown)
    assert progress.shown == expected
    with progress.group("clip", ["mini"], 6, 2, [RunningScore(Kept(), 2, [counts((0, 0, 1), (1, 1, 1))])]):
        for _ in range(2):
            progress.advance()
    with progress.group("clip", ["mini-bg"], 4, 4):
        for _ in range(4):
            progress.advance()
    progress.close()
    text = sys.stderr.getvalue()
    assert bool(text) == expected
    if expected:
        assert "clip on mini: " in text and "mIoU 100.00" in text and "/6 [" in text


@pytest.mark.parametrize("method", ["clip", "corrclipv2", "path/to/own_method.py:AMethodWithALongName"])
@pytest.mark.parametrize("datasets", [["mini"], ["voc20", "voc21"], ["context59", "context60", "an-own-benchmark"]])
def test_the_line_fits_into_80_columns(method, datasets, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys, "stderr", Screen())
    progress = JobProgress(12345)
    scored = [RunningScore(Kept(), 2, [counts((0, 0, 4), (1, 1, 4), (1, 0, 3))]) for _ in datasets]
    with progress.group(method, datasets, 12345, 12345, scored):
        progress.advance()
        bar = progress._bar
        line = f"{bar.desc}  12345/12345 [12:34:56<12:34:56, {bar.postfix}]"
    progress.close()
    assert len(line) <= 80 and line.count("57.") == len(datasets) and method[:4] in line, line
