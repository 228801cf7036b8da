"""Check that an image or label file is complete and undamaged."""

from __future__ import annotations

import io
import lzma
import struct
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from ovbench.utils.errors import InputError, first_line

BROKEN = (
    OSError, SyntaxError, ValueError, TypeError, KeyError, IndexError, AttributeError, OverflowError, MemoryError,
    EOFError, struct.error, zlib.error, Image.DecompressionBombError, NotImplementedError,
)  # fmt: skip  # what Pillow raises for hostile files
BROKEN_ARRAYS = (*BROKEN, zipfile.BadZipFile, lzma.LZMAError, RuntimeError)  # what NumPy raises for npy and npz files


def reason_of(error: Exception) -> str:
    """Return why Pillow cannot read a file, without the address of an object in memory."""
    return "its format is not known" if isinstance(error, UnidentifiedImageError) else first_line(error)


def _chunks(data: bytes) -> Iterator[tuple[bytes, bool]]:
    """Yield the name of each chunk of a PNG and whether its checksum is right; a cut-off chunk is wrong."""
    start = 8
    while start < len(data):
        head = data[start : start + 8]
        if len(head) < 8:
            yield b"", False
            return
        length, name = struct.unpack(">I4s", head)
        end = start + 8 + length
        stated = data[end : end + 4]
        yield name, len(stated) == 4 and struct.pack(">I", zlib.crc32(memoryview(data)[start + 4 : end])) == stated
        if name == b"IEND":
            return
        start = end + 4


def check_png(data: bytes, path: Path, kind: str) -> None:
    """Refuse a PNG that is cut off or has a wrong checksum in a chunk that makes its pixels.

    Args:
        data: The bytes of a file of any format.
        path: The file, for the message.
        kind: "image" or "label", for the message.

    Raises:
        InputError: If the PNG is damaged.
    """
    if data[:8] != b"\x89PNG\r\n\x1a\n":
        return
    name = b""
    for name, holds in _chunks(data):
        if not holds and not name[:1].islower():  # chunks in lower case are comments, times and similar
            break
    else:
        if name == b"IEND":
            return
    fix = "copy the file again" if kind == "image" else "copy or prepare the file again"
    what = "a checksum in the PNG is wrong, or the file is cut off"
    raise InputError(f'cannot read the {kind} "{path}": {what}', fix=fix)


def _has_end(data: bytes) -> bool:
    """Return whether a JPEG has an end marker behind its pixels, not only in a thumbnail.

    Without it, the rest of a cut-off file that is padded with zeros would be decoded as grey pixels.
    """
    start = 2
    while (start := data.find(b"\xff", start)) >= 0:
        marker, length = data[start + 1 : start + 2], int.from_bytes(data[start + 2 : start + 4], "big")
        if marker == b"\xda":  # pixels follow, in which the bytes of a marker do not occur
            return data.find(b"\xff\xd9", start) > 0
        start += 1 if marker in (b"\xff", b"\0") else 2 + length
    return False


def decode_strictly(data: bytes, path: Path) -> None:
    """Refuse a JPEG without an end, and a file of other formats that PIL, which refuses cut-off files, cannot decode.

    PNG files are left out; see `check_png`.

    Args:
        data: The bytes of the file.
        path: The file, for the message.

    Raises:
        InputError: If the file is cut off.
    """
    if data[:4] == b"\x89PNG" or (data[:2] == b"\xff\xd8" and _has_end(data)):
        return
    try:
        if data[:2] == b"\xff\xd8":
            raise OSError("image file is truncated")
        with Image.open(io.BytesIO(data)) as image:
            image.load()
    except BROKEN as error:
        if data[:4] in (b"II*\0", b"MM\0*") and "cannot identify" in str(error):
            return  # PIL does not know this type of TIFF; OpenCV decides
        raise InputError(f'cannot read the image "{path}": {reason_of(error)}', fix="copy the file again") from None
