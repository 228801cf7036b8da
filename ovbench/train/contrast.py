"""The loss of Talk2DINO: captions against the image embeddings that their attention heads offer."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOGIT_SCALE = 1 / 0.07
EPS = 1e-12  # of every normalisation


class Selected(NamedTuple):
    """The chosen embedding of each pair's image f[b, c], of length 1, and the head it belongs to i64[b]."""

    vectors: Tensor
    heads: Tensor


@torch.no_grad()
def select_heads(text: Tensor, images: Tensor) -> Selected:
    """For each pair the head of its image that fits its own caption best; it also serves all other captions.

    Args:
        text: f[b, c] of length 1, psi of the captions.
        images: f[b, m, c] one embedding a head.
    """
    images = F.normalize(images, dim=-1, eps=EPS)
    heads = torch.einsum("bc,bmc->bm", text, images).argmax(1)
    return Selected(images[torch.arange(len(heads), device=heads.device), heads], heads)


def unit(vectors: Tensor) -> Tensor:
    """Vectors f[..., c] brought to length 1."""
    return F.normalize(vectors, dim=-1, eps=EPS)


def info_nce(similarity: Tensor, scale: Tensor | float, *, ignored: Tensor | None = None) -> Tensor:
    """Symmetric cross-entropy of cosines f[b, b], captions in rows and images in columns, towards the diagonal.

    ``ignored`` b[b, b] marks what is neither positive nor negative. The official loss divides this by b squared.
    """
    logits = scale * similarity
    if ignored is not None:
        logits = logits.masked_fill(ignored, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def false_negatives(image: Tensor, words: Tensor) -> Tensor:
    """Pairs off the diagonal with the same image or the same words: b[b, b] from two numberings i64[b]."""
    same = (image[:, None] == image) | (words[:, None] == words)
    return same & ~torch.eye(len(image), dtype=torch.bool, device=image.device)
