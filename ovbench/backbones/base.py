"""What stands in the registry BACKBONES, and what it loads: a frozen network and how it is used."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import nn

from ovbench.backbones.checkpoint import tensor_hash
from ovbench.backbones.preprocess import Normalisation
from ovbench.config.backbone_spec import BackboneSpec, lay_over, options_over, parse_spec
from ovbench.config.published_weights import published
from ovbench.utils.errors import InputError, OvbenchError, first_line, last_line
from ovbench.utils.registry import HERE

if TYPE_CHECKING:
    from ovbench.backbones.text import TextEncoder

USUAL_ACTIVATION = "gelu"


class Use(NamedTuple):
    """How a network is used, beside its tensors.

    Attributes:
        normalisation: Of its input; None if it sees no image.
        activation: "gelu" or "quick_gelu".
        temperature: What the checkpoint multiplies cosines with, CLIP's exp(logit_scale); None if it has none.
        patch: Side of a patch in pixels.
        interpolation: The one that its publisher resizes images with; "" if unknown.
    """

    normalisation: Normalisation | None = None
    activation: str = USUAL_ACTIVATION
    temperature: float | None = None
    patch: int | None = None
    interpolation: str = ""

    def unusual(self, usual: Normalisation | None) -> dict[str, Any]:
        """Return what differs from most networks of its kind; it is part of the hash, as no tensor tells it."""
        found: dict[str, Any] = {}
        if self.activation != USUAL_ACTIVATION:
            found["activation"] = self.activation
        if self.normalisation is not None and (usual is None or not self.normalisation.equals(usual)):
            found["normalisation"] = self.normalisation
        return found


class Loaded(NamedTuple):
    """A backbone and where it came from.

    Attributes:
        vision: The network, or whatever else a method names in its needs, as a module.
        spec: The name that it was loaded by.
        sha256: Hash of its tensors and of how it is used; records and caches know it by this.
        text: Its text tower, if it has one.
    """

    vision: nn.Module
    spec: str
    sha256: str
    text: TextEncoder | None = None
    use: Use = Use()

    @classmethod
    def of(cls, vision: nn.Module, spec: str, *, text: TextEncoder | None = None, use: Use | None = None) -> Loaded:
        """Freeze a network and compute its hash, for backbones of plug-ins.

        Args:
            vision: The network, float32, on the CPU.
            spec: The name that it was loaded by.
            text: Its text tower.
            use: How it is used; ``normalisation`` must be given if a method passes it windows.
        """
        use = use or Use()
        parts = {"vision": vision.eval().requires_grad_(False)}
        if isinstance(getattr(text, "model", None), nn.Module):
            parts["text"] = text.model.eval().requires_grad_(False)
        return cls(vision, spec, network_hash(nn.ModuleDict(parts), use, None), text, use)


def network_hash(model: nn.Module, use: Use, usual: Normalisation | None) -> str:
    """Return the sha256 over the tensors of a network and what is unusual in its use (`Use.unusual`).

    The usual adds nothing, so that hashes in older records stay valid.
    """
    digest, unusual = tensor_hash(model), use.unusual(usual)
    return hashlib.sha256(f"{digest} {json.dumps(unusual, sort_keys=True)}".encode()).hexdigest() if unusual else digest


class Backbone:
    """A kind of frozen network by its name in the registry. Override ``load`` at least.

    Attributes:
        title: One line on what it is.
        usual: The normalisation of most networks of the kind.
        is_setting: Also ``--set NAME=...`` gives it, like a parameter of the method.
    """

    title: str = ""
    usual: Normalisation | None = None
    is_setting: bool = False

    def __init__(self, name: str, title: str = ""):
        self.name, self.title = name, title or self.title

    @property
    def label(self) -> str:
        """Its name in messages."""
        return f'the backbone "{self.name}"'

    @property
    def advice(self) -> str:
        """How a user gives one."""
        return f"--weights {self.name}=MODEL"

    def load(self, spec: str) -> Loaded:
        """Load a network, float32, frozen, on the CPU.

        Args:
            spec: The text after ``--weights NAME=`` or in ``[backbones]`` of a settings file.

        Raises:
            UsageError: If the spec names nothing known.
            InputError: If the weights are neither here nor reachable, or do not fit.
        """
        raise NotImplementedError(f"{type(self).__name__} has no load")

    def built_here(self, spec: str) -> bool:
        """Return whether this machine computes the weights, so that another one may get other last bits."""
        return False

    def missing(self, spec: str) -> list[str]:
        """Return the files that are not on this machine and will be downloaded, as "FILE of REPOSITORY".

        Raises:
            UsageError: If the spec names nothing known.
            InputError: If a file is not here and cannot be downloaded, or no method can use this network.
        """
        return []

    def normalisation(self, spec: str) -> Normalisation | None:
        """Return the normalisation of the input without loading the network; None if it sees no image or is unknown."""
        return None

    def lay_over(self, given: str, configured: str | None) -> str | None:
        """Return the spec that results if ``given`` replaces the configured one; None if it is options of none."""
        return None if given.startswith("?") and not configured else options_over(given, configured)

    def same(self, one: str, other: str) -> bool:
        """Return whether two specs name the same weights."""
        return one == other

    def names(self) -> list[str]:
        """Return the short names that it knows."""
        return []


class NamedWeights(Backbone):
    """A backbone whose specs follow `ovbench.config.backbone_spec`, with short names in configs/weights.toml."""

    def __init__(self, name: str, title: str = "", table: str = ""):
        super().__init__(name, title)
        self.table = table or name

    def parse(self, spec: str) -> BackboneSpec:
        """Split a spec into architecture, tag and file."""
        return parse_spec(self.name, spec, self.table)

    def lay_over(self, given: str, configured: str | None) -> str | None:
        """Return the spec that results; a file alone keeps the configured architecture."""
        return lay_over(self.name, configured, given, self.table)

    def same(self, one: str, other: str) -> bool:
        """Return whether two specs name the same weights, one of them perhaps by a short name."""
        return self.parse(one) == self.parse(other)

    def names(self) -> list[str]:
        """Return the short names of configs/weights.toml."""
        return list(published(self.table))


class PluginBackbone(Backbone):
    """A backbone that a plug-in or the file of a method brings; mistakes in its code become one sentence."""

    def __init__(self, name: str, load: Callable[[str], Loaded], brought: Any = None):
        doc = (load.__doc__ or "").strip().splitlines()
        super().__init__(name, getattr(brought, "title", "") or (doc[0] if doc else "of a plug-in"))
        self._load, self._brought = load, brought

    def load(self, spec: str) -> Loaded:
        """Load the network by the plug-in's function and check what it returns."""
        found = self._run(self._load, spec)
        if not isinstance(found, Loaded):
            raise InputError(
                f'the backbone "{self.name}" gives an object of {type(found).__name__}',
                where=f"{self.name}={spec}",
                fix="return Loaded.of(network, spec, ...) of ovbench.backbones.base from its load",
            )
        return found

    def missing(self, spec: str) -> list[str]:
        """Return the missing files that the plug-in names, none if it has no function for it."""
        return list(self._run(self._brought.missing, spec)) if hasattr(self._brought, "missing") else []

    def normalisation(self, spec: str) -> Normalisation | None:
        """Return the normalisation that the plug-in gives as a function of the spec or as a constant."""
        own = getattr(self._brought, "normalisation", None)
        return self._run(own, spec) if callable(own) else own

    def _run(self, function: Callable[[str], Any], spec: str) -> Any:
        try:
            return function(spec)
        except OvbenchError:
            raise
        except Exception as error:  # whatever its code raises is its fault
            raise InputError(
                f'the backbone "{self.name}" failed: {type(error).__name__}: {first_line(error)}',
                where=last_line(error, skip=HERE) or f"{self.name}={spec}",
            ) from error


def as_backbone(found: Any, name: str) -> Backbone:
    """Return the registry's entry for what a plug-in names: a `Backbone`, an object with ``load``, or ``load`` itself.

    Raises:
        TypeError: If it is none of these.
    """
    if isinstance(found, type):
        found = found(name) if issubclass(found, Backbone) else found()
    if isinstance(found, Backbone):
        return found
    load = getattr(found, "load", found)
    if not callable(load):
        raise TypeError(f"{load!r} is no backbone: an object with load(spec) and missing(spec), or load itself")
    return PluginBackbone(name, load, found)
