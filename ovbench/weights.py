"""From a backbone's name to a frozen network: the packaged small ones, tags of open_clip and timm, or a file."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ovbench.backbones.clip import ClipVision
from ovbench.backbones.dino import DinoVision
from ovbench.backbones.dinov2 import Dinov2Vision, timm_names
from ovbench.backbones.psi import load_psi
from ovbench.backbones.spec import BackboneSpec, parse_spec
from ovbench.backbones.text import TextEncoder
from ovbench.errors import InputError, first_line, unknown
from ovbench.hub import given_file, local_file, published, published_file, require_connection
from ovbench.resources import asset
from ovbench.tensors import fill, read_tensors

MINI = "mini"
REFERENCE = "reference"
CLIP_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")
TIMM_FILES = ("model.safetensors", "pytorch_model.bin")
NOT_WEIGHTS = ("input_resolution", "context_length", "vocab_size")  # numbers that OpenAI keeps among the tensors


class Loaded(NamedTuple):
    """A backbone and where it came from: its name, the hash of its tensors, and the text tower if it has one."""

    vision: nn.Module
    spec: str
    sha256: str
    text: TextEncoder | None = None


def load_backbone(kind: str, spec: str) -> Loaded:
    """Load the backbone ``kind`` in fp32 on the CPU; ``spec`` as in `ovbench.backbones.spec`.

    Kinds: "clip"; "presence", a second CLIP; "dino"; "dinov2" (any DINO, DINOv2 or DINOv3); "psi", Talk2DINO's
    projection of text. Files, each a torch or a safetensors file: for CLIP a state dict with open_clip's or OpenAI's
    keys, or OpenAI's TorchScript archive; for the DINOs one with facebookresearch's or timm's keys, or the authors'
    full training checkpoint, of which the teacher is taken; for psi see `ovbench.backbones.psi`. InputError where the
    weights are neither here nor reachable, or do not fit. "reference": the folder of a reference set, no network.
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
    InputError for a local file that does not exist."""
    absent = []
    for kind, text in backbones.items():
        if kind == REFERENCE:
            from ovbench.reference.store import find_set

            find_set(text)
            continue
        spec = parse_spec(kind, text)
        if spec.file:
            given_file(str(spec.file), f"--weights {kind}")
        elif kind == "psi":
            _psi_file(spec, text)
        elif spec.architecture != MINI:
            source, files = _open_clip_source(spec, text) if kind in ("clip", "presence") else _timm_source(spec, text)
            absent += [] if _here(source, files) else [f"{kind}: {files[0]} of {source}"]
    return absent


def require_weights(cells: Iterable[Any]) -> None:
    """Say what the cells need and this machine neither has nor can fetch, before anything runs: InputError with every
    file name. A cell has ``backbones`` and a ``regions`` table."""
    from ovbench.regions.open import open_source

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
    if spec.architecture == MINI:
        from ovbench.backbones import mini

        model, tokenizer = mini.load_clip(), mini.tokenizer()
    else:
        model, tokenizer = _open_clip(spec, text)
    if spec.file:
        state = {key: value for key, value in read_tensors(spec.file).items() if key not in NOT_WEIGHTS}
        _fill(model, state, spec, "clip")
    model = model.float().eval().requires_grad_(False)
    return Loaded(ClipVision(model.visual), text, tensor_hash(model), TextEncoder(model, tokenizer))


def _open_clip(spec: BackboneSpec, text: str) -> tuple[nn.Module, Any]:
    """The model of a tag, or without a tag the bare architecture; and its tokenizer."""
    import open_clip

    if spec.architecture not in open_clip.list_models():
        raise unknown("CLIP model", spec.architecture, open_clip.list_models(), where=f"clip={text}")
    if spec.file:
        with _quiet():
            model = open_clip.create_model(spec.architecture, load_weights=False, pretrained_text=False)
    else:
        source, files = _open_clip_source(spec, text)
        found = _here(source, files)
        if found is None:
            _require(source, files[0])
        with _quiet(), _explained("CLIP", text):
            model = open_clip.create_model(spec.architecture, pretrained=str(found or spec.tag), precision="fp32")
    return model, open_clip.get_tokenizer(spec.architecture)


def _open_clip_source(spec: BackboneSpec, text: str) -> tuple[str, tuple[str, ...]]:
    """Where the weights of a tag come from (a hub repository or an URL), and the names its file can have."""
    import open_clip

    if spec.architecture not in open_clip.list_models():
        raise unknown("CLIP model", spec.architecture, open_clip.list_models(), where=f"clip={text}")
    tags = open_clip.list_pretrained_tags_by_model(spec.architecture)
    if spec.tag not in tags:
        raise unknown("pretrained tag", spec.tag, tags, where=f"clip={text}")
    config = open_clip.get_pretrained_cfg(spec.architecture, spec.tag)
    if config.get("hf_hub"):
        repository, _, file = config["hf_hub"].rpartition("/")
        return repository, (file,) if file else CLIP_FILES
    return config["url"], (Path(config["url"]).name,)


def _load_dino(spec: BackboneSpec, text: str) -> Loaded:
    vit = _dino_vit(spec, text, "dino")
    return Loaded(DinoVision(vit), text, tensor_hash(vit))


def _load_dinov2(spec: BackboneSpec, text: str) -> Loaded:
    vit = _dino_vit(spec, text, "dinov2")
    return Loaded(Dinov2Vision(vit), text, tensor_hash(vit))


def _load_psi(spec: BackboneSpec, text: str) -> Loaded:
    psi = load_psi(_psi_file(spec, text))
    return Loaded(psi, text, tensor_hash(psi))


def _load_reference(text: str) -> Loaded:
    from ovbench.reference.store import find_set, load_set

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
            fix=f"put {entries[spec.architecture]['url']} there, or name a file: --weights psi=FILE",
        )
    return path


def _dino_vit(spec: BackboneSpec, text: str, kind: str) -> nn.Module:
    if spec.architecture == MINI:
        from ovbench.backbones import mini

        vit = mini.load_dino(kind)
    else:
        vit = _timm(spec, text)
    if spec.file:
        state = {key.removeprefix("backbone."): value for key, value in read_tensors(spec.file).items()}
        state = {key: value for key, value in state.items() if not key.startswith("head.")}
        _fill(vit, timm_names(state), spec, "dino")
    return vit.float()


def _timm(spec: BackboneSpec, text: str) -> nn.Module:
    import timm

    name = spec.architecture.partition(".")[0]
    if spec.file:
        if not timm.is_model(name):
            raise unknown("timm model", name, timm.list_models(), where=f"dino={text}")
        return timm.create_model(name, pretrained=False, num_classes=0)
    source, files = _timm_source(spec, text)
    found = _here(source, files)
    if found is None:
        _require(source, files[0])
    overlay = {"pretrained_cfg_overlay": {"file": str(found)}} if found else {}
    with _explained("the DINO", text):
        return timm.create_model(spec.architecture, pretrained=True, num_classes=0, **overlay)


def _timm_source(spec: BackboneSpec, text: str) -> tuple[str, tuple[str, ...]]:
    """As `_open_clip_source`, for a timm model."""
    import timm

    names = timm.list_pretrained()
    if spec.architecture not in names:
        raise unknown("timm model", spec.architecture, names, where=f"dino={text}")
    config = timm.get_pretrained_cfg(spec.architecture)
    if config.hf_hub_id:
        repository = config.hf_hub_id
        if repository.endswith("/"):
            repository += f"{config.architecture}.{config.tag}"
        return repository, (config.hf_hub_filename,) if config.hf_hub_filename else TIMM_FILES
    return config.url, (Path(config.url).name,)


def _here(source: str, files: tuple[str, ...]) -> Path | None:
    """The weights file on this machine, in the hub's cache or where the libraries keep what they get from an URL."""
    if "://" not in source:
        return local_file(source, *files)
    folders = (Path.home() / ".cache" / "clip", Path(torch.hub.get_dir()) / "checkpoints")
    return next((path for path in (folder / files[0] for folder in folders) if path.is_file()), None)


def _require(source: str, file: str) -> None:
    from huggingface_hub import constants

    require_connection(source if "://" in source else constants.ENDPOINT, [f"{file} of {source}"])


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


def tensor_hash(model: nn.Module) -> str:
    """sha256 over the names, shapes and values of a model's tensors, whatever file they came from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()
