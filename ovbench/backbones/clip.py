"""The image tower of a CLIP, with its steps as separate methods.

Methods differ from CLIP in what they do with the tokens that enter the last block, so the tower offers the trunk, the
steps of a block and the projection separately. N = 1 + gh*gw tokens, class token first.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench.backbones.pos_embed import resize_positions, resize_positions_smoothly
from ovbench.backbones.preprocess import OPENAI, Normalisation
from ovbench.utils.errors import InputError

# Called for some heads with the number of the first one and their attention weights, float (B, heads, N, N).
Watch = Callable[[int, Tensor], None]


class Heads(NamedTuple):
    """Queries, keys and values of one block, each float (B, heads, N, C / heads)."""

    q: Tensor
    k: Tensor
    v: Tensor


class ClipVision(nn.Module):
    """A frozen ViT tower.

    Args:
        visual: An `ImageTower` of `ovbench.backbones.clip_model`, or open_clip's ``VisionTransformer`` without
            attention pooling.
        temperature: Factor of the cosines, exp(logit_scale); 100 in OpenAI's.
        normalisation: Normalisation of its input.

    Raises:
        InputError: If the tower has no class token, or pools by attention.
    """

    heavy: ClassVar[tuple[str, ...]] = ("trunk", "states")  # see `ovbench.inference.precision`

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

    def embed(
        self, images: Tensor, *, smooth_positions: bool = False, antialias: bool = True
    ) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens that enter the first block, and their grid.

        Args:
            images: float (B, 3, H, W), normalised for this tower. Sides are cut to multiples of the patch.
            smooth_positions: Interpolate positions by `resize_positions_smoothly`.
            antialias: Its antialiasing.

        Returns:
            float (B, N, C), and (gh, gw).
        """
        patches = self.visual.conv1(images)
        grid = patches.shape[-2:]
        tokens = patches.flatten(2).transpose(1, 2)
        cls = self.visual.class_embedding.expand(len(tokens), 1, -1)
        table = self.visual.positional_embedding
        if smooth_positions:
            positions = resize_positions_smoothly(table, tuple(grid), antialias=antialias)
        else:
            positions = resize_positions(table, tuple(grid), square_only=False)
        return self.visual.ln_pre(torch.cat([cls, tokens], 1) + positions), tuple(grid)

    def trunk(self, tokens: Tensor, *, until: int | None = -1, watch: Watch | None = None) -> Tensor:
        """Return tokens, float (B, N, C), after the blocks before ``until`` (default: all but the last; None: all).

        Args:
            tokens: float (B, N, C), tokens that enter the first block.
            until: Number of blocks to run; by default all but the last, None for all.
            watch: Called with the attention weights of every block that runs.
        """
        for block in self.blocks[:until]:
            tokens = self.feed_forward(block, tokens + self.attention(block, block.ln_1(tokens), watch))
        return tokens

    def states(self, tokens: Tensor, depths: Sequence[int], *, watch: Watch | None = None) -> tuple[Tensor, ...]:
        """Return tokens, float (B, N, C), after each of these numbers of blocks; 0 gives the input."""
        found = {0: tokens}
        for depth, block in enumerate(self.blocks[: max(depths)], 1):
            tokens = self.feed_forward(block, tokens + self.attention(block, block.ln_1(tokens), watch))
            if depth in depths:
                found[depth] = tokens
        return tuple(found[depth] for depth in depths)

    def project_heads(self, block: nn.Module, normed: Tensor) -> Heads:
        """Return queries, keys and values of a block from tokens after its ``ln_1``, float (B, N, C)."""
        qkv = F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias)
        return Heads(*qkv.unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4))

    def keys_values(self, block: nn.Module, normed: Tensor) -> Tensor:
        """Return only keys and values, float (2, B, heads, N, C / heads), from tokens after ``ln_1``."""
        width = self.width
        projected = F.linear(normed, block.attn.in_proj_weight[width:], block.attn.in_proj_bias[width:])
        return projected.unflatten(-1, (2, self.heads, -1)).permute(2, 0, 3, 1, 4)

    def values(self, block: nn.Module, normed: Tensor) -> Tensor:
        """Return only the values, heads concatenated, float (B, N, C)."""
        width = self.width
        return F.linear(normed, block.attn.in_proj_weight[2 * width :], block.attn.in_proj_bias[2 * width :])

    def merge_heads(self, block: nn.Module, heads: Tensor) -> Tensor:
        """Return mixed values, float (B, heads, N, C / heads), after the output projection, float (B, N, C)."""
        return block.ls_1(block.attn.out_proj(heads.transpose(1, 2).flatten(2)))

    def attention(self, block: nn.Module, normed: Tensor, watch: Watch | None = None) -> Tensor:
        """Return the self-attention of a block on tokens after its ``ln_1``, float (B, N, C).

        With ``watch`` the weights are in memory: on a CPU of one head at a time, on a GPU, for fewer launches, of all.

        Args:
            block: A block of the tower.
            normed: float (B, N, C), tokens after ``ln_1``.
            watch: Called with the attention weights of every head.
        """
        q, k, v = self.project_heads(block, normed)
        if watch is None:
            return self.merge_heads(block, F.scaled_dot_product_attention(q, k, v))
        mixed, step = torch.empty_like(v), 1 if v.device.type == "cpu" else self.heads
        for first in range(0, self.heads, step):
            own = slice(first, first + step)
            weights = (q[:, own] @ k[:, own].mT * q.shape[-1] ** -0.5).softmax(-1)
            watch(first, weights)
            mixed[:, own] = weights @ v[:, own]
        return self.merge_heads(block, mixed)

    def feed_forward(self, block: nn.Module, tokens: Tensor) -> Tensor:
        """Return tokens, float (B, N, C), after the MLP of a block, with the residual."""
        return tokens + block.ls_2(block.mlp(block.ln_2(tokens)))

    def class_features(self, images: Tensor) -> Tensor:
        """Return the class token of images, float (B, 3, H, W), in the joint space, float (B, D), not normalised."""
        x, last = self.trunk(self.embed(images)[0]), self.blocks[-1]
        return self.finish_class(x, self.project_heads(last, last.ln_1(x)))

    def finish_class(self, x: Tensor, heads: Heads) -> Tensor:
        """Return the class token in the joint space, float (B, D); only its row of the last block is computed.

        Its attention is not computed by PyTorch's fused kernel, because for so few rows its rounding depends on the
        position of the image in the batch.

        Args:
            x: Tokens that enter the last block, float (B, N, C).
            heads: Their projections.
        """
        last = self.blocks[-1]
        weights = (heads.q[:, :, :1] @ heads.k.mT * heads.q.shape[-1] ** -0.5).softmax(-1)
        row = self.merge_heads(last, weights @ heads.v)
        return self.project(self.feed_forward(last, x[:, :1] + row))[:, 0]

    def project(self, tokens: Tensor) -> Tensor:
        """Return all tokens after ``ln_post`` and the projection to the joint space, float (B, N, D)."""
        return self.visual.ln_post(tokens) @ self.visual.proj
