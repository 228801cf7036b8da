"""Similarity of classes from the text vectors of their names, for Open mIoU and SG-IoU."""

from __future__ import annotations

import functools
import hashlib
from urllib.parse import parse_qsl

import numpy as np

from ovbench.metrics.similarity import Similarity
from ovbench.utils.errors import UsageError

PREFIX = "text:"
TEMPLATE = "a photo of a {}."
DECIMALS = 3  # two machines round cosines to the same values


@functools.lru_cache(maxsize=8)  # one table asks for the same classes once per record
def text_similarity(name: str, classes: tuple[str, ...]) -> Similarity:
    """Return the cosines of the text vectors of classes, negative ones as 0.

    Args:
        name: "text:TOWER", a CLIP as with ``--weights clip=TOWER``; with "?least=0.85", cosines from this value on
            are 1 and others 0, as SG-IoU needs.
        classes: Class names in label order.

    Raises:
        UsageError: If the tower has no text encoder, or an option is wrong.
        InputError: If its weights are missing, or two classes have the same name.
    """
    tower, least = _options(name)
    from ovbench.backbones.build import load_backbone  # torch, which tables without this similarity do not need
    from ovbench.backbones.text import embed_queries
    from ovbench.config.backbone_spec import canonical

    loaded = load_backbone("clip", canonical("clip", tower))
    if loaded.text is None:
        raise UsageError(f'the backbone "{tower}" has no text encoder', where="--similarity", fix="choose a CLIP model")
    loaded.text.require_room(classes, (TEMPLATE,))
    vectors = embed_queries(loaded.text, classes, (TEMPLATE,)).double().cpu().numpy()
    matrix = np.clip(vectors @ vectors.T, 0, 1).round(DECIMALS)
    if least is not None:
        matrix = (matrix >= least).astype(np.float64)
    np.fill_diagonal(matrix, 1)
    return Similarity(f"{name} (weights {loaded.sha256[:12]})", hashlib.sha256(matrix.tobytes()).hexdigest(), matrix)


def _options(name: str) -> tuple[str, float | None]:
    """Return the tower and the smallest cosine that counts as similar, None for the cosines themselves."""
    tower, _, options = name.removeprefix(PREFIX).partition("?")
    given = dict(parse_qsl(options, keep_blank_values=True))
    try:
        least = float(given.pop("least")) if "least" in given else None
    except ValueError:
        least = float("nan")
    if not tower or given or (least is not None and not 0 < least <= 1):
        raise UsageError(
            f'"{name}" is no similarity of texts', where="--similarity",
            fix="write text:TOWER, or text:TOWER?least=0.85 with a cosine between 0 and 1",
        )  # fmt: skip
    return tower, least
