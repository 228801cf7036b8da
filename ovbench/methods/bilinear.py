"""Bilinear enlargement by a stated formula: the same numbers for a whole map and for any tile of it.

Along one axis, target i of t lies at (i + 1/2) s / t - 1/2, not below 0, among s sources; it is ``a (1 - x) + b x`` of
the sources a and b around it. The position is computed in whole numbers, x is their quotient in fp32, and each product and
sum is rounded on its own: columns first, then rows. So a value depends on its four sources and its position only, not on
the size of a tile, the number of threads or the processor.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

FEWEST_ROWS, FEWEST_COLUMNS = 8, 64  # of a tile


class Axis(NamedTuple):
    """The sources before and after each target, i64[n], and the fraction of the second, f32[n] in [0, 1)."""

    before: Tensor
    after: Tensor
    fraction: Tensor


class Tile(NamedTuple):
    """Values f[q, r, c] at some rows and columns of the enlarged map."""

    rows: slice
    columns: slice
    values: Tensor


def axis(source: int, target: int, device: torch.device | None = None, *, align_corners: bool = False) -> Axis:
    """Lay ``target`` pixels over ``source`` pixels.

    Args:
        source: number of pixels that there are.
        target: number of pixels that are wanted.
        device: where the three tensors are made.
        align_corners: the centres of the outermost pixels coincide, as in PyTorch's option of this name.
    """
    number = torch.arange(target, device=device)
    if align_corners:
        position, unit = number * (source - 1), max(target - 1, 1)
    else:
        position, unit = ((2 * number + 1) * source - target).clamp_(min=0), 2 * target
    before = torch.div(position, unit, rounding_mode="floor")
    return Axis(before, (before + 1).clamp_(max=source - 1), (position - before * unit).float() / unit)


def enlarge(maps: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Bring maps to another size.

    Args:
        maps: f[..., h, w].
        size: (H, W).
        align_corners: see `axis`.

    Returns:
        f[..., H, W], in fp32 at least; ``maps`` itself where it has the size.
    """
    vertical, horizontal = (
        None if have == want else axis(have, want, maps.device, align_corners=align_corners)
        for have, want in zip(maps.shape[-2:], size, strict=True)
    )
    return _enlarge(maps, vertical, horizontal)


def enlarged_tiles(maps: Tensor, size: tuple[int, int], elements: int) -> Iterator[Tile]:
    """`enlarge` maps f[q, h, w] in tiles of about so many elements, but not below 8 rows of 64 pixels."""
    (q, h, w), (height, width) = maps.shape, size
    rows = min(max(elements // (q * width), FEWEST_ROWS), height)
    columns = min(max(elements // (q * rows), FEWEST_COLUMNS), width)
    vertical, horizontal = axis(h, height, maps.device), axis(w, width, maps.device)
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        first, last = _reach(h, height, band)
        here = Axis(vertical.before[band] - first, vertical.after[band] - first, vertical.fraction[band])
        wide = _enlarge(maps[:, first : last + 1], None, None if w == width else horizontal)
        for left in range(0, width, columns):
            block = slice(left, min(left + columns, width))
            yield Tile(band, block, _enlarge(wide[..., block], None if h == height else here, None))


def _reach(source: int, target: int, targets: slice) -> tuple[int, int]:
    """The first and the last source that some targets need: `axis` in plain numbers, so that no GPU is asked."""
    if source == target:
        return targets.start, targets.stop - 1
    first, last = (max((2 * i + 1) * source - target, 0) // (2 * target) for i in (targets.start, targets.stop - 1))
    return first, min(last + 1, source - 1)


def _enlarge(maps: Tensor, vertical: Axis | None, horizontal: Axis | None) -> Tensor:
    maps = maps.to(torch.promote_types(maps.dtype, torch.float32))
    if horizontal is not None:
        across = (*maps.shape[:-1], len(horizontal.fraction))
        before, after = (maps.gather(-1, index.expand(across)) for index in (horizontal.before, horizontal.after))
        maps = _mixed(before, after, horizontal.fraction)
    if vertical is not None:
        before, after = (maps.index_select(-2, index) for index in (vertical.before, vertical.after))
        maps = _mixed(before, after, vertical.fraction[:, None])
    return maps


def _mixed(before: Tensor, after: Tensor, fraction: Tensor) -> Tensor:
    """Return ``before (1 - fraction) + after fraction``, in ``before``; a fused product and sum would round otherwise."""
    return before.mul_(1 - fraction).add_(after.mul_(fraction))
