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

from ovbench.methods.base import Batch, Method, Needs, PatchFeatures
from ovbench.regions.base import Ranks, majority_labels, nearest_ids, rank_ids
from ovbench.utils.errors import unknown

SPATIAL_DEPTH = {12: 5, 24: 12, 32: 28}  # blocks averaged by the spatial branch, by depth of the tower; else N - 4


SIMILARITIES = ("q-k", "q-q", "k-k", "x-x", "qk-qk", "uniform")


@dataclass(frozen=True)
class CorrCLIPParams:
    """The paper's constants. ``tau`` softens the attention; ``eps`` is the radius of mask merging (cosine distance);
    ``alpha`` and ``beta`` weigh the spatial and the semantic branch; ``spatial_depth`` is the number of lower blocks in
    the spatial branch (none: by the depth of the tower).

    The rest is for ablations. ``similarity``: what is compared in the last block of ``similarity_from`` ("dino" or
    "clip"): "q-k", "q-q", "k-k", "x-x" (tokens after the final norm), "qk-qk" (query plus key), or "uniform" (scope and
    merging as with qk-qk, then equal weights). ``value`` off: the weights are ClearCLIP's, softmax(q q^T) per head with
    the class token; DINO is not used, scope and merging see CLIP's q-q. ``scope``, ``mask_merging``,
    ``spatial_branch``, ``mask_class_tokens``, ``map_correction`` off: that component is left out. With all of these and
    ``value`` off, ClearCLIP remains.
    """

    tau: float = 0.25
    eps: float = 0.2
    alpha: float = 1.0
    beta: float = 0.5
    spatial_depth: int | None = None
    scope: bool = True
    value: bool = True
    similarity: str = "qk-qk"
    similarity_from: str = "dino"
    mask_merging: bool = True
    spatial_branch: bool = True
    mask_class_tokens: bool = True
    map_correction: bool = True

    def __post_init__(self) -> None:
        if self.similarity not in SIMILARITIES:
            raise unknown("similarity", self.similarity, SIMILARITIES)
        if self.similarity_from not in ("dino", "clip"):
            raise unknown("tower", self.similarity_from, ("dino", "clip"), where="similarity_from")


class Correlation(NamedTuple):
    """Normalised ``features`` f[b, L, c] of the L cells of ``grid``; similarity ``s`` f[b, L, L] of all pairs."""

    features: Tensor
    s: Tensor
    grid: tuple[int, int]


class Tokens(NamedTuple):
    """What the CLIP tower yields: ``streams`` f[b, 1 or 2, 1 + T, C] are the tokens that enter the last block and, for
    the spatial branch, the mean of lower blocks; ``classes`` f[b, m, C] the mask class tokens after the complete last
    block, or None."""

    streams: Tensor
    classes: Tensor | None


class CorrCLIP(Method):
    """Correlations from DINO inside regions, values from CLIP, and a class token for every region."""

    Params = CorrCLIPParams
    needs: ClassVar[Needs] = Needs(backbones=("clip", "dino"), regions=True)
    windowwise = True

    def encode(self, batch: Batch) -> PatchFeatures:
        embedded, clip_grid = self.clip.embed(batch.windows)
        f, s, grid = self.correlation(batch.windows, embedded, clip_grid)  # section 3.2
        ids = nearest_ids(batch.regions, grid)
        batch.note("masks_dino", ids)
        ids = self.merge_masks(ids, f, batch.pad_region, batch.region_slots)
        scope = self.scope(ids, s)

        regions = rank_ids(nearest_ids(ids, clip_grid), batch.region_slots)
        tokens = self.run_clip(embedded, regions)
        if self.params.value:
            attention = self.attention(s, scope)
            batch.note("attn", attention)
            branches = list(self.mix_values(attention, tokens.streams, clip_grid, grid).unbind(1))
        else:
            branches = list(self.mix_heads(scope, tokens.streams).unbind(1))
        weights = [1.0, self.params.alpha] if self.params.spatial_branch else [1.0]
        if tokens.classes is not None:
            branches.append(self.semantic(tokens.classes, regions.rank, grid))
            weights.append(self.params.beta)
        fused = branches[0]
        for weight, branch in zip(weights[1:], branches[1:], strict=True):
            fused = fused + weight * branch
        for name, value in (
            ("dino_feats", f), ("similarity", s), ("masks_merged", ids), ("scope", scope),
            ("masks_token", (regions.value.gather(1, regions.rank.flatten(1))).view_as(regions.rank)),
            ("main_tokens", tokens.streams[:, 0]), ("spatial_tokens", tokens.streams[:, -1]), ("mct", tokens.classes),
            ("mct_count", regions.count), ("branches", torch.stack(branches, 1)),
        ):  # fmt: skip
            batch.note(name, value)
        return PatchFeatures(fused @ self.clip.visual.proj, grid)

    def correlation(self, windows: Tensor, embedded: Tensor, clip_grid: tuple[int, int]) -> Correlation:
        """What is alike: cosines over the full width, by default of query plus key in DINO's last block, S = f f^T.

        ``embedded`` f[b, 1 + T, C] are the tokens that enter CLIP. The grid is that of the tower looked at.
        """
        compared, tower = self.params.similarity, self.params.similarity_from
        if not self.params.value:
            compared, tower = "q-q", "clip"
        if compared == "x-x":
            outputs, grid = self.clip_outputs(embedded, clip_grid) if tower == "clip" else self.dino_outputs(windows)
            left = right = outputs
        else:
            q, k, grid = self.clip_qk(embedded, clip_grid) if tower == "clip" else self.dino_qk(windows)
            left = {"k-k": k, "q-q": q, "q-k": q}.get(compared, q + k)
            right = k if compared == "q-k" else left
        f = F.normalize(left, dim=-1)
        s = f @ (f if right is left else F.normalize(right, dim=-1)).transpose(1, 2)
        return Correlation(f, s, grid)

    def dino_qk(self, windows: Tensor) -> tuple[Tensor, Tensor, tuple[int, int]]:
        q, k, _, grid = self.dino.last_qkv(self.seen_by(self.dino, windows))
        return q, k, grid

    def dino_outputs(self, windows: Tensor) -> tuple[Tensor, tuple[int, int]]:
        return self.dino.last_tokens(self.seen_by(self.dino, windows))

    def clip_qk(self, embedded: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, tuple[int, int]]:
        last = self.clip.blocks[-1]
        heads = self.clip.project_heads(last, last.ln_1(self.clip.trunk(embedded)[:, 1:]))
        return heads.q.transpose(1, 2).flatten(2), heads.k.transpose(1, 2).flatten(2), grid

    def clip_outputs(self, embedded: Tensor, grid: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        return self.clip.visual.ln_post(self.clip.trunk(embedded, until=None)[:, 1:]), grid

    def attention(self, s: Tensor, scope: Tensor) -> Tensor:
        """Value reconstruction, A = softmax(S / tau) inside the scope: f[b, L, L], the same for all heads."""
        weights = torch.zeros_like(s) if self.params.similarity == "uniform" else s / self.params.tau
        return weights.masked_fill(~scope, -torch.inf).softmax(-1)

    def merge_masks(self, ids: Tensor, f: Tensor, first_new_id: int, slots: int | None = None) -> Tensor:
        """Mask merging: regions of alike mean features become one; the lowest id keeps aside.

        DBSCAN with one sample as the minimum is the connected components of "distance <= eps", here those of all
        windows in one graph. The distance is max(R) - R, as in the code, not 1 - R (paper); the two differ in rounding
        only. Windows with at most two ids stay as they are. Merged ids count up from ``first_new_id``.
        """
        if not self.params.mask_merging:
            return ids
        ranks = rank_ids(ids, slots)
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

    def run_clip(self, x: Tensor, regions: Ranks) -> Tokens:
        """All blocks. Class token and patches are plain CLIP; a mask class token starts as the class token, looks at
        the class token and at the patches of its region, and is seen by nobody, so it rides along as a further query.
        """
        clip, depth = self.clip, self.spatial_depth()
        z = x[:, :1].expand(-1, regions.value.shape[1], -1) if self.params.mask_class_tokens else None  # copies of CLS
        own = torch.arange(regions.value.shape[1], device=x.device)[:, None] == regions.rank.flatten(1)[:, None]
        sees = F.pad(own, (1, 0), value=True)[:, None]  # b[b, 1, m, 1 + T]
        spatial = torch.zeros_like(x)
        for number, block in enumerate(clip.blocks):
            q, k, v = clip.project_heads(block, block.ln_1(x))
            if z is not None:
                q_z = clip.project_heads(block, block.ln_1(z)).q
                z = z + clip.merge_heads(block, F.scaled_dot_product_attention(q_z, k, v, attn_mask=sees))
                z = clip.feed_forward(block, z)
            if number == clip.layers - 1:
                break  # the last block of the patches is rebuilt by mix_values
            x = x + clip.merge_heads(block, F.scaled_dot_product_attention(q, k, v))
            x = clip.feed_forward(block, x)
            if clip.layers - 2 - depth <= number <= clip.layers - 3:  # block N - 2 itself is not in the mean
                spatial = spatial + x / depth
        return Tokens(torch.stack([x, spatial] if self.params.spatial_branch else [x], 1), z)

    def spatial_depth(self) -> int:
        given = self.params.spatial_depth
        return SPATIAL_DEPTH.get(self.clip.layers, self.clip.layers - 4) if given is None else given

    def mix_values(
        self, attention: Tensor, streams: Tensor, clip_grid: tuple[int, int], grid: tuple[int, int]
    ) -> Tensor:
        """The last block rebuilt: values of the streams on the correlation grid, mixed by ``attention``; no residual,
        no feed-forward. Maps f[b, 1 or 2, L, C] after ``ln_post``."""
        last, count = self.clip.blocks[-1], streams.shape[1]
        v = self.clip.values(last, last.ln_1(streams[:, :, 1:])).flatten(0, 1)  # f[b * count, T, C]
        v = v.transpose(1, 2).unflatten(2, clip_grid)
        v = F.interpolate(v, grid, mode="bilinear", align_corners=False)
        v = v.flatten(2).transpose(1, 2).unflatten(0, (-1, count))  # f[b, count, L, C]
        mixed = last.ls_1(last.attn.out_proj(attention[:, None] @ v))
        return self.clip.visual.ln_post(mixed)

    def mix_heads(self, scope: Tensor, streams: Tensor) -> Tensor:
        """As `mix_values` without value reconstruction: every head of the first stream weighs by its own queries,
        softmax(q q^T), the class token inside every scope."""
        clip, last, count = self.clip, self.clip.blocks[-1], streams.shape[1]
        v = clip.project_heads(last, last.ln_1(streams.flatten(0, 1))).v
        q = clip.project_heads(last, last.ln_1(streams[:, 0])).q.repeat_interleave(count, 0)
        sees = F.pad(scope, (1, 0), value=True)[:, None].repeat_interleave(count, 0)  # b[b * count, 1, T, 1 + T]
        mixed = F.scaled_dot_product_attention(q[:, :, 1:], q, v, attn_mask=sees)
        return clip.visual.ln_post(clip.merge_heads(last, mixed)).unflatten(0, (-1, count))

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
    _, component = connected_components(graph, directed=False)
    component = torch.as_tensor(component, dtype=torch.int64).view(b, m)
    same = component[:, :, None] == component[:, None, :]
    first = same.int().argmax(2)  # the first member of each node's component
    leads = (first == torch.arange(m)) & near.any(2)
    return (leads.cumsum(1) - 1).gather(1, first)
