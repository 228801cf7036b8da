"""A vocabulary's text side, encoded once and kept in the cache."""

from __future__ import annotations

import contextlib

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from ovbench.backbones.text import average_queries, embed_queries, text_key
from ovbench.cache import cache_root
from ovbench.config import templates
from ovbench.errors import InputError, UsageError
from ovbench.methods.base import Queries
from ovbench.results.store import write_bytes
from ovbench.weights import Loaded


def build_queries(
    vocabulary: tuple[tuple[str, ...], ...],
    prompt_set: str,
    clip: Loaded,
    background: int | None = None,
    *,
    raw: bool = False,
    background_channel: bool = False,
) -> Queries:
    """Embed every synonym of every class; the vectors come from the cache where they were computed before.

    ``raw``: the vectors are not normalised. ``background_channel``: the background class may come without a query.
    """
    if clip.text is None:
        raise UsageError(f'the backbone "{clip.spec}" has no text tower', fix="choose a CLIP model")
    flat = [query for synonyms in vocabulary for query in synonyms]
    empty = [number for number, synonyms in enumerate(vocabulary) if not synonyms]
    if background_channel and empty == [background]:
        empty = []
    if not flat or empty:
        raise UsageError("a class without a query" if flat else "no classes given", fix="give every class a name")
    index = torch.tensor([number for number, synonyms in enumerate(vocabulary) for _ in synonyms])
    return Queries(_embeddings(flat, prompt_set, clip, raw), index, background)


def _embeddings(flat: list[str], prompt_set: str, clip: Loaded, raw: bool) -> Tensor:
    prompts = templates(prompt_set)
    path = cache_root() / "text" / f"{text_key(clip.sha256, flat, prompts)}{'-raw' if raw else ''}.safetensors"
    try:
        return load(path.read_bytes())["embeddings"]
    except (OSError, SafetensorError, KeyError):
        pass  # not there, or damaged: computed below
    embeddings = (average_queries if raw else embed_queries)(clip.text, flat, prompts).cpu()
    with contextlib.suppress(InputError):  # a cache that cannot be written costs time only
        write_bytes(path, save({"embeddings": embeddings}))
    return embeddings
