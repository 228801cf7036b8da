"""The packaged CLIP, DINO and DINOv2-like ViT: they load, are small, and have learned what their model card says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn.functional import interpolate, normalize

from ovbench.backbones import mini_models
from ovbench.backbones.clip import ClipVision
from ovbench.data.mini import world
from ovbench.utils.paths import asset

SIDE = 32  # pixels; 4 x 4 patches


@pytest.fixture(scope="module")
def clip():
    return mini_models.load_clip()


@pytest.fixture(scope="module")
def dino():
    return mini_models.load_dino()


@pytest.fixture(scope="module")
def pure_crops(drawn_mini):
    """Crops of one class from the validation images, u8[n,32,32,3], and classes i64[n]; at most six of a class."""
    crops, classes, count = [], [], np.zeros(28, int)
    for i in range(60):
        image, label = (
            np.asarray(Image.open(drawn_mini / kind / "val" / f"mini_{i:04d}.png")) for kind in ("images", "labels")
        )
        for y in range(0, label.shape[0] - SIDE, SIDE // 2):
            for x in range(0, label.shape[1] - SIDE, SIDE // 2):
                kinds = np.unique(label[y : y + SIDE, x : x + SIDE])
                if len(kinds) == 1 and kinds[0] != world.IGNORE and count[kinds[0]] < 6:
                    crops.append(image[y : y + SIDE, x : x + SIDE])
                    classes.append(int(kinds[0]))
                    count[kinds[0]] += 1
    return np.stack(crops), np.array(classes)


def normalised(images, mean, std):
    x = torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255
    return (x - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)


def test_the_files_are_small():
    assert sum(p.stat().st_size for p in asset("mini").iterdir()) <= 8 * 1024**2
    assert asset("mini", "MODEL_CARD.md").stat().st_size > 1000


def test_tokens_that_training_never_saw_share_a_row(clip):
    tokens = mini_models.tokenizer()(["red zebra", "red umbrella", "red ring"])
    with torch.no_grad():
        zebra, umbrella, ring = normalize(clip.encode_text(tokens), dim=-1)
    assert torch.allclose(zebra, umbrella, atol=1e-6)
    assert not torch.allclose(zebra, ring, atol=1e-2)


@pytest.mark.slow
def test_clip_names_crops_of_one_material(clip, pure_crops):
    crops, classes = pure_crops
    crops, classes = crops[classes < 12], classes[classes < 12]
    images = normalised(crops, (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711))
    with torch.no_grad():
        images = interpolate(images, (112, 112), mode="bilinear")
        seen = normalize(ClipVision(clip.visual).class_features(images), dim=-1)
        tokens = mini_models.tokenizer()([f"a photo of {w}." for w in world.STUFF_NAMES])
        words = normalize(clip.encode_text(tokens), dim=-1)
    assert ((seen @ words.T).argmax(1).numpy() == classes).mean() > 0.6


@pytest.mark.slow
def test_dino_is_alike_within_a_class_and_unlike_between(dino, pure_crops):
    crops, classes = pure_crops
    x = normalised(crops, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
    last = dino.blocks[-1]
    with torch.no_grad():
        tokens = dino.forward_features(x)
        assert tokens.shape == (len(x), 17, dino.embed_dim)
        tokens = dino.norm_pre(dino._pos_embed(dino.patch_embed(x)))
        for block in dino.blocks[:-1]:
            tokens = block(tokens)
        q, k, _ = last.attn.qkv(last.norm1(tokens))[:, 1:].chunk(3, -1)
    f = normalize((q + k).mean(1), dim=-1)
    cosines, same = (f @ f.T).numpy(), classes[:, None] == classes[None]
    assert cosines[~same].mean() < 0.3
    assert cosines[same].mean() - cosines[~same].mean() > 0.3


@pytest.mark.slow
def test_final_tokens_of_the_dinov2_tell_classes_apart(pure_crops):
    """The prototype of a class, from every other crop, is the nearest one to most patches of the others."""
    crops, classes = pure_crops
    with torch.no_grad():
        images = normalised(crops, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
        tokens = mini_models.load_dino("dinov2").forward_features(images)
    f = normalize(tokens[:, 1:], dim=-1)
    known = [c for c in range(28) if (classes == c).sum() == 6]
    prototypes = torch.stack([f[classes == c][::2].mean((0, 1)) for c in known])
    right = [(f[classes == c][1::2] @ prototypes.T).argmax(-1).eq(i).float().mean() for i, c in enumerate(known)]
    assert len(known) > 15
    assert torch.stack(right).mean() > 0.6
