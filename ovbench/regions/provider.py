"""Open the configured region source, with checks and the cache."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ovbench.regions.base import Maker, RegionSource, checked_map, open_source
from ovbench.regions.map_store import RegionStore
from ovbench.utils.errors import InputError

log = logging.getLogger("ovbench")


class Regions:
    """Region maps of a source with its cache; thread-safe.

    The source is loaded at the first map that is not in the cache, so a dataset with built maps needs no weights.
    """

    def __init__(
        self,
        name: str,
        source: RegionSource,
        device: str = "cpu",
        store: RegionStore | None = None,
        *,
        must_store: bool = False,
    ):
        self.name, self.source, self.device, self.store = name, source, device, store
        self.must_store = must_store
        self.made = self.found = 0
        self._maker: Maker | None = None
        self._names: dict[Path, str] = {}
        self._lock = threading.Lock()

    def to(self, device: str) -> Regions:
        """Set the device and return self."""
        with self._lock:
            if str(device) != self.device:
                self.device, self._maker = str(device), None
        return self

    def expect(self, images: Mapping[str, Path], wanted: Collection[str]) -> None:
        """Register the images before the first one is read.

        Args:
            images: All images of a dataset, by id.
            wanted: Ids of the images whose maps are needed.

        Raises:
            InputError: If two images would get the same map, or no image has one.
        """
        self._names = self.source.names(images, wanted)

    def _name(self, image_path: Path) -> str:
        return self._names.get(image_path, image_path.stem)

    def file(self, image_path: Path) -> Path | None:
        """Return the file that the map of an image is read from, or None if the source makes it."""
        return self.source.file(self._name(image_path))

    def __call__(self, image: np.ndarray, file: str | Path = "") -> np.ndarray:
        """Return the region map of an image.

        Args:
            image: uint8 (H, W, 3), RGB.
            file: Path of the image, or the stem of its file.

        Returns:
            int32 (H, W).

        Raises:
            InputError: If the map is missing or does not fit the image.
        """
        stem = self._name(file) if isinstance(file, Path) else file
        stored = self.store.get(image) if self.store else None
        if stored is not None and stored.shape == image.shape[:2]:
            self.found += 1
            return stored
        regions = checked_map(self._make(image, stem), image.shape[:2], f"{self.name}, {stem}" if stem else self.name)
        self.made += 1
        if self.store:
            try:
                return self.store.put(image, regions)
            except InputError as error:
                if self.must_store:
                    raise
                log.warning("region maps are not cached: %s", error)
                self.store = None  # without a cache the run is slower, but correct
        return regions

    def _make(self, image: np.ndarray, stem: str) -> np.ndarray:
        with self._lock:
            if self._maker is None:
                self._maker = self.source.start(self.device)
            if not self.source.concurrent:
                return self._maker(image, stem)
        return self._maker(image, stem)


def open_regions(settings: Mapping[str, Any], device: str = "cpu", *, cache: bool = True) -> Regions:
    """Open the region maps of a cell, and download what the source lacks.

    Args:
        settings: Regions table of the cell.
        device: Device of the source.
        cache: Read and write the cache, if the source uses it.

    Returns:
        The region maps.

    Raises:
        InputError: With every file that is missing and cannot be downloaded.
    """
    name, source = open_source(settings)
    source.fetch()
    store = RegionStore(name, source) if cache and source.cached else None
    return Regions(name, source, device, store)
