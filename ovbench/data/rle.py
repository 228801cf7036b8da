"""Decode COCO run-length masks: runs of zeros and ones in column order, as numbers or compressed text."""

from __future__ import annotations

from typing import Any

import numpy as np

from ovbench.utils.errors import InputError

MOST_PIXELS = 1 << 28  # 16,384 x 16,384
LONGEST_RUN = 60  # bits


def decode_rle(rle: dict[str, Any], *, where: str, size: tuple[int, int] | None = None) -> np.ndarray:
    """Decode ``{"size": [h, w], "counts": text or list}``.

    Everything is checked before memory is allocated, so a hostile file costs no more than its own length.

    Args:
        rle: The mask.
        where: File and image id, for the message.
        size: (h, w) that the mask must have; None accepts any size.

    Returns:
        bool (H, W).

    Raises:
        InputError: If the runs are not integers or do not fill the size, or if the size is wrong or too large.

    Example:
        >>> decode_rle({"size": [2, 3], "counts": [1, 2, 3]}, where="").astype(int).tolist()
        [[0, 1, 0], [1, 0, 0]]
    """
    try:
        h, w = rle["size"]
        counts = rle["counts"]
        runs = _runs(counts) if isinstance(counts, (str, bytes)) else list(counts)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise InputError(f"not a COCO run-length mask: {error!r}", where=where) from None
    if not all(type(side) is int and side >= 0 for side in (h, w)) or h * w > MOST_PIXELS:
        raise InputError(f"the size of a mask is {h} x {w}, at most {MOST_PIXELS} pixels can be read", where=where)
    if size is not None and (h, w) != tuple(size):
        raise InputError(f"mask of {(h, w)} in an image of {tuple(size)}", where=where)
    if not all(type(run) is int and run >= 0 for run in runs) or sum(runs) != h * w:
        told = f"{sum(runs)} of {h * w} pixels" if all(type(run) is int for run in runs) else "no integers"
        raise InputError(f"the runs of a mask cover {told}", where=where)
    values = np.zeros(len(runs), bool)
    values[1::2] = True
    return np.repeat(values, np.asarray(runs, np.int64)).reshape(w, h).T


def _runs(text: str | bytes) -> list[int]:
    """Decode the compressed form.

    A character has 5 bits (plus 48), low bits first; bit 5 is set if more follow. From the third number on, the value
    is the difference to the number two before.
    """
    data = text.encode("ascii") if isinstance(text, str) else text
    runs: list[int] = []
    at = 0
    while at < len(data):
        value = shift = 0
        more = True
        while more:
            bits = data[at] - 48
            if not 0 <= bits < 64 or shift > LONGEST_RUN:
                raise ValueError(f"character {at} of the counts")
            value |= (bits & 31) << shift
            more, at, shift = bool(bits & 32), at + 1, shift + 5
        if bits & 16:
            value -= 1 << shift
        runs.append(value + runs[-2] if len(runs) > 2 else value)
    return runs
