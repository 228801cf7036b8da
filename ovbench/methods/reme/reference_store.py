"""The files of a reference set.

    manifest.json                 format, settings, encoders with hashes, counts, dropped roots, files with hashes
    segments-NNNNN.safetensors    "segments", float16 (rows, D1): S_ref in shards
    labels-NNNNN.safetensors      "labels", float16 (rows, D2): L_ref in shards
    o_ref.safetensors             O_ref by rows: "starts", int64 (M + 1,), and "columns", int32 (Z,)
    segments.parquet              image, region, y1, x1, y2, x2, area of every row of S_ref
    labels.parquet                phrase, root, synonym (true if it exists only as a synonym) of every row of L_ref
    roots.parquet                 root, size of its base group, w, dropped
    ambiguous.csv, synonyms.csv, report.html
    stages/                       intermediate files of the build, see `ovbench.training.reference_set.chunks`

The manifest is written last and removed first, so a folder with a manifest has a complete set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from safetensors.torch import load_file
from torch import Tensor

from ovbench.backbones.checkpoint import file_sha256
from ovbench.methods.reme.reference_bank import Encoder, ReferenceBank
from ovbench.methods.reme.set_folder import FORMAT, MANIFEST, content_hash, read_manifest
from ovbench.utils.errors import InputError, first_line
from ovbench.utils.files import write_bytes, write_json

SHARD_ROWS = 100_000


class LoadedSet(NamedTuple):
    """A set in memory; ``sha256`` is the hash of its content."""

    bank: ReferenceBank
    manifest: dict[str, Any]
    sha256: str


def load_set(folder: Path) -> LoadedSet:
    """Read a set into memory.

    Raises:
        InputError: If a file is missing, truncated, or of another encoder. Bytes are not hashed; `verify_set` does.
    """
    manifest = read_manifest(folder)
    for name, entry in manifest["files"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            found = "it is missing" if size is None else f"{size} bytes, expected {entry['bytes']}"
            raise InputError(f"a file of the reference set is damaged: {found}", where=str(path), fix="copy it again")
    encoders = {role: Encoder(e["name"], e["sha256"]) for role, e in manifest["encoders"].items()}
    rows = manifest["counts"]
    segments = read_shards(folder, manifest, "segments", encoders["dinov2"], rows["final_segments"])
    labels = read_shards(folder, manifest, "labels", encoders["clip"], rows["final_labels"])
    starts, columns = _tensors(folder / "o_ref.safetensors", "starts", "columns")
    if not _fits(starts, columns, len(segments), len(labels)):
        raise InputError("the matrix does not fit the segments and labels", where=str(folder / "o_ref.safetensors"))
    bank = ReferenceBank(segments, labels, starts, columns, encoders, manifest["used_with"])
    return LoadedSet(bank, manifest, content_hash(manifest))


def shard_names(manifest: dict[str, Any], array: str) -> list[str]:
    """Return the files of an array, "segments" or "labels"."""
    return sorted(n for n in manifest["files"] if n.startswith(f"{array}-") and n.endswith(".safetensors"))


def read_shards(folder: Path, manifest: dict[str, Any], array: str, encoder: Encoder, rows: int) -> Tensor:
    """Read S_ref or L_ref.

    Args:
        folder: The set.
        manifest: Its manifest.
        array: "segments" or "labels".
        encoder: The encoder of the array.
        rows: Expected number of rows.

    Raises:
        InputError: If a shard is damaged or of another encoder, or rows are missing.
    """
    shards = []
    for name in shard_names(manifest, array):
        made_with = shard_encoder(folder / name)
        if made_with != encoder.sha256:
            raise InputError(
                f"this shard was made with the encoder {made_with[:8]}, the set with {encoder.sha256[:8]}",
                where=str(folder / name), fix="build or merge sets instead of copying files between them",
            )  # fmt: skip
        shards += _tensors(folder / name, array)
    found = sum(len(shard) for shard in shards)
    if found != rows:
        raise InputError(f"{found} {array} in the files, {rows} in the manifest", where=str(folder))
    return torch.cat(shards)


def shard_encoder(path: Path) -> str:
    """Return the hash of the encoder of a shard.

    Raises:
        InputError: If the file is missing or damaged.
    """
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("encoder", "")
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _fits(starts: Tensor, columns: Tensor, segments: int, labels: int) -> bool:
    """Return whether rows and columns are those of a matrix of so many segments and labels."""
    if starts.dtype != torch.int64 or columns.dtype != torch.int32 or starts.shape != (segments + 1,):
        return False
    rows = starts[0] == 0 and starts[-1] == len(columns) and bool((starts.diff() >= 0).all())
    return rows and columns.ndim == 1 and (not len(columns) or 0 <= columns.min() <= columns.max() < labels)


def _tensors(path: Path, *names: str) -> list[Tensor]:

    try:
        found = load_file(path)
        return [found[name] for name in names]
    except (SafetensorError, OSError, KeyError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"a file of the reference set is damaged: {first_line(error)}", where=str(path))


class SetWriter:
    """A writer of the files of a set, which is complete after `finish`."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: list[str] = []
        (folder / MANIFEST).unlink(missing_ok=True)
        for array in ("segments", "labels"):
            for old in folder.glob(f"{array}-*.safetensors"):
                old.unlink()

    def shards(self, array: str, chunks: Iterator[np.ndarray], encoder: Encoder, rows: int = SHARD_ROWS) -> None:
        """Write chunks of an array, float16 (n, D), as shards; one shard is in memory.

        Args:
            array: "segments" or "labels".
            chunks: The rows.
            encoder: The encoder of the rows.
            rows: Rows per shard.
        """
        number, held = 0, []
        for chunk in chunks:
            held.append(chunk.astype(np.float16, copy=False))
            while sum(map(len, held)) >= rows:
                joined = np.concatenate(held)
                self._shard(array, number, joined[:rows], encoder)
                number, held = number + 1, [joined[rows:]]
        if sum(map(len, held)):
            self._shard(array, number, np.concatenate(held), encoder)

    def _shard(self, array: str, number: int, rows: np.ndarray, encoder: Encoder) -> None:
        metadata = {"encoder": encoder.sha256}  # a second entry would make the bytes vary: the order is not fixed
        self.add(f"{array}-{number:05d}.safetensors", save({array: np.ascontiguousarray(rows)}, metadata))

    def matrix(self, pairs: np.ndarray, rows: int) -> None:
        """Write O_ref from the sorted rows and columns, int64 (Z, 2), of its ones."""
        starts = np.searchsorted(pairs[:, 0], np.arange(rows + 1)).astype(np.int64)
        self.add("o_ref.safetensors", save({"starts": starts, "columns": pairs[:, 1].astype(np.int32)}))

    def add(self, name: str, content: bytes) -> None:
        """Write a file of the set."""
        write_bytes(self.folder / name, content)
        self.files.append(name)

    def written(self, name: str, write: Callable[[Path], object]) -> None:
        """Call ``write`` with the path of a file of the set, which it writes."""
        write(self.folder / name)
        self.files.append(name)

    def finish(self, manifest: dict[str, Any]) -> dict[str, Any]:
        """Write the manifest with the hashes of all files, and return it."""
        paths = {name: self.folder / name for name in sorted(self.files)}
        files = {name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for name, path in paths.items()}
        manifest = {"format": FORMAT, "kind": "reme", **manifest, "files": files}
        write_json(self.folder / MANIFEST, manifest)
        return manifest


def visual_chunks(
    rows: Callable[[np.ndarray], np.ndarray], segments: Sequence[int], size: int = 16384
) -> Iterator[np.ndarray]:
    """Yield the visual embeddings of segments, float16 (up to ``size``, D1).

    Args:
        rows: Reads the embeddings of segments, float16 (N, D1).
        segments: Numbers of the segments.
        size: Rows per chunk.
    """
    chosen = np.asarray(segments)
    for start in range(0, len(chosen), size):
        yield rows(chosen[start : start + size])
