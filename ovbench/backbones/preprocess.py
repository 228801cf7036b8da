"""Normalisation of the input of a network, as its publisher gives it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

TOLERANCE = 0.01  # largest difference of roundings of the same constant, for values 0..255


class Normalisation(NamedTuple):
    """Mean and standard deviation of RGB values 0..255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of_unit(cls, mean: Sequence[float], std: Sequence[float]) -> Normalisation:
        """Convert constants for values 0..1, rounded to three places as in the configurations of mmsegmentation.

        Example:
            >>> Normalisation.of_unit((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).mean
            (127.5, 127.5, 127.5)
        """
        return cls(*(tuple(round(255 * value, 3) for value in values) for values in (mean, std)))

    def equals(self, other: Normalisation) -> bool:
        """Return whether both are the same constants, apart from rounding."""
        pairs = zip((*self.mean, *self.std), (*other.mean, *other.std), strict=True)
        return all(abs(a - b) <= TOLERANCE for a, b in pairs)

    def unit(self) -> Normalisation:
        """Return the constants for values 0..1; for known ones, without the rounding.

        Official code normalises with rounded constants of OpenAI and undoes it with the unrounded ones.
        """
        return UNIT.get(self) or Normalisation(*(tuple(value / 255 for value in values) for values in self))


OPENAI = Normalisation((122.771, 116.746, 104.094), (68.501, 66.632, 70.323))
IMAGENET = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
UNIT = {
    OPENAI: Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    IMAGENET: Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
