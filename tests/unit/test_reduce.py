"""Scores to labels: what they mean, and that tiles give those of the plain form."""

import pytest
import torch

from ovbench.engine import reduce
from ovbench.engine.reduce import (
    Decision,
    class_probabilities,
    decide,
    decide_queries,
    labels_by_tiles,
    upsample,
    upsampled_tiles,
)


def test_synonyms_take_the_maximum_wherever_they_stand():
    scores = torch.tensor([0.1, 0.3, 0.2, 0.5, 0.4]).view(5, 1, 1)
    index = torch.tensor([0, 0, 1, 2, 2])
    p = class_probabilities(scores, index, Decision(logit_scale=10))
    queries = (scores * 10).softmax(0)
    torch.testing.assert_close(p.flatten(), torch.stack([queries[1], queries[2], queries[3]]).flatten())


def test_threshold_is_strict_and_names_class_zero():
    p = torch.tensor([[0.2, 0.1], [0.5, 0.3]]).view(2, 1, 2)
    assert decide(p, Decision(prob_thd=0.5)).tolist() == [[1, 0]]
    assert decide(p, Decision(prob_thd=0.0)).tolist() == [[1, 1]]


def test_lowest_class_wins_a_tie():
    assert decide(torch.full((3, 1, 1), 1 / 3), Decision()).item() == 0


def plain_labels(scores, size, index, decision):
    """The definition, written out."""
    best, labels = class_probabilities(upsample(scores, size), index, decision).max(0)
    return labels.masked_fill(best < decision.prob_thd, 0)


def synonyms(queries, classes, generator):
    index = torch.randint(0, classes, (queries,), generator=generator)
    index[:classes] = torch.arange(classes)
    return index.sort().values


SCORES = {
    "ordinary": lambda noise: noise * 0.05,
    "wide": lambda noise: noise * 3,
    "coarse steps": lambda noise: (noise * 4).round() / 40,
    "all equal": lambda noise: torch.zeros_like(noise),
    "equal but for rounding": lambda noise: 0.2 + noise * 1e-8,
    "twins": lambda noise: noise[: (len(noise) + 1) // 2].repeat(2, 1, 1)[: len(noise)] * 0.1,
    "one query far ahead": lambda noise: noise * 0.01 + torch.eye(len(noise))[0, :, None, None],
}


@pytest.mark.parametrize("threshold", [0.0, 0.2])
@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize(("queries", "classes"), [(1, 1), (9, 4), (30, 30)])
@pytest.mark.parametrize(
    ("source", "size"), [((33, 50), (101, 64)), ((21, 21), (160, 213)), ((60, 80), (60, 80)), ((90, 40), (55, 90))]
)
def test_tiles_give_the_labels_of_the_plain_form(monkeypatch, source, size, queries, classes, kind, threshold):
    monkeypatch.setattr(reduce, "TILE_CPU", 1 << 12)  # many small tiles
    generator = torch.Generator().manual_seed(len(kind))
    scores = SCORES[kind](torch.randn(queries, *source, generator=generator))
    index, decision = synonyms(queries, classes, generator), Decision(40.0, threshold)
    expected = plain_labels(scores, size, index, decision)

    def through_maps(tile):
        return decide(class_probabilities(tile, index, decision), decision)

    assert torch.equal(expected, labels_by_tiles(scores, size, lambda tile: decide_queries(tile, index, decision)))
    assert torch.equal(expected, labels_by_tiles(scores, size, through_maps))


@pytest.mark.parametrize("size", [(1, 1), (1, 300), (300, 1), (7, 11), (90, 333)])
def test_tiles_cover_the_image_once_with_its_scores(size):
    scores = torch.randn(5, 20, 31, generator=torch.Generator().manual_seed(0))
    whole, seen = torch.full((5, *size), torch.nan), torch.zeros(size)
    for tile in upsampled_tiles(scores, size, 1000):
        whole[:, tile.rows, tile.columns] = tile.scores
        seen[tile.rows, tile.columns] += 1
    assert (seen == 1).all()
    torch.testing.assert_close(whole, upsample(scores, size), rtol=0, atol=1e-6)


def test_the_largest_is_the_first_of_equals():
    values = torch.tensor([[0.5, 0.1, 0.3], [0.5, 0.7, 0.3], [0.1, 0.7, 0.3]])
    assert decide(values, Decision()).tolist() == [0, 1, 0]
