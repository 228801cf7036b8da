"""One rule about devices: the counts of a record come from devices of one model, unless the user accepts others.

The type of a device, precision, compilation and batch are part of the ledger's header. So counts of a CPU and of a GPU
never meet. This module is about the rest: the model, the threads of a CPU, and TF32.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from ovbench.utils.differences import mismatches
from ovbench.utils.errors import InputError


def distinct_devices(devices: Iterable[Mapping[str, Any] | None]) -> list[dict[str, Any]]:
    """Return devices that differ, in their order; None stands for one that is not known, and is left out."""
    found: list[dict[str, Any]] = []
    for device in devices:
        if device is not None and dict(device) not in found:
            found.append(dict(device))
    return found


def refuse_other_devices(devices: Iterable[Mapping[str, Any] | None], where: str, fix: str) -> None:
    """Refuse counts from unlike devices, because they may differ in the last bit.

    Args:
        devices: The devices of all counts.
        where: The ledger.
        fix: What to do, besides --mixed-devices.

    Raises:
        InputError: If two devices differ, with the first difference.
    """
    found = distinct_devices(devices)
    if len(found) > 1:
        name, first, second = mismatches(found[0], found[1])[0]
        raise InputError(
            f'the counts are from unlike devices: "{name}" is {first} and {second}', where=where,
            fix=f"{fix}, or accept both with --mixed-devices",
        )  # fmt: skip
