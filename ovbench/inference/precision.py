"""How the backbones run: their precision, whether they are compiled, in which batches. All else stays in fp32.

The transformer blocks hold nearly all of the work. What comes out of them goes on in fp32: the last block as a method
changes it, comparisons with words, merging and decisions.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ovbench.utils.errors import UsageError

PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


class Execution(NamedTuple):
    """``precision``: a name of `PRECISIONS`; ``compiled``: the blocks go through ``torch.compile``; ``batch``: windows
    of several images share batches of so many (0: those of an image go by themselves)."""

    precision: str = "fp32"
    compiled: bool = False
    batch: int = 0

    def as_dict(self) -> dict[str, Any]:
        return {"precision": self.precision, "compile": self.compiled, "batch": self.batch}


FP32 = Execution()
BATCH_GPU = 32
BATCH_STEP = 8  # MKL multiplies the last rows of matrices of 5, 6, 7 or 9 rows in another order than the others


def choose_batch(asked: int | None, device: str) -> int:
    """Windows that share a batch: by default many on a GPU; a CPU has nothing to gain from more than an image has.
    UsageError for a number of which a window's place in the batch could change the last bits."""
    if asked is None:
        return BATCH_GPU if torch.device(device).type == "cuda" else 0
    if asked % BATCH_STEP:
        raise UsageError(f"{asked} is no multiple of {BATCH_STEP}", where="--batch", fix="give 0, 8, 16, 24, ...")
    return asked


def refuse_tf32() -> None:
    """Products and convolutions of fp32 are of fp32: PyTorch's default rounds convolutions to TF32 on a GPU."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def execute(method: nn.Module, execution: Execution) -> None:
    """Have the ``heavy`` functions of a method's backbones run like this, in place."""
    if execution._replace(batch=0) == FP32:
        return
    for module in list(method.modules()):
        for name in getattr(module, "heavy", ()):
            function = getattr(module, name)
            if execution.compiled:
                function = torch.compile(function)
            setattr(module, name, _in_precision(function, PRECISIONS[execution.precision]))


def _in_precision(function: Callable[..., Any], precision: torch.dtype) -> Callable[..., Any]:
    def run(first: Tensor, *arguments: Any, **named: Any) -> Any:
        with torch.autocast(first.device.type, precision, enabled=precision != torch.float32):
            result = function(first, *arguments, **named)
        return _in_fp32(result)

    return run


def _in_fp32(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.float() if value.is_floating_point() else value
    if isinstance(value, tuple):
        parts = [_in_fp32(part) for part in value]
        return type(value)(*parts) if hasattr(value, "_fields") else tuple(parts)
    return value
