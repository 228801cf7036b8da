"""Label many images with the user's classes and write their outputs; one image is in memory at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ovbench.config.backbone_spec import toy_note
from ovbench.config.load import Cell, override_pairs
from ovbench.data.card import Card, load_card, vocabulary
from ovbench.data.classes import Queries
from ovbench.data.server_layout import server_layout
from ovbench.inference.own_classes import LIKE, NOTHING, choose_cell, gather_classes
from ovbench.utils.errors import InputError, OvbenchError, UsageError

if TYPE_CHECKING:
    import numpy as np

    from ovbench.data.decode import DecodedImage
    from ovbench.data.image_paths import NamedImage
    from ovbench.inference.image_outputs import Outputs
    from ovbench.inference.label_image import Labeller

Say = Callable[[str], object]
Require = Callable[[list[Cell]], object]
READ_AHEAD = 2  # decoded images in memory, the present one not counted


@dataclass(frozen=True)
class Request:
    """What the user asked for; see the options of ``ovbench segment``.

    Attributes:
        classes: Names of classes, with synonyms separated by ";".
        classes_file: File with one class per line, or None.
        method: Name of the method.
        like: Dataset whose settings are used; None for the default.
        settings: "KEY=VALUE" settings, which override those of the dataset.
        weights: "BACKBONE=NAME" choices, which override the configured ones.
        device: "auto", "cpu", "cuda", ...
        saved: What to write.
        opacity: Opacity of the overlay's colours.
        outline: Whether the overlay has outlines.
        nothing: Threshold of the class "nothing of these", 0 for none.
        megapixels: See `ovbench.inference.label_image.Labeller`.
        out: Folder of the outputs.
        existing: "refuse", "skip" or "replace" outputs that exist.
    """

    classes: tuple[str, ...] = ()
    classes_file: Path | None = None
    method: str = "corrclip"
    like: str | None = None
    settings: tuple[str, ...] = ()
    weights: tuple[str, ...] = ()
    device: str = "auto"
    saved: tuple[str, ...] = ("overlay", "labels")
    opacity: float = 0.55
    outline: bool = True
    nothing: float = 0.0
    megapixels: float = 2.0
    out: Path = Path()
    existing: str = "refuse"


class CheckedClasses(NamedTuple):
    """The settings, the card whose settings are used, the classes, and the index of their background, if any."""

    cell: Cell
    card: Card
    classes: Queries
    background: int | None = None


def check_request(request: Request) -> CheckedClasses:
    """Check names, settings and classes, without NumPy and torch.

    Raises:
        UsageError: If a name, a setting or a class is not valid.
        InputError: If the file of the classes is not valid.
    """
    card = load_card(request.like or LIKE)
    overrides, backbones = override_pairs(request.settings, "--set"), override_pairs(request.weights, "--weights")
    cell = choose_cell(request.method, card.name, overrides, backbones)
    if "server" in request.saved:
        return _of_server(request, cell, card)
    classes = gather_classes(request.classes, request.classes_file)
    if request.nothing and len(classes) == 1:
        raise UsageError(
            "with one class every pixel has the probability 1", where="--nothing", fix="give a second class"
        )
    if any(names[0].casefold() == NOTHING for names in classes) and request.nothing:
        raise UsageError(f'"{NOTHING}" is a name of --nothing', where="--class", fix="give the class another name")
    return CheckedClasses(cell, card, classes)


def _of_server(request: Request, cell: Cell, card: Card) -> CheckedClasses:
    """Return the classes of a benchmark, whose test server knows no other."""
    server_layout(card)
    if request.classes or request.classes_file or request.nothing:
        raise UsageError(
            f"a test server knows the classes of {card.name} only", where="--save server",
            fix="leave out --class, --classes and --nothing",
        )  # fmt: skip
    return CheckedClasses(cell, card, vocabulary(card, cell.protocol.vocabulary or None), card.background)


class SavedImage(NamedTuple):
    """A labelled image: its file, its outputs, its orientation tag, and the pixels of each class."""

    image: NamedImage
    paths: dict[str, Path]
    orientation: int
    pixels: np.ndarray


@dataclass
class Result:
    """The images of a call.

    Attributes:
        names: Class names.
        folder: Folder of the outputs.
        images: The labelled images.
        failed: Why an image could not be labelled, by file.
        skipped: Number of images whose outputs existed.
        notes: Warnings for readers of the labels.
    """

    names: tuple[str, ...]
    folder: Path
    images: list[SavedImage] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    skipped: int = 0
    notes: tuple[str, ...] = ()

    def classes(self) -> list[dict[str, Any]]:
        """Return the fraction of the pixels of all images of each class."""
        from ovbench.inference.label_image import fractions

        return fractions(self.names, sum(image.pixels for image in self.images))

    def as_dict(self) -> dict[str, Any]:
        """Return the result as JSON data; the outputs of a single image also at the top."""
        from ovbench.inference.label_image import fractions

        images = [
            {
                "image": one.image.shown, "classes": fractions(self.names, one.pixels),
                "orientation": one.orientation, **{what: str(path) for what, path in one.paths.items()},
            }
            for one in self.images
        ]  # fmt: skip
        alone = {what: str(path) for what, path in self.images[0].paths.items()} if len(images) == 1 else {}
        classes = self.classes() if images else []
        return {
            "classes": classes, **alone, "images": images, "failed": self.failed, "skipped": self.skipped,
            "notes": list(self.notes),
        }  # fmt: skip


def segment_images(
    arguments: Sequence[str], request: Request, checked: CheckedClasses, *, stdin: Callable[[], bytes], folder: Path,
    require: Require, say: Say,
) -> Result:  # fmt: skip
    """Label images and write their outputs.

    Args:
        arguments: Files, folders, patterns, or "-" for standard input.
        request: What the user asked for.
        checked: The checked request.
        stdin: Returns the bytes of standard input.
        folder: An existing folder for an image from standard input.
        require: Checks that the weights of cells are on this machine or can be downloaded.
        say: Called with each line about plan and progress.

    Returns:
        The labelled and the failed images.

    Raises:
        InputError: If an argument names no image, outputs exist, weights are missing, or no image can be labelled.
    """
    from ovbench.data.image_paths import find_images
    from ovbench.inference.image_outputs import Outputs

    found = find_images(arguments, stdin, folder)
    names = tuple(queries[0] if queries else card_name for queries, card_name in _named(checked))
    names = (*names, NOTHING) if request.nothing else names
    outputs = Outputs(request.out, request.saved, names, card=checked.card, opacity=request.opacity,
                      outline=request.outline)  # fmt: skip
    images = _wanted(found.images, outputs, request, say)
    notes = tuple(filter(None, [toy_note(checked.cell.backbones)]))
    result = Result(names, request.out, skipped=len(found.images) - len(images), notes=notes)
    if found.outputs:
        say(f"{found.outputs} outputs of an earlier run are not labelled")
    if not images:
        return result
    first = _decoded(images[0]) if len(images) == 1 else None  # a damaged image is told before networks are loaded
    labeller = _labeller(request, checked, images, require, say)
    try:
        _label_all(images, first, labeller, outputs, result)
    finally:
        outputs.close()
    if not result.images:
        path, reason = next(iter(result.failed.items()))
        raise InputError(f"no image could be labelled; the first of {len(result.failed)}: {reason}", where=path)
    return result


def _named(checked: CheckedClasses) -> Iterator[tuple[tuple[str, ...], str]]:
    names = checked.card.classes if len(checked.card.classes) == len(checked.classes) else ("",) * len(checked.classes)
    return zip(checked.classes, names, strict=True)


def _wanted(images: list[NamedImage], outputs: Outputs, request: Request, say: Say) -> list[NamedImage]:
    """Return the images to label; outputs that exist are refused, skipped or replaced."""
    if request.existing == "skip":
        return [image for image in images if not outputs.is_complete(image)]
    existing = [path for image in images for path in outputs.existing(image)]
    if not existing:
        return images
    several = f"{len(existing)} outputs exist, first " if len(existing) > 1 else "the output exists: "
    if request.existing == "refuse":
        raise InputError(
            f"{several}{existing[0]}", fix="choose another --out, or give --existing replace or --existing skip"
        )
    say(f"{several}{existing[0]}; replaced")
    return images


def _labeller(
    request: Request, checked: CheckedClasses, images: list[NamedImage], require: Require, say: Say
) -> Labeller:  # fmt: skip
    """Print the plan, check the weights, and load the networks."""
    from ovbench.inference.label_image import Labeller
    from ovbench.inference.pipeline import build_pipeline
    from ovbench.utils.provenance import choose_device, use_device

    device = choose_device(request.device)
    for line in _plan(request, checked, images, device):
        say(line)
    require([checked.cell])
    use_device(device)
    pipeline = build_pipeline(checked.cell, checked.classes, checked.background, device)
    names = [queries[0] if queries else name for queries, name in _named(checked)]
    return Labeller(
        pipeline, names, megapixels=request.megapixels, nothing=request.nothing,
        confidence=bool({"confidence", "scores"} & set(request.saved)), scores="scores" in request.saved,
    )  # fmt: skip


def _plan(request: Request, checked: CheckedClasses, images: list[NamedImage], device: str) -> Iterator[str]:
    from ovbench.data.decode import image_size
    from ovbench.inference.label_image import why_reduced

    cell = checked.cell
    sizes = [size for image in images if (size := image_size(image.path))]
    height, width = max(sizes, key=lambda size: size[0] * size[1], default=(0, 0))
    backbones = "".join(f", {name} {spec}" for name, spec in cell.backbones.items())
    regions = f", regions {cell.regions['source']}" if cell.regions else ""
    count = f"{len(images)} images of up to" if len(images) > 1 else "an image of"
    default = " (the default of --like)" if request.like is None else ""
    yield (
        f"planned: {cell.method} with the settings of {checked.card.name}{default}, {len(checked.classes)} classes, "
        f"{count} {width} x {height} pixels{backbones}{regions}, on {device}"
    )
    why = why_reduced(cell)
    if why and request.megapixels and height * width > request.megapixels * 1e6:
        yield (
            f"images above {request.megapixels:g} megapixels are labelled at that size and their label maps enlarged, "
            f"because {why} would need too much memory; --megapixels changes it"
        )
    if note := toy_note(cell.backbones):
        yield f"warning: {note}"


def _decoded(image: NamedImage) -> DecodedImage:
    from ovbench.data.decode import read_image_file

    return read_image_file(image.path)


def _label_all(
    images: list[NamedImage], first: DecodedImage | None, labeller: Labeller, outputs: Outputs, result: Result
) -> None:
    """Label the images in order; one that cannot be read or labelled has failed, and the others continue."""
    from tqdm import tqdm

    from ovbench.utils.read_ahead import read_ahead

    maps = labeller.pipeline.region_maps
    if maps is not None:
        maps.expect({image.name: image.path for image in images}, [image.name for image in images])
    read = _decoded if first is None else lambda image: first
    bar = tqdm(total=len(images), unit="image", disable=True if len(images) == 1 else None)  # None: a terminal only
    with bar:
        for image, future in read_ahead(read, images, ahead=READ_AHEAD, threads=1):
            try:
                decoded = future.result()
                labelled = labeller.label(decoded.pixels, image.path, decoded.orientation)
                outputs.save(image, labelled)
            except OvbenchError as error:
                if len(images) == 1:
                    raise
                result.failed[image.shown] = str(error)
            else:
                result.images.append(SavedImage(image, outputs.paths(image), decoded.orientation, labelled.pixels()))
            bar.update()
