"""The bridge to mmengine and mmsegmentation: every method as a registered ``BaseSegmentor``.

``register()`` puts one class per method into mmseg's ``MODELS``, named like the method's class (``CorrCLIP``).
``ovbench eval`` and an mmengine ``Runner`` build and drive the same object.
"""

from __future__ import annotations

import logging
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
    from mmengine.structures import PixelData
    from mmseg.models import BaseSegmentor, SegDataPreProcessor
    from mmseg.registry import MODELS

from ovbench.backbones.build import Loaded, load_backbone  # noqa: E402
from ovbench.config.load import Cell, resolve  # noqa: E402
from ovbench.data.card import load_card, vocabulary  # noqa: E402
from ovbench.data.decode import read_image  # noqa: E402
from ovbench.inference.predictor import Labeller  # noqa: E402
from ovbench.inference.scene import resized_size  # noqa: E402
from ovbench.inference.text_embedding import build_queries, with_descriptions  # noqa: E402
from ovbench.methods.base import Backbones, Queries  # noqa: E402
from ovbench.methods.blame import blamed  # noqa: E402
from ovbench.methods.plugins import code_hash  # noqa: E402
from ovbench.methods.reme.reference_bank import Encoder  # noqa: E402
from ovbench.methods.talk2dino.projection import check_partners  # noqa: E402
from ovbench.regions.provider import open_regions  # noqa: E402
from ovbench.utils.errors import UsageError  # noqa: E402
from ovbench.utils.registry import METHODS  # noqa: E402


class OpenVocabSegmentor(BaseSegmentor):
    """A frozen method with its vocabulary.

    Args:
        dataset: the benchmark whose settings and class names are used; or ``cell``, everything resolved.
        classes: another vocabulary, one list of synonyms per class; the dataset's settings still apply.
        background: the class of that vocabulary which gathers everything else, if any.
        settings: single settings by name, as texts or values (``{"tau": 0.2, "crop": 224}``).
        weights: backbones by name, overriding the configured ones.

    Images may come unresized or resized by mmseg's ``Resize(scale=(long_side, short_side), keep_ratio=True)``.
    Methods that need region maps read the original image through the sample's ``img_path``.
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
            texts = {key: str(value) for key, value in (settings or {}).items()}
            cell = resolve(self.method_name, dataset, texts, weights)
        self._setup(cell, classes, background)

    def _setup(self, cell: Cell, classes: Sequence[Sequence[str]] | None, background: int | None) -> None:
        """Load the backbones and encode the vocabulary."""
        self.cell = cell
        self.loaded: dict[str, Loaded] = {kind: load_backbone(kind, spec) for kind, spec in cell.backbones.items()}
        if "reference" in self.loaded:
            used = {kind: Encoder(loaded.spec, loaded.sha256) for kind, loaded in self.loaded.items()}
            self.loaded["reference"].vision.require(used, cell.protocol)
        vision = {kind: loaded.vision for kind, loaded in self.loaded.items()}
        entry = METHODS.load(cell.method)
        with blamed(entry):
            self.method = entry(Backbones(**vision), cell.params)
        if "psi" in self.loaded:
            check_partners(self.loaded["psi"].vision, {kind: loaded.sha256 for kind, loaded in self.loaded.items()})
        if classes is None:
            card = load_card(cell.dataset)
            classes, background = vocabulary(card, cell.protocol.vocabulary or None), card.background
        self.labeller = Labeller(self.method, cell.protocol, [self._queries(cell, classes, background)])
        self.region_maps = open_regions(cell.regions) if cell.regions else None
        if code := code_hash(cell.method):  # counts of a file that was changed since are not added up
            self.loaded["code"] = Loaded(self.method, cell.method, code)

    def _queries(self, cell: Cell, classes: Sequence[Sequence[str]], background: int | None) -> Queries:
        names, prompts = tuple(tuple(c) for c in classes), cell.protocol.templates
        queries = build_queries(
            names, prompts, self.loaded["clip"], background,
            raw=self.method.raw_text, background_channel=self.method.background_channel,
        )  # fmt: skip
        if "presence" in self.loaded:
            second = build_queries(names, prompts, self.loaded["presence"], background)
            queries = queries._replace(presence=second.embeddings)
        if cell.protocol.descriptions:
            queries = with_descriptions(queries, names, cell.protocol.descriptions, self.loaded["clip"])
        with blamed(self.method):
            return self.method.map_queries(queries)

    def add_vocabulary(self, cell: Cell, classes: Sequence[Sequence[str]], background: int | None) -> None:
        """Label another benchmark's words in the same pass: ``cell`` may differ from this one's in benchmark, names,
        scale and threshold only."""
        self.labeller.add_vocabulary(self._queries(cell, classes, background), cell.protocol)

    def on(self, device: str) -> OpenVocabSegmentor:
        """Move the networks, and where region maps are made, to a device."""
        if self.region_maps is not None:
            self.region_maps.to(device)
        return self.to(device)

    def regions(self, image: np.ndarray, path: Path | None = None) -> np.ndarray | None:
        """The region map i32[h, w] of an original RGB image, None for methods without one; ``path`` is its file."""
        return None if self.region_maps is None else self.region_maps(image, path or "")

    def label(self, image: np.ndarray, path: Path | None = None) -> np.ndarray:
        """Labels u16[h, w] of an RGB image u8[h, w, 3]."""
        return self.labeller.label(image, self.regions(image, path))[0]

    def predict(self, inputs: Tensor, data_samples: list[Any] | None = None) -> list[Any]:
        """mmseg's interface: RGB values 0..255 f[b, 3, h, w] and their samples, which receive ``pred_sem_seg``."""
        if data_samples is None:
            raise UsageError("the segmentor needs data samples", fix="pack images with PackSegInputs")
        for pixels, sample in zip(inputs, data_samples, strict=True):
            image = pixels.round().to(torch.uint8).permute(1, 2, 0).cpu().numpy()
            labels = torch.from_numpy(self._label_sample(image, sample.metainfo).astype(np.int64))
            sample.set_data({"pred_sem_seg": PixelData(data=labels[None].to(inputs.device))})
        return data_samples

    def _label_sample(self, image: np.ndarray, meta: Mapping[str, Any]) -> np.ndarray:
        original, regions = tuple(meta.get("ori_shape", image.shape[:2])[:2]), None
        if self.region_maps is not None:
            if "img_path" not in meta:
                raise UsageError("no img_path in the sample", fix="keep it in PackSegInputs' meta_keys")
            path = Path(meta["img_path"])
            regions = self.regions(read_image(path), path)
        protocol = self.cell.protocol
        if image.shape[:2] == resized_size(original, protocol.short_side, protocol.long_side):
            return self.labeller.label_resized(image, original, regions)[0]
        if image.shape[:2] == original:
            return self.labeller.label(image, regions)[0]
        raise UsageError(
            f"the image came as {image.shape[:2]} from {original}",
            fix=f"use Resize(scale=({protocol.long_side}, {protocol.short_side}), keep_ratio=True) or no Resize",
        )

    def encode_decode(self, inputs: Tensor, batch_data_samples: list[Any]) -> list[Any]:
        return self.predict(inputs, batch_data_samples)

    def extract_feat(self, inputs: Tensor) -> Tensor:
        raise UsageError("a method has no single feature map", fix="call its encode on a batch of windows")

    def _forward(self, inputs: Tensor, data_samples: list[Any] | None = None) -> list[Any]:
        return self.predict(inputs, data_samples)

    def loss(self, inputs: Tensor, data_samples: list[Any]) -> dict[str, Tensor]:
        raise UsageError(f"{self.method_name} is frozen and has no loss", fix="use the test loop")


def register(method: str) -> str:
    """Make a method known to mmseg's ``MODELS``; the type name to build it by."""
    entry = METHODS.load(method)
    name = entry.__name__ if ":" not in method else f"{entry.__name__}_{zlib.crc32(method.encode()):08x}"
    if MODELS.get(name) is None:
        base = OpenVocabSegmentor
        if hasattr(entry, "worker"):  # a class of mmsegmentation, see `ovbench.integrations.mmseg_foreign`
            from ovbench.integrations.mmseg_foreign import ForeignSegmentor as base
        segmentor = type(entry.__name__, (base,), {"method_name": method, "__doc__": entry.__doc__})
        MODELS.register_module(name=name, module=segmentor)
    return name


def register_all() -> list[str]:
    """Every method that ovbench knows, for an mmengine config (see `ovbench.integrations.register`); a broken plug-in
    is left out with a warning."""
    broken = METHODS.broken()
    for reason in broken.values():
        warnings.warn(reason, stacklevel=2)
    return [register(method) for method in METHODS.names() if method not in broken]


def build(
    cell: Cell, classes: Sequence[Sequence[str]] | None = None, background: int | None = None
) -> OpenVocabSegmentor:
    """The segmentor of a resolved cell, through mmseg's registry, on the CPU."""
    silence()
    config = {"type": register(cell.method), "cell": cell, "classes": classes, "background": background}
    return MODELS.build(config).eval()


def silence() -> None:
    """mmengine and its users report every build at INFO; a user of the command line did not ask for that."""
    for name in ("mmengine", "mmseg", "root"):
        logging.getLogger(name).setLevel(logging.WARNING)
