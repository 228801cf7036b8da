"""A function over many files, on several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import TypeVar

Task, Result = TypeVar("Task"), TypeVar("Result")

_FEW = 16  # so few tasks are done before worker processes have started


def each(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int = 1) -> Iterator[Result]:
    """The results in the order of the tasks. The first error ends it; tasks that have not begun are dropped.

    ``function`` must be importable by name, for it runs in freshly started processes.
    """
    if workers <= 1 or len(tasks) <= _FEW:
        yield from map(function, tasks)
        return
    chunk = max(1, min(32, len(tasks) // (4 * workers)))
    with ProcessPoolExecutor(workers, mp_context=multiprocessing.get_context("spawn"), initializer=_single) as pool:
        try:
            yield from pool.map(function, tasks, chunksize=chunk)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _single() -> None:
    """One thread a process: the processes already use every core."""
    import cv2

    cv2.setNumThreads(1)
