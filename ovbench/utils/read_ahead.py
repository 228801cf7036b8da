"""Read items in threads before they are used."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Task = TypeVar("Task")
Result = TypeVar("Result")


def read_ahead(
    read: Callable[[Task], Result], tasks: Sequence[Task], *, ahead: int, threads: int = 2
) -> Iterator[tuple[Task, Future[Result]]]:
    """Yield every task with the future of its result, in order.

    If the iteration ends early, reads that have not started are cancelled.

    Args:
        read: Called in a thread.
        tasks: Its arguments.
        ahead: Results that are read or kept at the same time, at least 1.
        threads: Number of threads.

    Yields:
        The task and its future; ``result()`` raises what ``read`` raised.

    Example:
        >>> [(task, future.result()) for task, future in read_ahead(abs, [-1, 2, -3], ahead=2)]
        [(-1, 1), (2, 2), (-3, 3)]
    """
    queue: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        try:
            for position, task in enumerate(tasks):
                while len(queue) < min(ahead, len(tasks) - position):
                    queue.append(pool.submit(read, tasks[position + len(queue)]))
                yield task, queue.popleft()
        finally:
            for future in queue:
                future.cancel()
