"""Scores to labels: what they mean, and that both forms and all tiles give the same where rounding does not decide."""

import pytest
import torch
import torch.nn.functional as F

from ovbench.inference.decision import Leading, decide
from ovbench.methods.bilinear import enlarge, enlarged_tiles
from ovbench.methods.ops import FEW, Decision, class_probabilities, largest

SURE = 1e-4  # of a probability or a logit: farther apart than any rounding here


def test_synonyms_take_the_maximum_wherever_they_stand():
    scores = torch.tensor([0.1, 0.3, 0.2, 0.5, 0.4]).view(5, 1, 1)
    index = torch.tensor([0, 0, 1, 2, 2])
    p = class_probabilities(scores, index, Decision(logit_scale=10))
    queries = (scores * 10).softmax(0)
    torch.testing.assert_close(p.flatten(), torch.stack([queries[1], queries[2], queries[3]]).flatten())


@pytest.mark.parametrize("background", [0, 1])
def test_threshold_is_strict_and_names_the_background(background):
    p = torch.tensor([[0.2, 0.1], [0.5, 0.3]]).view(2, 1, 2)
    assert decide(p, Decision(prob_thd=0.5, background=background)).tolist() == [[1, background]]
    assert decide(p, Decision(prob_thd=0.0, background=background)).tolist() == [[1, 1]]


def test_without_a_background_there_is_no_threshold():
    p = torch.tensor([[0.2, 0.1], [0.5, 0.3]]).view(2, 1, 2)
    assert decide(p, Decision(prob_thd=0.9)).tolist() == [[1, 1]]
    scores = torch.tensor([0.1, 0.11]).view(2, 1)
    assert Leading(torch.arange(2), Decision(1.0, 0.9)).add(scores).labels().tolist() == [1]
    assert Leading(torch.arange(2), Decision(1.0, 0.9, background=0)).add(scores).labels().tolist() == [0]


def test_lowest_class_wins_a_tie():
    assert decide(torch.full((3, 1, 1), 1 / 3), Decision()).item() == 0


class Reference:
    """The definition on PyTorch's enlarged scores, in double precision, and where its answer is sure."""

    def __init__(self, full, index, decision):
        full = full * decision.logit_scale
        classes = torch.stack([full[index == number].amax(0) for number in range(int(index[-1]) + 1)])
        best, labels = classes.max(0)
        p = torch.exp(best - full.logsumexp(0))
        others = classes.scatter(0, labels[None], -torch.inf).amax(0)
        unlikely = p < decision.threshold
        self.labels = labels if decision.background is None else labels.masked_fill(unlikely, decision.background)
        apart = (best - others > SURE) | (unlikely if decision.threshold else False)
        self.sure = apart & ((p - decision.threshold).abs() > SURE) if decision.threshold else apart


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


SURELY = {"ordinary", "wide", "coarse steps", "one query far ahead"}  # kinds where most pixels have a sure answer


DECISIONS = (Decision(), Decision(40.0, 0.2, 0), Decision(40.0, 0.2, 3), Decision(40.0, 0.2))


@pytest.mark.quick(10)
@pytest.mark.parametrize("kind", SCORES)
@pytest.mark.parametrize(
    ("queries", "classes"),
    [(4, 4), (9, 4), *(pytest.param(*sizes, marks=pytest.mark.slow) for sizes in [(30, 30), (101, 60)])],
)
@pytest.mark.parametrize(
    ("source", "size"), [((33, 50), (101, 64)), ((21, 21), (60, 83)), ((30, 40), (30, 40)), ((90, 40), (55, 90))]
)
def test_every_form_gives_the_label_wherever_the_answer_is_sure(source, size, queries, classes, kind):
    generator = torch.Generator().manual_seed(len(kind))
    scores = SCORES[kind](torch.randn(queries, *source, generator=generator))
    index = synonyms(queries, classes, generator)
    exact = F.interpolate(scores[None].double(), size, mode="bilinear")[0]
    full, tiles = enlarge(scores, size), list(enlarged_tiles(scores, size, 1 << 12))
    for decision in DECISIONS:
        expected = Reference(exact, index, decision)
        by_maps = decide(class_probabilities(full, index, decision), decision)
        by_queries = Leading(index, decision).add(full).labels()
        in_chunks = Leading(index, decision)
        for part in full.split(7):
            in_chunks.add(part)
        for labels in (by_maps, by_queries, in_chunks.labels()):
            assert torch.equal(labels[expected.sure], expected.labels[expected.sure]), decision
        assert expected.sure.double().mean() > 0.7 or kind not in SURELY or queries == 101
        for tile in tiles:
            labels = Leading(index, decision).add(tile.values).labels()
            sure = expected.sure[tile.rows, tile.columns]
            assert torch.equal(labels[sure], expected.labels[tile.rows, tile.columns][sure]), decision


def test_without_a_threshold_tiles_and_chunks_give_the_same_labels_everywhere():
    """The largest of equal bits is found alike, whatever the tile."""
    scores = (torch.randn(90, 20, 30, generator=torch.Generator().manual_seed(1)) * 4).round() / 40
    index, whole = torch.arange(90), torch.zeros(61, 77, dtype=torch.int64)
    for tile in enlarged_tiles(scores, (61, 77), 1 << 10):
        leading = Leading(index, Decision())
        for part in tile.values.split(13):
            leading.add(part)
        whole[tile.rows, tile.columns] = leading.labels()
    assert torch.equal(whole, enlarge(scores, (61, 77)).max(0).indices)


@pytest.mark.parametrize("rows", [1, 2, FEW, FEW + 1, 100, 847])
def test_the_largest_is_the_first_of_equals(rows):
    values = torch.randint(0, 30, (rows, 5, 7), generator=torch.Generator().manual_seed(rows)).float()
    found = largest(values)
    assert torch.equal(found.value, values.amax(0))
    first = torch.from_numpy(values.numpy().argmax(0))  # NumPy promises the first
    assert torch.equal(found.row, first)


@pytest.mark.parametrize("rows", [3, 200])
def test_scores_that_are_not_numbers_name_some_row(rows):
    found = largest(torch.full((rows, 4), torch.nan))
    assert ((found.row >= 0) & (found.row < rows)).all()


@pytest.mark.parametrize("far", [1.0, 1e4])
def test_a_probability_from_chunks_does_not_overflow(far):
    scores = torch.tensor([far, 0.0, far / 2, -far]).view(4, 1)
    leading = Leading(torch.arange(4), Decision(40.0, 0.5, 2))
    for part in scores.flip(0).split(1):
        leading.add(part)
    torch.testing.assert_close(1 / leading.total, (40 * scores).softmax(0).amax(0))
    assert leading.labels().tolist() == [3]
