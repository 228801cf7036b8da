"""The steps of a preparation: each writes one file, complete or not at all, so that an interrupted run can go on."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from ovbench.utils.errors import InputError
from ovbench.utils.files import replacing
from ovbench.utils.processes import each


class Step(NamedTuple):
    """``make(*arguments, target)`` writes ``target``."""

    target: Path
    make: Callable[..., None]
    arguments: tuple[Any, ...]


class Outcome(NamedTuple):
    written: int
    already_there: int


def run_steps(steps: list[Step], *, workers: int = 1, advance: Callable[[int], None] = lambda done: None) -> Outcome:
    """Do the steps whose target is not there yet, on several processes; ``advance`` is told of each that is done.

    Raises the first error; what was written until then stays and is not done again.
    """
    missing = [step for step in steps if not step.target.exists()]
    advance(len(steps) - len(missing))
    for _ in each(_do, missing, workers):
        advance(1)
    return Outcome(len(missing), len(steps) - len(missing))


def _do(step: Step) -> None:
    step.make(*step.arguments, step.target)


def save_label(label: np.ndarray, target: Path) -> None:
    """Write u8 as PNG, u16 as a 16-bit TIFF."""
    with replacing(target, durable=False) as temporary:  # decoding notices a damaged file
        Image.fromarray(label).save(temporary, format="TIFF" if label.dtype == np.uint16 else "PNG")


def place(source: Path, target: Path) -> None:
    """Make a file available under another path: a hard link where the file system can, else a copy."""
    with replacing(target, durable=False) as temporary:  # decoding notices a damaged file
        try:
            os.link(source, temporary)
        except OSError:
            shutil.copyfile(source, temporary)


def place_all(pairs: list[tuple[Path, Path]]) -> list[Step]:
    """Steps that place files; none for a file that is where it should be."""
    return [Step(target, partial(place, source), ()) for source, target in pairs if source != target]


def find(sources: tuple[Path, ...], names: list[str], pattern: str, *, without: str = "\0") -> Path | None:
    """The first of the named folders below the sources that holds a file of this pattern (and not the other text)."""
    for folder in (source / name for source in sources for name in names):
        if folder.is_dir() and any(without not in path.name for path in folder.glob(pattern)):
            return folder
    return None


def nothing_found(what: str, sources: tuple[Path, ...], names: list[str]) -> InputError:
    """The error for a source folder without the files to convert; it says so where archives are there."""
    source = sources[0]
    archives = sorted(p.name for p in source.glob("*") if p.name.endswith((".zip", ".tar", ".tgz", ".tar.gz")))
    fix = "pass the folder of the download with --source"
    if archives:
        fix = f"unpack {', '.join(archives)} there first, if it is in them"
    return InputError(f"no {what} found", where=f"looked in {', '.join(str(source / n) for n in names)}", fix=fix)
