"""Everything that decides what a reference set holds, resolved before the build begins."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, get_type_hints

from ovbench.config.load import Cell, parse_value, resolve
from ovbench.methods.reme.pooling import ZETAS
from ovbench.training.reference_set.ambiguous import GATE_MIN_SIZE, GATE_QUANTILE
from ovbench.training.reference_set.ambiguous import MODES as AMBIGUOUS
from ovbench.training.reference_set.groups import MODES as FILTERS
from ovbench.training.reference_set.groups import RATES, ROUNDINGS
from ovbench.training.reference_set.synonyms import SCOPES
from ovbench.utils.errors import UsageError
from ovbench.utils.paths import shipped
from ovbench.utils.toml import read_toml, refuse_unknown_keys

PARSERS = ("auto", "spacy", "lexicon")
PAIRING_FEATURES = ("maskclip", "vanilla", "crop")


@dataclass(frozen=True)
class BuildSettings:
    """Settings of the build beside those of the method. What the paper leaves open has a default of ours, see
    docs/reme.md.

    parser, spacy_model: how noun phrases are found; "auto" is spaCy where that model is installed, else the lexicon.
    pairing, pairing_features, pairing_short_side: the CLIP that pairs, the features of its segments (dense by
    MaskCLIP's value path, dense by plain CLIP, or the masked crop), and the side in pixels that it sees.
    ambiguous: "knee_gated", "knee", "list" (the roots in the file ``ambiguous_list``) or "off"; ``gate_quantile`` and
    ``gate_min_size`` belong to the gate. ambiguous_first: before the group filter, or after it.
    zeta: how masks become weights of patches, see `ovbench.methods.reme.pooling`; what looks segments up does the same.
    filter: "fixed", "adaptive", "clip-group", "clip" or "none"; ``drop_percent`` is of all but "adaptive", whose
    own is ``rate``; ``rounding`` makes numbers of shares: "floor", "ceil" or "quantile".
    synonyms: "global" (``synonym_pairs`` in all), "per_label" (``synonyms_per_label`` for each root, of at least
    ``least_similarity``) or "off".
    o_rownorm: whether the labels of a segment share a weight of 1, so that one with many does not count for more.
    """

    parser: str = "auto"
    spacy_model: str = "en_core_web_sm"
    pairing: str = "ViT-B-16-quickgelu/openai"
    pairing_features: str = "maskclip"
    pairing_short_side: int = 448
    zeta: str = "area"
    ambiguous: str = "knee_gated"
    ambiguous_list: str = ""
    gate_quantile: float = GATE_QUANTILE
    gate_min_size: int = GATE_MIN_SIZE
    ambiguous_first: bool = True
    filter: str = "fixed"
    drop_percent: float = 30.0
    rate: str = "half"
    rounding: str = "floor"
    synonyms: str = "global"
    synonym_pairs: int = 30
    synonyms_per_label: int = 1
    least_similarity: float = 0.0
    o_rownorm: bool = False

    def __post_init__(self) -> None:
        choices = (
            ("parser", PARSERS), ("pairing_features", PAIRING_FEATURES), ("ambiguous", AMBIGUOUS),
            ("filter", FILTERS), ("rate", RATES), ("synonyms", SCOPES),
            ("zeta", ZETAS), ("rounding", ROUNDINGS),
        )  # fmt: skip
        for key, known in choices:
            if getattr(self, key) not in known:
                raise UsageError(f'"{key}" is "{getattr(self, key)}"', where="build", fix="use " + ", ".join(known))
        checks = (
            (0 <= self.drop_percent < 100, "drop_percent is 0 or more, below 100"),
            (0 <= self.gate_quantile <= 1, "gate_quantile is between 0 and 1"),
            (self.synonym_pairs >= 0 and self.synonyms_per_label >= 0, "numbers of synonyms are 0 or more"),
            (self.ambiguous != "list" or self.ambiguous_list != "", 'ambiguous "list" needs ambiguous_list=FILE'),
            (self.pairing_short_side >= 0, "pairing_short_side is 0 (no resize) or more"),
        )
        for holds, message in checks:
            if not holds:
                raise UsageError(message, where="build")


class Plan(NamedTuple):
    """``build`` beside ``cell``, the method's own settings for a benchmark: encoders, regions, image size, prompts."""

    build: BuildSettings
    cell: Cell


def resolve_plan(
    like: str, overrides: Mapping[str, str] | None = None, weights: Mapping[str, str] | None = None
) -> Plan:
    """The settings for sets that serve the benchmark ``like``; ``overrides`` (``key=value``) name settings of the build
    or of the method, ``weights`` encoders ("clip", "dinov2", "pairing")."""
    from ovbench.training.reference_set.phrases import choose_parser

    file, hints = read_toml(shipped("configs", "reference.toml")), get_type_hints(BuildSettings)
    values = {**file["build"], **file.get("benchmark", {}).get(like, {}).get("build", {})}
    refuse_unknown_keys(values, hints, "reference.toml")
    own = {key: text for key, text in (overrides or {}).items() if key in hints}
    values |= {key: parse_value(text, hints[key], key) for key, text in own.items()}
    weights = dict(weights or {})
    values["pairing"] = weights.pop("pairing", values["pairing"])
    build = BuildSettings(**values)
    build = dataclasses.replace(build, parser=choose_parser(build.parser, build.spacy_model))
    rest = {key: text for key, text in (overrides or {}).items() if key not in own}
    cell = resolve("reme", like, rest, {**weights, "reference": ""})
    return Plan(build, cell)


def part_settings(plan: Plan, hashes: Mapping[str, str]) -> dict[str, dict[str, Any]]:
    """What the outcome of each stage depends on beside the stage before it. ``hashes`` are of the encoders' tensors."""
    b, protocol = plan.build, plan.cell.protocol
    zeta = {} if b.zeta == "area" else {"zeta": b.zeta}  # what was built before there was a choice stays good
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
