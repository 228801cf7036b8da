"""Precision, compilation and batch size of the backbones; everything else is computed in fp32.

Nearly all computation is in the transformer blocks. Their output is converted to fp32, so the changed last block of a
method, comparisons with queries, merging and decisions are in fp32. In fp16 and bf16, ``torch.autocast`` decides which
operations are rounded. The weights of matrix products are rounded once: autocast would do it again at every call,
because it remembers only weights that are trained.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ovbench.utils.errors import UsageError

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Execution(NamedTuple):
    """Settings of the backbones' computation.

    Attributes:
        precision: a name of `PRECISIONS`.
        compiled: Whether the blocks run with ``torch.compile``.
        batch: Number of windows of several images in a batch; 0: each image has its own batches.
    """

    precision: str = "fp32"
    compiled: bool = False
    batch: int = 0

    def as_dict(self) -> dict[str, Any]:
        """Return the settings as in a record."""
        return {"precision": self.precision, "compile": self.compiled, "batch": self.batch}


FP32 = Execution()
BATCH_GPU = 32
FEATURE_BUDGET = 4 << 30  # bytes of features of unfinished images on a GPU; more features are stored in host memory
BATCH_STEP = 8  # MKL rounds the last rows of matrices with 5, 6, 7 or 9 rows in another order


def choose_batch(asked: int | None, device: str) -> int:
    """Return the number of windows in a shared batch: by default 32 on a GPU, 0 on a CPU.

    Args:
        asked: The user's number, None for the default.
        device: The torch device.

    Raises:
        UsageError: If the last bits of a window could depend on its position in a batch of this size.
    """
    if asked is None:
        return BATCH_GPU if torch.device(device).type == "cuda" else 0
    if asked % BATCH_STEP:
        raise UsageError(f"{asked} is not a multiple of {BATCH_STEP}", where="--batch", fix="give 0, 8, 16, 24, ...")
    return asked


def refuse_tf32() -> None:
    """Disable TF32, which PyTorch uses by default for fp32 convolutions on a GPU."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def execute(method: nn.Module, execution: Execution) -> None:
    """Set precision and compilation of the functions of a method's backbones, in place.

    A network names in ``heavy`` the functions that contain its blocks, and in ``compiles`` (default: the same) those to
    compile. These get tokens, not images: the resizing of positions depends on the grid, so it would be compiled again
    for every grid. Sizes are dynamic, so one compilation serves all grids and batches.

    Args:
        method: The method, on its device.
        execution: The settings.
    """
    if execution._replace(batch=0) == FP32:
        return
    precision = PRECISIONS[execution.precision]
    weights = RoundedWeights(precision)
    method.compiled = execution.compiled
    for module in list(method.modules()):
        heavy = getattr(module, "heavy", ())
        for name in getattr(module, "compiles", heavy) if execution.compiled else ():
            setattr(module, name, torch.compile(getattr(module, name), dynamic=True))
        for name in heavy:
            setattr(module, name, _in_precision(getattr(module, name), precision, module, weights))


class RoundedWeights:
    """The weights of matrix products and convolutions in another precision, rounded at their first use.

    Args:
        precision: Their dtype; nothing is rounded to float32.
    """

    PRODUCTS = (nn.Linear, nn.Conv2d, nn.MultiheadAttention)

    def __init__(self, precision: torch.dtype):
        self.precision = precision
        self._rounded: dict[nn.Parameter, Tensor] = {}

    @contextmanager
    def of(self, network: nn.Module) -> Iterator[None]:
        """Put the rounded weights in the place of the weights of a network, inside the block."""
        found = [] if self.precision == torch.float32 else list(self._weights(network))
        try:
            for weights, name, exact in found:
                weights[name] = self._round(exact)
            yield
        finally:
            for weights, name, exact in found:
                weights[name] = exact

    def _weights(self, network: nn.Module) -> Iterator[tuple[dict[str, Any], str, nn.Parameter]]:
        for module in network.modules():
            if isinstance(module, self.PRODUCTS):
                for name, exact in module._parameters.items():
                    if exact is not None:
                        yield module._parameters, name, exact

    def _round(self, exact: nn.Parameter) -> Tensor:
        found = self._rounded.get(exact)
        if found is None or found.device != exact.device:
            found = self._rounded[exact] = exact.detach().to(self.precision)
        return found


def _in_precision(
    function: Callable[..., Any], precision: torch.dtype, network: nn.Module, weights: RoundedWeights
) -> Callable[..., Any]:  # fmt: skip
    def run(*arguments: Any, **named: Any) -> Any:
        kind = next(network.parameters()).device.type
        if torch.is_autocast_enabled(kind):  # called by another heavy function, which converts its result
            return function(*arguments, **named)
        with weights.of(network), torch.autocast(kind, precision, enabled=precision != torch.float32):
            result = function(*arguments, **named)
        return _in_fp32(result)

    return run


def _in_fp32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple):
        items = [_in_fp32(item) for item in value]
        return type(value)(*items) if hasattr(value, "_fields") else tuple(items)
    return value
