"""Windows of several images in one batch: an image gets the same labels in any company, and fails alone."""

import itertools

import numpy as np
import pytest
import torch
from towers import small_towers

from ovbench.config.load import Protocol
from ovbench.inference.batching import WindowBatcher
from ovbench.inference.predictor import Predictor
from ovbench.inference.sliding_window import window_grid
from ovbench.inference.windowed_image import PAD_REGION, region_slots
from ovbench.methods.base import Backbones, PatchFeatures, Queries
from ovbench.methods.cass import CASS
from ovbench.methods.corrclip import CorrCLIP
from ovbench.methods.dihclip import DiHCLIP
from ovbench.methods.freecp import FreeCP
from ovbench.methods.gem import GEM
from ovbench.methods.maskclip import MaskCLIP
from ovbench.methods.naclip import NACLIP
from ovbench.methods.params import DiHCLIPParams, RFCLIPParams, SCCLIPParams, SFPParams
from ovbench.methods.pearl import PEARL
from ovbench.methods.proxyclip import ProxyCLIP
from ovbench.methods.rfclip import RFCLIP
from ovbench.methods.scclip import SCCLIP
from ovbench.methods.sclip import SCLIP
from ovbench.methods.sfp import SFP
from ovbench.methods.tower_params import CASSParams
from ovbench.regions.ids import nearest_ids, rank_ids, resized_ids
from ovbench.utils.errors import ScoreError, warn_once

NOISE = np.random.default_rng(0)
SIZES = [(64, 150), (130, 170), (64, 64), (90, 64), (70, 200), (40, 64)]  # from one window to twelve, and too small
IMAGES = [NOISE.integers(0, 255, (*size, 3), np.uint8) for size in SIZES]
REGIONS = [NOISE.integers(0, 9, (h // 10 + 1, w // 10 + 1)).repeat(10, 0).repeat(10, 1)[:h, :w] for h, w in SIZES]
REGIONS[1] += 12_000  # beyond the usual id of padding
REGIONS[4] = np.arange(70 * 200).reshape(70, 200) // 150  # more regions than the others, also in a window
EMBEDDINGS = torch.randn(7, 12, generator=torch.Generator().manual_seed(5))
QUERIES = Queries(torch.nn.functional.normalize(EMBEDDINGS, dim=-1), torch.tensor([0, 0, 1, 2, 2, 2, 3]))
PROTOCOL = Protocol(short_side=0, crop=64, stride=40, pad=16)
LEVELS = {"pre_level": 3, "post_level": 1, "multi_start": 1, "multi_end": 4}
METHODS = {
    "maskclip": MaskCLIP,
    "gem": GEM,
    "naclip": NACLIP,
    "sclip": SCLIP,
    "scclip": lambda towers: SCCLIP(towers, SCCLIPParams(**LEVELS)),
    "sfp": lambda towers: SFP(towers, SFPParams(**LEVELS)),
    "dihclip": lambda towers: DiHCLIP(towers, DiHCLIPParams(**LEVELS, heads=1)),
    "proxyclip": ProxyCLIP,
    "corrclip": CorrCLIP,
    "freecp": FreeCP,
    "cass": lambda towers: CASS(towers, CASSParams(class_token="window")),
    "pearl": PEARL,
    "rfclip": lambda towers: RFCLIP(towers, RFCLIPParams(class_token="window", channels=(3, 7), sigma=1.5)),
}


@pytest.fixture(scope="module")
def towers():
    return Backbones(**{name: tower.float() for name, tower in small_towers().items()})


class Kept(Predictor):
    """Keeps the merged scores of every image, by its size."""

    def finish(self, prepared, means):
        self.scores[prepared.original] = means[0].total.clone()
        return super().finish(prepared, means)


def predictor(method):
    made = Kept(method, PROTOCOL, [method.map_queries(QUERIES)])
    made.scores = {}
    return made


def run(batcher, order):
    """Labels, or an error, of every image by its number."""
    outcomes = list(itertools.chain.from_iterable(batcher.add(n, IMAGES[n], REGIONS[n]) for n in order))
    outcomes += batcher.flush()
    assert sorted(o.number for o in outcomes) == sorted(order)
    return {o.number: o.labels if isinstance(o.labels, Exception) else o.labels[0] for o in outcomes}


@pytest.fixture(params=[1, 2])
def threads(request):
    """Each computes other rows of a batch, not always alike."""
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


@pytest.mark.slow
@pytest.mark.parametrize("name", METHODS)
def test_an_image_is_labelled_alike_in_any_company(name, towers, threads):
    ours = predictor(METHODS[name](towers))
    assert ours.method.windowwise
    alone = {n: run(WindowBatcher(ours, 8), [n])[n] for n in range(len(IMAGES))}
    scores = dict(ours.scores)
    for order in ([0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [3, 5, 1], [4, 0, 2]):
        together = run(WindowBatcher(ours, 8), order)
        assert sorted(together) == sorted(order)
        for number, labels in together.items():
            assert np.array_equal(labels, alone[number]), (order, number)
            assert torch.equal(ours.scores[SIZES[number]], scores[SIZES[number]]), (order, number)
    assert len(np.unique(np.concatenate([a.ravel() for a in alone.values()]))) > 1


@pytest.mark.slow
def test_shared_batches_change_no_label_of_the_plain_way(towers):
    ours = predictor(MaskCLIP(towers))
    plain, order = run(WindowBatcher(ours), range(6)), [2, 4, 1, 0, 5, 3]
    for size in (1, 8, 96):
        together = run(WindowBatcher(ours, size), order)
        assert all(np.mean(together[n] == plain[n]) > 0.999 for n in order)  # ties apart, as the shapes are others


class Watched(MaskCLIP):
    """Notes the sizes of its batches; runs out of memory beyond ``room`` windows; dislikes bright images."""

    room, refuses = 1000, None

    def encode(self, batch):
        self.seen.append(tuple(batch.windows.shape))
        if len(batch.windows) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        if self.refuses is not None and (batch.windows.flatten(1).amax(1) > self.refuses).any():
            raise ScoreError("too bright")
        return super().encode(batch)


def watched(towers, **settings):
    method = Watched(towers)
    method.seen = []
    for name, value in settings.items():
        setattr(method, name, value)
    return method


@pytest.mark.slow
def test_every_batch_has_one_shape_and_few_images_wait(towers):
    method = watched(towers)
    batcher = WindowBatcher(predictor(method), 4)
    for turn in range(30):
        list(batcher.add(turn, IMAGES[2]))
        assert len(batcher.pending) <= 4
    list(batcher.flush())
    assert set(method.seen) == {(4, 3, 64, 64)} and len(method.seen) == 8
    assert not batcher.pending and not any(batcher.queues.values())


@pytest.mark.slow
def test_an_image_without_numbers_leaves_its_neighbours_alone(towers):
    ours = predictor(MaskCLIP(towers))
    expected, prepared = run(WindowBatcher(ours, 8), range(6)), ours.windowed

    def spoilt(resized, *more, **named):
        made = prepared(resized, *more, **named)
        return made._replace(resized=made.resized * torch.nan) if resized.shape == IMAGES[1].shape else made

    ours.windowed = spoilt
    found = run(WindowBatcher(ours, 8), range(6))
    assert "NaN or infinite" in str(found.pop(1))
    assert all(np.array_equal(labels, expected[n]) for n, labels in found.items())


def test_a_batch_that_the_method_refuses_fails_one_image(towers):
    method = watched(towers)
    ours = predictor(method)
    expected, bright = run(WindowBatcher(ours, 8), range(6)), ours.windowed

    def brighter(resized, *more, **named):
        made = bright(resized, *more, **named)
        return made._replace(resized=made.resized + 100) if resized.shape == IMAGES[3].shape else made

    ours.windowed, method.refuses = brighter, 50
    found = run(WindowBatcher(ours, 8), range(6))
    assert str(found.pop(3)) == "too bright"
    assert all(np.array_equal(labels, expected[n]) for n, labels in found.items())


def test_out_of_memory_halves_the_batch_and_says_so_once(towers, caplog):
    expected = run(WindowBatcher(predictor(MaskCLIP(towers)), 8), range(6))
    method = watched(towers, room=3)
    batcher = WindowBatcher(predictor(method), 12)
    warn_once.cache_clear()
    found = run(batcher, range(6))
    assert batcher.size == 3 and {shape[0] for shape in method.seen} == {12, 6, 3, 1}  # 1: the image too small to share
    assert all(np.mean(labels == expected[n]) > 0.999 for n, labels in found.items())
    assert [r.message for r in caplog.records] == ["out of memory on cpu: continuing with less at once"]
    hopeless = run(WindowBatcher(predictor(watched(towers, room=0)), 4), range(6))
    assert all("too little memory for one window" in str(error) for error in hopeless.values())


@pytest.mark.slow
def test_out_of_memory_while_scoring_labels_the_image_by_itself(towers, monkeypatch):
    ours = predictor(MaskCLIP(towers))
    expected, score = run(WindowBatcher(ours, 8), range(6)), MaskCLIP.score

    def little(self, features: PatchFeatures, queries):
        if len(features.tokens) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return score(self, features, queries)

    monkeypatch.setattr(MaskCLIP, "score", little)
    found = run(WindowBatcher(ours, 8), range(6))
    assert all(np.mean(labels == expected[n]) > 0.999 for n, labels in found.items())


def slots(regions, size=None, crop=0):
    size = size or regions.shape
    return region_slots(regions, size, window_grid(size, crop, crop))


def test_slots_are_those_of_the_window_with_most_regions():
    assert region_slots(None, (3, 3), []) is None
    assert slots(np.zeros((3, 3), np.int32)) == 32
    assert slots(np.arange(31).reshape(1, 31) - 5) == 32  # and one for padding
    assert slots(np.arange(32).reshape(1, 32)) == 64
    assert slots(np.array([[-(2**31), 2**31 - 1]])) == 32
    many = np.arange(64 * 64).reshape(64, 64)
    assert slots(many) == 8192 and slots(many, crop=32) == 2048
    assert slots(many, (32, 32)) == 2048  # what the resized map no longer shows takes no slot
    mixed = np.where(np.arange(64) < 16, many, 0)  # most regions stand in the left windows
    assert slots(mixed, crop=16) == 512
    # of the images above, one has another id of padding and one more slots, so that neither can join the others
    assert REGIONS[1].max() > PAD_REGION
    assert max(slots(regions, crop=64) for regions in REGIONS[:4]) == 32 < slots(REGIONS[4], crop=64)


def test_a_map_is_resized_with_the_pixels_of_nearest_neighbours():
    generator = np.random.default_rng(3)
    for _ in range(40):
        shape, size = (tuple(int(side) for side in generator.integers(1, 90, 2)) for _ in range(2))
        regions = generator.integers(-5, 10**6, shape).astype(np.int32)
        resized = resized_ids(regions, size)
        assert resized.dtype == np.int32
        assert np.array_equal(resized, nearest_ids(torch.from_numpy(regions)[None].long(), size)[0].numpy())


def test_a_map_with_more_slots_than_cells_has_no_more_columns_than_cells():
    assert rank_ids(torch.arange(6).view(1, 2, 3), 4096).value.shape == (1, 6)
