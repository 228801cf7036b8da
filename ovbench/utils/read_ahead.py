"""Read items in threads before they are used, and write results in a thread after they are made."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

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


class WriteBehind:
    """Call functions in one other thread, in order, inside a ``with`` block.

    The end of the block waits for all calls. After an exception no further function is called; the exception is raised
    by a later `call` or by the end of the block, unless that ends by an exception of its own.

    Args:
        most: Number of calls that are not finished, at most; `call` waits for the oldest one.

    Example:
        >>> with WriteBehind(2) as behind:
        ...     for number in range(3):
        ...         behind.call(print, number)
        0
        1
        2
    """

    def __init__(self, most: int):
        self._most, self._failed = most, False
        self._pool, self._queue = ThreadPoolExecutor(1), deque[Future[None]]()

    def call(self, function: Callable[..., object], *arguments: Any) -> None:
        """Call a function after all earlier ones."""
        while len(self._queue) >= self._most or (self._queue and self._queue[0].done()):
            self._queue.popleft().result()
        self._queue.append(self._pool.submit(self._run, function, arguments))

    def _run(self, function: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        if self._failed:
            return
        try:
            function(*arguments)
        except BaseException:
            self._failed = True
            raise

    def __enter__(self) -> WriteBehind:
        return self

    def __exit__(self, *raised: object) -> None:
        self._pool.shutdown()
        if raised[0] is None:
            for future in self._queue:
                future.result()
