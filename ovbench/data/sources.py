"""Read the bytes of a dataset's files: from folders, archives, COCO annotations, and Parquet or Arrow tables.

Each may be on this machine or at a URL, see `ovbench.data.remote_path`.

A path may go through a file as through a folder: ``photos.zip/val/a.jpg`` is a member of an archive,
``val.parquet/image/17`` is row 17 of the column "image", and ``instances.json/139`` are the annotations of the image
with that number. So each image and label of a dataset has a path, and everything that reads files reads them here.
"""

from __future__ import annotations

import functools
import os
import posixpath
import struct
import tarfile
import threading
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import NamedTuple, Protocol

from ovbench.data.coco_file import CocoFile
from ovbench.data.remote_path import FileFacts, RemotePath, facts_of
from ovbench.data.row_file import ROW_SUFFIXES, RowFile
from ovbench.utils.errors import InputError
from ovbench.utils.files import reaching

ARCHIVES = (".zip", ".tar")
COMPRESSED = (".gz", ".tgz", ".bz2", ".tbz", ".xz", ".txz", ".zst")
CONTAINERS = frozenset((*ARCHIVES, *COMPRESSED, *ROW_SUFFIXES, ".json"))
DAMAGED = (zipfile.BadZipFile, EOFError, IndexError, NotImplementedError, OverflowError, struct.error)
OPENED = 32  # number of containers that are kept open
LINKS = 8  # links of a tar archive that are followed


class SourceFacts(NamedTuple):
    """Size in bytes and time of the last change in ns; of a member, those of the file that contains it.

    At a URL, the time is a number for the version of the file.
    """

    size: int
    mtime_ns: int


class SourceContent(NamedTuple):
    """The bytes of a file or member, with the facts when they were read."""

    data: bytes
    facts: SourceFacts


class Container(Protocol):
    """A file whose members are read by name.

    Attributes:
        names: The names of all members.
    """

    names: Collection[str]

    def read(self, name: str) -> bytes:
        """Return the bytes of a member; KeyError if there is none."""


class ZipMembers:
    """The files in a zip archive; thread-safe."""

    def __init__(self, path: Path):
        self._path, self._file = path, zipfile.ZipFile(path.open("rb"))
        self._infos = {_plain(info.filename): info for info in self._file.infolist() if not info.is_dir()}
        self.names: Collection[str] = self._infos.keys()

    def read(self, name: str) -> bytes:
        """Return the bytes of a member."""
        info = self._infos[name]
        if info.flag_bits & 1:
            raise InputError("the archive is encrypted", where=str(self._path), fix="make it again without a password")
        return self._file.read(info)


class TarMembers:
    """The files in a tar archive without compression; links are followed; thread-safe."""

    def __init__(self, path: Path):
        with path.open("rb") as file, tarfile.open(fileobj=file, mode="r:") as archive:
            members = {_plain(member.name): member for member in archive.getmembers() if not member.isdir()}
        self._path, self._places = path, {}
        for name in members:
            target = _target(members, name)
            if target is not None:
                self._places[name] = (target.offset_data, target.size)
        self._file, self._lock = path.open("rb"), threading.Lock()
        self.names: Collection[str] = self._places.keys()

    def read(self, name: str) -> bytes:
        """Return the bytes of a member."""
        start, size = self._places[name]
        with self._lock:
            self._file.seek(start)
            data = self._file.read(size)
        if len(data) != size:
            raise InputError("the archive is cut off", where=str(self._path), fix="copy it again")
        return data


def _target(members: Mapping[str, tarfile.TarInfo], name: str) -> tarfile.TarInfo | None:
    """Return the file that a member is or links to, None for other members."""
    for _ in range(LINKS):
        member = members.get(name)
        if member is None or member.isreg():
            return member
        if not (member.islnk() or member.issym()):
            return None
        base = posixpath.dirname(name) if member.issym() else ""
        name = _plain(posixpath.join(base, member.linkname))
    return None


def _plain(name: str) -> str:
    """Return the name of a member without "./"; a name that leads out of the archive gets no plain form."""
    return posixpath.normpath(name.replace("\\", "/"))


def read_source(path: Path) -> SourceContent:
    """Read a file, or a member of a container.

    Args:
        path: The path, which may go through a container.

    Raises:
        OSError: If there is no such file or member, or it cannot be read.
        InputError: If a container is damaged or cannot be opened.
    """
    if is_file_here(path):
        with path.open("rb") as stream:
            found = os.fstat(stream.fileno())
            return SourceContent(stream.read(), SourceFacts(found.st_size, found.st_mtime_ns))
    outer, facts = container_of(path), source_facts(path)
    if outer is None:
        return SourceContent(path.read_bytes(), facts)
    with reaching(outer):
        return SourceContent(_read_member(outer, path.relative_to(outer).as_posix()), facts)


def is_file_here(path: Path) -> bool:
    """Return whether a path is an ordinary one of this machine, through no container."""
    return isinstance(path, Path) and container_of(path) is None


def source_facts(path: Path) -> SourceFacts:
    """Return size and time of a file; of a member, those of its container.

    Panoptic annotations have PNG files beside them, and tables may have paths; these files count as well.

    Raises:
        OSError: If the file does not exist.
    """
    outer = container_of(path)
    found = _stat(outer or path)
    beside = _file_beside(outer, path.relative_to(outer).as_posix()) if outer else None
    if beside is None or container_of(beside):
        return SourceFacts(found.st_size, found.st_mtime_ns)
    other = _stat(beside)
    return SourceFacts(found.st_size + other.st_size, found.st_mtime_ns + other.st_mtime_ns)


def _stat(path: Path) -> os.stat_result | FileFacts:
    """Return size and version of a file; a path of universal_pathlib, as bundles have, may state no time."""
    return path.stat() if isinstance(path, (Path, RemotePath)) else facts_of(path.fs.info(path.path))


def container_of(path: Path) -> Path | None:
    """Return the file that a path goes through, None for an ordinary path."""
    found = None
    for above in path.parents:
        if above.suffix.lower() in CONTAINERS and above.is_file():
            found = above
    return found


def exists(path: Path) -> bool:
    """Return whether a path is a file, or a member of an archive."""
    outer = container_of(path)
    if outer is None:
        return path.is_file()
    return outer.suffix.lower() in ARCHIVES and path.relative_to(outer).as_posix() in open_container(outer).names


def is_folder(path: Path) -> bool:
    """Return whether a path is a folder, an archive, or a folder in an archive."""
    if path.is_dir():
        return True
    return next(iter(members_below(path) or ()), None) is not None


def members_below(folder: Path) -> Iterator[str] | None:
    """Return the names of the files below a folder of an archive, relative to it; None if it is in no archive."""
    inside = folder / "x"
    outer = container_of(inside)
    if outer is None or outer.suffix.lower() in (*ROW_SUFFIXES, ".json"):
        return None
    prefix = inside.relative_to(outer).as_posix().removesuffix("x")
    names = (name for name in open_container(outer).names if name.startswith(prefix))
    below = (name.removeprefix(prefix) for name in names)
    return (name for name in below if not any(part.startswith(".") for part in PurePosixPath(name).parts))


def walk(folder: Path) -> Iterator[str]:
    """Yield the paths of the files below a folder or in an archive; hidden files are left out.

    Raises:
        InputError: If a folder cannot be listed, or an archive is damaged.
    """
    members = members_below(folder)
    if members is not None:
        return members
    return folder.walk_files() if isinstance(folder, RemotePath) else _walk_folders(folder)


def _walk_folders(folder: Path, below: str = "", above: frozenset[tuple[int, int]] | None = None) -> Iterator[str]:
    """Yield the paths of the files below a folder; a link to a folder above, a circle, is not followed."""
    if above is None:
        parents = [p for p in Path(os.path.realpath(folder)).parents if os.path.exists(p)]
        above = frozenset((facts.st_dev, facts.st_ino) for facts in map(os.stat, parents))
    try:
        facts = os.stat(folder)
        entries = list(os.scandir(folder))
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise InputError(f'cannot list "{folder}": {error.strerror}') from None
    here = (facts.st_dev, facts.st_ino)
    if here in above:
        return
    for entry in entries:
        if _is_folder(entry):
            yield from _walk_folders(Path(entry.path), f"{below}{entry.name}/", above | {here})
        elif not entry.name.startswith("."):
            yield below + entry.name


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link that leads to itself


def open_container(path: Path) -> Container:
    """Open an archive, annotations or a table; it is opened again if the file has changed.

    Raises:
        InputError: If it is damaged, or of an unknown form.
    """
    facts = _stat(path)
    with reaching(path):
        return _opened(path, facts.st_size, facts.st_mtime_ns)


def open_coco(path: Path) -> CocoFile:
    """Open COCO annotations, which may be in an archive.

    Raises:
        OSError: If there is no such file.
        InputError: If the file is malformed.
    """
    outer = container_of(path)
    if outer is None:
        found = open_container(path)
        assert isinstance(found, CocoFile)
        return found
    facts = _stat(outer)
    with reaching(outer):
        return _inner(outer, path.relative_to(outer).as_posix(), facts.st_size, facts.st_mtime_ns)


_LOCK = threading.RLock()  # images are read by several threads, and one of them opens the container


def _opened(path: Path, size: int, mtime_ns: int) -> Container:
    with _LOCK:
        return _opened_once(path, size, mtime_ns)


@functools.lru_cache(maxsize=OPENED)
def _opened_once(path: Path, size: int, mtime_ns: int) -> Container:
    suffix = path.suffix.lower()
    if suffix in COMPRESSED:
        raise InputError(
            "a compressed archive can only be read from its start", where=str(path),
            fix="decompress it once (gunzip, bunzip2, unxz, unzstd): the .tar is read without unpacking, as is .zip",
        )  # fmt: skip
    try:
        if suffix == ".zip":
            return ZipMembers(path)
        if suffix == ".tar":
            return TarMembers(path)
        return RowFile(path) if suffix in ROW_SUFFIXES else CocoFile(path.read_bytes(), str(path))
    except (*DAMAGED, tarfile.TarError, ValueError) as error:
        raise InputError(f"cannot read the archive: {error}", where=str(path), fix="copy the file again") from None


def _inner(outer: Path, name: str, size: int, mtime_ns: int) -> CocoFile:
    with _LOCK:
        return _inner_once(outer, name, size, mtime_ns)


@functools.lru_cache(maxsize=OPENED)
def _inner_once(outer: Path, name: str, size: int, mtime_ns: int) -> CocoFile:
    return CocoFile(_read_member(outer, name), str(outer / name))


def _annotations_in(outer: Path, name: str) -> tuple[CocoFile, str] | None:
    """Return the annotations that a member of a container goes through, and the rest of its name."""
    if outer.suffix.lower() == ".json":
        return open_coco(outer), name
    inner, _, rest = name.partition(".json/")
    return (open_coco(outer / f"{inner}.json"), rest) if rest else None


def _file_beside(outer: Path, name: str) -> Path | None:
    """Return the other file that a member is read from: a panoptic PNG, or the file that a row of a table names."""
    if outer.suffix.lower() not in ROW_SUFFIXES:
        return _panoptic_png(outer, name)
    table = open_container(outer)
    assert isinstance(table, RowFile)
    try:
        return table.file_of(name)
    except KeyError:
        return None


def _panoptic_png(outer: Path, name: str) -> Path | None:
    """Return the PNG file of an image with panoptic annotations, None for other members."""
    found = _annotations_in(outer, name) if ".json" in (outer.suffix.lower(), Path(name).parent.suffix) else None
    if found is None or not found[0].panoptic:
        return None
    file = found[0].png_name(found[1])
    return None if file is None else (outer / name).parent.with_suffix("") / file


def _read_member(outer: Path, name: str) -> bytes:
    container = open_container(outer)
    try:
        if outer.suffix.lower() in ARCHIVES and name in container.names:
            return container.read(name)
        found = _annotations_in(outer, name)
        if found is None:
            named = _file_beside(outer, name)
            return container.read(name) if named is None else read_source(named).data
        data = found[0].read(found[1])
        png = _panoptic_png(outer, name)
        return data if png is None else data + b"\n" + read_source(png).data
    except KeyError:
        raise FileNotFoundError(f"no {name} in {outer}") from None
    except (*DAMAGED, zlib.error, RuntimeError) as error:
        fix = "copy the archive again"
        raise InputError(f'cannot read "{name}" of the archive: {error}', where=str(outer), fix=fix) from None
