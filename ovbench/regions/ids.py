"""Operations on region ids that several methods use."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class Ranks(NamedTuple):
    """The ids of several maps, renumbered 0..count-1 in ascending order in each map.

    Attributes:
        rank: int64, shape of the ids.
        count: int64 (B,), distinct ids per map.
        value: int64 (B, M), id of each rank, with M the largest count or ``slots``; padded with the lowest id.
    """

    rank: Tensor
    count: Tensor
    value: Tensor


def nearest_ids(ids: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize region ids by nearest neighbour (torch ``nearest``, not ``nearest-exact``).

    Args:
        ids: int64 (B, h, w).
        size: Target size (H, W).

    Returns:
        int64 (B, H, W).
    """
    return F.interpolate(ids[:, None].double(), size, mode="nearest")[:, 0].long()


def resized_ids(regions: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize a region map on the host, with the pixels that `nearest_ids` takes.

    Args:
        regions: int (h, w).
        size: Target size (H, W).

    Returns:
        (H, W), of the same type.
    """
    height, width = regions.shape
    rows = nearest_ids(torch.arange(height).view(1, -1, 1), (size[0], 1)).flatten().numpy()
    columns = nearest_ids(torch.arange(width).view(1, 1, -1), (1, size[1])).flatten().numpy()
    return regions[rows[:, None], columns]


def rank_ids(ids: Tensor, slots: int | None = None) -> Ranks:
    """Renumber the ids of each map by ascending value, with one sort for all maps.

    Args:
        ids: int64 (B, ...).
        slots: Length of ``Ranks.value``, at most the cells of a map (default: the largest number of ids in a map).

    Returns:
        The ranks and their ids.
    """
    low = int(ids.min())
    span = int(ids.max()) - low + 1
    offset = torch.arange(len(ids), device=ids.device) * span
    keys, inverse = torch.unique(ids.flatten(1) - low + offset[:, None], return_inverse=True)
    owner = keys // span
    count = torch.bincount(owner, minlength=len(ids))
    first = count.cumsum(0) - count
    length = min(slots, ids[0].numel()) if slots else int(count.max())
    column = torch.arange(length, device=ids.device).expand(len(ids), -1)
    column = torch.where(column < count[:, None], column, 0)
    value = keys[first[:, None] + column] - offset[:, None] + low
    return Ranks((inverse - first[:, None]).view_as(ids), count, value)


def majority_labels(labels: Tensor, regions: Tensor) -> Tensor:
    """Give every region its most frequent label, except the region with the lowest id.

    Of equally frequent labels the smallest wins, as with ``torch.mode`` on the CPU.

    Args:
        labels: int64 (H, W), at least 0.
        regions: int64 (H, W), region ids.

    Returns:
        int64 (H, W).
    """
    rank = rank_ids(regions[None]).rank[0]
    classes = int(labels.max()) + 1
    pairs, count = torch.unique(rank * classes + labels, return_counts=True)  # sparse: a region has few labels
    region, label = pairs // classes, pairs % classes
    # sort by region, then descending count, then label: the first pair of a region wins
    order = (region * (int(count.max()) + 1) + (count.max() - count)).argsort(stable=True)
    region, label = region[order], label[order]
    leads = torch.ones_like(region, dtype=torch.bool)
    leads[1:] = region[1:] != region[:-1]
    winner = label[leads]
    return torch.where(rank == 0, labels, winner[rank])
