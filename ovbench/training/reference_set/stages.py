"""The stages that see images and captions: each takes a part and leaves one file, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from ovbench.data.decode import read_image
from ovbench.methods.reme.tables import arrow, notes_of, read_table, write_table
from ovbench.regions.provider import Regions
from ovbench.training.reference_set.captioning import Captioner, UnreadableImage
from ovbench.training.reference_set.encode import PairingEncoder, Segmented, VisualEncoder, boxes, segmented
from ovbench.training.reference_set.pairing import best_segments
from ovbench.training.reference_set.parts import Part, Picture, Work, read_lines
from ovbench.training.reference_set.phrases import Parser, unique_phrases
from ovbench.utils.errors import InputError
from ovbench.utils.files import write_bytes

Advance = Callable[[int], object]
READ_AHEAD = 3


def caption_part(work: Work, part: Part, captions: Captioner, at_once: int, advance: Advance) -> None:
    """Captions of every image of a part, written line by line, so that a run that ends loses no caption."""
    path = work.file("captions", part.name)
    draft = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    done = _whole_lines(draft)
    left = [picture for picture in part.pictures if picture.id not in done]
    advance(len(part.pictures) - len(left))
    with draft.open("a", encoding="utf-8") as file, ThreadPoolExecutor(at_once) as pool:
        try:
            rows = (map if at_once == 1 else pool.map)(partial(_captioned, captions), left)
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                advance(1)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    rows = {row["image"]: row for row in read_lines(draft)}
    lines = [json.dumps(rows[picture.id], ensure_ascii=False) for picture in part.pictures]
    write_bytes(path, "".join(line + "\n" for line in lines).encode())
    draft.unlink()


def _captioned(captions: Captioner, picture: Picture) -> dict[str, Any]:
    try:
        return {"image": picture.id, "captions": captions(picture)}
    except UnreadableImage as error:
        return {"image": picture.id, "captions": [], "failed": str(error)}


def _whole_lines(draft: Path) -> set[str]:
    """Ids in a draft; a last line that was cut off is removed."""
    if not draft.is_file():
        return set()
    whole, ids = b"", set()
    for line in draft.read_bytes().splitlines(keepends=True):
        try:
            ids.add(json.loads(line)["image"])
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith(b"\n"):
            break
        whole += line
    draft.write_bytes(whole)
    return {json.loads(line)["image"] for line in whole.splitlines()}


def phrase_part(work: Work, part: Part, parse: Parser, advance: Advance) -> None:
    """Noun phrases with their roots, of every image of a part."""
    lines = []
    for row in read_lines(work.file("captions", part.name)):
        phrases, empty = unique_phrases(row["captions"], parse)
        found = {"image": row["image"], "captions": len(row["captions"]), "without_noun": empty, "phrases": phrases}
        found |= {"failed": row["failed"]} if "failed" in row else {}
        lines.append(json.dumps(found, ensure_ascii=False) + "\n")
        advance(1)
    write_bytes(work.file("phrases", part.name), "".join(lines).encode())


def pair_schema() -> Any:
    pa = arrow()
    small = ["region", "y1", "x1", "y2", "x2"]
    return pa.schema(
        [("image", pa.string()), *((name, pa.int32()) for name in small), ("area", pa.int64()),
         ("phrase", pa.string()), ("root", pa.string()), ("score", pa.float32())]
    )  # fmt: skip


def pair_part(work: Work, part: Part, regions: Regions, encoder: PairingEncoder, advance: Advance) -> None:
    """The base pairs of a part: (image, region) with a phrase, sorted, with their CLIP score; images that fail and the
    number of segments go into the file's notes."""
    phrases = {row["image"]: row for row in read_lines(work.file("phrases", part.name))}
    texts = sorted({text for row in phrases.values() for text, _ in row["phrases"]})  # the same batches in every run
    known = dict(zip(texts, encoder.phrases(texts), strict=True)) if texts else {}
    rows: dict[str, list[Any]] = {name: [] for name in pair_schema().names}
    failed = {image: row["failed"] for image, row in phrases.items() if "failed" in row}
    segments = images = 0
    wanted = [picture for picture in part.pictures if phrases[picture.id]["phrases"]]
    for picture, image, found in _read(wanted, regions, encoder.device):
        advance(1)
        if isinstance(found, str):
            failed[picture.id] = found
            continue
        images, segments = images + 1, segments + found.count
        named = phrases[picture.id]["phrases"]
        pairing = best_segments(encoder.segments(image, found), np.stack([known[text] for text, _ in named]))
        ids = found.map.cpu().numpy()
        box, area = boxes(ids, found.count), np.bincount(ids.ravel(), minlength=found.count)
        for number in np.lexsort((np.arange(len(named)), pairing.segment)):
            region = int(pairing.segment[number])
            values = (picture.id, region, *box[region], int(area[region]), *named[number], pairing.score[number])
            for column, value in zip(rows.values(), values, strict=True):
                column.append(value)
    advance(len(part.pictures) - len(wanted))
    notes = {
        "images": len(part.pictures), "paired_images": images, "segments": segments,
        "captions": sum(row["captions"] for row in phrases.values()),
        "captions_without_noun": sum(row["without_noun"] for row in phrases.values()),
        "without_caption": [i for i, row in phrases.items() if not row["captions"] and i not in failed],
        "without_noun": [i for i, row in phrases.items() if row["captions"] and not row["phrases"]],
        "mentions": sum(len(row["phrases"]) for row in phrases.values()), "failed": failed,
    }  # fmt: skip
    table = arrow().table(rows, schema=pair_schema())
    write_table(work.file("pairs", part.name), [table], pair_schema(), {"notes": json.dumps(notes)})


def part_notes(work: Work, part: str) -> dict[str, Any]:
    return json.loads(notes_of(work.file("pairs", part)).get("notes", "{}"))


def paired_segments(table: Any) -> tuple[np.ndarray, np.ndarray]:
    """The row of a part's features that belongs to each pair, and of each feature the pair that names it first."""
    image = table["image"].combine_chunks().dictionary_encode().indices.to_numpy()
    region = table["region"].to_numpy()
    new = np.ones(len(region), bool)
    new[1:] = (image[1:] != image[:-1]) | (region[1:] != region[:-1])
    return new.cumsum() - 1, np.flatnonzero(new)


def feature_part(
    work: Work, part: Part, regions: Regions, encoder: VisualEncoder, sha256: str, advance: Advance
) -> None:
    """Visual embeddings f16[rows, d1] of the paired segments of a part, in the order of its pairs."""
    table = read_table(work.file("pairs", part.name), ["image", "region"])
    _, first = paired_segments(table)
    images, region = np.array(table["image"].to_pylist(), object)[first], table["region"].to_numpy()[first]
    wanted: dict[str, list[int]] = {}
    for image, number in zip(images, region.tolist(), strict=True):
        wanted.setdefault(image, []).append(number)
    found: list[np.ndarray] = []
    for picture, image, seen in _read([p for p in part.pictures if p.id in wanted], regions, encoder.device):
        if isinstance(seen, str):
            raise InputError(f"an image that was read before cannot be read now: {seen}", where=str(picture.path))
        found.append(encoder.segments(image, seen)[wanted[picture.id]].astype(np.float16))
        advance(1)
    advance(len(part.pictures) - len(wanted))
    width = encoder.dinov2.width
    visual = torch.from_numpy(np.concatenate(found) if found else np.empty((0, width), np.float16))
    write_bytes(work.file("features", part.name), save({"visual": visual}, {"encoder": sha256}))


def _read(
    pictures: list[Picture], regions: Regions, device: str
) -> Iterator[tuple[Picture, np.ndarray | None, Segmented | str]]:
    """Images with their segments, read ahead by threads; the reason instead of the segments where that fails."""

    def read(picture: Picture) -> tuple[np.ndarray | None, np.ndarray | str]:
        try:
            image = read_image(picture.path)
            return image, regions(image, picture.path.stem)
        except InputError as error:
            return None, str(error)

    with ThreadPoolExecutor(2) as pool:
        waiting: list[Any] = []
        for position, picture in enumerate(pictures):
            while len(waiting) < min(READ_AHEAD, len(pictures) - position):
                waiting.append(pool.submit(read, pictures[position + len(waiting)]))
            image, found = waiting.pop(0).result()
            yield picture, image, found if isinstance(found, str) else segmented(found, device)
