"""Talk2DINO's parts: the tower, psi, the text side, cleaning, background."""

import hashlib

import pytest
import torch
from safetensors.torch import save_file
from timm.models.eva import Eva
from timm.models.vision_transformer import VisionTransformer

from ovbench.backbones.build import load_backbone
from ovbench.backbones.dino import DinoVision
from ovbench.backbones.dinov2 import Dinov2Vision
from ovbench.backbones.names import timm_names
from ovbench.inference.text_embedding import build_queries
from ovbench.methods.base import Backbones, Batch, Queries
from ovbench.methods.ops import Decision, Pad
from ovbench.methods.talk2dino.method import Talk2DINO, WindowFeatures
from ovbench.methods.talk2dino.projection import Psi, check_partners, load_psi
from ovbench.methods.tower_params import Talk2DINOParams
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.files import read_json
from ovbench.utils.paths import asset

SMALL = {"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2, "num_classes": 0}


def vit(registers=4, **more):
    torch.manual_seed(0)
    model = VisionTransformer(
        img_size=40, reg_tokens=registers, no_embed_class=registers > 0, dynamic_img_size=True, **SMALL, **more
    )
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.2)
    return model.eval()


def eva(side, **more):
    torch.manual_seed(0)
    return Eva(
        img_size=side, qkv_bias=more.pop("qkv_bias", False), init_values=1.0, use_abs_pos_emb=False,
        use_rot_pos_emb=True, rope_type="dinov3", rope_temperature=100, rope_rotate_half=True, num_reg_tokens=4,
        use_fc_norm=False, **SMALL, **more,
    ).eval()  # fmt: skip


def test_registers_are_dropped_and_positions_resized_as_timm_does():
    model, images = vit(), torch.randn(2, 3, 48, 72)
    with torch.inference_mode():
        patches, looks, grid = Dinov2Vision(model)(images)
        expected = model.forward_features(images)[:, 5:]
    assert grid == (6, 9) and looks.shape == (2, 2, 54)
    torch.testing.assert_close(patches, expected)


def test_looks_are_the_products_of_the_class_query_and_the_patch_keys():
    model, images = vit(), torch.randn(1, 3, 40, 40)
    with torch.inference_mode():
        looks = Dinov2Vision(model)(images).looks
        tokens, _ = DinoVision(model).embed(images)
        last = model.blocks[1]
        q, k, _ = last.attn.qkv(last.norm1(model.blocks[0](tokens))).chunk(3, -1)
    for head in range(2):
        part = slice(12 * head, 12 * head + 12)
        torch.testing.assert_close(looks[0, head], k[0, 5:, part] @ q[0, 0, part])


def test_a_dino_without_registers_is_the_tower_that_other_methods_use():
    model, images = vit(registers=0), torch.randn(1, 3, 56, 40)
    with torch.inference_mode():
        torch.testing.assert_close(Dinov2Vision(model)(images).patches, DinoVision(model).last_tokens(images)[0])


def test_rotary_positions_follow_the_size_of_the_image():
    images = torch.randn(1, 3, 48, 48)
    fixed, dynamic = eva(48), eva(32, dynamic_img_size=True)
    dynamic.load_state_dict(fixed.state_dict())
    with torch.inference_mode():
        result = Dinov2Vision(dynamic)(images)
        torch.testing.assert_close(result.patches, fixed.forward_features(images)[:, 5:])
    assert result.looks.shape == (1, 2, 36) and result.grid == (6, 6)


def test_towers_that_hide_their_projections_are_refused():
    with pytest.raises(InputError, match="without qkvb"):
        Dinov2Vision(eva(32, qkv_bias=True))
    with pytest.raises(InputError, match="not a ViT with a class token"):
        Dinov2Vision(torch.nn.Linear(1, 1))


def test_official_names_become_timms():
    model = vit()
    official = dict(model.state_dict())
    cls, positions = torch.randn(1, 1, 24), torch.randn(1, 1, 24)
    official["register_tokens"] = official.pop("reg_token")
    official["pos_embed"] = torch.cat([positions, official["pos_embed"]], 1)
    official |= {"cls_token": cls, "mask_token": torch.zeros(1, 24)}
    found = timm_names(official)
    assert set(found) == set(model.state_dict())
    torch.testing.assert_close(found["cls_token"], cls + positions)


@pytest.fixture
def psi():
    torch.manual_seed(1)
    return Psi(6, 24).eval()


def test_psi_is_read_from_official_files_of_both_ages(psi, tmp_path):
    state, text = psi.state_dict(), torch.randn(3, 6)
    old = {k.replace("hidden_layers.0", "linear_layer2"): v for k, v in state.items()}
    torch.save(state, tmp_path / "new.pth")
    torch.save(old, tmp_path / "old.pth")
    save_file(state, tmp_path / "ours.safetensors", psi.metadata())
    for name in ("new.pth", "old.pth", "ours.safetensors"):
        torch.testing.assert_close(load_psi(tmp_path / name)(text), psi(text))
    assert load_backbone("psi", f"talk2dino-b@{tmp_path / 'new.pth'}").vision.width == 24


def test_psi_remembers_how_it_was_trained_to_read_text(tmp_path):
    psi, text = Psi(6, 24, unit_text=True).eval(), torch.randn(3, 6)
    save_file(psi.state_dict(), tmp_path / "psi.safetensors", psi.metadata())
    again = load_psi(tmp_path / "psi.safetensors")
    torch.testing.assert_close(again(text), again(7 * text))


def test_what_is_no_psi_is_refused(psi, tmp_path):
    save_file({"weight": torch.zeros(2, 3)}, tmp_path / "a.safetensors")
    with pytest.raises(InputError, match="not a psi of Talk2DINO: it has weight 2x3"):
        load_psi(tmp_path / "a.safetensors")
    for note in ("[1]", "[" * 100_000, "{"):
        save_file(psi.state_dict(), tmp_path / "note.safetensors", dict.fromkeys(psi.metadata(), note))
        with pytest.raises(InputError, match="not a psi of Talk2DINO"):
            load_psi(tmp_path / "note.safetensors")
    (tmp_path / "b.safetensors").write_bytes(b"\0" * 9)
    with pytest.raises(InputError, match="cannot read the weights"):
        load_psi(tmp_path / "b.safetensors")
    with pytest.raises(InputError, match=r"not on this machine.*--weights psi=FILE"):
        load_backbone("psi", "talk2dino-b")
    with pytest.raises(UsageError, match='did you mean "talk2dino-b"'):
        load_backbone("psi", "talk2dino-bb")


def test_psi_of_ours_knows_its_backbones(psi, tmp_path):
    psi.trained_with = {"clip": "c" * 64, "dinov2": "d" * 64}
    save_file(psi.state_dict(), tmp_path / "psi.safetensors", psi.metadata())
    again = load_psi(tmp_path / "psi.safetensors")
    check_partners(again, {"clip": "c" * 64, "dinov2": "d" * 64, "psi": "p" * 64})
    with pytest.raises(InputError, match="psi was trained with another dinov2"):
        check_partners(again, {"clip": "c" * 64, "dinov2": "e" * 64})
    check_partners(Psi(6, 24), {"clip": "any"})  # an official file tells nothing


def test_the_psi_that_ships_belongs_to_the_backbones_that_ship():
    loaded = {kind: load_backbone(kind, "mini") for kind in ("clip", "dinov2", "psi")}
    assert set(loaded["psi"].vision.trained_with) == {"clip", "dinov2"}
    check_partners(loaded["psi"].vision, {kind: each.sha256 for kind, each in loaded.items()})
    card = read_json(asset("mini", "psi.json"))
    assert card["backbones"]["dinov2"]["sha256"] == loaded["dinov2"].sha256
    assert card["sha256"] == hashlib.sha256(asset("mini", "psi.safetensors").read_bytes()).hexdigest()


def method(psi, **params):
    return Talk2DINO(Backbones(dinov2=Dinov2Vision(vit()), psi=psi), Talk2DINOParams(**params)).eval()


def test_psi_of_the_wrong_width_is_refused(psi):
    with pytest.raises(InputError, match="maps width 6 to width 32, but the tokens have 24"):
        method(Psi(6, 32))
    with pytest.raises(InputError, match="but the text tower yields 5"):
        method(psi).map_queries(Queries(torch.randn(2, 5), torch.arange(2)))


@torch.inference_mode()
def test_windows_are_cleaned_each_by_itself(psi):
    talk2dino = method(psi, side=40, clean=True)
    queries = talk2dino.map_queries(Queries(torch.randn(3, 6), torch.arange(3)))
    windows = torch.randn(2, 3, 40, 40) * torch.tensor([1.0, 3.0]).view(2, 1, 1, 1)
    both = talk2dino.score(talk2dino.encode(Batch(windows)), queries)
    alone = [talk2dino.score(talk2dino.encode(Batch(w[None])), queries)[0] for w in windows]
    torch.testing.assert_close(both, torch.stack(alone))


@torch.inference_mode()
def test_windows_of_any_ratio_are_brought_to_the_square_that_the_tower_takes(psi):
    talk2dino = method(psi, side=40)
    features = talk2dino.encode(Batch(torch.randn(1, 3, 30, 40)))
    assert features.grid == (5, 5)
    assert talk2dino.window_scores(torch.rand(1, 2, 5, 5), (30, 40), Pad(0, 0, 0, 0)).shape == (1, 2, 30, 40)


def test_scores_are_sigmoids_of_cosines(psi):
    features = WindowFeatures(torch.eye(24)[None, :2], torch.zeros(1, 2, 2), (1, 2))
    scores = method(psi).score(features, Queries(torch.eye(24)[:1], torch.tensor([0])))
    torch.testing.assert_close(scores.flatten(), torch.tensor([1.0, 0.0]).sigmoid())


@pytest.mark.parametrize("background", [0, 1, 2])
def test_a_background_without_a_query_scores_the_threshold(psi, background):
    scores = torch.tensor([[0.6, 0.5], [0.5, 0.52]])  # two queries, two pixels
    index = torch.tensor([c for c in range(3) if c != background])
    found = method(psi, bg_thresh=0.55).probabilities(
        scores, Queries(torch.zeros(2, 24), index, background), Decision(logit_scale=1.0)
    )
    assert found.shape == (3, 2)
    assert found.argmax(0).tolist() == [index[0], background]
    torch.testing.assert_close(found.sum(0), torch.ones(2))


def test_only_the_background_may_lack_a_query_and_only_where_a_method_scores_it():
    clip = load_backbone("clip", "mini")
    classes = ((), ("red ring",), ("grass", "lawn"))
    queries = build_queries(classes, "subset_7", clip, 0, raw=True, background_channel=True)
    assert queries.class_index.tolist() == [1, 2, 2]
    assert (queries.embeddings.norm(dim=-1) - 1).abs().min() > 1e-3
    for background, channel in ((0, False), (None, True), (1, True)):
        with pytest.raises(UsageError, match="a class without a query"):
            build_queries(classes, "subset_7", clip, background, background_channel=channel)


@pytest.mark.parametrize("psi", ["talk2dino-b", "talk2dino-b@{}/mine.pth", "mini@{}/vitb_mlp_infonce.pth"])
def test_a_published_psi_of_another_tower_is_refused(psi, tmp_path):
    psi = psi.format(tmp_path)
    for name in ("mine.pth", "vitb_mlp_infonce.pth"):
        torch.save(Psi(6, 24).state_dict(), tmp_path / name)
    if "mine" in psi:  # somebody's own file under another name may belong to any DINO
        Talk2DINO.check_specs({"psi": psi, "clip": "mini", "dinov2": "mini"})
        return
    with pytest.raises(InputError, match=r"talk2dino-b. belongs to vit_base_patch14_reg4_.*, not to dinov3-b"):
        Talk2DINO.check_specs({"psi": psi, "clip": "openai-b", "dinov2": "dinov3-b"})
    for clip in ("laion-b", "openai-l", "ViT-B-32-quickgelu@own.pt"):
        with pytest.raises(InputError, match=rf"belongs to ViT-B-16-quickgelu/openai, not to {clip}"):
            Talk2DINO.check_specs({"psi": psi, "clip": clip, "dinov2": "dinov2-b"})
    for clip in ("openai-b", "ViT-B/16", "ViT-B-16/openai", "ViT-B-16@own.pt"):
        Talk2DINO.check_specs({"psi": psi, "clip": clip, "dinov2": "dinov2-b"})


@pytest.mark.slow
def test_psi_is_said_to_be_put_there_by_hand_everywhere(monkeypatch, tmp_path):
    from ovbench.config.published_weights import published
    from ovbench.evaluation.doctor import _weights

    monkeypatch.setenv("OVBENCH_WEIGHTS", str(tmp_path))
    found = {finding.what: finding.fix for finding in _weights() if finding.what.startswith("psi")}
    assert len(found) == len(published("psi")) == 2
    for name, entry in published("psi").items():
        fix = found[f"psi {name}: absent"]
        assert "downloaded" not in fix and entry["url"] in fix and str(tmp_path) in fix
    with pytest.raises(InputError, match="put https"):
        load_backbone("psi", "talk2dino-b")
