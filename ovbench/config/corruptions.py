"""Names of the image corruptions, so that a request is checked before image libraries are imported."""

from __future__ import annotations

from typing import NamedTuple

from ovbench.utils.errors import UsageError, unknown

CORRUPTIONS = (
    "gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "glass_blur", "motion_blur", "zoom_blur", "snow",
    "frost", "fog", "brightness", "contrast", "elastic_transform", "pixelate", "jpeg_compression",
)  # fmt: skip
SEVERITIES = range(1, 6)


class Corruption(NamedTuple):
    """A corruption with its severity, 1 to 5."""

    name: str
    severity: int


def read_corruption(text: str) -> Corruption:
    """Read a corruption as it is given on the command line.

    Args:
        text: ``NAME:SEVERITY``.

    Raises:
        UsageError: If the name or the severity is not known.

    Example:
        >>> read_corruption("fog:3")
        Corruption(name='fog', severity=3)
    """
    name, _, severity = text.partition(":")
    if name not in CORRUPTIONS:
        raise unknown("corruption", name, CORRUPTIONS, where="corrupt")
    if severity not in map(str, SEVERITIES):
        raise UsageError(
            f'"{text}" has no severity of 1 to 5', where="corrupt", fix=f"give NAME:SEVERITY, such as {name}:3"
        )
    return Corruption(name, int(severity))


def checked_corruption(text: str) -> str:
    """Return the text if it is "" or a corruption, see `read_corruption`."""
    if text:
        read_corruption(text)
    return text
