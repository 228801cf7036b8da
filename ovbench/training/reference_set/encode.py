"""The networks of the build: dense CLIP features and phrases for the pairing, DINOv2 features for everything after."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.build import Loaded
from ovbench.backbones.text import TextEncoder, embed_queries
from ovbench.config.load import Protocol
from ovbench.inference.scene import resize_image, resized_size
from ovbench.methods.base import Backbones
from ovbench.methods.clip import CLIP
from ovbench.methods.last_block import NoResidual
from ovbench.methods.maskclip import MaskCLIP
from ovbench.methods.reme.method import patch_tokens
from ovbench.methods.reme.pooling import segment_embeddings
from ovbench.regions.base import rank_ids
from ovbench.regions.cover import complete

KNOWN_PHRASES = 20000
CLIP_PROTOCOL = Protocol()  # its mean and deviation are CLIP's
CROPS_AT_ONCE = 64


class Segmented(NamedTuple):
    """The segments 0..count-1 of an image: ``map`` i64[H, W]."""

    map: Tensor
    count: int


def segmented(regions: np.ndarray, device: str) -> Segmented:
    """A region map with every pixel in a segment, as `ReME.encode` numbers them."""
    ranks = rank_ids(torch.from_numpy(complete(regions)).to(device)[None].long())
    return Segmented(ranks.rank[0], int(ranks.count))


def prepared(image: np.ndarray, short_side: int, long_side: int, protocol: Protocol, device: str) -> Tensor:
    """An RGB image u8[H, W, 3] resized and normalised as the labeller does: f[1, 3, h, w]."""
    resized = resize_image(image, resized_size(image.shape[:2], short_side, long_side))
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (protocol.mean, protocol.std))
    pixels = torch.as_tensor(np.ascontiguousarray(resized), device=device).permute(2, 0, 1)
    return ((pixels.float() - mean) / std)[None]


class PairingEncoder:
    """Segments and phrases in CLIP's joint space (equation A1 with CLIP-V, equation A2)."""

    def __init__(
        self, clip: Loaded, features: str, short_side: int, templates: Sequence[str], device: str, zeta: str = "area"
    ):
        self.clip, self.text, self.zeta = clip.vision.to(device), clip.text, zeta
        clip.text.model.to(device)
        self.features, self.short_side, self.device = features, short_side, device
        backbones = Backbones(clip=self.clip)
        self.method = CLIP(backbones) if features == "vanilla" else MaskCLIP(backbones, NoResidual(False))
        self.templates = tuple(templates)
        self._known: OrderedDict[str, np.ndarray] = OrderedDict()

    @torch.inference_mode()
    def segments(self, image: np.ndarray, seen: Segmented) -> np.ndarray:
        """f[count, d] of the segments of an RGB image."""
        if self.features == "crop":
            return self._crops(image, seen)
        pixels = prepared(image, self.short_side, CLIP_PROTOCOL.long_side, CLIP_PROTOCOL, self.device)
        patch = self.clip.patch
        sides = tuple(max(round(side / patch), 1) * patch for side in pixels.shape[-2:])
        if sides != tuple(pixels.shape[-2:]):
            pixels = F.interpolate(pixels, sides, mode="bilinear", align_corners=False)
        dense = self.method.dense(pixels)
        return segment_embeddings(dense.tokens[0], dense.grid, seen.map, seen.count, self.zeta).cpu().numpy()

    def _crops(self, image: np.ndarray, seen: Segmented) -> np.ndarray:
        """The class token of each segment's bounding box, with the mean colour around the segment."""
        side = self.clip.patch * round((self.clip.visual.positional_embedding.shape[0] - 1) ** 0.5)
        ids, grey = seen.map.cpu().numpy(), np.array(CLIP_PROTOCOL.mean).round().astype(np.uint8)
        crops = []
        for number, (y1, x1, y2, x2) in enumerate(boxes(ids, seen.count)):
            inside = ids[y1:y2, x1:x2] == number
            crop = np.where(inside[..., None], image[y1:y2, x1:x2], grey)
            crops.append(cv2.resize(crop, (side, side), interpolation=cv2.INTER_CUBIC))
        chunks = [crops[i : i + CROPS_AT_ONCE] for i in range(0, len(crops), CROPS_AT_ONCE)]
        batches = (torch.cat([prepared(c, 0, side, CLIP_PROTOCOL, self.device) for c in chunk]) for chunk in chunks)
        return torch.cat([CLIP(Backbones(clip=self.clip)).class_features(batch) for batch in batches]).cpu().numpy()

    def phrases(self, texts: Sequence[str]) -> np.ndarray:
        """f[n, d] of phrases; the most recent ones are remembered."""
        new = [text for text in dict.fromkeys(texts) if text not in self._known]
        found = {text: self._known[text] for text in texts if text in self._known}
        found.update(zip(new, embed_texts(self.text, new, self.templates), strict=True))
        for text in texts:
            self._known[text] = found[text]
            self._known.move_to_end(text)
        while len(self._known) > KNOWN_PHRASES:
            self._known.popitem(last=False)
        return np.stack([found[text] for text in texts])


class VisualEncoder:
    """Segments in the space of the retrieval (equation A1 with DINOv2)."""

    def __init__(self, dinov2: Loaded, protocol: Protocol, device: str, zeta: str = "area"):
        self.dinov2, self.protocol, self.device, self.zeta = dinov2.vision.to(device), protocol, device, zeta

    @torch.inference_mode()
    def segments(self, image: np.ndarray, seen: Segmented) -> np.ndarray:
        p = self.protocol
        pixels = prepared(image, p.short_side, p.long_side, p, self.device)
        tokens = patch_tokens(self.dinov2, pixels)
        return segment_embeddings(*tokens, seen.map, seen.count, self.zeta).cpu().numpy()


@torch.inference_mode()
def embed_texts(encoder: TextEncoder, texts: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """Equation A2, f32[n, d]."""
    if not texts:
        return np.empty((0, 0), np.float32)
    return embed_queries(encoder, texts, templates).float().cpu().numpy()


def boxes(ids: np.ndarray, count: int) -> list[tuple[int, int, int, int]]:
    """The bounding box (y1, x1, y2, x2) of each id 0..count-1 of a map i[h, w], half-open."""
    from scipy import ndimage

    slices = ndimage.find_objects(ids + 1, max_label=count)
    return [(s[0].start, s[1].start, s[0].stop, s[1].stop) for s in slices]
