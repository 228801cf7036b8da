"""The report of a build: counts of every stage, the most frequent roots, and example segments."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ovbench.data.decode import read_image
from ovbench.methods.reme.parquet import read_table
from ovbench.training.reference_set.chunks import IMAGES, StageFiles
from ovbench.training.reference_set.finish import BasePairs, FilterResult
from ovbench.training.reference_set.stages import paired_segments
from ovbench.training.reference_set.synonyms import SynonymPairs
from ovbench.utils.errors import InputError
from ovbench.utils.html import html_templates

ROOTS_LISTED = 40
ROOTS_SHOWN = 10
EXAMPLES = 6
NUMBER = re.compile(r"-?[\d,]+(\.\d+)?|nan")
SIDE = 96  # long side of an example in pixels
FAILED_LISTED = 40


def report_page(
    manifest: Mapping[str, Any], base: BasePairs, filtered: FilterResult, similar: SynonymPairs, files: StageFiles,
    images: Path | None,
) -> bytes:  # fmt: skip
    """Return a self-contained HTML page; without the folder of the images it has no examples.

    Args:
        manifest: Manifest of the set.
        base: The base pairs.
        filtered: Decisions of the filters.
        similar: The synonyms.
        files: The files of the stages.
        images: Folder of the images, or None.
    """
    counts = [(name.replace("_", " "), f"{n:,}") for name, n in manifest["counts"].items()]
    beside = [
        _section("Counts", ["stage", "number"], counts),
        _section("Most frequent roots", ["root", "base pairs", "kept", "spread w", ""], _roots(base, filtered)),
        _section("Synonyms", ["root", "synonym", "cosine"], _synonyms(base, similar)),
    ]
    below = [
        _section("Settings", ["setting", "value", "hash"], _settings(manifest)),
        _section("Images that cannot be read", ["image", "reason"], list(manifest["failed"].items())[:FAILED_LISTED]),
    ]
    examples = [] if images is None else list(_examples(base, filtered, manifest["parts"], files, images))
    template = html_templates("reference_set").get_template("summary.html")
    page = template.render(
        images=manifest["counts"]["images"], warnings=manifest["warnings"], beside=beside, below=below,
        examples=examples,
    )  # fmt: skip
    return page.encode()


def _settings(manifest: Mapping[str, Any]) -> list[tuple[str, Any, str]]:
    encoders = {**manifest["encoders"], "pairing": manifest["pairing"]}
    rows = [(role, entry["name"], entry["sha256"][:12]) for role, entry in encoders.items()]
    regions = " ".join(f"{key}={value}" for key, value in manifest["settings"]["cell"]["regions"].items())
    build = [(key, value, "") for key, value in manifest["settings"]["build"].items() if key != "pairing"]
    used = [(key, value, "") for key, value in manifest["used_with"].items() if key not in ("zeta", "o_rownorm")]
    return [*rows, ("regions", regions, ""), *used, *build]


def _roots(base: BasePairs, filtered: FilterResult) -> Iterator[tuple[Any, ...]]:
    sizes = filtered.groups.sizes
    left = np.bincount(base.phrase_root[base.pairs[filtered.stay, 1]], minlength=len(sizes))
    dropped = set(filtered.dropped.tolist())
    for root in np.argsort(-sizes, kind="stable")[:ROOTS_LISTED].tolist():
        fate = "dropped as ambiguous" if root in dropped else ""
        yield base.roots[root], f"{sizes[root]:,}", f"{left[root]:,}", f"{filtered.cohesion.w[root]:.3f}", fate


def _synonyms(base: BasePairs, similar: SynonymPairs) -> Iterator[tuple[str, str, str]]:
    for (a, b), cosine in list(zip(similar.pairs.tolist(), similar.similarity.tolist(), strict=True))[:ROOTS_LISTED]:
        yield base.roots[a], base.roots[b], f"{cosine:.3f}"


def _examples(
    base: BasePairs, filtered: FilterResult, chunks: list[str], files: StageFiles, images: Path
) -> Iterator[dict[str, Any]]:
    """Yield the roots with the most remaining pairs, each with examples of kept and of dropped segments."""
    tables: dict[int, Any] = {}
    sizes = np.bincount(base.phrase_root[base.pairs[filtered.stay, 1]], minlength=len(base.roots))
    for root in np.argsort(-sizes, kind="stable")[:ROOTS_SHOWN].tolist():
        pairs = filtered.groups.order[filtered.groups.start[root] : filtered.groups.start[root + 1]]
        stayed = _some(pairs[filtered.stay[pairs]], EXAMPLES)
        gone = _some(pairs[~filtered.stay[pairs]], EXAMPLES // 2)
        figures = []
        for pair in (*stayed.tolist(), *gone.tolist()):
            segment, phrase = base.pairs[pair].tolist()
            chunk = int(np.searchsorted(base.first, segment, side="right") - 1)
            if chunk not in tables:
                table = read_table(files.path("pairs", chunks[chunk]), ["image", "region", "y1", "x1", "y2", "x2"])
                tables = {chunk: table.take(paired_segments(table)[1])}
            source = _crop(images, tables[chunk].slice(segment - base.first[chunk], 1).to_pylist()[0])
            if source:
                figures.append({"source": source, "phrase": base.phrases[phrase], "kept": bool(filtered.stay[pair])})
        yield {"root": base.roots[root], "figures": figures}


def _some(pairs: np.ndarray, most: int) -> np.ndarray:
    """Return at most ``most`` pairs, spread over the whole set."""
    return pairs[np.unique(np.linspace(0, len(pairs) - 1, most).astype(int))] if len(pairs) else pairs


def _crop(images: Path, row: Mapping[str, Any]) -> str | None:
    """Return a segment's bounding box with a margin as a data URL, or None if the image is missing."""
    found = (images / f"{row['image']}{suffix}" for low in IMAGES for suffix in (low, low.upper()))
    path = next((path for path in found if path.is_file()), None)
    try:
        image = read_image(path) if path else None
    except InputError:
        image = None
    if image is None:
        return None
    margin = 8
    y1, x1 = max(row["y1"] - margin, 0), max(row["x1"] - margin, 0)
    crop = image[y1 : row["y2"] + margin, x1 : row["x2"] + margin, ::-1]
    factor = SIDE / max(crop.shape[:2])
    size = tuple(max(round(side * factor), 1) for side in crop.shape[1::-1])
    data = cv2.imencode(".jpg", cv2.resize(crop, size, interpolation=cv2.INTER_AREA), [cv2.IMWRITE_JPEG_QUALITY, 80])[1]
    return "data:image/jpeg;base64," + base64.b64encode(data.tobytes()).decode()


def _section(title: str, heads: list[str], rows: Iterable[tuple[Any, ...]]) -> dict[str, Any]:
    """Return a table for the template; a column of numbers has the class "n"."""
    texts = [[str(value) for value in row] for row in rows]
    classes = ["n" if all(NUMBER.fullmatch(text) for text in column) else "" for column in zip(*texts, strict=True)]
    return {"title": title, "heads": heads, "rows": texts, "classes": classes}
