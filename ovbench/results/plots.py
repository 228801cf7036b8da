"""Plots of records: IoU of classes, methods by benchmarks, cost against mIoU, variants with intervals."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ovbench.evaluation.record import warnings_of
from ovbench.results.cost_rows import place_of
from ovbench.results.plot_fonts import font_families, said_of_letters
from ovbench.results.plot_labels import literal, place_names, shortened, wrapped
from ovbench.results.record_counts import read_counts
from ovbench.results.record_files import RecordFile, apart_by_data, records_at
from ovbench.results.run_names import run_details
from ovbench.results.tables import record_table
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.extras import install_line
from ovbench.utils.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

FORMATS = (".png", ".svg", ".pdf")
FEW_CLASSES = 20  # best and worst classes in a plot
COLOURS = ("#0072b2", "#e69f00", "#009e73", "#cc79a7", "#56b4e9", "#d55e00")  # Okabe and Ito: colour-blind safe
WIDTH_IN = 8.0
HIGHEST_IN = 60.0
LONGEST_CLASS = 26  # characters of a class name
NAME_WIDTH = 34  # characters in a line of the name of a run
NOTE_WIDTH, TITLE_WIDTH = 120, 84  # characters in a line of a warning and of the title
PANEL_WIDTH = 32  # characters in a line above the best or the worst classes
LEGEND_WIDTHS = {2: 50, 3: 30}  # characters in a line of a legend, by its number of columns


def gather(paths: Sequence[Path]) -> list[RecordFile]:
    """Read records, and all records of folders.

    Raises:
        InputError: If there is no record with a score.
    """
    found = [f for f in records_at(*paths) if f.record["metrics"]["mIoU"] is not None]
    if not found:
        raise InputError("no record with a score", where=", ".join(map(str, paths)), fix="run ovbench eval first")
    return apart_by_data(found)


def draw(kind: str, records: Sequence[RecordFile], out: Path, most: int = FEW_CLASSES) -> None:
    """Draw records and write the plot.

    Args:
        kind: A key of `KINDS`.
        records: The records.
        out: The file, .png, .svg or .pdf; equal records give an equal file.
        most: Number of best and of worst classes to draw.

    Raises:
        UsageError: If the format is unknown or the records do not fit the kind.
        InputError: If matplotlib is missing.
    """
    if out.suffix not in FORMATS:
        raise UsageError(f'unknown plot format "{out.suffix}"', where=str(out), fix=f"use {', '.join(FORMATS)}")
    try:
        from matplotlib import rc_context
        from matplotlib.figure import Figure
    except ImportError as error:
        raise InputError("plots need matplotlib", fix=install_line("plot")) from error
    settings: Any = {"svg.hashsalt": "ovbench", "font.size": 9, "axes.axisbelow": True, "font.family": font_families()}
    with rc_context(settings), said_of_letters():
        figure = Figure(layout="constrained", dpi=150)
        KINDS[kind](figure, records, most)
        if notes := warnings_of(found.record for found in records):
            _write_below(figure, literal("\n".join(wrapped(notes, NOTE_WIDTH))))
        buffer = io.BytesIO()
        figure.savefig(buffer, format=out.suffix[1:], dpi=150, metadata=_UNDATED.get(out.suffix))
    write_bytes(out, buffer.getvalue())


_UNDATED = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}


def _write_below(figure: Figure, warning: str) -> None:
    """Write a warning below the plot; a legend there would cover it, so it becomes the title of the legend."""
    style: dict[str, Any] = {"fontsize": 7, "color": "#a02000"}
    if not figure.legends:
        figure.supxlabel(warning, **style)
        return
    figure.legends[0].set_title(warning)
    figure.legends[0].get_title().set(**style)


def _set_height(figure: Figure, rows_in: float) -> None:
    figure.set_size_inches(WIDTH_IN, min(max(rows_in + 1.2, 2.5), HIGHEST_IN))


def _names(records: Sequence[RecordFile]) -> list[str]:
    """Return the method of each record with what distinguishes its runs, and * for part of a benchmark."""
    details = run_details(records)
    return [
        f.record["cell"]["method"] + (f" ({detail})" if detail else "") + (" *" if f.partial else "")
        for f, detail in zip(records, details, strict=True)
    ]


class ShownClasses(NamedTuple):
    """Numbers of classes and a heading."""

    title: str
    numbers: list[int]


def shown_classes(scores: Sequence[float | None], most: int) -> list[ShownClasses]:
    """Select the classes to draw, the best first.

    Args:
        scores: IoU by class, None without pixels.
        most: Number of best and of worst classes; classes without a score are not drawn.

    Returns:
        One selection of all classes if they are few, otherwise the best and the worst.
    """
    ranked = sorted((n for n, iou in enumerate(scores) if iou is not None), key=lambda n: -(scores[n] or 0.0))
    of_all = "" if len(ranked) == len(scores) else f" with a score, of {len(scores)}"
    if len(ranked) <= 2 * most:
        return [ShownClasses(f"{len(ranked)} classes{of_all}", ranked)]
    whole = f"{len(ranked)} classes{of_all}"
    return [
        ShownClasses(f"best {most} of {whole}", ranked[:most]),
        ShownClasses(f"worst {most} of {whole}", ranked[-most:]),
    ]


def _classes(figure: Figure, records: Sequence[RecordFile], most: int) -> None:
    """Draw the IoU of classes as bars with intervals, one colour per record of one benchmark."""
    names = [row["class"] for row in records[0].record["per_class"]]
    if any([row["class"] for row in f.record["per_class"]] != names for f in records):
        raise UsageError("the records have different classes", fix="give records of one benchmark")
    if len(records) > len(COLOURS):
        raise UsageError(f"{len(records)} records are too many for one plot", fix=f"give {len(COLOURS)} at most")
    shown = shown_classes([row["iou"] for row in records[0].record["per_class"]], most)
    if not any(selection.numbers for selection in shown):
        raise UsageError("no class of the record has a score", where=str(records[0].path))
    bounds = [_class_bounds(found) for found in records]
    labels = [literal(name) for name in shortened(names, LONGEST_CLASS)]
    _set_height(figure, max(len(one.numbers) for one in shown) * (0.11 + 0.09 * len(records)) + 0.3)
    panels = figure.subplots(1, len(shown), squeeze=False)[0]
    for axes, selection in zip(panels, shown, strict=True):
        _class_bars(axes, selection, records, bounds, labels)
    known = any(one is not None for one in bounds)
    said = "95 % interval over images" if known else "no ledger, so no interval"
    for axes in panels:
        axes.set_xlabel(f"IoU in percent, {said}", fontsize=8)
    order = f", sorted by {_names(records)[0]}" if len(records) > 1 else f": {_names(records)[0]}"
    (title,) = wrapped([records[0].record["cell"]["dataset"] + order + _partial(records)], TITLE_WIDTH)
    figure.suptitle(literal(title), fontsize=10)
    if len(records) > 1:
        handles, _ = panels[0].get_legend_handles_labels()
        columns = min(len(records), 3 if max(map(len, _names(records))) <= LEGEND_WIDTHS[3] else 2)
        texts = [literal(name) for name in wrapped(_names(records), LEGEND_WIDTHS[columns])]
        figure.legend(handles, texts, loc="outside lower center", ncols=columns, fontsize=8)


def _class_bars(
    axes: Axes, selection: ShownClasses, records: Sequence[RecordFile],
    bounds: Sequence[Sequence[tuple[float, float]] | None], labels: Sequence[str],
) -> None:  # fmt: skip
    height = 0.8 / len(records)
    for number, found in enumerate(records):
        rows = [(row, n, found.record["per_class"][n]["iou"]) for row, n in enumerate(selection.numbers)]
        drawn = [(row, n, iou) for row, n, iou in rows if iou is not None]
        places = [row + number * height for row, _, _ in drawn]
        scores = [100 * iou for _, _, iou in drawn]
        axes.barh(places, scores, height, align="edge", color=COLOURS[number], label=str(number))
        for row, _, iou in rows:
            if iou is None:
                axes.text(0.5, row + (number + 0.5) * height, "no score", fontsize=5, va="center", color="0.4")
        if (own := bounds[number]) is not None:
            for place, score, (_, n, _) in zip(places, scores, drawn, strict=True):
                low, high = (100 * bound for bound in own[n])
                if low == low:  # not NaN
                    axes.errorbar(
                        score, place + height / 2, xerr=[[max(score - low, 0)], [max(high - score, 0)]], color="0.2",
                        elinewidth=0.7, capsize=1.2, capthick=0.7,
                    )  # fmt: skip
    axes.set_yticks([row + 0.4 for row in range(len(selection.numbers))], [labels[n] for n in selection.numbers])
    axes.tick_params(axis="y", length=0, labelsize=8)
    axes.set_ylim(len(selection.numbers), -0.2)
    axes.set_xlim(0, 100)
    axes.grid(axis="x", color="0.88", linewidth=0.6)
    axes.set_title(textwrap.fill(selection.title, PANEL_WIDTH), fontsize=9)


def _class_bounds(found: RecordFile) -> list[tuple[float, float]] | None:
    """Return the interval of each class as fractions, NaN where there is none; None without a ledger."""
    from ovbench.metrics.interval import iou_intervals  # scipy is not needed to refuse a request
    from ovbench.metrics.stacked import stack_counts

    try:
        counts = read_counts(found.path, found.record).counts
    except InputError:
        return None
    stacked = stack_counts([*counts.values()], len(found.record["per_class"]))
    return [tuple(pair) for pair in iou_intervals(stacked).tolist()]


def _heatmap(figure: Figure, records: Sequence[RecordFile], most: int) -> None:
    """Draw methods by benchmarks, with the newest complete record of each cell."""
    table = record_table(records)
    names = wrapped([row.name for row in table.rows], NAME_WIDTH)
    _set_height(figure, sum(0.16 + 0.14 * (name.count("\n") + 1) for name in names))
    axes = figure.add_subplot()
    values = [[float("nan") if c.measured is None else c.measured for c in row.cells] for row in table.rows]
    axes.imshow(values, cmap="viridis", aspect="auto", vmin=0)
    axes.set_yticks(range(len(table.rows)), map(literal, names))
    axes.xaxis.tick_top()
    turned = len(table.columns) > 6 or max(map(len, table.columns)) > 60 / len(table.columns)
    turn: dict[str, Any] = {"rotation": 40, "ha": "left", "rotation_mode": "anchor"} if turned else {}
    axes.set_xticks(range(len(table.columns)), map(literal, shortened(table.columns, LONGEST_CLASS)), **turn)
    axes.tick_params(length=0)
    top = max(value for row in values for value in row if value == value)
    for y, row in enumerate(table.rows):
        for x, cell in enumerate(row.cells):
            if cell.measured is not None:
                text = f"{cell.measured:.1f}" + ("*" if cell.partial else "")
                axes.text(x, y, text, ha="center", va="center", color="black" if cell.measured > top / 2 else "white")
    axes.set_xlabel("mIoU in percent" + _partial(records))


def _cost(figure: Figure, records: Sequence[RecordFile], most: int) -> None:
    """Draw the seconds of labelling per image against mIoU, one point per record; by `--cost` if all have it."""
    if len({f.record["cell"]["dataset"] for f in records}) > 1:
        raise UsageError("mIoU of different benchmarks has no common axis", fix="give records of one benchmark")
    costs, what = _seconds_per_image(records)
    scores = [100 * f.record["metrics"]["mIoU"] for f in records]
    _set_height(figure, 4.3)
    axes = figure.add_subplot()
    axes.scatter(costs, scores, color=COLOURS[0], zorder=3)
    axes.set_xlabel(literal(what))
    axes.set_ylabel("mIoU in percent")
    axes.grid(color="0.92", linewidth=0.6)
    axes.margins(x=0.15, y=0.12)
    axes.set_xlim(left=0)
    axes.set_title(literal(records[0].record["cell"]["dataset"]) + _partial(records))
    place_names(axes, [*zip(costs, scores, strict=True)], wrapped(_names(records), NAME_WIDTH), 8)


def _seconds_per_image(records: Sequence[RecordFile]) -> tuple[list[float], str]:
    """Return the seconds of labelling per image, and what they are: measured warm, if all records have this."""
    measured = [one for f in records if (one := f.record.get("cost"))]
    if len(measured) == len(records):
        places = sorted({place_of(one) for one in measured})
        return [one["latency_s"] for one in measured], "median seconds per image, warm, on " + "; ".join(places)
    devices = sorted({f.record["device"].get("name", "") for f in records})
    seconds = [f.record["time"]["seconds"].get("label", 0.0) / f.record["dataset"]["images"] for f in records]
    return seconds, "seconds per image, labelling only, on " + "; ".join(devices)


def _ablation(figure: Figure, records: Sequence[RecordFile], most: int) -> None:
    """Draw the mIoU of every record with its 95 % interval, in the given order."""
    several = len({f.record["cell"]["dataset"] for f in records}) > 1
    names = [
        name + (f" on {f.record['cell']['dataset']}" if several else "")
        for name, f in zip(_names(records), records, strict=True)
    ]
    lines = wrapped(names, NAME_WIDTH)
    _set_height(figure, sum(0.12 + 0.14 * (name.count("\n") + 1) for name in lines))
    axes = figure.add_subplot()
    for number, found in enumerate(records):
        metrics = found.record["metrics"]
        miou, bounds = 100 * metrics["mIoU"], metrics.get("mIoU_interval")
        error = None
        if bounds:
            error = [[max(miou - 100 * bounds[0], 0)], [max(100 * bounds[1] - miou, 0)]]
        axes.barh(number, miou, 0.7, xerr=error, color=COLOURS[0], capsize=3)
        end = 100 * bounds[1] if bounds else miou
        axes.annotate(f"{miou:.1f}", (end, number), textcoords="offset points", xytext=(6, 0), va="center")
    axes.set_yticks(range(len(records)), map(literal, lines))
    axes.set_ylim(len(records) - 0.5, -0.5)
    axes.margins(x=0.12)
    known = any(found.record["metrics"].get("mIoU_interval") for found in records)
    axes.set_xlabel("mIoU in percent" + (", with its 95 % interval over images" if known else ""))
    axes.set_title(("" if several else literal(records[0].record["cell"]["dataset"])) + _partial(records))


def _partial(records: Sequence[RecordFile]) -> str:
    return "  (* only part of the benchmark)" if any(f.partial for f in records) else ""


KINDS: dict[str, Callable[[Figure, Sequence[RecordFile], int], None]] = {
    "classes": _classes, "heatmap": _heatmap, "cost": _cost, "ablation": _ablation
}  # fmt: skip
