"""Write the index of a bank in FAISS's format: flat without FAISS, or the official IVFPQ with it."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ovbench.methods.faiss_library import load_faiss
from ovbench.methods.support.index_file import INNER_PRODUCT
from ovbench.utils.errors import InputError
from ovbench.utils.files import replacing

ROWS = 1 << 14  # written or added at once
LEAST = 256  # vectors that the codebooks of an IVFPQ need
PARTS, BITS = 32, 8
UNUSED = 1 << 20  # two fields of the header without meaning


def write_index(path: Path, keys: Tensor, kind: str, known: int = 0) -> None:
    """Write an index of keys, in the order of the store.

    Args:
        path: The file.
        keys: float16 (N, V).
        kind: "flat" or "ivfpq".
        known: Rows of the bank before, whose index is extended.

    Raises:
        InputError: If the bank is too small for an IVFPQ, or the file cannot be written.
        UsageError: If FAISS is needed and not installed.
    """
    if kind == "flat":
        _write_flat(path, keys)
    else:
        _write_ivfpq(path, keys, known)


def _unit(keys: Tensor) -> np.ndarray:
    """Return rows float32 of length 1, as the official builder normalises them."""
    rows = keys.float()
    return (rows / (rows.norm(dim=1, keepdim=True) + 1e-12)).numpy()


def _write_flat(path: Path, keys: Tensor) -> None:
    count, width = keys.shape
    header = struct.pack("<iqqqBi", width, count, UNUSED, UNUSED, 1, INNER_PRODUCT)
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(b"IxM2" + header + b"IxFI" + header + struct.pack("<Q", count * width))
        for rows in keys.split(ROWS):
            file.write(_unit(rows).astype("<f4").tobytes())
        file.write(struct.pack("<Q", count) + np.arange(count, dtype="<i8").tobytes())


def _write_ivfpq(path: Path, keys: Tensor, known: int) -> None:
    """Train on all rows of the first build; later rows are only added to the index of the first ``known`` rows."""
    faiss, (count, width) = load_faiss(), keys.shape
    index = faiss.read_index(str(path)) if known and path.is_file() else None
    if index is None or index.ntotal != known or index.d != width:  # the index of a build that was killed is not used
        if count < LEAST or width % PARTS:
            raise InputError(
                f"an IVFPQ needs {LEAST} regions of a width that {PARTS} divides; here are {count} of width {width}",
                where=str(path), fix="take --set index=flat",
            )  # fmt: skip
        lists = max(1, int(8 * count**0.5))
        inner = faiss.IndexIVFPQ(faiss.IndexFlatIP(width), width, lists, PARTS, BITS)  # its metric is L2, as officially
        index = faiss.IndexIDMap2(inner)
        index.train(np.concatenate([_unit(rows) for rows in keys.split(ROWS)]))
    for start in range(index.ntotal, count, ROWS):
        rows = keys[start : start + ROWS]
        index.add_with_ids(_unit(rows), np.arange(start, start + len(rows), dtype=np.int64))
    with replacing(path) as temporary:
        faiss.write_index(index, str(temporary))


def write_store(path: Path, blocks: list[Tensor]) -> None:
    """Write one float16 matrix, the concatenation of blocks, as the official stores are written."""
    with replacing(path) as temporary, temporary.open("wb") as file:
        torch.save(torch.cat(blocks), file)  # a name would become part of the content
