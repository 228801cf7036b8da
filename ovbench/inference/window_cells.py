"""Labels for large vocabularies without score maps at full size.

Along each axis, merged scores are linear between neighbouring cell centres, and enlarging them keeps that. So the image
is divided into blocks: in a block, the scores of each query are means of its scores at 3 x 3 pixels, the knots, with
the same weights for all queries, none negative. A query that is below another one at all of these pixels is below it in
the whole block. A CPU leaves it out. On a GPU, the host would wait for the number of queries that are left, so all
queries are interpolated between knots, one tile after the other. The labels are those of full-size maps, except where
two scores differ by rounding only.

Symbols: Q queries; (gh, gw) cells of a window; R, C all cells of all windows in a column or row of windows; (h, w)
resized image; (H, W) original image; K blocks along an axis.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor

from ovbench.inference.leading import BestClass, Leading
from ovbench.methods.bilinear import Axis, axis, interpolate, tile_size
from ovbench.methods.ops import Box, Decision, Pad
from ovbench.utils.upload import upload

FEWEST_QUERIES = 128  # below, full-size maps take less time
SMALLEST_CELL = 4  # pixels
OUTSIDE = -2


class BlockAxis:
    """The blocks along one axis, and the weights of cells and of original pixels.

    Block k is described by its first pixel, its last pixel and the first pixel of the next block.

    Attributes:
        targets: The original pixels of each block.
        weights: Their weights of the block's three pixels, each float (targets, 3).
        index: int64 (2K, J), the cells that contribute to the first and last pixel of each block.
        share: float (2K, J), the weights of these cells.
        knots: int64 (K, 3), the rows of ``index`` with the three pixels of each block.
        position: The two rows of ``index`` between which each original pixel lies.
    """

    def __init__(
        self, starts: Sequence[int], side: int, padding: tuple[int, int], cells: int, size: int, original: int
    ):
        """Find the blocks.

        Args:
            starts: First pixel of each window, ascending.
            side: Length of a window.
            padding: Padding before and after it.
            cells: Number of cells of a window.
            size: Length of the resized image.
            original: Length of the original image.
        """
        sources = axis(cells, side + sum(padding))
        before, after, fraction = (each[padding[0] : padding[0] + side] for each in sources)
        line = torch.full((len(starts), size), OUTSIDE)
        share = torch.zeros(size, len(starts) * cells, dtype=torch.float64)
        pixels = torch.arange(side)
        centre = (2 * (pixels + padding[0]) + 1) * cells < side + sum(padding)  # pixels before the first cell centre
        for number, start in enumerate(starts):
            line[number, start : start + side] = before.masked_fill(centre, -1)
            share[start + pixels, number * cells + before] += 1 - fraction.double()
            share[start + pixels, number * cells + after] += fraction.double()
        share /= (line != OUTSIDE).sum(0)[:, None]
        jump = (line[:, 1:] != line[:, :-1]).any(0).nonzero()[:, 0]
        first = torch.cat([jump.new_zeros(1), jump + 1])
        last = torch.cat([jump, jump.new_full((1,), size - 1)])
        self._target(first, last, *axis(size, original))
        share = share[torch.stack([first, last], 1).flatten()]
        most = int((share > 0).sum(1).max())
        self.index = (share == 0).to(torch.int8).argsort(dim=1, stable=True)[:, :most]
        self.share = share.gather(1, self.index).float()
        self.knots = (torch.arange(0, 2 * len(first), 2)[:, None] + torch.arange(3)).clamp_(max=2 * len(first) - 1)

    def _target(self, first: Tensor, last: Tensor, before: Tensor, after: Tensor, fraction: Tensor) -> None:
        """Set ``targets`` and ``weights`` from the position of each original pixel between resized pixels."""
        block = torch.searchsorted(last, before)
        length = (last - first)[block]
        inside = before < last[block]
        along = torch.where(inside, ((before - first[block]) + fraction.double()) / length.clamp(min=1), fraction)
        start = 2 * block + (~inside).long()
        self.position = Axis(start, (start + 1).clamp_(max=2 * len(first) - 1), along.float())
        zero, rest = torch.zeros_like(along), 1 - along
        weights = torch.where(
            inside[:, None], torch.stack([rest, along, zero], 1), torch.stack([zero, rest, along], 1)
        ).float()  # fmt: skip
        bounds = torch.searchsorted(block, torch.arange(len(first) + 1)).tolist()
        self.targets = [slice(*bound) for bound in pairwise(bounds)]
        self.weights = [weights[each] for each in self.targets]


class WindowCells:
    """The cell scores of all windows of an image: `add` every window, then call `labels`.

    Args:
        boxes: All windows, a grid in scan order.
        pad: Padding of every window.
        size: (h, w), size of the map that the windows cover.
        original: (H, W), size of the labels.
    """

    def __init__(self, boxes: Sequence[Box], pad: Pad, size: tuple[int, int], original: tuple[int, int]):
        self.pad, self.size, self.original, self.side = pad, size, original, boxes[0].size
        self.rows = {y: number for number, y in enumerate(sorted({box.y1 for box in boxes}))}
        self.columns = {x: number for number, x in enumerate(sorted({box.x1 for box in boxes}))}
        self.cells: Tensor | None = None

    def add(self, scores: Tensor, boxes: Sequence[Box]) -> None:
        """Add the scores of windows, float (B, Q, gh, gw)."""
        scores = scores.permute(0, 2, 3, 1)
        if self.cells is None:
            shape = (len(self.rows), scores.shape[1], len(self.columns), *scores.shape[2:])
            self.cells = scores.new_empty(shape, dtype=torch.float32)
        for window, box in zip(scores, boxes, strict=True):
            self.cells[self.rows[box.y1], :, self.columns[box.x1]] = window

    def result(self) -> WindowCells:
        """Return itself, in place of the mean of a `WindowMean`."""
        return self

    def sum(self) -> Tensor:
        """Return the sum of all scores, float ()."""
        return self.cells.sum()

    def labels(
        self, class_index: Tensor, decision: Decision, elements: int, best: BestClass | None = None,
        *, compiled: bool = False,
    ) -> Tensor:  # fmt: skip
        """Return the labels, int64 (H, W).

        Args:
            class_index: int64 (Q,), class of each query.
            decision: Scale, threshold and background. With a threshold, all queries are in the softmax.
            elements: Approximate number of values in a tile on a GPU.
            best: Filled with the best classes, for which all queries are in the softmax, too.
            compiled: Whether a GPU interpolates and compares in a compiled function, which without a softmax keeps no
                scores in memory.
        """
        height, row_cells, width, column_cells, queries = self.cells.shape
        cells = self.cells.view(height * row_cells, width * column_cells, queries)
        left, right, top, bottom = self.pad
        (h, w), (high, wide) = self.size, self.side
        rows = BlockAxis(list(self.rows), high, (top, bottom), row_cells, h, self.original[0])
        columns = BlockAxis(list(self.columns), wide, (left, right), column_cells, w, self.original[1])
        labels = torch.empty(self.original, dtype=torch.int64, device=cells.device)
        parts = (labels, *(best or ()))
        if cells.device.type == "cpu":
            _by_blocks(parts, cells, rows, columns, class_index, decision)
        else:
            best_of = compiled_best() if compiled else _best
            _by_tiles(parts, cells, rows, columns, class_index, decision, elements, best_of)
        return labels


def _by_blocks(
    parts: Sequence[Tensor], cells: Tensor, rows: BlockAxis, columns: BlockAxis, class_index: Tensor, decision: Decision
) -> None:
    """Fill labels, and the fields of `BestClass` where they are asked for, from one row of blocks after the other."""
    following = _mixed(cells, rows, columns, 0)
    for number, target in enumerate(rows.targets):
        here, ahead = following, 2 * number + 2
        ending = _mixed(cells, rows, columns, 2 * number + 1)
        following = _mixed(cells, rows, columns, ahead) if ahead < len(rows.index) else ending
        knots = torch.stack([here, ending, following])[:, columns.knots]  # (3, K, 3, Q)
        band = [part[target] for part in parts]
        _fill(band, knots.transpose(1, 2), rows.weights[number], columns, class_index, decision)


def _by_tiles(
    parts: Sequence[Tensor], cells: Tensor, rows: BlockAxis, columns: BlockAxis, class_index: Tensor,
    decision: Decision, elements: int, best_of: Callable[..., list[Tensor]],
) -> None:  # fmt: skip
    """Fill the same as `_by_blocks` from one tile after the other, without a wait of the host."""
    row_index, row_share, vertical = _uploaded(rows, cells.device)
    column_index, column_share, horizontal = _uploaded(columns, cells.device)
    (height, width), queries = parts[0].shape, cells.shape[2]
    high, wide = tile_size(queries, (height, width), elements)
    for top in range(0, height, high):
        band = slice(top, min(top + high, height))
        first, last = int(rows.position.before[band.start]), int(rows.position.after[band.stop - 1])
        used = slice(first, last + 1)
        lines = _weighted(cells, row_index[used], row_share[used, :, None, None], 0)
        knots = _weighted(lines, column_index, column_share[:, :, None], 1).movedim(2, 0)  # (Q, 2K, 2K)
        down = Axis(vertical.before[band] - first, vertical.after[band] - first, vertical.fraction[band])
        for left in range(0, width, wide):
            block = slice(left, min(left + wide, width))
            right = Axis(*(field[block] for field in horizontal))
            found = best_of(knots, down, right, class_index, decision, len(parts) > 1)
            for part, values in zip(parts, found, strict=True):
                part[band, block] = values


def _best(
    knots: Tensor, down: Axis, right: Axis, class_index: Tensor, decision: Decision, confident: bool
) -> list[Tensor]:
    """Return the labels of a tile int64 (h, w), and with ``confident`` the fields of `BestClass`."""
    leading = Leading(class_index, decision, confident=confident).add(interpolate(knots, down, right))
    return [leading.labels(), *(leading.best() if confident else ())]


@functools.cache
def compiled_best() -> Callable[..., list[Tensor]]:
    """Return `_best` as one compiled graph for tiles of all sizes."""
    return torch.compile(_best, dynamic=True, fullgraph=True)


def _uploaded(along: BlockAxis, device: torch.device) -> tuple[Tensor, Tensor, Axis]:
    """Return ``index``, ``share`` and ``position`` of an axis on a device."""
    index, share, *position = (upload(values.numpy(), device) for values in (along.index, along.share, *along.position))
    return index, share, Axis(*position)


def _weighted(values: Tensor, index: Tensor, share: Tensor, dim: int) -> Tensor:
    """Return the sums of the values at some positions (N, J) of an axis, with their weights."""
    first, *others = index.unbind(1)
    sums = values.index_select(dim, first) * share[:, 0]
    for number, source in enumerate(others, 1):
        sums.addcmul_(values.index_select(dim, source), share[:, number])
    return sums


def _fill(
    parts: Sequence[Tensor], knots: Tensor, down: Tensor, columns: BlockAxis, class_index: Tensor, decision: Decision
) -> None:
    """Fill a row of blocks from its knots.

    Args:
        parts: Labels, int64 (rows, W), and where they are asked for, the fields of `BestClass`.
        knots: float (3, 3, K, Q).
        down: float (rows, 3), weights of the knots.
        columns: The blocks.
        class_index: int64 (Q,).
        decision: Scale, threshold and background.
    """
    labels, *best = parts
    every = decision.threshold > 0 or bool(best)
    alive = torch.ones(knots.shape[2:], dtype=torch.bool) if every else can_win(knots.flatten(0, 1))
    only = class_index[alive.to(torch.int8).argmax(1)].tolist()
    for number, (target, count) in enumerate(zip(columns.targets, alive.sum(1).tolist(), strict=True)):
        if count == 1 and not every:
            labels[:, target] = only[number]
            continue
        index = alive[number].nonzero()[:, 0]
        own = knots[:, :, number][..., index].permute(2, 0, 1)  # (n, 3, 3)
        scores = _between(_between(own.mT, down).mT, columns.weights[number])
        leading = Leading(class_index[index], decision, confident=bool(best)).add(scores)
        labels[:, target] = leading.labels()
        for part, value in zip(best, leading.best() if best else (), strict=True):
            part[:, target] = value


def worth_cells(scores: Tensor, size: tuple[int, int]) -> bool:
    """Return whether `WindowCells` takes less time and memory than full-size maps.

    Args:
        scores: float (B, Q, gh, gw).
        size: (h, w) of a window in pixels.
    """
    _, queries, *grid = scores.shape
    coarse = all(cells * SMALLEST_CELL <= side for cells, side in zip(grid, size, strict=True))
    return queries >= FEWEST_QUERIES and coarse


def can_win(knots: Tensor) -> Tensor:
    """Return which queries are not below another one at all pixels, bool (K, Q); only some others are compared.

    Args:
        knots: float (9, K, Q), scores at the pixels of each block.
    """
    alive = torch.ones(knots.shape[1:], dtype=torch.bool)
    for compared in (knots[0], knots[1], knots[3], knots[4], knots.mean(0)):
        best = compared.argmax(1, keepdim=True).expand(len(knots), -1, -1)
        alive &= (knots >= knots.gather(2, best)).any(0)
    return alive


def _mixed(cells: Tensor, rows: BlockAxis, columns: BlockAxis, row: int) -> Tensor:
    """Return the merged scores at one row of pixels and the first and last pixel of each block, float (2K, Q)."""
    line = torch.zeros_like(cells[0])
    for source, share in zip(rows.index[row].tolist(), rows.share[row].tolist(), strict=True):
        line.add_(cells[source], alpha=share)
    return _weighted(line, columns.index, columns.share[:, :, None], 0)


def _between(knots: Tensor, weights: Tensor) -> Tensor:
    """Return means of three values, float (..., 3) with weights (N, 3) to (..., N)."""
    return sum(knots[..., number, None] * weights[:, number] for number in range(3))
