"""Tables about a set, and the verification of its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from ovbench.methods.reme.parquet import read_table
from ovbench.methods.reme.reference_store import load_set, shard_encoder, shard_names
from ovbench.methods.reme.set_folder import read_manifest
from ovbench.training.changed_files import changed_files
from ovbench.utils.errors import InputError

TABLE_ROWS = {"segments.parquet": "final_segments", "labels.parquet": "final_labels", "roots.parquet": "base_roots"}


def verify_set(folder: Path) -> list[str]:
    """Check every byte of a set.

    Returns:
        One sentence per problem; empty for a valid set.

    Raises:
        InputError: If the folder has no set.
    """
    manifest = read_manifest(folder)
    problems = [*changed_files(folder, manifest["files"]), *_encoders(folder, manifest)]
    if problems:
        return problems
    try:
        bank = load_set(folder).bank
    except InputError as error:
        return [str(error)]
    for name, key in TABLE_ROWS.items():
        rows = read_table(folder / name, []).num_rows
        if rows != manifest["counts"][key]:
            problems.append(f"{name} has {rows} rows, the manifest says {manifest['counts'][key]}")
    for array in ("segments", "labels"):
        rows = getattr(bank, array)
        bad = int(sum((~torch.isfinite(chunk.float()).all(1)).sum() for chunk in rows.split(65536)))
        if bad:
            problems.append(f"{bad} {array} are NaN or infinite")
    if (bank.starts.diff() < 1).any() or int(bank.columns.min()) < 0:
        problems.append("o_ref.safetensors has segments without a label or labels out of range")
    return problems


def _encoders(folder: Path, manifest: Mapping[str, Any]) -> Iterator[str]:
    for array, encoder in (("segments", "dinov2"), ("labels", "clip")):
        expected = manifest["encoders"][encoder]["sha256"]
        for name in shard_names(manifest, array):
            try:
                found = shard_encoder(folder / name)
            except InputError as error:
                yield error.what
                continue
            if found != expected:
                yield f"{name} was made with the encoder {found[:8]}, the set with {expected[:8]}"


def counts_table(manifest: Mapping[str, Any]) -> Table:
    """Return the counts of every stage."""
    table = Table()
    table.add_column("stage")
    table.add_column("number", justify="right")
    for name, number in manifest["counts"].items():
        table.add_row(name.replace("_", " "), f"{number:,}")
    return table


def settings_table(manifest: Mapping[str, Any]) -> Table:
    """Return the encoders and settings of a set."""
    table = Table()
    for head in ("setting", "value"):
        table.add_column(head)
    for role, entry in {**manifest["encoders"], "pairing": manifest["pairing"]}.items():
        table.add_row(role, f"{entry['name']} ({entry['sha256'][:8]})")
    for key, value in manifest["used_with"].items():
        table.add_row(key, str(value))
    table.add_row("regions", " ".join(f"{k}={v}" for k, v in manifest["settings"]["cell"]["regions"].items()))
    for key, value in manifest["settings"]["build"].items():
        table.add_row(key, str(value))
    return table


def recall_table(found: Sequence[Any]) -> Table:
    """Return the results of `measure_recall`."""
    table = Table()
    for head in ("probes", "top", "recall", "approximate s", "exact s", "index s"):
        table.add_column(head, justify="right")
    for one in found:
        seconds = (f"{value:.2f}" for value in (one.approximate_s, one.exact_s, one.build_s))
        table.add_row(str(one.probes), str(one.k), f"{one.recall:.4f}", *seconds)
    return table
