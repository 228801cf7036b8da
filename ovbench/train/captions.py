"""Captions of images: read from COCO's JSON, JSON lines or CSV, and matched with the files of a folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ovbench.errors import InputError
from ovbench.training.caption_files import Caption

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class Pairs:
    """Images of a folder and their captions: ``texts[i]`` is about the file ``folder / names[image_of[i]]``."""

    folder: Path
    names: tuple[str, ...]
    texts: tuple[str, ...]
    image_of: tuple[int, ...]


@dataclass(frozen=True)
class Unpaired:
    """What has no counterpart: ``captions`` whose image is not there, ``images`` without a caption, and captions
    without a word, each by the name of the image."""

    captions: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    blank: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.captions or self.images or self.blank)

    def counts(self) -> dict[str, int]:
        return {
            "captions without an image": len(self.captions),
            "images without a caption": len(self.images),
            "captions without a word": len(self.blank),
        }

    def describe(self) -> str:
        """The counts in words, each with its first names."""
        kinds = zip(self.counts().items(), (self.captions, self.images, self.blank), strict=True)
        return "; ".join(f"{count} {kind} ({_some(names)})" for (kind, count), names in kinds if count)

    def lines(self) -> list[str]:
        """Every one of them, for a file."""
        kinds = zip(self.counts(), (self.captions, self.images, self.blank), strict=True)
        return [f"{kind}: {name}" for kind, names in kinds for name in names]


def _some(names: tuple[str, ...], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def pair(folder: Path, captions: Iterable[Caption]) -> tuple[Pairs, Unpaired]:
    """Match captions with the images below a folder. Images keep the order of their names, captions their own."""
    if not folder.is_dir():
        raise InputError(f'no folder "{folder}" of images', fix="check --images")
    present = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    captions, known = list(captions), set(present)
    good = [c for c in captions if c.image in known and c.text.strip()]
    named = {c.image for c in good}
    names = tuple(name for name in present if name in named)
    number = {name: i for i, name in enumerate(names)}
    unpaired = Unpaired(
        captions=tuple(dict.fromkeys(c.image for c in captions if c.image not in known)),
        images=tuple(name for name in present if name not in named),
        blank=tuple(c.image for c in captions if c.image in known and not c.text.strip()),
    )
    pairs = Pairs(folder, names, tuple(c.text for c in good), tuple(number[c.image] for c in good))
    return pairs, unpaired
