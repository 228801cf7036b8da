"""CorrCLIP: reconstruct the correlations of CLIP's patches with DINO and region maps.

Symbols: B windows; L = gh * gw patches of the DINO grid; T = th * tw patches of the CLIP grid; C width of CLIP; D width
of the features at hand; M mask class tokens (MCT). The lowest region id present in a window means "not segmented".
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.base import Batch, Method, PatchFeatures
from ovbench.methods.declarations import CorrCLIPDeclaration
from ovbench.regions.ids import Ranks, majority_labels, nearest_ids, rank_ids

SPATIAL_DEPTH = {12: 5, 24: 12, 32: 28}  # blocks in the spatial branch, by depth of the tower (default: depth - 4)


class Correlation(NamedTuple):
    """The correlation of the patches.

    Attributes:
        features: f, float (B, L, D), normalised.
        s: S, float (B, L, L), cosine of all pairs.
        grid: (gh, gw).
    """

    features: Tensor
    s: Tensor
    grid: tuple[int, int]


class Tokens(NamedTuple):
    """The tokens of the CLIP tower.

    Attributes:
        streams: float (B, 1 or 2, 1 + T, C), the input of the last block and, for the spatial branch, the mean of lower
            blocks.
        classes: float (B, M, C), mask class tokens after the complete last block, or None.
    """

    streams: Tensor
    classes: Tensor | None


class CorrCLIP(CorrCLIPDeclaration, Method):
    """Attend by DINO correlations inside regions, and add a class token for every region.

    Paper: Zhang et al., "CorrCLIP", ICCV 2025, arXiv 2411.10086. Code: zdk258/CorrCLIP 103bc18, folder CorrCLIPv1.
    """

    heavy: ClassVar[tuple[str, ...]] = ("run_clip",)  # see `ovbench.inference.precision`
    windowwise = True
    uses_fp64 = True

    def encode(self, batch: Batch) -> PatchFeatures:
        """Return features float (B, L, D) of the windows on the correlation grid."""
        embedded, clip_grid = self.clip.embed(batch.windows)  # (B, 1 + T, C)
        f, s, grid = self.correlation(batch, embedded, clip_grid)
        ids = nearest_ids(batch.regions, grid)  # (B, gh, gw)
        batch.note("masks_dino", ids)
        ids = self.merge_masks(ids, f, batch.pad_region, batch.region_slots)
        scope = self.scope(ids, s)  # E, (B, L, L)

        regions = rank_ids(nearest_ids(ids, clip_grid), batch.region_slots)
        tokens = self.run_clip(embedded, regions)
        attention = self.attention(s, scope)  # A, (B, L, L)
        batch.note("attn", attention)
        if attention is None:
            branches = list(self.mix_heads(scope, tokens.streams).unbind(1))
        else:
            branches = list(self.mix_values(attention, tokens.streams, clip_grid, grid).unbind(1))
        weights = [1.0, self.params.alpha] if self.params.spatial_branch else [1.0]
        if tokens.classes is not None:
            branches.append(self.semantic(tokens.classes, regions.rank, grid))
            weights.append(self.params.beta)
        fused = branches[0]  # main + alpha spatial + beta semantic, each (B, L, C) after ln_post
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

    def correlation(self, batch: Batch, embedded: Tensor, clip_grid: tuple[int, int]) -> Correlation:
        """Compute the correlation S = f f^T, by default with f = q + k of DINO's last block over the full width.

        ``embedded`` (B, 1 + T, C) are the tokens that enter CLIP. The grid is the one of the compared tower.
        """
        compared, tower, windows = self.params.similarity, self.params.similarity_from, batch.windows
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
        """Return q and k of DINO's last block, each (B, L, D), and their grid."""
        q, k, _, grid = self.dino.last_qkv(self.seen_by(self.dino, windows))
        return q, k, grid

    def dino_outputs(self, windows: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """Return the output tokens of DINO (B, L, D) and their grid."""
        return self.dino.last_tokens(self.seen_by(self.dino, windows))

    def clip_qk(self, embedded: Tensor, grid: tuple[int, int]) -> tuple[Tensor, Tensor, tuple[int, int]]:
        """Return q and k of CLIP's last block, each (B, T, C), and their grid."""
        last = self.clip.blocks[-1]
        heads = self.clip.project_heads(last, last.ln_1(self.clip.trunk(embedded)[:, 1:]))
        return heads.q.transpose(1, 2).flatten(2), heads.k.transpose(1, 2).flatten(2), grid

    def clip_outputs(self, embedded: Tensor, grid: tuple[int, int]) -> tuple[Tensor, tuple[int, int]]:
        """Return the output tokens of CLIP (B, T, C) and their grid."""
        return self.clip.visual.ln_post(self.clip.trunk(embedded, until=None)[:, 1:]), grid

    def attention(self, s: Tensor, scope: Tensor) -> Tensor | None:
        """Value reconstruction: A = softmax(S / tau) inside the scope, (B, L, L), the same for all heads.

        None without value reconstruction.
        """
        if not self.params.value:
            return None
        weights = torch.zeros_like(s) if self.params.similarity == "uniform" else s / self.params.tau
        return weights.masked_fill(~scope, -torch.inf).softmax(-1)

    def merge_masks(self, ids: Tensor, f: Tensor, first_new_id: int, slots: int | None = None) -> Tensor:
        """Mask merging: merge regions (B, gh, gw) with similar mean features, except the lowest id.

        DBSCAN with min_samples 1 gives the connected components of "distance <= eps", found here for all windows in one
        graph. The distance is max(R) - R as in the official code; the paper's 1 - R differs by rounding only. Windows
        with at most two ids are unchanged. Merged regions are numbered from ``first_new_id``.
        """
        if not self.params.mask_merging:
            return ids
        ranks = rank_ids(ids, slots)
        near = self.region_distances(ranks, f) <= self.params.eps
        component = _components(near)
        merges = (ranks.count > 2)[:, None] & near.any(2)
        value = torch.where(merges, component + first_new_id, ranks.value)
        return value.gather(1, ranks.rank.flatten(1)).view_as(ids)

    def region_distances(self, ranks: Ranks, f: Tensor) -> Tensor:
        """Return the distances of the mean features of regions, float (B, M, M), NaN for the lowest id and padding.

        Args:
            ranks: Region ids of the patches, (B, gh, gw).
            f: float (B, L, D), features of the patches.
        """
        m = ranks.value.shape[1]
        onehot = F.one_hot(ranks.rank.flatten(1), m).to(f.dtype)  # (B, L, M)
        means = (onehot.transpose(1, 2) @ f) / onehot.sum(1).clamp(min=1)[..., None]
        means = F.normalize(means, dim=-1)  # (B, M, D)
        cosines = means @ means.transpose(1, 2)  # R, (B, M, M)
        column = torch.arange(m, device=f.device)
        member = (column > 0) & (column < ranks.count[:, None])  # (B, M), all but the lowest id
        pairs = member[:, :, None] & member[:, None, :]
        largest = cosines.masked_fill(~pairs, -torch.inf).amax((1, 2), keepdim=True)
        return (largest - cosines).masked_fill(~pairs, torch.nan)

    def scope(self, ids: Tensor, s: Tensor) -> Tensor:
        """Scope reconstruction: return the pairs of patches E that attend to each other, bool (B, L, L).

        Patches of one region do. A pair with a patch that is not segmented does if S exceeds the mean of S. A patch
        always attends to itself, which matters only if the features of a window are constant.
        """
        if not self.params.scope:
            return torch.ones_like(s, dtype=torch.bool)
        ids = ids.flatten(1)
        lowest = ids == ids.amin(1, keepdim=True)
        open_pair = lowest[:, :, None] | lowest[:, None, :]
        similar = s > s.mean((1, 2), keepdim=True)
        allowed = torch.where(open_pair, similar, ids[:, :, None] == ids[:, None, :])
        return allowed | torch.eye(s.shape[1], dtype=torch.bool, device=s.device)

    def run_clip(self, x: Tensor, regions: Ranks) -> Tokens:
        """Run all blocks of CLIP, with mask class tokens z as additional queries.

        The class token and the patches are unchanged. A mask class token starts as the class token and attends to the
        class token and the patches of its region. No token attends to it.
        """
        clip, depth, tokens = self.clip, self.spatial_depth(), x.shape[1]
        masks = regions.value.shape[1] if self.params.mask_class_tokens else 0
        own = torch.arange(masks, device=x.device)[:, None] == regions.rank.flatten(1)[:, None]
        sees = F.pad(own, (1, 0), value=True)[:, None]  # (B, 1, M, 1 + T)
        spatial = torch.zeros_like(x)
        x = torch.cat([x, x[:, :1].expand(-1, masks, -1)], 1)  # z, copies of CLS, behind the patches
        for number, block in enumerate(clip.blocks):
            q, k, v = clip.project_heads(block, block.ln_1(x))
            k, v = k[:, :, :tokens], v[:, :, :tokens]
            mixed = [F.scaled_dot_product_attention(q[:, :, tokens:], k, v, attn_mask=sees)] if masks else []
            if number == clip.layers - 1:
                break  # mix_values replaces the last block of the patches
            mixed.insert(0, F.scaled_dot_product_attention(q[:, :, :tokens], k, v))
            x = clip.feed_forward(block, x + clip.merge_heads(block, torch.cat(mixed, 2)))
            if clip.layers - 2 - depth <= number <= clip.layers - 3:  # block N - 2 itself is not in the mean
                spatial = spatial + x[:, :tokens] / depth
        z = clip.feed_forward(block, x[:, tokens:] + clip.merge_heads(block, mixed[0])) if masks else None
        x = x[:, :tokens]
        return Tokens(torch.stack([x, spatial] if self.params.spatial_branch else [x], 1), z)

    def spatial_depth(self) -> int:
        """Return the number of blocks that the spatial branch averages."""
        given = self.params.spatial_depth
        return SPATIAL_DEPTH.get(self.clip.layers, self.clip.layers - 4) if given is None else given

    def mix_values(
        self, attention: Tensor, streams: Tensor, clip_grid: tuple[int, int], grid: tuple[int, int]
    ) -> Tensor:
        """Replace the last block: mix the values of each stream by A, without residual and feed-forward.

        Returns:
            float (B, 1 or 2, L, C), after ``ln_post``.
        """
        last, count = self.clip.blocks[-1], streams.shape[1]
        v = self.clip.values(last, last.ln_1(streams[:, :, 1:])).flatten(0, 1)  # (B * count, T, C)
        v = v.transpose(1, 2).unflatten(2, clip_grid)
        v = F.interpolate(v, grid, mode="bilinear", align_corners=False)
        v = v.flatten(2).transpose(1, 2).unflatten(0, (-1, count))  # (B, count, L, C)
        mixed = last.ls_1(last.attn.out_proj(attention[:, None] @ v))
        return self.clip.visual.ln_post(mixed)

    def mix_heads(self, scope: Tensor, streams: Tensor) -> Tensor:
        """Replace the last block without value reconstruction: softmax(q q^T) of each head of the first stream.

        The class token is in every scope. The result is as in `mix_values`.
        """
        clip, last, count = self.clip, self.clip.blocks[-1], streams.shape[1]
        v = clip.project_heads(last, last.ln_1(streams.flatten(0, 1))).v
        q = clip.project_heads(last, last.ln_1(streams[:, 0])).q.repeat_interleave(count, 0)
        sees = F.pad(scope, (1, 0), value=True)[:, None].repeat_interleave(count, 0)  # (B * count, 1, T, 1 + T)
        mixed = F.scaled_dot_product_attention(q[:, :, 1:], q, v, attn_mask=sees)
        return clip.visual.ln_post(clip.merge_heads(last, mixed)).unflatten(0, (-1, count))

    def semantic(self, classes: Tensor, rank: Tensor, grid: tuple[int, int]) -> Tensor:
        """Semantic branch: give each patch the mask class token of its region, (B, L, C) after ``ln_post``.

        The region is looked up on the CLIP grid, so it can differ from the patch's own id at borders.
        """
        rank = nearest_ids(rank, grid).flatten(1)
        classes = self.clip.visual.ln_post(classes)
        return classes.gather(1, rank[..., None].expand(-1, -1, classes.shape[-1]))

    def refine_labels(self, labels: Tensor, regions: Tensor | None) -> Tensor:
        """Map correction: give each region of the original image its most frequent label."""
        return majority_labels(labels, regions) if self.params.map_correction else labels


def _components(near: Tensor) -> Tensor:
    """Return connected components int64 (B, M) of graphs bool (B, M, M), numbered from 0 in each by first member.

    Squaring the matrix of paths doubles their length; so the host need not wait for a GPU.
    """
    count = near.shape[1]
    number = torch.arange(count, device=near.device)
    paths = (near | near.mT | (number[:, None] == number)).float()
    for _ in range((count - 1).bit_length()):
        paths = (paths @ paths > 0).float()
    first = torch.where(paths > 0, number, count).amin(2)
    leads = (first == number) & near.any(2)  # a node without edges, also to itself, gets no number
    return (leads.cumsum(1) - 1).gather(1, first)
