"""Run the steps of a preparation: each writes one complete file, so an interrupted run can resume."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ovbench.data.decode import read_raw_label
from ovbench.data.find import NothingFound
from ovbench.data.labels import LabelMap
from ovbench.utils.errors import InputError
from ovbench.utils.files import replacing
from ovbench.utils.processes import each


class Step(NamedTuple):
    """A call ``make(*arguments, target)`` that writes ``target``."""

    target: Path
    make: Callable[..., None]
    arguments: tuple[Any, ...]


class StepsDone(NamedTuple):
    """Numbers of files that were written, and that existed before."""

    written: int
    already_there: int


def run_steps(steps: list[Step], *, workers: int = 1, advance: Callable[[int], None] = lambda done: None) -> StepsDone:
    """Run the steps whose target does not exist; the first error stops the run and keeps what was written.

    Args:
        steps: The steps.
        workers: Number of processes.
        advance: Called with the number of steps that are done.

    Returns:
        The numbers of files.
    """
    missing = [step for step in steps if not step.target.exists()]
    advance(len(steps) - len(missing))
    for _ in each(_run, missing, workers):
        advance(1)
    return StepsDone(len(missing), len(steps) - len(missing))


def _run(step: Step) -> None:
    step.make(*step.arguments, step.target)


def save_label(label: np.ndarray, target: Path) -> None:
    """Write a label, uint8 as PNG and uint16 as a 16-bit TIFF.

    Args:
        label: uint8 or uint16 (H, W).
        target: The file.
    """
    with replacing(target, durable=False) as temporary:  # decoding notices a damaged file
        Image.fromarray(label).save(temporary, format="TIFF" if label.dtype == np.uint16 else "PNG")


def link(source: Path, target: Path) -> None:
    """Make a file available under another path, with a hard link if the file system can, otherwise with a copy.

    Args:
        source: The file.
        target: The other path.
    """
    with replacing(target, durable=False) as temporary:  # decoding notices a damaged file
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def link_all(pairs: list[tuple[Path, Path]]) -> list[Step]:
    """Return the steps that link files.

    Args:
        pairs: Source and target of each file.

    Returns:
        The steps; none for a file whose source is its target.
    """
    return [Step(target, partial(link, source), ()) for source, target in pairs if source != target]


def find(what: str, sources: tuple[Path, ...], names: list[str], pattern: str, *, without: str = "\0") -> Path:
    """Find the first folder with a file that matches a pattern.

    Args:
        what: The files.
        sources: The folders above.
        names: Folder names below the sources.
        pattern: Glob pattern of the files.
        without: Files whose names contain this text do not count.

    Raises:
        InputError: If there is none.
    """
    for folder in (source / name for source in sources for name in names):
        if folder.is_dir() and any(without not in path.name for path in folder.glob(pattern)):
            return folder
    raise nothing_found(what, sources, names)


def convert(raw_path: Path, table: LabelMap, values: str, archive: str, target: Path) -> None:
    """Convert the values of one label to classes of 8 bits.

    Args:
        raw_path: The label.
        table: From its values to classes.
        values: What its values must be.
        archive: Where the file should be from.
        target: The file to write.

    Raises:
        InputError: If a value is another one.
    """
    raw = read_raw_label(raw_path)
    if not table.admits(raw).all():
        value = int(raw[~table.admits(raw)][0])
        raise InputError(f"{value} is not {values}", where=str(raw_path), fix=f"is this file from {archive}?")
    save_label(table.table[raw].astype(np.uint8), target)  # 65535, ignored, becomes 255


def first_found(
    convert: Callable[[Path], Iterable[Step]], name: str, sources: tuple[Path, ...], roots: tuple[str, ...]
) -> list[Step]:
    """Return the steps of the first source that has any.

    Args:
        convert: Yields the steps of a source.
        name: Name of the dataset, for the message.
        sources: The folders to search.
        roots: Usual names of the folder of the dataset.

    Raises:
        InputError: If no source has a step.
    """
    for source in sources:
        if made := list(convert(source)):
            return made
    raise nothing_found(f"files of {name}", sources, list(roots))


def nothing_found(what: str, sources: tuple[Path, ...], names: list[str]) -> NothingFound:
    """Return the error for a source without the files to convert.

    Args:
        what: The files.
        sources: The folders that were searched.
        names: Folder names below the sources.

    Returns:
        The error; it names the archives in the source that are not unpacked.
    """
    source = sources[0]
    archives = sorted(p.name for p in source.glob("*") if p.name.endswith((".zip", ".tar", ".tgz", ".tar.gz")))
    fix = "pass the folder of the download with --source"
    if archives:
        fix = f"if the files are in {', '.join(archives)}, unpack it there first"
    return NothingFound(f"no {what} found", where=f"looked in {', '.join(str(source / n) for n in names)}", fix=fix)
