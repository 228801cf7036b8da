"""Methods that look across the windows of an image, and what happens where memory runs out."""

import dataclasses
import itertools

import numpy as np
import pytest
import torch
from stitching import Stitched
from towers import small_towers

from ovbench.config.load import Protocol
from ovbench.evaluation.distributed import ProcessGroup
from ovbench.evaluation.plan import Job, plan
from ovbench.inference import batching
from ovbench.inference.batching import WindowBatcher
from ovbench.inference.decision import LabelMaps
from ovbench.inference.pamr import PAMR
from ovbench.inference.predictor import Predictor
from ovbench.inference.steps import Limits
from ovbench.methods.base import Backbones, Needs, Queries
from ovbench.methods.maskclip import MaskCLIP
from ovbench.parity.recorder import Recorder
from ovbench.utils.errors import ScoreError

NOISE = np.random.default_rng(0)
SIZES = [(64, 64), (264, 424), (40, 64), (64, 150), (130, 170)]  # windows: 1, 60, 1 (too small to share), 4, 12
IMAGES = [NOISE.integers(0, 255, (*size, 3), np.uint8) for size in SIZES]
EMBEDDINGS = torch.randn(4, 12, generator=torch.Generator().manual_seed(5))
QUERIES = Queries(torch.nn.functional.normalize(EMBEDDINGS, dim=-1), torch.tensor([0, 0, 1, 2]))
PROTOCOL = Protocol(short_side=0, crop=64, stride=40, pad=16)


class Joined(MaskCLIP):
    """Moves every cell towards the cells of all windows that are like it, and by the number of windows."""

    needs = Needs(backbones=("clip",), join="windows")

    def join(self, features, image):
        assert len(features.tokens) == len(image.boxes)
        keys = torch.nn.functional.normalize(features.tokens.flatten(0, 1), dim=-1)
        moved = torch.cat([(rows @ keys.T * 20).softmax(1) @ keys for rows in keys.split(16)])
        return features._replace(tokens=moved.view_as(features.tokens) + 0.01 * len(image.boxes) ** 0.5)


class Solved(MaskCLIP):
    """Scores relative to the best cell of all windows; sees windows one image at a time."""

    needs = Needs(backbones=("clip",), join="windows")
    windowwise = False

    def score(self, features, queries):
        scores = super().score(features, queries)
        return scores / scores.amax((0, 2, 3), keepdim=True).abs()


class Whole(Stitched):
    """A stitched method with the original image and a changed map."""

    needs = Needs(backbones=("clip",), join="image", original=True)

    def encode_image(self, image):
        return image.pixels.float().mean() / 255

    def adjust(self, scores, queries, image):
        return scores + image.context * queries.embeddings.sum(1)[:, None, None]


METHODS = [Joined, Solved, Stitched, Whole]


@pytest.fixture(scope="module")
def towers():
    return Backbones(**{name: tower.float() for name, tower in small_towers().items()})


def predictor(method, protocol=PROTOCOL):
    return Predictor(method, protocol, [QUERIES])


def run(batcher, order):
    """Return labels, or an error, of every image by its number."""
    found = list(itertools.chain.from_iterable(batcher.add(n, IMAGES[n]) for n in order))
    found += batcher.flush()
    assert sorted(one.number for one in found) == sorted(order)
    return {one.number: one.labels if isinstance(one.labels, Exception) else one.labels[0] for one in found}


@pytest.mark.slow
@pytest.mark.parametrize("make", METHODS)
def test_joined_images_have_the_same_labels_with_any_neighbours_order_and_batch(towers, make):
    ours = predictor(make(towers))
    expected = run(WindowBatcher(ours, 8), range(5))
    assert all(labels.shape == SIZES[n] for n, labels in expected.items())
    for order in ([4, 3, 2, 1, 0], [1, 4], [3]):
        for number, labels in run(WindowBatcher(ours, 8), order).items():
            assert np.array_equal(labels, expected[number]), (order, number)
    for size in (0, 1, 96):
        found = run(WindowBatcher(ours, size), range(5))
        assert all(np.mean(found[n] == expected[n]) > 0.999 for n in range(5)), size  # except for ties
    plain = run(WindowBatcher(predictor(MaskCLIP(towers))), range(5))
    assert any(not np.array_equal(plain[n], expected[n]) for n in range(5))
    assert len(np.unique(np.concatenate([labels.ravel() for labels in expected.values()]))) > 1


def test_all_windows_are_joined_once_and_scored_together(towers):
    method, seen, notes = Joined(towers), [], Recorder()
    score = method.score
    method.score = lambda features, queries: seen.append(len(features.tokens)) or score(features, queries)
    predictor(method).label_resized(IMAGES[1], SIZES[1], note=notes)
    assert seen == [60] and len(notes.notes["features"]) == 4 and len(notes.notes["joined"]) == 1


def test_a_stitched_grid_covers_the_image(towers):
    notes = Recorder()
    predictor(Stitched(towers)).label_resized(IMAGES[4], SIZES[4], note=notes)
    assert tuple(notes.once("patch_scores").shape) == (1, 4, 9, 11)
    assert tuple(notes.once("window_scores").shape) == (1, 4, *SIZES[4])


@pytest.mark.parametrize("wrong", [lambda features: None, lambda features: features._replace(grid=(1, 1))])
def test_a_wrong_join_is_named(towers, wrong):
    made = type("Wrong", (Joined,), {"join": lambda self, features, image: wrong(features)})(towers)
    with pytest.raises(ScoreError, match=r"Wrong\.join returned"):
        predictor(made).label(IMAGES[3])


@pytest.mark.slow
def test_features_beyond_the_budget_are_kept_on_the_host(towers, monkeypatch):
    ours, moved, on_host = predictor(Joined(towers)), [], batching._on_host
    expected = run(WindowBatcher(ours, 8), range(5))
    size = 16 * 12 * 4  # bytes of the features of a window
    monkeypatch.setattr(batching, "FEATURE_BUDGET", 40 * size)
    monkeypatch.setattr(batching, "_on_host", lambda features: moved.append(1) or on_host(features))
    found = run(WindowBatcher(ours, 8), range(5))
    assert all(np.array_equal(found[n], expected[n]) for n in range(5))
    assert 20 <= len(moved) < 30


def out_of_memory(*given, **named):
    raise torch.cuda.OutOfMemoryError("CUDA out of memory")


@pytest.mark.quick(1)
@pytest.mark.parametrize("size", [0, 8])
@pytest.mark.parametrize("protocol", [PROTOCOL, Protocol(short_side=0, crop=64, stride=40, refine="pamr")])
def test_out_of_memory_after_encoding_repeats_the_image_with_less_at_once(towers, monkeypatch, size, protocol):
    ours, labels = predictor(MaskCLIP(towers), protocol), LabelMaps.labels
    expected = run(WindowBatcher(ours, size), [3, 4])
    tried = []

    def little(self, *given):
        tried.append(self.parts)
        return labels(self, *given) if self.parts >= 64 else out_of_memory()

    monkeypatch.setattr(LabelMaps, "labels", little)
    found = run(WindowBatcher(ours, size), [3, 4])
    assert all(np.mean(found[n] == expected[n]) > 0.999 for n in (3, 4))
    assert tried == [1, 8, 64, 64] and ours.limits == Limits(4, 64)


@pytest.mark.quick(2)
@pytest.mark.parametrize("size", [0, 8])
@pytest.mark.parametrize("where", [(PAMR, "weights"), (Joined, "join"), (Joined, "window_scores"), (Joined, "encode")])
def test_an_image_for_which_no_memory_is_enough_fails_and_the_others_run(towers, monkeypatch, size, where):
    owner, name = where
    ours = predictor(Joined(towers), Protocol(short_side=0, crop=64, stride=40, pad=16, refine="pamr"))
    expected = run(WindowBatcher(ours, size), [0, 2])
    function = getattr(owner, name)
    monkeypatch.setattr(owner, name, lambda *given: out_of_memory() if broken else function(*given))
    broken = True
    failed = run(WindowBatcher(ours, size), [3])
    assert "too little memory for" in str(failed[3]) and "--device" in str(failed[3])
    assert ours.limits == Limits()
    broken = False
    found = run(WindowBatcher(ours, size), [0, 2])
    assert all(np.array_equal(found[n], expected[n]) for n in (0, 2))


def test_no_memory_for_the_context_of_an_image_fails_it(towers, monkeypatch):
    ours = predictor(Whole(towers))
    monkeypatch.setattr(Whole, "encode_image", out_of_memory)
    assert "too little memory for this image" in str(run(WindowBatcher(ours), [0])[0])


def test_the_plan_states_the_memory_of_joined_windows():
    def line(method, device):
        cells = plan(Job(methods=(method,), datasets=("mini",), device="cpu"), ProcessGroup())
        return dataclasses.replace(cells[0], device=device).describe()

    stated = "on cuda:0 (up to 4.3 GB for the features of all windows, the rest in host memory)"
    assert stated in line("glaclip", "cuda:0")
    assert "host memory" not in line("glaclip", "cpu") + line("proxyclip", "cuda:0")
