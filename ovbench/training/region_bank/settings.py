"""The settings of a bank, resolved before its build starts."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

from ovbench.backbones.base import Loaded
from ovbench.config.backbone_spec import MINI
from ovbench.config.load import Cell, resolve
from ovbench.regions.base import open_source
from ovbench.utils.registry import find_backbone
from ovbench.utils.typed import field_types, parse_values, validate

OFFICIAL = {"short_side": "448", "crop": "336", "stride": "112"}  # of the official builder, for any images
# the official names of encoders in file names, by what their specs contain
ENCODERS = {
    ("ViT-B-16", "metaclip"): "metaclip_b", ("ViT-L-14", "metaclip"): "metaclip_l",
    ("ViT-B-16", "dfn"): "dfnclip_b", ("ViT-L-14", "dfn"): "dfnclip_l",
    ("_radio_v3", ""): "radiov3", ("_dinov2", ""): "dinov2", ("_dinov3", ""): "dinov3",
}  # fmt: skip


@dataclass(frozen=True)
class BankSettings:
    """Settings of the build, beside those of CorrCLIP (windows, regions, encoders).

    Attributes:
        left_out: Pixels that get no row: "void" (those without a segment, by the region source) or "zero" (id 0, as the
            official builder, which loses the first segment of EoMT's maps and keeps their void).
        index: "flat" (exact) or "ivfpq" (compressed, the official one; needs FAISS and 256 regions).
    """

    left_out: Literal["void", "zero"] = "void"
    index: Literal["flat", "ivfpq"] = "flat"


class BankPlan(NamedTuple):
    """The settings of a build.

    Attributes:
        build: The settings of the bank itself.
        cell: CorrCLIP's cell: encoders "clip" and "dino", regions and windows.
        vfm: Spec of the foundation model.
        auxiliary: Spec of the second CLIP, or "".
    """

    build: BankSettings
    cell: Cell
    vfm: str
    auxiliary: str

    @property
    def left_out(self) -> tuple[int, ...]:
        """Return the region ids that get no row."""
        return open_source(self.cell.regions)[1].void if self.build.left_out == "void" else (0,)

    def identity(self, loaded: Mapping[str, Loaded]) -> dict[str, Any]:
        """Return what every row depends on, for the note of the bank."""
        protocol = self.cell.protocol
        names = ("short_side", "long_side", "crop", "stride", "pad", "mean", "std")
        return {
            "encoders": {role: {"name": one.spec, "sha256": one.sha256} for role, one in loaded.items()},
            "regions": dict(self.cell.regions), "left_out": list(self.left_out),
            "windows": {name: getattr(protocol, name) for name in names}, "params": self.cell.as_dict()["params"],
        }  # fmt: skip


def resolve_bank_plan(
    like: str, overrides: Mapping[str, str] | None = None, weights: Mapping[str, str] | None = None
) -> BankPlan:
    """Return the settings of a bank.

    Args:
        like: Benchmark with the encoders and regions of CorrCLIP. Except for mini, windows are the official ones.
        overrides: Settings of the build or of CorrCLIP, as text.
        weights: Names of the encoders "clip", "dino", "vfm" and "auxiliary".

    Raises:
        UsageError: If a setting or a value is not valid.
    """
    hints, weights = field_types(BankSettings), dict(weights or {})
    own = parse_values({key: text for key, text in (overrides or {}).items() if key in hints}, hints)
    build = validate(BankSettings, own, "--set", given=own)
    rest = {key: text for key, text in (overrides or {}).items() if key not in own}
    usual = {"mask_merging": "false"} | ({} if like.startswith(MINI) else OFFICIAL)
    vfm, auxiliary = weights.pop("vfm", None), weights.pop("auxiliary", "")
    searched = resolve("corrclipv2", like, {}, {} if vfm is None else {"vfm": vfm}, incomplete=True)
    second = auxiliary and (find_backbone("auxiliary").replace_spec(auxiliary, None) or "")
    cell = resolve("corrclip", like, {**usual, **rest}, weights)
    return BankPlan(build, cell, searched.backbones["vfm"], second)


def encoder_name(spec: str) -> str:
    """Return the name of an encoder in the names of files.

    Example:
        >>> encoder_name("ViT-B-16-quickgelu/metaclip_fullcc"), encoder_name("mini")
        ('metaclip_b', 'mini')
    """
    for (architecture, tag), name in ENCODERS.items():
        if architecture in spec and tag in spec:
            return name
    return re.sub(r"[^a-z0-9]+", "_", spec.lower()).strip("_")
