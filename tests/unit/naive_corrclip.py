"""CorrCLIP written down step by step from its description, one window, one region and one patch at a time.

Slow on purpose and independent of `ovbench.methods.corrclip`: it shares with it only the towers' weights.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.methods.base import Backbones
from ovbench.methods.tower_params import CorrCLIPParams

PAD_ID = 10000
CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)
DINO_MEAN, DINO_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def positions(table: Tensor, h: int, w: int, keep_if_square_only: bool) -> Tensor:
    count = len(table) - 1
    if h * w == count and (h == w or not keep_if_square_only):
        return table
    n = int(count**0.5)
    grid = table[1:].reshape(1, n, n, -1).permute(0, 3, 1, 2)
    grid = F.interpolate(grid, scale_factor=((h + 0.1) / n, (w + 0.1) / n), mode="bicubic")
    return torch.cat([table[:1], grid.permute(0, 2, 3, 1).reshape(h * w, -1)])


def nearest(ids: Tensor, h: int, w: int) -> Tensor:
    return F.interpolate(ids[None, None].float(), (h, w), mode="nearest")[0, 0].long()


def dino_features(dino, window: Tensor) -> tuple[Tensor, int, int]:
    pixels = window.clone()
    for channel in range(3):
        undone = pixels[channel] * CLIP_STD[channel] + CLIP_MEAN[channel]
        pixels[channel] = (undone - DINO_MEAN[channel]) / DINO_STD[channel]
    vit = dino.vit
    maps = vit.patch_embed.proj(pixels[None])
    h, w = maps.shape[2:]
    x = torch.cat([vit.cls_token, maps.flatten(2).transpose(1, 2)], 1) + positions(vit.pos_embed[0], h, w, True)
    for block in vit.blocks[:-1]:
        x = block(x)
    last = vit.blocks[-1]
    qkv = last.attn.qkv(last.norm1(x))
    width = qkv.shape[-1] // 3
    f = (qkv[..., :width] + qkv[..., width : 2 * width])[0, 1:]
    return f / f.norm(dim=-1, keepdim=True), h, w


def components(near: Tensor) -> list[int]:
    """Number of the chain of neighbours that each row is in: DBSCAN's labels if one sample makes a cluster."""
    found = list(range(len(near)))
    for i, j in near.nonzero().tolist():
        found = [found[i] if number == found[j] else number for number in found]
    return [sorted(set(found), key=found.index).index(number) for number in found]


def merge(ids: Tensor, f: Tensor, eps: float, pad_id: int = PAD_ID) -> Tensor:
    present = sorted(set(ids.flatten().tolist()))
    if len(present) <= 2:
        return ids
    means = []
    for region in present[1:]:
        mean = f[ids.flatten() == region].mean(0)
        means.append(mean / mean.norm())
    r = torch.stack(means) @ torch.stack(means).T
    found = components((r.max() - r).clamp(min=0) <= eps)
    merged = ids.clone()
    for region, component in zip(present[1:], found, strict=True):
        merged[ids == region] = pad_id + int(component)
    return merged


def scope(ids: Tensor, s: Tensor) -> Tensor:
    flat, lowest, mean = ids.flatten().tolist(), int(ids.min()), float(s.mean())
    return torch.tensor(
        [
            [sij > mean if lowest in (flat[i], flat[j]) else flat[i] == flat[j] for j, sij in enumerate(row)]
            for i, row in enumerate(s.tolist())
        ]
    )


def clip_block(block, x: Tensor, mask: Tensor) -> Tensor:
    attended = block.attn(*[block.ln_1(x)] * 3, need_weights=False, attn_mask=~mask)[0]
    x = x + attended
    return x + block.mlp(block.ln_2(x))


def window_features(
    towers: Backbones, window: Tensor, ids: Tensor, p: CorrCLIPParams, pad_id: int = PAD_ID
) -> tuple[Tensor, int, int]:
    """Fused and projected features f[L, d] of one padded window f[3, h, w] with region ids i64[h, w], and its grid."""
    f, gh, gw = dino_features(towers.dino, window)
    s = f @ f.T
    merged = merge(nearest(ids, gh, gw), f, p.eps, pad_id)
    attention = (s / p.tau).masked_fill(~scope(merged, s), -torch.inf).softmax(-1)

    visual = towers.clip.visual
    maps = visual.conv1(window[None])
    th, tw = maps.shape[2:]
    x = torch.cat([visual.class_embedding[None, None], maps.flatten(2).transpose(1, 2)], 1)
    x = visual.ln_pre(x + positions(visual.positional_embedding, th, tw, False))
    token_ids = nearest(merged, th, tw)
    regions = sorted(set(token_ids.flatten().tolist()))
    m = len(regions)
    x = torch.cat([x[:, :1]] * m + [x], 1)
    mask = torch.zeros(x.shape[1], x.shape[1], dtype=torch.bool)
    mask[m:, m:] = True
    for number, region in enumerate(regions):
        mask[number, m] = True
        mask[number, m + 1 :] = token_ids.flatten() == region
    blocks = visual.transformer.resblocks
    n = len(blocks)
    depth = {12: 5, 24: 12, 32: 28}.get(n, n - 4) if p.spatial_depth is None else p.spatial_depth
    outputs = []
    for block in blocks[:-1]:
        x = clip_block(block, x, mask)
        outputs.append(x)
    spatial = torch.stack(outputs[n - 2 - depth : n - 2]).mean(0)
    last, width = blocks[-1], x.shape[-1]

    def rebuilt(tokens: Tensor) -> Tensor:
        v = F.linear(last.ln_1(tokens), last.attn.in_proj_weight[2 * width :], last.attn.in_proj_bias[2 * width :])
        v = v[:, m + 1 :].transpose(1, 2).reshape(1, width, th, tw)
        v = F.interpolate(v, (gh, gw), mode="bilinear", align_corners=False).flatten(2).transpose(1, 2)[0]
        return visual.ln_post(last.attn.out_proj(attention @ v))

    classes = visual.ln_post(clip_block(last, x, mask)[0, :m])
    semantic = torch.zeros(gh * gw, width, dtype=x.dtype)
    for number, region in enumerate(regions):
        here = nearest((token_ids == region).long(), gh, gw).flatten().bool()
        semantic[here] = classes[number]
    fused = rebuilt(x) + p.alpha * rebuilt(spatial) + p.beta * semantic
    return fused @ visual.proj, gh, gw


def corrected(labels: Tensor, regions: Tensor) -> Tensor:
    """Map correction, one region at a time."""
    result = labels.clone()
    for region in sorted(set(regions.flatten().tolist()))[1:]:
        result[regions == region] = torch.mode(labels[regions == region])[0]
    return result


def label(
    towers: Backbones, image: Tensor, regions: Tensor, text: Tensor, crop: int, stride: int, threshold: float,
    synonyms: int, p: CorrCLIPParams,
) -> Tensor:  # fmt: skip
    """Labels i64[H, W] of a normalised image f[3, H, W] that is not resized; class 0 has ``synonyms`` queries."""
    _, height, width = image.shape
    pad_id = max(PAD_ID, int(regions.max()) + 1)  # beyond the official code, whose ids stay below 10000
    total = torch.zeros(len(text), height, width, dtype=image.dtype)
    hits = torch.zeros(height, width, dtype=image.dtype)
    for i in range(max(height - crop + stride - 1, 0) // stride + 1):
        for j in range(max(width - crop + stride - 1, 0) // stride + 1):
            y2, x2 = min(i * stride + crop, height), min(j * stride + crop, width)
            y1, x1 = max(y2 - crop, 0), max(x2 - crop, 0)
            h, w = y2 - y1, x2 - x1
            top, left = (-h % 56) // 2, (-w % 56) // 2
            pad = (left, -w % 56 - left, top, -h % 56 - top)
            window = F.pad(image[:, y1:y2, x1:x2], pad)
            ids = F.pad(regions[y1:y2, x1:x2], pad, value=pad_id)
            features, gh, gw = window_features(towers, window, ids, p, pad_id)
            cosines = F.normalize(features, dim=-1) @ text.T
            scores = F.interpolate(cosines.T.reshape(1, -1, gh, gw), window.shape[1:], mode="bilinear")[0]
            total[:, y1:y2, x1:x2] += scores[:, top : top + h, left : left + w]
            hits[y1:y2, x1:x2] += 1
    p_query = (40 * total / hits).softmax(0)
    p_class = torch.cat([p_query[:synonyms].max(0, keepdim=True)[0], p_query[synonyms:]])
    best, labels = p_class.max(0)
    labels[best < threshold] = 0
    return corrected(labels, regions)
