"""Exact nearest-neighbour search in a reference set."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.reme.reference_bank import ReferenceBank


def similarities(segments: Tensor, bank: ReferenceBank, block: int) -> Iterator[tuple[int, Tensor]]:
    """Yield the cosines of segments and reference segments block by block.

    Args:
        segments: Embeddings, float (K, D1), of any length.
        bank: The reference set.
        block: Reference segments per block.

    Yields:
        The first row of a block, and cosines, float (K, rows of the block).
    """
    segments = F.normalize(segments.float(), dim=-1)
    for start in range(0, len(bank.segments), block):
        yield start, segments @ F.normalize(bank.segments[start : start + block].float(), dim=-1).T


class Nearest(NamedTuple):
    """The most similar reference segments: cosines, float (K, k), and rows, int64 (K, k), -1 if there are fewer."""

    cosine: Tensor
    row: Tensor


def nearest(segments: Tensor, bank: ReferenceBank, k: int, block: int = 65536) -> Nearest:
    """Find the ``k`` most similar reference segments of each segment.

    Args:
        segments: Embeddings, float (K, D1), of any length.
        bank: The reference set.
        k: Neighbours per segment; all if there are fewer.
        block: Reference segments that are compared at once.

    Returns:
        Cosines and rows, most similar first.
    """
    best = Nearest(segments.new_empty(len(segments), 0), torch.empty(len(segments), 0, dtype=torch.int64))
    best = best._replace(row=best.row.to(segments.device))
    for start, cosines in similarities(segments, bank, block):
        cosine, row = cosines.topk(min(k, cosines.shape[1]), dim=1)
        cosine, row = torch.cat([best.cosine, cosine], 1), torch.cat([best.row, row + start], 1)
        cosine, column = cosine.topk(min(k, cosine.shape[1]), dim=1)
        best = Nearest(cosine, row.gather(1, column))
    return best
