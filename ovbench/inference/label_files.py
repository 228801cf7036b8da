"""Write label maps as PNG files with the class names inside."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from ovbench.data.integrity import BROKEN
from ovbench.inference.visualize import palette
from ovbench.utils.files import parse_json, write_bytes

CLASSES = "classes"  # text of a PNG file: its class names as a JSON list
COMPRESSION = 3  # of zlib: a third of the time of the default, files of nearly the same size


def write_label_png(path: Path, labels: np.ndarray, names: Sequence[str], texts: Mapping[str, str]) -> None:
    """Write class indices: 8 bits with a palette up to 255 classes, otherwise 16 bits.

    Args:
        path: The file.
        labels: Integer (H, W), class indices.
        names: Class names; they are stored in the text "classes".
        texts: More texts to store, by keyword.
    """
    if len(names) > 255:
        picture = Image.fromarray(labels.astype(np.uint16))
    else:
        picture = Image.fromarray(labels.astype(np.uint8), mode="P")
        picture.putpalette(palette(len(names)).flatten().tolist())
    write_png(path, picture, {**texts, CLASSES: json.dumps(list(names))})


def classes_of(path: Path) -> list[str] | None:
    """Return the class names in a label map, None if it has none."""
    try:
        with Image.open(path) as picture:
            return parse_json(picture.info[CLASSES])
    except (*BROKEN, KeyError):
        return None


def write_png(path: Path, picture: Image.Image, texts: Mapping[str, str]) -> None:
    """Write a picture with texts, atomically.

    Args:
        path: The file.
        picture: The picture.
        texts: Texts by keyword; characters outside ASCII are kept.
    """
    info = PngImagePlugin.PngInfo()
    for keyword, text in texts.items():
        info.add_text(keyword, text) if text.isascii() else info.add_itxt(keyword, text)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", pnginfo=info, compress_level=COMPRESSION)
    write_bytes(path, buffer.getvalue())
