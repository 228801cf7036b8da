"""Region maps: which pixels belong together, as integer ids; and the small operations on ids that methods share."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor


class RegionSource(Protocol):
    """Makes a region map i32[h, w] of an RGB image u8[h, w, 3]. The lowest id present means "not segmented"."""

    def __call__(self, image: np.ndarray) -> np.ndarray: ...

    def settings(self) -> dict[str, object]:
        """Every setting that changes the map, as plain data."""
        ...


class Ranks(NamedTuple):
    """Ids of several maps renumbered 0..count-1 in ascending order, each map by itself.

    rank: i64, shape of the ids; count: i64[b] distinct ids per map; value: i64[b, max(count)] the id behind a rank
    (its map's lowest id where a map has fewer).
    """

    rank: Tensor
    count: Tensor
    value: Tensor


def nearest_ids(ids: Tensor, size: tuple[int, int]) -> Tensor:
    """Region ids i64[b, h, w] at another size by nearest neighbour (torch ``nearest``, not ``nearest-exact``)."""
    return F.interpolate(ids[:, None].double(), size, mode="nearest")[:, 0].long()


def rank_ids(ids: Tensor) -> Ranks:
    """Renumber the ids i64[b, ...] of each map by ascending value; one sort for all maps."""
    low = int(ids.min())
    span = int(ids.max()) - low + 1
    offset = torch.arange(len(ids), device=ids.device) * span
    keys, inverse = torch.unique(ids.flatten(1) - low + offset[:, None], return_inverse=True)
    owner = keys // span
    count = torch.bincount(owner, minlength=len(ids))
    first = count.cumsum(0) - count
    column = torch.arange(int(count.max()), device=ids.device).expand(len(ids), -1)
    column = torch.where(column < count[:, None], column, 0)
    value = keys[first[:, None] + column] - offset[:, None] + low
    return Ranks((inverse - first[:, None]).view_as(ids), count, value)


def majority_labels(labels: Tensor, regions: Tensor) -> Tensor:
    """Give every region the label most frequent in it; the region with the lowest id keeps its pixels as they are.

    Args:
        labels: i64[h, w], non-negative. regions: i64[h, w].

    Of equally frequent labels the smallest wins (as ``torch.mode`` on the CPU). One bincount over region and label.
    """
    rank = rank_ids(regions[None]).rank[0]
    classes = int(labels.max()) + 1
    pairs, count = torch.unique(rank * classes + labels, return_counts=True)  # sparse: regions see few labels
    region, label = pairs // classes, pairs % classes
    # sort by region, then by descending count, then by label: the first pair of a region is its winner
    order = (region * (int(count.max()) + 1) + (count.max() - count)).argsort(stable=True)
    region, label = region[order], label[order]
    leads = torch.ones_like(region, dtype=torch.bool)
    leads[1:] = region[1:] != region[:-1]
    winner = label[leads]
    return torch.where(rank == 0, labels, winner[rank])
