"""The resources of a method as filters: CLIP weights, auxiliary towers, masks, supervision, refinement.

For published rows they are read from the words of the table (variant, postprocess, group), for records from the cell.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple

from ovbench.config.backbone_spec import MINI
from ovbench.config.published_weights import published
from ovbench.results.published import PublishedFigure

NONE, NOT_STATED = "none", "not stated"
# the first pattern that a variant contains gives the family of its image-text weights
FAMILIES = (
    ("SAM3", r"SAM ?3"), ("MetaCLIP", r"Meta-?CLIP"), ("OpenCLIP", r"OpenCLIP|LAION"), ("DFN", r"\bDFN\b"),
    ("EVA02-CLIP", r"EVA"), ("SigLIP", r"SigLIP"), ("ALIGN", r"\bALIGN\b"), ("BLIP", r"\bBLIP\b"),
    ("CLIP (OpenAI)", r"CLIP"), ("C-RADIO", r"RADIO"), ("Stable Diffusion", r"Stable Diffusion"),
)  # fmt: skip
SIZES = (
    ("H or larger", r"ViT-(?:H|G|bigG)|\bg/14"), ("L", r"ViT-L|\bL/1[46]|-L\b"), ("B", r"ViT-B|\bB/1[46]"),
    ("S", r"ViT-S"),
)  # fmt: skip
TOWERS = (
    ("C-RADIO", r"RADIO"),
    ("DINO", r"\bDINO\b(?!v)"), ("DINOv2", r"DINOv2"), ("DINOv3", r"DINOv3"), ("SAM", r"\bSAM\b"), ("SAM2", r"SAM ?2"),
    ("Stable Diffusion", r"Stable Diffusion"), ("Grounding DINO", r"Grounding DINO"), ("LLaVA", r"LLaVA"),
    ("language model", r"\bLLM\b|GPT"), ("VFM (mixed)", r"\bVFM\b"),
)  # fmt: skip
MASKS = (("SAM", r"SAM"), ("entity or panoptic masks", r"EntitySeg|EoMT|Mask2Former|MAFT|FC-CLIP"))
POSTPROCESS_MASKS = {
    "sam-masks": "masks on the final map", "superpixels": "superpixels", "panoptic-cut": "panoptic cut",
    "mask-refinement": "masks on the final map",
}  # fmt: skip
REGIONS = {
    "felzenszwalb": "superpixels", "slic": "superpixels", "sam": "SAM", "sam2": "SAM", "sam2-32": "SAM",
    "mask2former": "entity or panoptic masks", "eomt": "entity or panoptic masks",
    "precomputed": "masks on the final map", "felzenszwalb-resized": "superpixels", "sam-8": "SAM",
}  # fmt: skip


class Resources(NamedTuple):
    """What a method uses; every field is a list of values, of which a filter matches one."""

    weights: tuple[str, ...]
    size: tuple[str, ...]
    towers: tuple[str, ...]
    masks: tuple[str, ...]
    supervision: tuple[str, ...]
    refinement: tuple[str, ...]


def resources_of_figure(row: PublishedFigure) -> Resources:
    """Read the resources of a published row from its words.

    Example:
        >>> row = PublishedFigure("Trident", "CLIP ViT-B/16 + DINO + SAM", "training-free", "voc21", "mIoU", "67.1",
        ...                       "sam-masks", "", "", "")
        >>> resources_of_figure(row)[:4]
        (('CLIP (OpenAI)',), ('B',), ('DINO', 'SAM'), ('SAM',))
    """
    words = re.sub(r"\[(resize|CLS)[^\]]*\]", "", row.variant)
    first = words.split(" + ")[0]
    rest = words.removeprefix(first)
    family = _first(FAMILIES, words)
    towers = [name for name, pattern in TOWERS if re.search(pattern, words) and name not in family]
    masks = [name for name, pattern in MASKS if re.search(pattern, rest if name == "SAM" else words)]
    if not masks and row.postprocess in POSTPROCESS_MASKS:
        masks = [POSTPROCESS_MASKS[row.postprocess]]
    refinement = row.postprocess if row.postprocess not in POSTPROCESS_MASKS else NONE
    return Resources(
        family, _first(SIZES, first), tuple(towers) or (NONE,), tuple(masks) or (NONE,), (row.group,), (refinement,)
    )


def _first(patterns: tuple[tuple[str, str], ...], words: str) -> tuple[str, ...]:
    return next(((name,) for name, pattern in patterns if re.search(pattern, words)), (NOT_STATED,))


def resources_of_cell(cell: Mapping[str, Any], supervision: str) -> Resources:
    """Read the resources of a measured run from its cell; ``supervision`` is known from the published rows."""
    given = str(cell["backbones"].get("clip") or "")
    spec = published("clip").get(given, {}).get("spec", given)
    family, size = _first(FAMILIES, _family_words(spec)), _first(SIZES, spec)
    if given == MINI:
        family, size = ("networks of mini",), ("S",)
    towers = tuple({"dino": "DINO", "dinov2": "DINOv2"}.get(kind, kind) for kind in cell["backbones"] if kind != "clip")
    source = cell["regions"].get("source", "")
    masks = (REGIONS.get(source, source or NONE),)
    return Resources(family, size, towers or (NONE,), masks, (supervision,), (cell["protocol"].get("refine") or NONE,))


def _family_words(spec: str) -> str:
    """Return the name in tables of the weights of a CLIP spec, such as "ViT-B-16-quickgelu/metaclip_fullcc"."""
    names = {"metaclip": "MetaCLIP", "laion": "LAION", "dfn": "DFN", "openai": "CLIP"}
    return next((name for key, name in names.items() if key in spec.lower()), "")
