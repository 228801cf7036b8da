"""Check that a method follows the rules of the engine."""

from __future__ import annotations

import dataclasses
import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ovbench.config.load import resolve
from ovbench.data.card import load_card
from ovbench.data.dataset import open_dataset
from ovbench.data.remote_path import RemotePath
from ovbench.evaluation.plan import require_weights
from ovbench.inference.pipeline import Pipeline, build_pipeline
from ovbench.methods.base import Batch
from ovbench.methods.method_errors import blame
from ovbench.utils.errors import OvbenchError, UsageError

ODD_SIZES = ((97, 61), (40, 200))
MIXED = 8  # windows in a batch of two images
NOT_APPLICABLE = "not applicable"
NEIGHBOUR_TOLERANCE = 1e-4  # of scores: other windows in the batch may only change the order of a sum


class CheckResult(NamedTuple):
    """The result of a check: "pass", "fail" or "not applicable"."""

    check: str
    verdict: str
    detail: str


class CheckInputs(NamedTuple):
    """A pipeline and two images, uint8 (H, W, 3), of the benchmark at ``root``."""

    pipeline: Pipeline
    images: list[np.ndarray]
    paths: list[Path]
    classes: int
    root: Path

    def label(self, number: int) -> np.ndarray:
        """Return the labels of an image, uint16 (H, W)."""
        return self.pipeline.label(self.images[number], self.paths[number])


def check_method(
    method: str, dataset: str = "mini", *, settings: Mapping[str, str] | None = None,
    weights: Mapping[str, str] | None = None, data_root: Path | None = None, device: str = "cpu",
) -> list[CheckResult]:  # fmt: skip
    """Run all checks on the first two images of a benchmark.

    Args:
        method: Name of a method, or ``FILE.py:Class``.
        dataset: Name or card of the benchmark.
        settings: Settings by name, as texts.
        weights: Backbones by name.
        data_root: Folder of the benchmarks.
        device: Device of the networks.

    Raises:
        OvbenchError: If the method cannot be built.
    """
    card = load_card(dataset)
    cell = resolve(method, card.name, settings, weights)
    cell.refuse_evaluation_settings()
    data = open_dataset(card, data_root)
    if isinstance(data.root, RemotePath):
        raise UsageError("a method is checked with files of this machine", where=str(data.root), fix="use -d mini")
    require_weights([cell])
    pipeline = build_pipeline(cell, device=device)
    paths = [data.items[n].image_path for n in (0, 1)]
    root = Path(os.path.commonpath([paths[0], data.items[0].label_path]))
    inputs = CheckInputs(pipeline, [data.read_image(n) for n in (0, 1)], paths, len(card.classes), root)
    checks: tuple[tuple[str, Callable[[CheckInputs], tuple[str, str]]], ...] = (
        ("labels", _labels), ("odd sizes", _odd_sizes), ("equal in a second run", _deterministic),
        ("independent of earlier images", _stateless), ("independent of batch neighbours", _neighbours),
        ("equal in mixed batches", _mixed_batches),
        ("opens no file of the benchmark", _no_files),
    )  # fmt: skip
    return [CheckResult(name, *_run(check, inputs)) for name, check in checks]


def _run(check: Callable[[CheckInputs], tuple[str, str]], inputs: CheckInputs) -> tuple[str, str]:
    try:
        return check(inputs)
    except OvbenchError as error:
        return "fail", str(error)
    except Exception as error:  # an error of the tested method is the result of the check
        return "fail", str(blame(error, inputs.pipeline.method))


def _verdict(holds: bool, good: str, bad: str) -> tuple[str, str]:
    return ("pass", good) if holds else ("fail", bad)


def _labels(inputs: CheckInputs) -> tuple[str, str]:
    """Check that every pixel has a label of the vocabulary."""
    labels, size = inputs.label(0), inputs.images[0].shape[:2]
    if labels.shape != size:
        return "fail", f"labels of shape {labels.shape} for an image of {size}"
    return _verdict(
        int(labels.max()) < inputs.classes, f"{labels.shape}, {len(np.unique(labels))} classes used",
        f"label {labels.max()} of {inputs.classes} classes",
    )  # fmt: skip


def _odd_sizes(inputs: CheckInputs) -> tuple[str, str]:
    for size in ODD_SIZES:
        crop = np.ascontiguousarray(np.resize(inputs.images[0], (*size, 3)))
        labels = inputs.pipeline.label(crop, inputs.paths[0])
        if labels.shape != size:
            return "fail", f"labels of shape {labels.shape} for an image of {size}"
    return "pass", " and ".join(f"{h} x {w}" for h, w in ODD_SIZES)


def _deterministic(inputs: CheckInputs) -> tuple[str, str]:
    differ = int((inputs.label(0) != inputs.label(0)).sum())
    return _verdict(differ == 0, "every pixel", f"{differ} pixels differ between two runs; use a seeded generator")


def _stateless(inputs: CheckInputs) -> tuple[str, str]:
    before = inputs.label(0)
    inputs.label(1)
    differ = int((before != inputs.label(0)).sum())
    return _verdict(differ == 0, "every pixel", f"{differ} pixels change after another image; do not keep state")


def _neighbours(inputs: CheckInputs) -> tuple[str, str]:
    """Check that the scores of a window do not depend on the other windows of the batch."""
    method = inputs.pipeline.method
    if "encode" not in dir(method) or not hasattr(inputs.pipeline.predictor, "vocabularies"):
        return NOT_APPLICABLE, "a segmentor of mmsegmentation gets one image at a time"
    if method.needs.join:
        return NOT_APPLICABLE, "the windows of an image are joined"
    batches: list[Batch] = []
    encode = method.encode

    def watched(batch: Batch) -> Any:
        batches.append(batch)
        return encode(batch)

    method.encode = watched
    try:
        inputs.label(0)
    finally:
        del method.encode
    batch = next((b for b in batches if len(b.windows) > 1), None)
    if batch is None:
        return NOT_APPLICABLE, "one window per image"
    queries = inputs.pipeline.predictor.vocabularies[0]
    with torch.inference_mode():
        alone = method.score(method.encode(batch), queries)[0]
        beside = method.score(method.encode(_others(batch)), queries)[0]
    gap = float((alone - beside).abs().max())
    return _verdict(
        gap <= NEIGHBOUR_TOLERANCE * max(float(alone.abs().max()), 1.0), f"scores differ by at most {gap:.1e}",
        f"scores of a window change by {gap:.1e} with the other windows; do not compute over the batch axis",
    )  # fmt: skip


def _others(batch: Batch) -> Batch:
    """Return the batch with all windows but the first upside down."""

    def flipped(values: torch.Tensor) -> torch.Tensor:
        return torch.cat([values[:1], values[1:].flip(-2)])

    regions = None if batch.regions is None else flipped(batch.regions)
    return dataclasses.replace(batch, windows=flipped(batch.windows), regions=regions)


def _mixed_batches(inputs: CheckInputs) -> tuple[str, str]:
    """Check that the labels of an image do not depend on another image in its batches, before or after it."""
    if not inputs.pipeline.method.windowwise:
        return NOT_APPLICABLE, "a batch never has windows of several images (windowwise)"
    if not inputs.pipeline.cell.protocol.crop:
        return NOT_APPLICABLE, "without windows, a batch has one image"
    differ = int((_label_mixed(inputs, (0, 1)) != _label_mixed(inputs, (1, 0))).sum())
    return _verdict(
        differ == 0, f"every pixel, {MIXED} windows per batch",
        f"{differ} pixels change with the other image; do not compute over the batch axis",
    )  # fmt: skip


def _label_mixed(inputs: CheckInputs, order: tuple[int, ...]) -> np.ndarray:
    """Return the labels of the first image after labelling both images in this order."""
    batches = inputs.pipeline.predictor.batcher(MIXED)
    results: list[Any] = []
    for number in order:
        regions = inputs.pipeline.regions(inputs.images[number], inputs.paths[number])
        results += batches.add(number, inputs.images[number], regions)
    labels = {result.number: result.labels for result in (*results, *batches.flush())}[0]
    if isinstance(labels, OvbenchError):
        raise labels
    return labels[0]


def _no_files(inputs: CheckInputs) -> tuple[str, str]:
    """Check that labelling opens no file of the benchmark; region maps are read before."""
    regions = inputs.pipeline.regions(inputs.images[0], inputs.paths[0])
    with _opened_under(inputs.root) as opened:
        inputs.pipeline.predictor.label(inputs.images[0], regions)
    return _verdict(not opened, "none opened", f"opened {', '.join(sorted(opened))}")


@contextmanager
def _opened_under(root: Path) -> Iterator[set[str]]:
    """Collect the files below a folder that Python opens; the audit hook is switched off, as it cannot be removed."""
    opened: set[str] = set()
    active = True
    folder = str(root.resolve())

    def note(event: str, arguments: tuple[Any, ...]) -> None:
        if active and event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(folder):
            opened.add(arguments[0])

    sys.addaudithook(note)
    try:
        yield opened
    finally:
        active = False
