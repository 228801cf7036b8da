"""Last blocks against the official code: its tokens before, its features behind, its weights."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from ovbench.backbones.clip import ClipVision
from ovbench.methods.base import Backbones
from ovbench.methods.clearclip import ClearCLIP
from ovbench.methods.clip import CLIP
from ovbench.methods.last_block import NoResidual, Residual
from ovbench.methods.maskclip import MaskCLIP
from ovbench.methods.naclip import NACLIP
from ovbench.methods.proxyclip import ProxyCLIP
from ovbench.methods.sclip import SCLIP
from ovbench.parity.towers import clip_module

CASES = Path(__file__).parents[1] / "data" / "parity" / "last_block"


def last_block(name):
    """The case, and a tower of one block that holds the official weights of the last one."""
    with np.load(CASES / f"{name}.npz") as archive:
        case = {key: archive[key] for key in archive.files}
    origin = json.loads(str(case.pop("origin")))
    visual = clip_module(origin["clip"] | {"layers": 1})
    weights = {key: torch.from_numpy(value).float() for key, value in case.items()}
    named = {key.replace("block.", "transformer.resblocks.0."): value for key, value in weights.items()}
    missing, _ = visual.load_state_dict(named, strict=False)
    assert {key.split(".")[0] for key in missing} == {"class_embedding", "positional_embedding", "conv1", "ln_pre"}
    return ClipVision(visual), {key: value for key, value in weights.items() if key.startswith("w_")}


def features(method, tokens):
    side = round((tokens.shape[0] - 1) ** 0.5)
    grid = (side, (tokens.shape[0] - 1) // side)
    with torch.inference_mode():
        x = method.last(tokens[None], grid)[:, -grid[0] * grid[1] :]
        return normalize(method.clip.project(x), dim=-1)[0]


def close(ours, official):
    torch.testing.assert_close(ours, official, atol=4e-5, rtol=2e-4)


@pytest.mark.parametrize(("name", "method"), [("sclip", SCLIP), ("maskclip", MaskCLIP), ("naclip", NACLIP)])
def test_square_windows(name, method):
    clip, official = last_block(name)
    close(features(method(Backbones(clip=clip)), official["w_tokens_before_last"]), official["w_patch_feature"])


def test_clearclip_does_not_depend_on_the_grid():
    clip, official = last_block("clearclip")
    tokens = official["w_tokens_before_last"]
    with torch.inference_mode():
        x = ClearCLIP(Backbones(clip=clip)).last(tokens[None], (1, len(tokens) - 1))[:, 1:]
        close(normalize(clip.project(x), dim=-1)[0], official["w_patch_feature"])


def test_shorter_forms_of_the_same_name():
    clip, official = last_block("maskclip")
    tokens = official["w_tokens_before_last"]
    close(features(MaskCLIP(Backbones(clip=clip), Residual(False)), tokens), official["w_alt_value_only"])
    close(features(CLIP(Backbones(clip=clip)), tokens), official["w_alt_plain_clip"])
    longer = features(ClearCLIP(Backbones(clip=clip), NoResidual(True)), tokens)
    assert not torch.allclose(longer, official["w_patch_feature"], atol=1e-2)


def test_proxyclip_mixes_what_dino_finds_alike():
    clip, official = last_block("proxyclip")
    proxy = normalize(official["w_dino_feature"], dim=-1)[None]
    side = round(proxy.shape[1] ** 0.5)
    x = official["w_tokens_before_last"][None, 1:]
    cells = round(x.shape[1] ** 0.5)
    method = ProxyCLIP(Backbones(clip=clip, dino=torch.nn.Identity()))
    with torch.inference_mode():
        block = clip.blocks[-1]
        v = clip.values(block, block.ln_1(x)).mT.unflatten(2, (cells, cells))
        v = torch.nn.functional.interpolate(v, (side, side), mode="bilinear").flatten(2).mT
        mixed = block.attn.out_proj(method.attention(proxy @ proxy.mT) @ v)
        close(normalize(clip.project(mixed), dim=-1)[0], official["w_patch_feature"])
