"""Segment Anything 2 (Ravi et al., 2024): masks for a grid of points, with transformers' Sam2Model.

The filters of the automatic mask generator are those of the segment-anything package, which SAM 2 took over; only the
predictor differs, and gives one mask a point or three.
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

LOGIT_RANGE = 32.0  # the official predictor clamps its low-resolution logits


@dataclass(frozen=True)
class Sam2Regions(HubRegions):
    """Masks painted in ascending area; 0 is what none covers. The defaults are zdk258/CorrCLIP's "sam2" (8 points).

    weights: a hub name or a folder with config.json and the weights. points: points per side. iou, stability: least
    predicted IoU (exclusive) and stability of a mask. multimask: three masks a point instead of one. half: weights and
    computation in fp16, as the official run; on a CPU always fp32.
    """

    weights: str = "facebook/sam2-hiera-large"
    points: int = 8
    iou: float = 0.4
    stability: float = 0.4
    multimask: bool = False
    half: bool = True

    def start(self, device: str = "cpu") -> Maker:
        from segment_anything import SamAutomaticMaskGenerator

        predictor = Predictor(self.weights, device, multimask=self.multimask, half=self.half)
        generator = SamAutomaticMaskGenerator(
            predictor.described(), points_per_side=self.points, pred_iou_thresh=self.iou,
            stability_score_thresh=self.stability,
        )  # fmt: skip
        generator.predictor = predictor
        return lambda image, stem="": paint_masks(generated(generator, image), image.shape[:2])


@dataclass(frozen=True)
class Sam2Regions32(Sam2Regions):
    """As `Sam2Regions` with 32 points a side, three masks a point, and the thresholds that zdk258/CorrCLIP@103bc18 has
    with them (CorrCLIPv2/mask_generators/factory.py). Its published maps are made with 32 points too; their thresholds
    stand in the paper only."""

    points: int = 32
    iou: float = 0.7
    stability: float = 0.7
    multimask: bool = True


class Predictor:
    """Sam2Model behind the part of segment-anything's ``SamPredictor`` that its mask generator uses.

    Follows facebookresearch/sam2 ``SAM2ImagePredictor`` without its post-processing: the image is squeezed to the
    model's square, points are scaled with it, and a single mask is never replaced by one of the three.
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
        self.model = self.transform = self  # the generator asks these of a SamPredictor
        self.size, self.embeddings = (0, 0), None

    def described(self) -> Any:
        """What ``SamPredictor``'s constructor reads of a SAM."""
        return SimpleNamespace(image_encoder=SimpleNamespace(img_size=self.side), device=self.device)

    @torch.no_grad()
    def set_image(self, image: np.ndarray) -> None:
        """Embed an RGB image u8[h, w, 3]."""
        from torchvision.transforms.functional import normalize, resize

        from ovbench.backbones.dino import IMAGENET_MEAN, IMAGENET_STD

        self.size = image.shape[:2]
        pixels = torch.as_tensor(np.ascontiguousarray(image), device=self.device).permute(2, 0, 1).float() / 255
        pixels = normalize(resize(pixels, [self.side, self.side], antialias=True), IMAGENET_MEAN, IMAGENET_STD)
        self.embeddings = self.network.get_image_embeddings(pixels[None].to(self.dtype))

    def reset_image(self) -> None:
        self.embeddings = None

    def apply_coords(self, points: np.ndarray, size: tuple[int, int]) -> np.ndarray:
        """Points (x, y) of the image in the model's square."""
        return points / np.array(size[::-1]) * self.side

    @torch.no_grad()
    def predict_torch(
        self, points: Tensor, labels: Tensor, multimask_output: bool = True, return_logits: bool = True
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Mask logits f[p, k, h, w], predicted IoU f[p, k] and low-resolution logits of p points."""
        out = self.network(
            image_embeddings=[level.clone() for level in self.embeddings],
            input_points=points[None].to(self.dtype),
            input_labels=labels[None],
            multimask_output=self.multimask,
        )
        low = out.pred_masks[0].float()
        masks = F.interpolate(low, self.size, mode="bilinear", align_corners=False)
        return masks, out.iou_scores[0].float(), low.clamp(-LOGIT_RANGE, LOGIT_RANGE)
