"""Repeat the run of a record with its arguments, and compare the two."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ovbench.config.schema import SCORED
from ovbench.data.card import load_card
from ovbench.evaluation.distributed import ProcessGroup
from ovbench.evaluation.plan import plan
from ovbench.evaluation.record import read_record
from ovbench.evaluation.request import Job, job_of
from ovbench.evaluation.run_groups import run_groups
from ovbench.evaluation.runner import CellResult
from ovbench.evaluation.score import score
from ovbench.metrics.extra_counts import to_lists
from ovbench.results.record_counts import read_counts
from ovbench.utils.differences import Mismatch, mismatches

COMPARED = ("cell", "dataset", "weights", "use", "files", "code", "versions", "device")


class Repetition(NamedTuple):
    """A repeated run.

    Attributes:
        record: The new record.
        path: Its file.
        differing: Settings, data, weights, code and machine that differ.
        images: Ids of the images with other counts, or with counts in one of the two runs only.
        total: Number of images of both runs.
    """

    record: dict[str, Any]
    path: Path
    differing: list[Mismatch]
    images: list[str]
    total: int

    @property
    def exact(self) -> bool:
        """Whether all counts are equal."""
        return not self.images


def _labelled(job: Job) -> CellResult:
    processes = ProcessGroup()
    (result,) = (
        done
        for result in run_groups(plan(job, processes), job, processes)
        for done in (result.done if result.error is None else _raise(result.error))
    )
    return result


def _scored(record: Mapping[str, Any], job: Job) -> CellResult:
    """Score the label maps of a record again."""
    asked, name = record["arguments"]["settings"], record["cell"]["method"].removesuffix(SCORED)
    folder, card = Path(asked["predictions"]), load_card(job.datasets[0])
    return score(job, folder, card, name=name, encoding=asked["encoding"], say=lambda line: None).result


def repeat(path: Path, out: Path, *, run_code: bool = False, **options: Any) -> Repetition:
    """Run the cell of a record again and compare all counts.

    Args:
        path: The record or bundle.
        out: Folder of the new record and ledger.
        run_code: Whether code may run that only the record names.
        **options: Other fields of the job, such as ``data_root``.

    Raises:
        InputError: If the record cannot be read, or data or weights are missing.
        UsageError: If its method is code outside ovbench.
        MethodError: If the method cannot be built.
    """
    before = read_record(path)
    job = job_of(before, str(path), run_code=run_code, out=out, fresh=True, **options)
    earlier = _all_counts(path, before)
    made, file = _scored(before, job) if before["cell"]["method"].endswith(SCORED) else _labelled(job)
    now = _all_counts(file, made)
    differing = [
        each
        for key in COMPARED
        for each in mismatches({key: before.get(key)}, {key: made.get(key)})
    ]  # fmt: skip
    every = dict.fromkeys((*earlier, *now))
    images = [i for i in every if i not in earlier or i not in now or earlier[i] != now[i]]
    return Repetition(made, file, differing, images, len(every))


def _raise(error: Exception) -> list[Any]:
    raise error


def _all_counts(path: Path, record: Mapping[str, Any]) -> dict[str, dict[str, list[list[int]]]]:
    """Return all counts of every image by their name."""
    found = read_counts(path, record)
    named: dict[str, Mapping[str, Iterable[np.ndarray]]] = {"pixels": found.counts, **found.extra}
    return {image: {name: to_lists(counts[image]) for name, counts in named.items()} for image in found.counts}
