"""Convert the label ids of Cityscapes to the 19 train ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ovbench.data.card import Card
from ovbench.data.decode import read_raw_label
from ovbench.data.labels import LabelMap, label_map
from ovbench.data.prepare.work import Step, find, link_all, nothing_found, save_label
from ovbench.utils.errors import InputError

LABELS, IMAGES = "gtFine/val", "leftImg8bit/val"
RAW, CONVERTED, IMAGE = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png", "_leftImg8bit.png"


def steps(card: Card, sources: tuple[Path, ...], root: Path) -> list[Step]:
    """Return the steps of ``_gtFine_labelTrainIds.png`` for the val cities: 0..18, 255 is ignored."""
    labels, images = find(sources, [LABELS], f"*/*{RAW}"), find(sources, [IMAGES], f"*/*{IMAGE}")
    if labels is None:
        raise nothing_found(f"Cityscapes labels (CITY/*{RAW})", sources, [LABELS])
    if images is None:
        raise nothing_found(f"Cityscapes images (CITY/*{IMAGE})", sources, [IMAGES])
    table = label_map(card.encoding("ids"), len(card.classes))
    made = link_all([(p, root / IMAGES / p.relative_to(images)) for p in sorted(images.glob(f"*/*{IMAGE}"))])
    for path in sorted(labels.glob(f"*/*{RAW}")):
        target = root / LABELS / path.parent.name / path.name.replace(RAW, CONVERTED)
        made.append(Step(target, convert, (path, table)))
    return made


def convert(raw_path: Path, table: LabelMap, target: Path) -> None:
    """Convert one label.

    Args:
        raw_path: The label with label ids.
        table: From label ids to train ids.
        target: The file to write.

    Raises:
        InputError: If a value is not a label id, as in a file of train ids.
    """
    raw = read_raw_label(raw_path)
    if not table.admits(raw).all():
        value = int(raw[~table.admits(raw)][0])
        raise InputError(
            f"{value} is not a Cityscapes label id (0..33)",
            where=str(raw_path),
            fix="is this file from gtFine_trainvaltest.zip?",
        )
    save_label(table.table[raw].astype(np.uint8), target)
