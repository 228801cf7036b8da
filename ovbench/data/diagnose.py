"""Find problems in the label values of a dataset, and the variant of the labels that explains them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ovbench.data.card import Card, Encoding, Layout
from ovbench.data.decode import RawLabel
from ovbench.data.labels import LabelMap, label_map, value_counts

IN_8_BITS = 256
ORIENTED = "they are read upright, as viewers and published code do, unless only the stored pixels fit the label"


class FileReport(NamedTuple):
    """Facts about an image and its label on disk.

    Attributes:
        id: The image id.
        trouble: Pairs of kind and detail.
        size: (h, w) of the image.
        values: Number of pixels by stored label value.
        label_mode: Pillow's mode of the label.
        image_mode: Pillow's mode of the image.
        orientation: EXIF orientation tag of the image.
        brightest: Largest value of a 16-bit image.
        palette: Colour by label value.
    """

    id: str
    trouble: tuple[tuple[str, str], ...] = ()
    size: tuple[int, int] | None = None
    values: dict[int, int] | None = None
    label_mode: str = ""
    image_mode: str = ""
    orientation: int = 1
    brightest: int | None = None
    palette: dict[int, tuple[int, int, int]] | None = None


def with_label(report: FileReport, label: RawLabel) -> FileReport:
    """Add the facts about a decoded label to a report.

    Args:
        report: The report.
        label: The decoded label.
    """
    values, palette = value_counts(label.values), None
    if label.palette is not None:
        palette = {value: tuple(label.palette[value].tolist()) for value in values if value < len(label.palette)}
    return report._replace(values=values, label_mode=label.mode, palette=palette)


@dataclass(frozen=True)
class Problem:
    """A problem of a dataset.

    Attributes:
        kind: Short name, for programs.
        count: Number of files, or of images.
        message: One sentence, for people.
        is_error: Whether the verification fails; otherwise it is a note.
        examples: Some image ids.
    """

    kind: str
    count: int
    message: str
    is_error: bool = True
    examples: tuple[str, ...] = ()


def diagnose(card: Card, layout: Layout, encoding: Encoding, reports: list[FileReport]) -> list[Problem]:
    """Return the problems that the label values show.

    Args:
        card: The card of the dataset.
        layout: Its layout on disk.
        encoding: The encoding of the labels.
        reports: The reports of all labels that could be read.
    """
    if not reports:
        return []
    labels = label_map(encoding, len(card.classes))
    files = Counter(value for report in reports for value in report.values or ())
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
    hit = [r.id for r in reports if any(value in (r.values or ()) for value in foreign)]
    shown = ", ".join(map(str, foreign[:6])) + (", ..." if len(foreign) > 6 else "")
    likely = _explain(card, encoding, sorted(files))
    because = f"; they look like {likely}" if likely else ""
    text = f"{len(hit)} labels have values outside {labels.admitted()}: {shown}{because}"
    return [Problem("label values", len(hit), text, True, tuple(hit[:5]))]


def _explain(card: Card, encoding: Encoding, values: list[int]) -> str:
    """Return the meaning of the other encoding that fits most values; among equals, of the one with fewest values."""
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
        f"the labels in {layout.label} are {encoding.means} and not {usual.means or usual.name}; they are read as such"
    )
    return [Problem("encoding", 1, text, False)]


def _last_class_absent(card: Card, encoding: Encoding, labels: LabelMap, files: Counter) -> list[Problem]:
    """Find labels whose classes were shifted down by one, so that the last class is empty."""
    classes = len(card.classes)
    present = [any(files[int(raw)] for raw in np.flatnonzero(labels.table == c)) for c in range(classes)]
    if present[-1] or not present[-2]:
        return []
    name = card.classes[-1]
    if encoding.name == "reduced":
        text = f'the last class, "{name}", never occurs but the class before it does: the labels were reduced twice'
        return [Problem("reduced twice", 1, text)]
    if not all(present[:-1]):
        return []
    text = f'the last class, "{name}", never occurs but all others do: the labels were shifted down by one'
    return [Problem("reduced", 1, f"{text} (zero-label reduction)")]


def colours(report: FileReport) -> dict[int, tuple[int, int, int]]:
    """Return the palette of a label.

    Args:
        report: The report of the label.

    Returns:
        Colour by value; empty for a palette of grey tones, which adds nothing to the values.
    """
    palette = report.palette or {}
    return {} if all(len(set(colour)) == 1 for colour in palette.values()) else palette


def _mask(card: Card, encoding: Encoding, files: Counter) -> list[Problem]:
    """Find masks of two classes written as 0 and 255, of which the default ignores the only object."""
    if encoding.stated or len(card.classes) != 2 or set(files) != {0, 255}:
        return []
    text = (
        "the labels have only 0 and 255, and 255 is ignored by default, so the second class would never occur: write "
        "[encoding.mask] and values = [0, 255] in the card if 255 is the second class, or [encoding.index] and "
        "void = [255] to ignore it"
    )
    return [Problem("mask of 0 and 255", files[255], text)]


def _renumbered_palettes(reports: list[FileReport]) -> list[Problem]:
    """Find palettes that an optimiser has renumbered in each file, so that an index has no meaning."""
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
    """Find grey files of 1 bit: their values are 0 and 1, or an optimiser made them from 0 and 255."""
    narrow = [r.id for r in reports if r.label_mode == "1"]
    if not narrow or (len(card.classes) == 2 and len(narrow) == len(reports)):
        return []
    text = f"{len(narrow)} labels have 1 bit beside others that have more"
    if len(narrow) == len(reports):
        text = f"the labels have 1 bit, too few for {len(card.classes)} classes"
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
    void = [r.id for r in reports if all(labels.table[value] == 65535 for value in r.values or ())]
    if not void:
        return []
    text = f"{len(void)} labels are ignored in every pixel"
    return [Problem("nothing to score", len(void), text, len(void) == len(reports), tuple(void[:5]))]
