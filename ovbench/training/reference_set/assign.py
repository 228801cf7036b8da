"""What remains of the pairs becomes rows and columns: segments, labels and the binary matrix between them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ovbench.training.reference_set.synonyms import renamed


class Assigned(NamedTuple):
    """O_ref: ``segments`` i64[m] are the rows, ascending; ``labels`` the columns, sorted; ``pairs`` i64[z, 2] the
    ones as (row, column), sorted. ``root`` i64[n] of each label, ``copied`` bool[n]: it exists only as a synonym."""

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
) -> Assigned:
    """Rows and columns of the pairs i64[p, 2] (segment, phrase). A phrase whose root has synonyms brings its copies
    along; a copy equal to another phrase shares its column."""
    used = np.unique(pairs[:, 1])
    root_of = {phrases[p]: int(phrase_root[p]) for p in used}
    own = set(root_of)
    names: list[list[str]] = []  # of every used phrase
    for p in used:
        others = synonyms.get(int(phrase_root[p]), ())
        copies = renamed(phrases[p], [roots[r] for r in others])
        for copy, other in zip(copies, others, strict=True):
            root_of.setdefault(copy, int(other))
        names.append([phrases[p], *copies])
    labels = sorted(root_of)
    column = {label: number for number, label in enumerate(labels)}
    columns = np.array([column[name] for several in names for name in several], np.int64)
    first = np.concatenate([[0], np.cumsum([len(several) for several in names])]).astype(np.int64)
    place = np.searchsorted(used, pairs[:, 1])
    times = np.diff(first)[place]
    start = np.repeat(first[place] - np.concatenate([[0], times.cumsum()[:-1]]), times)
    segments, row = np.unique(pairs[:, 0], return_inverse=True)
    ones = np.stack([np.repeat(row.ravel(), times), columns[start + np.arange(len(start))]], 1)
    return Assigned(
        segments,
        labels,
        np.unique(ones, axis=0).reshape(-1, 2),
        np.array([root_of[label] for label in labels], np.int64),
        np.array([label not in own for label in labels], bool),
    )
