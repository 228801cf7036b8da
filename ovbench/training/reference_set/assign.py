"""The binary matrix O_ref between the segments and the labels of the remaining pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ovbench.training.reference_set.synonyms import renamed


class Assignment(NamedTuple):
    """O_ref with its rows and columns.

    Attributes:
        segments: Segments of the rows, ascending, int64 (M,).
        labels: Labels of the columns, sorted.
        pairs: Rows and columns of the ones, sorted, int64 (Z, 2).
        root: Root of each label, int64 (N,).
        copied: Labels that exist only as a synonym, bool (N,).
    """

    segments: np.ndarray
    labels: list[str]
    pairs: np.ndarray
    root: np.ndarray
    copied: np.ndarray


def assign(
    pairs: np.ndarray,
    phrases: Sequence[str],
    phrase_root: Sequence[int],
    roots: Sequence[str],
    synonyms: Mapping[int, Sequence[int]],
) -> Assignment:
    """Return the rows and columns of pairs, and add copies of phrases whose root has synonyms.

    A copy that equals another phrase shares its column.

    Args:
        pairs: Segment and phrase of each pair, int64 (P, 2).
        phrases: All phrases.
        phrase_root: Root of each phrase.
        roots: All roots.
        synonyms: The synonyms of a root.
    """
    used = np.unique(pairs[:, 1])
    root_of = {phrases[p]: int(phrase_root[p]) for p in used}
    own = set(root_of)
    names = [_with_copies(int(p), phrases, phrase_root, roots, synonyms, root_of) for p in used]
    labels = sorted(root_of)
    column = {label: number for number, label in enumerate(labels)}
    columns = np.array([column[name] for several in names for name in several], np.int64)
    first = np.concatenate([[0], np.cumsum([len(several) for several in names])]).astype(np.int64)
    position = np.searchsorted(used, pairs[:, 1])
    times = np.diff(first)[position]
    start = np.repeat(first[position] - np.concatenate([[0], times.cumsum()[:-1]]), times)
    segments, row = np.unique(pairs[:, 0], return_inverse=True)
    ones = np.stack([np.repeat(row.ravel(), times), columns[start + np.arange(len(start))]], 1)
    return Assignment(
        segments,
        labels,
        np.unique(ones, axis=0).reshape(-1, 2),
        np.array([root_of[label] for label in labels], np.int64),
        np.array([label not in own for label in labels], bool),
    )


def _with_copies(
    p: int, phrases: Sequence[str], phrase_root: Sequence[int], roots: Sequence[str],
    synonyms: Mapping[int, Sequence[int]], root_of: dict[str, int],
) -> list[str]:  # fmt: skip
    """Return a phrase and its copies, and note the roots of new copies in ``root_of``."""
    others = synonyms.get(int(phrase_root[p]), ())
    copies = renamed(phrases[p], [roots[r] for r in others])
    for copy, other in zip(copies, others, strict=True):
        root_of.setdefault(copy, int(other))
    return [phrases[p], *copies]
