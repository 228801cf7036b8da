"""Large vocabularies are decided from cells: the labels are those of full-size maps."""

from __future__ import annotations

import functools

import numpy as np
import pytest
import torch
from towers import small_towers

from ovbench.config.load import resolve
from ovbench.inference import window_cells
from ovbench.inference.leading import BestClass, Leading
from ovbench.inference.predictor import Predictor
from ovbench.inference.sliding_window import WindowMean, window_grid
from ovbench.inference.window_cells import WindowCells, can_win
from ovbench.methods.base import Queries
from ovbench.methods.bilinear import enlarge
from ovbench.methods.maskclip import MaskCLIP
from ovbench.methods.ops import Decision, Pad, uncut
from ovbench.methods.sclip import SCLIP
from ovbench.utils.errors import ScoreError

NO_PAD = Pad(0, 0, 0, 0)
ROUNDING = 1e-6
GEOMETRIES = {
    "windows whose cells meet": ((96, 128), (107, 143), 64, 32, 16, NO_PAD),
    "a last window between the cells of others": ((67, 83), (90, 101), 48, 23, 8, NO_PAD),
    "a smaller original": ((99, 101), (40, 31), 64, 32, 16, NO_PAD),
    "padded windows": ((90, 75), (100, 90), 60, 40, 16, Pad(2, 2, 1, 3)),
    "one window of the whole image": ((60, 76), (60, 76), 0, 0, 16, Pad(2, 2, 2, 2)),
    "narrower than a window": ((20, 90), (61, 200), 64, 50, 10, NO_PAD),
    "one pixel": ((64, 64), (1, 1), 0, 0, 16, NO_PAD),
}


def scores_of(geometry, queries: int, noise: float, seed: int = 0):
    size, _, crop, stride, patch, pad = geometry
    boxes = window_grid(size, crop, stride)
    (h, w), draw = boxes[0].size, torch.Generator().manual_seed(seed)
    grid = (h + pad.top + pad.bottom) // patch, (w + pad.left + pad.right) // patch
    common = torch.randn(1, queries, 1, 1, generator=draw)
    return boxes, 0.02 * common + noise * torch.randn(len(boxes), queries, *grid, generator=draw)


def full_maps(geometry, boxes, scores):
    size, original, _, _, _, pad = geometry
    mean = WindowMean(size)
    mean.add(uncut(scores, boxes[0].size, pad), boxes)
    return enlarge(mean.result(), original)


ELEMENTS = 40 * 10 * 70  # several tiles in both directions


@pytest.fixture(params=["as on a CPU", "as on a GPU"])
def form(request, monkeypatch):
    if request.param == "as on a GPU":
        monkeypatch.setattr(
            window_cells, "_by_blocks", lambda *given: window_cells._by_tiles(*given, ELEMENTS, window_cells._best)
        )


@pytest.mark.quick(2)
@pytest.mark.usefixtures("form")
@pytest.mark.parametrize(("noise", "thresholded"), [(0.004, False), (0.04, True), (0.04, False)])
@pytest.mark.parametrize("name", GEOMETRIES)
def test_labels_are_those_of_full_size_maps(name, noise, thresholded):
    size, original, _, _, _, pad = geometry = GEOMETRIES[name]
    boxes, scores = scores_of(geometry, 40, noise)
    classes = torch.arange(40).div(2, rounding_mode="floor")
    full = full_maps(geometry, boxes, scores)
    best, second = full.topk(2, 0).values
    margin, probability = best - second, 1 / ((full - best) * 100).exp().sum(0)
    threshold = float(probability.median()) if thresholded else 0.0
    decision = Decision(100.0, threshold, 3)
    want = Leading(classes, decision).add(full).labels()
    cells = WindowCells(boxes, pad, size, original)
    for start in range(0, len(boxes), 3):
        cells.add(scores[start : start + 3], boxes[start : start + 3])
    labels, best_class = cells.labels(classes, decision, ELEMENTS), BestClass.empty(original, scores)
    assert torch.equal(labels, cells.labels(classes, decision, ELEMENTS, best_class))
    torch.testing.assert_close(best_class.probability, probability, rtol=1e-4, atol=1e-5)
    assert thresholded or torch.equal(best_class.label, labels)
    different = labels != want
    if thresholded:
        assert want.numel() == 1 or 0.3 < (want == 3).float().mean() < 0.9
        margin = torch.minimum(margin, (probability - threshold).abs() * 0.1)
    assert not (different & (margin > ROUNDING)).any()
    assert want.numel() == 1 or len(want.unique()) > 1


def test_a_query_that_is_left_out_wins_nowhere():
    draw = torch.Generator().manual_seed(0)
    knots = torch.randn(9, 40, 30, generator=draw) * 0.3 + torch.randn(1, 40, 30, generator=draw)
    alive = can_win(knots)
    assert 0.05 < alive.float().mean() < 0.7
    weights = torch.rand(2000, 9, generator=draw) ** 3
    mixed = torch.einsum("np,pkq->nkq", weights / weights.sum(1, keepdim=True), knots)
    won = torch.zeros_like(alive).scatter_(1, mixed.argmax(2).T, True)
    assert won.sum() > 60 and not (won & ~alive).any()


@pytest.mark.slow
def test_tiles_of_all_sizes_are_computed_by_one_compiled_function(monkeypatch):
    geometry = GEOMETRIES["windows whose cells meet"]
    boxes, scores = scores_of(geometry, 40, 0.04)
    cells, classes, decision = WindowCells(boxes, NO_PAD, *geometry[:2]), torch.arange(40), Decision(100.0, 0.1, 3)
    cells.add(scores, boxes)
    best = [BestClass.empty(geometry[1], scores) for _ in range(2)]
    want, found = cells.labels(classes, decision, ELEMENTS, best[0]), []
    graphs = []
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=lambda g, _: graphs.append(g) or g))
    made = window_cells.compiled_best.__wrapped__()
    for elements in (ELEMENTS, 2 * ELEMENTS):
        monkeypatch.setattr(
            window_cells, "_by_blocks", lambda *given, n=elements: window_cells._by_tiles(*given, n, made)
        )
        found.append(cells.labels(classes, decision, elements, best[1]))
        assert (found[-1] == want).float().mean() > 0.999 and len(want.unique()) > 3
        torch.testing.assert_close(best[1].probability, best[0].probability, rtol=1e-4, atol=1e-5)
    assert torch.equal(*found) and len(graphs) == 1


@pytest.mark.usefixtures("form")
def test_equal_queries_keep_their_order():
    geometry = GEOMETRIES["windows whose cells meet"]
    boxes, scores = scores_of(geometry, 8, 0.02)
    cells = WindowCells(boxes, NO_PAD, *geometry[:2])
    cells.add(scores.repeat(1, 2, 1, 1), boxes)
    labels = cells.labels(torch.arange(16), Decision(), ELEMENTS)
    assert labels.max() < 8 and len(labels.unique()) > 3


def predictor(method, count: int = 150, **settings: str) -> Predictor:
    cell = resolve("maskclip", "mini", {"short_side": "48", "crop": "32", "stride": "16", **settings})
    made = Predictor(method.float(), cell.protocol, [])
    draw = torch.Generator().manual_seed(1)
    vectors = torch.nn.functional.normalize(torch.randn(count, 12, generator=draw), dim=-1)
    made.add_vocabulary(Queries(vectors, torch.arange(count)), cell.protocol)
    return made


@pytest.fixture
def used(monkeypatch):
    """The calls of `WindowCells.labels`."""
    calls, labels = [], WindowCells.labels
    monkeypatch.setattr(
        WindowCells, "labels", lambda self, *rest, **named: calls.append(1) or labels(self, *rest, **named)
    )
    return calls


@pytest.mark.quick(1)
@pytest.mark.parametrize("settings", [{}, {"crop": "0"}, {"short_side": "0", "crop": "40", "pad": "-1"}])
def test_the_predictor_decides_a_large_vocabulary_from_cells(settings, monkeypatch, used):
    picture = np.random.RandomState(0).randint(0, 255, (50, 70, 3), np.uint8)
    made = predictor(MaskCLIP(small_towers(clip_patch=8 if settings else 16)), **settings)
    labels = made.label(picture)[0]
    assert used and labels.shape == (50, 70) and len(np.unique(labels)) > 3
    monkeypatch.setattr(window_cells, "FEWEST_QUERIES", 1000)
    assert (labels == made.label(picture)[0]).mean() > 0.999
    assert len(used) == 1


@pytest.mark.slow
def test_methods_that_change_scores_or_probabilities_get_full_size_maps(used):
    class Own(MaskCLIP):
        def probabilities(self, scores, queries, decision):
            return scores

    class OwnSclip(SCLIP):
        def probabilities(self, scores, queries, decision):
            return scores

    class Adjusted(MaskCLIP):
        def adjust(self, scores, queries, image):
            return -scores

    picture = np.zeros((50, 70, 3), np.uint8)
    for method in (Own, OwnSclip, Adjusted):
        predictor(method(small_towers())).label(picture)
    predictor(MaskCLIP(small_towers()), refine="pamr").label(picture)
    predictor(SCLIP(small_towers(), SCLIP.Params(area_thd=0.1))).label(picture)
    assert not used
    predictor(SCLIP(small_towers(), SCLIP.Params(area_thd=0.0))).label(picture)
    assert used


def test_scores_that_are_nan_are_an_error():
    class Broken(MaskCLIP):
        def score(self, features, queries):
            return super().score(features, queries) * float("nan")

    with pytest.raises(ScoreError, match="NaN or infinite"):
        predictor(Broken(small_towers())).label(np.zeros((50, 70, 3), np.uint8))
