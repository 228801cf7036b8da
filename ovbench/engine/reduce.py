"""From merged window scores to one label per pixel of the original image.

The plain form holds a map per query at full size: `upsample`, `class_probabilities`, `decide`. `labels_by_tiles` gives
the same labels from one tile after another and never holds such a map.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

# Elements of a tile: on the CPU what is made of it should stay in the cache, on a GPU launches should be few.
TILE_CPU, TILE_GPU = 1 << 19, 1 << 26
SMALL = 128  # PyTorch rounds otherwise in outputs whose height and width add up to no more than this
TIE = 1e-5  # logits closer than this may round to one probability; farther apart they cannot


@dataclass(frozen=True)
class Decision:
    """How scores become labels (official CLIP-based protocols, ``facts`` of each method).

    ``logit_scale`` multiplies cosines before the softmax over queries; pixels whose best class probability is below
    ``prob_thd`` become class 0 (0 switches this off).
    """

    logit_scale: float = 40.0
    prob_thd: float = 0.0


def upsample(scores: Tensor, size: tuple[int, int]) -> Tensor:
    """Merged scores ``[q, h, w]`` brought bilinearly to the original image size ``[q, H, W]``."""
    return F.interpolate(scores[None], size, mode="bilinear", align_corners=False)[0]


def class_probabilities(scores: Tensor, class_index: Tensor, decision: Decision) -> Tensor:
    """Softmax over all queries, then the maximum over the synonyms of a class.

    Args:
        scores: f[q, ...] cosines, one row per query.
        class_index: i64[q] the class of each query, every class from 0 to the last present at least once.

    Returns:
        f[c, ...] probabilities, which sum to less than one where synonyms share them.
    """
    queries = (scores * decision.logit_scale).softmax(0)
    classes = int(class_index[-1]) + 1
    if classes == len(class_index):
        return queries
    index = class_index.view(-1, *[1] * (queries.dim() - 1)).expand_as(queries)
    empty = queries.new_zeros((classes, *queries.shape[1:]))
    return empty.scatter_reduce(0, index, queries, "amax")


def decide(probabilities: Tensor, decision: Decision) -> Tensor:
    """Labels i64[...] of the most probable class; class 0 where no class reaches the threshold."""
    best, labels = _largest(probabilities)
    return _threshold(labels, best, decision)


def decide_queries(scores: Tensor, class_index: Tensor, decision: Decision) -> Tensor:
    """``decide(class_probabilities(...))`` without the class maps: labels i64[...] of scores f[q, ...].

    The most probable class owns the best query, and without a threshold the best query is known before the softmax.
    Where two queries are so close that rounding decides, the plain form is asked. On a GPU it always is: that question
    would have the host wait.
    """
    if scores.device.type != "cpu":
        return decide(class_probabilities(scores, class_index, decision), decision)
    flat = scores.flatten(1)
    logits = flat * decision.logit_scale
    leading = _leading(logits.softmax(0)) if decision.prob_thd > 0 else _leading(logits, TIE)
    labels = _threshold(class_index[leading.row], leading.value, decision)
    if len(leading.unsure):
        plain = class_probabilities(flat[:, leading.unsure], class_index, decision)
        labels[leading.unsure] = decide(plain, decision)
    return labels.view(scores.shape[1:])


def _threshold(labels: Tensor, best: Tensor, decision: Decision) -> Tensor:
    if decision.prob_thd > 0:
        return torch.where(best < decision.prob_thd, torch.zeros_like(labels), labels)
    return labels


def _largest(values: Tensor) -> tuple[Tensor, Tensor]:
    """``values.max(0)``, the first row of equal ones; on the CPU three times as fast."""
    if values.device.type != "cpu":
        return tuple(values.max(0))
    best, rows = [], []
    for part in values.flatten(1).split(max(TILE_CPU // len(values), 1), 1):
        leading = _leading(part)
        if len(leading.unsure):
            leading.row[leading.unsure] = part[:, leading.unsure].max(0).indices
        best.append(leading.value)
        rows.append(leading.row)
    shape = values.shape[1:]
    return torch.cat(best).view(shape), torch.cat(rows).view(shape)


class Leading(NamedTuple):
    """Per column the largest value f[n] and its row i64[n]; ``unsure`` i64[k]: columns where another is as large."""

    value: Tensor
    row: Tensor
    unsure: Tensor


def _leading(values: Tensor, margin: float = 0.0) -> Leading:
    """The largest of each column of f[q, n], without the slow search for its place: a product with the row numbers
    finds it where it is alone within ``margin``."""
    value = values.amax(0)
    near = (values >= value - margin).to(values.dtype)
    numbers = torch.arange(len(values), dtype=values.dtype)
    count, row = torch.stack([torch.ones_like(numbers), numbers]) @ near  # whole numbers, exact below 2**24
    return Leading(value, row.long().clamp_(max=len(values) - 1), (count != 1).nonzero()[:, 0])


class Tile(NamedTuple):
    """Scores f[q, r, c] at some rows and columns of the original image."""

    rows: slice
    columns: slice
    scores: Tensor


def labels_by_tiles(scores: Tensor, size: tuple[int, int], decide_tile: Callable[[Tensor], Tensor]) -> Tensor:
    """Labels i64[H, W] of merged scores f[q, h, w], where ``decide_tile`` turns f[q, r, c] into i64[r, c]."""
    labels = torch.empty(size, dtype=torch.int64, device=scores.device)
    for tile in upsampled_tiles(scores, size, TILE_CPU if scores.device.type == "cpu" else TILE_GPU):
        labels[tile.rows, tile.columns] = decide_tile(tile.scores)
    return labels


def upsampled_tiles(scores: Tensor, size: tuple[int, int], elements: int) -> Iterator[Tile]:
    """`upsample` in tiles of about so many elements, but not below 8 rows of 64 pixels.

    On the CPU its values, to the last bit unless the whole is ``SMALL``: first along the rows of the source, then
    between two of them, in the same order of operations.
    """
    (q, h, _), (height, width) = scores.shape, size
    rows = min(max(elements // (q * width), 8), height)
    columns = min(max(elements // (q * rows), 64), width)
    if (rows, columns) == size:
        yield Tile(slice(0, height), slice(0, width), upsample(scores, size))
        return
    above, below, share = _source_rows(h, height)
    for start in range(0, height, rows):
        band = slice(start, min(start + rows, height))
        first, last = int(above[band.start]), int(below[band.stop - 1])
        source = F.pad(scores[:, first : last + 1], (0, 0, 0, max(SMALL - width - (last - first), 0)))
        wide = F.interpolate(source[None], (source.shape[1], width), mode="bilinear")[0]
        upper, lower = ((index[band] - first).to(scores.device) for index in (above, below))
        weight = share[band].to(scores.device)
        for left in range(0, width, columns):
            part = wide[..., left : left + columns]
            tile = part.index_select(1, lower).mul_(weight).addcmul_(part.index_select(1, upper), 1 - weight)
            yield Tile(band, slice(left, left + part.shape[2]), tile)


def _source_rows(source: int, target: int) -> tuple[Tensor, Tensor, Tensor]:
    """For every target row the source rows above and below it, i64[target], and the share of the lower f[target, 1]."""
    place = (torch.arange(target, dtype=torch.float32) + 0.5) * (torch.tensor(float(source)) / target) - 0.5
    place = place.clamp_(min=0)
    above = place.long().clamp_(max=source - 1)
    return above, (above + 1).clamp_(max=source - 1), (place - above)[:, None]
