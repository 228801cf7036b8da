"""Decode an image or label file strictly: a file that is damaged or of the wrong format is an error.

The whole package reads images here, so that all code sees the same pixels.
"""

from __future__ import annotations

import hashlib
import io
import json
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from ovbench.data.integrity import BROKEN, check_png, decode_strictly, reason_of
from ovbench.data.label_format import refuse_grey_palette, refuse_lossy, refuse_mode, refuse_pages, unfit_label
from ovbench.data.sources import container_of, read_source
from ovbench.utils.errors import InputError

ORIENTATION = 0x0112  # EXIF tag; 1 is upright, 5 to 8 swap width and height
TURNED = (5, 6, 7, 8)
DEEP = 1 << 14  # a 16-bit image whose values are all smaller has fewer than 15 bits
OTHER_KINDS = {  # formats that OpenCV may not read, by their first bytes
    b"ftyphei": "a HEIC picture", b"ftypmif": "a HEIC picture", b"ftypavif": "an AVIF picture", b"%PDF": "a PDF file",
    b"<svg": "an SVG drawing", b"<?xml": "an SVG drawing",
}  # fmt: skip


class FileIdentity(NamedTuple):
    """A file when its bytes were read, or a member of an archive or table.

    Attributes:
        size: Length of the file in bytes; of a member, the length of the file that contains it.
        mtime_ns: Time of the last change of that file in ns.
        digest: blake2b of the bytes, 128 bits, hexadecimal.
    """

    size: int
    mtime_ns: int
    digest: str


class DecodedImage(NamedTuple):
    """A decoded image.

    Attributes:
        pixels: uint8 (H, W, 3), RGB.
        file: The file that was decoded.
        orientation: EXIF orientation tag of the file, 1 to 8.
    """

    pixels: np.ndarray
    file: FileIdentity
    orientation: int = 1


class RawLabel(NamedTuple):
    """A decoded label file.

    Attributes:
        values: uint8 or uint16 (H, W), as stored.
        file: The file that was decoded.
        mode: Pillow's mode.
        palette: uint8 (N, 3), the colours of a palette, or None.
    """

    values: np.ndarray
    file: FileIdentity
    mode: str = "L"
    palette: np.ndarray | None = None


class ImageFacts(NamedTuple):
    """Facts about an image file.

    Attributes:
        size: (h, w) as stored.
        mode: Pillow's mode.
        orientation: EXIF orientation tag, 1 to 8.
        deep: The largest value of a 16-bit file; None for 8 bits.
    """

    size: tuple[int, int]
    mode: str
    orientation: int = 1
    deep: int | None = None


def read_image(path: Path) -> np.ndarray:
    """Read the pixels of an image upright, see `read_image_file`.

    Args:
        path: The file.

    Returns:
        uint8 (H, W, 3), RGB.

    Raises:
        InputError: As in `read_image_file`.
    """
    return read_image_file(path).pixels


def read_image_file(path: Path, label: Path | None = None, white: int | None = None) -> DecodedImage:
    """Decode a JPEG, PNG, TIFF, BMP or WebP file and turn it upright by its orientation tag.

    Grey is repeated, alpha is dropped, CMYK is converted (by OpenCV, as published evaluation code does).

    Args:
        path: The file.
        label: Its label file. If the label has the size of the stored pixels and not the size of the upright image, the
            stored pixels are returned, because the label was made for them.
        white: The value of 16-bit files that becomes 255. Without it the upper 8 bits are taken.

    Returns:
        The pixels and the identity of the bytes.

    Raises:
        InputError: If the file is missing, not an image, cut off, or has 16 bits but does not use the upper two (it
            would be nearly black).
    """
    data, file = _read(path, "image")
    orientation = _orientation(data)
    stored = _eight_bits(_decode(data, path), white, path)
    rgb = cv2.cvtColor(stored, cv2.COLOR_BGR2RGB)
    pixels = _upright(rgb, orientation)
    if label is not None and pixels.shape != rgb.shape and image_size(label) == rgb.shape[:2]:
        pixels = rgb
    return DecodedImage(np.ascontiguousarray(pixels), file, orientation)


def stored_pixels(path: Path) -> np.ndarray:
    """Return the stored pixels of an image without its orientation tag, uint8 (H, W, 3), RGB.

    Args:
        path: The file; its format is found from its content.

    Raises:
        InputError: As in `read_image_file`.
    """
    data, _ = _read(path, "image")
    return cv2.cvtColor(_eight_bits(_decode(data, path), None, path), cv2.COLOR_BGR2RGB)


def image_facts(path: Path) -> ImageFacts:
    """Read facts about an image file; only a 16-bit file is decoded.

    Args:
        path: The file.

    Raises:
        InputError: As in `read_image_file`.
    """
    data, _ = _read(path, "image")
    try:
        with Image.open(io.BytesIO(data)) as image:
            mode, (w, h), kind = image.mode, image.size, image.format
    except BROKEN as error:
        raise InputError(f'cannot read the image "{path}": {reason_of(error)}', fix="copy the file again") from None
    deep = None
    if kind in ("TIFF", "PPM", "JPEG2000") or (kind == "PNG" and data[24:25] == b"\x10"):
        pixels = _decode(data, path)
        deep = int(pixels.max(initial=0)) if pixels.dtype == np.uint16 else None
    return ImageFacts((h, w), mode, _orientation(data), deep)


def image_size(path: Path) -> tuple[int, int] | None:
    """Read the size of an image from its header.

    Args:
        path: The file.

    Returns:
        (h, w) as stored, or None if the file cannot be read.
    """
    try:
        data = None if container_of(path) is None else read_source(path).data
        if data is not None and data[:1] == b"{":  # annotations
            found = json.loads(data.partition(b"\n")[0])
            return found["height"], found["width"]
        with path.open("rb") if data is None else io.BytesIO(data) as stream, Image.open(stream) as image:
            return image.size[::-1]
    except (*BROKEN, InputError):
        return None


def read_raw_label(path: Path) -> np.ndarray:
    """Read the stored values of a label file, see `read_label_file`.

    Args:
        path: The file.

    Returns:
        uint8 or uint16 (H, W).

    Raises:
        InputError: As in `read_label_file`.
    """
    return read_label_file(path).values


def read_label_file(path: Path) -> RawLabel:
    """Decode the stored values of a one-channel label file; for a palette these are the indices.

    Args:
        path: The file.

    Returns:
        The values, with mode and palette.

    Raises:
        InputError: If the file is missing or damaged (checksums of a PNG are verified), if its format does not keep
            values (JPEG), if it has colours, alpha or an orientation tag, or if its values have two readings (a grey
            PNG of 2 or 4 bits, a palette of grey tones).
    """
    data, file = label_bytes(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            refuse_lossy(image, path)
            refuse_pages(image, path, "label")
            refuse_mode(image, data, path)
            values, mode = np.asarray(image), image.mode
            palette = _palette(image)
    except BROKEN as error:
        what = f'cannot read the label "{path}": {reason_of(error)}'
        raise InputError(what, fix="copy or prepare the file again") from None
    if palette is not None:
        refuse_grey_palette(values, palette, path)
    if values.dtype != np.uint8 and values.size and (values.min() < 0 or values.max() > 65535):
        raise InputError(f'the label "{path}" has values outside 16 bits', fix="copy or prepare the file again")
    values = values if values.dtype == np.uint8 else values.astype(np.uint8 if mode == "1" else np.uint16)
    return RawLabel(values, file, mode, palette)


def _read(path: Path, kind: str) -> tuple[bytes, FileIdentity]:
    """Return the bytes of a file, read once, and their identity."""
    try:
        data, facts = read_source(path)
    except FileNotFoundError:
        fix = "check the path" if kind == "image" else "check the data root"
        raise InputError(f'no {kind} file "{path}"', fix=fix) from None
    except (OSError, ValueError) as error:
        raise InputError(f'cannot read the {kind} "{path}": {getattr(error, "strerror", None) or error}') from None
    if not data:
        raise InputError(f'the {kind} "{path}" is empty', fix="copy the file again")
    return data, FileIdentity(facts.size, facts.mtime_ns, hashlib.blake2b(data, digest_size=16).hexdigest())


def _decode(data: bytes, path: Path) -> np.ndarray:
    """Return uint8 or uint16 (H, W, 3), BGR, as stored (the decoder always turns a TIFF upright)."""
    check_png(data, path, "image")
    if not any(mark in data[: len(mark) + 8] for mark in OTHER_KINDS):
        decode_strictly(data, path)
    _refuse_pages(data, path)
    try:
        flags = cv2.IMREAD_COLOR | cv2.IMREAD_ANYDEPTH | cv2.IMREAD_IGNORE_ORIENTATION
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error:  # more pixels than OpenCV allows
        pixels = None
    if pixels is None or pixels.dtype not in (np.uint8, np.uint16):
        mode = _mode(data) if pixels is None else str(pixels.dtype)
        if mode in ("F", "I", "float32", "float64", "int32"):
            raise InputError(
                f'the image "{path}" has 32-bit values, not colours', fix="convert it to 8 bits for each channel"
            )
        other = next((name for mark, name in OTHER_KINDS.items() if data[: len(mark) + 8].find(mark) >= 0), None)
        if other is not None:
            raise InputError(f'the image "{path}" is {other}: not supported', fix="convert it to PNG or JPEG")
        raise InputError(f'"{path}" is not an image that can be read', fix="copy the file again")
    return pixels


def _refuse_pages(data: bytes, path: Path) -> None:
    if data[:4] not in (b"II*\0", b"MM\0*", b"GIF8"):
        return
    try:
        with Image.open(io.BytesIO(data)) as image:
            refuse_pages(image, path, "image")
    except BROKEN:  # OpenCV may know its compression
        return


def _eight_bits(pixels: np.ndarray, white: int | None, path: Path) -> np.ndarray:
    if pixels.dtype == np.uint8:
        return pixels
    brightest = int(pixels.max(initial=0))
    if white is None:
        if 0 < brightest < DEEP:
            raise dim(path, brightest)
        return (pixels >> 8).astype(np.uint8)
    if brightest > white:
        raise InputError(
            f'the image "{path}" has the value {brightest}, but the card says that white is {white}',
            fix='write a larger "white" in the card',
        )
    return np.rint(pixels * (255 / white)).astype(np.uint8)


def dim(path: Path, brightest: int) -> InputError:
    """Return the error for a 16-bit file that would be nearly black.

    Args:
        path: The file.
        brightest: Its largest value.

    Returns:
        The error, with the line to write into the card.
    """
    bits = max(brightest.bit_length(), 8)
    return InputError(
        f'the image "{path}" has 16 bits, but its largest value is {brightest} of 65535: it would be nearly black',
        fix=f"convert it to 8 bits, or write the white value in the card: white = {2**bits - 1} if it has {bits} bits, "
        "white = 65535 if the image really is so dark",
    )


def _orientation(data: bytes) -> int:
    """Return the orientation tag; 1 if none can be read, or for a TIFF, which its decoder turns."""
    if data[:4] in (b"II*\0", b"MM\0*") or not any(mark in data for mark in (b"Exif\0", b"eXIf", b"EXIF")):
        return 1
    try:
        with Image.open(io.BytesIO(data)) as image:
            image.getexif()  # in a PNG it may be after the pixels
            exif = Image.Exif()
            exif.load(image.info.get("exif", b""))
        tag = exif.get(ORIENTATION, 1)
    except BROKEN:
        return 1
    return tag if isinstance(tag, int) and 1 <= tag <= 8 else 1


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Rotate and flip pixels (H, W, ...) by an orientation tag."""
    if orientation in TURNED:
        pixels = pixels.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return pixels[rows, columns]


def _mode(data: bytes) -> str:
    try:
        with Image.open(io.BytesIO(data)) as image:
            return image.mode
    except BROKEN:
        return ""


def label_bytes(path: Path) -> tuple[bytes, FileIdentity]:
    """Return the bytes of a label file, and their identity.

    Raises:
        InputError: If the file cannot be read, is a damaged PNG, or has an orientation tag.
    """
    data, file = _read(path, "label")
    check_png(data, path, "label")
    if _orientation(data) != 1:
        raise unfit_label(
            path, "has an orientation tag, so the place of its pixels is unclear", "save it without EXIF data"
        )
    return data, file


def _palette(image: Image.Image) -> np.ndarray | None:
    colours = image.getpalette("RGB") if image.mode == "P" else None
    return None if not colours else np.array(colours, np.uint8).reshape(-1, 3)
