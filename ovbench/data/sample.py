"""Read a few files of a dataset before a run, to choose the encoding of its labels and to check its card."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache, partial
from typing import NamedTuple

from ovbench.data.card import Card, Encoding
from ovbench.data.coloured_labels import label_encoding, read_encoded_label
from ovbench.data.decode import DEEP, dim, image_facts
from ovbench.data.diagnose import ORIENTED, FileReport, Problem, colours, diagnose, with_label
from ovbench.data.find import FoundFiles, Item
from ovbench.data.labels import IGNORED, choose_encoding, label_map
from ovbench.data.sources import SourceFacts, source_facts
from ovbench.utils.errors import InputError

SAMPLE = 64  # number of files
RARE = frozenset(("reduced twice", "reduced"))  # problems that absent classes show; a sample is not enough for them
NAMED = 6  # number of class names in a line


class LabelReading(NamedTuple):
    """The encoding of the labels of a dataset, with remarks.

    Attributes:
        encoding: The encoding that the files have.
        one_bit: Whether all labels have 1 bit.
        palette: The colour of each label value, if the labels have palettes.
        line: One sentence for the plan of a run.
        remarks: Other unusual facts, one sentence each.
    """

    encoding: Encoding
    one_bit: bool
    palette: dict[int, tuple[int, int, int]]
    line: str
    remarks: tuple[str, ...]


def examine(card: Card, found: FoundFiles) -> LabelReading:
    """Read a sample of labels and the headers of their images.

    Args:
        card: The card of the dataset.
        found: Its files.

    Returns:
        How the labels are read.

    Raises:
        InputError: If the sample contradicts the card: values of another encoding, masks of 0 and 255, labels that were
            reduced twice, cut to 8 bits or renumbered, or 16-bit images that would be nearly black.
    """
    usual = label_encoding(card, found.layout)
    reports = [_report(item, usual) for item in _spread(found.items)]
    readable = [report for report in reports if report.values]
    if reports and not readable:
        raise InputError(reports[0].trouble[-1][1], where=f"{card.name}, no label of {len(reports)} can be read")
    _refuse_dim(card, found, reports)
    encoding = choose_encoding(card, found.layout, [report.values or () for report in readable])
    remarks = []
    for problem in diagnose(card, found.layout, encoding, readable):
        if problem.is_error and _holds(problem, card, found, encoding, readable):
            raise InputError(problem.message, where=card.name, fix=f"run: ovbench data verify {card.argument}")
        remarks.append(problem.message)
    one_bit = all(report.label_mode == "1" for report in readable)
    palette = {value: colour for report in readable for value, colour in colours(report).items()}
    remarks += _odd(card, found, reports)
    return LabelReading(encoding, one_bit, palette, _line(card, found, encoding, readable), tuple(remarks))


def _report(item: Item, encoding: Encoding) -> FileReport:
    try:
        facts = source_facts(item.image_path), source_facts(item.label_path)
    except OSError:
        return _read(item, encoding)
    return _read_once(item, encoding, facts)


@lru_cache(maxsize=16 * SAMPLE)  # several runs in one process read the sample of a dataset once
def _read_once(item: Item, encoding: Encoding, facts: tuple[SourceFacts, SourceFacts]) -> FileReport:
    return _read(item, encoding)


def _read(item: Item, encoding: Encoding) -> FileReport:
    report = FileReport(item.id)
    try:
        facts = image_facts(item.image_path)
        report = report._replace(image_mode=facts.mode, orientation=facts.orientation, brightest=facts.deep)
    except InputError as error:
        report = report._replace(trouble=(("unreadable image", str(error)),))
    try:
        return with_label(report, read_encoded_label(item.label_path, encoding))
    except InputError as error:
        return report._replace(trouble=(*report.trouble, ("unreadable label", str(error))))


def _spread(items: Sequence[Item]) -> list[Item]:
    step = max(1, len(items) / SAMPLE)
    return [items[int(i * step)] for i in range(min(len(items), SAMPLE))]


def _holds(problem: Problem, card: Card, found: FoundFiles, encoding: Encoding, reports: list[FileReport]) -> bool:
    """Return whether an error in the sample is an error of the whole dataset.

    If only a few files are wrong, these images fail. An absent class is an error only if all labels lack it, and only
    in a dataset of known size, whose classes all occur.
    """
    if problem.kind in RARE:
        if not card.image_count:
            return False
        if len(reports) < len(found.items):
            each = partial(_label_alone, encoding=label_encoding(card, found.layout))
            labels = [report for report in map(each, found.items) if report.values]
            return problem.kind in {p.kind for p in diagnose(card, found.layout, encoding, labels)}
        return True
    if problem.kind in ("label values", "8-bit labels", "SegmentationClassAug"):
        return 2 * problem.count >= len(reports)
    return True


def _label_alone(item: Item, encoding: Encoding) -> FileReport:
    try:
        return with_label(FileReport(item.id), read_encoded_label(item.label_path, encoding))
    except InputError:
        return FileReport(item.id)


def _refuse_dim(card: Card, found: FoundFiles, reports: list[FileReport]) -> None:
    deep = {report.id: report.brightest for report in reports if report.brightest is not None}
    if deep and card.white is None and 0 < max(deep.values()) < DEEP:
        brightest = max(deep, key=deep.__getitem__)
        path = next(item.image_path for item in found.items if item.id == brightest)
        error = dim(path, deep[brightest])
        raise InputError(error.what, where=f"{card.name}, {len(deep)} images of 16 bits", fix=error.fix)


def _line(card: Card, found: FoundFiles, encoding: Encoding, reports: list[FileReport]) -> str:
    """Return one sentence: how the labels are read, which classes never occur, and how much is ignored."""
    table = label_map(encoding, len(card.classes)).table
    pixels = [0] * len(card.classes)
    ignored = total = 0
    for report in reports:
        for raw, count in (report.values or {}).items():
            label, total = int(table[raw]), total + count
            ignored += count * (label == IGNORED)
            if label < len(pixels):
                pixels[label] += count
    absent = [name for name, count in zip(card.classes, pixels, strict=True) if not count]
    shown = ", ".join(absent[:NAMED]) + (", ..." if len(absent) > NAMED else "")
    missing = f"{len(absent)} of {len(pixels)} classes never occur ({shown})" if absent else "every class occurs"
    guessed = ", found from their values" if len(found.layout.encodings) > 1 else ""
    which = f"all {len(reports)}" if len(reports) == len(found.items) else f"{len(reports)} of {len(found.items)}"
    return (
        f"labels of {card.name}: {encoding.means or encoding.name}{guessed}; in {which} labels {missing}, "
        f"{ignored / max(total, 1):.1%} of the pixels are ignored"
    )


def _odd(card: Card, found: FoundFiles, reports: list[FileReport]) -> list[str]:
    """Return a sentence for each fact that is unusual but not an error."""
    remarks = []
    tagged = sum(report.orientation != 1 for report in reports)
    if tagged:
        remarks.append(f"{tagged} of {len(reports)} images carry an orientation tag: {ORIENTED}")
    deep = [report.brightest for report in reports if report.brightest is not None]
    if deep:
        white = card.white or 65535
        remarks.append(
            f"{len(deep)} of {len(reports)} images have 16 bits; white is {white}, the largest value {max(deep)}"
        )
    broken = [report.id for report in reports if report.trouble]
    if broken:
        remarks.append(
            f"{len(broken)} of {len(reports)} images or labels cannot be read and will fail, first {broken[0]}"
        )
    if found.others:
        remarks.append(
            f"{len(found.others)} image files beside the images do not match {found.layout.image} and are left out, "
            f"first {found.others[0].name}"
        )
    if card.image_count and len(found.items) < card.image_count:
        remarks.append(f"{len(found.items)} of the {card.image_count} images of the split were found")
    return [f"{card.name}: {remark}" for remark in remarks]
