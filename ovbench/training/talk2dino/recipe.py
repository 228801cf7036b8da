"""Settings of the training of psi: the published recipe and its variants."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Annotated, Any, Literal

from pydantic import Field

from ovbench.utils.errors import unknown
from ovbench.utils.paths import shipped
from ovbench.utils.toml import read_toml
from ovbench.utils.typed import AboveZero, field_types, parse_values, validate


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
        text: "raw" gives psi the unnormalised text features of CLIP, "unit" scales them to length 1.
        temperature: "fixed" at 0.07, or "learned" from there.
        false_negatives: Other pairs with the same image or text are negatives ("kept"), or are left out ("masked").
        schedule: "constant" or "cosine" learning rate.
    """

    side: Annotated[int, Field(gt=0)] = 448
    attn_scale: AboveZero = 0.125
    epochs: Annotated[int, Field(gt=0)] = 100
    batch: Annotated[int, Field(gt=0)] = 128
    lr: AboveZero = 1e-4
    seed: int = 123
    loss_divisor: Literal["batch_squared", "one"] = "batch_squared"
    text: Literal["raw", "unit"] = "raw"
    temperature: Literal["fixed", "learned"] = "fixed"
    false_negatives: Literal["kept", "masked"] = "kept"
    schedule: Literal["constant", "cosine"] = "constant"


@dataclass(frozen=True)
class TowerNames:
    """The names of the backbones of a recipe.

    Attributes:
        clip: The CLIP whose text features psi maps.
        dinov2: The tower whose patches they are compared with.
    """

    clip: str
    dinov2: str


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
    backbones = validate(TowerNames, settings.pop("backbones", {}), f"recipe {name}, backbones")
    given = parse_values(overrides or {}, field_types(Recipe))
    return validate(Recipe, {**settings, **given}, f"recipe {name}", given=given), asdict(backbones)
