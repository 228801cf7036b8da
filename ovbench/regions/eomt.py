"""EoMT (Kerssies et al., CVPR 2025), trained on COCO panoptic, through transformers.

Its masks know COCO's classes: results with it are not free of mask labels on benchmarks made of COCO images.
"""

from __future__ import annotations

from dataclasses import dataclass

from ovbench.regions.panoptic import PanopticRegions

COCO_STUFF = range(80, 133)  # of the 133 panoptic classes; the segments of one of these share an id


@dataclass(frozen=True)
class EomtRegions(PanopticRegions):
    """Segments from 0, void -1; the segments of one stuff class share an id."""

    weights: str = "tue-mps/coco_panoptic_eomt_large_640"
    score: float = 0.8

    def network_class(self) -> type:
        from transformers import EomtForUniversalSegmentation

        return EomtForUniversalSegmentation

    def options(self) -> dict[str, object]:
        return {"stuff_classes": list(COCO_STUFF)}
