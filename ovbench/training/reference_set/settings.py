"""The settings of a build, resolved before it starts."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from pydantic import Field

from ovbench.config.load import Cell, resolve
from ovbench.methods.reme.pooling import ZETAS
from ovbench.training.reference_set.ambiguous import GATE_MIN_SIZE, GATE_QUANTILE
from ovbench.training.reference_set.ambiguous import MODES as AMBIGUOUS
from ovbench.training.reference_set.groups import MODES as FILTERS
from ovbench.training.reference_set.groups import RATES, ROUNDINGS
from ovbench.training.reference_set.synonyms import SCOPES
from ovbench.utils.paths import shipped
from ovbench.utils.toml import read_toml
from ovbench.utils.typed import FromZero, Typed, field_types, parse_values, partial, validate

PARSERS = ("auto", "spacy", "lexicon")
PAIRING_FEATURES = ("maskclip", "vanilla", "crop")


@dataclass(frozen=True)
class BuildSettings:
    """Settings of the build. Where the paper leaves a choice open, docs/reme.md gives the reason for the default.

    Attributes:
        parser: Finds noun phrases: "spacy", "lexicon", or "auto" (spaCy if its model is installed).
        spacy_model: Name or path of the spaCy model.
        pairing: CLIP of the initial pairing (CLIP-V, CLIP-T).
        pairing_features: Segment features of the pairing: "maskclip", "vanilla" (dense CLIP) or "crop" (masked crops).
        pairing_short_side: Short side of the images for the pairing in pixels; 0 does not resize.
        zeta: How masks become weights of patches (zeta of equation A1): "area", "bilinear" or "nearest".
        ambiguous: Ambiguous-label filter: "knee" (the paper's), "knee_gated", "list" or "off".
        ambiguous_list: File of the roots to drop with "list", one per line.
        gate_quantile: With "knee_gated", the quantile of the spread w that a dropped root exceeds, 0 to 1.
        gate_min_size: With "knee_gated", the smallest group that counts for the quantile, in pairs.
        ambiguous_first: Run the ambiguous-label filter before the group filter, not after it.
        filter: Group filter (table 3): "fixed", "adaptive", "clip-group", "clip" or "none".
        drop_percent: Share of pairs that filters other than "adaptive" drop, 0 to 100.
        rate: Share of each group that "adaptive" drops (supplement C.1): "half", "clip" or "minmax".
        rounding: Rounding of the number of dropped pairs: "floor", "ceil" or "quantile".
        synonyms: Scope of the synonyms: "global", "per_label" or "off".
        synonym_pairs: Number of synonym pairs with "global".
        synonyms_per_label: Number of synonyms of each root with "per_label".
        least_similarity: Smallest cosine of a synonym with "per_label".
        o_rownorm: Scale the rows of O_ref to sum 1, so a segment with many labels does not count more.
    """

    parser: Literal[PARSERS] = "auto"
    spacy_model: str = "en_core_web_sm"
    pairing: str = "ViT-B-16-quickgelu/openai"
    pairing_features: Literal[PAIRING_FEATURES] = "maskclip"
    pairing_short_side: FromZero = 448
    zeta: Literal[ZETAS] = "area"
    ambiguous: Literal[AMBIGUOUS] = "knee_gated"
    ambiguous_list: str = ""
    gate_quantile: Annotated[float, Field(ge=0, le=1)] = GATE_QUANTILE
    gate_min_size: FromZero = GATE_MIN_SIZE
    ambiguous_first: bool = True
    filter: Literal[FILTERS] = "fixed"
    drop_percent: Annotated[float, Field(ge=0, lt=100)] = 30.0
    rate: Literal[RATES] = "half"
    rounding: Literal[ROUNDINGS] = "floor"
    synonyms: Literal[SCOPES] = "global"
    synonym_pairs: FromZero = 30
    synonyms_per_label: FromZero = 1
    least_similarity: float = 0.0
    o_rownorm: bool = False

    def __post_init__(self) -> None:
        if self.ambiguous == "list" and not self.ambiguous_list:
            raise ValueError('ambiguous "list" needs ambiguous_list=FILE')


class BenchmarkBuild(Typed):
    """Tables of a benchmark in configs/reference.toml."""

    build: partial(BuildSettings) = Field(default_factory=dict)  # type: ignore[valid-type]


class ReferenceFile(Typed):
    """The file configs/reference.toml."""

    build: partial(BuildSettings)  # type: ignore[valid-type]
    benchmark: dict[str, BenchmarkBuild] = Field(default_factory=dict)


class Plan(NamedTuple):
    """The settings of the build, and those of the method for a benchmark (encoders, regions, image size, prompts)."""

    build: BuildSettings
    cell: Cell


def resolve_plan(
    like: str, overrides: Mapping[str, str] | None = None, weights: Mapping[str, str] | None = None
) -> Plan:
    """Return the settings of a set for a benchmark.

    Args:
        like: The benchmark.
        overrides: Settings of the build or of the method, as text.
        weights: Names of the encoders "clip", "dinov2" and "pairing".

    Raises:
        UsageError: If a setting or a value is not valid.
    """
    from ovbench.training.reference_set.phrases import choose_parser

    path, hints = shipped("configs", "reference.toml"), field_types(BuildSettings)
    file = validate(ReferenceFile, read_toml(path), path.name)
    values = {**file.build, **(file.benchmark[like].build if like in file.benchmark else {})}
    own = parse_values({key: text for key, text in (overrides or {}).items() if key in hints}, hints)
    values |= own
    weights = dict(weights or {})
    values["pairing"] = weights.pop("pairing", values["pairing"])
    build = validate(BuildSettings, values, "--set", given=own)
    build = dataclasses.replace(build, parser=choose_parser(build.parser, build.spacy_model))
    rest = {key: text for key, text in (overrides or {}).items() if key not in own}
    cell = resolve("reme", like, rest, {**weights, "reference": ""})
    return Plan(build, cell)


def stage_settings(plan: Plan, hashes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """Return the settings that each stage depends on.

    Args:
        plan: The settings of the build.
        hashes: Hashes of the tensors of the encoders "dinov2" and "pairing".
    """
    b, protocol = plan.build, plan.cell.protocol
    zeta = {} if b.zeta == "area" else {"zeta": b.zeta}  # the default is left out so that older files stay valid
    parser = {"parser": b.parser} | ({"spacy_model": b.spacy_model} if b.parser == "spacy" else {})
    return {
        "phrases": parser,
        "pairs": {
            "clip_sha256": hashes["pairing"],
            "features": b.pairing_features,
            "short_side": b.pairing_short_side,
            "templates": protocol.templates,
            "regions": dict(plan.cell.regions),
            **zeta,
        },
        "features": {
            "dinov2_sha256": hashes["dinov2"],
            "short_side": protocol.short_side,
            "long_side": protocol.long_side,
            "mean": list(protocol.mean),
            "std": list(protocol.std),
            **zeta,
        },
    }
