"""PEARL: rotate the keys of the last block towards its queries, and propagate the merged scores along the image.

Symbols: B windows; T = 1 + N tokens, class token first; H heads; E width of a head; s = E^-1/2; Q queries; hs x ws
cells of the solver's grid.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.clip import Heads
from ovbench.methods.base import Batch, Method, Note, PatchFeatures, Queries, WindowedImage
from ovbench.methods.bilinear import enlarge
from ovbench.methods.declarations import PEARLDeclaration
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

    def apply(self, f: Tensor) -> Tensor:
        """Return the left-hand side for f float (Q, hs, ws); the Laplacian has 4 neighbours and no wrap."""
        result = self.data * f
        flow = self.horizontal * (f[..., 1:] - f[..., :-1])
        result[..., 1:] += flow
        result[..., :-1] -= flow
        flow = self.vertical * (f[..., 1:, :] - f[..., :-1, :])
        result[..., 1:, :] += flow
        result[..., :-1, :] -= flow
        return result


class PEARL(PEARLDeclaration, Method):
    """Align the keys of the last block with its queries (PA), and propagate scores with text and image (TLP).

    Paper: "Geometry Aligns Semantics for Training-Free Open-Vocabulary Semantic Segmentation", CVPR 2026,
    arXiv 2603.21528. Code: PGSmall/PEARL c26062b. Five polar steps do not reach a rotation, and 25 solver steps do not
    reach the solution: both are part of the method.
    """

    windowwise = True
    enlarges_once: ClassVar[bool] = False

    # PA: the last block, without residual and feed-forward

    def encode(self, batch: Batch) -> PatchFeatures:
        """Return the features of the windows."""
        tokens, grid = self.clip.embed(batch.windows)
        x = self.clip.trunk(tokens)  # (B, T, C)
        last = self.clip.blocks[-1]
        heads = self.clip.project_heads(last, last.ln_1(x))
        weights = self.attention_logits(heads, batch.note).softmax(-1)  # (B, H, T, T)
        attended = self.clip.merge_heads(last, weights @ heads.v)
        for name, value in (("tokens_before_last", x), ("attention", weights), ("last", attended)):
            batch.note(name, value)
        return PatchFeatures(self.clip.project(attended[:, 1:]), grid)

    def attention_logits(self, heads: Heads, note: Note) -> Tensor:
        """Return s q (k R)^T + alpha_kk s kc kc^T, float (B, H, T, T); kc are the centred keys, not rotated."""
        q, k, _ = heads
        scale = q.shape[-1] ** -0.5
        if not self.params.align:
            return scale * q @ k.mT
        weight = q.norm(dim=-1, keepdim=True)  # (B, H, T, 1): by the queries, for both means
        weight = torch.cat([torch.zeros_like(weight[:, :, :1]), weight[:, :, 1:]], 2)  # the class token is in no mean
        weight = weight / (weight.sum(2, keepdim=True) + TINY)
        qc, kc = (x - (weight * x).sum(2, keepdim=True) for x in (q, k))  # of all tokens, the class token included
        m = kc.mT @ qc  # (B, H, E, E), summed over all tokens
        rotation = self.rotation(m)
        note("correlation", m)
        note("rotation", rotation)
        logits = scale * q @ (k @ rotation).mT
        return logits + self.params.alpha_kk * scale * kc @ kc.mT if self.params.alpha_kk else logits

    def rotation(self, m: Tensor) -> Tensor:
        """Return R, the approximate or exact polar factor of correlations float (B, H, E, E)."""
        if self.params.align_solver == "svd":
            u, _, vt = torch.linalg.svd(m)
            return u @ vt
        return polar_factor(m, self.params.polar_iters)

    # TLP: the merged scores of the image

    def adjust(self, scores: Tensor, queries: Queries, image: WindowedImage) -> Tensor:
        """Return the scores (Q, hs, ws) on the solver's grid after the propagation."""
        if not self.params.propagate:
            return scores
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
            graph.apply, graph.data * l, start=l, steps=self.params.cg_iters, axes=(0, 1, 2), epsilon=1e-12
        )
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


def polar_factor(m: Tensor, steps: int) -> Tensor:
    """Return the polar factor of square matrices by Newton-Schulz steps on m^T m.

    Args:
        m: float (..., E, E).
        steps: Number of steps; few leave directions of small singular values small.

    Returns:
        float (..., E, E).
    """
    a = m.mT @ m
    nu = a.flatten(-2).norm(dim=-1).clamp(min=TINY)[..., None, None]
    eye = torch.eye(m.shape[-1], dtype=m.dtype, device=m.device)
    y, z = a / nu + TINY * eye, eye
    for _ in range(steps):
        u = (3 * eye - z @ y) / 2
        y, z = y @ u, u @ z
    return m @ z / nu.sqrt()


def box_means(maps: Tensor, size: tuple[int, int], boxes: tuple[int, int]) -> Tensor:
    """Enlarge maps float (Q, h, w) to a size and return the means of boxes, remainders dropped, float (Q, hs, ws)."""
    return F.avg_pool2d(enlarge(maps, size), boxes)
