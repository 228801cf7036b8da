"""LPOSS: propagate the scores of all patches of an image on one graph; LPOSS+ also propagates over its pixels.

Symbols: W windows with S cells of DINO's grid each, N = W * S patches, Q queries, k neighbours.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.normalization import per_channel
from ovbench.methods.base import Batch, Method, Queries, WindowedImage
from ovbench.methods.declarations import LPOSSDeclaration
from ovbench.methods.ops import Decision
from ovbench.methods.pixel_graph import PixelGraph, scaled_lab
from ovbench.methods.sparse_solver import conjugate_gradient, nearest_neighbours

TOLERANCE = 1e-6  # a column stops at this residual, relative to its scores; ten steps never reach it
BLOCK = 1 << 24  # elements of some rows of the graph's matrix, which are in memory at once
CHUNK = 1 << 25  # values of the maps of some queries, which are propagated over pixels at once


class WindowPatches(NamedTuple):
    """Features of windows on the grid of DINO, normalised.

    Attributes:
        guide: float (W, S, C), DINO's values.
        clip: float (W, S, D), in the joint space.
        grid: (gh, gw), S = gh * gw.
    """

    guide: Tensor
    clip: Tensor
    grid: tuple[int, int]


class PatchGraph(NamedTuple):
    """The graph a + a^T, where row i of a has the edges from patch i to its neighbours.

    Attributes:
        weight: float (N, k), 0 for the patch itself.
        index: int64 (N, k), numbers of the neighbours.
    """

    weight: Tensor
    index: Tensor

    def apply(self, x: Tensor) -> Tensor:
        """Return (a + a^T) x for x float (N, Q), with some rows of a at a time as a dense matrix.

        The sums of a dense product have a fixed order, unlike those of an addition by index on a GPU.
        """
        count, total = len(x), torch.zeros_like(x)
        step = max(BLOCK // count, 1)
        for start in range(0, count, step):
            rows = slice(start, min(start + step, count))
            a = x.new_zeros(rows.stop - start, count).scatter_(1, self.index[rows], self.weight[rows])
            total[rows] += a @ x
            total += a.mT @ x[rows]
        return total

    def normalised(self, degree: Tensor) -> PatchGraph:
        """Return D^-1/2 (a + a^T) D^-1/2 for the degrees float (N,); a degree of 0 counts as 1."""
        scale = torch.where(degree > 0, degree, 1.0).rsqrt()
        return self._replace(weight=self.weight * scale[:, None] * scale[self.index])


class JoinedPatches(NamedTuple):
    """What `LPOSS.score` needs of all windows.

    Attributes:
        graph: The normalised graph.
        clip: float (W, S, D), normalised.
        grid: (gh, gw), S = gh * gw.
    """

    graph: PatchGraph
    clip: Tensor
    grid: tuple[int, int]


class LPOSS(LPOSSDeclaration, Method):
    """Smooth MaskCLIP's scores of all patches of all windows on one graph from DINO, solved by ten steps.

    Paper: Stojnic et al., "LPOSS: Label Propagation Over Patches and Pixels for Open-vocabulary Semantic
    Segmentation", CVPR 2025, arXiv 2503.19777. Code: vladan-stojnic/LPOSS e489a74. Ten steps of conjugate gradients do
    not reach the solution; they are part of the method.
    """

    windowwise = True

    def encode(self, batch: Batch) -> WindowPatches:
        """Return the features of the windows."""
        windows = self.padded(batch.windows)
        _, k, v, grid = self.dino.last_qkv(self.seen_by(self.dino, windows))
        guide = F.normalize(v if self.params.features == "values" else k, dim=-1)
        tokens, clip_grid = self.clip.embed(windows, smooth_positions=True, antialias=False)
        last, x = self.clip.blocks[-1], self.clip.trunk(tokens)[:, 1:]
        x = x + last.ls_1(last.attn.out_proj(self.clip.values(last, last.ln_1(x))))
        clip = F.normalize(self.clip.project(self.clip.feed_forward(last, x)), dim=-1)  # (B, S', D)
        if clip_grid != grid:
            maps = F.interpolate(clip.mT.unflatten(2, clip_grid), grid, mode="bilinear", align_corners=False)
            clip = F.normalize(maps.flatten(2).mT, dim=-1)
        batch.note("guide", guide)
        batch.note("clip", clip)
        return WindowPatches(guide, clip, grid)

    def padded(self, windows: Tensor) -> Tensor:
        """Return windows float (B, 3, h, w) with black at the right and below, up to multiples of the patches.

        Scores of the padded window are stretched over the window, not cut, as in the official code.
        """
        height, width = windows.shape[-2:]
        multiple = math.lcm(self.clip.patch, self.dino.patch)
        if not (height % multiple or width % multiple):
            return windows
        mean, std = (per_channel(tuple(values), windows) for values in self.normalisation)
        size = (len(windows), 3, height + -height % multiple, width + -width % multiple)
        padded = (-mean / std).expand(size).clone()
        padded[..., :height, :width] = windows
        return padded

    def join(self, features: WindowPatches, image: WindowedImage) -> JoinedPatches:
        """Return the graph over the patches of all windows, with the features to score."""
        guide, p = features.guide.flatten(0, 1), self.params
        similarity, index = nearest_neighbours(guide, p.neighbours)  # (N, k)
        at = self.positions(image, features.grid)
        distance = (at[:, None] - at[index]).norm(dim=-1)
        weight = similarity.clamp(min=0) ** p.gamma * torch.exp(-p.sigma * distance**p.distance_power)
        itself = index == torch.arange(len(index), device=index.device)[:, None]
        graph = PatchGraph(weight.masked_fill(itself, 0), index)
        degree = graph.apply(torch.ones_like(at[:, :1]))[:, 0]
        normalised = graph.normalised(degree)
        for name, value in (("locations", at), ("graph", graph), ("degree", degree), ("normalised", normalised)):
            image.note(name, value)
        return JoinedPatches(normalised, features.clip, features.grid)

    def positions(self, image: WindowedImage, grid: tuple[int, int]) -> Tensor:
        """Return the centres (y, x) of all patches in pixels of the resized image, float (N, 2)."""
        step, device = self.dino.patch, image.resized.device
        centres = []
        for box in image.boxes:
            starts = (box.y1 - image.pad.top, box.x1 - image.pad.left)
            axes = [
                torch.arange(cells, device=device) * step + (start + step // 2)
                for cells, start in zip(grid, starts, strict=True)
            ]
            centres.append(torch.stack(torch.meshgrid(*axes, indexing="ij"), -1).flatten(0, 1))
        return torch.cat(centres).to(image.resized.dtype)

    def score(self, features: JoinedPatches, queries: Queries) -> Tensor:
        """Return the propagated scores of all windows, float (W, Q, gh, gw)."""
        cosines = features.clip.flatten(0, 1) @ queries.embeddings.T  # Y, (N, Q)
        scores = self.solve(features.graph, cosines, axes=(0,)) if self.params.patches else cosines
        return scores.unflatten(0, features.clip.shape[:2]).mT.unflatten(2, features.grid)

    def solve(self, graph: PatchGraph | PixelGraph, scores: Tensor, axes: tuple[int, ...]) -> Tensor:
        """Return X of (I - alpha A) X = scores after some steps; each query has step lengths of its own."""
        return conjugate_gradient(
            lambda x: x - self.params.alpha * graph.apply(x),
            scores,
            steps=self.params.cg_steps,
            axes=axes,
            tolerance=TOLERANCE,
        )

    def adjust(self, scores: Tensor, queries: Queries, image: WindowedImage) -> Tensor:
        """Return class scores float (C, h, w), each the largest of its queries.

        LPOSS+ propagates the scores of all queries over pixels before. The official code has synonyms only of the first
        class, the background.
        """
        if self.params.pixels:
            scores = self.propagate_over_pixels(scores, image)
        classes = queries.classes[-1] + 1
        if classes == len(scores):
            return scores
        index = queries.class_index[:, None, None].expand_as(scores)
        return scores.new_zeros(classes, *image.size).scatter_reduce(0, index, scores, "amax", include_self=False)

    def propagate_over_pixels(self, scores: Tensor, image: WindowedImage) -> Tensor:
        """Return scores float (Q, h, w) after the propagation over the pixels of the resized image."""
        mean, std = (per_channel(tuple(values), image.resized) for values in self.normalisation)
        lab = scaled_lab((image.resized * std + mean).round() / 255)  # the resized image has whole numbers
        graph = PixelGraph.of(lab, self.params.pixel_window // 2, self.params.tau)
        degree = graph.apply(torch.ones_like(scores[:1]))[0]
        graph = graph.normalised(degree)
        few = max(CHUNK // scores[0].numel(), 1)
        scores = torch.cat([self.solve(graph, part, axes=(1, 2)) for part in scores.split(few)])
        for name, value in (("lab", lab), ("pixel_degree", degree), ("pixel_scores", scores)):
            image.note(name, value)
        return scores

    def probabilities(self, scores: Tensor, queries: Queries, decision: Decision) -> Tensor:
        """Return the softmax of class scores float (C, H, W)."""
        return (scores * decision.logit_scale).softmax(0)
