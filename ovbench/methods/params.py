"""Parameters of the methods on CLIP alone; importing this file does not load torch, so commands start fast."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ovbench.utils.errors import UsageError, unknown
from ovbench.utils.typed import AboveZero, Fraction, FromOne, FromZero, NotBelowZero

SCCLIP_DETECTORS = ("distance", "lof")
SFP_CHOICES = {"detector": ("som", "norm", "distance"), "multi_attention": ("similarity", "same")}
PEARL_CHOICES = {"align_solver": ("polar", "svd"), "text": ("diagonal", "full")}
RFCLIP_CHOICES = {
    "class_token": ("image", "window"),
    "linkage": ("complete", "ward"),
    "repaired": ("all", "distraction"),
    "attention": ("all", "last"),
    "decoded": ("both", "tokens", "guide"),
}


@dataclass(frozen=True)
class NoParams:
    """No parameters."""


@dataclass(frozen=True)
class Residual:
    """Parameters of methods that keep the residual stream and the feed-forward of the last block by default.

    Attributes:
        residual: Keep both in the last block, as in every other block.
    """

    residual: bool = True


@dataclass(frozen=True)
class NoResidual:
    """Parameters of methods that drop the residual stream and the feed-forward of the last block by default.

    Attributes:
        residual: Keep both in the last block, as in every other block.
    """

    residual: bool = False


@dataclass(frozen=True)
class SCLIPParams(Residual):
    """Parameters of SCLIP.

    Attributes:
        residual: Keep the residual stream and the feed-forward of the last block.
        area_thd: A foreground class stays above this fraction of the foreground pixels (0 or no background: all stay).
    """

    area_thd: Fraction = 0.0


@dataclass(frozen=True)
class CalibrationParams:
    """Parameters that SC-CLIP, SFP and DiH-CLIP share; the defaults are the official ones for ViT-B/16.

    Attributes:
        pre_level: Block whose patches give S; blocks count from 0.
        post_level: Block whose patches give T.
        multi_start: First of the blocks whose tokens are summed.
        multi_end: The block after the last of them.
        res_cls: Weight of the class token that is added to every patch.
        beta: Cosines below it count as 0 where S and T average tokens.
        average: Average tokens with S before and with T after the last block.
        calibrate: Use M in the attention of the last block.
        multi: Add the sum of the middle levels.
        area_thd: A foreground class stays above this fraction of the foreground pixels (0 or no background: all stay).
    """

    pre_level: FromZero = 8
    post_level: FromZero = 3
    multi_start: FromZero = 3
    multi_end: FromOne = 10
    res_cls: float = 0.3
    beta: float = 0.4
    average: bool = True
    calibrate: bool = True
    multi: bool = True
    area_thd: Fraction = 0.0

    def __post_init__(self) -> None:
        if self.multi_start >= self.multi_end:
            raise UsageError(
                f"multi_end is {self.multi_end}, multi_start {self.multi_start}", fix="give a larger multi_end"
            )


@dataclass(frozen=True)
class SCCLIPParams(CalibrationParams):
    """Parameters of SC-CLIP, with those of `CalibrationParams`.

    Attributes:
        repair: Replace anomaly tokens by the mean of their neighbours.
        detector: Score of a token: "distance" (ratios of squared k-distances, as the code) or "lof" (local outlier
            factor, as the paper).
        neighbours: Number k of nearest neighbours in the score.
        contamination: Fraction of the tokens of a window that are anomalies, those with the largest scores.
    """

    repair: bool = True
    detector: str = "distance"
    neighbours: int = 30
    contamination: float = 0.05

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.detector not in SCCLIP_DETECTORS:
            raise unknown("detector", self.detector, SCCLIP_DETECTORS, where="scclip")
        if self.neighbours < 1:
            raise UsageError("neighbours must be 1 or more", where="scclip")
        if not 0 < self.contamination < 1:
            raise UsageError("contamination must be between 0 and 1", where="scclip")


@dataclass(frozen=True)
class SFPParams(CalibrationParams):
    """Parameters of SFP, with those of `CalibrationParams`.

    Attributes:
        repair: Replace outliers by the mean of their neighbours.
        repair_pre: Replace them at the pre level too; code until December 2025: off.
        detector: "som" (attention of the class token), "norm" (longest tokens) or "distance" (score of SC-CLIP).
        outliers: Largest number of outliers in a window of any size, with "som" and "norm".
        res_scale: The attention of the class token counts ``res_cls * res_scale`` times.
        multi_attention: Attention of the summed levels: "similarity" (M alone) or "same" (as in the last block; code
            until December 2025).
    """

    repair: bool = True
    repair_pre: bool = True
    detector: str = "som"
    outliers: int = 10
    res_scale: float = 5.0
    multi_attention: str = "similarity"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, known in SFP_CHOICES.items():
            if getattr(self, name) not in known:
                raise unknown(name, getattr(self, name), known, where="sfp")
        if self.outliers < 1:
            raise UsageError("outliers must be 1 or more", where="sfp", fix="give repair=false for none")


@dataclass(frozen=True)
class DiHCLIPParams(CalibrationParams):
    """Parameters of DiH-CLIP, with those of `CalibrationParams`.

    Attributes:
        heads: Number of heads that are selected, those of lowest entropy (0: each head mixes its own values).
        pre_output: Add the output of the selected heads at the pre level.
    """

    heads: int = 4
    pre_output: bool = True

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.heads < 0:
            raise UsageError("heads must be 0 or more", where="dihclip")


@dataclass(frozen=True)
class NACLIPParams(NoResidual):
    """Parameters of NACLIP.

    Attributes:
        gaussian_std: Standard deviation of the Gaussian, in patches.
        residual: The "vanilla" architecture of the official code instead of "reduced".
    """

    gaussian_std: AboveZero = 5.0


@dataclass(frozen=True)
class GEMParams(Residual):
    """Parameters of GEM.

    Attributes:
        residual: Add the terms of all blocks; off: only the last term.
        depth: The path has the last ``depth - 1`` blocks.
        iterations: Number of self-self attention steps on queries, keys and values before they weigh the values.
        temperature: Factor tau of the logits (none: from the mean norm of the tokens).
    """

    depth: FromOne = 7
    iterations: FromZero = 1
    temperature: AboveZero | None = None


@dataclass(frozen=True)
class FreeCPParams:
    """Parameters of FreeCP; the defaults are those of the official code.

    The code differs from the paper in three points. ``definitions="paper"`` has the paper's form: the spatial
    consistency is divided by the union instead of the sum (``rp_thres`` then has another scale), boxes keep the last
    row and column of the grid, and GEM's affinity is the mean over all heads instead of the first head.

    Attributes:
        base: Method that is purified; the official code has gem, clearclip, maskclip-freecp and sclip-freecp.
        temperature: Factor s of the cosines before the softmax (none: exp(logit_scale) of the checkpoint, about 100).
        rp_thres: A class survives in a window if its spatial consistency S exceeds this.
        ap_thres: Classes are ambiguous if the soft IoU of their maps is at least this.
        definitions: "official" or "paper".
        redundancy: Redundancy purification, off for ablations.
        ambiguity: Ambiguity purification, off for ablations.
    """

    base: str = "gem"
    temperature: float | None = None
    rp_thres: float = 0.1
    ap_thres: float = 0.7
    definitions: str = "official"
    redundancy: bool = True
    ambiguity: bool = True

    def __post_init__(self) -> None:
        if self.definitions not in ("official", "paper"):
            raise UsageError(f'"{self.definitions}" is not a value of "definitions"', fix='give "official" or "paper"')
        if self.temperature is not None and not 0 < self.temperature < math.inf:
            raise UsageError("temperature must be positive", where="freecp")


@dataclass(frozen=True)
class RFCLIPParams:
    """Parameters of RF-CLIP; the defaults compute what the official code computes.

    Attributes:
        gamma: Weight of the class token's similarity to the queries (0: off).
        alpha: Weight of the patches that a query is moved towards (0: off).
        cluster_distance: Distance at which the clustering of similar queries is cut.
        class_token: "image" (class token of the whole image) or "window" (of each window).
        linkage: Of the clustering, "complete" or "ward" (CASS).
        channels: Distraction channels (empty: those of OpenAI's towers, by the width of the tower).
        sigma: A patch is a distractor if a channel has more than sigma times the mean share.
        shifted: Subtract the minimum of a token before the shares; paper: off, which is ill-conditioned.
        repair: Alpha in the paper, weight of the neighbours in the repair of a distractor (0: off).
        repaired: "all" channels, with the mean of the 3 x 3 patches; paper: "distraction", these channels alone, with
            the mean of the eight neighbours.
        refocus: Move attention from sinks to other patches, as the code does if asked; the paper does it always, with
            receivers from a normalised cut, for which there is no code.
        enhance: Sum tokens over similar patches.
        beta: Patches are similar from this cosine on.
        attention: Key graphs of "all" layers, or of the "last" alone.
        decoded: "both", the "tokens" before the last block alone, or the "guide" alone.
    """

    gamma: float = 0.25
    alpha: float = 0.04
    cluster_distance: NotBelowZero = 0.1
    class_token: str = "image"
    linkage: str = "complete"
    channels: tuple[int, ...] = ()
    sigma: AboveZero = 5.0
    shifted: bool = True
    repair: float = 0.4
    repaired: str = "all"
    refocus: bool = False
    enhance: bool = True
    beta: float = 0.4
    attention: str = "all"
    decoded: str = "both"

    def __post_init__(self) -> None:
        for name, known in RFCLIP_CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(f'{name} is "{getattr(self, name)}"', where="rfclip", fix="one of " + ", ".join(known))


@dataclass(frozen=True)
class PEARLParams:
    """Parameters of PEARL; the defaults are those of the official code.

    Attributes:
        align: Rotate the keys of the last block (PA); otherwise its ordinary attention, without residual.
        align_solver: "polar" (steps towards the polar factor) or "svd" (the exact one).
        polar_iters: Number of polar steps.
        alpha_kk: Weight of the centred key-key term in the attention.
        propagate: Propagate the merged scores (TLP).
        grid: Approximate number of cells per side of the solver's grid.
        text: Part of the text matrix in use: its "diagonal" alone, as the code does, or "full", as the formula reads.
        agree: Let the text matrix weigh data and edges.
        tau: Temperature of the text matrix.
        boost: Added to the diagonal of the text matrix.
        k_edge: Sharpness of the image edges (0: off).
        cg_iters: Number of solver steps, far from convergence.
    """

    align: bool = True
    align_solver: str = "polar"
    polar_iters: FromZero = 5
    alpha_kk: float = 0.08
    propagate: bool = True
    grid: int = 80
    text: str = "diagonal"
    agree: bool = True
    tau: float = 0.5
    boost: float = 10.0
    k_edge: NotBelowZero = 5.0
    cg_iters: FromOne = 25

    def __post_init__(self) -> None:
        for name, known in PEARL_CHOICES.items():
            if getattr(self, name) not in known:
                raise UsageError(f'{name} is "{getattr(self, name)}"', where="pearl", fix="one of " + ", ".join(known))
        if self.grid < 1 or self.tau <= 0:
            raise UsageError("grid must be 1 or more, and tau positive", where="pearl")
