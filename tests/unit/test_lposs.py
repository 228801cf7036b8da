"""LPOSS and LPOSS+: both graphs against dense matrices and scipy, and what the switches mean."""

import math

import numpy as np
import pytest
import scipy.sparse.linalg
import torch
from torch.nn.functional import normalize
from towers import small_towers

from ovbench.backbones.pos_embed import resize_positions_smoothly
from ovbench.config.load import Protocol
from ovbench.inference.batching import WindowBatcher
from ovbench.inference.predictor import Predictor
from ovbench.inference.sliding_window import window_grid
from ovbench.methods import lposs
from ovbench.methods.base import Backbones, Batch, Queries, WindowedImage
from ovbench.methods.lposs import LPOSS, WindowPatches
from ovbench.methods.ops import Decision
from ovbench.methods.pixel_graph import PixelGraph, scaled_lab
from ovbench.methods.tower_params import LPOSSParams
from ovbench.parity.recorder import Recorder
from ovbench.utils.errors import UsageError

IMAGE = np.random.default_rng(0).integers(0, 255, (90, 120, 3), np.uint8)
PROTOCOL = Protocol(short_side=0, crop=64, stride=40, logit_scale=1.0)


def random(*size, seed=0):
    return torch.randn(*size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


QUERIES = Queries(normalize(random(4, 12, seed=5), dim=-1), torch.tensor([0, 0, 1, 2]))


def method(**params):
    return LPOSS(small_towers(), LPOSSParams(**params)).eval()


def solved(matrix, right, p):
    """Return the iterate of scipy from normalised affinities, one column after the other."""
    degree = matrix.sum(1)
    scale = np.where(degree > 0, degree, 1) ** -0.5
    system = np.eye(len(matrix)) - p.alpha * scale[:, None] * matrix * scale
    columns = [scipy.sparse.linalg.cg(system, column, rtol=1e-6, atol=0.0, maxiter=p.cg_steps)[0] for column in right.T]
    return np.stack(columns, 1)


def literal_affinity(guide, centres, p):
    """As the specification: one patch after the other."""
    n = len(guide)
    a = np.zeros((n, n))
    for i in range(n):
        similarity = guide @ guide[i]
        for j in np.argsort(-similarity)[: p.neighbours]:
            distance = math.dist(centres[i], centres[j]) ** p.distance_power
            a[i, j] = max(similarity[j], 0) ** p.gamma * math.exp(-p.sigma * distance)
    total = a + a.T
    np.fill_diagonal(total, 0)
    return total


@pytest.mark.parametrize("params", [{}, {"cg_steps": 3, "gamma": 1.0}, {"distance_power": 2.0, "alpha": 0.9}])
@torch.inference_mode()
def test_patches_of_all_windows_are_solved_on_one_graph(params, monkeypatch):
    made = method(neighbours=20, **params)
    boxes, grid = window_grid((24, 32), 24, 5), (3, 3)
    count = len(boxes)
    guide, clip = (normalize(random(count, 9, size, seed=size), dim=-1) for size in (5, 12))
    centres = [
        (box.y1 + 4 + 8 * row, box.x1 + 4 + 8 * column) for box in boxes for row in range(3) for column in range(3)
    ]
    affinity = literal_affinity(guide.flatten(0, 1).numpy(), centres, made.params)
    expected = solved(affinity, (clip.flatten(0, 1) @ QUERIES.embeddings.T).numpy(), made.params)
    expected = expected.reshape(count, 3, 3, 4).transpose(0, 3, 1, 2)
    for block in (1 << 24, 100):  # all rows of the matrix, and a few at a time
        monkeypatch.setattr(lposs, "BLOCK", block)
        notes = Recorder()
        image = WindowedImage(torch.zeros(3, 24, 32).double(), (24, 32), boxes, note=notes)
        scores = made.score(made.join(WindowPatches(guide, clip, grid), image), QUERIES)
        np.testing.assert_allclose(notes.once("degree"), affinity.sum(1))
        np.testing.assert_allclose(scores, expected, rtol=1e-6, atol=1e-9)


def literal_pixels(colours, p):
    """As the specification: one pair of pixels after the other."""
    _, height, width = colours.shape
    places = [(y, x) for y in range(height) for x in range(width)]
    radius, matrix = p.pixel_window // 2, np.zeros((len(places),) * 2)
    for i, (y, x) in enumerate(places):
        for j, (v, u) in enumerate(places):
            if i != j and max(abs(y - v), abs(x - u)) <= radius:
                matrix[i, j] = math.exp(-math.dist(colours[:, y, x], colours[:, v, u]) / p.tau)
    return matrix


@pytest.mark.quick(1)
@pytest.mark.parametrize(("size", "window"), [((5, 9), 5), ((9, 5), 3), ((3, 11), 13), ((1, 1), 13)])
def test_pixels_are_solved_on_their_graph(size, window):
    made = method(pixels=True, pixel_window=window, tau=0.1)
    colours = random(3, *size).abs() / 20
    graph = PixelGraph.of(colours, window // 2, 0.1)
    matrix = literal_pixels(colours.numpy(), made.params)
    degree = graph.apply(torch.ones(1, *size).double())[0]
    np.testing.assert_allclose(degree, matrix.sum(1).reshape(size))
    scores = random(2, *size, seed=1)
    found = made.solve(graph.normalised(degree), scores, axes=(1, 2))
    expected = solved(matrix, scores.flatten(1).numpy().T, made.params)
    np.testing.assert_allclose(found.flatten(1).T, expected, rtol=1e-6, atol=1e-9)


def test_lab_of_known_colours():
    colours = torch.tensor([[1, 1, 1], [0, 0, 0], [1, 0, 0], [0, 0, 1], [0.02, 0.02, 0.02]]).double()
    lab = scaled_lab(colours.T[:, None])[:, 0].T * torch.tensor([100, 128, 128])
    known = [[100, 0, 0], [0, 0, 0], [53.24, 80.09, 67.20], [32.30, 79.19, -107.86], [1.40, 0, 0]]
    np.testing.assert_allclose(lab, known, atol=0.03)


def image_with(resized, note=lambda name, value: None):
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (PROTOCOL.mean, PROTOCOL.std))
    return WindowedImage((resized.float() - mean) / std, tuple(resized.shape[1:]), [], note=note)


@pytest.mark.slow
def test_synonyms_compete_after_the_propagation_over_pixels():
    made, notes = method(pixels=True), Recorder()
    resized = torch.from_numpy(IMAGE[:20, :30]).permute(2, 0, 1)
    scores = random(4, 20, 30).float()
    classes = made.adjust(scores.clone(), QUERIES, image_with(resized, notes))
    apart = torch.cat(
        [
            made.adjust(one[None], Queries(QUERIES.embeddings[:1], torch.tensor([0])), image_with(resized))
            for one in scores
        ]
    )
    torch.testing.assert_close(classes, torch.stack([apart[:2].amax(0), apart[2], apart[3]]))
    torch.testing.assert_close(notes.once("lab"), scaled_lab(resized.float() / 255), rtol=0, atol=0)
    without = method().adjust(scores, QUERIES, image_with(resized))
    torch.testing.assert_close(without, torch.stack([scores[:2].amax(0), scores[2], scores[3]]))
    probabilities = made.probabilities(without, QUERIES, Decision(1.0))
    torch.testing.assert_close(probabilities, without.softmax(0))


@pytest.mark.slow
def test_queries_are_propagated_over_pixels_in_groups(monkeypatch):
    made, image = method(pixels=True), image_with(torch.from_numpy(IMAGE[:20, :30]).permute(2, 0, 1))
    scores = random(4, 20, 30).float()
    together = made.adjust(scores, QUERIES, image)
    monkeypatch.setattr(lposs, "CHUNK", 1000)
    torch.testing.assert_close(made.adjust(scores, QUERIES, image), together)


@torch.inference_mode()
def test_a_window_is_padded_with_black_at_the_right_and_below():
    made, given = method(), random(2, 3, 50, 64)
    padded = made.padded(given)
    assert padded.shape == (2, 3, 64, 64) and torch.equal(padded[..., :50, :], given)
    black = -torch.tensor(PROTOCOL.mean) / torch.tensor(PROTOCOL.std)
    torch.testing.assert_close(padded[0, :, -1, -1].float(), black)
    assert made.padded(padded) is padded
    features = made.encode(Batch(given))
    assert features.grid == (8, 8)  # DINO's; CLIP's is 4 x 4
    assert features.guide.shape == (2, 64, 24) and features.clip.shape == (2, 64, 12)
    expected = normalize(made.dino.last_qkv(made.seen_by(made.dino, padded))[2], dim=-1)
    torch.testing.assert_close(features.guide, expected)
    keys = method(features="keys").encode(Batch(given)).guide
    assert not torch.allclose(keys, expected)


def test_positions_are_resized_by_size_without_antialiasing():
    table = random(17, 6)
    resized = resize_positions_smoothly(table, (2, 3), antialias=False)
    patches = table[1:].T.reshape(1, 6, 4, 4)
    expected = torch.nn.functional.interpolate(patches, (2, 3), mode="bicubic")
    torch.testing.assert_close(resized[1:], expected[0].flatten(1).T)
    assert not torch.allclose(resized, resize_positions_smoothly(table, (2, 3)))


class Kept(LPOSS):
    """Keeps the class scores of every image, by its size."""

    def adjust(self, scores, queries, image):
        self.kept[image.original] = super().adjust(scores, queries, image)
        return self.kept[image.original]


@pytest.mark.slow
@pytest.mark.parametrize("params", [{}, {"pixels": True}, {"neighbours": 5}])
def test_scores_do_not_depend_on_batches_or_other_images(params):
    towers = Backbones(**{name: tower.float() for name, tower in small_towers().items()})
    made = Kept(towers, LPOSSParams(**params))
    made.kept = {}
    predictor = Predictor(made, PROTOCOL, [Queries(QUERIES.embeddings.float(), QUERIES.class_index)])
    predictor.label(IMAGE)
    expected = made.kept.pop(IMAGE.shape[:2])
    assert expected.shape == (3, 90, 120) and expected.flatten(1).std(1).min() > 0
    together = WindowBatcher(predictor, 8)
    images = [IMAGE[:64], IMAGE, IMAGE[:40, :64]]  # the last one is padded
    found = [one for number, image in enumerate(images) for one in together.add(number, image)] + [*together.flush()]
    assert len(found) == 3 and all(isinstance(one.labels, list) for one in found)
    torch.testing.assert_close(made.kept[IMAGE.shape[:2]], expected, rtol=1e-4, atol=1e-4)


@torch.inference_mode()
def test_ten_steps_do_not_reach_the_solution_and_a_hundred_do():
    guide, clip = (normalize(random(2, 64, size, seed=size).abs(), dim=-1) for size in (5, 12))
    features = WindowPatches(guide, clip, (8, 8))
    image = WindowedImage(torch.zeros(3, 64, 104).double(), (64, 104), window_grid((64, 104), 64, 40))
    joined = method(neighbours=20).join(features, image)
    right = (clip @ QUERIES.embeddings.T).flatten(0, 1)
    left = []
    for steps in (10, 100):
        x = method(cg_steps=steps).score(joined, QUERIES).flatten(2).mT.flatten(0, 1)
        left.append(float((x - 0.95 * joined.graph.apply(x) - right).norm(dim=0).div(right.norm(dim=0)).max()))
    assert left[0] > 1e-3 and left[1] <= 1.01e-6
    without = method(patches=False).score(joined, QUERIES)
    torch.testing.assert_close(without.flatten(2).mT.flatten(0, 1), right)


@pytest.mark.parametrize(
    "params",
    [{"alpha": 1.0}, {"neighbours": 1}, {"cg_steps": 0}, {"tau": 0.0}, {"pixel_window": 1}, {"features": "tokens"}],
)
def test_wrong_parameters_are_refused(params):
    with pytest.raises(UsageError, match=next(iter(params))):
        LPOSSParams(**params)
