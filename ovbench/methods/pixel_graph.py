"""A graph between near pixels of similar colour, as one map of weights per displacement instead of a matrix."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

# rows: X, Y, Z from linear R, G, B; D65
XYZ = ((0.412453, 0.357580, 0.180423), (0.212671, 0.715160, 0.072169), (0.019334, 0.119193, 0.950227))
WHITE = (0.95047, 1.0, 1.08883)


class Displacement(NamedTuple):
    """The edges between all pixels and those at one displacement.

    Attributes:
        first: Index of the pixels in (..., h, w).
        second: Index of the displaced pixels.
        weight: float (h', w'), one weight per pair.
    """

    first: tuple[Any, ...]
    second: tuple[Any, ...]
    weight: Tensor


class PixelGraph(NamedTuple):
    """A symmetric graph: half of the displacements, each used in both directions."""

    displacements: tuple[Displacement, ...]

    @classmethod
    def of(cls, colours: Tensor, radius: int, tau: float) -> PixelGraph:
        """Return the graph with edges exp(-|difference of colours| / tau) in a square around each pixel.

        Args:
            colours: float (3, h, w).
            radius: Half the side of the square, without the pixel itself.
            tau: Colour difference at which a weight is 1 / e.
        """
        height, width = colours.shape[1:]
        made = []
        for dy in range(min(radius, height - 1) + 1):
            for dx in range(-min(radius, width - 1), min(radius, width - 1) + 1):
                if dy == 0 and dx <= 0:
                    continue  # the other direction of a displacement that is there
                first = (..., slice(0, height - dy), slice(max(-dx, 0), width - max(dx, 0)))
                second = (..., slice(dy, height), slice(max(dx, 0), width - max(-dx, 0)))
                distance = (colours[first] - colours[second]).square().sum(0).sqrt()
                made.append(Displacement(first, second, torch.exp(-distance / tau)))
        return cls(tuple(made))

    def apply(self, x: Tensor) -> Tensor:
        """Return for each pixel the weighted sum of its neighbours, for x float (Q, h, w)."""
        total = torch.zeros_like(x)
        for first, second, weight in self.displacements:
            total[first].addcmul_(weight, x[second])
            total[second].addcmul_(weight, x[first])
        return total

    def normalised(self, degree: Tensor) -> PixelGraph:
        """Return D^-1/2 A D^-1/2 for the degrees float (h, w); a degree of 0 counts as 1."""
        scale = torch.where(degree > 0, degree, 1.0).rsqrt()
        return PixelGraph(
            tuple(
                Displacement(first, second, weight * scale[first] * scale[second])
                for first, second, weight in self.displacements
            )
        )


def scaled_lab(image: Tensor) -> Tensor:
    """Convert sRGB in [0, 1] to CIE Lab divided by 100, 128 and 128; both float (3, h, w)."""
    linear = torch.where(image > 0.04045, ((image + 0.055) / 1.055) ** 2.4, image / 12.92)
    red, green, blue = linear
    xyz = torch.stack([(r * red + g * green + b * blue) / white for (r, g, b), white in zip(XYZ, WHITE, strict=True)])
    fx, fy, fz = torch.where(xyz > 0.008856, xyz.clamp(min=0.008856) ** (1 / 3), 7.787 * xyz + 4 / 29)
    return torch.stack([(116 * fy - 16) / 100, 500 * (fx - fy) / 128, 200 * (fy - fz) / 128])
