"""Our CLIP, its tokenizer and open_clip's tables give what open_clip itself gives."""

from __future__ import annotations

import random
import sys

import open_clip
import pytest
import torch

from ovbench.backbones import open_clip_tables
from ovbench.backbones.checkpoint import tensor_hash
from ovbench.backbones.clip import ClipVision
from ovbench.backbones.clip_model import ClipModel, Shapes
from ovbench.backbones.text import TextEncoder

TEXTS = [
    "a photo of a café.", "it's <start_of_text> or <END_OF_TEXT>", "&amp;lt; &#233; x & y", "½ ² Ⅷ 日本語 é",
    "a\tb\r\nc \x07 \x1b[31mred", "“curly’s” ﬁne", "", "   ", "x" * 300, "K İstanbul ſ", "we'll I'VE don't", "_a_b1c23",
    "🐶 dogs", "Ａｂｃ", "e\u0301\u200b\xa0f",
]  # fmt: skip
LETTERS = "abcdefghijklmnop qrstuvwxyz ABC 0123'-_.,!?<>&;#éñßİK½²ⅧЖ日🐶\t\n’“\u200b\xa0"


def config(patch: int = 16, side: int = 64) -> dict:
    vision = {"layers": 3, "width": 48, "head_width": 12, "patch_size": patch, "image_size": side}
    return {"embed_dim": 20, "vision_cfg": vision, "text_cfg": {"layers": 2, "width": 32, "heads": 4}}


def both(settings: dict, quick: bool) -> tuple[ClipModel, torch.nn.Module]:
    """Our model and open_clip's, with the same random tensors."""
    torch.manual_seed(0)
    theirs = open_clip.CLIP(
        settings["embed_dim"], open_clip.CLIPVisionCfg(**settings["vision_cfg"]),
        open_clip.CLIPTextCfg(**settings["text_cfg"]), quick_gelu=quick,
    )  # fmt: skip
    for name, tensor in theirs.named_parameters():
        if "ln_" in name or name.endswith("bias"):
            torch.nn.init.normal_(tensor, 0.5, 0.3)
    ours = ClipModel(Shapes.of(settings), quick)
    ours.load_state_dict(theirs.state_dict())
    return ours.eval(), theirs.eval()


@pytest.mark.quick(1)
@pytest.mark.parametrize(("patch", "side"), [(16, 64), (32, 64), (14, 56)])
@pytest.mark.parametrize("quick", [True, False])
@torch.no_grad()
def test_features_are_those_of_open_clip(patch, side, quick):
    ours, theirs = both(config(patch, side), quick)
    assert tensor_hash(ours) == tensor_hash(theirs)
    images = torch.randn(2, 3, side, side)
    towers = [ClipVision(model.visual) for model in (ours, theirs)]
    tokens, same = (tower.trunk(tower.embed(images)[0], until=None) for tower in towers)
    assert tokens.std() > 0.1
    torch.testing.assert_close(tokens, same, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(towers[0].class_features(images), theirs.encode_image(images), rtol=1e-4, atol=1e-5)
    numbers = open_clip.tokenize(TEXTS)
    torch.testing.assert_close(ours.encode_text(numbers), theirs.encode_text(numbers), rtol=1e-5, atol=1e-5)
    encoded = TextEncoder(ours, open_clip_tables.clip_tokenizer(77)).encode(TEXTS)
    torch.testing.assert_close(encoded, theirs.encode_text(numbers), rtol=1e-4, atol=1e-5)


def test_random_tensors_are_drawn_in_open_clips_order():
    """So that tests which draw a tower keep their values."""
    towers = []
    for build in (lambda: ClipModel(Shapes.of(config()), True), lambda: both(config(), True)[1]):
        torch.manual_seed(0)
        towers.append(build().visual)
    for name in ("conv1.weight", "class_embedding", "transformer.resblocks.2.mlp.c_fc.weight", "proj"):
        assert torch.equal(*(tower.state_dict()[name] for tower in towers)), name


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["ViT-B-32-quickgelu", "ViT-L-14-336", "ViT-H-14", "ViT-bigG-14"])
def test_tensors_of_an_architecture_are_those_of_open_clip(name):
    settings = open_clip.get_model_config(name)
    settings["vision_cfg"]["layers"] = settings["text_cfg"]["layers"] = 1
    quick = settings.pop("quick_gelu", False)
    with torch.device("meta"):
        models = ClipModel(Shapes.of(settings), quick), open_clip.CLIP(**settings, quick_gelu=quick)
    shapes = [{key: tensor.shape for key, tensor in model.state_dict().items()} for model in models]
    assert len(shapes[0]) > 30 and shapes[0] == shapes[1]


def test_only_plain_towers_are_built_here():
    plain = {name for name in open_clip.list_models() if Shapes.of(open_clip.get_model_config(name))}
    assert {"ViT-B-16", "ViT-B-32-quickgelu", "ViT-L-14", "ViT-H-14", "ViT-bigG-14"} <= plain
    others = {"RN50", "ViT-B-16-SigLIP", "ViT-L-14-CLIPA", "coca_ViT-B-32", "roberta-ViT-B-32", "ViT-M-16-alt"}
    assert others <= set(open_clip.list_models()) and not others & plain


@pytest.mark.slow
def test_the_tokenizer_is_open_clips():
    ours, theirs = open_clip_tables.clip_tokenizer(24), open_clip.SimpleTokenizer(context_length=24)
    draw = random.Random(0)
    drawn = ["".join(draw.choice(LETTERS) for _ in range(draw.randint(0, 30))) for _ in range(1500)]
    for text in (*TEXTS, *drawn, *open_clip.IMAGENET_CLASSNAMES[:300]):
        assert ours.encode(text) == theirs.encode(text), text
    assert torch.equal(ours(TEXTS), theirs(TEXTS))


def test_tables_read_without_the_package_are_open_clips(monkeypatch):
    monkeypatch.delitem(sys.modules, "open_clip")
    names = open_clip_tables.architectures()
    assert len(names) > 100 and set(names) <= set(open_clip.list_models())
    for name in ("ViT-B-16-quickgelu", "ViT-H-14", "RN50"):
        assert open_clip_tables.architecture(name) == open_clip.get_model_config(name)
        tags = open_clip_tables.pretrained_tags(name)
        assert tags and tags == open_clip.list_pretrained_tags_by_model(name)
        assert all(open_clip_tables.pretrained(name, tag) == open_clip.get_pretrained_cfg(name, tag) for tag in tags)
    assert open_clip_tables.architecture("../version") is None
