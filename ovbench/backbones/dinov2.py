"""Any DINO as a timm ViT: final tokens, and the attention of the class token in the last block."""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ovbench.backbones.dino import DinoVision
from ovbench.backbones.preprocess import IMAGENET, Normalisation
from ovbench.utils.errors import InputError


class DinoTokens(NamedTuple):
    """Final tokens of images.

    Attributes:
        patches: float (B, gh*gw, C), after the final norm, row-major over ``grid``.
        looks: float (B, heads, gh*gw), inner products of the class query with the patch keys in the last block,
            unscaled and before any rotary embedding.
        grid: Rows and columns of patches, (gh, gw).
    """

    patches: Tensor
    looks: Tensor
    grid: tuple[int, int]


class Dinov2Vision(nn.Module):
    """A frozen timm ViT with a class token, any registers, and learned (DINO, DINOv2) or rotary positions (DINOv3)."""

    heavy: ClassVar[tuple[str, ...]] = ("forward",)  # see `ovbench.inference.precision`
    compiles: ClassVar[tuple[str, ...]] = ()  # only blocks of `learned`

    def __init__(self, vit: nn.Module, normalisation: Normalisation = IMAGENET):
        super().__init__()
        self.normalisation = normalisation
        attention = getattr(vit.blocks[-1], "attn", None) if hasattr(vit, "blocks") else None
        if getattr(vit, "num_prefix_tokens", 0) < 1 or getattr(attention, "qkv", None) is None:
            raise InputError(
                f"{type(vit).__name__} is not a ViT with a class token and joint projections",
                fix="choose a DINOv2 or DINOv3 model, such as vit_base_patch14_reg4_dinov2.lvd142m",
            )
        if getattr(attention, "q_bias", None) is not None:
            raise InputError("this model has separate biases of its projections", fix="choose the one without qkvb")
        self.vit = vit.eval().requires_grad_(False)
        self.learned = DinoVision(vit) if getattr(vit, "pos_embed", None) is not None else None
        self.prefix = vit.num_prefix_tokens
        self.patch = vit.patch_embed.proj.kernel_size[0]
        self.width = vit.embed_dim
        self.heads = attention.num_heads

    def forward(self, images: Tensor) -> DinoTokens:
        """Return the final tokens of images, float (B, 3, H, W), normalised for this tower.

        Sides are cut to multiples of the patch.
        """
        h, w = (side // self.patch for side in images.shape[-2:])
        images = images[..., : h * self.patch, : w * self.patch]
        seen: list[Tensor] = []
        hook = self.vit.blocks[-1].attn.qkv.register_forward_hook(lambda module, inputs, output: seen.append(output))
        try:
            tokens = self._tokens(images)
        finally:
            hook.remove()
        q, k, _ = seen[0].unflatten(-1, (3, self.heads, -1)).unbind(2)  # float (B, N, heads, C / heads)
        looks = torch.einsum("bmc,bpmc->bmp", q[:, 0], k[:, self.prefix :])
        return DinoTokens(tokens[:, self.prefix :], looks, (h, w))

    def _tokens(self, images: Tensor) -> Tensor:
        """Return all tokens after the final norm, float (B, prefix + gh*gw, C)."""
        if self.learned is None:
            return self.vit.forward_features(images)
        tokens, _ = self.learned.embed(images)
        return self.vit.norm(self.vit.blocks[-1](self.learned.through(tokens, -1)))
