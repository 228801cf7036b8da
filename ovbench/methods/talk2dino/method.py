"""Talk2DINO (Barsellotti et al., ICCV 2025, arXiv 2411.19331): CLIP's text embeddings in DINOv2's patch space.

Follows lorebianchi98/Talk2DINO 4918c2d, src/open_vocabulary_segmentation. Symbols: B windows; P = gh*gw patches; C
their width; M heads of the last block; Q queries.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.base import Loaded
from ovbench.methods.base import Backbones, Batch, Method, Queries
from ovbench.methods.declarations import Talk2DINODeclaration
from ovbench.methods.ops import Decision, Pad, class_probabilities, uncut
from ovbench.methods.talk2dino.projection import check_partners, check_widths

EPS = 1e-6  # of every normalisation


class WindowFeatures(NamedTuple):
    """Features of windows.

    Attributes:
        tokens: Patch tokens x, float (B, P, C).
        head_maps: a, float (B, M, P), logits of the attention of the class token to the patches in the last block.
        grid: Rows and columns of patches, (gh, gw).
    """

    tokens: Tensor
    head_maps: Tensor
    grid: tuple[int, int]


class Talk2DINO(Talk2DINODeclaration, Method):
    """Compare patches of DINOv2 with psi of the class names; attention heads that fit a class raise its foreground."""

    raw_text = True
    background_channel = True
    enlarges_once = False
    windowwise = True

    def __init__(self, backbones: Backbones, params: Any = None):
        super().__init__(backbones, params)
        check_widths(self.psi, vision=self.dinov2.width)

    @classmethod
    def check_backbones(cls, loaded: Mapping[str, Loaded], protocol: Any) -> None:
        """Check that psi was trained between the backbones in use."""
        super().check_backbones(loaded, protocol)
        check_partners(loaded["psi"].vision, {name: one.sha256 for name, one in loaded.items()})

    def map_queries(self, queries: Queries) -> Queries:
        """Return psi of the mean text feature of each query, float (Q, C) of length 1."""
        check_widths(self.psi, text=queries.embeddings.shape[-1])
        return queries._replace(embeddings=F.normalize(self.psi(queries.embeddings), dim=-1, eps=EPS))

    def encode(self, batch: Batch) -> WindowFeatures:
        """Return patch tokens and head maps of windows, float (B, 3, H, W)."""
        windows, side = batch.windows, self.params.side
        if side and tuple(windows.shape[-2:]) != (side, side):
            windows = F.interpolate(windows, (side, side), mode="bilinear", align_corners=False)
        batch.note("model_input", windows)
        x, looks, grid = self.dinov2(windows)
        return WindowFeatures(x, self.params.attn_scale * looks, grid)

    def score(self, features: WindowFeatures, queries: Queries) -> Tensor:
        """Return the sigmoid of the cosines (section 3.3), cleaned if asked, float (B, Q, gh, gw)."""
        x = F.normalize(features.tokens, dim=-1, eps=EPS)
        masks = (queries.embeddings @ x.mT).sigmoid()  # M = sigmoid(S), (B, Q, P)
        if self.params.clean:
            foreground = cleaning_map(features, queries.embeddings, masks)
            masks = (masks + self.params.lambda_bg * foreground) / (1 + self.params.lambda_bg)
        return masks.unflatten(2, features.grid)

    def window_scores(self, scores: Tensor, size: tuple[int, int], pad: Pad) -> Tensor:
        """Return scores at the pixels of the window, float (B, Q, H, W); corners are aligned as in official code."""
        return uncut(scores, size, pad, align_corners=True)

    def probabilities(self, scores: Tensor, queries: Queries, decision: Decision) -> Tensor:
        """Return class probabilities; a background without a query scores ``bg_thresh`` at every pixel."""
        index, background = queries.class_index, queries.background
        classes = queries.classes
        if background is not None and background not in classes:
            place = bisect(classes, background)
            constant = torch.full_like(scores[:1], self.params.bg_thresh)
            scores = torch.cat([scores[:place], constant, scores[place:]])
            index = torch.cat([index[:place], torch.full_like(index[:1], background), index[place:]])
        return class_probabilities(scores, index, decision, max(classes[-1], background or 0) + 1)


def image_embeddings(features: WindowFeatures) -> Tensor:
    """Return for each head the mean of the patches it attends to, float (B, M, C): the image side of training (3.2).

    Registers and class token are not in the softmax. The mean has a factor 1 / P, which normalisation removes.
    """
    return features.head_maps.softmax(-1) @ features.tokens / features.tokens.shape[1]


def cleaning_map(features: WindowFeatures, q: Tensor, masks: Tensor) -> Tensor:
    """Return the map F, float (B, Q, P), of where the heads that fit a class look (background cleaning, section 3.4).

    Args:
        features: Features of the windows.
        q: Queries, float (Q, C).
        masks: M, float (B, Q, P); F gets its range.
    """
    attention = (head_weights(head_embeddings(features), q) @ features.head_maps).softmax(-1)
    return _to_range_of(attention, masks)


def head_embeddings(features: WindowFeatures) -> Tensor:
    """Return for each head the mean of the patches with its logits as signed weights, float (B, M, C) of length 1."""
    return F.normalize(features.head_maps @ features.tokens / features.tokens.shape[1], dim=-1, eps=EPS)


def head_weights(heads: Tensor, q: Tensor) -> Tensor:
    """Return how well each head fits a class, float (B, Q, M): softmax over the heads of their cosines."""
    return (q @ heads.mT).softmax(-1)


def _to_range_of(attention: Tensor, masks: Tensor) -> Tensor:
    """Map ``attention``, float (B, Q, P), to the range of ``masks``, over all classes and patches of a window.

    The official code divides by the maximum instead of max - min, so the upper end of the range is not reached.
    """
    low, high = attention.amin((1, 2), keepdim=True), attention.amax((1, 2), keepdim=True)
    bottom, top = masks.amin((1, 2), keepdim=True), masks.amax((1, 2), keepdim=True)
    return (attention - low) / high * (top - bottom) + bottom
