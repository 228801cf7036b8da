"""Plan a sweep: divide the images of every group of cells into tasks of a few minutes; without torch."""

from __future__ import annotations

import dataclasses
import os
import secrets
from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from itertools import accumulate
from typing import Any, NamedTuple

from ovbench.cluster.build_tasks import BuildCommands
from ovbench.cluster.estimate import ImageCost, estimate, image_sizes
from ovbench.cluster.sweep import Sweep, SweepCell, SweepTask, job_as_data
from ovbench.config.load import Cell
from ovbench.data.card import Card, vocabulary
from ovbench.data.dataset import Dataset
from ovbench.data.groups import present_members
from ovbench.data.image_ids import ids_sha256
from ovbench.evaluation.earlier_cost import read_records
from ovbench.evaluation.images import chosen_images, corrupted, features_key, open_split
from ovbench.evaluation.request import Job, check_request
from ovbench.regions.base import open_source
from ovbench.utils.errors import UsageError

MINUTES = 5.0
SHARE = 2  # a task has at most the work that is left over so many times the workers
PER_WORKER = 12  # and at most the mean time of a worker over this: groups that are taken last have no long tasks
ASSUMED_S = 10.0  # without a number of workers: so many that each has this time to work,
ASSUMED_WORKERS = 512  # but not more,
SHORTEST_S = 1.0  # and tasks of this time
MOST_TASKS = 10_000  # of one group: the board is listed for each task that a worker takes


class GroupCost(NamedTuple):
    """The work of a group.

    Attributes:
        images: Number of images, each labelled for every cell of the group.
        seconds: Estimated time of an image: that of the slowest cell, because all use the same features.
        maps: Where its region maps come from: dataset, source and settings; () if they are not built before.
        each: Estimated time of every image; empty if only the mean is known.
    """

    images: int
    seconds: float
    maps: tuple[Any, ...] = ()
    each: Sequence[float] = ()


class Chunk(NamedTuple):
    """The images from ``start`` to before ``stop``, and their estimated time."""

    start: int
    stop: int
    seconds: float


def plan_sweep(
    job: Job, minutes: float = MINUTES, workers: int | None = None, builds: Sequence[BuildCommands] = ()
) -> Sweep:
    """Plan all cells of a request.

    Args:
        job: The request, without a shard.
        minutes: Longest estimated time of a task.
        workers: Number of workers that will start, if it is known; tasks become shorter towards the end of a group, so
            that all workers end together.
        builds: Commands that build reference sets and banks before.

    Raises:
        UsageError: If the request is wrong.
        InputError: If files of datasets are missing.
    """
    if job.shard is not None:
        raise UsageError("a sweep divides the images itself", where="--shard", fix="remove --shard")
    job = dataclasses.replace(job, datasets=tuple(present_members(job.datasets, job.data_root).names))  # of groups
    rows, cards, cells, _ = check_request(job)
    datasets = {name: chosen_images(open_split(card, job), job) for name, card in cards.items()}
    records, planned, estimates = read_records(job.out), [], []
    for row, cell in zip(rows, cells, strict=True):
        images = datasets[row.dataset].items[: job.limit]
        sizes = image_sizes([item.image_path for item in images])
        found = estimate(cell, _queries(cards[row.dataset], cell), sizes, records)
        estimates.append(found)
        planned.append(
            SweepCell(
                method=cell.method, dataset=cell.dataset, label=row.label, settings_sha256=cell.digest(),
                images=len(images), ids_sha256=ids_sha256(item.id for item in images),
                seconds_per_image=found.seconds, measured=found.measured,
            )
        )  # fmt: skip
    opened = [corrupted(datasets[row.dataset], cell) for row, cell in zip(rows, cells, strict=True)]
    groups = group_rows(cells, opened)
    costs = [_cost(group, cells, planned, estimates) for group in groups]
    name = f"{datetime.now(timezone.utc):%Y%m%d-%H%M%S}-{secrets.token_hex(3)}"
    return Sweep(
        version=1, name=name, directory=os.getcwd(), job=job_as_data(job), cells=planned, groups=groups,
        tasks=make_tasks(costs, minutes, workers, builds),
    )  # fmt: skip


def _queries(card: Card, cell: Cell) -> int:
    return sum(len(synonyms) for synonyms in vocabulary(card, cell.protocol.vocabulary or None))


def group_rows(cells: Sequence[Cell], datasets: Sequence[Dataset]) -> list[list[int]]:
    """Return the positions of the cells that run together, as `ovbench.evaluation.runner.group_cells` does."""
    groups: list[list[int]] = []
    keys: list[tuple[Any, ...]] = []
    for number, (cell, dataset) in enumerate(zip(cells, datasets, strict=True)):
        key = features_key(cell, dataset)
        if key in keys:
            groups[keys.index(key)].append(number)
        else:
            keys.append(key)
            groups.append([number])
    return groups


def _cost(
    group: Sequence[int], cells: Sequence[Cell], planned: Sequence[SweepCell], estimates: Sequence[ImageCost]
) -> GroupCost:
    first = cells[group[0]]
    cached = bool(first.regions) and open_source(first.regions)[1].cached
    images = (planned[group[0]].ids_sha256, first.dataset, first.protocol.corrupt)
    maps = (*images, sorted(first.regions.items())) if cached else ()
    images, each = planned[group[0]].images, [estimates[number].each for number in group]
    known = all(len(one) == images for one in each)
    return GroupCost(
        images, max(estimates[number].seconds for number in group), maps,
        [max(one) for one in zip(*each, strict=True)] if known else (),
    )  # fmt: skip


def make_tasks(
    costs: Sequence[GroupCost], minutes: float = MINUTES, workers: int | None = None,
    builds: Sequence[BuildCommands] = (),
) -> list[SweepTask]:  # fmt: skip
    """Return the tasks of groups, the longest groups first.

    Args:
        costs: The work of every group.
        minutes: Longest estimated time of a task; one image at least.
        workers: Number of workers, if it is known.
        builds: Commands that build reference sets and banks; all groups wait for them.
    """
    total = sum(cost.images * cost.seconds for cost in costs)
    shortest = 0.0 if workers else min(SHORTEST_S, minutes * 60)
    workers = workers or min(max(round(total / ASSUMED_S), 1), ASSUMED_WORKERS)
    longest = max(min(minutes * 60, total / (workers * PER_WORKER)), shortest)
    tasks, built_first = _build_tasks(builds)
    maps: dict[str, dict[int, tuple[int, int]]] = {}
    counts: dict[int, list[int]] = defaultdict(list)
    prepared: dict[int, int] = {}
    order = sorted(range(len(costs)), key=lambda group: -costs[group].images * costs[group].seconds)
    for group in order:
        prepared[group] = len(tasks)
        tasks.append(SweepTask(kind="prepare", group=group, needs=built_first))
        cost, needs = costs[group], [prepared[group]]
        chunks = divide(cost, workers * cost.images * cost.seconds / total if total else 1, longest, shortest)
        if cost.maps and str(cost.maps) not in maps:
            maps[str(cost.maps)] = {len(tasks) + n: (start, stop) for n, (start, stop, _) in enumerate(chunks)}
            tasks += [SweepTask(kind="masks", group=group, start=a, stop=b, needs=needs) for a, b, _ in chunks]
        built = maps.get(str(cost.maps), {})
        for start, stop, seconds in sorted(chunks, key=lambda chunk: -chunk.seconds):
            counts[group].append(len(tasks))
            first = _overlapping(built, start, stop)
            tasks.append(
                SweepTask(kind="count", group=group, start=start, stop=stop, seconds=seconds, needs=needs + first)
            )
    tasks += [SweepTask(kind="record", group=n, needs=[prepared[n]], after=counts[n]) for n in order]
    return tasks


def _build_tasks(builds: Sequence[BuildCommands]) -> tuple[list[SweepTask], list[int]]:
    """Return the tasks that build, and the numbers of those that the groups wait for."""
    tasks: list[SweepTask] = []
    last: list[int] = []
    for shards, finish in builds:
        numbers = list(range(len(tasks), len(tasks) + len(shards)))
        tasks += [SweepTask(kind="build", group=0, command=words) for words in shards]
        if finish:
            tasks.append(SweepTask(kind="build", group=0, command=finish, needs=numbers))
            numbers = [len(tasks) - 1]
        last += numbers
    return tasks, last


def divide(cost: GroupCost, workers: float, longest: float, shortest: float = 0.0) -> list[Chunk]:
    """Divide the images of a group into ranges that become shorter, so that all workers end together.

    A range has at most the work that is left over `SHARE` times the workers. Only the last ones are single images.

    Args:
        cost: The work of the group.
        workers: Number of workers that do this group.
        longest: Longest time of a range.
        shortest: Time of the last ranges.

    Example:
        >>> [chunk.stop for chunk in divide(GroupCost(10, 1.0), 1, 4.0)]
        [4, 7, 8, 9, 10]
    """
    total = cost.images * cost.seconds
    longest = max(longest, 2 * total / MOST_TASKS)
    while len(chunks := _falling(cost, longest, shortest, workers)) > MOST_TASKS:
        shortest = max(2 * shortest, total / MOST_TASKS / 64)
    return chunks


def _falling(cost: GroupCost, longest: float, shortest: float, workers: float) -> list[Chunk]:
    known = len(cost.each) == cost.images
    sums, start, chunks = [0.0, *accumulate(cost.each)] if known else [], 0, list[Chunk]()
    while start < cost.images or not chunks:
        left = sums[-1] - sums[start] if known else (cost.images - start) * cost.seconds
        target = min(longest, max(left / (SHARE * workers), shortest))
        if known:
            stop = bisect_right(sums, sums[start] + target, lo=start) - 1
        else:
            stop = start + int(target / cost.seconds) if cost.seconds else cost.images
        stop = min(max(stop, start + 1), cost.images)
        chunks.append(Chunk(start, stop, sums[stop] - sums[start] if known else (stop - start) * cost.seconds))
        start = stop
    return chunks


def _overlapping(built: Mapping[int, tuple[int, int]], start: int, stop: int) -> list[int]:
    """Return the tasks that build the region maps of a range of images."""
    numbers, starts = list(built), [each[0] for each in built.values()]
    if not numbers:
        return []
    return numbers[bisect_right(starts, start) - 1 : bisect_left(starts, stop)]
