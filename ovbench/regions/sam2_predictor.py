"""Sam2Model of transformers as `ovbench.regions.point_masks` uses it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.dino import IMAGENET_MEAN, IMAGENET_STD
from ovbench.backbones.normalization import per_channel
from ovbench.regions.sam2_checkpoint import load_official
from ovbench.regions.transformers_models import load_pretrained
from ovbench.utils.upload import upload


class Sam2Predictor:
    """Wrap Sam2Model as a `ovbench.regions.point_masks.PointModel`.

    This follows ``SAM2ImagePredictor`` of facebookresearch/sam2 without its post-processing: image and points are
    scaled to the square of the model, and a single mask is never replaced by one of the three.
    """

    threshold = 0.0

    def __init__(self, weights: str, device: str, *, multimask: bool, half: bool):
        from transformers import Sam2Model

        official = Path(weights).suffix in (".pt", ".pth")
        self.network: Any = load_official(Path(weights)) if official else load_pretrained(Sam2Model, weights)
        self.network.mask_decoder.dynamic_multimask_via_stability = False
        dtype = torch.float16 if half and torch.device(device).type != "cpu" else torch.float32
        self.network = self.network.to(device=device, dtype=dtype)
        self.device, self.dtype, self.multimask = torch.device(device), dtype, multimask
        self.side = self.network.config.vision_config.backbone_config.image_size[0]

    @torch.no_grad()
    def embed(self, image: np.ndarray) -> list[Tensor]:
        """Embed an RGB image uint8 (H, W, 3).

        Returns:
            Three levels, each (1, D, h, w).
        """
        from torchvision.transforms.functional import resize

        pixels = upload(image, self.device).permute(2, 0, 1).float() / 255
        pixels = resize(pixels, [self.side, self.side], antialias=True)
        mean, std = (per_channel(values, pixels) for values in (IMAGENET_MEAN, IMAGENET_STD))
        return self.network.get_image_embeddings(((pixels - mean) / std)[None].to(self.dtype))

    def scaled(self, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return points (x, y) of the image, float (P, 2), in the square of the model."""
        return points / np.array(size[::-1]) * self.side

    @torch.no_grad()
    def decode(self, embedded: list[Tensor], points: Tensor) -> tuple[Tensor, Tensor]:
        """Predict the masks of points.

        Args:
            embedded: The embedding of the image.
            points: float (P, 2), (x, y) in the square of the model.

        Returns:
            Low-resolution logits (P, K, h, w) and predicted IoU float32 (P, K).
        """
        out = self.network(
            image_embeddings=[level.clone() for level in embedded],
            input_points=points[None, :, None].to(self.dtype),
            input_labels=torch.ones((1, len(points), 1), dtype=torch.int32, device=points.device),
            multimask_output=self.multimask,
        )
        return out.pred_masks[0], out.iou_scores[0].float()

    def enlarge(self, low: Tensor, size: tuple[int, int]) -> Tensor:
        """Return logits (N, h, w) as float32 (N, H, W) at the size of the image."""
        return F.interpolate(low[:, None].float(), size, mode="bilinear", align_corners=False)[:, 0]
