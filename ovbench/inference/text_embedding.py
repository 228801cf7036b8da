"""Embed the queries of a vocabulary, with a cache.

The text tower computes in fp32 on the device of the run, whatever ``--precision``. Vectors of a GPU may differ from
those of a CPU in the last bits, so their cache key contains the device's name, and each is used only on such a device.
Of several processes with the same cache (ranks, shards, workers of a sweep), one encodes and the others wait. Machines
that share a cache at a URL all use the vectors that were there first.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.build import Loaded
from ovbench.backbones.checkpoint import pack_tensor, unpack_tensor
from ovbench.backbones.text import TextEncoder, average_queries, embed_queries, text_key
from ovbench.config.load import templates
from ovbench.data.descriptions import find_set, read_set
from ovbench.methods.base import Queries
from ovbench.utils.errors import InputError, UsageError, warn_once
from ovbench.utils.files import write_bytes
from ovbench.utils.lock import alone
from ovbench.utils.paths import cache_root
from ovbench.utils.provenance import model_of_device
from ovbench.utils.shared_cache import publish, read_shared


def build_queries(
    vocabulary: tuple[tuple[str, ...], ...],
    prompt_set: str,
    clip: Loaded,
    background: int | None = None,
    *,
    raw: bool = False,
    background_channel: bool = False,
    device: str = "cpu",
) -> Queries:
    """Embed every synonym of every class, or read the vectors from the cache.

    Args:
        vocabulary: Synonyms of each class.
        prompt_set: Name of the prompt templates.
        clip: The text encoder and its hash.
        background: Index of the background class, None if there is none.
        raw: Whether vectors are unnormalised.
        background_channel: Whether the background class may have no query.
        device: Where the text tower runs.

    Returns:
        Queries with float32 (Q, D) embeddings, on the CPU.

    Raises:
        UsageError: If the backbone has no text encoder, or a class has no query.
    """
    if clip.text is None:
        raise UsageError(f'the backbone "{clip.spec}" has no text encoder', fix="choose a CLIP model")
    flat = [query for synonyms in vocabulary for query in synonyms]
    empty = [number for number, synonyms in enumerate(vocabulary) if not synonyms]
    if background_channel and empty == [background]:
        empty = []
    if not flat or empty:
        raise UsageError("a class without a query" if flat else "no classes given", fix="give every class a name")
    clip.text.require_room(flat, templates(prompt_set))
    index = torch.tensor([number for number, synonyms in enumerate(vocabulary) for _ in synonyms])
    return Queries(_embeddings(flat, prompt_set, clip, raw, device), index, background)


def _embeddings(flat: list[str], prompt_set: str, clip: Loaded, raw: bool, device: str) -> Tensor:
    prompts = templates(prompt_set)
    key = f"{text_key(clip.sha256, flat, prompts)}{'-raw' if raw else ''}"
    embed = average_queries if raw else embed_queries
    return _cached(key, device, lambda: embed(clip.text.on(device), flat, prompts))


def _cached(key: str, device: str, compute: Callable[[], Tensor]) -> Tensor:
    """Return ``compute()`` on the CPU, cached with a key for this device.

    A damaged, outdated or unreadable entry is computed again. If the cache cannot be read or written, a warning is
    printed once.
    """
    if torch.device(device).type != "cpu":
        key = hashlib.sha256(json.dumps([key, model_of_device(device)]).encode()).hexdigest()
    name = f"text/{key}.safetensors"
    path = cache_root() / name
    embeddings = _read(path)
    if embeddings is not None:
        return embeddings
    with alone(cache_root() / "locks" / f"text-{key}.lock"):
        embeddings = _read(path)  # which another process may have written meanwhile
        if embeddings is None:
            shared = read_shared(name, unpack_tensor)
            content = pack_tensor(compute().cpu()) if shared is None else shared[0]
            embeddings = unpack_tensor(content)
            try:
                if shared is None:
                    content = publish(name, content, unpack_tensor)
                    embeddings = unpack_tensor(content)
                write_bytes(path, content)
            except InputError as error:
                warn_once(f"query vectors are not cached: {error}")
    return embeddings


def _read(path: Path) -> Tensor | None:
    try:
        return unpack_tensor(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return None
    except OSError as error:
        warn_once(f"query vectors in {path.parent} cannot be read ({error.strerror}); they are computed again")
        return None


def with_descriptions(
    queries: Queries,
    vocabulary: tuple[tuple[str, ...], ...],
    name: str,
    clip: Loaded,
    prompts: Sequence[str] = (),
    device: str = "cpu",
) -> Queries:
    """Add to each query a vector from the sentences of a set (see `ovbench.data.descriptions`).

    Each sentence is encoded and L2-normalised; the vector is their mean, L2-normalised. A class without a description
    keeps the vector of its prompts, with a warning.

    Args:
        queries: The queries.
        vocabulary: Synonyms of each class.
        name: Name of the set.
        clip: The text encoder and its hash.
        prompts: Templates; with them the sentences are further prompts of a query, with the same weight each.
        device: Where the text tower runs.

    Returns:
        The queries with ``descriptions``, or with other ``embeddings`` if ``prompts`` are given.
    """
    path = find_set(name)
    known = read_set(path) if path else None
    pairs = [(number, query, synonyms[0]) for number, synonyms in enumerate(vocabulary) for query in synonyms]
    sentences = [known.sentences(query, first) if known else [] for _, query, first in pairs]
    missing = {n: first for (n, _, first), s in zip(pairs, sentences, strict=True) if not s and n != queries.background}
    if missing:
        count, which = f"{len(missing)} of {len(vocabulary)} classes", ", ".join(missing.values())
        warn_once(f'no description of {count} in "{name}" ({which:.80}): their prompts are used; see ovbench describe')
    for (_, query, _), own in zip(pairs, sentences, strict=True):
        clip.text.require_room(own, ("{}",), f'description of "{query}"')
    vectors = queries.embeddings.clone()
    rows = [row for row, own in enumerate(sentences) if own]
    if rows:
        texts = [[prompt.replace("{}", pairs[row][1]) for prompt in prompts] + sentences[row] for row in rows]
        key = hashlib.sha256(json.dumps([clip.sha256, texts]).encode()).hexdigest()
        vectors[rows] = _cached(f"{key}-described", device, lambda: _described(texts, clip.text.on(device)))
    return queries._replace(**{"embeddings" if prompts else "descriptions": vectors})


def _described(sentences: list[list[str]], text: TextEncoder) -> Tensor:
    features = F.normalize(text.encode([sentence for own in sentences for sentence in own]), dim=-1)
    means = [own.mean(0) for own in features.split([len(own) for own in sentences])]
    return F.normalize(torch.stack(means), dim=-1)
