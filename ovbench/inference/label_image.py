"""Labelling a single image with words of the user's choice."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from rich.table import Table

from ovbench.config.backbone_spec import toy_note
from ovbench.config.load import override_pairs, resolve
from ovbench.data.card import read_classes_file
from ovbench.data.classes import refuse_odd_classes
from ovbench.inference.visualize import label_png, labelled, save_png
from ovbench.results.console import percent, plain
from ovbench.utils.errors import UsageError
from ovbench.utils.provenance import choose_device


def gather_classes(names: tuple[str, ...], file: Path | None) -> tuple[tuple[str, ...], ...]:
    """One tuple of synonyms per class, from a file and from single names; UsageError if there is none."""
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
class WordLabels:
    """``labels`` u16[h, w] of an image u8[h, w, 3]; a value is the place of its class in ``names``. ``note`` is a
    warning about the networks, empty for none."""

    image: np.ndarray
    labels: np.ndarray
    names: tuple[str, ...]
    note: str = ""

    def shares(self) -> list[dict[str, object]]:
        """Fraction of the pixels of every class."""
        count = np.bincount(self.labels.ravel(), minlength=len(self.names))
        return [{"class": n, "share": float(c / self.labels.size)} for n, c in zip(self.names, count, strict=True)]

    def save(self, folder: Path, stem: str) -> tuple[Path, Path]:
        """Write the overlay and the label map; their paths."""
        overlay, label_map = folder / f"{stem}-overlay.png", folder / f"{stem}-labels.png"
        save_png(overlay, labelled(self.image, self.labels, self.names))
        save_png(label_map, label_png(self.labels, len(self.names)))
        return overlay, label_map


def label_words(
    image: np.ndarray, classes: tuple[tuple[str, ...], ...], *, like: str, method: str = "corrclip",
    settings: tuple[str, ...] = (), weights: tuple[str, ...] = (), device: str = "auto", path: Path | None = None,
) -> WordLabels:  # fmt: skip
    """Label an RGB image u8[h, w, 3] with any classes, by a method with its settings for the benchmark ``like``; its
    file's ``path`` matters only to regions that are looked up by name."""
    from ovbench.data.card import load_card

    overrides, backbones = override_pairs(settings, "--set"), override_pairs(weights, "--weights")
    cell = resolve(method, load_card(like).name, overrides, backbones)
    chosen = choose_device(device)
    from ovbench.inference.pipeline import build_pipeline

    labels = build_pipeline(cell, classes).to(chosen).label(image, path)
    return WordLabels(image, labels, tuple(c[0] for c in classes), toy_note(cell.backbones))


def share_table(result: WordLabels) -> Table:
    table = Table()
    table.add_column("class")
    table.add_column("pixels %", justify="right")
    for row in result.shares():
        table.add_row(plain(row["class"]), percent(float(row["share"])))
    return table
