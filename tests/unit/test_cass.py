"""CASS: its algebra against spelled-out loops, what its switches mean, and input that leaves it little to work with."""

import importlib.util
from itertools import permutations
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from timm.models.vision_transformer import VisionTransformer as TimmVit

from ovbench.backbones.clip import ClipVision
from ovbench.backbones.dino import IMAGENET_MEAN, IMAGENET_STD, DinoVision
from ovbench.config.load import Protocol, resolve
from ovbench.config.suites import load_suite
from ovbench.inference.predictor import Predictor
from ovbench.methods.base import Backbones, Batch, Queries, WindowedImage
from ovbench.methods.cass import CASS
from ovbench.methods.cass_spectral import match_range, principal, recompose, stretch
from ovbench.methods.presence import cluster, first_largest, members
from ovbench.methods.tower_params import CASSParams
from ovbench.parity.towers import clip_module
from ovbench.utils.errors import UsageError
from ovbench.utils.pillow_resize import resize_like_pillow

MEAN, STD = (122.771, 116.746, 104.094), (68.501, 66.632, 70.323)
SCRIPT = Path(__file__).parents[2] / "scripts" / "count_ties.py"


def clip_tower(width=32, heads=2, patch=8, seed=0):
    torch.manual_seed(seed)
    spec = {"image_size": 32, "patch_size": patch, "width": width, "layers": 3, "heads": heads, "embed_dim": 16}
    return ClipVision(scattered(clip_module(spec | {"quick_gelu": True})))


def dino_tower(width=32, heads=2, patch=4, seed=1, **more):
    torch.manual_seed(seed)
    vit = TimmVit(
        img_size=32, patch_size=patch, embed_dim=width, depth=2, num_heads=heads, mlp_ratio=2, num_classes=0, **more
    )
    return DinoVision(scattered(vit))


def scattered(tower):
    for parameter in tower.parameters():
        torch.nn.init.normal_(parameter, std=0.25)
    return tower


def cass(dino=None, presence=None, **params):
    return CASS(Backbones(clip=clip_tower(), dino=dino or dino_tower(), presence=presence), CASSParams(**params)).eval()


def queries(method, count, width=16, synonyms=()):
    generator = torch.Generator().manual_seed(2)
    text = torch.nn.functional.normalize(torch.randn(count, width, generator=generator), dim=-1)
    text[list(synonyms)] = text[0].clone()
    return method.map_queries(Queries(text, torch.arange(count)))


def picture(h=32, w=32, b=2):
    generator = torch.Generator().manual_seed(3)
    return torch.randint(0, 256, (b, 3, h, w), generator=generator).float()


def normalised(pixels):
    return (pixels - torch.tensor(MEAN).view(3, 1, 1)) / torch.tensor(STD).view(3, 1, 1)


@torch.inference_mode()
def scores(method, pixels, vocabulary):
    windows = normalised(pixels)
    batch = Batch(windows, context=method.encode_image(WindowedImage(windows[0], (64, 64), ())))
    return method.score(method.encode(batch), vocabulary)


# Spectra and low rank


@pytest.mark.parametrize("shape", [(40, 8), (8, 40), (12, 12)])
def test_spectrum_and_low_rank_are_those_of_the_graph(shape):
    keys = torch.randn(2, 3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    graph = keys @ keys.mT / shape[1] ** 0.5
    values, vectors = torch.linalg.eigh(graph)
    found = principal(keys, 10)
    expected = values.flip(-1)[..., :10]
    torch.testing.assert_close(found.values, expected)
    torch.testing.assert_close(found.trace, values.sum(-1))
    top = vectors.flip(-1)[..., :10]
    torch.testing.assert_close(found.factors @ found.factors.mT, top * expected[..., None, :] @ top.mT)
    doubled = recompose(found.factors, found.values, 2 * found.values)
    torch.testing.assert_close(doubled, 2 * top * expected[..., None, :] @ top.mT)


def test_stretched_values_reach_from_half_the_smallest_to_one_and_a_half_times_the_largest():
    s = torch.tensor([[8.0, 5.0, 2.0, 1.0]])
    torch.testing.assert_close(stretch(s, s > 0)[0, [0, 3]], torch.tensor([12.0, 0.5]))
    torch.testing.assert_close(stretch(s, s > 1)[0, [0, 2]], torch.tensor([12.0, 1.0]))
    assert torch.isfinite(stretch(torch.ones(1, 4), torch.ones(1, 4) > 0)).all()


def test_ranges_match_and_a_constant_becomes_the_minimum():
    x, model = torch.tensor([[1.0, 2.0, 5.0]]), torch.tensor([[-1.0, 0.0, 3.0]])
    torch.testing.assert_close(match_range(x, model, (1,)), torch.tensor([[-1.0, 0.0, 3.0]]))
    torch.testing.assert_close(match_range(torch.full((1, 3), 7.0), model, (1,)), torch.full((1, 3), -1.0))


def literal_distance(dino, clip):
    """As the official code: sorted, L2- and then L1-normalised, every pair of heads by itself."""
    found = np.zeros((len(dino), len(clip)))
    for i, j in np.ndindex(found.shape):
        p, q = (v / np.linalg.norm(v) for v in (dino[i], clip[j]))
        found[i, j] = np.abs(np.sort(p / np.abs(p).sum()) - np.sort(q / np.abs(q).sum())).sum()
    return found


def test_distances_of_spectra():
    generator = torch.Generator().manual_seed(4)
    dino, clip = (torch.rand(2, h, 20, generator=generator, dtype=torch.float64).sort(-1, True).values for h in (3, 4))
    found = cass().spectral_distance(dino, clip)
    for window in range(2):
        expected = literal_distance(dino[window].numpy(), clip[window].numpy())
        np.testing.assert_allclose(found[window], expected, rtol=1e-6)


# Matching


def random_distance(g, h, b=3):
    return torch.rand(b, g, h, generator=torch.Generator().manual_seed(5))


@pytest.mark.parametrize(("matching", "sign"), [("complementary", 1), ("similar", -1)])
def test_assignment_is_the_best_of_all(matching, sign):
    distance = random_distance(4, 4)
    pairs = cass(matching=matching).match(distance)
    for window, partner, weight in zip(distance, *pairs, strict=True):
        totals = {
            p: sign * float(window[range(4), p].sum()) for p in map(list, permutations(range(4))) for p in [tuple(p)]
        }
        assert tuple(partner.tolist()) == max(totals, key=totals.get)
        torch.testing.assert_close(weight, window[range(4), partner])


def test_without_the_swap_heads_are_fused_as_matched():
    distance = random_distance(5, 5)
    swapped, straight = cass().match(distance), cass(swap=False).match(distance)
    for window in range(3):
        inverse = torch.empty(5, dtype=torch.int64)
        inverse[swapped.partner[window]] = torch.arange(5)
        assert straight.partner[window].tolist() == inverse.tolist()
        torch.testing.assert_close(straight.weight[window], distance[window][inverse, range(5)])


@pytest.mark.quick(1)
@pytest.mark.parametrize(("g", "h"), [(3, 4), (2, 5), (6, 4), (1, 3)])
def test_towers_with_other_numbers_of_heads(g, h):
    distance = random_distance(g, h)
    pairs = cass().match(distance)
    torch.testing.assert_close(pairs.weight, distance.gather(1, pairs.partner[:, None])[:, 0])
    for partner in pairs.partner:
        assert partner.bincount(minlength=g).max() <= -(-h // g)
    assert cass(matching="sequential").match(distance).partner[0].tolist() == [i % g for i in range(h)]


def test_ties_follow_the_order_of_heads_where_asked():
    line = torch.tensor([[0.0, 0.1, 0.2]]), torch.tensor([[1.0, 1.3, 1.7]])
    distance = (line[0][:, :, None] - line[1][:, None]).abs()  # every assignment has the same total
    noise = 1e-7 * torch.randn(20, 3, 3, generator=torch.Generator().manual_seed(6))
    partners = cass(tie_order=1e-5, swap=False).match(distance + noise).partner
    assert partners.tolist() == [[0, 1, 2]] * 20
    assert len(cass(swap=False).match(distance + noise).partner.unique(dim=0)) > 1


def test_the_script_finds_the_gap_to_the_second_best():
    spec = importlib.util.spec_from_file_location("count_ties", SCRIPT)
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    for distance in random_distance(4, 4).numpy():
        totals = sorted(distance[range(4), list(p)].sum() for p in permutations(range(4)))
        assert script.gap(distance) == pytest.approx(totals[-1] - totals[-2], abs=1e-6)
    assert script.gap(np.add.outer(np.arange(3.0), np.arange(3.0))) == pytest.approx(0)
    assert script.gap(np.array([[1.0, 2.0, 4.0]])) > 0  # one head serves all: there is no other assignment


# The picture that DINO sees


def literal_picture(pixels):
    """The official round trip through Pillow."""
    values = normalised(pixels).permute(1, 2, 0).numpy()
    wrong = (values * np.array([0.229, 0.224, 0.255]) + np.array(IMAGENET_MEAN)) * 255
    h, w = wrong.shape[:2]
    return np.asarray(Image.fromarray(wrong.astype(np.uint8)).resize((min(h, w),) * 2))


@pytest.mark.parametrize("size", [(32, 32), (32, 47), (61, 40)])
def test_picture_is_that_of_the_official_round_trip(size):
    pixels, notes = picture(*size), {}
    method = cass()
    shown = method.picture(Batch(normalised(pixels), note=notes.__setitem__))
    for number in range(len(pixels)):
        assert np.array_equal(notes["dino_input"][number].permute(1, 2, 0), literal_picture(pixels[number]))
    mean, std = (torch.tensor(c).view(3, 1, 1) for c in (IMAGENET_MEAN, IMAGENET_STD))
    torch.testing.assert_close(shown, (notes["dino_input"] / 255 - mean) / std)


@pytest.mark.parametrize("kernel", ["bilinear", "bicubic"])
@pytest.mark.parametrize(
    ("old", "new"), [((30, 41), (30, 30)), ((97, 20), (20, 20)), ((24, 24), (51, 51)), ((5, 9), (5, 9))]
)
def test_resize_is_pillows_to_the_bit(kernel, old, new):
    pixels = picture(*old, b=1)[0].to(torch.uint8)
    expected = Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize(new[::-1], Image.Resampling[kernel.upper()])
    assert np.array_equal(resize_like_pillow(pixels, new, kernel).permute(1, 2, 0), np.asarray(expected))


def test_dinov2_sees_its_native_size_and_keeps_registers_out():
    dino = dino_tower(reg_tokens=4, no_embed_class=True, init_values=1e-5)
    notes, method = {}, cass(dino=dino)
    keys = method.dino_keys(Batch(normalised(picture(24, 40)), note=notes.__setitem__), (3, 5))
    assert (dino.native, dino.registers) == (32, 4)
    assert notes["dino_input"].shape[-2:] == (32, 32) and notes["dino_keys"].shape == (2, 2, 64, 16)
    assert keys.shape == (2, 2, 15, 16)
    vit, shown = dino.vit, method.picture(Batch(normalised(picture(24, 40))))
    x = vit.blocks[0](vit.norm_pre(vit._pos_embed(vit.patch_embed(shown))))
    expected = vit.blocks[1].attn.qkv(vit.blocks[1].norm1(x))[:, 5:].chunk(3, -1)[1]
    torch.testing.assert_close(dino.last_keys(shown)[0], expected)


# Text


def literal_adjustment(tokens, text, presence, clusters, alpha):
    """As the official code: cluster by cluster."""
    adjusted = text.clone()
    for number in range(int(clusters.max()) + 1):
        group = (clusters == number).nonzero().flatten()
        winner = group[presence[group].argmax()]
        mean = tokens[(tokens @ text[winner]).topk(min(2, len(tokens))).indices].mean(0)
        mean = torch.nn.functional.normalize(mean, dim=0)
        adjusted[winner] = torch.nn.functional.normalize((1 - alpha) * text[winner] + alpha * mean, dim=0)
    return adjusted


@pytest.mark.parametrize("class_token", ["image", "window"])
def test_scores_are_those_of_a_loop_over_windows_and_clusters(class_token):
    method = cass(class_token=class_token, cluster_distance=1.1, alpha=0.3, gamma=0.2)
    vocabulary = queries(method, 9, synonyms=[5])
    clusters = cluster(vocabulary.embeddings, 1.1, "ward")
    assert 1 < len(vocabulary.clusters) == int(clusters.max()) + 1 < 9
    windows = normalised(picture(b=3))
    with torch.inference_mode():
        features = method.encode(Batch(windows, context=method.encode_image(WindowedImage(windows[0], (64, 64), ()))))
        found = method.score(features, vocabulary)
    text = vocabulary.embeddings
    for window, tokens in enumerate(features.tokens):
        presence = features.presence[window if class_token == "window" else 0] @ text.T
        adjusted = literal_adjustment(tokens, text, presence, clusters, 0.3)
        expected = 0.8 * tokens @ adjusted.T + 0.2 * presence
        torch.testing.assert_close(found[window].flatten(1).T, expected)


def test_the_first_of_equal_queries_wins():
    values = torch.tensor([[0.5, 0.9, 0.9, 0.1, 0.1]])
    assert first_largest(values, members(torch.tensor([0, 0, 0, 1, 1]))).tolist() == [[1, 3]]
    assert first_largest(torch.tensor([[0.1, 0.2], [0.2, 0.1]]), torch.tensor([[0, 1]])).tolist() == [[1], [0]]


def test_shorter_clusters_are_padded_with_their_first_query():
    assert members(torch.tensor([0, 1, 0, 2, 1, 0])).tolist() == [[0, 2, 5], [1, 4, 1], [3, 3, 3]]


def test_clusters_are_numbered_by_their_first_query():
    text = torch.eye(6)[[0, 1, 0, 2, 1, 0]] + 0.01 * torch.eye(6)
    for linkage in ("ward", "complete"):
        assert cluster(text, 0.1, linkage).tolist() == [0, 1, 0, 2, 1, 0]
        assert cluster(text[:1], 0.1, linkage).tolist() == [0]
        assert len(cluster(text, 0.0, linkage).unique()) == 6 and len(cluster(text, 100.0, linkage).unique()) == 1


def test_complete_linkage_keeps_the_ends_of_a_chain_apart():
    """Complete linkage needs every pair to be near, single linkage neighbours only."""
    angle = torch.tensor([0.0, 0.38, 0.8])
    text = torch.stack([angle.cos(), angle.sin()], -1)
    farthest = float(1 - angle[2].cos())  # 0.303; neighbours are less than 0.09 apart
    assert cluster(text, farthest + 0.01, "complete").tolist() == [0, 0, 0]
    assert cluster(text, farthest - 0.01, "complete").tolist() == [0, 0, 1]
    assert cluster(text, farthest - 0.01, "single").tolist() == [0, 0, 0]


# Switches


@pytest.mark.slow
def test_each_switch_changes_the_scores():
    vocabulary = queries(cass(), 6)
    complete = scores(cass(), picture(), vocabulary)
    for other in (
        {"attention": "keys"}, {"attention": "queries"}, {"matching": "similar"}, {"matching": "sequential"},
        {"swap": False}, {"rank": None}, {"rank": 2}, {"energy": 0.5}, {"stretch": False}, {"fusion": 1.0},
        {"match_ranges": False}, {"misread_colours": False}, {"alpha": 0.0}, {"gamma": 0.0}, {"class_token": "window"},
    ):  # fmt: skip
        changed = scores(cass(**other), picture(), vocabulary)
        same = other in ({"swap": False}, {"matching": "similar"}, {"matching": "sequential"})  # two heads: few choices
        assert changed.shape == complete.shape and torch.isfinite(changed).all(), other
        assert same or not torch.equal(changed, complete), other


def test_a_full_rank_and_no_rank_are_the_same():
    vocabulary = queries(cass(), 6)
    full = scores(cass(rank=16, stretch=False), picture(), vocabulary)
    torch.testing.assert_close(full, scores(cass(rank=None), picture(), vocabulary), atol=2e-5, rtol=1e-4)


def test_a_second_clip_gives_the_presence_of_queries():
    second = clip_tower(width=48, heads=3, patch=4, seed=7)
    method = cass(presence=second, gamma=1.0)
    own = torch.nn.functional.normalize(torch.randn(6, 16, generator=torch.Generator().manual_seed(8)), dim=-1)
    vocabulary = queries(method, 6)._replace(presence=own)
    found = scores(method, picture(), vocabulary)
    tokens = second.project(second.trunk(second.embed(normalised(picture())[:1])[0], until=None))[:, 0]
    expected = torch.nn.functional.normalize(tokens, dim=-1) @ own.T
    torch.testing.assert_close(found, expected[0][None, :, None, None].expand_as(found))


def test_the_class_row_is_that_of_the_unmodified_tower():
    tower, windows = clip_tower(), normalised(picture(40, 32))
    tokens = tower.project(tower.trunk(tower.embed(windows)[0], until=None))
    torch.testing.assert_close(tower.class_features(windows), tokens[:, 0])


def test_the_whole_image_is_seen_once_and_dino_once_per_window():
    method, seen = cass(), []
    method.clip.visual.conv1.register_forward_hook(lambda m, inputs, o: seen.append(("clip", len(inputs[0]))))
    method.dino.vit.patch_embed.proj.register_forward_hook(lambda m, inputs, o: seen.append(("dino", len(inputs[0]))))
    last = method.dino.vit.blocks[-1]
    last.mlp.register_forward_hook(lambda m, i, o: seen.append(("waste", 0)))
    protocol = Protocol(short_side=0, crop=32, stride=16, mean=MEAN, std=STD)
    image = picture(48, 64, b=1)[0].permute(1, 2, 0).to(torch.uint8).numpy()
    Predictor(method, protocol, [queries(method, 4)]).label(image)
    assert seen == [("clip", 1), ("clip", 6), ("dino", 6)]


def test_windows_do_not_depend_on_their_batch():
    method = cass(class_token="window")
    vocabulary = queries(method, 5)
    together = scores(method, picture(b=4), vocabulary)
    alone = torch.cat([scores(method, window[None], vocabulary) for window in picture(b=4)])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=1e-4)


# Little to work with


@pytest.mark.quick(1)
@pytest.mark.parametrize("value", [0, 128, 255])
def test_a_constant_image(value):
    method = cass()
    found = scores(method, torch.full((2, 3, 32, 32), float(value)), queries(method, 4))
    assert torch.isfinite(found).all()
    torch.testing.assert_close(found[0], found[1])


def test_keys_without_any_difference():
    method, notes = cass(), {}
    k = torch.randn(1, 2, 9, 16, generator=torch.Generator().manual_seed(9))
    graph = k @ k.mT / 4
    for kd in (torch.zeros(1, 2, 9, 16), torch.ones(1, 2, 9, 16)):
        assert torch.isfinite(method.distil(graph, k, kd, notes.__setitem__)).all()
        assert torch.isfinite(method.distil(torch.zeros(1, 2, 9, 9), 0 * k, kd, notes.__setitem__)).all()


@pytest.mark.quick(1)
@pytest.mark.parametrize("size", [(8, 8), (8, 16), (16, 24)])
def test_fewer_cells_than_ranks(size):
    """Official code: an error below ten cells. Here all ranks that there are."""
    method = cass()
    found = scores(method, picture(*size), queries(method, 4))
    assert found.shape[-2:] == (size[0] // 8, size[1] // 8) and torch.isfinite(found).all()


def test_one_query_is_a_cluster_of_its_own():
    method = cass()
    assert torch.isfinite(scores(method, picture(), queries(method, 1))).all()


def test_one_cluster_has_one_winner():
    method = cass(cluster_distance=100.0)
    vocabulary = queries(method, 5)
    windows = normalised(picture())
    features = method.encode(Batch(windows, context=method.encode_image(WindowedImage(windows[0], (64, 64), ()))))
    presence = method.presence_scores(features, vocabulary)
    winners, _ = method.move_queries(features, vocabulary, presence, features.tokens @ vocabulary.embeddings.T)
    assert winners.tolist() == [[int(presence.argmax())]] * 2


# Settings


@pytest.mark.parametrize(
    "wrong", [{"matching": "best"}, {"attention": "dino"}, {"class_token": "crop"}, {"rank": 0}, {"eigenvalues": 0}]
)
def test_unknown_choices_are_refused(wrong):
    with pytest.raises(UsageError):
        CASSParams(**wrong)


OFFICIAL = {  # section 3 of the official configuration files: side, crop, threshold, g, a, h, phi, token
    "voc21": (336, 0, 0.1, 0.10, 0.03, 0.10, True, "window"),
    "voc20": (336, 224, 0.0, 0.40, 0.02, 0.10, False, "image"),
    "pc60": (336, 224, 0.1, 0.25, 0.04, 0.09, True, "image"),
    "pc59": (336, 224, 0.0, 0.25, 0.04, 0.09, True, "image"),
    "coco-object": (336, 224, 0.1, 0.25, 0.01, 0.10, True, "image"),
    "coco-stuff": (336, 224, 0.0, 0.20, 0.02, 0.02, True, "image"),
    "cityscapes": (560, 224, 0.0, 0.10, 0.03, 0.14, False, "window"),
    "ade150": (336, 224, 0.0, 0.30, 0.05, 0.06, True, "image"),
}


@pytest.mark.parametrize("dataset", OFFICIAL)
def test_settings_are_the_official_ones(dataset):
    cell = resolve("cass", dataset)
    around, p = cell.protocol, cell.params
    found = (
        around.short_side,
        around.crop,
        around.prob_thd,
        p.gamma,
        p.alpha,
        p.cluster_distance,
        p.stretch,
        p.class_token,
    )
    assert found == OFFICIAL[dataset]
    assert (around.stride, around.pad, around.refine, around.logit_scale, p.tie_order) == (112, 0, "", 40.0, 0.0)
    assert set(cell.backbones) == {"clip", "dino"}


def test_the_second_clip_is_loaded_only_where_named():
    assert resolve("cass", "voc20", {}, {"presence": "openai-l"}).backbones["presence"] == "openai-l"


@pytest.mark.parametrize("suite", ["cass-components", "cass-readings"])
@pytest.mark.parametrize("dataset", ["pc59", "mini"])
def test_every_row_of_the_suites_resolves(suite, dataset):
    cells = [resolve(r.method, r.dataset, r.overrides, r.weights) for r in load_suite(suite, (dataset,))]
    assert len({cell.digest() for cell in cells}) == len(cells)
