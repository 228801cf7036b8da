"""Encode label maps as COCO run-length masks; `ovbench.data.rle` decodes them."""

from __future__ import annotations

from typing import Any

import numpy as np


def encode_classes(labels: np.ndarray) -> dict[int, dict[str, Any]]:
    """Encode the mask of every value of a label map.

    Args:
        labels: Integer (H, W).

    Returns:
        By value, in ascending order: "segmentation" (a compressed run-length mask), "area" in pixels, and "bbox" as
        [x, y, width, height].

    Example:
        >>> encode_classes(np.array([[0, 7, 0], [7, 0, 7]], np.uint8))[7]
        {'segmentation': {'size': [2, 3], 'counts': '122O'}, 'area': 3, 'bbox': [0, 0, 3, 2]}
    """
    height, width = labels.shape
    flat = labels.T.ravel()  # COCO counts down the columns
    starts = np.concatenate([[0], np.flatnonzero(flat[1:] != flat[:-1]) + 1]) if flat.size else np.zeros(0, np.int64)
    ends = np.append(starts[1:], flat.size)[: len(starts)]
    values = flat[starts]
    order = np.argsort(values, kind="stable")
    found, first = np.unique(values[order], return_index=True)
    return {
        int(value): _mask(starts[runs], ends[runs], height, width)
        for value, runs in zip(found, np.split(order, first[1:]), strict=True)
    }


def _mask(starts: np.ndarray, ends: np.ndarray, height: int, width: int) -> dict[str, Any]:
    """Return the mask whose runs of ones are half-open ranges of column-major positions."""
    bounds = np.stack([starts, ends], 1).ravel()
    runs = np.diff(bounds, prepend=0)
    if bounds[-1] < height * width:
        runs = np.append(runs, height * width - bounds[-1])
    left, right = int(starts[0] // height), int((ends[-1] - 1) // height)
    tops, bottoms = starts % height, (ends - 1) % height
    wraps = bool((starts // height != (ends - 1) // height).any())  # a run over two columns has top and bottom pixels
    top, bottom = (0, height - 1) if wraps else (int(tops.min()), int(bottoms.max()))
    return {
        "segmentation": {"size": [height, width], "counts": compressed(runs.tolist())},
        "area": int((ends - starts).sum()),
        "bbox": [left, top, right - left + 1, bottom - top + 1],
    }


def compressed(runs: list[int]) -> str:
    """Return run lengths in the compressed form of COCO, see `ovbench.data.rle`.

    Example:
        >>> compressed([1, 1, 1, 2])
        '1111'
    """
    text = []
    for number, run in enumerate(runs):
        value = run - runs[number - 2] if number > 2 else run
        more = True
        while more:
            bits = value & 31
            value >>= 5
            more = value != (-1 if bits & 16 else 0)
            text.append(chr((bits | (32 if more else 0)) + 48))
    return "".join(text)
