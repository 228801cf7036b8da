"""Region maps: which pixels belong together, as integer ids; and the small operations on ids that methods share."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.utils.errors import InputError

Maker = Callable[[np.ndarray, str], np.ndarray]  # image u8[h, w, 3], stem of its file -> region map i32[h, w]


class RegionSource:
    """Base class of region sources: frozen dataclasses whose fields are the settings that change the map.

    ``start`` loads what is needed and returns the function that makes maps; a source without weights is that function
    itself. Everything outside this package goes through `ovbench.regions.provider.open_regions`, which adds
    checks and the cache.

    elsewhere: names of the settings that say only where something lies; they are no part of a map's identity.
    by_image: names of the settings that say where one file per image lies; each is known by its content, see `file`.
    cached: whether the maps are worth keeping (not those that are read from files).
    concurrent: whether several threads may make maps at once.
    """

    elsewhere: ClassVar[tuple[str, ...]] = ()
    by_image: ClassVar[tuple[str, ...]] = ()
    cached: ClassVar[bool] = True
    concurrent: ClassVar[bool] = True

    def __call__(self, image: np.ndarray, stem: str = "") -> np.ndarray:
        """The region map i32[h, w] of an RGB image u8[h, w, 3]; the lowest id present means "not segmented".

        ``stem`` is the name of the image's file without its folder and suffix; only sources that look it up use it.
        """
        return self.start()(image, stem)

    def file(self, name: str) -> Path | None:
        """The file that the map of this name is read from; None for a source that makes its maps."""
        return None

    def start(self, device: str = "cpu") -> Maker:
        """Load what the source needs onto a device; InputError where something is missing."""
        return self

    def settings(self) -> dict[str, Any]:
        """Every setting, as plain data."""
        return dataclasses.asdict(self)

    def names(self, images: Mapping[str, Path], wanted: Collection[str]) -> dict[Path, str]:
        """The name by which the source looks up each image file, where that is not its stem.

        Args:
            images: every image of a benchmark, by id. wanted: ids of those whose maps are needed.

        Raises:
            InputError: where a map would be taken for two images, or none is there.
        """
        return {}

    def missing(self) -> list[str]:
        """What the source needs and this machine does not have, each with its file name."""
        return []

    def fetch(self) -> None:
        """Bring what is missing to this machine; InputError naming it where that is not possible."""
        if absent := self.missing():
            raise InputError("missing: " + "; ".join(absent))

    def weights_sha256(self) -> str:
        """Hash of the weights, fetched where necessary; empty for a source without any."""
        return ""


def checked_map(regions: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    """A region map as i32[h, w]; InputError unless it has whole ids, the two axes and the size of its image.

    One region is allowed: it is the lowest, so that nothing counts as segmented.
    """
    regions = np.asarray(regions)
    if regions.ndim == 3 and 1 in (regions.shape[0], regions.shape[2]):
        regions = regions.squeeze(0 if regions.shape[0] == 1 else 2)
    if regions.ndim != 2 or not regions.size:
        raise InputError(f"the region map is empty or not two-dimensional: {regions.shape}", where=where)
    if regions.shape != tuple(size):
        (h, w), (have_h, have_w) = size, regions.shape
        raise InputError(
            f"the region map is {have_w}x{have_h} but its image is {w}x{h}",
            where=where,
            fix="make the map from this image, at its original size and not rotated",
        )
    whole = regions.dtype.kind in "iub" or (regions.dtype.kind == "f" and bool((regions == np.round(regions)).all()))
    if not whole:
        raise InputError(f"the region map holds {regions.dtype} values that are no whole ids", where=where)
    if float(regions.max()) > np.iinfo(np.int32).max or float(regions.min()) < np.iinfo(np.int32).min:
        raise InputError("the region map holds ids beyond 32 bits", where=where)
    return regions.astype(np.int32)


class Ranks(NamedTuple):
    """Ids of several maps renumbered 0..count-1 in ascending order, each map by itself.

    rank: i64, shape of the ids; count: i64[b] distinct ids per map; value: i64[b, max(count)], or as many as asked for,
    the id behind a rank (its map's lowest id where a map has fewer).
    """

    rank: Tensor
    count: Tensor
    value: Tensor


def nearest_ids(ids: Tensor, size: tuple[int, int]) -> Tensor:
    """Region ids i64[b, h, w] at another size by nearest neighbour (torch ``nearest``, not ``nearest-exact``)."""
    return F.interpolate(ids[:, None].double(), size, mode="nearest")[:, 0].long()


def rank_ids(ids: Tensor, slots: int | None = None) -> Ranks:
    """Renumber the ids i64[b, ...] of each map by ascending value; one sort for all maps. ``slots``: the length of
    ``value``, if it shall not depend on the maps."""
    low = int(ids.min())
    span = int(ids.max()) - low + 1
    offset = torch.arange(len(ids), device=ids.device) * span
    keys, inverse = torch.unique(ids.flatten(1) - low + offset[:, None], return_inverse=True)
    owner = keys // span
    count = torch.bincount(owner, minlength=len(ids))
    first = count.cumsum(0) - count
    column = torch.arange(slots or int(count.max()), device=ids.device).expand(len(ids), -1)
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
