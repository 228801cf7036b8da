"""Find the images of a cell that have no valid counts."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from ovbench.data.dataset import Dataset
from ovbench.evaluation.identity import image_files, unchanged
from ovbench.evaluation.ledger import Ledger

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
    dataset: Dataset, ledger: Ledger, numbers: Iterable[int], maps: Any = None, saved: SavedFiles | None = None, *,
    unknown: Collection[str] = (),
) -> DueImages:  # fmt: skip
    """Return the images that must run; counts of changed files are not used.

    Args:
        dataset: The images and labels.
        ledger: The entries.
        numbers: The wanted images, as positions in the split.
        maps: The region maps; None if the method has none.
        saved: The files that the run writes for each image; None for none.
        unknown: Names of files that are not compared, because only the loaded method knows them.
    """
    images = DueImages([], [], [], [], ledger.newest)
    for number in numbers:
        image = dataset.items[number].id
        entry = ledger.get(image)
        if entry is None or entry.counts is None:
            images.due.append(number)
        elif not unchanged(_without(entry.data, unknown), image_files(dataset, number, maps)):
            images.changed.append(number)
            images.due.append(number)
        else:
            images.kept.append(number)
            if saved is not None and saved.is_missing(number, image):
                images.shown.append(number)
    return images


def _without(data: Mapping[str, Any] | None, names: Collection[str]) -> dict[str, Any] | None:
    return None if data is None else {name: facts for name, facts in data.items() if name not in names}


def started(run: Mapping[str, Any] | None) -> str:
    """Return the start of a run, "" if it is not known."""
    return (run or {}).get("started", "")


def reused(kept: Sequence[Mapping[str, Any] | None], changed: Sequence[str], wanted: int) -> list[str]:
    """Return sentences about counts of earlier runs.

    Args:
        kept: The run of every image whose counts are reused.
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
        dates = sorted({started(run)[:16].replace("T", " ") for run in kept})
        when = f"on {dates[0]}" if len(dates) == 1 else f"from {dates[0]} to {dates[-1]}"
        lines.append(f"{len(kept)} of {wanted} images were counted {when} UTC")
    return lines
