"""Segmentors of mmsegmentation, unmodified, through their own ``predict``.

Such a class brings its own windows, text and decision; ovbench resizes the image as the protocol says, gives it BGR
values and the metadata of a test pipeline (without a path, so that no label can be found), and counts its
``pred_sem_seg``. Its constructor's arguments are its settings. ``{classes}`` in one of them stands for a file with the
class names of the benchmark, one class a line, synonyms after ", "; that is the default of an argument ``name_path``.
"""

from __future__ import annotations

import dataclasses
import inspect
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch

from ovbench.config import Cell
from ovbench.data.card import load_card, vocabulary
from ovbench.engine.scene import resize_image, resized_size
from ovbench.errors import InputError, ScoreError, UsageError
from ovbench.methods.base import Method, Needs
from ovbench.plugins import code_hash
from ovbench.segmentor import OpenVocabSegmentor
from ovbench.weights import Loaded, tensor_hash

CLASSES = "{classes}"
NOT_SETTINGS = ("self", "device", "data_preprocessor", "init_cfg")
KINDS = (bool, int, float, str)


class Foreign(Method):
    """Stands for a class of mmsegmentation where ovbench asks for a method: its settings, and that it needs nothing."""

    needs = Needs(backbones=())
    segmentor: type

    @classmethod
    def make(cls, params: Any, classes_file: Path) -> torch.nn.Module:
        """The segmentor with its settings, on the CPU. InputError with what its constructor says."""
        given = {f.name: getattr(params, f.name) for f in dataclasses.fields(params)}
        given = {k: v.replace(CLASSES, str(classes_file)) if isinstance(v, str) else v for k, v in given.items()}
        if "device" in inspect.signature(cls.segmentor.__init__).parameters:
            given["device"] = torch.device("cpu")
        try:
            return cls.segmentor(**given).eval()
        except (TypeError, ValueError, OSError, RuntimeError, AssertionError, KeyError) as error:
            what = f"{cls.segmentor.__name__} cannot be built: {type(error).__name__}: {error}"
            raise InputError(what, fix="give its arguments with --set NAME=VALUE") from error


def adapt(found: Any, name: str) -> type[Foreign]:
    """A method for a class of mmsegmentation. UsageError for anything else."""
    if not (isinstance(found, type) and issubclass(found, torch.nn.Module) and hasattr(found, "predict")):
        raise UsageError(
            f'"{name}" is no method', fix="name a subclass of ovbench.methods.base.Method or of mmseg's BaseSegmentor"
        )
    return type(found.__name__, (Foreign,), {"segmentor": found, "Params": _params(found), "__doc__": found.__doc__})


def _params(found: type) -> type:
    """The constructor's arguments that have plain defaults, and those without one as texts that must be given."""
    fields: list[Any] = []
    for name, parameter in inspect.signature(found.__init__).parameters.items():
        if name in NOT_SETTINGS or parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        default = parameter.default
        if default is parameter.empty:
            fields.append((name, str, dataclasses.field(default=CLASSES if name == "name_path" else "")))
        elif default is None:
            fields.append((name, str | None, dataclasses.field(default=None)))
        elif isinstance(default, KINDS):
            kind = next(kind for kind in KINDS if isinstance(default, kind))
            fields.append((name, kind, dataclasses.field(default=default)))
    return dataclasses.make_dataclass(f"{found.__name__}Params", fields, frozen=True)


class Models(torch.nn.ModuleList):
    """One model per vocabulary. The engine asks them what it asks a method, and the answers are those of any."""

    windowwise = Method.windowwise
    approximations = Method.approximations


class ForeignLabeller:
    """Labels images through ``test_step`` of one model per vocabulary."""

    def __init__(self, protocol: Any):
        self.protocol, self.models, self.seconds = protocol, Models(), {}
        self.classes: list[int] = []

    @property
    def method(self) -> torch.nn.Module:
        """What is to blame for a mistake."""
        return self.models

    def label(self, image: np.ndarray, regions: np.ndarray | None = None) -> list[np.ndarray]:
        """Labels u16[H, W] of an RGB image u8[H, W, 3], one map per vocabulary."""
        size = resized_size(image.shape[:2], self.protocol.short_side, self.protocol.long_side)
        return self.label_resized(resize_image(image, size), image.shape[:2])

    @torch.inference_mode()
    def label_resized(
        self, resized: np.ndarray, original: tuple[int, int], regions: np.ndarray | None = None
    ) -> list[np.ndarray]:
        start = time.perf_counter()
        maps = [self._label(m, n, resized, original) for m, n in zip(self.models, self.classes, strict=True)]
        self.seconds["predict"] = time.perf_counter() - start
        return maps

    def _label(self, model: Any, classes: int, resized: np.ndarray, original: tuple[int, int]) -> np.ndarray:
        from mmseg.structures import SegDataSample

        h, w = resized.shape[:2]
        meta = {
            "img_path": "", "ori_shape": original, "img_shape": (h, w), "pad_shape": (h, w),
            "scale_factor": (w / original[1], h / original[0]), "flip": False, "flip_direction": None,
        }  # fmt: skip
        bgr = np.ascontiguousarray(cv2.cvtColor(resized, cv2.COLOR_RGB2BGR).transpose(2, 0, 1))
        inputs = {"inputs": [torch.from_numpy(bgr)], "data_samples": [SegDataSample(metainfo=meta)]}
        labels = model.test_step(inputs)[0].pred_sem_seg.data.squeeze(0).cpu().numpy()
        name = type(model).__name__
        if labels.shape != original:
            raise ScoreError(f"{name} gave labels of shape {labels.shape} for an image of {original}")
        if labels.min() < 0 or labels.max() >= classes:
            raise ScoreError(f"{name} gave labels {labels.min()}..{labels.max()} for {classes} classes")
        return labels.astype(np.uint16)


class ForeignSegmentor(OpenVocabSegmentor):
    """As `OpenVocabSegmentor`, for a class of mmsegmentation."""

    def _setup(self, cell: Cell, classes: Sequence[Sequence[str]] | None, background: int | None) -> None:
        self.cell, self.loaded, self.region_maps = cell, {}, None
        self.labeller = ForeignLabeller(cell.protocol)
        if classes is None:
            classes = vocabulary(load_card(cell.dataset), cell.protocol.vocabulary or None)
        self.add_vocabulary(cell, classes, background)
        self.method = self.labeller.models
        self.loaded["model"] = Loaded(self.method, cell.method, tensor_hash(self.method))
        if code := code_hash(cell.method):
            self.loaded["code"] = Loaded(self.method, cell.method, code)

    def add_vocabulary(self, cell: Cell, classes: Sequence[Sequence[str]], background: int | None) -> None:
        """One more model: such a class holds its words."""
        from ovbench.registry import METHODS

        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "classes.txt"
            file.write_text("\n".join(", ".join(names) for names in classes) + "\n", encoding="utf-8")
            self.labeller.models.append(METHODS.load(cell.method).make(cell.params, file))
        self.labeller.classes.append(len(classes))
