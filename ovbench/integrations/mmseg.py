"""The bridge to mmengine and mmsegmentation: every method as a registered ``BaseSegmentor``.

``register()`` puts one class per method into mmseg's ``MODELS``, named like the method's class (``CorrCLIP``). Each is
a wrapper around the `Pipeline` that ``ovbench eval`` uses.
"""

from __future__ import annotations

import warnings
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ovbench.integrations.mmcv_ops import provide_mmcv_ops

provide_mmcv_ops()

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of operators that only a compiled mmcv has
    from mmengine.device import get_device
    from mmengine.structures import PixelData
    from mmseg.models import BaseSegmentor, SegDataPreProcessor
    from mmseg.registry import MODELS

from ovbench.config.load import Cell, resolve  # noqa: E402
from ovbench.data.decode import read_image  # noqa: E402
from ovbench.inference.pipeline import build_pipeline  # noqa: E402
from ovbench.utils.errors import UsageError  # noqa: E402
from ovbench.utils.images import resized_size  # noqa: E402
from ovbench.utils.registry import METHODS  # noqa: E402


class OpenVocabSegmentor(BaseSegmentor):
    """A frozen method with a vocabulary as a segmentor of mmsegmentation.

    Images may be unresized, or resized by mmseg's ``Resize(scale=(long_side, short_side), keep_ratio=True)``.
    Methods that need region maps read the original image from the sample's ``img_path``.

    Args:
        dataset: The dataset whose settings and class names are used; not read if ``cell`` is given.
        classes: Another vocabulary, one list of synonyms per class; the dataset's settings still apply.
        settings: Single settings by name, as text or values (``{"tau": 0.2, "crop": 224}``).
        weights: Backbones by name, which replace the configured ones.
        cell: A resolved method, dataset and settings.
        background: Index of the background class in ``classes``, None if there is none.
        data_preprocessor: As in mmseg; default: BGR to RGB.
        init_cfg: As in mmseg.
    """

    method_name: str

    def __init__(
        self,
        dataset: str = "",
        classes: Sequence[Sequence[str]] | None = None,
        settings: Mapping[str, Any] | None = None,
        weights: Mapping[str, str] | None = None,
        cell: Cell | None = None,
        background: int | None = None,
        data_preprocessor: Mapping[str, Any] | None = None,
        init_cfg: Mapping[str, Any] | None = None,
    ):
        super().__init__(data_preprocessor or SegDataPreProcessor(bgr_to_rgb=True), init_cfg)
        if cell is None:
            cell = resolve(self.method_name, dataset, settings, weights)
        cell.refuse_evaluation_settings()
        self.cell = cell
        self.pipeline = build_pipeline(cell, classes, background, get_device())  # where Runner will move it
        self.method = self.pipeline.method

    def to(self, *args: Any, **kwargs: Any) -> OpenVocabSegmentor:
        """Move the networks and the rest of the pipeline to a device."""
        device = torch._C._nn._parse_to(*args, **kwargs)[0]
        if device is not None:
            self.pipeline.to(str(device))
        return super().to(*args, **kwargs)

    def predict(self, inputs: Tensor, data_samples: list[Any] | None = None) -> list[Any]:
        """Label images through mmseg's interface.

        Args:
            inputs: float (B, 3, H, W), RGB in 0..255.
            data_samples: One sample per image; each receives ``pred_sem_seg``.

        Returns:
            ``data_samples``.

        Raises:
            UsageError: If no samples are given, or the size of an image does not fit the protocol.
        """
        if data_samples is None:
            raise UsageError("the segmentor needs data samples", fix="pack images with PackSegInputs")
        for pixels, sample in zip(inputs, data_samples, strict=True):
            image = pixels.round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
            labels = torch.from_numpy(self._label_sample(image, sample.metainfo).astype(np.int64))
            sample.set_data({"pred_sem_seg": PixelData(data=labels[None].to(inputs.device))})
        return data_samples

    def _label_sample(self, image: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
        original, regions, pixels = tuple(meta.get("ori_shape", image.shape[:2])[:2]), None, None
        if self.pipeline.region_maps is not None or self.method.needs.original:
            if "img_path" not in meta:
                raise UsageError("no img_path in the sample", fix="keep it in PackSegInputs' meta_keys")
            path = Path(meta["img_path"])
            pixels = read_image(path)
            regions = self.pipeline.regions(pixels, path)
        protocol = self.cell.protocol
        size = resized_size(original, protocol.short_side, protocol.long_side)
        if image.shape[:2] == size and (size == original or protocol.resize == "opencv-bilinear"):
            return self.pipeline.predictor.label_resized(image, original, regions, pixels=pixels)[0]
        if image.shape[:2] == original:
            return self.pipeline.predictor.label(image, regions)[0]
        raise UsageError(
            f"the image came as {image.shape[:2]} from {original}",
            fix=f"use Resize(scale=({protocol.long_side}, {protocol.short_side}), keep_ratio=True) or no Resize",
        )

    def encode_decode(self, inputs: Tensor, batch_data_samples: list[Any]) -> list[Any]:
        """Label images; the same as `predict`."""
        return self.predict(inputs, batch_data_samples)

    def extract_feat(self, inputs: Tensor) -> Tensor:
        """Raise UsageError: a method has no single feature map."""
        raise UsageError("a method has no single feature map", fix="call its encode on a batch of windows")

    def _forward(self, inputs: Tensor, data_samples: list[Any] | None = None) -> list[Any]:
        return self.predict(inputs, data_samples)

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        """Raise UsageError: a method is frozen."""
        raise UsageError(f"{self.method_name} is frozen and has no loss", fix="use the test loop")


def register(method: str) -> str:
    """Register a method in mmseg's ``MODELS`` and return its type name."""
    entry = METHODS.load(method)
    name = entry.__name__ if ":" not in method else f"{entry.__name__}_{zlib.crc32(method.encode()):08x}"
    if MODELS.get(name) is None:
        own = {"method_name": method, "__doc__": entry.__doc__}
        segmentor = type(entry.__name__, (OpenVocabSegmentor,), own)
        MODELS.register_module(name=name, module=segmentor)
    return name


def register_all() -> list[str]:
    """Register all methods and return their type names.

    Used in an mmengine config, see `ovbench.integrations.register`. A broken plug-in is skipped with a warning.
    """
    broken = METHODS.broken()
    for reason in broken.values():
        warnings.warn(reason, stacklevel=2)
    return [register(method) for method in METHODS.names() if method not in broken]
