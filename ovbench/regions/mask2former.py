"""Mask2Former (Cheng et al., CVPR 2022), trained on COCO panoptic, through transformers.

Its masks know COCO's classes: results with it are not free of mask labels on benchmarks made of COCO images.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovbench.regions.panoptic import PanopticRegions


@dataclass(frozen=True)
class Mask2FormerRegions(PanopticRegions):
    """Segments from 1, void 0; the whole map is -1 where no query passes. No segments are fused."""

    weights: str = "facebook/mask2former-swin-large-coco-panoptic"

    def network_class(self) -> type:
        from transformers import Mask2FormerForUniversalSegmentation

        return Mask2FormerForUniversalSegmentation

    def options(self) -> dict[str, object]:
        return {"label_ids_to_fuse": set()}
