"""Approximate search in a reference set with FAISS, and its recall."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.faiss_library import load_faiss
from ovbench.methods.reme.reference_bank import ReferenceBank
from ovbench.methods.reme.search import Nearest, nearest

TRAINING_ROWS = 40  # per cell of the index
ROWS_PER_BLOCK = 65536


class FaissIndex:
    """An inverted file (IVF) with exact distances in the searched cells.

    Args:
        segments: Reference segments, float (M, D1), of any length.
        cells: Number of cells; 0 takes about the square root of M.
        seed: Seed of the sample that the cells are trained on.

    Raises:
        UsageError: If FAISS is not installed.
    """

    def __init__(self, segments: Tensor, cells: int = 0, seed: int = 0):
        faiss = load_faiss()
        m, width = segments.shape
        cells = cells or max(1, min(4096, round(m**0.5)))
        self._index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
        self._index.cp.min_points_per_centroid = 1  # a small set has few; FAISS would warn
        generator = torch.Generator().manual_seed(seed)
        sample = torch.randperm(m, generator=generator)[: cells * TRAINING_ROWS].sort().values
        self._index.train(_unit(segments[sample.to(segments.device)]))
        for rows in segments.split(ROWS_PER_BLOCK):
            self._index.add(_unit(rows))

    @property
    def cells(self) -> int:
        """The number of cells."""
        return self._index.nlist

    def nearest(self, segments: Tensor, k: int, probes: int) -> Nearest:
        """Search the ``probes`` best cells as `nearest` does; rows are -1 if these cells have too few segments."""
        self._index.nprobe = min(probes, self._index.nlist)
        cosine, row = self._index.search(_unit(segments), min(k, self._index.ntotal))
        return Nearest(torch.from_numpy(cosine).to(segments.device), torch.from_numpy(row).to(segments.device))


class Recall(NamedTuple):
    """Recall and speed of an index for the ``k`` nearest neighbours of ``rows`` segments.

    Attributes:
        rows: Segments that were searched for.
        k: Neighbours of each.
        probes: Searched cells.
        recall: Fraction of the true neighbours that were found.
        exact_s: Seconds of the exact search.
        approximate_s: Seconds of the approximate search.
        build_s: Seconds of building the index; 0 for an existing one.
    """

    rows: int
    k: int
    probes: int
    recall: float
    exact_s: float
    approximate_s: float
    build_s: float


def measure_recall(
    bank: ReferenceBank, k: int, probes: tuple[int, ...], rows: int = 300, seed: int = 0,
    index: FaissIndex | None = None,
) -> list[Recall]:  # fmt: skip
    """Measure the recall of an index on segments of the set with noise, as a model of segments of a new image.

    Args:
        bank: The reference set.
        k: Neighbours of each segment.
        probes: Numbers of cells to search, measured one after another.
        rows: Segments to search for.
        seed: Seed of the choice of segments and of the noise.
        index: An existing index; built here by default.

    Returns:
        One entry per number of cells.
    """
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(bank.segments), (rows,), generator=generator)
    noise = torch.randn(rows, bank.visual_width, generator=generator) / bank.visual_width**0.5
    device = bank.segments.device
    queries = F.normalize(bank.segments[chosen.to(device)].float(), dim=-1) + 0.5 * noise.to(device)
    k = min(k, len(bank.segments))
    start = time.perf_counter()
    truth = nearest(queries, bank, k).row
    exact, start = time.perf_counter() - start, time.perf_counter()
    index = index or FaissIndex(bank.segments)
    built, found = time.perf_counter() - start, []
    for number in probes:
        start = time.perf_counter()
        row = index.nearest(queries, k, number).row
        spent = time.perf_counter() - start
        hits = sum(len(set(a) & set(b)) for a, b in zip(truth.tolist(), row.tolist(), strict=True))
        found.append(Recall(rows, k, number, hits / truth.numel(), exact, spent, built))
    return found


def _unit(rows: Tensor):
    return F.normalize(rows.float().cpu(), dim=-1).contiguous().numpy()
