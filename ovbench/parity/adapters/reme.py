"""Parity of ReME: retrieval, segments and templates, and the building of a reference set."""

from __future__ import annotations

from functools import partial

import numpy as np
import torch
from torch import Tensor

from ovbench.backbones.text import ensemble
from ovbench.methods.reme.method import (
    best_query,
    class_affinity,
    retrieve,
    weighted,
)
from ovbench.methods.reme.pooling import mask_weights, pooled
from ovbench.methods.reme.reference_bank import ReferenceBank
from ovbench.methods.reme.search import nearest
from ovbench.parity.adapters.common import Values
from ovbench.parity.case import Case
from ovbench.regions.cover import nearest_covered, uncovered_components
from ovbench.training.reference_set.ambiguous import ambiguous_roots
from ovbench.training.reference_set.assign import assign
from ovbench.training.reference_set.groups import Cohesion, Groups, adaptive_rate, cohesion, group_pairs, kept
from ovbench.training.reference_set.pairing import best_segments
from ovbench.training.reference_set.synonyms import find_synonyms, nearest_roots, neighbours

BLOCK = 500  # smaller than the reference sets of the cases, so that several blocks are merged


def reme(case: Case) -> Values:
    """Run a case of ReME."""
    if "regions" in case.inputs:
        return _partition(case)
    return _masks(case) if "masks_packed" in case.inputs else _building(case)


def _bank(case: Case) -> ReferenceBank:
    i = case.inputs
    arrays = (torch.from_numpy(i[name]) for name in ("S_ref", "L_ref", "O_row", "O_col"))
    segments, labels, rows, columns = arrays
    settings = {key: case.params[key] for key in ("o_rownorm",) if key in case.params}
    return ReferenceBank.from_pairs(segments.float(), labels.float(), rows, columns, settings)


def _retrieved(case: Case, bank: ReferenceBank, segments: Tensor, values: Tensor, topk: int | None) -> Tensor:
    scale = case.params["visual_scale"]
    if topk:
        return weighted(nearest(segments, bank, topk, BLOCK), values, scale)
    return retrieve(segments, bank, values, scale, BLOCK)


def _partition(case: Case) -> Values:
    p, bank = case.params, _bank(case)
    segments, queries = (torch.from_numpy(case.inputs[name]).float() for name in ("S_test", "L_test"))
    ids = case.inputs["region_ids"]
    order = np.argsort(ids)
    rows = torch.from_numpy(order[np.searchsorted(ids[order], case.inputs["regions"])])  # int64 (H, W)
    a2 = class_affinity(bank.labels, queries, p["text_scale"])
    index, topk = torch.tensor(case.class_index()), p.get("visual_topk")

    def scores(number: int | None) -> Tensor:
        return best_query(_retrieved(case, bank, segments, bank.spread(a2), number), index, case.class_index()[-1] + 1)

    values: Values = {
        "A1": lambda w: _retrieved(case, bank, segments, bank.matrix(), topk),
        "A2": lambda w: a2,
        "P_seg": lambda w: scores(topk),
        "P_test_sub": lambda w: scores(topk)[rows],
        "labels": lambda w: scores(topk)[rows].argmax(-1),
    }
    if "topk_stage_k" in p:
        values["P_seg_topk"] = lambda w: scores(p["topk_stage_k"])
        values["labels_topk"] = lambda w: scores(p["topk_stage_k"])[rows].argmax(-1)
    return values


def _masks(case: Case) -> Values:
    p, bank = case.params, _bank(case)
    h, w = p["shape"]["h"], p["shape"]["w"]
    masks = np.unpackbits(case.inputs["masks_packed"], axis=1)[:, : h * w].reshape(-1, h, w).astype(bool)
    added = uncovered_components(masks.any(0), p["uncovered_min_area"])
    masks = np.concatenate([masks, [added == number for number in range(1, added.max() + 1)]]).astype(bool)
    features = torch.from_numpy(case.inputs["features"]).float()
    grid = tuple(features.shape[:2])
    segments = pooled(features.flatten(0, 1), mask_weights(torch.from_numpy(masks), grid, p.get("zeta", "area")))
    queries = ensemble(torch.from_numpy(case.inputs["text_templates"]).float().transpose(0, 1))
    a2 = class_affinity(bank.labels, queries, p["text_scale"])
    p_query = _retrieved(case, bank, segments, bank.spread(a2), p.get("visual_topk"))
    p_seg = best_query(p_query, torch.tensor(case.class_index()), case.class_index()[-1] + 1)
    p_test = torch.einsum("kc,khw->hwc", p_seg, torch.from_numpy(masks).float())  # equation 3
    rows, columns = nearest_covered(masks.any(0))
    return {
        "S_test": lambda w: segments,
        "L_test": lambda w: queries,
        "A1": lambda w: _retrieved(case, bank, segments, bank.matrix(), p.get("visual_topk")),
        "A2": lambda w: a2,
        "P_query": lambda w: p_query,
        "P_seg": lambda w: p_seg,
        "P_test_sub": lambda w: p_test,
        "labels": lambda w: p_test.argmax(-1)[rows, columns],
    }


def _building(case: Case) -> Values:
    p, i = case.params, case.inputs
    base, phrase_root = _base_pairs(case), i["phrase_root"]
    base_groups, base_cohesion = _grouped(case, base)
    ambiguous = partial(_ambiguous, case, base_groups, base_cohesion)
    clear = ~np.isin(phrase_root[base[:, 1]], ambiguous(p["ambiguous_mode"]))
    first = p.get("ambiguous_before_filter", True)
    pairs = base[clear] if first else base
    groups, together = _grouped(case, pairs)
    clip_score = _clip_scores(case, pairs)

    def filtered(mode: str) -> np.ndarray:
        stay = kept(mode, groups, together.score, clip_score, together.w, p["delta_percent"])
        return pairs[stay & (True if first else clear)]

    final = filtered(p["filter_mode"])
    owning = np.unique(phrase_root[final[:, 1]])
    settings = {"pairs": p["k_sim"], "per_label": p.get("k_per_label", 0)}
    similar = find_synonyms("global", i["root_text"], owning, **settings)
    used = find_synonyms(p["synonym_scope"], i["root_text"], owning, **settings)
    made = assign(final, i["phrases"].tolist(), phrase_root, i["roots"].tolist(), neighbours(used.pairs))
    return {
        "base_pairs": lambda w: base,
        "group_size": lambda w: base_groups.sizes,
        "ambiguous_knee": lambda w: ambiguous("knee"),
        "ambiguous_gated": lambda w: ambiguous("knee_gated"),
        "pairs_after_ambiguous": lambda w: base[clear],
        "centre_similarity": lambda w: together.score,
        "group_w": lambda w: together.w,
        "adaptive_rate": lambda w: adaptive_rate(together.w),
        "kept_fixed": lambda w: filtered("fixed"),
        "kept_adaptive": lambda w: filtered("adaptive"),
        "synonym_pairs": lambda w: similar.pairs,
        "synonym_similarity": lambda w: similar.similarity,
        "synonyms_per_label": lambda w: nearest_roots(i["root_text"], owning, p["k_per_label"]).pairs,
        "final_segments": lambda w: made.segments,
        "final_labels": lambda w: np.array(made.labels),
        "final_O": lambda w: made.pairs,
    }


def _grouped(case: Case, pairs: np.ndarray) -> tuple[Groups, Cohesion]:
    """Return the pairs of each root and their cohesion."""
    groups = group_pairs(case.inputs["phrase_root"][pairs[:, 1]], len(case.inputs["roots"]))
    return groups, cohesion(lambda rows: case.inputs["seg_visual"][rows], pairs[:, 0], groups)


def _ambiguous(case: Case, groups: Groups, together: Cohesion, mode: str) -> np.ndarray:
    """Return the roots that an ambiguous-label filter drops."""
    p, listed = case.params, set(case.params.get("ambiguous_list", ()))
    roots = case.inputs["roots"].tolist()
    return ambiguous_roots(mode, roots, groups.sizes, together.w, listed, p["gate_quantile"], p["gate_min_size"])


def _base_pairs(case: Case) -> np.ndarray:
    """Return the pairs of a phrase and its best segment in the image, int64 (P, 2), sorted and unique."""
    i, pairs = case.inputs, []
    for image in np.unique(i["label_image"]):
        segments, phrases = np.flatnonzero(i["seg_image"] == image), i["label_phrase"][i["label_image"] == image]
        best = best_segments(i["seg_clip"][segments], i["phrase_clip"][phrases]).segment
        pairs.append(np.stack([segments[best], phrases], 1))
    return np.unique(np.concatenate(pairs), axis=0)


def _clip_scores(case: Case, pairs: np.ndarray) -> np.ndarray:
    """Return the cosine of the segment and the phrase of each pair, float (P,)."""
    i = case.inputs
    return np.array([best_segments(i["seg_clip"][[s]], i["phrase_clip"][[p]]).score[0] for s, p in pairs])
