"""Region maps for whoever labels images: the configured source, behind its checks and the cache."""

from __future__ import annotations

import logging
import threading
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ovbench.regions.base import Maker, RegionSource, checked_map
from ovbench.regions.map_store import RegionStore
from ovbench.utils.errors import InputError
from ovbench.utils.registry import REGIONS

log = logging.getLogger("ovbench")


class Regions:
    """Makes or looks up region maps; threads may share it.

    Nothing is loaded before the first map that is not in the cache, so a benchmark whose maps were all built needs
    neither the weights' memory nor their device.
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
        """Where maps are made from now on."""
        with self._lock:
            if str(device) != self.device:
                self.device, self._maker = str(device), None
        return self

    def expect(self, images: Mapping[str, Path], wanted: Collection[str]) -> None:
        """Learn which images will come, before the first one; InputError where their maps cannot be told apart."""
        self._names = self.source.names(images, wanted)

    def _name(self, image_path: Path) -> str:
        return self._names.get(image_path, image_path.stem)

    def file(self, image_path: Path) -> Path | None:
        """The file that the map of an image is read from; None where it is made."""
        return self.source.file(self._name(image_path))

    def __call__(self, image: np.ndarray, file: str | Path = "") -> np.ndarray:
        """The region map i32[h, w] of an RGB image u8[h, w, 3]; ``file`` is its path, or the stem of its file."""
        stem = self._name(file) if isinstance(file, Path) else file
        stored = self.store.get(image) if self.store else None
        if stored is not None and stored.shape == image.shape[:2]:
            self.found += 1
            return stored
        regions = checked_map(self._make(image, stem), image.shape[:2], f"{self.name}, {stem}" if stem else self.name)
        self.made += 1
        if self.store:
            try:
                self.store.put(image, regions)
            except InputError as error:
                if self.must_store:
                    raise
                log.warning("region maps are not kept: %s", error)
                self.store = None  # a cache that cannot be written costs time only
        return regions

    def _make(self, image: np.ndarray, stem: str) -> np.ndarray:
        with self._lock:
            if self._maker is None:
                self._maker = self.source.start(self.device)
            if not self.source.concurrent:
                return self._maker(image, stem)
        return self._maker(image, stem)


def open_source(settings: Mapping[str, Any]) -> tuple[str, RegionSource]:
    """The name and the source that a cell's regions table describes: ``source`` and the source's own settings."""
    own = dict(settings)
    name = own.pop("source")
    return name, REGIONS.load(name)(**own)


def open_regions(settings: Mapping[str, Any], device: str = "cpu", *, cache: bool = True) -> Regions:
    """The region maps of a cell (its ``regions`` table).

    InputError naming the files where the source needs some that are not here and cannot be fetched; so this is the
    moment before anything runs.
    """
    name, source = open_source(settings)
    source.fetch()
    store = RegionStore(name, source) if cache and source.cached else None
    return Regions(name, source, device, store)
