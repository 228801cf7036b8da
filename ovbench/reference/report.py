"""The page about a build: counts at every stage, the most frequent roots, and what their segments look like."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from ovbench.data.decode import read_image
from ovbench.errors import InputError
from ovbench.reference.parts import IMAGES, Work
from ovbench.reference.stages import paired_segments
from ovbench.reference.tables import read_table
from ovbench.results.store import write_bytes

ROOTS_LISTED = 40
ROOTS_SHOWN = 10
EXAMPLES = 6
SIDE = 96  # pixels of a picture's longer side
STYLE = """body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:1rem 0}td,th{padding:.2rem .8rem;border-bottom:1px solid #ddd;text-align:left}
td.n{text-align:right;font-variant-numeric:tabular-nums}figure{display:inline-block;margin:.3rem;text-align:center;
vertical-align:top;width:7.5rem}figcaption{font-size:12px}.no img{opacity:.45}.no{color:#a33}.warn{color:#a33}"""


def write_report(
    path: Path, manifest: Mapping[str, Any], base: Any, filtered: Any, made: Any, similar: Any, work: Work,
    images: Path | None,
) -> None:  # fmt: skip
    """One self-contained HTML page; pictures only where the ``images`` are at hand."""
    body = [
        "<h1>Reference set</h1>",
        *(f'<p class="warn">{html.escape(text)}</p>' for text in manifest["warnings"]),
        _settings(manifest),
        "<h2>Counts</h2>",
        _table(["stage", "number"], [(name.replace("_", " "), f"{n:,}") for name, n in manifest["counts"].items()]),
        "<h2>Most frequent roots</h2>",
        _roots(base, filtered),
        "<h2>Synonyms</h2>",
        _table(["root", "synonym", "cosine"], _synonyms(base, similar)),
        *_examples(base, filtered, manifest["parts"], work, images),
    ]
    page = f"<!doctype html><meta charset=utf-8><title>Reference set</title><style>{STYLE}</style>" + "\n".join(body)
    write_bytes(path, page.encode())


def _settings(manifest: Mapping[str, Any]) -> str:
    encoders = {**manifest["encoders"], "pairing": manifest["pairing"]}
    rows = [(kind, entry["name"], entry["sha256"][:12]) for kind, entry in encoders.items()]
    build = [(key, value, "") for key, value in manifest["settings"]["build"].items()]
    regions = [("regions", " ".join(f"{k}={v}" for k, v in manifest["settings"]["cell"]["regions"].items()), "")]
    return "<h2>Settings</h2>" + _table(["setting", "value", "hash"], rows + regions + build)


def _roots(base: Any, filtered: Any) -> str:
    sizes, rows = filtered.groups.sizes, []
    left = np.bincount(base.phrase_root[base.pairs[filtered.stay, 1]], minlength=len(sizes))
    dropped = set(filtered.dropped.tolist())
    for root in np.argsort(-sizes, kind="stable")[:ROOTS_LISTED].tolist():
        fate = "dropped as ambiguous" if root in dropped else ""
        rows.append((base.roots[root], f"{sizes[root]:,}", f"{left[root]:,}", f"{filtered.together.w[root]:.3f}", fate))
    return _table(["root", "base pairs", "kept", "spread w", ""], rows)


def _synonyms(base: Any, similar: Any) -> Iterator[tuple[str, str, str]]:
    for (a, b), cosine in list(zip(similar.pairs.tolist(), similar.similarity.tolist(), strict=True))[:ROOTS_LISTED]:
        yield base.roots[a], base.roots[b], f"{cosine:.3f}"


def _examples(base: Any, filtered: Any, parts: list[str], work: Work, images: Path | None) -> Iterator[str]:
    """Segments of the roots with most pairs left: some that stayed and some that the filter dropped."""
    if images is None:
        return
    yield "<h2>Examples</h2><p>Bounding boxes of segments with their phrase; faded ones were filtered out.</p>"
    tables: dict[int, Any] = {}
    sizes = np.bincount(base.phrase_root[base.pairs[filtered.stay, 1]], minlength=len(base.roots))
    for root in np.argsort(-sizes, kind="stable")[:ROOTS_SHOWN].tolist():
        pairs = filtered.groups.order[filtered.groups.start[root] : filtered.groups.start[root + 1]]
        stayed, gone = pairs[filtered.stay[pairs]][:EXAMPLES], pairs[~filtered.stay[pairs]][: EXAMPLES // 2]
        figures = []
        for pair in (*stayed.tolist(), *gone.tolist()):
            segment, phrase = base.pairs[pair].tolist()
            part = int(np.searchsorted(base.first, segment, side="right") - 1)
            if part not in tables:
                table = read_table(work.file("pairs", parts[part]), ["image", "region", "y1", "x1", "y2", "x2"])
                tables = {part: table.take(paired_segments(table)[1])}
            picture = _crop(images, tables[part].slice(segment - base.first[part], 1).to_pylist()[0])
            if picture:
                style = "" if filtered.stay[pair] else ' class="no"'
                caption = html.escape(base.phrases[phrase])
                figures.append(
                    f'<figure{style}><img src="{picture}" alt=""><figcaption>{caption}</figcaption></figure>'
                )
        yield f"<h3>{html.escape(base.roots[root])}</h3>" + "".join(figures)


def _crop(images: Path, row: Mapping[str, Any]) -> str | None:
    """A segment's bounding box with a margin, as a data URL; None where the image is gone."""
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


def _table(heads: list[str], rows: Any) -> str:
    def cell(value: Any) -> str:
        text = str(value)
        number = text.replace(",", "").replace(".", "").isdigit()
        return f'<td class="n">{html.escape(text)}</td>' if number else f"<td>{html.escape(text)}</td>"

    head = "".join(f"<th>{html.escape(h)}</th>" for h in heads)
    return f"<table><tr>{head}</tr>" + "".join("<tr>" + "".join(map(cell, row)) + "</tr>" for row in rows) + "</table>"
