"""CLIP models by open_clip's names: a model with its pretrained tag, or an architecture with the tensors of a file.

Plain towers are built by `ovbench.backbones.clip_model`, all others by open_clip. Commands look at names without
loading a network: torch is imported in the functions that need it.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovbench.backbones import open_clip_tables
from ovbench.backbones.base import Loaded, NamedWeights, Use, network_hash
from ovbench.backbones.hub import Source, given_file
from ovbench.backbones.libraries import explained, quiet
from ovbench.backbones.preprocess import OPENAI, Normalisation
from ovbench.config.backbone_spec import MINI, BackboneSpec
from ovbench.config.published_weights import published
from ovbench.utils.errors import InputError, unknown, warn_once

if TYPE_CHECKING:
    from torch import Tensor, nn

    from ovbench.backbones.clip_model import Shapes

FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers among the tensors of OpenAI's files
LARGEST_TEMPERATURE = 1e4  # CLIP's training ends at 100

log = logging.getLogger("ovbench")


class Clip(NamedWeights):
    """A CLIP with its text tower.

    A file is a state dict (torch or safetensors) with the names of open_clip, OpenAI or transformers, or a TorchScript
    archive of OpenAI.
    """

    usual = OPENAI

    def load(self, spec: str) -> Loaded:
        """Load both towers, with the activation, normalisation and temperature of the weights."""
        from ovbench.backbones.checkpoint import read_tensors
        from ovbench.backbones.clip import ClipVision
        from ovbench.backbones.text import TextEncoder

        parsed, quick, interpolation = self.parse(spec), False, ""
        where = f"{self.name}={spec}"
        if parsed.architecture == MINI:
            from ovbench.backbones import mini_models

            model, tokenizer = mini_models.load_clip(), mini_models.tokenizer()
            if parsed.file:
                self._fill(model, read_tensors(given_file(str(parsed.file), where)), parsed, parsed.file)
        elif parsed.file:
            state = read_tensors(given_file(str(parsed.file), where))
            quick = _quick_gelu_of_file(parsed, state, where)
            model, tokenizer = _bare_model(parsed, quick, where), _tokenizer(parsed, where)
            self._fill(model, state, parsed, parsed.file)
        else:
            quick, interpolation = quick_gelu(parsed, where), clip_tag(parsed, where).get("interpolation", "")
            model, tokenizer = self._model_of_tag(parsed, where, quick), _tokenizer(parsed, where)
        if parsed.architecture != MINI:
            _warn_of_pooling(parsed, where)
        model = model.float().eval().requires_grad_(False)
        temperature, normalisation = float(model.logit_scale.exp()), self.normalisation(spec)
        if not temperature < LARGEST_TEMPERATURE:
            raise InputError(
                f"logit_scale is {float(model.logit_scale):g}, so cosines would be multiplied by {temperature:.3g}",
                where=where, fix="save the logarithm of the factor as logit_scale",
            )  # fmt: skip
        vision = ClipVision(model.visual, temperature, normalisation)
        use = Use(normalisation, "quick_gelu" if quick else "gelu", temperature, vision.patch, interpolation)
        return Loaded(vision, spec, network_hash(model, use, OPENAI), TextEncoder(model, tokenizer), use)

    def missing(self, spec: str) -> list[str]:
        """Return the file to download; raise an error for a tower that no method can use."""
        parsed, where = self.parse(spec), f"{self.name}={spec}"
        if parsed.file:
            given_file(str(parsed.file), where)
        if parsed.architecture == MINI:
            return []
        if parsed.file:
            clip_architecture(parsed, where)
            return []
        source = self.source(spec)
        return [] if source is None or source.find() else [str(source)]

    def source(self, spec: str) -> Source | None:
        """Return the origin of a pretrained tag."""
        parsed = self.parse(spec)
        if parsed.file or parsed.architecture == MINI:
            return None
        return self.published_source(parsed, *FILES) or clip_source(parsed, f"{self.name}={spec}")

    def normalisation(self, spec: str) -> Normalisation:
        """Return the normalisation of a pretrained tag; for a file, OpenAI's is assumed."""
        parsed = self.parse(spec)
        if parsed.file or parsed.architecture == MINI or f"{parsed.architecture}/{parsed.tag}" in _short_named():
            return OPENAI
        return _normalisation_of_tag(parsed, f"{self.name}={spec}")

    def _model_of_tag(self, parsed: BackboneSpec, where: str, quick: bool) -> nn.Module:
        """Build a model; the activation is given, because open_clip gets a local file and cannot know its tag."""
        from ovbench.backbones.checkpoint import read_tensors

        source = clip_source(parsed, where)
        found = source.find()
        if found is None:
            source.require()
        if _shapes(parsed, where) is None:
            import open_clip

            with quiet(), explained(where):
                return open_clip.create_model(
                    parsed.architecture, pretrained=str(found or parsed.tag), precision="fp32", force_quick_gelu=quick
                )
        with quiet(), explained(where):
            path = found or open_clip_tables.download(clip_tag(parsed, where))
        model = _bare_model(parsed, quick, where)
        self._fill(model, read_tensors(path), parsed, path)
        return model

    def _fill(self, model: nn.Module, state: dict[str, Tensor], parsed: BackboneSpec, path: Path) -> None:
        from ovbench.backbones.checkpoint import fill, keep_own_positions, without_prefix
        from ovbench.backbones.names import open_clip_names

        state = open_clip_names({key: value for key, value in state.items() if key not in NOT_WEIGHTS})
        state = without_prefix(state, model.state_dict(), path)
        table = state.get("visual.positional_embedding")
        keep_own_positions(model.visual, "positional_embedding", table, 1, path)
        fix = f"give the architecture of the file: --weights {self.name}=ARCHITECTURE@{path}"
        fill(model, state, name=parsed.architecture, path=path, fix=fix)


CLIP = Clip("clip", "CLIP: image and text towers, from open_clip")
AUXILIARY = Clip("auxiliary", "a second CLIP, whose text tower scores the regions of a bank", table="clip")
PRESENCE = Clip("presence", "a second CLIP, which decides what an image contains", table="clip")


def clip_architecture(spec: BackboneSpec, where: str) -> Mapping[str, Any]:
    """Return open_clip's configuration of an architecture.

    Raises:
        UsageError: If the name is unknown to open_clip.
        InputError: If no method here can use its vision tower.
    """
    config = open_clip_tables.architecture(spec.architecture)
    if config is None:
        raise unknown("CLIP model", spec.architecture, open_clip_tables.architectures(), where=where)
    vision = config["vision_cfg"]
    if vision.get("timm_model_name"):
        tower = f"timm's {vision['timm_model_name']}"
    elif isinstance(vision.get("layers"), (list, tuple)):
        tower = "a ResNet"
    elif vision.get("attentional_pool"):
        tower = "a ViT with attention pooling"
    else:
        return config
    raise InputError(
        f"the vision tower of {spec.architecture} is {tower}, not a CLIP ViT with a class token",
        where=where,
        fix="choose an open_clip model whose vision tower is a plain ViT, such as ViT-B-16",
    )


def clip_tag(spec: BackboneSpec, where: str) -> Mapping[str, Any]:
    """Return open_clip's configuration of a pretrained tag, with the errors of `clip_architecture`."""
    clip_architecture(spec, where)
    tags = open_clip_tables.pretrained_tags(spec.architecture)
    if spec.tag not in tags:
        raise unknown("pretrained tag", spec.tag, tags, where=where)
    return open_clip_tables.pretrained(spec.architecture, spec.tag)


def clip_source(spec: BackboneSpec, where: str) -> Source:
    """Return the origin of the weights of a pretrained tag, with the errors of `clip_architecture`."""
    config = clip_tag(spec, where)
    if config.get("hf_hub"):
        repository, _, file = config["hf_hub"].rpartition("/")
        return Source(repository, (file,) if file else FILES)
    return Source(config["url"], (Path(config["url"]).name,))


def quick_gelu(spec: BackboneSpec, where: str) -> bool:
    """Return whether the weights of a tag need QuickGELU, by the tag or otherwise by the architecture."""
    return bool(clip_tag(spec, where).get("quick_gelu", clip_architecture(spec, where).get("quick_gelu", False)))


def _short_named() -> set[str]:
    """Return tags with the usual normalisation, known without torch, which open_clip's table of tags needs."""
    return {entry["spec"] for entry in published("clip").values()}


@functools.lru_cache(maxsize=256)
def _normalisation_of_tag(spec: BackboneSpec, where: str) -> Normalisation:
    config = clip_tag(spec, where)
    return Normalisation.of_unit(config["mean"], config["std"])


def _quick_gelu_of_file(spec: BackboneSpec, state: Mapping[str, Tensor], where: str) -> bool:
    """Return whether a file needs QuickGELU: always for files of OpenAI, otherwise by the architecture."""
    named = bool(clip_architecture(spec, where).get("quick_gelu", False))
    if not all(name in state for name in NOT_WEIGHTS):
        twin = f"{spec.architecture}-quickgelu"
        if not named and twin in open_clip_tables.architectures():
            warn_once(f'"{spec.file}" runs with GELU; if it was trained from OpenAI\'s weights, give {twin}@FILE')
        return named
    if not named:
        log.warning('"%s" is a file of OpenAI: %s runs with QuickGELU, as its weights need', spec.file, where)
    return True


def _warn_of_pooling(spec: BackboneSpec, where: str) -> None:
    """Warn of a tower such as CLIPA's, in whose training the class token had no part in the image features."""
    if clip_architecture(spec, where)["vision_cfg"].get("pool_type", "tok") != "tok":
        text = "averages its patches, so its class token was not trained; methods that use it may fail"
        warn_once(f"{where}: {spec.architecture} {text}")


def _shapes(spec: BackboneSpec, where: str) -> Shapes | None:
    """Return the sizes of a plain architecture, None for one that open_clip must build."""
    from ovbench.backbones.clip_model import Shapes

    return Shapes.of(clip_architecture(spec, where))


def _bare_model(spec: BackboneSpec, quick: bool, where: str) -> nn.Module:
    from ovbench.backbones.clip_model import ClipModel

    shapes = _shapes(spec, where)
    if shapes is not None:
        return ClipModel(shapes, quick)
    import open_clip

    with quiet():
        return open_clip.create_model(
            spec.architecture, load_weights=False, pretrained_text=False, force_quick_gelu=quick
        )


def _tokenizer(spec: BackboneSpec, where: str) -> Any:
    shapes = _shapes(spec, where)
    if shapes is not None:
        return open_clip_tables.clip_tokenizer(shapes.text.context_length)
    import open_clip

    with quiet(), explained(f"{where} (its tokenizer)"):
        return open_clip.get_tokenizer(spec.architecture)
