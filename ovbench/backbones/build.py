"""Load a backbone by its name and spec."""

from __future__ import annotations

from collections.abc import Mapping

from ovbench.backbones.base import Loaded
from ovbench.utils.errors import InputError
from ovbench.utils.registry import BACKBONES, find_backbone


def load_backbone(name: str, spec: str, module: str = "") -> Loaded:
    """Load a backbone in float32, frozen, on the CPU.

    Args:
        name: Its name in the registry, such as "clip".
        spec: Name of the network, see `ovbench.config.backbone_spec`.
        module: The Python module of the method that needs it, which may define backbones.

    Raises:
        UsageError: If the name or the spec is unknown.
        InputError: If the weights are missing and cannot be downloaded, or do not fit.
    """
    return find_backbone(name, module).load(spec)


def official_weights(backbones: Mapping[str, str | None]) -> dict[str, str]:
    """Return the names of published weights that are given as files, by backbone; files are known by their hash.

    Args:
        backbones: Specs by name.
    """
    shipped = {name: spec for name, spec in backbones.items() if spec and name in BACKBONES.entries()}
    found = {name: BACKBONES.load(name).official(spec) for name, spec in shipped.items()}
    return {name: official for name, official in found.items() if official}


def missing_weights(backbones: Mapping[str, str], module: str = "") -> list[str]:
    """Return the files that must be downloaded, as "NAME: FILE of REPOSITORY".

    Args:
        backbones: Specs by name.
        module: See `load_backbone`.

    Raises:
        UsageError: If a name is unknown.
        InputError: If a file is missing and cannot be downloaded, or no method can use a network. The message
            lists all missing files.
    """
    absent: list[str] = []
    problem: InputError | None = None
    for name, spec in backbones.items():
        try:
            absent += [f"{name}: {file}" for file in find_backbone(name, module).missing(spec)]
        except InputError as error:
            problem = problem or error
    if problem is not None:
        also = f"; also missing: {', '.join(absent)}" if absent else ""
        raise InputError(f"{problem.what}{also}", where=problem.where, fix=problem.fix)
    return absent
