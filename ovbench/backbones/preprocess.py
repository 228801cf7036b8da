"""What a tower's publisher says about its input: the mean and the deviation of colours. Known without loading it."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import NamedTuple

from ovbench.backbones.hub import published
from ovbench.config.backbone_spec import MINI, parse_spec

TOLERANCE = 0.01  # of values 0..255: what published roundings of one constant differ by


class Normalisation(NamedTuple):
    """Mean and standard deviation of RGB values 0..255."""

    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def of_unit(cls, mean: Sequence[float], std: Sequence[float]) -> Normalisation:
        """From constants for values 0..1, to three places, as the configurations of mmsegmentation have them.

        >>> Normalisation.of_unit((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)).mean
        (127.5, 127.5, 127.5)
        """
        return cls(*(tuple(round(255 * value, 3) for value in values) for values in (mean, std)))

    def equals(self, other: Normalisation) -> bool:
        """Whether both are the same constants, however they were rounded."""
        pairs = zip((*self.mean, *self.std), (*other.mean, *other.std), strict=True)
        return all(abs(a - b) <= TOLERANCE for a, b in pairs)


    def unit(self) -> Normalisation:
        """For values 0..1. OpenAI's constants unrounded, as official code undoes a normalisation with them that it did
        with the rounded ones."""
        return UNIT.get(self) or Normalisation(*(tuple(value / 255 for value in values) for values in self))


OPENAI = Normalisation((122.771, 116.746, 104.094), (68.501, 66.632, 70.323))
IMAGENET = Normalisation((123.675, 116.28, 103.53), (58.395, 57.12, 57.375))
UNIT = {
    OPENAI: Normalisation((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
    IMAGENET: Normalisation((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
}
USUAL = {"clip": OPENAI, "presence": OPENAI, "dino": IMAGENET, "dinov2": IMAGENET}


@functools.lru_cache(maxsize=256)
def normalisation_of(kind: str, text: str) -> Normalisation | None:
    """The normalisation of the backbone ``text`` (see `ovbench.config.backbone_spec`); None for a kind without input.

    A pretrained tag has its own. A file says nothing about it: then the usual one of its kind, OpenAI's for CLIP and
    ImageNet's for the DINOs. UsageError for a name that the libraries do not know.
    """
    if kind not in USUAL:
        return None
    spec = parse_spec(kind, text)
    entries = published("clip" if kind == "presence" else kind).values()
    usual = {entry.get("spec") for entry in entries}  # so that the libraries, which take seconds, are not imported
    name = f"{spec.architecture}/{spec.tag}" if spec.tag else spec.architecture
    if spec.file or spec.architecture == MINI or name in usual:
        return USUAL[kind]
    from ovbench.backbones.zoo import clip_tag, timm_tag

    if kind in ("clip", "presence"):
        config = clip_tag(spec, text)
        return Normalisation.of_unit(config["mean"], config["std"])
    config = timm_tag(spec, text)
    return Normalisation.of_unit(config.mean, config.std)
