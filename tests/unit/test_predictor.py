"""One path: with and without a listener, whatever the tiles; thresholds and backgrounds; with and without memory."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils._python_dispatch import TorchDispatchMode
from towers import small_towers

from ovbench.config.load import Protocol
from ovbench.inference import decision as reduce
from ovbench.inference.decision import decide
from ovbench.inference.predictor import Predictor
from ovbench.inference.steps import Limits
from ovbench.methods.base import Backbones, Queries
from ovbench.methods.bilinear import enlarge
from ovbench.methods.maskclip import MaskCLIP
from ovbench.methods.naclip import NACLIP
from ovbench.methods.ops import Box, Decision, class_probabilities
from ovbench.methods.params import SCLIPParams
from ovbench.methods.sclip import SCLIP
from ovbench.parity.recorder import Recorder
from ovbench.utils.errors import InputError, ScoreError, UsageError, warn_once

IMAGE = np.random.default_rng(0).integers(0, 255, (130, 170, 3), np.uint8)
EMBEDDINGS = torch.randn(7, 12, generator=torch.Generator().manual_seed(5))
QUERIES = Queries(torch.nn.functional.normalize(EMBEDDINGS, dim=-1), torch.tensor([0, 0, 1, 2, 2, 2, 3]), background=0)


class Halves(MaskCLIP):
    """A method with probabilities of its own."""

    def probabilities(self, scores, queries, decision):
        return super().probabilities(scores, queries, decision).sqrt()


@pytest.fixture(scope="module")
def towers():
    return Backbones(**{name: tower.float() for name, tower in small_towers().items()})


def label(method, protocol, **settings):
    predictor = Predictor(method, protocol, [QUERIES])
    for name, value in settings.items():
        setattr(predictor, name, value)
    return predictor.label_resized(IMAGE, (300, 260))[0]


MAKES = [MaskCLIP, Halves, NACLIP, lambda t: SCLIP(t, SCLIPParams(area_thd=0.2))]
PROTOCOLS = [
    Protocol(crop=64, stride=40), Protocol(crop=0), Protocol(crop=64, stride=40, prob_thd=0.3),
    Protocol(crop=64, stride=40, refine="pamr", pamr_iterations=2), Protocol(crop=0, refine="pamr-windows"),
]  # fmt: skip


def heard(method, protocol):
    notes = Recorder()
    labels = Predictor(method, protocol, [QUERIES]).label_resized(IMAGE, (300, 260), note=notes)[0]
    return labels, {name: notes.once(name) for name in notes.notes}


class Operations(TorchDispatchMode):
    """Collects what is computed, but for copies into the parts that a listener keeps."""

    def __init__(self):
        super().__init__()
        self.done = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.done.append((str(function), [tuple(a.shape) for a in args if isinstance(a, torch.Tensor)]))
        return function(*args, **(kwargs or {}))


@pytest.mark.parametrize("make", [*(pytest.param(one, marks=pytest.mark.slow) for one in MAKES[:-1]), MAKES[-1]])
@pytest.mark.parametrize(
    "protocol", [PROTOCOLS[0], *(pytest.param(one, marks=pytest.mark.slow) for one in PROTOCOLS[1:])]
)
def test_a_listener_hears_of_the_path_that_runs_and_changes_nothing(towers, monkeypatch, make, protocol):
    monkeypatch.setattr(reduce, "TILE_CPU", 1 << 10)
    monkeypatch.setattr(reduce, "CHUNK_CPU", 1)  # one query at a time
    method = make(towers)
    label(method, protocol)  # constants are made once
    with Operations() as alone:
        expected = label(method, protocol)
    with Operations() as watched:
        Predictor(method, protocol, [QUERIES]).label_resized(IMAGE, (300, 260), note=lambda name, value: None)
    assert watched.done == alone.done
    labels, notes = heard(method, protocol)
    assert np.array_equal(labels, expected) and len(np.unique(labels)) > 1
    assert {"merged_scores", "full_scores", "labels_raw", "labels"} <= set(notes)
    assert ("refined_scores" in notes) == (protocol.refine == "pamr")
    full = enlarge(notes["merged_scores"], (300, 260))
    assert torch.equal(notes["full_scores"], full)  # put together of its parts
    final = notes.get("refined_scores", full)
    decision = Decision(protocol.logit_scale, protocol.prob_thd, QUERIES.background)
    p = method.probabilities(final, QUERIES, decision)
    if "probabilities" in notes:
        torch.testing.assert_close(notes["probabilities"], p)
    two = p.topk(2, 0).values
    sure = (two[0] - two[1] > 1e-5) & ((two[0] - protocol.prob_thd).abs() > 1e-5)
    assert sure.double().mean() > 0.9
    assert torch.equal(notes["labels_raw"][sure], decide(p, decision)[sure])


@pytest.mark.quick(1)
@pytest.mark.parametrize("make", MAKES)
@pytest.mark.parametrize("refine", ["", "pamr"])
def test_the_labels_do_not_depend_on_tiles_and_chunks(towers, monkeypatch, make, refine):
    method, protocol = make(towers), Protocol(crop=64, stride=40, refine=refine, pamr_iterations=2)
    expected = label(method, protocol)
    monkeypatch.setattr(reduce, "TILE_CPU", 1 << 10)
    monkeypatch.setattr(reduce, "CHUNK_CPU", 1)
    assert np.array_equal(label(method, protocol), expected)


@pytest.mark.parametrize("crop", [0, 64])
def test_pixels_below_the_threshold_go_to_the_background_wherever_it_stands(towers, crop):
    method, protocol = MaskCLIP(towers), Protocol(crop=crop, stride=40)
    without, notes = heard(method, protocol)
    best = class_probabilities(notes["full_scores"], QUERIES.class_index, Decision(protocol.logit_scale)).amax(0)
    threshold = float(best.median())  # half of the pixels are below it
    protocol = replace(protocol, prob_thd=threshold)
    first = label(method, protocol)
    assert np.mean((first == 0) == ((best < threshold).numpy() | (without == 0))) > 0.999
    assert 0.45 < np.mean(first == 0) < 1
    turned = Queries(QUERIES.embeddings.roll(-2, 0), torch.tensor([0, 1, 1, 1, 2, 3, 3]), background=3)
    last = Predictor(method, protocol, [turned]).label_resized(IMAGE, (300, 260))[0]
    assert np.mean((first + 3) % 4 == last) > 0.999


def test_a_vocabulary_without_background_has_no_threshold_which_is_said_once(towers, caplog):
    warn_once.cache_clear()
    nameless, thresholded = QUERIES._replace(background=None), Protocol(crop=64, stride=40, prob_thd=0.3)
    found = [Predictor(MaskCLIP(towers), thresholded, [nameless]).label_resized(IMAGE, (300, 260))[0] for _ in range(2)]
    assert np.array_equal(found[0], label(MaskCLIP(towers), Protocol(crop=64, stride=40)))
    assert [r.message for r in caplog.records] == [
        "prob_thd = 0.3 is not used, because the classes have no background for pixels below it; name one "
        "(background in the card), or set prob_thd=0"
    ]
    SCLIP(towers, SCLIPParams(area_thd=0.2)).map_queries(nameless)
    assert "area_thd = 0.2 is not used" in caplog.records[-1].message


@pytest.mark.slow
def test_no_map_of_all_queries_exists_at_full_size(towers, monkeypatch):
    sizes = []
    monkeypatch.setattr(reduce, "TILE_CPU", 1 << 10)
    monkeypatch.setattr(reduce, "CHUNK_CPU", 300 * 260)
    add = reduce.Leading.add
    monkeypatch.setattr(reduce.Leading, "add", lambda self, s: sizes.append(s.numel()) or add(self, s))
    label(MaskCLIP(towers), Protocol(crop=64, stride=40))
    assert max(sizes) <= 7 * 8 * 64 and sum(sizes) == 7 * 300 * 260
    sizes.clear()
    label(MaskCLIP(towers), Protocol(crop=64, stride=40, refine="pamr", pamr_iterations=1))
    assert sizes == [300 * 260] * 7  # a query at a time


class LittleMemory(MaskCLIP):
    """Runs out of memory with more than ``room`` windows."""

    room = 3

    def encode(self, batch):
        if len(batch.windows) > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return super().encode(batch)


def test_out_of_memory_halves_the_windows_once_for_all(towers, caplog):
    protocol = Protocol(crop=64, stride=40)
    expected = label(MaskCLIP(towers), protocol)
    predictor = Predictor(LittleMemory(towers), protocol, [QUERIES])
    warn_once.cache_clear()
    for _ in range(2):
        assert np.array_equal(predictor.label_resized(IMAGE, (300, 260))[0], expected)
    assert predictor.limits == Limits(3)
    assert [r.message for r in caplog.records] == ["out of memory on cpu: continuing with less at once"]


def test_out_of_memory_with_one_window_fails_the_image(towers):
    method = LittleMemory(towers)
    method.room = 0
    with pytest.raises(ScoreError, match="too little memory for one window; choose another --device"):
        label(method, Protocol(crop=64, stride=40))


@pytest.mark.parametrize(("crop", "pad"), [(15, 0), (3, 4), (1, 1)])
def test_windows_below_a_patch_are_refused_before_any_image(towers, crop, pad):
    with pytest.raises(UsageError, match=rf"crop = {crop} pixels are smaller than a patch of 16 pixels"):
        Predictor(MaskCLIP(towers), Protocol(crop=crop, stride=4, pad=pad), [QUERIES])


@pytest.mark.parametrize("crop", [64, 0])
def test_an_image_below_a_patch_is_refused_with_its_size_and_padded_where_the_protocol_pads(towers, crop):
    thin, size = IMAGE[:5], IMAGE[:5].shape[:2]
    with pytest.raises(InputError, match=rf"windows of {crop or size[1]}x5 pixels, less than a patch of 16 pix"):
        Predictor(MaskCLIP(towers), Protocol(crop=crop, stride=40), [QUERIES]).label_resized(thin, size)
    padded = Predictor(MaskCLIP(towers), Protocol(crop=64, stride=40, pad=16), [QUERIES])
    assert padded.label_resized(thin, size)[0].shape == size


@pytest.mark.quick(2)
@pytest.mark.parametrize("crop", [0, 64])
@pytest.mark.parametrize("make", [MaskCLIP, lambda t: SCLIP(t, SCLIPParams(area_thd=1e-6))])
def test_windows_are_merged_by_the_mean_of_their_probabilities(towers, crop, make):
    protocol = Protocol(crop=crop, stride=40, prob_thd=0.35, merge="probabilities")
    labels, notes = heard(make(towers), protocol)
    windows = notes["window_probabilities"]
    torch.testing.assert_close(windows.sum(1), torch.ones(windows.shape[0], *windows.shape[2:]))
    total = torch.zeros(len(QUERIES.embeddings), *notes["merged_scores"].shape[1:])
    count = torch.zeros(total.shape[1:])
    boxes = notes["windows"] if crop else [Box(0, 0, *total.shape[1:])]
    for window, box in zip(windows, boxes, strict=True):
        box.of(total).add_(window)
        box.of(count).add_(1)
    torch.testing.assert_close(notes["merged_scores"], total / count)
    full = enlarge(total / count, (300, 260))
    best = torch.stack([full[QUERIES.class_index == c].amax(0) for c in range(4)])
    expected = torch.where(best.amax(0) < 0.35, 0, best.argmax(0)).numpy()
    assert np.mean(labels == expected) > 0.999 and 0 < np.mean(best.amax(0).numpy() < 0.35) < 1
    plain, _ = heard(make(towers), replace(protocol, merge="scores"))
    assert crop == 0 or not np.array_equal(plain, labels)


def test_the_resize_rule_of_the_protocol(towers):
    image = IMAGE.repeat(2, 0)
    bilinear, bicubic = (
        Predictor(MaskCLIP(towers), Protocol(short_side=100, resize=rule), [QUERIES]).prepare(image).resized
        for rule in ("opencv-bilinear", "pil-bicubic")
    )
    assert bilinear.shape == bicubic.shape and not torch.equal(bilinear, bicubic)
    height, width = bicubic.shape[1:]
    expected = np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
    mean, std = (torch.tensor(values) for values in (Protocol().mean, Protocol().std))
    torch.testing.assert_close(bicubic.permute(1, 2, 0), (torch.from_numpy(expected.copy()).float() - mean) / std)


def test_settings_at_the_default_of_older_records_are_not_written():
    assert not {"resize", "merge"} & set(Protocol().as_dict())
    assert Protocol(merge="probabilities").as_dict()["merge"] == "probabilities"
