"""A vision foundation model (VFM) as a timm ViT, which turns a whole image into one map of features."""

from __future__ import annotations

from typing import ClassVar

import torch.nn.functional as F
from torch import Tensor, nn

from ovbench.backbones.dino import DinoVision
from ovbench.backbones.normalization import per_channel
from ovbench.backbones.preprocess import IMAGENET, Normalisation
from ovbench.utils.errors import InputError


class VfmVision(nn.Module):
    """A frozen RADIO, DINOv2 or DINOv3, with its own preprocessing of the original image.

    Attributes:
        normalisation: Normalisation of its input.
        patch: Side of a patch in pixels.
        width: Channels of the map.
    """

    heavy: ClassVar[tuple[str, ...]] = ("forward",)  # see `ovbench.inference.precision`
    compiles: ClassVar[tuple[str, ...]] = ()  # only blocks of `learned`

    def __init__(self, vit: nn.Module, normalisation: Normalisation = IMAGENET):
        super().__init__()
        self.normalisation = normalisation
        self.vit = vit.eval().requires_grad_(False)
        self.learned = DinoVision(vit) if getattr(vit, "pos_embed", None) is not None else None
        self.prefix = vit.num_prefix_tokens
        if hasattr(vit, "embeds"):  # timm's naflexvit, the only form of RADIO that has the official positions
            self.patch = vit.embeds.patch_size[0]
        elif self.learned is not None or getattr(vit, "rope", None) is not None:
            self.patch = vit.patch_embed.proj.kernel_size[0]
        else:
            raise InputError(
                f"{type(vit).__name__} has no positions that fit images of any size",
                fix="choose a model such as naflexvit_large_patch16_radio_v3.c_radio",
            )
        self.width = vit.embed_dim

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the map of an image.

        The image is resized to the nearest multiples of the patch (bilinear, halves to even), without an upper limit.

        Args:
            pixels: uint8 (H, W, 3), RGB, at its original size.

        Returns:
            float (C, gh, gw), patch tokens: of RADIO after the last block, of the DINOs also after the final norm.
        """
        grid = tuple(max(round(side / self.patch), 1) for side in pixels.shape[:2])
        images = pixels.permute(2, 0, 1)[None].float() / 255
        images = F.interpolate(images, tuple(self.patch * side for side in grid), mode="bilinear", align_corners=False)
        mean, std = (per_channel(tuple(values), images) for values in self.normalisation.unit())
        images = (images - mean) / std
        if self.learned is not None:
            tokens, _ = self.learned.last_tokens(images)
        else:
            tokens = self.vit.forward_features(images)[:, self.prefix :]
        return tokens[0].T.unflatten(1, grid)
