"""Conjugate gradients on graphs, and nearest neighbours, the edges of graphs, without a sparse library."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor


class Neighbours(NamedTuple):
    """The most similar rows of each row.

    Attributes:
        similarity: float (N, K), inner products, descending.
        index: int64 (N, K), numbers of the rows.
    """

    similarity: Tensor
    index: Tensor


def conjugate_gradient(
    operator: Callable[[Tensor], Tensor], b: Tensor, *, steps: int, axes: tuple[int, ...], start: Tensor | None = None,
    tolerance: float = 0.0, epsilon: float = 0.0,
) -> Tensor:  # fmt: skip
    """Take some steps of conjugate gradients towards the solution of A x = b.

    No value is read by the host, so nothing waits for the device.

    Args:
        operator: x -> A x, linear, symmetric and positive semi-definite.
        b: Right-hand sides, float.
        steps: Number of steps.
        axes: Axes of inner products. Over the others, systems are independent and have step lengths of their own.
        start: First x, of the shape of ``b``; None for zeros.
        tolerance: A system stops as soon as |b - A x| <= tolerance |b|.
        epsilon: Added to the denominators of the step lengths; 0: a system with residual 0 stays as it is.

    Returns:
        x, of the shape of ``b``.
    """

    def inner(u: Tensor, v: Tensor) -> Tensor:
        return (u * v).sum(axes, keepdim=True)

    def ratio(above: Tensor, below: Tensor) -> Tensor:
        return above / (below + epsilon) if epsilon else torch.where(below > 0, above / below, 0.0)

    x = torch.zeros_like(b) if start is None else start
    residual = b if start is None else b - operator(x)
    enough, norm = tolerance**2 * inner(b, b), inner(residual, residual)
    direction = residual
    for _ in range(steps):
        image = operator(direction)
        length = ratio(norm, inner(direction, image))
        if tolerance:
            length = torch.where(norm > enough, length, 0.0)
        x = torch.addcmul(x, length, direction)
        residual = torch.addcmul(residual, length, image, value=-1)
        before, norm = norm, inner(residual, residual)
        direction = torch.addcmul(residual, ratio(norm, before), direction)
    return x


def nearest_neighbours(rows: Tensor, count: int, *, block: int = 1024) -> Neighbours:
    """Return the exact nearest neighbours by inner product, in blocks of rows.

    Args:
        rows: float (N, D).
        count: Number K of neighbours, each row itself included; N if that is smaller.
        block: Rows whose N inner products are in memory at once.

    Returns:
        Their inner products and numbers.
    """
    count = min(count, len(rows))
    found = [(part @ rows.T).topk(count, dim=1) for part in rows.split(block)]
    return Neighbours(torch.cat([top.values for top in found]), torch.cat([top.indices for top in found]))
