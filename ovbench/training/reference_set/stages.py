"""The stages that read images and captions; each writes one file per chunk, whole or not at all."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save

from ovbench.data.decode import read_image
from ovbench.methods.reme.parquet import arrow, notes_of, read_table, write_table
from ovbench.regions.provider import Regions
from ovbench.training.reference_set.captioning import Captioner, UnreadableImage
from ovbench.training.reference_set.chunks import ImageChunk, SourceImage, StageFiles, read_lines
from ovbench.training.reference_set.encode import PairingEncoder, SegmentMap, VisualEncoder, boxes, segment_map
from ovbench.training.reference_set.pairing import best_segments
from ovbench.training.reference_set.phrases import Parser, unique_phrases
from ovbench.utils.errors import InputError
from ovbench.utils.files import parse_json, write_bytes
from ovbench.utils.read_ahead import read_ahead

Advance = Callable[[int], object]
READ_AHEAD = 3


def caption_chunk(files: StageFiles, chunk: ImageChunk, captions: Captioner, at_once: int, advance: Advance) -> None:
    """Caption the images of a chunk, line by line, so an interrupted build loses no caption.

    Args:
        files: The files of the stages.
        chunk: The images.
        captions: Gives the captions of an image.
        at_once: Images that are captioned at the same time.
        advance: Called with the number of finished images.
    """
    path = files.path("captions", chunk.name)
    draft = path.with_suffix(".partial")
    path.parent.mkdir(parents=True, exist_ok=True)
    done = _whole_lines(draft)
    left = [image for image in chunk.images if image.id not in done]
    advance(len(chunk.images) - len(left))
    with draft.open("a", encoding="utf-8") as file, ThreadPoolExecutor(at_once) as pool:
        try:
            rows = (map if at_once == 1 else pool.map)(partial(_caption, captions), left)
            for row in rows:
                file.write(json.dumps(row, ensure_ascii=False) + "\n")
                file.flush()
                advance(1)
        except BaseException:
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    rows = {row["image"]: row for row in read_lines(draft)}
    lines = [json.dumps(rows[image.id], ensure_ascii=False) for image in chunk.images]
    write_bytes(path, "".join(line + "\n" for line in lines).encode())
    draft.unlink()


def _caption(captions: Captioner, image: SourceImage) -> dict[str, Any]:
    try:
        return {"image": image.id, "captions": captions(image)}
    except UnreadableImage as error:
        return {"image": image.id, "captions": [], "failed": str(error)}


def _whole_lines(draft: Path) -> set[str]:
    """Return the image ids in a draft, and remove a truncated last line."""
    if not draft.is_file():
        return set()
    whole, ids = b"", set()
    for line in draft.read_bytes().splitlines(keepends=True):
        try:
            ids.add(parse_json(line)["image"])
        except (ValueError, KeyError, TypeError):
            break
        if not line.endswith(b"\n"):
            break
        whole += line
    draft.write_bytes(whole)
    return {parse_json(line)["image"] for line in whole.splitlines()}


def phrase_chunk(files: StageFiles, chunk: ImageChunk, parse: Parser, advance: Advance) -> None:
    """Write the noun phrases of each image of a chunk, with their roots.

    Args:
        files: The files of the stages.
        chunk: The images.
        parse: Gives the noun phrases of a caption.
        advance: Called with the number of finished images.
    """
    lines = []
    for row in read_lines(files.path("captions", chunk.name)):
        phrases, empty = unique_phrases(row["captions"], parse)
        found = {"image": row["image"], "captions": len(row["captions"]), "without_noun": empty, "phrases": phrases}
        found |= {"failed": row["failed"]} if "failed" in row else {}
        lines.append(json.dumps(found, ensure_ascii=False) + "\n")
        advance(1)
    write_bytes(files.path("phrases", chunk.name), "".join(lines).encode())


def pair_schema() -> Any:
    """Return the columns of the base pairs."""
    pa = arrow()
    small = ["region", "y1", "x1", "y2", "x2"]
    return pa.schema(
        [("image", pa.string()), *((name, pa.int32()) for name in small), ("area", pa.int64()),
         ("phrase", pa.string()), ("root", pa.string()), ("score", pa.float32())]
    )  # fmt: skip


def pair_chunk(
    files: StageFiles, chunk: ImageChunk, regions: Regions, encoder: PairingEncoder, advance: Advance
) -> None:
    """Write the base pairs of a chunk, sorted by image and region, with their CLIP score; failed images are noted.

    Args:
        files: The files of the stages.
        chunk: The images.
        regions: Source of the segments.
        encoder: Encoder of segments and phrases.
        advance: Called with the number of finished images.
    """
    phrases = {row["image"]: row for row in read_lines(files.path("phrases", chunk.name))}
    texts = sorted({text for row in phrases.values() for text, _ in row["phrases"]})  # the same batches in every run
    embeddings = dict(zip(texts, encoder.phrases(texts), strict=True)) if texts else {}
    rows: dict[str, list[Any]] = {name: [] for name in pair_schema().names}
    failed = {image: row["failed"] for image, row in phrases.items() if "failed" in row}
    segments = paired = 0
    wanted = [image for image in chunk.images if phrases[image.id]["phrases"]]
    for image, pixels, found in _read(wanted, regions, encoder.device):
        advance(1)
        if isinstance(found, str):
            failed[image.id] = found
            continue
        paired, segments = paired + 1, segments + found.count
        for values in _pairs(image, pixels, found, phrases[image.id]["phrases"], embeddings, encoder):
            for column, value in zip(rows.values(), values, strict=True):
                column.append(value)
    advance(len(chunk.images) - len(wanted))
    counts = {"images": len(chunk.images), "paired_images": paired, "segments": segments}
    notes = counts | _phrase_notes(phrases, failed)
    table = arrow().table(rows, schema=pair_schema())
    write_table(files.path("pairs", chunk.name), [table], pair_schema(), {"notes": json.dumps(notes)})


def _pairs(
    image: SourceImage, pixels: np.ndarray, found: SegmentMap, named: list[list[str]],
    embeddings: Mapping[str, np.ndarray], encoder: PairingEncoder,
) -> Iterator[tuple[Any, ...]]:  # fmt: skip
    """Yield the rows of `pair_schema` of one image, sorted by region."""
    pairing = best_segments(encoder.segments(pixels, found), np.stack([embeddings[text] for text, _ in named]))
    ids = found.map.cpu().numpy()
    box, area = boxes(ids, found.count), np.bincount(ids.ravel(), minlength=found.count)
    for number in np.lexsort((np.arange(len(named)), pairing.segment)):
        region = int(pairing.segment[number])
        yield image.id, region, *box[region], int(area[region]), *named[number], pairing.score[number]


def _phrase_notes(phrases: Mapping[str, dict[str, Any]], failed: dict[str, str]) -> dict[str, Any]:
    return {
        "captions": sum(row["captions"] for row in phrases.values()),
        "captions_without_noun": sum(row["without_noun"] for row in phrases.values()),
        "without_caption": [i for i, row in phrases.items() if not row["captions"] and i not in failed],
        "without_noun": [i for i, row in phrases.items() if row["captions"] and not row["phrases"]],
        "mentions": sum(len(row["phrases"]) for row in phrases.values()),
        "failed": failed,
    }


def chunk_notes(files: StageFiles, chunk: str) -> dict[str, Any]:
    """Return the counts and failed images of a chunk, as `pair_chunk` noted them."""
    return parse_json(notes_of(files.path("pairs", chunk)).get("notes", "{}"))


def paired_segments(table: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return the feature row of each pair of a chunk, and the first pair of each feature row."""
    image = table["image"].combine_chunks().dictionary_encode().indices.to_numpy()
    region = table["region"].to_numpy()
    new = np.ones(len(region), bool)
    new[1:] = (image[1:] != image[:-1]) | (region[1:] != region[:-1])
    return new.cumsum() - 1, np.flatnonzero(new)


def feature_chunk(
    files: StageFiles, chunk: ImageChunk, regions: Regions, encoder: VisualEncoder, sha256: str, advance: Advance
) -> None:
    """Write the visual embeddings, float16 (rows, D1), of the paired segments of a chunk, in the order of its pairs.

    Args:
        files: The files of the stages.
        chunk: The images.
        regions: Source of the segments.
        encoder: Encoder of segments.
        sha256: Hash of the encoder.
        advance: Called with the number of finished images.
    """
    table = read_table(files.path("pairs", chunk.name), ["image", "region"])
    _, first = paired_segments(table)
    images, region = np.array(table["image"].to_pylist(), object)[first], table["region"].to_numpy()[first]
    wanted: dict[str, list[int]] = {}
    for image, number in zip(images, region.tolist(), strict=True):
        wanted.setdefault(image, []).append(number)
    embeddings: list[np.ndarray] = []
    for image, pixels, found in _read([i for i in chunk.images if i.id in wanted], regions, encoder.device):
        if isinstance(found, str):
            raise InputError(f"an image that was read before cannot be read now: {found}", where=str(image.path))
        embeddings.append(encoder.segments(pixels, found)[wanted[image.id]].astype(np.float16))
        advance(1)
    advance(len(chunk.images) - len(wanted))
    width = encoder.dinov2.width
    visual = torch.from_numpy(np.concatenate(embeddings) if embeddings else np.empty((0, width), np.float16))
    write_bytes(files.path("features", chunk.name), save({"visual": visual}, {"encoder": sha256}))


def _read(
    images: list[SourceImage], regions: Regions, device: str
) -> Iterator[tuple[SourceImage, np.ndarray | None, SegmentMap | str]]:
    """Yield images with pixels and segments, read ahead by threads; the reason instead of segments if that fails."""

    def read(image: SourceImage) -> tuple[np.ndarray | None, np.ndarray | str]:
        try:
            pixels = read_image(image.path)
            return pixels, regions(pixels, image.path.stem)
        except InputError as error:
            return None, str(error)

    for image, future in read_ahead(read, images, ahead=READ_AHEAD):
        pixels, found = future.result()
        yield image, pixels, found if isinstance(found, str) else segment_map(found, device)
