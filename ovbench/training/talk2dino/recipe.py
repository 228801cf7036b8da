"""Settings of the training of psi: the published recipe and its variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, get_type_hints

from ovbench.config.load import parse_value
from ovbench.utils.errors import UsageError, unknown
from ovbench.utils.paths import shipped
from ovbench.utils.toml import read_toml, refuse_unknown_keys

CHOICES = {
    "loss_divisor": ("batch_squared", "one"),
    "text": ("raw", "unit"),
    "temperature": ("fixed", "learned"),
    "false_negatives": ("kept", "masked"),
    "schedule": ("constant", "cosine"),
}


@dataclass(frozen=True)
class Recipe:
    """The settings of a training; the defaults are those of the published code.

    Attributes:
        side: Short side of the resized images and side of their square crop, in pixels.
        attn_scale: Factor of the class token's attention logits.
        epochs: Number of epochs.
        batch: Pairs per step.
        lr: Learning rate of Adam.
        seed: Seed of the first weights and of the order of the pairs.
        loss_divisor: "batch_squared" divides the loss by the squared batch (so Adam's epsilon matters), "one" does not.
        text: "raw" gives psi the text features of CLIP as they are, "unit" scales them to length 1.
        temperature: "fixed" at 0.07, or "learned" from there.
        false_negatives: Other pairs with the same image or text are negatives ("kept"), or are left out ("masked").
        schedule: "constant" or "cosine" learning rate.
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
    """Return a recipe of configs/train/talk2dino.toml and the names of its backbones.

    Args:
        name: Name of the recipe.
        overrides: Settings as text, by their names.

    Raises:
        UsageError: If the recipe, a setting or a value is not known.
    """
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
