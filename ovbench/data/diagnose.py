"""What the label values of a whole benchmark tell: values that it does not have, and the variant that explains them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ovbench.data.card import Card, Encoding, Layout
from ovbench.data.decode import RawLabel
from ovbench.data.labels import LabelMap, label_map, value_counts

IN_8_BITS = 256
ORIENTED = "they are read upright, as viewers and published code show them, unless only the stored form fits the label"


class FileReport(NamedTuple):
    """One image and its label as found on disk; ``values`` are raw label values with their pixel counts."""

    id: str
    trouble: tuple[tuple[str, str], ...] = ()  # kind, detail
    size: tuple[int, int] | None = None
    values: dict[int, int] | None = None
    label_mode: str = ""
    image_mode: str = ""
    orientation: int = 1
    brightest: int | None = None  # of an image of 16 bits
    palette: dict[int, tuple[int, int, int]] | None = None  # the colours of the values


def with_label(report: FileReport, label: RawLabel) -> FileReport:
    """The report with what a label file holds."""
    values, palette = value_counts(label.values), None
    if label.palette is not None:
        palette = {value: tuple(label.palette[value].tolist()) for value in values if value < len(label.palette)}
    return report._replace(values=values, label_mode=label.mode, palette=palette)


@dataclass(frozen=True)
class Problem:
    """``kind`` is for programs, ``message`` for people. An error makes the verification fail, the rest is notes."""

    kind: str
    count: int
    message: str
    is_error: bool = True
    examples: tuple[str, ...] = ()


def diagnose(card: Card, layout: Layout, encoding: Encoding, reports: list[FileReport]) -> list[Problem]:
    """The problems that the values show. ``reports`` are those of the labels that could be read."""
    if not reports:
        return []
    labels = label_map(encoding, len(card.classes))
    files = Counter(value for report in reports for value in report.values)
    return [
        *_foreign_values(card, encoding, labels, reports, files),
        *_other_form(card, layout, encoding),
        *(_mask(card, encoding, files) or _last_class_absent(card, encoding, labels, files)),
        *_rare_background(card, encoding, len(reports), files),
        *_too_narrow(card, reports),
        *_grey_palette(card, layout, reports, files),
        *_renumbered_palettes(reports),
        *_one_bit(card, reports),
        *_nothing_scored(labels, reports),
    ]


def _foreign_values(
    card: Card, encoding: Encoding, labels: LabelMap, reports: list[FileReport], files: Counter
) -> list[Problem]:
    foreign = sorted(value for value in files if not labels.admits(np.array(value)))
    if not foreign:
        return []
    hit = [r.id for r in reports if any(value in r.values for value in foreign)]
    shown = ", ".join(map(str, foreign[:6])) + (", ..." if len(foreign) > 6 else "")
    likely = _explain(card, encoding, sorted(files))
    because = f"; they look like {likely}" if likely else ""
    text = f"{len(hit)} labels have values outside {labels.admitted()}: {shown}{because}"
    return [Problem("label values", len(hit), text, True, tuple(hit[:5]))]


def _explain(card: Card, encoding: Encoding, values: list[int]) -> str:
    """The meaning of the card's other encoding that admits most of the values, and of those the narrowest."""
    candidates = []
    for other in card.encodings:
        table = label_map(other, len(card.classes))
        fitting = int(table.admits(np.array(values)).sum())
        if other is not encoding and other.means and fitting >= 0.8 * len(values):
            candidates.append((fitting, -_width(table), other.means))
    return max(candidates)[2] if candidates else ""


def _width(labels: LabelMap) -> int:
    return int(labels.admits(np.arange(len(labels.table))).sum())


def _other_form(card: Card, layout: Layout, encoding: Encoding) -> list[Problem]:
    usual = card.encoding(layout.encodings[0])
    if encoding is usual:
        return []
    text = (
        f"the labels in {layout.label} are not {usual.means or usual.name} but {encoding.means}; they are read as such"
    )
    return [Problem("encoding", 1, text, False)]


def _last_class_absent(card: Card, encoding: Encoding, labels: LabelMap, files: Counter) -> list[Problem]:
    """Reduction shifts every class down by one, which leaves the last class empty."""
    classes = len(card.classes)
    present = [any(files[int(raw)] for raw in np.flatnonzero(labels.table == c)) for c in range(classes)]
    if present[-1] or not present[-2]:
        return []
    name = card.classes[-1]
    if encoding.name == "reduced":
        text = f'the last class, "{name}", never occurs though the one before it does: the labels were reduced twice'
        return [Problem("reduced twice", 1, text)]
    if not all(present[:-1]):
        return []
    text = f'the last class, "{name}", never occurs though all others do: the labels were shifted down by one'
    return [Problem("reduced", 1, f"{text} (zero-label reduction)")]


def colours(report: FileReport) -> dict[int, tuple[int, int, int]]:
    """The colours of a label's values; none for tones of grey, which say nothing beside the values."""
    palette = report.palette or {}
    return {} if all(len(set(colour)) == 1 for colour in palette.values()) else palette


def _mask(card: Card, encoding: Encoding, files: Counter) -> list[Problem]:
    """Masks of two classes are often written as 0 and 255; then the default drops the only object."""
    if encoding.stated or len(card.classes) != 2 or set(files) != {0, 255}:
        return []
    text = (
        "the labels hold only 0 and 255, and 255 is ignored by default, so the second class would never occur: write "
        "[encoding.mask] and values = [0, 255] in the card if 255 is the second class, or [encoding.index] and "
        "void = [255] if it is to be ignored"
    )
    return [Problem("mask of 0 and 255", files[255], text)]


def _renumbered_palettes(reports: list[FileReport]) -> list[Problem]:
    """Optimisers renumber palettes file by file: then an index has no meaning of its own."""
    known: dict[int, tuple[str, tuple[int, int, int]]] = {}
    for report in reports:
        for value, colour in colours(report).items():
            other, before = known.setdefault(value, (report.id, colour))
            if before != colour:
                text = (
                    f"the palettes contradict each other: value {value} is the colour {before} in {other} and "
                    f"{colour} in {report.id}, so a program has renumbered them; make the labels again"
                )
                return [Problem("renumbered palettes", 1, text, True, (other, report.id))]
    return []


def _one_bit(card: Card, reports: list[FileReport]) -> list[Problem]:
    """A grey file of 1 bit is 0 and 1, or what an optimiser made of 0 and 255."""
    narrow = [r.id for r in reports if r.label_mode == "1"]
    if not narrow or (len(card.classes) == 2 and len(narrow) == len(reports)):
        return []
    text = f"{len(narrow)} labels have 1 bit beside others that have more"
    if len(narrow) == len(reports):
        text = f"the labels have 1 bit, too little for {len(card.classes)} classes"
    text += ": their value 1 may be a class or 255 (white); save them with 8 bits"
    return [Problem("1-bit labels", len(narrow), text, True, tuple(narrow[:5]))]


def _rare_background(card: Card, encoding: Encoding, count: int, files: Counter) -> list[Problem]:
    if encoding.common is None or 2 * files[encoding.common] >= count:
        return []
    text = (
        f"value {encoding.common} (background) is in only {files[encoding.common]} of {count} labels: "
        "the background was removed and every class shifted down (zero-label reduction)"
    )
    return [Problem("background missing", count - files[encoding.common], text)]


def _too_narrow(card: Card, reports: list[FileReport]) -> list[Problem]:
    if len(card.classes) <= IN_8_BITS:
        return []
    narrow = [r.id for r in reports if r.label_mode in ("L", "P", "1")]
    if not narrow:
        return []
    text = f"{len(narrow)} labels have 8 bits: every class from {IN_8_BITS} on is lost; they must have 16"
    return [Problem("8-bit labels", len(narrow), text, True, tuple(narrow[:5]))]


def _grey_palette(card: Card, layout: Layout, reports: list[FileReport], files: Counter) -> list[Problem]:
    if not card.palette or "_detectron2" in layout.label:
        return []
    grey = [r.id for r in reports if r.label_mode != "P"]
    if not grey:
        return []
    bordered = bool(files[255])
    text = f"{len(grey)} labels are grey images, the originals have a palette: likely SegmentationClassAug"
    text += "" if bordered else ", and none has the ignored border (255), so its pixels would be scored"
    return [Problem("SegmentationClassAug", len(grey), text, not bordered, tuple(grey[:5]))]


def _nothing_scored(labels: LabelMap, reports: list[FileReport]) -> list[Problem]:
    void = [r.id for r in reports if all(labels.table[value] == 65535 for value in r.values)]
    if not void:
        return []
    text = f"{len(void)} labels are ignored in every pixel"
    return [Problem("nothing to score", len(void), text, len(void) == len(reports), tuple(void[:5]))]
