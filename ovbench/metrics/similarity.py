"""Scores that accept similar classes: Open mIoU and SG-IoU, with a similarity that the user states."""

from __future__ import annotations

import csv
import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field
from scipy.sparse import coo_array, csr_array

from ovbench.metrics.confusion import PixelCounts
from ovbench.metrics.stacked import ImageCounts, flat_counts, stack_by_class
from ovbench.utils.errors import InputError, unknown
from ovbench.utils.paths import shipped
from ovbench.utils.toml import read_toml
from ovbench.utils.typed import Items, Typed, validate

TABLES = ("configs", "similarity")


class Similarity(NamedTuple):
    """How similar classes are.

    Attributes:
        name: Name or file.
        sha256: Hash of the content, which is stated with every score.
        matrix: float64 (C, C) in [0, 1], labels in rows, predictions in columns; the diagonal is 1.
    """

    name: str
    sha256: str
    matrix: np.ndarray

    @property
    def stated(self) -> str:
        """Return how a score states its similarity."""
        return f"similarity {self.name}, sha256 {self.sha256[:12]}"


class AcceptedClasses(Typed):
    """A file of classes that count as right for others."""

    title: str
    source: str
    accepts: dict[str, Annotated[Items[str], Field(min_length=1)]]


def similarity_names() -> list[str]:
    """Return the names of the shipped similarities."""
    return sorted(path.stem for path in shipped(*TABLES).glob("*.toml"))


def read_similarity(name: str, classes: Sequence[str]) -> Similarity:
    """Read the similarity of the classes of a dataset.

    Args:
        name: Name of a shipped file, or a file: ".toml" with a table ``accepts`` from each class to the classes that
            are right for it, or ".csv" with the class names in the first row and the first column.
        classes: Class names in label order.

    Raises:
        InputError: If the file is malformed or has other classes.
        UsageError: If the name is unknown.
    """
    path = Path(name) if name.endswith((".toml", ".csv")) else shipped(*TABLES, f"{name}.toml")
    if not path.is_file() and not name.endswith((".toml", ".csv")):
        raise unknown("similarity", name, similarity_names(), where="--similarity")
    matrix = _from_csv(path, classes) if path.suffix == ".csv" else _from_toml(path, classes)
    return Similarity(name, hashlib.sha256(matrix.tobytes()).hexdigest(), matrix)


def _from_toml(path: Path, classes: Sequence[str]) -> np.ndarray:
    file, place = validate(AcceptedClasses, read_toml(path), str(path)), {name: n for n, name in enumerate(classes)}
    matrix = np.eye(len(classes))
    for name, accepted in file.accepts.items():
        for other in (name, *accepted):
            if other not in place:
                raise unknown("class", other, classes, where=str(path))
        matrix[place[name], [place[other] for other in accepted]] = 1.0
    return matrix


def _from_csv(path: Path, classes: Sequence[str]) -> np.ndarray:
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            head, *rows = list(csv.reader(file)) or [[]]
        names, values = head[1:], np.array([[float(text) for text in row[1:]] for row in rows])
    except OSError as error:
        raise InputError(f"cannot read the similarity: {error.strerror}", where=str(path)) from error
    except (ValueError, csv.Error) as error:
        raise InputError(f"not a table of numbers: {error}", where=str(path)) from error
    if [row[:1] for row in rows] != [[name] for name in names] or sorted(names) != sorted(classes):
        raise InputError(
            f"its {len(names)} columns and {len(rows)} rows are not the {len(classes)} classes of the dataset",
            where=str(path), fix="write the class names in the first row and, in the same order, in the first column",
        )  # fmt: skip
    if values.shape != (len(names), len(names)):
        raise InputError(f"not a table of {len(names)} numbers in each row", where=str(path))
    if not ((values >= 0) & (values <= 1)).all() or not (values.diagonal() == 1).all():
        raise InputError("a similarity is not between 0 and 1, or not 1 for a class and itself", where=str(path))
    order = [names.index(name) for name in classes]
    return values[np.ix_(order, order)]


def open_tables(images: Sequence[PixelCounts], similarity: np.ndarray) -> ImageCounts:
    """Return the soft intersection and union of Open mIoU by image and class.

    With n_ij pixels of class i predicted as j and the similarity S:

        TP_i = sum_j S_ij n_ij    FN_i = sum_j (1 - S_ij) n_ij    FP_i = sum_j (1 - S_ji) n_ji

    Args:
        images: The counts of N images.
        similarity: float64 (C, C).

    Returns:
        TP and TP + FP + FN, each sparse float64 (N, C).
    """
    rows, label, predicted, pixels = flat_counts(images)
    classes = len(similarity)
    inside = (label < classes) & (predicted < classes)
    credit = np.zeros(len(pixels))
    credit[inside] = similarity[label[inside], predicted[inside]]

    def table(kept: np.ndarray, columns: np.ndarray, values: np.ndarray) -> csr_array:
        return csr_array(coo_array((values[kept], (rows[kept], columns[kept])), shape=(len(images), classes)))

    labelled = table(label < classes, label, pixels.astype(np.float64))
    wrong = table(predicted < classes, predicted, (1 - credit) * pixels)
    return ImageCounts(table(inside, label, credit * pixels), csr_array(labelled + wrong))


def sg_pairs(similarity: Similarity) -> np.ndarray:
    """Return the pairs of class and parent of SG-IoU, int64 (M, 2).

    Raises:
        InputError: If the similarity has other values than 0 and 1.
    """
    matrix = similarity.matrix
    if not np.isin(matrix, (0, 1)).all():
        raise InputError("SG_IoU needs a similarity of 0 and 1", where=similarity.name, fix="choose Open_mIoU")
    return np.argwhere(matrix - np.eye(len(matrix)) > 0)


def sg_columns(
    images: Sequence[PixelCounts], similarity: Similarity, pairs: np.ndarray
) -> tuple[csr_array, csr_array, csr_array, csr_array]:
    """Return the columns of SG-IoU by image.

    Args:
        images: The counts of N images.
        similarity: The similarity of C classes.
        pairs: From `sg_pairs`, int64 (M, 2).

    Returns:
        Intersection, predicted and labelled, sparse (N, C); pixels of each pair, sparse (N, M).
    """
    classes = len(similarity.matrix)
    inside = [
        PixelCounts(*(np.asarray(part)[np.asarray(one.label) < classes] for part in one)) for one in images
    ]  # as the evaluator of SCAN, which has no label outside the classes
    found = stack_by_class(inside, classes)
    rows, label, predicted, pixels = flat_counts(inside)
    number = np.full((classes + 1, classes + 1), -1)
    number[pairs[:, 0], pairs[:, 1]] = np.arange(len(pairs))
    which = number[label, predicted]
    kept = which >= 0
    shape = (len(images), max(len(pairs), 1))
    confused = csr_array(coo_array((pixels[kept], (rows[kept], which[kept])), shape=shape))
    return found.intersection, found.predicted, found.labelled, confused


def sg_iou(sums: Sequence[np.ndarray], whole: Sequence[np.ndarray], pairs: np.ndarray) -> np.ndarray:
    """Return SG-IoU, as the evaluator of SCAN computes it.

    With n_cf pixels of class c predicted as its parent f, the pixels count for c as far as predictions of f are right:

        IoU_c = (I_c + sum_f beta_cf n_cf) / (P_c + L_c - I_c)    beta_cf = (n_cf + I_f) / P_f

    The sum over labelled classes is divided by the number of labelled or predicted classes.

    Args:
        sums: I, P and L, (..., C), and n of each pair, (..., M).
        whole: The same over all images, which choose the classes.
        pairs: int64 (M, 2), class and parent.
    """
    iou = _sg_classes(sums, pairs)
    iou = np.where(np.isnan(iou), _sg_classes(whole, pairs), iou)  # a class only of the image left out keeps its IoU
    scored = whole[2] > 0
    count = int(((whole[1] > 0) | scored).sum())
    return iou[..., scored].sum(-1) / count if count else np.full(iou.shape[:-1], np.nan)


def _sg_classes(sums: Sequence[np.ndarray], pairs: np.ndarray) -> np.ndarray:
    """Return SG-IoU by class, (..., C); NaN for a class without pixels."""
    hit, predicted, labelled, confused = (np.asarray(part, np.float64) for part in sums)
    right = hit.copy()
    for number, (child, parent) in enumerate(pairs):
        mixed, total = confused[..., number], predicted[..., parent]
        beta = np.divide(mixed + hit[..., parent], total, out=np.ones_like(total), where=total > 0)
        right[..., child] += beta * mixed
    union = predicted + labelled - hit
    return np.divide(right, union, out=np.full_like(right, np.nan), where=union > 0)
