"""Vision foundation models: official files, preprocessing of the original image, and the map of its features."""

from functools import partial

import pytest
import timm
import torch
from safetensors.torch import save_file
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer
from torch import nn

from ovbench.backbones.build import load_backbone
from ovbench.backbones.preprocess import IMAGENET, OPENAI
from ovbench.backbones.timm_models import VFM
from ovbench.backbones.vfm import VfmVision
from ovbench.utils.errors import InputError, UsageError

naflexvit = pytest.importorskip("timm.models.naflexvit")
WIDTH, DEPTH, GRID = 32, 2, 6
RADIO = "naflexvit_large_patch16_radio_v3"


def radio(align_corners=False):
    cfg = naflexvit.NaFlexVitCfg(
        patch_size=16, embed_dim=WIDTH, depth=DEPTH, num_heads=2, init_values=1e-5, class_token=True, reg_tokens=7,
        global_pool="token", final_norm=False, pos_embed_grid_size=(GRID, GRID), pos_embed_interp_mode="bilinear",
        pos_embed_ar_preserving=True, pos_embed_antialias=False, pos_embed_align_corners=align_corners,
    )  # fmt: skip
    return naflexvit.NaFlexVit(cfg, num_classes=0)


def dinov2():
    return VisionTransformer(
        img_size=28, patch_size=14, embed_dim=WIDTH, depth=DEPTH, num_heads=2, num_classes=0, init_values=1.0,
        reg_tokens=4, no_embed_class=True, norm_layer=partial(nn.LayerNorm, eps=1e-6),
    )  # fmt: skip


def dinov3():
    return Eva(
        img_size=64, patch_size=16, dynamic_img_size=True, embed_dim=WIDTH, depth=DEPTH, num_heads=2, num_classes=0,
        qkv_bias=True, init_values=1.0, use_abs_pos_emb=False, use_rot_pos_emb=True, rope_type="dinov3",
        rope_temperature=100, rope_rotate_half=True, num_reg_tokens=4, use_fc_norm=False, global_pool="",
        norm_layer=partial(nn.LayerNorm, eps=1e-5),
    )  # fmt: skip


def randomised(vit):
    torch.manual_seed(0)
    for parameter in vit.parameters():
        nn.init.normal_(parameter, std=0.1)
    return vit


def official_radio():
    """Return tensors with the names and shapes of nvidia's files, without a prefix."""
    torch.manual_seed(1)
    state = {
        "patch_generator.embedder.weight": torch.randn(WIDTH, 768) / 20,
        "patch_generator.pos_embed": torch.randn(1, GRID * GRID, WIDTH),
        "patch_generator.cls_token.token": torch.randn(8, WIDTH),
    }
    for n in range(DEPTH):
        for name, shape in (
            ("norm1.weight", (WIDTH,)), ("norm1.bias", (WIDTH,)), ("norm2.weight", (WIDTH,)), ("norm2.bias", (WIDTH,)),
            ("attn.qkv.weight", (3 * WIDTH, WIDTH)), ("attn.qkv.bias", (3 * WIDTH,)),
            ("attn.proj.weight", (WIDTH, WIDTH)), ("attn.proj.bias", (WIDTH,)),
            ("mlp.fc1.weight", (4 * WIDTH, WIDTH)), ("mlp.fc1.bias", (4 * WIDTH,)),
            ("mlp.fc2.weight", (WIDTH, 4 * WIDTH)), ("mlp.fc2.bias", (WIDTH,)),
            ("ls1.grandma", (WIDTH,)), ("ls2.grandma", (WIDTH,)),
        ):  # fmt: skip
            state[f"blocks.{n}.{name}"] = torch.randn(shape) / 5
    return state


def prefixed(prefix, state):
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.fixture
def small(monkeypatch):
    """Let VFM build a small network for a file, and return a function that loads one."""

    def load(vit, architecture, path):
        monkeypatch.setattr(VFM, "_timm_model", lambda parsed, where: vit)
        return load_backbone("vfm", f"{architecture}@{path}")

    return load


@pytest.mark.quick(1)
@pytest.mark.parametrize("layout", ["hub", "hub-ema", "safetensors", "timm"])
def test_official_files_of_radio(layout, small, tmp_path):
    state = official_radio()
    extra = {"input_conditioner.norm_mean": torch.zeros(3, 1, 1), "_heads.0.weight": torch.zeros(2, 2)}
    if layout == "safetensors":
        path = tmp_path / "model.safetensors"
        save_file(prefixed("radio_model.model.", state) | {"radio_model.summary_idxs": torch.arange(3)}, path)
    elif layout == "timm":
        path = tmp_path / "timm.safetensors"
        given = naflexvit.checkpoint_filter_fn(prefixed("radio_model.model.", state), radio())
        save_file({name: tensor.contiguous() for name, tensor in given.items()}, path)
    else:
        path, found = tmp_path / "c-radio.pth.tar", prefixed("base_model.", state) | extra
        other = {name: torch.zeros_like(tensor) for name, tensor in found.items()}
        torch.save({"state_dict": other, "state_dict_ema": found} if "ema" in layout else {"state_dict": found}, path)
    loaded = small(radio(), RADIO, path)
    vit = loaded.vision.vit
    order = state["patch_generator.embedder.weight"].view(WIDTH, 3, 16, 16).permute(0, 2, 3, 1).flatten(1)
    assert torch.equal(vit.embeds.proj.weight, order) and not vit.embeds.proj.bias.any()
    assert torch.equal(vit.embeds.pos_embed[0], state["patch_generator.pos_embed"][0].view(GRID, GRID, WIDTH))
    prefix = torch.cat([vit.embeds.cls_token, vit.embeds.reg_token], 1)[0]
    assert torch.equal(prefix, state["patch_generator.cls_token.token"])
    assert torch.equal(vit.blocks[1].ls2.gamma, state["blocks.1.ls2.grandma"])
    assert loaded.use.normalisation == OPENAI and loaded.use.patch == 16


def test_a_file_of_radio_that_does_not_fit(small, tmp_path):
    state = official_radio()
    del state["blocks.1.norm2.bias"]
    save_file(prefixed("radio_model.model.", state), tmp_path / "m.safetensors")
    with pytest.raises(InputError, match=r"1 of \d+ tensors are missing, first blocks.1.norm2.bias"):
        small(radio(), RADIO, tmp_path / "m.safetensors")


@pytest.mark.quick(1)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_official_files_of_dinov3_with_biases(suffix, small, tmp_path):
    """Bias and mask as in the hub's files: the mask is 0 for the keys."""
    vit = randomised(dinov3())
    official = {}
    for name, tensor in vit.state_dict().items():
        if "rope" not in name and not name.endswith(("q_bias", "k_bias", "v_bias")):
            name = name.replace("gamma_1", "ls1.gamma").replace("gamma_2", "ls2.gamma")
            official[name.replace("reg_token", "storage_tokens")] = tensor.clone()
    for n, block in enumerate(vit.blocks):
        official[f"blocks.{n}.attn.qkv.bias"] = torch.cat([block.attn.q_bias, torch.ones(WIDTH), block.attn.v_bias])
        official[f"blocks.{n}.attn.qkv.bias_mask"] = torch.ones(3, WIDTH).index_fill_(0, torch.tensor([1]), 0).flatten()
    official |= {"mask_token": torch.zeros(1, WIDTH), "rope_embed.periods": torch.ones(4)}
    path = tmp_path / f"dinov3{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(official, path)
    loaded = small(dinov3(), "dinov3_vitl16", path)
    pixels = torch.randint(0, 255, (50, 70, 3), dtype=torch.uint8)
    assert torch.equal(loaded.vision(pixels), VfmVision(vit)(pixels))
    assert loaded.use.normalisation == IMAGENET and loaded.use.patch == 16
    for n in range(DEPTH):  # biases that are zero in the file stay tensors of this architecture
        official[f"blocks.{n}.attn.qkv.bias"].zero_()
    (save_file if suffix == ".safetensors" else torch.save)(official, path)
    assert not small(randomised(dinov3()), "dinov3_vitl16", path).vision.vit.blocks[0].attn.q_bias.any()


def test_official_files_of_dinov2_with_registers(small, tmp_path):
    vit = randomised(dinov2())
    official = {k: v for k, v in vit.state_dict().items() if k != "reg_token"}
    official["register_tokens"] = vit.reg_token
    official["pos_embed"] = torch.cat([torch.full((1, 1, WIDTH), 0.5), vit.pos_embed], 1)
    official["cls_token"] = vit.cls_token - 0.5
    torch.save({**official, "mask_token": torch.zeros(1, WIDTH)}, tmp_path / "dinov2.pth")
    loaded = small(dinov2(), "dinov2_vitl14_reg", tmp_path / "dinov2.pth")
    pixels = torch.randint(0, 255, (50, 70, 3), dtype=torch.uint8)
    torch.testing.assert_close(loaded.vision(pixels), VfmVision(vit)(pixels))
    assert loaded.use.patch == 14


@pytest.mark.parametrize(("build", "patch"), [(radio, 16), (dinov2, 14), (dinov3, 16)])
def test_sides_become_the_nearest_multiple_of_the_patch(build, patch):
    tower = VfmVision(randomised(build()), OPENAI)
    for sides, grid in (((12.5, 3), (12, 3)), ((13.5, 3.4), (14, 3)), ((0.3, 2.6), (1, 3))):
        pixels = torch.zeros(*(int(side * patch) for side in sides), 3, dtype=torch.uint8)
        assert tower(pixels).shape == (WIDTH, *grid)


def test_radio_positions_are_cut_from_a_square():
    """The table is resized to the longer side, then its first rows are used; no norm follows the last block."""
    vit = randomised(radio())
    pixels = torch.randint(0, 255, (3 * 16, 4 * 16, 3), dtype=torch.uint8)
    found = VfmVision(vit, OPENAI)(pixels)
    x = (pixels.permute(2, 0, 1).float() / 255 - torch.tensor(OPENAI.unit().mean)[:, None, None]) / torch.tensor(
        OPENAI.unit().std
    )[:, None, None]
    patches = x.unflatten(1, (3, 16)).unflatten(3, (4, 16)).permute(1, 3, 2, 4, 0).reshape(12, -1)
    table = vit.embeds.pos_embed.permute(0, 3, 1, 2)
    table = nn.functional.interpolate(table, (4, 4), mode="bilinear", align_corners=False)[0, :, :3, :4]
    tokens = patches @ vit.embeds.proj.weight.T + vit.embeds.proj.bias + table.flatten(1).T
    tokens = torch.cat([vit.embeds.cls_token[0], vit.embeds.reg_token[0], tokens])[None]
    for block in vit.blocks:
        tokens = block(tokens)
    torch.testing.assert_close(found.flatten(1).T, tokens[0, 8:], atol=1e-5, rtol=1e-4)


def test_a_network_without_fitting_positions_is_refused():
    vit = dinov3()
    vit.rope = None
    with pytest.raises(InputError, match="no positions"):
        VfmVision(vit)


def test_the_radio_of_one_size_is_refused():
    with pytest.raises(UsageError, match="give naflexvit_large_patch16_radio_v3"):
        VFM.missing("vit_large_patch16_radio_v3.c_radio")


def test_names_and_normalisation():
    assert VFM.normalisation("c-radio_v3-l") == OPENAI and VFM.normalisation("dinov3-l") == IMAGENET
    assert VFM.patch("radio-l") == 16 and VFM.patch("dinov2-l") == 14
    for spec in (VFM.parse(name) for name in ("radio-l", "radio-b", "dinov2-l", "dinov3-l")):
        assert timm.is_model(spec.architecture.partition(".")[0])
