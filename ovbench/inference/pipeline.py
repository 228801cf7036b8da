"""The pipeline: a frozen method with its vocabularies, weights and region source, on a device.

`eval`, `segment`, `parity`, `check`, `report`, the Python API and mmengine's Runner all label images through it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ovbench.backbones.build import Loaded, load_backbone
from ovbench.config.load import Cell, templates
from ovbench.data.card import load_card, vocabulary
from ovbench.inference.precision import refuse_tf32
from ovbench.inference.predictor import Predictor
from ovbench.inference.text_embedding import build_queries, with_descriptions
from ovbench.methods.base import Backbones, Queries
from ovbench.methods.method_errors import blamed
from ovbench.regions.provider import open_regions
from ovbench.utils.errors import UsageError
from ovbench.utils.registry import METHODS, load_target

Classes = Sequence[Sequence[str]]


class Pipeline:
    """A frozen method that labels images.

    Attributes:
        cell: The resolved method, dataset and settings.
        method: The method; its networks are frozen.
        loaded: The weights by backbone name, with their hashes.
        predictor: Turns one image into label maps, one per vocabulary.
        region_maps: The region source, None for methods that need no regions.
        device: Where it computes.
    """

    def __init__(
        self, cell: Cell, classes: Classes | None = None, background: int | None = None, device: str = "cpu"
    ):  # fmt: skip
        """Load the weights to a device and embed the vocabulary there.

        Args:
            cell: The resolved method, dataset and settings.
            classes: The synonyms of each class; None takes the names and the background of the cell's dataset.
            background: The index of the background class, None if there is none.
            device: The device.

        Raises:
            UsageError: If the method cannot compute on this device.
            InputError: If weights are missing or do not fit.
            MethodError: If the method's own code failed.
        """
        self.cell = cell
        entry = METHODS.load(cell.method)
        if entry.uses_fp64 and torch.device(device).type == "mps":
            what = f"{cell.method} computes in float64, which {device} does not have"
            raise UsageError(what, where="--device", fix="choose --device cpu")
        self.loaded: dict[str, Loaded] = {
            name: load_backbone(name, spec, entry.__module__) for name, spec in cell.backbones.items()
        }
        with blamed(entry):
            entry.check_backbones(self.loaded, cell.protocol)
            self.method = entry(Backbones.of(entry, self.loaded), cell.params)
        self.predictor = Predictor(self.method, cell.protocol, [])
        self.region_maps = open_regions(cell.regions) if cell.regions else None
        self.to(device)
        self.add_vocabulary(cell, *named_classes(cell, classes, background))

    def add_vocabulary(self, cell: Cell, classes: Classes, background: int | None) -> None:
        """Add a vocabulary; images are labelled with all vocabularies from the same features.

        Args:
            cell: The pipeline's cell, with another dataset, class names, scale or threshold.
            classes: The synonyms of each class.
            background: The index of the background class, None if there is none.
        """
        self.predictor.add_vocabulary(self._queries(cell, classes, background), cell.protocol)

    def set_vocabulary(self, classes: Classes, background: int | None = None) -> None:
        """Replace all vocabularies by one; the networks stay loaded."""
        queries = self._queries(self.cell, classes, background)
        self.predictor.clear_vocabularies()
        self.predictor.add_vocabulary(queries, self.cell.protocol)

    def _queries(self, cell: Cell, classes: Classes, background: int | None) -> Queries:
        names, method = tuple(tuple(synonyms) for synonyms in classes), self.method

        def embed(backbone: str) -> Queries:
            if backbone not in self.loaded:
                raise UsageError(
                    f'{type(method).__name__} encodes queries with "{backbone}", which is not in its needs',
                    fix="name it in needs, or name another one in reads",
                )
            return build_queries(
                names, cell.protocol.templates, self.loaded[backbone], background,
                raw=method.raw_text, background_channel=method.background_channel, device=self.device,
            )  # fmt: skip

        with blamed(method):
            queries = method.embed_queries(embed)
            if cell.protocol.descriptions:
                prompts = templates(cell.protocol.templates) if method.describes_by_prompts else ()
                queries = with_descriptions(
                    queries, names, cell.protocol.descriptions, self.loaded[method.reads], prompts, self.device
                )
            return method.map_queries(queries.to(torch.device(self.device)))

    def to(self, device: str) -> Pipeline:
        """Move the networks and the region source to a device; return the pipeline."""
        if self.region_maps is not None:
            self.region_maps.to(device)
        self.method.to(device)
        self.device = device
        return self

    def regions(self, image: np.ndarray, path: Path | None = None) -> np.ndarray | None:
        """Return the region map of an image.

        Args:
            image: uint8 (H, W, 3), RGB, at its original size.
            path: The file of the image, for region sources that look maps up.

        Returns:
            int32 (H, W), None for methods that need no regions.
        """
        return None if self.region_maps is None else self.region_maps(image, path or "")

    def label(self, image: np.ndarray, path: Path | None = None) -> np.ndarray:
        """Return the labels of an image, uint16 (H, W), by the first vocabulary.

        Args:
            image: uint8 (H, W, 3), RGB.
            path: The file of the image, for region sources that look maps up.
        """
        return self.predictor.label(image, self.regions(image, path))[0]


def named_classes(cell: Cell, classes: Classes | None, background: int | None) -> tuple[Classes, int | None]:
    """Return the given classes and background, or those of the cell's dataset."""
    if classes is not None:
        return classes, background
    card = load_card(cell.dataset)
    return vocabulary(card, cell.protocol.vocabulary or None), card.background


def build_pipeline(
    cell: Cell, classes: Classes | None = None, background: int | None = None, device: str = "cpu"
) -> Any:  # fmt: skip
    """Return the pipeline of a cell; see `Pipeline` for the arguments.

    A method may name another class with the same interface in ``Method.pipeline``.
    """
    refuse_tf32()
    entry = METHODS.load(cell.method)
    return load_target(entry.pipeline, where=f'method "{cell.method}"')(cell, classes, background, device)
