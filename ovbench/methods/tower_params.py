"""Parameters of the methods with several towers; importing this file does not load torch, so commands start fast."""

from __future__ import annotations

from dataclasses import dataclass

from ovbench.utils.errors import UsageError, unknown
from ovbench.utils.typed import AboveZero, Fraction, FromOne, FromZero, NotBelowZero

SIMILARITIES = ("q-k", "q-q", "k-k", "x-x", "qk-qk", "uniform")
LPOSS_FEATURES = ("values", "keys")
GLA_BASES = ("proxyclip", "clearclip", "sclip")
CASS_CHOICES = {
    "attention": ("distilled", "keys", "queries"),
    "matching": ("complementary", "similar", "sequential"),
    "class_token": ("image", "window"),
}


@dataclass(frozen=True)
class ProxyCLIPParams:
    """Parameters of ProxyCLIP.

    Attributes:
        beta: Patches attend to each other if their similarity is at least beta times the mean similarity.
        gamma: Factor of the remaining logits; larger is sharper.
    """

    beta: float = 1.2
    gamma: float = 3.0


@dataclass(frozen=True)
class GLACLIPParams:
    """Parameters of GLA-CLIP.

    Attributes:
        base: Whose keys, values and last block: "proxyclip", "clearclip" or "sclip".
        threshold: Patches with a larger cosine are the set of a proxy anchor; the paper's script names 0.6, 0.55 acts.
        rounds: How often the proxy anchor becomes the mean of its set.
        beta_alpha: beta = 1 + beta_alpha ln(1 + W) for W windows: patches below beta times the mean similarity are cut.
        gamma_alpha: gamma = 1 + gamma_alpha / c for c patches in the set, the factor of the logits.
    """

    base: str = "proxyclip"
    threshold: float = 0.55
    rounds: int = 2
    beta_alpha: float = 0.3
    gamma_alpha: float = 30.0

    def __post_init__(self) -> None:
        if self.base not in GLA_BASES:
            raise unknown("base", self.base, GLA_BASES, where="glaclip")
        if not 0 < self.threshold < 1:
            raise UsageError("threshold must be between 0 and 1", where="glaclip")
        if self.rounds < 1:
            raise UsageError("rounds must be 1 or more", where="glaclip")


@dataclass(frozen=True)
class ReconstructionParams:
    """Parameters that CorrCLIP, OV-Stitcher and CorrCLIPv2 share; the defaults are the official ones.

    Attributes:
        tau: Temperature tau of the attention softmax.
        alpha: Weight alpha of the spatial branch.
        beta: Weight beta of the semantic branch.
        spatial_depth: Number of lower blocks averaged in the spatial branch (none: by the depth of the tower).
        scope: Scope reconstruction; off: every cell attends to every cell.
        spatial_branch: Add the values of lower blocks.
        mask_class_tokens: Add the semantic branch.
        map_correction: Give each region of the image its most frequent label.
    """

    tau: AboveZero = 0.25
    alpha: float = 1.0
    beta: float = 0.5
    spatial_depth: FromOne | None = None
    scope: bool = True
    spatial_branch: bool = True
    mask_class_tokens: bool = True
    map_correction: bool = True


@dataclass(frozen=True)
class MergingParams(ReconstructionParams):
    """Parameters of CorrCLIP and OV-Stitcher, with those of `ReconstructionParams`.

    Attributes:
        eps: Radius of mask merging (DBSCAN), a cosine distance.
        mask_merging: Merge regions with similar mean features.
    """

    eps: NotBelowZero = 0.2
    mask_merging: bool = True


@dataclass(frozen=True)
class CorrCLIPParams(MergingParams):
    """Parameters of CorrCLIP, with those of `MergingParams`; these are for ablations.

    With ``scope``, ``value``, ``mask_merging``, both branches and ``map_correction`` off, CorrCLIP equals ClearCLIP.

    Attributes:
        value: Value reconstruction; off: weights softmax(q q^T) of ClearCLIP, scope and merging with CLIP's q-q.
        similarity: "qk-qk" (q + k), "q-k", "q-q", "k-k", "x-x" (output tokens), "uniform" (qk-qk, then equal weights).
        similarity_from: Tower whose last block is compared, "dino" or "clip".
    """

    value: bool = True
    similarity: str = "qk-qk"
    similarity_from: str = "dino"

    def __post_init__(self) -> None:
        if self.similarity not in SIMILARITIES:
            raise unknown("similarity", self.similarity, SIMILARITIES)
        if self.similarity_from not in ("dino", "clip"):
            raise unknown("tower", self.similarity_from, ("dino", "clip"), where="similarity_from")


@dataclass(frozen=True)
class OVStitcherParams(MergingParams):
    """Parameters of OV-Stitcher: those of `MergingParams`."""


@dataclass(frozen=True)
class CorrCLIPv2Params(ReconstructionParams):
    """Parameters of CorrCLIPv2, with those of `ReconstructionParams`.

    Attributes:
        grid_scale: Cells of the correlation grid along a side of a patch of CLIP.
        neighbours: Rows of the bank that support a region.
        fusion: Weight of the bank's scores; those of the windows have the rest.
    """

    grid_scale: int = 2
    neighbours: int = 20
    fusion: float = 0.5

    def __post_init__(self) -> None:
        for name in ("grid_scale", "neighbours"):
            if getattr(self, name) < 1:
                raise UsageError(f"{name} must be 1 or more", where="corrclipv2")
        if not 0 <= self.fusion <= 1:
            raise UsageError("fusion must be between 0 and 1", where="corrclipv2")


@dataclass(frozen=True)
class CASSParams:
    """Parameters of CASS; the defaults are those of the official code.

    Attributes:
        gamma: Weight gamma of the class token's similarity to the queries (0: off).
        alpha: Weight alpha of the patches that a query is moved towards (0: off).
        cluster_distance: Distance at which the clustering of similar queries is cut.
        class_token: "image" (class token of the whole image) or "window" (of each window).
        attention: "distilled", "keys" (only CLIP's key graph) or "queries" (q k^T without the Gaussian).
        matching: "complementary" (most different heads), "similar" or "sequential" (same index, plain mean).
        tie_order: Gain of an ordered pair of heads, which breaks ties of assignments (0: rounding decides).
        swap: Exchange the two indices of a match, as the code does; paper: off.
        rank: Eigenvalues kept of DINO's graph (none: the graph itself).
        energy: eta, keep the fewest eigenvalues with this fraction of their sum, ``rank`` at most; paper: 0.95.
        stretch: Scale the kept eigenvalues (dynamic eigenscaling).
        eigenvalues: Largest eigenvalues compared by the matching.
        fusion: Factor of the spectral distance in the fusion weight w; paper: 1.
        match_ranges: Map DINO's keys and graphs to the range of CLIP's; paper: off.
        misread_colours: Give DINO wrong colours and a square input, as the official code does; paper: off.
        gaussian_std: Standard deviation of NACLIP's Gaussian, in patches.
    """

    gamma: float = 0.25
    alpha: float = 0.04
    cluster_distance: NotBelowZero = 0.1
    class_token: str = "image"
    attention: str = "distilled"
    matching: str = "complementary"
    tie_order: NotBelowZero = 0.0
    swap: bool = True
    rank: int | None = 10
    energy: Fraction | None = None
    stretch: bool = True
    eigenvalues: int = 20
    fusion: float = 10.0
    match_ranges: bool = True
    misread_colours: bool = True
    gaussian_std: AboveZero = 5.0

    def __post_init__(self) -> None:
        for name, known in CASS_CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(f'{name} is "{getattr(self, name)}"', where="cass", fix="one of " + ", ".join(known))
        for name in ("rank", "eigenvalues"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise UsageError(f"{name} must be 1 or more", where="cass")


@dataclass(frozen=True)
class Talk2DINOParams:
    """Parameters of Talk2DINO.

    Attributes:
        side: Height and width in pixels that windows are resized to; 0 does not resize.
        clean: Clean the background (section 3.4).
        lambda_bg: lambda, weight of the background cleaning.
        attn_scale: Factor of the class token's attention logits.
        bg_thresh: Score of a background class without a query.
    """

    side: FromZero = 448
    clean: bool = False
    lambda_bg: float = 0.2
    attn_scale: float = 0.125
    bg_thresh: float = 0.55


@dataclass(frozen=True)
class ReMEParams:
    """Parameters of ReME.

    Attributes:
        visual_scale: beta_v, factor of the cosines in the softmax of equation 1 [D]; with the paper's 1, every segment
            gets the same label.
        text_scale: beta_t, factor of the cosines in the softmax of equation 2 [D]; the paper has 1.
        visual_topk: Number of most similar reference segments in the softmax of equation 1; 0 takes all.
        block: Reference segments that are compared at once; limits the memory, without effect on the result.
        search: "exact", or "faiss" for an approximate search of the ``visual_topk`` segments.
        probes: Cells of the FAISS index that are searched.
    """

    visual_scale: float = 30.0
    text_scale: float = 40.0
    visual_topk: int = 0
    block: int = 65536
    search: str = "exact"
    probes: int = 32

    def __post_init__(self) -> None:
        checks = (
            (self.visual_scale > 0 and self.text_scale > 0, "visual_scale and text_scale must be positive"),
            (self.visual_topk >= 0, "visual_topk must be 0 (all) or more"),
            (self.block > 0 and self.probes > 0, "block and probes must be positive"),
            (self.search in ("exact", "faiss"), 'search must be "exact" or "faiss"'),
            (self.search == "exact" or self.visual_topk > 0, "faiss needs visual_topk: it finds only similar segments"),
        )
        for holds, message in checks:
            if not holds:
                raise UsageError(message, where="parameters of reme")


@dataclass(frozen=True)
class LPOSSParams:
    """Parameters of LPOSS and LPOSS+; the defaults are those of the official code for LPOSS.

    Attributes:
        patches: Propagate the scores of patches over all windows of the image.
        pixels: Propagate the merged scores over pixels too: LPOSS+.
        features: Of DINO's last block, "values" or "keys"; the code's function has keys, its settings values.
        neighbours: Number k of most similar patches, the patch itself included.
        gamma: Exponent of the similarity of two patches.
        sigma: Decay of an edge with the distance of the patches, per pixel of the resized image.
        distance_power: Exponent of this distance.
        alpha: Weight of the graphs; the scores before have the weight 1 - alpha.
        cg_steps: Largest number of solver steps in both graphs; 10 are not enough to converge, 100 are.
        tau: Decay of an edge between pixels with their distance in scaled Lab.
        pixel_window: Width r of the window of a pixel's neighbours; its radius is r // 2.
    """

    patches: bool = True
    pixels: bool = False
    features: str = "values"
    neighbours: int = 400
    gamma: float = 3.0
    sigma: NotBelowZero = 0.01
    distance_power: NotBelowZero = 1.0
    alpha: float = 0.95
    cg_steps: int = 10
    tau: float = 0.01
    pixel_window: int = 13

    def __post_init__(self) -> None:
        if self.features not in LPOSS_FEATURES:
            raise unknown("features", self.features, LPOSS_FEATURES, where="lposs")
        checks = (
            (0 <= self.alpha < 1, "alpha must be at least 0 and below 1"),
            (self.neighbours > 1, "neighbours must be 2 or more"),
            (self.cg_steps > 0, "cg_steps must be 1 or more"),
            (self.tau > 0, "tau must be positive"),
            (self.pixel_window > 1, "pixel_window must be 2 or more"),
        )
        for holds, message in checks:
            if not holds:
                raise UsageError(message, where="lposs")
