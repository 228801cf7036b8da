"""Coordinates of a scatter plot, which a template draws as SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

WIDTH, HEIGHT = 760, 420
LEFT, RIGHT, TOP, BOTTOM = 56, 20, 16, 46
LETTER, LINE = 6.6, 13  # approximate size of a label in pixels
SHIFTS = (0, -LINE, LINE, -2 * LINE, 2 * LINE, -3 * LINE, 3 * LINE)


class Point(NamedTuple):
    """A point in data units, with its label and the page to open."""

    x: float
    y: float
    label: str
    link: str = ""


def scatter(points: Sequence[Point], x_title: str, y_title: str) -> dict[str, Any]:
    """Return places of points, labels and ticks in pixels.

    Args:
        points: At least one point; both axes start at 0 or below the smallest value.
        x_title: Title of the x axis.
        y_title: Title of the y axis.
    """
    xs, ys = _ticks(0.0, max(p.x for p in points)), _ticks(min(p.y for p in points), max(p.y for p in points))
    wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def across(x: float) -> float:
        return LEFT + wide * (x - xs[0]) / (xs[-1] - xs[0])

    def down(y: float) -> float:
        return TOP + high * (1 - (y - ys[0]) / (ys[-1] - ys[0]))

    taken = [(across(p.x) - 5, down(p.y) - 5, across(p.x) + 5, down(p.y) + 5) for p in points]
    drawn = []
    for point in sorted(points, key=lambda p: -p.y):
        x, y = across(point.x), down(point.y)
        label, box = _label(x, y, point.label, taken)
        taken.append(box)
        drawn.append({"x": round(x, 1), "y": round(y, 1), **label, "text": point.label, "link": point.link,
                      "title": f"{point.label}: {point.y:.1f} at {point.x:.3g}"})  # fmt: skip
    return {
        "width": WIDTH, "height": HEIGHT, "left": LEFT, "right": WIDTH - RIGHT, "top": TOP, "bottom": HEIGHT - BOTTOM,
        "x_title": x_title, "y_title": y_title, "points": drawn,
        "x_ticks": [(round(across(value), 1), f"{value:g}") for value in xs],
        "y_ticks": [(round(down(value), 1), f"{value:g}") for value in ys],
    }  # fmt: skip


def _ticks(low: float, high: float) -> list[float]:
    """Return round values from at most ``low`` to at least ``high``."""
    span = max(high - low, abs(high) * 0.1, 1e-9)
    step = 10 ** math.floor(math.log10(span / 4))
    step *= next(factor for factor in (1, 2, 5, 10) if span / (step * factor) <= 6)
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(number * step, 10) for number in range(first, max(last, first + 1) + 1)]


def _label(
    x: float, y: float, text: str, taken: Sequence[tuple[float, ...]]
) -> tuple[dict[str, Any], tuple[float, float, float, float]]:
    """Return a place of a label beside its point that covers as little as possible."""
    width, found = LETTER * len(text), []
    for order, shift in enumerate(SHIFTS):
        for anchor, left in (("start", x + 9), ("end", x - 9 - width)):
            box = (left, y + shift - LINE / 2, left + width, y + shift + LINE / 2)
            outside = max(0.0, box[2] - WIDTH) + max(0.0, LEFT - box[0])
            covered = sum(
                max(0.0, min(box[2], b[2]) - max(box[0], b[0])) * max(0.0, min(box[3], b[3]) - max(box[1], b[1]))
                for b in taken
            )
            place = {"label_x": round(x + 9 if anchor == "start" else x - 9, 1), "label_y": round(y + shift + 4, 1)}
            found.append(((covered + 50 * outside, order), {**place, "anchor": anchor}, box))
    _, label, box = min(found, key=lambda one: one[0])
    return label, box
