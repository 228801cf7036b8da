"""Base class of the region sources with a panoptic model of the transformers library."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from ovbench.regions.base import Maker
from ovbench.regions.transformers_models import WITH_PROCESSOR, Files, HubRegions, load_pretrained
from ovbench.utils.errors import InputError, first_line
from ovbench.utils.typed import Fraction

if TYPE_CHECKING:
    import numpy as np


@dataclass(frozen=True)
class PanopticRegions(HubRegions):
    """Segment with a panoptic model and its own post-processing; pixels without a segment have the lowest id.

    Attributes:
        weights: Hub name or folder with config.json, preprocessor_config.json and the weights.
        score: Smallest class probability of a segment.
        mask: Smallest probability of a pixel in the mask of a query.
        overlap: Smallest fraction of its mask that a query must win.
        half: Compute in fp16, as the official run does; a CPU always computes in fp32.
    """

    files: ClassVar[Files] = WITH_PROCESSOR

    score: Fraction = 0.5
    mask: Fraction = 0.5
    overlap: Fraction = 0.8
    half: bool = True

    def network_class(self) -> type:
        """Return the transformers class of the model."""
        raise TypeError(f"{type(self).__name__} does not define network_class")

    def options(self) -> dict[str, Any]:
        """Return more arguments of the post-processing."""
        return {}

    def start(self, device: str = "cpu") -> Maker:
        """Load model and processor onto a device and return the function that makes maps."""
        import torch
        from transformers import AutoImageProcessor

        processor = _processor(AutoImageProcessor, self.weights)
        network = load_pretrained(self.network_class(), self.weights).to(device)
        half = self.half and torch.device(device).type != "cpu"

        @torch.inference_mode()
        def make(image: np.ndarray, stem: str = "") -> np.ndarray:
            inputs = processor(images=image, return_tensors="pt", input_data_format="channels_last")
            taken = {name: value.to(device) for name, value in inputs.items() if torch.is_tensor(value)}
            with torch.autocast(torch.device(device).type, torch.float16, enabled=half):
                outputs = network(**taken)
            found = processor.post_process_panoptic_segmentation(
                outputs, target_sizes=[image.shape[:2]], threshold=self.score, mask_threshold=self.mask,
                overlap_mask_area_threshold=self.overlap, **self.options(),
            )  # fmt: skip
            return found[0]["segmentation"].to(torch.int32).cpu().numpy()

        return make


def _processor(auto: Any, weights: str) -> Any:
    try:
        return auto.from_pretrained(weights)
    except Exception as error:  # hub, network and file errors have no common base class
        raise InputError(f"cannot load the image processor of {weights}: {first_line(error)}") from error
