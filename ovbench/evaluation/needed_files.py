"""List and fetch the files of published weights that cells need."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from ovbench.backbones.base import Backbone, NamedWeights
from ovbench.backbones.hub import (
    Source,
    fetch_file,
    fetch_published,
    offline,
    published_file,
    require_connection,
    weights_folder,
)
from ovbench.config.load import Cell
from ovbench.config.published_weights import TABLES, published
from ovbench.regions.base import RegionSource, open_source
from ovbench.utils.errors import InputError, OvbenchError, first_line
from ovbench.utils.files import replacing
from ovbench.utils.registry import BACKBONES, METHODS, find_backbone

SHA256 = re.compile("[0-9a-f]{64}")
SEE_PAGE = "see the page of the source"


class NeededFile(NamedTuple):
    """A file of published weights.

    Attributes:
        need: What needs it, such as "clip=ViT-B-16-quickgelu/openai".
        file: Name of the file; "" for something that is not one file.
        url: Where it comes from.
        licence: Its licence.
        size: Its size in bytes, None if unknown.
        sha256: Its hash, None if unknown.
        path: Where it is on this machine, None if it is missing.
        advice: How the user gets it if it cannot be fetched, otherwise "".
        source: Repository on the hub with the alternative names of the file, None for another address.
    """

    need: str
    file: str
    url: str = ""
    licence: str = ""
    size: int | None = None
    sha256: str | None = None
    path: str | None = None
    advice: str = ""
    source: Source | None = None


def files_of_cells(cells: Iterable[Cell]) -> list[NeededFile]:
    """Return the files that cells need, each once; networks of mini and files of the user are not listed.

    Raises:
        UsageError: If a backbone or a region source is unknown.
    """
    found: dict[tuple[str, str, str], NeededFile] = {}
    for cell in cells:
        for one in _of_cell(cell):
            found.setdefault((one.need, one.file, one.url), one)
    return list(found.values())


def all_files() -> list[NeededFile]:
    """Return all files of configs/weights.toml."""
    found = []
    for table in TABLES:
        for name, entry in published(table).items():
            if "url" in entry:
                found.append(_of_entry(f"{table}={name}", table, name))
            elif table in BACKBONES.entries():
                found += _of_backbone(BACKBONES.load(table), name)
    return found


def _of_cell(cell: Cell) -> Iterator[NeededFile]:
    module = METHODS.declaration(cell.method).__module__
    for name, spec in cell.backbones.items():
        backbone = find_backbone(name, module)
        if spec is None:
            yield NeededFile(name, "", advice=f"not given: {backbone.advice}")
        else:
            yield from _of_backbone(backbone, spec)
    if cell.regions:
        yield from _of_regions(cell.regions["source"], open_source(cell.regions)[1])


def _of_backbone(backbone: Backbone, spec: str) -> Iterator[NeededFile]:
    need, source = f"{backbone.name}={spec}", backbone.source(spec)
    if source is not None:
        yield _of_source(need, source)
    elif isinstance(backbone, NamedWeights) and "url" in published(backbone.table).get(spec, {}):
        yield _of_entry(need, backbone.table, spec)
    else:
        try:
            yield from (NeededFile(need, name) for name in backbone.missing(spec))
        except OvbenchError as error:
            yield NeededFile(need, "", advice=str(error))


def _of_regions(name: str, source: RegionSource) -> Iterator[NeededFile]:
    weights, need = getattr(source, "weights", ""), f"regions={name}"
    if getattr(source, "model", None) in published("sam") and not weights:
        yield _of_entry(need, "sam", source.model)  # type: ignore[attr-defined]
    elif hasattr(source, "files") and not Path(weights).exists():
        yield from (_of_source(need, Source(weights, names)) for names in source.files)
    else:
        yield from (NeededFile(need, "", advice=text) for text in source.missing())


def _of_source(need: str, source: Source) -> NeededFile:
    path = source.find()
    name = path.name if path else source.files[0]
    on_hub = "://" not in source.place
    url = hub_url(source.place, name) if on_hub else source.place
    entries = (entry for table in TABLES for entry in published(table).values())
    licence = next((entry["licence"] for entry in entries if entry.get("hub") == source.place), SEE_PAGE)
    return _with_facts(NeededFile(need, name, url, licence, source=source if on_hub else None), path)


def _of_entry(need: str, table: str, name: str) -> NeededFile:
    entry, path = published(table)[name], published_file(table, name)
    fetched = "" if "sha256" in entry else f"its hash is not published: put it into {weights_folder()} yourself"
    row = NeededFile(need, entry["file"], entry["url"], entry["licence"], sha256=entry.get("sha256"), advice=fetched)
    return _with_facts(row, path if path.is_file() else None)


def _with_facts(row: NeededFile, path: Path | None) -> NeededFile:
    """Add the size and hash of the file on this machine; the hub's cache names large files by their hash."""
    if path is None:
        return row
    blob = path.resolve().name
    known = blob if SHA256.fullmatch(blob) else row.sha256
    return row._replace(path=str(path), size=path.stat().st_size, sha256=known, advice="")


def hub_url(repository: str, file: str) -> str:
    """Return the address of a file on the hub."""
    from huggingface_hub import constants

    return f"{constants.ENDPOINT}/{repository}/resolve/main/{file}"


def with_facts_of_host(rows: Iterable[NeededFile]) -> list[NeededFile]:
    """Return the files with size and hash of the missing ones, as far as their hosts can be reached."""
    return [row if row.path or not row.url or offline() else _asked(row) for row in rows]


def _asked(row: NeededFile) -> NeededFile:
    from huggingface_hub import get_hf_file_metadata

    try:
        about: Any = get_hf_file_metadata(row.url, timeout=5)
    except Exception:  # hub, network and HTTP errors have no common base class; the facts stay unknown
        return row
    etag = str(about.etag or "")
    return row._replace(size=about.size or row.size, sha256=row.sha256 or (etag if SHA256.fullmatch(etag) else None))


def fetch(row: NeededFile) -> NeededFile:
    """Download a missing file and return it with its path.

    Raises:
        InputError: If it cannot be downloaded.
    """
    if row.path:
        return row
    if not row.url or row.advice:
        raise InputError(f"{row.need}: {row.advice or row.file}")
    entry = next((n for n, one in published("sam").items() if one["url"] == row.url), None)
    if entry:
        path = fetch_published("sam", entry)
    elif row.source is not None:
        path = fetch_file(row.source.place, *row.source.files)
    else:
        path = _fetch_url(row)
    return _with_facts(row, path)


def _fetch_url(row: NeededFile) -> Path:
    """Download a file to torch's cache, where its library finds it."""
    import torch

    require_connection(row.url, [f"{row.file} ({row.url})"])
    path = Path(torch.hub.get_dir()) / "checkpoints" / row.file
    try:
        with replacing(path) as temporary:
            torch.hub.download_url_to_file(row.url, str(temporary), row.sha256, progress=False)
    except (OSError, RuntimeError) as error:
        raise InputError(f"{row.file} could not be downloaded ({first_line(error)})", where=row.url) from None
    return path
