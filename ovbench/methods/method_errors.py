"""Errors in the code of a method: they fail one image, and the message names the file and line of the method."""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovbench.utils.errors import OvbenchError, ScoreError, Terminated, first_line, line_below

if TYPE_CHECKING:
    from torch import Tensor

OVBENCH = Path(__file__).resolve().parents[1]


class MethodError(ScoreError):
    """An exception in the code of a method, or a result of a wrong type or shape."""


class CannotBuild(MethodError):
    """A method that cannot be created with its settings."""

    exit_code = 3


def blame(error: BaseException, code: Any) -> MethodError:
    """Return the error that names the code which raised an exception.

    ``sys.exit`` in a method is an error of the method.

    Args:
        error: What was raised.
        code: A method, a region source, or the class of one.

    Returns:
        The error with the file and line of the code.

    Raises:
        KeyboardInterrupt: If that is the error.
        Terminated: If that is the error, because a signal ended the process.
    """
    if isinstance(error, (KeyboardInterrupt, Terminated)):
        raise error
    if os.environ.get("OVBENCH_DEBUG"):
        traceback.print_exception(error)
    what = f"{type(error).__name__}: {first_line(error)}"
    return MethodError(f"{_name(code)} failed: {what}", where=line_below(error, _home(code)) or _defined(code))


@contextmanager
def blamed(code: Any) -> Iterator[Any]:
    """Raise exceptions of ``code`` as MethodError; an OvbenchError is raised unchanged.

    Args:
        code: A method, a region source, or the class of one.

    Yields:
        ``code``.
    """
    try:
        yield code
    except OvbenchError:
        raise
    except (Exception, SystemExit) as error:
        raise blame(error, code) from error


def expect(value: Any, shape: Sequence[int | None], method: Any, function: str, *, floating: bool = True) -> Tensor:
    """Check what a function of a method returned.

    Args:
        value: The returned value.
        shape: Expected shape; None is any size.
        method: The method.
        function: Name of its function.
        floating: Expect floating-point values, otherwise integers.

    Returns:
        ``value``.

    Raises:
        MethodError: If type or shape is wrong, with the expected and the returned one.
    """
    from torch import Tensor  # `list regions` uses this file without torch

    if (
        isinstance(value, Tensor)
        and value.dim() == len(shape)
        and all(want in (None, have) for want, have in zip(shape, value.shape, strict=True))
        and (value.is_floating_point() if floating else not value.is_floating_point() and not value.is_complex())
    ):
        return value
    dtype = "a floating-point" if floating else "an integer"
    sizes = ", ".join("any" if size is None else str(size) for size in shape)
    raise MethodError(
        f"{_name(method)}.{function} returned {_described(value)}, expected {dtype} tensor of shape ({sizes})",
        where=_defined(method, function),
    )


def _described(value: Any) -> str:
    """Describe a value by type, and a tensor also by dtype and shape."""
    from torch import Tensor

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
    """Return the folder of the package that defines the class, or else its file or the folder of its file."""
    module = sys.modules.get(_class(code).__module__)
    file = Path(getattr(module, "__file__", None) or OVBENCH / "none")
    top, *below = _class(code).__module__.split(".")
    package = sys.modules.get(top)
    if below and getattr(package, "__file__", None):
        return Path(package.__file__).parent
    return file if file.parent.name in ("site-packages", "dist-packages") else file.parent


def _defined(code: Any, function: str = "encode") -> str | None:
    """Return where the class defines a function, as "FILE, line N"."""
    defined = getattr(getattr(_class(code), function, None), "__code__", None)
    return f"{defined.co_filename}, line {defined.co_firstlineno}" if defined else None


def check_features(value: Any, windows: int, method: Any, function: str = "encode") -> None:
    """Check that a method returned the PatchFeatures that the inherited ``score`` reads.

    Args:
        value: What was returned.
        windows: Number of windows of the batch.
        method: The method.
        function: Name of the function that returned it.

    Raises:
        MethodError: If type, grid or shape is wrong.
    """
    from ovbench.methods.base import PatchFeatures

    if not isinstance(value, PatchFeatures):
        what = f"{_name(method)}.{function} returned {_described(value)}, expected PatchFeatures"
        raise MethodError(what, where=_defined(method, function))
    try:
        cells = value.grid[0] * value.grid[1]
    except (TypeError, IndexError):
        what = f"{_name(method)}.{function} returned the grid {value.grid!r}, expected (gh, gw)"
        raise MethodError(what, where=_defined(method, function)) from None
    expect(value.tokens, (windows, cells, None), method, function)
