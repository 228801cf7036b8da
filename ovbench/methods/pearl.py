"""PEARL: rotate the keys of the last block towards its queries, and propagate the merged scores along the image.

Symbols: B windows; T = 1 + N tokens, class token first; H heads; E width of a head; s = E^-1/2; Q queries; hs x ws
cells of the solver's grid.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ovbench.backbones.clip import Heads
from ovbench.methods.base import Batch, Method, Note, PatchFeatures, Queries, WindowedImage
from ovbench.methods.declarations import PEARLDeclaration
from ovbench.methods.propagation import TINY, Propagation


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
        return Propagation(self.params)(scores, queries, image) if self.params.propagate else scores


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
