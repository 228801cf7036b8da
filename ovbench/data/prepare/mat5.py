"""Read one numeric matrix of a MATLAB file (version 5), with every length checked.

SciPy's reader ends the process with a signal on some damaged files.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

HEADER = 128
TYPES = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
CHARACTERS, MATRIX, COMPRESSED = 1, 14, 15  # types of elements
NUMERIC = range(6, 16)  # classes of arrays


class Matrix(NamedTuple):
    """A matrix: its shape, and its values in column order."""

    shape: tuple[int, ...]
    values: np.ndarray


def read_matrix(data: bytes, name: str, most: int) -> Matrix:
    """Return the matrix of a name.

    Args:
        data: Content of the file.
        name: Name of the variable.
        most: Largest number of values that are read.

    Raises:
        ValueError: If the file is damaged or of another format, or has no such numeric matrix.
    """
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None or not data.startswith(b"MATLAB 5"):
        raise ValueError("not a MATLAB file of version 5")
    for kind, content in _elements(data[HEADER:], order, padded=False):
        if kind == COMPRESSED:
            kind, content = _inflated(content, order, most)
        if kind == MATRIX and (found := _matrix(content, order, name, most)):
            return found
    raise ValueError(f"no variable {name}")


def _elements(data: bytes, order: str, *, padded: bool = True) -> Iterator[tuple[int, bytes]]:
    """Yield type and content of each element; those inside a matrix are padded to 8 bytes."""
    at = 0
    while at < len(data):
        if len(data) - at < 8:
            raise ValueError("the file ends within an element")
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # up to 4 bytes beside the type
            kind, size, start, end = kind & 0xFFFF, kind >> 16, at + 4, at + 8
            if size > 4:
                raise ValueError("a short element has more than 4 bytes")
        else:
            start = at + 8
            end = start + size + (-size % 8 if padded else 0)
        if start + size > len(data):
            raise ValueError("the file ends within an element")
        yield kind, data[start : start + size]
        at = end


def _inflated(content: bytes, order: str, most: int) -> tuple[int, bytes]:
    try:
        data = zlib.decompressobj().decompress(content, 8 * most + 4096)
    except zlib.error as error:
        raise ValueError(str(error)) from None
    return next(_elements(data, order, padded=False), (0, b""))


def _matrix(content: bytes, order: str, name: str, most: int) -> Matrix | None:
    """Return the matrix in an element, None if it has another name."""
    parts = list(_elements(content, order))
    if len(parts) < 3 or parts[2][0] != CHARACTERS or parts[2][1] != name.encode():
        return None
    flags, (kind, sizes) = parts[0][1], parts[1]
    if len(flags) < 4 or struct.unpack_from(f"{order}I", flags)[0] & 0xFF not in NUMERIC or len(parts) < 4:
        raise ValueError(f"{name} is not a matrix of numbers")
    if kind != 5 or len(sizes) % 4:
        raise ValueError(f"the size of {name} is damaged")
    shape = tuple(int(side) for side in np.frombuffer(sizes, f"{order}i4"))
    kind, raw = parts[3]
    if kind not in TYPES or min(shape, default=-1) < 0 or math.prod(shape) > most:
        raise ValueError(f"{name} has the size {shape}")
    dtype = np.dtype(order + TYPES[kind])
    if len(raw) != math.prod(shape) * dtype.itemsize:
        raise ValueError(f"{name} has {len(raw)} bytes for the size {shape}")
    return Matrix(shape, np.frombuffer(raw, dtype))
