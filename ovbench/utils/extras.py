"""Packages of optional extras, for messages."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, requires
from pathlib import Path

from ovbench.utils.toml import read_toml

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def extra_packages(extra: str) -> list[str]:
    """Return the requirements of an extra, from pyproject.toml in a checkout, otherwise from the installed package.

    Raises:
        KeyError: If there is no such extra.
    """
    if PROJECT.is_file():
        return list(read_toml(PROJECT)["project"]["optional-dependencies"][extra])
    try:
        lines = requires("ovbench") or []
    except PackageNotFoundError:
        lines = []
    marker = re.compile(rf"""extra == ['"]{re.escape(extra)}['"]""")
    found = [line.partition(";")[0].strip() for line in lines if marker.search(line)]
    if not found:
        raise KeyError(extra)
    return found


def install_line(extra: str) -> str:
    """Return the command that installs the packages of an extra.

    It names the packages, so that it also works for a checkout, whose extras no package index knows.

    Example:
        >>> install_line("plot")
        'pip install "matplotlib>=3.7"'
    """
    return "pip install " + " ".join(f'"{package}"' for package in extra_packages(extra))
