"""What the paper leaves open, reading by reading, against the plain form of each."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovbench.methods.ops import Decision
from ovbench.methods.reme.method import class_affinity, retrieve, weighted
from ovbench.methods.reme.pooling import ZETAS, mask_weights, pooled, segment_embeddings
from ovbench.methods.reme.reference_bank import ReferenceBank
from ovbench.methods.reme.search import nearest
from ovbench.methods.tower_params import ReMEParams
from ovbench.training.reference_set import settings
from ovbench.training.reference_set.ambiguous import ambiguous_roots, beyond_knee, gated
from ovbench.training.reference_set.assign import assign
from ovbench.training.reference_set.groups import adaptive_rate, centre, cohesion, group_pairs, kept
from ovbench.training.reference_set.pairing import best_segments
from ovbench.training.reference_set.settings import resolve_plan
from ovbench.training.reference_set.synonyms import find_synonyms, neighbours
from ovbench.utils.errors import InputError, UsageError

M, N, K, Q = 60, 12, 5, 4


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def masks_of(rng, k=6, shape=(24, 36)):
    """Rectangles that overlap and leave gaps."""
    masks = torch.zeros(k, *shape, dtype=torch.bool)
    for mask in masks:
        y, x, h, w = (*rng.integers(0, 12, 2), *rng.integers(3, 12, 2))
        mask[y : y + h, x : x + w] = True
    return masks


def test_area_is_the_covered_share_of_each_patch(rng):
    masks = masks_of(rng)
    assert torch.allclose(mask_weights(masks, (4, 6)), F.avg_pool2d(masks.float(), 6).flatten(1))


def test_bilinear_has_aligned_corners(rng):
    """Each cell reads the four pixels around its place between the outermost ones."""
    masks = masks_of(rng)
    y, x = torch.linspace(0, 23, 4, dtype=torch.float64), torch.linspace(0, 35, 6, dtype=torch.float64)
    top, left = y.long().clamp(max=22), x.long().clamp(max=34)
    dy, dx = (y - top)[:, None], (x - left)[None]
    value = masks.double()
    upper = value[:, top][:, :, left] * (1 - dx) + value[:, top][:, :, left + 1] * dx
    lower = value[:, top + 1][:, :, left] * (1 - dx) + value[:, top + 1][:, :, left + 1] * dx
    plain = (upper * (1 - dy) + lower * dy).flatten(1)
    seen = plain.sum(1) > 0
    assert seen.any() and torch.allclose(mask_weights(masks, (4, 6), "bilinear")[seen].double(), plain[seen], atol=1e-5)


def test_nearest_reads_one_pixel_of_each_patch(rng):
    masks = masks_of(rng)
    plain = masks[:, ::6, ::6].flatten(1).float()
    seen = plain.sum(1) > 0
    assert seen.any() and torch.equal(mask_weights(masks, (4, 6), "nearest")[seen], plain[seen])


@pytest.mark.parametrize("zeta", ["bilinear", "nearest"])
def test_a_mask_that_sampling_misses_takes_the_patch_under_its_centroid(zeta):
    mask = torch.zeros(2, 24, 36, dtype=torch.bool)
    mask[0, 8:11, 20:22] = True  # centroid (9.5, 21): patch row 1, column 3
    mask[1, 23, 34] = True  # beside the corner
    shares = mask_weights(mask, (4, 6), zeta)
    assert shares.nonzero().tolist() == [[0, 1 * 6 + 3], [1, 3 * 6 + 5]]
    assert torch.isfinite(pooled(torch.randn(24, 3), shares)).all()


@pytest.mark.parametrize("zeta", ZETAS)
def test_a_partition_is_pooled_as_its_masks_are(rng, zeta, monkeypatch):
    monkeypatch.setattr("ovbench.methods.reme.pooling.MASKS_PER_BLOCK", 2)
    segment = torch.from_numpy(rng.integers(0, 5, (4, 6)).repeat(6, 0).repeat(6, 1))
    tokens = torch.randn(24, 7, generator=torch.Generator().manual_seed(0))
    together = segment_embeddings(tokens, (4, 6), segment, 5, zeta)
    alone = [pooled(tokens, mask_weights((segment == k)[None], (4, 6), zeta))[0] for k in range(5)]
    assert torch.allclose(together, torch.stack(alone), atol=1e-6)


def test_overlapping_masks_do_not_see_each_other(rng):
    masks = masks_of(rng)
    for zeta in ZETAS:
        alone = torch.cat([mask_weights(mask[None], (4, 6), zeta) for mask in masks])
        assert torch.equal(mask_weights(masks, (4, 6), zeta), alone)


def make_bank(rng, settings=None, kind=torch.float32):
    ones = np.argwhere(rng.random((M, N)) < 0.3)
    segments, labels = (torch.from_numpy(4 * rng.normal(size=size)).to(kind) for size in ((M, 9), (N, 7)))
    rows, columns = torch.from_numpy(ones).T
    return ReferenceBank.from_pairs(segments, labels, rows, columns, settings)


def test_with_o_rownorm_the_labels_of_a_segment_share_a_weight_of_one(rng):
    bank, a2 = make_bank(rng, {"o_rownorm": True}), torch.rand(N, Q)
    assert torch.allclose(bank.matrix().sum(1)[bank.starts.diff() > 0], torch.tensor(1.0))
    assert torch.allclose(bank.spread(a2), bank.matrix() @ a2, atol=1e-6)
    plain = make_bank(np.random.default_rng(0))
    assert set(plain.matrix().unique().tolist()) == {0.0, 1.0} and not torch.allclose(plain.spread(a2), bank.spread(a2))


@pytest.mark.parametrize("topk", [0, 1, 7, M, 10 * M])
@pytest.mark.parametrize("rownorm", [False, True])
def test_the_lookup_is_the_product_of_its_matrices(rng, topk, rownorm):
    bank = make_bank(rng, {"o_rownorm": True} if rownorm else None)
    segments, queries = (torch.from_numpy(rng.normal(size=size)).float() for size in ((K, 9), (Q, 7)))
    cosines = F.normalize(segments.double(), dim=1) @ F.normalize(bank.segments.double(), dim=1).T
    if topk:
        least = cosines.sort(1, descending=True).values[:, min(topk, M) - 1]
        cosines[cosines < least[:, None]] = -torch.inf
    a1 = (20 * cosines).softmax(1) @ bank.matrix().double()
    a2 = (40 * F.normalize(bank.labels.double(), dim=1) @ F.normalize(queries.double(), dim=1).T).softmax(1)
    values = bank.spread(class_affinity(bank.labels, queries, 40.0))
    ours = (
        weighted(nearest(segments, bank, topk, 16), values, 20.0)
        if topk
        else retrieve(segments, bank, values, 20.0, 16)
    )
    assert torch.allclose(ours.double(), a1 @ a2, rtol=1e-3, atol=1e-5)


def test_half_precision_is_for_storage_alone(rng):
    half = make_bank(rng, kind=torch.float16)
    full = ReferenceBank(half.segments.float(), half.labels.float(), half.starts, half.columns)
    segments, queries = (torch.from_numpy(rng.normal(size=size)).float() for size in ((K, 9), (Q, 7)))
    found = []
    for bank in (half, full):
        values = bank.spread(class_affinity(bank.labels, queries, 40.0))
        assert values.dtype == torch.float32
        found.append((retrieve(segments, bank, values, 30.0), nearest(segments, bank, 5)))
    assert torch.equal(found[0][0], found[1][0]) and torch.equal(found[0][1].row, found[1][1].row)


def test_a_threshold_makes_background_of_what_is_unlikely():
    from ovbench.config.load import Protocol
    from ovbench.inference.predictor import Predictor
    from ovbench.methods.base import Backbones, Queries
    from ovbench.methods.reme.method import ReME

    class Tower(torch.nn.Module):
        patch, width = 4, 3

        def forward(self, images):
            from ovbench.backbones.dinov2 import DinoTokens

            means = F.avg_pool2d(images, 4)
            return DinoTokens(means.flatten(2).mT, torch.empty(0), tuple(means.shape[-2:]))

    bank = ReferenceBank.from_pairs(torch.eye(3)[[0, 2]], torch.eye(2), torch.arange(2), torch.arange(2))
    clip = torch.nn.Linear(1, 1)
    clip.patch = 4
    method = ReME(Backbones(clip=clip, dinov2=Tower(), reference=bank), ReMEParams(visual_scale=3.0))
    image, regions = np.full((16, 32, 3), (200, 0, 0), np.uint8), np.ones((16, 32), np.int32)
    image[:, 16:] = (110, 0, 100)  # between the two references
    regions[:, 16:] = 2
    names = Queries(torch.tensor([[-1.0, -1.0], [1, 0], [0, 1]]), torch.arange(3), background=0)
    for threshold, right in ((0.0, 1), (0.8, 0)):
        protocol = Protocol(short_side=16, crop=0, mean=(0, 0, 0), std=(1, 1, 1), prob_thd=threshold)
        labels = Predictor(method, protocol, [method.map_queries(names)]).label(image, regions)[0]
        assert (labels[:, :16] == 1).all() and (labels[:, 16:] == right).all(), threshold
    assert method.probabilities(torch.rand(3, 2, 2), names, Decision()).sum(0) == pytest.approx(np.ones((2, 2)))


@pytest.mark.parametrize("members", range(1, 9))
def test_the_median_of_any_number_of_members(rng, members):
    rows = rng.normal(size=(members, 300)).astype(np.float32)
    ordered = np.sort(rows, axis=0)
    plain = (ordered[(members - 1) // 2] + ordered[members // 2]) / 2
    assert centre(rows) == pytest.approx(plain / np.linalg.norm(plain), abs=1e-6)


@pytest.mark.parametrize("width", [24, 80, 100, 1000])
def test_equal_segments_are_equally_similar_wherever_they_stand(rng, width):
    """Else which of two equals is dropped, or takes a phrase, would depend on the machine."""
    distinct = rng.normal(size=(9, width)).astype(np.float32)
    pick = rng.permutation(np.arange(9).repeat(5))
    rows = distinct[pick]
    found = cohesion(lambda segments: rows[segments], np.arange(45), group_pairs(np.zeros(45, int), 1))
    assert all(len(np.unique(found.score[pick == k])) == 1 for k in range(9))
    phrases = rng.normal(size=(30, width))
    first = np.array([np.flatnonzero(pick == k)[0] for k in range(9)])
    assert np.array_equal(best_segments(rows, phrases).segment, first[best_segments(distinct, phrases).segment])


@pytest.mark.parametrize("percent", [0, 10, 30, 55, 99])
def test_the_number_dropped_is_exact_for_every_size(percent):
    for size in range(1, 120):
        groups, score = group_pairs(np.zeros(size, int), 1), np.arange(size, dtype=float)
        for rounding, number in (("floor", size * percent // 100), ("ceil", -(-size * percent // 100))):
            stay = kept("fixed", groups, score, score, np.zeros(1), float(percent), rounding=rounding)
            assert (~stay).sum() == number and stay[number:].all(), (size, rounding)


def test_a_quantile_drops_what_lies_below_it():
    score = np.array([0.0, 1, 1, 1, 2, 3, 4, 5, 6, 7])
    groups = group_pairs(np.zeros(10, int), 1)
    stay = kept("fixed", groups, score, score, np.zeros(1), 30, rounding="quantile")
    assert np.flatnonzero(~stay).tolist() == [0]  # the 30 % quantile is 1, and equals of it stay


@pytest.mark.parametrize(
    ("key", "text", "message"),
    [
        ("rounding", "up", '"up" is not a value of "rounding" .*give "floor", "ceil" or "quantile"'),
        ("drop_percent", "100", '"100" is not a value of "drop_percent" .*give a number below 100'),
        ("gate_quantile", "nan", '"nan" is not a value of "gate_quantile"'),
        ("synonym_pairs", "-1", '"-1" is not a value of "synonym_pairs" .*give a number of 0 or more'),
        ("ambiguous", "list", 'ambiguous "list" needs ambiguous_list=FILE'),
    ],
)
def test_settings_of_a_build_have_ranges(key, text, message):
    with pytest.raises(UsageError, match=message):
        resolve_plan("mini", {key: text})


def test_the_settings_file_of_builds_is_a_type(monkeypatch, tmp_path):
    monkeypatch.setattr(settings, "shipped", lambda *names: tmp_path / names[-1])
    for text, message in (
        ("[build]\npairng = 'x'", 'unknown key "build.pairng" .*did you mean "pairing"'),
        ("[build]\n[benchmark.mini.build]\ndrop_percent = '3'", '"benchmark.mini.build.drop_percent" must be a number'),
        ("[build]\n[benchmark.mini]\nbuilt = 3", 'unknown key "benchmark.mini.built" .*did you mean "build"'),
    ):
        (tmp_path / "reference.toml").write_text(text)
        with pytest.raises(InputError, match=message):
            resolve_plan("mini")


@pytest.mark.parametrize("mode", ["fixed", "clip-group", "clip", "adaptive"])
def test_filters_do_not_depend_on_the_order_of_groups(rng, mode):
    root = rng.integers(0, 7, 200)
    visual, clip, w = rng.random(200), rng.random(200), rng.random(7)
    stay = kept(mode, group_pairs(root, 7), visual, clip, w)
    other = kept(mode, group_pairs(6 - root, 7), visual, clip, w[::-1])
    assert np.array_equal(stay, other) and not stay.all()
    score = visual if mode in ("fixed", "adaptive") else clip
    for r in range(7) if mode != "clip" else ():
        assert score[(root == r) & stay].min() > score[(root == r) & ~stay].max(initial=-1)


@pytest.mark.parametrize("form", ["half", "clip", "minmax"])
def test_adaptive_rates_lie_in_the_papers_range_and_rise_with_the_spread(rng, form):
    w = np.sort(rng.uniform(-0.1, 2, 50))
    rate = adaptive_rate(w, form)
    assert rate.min() >= 0 and rate.max() <= 0.5 and (np.diff(rate) >= 0).all()


def test_the_knee_is_the_first_of_equals_and_knows_no_scale(rng):
    sizes = np.maximum(rng.zipf(1.7, 400), 1).clip(max=5000)
    assert np.array_equal(beyond_knee(sizes), beyond_knee(3 * sizes))
    order = rng.permutation(400)
    assert np.array_equal(np.sort(order[beyond_knee(sizes[order])]), beyond_knee(sizes))
    assert beyond_knee(np.array([4, 2, 1, 0, 0])).tolist() == [0]
    assert beyond_knee(np.array([9, 6, 3, 0])).tolist() == []  # a straight line bends nowhere: the first rank


def test_the_gate_is_a_linear_percentile_over_groups_that_are_large_enough():
    sizes, w = np.array([90, 80, 10, 10, 9]), np.array([0.375, 0.45, 0.1, 0.3, 9.0])
    # of 0.1, 0.3, 0.375, 0.45 the 75th percentile is 0.375 + 0.25 * 0.075; the group of nine does not count
    assert gated(np.array([0, 1]), sizes, w).tolist() == [1]
    assert gated(np.array([0, 1]), sizes, w, quantile=1.0).tolist() == []  # strictly above
    assert ambiguous_roots("knee_gated", list("abcde"), sizes, w, least=1000).tolist() == []


def test_scopes_of_synonyms_by_hand():
    angle = np.deg2rad([0, 5, 90, 97, 180])
    text = 7 * np.stack([np.cos(angle), np.sin(angle)], 1)
    owning = np.arange(5)
    one = find_synonyms("global", text, owning, pairs=1, per_label=0)
    assert one.pairs.tolist() == [[0, 1]] and one.similarity == pytest.approx(np.cos(np.deg2rad([5])))
    each = find_synonyms("per_label", text, owning, pairs=0, per_label=1)
    assert each.pairs.tolist() == [[0, 1], [1, 0], [2, 3], [3, 2], [4, 3]]
    near = find_synonyms("per_label", text, owning, pairs=0, per_label=1, least=0.9)
    assert near.pairs.tolist() == [[0, 1], [1, 0], [2, 3], [3, 2]]
    fewer = find_synonyms("global", text, np.array([0, 2, 4]), pairs=9, per_label=0)
    assert set(np.unique(fewer.pairs)) == {0, 2, 4} and len(fewer.pairs) == 3  # only roots that own a pair


def test_copies_lend_a_root_both_ways_but_not_onward():
    phrases, roots = ["a small cat", "a kitten", "pet"], ["cat", "kitten", "pet"]
    pairs = np.array([[0, 0], [1, 1], [2, 2]])
    made = assign(pairs, phrases, [0, 1, 2], roots, neighbours(np.array([[0, 1], [1, 2]])))
    of = {row: sorted(made.labels[c] for r, c in made.pairs.tolist() if r == row) for row in range(3)}
    assert of == {0: ["a small cat", "a small kitten"], 1: ["a cat", "a kitten", "a pet"], 2: ["kitten", "pet"]}
    assert sorted(np.array(made.labels)[made.copied]) == ["a cat", "a pet", "a small kitten", "kitten"]
