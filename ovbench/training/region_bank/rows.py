"""The rows of a region bank: keys by a foundation model and values by CLIP, for every region of an image."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.vfm import VfmVision
from ovbench.config.load import Protocol
from ovbench.inference.predictor import Predictor
from ovbench.inference.steps import Steps
from ovbench.inference.windowed_image import Window, gather
from ovbench.methods.base import Backbones, PatchFeatures, Queries
from ovbench.methods.bilinear import enlarge
from ovbench.methods.corrclip import CorrCLIP
from ovbench.methods.corrclipv2 import region_means
from ovbench.methods.tower_params import CorrCLIPParams
from ovbench.regions.ids import rank_ids

CHANNELS = 32  # that are enlarged at once


class RegionRows(NamedTuple):
    """The rows of the regions of an image.

    Attributes:
        ids: int64 (R,), ascending, region ids.
        keys: float (R, V), mean of normalised pixels, not normalised again.
        values: float (R, D), of length 1, by CLIP.
        auxiliary: float (R, D2), of length 1, by a second CLIP, or None.
    """

    ids: Tensor
    keys: Tensor
    values: Tensor
    auxiliary: Tensor | None = None


class DenseCorrCLIP(CorrCLIP):
    """CorrCLIP without mask merging, whose "scores" are the channels of its features, not normalised."""

    def score(self, features: PatchFeatures, queries: Queries) -> Tensor:
        """Return the features of the cells, float (B, D, gh, gw)."""
        return features.tokens.transpose(1, 2).unflatten(2, features.grid)


class RowMaker:
    """Compute the rows of images as the official builder does.

    Args:
        backbones: "clip", "dino", "vfm", and "auxiliary", a second CLIP or None.
        protocol: Windows: officially short_side 448, crop 336, stride 112, pad 56.
        params: Of CorrCLIP; mask merging must be off.
        left_out: Region ids that get no row.
        device: Device of the networks.
    """

    def __init__(
        self,
        backbones: Backbones,
        protocol: Protocol,
        params: CorrCLIPParams,
        left_out: tuple[int, ...] = (0,),
        device: str = "cpu",
    ):
        if params.mask_merging:
            raise ValueError("the values of a bank are made without mask merging")
        self.vfm: VfmVision = backbones.vfm.to(device)
        self.left_out = left_out
        unused = Queries(torch.zeros(1, 1), torch.zeros(1, dtype=torch.int64))
        self.steps = [
            Predictor(DenseCorrCLIP(Backbones(clip=clip, dino=backbones.dino), params).to(device), protocol, [unused])
            for clip in (backbones.clip, backbones.get("auxiliary"))
            if clip is not None
        ]

    @torch.inference_mode()
    def rows(self, image: np.ndarray, regions: np.ndarray) -> RegionRows:
        """Return the rows of an image.

        Args:
            image: uint8 (H, W, 3), RGB.
            regions: int32 (H, W), region ids.
        """
        size, device = image.shape[:2], self.steps[0].device
        ranks = rank_ids(torch.from_numpy(regions).long()[None].to(device))
        ids, rank = ranks.value[0], ranks.rank[0]
        kept = ~torch.isin(ids, torch.tensor(self.left_out, device=device))
        features = self.vfm(torch.from_numpy(np.ascontiguousarray(image)).to(device))
        keys = region_means(features, size, rank, len(ids))
        values = [self._values(steps, image, regions, rank, len(ids))[kept] for steps in self.steps]
        return RegionRows(ids[kept], keys[kept], *values)

    def _values(self, steps: Steps, image: np.ndarray, regions: np.ndarray, rank: Tensor, count: int) -> Tensor:
        """Return the normalised means of dense features in all regions, float (R, D)."""
        dense = self._dense(steps, image, regions)
        sums = dense.new_zeros(len(dense), count, dtype=torch.float64)
        for start in range(0, len(dense), CHANNELS):
            pixels = enlarge(dense[start : start + CHANNELS], image.shape[:2]).flatten(1).double()
            sums[start : start + CHANNELS].index_add_(1, rank.flatten(), pixels)
        return F.normalize(sums.T, dim=-1).float()  # the mean has the direction of the sum

    def _dense(self, steps: Steps, image: np.ndarray, regions: np.ndarray) -> Tensor:
        """Return the features of the windows, averaged, float (D, h, w) at the size of the resized image."""
        prepared = steps.prepare(image, regions)
        means = steps.means(prepared)
        for start in range(0, len(prepared.boxes), steps.limits.windows):
            boxes = list(prepared.boxes[start : start + steps.limits.windows])
            encoded = steps.encode(gather([Window(prepared, box) for box in boxes]))
            steps.score(prepared, means, encoded, boxes)
        return means[0].result()
