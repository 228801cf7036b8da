"""Approximate search with FAISS: an inverted file over the reference segments, and how much it misses."""

from __future__ import annotations

import time
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.reme.reference_bank import ReferenceBank
from ovbench.methods.reme.search import Nearest, nearest
from ovbench.utils.errors import UsageError

TRAINING_ROWS = 40  # per cell of the index
ROWS_AT_ONCE = 65536


class FaissIndex:
    """IVF with exact distances inside the cells that are searched: about sqrt(m) cells, trained on a sample."""

    def __init__(self, segments: Tensor, cells: int = 0, seed: int = 0):
        faiss = _faiss()
        m, width = segments.shape
        cells = cells or max(1, min(4096, round(m**0.5)))
        self._index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, cells, faiss.METRIC_INNER_PRODUCT)
        self._index.cp.min_points_per_centroid = 1  # a small set has few, and a cell of one segment is no mistake
        generator = torch.Generator().manual_seed(seed)
        sample = torch.randperm(m, generator=generator)[: cells * TRAINING_ROWS].sort().values
        self._index.train(_unit(segments[sample.to(segments.device)]))
        for rows in segments.split(ROWS_AT_ONCE):
            self._index.add(_unit(rows))

    @property
    def cells(self) -> int:
        return self._index.nlist

    def nearest(self, segments: Tensor, k: int, probes: int) -> Nearest:
        """As `ovbench.methods.reme.search.nearest`, in the ``probes`` best cells; row -1 where they hold fewer."""
        self._index.nprobe = min(probes, self._index.nlist)
        cosine, row = self._index.search(_unit(segments), min(k, self._index.ntotal))
        return Nearest(torch.from_numpy(cosine).to(segments.device), torch.from_numpy(row).to(segments.device))


class Recall(NamedTuple):
    """``recall``: share of the true ``k`` nearest that the index finds; seconds of both searches for ``rows`` segments,
    and of building the index (0 for one that was there)."""

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
    """Recall of the index (built here if not given) on segments of the set itself, each a little off its place, as
    those of a new image are."""
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


def _faiss():
    try:
        import faiss
    except ImportError:
        raise UsageError("FAISS is not installed", fix="pip install faiss-cpu, or use search=exact") from None
    return faiss
