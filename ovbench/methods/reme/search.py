"""Exact search of a reference set; `ovbench.methods.reme.approximate_search` has the other kind."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.reme.reference_bank import ReferenceBank


def similarities(segments: Tensor, bank: ReferenceBank, block: int) -> Iterator[tuple[int, Tensor]]:
    """Cosines f[k, b] of segments f[k, d1] with the reference segments, block by block, and the first row of each."""
    segments = F.normalize(segments.float(), dim=-1)
    for start in range(0, len(bank.segments), block):
        yield start, segments @ F.normalize(bank.segments[start : start + block].float(), dim=-1).T


class Nearest(NamedTuple):
    """The most similar reference segments: ``cosine`` f[k, K], ``row`` i64[k, K]; -1 where there are fewer."""

    cosine: Tensor
    row: Tensor


def nearest(segments: Tensor, bank: ReferenceBank, k: int, block: int = 65536) -> Nearest:
    """The K reference segments most similar to each segment, exactly, in one pass."""
    best = Nearest(segments.new_empty(len(segments), 0), torch.empty(len(segments), 0, dtype=torch.int64))
    best = best._replace(row=best.row.to(segments.device))
    for start, cosines in similarities(segments, bank, block):
        cosine, row = cosines.topk(min(k, cosines.shape[1]), dim=1)
        cosine, row = torch.cat([best.cosine, cosine], 1), torch.cat([best.row, row + start], 1)
        cosine, place = cosine.topk(min(k, cosine.shape[1]), dim=1)
        best = Nearest(cosine, row.gather(1, place))
    return best
