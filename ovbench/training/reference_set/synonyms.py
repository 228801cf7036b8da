"""Semantic enhancement (section 3.2): synonyms among the root nouns."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from ovbench.methods.reme.vectors import unit
from ovbench.utils.errors import UsageError

SCOPES = ("global", "per_label", "off")
ROWS_PER_BLOCK = 1024


class SynonymPairs(NamedTuple):
    """Pairs of roots, int64 (N, 2), and their cosines, float32 (N,)."""

    pairs: np.ndarray
    similarity: np.ndarray


def most_similar_pairs(text: np.ndarray, owning: np.ndarray, k: int, below: float = np.inf) -> SynonymPairs:
    """Return the ``k`` most similar pairs of roots, most similar first; among equals the first pair wins.

    Args:
        text: Embeddings of all roots, float (R, D).
        owning: The roots to compare, int (N,), ascending.
        k: Number of pairs.
        below: Pairs with this cosine or more are left out.
    """
    vectors, best = unit(text[owning]), SynonymPairs(np.empty((0, 2), np.int64), np.empty(0, np.float32))
    for start in range(0, len(owning), ROWS_PER_BLOCK):
        block = vectors[start : start + ROWS_PER_BLOCK] @ vectors.T
        block[np.arange(len(vectors))[None] <= np.arange(start, start + len(block))[:, None]] = -np.inf
        block[block >= below] = -np.inf
        chosen = _largest(block.ravel(), k)
        i, j = np.divmod(chosen, len(vectors))
        pairs = np.concatenate([best.pairs, np.stack([owning[i + start], owning[j]], 1)])
        similarity = np.concatenate([best.similarity, block.ravel()[chosen]])
        order = np.lexsort((pairs[:, 1], pairs[:, 0], -similarity))[:k]
        order = order[np.isfinite(similarity[order])]
        best = SynonymPairs(pairs[order], similarity[order])
    return best


def nearest_roots(
    text: np.ndarray, owning: np.ndarray, k: int, least: float = -1.0, below: float = np.inf
) -> SynonymPairs:
    """Return for each root its ``k`` most similar others as (root, synonym), roots ascending, most similar first.

    Args:
        text: Embeddings of all roots, float (R, D).
        owning: The roots to compare, int (N,), ascending.
        k: Synonyms per root.
        least: Smallest cosine of a synonym.
        below: Pairs with this cosine or more are left out.
    """
    vectors, pairs, similarity = unit(text[owning]), [], []
    for start in range(0, len(owning), ROWS_PER_BLOCK):
        block = vectors[start : start + ROWS_PER_BLOCK] @ vectors.T
        block[np.arange(len(block)), np.arange(start, start + len(block))] = -np.inf
        block[block >= below] = -np.inf
        for i, row in enumerate(block, start):
            near = _largest(row, k)
            near = near[row[near] >= least]
            pairs += [(owning[i], owning[j]) for j in near]
            similarity.append(row[near])
    return SynonymPairs(
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
) -> SynonymPairs:
    """Return the synonyms among roots.

    Args:
        scope: "global" (`most_similar_pairs`), "per_label" (`nearest_roots`) or "off".
        text: Embeddings of all roots, float (R, D).
        owning: The roots that own a pair, int (N,), ascending.
        pairs: Number of pairs with "global".
        per_label: Synonyms per root with "per_label".
        least: Smallest cosine with "per_label".
        below: Pairs with this cosine or more are left out.

    Raises:
        UsageError: If the scope is not known.
    """
    if scope == "global":
        return most_similar_pairs(text, owning, pairs, below)
    if scope == "per_label":
        return nearest_roots(text, owning, per_label, least, below)
    if scope == "off":
        return SynonymPairs(np.empty((0, 2), np.int64), np.empty(0, np.float32))
    raise UsageError(f'unknown scope of synonyms "{scope}"', fix="use " + ", ".join(SCOPES))


def neighbours(pairs: np.ndarray) -> dict[int, list[int]]:
    """Return the synonyms of each root; a pair counts in both directions, and synonyms of synonyms do not count."""
    found: dict[int, set[int]] = {}
    for a, b in pairs.tolist():
        found.setdefault(a, set()).add(b)
        found.setdefault(b, set()).add(a)
    return {root: sorted(others) for root, others in found.items()}


def renamed(phrase: str, roots: Iterable[str]) -> list[str]:
    """Return copies of a phrase with other roots; the root is its last word.

    Example:
        >>> renamed("a small cat", ["kitten"])
        ['a small kitten']
    """
    before, blank, _ = phrase.rpartition(" ")
    return [before + blank + root for root in roots]


def _largest(values: np.ndarray, k: int) -> np.ndarray:
    """Return the positions of the k largest finite values, largest first; among equals the first wins."""
    if k < len(values):
        bound = np.partition(values, len(values) - k)[len(values) - k]
        candidates = np.flatnonzero(values >= bound)
    else:
        candidates = np.arange(len(values))
    candidates = candidates[np.isfinite(values[candidates])]
    return candidates[np.lexsort((candidates, -values[candidates]))][:k]
