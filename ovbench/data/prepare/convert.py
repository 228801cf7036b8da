"""Steps of converters: labels by value, threshold or colour, and tiles of large images."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from ovbench.data.decode import stored_pixels
from ovbench.data.integrity import BROKEN, check_png, reason_of
from ovbench.data.prepare.work import Step, save_label
from ovbench.utils.errors import InputError
from ovbench.utils.files import replacing

IGNORE = 255
Reader = Callable[[Path], np.ndarray]  # a label file -> class of each pixel, uint8 (H, W)


def raw_values(path: Path) -> np.ndarray:
    """Return the stored values of a label, uint8 (H, W): palette indices as they are, of colours the red channel.

    Args:
        path: The file.

    Raises:
        InputError: If the file cannot be read.
    """
    try:
        data = path.read_bytes()
        check_png(data, path, "label")
        with Image.open(io.BytesIO(data)) as image:
            values = np.asarray(image if image.mode in ("P", "L", "1", "I;16") else image.convert("RGB"))
    except BROKEN as error:
        what = f"cannot read the label: {reason_of(error)}"
        raise InputError(what, where=str(path), fix="download it again") from None
    values = values[..., 0] if values.ndim == 3 else values
    if values.max(initial=0) > IGNORE:
        raise InputError(f"{values.max()} is no value of 8 bits", where=str(path))
    return values.astype(np.uint8)


@dataclass(frozen=True)
class ByValue:
    """Read a label by a table from stored values to classes."""

    table: Mapping[int, int]

    def __call__(self, path: Path) -> np.ndarray:
        """Return the class of each pixel, uint8 (H, W)."""
        return self.convert(raw_values(path), path)

    def convert(self, values: np.ndarray, path: Path) -> np.ndarray:
        """Return the class of each value; another value is an error."""
        table = np.full(256, -1)
        table[list(self.table)] = list(self.table.values())
        found = table[values]
        if (found < 0).any():
            raise InputError(f"{values[found < 0].flat[0]} is no value of this dataset", where=str(path))
        return found.astype(np.uint8)


def full_values(path: Path) -> np.ndarray:
    """Return 1 where the stored value of a mask is 255, otherwise 0, as division by 255 does; uint8 (H, W)."""
    return (raw_values(path) == IGNORE).astype(np.uint8)


def not_zero(path: Path) -> np.ndarray:
    """Return 1 where the stored value of a mask is not 0, otherwise 0; uint8 (H, W)."""
    return (raw_values(path) != 0).astype(np.uint8)


@dataclass(frozen=True)
class ByColour:
    """Read a label in which each class has a colour.

    Attributes:
        colours: RGB colour of each class, or the class of each colour.
        other: Class of colours that are not listed; "red" keeps their red channel, as the published converters do;
            "error" refuses them.
        above: Channels above this value are 255, others 0; None leaves them.
    """

    colours: Mapping[tuple[int, int, int], int]
    other: int | str = "error"
    above: int | None = None

    def __call__(self, path: Path) -> np.ndarray:
        """Return the class of each pixel, uint8 (H, W)."""
        rgb = stored_pixels(path)
        if self.above is not None:
            rgb = np.where(rgb > self.above, 255, 0).astype(np.uint8)
        codes = (rgb.astype(np.int32) * (1 << 16, 1 << 8, 1)).sum(-1)
        classes = np.full(codes.shape, -1, np.int16)
        for (red, green, blue), number in self.colours.items():
            classes[codes == (red << 16 | green << 8 | blue)] = number
        unlisted = classes < 0
        if unlisted.any():
            colour, count = tuple(rgb[unlisted][0].tolist()), int(unlisted.sum())
            if self.other == "error":
                raise InputError(f"the colour {colour} is of no class", where=str(path))
            text = "%d pixels of %s have a colour of no class, first %s"
            logging.getLogger("ovbench").warning(text, count, path, colour)
            classes[unlisted] = rgb[..., 0][unlisted] if self.other == "red" else self.other
        return classes.astype(np.uint8)


def in_order(colours: Sequence[tuple[int, int, int]]) -> dict[tuple[int, int, int], int]:
    """Return the class of each colour from colours in class order."""
    return {colour: number for number, colour in enumerate(colours)}


def label_step(read: Reader, source: Path, target: Path) -> Step:
    """Return the step that writes a label as PNG."""
    return Step(target, write_label, (read, source))


def write_label(read: Reader, source: Path, target: Path) -> None:
    """Write a label as PNG of 8 bits."""
    save_label(read(source), target)


def image_step(source: Path, target: Path) -> Step:
    """Return the step that writes an image again in RGB: as JPEG with Pillow's default quality, or as PNG."""
    return Step(target, write_image, (source,))


def write_image(source: Path, target: Path) -> None:
    """Write an image again in the format of the target's suffix."""
    save_image(stored_pixels(source), target)


def save_image(pixels: np.ndarray, target: Path) -> None:
    """Write pixels, uint8 (H, W, 3), in the format of the target's suffix."""
    with replacing(target, durable=False) as temporary:  # decoding notices a damaged file
        Image.fromarray(pixels).save(temporary, format="JPEG" if target.suffix == ".jpg" else "PNG")


class ImageTile(NamedTuple):
    """A rectangle of an image in pixels; it may end beyond the image."""

    top: int
    left: int
    height: int
    width: int

    def cut(self, pixels: np.ndarray, fill: int) -> np.ndarray:
        """Return the pixels of the tile, filled beyond the image."""
        part = pixels[self.top : self.top + self.height, self.left : self.left + self.width]
        rows, columns = self.height - part.shape[0], self.width - part.shape[1]
        border = ((0, rows), (0, columns)) + ((0, 0),) * (pixels.ndim - 2)
        return np.pad(part, border, constant_values=fill)


def tiles_beside(size: tuple[int, int], side: int) -> list[ImageTile]:
    """Return square tiles without overlap, row by row; the last of a row or column ends beyond the image.

    Args:
        size: (h, w) of the image.
        side: Side of a tile.

    Example:
        >>> [tile[:2] for tile in tiles_beside((1024, 1500), 1024)]
        [(0, 0), (0, 1024)]
    """
    return [ImageTile(top, left, side, side) for top in range(0, size[0], side) for left in range(0, size[1], side)]


def tiles_inside(size: tuple[int, int], tile: tuple[int, int], step: tuple[int, int]) -> list[ImageTile]:
    """Return tiles that are moved back at the border, so that they end there; equal ones are one tile.

    Args:
        size: (h, w) of the image.
        tile: (h, w) of a tile; a smaller image has one, which ends beyond it.
        step: (h, w) between tiles.

    Example:
        >>> [tile[:2] for tile in tiles_inside((512, 513), (512, 512), (512, 512))]
        [(0, 0), (0, 1)]
    """
    starts = [
        list(dict.fromkeys(max(0, min(start, length - side)) for start in range(0, length, distance)))
        for length, side, distance in zip(size, tile, step, strict=True)
    ]
    return [ImageTile(top, left, *tile) for top in starts[0] for left in starts[1]]


class Cutter(NamedTuple):
    """Read an image or label and write its tiles; the last one is the target of the step.

    Attributes:
        read: Reads the file.
        tiles: The tiles with the file of each.
        fill: Value beyond the image.
        is_label: Whether the file is a label.
    """

    read: Reader
    tiles: tuple[tuple[ImageTile, Path], ...]
    fill: int
    is_label: bool

    def step(self, source: Path) -> Step:
        """Return the step; a step that was interrupted has not written its target."""
        return Step(self.tiles[-1][1], self.write, (source,))

    def write(self, source: Path, target: Path) -> None:
        """Write all tiles of a file."""
        pixels = self.read(source)
        for tile, path in self.tiles:
            (save_label if self.is_label else save_image)(tile.cut(pixels, self.fill), path)


def tile_steps(
    images: tuple[Path, Reader], labels: tuple[Path, Reader], named: Sequence[tuple[ImageTile, Path, Path]]
) -> Iterator[Step]:
    """Yield the steps that cut an image and its label.

    Args:
        images: The image and its reader.
        labels: The label and its reader.
        named: Each tile, the file of its image and the file of its label.
    """
    yield Cutter(images[1], tuple((tile, path) for tile, path, _ in named), 0, False).step(images[0])
    yield Cutter(labels[1], tuple((tile, path) for tile, _, path in named), IGNORE, True).step(labels[0])


def stored_size(path: Path) -> tuple[int, int]:
    """Return the (h, w) of an image without decoding its pixels, if its format allows it."""
    try:
        with Image.open(path) as image:
            return image.size[1], image.size[0]
    except BROKEN:
        return stored_pixels(path).shape[:2]
