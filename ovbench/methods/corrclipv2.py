"""CorrCLIPv2: CorrCLIP with the correlations of a vision foundation model that sees the original image once.

With a bank, similar regions of other images score each region too.

Symbols: V channels of the foundation model; (H, W) size of the resized image; G its map at this size, each pixel of
length 1; B windows; L = gh * gw cells of the correlation grid; R regions of the image; Q queries.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ovbench.backbones.base import Loaded
from ovbench.methods.base import Backbones, Batch, Queries, WindowedImage
from ovbench.methods.bilinear import Axis, axis, interpolate
from ovbench.methods.corrclip import CorrCLIP, Correlation
from ovbench.methods.declarations import CorrCLIPv2Declaration
from ovbench.methods.ops import Box, Pad
from ovbench.methods.support.bank import RegionBank, support_features
from ovbench.methods.support.faiss_search import FaissSearch, measure_recall
from ovbench.regions.ids import count_ids, rank_ids, resized_ids
from ovbench.utils.errors import InputError
from ovbench.utils.registry import find_backbone

BLOCK = 1 << 24  # elements of the rows of G that are in memory at once
VFM_NAMES = {"radiov3": "_radio_v3", "dinov2": "_dinov2", "dinov3": "_dinov3"}  # in file names and in timm's
GIVE_OTHERS = "give the files of the bank that belong to the networks, see ?main=, auxiliary= and vfm="


class Supported(NamedTuple):
    """The regions of an image with the embeddings of their neighbours in a bank.

    Attributes:
        rank: int64 (H, W), number of the region of each pixel, by ascending id; the lowest id is a region too.
        main: float (R, D), mean of the neighbours by CLIP, of length 1.
        auxiliary: float (R, D2), by the second CLIP, or None.
    """

    rank: Tensor
    main: Tensor
    auxiliary: Tensor | None


class WholeImage(NamedTuple):
    """What the windows of an image share.

    Attributes:
        features: float (V, fh, fw), map of the foundation model.
        size: (H, W) of the resized image.
        pad: Padding of every window.
        supported: The regions with their support, or None without a bank.
    """

    features: Tensor
    size: tuple[int, int]
    pad: Pad
    supported: Supported | None = None


class CorrCLIPv2(CorrCLIPv2Declaration, CorrCLIP):
    """Attend by the correlations of a foundation model inside unmerged regions, on a grid finer than CLIP's.

    No paper exists. Code: zdk258/CorrCLIP 103bc18, folder CorrCLIPv2.
    """

    windowwise = False  # windows of one image share its map
    heavy: ClassVar[tuple[str, ...]] = ("run_clip", "mix_values")  # the finer grid makes the mixing a third of the work
    compiles: ClassVar[tuple[str, ...]] = ("run_clip",)

    def __init__(self, backbones: Backbones, params: Any = None):
        super().__init__(backbones, params)
        self.bank = self.support if isinstance(self.support, RegionBank) else None

    @classmethod
    def check_backbones(cls, loaded: Mapping[str, Loaded], protocol: Any) -> None:
        """Check also that the bank was made with the networks that search and score it."""
        super().check_backbones(loaded, protocol)
        bank = loaded["support"].vision
        if isinstance(bank, RegionBank):
            _check_bank(bank, loaded)

    def embed_queries(self, embed: Callable[[str], Queries]) -> Queries:
        """Return the queries; those of the second CLIP are in ``presence``."""
        queries = embed("clip")
        return queries._replace(presence=embed("auxiliary").embeddings) if self.auxiliary else queries

    def approximations(self) -> dict[str, Any]:
        """Return how a search differs from the exact one by cosine, and its measured recall."""
        if self.bank is None or (self.bank.approximate is None and self.bank.vectors.codes is None):
            return {}
        found: dict[str, Any] = {"vectors": "flat" if self.bank.vectors.codes is None else "product quantiser"}
        if isinstance(self.bank.approximate, FaissSearch):
            found |= {"by": "faiss", "probes": self.bank.approximate.probes}
        recall = measure_recall(self.bank, self.params.neighbours)
        found |= {"topk": self.params.neighbours, "recall": None if recall is None else round(recall, 4)}
        return {"support": found}

    def encode_image(self, image: WindowedImage) -> WholeImage:
        """Return the map of the foundation model for the original image, and the support of the regions."""
        features = self.vfm(image.pixels)
        image.note("vfm_features", features)
        supported = None if self.bank is None else self.support_regions(features, image)
        return WholeImage(features, image.size, image.pad, supported)

    def support_regions(self, features: Tensor, image: WindowedImage) -> Supported:
        """Find the neighbours of each region in the bank, and average their embeddings without weights."""
        ranks = rank_ids(image.resized_regions[None], count_ids(resized_ids(image.host_regions, image.size)))
        keys = F.normalize(region_means(features, image.size, ranks.rank[0], ranks.value.shape[1]), dim=-1)
        found = self.bank.nearest(keys, self.params.neighbours)
        main = support_features(self.bank.main, found.row)
        auxiliary = support_features(self.bank.auxiliary, found.row) if self.auxiliary else None
        for name, value in (
            ("region_ids", ranks.value[0]), ("region_queries", keys), ("neighbours", found), ("support_main", main),
            ("support_auxiliary", auxiliary),
        ):  # fmt: skip
            image.note(name, value)
        return Supported(ranks.rank[0], main, auxiliary)

    def adjust(self, scores: Tensor, queries: Queries, image: WindowedImage) -> Tensor:
        """Mix the scores of the windows (Q, H, W) with those of the support of each region."""
        supported, weight = image.context.supported, self.params.fusion
        if supported is None:
            return scores
        of_region = supported.main @ queries.embeddings.T  # (R, Q)
        if supported.auxiliary is not None:
            of_region = (of_region + supported.auxiliary @ queries.presence.T) / 2
        for own, by_region in zip(scores, of_region.T, strict=True):
            own.mul_(1 - weight).add_(weight * by_region[supported.rank])
        return scores

    def correlation(self, batch: Batch, embedded: Tensor, clip_grid: tuple[int, int]) -> Correlation:
        """Return the correlation of the cells of G, cut to each window and repeated at its border into the padding."""
        grid = (self.params.grid_scale * clip_grid[0], self.params.grid_scale * clip_grid[1])
        f = torch.stack([window_features(batch.context, box, grid) for box in batch.boxes])
        return Correlation(f, f @ f.transpose(1, 2), grid)

    def attention(self, s: Tensor, scope: Tensor) -> Tensor:
        """Value reconstruction: A = softmax(S / tau) inside the scope, (B, L, L), the same for all heads."""
        return (s / self.params.tau).masked_fill(~scope, -torch.inf).softmax(-1)

    def merge_masks(self, ids: Tensor, f: Tensor, first_new_id: int, slots: int | None = None) -> Tensor:
        """Return the regions (B, gh, gw) unmerged."""
        return ids


def pixel_features(features: Tensor, size: tuple[int, int], rows: Tensor, columns: Tensor) -> Tensor:
    """Return G at some rows and columns, float (V, len(rows), len(columns)).

    G is never needed whole: it would take 5 GB for an image of Cityscapes.

    Args:
        features: float (V, fh, fw), map of the foundation model.
        size: (H, W) of the resized image.
        rows: int64 (M,), rows of the resized image.
        columns: int64 (N,), columns of it.
    """
    vertical, horizontal = (
        Axis(*(values[chosen] for values in axis(source, target, features.device)))
        for source, target, chosen in zip(features.shape[1:], size, (rows, columns), strict=True)
    )
    return F.normalize(interpolate(features, vertical, horizontal), dim=0)


def region_means(features: Tensor, size: tuple[int, int], rank: Tensor, count: int) -> Tensor:
    """Return the mean of G in each region, float (R, V); some rows of G are computed at a time.

    The sums are in fp64, so that their order does not matter.

    Args:
        features: float (V, fh, fw), map of the foundation model.
        size: (H, W) of the resized image.
        rank: int64 (H, W), number of the region of each pixel.
        count: R, the number of regions.
    """
    sums = features.new_zeros(count, len(features), dtype=torch.float64)
    rows, columns = (torch.arange(side, device=features.device) for side in size)
    for some in rows.split(max(BLOCK // (len(features) * size[1]), 1)):
        pixels = pixel_features(features, size, some, columns)
        sums.index_add_(0, rank[some].flatten(), pixels.flatten(1).T.double())
    return (sums / torch.bincount(rank.flatten(), minlength=count)[:, None]).float()


def window_features(whole: WholeImage, box: Box, grid: tuple[int, int]) -> Tensor:
    """Return the features of the cells of a window, float (L, V), of length 1.

    A cell of the padded window is between two rows and two columns of G, so only these are computed.
    """
    pad, device = whole.pad, whole.features.device
    height, width = box.size
    vertical = axis(height + pad.top + pad.bottom, grid[0], device)
    horizontal = axis(width + pad.left + pad.right, grid[1], device)
    rows = torch.cat([vertical.before, vertical.after]).sub(pad.top).clamp(0, height - 1) + box.y1
    columns = torch.cat([horizontal.before, horizontal.after]).sub(pad.left).clamp(0, width - 1) + box.x1
    corners = pixel_features(whole.features, whole.size, rows, columns)  # (V, 2 gh, 2 gw)
    pairs = (
        Axis(torch.arange(n, device=device), torch.arange(n, 2 * n, device=device), along.fraction)
        for n, along in zip(grid, (vertical, horizontal), strict=True)
    )
    return F.normalize(interpolate(corners, *pairs).flatten(1).T, dim=-1)


def _check_bank(bank: RegionBank, loaded: Mapping[str, Loaded]) -> None:
    vfm, made_with = loaded["vfm"], VFM_NAMES.get(bank.vfm, "")
    if made_with not in find_backbone("vfm").parse(vfm.spec).architecture:
        raise InputError(f"the bank was made with {bank.vfm}, not with {vfm.spec}", where="support", fix=GIVE_OTHERS)
    auxiliary = loaded.get("auxiliary")
    if auxiliary and bank.auxiliary is None:
        raise InputError("the bank has no store of a second CLIP", where="support", fix="give no auxiliary CLIP")
    widths = [("vfm", bank.vectors.width, vfm.vision.width), ("clip", bank.main.shape[1], _joint(loaded["clip"]))]
    if auxiliary:
        widths.append(("auxiliary", bank.auxiliary.shape[1], _joint(auxiliary)))
    for name, stored, needed in widths:
        if stored != needed:
            raise InputError(
                f"the bank has features of width {stored}, but {name}={loaded[name].spec} has {needed}",
                where="support", fix=GIVE_OTHERS,
            )  # fmt: skip


def _joint(clip: Loaded) -> int:
    return clip.vision.visual.proj.shape[1]
