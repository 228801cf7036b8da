"""The contrastive loss of Talk2DINO between captions and the image embeddings of attention heads."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

LOGIT_SCALE = 1 / 0.07
EPS = 1e-12  # lower bound of a norm


class Selected(NamedTuple):
    """The chosen unit embedding of each pair's image, float (B, C), and its attention head, int64 (B,)."""

    vectors: Tensor
    heads: Tensor


@torch.no_grad()
def select_heads(text: Tensor, images: Tensor) -> Selected:
    """Select for each pair the attention head whose embedding is most similar to the caption.

    The selected embedding is also compared with all other captions.

    Args:
        text: psi of the captions, unit vectors, float (B, C).
        images: One embedding per head, float (B, heads, C).
    """
    images = F.normalize(images, dim=-1, eps=EPS)
    heads = torch.einsum("bc,bmc->bm", text, images).argmax(1)
    return Selected(images[torch.arange(len(heads), device=heads.device), heads], heads)


def unit(vectors: Tensor) -> Tensor:
    """Return vectors, float (..., C), scaled to length 1."""
    return F.normalize(vectors, dim=-1, eps=EPS)


def info_nce(similarity: Tensor, scale: Tensor | float, *, ignored: Tensor | None = None) -> Tensor:
    """Return the symmetric cross-entropy of a batch, whose positives are on the diagonal.

    The official loss divides this by the squared batch.

    Args:
        similarity: Cosines of captions (rows) and images (columns), float (B, B).
        scale: Factor of the cosines.
        ignored: Pairs that are neither positive nor negative, bool (B, B).
    """
    logits = scale * similarity
    if ignored is not None:
        logits = logits.masked_fill(ignored, -torch.inf)
    target = torch.arange(len(logits), device=logits.device)
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


def false_negatives(images: Tensor, texts: Tensor) -> Tensor:
    """Mark the pairs off the diagonal that have the same image or the same text.

    Args:
        images: Image number of each pair, int64 (B,).
        texts: Text number of each pair, int64 (B,).

    Returns:
        bool (B, B).
    """
    same = (images[:, None] == images) | (texts[:, None] == texts)
    return same & ~torch.eye(len(images), dtype=torch.bool, device=images.device)
