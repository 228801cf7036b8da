"""Bilinear enlargement by a fixed formula: a tile has the same numbers as the whole map.

Along one axis, target i of t is at (i + 1/2) s / t - 1/2, at least 0, among s sources. Its value is
``a (1 - x) + b x``, with a and b the sources before and after it. The position is an exact integer fraction, x its
remainder in fp32. Columns come first, then rows, and each product and each sum is rounded. So a value depends only on
its four sources and its position, not on the tile size, the number of threads or the processor.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor

FEWEST_ROWS, FEWEST_COLUMNS = 8, 64  # smallest tile


class Axis(NamedTuple):
    """The two sources of each target along one axis.

    Attributes:
        before: int64 (N,), index of the source before the target.
        after: int64 (N,), index of the source after it.
        fraction: float32 (N,) in [0, 1), weight of ``after``.
    """

    before: Tensor
    after: Tensor
    fraction: Tensor


class Tile(NamedTuple):
    """One tile of the enlarged maps.

    Attributes:
        rows: Rows of the enlarged map.
        columns: Columns of the enlarged map.
        values: float (Q, rows, columns).
    """

    rows: slice
    columns: slice
    values: Tensor


def axis(source: int, target: int, device: torch.device | None = None, *, align_corners: bool = False) -> Axis:
    """Return the two sources of every target pixel along one axis.

    Args:
        source: Number of source pixels.
        target: Number of target pixels.
        device: Device of the three tensors.
        align_corners: If true, the centres of the outermost pixels coincide, as in PyTorch's option of this name.

    Returns:
        Indices and weights of the ``target`` pixels.
    """
    return _axis(source, target, device, align_corners, torch.is_inference_mode_enabled())


@functools.lru_cache(maxsize=64)  # a GPU starts ten kernels for them
def _axis(source: int, target: int, device: torch.device | None, align_corners: bool, _inference: bool) -> Axis:
    number = torch.arange(target, device=device)
    if align_corners:
        position, unit = number * (source - 1), max(target - 1, 1)
    else:
        position, unit = ((2 * number + 1) * source - target).clamp_(min=0), 2 * target
    before = torch.div(position, unit, rounding_mode="floor")
    return Axis(before, (before + 1).clamp_(max=source - 1), (position - before * unit).float() / unit)


def enlarge(maps: Tensor, size: tuple[int, int], *, align_corners: bool = False) -> Tensor:
    """Resize maps bilinearly.

    Args:
        maps: float (..., h, w).
        size: Target size (H, W).
        align_corners: See `axis`.

    Returns:
        float (..., H, W), at least fp32; ``maps`` without a copy if it has this size and dtype.
    """
    vertical, horizontal = (
        None if have == want else axis(have, want, maps.device, align_corners=align_corners)
        for have, want in zip(maps.shape[-2:], size, strict=True)
    )
    return interpolate(maps, vertical, horizontal)


def tile_size(queries: int, size: tuple[int, int], elements: int) -> tuple[int, int]:
    """Return rows and columns of a tile of maps (Q, H, W) with about so many values, at least 8 rows and 64 columns."""
    height, width = size
    rows = min(max(elements // (queries * width), FEWEST_ROWS), height)
    return rows, min(max(elements // (queries * rows), FEWEST_COLUMNS), width)


def enlarged_tiles(maps: Tensor, size: tuple[int, int], elements: int) -> Iterator[Tile]:
    """Resize maps bilinearly, one tile at a time.

    Args:
        maps: float (Q, h, w).
        size: Target size (H, W).
        elements: Approximate number of values in a tile; a tile has at least 8 rows and 64 columns.

    Yields:
        Tiles in row-major order, with the values that `enlarge` gives there.
    """
    (q, h, w), (height, width) = maps.shape, size
    rows, columns = tile_size(q, size, elements)
    vertical, horizontal = axis(h, height, maps.device), axis(w, width, maps.device)
    for top in range(0, height, rows):
        band = slice(top, min(top + rows, height))
        first, last = _reach(h, height, band)
        here = Axis(vertical.before[band] - first, vertical.after[band] - first, vertical.fraction[band])
        wide = interpolate(maps[:, first : last + 1], None, None if w == width else horizontal)
        for left in range(0, width, columns):
            block = slice(left, min(left + columns, width))
            yield Tile(band, block, interpolate(wide[..., block], None if h == height else here, None))


def _reach(source: int, target: int, targets: slice) -> tuple[int, int]:
    """Return the first and last source of a range of targets, as `axis` does but without a GPU synchronisation."""
    if source == target:
        return targets.start, targets.stop - 1
    first, last = (max((2 * i + 1) * source - target, 0) // (2 * target) for i in (targets.start, targets.stop - 1))
    return first, min(last + 1, source - 1)


def interpolate(maps: Tensor, vertical: Axis | None, horizontal: Axis | None) -> Tensor:
    """Resize maps (..., h, w) along one or both axes, or take some targets only; None leaves an axis unchanged."""
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
    """Interpolate into ``before``; products and sum are not fused, because a fused operation rounds differently."""
    return before.mul_(1 - fraction).add_(after.mul_(fraction))
