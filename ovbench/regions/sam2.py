"""Segment Anything 2: masks for a grid of points, with the Sam2Model of transformers."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from ovbench.backbones.hub import given_file
from ovbench.regions.base import Maker
from ovbench.regions.transformers_models import HubRegions, fetch_files, missing_files
from ovbench.utils.typed import Fraction, FromOne


@dataclass(frozen=True)
class Sam2Regions(HubRegions):
    """Segment with SAM 2; masks are painted in ascending area, and 0 is "not covered".

    Paper: Ravi et al., 2024. The defaults are "sam2" of zdk258/CorrCLIP (8 points).

    Attributes:
        weights: Hub name, folder with config.json and the weights, or the authors' checkpoint (sam2_hiera_large.pt).
        points: Points per side.
        iou: Predicted IoU that a mask must exceed.
        stability: Smallest stability score of a mask.
        multimask: Three masks per point instead of one.
        half: Weights and computation in fp16, as in the official run; a CPU always uses fp32.
    """

    weights: str = "facebook/sam2-hiera-large"
    points: FromOne = 8
    iou: Fraction = 0.4
    stability: Fraction = 0.4
    multimask: bool = False
    half: bool = True

    def _checkpoint(self) -> Path | None:
        """Return the path of a checkpoint of the authors, or None for a hub name or folder."""
        path = Path(self.weights)
        return path if path.suffix in (".pt", ".pth") else None

    def missing(self) -> list[str]:
        """Return the missing files."""
        path = self._checkpoint()
        absent = [f"{path.name} (looked in {path.parent})"] if path and not path.is_file() else []
        return missing_files(self.weights, () if path else self.files) + absent

    def fetch(self) -> None:
        """Download the missing files."""
        path = self._checkpoint()
        fetch_files(self.weights, () if path else self.files)
        if path:
            given_file(self.weights, "regions.weights")

    def weights_sha256(self) -> str:
        """Return the sha256 of the files, downloaded if necessary."""
        from ovbench.backbones.checkpoint import file_sha256

        path = self._checkpoint()
        return file_sha256(given_file(self.weights, "regions.weights")) if path else super().weights_sha256()

    def start(self, device: str = "cpu") -> Maker:
        """Load SAM 2 onto a device and return the function that makes maps."""
        from ovbench.regions.point_masks import region_map
        from ovbench.regions.sam2_predictor import Sam2Predictor

        model = Sam2Predictor(self.weights, device, multimask=self.multimask, half=self.half)
        return lambda image, stem="": region_map(
            model, image, points=self.points, iou=self.iou, stability=self.stability
        )


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

    points: FromOne = 32
    iou: Fraction = 0.7
    stability: Fraction = 0.7
    multimask: bool = True
