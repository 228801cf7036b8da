"""Properties of the methods that change CLIP's last block."""

import dataclasses

import numpy as np
import pytest
import torch

from ovbench.backbones.clip import ClipVision
from ovbench.backbones.dino import DinoVision
from ovbench.backbones.normalization import renormalise
from ovbench.backbones.pos_embed import resize_positions_smoothly
from ovbench.backbones.preprocess import IMAGENET, OPENAI
from ovbench.config.load import Protocol, resolve
from ovbench.inference.predictor import Predictor
from ovbench.methods.base import Backbones, Batch, Queries
from ovbench.methods.clearclip import ClearCLIP
from ovbench.methods.clip import CLIP
from ovbench.methods.gem import GEM
from ovbench.methods.maskclip import MaskCLIP, MaskCLIPFreeCP
from ovbench.methods.naclip import NACLIP, neighbourhood
from ovbench.methods.params import GEMParams, Residual
from ovbench.methods.proxyclip import ProxyCLIP
from ovbench.methods.sclip import SCLIP, SCLIPFreeCP, without_small_classes
from ovbench.parity.recorder import Recorder
from ovbench.parity.towers import clip_module, dino_module
from ovbench.utils.registry import METHODS

FAMILY = ["clearclip", "clip", "gem", "maskclip", "maskclip-freecp", "naclip", "sclip", "sclip-freecp"]


@pytest.fixture(scope="module")
def towers():
    torch.manual_seed(0)
    size = {"image_size": 32, "patch_size": 8, "width": 32, "heads": 2}
    visual = clip_module(size | {"layers": 8, "embed_dim": 16, "quick_gelu": True})
    for parameter in visual.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return Backbones(clip=ClipVision(visual), dino=DinoVision(dino_module(size | {"layers": 2})))


@pytest.fixture(scope="module")
def windows():
    return torch.randn(3, 3, 48, 40, generator=torch.Generator().manual_seed(2))


@torch.inference_mode()
def encoded(method, windows):
    return method.eval().encode(Batch(windows)).tokens


@pytest.mark.quick(3)
@pytest.mark.parametrize("name", [*FAMILY, "proxyclip"])
def test_a_window_does_not_depend_on_its_neighbours(towers, windows, name):
    method = METHODS.load(name)(towers)
    together = encoded(method, windows)
    assert together.shape == (3, 30, 16)
    for number in range(3):
        alone = encoded(method, windows[number : number + 1])[0]
        torch.testing.assert_close(together[number], alone, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("name", FAMILY)
def test_watching_the_attention_changes_nothing(towers, windows, name):
    method, seen = METHODS.load(name)(towers).eval(), []
    with torch.inference_mode():
        watched = method.dense(windows, watch=lambda first, weights: seen.append(weights.sum(-1))).tokens
    torch.testing.assert_close(watched, encoded(method, windows), atol=1e-4, rtol=1e-4)
    assert len(seen) == 7 * 2  # blocks but the last, times heads
    torch.testing.assert_close(torch.stack(seen), torch.ones(14, 3, 1, 31))


@pytest.mark.parametrize("name", ["clip", "gem"])
def test_the_class_token_is_that_of_the_whole_tower(towers, windows, name):
    method = METHODS.load(name)(towers).eval()
    with torch.inference_mode():
        tokens, _ = towers.clip.embed(windows, smooth_positions=method.smooth_positions)
        expected = towers.clip.project(towers.clip.trunk(tokens, until=None))[:, 0]
        torch.testing.assert_close(method.class_features(windows), expected, atol=1e-4, rtol=1e-4)


def test_names_of_the_same_kin_are_different_methods(towers, windows):
    variants = [MaskCLIP, MaskCLIPFreeCP, SCLIP, SCLIPFreeCP, ClearCLIP, NACLIP, CLIP, GEM]
    features = [torch.nn.functional.normalize(encoded(v(towers), windows), dim=-1) for v in variants]
    for i, one in enumerate(features):
        for other in features[:i]:
            assert (one - other).abs().max() > 1e-3


def test_sclip_rows_sum_to_two(towers):
    ones = torch.ones(1, 2, 5, 16)
    heads = type("H", (tuple,), {})((torch.randn(1, 2, 5, 16), torch.randn(1, 2, 5, 16), ones))
    torch.testing.assert_close(SCLIP(towers).mix(heads, (2, 2)), 2 * ones)


def test_gem_leaves_the_ordinary_path_alone(towers, windows):
    notes = {}
    for method in (CLIP(towers), GEM(towers), GEM(towers, GEMParams(depth=4, iterations=2))):
        with torch.inference_mode():
            method.dense(windows, note=lambda name, value, m=method: notes.setdefault(m, value))
    plain, *others = notes.values()
    with torch.inference_mode():  # GEM resizes the positions in another way, so its path starts elsewhere
        tokens, _ = towers.clip.embed(windows, smooth_positions=True)
        smooth = towers.clip.trunk(tokens)
    assert not torch.allclose(plain, smooth, atol=1e-3)
    for other in others:
        torch.testing.assert_close(other, smooth, atol=1e-4, rtol=1e-4)


def test_gem_of_depth_one_is_the_ordinary_stream(towers, windows):
    with torch.inference_mode():
        tokens, _ = towers.clip.embed(windows, smooth_positions=True)
        stream = towers.clip.project(towers.clip.trunk(tokens, until=None)[:, 1:])
    torch.testing.assert_close(encoded(GEM(towers, GEMParams(depth=1)), windows), stream, atol=1e-4, rtol=1e-4)


def test_positions_are_untouched_on_the_native_grid_only():
    table = torch.randn(17, 6)
    assert resize_positions_smoothly(table, (4, 4)) is table
    assert not torch.allclose(resize_positions_smoothly(table, (2, 8)), table)
    assert resize_positions_smoothly(table, (3, 5)).shape == (16, 6)


def test_the_neighbourhood_is_one_at_home_and_zero_for_the_class_token():
    nearness = neighbourhood((2, 3), 5.0)
    assert torch.equal(nearness[0], torch.zeros(7)) and torch.equal(nearness[:, 0], torch.zeros(7))
    assert torch.equal(nearness.diagonal()[1:], torch.ones(6))
    assert nearness[1, 6] == pytest.approx(np.exp(-(1 + 4) / 50))  # one row and two columns away
    assert torch.equal(nearness, nearness.T)


def test_proxy_attention_of_an_even_window_is_finite(towers):
    method = ProxyCLIP(towers)
    attention = method.attention(torch.ones(1, 4, 4))  # nothing exceeds 1.2 times the mean
    assert torch.equal(attention[0], torch.eye(4))
    assert encoded(method, torch.zeros(1, 3, 32, 32)).isfinite().all()


def test_dino_sees_the_colours_that_clip_saw():
    pixels = torch.rand(1, 3, 4, 4)
    clip = (pixels - torch.tensor([0.48145466, 0.4578275, 0.40821073]).view(3, 1, 1)) / torch.tensor(
        [0.26862954, 0.26130258, 0.27577711]
    ).view(3, 1, 1)
    expected = (pixels - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)) / torch.tensor([0.229, 0.224, 0.225]).view(
        3, 1, 1
    )
    torch.testing.assert_close(renormalise(clip, OPENAI, IMAGENET), expected)


def test_small_classes_vanish_but_the_background_never_does():
    probabilities = torch.zeros(4, 1, 10)
    probabilities[0, 0, 0] = probabilities[1, 0, 1:8] = probabilities[2, 0, 8:] = 0.9
    kept = without_small_classes(probabilities, 0.3, 0)
    assert kept[0].sum() > 0 and kept[1].sum() > 0
    assert kept[2].sum() == 0  # 2 of 9 foreground pixels
    assert torch.equal(without_small_classes(probabilities, 0.2, 0)[:3], probabilities[:3])
    turned = without_small_classes(probabilities.roll(-1, 0), 0.3, 3)  # the background is the last class
    assert torch.equal(turned, kept.roll(-1, 0))


QUERIES = Queries(torch.nn.functional.normalize(torch.randn(3, 16, generator=torch.Generator().manual_seed(5)), dim=-1),
                  torch.arange(3))  # fmt: skip


def full_scores(method, protocol, image, resized):
    notes = Recorder()
    predictor = Predictor(method, protocol, [QUERIES])
    predictor.label_resized(resized, image.shape[:2], note=notes)
    return {name: notes.once(name) for name in notes.notes}


def test_an_image_without_windows_is_enlarged_once_and_never_padded(towers):
    image = np.random.default_rng(0).integers(0, 255, (60, 90, 3), np.uint8)
    resized = image[:37, :50]
    notes = full_scores(MaskCLIP(towers), Protocol(crop=0, pad=16), image, resized)
    assert notes["batch_windows"].shape[-2:] == (37, 50)
    direct = torch.nn.functional.interpolate(notes["patch_scores"], (60, 90), mode="bilinear")[0]
    torch.testing.assert_close(notes["full_scores"], direct, atol=1e-6, rtol=1e-5)


@pytest.mark.quick(4)
@pytest.mark.parametrize("name", [*FAMILY, "proxyclip"])
@pytest.mark.parametrize("refine", ["", "pamr"])
def test_a_whole_image_is_enlarged_in_the_order_of_the_official_code(towers, name, refine):
    """NACLIP's goes by way of the resized image; the others' goes to the original image at once."""
    image = np.random.default_rng(1).integers(0, 255, (60, 90, 3), np.uint8)
    notes = full_scores(METHODS.load(name)(towers), Protocol(crop=0, refine=refine), image, image[:37, :50])
    enlarged = notes["patch_scores"]
    for size in [(37, 50), (60, 90)] if name == "naclip" else [(60, 90)]:
        enlarged = torch.nn.functional.interpolate(enlarged, size, mode="bilinear")
    torch.testing.assert_close(notes["full_scores"], enlarged[0], atol=1e-6, rtol=1e-5)
    assert ("refined_scores" in notes) == bool(refine)


def test_padding_to_the_patch_follows_the_tower(towers):
    image = np.zeros((44, 61, 3), np.uint8)
    notes = full_scores(MaskCLIP(towers), Protocol(crop=96, pad=-1), image, image)
    assert notes["batch_windows"].shape[-2:] == (48, 64)


@pytest.fixture(scope="module")
def large():
    """As ViT-L/14, with a patch that divides no window, and more blocks than GEM changes."""
    torch.manual_seed(0)
    size = {"image_size": 56, "patch_size": 14, "width": 16, "heads": 2}
    visual = clip_module(size | {"layers": 9, "embed_dim": 16, "quick_gelu": True})
    for parameter in visual.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return Backbones(clip=ClipVision(visual), dino=DinoVision(dino_module(size | {"layers": 1, "patch_size": 8})))


@pytest.mark.quick(20)
@pytest.mark.parametrize("tower", ["towers", "large"])
@pytest.mark.parametrize("pad", [0, -1, 56])
@pytest.mark.parametrize("name", [*FAMILY, "proxyclip", "freecp"])
def test_every_method_labels_an_image(request, name, pad, tower):
    image = np.random.default_rng(0).integers(0, 255, (60, 83, 3), np.uint8)
    method = METHODS.load(name)(request.getfixturevalue(tower))
    labels = Predictor(method, Protocol(short_side=0, crop=64, stride=16, pad=pad), [QUERIES]).label(image)[0]
    assert labels.shape == (60, 83) and labels.max() < 3


def test_any_method_can_be_refined(towers):
    image = np.random.default_rng(0).integers(0, 255, (40, 48, 3), np.uint8)
    plain = Protocol(crop=32, stride=16)
    notes = full_scores(ClearCLIP(towers), plain, image, image)
    assert "refined_scores" not in notes
    refined = full_scores(ClearCLIP(towers), dataclasses.replace(plain, refine="pamr"), image, image)
    torch.testing.assert_close(refined["full_scores"], notes["full_scores"])
    assert (refined["refined_scores"] - refined["full_scores"]).abs().max() > 0


def test_published_settings():
    sclip = resolve("sclip", "voc21")
    assert (sclip.params.area_thd, sclip.protocol.logit_scale, sclip.protocol.prob_thd) == (0.1, 65, 0.1)
    assert resolve("sclip", "voc20").params.area_thd == 0
    naclip = resolve("naclip", "voc21").protocol
    assert (naclip.crop, naclip.refine, naclip.pamr_dilations) == (0, "pamr", (8, 16))
    assert resolve("naclip", "mini").protocol.vocabulary == ""
    clearclip = resolve("clearclip", "cityscapes").protocol
    assert (clearclip.crop, clearclip.stride, clearclip.short_side, clearclip.pad) == (224, 224, 448, -1)
    assert resolve("proxyclip", "ade847").protocol.short_side == 448
    assert resolve("maskclip", "voc21").params == Residual(True)
