"""Initial pairing (section 3.2): every phrase of an image goes to its best segment."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from ovbench.methods.reme.vectors import cosines, unit


class Pairing(NamedTuple):
    """``segment`` i64[n] is the best segment of each phrase, ``score`` f32[n] their cosine."""

    segment: np.ndarray
    score: np.ndarray


def best_segments(segments: np.ndarray, phrases: np.ndarray) -> Pairing:
    """Of the segments f[k, d] of one image, the most similar one for each of its phrases f[n, d]; the first of equals.

    Segments that no phrase chose are not in the result, and one segment may be chosen by several phrases.
    """
    similarity = cosines(unit(segments), unit(phrases))  # f[k, n]
    best = similarity.argmax(0)
    return Pairing(best, similarity[best, np.arange(len(best))])
