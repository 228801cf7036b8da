"""Stand-ins for ``mmcv.ops`` (mmcv-lite has no compiled extension) and for ``pkg_resources`` (new setuptools lack it).

mmsegmentation imports two names of ``mmcv.ops`` without a guard; both are provided here. It guards all other names by
``except ModuleNotFoundError``, so the stand-in raises this exception for them.
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
    """Sample maps bilinearly at points.

    Args:
        input: float (N, C, H, W).
        points: float (N, P, 2) or (N, HP, WP, 2), (x, y) in [0, 1].
        align_corners: As in ``grid_sample``.
        **kwargs: Further arguments of ``grid_sample``.

    Returns:
        float (N, C, P) or (N, C, HP, WP).
    """
    flat = points.dim() == 3
    grid = 2.0 * (points.unsqueeze(2) if flat else points) - 1.0
    sampled = F.grid_sample(input, grid, align_corners=align_corners, **kwargs)
    return sampled.squeeze(3) if flat else sampled


def sigmoid_focal_loss(
    input: Tensor, target: Tensor, gamma: float = 2.0, alpha: float = 0.25, weight: Any = None, reduction: str = "mean"
) -> Tensor:
    """Compute torchvision's focal loss with mmcv's signature.

    Args:
        input: float (N, C), logits.
        target: int64 (N,), class indices; C means no class.
        gamma: Focusing exponent.
        alpha: Weight of positive targets.
        weight: Factor that is multiplied with the losses, None for 1.
        reduction: "none", "mean" or "sum".

    Returns:
        float (N, C) for "none", otherwise a scalar.
    """
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
    """Register the stand-in if mmcv has no compiled extension; call this before importing mmseg."""
    if importlib.util.find_spec("mmcv") is None or importlib.util.find_spec("mmcv._ext") is not None:
        return
    module = _Ops("mmcv.ops")
    module.point_sample, module.sigmoid_focal_loss = point_sample, sigmoid_focal_loss
    sys.modules.setdefault("mmcv.ops", module)


def provide_pkg_resources() -> None:
    """Register the functions of ``pkg_resources`` that segmentor repositories use, if setuptools lacks them."""
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
    """Return name, version and location of an installed package."""
    from packaging.version import parse

    found = importlib.metadata.distribution(name)
    return types.SimpleNamespace(
        project_name=found.metadata["Name"], key=found.metadata["Name"].lower(), version=found.version,
        parsed_version=parse(found.version), location=str(found.locate_file("")),
    )  # fmt: skip


def _resources(package: str) -> Path:
    """Return the folder of a package or module."""
    return Path(importlib.import_module(package).__file__).parent
