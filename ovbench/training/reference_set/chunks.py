"""Chunks of the images of a build, and the files of its stages.

A stage writes one file per chunk: ``stages/STAGE-KEY/CHUNK.suffix`` in the folder of the set. The key is a hash of the
settings of the stage and of the key before it, and the chunk's name ends in a hash of its images. So a file that exists
is valid, and a repeated build resumes.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.utils.errors import InputError
from ovbench.utils.files import parse_json, write_json

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
CHUNK_SIZE = 256
STAGES = {"captions": ".jsonl", "phrases": ".jsonl", "pairs": ".parquet", "features": ".safetensors"}


class SourceImage(NamedTuple):
    """An image; ``id`` is its path relative to the folder of the images, without suffix."""

    id: str
    path: Path


class ImageChunk(NamedTuple):
    """Some images; ``name`` is their number and a hash of their names and sizes."""

    name: str
    images: tuple[SourceImage, ...]


def list_images(folder: Path, limit: int | None = None) -> list[SourceImage]:
    """List all images below a folder, sorted by name.

    Args:
        folder: The folder.
        limit: Stop after this many images.

    Raises:
        InputError: If there is no image, two images differ only in their suffix, or a name is not printable.
    """
    if not folder.is_dir():
        raise InputError(f'no folder "{folder}"', fix="give the folder of the images")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)[:limit]
    if not paths:
        raise InputError(f'no image in "{folder}"', fix="give a folder with " + ", ".join(IMAGES))
    images = [SourceImage(path.relative_to(folder).with_suffix("").as_posix(), path) for path in paths]
    for image in images:
        if not image.id.isprintable():  # ids are lines of text files in UTF-8
            raise InputError(
                "the name of the image has control characters or is not UTF-8", where=str(image.path),
                fix="rename the file",
            )  # fmt: skip
    for a, b in itertools.pairwise(images):
        if a.id == b.id:
            raise InputError(f"two images are called {a.id}", where=f"{a.path}, {b.path}", fix="rename one of them")
    return images


def split_into_chunks(images: list[SourceImage], size: int = CHUNK_SIZE) -> list[ImageChunk]:
    """Split images into chunks of ``size``."""
    chunks = []
    for number, start in enumerate(range(0, len(images), size)):
        chosen = tuple(images[start : start + size])
        names = "\n".join(f"{p.id} {p.path.stat().st_size}" for p in chosen)
        chunks.append(ImageChunk(f"{number:05d}-{hashlib.sha256(names.encode()).hexdigest()[:10]}", chosen))
    return chunks


class StageFiles:
    """The files of all stages.

    Args:
        root: Folder of the stages.
        settings: The settings of every stage in `STAGES`.
    """

    def __init__(self, root: Path, settings: Mapping[str, Mapping[str, Any]]):
        self.root, self.settings = root, {name: dict(settings[name]) for name in STAGES}
        self.keys: dict[str, str] = {}
        before = ""
        for name in STAGES:
            content = json.dumps([before, self.settings[name]], sort_keys=True)
            before = self.keys[name] = hashlib.sha256(content.encode()).hexdigest()[:10]

    def folder(self, stage: str) -> Path:
        """Return the folder of a stage."""
        return self.root / f"{stage}-{self.keys[stage]}"

    def path(self, stage: str, chunk: str) -> Path:
        """Return the file of a stage and a chunk."""
        return self.folder(stage) / f"{chunk}{STAGES[stage]}"

    def missing(self, stage: str, chunks: Sequence[ImageChunk]) -> list[ImageChunk]:
        """Return the chunks that a stage has not finished."""
        return [chunk for chunk in chunks if not self.path(stage, chunk.name).is_file()]

    def write_settings(self) -> None:
        """Write the settings of every stage beside its files."""
        for stage in STAGES:
            write_json(self.folder(stage) / "settings.json", self.settings[stage])


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of a JSON Lines file of a stage.

    Raises:
        InputError: If the file is missing or damaged.
    """
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield parse_json(line)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read the file of a stage: {error}", where=str(path), fix="delete it and repeat the build"
        ) from None
