"""ReME's retrieval against the plain form of its equations, and its segments."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from ovbench.methods.base import Queries
from ovbench.methods.ops import Decision
from ovbench.methods.reme.method import ReME, best_query, class_affinity, retrieve, weighted
from ovbench.methods.reme.pooling import patch_weights, pooled
from ovbench.methods.reme.reference_bank import Encoder, ReferenceBank
from ovbench.methods.reme.search import nearest
from ovbench.methods.tower_params import ReMEParams
from ovbench.regions.cover import complete, uncovered_components
from ovbench.utils.errors import InputError, UsageError

M, N, K, Q = 230, 40, 7, 5


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(0)
    return lambda *shape: 3 * torch.randn(*shape, generator=generator)


@pytest.fixture
def bank(draw):
    ones = (torch.rand(M, N, generator=torch.Generator().manual_seed(1)) < 0.06).nonzero()
    shuffled = ones[torch.randperm(len(ones), generator=torch.Generator().manual_seed(2))]
    return ReferenceBank.from_pairs(draw(M, 24), draw(N, 16), shuffled[:, 0], shuffled[:, 1])


def naive(bank, segments, queries, beta_v, beta_t):
    """Equations 1 and 2 in f64, nothing clever."""
    s, l, t, x = (F.normalize(v.double(), dim=-1) for v in (bank.segments, bank.labels, queries, segments))
    a1 = (beta_v * x @ s.T).softmax(1) @ bank.matrix().double()
    return a1 @ (beta_t * l @ t.T).softmax(1)


@pytest.mark.parametrize("block", [1, 50, 229, 230, 10_000])
def test_retrieval_in_blocks_is_the_softmax_over_all(bank, draw, block):
    segments, queries = draw(K, 24), draw(Q, 16)
    values = bank.spread(class_affinity(bank.labels, queries, 40.0))
    ours = retrieve(segments, bank, values, 30.0, block)
    assert torch.allclose(ours.double(), naive(bank, segments, queries, 30.0, 40.0), rtol=1e-4, atol=1e-6)


def test_large_scales_do_not_overflow(bank, draw):
    ours = retrieve(draw(K, 24), bank, bank.spread(torch.ones(N, 1)), 5000.0, 20)
    assert torch.isfinite(ours).all()


@pytest.mark.parametrize("block", [9, 64, 1000])
def test_topk_in_blocks_is_the_topk_of_all(bank, draw, block):
    segments = draw(K, 24)
    found = nearest(segments, bank, 20, block)
    cosines = F.normalize(segments, dim=-1) @ F.normalize(bank.segments, dim=-1).T
    truth = cosines.topk(20, dim=1)
    assert torch.equal(found.row, truth.indices)
    values = bank.spread(class_affinity(bank.labels, draw(Q, 16), 40.0))
    weights = torch.full_like(cosines, -torch.inf).scatter(1, truth.indices, 30.0 * truth.values).softmax(1)
    assert torch.allclose(weighted(found, values, 30.0), weights @ values, atol=1e-6)


def test_topk_of_everything_is_the_softmax_over_all(bank, draw):
    segments, values = draw(K, 24), bank.spread(torch.rand(N, Q))
    assert torch.allclose(
        weighted(nearest(segments, bank, 10_000), values, 20.0), retrieve(segments, bank, values, 20.0), atol=1e-6
    )


def test_rows_that_a_search_did_not_find_weigh_nothing(bank, draw):
    values = bank.spread(torch.rand(N, Q))
    found = nearest(draw(K, 24), bank, 3)
    longer = found._replace(
        cosine=F.pad(found.cosine, (0, 2), value=0.9), row=F.pad(found.row, (0, 2), value=-1)
    )  # fmt: skip
    assert torch.allclose(weighted(longer, values, 20.0), weighted(found, values, 20.0))


def test_literal_scales_give_every_segment_the_same_label(bank, draw):
    """Why the temperature is explicit: with the paper's plain softmax all segments agree."""
    segments, queries = draw(50, 24), draw(Q, 16)
    assert len(naive(bank, segments, queries, 1.0, 1.0).argmax(1).unique()) == 1


def test_best_query_of_a_class():
    p_query = torch.tensor([[0.1, 0.4, 0.2, 0.3]])
    assert best_query(p_query, torch.tensor([0, 1, 1, 2]), 3)[0].tolist() == pytest.approx([0.1, 0.4, 0.3])


def test_shares_are_exact_block_means_on_a_multiple():
    segment = torch.randint(0, 6, (24, 36), generator=torch.Generator().manual_seed(3))
    shares = patch_weights(segment, (4, 6), 6)
    masks = torch.stack([(segment == k).float() for k in range(6)])
    assert torch.allclose(shares, F.avg_pool2d(masks, 6).flatten(1))


def test_no_segment_is_without_weight_however_small():
    segment = torch.zeros(31, 47, dtype=torch.long)
    segment[30, 46] = 1
    shares = patch_weights(segment, (3, 4), 2)
    assert shares[1].sum() > 0 and torch.allclose(shares.sum(0), torch.ones(12))
    assert torch.isfinite(pooled(torch.randn(12, 5), shares)).all()


def test_uncovered_pixels_become_regions_or_join_the_nearest():
    regions = np.ones((20, 20), np.int32)
    regions[:, 10:] = 2
    regions[2:12, 2:9] = 0  # 70 pixels
    regions[18, 18] = 0
    whole = complete(regions)
    assert whole[5, 5] == 3 and whole[18, 18] == 2 and (whole > 0).all()
    assert uncovered_components(regions > 0).max() == 1
    assert (complete(np.zeros((9, 9), np.int32)) == 1).all()


class Tower(torch.nn.Module):
    """Patches of 4 pixels, whose token is their mean colour."""

    patch, width = 4, 3

    def forward(self, images):
        from ovbench.backbones.dinov2 import DinoTokens

        means = F.avg_pool2d(images, 4)
        return DinoTokens(means.flatten(2).mT, torch.empty(0), tuple(means.shape[-2:]))


def colour_method(**params):
    """Red things are called "rose", blue ones "sea"."""
    from ovbench.methods.base import Backbones

    segments, labels = torch.tensor([[1.0, 0, 0], [0, 0, 1.0]]), torch.eye(2)
    bank = ReferenceBank.from_pairs(segments, labels, torch.arange(2), torch.arange(2))
    clip = torch.nn.Linear(1, 1)
    clip.patch = 4
    return ReME(Backbones(clip=clip, dinov2=Tower(), reference=bank), ReMEParams(**params))


@pytest.mark.parametrize("params", [{}, {"visual_topk": 1}, {"block": 1}])
def test_whole_images_are_labelled_to_the_pixel(params):
    from ovbench.config.load import Protocol
    from ovbench.inference.predictor import Predictor

    method = colour_method(**params)
    queries = method.map_queries(Queries(torch.eye(2)[[1, 1, 0]], torch.tensor([0, 0, 1])))
    protocol = Protocol(short_side=24, crop=0, mean=(0, 0, 0), std=(1, 1, 1))
    image = np.zeros((37, 50, 3), np.uint8)
    image[..., 0] = 200
    image[7:29, 11:33] = (0, 0, 200)
    regions = np.where(image[..., 2] > 0, 5, 9).astype(np.int32)
    labels = Predictor(method, protocol, [queries]).label(image, regions)[0]
    assert np.array_equal(labels, np.where(regions == 5, 0, 1))


def test_probabilities_sum_to_one():
    method = colour_method()
    scores = torch.rand(4, 3, 3)
    found = method.probabilities(scores, Queries(torch.eye(4), torch.arange(4)), Decision())
    assert torch.allclose(found.sum(0), torch.ones(3, 3))


@pytest.mark.parametrize(
    "params", [{"visual_scale": 0.0}, {"search": "faiss"}, {"search": "annoy"}, {"visual_topk": -1}, {"block": 0}]
)
def test_impossible_parameters_are_refused(params):
    with pytest.raises(UsageError):
        ReMEParams(**params)


def test_windows_are_refused():
    from ovbench.methods.base import Batch

    with pytest.raises(UsageError, match="whole images"):
        colour_method().encode(Batch(torch.zeros(2, 3, 8, 8)))


def test_another_encoder_or_setting_is_refused(bank):
    from ovbench.config.load import Protocol

    bank.encoders = {"clip": Encoder("ViT-L-14", "a" * 64)}
    bank.require({"clip": Encoder("other-name", "a" * 64)}, Protocol())
    with pytest.raises(InputError, match='built with the clip "ViT-L-14"'):
        bank.require({"clip": Encoder("ViT-L-14", "b" * 64)}, Protocol())
    bank.settings = {"short_side": 518}
    with pytest.raises(InputError, match="short_side 518"):
        bank.require({}, Protocol(short_side=448))


def test_an_empty_set_is_refused():
    with pytest.raises(InputError, match="empty"):
        ReferenceBank(torch.empty(0, 3), torch.empty(0, 3), torch.zeros(1).long(), torch.empty(0).int())


def test_faiss_with_every_cell_is_exact(bank, draw):
    pytest.importorskip("faiss", reason="FAISS is an extra")
    from ovbench.methods.reme.approximate_search import FaissIndex, measure_recall

    segments = draw(K, 24)
    found = FaissIndex(bank.segments, cells=4).nearest(segments, 12, probes=4)
    assert torch.equal(found.row, nearest(segments, bank, 12).row)
    half = F.normalize(bank.segments.half().float(), dim=-1)
    assert torch.equal(FaissIndex(bank.segments.half(), cells=1).nearest(half[:3], 1, 1).row[:, 0], torch.arange(3))
    few, all_cells = measure_recall(bank, 10, (1, 100), rows=40)
    assert few.recall < 1.0 and all_cells.recall == 1.0


def test_without_faiss_the_extra_is_named(bank, monkeypatch):
    from ovbench.methods.reme.approximate_search import FaissIndex

    monkeypatch.setitem(__import__("sys").modules, "faiss", None)
    with pytest.raises(UsageError, match='pip install "faiss-cpu'):
        FaissIndex(bank.segments)
