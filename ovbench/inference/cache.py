"""What ovbench can make again and keeps: the generated benchmark, features, text vectors, region masks."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ovbench.utils.errors import unknown
from ovbench.utils.paths import cache_root


@dataclass(frozen=True)
class Part:
    """A part of the cache: ``kind`` is a folder of the cache, ``name`` what lies in it, with its files and bytes."""

    kind: str
    name: str
    path: Path
    files: int
    size: int

    @property
    def label(self) -> str:
        return f"{self.kind}/{self.name}" if self.name else self.kind


KINDS = {
    "descriptions": "sentences about classes, by `ovbench describe`",
    "features": "frozen features of `ovbench train`",
    "generated": "benchmarks drawn by ovbench",
    "reference": "reference sets built by ovbench",
    "regions": "region maps, one folder per source and settings",
    "text": "query vectors",
    "verified": "what `ovbench data verify` found",
    "weights": "downloaded weights",
}
DIVIDED = ("generated", "reference", "regions", "weights")  # kinds whose folders or files are listed one by one


def parts(root: Path | None = None) -> list[Part]:
    """Everything in the cache, by kind and name."""
    root = root or cache_root()
    found = []
    for folder in sorted(root.iterdir()) if root.is_dir() else ():
        divided = folder.name in DIVIDED and folder.is_dir() and not folder.is_symlink()
        below = sorted(folder.iterdir()) if divided else [folder]
        for path in below:
            files = [p for p in path.rglob("*") if p.is_file()] if path.is_dir() else [path]
            name = "" if path == folder else path.name
            found.append(Part(folder.name, name, path, len(files), sum(p.stat().st_size for p in files)))
    return found


def select(names: Sequence[str], root: Path | None = None) -> list[Part]:
    """The parts named "KIND" or "KIND/NAME"; UsageError for a name that is not there."""
    have = parts(root)
    chosen = []
    for name in names:
        matching = [part for part in have if name in (part.kind, part.label)]
        if not matching:
            raise unknown("part of the cache", name, {p.label for p in have} | {p.kind for p in have})
        chosen += [part for part in matching if part not in chosen]
    return chosen


def remove(part: Part) -> None:
    """Delete a part; a folder is renamed first, so that no half of it can be taken for the whole. What a link points to
    stays."""
    if part.path.is_symlink() or part.path.is_file():
        part.path.unlink()
        return
    doomed = part.path.with_name(f".{part.path.name}.{os.getpid()}.removed")
    part.path.rename(doomed)
    shutil.rmtree(doomed)


class Damage(NamedTuple):
    """A file of the cache whose content is not what was written."""

    path: Path
    reason: str


class Checked(NamedTuple):
    """``files`` were checked; ``unchecked`` have nothing to be checked against here."""

    files: int
    unchecked: int
    damaged: list[Damage]


def verify(part: Part) -> Checked:
    """Read every file of a part that can be checked by itself: region maps, query vectors and published weights."""
    files = [p for p in sorted(part.path.rglob("*")) if p.is_file()] if part.path.is_dir() else [part.path]
    checks = {"regions": _check_map, "text": _check_tensors, "weights": _check_weights}
    check = checks.get(part.kind, lambda path: None)
    verdicts = [(path, check(path)) for path in files]
    damaged = [Damage(path, verdict) for path, verdict in verdicts if verdict]
    unchecked = sum(verdict is None for _, verdict in verdicts)
    return Checked(len(files) - unchecked, unchecked, damaged)


def _check_map(path: Path) -> str | None:
    """Empty if whole, the reason if not, None where this is no region map."""
    from ovbench.regions.map_store import SUFFIX, DamagedEntry, unpack

    if path.suffix != SUFFIX:
        return None
    try:
        unpack(path.read_bytes())
    except (DamagedEntry, OSError) as error:
        return str(error)
    return ""


def _check_tensors(path: Path) -> str | None:
    from ovbench.backbones.checkpoint import unpack_tensor

    if path.suffix != ".safetensors":
        return None
    try:
        unpack_tensor(path.read_bytes())
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def _check_weights(path: Path) -> str | None:
    from ovbench.backbones.checkpoint import file_sha256
    from ovbench.config.published_weights import published

    entry = next((entry for entry in published("sam").values() if entry["file"] == path.name), None)
    if entry is None:
        return None
    return "" if file_sha256(path) == entry["sha256"] else "its hash is not the published one"
