"""Segment Anything 2: masks for a grid of points, with the Sam2Model of transformers.

SAM 2 uses the automatic mask generator of the segment-anything package; only the predictor differs.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.regions.base import Maker
from ovbench.regions.paint import paint_masks
from ovbench.regions.sam import generated
from ovbench.regions.transformers_models import HubRegions, load_pretrained

LOGIT_RANGE = 32.0  # clamp of the official predictor on its low-resolution logits


@dataclass(frozen=True)
class Sam2Regions(HubRegions):
    """Segment with SAM 2; masks are painted in ascending area, and 0 is "not covered".

    Paper: Ravi et al., 2024. The defaults are "sam2" of zdk258/CorrCLIP (8 points).

    Attributes:
        weights: Hub name or folder with config.json and the weights.
        points: Points per side.
        iou: Predicted IoU that a mask must exceed.
        stability: Smallest stability score of a mask.
        multimask: Three masks per point instead of one.
        half: Weights and computation in fp16, as in the official run; a CPU always uses fp32.
    """

    weights: str = "facebook/sam2-hiera-large"
    points: int = 8
    iou: float = 0.4
    stability: float = 0.4
    multimask: bool = False
    half: bool = True

    def start(self, device: str = "cpu") -> Maker:
        """Load SAM 2 onto a device and return the function that makes maps."""
        from segment_anything import SamAutomaticMaskGenerator

        predictor = Sam2Predictor(self.weights, device, multimask=self.multimask, half=self.half)
        generator = SamAutomaticMaskGenerator(
            predictor.described(), points_per_side=self.points, pred_iou_thresh=self.iou,
            stability_score_thresh=self.stability,
        )  # fmt: skip
        generator.predictor = predictor
        return lambda image, stem="": paint_masks(generated(generator, image), image.shape[:2])


@dataclass(frozen=True)
class Sam2Regions32(Sam2Regions):
    """Segment as `Sam2Regions` does, with 32 points per side and three masks per point.

    Thresholds: zdk258/CorrCLIP 103bc18, CorrCLIPv2/mask_generators/factory.py. The published maps also have 32 points;
    their thresholds are only in the paper.

    Attributes:
        points: Points per side.
        iou: Predicted IoU that a mask must exceed.
        stability: Smallest stability score of a mask.
        multimask: Three masks per point instead of one.
    """

    points: int = 32
    iou: float = 0.7
    stability: float = 0.7
    multimask: bool = True


class Sam2Predictor:
    """Wrap Sam2Model as the ``SamPredictor`` that the mask generator of segment-anything expects.

    This follows ``SAM2ImagePredictor`` of facebookresearch/sam2 without its post-processing: image and points are
    scaled to the square of the model, and a single mask is never replaced by one of the three.
    """

    mask_threshold = 0.0

    def __init__(self, weights: str, device: str, *, multimask: bool, half: bool):
        from transformers import Sam2Model

        self.network: Any = load_pretrained(Sam2Model, weights)
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
