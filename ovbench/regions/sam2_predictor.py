"""Sam2Model of transformers behind the interface of the predictor of segment-anything."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.regions.sam2_checkpoint import load_official
from ovbench.regions.transformers_models import load_pretrained

LOGIT_RANGE = 32.0  # clamp of the official predictor on its low-resolution logits


class Sam2Predictor:
    """Wrap Sam2Model as the ``SamPredictor`` that the mask generator of segment-anything expects.

    This follows ``SAM2ImagePredictor`` of facebookresearch/sam2 without its post-processing: image and points are
    scaled to the square of the model, and a single mask is never replaced by one of the three.
    """

    mask_threshold = 0.0

    def __init__(self, weights: str, device: str, *, multimask: bool, half: bool):
        from transformers import Sam2Model

        official = Path(weights).suffix in (".pt", ".pth")
        self.network: Any = load_official(Path(weights)) if official else load_pretrained(Sam2Model, weights)
        self.network.mask_decoder.dynamic_multimask_via_stability = False
        dtype = torch.float16 if half and torch.device(device).type != "cpu" else torch.float32
        self.network = self.network.to(device=device, dtype=dtype)
        self.device, self.dtype, self.multimask = torch.device(device), dtype, multimask
        self.side = self.network.config.vision_config.backbone_config.image_size[0]
        self.model = self.transform = self  # attributes of a SamPredictor that the generator reads
        self.size, self.embeddings = (0, 0), None

    def described(self) -> Any:
        """Return what the constructor of ``SamPredictor`` reads from a SAM."""
        return SimpleNamespace(image_encoder=SimpleNamespace(img_size=self.side), device=self.device)

    @torch.no_grad()
    def set_image(self, image: np.ndarray) -> None:
        """Embed an RGB image uint8 (H, W, 3)."""
        from torchvision.transforms.functional import normalize, resize

        from ovbench.backbones.dino import IMAGENET_MEAN, IMAGENET_STD

        self.size = image.shape[:2]
        pixels = torch.as_tensor(np.ascontiguousarray(image), device=self.device).permute(2, 0, 1).float() / 255
        pixels = normalize(resize(pixels, [self.side, self.side], antialias=True), IMAGENET_MEAN, IMAGENET_STD)
        self.embeddings = self.network.get_image_embeddings(pixels[None].to(self.dtype))

    def reset_image(self) -> None:
        """Drop the embedding of the image."""
        self.embeddings = None

    def apply_coords(self, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Return points (x, y) of the image, float (P, 2), in the square of the model."""
        return points / np.array(size[::-1]) * self.side

    @torch.no_grad()
    def predict_torch(
        self, points: Tensor, labels: Tensor, multimask_output: bool = True, return_logits: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predict the masks of points.

        Args:
            points: float (P, 1, 2), (x, y) in the square of the model.
            labels: int (P, 1), 1 for a foreground point.
            multimask_output: Ignored; the setting ``multimask`` decides.
            return_logits: Ignored; logits are always returned.

        Returns:
            Mask logits float (P, K, H, W), predicted IoU float (P, K), low-resolution logits float (P, K, h, w).
        """
        out = self.network(
            image_embeddings=[level.clone() for level in self.embeddings],
            input_points=points[None].to(self.dtype),
            input_labels=labels[None],
            multimask_output=self.multimask,
        )
        low = out.pred_masks[0].float()
        masks = F.interpolate(low, self.size, mode="bilinear", align_corners=False)
        return masks, out.iou_scores[0].float(), low.clamp(-LOGIT_RANGE, LOGIT_RANGE)
