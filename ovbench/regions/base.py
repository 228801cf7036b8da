"""Base class of region sources, and operations on region ids that several methods use."""

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

Maker = Callable[[np.ndarray, str], np.ndarray]  # image uint8 (H, W, 3), stem of its file -> region map int32 (H, W)


class RegionSource:
    """A source of region maps: a frozen dataclass whose fields are its settings.

    ``start`` loads the weights and returns the function that makes maps; a source without weights returns itself.
    Other code uses `ovbench.regions.provider.open_regions`, which adds checks and the cache.

    Attributes:
        elsewhere: Settings that are only paths; a map does not depend on them.
        by_image: Settings that are folders with one file per image; a map depends on its file, see `file`.
        cached: Whether maps are cached; False for maps that are read from files.
        concurrent: Whether several threads may make maps at the same time.
    """

    elsewhere: ClassVar[tuple[str, ...]] = ()
    by_image: ClassVar[tuple[str, ...]] = ()
    cached: ClassVar[bool] = True
    concurrent: ClassVar[bool] = True

    def __call__(self, image: np.ndarray, stem: str = "") -> np.ndarray:
        """Return the region map of an image.

        Args:
            image: uint8 (H, W, 3), RGB.
            stem: Name of the image file without folder and suffix, for sources that read maps from files.

        Returns:
            int32 (H, W); the lowest id present means "not segmented".
        """
        return self.start()(image, stem)

    def file(self, name: str) -> Path | None:
        """Return the file that the map of this name is read from, or None if the source makes its maps."""
        return None

    def start(self, device: str = "cpu") -> Maker:
        """Load the source onto a device and return the function that makes maps.

        Raises:
            InputError: If a file or package is missing.
        """
        return self

    def settings(self) -> dict[str, Any]:
        """Return all settings as plain data."""
        return dataclasses.asdict(self)

    def names(self, images: Mapping[str, Path], wanted: Collection[str]) -> dict[Path, str]:
        """Return the name under which the source looks up each image file, if it is not the stem.

        Args:
            images: All images of a dataset, by id.
            wanted: Ids of the images whose maps are needed.

        Returns:
            Name by path of the image.

        Raises:
            InputError: If two images would get the same map, or no image has one.
        """
        return {}

    def missing(self) -> list[str]:
        """Return the files and packages that the source needs and this machine lacks."""
        return []

    def fetch(self) -> None:
        """Download what is missing.

        Raises:
            InputError: With everything that cannot be downloaded.
        """
        if absent := self.missing():
            raise InputError("missing: " + "; ".join(absent))

    def weights_sha256(self) -> str:
        """Return the sha256 of the weights, downloaded if necessary; empty for a source without weights."""
        return ""


def checked_map(regions: np.ndarray, size: tuple[int, int], where: str) -> np.ndarray:
    """Check a region map and convert it to int32.

    A single region is allowed: it is the lowest id, so nothing is segmented.

    Args:
        regions: Integer ids (H, W), also (1, H, W) or (H, W, 1), also as floats.
        size: (H, W) of the image.
        where: File or source, for the message.

    Returns:
        int32 (H, W).

    Raises:
        InputError: If the shape is not the size of the image, or an id is not an integer of 32 bits.
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
            fix="make the map from this image, at its original size and without rotation",
        )
    whole = regions.dtype.kind in "iub" or (regions.dtype.kind == "f" and bool((regions == np.round(regions)).all()))
    if not whole:
        raise InputError(f"the region map has {regions.dtype} values that are not integer ids", where=where)
    if float(regions.max()) > np.iinfo(np.int32).max or float(regions.min()) < np.iinfo(np.int32).min:
        raise InputError("the region map has ids that do not fit into 32 bits", where=where)
    return regions.astype(np.int32)


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
