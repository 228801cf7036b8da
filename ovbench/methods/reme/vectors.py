"""Unit vectors and cosines of embeddings."""

from __future__ import annotations

import numpy as np

ROWS_PER_BLOCK = 8192


def unit(rows: np.ndarray) -> np.ndarray:
    """Scale rows, float (..., D), to length 1, float32; a row of zeros stays zero."""
    rows = np.asarray(rows, np.float32)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.maximum(length, 1e-12)


def cosines(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return the cosines of unit vectors, float32 (N, D) and (M, D), as float32 (N, M).

    They are summed in float64: in float32 the last bits depend on the position of a row in the matrix, so equal rows
    would get different cosines.
    """
    wide = others.astype(np.float64).T
    chunks = [rows[start : start + ROWS_PER_BLOCK] @ wide for start in range(0, max(len(rows), 1), ROWS_PER_BLOCK)]
    return np.concatenate(chunks).astype(np.float32)
