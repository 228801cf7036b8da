"""CorrCLIPv2 against the whole map G, written down step by step, and independent of batches."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from test_vfm import radio, randomised
from towers import small_towers

from ovbench.backbones.base import Loaded
from ovbench.backbones.preprocess import OPENAI
from ovbench.backbones.vfm import VfmVision
from ovbench.config.load import Protocol
from ovbench.inference.batching import WindowBatcher
from ovbench.inference.predictor import Predictor
from ovbench.methods import corrclipv2
from ovbench.methods.base import Backbones, Queries
from ovbench.methods.corrclipv2 import CorrCLIPv2, WholeImage, pixel_features, window_features
from ovbench.methods.ops import Box, Pad
from ovbench.methods.support.bank import RegionBank
from ovbench.methods.support.index_file import Vectors
from ovbench.methods.tower_params import CorrCLIPv2Params
from ovbench.parity.recorder import Recorder
from ovbench.utils.errors import InputError, UsageError

IMAGE = np.random.default_rng(0).integers(0, 255, (130, 170, 3), np.uint8)
REGIONS = np.arange(130 * 170).reshape(130, 170) // 170 // 33 * 3 + (np.arange(170) // 41)[None]
PROTOCOL = Protocol(short_side=150, crop=64, stride=40, pad=56)
PIXELS = {"original": IMAGE.shape[:2], "regions": REGIONS.astype(np.int32), "pixels": IMAGE}


@pytest.fixture(scope="module")
def towers():
    return Backbones(clip=small_towers().clip.float(), vfm=VfmVision(randomised(radio()), OPENAI))


@pytest.fixture(scope="module")
def queries(towers):
    """Queries like single cells, so that labels differ."""
    notes, any_queries = Recorder(), Queries(F.normalize(torch.eye(4, 12), dim=-1), torch.arange(4))
    Predictor(CorrCLIPv2(towers), PROTOCOL, [any_queries]).label_resized(IMAGE, **PIXELS, note=notes)
    tokens = torch.cat([features.tokens for features in notes.notes["features"]]).flatten(0, 1)
    return any_queries._replace(embeddings=F.normalize((tokens - tokens.mean(0))[:: len(tokens) // 4][:4], dim=-1))


def whole_map(features, size):
    return F.normalize(F.interpolate(features[None], size, mode="bilinear", align_corners=False)[0], dim=0)


@pytest.mark.parametrize("size", [(130, 171), (90, 60), (7, 9)])  # enlarged in both, one or no direction
def test_windows_read_the_whole_map(size):
    """Crop of G, replicated into the padding on all sides, resized to the grid and normalised again."""
    generator = torch.Generator().manual_seed(0)
    features, pad = torch.randn(6, 9, 11, generator=generator), Pad(2, 3, 1, 4)
    whole = WholeImage(features, size, pad)
    g = whole_map(features, size)
    found = pixel_features(features, size, *(torch.arange(side) for side in size))
    torch.testing.assert_close(found, g, atol=1e-5, rtol=1e-5)
    box = Box(size[0] // 3, size[1] // 4, size[0], size[1] - 1)
    window = F.pad(box.of(g)[None], pad, mode="replicate")
    for grid in ((4, 6), (14, 14), (5, 3)):
        cells = F.interpolate(window, grid, mode="bilinear", align_corners=False)[0].flatten(1).T
        torch.testing.assert_close(window_features(whole, box, grid), F.normalize(cells, dim=-1), atol=1e-5, rtol=1e-4)


@pytest.mark.slow
def test_the_original_image_is_seen_once_and_regions_are_not_merged(towers, queries):
    notes = Recorder()
    predictor = Predictor(CorrCLIPv2(towers), PROTOCOL, [queries])
    image = predictor.with_context(predictor.prepare(IMAGE, REGIONS.astype(np.int32)))
    assert image.size == (150, 196) and image.context.features.shape == (32, 8, 11)  # 130 / 16 and 170 / 16, rounded
    predictor.label_resized(IMAGE, **PIXELS, note=notes)
    assert len(notes.notes["vfm_features"]) == 1 and len(notes.once("windows")) > 4
    assert set(notes.window("masks_merged", 0).unique().tolist()) <= {*np.unique(REGIONS).tolist(), 10000}
    assert notes.window("masks_merged", 0).shape == (14, 14)  # 2 x 2 cells in each of 7 x 7 patches


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "changed",
    [
        {"grid_scale": 1}, {"scope": False}, {"spatial_branch": False}, {"mask_class_tokens": False},
        {"map_correction": False}, {"tau": 1.0}, {"spatial_depth": 2},
    ],
)  # fmt: skip
def test_every_setting_acts(towers, queries, changed):
    def scores(params):
        notes = Recorder()
        predictor = Predictor(CorrCLIPv2(towers, params), PROTOCOL, [queries])
        predictor.label_resized(IMAGE, **PIXELS, note=notes)
        labels = "labels" if "map_correction" in changed else "merged_scores"
        return notes.once(labels)

    assert not torch.equal(scores(CorrCLIPv2Params()), scores(CorrCLIPv2Params(**changed)))


@pytest.mark.slow
def test_labels_do_not_depend_on_other_images(towers, queries):
    predictor = Predictor(CorrCLIPv2(towers), PROTOCOL, [queries])
    regions = REGIONS.astype(np.int32)
    expected = predictor.label(IMAGE, regions)[0]
    assert len(np.unique(expected)) > 1
    together, cuts = WindowBatcher(predictor, 8), [np.s_[:64], np.s_[:], np.s_[:, :64]]
    found = [one for n, cut in enumerate(cuts) for one in together.add(n, IMAGE[cut], regions[cut])]
    (labels,) = (one.labels[0] for one in [*found, *together.flush()] if one.number == 1)
    np.testing.assert_array_equal(labels, expected)


def bank_of(count, width=32, ids=None):
    """A bank whose regions have random keys, and CLIP embeddings of two encoders."""
    generator = torch.Generator().manual_seed(2)
    keys, main, auxiliary = (torch.randn(count, side, generator=generator) for side in (width, 12, 7))
    ids = torch.arange(count) if ids is None else ids
    return RegionBank(Vectors(ids, False, flat=F.normalize(keys, dim=-1)), main.half(), auxiliary.half())


@pytest.mark.quick(1)
@pytest.mark.parametrize("second", [False, True])
@pytest.mark.parametrize("count", [30, 3])
def test_scores_of_a_bank_are_mixed_before_the_original_size(towers, queries, second, count, monkeypatch):
    """Written down region by region: mean of G, neighbours, plain mean of their rows, cosines, half and half."""
    monkeypatch.setattr(corrclipv2, "BLOCK", 20_000)  # a few rows of G at once
    bank = bank_of(count, ids=torch.randperm(count, generator=torch.Generator().manual_seed(3)))
    given = {"clip": towers.clip, "vfm": towers.vfm, "support": bank}
    given["auxiliary"] = torch.nn.Identity() if second else None
    method = CorrCLIPv2(Backbones(**given), CorrCLIPv2Params(neighbours=5))
    of_second = F.normalize(torch.randn(4, 7, generator=torch.Generator().manual_seed(4)), dim=-1)
    notes = Recorder()
    predictor = Predictor(method, PROTOCOL, [queries._replace(presence=of_second)])
    predictor.label_resized(IMAGE, **PIXELS, note=notes)
    g, expected = whole_map(notes.once("vfm_features"), IMAGE.shape[:2]), notes.once("merged_scores") / 2
    for region in np.unique(REGIONS):
        inside = torch.from_numpy(region == REGIONS)
        distance = (bank.vectors.flat - F.normalize(g[:, inside].mean(1), dim=0)).square().sum(1)
        rows = bank.vectors.ids[distance.argsort()[:5]]
        score = F.normalize(bank.main[rows].float().mean(0), dim=0) @ queries.embeddings.T
        if second:
            score = (score + F.normalize(bank.auxiliary[rows].float().mean(0), dim=0) @ of_second.T) / 2
        expected[:, inside] += score[:, None] / 2
    torch.testing.assert_close(notes.once("adjusted_scores"), expected, atol=1e-5, rtol=1e-4)


def loaded(**changed):
    """What a pipeline would have loaded, reduced to what the check of a bank reads."""
    proj = SimpleNamespace(visual=SimpleNamespace(proj=torch.zeros(8, 12)))
    second = SimpleNamespace(visual=SimpleNamespace(proj=torch.zeros(8, 7)))
    parts = {
        "clip": Loaded(proj, "ViT-B-16/openai", ""), "support": Loaded(bank_of(9), "set", ""),
        "vfm": Loaded(SimpleNamespace(width=32), "radio-l", ""), "auxiliary": Loaded(second, "ViT-B-16/dfn2b", ""),
    }  # fmt: skip
    return parts | changed


@pytest.mark.parametrize(
    ("name", "changed", "message"),
    [
        ("vfm", {"vfm": "dinov3"}, "made with dinov3, not with radio-l"),
        ("auxiliary", {"auxiliary": None}, "no store of a second CLIP"),
        ("clip", {"main": torch.zeros(9, 5)}, "width 5, but clip=ViT-B-16/openai has 12"),
        ("auxiliary", {"auxiliary": torch.zeros(9, 5)}, "width 5, but auxiliary=ViT-B-16/dfn2b has 7"),
    ],
)
def test_a_bank_of_other_networks_is_refused(name, changed, message):
    CorrCLIPv2.check_backbones(loaded(), SimpleNamespace(mean=OPENAI.mean, std=OPENAI.std))
    parts = loaded()
    for attribute, value in changed.items():
        setattr(parts["support"].vision, attribute, value)
    with pytest.raises(InputError, match=message):
        CorrCLIPv2.check_backbones(parts, SimpleNamespace(mean=OPENAI.mean, std=OPENAI.std))


def test_a_second_clip_needs_a_bank():
    with pytest.raises(InputError, match="support is none"):
        CorrCLIPv2.check_specs({"support": "none", "auxiliary": "mini"})


@pytest.mark.parametrize("wrong", [{"grid_scale": 0}, {"neighbours": 0}, {"fusion": 1.5}, {"fusion": -0.1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError):
        CorrCLIPv2Params(**wrong)
