"""The report of a build: counts of every stage, the most frequent roots, and example segments."""

from __future__ import annotations

import base64
import html
import re
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ovbench.data.decode import read_image
from ovbench.methods.reme.tables import read_table
from ovbench.training.reference_set.chunks import IMAGES, StageFiles
from ovbench.training.reference_set.finish import BasePairs, FilterResult
from ovbench.training.reference_set.stages import paired_segments
from ovbench.training.reference_set.synonyms import SynonymPairs
from ovbench.utils.errors import InputError

ROOTS_LISTED = 40
ROOTS_SHOWN = 10
EXAMPLES = 6
NUMBER = re.compile(r"-?[\d,]+(\.\d+)?|nan")
SIDE = 96  # long side of an example in pixels
FAILED_LISTED = 40
STYLE = """:root{color-scheme:light dark;--line:#8884;--no:#c33}
body{font:15px/1.5 system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
h1,h2,h3{line-height:1.2}h3{margin:1.2rem 0 .2rem}p{margin:.4rem 0}
.side{display:flex;flex-wrap:wrap;gap:0 3rem;align-items:flex-start}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.15rem .7rem .15rem 0;border-bottom:1px solid var(--line);
text-align:left;vertical-align:top;overflow-wrap:anywhere}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
figure{display:inline-block;margin:.3rem .4rem .3rem 0;text-align:center;vertical-align:top;width:6.8rem}
figure img{max-width:100%}figcaption{font-size:12px;line-height:1.3;overflow-wrap:anywhere}
.no img{opacity:.4}.no figcaption{text-decoration:line-through}.no,.warn{color:var(--no)}"""


def report_page(
    manifest: Mapping[str, Any], base: BasePairs, filtered: FilterResult, similar: SynonymPairs, files: StageFiles,
    images: Path | None,
) -> bytes:  # fmt: skip
    """Return a self-contained HTML page; without the folder of the images it has no examples."""
    counts = [(name.replace("_", " "), f"{n:,}") for name, n in manifest["counts"].items()]
    body = [
        f"<h1>Reference set of {manifest['counts']['images']:,} images</h1>",
        *(f'<p class="warn">{html.escape(text)}</p>' for text in manifest["warnings"]),
        '<div class="side">',
        _section("Counts", ["stage", "number"], counts),
        _section("Most frequent roots", ["root", "base pairs", "kept", "spread w", ""], _roots(base, filtered)),
        _section("Synonyms", ["root", "synonym", "cosine"], _synonyms(base, similar)),
        "</div>",
        *_examples(base, filtered, manifest["parts"], files, images),
        _section("Settings", ["setting", "value", "hash"], _settings(manifest)),
        _section("Images that cannot be read", ["image", "reason"], list(manifest["failed"].items())[:FAILED_LISTED]),
    ]
    head = '<meta charset="utf-8"><meta name="viewport" content="width=device-width"><title>Reference set</title>'
    page = f'<!doctype html><html lang="en"><head>{head}<style>{STYLE}</style></head><body>'
    return (page + "\n".join(body) + "</body></html>\n").encode()


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
    base: BasePairs, filtered: FilterResult, chunks: list[str], files: StageFiles, images: Path | None
) -> Iterator[str]:
    """Yield example segments, kept and dropped ones, of the roots with the most remaining pairs."""
    if images is None:
        return
    yield (
        "<h2>Examples</h2><p>Bounding boxes of segments with their phrase; roots with the most remaining pairs first. "
        '<span class="no">Dropped segments are faded.</span></p>'
    )
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
            picture = _crop(images, tables[chunk].slice(segment - base.first[chunk], 1).to_pylist()[0])
            if picture:
                style = "" if filtered.stay[pair] else ' class="no"'
                caption = html.escape(base.phrases[phrase])
                figures.append(
                    f'<figure{style}><img src="{picture}" alt="{caption}"><figcaption>{caption}</figcaption></figure>'
                )
        yield f"<h3>{html.escape(base.roots[root])}</h3>" + "".join(figures)


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


def _section(title: str, heads: list[str], rows: Iterable[tuple[Any, ...]]) -> str:
    """Return a heading and a table, or nothing without rows; columns of numbers are right-aligned."""
    texts = [[str(value) for value in row] for row in rows]
    if not texts:
        return ""
    right = [all(NUMBER.fullmatch(text) for text in column) for column in zip(*texts, strict=True)]

    def line(tag: str, cells: list[str]) -> str:
        marks = (' class="n"' if number else "" for number in right)
        return "".join(f"<{tag}{m}>{html.escape(c)}</{tag}>" for m, c in zip(marks, cells, strict=True))

    body = "".join(f"<tr>{line('td', row)}</tr>" for row in texts)
    return f"<section><h2>{title}</h2><table><tr>{line('th', heads)}</tr>{body}</table></section>"
