"""Subsets of a benchmark that show every class, with a manifest that names each image and pins its content."""

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

from ovbench.data.cover import cover_classes
from ovbench.data.dataset import Dataset
from ovbench.data.labels import value_counts
from ovbench.data.sources import read_source
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.files import read_json, write_bytes
from ovbench.utils.processes import each
from ovbench.utils.typed import Items, Typed, validate

FORMAT = "ovbench-subset-1"


class SubsetImage(NamedTuple):
    """An image of a subset.

    The label's hash is valid for every layout and encoding of the same labels.

    Attributes:
        id: Id of the image.
        image: sha256 of the image file.
        label: sha256 of the class indices, uint16 little-endian, row by row.
    """

    id: str
    image: str
    label: str


@dataclass(frozen=True)
class SubsetManifest:
    """A subset: the dataset, the seed that chose it, and its images in order."""

    dataset: str
    seed: int
    entries: tuple[SubsetImage, ...]

    @property
    def sha256(self) -> str:
        """Hash of the content, as records store it; name and formatting of the file do not matter."""
        return hashlib.sha256(json.dumps([self.dataset, self.entries]).encode()).hexdigest()

    def select(self, dataset: Dataset) -> Dataset:
        """Return the dataset with only the images of the subset, in this order.

        Raises:
            InputError: If an image is missing, or its file or label has changed.
            UsageError: If the subset is of another dataset.
        """
        if self.dataset != dataset.card.name:
            raise UsageError(f"the subset is of {self.dataset}, not of {dataset.card.name}", where="--subset")
        place = {item.id: index for index, item in enumerate(dataset.items)}
        missing = [entry.id for entry in self.entries if entry.id not in place]
        if missing:
            raise InputError(
                f"{len(missing)} images of the subset are missing, the first is {missing[0]}", where=self.dataset
            )
        for entry in self.entries:
            if entry != fingerprint(dataset, place[entry.id]):
                raise InputError(
                    "the image or its label has changed since the subset was made",
                    where=f"{self.dataset}, {entry.id}",
                    fix=f"run: ovbench data verify {dataset.card.argument}",
                )
        items = tuple(dataset.items[place[entry.id]] for entry in self.entries)
        return dataclasses.replace(dataset, items=items, subset_sha256=self.sha256)


class ChosenSubset(NamedTuple):
    """A new subset.

    Attributes:
        manifest: Its manifest.
        absent: Classes that no label of the benchmark has.
        left_out: Classes that other images of the benchmark have, but no image of the subset.
    """

    manifest: SubsetManifest
    absent: tuple[str, ...]
    left_out: tuple[str, ...]


def choose_subset(
    dataset: Dataset,
    count: int,
    seed: int = 0,
    *,
    workers: int = 1,
    advance: Callable[[int], None] = lambda done: None,
) -> ChosenSubset:
    """Choose images that together show every class, if possible.

    Beginning with the rarest class, the image with most missing classes is chosen for every class that no chosen image
    has. The remaining images are random. All labels are read.

    Args:
        dataset: The dataset.
        count: Number of images.
        seed: Seed of the random choices; the same seed and data give the same images.
        workers: Processes that read labels.
        advance: Called with 1 after every label.

    Returns:
        The subset, with images in the order of the split.

    Raises:
        UsageError: If the dataset has fewer images.
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
    chosen = cover_classes(shows, count, np.random.default_rng(seed))
    names = np.array(dataset.card.classes)
    somewhere, covered = shows.any(0), shows[chosen].any(0)
    entries = tuple(fingerprint(dataset, index) for index in sorted(chosen))
    return ChosenSubset(
        SubsetManifest(dataset.card.name, seed, entries),
        absent=tuple(names[~somewhere].tolist()),
        left_out=tuple(names[somewhere & ~covered].tolist()),
    )


def classes_in(dataset: Dataset, index: int) -> tuple[int, ...]:
    """Return the classes in a label."""
    return tuple(v for v in value_counts(dataset.read_label(index)) if v < len(dataset.card.classes))


def fingerprint(dataset: Dataset, index: int) -> SubsetImage:
    """Return the manifest entry of one image.

    Raises:
        InputError: If the image or the label cannot be read.
    """
    item = dataset.items[index]
    try:
        image = hashlib.sha256(read_source(item.image_path).data).hexdigest()
    except OSError as error:
        raise InputError(f'cannot read the image "{item.image_path}": {error.strerror or error}') from None
    label = dataset.with_rule("correct").read_label(index)
    return SubsetImage(item.id, image, hashlib.sha256(label.astype("<u2").tobytes()).hexdigest())


def write_manifest(manifest: SubsetManifest, path: Path) -> None:
    """Write a manifest as JSON, one image per line."""
    head = {"format": FORMAT, "dataset": manifest.dataset, "seed": manifest.seed, "sha256": manifest.sha256}
    lines = ",\n  ".join(json.dumps(entry._asdict()) for entry in manifest.entries)
    text = json.dumps(head)[:-1] + f',\n "images": [\n  {lines}\n]}}\n'
    write_bytes(path, text.encode())


class SubsetImageFields(Typed):
    """One image in the file of a manifest."""

    id: str
    image: str
    label: str


class ManifestFile(Typed):
    """The file of a manifest."""

    format: Literal["ovbench-subset-1"]
    dataset: str
    seed: Annotated[int, Field(ge=0)]
    sha256: str
    images: Annotated[Items[SubsetImageFields], Field(min_length=1)]


def read_manifest(path: str | Path) -> SubsetManifest:
    """Read a manifest from its file.

    Raises:
        InputError: If it is missing or malformed, or its content was changed.
    """
    where, fix = str(path), "make it with: ovbench data subset"
    file = validate(ManifestFile, read_json(Path(path)), where, fix=fix, what="a subset manifest")
    entries = tuple(SubsetImage(one.id, one.image, one.label) for one in file.images)
    manifest = SubsetManifest(file.dataset, file.seed, entries)
    if file.sha256 != manifest.sha256:
        raise InputError("the manifest was changed: its hash does not match", where=where, fix="make a new one")
    return manifest
