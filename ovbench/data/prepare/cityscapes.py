"""Cityscapes label ids (as shipped) to the 19 train ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ovbench.data.decode import read_raw_label
from ovbench.data.labels import LabelMap, label_map
from ovbench.data.prepare.work import Step, nothing_found, place_all, save_label
from ovbench.errors import InputError

RAW, CONVERTED = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png"


def steps(card, source: Path, root: Path) -> list[Step]:
    """``_gtFine_labelTrainIds.png`` beside each ``_gtFine_labelIds.png`` of the val cities: 0..18, 255 ignored."""
    raw = sorted((source / "gtFine" / "val").glob(f"*/*{RAW}"))
    if not raw:
        raise nothing_found(f"Cityscapes labels (CITY/*{RAW})", source, ["gtFine/val"])
    images = sorted((source / "leftImg8bit" / "val").glob("*/*_leftImg8bit.png"))
    if not images:
        raise nothing_found("Cityscapes images (CITY/*_leftImg8bit.png)", source, ["leftImg8bit/val"])
    table = label_map(card.encoding("ids"), len(card.classes))
    targets = [root / path.relative_to(source).with_name(path.name.replace(RAW, CONVERTED)) for path in raw]
    return place_all([(p, root / p.relative_to(source)) for p in images]) + [
        Step(target, convert, (path, table)) for path, target in zip(raw, targets, strict=True)
    ]


def convert(raw_path: Path, table: LabelMap, target: Path) -> None:
    """One label; InputError for a value that is no label id, as in a file that holds train ids already."""
    raw = read_raw_label(raw_path)
    if not table.admits(raw).all():
        value = int(raw[~table.admits(raw)][0])
        raise InputError(
            f"{value} is not a Cityscapes label id (0..33)",
            where=str(raw_path),
            fix="is this file from gtFine_trainvaltest.zip?",
        )
    save_label(table.table[raw].astype(np.uint8), target)
