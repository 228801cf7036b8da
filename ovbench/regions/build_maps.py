"""The region maps of a whole benchmark, made once, on several processes or GPUs, into the cache."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.queues import Queue
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.data.dataset import Dataset
from ovbench.data.decode import read_picture
from ovbench.regions.map_store import RegionStore
from ovbench.regions.provider import Regions, open_source
from ovbench.utils.errors import InputError, UsageError

Advance = Callable[[], None]


@dataclass
class Built:
    """What a run did: maps made, maps that were there, and images that failed with the reason."""

    folder: Path
    made: int = 0
    found: int = 0
    failed: dict[str, str] = field(default_factory=dict)


class Task(NamedTuple):
    """An image; read as `Dataset.read_picture` does where it has a label."""

    id: str
    path: Path
    label: Path | None = None
    white: int | None = None


class Done(NamedTuple):
    id: str
    found: bool
    error: str = ""


def region_settings(source: str, overrides: Mapping[str, str]) -> dict[str, Any]:
    """The regions table of a source with ``key=value`` texts laid over its defaults (``points`` or
    ``regions.points``)."""
    from ovbench.config.load import regions_table

    return regions_table(source, {key.removeprefix("regions."): text for key, text in overrides.items()})


def tasks_of(dataset: Dataset, limit: int | None = None) -> list[Task]:
    """Return the first ``limit`` images of a dataset."""
    return [Task(*item, dataset.card.white) for item in dataset.items[:limit]]


def build_maps(
    tasks: Sequence[Task],
    settings: Mapping[str, Any],
    *,
    devices: Sequence[str] = ("cpu",),
    workers: int = 1,
    advance: Advance = lambda: None,
) -> Built:
    """Make the maps that are not stored, or whose entry is damaged.

    Worker number n uses device n modulo their number. Interrupted at any moment, what was stored stays and a second
    call makes the rest. An image that fails is noted and the others go on; a cache that cannot be written ends it.
    """
    name, source = open_source(settings)
    if not source.cached:
        raise UsageError(f'the maps of "{name}" are files already; nothing is built', fix="choose another source")
    source.fetch()
    built = Built(RegionStore(name, source).folder)
    for done in _each(tasks, settings, devices, workers):
        if done.error:
            built.failed[done.id] = done.error
        built.found += done.found
        built.made += not done.found and not done.error
        advance()
    return built


def _each(tasks: list[Task], settings: Mapping[str, Any], devices: Sequence[str], workers: int):
    if workers <= 1:
        regions = _open(settings, devices[0])
        yield from (_make(regions, task) for task in tasks)
        return
    context = multiprocessing.get_context("spawn")
    free: Queue[str] = context.Queue()
    for number in range(workers):
        free.put(devices[number % len(devices)])
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(dict(settings), free)) as pool:
        try:
            yield from pool.map(_make_here, tasks, chunksize=max(1, min(8, len(tasks) // (4 * workers))))
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _open(settings: Mapping[str, Any], device: str) -> Regions:
    name, source = open_source(settings)
    return Regions(name, source, device, RegionStore(name, source), must_store=True)


def _make(regions: Regions, task: Task) -> Done:
    try:
        image = read_picture(task.path, task.label, task.white).pixels
    except InputError as error:
        return Done(task.id, False, str(error))
    before = regions.found
    regions(image, task.path.stem)
    return Done(task.id, regions.found > before)


class _Worker:
    """What a worker process keeps between its tasks."""

    regions: Regions | None = None


def _begin(settings: Mapping[str, Any], free: Queue[str]) -> None:
    import cv2
    import torch

    cv2.setNumThreads(1)  # the processes already use every core
    torch.set_num_threads(1)
    _Worker.regions = _open(settings, free.get())


def _make_here(task: Task) -> Done:
    assert _Worker.regions is not None
    return _make(_Worker.regions, task)
