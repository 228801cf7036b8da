"""RF-CLIP: repair tokens that distract the attention, and attend by all layers' keys.

Symbols: B windows; N = gh * gw patches; T = 1 + N tokens, class token first; C width; H heads; E = C / H; L blocks;
D width of the joint space. "Level i" is the tokens after block i.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ovbench.backbones.clip import Heads
from ovbench.methods.base import Backbones, Batch, Note, no_note
from ovbench.methods.declarations import RFCLIPDeclaration
from ovbench.methods.params import RFCLIPParams
from ovbench.methods.presence import Presence, PresenceFeatures
from ovbench.utils.errors import UsageError

# Distraction channels by the width of the tower: those of OpenAI's ViT-B/16 and, from a comment of the code, ViT-L/14.
CHANNELS = {
    768: (4, 162, 189, 326, 429, 474, 633, 713),
    1024: (250, 261, 437, 650, 720, 779, 936, 1005),
}
SINK = 0.1  # of the official "refocus": mean attention from which a patch is a sink
KEPT = 0.6  # ... and the fraction of the attention that a sink keeps


class Trunk(NamedTuple):
    """What the dense features need from all blocks.

    Attributes:
        before_last: float (B, T, C), level L - 2, repaired.
        last: float (B, T, C), level L - 1, repaired.
        guide: float (B, T, C), mean of all levels, repaired.
        key_graphs: float (B, H, T, T), sum of softmax(s k k^T) over all blocks except the last; None if not used.
    """

    before_last: Tensor
    last: Tensor
    guide: Tensor
    key_graphs: Tensor | None


class RFCLIP(RFCLIPDeclaration, Presence):
    """Repair distractors after every block, and decode by the mean key attention of all layers.

    Paper: "Target Refocusing via Attention Redistribution for Open-Vocabulary Semantic Segmentation", AAAI 2026,
    arXiv 2511.16170. Code: liblacklucy/RF-CLIP c2b333e. The released code leaves the attention of the blocks as it is;
    where code and paper differ, a parameter selects the other form.
    """

    observed: ClassVar[tuple[str, ...]] = ("distractors",)
    heavy: ClassVar[tuple[str, ...]] = ("trunk", "class_trunk")  # see `ovbench.inference.precision`

    def __init__(self, backbones: Backbones, params: RFCLIPParams | None = None):
        super().__init__(backbones, params)
        width, channels = self.clip.width, self.params.channels
        if not channels and self.params.repair > 0:
            if width not in CHANNELS:
                raise UsageError(
                    f"the distraction channels of a tower of width {width} are not known", where="rfclip",
                    fix="set channels to those in which few patches of this tower hold very large values, or repair=0",
                )  # fmt: skip
            channels = CHANNELS[width]
        for channel in channels:
            if not 0 <= channel < width:
                raise UsageError(f"channels names {channel}, but the tower has {width} channels", where="rfclip")
        self.register_buffer("channels", torch.tensor(channels, dtype=torch.int64), persistent=False)

    @property
    def linkage(self) -> str:
        """Return the linkage of the clustering."""
        return self.params.linkage

    # Token repair: image to repaired tokens of every block

    def trunk(self, embedded: Tensor, grid: tuple[int, int], note: Note = no_note) -> Trunk:
        """Run all blocks, with the repair after each.

        Args:
            embedded: float (B, T, C), tokens that enter the first block.
            grid: (gh, gw) of the patches.
            note: Called with the name and value of intermediate tensors.

        Returns:
            The levels and key graphs.
        """
        before, level = embedded, embedded
        total, graphs = torch.zeros_like(embedded), None
        for number, block in enumerate(self.clip.blocks):
            heads = self.clip.project_heads(block, block.ln_1(level))
            last = number == self.clip.layers - 1
            if not last and self.params.attention == "all":
                graph = key_attention(heads.k)
                graphs = graph if graphs is None else graphs.add_(graph)
            before, level = level, self.block(block, level, heads, grid, refocus=not last, note=_at(note, number))
            total += level
        return Trunk(before, level, total / self.clip.layers, graphs)

    def class_trunk(self, embedded: Tensor, grid: tuple[int, int]) -> Tensor:
        """Return the repaired tokens (B, T, C) that enter the last block."""
        level = embedded
        for block in self.clip.blocks[:-1]:
            level = self.block(block, level, self.clip.project_heads(block, block.ln_1(level)), grid, refocus=True)
        return level

    def block(
        self, block: nn.Module, x: Tensor, heads: Heads, grid: tuple[int, int], *, refocus: bool,
        note: Note = no_note,
    ) -> Tensor:  # fmt: skip
        """Return the level (B, T, C) after a block, repaired.

        Args:
            block: The block.
            x: float (B, T, C), tokens that enter it.
            heads: Their projections.
            grid: (gh, gw) of the patches.
            refocus: Whether the attention is redistributed, if the parameters say so.
            note: Called with the name and value of intermediate tensors.
        """
        if refocus and self.params.refocus:
            weights = redistribute((heads.q @ heads.k.mT * heads.q.shape[-1] ** -0.5).softmax(-1))
            mixed = weights.to(heads.v) @ heads.v
        else:
            mixed = F.scaled_dot_product_attention(heads.q, heads.k, heads.v)
        x = self.clip.feed_forward(block, x + self.clip.merge_heads(block, mixed))
        if self.params.repair == 0:
            return x
        note("level_before", x)
        x = torch.cat([x[:, :1], self.repair(x[:, 1:], grid, note)], 1)  # the class token never changes
        note("level", x)
        return x

    def repair(self, patches: Tensor, grid: tuple[int, int], note: Note = no_note) -> Tensor:
        """Move distractors towards their neighbours: dn(x).

        Args:
            patches: float (B, N, C), tokens without the class token.
            grid: (gh, gw), N = gh * gw.
            note: Called with the name and value of intermediate tensors.

        Returns:
            float (B, N, C).
        """
        p = self.params
        distractor = self.distractors(patches)  # (B, N)
        note("distractors", distractor)
        mean = sum_3x3(patches.unflatten(1, grid)).flatten(1, 2).div_(9)  # zeros beyond the border counted
        weight = (p.repair * distractor.to(patches))[..., None]
        if p.repaired == "distraction":
            mean = (9 * mean - patches) / 8
            weight = weight * torch.zeros_like(patches[0, 0]).index_fill(0, self.channels, 1.0)
        return patches.lerp(mean, weight)

    def distractors(self, patches: Tensor) -> Tensor:
        """Return which patches (B, N, C) are distractors, bool (B, N): phi > sigma / C.

        phi is the largest share, over the distraction channels, of the sum of a token's values.
        """
        width = patches.shape[-1]
        lowest = patches.amin(-1) if self.params.shifted else torch.zeros_like(patches[..., 0])
        total = (patches.sum(-1) - width * lowest).clamp(min=1e-8)
        phi = (patches[..., self.channels].amax(-1) - lowest) / total
        return phi > self.params.sigma / width

    # Dense features

    def encode(self, batch: Batch) -> PresenceFeatures:
        """Return patch features and the class token of the windows."""
        embedded, grid = self.clip.embed(batch.windows)
        trunk = self.trunk(embedded, grid, batch.note)
        if self.params.class_token == "image":
            presence = batch.context
        else:
            presence = F.normalize(self.clip.project(trunk.last[:, :1])[:, 0], dim=-1)
        kept = self.similar(trunk.guide, batch.note) if self.params.enhance else None  # S', (B, N, N)
        sources = {"tokens": trunk.before_last, "guide": trunk.guide}
        chosen = list(sources) if self.params.decoded == "both" else [self.params.decoded]
        mixed = sum(self.decode(name, sources[name], kept, trunk, batch.note) for name in chosen) / len(chosen)
        decoded = self.clip.merge_heads(self.clip.blocks[-1], mixed)  # linear, so once for the mean of both: y
        tokens = F.normalize(self.clip.project(decoded), dim=-1)  # (B, N, D)
        for name in ("before_last", "guide"):
            batch.note(name, getattr(trunk, name))
        return PresenceFeatures(tokens, grid, presence)

    def similar(self, guide: Tensor, note: Note = no_note) -> Tensor:
        """Return S' (B, N, N), the cosines of the guide's patches (B, T, C), those below beta set to 0."""
        unit = F.normalize(guide[:, 1:], dim=-1)
        cosines = unit @ unit.mT
        note("similarity", cosines)
        return cosines.masked_fill(cosines < self.params.beta, 0.0)

    def decode(self, name: str, tokens: Tensor, kept: Tensor | None, trunk: Trunk, note: Note) -> Tensor:
        """Return the values of enhanced tokens after the key attention of all layers, float (B, H, N, E).

        The attention is softmax(s k k^T) over all T tokens, a mean over the layers, head by head. The class token's row
        and column are left out after the softmax, so that rows sum to less than 1. No residual, no feed-forward.

        Args:
            name: Of the tokens, for the notes.
            tokens: float (B, T, C).
            kept: S' float (B, N, N), or None without enhancing.
            trunk: Of the same windows.
            note: Called with the name and value of intermediate tensors.
        """
        if kept is not None:  # sums, not means: the layer norm removes the scale
            tokens = torch.cat([tokens[:, :1], kept @ tokens[:, 1:]], 1)
        note(f"enhanced_{name}", tokens)
        last = self.clip.blocks[-1]
        k, v = self.clip.keys_values(last, last.ln_1(tokens))
        graph = key_attention(k)
        if trunk.key_graphs is not None:
            graph = graph.add_(trunk.key_graphs).div_(self.clip.layers)
        graph = graph[:, :, 1:, 1:]
        note(f"attention_{name}", graph)
        mixed = graph @ v[:, :, 1:]
        note(f"mixed_{name}", mixed)
        return mixed

    def class_tokens(self, images: Tensor) -> Tensor:
        """Return normalised class tokens (B, D) of images (B, 3, h, w) from the repaired trunk."""
        embedded, grid = self.clip.embed(images)
        x, last = self.class_trunk(embedded, grid), self.clip.blocks[-1]
        return F.normalize(self.clip.finish_class(x, self.clip.project_heads(last, last.ln_1(x))), dim=-1)


def key_attention(k: Tensor) -> Tensor:
    """Return softmax(s k k^T), float (B, H, T, T), of keys (B, H, T, E), s = E^-1/2."""
    return (k * k.shape[-1] ** -0.5 @ k.mT).softmax(-1)


def sum_3x3(maps: Tensor) -> Tensor:
    """Return the sum of each cell and its neighbours, zero outside, of maps float (B, gh, gw, C).

    PyTorch's pooling takes several times as long on a CPU, because the channels are last.
    """
    for axis in (1, 2):
        count, total = maps.shape[axis], maps.clone()
        total.narrow(axis, 1, count - 1).add_(maps.narrow(axis, 0, count - 1))
        total.narrow(axis, 0, count - 1).add_(maps.narrow(axis, 1, count - 1))
        maps = total
    return maps


def redistribute(weights: Tensor) -> Tensor:
    """Move attention from sinks to the other patches, in proportion to their attention.

    The class token's row and column stay, and so does the sum of each row.

    Args:
        weights: float (B, H, T, T), after the softmax.

    Returns:
        float (B, H, T, T).
    """
    patches = weights[..., 1:, 1:]
    sink = patches.sum(-2, keepdim=True) / weights.shape[-1] > SINK  # (B, H, 1, N); the mean is over T, not N, rows
    others = patches.masked_fill(sink, 0.0)
    freed = (1 - KEPT) * (patches - others).sum(-1, keepdim=True)
    moved = torch.where(sink, KEPT * patches, others + freed * others / (others.sum(-1, keepdim=True) + 1e-8))
    rows = torch.cat([weights[..., 1:, :1], moved], -1)
    return torch.cat([weights[..., :1, :], rows], -2)


def _at(note: Note, level: int) -> Note:
    """Return a note that adds the number of the level to names."""
    return lambda name, value: note(f"{name}_{level}", value)
