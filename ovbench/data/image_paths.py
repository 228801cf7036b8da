"""Find the images of a command line: files, folders, patterns, and standard input."""

from __future__ import annotations

import glob
import io
import os
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from PIL import Image

from ovbench.data.find import SUFFIXES
from ovbench.data.integrity import BROKEN
from ovbench.utils.errors import InputError

STDIN = "-"
SOFTWARE = "ovbench segment"  # text "Software" of every PNG that the command writes


class NamedImage(NamedTuple):
    """An image file, the name of its outputs (a relative path without suffix), and its path as given."""

    path: Path
    name: str
    shown: str


class FoundImages(NamedTuple):
    """The images in the order of the arguments, and the number of files that are outputs of an earlier run."""

    images: list[NamedImage]
    outputs: int = 0


def find_images(arguments: Sequence[str], stdin: Callable[[], bytes], folder: Path) -> FoundImages:
    """Find the images that arguments name.

    A folder gives all images below it. A pattern gives what it matches, also if the shell has not expanded it. "-" is
    standard input: one image, or a list of paths, one per line or separated by NUL. Outputs of `ovbench segment` in a
    folder or pattern are left out. A file that is named twice is one image.

    Args:
        arguments: Files, folders, patterns, or "-".
        stdin: Returns the bytes of standard input.
        folder: An existing folder that receives an image from standard input.

    Raises:
        InputError: If an argument names no image, or two images have the same name.
    """
    found: dict[Path, str] = {}
    shown: dict[Path, str] = {}
    outputs = 0
    for argument in _with_stdin(arguments, stdin, folder):
        paths, base, searched = _named_by(argument)
        kept = [path for path in paths if not (searched and is_output(path))]
        outputs += len(paths) - len(kept)
        if not kept:
            what = "holds no image" if paths or Path(argument).is_dir() else "matches no file"
            more = f", only {len(paths)} outputs of an earlier run" if paths else ""
            raise InputError(f'"{argument}" {what}{more}', fix="give images, folders, patterns or -")
        for path in kept:
            found.setdefault(_absolute(path), path.relative_to(base).with_suffix("").as_posix())
            shown.setdefault(_absolute(path), STDIN if path == folder / "stdin" else str(path))
    names = _with_unique_names(found)
    return FoundImages([NamedImage(path, name, shown[path]) for path, name in names.items()], outputs)


def _absolute(path: Path) -> Path:
    return Path(os.path.abspath(path))


def _with_stdin(arguments: Sequence[str], stdin: Callable[[], bytes], folder: Path) -> Iterable[str]:
    for argument in dict.fromkeys(arguments):
        if argument == STDIN:
            yield from _paths_of(stdin(), folder)
        else:
            yield argument


def _paths_of(data: bytes, folder: Path) -> list[str]:
    """Return the paths that standard input lists, or of a copy of the image that it is."""
    if not data.strip(b"\n\0 "):
        raise InputError("standard input is empty", where=STDIN, fix="give an image, or one path per line")
    try:
        with Image.open(io.BytesIO(data)):
            pass
    except BROKEN:
        pass
    else:
        (folder / "stdin").write_bytes(data)
        return [str(folder / "stdin")]
    try:
        lines = data.decode("utf-8").split("\0" if b"\0" in data else "\n")
    except UnicodeDecodeError:
        raise InputError("standard input is neither an image nor a list of paths in UTF-8", where=STDIN) from None
    return [line.rstrip("\r") for line in lines if line.strip()]


def _named_by(argument: str) -> tuple[list[Path], Path, bool]:
    """Return the files of an argument, the folder that their names are relative to, and whether it was searched."""
    path = Path(argument).expanduser()
    if path.is_dir():
        return _below(path), path, True
    if path.exists() or not glob.has_magic(argument):
        if not path.is_file():
            raise InputError(f'no image file "{argument}"', fix="check the path")
        return [path], path.parent, False
    matched = [Path(name) for name in sorted(glob.glob(str(path), recursive=True))]
    files = [each for one in matched for each in (_below(one) if one.is_dir() else [one])]
    steps = list(path.parts)
    first = next(number for number, step in enumerate(steps) if glob.has_magic(step))
    return [each for each in files if _is_image(each)], Path(*steps[:first]), True


def _below(folder: Path) -> list[Path]:
    """Return the images below a folder, sorted; hidden ones are left out."""
    found = []
    for where, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        found += [Path(where, name) for name in sorted(names) if not name.startswith(".")]
    return [path for path in found if _is_image(path)]


def _is_image(path: Path) -> bool:
    return any(path.suffix.lower() in family for family in SUFFIXES)


def is_output(path: Path) -> bool:
    """Return whether `ovbench segment` wrote a file, as a text in it says; False for all but PNG files."""
    if path.suffix.lower() != ".png":
        return False
    try:
        with Image.open(path) as image:
            return image.info.get("Software") == SOFTWARE
    except BROKEN:
        return False


def _with_unique_names(found: dict[Path, str]) -> dict[Path, str]:
    """Lengthen equal names by the folders of the images, then by their suffixes."""
    names = dict(found)
    for longer in (_with_folders, _with_suffixes):
        for same in _equal(names):
            names |= longer(same)
    for same in _equal(names):
        raise InputError(
            f'"{same[0]}" and "{same[1]}" would have outputs of the same name', fix="rename one, or label them apart"
        )
    return names


def _equal(names: dict[Path, str]) -> list[list[Path]]:
    groups = defaultdict(list)
    for path, name in names.items():
        groups[name.casefold()].append(path)
    return [paths for paths in groups.values() if len(paths) > 1]


def _with_folders(paths: list[Path]) -> dict[Path, str]:
    common = os.path.commonpath([path.parent for path in paths])
    return {path: path.relative_to(common).with_suffix("").as_posix() for path in paths}


def _with_suffixes(paths: list[Path]) -> dict[Path, str]:
    common = os.path.commonpath([path.parent for path in paths])
    return {path: path.relative_to(common).as_posix() for path in paths}
