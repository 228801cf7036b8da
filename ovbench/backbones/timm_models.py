"""DINO, DINOv2, DINOv3 and RADIO models of timm: a pretrained model, or an architecture with the tensors of a file.

Commands look at names without loading a network: torch is imported in the functions that need it.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ovbench.backbones.base import Loaded, NamedWeights, Use, network_hash
from ovbench.backbones.hub import Source, given_file
from ovbench.backbones.libraries import explained, quiet
from ovbench.backbones.preprocess import IMAGENET, OPENAI, Normalisation
from ovbench.config.backbone_spec import MINI, BackboneSpec
from ovbench.config.published_weights import published
from ovbench.utils.errors import InputError, UsageError, unknown
from ovbench.utils.registry import load_target

if TYPE_CHECKING:
    from torch import nn

FILES = ("model.safetensors", "pytorch_model.bin")
RADIO_HUB = re.compile(r"^base_model\.")  # prefix in RADIO's torch files


class Dino(NamedWeights):
    """A DINO with the tower that calls it.

    A file is a state dict (torch or safetensors) with the names of facebookresearch, timm or transformers, or a full
    training checkpoint of the authors, from which the teacher is used.
    """

    usual = IMAGENET

    def __init__(self, name: str, title: str, tower: str, mini: str = ""):
        super().__init__(name, title)
        self._tower = tower  # "module:class"
        self._mini = mini or name  # its small network of `mini`

    @property
    def tower(self) -> type[nn.Module]:
        """The class of the tower."""
        return load_target(self._tower, where=self.name)

    def load(self, spec: str) -> Loaded:
        """Load the ViT with its tower and the normalisation of the weights."""
        parsed, where = self.parse(spec), f"{self.name}={spec}"
        if parsed.file:
            given_file(str(parsed.file), where)
        if parsed.architecture == MINI:
            from ovbench.backbones import mini_models

            vit = mini_models.load_dino(self._mini)
        else:
            vit = self._timm_model(parsed, where)
        if parsed.file:
            self._fill(vit, parsed)
        vit, normalisation = vit.float(), self.normalisation(spec)
        vision = self.tower(vit, normalisation)
        of_tag = not parsed.file and parsed.architecture != MINI
        use = Use(
            normalisation, patch=vision.patch, interpolation=timm_tag(parsed, where).interpolation if of_tag else ""
        )
        return Loaded(vision, spec, network_hash(vit, use, IMAGENET), use=use)

    def missing(self, spec: str) -> list[str]:
        """Return the file to download; raise an error for a model that is not a ViT."""
        parsed, where = self.parse(spec), f"{self.name}={spec}"
        if parsed.file:
            given_file(str(parsed.file), where)
            return []
        if parsed.architecture == MINI:
            return []
        source = self.source(spec)
        if source is None or source.find():
            return []
        if self.published_source(parsed, *FILES) is None:
            self._require_vit(parsed, where)
        return [str(source)]

    def source(self, spec: str) -> Source | None:
        """Return the origin of a pretrained model."""
        parsed = self.parse(spec)
        if parsed.file or parsed.architecture == MINI:
            return None
        return self.published_source(parsed, *FILES) or timm_source(parsed, f"{self.name}={spec}")

    def normalisation(self, spec: str) -> Normalisation:
        """Return the normalisation of a pretrained model; for a file, ImageNet's is assumed."""
        parsed = self.parse(spec)
        short_named = {entry["spec"] for entry in published(self.table).values()}  # known without importing timm
        if parsed.file or parsed.architecture in (MINI, *short_named):
            return IMAGENET
        return _normalisation_of_tag(parsed, f"{self.name}={spec}")

    def _timm_model(self, parsed: BackboneSpec, where: str) -> nn.Module:
        import timm

        name = parsed.architecture.partition(".")[0]
        if parsed.file:
            if not timm.is_model(name):
                raise unknown("timm model", name, timm.list_models(), where=where)
            return timm.create_model(name, pretrained=False, num_classes=0)
        source = timm_source(parsed, where)
        found = source.find()
        if found is None:
            self._require_vit(parsed, where)
            source.require()
        overlay = {"pretrained_cfg_overlay": {"file": str(found)}} if found else {}
        with explained(where):
            return timm.create_model(parsed.architecture, pretrained=True, num_classes=0, **overlay)

    def _fill(self, vit: nn.Module, parsed: BackboneSpec) -> None:
        from ovbench.backbones.checkpoint import fill, keep_own_positions, read_tensors, without_prefix
        from ovbench.backbones.names import timm_names

        state = {key.removeprefix("backbone."): value for key, value in read_tensors(parsed.file).items()}
        state = {key: value for key, value in state.items() if not key.startswith(("head.", "dino_head."))}
        biases = "blocks.0.attn.q_bias" in vit.state_dict()
        state = timm_names(
            without_prefix(timm_names(state, biases=biases), vit.state_dict(), parsed.file), biases=biases
        )
        prefix = 0 if getattr(vit, "no_embed_class", False) else 1
        keep_own_positions(vit, "pos_embed", state.get("pos_embed"), prefix, parsed.file)
        fix = f"give the architecture of the file: --weights {self.name}=ARCHITECTURE@{parsed.file}"
        fill(vit, state, name=parsed.architecture, path=parsed.file, fix=fix)

    def _require_vit(self, parsed: BackboneSpec, where: str) -> None:
        """Check by the architecture that the tower can be built."""
        import timm
        import torch

        with torch.device("meta"), quiet():
            vit = timm.create_model(parsed.architecture.partition(".")[0], pretrained=False, num_classes=0)
        try:
            self.tower(vit)
        except AttributeError:
            raise InputError(
                f"{parsed.architecture} is not a network for {self.name}: it is not a ViT", where=where
            ) from None


class Vfm(Dino):
    """A RADIO, DINOv2 or DINOv3 that sees whole images.

    A file of RADIO is a state dict (torch or safetensors) with the names of NVlabs/RADIO (torch hub), of nvidia's
    safetensors, or of timm.
    """

    def parse(self, spec: str) -> BackboneSpec:
        """Split a spec, and refuse the form of RADIO whose positions fit one size only."""
        parsed = super().parse(spec)
        if self._is_radio(parsed) and not parsed.architecture.startswith("naflexvit_"):
            raise UsageError(
                f"{parsed.architecture} does not resize its positions as the official RADIO",
                where=f"{self.name}={spec}", fix=f"give naflex{parsed.architecture}",
            )  # fmt: skip
        return parsed

    def normalisation(self, spec: str) -> Normalisation:
        """Return the normalisation: OpenAI's for RADIO, which the official model applies itself."""
        return OPENAI if self._is_radio(self.parse(spec)) else super().normalisation(spec)

    @staticmethod
    def _is_radio(parsed: BackboneSpec) -> bool:
        return "_radio" in parsed.architecture

    def _fill(self, vit: nn.Module, parsed: BackboneSpec) -> None:
        if not self._is_radio(parsed):
            super()._fill(vit, parsed)
            return
        from timm.models.naflexvit import checkpoint_filter_fn

        from ovbench.backbones.checkpoint import fill, read_tensors

        state = read_tensors(parsed.file, ("state_dict_ema", "state_dict"))  # as RADIO's own loader
        state = {RADIO_HUB.sub("radio_model.model.", key): value for key, value in state.items()}
        fix = f"give the architecture of the file: --weights {self.name}=ARCHITECTURE@{parsed.file}"
        fill(vit, checkpoint_filter_fn(state, vit), name=parsed.architecture, path=parsed.file, fix=fix)


DINO = Dino(
    "dino", "DINO with learned positions (v1, v2 with registers), from timm", tower="ovbench.backbones.dino:DinoVision"
)
DINOV2 = Dino(
    "dinov2", "any DINO (v1, v2, v3), final tokens and attention, from timm",
    tower="ovbench.backbones.dinov2:Dinov2Vision",
)  # fmt: skip
VFM = Vfm(
    "vfm", "RADIO, DINOv2 or DINOv3, a map of the whole image, from timm", tower="ovbench.backbones.vfm:VfmVision",
    mini="dinov2",
)  # fmt: skip


def timm_tag(spec: BackboneSpec, where: str) -> Any:
    """Return timm's configuration of a pretrained model.

    Raises:
        UsageError: If the name is unknown to timm.
    """
    import timm

    names = timm.list_pretrained()
    if spec.architecture not in names:
        raise unknown("timm model", spec.architecture, [n for n in names if "dino" in n], where=where)
    return timm.get_pretrained_cfg(spec.architecture)


def timm_source(spec: BackboneSpec, where: str) -> Source:
    """Return the origin of the weights of a pretrained model, with the errors of `timm_tag`."""
    config = timm_tag(spec, where)
    if config.hf_hub_id:
        repository = config.hf_hub_id
        if repository.endswith("/"):
            repository += f"{config.architecture}.{config.tag}"
        return Source(repository, (config.hf_hub_filename,) if config.hf_hub_filename else FILES)
    return Source(config.url, (Path(config.url).name,))


@functools.lru_cache(maxsize=256)
def _normalisation_of_tag(spec: BackboneSpec, where: str) -> Normalisation:
    config = timm_tag(spec, where)
    return Normalisation.of_unit(config.mean, config.std)
