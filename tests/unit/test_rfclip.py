"""RF-CLIP: its features against spelled-out loops, what its switches mean, and towers whose channels are not known."""

import math

import pytest
import torch
from torch.nn.functional import normalize
from towers import small_towers

import ovbench
from ovbench.config.load import resolve
from ovbench.methods.base import Batch, Queries, WindowedImage
from ovbench.methods.params import RFCLIPParams
from ovbench.methods.rfclip import CHANNELS, RFCLIP, redistribute
from ovbench.utils.errors import UsageError

CHANNEL = 5  # of the small tower, in which the tests make patches distract


def rfclip(**params):
    torch.manual_seed(1)
    params = {"class_token": "window", "channels": (CHANNEL, 9), "beta": 0.2, **params}
    return RFCLIP(small_towers(), RFCLIPParams(**params)).eval()


def windows(b=2, h=48, w=80, seed=3):
    return torch.randn(b, 3, h, w, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def patches_with_distractors():
    """A grid of 3 x 4 patches, of which one in a corner and two side by side distract."""
    patches = torch.randn(1, 12, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    patches[0, [0, 5, 6], CHANNEL] = 40.0
    return patches


def literal_repair(token_of, grid, alpha=0.4, sigma=5.0, channels=(CHANNEL, 9)):
    """As the specification: patch by patch, neighbours beyond the border are zeros."""
    repaired = {}
    for (y, x), f in token_of.items():
        shifted = f - f.min()
        phi = max(float(shifted[c] / shifted.sum()) for c in channels)
        repaired[y, x] = f
        if phi > sigma / len(f):
            around = [(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)]
            average = sum(token_of[place] for place in around if place in token_of) / 9
            repaired[y, x] = (1 - alpha) * f + alpha * average
    return torch.stack([repaired[y, x] for y in range(grid[0]) for x in range(grid[1])])


def on_grid(patches, grid):
    return {divmod(number, grid[1]): patch for number, patch in enumerate(patches)}


# Repair


def test_the_repair_is_that_of_a_loop_over_patches():
    patches = patches_with_distractors()
    method = rfclip()
    assert method.distractors(patches)[0].nonzero().flatten().tolist() == [0, 5, 6]
    found = method.repair(patches, (3, 4))[0]
    torch.testing.assert_close(found, literal_repair(on_grid(patches[0], (3, 4)), (3, 4)))
    assert torch.equal(found[1:5], patches[0, 1:5])  # the others keep every bit


def test_a_channel_that_is_not_named_distracts_nobody():
    assert not rfclip(channels=(9,)).distractors(patches_with_distractors()).any()
    assert not rfclip(sigma=40.0).distractors(patches_with_distractors()).any()


def test_shares_without_the_shift_are_those_of_the_plain_sum():
    patches = patches_with_distractors().abs()
    shares = patches[..., [CHANNEL, 9]].amax(-1) / patches.sum(-1)
    assert torch.equal(rfclip(shifted=False).distractors(patches), shares > 5 / 32)


def test_the_papers_repair_changes_the_distraction_channels_by_the_eight_neighbours():
    patches = patches_with_distractors()
    found = rfclip(repaired="distraction").repair(patches, (3, 4))[0]
    changed = (found != patches[0]).nonzero()
    assert {(int(n), int(c)) for n, c in changed} == {(n, c) for n in (0, 5, 6) for c in (CHANNEL, 9)}
    around = [patches[0, y * 4 + x, CHANNEL] for y in range(3) for x in range(3) if (y, x) != (1, 1)]
    torch.testing.assert_close(found[5, CHANNEL], 0.6 * patches[0, 5, CHANNEL] + 0.4 * sum(around) / 8)


def test_without_repair_no_channels_are_needed_and_the_trunk_is_clip_s():
    towers = small_towers()
    method = RFCLIP(towers, RFCLIPParams(repair=0.0))
    embedded, grid = towers.clip.embed(windows())
    torch.testing.assert_close(method.trunk(embedded, grid).before_last, towers.clip.trunk(embedded))
    torch.testing.assert_close(method.class_tokens(windows()), normalize(towers.clip.class_features(windows()), dim=-1))


# Dense features


def literal_blocks(method, window):
    """Levels and key graphs of one window, head by head."""
    clip, p = method.clip, method.params
    embedded, grid = clip.embed(window[None])
    x, levels, graphs = embedded, [], []
    for block in clip.blocks:
        _, k, _ = clip.project_heads(block, block.ln_1(x))
        graphs.append(torch.stack([(head @ head.T / math.sqrt(head.shape[-1])).softmax(-1) for head in k[0]]))
        x = clip.feed_forward(block, x + clip.attention(block, block.ln_1(x)))
        repaired = literal_repair(on_grid(x[0, 1:], grid), grid, p.repair, p.sigma, p.channels)
        x = torch.cat([x[:, :1], repaired[None]], 1)
        levels.append(x[0])
    return levels, graphs, grid


def literal_features(method, window):
    clip, p = method.clip, method.params
    levels, graphs, grid = literal_blocks(method, window)
    guide = torch.stack(levels).mean(0)
    similar = torch.nn.functional.cosine_similarity(guide[1:, None], guide[None, 1:], dim=-1)
    similar = similar * (similar >= p.beta)
    last, outputs = clip.blocks[-1], []
    for z in (levels[-2], guide):
        z = torch.cat([z[:1], similar @ z[1:]])
        _, k, v = clip.project_heads(last, last.ln_1(z)[None])
        own = torch.stack([(head @ head.T / math.sqrt(head.shape[-1])).softmax(-1) for head in k[0]])
        mean = torch.stack([*graphs[:-1], own]).mean(0)
        outputs.append(clip.merge_heads(last, (mean[:, 1:, 1:] @ v[0, :, 1:])[None])[0])
    features = normalize(clip.project((outputs[0] + outputs[1]) / 2), dim=-1)
    return features, normalize(clip.project(levels[-1][:1])[0], dim=-1), grid


@torch.inference_mode()
def test_features_are_those_of_loops_over_windows_layers_and_heads():
    method, given = rfclip(sigma=1.7), windows()
    distractors = []
    features = method.encode(Batch(given, note=lambda name, value: distractors.append((name, value))))
    share = [float(value.double().mean()) for name, value in distractors if name.startswith("distractors_")]
    assert len(share) == method.clip.layers and 0 < sum(share) < len(share)
    for number, window in enumerate(given):
        tokens, presence, grid = literal_features(method, window)
        assert features.grid == grid == (3, 5)
        torch.testing.assert_close(features.tokens[number], tokens)
        torch.testing.assert_close(features.presence[number], presence)


@torch.inference_mode()
def test_the_class_token_of_the_image_is_that_of_the_repaired_trunk():
    method, image = rfclip(sigma=1.7), windows(b=1, h=64, w=112)
    _, presence, _ = literal_features(method, image[0])
    torch.testing.assert_close(method.class_tokens(image)[0], presence)
    of_image = RFCLIP(small_towers(), RFCLIPParams(channels=(CHANNEL, 9), sigma=1.7))
    whole = WindowedImage(image[0], (64, 112), [])
    assert not of_image.windowwise and method.windowwise and method.encode_image(whole) is None
    context = of_image.encode_image(whole)
    assert torch.equal(of_image.encode(Batch(windows(), context=context)).presence, context)


@pytest.mark.quick(2)
@pytest.mark.parametrize(
    "other",
    [
        {"enhance": False}, {"attention": "last"}, {"decoded": "tokens"}, {"decoded": "guide"}, {"repair": 0.0},
        {"beta": 0.8}, {"refocus": True},
    ],
    ids=str,
)  # fmt: skip
@torch.inference_mode()
def test_a_switch_changes_the_features(other):
    given = windows()
    complete, changed = rfclip(sigma=1.7).encode(Batch(given)), rfclip(sigma=1.7, **other).encode(Batch(given))
    assert (complete.tokens - changed.tokens).abs().max() > 1e-3
    assert torch.isfinite(changed.tokens).all()


@torch.inference_mode()
def test_one_decoding_is_half_of_both_before_the_projection():
    given, outputs = windows(), {}
    for name in ("both", "tokens", "guide"):
        rfclip(decoded=name).encode(Batch(given, note=lambda key, value, n=name: outputs.setdefault((n, key), value)))
    for name in ("tokens", "guide"):
        assert torch.equal(outputs[name, f"mixed_{name}"], outputs["both", f"mixed_{name}"])
        assert (name, f"mixed_{'guide' if name == 'tokens' else 'tokens'}") not in outputs


# Redistribution of the attention


def test_sinks_give_to_the_others_in_proportion_and_rows_keep_their_sums():
    weights = torch.rand(2, 3, 9, 9, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    weights[0, 0, :, 4] += 5.0
    weights = weights / weights.sum(-1, keepdim=True)
    found = redistribute(weights)
    torch.testing.assert_close(found.sum(-1), weights.sum(-1))
    assert torch.equal(found[:, :, 0], weights[:, :, 0]) and torch.equal(found[..., 0], weights[..., 0])
    sink = weights[0, 0, 1:, 1:].sum(0) / 9 > 0.1
    assert 0 < sink.sum() < 8 and sink[3]
    for row in range(1, 9):
        expected = weights[0, 0, row, 1:].clone()
        freed = 0.4 * expected[sink].sum()
        expected[~sink] += freed * expected[~sink] / (expected[~sink].sum() + 1e-8)
        expected[sink] *= 0.6
        torch.testing.assert_close(found[0, 0, row, 1:], expected)


# Settings


def test_towers_of_other_widths_need_their_channels():
    with pytest.raises(UsageError, match="the distraction channels of a tower of width 32 are not known"):
        RFCLIP(small_towers(), RFCLIPParams())
    with pytest.raises(UsageError, match="channels names 32, but the tower has 32 channels"):
        RFCLIP(small_towers(), RFCLIPParams(channels=(1, 32)))


@pytest.mark.parametrize(("width", "count"), [(768, 8), (1024, 8)])
def test_the_known_channels_are_different_and_exist(width, count):
    assert len(set(CHANNELS[width])) == count and max(CHANNELS[width]) < width


def test_weights_that_are_not_openai_s_are_told_of(caplog):
    RFCLIP.check_specs({"clip": "ViT-B-16-quickgelu/openai"})
    RFCLIP.check_specs({"clip": "mini"})
    assert not caplog.records
    RFCLIP.check_specs({"clip": "ViT-B-16/laion2b_s34b_b88k"})
    assert "distraction channels are those of OpenAI's weights; in ViT-B-16/laion2b_s34b_b88k" in caplog.text


@pytest.mark.parametrize("name", ["class_token", "linkage", "repaired", "attention", "decoded"])
def test_an_unknown_choice_is_refused(name):
    with pytest.raises(UsageError, match=f'{name} is "some"'):
        RFCLIPParams(**{name: "some"})


def test_the_linkage_is_the_parameter_s():
    angle = torch.tensor([0.0, 0.38, 0.8])  # ends are 0.303 apart, neighbours less than 0.09
    text = Queries(torch.stack([angle.cos(), angle.sin()], -1), torch.arange(3))
    assert rfclip(cluster_distance=0.29).map_queries(text).clusters.tolist() == [[0, 1], [2, 2]]
    assert rfclip(cluster_distance=0.31).map_queries(text).clusters.tolist() == [[0, 1, 2]]
    assert rfclip(cluster_distance=0.31, linkage="ward").linkage == "ward"


def test_channels_are_set_on_the_command_line_and_in_files():
    cell = resolve("rfclip", "voc21", {"channels": "1,2,3"})
    assert cell.params.channels == (1, 2, 3) and cell.params.class_token == "window"


@pytest.mark.slow
def test_the_record_has_the_share_of_distractors(monkeypatch, tmp_path):
    monkeypatch.setattr("ovbench.evaluation.observed.IMAGES", 1)
    counted = []
    count = RFCLIP.distractors
    monkeypatch.setattr(RFCLIP, "distractors", lambda *args: counted.append(count(*args)) or counted[-1])
    settings = {"class_token": "window", "short_side": 128}
    (record,) = ovbench.evaluate("rfclip", "mini", limit=1, settings=settings, out=tmp_path, device="cpu")
    once = counted[: len(counted) // 2]  # the first image is looked at, then counted
    share = sum(int(found.sum()) for found in once) / sum(found.numel() for found in once)
    found = record["observed"]["distractors"]
    assert found["images"] == 1 and 0 < found["share"] == round(share, 5)
    assert len(found["by_note"]) == 6  # blocks
