"""Mistakes in a method's own code: they fail an image, and the message names the method's file and line."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

import ovbench
from ovbench.methods.base import PatchFeatures
from ovbench.utils.errors import OvbenchError, ScoreError, Terminated, first_line, line_below

OVBENCH = Path(ovbench.__file__).parent


class MethodError(ScoreError):
    """Code of a method raised an exception, or returned what no method may return."""


class CannotBuild(MethodError):
    """A method cannot be made with its settings."""

    exit_code = 3


def blame(error: BaseException, code: Any) -> MethodError:
    """The error for what ``code``, a method, a region source or a class of one, raised.

    Raises:
        Terminated: the process was asked to end meanwhile. ``sys.exit`` in a method is a mistake like any other.
    """
    if isinstance(error, (KeyboardInterrupt, Terminated)):
        raise error
    if os.environ.get("OVBENCH_DEBUG"):
        traceback.print_exception(error)
    what = f"{type(error).__name__}: {first_line(error)}"
    return MethodError(f"{_name(code)} failed: {what}", where=line_below(error, _home(code)) or _defined(code))


@contextmanager
def blamed(code: Any) -> Iterator[Any]:
    """Raise what goes wrong in ``code`` as a MethodError; messages for the user go through."""
    try:
        yield code
    except OvbenchError:
        raise
    except (Exception, SystemExit) as error:
        raise blame(error, code) from error


def expect(value: Any, shape: Sequence[int | None], method: Any, function: str, *, floating: bool = True) -> Tensor:
    """``value`` itself, if it is a tensor of such a shape (None: any size) and type.

    Raises:
        MethodError: with what ``function`` of the method should return and what it returned.
    """
    if (
        isinstance(value, Tensor)
        and value.dim() == len(shape)
        and all(want in (None, have) for want, have in zip(shape, value.shape, strict=True))
        and (value.is_floating_point() if floating else not value.is_floating_point() and not value.is_complex())
    ):
        return value
    kind = "floating-point" if floating else "whole-number"
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    raise MethodError(
        f"{_name(method)}.{function} returned {_described(value)}, expected a {kind} tensor of shape ({sizes})",
        where=_defined(method, function),
    )


def _described(value: Any) -> str:
    if isinstance(value, Tensor):
        return f"a tensor of {str(value.dtype).removeprefix('torch.')} of shape {tuple(value.shape)}"
    if type(value).__module__ == "numpy" and hasattr(value, "shape"):
        return f"a NumPy array of {value.dtype} of shape {value.shape}"
    return "None" if value is None else f"an object of type {type(value).__name__}"


def _class(code: Any) -> type:
    return code if isinstance(code, type) else type(code)


def _name(code: Any) -> str:
    return _class(code).__name__


def _home(code: Any) -> Path:
    """The folder or file that the code is part of: that of ovbench, of its package, or of its file."""
    module = sys.modules.get(_class(code).__module__)
    file = Path(getattr(module, "__file__", None) or OVBENCH / "none")
    top, *below = _class(code).__module__.split(".")
    package = sys.modules.get(top)
    if below and getattr(package, "__file__", None):
        return Path(package.__file__).parent
    return file if file.parent.name in ("site-packages", "dist-packages") else file.parent


def _defined(code: Any, function: str = "encode") -> str | None:
    """Where the class defines a function, as "FILE, line N"."""
    defined = getattr(getattr(_class(code), function, None), "__code__", None)
    return f"{defined.co_filename}, line {defined.co_firstlineno}" if defined else None


def check_features(value: Any, windows: int, method: Any) -> None:
    """MethodError unless these are the PatchFeatures that the inherited ``score`` reads."""
    if not isinstance(value, PatchFeatures):
        what = f"{_name(method)}.encode returned {_described(value)}, expected PatchFeatures"
        raise MethodError(what, where=_defined(method))
    try:
        cells = value.grid[0] * value.grid[1]
    except (TypeError, IndexError):
        what = f"{_name(method)}.encode returned the grid {value.grid!r}, expected (gh, gw)"
        raise MethodError(what, where=_defined(method)) from None
    expect(value.tokens, (windows, cells, None), method, "encode")
