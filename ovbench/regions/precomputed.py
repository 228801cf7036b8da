"""Region maps that were made elsewhere: one npz file an image, as CorrCLIP's authors publish them."""

from __future__ import annotations

import zipfile
import zlib
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, ClassVar

import numpy as np

from ovbench.regions.base import RegionSource, checked_map
from ovbench.utils.errors import InputError, UsageError

WIDEST_ID = 8  # bytes


@dataclass(frozen=True)
class Precomputed(RegionSource):
    """``folder`` holds ``ID.npz`` for the image with that id (which may contain folders), or ``STEM.npz`` for an image
    ``STEM.jpg`` where no two images have one stem; the array ``key`` is the map at the image's own size."""

    elsewhere: ClassVar[tuple[str, ...]] = ("folder",)
    by_image: ClassVar[tuple[str, ...]] = ("folder",)
    cached: ClassVar[bool] = False

    folder: str = ""
    key: str = "instance_mask"

    def missing(self) -> list[str]:
        if self.folder and Path(self.folder).is_dir():
            return []
        folder = f'the folder of region maps "{self.folder}"' if self.folder else "a folder of region maps"
        return [f"{folder}; give --set regions.folder=DIR"]

    def names(self, images: Mapping[str, Path], wanted: Collection[str]) -> dict[Path, str]:
        """`RegionSource.names`: the id, else the file's name in the id's folder, else its stem if that is unique."""
        folder, stems = Path(self.folder), Counter(path.stem for path in images.values())
        names, lost = {}, []
        for image_id in wanted:
            path = images[image_id]
            options = (image_id, str(PurePosixPath(image_id).with_name(path.stem)), path.stem)
            name = next((name for name in options if (folder / f"{name}.npz").is_file()), None)
            if name is None:
                lost.append(image_id)
                continue
            if name == path.stem != image_id and stems[path.stem] > 1:
                raise InputError(
                    f"{stems[path.stem]} images are called {path.name}, so one region map would serve for all of them",
                    where=str(folder / f"{name}.npz"),
                    fix=f"lay the maps out by image id: {folder / image_id}.npz",
                )
            names[path] = name
        if lost and not names:
            text = f"none of {len(lost)} images has a region map, first {folder / lost[0]}.npz"
            raise InputError(text, where="regions.folder", fix="give the folder that holds them")
        return names | {images[image_id]: image_id for image_id in lost}
    def file(self, name: str) -> Path:
        return Path(self.folder) / f"{name}.npz"


    def __call__(self, image: np.ndarray, stem: str = "") -> np.ndarray:
        if not stem:
            raise UsageError("precomputed region maps are found by the name of an image file, and this image has none")
        path = self.file(stem)
        try:
            with zipfile.ZipFile(path) as archive:
                return checked_map(self._read(archive, path, image.shape[:2]), image.shape[:2], str(path))
        except FileNotFoundError:
            raise InputError(f'no region map "{path}"', fix="its name is the image's id, with .npz") from None
        except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError) as error:
            raise InputError(f"cannot read the region map: {error}", where=str(path), fix="copy it again") from None

    def _read(self, archive: zipfile.ZipFile, path: Path, size: tuple[int, int]) -> np.ndarray:
        """The array, after its header was found to announce a map of this size: never more is unpacked."""
        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if self.key not in names:
            held = ", ".join(names) or "nothing"
            raise InputError(f'no array "{self.key}"', where=str(path), fix=f"it holds: {held}; set regions.key")
        with archive.open(f"{self.key}.npy") as stream:
            shape, dtype = _header(stream)
        if dtype.hasobject:
            raise InputError("the region map holds Python objects, which are never loaded", where=str(path))
        if dtype.itemsize > WIDEST_ID or int(np.prod(shape, dtype=object)) != size[0] * size[1]:
            checked_map(np.broadcast_to(np.zeros((), np.int8), shape), size, str(path))  # names both sizes
            raise InputError(f"the region map holds values of type {dtype}", where=str(path))
        with archive.open(f"{self.key}.npy") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in read:
        raise ValueError(f"npy version {version}")
    shape, _, dtype = read[version](stream)
    return shape, dtype
