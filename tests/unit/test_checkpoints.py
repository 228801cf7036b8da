"""Checkpoints in the forms in which people have them: wrapped, renamed, of other sizes, hostile."""

from __future__ import annotations

import argparse
import json

import numpy as np
import open_clip
import pytest
import timm
import torch
from torch import nn

from ovbench.backbones import build as weights
from ovbench.backbones.checkpoint import pack_tensor, read_tensors, unpack_tensor
from ovbench.backbones.names import open_clip_names, timm_names
from ovbench.utils.errors import InputError

SHAPE = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 8},
    "text_cfg": {"context_length": 8, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@pytest.fixture(scope="module")
def clip_state(tmp_path_factory) -> dict[str, torch.Tensor]:
    folder = tmp_path_factory.mktemp("configs")
    (folder / "checkpoint-clip.json").write_text(json.dumps(SHAPE))
    open_clip.add_model_config(folder)
    torch.manual_seed(0)
    return open_clip.create_model("checkpoint-clip", load_weights=False).state_dict()


def same(model: nn.Module, state: dict[str, torch.Tensor]) -> bool:
    held = model.state_dict()
    return held.keys() == state.keys() and all(torch.equal(held[key], value.float()) for key, value in state.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "module._orig_mod.", "model.", "model.clip.", "teacher.", "net._orig_mod."]
)
@pytest.mark.parametrize("wrapper", ["state_dict", "model", "model_ema", None])
def test_prefixes_and_wrappers(prefix, wrapper, clip_state, tmp_path):
    state = {prefix + key: value for key, value in clip_state.items()}
    if prefix == "model.":
        state["criterion.weight"] = torch.zeros(3)
    args = argparse.Namespace(lr=np.float64(0.1))
    torch.save({wrapper: state, "epoch": 3, "args": args} if wrapper else state, tmp_path / "w.pt")
    loaded = weights.load_backbone("clip", f"checkpoint-clip@{tmp_path / 'w.pt'}")
    assert same(loaded.text.model, clip_state)


def test_a_module_of_torch_compile_inside_the_network(clip_state, tmp_path):
    state = {key.replace("visual.", "visual._orig_mod."): value for key, value in clip_state.items()}
    torch.save(state, tmp_path / "w.pt")
    assert same(weights.load_backbone("clip", f"checkpoint-clip@{tmp_path / 'w.pt'}").text.model, clip_state)


def test_what_does_not_fit_shows_both_sides(clip_state, tmp_path):
    torch.save({f"odd_{key}": value for key, value in clip_state.items()}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"tensors are missing, first .*; it has odd_.*--weights clip=ARCHITECTURE@"):
        weights.load_backbone("clip", f"checkpoint-clip@{tmp_path / 'w.pt'}")


def tiny_vit() -> dict[str, torch.Tensor]:
    torch.manual_seed(1)
    return timm.create_model("vit_tiny_patch16_224", num_classes=0).state_dict()


@pytest.mark.slow
@pytest.mark.parametrize("student_first", [True, False])
def test_dinos_full_checkpoint_with_its_arguments(student_first, tmp_path):
    vit = tiny_vit()
    student = {f"module.backbone.{key}": torch.zeros_like(value) for key, value in vit.items()}
    teacher = {f"backbone.{key}": value for key, value in vit.items()} | {"head.mlp.0.weight": torch.zeros(4, 4)}
    parts = [("student", student), ("teacher", teacher)]
    extra = {"epoch": 100, "args": argparse.Namespace(arch="vit_tiny"), "dino_loss": {"center": torch.zeros(1, 3)}}
    torch.save(dict(parts if student_first else parts[::-1]) | extra, tmp_path / "full.pth")
    loaded = weights.load_backbone("dino", f"vit_tiny_patch16_224@{tmp_path / 'full.pth'}")
    assert same(loaded.vision.vit, vit)


@pytest.mark.slow
def test_the_teacher_is_taken_where_both_share_a_state_dict(tmp_path):
    vit = tiny_vit()
    both = {f"student.backbone.{key}": torch.zeros_like(value) for key, value in vit.items()}
    both |= {f"teacher.backbone.{key}": value for key, value in vit.items()}
    torch.save({"model": both}, tmp_path / "w.pth")
    assert same(weights.load_backbone("dino", f"vit_tiny_patch16_224@{tmp_path / 'w.pth'}").vision.vit, vit)


class Hostile:
    def __reduce__(self):
        return print, ("this must never run",)


def test_a_class_that_stands_in_the_way_is_named(tmp_path, capsys):
    torch.save({"state_dict": {"a": torch.zeros(1)}, "hyper_parameters": Hostile()}, tmp_path / "w.ckpt")
    with pytest.raises(InputError, match=r"an object of builtins\.print"):
        read_tensors(tmp_path / "w.ckpt")
    assert capsys.readouterr().out == ""


def transformers_clip(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inverse of `open_clip_names`, written apart: from open_clip's tensors to transformers' names."""
    out = {"logit_scale": state["logit_scale"], "text_model.embeddings.position_ids": torch.zeros(1, 8)}
    out["text_model.embeddings.token_embedding.weight"] = state["token_embedding.weight"]
    out["text_model.embeddings.position_embedding.weight"] = state["positional_embedding"]
    out["text_projection.weight"], out["visual_projection.weight"] = state["text_projection"].T, state["visual.proj"].T
    out["vision_model.embeddings.class_embedding"] = state["visual.class_embedding"]
    out["vision_model.embeddings.patch_embedding.weight"] = state["visual.conv1.weight"]
    out["vision_model.embeddings.position_embedding.weight"] = state["visual.positional_embedding"]
    for end in ("weight", "bias"):
        out[f"text_model.final_layer_norm.{end}"] = state[f"ln_final.{end}"]
        out[f"vision_model.pre_layrnorm.{end}"] = state[f"visual.ln_pre.{end}"]
        out[f"vision_model.post_layernorm.{end}"] = state[f"visual.ln_post.{end}"]
        for tower, ours, layers in (("text", "", 1), ("vision", "visual.", 2)):
            for n in range(layers):
                new, old = f"{tower}_model.encoder.layers.{n}", f"{ours}transformer.resblocks.{n}"
                q, k, v = state[f"{old}.attn.in_proj_{end}"].chunk(3)
                out |= {f"{new}.self_attn.{p}_proj.{end}": t for p, t in zip("qkv", (q, k, v), strict=True)}
                out[f"{new}.self_attn.out_proj.{end}"] = state[f"{old}.attn.out_proj.{end}"]
                out[f"{new}.layer_norm1.{end}"] = state[f"{old}.ln_1.{end}"]
                out[f"{new}.layer_norm2.{end}"] = state[f"{old}.ln_2.{end}"]
                out[f"{new}.mlp.fc1.{end}"] = state[f"{old}.mlp.c_fc.{end}"]
                out[f"{new}.mlp.fc2.{end}"] = state[f"{old}.mlp.c_proj.{end}"]
    return out


def test_transformers_names_of_clip(clip_state, tmp_path):
    assert open_clip_names(clip_state) == clip_state
    torch.save(transformers_clip(clip_state), tmp_path / "w.bin")
    assert same(weights.load_backbone("clip", f"checkpoint-clip@{tmp_path / 'w.bin'}").text.model, clip_state)
    for prefix in ("model.", "student.clip."):  # in a larger model, with an averaged copy
        state = {f"{prefix}{key}": torch.zeros_like(value) for key, value in transformers_clip(clip_state).items()}
        state |= {f"ema.{key}": value for key, value in transformers_clip(clip_state).items()}
        renamed = open_clip_names(state | {"head.weight": torch.zeros(2)})
        assert renamed.keys() == clip_state.keys() and torch.equal(renamed["visual.proj"], clip_state["visual.proj"])


def test_an_average_is_taken_before_what_it_is_the_average_of(tmp_path, caplog):
    plain, average = {"a": torch.zeros(1)}, {"a": torch.ones(1)}
    for key in ("state_dict_ema", "model_ema", "teacher"):
        torch.save({"state_dict": plain, "ema": {"decay": 0.9}, "model": {}, key: average}, tmp_path / "w.pt")
        assert read_tensors(tmp_path / "w.pt")["a"] == 1
        assert f'the tensors under "{key}" are used, not those under "state_dict"' in caplog.text
    caplog.clear()
    torch.save({"state_dict": plain, "ema": {"decay": 0.9}}, tmp_path / "w.pt")
    assert read_tensors(tmp_path / "w.pt")["a"] == 0 and not caplog.text


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("visual.proj", torch.full((32, 16), torch.nan), "visual.proj of .* has values that are not finite"),
        ("visual.proj", torch.zeros(32, 16, dtype=torch.int8), "has values of torch.int8, expected torch.float32"),
        ("logit_scale", torch.tensor(100.0), "logit_scale is 100, so cosines would be multiplied by"),
    ],
)
def test_values_that_are_no_weights_are_refused(key, value, said, clip_state, tmp_path):
    assert clip_state[key].shape == value.shape
    torch.save({**clip_state, key: value}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=said):
        weights.load_backbone("clip", f"checkpoint-clip@{tmp_path / 'w.pt'}")


@pytest.mark.slow
def test_transformers_names_of_clip_are_the_librarys_own():
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = transformers.CLIPConfig(
        text_config={**small, "max_position_embeddings": 8}, vision_config={**small, "image_size": 32, "patch_size": 8},
        projection_dim=16,
    )  # fmt: skip
    renamed = open_clip_names(transformers.CLIPModel(config).state_dict())
    shape = json.loads(json.dumps(SHAPE))
    shape["vision_cfg"].update(layers=1, width=16, head_width=8, mlp_ratio=2.0)
    shape["text_cfg"].update(mlp_ratio=2.0)
    want = open_clip.CLIP(
        16, open_clip.CLIPVisionCfg(**shape["vision_cfg"]), open_clip.CLIPTextCfg(**shape["text_cfg"])
    ).state_dict()
    assert renamed.keys() == want.keys()
    assert all(renamed[key].shape == want[key].shape for key in want)


@pytest.mark.slow
@pytest.mark.parametrize("registers", [0, 4])
def test_transformers_names_of_dinov2_are_the_librarys_own(registers):
    transformers = pytest.importorskip("transformers")
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 28, "patch_size": 14}
    if registers:
        model = transformers.Dinov2WithRegistersModel(
            transformers.Dinov2WithRegistersConfig(**small, num_register_tokens=registers)
        )
    else:
        model = transformers.Dinov2Model(transformers.Dinov2Config(**small))
    want = timm.models.vision_transformer.VisionTransformer(
        img_size=28, patch_size=14, embed_dim=16, depth=1, num_heads=2, num_classes=0, init_values=1.0,
        reg_tokens=registers, no_embed_class=registers > 0,
    ).state_dict()  # fmt: skip
    state = model.state_dict()
    inside = {f"dinov2.{key}": value for key, value in state.items()} | {"classifier.weight": torch.zeros(2, 32)}
    for renamed in (timm_names(state), timm_names(inside)):
        assert {key: value.shape for key, value in renamed.items()} == {key: v.shape for key, v in want.items()}


@pytest.mark.slow
def test_facebooks_names_of_dinov3(tmp_path):
    name = "vit_small_patch16_dinov3"
    state = timm.create_model(name, num_classes=0).state_dict()
    official = {"storage_tokens": state["reg_token"], "mask_token": torch.zeros(1, 384)}
    official["rope_embed.periods"] = torch.ones(16)
    for key, value in state.items():
        if key != "reg_token" and "rope" not in key:
            official[key.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")] = value
    for n in range(12):
        official[f"blocks.{n}.attn.qkv.bias"] = torch.zeros(3 * 384)
        official[f"blocks.{n}.attn.qkv.bias_mask"] = torch.full((3 * 384,), torch.nan)
    torch.save(official, tmp_path / "dinov3_vits16.pth")
    loaded = weights.load_backbone("dinov2", f"dinov3_vits16@{tmp_path / 'dinov3_vits16.pth'}")
    assert same(loaded.vision.vit, state)
    official["blocks.0.attn.qkv.bias"] = torch.ones(3 * 384)
    official["blocks.0.attn.qkv.bias_mask"] = torch.ones(3 * 384)
    torch.save(official, tmp_path / "dinov3_vits16.pth")
    with pytest.raises(InputError, match="too many"):
        weights.load_backbone("dinov2", f"dinov3_vits16@{tmp_path / 'dinov3_vits16.pth'}")


@pytest.mark.parametrize("side", [3, 6])
def test_positions_of_another_size_are_kept_as_the_file_has_them(side, clip_state, tmp_path):
    table = torch.randn(1 + side * side, 32)
    torch.save({**clip_state, "visual.positional_embedding": table}, tmp_path / "w.pt")
    loaded = weights.load_backbone("clip", f"checkpoint-clip@{tmp_path / 'w.pt'}")
    assert torch.equal(loaded.vision.visual.positional_embedding, table)
    _, grid = loaded.vision.embed(torch.zeros(1, 3, 32, 48))
    assert grid == (4, 6)


def test_positions_that_are_no_square_are_refused(clip_state, tmp_path):
    torch.save({**clip_state, "visual.positional_embedding": torch.randn(1 + 15, 32)}, tmp_path / "w.pt")
    with pytest.raises(InputError, match=r"positional_embedding is 16x32, expected 17x32"):
        weights.load_backbone("clip", f"checkpoint-clip@{tmp_path / 'w.pt'}")


class Evil(nn.Module):
    """A program that would write a file while it is loaded."""

    def __init__(self):
        super().__init__()
        self.register_buffer("w", torch.zeros(6, dtype=torch.uint8))

    def forward(self, x):
        return x

    @torch.jit.export
    def __getstate__(self):
        return (self.w, self.training)

    @torch.jit.export
    def __setstate__(self, s: tuple[torch.Tensor, bool]):
        self.training = s[1]
        self.w = torch.from_file("was-here", True, 6, dtype=torch.uint8).copy_(s[0])


def test_a_torchscript_archive_never_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.jit.script(Evil()).save("evil.pt")
    (tmp_path / "was-here").unlink(missing_ok=True)
    with pytest.raises(InputError, match="TorchScript program"):
        read_tensors(tmp_path / "evil.pt")
    assert not (tmp_path / "was-here").exists()


def test_tensors_of_an_archive_are_those_that_torch_reads(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Sequential(nn.Linear(4, 2).half())).eval()
    model[0].weight.data = model[0].weight.data.transpose(2, 3)  # a view with strides of its own
    torch.jit.script(model).save(tmp_path / "m.pt")
    found, want = read_tensors(tmp_path / "m.pt"), torch.jit.load(tmp_path / "m.pt").state_dict()
    assert found.keys() == want.keys()
    for key, value in want.items():
        assert found[key].dtype == value.dtype and torch.equal(found[key], value), key


@pytest.mark.parametrize("value", [torch.randn(3, 4), torch.zeros(0, 5), torch.arange(3)])
def test_a_cached_tensor_comes_back_or_not_at_all(value):
    data = pack_tensor(value)
    assert torch.equal(unpack_tensor(data), value)
    for place in range(0, len(data), 7):
        flipped = bytearray(data)
        flipped[place] ^= 8
        try:
            back = unpack_tensor(bytes(flipped))
        except ValueError:
            continue
        assert back.dtype == value.dtype and torch.equal(back, value)
