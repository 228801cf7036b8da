"""Entries of the registry BACKBONES, and the frozen networks that they load.

Commands look at names without loading a network: torch is imported in the functions that need it.
"""

from __future__ import annotations

import functools
import hashlib
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from ovbench.backbones.hub import Source
from ovbench.backbones.preprocess import Normalisation
from ovbench.config.backbone_spec import MINI, BackboneSpec, options_over, parse_spec, replace_spec
from ovbench.config.published_weights import published
from ovbench.utils.errors import InputError, OvbenchError, first_line, last_line
from ovbench.utils.registry import HERE

if TYPE_CHECKING:
    from torch import nn

    from ovbench.backbones.text import TextEncoder

USUAL_ACTIVATION = "gelu"
MINI_PATCH = 8


class Use(NamedTuple):
    """How a network is used, beside its tensors.

    Attributes:
        normalisation: Normalisation of its input; None if its input is not an image.
        activation: "gelu" or "quick_gelu".
        temperature: Factor of the cosines, CLIP's exp(logit_scale); None if the checkpoint has none.
        patch: Side of a patch in pixels.
        interpolation: Interpolation with which its publisher resizes images; "" if unknown.
    """

    normalisation: Normalisation | None = None
    activation: str = USUAL_ACTIVATION
    temperature: float | None = None
    patch: int | None = None
    interpolation: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the entry for a record."""
        mean, std = self.normalisation or (None, None)
        return {
            "activation": self.activation, "temperature": self.temperature, "patch": self.patch,
            "interpolation": self.interpolation, "mean": mean and list(mean), "std": std and list(std),
        }  # fmt: skip

    def unusual(self, usual: Normalisation | None) -> dict[str, Any]:
        """Return the settings that differ from most networks of its type; they are part of its hash."""
        found: dict[str, Any] = {}
        if self.activation != USUAL_ACTIVATION:
            found["activation"] = self.activation
        if self.normalisation is not None and (usual is None or not self.normalisation.equals(usual)):
            found["normalisation"] = self.normalisation
        return found


class Loaded(NamedTuple):
    """A loaded backbone.

    Attributes:
        vision: The network, or any other module that a method names in its needs.
        spec: The name that it was loaded by.
        sha256: Hash of its tensors and of `Use.unusual`; it identifies the weights in records and caches.
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
            use: How it is used; its ``normalisation`` is required if a method gives it windows.
        """
        from torch import nn

        use = use or Use()
        parts = {"vision": vision.eval().requires_grad_(False)}
        if isinstance(getattr(text, "model", None), nn.Module):
            parts["text"] = text.model.eval().requires_grad_(False)
        return cls(vision, spec, network_hash(nn.ModuleDict(parts), use, None), text, use)


def network_hash(model: nn.Module, use: Use, usual: Normalisation | None) -> str:
    """Return the sha256 over the tensors of a network and what is unusual in its use (`Use.unusual`).

    The usual adds nothing, so that hashes in older records stay valid.

    Args:
        model: The network.
        use: How it is used.
        usual: The normalisation of most networks of its type.
    """
    from ovbench.backbones.checkpoint import tensor_hash

    digest, unusual = tensor_hash(model), use.unusual(usual)
    return hashlib.sha256(f"{digest} {json.dumps(unusual, sort_keys=True)}".encode()).hexdigest() if unusual else digest


@functools.lru_cache(maxsize=32)
def _sha256_of(path: Path, size: int, mtime_ns: int) -> str:
    from ovbench.backbones.checkpoint import file_sha256

    return file_sha256(path)


def _network_of(name: str) -> str:
    """Return the network of a name without its tag, and without what the loader finds out from the file."""
    return re.sub(r"[/.].*|-quickgelu|_qkvb", "", name)


class Backbone:
    """A type of frozen network, by its name in the registry; subclasses override at least ``load``.

    Attributes:
        title: Description in one line.
        usual: Normalisation of most networks of this type.
        is_setting: Whether ``--set NAME=...`` also chooses it, like a parameter of the method.
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
        """How a user chooses one, for messages."""
        return f"--weights {self.name}=MODEL"

    def load(self, spec: str) -> Loaded:
        """Load a network, float32, frozen, on the CPU.

        Args:
            spec: The text after ``--weights NAME=`` or in ``[backbones]`` of a settings file.

        Raises:
            UsageError: If the spec is unknown.
            InputError: If the weights are missing and cannot be downloaded, or do not fit.
        """
        raise NotImplementedError(f"{type(self).__name__} has no load")

    def built_here(self, spec: str) -> bool:
        """Return whether this machine computes the weights, so their last bits may differ between machines."""
        return False

    def missing(self, spec: str) -> list[str]:
        """Return the files that must be downloaded, as "FILE of REPOSITORY".

        Raises:
            UsageError: If the spec is unknown.
            InputError: If a file is missing and cannot be downloaded, or no method can use this network.
        """
        return []

    def source(self, spec: str) -> Source | None:
        """Return where the weights are downloaded from; None for a file of the user and for what is not downloaded."""
        return None

    def normalisation(self, spec: str) -> Normalisation | None:
        """Return the normalisation of the input without loading the network; None if it sees no image or is unknown."""
        return None

    def patch(self, spec: str) -> int | None:
        """Return the side of a patch in pixels without loading the network; None if its name does not tell it."""
        return None

    def replace_spec(self, given: str, configured: str | None) -> str | None:
        """Return the spec that results if ``given`` replaces the configured one; None for options without a spec."""
        return None if given.startswith("?") and not configured else options_over(given, configured)

    def same(self, one: str, other: str) -> bool:
        """Return whether two specs have the same weights."""
        return one == other

    def official(self, spec: str) -> str:
        """Return the name of the published weights that a file of the user is, by its hash; "" for anything else."""
        return ""

    def names(self) -> list[str]:
        """Return the known short names."""
        return []


class NamedWeights(Backbone):
    """A backbone whose specs follow `ovbench.config.backbone_spec`, with short names in configs/weights.toml."""

    def __init__(self, name: str, title: str = "", table: str = ""):
        super().__init__(name, title)
        self.table = table or name

    def parse(self, spec: str) -> BackboneSpec:
        """Split a spec into architecture, tag and file."""
        return parse_spec(self.name, spec, self.table)

    def replace_spec(self, given: str, configured: str | None) -> str | None:
        """Return the spec that results; a file alone keeps the configured architecture."""
        return replace_spec(self.name, configured, given, self.table)

    def patch(self, spec: str) -> int | None:
        """Return the patch of a ViT's name, such as ``ViT-B-16`` or ``vit_base_patch8_224``."""
        name = self.parse(spec).architecture
        found = re.search(r"ViT-[A-Za-z0-9]+-(\d+)|patch(\d+)", name)
        if found is None:
            return MINI_PATCH if name == MINI else None
        return int(found[1] or found[2])

    def same(self, one: str, other: str) -> bool:
        """Return whether two specs have the same weights, also if one is a short name."""
        return self.parse(one) == self.parse(other)

    def official(self, spec: str) -> str:
        """Return the published weights with the hash of the file, if the named architecture is theirs."""
        parsed, known = self.parse(spec), published("hashes").get(self.table, {})
        if parsed.file is None or not known or not parsed.file.is_file():
            return ""
        facts = parsed.file.stat()
        digest = _sha256_of(parsed.file, facts.st_size, facts.st_mtime_ns)
        found = next((name for start, name in known.items() if digest.startswith(start)), "")
        return found if _network_of(found) == _network_of(parsed.architecture) else ""

    def published_source(self, parsed: BackboneSpec, *files: str) -> Source | None:
        """Return where published weights come from, known without the library that loads them; None for others."""
        spec = f"{parsed.architecture}/{parsed.tag}" if parsed.tag else parsed.architecture
        hub = next((entry.get("hub") for entry in published(self.table).values() if entry.get("spec") == spec), None)
        return Source(hub, files) if hub and not parsed.file else None

    def names(self) -> list[str]:
        """Return the short names of configs/weights.toml."""
        return list(published(self.table))


class PluginBackbone(Backbone):
    """A backbone defined by a plug-in or the file of a method; errors of its code become one sentence."""

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
        """Return the missing files, from the plug-in's function ``missing`` if it has one."""
        return list(self._run(self._brought.missing, spec)) if hasattr(self._brought, "missing") else []

    def normalisation(self, spec: str) -> Normalisation | None:
        """Return the normalisation of the plug-in, which is a constant or a function of the spec."""
        own = getattr(self._brought, "normalisation", None)
        return self._run(own, spec) if callable(own) else own

    def _run(self, function: Callable[[str], Any], spec: str) -> Any:
        try:
            return function(spec)
        except OvbenchError:
            raise
        except Exception as error:  # its code may raise anything
            raise InputError(
                f'the backbone "{self.name}" failed: {type(error).__name__}: {first_line(error)}',
                where=last_line(error, skip=HERE) or f"{self.name}={spec}",
            ) from error


def as_backbone(found: Any, name: str) -> Backbone:
    """Return the backbone for an object of a plug-in: a `Backbone`, an object with ``load``, or ``load`` itself.

    Raises:
        TypeError: If it is none of these.
    """
    if isinstance(found, type):
        found = found(name) if issubclass(found, Backbone) else found()
    if isinstance(found, Backbone):
        return found
    load = getattr(found, "load", found)
    if not callable(load):
        raise TypeError(f"{load!r} is not a backbone: an object with load(spec) and missing(spec), or load itself")
    return PluginBackbone(name, load, found)
