"""Find the images of a cell that have no valid counts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ovbench.data.dataset import Dataset
from ovbench.evaluation.identity import image_files, unchanged
from ovbench.evaluation.ledger import Entry

if TYPE_CHECKING:
    from ovbench.evaluation.predictions import SavedFiles


class DueImages(NamedTuple):
    """The images of a cell that must run, as numbers in the split.

    Attributes:
        due: Images without valid counts in the ledger.
        shown: Counted images whose overlays or label maps are missing.
        changed: Images whose files changed after they were counted.
        kept: Images whose counts are reused.
        newest: Start of the newest run in the ledger.
    """

    due: list[int]
    shown: list[int]
    changed: list[int]
    kept: list[int]
    newest: str


def due_images(
    dataset: Dataset, ledger: Mapping[str, Entry], numbers: Iterable[int], maps: Any = None,
    saved: SavedFiles | None = None,
) -> DueImages:  # fmt: skip
    """Return the images that must run; counts of changed files are not used.

    Args:
        dataset: The images and labels.
        ledger: Entries by image id.
        numbers: The wanted images, as positions in the split.
        maps: The region maps; None if the method has none.
        saved: The files that the run writes for each image; None for none.
    """
    images = DueImages([], [], [], [], max((started(entry) for entry in ledger.values()), default=""))
    for number in numbers:
        image = dataset.items[number].id
        entry = ledger.get(image)
        if entry is None or entry.counts is None:
            images.due.append(number)
        elif not unchanged(entry.data, image_files(dataset, number, maps)):
            images.changed.append(number)
            images.due.append(number)
        else:
            images.kept.append(number)
            if saved is not None and saved.is_missing(number, image):
                images.shown.append(number)
    return images


def started(entry: Entry) -> str:
    """Return the start of the run that wrote an entry, "" if it is not known."""
    return (entry.run or {}).get("started", "")


def reused(kept: Sequence[Entry], changed: Sequence[str], wanted: int) -> list[str]:
    """Return sentences about counts of earlier runs.

    Args:
        kept: Entries that are reused.
        changed: Ids of the images that changed.
        wanted: Number of wanted images.
    """
    lines = []
    if changed:
        first = ", ".join(changed[:3]) + (", ..." if len(changed) > 3 else "")
        verb = "image has" if wanted == 1 else "images have" if len(changed) > 1 else "images has"
        since = "they were" if len(changed) > 1 else "it was"
        lines.append(f"{len(changed)} of {wanted} {verb} changed since {since} counted: {first}; counted again")
    if kept:
        dates = sorted({started(entry)[:16].replace("T", " ") for entry in kept})
        when = f"on {dates[0]}" if len(dates) == 1 else f"from {dates[0]} to {dates[-1]}"
        lines.append(f"{len(kept)} of {wanted} images were counted {when} UTC")
    return lines
