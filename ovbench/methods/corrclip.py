"""CorrCLIP (Zhang et al., ICCV 2025, arXiv 2411.10086): reconstructing the correlations of CLIP's patches.

Follows zdk258/CorrCLIP 103bc18, folder CorrCLIPv1. Symbols: b windows; L = gh*gw cells of the DINO grid; T = th*tw
tokens of the CLIP grid; C width of CLIP; m mask class tokens (MCT); "lowest" is the smallest region id present in a
window, which stands for "not segmented".
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from ovbench.backbones.dino import from_clip
from ovbench.methods.base import Batch, Method, Needs, PatchFeatures
from ovbench.regions.base import Ranks, majority_labels, nearest_ids, rank_ids

SPATIAL_DEPTH = {12: 5, 24: 12, 32: 28}  # blocks averaged by the spatial branch, by depth of the tower; else N - 4


@dataclass(frozen=True)
class CorrCLIPParams:
    """The paper's constants. ``tau`` softens the attention; ``eps`` is the radius of mask merging (cosine distance);
    ``alpha`` and ``beta`` weigh the spatial and the semantic branch; ``spatial_depth`` is the number of lower blocks in
    the spatial branch (none: by the depth of the tower). The rest switches components off for ablations."""

    tau: float = 0.25
    eps: float = 0.2
    alpha: float = 1.0
    beta: float = 0.5
    spatial_depth: int | None = None
    scope: bool = True
    mask_merging: bool = True
    map_correction: bool = True


class Tokens(NamedTuple):
    """What the CLIP tower yields: ``main`` enters the last block, ``spatial`` is the mean of lower blocks (both
    f[b, 1 + T, C]), ``classes`` are the mask class tokens after the complete last block, f[b, m, C]."""

    main: Tensor
    spatial: Tensor
    classes: Tensor


class CorrCLIP(Method):
    """Correlations from DINO inside regions, values from CLIP, and a class token for every region."""

    Params = CorrCLIPParams
    needs: ClassVar[Needs] = Needs(backbones=("clip", "dino"), regions=True)

    def encode(self, batch: Batch) -> PatchFeatures:
        f, grid = self.correlation_features(batch.windows)  # section 3.2
        s = f @ f.transpose(1, 2)  # S = f f^T, f[b, L, L]
        ids = nearest_ids(batch.regions, grid)
        batch.note("masks_dino", ids)
        ids = self.merge_masks(ids, f, first_new_id=batch.pad_region)
        scope = self.scope(ids, s)
        attention = (s / self.params.tau).masked_fill(~scope, -torch.inf).softmax(-1)  # eq. A = softmax(S / tau)

        embedded, clip_grid = self.clip.embed(batch.windows)
        regions = rank_ids(nearest_ids(ids, clip_grid))
        tokens = self.run_clip(embedded, regions)
        main, spatial = self.mix_values(attention, tokens, clip_grid, grid)
        semantic = self.semantic(tokens.classes, regions.rank, grid)
        fused = main + self.params.alpha * spatial + self.params.beta * semantic
        features = PatchFeatures(fused @ self.clip.visual.proj, grid)
        for name, value in (
            ("dino_feats", f), ("similarity", s), ("masks_merged", ids), ("scope", scope), ("attn", attention),
            ("masks_token", (regions.value.gather(1, regions.rank.flatten(1))).view_as(regions.rank)),
            ("main_tokens", tokens.main), ("spatial_tokens", tokens.spatial), ("mct", tokens.classes),
            ("mct_count", regions.count), ("branches", torch.stack([main, spatial, semantic], 1)),
        ):  # fmt: skip
            batch.note(name, value)
        return features

    def correlation_features(self, windows: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Query plus key of DINO's last block, L2-normalised over the full width: f[b, L, c], and the grid."""
        q, k, _, grid = self.dino.last_qkv(from_clip(windows))
        return F.normalize(q + k, dim=-1), grid

    def merge_masks(self, ids: Tensor, f: Tensor, first_new_id: int) -> Tensor:
        """Mask merging: regions of alike mean features become one; the lowest id keeps aside.

        DBSCAN with one sample as the minimum is the connected components of "distance <= eps", here those of all
        windows in one graph. The distance is max(R) - R, as in the code, not 1 - R (paper); the two differ in rounding
        only. Windows with at most two ids stay as they are. Merged ids count up from ``first_new_id``.
        """
        if not self.params.mask_merging:
            return ids
        ranks = rank_ids(ids)
        m = ranks.value.shape[1]
        onehot = F.one_hot(ranks.rank.flatten(1), m).to(f.dtype)  # f[b, L, m]
        means = (onehot.transpose(1, 2) @ f) / onehot.sum(1).clamp(min=1)[..., None]
        means = F.normalize(means, dim=-1)
        cosines = means @ means.transpose(1, 2)  # R, f[b, m, m]
        column = torch.arange(m, device=ids.device)
        member = (column > 0) & (column < ranks.count[:, None])  # b[b, m]: without the lowest
        pairs = member[:, :, None] & member[:, None, :]
        largest = cosines.masked_fill(~pairs, -torch.inf).amax((1, 2), keepdim=True)
        near = (largest - cosines <= self.params.eps) & pairs
        component = _components(near.cpu()).to(ids.device)
        merges = (ranks.count > 2)[:, None] & member
        value = torch.where(merges, component + first_new_id, ranks.value)
        return value.gather(1, ranks.rank.flatten(1)).view_as(ids)

    def scope(self, ids: Tensor, s: Tensor) -> Tensor:
        """Scope reconstruction: which cells may exchange values, b[b, L, L].

        Cells of one region do; a pair with a not-segmented cell does where it is more alike than the mean of all
        pairs. A cell always reaches itself, which matters only in a window of constant features.
        """
        if not self.params.scope:
            return torch.ones_like(s, dtype=torch.bool)
        ids = ids.flatten(1)
        lowest = ids == ids.amin(1, keepdim=True)
        open_pair = lowest[:, :, None] | lowest[:, None, :]
        alike = s > s.mean((1, 2), keepdim=True)
        allowed = torch.where(open_pair, alike, ids[:, :, None] == ids[:, None, :])
        return allowed | torch.eye(s.shape[1], dtype=torch.bool, device=s.device)

    def run_clip(self, x: Tensor, regions: Ranks) -> Tensor:
        """All blocks. Class token and patches are plain CLIP; a mask class token starts as the class token, looks at
        the class token and at the patches of its region, and is seen by nobody, so it rides along as a further query.
        """
        clip, depth = self.clip, self.spatial_depth()
        z = x[:, :1].expand(-1, regions.value.shape[1], -1)  # m copies of CLS
        own = torch.arange(z.shape[1], device=z.device)[:, None] == regions.rank.flatten(1)[:, None]  # b[b, m, T]
        sees = F.pad(own, (1, 0), value=True)[:, None]  # b[b, 1, m, 1 + T]
        spatial = torch.zeros_like(x)
        for number, block in enumerate(clip.blocks):
            q, k, v = clip.project_heads(block, block.ln_1(x))
            q_z = clip.project_heads(block, block.ln_1(z)).q
            z = z + clip.merge_heads(block, F.scaled_dot_product_attention(q_z, k, v, attn_mask=sees))
            z = clip.feed_forward(block, z)
            if number == clip.layers - 1:
                break  # the last block of the patches is rebuilt by mix_values
            x = x + clip.merge_heads(block, F.scaled_dot_product_attention(q, k, v))
            x = clip.feed_forward(block, x)
            if clip.layers - 2 - depth <= number <= clip.layers - 3:  # block N - 2 itself is not in the mean
                spatial = spatial + x / depth
        return Tokens(x, spatial, z)

    def spatial_depth(self) -> int:
        given = self.params.spatial_depth
        return SPATIAL_DEPTH.get(self.clip.layers, self.clip.layers - 4) if given is None else given

    def mix_values(
        self, attention: Tensor, tokens: Tokens, clip_grid: tuple[int, int], grid: tuple[int, int]
    ) -> tuple[Tensor, Tensor]:
        """The last block rebuilt: values of both branches on the DINO grid, mixed by ``attention``; no residual, no
        feed-forward. Two maps f[b, L, C] after ``ln_post``."""
        last = self.clip.blocks[-1]
        both = torch.stack([tokens.main, tokens.spatial], 1)[:, :, 1:]  # f[b, 2, T, C]
        v = self.clip.values(last, last.ln_1(both)).flatten(0, 1)
        v = v.transpose(1, 2).unflatten(2, clip_grid)
        v = F.interpolate(v, grid, mode="bilinear", align_corners=False)
        v = v.flatten(2).transpose(1, 2).unflatten(0, (-1, 2))  # f[b, 2, L, C]
        mixed = last.ls_1(last.attn.out_proj(attention[:, None] @ v))
        return self.clip.visual.ln_post(mixed).unbind(1)

    def semantic(self, classes: Tensor, rank: Tensor, grid: tuple[int, int]) -> Tensor:
        """Every cell receives the mask class token of its region, f[b, L, C] after ``ln_post``. The region is looked up
        on the CLIP grid, so at borders it can differ from the cell's own id."""
        rank = nearest_ids(rank, grid).flatten(1)
        classes = self.clip.visual.ln_post(classes)
        return classes.gather(1, rank[..., None].expand(-1, -1, classes.shape[-1]))

    def refine_labels(self, labels: Tensor, regions: Tensor | None) -> Tensor:
        """Map correction: a region of the original image takes its most frequent label."""
        return majority_labels(labels, regions) if self.params.map_correction else labels


def _components(near: Tensor) -> Tensor:
    """Connected components of b graphs b[b, m, m], numbered from 0 within each graph by their first member; nodes
    without any edge, not even to themselves, get no number of their own. i64[b, m]."""
    b, m, _ = near.shape
    window, row, column = near.nonzero(as_tuple=True)
    graph = coo_array((row.new_ones(len(row)), (window * m + row, window * m + column)), shape=(b * m, b * m))
    _, part = connected_components(graph, directed=False)
    part = torch.as_tensor(part, dtype=torch.int64).view(b, m)
    same = part[:, :, None] == part[:, None, :]
    first = same.int().argmax(2)  # the first member of each node's component
    leads = (first == torch.arange(m)) & near.any(2)
    return (leads.cumsum(1) - 1).gather(1, first)
