"""The encoders of the build: CLIP for the pairing, DINOv2 for the filters and the retrieval."""

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
from ovbench.methods.base import Backbones
from ovbench.methods.clip import CLIP
from ovbench.methods.maskclip import MaskCLIP
from ovbench.methods.params import NoResidual
from ovbench.methods.reme.method import patch_tokens
from ovbench.methods.reme.pooling import segment_embeddings
from ovbench.regions.cover import complete
from ovbench.regions.ids import rank_ids
from ovbench.utils.images import resize_image, resized_size

CACHED_PHRASES = 20000
CLIP_PROTOCOL = Protocol()  # its default mean and std are CLIP's
CROP_BATCH_SIZE = 64


class SegmentMap(NamedTuple):
    """The segment of each pixel, 0 to ``count`` - 1, int64 (H, W)."""

    map: Tensor
    count: int


def segment_map(regions: np.ndarray, device: str) -> SegmentMap:
    """Return a region map with every pixel in a segment, numbered as in `ReME.encode`."""
    ranks = rank_ids(torch.from_numpy(complete(regions)).to(device)[None].long())
    return SegmentMap(ranks.rank[0], int(ranks.count))


def prepared(image: np.ndarray, short_side: int, long_side: int, protocol: Protocol, device: str) -> Tensor:
    """Resize and normalise an RGB image as the evaluation does.

    Args:
        image: uint8 (H, W, 3).
        short_side: Target length of the short side in pixels.
        long_side: Upper limit of the long side in pixels.
        protocol: Mean and std of the normalisation.
        device: Device of the result.

    Returns:
        float (1, 3, h, w).
    """
    resized = resize_image(image, resized_size(image.shape[:2], short_side, long_side))
    mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (protocol.mean, protocol.std))
    pixels = torch.as_tensor(np.ascontiguousarray(resized), device=device).permute(2, 0, 1)
    return ((pixels.float() - mean) / std)[None]


class PairingEncoder:
    """Segments and phrases in CLIP's joint space (equation A1 with CLIP-V, equation A2).

    Args:
        clip: The CLIP.
        features: "maskclip", "vanilla" or "crop"; see `BuildSettings`.
        short_side: Short side of the resized images in pixels.
        templates: Prompt templates of the phrases.
        device: Device of the networks.
        zeta: How masks become weights of patches.
    """

    def __init__(
        self, clip: Loaded, features: str, short_side: int, templates: Sequence[str], device: str, zeta: str = "area"
    ):
        self.clip, self.text, self.zeta = clip.vision.to(device), clip.text, zeta
        clip.text.model.to(device)
        self.features, self.short_side, self.device = features, short_side, device
        backbones = Backbones(clip=self.clip)
        self.method = CLIP(backbones) if features == "vanilla" else MaskCLIP(backbones, NoResidual(False))
        self.templates = tuple(templates)
        self._cache: OrderedDict[str, np.ndarray] = OrderedDict()

    @torch.inference_mode()
    def segments(self, image: np.ndarray, found: SegmentMap) -> np.ndarray:
        """Return the embeddings of segments, float (count, D), of an RGB image, uint8 (H, W, 3)."""
        if self.features == "crop":
            return self._crops(image, found)
        pixels = prepared(image, self.short_side, CLIP_PROTOCOL.long_side, CLIP_PROTOCOL, self.device)
        patch = self.clip.patch
        sides = tuple(max(round(side / patch), 1) * patch for side in pixels.shape[-2:])
        if sides != tuple(pixels.shape[-2:]):
            pixels = F.interpolate(pixels, sides, mode="bilinear", align_corners=False)
        dense = self.method.dense(pixels)
        return segment_embeddings(dense.tokens[0], dense.grid, found.map, found.count, self.zeta).cpu().numpy()

    def _crops(self, image: np.ndarray, found: SegmentMap) -> np.ndarray:
        """Return the class token of each segment's bounding box, filled with the mean colour around the segment."""
        side = self.clip.patch * round((self.clip.visual.positional_embedding.shape[0] - 1) ** 0.5)
        ids, grey = found.map.cpu().numpy(), np.array(CLIP_PROTOCOL.mean).round().astype(np.uint8)
        crops = []
        for number, (y1, x1, y2, x2) in enumerate(boxes(ids, found.count)):
            inside = ids[y1:y2, x1:x2] == number
            crop = np.where(inside[..., None], image[y1:y2, x1:x2], grey)
            crops.append(cv2.resize(crop, (side, side), interpolation=cv2.INTER_CUBIC))
        chunks = [crops[i : i + CROP_BATCH_SIZE] for i in range(0, len(crops), CROP_BATCH_SIZE)]
        batches = (torch.cat([prepared(c, 0, side, CLIP_PROTOCOL, self.device) for c in chunk]) for chunk in chunks)
        return torch.cat([CLIP(Backbones(clip=self.clip)).class_features(batch) for batch in batches]).cpu().numpy()

    def phrases(self, texts: Sequence[str]) -> np.ndarray:
        """Return the embeddings of phrases, float (N, D); the most recent ones are cached."""
        new = [text for text in dict.fromkeys(texts) if text not in self._cache]
        embeddings = {text: self._cache[text] for text in texts if text in self._cache}
        embeddings.update(zip(new, embed_texts(self.text, new, self.templates), strict=True))
        for text in texts:
            self._cache[text] = embeddings[text]
            self._cache.move_to_end(text)
        while len(self._cache) > CACHED_PHRASES:
            self._cache.popitem(last=False)
        return np.stack([embeddings[text] for text in texts])


class VisualEncoder:
    """Segments in the space of the retrieval (equation A1 with DINOv2).

    Args:
        dinov2: The DINOv2.
        protocol: Image size and normalisation of the method.
        device: Device of the network.
        zeta: How masks become weights of patches.
    """

    def __init__(self, dinov2: Loaded, protocol: Protocol, device: str, zeta: str = "area"):
        self.dinov2, self.protocol, self.device, self.zeta = dinov2.vision.to(device), protocol, device, zeta

    @torch.inference_mode()
    def segments(self, image: np.ndarray, found: SegmentMap) -> np.ndarray:
        """Return the embeddings of segments, float (count, D1), of an RGB image, uint8 (H, W, 3)."""
        p = self.protocol
        pixels = prepared(image, p.short_side, p.long_side, p, self.device)
        tokens = patch_tokens(self.dinov2, pixels)
        return segment_embeddings(*tokens, found.map, found.count, self.zeta).cpu().numpy()


@torch.inference_mode()
def embed_texts(encoder: TextEncoder, texts: Sequence[str], templates: Sequence[str]) -> np.ndarray:
    """Return the embeddings of texts (equation A2), float32 (N, D).

    Args:
        encoder: The text tower.
        texts: The texts.
        templates: Prompts with ``{}``.
    """
    if not texts:
        return np.empty((0, 0), np.float32)
    return embed_queries(encoder, texts, templates).float().cpu().numpy()


def boxes(ids: np.ndarray, count: int) -> list[tuple[int, int, int, int]]:
    """Return the half-open bounding box (y1, x1, y2, x2) of each id, 0 to ``count`` - 1, of a map, int (H, W)."""
    from scipy import ndimage

    slices = ndimage.find_objects(ids + 1, max_label=count)
    return [(s[0].start, s[1].start, s[0].stop, s[1].stop) for s in slices]
