"""GLA-CLIP: every window attends to the patches of all windows of its image."""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.base import Batch, Note, PatchFeatures, WindowedImage
from ovbench.methods.declarations import GLACLIPDeclaration
from ovbench.methods.proxyclip import ProxyCLIP

BLOCK = 1 << 24  # elements of the similarities of some rows with all keys, which are in memory at once


class WindowTokens(NamedTuple):
    """What the windows of an image share.

    Attributes:
        keys: K, float (W, M, S, C), normalised; M is 2 for SCLIP, whose two attentions are added, otherwise 1.
        values: V, float (W, S, C'), values of CLIP's last block on the grid of the keys.
        residual: float (W, S, C'), the tokens before the last block if the base keeps them, otherwise None.
        grid: (gh, gw) of a window, S = gh * gw.
    """

    keys: Tensor
    values: Tensor
    residual: Tensor | None
    grid: tuple[int, int]


class GLACLIP(GLACLIPDeclaration, ProxyCLIP):
    """Attend from every patch to those of all windows, through a proxy anchor, normalised by the size of its set.

    Paper: "Looking Beyond the Window", CVPR 2026, arXiv 2603.23030. Code: 2btlFe/GLA-CLIP ba74915. It is ProxyCLIP with
    another attention; the threshold of a proxy set is 0.55, which acts in the code, not the 0.6 of its script. The code
    cannot run the other two bases with the constants of the paper; here the keys are those of their own attention.
    """

    def encode(self, batch: Batch) -> WindowTokens:
        """Return keys and values of the windows."""
        if self.params.base == "proxyclip":
            keys, values, grid = self.proxies_and_values(batch)
            tokens = WindowTokens(keys[:, None], values, None, grid)
        else:
            tokens = self._clip_tokens(batch)
        batch.note("keys", tokens.keys)
        batch.note("values", tokens.values)
        return tokens

    def _clip_tokens(self, batch: Batch) -> WindowTokens:
        """Return q of the last block as keys (ClearCLIP), or q and k, with the tokens before it (SCLIP)."""
        embedded, grid = self.clip.embed(batch.windows)
        x = self.clip.trunk(embedded)
        batch.note("tokens_before_last", x)
        last = self.clip.blocks[-1]
        heads = self.clip.project_heads(last, last.ln_1(x))
        q, k, v = (projected[:, :, 1:].transpose(1, 2).flatten(2) for projected in heads)  # (B, S, C'), heads joined
        both = self.params.base == "sclip"
        keys = F.normalize(torch.stack([q, k] if both else [q], 1), dim=-1)
        return WindowTokens(keys, v, x[:, 1:] if both else None, grid)

    def join(self, features: WindowTokens, image: WindowedImage) -> PatchFeatures:
        """Return features float (W, S, D) of all windows after the attention over all N = W * S patches.

        Some rows are computed at a time, with the same result as all together: a row needs the keys and values only.
        """
        count, values = len(features.keys), features.values.flatten(0, 1)  # W, (N, C')
        rows = torch.arange(len(values), device=values.device).split(max(BLOCK // len(values), 1))
        mixed = torch.zeros_like(values)
        for keys in features.keys.unbind(1):
            keys = keys.flatten(0, 1)  # (N, C)
            for own in rows:
                mixed[own] += self.attend(own, keys, values, count, image.note)
        mixed = mixed.view_as(features.values)
        return PatchFeatures(self.project_mixed(mixed, features.residual), features.grid)

    def attend(self, own: Tensor, keys: Tensor, values: Tensor, windows: int, note: Note) -> Tensor:
        """Return the mixed values float (R, C') of some rows.

        Args:
            own: int64 (R,), the rows, each the number of a patch.
            keys: float (N, C), of all windows.
            values: float (N, C'), of all windows.
            windows: W, number of windows of the image.
            note: Called with intermediate quantities of these rows.
        """
        p = self.params
        similarity = keys[own] @ keys.T  # s, (R, N)
        note("similarity", similarity)
        for _ in range(p.rounds):
            member = similarity > p.threshold
            alone = ~member.any(1, keepdim=True)  # only from rounding: a mean of members is at least as near to each
            member.scatter_(1, own[:, None], member.gather(1, own[:, None]) | alone)
            size = member.sum(1, keepdim=True).to(keys.dtype)  # c, (R, 1)
            note("set_size", size[:, 0])
            proxy = F.normalize(member.to(keys.dtype) @ keys / (size + 1e-6), dim=-1)  # (R, C)
            similarity = proxy @ keys.T
        mean = similarity.mean(1, keepdim=True)  # mu, over all windows
        beta = 1 + p.beta_alpha * math.log1p(windows)
        gamma = 1 + p.gamma_alpha / size
        scaled = (similarity - beta * mean.clamp(min=0)) * gamma
        weights = scaled.masked_fill(scaled < scaled.amax(1, keepdim=True).clamp(max=0), -torch.inf).softmax(1)
        for name, value in (
            ("proxy", proxy), ("proxy_similarity", similarity), ("proxy_mean", mean[:, 0]), ("gamma", gamma[:, 0]),
            ("scaled", scaled), ("attention", weights),
        ):  # fmt: skip
            note(name, value)
        return weights @ values
