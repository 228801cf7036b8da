"""The modules of segment-anything as `ovbench.regions.point_masks` uses them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from ovbench.utils.upload import upload

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

FOREGROUND = 1  # label of a point


class SamPredictor:
    """Wrap a SAM as a `ovbench.regions.point_masks.PointModel`; each point has three masks."""

    def __init__(self, sam: Sam):
        from segment_anything.utils.transforms import ResizeLongestSide

        self.sam, self.device, self.threshold = sam, sam.device, sam.mask_threshold
        self.side = sam.image_encoder.img_size
        self.resize = ResizeLongestSide(self.side)

    @torch.no_grad()
    def embed(self, image: np.ndarray) -> Tensor:
        """Embed an RGB image uint8 (H, W, 3).

        Returns:
            float (1, D, h, w).
        """
        pixels = upload(self.resize.apply_image(image), self.device).permute(2, 0, 1)[None]
        with self.device:  # the encoder makes positions on the default device, and each copy to a GPU waits
            return self.sam.image_encoder(self.sam.preprocess(pixels))

    def scaled(self, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return points (x, y) of the image, float (P, 2), as parts of the square; a pixel is at its centre."""
        return (self.resize.apply_coords(points, size) + 0.5) / self.side

    @torch.no_grad()
    def decode(self, embedded: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the masks of points.

        The prompt encoder itself asks a GPU which labels occur, so its parts are used.

        Args:
            embedded: The embedding of the image.
            points: float32 (P, 2), (x, y) as parts of the square.

        Returns:
            Low-resolution logits float32 (P, 3, h, w) and predicted IoU float32 (P, 3).
        """
        encoder = self.sam.prompt_encoder
        pair = torch.stack([points, torch.zeros_like(points)], 1)  # SAM adds "not a point" to points without a box
        place = encoder.pe_layer.forward_with_coords(pair, (1, 1))[:, :1] + encoder.point_embeddings[FOREGROUND].weight
        nothing = encoder.no_mask_embed.weight.view(1, -1, 1, 1)  # no mask is given with a point
        return self.sam.mask_decoder(
            image_embeddings=embedded,
            image_pe=encoder.get_dense_pe(),
            sparse_prompt_embeddings=torch.cat([place, encoder.not_a_point_embed.weight.expand_as(place)], 1),
            dense_prompt_embeddings=nothing.expand(len(points), -1, *embedded.shape[2:]),
            multimask_output=True,
        )

    def enlarge(self, low: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits (N, h, w) as float32 (N, H, W) at the size of the image."""
        inner = self.resize.get_preprocess_shape(*size, self.side)
        return self.sam.postprocess_masks(low[:, None], inner, size)[:, 0]
