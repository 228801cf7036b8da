"""The layout of a dataset's files, and the encoding of its labels, as a card states them."""

from __future__ import annotations

from dataclasses import dataclass

from ovbench.data.label_colours import Colour


@dataclass(frozen=True)
class Encoding:
    """The class of each raw label value: ``raw - shift``, its index in ``values``, or its entry in a table.

    Attributes:
        name: Name of the encoding.
        shift: Raw value of the first class.
        void: Raw values that are not scored.
        values: Raw value of each class, such as 0 and 255 of a mask.
        table: Path of a text file with two columns: raw value, class or "-".
        common: A raw value that most files have; it distinguishes encodings with equal ranges.
        means: Description for users whose files have this encoding.
        stated: Whether the card states the encoding; otherwise it is the default.
        colours: RGB colour of each class, if labels are pictures in colours; ``void`` then has one value, for
            ``void_colours``.
        void_colours: Colours that are not scored.
        ignores_others: Whether values, colours or categories that are not listed are ignored; otherwise they are an
            error.
        categories: Name of the category of each class, if labels are COCO annotations.
        background: Class of the pixels without annotation; None to ignore them.
    """

    name: str
    shift: int = 0
    void: tuple[int, ...] = ()
    values: tuple[int, ...] = ()
    table: str | None = None
    common: int | None = None
    means: str = ""
    stated: bool = True
    colours: tuple[Colour, ...] = ()
    void_colours: tuple[Colour, ...] = ()
    ignores_others: bool = False
    categories: tuple[str, ...] = ()
    background: int | None = None


@dataclass(frozen=True)
class Layout:
    """The files of a dataset; in patterns ``{id}`` is the image id, which may contain folders.

    Attributes:
        name: Name of the layout.
        image: Pattern of the image files; for tables, the column of the images.
        label: Pattern of the label files; for tables, the column of the labels; "" for COCO annotations.
        encodings: Names of encodings; the first is the documented one, another is used only if no other fits the files.
        ids: Images of the split: "images" or "labels" (all files of that pattern), the path of a split file, or "" (all
            images; each must have a label and each label an image). For tables, a column; "" for the row numbers.
        coco: Path of COCO annotations, instances or panoptic; "" for label files.
        parquet: Pattern of the Parquet or Arrow files, or their folder; "" for image files.
    """

    name: str
    image: str
    label: str
    encodings: tuple[str, ...]
    ids: str = ""
    coco: str = ""
    parquet: str = ""

    @property
    def files(self) -> list[str]:
        """Return the paths and columns that identify the files."""
        return [text for text in (self.parquet, self.image, self.label, self.coco) if text]
