"""Which process labels which image: processes of one torchrun, and shards of a scheduler without one."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from typing import NamedTuple, TypeVar

from ovbench.utils.errors import UsageError

T = TypeVar("T")


class Shard(NamedTuple):
    """Part ``number`` of ``of``, counted from 1."""

    number: int
    of: int

    def take(self, items: Sequence[T]) -> list[T]:
        """Every image belongs to exactly one shard; neighbours go to different ones."""
        return list(items[self.number - 1 :: self.of])


def parse_shard(text: str | None) -> Shard | None:
    """``"3/8"``; UsageError for anything else."""
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f'"{text}" is no shard', where="--shard", fix="give K/N with K from 1 to N, as in 3/8")
    return Shard(int(found[1]), int(found[2]))


class Team:
    """The processes of one run. Alone unless torchrun started several, which then speak through gloo."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
        if self.size > 1:
            import torch.distributed as dist

            if not dist.is_initialized():
                dist.init_process_group("gloo")

    @property
    def leads(self) -> bool:
        return self.rank == 0

    def take(self, items: Sequence[T]) -> list[T]:
        return list(items[self.rank :: self.size])

    def wait(self) -> None:
        """Return when every process has come here."""
        if self.size > 1:
            import torch.distributed as dist

            dist.barrier()

    def agree(self, value: T) -> T:
        """The first process' value, in every process."""
        if self.size == 1:
            return value
        import torch.distributed as dist

        box = [value]
        dist.broadcast_object_list(box, src=0)
        return box[0]

    def leave(self) -> None:
        if self.size > 1:
            import torch.distributed as dist

            if dist.is_initialized():
                dist.destroy_process_group()
