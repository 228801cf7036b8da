"""Compare every file of a dataset with its card, and name the likely cause of every problem."""

from __future__ import annotations

import contextlib
import dataclasses
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from ovbench.data.availability import remember_verified
from ovbench.data.card import Card, Encoding
from ovbench.data.coloured_labels import label_encoding, read_encoded_label
from ovbench.data.dataset import locate
from ovbench.data.decode import image_facts, read_image_file
from ovbench.data.diagnose import ORIENTED, FileReport, Problem, diagnose, with_label
from ovbench.data.find import FoundFiles, Item
from ovbench.data.image_ids import ids_sha256
from ovbench.data.labels import IGNORED, LabelMap, choose_encoding, label_map
from ovbench.utils.errors import InputError
from ovbench.utils.processes import each

EXAMPLES = 5
LABEL_KINDS = {  # text in the message of the decoder: kind of problem
    "colours": "colour label", "does not keep": "lossy label",
    "two readings": "ambiguous label", "either may": "ambiguous label", "orientation": "ambiguous label",
}  # fmt: skip


@dataclass
class Verification:
    """The result of a verification.

    Attributes:
        card: The card of the dataset.
        root: The folder of the dataset.
        layout: Name of the layout that was found.
        encoding: The encoding of the labels.
        expected_images: Number of images of the split.
        listed_images: Number of images that were found.
        problems: Errors first, then notes.
        pixels: Number of pixels per class, in label order.
        images: Number of images per class, in label order.
        ignored_pixels: Number of ignored pixels.
        sizes: Smallest and largest (height, width).
    """

    card: Card
    root: Path
    layout: str
    encoding: Encoding
    expected_images: int
    listed_images: int
    problems: list[Problem] = field(default_factory=list)
    pixels: list[int] = field(default_factory=list)
    images: list[int] = field(default_factory=list)
    ignored_pixels: int = 0
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None

    @property
    def ok(self) -> bool:
        """Whether no problem is an error."""
        return not any(problem.is_error for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for JSON."""
        total = sum(self.pixels) + self.ignored_pixels
        return {
            "dataset": self.card.name,
            "ok": self.ok,
            "root": str(self.root),
            "layout": self.layout,
            "encoding": self.encoding.name,
            "images": self.listed_images,
            "expected_images": self.expected_images,
            "unconfirmed": list(self.card.unconfirmed),
            "problems": [dataclasses.asdict(problem) for problem in self.problems],
            "height": [size[0] for size in self.sizes or ()],
            "width": [size[1] for size in self.sizes or ()],
            "ignored_share": self.ignored_pixels / total if total else 0.0,
            "classes": [
                {"index": index, "name": name, "pixels": pixels, "images": images}
                for index, (name, pixels, images) in enumerate(
                    zip(self.card.classes, self.pixels, self.images, strict=True)
                )
            ],
        }


def verify(
    card: Card,
    data_root: str | Path | None = None,
    *,
    partial_copy: bool = False,
    workers: int = 1,
    begin: Callable[[int], None] = lambda files: None,
    advance: Callable[[int], None] = lambda done: None,
) -> Verification:
    """Read every image and label of a dataset and compare them with the card.

    Args:
        card: The card of the dataset.
        data_root: The folder to search; by default the configured ones.
        partial_copy: Accept fewer images than the split has.
        workers: Number of processes.
        begin: Called once with the number of images.
        advance: Called with 1 after every image.

    Raises:
        InputError: If no file is found.
    """
    found = locate(card, data_root)
    missing = {*found.without_image, *found.without_label}
    items = [item for item in found.items if item.id not in missing]
    begin(len(items))
    reports, check = [], partial(check_files, label_encoding(card, found.layout), card.white)
    for report in each(check, items, workers):
        reports.append(report)
        advance(1)
    encoding = choose_encoding(card, found.layout, [report.values for report in reports if report.values])
    result = Verification(card, found.root, found.layout.name, encoding, card.image_count, len(found.items))
    labels = label_map(encoding, len(card.classes))
    _count(result, reports, labels)
    result.problems += _gaps(card, found, partial_copy) + _troubles(reports)
    result.problems += diagnose(card, found.layout, encoding, [r for r in reports if r.values])
    result.problems.sort(key=lambda problem: not problem.is_error)
    return result


def verify_and_remember(card: Card, data_root: str | Path | None = None, **options: Any) -> Verification:
    """Verify a dataset and, if it is right, write a note into the cache, if that can be written.

    Args:
        card: The card of the dataset.
        data_root: The folder to search; by default the configured ones.
        **options: Options of `verify`.
    """
    result = verify(card, data_root, **options)
    if result.ok:
        with contextlib.suppress(InputError):
            remember_verified(card, locate(card, data_root))
    return result


def check_files(encoding: Encoding, white: int | None, item: Item) -> FileReport:
    """Decode an image and its label; an error is noted in the report and not raised.

    Args:
        encoding: How the label is read, see `ovbench.data.coloured_labels.label_encoding`.
        white: The value of white in 16-bit images, see `ovbench.data.decode.read_image_file`.
        item: The files.
    """
    report = FileReport(item.id)
    try:
        facts = image_facts(item.image_path)
        picture = read_image_file(item.image_path, item.label_path, white)
        report = report._replace(image_mode=facts.mode, orientation=facts.orientation, brightest=facts.deep)
        report = report._replace(size=picture.pixels.shape[:2])
    except InputError as error:
        kind = "dim image" if "nearly black" in error.what else "unreadable image"
        report = report._replace(trouble=((kind, str(error)),))
    try:
        raw = read_encoded_label(item.label_path, encoding)
    except InputError as error:
        kind = next((kind for word, kind in LABEL_KINDS.items() if word in error.what), "unreadable label")
        return report._replace(trouble=(*report.trouble, (kind, str(error))))
    report = with_label(report, raw)
    if report.size is not None and report.size != raw.values.shape:
        report = report._replace(trouble=(*report.trouble, _mismatch(report, raw.values.shape)))
    return report


def _mismatch(report: FileReport, label: tuple[int, int]) -> tuple[str, str]:
    height, width = report.size or (0, 0)
    sizes = f"{report.id}: image {width}x{height}, label {label[1]}x{label[0]}"
    return "rotated" if report.size == label[::-1] else "size mismatch", sizes


def _count(result: Verification, reports: list[FileReport], labels: LabelMap) -> None:
    classes = len(result.card.classes)
    result.pixels, result.images = [0] * classes, [0] * classes
    for report in reports:
        present = set()
        for raw, pixels in (report.values or {}).items():
            label = int(labels.table[raw])
            if label == IGNORED:
                result.ignored_pixels += pixels
            elif label < classes:
                result.pixels[label] += pixels
                present.add(label)
        for label in present:
            result.images[label] += 1
    sizes = [report.size for report in reports if report.size]
    if sizes:
        heights, widths = zip(*sizes, strict=True)
        result.sizes = (min(heights), min(widths)), (max(heights), max(widths))


def _gaps(card: Card, found: FoundFiles, partial_copy: bool) -> list[Problem]:
    """Return the problems that the lists of files show."""
    ids = [item.id for item in found.items]
    make = partial(Problem, is_error=True)
    problems = [
        make(kind, len(which), f"{len(which)} {text}", examples=which[:EXAMPLES])
        for kind, which, text in (
            ("missing image", found.without_image, f"images are missing ({found.layout.image})"),
            ("missing label", found.without_label, f"images have no label ({found.layout.label})"),
            ("extra label", found.orphan_labels, "labels have no image"),
            ("duplicate id", found.twice, "ids are listed more than once"),
        )
        if which
    ]
    if found.others:
        text = f"image files beside the images do not match {found.layout.image}, first {found.others[0].name}"
        problems.append(Problem("other pictures", len(found.others), f"{len(found.others)} {text}", False))
    count, expected = len(ids), card.image_count
    if expected and (count > expected or (count < expected and not partial_copy)):
        advice = "; --partial accepts a subset" if count < expected else "; remove the images that are not in the split"
        problems.append(make("count", abs(count - expected), f"{count} images, the split has {expected}{advice}"))
    if card.ids_sha256 and count == expected and ids_sha256(sorted(ids)) != card.ids_sha256:
        problems.append(make("other images", count, "the image ids differ from the ids of the split"))
    return problems


KINDS = {
    "unreadable image": "images cannot be decoded",
    "dim image": "images have 16 bits but do not use the upper ones: they would be nearly black",
    "unreadable label": "labels cannot be decoded",
    "colour label": "labels have colours instead of class values: a palette PNG was read and saved as RGB",
    "lossy label": "labels are stored in a format that does not keep class values",
    "ambiguous label": "labels have values that can be read in two ways",
    "size mismatch": "labels have another size than their image",
    "rotated": "labels have width and height of their image swapped: one of the two was saved rotated",
}


def _troubles(reports: list[FileReport]) -> list[Problem]:
    problems = []
    for kind, text in KINDS.items():
        hits = [(r.id, detail) for r in reports for k, detail in r.trouble if k == kind]
        if hits:
            first = hits[0][1]
            examples = tuple(i for i, _ in hits[:EXAMPLES])
            problems.append(Problem(kind, len(hits), f"{len(hits)} {text} (first: {first})", True, examples))
    tagged = [r.id for r in reports if r.orientation != 1]
    if tagged:
        text = f"{len(tagged)} images carry an orientation tag: {ORIENTED}"
        problems.append(Problem("orientation tag", len(tagged), text, False, tuple(tagged[:EXAMPLES])))
    deep = [r.brightest for r in reports if r.brightest is not None]
    if deep:
        text = f"{len(deep)} images have 16 bits, their largest value is {max(deep)} of 65535"
        problems.append(Problem("16 bits", len(deep), text, False))
    odd = Counter(r.image_mode for r in reports if r.image_mode not in ("RGB", ""))
    if odd:
        modes = ", ".join(f"{n} {mode}" for mode, n in sorted(odd.items()))
        problems.append(
            Problem("image mode", sum(odd.values()), f"images read as 3 channels though stored as {modes}", False)
        )
    return problems
