"""Mask2Former, trained on COCO panoptic, through transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ovbench.regions.panoptic import PanopticRegions


@dataclass(frozen=True)
class Mask2FormerRegions(PanopticRegions):
    """Segment with Mask2Former: ids from 1, void 0; the whole map is -1 if no segment is found.

    Paper: Cheng et al., CVPR 2022. It is trained on COCO masks: on datasets with COCO images, results with it are not
    free of mask labels.

    Attributes:
        weights: Hub name or folder with config.json, preprocessor_config.json and the weights.
    """

    void: ClassVar[tuple[int, ...]] = (0, -1)

    weights: str = "facebook/mask2former-swin-large-coco-panoptic"

    def network_class(self) -> type:
        """Return the transformers class of Mask2Former."""
        from transformers import Mask2FormerForUniversalSegmentation

        return Mask2FormerForUniversalSegmentation

    def options(self) -> dict[str, object]:
        """Return no classes to fuse."""
        return {"label_ids_to_fuse": set()}
