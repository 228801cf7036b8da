"""The one way in which embeddings of every kind become comparable: length 1, arithmetic in fp32."""

from __future__ import annotations

import numpy as np

ROWS_AT_ONCE = 8192


def unit(rows: np.ndarray) -> np.ndarray:
    """Rows f[..., d] of length 1, f32; a row of zeros stays one."""
    rows = np.asarray(rows, np.float32)
    length = np.linalg.norm(rows, axis=-1, keepdims=True)
    return rows / np.maximum(length, 1e-12)


def cosines(rows: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Products f32[n, m] of unit vectors f32[n, d] and f32[m, d]. Summed in fp64: in fp32 the last bits depend on where
    a row stands, and equal rows would not be equally similar."""
    wide = others.astype(np.float64).T
    chunks = [rows[start : start + ROWS_AT_ONCE] @ wide for start in range(0, max(len(rows), 1), ROWS_AT_ONCE)]
    return np.concatenate(chunks).astype(np.float32)
