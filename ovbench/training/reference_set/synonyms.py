"""Semantic enhancement (section 3.2): roots with similar meaning lend each other their name."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ovbench.methods.reme.vectors import unit
from ovbench.utils.errors import UsageError

SCOPES = ("global", "per_label", "off")
ROWS_AT_ONCE = 1024


class Similar(NamedTuple):
    """``pairs`` i64[n, 2] of roots and their ``similarity`` f32[n]."""

    pairs: np.ndarray
    similarity: np.ndarray


def most_similar_pairs(text: np.ndarray, owning: np.ndarray, k: int, below: float = np.inf) -> Similar:
    """The k most similar pairs (i < j) of the roots ``owning`` i[n] by their embeddings f[all roots, d], most similar
    first; of equals the pair that comes first. Cosines of ``below`` or more do not count."""
    vectors, best = unit(text[owning]), Similar(np.empty((0, 2), np.int64), np.empty(0, np.float32))
    for start in range(0, len(owning), ROWS_AT_ONCE):
        block = vectors[start : start + ROWS_AT_ONCE] @ vectors.T
        block[np.arange(len(vectors))[None] <= np.arange(start, start + len(block))[:, None]] = -np.inf
        block[block >= below] = -np.inf
        chosen = _largest(block.ravel(), k)
        i, j = np.divmod(chosen, len(vectors))
        pairs = np.concatenate([best.pairs, np.stack([owning[i + start], owning[j]], 1)])
        similarity = np.concatenate([best.similarity, block.ravel()[chosen]])
        order = np.lexsort((pairs[:, 1], pairs[:, 0], -similarity))[:k]
        order = order[np.isfinite(similarity[order])]
        best = Similar(pairs[order], similarity[order])
    return best


def nearest_roots(text: np.ndarray, owning: np.ndarray, k: int, least: float = -1.0, below: float = np.inf) -> Similar:
    """For each of the roots ``owning`` its k nearest others of a similarity from ``least`` to less than ``below``: rows
    (root, synonym), roots ascending, most similar first."""
    vectors, pairs, similarity = unit(text[owning]), [], []
    for start in range(0, len(owning), ROWS_AT_ONCE):
        block = vectors[start : start + ROWS_AT_ONCE] @ vectors.T
        block[np.arange(len(block)), np.arange(start, start + len(block))] = -np.inf
        block[block >= below] = -np.inf
        for i, row in enumerate(block, start):
            near = _largest(row, k)
            near = near[row[near] >= least]
            pairs += [(owning[i], owning[j]) for j in near]
            similarity.append(row[near])
    return Similar(
        np.array(pairs, np.int64).reshape(-1, 2), np.concatenate(similarity or [np.empty(0)]).astype(np.float32)
    )


def find_synonyms(
    scope: str,
    text: np.ndarray,
    owning: np.ndarray,
    *,
    pairs: int,
    per_label: int,
    least: float = -1.0,
    below: float = np.inf,
) -> Similar:
    """Pairs of synonyms among the roots that own a pair: "global", "per_label" or "off"."""
    if scope == "global":
        return most_similar_pairs(text, owning, pairs, below)
    if scope == "per_label":
        return nearest_roots(text, owning, per_label, least, below)
    if scope == "off":
        return Similar(np.empty((0, 2), np.int64), np.empty(0, np.float32))
    raise UsageError(f'no scope of synonyms "{scope}"', fix="use " + ", ".join(SCOPES))


def neighbours(pairs: np.ndarray) -> dict[int, list[int]]:
    """The synonyms of each root: pairs hold in both directions, one hop."""
    found: dict[int, set[int]] = {}
    for a, b in pairs.tolist():
        found.setdefault(a, set()).add(b)
        found.setdefault(b, set()).add(a)
    return {root: sorted(others) for root, others in found.items()}


def renamed(phrase: str, roots: Iterable[str]) -> list[str]:
    """Copies of a phrase whose last word, its root, is replaced.

    >>> renamed("a small cat", ["kitten"])
    ['a small kitten']
    """
    before, blank, _ = phrase.rpartition(" ")
    return [before + blank + root for root in roots]


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Positions of the k largest finite values, largest first, of equals the first first."""
    if k < len(values):
        bound = np.partition(values, len(values) - k)[len(values) - k]
        candidates = np.flatnonzero(values >= bound)
    else:
        candidates = np.arange(len(values))
    candidates = candidates[np.isfinite(values[candidates])]
    return candidates[np.lexsort((candidates, -values[candidates]))][:k]
