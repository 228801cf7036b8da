"""Parity of Talk2DINO: inference, and a few steps of its training."""

from __future__ import annotations

import math
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from ovbench.backbones.dinov2 import Dinov2Vision
from ovbench.backbones.names import timm_names
from ovbench.config.load import Protocol
from ovbench.inference.predictor import Predictor
from ovbench.methods.base import Backbones, Queries
from ovbench.methods.talk2dino.method import (
    Talk2DINO,
    WindowFeatures,
    cleaning_map,
    head_embeddings,
    head_weights,
    image_embeddings,
)
from ovbench.methods.talk2dino.projection import Psi
from ovbench.methods.tower_params import Talk2DINOParams
from ovbench.parity.adapters.common import Values
from ovbench.parity.case import Case
from ovbench.parity.recorder import Recorder
from ovbench.training.talk2dino.contrast import select_heads, unit
from ovbench.training.talk2dino.features import preparation
from ovbench.training.talk2dino.loop import PairBatch, TrainingState, take_step, with_optimiser
from ovbench.training.talk2dino.recipe import Recipe
from ovbench.utils.errors import InputError
from ovbench.utils.images import resize_image, resized_size


def talk2dino(case: Case) -> Values:
    """Run a case of Talk2DINO."""
    return _training(case) if "batches" in case.inputs else _inference(case)


def _inference(case: Case) -> Values:
    p = case.params
    method = Talk2DINO(Backbones(dinov2=_dinov2(case), psi=_psi(case)), _params(case)).eval()
    with_background = bool(p["with_bg"])
    text = torch.from_numpy(case.inputs["text_raw"]).float().mean(1)
    index = torch.arange(len(text)) + int(with_background)
    with torch.inference_mode():
        queries = method.map_queries(Queries(text, index, 0 if with_background else None))
    protocol = _protocol(case)
    image = case.inputs["image"]
    resized = resize_image(image, resized_size(image.shape[:2], protocol.short_side, protocol.long_side))
    notes = Recorder()
    Predictor(method, protocol, [queries]).label_resized(resized, image.shape[:2], note=notes)
    values: Values = {
        "resized": lambda w: resized,
        "text_proj": lambda w: queries.embeddings,
        "scores": lambda w: _with_background(notes.once("full_scores"), method.params.bg_thresh, with_background),
        "labels": lambda w: notes.once("labels"),
    }
    windows = len(notes.once("windows"))
    for place, number in (("first", 0), ("last", windows - 1)):
        for name, value in _window(notes, method, queries, number).items():
            values[f"{name}_{place}"] = lambda w, value=value: value
    return values


def _window(notes: Recorder, method: Talk2DINO, queries: Queries, number: int) -> dict[str, Tensor]:
    """Return the stages of one window."""
    q = queries.embeddings
    features = _row(notes.notes["features"], number)
    x = F.normalize(features.tokens, dim=-1)
    cosines = (q @ x.mT)[0]
    heads = head_embeddings(features)
    average = features._replace(head_maps=features.head_maps.mean(1, keepdim=True))
    return {
        "model_input": notes.window("model_input", number),
        "patch_tokens": features.tokens[0],
        "attn_logits": features.head_maps[0],
        "simmap": cosines.unflatten(1, features.grid),
        "head_embed": heads[0],
        "head_weights": head_weights(heads, q)[0],
        "cleaning_map": cleaning_map(features, q, cosines.sigmoid()[None])[0],
        "mask_clean": notes.window("patch_scores", number),
        "window_masks": notes.window("window_scores", number),
        "disentangled": image_embeddings(features)[0],
        "avg_self_attn": image_embeddings(average)[0, 0],
    }


def _row(batches: list[WindowFeatures], number: int) -> WindowFeatures:
    """Return the features of one window, as a batch of one."""
    for batch in batches:
        if number < len(batch.tokens):
            return batch._replace(tokens=batch.tokens[[number]], head_maps=batch.head_maps[[number]])
        number -= len(batch.tokens)
    raise IndexError(f"no window {number}")


def _with_background(scores: Tensor, threshold: float, with_background: bool) -> Tensor:
    return torch.cat([torch.full_like(scores[:1], threshold), scores]) if with_background else scores


def _params(case: Case) -> Talk2DINOParams:
    p, default = case.params, Talk2DINOParams()
    return Talk2DINOParams(
        side=p["resize_dim"],
        clean=bool(p["with_bg_clean"]),
        lambda_bg=default.lambda_bg if p.get("lambda_bg") is None else p["lambda_bg"],
        attn_scale=p["attn_scale"],
        bg_thresh=default.bg_thresh if p.get("bg_thresh") is None else p["bg_thresh"],
    )


def _protocol(case: Case) -> Protocol:
    p = case.params
    whole = p["mode"] == "whole"
    crop, stride = (0, 1) if whole else (_square(p["crop_size"], case), _square(p["stride"], case))
    return Protocol(
        short_side=min(p["img_scale"]),
        long_side=max(p["img_scale"]),
        crop=crop,
        stride=stride,
        mean=tuple(255 * value for value in p["image_mean"]),
        std=tuple(255 * value for value in p["image_std"]),
        logit_scale=1.0,
        refine="pamr-windows" if p["pamr"] else "",
        pamr_iterations=p.get("pamr_iter", 10),
        pamr_dilations=tuple(p.get("pamr_dilations", (1, 2, 4, 8, 12, 24))),
    )


def _square(sides: list[int], case: Case) -> int:
    if len(set(sides)) != 1:
        raise InputError(f"windows are square in this version, not {sides}", where=str(case.folder))
    return sides[0]


def _psi(case: Case) -> Psi:
    spec = case.models["psi"]
    if spec.get("act", "tanh") != "tanh":
        raise InputError(
            f'psi has tanh between its layers in this version, not "{spec["act"]}"', where=str(case.folder)
        )
    psi = Psi(spec["text_dim"], spec["dino_dim"], spec.get("hidden_layers", 1))
    return _filled(psi, case.model_weights("psi"), case)


def _dinov2(case: Case) -> Dinov2Vision:
    from timm.models.vision_transformer import VisionTransformer

    spec, weights = case.models["dino"], case.model_weights("dino")
    registers = spec.get("num_register_tokens", 0)
    if spec.get("interpolate_antialias", registers > 0) != (registers > 0):
        raise InputError("positions are resized with antialiasing if, and only if, there are registers")
    vit = VisionTransformer(
        img_size=spec["pos_grid"] * spec["patch_size"],
        patch_size=spec["patch_size"],
        embed_dim=spec["embed_dim"],
        depth=spec["depth"],
        num_heads=spec["num_heads"],
        mlp_ratio=spec.get("mlp_ratio", 4),
        qkv_bias=spec.get("qkv_bias", True),
        init_values=1.0 if spec.get("layerscale", True) else None,
        norm_layer=partial(nn.LayerNorm, eps=spec.get("layernorm_eps", 1e-6)),
        reg_tokens=registers,
        no_embed_class=registers > 0,
        num_classes=0,
    )
    return Dinov2Vision(_filled(vit, timm_names(weights), case))


def _filled(model: nn.Module, weights: dict[str, Tensor], case: Case) -> Any:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"the weights do not fit: {str(error).splitlines()[0]}", where=str(case.folder)) from error
    return model.eval()


def _training(case: Case) -> Values:
    """Return the stages of the first batch and the weights after each step, from images or their embeddings."""
    p = case.params
    recipe, steps = _recipe(case), case.inputs["batches"]
    if "images" in case.inputs:
        values: dict[str, Any] = _embed_training_images(case)
    else:
        values = {"disentangled": torch.from_numpy(case.inputs["disentangled"])}
    embeddings = values["disentangled"]
    text = torch.from_numpy(case.inputs["text_raw"]).float()
    image_of = torch.from_numpy(case.inputs["text_image"]).long()
    psi = _psi(case).requires_grad_(True)
    training = with_optimiser(psi, torch.tensor(math.log(p["logit_scale"])), recipe, len(steps))
    losses: list[float] = []
    for number, pairs in enumerate(torch.from_numpy(steps).long(), 1):
        batch = PairBatch(embeddings[image_of[pairs]], text[pairs], pairs)
        if number == 1:
            values |= _first_step(training, batch)
        losses.append(take_step(training, batch, recipe))
        if number == 1:
            values |= {f"grad.{name}": w.grad.clone() for name, w in psi.named_parameters()}
        values |= {f"after{number}.{name}": w.detach().clone() for name, w in psi.named_parameters()}
    values |= {"loss": losses[:1], "losses": losses}
    return {name: lambda w, value=value: value for name, value in values.items()}


def _embed_training_images(case: Case) -> dict[str, Any]:
    p, tower = case.params, _dinov2(case)
    prepare = preparation(p["resize_dim"], p["crop_dim"])
    images = torch.stack([prepare(Image.fromarray(image)) for image in case.inputs["images"]])
    with torch.inference_mode():
        x, looks, grid = tower(images)
        features = WindowFeatures(x, p["attn_scale"] * looks, grid)
        average = features._replace(head_maps=features.head_maps.mean(1, keepdim=True))
        embeddings, single = image_embeddings(features).clone(), image_embeddings(average)[:, 0]
    return {"model_input": images, "disentangled": embeddings, "avg_self_attn": single}


def _first_step(training: TrainingState, batch: PairBatch) -> dict[str, Tensor]:
    with torch.no_grad():
        text = unit(training.psi(batch.texts))
        chosen = select_heads(text, batch.images)
    return {
        "text_proj": text,
        "selected_visual": chosen.vectors,
        "similarity": text @ chosen.vectors.T,
        "labels": chosen.heads,
        "head_index": chosen.heads,
    }


def _recipe(case: Case) -> Recipe:
    p = case.params
    fixed = {
        "alignment_strategy": "max_score", "cosine": True, "ltype": "infonce", "optimizer": "Adam",
        "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0, "scheduler": None, "grad_clip": None,
    }  # fmt: skip
    for name, only in fixed.items():
        if p.get(name, only) != only:
            raise InputError(f"{name} is {only} in this version, not {p[name]}", where=str(case.folder))
    return Recipe(
        side=p["resize_dim"],
        attn_scale=p["attn_scale"],
        batch=p["batch_size"],
        lr=p["lr"],
        loss_divisor="batch_squared" if p["loss_divisor"] == "batch_size^2" else "one",
    )
