"""The reference set of ReME in the registry of backbones: no network, but what segments are looked up in."""

from __future__ import annotations

from ovbench.backbones.base import Backbone, Loaded
from ovbench.methods.reme.reference_store import find_set, load_set


class ReferenceSet(Backbone):
    """A folder of `ovbench reference build`, or "mini"."""

    is_setting = True

    @property
    def label(self) -> str:
        return "a reference set"

    @property
    def advice(self) -> str:
        return "--set reference=FOLDER, from: ovbench reference build"

    def load(self, spec: str) -> Loaded:
        stored = load_set(find_set(spec))
        return Loaded(stored.bank, spec, stored.sha256)

    def missing(self, spec: str) -> list[str]:
        find_set(spec)
        return []

    def names(self) -> list[str]:
        return ["mini"]


REFERENCE = ReferenceSet("reference", "the reference set of ReME: embeddings of segments and of their labels")
