"""Painting masks, and the small operations on region ids, against literal versions on random inputs."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from ovbench.regions.ids import majority_labels, nearest_ids, rank_ids
from ovbench.regions.paint import paint_masks


def painted(masks: np.ndarray, size: tuple[int, int], at_once: int = 100) -> np.ndarray:
    all_masks = torch.from_numpy(masks)
    parts = all_masks.split(at_once) if len(masks) else []
    found = paint_masks(parts, all_masks.sum((1, 2)), size)
    assert found.dtype == torch.int32
    return found.numpy()


def painted_one_by_one(masks: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The rule as it is told: sort by area, stable; write 1, 2, 3, ... so that later masks overwrite earlier ones."""
    canvas = np.zeros(size, np.int32)
    for number, mask in enumerate(sorted(masks, key=lambda mask: mask.sum()), 1):
        canvas[mask] = number
    return canvas


@pytest.mark.parametrize("seed", range(12))
def test_painting_equals_one_by_one(seed):
    rng = np.random.default_rng(seed)
    count, size = int(rng.integers(0, 40)), (int(rng.integers(1, 30)), int(rng.integers(1, 30)))
    masks = rng.random((count, *size)) < rng.choice([0.0, 0.02, 0.3, 0.9, 1.0], (count, 1, 1))
    assert np.array_equal(painted(masks, size, 1 + seed), painted_one_by_one(masks, size))


def test_a_larger_mask_hides_a_smaller_one_inside_it():
    large, small = np.ones((6, 6), bool), np.zeros((6, 6), bool)
    large[:, 5] = False
    small[2:4, 2:4] = True
    ids = painted(np.stack([large, small]), (6, 6))
    assert set(np.unique(ids)) == {0, 2} and ids[3, 3] == 2 and (ids[:, 5] == 0).all()


def test_of_equal_areas_the_later_mask_wins():
    left, right = np.zeros((2, 1, 3), bool)
    left[0, :2] = right[0, 1:] = True
    assert painted(np.stack([left, right]), (1, 3)).tolist() == [[1, 2, 2]]


def test_no_masks_and_empty_masks():
    assert np.array_equal(painted(np.zeros((0, 3, 4), bool), (3, 4)), np.zeros((3, 4)))
    assert not painted(np.zeros((2, 3, 4), bool), (3, 4)).any()


@pytest.mark.parametrize("seed", range(10))
def test_ranks_against_sorting_each_map(seed):
    """rank and value undo each other, ranks run from 0 to count - 1 in the order of the ids, maps stay apart."""
    rng = np.random.default_rng(seed)
    spread = int(rng.choice([1, 3, 50, 70_000, 2**31 - 1]))
    batch = [rng.integers(-spread, spread + 1, (5, 7)) % int(rng.integers(1, 2 * spread + 2)) for _ in range(4)]
    batch[0][:] = -7  # one region beside maps of many
    ids = torch.from_numpy(np.stack(batch).astype(np.int64))
    ranks = rank_ids(ids)
    for number, one in enumerate(ids):
        distinct = sorted(set(one.flatten().tolist()))
        assert int(ranks.count[number]) == len(distinct)
        assert ranks.value[number, : len(distinct)].tolist() == distinct
        assert set(ranks.value[number, len(distinct) :].tolist()) <= {distinct[0]}
        expected = torch.tensor([distinct.index(value) for value in one.flatten().tolist()]).view_as(one)
        assert torch.equal(ranks.rank[number], expected)


@pytest.mark.parametrize("seed", range(10))
def test_majority_against_a_count_per_region(seed):
    rng = np.random.default_rng(seed)
    ids = torch.from_numpy(rng.integers(-2, int(rng.integers(0, 60)), (23, 31)).astype(np.int64))
    labels = torch.from_numpy(rng.integers(0, int(rng.integers(1, 9)), (23, 31)).astype(np.int64))
    result = majority_labels(labels, ids)
    lowest = int(ids.min())
    for region in set(ids.flatten().tolist()):
        inside = ids == region
        if region == lowest:
            assert torch.equal(result[inside], labels[inside])
            continue
        counts = torch.bincount(labels[inside])
        assert set(result[inside].tolist()) == {int(counts.argmax())}  # the first, hence smallest, of the largest
    assert torch.equal(majority_labels(result, ids), result)


def test_majority_with_more_than_65535_regions():
    ids = torch.arange(300 * 300).view(300, 300)
    labels = torch.arange(300 * 300).view(300, 300) % 7
    assert torch.equal(majority_labels(labels, ids), labels)


def test_nearest_is_torch_nearest_and_keeps_large_ids_apart():
    ids = torch.tensor([[[2**24, 2**24 + 1], [2**31 - 1, -5]]])
    assert torch.equal(nearest_ids(ids, (4, 4))[0], ids[0].repeat_interleave(2, 0).repeat_interleave(2, 1))
    row = torch.arange(10).view(1, 1, 10)
    assert nearest_ids(row, (1, 4))[0, 0].tolist() == [int(i * 10 / 4) for i in range(4)]
