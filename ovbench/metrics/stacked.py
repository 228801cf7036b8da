"""Stack the counts of images in sparse tables, one row per image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

import numpy as np
from scipy.sparse import coo_array, csr_array

from ovbench.metrics.confusion import ClassPixels, PixelCounts, sum_by_class
from ovbench.metrics.extra_counts import ExtraCounts, sum_extra, table_width

BLOCK = 20_000  # images whose tables are in memory at once
PACKED = 1000  # images of an array of `CountColumns`; a divisor of `BLOCK`
EMPTY = np.zeros(0, np.int64)
T = TypeVar("T", bound=tuple[np.ndarray, ...])


class ImageCounts(NamedTuple):
    """Counts per image and class.

    Attributes:
        intersection: Sparse int64 (N, C), pixels whose label and prediction are the class.
        union: Sparse int64 (N, C), pixels whose label or prediction is the class.
    """

    intersection: csr_array
    union: csr_array


def stack_counts(images: Sequence[PixelCounts], classes: int) -> ImageCounts:
    """Collect the counts of images, one row per image.

    A pixel whose label or prediction is outside the classes counts only in the union of the other one's class.

    Args:
        images: The counts of every image.
        classes: Number of classes C.

    Returns:
        Intersections and unions, (N, C).
    """
    by_class = stack_by_class(images, classes)
    return ImageCounts(by_class.intersection, by_class.union)


def stack_by_class(images: Sequence[PixelCounts], classes: int) -> ClassPixels:
    """Collect the counts of images by class, each field sparse int64 (N, C); see `stack_counts`."""
    rows, label, predicted, pixels = flat_counts(images)
    shape = (len(images), classes)

    def table(kept: np.ndarray, column: np.ndarray) -> csr_array:
        return csr_array(coo_array((pixels[kept], (rows[kept], column[kept])), shape=shape))

    hit = table((label == predicted) & (label < classes), label)
    labelled, guessed = table(label < classes, label), table(predicted < classes, predicted)
    return ClassPixels(hit, csr_array(labelled + guessed - hit), guessed, labelled)


def flat_counts(images: Sequence[PixelCounts]) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Return image, label, prediction and pixels of all counts, each int64 (M,)."""
    rows, (label, predicted, pixels) = _flat(images, 3)
    return rows, label, predicted, pixels


def _flat(images: Sequence[Any], fields: int) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the image of every count, and the counts in one array per field, each int64 (M,)."""
    if isinstance(images, CountColumns):
        return images.flat(fields)
    lengths = [len(counts[0]) for counts in images]
    columns = [[np.asarray(counts[field], np.int64) for counts in images] for field in range(fields)]
    return np.repeat(np.arange(len(images)), lengths), [np.concatenate(one or [EMPTY]) for one in columns]


def counts_in_order(entries: Mapping[str, PixelCounts], ids: Sequence[str], classes: int) -> ImageCounts:
    """Collect the counts of chosen images in a given order.

    Args:
        entries: The counts by image id.
        ids: The image ids.
        classes: Number of classes C.

    Returns:
        Intersections and unions, one row per id.
    """
    return stack_counts([entries[i] for i in ids], classes)


class CountedImages:
    """The counts of N images, in tables by class that are made once.

    Attributes:
        pixels: The pixel counts of every image.
        classes: Number of classes C.
        extra: Other counts of every image, by their name.
    """

    def __init__(
        self, pixels: Sequence[PixelCounts], classes: int, extra: Mapping[str, Sequence[ExtraCounts]] | None = None
    ):
        self.pixels, self.classes, self.extra = pixels, classes, extra or {}
        self._tables: dict[str, ClassPixels] = {}
        self._totals: dict[str, ClassPixels] = {}

    def total(self, counts: str) -> ClassPixels:
        """Return the sums over all images of "pixels" or of extra counts, each int64 (K,).

        Raises:
            KeyError: If the images do not have these counts.
        """
        if counts not in self._totals:
            if counts == "pixels":
                flat = (PixelCounts(*_flat(some, 3)[1]) for some in in_blocks(self.pixels))
                sums = [sum_by_class([block], self.classes) for block in flat]
            else:
                flat_extra = (ExtraCounts(*_flat(some, 4)[1]) for some in in_blocks(self.extra[counts]))
                sums = [sum_extra([block], table_width(counts, self.classes)) for block in flat_extra]
            self._totals[counts] = ClassPixels(*(np.sum(parts, axis=0) for parts in zip(*sums, strict=True)))
        return self._totals[counts]

    def blocks(self, counts: str) -> Iterator[ClassPixels]:
        """Yield the tables of "pixels" or of extra counts of up to `BLOCK` images, each sparse int64 (N, K).

        Raises:
            KeyError: If the images do not have these counts.
        """
        if counts in self._tables:
            yield self._tables[counts]
            return
        for some in in_blocks(self.pixels if counts == "pixels" else self.extra[counts]):
            if counts == "pixels":
                tables = stack_by_class(some, self.classes)
            else:
                tables = stack_extra(some, table_width(counts, self.classes))
            if len(some) == len(self.pixels):
                self._tables[counts] = tables
            yield tables


def in_blocks(images: Sequence[Any]) -> Iterator[Sequence[Any]]:
    """Yield the counts of up to `BLOCK` images, an empty block if there are none."""
    for start in range(0, max(len(images), 1), BLOCK):
        yield images[start : start + BLOCK]


class CountColumns(Sequence[T]):
    """Counts of many images in the memory of a few arrays of small integers.

    Args:
        images: The counts of every image, e.g. `PixelCounts`.
    """

    def __init__(self, images: Iterable[T] = ()):
        self._packed: list[tuple[np.ndarray, list[np.ndarray]]] = []
        self._new: list[T] = []
        self._type: Any = None
        for one in images:
            self.append(one)

    def append(self, counts: T) -> None:
        """Add the counts of an image."""
        self._new.append(counts)
        if len(self._new) == PACKED:
            stops = np.cumsum([0, *(len(one[0]) for one in self._new)])
            columns = zip(*self._new, strict=True)
            self._packed.append((stops, [_smallest(np.concatenate(column)) for column in columns]))
            self._type, self._new = type(counts), []

    def __len__(self) -> int:
        return len(self._packed) * PACKED + len(self._new)

    def flat(self, fields: int) -> tuple[np.ndarray, list[np.ndarray]]:
        """Return the image of every count, and the counts in one array per field, each int64 (M,)."""
        rows, columns = _flat(self._new, fields)
        lengths = [np.diff(stops) for stops, _ in self._packed]
        numbers = np.repeat(np.arange(len(self) - len(self._new)), np.concatenate([EMPTY, *lengths]))
        rows = np.concatenate([numbers, rows + len(self) - len(self._new)])
        packed = zip(*(block for _, block in self._packed), strict=True) if self._packed else [()] * fields
        return rows, [
            np.concatenate([*(part.astype(np.int64) for part in parts), rest])
            for parts, rest in zip(packed, columns, strict=True)
        ]

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            numbers = range(*index.indices(len(self)))
            if numbers.start % PACKED or numbers.step != 1 or (numbers.stop % PACKED and numbers.stop != len(self)):
                return [self[number] for number in numbers]
            found = CountColumns[T]()
            found._packed = self._packed[numbers.start // PACKED : numbers.stop // PACKED]
            found._new = self._new if numbers.stop == len(self) else []
            found._type = self._type
            return found
        block, place = divmod(range(len(self))[index], PACKED)
        if block == len(self._packed):
            return self._new[place]
        stops, columns = self._packed[block]
        return self._type(*(column[stops[place] : stops[place + 1]].astype(np.int64) for column in columns))


def _smallest(values: np.ndarray) -> np.ndarray:
    """Return integers in the smallest type that holds them."""
    if not len(values):
        return values
    dtype = np.result_type(np.min_scalar_type(values.min()), np.min_scalar_type(values.max()))
    return values.astype(dtype) if dtype.kind in "iu" else values


def stack_extra(images: Sequence[ExtraCounts], width: int) -> ClassPixels:
    """Collect extra counts, each field sparse int64 (N, K)."""
    rows, (index, hit, predicted, labelled) = _flat(images, 4)

    def table(values: np.ndarray) -> csr_array:
        return csr_array(coo_array((values, (rows, index)), shape=(len(images), width)))

    return ClassPixels(table(hit), table(predicted + labelled - hit), table(predicted), table(labelled))
