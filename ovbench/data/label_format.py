"""Refuse label files whose stored values cannot be classes, or have two readings."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

from ovbench.utils.errors import InputError

KEEPS_VALUES = ("PNG", "TIFF", "BMP", "GIF", "PPM")  # formats that keep every value
LOSSY_TIFF = ("jpeg", "tiff_jpeg", "webp", "jpeg2000")
ONE_CHANNEL = ("P", "L", "1", "I;16", "I;16B", "I;16L", "I;16N", "I")
SUBFILE = 254  # TIFF tag of pages that are smaller copies or masks of another one


def unfit_label(path: Path, why: str, fix: str) -> InputError:
    """Return the error for a label that cannot be read exactly."""
    return InputError(f'the label "{path}" {why}', fix=fix)


def refuse_lossy(image: Image.Image, path: Path) -> None:
    """Refuse a label in a format that does not keep every value."""
    lossy = image.format == "TIFF" and str(image.info.get("compression", "")) in LOSSY_TIFF
    if image.format not in KEEPS_VALUES or lossy:
        name = f"{image.format} with {image.info['compression']} compression" if lossy else image.format
        raise unfit_label(
            path,
            f"is stored as {name}, which does not keep class values exactly",
            "make the labels again as PNG; values that a lossy format changed cannot be repaired",
        )


def refuse_pages(image: Image.Image, path: Path, kind: str) -> None:
    """Refuse a file with several pages of one size, of which only the first would be read.

    Args:
        image: The opened file.
        path: The file, for the message.
        kind: "image" or "label".

    Raises:
        InputError: With the number of pages.
    """
    size, pages = image.size, getattr(image, "n_frames", 1)
    if pages < 2:
        return
    image.seek(1)
    copy = getattr(image, "tag_v2", {}).get(SUBFILE, 0)
    same = image.size == size and not copy
    image.seek(0)
    if same:
        raise InputError(f'the {kind} "{path}" has {pages} pages', fix="save one page for each file")


def refuse_mode(image: Image.Image, data: bytes, path: Path) -> None:
    """Refuse a label that has colours, alpha, floats, or grey values with two readings."""
    if image.mode == "LA":
        raise unfit_label(path, "has an alpha channel beside its values (LA)", "save it as a one-channel PNG")
    if image.mode == "F":
        raise unfit_label(path, "has 32-bit floats, not class values", "save it as a one-channel PNG of integers")
    if image.mode not in ONE_CHANNEL:
        raise unfit_label(
            path,
            f"has colours ({image.mode}), not class values",
            "use the original one-channel or palette PNG, or write the colour of each class in the card: "
            '[encoding.colour] and colours = ["#ff0000", ...]',
        )
    if image.format == "PNG" and data[25] == 0 and data[24] in (2, 4):
        raise unfit_label(
            path,
            f"is a grey PNG of {data[24]} bits, whose values have two readings (as stored, or scaled to 0..255)",
            "save it as a one-channel PNG of 8 bits",
        )


def refuse_grey_palette(values: np.ndarray, palette: np.ndarray, path: Path) -> None:
    """Refuse a palette of grey tones: an optimiser may have made it from a grey image, whose tones were the classes.

    A palette that repeats a tone was not made in this way; if every used index is its own tone, both readings agree.
    """
    used = np.unique(values)
    used = used[used < len(palette)]
    tones = palette[used]
    if len(used) == 0 or (tones != tones[:, :1]).any() or (tones[:, 0] == used).all():
        return
    if len(np.unique(tones[:, 0])) < len(used):
        return
    index = int(used[tones[:, 0] != used][0])
    raise unfit_label(
        path,
        f"has a palette of grey tones, index {index} is the tone {int(palette[index, 0])}: either may be the class",
        "save it as a one-channel PNG without a palette",
    )
