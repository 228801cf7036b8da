"""Read region maps from npz files, one per image, as the authors of CorrCLIP publish them."""

from __future__ import annotations

import zipfile
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, TYPE_CHECKING, ClassVar

from ovbench.regions.base import RegionSource, checked_map
from ovbench.utils.errors import InputError, UsageError, first_line

if TYPE_CHECKING:
    import numpy as np

WIDEST_ID = 8  # bytes


@dataclass(frozen=True)
class Precomputed(RegionSource):
    """Read the region map of each image from a file.

    Attributes:
        folder: Folder with ``ID.npz`` per image id, which may contain folders, or ``STEM.npz`` if stems are unique.
        key: Name of the array, a map at the original size of the image.
    """

    elsewhere: ClassVar[tuple[str, ...]] = ("folder",)
    by_image: ClassVar[tuple[str, ...]] = ("folder",)
    cached: ClassVar[bool] = False

    folder: str = ""
    key: str = "instance_mask"

    def missing(self) -> list[str]:
        """Return the folder if it is missing."""
        if self.folder and Path(self.folder).is_dir():
            return []
        folder = f'the folder of region maps "{self.folder}"' if self.folder else "a folder of region maps"
        return [f"{folder}; give --set regions.folder=DIR"]

    def names(self, images: Mapping[str, Path], wanted: Collection[str]) -> dict[Path, str]:
        """Return the name of each map: the id, otherwise the stem in the folder of the id, otherwise a unique stem."""
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
                    f"{stems[path.stem]} images are called {path.name}, so they would all get this region map",
                    where=str(folder / f"{name}.npz"),
                    fix=f"name the maps by image id: {folder / image_id}.npz",
                )
            names[path] = name
        if lost and not names:
            text = f"none of {len(lost)} images has a region map, first {folder / lost[0]}.npz"
            raise InputError(text, where="regions.folder", fix="give the folder that contains them")
        return names | {images[image_id]: image_id for image_id in lost}

    def file(self, name: str) -> Path:
        """Return the file of a map."""
        return Path(self.folder) / f"{name}.npz"

    def __call__(self, image: np.ndarray, stem: str = "") -> np.ndarray:
        """Return the region map int32 (H, W) that belongs to the file stem of an image.

        Raises:
            UsageError: If the image has no file name.
            InputError: If the map is missing, damaged, of another size or not a map.
        """
        from ovbench.data.integrity import BROKEN_ARRAYS  # imported here, because names are found without Pillow

        if not stem:
            raise UsageError("precomputed region maps are found by the name of the image file, but this image has none")
        path = self.file(stem)
        try:
            with zipfile.ZipFile(path) as archive:
                return checked_map(self._read(archive, path, image.shape[:2]), image.shape[:2], str(path))
        except FileNotFoundError:
            raise InputError(f'no region map "{path}"', fix="name it by the image id, with .npz") from None
        except BROKEN_ARRAYS as error:
            what = f"cannot read the region map: {first_line(error)}"
            raise InputError(what, where=str(path), fix="copy it again") from None

    def _read(self, archive: zipfile.ZipFile, path: Path, size: tuple[int, int]) -> np.ndarray:
        """Read the array, but only if its header has the size of the image, so that memory is bounded."""
        import numpy as np

        names = [name.removesuffix(".npy") for name in archive.namelist()]
        if self.key not in names:
            held = ", ".join(names) or "nothing"
            raise InputError(f'no array "{self.key}"', where=str(path), fix=f"it contains: {held}; set regions.key")
        with archive.open(f"{self.key}.npy") as stream:
            shape, dtype = _header(stream)
        if dtype.hasobject:
            raise InputError("the region map contains Python objects, which are never loaded", where=str(path))
        if dtype.itemsize > WIDEST_ID or int(np.prod(shape, dtype=object)) != size[0] * size[1]:
            checked_map(np.broadcast_to(np.zeros((), np.int8), shape), size, str(path))  # raises with both sizes
            raise InputError(f"the region map has values of type {dtype}, not integer ids", where=str(path))
        with archive.open(f"{self.key}.npy") as stream:
            return np.lib.format.read_array(stream, allow_pickle=False)


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], np.dtype]:
    """Read shape and dtype from the header of an npy stream."""
    import numpy as np

    read = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    version = np.lib.format.read_magic(stream)
    if version not in read:
        raise ValueError(f"npy version {version}")
    shape, _, dtype = read[version](stream)
    return shape, dtype
