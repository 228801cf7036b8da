"""psi of Talk2DINO: a small MLP from the text features of CLIP to the space of DINOv2's patch tokens."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import torch.nn.functional as F
from torch import Tensor, nn

from ovbench.backbones.checkpoint import read_tensors
from ovbench.utils.errors import InputError
from ovbench.utils.files import parse_json

FIRST, HIDDEN = "linear_layer", "hidden_layers"
METADATA = "psi"  # key in a safetensors file
PARTNERS = ("clip", "dinov2")
OLD_SECOND = "linear_layer2."  # names of the second layer in early official files


class Psi(nn.Module):
    """The map psi(t) = W_b tanh(W_a t + b_a) + b_b, with the tensor names of the official checkpoints.

    Args:
        text_width: Width of the text features, which are not normalised.
        width: Width of the patch tokens.
        hidden: Number of hidden layers.
        unit_text: Whether psi normalises the text features.
        trained_with: Hashes of the backbones ("clip", "dinov2") of its training, if its file has them.
    """

    def __init__(
        self,
        text_width: int,
        width: int,
        hidden: int = 1,
        *,
        unit_text: bool = False,
        trained_with: Mapping[str, str] | None = None,
    ):
        super().__init__()
        self.linear_layer = nn.Linear(text_width, width)
        self.hidden_layers = nn.ModuleList(nn.Linear(width, width) for _ in range(hidden))
        self.unit_text = unit_text
        self.trained_with = dict(trained_with or {})

    @property
    def text_width(self) -> int:
        """Width of the text features."""
        return self.linear_layer.in_features

    @property
    def width(self) -> int:
        """Width of the patch tokens."""
        return self.linear_layer.out_features

    def forward(self, text: Tensor) -> Tensor:
        """Map text features, float (..., text_width), to float (..., width), not normalised."""
        x = self.linear_layer(F.normalize(text, dim=-1) if self.unit_text else text)
        for layer in self.hidden_layers:
            x = layer(x.tanh())
        return x

    def metadata(self) -> dict[str, str]:
        """Return the metadata of its safetensors file in one entry, because the order of several is not fixed."""
        told = {"text": "unit" if self.unit_text else "raw", **self.trained_with}
        return {METADATA: json.dumps(told, sort_keys=True)}


def load_psi(path: Path) -> Psi:
    """Load psi from an official checkpoint or a file of `ovbench train talk2dino`, float32, frozen, on the CPU.

    Raises:
        InputError: If the file is missing or damaged, or has other tensors.
    """
    state = {k.replace(OLD_SECOND, f"{HIDDEN}.0."): v.float() for k, v in read_tensors(path).items()}
    try:
        width, text_width = state[f"{FIRST}.weight"].shape
        hidden = sum(key.startswith(f"{HIDDEN}.") and key.endswith(".weight") for key in state)
        told = _metadata(path)
        trained_with = {kind: told[kind] for kind in PARTNERS if kind in told}
        psi = Psi(text_width, width, hidden, unit_text=told.get("text") == "unit", trained_with=trained_with)
        psi.load_state_dict(state)
    except (KeyError, ValueError, RuntimeError):
        raise InputError(
            f'"{path}" is not a psi of Talk2DINO: it has {_summary(state)}',
            fix=f"give a file with {FIRST} and {HIDDEN}.0, each with weight and bias",
        ) from None
    return psi.eval().requires_grad_(False)


def _metadata(path: Path) -> dict[str, str]:
    if path.suffix != ".safetensors":
        return {}
    with path.open("rb") as file:
        header = parse_json(file.read(int.from_bytes(file.read(8), "little")))
    told = parse_json(header.get("__metadata__", {}).get(METADATA, "{}"))
    if not isinstance(told, dict):
        raise ValueError("its note is no table")
    return told


def _summary(state: dict[str, Tensor]) -> str:
    named = [f"{name} {'x'.join(map(str, tensor.shape)) or 'scalar'}" for name, tensor in sorted(state.items())]
    return ", ".join(named[:4]) + (f" and {len(named) - 4} more" if len(named) > 4 else "")


def check_widths(psi: Psi, *, text: int | None = None, vision: int | None = None) -> None:
    """Check the widths of psi.

    Args:
        psi: The projection.
        text: Width of the text features; None is not checked.
        vision: Width of the patch tokens; None is not checked.

    Raises:
        InputError: If a width differs.
    """
    for have, want, what in ((psi.text_width, text, "the text tower yields"), (psi.width, vision, "the tokens have")):
        if want is not None and have != want:
            raise InputError(
                f"psi maps width {psi.text_width} to width {psi.width}, but {what} {want}",
                fix="give the psi that was trained for this pair: --weights psi=FILE",
            )


def check_partners(psi: Psi, sha256: Mapping[str, str]) -> None:
    """Check that psi was trained with the backbones in use; with others of equal width, labels would be random.

    Args:
        psi: The projection.
        sha256: Hashes of the loaded backbones by name.

    Raises:
        InputError: If it was trained with another one.
    """
    for kind, trained in psi.trained_with.items():
        if sha256.get(kind, trained) != trained:
            raise InputError(
                f"psi was trained with another {kind} than the one in use",
                fix=f"give its own: --weights {kind}=MODEL, or train a new psi: ovbench train talk2dino",
            )
