"""The Python API: label images, evaluate methods, read records. ``import ovbench`` loads this module on first use."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ovbench.utils.errors import InputError, UsageError, unknown, warn_once

if TYPE_CHECKING:
    import pandas
    import PIL.Image
    import torch

    from ovbench.inference.pipeline import Pipeline
    from ovbench.results.record_files import RecordFile

    Image = np.ndarray | PIL.Image.Image | torch.Tensor

MODES = ("RGB", "RGBA", "L", "LA", "P")  # modes of PIL images that are converted to RGB without visible loss


class Segmenter:
    """A loaded method that labels images.

    Attributes:
        pipeline: The `ovbench.inference.pipeline.Pipeline`.
        classes: The class names; a label is an index into them.
    """

    def __init__(self, pipeline: Pipeline, classes: Sequence[str]):
        self.pipeline, self.classes = pipeline, tuple(classes)

    def __call__(self, image: Image, path: str | Path | None = None) -> np.ndarray:
        """Return the labels of an image.

        Args:
            image: uint8 (H, W, 3), RGB: a NumPy array, a PIL image, or a tensor, also as (3, H, W).
            path: The file of the image, for region sources that look maps up.

        Returns:
            uint16 (H, W), values index `classes`.

        Raises:
            InputError: If the image has another type or shape.
        """
        return self.pipeline.label(as_pixels(image), None if path is None else Path(path))

    def set_words(self, words: Iterable[str | Sequence[str]], background: str | None = None) -> None:
        """Change the classes; the networks stay loaded.

        Args:
            words: One entry per class: its name, or its synonyms as a sequence or between semicolons.
            background: The first name of the class for everything else.

        Raises:
            UsageError: If a name is empty or given twice.
        """
        classes, number = _classes(words, background)
        self.pipeline.set_vocabulary(classes, number)
        self.classes = tuple(synonyms[0] for synonyms in classes)


def load(
    method: str,
    like: str = "voc21",
    words: Iterable[str | Sequence[str]] | None = None,
    *,
    background: str | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Mapping[str, str] | None = None,
    protocol: str = "paper",
    device: str = "auto",
    precision: str = "fp32",
) -> Segmenter:
    """Load a method to label any number of images.

    Args:
        method: Name of a method, or ``FILE.py:CLASS``.
        like: Dataset whose published settings are used.
        words: One entry per class: its name, or its synonyms as a sequence or between semicolons. None takes the
            classes of ``like``, with its background.
        background: The first name of the class for everything else; only with ``words``.
        settings: Settings by name, as typed values or as texts of ``--set``.
        weights: Backbones by name, as with ``--weights``.
        protocol: "paper" for the published settings, "common" for the same windows, prompts and names for all methods.
        device: "auto" is the GPU if there is one, otherwise the CPU.
        precision: "fp32", "fp16" or "bf16" for the blocks of the backbones.

    Raises:
        UsageError: If a name or a value is not valid.
        InputError: If weights are missing.

    Example:
        >>> import numpy as np, ovbench
        >>> segment = ovbench.load("clip", like="mini", words=["sky; clouds", "grass"], device="cpu")
        >>> labels = segment(np.zeros((128, 160, 3), np.uint8))
        >>> labels.shape, str(labels.dtype), segment.classes
        ((128, 160), 'uint16', ('sky', 'grass'))
    """
    from ovbench.config.backbone_spec import toy_note
    from ovbench.config.load import resolve
    from ovbench.data.card import load_card
    from ovbench.inference.pipeline import build_pipeline
    from ovbench.inference.precision import PRECISIONS, Execution, execute
    from ovbench.utils.provenance import choose_device

    if precision not in PRECISIONS:
        raise unknown("precision", precision, PRECISIONS)
    if words is None and background is not None:
        raise UsageError("background names one of the words", fix="give words, or leave background out")
    card = load_card(like)
    cell = resolve(method, card.name, settings, weights, protocol)
    cell.refuse_evaluation_settings()
    classes, number = (None, None) if words is None else _classes(words, background)
    chosen = choose_device(device)
    pipeline = build_pipeline(cell, classes, number, chosen)
    execute(pipeline.method, Execution(precision))
    if not card.generator and (note := toy_note(cell.backbones)):
        warn_once(note)
    return Segmenter(pipeline, card.classes if classes is None else [synonyms[0] for synonyms in classes])


def _classes(
    words: Iterable[str | Sequence[str]], background: str | None
) -> tuple[tuple[tuple[str, ...], ...], int | None]:
    """Return the synonyms of each class, and the number of the background."""
    from ovbench.data.classes import refuse_odd_classes

    if isinstance(words, str):
        raise UsageError(f'words is the text "{words}"', where="words", fix='give a list, as in ["dog", "grass; lawn"]')
    split = [word.split(";") if isinstance(word, str) else word for word in words]
    for names in split:
        if not isinstance(names, (list, tuple)) or not all(isinstance(name, str) for name in names):
            raise UsageError(f"a class is {names!r}", where="words", fix="give its name, or a list of its synonyms")
    classes = tuple(tuple(name.strip() for name in names if name.strip()) for names in split)
    if not classes or not all(classes):
        raise UsageError("no class, or an empty class name", where="words", fix="give every class a name")
    refuse_odd_classes(classes, "words")
    names = [synonyms[0] for synonyms in classes]
    if background is not None and background not in names:
        raise unknown("class", background, names, where="background")
    return classes, None if background is None else names.index(background)


def as_pixels(image: Image) -> np.ndarray:
    """Return an image as uint8 (H, W, 3), RGB; see `Segmenter.__call__`."""
    if hasattr(image, "getbands"):  # a PIL image
        from PIL import ImageOps

        if image.mode not in MODES:
            raise InputError(f"a PIL image of mode {image.mode}", fix="convert it to RGB")
        image = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    elif hasattr(image, "detach"):  # a tensor
        image = image.detach().cpu().numpy()
        if image.ndim == 3 and image.shape[0] == 3:
            image = image.transpose(1, 2, 0)
    image = np.asarray(image)
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            f"an image of type {image.dtype} and shape {image.shape}", fix="give uint8 (H, W, 3), RGB, values 0 to 255"
        )
    return np.ascontiguousarray(image)


class Records(list[dict[str, Any]]):
    """Result records of `evaluate`; ``paths`` are their files, in the same order."""

    def __init__(self, records: Iterable[dict[str, Any]] = (), paths: Iterable[Path] = ()):
        super().__init__(records)
        self.paths = list(paths)

    def to_dataframe(self) -> pandas.DataFrame:
        """Return one row per record; scores are fractions."""
        return _table(zip(self, self.paths, strict=True))


def evaluate(
    methods: str | Iterable[str] = (),
    datasets: str | Iterable[str] = (),
    *,
    suite: str | None = None,
    settings: Mapping[str, Any] | None = None,
    weights: Mapping[str, str] | None = None,
    out: str | Path = "runs",
    data_root: str | Path | None = None,
    subset: str | Path | None = None,
    classes: str | Path | None = None,
    **options: Any,
) -> Records:
    """Evaluate methods on datasets and write one record per cell, as ``ovbench eval`` does.

    A finished cell is not counted again. With torchrun, the processes divide the images.

    Args:
        methods: Names of methods, or ``FILE.py:CLASS``.
        datasets: Names of datasets, or files of cards.
        suite: Rows of a suite instead of ``methods``.
        settings: Settings by name, as typed values or as texts of ``--set``.
        weights: Backbones by name, as with ``--weights``.
        out: Folder for the records.
        data_root: Folder of the datasets.
        subset: Manifest of the images to use.
        classes: File with other class names.
        **options: ``limit`` (only the first N images), ``device``, ``precision``, ``batch``, ``compiled``,
            ``protocol``, ``like``, ``label_rule``, ``shard``, ``fresh``, ``fail_fast``, ``quiet``, ``show``,
            ``metrics``, ``cost``, ``mixed_devices`` and ``save_predictions``, as for ``ovbench eval``.

    Raises:
        UsageError: If a name or a value is not valid.
        InputError: If data or weights are missing.
        MethodError: If the method's own code failed before the first image. Images that fail are listed in the record.

    Example:
        >>> import ovbench
        >>> done = ovbench.evaluate("clip", "mini", limit=1, device="cpu")
        >>> record, table = done[0], done.to_dataframe()
        >>> record["status"], table.loc[0, "images"].item()
        ('complete', 1)
    """
    from ovbench.evaluation.distributed import ProcessGroup
    from ovbench.evaluation.plan import plan
    from ovbench.evaluation.request import Job
    from ovbench.evaluation.runner import group_cells, run_cells

    files = {"data_root": data_root, "subset": subset, "classes": classes}
    known = [field.name for field in dataclasses.fields(Job)]
    for name in options:
        if name not in known:
            raise unknown("option", name, known, where="evaluate")
    job = Job(
        methods=_names(methods), datasets=_names(datasets), suite=suite, settings=dict(settings or {}),
        weights=dict(weights or {}), out=Path(out), **options,
        **{name: None if file is None else Path(file) for name, file in files.items()},
    )  # fmt: skip
    processes = ProcessGroup()
    done = [one for group in group_cells(plan(job, processes)) for one in run_cells(group, job, processes)]
    processes.close()
    return Records((one.record for one in done), (one.path for one in done))


def _names(given: str | Iterable[str]) -> tuple[str, ...]:
    return (given,) if isinstance(given, str) else tuple(map(str, given))


def records(folder: str | Path = "runs") -> pandas.DataFrame:
    """Return the records of a folder of runs as a table, one row per record; scores are fractions.

    Raises:
        InputError: If there is no such folder.

    Example:
        >>> import ovbench
        >>> done = ovbench.evaluate(["clip", "maskclip"], "mini", limit=1, device="cpu")
        >>> sorted(ovbench.records("runs").method.unique())
        ['clip', 'maskclip']
    """
    from ovbench.results.record_files import apart_by_data, find_records

    found: list[RecordFile] = apart_by_data(find_records(Path(folder)))
    return _table((one.record, one.path) for one in found)


def _table(rows: Iterable[tuple[dict[str, Any], Path]]) -> pandas.DataFrame:
    import pandas

    return pandas.DataFrame([_row(record, path) for record, path in rows], columns=COLUMNS)


COLUMNS = (
    "method", "dataset", "status", "images", "failed", "mIoU", "low", "high", "mAcc", "aAcc", "deviations", "device",
    "precision", "ovbench", "started", "settings_sha256", "path",
)  # fmt: skip


def _row(record: dict[str, Any], path: Path) -> dict[str, Any]:
    metrics, published = record["metrics"], record.get("published", {})
    low, high = metrics.get("mIoU_interval") or (None, None)
    return {
        "method": record["cell"]["method"], "dataset": record["cell"]["dataset"], "status": record["status"],
        "images": record["dataset"]["images"], "failed": len(record["failed"]), "mIoU": metrics["mIoU"], "low": low,
        "high": high, "mAcc": metrics["mAcc"], "aAcc": metrics["aAcc"],
        "deviations": ", ".join(f"{one['setting']}={one['value']}" for one in published.get("deviations", ())),
        "device": record["device"].get("name"), "precision": record["device"].get("precision"),
        "ovbench": record["versions"].get("ovbench"), "started": record["time"]["started"],
        "settings_sha256": record["settings_sha256"], "path": str(path),
    }  # fmt: skip
