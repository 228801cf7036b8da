"""Choose images that show every class."""

from __future__ import annotations

import numpy as np


def cover_classes(shows: np.ndarray, count: int, generator: np.random.Generator) -> list[int]:
    """Return image indices in the order of choice; a smaller count gives the first of them.

    Args:
        shows: bool (N, C), the classes of each image.
        count: Number of images.
        generator: Breaks ties, and chooses the images that no class needs.
    """
    order = generator.permutation(len(shows))  # breaks ties, and gives the random images
    chosen: list[int] = []
    uncovered = shows.any(0)
    while uncovered.any() and len(chosen) < count:
        rarity = np.where(uncovered, shows.sum(0), len(shows) + 1)
        candidates = order[shows[order, rarity.argmin()]]
        best = int(candidates[shows[candidates][:, uncovered].sum(1).argmax()])
        chosen.append(best)
        uncovered &= ~shows[best]
    taken = set(chosen)
    return chosen + [int(i) for i in order if int(i) not in taken][: count - len(chosen)]
