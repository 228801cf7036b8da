"""What a tag says about its weights reaches the network, the pictures, the hash and the settings."""

from __future__ import annotations

import numpy as np
import open_clip
import pytest
import timm
import torch
from torch import nn
from towers import small_towers

from ovbench.backbones import build as weights
from ovbench.backbones.base import Use, network_hash
from ovbench.backbones.checkpoint import tensor_hash
from ovbench.backbones.clip import ClipVision
from ovbench.backbones.clip_model import QuickGELU
from ovbench.backbones.open_clip_models import NOT_WEIGHTS, clip_architecture, quick_gelu
from ovbench.backbones.preprocess import IMAGENET, OPENAI, Normalisation
from ovbench.config.backbone_spec import parse_spec
from ovbench.config.load import Layer, Protocol, resolve
from ovbench.config.published_weights import published
from ovbench.inference.predictor import Predictor
from ovbench.methods.base import Backbones, Queries
from ovbench.results.explain import explain
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.registry import BACKBONES, METHODS

HALF = Normalisation((127.5,) * 3, (127.5,) * 3)
TAGS = open_clip.list_pretrained()


def plain_vit(architecture: str) -> bool:
    """Whether `ClipVision` can open the tower, built without memory."""
    config = open_clip.get_model_config(architecture)
    if config["vision_cfg"].get("timm_model_name"):
        return False  # some need the network to be built; none has open_clip's class embedding
    with torch.device("meta"):
        visual = open_clip.model._build_vision_tower(config["embed_dim"], config["vision_cfg"], quick_gelu=False)
    try:
        ClipVision(visual)
    except (InputError, AttributeError):
        return False
    return True


def usable(architecture: str) -> bool:
    try:
        clip_architecture(parse_spec("clip", architecture), architecture)
    except InputError as error:
        assert "tower" in str(error) and architecture in str(error)
        return False
    return True


@pytest.mark.slow
def test_towers_that_cannot_work_are_known_by_their_configuration():
    known = {architecture: usable(architecture) for architecture, _ in TAGS}
    assert sum(known.values()) > 30 and not any(known[a] for a in ("RN50", "ViT-B-16-SigLIP", "coca_ViT-B-32"))
    for architecture in known:
        assert known[architecture] == plain_vit(architecture), architecture


def test_activation_and_colours_of_every_tag_are_those_of_open_clip():
    """Over open_clip's whole list: 19 tags want another activation than their architecture has, 8 other colours."""
    other_activation = other_colours = 0
    for architecture, tag in TAGS:
        if not usable(architecture):
            continue
        text, said = f"{architecture}/{tag}", open_clip.get_pretrained_cfg(architecture, tag)
        own = BACKBONES.load("clip").normalisation(text)
        assert own.equals(Normalisation(*(tuple(255 * v for v in said[k]) for k in ("mean", "std")))), text
        named = bool(open_clip.get_model_config(architecture).get("quick_gelu", False))
        used = quick_gelu(parse_spec("clip", text), text)
        assert used == said.get("quick_gelu", named), text
        other_activation += used != named
        other_colours += not own.equals(OPENAI)
    assert other_activation >= 19 and other_colours >= 8


def test_short_names_have_the_usual_colours():
    """They are answered without the libraries; here with them."""
    for kind in ("clip", "dino", "dinov2"):
        assert published(kind)
        for entry in published(kind).values():
            name, _, tag = entry["spec"].partition("/")
            said = open_clip.get_pretrained_cfg(name, tag) if tag else timm.get_pretrained_cfg(name).to_dict()
            own = Normalisation.of_unit(said["mean"], said["std"])
            assert own == BACKBONES.load(kind).usual == BACKBONES.load(kind).normalisation(entry["spec"])


def test_a_dino_of_satellite_pictures_has_its_own_colours():
    own = BACKBONES.load("dinov2").normalisation("vit_large_patch16_dinov3.sat493m")
    assert own == Normalisation.of_unit((0.430, 0.411, 0.296), (0.213, 0.156, 0.143)) != IMAGENET


def test_the_constants_of_a_tag_are_those_of_the_published_configurations():
    assert Protocol(mean=OPENAI.mean, std=OPENAI.std) == Protocol()
    assert Normalisation.of_unit((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)) == OPENAI
    assert all(Normalisation.of_unit(*known.unit()) == known for known in (OPENAI, IMAGENET, HALF))


@pytest.mark.parametrize("method", ["maskclip", "corrclip"])
def test_settings_follow_the_tower(method):
    cell = resolve(method, "voc21", {}, {"clip": "ViT-L-14/laion2b_s32b_b82k"})
    assert (cell.protocol.mean, cell.protocol.std) == HALF
    rows = explain(method, "voc21", None, {"clip": "ViT-L-14/laion2b_s32b_b82k"})["settings"]
    assert next(row["value"] for row in rows if row["setting"] == "mean") == [127.5, 127.5, 127.5]


def test_windows_for_dinov2_are_not_normalised_for_clip():
    cell = resolve("talk2dino", "voc21", {}, {"clip": "ViT-L-14/laion2b_s32b_b82k"})
    assert (cell.protocol.mean, cell.protocol.std) == IMAGENET


def test_constants_by_hand_are_used_and_said(caplog):
    cell = resolve("maskclip", "voc21", {"mean": "1,2,3"})
    assert cell.protocol.mean == (1.0, 2.0, 3.0) and cell.protocol.std == OPENAI.std
    assert "set by hand" in caplog.text and "122.771" in caplog.text


def test_a_file_that_contradicts_the_tower_is_refused(monkeypatch):
    layer = Layer("own.toml", "", {"protocol": {"mean": [123.675, 116.28, 103.53]}})
    from ovbench.config import load as config

    layers = config.layers_of
    monkeypatch.setattr(config, "layers_of", lambda *a: [*layers(*a), layer])
    with pytest.raises(InputError, match=r"123.675.* but ViT-B-16-quickgelu/openai was trained with mean 122.771"):
        resolve("maskclip", "voc21")
    assert resolve("maskclip", "voc21", {"mean": "122.771,116.746,104.094"}).protocol.mean == OPENAI.mean


def small_clip_file(tmp_path, *, openai: bool) -> str:
    import json

    from safetensors.torch import save_file

    shape = {
        "embed_dim": 16,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 32, "head_width": 16, "patch_size": 8},
        "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
    }
    (tmp_path / "gelu-clip.json").write_text(json.dumps(shape))
    (tmp_path / "gelu-clip-quickgelu.json").write_text(json.dumps({**shape, "quick_gelu": True}))
    open_clip.add_model_config(tmp_path)
    torch.manual_seed(0)
    state = open_clip.create_model("gelu-clip", load_weights=False).state_dict()
    state["logit_scale"] = torch.tensor(3.0)
    if openai:
        state |= {name: torch.tensor(1) for name in NOT_WEIGHTS}
    save_file(state, tmp_path / "w.safetensors")
    return str(tmp_path / "w.safetensors")


def test_twins_of_two_activations_have_two_hashes(tmp_path):
    path = small_clip_file(tmp_path, openai=False)
    plain, quick = (weights.load_backbone("clip", f"{name}@{path}") for name in ("gelu-clip", "gelu-clip-quickgelu"))
    assert isinstance(plain.vision.blocks[0].mlp.gelu, nn.GELU)
    assert isinstance(quick.vision.blocks[0].mlp.gelu, QuickGELU)
    assert isinstance(quick.text.model.transformer.resblocks[0].mlp.gelu, QuickGELU)
    assert plain.sha256 != quick.sha256
    assert plain.vision.temperature == pytest.approx(2.718281828**3)


def test_a_file_of_openais_always_means_quickgelu(tmp_path, caplog):
    loaded = weights.load_backbone("clip", f"gelu-clip@{small_clip_file(tmp_path, openai=True)}")
    assert isinstance(loaded.vision.blocks[0].mlp.gelu, QuickGELU) and loaded.use.activation == "quick_gelu"
    assert "QuickGELU" in caplog.text


def test_the_hash_covers_the_colours_and_what_is_usual_adds_nothing():
    model = nn.Linear(2, 2)
    usual = Use(OPENAI, temperature=100.0)
    assert network_hash(model, usual, OPENAI) == tensor_hash(model)
    others = [Use(HALF), Use(IMAGENET), Use(OPENAI, "quick_gelu")]
    assert len({network_hash(model, use, OPENAI) for use in (usual, *others)}) == 4
    assert network_hash(model, Use(IMAGENET), IMAGENET) == tensor_hash(model)


def test_the_tower_of_mini_has_its_own_temperature():
    loaded = weights.load_backbone("clip", "mini")
    assert loaded.vision.temperature == loaded.use.temperature == pytest.approx(31.05, abs=0.01)


@pytest.mark.quick(3)
@pytest.mark.parametrize("own", [OPENAI, HALF, Normalisation((10.0, 20.0, 30.0), (50.0, 60.0, 70.0))])
@pytest.mark.parametrize("method", ["corrclip", "proxyclip", "cass"])
def test_dino_sees_the_picture_whatever_clip_was_given(method, own):
    """The input of DINO is that of the same pixels normalised for DINO, for any constants of the protocol."""
    towers = Backbones(**{name: tower.float() for name, tower in small_towers().items()})
    entry = METHODS.load(method)
    made = entry(towers, entry.Params(**({"misread_colours": False} if method == "cass" else {})))
    seen: list[torch.Tensor] = []
    embed = made.dino.embed
    made.dino.embed = lambda images: (seen.append(images), embed(images))[1]
    protocol = Protocol(mean=own.mean, std=own.std, crop=64, stride=64, short_side=64)
    pixels = torch.randint(0, 256, (64, 64, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    queries = made.map_queries(Queries(torch.eye(12)[:3], torch.arange(3)))
    predictor = Predictor(made, protocol, [queries])
    predictor.label(pixels.numpy(), np.zeros((64, 64), np.int32))
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in IMAGENET)
    assert len(seen) == 1
    torch.testing.assert_close(seen[0][0], (pixels.permute(2, 0, 1) - mean) / std, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("kind", "name", "ours"),
    [
        ("clip", "ViT-B/16", "ViT-B-16-quickgelu/openai"),
        ("clip", "ViT-L/14@336px", "ViT-L-14-336-quickgelu/openai"),
        ("presence", "ViT-L/14@336px@a.pt", "ViT-L-14-336-quickgelu/openai@a.pt"),
        ("dino", "dino_vitb8", "vit_base_patch8_224.dino"),
        ("dinov2", "dinov2_vitb14_reg", "vit_base_patch14_reg4_dinov2.lvd142m"),
        ("dino", "vit_base_patch8_224.dino", "vit_base_patch8_224.dino"),
    ],
)
def test_names_of_the_field(kind, name, ours):
    backbone = BACKBONES.load(kind)
    assert backbone.replace_spec(name, None) == ours
    assert backbone.parse(name) == backbone.parse(ours) and backbone.same(name, ours)


def test_every_name_of_the_field_is_known_to_its_library():
    names = published("names")
    assert len(names["clip"]) >= 4 and len(names["dino"]) >= 12
    for ours in names["clip"].values():
        assert tuple(ours.split("/")) in TAGS
    assert set(names["dino"].values()) <= set(timm.list_pretrained())


@pytest.mark.parametrize(
    "spec", ["RN50/openai", "ViT-B-16-SigLIP/webli", "convnext_large_d_320/laion2b_s29b_b131k_ft_soup"]
)
def test_a_tower_that_cannot_work_is_refused_before_a_download(spec, monkeypatch):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *a, **k: pytest.fail("asked the network"))
    for act in (lambda: weights.missing_weights({"clip": spec}), lambda: weights.load_backbone("clip", spec)):
        with pytest.raises(InputError, match=r"vision tower of .* not a CLIP ViT"):
            act()


def test_a_file_for_a_tower_that_cannot_work_is_refused_by_its_name(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"x")
    with pytest.raises(InputError, match=r"vision tower"):
        weights.missing_weights({"clip": f"ViT-B-16-SigLIP@{tmp_path / 'w.pt'}"})


@pytest.mark.slow
def test_a_timm_model_that_is_no_vit_is_refused(monkeypatch):
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *a, **k: None)
    for kind, spec in (("dino", "resnet50.a1_in1k"), ("dinov2", "convnext_tiny.dinov3_lvd1689m")):
        with pytest.raises(InputError, match="ViT"):
            weights.missing_weights({kind: spec})


def test_an_unknown_name_has_a_short_answer():
    with pytest.raises(UsageError) as caught:
        weights.missing_weights({"dino": "qqqq"})
    assert len(str(caught.value)) < 1500
