"""Propagate merged scores along the edges of an image, weighted by the similarity of the queries: PEARL's TLP.

It is a step of PEARL, and refines the scores of other methods too.

Symbols: Q queries; hs x ws cells of the solver's grid.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.base import Note, Queries, WindowedImage
from ovbench.methods.bilinear import enlarge
from ovbench.methods.params import PEARLParams
from ovbench.methods.sparse_solver import conjugate_gradient

TINY = 1e-6  # of the official code, in every denominator but those of the solver
LUMA = (0.299, 0.587, 0.114)  # weights of red, green and blue in gray
FLOOR = 0.05  # least confidence
CHUNK = 1 << 24  # values of the enlarged scores in memory at once


class Graph(NamedTuple):
    """The linear system of the propagation: (diag(C) + Lap(w)) F = C l.

    Attributes:
        data: C float (hs, ws), weight of the data term.
        horizontal: float (hs, ws - 1), weights between horizontal neighbours.
        vertical: float (hs - 1, ws), weights between vertical neighbours.
    """

    data: Tensor
    horizontal: Tensor
    vertical: Tensor

    @property
    def diagonal(self) -> Tensor:
        """Return the diagonal of the system, float (hs, ws): the Laplacian has 4 neighbours and no wrap."""
        found = self.data + F.pad(self.horizontal, (1, 0)) + F.pad(self.horizontal, (0, 1))
        return found + F.pad(self.vertical, (0, 0, 1, 0)) + F.pad(self.vertical, (0, 0, 0, 1))

    def apply(self, diagonal: Tensor, f: Tensor) -> Tensor:
        """Return the left-hand side for f float (Q, hs, ws)."""
        result = diagonal * f
        result[..., 1:].addcmul_(self.horizontal, f[..., :-1], value=-1)
        result[..., :-1].addcmul_(self.horizontal, f[..., 1:], value=-1)
        result[..., 1:, :].addcmul_(self.vertical, f[..., :-1, :], value=-1)
        result[..., :-1, :].addcmul_(self.vertical, f[..., 1:, :], value=-1)
        return result


class Propagation:
    """TLP with the parameters of PEARL; numbers of steps are those of the official code."""

    def __init__(self, params: PEARLParams):
        self.params = params

    def __call__(self, scores: Tensor, queries: Queries, image: WindowedImage) -> Tensor:
        """Return the scores on the solver's grid after the propagation.

        Args:
            scores: float (Q, h, w), cosines at the size of the resized image.
            queries: Their queries.
            image: The image.

        Returns:
            float (Q, hs, ws).
        """
        # 2. box means at the original size; remainders of the boxes are dropped
        boxes = tuple(max(1, round(side / self.params.grid)) for side in image.original)
        few = max(CHUNK // (image.original[0] * image.original[1]), 1)
        l = torch.cat([box_means(part, image.original, boxes) for part in scores.split(few)])
        red, green, blue = box_means(image.resized, image.original, boxes)
        gray = LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue
        text = self.text_matrix(queries.embeddings)
        graph = self.graph(l, gray, text, image.note)
        # 6. step lengths are those of all queries together
        solution = conjugate_gradient(
            partial(graph.apply, graph.diagonal), graph.data * l, start=l, steps=self.params.cg_iters, axes=(0, 1, 2),
            epsilon=1e-12,
        )  # fmt: skip
        for name, value in (
            ("text_matrix", text), ("grid_logits", l), ("grid_gray", gray), ("data_weight", graph.data),
            ("edge_h", graph.horizontal), ("edge_v", graph.vertical), ("solution", solution),
        ):  # fmt: skip
            image.note(name, value)
        return solution  # 7. enlarged to the original size by the pipeline

    def text_matrix(self, text: Tensor) -> Tensor:
        """Return S float (Q, Q), row-normalised, from query embeddings float (Q, D) (step 1)."""
        similar = (text @ text.T / self.params.tau).softmax(-1)
        similar = similar + self.params.boost * torch.eye(len(text), device=text.device)
        return similar / (similar.sum(-1, keepdim=True) + TINY)

    def graph(self, l: Tensor, gray: Tensor, text: Tensor, note: Note) -> Graph:
        """Return the weights of the system (steps 3 to 5).

        Args:
            l: float (Q, hs, ws), cosines on the grid.
            gray: float (hs, ws), guidance.
            text: S float (Q, Q).
            note: Called with the name and value of intermediate tensors.
        """
        p = l.softmax(0)  # of raw cosines, so nearly flat
        sp = torch.einsum("cd,dhw->chw", text, p) if self.params.text == "full" else text.diagonal()[:, None, None] * p
        agree = (p * sp).sum(0).clamp(0, 1) if self.params.agree else torch.zeros_like(gray)
        note("agree", agree)
        data = p.amax(0).clamp(min=FLOOR).square() * (1 + agree)
        across = self.edges(gray.diff(dim=1), (p[..., 1:] * sp[..., :-1]).sum(0))
        down = self.edges(gray.diff(dim=0), (p[..., 1:, :] * sp[..., :-1, :]).sum(0))
        return Graph(data, across, down)

    def edges(self, difference: Tensor, common: Tensor) -> Tensor:
        """Return edge weights in [0, 1] from gray differences and common probabilities of neighbours (step 5)."""
        step = difference.abs()
        gain = 1 + common.clamp(0, 1) if self.params.agree else 1.0
        return (torch.exp(-self.params.k_edge * step / (step.mean() + TINY)) * gain).clamp(0, 1)


def box_means(maps: Tensor, size: tuple[int, int], boxes: tuple[int, int]) -> Tensor:
    """Enlarge maps float (Q, h, w) to a size and return the means of boxes, remainders dropped, float (Q, hs, ws)."""
    return F.avg_pool2d(enlarge(maps, size), boxes)
