"""Cache of region maps on disk, and behind it at a URL, with a checksum per map."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from ovbench.regions.base import RegionSource
from ovbench.utils.errors import InputError
from ovbench.utils.files import parse_json, write_bytes, write_json
from ovbench.utils.paths import cache_root
from ovbench.utils.shared_cache import publish, read_shared

FORMAT = 2
SUFFIX = ".npz"
DESCRIPTION = "source.json"
DIGEST = 32  # bytes of the sha256 at the end of an entry

log = logging.getLogger("ovbench")


class DamagedEntry(ValueError):
    """A cache entry whose bytes are not as written."""


def pack(regions: np.ndarray) -> bytes:
    """Encode a region map: an npz file with the array "regions", and its sha256 behind it.

    Args:
        regions: int32 (H, W), any number of ids.
    """
    kinds = (np.uint8, np.uint16, np.int32)
    kind = next(t for t in kinds if np.iinfo(t).min <= regions.min() and regions.max() <= np.iinfo(t).max)
    file = io.BytesIO()
    np.savez_compressed(file, regions=regions.astype(kind))
    return file.getvalue() + hashlib.sha256(file.getvalue()).digest()


def unpack(data: bytes) -> np.ndarray:
    """Decode an entry.

    Args:
        data: Bytes as `pack` returns them.

    Returns:
        int32 (H, W).

    Raises:
        DamagedEntry: If a byte differs.
    """
    content, digest = data[:-DIGEST], data[-DIGEST:]
    if hashlib.sha256(content).digest() != digest:
        raise DamagedEntry("the checksum does not match")
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return arrays["regions"].astype(np.int32)


def description(name: str, source: RegionSource) -> dict[str, Any]:
    """Return the name, settings and weights of a source, on which its maps depend."""
    settings = {k: v for k, v in source.settings().items() if k not in source.elsewhere}
    return {"format": FORMAT, "source": name, "settings": settings, "weights_sha256": source.weights_sha256()}


def image_key(image: np.ndarray) -> str:
    """Return the hash of the pixels of an image, uint8 (H, W, 3)."""
    digest = hashlib.sha256(f"{image.shape} {image.dtype}".encode())
    digest.update(np.ascontiguousarray(image))
    return digest.hexdigest()


class RegionStore:
    """The maps of one source in a folder of the cache."""

    def __init__(self, name: str, source: RegionSource, root: Path | None = None):
        self.description, self.warned = description(name, source), False
        key = hashlib.sha256(json.dumps(self.description, sort_keys=True).encode()).hexdigest()
        self.folder = (root or cache_root()) / "regions" / f"{name}-{key[:16]}"

    def path(self, image: np.ndarray) -> Path:
        """Return the file of the map of an image."""
        key = image_key(image)
        return self.folder / key[:2] / f"{key}{SUFFIX}"

    def get(self, image: np.ndarray) -> np.ndarray | None:
        """Return the map of an image, or None if it is missing, damaged or not readable."""
        path = self.path(image)
        try:
            return unpack(path.read_bytes())
        except (FileNotFoundError, DamagedEntry):
            shared = read_shared(self._name(path), unpack)
            if shared is None:
                return None
            with suppress(InputError):  # a full disk costs requests only
                write_bytes(path, shared[0], durable=False)
            return shared[1]
        except OSError as error:
            if not self.warned:
                log.warning("region maps in %s cannot be read (%s); new ones are made", self.folder, error.strerror)
            self.warned = True
            return None

    def put(self, image: np.ndarray, regions: np.ndarray) -> np.ndarray:
        """Store a map atomically.

        Returns:
            The map to use: at a URL, another machine may have been first.

        Raises:
            InputError: If it cannot be written.
        """
        path, about = self.path(image), self.folder / DESCRIPTION
        if not os.path.exists(about):  # False in a folder that cannot be read
            write_json(about, self.description)
            publish(self._name(about), about.read_bytes(), parse_json)
        content = publish(self._name(path), pack(regions), unpack)
        write_bytes(path, content, durable=False)  # the checksum finds a damaged entry
        return unpack(content)

    def _name(self, path: Path) -> str:
        return f"{self.folder.parent.name}/{path.relative_to(self.folder.parent).as_posix()}"
