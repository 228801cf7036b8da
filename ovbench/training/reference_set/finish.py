"""From the base pairs of all parts to a reference set: the stages that look at all images together.

In memory are numbers per pair and per root, the phrases, and the visual features of one group at a time; the features
themselves stay in the files of the parts.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load, save

from ovbench.methods.reme.tables import read_table
from ovbench.training.reference_set.ambiguous import ambiguous_roots, beyond_knee
from ovbench.training.reference_set.assign import Assigned, assign
from ovbench.training.reference_set.groups import Cohesion, Groups, cohesion, group_pairs, kept
from ovbench.training.reference_set.parts import Work
from ovbench.training.reference_set.settings import BuildSettings
from ovbench.training.reference_set.stages import paired_segments, part_notes
from ovbench.training.reference_set.synonyms import Similar, find_synonyms, neighbours
from ovbench.utils.errors import InputError
from ovbench.utils.files import write_bytes

Advance = Callable[[int], object]
SAME_WORD = 0.9999  # from this cosine on, the text tower does not tell two roots apart: no evidence, and no new label
WARN_SHARE = 0.25  # of the pairs, beyond which the ambiguous-label filter is suspicious


class Base(NamedTuple):
    """Every base pair: ``pairs`` i64[p, 2] of (segment, phrase), sorted, and their CLIP ``score`` f32[p]. Segments are
    numbered through all parts, part after part; ``first`` i64[parts + 1] is the first of each."""

    pairs: np.ndarray
    score: np.ndarray
    phrases: list[str]
    phrase_root: np.ndarray
    roots: list[str]
    first: np.ndarray
    notes: dict[str, Any]


class Kept(NamedTuple):
    """What the filters decided: ``stay`` bool[p] over the base pairs, their groups and cohesion, the roots ``dropped``
    as ambiguous and those that the plain knee would drop."""

    stay: np.ndarray
    groups: Groups
    together: Cohesion
    dropped: np.ndarray
    knee: np.ndarray


def read_base(work: Work, parts: Sequence[str]) -> Base:
    """The pairs of all parts, one part at a time. InputError where there is none at all, saying why."""
    phrase_id: dict[str, int] = {}
    root_id: dict[str, int] = {}
    phrase_root: list[int] = []
    pairs, scores, first, notes = [], [], [0], []
    for part in parts:
        table = read_table(work.file("pairs", part), ["image", "region", "phrase", "root", "score"])
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
        notes.append(part_notes(work, part))
    total = _sum_notes(notes)
    if first[-1] == 0:
        raise InputError("not one phrase was paired with a segment: " + _why_empty(total), fix="check the captions")
    joined = np.concatenate(pairs)
    order = np.lexsort((joined[:, 1], joined[:, 0]))
    return Base(
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


class VisualRows:
    """Rows of the parts' features through memory maps."""

    def __init__(self, work: Work, parts: Sequence[str], first: np.ndarray):
        self.first = first
        self._maps = [mapped(work.file("features", part)) for part in parts]
        for part, rows, count in zip(parts, self._maps, np.diff(first), strict=True):
            if len(rows) != count:
                raise InputError(
                    f"{len(rows)} features for {count} segments", where=str(work.file("features", part)),
                    fix="delete this file and build again",
                )  # fmt: skip

    @property
    def width(self) -> int:
        return self._maps[0].shape[1]

    def __call__(self, segments: np.ndarray) -> np.ndarray:
        """f16[n, d1] of segments, in any order."""
        rows = np.empty((len(segments), self.width), np.float16)
        part = np.searchsorted(self.first, segments, side="right") - 1
        for number in np.unique(part):
            mine = part == number
            rows[mine] = self._maps[number][segments[mine] - self.first[number]]
        return rows


def mapped(path: Path, name: str = "visual") -> np.ndarray:
    """A tensor f16[n, d] of a safetensors file as a memory map; InputError where the file is not whole."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entry = json.loads(file.read(length))[name]
        (begin, end), shape = entry["data_offsets"], tuple(entry["shape"])
        if entry["dtype"] != "F16" or path.stat().st_size < 8 + length + end:
            raise ValueError("it is cut off or of another type")
        if not shape[0]:
            return np.empty(shape, np.float16)
        return np.memmap(path, np.float16, "r", 8 + length + begin, shape)
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"cannot read the features: {error}", where=str(path), fix="delete this file and build again"
        ) from None


def stored_cohesion(path: Path, base: Base, groups: Groups, rows: VisualRows, advance: Advance) -> Cohesion:
    """`cohesion` of the base pairs, from an earlier run where there was one."""
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


def filter_pairs(base: Base, together: Cohesion, build: BuildSettings, listed: frozenset[str] = frozenset()) -> Kept:
    """Both filters, in their order. InputError where nothing is left."""
    root = base.phrase_root[base.pairs[:, 1]]
    groups = group_pairs(root, len(base.roots))
    dropped = ambiguous_roots(
        build.ambiguous, base.roots, groups.sizes, together.w, listed, build.gate_quantile, build.gate_min_size
    )
    clear = ~np.isin(root, dropped)
    chosen = np.flatnonzero(clear) if build.ambiguous_first else np.arange(len(root))
    stay = np.zeros(len(root), bool)
    stay[chosen] = kept(
        build.filter, group_pairs(root[chosen], len(base.roots)), together.score[chosen], base.score[chosen],
        _present(together.w, root[chosen]), build.drop_percent, build.rate, build.rounding,
    )  # fmt: skip
    stay &= clear
    if not stay.any():
        raise InputError(f"no pair of {len(stay)} is left after the filters", fix="weaken ambiguous or drop_percent")
    return Kept(stay, groups, together, dropped, beyond_knee(groups.sizes))


def _present(w: np.ndarray, roots: np.ndarray) -> np.ndarray:
    """w of the groups that still have members, NaN elsewhere."""
    here = np.zeros(len(w), bool)
    here[roots] = True
    return np.where(here, w, np.nan)


def enhance(
    base: Base, filtered: Kept, build: BuildSettings, embed: Callable[[list[str]], np.ndarray]
) -> tuple[Similar, Assigned]:
    """Synonyms among the roots that still own a pair, and the rows and columns that result."""
    pairs = base.pairs[filtered.stay]
    owning = np.unique(base.phrase_root[pairs[:, 1]])
    similar = Similar(np.empty((0, 2), np.int64), np.empty(0, np.float32))
    if build.synonyms != "off":
        text = embed([base.roots[root] for root in owning])
        found = find_synonyms(
            build.synonyms, text, np.arange(len(owning)),
            pairs=build.synonym_pairs, per_label=build.synonyms_per_label,
            least=build.least_similarity, below=SAME_WORD,
        )  # fmt: skip
        similar = Similar(owning[found.pairs], found.similarity)
    return similar, assign(pairs, base.phrases, base.phrase_root, base.roots, neighbours(similar.pairs))


def ambiguous_csv(base: Base, filtered: Kept) -> bytes:
    """Every root by the size of its group: its spread, and which rule would drop it or did."""
    sizes, text = filtered.groups.sizes, io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["root", "size", "w", "rank", "beyond_knee", "dropped"])
    knee, dropped = set(filtered.knee.tolist()), set(filtered.dropped.tolist())
    for rank, root in enumerate(np.argsort(-sizes, kind="stable").tolist()):
        spread = f"{filtered.together.w[root]:.6f}"
        table.writerow([base.roots[root], sizes[root], spread, rank, int(root in knee), int(root in dropped)])
    return text.getvalue().encode()


def synonyms_csv(base: Base, similar: Similar) -> bytes:
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["root", "synonym", "cosine"])
    for (a, b), cosine in zip(similar.pairs.tolist(), similar.similarity.tolist(), strict=True):
        table.writerow([base.roots[a], base.roots[b], f"{cosine:.6f}"])
    return text.getvalue().encode()


def counts(base: Base, filtered: Kept, similar: Similar, made: Assigned) -> dict[str, int]:
    """How many of everything there are at every stage."""
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
