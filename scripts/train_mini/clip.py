"""Train the small CLIP of `mini` on pairs of drawn images and captions.

Supervision is at image level: a crop or image with a true caption. Three pooled image vectors are contrasted with the
captions: the class token; the mean over patches of the last block's value path; and the same for the mean output of the
middle blocks. A caption that is also true for another image of the batch is not a negative of this image. From a
certain step on, most batches are mosaics: several crops in one image, where the mean over the patches of a crop is
contrasted with its caption (Wu et al., CLIM, AAAI 2024).

    python scripts/train_mini/clip.py --work /tmp/mini --steps 5200
    python scripts/train_mini/clip.py --work /tmp/mini --export ovbench/assets/mini
"""

from __future__ import annotations

import argparse
import json
import time
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import numpy as np
import open_clip
import torch
import torch.nn.functional as F
from pool import CLIP_MEAN, CLIP_STD, Pool, command_line, jitter, rate, save
from safetensors.torch import save_file

from ovbench.data.mini import captions, world
from ovbench.data.mini.stream import Stream

MODEL = {
    "embed_dim": 128,
    "quick_gelu": False,
    "vision_cfg": {"image_size": 112, "layers": 6, "width": 128, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 32, "vocab_size": 49408, "width": 96, "heads": 4, "layers": 3},
}


class Kind(NamedTuple):
    """A type of batch: its frequency; size in pixels, number, zoom range and fraction around things of its crops; and
    the crops per side of a mosaic (1: no mosaic).
    """

    weight: float
    size: int
    count: int
    zoom: tuple[float, float]
    on_things: float
    side: int = 1


# Class tokens and texts are trained first; mosaics then train patches to attend to their neighbourhood.
CROPS = (
    Kind(0.45, 32, 320, (0.8, 1.5), 0.7),
    Kind(0.35, 64, 128, (0.7, 1.3), 0.7),
    Kind(0.20, 112, 48, (0.5, 1.2), 0.6),
)
MOSAICS = (
    Kind(0.40, 32, 324, (0.8, 1.5), 0.7, side=3),
    Kind(0.20, 56, 128, (0.7, 1.3), 0.7, side=2),
    Kind(0.10, 32, 320, (0.8, 1.5), 0.7),
    Kind(0.15, 64, 128, (0.7, 1.3), 0.7),
    Kind(0.15, 112, 48, (0.5, 1.2), 0.6),
)
MOSAICS_FROM = 2400  # steps
LEARNING_RATE, WEIGHT_DECAY, EMA = 1.5e-3, 0.05, 0.997
BLOCK_DROP, WORD_DROP = 0.1, 0.02
WEIGHTS = {"class token": 1.0, "values": 1.0, "middle values": 0.7}


class Words:
    """The rows of the token embedding for training: compact row numbers, 0 for every other token."""

    def __init__(self) -> None:
        self._tokenizer = open_clip.SimpleTokenizer(context_length=MODEL["text_cfg"]["context_length"])
        text = [template("") for template in open_clip.OPENAI_IMAGENET_TEMPLATES]
        text += ["a photo of something with and on next to in front of"]
        named = (*world.STUFF.values(), *world.COLOUR_WORDS.values(), *world.SHAPES.values())
        text += [" ".join(words) for words in named]
        text += [" ".join(a + n) for a, n in world.PATTERNS.values()]
        start, end = self._tokenizer.sot_token_id, self._tokenizer.eot_token_id
        self.ids = sorted({start, end, *(i for t in text for i in self._tokenizer.encode(t))})
        self._row = {token: i + 1 for i, token in enumerate(self.ids)}
        self._start, self._end = self._row[start], self._row[end]
        self.encode_word = lru_cache(maxsize=None)(self._encode_word)

    def __len__(self) -> int:
        return len(self.ids) + 1

    def _encode_word(self, word: str) -> list[int]:
        return [self._row.get(i, 0) for i in self._tokenizer.encode(word)]

    def encode(self, texts: list[str], rng: np.random.RandomState) -> torch.Tensor:
        """Return rows, int64 (B, longest); some words are replaced by the row of unknown tokens."""
        limit = MODEL["text_cfg"]["context_length"]
        rows = [[r for word in t.split() for r in self.encode_word(word)][: limit - 2] for t in texts]
        rows = [[r if rng.uniform() > WORD_DROP else 0 for r in line] for line in rows]
        out = torch.zeros(len(texts), max(map(len, rows)) + 2, dtype=torch.int64)
        for i, line in enumerate(rows):
            out[i, : len(line) + 2] = torch.tensor([self._start, *line, self._end])
        return out


def build(rows: int) -> open_clip.CLIP:
    """Return the model with a token embedding of `rows` rows."""
    torch.manual_seed(0)
    text = open_clip.CLIPTextCfg(**{**MODEL["text_cfg"], "vocab_size": rows})
    model = open_clip.CLIP(MODEL["embed_dim"], open_clip.CLIPVisionCfg(**MODEL["vision_cfg"]), text)
    torch.nn.init.normal_(model.visual.positional_embedding, std=0.02)
    return model


def attend(block: torch.nn.Module, x: torch.Tensor, causal: bool = False) -> torch.Tensor:
    """Run an ordinary block on x, float (B, N, C)."""
    b, n, c = x.shape
    a = block.attn
    qkv = F.linear(block.ln_1(x), a.in_proj_weight, a.in_proj_bias)
    q, k, v = qkv.view(b, n, 3, a.num_heads, -1).permute(2, 0, 3, 1, 4)
    # plain products: on a CPU their gradient is several times faster than that of the fused kernel
    weights = q @ (k * q.shape[-1] ** -0.5).transpose(-1, -2)
    if causal:
        weights = weights + torch.full((n, n), -1e4, dtype=weights.dtype).triu(1)
    y = (weights.softmax(dim=-1) @ v).transpose(1, 2).reshape(b, n, c)
    x = x + a.out_proj(y)
    return x + block.mlp(block.ln_2(x))


def values(block: torch.nn.Module, x: torch.Tensor, side: int) -> torch.Tensor:
    """Return the mean of the value path out_proj(v(ln_1(x))) over the patches of each crop: float (B, 1 + N, C) to
    float (B * side * side, C).
    """
    b, n, c = x.shape
    a, cell = block.attn, round((n - 1) ** 0.5) // side
    y = block.ln_1(x)[:, 1:].view(b, side, cell, side, cell, c).mean(dim=(2, 4)).view(-1, c)
    return a.out_proj(F.linear(y, a.in_proj_weight[2 * c :], a.in_proj_bias[2 * c :]))


def encode_images(
    model: open_clip.CLIP, images: torch.Tensor, mosaic: int, rng: np.random.RandomState
) -> dict[str, torch.Tensor]:
    """Return normalised pooled vectors of each crop, float (B, D); a mosaic has no class token."""
    v = model.visual
    x = v.conv1(images)
    b, c, side, _ = x.shape
    whole = MODEL["vision_cfg"]["image_size"] // MODEL["vision_cfg"]["patch_size"]
    oy, ox = rng.randint(whole - side + 1, size=2)  # a crop may be at any position of the table
    table = v.positional_embedding[1:].view(whole, whole, c)[oy : oy + side, ox : ox + side].reshape(-1, c)
    x = x.flatten(2).transpose(1, 2) + table
    cls = (v.class_embedding + v.positional_embedding[0]).expand(b, 1, c)
    x = v.ln_pre(torch.cat([cls.to(x.dtype), x], dim=1))
    blocks, middle = v.transformer.resblocks, []
    for i, block in enumerate(blocks[:-1]):
        if i == 0 or rng.uniform() >= BLOCK_DROP:
            x = attend(block, x)
        if i in (2, 3):
            middle.append(x)
    last = blocks[-1]
    pooled = {"values": values(last, x, mosaic), "middle values": values(last, (middle[0] + middle[1]) / 2, mosaic)}
    if mosaic == 1:
        pooled["class token"] = attend(last, x)[:, 0]
    return {k: F.normalize((v.ln_post(p) @ v.proj).float(), dim=-1) for k, p in pooled.items()}


def encode_texts(model: open_clip.CLIP, rows: torch.Tensor) -> torch.Tensor:
    """Return normalised vectors, float (B, D); rows, int64 (B, N), end with the largest row number."""
    x = model.token_embedding(rows) + model.positional_embedding[: rows.shape[1]]
    for block in model.transformer.resblocks:
        x = attend(block, x, causal=True)
    x = model.ln_final(x)[torch.arange(len(rows)), rows.argmax(dim=1)]
    return F.normalize((x @ model.text_projection).float(), dim=-1)


def contrast(images: torch.Tensor, texts: torch.Tensor, scale: torch.Tensor, also_true: torch.Tensor) -> torch.Tensor:
    """Return the symmetric InfoNCE; captions (columns) in also_true are not negatives of an image (row)."""
    logits = (scale * images @ texts.T).masked_fill(also_true, -1e4)
    target = torch.arange(len(images))
    return (F.cross_entropy(logits, target) + F.cross_entropy(logits.T, target)) / 2


class Batch(NamedTuple):
    """Images, float (M, 3, S, S), mosaics of side x side crops; text rows, int64 (B, N); also_true, bool (B, B),
    marks the captions (columns) that are true for crops (rows); and the random generator of the step.
    """

    images: torch.Tensor
    rows: torch.Tensor
    also_true: torch.Tensor
    side: int
    rng: np.random.RandomState


class Batches:
    """Draws batches; the same step always gives the same batch."""

    def __init__(self, pool: Pool, words: Words, seed: int):
        self._pool, self._words, self._seed = pool, words, seed
        self._implied = captions.implied().astype(np.float32)

    def draw(self, step: int) -> Batch:
        """Return the batch of a step."""
        rng = np.random.RandomState((self._seed * 1_000_003 + step) % (1 << 32))
        stream = Stream((self._seed << 32) + step)
        kinds = MOSAICS if step >= MOSAICS_FROM else CROPS
        kind = kinds[rng.choice(len(kinds), p=[k.weight for k in kinds])]
        crops = [self._pool.crop(rng, kind.size, kind.zoom, kind.on_things) for _ in range(kind.count)]
        said = [captions.describe(c.shares, stream) for c in crops]
        templates = open_clip.OPENAI_IMAGENET_TEMPLATES
        texts = [s.text if rng.uniform() < 0.15 else templates[rng.randint(80)](s.text) for s in said]
        asked = np.zeros((kind.count, captions.CONCEPTS), np.float32)
        for i, s in enumerate(said):
            asked[i, list(s.concepts)] = 1
        present = (np.stack([c.shares for c in crops]) > 0.015).astype(np.float32) @ self._implied > 0
        also_true = (1 - present.astype(np.float32)) @ asked.T == 0
        np.fill_diagonal(also_true, False)
        x = jitter(np.stack([c.image for c in crops]), rng)
        x = (x - np.array(CLIP_MEAN, np.float32)) / np.array(CLIP_STD, np.float32)
        k, s = kind.side, kind.size  # crops to mosaics, row by row
        x = x.reshape(-1, k, k, s, s, 3).transpose(0, 5, 1, 3, 2, 4).reshape(-1, 3, k * s, k * s)
        images = torch.from_numpy(np.ascontiguousarray(x))
        return Batch(images, self._words.encode(texts, rng), torch.from_numpy(also_true), k, rng)


class Run:
    """The content of a checkpoint: model, moving average, optimiser, finished steps and seconds."""

    def __init__(self, rows: int):
        self.model = build(rows)
        named = list(self.model.named_parameters())
        matrices = [p for n, p in named if p.ndim >= 2 and "embedding" not in n]
        others = [p for n, p in named if p.ndim < 2 or "embedding" in n]
        groups = [{"params": matrices, "weight_decay": WEIGHT_DECAY}, {"params": others, "weight_decay": 0.0}]
        self.optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
        self.average = {n: p.detach().clone() for n, p in named}
        self.step, self.seconds = 0, 0.0

    def load(self, path: Path) -> None:
        """Resume from a checkpoint."""
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.average, self.step, self.seconds = state["average"], state["step"], state["seconds"]

    def save(self, path: Path, seconds: float) -> None:
        """Write a checkpoint."""
        state = {"model": self.model.state_dict(), "optimizer": self.optimizer.state_dict(), "average": self.average}
        save(path, {**state, "step": self.step, "seconds": seconds})

    def update(self, loss: torch.Tensor, learning_rate: float) -> None:
        """Update the weights and their moving average once."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        keep = min(EMA, (self.step + 1) / (self.step + 20))
        torch._foreach_lerp_(list(self.average.values()), [p.detach() for p in self.model.parameters()], 1 - keep)


def train(options: argparse.Namespace) -> None:
    """Train to --steps, from the checkpoint in --work if there is one."""
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    words = Words()
    batches = Batches(Pool(options.work / "pool", options.scenes), words, options.seed)
    run, path = Run(len(words)), options.work / "clip.pt"
    if path.exists():
        run.load(path)
    model, started, seen = run.model, time.time() - run.seconds, {}
    while run.step < options.steps:
        batch = batches.draw(run.step)
        with torch.autocast("cpu", torch.bfloat16, enabled=options.bf16):
            pooled = encode_images(model, batch.images, batch.side, batch.rng)
            texts = encode_texts(model, batch.rows)
        scale = model.logit_scale.exp().clamp(max=60)
        losses = {k: contrast(p, texts, scale, batch.also_true) for k, p in pooled.items()}
        run.update(sum(WEIGHTS[k] * x for k, x in losses.items()), rate(run.step, options.steps, LEARNING_RATE))
        seen |= {k: 0.98 * seen.get(k, x.item()) + 0.02 * x.item() for k, x in losses.items()}
        if run.step % 50 == 0:
            line = {"step": run.step, "seconds": round(time.time() - started), "scale": round(scale.item(), 1)}
            print(json.dumps(line | {k: round(x, 3) for k, x in seen.items()}), flush=True)
        if run.step % 200 == 0 or run.step == options.steps:
            run.save(path, time.time() - started)


def export(options: argparse.Namespace) -> None:
    """Write clip.safetensors (fp16, only the used token rows) and clip.json (open_clip configuration) to --export."""
    words = Words()
    state = {**torch.load(options.work / "clip.pt", weights_only=True)["average"]}
    rows = state.pop("token_embedding.weight")
    tensors = {k: t.half().contiguous() for k, t in state.items()}
    tensors |= {"token_ids": torch.tensor(words.ids, dtype=torch.int32), "token_rows": rows.half()}
    options.export.mkdir(parents=True, exist_ok=True)
    save_file(tensors, options.export / "clip.safetensors")
    (options.export / "clip.json").write_text(json.dumps(MODEL, indent=1) + "\n")


if __name__ == "__main__":
    command_line(__doc__, 5200, train, export)
