"""The images of a build in parts, and the files that the stages leave for each part.

On disk, under ``stages`` of a set:  STAGE-KEY/PART.suffix.  The key hashes the settings of the stage and the key of the
stage before it, the part's name hashes its images; so a file that is there is right, and nothing else is looked up.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.utils.errors import InputError
from ovbench.utils.files import write_json

IMAGES = (".jpg", ".jpeg", ".png", ".webp", ".bmp")
PART_SIZE = 256
STAGES = {"captions": ".jsonl", "phrases": ".jsonl", "pairs": ".parquet", "features": ".safetensors"}


class Picture(NamedTuple):
    """An image: ``id`` is its path below the images' folder, without suffix."""

    id: str
    path: Path


class Part(NamedTuple):
    """Some images; ``name`` starts with their place and ends in a hash of their names and sizes."""

    name: str
    pictures: tuple[Picture, ...]


def list_pictures(folder: Path, limit: int | None = None) -> list[Picture]:
    """Every image below a folder, by name. InputError where there is none, or where two share a name."""
    if not folder.is_dir():
        raise InputError(f'no folder "{folder}"', fix="give the folder that holds the images")
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in IMAGES)[:limit]
    if not paths:
        raise InputError(f'no image in "{folder}"', fix="give a folder with " + ", ".join(IMAGES))
    pictures = [Picture(path.relative_to(folder).with_suffix("").as_posix(), path) for path in paths]
    for a, b in itertools.pairwise(pictures):
        if a.id == b.id:
            raise InputError(f"two images are called {a.id}", where=f"{a.path}, {b.path}", fix="rename one of them")
    return pictures


def divide(pictures: list[Picture], size: int = PART_SIZE) -> list[Part]:
    parts = []
    for number, start in enumerate(range(0, len(pictures), size)):
        chosen = tuple(pictures[start : start + size])
        names = "\n".join(f"{p.id} {p.path.stat().st_size}" for p in chosen)
        parts.append(Part(f"{number:05d}-{hashlib.sha256(names.encode()).hexdigest()[:10]}", chosen))
    return parts


class Work:
    """The folder of the stages. ``settings`` holds those of every stage, in order; see `STAGES`."""

    def __init__(self, folder: Path, settings: Mapping[str, Mapping[str, Any]]):
        self.folder, self.settings = folder, {name: dict(settings[name]) for name in STAGES}
        self.keys: dict[str, str] = {}
        before = ""
        for name in STAGES:
            content = json.dumps([before, self.settings[name]], sort_keys=True)
            before = self.keys[name] = hashlib.sha256(content.encode()).hexdigest()[:10]

    def stage(self, name: str) -> Path:
        return self.folder / f"{name}-{self.keys[name]}"

    def file(self, name: str, part: str) -> Path:
        return self.stage(name) / f"{part}{STAGES[name]}"

    def lacking(self, name: str, parts: list[Part]) -> list[Part]:
        return [part for part in parts if not self.file(name, part.name).is_file()]

    def describe(self) -> None:
        """Write what the keys stand for."""
        for name in STAGES:
            write_json(self.stage(name) / "settings.json", self.settings[name])


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """The objects of a JSON Lines file of a stage; InputError where it is damaged."""
    try:
        with path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)
    except (OSError, ValueError) as error:
        raise InputError(
            f"cannot read a stage: {error}", where=str(path), fix="delete this file and build again"
        ) from None
