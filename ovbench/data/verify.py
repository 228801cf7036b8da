"""Is a benchmark on disk what its card says? Every file is read; what is wrong is named, with the likely cause."""

from __future__ import annotations

import contextlib
import dataclasses
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image

from ovbench.data.card import Card, Encoding
from ovbench.data.decode import read_image, read_raw_label
from ovbench.data.diagnose import FileReport, Problem, diagnose
from ovbench.data.labels import IGNORED, LabelMap, choose_encoding, label_map, value_counts
from ovbench.data.locate import Found, Item
from ovbench.data.parallel import each
from ovbench.data.read import ids_sha256, locate
from ovbench.data.status import remember_verified
from ovbench.errors import InputError

ROTATED = (5, 6, 7, 8)  # values of the EXIF orientation tag that swap width and height
EXAMPLES = 5


@dataclass
class Verification:
    """What was found. ``pixels`` and ``images`` are per class, in label order; ``problems`` come worst first."""

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
    sizes: tuple[tuple[int, int], tuple[int, int]] | None = None  # smallest and largest height and width

    @property
    def ok(self) -> bool:
        return not any(problem.is_error for problem in self.problems)

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        total = sum(self.pixels) + self.ignored_pixels
        return {
            "dataset": self.card.name,
            "ok": self.ok,
            "root": str(self.root),
            "layout": self.layout,
            "encoding": self.encoding.name,
            "images": self.listed_images,
            "expected_images": self.expected_images,
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
    """Read every image and label of a benchmark and compare them with the card.

    ``partial_copy``: fewer images than the split has are no problem. Raises InputError where nothing is found at all.
    """
    found = locate(card, data_root)
    missing = {*found.without_image, *found.without_label}
    items = [item for item in found.items if item.id not in missing]
    begin(len(items))
    reports = []
    for report in each(check_files, items, workers):
        reports.append(report)
        advance(1)
    encoding = _encoding(card, found, items, reports)
    result = Verification(card, found.root, found.layout.name, encoding, card.image_count, len(found.items))
    labels = label_map(encoding, len(card.classes))
    _count(result, reports, labels)
    result.problems += _gaps(card, found, partial_copy) + _troubles(reports)
    result.problems += diagnose(card, found.layout, encoding, [r for r in reports if r.values])
    result.problems.sort(key=lambda problem: not problem.is_error)
    return result


def verify_and_remember(card: Card, data_root: str | Path | None = None, **options: Any) -> Verification:
    """`verify`, and a note in the cache where the copy is right; a cache that cannot be written is no trouble."""
    result = verify(card, data_root, **options)
    if result.ok:
        with contextlib.suppress(InputError):
            remember_verified(card, locate(card, data_root))
    return result


def check_files(item: Item) -> FileReport:
    """Decode one image and its label; what fails is in the report, not raised."""
    report = FileReport(item.id)
    try:
        image = read_image(item.image_path)
        with Image.open(item.image_path) as opened:
            report = report._replace(image_mode=opened.mode, orientation=_orientation(opened))
        report = report._replace(size=image.shape[:2])
    except (InputError, OSError) as error:
        report = report._replace(trouble=(("unreadable image", str(error)),))
    try:
        raw = read_raw_label(item.label_path)
        with Image.open(item.label_path) as opened:
            report = report._replace(label_mode=opened.mode)
    except InputError as error:
        kind = "colour label" if "colours" in error.what else "unreadable label"
        return report._replace(trouble=(*report.trouble, (kind, str(error))))
    report = report._replace(values=value_counts(raw))
    if report.size is not None and report.size != raw.shape:
        report = report._replace(trouble=(*report.trouble, _mismatch(report, raw.shape)))
    return report


def _orientation(image: Image.Image) -> int:
    try:
        return image.getexif().get(0x0112, 1)
    except (SyntaxError, ValueError, KeyError, TypeError, struct.error):
        return 1  # a tag that nobody can read turns no image


def _mismatch(report: FileReport, label: tuple[int, int]) -> tuple[str, str]:
    sizes = f"{report.id}: image {report.size[1]}x{report.size[0]}, label {label[1]}x{label[0]}"
    if report.size != label[::-1]:
        return "size mismatch", sizes
    if report.orientation in ROTATED:
        return "EXIF rotation", f"{sizes}, orientation tag {report.orientation}"
    return "rotated", sizes


def _encoding(card: Card, found: Found, items: list[Item], reports: list[FileReport]) -> Encoding:
    readable = {report.id for report in reports if report.values}
    return choose_encoding(card, found._replace(items=tuple(item for item in items if item.id in readable)))


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
        result.sizes = tuple(tuple(f(side) for side in zip(*sizes, strict=True)) for f in (min, max))


def _gaps(card: Card, found: Found, partial_copy: bool) -> list[Problem]:
    """What the lists of files already tell."""
    ids = [item.id for item in found.items]
    twice = tuple(i for i, n in Counter(ids).items() if n > 1)
    make = partial(Problem, is_error=True)
    problems = [
        make(kind, len(which), f"{len(which)} {text}", examples=which[:EXAMPLES])
        for kind, which, text in (
            ("missing image", found.without_image, f"images are not there ({found.layout.image})"),
            ("missing label", found.without_label, f"images have no label ({found.layout.label})"),
            ("extra label", found.orphan_labels, "labels have no image"),
            ("duplicate id", twice, "ids are listed more than once"),
        )
        if which
    ]
    count, expected = len(ids), card.image_count
    if expected and (count > expected or (count < expected and not partial_copy)):
        advice = (
            "; a deliberate part is accepted with --partial" if count < expected else "; remove what is not part of it"
        )
        problems.append(make("count", abs(count - expected), f"{count} images, the split has {expected}{advice}"))
    if card.ids_sha256 and count == expected and ids_sha256(sorted(ids)) != card.ids_sha256:
        problems.append(make("other images", count, "the image ids are not those of the split"))
    return problems


KINDS = {
    "unreadable image": "images cannot be decoded",
    "unreadable label": "labels cannot be decoded",
    "colour label": "labels have colours instead of class values: a palette PNG was read and saved as RGB",
    "size mismatch": "labels have another size than their image",
    "EXIF rotation": "labels were drawn on the image as its orientation tag turns it; scores need the stored pixels",
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
    tagged = [r.id for r in reports if r.orientation not in (0, 1)]
    if tagged:
        text = f"{len(tagged)} images carry an orientation tag, which is ignored, as in their labels"
        problems.append(Problem("orientation tag", len(tagged), text, False, tuple(tagged[:EXAMPLES])))
    odd = Counter(r.image_mode for r in reports if r.image_mode not in ("RGB", ""))
    if odd:
        modes = ", ".join(f"{n} {mode}" for mode, n in sorted(odd.items()))
        problems.append(
            Problem("image mode", sum(odd.values()), f"images read as 3 channels though stored as {modes}", False)
        )
    return problems
