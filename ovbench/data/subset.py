"""A small part of a benchmark that still shows every class: a manifest that names each image and pins its content."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from ovbench.data.dataset import Dataset
from ovbench.data.labels import value_counts
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.files import read_json, write_bytes
from ovbench.utils.processes import each
from ovbench.utils.typed import Items, Typed, validate

FORMAT = "ovbench-subset-1"


class Entry(NamedTuple):
    """``image`` is the sha256 of the image file, ``label`` that of the decoded classes: u16, little-endian, row by row
    (so the manifest holds for every layout and encoding of the same labels)."""

    id: str
    image: str
    label: str


@dataclass(frozen=True)
class Manifest:
    dataset: str
    seed: int
    entries: tuple[Entry, ...]

    @property
    def sha256(self) -> str:
        """Hash of the content, whatever the file's name and layout: what a record quotes."""
        return hashlib.sha256(json.dumps([self.dataset, self.entries]).encode()).hexdigest()

    def select(self, dataset: Dataset) -> Dataset:
        """The dataset with the images that are meant alone, in this order. UsageError where the dataset is another one,
        InputError where an image is missing or a file differs."""
        if self.dataset != dataset.card.name:
            raise UsageError(f"the subset is one of {self.dataset}, not of {dataset.card.name}", where="--subset")
        place = {item.id: index for index, item in enumerate(dataset.items)}
        missing = [entry.id for entry in self.entries if entry.id not in place]
        if missing:
            raise InputError(
                f"{len(missing)} images of the subset are not there, first {missing[0]}", where=self.dataset
            )
        for entry in self.entries:
            if entry != fingerprint(dataset, place[entry.id]):
                raise InputError(
                    "the image or its label is not the one that the subset was made of",
                    where=f"{self.dataset}, {entry.id}",
                    fix=f"run: ovbench data verify {dataset.card.argument}",
                )
        items = tuple(dataset.items[place[entry.id]] for entry in self.entries)
        return dataclasses.replace(dataset, items=items, subset_sha256=self.sha256)


class Choice(NamedTuple):
    """``absent`` classes are in no label of the benchmark; ``left_out`` ones found no room."""

    manifest: Manifest
    absent: tuple[str, ...]
    left_out: tuple[str, ...]


def choose_subset(
    dataset: Dataset,
    count: int,
    seed: int = 0,
    *,
    workers: int = 1,
    advance: Callable[[int], None] = lambda done: None,
) -> Choice:
    """``count`` images, in the order of the split: first, from the rarest class on, an image for every class that none
    shows yet (the one that shows most such classes), then images at random. Every label is read.

    The same seed on the same data gives the same images. Raises UsageError for more images than there are.
    """
    if not 1 <= count <= len(dataset):
        raise UsageError(f"cannot take {count} of {len(dataset)} images", where="-n", fix=f"give 1..{len(dataset)}")
    present = []
    for classes in each(partial(classes_in, dataset), range(len(dataset)), workers):
        present.append(classes)
        advance(1)
    shows = np.zeros((len(dataset), len(dataset.card.classes)), bool)
    for index, classes in enumerate(present):
        shows[index, list(classes)] = True
    chosen = _cover(shows, count, np.random.default_rng(seed))
    names = np.array(dataset.card.classes)
    somewhere, covered = shows.any(0), shows[chosen].any(0)
    entries = tuple(fingerprint(dataset, index) for index in sorted(chosen))
    return Choice(
        Manifest(dataset.card.name, seed, entries),
        absent=tuple(names[~somewhere].tolist()),
        left_out=tuple(names[somewhere & ~covered].tolist()),
    )


def _cover(shows: np.ndarray, count: int, generator: np.random.Generator) -> list[int]:
    """Image indices. ``shows``: bool[image, class]."""
    order = generator.permutation(len(shows))  # decides between equals, and fills up
    chosen: list[int] = []
    uncovered = shows.any(0)
    while uncovered.any() and len(chosen) < count:
        rarity = np.where(uncovered, shows.sum(0), len(shows) + 1)
        candidates = order[shows[order, rarity.argmin()]]
        best = int(candidates[shows[candidates][:, uncovered].sum(1).argmax()])
        chosen.append(best)
        uncovered &= ~shows[best]
    taken = set(chosen)
    return chosen + [int(i) for i in order if int(i) not in taken][: count - len(chosen)]


def classes_in(dataset: Dataset, index: int) -> tuple[int, ...]:
    """The classes that a label shows."""
    return tuple(v for v in value_counts(dataset.read_label(index)) if v < len(dataset.card.classes))


def fingerprint(dataset: Dataset, index: int) -> Entry:
    """The entry of one image."""
    item = dataset.items[index]
    try:
        image = hashlib.sha256(item.image_path.read_bytes()).hexdigest()
    except OSError as error:
        raise InputError(f'cannot read the image "{item.image_path}": {error.strerror}') from None
    label = dataset.with_rule("correct").read_label(index)
    return Entry(item.id, image, hashlib.sha256(label.astype("<u2").tobytes()).hexdigest())


def write_manifest(manifest: Manifest, path: Path) -> None:
    """Write it as JSON, one image a line."""
    head = {"format": FORMAT, "dataset": manifest.dataset, "seed": manifest.seed, "sha256": manifest.sha256}
    lines = ",\n  ".join(json.dumps(entry._asdict()) for entry in manifest.entries)
    text = json.dumps(head)[:-1] + f',\n "images": [\n  {lines}\n]}}\n'
    write_bytes(path, text.encode())


class EntryFields(Typed):
    """One image of a manifest, see `Entry`."""

    id: str
    image: str
    label: str


class ManifestFile(Typed):
    """The file of a manifest, see `Manifest`."""

    format: Literal["ovbench-subset-1"]
    dataset: str
    seed: Annotated[int, Field(ge=0)]
    sha256: str
    images: Annotated[Items[EntryFields], Field(min_length=1)]


def read_manifest(path: str | Path) -> Manifest:
    """Read a manifest from its file.

    Raises:
        InputError: if it is missing or malformed, or its content was changed.
    """
    where, fix = str(path), "make it with: ovbench data subset"
    file = validate(ManifestFile, read_json(Path(path)), where, fix=fix, what="a subset manifest")
    entries = tuple(Entry(one.id, one.image, one.label) for one in file.images)
    manifest = Manifest(file.dataset, file.seed, entries)
    if file.sha256 != manifest.sha256:
        raise InputError("the subset was changed: its hash does not fit", where=where, fix="make a new one")
    return manifest
