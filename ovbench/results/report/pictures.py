"""Pictures of images that were counted long ago: labelled anew, and compared with the counts of then."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image

from ovbench.config.load import Cell, cell_of
from ovbench.data.card import Card, load_card
from ovbench.data.dataset import Dataset, Sample, open_dataset
from ovbench.evaluation.ledger import Entry
from ovbench.evaluation.plan import require_weights
from ovbench.metrics.confusion import Confusion, PixelCounts
from ovbench.results.report.runs import Run
from ovbench.results.report.validate_record import check_words
from ovbench.utils.errors import InputError, OvbenchError, UsageError
from ovbench.utils.provenance import choose_device

if TYPE_CHECKING:
    from ovbench.inference.pipeline import Pipeline

LONG_SIDE = 640  # pixels of a picture in the report; counts are of the full size
QUALITY = 80  # of JPEG


class Scene(NamedTuple):
    """An image as JPEG and its label map u16[h, w] of the same size: what runs on one benchmark share."""

    jpeg: bytes
    truth: np.ndarray


class Picture(NamedTuple):
    """An image of a run labelled anew: ``predicted`` u16[h, w] in the size of its scene, and how many ``pixels`` of the
    whole image ``moved``: were counted otherwise in the run."""

    image: str
    scene: Scene
    predicted: np.ndarray
    moved: int
    pixels: int


@dataclass(frozen=True)
class Around:
    """Where pictures are made: the ``cards`` of benchmarks that do not ship, by name; whether methods that are a file
    or a module may be run."""

    data_root: Path | None = None
    device: str = "auto"
    cards: Mapping[str, Card] | None = None
    run_code: bool = False


def read_cards(paths: Sequence[str]) -> dict[str, Card]:
    """Cards by the name that a record has for them."""
    return {card.name: card for card in map(load_card, paths)}


def draw(run: Run, ids: Sequence[str], around: Around, advance: Callable[[], object]) -> list[Picture]:
    """Label the images ``ids`` of a run again. What is unlike the run goes to its notes: other weights, other counts,
    images that could not be labelled; and, with no picture, what is not at hand."""
    from ovbench.evaluation.evaluator import Target, evaluate

    try:
        cell = _cell(run, around)
        dataset = _dataset(run, around)
        pipeline = _pipeline(run, cell, around)
    except OvbenchError as error:
        run.notes.append(f"no pictures: {error}")
        return []
    numbers = {item.id: number for number, item in enumerate(dataset.items)}
    easel = _Easel(run)
    run.notes += [
        f"no picture of {image}: the benchmark's folder has no such image" for image in ids if image not in numbers
    ]
    target = Target(dataset, easel, frozenset(ids), easel.seen)
    batch = run.header.get("execution", {}).get("batch", 0)
    evaluate(pipeline, [target], [numbers[i] for i in ids if i in numbers], batch=batch, advance=advance)
    _note_moved(run, easel.pictures)
    return easel.pictures


class _Easel:
    """Takes the place of a ledger: what an image's labels come to is compared with what was counted, and painted."""

    def __init__(self, run: Run):
        self.run, self.pictures = run, []
        self._counted = dict(zip(run.ids, run.counts, strict=True))
        self._now: dict[str, PixelCounts] = {}

    def add(self, entry: Entry) -> None:
        if entry.counts is None:
            self.run.notes.append(f"no picture of {entry.image}: {entry.failed}")
        else:
            self._now[entry.image] = entry.counts

    def seen(self, number: int, sample: Sample, predicted: np.ndarray) -> None:
        size = _picture_size(predicted.shape)
        scene = Scene(_jpeg(sample.image, size), _shrunk(sample.label, size))
        moved = moved_pixels(self._counted[sample.id], self._now.pop(sample.id), len(self.run.classes))
        self.pictures.append(Picture(sample.id, scene, _shrunk(predicted, size), moved, predicted.size))


def _cell(run: Run, around: Around) -> Cell:
    plain = run.record["cell"]
    if ":" in plain["method"] and not around.run_code:
        raise UsageError("the method is code outside of ovbench", where=plain["method"], fix="--run-code runs it")
    check_words(run.header, len(run.classes), run.record["ledger"])
    cell = cell_of(plain)
    if cell.digest() != run.record["settings_sha256"]:
        raise InputError("the record has settings of another version of ovbench", where=run.path.name)
    return cell


def _dataset(run: Run, around: Around) -> Dataset:
    name = run.record["cell"]["dataset"]
    card = (around.cards or {}).get(name) or load_card(name)
    if list(card.classes) != run.classes:
        raise InputError("its card has other classes than the record", where=name)
    return open_dataset(card, around.data_root, label_rule=run.record["dataset"]["label_rule"])


def _pipeline(run: Run, cell: Cell, around: Around) -> Pipeline:
    from ovbench.inference.pipeline import build_pipeline
    from ovbench.inference.precision import Execution, execute, refuse_tf32

    device = choose_device(around.device)
    require_weights([cell])
    names = tuple(tuple(queries) for queries in run.header["vocabulary"])
    pipeline = build_pipeline(cell, names, run.header["dataset"]["background"]).to(device)
    refuse_tf32()
    ran = run.header.get("execution", {})
    execute(pipeline.method, Execution(ran.get("precision", "fp32"), ran.get("compile", False)))
    for kind, loaded in pipeline.loaded.items():
        if loaded.sha256 != run.record["weights"].get(kind, {}).get("sha256"):
            run.notes.append(f'the pictures are of other weights than the run: "{kind}" has another hash')
    return pipeline


def moved_pixels(then: PixelCounts, now: PixelCounts, classes: int) -> int:
    """The least number of pixels whose label or prediction must differ for the two counts to come about."""
    matrices = []
    for counts in (then, now):
        total = Confusion(classes)
        total.add(counts)
        matrices.append(total.matrix)
    change = matrices[1] - matrices[0]
    return int(max(change[change > 0].sum(), -change[change < 0].sum()))


def _picture_size(size: tuple[int, ...]) -> tuple[int, int]:
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
    """The label at the middle of every cell of a coarser grid: labels have no mean."""
    rows, columns = (((np.arange(n) + 0.5) * full / n).astype(int) for n, full in zip(size, labels.shape, strict=True))
    return labels[np.ix_(rows, columns)]


def _note_moved(run: Run, pictures: Sequence[Picture]) -> None:
    unlike = [p for p in pictures if p.moved]
    if unlike:
        worst = max(unlike, key=lambda p: p.moved / p.pixels)
        run.notes.append(
            f"{len(unlike)} of {len(pictures)} pictures are not exactly what the run counted (another machine, version "
            f"or data?): at most {100 * worst.moved / worst.pixels:.2g} % of the pixels differ, in {worst.image}"
        )
