"""Recognise which files of a folder are images and which are their labels."""

from __future__ import annotations

import io
import re
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from PIL import Image

from ovbench.data.decode import read_image
from ovbench.data.find import SUFFIXES
from ovbench.data.integrity import BROKEN
from ovbench.data.sources import read_source, walk
from ovbench.utils.errors import InputError

ENDING = re.compile(r"(?:[_.-][A-Za-z][A-Za-z0-9]*)+$")  # "_gtFine_labelIds", "_mask"
BEGINNING = re.compile(r"^(?:[A-Za-z]+[_.-])+")  # "mask_"
LABEL_WORDS = re.compile(r"label|mask|annot|gt|seg|truth|train_?ids", re.IGNORECASE)
IMAGE_WORDS = re.compile(r"imag|img|photo|rgb|jpeg|picture|frame", re.IGNORECASE)
PREFERRED = ("val", "valid", "validation", "test", "testing", "eval")  # splits, the usual one first
DEEPEST, MOST_FOLDERS = 3, 200
LOOKED_AT = 3  # pairs that are decoded to tell labels from images
LEAST = 0.5  # of the labels must have an image
FEW_COLOURS = 200  # a label has fewer


class FileGroup(NamedTuple):
    """Files of one form: everything below a folder with the same beginning, ending and type.

    ``ids`` has the path of each by its image id.
    """

    pattern: str
    ids: dict[str, str]


class FoundPairs(NamedTuple):
    """The patterns of images and labels, the label files, and which ids have both; see `ovbench.data.card.Layout`."""

    image: str
    label: str
    ids: str
    labels: tuple[Path, ...]
    note: str


def find_pairs(folder: Path) -> FoundPairs:
    """Return the images and labels of a folder or archive.

    Raises:
        InputError: If there are no pairs.
    """
    groups = _groups([name for name in walk(folder) if _family(PurePosixPath(name).suffix) is not None])
    pairs = [pair for one in groups for other in groups if one is not other and (pair := _matched(one, other))]
    best: FoundPairs | None = None
    for image, label in sorted(pairs, key=_rank)[:8]:
        if _looks_labelled(folder, image, label):
            best = _as_pairs(folder, image, label, pairs)
            break
    if best is None:
        raise InputError(
            "no images with labels recognised", where=str(folder),
            fix="images and labels need the same name up to a beginning or ending, such as a.jpg and a_mask.png; "
            "otherwise write the card by hand, see docs/datasets.md",
        )  # fmt: skip
    return best


def _groups(names: Sequence[str]) -> list[FileGroup]:
    """Return all groups, below each folder and with and without a common beginning and ending."""
    folders = defaultdict(list)
    for name in names:
        for depth in range(min(len(PurePosixPath(name).parts), DEEPEST + 1)):
            folders["/".join(PurePosixPath(name).parts[:depth])].append(name)
    groups: dict[str, FileGroup] = {}
    for folder, inside in list(folders.items())[:MOST_FOLDERS]:
        kinds = defaultdict(list)
        for name in inside:
            below = PurePosixPath(name).relative_to(folder or ".")
            family, stem = _family(below.suffix), below.stem
            beginning, ending = BEGINNING.match(stem), ENDING.search(stem)
            before = f"{beginning[0]}" if beginning and below.parent == PurePosixPath() else ""
            for pre in {"", before}:
                for post in {"", ending[0] if ending else ""}:
                    if len(pre) + len(post) < len(stem):
                        kinds[pre, post, family].append(name)
        for (pre, post, _), members in kinds.items():
            pattern = f"{folder}/{pre}{{id}}{post}".lstrip("/") + PurePosixPath(members[0]).suffix
            start = len(folder) + len(pre) + (1 if folder else 0)
            ids = {name[start:].rpartition(".")[0].removesuffix(post): name for name in members}
            groups.setdefault(pattern, FileGroup(pattern, ids))
    return [group for group in groups.values() if group.ids]


def _family(suffix: str) -> tuple[str, ...] | None:
    return next((family for family in SUFFIXES if suffix.lower() in family), None)


def _matched(image: FileGroup, label: FileGroup) -> tuple[FileGroup, FileGroup] | None:
    """Return the two groups if they can be images and labels of one dataset."""
    if _family(PurePosixPath(label.pattern).suffix) == SUFFIXES[0]:  # a JPEG keeps no classes
        return None
    common = image.ids.keys() & label.ids.keys()
    own = image.ids.keys() - {i for i, name in image.ids.items() if name in label.ids.values()}
    common &= own
    return (image, label) if len(common) >= max(1, LEAST * len(label.ids)) else None


def _rank(pair: tuple[FileGroup, FileGroup]) -> tuple:
    """Return the sort key of a pair: named like images and labels, of the usual split, most pairs, shortest pattern."""
    image, label = pair
    split = min((PREFERRED.index(part) for part in _parts(label.pattern) if part in PREFERRED), default=len(PREFERRED))
    both = set(_parts(image.pattern)) & set(_parts(label.pattern)) & set(PREFERRED)
    words = bool(LABEL_WORDS.search(label.pattern)) - bool(LABEL_WORDS.search(image.pattern))
    words += bool(IMAGE_WORDS.search(image.pattern)) - bool(IMAGE_WORDS.search(label.pattern))
    train_ids = "trainids" in label.pattern.lower().replace("_", "")
    return (
        -words, split if both else len(PREFERRED), not train_ids, -len(image.ids.keys() & label.ids.keys()),
        len(image.pattern) + len(label.pattern), image.pattern, label.pattern,
    )  # fmt: skip


def _parts(pattern: str) -> list[str]:
    return [part.lower() for part in PurePosixPath(pattern).parts[:-1]]


def _looks_labelled(folder: Path, image: FileGroup, label: FileGroup) -> bool:
    """Return whether files of the second group have the sizes of the first and few colours, as labels have."""
    for image_id in sorted(image.ids.keys() & label.ids.keys())[:LOOKED_AT]:
        try:
            picture, colours = read_image(folder / image.ids[image_id]), _colours(folder / label.ids[image_id])
        except InputError:
            return False
        if colours is None or colours[0] not in (picture.shape[:2], picture.shape[1::-1]) or colours[1] > FEW_COLOURS:
            return False
    return True


def _colours(path: Path) -> tuple[tuple[int, ...], int] | None:
    """Return size and number of colours or values of a picture, None if it cannot be read."""
    try:
        with Image.open(io.BytesIO(read_source(path).data)) as image:
            pixels = np.asarray(image)
    except BROKEN:
        return None
    if pixels.ndim == 2:
        return pixels.shape, len(np.unique(pixels)) if pixels.dtype == np.uint8 else 0
    return pixels.shape[:2], len(np.unique(pixels.reshape(-1, pixels.shape[2]), axis=0))


def _as_pairs(folder: Path, image: FileGroup, label: FileGroup, pairs: Iterable) -> FoundPairs:
    common = image.ids.keys() & label.ids.keys()
    ids = "" if common == image.ids.keys() == label.ids.keys() else "images" if common == image.ids.keys() else "labels"
    notes = [f"{len(common)} images with labels: {image.pattern}, {label.pattern}"]
    if ids:
        one, other = len(image.ids) - len(common), len(label.ids) - len(common)
        notes.append(f"{one} images without label and {other} labels without image are left out")
    more = max((len(a.ids.keys() & b.ids.keys()) for a, b in pairs), default=0)
    if more > len(common):
        notes.append("the folder has more images; only this split is in the card")
    return FoundPairs(
        image.pattern, label.pattern, ids, tuple(folder / label.ids[i] for i in sorted(common)), "; ".join(notes)
    )
