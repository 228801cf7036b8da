"""The line of progress: nothing in files, the mIoU so far on a terminal."""

from __future__ import annotations

import io
import sys

import numpy as np
import pytest

from ovbench.evaluation.ledger import Entry
from ovbench.evaluation.progress import JobProgress, RunningScore
from ovbench.metrics.confusion import PixelCounts


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


@pytest.mark.parametrize(
    ("stream", "shown", "expected"), [(Screen, True, True), (Screen, False, False), (io.StringIO, True, False)]
)
def test_the_line_is_for_terminals_only(stream, shown, expected, monkeypatch):
    monkeypatch.setattr(sys, "stderr", stream())
    progress = JobProgress(10, shown=shown)
    assert progress.shown == expected
    with progress.group("clip on mini", 6, 2, [RunningScore(Kept(), 2, [counts((0, 0, 1), (1, 1, 1))])]):
        for _ in range(2):
            progress.advance()
    with progress.group("clip on mini-bg", 4, 4):
        for _ in range(4):
            progress.advance()
    progress.close()
    text = sys.stderr.getvalue()
    assert bool(text) == expected
    if expected:
        assert "clip on mini: " in text and "mIoU 100.00" in text and "/6 [" in text
