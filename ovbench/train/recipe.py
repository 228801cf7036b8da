"""How psi is trained: the published recipe, and what can be chosen instead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from ovbench.config import parse_value
from ovbench.errors import UsageError, unknown
from ovbench.resources import shipped
from ovbench.tomlfile import read_toml, refuse_unknown_keys

CHOICES = {
    "loss_divisor": ("batch_squared", "one"),
    "text": ("raw", "unit"),
    "temperature": ("fixed", "learned"),
    "false_negatives": ("kept", "masked"),
    "schedule": ("constant", "cosine"),
}


@dataclass(frozen=True)
class Recipe:
    """The settings of a training; the defaults are the published ones.

    side: images are resized to this short side and cropped to a square, in pixels. attn_scale: factor of the class
    token's attention logits. epochs, batch (pairs), lr, seed: of Adam's run over the pairs. loss_divisor: the published
    code divides the loss by the squared number of pairs, which makes Adam's epsilon matter. text: psi reads CLIP's text
    features as they are, or brought to unit length. temperature: 0.07 throughout, or learned from there.
    false_negatives: other pairs of a batch with the same image or the same words count as negatives, or do not count.
    schedule: of the learning rate.
    """

    side: int = 448
    attn_scale: float = 0.125
    epochs: int = 100
    batch: int = 128
    lr: float = 1e-4
    seed: int = 123
    loss_divisor: str = "batch_squared"
    text: str = "raw"
    temperature: str = "fixed"
    false_negatives: str = "kept"
    schedule: str = "constant"

    def __post_init__(self) -> None:
        for name in ("side", "attn_scale", "epochs", "batch", "lr"):
            if not getattr(self, name) > 0:
                raise UsageError(f"{name} must be positive", where="recipe")
        for name, choices in CHOICES.items():
            if getattr(self, name) not in choices:
                raise unknown(f"value of {name}", str(getattr(self, name)), choices, where="recipe")


def load_recipe(name: str, overrides: Mapping[str, str] | None = None) -> tuple[Recipe, dict[str, str]]:
    """A recipe of configs/train/talk2dino.toml with ``key=value`` texts laid over it, and the backbones it is for."""
    recipes = read_toml(shipped("configs", "train", "talk2dino.toml"))
    if name not in recipes:
        raise unknown("recipe", name, recipes)
    settings: dict[str, Any] = dict(recipes[name])
    backbones = settings.pop("backbones")
    hints = get_type_hints(Recipe)
    known = [field.name for field in fields(Recipe)]
    refuse_unknown_keys(settings, known, f"recipe {name}")
    for key, text in (overrides or {}).items():
        if key not in known:
            raise unknown("setting", key, known, where="--set")
        settings[key] = parse_value(text, hints[key], key)
    return Recipe(**settings), dict(backbones)
