"""Label a single image with the user's classes."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ovbench.config.backbone_spec import toy_note
from ovbench.config.load import override_pairs, resolve
from ovbench.data.card import read_classes_file
from ovbench.data.classes import refuse_odd_classes
from ovbench.inference.visualize import label_png, labelled, save_png
from ovbench.utils.errors import UsageError
from ovbench.utils.provenance import choose_device


def gather_classes(names: tuple[str, ...], file: Path | None) -> tuple[tuple[str, ...], ...]:
    """Return the synonyms of each class, from a file and from single names.

    Args:
        names: Names of classes, with synonyms separated by ";".
        file: A file with one class per line, or None.

    Raises:
        UsageError: If no class is given, or a name is empty or ambiguous.
    """
    classes = list(read_classes_file(file)) if file else []
    for name in names:
        synonyms = tuple(part.strip() for part in name.split(";") if part.strip())
        if not synonyms:
            raise UsageError("an empty class name", where="--class", fix='give a word, as in -c "red ring"')
        if "," in name:
            several, one = " ".join(f"-c {shlex.quote(w.strip())}" for w in name.split(",")), name.replace(",", ";")
            raise UsageError(
                f'is "{name}" one class or several', where="--class",
                fix=f'for several give {several}, for synonyms -c "{one}"; names with commas go into --classes FILE',
            )  # fmt: skip
        classes.append(synonyms)
    if not classes:
        raise UsageError("no classes given", fix="name at least one with -c, or a list with --classes FILE")
    refuse_odd_classes(tuple(classes), "--class")
    return tuple(classes)


@dataclass(frozen=True)
class LabelledImage:
    """The labels of an image.

    Attributes:
        image: uint8 (H, W, 3), RGB.
        labels: uint16 (H, W), indices into ``names``.
        names: Class names.
        note: Warning about the networks, or empty.
    """

    image: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    note: str = ""

    def fractions(self) -> list[dict[str, object]]:
        """Return the fraction of pixels of each class."""
        count = np.bincount(self.labels.ravel(), minlength=len(self.names))
        return [{"class": n, "share": float(c / self.labels.size)} for n, c in zip(self.names, count, strict=True)]

    def save(self, folder: Path, stem: str) -> tuple[Path, Path]:
        """Write the overlay and the label map; return their paths."""
        overlay, label_map = folder / f"{stem}-overlay.png", folder / f"{stem}-labels.png"
        save_png(overlay, labelled(self.image, self.labels, self.names))
        save_png(label_map, label_png(self.labels, len(self.names)))
        return overlay, label_map


def label_image(
    image: np.ndarray, classes: tuple[tuple[str, ...], ...], *, like: str, method: str = "corrclip",
    settings: tuple[str, ...] = (), weights: tuple[str, ...] = (), device: str = "auto", path: Path | None = None,
) -> LabelledImage:  # fmt: skip
    """Label an image with any classes.

    Args:
        image: uint8 (H, W, 3), RGB.
        classes: Synonyms of each class.
        like: Dataset whose settings are used.
        method: Name of the method.
        settings: "KEY=VALUE" settings, which override those of the dataset.
        weights: "BACKBONE=NAME" choices, which override the configured ones.
        device: "auto", "cpu", "cuda", ...
        path: File of the image, for region sources that look maps up by file name.

    Returns:
        The image with its labels.
    """
    from ovbench.data.card import load_card

    overrides, backbones = override_pairs(settings, "--set"), override_pairs(weights, "--weights")
    cell = resolve(method, load_card(like).name, overrides, backbones)
    cell.refuse_evaluation_settings()
    chosen = choose_device(device)
    from ovbench.inference.pipeline import build_pipeline

    labels = build_pipeline(cell, classes).to(chosen).label(image, path)
    return LabelledImage(image, labels, tuple(c[0] for c in classes), toy_note(cell.backbones))
