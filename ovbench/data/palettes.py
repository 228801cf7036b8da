"""Colours of classes: those that a benchmark's own tools use, otherwise distinct ones."""

from __future__ import annotations

from ovbench.utils.paths import shipped

Colours = list[tuple[int, int, int]]


def benchmark_palette(name: str, classes: int) -> Colours | None:
    """Return the usual colours of a shipped benchmark as RGB, one per class; None if it has none.

    Args:
        name: Name of the benchmark.
        classes: Number of its classes; a list of another length has no usual colours.

    Example:
        >>> benchmark_palette("cityscapes", 19)[0]
        (128, 64, 128)
    """
    path = shipped("datasets", "palettes", f"{name}.txt")
    if not name.replace("-", "").isalnum() or not path.is_file():
        return None
    rows = [tuple(map(int, line.split())) for line in path.read_text(encoding="ascii").splitlines()]
    return rows if len(rows) == classes else None  # type: ignore[return-value]
