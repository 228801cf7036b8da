"""The region maps of a whole benchmark, made once, on several processes or GPUs, into the cache."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.data.dataset import Dataset
from ovbench.data.decode import read_picture
from ovbench.regions.map_store import RegionStore
from ovbench.regions.provider import Regions, open_source
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.processes import each_with

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
    for done in each_with(partial(_maker, dict(settings), devices), tasks, workers):
        if done.error:
            built.failed[done.id] = done.error
        built.found += done.found
        built.made += not done.found and not done.error
        advance()
    return built


def _maker(settings: Mapping[str, Any], devices: Sequence[str], number: int) -> Callable[[Task], Done]:
    """Open the source for one worker and return the function that makes the map of an image."""
    name, source = open_source(settings)
    device = devices[number % len(devices)]
    return partial(_make, Regions(name, source, device, RegionStore(name, source), must_store=True))


def _make(regions: Regions, task: Task) -> Done:
    try:
        image = read_picture(task.path, task.label, task.white).pixels
    except InputError as error:
        return Done(task.id, False, str(error))
    before = regions.found
    regions(image, task.path.stem)
    return Done(task.id, regions.found > before)
