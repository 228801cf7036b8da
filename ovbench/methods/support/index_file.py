"""Read the vectors of a FAISS index file without FAISS: flat, or an inverted file with a product quantiser (IVFPQ)."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ovbench.utils.errors import InputError

INNER_PRODUCT, L2 = 0, 1
ID_MAPS, FLATS, IVFPQ = (b"IxMp", b"IxM2"), (b"IxFI", b"IxF2", b"IxFl"), b"IwPQ"
CENTROIDS = 256  # of a part of a vector: codes of 8 bits


class Vectors(NamedTuple):
    """The vectors that an index compares with, by position.

    A compressed vector is its list's centre plus the centroids of its codes; `rows` decodes some at a time.

    Attributes:
        ids: int64 (N,), store row of each vector.
        inner_product: Whether the index ranks by the largest inner product instead of the smallest distance.
        flat: (N, V), an array in the file or the rows of a store, or None if they are compressed.
        codes: uint8 (N, M), or None.
        lists: int64 (N,), list of each vector, or None.
        centres: float32 (lists, V), or None.
        codebooks: float32 (M, 256, V / M), or None.
    """

    ids: Tensor
    inner_product: bool
    flat: Any = None
    codes: Tensor | None = None
    lists: Tensor | None = None
    centres: Tensor | None = None
    codebooks: Tensor | None = None

    @property
    def width(self) -> int:
        """Return V, the width of a vector."""
        return (self.flat if self.codes is None else self.centres).shape[1]

    def rows(self, start: int, stop: int) -> Tensor:
        """Return vectors float32 (stop - start, V)."""
        if self.codes is None:
            values = self.flat[start:stop]
            return values if isinstance(values, Tensor) else _tensor(values)
        parts = torch.arange(self.codes.shape[1])
        residual = self.codebooks[parts, self.codes[start:stop].long()].flatten(1)
        return self.centres[self.lists[start:stop]] + residual


class _Header(NamedTuple):
    width: int
    count: int
    metric: int


class _Reader:
    """The fields of a memory-mapped file, one after another; a size is checked before it is used."""

    def __init__(self, path: Path):
        self.path, self.at = path, 0
        self.data = np.memmap(path, np.uint8, "r")

    def array(self, dtype: str, count: int) -> np.ndarray:
        size = np.dtype(dtype).itemsize * count
        if count < 0 or self.at + size > len(self.data):
            raise self.bad("the file is cut off")
        self.at += size
        return self.data[self.at - size : self.at].view(dtype)

    def number(self, dtype: str = "<u8") -> int:
        return int(self.array(dtype, 1)[0])

    def vector(self, dtype: str) -> np.ndarray:
        return self.array(dtype, self.number())

    def code(self) -> bytes:
        return self.array("u1", 4).tobytes()

    def header(self) -> _Header:
        width, count = self.number("<i4"), self.number("<i8")
        self.array("<i8", 2)
        trained, metric = self.number("u1"), self.number("<i4")
        if metric not in (INNER_PRODUCT, L2) or not trained or width < 1 or count < 0:
            raise self.bad(f"metric {metric}, trained {trained}, width {width}")
        return _Header(width, count, metric)

    def flat(self, header: _Header) -> np.ndarray:
        values = self.vector("<f4")
        if len(values) != header.count * header.width:
            raise self.bad(f"{len(values)} values for {header.count} vectors")
        return values.reshape(-1, header.width)

    def bad(self, what: str) -> InputError:
        return InputError(
            f"cannot read the index: {what}", where=str(self.path),
            fix="give an index of the official builder (IDMap2 with a flat index or IVFPQ of 8 bits)",
        )  # fmt: skip


def read_index(path: Path) -> Vectors:
    """Read an index file.

    Args:
        path: The file, written by FAISS.

    Raises:
        InputError: If the file is damaged, or the index has another type.
    """
    try:
        reader = _Reader(path)
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read the index: {error}", where=str(path)) from None
    kind, mapped = reader.code(), False
    if kind in ID_MAPS:
        reader.header()
        kind, mapped = reader.code(), True
    if kind in FLATS:
        header = reader.header()
        flat = reader.flat(header)  # checks that the file is so long
        vectors = Vectors(torch.arange(len(flat)), _by_product(kind, header), flat=flat)
    elif kind == IVFPQ:
        vectors = _read_ivfpq(reader)
    else:
        raise reader.bad(f"its type is {kind!r}")
    if mapped:
        ids = reader.vector("<i8")
        if len(ids) != len(vectors.ids) or (len(ids) and ids.min() < 0):
            raise reader.bad(f"{len(ids)} ids for {len(vectors.ids)} vectors")
        vectors = vectors._replace(ids=_tensor(ids)[vectors.ids])
    return vectors


def _by_product(kind: bytes, header: _Header) -> bool:
    return kind == b"IxFI" or (kind == b"IxFl" and header.metric == INNER_PRODUCT)


def _read_ivfpq(reader: _Reader) -> Vectors:
    header = reader.header()
    lists = reader.number()
    reader.number()  # probes: here all lists are searched
    if reader.code() not in FLATS:
        raise reader.bad("its coarse quantiser is not flat")
    centres = reader.flat(reader.header())
    direct = reader.number("u1")
    reader.vector("<i8")
    if direct == 2:  # a table from ids to places
        reader.array("<i8", 2 * reader.number())
    residual, size = reader.number("u1"), reader.number()
    width, parts, bits = (reader.number() for _ in range(3))
    if (len(centres), width, bits, size) != (lists, header.width, 8, parts) or parts < 1 or width % parts:
        raise reader.bad(f"{bits} bits in {parts} parts of {width}")
    codebooks = reader.vector("<f4")
    if len(codebooks) != CENTROIDS * width:
        raise reader.bad("its codebooks have another size")
    counts, codes, ids = _read_lists(reader, lists, parts)
    if len(ids) != header.count or (len(ids) and not 0 <= ids.min() <= ids.max() < header.count):
        raise reader.bad(f"{len(ids)} vectors in its lists, {header.count} in its header")
    base = _tensor(centres) if residual else torch.zeros(lists, width)
    return Vectors(
        ids=_tensor(ids),
        inner_product=header.metric == INNER_PRODUCT,
        codes=_tensor(codes),
        lists=torch.repeat_interleave(torch.arange(lists), _tensor(counts)),
        centres=base,
        codebooks=_tensor(codebooks).view(parts, CENTROIDS, width // parts),
    )


def _read_lists(reader: _Reader, lists: int, parts: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the length of each list int64 (lists,), codes uint8 (N, parts) and positions int64 (N,)."""
    if reader.code() != b"ilar" or (reader.number(), reader.number()) != (lists, parts):
        raise reader.bad("its lists have another form")
    form, numbers = reader.code(), reader.vector("<u8").astype(np.int64)
    counts = np.zeros(lists, np.int64)
    if form == b"full" and len(numbers) == lists:
        counts = numbers
    elif form == b"sprs" and len(numbers) % 2 == 0 and (numbers[::2] < lists).all():
        counts[numbers[::2]] = numbers[1::2]
    else:
        raise reader.bad("its lists have another form")
    codes, ids = [np.empty((0, parts), np.uint8)], [np.empty(0, np.int64)]
    for count in counts.tolist():
        if count:
            codes.append(reader.array("u1", count * parts).reshape(count, parts))
            ids.append(reader.array("<i8", count))
    return counts, np.concatenate(codes), np.concatenate(ids)


def _tensor(values: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(values))  # a copy: the file is read-only and may not be aligned
