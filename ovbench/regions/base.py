"""Base class of region sources. Commands read the settings of a source, so importing one loads no NumPy or torch."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ovbench.utils.errors import InputError
from ovbench.utils.registry import REGIONS

if TYPE_CHECKING:
    import numpy as np

Maker = Callable[["np.ndarray", str], "np.ndarray"]  # image uint8 (H, W, 3), stem of its file -> map int32 (H, W)


class RegionSource:
    """A source of region maps: a frozen dataclass whose fields are its settings.

    ``start`` loads the weights and returns the function that makes maps; a source without weights returns itself.
    Other code uses `ovbench.regions.provider.open_regions`, which adds checks and the cache.

    Attributes:
        elsewhere: Settings that are only paths; a map does not depend on them.
        by_image: Settings that are folders with one file per image; a map depends on its file, see `file`.
        cached: Whether maps are cached; False for maps that are read from files.
        concurrent: Whether several threads may make maps at the same time.
        void: Ids of pixels without a segment.
    """

    elsewhere: ClassVar[tuple[str, ...]] = ()
    by_image: ClassVar[tuple[str, ...]] = ()
    cached: ClassVar[bool] = True
    concurrent: ClassVar[bool] = True
    void: ClassVar[tuple[int, ...]] = (0,)

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
    import numpy as np

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


def open_source(settings: Mapping[str, Any]) -> tuple[str, RegionSource]:
    """Return the name and the source of a regions table.

    Args:
        settings: ``source`` and the settings of that source.
    """
    own = dict(settings)
    name = own.pop("source")
    return name, REGIONS.load(name)(**own)
