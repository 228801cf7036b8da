"""Backbones from files in the forms in which they are published, with small models made here."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import open_clip
import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import nn

from ovbench.backbones import build as weights
from ovbench.backbones import hub, open_clip_tables
from ovbench.backbones.base import Use, network_hash
from ovbench.backbones.checkpoint import file_sha256, read_tensors
from ovbench.backbones.open_clip_models import CLIP, NOT_WEIGHTS, clip_source
from ovbench.backbones.preprocess import OPENAI
from ovbench.backbones.timm_models import DINO, DINOV2, timm_source
from ovbench.config.backbone_spec import BackboneSpec, parse_spec, replace_spec
from ovbench.config.published_weights import published
from ovbench.evaluation.plan import require_weights
from ovbench.utils.errors import InputError, UsageError

SMALL_CLIP = {
    "embed_dim": 16,
    "quick_gelu": True,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def small_clip(tmp_path_factory) -> nn.Module:
    """A small architecture under the name "small-clip" in open_clip, with random weights."""
    folder = tmp_path_factory.mktemp("configs")
    for name, width in (("small-clip", 64), ("wide-clip", 96)):
        config = json.loads(json.dumps(SMALL_CLIP))
        config["vision_cfg"]["width"] = width
        (folder / f"{name}.json").write_text(json.dumps(config))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    return open_clip.create_model("small-clip", load_weights=False)


class Archive(nn.Module):
    """Tensors under nested names, as in a TorchScript archive."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        super().__init__()
        for name in {key.partition(".")[0] for key in tensors}:
            below = {k.partition(".")[2]: v for k, v in tensors.items() if k.partition(".")[0] == name}
            if "" in below:
                self.register_buffer(name, below[""])
            else:
                self.add_module(name, Archive(below))

    def forward(self) -> int:
        return 0


def openai_state(model: nn.Module) -> dict[str, torch.Tensor]:
    state = {key: value.half() for key, value in model.state_dict().items()}
    return state | {name: torch.tensor(7) for name in NOT_WEIGHTS}


def save_clip(form: str, model: nn.Module, path: Path) -> None:
    state = model.state_dict()
    if form == "open_clip":
        torch.save(state, path)
    elif form == "open_clip training":
        torch.save({"epoch": 3, "state_dict": {f"module.{key}": value for key, value in state.items()}}, path)
    elif form == "safetensors":
        save_file(state, path)
    elif form == "OpenAI state dict":
        torch.save(openai_state(model), path)
    else:
        torch.jit.script(Archive(openai_state(model))).save(path)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "form", ["open_clip", "open_clip training", "safetensors", "OpenAI state dict", "OpenAI archive"]
)
def test_clip_files_of_every_form(form, small_clip, tmp_path):
    path = tmp_path / ("clip.safetensors" if form == "safetensors" else "clip.pt")
    save_clip(form, small_clip, path)
    loaded = weights.load_backbone("clip", f"small-clip@{path}")
    exact = not form.startswith("OpenAI")
    for key, value in small_clip.visual.state_dict().items():
        got = loaded.vision.visual.state_dict()[key]
        assert got.dtype == torch.float32
        assert torch.equal(got, value if exact else value.half().float()), key
    use = Use(OPENAI, "quick_gelu", 100.0)
    assert (loaded.sha256 == network_hash(small_clip, use, OPENAI)) == exact
    assert loaded.use.activation == "quick_gelu" and loaded.use.normalisation == OPENAI and loaded.use.patch == 8
    assert loaded.text.encode(["a dog"]).shape == (1, 16)


def test_a_clip_file_of_another_width_is_one_sentence(small_clip, tmp_path):
    path = tmp_path / "clip.pt"
    torch.save(small_clip.state_dict(), path)
    with pytest.raises(InputError) as caught:
        weights.load_backbone("clip", f"wide-clip@{path}")
    text = str(caught.value)
    assert "does not fit wide-clip" in text and "64" in text and "expected" in text and "96" in text
    assert "ARCHITECTURE@" in text and "\n" not in text


@pytest.mark.slow
def test_a_clip_file_with_tensors_missing_or_too_many(small_clip, tmp_path):
    state = small_clip.state_dict()
    path = tmp_path / "clip.safetensors"
    save_file({key: value for key, value in state.items() if key != "visual.proj"}, path)
    with pytest.raises(InputError, match=r"1 of .* tensors are missing, first visual.proj"):
        weights.load_backbone("clip", f"small-clip@{path}")
    save_file({**state, "visual.extra": torch.zeros(1)}, path)
    with pytest.raises(InputError, match=r"1 tensors too many, first visual.extra"):
        weights.load_backbone("clip", f"small-clip@{path}")


def dino_state() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("form", ["facebookresearch", "timm with head", "safetensors", "full checkpoint"])
def test_dino_files_of_every_form(form, tmp_path):
    state = dino_state()
    path = tmp_path / ("dino.safetensors" if form == "safetensors" else "dino.pth")
    if form == "safetensors":
        save_file(state, path)
    elif form == "full checkpoint":
        teacher = {f"module.backbone.{key}": value for key, value in state.items()}
        teacher["module.head.mlp.0.weight"] = torch.zeros(2, 2)
        student = {key: torch.zeros_like(value) for key, value in teacher.items()}
        torch.save({"student": student, "teacher": teacher, "epoch": 1}, path)
    else:
        torch.save(state | ({"head.weight": torch.zeros(2, 2)} if "head" in form else {}), path)
    loaded = weights.load_backbone("dino", f"vit_tiny_patch16_224.dino@{path}")
    assert all(torch.equal(loaded.vision.vit.state_dict()[key], value) for key, value in state.items())


@pytest.mark.slow
def test_a_dino_file_of_another_size_is_one_sentence(tmp_path):
    path = tmp_path / "dino.pth"
    torch.save(dino_state(), path)
    with pytest.raises(InputError, match=r"does not fit vit_small_patch16_224: .* expected .*384"):
        weights.load_backbone("dino", f"vit_small_patch16_224@{path}")


class Hostile:
    def __reduce__(self):
        return print, ("this must never run",)


def test_a_pickle_with_code_is_refused(tmp_path, capsys, small_clip):
    path = tmp_path / "clip.pt"
    torch.save({"state_dict": Hostile()}, path)
    with pytest.raises(InputError, match="contains more than tensors and was not opened"):
        read_tensors(path)
    assert "never run" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04" + bytes(100)])
def test_damaged_files(name, content, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as caught:
        read_tensors(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_cut_off(tmp_path, small_clip):
    path = tmp_path / "clip.pt"
    torch.save(small_clip.state_dict(), path)
    path.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(InputError, match="cannot read the weights"):
        read_tensors(path)


@pytest.mark.slow
def test_a_file_alone_keeps_the_configured_architecture(tmp_path):
    from ovbench.backbones import mini_models
    from ovbench.config.load import resolve

    path = tmp_path / "mine.safetensors"
    model = mini_models.load_clip()
    with torch.no_grad():
        model.visual.proj.mul_(2)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)
    spec = resolve("corrclip", "mini", {}, {"clip": str(path)}).backbones["clip"]
    assert spec == f"mini@{path}"
    loaded = weights.load_backbone("clip", spec)
    assert torch.equal(loaded.vision.visual.proj, model.visual.proj)
    assert loaded.sha256 != weights.load_backbone("clip", "mini").sha256


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    ("name", "layers", "width", "heads", "patch", "joint"),
    [("metaclip-b", 12, 768, 12, 16, 512), ("metaclip-l", 24, 1024, 16, 14, 768), ("laion-h", 32, 1280, 16, 14, 1024)],
)
def test_the_sizes_of_corrclip(name, layers, width, heads, patch, joint):
    """Built without memory: the architecture is what the method's table says, and the tower is one that it can open."""
    from ovbench.backbones.clip import ClipVision

    architecture = parse_spec("clip", name).architecture
    config = open_clip.get_model_config(architecture)
    with torch.device("meta"):
        visual = open_clip.model._build_vision_tower(
            config["embed_dim"], config["vision_cfg"], quick_gelu=config.get("quick_gelu", False)
        )
    tower = ClipVision(visual)
    assert (tower.layers, tower.width, tower.heads, tower.patch) == (layers, width, heads, patch)
    assert visual.proj.shape == (width, joint)
    assert config.get("quick_gelu", False) == (name != "laion-h")


def test_missing_file():
    with pytest.raises(InputError, match="no weights file"):
        weights.load_backbone("clip", "ViT-B-16@nowhere/clip.pt")


def test_grammar(tmp_path):
    assert parse_spec("clip", "mini") == BackboneSpec("mini")
    assert parse_spec("clip", "metaclip-l") == BackboneSpec("ViT-L-14-quickgelu", "metaclip_fullcc")
    assert parse_spec("clip", "metaclip-l@x/y.pt") == BackboneSpec("ViT-L-14-quickgelu", file=Path("x/y.pt"))
    assert parse_spec("dino", "dino-s8") == BackboneSpec("vit_small_patch8_224.dino")
    for wrong in ("@file.pt", "ViT-B-16@", "file.safetensors"):
        with pytest.raises(UsageError):
            parse_spec("clip", wrong)
    assert replace_spec("clip", "ViT-B-16-quickgelu/openai", "a/b.pt") == "ViT-B-16-quickgelu@a/b.pt"
    assert replace_spec("clip", "ViT-B-16-quickgelu@old.pt", "new.pt") == "ViT-B-16-quickgelu@new.pt"
    assert replace_spec("clip", "metaclip-b", "new.pt") == "ViT-B-16-quickgelu@new.pt"
    assert replace_spec("clip", "ViT-B-16/openai", "metaclip-l") == "metaclip-l"
    assert replace_spec("clip", "ViT-B-16/openai", "ViT-L-14@new.pt") == "ViT-L-14@new.pt"
    with pytest.raises(UsageError, match="the architecture of"):
        replace_spec("clip", None, "new.pt")


def test_published_names_are_known_to_their_libraries():
    assert all(published(kind) for kind in ("clip", "dino", "sam"))
    for entry in published("clip").values():
        architecture, _, tag = entry["spec"].partition("/")
        assert tag in open_clip.list_pretrained_tags_by_model(architecture)
    for entry in published("dino").values():
        assert entry["spec"] in timm.list_pretrained()
    for entry in published("sam").values():
        assert entry["url"].endswith(entry["file"]) and len(entry["sha256"]) == 64


@pytest.fixture
def nothing_cached(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    monkeypatch.setenv("OVBENCH_WEIGHTS", str(tmp_path / "weights"))


def test_what_is_missing_offline_is_named(nothing_cached):
    from types import SimpleNamespace

    cell = SimpleNamespace(
        method="corrclip",
        backbones={"clip": "ViT-L-14-quickgelu/metaclip_fullcc", "dino": "vit_base_patch8_224.dino"},
        regions={"source": "sam", "model": "vit_b"},
    )
    with pytest.raises(InputError) as caught:
        require_weights([cell])
    for file in (
        "open_clip_model.safetensors",
        "metaclip",
        "model.safetensors of timm/vit_base_patch8_224.dino",
        "sam_vit_b_01ec64.pth",
    ):
        assert file in str(caught.value)
    mini = SimpleNamespace(method="corrclip", backbones={"clip": "mini", "dino": "mini"}, regions={})
    require_weights([mini])


def test_a_psi_that_is_missing_hides_nothing_else(nothing_cached):
    with pytest.raises(InputError, match=r"talk2dino-b.* dinov2: model.safetensors of .*reg4_dinov2.*put https"):
        weights.missing_weights({"psi": "talk2dino-b", "dinov2": "dinov2_vitb14_reg"})


def test_loading_what_is_missing_names_the_file(nothing_cached):
    with pytest.raises(InputError, match=r"missing weights: open_clip_model.safetensors of laion/CLIP-ViT-H-14"):
        weights.load_backbone("clip", "laion-h")
    with pytest.raises(InputError, match=r"missing weights: model.safetensors of timm/vit_small_patch8_224.dino"):
        weights.load_backbone("dino", "dino-s8")


def test_unknown_names_get_close_matches():
    for kind, spec, close in (
        ("clip", "ViT-B-61/openai", "ViT-B-16"),
        ("clip", "ViT-B-16/openia", "openai"),
        ("dino", "vit_base_patch8_224.dinoo", "vit_base_patch8_224.dino"),
        ("dion", "mini", "dino"),
    ):
        with pytest.raises(UsageError, match=close):
            weights.load_backbone(kind, spec)


@pytest.mark.slow
def test_cached_weights_are_loaded_without_a_connection(monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--timm--vit_small_patch8_224.dino"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("a1")
    (repository / "snapshots" / "a1").mkdir(parents=True)
    tensors = timm.create_model("vit_small_patch8_224", num_classes=0).state_dict()
    save_file(tensors, repository / "snapshots" / "a1" / "model.safetensors")
    assert weights.missing_weights({"dino": "dino-s8"}) == []
    assert weights.load_backbone("dino", "dino-s8").vision.width == 384


@pytest.mark.quick(1)
@pytest.mark.parametrize("backbone", [CLIP, DINO, DINOV2], ids=lambda backbone: backbone.name)
def test_the_repository_of_published_weights_is_that_of_the_library(backbone):
    source = clip_source if backbone is CLIP else timm_source
    names = backbone.names()
    assert len(names) > 2
    for name in names:
        spec = backbone.parse(name)
        assert backbone.published_source(spec, *source(spec, name).files) == source(spec, name)
    assert backbone.published_source(spec._replace(architecture="other"), "file") is None
    assert backbone.published_source(spec._replace(file=Path("own.pt")), "file") is None


def test_a_delivered_file_with_other_bytes_is_not_kept(monkeypatch, tmp_path):
    monkeypatch.setenv("OVBENCH_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setattr(hub, "require_connection", lambda *a: None)
    (tmp_path / "served").write_bytes(b"bytes")
    entry = {"file": "sam.pth", "url": (tmp_path / "served").as_uri(), "sha256": sha256(b"bytes").hexdigest()}
    monkeypatch.setattr(hub, "published", lambda kind: {"right": entry, "wrong": {**entry, "sha256": "0" * 64}})
    with pytest.raises(InputError, match="other bytes than the published ones"):
        hub.fetch_published("sam", "wrong")
    assert not list((tmp_path / "weights").iterdir())
    assert hub.fetch_published("sam", "right").read_bytes() == b"bytes"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('[sam.vit_b]\nfil = "x"', 'unknown key "sam.vit_b.fil" .*did you mean "file"'),
        ('[clip.b]\nlicence = "MIT"', '"clip.b.spec" is missing'),
        ('[sam.vit_b]\nfile = "x"\nurl = "http://x"\nlicence = "MIT"', '"sam.vit_b.url" must be a text like'),
        ("[names]\nclip = 3", '"names.clip" must be a text or a table'),
    ],
)
def test_mistakes_in_the_table_of_weights_are_named(monkeypatch, tmp_path, text, message):
    from ovbench.config import published_weights

    monkeypatch.setattr(published_weights, "shipped", lambda *names: tmp_path / names[-1])
    (tmp_path / "weights.toml").write_text(text)
    with pytest.raises(InputError, match=message):
        published_weights._tables.__wrapped__()


def test_hash_of_a_folder_changes_with_names_and_contents(tmp_path):
    hashes = set()
    for names in ({"a": b"1"}, {"b": b"1"}, {"a": b"2"}, {"a": b"1", "b": b""}):
        folder = tmp_path / str(len(hashes))
        folder.mkdir()
        for name, content in names.items():
            (folder / name).write_bytes(content)
        hashes.add(file_sha256(folder))
    assert len(hashes) == 4


def test_a_file_is_known_by_its_hash(tmp_path, monkeypatch):
    files = {name: tmp_path / name for name in ("ViT-B-16.pt", "copy.bin", "dinov3_vitb16-73cec8be.pth")}
    for number, path in enumerate(files.values()):
        path.write_bytes(b"the same" if number < 2 else b"another")
    first, _, last = (file_sha256(path) for path in files.values())
    known = {"clip": {first: "ViT-B-16-quickgelu/openai"}, "dinov2": {last[:8]: "vit_base_patch16_dinov3.lvd1689m"}}
    assert not CLIP.official(f"ViT-B-16@{files['ViT-B-16.pt']}")  # the name of a file proves nothing
    monkeypatch.setattr("ovbench.backbones.base.published", lambda table: known if table == "hashes" else {})
    for spec in ("ViT-B-16@{}", "ViT-B-16-quickgelu@{}", "ViT-B/16@{}"):
        assert CLIP.official(spec.format(files["copy.bin"])) == "ViT-B-16-quickgelu/openai"
    assert not CLIP.official(f"ViT-B-32@{files['copy.bin']}") and not CLIP.official("ViT-B-16/openai")
    path = files["dinov3_vitb16-73cec8be.pth"]
    for spec in (f"dinov3_vitb16@{path}", f"vit_base_patch16_dinov3@{path}"):
        assert weights.official_weights({"clip": "mini", "dinov2": spec}) == {"dinov2": known["dinov2"][last[:8]]}
    path.write_bytes(b"changed")
    assert not DINOV2.official(f"dinov3_vitb16@{path}")


def test_the_hashes_of_openais_files_are_those_of_their_addresses():
    for digest, spec in published("hashes")["clip"].items():
        assert f"/{digest}/" in open_clip_tables.pretrained(*spec.split("/"))["url"]
    known = [item for table in ("dinov2", "vfm") for item in published("hashes")[table].items()]
    assert all(len(digest) == 8 and spec in timm.list_pretrained() for digest, spec in known)
