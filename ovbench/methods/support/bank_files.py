"""The files of a region bank: their names, and the note that `ovbench bank build` writes about them.

Importing this file loads no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from glob import escape
from pathlib import Path
from typing import Annotated, Any, NamedTuple
from urllib.parse import parse_qsl

from pydantic import Field

from ovbench.config.backbone_spec import MINI
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.files import read_json
from ovbench.utils.registry import load_target
from ovbench.utils.typed import EncoderNote, OpenTyped, WrittenFile, validate

VALUES, KEYS, MANIFESTS = "clip_embeddings", "vfm_embeddings", "manifests"  # the folders of the official builder
FileName = Annotated[str, Field(pattern=r"^\w*$")]
OPTIONS = ("main", "auxiliary", "vfm", "search")
SEARCHES = ("index", "keys", "faiss")
FORMAT = 1
# The authors' banks. A run counts as their published row by this name, so a bank that is built here must have another.
PUBLISHED = ("coco", "monet", "sa1b", "gpic")
# The bank of mini is built on first use. The builder is in a later room, so its function is named and then imported.
GENERATED = "ovbench.training.region_bank.mini_bank:mini_bank"


class _Identity(OpenTyped):
    encoders: dict[str, EncoderNote]
    regions: dict[str, Any]
    windows: dict[str, Any]
    left_out: list[int]


class _Index(OpenTyped):
    type: str
    neighbours: int
    recall: float


class _Names(OpenTyped):
    main: FileName
    auxiliary: FileName
    vfm: FileName


class BankNote(OpenTyped):
    """The content of a note; names become parts of file names, so they have no folders and wildcards."""

    names: _Names
    identity: _Identity
    images: Annotated[int, Field(ge=0)]
    rows: Annotated[int, Field(ge=0)]
    without_regions: list[str]
    failed: dict[str, str]
    index: _Index
    files: dict[str, WrittenFile]


class BankFiles(NamedTuple):
    """The files of a bank.

    Attributes:
        main: Embeddings by CLIP.
        auxiliary: Embeddings by another CLIP, or None.
        index: The index, or None if the keys are searched.
        keys: The keys, or None if only the index is there.
        vfm: Name of the foundation model in the names of the files.
        search: "index", "keys" or "faiss".
        base: FOLDER/NAME.
    """

    main: Path
    auxiliary: Path | None
    index: Path | None
    keys: Path | None
    vfm: str
    search: str
    base: Path


def note_path(base: Path) -> Path:
    """Return the file with the origin of a bank FOLDER/NAME that ovbench has built."""
    return base.with_name(f"{base.name}.bank.json")


def read_note(base: Path) -> dict[str, Any] | None:
    """Return the origin of a bank FOLDER/NAME; None for a bank of the official builder.

    Raises:
        InputError: If the file is damaged or of a newer version.
    """
    path = note_path(base)
    if not path.is_file():
        return None
    note = read_json(path)
    if not isinstance(note, dict) or note.get("format") != FORMAT:
        raise InputError("this is no note of a bank in a known format", where=str(path), fix="build the bank again")
    validate(BankNote, note, str(path), what="the note of a bank", fix="build the bank again")
    return note


def known_note(base: Path) -> dict[str, Any]:
    """Return the note of a bank.

    Raises:
        InputError: If there is none.
    """
    note = read_note(base)
    if note is None:
        raise InputError(
            f'no note "{note_path(base).name}" of a bank', where=str(base.parent),
            fix="give FOLDER/NAME of a bank that `ovbench bank build` finished",
        )  # fmt: skip
    return note


def refuse_published_name(base: Path) -> None:
    """Raise UsageError if a bank to be built has the name of a published one."""
    if base.name in PUBLISHED:
        raise UsageError(
            f'"{base.name}" is the name of a bank that the authors publish', where="--out",
            fix=f"choose another name, such as {base.with_name('mine')}",
        )  # fmt: skip


def find_bank(spec: str) -> BankFiles:
    """Find the files of a bank.

    Args:
        spec: "FOLDER/NAME" for the files NAME_metaclip_b.pt, NAME_dfnclip_b.pt and NAME_radiov3.faiss in FOLDER, or in
            its folders clip_embeddings and vfm_embeddings as the official builder writes them. Options choose among
            several files: "FOLDER/NAME?main=metaclip_l&auxiliary=dfnclip_b&vfm=dinov2&search=keys". "mini" is built on
            first use.

    Raises:
        UsageError: If an option is unknown.
        InputError: If a file is missing, or several fit.
    """
    text, _, query = spec.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    search = options.get("search", "index")
    strange = [key for key in options if key not in OPTIONS]
    if strange or search not in SEARCHES:
        wrong = strange[0] if strange else f"search={search}"
        raise UsageError(f'unknown option "{wrong}" of a bank', where=spec, fix=f"known: {', '.join(OPTIONS)}")
    base = load_target(GENERATED, where="support")() if text == MINI else Path(text).expanduser()
    names = (read_note(base) or {}).get("names", {})
    known: Mapping[str, str] = {"main": "metaclip*", "auxiliary": "dfnclip*", "vfm": "*", **names, **options}
    vfm_end = ".pt" if search == "keys" else ".faiss"
    found = _one(base, KEYS, known["vfm"], vfm_end, spec, excluded=("metaclip", "dfnclip"))
    vfm = found.stem.removeprefix(f"{base.name}_")
    keys = found if search == "keys" else _one(base, KEYS, escape(vfm), ".pt", spec, required=False)
    main = _one(base, VALUES, known["main"], ".pt", spec)
    auxiliary = known["auxiliary"] and _one(
        base, VALUES, known["auxiliary"], ".pt", spec, required="auxiliary" in options
    )
    return BankFiles(main, auxiliary or None, None if search == "keys" else found, keys, vfm, search, base)


def _one(
    base: Path, folder: str, pattern: str, end: str, spec: str, required: bool = True, excluded: tuple[str, ...] = ()
) -> Any:
    found = [
        path
        for place in (base.parent, base.parent / folder)
        for path in sorted(place.glob(f"{escape(base.name)}_{pattern}{end}"))
        if not path.stem.removeprefix(f"{base.name}_").startswith(excluded or ("\0",))
    ]
    if not found and required:
        raise InputError(f'no file "{base}_{pattern}{end}" of the bank', where=spec, fix="give FOLDER/NAME of a bank")
    if len(found) > 1:
        names = ", ".join(path.name for path in found)
        raise InputError(f"several files fit: {names}", where=spec, fix="choose with ?main=, auxiliary= or vfm=")
    return found[0] if found else None
