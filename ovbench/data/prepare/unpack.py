"""Unpack the files of a dataset from official archives."""

from __future__ import annotations

import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple, cast

from ovbench.data.card import Card
from ovbench.utils.errors import InputError
from ovbench.utils.files import replacing

DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError,
    KeyError, OverflowError,
)  # fmt: skip
PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")  # many files; decoding notices a damaged one


class Archive(NamedTuple):
    """An archive; its members whose names begin with ``prefix`` belong in ``folder``."""

    path: Path
    prefix: str
    folder: Path


def archives_in(card: Card, source: Path, root: Path) -> list[Archive]:
    """Return the archives of a dataset in a folder.

    Args:
        card: The card of the dataset.
        source: The folder.
        root: The folder to unpack into.
    """
    return [
        Archive(path, prefix, root / below)
        for name, prefix, below in card.archives
        if (path := source / name).is_file()
    ]


def unpack(archive: Archive, advance: Callable[[int], None] = lambda done: None) -> int:
    """Unpack the files that do not exist yet: plain files only, and only below the archive's folder.

    Args:
        archive: The archive.
        advance: Called with 1 after every file.

    Returns:
        The number of files that were written.

    Raises:
        InputError: If the archive is damaged or names a file outside its folder.
    """
    written = 0
    with _whole(archive.path), _open(archive.path) as members:
        for name, open_member in members:
            if not name.startswith(archive.prefix):
                continue
            below = PurePosixPath(name.removeprefix(archive.prefix))
            if below.is_absolute() or ".." in below.parts:
                raise InputError(f'the archive names a file outside its folder: "{name}"', where=str(archive.path))
            target = archive.folder / below
            picture = target.suffix.lower() in PICTURES
            if not target.exists():
                with open_member() as source, replacing(target, durable=not picture) as new, new.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                written += 1
            advance(1)
    return written


@contextmanager
def _open(path: Path) -> Iterator[Iterator[tuple[str, Callable[[], IO[bytes]]]]]:
    """Yield the plain files of a zip or tar archive: the name, and a function that opens the file."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = [info for info in archive.infolist() if not info.is_dir()]
            yield ((info.filename, partial(archive.open, info)) for info in names)
    else:
        with tarfile.open(path) as archive:
            extract = cast(Callable[[tarfile.TarInfo], IO[bytes]], archive.extractfile)  # None only if it is no file
            yield ((info.name, partial(extract, info)) for info in archive if info.isfile())


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:  # encrypted members, unknown compression
        text = f"the archive has a member that cannot be unpacked: {error}"
        raise InputError(text, where=str(path), fix="unpack it by hand") from None
    except DAMAGED as error:
        raise InputError(f"the archive is damaged: {error}", where=str(path), fix="download it again") from None
