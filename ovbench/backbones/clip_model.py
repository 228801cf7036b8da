"""CLIP with a plain ViT and a causal text tower (Radford et al. 2021), in the layout of OpenAI's weights.

Names of tensors are OpenAI's and open_clip's, so files of both fit. Importing open_clip takes twice as long as torch;
it builds only the architectures that `Shapes.of` refuses. N = 1 + gh*gw image tokens, L text tokens, width C, joint
space D.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn


class ImageShape(NamedTuple):
    """Sizes of an image tower, with the names and defaults of open_clip's ``vision_cfg``."""

    layers: int = 12
    width: int = 768
    head_width: int = 64
    mlp_ratio: float = 4.0
    patch_size: int = 16
    image_size: int = 224


class TextShape(NamedTuple):
    """Sizes of a text tower, with the names and defaults of open_clip's ``text_cfg``."""

    context_length: int = 77
    vocab_size: int = 49408
    width: int = 512
    heads: int = 8
    layers: int = 12
    mlp_ratio: float = 4.0


class Shapes(NamedTuple):
    """Sizes of both towers and of the joint space."""

    embed_dim: int
    image: ImageShape
    text: TextShape

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Shapes | None:
        """Return the sizes in an open_clip configuration, None if it asks for more than plain towers.

        Example:
            >>> Shapes.of({"embed_dim": 512, "vision_cfg": {"patch_size": 32}, "text_cfg": {}}).image.patch_size
            32
            >>> Shapes.of({"embed_dim": 512, "vision_cfg": {"timm_model_name": "vit"}, "text_cfg": {}}) is None
            True
        """
        vision, text = config["vision_cfg"], config["text_cfg"]
        plain = (
            config.keys() <= {"embed_dim", "vision_cfg", "text_cfg", "quick_gelu"}
            and vision.keys() <= set(ImageShape._fields)
            and text.keys() <= set(TextShape._fields)
            and all(isinstance(value, (int, float)) for value in (*vision.values(), *text.values()))
        )
        return cls(config["embed_dim"], ImageShape(**vision), TextShape(**text)) if plain else None


class QuickGELU(nn.Module):
    """OpenAI's approximation of GELU."""

    def forward(self, x: Tensor) -> Tensor:
        """Return x * sigmoid(1.702 x)."""
        return x * torch.sigmoid(1.702 * x)


class ClipBlock(nn.Module):
    """A transformer block with LayerNorm before attention and MLP."""

    def __init__(self, width: int, heads: int, mlp_ratio: float, activation: type[nn.Module], eps: float = 1e-5):
        super().__init__()
        hidden = int(width * mlp_ratio)
        self.ln_1 = nn.LayerNorm(width, eps)
        self.attn = nn.MultiheadAttention(width, heads, batch_first=True)
        self.ls_1 = nn.Identity()  # layer scale in some towers of open_clip
        self.ln_2 = nn.LayerNorm(width, eps)
        steps = {"c_fc": nn.Linear(width, hidden), "gelu": activation(), "c_proj": nn.Linear(hidden, width)}
        self.mlp = nn.Sequential(OrderedDict(steps))
        self.ls_2 = nn.Identity()

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Return tokens, float (B, L, C), after the block.

        Args:
            x: float (B, L, C).
            attn_mask: float (L, L), added to the attention logits.
        """
        normed = self.ln_1(x)
        x = x + self.attn(normed, normed, normed, need_weights=False, attn_mask=attn_mask)[0]
        return x + self.mlp(self.ln_2(x))


class ClipTransformer(nn.Module):
    """A stack of blocks."""

    def __init__(
        self, layers: int, width: int, heads: int, mlp_ratio: float, activation: type[nn.Module], eps: float = 1e-5
    ):
        super().__init__()
        blocks = (ClipBlock(width, heads, mlp_ratio, activation, eps) for _ in range(layers))
        self.resblocks = nn.ModuleList(blocks)

    def forward(self, x: Tensor, attn_mask: Tensor | None = None) -> Tensor:
        """Return tokens, float (B, L, C), after all blocks; the arguments are those of `ClipBlock`."""
        for block in self.resblocks:
            x = block(x, attn_mask)
        return x


class ImageTower(nn.Module):
    """The tensors of a ViT with a class token; `ovbench.backbones.clip.ClipVision` computes with them.

    Args:
        shape: Sizes.
        embed_dim: Width D of the joint space.
        quick_gelu: Whether the activation is QuickGELU.
        eps: Constant of the LayerNorms.
    """

    def __init__(self, shape: ImageShape, embed_dim: int, quick_gelu: bool, eps: float = 1e-5):
        super().__init__()
        width, patch, scale = shape.width, shape.patch_size, shape.width**-0.5
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=False)
        self.class_embedding = nn.Parameter(scale * torch.randn(width))
        self.positional_embedding = nn.Parameter(scale * torch.randn(1 + (shape.image_size // patch) ** 2, width))
        self.ln_pre = nn.LayerNorm(width, eps)
        heads, activation = width // shape.head_width, QuickGELU if quick_gelu else nn.GELU
        self.transformer = ClipTransformer(shape.layers, width, heads, shape.mlp_ratio, activation, eps)
        self.ln_post = nn.LayerNorm(width, eps)
        self.proj = nn.Parameter(scale * torch.randn(width, embed_dim))


class ClipModel(nn.Module):
    """Both towers; tensors of the text tower have no prefix.

    Args:
        shapes: Sizes.
        quick_gelu: Whether the activation is QuickGELU, as in OpenAI's weights.
    """

    text_pool_type = "argmax"  # the end token, which has the largest number

    def __init__(self, shapes: Shapes, quick_gelu: bool):
        super().__init__()
        text, length = shapes.text, shapes.text.context_length
        self.visual = ImageTower(shapes.image, shapes.embed_dim, quick_gelu)
        activation = QuickGELU if quick_gelu else nn.GELU
        self.transformer = ClipTransformer(text.layers, text.width, text.heads, text.mlp_ratio, activation)
        table = torch.zeros(text.vocab_size, text.width)  # weights come from a file; to draw millions of values is slow
        self.token_embedding = nn.Embedding.from_pretrained(table, freeze=False)
        self.positional_embedding = nn.Parameter(0.01 * torch.randn(length, text.width))
        self.ln_final = nn.LayerNorm(text.width)
        self.text_projection = nn.Parameter(text.width**-0.5 * torch.randn(text.width, shapes.embed_dim))
        self.logit_scale = nn.Parameter(torch.tensor(1 / 0.07).log())
        self.register_buffer("attn_mask", torch.full((length, length), -torch.inf).triu_(1), persistent=False)

    def encode_text(self, tokens: Tensor) -> Tensor:
        """Return the features of texts, float (N, D), not normalised.

        Args:
            tokens: int64 (N, L) of the full context length.
        """
        x = self.token_embedding(tokens) + self.positional_embedding
        x = self.ln_final(self.transformer(x, self.attn_mask))
        return x[torch.arange(len(x), device=x.device), tokens.argmax(-1)] @ self.text_projection
