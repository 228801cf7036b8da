"""Methods that look at the whole image: its original pixels, its context, and its merged scores of all queries."""

import numpy as np
import pytest
import torch
from torch.nn.functional import avg_pool2d
from towers import small_towers

from ovbench.config.load import Protocol
from ovbench.inference.batching import WindowBatcher
from ovbench.inference.predictor import Predictor
from ovbench.methods.base import Backbones, Method, Needs, Queries
from ovbench.methods.bilinear import enlarge
from ovbench.methods.maskclip import MaskCLIP
from ovbench.parity.recorder import Recorder
from ovbench.utils.errors import ScoreError, UsageError

IMAGE = np.random.default_rng(0).integers(0, 255, (130, 170, 3), np.uint8)
EMBEDDINGS = torch.randn(4, 12, generator=torch.Generator().manual_seed(5))
QUERIES = Queries(torch.nn.functional.normalize(EMBEDDINGS, dim=-1), torch.tensor([0, 0, 1, 2]))
PROTOCOLS = [Protocol(short_side=100, crop=64, stride=40), Protocol(short_side=100, crop=0)]


@pytest.fixture(scope="module")
def towers():
    return Backbones(**{name: tower.float() for name, tower in small_towers().items()})


class Smoothed(MaskCLIP):
    """Propagates merged scores over a coarse map, by the queries and the gray values of the resized image."""

    def adjust(self, scores, queries, image):
        assert tuple(scores.shape[1:]) == image.size and len(scores) == len(queries.embeddings)
        alike = (queries.embeddings @ queries.embeddings.T).softmax(1)
        weights = avg_pool2d(image.resized.mean(0, keepdim=True)[None], 4)[0].sigmoid()
        return (alike @ (avg_pool2d(scores[None], 4)[0] * weights).flatten(1)).unflatten(1, weights.shape[1:])


class Classes(MaskCLIP):
    """Takes the best synonym of a class before the map is enlarged."""

    def adjust(self, scores, queries, image):
        return torch.stack([scores[queries.class_index == c].amax(0) for c in range(3)])

    def probabilities(self, scores, queries, decision):
        return (scores * decision.logit_scale).softmax(0)


class Original(MaskCLIP):
    """Adds to the scores of a window the mean of the original pixels of the image, and of its place."""

    needs = Needs(backbones=("clip",), original=True)

    def encode_image(self, image):
        assert image.pixels.dtype == torch.uint8 and tuple(image.pixels.shape[:2]) == image.original
        return image.pixels.float().mean((0, 1)) / 255

    def encode(self, batch):
        assert len(batch.boxes) == len(batch.sizes) == len(batch.windows)
        features = super().encode(batch)
        place = torch.tensor([box.y1 / size[0] for box, size in zip(batch.boxes, batch.sizes, strict=True)])
        return features._replace(tokens=features.tokens + batch.context.mean() + place[:, None, None])

    def adjust(self, scores, queries, image):
        scores[0] += image.context[0]
        return scores


def listened(method, protocol):
    notes = Recorder()
    labels = Predictor(method, protocol, [QUERIES])
    found = labels.label_resized(*resized(labels), note=notes, pixels=IMAGE)[0]
    return found, notes


def resized(predictor):
    prepared = predictor.prepare(IMAGE)
    height, width = prepared.size
    return np.ascontiguousarray(IMAGE[:height, :width]), IMAGE.shape[:2]


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_an_adjusted_map_is_that_of_all_queries_at_the_resized_size_and_decides(towers, protocol):
    labels, notes = listened(Smoothed(towers), protocol)
    adjusted = notes.once("adjusted_scores")
    assert adjusted.shape[1] == notes.once("merged_scores").shape[1] // 4
    full = enlarge(adjusted, IMAGE.shape[:2])
    assert torch.equal(notes.once("full_scores"), full)
    assert np.mean(labels == QUERIES.class_index[full.argmax(0)].numpy()) > 0.999
    plain, _ = listened(MaskCLIP(towers), protocol)
    assert 0.01 < np.mean(labels != plain) < 1


def test_an_adjusted_map_may_have_a_row_per_class(towers):
    labels, notes = listened(Classes(towers), PROTOCOLS[0])
    assert np.array_equal(labels, enlarge(notes.once("adjusted_scores"), IMAGE.shape[:2]).argmax(0).numpy())
    assert len(np.unique(labels)) > 1


def test_a_map_of_the_wrong_shape_is_named(towers):
    for wrong in (lambda *a: None, lambda scores, *a: scores[:2], lambda scores, *a: scores[None]):
        made = type("Wrong", (MaskCLIP,), {"adjust": lambda self, *a, wrong=wrong: wrong(*a)})(towers)
        with pytest.raises(ScoreError, match=r"Wrong\.adjust returned .*expected a floating-point tensor of shape \(4"):
            listened(made, PROTOCOLS[0])


def test_the_original_image_is_at_hand_and_batches_hold_one_image(towers):
    method = Original(towers)
    assert method.windowwise == MaskCLIP.windowwise
    predictor = Predictor(method, PROTOCOLS[0], [QUERIES])
    expected = {turn: predictor.label(IMAGE[:, :width])[0] for turn, width in enumerate((170, 150, 165))}
    for batcher in (WindowBatcher(predictor), WindowBatcher(predictor, 7)):
        found = [p for turn, width in enumerate((170, 150, 165)) for p in batcher.add(turn, IMAGE[:, :width])]
        found += batcher.flush()
        assert all(np.array_equal(p.labels[0], expected[p.number]) for p in found) and len(found) == 3
    plain = Predictor(MaskCLIP(towers), PROTOCOLS[0], [QUERIES]).label(IMAGE)[0]
    assert not np.array_equal(plain, expected[0])


def test_without_the_original_image_a_method_that_needs_it_is_refused(towers):
    predictor = Predictor(Original(towers), PROTOCOLS[0], [QUERIES])
    with pytest.raises(UsageError, match="Original needs the image at its original size"):
        predictor.label_resized(*resized(predictor))


def test_a_method_without_these_steps_gets_its_scores_back(towers):
    scores = torch.rand(4, 5, 6)
    assert Method.adjust(MaskCLIP(towers), scores, QUERIES, None) is scores
