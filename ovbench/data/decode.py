"""Decoding one image or one label file, strictly: a file cut off or of the wrong kind is an error that names it."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from PIL import Image

from ovbench.errors import InputError


def read_image(path: Path) -> np.ndarray:
    """u8[h,w,3], RGB, of any JPEG or PNG, decoded by OpenCV as mmcv does, but with the orientation tag ignored.

    Grey is repeated, alpha dropped, 16 bits cut to the upper 8, CMYK converted. Raises InputError naming the file if it
    is missing, not an image, or cut off (OpenCV alone would return grey for the rest).
    """
    data = _bytes(path)
    if not _ends_properly(data):
        _decode_strictly(path)
    try:
        bgr = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    except cv2.error:  # more pixels than OpenCV allows
        bgr = None
    if bgr is None:
        raise InputError(f'"{path}" is not an image that can be read', fix="copy the file again")
    return cv2.cvtColor(bgr, cv2.COLOR_BGR2RGB)


def read_raw_label(path: Path) -> np.ndarray:
    """u8 or u16 [h,w]: the stored values of a one-channel label file; of a palette PNG the indices, not the colours."""
    try:
        with Image.open(path) as image:
            if image.mode not in ("P", "L", "1", "I;16", "I;16B", "I"):
                raise InputError(
                    f'the label "{path}" has colours ({image.mode}), not class values',
                    fix="use the original one-channel or palette PNG; it must not be re-saved as RGB",
                )
            raw = np.asarray(image)
    except FileNotFoundError:
        raise InputError(f'no label file "{path}"', fix="check the data root") from None
    except (OSError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f'cannot read the label "{path}": {error}', fix="copy or prepare the file again") from None
    if raw.dtype != np.uint8 and raw.size and (raw.min() < 0 or raw.max() > 65535):
        raise InputError(f'the label "{path}" has values outside 16 bits', fix="copy or prepare the file again")
    return raw if raw.dtype == np.uint8 else raw.astype(np.uint16)


def _bytes(path: Path) -> bytes:
    try:
        data = Path(path).read_bytes()
    except FileNotFoundError:
        raise InputError(f'no image file "{path}"', fix="check the path") from None
    except OSError as error:
        raise InputError(f'cannot read the image "{path}": {error.strerror}') from None
    if not data:
        raise InputError(f'the image "{path}" is empty', fix="copy the file again")
    return data


def _ends_properly(data: bytes) -> bool:
    """Whether a JPEG ends with its end marker, or a PNG with its last chunk; others are left to the strict decoder."""
    if data[:2] == b"\xff\xd8":
        return data[-64:].rstrip(b"\0\r\n ").endswith(b"\xff\xd9")
    return data[:4] == b"\x89PNG" and data[-8:-4] == b"IEND"


def _decode_strictly(path: Path) -> None:
    """InputError if PIL, which refuses what is cut off, cannot decode the whole file."""
    try:
        with Image.open(path) as image:
            image.load()
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise InputError(f'cannot read the image "{path}": {error}', fix="copy the file again") from None
