"""Build the region maps of a dataset in the cache, on several processes or GPUs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.data.dataset import Dataset
from ovbench.data.decode import read_image_file
from ovbench.regions.map_store import RegionStore
from ovbench.regions.provider import Regions, open_source
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.processes import each_with

Advance = Callable[[], None]


@dataclass
class BuildResult:
    """The result of a build.

    Attributes:
        folder: Folder of the maps in the cache.
        made: Number of maps made.
        found: Number of maps that were already in the cache.
        failed: Reason by id of each image that failed.
    """

    folder: Path
    made: int = 0
    found: int = 0
    failed: dict[str, str] = field(default_factory=dict)


class MapTask(NamedTuple):
    """One image to segment.

    Attributes:
        id: Id of the image.
        path: File of the image.
        label: Its label file, which decides the orientation, see `Dataset.read_image_file`.
        white: Value of 16-bit images that is shown as white, from the card.
    """

    id: str
    path: Path
    label: Path | None = None
    white: int | None = None


class MapResult(NamedTuple):
    """The result of one image: whether its map was ``found`` in the cache, or an ``error``."""

    id: str
    found: bool
    error: str = ""


def region_settings(source: str, overrides: Mapping[str, str]) -> dict[str, Any]:
    """Return the regions table of a source with overrides.

    Args:
        source: Name of the region source.
        overrides: Text by key, with or without the prefix "regions.".

    Returns:
        The settings of the source, with its name as ``source``.
    """
    from ovbench.config.load import regions_table

    return regions_table(source, {key.removeprefix("regions."): text for key, text in overrides.items()})


def tasks_of(dataset: Dataset, limit: int | None = None) -> list[MapTask]:
    """Return the first ``limit`` images of a dataset, by default all."""
    return [MapTask(*item, dataset.card.white) for item in dataset.items[:limit]]


def build_maps(
    tasks: Sequence[MapTask],
    settings: Mapping[str, Any],
    *,
    devices: Sequence[str] = ("cpu",),
    workers: int = 1,
    advance: Advance = lambda: None,
) -> BuildResult:
    """Make the maps that are missing or damaged in the cache.

    A second call resumes an interrupted build. An image that fails is recorded and does not stop the build.

    Args:
        tasks: The images.
        settings: Regions table of the source.
        devices: Devices of the workers, in a cycle.
        workers: Number of processes; 1 runs in this process.
        advance: Called after each image.

    Returns:
        Counts and failed images.

    Raises:
        UsageError: If the maps of the source are files already.
        InputError: If the source lacks files, or the cache cannot be written.
    """
    name, source = open_source(settings)
    if not source.cached:
        raise UsageError(f'the maps of "{name}" are files already, so none can be built', fix="choose another source")
    source.fetch()
    built = BuildResult(RegionStore(name, source).folder)
    for done in each_with(partial(_maker, dict(settings), devices), tasks, workers):
        if done.error:
            built.failed[done.id] = done.error
        built.found += done.found
        built.made += not done.found and not done.error
        advance()
    return built


def _maker(settings: Mapping[str, Any], devices: Sequence[str], number: int) -> Callable[[MapTask], MapResult]:
    """Open the source for one worker and return the function that makes the map of an image."""
    name, source = open_source(settings)
    device = devices[number % len(devices)]
    return partial(_make, Regions(name, source, device, RegionStore(name, source), must_store=True))


def _make(regions: Regions, task: MapTask) -> MapResult:
    """Make or find the map of one image."""
    try:
        image = read_image_file(task.path, task.label, task.white).pixels
    except InputError as error:
        return MapResult(task.id, False, str(error))
    before = regions.found
    regions(image, task.path.stem)
    return MapResult(task.id, regions.found > before)
