"""COCO run-length masks: runs of zeros and ones in column order, as numbers or as COCO's compressed text."""

from __future__ import annotations

from typing import Any

import numpy as np

from ovbench.errors import InputError


def decode_rle(rle: dict[str, Any], *, where: str) -> np.ndarray:
    """bool[h,w] from ``{"size": [h, w], "counts": text or list}``; InputError where the runs do not fill the size.

    >>> decode_rle({"size": [2, 3], "counts": [1, 2, 3]}, where="").astype(int).tolist()
    [[0, 1, 0], [1, 0, 0]]
    """
    try:
        h, w = rle["size"]
        counts = rle["counts"]
        runs = np.asarray(_runs(counts) if isinstance(counts, (str, bytes)) else counts, dtype=np.int64)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"not a COCO run-length mask: {error!r}", where=where) from None
    if (runs < 0).any() or runs.sum() != h * w:
        raise InputError(f"the runs of a mask cover {int(runs.sum())} of {h * w} pixels", where=where)
    values = np.zeros(len(runs), bool)
    values[1::2] = True
    return np.repeat(values, runs).reshape(w, h).T


def _runs(text: str | bytes) -> list[int]:
    """The compressed form: 5 bits a character (48 added), low bits first, bit 5 set where more follow; from the third
    number on, the difference to the number two before."""
    data = text.encode("ascii") if isinstance(text, str) else text
    runs: list[int] = []
    at = 0
    while at < len(data):
        value = shift = 0
        more = True
        while more:
            bits = data[at] - 48
            value |= (bits & 31) << shift
            more, at, shift = bool(bits & 32), at + 1, shift + 5
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs
