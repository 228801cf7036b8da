"""Tables about a bank, and the verification of its files."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from rich.table import Table

from ovbench.methods.support.backbone import read_store
from ovbench.methods.support.bank_files import find_bank, read_note
from ovbench.methods.support.index_file import Vectors, read_index
from ovbench.training.changed_files import changed_files
from ovbench.training.region_bank.write_bank import BankImages, manifest_paths, parse_images
from ovbench.utils.errors import InputError
from ovbench.utils.files import read_text

ROWS = 1 << 16
ROUNDING = 5e-3  # of a row of length 1 in fp16; wider than fp16 needs for any width


def describe_bank(spec: str) -> dict[str, Any]:
    """Return what is known about a bank: its files, sizes, and the note of its build.

    Args:
        spec: FOLDER/NAME, with options as in ``--set support=``.

    Raises:
        InputError: If a file is missing or damaged.
    """
    files = find_bank(spec)
    stores = {"main": files.main, "auxiliary": files.auxiliary, "keys": files.keys}
    shapes = {role: list(read_store(path).shape) for role, path in stores.items() if path}
    found: dict[str, Any] = {
        "bank": spec, "vfm": files.vfm, "rows": shapes["main"][0],
        "files": {role: str(path) for role, path in {**stores, "index": files.index}.items() if path},
        "shapes": shapes,
    }  # fmt: skip
    if files.index:
        vectors = read_index(files.index)
        kind = "flat" if vectors.codes is None else f"IVFPQ, {len(vectors.centres)} lists"
        metric = "inner product" if vectors.inner_product else "L2"
        found["index"] = {"type": kind, "metric": metric, "vectors": len(vectors.ids), "width": vectors.width}
    return found | {"built": read_note(files.base)}


def bank_table(found: Mapping[str, Any]) -> Table:
    """Return the result of `describe_bank` as a table."""
    table = Table()
    for head in ("property", "value"):
        table.add_column(head)
    table.add_row("rows", f"{found['rows']:,}")
    for role, path in found["files"].items():
        shape = " x ".join(f"{side:,}" for side in found["shapes"].get(role, []))
        table.add_row(role, f"{path}{shape and f' ({shape})'}")
    if "index" in found:
        one = found["index"]
        table.add_row("index", f"{one['type']}, {one['metric']}, {one['vectors']:,} vectors of width {one['width']}")
    note = found["built"]
    if note is None:
        table.add_row("built", "by another builder: no note of its encoders")
        return table
    table.add_row("images", f"{note['images']:,}, {len(note['without_regions'])} more without a region")
    for role, one in note["identity"]["encoders"].items():
        table.add_row(role, f"{one['name']} ({one['sha256'][:8]})")
    for name in ("regions", "windows"):
        table.add_row(name, " ".join(f"{key}={value}" for key, value in note["identity"][name].items()))
    table.add_row("left out", ", ".join(f"id {number}" for number in note["identity"]["left_out"]))
    table.add_row("recall", f"{note['index']['recall']} of {note['index']['neighbours']} neighbours")
    return table


def verify_bank(spec: str) -> list[str]:
    """Check every byte of a bank.

    Args:
        spec: FOLDER/NAME, with options as in ``--set support=``.

    Returns:
        One sentence per problem; empty for a valid bank.

    Raises:
        InputError: If there is no bank.
    """
    files = find_bank(spec)
    base, note = files.base, read_note(files.base)
    if note and (problems := [*changed_files(base.parent, note["files"])]):
        return problems
    try:
        main = read_store(files.main)
        vectors = read_index(files.index) if files.index else None
        others = {"auxiliary": files.auxiliary, "keys": files.keys}
        stores = {"main": main} | {role: read_store(path) for role, path in others.items() if path}
        listing = manifest_paths(base)[0]
        images = parse_images(listing) if listing.is_file() else None
    except InputError as error:
        return [str(error)]
    problems = [*_rows(stores)]
    if vectors is not None:
        problems += _index(vectors, stores)
    if images is not None:
        problems += _manifests(base, images, len(main))
    return problems


def _rows(stores: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """Check finite values, the length of CLIP's rows, and equal numbers of rows."""
    for role, store in stores.items():
        if len(store) != len(stores["main"]):
            yield f"the {role} store has {len(store)} rows, the main store {len(stores['main'])}"
        bad, long = 0, 0
        for rows in store.split(ROWS):
            norms = rows.float().norm(dim=1)
            bad += int((~norms.isfinite()).sum())
            long += int(((norms - 1).abs() > ROUNDING).sum()) if role != "keys" else int((norms == 0).sum())
        if bad:
            yield f"{bad} rows of the {role} store are NaN or infinite"
        elif long:
            yield f"{long} rows of the {role} store {'are zero' if role == 'keys' else 'do not have length 1'}"


def _index(vectors: Vectors, stores: Mapping[str, torch.Tensor]) -> Iterator[str]:
    """Check that the index has each row once, and the keys if it is flat."""
    count = len(stores["main"])
    if len(vectors.ids) != count or not torch.equal(vectors.ids.sort().values, torch.arange(count)):
        yield f"the index has {len(vectors.ids)} vectors, not each of the {count} rows once"
        return
    keys = stores.get("keys")
    if keys is None or vectors.codes is not None:
        return
    if keys.shape[1] != vectors.width:
        yield f"the index has vectors of width {vectors.width}, the keys {keys.shape[1]}"
        return
    unlike = 0
    for start in range(0, count, ROWS):
        stop = min(start + ROWS, count)
        wanted = torch.nn.functional.normalize(keys[vectors.ids[start:stop]].float(), dim=1)
        unlike += int(((vectors.rows(start, stop) - wanted).abs().amax(1) > ROUNDING).sum())
    if unlike:
        yield f"{unlike} vectors of the index are not the keys of their rows"


def _manifests(base: Path, images: BankImages, rows: int) -> Iterator[str]:
    listing, lines = manifest_paths(base)
    if images.rows != rows:
        yield f"{listing.name} lists {images.rows} rows, the stores have {rows}"
    expected = (f"{stem}#{n}" for stem, count in zip(images.stems, images.counts, strict=True) for n in range(count))
    if lines.is_file() and read_text(lines, "manifest").splitlines() != [*expected]:
        yield f"{lines.name} does not have the rows of {listing.name}"
