"""PEARL: alignment and propagation against spelled-out loops and scipy, and what its switches mean."""

import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch.nn.functional import normalize
from towers import small_towers

from ovbench.config.load import Protocol
from ovbench.inference.predictor import Predictor
from ovbench.inference.steps import propagation
from ovbench.methods.base import Backbones, Batch, Queries, WindowedImage
from ovbench.methods.clearclip import ClearCLIP
from ovbench.methods.last_block import LastBlock
from ovbench.methods.params import PEARLParams
from ovbench.methods.pearl import PEARL, polar_factor
from ovbench.methods.propagation import Graph, Propagation, box_means
from ovbench.utils.errors import UsageError
from ovbench.utils.registry import METHODS


def pearl(**params):
    return PEARL(small_towers(), PEARLParams(**params)).eval()


def random(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# PA


def literal_logits(q, k, alpha_kk, steps=5):
    """As the specification: one window and head at a time."""
    weight = q.norm(dim=-1)
    weight[0] = 0
    weight = weight / (weight.sum() + 1e-6)
    mq, mk = (weight[:, None] * q).sum(0), (weight[:, None] * k).sum(0)
    qc, kc = q - mq, k - mk
    m = sum(torch.outer(kc[t], qc[t]) for t in range(len(q)))
    a = m.T @ m
    nu = max(float(a.square().sum().sqrt()), 1e-6)
    y, z = a / nu + 1e-6 * torch.eye(len(a), dtype=a.dtype), torch.eye(len(a), dtype=a.dtype)
    for _ in range(steps):
        u = (3 * torch.eye(len(a), dtype=a.dtype) - z @ y) / 2
        y, z = y @ u, u @ z
    r = m @ z / math.sqrt(nu)
    s = q.shape[-1] ** -0.5
    return s * q @ (k @ r).T + alpha_kk * s * kc @ kc.T


@pytest.mark.parametrize("shape", [(64, 64), (48, 112)])
@torch.inference_mode()
def test_features_are_those_of_loops_over_windows_and_heads(shape):
    method, given = pearl(alpha_kk=0.3), random(2, 3, *shape)
    features, clip = method.encode(Batch(given)), method.clip
    for number, window in enumerate(given):
        tokens, grid = clip.embed(window[None])
        last = clip.blocks[-1]
        q, k, v = (x[0] for x in clip.project_heads(last, last.ln_1(clip.trunk(tokens))))
        mixed = [literal_logits(q[h].clone(), k[h], 0.3).softmax(-1) @ v[h] for h in range(len(q))]
        expected = clip.project(clip.merge_heads(last, torch.stack(mixed)[None]))[0, 1:]
        torch.testing.assert_close(features.tokens[number], expected)
        assert features.grid == grid == (shape[0] // 16, shape[1] // 16)


def test_many_polar_steps_reach_the_rotation_of_the_svd():
    m = random(2, 3, 6, 6)
    u, _, vt = torch.linalg.svd(m)
    torch.testing.assert_close(polar_factor(m, 60), u @ vt, atol=1e-2, rtol=0)
    exact = pearl(align_solver="svd").rotation(m)
    torch.testing.assert_close(exact, u @ vt)
    few = polar_factor(m, 5)
    assert float(torch.linalg.svdvals(few).amin()) < 0.9  # five steps leave small directions small


@torch.inference_mode()
def test_without_alignment_the_attention_is_clip_s():
    method, given = pearl(align=False), random(1, 3, 64, 64)
    heads = method.clip.project_heads(method.clip.blocks[-1], random(1, 17, 32))
    expected = torch.nn.functional.scaled_dot_product_attention(*heads)
    logits = method.attention_logits(heads, lambda name, value: None)
    torch.testing.assert_close(logits.softmax(-1) @ heads.v, expected)
    assert not torch.allclose(method.encode(Batch(given)).tokens, pearl().encode(Batch(given)).tokens)


# TLP


def literal_graph(l, gray, text, k_edge=5.0):
    """Weights cell by cell; sums repeat the class index, so that only the diagonal of the text matrix takes part."""
    p = torch.softmax(l, 0)
    _, h, w = l.shape
    data = torch.zeros(h, w, dtype=l.dtype)
    for y in range(h):
        for x in range(w):
            agree = min(max(sum(float(text[c, c] * p[c, y, x] ** 2) for c in range(len(p))), 0), 1)
            data[y, x] = max(float(p[:, y, x].max()), 0.05) ** 2 * (1 + agree)
    edges = []
    for dy, dx in ((0, 1), (1, 0)):
        difference = torch.tensor(
            [[abs(float(gray[y + dy, x + dx] - gray[y, x])) for x in range(w - dx)] for y in range(h - dy)]
        )
        weight = torch.zeros(h - dy, w - dx, dtype=l.dtype)
        for y in range(h - dy):
            for x in range(w - dx):
                common = sum(float(p[c, y + dy, x + dx] * text[c, c] * p[c, y, x]) for c in range(len(p)))
                gain = 1 + min(max(common, 0), 1)
                edge = math.exp(-k_edge * float(difference[y, x]) / (float(difference.mean()) + 1e-6))
                weight[y, x] = min(edge * gain, 1)
        edges.append(weight)
    return data, *edges


def dense(graph):
    """The matrix of the system, from its action on unit vectors."""
    h, w = graph.data.shape
    return graph.apply(graph.diagonal, torch.eye(h * w, dtype=graph.data.dtype).view(-1, h, w)).flatten(1).T


def queries(count=5, width=12):
    return Queries(normalize(random(count, width, seed=4), dim=-1).float(), torch.arange(count))


def test_the_weights_are_those_of_loops_over_cells():
    method, l, gray = Propagation(PEARLParams(boost=0.5)), random(5, 4, 6), random(4, 6, seed=1)
    text = method.text_matrix(queries().embeddings).double()
    torch.testing.assert_close(text.sum(1), torch.ones(5, dtype=torch.float64), atol=1e-5, rtol=0)
    graph = method.graph(l, gray, text, lambda name, value: None)
    for found, expected in zip(graph, literal_graph(l, gray, text), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-6)
    full = Propagation(PEARLParams(boost=0.5, text="full")).graph(l, gray, text, lambda name, value: None)
    p = l.softmax(0)
    expected = torch.einsum("chw,cd,dhw->hw", p, text, p).clamp(0, 1)
    torch.testing.assert_close(full.data, p.amax(0).clamp(min=0.05).square() * (1 + expected))


def test_the_system_is_the_data_term_and_a_laplacian():
    graph = Graph(random(3, 4).abs(), random(3, 3, seed=1).abs(), random(2, 4, seed=2).abs())
    matrix = dense(graph)
    assert torch.equal(matrix, matrix.T)
    torch.testing.assert_close(matrix.sum(1), graph.data.flatten())  # rows of a Laplacian sum to zero
    assert float(matrix[0, 1]) == -float(graph.horizontal[0, 0]) and float(matrix[0, 4]) == -float(graph.vertical[0, 0])
    assert float(matrix[3, 4]) == 0  # no wrap


@torch.inference_mode()
def test_scores_are_the_iterate_of_one_large_system_on_the_grid():
    method, notes = pearl(grid=4, boost=1.0, cg_iters=7), {}
    scores, resized = random(5, 30, 44).float(), random(3, 30, 44, seed=3).float()
    image = WindowedImage(resized, (22, 35), [], note=notes.__setitem__)
    found = method.adjust(scores.clone(), queries(), image)
    boxes = (6, 9)  # 22 / 4 and 35 / 4 rounded, halves to even; 3 x 3 boxes and a remainder
    enlarged = torch.nn.functional.interpolate(scores[None], (22, 35), mode="bilinear")[0]
    torch.testing.assert_close(notes["grid_logits"], torch.nn.functional.avg_pool2d(enlarged, boxes))
    assert found.shape == (5, 3, 3)
    graph = Graph(*(notes[name].double() for name in ("data_weight", "edge_h", "edge_v")))
    l = notes["grid_logits"].double().flatten(1)
    whole = scipy.sparse.block_diag([scipy.sparse.csr_matrix(dense(graph).numpy())] * 5)
    right = (graph.data.flatten() * l).numpy().ravel()
    x, _ = scipy.sparse.linalg.cg(whole, right, x0=l.numpy().ravel(), rtol=0.0, atol=0.0, maxiter=7)
    np.testing.assert_allclose(found.flatten().numpy(), x, rtol=1e-3, atol=1e-4)


@torch.inference_mode()
def test_queries_in_chunks_give_the_same_scores(monkeypatch):
    scores, image = random(5, 30, 44).float(), WindowedImage(random(3, 30, 44).float(), (60, 61), [])
    expected = pearl().adjust(scores, queries(), image)
    monkeypatch.setattr("ovbench.methods.propagation.CHUNK", 1)
    torch.testing.assert_close(pearl().adjust(scores, queries(), image), expected)


@pytest.mark.quick(1)
@pytest.mark.parametrize("size", [(1, 5), (5, 1), (1, 1), (3, 300)])
@torch.inference_mode()
def test_images_of_few_cells_have_finite_scores(size):
    image = WindowedImage(torch.zeros(3, 8, 8), size, [])
    found = pearl(grid=2).adjust(random(5, 8, 8).float(), queries(), image)
    assert torch.isfinite(found).all() and found.numel()


def test_boxes_are_those_of_the_original_size():
    maps = random(2, 10, 10)
    assert box_means(maps, (9, 13), (2, 3)).shape == (2, 4, 4)
    assert torch.equal(box_means(maps, (10, 10), (1, 1)), maps)


@pytest.mark.quick(2)
@pytest.mark.parametrize("other", [{"k_edge": 0.0}, {"agree": False}, {"text": "full"}, {"cg_iters": 3}], ids=str)
@torch.inference_mode()
def test_a_switch_changes_the_scores(other):
    few = Queries(normalize(random(3, 12, seed=4), dim=-1).float(), torch.arange(3))
    scores, image = random(3, 40, 40).float() / 5, WindowedImage(random(3, 40, 40, seed=2).float(), (40, 40), [])
    complete, changed = (pearl(grid=20, boost=1.0, **p).adjust(scores.clone(), few, image) for p in ({}, other))
    assert (complete - changed).abs().max() > 1e-5


def test_without_propagation_the_scores_stay():
    scores = random(5, 8, 8)
    assert pearl(propagate=False).adjust(scores, queries(), WindowedImage(random(3, 8, 8), (8, 8), [])) is scores


@torch.inference_mode()
def test_other_methods_are_propagated_as_pearl_propagates():
    class Plain(ClearCLIP):  # the features of PEARL without alignment
        mix = LastBlock.mix

    towers = Backbones(clip=small_towers().clip.float())
    image = np.random.default_rng(0).integers(0, 255, (90, 130, 3), np.uint8)
    words = [Queries(normalize(random(5, 12, seed=4), dim=-1).float(), torch.arange(5))]
    protocol = {"short_side": 64, "crop": 48, "stride": 24}
    expected, found, without = (
        Predictor(method(towers, params), Protocol(**protocol, **refine), words).label(image)[0]
        for method, params, refine in (
            (PEARL, PEARLParams(align=False, grid=7), {}),
            (Plain, None, {"refine": "tlp", "tlp_grid": 7}),
            (Plain, None, {}),
        )
    )
    assert (found == expected).mean() > 0.999 and (found == without).mean() < 0.9


@pytest.mark.parametrize("method", ["pearl", "lposs", "freecp", "talk2dino", "reme", "corrclipv2"])
def test_a_method_without_cosines_is_not_propagated(method):
    with pytest.raises(UsageError, match="needs the cosines of a method"):
        propagation(METHODS.load(method).__new__(METHODS.load(method)), Protocol(refine="tlp"))


@pytest.mark.parametrize("method", ["sclip", "naclip", "sfp", "rfclip", "cass", "glaclip"])
def test_a_method_with_cosines_is_propagated(method):
    loaded = METHODS.load(method)
    assert propagation(loaded.__new__(loaded), Protocol(refine="tlp", tlp_grid=9)).params.grid == 9


@pytest.mark.parametrize("wrong", [{"align_solver": "qr"}, {"text": "none"}, {"grid": 0}, {"tau": 0.0}], ids=str)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(UsageError):
        PEARLParams(**wrong)
