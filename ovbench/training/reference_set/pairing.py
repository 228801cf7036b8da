"""Initial pairing (section 3.2): each phrase of an image with its most similar segment."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ovbench.methods.reme.vectors import cosines, unit


class Pairing(NamedTuple):
    """The most similar segment of each phrase, int64 (N,), and the cosine, float32 (N,)."""

    segment: np.ndarray
    score: np.ndarray


def best_segments(segments: np.ndarray, phrases: np.ndarray) -> Pairing:
    """Return for each phrase of an image the most similar segment; among equals the first wins.

    A segment may have several phrases or none.

    Args:
        segments: Embeddings, float (K, D).
        phrases: Embeddings, float (N, D).
    """
    similarity = cosines(unit(segments), unit(phrases))  # (K, N)
    best = similarity.argmax(0)
    return Pairing(best, similarity[best, np.arange(len(best))])
