"""Parity of CorrCLIPv2."""

from __future__ import annotations

import torch
from torch import Tensor

from ovbench.config.load import Protocol
from ovbench.methods.base import Backbones, Queries
from ovbench.methods.corrclipv2 import CorrCLIPv2, pixel_features
from ovbench.methods.support.bank import RegionBank
from ovbench.methods.support.index_file import Vectors
from ovbench.methods.tower_params import CorrCLIPParams, CorrCLIPv2Params
from ovbench.parity.adapters.common import Values, background, label
from ovbench.parity.adapters.corrclip import corrclip_values
from ovbench.parity.case import Case
from ovbench.parity.recorder import Recorder
from ovbench.parity.towers import backbones
from ovbench.training.region_bank.rows import RowMaker
from ovbench.utils.errors import InputError

# what the method always does, by the official names
FIXED = {"mask_merging": False, "correlation_grid": "2 x CLIP grid", "pad_vfm": "replicate", "background_id": 0}


def corrclipv2(case: Case) -> Values:
    """Run a case of CorrCLIPv2, or of the rows of a bank."""
    if "pictures" in case.params:
        return _bank_rows(case)
    p = case.params
    other = [name for name, value in FIXED.items() if p.get(name, value) != value]
    if other:
        raise InputError(f"no parity check for {other[0]} = {p[other[0]]} in this version", where=str(case.folder))
    params = CorrCLIPv2Params(
        tau=1 / p["TAU"], alpha=p["ALPHA"], beta=p["BETA"], spatial_depth=p.get("NUM_SPATIAL"),
        neighbours=p.get("num_support", 20), fusion=p.get("alpha", 0.5),
    )  # fmt: skip
    text = torch.from_numpy(case.inputs["text"]).float()
    queries = Queries(text, torch.tensor(case.class_index()), background(case))
    if not p.get("use_support_embedding"):
        notes = label(case, CorrCLIPv2(backbones(case), params), queries)
        return _values(notes)
    method = CorrCLIPv2(Backbones(**backbones(case), support=_bank(case)), params)
    if p.get("use_aux_model"):  # only its text is used
        queries = queries._replace(presence=torch.from_numpy(case.inputs["text_aux"]).float())
        method.auxiliary = torch.nn.Identity()
    notes = label(case, method, queries)
    return _values(notes) | _bank_values(notes, queries)


def _bank_rows(case: Case) -> Values:
    p = case.params
    params = CorrCLIPParams(
        tau=1 / p["TAU"], alpha=p["ALPHA"], beta=p["BETA"], spatial_depth=p["NUM_SPATIAL"],
        mask_merging=p["mask_merging"],
    )  # fmt: skip
    protocol = Protocol(
        short_side=p["slide_short"], crop=p["slide_crop"], stride=p["slide_stride"], pad=p["pad_multiple"],
        mean=tuple(p["mean"]), std=tuple(p["std"]),
    )  # fmt: skip
    maker = RowMaker(backbones(case), protocol, params)
    found = [maker.rows(case.inputs[f"image_{n}"], case.inputs[f"masks_{n}"]) for n in range(p["pictures"])]
    counts = torch.tensor([len(rows.ids) for rows in found])
    return {
        "first_ids": lambda w: counts.cumsum(0) - counts,
        "region_counts": lambda w: counts,
        "vfm_rows": lambda w: torch.cat([rows.keys for rows in found]),
        "clip_rows": lambda w: torch.cat([rows.values for rows in found]),
    }


def _bank(case: Case) -> RegionBank:
    """Return the bank from the arrays of a case; the distances of a flat index are inner products."""
    arrays = {name: torch.from_numpy(array) for name, array in case.inputs.items() if name.startswith("bank_")}
    index = case.params["index"]
    product = "FlatIP" in index["type"] or index.get("metric", "").lower() in ("ip", "inner product")
    vectors = Vectors(arrays["bank_index_ids"], product, flat=arrays["bank_index_vectors"])
    return RegionBank(vectors, arrays["bank_main"], arrays.get("bank_aux"))


def _bank_values(notes: Recorder, queries: Queries) -> Values:
    def scores(name: str) -> Tensor:
        text = queries.embeddings if name == "main" else queries.presence
        return notes.once(f"support_{name}") @ text.T

    def support_map(w: int | None) -> Tensor:
        found = scores("main")
        if notes.once("support_auxiliary") is not None:
            found = (found + scores("auxiliary")) / 2
        rank = torch.searchsorted(notes.once("region_ids"), notes.once("resized_regions"))
        return found.T[:, rank]

    return {
        "region_ids": lambda w: notes.once("region_ids"),
        "region_queries": lambda w: notes.once("region_queries"),
        "neighbour_distances": lambda w: notes.once("neighbours").distance,
        "neighbour_ids": lambda w: notes.once("neighbours").row.sort(1).values,
        "support_features_main": lambda w: notes.once("support_main"),
        "support_features_aux": lambda w: notes.once("support_auxiliary"),
        "support_scores_main": lambda w: scores("main"),
        "support_scores_aux": lambda w: scores("auxiliary"),
        "support_map": support_map,
    }


def _values(notes: Recorder) -> Values:
    def vfm_resized(w: int | None) -> Tensor:
        size = notes.once("resized_image").shape[:2]
        return pixel_features(notes.once("vfm_features"), size, *(torch.arange(side) for side in size))

    boxes, pad = notes.once("windows"), notes.once("pad")
    return corrclip_values(notes) | {
        "pads": lambda w: [pad] * len(boxes),
        "vfm_features": lambda w: notes.once("vfm_features"),
        "vfm_resized": vfm_resized,
        "region_map_resized": lambda w: notes.once("resized_regions"),
        "corr_feats": lambda w: notes.window("dino_feats", w),
        "masks_grid": lambda w: notes.window("masks_merged", w),
        "windows_averaged": lambda w: notes.once("merged_scores"),
    }
