"""Embed class names: prompt ensembles with a text tower."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ovbench.utils.errors import InputError

PROMPTS_AT_ONCE = 256
SHOWN = 100  # characters of a query in a message
QUIET_S = 2.0  # work that is done by then shows no progress


class TextEncoder:
    """A text tower with its tokenizer.

    Args:
        model: A `ClipModel`, a model of open_clip, or any module with ``encode_text(tokens)``, int (N, L) to float
            (N, D).
        tokenizer: Texts to tokens, int (N, L).
    """

    def __init__(self, model: nn.Module, tokenizer: Callable[[list[str]], Tensor]):
        self.model, self.tokenizer = model, tokenizer

    def length(self, text: str) -> int | None:
        """Return the number of tokens of a text, with start and end; None if the tokenizer cannot count them."""
        if hasattr(self.tokenizer, "encode"):  # CLIP's own
            return len(self.tokenizer.encode(text)) + 2
        inner = getattr(self.tokenizer, "tokenizer", None)  # of transformers
        return len(inner(text)["input_ids"]) if callable(inner) else None

    def require_room(self, queries: Sequence[str], templates: Sequence[str], what: str = "the class name") -> None:
        """Check that no query is truncated; otherwise queries with the same beginning would become equal.

        Args:
            queries: Class names and their synonyms.
            templates: Prompts with ``{}``; the one with most tokens is checked.
            what: What a query is, for the message.

        Raises:
            InputError: If a query with its template has more tokens than the tower reads.
        """
        limit = getattr(self.tokenizer, "context_length", None)
        if limit is None or not queries or self.length("") is None:
            return
        longest = max(templates, key=lambda template: self.length(template.replace("{}", "")))
        for query in dict.fromkeys(queries):
            tokens = self.length(longest.replace("{}", query))
            if tokens > limit:
                raise InputError(
                    f'{what} is too long for the text tower: {tokens} tokens in "{longest}", {limit} fit',
                    where=query if len(query) <= SHOWN else f"{query[:SHOWN]}...",
                    fix="shorten it",
                )

    @property
    def device(self) -> torch.device:
        """Return the device of the text tower."""
        return next(self.model.parameters()).device

    def on(self, device: str) -> TextEncoder:
        """Return the encoder with a copy of its tower on a device; the image tower is not copied."""
        if torch.device(device).type == self.device.type:
            return self
        images = getattr(self.model, "visual", None)
        without = {} if images is None else {id(images): None}
        return TextEncoder(copy.deepcopy(self.model, without).to(device), self.tokenizer)

    @torch.no_grad()
    def encode(self, prompts: Sequence[str]) -> Tensor:
        """Return the text features of prompts, float (N, D), not normalised.

        A long encoding shows its progress on a terminal. If memory runs out, fewer prompts are encoded at once.
        """
        features: list[Tensor] = []
        start, at_once = 0, PROMPTS_AT_ONCE
        title = f"prompts encoded on {self.device}"
        with tqdm(total=len(prompts), desc=title, unit="prompt", disable=None, delay=QUIET_S, leave=False) as bar:
            while start < len(prompts):
                chunk = list(prompts[start : start + at_once])
                try:
                    features.append(self._encode_tokens(self.tokenizer(chunk).to(self.device)))
                except torch.cuda.OutOfMemoryError:
                    if len(chunk) == 1:
                        raise
                    at_once = len(chunk) // 2
                    continue
                start += len(chunk)
                bar.update(len(chunk))
        return torch.cat(features)

    def _encode_tokens(self, tokens: Tensor) -> Tensor:
        """Call ``model.encode_text``; for a causal tower, tokens after the longest prompt are cut off."""
        model = self.model
        causal = getattr(model, "attn_mask", None) is not None and getattr(model, "text_pool_type", "") == "argmax"
        if not causal:
            return model.encode_text(tokens)
        length = int((tokens != 0).sum(1).max())
        tokens = tokens[:, :length]
        x = model.token_embedding(tokens) + model.positional_embedding[:length]
        x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask[:length, :length]))
        x = x[torch.arange(len(x), device=x.device), tokens.argmax(-1)]
        projection = model.text_projection
        return projection(x) if isinstance(projection, nn.Module) else x @ projection


def embed_queries(encoder: TextEncoder, queries: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return one unit vector per query, float (Q, D): the mean over templates of normalised features.

    Equal queries are encoded once.

    Args:
        encoder: The text tower.
        queries: Class names and synonyms.
        templates: Prompts with ``{}``.
    """
    features, row = _prompt_features(encoder, queries, templates)
    return ensemble(features)[row]


def ensemble(features: Tensor) -> Tensor:
    """Return the normalised mean over templates of normalised features, float (N, T, D) to (N, D)."""
    return F.normalize(F.normalize(features, dim=-1).mean(1), dim=-1)


def average_queries(encoder: TextEncoder, queries: Sequence[str], templates: Sequence[str]) -> Tensor:
    """Return the mean over templates of unnormalised features, float (Q, D).

    Args:
        encoder: The text tower.
        queries: Class names and synonyms.
        templates: Prompts with ``{}``.
    """
    features, row = _prompt_features(encoder, queries, templates)
    return features.mean(1)[row]


def _prompt_features(encoder: TextEncoder, queries: Sequence[str], templates: Sequence[str]) -> tuple[Tensor, Tensor]:
    """Return features of distinct queries by template, float (N, T, D), and the row of each query, int64 (Q,)."""
    distinct = list(dict.fromkeys(queries))
    prompts = [template.replace("{}", query) for query in distinct for template in templates]
    features = encoder.encode(prompts).unflatten(0, (len(distinct), len(templates)))
    row = {query: number for number, query in enumerate(distinct)}
    return features, torch.tensor([row[query] for query in queries], device=features.device)


def text_key(weights_sha256: str, queries: Sequence[str], templates: Sequence[str]) -> str:
    """Return the cache key of query vectors: a hash of all they depend on."""
    content = json.dumps([weights_sha256, list(queries), list(templates)])
    return hashlib.sha256(content.encode()).hexdigest()
