"""Label images of a run again for the report, and compare them with the counts of its ledger."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image
from pydantic import ConfigDict, Field

from ovbench.config.load import Cell, cell_of
from ovbench.config.schema import SCORED
from ovbench.data.card import Card, load_card
from ovbench.data.dataset import NO_CLASS, Dataset, Sample, open_dataset
from ovbench.data.sources import is_file_here
from ovbench.evaluation.ledger import Entry
from ovbench.evaluation.predictions import FOLDER
from ovbench.metrics.confusion import Confusion, PixelCounts
from ovbench.results.report.runs import ReportRun
from ovbench.utils.errors import InputError, OvbenchError, UsageError
from ovbench.utils.provenance import choose_device
from ovbench.utils.typed import Typed, validate

if TYPE_CHECKING:
    from ovbench.evaluation.score import ScoredMaps
    from ovbench.inference.pipeline import Pipeline

LONG_SIDE = 640  # pixels of an image in the report; counts are from the full size
QUALITY = 80  # JPEG quality


class InputImage(NamedTuple):
    """An image as JPEG and its label map, uint16 (H, W); all runs on a benchmark have the same."""

    jpeg: bytes
    truth: np.ndarray


class ErrorImage(NamedTuple):
    """The prediction for an image, uint16 (H, W), in the size of its input, and its confidence, uint8 (H, W).

    Of the ``pixels`` of the full image, the run counted ``moved`` pixels differently. 255 is a probability of 1; there
    is no confidence of label maps without one.
    """

    image: str
    input: InputImage
    predicted: np.ndarray
    moved: int
    pixels: int
    confidence: np.ndarray | None = None


@dataclass(frozen=True)
class RelabelOptions:
    """How images are labelled again.

    ``cards`` are the user's cards by name; ``run_code`` allows methods that are a file or a module; ``beside`` is the
    folder of the page, to which its links to image files are relative, None for no links.
    """

    data_root: Path | None = None
    device: str = "auto"
    cards: Mapping[str, Card] | None = None
    run_code: bool = False
    beside: Path | None = None


def read_cards(paths: Sequence[str]) -> dict[str, Card]:
    """Read cards by name."""
    return {card.name: card for card in map(load_card, paths)}


def label_again(
    run: ReportRun, ids: Sequence[str], options: RelabelOptions, advance: Callable[[], object]
) -> list[ErrorImage]:
    """Label images of a run again, or read the label maps that it kept.

    Differences and problems go to the notes of the run: other weights, other counts, failed images, missing data.

    Args:
        run: The run.
        ids: Ids of the images.
        options: How to label them.
        advance: Called after each image.
    """
    from ovbench.evaluation.evaluator import Target, evaluate

    try:
        scored = run.record["cell"]["method"].endswith(SCORED)
        cell = None if scored or _kept(run).is_dir() else _cell(run, options)
        dataset = _dataset(run, options)
        if options.beside is not None:
            run.files.update(_linked(dataset, options.beside))
        maps = _maps(run, dataset, ids, scored)
        pipeline: Any = maps or _pipeline(run, cell or _cell(run, options), options)
    except OvbenchError as error:
        run.notes.append(f"images are not shown: {error}")
        return []
    numbers = {item.id: number for number, item in enumerate(dataset.items)}
    compared = _Comparison(run, maps)
    run.notes += [
        f"image {image} is not shown: the benchmark folder does not have it" for image in ids if image not in numbers
    ]
    distractors = len(run.header.get("distractors", ())) + (maps is not None)  # pixels without a class in a label map
    if hasattr(pipeline.predictor, "maps"):
        pipeline.predictor.maps.confident = True
    target = Target(dataset, compared, frozenset(ids), compared.seen, distractors=distractors)  # type: ignore[arg-type]
    batch = run.header.get("execution", {}).get("batch", 0)
    evaluate(pipeline, [target], [numbers[i] for i in ids if i in numbers], batch=batch, advance=advance)
    _note_moved(run, compared.images)
    return compared.images


def _linked(dataset: Dataset, folder: Path) -> dict[str, str]:
    """Return the address of every image file relative to a folder, by image id; files in archives have none."""
    paths = {item.id: item.image_path for item in dataset.items}
    return {
        image: quote(Path(os.path.relpath(path.absolute(), folder.absolute())).as_posix())
        for image, path in paths.items()
        if is_file_here(path) and path.is_file()
    }


class _Comparison:
    """Compare new counts with those of the run; `evaluate` uses it in place of a ledger."""

    def __init__(self, run: ReportRun, maps: ScoredMaps | None):
        self.run, self.maps = run, maps
        self.images: list[ErrorImage] = []
        self._counted = dict(zip(run.ids, run.counts, strict=True))
        self._now: dict[str, PixelCounts] = {}

    def add(self, entry: Entry) -> None:
        """Store the new counts of an image."""
        if entry.counts is None:
            self.run.notes.append(f"image {entry.image} is not shown: {entry.failed}")
        else:
            self._now[entry.image] = entry.counts

    def seen(self, number: int, sample: Sample, predicted: np.ndarray, confidence: np.ndarray | None) -> None:
        """Compare an image with the run and store it for the page."""
        size = _shown_size(predicted.shape)
        shown = InputImage(_jpeg(sample.image, size), _shrunk(sample.label, size))
        moved = moved_pixels(self._counted[sample.id], self._now.pop(sample.id), len(self.run.classes))
        labels = _shrunk(np.where(predicted < len(self.run.classes), predicted, NO_CLASS), size)  # not a distractor
        if self.maps is not None:
            confidence = self.maps.found.confidence(sample.id, predicted.shape)
        if confidence is not None:
            confidence = np.rint(_shrunk(confidence, size).astype(np.float32) * 255).astype(np.uint8)
        self.images.append(ErrorImage(sample.id, shown, labels, moved, predicted.size, confidence))


class LabelledWith(Typed):
    """How the images of a ledger were labelled."""

    model_config = ConfigDict(extra="ignore")
    precision: Literal["fp32", "fp16", "bf16"] = "fp32"
    compile: bool = False
    batch: Annotated[int, Field(ge=0)] = 0


class LedgerQueries(Typed):
    """The queries of a ledger's header; its other keys are not checked."""

    model_config = ConfigDict(extra="ignore")
    vocabulary: list[list[str]]
    execution: LabelledWith = LabelledWith()


def _check_header(run: ReportRun) -> None:
    """Raise InputError unless the ledger has the queries of every class and all settings of the method."""
    where, dataset = run.record["ledger"], run.header.get("dataset")
    found = validate(LedgerQueries, run.header, where, what="the header of a ledger")
    background = dataset.get("background") if isinstance(dataset, dict) else -1
    if len(found.vocabulary) != len(run.classes) or background != run.record["dataset"]["background"]:
        raise InputError("the ledger has queries of other classes than the record", where=where)


def _cell(run: ReportRun, options: RelabelOptions) -> Cell:
    plain = run.record["cell"]
    if ":" in plain["method"] and not options.run_code:
        raise UsageError("the method is code outside ovbench", where=plain["method"], fix="give --run-code to run it")
    _check_header(run)
    cell = cell_of(plain)
    if cell.digest() != run.record["settings_sha256"]:
        raise InputError("the record has settings of another version of ovbench", where=run.path.name)
    return cell


def _dataset(run: ReportRun, options: RelabelOptions) -> Dataset:
    name = run.record["cell"]["dataset"]
    card = (options.cards or {}).get(name) or _card(run.record, name)
    if list(card.classes) != run.classes:
        raise InputError("the card has other classes than the record", where=name)
    found = open_dataset(card, options.data_root, label_rule=run.record["dataset"]["label_rule"])
    return replace(found, corruption=run.record["cell"]["protocol"].get("corrupt", ""))


def _card(record: Mapping[str, Any], name: str) -> Card:
    """Return the shipped card of a name, or the user's card that the run was given, if it is still in its place."""
    given = str((record.get("arguments") or {}).get("dataset") or "")
    if record["dataset"].get("card") == "own" and given.endswith(".toml") and Path(given).is_file():
        own = load_card(given)
        if own.name == name:
            return own
    try:
        return load_card(name)
    except UsageError:
        raise InputError(f'"{name}" is no benchmark of ovbench', fix="give its card with --card FILE.toml") from None


def _maps(run: ReportRun, dataset: Dataset, ids: Sequence[str], scored: bool) -> ScoredMaps | None:
    """Return the label maps that were scored or that the run kept, None if it kept none."""
    from ovbench.evaluation.score import maps_of_record, maps_of_run  # a report without images needs no torch

    if scored:
        return maps_of_record(run.record, dataset)
    return maps_of_run(run.record, _kept(run), dataset, ids)


def _kept(run: ReportRun) -> Path:
    """Return the folder of the label maps that a run kept, which may not exist."""
    return run.path.parent / run.record["ledger"] / FOLDER


def _pipeline(run: ReportRun, cell: Cell, options: RelabelOptions) -> Pipeline:
    from ovbench.evaluation.plan import require_weights  # a report without images needs no torch
    from ovbench.inference.pipeline import build_pipeline
    from ovbench.inference.precision import Execution, execute

    device = choose_device(options.device)
    require_weights([cell])
    names = *map(tuple, run.header["vocabulary"]), *((name,) for name in run.header.get("distractors", ()))
    pipeline = build_pipeline(cell, names, run.header["dataset"]["background"], device)
    ran = run.header.get("execution", {})
    execute(pipeline.method, Execution(ran.get("precision", "fp32"), ran.get("compile", False)))
    for kind, loaded in pipeline.loaded.items():
        if loaded.sha256 != run.record["weights"].get(kind, {}).get("sha256"):
            run.notes.append(f'the images were labelled with other weights than the run: "{kind}" has another hash')
    return pipeline


def moved_pixels(then: PixelCounts, now: PixelCounts, classes: int) -> int:
    """Return the smallest number of pixels that must differ between two counts of an image."""
    matrices = []
    for counts in (then, now):
        total = Confusion(classes)
        total.add(counts)
        matrices.append(total.matrix)
    change = matrices[1] - matrices[0]
    return int(max(change[change > 0].sum(), -change[change < 0].sum()))


def _shown_size(size: tuple[int, ...]) -> tuple[int, int]:
    h, w = size
    factor = min(1.0, LONG_SIDE / max(h, w))
    return max(1, round(h * factor)), max(1, round(w * factor))


def _jpeg(image: np.ndarray, size: tuple[int, int]) -> bytes:
    picture = Image.fromarray(image)
    if picture.size != size[::-1]:
        picture = picture.resize(size[::-1], Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="JPEG", quality=QUALITY)
    return buffer.getvalue()


def _shrunk(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Return the label at the centre of every cell of a coarser grid."""
    rows, columns = (((np.arange(n) + 0.5) * full / n).astype(int) for n, full in zip(size, labels.shape, strict=True))
    return labels[np.ix_(rows, columns)]


def _note_moved(run: ReportRun, images: Sequence[ErrorImage]) -> None:
    differing = [image for image in images if image.moved]
    if differing:
        worst = max(differing, key=lambda image: image.moved / image.pixels)
        most = f"{100 * worst.moved / worst.pixels:.2g}"
        run.notes.append(
            f"{len(differing)} of {len(images)} images are not exactly as the run counted them (another machine, "
            f"version or data?): at most {most} % of the pixels differ, in {worst.image}"
        )
