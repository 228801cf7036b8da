"""What a method is: two halves over a batch of windows, and what it needs from the engine.

``encode`` knows no words, so that one pass over an image serves several vocabularies; ``score`` compares its features
with queries. A method sees tensors only: no path, no dataset name, no label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields
from typing import Any, ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ovbench.backbones.base import Loaded
from ovbench.backbones.normalization import renormalise
from ovbench.backbones.preprocess import OPENAI, Normalisation
from ovbench.methods.ops import Decision, Pad, class_probabilities, uncut
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.registry import find_backbone


class Queries(NamedTuple):
    """The text side of a vocabulary: ``embeddings`` f[q, d] one row per query, ``class_index`` i64[q] its class.

    ``background``: index of the class that gathers everything else, or None. ``descriptions`` f[q, d]: one row per
    query from sentences that describe it, for methods that read them, or None. ``presence`` f[q, d]: the queries in the
    space of a second CLIP, or None. ``clusters`` i64[q]: groups of alike queries, where a method has formed them.
    """

    embeddings: Tensor
    class_index: Tensor
    background: int | None = None
    descriptions: Tensor | None = None
    presence: Tensor | None = None
    clusters: Tensor | None = None

    def to(self, device: torch.device) -> Queries:
        return Queries(*(value.to(device) if isinstance(value, Tensor) else value for value in self))


class Needs(NamedTuple):
    """What a method needs from the pipeline.

    backbones: names in the registry of backbones, or of ``load_NAME`` functions beside the method.
    regions: whether it needs region maps.
    optional: backbones that it uses only if they are configured.
    """

    backbones: tuple[str, ...]
    regions: bool = False
    optional: tuple[str, ...] = ()


@dataclass
class Batch:
    """Windows of one shape.

    windows: f[b, 3, h, w], RGB, normalised with the protocol's mean and std, padded with zeros.
    regions: i64[b, h, w] region ids of the same windows, padded with ``pad_region``; None unless the method needs them.
    region_map: i64[H, W] region ids of the whole image at its original size, for methods that label whole images.
    context: what the method's ``encode_image`` returned for the image that the windows come from.
    region_slots: at least the number of regions of any window, the same wherever the window is: the length of an axis
        over regions, so that no shape depends on the other windows. None where they are of one image: then the most
        that a window has will do.
    note: called with the name and value of intermediate quantities, for parity tests and for debugging.
    """

    windows: Tensor
    regions: Tensor | None = None
    pad_region: int = 0
    region_slots: int | None = None
    region_map: Tensor | None = None
    context: Any = None
    note: Callable[[str, Any], None] = lambda name, value: None


class PatchFeatures(NamedTuple):
    """Dense features f[b, n, d] of windows, row-major over a ``grid`` of (gh, gw) cells."""

    tokens: Tensor
    grid: tuple[int, int]


class Backbones(Mapping[str, nn.Module]):
    """The frozen networks of a method by name, also as attributes: ``Backbones(clip=tower).clip``. None is absent."""

    def __init__(self, **networks: nn.Module | None):
        self._networks = {name: network for name, network in networks.items() if network is not None}

    def __getitem__(self, name: str) -> nn.Module:
        return self._networks[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._networks)

    def __len__(self) -> int:
        return len(self._networks)

    def __getattr__(self, name: str) -> nn.Module:
        networks = self.__dict__.get("_networks", {})
        if name not in networks:
            raise AttributeError(f'no backbone "{name}" among {list(networks)}')
        return networks[name]

    @classmethod
    def of(cls, method: type[Method], loaded: Mapping[str, Loaded]) -> Backbones:
        """Take the networks that a method needs.

        Raises:
            UsageError: one is missing, or there is one that the method does not know.
        """
        needs = method.needs
        absent = [name for name in needs.backbones if name not in loaded]
        surplus = [name for name in loaded if name not in (*needs.backbones, *needs.optional)]
        for name in (*absent, *surplus):
            problem = f'{"needs" if name in absent else "has no use for"} the backbone "{name}"'
            raise UsageError(f"{method.__name__} {problem}", fix=f"it takes {', '.join(needs.backbones)}")
        return cls(**{name: one.vision for name, one in loaded.items()})


@dataclass(frozen=True)
class NoParams:
    """For methods without hyper-parameters of their own."""


class Method(nn.Module):
    """Base class of methods whose dense features live in CLIP's joint space. Override ``encode`` at least.

    sees: the backbone for which the windows are normalised, unless the protocol gives other constants.
    reads: the backbone whose text tower encodes the queries.
    normalisation: those constants, set by whoever prepares the windows.
    pipeline: what drives the method, as "module:class" with the interface of `Pipeline`.
    raw_text: queries are means of text features as the tower yields them, not normalised.
    background_channel: the method itself scores a background class that has no query.
    pixelwise: ``probabilities`` looks at one pixel at a time, so that it may be asked about parts of an image.
    windowwise: ``encode`` looks at each window by itself, and its features are tensors, or NamedTuples of them, with
        the window as their first axis, so that windows of several images may share a batch.
    enlarges_once: with one window over the whole image, its cell scores are enlarged to the original size at once, else
        to the resized image first; as the official code of the method does it.
    """

    pipeline: ClassVar[str] = "ovbench.inference.pipeline:Pipeline"
    Params: ClassVar[type] = NoParams
    needs: ClassVar[Needs] = Needs(backbones=("clip",))
    sees: ClassVar[str] = "clip"
    reads: ClassVar[str] = "clip"
    normalisation: Normalisation = OPENAI
    raw_text: ClassVar[bool] = False
    background_channel: ClassVar[bool] = False
    pixelwise: bool = True
    windowwise: bool = False
    enlarges_once: ClassVar[bool] = True

    def __init__(self, backbones: Backbones, params: Any = None):
        super().__init__()
        self.params = params if params is not None else self.Params()
        for name in (*self.needs.backbones, *self.needs.optional):
            setattr(self, name, backbones.get(name))

    @classmethod
    def parameter_names(cls) -> list[str]:
        return [field.name for field in fields(cls.Params)]

    @classmethod
    def check_specs(cls, backbones: Mapping[str, str]) -> None:
        """Check before anything is loaded that backbones, given by their specs, fit together.

        Raises:
            InputError: they do not.
        """

    @classmethod
    def check_backbones(cls, loaded: Mapping[str, Loaded], protocol: Any) -> None:
        """Check that loaded backbones fit each other and the protocol.

        Raises:
            InputError: they do not. Here: the backbone that sees the windows was trained with another normalisation,
                which is known only since it is loaded.
        """
        seeing = loaded.get(cls.sees)
        own = seeing.use.normalisation if seeing else None
        if own is None or find_backbone(cls.sees, cls.__module__).normalisation(seeing.spec) is not None:
            return
        if not own.equals(Normalisation(protocol.mean, protocol.std)):
            raise InputError(
                f"the protocol has mean {list(protocol.mean)} and std {list(protocol.std)}, but {seeing.spec} was "
                f"trained with mean {list(own.mean)} and std {list(own.std)}",
                where=f"{cls.sees}={seeing.spec}",
                fix="give these as mean and std in [protocol] of the settings file",
            )

    def embed_queries(self, embed: Callable[[str], Queries]) -> Queries:
        """Return the queries of a vocabulary.

        Args:
            embed: encodes them with the text tower of the backbone that it is given by name.
        """
        return embed(self.reads)

    def approximations(self) -> dict[str, Any]:
        """What stands in for an exact computation in this run and how good it was measured to be, for the record; empty
        where all is exact."""
        return {}

    def seen_by(self, tower: Any, images: Tensor) -> Tensor:
        """Normalised images f[b, 3, h, w] with the normalisation of another tower."""
        return renormalise(images, self.normalisation, tower.normalisation)

    def map_queries(self, queries: Queries) -> Queries:
        """The text side as ``score`` wants it; done once for a vocabulary."""
        return queries

    def encode_image(self, image: Tensor) -> Any:
        """What is computed once per image from the normalised resized image f[3, H, W]; reaches ``Batch.context``."""
        return None

    def encode(self, batch: Batch) -> Any:
        """Features of a batch of windows, free of any vocabulary."""
        raise TypeError(f"{type(self).__name__} does not define encode")

    def score(self, features: PatchFeatures, queries: Queries) -> Tensor:
        """Cosine of every cell with every query: f[b, q, gh, gw]."""
        tokens = nn.functional.normalize(features.tokens, dim=-1)
        cosines = tokens @ queries.embeddings.T  # f[b, n, q]
        return cosines.transpose(1, 2).unflatten(2, features.grid)

    def window_scores(self, scores: Tensor, size: tuple[int, int], pad: Pad) -> Tensor:
        """Cell scores f[b, q, gh, gw] at the pixels of the window f[b, q, h, w], padding cut off; these are averaged
        where windows overlap. Each query by itself: it may be asked about some of them at a time."""
        return uncut(scores, size, pad)

    def probabilities(self, scores: Tensor, queries: Queries, decision: Decision) -> Tensor:
        """Merged scores f[q, H, W] at the original size, or in a tile of it where the method is ``pixelwise``, to class
        probabilities f[c, H, W]; the largest is the label."""
        return class_probabilities(scores, queries.class_index, decision)

    def refine_labels(self, labels: Tensor, regions: Tensor | None) -> Tensor:
        """A last step on the label map i64[H, W] of the original image, with its region map i64[H, W]."""
        return labels
