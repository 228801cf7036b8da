"""Apply a function to many items in several processes."""

from __future__ import annotations

import multiprocessing
import sys
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from functools import partial
from multiprocessing.queues import Queue
from typing import Any, ClassVar, TypeVar

from ovbench.utils.errors import InputError

Task = TypeVar("Task")
Result = TypeVar("Result")

_FEW = 16  # so few short tasks are finished before worker processes have started
_LARGEST_CHUNK = 8


def each(function: Callable[[Task], Result], tasks: Sequence[Task], workers: int = 1) -> Iterator[Result]:
    """Yield ``function`` of every task, in the order of the tasks.

    The first error stops the work, and tasks that have not started are dropped.

    Args:
        function: A function that can be imported by name, because the workers are new processes.
        tasks: Its arguments.
        workers: Number of processes; with 1, or for few tasks, the work is done in this process.

    Yields:
        The results.
    """
    yield from each_with(partial(_constant, function), tasks, workers if len(tasks) > _FEW else 1)


def each_with(
    build: Callable[[int], Callable[[Task], Result]], tasks: Sequence[Task], workers: int = 1
) -> Iterator[Result]:
    """Apply a function as `each` does; every worker builds it once, for example with a model.

    Args:
        build: Returns the function of worker number 0 to ``workers`` - 1; it can be imported by name.
        tasks: Arguments of the function.
        workers: Number of processes; with 1 the work is done in this process.

    Yields:
        The results, in the order of the tasks.

    Raises:
        InputError: If a process was killed.
    """
    if workers <= 1:
        yield from map(build(0), tasks)
        return
    context = multiprocessing.get_context("spawn")
    numbers: Queue[int] = context.Queue()
    for number in range(workers):
        numbers.put(number)
    chunk = max(1, min(_LARGEST_CHUNK, len(tasks) // (4 * workers)))
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(build, numbers)) as pool:
        try:
            yield from pool.map(_call, tasks, chunksize=chunk)
        except BrokenProcessPool:
            fix = "if the memory was full, use fewer --workers; then repeat the command"
            raise InputError("a worker process was killed", fix=fix) from None
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise


def _constant(function: Callable[[Task], Result], number: int) -> Callable[[Task], Result]:
    return function


class _Worker:
    """The function of this worker process."""

    function: ClassVar[Callable[[Any], Any]]


def _start(build: Callable[[int], Callable[[Any], Any]], numbers: Queue[int]) -> None:
    """Build the function, with one thread per process, because the processes already use every core."""
    import cv2

    cv2.setNumThreads(1)
    _Worker.function = staticmethod(build(numbers.get()))
    if torch := sys.modules.get("torch"):
        torch.set_num_threads(1)


def _call(task: Any) -> Any:
    return _Worker.function(task)
