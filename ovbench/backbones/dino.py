"""DINO (v1, or v2 with registers) as a timm ViT: tokens and projections of the last block."""

from __future__ import annotations

from typing import ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench.backbones.pos_embed import resize_positions, resize_positions_smoothly
from ovbench.backbones.preprocess import IMAGENET, Normalisation
from ovbench.utils.errors import InputError

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class DinoVision(nn.Module):
    """A frozen timm ``VisionTransformer`` with a class token and learned positions.

    Attributes:
        registers: Number of register tokens, 0 in v1.
        native: Side in pixels of the images that it was trained on.
        normalisation: Normalisation of its input.
    """

    heavy: ClassVar[tuple[str, ...]] = ("before_last", "last_tokens")  # see `ovbench.inference.precision`
    compiles: ClassVar[tuple[str, ...]] = ("through",)  # not `embed`, where positions depend on the grid

    def __init__(self, vit: nn.Module, normalisation: Normalisation = IMAGENET):
        super().__init__()
        self.normalisation = normalisation
        self.registers = getattr(vit, "num_reg_tokens", 0)
        prefix = getattr(vit, "num_prefix_tokens", None)
        positioned = getattr(vit, "pos_embed", None) is not None
        if prefix != 1 + self.registers or not positioned or vit.no_embed_class != (self.registers > 0):
            raise InputError(
                f"{type(vit).__name__} is not a ViT with one class token and learned positions",
                fix="choose a DINO v1 model, such as vit_base_patch8_224.dino, or a DINOv2 with registers",
            )
        self.vit = vit.eval().requires_grad_(False)
        self.patch = vit.patch_embed.proj.kernel_size[0]
        self.native = self.patch * round((vit.pos_embed.shape[1] - (0 if self.registers else 1)) ** 0.5)
        self.heads = vit.blocks[-1].attn.num_heads
        self.width = vit.embed_dim

    def embed(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the tokens that enter the first block, and their grid.

        Args:
            images: float (B, 3, H, W), normalised for this tower. Sides are cut to multiples of the patch.

        Returns:
            float (B, 1 + registers + gh*gw, C), class token and registers first; and (gh, gw).
        """
        patches = self.vit.patch_embed.proj(images)
        grid = tuple(patches.shape[-2:])
        tokens = patches.flatten(2).transpose(1, 2)
        cls = self.vit.cls_token.expand(len(tokens), 1, -1)
        table = self.vit.pos_embed[0]
        if self.registers:  # registers have no positions; timm has already added the position of the class token to it
            registers = self.vit.reg_token.expand(len(tokens), -1, -1)
            positions = resize_positions_smoothly(F.pad(table, (0, 0, 1, 0)), grid)[1:]
            tokens = torch.cat([cls, registers, tokens + positions], 1)
        else:
            tokens = torch.cat([cls, tokens], 1) + resize_positions(table, grid, square_only=True)
        return self.vit.norm_pre(tokens), grid

    def last_qkv(self, images: Tensor) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
        """Return queries, keys and values of the patch tokens in the last block, and the grid.

        Each is float (B, gh*gw, C), heads concatenated, with bias, unscaled. The rest of the last block does not run.
        """
        tokens, grid = self.before_last(images)
        last = self.vit.blocks[-1]
        q, k, v = last.attn.qkv(last.norm1(tokens)).chunk(3, -1)
        return q, k, v, grid

    def last_keys(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return only the keys of `last_qkv`, and the grid."""
        tokens, grid = self.before_last(images)
        last, own = self.vit.blocks[-1], slice(self.width, 2 * self.width)
        bias = last.attn.qkv.bias
        return F.linear(last.norm1(tokens), last.attn.qkv.weight[own], None if bias is None else bias[own]), grid

    def before_last(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the patch tokens that enter the last block, float (B, gh*gw, C), and the grid."""
        tokens, grid = self.embed(images)
        return self.through(tokens, -1)[:, 1 + self.registers :], grid

    def last_tokens(self, images: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the patch tokens after the final norm, float (B, gh*gw, C), and the grid."""
        tokens, grid = self.embed(images)
        return self.vit.norm(self.through(tokens))[:, 1 + self.registers :], grid

    def through(self, tokens: Tensor, until: int | None = None) -> Tensor:
        """Return tokens, float (B, N, C), after the blocks before ``until``, by default after all."""
        for block in self.vit.blocks[:until]:
            tokens = block(tokens)
        return tokens
