"""Compare the time of a method with the time of its unavoidable forward passes."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple
from unittest import mock

import cv2
import numpy as np
import torch
from timing import spread
from torch import Tensor

import ovbench.inference.pipeline
from ovbench.config.load import resolve
from ovbench.data.card import load_card, vocabulary
from ovbench.data.dataset import open_dataset
from ovbench.inference.pipeline import Pipeline, build_pipeline
from ovbench.metrics.confusion import count_pixels

GOALS = {
    "clip": 1.15, "maskclip": 1.15, "clearclip": 1.15, "sclip": 1.15, "naclip": 1.15, "gem": None, "proxyclip": None,
    "scclip": 1.15, "sfp": 1.15, "dihclip": 1.15,
    "talk2dino": 1.1, "corrclip": 1.2, "cass": 1.25, "freecp": 1.3, "reme": 1.3, "rfclip": 1.15, "pearl": 1.15,
    "corrclipv2": 1.2, "glaclip": None, "lposs": None, "ovstitcher": None,  # the last three have work of their own
}  # fmt: skip
WHY = {  # a goal is missed
    "rfclip": "every block has a second attention, of its keys, and the last block decodes two token maps",
    "freecp": "its base GEM runs six more attentions in each of the upper blocks; the rest is what FreeCP adds to GEM",
}
# region maps that need no download; their time is not counted
REGIONS = {
    "corrclip": {"regions": "slic"},
    "ovstitcher": {"regions": "slic", "descriptions": ""},
    "corrclipv2": {"regions": "slic"},
}
TOWERS = ("clip", "presence", "dino", "dinov2", "vfm")
VOC_SIZE = (375, 500)


class Task(NamedTuple):
    """Images, uint8 (h, w, 3), with region maps and labels, and the method that labels them."""

    pipeline: Pipeline
    images: list[np.ndarray]
    regions: list[np.ndarray | None]
    labels: list[np.ndarray]
    classes: int

    def run(self) -> None:
        self.pipeline.predictor.seconds = {}
        for image, regions, label in zip(self.images, self.regions, self.labels, strict=True):
            count_pixels(self.pipeline.predictor.label(image, regions)[0], label, self.classes)


def alternate(functions: dict[str, Callable[[], object]], repeats: int) -> dict[str, dict[str, float]]:
    """Return the smallest wall and processor seconds of functions that alternate, and the spread of the second."""
    spent: dict[str, list[tuple[float, float]]] = {name: [] for name in functions}
    for _ in range(repeats):
        for name, function in functions.items():
            wall, cpu = time.perf_counter(), time.process_time()
            function()
            spent[name].append((time.perf_counter() - wall, time.process_time() - cpu))
    found = {}
    for name, times in spent.items():
        wall_s, cpu_s = zip(*times, strict=True)
        found[name] = {"wall_s": round(min(wall_s), 4), "cpu_s": round(min(cpu_s), 4), "cpu_spread": spread(cpu_s)}
    return found


def on_mini(name: str, images: int) -> Task:
    """Return the towers of mini with images of mini, without PAMR."""
    dataset = open_dataset(load_card("mini"))
    samples = [dataset.read(number) for number in range(images)]
    pipeline = build_pipeline(resolve(name, "mini", {"refine": ""}), [(c,) for c in dataset.card.classes])
    return _task(pipeline, [s.image for s in samples], [s.label for s in samples], len(dataset.card.classes))


def of_real_size(
    name: str, benchmark: str = "voc20", size: tuple[int, int] = VOC_SIZE, settings: Mapping[str, str] | None = None
) -> Task:
    """Return towers of the published sizes with random weights, settings of a benchmark, and an image of its size."""
    import real_towers

    given = {"reference": "random"} if name == "reme" else {}
    if name == "reme":
        given["dinov2"] = "vit_base_patch14_dinov2.lvd142m"
    if name == "talk2dino":
        given["dinov2"] = "vit_base_patch14_reg4_dinov2.lvd142m"
    cell = resolve(name, benchmark, {"refine": "", **REGIONS.get(name, {}), **(settings or {})}, given)
    card = load_card(benchmark)
    with mock.patch.object(ovbench.inference.pipeline, "load_backbone", real_towers.load), _own_cache():
        pipeline = build_pipeline(cell, vocabulary(card, cell.protocol.vocabulary or None), card.background)
    image = cv2.resize(open_dataset(load_card("mini")).read(0).image, size[::-1])
    label = np.random.default_rng(0).integers(0, len(card.classes), size).astype(np.uint16)
    return _task(pipeline, [image], [label], len(card.classes))


def _task(pipeline: Pipeline, images: list, labels: list, classes: int) -> Task:
    """Return a task with region maps, as if they came from the cache."""
    return Task(pipeline, images, [pipeline.regions(image) for image in images], labels, classes)


@contextmanager
def _own_cache() -> Iterator[None]:
    """Use an empty cache."""
    with tempfile.TemporaryDirectory() as folder, mock.patch.dict("os.environ", {"OVBENCH_CACHE": folder}):
        yield


def measure(name: str, task: Task, repeats: int) -> dict[str, Any]:
    """Return one row: labelling and counting, against all blocks of the towers on the same batches."""
    calls = forwards_of(task)
    best = alternate({"whole": task.run, "forwards": lambda: replay(task.pipeline, calls)}, repeats)
    stages = {stage: round(spent, 3) for stage, spent in task.pipeline.predictor.seconds.items()}
    row: dict[str, Any] = {
        "method": name,
        "image": list(task.images[0].shape[:2]),
        "images": len(task.images),
        "forwards_on": [[kind, list(images.shape)] for kind, images in calls],
        **best,
        "ratio": {key: round(best["whole"][key] / best["forwards"][key], 3) for key in ("wall_s", "cpu_s")},
    }
    base = getattr(task.pipeline.method, "base", None)
    if base is not None:  # a post-processing: what its base does is not its own
        of_base = alternate({"base": lambda: replay(task.pipeline, calls, base.dense)}, repeats)["base"]
        row |= {"base": of_base, "ratio_to_base": round(best["whole"]["cpu_s"] / of_base["cpu_s"], 3)}
    goal = GOALS.get(name)
    reached = None if goal is None else row["ratio"]["cpu_s"] <= goal
    return row | {"goal": goal, "reached": reached, "seconds_of_stages": stages}


def forwards_of(task: Task) -> list[tuple[str, Tensor]]:
    """Return the inputs of each tower in a task: windows, images, or crops of regions."""
    calls: list[tuple[str, Tensor]] = []
    with ExitStack() as stack:
        for kind in TOWERS:
            if kind in task.pipeline.loaded:
                vision = task.pipeline.loaded[kind].vision
                entry = "embed" if hasattr(vision, "embed") else "forward"
                stack.enter_context(mock.patch.object(vision, entry, _heard(kind, getattr(vision, entry), calls)))
        task.run()
    return calls


def _heard(kind: str, go: Callable, calls: list[tuple[str, Tensor]]) -> Callable:
    def enter(images: Tensor, **more: Any) -> Any:
        calls.append((kind, images))
        return go(images, **more)

    return enter


@torch.inference_mode()
def replay(pipeline: Pipeline, calls: list[tuple[str, Tensor]], dense: Callable[[Tensor], Any] | None = None) -> None:
    """Run only the forward passes; the first call, of windows, goes through ``dense`` if it is given."""
    for kind, images in calls:
        if dense is not None and images.shape[-2:] == calls[0][1].shape[-2:]:
            dense(images)
        else:
            forward(pipeline.loaded[kind].vision, images)


def forward(vision: Any, images: Tensor) -> None:
    """Run all blocks of a tower once."""
    if hasattr(vision, "trunk"):
        vision.project(vision.trunk(vision.embed(images)[0], until=None))
    elif hasattr(vision, "last_tokens"):
        vision.last_tokens(images)
    else:
        vision(images)
