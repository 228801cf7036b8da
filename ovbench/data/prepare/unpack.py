"""Taking from official archives the part that a benchmark needs."""

from __future__ import annotations

import lzma
import shutil
import struct
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, NamedTuple

from ovbench.data.card import Card
from ovbench.utils.errors import InputError
from ovbench.utils.files import replacing

DAMAGED = (
    zipfile.BadZipFile, tarfile.TarError, zlib.error, lzma.LZMAError, struct.error, EOFError, OSError, ValueError,
    KeyError, OverflowError,
)  # fmt: skip
PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff")  # many files; decoding notices a damaged one


class Part(NamedTuple):
    """The members of ``archive`` whose names begin with ``prefix`` belong in ``folder``."""

    archive: Path
    prefix: str
    folder: Path


def parts_in(card: Card, source: Path, root: Path) -> list[Part]:
    """What the archives that lie in ``source`` hold for a benchmark."""
    return [
        Part(source / name, prefix, root / below) for name, prefix, below in card.archives if (source / name).is_file()
    ]


def unpack(part: Part, advance: Callable[[int], None] = lambda done: None) -> int:
    """Write the files that are not there yet and return their number; InputError for a damaged archive.

    Only plain files are written, and only below ``part.folder``.
    """
    written = 0
    with _whole(part.archive), _open(part.archive) as members:
        for name, open_member in members:
            if not name.startswith(part.prefix):
                continue
            below = PurePosixPath(name.removeprefix(part.prefix))
            if below.is_absolute() or ".." in below.parts:
                raise InputError(f'the archive names a file outside its folder: "{name}"', where=str(part.archive))
            target = part.folder / below
            picture = target.suffix.lower() in PICTURES
            if not target.exists():
                with open_member() as source, replacing(target, durable=not picture) as new, new.open("wb") as file:
                    shutil.copyfileobj(source, file, 1 << 20)
                written += 1
            advance(1)
    return written


@contextmanager
def _open(path: Path) -> Iterator[Iterator[tuple[str, Callable[[], IO[bytes]]]]]:
    """The plain files of a zip or tar archive: name, and a function that opens it."""
    if path.suffix == ".zip":
        with zipfile.ZipFile(path) as archive:
            names = [info for info in archive.infolist() if not info.is_dir()]
            yield ((info.filename, lambda info=info: archive.open(info)) for info in names)
    else:
        with tarfile.open(path) as archive:
            yield ((info.name, lambda info=info: archive.extractfile(info)) for info in archive if info.isfile())


@contextmanager
def _whole(path: Path) -> Iterator[None]:
    try:
        yield
    except (RuntimeError, NotImplementedError) as error:  # encrypted members, methods of compression that are not known
        text = f"the archive has a member that cannot be unpacked: {error}"
        raise InputError(text, where=str(path), fix="unpack it by hand") from None
    except DAMAGED as error:
        raise InputError(f"the archive is damaged: {error}", where=str(path), fix="download it again") from None
