"""What a bank has, and which images are left to do."""

from __future__ import annotations

import hashlib
import itertools
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ovbench.backbones.base import Loaded
from ovbench.evaluation.distributed import Shard
from ovbench.methods.support.bank_files import read_note
from ovbench.training.reference_set.chunks import ImageChunk, SourceImage, list_images, split_into_chunks
from ovbench.training.region_bank.settings import BankPlan, encoder_name
from ovbench.training.region_bank.write_bank import read_images, store_paths
from ovbench.utils.errors import InputError


@dataclass(frozen=True)
class BankSources:
    """The inputs and the output of a build.

    Attributes:
        images: Folder of the images.
        bank: FOLDER/NAME of the bank.
        limit: Use only the first images.
        chunk_size: Images per file of rows.
        shard: The shard of the chunks that this build takes; it then writes no bank.
    """

    images: Path
    bank: Path
    limit: int | None = None
    chunk_size: int = 64
    shard: Shard | None = None


class BuildState:
    """The bank as it is, and what is left to do.

    Args:
        sources: Inputs and output.
        images: All images, from `images_by_stem`.
        plan: The settings.
        loaded: The encoders "clip", "dino", "vfm", and "auxiliary" if there is one.

    Raises:
        InputError: If the bank has other settings.
    """

    def __init__(
        self, sources: BankSources, images: list[SourceImage], plan: BankPlan, loaded: dict[str, Loaded]
    ):  # fmt: skip
        self.base, self.identity = sources.bank, json.loads(json.dumps(plan.identity(loaded)))  # as in a note
        self.names = {
            "main": encoder_name(plan.cell.backbones["clip"]),
            "auxiliary": encoder_name(plan.auxiliary) if plan.auxiliary else "",
            "vfm": encoder_name(plan.vfm),
        }
        if self.names["main"] == self.names["auxiliary"]:
            self.names["auxiliary"] += "_second"
        note = read_note(self.base)
        if note and note["identity"] != self.identity:
            unlike = [key for key, value in note["identity"].items() if value != self.identity.get(key)]
            raise InputError(
                f"the bank was built with other {', '.join(unlike) or 'settings'}", where=str(self.base),
                fix="build into another folder",
            )  # fmt: skip
        self.images = read_images(self.base, note)
        known = set(self.images.stems) | set(self.images.without)
        self.chunks = split_into_chunks([one for one in images if one.id not in known], sources.chunk_size)
        self.folder = self.base.parent / "parts" / f"{self.base.name}-{_key(self.identity)}"

    def path(self, chunk: ImageChunk) -> Path:
        """Return the file of a chunk."""
        return self.folder / f"{chunk.name}.safetensors"

    def missing(self) -> list[ImageChunk]:
        """Return the chunks without a file."""
        return [chunk for chunk in self.chunks if not self.path(chunk).is_file()]

    def stores(self) -> dict[str, Path]:
        """Return the file of each store: "keys", "main" and perhaps "auxiliary"."""
        return store_paths(self.base, self.names)


def images_by_stem(folder: Path, limit: int | None = None) -> list[SourceImage]:
    """List the images below a folder by the stems of their files, which are their names in a bank.

    Raises:
        InputError: If two images have the same stem.
    """
    images = sorted((SourceImage(one.path.stem, one.path) for one in list_images(folder)), key=lambda one: one.id)
    for a, b in itertools.pairwise(images):
        if a.id == b.id:
            raise InputError(
                f"two images are called {a.id}; a bank needs unique names", where=f"{a.path}, {b.path}",
                fix="rename one of them",
            )  # fmt: skip
    return images[:limit]


def _key(identity: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
