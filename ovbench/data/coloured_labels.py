"""Read labels: one channel of values, pictures in which each class has a colour, or COCO annotations."""

from __future__ import annotations

import functools
import io
from pathlib import Path

import numpy as np
from PIL import Image

from ovbench.data.card import Card, Encoding, Layout
from ovbench.data.coco_labels import draw_label
from ovbench.data.decode import RawLabel, label_bytes, read_label_file
from ovbench.data.integrity import BROKEN, reason_of
from ovbench.data.label_colours import Colour, hex_text
from ovbench.data.label_format import refuse_lossy, refuse_pages
from ovbench.utils.errors import InputError

IN_COLOURS = ("RGB", "RGBA", "P", "L", "1")
UNLISTED = 65533  # in the table from colours to values


def label_encoding(card: Card, layout: Layout) -> Encoding:
    """Return the encoding that tells how the labels of a layout are read; several differ in their values only."""
    return card.encoding(layout.encodings[0])


def read_encoded_label(path: Path, encoding: Encoding) -> RawLabel:
    """Read a label.

    Args:
        path: The file.
        encoding: Its encoding, see `label_encoding`.

    Returns:
        The stored values; for colours and annotations, the class of each pixel, or the ignored value of the encoding.

    Raises:
        InputError: If the file cannot be read, does not keep values or colours, or has a colour or category that is not
            listed.
    """
    if encoding.categories:
        data, file = label_bytes(path)
        return RawLabel(draw_label(data, encoding, path), file, "coco")
    if not encoding.colours:
        return read_label_file(path)
    data, file = label_bytes(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            refuse_lossy(image, path)
            refuse_pages(image, path, "label")
            if image.mode not in IN_COLOURS or (image.format == "PNG" and data[24] == 16):
                raise InputError(
                    f'the label "{path}" has no colours of 8 bits ({image.mode})', fix="save it as an RGB PNG of 8 bits"
                )
            pixels = np.asarray(image.convert("RGBA"))
    except BROKEN as error:
        what = f'cannot read the label "{path}": {reason_of(error)}'
        raise InputError(what, fix="copy or prepare the file again") from None
    if (pixels[..., 3] != 255).any():
        raise InputError(f'the label "{path}" has transparent pixels', fix="save it without an alpha channel")
    red, green, blue = (pixels[..., channel].astype(np.int32) for channel in range(3))
    values = _table(encoding)[red << 16 | green << 8 | blue]
    if (values == UNLISTED).any():
        red, green, blue = pixels[values == UNLISTED][0, :3].tolist()
        raise InputError(
            f'the label "{path}" has the colour {hex_text((red, green, blue))}, which is of no class',
            fix='add it to "colours" or "void_colours" of the card, or write else = "ignore" there',
        )
    return RawLabel(values, file, "RGB")


@functools.lru_cache(maxsize=4)
def _table(encoding: Encoding) -> np.ndarray:
    """Return the value of each colour, uint16 (2 ** 24,)."""
    ignored = encoding.void[0]
    table = np.full(1 << 24, ignored if encoding.ignores_others else UNLISTED, np.uint16)
    for number, colour in enumerate(encoding.colours):
        table[_code(colour)] = number
    for colour in encoding.void_colours:
        table[_code(colour)] = ignored
    table.setflags(write=False)
    return table


def _code(colour: Colour) -> int:
    red, green, blue = colour
    return red << 16 | green << 8 | blue
