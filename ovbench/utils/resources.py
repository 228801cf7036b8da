"""Where the data files that belong to the package lie, in a wheel and in a source checkout alike."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parents[1]


def shipped(*parts: str) -> Path:
    """Path of a file or folder under ``configs/`` or ``datasets/``.

    The wheel carries both folders inside the package; an editable install reads them from the checkout.
    """
    installed = _PACKAGE / "_shipped"
    root = installed if installed.is_dir() else _PACKAGE.parent
    return root.joinpath(*parts)


def asset(*parts: str) -> Path:
    """Path of a file under ``ovbench/assets`` (the small trained backbones)."""
    return _PACKAGE.joinpath("assets", *parts)
