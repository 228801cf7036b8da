"""FreeCP's parts against plain formulations, its batching, and its degenerate inputs."""

import copy

import cv2
import numpy as np
import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from ovbench.backbones.clip import ClipVision
from ovbench.config.load import Protocol
from ovbench.inference.predictor import Predictor
from ovbench.methods.base import Backbones, Batch, Queries
from ovbench.methods.freecp import FreeCP, components, soft_iou
from ovbench.methods.freecp_boxes import above_threshold, box_union, contour_boxes
from ovbench.methods.params import FreeCPParams
from ovbench.parity.towers import clip_module
from ovbench.utils.errors import OvbenchError, UsageError


@pytest.fixture(scope="module")
def towers():
    generator = torch.Generator().manual_seed(0)
    spec = {"image_size": 64, "patch_size": 8, "width": 32, "heads": 2, "layers": 8, "embed_dim": 16}
    visual = clip_module(spec | {"quick_gelu": True})
    for parameter in visual.parameters():
        parameter.data = 0.2 * torch.randn(parameter.shape, generator=generator)
    return Backbones(clip=ClipVision(visual, temperature=20.0))


@pytest.fixture(scope="module")
def queries():
    generator = torch.Generator().manual_seed(3)
    return Queries(torch.nn.functional.normalize(torch.randn(9, 16, generator=generator), dim=-1), torch.arange(9))


@pytest.fixture(scope="module")
def windows():
    return torch.randn(5, 3, 72, 64, generator=torch.Generator().manual_seed(2))


@torch.inference_mode()
def purified(method, windows, queries, note=lambda name, value: None):
    method = method.eval()
    return method.score(method.encode(Batch(windows, note=note)), queries)


@pytest.mark.parametrize("official", [True, False])
def test_box_union_is_the_union_of_contour_boxes(official):
    masks = (np.random.default_rng(0).random((40, 9, 11)) < 0.3).astype(np.uint8)
    masks[0] = 0
    masks[1] = 1
    masks[2] = 0
    masks[2, :, -1] = 1  # lives in the last column only
    masks[3] = 1
    masks[3, 3:6, 3:6] = 0
    masks[3, 4, 4] = 1  # an island in a hole
    expected = np.zeros(masks.shape, bool)
    for number, mask in enumerate(masks):
        for contour in cv2.findContours(mask, cv2.RETR_TREE, cv2.CHAIN_APPROX_SIMPLE)[0]:
            x, y, w, h = cv2.boundingRect(contour)
            lost = int(official)
            expected[number, y : min(y + h, 9 - lost), x : min(x + w, 11 - lost)] = True
    assert np.array_equal(box_union(masks, official), expected)
    assert not expected[2].any() if official else expected[2].any()


def test_contours_of_holes_have_boxes_of_their_own():
    ring = torch.ones(9, 9)
    ring[3:6, 3:6] = 0
    assert sorted(contour_boxes(ring, official=False)) == [(0, 0, 9, 9), (2, 2, 7, 7)]
    assert contour_boxes(torch.zeros(4, 4), official=True) == [(0, 0, 0, 0)]


def test_levels_are_truncated():
    assert above_threshold(torch.tensor([[1.0, 0.4, 103 / 255, 102.9 / 255]])).tolist() == [[True, False, True, False]]
    assert above_threshold(torch.tensor([[0.0, 0.0039, 0.0079]])).tolist() == [[False, False, True]]


def test_soft_iou_without_the_pairwise_tensor():
    maps = torch.rand(6, 50)
    plain = torch.minimum(maps[:, None], maps).sum(2) / torch.maximum(maps[:, None], maps).sum(2)
    torch.testing.assert_close(soft_iou(maps), plain)


def test_components_are_transitive_and_in_order():
    edges = torch.eye(5, dtype=torch.bool)
    for a, b in ((0, 3), (3, 4), (1, 2)):
        edges[a, b] = edges[b, a] = True
    assert components(edges) == [[0, 3, 4], [1, 2]]


@pytest.mark.slow
@pytest.mark.parametrize("base", ["clearclip", "gem", "maskclip-freecp", "sclip-freecp", "sclip", "naclip"])
def test_windows_together_are_windows_one_by_one(towers, windows, queries, base):
    """In fp64: rounding depends on the batch's shape, and next to a threshold it would decide over a box."""
    towers = Backbones(clip=copy.deepcopy(towers.clip).double())
    windows, queries = windows.double(), queries._replace(embeddings=queries.embeddings.double())
    method = FreeCP(towers, FreeCPParams(base=base, rp_thres=0.02, ap_thres=0.3))
    seen = {}
    together = purified(method, windows, queries, seen.__setitem__)
    assert together.shape == (5, 9, 9, 8)
    assert any(row[-1] >= 0 for row in seen["group_boxes"])  # some crop was judged
    for number in range(5):
        alone = purified(method, windows[number : number + 1], queries)[0]
        torch.testing.assert_close(together[number], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.slow
def test_purification_only_removes(towers, windows, queries):
    kept = {}
    for switches in ({}, {"ambiguity": False}, {"ambiguity": False, "redundancy": False}):
        method = FreeCP(towers, FreeCPParams(base="clearclip", rp_thres=0.02, ap_thres=0.3, **switches))
        kept[len(switches)] = purified(method, windows, queries)
    for fewer, more in ((0, 1), (1, 2)):
        alive = kept[fewer].amax((2, 3)) > 0
        assert torch.equal(kept[fewer][alive], kept[more][alive])
    counts = [(kept[n].amax((2, 3)) > 0).sum() for n in (0, 1, 2)]
    assert counts[0] < counts[1] <= counts[2]


@pytest.mark.slow
def test_descriptions_choose_among_ambiguous_classes(towers, windows, queries):
    method = FreeCP(towers, FreeCPParams(base="clearclip", rp_thres=0.02, ap_thres=0.3))
    plain = purified(method, windows, queries)
    same = purified(method, windows, queries._replace(descriptions=queries.embeddings))
    other = purified(method, windows, queries._replace(descriptions=-queries.embeddings))
    assert torch.equal(plain, same) and not torch.equal(plain, other)


def test_background_prompts_act_through_the_softmax_only(towers, windows):
    generator = torch.Generator().manual_seed(3)
    text = torch.nn.functional.normalize(torch.randn(8, 16, generator=generator), dim=-1)
    queries = Queries(text, torch.tensor([0, 0, 0, 1, 2, 3, 4, 5]), background=0)
    method = FreeCP(towers, FreeCPParams(base="clearclip", rp_thres=0.02))
    scores = purified(method, windows, queries)
    assert scores[:, :3].abs().max() == 0
    classes = method.probabilities(scores[0], queries, None)
    assert classes.shape[0] == 6
    torch.testing.assert_close(classes[0], 1 - classes[1:].amax(0))


@pytest.mark.slow
def test_synonyms_share_one_map(towers, windows, queries):
    """A class whose query is split in two equal ones: half of the probability each, the same class."""
    method = FreeCP(towers, FreeCPParams(base="clearclip", rp_thres=0.02, ap_thres=0.3))
    text = queries.embeddings
    twice = Queries(torch.cat([text[:1], text[:1], text[1:]]), torch.tensor([0, 0, 1, 2, 3, 4, 5, 6, 7, 8]))
    classes = [method.probabilities(purified(method, windows[:1], q)[0], q, None) for q in (queries, twice)]
    alone = purified(method, windows[:1], twice)[0]
    assert classes[1].shape == classes[0].shape and alone[1].abs().max() == 0
    names = torch.cat([text, text[2:3]]), torch.tensor([0, 1, 2, 3, 4, 5, 6, 7, 8, 8])
    kept = {}
    purified(method, windows[:1], Queries(*names), kept.__setitem__)
    assert kept["refined"].shape[1] == 9 and kept["survive_ambiguity"].shape == (1, 9)


class Largest(TorchDispatchMode):
    """The largest tensor that any operation makes."""

    numel = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numel = max(self.numel, tensor.numel())
        return out


def test_no_tensor_of_classes_times_patches_squared(towers):
    classes, patches = 200, 8 * 8
    text = torch.nn.functional.normalize(torch.randn(classes, 16, generator=torch.Generator().manual_seed(1)), dim=-1)
    queries = Queries(text, torch.arange(classes))
    method = FreeCP(towers, FreeCPParams(base="clearclip", rp_thres=0.0, ap_thres=0.9))
    with Largest() as largest:
        purified(method, torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(2)), queries)
    assert largest.numel < classes * patches**2 / 4


def test_one_class_and_an_even_window_are_finite(towers, queries):
    one = queries._replace(embeddings=queries.embeddings[:1], class_index=queries.class_index[:1])
    for official in ("official", "paper"):
        method = FreeCP(towers, FreeCPParams(base="gem", definitions=official))
        assert purified(method, torch.randn(1, 3, 64, 64), one).isfinite().all()
        assert purified(method, torch.zeros(2, 3, 64, 64), queries).isfinite().all()


@pytest.mark.slow
def test_the_papers_definitions_are_another_choice(towers, windows, queries):
    scores = [
        purified(FreeCP(towers, FreeCPParams(base="gem", rp_thres=0.02, definitions=name)), windows, queries)
        for name in ("official", "paper")
    ]
    assert not torch.allclose(*scores)


def test_no_survivor_is_the_lowest_class_or_the_background(towers, queries):
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    method = FreeCP(towers, FreeCPParams(base="clearclip", rp_thres=0.9))
    for given in (queries, queries._replace(background=2)):
        labels = Predictor(method, Protocol(crop=64, short_side=0), [given]).label(image)[0]
        assert np.unique(labels).tolist() == [given.background or 0]


@pytest.mark.parametrize("base", ["corrclip", "freecp", "nosuch"])
def test_a_base_has_to_offer_its_attention(towers, base):
    with pytest.raises(OvbenchError, match=r"attention|nosuch"):
        FreeCP(towers, FreeCPParams(base=base))


@pytest.mark.slow
@pytest.mark.parametrize("base", ["scclip", "sfp", "dihclip"])
@torch.inference_mode()
def test_self_calibrated_bases_show_the_attention_of_the_unchanged_blocks(towers, windows, queries, base):
    with pytest.raises(UsageError, match=rf'the base "{base}", which runs with its default parameters, does not fit'):
        FreeCP(towers, FreeCPParams(base=base))  # a tower of 8 blocks
    spec = {"image_size": 64, "patch_size": 8, "width": 32, "heads": 4, "layers": 12, "embed_dim": 16}
    torch.manual_seed(0)
    deeper = Backbones(clip=ClipVision(clip_module(spec | {"quick_gelu": True}), temperature=20.0))
    method, sclip = (FreeCP(deeper, FreeCPParams(base=name)).eval() for name in (base, "sclip"))
    features, plain = (one.encode(Batch(windows)) for one in (method, sclip))
    torch.testing.assert_close(features.transition, plain.transition)
    assert not torch.allclose(features.tokens, plain.tokens)
    assert purified(method, windows, queries).shape == (5, 9, 9, 8)


def test_the_temperature_is_the_checkpoints_unless_given(towers):
    assert FreeCP(towers, FreeCPParams(base="clearclip")).temperature == towers.clip.temperature == 20.0
    assert FreeCP(towers, FreeCPParams(base="clearclip", temperature=100.0)).temperature == 100.0
    for wrong in (0.0, -1.0, float("inf"), float("nan")):
        with pytest.raises(UsageError, match="temperature"):
            FreeCPParams(temperature=wrong)
