"""The conformance kit: does a method keep what the engine counts on?"""

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
from ovbench.evaluation.plan import require_weights
from ovbench.inference.batching import WindowBatcher
from ovbench.inference.pipeline import Pipeline, build_pipeline
from ovbench.methods.base import Batch
from ovbench.methods.blame import blame
from ovbench.utils.errors import OvbenchError

ODD_SIZES = ((97, 61), (40, 200))
SHARED = 8  # windows in a shared batch
NEIGHBOUR_TOLERANCE = 1e-4  # of scores; another neighbour may change the order of a sum, no more


class Result(NamedTuple):
    """``outcome``: "pass", "fail", or "none" where the question does not arise."""

    check: str
    outcome: str
    detail: str


class Bench(NamedTuple):
    """What the checks share: a pipeline and two images u8[h, w, 3] of the benchmark ``root``."""

    pipeline: Pipeline
    images: list[np.ndarray]
    paths: list[Path]
    classes: int
    root: Path

    def label(self, number: int) -> np.ndarray:
        return self.pipeline.label(self.images[number], self.paths[number])


def check_method(
    method: str, dataset: str = "mini", *, settings: Mapping[str, str] | None = None,
    weights: Mapping[str, str] | None = None, data_root: Path | None = None, device: str = "cpu",
) -> list[Result]:  # fmt: skip
    """Every check in turn, on the first two images of a benchmark. Raises what the method cannot even be built for."""
    card = load_card(dataset)
    cell = resolve(method, card.name, settings, weights)
    data = open_dataset(card, data_root)
    require_weights([cell])
    pipeline = build_pipeline(cell).to(device)
    paths = [data.items[n].image_path for n in (0, 1)]
    root = Path(os.path.commonpath([paths[0], data.items[0].label_path]))
    bench = Bench(pipeline, [data.read_image(n) for n in (0, 1)], paths, len(card.classes), root)
    checks: tuple[tuple[str, Callable[[Bench], tuple[str, str]]], ...] = (
        ("labels", _labels), ("odd sizes", _odd_sizes), ("the same again", _deterministic),
        ("independent of images before", _stateless), ("independent of batch neighbours", _neighbours),
        ("the same in shared batches", _shared),
        ("opens no file of the benchmark", _no_files),
    )  # fmt: skip
    return [Result(name, *_outcome(check, bench)) for name, check in checks]


def _outcome(check: Callable[[Bench], tuple[str, str]], bench: Bench) -> tuple[str, str]:
    try:
        return check(bench)
    except OvbenchError as error:
        return "fail", str(error)
    except Exception as error:  # whatever a method under test raises is its result
        return "fail", str(blame(error, bench.pipeline.method))


def _verdict(holds: bool, good: str, bad: str) -> tuple[str, str]:
    return ("pass", good) if holds else ("fail", bad)


def _labels(bench: Bench) -> tuple[str, str]:
    """One label of the vocabulary for every pixel, at the image's own size."""
    labels, size = bench.label(0), bench.images[0].shape[:2]
    if labels.shape != size:
        return "fail", f"labels of shape {labels.shape} for an image of {size}"
    return _verdict(
        int(labels.max()) < bench.classes, f"{labels.shape}, {len(np.unique(labels))} classes used",
        f"label {labels.max()} of {bench.classes} classes",
    )  # fmt: skip


def _odd_sizes(bench: Bench) -> tuple[str, str]:
    for size in ODD_SIZES:
        crop = np.ascontiguousarray(np.resize(bench.images[0], (*size, 3)))
        labels = bench.pipeline.label(crop, bench.paths[0])
        if labels.shape != size:
            return "fail", f"labels of shape {labels.shape} for an image of {size}"
    return "pass", " and ".join(f"{h} x {w}" for h, w in ODD_SIZES)


def _deterministic(bench: Bench) -> tuple[str, str]:
    differ = int((bench.label(0) != bench.label(0)).sum())
    return _verdict(differ == 0, "every pixel", f"{differ} pixels differ between two runs; take a seeded generator")


def _stateless(bench: Bench) -> tuple[str, str]:
    before = bench.label(0)
    bench.label(1)
    differ = int((before != bench.label(0)).sum())
    return _verdict(differ == 0, "every pixel", f"{differ} pixels change after another image; keep no state")


def _neighbours(bench: Bench) -> tuple[str, str]:
    """The scores of a window with other windows beside it in the batch."""
    method = bench.pipeline.method
    if "encode" not in dir(method) or not hasattr(bench.pipeline.predictor, "vocabularies"):
        return "none", "a class of mmsegmentation gets one image at a time"
    batches: list[Batch] = []
    encode = method.encode
    method.encode = lambda batch: batches.append(batch) or encode(batch)
    try:
        bench.label(0)
    finally:
        del method.encode
    batch = next((b for b in batches if len(b.windows) > 1), None)
    if batch is None:
        return "none", "one window an image"
    queries = bench.pipeline.predictor.vocabularies[0]
    with torch.inference_mode():
        alone = method.score(method.encode(batch), queries)[0]
        beside = method.score(method.encode(_others(batch)), queries)[0]
    gap = float((alone - beside).abs().max())
    return _verdict(
        gap <= NEIGHBOUR_TOLERANCE * max(float(alone.abs().max()), 1.0), f"scores differ by at most {gap:.1e}",
        f"scores of a window change by {gap:.1e} with its neighbours; compute nothing over the batch axis",
    )  # fmt: skip


def _others(batch: Batch) -> Batch:
    """The first window with all others upside down."""

    def turned(values: torch.Tensor | None) -> torch.Tensor | None:
        return None if values is None else torch.cat([values[:1], values[1:].flip(-2)])

    return dataclasses.replace(batch, windows=turned(batch.windows), regions=turned(batch.regions))


def _shared(bench: Bench) -> tuple[str, str]:
    """The labels of an image in batches that it shares with another one, at either end of them."""
    if not bench.pipeline.method.windowwise:
        return "none", "its windows share no batch with those of other images (windowwise)"
    if not bench.pipeline.cell.protocol.crop:
        return "none", "whole images share no batch"
    differ = int((_in_company(bench, (0, 1)) != _in_company(bench, (1, 0))).sum())
    return _verdict(
        differ == 0, f"every pixel, {SHARED} windows a batch",
        f"{differ} pixels change with the images in the batch; compute nothing over the batch axis",
    )  # fmt: skip


def _in_company(bench: Bench, order: tuple[int, ...]) -> np.ndarray:
    """The labels of the first image, labelled in this order with the other."""
    shared = WindowBatcher(bench.pipeline.predictor, SHARED)
    outcomes = []
    for number in order:
        regions = bench.pipeline.regions(bench.images[number], bench.paths[number])
        outcomes += shared.add(number, bench.images[number], regions)
    labels = {outcome.number: outcome.labels for outcome in (*outcomes, *shared.flush())}[0]
    if isinstance(labels, OvbenchError):
        raise labels
    return labels[0]


def _no_files(bench: Bench) -> tuple[str, str]:
    """Neither labels nor anything else of the benchmark is read while an image is labelled; its regions come before."""
    regions = bench.pipeline.regions(bench.images[0], bench.paths[0])
    with _opened_under(bench.root) as opened:
        bench.pipeline.predictor.label(bench.images[0], regions)
    return _verdict(not opened, "none opened", f"opened {', '.join(sorted(opened))}")


@contextmanager
def _opened_under(root: Path) -> Iterator[set[str]]:
    """Files below a folder that Python opens meanwhile. The hook that hears of them stays, but no longer listens."""
    opened: set[str] = set()
    listening = True
    folder = str(root.resolve())

    def hear(event: str, arguments: tuple[Any, ...]) -> None:
        if listening and event == "open" and isinstance(arguments[0], str) and arguments[0].startswith(folder):
            opened.add(arguments[0])

    sys.addaudithook(hear)
    try:
        yield opened
    finally:
        listening = False
