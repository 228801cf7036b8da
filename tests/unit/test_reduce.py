"""Scores to labels."""

import torch

from ovbench.engine.reduce import Decision, class_probabilities, decide


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
