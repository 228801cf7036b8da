"""Prompt ensembles, on a small random CLIP."""

import open_clip
import pytest
import torch
import torch.nn.functional as F

from ovbench.backbones.text import TextEncoder, embed_queries, text_key


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    vision = open_clip.CLIPVisionCfg(layers=1, width=32, patch_size=16, image_size=32, head_width=16)
    text = open_clip.CLIPTextCfg(width=32, heads=2, layers=2)
    return open_clip.CLIP(16, vision, text).eval()


@torch.no_grad()
def test_trimming_to_the_longest_prompt_changes_nothing(model):
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    prompts = ["a photo of a dog.", "the embroidered yellow dotted triangle in a video game.", "x"]
    expected = model.encode_text(tokenizer(prompts))
    torch.testing.assert_close(TextEncoder(model, tokenizer).encode(prompts), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
@torch.no_grad()
def test_each_prompt_is_normalised_before_the_mean(model):
    tokenizer = open_clip.get_tokenizer("ViT-B-16")
    templates = ["a {}.", "the plastic {}.", "art of the {}."]
    ours = embed_queries(TextEncoder(model, tokenizer), ["red ring", "grass", "red ring"], templates)
    features = model.encode_text(tokenizer([t.format("grass") for t in templates]))
    expected = F.normalize(F.normalize(features, dim=-1).mean(0), dim=-1)
    torch.testing.assert_close(ours[1], expected, atol=1e-5, rtol=1e-5)
    assert torch.equal(ours[0], ours[2])


def test_the_cache_key_depends_on_everything():
    base = text_key("w", ["a", "b"], ["{}"])
    others = [("v", ["a", "b"], ["{}"]), ("w", ["b", "a"], ["{}"]), ("w", ["a"], ["{}"]), ("w", ["a", "b"], ["a {}"])]
    assert len({base, *(text_key(*other) for other in others)}) == 5
