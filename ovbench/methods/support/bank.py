"""A bank of regions of other images: features of a foundation model to search, and CLIP embeddings to score."""

from __future__ import annotations

from typing import NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench.methods.support.index_file import Vectors
from ovbench.utils.errors import InputError

BLOCK = 1 << 24  # elements of the vectors that are compared at once


class NearestRegions(NamedTuple):
    """The nearest regions of a bank.

    Attributes:
        distance: float (R, k), squared distance, or inner product if the index ranks by it; best first.
        row: int64 (R, k), store row.
    """

    distance: Tensor
    row: Tensor


class Searcher(Protocol):
    """A search of an index by another library."""

    def nearest(self, queries: Tensor, k: int) -> NearestRegions:
        """Find neighbours as `RegionBank.nearest` does; rows are -1 where too few are found."""


class RegionBank(nn.Module):
    """A bank of N regions. The stores stay in host memory or in their files; a search copies some rows at a time.

    Args:
        vectors: The vectors to search, with their store rows.
        main: float16 (N, D), embeddings of the regions by CLIP.
        auxiliary: float16 (N, D2), by another CLIP, or None.
        vfm: Name of the foundation model of the vectors, as in the files; "" if unknown.
        keys: float16 (N, V), the vectors before they were compressed, if they are known.

    Raises:
        InputError: If the stores and the index do not fit.
    """

    def __init__(
        self, vectors: Vectors, main: Tensor, auxiliary: Tensor | None = None, vfm: str = "",
        keys: Tensor | None = None,
    ):  # fmt: skip
        super().__init__()
        rows = int(vectors.ids.max()) + 1 if len(vectors.ids) else 0
        if not rows:
            raise InputError("the bank is empty", fix="build it from more images")
        for name, store in (("main", main), ("auxiliary", auxiliary), ("key", keys)):
            if store is not None and (store.ndim != 2 or len(store) < rows or len(store) != len(main)):
                raise InputError(
                    f"the {name} store is {tuple(store.shape)}, but the index has {rows} rows",
                    fix="give files of one bank",
                )
        self.vectors, self.main, self.auxiliary, self.vfm, self.keys = vectors, main, auxiliary, vfm, keys
        self.approximate: Searcher | None = None

    def nearest(self, queries: Tensor, k: int) -> NearestRegions:
        """Find the nearest regions of each query: among all vectors, or by ``approximate`` if it is set.

        Args:
            queries: float (R, V), of length 1.
            k: Regions per query; all if there are fewer.
        """
        if self.approximate is not None:
            return self.approximate.nearest(queries, k)
        count, device = len(self.vectors.ids), queries.device
        best = queries.new_empty(len(queries), 0)
        place = torch.empty(len(queries), 0, dtype=torch.int64, device=device)
        step = max(BLOCK // self.vectors.width, 1)
        for start in range(0, count, step):
            vectors = self.vectors.rows(start, min(start + step, count)).to(device)
            score = queries @ vectors.T
            if not self.vectors.inner_product:
                score = 2 * score - vectors.square().sum(1)  # the larger, the nearer
            found, column = score.topk(min(k, score.shape[1]), dim=1)
            best, place = torch.cat([best, found], 1), torch.cat([place, column + start], 1)
            best, column = best.topk(min(k, best.shape[1]), dim=1)
            place = place.gather(1, column)
        distance = best if self.vectors.inner_product else queries.square().sum(1, keepdim=True) - best
        return NearestRegions(distance, self.vectors.ids[place.cpu()].to(device))


def support_features(store: Tensor, rows: Tensor) -> Tensor:
    """Return the normalised mean of rows of a store, float (R, D).

    Args:
        store: float16 (N, D), in host memory.
        rows: int64 (R, k); negative ones are left out.
    """
    chosen = rows.cpu()
    found = store[chosen.clamp(min=0)].float() * (chosen >= 0)[..., None]  # only these rows of the file are read
    return F.normalize(found.sum(1), dim=-1).to(rows.device)  # the mean has the direction of the sum


def key_vectors(keys: Tensor) -> Vectors:
    """Return the keys of a bank, float16 (N, V), as vectors to search by the cosine."""
    return Vectors(torch.arange(len(keys)), True, flat=_UnitRows(keys))


class _UnitRows:
    """Rows of a store, of length 1 when they are read."""

    def __init__(self, store: Tensor):
        self.store, self.shape = store, store.shape

    def __getitem__(self, rows: slice) -> Tensor:
        return F.normalize(self.store[rows].float(), dim=-1)
