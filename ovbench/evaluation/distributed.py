"""Divide images among the processes of torchrun, and among shards of separate jobs."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from datetime import timedelta
from typing import NamedTuple, TypeVar

from ovbench.utils.errors import UsageError

T = TypeVar("T")
PATIENCE = timedelta(days=365)  # rank 0 may wait for another rank for hours; torchrun ends all if one fails


class Shard(NamedTuple):
    """Shard ``number`` of ``of``, counted from 1."""

    number: int
    of: int

    def take(self, items: Sequence[T]) -> list[T]:
        """Return the items of this shard: every ``of``-th one, so that each item belongs to exactly one shard."""
        return list(items[self.number - 1 :: self.of])


def parse_shard(text: str | None) -> Shard | None:
    """Parse "K/N".

    Raises:
        UsageError: If the text has another form, or K is not in 1..N.
    """
    if text is None:
        return None
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not 1 <= int(found[1]) <= int(found[2]):
        raise UsageError(f'"{text}" is not a shard', where="--shard", fix="give K/N with K from 1 to N, as in 3/8")
    return Shard(int(found[1]), int(found[2]))


class ProcessGroup:
    """The processes of one run: those of torchrun, which communicate through gloo, otherwise this one."""

    def __init__(self) -> None:
        self.size = int(os.environ.get("WORLD_SIZE", 1))
        self.rank = int(os.environ.get("RANK", 0))
        self.local_rank = int(os.environ.get("LOCAL_RANK", 0))
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
