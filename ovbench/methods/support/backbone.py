"""The bank of CorrCLIPv2 as a backbone: it is not a network, but the regions that support those of an image."""

from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovbench.backbones.base import Backbone, Loaded
from ovbench.config.backbone_spec import MINI
from ovbench.methods.support.bank_files import find_bank, note_path
from ovbench.utils.errors import InputError

if TYPE_CHECKING:
    from torch import Tensor

NONE = "none"


class RegionBankBackbone(Backbone):
    """A bank in the official file format, "mini", or "none"."""

    is_setting = True

    @property
    def label(self) -> str:
        """Its name in messages."""
        return "a bank of regions, or none"

    @property
    def advice(self) -> str:
        """How a user chooses one, for messages."""
        return "--set support=FOLDER/NAME, from: ovbench bank build, or support=none"

    def load(self, spec: str) -> Loaded:
        """Load a bank; its stores are memory-mapped."""
        from torch import nn

        from ovbench.backbones.checkpoint import file_sha256
        from ovbench.methods.support.bank import RegionBank, key_vectors
        from ovbench.methods.support.faiss_search import FaissSearch
        from ovbench.methods.support.index_file import read_index

        if spec == NONE:
            return Loaded(nn.Identity(), spec, hashlib.sha256(b"").hexdigest())
        files = find_bank(spec)
        keys = read_store(files.keys) if files.keys else None
        vectors = key_vectors(keys) if files.index is None else read_index(files.index)
        auxiliary = read_store(files.auxiliary) if files.auxiliary else None
        bank = RegionBank(vectors, read_store(files.main), auxiliary, files.vfm, keys)
        if files.search == "faiss":
            bank.approximate = FaissSearch(files.index)
        hashed = (files.main, files.auxiliary, files.index or files.keys)
        hashes = "".join(file_sha256(path) for path in hashed if path) + ("faiss" if bank.approximate else "")
        return Loaded(bank, spec, hashlib.sha256(hashes.encode()).hexdigest())

    def built_here(self, spec: str) -> bool:
        """Return whether the bank is built on first use."""
        return spec.partition("?")[0] == MINI

    def missing(self, spec: str) -> list[str]:
        """Check that the files exist; "mini" is built when it is loaded."""
        if spec != NONE and not self.built_here(spec):
            find_bank(spec)
        return []

    def same(self, one: str, other: str) -> bool:
        """Return whether two specs name the same bank, wherever it lies; a published bank has its name alone."""
        return _named(one) == _named(other)

    def names(self) -> list[str]:
        """Return the names without files."""
        return [NONE, MINI]


def _named(spec: str) -> tuple[str, str]:
    """Return name and options of a bank; the name of one that ovbench has built is its path."""
    text, _, options = spec.partition("?")
    return text if note_path(Path(text).expanduser()).is_file() else Path(text).name, options


def read_store(path: Path) -> Tensor:
    """Return the tensor float16 (N, D) of a store, memory-mapped.

    Raises:
        InputError: If the file is damaged or has something else.
    """
    import torch

    try:
        store: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, ValueError, EOFError, KeyError) as error:
        raise InputError(f"cannot read the store: {str(error).splitlines()[0]}", where=str(path)) from None
    if not isinstance(store, torch.Tensor) or store.ndim != 2 or store.dtype != torch.float16:
        raise InputError("the store is not one float16 matrix", where=str(path))
    return store


SUPPORT = RegionBankBackbone("support", "a bank of regions that support those of an image (CorrCLIPv2), or none")
