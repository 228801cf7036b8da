"""Run all planned cells of a job; a method that cannot be built does not stop the others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from typing import NamedTuple

from ovbench.evaluation.distributed import ProcessGroup
from ovbench.evaluation.plan import PlannedCell
from ovbench.evaluation.progress import JobProgress
from ovbench.evaluation.request import Job
from ovbench.evaluation.runner import CellResult, group_cells, run_cells
from ovbench.methods.method_errors import MethodError


class GroupResult(NamedTuple):
    """The records of cells that run together, or the error if their method cannot be built."""

    cells: list[PlannedCell]
    done: list[CellResult]
    error: MethodError | None = None


def run_groups(cells: Sequence[PlannedCell], job: Job, processes: ProcessGroup) -> Iterator[GroupResult]:
    """Evaluate cells; cells with the same features run together.

    Args:
        cells: The planned cells of the job.
        job: The job.
        processes: The processes that evaluate it.

    Raises:
        MethodError: If a method cannot be built and the job must stop at the first failure.
    """
    groups = group_cells(cells)
    images = sum(len(group[0].wanted_numbers) for group in groups)
    with closing(JobProgress(images, shown=processes.is_main and not job.quiet)) as progress:
        for group in groups:
            try:
                yield GroupResult(group, run_cells(group, job, processes, progress=progress))
            except MethodError as error:
                if job.fail_fast:
                    raise
                yield GroupResult(group, [], error)
