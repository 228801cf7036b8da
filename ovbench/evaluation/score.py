"""Score label maps of any origin with the evaluator, ledger and record of `ovbench eval`."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np

from ovbench.config.load import Cell
from ovbench.config.schema import SCORED
from ovbench.data.card import Card
from ovbench.data.dataset import Dataset
from ovbench.data.labels import LabelMap
from ovbench.evaluation.distributed import ProcessGroup
from ovbench.evaluation.identity import code_identity, dataset_header
from ovbench.evaluation.images import chosen_images, open_split
from ovbench.evaluation.plan import PlannedCell
from ovbench.evaluation.prediction_files import (
    INDEX,
    PredictionFiles,
    better_reading,
    choose_values,
    describe_values,
    find_predictions,
    index_map,
    json_sha256,
)
from ovbench.evaluation.queries import CellQueries
from ovbench.evaluation.request import Job
from ovbench.evaluation.runner import CellResult, run_cells
from ovbench.inference.batching import Prediction
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.paths import real_path


@dataclass(frozen=True)
class NoProtocol:
    """Stands for the settings around a method, which nobody knows of a label map."""

    descriptions: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return no settings."""
        return {}


@dataclass(frozen=True)
class MapParams:
    """How label maps are read.

    Attributes:
        encoding: "index", or the name of an encoding of the card.
    """

    encoding: str


class ScoredMaps:
    """Label maps in place of a pipeline: "labels" an image by reading its map.

    The evaluator treats the maps as region maps, so the ledger identifies the file of each map, and an image whose map
    has changed is counted again.
    """

    def __init__(self, cell: Cell, found: PredictionFiles, values: LabelMap, card: Card, ids: dict[Path, str]):
        self.cell, self.found, self.values, self.card, self.ids = cell, found, values, card, ids
        self.loaded: dict[str, Any] = {}
        self.method = SimpleNamespace(approximations=dict, windowwise=False)
        self.predictor = self.region_maps = self

    def expect(self, images: Any, wanted: Any) -> None:
        """Do nothing: all maps are found already."""

    def file(self, image_path: Path) -> Path | None:
        """Return the file of an image's map, None if there is none of its own."""
        return self.found.files.get(self.ids[image_path])

    def regions(self, image: np.ndarray, path: Path) -> np.ndarray:
        """Return the label map of an image, int32 (H, W); pixels without a class have the number of classes.

        Raises:
            InputError: If there is no map, it cannot be read, or its size or a value is wrong.
        """
        image_id, size = self.ids[path], image.shape[:2]
        raw = self.found.read(image_id, size)
        where = str(self.file(path) or self.found.folder)
        if raw.shape != size:
            raise InputError(
                f"the label map is {raw.shape[1]}x{raw.shape[0]} but its image is {size[1]}x{size[0]}", where=where,
                fix="write the maps at the original size of the images",
            )  # fmt: skip
        if not self.values.admits(raw[raw != 65535]).all():
            value = int(raw[~self.values.admits(raw)][0])
            raise InputError(
                f"the label map has the value {value}, outside {self.values.admitted()}", where=where,
                fix="give --encoding if the values are not class indices",
            )  # fmt: skip
        classes = len(self.card.classes)
        return np.where(raw == 65535, classes, np.minimum(self.values.table[raw], classes)).astype(np.int32)

    def batcher(self, size: int = 0) -> ScoredMaps:
        """Return what labels images, see `ovbench.inference.batching.WindowBatcher`."""
        return self

    def add(self, number: int, image: np.ndarray, regions: np.ndarray) -> Iterator[Prediction]:
        """Yield the map of an image as its labels."""
        yield Prediction(number, [regions.astype(np.uint16)], {})

    def flush(self) -> Iterator[Prediction]:
        """Yield nothing: no image is pending."""
        return iter(())

    def header(self, planned: PlannedCell) -> dict[str, Any]:
        """Return the header of the ledger, see `ovbench.evaluation.identity.ledger_header`."""
        files = {"predictions": digest} if (digest := json_sha256(self.found)) else {}
        return {
            "cell": self.cell.as_dict(),
            "settings_sha256": self.cell.digest(),
            "dataset": {key: value for key, value in dataset_header(planned).items() if key != "distractors"},
            "weights": {},
            "files": files,
            "code": code_identity(self.cell, "cpu"),
        }


class Scored(NamedTuple):
    """The record of label maps, its file, and sentences about the maps."""

    result: CellResult
    remarks: tuple[str, ...]


def score(
    job: Job, folder: Path, card: Card, *, name: str | None = None, encoding: str | None = None,
    say: Callable[[str], object] = print,
) -> Scored:  # fmt: skip
    """Score the label maps of a dataset.

    Args:
        job: Its dataset, subset, limit, label rule, data root and folder of records are used.
        folder: The label maps.
        card: The card of the dataset.
        name: Name of the method in the record; by default from the folder.
        encoding: How values are read; None decides by the maps.
        say: Called with each line about the maps.

    Returns:
        The record and its file.

    Raises:
        UsageError: If the encoding is not known or must be given.
        InputError: If data or maps are missing.
    """
    split = open_split(card, job)
    dataset = chosen_images(split, job)
    found = find_predictions(folder, dataset)
    values = choose_values(found, dataset, encoding)
    doubt = "" if found.about else better_reading(found, dataset, values)
    if doubt and encoding is None:
        raise UsageError(doubt, where=str(folder), fix="say with --encoding how the values are meant")
    method = (name or _name_of(found)) + SCORED
    if not re.fullmatch(r"[\w.+@ -]+", method):
        raise UsageError(f'"{name}" is not a name', where="--name", fix="give letters, digits, dots, - and _")
    cell = Cell(method, card.name, MapParams(values.encoding.name), NoProtocol(), {}, {})  # type: ignore[arg-type]
    arguments = {
        "method": method, "dataset": job.datasets[0], "limit": job.limit,
        "subset": str(job.subset) if job.subset else None, "label_rule": job.label_rule, "device": "cpu",
        "settings": {"predictions": str(folder), "encoding": values.encoding.name},
    }  # fmt: skip
    queries = CellQueries(tuple((each,) for each in card.classes), ("no class",))
    planned = PlannedCell(
        cell, dataset, queries, "cpu", job.limit, split_images=len(split), split_sha256=split.ids_sha256,
        arguments=arguments,
    )  # fmt: skip
    absent = sum(image not in found for image in planned.wanted)
    remarks = [f"{method} on {card.name}, {len(planned.wanted)} images; {describe_values(values, card)}"]
    if absent:
        remarks.append(f"warning: {absent} of {len(planned.wanted)} images have no label map; the record is partial")
    if doubt:
        remarks.append(f"warning: {doubt}")
    for line in (*remarks, *dataset.remarks):
        say(line)
    maps = ScoredMaps(cell, found, values, card, {item.image_path: item.id for item in dataset.items})
    return Scored(run_cells([planned], job, ProcessGroup(), say, maps=maps)[0], tuple(remarks))


def maps_of_record(record: Mapping[str, Any], dataset: Dataset) -> ScoredMaps:
    """Return the label maps that a record was made from.

    Args:
        record: A record of `score`.
        dataset: Its images.

    Raises:
        InputError: If the record does not name their folder, or it does not exist.
    """
    asked = (record.get("arguments") or {}).get("settings", {})
    if "predictions" not in asked:
        raise InputError("the record does not name the folder of its label maps")
    found = find_predictions(Path(asked["predictions"]), dataset)
    values = choose_values(found, dataset, record["cell"]["params"]["encoding"])
    cell = Cell(record["cell"]["method"], dataset.card.name, MapParams(values.encoding.name), NoProtocol(), {}, {})  # type: ignore[arg-type]
    return ScoredMaps(cell, found, values, dataset.card, {item.image_path: item.id for item in dataset.items})


def maps_of_run(record: Mapping[str, Any], kept: Path, dataset: Dataset, ids: Sequence[str]) -> ScoredMaps | None:
    """Return the label maps that a run kept beside its ledger; None if an image has none.

    Args:
        record: The record of the run.
        kept: Folder of its label maps, with a folder for each format.
        dataset: Its images.
        ids: Ids of the wanted images.
    """
    for form in ("confidence", "npz", "png", "coco"):
        if not (kept / form).is_dir():
            continue
        found = find_predictions(kept / form, dataset)
        if all(image in found for image in ids):
            cell = Cell(record["cell"]["method"], dataset.card.name, MapParams(INDEX), NoProtocol(), {}, {})  # type: ignore[arg-type]
            by_path = {item.image_path: item.id for item in dataset.items}
            return ScoredMaps(cell, found, index_map(dataset.card), dataset.card, by_path)
    return None


def _name_of(found: PredictionFiles) -> str:
    """Return the name of the method that `ovbench eval` wrote, or the folders of the maps."""
    if isinstance(method := found.about.get("method"), str):
        return Path(method.rpartition(":")[2]).name
    parts = [part for part in found.folder.parts if part not in (".", "..", "/")] or [real_path(found.folder).name]
    return re.sub(r"[^\w.+-]+", "_", "-".join(parts[-2:])).strip("_") or "maps"
