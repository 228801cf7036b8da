"""Pairing, filters, synonyms and assignment by hand-worked cases, beside the parity case."""

import numpy as np
import pytest

from ovbench.training.reference_set.ambiguous import ambiguous_roots, beyond_knee, gated, knee_size
from ovbench.training.reference_set.assign import assign
from ovbench.training.reference_set.groups import adaptive_rate, centre, cohesion, group_pairs, kept
from ovbench.training.reference_set.pairing import best_segments
from ovbench.training.reference_set.phrases import Phrase, choose_parser, open_parser, unique_phrases
from ovbench.training.reference_set.synonyms import most_similar_pairs, nearest_roots, neighbours, renamed
from ovbench.utils.errors import UsageError


def test_every_phrase_goes_to_its_best_segment():
    segments = np.array([[10.0, 0], [0, 1], [1, 1]])
    found = best_segments(segments, np.array([[1.0, 0.1], [2, 2], [1, 0]]))
    assert found.segment.tolist() == [0, 2, 0] and found.score[1] == pytest.approx(1)


def test_one_segment_takes_every_phrase():
    assert best_segments(np.array([[0.0, 2.0]]), np.eye(2)).segment.tolist() == [0, 0]


def test_the_centre_is_the_median_with_the_mean_of_the_two_middle_values():
    members = np.array([[1.0, 0], [0.6, 0.8], [0, 1], [0.8, 0.6]], np.float32)
    expected = np.array([0.7, 0.7]) / np.hypot(0.7, 0.7)
    assert centre(members) == pytest.approx(expected)


def test_groups_lose_the_members_that_look_unlike_the_others():
    visual = np.array([[1.0, 0.1 * i] for i in range(9)] + [[-1.0, 0]], np.float32)
    groups = group_pairs(np.zeros(10, int), 2)
    found = cohesion(lambda rows: visual[rows], np.arange(10), groups)
    stay = kept("fixed", groups, found.score, np.zeros(10), found.w, percent=10)
    assert np.flatnonzero(~stay).tolist() == [9] and np.isnan(found.w[1])


@pytest.mark.parametrize(("size", "dropped"), [(1, 0), (3, 0), (4, 1), (10, 3), (19, 5)])
def test_a_share_is_rounded_down(size, dropped):
    stay = kept("fixed", group_pairs(np.zeros(size, int), 1), np.arange(size), np.zeros(size), np.zeros(1), 30)
    assert (~stay).sum() == dropped and stay[dropped:].all()


def test_filters_of_table_3():
    root = np.array([0] * 6 + [1] * 4)
    groups, visual, clip = group_pairs(root, 2), np.arange(10.0), np.arange(10.0)[::-1].copy()
    w = np.array([1.0, 0.5])
    dropped = {m: np.flatnonzero(~kept(m, groups, visual, clip, w)).tolist() for m in ("clip", "clip-group", "fixed")}
    assert dropped == {"clip": [7, 8, 9], "clip-group": [5, 9], "fixed": [0, 6]}
    assert np.flatnonzero(~kept("adaptive", groups, visual, clip, w)).tolist() == [0, 1, 2, 6]
    assert kept("none", groups, visual, clip, w).all()
    with pytest.raises(UsageError, match="mean"):
        kept("mean", groups, visual, clip, w)


def test_ties_drop_what_comes_first():
    stay = kept("fixed", group_pairs(np.zeros(4, int), 1), np.ones(4), np.ones(4), np.zeros(1), 50)
    assert stay.tolist() == [False, False, True, True]


def test_adaptive_rates():
    w = np.array([0.2, 0.8, 1.5, np.nan])
    assert adaptive_rate(w)[:3].tolist() == pytest.approx([0.1, 0.4, 0.5]) and np.isnan(adaptive_rate(w)[3])
    assert adaptive_rate(w, "clip")[:3].tolist() == pytest.approx([0.2, 0.5, 0.5])
    assert adaptive_rate(w, "minmax")[:3].tolist() == pytest.approx([0, 0.5 * 0.6 / 1.3, 0.5])
    assert adaptive_rate(np.full(2, 0.3), "minmax").tolist() == [0, 0]


def test_the_knee_stays_and_what_is_larger_goes():
    sizes = np.array([100, 50, 3, 2, 2, 1, 1, 0, 1])
    assert knee_size(sizes) == 3 and beyond_knee(sizes).tolist() == [0, 1]
    assert beyond_knee(np.array([5, 5, 5])).tolist() == [] and beyond_knee(np.zeros(3, int)).tolist() == []


def test_the_gate_keeps_large_groups_that_look_alike():
    sizes, w = np.array([100, 50, 12, 11, 10, 1]), np.array([0.9, 0.1, 0.2, 0.3, 0.4, 5.0])
    assert gated(np.array([0, 1]), sizes, w).tolist() == [0]
    roots = ["scene", "person", "a", "b", "c", "d"]
    assert ambiguous_roots("list", roots, sizes, w, {"person", "nobody"}).tolist() == [1]
    assert ambiguous_roots("off", roots, sizes, w).tolist() == []


def test_synonyms_in_blocks_are_those_of_the_whole(monkeypatch):
    text = np.random.default_rng(0).normal(size=(30, 6))
    owning = np.arange(0, 30, 2)
    pairs, near = most_similar_pairs(text, owning, 8), nearest_roots(text, owning, 2)
    monkeypatch.setattr("ovbench.training.reference_set.synonyms.ROWS_PER_BLOCK", 4)
    assert np.array_equal(most_similar_pairs(text, owning, 8).pairs, pairs.pairs)
    assert np.array_equal(nearest_roots(text, owning, 2).pairs, near.pairs)
    assert (pairs.pairs[:, 0] < pairs.pairs[:, 1]).all() and (np.diff(pairs.similarity) <= 0).all()
    assert len(near.pairs) == 30 and set(np.unique(near.pairs)) <= set(owning.tolist())


def test_words_that_the_tower_confuses_are_no_synonyms():
    text = np.array([[1.0, 0], [1, 0], [0.9, 0.1]])
    assert most_similar_pairs(text, np.arange(3), 1, below=0.9999).pairs.tolist() == [[0, 2]]
    assert most_similar_pairs(text, np.arange(1), 5).pairs.tolist() == []


def test_synonyms_hold_both_ways_for_one_hop():
    assert neighbours(np.array([[0, 1], [1, 2]])) == {0: [1], 1: [0, 2], 2: [1]}
    assert renamed("a small cat", ["kitten", "pet"]) == ["a small kitten", "a small pet"]
    assert renamed("cat", ["kitten"]) == ["kitten"]


def test_rows_and_columns():
    phrases, roots = ["a cat", "dog", "a kitten"], ["cat", "dog", "kitten"]
    pairs = np.array([[7, 0], [7, 1], [9, 2]])
    made = assign(pairs, phrases, [0, 1, 2], roots, {0: [2], 2: [0]})
    assert made.segments.tolist() == [7, 9]
    assert made.labels == ["a cat", "a kitten", "dog"]
    assert made.pairs.tolist() == [[0, 0], [0, 1], [0, 2], [1, 0], [1, 1]]
    assert made.root.tolist() == [0, 2, 1] and not made.copied.any()
    copied = assign(pairs[:2], phrases, [0, 1, 2], roots, {0: [2]})
    assert copied.labels == ["a cat", "a kitten", "dog"] and copied.copied.tolist() == [False, True, False]


@pytest.fixture(scope="module")
def parse():
    pytest.importorskip("textblob", reason="TextBlob is an extra")
    return open_parser("lexicon")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("caption", "phrases"),
    [
        ("Two dogs playing in the snow.", [("two dogs", "dog"), ("snow", "snow")]),
        ("a red ring on hedge", [("a red ring", "ring"), ("hedge", "hedge")]),
        ("A man wearing his red shirt near a parked bus", [
            ("a man", "man"), ("red shirt", "shirt"), ("a parked bus", "bus")]),
        ("scarlet cross", [("scarlet cross", "cross")]),
        ("something red", []),
        ("it is running", []),
        ("", []),
        ("12 34 !!", []),
    ],
)  # fmt: skip
def test_phrases_end_in_their_root(parse, caption, phrases):
    assert [tuple(phrase) for phrase in parse(caption)] == phrases


@pytest.mark.slow
def test_phrases_of_an_image_are_unique(parse):
    found, empty = unique_phrases(["a dog", "A dog and the cat", "running"], parse)
    assert found == [Phrase("a dog", "dog"), Phrase("cat", "cat")] and empty == 1


def test_a_missing_spacy_model_says_how_to_get_one():
    with pytest.raises(UsageError, match="release page"):
        choose_parser("spacy", "no_such_model")
    assert choose_parser("auto", "no_such_model") == "lexicon"
