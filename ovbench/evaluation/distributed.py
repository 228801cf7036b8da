"""Divide images among the processes of torchrun, and among shards of separate jobs."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import NamedTuple, TypeVar

from ovbench.utils.errors import UsageError

T = TypeVar("T")
SCHEDULERS = (  # the number of a task and the number of tasks
    ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS"),  # of srun; a batch script without srun has SLURM_NTASKS, but is one task
    ("JOB_COMPLETION_INDEX", "JOB_COMPLETIONS"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
)
LOCAL_RANKS = ("LOCAL_RANK", "SLURM_LOCALID", "OMPI_COMM_WORLD_LOCAL_RANK")
PATIENCE = timedelta(days=365)  # rank 0 may wait for another rank for hours; torchrun ends all if one fails


class Shard(NamedTuple):
    """Shard ``number`` of ``of``, counted from 1."""

    number: int
    of: int

    def take(self, items: Sequence[T]) -> list[T]:
        """Return the items of this shard: every ``of``-th one, so that each item belongs to exactly one shard."""
        return list(items[self.number - 1 :: self.of])


class FoundShard(NamedTuple):
    """A shard of the environment, and the variables that it was taken from."""

    shard: Shard
    variables: str


def parse_shard(text: str | None) -> Shard | None:
    """Parse "K/N", or "auto" for the variables of a scheduler.

    Raises:
        UsageError: If the text has another form, or K is not in 1..N.
    """
    if text is None:
        return None
    if text == "auto":
        return shard_of_environment().shard
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(
            f'"{text}" is not a shard', where="--shard", fix="give K/N with K from 1 to N, as in 3/8, or auto"
        )
    return Shard(int(found[1]), int(found[2]))


def shard_of_environment(environment: Mapping[str, str] | None = None) -> FoundShard:
    """Return the shard of this task of a Slurm array, of ``srun``, of a Kubernetes Indexed Job or of ``mpirun``.

    The tasks of ``srun`` divide the shard of their array task.

    Args:
        environment: The variables; None for those of this process.

    Raises:
        UsageError: If there are none, or they contradict each other.
    """
    given = {name: value for name, value in (os.environ if environment is None else environment).items() if value}
    if int(given.get("GROUP_WORLD_SIZE", 1)) > 1:
        what = "torchrun on several nodes divides the images already"
        raise UsageError(what, where="--shard auto", fix="remove --shard, or use torchrun --standalone in every task")
    shard, used = Shard(1, 1), []
    if "OMPI_COMM_WORLD_RANK" in given:
        given.pop("SLURM_PROCID", None)  # Slurm has numbered the daemons of mpirun
    for numbers in SCHEDULERS:
        if all(name in given for name in numbers):
            index, count = _index_of(given, numbers)
            if not 0 <= index < count:
                text = ", ".join(f"{name}={given[name]}" for name in numbers)
                raise UsageError(f"no shard of {count} has the index {index}", where=text, fix="give --shard K/N")
            shard = Shard((shard.number - 1) * count + index + 1, shard.of * count)
            used += [f"{name}={given[name]}" for name in numbers]
    if not used:
        if "JOB_COMPLETION_INDEX" in given:
            fix = "set JOB_COMPLETIONS to the completions of the Indexed Job in its env"
            raise UsageError("JOB_COMPLETION_INDEX is set, but not the number of tasks", where="--shard auto", fix=fix)
        fix = "give --shard K/N, or " + "; ".join(" and ".join(numbers) for numbers in SCHEDULERS)
        raise UsageError("no scheduler has numbered this task", where="--shard auto", fix=fix)
    return FoundShard(shard, ", ".join(used))


def _index_of(given: Mapping[str, str], names: Sequence[str]) -> tuple[int, int]:
    """Return index, from 0, and number of tasks; a Slurm array may begin anywhere, and have a step."""
    try:
        number, count = (int(given[name]) for name in names)
        if not names[0].startswith("SLURM_ARRAY"):
            return number, count
        low = int(given.get("SLURM_ARRAY_TASK_MIN", 1))
        high = int(given.get("SLURM_ARRAY_TASK_MAX", low + count - 1))
        step = int(given.get("SLURM_ARRAY_TASK_STEP", 1)) or 1
    except ValueError:
        raise UsageError("a number is expected", where=", ".join(f"{n}={given[n]}" for n in names)) from None
    if (high - low) // step + 1 != count or (number - low) % step:
        what = f"the ids {low} to {high} of the array are not {count} ids in equal steps"
        fix = "give --shard K/N, or submit with --array=1-N"
        raise UsageError(what, where=f"SLURM_ARRAY_TASK_ID={number}", fix=fix)
    return (number - low) // step, count


def local_rank() -> int:
    """Return the number of this process among those of its launcher on this machine."""
    return next((int(os.environ[name]) for name in LOCAL_RANKS if os.environ.get(name, "").isdigit()), 0)


class ProcessGroup:
    """The processes of one run: those of torchrun, which communicate through gloo, otherwise this one."""

    @classmethod
    def alone(cls) -> ProcessGroup:
        """Return a group of this process only; other processes of its launcher work on their own."""
        group = cls.__new__(cls)
        group.size, group.rank, group.local_rank = 1, 0, local_rank()
        return group

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        self.local_rank = local_rank()
        if self.size > 1:
            import torch.distributed as dist

            if not dist.is_initialized():
                dist.init_process_group("gloo", timeout=PATIENCE)

    @property
    def is_main(self) -> bool:
        """Return whether this is rank 0."""
        return self.rank == 0

    def take(self, items: Sequence[T]) -> list[T]:
        """Return the items of this process."""
        return list(items[self.rank :: self.size])

    def barrier(self) -> None:
        """Wait for all processes."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def broadcast(self, value: T) -> T:
        """Return the value of rank 0."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def close(self) -> None:
        """End the communication."""
        if self.size > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()
