"""Read the images and labels of a dataset in order."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ovbench.data.card import Card
from ovbench.data.coloured_labels import read_encoded_label
from ovbench.data.decode import (
    DecodedImage,
    FileIdentity,
    RawLabel,
    read_image,
    read_image_file,
    read_raw_label,
)
from ovbench.data.diagnose import FileReport, colours, with_label
from ovbench.data.find import FoundFiles, Item, data_roots, find, path_of, search_roots
from ovbench.data.image_ids import ids_sha256
from ovbench.data.labels import IGNORED, NO_CLASS, LabelMap, label_map
from ovbench.data.sample import LabelReading, examine
from ovbench.utils.cached_folder import cached_folder
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.registry import load_target

__all__ = ["IGNORED", "NO_CLASS", "Dataset", "Item", "Sample", "open_dataset", "read_image", "read_raw_label"]

LABEL_RULES = ("correct", "official")


class Sample(NamedTuple):
    """An image with its label.

    Attributes:
        id: The image id.
        image: uint8 (H, W, 3), RGB.
        label: uint16 (H, W), class index, IGNORED or NO_CLASS.
        image_file: The file when its bytes were read; None if the image was given as an array.
        label_file: The label file when its bytes were read.
    """

    id: str
    image: np.ndarray
    label: np.ndarray
    image_file: FileIdentity | None = None
    label_file: FileIdentity | None = None


@dataclass(frozen=True)
class Dataset:
    """The images of a dataset in the order of its split, read one at a time.

    Attributes:
        card: The card of the dataset.
        items: The paired files.
        root: The folder of the files.
        layout: Name of the card's layout that the folder has.
        labels: From values of label files to class indices.
        label_rule: "correct" or "official", see `open_dataset`.
        subset_sha256: Hash of the manifest that chose the items, if one did.
        reading: How the labels are read, found from a sample of the files.
        corruption: Corruption of the images, ``NAME:SEVERITY``; "" for none.
    """

    card: Card
    items: tuple[Item, ...]
    root: Path
    layout: str
    labels: LabelMap
    label_rule: str = "correct"
    subset_sha256: str | None = None
    reading: LabelReading | None = None
    corruption: str = ""

    def __len__(self) -> int:
        return len(self.items)

    @property
    def ids_sha256(self) -> str:
        """Hash of the image ids in order, for the record."""
        return ids_sha256(item.id for item in self.items)

    @property
    def remarks(self) -> tuple[str, ...]:
        """Lines for the plan of a run: how the labels are read, and what a sample of the files shows."""
        return () if self.reading is None else (self.reading.line, *self.reading.remarks)

    def read(self, index: int) -> Sample:
        """Read an image and its label.

        Args:
            index: Position in the split, from 0.

        Raises:
            InputError: If a file cannot be read, the sizes differ, or the label has a value that is not a class.
        """
        return self.with_image(index, self.read_image_file(index))

    def with_image(self, index: int, image: DecodedImage | np.ndarray) -> Sample:
        """Add the label to an image that was read before, as several datasets may have the same images.

        Args:
            index: Position in the split, from 0.
            image: The decoded file, or uint8 (H, W, 3), RGB.

        Raises:
            InputError: As in `read`.
        """
        pixels, image_file = (image.pixels, image.file) if isinstance(image, DecodedImage) else (image, None)
        raw = self._raw_label(index)
        label = self.labels.apply(raw.values, where=self._where(index), card=self.card)
        if pixels.shape[:2] != label.shape:
            raise InputError(
                f"image is {_size(pixels)} but its label is {_size(label)}",
                where=self._where(index),
                fix=f"run: ovbench data verify {self.card.argument}",
            )
        return Sample(self.items[index].id, pixels, label, image_file, raw.file)

    def read_image_file(self, index: int) -> DecodedImage:
        """Read an image upright, or its stored pixels if its label was made for these, with the dataset's corruption.

        Args:
            index: Position in the split, from 0.

        Returns:
            The pixels and the identity of the file.

        Raises:
            InputError: If the file cannot be read.
        """
        item = self.items[index]
        image = read_image_file(item.image_path, item.label_path, self.card.white)
        if not self.corruption:
            return image
        from ovbench.data.corrupt import corrupt_image

        return image._replace(pixels=corrupt_image(image.pixels, self.corruption, item.id))

    def read_image(self, index: int) -> np.ndarray:
        """Read the pixels of an image, see `read_image_file`.

        Args:
            index: Position in the split, from 0.

        Returns:
            uint8 (H, W, 3), RGB.
        """
        return self.read_image_file(index).pixels

    def read_label(self, index: int) -> np.ndarray:
        """Read a label.

        Args:
            index: Position in the split, from 0.

        Returns:
            uint16 (H, W), class index, IGNORED or NO_CLASS.

        Raises:
            InputError: If the file cannot be read or has a value that is not a class.
        """
        return self.labels.apply(self._raw_label(index).values, where=self._where(index), card=self.card)

    def _raw_label(self, index: int) -> RawLabel:
        raw = read_encoded_label(self.items[index].label_path, self.labels.encoding)
        if raw.mode == "1" and self.reading is not None and not self.reading.one_bit:
            raise InputError(
                "the label has 1 bit, but others have more: its value 1 may be a class or 255 (white)",
                where=self._where(index),
                fix="save it with 8 bits",
            )
        if raw.palette is not None and self.reading is not None and self.reading.palette:
            for value, colour in colours(with_label(FileReport(""), raw)).items():
                if (other := self.reading.palette.get(value, colour)) != colour:
                    raise InputError(
                        f"value {value} of the label is the colour {colour}, in other labels {other}: "
                        "a program has renumbered its palette",
                        where=self._where(index),
                        fix="make the label again",
                    )
        return raw

    def with_rule(self, label_rule: str) -> Dataset:
        """Return the dataset under another label rule.

        Args:
            label_rule: "correct" or "official", see `open_dataset`.

        Returns:
            The dataset with the same files.
        """
        if label_rule == self.label_rule:
            return self
        labels = label_map(self.labels.encoding, len(self.card.classes), label_rule)
        return dataclasses.replace(self, labels=labels, label_rule=label_rule)

    def _where(self, index: int) -> str:
        return f"{self.card.name}, {self.items[index].id}"


def open_dataset(card: Card, data_root: str | Path | None = None, *, label_rule: str = "correct") -> Dataset:
    """Find the files of a dataset, pair them, and check a sample of them, see `ovbench.data.sample`.

    Args:
        card: The card of the dataset.
        data_root: The folder to search; by default the configured ones, see `ovbench.data.find.data_roots`.
        label_rule: "correct" ignores what the dataset ignores. "official" does what the published evaluation code does:
            255 is always ignored, also if it is a class (pc459 "monkey", ade847 "pier"), and a 16-bit void is scored
            and matches no class.

    Raises:
        InputError: If files are missing, with the folders that were searched, or if a sample contradicts the card.
        UsageError: If the label rule is unknown.
    """
    if label_rule not in LABEL_RULES:
        raise UsageError(f'unknown label rule "{label_rule}"', fix="use " + " or ".join(LABEL_RULES))
    found = locate(card, data_root)
    refuse_gaps(card, found)
    reading = examine(card, found)
    labels = label_map(reading.encoding, len(card.classes), label_rule)
    return Dataset(card, found.items, found.root, found.layout.name, labels, label_rule, reading=reading)


def locate(card: Card, data_root: str | Path | None = None) -> FoundFiles:
    """Find the files of a dataset and their layout; a generated dataset is written on first use.

    Args:
        card: The card of the dataset.
        data_root: The folder or archive to search; by default the folder of a user's card and the configured folders.

    Raises:
        InputError: If no file is found.
    """
    if card.generator:
        return find(card, [_generated(card)])
    roots = data_roots(data_root)
    return find(card, roots if data_root is not None else search_roots(card, roots))


def refuse_gaps(card: Card, found: FoundFiles) -> None:
    """Refuse a dataset with images or labels that are missing or listed twice.

    Args:
        card: The card of the dataset.
        found: Its files.

    Raises:
        InputError: With the number of such files and the first of them.
    """
    advice = f"run: ovbench data verify {card.argument}"
    if found.twice:
        distinct = len({item.id for item in found.items})
        raise InputError(
            f"{len(found.twice)} of {distinct} ids listed more than once, first {found.twice[0]}",
            where=f"{card.name}, {found.root / found.layout.ids}",
            fix="list every image once",
        )
    for kind, missing, pattern in (
        ("image", found.without_image, found.layout.image),
        ("label", found.without_label, found.layout.label),
    ):
        if missing:
            first = path_of(missing[0], found.root, pattern)
            fix = advice if kind == "image" or found.layout.ids else f'{advice}, or write ids = "labels" in the card'
            text = f"{len(missing)} of {len(found.items)} {kind}s missing, first {first}"
            raise InputError(text, where=card.name, fix=fix)
    if found.orphan_labels:
        first = path_of(found.orphan_labels[0], found.root, found.layout.label)
        other = found.others[0].name if found.others else ""
        beside = other and f"; {other} is beside the images and does not match {found.layout.image}"
        raise InputError(
            f"{len(found.orphan_labels)} labels have no image, first {first}{beside}",
            where=card.name,
            fix=f'{advice}, or write ids = "images" in the card to leave out the other labels',
        )


def _generated(card: Card) -> Path:
    """Return the folder of a generated dataset, written on first use."""
    return cached_folder("generated", str(card.generated_folder), _generator(card))


def _generator(card: Card) -> Callable[[Path], object]:

    return load_target(str(card.generator), where=f"{card.name}.toml")


def _size(array: np.ndarray) -> str:
    return f"{array.shape[1]}x{array.shape[0]}"
