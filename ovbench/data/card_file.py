"""The keys of a card's TOML file, with their types."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, Strict

from ovbench.data.label_colours import RawColour
from ovbench.utils.typed import Items, Typed


def _as_name(text: str) -> str:
    if not re.fullmatch(r"[\w-][\w.-]*", text):
        raise ValueError(f'must be a name of letters, digits, dots, - and _, got "{text}"')
    return text


RawValue = Annotated[int, Field(ge=0, le=65535)]


class EncodingTable(Typed):
    """A table [encoding.NAME] of a card, see `ovbench.data.card.Encoding`."""

    shift: int = 0
    void: Items[RawValue] = ()
    values: Items[RawValue] = ()
    table: str | None = None
    common: int | None = None
    means: str = ""
    colours: Items[RawColour] = ()
    void_colours: Items[RawColour] = ()
    categories: Items[str] = ()
    others: Literal["", "ignore"] = Field(default="", alias="else")


class LayoutTable(Typed):
    """A table [[layout]] of a card, see `ovbench.data.card.Layout`; ``image`` defaults to the pattern of the card."""

    name: str | None = None
    image: str = ""
    label: str = ""
    encodings: Annotated[Items[str], Field(min_length=1)] | None = None
    ids: str = ""
    coco: str = ""
    parquet: str = ""


class CardFile(Typed):
    """The file of a card, see `ovbench.data.card.Card`; ``classes`` is a file with one class per line."""

    title: str
    classes: str
    layout: Annotated[Items[LayoutTable], Field(min_length=1)]
    name: Annotated[str, AfterValidator(_as_name)] | None = None
    split: str = "val"
    background: Annotated[int, Field(ge=0)] | None = None
    image_count: Annotated[int, Field(ge=0)] = 0
    roots: Items[str] = (".",)
    encoding: dict[str, EncodingTable] = Field(default_factory=dict)
    image: str = ""
    licence: str = ""
    citation: str = ""
    source: str = ""
    prepare: str | None = None
    variant: str | None = None
    generator: str | None = None
    generated_folder: str | None = None
    ids_sha256: str | None = None
    archives: Items[Annotated[tuple[str, str, str], Strict(False)]] = ()
    raw: str | None = None
    palette: bool = False
    like: str | None = None
    prob_thd: Annotated[float, Field(ge=0, lt=1)] | None = None
    white: Annotated[int, Field(ge=255, le=65535)] | None = None
    classes_of_interest: Items[Annotated[int, Field(ge=0)]] = ()
    unconfirmed: Items[str] = ()
