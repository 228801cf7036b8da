"""Operations on region ids that several methods use."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

MOST_LABELS = 1 << 16


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


def count_ids(regions: np.ndarray) -> int:
    """Return the number of distinct ids of a region map on the host."""
    low, span = int(regions.min()), int(regions.max()) - int(regions.min()) + 1
    if span > regions.size:
        return len(np.unique(regions))
    seen = np.zeros(span, bool)
    seen[regions - low] = True
    return int(seen.sum())


def rank_ids(ids: Tensor, slots: int | None = None) -> Ranks:
    """Renumber the ids of each map by ascending value.

    Args:
        ids: int64 (B, ...).
        slots: Length of ``Ranks.value``, at least the number of ids in a map (default: the largest of these numbers).

    Returns:
        The ranks and their ids.
    """
    flat = ids.flatten(1)
    ordered, order = flat.sort(1)
    steps = F.pad(ordered[:, 1:] != ordered[:, :-1], (1, 0)).cumsum(1)
    count = steps[:, -1] + 1
    length = min(slots, flat.shape[1]) if slots else int(count.max())  # without slots the host waits for a GPU
    value = ordered[:, :1].repeat(1, length).scatter_(1, steps.clamp(max=length - 1), ordered)
    return Ranks(torch.empty_like(steps).scatter_(1, order, steps).view_as(ids), count, value)


def majority_labels(labels: Tensor, regions: Tensor) -> Tensor:
    """Give every region its most frequent label, except the region with the lowest id.

    Of equally frequent labels the smallest wins, as with ``torch.mode`` on the CPU.

    Args:
        labels: int64 (H, W), 0 to 65535.
        regions: int64 (H, W), region ids.

    Returns:
        int64 (H, W).
    """
    rank = rank_ids(regions[None], 1).rank[0]
    pair = (rank * MOST_LABELS + labels).flatten().sort().values
    run = F.pad(pair[1:] != pair[:-1], (1, 0)).cumsum(0)  # of equal pairs
    count = torch.zeros_like(run).index_add_(0, run, torch.ones_like(run))[run]
    # the largest count wins, then the smallest label
    score = count * MOST_LABELS + MOST_LABELS - 1 - pair % MOST_LABELS
    best = torch.zeros_like(pair).scatter_reduce(0, pair // MOST_LABELS, score, "amax")
    winner = MOST_LABELS - 1 - best % MOST_LABELS
    return torch.where(rank == 0, labels, winner[rank])
