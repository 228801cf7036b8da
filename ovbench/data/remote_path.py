"""Files and folders at a URL of fsspec, such as ``s3://bucket/data``, with those methods of `Path` that read."""

from __future__ import annotations

import errno
import functools
import hashlib
import secrets
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import IO, Any, NamedTuple

from ovbench.utils.files import reaching
from ovbench.utils.folders import opened_system
from ovbench.utils.paths import URL

BLOCK, BLOCKS = 4 << 20, 8  # bytes that are fetched at once from an archive, and number of such blocks in memory
VERSION = (  # what file systems of fsspec call the version of a file; each store has some of them
    "etag", "generation", "md5hash", "content-md5", "blob_id", "oid", "mtime", "lastmodified", "last_modified",
    "updated", "modified", "modify", "created",
)  # fmt: skip


class FileFacts(NamedTuple):
    """Size and version of a file, under the names of `os.stat`; the version is a number made from its ETag or time."""

    st_size: int
    st_mtime_ns: int
    is_folder: bool = False


class RemotePath(PurePosixPath):
    """A file or folder at a URL.

    Every folder is listed once, until `forget_listings`, and facts about a file are those of its folder's listing. So a
    benchmark costs few requests besides its content. A file that is replaced later has the old facts and other bytes,
    and is found to be changed in the next run. universal_pathlib, which writes, needs a millisecond per path.

    Example:
        >>> from pathlib import Path
        >>> path = RemotePath("memory://bucket/data") / "a.png"
        >>> str(path), path.is_file(), isinstance(path, Path)
        ('memory://bucket/data/a.png', False, False)
    """

    def __str__(self) -> str:
        text = super().__str__()
        scheme, _, rest = text.partition(":/")
        return f"{scheme}://{rest}" if URL.match(text) else text

    @property
    def fs(self) -> Any:
        """The file system of fsspec."""
        return _system("//".join(self.parts[:2]))

    @property
    def path(self) -> str:
        """The path in the file system."""
        return str(self.fs._strip_protocol(str(self))).rstrip("/")

    def absolute(self) -> RemotePath:
        """Return this path."""
        return self

    def listing(self) -> Mapping[str, FileFacts]:
        """Return the facts of every file and folder in this folder, by name; nothing if there is no such folder.

        Raises:
            InputError: If the store cannot be reached.
        """
        return _listing(self) if URL.match(str(self)) else {}  # a table may name a file of another machine

    def stat(self) -> FileFacts:
        """Return size and version of the file.

        Raises:
            FileNotFoundError: If there is no such file or folder.
            InputError: If the store cannot be reached.
        """
        found = self.parent.listing().get(self.name) if len(self.parts) > 2 else None
        if found is None:
            raise FileNotFoundError(errno.ENOENT, "no such file", str(self))
        return found

    def is_file(self) -> bool:
        """Return whether there is such a file."""
        found = self.parent.listing().get(self.name) if len(self.parts) > 2 else None
        return found is not None and not found.is_folder

    def is_dir(self) -> bool:
        """Return whether there are files below; a store of objects has no other folders."""
        return bool(self.listing())

    def exists(self) -> bool:
        """Return whether there is such a file or folder."""
        return self.is_file() or self.is_dir()

    def read_bytes(self) -> bytes:
        """Return the content of the file.

        Raises:
            FileNotFoundError: If there is no such file.
            InputError: If the store cannot be reached.
        """
        with reaching(self):
            return bytes(self.fs.cat_file(self.path))

    def open(self, mode: str = "rb") -> IO[bytes]:
        """Open the file for reading at any position; parts are fetched when they are read."""
        with reaching(self):
            return self.fs.open(  # type: ignore[no-any-return]
                self.path, mode, block_size=BLOCK, cache_type="blockcache", cache_options={"maxblocks": BLOCKS}
            )

    def glob(self, pattern: str) -> Iterator[RemotePath]:
        """Yield the files below that match a pattern."""
        start = self.path
        with reaching(self):
            found = self.fs.glob(f"{start}/{pattern}")
        return (self / str(name).removeprefix(start).strip("/") for name in found)

    def rglob(self, pattern: str) -> Iterator[RemotePath]:
        """Yield the files in this folder or below whose names match a pattern."""
        return self.glob(f"**/{pattern}")

    def walk_files(self, below: str = "") -> Iterator[str]:
        """Yield the paths of all files below, relative to this folder; hidden files are left out."""
        for name, facts in self.listing().items():
            if facts.is_folder:
                yield from (self / name).walk_files(f"{below}{name}/")
            elif not name.startswith("."):
                yield below + name


def forget_listings() -> None:
    """Open every store and list every folder again when it is read next."""
    _system.cache_clear()
    _listing.cache_clear()


@functools.cache
def _system(url: str) -> Any:
    import fsspec  # imported here, because most commands read no URL

    with opened_system(url):
        return fsspec.url_to_fs(url, use_listings_cache=False)[0]


@functools.cache
def _listing(folder: RemotePath) -> Mapping[str, FileFacts]:
    key, found = folder.path, {}
    try:
        with reaching(folder):
            entries = folder.fs.ls(key, detail=True)
    except (FileNotFoundError, NotADirectoryError):
        return {}
    for entry in entries:
        name = str(entry["name"]).rstrip("/")
        if name != key:  # a file, or the marker of an empty folder
            found[name.rpartition("/")[2]] = facts_of(entry)
    return found


def facts_of(entry: Mapping[str, Any]) -> FileFacts:
    """Return what fsspec knows about a file; if the store states no version, a new one, so that it is read again."""
    stated = sorted((key.lower(), str(value)) for key, value in entry.items() if key.lower() in VERSION and value)
    digest = hashlib.blake2b(repr(stated).encode(), digest_size=7).digest() if stated else secrets.token_bytes(7)
    return FileFacts(entry["size"] or 0, int.from_bytes(digest, "big"), entry["type"] == "directory")
