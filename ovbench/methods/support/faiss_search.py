"""Search of a bank with FAISS, as the official code does, and the recall of a search that is not exact."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.faiss_library import load_faiss
from ovbench.methods.support.bank import NearestRegions, RegionBank, key_vectors
from ovbench.utils.errors import InputError, first_line

PROBES = 256  # lists that the official code searches
MEASURED = 200  # regions whose neighbours are compared
NOISE = 0.5


class FaissSearch:
    """An index file in FAISS.

    Args:
        path: The file.

    Raises:
        UsageError: If FAISS is not installed.
        InputError: If it cannot read the file.
    """

    def __init__(self, path: Path):
        faiss = load_faiss()
        try:
            self.index = faiss.read_index(str(path))
        except RuntimeError as error:
            raise InputError(f"FAISS cannot read the index: {first_line(error)}", where=str(path)) from None
        self.probes = 0
        inner = faiss.try_extract_index_ivf(faiss.downcast_index(self.index))
        if inner is not None:
            inner.nprobe = self.probes = min(PROBES, inner.nlist)

    def nearest(self, queries: Tensor, k: int) -> NearestRegions:
        """Find neighbours as `RegionBank.nearest` does; rows are -1 where the searched lists have too few."""
        distance, row = self.index.search(queries.float().cpu().contiguous().numpy(), min(k, self.index.ntotal))
        return NearestRegions(torch.from_numpy(distance).to(queries.device), torch.from_numpy(row).to(queries.device))


def measure_recall(bank: RegionBank, k: int, seed: int = 0) -> float | None:
    """Return the fraction of the true neighbours by cosine that a search of the bank finds.

    The queries are regions of the bank with noise, as a model of regions of a new image.

    Args:
        bank: The bank; None is returned if it has no keys.
        k: Neighbours of each region.
        seed: Seed of the choice of regions and of the noise.
    """
    if bank.keys is None:
        return None
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(len(bank.keys), (MEASURED,), generator=generator)
    width = bank.keys.shape[1]
    noise = torch.randn(MEASURED, width, generator=generator) / width**0.5
    queries = F.normalize(F.normalize(bank.keys[chosen].float(), dim=-1) + NOISE * noise, dim=-1)
    truth = RegionBank(key_vectors(bank.keys), bank.main).nearest(queries, k).row
    found = bank.nearest(queries, k).row
    hits = sum(len(set(a) & set(b)) for a, b in zip(truth.tolist(), found.tolist(), strict=True))
    return hits / truth.numel()
