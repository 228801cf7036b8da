"""Names in plots: shortened without losing what distinguishes them, and placed without covering each other."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    import numpy as np
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.transforms import Bbox

ELLIPSIS = "…"
TURNS = 16  # directions in which a name is tried around its point
DISTANCES_PT = (9, 16, 26, 38, 52, 70)


def literal(text: str) -> str:
    """Escape dollars, which matplotlib reads as mathematics."""
    return text.replace("$", r"\$")


def shortened(names: Sequence[str], most: int) -> list[str]:
    """Return names of at most ``most`` characters; names that would become equal get their number.

    Example:
        >>> shortened(["computer, computing machine", "computer, computing device", "sky"], 14)
        ['computer… (1)', 'computer… (2)', 'sky']
    """
    cut = [name if len(name) <= most else name[: most - 1].rstrip(" ,;") + ELLIPSIS for name in names]
    ambiguous = {short for short in cut if cut.count(short) > 1}
    made = []
    for number, (name, short) in enumerate(zip(names, cut, strict=True), start=1):
        if short in ambiguous and short != name:
            suffix = f"{ELLIPSIS} ({number})"
            short = name[: most - len(suffix)].rstrip(" ,;") + suffix
        made.append(short)
    return made


def wrapped(names: Sequence[str], width: int, lines: int = 3) -> list[str]:
    """Return names in at most ``lines`` lines, in as many as needed if they would become equal."""
    cut = [textwrap.fill(name, width, max_lines=lines, placeholder=ELLIPSIS) for name in names]
    return [
        textwrap.fill(name, width) if cut.count(short) > 1 else short for name, short in zip(names, cut, strict=True)
    ]


def place_names(axes: Axes, points: Sequence[tuple[float, float]], names: Sequence[str], size: float) -> None:
    """Write a name beside every point where it covers no other name and no point, with a line if it is not close.

    Args:
        axes: The axes, with final limits.
        points: The points in data coordinates.
        names: Their names.
        size: Size of the text in points.
    """
    figure = cast("Figure", axes.figure)
    figure.draw_without_rendering()  # the layout is final: extents are known
    per_point = figure.dpi / 72
    taken = [_around(axes.transData.transform(point), 4 * per_point) for point in points]
    whole = axes.get_window_extent()
    for point, name in sorted(zip(points, names, strict=True), key=lambda one: -one[0][1]):
        text = axes.annotate(literal(name), point, textcoords="offset points", xytext=(0, 0), fontsize=size)
        box = text.get_window_extent()
        best = min(_offsets(box, per_point), key=lambda one: _badness(one[1], taken, whole, one[2]))
        (x, y), placed, distance = best
        text.set_position((x, y))
        taken.append(placed)
        if distance > DISTANCES_PT[0]:
            axes.annotate(
                "", point, textcoords="offset points", xytext=_nearest(placed, axes, point, per_point),
                arrowprops={"arrowstyle": "-", "color": "0.6", "lw": 0.6, "shrinkA": 0, "shrinkB": 3},
            )  # fmt: skip


def _around(place: np.ndarray, radius: float) -> Bbox:
    from matplotlib.transforms import Bbox

    return Bbox.from_extents(place[0] - radius, place[1] - radius, place[0] + radius, place[1] + radius)


def _offsets(box: Bbox, per_point: float) -> list[tuple[tuple[float, float], Bbox, int]]:
    """Return positions of a name around its point: offset in points, extent in pixels, distance in points."""
    found = []
    for distance in DISTANCES_PT:
        for turn in range(TURNS):
            angle = 2 * math.pi * turn / TURNS
            dx, dy = distance * math.cos(angle), distance * math.sin(angle)
            dx -= (1 - math.cos(angle)) / 2 * box.width / per_point  # the name's near edge lies at the distance
            dy -= (1 - math.sin(angle)) / 2 * box.height / per_point
            found.append(((dx, dy), box.translated(dx * per_point, dy * per_point), distance))
    return found


def _badness(box: Bbox, taken: Sequence[Bbox], whole: Bbox, distance: int) -> tuple[float, int]:
    covered = sum(_common(box, other) for other in taken)
    return covered + 2 * (box.width * box.height - _common(box, whole)), distance


def _common(a: Bbox, b: Bbox) -> float:
    """Return the area in pixels that two boxes have in common."""
    width, height = min(a.x1, b.x1) - max(a.x0, b.x0), min(a.y1, b.y1) - max(a.y0, b.y0)
    return max(width, 0.0) * max(height, 0.0)


def _nearest(box: Bbox, axes: Axes, point: tuple[float, float], per_point: float) -> tuple[float, float]:
    """Return the place in a box that is nearest to a point, as offset in points."""
    x, y = axes.transData.transform(point)
    return (min(max(x, box.x0), box.x1) - x) / per_point, (min(max(y, box.y0), box.y1) - y) / per_point
