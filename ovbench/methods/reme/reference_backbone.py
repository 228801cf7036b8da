"""The reference set of ReME as a backbone: it is not a network, but the bank in which segments are looked up."""

from __future__ import annotations

from ovbench.backbones.base import Backbone, Loaded
from ovbench.config.backbone_spec import MINI


class ReferenceSet(Backbone):
    """A folder of `ovbench reference build`, or "mini"."""

    is_setting = True

    @property
    def label(self) -> str:
        """Its name in messages."""
        return "a reference set"

    @property
    def advice(self) -> str:
        """How a user chooses one, for messages."""
        return "--set reference=FOLDER, from: ovbench reference build"

    def load(self, spec: str) -> Loaded:
        """Load the bank of a set."""
        from ovbench.methods.reme.reference_store import load_set
        from ovbench.methods.reme.set_folder import find_set

        stored = load_set(find_set(spec))
        return Loaded(stored.bank, spec, stored.sha256)

    def built_here(self, spec: str) -> bool:
        """Return whether the set is built on first use."""
        return spec.partition("?")[0] == MINI

    def missing(self, spec: str) -> list[str]:
        """Check that the set exists; "mini" is built when it is loaded."""
        if spec != MINI:
            from ovbench.methods.reme.set_folder import find_set

            find_set(spec)
        return []

    def names(self) -> list[str]:
        """Return the one set that can be built without data."""
        return [MINI]


REFERENCE = ReferenceSet("reference", "the reference set of ReME: embeddings of segments and of their labels")
