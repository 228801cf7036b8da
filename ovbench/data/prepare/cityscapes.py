"""Convert the label ids of Cityscapes to the 19 train ids."""

from __future__ import annotations

from pathlib import Path

from ovbench.data.card import Card
from ovbench.data.labels import label_map
from ovbench.data.prepare.work import Step, convert, find, link_all

VALUES, ARCHIVE = "a Cityscapes label id (0..33)", "gtFine_trainvaltest.zip"
LABELS, IMAGES = "gtFine/val", "leftImg8bit/val"
RAW, CONVERTED, IMAGE = "_gtFine_labelIds.png", "_gtFine_labelTrainIds.png", "_leftImg8bit.png"


def steps(card: Card, sources: tuple[Path, ...], root: Path) -> list[Step]:
    """Return the steps of ``_gtFine_labelTrainIds.png`` for the val cities: 0..18, 255 is ignored."""
    labels = find(f"Cityscapes labels (CITY/*{RAW})", sources, [LABELS], f"*/*{RAW}")
    images = find(f"Cityscapes images (CITY/*{IMAGE})", sources, [IMAGES], f"*/*{IMAGE}")
    table = label_map(card.encoding("ids"), len(card.classes))
    made = link_all([(p, root / IMAGES / p.relative_to(images)) for p in sorted(images.glob(f"*/*{IMAGE}"))])
    for path in sorted(labels.glob(f"*/*{RAW}")):
        target = root / LABELS / path.parent.name / path.name.replace(RAW, CONVERTED)
        made.append(Step(target, convert, (path, table, VALUES, ARCHIVE)))
    return made
