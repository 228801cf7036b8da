"""The bank of CorrCLIPv2 as a backbone: it is not a network, but the regions that support those of an image."""

from __future__ import annotations

import hashlib
from glob import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import parse_qsl

from ovbench.backbones.base import Backbone, Loaded
from ovbench.utils.errors import InputError, UsageError

if TYPE_CHECKING:
    from torch import Tensor

NONE = "none"
FOLDERS = {"values": "clip_embeddings", "keys": "vfm_embeddings"}  # below the folder of the official builder
OPTIONS = ("main", "auxiliary", "vfm", "search")
SEARCHES = ("index", "keys")


class BankFiles(NamedTuple):
    """The files of a bank; ``auxiliary`` is None if there is none.

    Attributes:
        main: Embeddings by CLIP.
        auxiliary: Embeddings by another CLIP.
        search: The index, or the keys that are searched instead.
        vfm: Name of the foundation model of the index.
    """

    main: Path
    auxiliary: Path | None
    search: Path
    vfm: str


class RegionBankBackbone(Backbone):
    """A bank in the official file format, or "none"."""

    is_setting = True

    @property
    def label(self) -> str:
        """Its name in messages."""
        return "a bank of regions, or none"

    @property
    def advice(self) -> str:
        """How a user chooses one, for messages."""
        return "--set support=FOLDER/NAME, or support=none"

    def load(self, spec: str) -> Loaded:
        """Load a bank; its stores are memory-mapped."""
        from torch import nn

        from ovbench.backbones.checkpoint import file_sha256
        from ovbench.methods.support.bank import RegionBank, key_vectors
        from ovbench.methods.support.index_file import read_index

        if spec == NONE:
            return Loaded(nn.Identity(), spec, hashlib.sha256(b"").hexdigest())
        files = find_bank(spec)
        by_index = files.search.suffix == ".faiss"
        vectors = read_index(files.search) if by_index else key_vectors(read_store(files.search))
        auxiliary = read_store(files.auxiliary) if files.auxiliary else None
        bank = RegionBank(vectors, read_store(files.main), auxiliary, files.vfm)
        hashes = "".join(file_sha256(path) for path in (files.main, files.auxiliary, files.search) if path)
        return Loaded(bank, spec, hashlib.sha256(hashes.encode()).hexdigest())

    def missing(self, spec: str) -> list[str]:
        """Check that the files exist."""
        if spec != NONE:
            find_bank(spec)
        return []

    def names(self) -> list[str]:
        """Return the name for no bank."""
        return [NONE]


def find_bank(spec: str) -> BankFiles:
    """Find the files of a bank.

    Args:
        spec: "FOLDER/NAME" for the files NAME_metaclip_b.pt, NAME_dfnclip_b.pt and NAME_radiov3.faiss in FOLDER, or in
            its folders clip_embeddings and vfm_embeddings as the official builder writes them. Options choose among
            several files: "FOLDER/NAME?main=metaclip_l&auxiliary=dfnclip_b&vfm=dinov2&search=keys".

    Raises:
        UsageError: If an option is unknown.
        InputError: If a file is missing, or several fit.
    """
    text, _, query = spec.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    strange = [key for key in options if key not in OPTIONS]
    if strange or options.get("search", "index") not in SEARCHES:
        wrong = strange[0] if strange else f"search={options['search']}"
        raise UsageError(f'unknown option "{wrong}" of a bank', where=spec, fix=f"known: {', '.join(OPTIONS)}")
    base = Path(text).expanduser()
    end = ".pt" if options.get("search") == "keys" else ".faiss"
    search = _one(base, "keys", options.get("vfm", "*"), end, spec, excluded=("metaclip", "dfnclip"))
    main = _one(base, "values", options.get("main", "metaclip*"), ".pt", spec)
    auxiliary = _one(base, "values", options.get("auxiliary", "dfnclip*"), ".pt", spec, "auxiliary" in options)
    return BankFiles(main, auxiliary, search, search.stem.removeprefix(f"{base.name}_"))


def _one(
    base: Path, folder: str, pattern: str, end: str, spec: str, required: bool = True, excluded: tuple[str, ...] = ()
) -> Any:
    found = [
        path
        for place in (base.parent, base.parent / FOLDERS[folder])
        for path in sorted(place.glob(f"{escape(base.name)}_{pattern}{end}"))
        if not path.stem.removeprefix(f"{base.name}_").startswith(excluded or ("\0",))
    ]
    if not found and required:
        raise InputError(f'no file "{base}_{pattern}{end}" of the bank', where=spec, fix="give FOLDER/NAME of a bank")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"several files fit: {names}", where=spec, fix="choose with ?main=, auxiliary= or vfm=")
    return found[0] if found else None


def read_store(path: Path) -> Tensor:
    """Return the tensor float16 (N, D) of a store, memory-mapped.

    Raises:
        InputError: If the file is damaged or has something else.
    """
    import pickle

    import torch

    try:
        store: Any = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, OSError, ValueError, EOFError, KeyError) as error:
        raise InputError(f"cannot read the store: {str(error).splitlines()[0]}", where=str(path)) from None
    if not isinstance(store, torch.Tensor) or store.ndim != 2 or store.dtype != torch.float16:
        raise InputError("the store is not one float16 matrix", where=str(path))
    return store


SUPPORT = RegionBankBackbone("support", "a bank of regions that support those of an image (CorrCLIPv2), or none")
