"""The CLIP vision tower of open_clip, opened up: its own submodules, called step by step.

Every method of this family differs from CLIP in what it does with the tokens that enter the last block, so the tower
offers the trunk, the parts of a block and the projection separately. ``n = 1 + gh*gw`` tokens, class token first.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench.backbones.pos_embed import resize_positions, resize_positions_smoothly
from ovbench.backbones.preprocess import OPENAI, Normalisation
from ovbench.utils.errors import InputError

# Called with a head's number and its attention weights f[b, n, n], one head after the other.
Watch = Callable[[int, Tensor], None]


class Heads(NamedTuple):
    """Queries, keys and values f[b, heads, n, c / heads] of one block."""

    q: Tensor
    k: Tensor
    v: Tensor


class ClipVision(nn.Module):
    """A frozen ViT tower. ``visual`` is an ``open_clip.transformer.VisionTransformer`` (no attention pooling);
    ``temperature`` is what the checkpoint multiplies cosines with, exp(logit_scale), 100 in OpenAI's;
    ``normalisation`` what its input is normalised with."""

    heavy: ClassVar[tuple[str, ...]] = ("trunk",)  # see `ovbench.inference.precision`

    def __init__(self, visual: nn.Module, temperature: float = 100.0, normalisation: Normalisation = OPENAI):
        super().__init__()
        self.normalisation = normalisation
        if not hasattr(visual, "class_embedding") or getattr(visual, "attn_pool", None) is not None:
            raise InputError(
                f"the vision tower {type(visual).__name__} is not a CLIP ViT with a class token",
                fix="choose an open_clip model whose vision tower is a plain ViT, such as ViT-B-16",
            )
        self.temperature = temperature
        self.visual = visual.eval().requires_grad_(False)
        self.blocks = visual.transformer.resblocks
        self.layers = len(self.blocks)
        self.heads = self.blocks[0].attn.num_heads
        self.patch = visual.conv1.kernel_size[0]
        self.width = visual.conv1.out_channels

    def embed(self, images: Tensor, *, smooth_positions: bool = False) -> tuple[Tensor, tuple[int, int]]:
        """Images f[b, 3, h, w] to the tokens f[b, n, c] that enter the first block, and their grid (gh, gw). A side
        that is no multiple of the patch loses its remainder. ``smooth_positions``: see `resize_positions_smoothly`."""
        patches = self.visual.conv1(images)
        grid = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        cls = self.visual.class_embedding.expand(len(tokens), 1, -1)
        table = self.visual.positional_embedding
        if smooth_positions:
            positions = resize_positions_smoothly(table, tuple(grid))
        else:
            positions = resize_positions(table, tuple(grid), square_only=False)
        return self.visual.ln_pre(torch.cat([cls, tokens], 1) + positions), tuple(grid)

    def trunk(self, tokens: Tensor, *, until: int | None = -1, watch: Watch | None = None) -> Tensor:
        """The ordinary blocks from the first up to ``until`` (exclusive; by default all but the last, None: all)."""
        for block in self.blocks[:until]:
            tokens = self.feed_forward(block, tokens + self.attention(block, block.ln_1(tokens), watch))
        return tokens

    def project_heads(self, block: nn.Module, normed: Tensor) -> Heads:
        """Queries, keys and values of a block from tokens after its ``ln_1``."""
        qkv = F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias)
        return Heads(*qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4))

    def values(self, block: nn.Module, normed: Tensor) -> Tensor:
        """The value projection alone, all heads side by side: f[b, n, c]."""
        width = self.width
        return F.linear(normed, block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :])

    def merge_heads(self, block: nn.Module, heads: Tensor) -> Tensor:
        """Mixed values f[b, heads, n, c / heads] through the output projection: f[b, n, c]."""
        return block.ls_1(block.attn.out_proj(heads.transpose(1, 2).flatten(2)))

    def attention(self, block: nn.Module, normed: Tensor, watch: Watch | None = None) -> Tensor:
        """Ordinary self-attention of a block on tokens after its ``ln_1``. With ``watch`` the weights are spelled out,
        one head at a time, so that no more than f[b, n, n] of them exist at once."""
        q, k, v = self.project_heads(block, normed)
        if watch is None:
            return self.merge_heads(block, F.scaled_dot_product_attention(q, k, v))
        mixed = torch.empty_like(v)
        for head in range(self.heads):
            weights = (q[:, head] @ k[:, head].mT * q.shape[-1] ** -0.5).softmax(-1)
            watch(head, weights)
            mixed[:, head] = weights @ v[:, head]
        return self.merge_heads(block, mixed)

    def feed_forward(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """The second half of a block, residual included."""
        return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))

    def class_features(self, images: Tensor) -> Tensor:
        """The class token of images f[b, 3, h, w] in the joint space, not normalised: f[b, d]."""
        x, last = self.trunk(self.embed(images)[0]), self.blocks[-1]
        return self.finish_class(x, self.project_heads(last, last.ln_1(x)))

    def finish_class(self, x: Tensor, heads: Heads) -> Tensor:
        """The last step of `class_features`: tokens f[b, n, c] enter the last block, ``heads`` are its projections;
        only the one row of the block is computed. Its attention is spelled out: for so few rows PyTorch's fused form
        rounds differently in different threads, so that an image would depend on its place in the batch."""
        last = self.blocks[-1]
        weights = (heads.q[:, :, :1] @ heads.k.mT * heads.q.shape[-1] ** -0.5).softmax(-1)
        row = self.merge_heads(last, weights @ heads.v)
        return self.project(self.feed_forward(last, x[:, :1] + row))[:, 0]

    def project(self, tokens: Tensor) -> Tensor:
        """``ln_post`` and the projection to the joint space on all tokens: f[b, n, d]."""
        return self.visual.ln_post(tokens) @ self.visual.proj
