"""EoMT, trained on COCO panoptic, through transformers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ovbench.regions.panoptic import PanopticRegions
from ovbench.utils.typed import Fraction

COCO_STUFF = range(80, 133)  # stuff classes among the 133 panoptic classes


@dataclass(frozen=True)
class EomtRegions(PanopticRegions):
    """Segment with EoMT: ids from 0, void -1, one id per stuff class.

    Paper: Kerssies et al., CVPR 2025. It is trained on COCO masks: on datasets with COCO images, results with it are
    not free of mask labels.

    Attributes:
        weights: Hub name or folder with config.json, preprocessor_config.json and the weights.
        score: Smallest class probability of a segment.
    """

    void: ClassVar[tuple[int, ...]] = (-1,)

    weights: str = "tue-mps/coco_panoptic_eomt_large_640"
    score: Fraction = 0.8

    def network_class(self) -> type:
        """Return the transformers class of EoMT."""
        from transformers import EomtForUniversalSegmentation

        return EomtForUniversalSegmentation

    def options(self) -> dict[str, object]:
        """Return the stuff classes, whose segments are fused."""
        return {"stuff_classes": list(COCO_STUFF)}
