"""One bank from several, which were built on different machines from different images."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ovbench.methods.support.backbone import read_store
from ovbench.methods.support.bank_files import known_note
from ovbench.training.region_bank.write_bank import BankContent, BankImages, read_images, store_paths, write_bank
from ovbench.utils.errors import InputError


def merge_banks(bases: Sequence[Path], out: Path) -> dict[str, Any]:
    """Write the bank of all images of several banks, in the order that is given.

    Args:
        bases: FOLDER/NAME of each bank, all built with the same settings.
        out: FOLDER/NAME of the new bank.

    Returns:
        The note of the new bank.

    Raises:
        InputError: If a bank has no note, settings differ, or an image is in two banks.
    """
    notes = [known_note(base) for base in bases]
    for base, note in zip(bases, notes, strict=True):
        for key in ("identity", "names"):
            if note[key] != notes[0][key]:
                raise InputError(f"the banks differ in their {key}", where=f"{bases[0]}, {base}")
    images = [read_images(base, note) for base, note in zip(bases, notes, strict=True)]
    times = Counter(stem for one in images for stem in (*one.stems, *one.without))
    if double := [stem for stem, count in times.items() if count > 1]:
        raise InputError(f"{len(double)} images are in two banks, first {double[0]}", where=str(out))
    names = notes[0]["names"]
    blocks = {
        role: [read_store(store_paths(base, names)[role])[: one.rows] for base, one in zip(bases, images, strict=True)]
        for role in store_paths(out, names)
    }
    together = BankImages(
        tuple(stem for one in images for stem in one.stems),
        tuple(count for one in images for count in one.counts),
        tuple(stem for one in images for stem in one.without),
    )
    failed = {stem: why for note in notes for stem, why in note["failed"].items()}
    content = BankContent(notes[0]["identity"], names, together, blocks, failed)
    return write_bank(out, content, notes[0]["index"]["type"])
