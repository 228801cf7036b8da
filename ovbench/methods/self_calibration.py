"""What SC-CLIP, SFP and DiH-CLIP have in common: middle blocks of CLIP calibrate the tokens of the last one.

Symbols: B windows; N = gh * gw patches; C width; H heads; t[i] the tokens (B, 1 + N, C) after block i, counted from 0,
class token first; X the patches that enter the last block and c its class token; S and T cosines (B, N, N) between
patches of middle blocks; M attention weights (B, N, N) made from S.
"""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.clip import Watch
from ovbench.methods.base import Backbones, Note, PatchFeatures, no_note
from ovbench.methods.params import CalibrationParams
from ovbench.methods.proxyclip import proxy_attention
from ovbench.methods.sclip import SCLIP
from ovbench.utils.errors import UsageError, warn_once

EPS = 1e-6  # added to sums of similarities before dividing by them


class Prepared(NamedTuple):
    """What a method makes of the tokens before they are calibrated.

    Attributes:
        x: float (B, N, C), patches that go through the last block.
        guide: float (B, N, C), patches of the pre level, whose cosines are S.
    """

    x: Tensor
    guide: Tensor


class SelfCalibrated(SCLIP):
    """Run the steps of SC-CLIP's code; override `prepare` and `attend`. Windows and decision are SCLIP's."""

    uses_fp64 = True
    cut_attention: ClassVar[bool] = False  # whether M is made from the cut S
    advice: ClassVar[str] = ""  # the levels for another size of the tower, as settings

    def __init__(self, backbones: Backbones, params: Any = None):
        super().__init__(backbones, params)
        p = self.params
        self.last_level = self.clip.layers - 2  # t[last_level] enters the last block
        levels = {"pre_level": p.pre_level, "post_level": p.post_level, "multi_start": p.multi_start}
        for name, level in {**levels, "multi_end": p.multi_end - 1}.items():
            if not 0 <= level <= self.last_level:
                raise UsageError(
                    f"{name} is {getattr(p, name)}, but the blocks before the last one are 0 to {self.last_level}",
                    where=type(self).__name__,
                    fix=f"give {', '.join([*levels, 'multi_end'])} for a tower of {self.clip.layers} blocks",
                )
        usual = all(getattr(p, name) == getattr(CalibrationParams, name) for name in levels)
        if self.clip.layers != 12 and usual:
            warn_once(
                f"the levels of {type(self).__name__} are those for 12 blocks; this tower has {self.clip.layers}"
                + (f": ViT-L/14 has {self.advice}" if self.advice else "")
            )

    def dense(self, windows: Tensor, note: Note = no_note, watch: Watch | None = None) -> PatchFeatures:
        """Return the patch features of windows float (B, 3, h, w); see `LastBlock.dense`."""
        p = self.params
        embedded, grid = self.clip.embed(windows)
        t = self.levels(embedded, watch)
        note("tokens_before_last", t[self.last_level])
        x, guide = self.prepare(t, grid, note)  # steps 1 and 2, (B, N, C)
        s, s_cut = cosines(guide, p.beta)  # (B, N, N)
        m = proxy_attention(s_cut if self.cut_attention else s, 1.0, 3.0)  # M = softmax(3 (S - mean(S)), if positive)
        t_cut = cosines(t[p.post_level][:, 1:], p.beta).cut
        for name, value in (("similarity", s), ("similarity_cut", s_cut), ("mixing", m), ("post_similarity", t_cut)):
            note(name, value)

        x = self.average(x, s_cut)  # step 3
        note("tokens_aggregated", x)
        x = self.attend(x, m, "last", note) + p.res_cls * t[self.last_level][:, :1]  # step 4
        note("last", x)
        x = self.average(x, t_cut)  # step 5
        note("last_aggregated", x)
        if p.multi:
            levels = sum(t[i] for i in range(p.multi_start, p.multi_end))  # step 6
            note("multi_sum", levels)
            middle = self.attend(levels[:, 1:], m, "multi", note) + p.res_cls * levels[:, :1]
            note("multi", middle)
            middle = self.average(middle, t_cut)
            note("multi_aggregated", middle)
            x = x + middle  # step 7
        note("sum", x)
        return PatchFeatures(self.clip.project(x), grid)

    def levels(self, embedded: Tensor, watch: Watch | None) -> dict[int, Tensor]:
        """Return the t[i] that the steps use, each float (B, 1 + N, C); t[-1] enters the first block."""
        used = sorted(self.used_levels())
        return dict(zip(used, self.clip.states(embedded, [i + 1 for i in used], watch=watch), strict=True))

    def used_levels(self) -> set[int]:
        """Return the i of the t[i] that the steps use."""
        p = self.params
        summed = range(p.multi_start, p.multi_end) if p.multi else ()
        return {p.pre_level, p.post_level, *summed, self.last_level}

    def prepare(self, t: dict[int, Tensor], grid: tuple[int, int], note: Note) -> Prepared:
        """Return the patches that the steps start from; the plain ones here."""
        return Prepared(t[self.last_level][:, 1:], t[self.params.pre_level][:, 1:])

    def average(self, x: Tensor, similarity: Tensor) -> Tensor:
        """Return the average of patches float (B, N, C), weighted by cut similarities float (B, N, N)."""
        return similarity @ x / (similarity.sum(-1, keepdim=True) + EPS) if self.params.average else x

    def attend(self, x: Tensor, m: Tensor, step: str, note: Note) -> Tensor:
        """Return the attention of the last block on patches, without residual and feed-forward: O(A v).

        Args:
            x: float (B, N, C), patches before ``ln_1``.
            m: M, float (B, N, N).
            step: "last" or "multi", the first part of names of notes.
            note: Called with names and values.

        Returns:
            float (B, N, C).
        """
        raise NotImplementedError


class Cosines(NamedTuple):
    """Cosines float (B, N, N), and the same with those below beta set to 0."""

    all: Tensor
    cut: Tensor


def cosines(tokens: Tensor, beta: float) -> Cosines:
    """Return the cosines of all pairs of tokens float (B, N, C) of a window."""
    tokens = F.normalize(tokens, dim=-1)
    found = tokens @ tokens.mT
    return Cosines(found, found.masked_fill(found < beta, 0))


def repair(tokens: Tensor, outliers: Tensor, grid: tuple[int, int]) -> Tensor:
    """Replace outliers by the mean of their up to 8 neighbours that are none.

    An outlier whose neighbours are all outliers stays as it is.

    Args:
        tokens: float (B, N, C), row-major over the grid.
        outliers: bool (B, N).
        grid: (gh, gw).

    Returns:
        float (B, N, C).
    """
    sound = (~outliers).to(tokens).unflatten(1, grid)[:, None]  # (B, 1, gh, gw)
    total = sum_3x3(tokens.masked_fill(outliers[..., None], 0).mT.unflatten(2, grid)).flatten(2).mT
    count = sum_3x3(sound).flatten(2).mT  # (B, N, 1); the cell itself counts for no outlier
    return torch.where(outliers[..., None] & (count > 0), total / count.clamp(min=1), tokens)


def sum_3x3(maps: Tensor) -> Tensor:
    """Return the sum of each cell and its neighbours, zero outside, of maps float (B, K, gh, gw)."""
    return F.avg_pool2d(maps, 3, stride=1, padding=1, divisor_override=1)


def squared_distances(tokens: Tensor) -> Tensor:
    """Return the squared Euclidean distances float64 (B, N, N) of tokens float (B, N, C), infinite to itself.

    In fp64, because |a|^2 + |b|^2 - 2ab cancels where outliers are large.
    """
    tokens = tokens.double()
    squares = tokens.square().sum(-1)  # (B, N)
    distances = (squares[:, :, None] + squares[:, None] - 2 * tokens @ tokens.mT).clamp(min=0)
    itself = torch.eye(tokens.shape[1], dtype=torch.bool, device=tokens.device)
    return distances.masked_fill(itself, torch.inf)


def outlier_factors(tokens: Tensor, neighbours: int, *, textbook: bool = False) -> Tensor:
    """Return how much less dense the surroundings of each token are than those of its nearest neighbours.

    With fewer tokens in a window, all others are neighbours.

    Args:
        tokens: float (B, N, C).
        neighbours: Number of nearest neighbours n(i).
        textbook: The local outlier factor of Breunig et al.; if false what SC-CLIP's code computes, the mean over n(i)
            of d_i / d_j with d the squared distance of a token to its last neighbour. (Its reachability takes the
            k-distance of the token itself instead of its neighbour's.)

    Returns:
        float64 (B, N), about 1 for tokens like their neighbours.
    """
    count = min(neighbours, tokens.shape[1] - 1)
    if count < 1:
        return tokens.new_ones(tokens.shape[:2], dtype=torch.float64)
    near = squared_distances(tokens).topk(count, largest=False)
    tiny = torch.finfo(torch.float64).tiny  # equal tokens
    window = torch.arange(len(tokens), device=tokens.device)[:, None, None]
    if textbook:
        distance = near.values.sqrt()  # (B, N, k)
        reach = torch.maximum(distance, distance[..., -1][window, near.indices])
        reach = reach.mean(-1).clamp(min=tiny)  # 1 / local reachability density
    else:
        reach = near.values[..., -1].clamp(min=tiny)  # d
    return (reach[..., None] / reach[window, near.indices]).mean(-1)


def above_quantile(values: Tensor, fraction: float) -> Tensor:
    """Return which values float (B, N) exceed the quantile of their row at ``1 - fraction``, bool (B, N)."""
    ordered = values.sort(-1).values
    position = (1 - fraction) * (values.shape[1] - 1)
    below = int(position)
    threshold = ordered[:, below : below + 2]
    return values > threshold[:, :1].lerp(threshold[:, -1:], position - below)
