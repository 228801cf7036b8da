"""Stand-ins for ``mmcv.ops``, whose compiled extension mmcv-lite does not have, and for ``pkg_resources``, which newer
setuptools do not have.

mmsegmentation imports two of its names unguarded; both exist elsewhere. Every other name it guards by
``except ModuleNotFoundError``, so that is what the stand-in raises.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import sys
import types
from pathlib import Path
from typing import Any

import torch.nn.functional as F
from torch import Tensor


def point_sample(input: Tensor, points: Tensor, align_corners: bool = False, **kwargs: Any) -> Tensor:
    """Values of f[n, c, h, w] at ``points`` f[n, p, 2] or f[n, hp, wp, 2], (x, y) in 0..1."""
    flat = points.dim() == 3
    grid = 2.0 * (points.unsqueeze(2) if flat else points) - 1.0
    sampled = F.grid_sample(input, grid, align_corners=align_corners, **kwargs)
    return sampled.squeeze(3) if flat else sampled


def sigmoid_focal_loss(
    input: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25, weight: Any = None, reduction: str = "mean"
) -> Tensor:
    """mmcv's signature over torchvision's loss: ``target`` i64[n] are class indices of ``input`` f[n, c]."""
    from torchvision.ops import sigmoid_focal_loss as loss

    onehot = F.one_hot(target, input.shape[1] + 1)[:, : input.shape[1]].to(input.dtype)
    values = loss(input, onehot, alpha=alpha, gamma=gamma, reduction="none")
    values = values if weight is None else values * weight
    return {"none": values, "mean": values.mean(), "sum": values.sum()}[reduction]


class _Ops(types.ModuleType):
    __all__ = ("point_sample", "sigmoid_focal_loss")  # for "from mmcv.ops import *"

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        raise ModuleNotFoundError(f"mmcv.ops.{name} needs mmcv with its compiled extension")


def provide_mmcv_ops() -> None:
    """Register the stand-in where mmcv's compiled extension is absent; call before importing mmseg."""
    if importlib.util.find_spec("mmcv") is None or importlib.util.find_spec("mmcv._ext") is not None:
        return
    module = _Ops("mmcv.ops")
    module.point_sample, module.sigmoid_focal_loss = point_sample, sigmoid_focal_loss
    sys.modules.setdefault("mmcv.ops", module)


def provide_pkg_resources() -> None:
    """Register what repositories of segmentors use of ``pkg_resources`` where setuptools no longer brings it."""
    if importlib.util.find_spec("pkg_resources") is not None:
        return
    import packaging.version

    module = types.ModuleType("pkg_resources", "A stand-in for a few functions of setuptools' former module.")
    module.packaging, module.parse_version = packaging, packaging.version.parse
    module.DistributionNotFound = importlib.metadata.PackageNotFoundError
    module.get_distribution = _distribution
    module.resource_filename = lambda package, name: str(_resources(package) / name)
    module.resource_string = lambda package, name: (_resources(package) / name).read_bytes()
    module.resource_exists = lambda package, name: (_resources(package) / name).exists()
    sys.modules.setdefault("pkg_resources", module)


def _distribution(name: str) -> types.SimpleNamespace:
    """Name, version and place of an installed package."""
    from packaging.version import parse

    found = importlib.metadata.distribution(name)
    return types.SimpleNamespace(
        project_name=found.metadata["Name"], key=found.metadata["Name"].lower(), version=found.version,
        parsed_version=parse(found.version), location=str(found.locate_file("")),
    )  # fmt: skip


def _resources(package: str) -> Path:
    """The folder of a package or of a module."""
    return Path(importlib.import_module(package).__file__).parent
