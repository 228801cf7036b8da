"""From a backbone's name to a frozen network: the packaged small ones, tags of open_clip and timm, or a file."""

from __future__ import annotations

import hashlib
import json
import logging
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ovbench.backbones.checkpoint import fill, read_tensors, tensor_hash, without_prefix
from ovbench.backbones.clip import ClipVision
from ovbench.backbones.dino import DinoVision
from ovbench.backbones.dinov2 import Dinov2Vision
from ovbench.backbones.hub import given_file, local_file, published, published_file, require_connection
from ovbench.backbones.names import open_clip_names, timm_names
from ovbench.backbones.preprocess import USUAL, Normalisation, normalisation_of
from ovbench.backbones.text import TextEncoder
from ovbench.backbones.zoo import Source, clip_architecture, clip_source, clip_tag, quick_gelu, timm_source, timm_tag
from ovbench.config.backbone_spec import MINI, BackboneSpec, parse_spec
from ovbench.methods.talk2dino.projection import load_psi
from ovbench.utils.errors import InputError, first_line, unknown
from ovbench.utils.paths import asset

REFERENCE = "reference"
CLIPS = ("clip", "presence")
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers that OpenAI keeps among the tensors
USUAL_ACTIVATION = "gelu"

log = logging.getLogger("ovbench")


class Use(NamedTuple):
    """How a network wants to be used, beside its tensors: ``normalisation`` of its input (None: it sees no picture),
    ``activation`` "gelu" or "quick_gelu", ``temperature`` of its cosines (CLIP's exp(logit_scale), else None), side of
    a ``patch`` in pixels, and the ``interpolation`` that its publisher resizes pictures with ("" where unknown)."""

    normalisation: Normalisation | None = None
    activation: str = USUAL_ACTIVATION
    temperature: float | None = None
    patch: int | None = None
    interpolation: str = ""

    def unusual(self, kind: str) -> dict[str, Any]:
        """What is not as in most networks of a kind and is not among the tensors either; part of a network's hash."""
        found: dict[str, Any] = {}
        if self.activation != USUAL_ACTIVATION:
            found["activation"] = self.activation
        if self.normalisation is not None and not self.normalisation.equals(USUAL[kind]):
            found["normalisation"] = self.normalisation
        return found


class Loaded(NamedTuple):
    """A backbone and where it came from: its name, the hash of its tensors and of how they are used, the text tower if
    it has one, and its use."""

    vision: nn.Module
    spec: str
    sha256: str
    text: TextEncoder | None = None
    use: Use = Use()


def load_backbone(kind: str, spec: str) -> Loaded:
    """Load the backbone ``kind`` in fp32 on the CPU; ``spec`` as in `ovbench.config.backbone_spec`.

    Kinds: "clip"; "presence", a second CLIP; "dino"; "dinov2" (any DINO, DINOv2 or DINOv3); "psi", Talk2DINO's
    projection of text. Files, each a torch or a safetensors file: for CLIP a state dict with open_clip's, OpenAI's or
    transformers' names, or OpenAI's TorchScript archive; for the DINOs one with facebookresearch's, timm's or
    transformers' names, or the authors' full training checkpoint, of which the teacher is taken; for psi see
    `ovbench.methods.talk2dino.projection`. InputError where the weights are neither here nor reachable, or do not fit.
    "reference": the folder of a reference set, no network.
    """
    if kind == REFERENCE:
        return _load_reference(spec)
    load, parsed = _loader(kind), parse_spec(kind, spec)
    if parsed.file:
        given_file(str(parsed.file), f"{kind}={spec}")
    return load(parsed, spec)


def _loader(kind: str) -> Callable[[BackboneSpec, str], Loaded]:
    loaders = {"clip": _load_clip, "dino": _load_dino, "dinov2": _load_dinov2, "psi": _load_psi, "presence": _load_clip}
    if kind not in loaders:
        raise unknown("backbone", kind, loaders)
    return loaders[kind]


def missing_weights(backbones: Mapping[str, str]) -> list[str]:
    """The files of backbones that are not on this machine, as "FILE of REPOSITORY". UsageError for an unknown name,
    InputError for a local file that does not exist and for a tower that no method can use."""
    absent: list[str] = []
    by_hand: InputError | None = None
    if {"psi", "dinov2"} <= backbones.keys():
        _require_partner(backbones["psi"], backbones["dinov2"])
    for kind, text in backbones.items():
        if kind == REFERENCE:
            from ovbench.methods.reme.reference_store import find_set

            find_set(text)
            continue
        spec = parse_spec(kind, text)
        if spec.file:
            given_file(str(spec.file), f"--weights {kind}")
            if kind in CLIPS and spec.architecture != MINI:
                clip_architecture(spec, text)
        elif kind == "psi":
            try:
                _psi_file(spec, text)
            except InputError as error:  # said together with what else is missing
                by_hand = error
        elif spec.architecture != MINI:
            source = clip_source(spec, text) if kind in CLIPS else timm_source(spec, text)
            if _here(source) is None:
                if kind not in CLIPS:
                    _require_vit(kind, spec)
                absent.append(f"{kind}: {source.files[0]} of {source.place}")
    if by_hand is not None:
        also = f", nor is {', '.join(absent)}" if absent else ""
        raise InputError(f"{by_hand.what}{also}", where=by_hand.where, fix=by_hand.fix)
    return absent


def require_weights(cells: Iterable[Any]) -> None:
    """Say what the cells need and this machine neither has nor can fetch, before anything runs: InputError with every
    file name. A cell has ``backbones`` and a ``regions`` table."""
    from ovbench.regions.provider import open_source

    cells = list(cells)
    sources = [open_source(cell.regions)[1] for cell in cells if cell.regions]
    absent = [name for cell in cells for name in missing_weights(cell.backbones)]
    absent += [name for source in sources for name in source.missing()]
    if absent:
        from huggingface_hub import constants

        require_connection(constants.ENDPOINT, list(dict.fromkeys(absent)))
    for source in sources:
        source.fetch()


def _load_clip(spec: BackboneSpec, text: str) -> Loaded:
    quick, interpolation = False, ""
    if spec.architecture == MINI:
        from ovbench.backbones import mini

        model, tokenizer = mini.load_clip(), mini.tokenizer()
        state = read_tensors(spec.file) if spec.file else {}
    elif spec.file:
        state = read_tensors(spec.file)
        quick = _file_quick_gelu(spec, state, text)
        model, tokenizer = _bare_clip(spec, quick), _tokenizer(spec, text)
    else:
        state, quick, interpolation = {}, quick_gelu(spec, text), clip_tag(spec, text).get("interpolation", "")
        model, tokenizer = _clip_of_tag(spec, text, quick), _tokenizer(spec, text)
    if spec.file:
        state = open_clip_names({key: value for key, value in state.items() if key not in NOT_WEIGHTS})
        state = without_prefix(state, model.state_dict(), spec.file)
        _own_positions(model.visual, "positional_embedding", state.get("visual.positional_embedding"), 1, spec.file)
        _fill(model, state, spec, "clip")
    model = model.float().eval().requires_grad_(False)
    temperature, normalisation = float(model.logit_scale.exp()), normalisation_of("clip", text)
    vision = ClipVision(model.visual, temperature, normalisation)
    use = Use(normalisation, "quick_gelu" if quick else "gelu", temperature, vision.patch, interpolation)
    return Loaded(vision, text, network_hash(model, "clip", use), TextEncoder(model, tokenizer), use)


def _file_quick_gelu(spec: BackboneSpec, state: Mapping[str, Tensor], text: str) -> bool:
    """The activation of a CLIP in a file, which does not say it: OpenAI's own files mean QuickGELU whatever
    architecture is named, others what the named architecture has."""
    named = bool(clip_architecture(spec, text).get("quick_gelu", False))
    if not all(name in state for name in NOT_WEIGHTS):
        return named
    if not named:
        log.warning('"%s" is a file of OpenAI\'s: %s runs with QuickGELU, as its weights want', spec.file, text)
    return True


def _bare_clip(spec: BackboneSpec, quick: bool) -> nn.Module:
    import open_clip

    with _quiet():
        return open_clip.create_model(
            spec.architecture, load_weights=False, pretrained_text=False, force_quick_gelu=quick
        )


def _clip_of_tag(spec: BackboneSpec, text: str, quick: bool) -> nn.Module:
    """The model of a pretrained tag with the activation that the tag wants. open_clip is given the file that is here,
    so it cannot know the tag's."""
    import open_clip

    source = clip_source(spec, text)
    found = _here(source)
    if found is None:
        _require(source)
    with _quiet(), _explained("CLIP", text):
        return open_clip.create_model(
            spec.architecture, pretrained=str(found or spec.tag), precision="fp32", force_quick_gelu=quick
        )


def _tokenizer(spec: BackboneSpec, text: str) -> Any:
    import open_clip

    with _quiet(), _explained("the tokenizer of CLIP", text):
        return open_clip.get_tokenizer(spec.architecture)


def _load_dino(spec: BackboneSpec, text: str) -> Loaded:
    return _loaded_dino("dino", DinoVision, spec, text)


def _load_dinov2(spec: BackboneSpec, text: str) -> Loaded:
    return _loaded_dino("dinov2", Dinov2Vision, spec, text)


def _loaded_dino(kind: str, tower: type, spec: BackboneSpec, text: str) -> Loaded:
    vit, normalisation = _dino_vit(spec, text, kind), normalisation_of(kind, text)
    vision = tower(vit, normalisation)
    tag = None if spec.file or spec.architecture == MINI else timm_tag(spec, text)
    use = Use(normalisation, patch=vision.patch, interpolation=tag.interpolation if tag else "")
    return Loaded(vision, text, network_hash(vit, kind, use), use=use)


def _load_psi(spec: BackboneSpec, text: str) -> Loaded:
    psi = load_psi(_psi_file(spec, text))
    return Loaded(psi, text, tensor_hash(psi))


def _load_reference(text: str) -> Loaded:
    from ovbench.methods.reme.reference_store import find_set, load_set

    stored = load_set(find_set(text))
    return Loaded(stored.bank, text, stored.sha256)


def _psi_file(spec: BackboneSpec, text: str) -> Path:
    """The file of a psi; InputError that says where a published one comes from if it is not here."""
    if spec.file or spec.architecture == MINI:
        return spec.file or asset("mini", "psi.safetensors")
    entries = published("psi")
    if spec.architecture not in entries:
        raise unknown("psi", spec.architecture, [MINI, *entries], where=f"psi={text}")
    path = published_file("psi", spec.architecture)
    if not path.is_file():
        raise InputError(
            f'the psi "{spec.architecture}" is not on this machine',
            where=f"looked in {path.parent}",
            fix=f"it is not fetched: put {entries[spec.architecture]['url']} there, or name a file: --weights psi=FILE",
        )
    return path


def _require_partner(psi: str, dinov2: str) -> None:
    """InputError for a published psi, by its name or the name of its file, beside another DINO than its own: one of the
    same width would run and label at random."""
    spec, tower = parse_spec("psi", psi), parse_spec("dinov2", dinov2)
    for name, entry in published("psi").items():
        own = entry["dinov2"].partition(".")[0]
        known = spec.file.name == entry["file"] if spec.file else spec.architecture == name
        if known and tower.architecture.partition(".")[0] != own:
            raise InputError(
                f'the psi "{name}" belongs to {entry["dinov2"]}, not to {dinov2}',
                where=f"psi={psi}",
                fix="give the psi of that DINO: --weights psi=FILE, or train one: ovbench train talk2dino",
            )


def _dino_vit(spec: BackboneSpec, text: str, kind: str) -> nn.Module:
    if spec.architecture == MINI:
        from ovbench.backbones import mini

        vit = mini.load_dino(kind)
    else:
        vit = _timm(spec, text)
    if spec.file:
        state = {key.removeprefix("backbone."): value for key, value in read_tensors(spec.file).items()}
        state = timm_names({key: value for key, value in state.items() if not key.startswith(("head.", "dino_head."))})
        state = timm_names(without_prefix(state, vit.state_dict(), spec.file))
        prefix = 0 if getattr(vit, "no_embed_class", False) else 1
        _own_positions(vit, "pos_embed", state.get("pos_embed"), prefix, spec.file)
        _fill(vit, state, spec, kind)
    return vit.float()


def _own_positions(model: nn.Module, name: str, table: Tensor | None, prefix: int, path: Path) -> None:
    """Give a tower the position table of a file that was trained on other sizes. The towers interpolate their table to
    every picture anyway; interpolating it to the named architecture's size before would only lose some of it."""
    old = getattr(model, name, None)
    if old is None or table is None or table.ndim != old.ndim or table.shape == old.shape:
        return
    cells = table.shape[-2] - prefix
    side = math.isqrt(max(cells, 0))
    if table.shape[-1] == old.shape[-1] and side and side * side == cells:
        log.info('"%s" was trained on %d x %d patches; its own table of positions is kept', path.name, side, side)
        setattr(model, name, nn.Parameter(torch.empty_like(table, dtype=old.dtype)))


def _require_vit(kind: str, spec: BackboneSpec) -> None:
    """InputError for a timm model that is no DINO's ViT, from its architecture alone."""
    import timm

    with torch.device("meta"), _quiet():
        vit = timm.create_model(spec.architecture.partition(".")[0], pretrained=False, num_classes=0)
    try:
        (DinoVision if kind == "dino" else Dinov2Vision)(vit)
    except AttributeError:
        raise InputError(
            f"{spec.architecture} is no tower of {kind}: it is not a ViT", where=f"{kind}={spec.architecture}"
        ) from None


def _timm(spec: BackboneSpec, text: str) -> nn.Module:
    import timm

    name = spec.architecture.partition(".")[0]
    if spec.file:
        if not timm.is_model(name):
            raise unknown("timm model", name, timm.list_models(), where=f"dino={text}")
        return timm.create_model(name, pretrained=False, num_classes=0)
    source = timm_source(spec, text)
    found = _here(source)
    if found is None:
        _require_vit("dinov2", spec)
        _require(source)
    overlay = {"pretrained_cfg_overlay": {"file": str(found)}} if found else {}
    with _explained("the DINO", text):
        return timm.create_model(spec.architecture, pretrained=True, num_classes=0, **overlay)


def _here(source: Source) -> Path | None:
    """The weights file on this machine, in the hub's cache or where the libraries keep what they get from an URL."""
    if "://" not in source.place:
        return local_file(source.place, *source.files)
    folders = (Path.home() / ".cache" / "clip", Path(torch.hub.get_dir()) / "checkpoints")
    return next((path for path in (folder / source.files[0] for folder in folders) if path.is_file()), None)


def _require(source: Source) -> None:
    from huggingface_hub import constants

    place = source.place if "://" in source.place else constants.ENDPOINT
    require_connection(place, [f"{source.files[0]} of {source.place}"])


def _fill(model: nn.Module, state: dict[str, Tensor], spec: BackboneSpec, kind: str) -> None:
    assert spec.file is not None
    fix = f"name the architecture that the file holds: --weights {kind}=ARCHITECTURE@{spec.file}"
    fill(model, state, name=spec.architecture, path=spec.file, fix=fix)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the libraries' remarks that a model has no weights yet, or comes from a file."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


@contextmanager
def _explained(kind: str, text: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # hub, network and file errors have no common base class
        raise InputError(
            f"the weights of {kind} {text} could not be fetched or loaded ({first_line(error)})",
            fix="run once with a connection, copy the hub's cache folder to this machine, or give --weights KIND=FILE",
        ) from error


def network_hash(model: nn.Module, kind: str, use: Use) -> str:
    """sha256 over a network's tensors (CLIP's temperature is among them) and whatever is unusual in its use: activation
    and normalisation. The usual adds nothing, so that hashes in records from before stay valid."""
    digest, unusual = tensor_hash(model), use.unusual(kind)
    return hashlib.sha256(f"{digest} {json.dumps(unusual, sort_keys=True)}".encode()).hexdigest() if unusual else digest
