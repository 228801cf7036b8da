"""What the processes of one training tell each other; through gloo, so by way of the host's memory."""

from __future__ import annotations

import time
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import torch
from torch import Tensor

from ovbench.engine.share import Team

LOOK_EVERY_S = 0.5


def wait_for(files: Sequence[Path]) -> None:
    """Until all of them are there. The others may need longer than a collective call would wait; should one of them
    fail, torchrun ends this process, too."""
    for file in files:
        while not file.is_file():
            time.sleep(LOOK_EVERY_S)


def shares(count: int, team: Team) -> list[slice]:
    """The rows of a batch that fall to each process: neighbours, as many as the others have or one more."""
    edges = [count * rank // team.size for rank in range(team.size + 1)]
    return [slice(*pair) for pair in pairwise(edges)]


def gather(own: Tensor, parts: Sequence[slice], team: Team) -> Tensor:
    """The rows of all processes, which lie at ``parts``. Gradients flow through the own rows only."""
    if team.size == 1:
        return own
    import torch.distributed as dist

    counts = [part.stop - part.start for part in parts]
    padded = own.new_zeros((max(counts), *own.shape[1:]), device="cpu")
    padded[: len(own)] = own.detach().cpu()
    everyone = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(everyone, padded)
    rows = [theirs[:count].to(own.device) for theirs, count in zip(everyone, counts, strict=True)]
    rows[team.rank] = own
    return torch.cat(rows)


def add_gradients(parameters: Sequence[Tensor], team: Team) -> None:
    """The sum of all processes' gradients, in each of them."""
    if team.size == 1:
        return
    import torch.distributed as dist

    for parameter in parameters:
        total = parameter.grad.cpu()
        dist.all_reduce(total)
        parameter.grad.copy_(total)
