"""OV-Stitcher: windows only give tokens; their cells are stitched into one grid of the image, where attention runs.

Symbols: W windows; L = gh * gw cells of the image's DINO grid; T = th * tw cells of its CLIP grid; C width of CLIP; D
width of DINO; M regions of the image after merging. The lowest region id means "not segmented".
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.base import Batch, Note, PatchFeatures, WindowedImage
from ovbench.methods.corrclip import CorrCLIP
from ovbench.methods.declarations import OVStitcherDeclaration
from ovbench.methods.ops import Box
from ovbench.regions.ids import nearest_ids
from ovbench.utils.errors import InputError
from ovbench.utils.upload import upload

BLOCK = 1 << 25  # elements of the similarities of some cells with all cells, which are in memory at once
PAD_ID = 0  # region id of padded pixels, as in the official code


class TowerTokens(NamedTuple):
    """The tokens of the windows in both towers.

    Attributes:
        dino: float (W, S, D), patches that enter DINO's last block.
        dino_grid: Cells of a window.
        clip: float (W, N, 1 + S', C), class token and patches that enter each of CLIP's N blocks.
        clip_grid: Cells of a window.
    """

    dino: Tensor
    dino_grid: tuple[int, int]
    clip: Tensor
    clip_grid: tuple[int, int]


class Stitch:
    """Average the cells of all windows of an image in one grid.

    The corner of a window is rounded down to cells, so the cells of the last windows are up to a patch off their place,
    as in the official code. Of a padded window, the cells that begin in the padding are skipped; the official code
    fails where too few are left, here fewer are skipped.

    Args:
        image: The image with its windows.
        patch: Side of a cell in pixels.

    Raises:
        InputError: If a cell of the image is in no window.
    """

    def __init__(self, image: WindowedImage, patch: int):
        self.patch, self.boxes, self.pad = patch, image.boxes, image.pad
        self.grid = (_cells(image.size[0], patch), _cells(image.size[1], patch))
        count = torch.zeros(self.grid)
        for box in self.boxes:
            self._place(box).of(count).add_(1)
        if not count.all():
            raise InputError(
                f"windows of {self.boxes[0].size[0]}x{self.boxes[0].size[1]} pixels leave cells of {patch} pixels out",
                fix=f"set crop to a multiple of {patch}, or a smaller stride",
            )
        self.count = upload(count.numpy(), image.resized.device)

    def __call__(self, cells: Tensor, window_grid: tuple[int, int]) -> Tensor:
        """Return the mean of the cells of all windows.

        Args:
            cells: float (W, S, C), features of the cells of each window.
            window_grid: Rows and columns of the cells of a window.

        Returns:
            float (gh * gw, C).
        """
        total = cells.new_zeros((cells.shape[-1], *self.grid))
        for window, box in zip(cells.mT.unflatten(2, window_grid), self.boxes, strict=True):
            place = self._place(box)
            (height, width), (pad, sides) = place.size, (self.pad, window_grid)
            top, left = self._skipped(pad.top, sides[0], height), self._skipped(pad.left, sides[1], width)
            place.of(total).add_(window[:, top : top + height, left : left + width])
        return (total / self.count).flatten(1).mT

    def _place(self, box: Box) -> Box:
        top, left = box.y1 // self.patch, box.x1 // self.patch
        return Box(top, left, top + _cells(box.size[0], self.patch), left + _cells(box.size[1], self.patch))

    def _skipped(self, pad: int, cells: int, used: int) -> int:
        return min(-(-pad // self.patch), cells - used)


def _cells(pixels: int, patch: int) -> int:
    return max(pixels // patch, 1)


class OVStitcher(OVStitcherDeclaration, CorrCLIP):
    """Stitch the tokens of all windows, then run CorrCLIP's attention once over the image.

    Paper: "OV-Stitcher", CVPR 2026 Findings, arXiv 2604.08110. Code: atw617/OV-Stitcher 91a9489. The code averages
    queries, keys and values over windows. Projections are linear, so here the normed tokens are averaged before them.
    """

    describes_by_prompts = True
    heavy: ClassVar[tuple[str, ...]] = ("last_dino_block", "spatial_tokens", "class_tokens")  # `inference.precision`
    compiles: ClassVar[tuple[str, ...]] = ("class_tokens",)

    def encode(self, batch: Batch) -> TowerTokens:
        """Return the tokens of the windows."""
        dino, dino_grid = self.dino.before_last(self.seen_by(self.dino, batch.windows))
        embedded, clip_grid = self.clip.embed(batch.windows)
        states = self.clip.states(embedded, range(self.clip.layers))
        return TowerTokens(dino, dino_grid, torch.stack(states, 1), clip_grid)

    def join(self, features: TowerTokens, image: WindowedImage) -> PatchFeatures:
        """Return features float (1, L, D) of the image on the DINO grid."""
        note, last, visual = image.note, self.clip.blocks[-1], self.clip.visual
        cells, patches = Stitch(image, self.dino.patch), Stitch(image, self.clip.patch)
        f = F.normalize(self.last_dino_block(features, cells, note), dim=-1)  # (L, D)
        ids = nearest_ids(image.resized_regions[None], cells.grid)  # (1, gh, gw)
        merged = self.merge_masks(ids, f[None], image.pad_region)
        for name, value in (("dino_feats", f), ("masks_dino", ids[0]), ("masks_merged", merged[0])):
            note(name, value)

        main = features.clip[:, -1]  # (W, 1 + S', C)
        note("main_tokens", main)
        values = [self.clip.values(last, patches(last.ln_1(main[:, 1:]), features.clip_grid))]
        weights = [1.0]
        note("main_values", values[0])
        if self.params.spatial_branch:
            tokens = self.spatial_tokens(features, patches, note)
            values.append(self.clip.values(last, last.ln_1(tokens)))
            weights.append(self.params.alpha)
        v = torch.stack(values).mT.unflatten(2, patches.grid)
        v = F.interpolate(v, cells.grid, mode="bilinear", align_corners=False).flatten(2).mT  # (1 or 2, L, C)
        mixed = self.attend(f, merged.flatten(), v, note)
        branches = [*last.ls_1(last.attn.out_proj(mixed))]
        if self.params.mask_class_tokens:
            branches.append(self.class_map(features, merged, image, cells))
            weights.append(self.params.beta)
        branches = visual.ln_post(torch.stack(branches))  # main, spatial, semantic, each (L, C)
        note("branches", branches)
        fused = branches[0]
        for weight, branch in zip(weights[1:], branches[1:], strict=True):
            fused = fused + weight * branch
        return PatchFeatures((fused @ visual.proj)[None], cells.grid)

    def last_dino_block(self, features: TowerTokens, cells: Stitch, note: Note) -> Tensor:
        """Return the output of DINO's last block over all cells, without a class token, float (L, D).

        The residual is the token before the block after the tower's last norm, because the official code takes
        intermediate tokens after it.
        """
        vit, heads = self.dino.vit, self.dino.heads
        last = vit.blocks[-1]
        residual = cells(vit.norm(features.dino), features.dino_grid)
        qkv = last.attn.qkv(cells(last.norm1(features.dino), features.dino_grid)).unflatten(1, (3, heads, -1))
        q, k, v = qkv.permute(1, 2, 0, 3)[:, None]  # each (1, heads, L, D / heads)
        note("dino_qkv", qkv.flatten(2).transpose(0, 1))
        note("dino_residual", residual)
        mixed = F.scaled_dot_product_attention(q, k, v)[0].transpose(0, 1).flatten(1)
        y = residual + last.ls1(last.attn.proj(mixed))
        return y + last.ls2(last.mlp(last.norm2(y)))

    def spatial_tokens(self, features: TowerTokens, patches: Stitch, note: Note) -> Tensor:
        """Return the mean of lower blocks over the stitched patches, float (T, C).

        Every block starts from the tokens of the windows. Its attention has no heads, but the scale of one head.
        """
        clip, depth = self.clip, self.spatial_depth()
        mean = 0.0
        for number in range(clip.layers - 2 - depth, clip.layers - 2):
            block, x = clip.blocks[number], features.clip[:, number, 1:]
            tokens = patches(x, features.clip_grid)
            note("spatial_in", tokens)
            normed = patches(block.ln_1(x), features.clip_grid)
            q, k, v = F.linear(normed, block.attn.in_proj_weight, block.attn.in_proj_bias).chunk(3, -1)
            attention = (q @ k.T * (clip.width / clip.heads) ** -0.5).softmax(-1)  # (T, T)
            note("spatial_attention", attention)
            tokens = tokens + block.ls_1(block.attn.out_proj(attention @ v))
            mean = mean + clip.feed_forward(block, tokens) / depth
        note("spatial_tokens", mean)
        return mean

    def attend(self, f: Tensor, ids: Tensor, values: Tensor, note: Note) -> Tensor:
        """Return the values mixed by softmax(S / tau) inside the scope, for some cells at a time.

        Cells of one region attend to each other. A pair with a cell that is not segmented does if S exceeds the mean of
        S over all pairs. A cell always attends to itself.

        Args:
            f: float (L, D), normalised; S = f f^T.
            ids: int64 (L,), merged region ids.
            values: float (branches, L, C).
            note: Called with intermediate quantities of these cells.
        """
        count = len(f)
        mean = f.double().sum(0).square().sum() / count**2  # the sum over all pairs is the squared norm of the sum
        note("similarity_mean", mean)
        lowest = ids == ids.amin()
        mixed = []
        for own in torch.arange(count, device=f.device).split(max(BLOCK // count, 1)):
            s = f[own] @ f.T  # (R, L)
            note("similarity", s)
            scope = torch.ones_like(s, dtype=torch.bool)
            if self.params.scope:
                scope = torch.where(lowest[own, None] | lowest, s > mean, ids[own, None] == ids)
                scope.scatter_(1, own[:, None], True)
            attention = (s / self.params.tau).masked_fill(~scope, -torch.inf).softmax(-1)
            note("scope", scope)
            note("attn", attention)
            mixed.append(attention @ values)
        return torch.cat(mixed, 1)

    def class_map(self, features: TowerTokens, merged: Tensor, image: WindowedImage, cells: Stitch) -> Tensor:
        """Return the mean over windows of the mask class token of each cell's region, float (L, C).

        The ids go to pixels, to the patches of each window, and back to cells, so at borders they can differ from the
        ids of the grid.
        """
        regions = merged.unique()  # (M,), ascending
        resized = nearest_ids(merged, image.size)[0]
        ids = torch.stack([F.pad(box.of(resized), tuple(image.pad), value=PAD_ID) for box in image.boxes])
        ids = nearest_ids(ids, features.clip_grid)  # (W, rows, columns)
        own = ids.flatten(1)[:, None] == regions[:, None]  # (W, M, S')
        classes = self.class_tokens(features.clip, own)  # (W, M, C)
        of_cell = nearest_ids(ids, features.dino_grid).flatten(1)[..., None] == regions  # (W, S, M)
        stitched = cells(of_cell.to(classes.dtype) @ classes, features.dino_grid)
        for name, value in (
            ("region_list", regions), ("masks_token", ids), ("mct", classes), ("semantic_stitched", stitched),
        ):  # fmt: skip
            image.note(name, value)
        return stitched

    def class_tokens(self, states: Tensor, own: Tensor) -> Tensor:
        """Return the mask class tokens of all regions after CLIP, float (W, M, C), also of those not in a window.

        A token starts as the class token and attends to it and to the patches of its region; none attends to it.

        Args:
            states: float (W, N, 1 + S', C), tokens that enter each block.
            own: bool (W, M, S'), patches of each region.
        """
        clip, sees = self.clip, F.pad(own, (1, 0), value=True)[:, None]  # (W, 1, M, 1 + S')
        z = states[:, 0, :1].expand(-1, own.shape[1], -1)
        for number, block in enumerate(clip.blocks):
            k, v = clip.keys_values(block, block.ln_1(states[:, number]))
            q = clip.project_heads(block, block.ln_1(z)).q
            z = z + clip.merge_heads(block, F.scaled_dot_product_attention(q, k, v, attn_mask=sees))
            z = clip.feed_forward(block, z)
        return z
