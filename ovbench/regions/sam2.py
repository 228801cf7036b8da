"""Segment Anything 2: masks for a grid of points, with the Sam2Model of transformers.

SAM 2 uses the automatic mask generator of the segment-anything package; only the predictor differs.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovbench.regions.base import Maker
from ovbench.regions.transformers_models import HubRegions


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

        from ovbench.regions.paint import paint_masks
        from ovbench.regions.sam import generated
        from ovbench.regions.sam2_predictor import Sam2Predictor

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
