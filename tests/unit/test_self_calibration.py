"""SC-CLIP, SFP and DiH-CLIP against plain NumPy forms of their steps, and what holds for any window."""

import numpy as np
import pytest
import torch

from ovbench.backbones.clip import ClipVision
from ovbench.config.load import resolve
from ovbench.methods.base import Backbones, Batch
from ovbench.methods.dihclip import DiHCLIP
from ovbench.methods.freecp import FreeCP
from ovbench.methods.params import DiHCLIPParams, FreeCPParams, SCCLIPParams, SFPParams
from ovbench.methods.scclip import SCCLIP
from ovbench.methods.self_calibration import above_quantile, cosines, outlier_factors, repair
from ovbench.methods.sfp import SFP
from ovbench.parity.recorder import Recorder
from ovbench.parity.towers import clip_module
from ovbench.utils.errors import UsageError

LEVELS = {"pre_level": 4, "post_level": 1, "multi_start": 1, "multi_end": 5}
MADE = {
    "scclip": lambda towers, **more: SCCLIP(towers, SCCLIPParams(**LEVELS, **more)),
    "sfp": lambda towers, **more: SFP(towers, SFPParams(**LEVELS, **more)),
    "dihclip": lambda towers, **more: DiHCLIP(towers, DiHCLIPParams(**LEVELS, **{"heads": 2, **more})),
}


@pytest.fixture(scope="module")
def towers():
    return tower()


def tower():
    """In fp64, whose patches differ enough for every decision to fall on both sides."""
    torch.manual_seed(0)
    size = {"image_size": 32, "patch_size": 8, "width": 32, "heads": 4, "layers": 7, "embed_dim": 16}
    visual = clip_module(size | {"quick_gelu": True})
    for name, parameter in visual.named_parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=4 / 192**0.5 if parameter.ndim == 4 else 0.3)
        elif "ln_" not in name:
            torch.nn.init.normal_(parameter, std=0.1)
    return Backbones(clip=ClipVision(visual.double()))


@pytest.fixture(scope="module")
def windows():
    return torch.randn(3, 3, 48, 72, generator=torch.Generator().manual_seed(2)).double()  # 6 x 9 patches


@torch.inference_mode()
def notes_of(method, windows):
    notes = Recorder()
    notes("features", method.eval().encode(Batch(windows, note=notes)))
    return notes


def patches(seed, windows=2, count=54, width=8):
    return torch.randn(windows, count, width, generator=torch.Generator().manual_seed(seed)).double()


# what all three share


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", MADE)
def test_windows_of_a_batch_are_independent_and_need_not_be_square(towers, windows, name):
    method = MADE[name](towers)
    together = notes_of(method, windows).once("features")
    assert together.grid == (6, 9) and together.tokens.shape == (3, 54, 16)
    for number in range(3):
        alone = notes_of(method, windows[number : number + 1]).once("features").tokens[0]
        torch.testing.assert_close(together.tokens[number], alone, atol=1e-9, rtol=1e-9)


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", MADE)
def test_a_window_on_its_side_has_its_features_on_its_side(windows, name):
    """Nothing but the positions and the patches' own pixels knows rows from columns."""
    method = MADE[name](tower())
    method.clip.visual.positional_embedding.data[1:].zero_()
    there = notes_of(method, windows).once("features")
    kernel = method.clip.visual.conv1.weight
    kernel.data = kernel.data.mT.contiguous()
    back = notes_of(method, windows.mT.contiguous()).once("features")
    assert back.grid == there.grid[::-1] == (9, 6)
    turned = back.tokens.unflatten(1, back.grid).transpose(1, 2).flatten(1, 2)
    torch.testing.assert_close(turned, there.tokens, atol=1e-8, rtol=1e-8)


@pytest.mark.quick(4)
@pytest.mark.parametrize(
    ("name", "off"),
    [
        *((name, off) for name in MADE for off in ("average", "calibrate", "multi")),
        *(("scclip", "repair"), ("sfp", "repair"), ("sfp", "repair_pre"), ("dihclip", "pre_output")),
    ],
)
def test_each_component_can_be_switched_off(towers, windows, name, off):
    complete = notes_of(MADE[name](towers), windows).once("features").tokens
    without = notes_of(MADE[name](towers, **{off: False}), windows).once("features").tokens
    assert (complete - without).abs().max() > 1e-4


def test_the_steps_of_a_window(towers, windows):
    """Steps 3 to 7 of the specification, written out for one window in NumPy, from the notes of steps 1 and 2."""
    method = MADE["scclip"](towers)
    notes = notes_of(method, windows)
    p, clip = method.params, method.clip
    t = [x[1].numpy() for x in clip.states(clip.embed(windows)[0], range(1, 7))]
    x = notes.window("tokens_repaired", 1).numpy()
    s = notes.window("similarity", 1).numpy()
    kept = np.where(s < p.beta, 0, s)
    x = kept @ x / (kept.sum(1, keepdims=True) + 1e-6)
    m = np.exp(np.where(s < s.mean(), -np.inf, 3 * (s - s.mean())))
    m /= m.sum(1, keepdims=True)
    unit = t[1][1:] / np.linalg.norm(t[1][1:], axis=1, keepdims=True)
    post = np.where(unit @ unit.T < p.beta, 0, unit @ unit.T)
    post /= post.sum(1, keepdims=True) + 1e-6
    levels = sum(t[1:5])
    ours = post @ (attended(clip, x, m) + 0.3 * t[5][0]) + post @ (attended(clip, levels[1:], m) + 0.3 * levels[0])
    expected = notes.window("sum", 1).numpy()
    np.testing.assert_allclose(ours, expected, atol=1e-9, rtol=1e-9)


def attended(clip, x, m):
    """O((M + softmax(k k^T)) / 2 v) of one window, head by head."""
    block, heads = clip.blocks[-1], []
    _, keys, values = (z[0].numpy() for z in clip.project_heads(block, block.ln_1(torch.from_numpy(x)[None])))
    for k, v in zip(keys, values, strict=True):
        own = np.exp(k @ k.T / np.sqrt(k.shape[1]))
        heads.append((m + own / own.sum(1, keepdims=True)) / 2 @ v)
    return block.attn.out_proj(torch.from_numpy(np.concatenate(heads, 1))).detach().numpy()


@pytest.mark.parametrize("name", MADE)
def test_levels_that_the_tower_lacks(towers, name):
    made = {"scclip": (SCCLIP, SCCLIPParams), "sfp": (SFP, SFPParams), "dihclip": (DiHCLIP, DiHCLIPParams)}
    method, params = made[name]
    with pytest.raises(UsageError, match="pre_level is 8, but the blocks before the last one are 0 to 5"):
        method(towers, params())
    with pytest.raises(UsageError, match="multi_end is 7"):
        method(towers, params(**{**LEVELS, "multi_end": 7}))
    with pytest.raises(UsageError, match="multi_end is 3, multi_start 3"):
        method(towers, params(**{**LEVELS, "multi_start": 3, "multi_end": 3}))


def test_levels_of_another_depth_are_told(towers, windows, caplog):
    torch.manual_seed(0)
    deep = {"image_size": 32, "patch_size": 8, "width": 16, "heads": 2, "layers": 14, "embed_dim": 8}
    tower = Backbones(clip=ClipVision(clip_module(deep | {"quick_gelu": True})))
    SCCLIP(tower)
    assert "this tower has 14: ViT-L/14 has pre_level=16" in caplog.text


def test_freecp_takes_one_as_its_base(windows):
    size = {"image_size": 32, "patch_size": 8, "width": 16, "heads": 4, "layers": 12, "embed_dim": 8}
    towers = Backbones(clip=ClipVision(clip_module(size | {"quick_gelu": True})))
    for base in MADE:
        purifiable = FreeCP(towers, FreeCPParams(base=base)).encode(Batch(windows.float()))
        assert purifiable.tokens.shape == (3, 54, 8) and purifiable.transition.shape == (3, 54, 54)


def test_equal_patches_give_numbers(towers):
    """A row of M keeps its diagonal where rounding puts it below the mean; no outlier divides by zero."""
    x = torch.ones(1, 54, 8).double()
    assert torch.isfinite(outlier_factors(x, 30)).all() and not above_quantile(outlier_factors(x, 30), 0.05).any()
    for name in MADE:
        found = notes_of(MADE[name](towers), torch.zeros(2, 3, 48, 72).double()).once("features")
        assert torch.isfinite(found.tokens).all()


# outliers of SC-CLIP


def factors(x, neighbours, textbook):
    """One window, one patch at a time."""
    d = ((x[:, None] - x[None]) ** 2).sum(-1)
    d = np.sqrt(d) if textbook else d
    order = [[j for j in np.argsort(d[i]) if j != i][:neighbours] for i in range(len(x))]
    last = np.array([d[i, order[i][-1]] for i in range(len(x))])
    if not textbook:
        return np.array([np.mean([last[i] / last[j] for j in order[i]]) for i in range(len(x))])
    density = np.array([1 / np.mean([max(d[i, j], last[j]) for j in order[i]]) for i in range(len(x))])
    return np.array([np.mean([density[j] for j in order[i]]) / density[i] for i in range(len(x))])


@pytest.mark.parametrize("textbook", [False, True])
def test_outlier_factors(textbook):
    x = patches(3)
    found = outlier_factors(x, 30, textbook=textbook)
    for number in range(2):
        np.testing.assert_allclose(found[number], factors(x[number].numpy(), 30, textbook), rtol=1e-9)
    few = outlier_factors(x[:, :20], 30, textbook=textbook)  # all others are neighbours
    np.testing.assert_allclose(few[0], factors(x[0, :20].numpy(), 19, textbook), rtol=1e-9)
    assert outlier_factors(x[:, :1], 30, textbook=textbook).tolist() == [[1.0], [1.0]]


def test_distances_do_not_cancel_beside_large_tokens():
    x = patches(4).float() + 1e4
    found = outlier_factors(x, 30)
    np.testing.assert_allclose(found[1], factors(x[1].double().numpy(), 30, False), rtol=1e-6)


@pytest.mark.parametrize(("count", "outliers"), [(196, 10), (256, 13), (144, 8), (64, 4), (121, 6)])
def test_how_many_are_above_the_quantile(count, outliers):
    """Where the position of the quantile is a whole number, the threshold is a patch's own score: not above."""
    values = torch.randn(2, count, generator=torch.Generator().manual_seed(0)).double()
    found = above_quantile(values, 0.05)
    assert found.sum(1).tolist() == [outliers] * 2
    assert (found == (values > values.quantile(0.95, dim=1, keepdim=True))).all() or count == 121


def test_repair():
    """The mean of sound neighbours inside the window; an enclosed outlier keeps its token."""
    grid, x = (4, 5), patches(5, count=20)
    outliers = torch.zeros(2, 20, dtype=torch.bool)
    outliers[0, [0, 1, 5, 6]] = True  # fill a corner: patch 0 has no sound neighbour
    outliers[1, [19]] = True
    found = repair(x, outliers, grid)
    for window in range(2):
        for n in range(20):
            near = [
                m for m in range(20)
                if m != n and not outliers[window, m] and max(abs(m // 5 - n // 5), abs(m % 5 - n % 5)) <= 1
            ]  # fmt: skip
            expected = x[window, near].mean(0) if outliers[window, n] and near else x[window, n]
            torch.testing.assert_close(found[window, n], expected)
    assert (found[0, 0] == x[0, 0]).all()


def test_cosines_at_beta_stay():
    x = torch.tensor([[[1.0, 0, 0], [0.5, 0.75**0.5, 0]]]).double()
    found = cosines(x, float(cosines(x, 0).all[0, 0, 1]))
    assert (found.cut == found.all).all()


# outliers of SFP


def test_the_detector_of_sfp(towers, windows):
    method = MADE["sfp"](towers, outliers=5)
    notes, clip = notes_of(method, windows), method.clip
    before = clip.states(clip.embed(windows)[0], [5])[0]
    weights = []
    with torch.inference_mode():
        block = clip.blocks[5]
        clip.attention(block, block.ln_1(before), lambda head, w: weights.append(w))
    mean = torch.cat(weights, 1).mean(1)
    for number, a in enumerate(mean.numpy()):
        row = 1.5 * a[0, 1:]
        candidates = [j for j in range(54) if row[j] > a[j + 1, j + 1]]
        expected = sorted(sorted(candidates, key=lambda j: -row[j])[:5])
        assert notes.window("outliers", number).nonzero()[:, 0].tolist() == expected
    assert len(expected) == 5


def test_other_detectors_of_sfp(towers, windows):
    norm = notes_of(MADE["sfp"](towers, detector="norm"), windows)
    x = norm.window("tokens_before_last", 2)[1:]
    assert set(norm.window("outliers", 2).nonzero()[:, 0].tolist()) == set(x.norm(dim=1).topk(10).indices.tolist())
    distance = notes_of(MADE["sfp"](towers, detector="distance"), windows)
    scclip = notes_of(MADE["scclip"](towers), windows)
    assert (distance.window("outliers", 2) == scclip.window("outliers", 2)).all()


def test_no_candidate_no_repair(towers, windows):
    notes = notes_of(MADE["sfp"](towers, res_scale=0.0), windows)
    assert not notes.window("outliers", 0).any()
    assert (notes.window("tokens_repaired", 0) == notes.window("tokens_before_last", 0)[1:]).all()


# heads of DiH-CLIP


def test_heads_are_those_of_lowest_entropy(towers, windows):
    notes = notes_of(MADE["dihclip"](towers), windows)
    for step in ("pre", "last", "multi"):
        for number in range(3):
            entropy = notes.window(f"{step}_entropy", number)
            assert notes.window(f"{step}_heads", number).tolist() == sorted(entropy.argsort()[:2].tolist())
    p = notes.window("last_attention", 1).numpy()
    heads = notes.window("last_heads", 1).tolist()
    bits = -(p * np.log2(p + 1e-6)).sum((1, 2))
    np.testing.assert_allclose(bits, notes.window("last_entropy", 1)[heads], rtol=1e-9)


def test_selected_heads_mix_all_values(towers, windows):
    method = MADE["dihclip"](towers)
    notes, clip = notes_of(method, windows), method.clip
    block = clip.blocks[-1]
    x = notes.window("tokens_aggregated", 1)[None]
    v = clip.values(block, block.ln_1(x))[0]
    mixed = sum(p @ v for p in notes.window("last_attention", 1)) / 4
    expected = block.attn.out_proj(mixed) + 0.3 * notes.window("tokens_before_last", 1)[0]
    torch.testing.assert_close(notes.window("last", 1), expected.detach())


def test_without_selection_it_is_scclip_without_repair(towers, windows):
    plain = notes_of(MADE["dihclip"](towers, heads=0), windows).once("features").tokens
    torch.testing.assert_close(plain, notes_of(MADE["scclip"](towers, repair=False), windows).once("features").tokens)


def test_more_heads_than_there_are(towers):
    with pytest.raises(UsageError, match="heads is 5, but the tower has 4"):
        MADE["dihclip"](towers, heads=5)


@pytest.mark.parametrize(
    ("params", "given"),
    [
        (SCCLIPParams, {"detector": "som"}),
        (SCCLIPParams, {"contamination": 0.0}),
        (SCCLIPParams, {"neighbours": 0}),
        (SFPParams, {"detector": "SOM"}),
        (SFPParams, {"multi_attention": "none"}),
        (SFPParams, {"outliers": 0}),
        (DiHCLIPParams, {"heads": -1}),
    ],
)
def test_parameters_out_of_range(params, given):
    with pytest.raises(UsageError):
        params(**given)


def test_settings_that_the_codes_differ_in():
    assert {n: resolve(n, "ade150").protocol.short_side for n in MADE} == {"scclip": 336, "sfp": 384, "dihclip": 336}
    assert {n: resolve(n, "voc21").protocol.vocabulary for n in MADE} == {
        "scclip": "sclip", "sfp": "sfp", "dihclip": "sclip"
    }  # fmt: skip
    assert resolve("scclip", "voc21").params.area_thd == 0.1 and resolve("scclip", "pc60").params.area_thd == 0
