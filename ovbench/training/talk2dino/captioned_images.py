"""Captions matched with the image files of a folder."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from ovbench.training.caption_files import ImageCaption
from ovbench.utils.errors import InputError

IMAGE_SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff"}


@dataclass(frozen=True)
class CaptionedImages:
    """Images of a folder and their captions: ``texts[i]`` describes the file ``folder / names[image_of[i]]``."""

    folder: Path
    names: tuple[str, ...]
    texts: tuple[str, ...]
    image_of: tuple[int, ...]


@dataclass(frozen=True)
class Unpaired:
    """Image names of captions without an image, of images without a caption, and of blank captions."""

    captions: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    blank: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.captions or self.images or self.blank)

    def counts(self) -> dict[str, int]:
        """Return the number of entries by their description."""
        return {
            "captions without an image": len(self.captions),
            "images without a caption": len(self.images),
            "blank captions": len(self.blank),
        }

    def describe(self) -> str:
        """Return the counts in one line, each with the first names."""
        groups = zip(self.counts().items(), (self.captions, self.images, self.blank), strict=True)
        return "; ".join(f"{count} {what} ({_some(names)})" for (what, count), names in groups if count)

    def lines(self) -> list[str]:
        """Return one line per entry."""
        groups = zip(self.counts(), (self.captions, self.images, self.blank), strict=True)
        return [f"{what}: {name}" for what, names in groups for name in names]


def _some(names: tuple[str, ...], shown: int = 3) -> str:
    return ", ".join(names[:shown]) + (", ..." if len(names) > shown else "")


def pair(folder: Path, captions: Iterable[ImageCaption]) -> tuple[CaptionedImages, Unpaired]:
    """Match captions with the images below a folder.

    Args:
        folder: Images in any depth.
        captions: Captions that name images relative to ``folder``.

    Returns:
        The pairs, images sorted by name and captions in their order, and the entries without a counterpart.

    Raises:
        InputError: If there is no such folder.
    """
    if not folder.is_dir():
        raise InputError(f'there is no image folder "{folder}"', fix="check --images")
    present = sorted(
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*")
        if path.suffix.lower() in IMAGE_SUFFIXES and path.is_file()
    )
    captions, known = list(captions), set(present)
    used = [c for c in captions if c.image in known and c.text.strip()]
    named = {c.image for c in used}
    names = tuple(name for name in present if name in named)
    number = {name: i for i, name in enumerate(names)}
    unpaired = Unpaired(
        captions=tuple(dict.fromkeys(c.image for c in captions if c.image not in known)),
        images=tuple(name for name in present if name not in named),
        blank=tuple(c.image for c in captions if c.image in known and not c.text.strip()),
    )
    pairs = CaptionedImages(folder, names, tuple(c.text for c in used), tuple(number[c.image] for c in used))
    return pairs, unpaired
