"""Plots of records: IoU of every class, methods by benchmarks, cost against mIoU, variants with intervals."""

from __future__ import annotations

import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ovbench.results.record_files import RecordFile, apart_by_data, deviations_of, records_at
from ovbench.results.tables import record_table
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FORMATS = (".png", ".svg")
MOST_CLASSES = 200  # in a plot; of more classes, half of them are the best and half the worst
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito: colour-blind safe


def gather(paths: Sequence[Path]) -> list[RecordFile]:
    """Read records, and all records of folders.

    Raises:
        InputError: If there is no record with a score.
    """
    found = [one for path in paths for one in records_at(path)]
    found = [f for f in found if f.record["metrics"]["mIoU"] is not None]
    if not found:
        raise InputError("no record with a score", where=", ".join(map(str, paths)), fix="run ovbench eval first")
    return apart_by_data(found)


def draw(kind: str, records: Sequence[RecordFile], out: Path) -> None:
    """Draw records and write the plot.

    Args:
        kind: A key of `KINDS`.
        records: The records.
        out: The file, .png or .svg; equal records give an equal SVG.

    Raises:
        UsageError: If the format is unknown or the records do not fit the kind.
        InputError: If matplotlib is missing.
    """
    if out.suffix not in FORMATS:
        raise UsageError(f'unknown plot format "{out.suffix}"', where=str(out), fix=f"use {' or '.join(FORMATS)}")
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("plots need matplotlib", fix='pip install "ovbench[plot]"') from error
    with rc_context({"svg.hashsalt": "ovbench", "font.size": 9}):
        figure = Figure(figsize=_size(kind, records), layout="constrained")
        KINDS[kind](figure.add_subplot(), records)
        buffer = io.BytesIO()
        meta = {"Date": None} if out.suffix == ".svg" else {}
        figure.savefig(buffer, format=out.suffix[1:], dpi=150, metadata=meta)
    write_bytes(out, buffer.getvalue())


def _size(kind: str, records: Sequence[RecordFile]) -> tuple[float, float]:
    """Return width and height in inches; the height depends on the number of rows."""
    rows = {
        "classes": min(len(records[0].record["per_class"]), MOST_CLASSES) * (0.1 + 0.09 * len(records)),
        "heatmap": 0.5 * len(records),
        "ablation": 0.4 * len(records),
    }.get(kind, 4.0)
    return 8.0, min(max(rows + 1.2, 2.5), 120.0)


def _name(found: RecordFile) -> str:
    """Return the method with its deviations from the published settings, and * for part of a benchmark."""
    changed = deviations_of(found.record)
    name = found.record["cell"]["method"] + (f" ({changed})" if changed else "")
    return _plain(name + (" *" if found.partial else ""))


def _plain(text: str) -> str:
    """Escape dollars, which matplotlib reads as mathematics."""
    return text.replace("$", r"\$")


def _shown_classes(found: RecordFile) -> tuple[list[int], str]:
    """Return the numbers of the classes to draw, and which these are if it is not every class."""
    scores = [row["iou"] for row in found.record["per_class"]]
    if len(scores) <= MOST_CLASSES:
        return [*range(len(scores))], ""
    ranked = sorted((n for n, iou in enumerate(scores) if iou is not None), key=lambda n: -scores[n])
    if len(ranked) <= MOST_CLASSES:
        return ranked, f", the {len(ranked)} of {len(scores)} classes with a score"
    half = MOST_CLASSES // 2
    return [*ranked[:half], *ranked[-half:]], f", {half} best and {half} worst of {len(scores)} classes"


def _classes(axes: Axes, records: Sequence[RecordFile]) -> None:
    """Draw the IoU of every class as bars, one colour per record of one benchmark."""
    names = [row["class"] for row in records[0].record["per_class"]]
    if any([row["class"] for row in f.record["per_class"]] != names for f in records):
        raise UsageError("the records have different classes", fix="give records of one benchmark")
    if len(records) > len(COLOURS):
        raise UsageError(f"{len(records)} records are too many for one plot", fix=f"give {len(COLOURS)} at most")
    shown, which = _shown_classes(records[0])
    height = 0.8 / len(records)
    for number, found in enumerate(records):
        places = [row + number * height for row in range(len(shown))]
        scores = [100 * (found.record["per_class"][n]["iou"] or 0) for n in shown]
        axes.barh(places, scores, height, align="edge", color=COLOURS[number], label=_name(found))
    axes.set_yticks([row + 0.4 for row in range(len(shown))], [_plain(names[n]) for n in shown])
    axes.set_ylim(len(shown), 0)
    axes.set_xlabel("IoU in percent")
    axes.set_title(_plain(records[0].record["cell"]["dataset"]) + which + _partial(records))
    axes.legend(fontsize=7)


def _heatmap(axes: Axes, records: Sequence[RecordFile]) -> None:
    """Draw methods by benchmarks, with the newest complete record of each cell."""
    table = record_table(records)
    values = [[float("nan") if c.measured is None else c.measured for c in row.cells] for row in table.rows]
    axes.imshow(values, cmap="viridis", aspect="auto", vmin=0)
    axes.set_yticks(range(len(table.rows)), [_plain(row.name) for row in table.rows])
    axes.set_xticks(range(len(table.columns)), map(_plain, table.columns))
    top = max(value for row in values for value in row if value == value)
    for y, row in enumerate(table.rows):
        for x, cell in enumerate(row.cells):
            if cell.measured is not None:
                text = f"{cell.measured:.1f}" + ("*" if cell.partial else "")
                axes.text(x, y, text, ha="center", va="center", color="black" if cell.measured > top / 2 else "white")
    axes.set_title("mIoU in percent" + _partial(records))


def _cost(axes: Axes, records: Sequence[RecordFile]) -> None:
    """Draw the seconds of labelling per image against mIoU, one point per record."""
    if len({f.record["cell"]["dataset"] for f in records}) > 1:
        raise UsageError("mIoU of different benchmarks has no common axis", fix="give records of one benchmark")
    devices = {f.record["device"].get("name", "") for f in records}
    costs = [f.record["time"]["seconds"].get("label", 0.0) / f.record["dataset"]["images"] for f in records]
    for number, (found, seconds) in enumerate(zip(records, costs, strict=True)):
        miou, left = 100 * found.record["metrics"]["mIoU"], seconds > max(costs) / 2
        axes.scatter(seconds, miou, color=COLOURS[number % len(COLOURS)])
        axes.annotate(
            _name(found), (seconds, miou), textcoords="offset points", xytext=(-6 if left else 6, 4),
            ha="right" if left else "left", fontsize=7,
        )  # fmt: skip
    axes.set_xlabel("seconds per image, labelling only, on " + "; ".join(sorted(devices)))
    axes.set_ylabel("mIoU in percent")
    axes.margins(x=0.15, y=0.15)
    axes.set_xlim(left=0)
    axes.set_title(_plain(records[0].record["cell"]["dataset"]) + _partial(records))


def _ablation(axes: Axes, records: Sequence[RecordFile]) -> None:
    """Draw the mIoU of every record with its 95 % interval, in the given order."""
    for number, found in enumerate(records):
        metrics = found.record["metrics"]
        miou, bounds = 100 * metrics["mIoU"], metrics.get("mIoU_interval")
        error = None
        if bounds:
            error = [[max(miou - 100 * bounds[0], 0)], [max(100 * bounds[1] - miou, 0)]]
        axes.barh(number, miou, 0.7, xerr=error, color=COLOURS[0], capsize=3)
        end = 100 * bounds[1] if bounds else miou
        axes.annotate(f"{miou:.1f}", (end, number), textcoords="offset points", xytext=(6, 0), va="center")
    several = len({f.record["cell"]["dataset"] for f in records}) > 1
    names = [_name(f) + (_plain(f" on {f.record['cell']['dataset']}") if several else "") for f in records]
    axes.set_yticks(range(len(records)), names)
    axes.set_ylim(len(records) - 0.5, -0.5)
    axes.margins(x=0.12)
    axes.set_xlabel("mIoU in percent, with its 95 % interval over images")
    axes.set_title(("" if several else _plain(records[0].record["cell"]["dataset"])) + _partial(records))


def _partial(records: Sequence[RecordFile]) -> str:
    return "  (* only part of the benchmark)" if any(f.partial for f in records) else ""


KINDS: dict[str, Callable[[Axes, Sequence[RecordFile]], None]] = {
    "classes": _classes, "heatmap": _heatmap, "cost": _cost, "ablation": _ablation
}  # fmt: skip
