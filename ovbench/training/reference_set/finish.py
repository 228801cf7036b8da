"""The stages of the build that need all images: filters, synonyms and the matrix.

Numbers per pair and per root, the phrases, and the visual features of one group are in memory. All other features stay
in the files of the chunks.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from ovbench.methods.reme.parquet import read_table
from ovbench.training.reference_set.ambiguous import ambiguous_roots, beyond_knee
from ovbench.training.reference_set.assign import Assignment, assign
from ovbench.training.reference_set.chunks import StageFiles
from ovbench.training.reference_set.groups import Cohesion, Groups, cohesion, group_pairs, kept
from ovbench.training.reference_set.settings import BuildSettings
from ovbench.training.reference_set.stages import chunk_notes, paired_segments
from ovbench.training.reference_set.synonyms import SynonymPairs, find_synonyms, neighbours
from ovbench.utils.errors import InputError
from ovbench.utils.files import write_bytes

Advance = Callable[[int], object]
SAME_WORD = 0.9999  # from this cosine on, two roots are equal for the text tower, so they are not synonyms
WARN_FRACTION = 0.25  # an ambiguous-label filter that drops more of the pairs is suspicious


class BasePairs(NamedTuple):
    """The base pairs of all images.

    Attributes:
        pairs: Segment and phrase of each pair, sorted, int64 (P, 2). Segments are numbered through all chunks.
        score: CLIP score of each pair, float32 (P,).
        phrases: All phrases.
        phrase_root: Root of each phrase, int64.
        roots: All root nouns.
        first: First segment of each chunk, then the number of all segments, int64 (chunks + 1,).
        notes: Counts and failed images.
    """

    pairs: np.ndarray
    score: np.ndarray
    phrases: list[str]
    phrase_root: np.ndarray
    roots: list[str]
    first: np.ndarray
    notes: dict[str, Any]


class FilterResult(NamedTuple):
    """The decisions of the filters.

    Attributes:
        stay: Base pairs that stay, bool (P,).
        groups: The base pairs of each root.
        cohesion: Similarities within the groups.
        dropped: Roots that are dropped as ambiguous.
        knee: Roots beyond the knee.
    """

    stay: np.ndarray
    groups: Groups
    cohesion: Cohesion
    dropped: np.ndarray
    knee: np.ndarray


def read_base(files: StageFiles, chunks: Sequence[str]) -> BasePairs:
    """Read the base pairs of all chunks.

    Raises:
        InputError: If no phrase was paired, with the reason.
    """
    phrase_id: dict[str, int] = {}
    root_id: dict[str, int] = {}
    phrase_root: list[int] = []
    pairs, scores, first, notes = [], [], [0], []
    for chunk in chunks:
        table = read_table(files.path("pairs", chunk), ["image", "region", "phrase", "root", "score"])
        row, starts = paired_segments(table)
        phrases = table["phrase"].to_pylist()
        for phrase, root in zip(phrases, table["root"].to_pylist(), strict=True):
            if phrase not in phrase_id:
                phrase_id[phrase] = len(phrase_id)
                phrase_root.append(root_id.setdefault(root, len(root_id)))
        numbers = np.array([phrase_id[phrase] for phrase in phrases], np.int64)
        pairs.append(np.stack([row + first[-1], numbers], 1))
        scores.append(table["score"].to_numpy())
        first.append(first[-1] + len(starts))
        notes.append(chunk_notes(files, chunk))
    total = _sum_notes(notes)
    if first[-1] == 0:
        raise InputError("no phrase was paired with a segment: " + _why_empty(total), fix="check the captions")
    joined = np.concatenate(pairs)
    order = np.lexsort((joined[:, 1], joined[:, 0]))
    return BasePairs(
        joined[order], np.concatenate(scores)[order], list(phrase_id), np.array(phrase_root), list(root_id),
        np.array(first), total,
    )  # fmt: skip


def _sum_notes(notes: list[dict[str, Any]]) -> dict[str, Any]:
    total: dict[str, Any] = {}
    for note in notes:
        for key, value in note.items():
            total[key] = total[key] | value if key in total and isinstance(value, dict) else (
                total[key] + value if key in total else value
            )  # fmt: skip
    return total


def _why_empty(notes: dict[str, Any]) -> str:
    return (
        f"of {notes.get('images', 0)} images {len(notes.get('without_caption', ()))} have no caption, "
        f"{len(notes.get('without_noun', ()))} captions with no noun, {len(notes.get('failed', ()))} cannot be read"
    )


class VisualFeatures:
    """Visual features of all chunks, read through memory maps.

    Raises:
        InputError: If a file is damaged or has another number of rows than its chunk.
    """

    def __init__(self, files: StageFiles, chunks: Sequence[str], first: np.ndarray):
        self.first = first
        self._maps = [mapped(files.path("features", chunk)) for chunk in chunks]
        for chunk, rows, count in zip(chunks, self._maps, np.diff(first), strict=True):
            if len(rows) != count:
                raise InputError(
                    f"{len(rows)} features for {count} segments", where=str(files.path("features", chunk)),
                    fix="delete this file and repeat the build",
                )  # fmt: skip

    @property
    def width(self) -> int:
        """Width D1 of a feature."""
        return self._maps[0].shape[1]

    def __call__(self, segments: np.ndarray) -> np.ndarray:
        """Return the features of segments, int64 (N,), in any order, as float16 (N, D1)."""
        rows = np.empty((len(segments), self.width), np.float16)
        chunk = np.searchsorted(self.first, segments, side="right") - 1
        for number in np.unique(chunk):
            mine = chunk == number
            rows[mine] = self._maps[number][segments[mine] - self.first[number]]
        return rows


def mapped(path: Path, name: str = "visual") -> np.ndarray:
    """Map a tensor, float16 (N, D), of a safetensors file into memory.

    Raises:
        InputError: If the file is missing, damaged or truncated.
    """
    try:
        with safe_open(path, "np") as file:  # checks the header against the size of the file
            shape = file.get_slice(name).get_shape()
            if file.get_slice(name).get_dtype() != "F16" or len(shape) != 2 or list(file.keys()) != [name]:
                raise ValueError("the file is of another type")
        rows = shape[0] * shape[1]
        start = path.stat().st_size - 2 * rows  # the only tensor ends the file
        return np.memmap(path, np.float16, "r", start, tuple(shape)) if rows else np.empty(shape, np.float16)
    except (OSError, ValueError, SafetensorError) as error:
        raise InputError(
            f"cannot read the features: {error}", where=str(path), fix="delete this file and repeat the build"
        ) from None


def stored_cohesion(path: Path, base: BasePairs, groups: Groups, rows: VisualFeatures, advance: Advance) -> Cohesion:
    """Return the cohesion of the base pairs, from ``path`` if an earlier run stored it there.

    Args:
        path: File of the cohesion.
        base: The base pairs.
        groups: The pairs of each root.
        rows: Reads the visual features of segments.
        advance: Called with the number of finished pairs.
    """
    try:
        found = load(path.read_bytes())
        if len(found["score"]) == len(base.pairs) and len(found["w"]) == len(base.roots):
            advance(len(base.pairs))
            return Cohesion(found["score"], found["w"])
    except (OSError, SafetensorError, KeyError):
        pass  # not there, or damaged: computed below
    made = cohesion(rows, base.pairs[:, 0], groups, advance)
    write_bytes(path, save(made._asdict()))
    return made


def filter_pairs(
    base: BasePairs, cohesive: Cohesion, build: BuildSettings, listed: frozenset[str] = frozenset()
) -> FilterResult:
    """Apply the ambiguous-label filter and the group filter, in the order of the settings.

    Args:
        base: The base pairs.
        cohesive: Cohesion of the base pairs.
        build: The settings.
        listed: Roots to drop with the filter "list".

    Raises:
        InputError: If no pair is left.
    """
    root = base.phrase_root[base.pairs[:, 1]]
    groups = group_pairs(root, len(base.roots))
    dropped = ambiguous_roots(
        build.ambiguous, base.roots, groups.sizes, cohesive.w, listed, build.gate_quantile, build.gate_min_size
    )
    clear = ~np.isin(root, dropped)
    chosen = np.flatnonzero(clear) if build.ambiguous_first else np.arange(len(root))
    stay = np.zeros(len(root), bool)
    stay[chosen] = kept(
        build.filter, group_pairs(root[chosen], len(base.roots)), cohesive.score[chosen], base.score[chosen],
        _present(cohesive.w, root[chosen]), build.drop_percent, build.rate, build.rounding,
    )  # fmt: skip
    stay &= clear
    if not stay.any():
        raise InputError(f"the filters dropped all {len(stay)} pairs", fix="weaken ambiguous or drop_percent")
    return FilterResult(stay, groups, cohesive, dropped, beyond_knee(groups.sizes))


def _present(w: np.ndarray, roots: np.ndarray) -> np.ndarray:
    """Return w of the groups that still have members, NaN elsewhere."""
    here = np.zeros(len(w), bool)
    here[roots] = True
    return np.where(here, w, np.nan)


def enhance(
    base: BasePairs, filtered: FilterResult, build: BuildSettings, embed: Callable[[list[str]], np.ndarray]
) -> tuple[SynonymPairs, Assignment]:
    """Find synonyms among the roots of the remaining pairs, and assign rows and columns.

    Args:
        base: The base pairs.
        filtered: The pairs that stay.
        build: The settings.
        embed: Returns the text embeddings of roots, float (N, D).
    """
    pairs = base.pairs[filtered.stay]
    owning = np.unique(base.phrase_root[pairs[:, 1]])
    similar = SynonymPairs(np.empty((0, 2), np.int64), np.empty(0, np.float32))
    if build.synonyms != "off":
        text = embed([base.roots[root] for root in owning])
        found = find_synonyms(
            build.synonyms, text, np.arange(len(owning)),
            pairs=build.synonym_pairs, per_label=build.synonyms_per_label,
            least=build.least_similarity, below=SAME_WORD,
        )  # fmt: skip
        similar = SynonymPairs(owning[found.pairs], found.similarity)
    return similar, assign(pairs, base.phrases, base.phrase_root, base.roots, neighbours(similar.pairs))


def ambiguous_csv(base: BasePairs, filtered: FilterResult) -> bytes:
    """Return a CSV of all roots, largest group first, with spread, knee and decision."""
    sizes, text = filtered.groups.sizes, io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["root", "size", "w", "rank", "beyond_knee", "dropped"])
    knee, dropped = set(filtered.knee.tolist()), set(filtered.dropped.tolist())
    for rank, root in enumerate(np.argsort(-sizes, kind="stable").tolist()):
        spread = f"{filtered.cohesion.w[root]:.6f}"
        table.writerow([base.roots[root], sizes[root], spread, rank, int(root in knee), int(root in dropped)])
    return text.getvalue().encode()


def synonyms_csv(base: BasePairs, similar: SynonymPairs) -> bytes:
    """Return a CSV of the synonyms with their cosine."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["root", "synonym", "cosine"])
    for (a, b), cosine in zip(similar.pairs.tolist(), similar.similarity.tolist(), strict=True):
        table.writerow([base.roots[a], base.roots[b], f"{cosine:.6f}"])
    return text.getvalue().encode()


def counts(base: BasePairs, filtered: FilterResult, similar: SynonymPairs, made: Assignment) -> dict[str, int]:
    """Return the numbers of images, captions, phrases, segments and pairs after every stage."""
    notes, pairs = base.notes, base.pairs
    clear = ~np.isin(base.phrase_root[pairs[:, 1]], filtered.dropped)
    return {
        "images": notes["images"],
        "images_without_caption": len(notes["without_caption"]),
        "images_without_noun": len(notes["without_noun"]),
        "images_failed": len(notes["failed"]),
        "images_paired": notes["paired_images"],
        "captions": notes["captions"],
        "captions_without_noun": notes["captions_without_noun"],
        "phrase_mentions": notes["mentions"],
        "segments": notes["segments"],
        "segments_paired": int(base.first[-1]),
        "base_pairs": len(pairs),
        "base_phrases": len(base.phrases),
        "base_roots": len(base.roots),
        "roots_dropped": len(filtered.dropped),
        "pairs_after_ambiguous": int(clear.sum()),
        "pairs_after_filter": int(filtered.stay.sum()),
        "synonym_pairs": len(similar.pairs),
        "final_segments": len(made.segments),
        "final_labels": len(made.labels),
        "final_labels_from_synonyms": int(made.copied.sum()),
        "final_pairs": len(made.pairs),
    }
