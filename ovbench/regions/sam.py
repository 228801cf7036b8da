"""Segment Anything: masks for a grid of points, through the segment-anything package."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ovbench.backbones.hub import fetch_published, given_file, published_file
from ovbench.regions.base import Maker, RegionSource
from ovbench.utils.errors import unknown
from ovbench.utils.typed import Fraction, FromOne

if TYPE_CHECKING:
    from segment_anything.modeling import Sam

WIDTHS = {768: "vit_b", 1024: "vit_l", 1280: "vit_h"}  # model by width of the image encoder


@dataclass(frozen=True)
class SamRegions(RegionSource):
    """Segment with the automatic mask generator; masks are painted in ascending area, and 0 is "not covered".

    Paper: Kirillov et al., ICCV 2023. Thresholds: zdk258/CorrCLIP 103bc18, CorrCLIPv2/mask_generators/factory.py. The
    other settings of the generator are its defaults (box NMS 0.7, the whole image as the only crop).

    Attributes:
        model: "vit_b", "vit_l" or "vit_h".
        weights: Checkpoint file (default: the official one of the model in the weights folder).
        points: Points per side.
        iou: Smallest predicted IoU of a mask.
        stability: Smallest stability score of a mask.
    """

    elsewhere: ClassVar[tuple[str, ...]] = ("weights",)
    concurrent: ClassVar[bool] = False

    model: str = "vit_h"
    weights: str = ""
    points: FromOne = 32
    iou: Fraction = 0.7
    stability: Fraction = 0.7

    def __post_init__(self) -> None:
        if self.model not in WIDTHS.values():
            raise unknown("SAM model", self.model, WIDTHS.values(), where="regions.model")

    def missing(self) -> list[str]:
        """Return the checkpoint file if it is missing."""
        path = Path(self.weights) if self.weights else published_file("sam", self.model)
        return [] if path.is_file() else [f"{path.name} (looked in {path.parent})"]

    def fetch(self) -> None:
        """Download the checkpoint."""
        self._file()

    def weights_sha256(self) -> str:
        """Return the sha256 of the checkpoint, downloaded if necessary."""
        from ovbench.backbones.checkpoint import file_sha256

        return file_sha256(self._file())

    def _file(self) -> Path:
        return given_file(self.weights, "regions.weights") if self.weights else fetch_published("sam", self.model)

    def start(self, device: str = "cpu") -> Maker:
        """Load SAM onto a device and return the function that makes maps."""
        from ovbench.regions.point_masks import region_map
        from ovbench.regions.sam_predictor import SamPredictor

        model = SamPredictor(load_sam(self.model, self._file()).to(device))
        return lambda image, stem="": region_map(
            model, image, points=self.points, iou=self.iou, stability=self.stability
        )


@dataclass(frozen=True)
class SamRegions8(SamRegions):
    """Segment as `SamRegions` does, with 8 points per side.

    Attributes:
        points: Points per side.
    """

    points: FromOne = 8


def load_sam(model: str, path: Path) -> Sam:
    """Load a SAM from a checkpoint file.

    Args:
        model: "vit_b", "vit_l" or "vit_h".
        path: Checkpoint file.

    Returns:
        The frozen model on the CPU, in eval mode.

    Raises:
        InputError: If the checkpoint is for another model.
    """
    from segment_anything import sam_model_registry

    from ovbench.backbones.checkpoint import fill, read_tensors

    state = read_tensors(path)
    table = state.get("image_encoder.pos_embed")
    held = WIDTHS.get(table.shape[-1]) if table is not None else None
    fix = f"give --set regions.model={held}" if held else "give a segment-anything checkpoint"
    sam: Any = sam_model_registry[model](checkpoint=None)
    fill(sam, state, name=f"SAM {model}", path=path, fix=fix)
    return sam.eval().requires_grad_(False)
