"""The base class of methods: ``encode`` and ``score`` on batches of windows.

``encode`` does not depend on a vocabulary, so several vocabularies use the same features; ``score`` compares them with
queries. A method gets tensors only: no path, no dataset name, no label.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from ovbench.backbones.base import Loaded
from ovbench.backbones.normalization import renormalise
from ovbench.backbones.preprocess import OPENAI, Normalisation
from ovbench.methods.declarations import Declaration, Needs
from ovbench.methods.ops import Box, Decision, Pad, class_probabilities, uncut
from ovbench.methods.params import NoParams
from ovbench.utils.errors import InputError, UsageError
from ovbench.utils.registry import find_backbone

__all__ = ["Backbones", "Batch", "Method", "Needs", "NoParams", "PatchFeatures", "Queries", "WindowedImage"]


class HostIndex(NamedTuple):
    """The values of an index tensor in the memory of the host."""

    of: Tensor
    values: tuple[int, ...]


class Queries(NamedTuple):
    """The embedded queries of a vocabulary.

    Attributes:
        embeddings: float (Q, D), one row per query.
        class_index: int64 (Q,), class of each query.
        background: Index of the background class, None if there is none.
        descriptions: float (Q, D), embeddings of sentences that describe each query, for methods that use them.
        presence: float (Q, D), the queries in the space of a second CLIP.
        clusters: int64 (K, M), K groups of similar queries, if the method has formed them; padded with the first query.
        host_index: The values of ``class_index``, which `to` adds; see `classes`.
    """

    embeddings: Tensor
    class_index: Tensor
    background: int | None = None
    descriptions: Tensor | None = None
    presence: Tensor | None = None
    clusters: Tensor | None = None
    host_index: HostIndex | None = None

    def to(self, device: torch.device) -> Queries:
        """Return the queries on a device."""
        moved = Queries(*(value.to(device) if isinstance(value, Tensor) else value for value in self))
        return moved._replace(host_index=HostIndex(moved.class_index, self.classes))

    @property
    def classes(self) -> tuple[int, ...]:
        """Return the class of each query, ascending; after `to` the host need not wait for a GPU."""
        known = self.host_index
        if known is not None and known.of is self.class_index:  # another index may have replaced it since
            return known.values
        return tuple(self.class_index.tolist())


Note = Callable[[str, Any], None]


def no_note(name: str, value: Any) -> None:
    """Ignore an intermediate quantity, without a listener."""


class WindowedImage(NamedTuple):
    """One image on the device, with its windows.

    Attributes:
        resized: float (3, h, w), resized and normalised.
        original: Size (H, W) before resizing.
        boxes: Windows in scan order, all of one size, in pixels of the resized image.
        pad: Padding of every window.
        pixels: uint8 (H, W, 3), RGB, at the original size; None unless ``needs.original``.
        regions: int64 (H, W), region ids at the original size; None unless the method needs them.
        resized_regions: int64 (h, w).
        host_regions: int32 (H, W), `regions` in the memory of the host.
        pad_region: Region id of padded pixels.
        context: The value of ``encode_image``.
        note: Called with name and value of intermediate quantities; large ones come in several fragments.
    """

    resized: Tensor
    original: tuple[int, int]
    boxes: Sequence[Box]
    pad: Pad = Pad(0, 0, 0, 0)
    pixels: Tensor | None = None
    regions: Tensor | None = None
    resized_regions: Tensor | None = None
    host_regions: np.ndarray | None = None
    pad_region: int = 0
    context: Any = None
    note: Note = no_note

    @property
    def size(self) -> tuple[int, int]:
        """Return the size (h, w) of the resized image."""
        return tuple(self.resized.shape[1:])


@dataclass
class Batch:
    """Windows of one shape.

    Attributes:
        windows: float (B, 3, h, w), RGB, normalised with the protocol's mean and std, padded with zeros.
        regions: int64 (B, h, w), region ids, padded with ``pad_region``; None unless the method needs them.
        pad_region: Region id of padded pixels.
        region_slots: Upper bound for the number of regions of a window; the length of an axis over regions, so that no
            shape depends on the other windows. None if all windows are of one image: then the largest number in a
            window is enough.
        region_map: int64 (H, W), region ids of the whole image at its original size, for methods without windows.
        host_regions: int32 (H, W), `region_map` in the memory of the host.
        boxes: Position of each window in its resized image, without padding.
        sizes: (h, w) of the resized image of each window.
        context: What ``encode_image`` returned for the image of the windows.
        note: Called with name and value of intermediate quantities, for parity tests and debugging.
    """

    windows: Tensor
    regions: Tensor | None = None
    pad_region: int = 0
    region_slots: int | None = None
    region_map: Tensor | None = None
    host_regions: np.ndarray | None = None
    boxes: Sequence[Box] = ()
    sizes: Sequence[tuple[int, int]] = ()
    context: Any = None
    note: Note = no_note


class PatchFeatures(NamedTuple):
    """Dense features of windows.

    Attributes:
        tokens: float (B, N, D), row-major over the grid.
        grid: (gh, gw) cells, N = gh * gw.
    """

    tokens: Tensor
    grid: tuple[int, int]


class Backbones(Mapping[str, nn.Module]):
    """The frozen networks of a method by name, also as attributes: ``Backbones(clip=tower).clip``."""

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
        """Select the networks that a method needs.

        Raises:
            UsageError: If a backbone is missing, or the method does not use it.
        """
        needs = method.needs
        absent = [name for name in needs.backbones if name not in loaded]
        surplus = [name for name in loaded if name not in (*needs.backbones, *needs.optional)]
        for name in (*absent, *surplus):
            problem = f'{"needs" if name in absent else "does not use"} the backbone "{name}"'
            raise UsageError(f"{method.__name__} {problem}", fix=f"it takes {', '.join(needs.backbones)}")
        return cls(**{name: one.vision for name, one in loaded.items()})


class Method(Declaration, nn.Module):
    """Base class of methods whose dense features are in CLIP's joint space; subclasses define at least ``encode``.

    See `Declaration` for ``Params``, ``needs`` and ``sees``.

    Attributes:
        pipeline: Class that runs the method, "module:class" with the interface of `Pipeline`.
        reads: Backbone whose text encoder encodes the queries.
        normalisation: Constants of the windows' normalisation; set by the predictor.
        raw_text: Whether queries are means of unnormalised text features.
        describes_by_prompts: Whether the sentences of a set of descriptions are further prompts of a query, averaged
            with the others into its embedding; otherwise they become ``Queries.descriptions``.
        background_channel: Whether the method scores a background class without a query.
        observed: Names of bool notes whose fraction of true values a record has, measured on a few images.
        pixelwise: Whether ``probabilities`` uses one pixel at a time, so it may be called on a tile of the image.
        windowwise: Whether ``encode`` uses each window independently and returns tensors, or NamedTuples of tensors,
            with the window as first axis, so that windows of several images may share a batch.
        uses_fp64: Whether it computes in float64, which "mps" does not have.
        compiled: Whether its networks, and on a GPU the decision among many classes, are compiled.
        enlarges_once: If true and one window covers the whole image, cell scores are enlarged directly to the original
            size, otherwise first to the resized image; as in the method's official code.
    """

    pipeline: ClassVar[str] = "ovbench.inference.pipeline:Pipeline"
    reads: ClassVar[str] = "clip"
    normalisation: Normalisation = OPENAI
    raw_text: ClassVar[bool] = False
    describes_by_prompts: ClassVar[bool] = False
    background_channel: ClassVar[bool] = False
    observed: ClassVar[tuple[str, ...]] = ()
    pixelwise: bool = True
    windowwise: bool = False
    uses_fp64: ClassVar[bool] = False
    compiled: bool = False
    enlarges_once: ClassVar[bool] = True

    def __init__(self, backbones: Backbones, params: Any = None):
        super().__init__()
        self.params = params if params is not None else self.Params()
        for name in (*self.needs.backbones, *self.needs.optional):
            setattr(self, name, backbones.get(name))

    @classmethod
    def check_backbones(cls, loaded: Mapping[str, Loaded], protocol: Any) -> None:
        """Check that loaded backbones fit each other and the protocol.

        Raises:
            InputError: If they do not. Here: the backbone that sees the windows was trained with another normalisation,
                which is known only after loading.
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
            embed: Encodes the queries with the text encoder of a backbone, by its name.
        """
        return embed(self.reads)

    def approximations(self) -> dict[str, Any]:
        """Return the approximations of this run with their measured error, for the record; empty if there are none."""
        return {}

    def seen_by(self, tower: Any, images: Tensor) -> Tensor:
        """Convert normalised images to the normalisation of another backbone.

        Args:
            tower: The backbone.
            images: float (B, 3, h, w), normalised with ``self.normalisation``.

        Returns:
            float (B, 3, h, w).
        """
        return renormalise(images, self.normalisation, tower.normalisation)

    def map_queries(self, queries: Queries) -> Queries:
        """Return the queries in the form that ``score`` uses; called once per vocabulary."""
        return queries

    def encode_image(self, image: WindowedImage) -> Any:
        """Compute a context once per image, before its windows are encoded.

        If a method defines it, each batch has windows of one image only.

        Args:
            image: The image with its windows, and with its original pixels if ``needs.original`` is true.

        Returns:
            Any value; it becomes ``Batch.context`` and ``WindowedImage.context``.
        """
        return None

    def encode(self, batch: Batch) -> Any:
        """Return the features of a batch of windows, independent of any vocabulary."""
        raise TypeError(f"{type(self).__name__} does not define encode")

    def join(self, features: Any, image: WindowedImage) -> Any:
        """Combine the features of all windows of an image.

        Called if ``needs.join`` is given, with what ``encode`` returned; so ``encode`` must return tensors, or
        NamedTuples of tensors, with the window as first axis. The result must depend on this image only. The memory of
        a step over all pairs of cells grows with the square of the number of windows: compute it in blocks.

        Args:
            features: Of all windows, in the order of ``image.boxes``.
            image: The resized image, its windows, and the context of ``encode_image``.

        Returns:
            The input of ``score``; here the unchanged features.
        """
        return features

    def score(self, features: PatchFeatures, queries: Queries) -> Tensor:
        """Return the scores of every cell for every query, float (B, Q, gh, gw); here the cosine."""
        tokens = nn.functional.normalize(features.tokens, dim=-1)
        cosines = tokens @ queries.embeddings.T  # (B, N, Q)
        return cosines.transpose(1, 2).unflatten(2, features.grid)

    def window_scores(self, scores: Tensor, size: tuple[int, int], pad: Pad) -> Tensor:
        """Enlarge cell scores to the pixels of the window, which are averaged where windows overlap.

        It must treat each query independently, because it may be called with some queries at a time.

        Args:
            scores: float (B, Q, gh, gw).
            size: (h, w) of the window without padding.
            pad: Padding of the window, which is removed.

        Returns:
            float (B, Q, h, w).
        """
        return uncut(scores, size, pad)

    def adjust(self, scores: Tensor, queries: Queries, image: WindowedImage) -> Tensor:
        """Change the merged scores of an image, all queries at once; here they are unchanged.

        The result is enlarged to the original size. It may be a coarser map, and it may have one row per class instead
        of one per query if the method defines ``probabilities``. It must depend on this image only.

        Args:
            scores: float32 (Q, h, w), mean over the windows, at the size of the resized image; may be changed in place.
            queries: The queries.
            image: The resized image, its original size, regions, windows, and the context of ``encode_image``.

        Returns:
            float (Q, h', w').
        """
        return scores

    @property
    def scores_cosines(self) -> bool:
        """Return whether ``score`` gives cosines with the queries, which ``refine = "tlp"`` propagates."""
        return type(self).score is Method.score

    @property
    def best_query_wins(self) -> bool:
        """Return whether a pixel gets the class of its best query, so that most queries need not be enlarged."""
        return type(self).probabilities is Method.probabilities

    def probabilities(self, scores: Tensor, queries: Queries, decision: Decision) -> Tensor:
        """Convert merged scores to class probabilities; the label is the class with the largest one.

        Args:
            scores: float (Q, H, W) at the original size, or a tile of it if the method is ``pixelwise``.
            queries: The queries.
            decision: Scale, threshold and background.

        Returns:
            float (C, H, W).
        """
        return class_probabilities(scores, queries.class_index, decision, queries.classes[-1] + 1)

    def refine_labels(self, labels: Tensor, regions: Tensor | None) -> Tensor:
        """Refine the label map as a last step.

        Args:
            labels: int64 (H, W), at the original size.
            regions: int64 (H, W), the region map, None if the method needs none.

        Returns:
            int64 (H, W).
        """
        return labels
