"""A reference set on disk.

    manifest.json                 format, settings, encoders with hashes, counts, dropped roots, files with hashes
    segments-NNNNN.safetensors    "segments" f16[rows, d1]: S_ref in shards
    labels-NNNNN.safetensors      "labels" f16[rows, d2]: L_ref in shards
    o_ref.safetensors             O_ref by rows: "starts" i64[m + 1], "columns" i32[z]
    segments.parquet              image, region, y1, x1, y2, x2, area of every row of S_ref
    labels.parquet                phrase, root, synonym (whether it exists only as one) of every row of L_ref
    roots.parquet                 root, size of its base group, w, dropped
    ambiguous.csv, synonyms.csv, report.html
    stages/                       what the build left for each part, see `ovbench.training.reference_set.parts`

The manifest is written last and removed first, so that a folder with one holds a whole set.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from ovbench.backbones.checkpoint import file_sha256
from ovbench.methods.reme.reference_bank import Encoder, ReferenceBank
from ovbench.training.reference_set.assign import Assigned
from ovbench.utils.errors import InputError, first_line
from ovbench.utils.files import read_json, write_bytes, write_json

FORMAT = 1
MANIFEST = "manifest.json"
SHARD_ROWS = 100_000
MINI = "mini"


class Stored(NamedTuple):
    """A set that was read: ``sha256`` is that of its contents, whatever folder it lies in."""

    bank: ReferenceBank
    manifest: dict[str, Any]
    sha256: str


def find_set(text: str) -> Path:
    """The folder of a set; "mini" is built on first use. "SET?filter=none&synonyms=off" is the same set with other last
    stages, made on first use in its folder ``variants``. InputError where there is none."""
    text, question, changes = text.partition("?")
    if question:
        from ovbench.training.reference_set.merge_sets import variant

        return variant(find_set(text), changes)
    if text == MINI:
        from ovbench.training.reference_set.mini import mini_set

        return mini_set()
    folder = Path(text).expanduser()
    if not (folder / MANIFEST).is_file():
        raise InputError(
            f'no reference set in "{text}"', where="reference",
            fix="give the folder that `ovbench reference build` finished, or run it again to go on",
        )  # fmt: skip
    return folder


def read_manifest(folder: Path) -> dict[str, Any]:
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT or manifest.get("kind") != "reme":
        raise InputError("not a reference set of this version", where=str(folder / MANIFEST))
    return manifest


def content_hash(manifest: dict[str, Any]) -> str:
    """Hash over the arrays that segmentation reads and what they were made with."""
    files = {name: entry["sha256"] for name, entry in manifest["files"].items() if name.endswith(".safetensors")}
    content = json.dumps([files, manifest["encoders"], manifest["used_with"]], sort_keys=True)
    return hashlib.sha256(content.encode()).hexdigest()


def load_set(folder: Path) -> Stored:
    """Read a set into memory. InputError for files that are missing, cut off, or of different encoders; for all bytes
    see `ovbench reference verify`."""
    manifest = read_manifest(folder)
    for name, entry in manifest["files"].items():
        path = folder / name
        size = path.stat().st_size if path.is_file() else None
        if size != entry["bytes"]:
            have = "it is missing" if size is None else f"{size} bytes, expected {entry['bytes']}"
            raise InputError(f"a file of the reference set is damaged: {have}", where=str(path), fix="copy it again")
    encoders = {kind: Encoder(e["name"], e["sha256"]) for kind, e in manifest["encoders"].items()}
    rows = manifest["counts"]
    segments = read_shards(folder, manifest, "segments", encoders["dinov2"], rows["final_segments"])
    labels = read_shards(folder, manifest, "labels", encoders["clip"], rows["final_labels"])
    o_ref = _tensors(folder / "o_ref.safetensors")
    starts, columns = o_ref["starts"], o_ref["columns"]
    if len(starts) != len(segments) + 1 or int(starts[-1]) != len(columns) or int(columns.max()) >= len(labels):
        raise InputError("the matrix does not fit the segments and labels", where=str(folder / "o_ref.safetensors"))
    bank = ReferenceBank(segments, labels, starts, columns, encoders, manifest["used_with"])
    return Stored(bank, manifest, content_hash(manifest))


def shard_names(manifest: dict[str, Any], kind: str) -> list[str]:
    return sorted(n for n in manifest["files"] if n.startswith(f"{kind}-") and n.endswith(".safetensors"))


def read_shards(folder: Path, manifest: dict[str, Any], kind: str, encoder: Encoder, rows: int) -> Tensor:
    """All rows of S_ref or L_ref; InputError where a shard was made with another encoder or rows are missing."""
    shards = []
    for name in shard_names(manifest, kind):
        made_with = shard_encoder(folder / name)
        if made_with != encoder.sha256:
            raise InputError(
                f"this shard was made with the encoder {made_with[:8]}, the set with {encoder.sha256[:8]}",
                where=str(folder / name), fix="do not mix files of different sets; build or merge them",
            )  # fmt: skip
        shards.append(_tensors(folder / name)[kind])
    found = sum(len(shard) for shard in shards)
    if found != rows:
        raise InputError(f"{found} {kind} in the files, {rows} in the manifest", where=str(folder))
    return torch.cat(shards)


def shard_encoder(path: Path) -> str:
    """Hash of the encoder that a shard names."""
    try:
        with safe_open(path, "pt") as file:
            return (file.metadata() or {}).get("encoder", "")
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> InputError:
    return InputError(f"a file of the reference set is damaged: {first_line(error)}", where=str(path))


class SetWriter:
    """Writes the files of a set into ``folder``; ``finish`` makes it one."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.files: list[str] = []
        (folder / MANIFEST).unlink(missing_ok=True)
        for kind in ("segments", "labels"):
            for old in folder.glob(f"{kind}-*.safetensors"):
                old.unlink()

    def shards(self, kind: str, chunks: Iterator[np.ndarray], encoder: Encoder, rows: int = SHARD_ROWS) -> None:
        """Rows f16[n, d], chunk after chunk, in shards of ``rows``; one shard is in memory."""
        number, held = 0, []
        for chunk in chunks:
            held.append(chunk.astype(np.float16, copy=False))
            while sum(map(len, held)) >= rows:
                joined = np.concatenate(held)
                self._shard(kind, number, joined[:rows], encoder)
                number, held = number + 1, [joined[rows:]]
        if sum(map(len, held)):
            self._shard(kind, number, np.concatenate(held), encoder)

    def _shard(self, kind: str, number: int, rows: np.ndarray, encoder: Encoder) -> None:
        content = save(
            {kind: np.ascontiguousarray(rows)}, {"encoder": encoder.sha256}
        )  # one note: their order is not kept
        self.add(f"{kind}-{number:05d}.safetensors", content)

    def matrix(self, made: Assigned) -> None:
        starts = np.searchsorted(made.pairs[:, 0], np.arange(len(made.segments) + 1)).astype(np.int64)
        self.add("o_ref.safetensors", save({"starts": starts, "columns": made.pairs[:, 1].astype(np.int32)}))

    def add(self, name: str, content: bytes) -> None:
        write_bytes(self.folder / name, content)
        self.files.append(name)

    def written(self, name: str, write: Callable[[Path], object]) -> None:
        """A file that ``write`` puts at the path it is given."""
        write(self.folder / name)
        self.files.append(name)

    def finish(self, manifest: dict[str, Any]) -> dict[str, Any]:
        paths = {name: self.folder / name for name in sorted(self.files)}
        files = {name: {"bytes": path.stat().st_size, "sha256": file_sha256(path)} for name, path in paths.items()}
        manifest = {"format": FORMAT, "kind": "reme", **manifest, "files": files}
        write_json(self.folder / MANIFEST, manifest)
        return manifest


def visual_chunks(rows: Callable[[np.ndarray], np.ndarray], segments: Sequence[int], size: int = 16384):
    """Visual embeddings of segments, chunk by chunk."""
    chosen = np.asarray(segments)
    for start in range(0, len(chosen), size):
        yield rows(chosen[start : start + size])
